//! The life of one device: its sessions and its heartbeats.

use event::v1::event::Kind;
use event::v1::{
    Battery, Clock, Connected, DisconnectReason, Disconnected, Event, Heartbeat, Position, Radio, Sim,
    Traffic, Usage,
};
use uuid::Uuid;

use crate::history::{HOUR, MINUTE, SECOND, TrueSession, World, session_id};
use crate::nodes::{Ending, Life};
use crate::random::Random;

/// Of copies that arrive within the same second any may stand.
const COPIES_APART: i64 = SECOND;
/// Counters of cheap modems have 32 bits.
const WRAP: u64 = 1 << 32;

/// What a device is and has.
struct Device<'h> {
    id: String,
    interval: i64,
    promises: bool,
    clock: Clock,
    ahead: i64,
    sequence: u64,
    booted_at: i64,
    sent: u64,
    received: u64,
    sim: u64,
    plmn: &'static str,
    /// Taken, and not acknowledged yet.
    buffer: Vec<Heartbeat>,
    /// What it may send once more, and when it arrived.
    recent: Vec<(Heartbeat, i64)>,
    events: &'h mut Vec<Event>,
}

/// A session under way.
struct Session {
    id: Uuid,
    start: i64,
    node: String,
    epoch: u64,
    traffic: Traffic,
}

impl Session {
    fn event(&self, device: &str, at: i64, kind: Kind) -> Event {
        Event {
            device_id: device.to_owned(),
            received_at_ms: at,
            node_id: self.node.clone(),
            epoch: self.epoch,
            session_id: self.id.into_bytes().to_vec().into(),
            session_traffic: Some(self.traffic),
            kind: Some(kind),
        }
    }

    fn ended(&self, device: &str, at: i64, reason: DisconnectReason) -> Event {
        let ended = Disconnected {
            connected_at_ms: self.start,
            reason: reason.into(),
            detail: format!("{reason:?}"),
            ..Disconnected::default()
        };
        self.event(device, at, Kind::Disconnected(ended))
    }
}

/// How a session ends, if its gateway does not end first.
#[derive(Clone, Copy)]
enum Plan {
    Told(DisconnectReason),
    /// The device connects to the same node while this session stands.
    TakenOver,
    /// It connects to another node; this one notices later.
    Elsewhere,
    /// The end is lost on the way.
    NeverTold,
}

/// Lives through the world's span.
pub(crate) fn live(
    random: &mut Random,
    world: &World,
    id: &str,
    events: &mut Vec<Event>,
    sessions: &mut Vec<TrueSession>,
) {
    let clock =
        *random.one_of(&[Clock::Device, Clock::Device, Clock::Device, Clock::Gateway, Clock::Implausible]);
    let mut device = Device {
        id: id.to_owned(),
        interval: *random.one_of(&[5 * MINUTE, 20 * MINUTE, HOUR, 3 * HOUR]),
        promises: random.chance(70),
        clock,
        ahead: *random.one_of(&[0, 0, 5 * MINUTE, -7 * MINUTE]),
        sequence: random.next() >> 20,
        booted_at: world.begin,
        sent: 0,
        received: 0,
        sim: random.count(1, 99),
        plmn: "26201",
        buffer: Vec::new(),
        recent: Vec::new(),
        events,
    };
    let mut at = world.begin + random.between(0, 10 * HOUR);
    while at < world.now {
        at = match world.gateway(random, at) {
            Some(gateway) => device.session(random, world, gateway, at, sessions),
            None => {
                // It tries again and again, and measures meanwhile.
                device.reading(random, at);
                at + random.between(MINUTE, 30 * MINUTE)
            }
        };
    }
}

impl Device<'_> {
    /// One session; returns when the device connects next.
    fn session(
        &mut self,
        random: &mut Random,
        world: &World,
        gateway: &Life,
        start: i64,
        sessions: &mut Vec<TrueSession>,
    ) -> i64 {
        let mut session = Session {
            id: session_id(random, start),
            start,
            node: gateway.node.clone(),
            epoch: gateway.epoch(),
            traffic: Traffic { bytes_in: random.count(20, 60), bytes_out: 4, ..Traffic::default() },
        };
        let start_told = random.chance(95);
        if start_told {
            let connected = Connected {
                peer: format!("10.0.0.{}:4000", random.count(1, 250)),
                protocol_level: *random.one_of(&[4, 5]),
                keep_alive_s: 60,
                transport: "tls".to_owned(),
                fleet: "blue".to_owned(),
                ..Connected::default()
            };
            let event = session.event(&self.id, start, Kind::Connected(connected));
            self.events.push(event);
        }
        let length = match random.count(0, 3) {
            0 => random.between(1, MINUTE),
            1 => random.between(MINUTE, HOUR),
            _ => random.between(HOUR, 20 * HOUR),
        };
        // What the device does with it ends here, whatever its gateway knows.
        let end = (start + length).min(gateway.to);
        // Sometimes its heartbeats stop long before: it hangs.
        let hangs_at = if random.chance(25) { start + random.between(0, length) } else { i64::MAX };
        let heartbeats = self.talk(random, world, &mut session, end.min(hangs_at));

        let plan = match random.count(0, 9) {
            0..=1 => Plan::TakenOver,
            2..=3 => Plan::Elsewhere,
            4 => Plan::NeverTold,
            5 => Plan::Told(DisconnectReason::Client),
            6..=7 => Plan::Told(DisconnectReason::KeepAliveTimeout),
            _ => Plan::Told(DisconnectReason::ConnectionLost),
        };
        let mut noticed_at = Some(end);
        let mut next = end + *random.one_of(&[0, 1, SECOND, MINUTE, 30 * MINUTE, 4 * HOUR, 15 * HOUR]);
        let told = if end == gateway.to {
            match gateway.ending {
                Ending::Stands => {
                    noticed_at = None;
                    next = i64::MAX;
                    None
                }
                Ending::Stopped => Some(DisconnectReason::ServerShuttingDown),
                Ending::Killed => None,
            }
        } else {
            match plan {
                Plan::Told(reason) => Some(reason),
                Plan::NeverTold => None,
                Plan::TakenOver => {
                    next = end;
                    noticed_at = Some((end + random.between(0, 50)).min(gateway.to));
                    Some(DisconnectReason::TakenOver)
                }
                Plan::Elsewhere => {
                    next = end;
                    let noticed = end + random.between(SECOND, 2 * HOUR);
                    if noticed >= gateway.to {
                        // Its gateway ends first, or has not noticed yet.
                        noticed_at = (gateway.ending != Ending::Stands).then_some(gateway.to);
                        (gateway.ending == Ending::Stopped).then_some(DisconnectReason::ServerShuttingDown)
                    } else {
                        noticed_at = Some(noticed);
                        Some(DisconnectReason::KeepAliveTimeout)
                    }
                }
            }
        };
        if let (Some(reason), Some(at)) = (told, noticed_at) {
            let event = session.ended(&self.id, at, reason);
            self.events.push(event);
        }
        sessions.push(TrueSession {
            device: self.id.clone(),
            id: session.id,
            start,
            end: noticed_at,
            start_told,
            end_told: told.is_some(),
            gateway_died: end == gateway.to && gateway.ending == Ending::Killed,
            heartbeats,
        });
        self.absence(random, end, next.min(world.now));
        next
    }

    /// Sends until `until`: first what it kept, then what it reads. Returns how many were taken in.
    fn talk(&mut self, random: &mut Random, world: &World, session: &mut Session, until: i64) -> u64 {
        let mut at = session.start + random.between(1, 200);
        let mut taken_in = 0;
        let mut kept = std::mem::take(&mut self.buffer);
        if random.chance(30) {
            // An acknowledgement was lost: some go once more.
            let before = at - COPIES_APART;
            let again = self.recent.iter().rev().take(3).filter(|(_, arrived)| *arrived <= before);
            kept.extend(again.map(|(heartbeat, _)| heartbeat.clone()));
        }
        kept.reverse();
        while let Some(heartbeat) = kept.pop() {
            if at >= until || world.outages.hold(at) {
                kept.push(heartbeat);
                break;
            }
            self.arrive(random, session, at, heartbeat);
            taken_in += 1;
            at += random.between(1, 40);
        }
        kept.reverse();
        self.buffer = kept;
        while at < until {
            let heartbeat = self.reading(random, at);
            let arrives = at + random.between(0, 300);
            if let Some(heartbeat) = heartbeat.filter(|_| arrives < until && !world.outages.hold(arrives)) {
                self.buffer.retain(|kept| *kept != heartbeat);
                self.arrive(random, session, arrives, heartbeat.clone());
                taken_in += 1;
                let again_at = arrives + COPIES_APART + random.between(0, 5 * SECOND);
                if random.chance(5) && again_at < until && !world.outages.hold(again_at) {
                    self.arrive(random, session, again_at, heartbeat);
                    taken_in += 1;
                }
            }
            at = arrives.max(at) + 7 * SECOND + self.interval + random.between(0, self.interval / 5);
        }
        taken_in
    }

    /// Between two sessions it goes on reading, or sleeps, or starts anew, or has another SIM put in.
    fn absence(&mut self, random: &mut Random, from: i64, to: i64) {
        if random.chance(30) {
            self.booted_at = from;
            (self.sent, self.received) = (0, 0);
        }
        if random.chance(10) {
            self.sim += 1;
        }
        if random.chance(20) {
            self.plmn = *random.one_of(&["26201", "26202", "20810"]);
        }
        if random.chance(60) {
            let mut at = from + self.interval;
            while at < to {
                self.reading(random, at);
                at += self.interval;
            }
        }
    }

    /// A reading, which stands in the buffer until it is sent. None: the buffer is full.
    fn reading(&mut self, random: &mut Random, at: i64) -> Option<Heartbeat> {
        if self.buffer.len() >= 60 {
            return None;
        }
        self.sequence += 1;
        self.sent = (self.sent + random.count(0, WRAP / 40)) % WRAP;
        self.received = (self.received + random.count(0, 2_000)) % WRAP;
        let (device_time_ms, claimed_time_ms) = match self.clock {
            Clock::Implausible => (0, Some(at - 20 * 365 * 24 * HOUR)),
            Clock::Device => (at + self.ahead, None),
            Clock::Gateway | Clock::Unspecified => (0, None),
        };
        let heartbeat = Heartbeat {
            device_time_ms,
            clock: self.clock.into(),
            claimed_time_ms,
            identity: self.sequence,
            sequence: Some(self.sequence),
            boot_id: Some(format!("boot-{}", self.booted_at)),
            uptime_s: Some((at - self.booted_at).unsigned_abs() / 1_000),
            firmware: random.chance(50).then(|| format!("1.{}", self.sequence % 3)),
            state: random.chance(80).then(|| (*random.one_of(&["parked", "riding"])).to_owned()),
            next_s: self.promises.then(|| u32::try_from(self.interval / 1_000).expect("short")),
            battery: random.chance(70).then(|| Battery {
                percent: Some(f32::from(u8::try_from(random.count(0, 100)).expect("small"))),
                millivolts: Some(3_700),
                charging: Some(random.chance(20)),
            }),
            position: random.chance(60).then(|| Position {
                latitude_deg: Some(
                    52.0 + f64::from(u16::try_from(random.count(0, 999)).expect("small")) / 1e3,
                ),
                longitude_deg: Some(13.0),
                ..Position::default()
            }),
            radio: random.chance(70).then(|| Radio {
                rat: Some("LTE-M".to_owned()),
                plmn: Some(self.plmn.to_owned()),
                cell_id: Some(random.count(1, 9)),
                rssi_dbm: Some(-80.0),
                ..Radio::default()
            }),
            sim: random.chance(40).then(|| Sim {
                iccid: Some(format!("89490000000000000{:03}", self.sim)),
                imsi: Some(format!("262010000000{:03}", self.sim)),
                imei: Some("350000000000001".to_owned()),
            }),
            usage: Some(Usage { tx_bytes: Some(self.sent), rx_bytes: Some(self.received) }),
            extra_json: String::new(),
        };
        self.buffer.push(heartbeat.clone());
        Some(heartbeat)
    }

    /// A gateway takes a heartbeat in.
    fn arrive(&mut self, random: &mut Random, session: &mut Session, at: i64, heartbeat: Heartbeat) {
        session.traffic.bytes_in += random.count(80, 300);
        session.traffic.bytes_out += 4;
        session.traffic.messages_in += 1;
        let event = session.event(&self.id, at, Kind::Heartbeat(heartbeat.clone()));
        self.events.push(event);
        if self.recent.len() >= 5 {
            self.recent.remove(0);
        }
        self.recent.push((heartbeat, at));
    }
}
