//! What there is in the model, and what an event does to it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Assigned, Commit, CommitError, Lane as Id, Offset, Partition, Start, Stream};
use uuid::Uuid;

use super::table::{Attempt, Sent, Stage, Table, partition, range, rows};
use super::{Answer, Back, Event, Fate, First, WRITERS};
use crate::batch::{Batch, Limits};
use crate::insert::Landing;
use crate::lane::{Insert, Lane, State, Step};
use crate::round::{Round, Rounds};
use crate::row::Input;

const LATER: Duration = Duration::from_secs(2);

/// A round under way: its batches, with their assignments.
#[derive(Clone)]
struct UnderWay {
    round: Round,
    members: Vec<(usize, u64)>,
    batches: Vec<Arc<Batch>>,
    sent: Sent,
}

#[derive(Clone)]
struct Owned {
    lane: Lane,
    assignment: u64,
    next: usize,
    attempt: Option<Attempt>,
}

/// Commits that were sent together, and whose batches are in the rounds that they announce.
#[derive(Clone, Debug)]
struct Request {
    commits: Vec<Commit>,
    members: BTreeMap<Round, Vec<(usize, u64)>>,
}

#[derive(Clone)]
struct Writer {
    lanes: BTreeMap<usize, Owned>,
    rounds: Rounds,
    requests: Vec<Request>,
    under_way: Vec<UnderWay>,
    /// The group has given its partitions away.
    expelled: bool,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) logs: Vec<Vec<Vec<u8>>>,
    owners: Vec<usize>,
    committed: Vec<Option<Commit>>,
    table: Table,
    adrift: Vec<Sent>,
    writers: Vec<Writer>,
    assignments: u64,
    lives: u128,
    pub(super) faults: usize,
    now: Instant,
    limits: Limits,
}

fn id(partition: usize) -> Id {
    Id { stream: Stream::Events, partition: Partition(i32::try_from(partition).expect("few")) }
}

fn lane(partition: usize, committed: Option<&Commit>) -> Lane {
    let start = committed.map_or(Start::Oldest, |commit| Start::Committed(commit.next, commit.note.clone()));
    Lane::new(&Assigned { lane: id(partition), start }).expect("a note of our own")
}

impl Writer {
    fn has(&self, partition: usize, assignment: u64) -> bool {
        self.lanes.get(&partition).is_some_and(|owned| owned.assignment == assignment)
    }
}

impl World {
    pub(super) fn new(records: &[usize], rows: usize) -> Self {
        let limits = Limits { rows, bytes: usize::MAX, age: Duration::from_secs(1) };
        let log = |records: &usize| (0..*records).map(|number| number.to_string().into_bytes()).collect();
        let mut world = Self {
            logs: records.iter().map(log).collect(),
            owners: vec![0; records.len()],
            committed: vec![None; records.len()],
            table: Table::default(),
            adrift: Vec::new(),
            writers: Vec::new(),
            assignments: 0,
            lives: 0,
            faults: 0,
            now: Instant::now(),
            limits,
        };
        world.writers = (0..WRITERS).map(|_| world.born()).collect();
        (0..records.len()).for_each(|partition| world.assign(partition, 0));
        world
    }

    /// With positions committed, as after a first batch: only then do partitions go in rounds.
    pub(super) fn begun(records: &[usize], rows: usize) -> Self {
        let mut world = Self::new(records, rows);
        for partition in 0..records.len() {
            let begin = Commit { lane: id(partition), next: Offset(0), note: String::new() };
            world.committed[partition] = Some(begin);
            world.assign(partition, 0);
        }
        world
    }

    fn born(&mut self) -> Writer {
        self.lives += 1;
        Writer {
            lanes: BTreeMap::new(),
            rounds: Rounds::new(Uuid::from_u128(self.lives), self.limits),
            requests: Vec::new(),
            under_way: Vec::new(),
            expelled: false,
        }
    }

    fn assign(&mut self, partition: usize, to: usize) {
        self.assignments += 1;
        self.owners[partition] = to;
        let committed = self.committed[partition].as_ref();
        let next = committed.map_or(0, |commit| usize::try_from(commit.next.0).expect("positive"));
        let lane = lane(partition, committed);
        let owned = Owned { lane, assignment: self.assignments, next, attempt: None };
        self.writers[to].lanes.insert(partition, owned);
    }

    pub(super) fn happen(&mut self, event: Event) {
        self.faults += usize::from(event.is_fault());
        match event {
            Event::Read(writer, partition) => self.read(writer, partition),
            Event::Time(writer) => self.time(writer),
            Event::Commit(writer, answer) => self.commit(writer, answer),
            Event::Asked(writer, partition) => self.asked(writer, partition),
            Event::Alone(writer, partition, fate) => self.alone(writer, partition, fate),
            Event::Round(writer, fate) => self.round(writer, fate),
            Event::Crash(writer, back) => self.crash(writer, back),
            Event::Move(moved, answer) => {
                let (from, to) = (self.owners[moved], 1 - self.owners[moved]);
                if !self.writers[from].expelled && !self.writers[to].expelled {
                    // What was asked for is answered before the partition is given back, and heard of after.
                    let requests = std::mem::take(&mut self.writers[from].requests);
                    requests.iter().for_each(|request| self.take(&request.commits));
                    self.forget(from, moved);
                    requests.into_iter().for_each(|request| self.answered(from, request, answer));
                    self.assign(moved, to);
                }
            }
            Event::Expel(writer) => {
                if !self.writers[1 - writer].expelled && !self.writers[writer].expelled {
                    self.writers[writer].expelled = true;
                    self.hand_over(writer, 1 - writer);
                }
            }
            Event::Learn(writer) => {
                if self.writers[writer].expelled {
                    (0..self.logs.len()).for_each(|partition| self.forget(writer, partition));
                    self.writers[writer].requests.clear();
                    self.writers[writer].expelled = false;
                }
            }
            Event::LateLanding(first) => {
                let sent = match first {
                    First::Oldest if !self.adrift.is_empty() => Some(self.adrift.remove(0)),
                    First::Oldest => None,
                    First::Newest => self.adrift.pop(),
                };
                sent.iter().for_each(|sent| self.table.land(sent, true));
            }
            Event::Forgotten => self.forgotten(),
            Event::CloseNow(writer, partition) => {
                let now = self.now;
                let Writer { lanes, rounds, .. } = &mut self.writers[writer];
                let step = lanes.get_mut(&partition).and_then(|owned| owned.lane.close_now(rounds, now));
                self.act(writer, step.map(|(step, _)| step));
                let lanes = &self.writers[writer].lanes;
                if lanes.get(&partition).is_some_and(|owned| owned.lane.is_empty()) {
                    // Given back and taken again.
                    self.forget(writer, partition);
                    if self.owners[partition] == writer {
                        self.assign(partition, writer);
                    }
                }
            }
        }
    }

    fn hand_over(&mut self, from: usize, to: usize) {
        for partition in 0..self.owners.len() {
            if self.owners[partition] == from {
                self.assign(partition, to);
            }
        }
    }

    fn read(&mut self, writer: usize, partition: usize) {
        let Writer { lanes, rounds, .. } = &mut self.writers[writer];
        let Some(owned) = lanes.get_mut(&partition) else { return };
        let Some(payload) = self.logs[partition].get(owned.next) else { return };
        if owned.lane.is_full(&self.limits, false) {
            return;
        }
        let offset = Offset(i64::try_from(owned.next).expect("few"));
        let input = Input { lane: id(partition), offset, produced_at_ms: 0, payload };
        owned.next += 1;
        let taken = owned.lane.take(&input, &self.limits, rounds, self.now).expect("offsets rise");
        assert_eq!(taken.gap, None);
        self.act(writer, taken.step.map(|(step, _)| step));
    }

    fn time(&mut self, writer: usize) {
        self.now += LATER;
        let (limits, now) = (self.limits, self.now);
        let Writer { lanes, rounds, .. } = &mut self.writers[writer];
        let due = lanes.values_mut();
        let due = due.filter_map(|owned| Some(owned.lane.step(&limits, false, rounds, now)?.0));
        let mut steps: Vec<Step> = due.collect();
        let join = lanes.values_mut();
        steps.extend(join.filter_map(|owned| Some(owned.lane.join(rounds, now)?.0)));
        self.act(writer, steps);
    }

    /// What one turn of a driver does: all commits in one request.
    fn act(&mut self, writer: usize, steps: impl IntoIterator<Item = Step>) {
        let mut commits = Vec::new();
        for step in steps {
            match step {
                Step::Commit(commit) => commits.push(commit),
                Step::Insert(Insert::Together(batch, _) | Insert::Alone(batch)) => {
                    self.go_alone(writer, batch);
                }
            }
        }
        let writer = &mut self.writers[writer];
        writer.rounds.announced();
        if commits.is_empty() {
            return;
        }
        let mut members: BTreeMap<Round, Vec<_>> = BTreeMap::new();
        for commit in &commits {
            let partition = partition(commit.lane);
            let owned = &writer.lanes[&partition];
            if let Some(round) = owned.lane.announcing() {
                members.entry(round.clone()).or_default().push((partition, owned.assignment));
            }
        }
        writer.requests.push(Request { commits, members });
    }

    fn go_alone(&mut self, writer: usize, batch: Arc<Batch>) {
        let owned =
            self.writers[writer].lanes.get_mut(&partition(batch.lane)).expect("asked for by its lane");
        assert!(owned.attempt.replace(Attempt::begin(batch)).is_none(), "two inserts under way");
    }

    fn commit(&mut self, writer: usize, answer: Answer) {
        if self.writers[writer].requests.is_empty() {
            return;
        }
        let request = self.writers[writer].requests.remove(0);
        let taken = answer != Answer::Refused && !self.writers[writer].expelled;
        if taken {
            self.take(&request.commits);
        }
        match answer {
            Answer::TakenThenCrash => self.crash(writer, Back::WithoutPartitions),
            _ if taken => self.answered(writer, request, answer),
            _ => self.answered(writer, request, Answer::Refused),
        }
    }

    fn take(&mut self, commits: &[Commit]) {
        for commit in commits {
            self.committed[partition(commit.lane)] = Some(commit.clone());
        }
    }

    /// As `driver::Lanes::committed` does.
    fn answered(&mut self, writer: usize, request: Request, answer: Answer) {
        let outcome = match answer {
            Answer::Taken => Ok(()),
            _ => Err(CommitError("a rebalance is under way".into())),
        };
        let mut announced: BTreeMap<Round, Vec<Arc<Batch>>> = BTreeMap::new();
        let mut steps = Vec::new();
        for commit in request.commits {
            let partition = partition(commit.lane);
            let Some(owned) = self.writers[writer].lanes.get_mut(&partition) else { continue };
            match owned.lane.committed(&outcome, self.now) {
                Some(Step::Insert(Insert::Together(batch, round))) => {
                    announced.entry(round).or_default().push(batch);
                }
                step => steps.extend(step),
            }
        }
        for (round, batches) in announced {
            let members = request.members[&round].clone();
            if members.len() == batches.len() {
                let rows = batches.iter().flat_map(|batch| rows(batch)).collect();
                let sent = Sent { rows, token: round.token().to_owned() };
                self.writers[writer].under_way.push(UnderWay { round, members, batches, sent });
            } else {
                batches.into_iter().for_each(|batch| self.go_alone(writer, batch));
            }
        }
        self.act(writer, steps);
    }

    fn asked(&mut self, writer: usize, partition: usize) {
        let Some(owned) = self.writers[writer].lanes.get_mut(&partition) else { return };
        let Some(attempt) = &mut owned.attempt else { return };
        let stands = self.table.batches.contains_key(&range(&attempt.batch));
        if stands && attempt.batch.round.is_none() && matches!(attempt.stage, Stage::Asking) {
            let found = attempt.batch.len();
            owned.attempt = None;
            let step = self.landed(writer, partition, found);
            return self.act(writer, step);
        }
        attempt.asked(&mut self.table);
    }

    fn alone(&mut self, writer: usize, partition: usize, fate: Fate) {
        let Some(owned) = self.writers[writer].lanes.get_mut(&partition) else { return };
        let Some(attempt) = &mut owned.attempt else { return };
        let Some(sent) = attempt.sent().cloned() else { return };
        match fate {
            Fate::Landed => {
                self.table.land(&sent, true);
                if matches!(attempt.stage, Stage::Closing(_)) {
                    attempt.stage = Stage::AskingAgain;
                    return;
                }
                self.table.tell_alone(&attempt.batch);
                let found = attempt.found;
                owned.attempt = None;
                let step = self.landed(writer, partition, found);
                self.act(writer, step);
            }
            // It is repeated.
            Fate::Unanswered | Fate::WithoutView => {
                self.table.land(&sent, fate == Fate::Unanswered);
                *attempt = Attempt::begin(attempt.batch.clone());
            }
            Fate::Adrift | Fate::Lost => {
                *attempt = Attempt::begin(attempt.batch.clone());
                self.adrift.extend((fate == Fate::Adrift).then_some(sent));
            }
        }
    }

    fn round(&mut self, writer: usize, fate: Fate) {
        if self.writers[writer].under_way.is_empty() {
            return;
        }
        let UnderWay { round, members, batches, sent } = self.writers[writer].under_way.remove(0);
        match fate {
            Fate::Landed | Fate::Unanswered => self.table.land(&sent, true),
            Fate::WithoutView => self.table.land(&sent, false),
            Fate::Adrift => self.adrift.push(sent),
            Fate::Lost => {}
        }
        if fate == Fate::Landed {
            let batches: Vec<&Batch> = batches.iter().map(|batch| &**batch).collect();
            self.table.tell(&batches, round.token());
        }
        let whole = members.iter().all(|(partition, of)| self.writers[writer].has(*partition, *of));
        let stands = fate == Fate::Landed && whole;
        let mut steps = Vec::new();
        for (partition, assignment) in members {
            if stands {
                steps.extend(self.landed(writer, partition, 0));
            } else if self.writers[writer].has(partition, assignment) {
                let batch = self.writers[writer].lanes[&partition].lane.alone().expect("it was under way");
                self.go_alone(writer, batch);
            }
        }
        // In one turn.
        self.act(writer, steps);
    }

    fn landed(&mut self, writer: usize, partition: usize, found: usize) -> Option<Step> {
        let Writer { lanes, rounds, .. } = &mut self.writers[writer];
        let owned = lanes.get_mut(&partition).expect("it was under way");
        let (step, _) = owned.lane.landed(Landing { found }, &self.limits, rounds, self.now)?;
        Some(step)
    }

    /// The writer drops a partition; what it had sent for it alone stays on its way.
    fn forget(&mut self, writer: usize, dropped: usize) {
        let writer = &mut self.writers[writer];
        let attempt = writer.lanes.remove(&dropped).and_then(|owned| owned.attempt);
        self.adrift.extend(attempt.and_then(|attempt| attempt.sent().cloned()));
        let lanes = &writer.lanes;
        let (wanted, unwanted) = std::mem::take(&mut writer.under_way)
            .into_iter()
            .partition(|round| round.members.iter().any(|(partition, _)| lanes.contains_key(partition)));
        writer.under_way = wanted;
        let unwanted: Vec<UnderWay> = unwanted;
        self.adrift.extend(unwanted.into_iter().map(|round| round.sent));
    }

    fn crash(&mut self, writer: usize, back: Back) {
        (0..self.logs.len()).for_each(|partition| self.forget(writer, partition));
        self.writers[writer] = self.born();
        let other = 1 - writer;
        if back == Back::WithoutPartitions && !self.writers[other].expelled {
            self.hand_over(writer, other);
        } else {
            self.hand_over(writer, writer);
        }
    }

    fn forgotten(&mut self) {
        let on_its_way = self.writers.iter().any(|writer| !writer.under_way.is_empty());
        if !self.adrift.is_empty() || on_its_way {
            return;
        }
        self.table.tokens.clear();
        self.table.batch_tokens.clear();
        // One that is long on its way asks again before it goes out.
        for owned in self.writers.iter_mut().flat_map(|writer| writer.lanes.values_mut()) {
            owned.attempt = owned.attempt.take().map(|attempt| Attempt::begin(attempt.batch));
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..self.logs.iter().map(Vec::len).sum::<usize>() * 4 + 8 {
            for writer in 0..WRITERS {
                self.happen(Event::Learn(writer));
                for partition in 0..self.logs.len() {
                    self.happen(Event::Read(writer, partition));
                }
                self.happen(Event::Time(writer));
                self.happen(Event::Commit(writer, Answer::Taken));
                self.happen(Event::Round(writer, Fate::Landed));
                for partition in 0..self.logs.len() {
                    self.happen(Event::Asked(writer, partition));
                    self.happen(Event::Alone(writer, partition, Fate::Landed));
                }
                self.happen(Event::LateLanding(First::Newest));
            }
        }
    }

    /// What must hold in every state.
    pub(super) fn check(&self) {
        let doubled = self.table.rows.iter().find(|(_, count)| **count > 1);
        assert!(doubled.is_none(), "{doubled:?} stands more than once");
        let doubled = self.table.batches.iter().find(|(_, count)| **count > 1);
        assert!(doubled.is_none(), "the row of batch {doubled:?} stands more than once");
        for (partition, committed) in self.committed.iter().enumerate() {
            for offset in 0..committed.as_ref().map_or(0, |commit| commit.next.0) {
                let row = (partition, offset);
                assert!(self.table.rows.contains_key(&row), "{row:?} is committed over, and does not stand");
                assert!(self.table.view.contains(&row), "{row:?} is committed over, and no view has it");
            }
        }
    }

    /// What must hold once all is quiet.
    pub(super) fn check_settled(&self) {
        self.check();
        for (partition, log) in self.logs.iter().enumerate() {
            let all = i64::try_from(log.len()).expect("few");
            let committed = self.committed[partition].as_ref().expect("something was committed");
            assert_eq!((committed.next.0, committed.note.as_str()), (all, ""), "all is concluded");
        }
    }

    /// Everything that decides what can happen from here on; times only as far as they have passed.
    pub(super) fn key(&self) -> String {
        let mut key = String::new();
        let old = |batch: &Batch| self.now - batch.opened_at >= LATER;
        let batch = |batch: &Batch| (range(batch), batch.round.clone(), old(batch));
        for writer in &self.writers {
            for (partition, owned) in &writer.lanes {
                let lane = &owned.lane;
                let mut state = &lane.state;
                if let State::Again { at, then } = state {
                    let _infallible = write!(key, "again {} ", *at <= self.now);
                    state = then;
                }
                let _infallible = match state {
                    State::Idle => write!(key, "idle"),
                    State::Announcing { batch: under_way, again } => {
                        write!(key, "announcing {:?} {again}", batch(under_way))
                    }
                    State::Inserting(under_way) => write!(key, "inserting {:?}", batch(under_way)),
                    State::Concluding(next) => write!(key, "concluding {next:?}"),
                    State::Again { .. } => unreachable!("looked through above"),
                };
                let attempt = owned.attempt.as_ref();
                let attempt = attempt.map(|attempt| (batch(&attempt.batch), &attempt.stage, attempt.found));
                let filling = lane.filling.as_ref().map(batch);
                let _infallible = write!(
                    key,
                    "{partition} {} {filling:?} {:?} {:?} {} {attempt:?};",
                    owned.next, lane.replay, lane.next, lane.unknown
                );
            }
            let under_way: Vec<_> = writer
                .under_way
                .iter()
                .map(|round| {
                    let has = |(partition, of): &(usize, u64)| writer.has(*partition, *of);
                    (&round.sent, round.members.iter().map(has).collect::<Vec<_>>())
                })
                .collect();
            let _infallible = write!(key, "{:?} {under_way:?} {}|", writer.requests, writer.expelled);
        }
        let Table { rows, view, tokens, batches, batch_tokens } = &self.table;
        let _infallible = write!(
            key,
            "{:?} {:?} {rows:?} {view:?} {tokens:?} {batches:?} {batch_tokens:?} {:?} {}",
            self.owners, self.committed, self.adrift, self.faults
        );
        key
    }
}
