//! A random fleet's true history of some days, and what of it was told.
//!
//! What goes wrong for radio, gateways and the way to the database happens here: take-overs on one node and across nodes, buffers drained
//! hours late, heartbeats sent twice, reboots with counters that begin anew or wrap, other SIMs, clocks that are wrong by minutes or
//! years or absent, gateways killed, stopped and never seen again, spans in which nothing arrives, starts and ends that were never told.

use event::v1::Event;
use uuid::{Builder, Uuid};

use crate::device;
use crate::nodes::{self, Ending, Life, Outages};
use crate::random::Random;

pub(crate) const SECOND: i64 = 1_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// What was told, and what truly was.
pub(crate) struct History {
    /// Each event once; a heartbeat that was sent twice is two events.
    pub events: Vec<Event>,
    pub sessions: Vec<TrueSession>,
    pub begin: i64,
}

/// A session as it truly was.
#[derive(Clone, Debug)]
pub(crate) struct TrueSession {
    pub device: String,
    pub id: Uuid,
    pub start: i64,
    /// None: it stands.
    pub end: Option<i64>,
    pub start_told: bool,
    pub end_told: bool,
    /// What it took in, if anything: else nobody knows of it but by its start or end.
    pub heartbeats: u64,
}

/// Where and when devices live.
pub(crate) struct World {
    pub begin: i64,
    pub now: i64,
    pub lives: Vec<Life>,
    pub outages: Outages,
}

impl World {
    /// A process that takes a connection at this time.
    pub(crate) fn gateway(&self, random: &mut Random, at: i64) -> Option<&Life> {
        let open: Vec<&Life> = self.lives.iter().filter(|life| life.holds(at)).collect();
        (!open.is_empty() && !self.outages.hold(at)).then(|| *random.one_of(&open))
    }
}

/// The same seed and the same `now`: the same history.
pub(crate) fn generate(seed: u64, now: i64) -> History {
    let mut random = Random::new(seed);
    let begin = now - random.between(1, 3) * DAY;
    let outages = Outages::generate(&mut random, begin, now);
    let lives = nodes::lives(&mut random, begin, now);
    let mut events = Vec::new();
    for life in &lives {
        events.extend(nodes::told(&mut random, life, &outages));
    }
    let world = World { begin, now, lives, outages };
    let mut sessions = Vec::new();
    for number in 0..random.count(2, 8) {
        device::live(&mut random, &world, &format!("device-{number}"), &mut events, &mut sessions);
    }
    debug_assert!(world.lives.iter().all(|life| life.to < now || life.ending == Ending::Stands));
    History { events, sessions, begin }
}

/// An id that was made at this time.
pub(crate) fn session_id(random: &mut Random, at: i64) -> Uuid {
    let mut noise = [0; 10];
    noise[..8].copy_from_slice(&random.next().to_be_bytes());
    noise[8..].copy_from_slice(&random.next().to_be_bytes()[..2]);
    Builder::from_unix_timestamp_millis(at.unsigned_abs(), &noise).into_uuid()
}
