//! From a PUBLISH on a telemetry topic to the record that Kafka will hold: an event or a dead letter.

use std::sync::Arc;

use access::{Action, Kind};
use bus::Stream;
use bytes::Bytes;
use decode::Arrival;
use event::v1::DeadLetter;
use event::{SessionPrefix, encode_heartbeat};
use mqtt::reason;
use prost::Message;

use crate::ledger::{Minute, MinuteNumber};
use crate::session::Session;
use crate::unacknowledged::Became;
use crate::{Shared, now};

/// Room for the event of a full heartbeat; a larger one grows.
const EVENT_BYTES: usize = 384;

/// What stands on Kafka for one PUBLISH.
pub(crate) struct Record {
    pub stream: Stream,
    /// Records of one key keep their order.
    pub key: Arc<str>,
    pub payload: Vec<u8>,
    /// What its PUBACK or PUBREC will say.
    pub code: u8,
    pub became: Became,
    /// What it is counted in. Held until Kafka has reported it.
    pub minute: Option<Arc<Minute>>,
    pub number: MinuteNumber,
}

impl Record {
    /// What it takes of a window.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len() + self.key.len()
    }
}

/// The topic is not this client's.
#[derive(Debug, thiserror::Error)]
#[error("{client:?} may not publish on {topic:?}")]
pub(crate) struct NotAuthorized {
    client: event::DeviceId,
    topic: String,
}

impl NotAuthorized {
    pub(crate) fn new(client: &event::DeviceId, topic: &str) -> Self {
        // As much of a topic as a log line wants.
        Self { client: client.clone(), topic: topic.chars().take(120).collect() }
    }
}

/// What a session needs to know for each of its heartbeats.
pub(crate) struct Telemetry {
    key: Arc<str>,
    /// What all its events begin with, encoded.
    prefix: SessionPrefix,
    /// Whether the rules let this device publish its heartbeats, as of that state of the rules.
    allowed: (u64, bool),
}

impl Telemetry {
    pub(crate) fn of(session: &Session, shared: &Shared) -> Self {
        let prefix = SessionPrefix::new(&session.device_id, &shared.node_id, shared.epoch, session.id);
        // A device's key is its id, and nobody else has telemetry.
        Self { key: session.key.clone(), prefix, allowed: (u64::MAX, false) }
    }

    /// Whether this is the device's own topic, and the rules let it publish there. Whatever the rules say, nobody
    /// publishes as another.
    pub(crate) fn may_publish(
        &mut self,
        device_id: &str,
        topic: &str,
        session: &Session,
        shared: &Shared,
    ) -> bool {
        let principal = &session.grant.principal;
        if principal.kind != Kind::Device || device_id != session.device_id.as_str() {
            return false;
        }
        let generation = shared.access.generation();
        if self.allowed.0 != generation {
            self.allowed = (generation, shared.access.allows(principal, Action::Publish, topic));
        }
        self.allowed.1
    }

    /// Makes the record of a payload.
    pub(crate) fn record(&self, payload: &[u8], topic: &str, session: &Session, shared: &Shared) -> Record {
        let received_at = now();
        let (minute, number) = (shared.ledger.minute(received_at), MinuteNumber::of(received_at));
        let arrival =
            Arrival { at: received_at, session_id: session.id, message: session.traffic.messages_in };
        match decode::heartbeat(payload, &arrival, &shared.clock) {
            Ok(heartbeat) => {
                let mut event = Vec::with_capacity(EVENT_BYTES);
                encode_heartbeat(&self.prefix, received_at, &session.traffic, &heartbeat, &mut event);
                Record {
                    stream: Stream::Events,
                    key: self.key.clone(),
                    payload: event,
                    code: reason::SUCCESS,
                    became: Became::Heartbeat,
                    minute,
                    number,
                }
            }
            Err(rejection) => {
                shared.meter.rejected(rejection.reason);
                let letter = DeadLetter {
                    device_id: session.device_id.as_str().to_owned(),
                    received_at_ms: received_at.0,
                    node_id: shared.node_id.0.as_ref().to_owned(),
                    epoch: shared.epoch,
                    session_id: session.id_bytes(),
                    topic: topic.to_owned(),
                    payload: Bytes::copy_from_slice(payload),
                    reason: rejection.reason.into(),
                    detail: rejection.detail,
                };
                Record {
                    stream: Stream::DeadLetters,
                    key: self.key.clone(),
                    payload: letter.encode_to_vec(),
                    code: reason::PAYLOAD_FORMAT_INVALID,
                    became: Became::DeadLetter,
                    minute,
                    number,
                }
            }
        }
    }
}
