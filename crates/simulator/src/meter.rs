//! What devices count as they go, cheap to write from every core and read once a second.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::report::{Counts, Lost, ReasonCode};

/// How many meters a fleet has. Devices share one meter by their number, so that two cores rarely want the same.
const SHARDS: usize = 16;

/// One meter per shard of the fleet.
#[derive(Debug)]
pub(crate) struct Meters([Meter; SHARDS]);

/// The counts of one shard. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Meter {
    // Gauges, which only the devices of this shard move.
    pub(crate) connecting: Count,
    pub(crate) online: Count,
    pub(crate) outstanding: Count,
    pub(crate) waiting: Count,
    // Counters.
    pub(crate) published: Count,
    pub(crate) resent: Count,
    pub(crate) acknowledged: Count,
    pub(crate) given_up: Count,
    pub(crate) withheld: Count,
    pub(crate) reconnects: Count,
    pub(crate) tls_full: Count,
    pub(crate) tls_resumed: Count,
    pub(crate) connect_failed: Count,
    pub(crate) unexpected: Count,
    pub(crate) lost_closed: Count,
    pub(crate) lost_failed: Count,
    pub(crate) lost_malformed: Count,
    pub(crate) lost_silent: Count,
    pub(crate) refused: ByCode,
    pub(crate) connect_refused: ByCode,
    pub(crate) disconnected: ByCode,
    /// PUBACK latencies since the last reading, in microseconds. The lock is held for a few nanoseconds by
    /// one of its devices, and once a second by the reader.
    puback_us: Mutex<Histogram<u32>>,
}

/// A number that many tasks change. Nothing else is ordered by it.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

/// How often each reason code came. Rare, so a map under a lock of its shard.
#[derive(Debug, Default)]
pub(crate) struct ByCode(Mutex<BTreeMap<u8, u64>>);

/// An empty histogram from 1 microsecond to 10 minutes with three digits; what is longer counts as 10 minutes.
pub(crate) fn latencies<N: hdrhistogram::Counter>() -> Histogram<N> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds that a histogram can have")
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Meter::new()))
    }

    /// Where device `number` counts.
    pub(crate) fn of(&self, number: u32) -> &Meter {
        &self.0[usize::try_from(number).unwrap_or_default() % SHARDS]
    }

    /// Moves the latencies since the last call into `into`.
    pub(crate) fn drain_puback_us(&self, into: &mut Histogram<u64>) {
        for meter in &self.0 {
            let mut shard = lock(&meter.puback_us);
            for recorded in shard.iter_recorded() {
                into.saturating_record_n(recorded.value_iterated_to(), recorded.count_at_value().into());
            }
            shard.reset();
        }
    }

    /// Devices online, and connections accepted after a device's first.
    pub(crate) fn standing(&self) -> (u64, u64) {
        let each = self.0.iter().map(|meter| (meter.online.get(), meter.reconnects.get()));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Everything counted up to now. Not one instant: each number is read for itself.
    pub(crate) fn counts(&self) -> Counts {
        let sum = |count: fn(&Meter) -> &Count| self.0.iter().map(|meter| count(meter).get()).sum();
        let by_code = |counts: fn(&Meter) -> &ByCode| {
            let mut sums = BTreeMap::new();
            for meter in &self.0 {
                for (code, count) in lock(&counts(meter).0).iter() {
                    *sums.entry(ReasonCode(*code)).or_default() += count;
                }
            }
            sums
        };
        Counts {
            connecting: sum(|meter| &meter.connecting),
            online: sum(|meter| &meter.online),
            published: sum(|meter| &meter.published),
            resent: sum(|meter| &meter.resent),
            acknowledged: sum(|meter| &meter.acknowledged),
            outstanding: sum(|meter| &meter.outstanding),
            given_up: sum(|meter| &meter.given_up),
            waiting: sum(|meter| &meter.waiting),
            withheld: sum(|meter| &meter.withheld),
            refused: by_code(|meter| &meter.refused),
            reconnects: sum(|meter| &meter.reconnects),
            tls_full: sum(|meter| &meter.tls_full),
            tls_resumed: sum(|meter| &meter.tls_resumed),
            connect_failed: sum(|meter| &meter.connect_failed),
            connect_refused: by_code(|meter| &meter.connect_refused),
            disconnected: by_code(|meter| &meter.disconnected),
            lost: Lost {
                closed: sum(|meter| &meter.lost_closed),
                failed: sum(|meter| &meter.lost_failed),
                malformed: sum(|meter| &meter.lost_malformed),
                silent: sum(|meter| &meter.lost_silent),
            },
            unexpected: sum(|meter| &meter.unexpected),
        }
    }
}

impl Meter {
    fn new() -> Self {
        Self {
            connecting: Count::default(),
            online: Count::default(),
            outstanding: Count::default(),
            waiting: Count::default(),
            published: Count::default(),
            resent: Count::default(),
            acknowledged: Count::default(),
            given_up: Count::default(),
            withheld: Count::default(),
            reconnects: Count::default(),
            tls_full: Count::default(),
            tls_resumed: Count::default(),
            connect_failed: Count::default(),
            unexpected: Count::default(),
            lost_closed: Count::default(),
            lost_failed: Count::default(),
            lost_malformed: Count::default(),
            lost_silent: Count::default(),
            refused: ByCode::default(),
            connect_refused: ByCode::default(),
            disconnected: ByCode::default(),
            puback_us: Mutex::new(latencies()),
        }
    }

    /// From the last sending of a heartbeat to its acknowledgement.
    pub(crate) fn record_puback(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        lock(&self.puback_us).saturating_record(micros);
    }
}

impl Count {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl ByCode {
    pub(crate) fn add(&self, code: u8) {
        *lock(&self.0).entry(code).or_default() += 1;
    }
}

/// What these locks guard is whole after every statement, so a panic elsewhere takes nothing from it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
