//! Everything a broker knows: sessions, from their beginning to their end. Synchronous; the lock around it is the
//! broker's. What messages do stands in `routing`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::charge::Ledger;
use crate::config::Config;
use crate::message::Will;
use crate::retained::Retained;
use crate::session::{Expiry, KeptWill, Session};
use crate::signal::{Hold, Signal};
use crate::tree::Tree;
use crate::{Attach, AttachError, WillFate};

/// Most sessions, queues and retained messages that one step of [`State::tick`] ends, so that it does not hold the lock
/// for long.
const TICK_STEPS_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) sessions: HashMap<u64, Session>,
    pub(crate) by_key: HashMap<Arc<str>, u64>,
    pub(crate) tree: Tree,
    pub(crate) subscriptions: usize,
    pub(crate) retained: Retained,
    /// Of what waits, of wills and of subscriptions.
    pub(crate) ledger: Arc<Ledger>,
    due: BTreeSet<(Instant, u64, Due)>,
    last: u64,
}

/// What is due for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Its will, or its end.
    End,
    /// A look through its queue for what is no longer good.
    Purge,
}

/// How much of everything there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sessions: usize,
    pub(crate) subscriptions: usize,
    pub(crate) retained: usize,
    pub(crate) retained_bytes: usize,
    pub(crate) queues_bytes: usize,
}

/// A session that has a connection (again).
pub(crate) struct Attached {
    pub(crate) session: u64,
    pub(crate) attachment: u64,
    pub(crate) signal: Arc<Signal>,
    pub(crate) present: bool,
}

impl State {
    /// `last` is the highest number that a state before this one gave: numbers never come again, or a link of before
    /// could pass for one of now.
    pub(crate) fn new(config: Config, last: u64) -> Self {
        let ledger = Ledger::new(config.queues_bytes_max);
        Self {
            config,
            sessions: HashMap::new(),
            by_key: HashMap::new(),
            tree: Tree::default(),
            subscriptions: 0,
            retained: Retained::default(),
            ledger,
            due: BTreeSet::new(),
            last,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions,
            retained: self.retained.len(),
            retained_bytes: self.retained.bytes(),
            queues_bytes: self.ledger.bytes(),
        }
    }

    pub(crate) fn last_number(&self) -> u64 {
        self.last
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Takes up the session of a key, or begins one.
    pub(crate) fn attach(
        &mut self,
        key: &str,
        attach: Attach,
        now: Instant,
    ) -> Result<Attached, AttachError> {
        let will = match attach.will {
            None => None,
            Some(will) => {
                let charge = self.ledger.charge(will.message.cost()).ok_or(AttachError::NoRoom)?;
                Some(Box::new(KeptWill { will, _charge: charge }))
            }
        };
        if let Some(&number) = self.by_key.get(key) {
            // The old connection, if it stands, ends now; its will goes out unless it waits for a session that goes on.
            let ends =
                attach.clean_start || self.sessions.get(&number).is_some_and(Session::ends_with_connection);
            self.old_will(number, ends, now);
            if ends {
                self.end(number, now);
            }
        }
        let known = self.by_key.get(key).copied();
        let number = match known {
            Some(number) => number,
            None => self.begin(key)?,
        };
        self.cancel(number);
        let attachment = self.next_number();
        let (hold, signal) = Hold::new();
        let expiry = self.bounded(attach.expiry);
        let window = attach.receive_max.min(self.config.in_flight_max).max(1);
        if let Some(session) = self.sessions.get_mut(&number) {
            session.attachment = attachment;
            if let Some(old) = session.hold.replace(hold) {
                old.taken_over();
            }
            session.expiry = expiry;
            session.expires_at = None;
            session.will = will;
            session.window = window.into();
            session.resume();
        }
        Ok(Attached { session: number, attachment, signal, present: known.is_some() })
    }

    fn begin(&mut self, key: &str) -> Result<u64, AttachError> {
        let max = self.config.sessions_max;
        if self.sessions.len() >= max as usize {
            return Err(AttachError::SessionsMax { max });
        }
        let number = self.next_number();
        let key: Arc<str> = key.into();
        self.by_key.insert(key.clone(), number);
        self.sessions.insert(number, Session::new(key));
        Ok(number)
    }

    fn bounded(&self, expiry: Expiry) -> Expiry {
        expiry.at_most(Duration::from_secs(self.config.session_expiry_max_s.into()))
    }

    /// What becomes of the will of a connection that is replaced by another one of the same client.
    fn old_will(&mut self, number: u64, session_ends: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let Some(kept) = session.will.take() else { return };
        // [MQTT-3.1.3-9]: a delayed one is not sent if a new connection continues the session in time.
        if session_ends || (session.is_connected() && kept.will.delay.is_zero()) {
            let from = session.key.clone();
            self.publish_will(*kept, &from, now);
        }
    }

    fn publish_will(&mut self, kept: KeptWill, from: &str, now: Instant) {
        metrics::counter!("fleetpulse_gateway_wills_total").increment(1);
        let message = Will::clone(&kept.will).into_message(now);
        // Its room is needed by those it goes to.
        drop(kept);
        self.route(message, Some(from), now);
    }

    /// Ends a session by its key, whatever it has.
    pub(crate) fn forget(&mut self, key: &str, now: Instant) {
        if let Some(&number) = self.by_key.get(key) {
            self.old_will(number, true, now);
            self.end(number, now);
        }
    }

    /// Ends a session; a connection that it may have is that of an older link.
    fn end(&mut self, number: u64, now: Instant) {
        self.cancel(number);
        let Some(mut session) = self.sessions.remove(&number) else { return };
        self.by_key.remove(&session.key);
        let undelivered = session.undelivered();
        if undelivered > 0 {
            // Also those of a shared subscription: another member does not get them [MQTT-4.8.2-5].
            metrics::counter!("fleetpulse_gateway_unsent_total", "reason" => "session_ended")
                .increment(undelivered as u64);
        }
        if let Some(at) = session.purge_at {
            self.due.remove(&(at, number, Due::Purge));
        }
        for filter in session.subscriptions.keys() {
            self.tree.remove(filter, number);
        }
        self.subscriptions -= session.subscriptions.len();
        if let Some(hold) = session.hold.take() {
            hold.taken_over();
        }
        if let Some(kept) = session.will.take() {
            let from = session.key.clone();
            // What waited for the client makes room first.
            drop(session);
            self.publish_will(*kept, &from, now);
        }
    }

    /// The connection is over.
    pub(crate) fn detach(&mut self, number: u64, will: WillFate, expiry: Option<Expiry>, now: Instant) {
        let expiry = expiry.map(|expiry| self.bounded(expiry));
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.hold = None;
        session.expiry = expiry.unwrap_or(session.expiry);
        if will == WillFate::Discard {
            session.will = None;
        }
        let expires_at = match session.expiry {
            Expiry::AtEnd => {
                self.end(number, now);
                return;
            }
            Expiry::After(span) => now.checked_add(span),
            Expiry::Never => None,
        };
        session.expires_at = expires_at;
        let will_at = session.will.as_ref().map(|kept| now.checked_add(kept.will.delay).unwrap_or(now));
        match will_at {
            Some(at) if at <= now => {
                if let Some(kept) = session.will.take() {
                    let from = session.key.clone();
                    self.publish_will(*kept, &from, now);
                }
                self.schedule(number, expires_at);
            }
            // The will goes out with the session's end at the latest.
            _ => self.schedule(number, [will_at, expires_at].into_iter().flatten().min()),
        }
    }

    fn schedule(&mut self, number: u64, at: Option<Instant>) {
        self.cancel(number);
        if let (Some(at), Some(session)) = (at, self.sessions.get_mut(&number)) {
            session.due = Some(at);
            self.due.insert((at, number, Due::End));
        }
    }

    fn cancel(&mut self, number: u64) {
        if let Some(session) = self.sessions.get_mut(&number)
            && let Some(at) = session.due.take()
        {
            self.due.remove(&(at, number, Due::End));
        }
    }

    /// The session's queue is looked through at `at`, if not earlier.
    pub(crate) fn purge_by(&mut self, number: u64, at: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        match session.purge_at {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                self.due.remove(&(later, number, Due::Purge));
            }
            None => {}
        }
        session.purge_at = Some(at);
        self.due.insert((at, number, Due::Purge));
    }

    /// Drops what is no longer good from the session's queue.
    pub(crate) fn purge(&mut self, number: u64, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if let Some(at) = session.purge_at.take() {
            self.due.remove(&(at, number, Due::Purge));
        }
        if let Some(at) = session.purge(now) {
            self.purge_by(number, at);
        }
    }

    /// Does some of what is due. Whether there may be more.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        for _ in 0..TICK_STEPS_MAX {
            let Some(&(at, number, due)) = self.due.first() else { break };
            if at > now {
                break;
            }
            match due {
                Due::End => self.end_due(number, now),
                Due::Purge => self.purge(number, now),
            }
        }
        let more = self.retained.expire(now, TICK_STEPS_MAX);
        more || self.due.first().is_some_and(|(at, ..)| *at <= now)
    }

    fn end_due(&mut self, number: u64, now: Instant) {
        self.cancel(number);
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.expires_at.is_some_and(|at| at <= now) {
            metrics::counter!("fleetpulse_gateway_sessions_expired_total").increment(1);
            self.end(number, now);
            return;
        }
        let (kept, expires_at, from) = (session.will.take(), session.expires_at, session.key.clone());
        if let Some(kept) = kept {
            self.publish_will(*kept, &from, now);
        }
        self.schedule(number, expires_at);
    }
}

impl Session {
    fn ends_with_connection(&self) -> bool {
        self.is_connected() && self.expiry == Expiry::AtEnd
    }
}
