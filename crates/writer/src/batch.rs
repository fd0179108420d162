//! A batch: the records of a range of one partition, inserted together.
//!
//! It holds the records as Kafka gave them, one after the other in one allocation; their rows are made where they are inserted
//! ([`crate::rows`]), away from the thread that polls. So a record that ClickHouse refuses is still there, whole.

use std::time::{Duration, Instant};

use bus::{Lane, Offset};
use store::rows::HeartbeatRow;
use xxhash_rust::xxh3::Xxh3;

use crate::round::Round;
use crate::row::Input;

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
    /// A batch of another partition goes out, and it goes with it.
    Joined,
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
            Self::Joined => "joined",
            Self::Replay => "replay",
            Self::Leaving => "leaving",
        }
    }
}

/// Offsets that should have been there and were not: Kafka dropped them before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub first: Offset,
    pub last: Offset,
    /// When the first record after it was produced, milliseconds since 1970.
    pub found_at_ms: i64,
}

/// A range of records. It has at least one; a gap before or between them belongs to it, so that it is told once, too.
#[derive(Clone)]
pub(crate) struct Batch {
    pub lane: Lane,
    pub first: Offset,
    pub last: Offset,
    pub gaps: Vec<Gap>,
    /// What it takes in memory, its rows included.
    pub bytes: usize,
    pub opened_at: Instant,
    /// When nothing more was added: before its announcement was sent.
    pub closed_at: Instant,
    /// The round in which it may have been inserted; none where it was never announced in one.
    pub round: Option<Round>,
    /// Another writer, or an earlier life of this one, had announced it.
    pub replayed: bool,
    records: Vec<Entry>,
    payloads: Vec<u8>,
    content: Xxh3,
}

/// A record, without its bytes.
#[derive(Clone, Copy)]
struct Entry {
    offset: Offset,
    produced_at_ms: i64,
    /// Where its bytes end; they begin where those before end.
    end: usize,
}

impl Batch {
    /// A batch that begins with a record, or with the gap before it.
    pub(crate) fn open(record: &Input<'_>, gap: Option<Gap>, now: Instant) -> Self {
        let mut batch = Self {
            lane: record.lane,
            first: gap.map_or(record.offset, |gap| gap.first),
            last: record.offset,
            gaps: Vec::new(),
            bytes: 0,
            opened_at: now,
            closed_at: now,
            round: None,
            replayed: false,
            records: Vec::new(),
            payloads: Vec::new(),
            content: Xxh3::new(),
        };
        batch.push(record, gap);
        batch
    }

    /// Adds the next record, and the gap before it.
    pub(crate) fn push(&mut self, record: &Input<'_>, gap: Option<Gap>) {
        self.gaps.extend(gap);
        self.last = record.offset;
        self.content.update(record.payload);
        self.payloads.extend_from_slice(record.payload);
        let end = self.payloads.len();
        self.records.push(Entry { offset: record.offset, produced_at_ms: record.produced_at_ms, end });
        // Its bytes, and its row; where that is not read in place, its texts are allocations of their own.
        self.bytes += size_of::<Entry>() + size_of::<HeartbeatRow<'_>>() + 2 * record.payload.len();
    }

    /// How many records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Its records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = Input<'_>> {
        let mut begin = 0;
        self.records.iter().map(move |entry| {
            let payload = &self.payloads[begin..entry.end];
            begin = entry.end;
            Input { lane: self.lane, offset: entry.offset, produced_at_ms: entry.produced_at_ms, payload }
        })
    }

    /// Whether it has reached a size at which it is closed.
    pub(crate) fn full(&self, limits: &Limits) -> Option<CloseReason> {
        if self.len() >= limits.rows {
            Some(CloseReason::Rows)
        } else if self.bytes >= limits.bytes {
            Some(CloseReason::Bytes)
        } else {
            None
        }
    }

    /// Hash of all its records.
    pub(crate) fn content(&self) -> u64 {
        self.content.digest()
    }

    /// Name of this insert: the same range of the same records has the same name, whoever inserts it. The content is
    /// part of it, so that a topic that was created anew, and counts from zero again, is not taken for the old one.
    pub(crate) fn token(&self) -> String {
        format!("{}/{}-{}/{:016x}", self.lane, self.first.0, self.last.0, self.content())
    }
}
