//! What this process counts for the ledger: per minute and partition, the records that it made, what Kafka said of them, and
//! what was acknowledged.
//!
//! A record belongs to the minute in which it was taken in (its `received_at`), so that gateway, writer and table count by the
//! same thing. It carries its minute ([`Ledger::minute`]) from its making to its delivery report: while a record is on its way,
//! its minute is not complete. Counts only rise. [`telling`] tells them as events.
//!
//! Cost of a heartbeat: about 0.1 us alone, 0.4 us where two threads do nothing else, for atomic additions to shared lines; no
//! lock, no allocation (a minute is allocated once, a partition of it with its first report).
//!
//! Bounds: [`MINUTES_MAX`] minutes and [`PARTITIONS_MAX`] partitions of each stream are kept. What cannot be counted, as its
//! minute has left the ring or its partition is beyond, is counted in `fleetpulse_gateway_ledger_uncounted_total`.

pub(crate) mod telling;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use bus::{Offset, Partition, Stream, Witness};
use event::Millis;
use event::v1::{LedgerCount, LedgerStream};

/// Minutes that are kept: longer than any delivery deadline (ten minutes at most) with what may wait for room before it, six
/// times over.
const MINUTES_MAX: usize = 64;
/// Partitions of a stream: the bound of setting `kafka.partitions`, and as many as its numbers need.
const PARTITIONS_MAX: usize = CHUNKS * CHUNK;
/// Partitions that are allocated together.
const CHUNK: usize = 16;
const CHUNKS: usize = 64;
const MINUTE_MS: i64 = 60_000;

/// Number of a minute: minutes since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MinuteNumber(u32);

impl MinuteNumber {
    /// The minute that a time lies in.
    pub(crate) fn of(at: Millis) -> Self {
        // A clock before 1970 or after 10,000 is nobody's.
        Self(u32::try_from(at.0.div_euclid(MINUTE_MS)).unwrap_or_default())
    }

    /// When it begins.
    pub(crate) fn begins_at(self) -> Millis {
        Millis(i64::from(self.0) * MINUTE_MS)
    }

    /// When it is over.
    pub(crate) fn ends_at(self) -> Millis {
        Millis((i64::from(self.0) + 1) * MINUTE_MS)
    }

    fn slot(self) -> usize {
        self.0 as usize % MINUTES_MAX
    }
}

/// The counts of this process.
pub(crate) struct Ledger {
    /// A minute stands in the slot of its number until a later one needs it.
    slots: [ArcSwapOption<Minute>; MINUTES_MAX],
}

/// The counts of one minute. Whoever holds it has a record under way, or is telling.
pub(crate) struct Minute {
    number: MinuteNumber,
    /// It has left the ring: nobody tells of what it counts from now on.
    left: AtomicBool,
    /// Sum of all counts when they were told last.
    told: AtomicU64,
    events: Partitions,
    dead_letters: Partitions,
    /// Records that failed before they had a partition: of events, of dead letters.
    nowhere: [AtomicU64; 2],
}

/// Cells by partition, allocated where they are needed.
struct Partitions([OnceLock<Box<[Cell; CHUNK]>>; CHUNKS]);

/// One partition in one minute. A cache line: partitions do not slow each other down.
#[repr(align(64))]
struct Cell {
    /// Heartbeats, or dead letters: what devices publish.
    published: AtomicU64,
    others: AtomicU64,
    acknowledged: AtomicU64,
    repeated: AtomicU64,
    failed: AtomicU64,
    /// `u64::MAX` where nothing is held.
    first_offset: AtomicU64,
    last_offset: AtomicU64,
}

/// A record that no device published as telemetry: presence, or a step of a command.
struct Other(Arc<Minute>);

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { slots: [const { ArcSwapOption::const_empty() }; MINUTES_MAX] }
    }

    /// The minute that a record belongs to which is taken in at `at`; to be held until Kafka has reported it. `None` where it
    /// is too long ago to be counted.
    pub(crate) fn minute(&self, at: Millis) -> Option<Arc<Minute>> {
        let number = MinuteNumber::of(at);
        let held = self.slots[number.slot()].load();
        match &*held {
            Some(minute) if minute.number == number => Some(minute.clone()),
            _ => self.enter(number),
        }
    }

    /// The witness of a presence event or of a step of a command that is taken in at `at`.
    pub(crate) fn other(&self, at: Millis) -> Option<Arc<dyn Witness>> {
        Some(Arc::new(Other(self.minute(at)?)))
    }

    /// A PUBACK or PUBREC was made for a record of that minute, which Kafka holds in that partition.
    pub(crate) fn acknowledged(
        &self,
        number: MinuteNumber,
        stream: Stream,
        partition: Partition,
        repeated: bool,
    ) {
        let held = self.slots[number.slot()].load();
        let cell = match &*held {
            Some(minute) if minute.number == number => minute.cell(stream, partition),
            _ => {
                uncounted("minute");
                None
            }
        };
        if let Some(cell) = cell {
            // Whoever sees these sees the report that came before.
            cell.acknowledged.fetch_add(1, Ordering::Release);
            if repeated {
                cell.repeated.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Puts a minute into its slot. Once a minute, and for what is late.
    #[cold]
    fn enter(&self, number: MinuteNumber) -> Option<Arc<Minute>> {
        let slot = &self.slots[number.slot()];
        let new = Arc::new(Minute::new(number));
        loop {
            let held = slot.load_full();
            match &held {
                Some(minute) if minute.number == number => return Some(minute.clone()),
                Some(minute) if minute.number > number => {
                    uncounted("minute");
                    return None;
                }
                _ => {}
            }
            let was = slot.compare_and_swap(&held, Some(new.clone()));
            let was = arc_swap::Guard::into_inner(was);
            if was.as_ref().map(Arc::as_ptr) == held.as_ref().map(Arc::as_ptr) {
                if let Some(old) = was {
                    old.leave();
                }
                return Some(new);
            }
        }
    }

    /// Every minute that is kept, oldest first.
    fn minutes(&self) -> Vec<Arc<Minute>> {
        let mut minutes: Vec<Arc<Minute>> = self.slots.iter().filter_map(ArcSwapOption::load_full).collect();
        minutes.sort_unstable_by_key(|minute| minute.number);
        minutes
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Minute {
    fn new(number: MinuteNumber) -> Self {
        Self {
            number,
            left: AtomicBool::new(false),
            told: AtomicU64::new(0),
            events: Partitions::new(),
            dead_letters: Partitions::new(),
            nowhere: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    fn partitions(&self, stream: Stream) -> &Partitions {
        match stream {
            Stream::Events | Stream::Commands => &self.events,
            Stream::DeadLetters => &self.dead_letters,
        }
    }

    /// The cell of a partition; one beyond the bound is counted as such.
    fn cell(&self, stream: Stream, partition: Partition) -> Option<&Cell> {
        let index = usize::try_from(partition.0).ok().filter(|index| *index < PARTITIONS_MAX);
        let Some(index) = index else {
            uncounted("partition");
            return None;
        };
        let chunk =
            self.partitions(stream).0[index / CHUNK].get_or_init(|| Box::new([const { Cell::new() }; CHUNK]));
        Some(&chunk[index % CHUNK])
    }

    fn report(
        &self,
        stream: Stream,
        partition: Partition,
        offset: Option<Offset>,
        count: fn(&Cell) -> &AtomicU64,
    ) {
        if self.left.load(Ordering::Relaxed) {
            uncounted("minute");
        }
        match offset {
            None if partition.0 < 0 => {
                self.nowhere[usize::from(stream == Stream::DeadLetters)].fetch_add(1, Ordering::Relaxed);
            }
            None => {
                if let Some(cell) = self.cell(stream, partition) {
                    cell.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(offset) => {
                if let Some(cell) = self.cell(stream, partition) {
                    count(cell).fetch_add(1, Ordering::Relaxed);
                    let offset = offset.0.unsigned_abs();
                    // Reports come in order, as a rule: then this is a look alone.
                    if offset < cell.first_offset.load(Ordering::Relaxed) {
                        cell.first_offset.fetch_min(offset, Ordering::Relaxed);
                    }
                    cell.last_offset.fetch_max(offset, Ordering::Relaxed);
                }
            }
        }
    }

    /// Every count that is not zero, by stream and partition.
    fn counts(&self) -> Vec<LedgerCount> {
        let streams = [(&self.events, LedgerStream::Events), (&self.dead_letters, LedgerStream::DeadLetters)];
        let mut counts = Vec::new();
        for ((partitions, stream), nowhere) in streams.into_iter().zip(&self.nowhere) {
            let failed = nowhere.load(Ordering::Relaxed);
            if failed > 0 {
                counts.push(LedgerCount {
                    stream: stream.into(),
                    partition: -1,
                    failed,
                    ..LedgerCount::default()
                });
            }
            counts.extend(partitions.cells().filter_map(|(partition, cell)| cell.count(stream, partition)));
        }
        counts
    }

    /// A later minute needs the place.
    fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        if total(&self.counts()) != self.told.load(Ordering::Relaxed) {
            metrics::counter!("fleetpulse_gateway_ledger_untold_minutes_total").increment(1);
            tracing::warn!(
                minute_ms = self.number.begins_at().0,
                "kafka did not take the counts of this minute for an hour: the ledger will lack them"
            );
        }
    }
}

/// The record of a heartbeat, or of a rejected payload.
impl Witness for Minute {
    fn reported(&self, stream: Stream, partition: Partition, offset: Option<Offset>) {
        self.report(stream, partition, offset, |cell| &cell.published);
    }
}

impl Witness for Other {
    fn reported(&self, stream: Stream, partition: Partition, offset: Option<Offset>) {
        self.0.report(stream, partition, offset, |cell| &cell.others);
    }
}

impl Partitions {
    fn new() -> Self {
        Self([const { OnceLock::new() }; CHUNKS])
    }

    fn cells(&self) -> impl Iterator<Item = (i32, &Cell)> {
        let cells =
            self.0.iter().enumerate().filter_map(|(number, chunk)| Some((number * CHUNK, chunk.get()?)));
        let cells = cells.flat_map(|(first, chunk)| {
            chunk.iter().enumerate().map(move |(index, cell)| (first + index, cell))
        });
        cells.filter_map(|(partition, cell)| Some((i32::try_from(partition).ok()?, cell)))
    }
}

impl Cell {
    const fn new() -> Self {
        Self {
            published: AtomicU64::new(0),
            others: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_offset: AtomicU64::new(u64::MAX),
            last_offset: AtomicU64::new(0),
        }
    }

    fn count(&self, stream: LedgerStream, partition: i32) -> Option<LedgerCount> {
        // Parts before the whole: an acknowledgement is not told without the report that came before it.
        let repeated = self.repeated.load(Ordering::Acquire);
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let published = self.published.load(Ordering::Acquire);
        let others = self.others.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        let (heartbeats, dead_letters) = match stream {
            LedgerStream::DeadLetters => (0, published),
            LedgerStream::Events | LedgerStream::Unspecified => (published, 0),
        };
        let first_offset = self.first_offset.load(Ordering::Relaxed);
        let count = LedgerCount {
            stream: stream.into(),
            partition,
            heartbeats,
            others,
            dead_letters,
            acknowledged,
            repeated: repeated.min(acknowledged),
            failed,
            first_offset: if first_offset == u64::MAX { 0 } else { first_offset },
            last_offset: self.last_offset.load(Ordering::Relaxed),
        };
        (published + others + failed > 0).then_some(count)
    }
}

/// What tells two states of the same counts apart, as counts only rise.
fn total(counts: &[LedgerCount]) -> u64 {
    let of = |count: &LedgerCount| {
        count.heartbeats
            + count.others
            + count.dead_letters
            + count.acknowledged
            + count.repeated
            + count.failed
    };
    counts.iter().map(of).sum()
}

/// Something that the ledger will lack.
#[cold]
fn uncounted(reason: &'static str) {
    metrics::counter!("fleetpulse_gateway_ledger_uncounted_total", "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests;
