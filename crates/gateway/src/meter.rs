//! What the gateway counts. The handles are made once: counting on the acknowledged path is one atomic addition.

use event::v1::{DisconnectReason, RejectReason};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The gateway's counters, by name. All clones count the same.
#[derive(Clone)]
pub(crate) struct Meter {
    /// Connections that stand, the ones still in their handshake included.
    pub connections: Gauge,
    /// How often a new connection had to wait because they come faster than they may.
    pub connects_delayed: Counter,
    /// Sessions that stand.
    pub sessions: Gauge,
    /// PUBLISH packets taken in.
    pub publishes: Counter,
    /// Heartbeats that Kafka holds and whose PUBACK was made (QoS 1).
    pub acknowledged: Counter,
    /// Payloads that stand as dead letters and whose PUBACK was made (QoS 1).
    pub acknowledged_dead_letters: Counter,
    /// Commands that Kafka holds and whose PUBACK was made (QoS 1 and 2).
    pub acknowledged_commands: Counter,
    /// Messages that went to subscribers of this node, or had none, and were acknowledged (QoS 1 and 2).
    pub acknowledged_messages: Counter,
    /// Publishes on a topic that is not the client's.
    pub publish_refused: Counter,
    /// How often a client was slowed because it published too many messages.
    pub slowed_messages: Counter,
    /// How often a client was slowed because it published too many bytes.
    pub slowed_bytes: Counter,
    /// Messages sent to clients.
    pub sent: Counter,
    /// Messages not sent to a client because they are larger than it takes.
    pub too_large_for_client: Counter,
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

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            connections: gauge!("fleetpulse_gateway_connections"),
            connects_delayed: counter!("fleetpulse_gateway_connects_delayed_total"),
            sessions: gauge!("fleetpulse_gateway_sessions"),
            publishes: counter!("fleetpulse_gateway_publishes_total"),
            acknowledged: counter!("fleetpulse_gateway_acknowledged_total", "kind" => "heartbeat"),
            acknowledged_dead_letters: counter!("fleetpulse_gateway_acknowledged_total", "kind" => "dead_letter"),
            acknowledged_commands: counter!("fleetpulse_gateway_acknowledged_total", "kind" => "command"),
            acknowledged_messages: counter!("fleetpulse_gateway_acknowledged_total", "kind" => "message"),
            publish_refused: counter!("fleetpulse_gateway_publish_refused_total"),
            slowed_messages: counter!("fleetpulse_gateway_slowed_total", "limit" => "messages"),
            slowed_bytes: counter!("fleetpulse_gateway_slowed_total", "limit" => "bytes"),
            sent: counter!("fleetpulse_gateway_sent_total"),
            too_large_for_client: counter!("fleetpulse_gateway_unsent_total", "reason" => "too_large_for_client"),
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

    /// A TLS handshake was completed.
    pub(crate) fn tls_handshake(&self, version: &'static str, resumed: bool) {
        let kind = if resumed { "resumed" } else { "full" };
        counter!("fleetpulse_gateway_tls_handshakes_total", "version" => version, "kind" => kind)
            .increment(1);
    }

    /// A session ended.
    pub(crate) fn ended(&self, reason: DisconnectReason) {
        counter!("fleetpulse_gateway_disconnects_total", "reason" => event::disconnect_reason_name(reason))
            .increment(1);
    }

    /// A filter of a SUBSCRIBE was refused.
    pub(crate) fn subscribe_refused(&self, reason: &'static str) {
        counter!("fleetpulse_gateway_subscribe_refused_total", "reason" => reason).increment(1);
    }

    /// A payload was rejected.
    pub(crate) fn rejected(&self, reason: RejectReason) {
        counter!("fleetpulse_gateway_rejected_total", "reason" => event::reject_reason_name(reason))
            .increment(1);
    }
}
