//! After some failures in a row the service is left alone for a while; then one request tries it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Breaker {
    failures_max: u32,
    open_for: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    /// All may ask; so many failed in a row.
    Closed { failures: u32 },
    /// Nobody may ask before.
    Open { until: Instant },
    /// One is asking.
    Trying { since: Instant },
}

/// Leave to ask once. Dropped without an outcome it counts neither way, and the next may try.
pub(super) struct Trial<'a> {
    breaker: &'a Breaker,
    alone: bool,
    settled: bool,
}

impl Breaker {
    pub(super) fn new(failures_max: u32, open_for: Duration) -> Self {
        let breaker = Self { failures_max, open_for, state: Mutex::new(State::Closed { failures: 0 }) };
        breaker.set(|_| State::Closed { failures: 0 });
        breaker
    }

    /// None while the service is left alone.
    pub(super) fn admit(&self, now: Instant) -> Option<Trial<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = match *state {
            State::Closed { .. } => false,
            State::Open { until } if now >= until => {
                *state = State::Trying { since: now };
                true
            }
            State::Open { .. } | State::Trying { .. } => return None,
        };
        Some(Trial { breaker: self, alone, settled: false })
    }

    /// Whether it was closed before, and whether it is now.
    fn set(&self, to: impl FnOnce(State) -> State) -> (bool, bool) {
        let is_closed = |state| matches!(state, State::Closed { .. });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = to(before);
        let outcome = (is_closed(before), is_closed(*state));
        metrics::gauge!("fleetpulse_gateway_hook_open").set(if outcome.1 { 0.0 } else { 1.0 });
        outcome
    }
}

impl Trial<'_> {
    /// The service answered. True where it was left alone before.
    pub(super) fn succeeded(mut self) -> bool {
        self.settled = true;
        let alone = self.alone;
        let (was_closed, _) = self.breaker.set(|state| match state {
            // Asked before it was left alone: the one that tries decides.
            State::Open { .. } | State::Trying { .. } if !alone => state,
            _ => State::Closed { failures: 0 },
        });
        alone && !was_closed
    }

    /// It did not. True where it is left alone from now on, and was not before.
    pub(super) fn failed(mut self, now: Instant) -> bool {
        self.settled = true;
        let (alone, open) = (self.alone, State::Open { until: now + self.breaker.open_for });
        let failures_max = self.breaker.failures_max;
        let (was_closed, is_closed) = self.breaker.set(|state| match state {
            State::Closed { failures } if failures + 1 >= failures_max => open,
            State::Closed { failures } => State::Closed { failures: failures + 1 },
            _ if alone => open,
            state => state,
        });
        was_closed && !is_closed
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if self.alone && !self.settled {
            self.breaker.set(|state| match state {
                State::Trying { since } => State::Open { until: since },
                state => state,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_failures_in_a_row_it_opens_and_one_tries() {
        let (start, pause) = (Instant::now(), Duration::from_secs(5));
        let breaker = Breaker::new(2, pause);
        let trial = |at| breaker.admit(at);
        assert!(!trial(start).expect("closed").failed(start));
        assert!(!trial(start).expect("closed").succeeded());
        assert!(!trial(start).expect("closed").failed(start), "the row was broken");
        assert!(trial(start).expect("closed").failed(start), "two in a row");
        assert!(trial(start).is_none());
        let later = start + pause;
        let one = trial(later).expect("half open");
        assert!(trial(later).is_none(), "one at a time");
        assert!(!one.failed(later), "it was open already");
        assert!(trial(later).is_none());
        let again = later + pause;
        drop(trial(again).expect("half open"));
        let one = trial(again).expect("who gave up lets the next try");
        assert!(one.succeeded());
        assert!(trial(again).is_some() && trial(again).is_some());
    }

    #[test]
    fn an_answer_to_an_old_question_does_not_close_it() {
        let now = Instant::now();
        let breaker = Breaker::new(1, Duration::from_secs(5));
        let old = breaker.admit(now).expect("closed");
        assert!(breaker.admit(now).expect("closed").failed(now));
        assert!(!old.succeeded());
        assert!(breaker.admit(now).is_none());
    }
}
