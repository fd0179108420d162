//! The protocol against a model of Kafka and ClickHouse, with a crash possible at every step.
//!
//! The model keeps what the real ones keep: the log, one committed position with its note, and a table that takes an
//! insert once per token. An insert that was sent may land at any later time, also after its writer is dead; an answer may
//! be lost. Whatever happens, in the end each record has to stand in the table once, and the position behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Assigned, Commit, CommitError, Lane as Id, Offset, Partition, Start, Stream};
use proptest::prelude::*;

use super::{Lane, Step};
use crate::batch::{Batch, Limits};
use crate::row::Input;

const ID: Id = Id { stream: Stream::Events, partition: Partition(0) };

/// What the world does next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The writer reads this many records, if there are any.
    Read(u8),
    /// Time passes, past every age and pause.
    Time,
    /// Kafka answers the commit under way.
    CommitTaken,
    CommitRefused,
    /// Kafka takes the commit, the writer dies before it knows.
    CommitTakenThenCrash,
    /// The insert under way lands and is answered.
    Landed,
    /// The insert under way lands, the writer dies before it knows.
    LandedThenCrash,
    /// The writer dies; its insert is still on its way.
    Crash,
    /// An insert of a dead writer lands.
    LateLanding,
    /// The partition goes: what fills is closed.
    CloseNow,
}

struct World {
    log: Vec<Vec<u8>>,
    committed: Option<Commit>,
    landed: BTreeMap<i64, usize>,
    tokens: BTreeSet<String>,
    adrift: Vec<Arc<Batch>>,
    lane: Lane,
    next: usize,
    commit: Option<Commit>,
    insert: Option<Arc<Batch>>,
    now: Instant,
    limits: Limits,
}

impl World {
    fn new(records: usize, rows: usize) -> Self {
        Self {
            log: (0..records).map(|number| number.to_string().into_bytes()).collect(),
            committed: None,
            landed: BTreeMap::new(),
            tokens: BTreeSet::new(),
            adrift: Vec::new(),
            lane: lane(None),
            next: 0,
            commit: None,
            insert: None,
            now: Instant::now(),
            limits: Limits { rows, bytes: usize::MAX, age: Duration::from_secs(1) },
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Read(records) => (0..records).for_each(|_| self.read()),
            Event::Time => {
                self.now += Duration::from_secs(2);
                let step = self.lane.step(&self.limits, false, self.now);
                self.act(step.map(|(step, _)| step));
            }
            Event::CommitTaken => {
                if let Some(commit) = self.commit.take() {
                    self.committed = Some(commit);
                    let step = self.lane.committed(&Ok(()), self.now);
                    self.act(step);
                }
            }
            Event::CommitRefused => {
                if self.commit.take().is_some() {
                    let refused = Err(CommitError("a rebalance is under way".into()));
                    let step = self.lane.committed(&refused, self.now);
                    self.act(step);
                }
            }
            Event::CommitTakenThenCrash => {
                if let Some(commit) = self.commit.take() {
                    self.committed = Some(commit);
                }
                self.crash();
            }
            Event::Landed => {
                if let Some(batch) = self.insert.take() {
                    self.land(&batch);
                    let step = self.lane.landed(&self.limits, self.now);
                    self.act(step.map(|(step, _)| step));
                }
            }
            Event::LandedThenCrash => {
                if let Some(batch) = self.insert.take() {
                    self.land(&batch);
                }
                self.crash();
            }
            Event::Crash => self.crash(),
            Event::LateLanding => {
                if let Some(batch) = self.adrift.pop() {
                    self.land(&batch);
                }
            }
            Event::CloseNow => {
                let step = self.lane.close_now();
                self.act(step.map(|(step, _)| step));
                if self.lane.is_empty() {
                    // Given back and taken again.
                    self.crash();
                }
            }
        }
    }

    fn read(&mut self) {
        if self.lane.is_full(&self.limits, false) {
            return;
        }
        let Some(payload) = self.log.get(self.next) else {
            return;
        };
        let offset = Offset(i64::try_from(self.next).expect("few"));
        let input = Input { lane: ID, offset, produced_at_ms: 0, payload };
        self.next += 1;
        let taken = self.lane.take(&input, &self.limits, self.now).expect("offsets rise");
        assert_eq!(taken.gap, None);
        self.act(taken.step.map(|(step, _)| step));
    }

    fn act(&mut self, step: Option<Step>) {
        match step {
            None => {}
            Some(Step::Commit(commit)) => {
                assert!(self.commit.replace(commit).is_none(), "two commits under way");
            }
            Some(Step::Insert(batch)) => {
                assert!(self.insert.replace(batch).is_none(), "two inserts under way");
            }
        }
    }

    /// The table takes an insert once per token.
    fn land(&mut self, batch: &Batch) {
        if self.tokens.insert(batch.token()) {
            (batch.first.0..=batch.last.0).for_each(|offset| *self.landed.entry(offset).or_default() += 1);
        }
    }

    fn crash(&mut self) {
        self.adrift.extend(self.insert.take());
        // A commit that was sent may be lost.
        self.commit = None;
        self.lane = lane(self.committed.as_ref());
        self.next =
            self.committed.as_ref().map_or(0, |commit| usize::try_from(commit.next.0).expect("positive"));
    }

    fn settle(&mut self) {
        for _ in 0..self.log.len() * 8 + 32 {
            for event in [Event::Read(3), Event::Time, Event::CommitTaken, Event::Landed, Event::LateLanding]
            {
                self.happen(event);
            }
        }
    }
}

fn lane(committed: Option<&Commit>) -> Lane {
    let start = committed.map_or(Start::Oldest, |commit| Start::Committed(commit.next, commit.note.clone()));
    Lane::new(&Assigned { lane: ID, start }).expect("a note of our own")
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_u8..4).prop_map(Event::Read),
        3 => Just(Event::Time),
        4 => Just(Event::CommitTaken),
        1 => Just(Event::CommitRefused),
        1 => Just(Event::CommitTakenThenCrash),
        4 => Just(Event::Landed),
        1 => Just(Event::LandedThenCrash),
        1 => Just(Event::Crash),
        1 => Just(Event::LateLanding),
        1 => Just(Event::CloseNow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn every_record_lands_once_whatever_crashes(
        records in 1_usize..20,
        rows in 1_usize..6,
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(records, rows);
        for event in events {
            world.happen(event);
        }
        world.settle();
        let once: BTreeMap<i64, usize> = (0..i64::try_from(records).expect("few")).map(|offset| (offset, 1)).collect();
        prop_assert_eq!(&world.landed, &once);
        let committed = world.committed.expect("something was committed");
        prop_assert_eq!(usize::try_from(committed.next.0).expect("positive"), records);
        prop_assert_eq!(committed.note, "");
    }
}

#[test]
fn what_kafka_dropped_is_told_as_a_gap() {
    let mut lane = lane(Some(&Commit { lane: ID, next: Offset(10), note: String::new() }));
    let limits = Limits { rows: 10, bytes: usize::MAX, age: Duration::from_secs(1) };
    let input = Input { lane: ID, offset: Offset(14), produced_at_ms: 0, payload: b"" };
    let gap = lane.take(&input, &limits, Instant::now()).expect("offsets rise").gap.expect("a gap");
    assert_eq!((gap.first, gap.last), (Offset(10), Offset(13)));
}

#[test]
fn a_partition_that_begins_anew_is_read_again_but_never_in_the_middle_of_a_batch() {
    let limits = Limits { rows: 10, bytes: usize::MAX, age: Duration::from_secs(1) };
    let input = |offset| Input { lane: ID, offset: Offset(offset), produced_at_ms: 0, payload: b"" };
    let mut lane = lane(Some(&Commit { lane: ID, next: Offset(10), note: "v1 pending 12".into() }));
    let taken = lane.take(&input(0), &limits, Instant::now()).expect("nothing is under way");
    assert_eq!((taken.rewound_from, taken.gap), (Some(Offset(10)), None));
    assert!(lane.take(&input(0), &limits, Instant::now()).is_err());
}
