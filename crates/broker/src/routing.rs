//! What messages do: they find the sessions that want them, and wait there if they may.

use std::sync::Arc;
use std::time::Instant;

use mqtt::{Qos, RetainHandling};

use crate::SubscribeError;
use crate::charge::{Held, Ledger};
use crate::config::Config;
use crate::message::Message;
use crate::session::{Queued, Session, Subscribed};
use crate::state::State;
use crate::tree::{Options, Subscription};

/// What a place in a queue takes: the entry, and what the queue keeps free beside it.
const PLACE_BYTES: usize = 128;
/// What a level of a filter takes at most, its own text left out: a node, and the table that it stands in.
const LEVEL_BYTES: usize = 500;

/// A subscription that a message goes through.
struct Hit {
    session: u64,
    /// Each shared subscription gives a copy of its own: it stands for all its members.
    shared: bool,
    options: Options,
    id: Option<u32>,
}

/// A message on its way into a session's queue.
struct Arriving {
    held: Arc<Held>,
    qos: Qos,
    retain: bool,
    subscription_ids: Box<[u32]>,
}

impl State {
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
        let max = self.config.filter_levels_max;
        let levels = filter.split('/').count();
        if levels > max as usize {
            return Err(SubscribeError::TooDeep { max });
        }
        let known = match session.subscriptions.get_mut(filter) {
            // [MQTT-3.8.4-3]
            Some(subscribed) => {
                (subscribed.options, subscribed.id) = (options, id);
                true
            }
            None => {
                let max = self.config.subscriptions_per_client_max;
                if session.subscriptions.len() >= max as usize {
                    return Err(SubscribeError::TooMany { max });
                }
                let cost = 2 * filter.len() + levels * LEVEL_BYTES;
                let charge = self.ledger.charge(cost).ok_or(SubscribeError::NoRoom)?;
                session.subscriptions.insert(filter.into(), Subscribed { options, id, _charge: charge });
                self.subscriptions += 1;
                false
            }
        };
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
        // More would find no room.
        let max = self.config.queue_messages_max as usize + 1;
        let matching: Vec<Arc<Message>> =
            self.retained.matching(filter, now).take(max).map(Arc::clone).collect();
        for message in matching {
            let qos = message.qos.min(options.qos);
            let Some(held) = self.ledger.hold(message) else {
                unsent("queues_full");
                return;
            };
            let subscription_ids = id.into_iter().collect();
            self.deliver(number, Arriving { held, qos, retain: true, subscription_ids }, now);
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

    /// Routes a message, and keeps it if it is to be kept. Returns how many copies wait now.
    pub(crate) fn route(&mut self, message: Message, from: Option<&str>, now: Instant) -> usize {
        let message = Arc::new(message);
        if message.retain {
            self.retained.keep(&message, &self.config);
        }
        let publisher = from.and_then(|key| self.by_key.get(key)).copied();
        let mut hits = self.hits(&message, publisher);
        if hits.is_empty() {
            return 0;
        }
        let Some(held) = self.ledger.hold(message.clone()) else {
            unsent("queues_full");
            return 0;
        };
        // One copy for each session, with the highest QoS of its subscriptions and all their ids. [MQTT-3.3.4-2]
        hits.sort_by_key(|hit| (hit.session, hit.shared));
        let mut went_to = 0;
        for own in hits.chunk_by(|a, b| a.session == b.session && !a.shared && !b.shared) {
            let highest = own.iter().map(|hit| hit.options.qos).max().unwrap_or(Qos::AtMostOnce);
            let arriving = Arriving {
                held: held.clone(),
                qos: message.qos.min(highest),
                // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
                retain: message.retain && own.iter().any(|hit| hit.options.retain_as_published),
                subscription_ids: own.iter().filter_map(|hit| hit.id).collect(),
            };
            if self.deliver(own[0].session, arriving, now) {
                went_to += 1;
            }
        }
        went_to
    }

    fn hits(&mut self, message: &Message, publisher: Option<u64>) -> Vec<Hit> {
        let mut hits = Vec::new();
        let (sessions, config) = (&self.sessions, &self.config);
        let hit = |shared: bool, known: &Subscription| Hit {
            session: known.session,
            shared,
            options: known.options,
            id: known.id,
        };
        self.tree.visit(&message.topic, &mut |node| {
            for known in &node.subscriptions {
                // [MQTT-3.8.3-3]
                if !(known.options.no_local && publisher == Some(known.session)) {
                    hits.push(hit(false, known));
                }
            }
            for group in &mut node.groups {
                // Whose turn it is, among those that are there and have room; else among those that have room.
                let count = group.members.len();
                let order = (0..count).map(|step| (group.turn + step) % count);
                let fits = |index: &usize, there: bool| {
                    sessions.get(&group.members[*index].session).is_some_and(|session| {
                        (session.is_connected() || !there) && session.has_room(message.cost(), config)
                    })
                };
                let chosen = order
                    .clone()
                    .find(|index| fits(index, true))
                    .or_else(|| order.clone().find(|index| fits(index, false)))
                    .unwrap_or(group.turn % count.max(1));
                group.turn = chosen + 1;
                hits.extend(group.members.get(chosen).map(|known| hit(true, known)));
            }
        });
        hits
    }

    /// Puts a message into a session's queue, if it may wait there.
    fn deliver(&mut self, number: u64, arriving: Arriving, now: Instant) -> bool {
        let Some(session) = self.sessions.get(&number) else {
            return false;
        };
        let cost = arriving.held.message.cost();
        if !session.has_room(cost, &self.config) && session.purge_at.is_some_and(|at| at <= now) {
            self.purge(number, now);
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return false;
        };
        let expires_at = arriving.held.message.expires_at;
        let waits = match session.refusal(&arriving, now, &self.config) {
            Some(reason) => Err(reason),
            None => enqueue(session, arriving, &self.ledger),
        };
        if let Err(reason) = waits {
            unsent(reason);
            return false;
        }
        if let Some(at) = expires_at {
            self.purge_by(number, at);
        }
        true
    }

    /// Gives a message to one connected client that has subscribed to its topic. Whether it has it or will.
    pub(crate) fn offer(&mut self, key: &str, message: Message, now: Instant) -> bool {
        let Some((number, session)) =
            self.by_key.get(key).and_then(|number| Some((*number, self.sessions.get(number)?)))
        else {
            return false;
        };
        if !session.is_connected() {
            return false;
        }
        if message.tag.is_some_and(|tag| session.has_tag(tag)) {
            return true;
        }
        let matching = session.subscriptions.iter().filter(|(filter, _)| {
            mqtt::topic::shared(filter).is_none() && mqtt::topic::matches(filter, &message.topic)
        });
        let (mut highest, mut ids) = (None, Vec::new());
        for (_, subscribed) in matching {
            highest = highest.max(Some(subscribed.options.qos));
            ids.extend(subscribed.id);
        }
        let Some(highest) = highest else {
            return false;
        };
        let qos = message.qos.min(highest);
        let Some(held) = self.ledger.hold(Arc::new(message)) else {
            unsent("queues_full");
            return false;
        };
        self.deliver(number, Arriving { held, qos, retain: false, subscription_ids: ids.into() }, now)
    }
}

impl Session {
    fn has_room(&self, cost: usize, config: &Config) -> bool {
        let (messages, bytes) = self.waiting();
        messages < config.queue_messages_max as usize && bytes + cost <= config.queue_bytes_max as usize
    }

    /// Why a message may not wait here.
    fn refusal(&self, arriving: &Arriving, now: Instant, config: &Config) -> Option<&'static str> {
        let message = &arriving.held.message;
        if message.is_over(now) {
            Some("expired")
        } else if !self.is_connected() && arriving.qos == Qos::AtMostOnce {
            Some("offline")
        } else if !self.has_room(message.cost(), config) {
            Some("queue_full")
        } else {
            None
        }
    }
}

fn enqueue(session: &mut Session, arriving: Arriving, ledger: &Arc<Ledger>) -> Result<(), &'static str> {
    let Arriving { held, qos, retain, subscription_ids } = arriving;
    let place = ledger.charge(PLACE_BYTES).ok_or("queues_full")?;
    session.enqueue(Queued { held, qos, retain, subscription_ids, _place: place });
    Ok(())
}

/// A message does not reach a client that it is for.
fn unsent(reason: &'static str) {
    metrics::counter!("fleetpulse_gateway_unsent_total", "reason" => reason).increment(1);
}
