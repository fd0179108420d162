//! Kafka, as fleetpulse needs it. No other crate sees `rdkafka`.
//!
//! - [`Producer`]: idempotent, `acks=all`. Nothing is sent without a [`Permit`] of the [`Window`], which is
//!   counted in messages and in bytes, so what waits for Kafka is bounded however long Kafka hangs. The
//!   [`Delivery`] of a record resolves with Kafka's delivery report; dropping it, or the producer, never
//!   counts as delivered. Records of one key keep their order.
//! - [`Consumer`]: a member of the writer group, driven by one thread. It hands out records, assignments and
//!   revocations in the order in which they happen, and commits offsets with a note ([`Commit`]): the pending
//!   range that makes an insert repeatable.
//! - [`Broadcast`]: the commands topic, read whole by every node, from some time ago.
//! - [`Lookup`]: single records, read again by whoever asks what became of them.
//! - [`History`]: what the topics held within a span of time, read again as far as the writers' group has concluded it.
//! - [`topics`]: creates and checks the topics.
//!
//! What it does not do: decide what a record means, retry on its own after the delivery deadline, or keep
//! anything on disk.

mod broadcast;
mod committer;
mod config;
mod consumer;
mod history;
mod lookup;
mod probe;
mod producer;
pub mod topics;
mod window;

pub use broadcast::{Broadcast, Heard};
pub use config::{Compression, Config};
pub use consumer::{
    Assigned, Commit, CommitError, ConsumeError, Consumer, Polled, Record, Revocation, Start,
};
pub use history::{History, Reread, Span};
pub use lookup::{LookedUp, Lookup, LookupError};
pub use probe::watch;
pub use producer::{Broken, Delivery, DeliveryError, Flushed, Producer, SendError, Stream, Witness};
pub use window::{Permit, Window};

/// Number of a partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub i32);

/// Number of a record in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub i64);

/// One partition of one of the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Which topic.
    pub stream: Stream,
    /// Which partition of it.
    pub partition: Partition,
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.stream.name(), self.partition.0)
    }
}

/// A Kafka client that could not be made, with the settings to look at.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a kafka client for {brokers} (section `kafka`)")]
pub struct ClientError {
    brokers: String,
    #[source]
    source: rdkafka::error::KafkaError,
}
