//! What one partition does with gaps, and with a log that begins anew.

use std::time::{Duration, Instant};

use bus::{Assigned, Lane as Id, Offset, Partition, Start, Stream};
use uuid::Uuid;

use super::{Lane, Step};
use crate::batch::Limits;
use crate::round::Rounds;
use crate::row::Input;

const ID: Id = Id { stream: Stream::Events, partition: Partition(0) };

fn lane(next: i64, note: &str) -> Lane {
    Lane::new(&Assigned { lane: ID, start: Start::Committed(Offset(next), note.into()) })
        .expect("a note of our own")
}

fn rounds(limits: Limits) -> Rounds {
    Rounds::new(Uuid::from_u128(1), limits)
}

#[test]
fn what_kafka_dropped_is_told_as_a_gap_and_belongs_to_the_batch_after_it() {
    let mut lane = lane(10, "");
    let limits = Limits { rows: 1, bytes: usize::MAX, age: Duration::from_secs(1) };
    let input = Input { lane: ID, offset: Offset(14), produced_at_ms: 7, payload: b"" };
    let taken = lane.take(&input, &limits, &mut rounds(limits), Instant::now()).expect("offsets rise");
    let gap = taken.gap.expect("a gap");
    assert_eq!((gap.first, gap.last, gap.found_at_ms), (Offset(10), Offset(13), 7));
    // Announced from where the gap begins: who replays the batch finds the gap again.
    let Some((Step::Commit(commit), _)) = taken.step else { panic!("no announcement") };
    assert_eq!(
        (commit.next, commit.note.as_str()),
        (Offset(10), "v2 pending 14 00000000000000000000000000000001/0")
    );
}

#[test]
fn a_replay_of_which_kafka_has_dropped_everything_is_a_gap() {
    let mut lane = lane(10, "v1 pending 12");
    let limits = Limits { rows: 1, bytes: usize::MAX, age: Duration::from_secs(1) };
    let input = Input { lane: ID, offset: Offset(20), produced_at_ms: 7, payload: b"" };
    let taken = lane.take(&input, &limits, &mut rounds(limits), Instant::now()).expect("offsets rise");
    let gap = taken.gap.expect("a gap");
    assert_eq!((gap.first, gap.last), (Offset(10), Offset(19)));
    assert!(matches!(taken.step, Some((Step::Commit(_), _))), "it is a batch like any other");
}

#[test]
fn a_partition_that_begins_anew_is_read_again_but_never_in_the_middle_of_a_batch() {
    let limits = Limits { rows: 10, bytes: usize::MAX, age: Duration::from_secs(1) };
    let input = |offset| Input { lane: ID, offset: Offset(offset), produced_at_ms: 0, payload: b"" };
    let mut lane = lane(10, "v1 pending 12");
    let taken =
        lane.take(&input(0), &limits, &mut rounds(limits), Instant::now()).expect("nothing is under way");
    assert_eq!((taken.rewound_from, taken.gap), (Some(Offset(10)), None));
    assert!(lane.take(&input(0), &limits, &mut rounds(limits), Instant::now()).is_err());
}
