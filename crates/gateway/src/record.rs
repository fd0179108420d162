//! From a PUBLISH to the record that Kafka will hold: an event, a dead letter, or a refusal.

use bus::Stream;
use decode::{Arrival, Topic};
use event::v1::{DeadLetter, event::Kind};
use prost::Message;

use crate::mqtt::{Ack, Publish};
use crate::session::Session;
use crate::{Shared, now};

/// What stands on Kafka for one PUBLISH.
pub(crate) struct Record {
    pub stream: Stream,
    pub payload: Vec<u8>,
    /// What its PUBACK will say.
    pub ack: Ack,
}

/// The topic is not this device's.
#[derive(Debug, thiserror::Error)]
#[error("device {device_id:?} may not publish on {topic:?}")]
pub(crate) struct NotAuthorized {
    device_id: event::DeviceId,
    topic: String,
}

/// Makes the record of a PUBLISH.
pub(crate) fn of(publish: &Publish, session: &Session, shared: &Shared) -> Result<Record, NotAuthorized> {
    match decode::topic(&publish.topic) {
        Topic::Heartbeat { device_id } if device_id == session.device_id.as_str() => {}
        Topic::Heartbeat { .. } | Topic::Other => {
            return Err(NotAuthorized {
                device_id: session.device_id.clone(),
                topic: shortened(&publish.topic),
            });
        }
    }
    let received_at = now();
    let arrival = Arrival { at: received_at, session_id: session.id, message: session.traffic.messages_in };
    match decode::heartbeat(&publish.payload, &arrival, &shared.clock) {
        Ok(heartbeat) => {
            let event = session.event(shared, received_at, Kind::Heartbeat(heartbeat));
            Ok(Record { stream: Stream::Events, payload: event.encode_to_vec(), ack: Ack::Stored })
        }
        Err(rejection) => {
            shared.meter.rejected(rejection.reason);
            let letter = DeadLetter {
                device_id: session.device_id.as_str().to_owned(),
                received_at_ms: received_at.0,
                node_id: shared.node_id.0.as_ref().to_owned(),
                epoch: shared.epoch,
                session_id: session.id_bytes(),
                topic: publish.topic.clone(),
                payload: publish.payload.clone(),
                reason: rejection.reason.into(),
                detail: rejection.detail,
            };
            Ok(Record {
                stream: Stream::DeadLetters,
                payload: letter.encode_to_vec(),
                ack: Ack::StoredAsDeadLetter,
            })
        }
    }
}

/// As much of a topic as a log line wants.
fn shortened(topic: &str) -> String {
    topic.chars().take(120).collect()
}
