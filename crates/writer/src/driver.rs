//! The driver: one thread that polls the consumer, feeds the lanes and does what they answer.
//!
//! Everything about a partition happens on this thread, in the order in which Kafka told it; inserts alone run
//! elsewhere and report back over a bounded channel (one slot a partition is enough: a lane has one insert under way).
//! Whether a round landed is decided here, where it is known which partitions are still ours.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bus::{Assigned, Commit, CommitError, ConsumeError, Consumer, Lane as Id, Polled, Record, Revocation};
use metrics::Counter;
use ops::Condition;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::batch::{Batch, CloseReason, Limits};
use crate::insert::{Inserter, LandError, Landing};
use crate::lane::{Closing, Insert, Lane, Step};
use crate::round::{Round, Rounds};
use crate::row::Input;
use crate::settle::Turn;
use crate::{Begin, Config, Leaving, RunError};

/// How long a poll waits for the next record: the delay with which a landed insert is noticed while nothing comes in.
const POLL: Duration = Duration::from_millis(10);
/// Records taken between two looks at the lanes.
const RECORDS_PER_TURN: usize = 2_000;
/// More partitions than this at once and their inserts wait for each other.
const OUTCOMES: usize = 1_024;
/// How long a rebalance waits for the batches under way; what has not landed by then is the next owner's to repeat.
const REVOKE_GRACE: Duration = Duration::from_secs(5);
/// How long Kafka may take to say where a partition ends before the writer leaves without knowing.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;

pub(crate) struct Driver {
    /// Before the consumer, as they are dropped: what is under way ends before the partitions are given back.
    state: Lanes,
    consumer: Consumer,
    grace: Duration,
    leaving: Leaving,
    joined: Condition,
}

/// Every partition that is ours, and what is under way.
struct Lanes {
    limits: Limits,
    buffered_bytes_max: usize,
    inserter: Inserter,
    runtime: Handle,
    lanes: BTreeMap<Id, Owned>,
    rounds: Rounds,
    under_way: HashMap<Round, UnderWay>,
    commits: Vec<Commit>,
    landed: (SyncSender<Landed>, Receiver<Landed>),
    /// Counts assignments, so that an insert of a partition that went and came back is not taken for a new one.
    assignments: u64,
    turn: Turn,
}

struct Owned {
    lane: Lane,
    assignment: u64,
    paused: bool,
    insert: Option<AbortHandle>,
    consumed: Consumed,
}

/// Records that were taken of a partition. Told once a turn: a counter that others read, too, costs more than counting here.
struct Consumed {
    counter: Counter,
    untold: u64,
}

/// A round whose announcement was sent.
#[derive(Default)]
struct UnderWay {
    /// Its partitions, as they were assigned then.
    members: Vec<(Id, u64)>,
    /// None before Kafka has taken the announcement.
    insert: Option<AbortHandle>,
}

/// How an insert ended.
enum Landed {
    Alone {
        id: Id,
        assignment: u64,
        outcome: Result<Landing, LandError>,
    },
    /// `reported`: with success.
    Round {
        round: Round,
        reported: bool,
    },
}

/// Tells the driver how an insert ended, however it ends: a panic is heard, too.
struct Report {
    landed: Option<Landed>,
    to: SyncSender<Landed>,
}

impl Consumed {
    fn tell(&mut self) {
        self.counter.increment(std::mem::take(&mut self.untold));
    }
}

impl Drop for Consumed {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Report {
    /// `unless_told`: what is told of an insert that ends without a word.
    fn new(unless_told: Landed, to: &SyncSender<Landed>) -> Self {
        Self { landed: Some(unless_told), to: to.clone() }
    }

    fn end(mut self, landed: Landed) {
        self.landed = Some(landed);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(landed) = self.landed.take() {
            // The driver is gone: so is its interest.
            let _unheard = self.to.send(landed);
        }
    }
}

impl Driver {
    pub(crate) fn new(begin: &Begin<'_>, consumer: Consumer, runtime: Handle) -> Self {
        let state = Lanes::new(begin.config, begin.inserter.clone(), begin.turn.clone(), runtime);
        let grace = Duration::from_millis(begin.config.shutdown_grace_ms.into());
        Self { consumer, state, grace, leaving: begin.leaving, joined: begin.joined.clone() }
    }

    /// Runs until `stop`, then finishes what is under way. Leaves the group at the end.
    pub(crate) fn run(mut self, stop: &CancellationToken) -> Result<(), RunError> {
        while !stop.is_cancelled() {
            self.turn(Reading::On)?;
        }
        let deadline = Instant::now() + self.grace;
        if self.leaving == Leaving::AtTheEnd {
            self.read_to_the_end(deadline)?;
        }
        let all: Vec<Id> = self.state.lanes.keys().copied().collect();
        self.finish(&all, deadline)
    }

    /// Reads on until what stands on Kafka now was read, or time is up: what is left then is the next writer's.
    fn read_to_the_end(&mut self, deadline: Instant) -> Result<(), RunError> {
        let mut ends = Vec::with_capacity(self.state.lanes.len());
        for id in self.state.lanes.keys() {
            match self.consumer.end(*id, END_TIMEOUT) {
                Ok(Some(end)) => ends.push((*id, end)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(lane = %id, error = &error as &dyn std::error::Error, "leaving without having read all");
                    return Ok(());
                }
            }
        }
        let unread = |state: &Lanes| {
            ends.iter()
                .any(|(id, end)| state.lanes.get(id).is_some_and(|owned| !owned.lane.has_read_to(*end)))
        };
        while unread(&self.state) && Instant::now() < deadline {
            self.turn(Reading::On)?;
        }
        Ok(())
    }

    /// One look at everything: what the consumer has, what has landed, what is due.
    fn turn(&mut self, reading: Reading) -> Result<(), RunError> {
        let mut wait = POLL;
        // Asked for once a turn: a batch that seems a few milliseconds older than it is goes out that much sooner.
        let mut now = None;
        for _ in 0..RECORDS_PER_TURN {
            match self.consumer.poll(wait)? {
                Polled::Nothing => break,
                Polled::Record(record) => {
                    self.state.take(&record, *now.get_or_insert_with(Instant::now))?;
                }
                Polled::Committed(ids, outcome) => self.state.committed(&ids, &outcome),
                Polled::Assigned(assigned) => {
                    self.state.assigned(&assigned)?;
                    if reading == Reading::Off {
                        assigned.iter().try_for_each(|new| self.state.pause(&self.consumer, new.lane))?;
                    }
                    self.joined.set(true);
                }
                Polled::Revoked(revocation) => {
                    self.revoked(revocation)?;
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        self.state.lanes.values_mut().for_each(|owned| owned.consumed.tell());
        self.state.outcomes()?;
        let pressed = self.state.is_pressed();
        if reading == Reading::On {
            self.state.close_due(pressed);
            self.state.throttle(&self.consumer, pressed)?;
        }
        self.commit();
        Ok(())
    }

    /// Partitions go: what is under way may land, then they are forgotten and given back.
    fn revoked(&mut self, revocation: Revocation) -> Result<(), RunError> {
        let deadline = Instant::now() + REVOKE_GRACE;
        let finished = if revocation.lost { Ok(()) } else { self.finish(&revocation.lanes, deadline) };
        for id in &revocation.lanes {
            self.state.forget(*id);
        }
        if revocation.lost {
            self.joined.set(false);
        }
        tracing::info!(partitions = revocation.lanes.len(), lost = revocation.lost, "partitions revoked");
        // Released in any case: a consumer that is dropped with a revocation unanswered never leaves the group.
        self.consumer.release(revocation)?;
        finished
    }

    /// Closes what fills in `ids` and drives on, without reading, until all is concluded or time is up.
    fn finish(&mut self, ids: &[Id], deadline: Instant) -> Result<(), RunError> {
        let all: Vec<Id> = self.state.lanes.keys().copied().collect();
        for id in all {
            self.state.pause(&self.consumer, id)?;
        }
        loop {
            self.state.close_now(ids);
            self.commit();
            if self.state.is_empty(ids) || Instant::now() >= deadline {
                return Ok(());
            }
            self.turn(Reading::Off)?;
        }
    }

    /// Commits what the lanes asked for, in one request.
    fn commit(&mut self) {
        let commits = std::mem::take(&mut self.state.commits);
        self.state.announced(&commits);
        if commits.is_empty() {
            return;
        }
        let ids: Vec<Id> = commits.iter().map(|commit| commit.lane).collect();
        if let Err(error) = self.consumer.commit(commits) {
            self.state.committed(&ids, &Err(error));
        }
    }
}

/// Whether new batches are begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    Off,
}

/// However the life as a member ended: what it had under way is the next one's, or another writer's.
impl Drop for Lanes {
    fn drop(&mut self) {
        let all: Vec<Id> = self.lanes.keys().copied().collect();
        for id in all {
            self.forget(id);
        }
    }
}

impl Lanes {
    fn new(config: &Config, inserter: Inserter, turn: Turn, runtime: Handle) -> Self {
        let limits = config.limits();
        Self {
            limits,
            buffered_bytes_max: usize::try_from(config.buffered_bytes_max).unwrap_or(usize::MAX),
            inserter,
            runtime,
            lanes: BTreeMap::new(),
            rounds: Rounds::new(Uuid::now_v7(), limits),
            under_way: HashMap::new(),
            commits: Vec::new(),
            landed: sync_channel(OUTCOMES),
            assignments: 0,
            turn,
        }
    }

    fn assigned(&mut self, assigned: &[Assigned]) -> Result<(), RunError> {
        for partition in assigned {
            self.assignments += 1;
            let lane = Lane::new(partition)
                .map_err(|source| RunError::Note { lane: partition.lane, source: source.into() })?;
            tracing::info!(lane = %partition.lane, start = ?partition.start, "partition assigned");
            let stream = partition.lane.stream.name();
            let counter = metrics::counter!("fleetpulse_writer_consumed_total", "stream" => stream);
            let consumed = Consumed { counter, untold: 0 };
            let owned = Owned { lane, assignment: self.assignments, paused: false, insert: None, consumed };
            self.lanes.insert(partition.lane, owned);
            self.turn.came(partition.lane);
        }
        Ok(())
    }

    fn take(&mut self, record: &Record<'_>, now: Instant) -> Result<(), RunError> {
        let Some(owned) = self.lanes.get_mut(&record.lane) else { return Ok(()) };
        owned.consumed.untold += 1;
        let input = Input {
            lane: record.lane,
            offset: record.offset(),
            produced_at_ms: record.produced_at_ms(),
            payload: record.payload(),
        };
        let taken = owned.lane.take(&input, &self.limits, &mut self.rounds, now);
        let taken = taken.map_err(|source| RunError::Rewound { lane: record.lane, source: source.into() })?;
        if let Some(expected) = taken.rewound_from {
            metrics::counter!("fleetpulse_writer_rewinds_total", "stream" => record.lane.stream.name())
                .increment(1);
            tracing::error!(lane = %record.lane, expected = expected.0, found = record.offset().0, "the partition begins anew: it is read from its oldest record");
        }
        if let Some(gap) = taken.gap {
            let lost = (gap.last.0 - gap.first.0 + 1).unsigned_abs();
            metrics::counter!("fleetpulse_writer_gap_records_total", "stream" => record.lane.stream.name())
                .increment(lost);
            tracing::error!(lane = %record.lane, first = gap.first.0, last = gap.last.0, "kafka dropped records before they were read");
        }
        self.act(record.lane, taken.step);
        Ok(())
    }

    fn committed(&mut self, ids: &[Id], outcome: &Result<(), CommitError>) {
        if let Err(error) = outcome {
            metrics::counter!("fleetpulse_writer_commit_failures_total").increment(1);
            tracing::info!(%error, partitions = ids.len(), "commit not taken, again");
        }
        let mut announced: BTreeMap<Round, Vec<Arc<Batch>>> = BTreeMap::new();
        for id in ids {
            let Some(owned) = self.lanes.get_mut(id) else {
                continue;
            };
            if let (Err(_), Some(round)) = (outcome, owned.lane.announcing()) {
                self.under_way.remove(round);
            }
            match owned.lane.committed(outcome, Instant::now()) {
                Some(Step::Insert(Insert::Together(batch, round))) => {
                    announced.entry(round).or_default().push(batch);
                }
                step => self.act(*id, step.map(|step| (step, None))),
            }
        }
        for (round, batches) in announced {
            self.insert_round(&round, batches);
        }
    }

    /// Takes down whose batches are in the rounds that these commits announce.
    fn announced(&mut self, commits: &[Commit]) {
        self.rounds.announced();
        for Commit { lane, .. } in commits {
            let Some(owned) = self.lanes.get(lane) else { continue };
            if let Some(round) = owned.lane.announcing() {
                let members = &mut self.under_way.entry(round.clone()).or_default().members;
                members.push((*lane, owned.assignment));
            }
        }
    }

    fn outcomes(&mut self) -> Result<(), RunError> {
        while let Ok(landed) = self.landed.1.try_recv() {
            match landed {
                Landed::Alone { id, assignment, outcome } => {
                    let Some(owned) = self.owned(id, assignment) else { continue };
                    owned.insert = None;
                    let landing =
                        outcome.map_err(|source| RunError::Insert { lane: id, source: source.into() })?;
                    self.lane_landed(id, landing);
                }
                Landed::Round { round, reported } => self.round_landed(&round, reported),
            }
        }
        Ok(())
    }

    fn lane_landed(&mut self, id: Id, landing: Landing) {
        let Some(owned) = self.lanes.get_mut(&id) else { return };
        let step = owned.lane.landed(landing, &self.limits, &mut self.rounds, Instant::now());
        self.act(id, step);
    }

    /// A reported success is one where every partition stayed ours: whoever took one over has closed the round, and ClickHouse drops
    /// what is closed and reports success.
    fn round_landed(&mut self, round: &Round, reported: bool) {
        let Some(UnderWay { members, .. }) = self.under_way.remove(round) else { return };
        let stands =
            reported && members.iter().all(|(id, assignment)| self.owned(*id, *assignment).is_some());
        for (id, assignment) in members {
            if stands {
                self.lane_landed(id, Landing::default());
            } else if let Some(batch) = self.owned(id, assignment).and_then(|owned| owned.lane.alone()) {
                self.insert_alone(batch);
            }
        }
    }

    fn owned(&mut self, id: Id, assignment: u64) -> Option<&mut Owned> {
        self.lanes.get_mut(&id).filter(|owned| owned.assignment == assignment)
    }

    fn close_due(&mut self, pressed: bool) {
        let now = Instant::now();
        let (limits, rounds) = (&self.limits, &mut self.rounds);
        let due = self.lanes.iter_mut();
        let due = due
            .filter_map(|(id, owned)| owned.lane.step(limits, pressed, rounds, now).map(|step| (*id, step)));
        let mut steps: Vec<(Id, Closing)> = due.collect();
        let join = self.lanes.iter_mut();
        steps.extend(join.filter_map(|(id, owned)| owned.lane.join(rounds, now).map(|step| (*id, step))));
        for (id, step) in steps {
            self.act(id, Some(step));
        }
    }

    fn close_now(&mut self, ids: &[Id]) {
        for id in ids {
            let Some(owned) = self.lanes.get_mut(id) else {
                continue;
            };
            let now = Instant::now();
            let again = owned.lane.step(&self.limits, false, &mut self.rounds, now);
            let step = again.or_else(|| owned.lane.close_now(&mut self.rounds, now));
            self.act(*id, step);
        }
    }

    fn act(&mut self, id: Id, step: Option<Closing>) {
        let Some((step, closed)) = step else { return };
        if let Some(reason) = closed {
            metrics::counter!("fleetpulse_writer_batches_total", "closed_by" => reason.name()).increment(1);
            if reason == CloseReason::Replay {
                tracing::info!(lane = %id, "replaying the batch that was announced before");
            }
        }
        match step {
            Step::Commit(commit) => self.commits.push(commit),
            Step::Insert(Insert::Together(batch, _) | Insert::Alone(batch)) => self.insert_alone(batch),
        }
    }

    fn insert_alone(&mut self, batch: Arc<Batch>) {
        let id = batch.lane;
        let Some(owned) = self.lanes.get_mut(&id) else { return };
        let (inserter, assignment) = (self.inserter.clone(), owned.assignment);
        let landed = move |outcome| Landed::Alone { id, assignment, outcome };
        let report = Report::new(landed(Err(LandError::Panicked)), &self.landed.0);
        // Ends by itself, or is aborted when its partition is forgotten.
        let task = self.runtime.spawn(async move { report.end(landed(inserter.until_landed(&batch).await)) });
        owned.insert = Some(task.abort_handle());
    }

    /// Where one of its partitions has gone since it was announced, its successor may have closed it.
    fn insert_round(&mut self, round: &Round, batches: Vec<Arc<Batch>>) {
        let under_way = self.under_way.get_mut(round);
        let Some(under_way) = under_way.filter(|under_way| under_way.members.len() == batches.len()) else {
            self.under_way.remove(round);
            batches.into_iter().for_each(|batch| self.insert_alone(batch));
            return;
        };
        let (inserter, name) = (self.inserter.clone(), round.clone());
        let landed = |round, reported| Landed::Round { round, reported };
        let report = Report::new(landed(round.clone(), false), &self.landed.0);
        // Ends by itself, or is aborted when the last of its partitions is forgotten.
        let task = self.runtime.spawn(async move {
            let reported = inserter.round(&batches, &name).await;
            report.end(landed(name, reported));
        });
        under_way.insert = Some(task.abort_handle());
    }

    /// Pauses partitions that would only pile up, resumes those that may go on.
    fn throttle(&mut self, consumer: &Consumer, pressed: bool) -> Result<(), ConsumeError> {
        let mut paused = 0_u32;
        for (id, owned) in &mut self.lanes {
            let full = owned.lane.is_full(&self.limits, pressed);
            match (full, owned.paused) {
                (true, false) => consumer.pause(*id)?,
                (false, true) => consumer.resume(*id)?,
                _ => {}
            }
            owned.paused = full;
            paused += u32::from(full);
        }
        metrics::gauge!("fleetpulse_writer_paused_partitions").set(paused);
        Ok(())
    }

    fn pause(&mut self, consumer: &Consumer, id: Id) -> Result<(), ConsumeError> {
        match self.lanes.get_mut(&id) {
            Some(owned) if !owned.paused => {
                owned.paused = true;
                consumer.pause(id)
            }
            _ => Ok(()),
        }
    }

    fn is_pressed(&self) -> bool {
        let bytes: usize = self.lanes.values().map(|owned| owned.lane.bytes()).sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("fleetpulse_writer_buffered_bytes").set(bytes as f64);
        bytes >= self.buffered_bytes_max
    }

    fn is_empty(&self, ids: &[Id]) -> bool {
        ids.iter().all(|id| self.lanes.get(id).is_none_or(|owned| owned.lane.is_empty()))
    }

    /// Drops everything about a partition. A commit that was asked for and not sent would pass for one of the next owner's.
    fn forget(&mut self, id: Id) {
        self.turn.went(id);
        self.commits.retain(|commit| commit.lane != id);
        if let Some(insert) = self.lanes.remove(&id).and_then(|owned| owned.insert) {
            insert.abort();
        }
        let lanes = &self.lanes;
        self.under_way.retain(|_, under_way| {
            let ours = |(id, assignment): &(Id, u64)| {
                lanes.get(id).is_some_and(|owned| owned.assignment == *assignment)
            };
            let wanted = under_way.members.iter().any(ours);
            if let (false, Some(insert)) = (wanted, &under_way.insert) {
                insert.abort();
            }
            wanted
        });
    }
}
