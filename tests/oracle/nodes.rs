//! The gateways of a history: when their processes truly lived, and what they told of it.

use event::v1::event::Kind;
use event::v1::{Event, NodeAlive, NodeStarted, NodeStopping};

use crate::history::{HOUR, MINUTE, SECOND};
use crate::random::Random;

/// How a gateway process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It has not.
    Stands,
    /// It said goodbye and ended its sessions.
    Stopped,
    /// It was killed: its sessions end and nobody tells.
    Killed,
}

/// One gateway process.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub node: String,
    /// When it started, also its epoch.
    pub from: i64,
    pub to: i64,
    pub ending: Ending,
    pub alive_every: i64,
}

impl Life {
    pub(crate) fn holds(&self, at: i64) -> bool {
        self.from <= at && at < self.to
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.from.unsigned_abs()
    }
}

/// Spans in which nothing that is told arrives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outages(Vec<(i64, i64)>);

impl Outages {
    pub(crate) fn generate(random: &mut Random, begin: i64, now: i64) -> Self {
        let count = random.count(0, 2);
        let span = |random: &mut Random| {
            let from = random.between(begin, now - 2 * HOUR);
            (from, from + random.between(2 * MINUTE, 5 * HOUR).min(now - HOUR - from))
        };
        Self((0..count).map(|_| span(random)).collect())
    }

    pub(crate) fn hold(&self, at: i64) -> bool {
        self.0.iter().any(|(from, to)| *from <= at && at < *to)
    }
}

/// The processes of all nodes.
pub(crate) fn lives(random: &mut Random, begin: i64, now: i64) -> Vec<Life> {
    let mut lives = Vec::new();
    for number in 0..random.count(1, 3) {
        let alive_every = *random.one_of(&[3 * MINUTE, 10 * MINUTE]);
        let mut from = begin + random.between(0, 2 * HOUR);
        while from < now {
            let to = from + random.between(30 * MINUTE, 40 * HOUR);
            let ending = match to >= now {
                true => Ending::Stands,
                false if random.chance(40) => Ending::Stopped,
                false => Ending::Killed,
            };
            lives.push(Life { node: format!("node-{number}"), from, to: to.min(now), ending, alive_every });
            // Mostly it comes back at once.
            from = to
                + match random.count(0, 9) {
                    0 => 1_000 * HOUR,
                    1..3 => random.between(MINUTE, 4 * HOUR),
                    _ => random.between(SECOND, MINUTE),
                };
        }
    }
    lives
}

/// What a process told of itself.
pub(crate) fn told(random: &mut Random, life: &Life, outages: &Outages) -> Vec<Event> {
    let event = |at: i64, kind: Kind| Event {
        node_id: life.node.clone(),
        epoch: life.epoch(),
        received_at_ms: at,
        kind: Some(kind),
        ..Event::default()
    };
    // That it started is told until it is heard.
    let mut events = vec![event(life.from, Kind::NodeStarted(NodeStarted { version: "1".to_owned() }))];
    let mut at = life.from + random.between(1, SECOND);
    let lost_after_ms = u32::try_from(3 * life.alive_every).expect("short");
    while at < life.to {
        if !outages.hold(at) {
            events.push(event(at, Kind::NodeAlive(NodeAlive { sessions: 1, lost_after_ms })));
        }
        at += life.alive_every + random.between(0, SECOND);
    }
    if life.ending == Ending::Stopped && !outages.hold(life.to) {
        events.push(event(life.to, Kind::NodeStopping(NodeStopping {})));
    }
    events
}
