//! What the gateway counts. The handles are made once: counting on the acknowledged path is one atomic addition.

use event::v1::{DisconnectReason, RejectReason};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The gateway's counters, by name.
pub(crate) struct Meter {
    /// Connections that stand, the ones still in their handshake included.
    pub connections: Gauge,
    /// Sessions that stand.
    pub sessions: Gauge,
    /// PUBLISH packets taken in.
    pub publishes: Counter,
    /// Heartbeats that Kafka holds and whose PUBACK was made (QoS 1).
    pub acknowledged: Counter,
    /// Payloads that stand as dead letters and whose PUBACK was made (QoS 1).
    pub acknowledged_dead_letters: Counter,
    /// Publishes whose delivery failed: no PUBACK, or one with an error.
    pub unacknowledged: Counter,
    /// QoS 0 publishes dropped because the window was full.
    pub shed: Counter,
    /// How often a connection had to wait for room in the window of the process.
    pub window_full: Counter,
    /// From PUBLISH read to PUBACK made, whatever it says.
    pub puback: Histogram,
    /// Presence events that Kafka did not take at once and that were sent again.
    pub presence_repeated: Counter,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            connections: gauge!("fleetpulse_gateway_connections"),
            sessions: gauge!("fleetpulse_gateway_sessions"),
            publishes: counter!("fleetpulse_gateway_publishes_total"),
            acknowledged: counter!("fleetpulse_gateway_acknowledged_total", "kind" => "heartbeat"),
            acknowledged_dead_letters: counter!("fleetpulse_gateway_acknowledged_total", "kind" => "dead_letter"),
            unacknowledged: counter!("fleetpulse_gateway_unacknowledged_total"),
            shed: counter!("fleetpulse_gateway_shed_total", "reason" => "window_full"),
            window_full: counter!("fleetpulse_gateway_window_full_total"),
            puback: histogram!("fleetpulse_gateway_puback_seconds"),
            presence_repeated: counter!("fleetpulse_gateway_presence_repeated_total"),
        }
    }

    /// A connection was refused before it became a session.
    pub(crate) fn refused(&self, reason: &'static str) {
        counter!("fleetpulse_gateway_refused_total", "reason" => reason).increment(1);
    }

    /// A session ended.
    pub(crate) fn ended(&self, reason: DisconnectReason) {
        counter!("fleetpulse_gateway_disconnects_total", "reason" => event::disconnect_reason_name(reason))
            .increment(1);
    }

    /// A payload was rejected.
    pub(crate) fn rejected(&self, reason: RejectReason) {
        counter!("fleetpulse_gateway_rejected_total", "reason" => event::reject_reason_name(reason))
            .increment(1);
    }
}
