//! The oracle: what follows from the events that were told, by docs/truth.md, word by word and without any haste.

use std::collections::{BTreeMap, BTreeSet};

use event::v1::event::Kind;
use event::v1::{Clock, Connected, Event, Heartbeat};
use uuid::Uuid;

use crate::history::HOUR;

/// A sign without a promise of the next holds for this long.
const NODE_PATIENCE: i64 = 15_000;

/// Everything that was told, each event in its place.
pub(crate) struct Known {
    /// Nodes' signs of life: (at, until when it holds).
    signs: Vec<(i64, i64)>,
    /// Spans in which a sign holds, none touching the next.
    looked: Vec<(i64, i64)>,
    /// By node and epoch.
    lives: BTreeMap<(String, u64), NodeLife>,
    devices: BTreeMap<String, Device>,
    pub now: i64,
}

#[derive(Default)]
struct NodeLife {
    last_at: i64,
    lost_after: i64,
    stopped: bool,
}

#[derive(Default)]
struct Device {
    sessions: BTreeMap<Uuid, Told>,
    /// Every arrival, copies included.
    arrivals: Vec<Arrival>,
}

/// What was told of one session.
#[derive(Default)]
struct Told {
    start: Option<(i64, Connected)>,
    /// When, since when, why.
    end: Option<(i64, i64, &'static str)>,
    node: String,
    epoch: u64,
    last_heartbeat: Option<i64>,
    bytes_in: u64,
    messages_in: u64,
}

#[derive(Clone)]
struct Arrival {
    at: i64,
    session: Uuid,
    messages: u64,
    first_copy: bool,
    heartbeat: Heartbeat,
}

impl Arrival {
    /// When it was taken, as far as that can be believed.
    fn taken(&self) -> i64 {
        match self.heartbeat.clock() {
            Clock::Device => self.heartbeat.device_time_ms.min(self.at),
            _ => self.at,
        }
    }

    fn order(&self) -> (i64, u64) {
        (self.taken(), self.heartbeat.identity & 0xf_ffff)
    }
}

/// A session, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Session {
    pub id: Uuid,
    pub start: i64,
    pub end: Option<i64>,
    pub reason: String,
    pub node: String,
    pub peer: String,
    pub bytes_in: u64,
    pub messages_in: u64,
    pub gap: Option<i64>,
    pub took_over: bool,
}

/// What a device does at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub status: &'static str,
    pub since: i64,
    pub reason: String,
    /// Millionths of a degree, and when.
    pub position: Option<(i64, i64)>,
    pub battery: Option<(i64, i64)>,
    pub firmware: Option<(String, i64)>,
    pub plmn: Option<(String, i64)>,
    pub iccid: Option<(String, i64)>,
}

/// Milliseconds of a span in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Availability {
    pub online: i64,
    pub silent: i64,
    pub offline: i64,
    pub unknown: i64,
    pub never_seen: i64,
}

/// Which copies of a heartbeat are signs of life: `device_status` hears each, while of the past the first alone is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    All,
    First,
}

/// The database orders ids by their second half.
fn by_id(id: Uuid) -> (u64, u64) {
    let (high, low) = id.as_u64_pair();
    (low, high)
}

fn made_at(id: Uuid) -> i64 {
    id.get_timestamp().map_or(0, |timestamp| {
        let (seconds, nanos) = timestamp.to_unix();
        i64::try_from(seconds).expect("now") * 1_000 + i64::from(nanos) / 1_000_000
    })
}

impl Known {
    pub(crate) fn of<'e>(events: impl Iterator<Item = &'e Event>, now: i64) -> Self {
        let mut known = Self {
            signs: Vec::new(),
            looked: Vec::new(),
            lives: BTreeMap::new(),
            devices: BTreeMap::new(),
            now,
        };
        for event in events {
            known.take(event);
        }
        known.signs.sort_unstable();
        for (from, until) in &known.signs {
            match known.looked.last_mut() {
                Some((_, looked_until)) if from <= looked_until => {
                    *looked_until = (*looked_until).max(*until);
                }
                _ => known.looked.push((*from, *until)),
            }
        }
        for device in known.devices.values_mut() {
            // By identity, the first to arrive.
            let mut firsts: BTreeMap<(i64, u64), usize> = BTreeMap::new();
            for (place, arrival) in device.arrivals.iter().enumerate() {
                let key = (arrival.heartbeat.device_time_ms, arrival.heartbeat.identity);
                let first = firsts.entry(key).or_insert(place);
                if arrival.at < device.arrivals[*first].at {
                    *first = place;
                }
            }
            for place in firsts.into_values() {
                device.arrivals[place].first_copy = true;
            }
        }
        known
    }

    fn take(&mut self, event: &Event) {
        let at = event.received_at_ms;
        match event.kind.as_ref().expect("a kind") {
            Kind::NodeStarted(_) => self.sign(event, 0, false),
            Kind::NodeAlive(alive) => self.sign(event, alive.lost_after_ms.into(), false),
            Kind::NodeStopping(_) => self.sign(event, 0, true),
            kind => {
                let id = Uuid::from_slice(&event.session_id).expect("an id");
                let device = self.devices.entry(event.device_id.clone()).or_default();
                let told = device.sessions.entry(id).or_default();
                let traffic = event.session_traffic.unwrap_or_default();
                told.bytes_in = told.bytes_in.max(traffic.bytes_in);
                told.messages_in = told.messages_in.max(traffic.messages_in);
                told.node.clone_from(&event.node_id);
                match kind {
                    Kind::Connected(connected) => {
                        told.epoch = event.epoch;
                        told.start = Some((at, connected.clone()));
                    }
                    Kind::Disconnected(ended) => {
                        told.epoch = event.epoch;
                        told.end =
                            Some((at, ended.connected_at_ms, event::disconnect_reason_name(ended.reason())));
                    }
                    Kind::Heartbeat(heartbeat) => {
                        told.last_heartbeat = told.last_heartbeat.max(Some(at));
                        device.arrivals.push(Arrival {
                            at,
                            session: id,
                            messages: traffic.messages_in,
                            first_copy: false,
                            heartbeat: heartbeat.clone(),
                        });
                    }
                    other => unreachable!("{other:?}"),
                }
            }
        }
    }

    fn sign(&mut self, event: &Event, lost_after: i64, stops: bool) {
        let at = event.received_at_ms;
        self.signs.push((at, at + if lost_after == 0 { NODE_PATIENCE } else { lost_after }));
        let life = self.lives.entry((event.node_id.clone(), event.epoch)).or_default();
        life.last_at = life.last_at.max(at);
        life.lost_after = life.lost_after.max(lost_after);
        life.stopped |= stops;
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// Whether any node told of itself then.
    fn looking(&self, at: i64) -> bool {
        self.looked.is_empty() || self.looked.iter().any(|(from, until)| *from <= at && at < *until)
    }

    /// Where spans begin in which we look, and in which we do not.
    fn looks(&self) -> impl Iterator<Item = i64> {
        self.looked.iter().flat_map(|(from, until)| [*from, *until])
    }

    /// When looking began anew for the last time, at or before a time.
    fn looking_since(&self, at: i64) -> Option<i64> {
        self.looked.iter().map(|(from, _)| *from).filter(|from| *from <= at).max()
    }

    /// When the process that held a session was heard last, if it is gone.
    fn gone(&self, node: &str, epoch: u64, start: i64) -> Option<i64> {
        let of_node = || self.lives.iter().filter(|((name, _), _)| name == node);
        let newest = of_node().map(|((_, epoch), _)| *epoch).max()?;
        // Where the epoch was never told: the process that ran when the session began.
        let epoch = match epoch {
            0 => of_node()
                .map(|((_, epoch), _)| *epoch)
                .filter(|epoch| *epoch <= start.unsigned_abs())
                .max()?,
            told => told,
        };
        let Some(life) = self.lives.get(&(node.to_owned(), epoch)) else {
            return (epoch < newest).then_some(0);
        };
        let patience = if life.lost_after == 0 { NODE_PATIENCE } else { life.lost_after };
        let heard = self.lives.values().map(|life| life.last_at).max()?;
        let gone = match life.stopped {
            true => self.now > life.last_at + patience,
            false => epoch < newest || heard > life.last_at + patience,
        };
        gone.then_some(life.last_at)
    }

    /// The sessions of a device, in order.
    pub(crate) fn sessions(&self, device: &str) -> Vec<Session> {
        let mut ordered: Vec<(i64, Uuid, &Told)> = self.devices[device]
            .sessions
            .iter()
            .map(|(id, told)| {
                let start = told.start.as_ref().map(|(at, _)| *at).or(told.end.map(|(_, since, _)| since));
                (start.unwrap_or_else(|| made_at(*id)), *id, told)
            })
            .collect();
        ordered.sort_by_key(|(start, id, _)| (*start, by_id(*id)));
        let mut sessions: Vec<Session> = Vec::new();
        for (place, (start, id, told)) in ordered.iter().enumerate() {
            let last_sign = told.last_heartbeat.unwrap_or(0).max(*start);
            let superseded = ordered.get(place + 1).map(|(next, _, _)| last_sign.max(*next));
            let lost = self.gone(&told.node, told.epoch, *start).map(|heard| heard.max(last_sign));
            let (end, reason) = match (told.end, lost, superseded) {
                (Some((at, _, reason)), _, _) => (Some(at), reason),
                (None, Some(lost), None) => (Some(lost), "gateway_lost"),
                (None, Some(lost), Some(superseded)) if lost <= superseded => (Some(lost), "gateway_lost"),
                (None, _, Some(superseded)) => (Some(superseded), "superseded"),
                (None, None, None) => (None, ""),
            };
            let before = sessions.last().map(|before| before.end.expect("another came after it"));
            sessions.push(Session {
                id: *id,
                start: *start,
                end,
                reason: reason.to_owned(),
                node: told.node.clone(),
                peer: told.start.as_ref().map(|(_, connected)| connected.peer.clone()).unwrap_or_default(),
                bytes_in: told.bytes_in,
                messages_in: told.messages_in,
                gap: before.map(|before| (start - before).max(0)),
                took_over: before.is_some_and(|before| before >= *start),
            });
        }
        sessions
    }

    fn arrivals(&self, device: &str, until: i64, copies: Copies) -> impl Iterator<Item = &Arrival> {
        let arrivals = self.devices[device].arrivals.iter();
        arrivals.filter(move |arrival| arrival.at <= until && (copies == Copies::All || arrival.first_copy))
    }

    /// When silence begins, if no further sign comes; never where nothing was promised or learned.
    fn overdue(&self, device: &str, sessions: &[Session], at: i64, copies: Copies) -> Option<i64> {
        let arrivals = || self.arrivals(device, at, copies);
        let starts = sessions.iter().map(|session| session.start).filter(|start| *start <= at);
        let sign = arrivals().map(|arrival| arrival.at).chain(starts).chain(self.looking_since(at)).max()?;
        let promised = arrivals().max_by_key(|arrival| arrival.order())?.heartbeat.next_s.unwrap_or(0);
        if promised > 0 {
            return Some(sign + i64::from(promised) * 1_500 + 10_000);
        }
        let last = arrivals().max_by_key(|arrival| (arrival.at, arrival.messages))?;
        let messages = i64::try_from(last.messages).expect("few");
        let learned = (messages >= 3).then(|| HOUR.max(4 * ((last.at - made_at(last.session)) / messages)));
        learned.map(|learned| sign + learned)
    }

    /// What a device does at a time, by what is known now, and since when.
    fn state(&self, device: &str, sessions: &[Session], at: i64, copies: Copies) -> (&'static str, i64) {
        if !self.looking(at) {
            let until = self.looked.iter().map(|(_, until)| *until).filter(|until| *until <= at).max();
            return ("unknown", until.unwrap_or(0));
        }
        let Some(newest) = newest(sessions, at) else { return ("never_seen", 0) };
        match newest.end.filter(|end| *end <= at) {
            Some(end) => ("offline", end),
            None => match self.overdue(device, sessions, at, copies).filter(|overdue| *overdue <= at) {
                Some(overdue) => ("silent", overdue),
                None => ("online", newest.start),
            },
        }
    }

    /// The same, with the readings that were known by then.
    pub(crate) fn status(&self, device: &str, sessions: &[Session], at: i64, copies: Copies) -> Status {
        let (status, since) = self.state(device, sessions, at, copies);
        let ended = newest(sessions, at).filter(|newest| newest.end.is_some_and(|end| end <= at));
        let reason = ended.map(|newest| newest.reason.clone()).unwrap_or_default();
        Status {
            status,
            since,
            reason,
            position: self.latest(device, at, copies, |heartbeat| {
                let degrees = heartbeat.position.as_ref()?.latitude_deg?;
                Some(format!("{:.0}", degrees * 1e6).parse().expect("a number"))
            }),
            battery: self.latest(device, at, copies, |heartbeat| {
                let percent = heartbeat.battery.as_ref()?.percent?;
                Some(format!("{percent:.0}").parse().expect("a number"))
            }),
            firmware: self.latest(device, at, copies, |heartbeat| heartbeat.firmware.clone()),
            plmn: self.latest(device, at, copies, |heartbeat| heartbeat.radio.as_ref()?.plmn.clone()),
            iccid: self.latest(device, at, copies, |heartbeat| heartbeat.sim.as_ref()?.iccid.clone()),
        }
    }

    /// A reading of the newest heartbeat that has it, and when that was taken.
    fn latest<T>(
        &self,
        device: &str,
        at: i64,
        copies: Copies,
        reading: impl Fn(&Heartbeat) -> Option<T>,
    ) -> Option<(T, i64)> {
        let having =
            self.arrivals(device, at, copies).filter(|arrival| reading(&arrival.heartbeat).is_some());
        let newest = having.max_by_key(|arrival| arrival.order())?;
        reading(&newest.heartbeat).map(|reading| (reading, newest.taken()))
    }

    /// Walks over a span from one moment at which something may change to the next.
    pub(crate) fn availability(&self, device: &str, since: i64, until: i64) -> Availability {
        let sessions = self.sessions(device);
        let signs: BTreeSet<i64> = self
            .arrivals(device, until, Copies::First)
            .map(|arrival| arrival.at)
            .chain(sessions.iter().map(|session| session.start))
            .chain(self.looks())
            .filter(|at| *at <= until)
            .collect();
        let overdue = signs.iter().filter_map(|at| self.overdue(device, &sessions, *at, Copies::First));
        let ends = sessions.iter().filter_map(|session| session.end);
        let mut moments: BTreeSet<i64> = signs.iter().copied().chain(overdue).chain(ends).collect();
        moments.extend([since, until]);
        let moments: Vec<i64> = moments.into_iter().filter(|at| (since..=until).contains(at)).collect();
        let mut spent = Availability::default();
        for span in moments.windows(2) {
            let of = match self.state(device, &sessions, span[0], Copies::First).0 {
                "online" => &mut spent.online,
                "silent" => &mut spent.silent,
                "offline" => &mut spent.offline,
                "unknown" => &mut spent.unknown,
                _ => &mut spent.never_seen,
            };
            *of += span[1] - span[0];
        }
        spent
    }

    /// Spans in which nobody looked.
    pub(crate) fn unknown(&self, since: i64, until: i64) -> i64 {
        let mut moments: BTreeSet<i64> = self.looks().filter(|at| (since..until).contains(at)).collect();
        moments.extend([since, until]);
        let moments: Vec<i64> = moments.into_iter().collect();
        moments.windows(2).filter(|span| !self.looking(span[0])).map(|span| span[1] - span[0]).sum()
    }
}

/// The session that began last.
fn newest(sessions: &[Session], at: i64) -> Option<&Session> {
    sessions.iter().rev().find(|session| session.start <= at)
}
