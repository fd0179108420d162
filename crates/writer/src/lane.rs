//! What one partition is doing: a state machine without I/O or clock. The driver feeds it records and outcomes and does what it
//! answers.
//!
//! ```text
//!            due                committed             landed
//!   Idle ----------> Announcing ---------> Inserting ----------> Concluding ---> Idle
//!     |                  ^                     |        committed
//!     | replay           +---------------------+ the next batch is due already: its announcement concludes this one
//!     +------------------------> Inserting
//! ```
//!
//! A batch that is announced for the first time goes out with the others of its round ([`crate::round`]); every other one alone, and asks.
//!
//! At most one batch is under way and one fills. A commit that Kafka did not take is tried again until it is taken, or until
//! the partition is taken away and the lane is dropped: its rows belong to the next owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Assigned, Commit, CommitError, Lane as Id, Offset, Start};

use crate::batch::{Batch, CloseReason, Gap, Limits};
use crate::insert::Landing;
use crate::note::{self, Announced, NotUnderstood};
use crate::round::{Round, Rounds};
use crate::row::Input;

/// After a commit that Kafka could not take.
const COMMIT_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// One partition that is ours.
#[derive(Clone)]
pub(crate) struct Lane {
    id: Id,
    filling: Option<Batch>,
    state: State,
    /// A batch that was announced before it was ours.
    replay: Option<Announced>,
    /// Where reading starts; an older record would be a bug of the client, a newer first one is a gap.
    next: Option<Offset>,
    /// Nothing was ever committed, or what was is forgotten: then rows may stand already. So every batch asks, until one finds none.
    unknown: bool,
}

#[derive(Clone)]
enum State {
    Idle,
    /// `again`: Kafka did not take its announcement at once, nor that of others in its round.
    Announcing {
        batch: Arc<Batch>,
        again: bool,
    },
    Inserting(Arc<Batch>),
    Concluding(Offset),
    /// A commit failed and is tried again.
    Again {
        at: Instant,
        then: Box<State>,
    },
}

/// What the driver is to do.
pub(crate) enum Step {
    /// Commit; its outcome goes to [`Lane::committed`].
    Commit(Commit),
    /// Insert until it has landed; then call [`Lane::landed`].
    Insert(Insert),
}

/// A batch to be inserted.
#[derive(Clone)]
pub(crate) enum Insert {
    /// It was just announced, and nothing of it can stand: with the others of its round.
    Together(Arc<Batch>, Round),
    /// It may stand already, wholly or in part: alone, asking first.
    Alone(Arc<Batch>),
}

/// What came of a record.
pub(crate) struct Taken {
    pub gap: Option<Gap>,
    /// The record expected, where an older one came: the partition begins anew.
    pub rewound_from: Option<Offset>,
    pub step: Option<Closing>,
}

/// A partition went backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offset {} came after {} was expected", found.0, expected.0)]
pub(crate) struct Rewound {
    pub expected: Offset,
    pub found: Offset,
}

/// A step, and why a batch was closed if one was.
pub(crate) type Closing = (Step, Option<CloseReason>);

impl Lane {
    pub(crate) fn new(assigned: &Assigned) -> Result<Self, NotUnderstood> {
        let (next, replay) = match &assigned.start {
            Start::Oldest => (None, None),
            Start::Committed(next, note) => (Some(*next), note::parse(note)?),
        };
        let unknown = next.is_none();
        Ok(Self { id: assigned.lane, filling: None, state: State::Idle, replay, next, unknown })
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// Where it comes before one that is under way: offsets that go backwards make no range.
    pub(crate) fn take(
        &mut self,
        record: &Input<'_>,
        limits: &Limits,
        rounds: &mut Rounds,
        now: Instant,
    ) -> Result<Taken, Rewound> {
        let offset = record.offset;
        let expected = self.next.replace(Offset(offset.0 + 1));
        let rewound_from = expected.filter(|expected| *expected > offset);
        if let Some(expected) = rewound_from {
            if !self.is_empty() {
                return Err(Rewound { expected, found: offset });
            }
            self.replay = None;
        }
        let gap = expected.filter(|expected| *expected < offset).map(|first| Gap {
            first,
            last: Offset(offset.0 - 1),
            found_at_ms: record.produced_at_ms,
        });
        let mut step = None;
        if self.replay.as_ref().is_some_and(|announced| announced.last < offset) {
            // The end of the announced range is gone from Kafka: what is left of it is the batch.
            step = self.close(CloseReason::Replay, rounds, now);
            self.replay = None;
        }
        match &mut self.filling {
            Some(batch) => batch.push(record, gap),
            None => self.filling = Some(Batch::open(record, gap, now)),
        }
        if step.is_none() && matches!(self.state, State::Idle) {
            step = self.full(limits).and_then(|reason| self.close(reason, rounds, now));
        }
        Ok(Taken { gap, rewound_from, step })
    }

    /// What to do now, if anything. `pressed`: memory is short, so what can be closed is.
    pub(crate) fn step(
        &mut self,
        limits: &Limits,
        pressed: bool,
        rounds: &mut Rounds,
        now: Instant,
    ) -> Option<Closing> {
        match &self.state {
            State::Idle => {
                let reason = self.due(limits, pressed, now)?;
                self.close(reason, rounds, now)
            }
            State::Again { at, .. } if *at <= now => {
                let State::Again { then, .. } = std::mem::replace(&mut self.state, State::Idle) else {
                    unreachable!("matched above")
                };
                self.state = *then;
                self.commit().map(|commit| (Step::Commit(commit), None))
            }
            _ => None,
        }
    }

    /// Closes what fills, due or not, where it fits into a round that goes out now.
    pub(crate) fn join(&mut self, rounds: &mut Rounds, now: Instant) -> Option<Closing> {
        let joins = matches!(self.state, State::Idle) && self.replay.is_none() && !self.unknown;
        let joins = joins && self.filling.as_ref().is_some_and(|batch| rounds.has_room(batch));
        joins.then(|| self.close(CloseReason::Joined, rounds, now)).flatten()
    }

    /// Closes what fills, whether it is due or not. For a partition that goes away.
    pub(crate) fn close_now(&mut self, rounds: &mut Rounds, now: Instant) -> Option<Closing> {
        if self.replay.is_some() {
            // It stays announced; the next owner reads it again.
            self.filling = None;
        }
        matches!(self.state, State::Idle).then(|| self.close(CloseReason::Leaving, rounds, now)).flatten()
    }

    /// A commit ended.
    pub(crate) fn committed(&mut self, outcome: &Result<(), CommitError>, now: Instant) -> Option<Step> {
        match (std::mem::replace(&mut self.state, State::Idle), outcome) {
            (State::Announcing { batch, again }, Ok(())) => {
                self.state = State::Inserting(batch.clone());
                Some(Step::Insert(match &batch.round {
                    Some(round) if !again => Insert::Together(batch.clone(), round.clone()),
                    _ => Insert::Alone(batch),
                }))
            }
            (State::Concluding(_), Ok(())) => None,
            (State::Announcing { batch, .. }, Err(_)) => {
                self.again(State::Announcing { batch, again: true }, now);
                None
            }
            (state @ State::Concluding(_), Err(_)) => {
                self.again(state, now);
                None
            }
            (other, _) => {
                // The outcome of a commit that is not waited for.
                self.state = other;
                None
            }
        }
    }

    fn again(&mut self, then: State, now: Instant) {
        self.state = State::Again { at: now + COMMIT_AGAIN_AFTER, then: Box::new(then) };
    }

    /// Its round did not land for certain: the batch under way goes on alone.
    pub(crate) fn alone(&self) -> Option<Arc<Batch>> {
        match &self.state {
            State::Inserting(batch) => Some(batch.clone()),
            _ => None,
        }
    }

    /// The round that its commit announces, where that is sent for the first time.
    pub(crate) fn announcing(&self) -> Option<&Round> {
        match &self.state {
            State::Announcing { batch, again: false } => batch.round.as_ref(),
            _ => None,
        }
    }

    /// The batch under way has landed.
    pub(crate) fn landed(
        &mut self,
        landing: Landing,
        limits: &Limits,
        rounds: &mut Rounds,
        now: Instant,
    ) -> Option<Closing> {
        let State::Inserting(batch) = &self.state else {
            return None;
        };
        let next = Offset(batch.last.0 + 1);
        self.unknown &= landing.found > 0;
        self.state = State::Idle;
        if let Some(reason) = self.due(limits, false, now) {
            // One commit concludes this batch and announces the next.
            return self.close(reason, rounds, now);
        }
        self.state = State::Concluding(next);
        self.commit().map(|commit| (Step::Commit(commit), None))
    }

    /// Whether nothing is under way and nothing fills.
    pub(crate) fn is_empty(&self) -> bool {
        self.filling.is_none() && matches!(self.state, State::Idle)
    }

    /// Whether reading on would only pile up: the next batch is full (or memory is short) while one is under way.
    pub(crate) fn is_full(&self, limits: &Limits, pressed: bool) -> bool {
        let full = self.full(limits).is_some() || (pressed && self.filling.is_some());
        full && !matches!(self.state, State::Idle)
    }

    /// Whether every record before `end` was read.
    pub(crate) fn has_read_to(&self, end: Offset) -> bool {
        self.next.is_some_and(|next| next >= end)
    }

    /// Bytes of both batches.
    pub(crate) fn bytes(&self) -> usize {
        let under_way = match &self.state {
            State::Announcing { batch, .. } | State::Inserting(batch) => batch.bytes,
            State::Again { then, .. } => match &**then {
                State::Announcing { batch, .. } => batch.bytes,
                _ => 0,
            },
            State::Idle | State::Concluding(_) => 0,
        };
        under_way + self.filling.as_ref().map_or(0, |batch| batch.bytes)
    }

    /// Whether what fills is complete by its size.
    fn full(&self, limits: &Limits) -> Option<CloseReason> {
        let batch = self.filling.as_ref()?;
        match &self.replay {
            // Exactly the range that was announced, whatever its size.
            Some(announced) => (batch.last >= announced.last).then_some(CloseReason::Replay),
            None => batch.full(limits),
        }
    }

    /// Whether it is time to close what fills.
    fn due(&self, limits: &Limits, pressed: bool, now: Instant) -> Option<CloseReason> {
        let aged = || {
            let batch = self.filling.as_ref().filter(|_| self.replay.is_none())?;
            if pressed {
                return Some(CloseReason::Bytes);
            }
            (now.saturating_duration_since(batch.opened_at) >= limits.age).then_some(CloseReason::Age)
        };
        self.full(limits).or_else(aged)
    }

    fn close(&mut self, reason: CloseReason, rounds: &mut Rounds, now: Instant) -> Option<Closing> {
        let mut batch = self.filling.take()?;
        batch.closed_at = now;
        let step = match self.replay.take() {
            Some(announced) => {
                batch.round = announced.round;
                batch.replayed = true;
                let batch = Arc::new(batch);
                self.state = State::Inserting(batch.clone());
                Step::Insert(Insert::Alone(batch))
            }
            None => {
                // One that asks in any case is in no round.
                batch.round = (!self.unknown).then(|| rounds.join(&batch));
                self.state = State::Announcing { batch: Arc::new(batch), again: false };
                Step::Commit(self.commit()?)
            }
        };
        Some((step, Some(reason)))
    }

    /// The commit that the state waits for.
    fn commit(&self) -> Option<Commit> {
        match &self.state {
            State::Announcing { batch, .. } => {
                let note = note::pending(batch.last, batch.round.as_ref());
                Some(Commit { lane: self.id, next: batch.first, note })
            }
            State::Concluding(next) => Some(Commit { lane: self.id, next: *next, note: String::new() }),
            State::Idle | State::Inserting(_) | State::Again { .. } => None,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
