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
    /// What was consumed, by node and minute: heartbeats, other events, dead letters.
    pub counts: std::collections::BTreeMap<(String, u32), [u32; 3]>,
    produced_at_ms: i64,
    records: u32,
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
            counts: std::collections::BTreeMap::new(),
            produced_at_ms: record.produced_at_ms,
            records: 0,
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
        self.records += 1;
        let row = row::of(record);
        self.count(&row);
        match row {
            Row::Heartbeat(row) => self.heartbeats.push(*row),
            Row::Connection(row) => self.connections.push(row),
            Row::DeadLetter(row) => self.dead_letters.push(row),
            Row::Node(row) => self.nodes.push(row),
            Row::Command(row) => self.commands.push(row),
            Row::Ledger(row) => self.ledgers.push(row),
        }
    }

    fn count(&mut self, row: &Row) {
        let (node_id, at, kind) = match row {
            Row::Heartbeat(row) => (&row.node_id, row.received_at, 0),
            Row::Connection(row) => (&row.node_id, row.at, 1),
            Row::Command(row) => (&row.node_id, row.at, 1),
            Row::DeadLetter(row) => (&row.node_id, row.received_at, 2),
            Row::Node(_) | Row::Ledger(_) => return,
        };
        let minute = u32::try_from(at.div_euclid(60_000) * 60).unwrap_or_default();
        match self.counts.get_mut(&(node_id.clone(), minute)) {
            Some(counts) => counts[kind] += 1,
            None => {
                let counts = self.counts.entry((node_id.clone(), minute)).or_default();
                counts[kind] += 1;
            }
        }
    }

    /// The row that says that it landed.
    pub(crate) fn row(&self) -> store::rows::BatchRow {
        let counts = || self.counts.iter();
        store::rows::BatchRow {
            stream: if self.lane.stream == bus::Stream::Events {
                store::rows::stream::EVENTS
            } else {
                store::rows::stream::DEAD_LETTERS
            },
            partition: self.lane.partition.0.unsigned_abs(),
            first_offset: self.first.0.unsigned_abs(),
            last_offset: self.last.0.unsigned_abs(),
            content: self.content.digest(),
            records: self.records,
            produced_at: self.produced_at_ms,
            last_minute: counts().map(|((_, minute), _)| *minute).max().unwrap_or_default(),
            node_ids: counts().map(|((node_id, _), _)| node_id.clone()).collect(),
            minutes: counts().map(|((_, minute), _)| *minute).collect(),
            heartbeats: counts().map(|(_, counts)| counts[0]).collect(),
            others: counts().map(|(_, counts)| counts[1]).collect(),
            dead_letters: counts().map(|(_, counts)| counts[2]).collect(),
            ..store::rows::BatchRow::default()
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
