//! What is routed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqtt::Qos;

/// One message. Shared by all queues it stands in.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it was published.
    pub topic: Arc<str>,
    /// What was published.
    pub payload: Bytes,
    /// With which QoS it was published.
    pub qos: Qos,
    /// Whether it was published to be kept.
    pub retain: bool,
    /// Properties that are passed on, encoded.
    pub properties: Bytes,
    /// When it is no longer good.
    pub expires_at: Option<Instant>,
    /// Names it to whoever wants to know when a client has taken it: a command.
    pub tag: Option<u128>,
}

/// What a message costs beyond its own bytes: its heads, and allocator overhead.
const OVERHEAD_BYTES: usize = 200;

impl Message {
    /// What it takes of a bound in bytes. Its place in a queue is another matter.
    pub(crate) fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len() + OVERHEAD_BYTES
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What is published when a client is lost.
#[derive(Clone, Debug)]
pub struct Will {
    /// The message; its own expiry counts from its publication.
    pub message: Message,
    /// How long after the connection's end.
    pub delay: Duration,
    /// How long it is good for once published.
    pub expiry: Option<Duration>,
}

impl Will {
    pub(crate) fn into_message(self, now: Instant) -> Message {
        Message { expires_at: self.expiry.and_then(|span| now.checked_add(span)), ..self.message }
    }
}
