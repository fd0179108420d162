//! Everything a broker knows, and what it does with it. Synchronous; the lock around it is the broker's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use mqtt::{Qos, RetainHandling};

use crate::config::Config;
use crate::message::{Message, Will};
use crate::session::{Expiry, Queued, Session};
use crate::tree::{Options, Subscription, Tree};
use crate::{Attach, AttachError, SubscribeError, WillFate};

#[derive(Debug)]
pub(crate) struct State {
    config: Config,
    pub(crate) sessions: HashMap<u64, Session>,
    by_key: HashMap<Arc<str>, u64>,
    tree: Tree,
    subscriptions: usize,
    retained: BTreeMap<Arc<str>, Arc<Message>>,
    retained_bytes: usize,
    queues_bytes: usize,
    /// When something is due for a session: its will, or its end.
    due: BTreeSet<(Instant, u64)>,
    last: u64,
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

/// A subscription that a message goes through.
struct Hit {
    session: u64,
    options: Options,
    id: Option<u32>,
}

impl State {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            sessions: HashMap::new(),
            by_key: HashMap::new(),
            tree: Tree::default(),
            subscriptions: 0,
            retained: BTreeMap::new(),
            retained_bytes: 0,
            queues_bytes: 0,
            due: BTreeSet::new(),
            last: 0,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions,
            retained: self.retained.len(),
            retained_bytes: self.retained_bytes,
            queues_bytes: self.queues_bytes,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Session number, attachment and whether the session was there.
    pub(crate) fn attach(
        &mut self,
        key: &str,
        attach: Attach,
        now: Instant,
    ) -> Result<(u64, u64, bool), AttachError> {
        if let Some(&number) = self.by_key.get(key) {
            // The old connection, if it stands, ends now; its will goes out unless it waits for a session that goes on.
            let ends =
                attach.clean_start || self.sessions.get(&number).is_some_and(Session::ends_with_connection);
            self.old_will(number, ends, now);
            if ends {
                self.end(number, now);
            }
        }
        let attachment = self.next_number();
        let known = self.by_key.get(key).copied();
        let number = match known {
            Some(number) => number,
            None => {
                if self.sessions.len() >= self.config.sessions_max as usize {
                    return Err(AttachError { max: self.config.sessions_max });
                }
                let number = self.next_number();
                let key: Arc<str> = key.into();
                self.by_key.insert(key.clone(), number);
                self.sessions.insert(number, Session::new(key));
                number
            }
        };
        self.cancel(number);
        if let Some(session) = self.sessions.get_mut(&number) {
            session.attachment = attachment;
            session.connected = true;
            session.expiry = attach.expiry;
            session.will = attach.will;
            session.receive_max = attach.receive_max.max(1);
            // A link of before waits for nothing any more.
            session.notify.notify_waiters();
            session.notify = Arc::default();
            session.resume();
        }
        Ok((number, attachment, known.is_some()))
    }

    /// What becomes of the will of a connection that is replaced by another one of the same client.
    fn old_will(&mut self, number: u64, session_ends: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let Some(will) = session.will.take() else { return };
        // [MQTT-3.1.3-9]: a delayed one is not sent if a new connection continues the session in time.
        if session_ends || (session.connected && will.delay.is_zero()) {
            let from = session.key.clone();
            self.publish_will(will, &from, now);
        }
    }

    fn publish_will(&mut self, will: Will, from: &str, now: Instant) {
        metrics::counter!("fleetpulse_gateway_wills_total").increment(1);
        self.route(will.into_message(now), Some(from));
    }

    /// Ends a session by its key, whatever it has.
    pub(crate) fn forget(&mut self, key: &str, now: Instant) {
        if let Some(&number) = self.by_key.get(key) {
            self.old_will(number, true, now);
            self.end(number, now);
        }
    }

    fn end(&mut self, number: u64, now: Instant) {
        self.cancel(number);
        let Some(session) = self.sessions.remove(&number) else { return };
        self.by_key.remove(&session.key);
        for filter in session.subscriptions.keys() {
            self.tree.remove(filter, number);
        }
        self.subscriptions -= session.subscriptions.len();
        self.queues_bytes -= session.queue_bytes;
        session.notify.notify_waiters();
        session.notify.notify_one();
        if let Some(will) = session.will {
            self.publish_will(will, &session.key, now);
        }
    }

    /// The connection is over.
    pub(crate) fn detach(&mut self, number: u64, will: WillFate, expiry: Option<Expiry>, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.connected = false;
        if let Some(expiry) = expiry {
            session.expiry = expiry;
        }
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
        let will_at = session.will.as_ref().map(|will| now.checked_add(will.delay).unwrap_or(now));
        match will_at {
            Some(at) if at <= now => {
                if let Some(will) = session.will.take() {
                    let from = session.key.clone();
                    self.publish_will(will, &from, now);
                }
                self.schedule(number, expires_at);
            }
            // The will goes out with the session's end at the latest.
            _ => self.schedule(number, [will_at, expires_at].into_iter().flatten().min()),
        }
        if let Some(session) = self.sessions.get_mut(&number) {
            session.expires_at = expires_at;
        }
    }

    fn schedule(&mut self, number: u64, at: Option<Instant>) {
        self.cancel(number);
        if let (Some(at), Some(session)) = (at, self.sessions.get_mut(&number)) {
            session.due = Some(at);
            self.due.insert((at, number));
        }
    }

    fn cancel(&mut self, number: u64) {
        if let Some(session) = self.sessions.get_mut(&number)
            && let Some(at) = session.due.take()
        {
            self.due.remove(&(at, number));
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.due.first() {
            if at > now {
                break;
            }
            self.cancel(number);
            let Some(session) = self.sessions.get_mut(&number) else { continue };
            if session.expires_at.is_some_and(|at| at <= now) {
                metrics::counter!("fleetpulse_gateway_sessions_expired_total").increment(1);
                self.end(number, now);
                continue;
            }
            let (will, expires_at, from) = (session.will.take(), session.expires_at, session.key.clone());
            if let Some(will) = will {
                self.publish_will(will, &from, now);
            }
            self.schedule(number, expires_at);
        }
        let over: Vec<Arc<str>> =
            self.retained.iter().filter(|(_, m)| m.is_over(now)).map(|(topic, _)| topic.clone()).collect();
        for topic in over {
            self.unretain(&topic);
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        number: u64,
        filter: &str,
        options: Options,
        id: Option<u32>,
        now: Instant,
    ) -> Result<Qos, SubscribeError> {
        let Some(session) = self.sessions.get_mut(&number) else {
            return Err(SubscribeError::Gone);
        };
        let max = self.config.subscriptions_per_client_max;
        let known = session.subscriptions.contains_key(filter);
        if !known && session.subscriptions.len() >= max as usize {
            return Err(SubscribeError::TooMany { max });
        }
        session.subscriptions.insert(filter.into(), options);
        if !known {
            self.subscriptions += 1;
        }
        self.tree.insert(filter, Subscription { session: number, options, id });
        let wanted = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !known,
            RetainHandling::DoNotSend => false,
        };
        // Shared subscriptions are not sent retained messages at once. (Section 4.8.2)
        if wanted && mqtt::topic::shared(filter).is_none() {
            self.send_retained(number, filter, options, id, now);
        }
        Ok(options.qos)
    }

    fn send_retained(&mut self, number: u64, filter: &str, options: Options, id: Option<u32>, now: Instant) {
        // Every name that matches begins with what stands before the first wildcard, its slash left out.
        let literal = filter.split(['+', '#']).next().unwrap_or_default();
        let prefix = if literal.len() < filter.len() { literal.trim_end_matches('/') } else { literal };
        let from: Arc<str> = prefix.into();
        let matching: Vec<Arc<Message>> = self
            .retained
            .range(from..)
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, message)| mqtt::topic::matches(filter, topic) && !message.is_over(now))
            .map(|(_, message)| message.clone())
            .collect();
        for message in matching {
            let qos = message.qos.min(options.qos);
            let subscription_ids = id.into_iter().collect();
            self.deliver(number, Queued { message, qos, retain: true, subscription_ids });
        }
    }

    pub(crate) fn unsubscribe(&mut self, number: u64, filter: &str) -> bool {
        let Some(session) = self.sessions.get_mut(&number) else {
            return false;
        };
        let known = session.subscriptions.remove(filter).is_some();
        if known {
            self.subscriptions -= 1;
            self.tree.remove(filter, number);
        }
        known
    }

    /// Routes a message, and keeps it if it is to be kept. Returns how many sessions it went to.
    pub(crate) fn route(&mut self, message: Message, from: Option<&str>) -> usize {
        let message = Arc::new(message);
        if message.retain {
            self.retain(&message);
        }
        let publisher = from.and_then(|key| self.by_key.get(key)).copied();
        let mut hits = self.hits(&message.topic, publisher);
        // One copy for each session, with the highest QoS of its subscriptions and all their ids. [MQTT-3.3.4-2]
        hits.sort_by_key(|hit| hit.session);
        let mut went_to = 0;
        for own in hits.chunk_by(|a, b| a.session == b.session) {
            let highest = own.iter().map(|hit| hit.options.qos).max().unwrap_or(Qos::AtMostOnce);
            let queued = Queued {
                message: message.clone(),
                qos: message.qos.min(highest),
                // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
                retain: message.retain && own.iter().any(|hit| hit.options.retain_as_published),
                subscription_ids: own.iter().filter_map(|hit| hit.id).collect(),
            };
            if self.deliver(own[0].session, queued) {
                went_to += 1;
            }
        }
        went_to
    }

    fn hits(&mut self, topic: &str, publisher: Option<u64>) -> Vec<Hit> {
        let mut hits = Vec::new();
        let sessions = &self.sessions;
        self.tree.visit(topic, &mut |node| {
            for known in &node.subscriptions {
                // [MQTT-3.8.3-3]
                if !(known.options.no_local && publisher == Some(known.session)) {
                    hits.push(Hit { session: known.session, options: known.options, id: known.id });
                }
            }
            for group in &mut node.groups {
                // Whose turn it is, among those that are there; else among all.
                let count = group.members.len();
                let order = (0..count).map(|step| (group.turn + step) % count);
                let there = |index: &usize| {
                    sessions.get(&group.members[*index].session).is_some_and(|session| session.connected)
                };
                let Some(chosen) = order.clone().find(there).or_else(|| order.clone().next()) else {
                    continue;
                };
                group.turn = (chosen + 1) % count;
                let member = group.members[chosen];
                hits.push(Hit { session: member.session, options: member.options, id: member.id });
            }
        });
        hits
    }

    /// Puts a message into a session's queue, if it may wait there.
    fn deliver(&mut self, number: u64, queued: Queued) -> bool {
        let config = &self.config;
        let Some(session) = self.sessions.get_mut(&number) else {
            return false;
        };
        let cost = queued.message.cost();
        let refused = if !session.connected && queued.qos == Qos::AtMostOnce {
            Some("offline")
        } else if session.queue.len() >= config.queue_messages_max as usize
            || session.queue_bytes + cost > config.queue_bytes_max as usize
        {
            Some("queue_full")
        } else if self.queues_bytes + cost > config.queues_bytes_max as usize {
            Some("queues_full")
        } else {
            None
        };
        if let Some(reason) = refused {
            metrics::counter!("fleetpulse_gateway_unsent_total", "reason" => reason).increment(1);
            return false;
        }
        self.queues_bytes += cost;
        session.enqueue(queued);
        true
    }

    /// Gives a message to one connected client that has subscribed to its topic. Whether it has it or will.
    pub(crate) fn offer(&mut self, key: &str, message: Message) -> bool {
        let Some((number, session)) =
            self.by_key.get(key).and_then(|number| Some((*number, self.sessions.get(number)?)))
        else {
            return false;
        };
        if !session.connected {
            return false;
        }
        if message.tag.is_some_and(|tag| session.has_tag(tag)) {
            return true;
        }
        let matching = session.subscriptions.iter().filter(|(filter, _)| {
            mqtt::topic::shared(filter).is_none() && mqtt::topic::matches(filter, &message.topic)
        });
        let Some(highest) = matching.map(|(_, options)| options.qos).max() else {
            return false;
        };
        let qos = message.qos.min(highest);
        let queued = Queued { message: Arc::new(message), qos, retain: false, subscription_ids: Vec::new() };
        self.deliver(number, queued)
    }

    fn retain(&mut self, message: &Arc<Message>) {
        self.unretain(&message.topic);
        if message.payload.is_empty() {
            // [MQTT-3.3.1-6]
            return;
        }
        let cost = message.cost();
        let full = self.retained.len() >= self.config.retained_messages_max as usize
            || self.retained_bytes + cost > self.config.retained_bytes_max as usize;
        if full {
            metrics::counter!("fleetpulse_gateway_unretained_total").increment(1);
            return;
        }
        self.retained_bytes += cost;
        self.retained.insert(message.topic.clone(), message.clone());
    }

    fn unretain(&mut self, topic: &str) {
        if let Some(old) = self.retained.remove(topic) {
            self.retained_bytes -= old.cost();
        }
    }

    pub(crate) fn freed(&mut self, bytes: usize) {
        self.queues_bytes -= bytes;
    }
}

impl Session {
    fn ends_with_connection(&self) -> bool {
        self.connected && self.expiry == Expiry::AtEnd
    }
}
