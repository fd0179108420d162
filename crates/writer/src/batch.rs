//! A batch: the rows of a range of records of one partition, inserted together.

use std::time::{Duration, Instant};

use bus::{Lane, Offset};
use store::rows::{CommandRow, ConnectionRow, DeadLetterRow, HeartbeatRow, LedgerRow, NodeRow};
use xxhash_rust::xxh3::Xxh3;

use crate::row::{self, Input, Row};

/// When a batch is closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub rows: usize,
    pub bytes: usize,
    pub age: Duration,
}

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Rows,
    Bytes,
    Age,
    /// It is the range that was announced before a crash or a rebalance.
    Replay,
    /// The partition is taken away, or the writer stops.
    Leaving,
}

impl CloseReason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Replay => "replay",
            Self::Leaving => "leaving",
        }
    }
}

/// Rows, and the range of records they came from. A batch has at least one record.
pub(crate) struct Batch {
    pub lane: Lane,
    pub first: Offset,
    pub last: Offset,
    pub heartbeats: Vec<HeartbeatRow>,
    pub connections: Vec<ConnectionRow>,
    pub dead_letters: Vec<DeadLetterRow>,
    pub nodes: Vec<NodeRow>,
    pub commands: Vec<CommandRow>,
    pub ledgers: Vec<LedgerRow>,
    pub bytes: usize,
    pub opened_at: Instant,
    content: Xxh3,
}

impl Batch {
    /// A batch that begins with a record.
    pub(crate) fn open(record: &Input<'_>, now: Instant) -> Self {
        let mut batch = Self {
            lane: record.lane,
            first: record.offset,
            last: record.offset,
            heartbeats: Vec::new(),
            connections: Vec::new(),
            dead_letters: Vec::new(),
            nodes: Vec::new(),
            commands: Vec::new(),
            ledgers: Vec::new(),
            bytes: 0,
            opened_at: now,
            content: Xxh3::new(),
        };
        batch.push(record);
        batch
    }

    /// Adds the next record.
    pub(crate) fn push(&mut self, record: &Input<'_>) {
        self.last = record.offset;
        self.content.update(record.payload);
        // The texts of a row are those of the record, in allocations of their own.
        self.bytes += size_of::<HeartbeatRow>() + 2 * record.payload.len();
        match row::of(record) {
            Row::Heartbeat(row) => self.heartbeats.push(*row),
            Row::Connection(row) => self.connections.push(row),
            Row::DeadLetter(row) => self.dead_letters.push(row),
            Row::Node(row) => self.nodes.push(row),
            Row::Command(row) => self.commands.push(row),
            Row::Ledger(row) => self.ledgers.push(row),
        }
    }

    /// Rows in all tables.
    pub(crate) fn rows(&self) -> usize {
        self.heartbeats.len()
            + self.connections.len()
            + self.dead_letters.len()
            + self.nodes.len()
            + self.commands.len()
            + self.ledgers.len()
    }

    /// Whether it has reached a size at which it is closed.
    pub(crate) fn full(&self, limits: &Limits) -> Option<CloseReason> {
        if self.rows() >= limits.rows {
            Some(CloseReason::Rows)
        } else if self.bytes >= limits.bytes {
            Some(CloseReason::Bytes)
        } else {
            None
        }
    }

    /// Name of this insert: the same range of the same records has the same name, whoever inserts it. The content is
    /// part of it, so that a topic that was created anew, and counts from zero again, is not taken for the old one.
    pub(crate) fn token(&self) -> String {
        format!("{}/{}-{}/{:016x}", self.lane, self.first.0, self.last.0, self.content.digest())
    }
}
