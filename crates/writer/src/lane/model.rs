//! The protocol against a model of Kafka and ClickHouse: every order of events, in every state that can be reached, for small
//! numbers of records; and long random orders for larger ones.
//!
//! The model keeps what the real ones keep: the log, one committed position with its note, a table, a view on it that may lag, a
//! row of `batches` per batch, and the tokens that the table still knows. An insert may land wholly, or in the table and not in
//! the view; its answer may be lost; one that was sent may land after its writer is dead, in the middle of its successor's work.
//! Tokens may be forgotten at any time at which nothing is adrift: that an insert does not stay on its way for thousands of others is
//! what the model assumes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Assigned, Commit, CommitError, Lane as Id, Offset, Partition, Start, Stream};
use proptest::prelude::*;

use super::{Insert, Lane, State, Step};
use crate::batch::{Batch, Limits};
use crate::insert::Landing;
use crate::row::Input;

const ID: Id = Id { stream: Stream::Events, partition: Partition(0) };
const LATER: Duration = Duration::from_secs(2);

/// What the world does next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The writer reads a record, if there is one.
    Read,
    /// Time passes, past every age and pause.
    Time,
    /// Kafka answers the commit under way.
    CommitTaken,
    CommitRefused,
    /// Kafka takes the commit, the writer dies before it knows.
    CommitTakenThenCrash,
    /// ClickHouse tells what stands of the batch under way.
    Asked,
    /// The insert under way lands and is answered.
    Landed,
    /// It lands, and the answer is lost: the writer repeats it.
    LandedUnanswered,
    /// It lands in the table and not in the view: the writer repeats it.
    LandedWithoutView,
    /// It lands, with or without the view, and the writer dies before it knows.
    LandedThenCrash,
    LandedWithoutViewThenCrash,
    /// The writer dies; its insert is still on its way.
    Crash,
    /// An insert of a dead writer lands.
    LateLanding,
    /// The table forgets its tokens.
    Forgotten,
    /// The partition goes: what fills is closed.
    CloseNow,
}

const EVENTS: [Event; 15] = [
    Event::Read,
    Event::Time,
    Event::CommitTaken,
    Event::CommitRefused,
    Event::CommitTakenThenCrash,
    Event::Asked,
    Event::Landed,
    Event::LandedUnanswered,
    Event::LandedWithoutView,
    Event::LandedThenCrash,
    Event::LandedWithoutViewThenCrash,
    Event::Crash,
    Event::LateLanding,
    Event::Forgotten,
    Event::CloseNow,
];

/// An attempt to bring a batch in.
#[derive(Clone)]
struct Attempt {
    batch: Arc<Batch>,
    /// What it inserts; none while it has not asked yet.
    rows: Option<BTreeSet<i64>>,
    found: usize,
}

#[derive(Clone, Default)]
struct Table {
    rows: BTreeMap<i64, usize>,
    view: BTreeSet<i64>,
    batches: BTreeSet<(i64, i64)>,
    tokens: BTreeSet<String>,
}

#[derive(Clone)]
struct World {
    log: Vec<Vec<u8>>,
    committed: Option<Commit>,
    table: Table,
    adrift: Vec<Attempt>,
    lane: Lane,
    next: usize,
    commit: Option<Commit>,
    attempt: Option<Attempt>,
    now: Instant,
    limits: Limits,
}

impl Attempt {
    fn begin(insert: &Insert) -> Self {
        let rows = (!insert.asks).then(|| offsets(&insert.batch).collect());
        Self { batch: insert.batch.clone(), rows, found: 0 }
    }

    fn again(&self) -> Self {
        Self { batch: self.batch.clone(), rows: None, found: 0 }
    }

    fn ask(&mut self, table: &mut Table) {
        let stands: BTreeSet<i64> =
            offsets(&self.batch).filter(|offset| table.rows.contains_key(offset)).collect();
        // What stands is brought into the view.
        table.view.extend(&stands);
        self.found = stands.len();
        self.rows = Some(offsets(&self.batch).filter(|offset| !stands.contains(offset)).collect());
    }

    /// As `insert::Attempt` names it.
    fn token(&self) -> String {
        match &self.rows {
            Some(rows) if self.found > 0 => format!("{}/{rows:?}", self.batch.token()),
            _ => self.batch.token(),
        }
    }
}

fn offsets(batch: &Batch) -> impl Iterator<Item = i64> {
    batch.first.0..=batch.last.0
}

impl Table {
    /// The table takes an insert once per token; the view takes what is missing there in any case.
    fn land(&mut self, attempt: &Attempt, with_view: bool) {
        let Some(rows) = &attempt.rows else { return };
        if !rows.is_empty() && self.tokens.insert(attempt.token()) {
            rows.iter().for_each(|offset| *self.rows.entry(*offset).or_default() += 1);
        }
        if with_view {
            self.view.extend(rows);
        }
    }
}

impl World {
    fn new(records: usize, rows: usize) -> Self {
        Self {
            log: (0..records).map(|number| number.to_string().into_bytes()).collect(),
            committed: None,
            table: Table::default(),
            adrift: Vec::new(),
            lane: lane(None),
            next: 0,
            commit: None,
            attempt: None,
            now: Instant::now(),
            limits: Limits { rows, bytes: usize::MAX, age: Duration::from_secs(1) },
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Read => self.read(),
            Event::Time => {
                self.now += LATER;
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
                    self.crash();
                }
            }
            Event::Asked => self.ask(),
            Event::Landed => {
                if let Some(attempt) = self.sent() {
                    self.table.land(&attempt, true);
                    self.table.batches.insert((attempt.batch.first.0, attempt.batch.last.0));
                    self.landed(attempt.found);
                }
            }
            Event::LandedUnanswered | Event::LandedWithoutView => {
                if let Some(attempt) = self.sent() {
                    self.table.land(&attempt, matches!(event, Event::LandedUnanswered));
                    self.attempt = Some(attempt.again());
                }
            }
            Event::LandedThenCrash | Event::LandedWithoutViewThenCrash => {
                if let Some(attempt) = self.sent() {
                    self.table.land(&attempt, matches!(event, Event::LandedThenCrash));
                    self.crash();
                }
            }
            Event::Crash => self.crash(),
            Event::LateLanding => {
                if let Some(attempt) = self.adrift.pop() {
                    self.table.land(&attempt, true);
                }
            }
            Event::Forgotten => {
                if self.adrift.is_empty() {
                    self.table.tokens.clear();
                    // An attempt of one's own that is long on its way asks again before it goes out.
                    self.attempt = self.attempt.take().map(|attempt| attempt.again());
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
            Some(Step::Insert(insert)) => {
                let attempt = Attempt::begin(&insert);
                assert!(self.attempt.replace(attempt).is_none(), "two inserts under way");
            }
        }
    }

    /// The attempt under way, where it has been sent.
    fn sent(&mut self) -> Option<Attempt> {
        let sent = self.attempt.as_ref().is_some_and(|attempt| attempt.rows.is_some());
        if sent { self.attempt.take() } else { None }
    }

    fn ask(&mut self) {
        let Some(mut attempt) = self.attempt.take_if(|attempt| attempt.rows.is_none()) else { return };
        if self.table.batches.contains(&(attempt.batch.first.0, attempt.batch.last.0)) {
            return self.landed(attempt.batch.len());
        }
        attempt.ask(&mut self.table);
        self.attempt = Some(attempt);
    }

    fn landed(&mut self, found: usize) {
        let step = self.lane.landed(Landing { found }, &self.limits, self.now);
        self.act(step.map(|(step, _)| step));
    }

    fn crash(&mut self) {
        let adrift = self.sent();
        self.adrift.extend(adrift);
        self.attempt = None;
        // A commit that was sent may be lost.
        self.commit = None;
        self.lane = lane(self.committed.as_ref());
        self.next =
            self.committed.as_ref().map_or(0, |commit| usize::try_from(commit.next.0).expect("positive"));
    }

    fn settle(&mut self) {
        for _ in 0..self.log.len() * 4 + 8 {
            for event in [
                Event::Read,
                Event::Time,
                Event::CommitTaken,
                Event::Asked,
                Event::Landed,
                Event::LateLanding,
            ] {
                self.happen(event);
            }
        }
    }

    /// What must hold in every state.
    fn check(&self) {
        let doubled = self.table.rows.iter().find(|(_, count)| **count > 1);
        assert!(doubled.is_none(), "{doubled:?} stands more than once");
        let committed = self.committed.as_ref().map_or(0, |commit| commit.next.0);
        for offset in 0..committed {
            assert!(self.table.rows.contains_key(&offset), "{offset} is committed over, and does not stand");
            assert!(self.table.view.contains(&offset), "{offset} is committed over, and no view has it");
        }
    }

    /// What must hold once all is quiet.
    fn check_settled(&self) {
        self.check();
        let all = i64::try_from(self.log.len()).expect("few");
        assert!((0..all).all(|offset| self.table.rows.contains_key(&offset)), "every record stands");
        assert!((0..all).all(|offset| self.table.view.contains(&offset)), "every record is in the view");
        let committed = self.committed.as_ref().expect("something was committed");
        assert_eq!((committed.next.0, committed.note.as_str()), (all, ""));
    }

    /// Everything that decides what can happen from here on; times only as far as they have passed.
    fn key(&self) -> String {
        let mut key = String::new();
        let batch = |batch: &Batch| (batch.first.0, batch.last.0, self.now - batch.opened_at >= LATER);
        let attempt = |attempt: &Attempt| (attempt.batch.first.0, attempt.batch.last.0, attempt.rows.clone());
        let lane = &self.lane;
        let mut state = &lane.state;
        if let State::Again { at, then } = state {
            let _infallible = write!(key, "again {} ", *at <= self.now);
            state = then;
        }
        let _infallible = match state {
            State::Idle => write!(key, "idle"),
            State::Announcing(under_way) => write!(key, "announcing {:?}", batch(under_way)),
            State::Inserting(under_way) => write!(key, "inserting {:?}", batch(under_way)),
            State::Concluding(next) => write!(key, "concluding {next:?}"),
            State::Again { .. } => unreachable!("looked through above"),
        };
        let _infallible = write!(
            key,
            " {:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            lane.filling.as_ref().map(batch),
            lane.replay,
            lane.next,
            lane.unknown,
            self.committed,
            self.table.rows,
            self.table.view,
            self.table.batches,
            self.table.tokens,
            self.adrift.iter().map(attempt).collect::<Vec<_>>(),
            self.commit,
            self.attempt.as_ref().map(attempt),
        );
        key
    }
}

fn lane(committed: Option<&Commit>) -> Lane {
    let start = committed.map_or(Start::Oldest, |commit| Start::Committed(commit.next, commit.note.clone()));
    Lane::new(&Assigned { lane: ID, start }).expect("a note of our own")
}

/// Every order of events, until no new state is found. Two inserts adrift at once are the most that is looked at.
fn every_state(records: usize, rows: usize) -> usize {
    let mut seen = HashSet::new();
    let mut to_visit = vec![World::new(records, rows)];
    while let Some(world) = to_visit.pop() {
        let mut quiet = world.clone();
        quiet.settle();
        quiet.check_settled();
        for event in EVENTS {
            let mut after = world.clone();
            after.happen(event);
            after.check();
            if after.adrift.len() <= 2 && seen.insert(after.key()) {
                to_visit.push(after);
            }
        }
    }
    seen.len()
}

#[test]
fn every_record_lands_once_in_every_order_of_events() {
    // A batch of two and one of one; and batches of one.
    let states = every_state(3, 2) + every_state(2, 1);
    assert!(states > 1_000, "only {states} states were reached: the model does not move");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_record_lands_once_whatever_crashes(
        records in 1_usize..20,
        rows in 1_usize..6,
        events in proptest::collection::vec(proptest::sample::select(&EVENTS[..]), 0..160),
    ) {
        let mut world = World::new(records, rows);
        for event in events {
            world.happen(event);
            world.check();
        }
        world.settle();
        world.settle();
        world.check_settled();
    }
}

#[test]
fn what_kafka_dropped_is_told_as_a_gap_and_belongs_to_the_batch_after_it() {
    let mut lane = lane(Some(&Commit { lane: ID, next: Offset(10), note: String::new() }));
    let limits = Limits { rows: 1, bytes: usize::MAX, age: Duration::from_secs(1) };
    let input = Input { lane: ID, offset: Offset(14), produced_at_ms: 7, payload: b"" };
    let taken = lane.take(&input, &limits, Instant::now()).expect("offsets rise");
    let gap = taken.gap.expect("a gap");
    assert_eq!((gap.first, gap.last, gap.found_at_ms), (Offset(10), Offset(13), 7));
    // Announced from where the gap begins: who replays the batch finds the gap again.
    let Some((Step::Commit(commit), _)) = taken.step else { panic!("no announcement") };
    assert_eq!((commit.next, commit.note.as_str()), (Offset(10), "v1 pending 14"));
}

#[test]
fn a_replay_of_which_kafka_has_dropped_everything_is_a_gap() {
    let mut lane = lane(Some(&Commit { lane: ID, next: Offset(10), note: "v1 pending 12".into() }));
    let limits = Limits { rows: 1, bytes: usize::MAX, age: Duration::from_secs(1) };
    let input = Input { lane: ID, offset: Offset(20), produced_at_ms: 7, payload: b"" };
    let taken = lane.take(&input, &limits, Instant::now()).expect("offsets rise");
    let gap = taken.gap.expect("a gap");
    assert_eq!((gap.first, gap.last), (Offset(10), Offset(19)));
    assert!(matches!(taken.step, Some((Step::Commit(_), _))), "it is a batch like any other");
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
