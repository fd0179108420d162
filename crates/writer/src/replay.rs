//! Brings back what was lost: from Kafka, where the records still stand though their rows are gone ([`from_kafka`]), or from the dead
//! letters, where a fix made heartbeats of what was none ([`from_dead_letters`]).
//!
//! - Nothing is doubled: every record is asked for first, by its own number and, as a heartbeat may stand under another record, by its
//!   key; only what stands nowhere is inserted. What stands is brought into the views again.
//! - Nothing that the writers have under way is touched: reading ends where their group has committed.
//! - What was consumed stays as it was counted: rows of `batches` are neither believed nor written.
//! - A dry run asks the same questions and changes nothing.
//!
//! Memory is bounded by three chunks of 20,000 records or 16 MiB: one is read, one waits, one is brought back. Two replays of the same
//! span at once may double rows until they are merged; a reader with `FINAL` never sees it.

mod kafka;
mod letters;

use std::collections::BTreeMap;
use std::time::Duration;

use bus::LookupError;
use store::{InsertError, QueryError};

pub use kafka::from_kafka;
pub use letters::{LettersReport, from_dead_letters};

use crate::insert::LandError;

/// Records of a chunk: a few round trips for each, and little to do again.
const CHUNK_RECORDS: usize = 20_000;
/// Bytes of a chunk in memory, its rows included.
const CHUNK_BYTES: usize = 16 << 20;
/// How long ClickHouse may be in trouble over one chunk. A writer waits for ever; here somebody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// From when, milliseconds since 1970.
    pub from_ms: i64,
    /// To before when, milliseconds since 1970.
    pub to_ms: i64,
    /// Whether anything is changed.
    pub run: Run,
}

/// Whether anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Only look.
    Dry,
    /// Bring back what is missing.
    Real,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records that are done.
    pub done: u64,
    /// Of so many.
    pub of: u64,
}

/// Counts of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records that belong into it.
    pub records: u64,
    /// Of these, with a row of their own before anything was done.
    pub standing: u64,
    /// Of these, without one, whose row stands under another record: sent more than once, or told anew.
    pub replaced: u64,
    /// Of these, that stand nowhere: brought back, where it was no dry run.
    pub missing: u64,
    /// Of the missing, that ClickHouse refuses: dead letters.
    pub refused: u64,
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By table.
    pub tables: BTreeMap<&'static str, Tally>,
    /// Records of the span of time that the writers have still to do by themselves.
    pub ahead: u64,
    /// What cannot be brought back, for people.
    pub lost: Vec<String>,
}

/// Why a replay ended early. What was brought back until then stands; run again it goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No Kafka client.
    #[error(transparent)]
    Client(#[from] bus::ClientError),
    /// Kafka did not answer.
    #[error("kafka could not be read again")]
    Read(#[from] LookupError),
    /// The schema is not ours.
    #[error("the schema is not up to date (run `fleetpulse migrate`)")]
    Schema(#[from] store::MigrateError),
    /// ClickHouse does not take what is missing.
    #[error("the records {records} could not be brought back")]
    Land {
        /// Partition and range.
        records: String,
        /// What was said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// ClickHouse was in trouble for too long.
    #[error("clickhouse was in trouble for {PATIENCE:?} over the records {records}")]
    Trouble {
        /// Partition and range.
        records: String,
    },
    /// ClickHouse did not answer.
    #[error("clickhouse did not say what stands")]
    Ask(#[from] AskError),
    /// A heartbeat could not be sent.
    #[error("a heartbeat could not be sent again")]
    Send(#[from] bus::SendError),
    /// Kafka did not say that it holds what was sent.
    #[error(
        "kafka did not say that it holds a heartbeat that was sent again: look again once the writers have read it all"
    )]
    Deliver(#[from] bus::DeliveryError),
    /// Nobody brings in what was sent.
    #[error("{left} heartbeats were sent and stand nowhere yet: is a writer running?")]
    Unread {
        /// How many.
        left: usize,
    },
    /// The thread that reads Kafka panicked.
    #[error("the thread that reads kafka panicked")]
    Panicked,
}

/// A question that ClickHouse did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Which rows stand.
    #[error(transparent)]
    Held(#[from] InsertError),
    /// Which heartbeats or minutes stand under other records.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl ReplayError {
    fn land(records: String, error: LandError) -> Self {
        Self::Land { records, source: Box::new(error) }
    }
}
