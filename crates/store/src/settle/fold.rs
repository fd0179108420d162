//! What a device's counters rose by, hour by hour: a fold over its readings. No clock, no I/O.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::ROWS_OF_A_DEVICE_MAX;
use super::rows::{Ending, Key, Reading, Source, Stood, UsageHour};

/// Where a counter of 32 bits begins anew.
const WRAP: u64 = 1 << 32;
/// A counter that falls from above this to below [`WRAPPED_TO`] has begun anew at the top.
const WRAPPED_FROM: u64 = 3 << 30;
const WRAPPED_TO: u64 = 1 << 30;

/// What is known of one device, from an hour on.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Seconds since 1970; nothing before it is made anew.
    pub from_s: u32,
    /// Every heartbeat that was taken or received from then on.
    pub readings: Vec<Reading>,
    /// Every end of a session from then on.
    pub endings: Vec<Ending>,
    /// Where counters stood before.
    pub stood: Vec<Stood>,
    /// Rows that were settled before, from then on.
    pub settled: Vec<Key>,
}

impl History {
    /// Rows of any kind.
    pub(crate) fn len(&self) -> usize {
        self.readings.len() + self.endings.len() + self.stood.len() + self.settled.len()
    }

    /// Whether it is no more than may be held of one device.
    pub(crate) fn has_room(&self) -> bool {
        self.len() <= ROWS_OF_A_DEVICE_MAX
    }
}

/// A counter may have begun before what was looked at: its history must be looked at whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BeganBefore;

/// How far back `stood` goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach {
    /// To this moment, milliseconds since 1970.
    Since(i64),
    /// To the beginning.
    Whole,
}

/// What a device had told last: a reading that tells less has this.
#[derive(Clone, Debug, Default)]
struct Told {
    at_ms: i64,
    iccid: String,
    plmn: String,
    state: String,
}

impl Told {
    fn hear(&mut self, reading: &Reading) {
        let told = [
            (&mut self.iccid, &reading.iccid),
            (&mut self.plmn, &reading.plmn),
            (&mut self.state, &reading.state),
        ];
        for (last, now) in told {
            if !now.is_empty() && last != now {
                last.clone_from(now);
            }
        }
    }

    fn recall(&mut self, stood: &Stood) {
        if stood.last_at >= self.at_ms {
            *self = Self {
                at_ms: stood.last_at,
                iccid: stood.iccid.clone(),
                plmn: stood.plmn.clone(),
                state: stood.state.clone(),
            };
        }
    }
}

/// A modem's two counters in one boot, or in all boots where they have no name.
#[derive(Clone, Debug, Default)]
struct Modem {
    last: [Option<u64>; 2],
    /// The last values, with 2^32 more for each time that the counter began anew at the top.
    total: [u64; 2],
    high: [u64; 2],
    uptime_s: Option<u64>,
    sequence: Option<u64>,
}

impl Modem {
    fn resume(stood: &Stood) -> Self {
        let last = [stood.last_tx, stood.last_rx];
        let total = last.map(Option::unwrap_or_default);
        let high = [total[0] + stood.ahead_tx, total[1] + stood.ahead_rx];
        Self { last, total, high, uptime_s: stood.last_uptime_s, sequence: stood.last_sequence }
    }

    /// How much each counter rose above all that it was before.
    ///
    /// A counter that falls was reset, has begun anew at the top, or its readings are out of order. What tells them apart is
    /// the name of the boot, the sequence number and the uptime. Where nothing does, a counter of a named boot is taken for out of
    /// order and counts nothing, and one without a name is taken for reset.
    fn read(&mut self, reading: &Reading) -> [u64; 2] {
        let rises = |now: Option<u64>, last: Option<u64>| now.zip(last).is_some_and(|(now, last)| now > last);
        let named = !reading.boot_id.is_empty();
        let (forward, backward) =
            (rises(reading.sequence, self.sequence), rises(self.sequence, reading.sequence));
        let (older, younger) =
            (rises(reading.uptime_s, self.uptime_s), rises(self.uptime_s, reading.uptime_s));
        let counters = [reading.tx_bytes, reading.rx_bytes];
        let mut wraps = [false; 2];
        let mut reset = !named && younger;
        for way in 0..2 {
            let Some((last, now)) = self.last[way].zip(counters[way]).filter(|(last, now)| now < last) else {
                continue;
            };
            let from_the_top = (WRAPPED_FROM..WRAP).contains(&last) && now < WRAPPED_TO;
            if from_the_top && if named { !backward } else { older } {
                wraps[way] = true;
            } else {
                reset = true;
            }
        }
        reset &= !named || forward;
        if reset {
            *self = Self { uptime_s: self.uptime_s, sequence: self.sequence, ..Self::default() };
            wraps = [false; 2];
        }
        let mut rise = [0; 2];
        for way in 0..2 {
            let Some(now) = counters[way] else { continue };
            let over = self.total[way] - self.last[way].unwrap_or_default() + u64::from(wraps[way]) * WRAP;
            self.total[way] = now.saturating_add(over);
            self.last[way] = Some(now);
            rise[way] = self.total[way].saturating_sub(self.high[way]);
            self.high[way] = self.high[way].max(self.total[way]);
        }
        self.uptime_s = reading.uptime_s.or(self.uptime_s);
        self.sequence = reading.sequence.or(self.sequence);
        rise
    }
}

/// What a gateway counted of one session; only rises.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    high: [u64; 3],
}

impl Session {
    fn resume(stood: &Stood) -> Self {
        let [tx, rx] = [stood.last_tx, stood.last_rx].map(Option::unwrap_or_default);
        Self { high: [tx, rx, stood.last_messages] }
    }

    fn read(&mut self, traffic: [u64; 3]) -> [u64; 3] {
        let mut rise = [0; 3];
        for count in 0..3 {
            rise[count] = traffic[count].saturating_sub(self.high[count]);
            self.high[count] = self.high[count].max(traffic[count]);
        }
        rise
    }
}

/// The hours of a device from `history.from_s` on.
///
/// # Errors
/// Where a counter may have begun before `reach`, and nothing is known of it.
pub(crate) fn fold(
    device_id: &str,
    history: &History,
    reach: Reach,
    run: u64,
) -> Result<Vec<UsageHour>, BeganBefore> {
    let mut hours = Hours { device_id, run, rows: BTreeMap::new() };
    // What was settled before and has nothing any more is told so.
    for key in &history.settled {
        hours.row(key.clone());
    }
    modem(history, reach, &mut hours)?;
    gateway(history, reach, &mut hours)?;
    Ok(hours.rows.into_values().collect())
}

fn modem(history: &History, reach: Reach, hours: &mut Hours<'_>) -> Result<(), BeganBefore> {
    let from_ms = i64::from(history.from_s) * 1000;
    let mut readings: Vec<&Reading> =
        history.readings.iter().filter(|reading| reading.at >= from_ms).collect();
    // By all that tells two of them apart: in which order they were read must not matter.
    readings.sort_unstable_by_key(|reading| {
        (reading.at, reading.identity, reading.received_at, reading.session_messages_in, reading.session_id)
    });
    let (mut told, mut counters) = (Told::default(), HashMap::new());
    for stood in history.stood.iter().filter(|stood| stood.source == Source::Modem) {
        told.recall(stood);
        counters.insert(stood.counter.as_str(), Modem::resume(stood));
    }
    if let (Reach::Since(_), true, false) = (reach, counters.is_empty(), readings.is_empty()) {
        return Err(BeganBefore);
    }
    for reading in readings {
        told.hear(reading);
        let counter = match counters.get_mut(reading.boot_id.as_str()) {
            Some(counter) => counter,
            None => {
                let uptime_ms =
                    reading.uptime_s.and_then(|uptime_s| i64::try_from(uptime_s).ok()?.checked_mul(1000));
                let began_ms = uptime_ms.map_or(i64::MIN, |uptime_ms| reading.at.saturating_sub(uptime_ms));
                reach.covers(began_ms)?;
                counters.entry(reading.boot_id.as_str()).or_default()
            }
        };
        let rise = counter.read(reading);
        let row = hours.row(told.key(Source::Modem, &reading.boot_id, reading.at));
        row.heartbeats += 1;
        // A device may tell what it likes: each of two rises may be all that a counter holds.
        row.tx_bytes = row.tx_bytes.saturating_add(rise[0]);
        row.rx_bytes = row.rx_bytes.saturating_add(rise[1]);
        (row.last_at, row.last_place) = (reading.at, reading.identity);
        [row.last_tx, row.last_rx] = counter.last;
        row.ahead_tx = counter.high[0] - counter.total[0];
        row.ahead_rx = counter.high[1] - counter.total[1];
        (row.last_uptime_s, row.last_sequence) = (counter.uptime_s, counter.sequence);
    }
    Ok(())
}

/// A moment at which a gateway had counted so much of a session.
struct Counted<'a> {
    at_ms: i64,
    session_id: Uuid,
    traffic: [u64; 3],
    heartbeat: Option<&'a Reading>,
}

fn gateway(history: &History, reach: Reach, hours: &mut Hours<'_>) -> Result<(), BeganBefore> {
    let from_ms = i64::from(history.from_s) * 1000;
    let heard = history.readings.iter().map(|reading| Counted {
        at_ms: reading.received_at,
        session_id: reading.session_id,
        traffic: [reading.session_bytes_in, reading.session_bytes_out, reading.session_messages_in],
        heartbeat: Some(reading),
    });
    let ended = history.endings.iter().map(|ending| Counted {
        at_ms: ending.at,
        session_id: ending.session_id,
        traffic: [ending.bytes_in, ending.bytes_out, ending.messages_in],
        heartbeat: None,
    });
    let mut counted: Vec<Counted<'_>> =
        heard.chain(ended).filter(|counted| counted.at_ms >= from_ms).collect();
    counted.sort_unstable_by_key(|counted| {
        let taken = counted.heartbeat.map(|reading| (reading.at, reading.identity));
        (counted.at_ms, counted.traffic[2], taken.is_none(), taken, counted.session_id)
    });
    let (mut told, mut sessions) = (Told::default(), HashMap::new());
    for stood in history.stood.iter().filter(|stood| stood.source == Source::Gateway) {
        told.recall(stood);
        sessions.insert(stood.counter.clone(), Session::resume(stood));
    }
    if let (Reach::Since(_), true, false) = (reach, sessions.is_empty(), counted.is_empty()) {
        return Err(BeganBefore);
    }
    for Counted { at_ms, session_id, traffic, heartbeat } in counted {
        if let Some(heartbeat) = heartbeat {
            told.hear(heartbeat);
        }
        let name = session_id.to_string();
        let session = match sessions.get_mut(&name) {
            Some(session) => session,
            None => {
                reach.covers(began_ms(session_id))?;
                sessions.entry(name.clone()).or_default()
            }
        };
        let rise = session.read(traffic);
        let row = hours.row(told.key(Source::Gateway, &name, at_ms));
        row.heartbeats += u32::from(heartbeat.is_some());
        row.tx_bytes += rise[0];
        row.rx_bytes += rise[1];
        row.messages += rise[2];
        (row.last_at, row.last_place) = (at_ms, traffic[2]);
        [row.last_tx, row.last_rx] = [Some(session.high[0]), Some(session.high[1])];
        row.last_messages = session.high[2];
    }
    Ok(())
}

/// When a session began, by its id; the beginning of time where that does not say.
fn began_ms(session_id: Uuid) -> i64 {
    let Some(timestamp) = session_id.get_timestamp() else { return i64::MIN };
    let (seconds, nanos) = timestamp.to_unix();
    i64::try_from(seconds).map_or(i64::MIN, |seconds| seconds * 1000 + i64::from(nanos / 1_000_000))
}

impl Reach {
    /// A counter that began before it, and of which nothing is known, may have counted before.
    fn covers(self, began_ms: i64) -> Result<(), BeganBefore> {
        match self {
            Self::Since(since_ms) if began_ms < since_ms => Err(BeganBefore),
            Self::Since(_) | Self::Whole => Ok(()),
        }
    }
}

impl Told {
    fn key(&self, source: Source, counter: &str, at_ms: i64) -> Key {
        Key {
            source,
            counter: counter.to_owned(),
            hour: u32::try_from(at_ms.div_euclid(3_600_000) * 3_600).unwrap_or_default(),
            iccid: self.iccid.clone(),
            plmn: self.plmn.clone(),
            state: self.state.clone(),
        }
    }
}

struct Hours<'a> {
    device_id: &'a str,
    run: u64,
    rows: BTreeMap<Key, UsageHour>,
}

impl Hours<'_> {
    fn row(&mut self, key: Key) -> &mut UsageHour {
        let (device_id, run) = (self.device_id, self.run);
        self.rows.entry(key).or_insert_with_key(|key| UsageHour::nothing(device_id, key, run))
    }
}
