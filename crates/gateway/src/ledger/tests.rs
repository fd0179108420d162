//! The ring: nothing is counted twice or lost, in whatever order and from however many threads it comes.

use std::sync::Barrier;

use proptest::prelude::*;

use super::*;

const NOON: Millis = Millis(1_767_268_800_000);

fn after_minutes(minutes: i64) -> Millis {
    Millis(NOON.0 + minutes * MINUTE_MS)
}

fn counts(ledger: &Ledger, at: Millis) -> Vec<LedgerCount> {
    let minutes = ledger.minutes();
    minutes
        .iter()
        .find(|minute| minute.number == MinuteNumber::of(at))
        .map(|minute| minute.counts())
        .unwrap_or_default()
}

fn held(ledger: &Ledger, at: Millis, partition: i32, offset: i64) {
    let minute = ledger.minute(at).expect("a minute that is kept");
    minute.reported(Stream::Events, Partition(partition), Some(Offset(offset)));
}

#[test]
fn a_record_counts_in_the_minute_in_which_it_was_taken_in() {
    let ledger = Ledger::new();
    let before = Millis(NOON.0 - 1);
    let early = ledger.minute(before).expect("kept");
    held(&ledger, NOON, 3, 8);
    // Reported after the minute changed.
    early.reported(Stream::Events, Partition(3), Some(Offset(7)));
    let expected = |offset| LedgerCount {
        stream: LedgerStream::Events.into(),
        partition: 3,
        heartbeats: 1,
        first_offset: offset,
        last_offset: offset,
        ..LedgerCount::default()
    };
    assert_eq!(counts(&ledger, before), [expected(7)]);
    assert_eq!(counts(&ledger, NOON), [expected(8)]);
}

#[test]
fn a_minute_is_under_way_until_its_last_record_is_reported() {
    let ledger = Ledger::new();
    let under_way = || {
        let minutes = ledger.minutes();
        assert_eq!(minutes.len(), 1);
        // As the teller holds it: by the slot and by the list.
        Arc::strong_count(&minutes[0]) > 2
    };
    let (first, second) = (ledger.minute(NOON), ledger.other(NOON));
    assert!(under_way());
    drop(first);
    assert!(under_way());
    drop(second);
    assert!(!under_way());
}

#[test]
fn what_failed_is_counted_where_it_failed_and_never_as_held() {
    let ledger = Ledger::new();
    let minute = ledger.minute(NOON).expect("kept");
    minute.reported(Stream::Events, Partition(-1), None);
    minute.reported(Stream::DeadLetters, Partition(2), None);
    let counts = counts(&ledger, NOON);
    let seen: Vec<_> =
        counts.iter().map(|c| (c.stream(), c.partition, c.failed, c.heartbeats + c.dead_letters)).collect();
    assert_eq!(seen, [(LedgerStream::Events, -1, 1, 0), (LedgerStream::DeadLetters, 2, 1, 0)]);
}

#[test]
fn acknowledgements_stand_beside_the_reports_they_wait_for() {
    let ledger = Ledger::new();
    held(&ledger, NOON, 0, 5);
    held(&ledger, NOON, 0, 6);
    let number = MinuteNumber::of(NOON);
    ledger.acknowledged(number, Stream::Events, Partition(0), false);
    ledger.acknowledged(number, Stream::Events, Partition(0), true);
    let count = counts(&ledger, NOON)[0];
    assert_eq!((count.heartbeats, count.acknowledged, count.repeated), (2, 2, 1));
    assert_eq!((count.first_offset, count.last_offset), (5, 6));
}

#[test]
fn a_minute_that_has_left_the_ring_takes_nothing_in_and_disturbs_no_other() {
    let ledger = Ledger::new();
    let old = ledger.minute(NOON).expect("kept");
    let ring = i64::try_from(MINUTES_MAX).expect("few");
    held(&ledger, after_minutes(ring), 0, 100);
    assert!(old.left.load(Ordering::Relaxed), "its reports are counted as uncounted from now on");
    old.reported(Stream::Events, Partition(0), Some(Offset(1)));
    ledger.acknowledged(MinuteNumber::of(NOON), Stream::Events, Partition(0), false);
    assert!(ledger.minute(NOON).is_none());
    let count = counts(&ledger, after_minutes(ring))[0];
    assert_eq!((count.heartbeats, count.acknowledged, count.first_offset), (1, 0, 100));
    assert!(counts(&ledger, NOON).is_empty());
}

#[test]
fn partitions_beyond_the_bound_are_not_counted_elsewhere() {
    let ledger = Ledger::new();
    let last = i32::try_from(PARTITIONS_MAX - 1).expect("few");
    held(&ledger, NOON, last, 1);
    held(&ledger, NOON, last + 1, 1);
    let counts = counts(&ledger, NOON);
    assert_eq!((counts.len(), counts[0].partition, counts[0].heartbeats), (1, last, 1));
}

#[test]
fn threads_that_cross_a_change_of_minute_together_lose_nothing() {
    const THREADS: i64 = 4;
    const RECORDS: i64 = 5_000;
    let ledger = Ledger::new();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ledger, start) = (&ledger, &start);
            scope.spawn(move || {
                start.wait();
                for record in 0..RECORDS {
                    // Every thread goes through the same ten minutes, at its own pace.
                    let at = after_minutes(record * 10 / RECORDS);
                    held(ledger, at, i32::try_from(record % 3).expect("small"), thread * RECORDS + record);
                    let partition = Partition(i32::try_from(record % 3).expect("small"));
                    ledger.acknowledged(MinuteNumber::of(at), Stream::Events, partition, false);
                }
            });
        }
    });
    let all: Vec<LedgerCount> = (0..10).flat_map(|minute| counts(&ledger, after_minutes(minute))).collect();
    let sum = |of: fn(&LedgerCount) -> u64| all.iter().map(of).sum::<u64>();
    assert_eq!(sum(|count| count.heartbeats), (THREADS * RECORDS).unsigned_abs());
    assert_eq!(sum(|count| count.acknowledged), (THREADS * RECORDS).unsigned_abs());
    assert_eq!(all.len(), 30, "three partitions in each of ten minutes");
}

proptest! {
    /// Against sums kept in a map: whatever comes in whatever order, a minute within the ring has what was reported of it.
    #[test]
    fn the_ring_counts_what_a_map_counts(
        records in proptest::collection::vec((0_i64..40, 0_i32..40, 0_i64..1_000, any::<bool>()), 0..300)
    ) {
        let ledger = Ledger::new();
        let mut expected = std::collections::BTreeMap::<(i64, i32), (u64, u64, u64, u64)>::new();
        for (minute, partition, offset, other) in records {
            let at = after_minutes(minute);
            let witness: Arc<dyn Witness> = if other {
                ledger.other(at).expect("kept")
            } else {
                ledger.minute(at).expect("kept")
            };
            witness.reported(Stream::Events, Partition(partition), Some(Offset(offset)));
            let entry = expected.entry((minute, partition)).or_insert((0, 0, u64::MAX, 0));
            if other { entry.1 += 1 } else { entry.0 += 1 }
            (entry.2, entry.3) = (entry.2.min(offset.unsigned_abs()), entry.3.max(offset.unsigned_abs()));
        }
        let mut found = std::collections::BTreeMap::new();
        for minute in 0..40 {
            for count in counts(&ledger, after_minutes(minute)) {
                let values = (count.heartbeats, count.others, count.first_offset, count.last_offset);
                found.insert((minute, count.partition), values);
            }
        }
        prop_assert_eq!(found, expected);
    }
}
