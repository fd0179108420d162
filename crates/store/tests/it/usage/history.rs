//! What a device does, step by step, and the rows that come of it.

use proptest::prelude::*;
use uuid::Uuid;

const MINUTE_MS: i64 = 60_000;
const WRAP: u64 = 1 << 32;

/// What happens next to a device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Minutes pass.
    Wait(u32),
    /// It moves so many bytes; half as many the other way.
    Move(u32),
    /// It takes a reading and sends it, or buffers it.
    Beat,
    /// A reading that tells no counters.
    BeatWithoutCounters,
    /// A reading that tells neither SIM nor network nor state.
    BareBeat,
    /// A reading that never arrives.
    LostBeat,
    /// Boots: another boot id, counters from zero.
    Reboot,
    /// Its boots have no name from now on; with or without telling its uptime.
    Nameless {
        uptime: bool,
    },
    /// Tells no sequence number from now on.
    Unnumbered,
    /// The modem alone restarts: counters from zero in the same boot.
    ModemRestart,
    /// A modem whose counter stands there.
    CounterAt(u64),
    /// The connection ends and another begins.
    Reconnect,
    /// The connection ends, and nobody tells.
    LoseConnection,
    SwapSim,
    Roam,
    Ride,
    /// Readings are buffered from now on.
    Buffer,
    /// What is buffered is sent.
    Drain,
    /// The last reading arrives once more, so many minutes later.
    Copy(u32),
    /// Its clock is off by so many minutes from now on.
    ClockOff(i32),
    /// Its clock is not believed from now on, or again.
    ClockLost(bool),
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1_u32..120).prop_map(Op::Wait),
        1 => (1_000_u32..3_000).prop_map(Op::Wait),
        6 => (0_u32..100_000).prop_map(Op::Move),
        9 => Just(Op::Beat),
        1 => Just(Op::BeatWithoutCounters),
        1 => Just(Op::BareBeat),
        1 => Just(Op::LostBeat),
        2 => Just(Op::Reboot),
        1 => any::<bool>().prop_map(|uptime| Op::Nameless { uptime }),
        1 => Just(Op::Unnumbered),
        1 => Just(Op::ModemRestart),
        1 => (WRAP - 50_000..WRAP).prop_map(Op::CounterAt),
        2 => Just(Op::Reconnect),
        1 => Just(Op::LoseConnection),
        1 => Just(Op::SwapSim),
        1 => Just(Op::Roam),
        1 => Just(Op::Ride),
        1 => Just(Op::Buffer),
        2 => Just(Op::Drain),
        1 => (0_u32..5_000).prop_map(Op::Copy),
        1 => (-300_i32..300).prop_map(Op::ClockOff),
        1 => any::<bool>().prop_map(Op::ClockLost),
    ]
}

/// A row of `heartbeats`, or of `connections` where a session ended.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    Beat(Beat),
    End { device: String, session: Uuid, at_ms: i64, began_ms: i64, traffic: [u64; 3] },
}

#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub device: String,
    /// None: nobody knows.
    pub device_ms: Option<i64>,
    pub identity: u64,
    pub received_ms: i64,
    pub session: Uuid,
    pub traffic: [u64; 3],
    pub boot: String,
    pub uptime_s: Option<u64>,
    pub sequence: Option<u64>,
    pub counters: Option<[u64; 2]>,
    pub iccid: String,
    pub plmn: String,
    pub state: String,
}

impl Beat {
    pub(crate) fn taken_ms(&self) -> i64 {
        self.device_ms.unwrap_or(self.received_ms)
    }
}

pub(crate) const HEARTBEAT_COLUMNS: &str = "device_id, device_time, identity, received_at, clock, session_id, session_bytes_in, \
     session_bytes_out, session_messages_in, boot_id, uptime_s, sequence, modem_tx_bytes, modem_rx_bytes, iccid, plmn, state, stored_at";
pub(crate) const END_COLUMNS: &str =
    "device_id, session_id, event, at, connected_at, bytes_in, bytes_out, messages_in, stored_at";

impl Row {
    pub(crate) fn arrived_ms(&self) -> i64 {
        match self {
            Self::Beat(beat) => beat.received_ms,
            Self::End { at_ms, .. } => *at_ms,
        }
    }

    pub(crate) fn heartbeat(&self, stored: &str) -> Option<String> {
        let Self::Beat(beat) = self else { return None };
        let Beat { device, identity, session, boot, iccid, plmn, state, .. } = beat;
        let optional = |number: Option<u64>| number.map_or("NULL".to_owned(), |number| number.to_string());
        let [tx, rx] = [0, 1].map(|way| optional(beat.counters.map(|counters| counters[way])));
        let (uptime, sequence) = (optional(beat.uptime_s), optional(beat.sequence));
        let clock = if beat.device_ms.is_some() { "device" } else { "implausible" };
        let [bytes_in, bytes_out, messages] = beat.traffic;
        let (taken, received) = (time(beat.device_ms.unwrap_or(0)), time(beat.received_ms));
        Some(format!(
            "('{device}', {taken}, {identity}, {received}, '{clock}', '{session}', {bytes_in}, {bytes_out}, {messages}, '{boot}', \
             {uptime}, {sequence}, {tx}, {rx}, '{iccid}', '{plmn}', '{state}', {stored})"
        ))
    }

    pub(crate) fn end(&self, stored: &str) -> Option<String> {
        let Self::End { device, session, at_ms, began_ms, traffic: [bytes_in, bytes_out, messages] } = self
        else {
            return None;
        };
        let (at, began) = (time(*at_ms), time(*began_ms));
        Some(format!(
            "('{device}', '{session}', 'disconnected', {at}, {began}, {bytes_in}, {bytes_out}, {messages}, {stored})"
        ))
    }
}

fn time(ms: i64) -> String {
    format!("fromUnixTimestamp64Milli({ms})")
}

/// The rows of one device whose history ends now.
pub(crate) fn rows(device: &str, ops: &[Op], now_ms: i64) -> Vec<Row> {
    let minutes: i64 = ops.iter().map(|op| op.minutes()).sum();
    let mut history = History::new(device, now_ms - (minutes + 1) * MINUTE_MS);
    for op in ops {
        history.happen(*op, now_ms);
    }
    history.happen(Op::Drain, now_ms);
    history.rows
}

impl Op {
    /// How long it takes at most.
    fn minutes(self) -> i64 {
        match self {
            Self::Wait(minutes) => minutes.into(),
            _ => 1,
        }
    }
}

/// A device on its way.
pub(crate) struct History {
    device: String,
    now_ms: i64,
    boot: u64,
    named: bool,
    tells_uptime: bool,
    numbered: bool,
    booted_ms: i64,
    sequence: u64,
    identity: u64,
    counters: [u64; 2],
    session: Uuid,
    session_began_ms: i64,
    traffic: [u64; 3],
    sim: u64,
    network: u64,
    ride: u64,
    buffering: bool,
    buffer: Vec<Beat>,
    clock_off_ms: i64,
    clock_lost: bool,
    rows: Vec<Row>,
}

impl History {
    /// Numbers from a seed (SplitMix64).
    pub(crate) fn stream(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        }
    }

    fn new(device: &str, began_ms: i64) -> Self {
        Self {
            device: device.into(),
            now_ms: began_ms,
            boot: 1,
            named: true,
            tells_uptime: true,
            numbered: true,
            booted_ms: began_ms,
            sequence: 0,
            identity: 0,
            counters: [0; 2],
            session: session(device, began_ms, 0),
            session_began_ms: began_ms,
            traffic: [100, 50, 0],
            sim: 1,
            network: 1,
            ride: 0,
            buffering: false,
            buffer: Vec::new(),
            clock_off_ms: 0,
            clock_lost: false,
            rows: Vec::new(),
        }
    }

    fn happen(&mut self, op: Op, end_ms: i64) {
        // So that no two things happen at once.
        self.now_ms += 1_001;
        match op {
            Op::Wait(minutes) => self.now_ms += i64::from(minutes) * MINUTE_MS - 1_001,
            Op::Move(bytes) => {
                self.counters[0] += u64::from(bytes);
                self.counters[1] += u64::from(bytes) / 2;
            }
            Op::Beat => self.beat(|_| {}),
            Op::BeatWithoutCounters => self.beat(|beat| beat.counters = None),
            Op::BareBeat => self.beat(|beat| {
                beat.iccid.clear();
                beat.plmn.clear();
                beat.state.clear();
            }),
            Op::LostBeat => {
                self.sequence += 1;
                self.identity += 1;
            }
            Op::Reboot => {
                self.boot += 1;
                self.booted_ms = self.now_ms;
                self.sequence = 0;
                self.counters = [0; 2];
            }
            Op::Nameless { uptime } => {
                self.named = false;
                self.tells_uptime = uptime;
            }
            Op::Unnumbered => self.numbered = false,
            Op::ModemRestart => self.counters = [0; 2],
            Op::CounterAt(counter) => self.counters = [counter, counter / 2],
            Op::Reconnect => self.reconnect(true),
            Op::LoseConnection => self.reconnect(false),
            Op::SwapSim => self.sim += 1,
            Op::Roam => self.network = 3 - self.network,
            Op::Ride => self.ride = 1 - self.ride,
            Op::Buffer => self.buffering = true,
            Op::Drain => {
                self.buffering = false;
                for beat in std::mem::take(&mut self.buffer) {
                    self.now_ms += 7;
                    self.send(beat);
                }
            }
            Op::Copy(minutes) => {
                let last = self.rows.iter().rev().find_map(|row| match row {
                    Row::Beat(beat) => Some(beat.clone()),
                    Row::End { .. } => None,
                });
                let Some(mut copy) = last else { return };
                copy.received_ms = (copy.received_ms + 2_000 + i64::from(minutes) * MINUTE_MS)
                    .min(end_ms.max(copy.received_ms + 2_000));
                // The copy comes over a session of its own.
                copy.session = session(&self.device, copy.received_ms - 1, 7);
                copy.traffic = [300, 30, 1];
                self.rows.push(Row::Beat(copy));
            }
            Op::ClockOff(minutes) => self.clock_off_ms = i64::from(minutes) * MINUTE_MS,
            Op::ClockLost(lost) => self.clock_lost = lost,
        }
    }

    fn beat(&mut self, change: impl FnOnce(&mut Beat)) {
        self.sequence += 1;
        self.identity += 1;
        let mut beat = Beat {
            device: self.device.clone(),
            device_ms: (!self.clock_lost).then_some(self.now_ms + self.clock_off_ms),
            identity: self.identity,
            received_ms: 0,
            session: self.session,
            traffic: [0; 3],
            boot: if self.named { format!("boot-{}", self.boot) } else { String::new() },
            uptime_s: self
                .tells_uptime
                .then(|| u64::try_from((self.now_ms - self.booted_ms) / 1000).expect("after it")),
            sequence: self.numbered.then_some(self.sequence),
            counters: Some(self.counters.map(|counter| counter % WRAP)),
            iccid: format!("sim-{}", self.sim),
            plmn: format!("2620{}", self.network),
            state: ["parked", "riding"][usize::try_from(self.ride).expect("small")].into(),
        };
        change(&mut beat);
        if self.buffering { self.buffer.push(beat) } else { self.send(beat) }
    }

    fn send(&mut self, mut beat: Beat) {
        self.traffic[0] += 211;
        self.traffic[1] += 4;
        self.traffic[2] += 1;
        beat.received_ms = self.now_ms;
        beat.session = self.session;
        beat.traffic = self.traffic;
        self.rows.push(Row::Beat(beat));
    }

    fn reconnect(&mut self, told: bool) {
        if told {
            self.traffic[0] += 2;
            self.rows.push(Row::End {
                device: self.device.clone(),
                session: self.session,
                at_ms: self.now_ms,
                began_ms: self.session_began_ms,
                traffic: self.traffic,
            });
        }
        self.now_ms += 10;
        self.session = session(&self.device, self.now_ms, 0);
        self.session_began_ms = self.now_ms;
        self.traffic = [100, 50, 0];
    }
}

/// A UUIDv7 as the gateway makes them.
fn session(device: &str, began_ms: i64, salt: u8) -> Uuid {
    let mut bytes = [salt; 10];
    let tail = device.as_bytes();
    for (to, from) in bytes.iter_mut().rev().zip(tail.iter().rev()) {
        *to ^= *from;
    }
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(began_ms).expect("after 1970"), &bytes)
        .into_uuid()
}
