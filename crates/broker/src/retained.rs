//! Retained messages: the latest of each topic, bounded in number and bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::message::Message;

#[derive(Debug, Default)]
pub(crate) struct Retained {
    messages: BTreeMap<Arc<str>, Arc<Message>>,
    /// Those that are not good for ever.
    ends: BTreeSet<(Instant, Arc<str>)>,
    bytes: usize,
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a message in place of the topic's older one; an empty one is not kept [MQTT-3.3.1-6]. Where there is no
    /// room nothing is kept: an old value that passes for the latest would be worse.
    pub(crate) fn keep(&mut self, message: &Arc<Message>, config: &Config) {
        self.remove(&message.topic);
        if message.payload.is_empty() {
            return;
        }
        let cost = message.cost();
        let full = self.messages.len() >= config.retained_messages_max as usize
            || self.bytes + cost > config.retained_bytes_max as usize;
        if full {
            metrics::counter!("fleetpulse_gateway_unretained_total").increment(1);
            return;
        }
        self.bytes += cost;
        if let Some(at) = message.expires_at {
            self.ends.insert((at, message.topic.clone()));
        }
        self.messages.insert(message.topic.clone(), message.clone());
    }

    fn remove(&mut self, topic: &str) {
        if let Some(old) = self.messages.remove(topic) {
            self.bytes -= old.cost();
            if let Some(at) = old.expires_at {
                self.ends.remove(&(at, old.topic.clone()));
            }
        }
    }

    /// Drops up to `count` that are over. Whether there may be more.
    pub(crate) fn expire(&mut self, now: Instant, count: usize) -> bool {
        for _ in 0..count {
            match self.ends.first() {
                Some((at, topic)) if *at <= now => {
                    let topic = topic.clone();
                    self.remove(&topic);
                }
                _ => return false,
            }
        }
        true
    }

    /// The messages that a filter matches and that are still good.
    pub(crate) fn matching(&self, filter: &str, now: Instant) -> impl Iterator<Item = &Arc<Message>> {
        // Every name that matches begins with what stands before the first wildcard, its slash left out.
        let literal = filter.split(['+', '#']).next().unwrap_or_default();
        let prefix = if literal.len() < filter.len() { literal.trim_end_matches('/') } else { literal };
        self.messages
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(topic, _)| topic.starts_with(prefix))
            .filter(move |(topic, message)| mqtt::topic::matches(filter, topic) && !message.is_over(now))
            .map(|(_, message)| message)
    }
}
