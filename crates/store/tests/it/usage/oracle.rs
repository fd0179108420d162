//! Usage as it is meant: one reading after the other.

use std::collections::{BTreeMap, HashMap};

use super::history::{Beat, Row};

const WRAP: u64 = 1 << 32;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub device: String,
    /// Beginning of the hour or day, seconds since 1970.
    pub from_s: i64,
    pub iccid: String,
    pub plmn: String,
    pub state: String,
}

/// What was moved: sent, received; and messages, as the gateway saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub heartbeats: u64,
    pub modem: [u64; 2],
    pub gateway: [u64; 3],
}

impl Usage {
    pub(crate) fn add(&mut self, other: &Self) {
        self.heartbeats += other.heartbeats;
        self.modem.iter_mut().zip(other.modem).for_each(|(sum, more)| *sum += more);
        self.gateway.iter_mut().zip(other.gateway).for_each(|(sum, more)| *sum += more);
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a device had told last.
#[derive(Clone, Default)]
struct Told {
    iccid: String,
    plmn: String,
    state: String,
}

impl Told {
    fn hear(&mut self, beat: &Beat) {
        for (last, now) in
            [(&mut self.iccid, &beat.iccid), (&mut self.plmn, &beat.plmn), (&mut self.state, &beat.state)]
        {
            if !now.is_empty() {
                last.clone_from(now);
            }
        }
    }

    fn key(&self, device: &str, at_ms: i64) -> Key {
        Key {
            device: device.into(),
            from_s: at_ms / 3_600_000 * 3_600,
            iccid: self.iccid.clone(),
            plmn: self.plmn.clone(),
            state: self.state.clone(),
        }
    }
}

/// Usage by the hour, out of every row there is.
pub(crate) fn hours(rows: &[Row]) -> BTreeMap<Key, Usage> {
    // Of copies the first that arrived stands.
    let mut beats: HashMap<(String, i64, u64), &Beat> = HashMap::new();
    for row in rows {
        if let Row::Beat(beat) = row {
            let first = beats
                .entry((beat.device.clone(), beat.device_ms.unwrap_or(0), beat.identity))
                .or_insert(beat);
            if beat.received_ms < first.received_ms {
                *first = beat;
            }
        }
    }
    let mut hours: BTreeMap<Key, Usage> = BTreeMap::new();
    let mut devices: Vec<&str> = rows.iter().map(Row::device).collect();
    devices.sort_unstable();
    devices.dedup();
    for device in devices {
        let mine: Vec<&Beat> = beats.values().copied().filter(|beat| beat.device == device).collect();
        modem(device, mine.clone(), &mut hours);
        gateway(device, mine, rows, &mut hours);
    }
    hours.retain(|_, usage| !usage.is_nothing());
    hours
}

fn modem(device: &str, mut beats: Vec<&Beat>, hours: &mut BTreeMap<Key, Usage>) {
    beats.sort_by_key(|beat| (beat.taken_ms(), beat.identity));
    let mut told = Told::default();
    let mut counters: HashMap<&str, Counter> = HashMap::new();
    for beat in beats {
        told.hear(beat);
        let rise = counters.entry(&beat.boot).or_default().read(beat);
        let usage = Usage { heartbeats: 1, modem: rise, ..Usage::default() };
        hours.entry(told.key(device, beat.taken_ms())).or_default().add(&usage);
    }
}

/// The two counters of a modem in one boot, or of all boots of a modem that does not name them.
#[derive(Default)]
struct Counter {
    prior: [Option<u64>; 2],
    uptime_s: Option<u64>,
    sequence: Option<u64>,
    wraps: [u64; 2],
    high: [u64; 2],
}

impl Counter {
    fn read(&mut self, beat: &Beat) -> [u64; 2] {
        let named = !beat.boot.is_empty();
        let rises =
            |now: Option<u64>, prior: Option<u64>| now.zip(prior).is_some_and(|(now, prior)| now > prior);
        let forward = rises(beat.sequence, self.sequence);
        let backward = rises(self.sequence, beat.sequence);
        let older = rises(beat.uptime_s, self.uptime_s);
        let younger = rises(self.uptime_s, beat.uptime_s);
        let mut wrapped = [false; 2];
        let mut reset = !named && younger;
        if let Some(now) = beat.counters {
            for way in 0..2 {
                let Some(prior) = self.prior[way].filter(|prior| *prior > now[way]) else { continue };
                let over_the_top = (3 << 30..WRAP).contains(&prior) && now[way] < 1 << 30;
                if over_the_top && if named { !backward } else { older } {
                    wrapped[way] = true;
                } else {
                    reset = true;
                }
            }
        }
        // In a boot that has a name, a fall that comes later by its number is a modem that began anew; else it is a disorder.
        if named && !forward {
            reset = false;
        }
        if reset {
            (self.wraps, self.high) = ([0; 2], [0; 2]);
        }
        let mut rise = [0; 2];
        if let Some(now) = beat.counters {
            for way in 0..2 {
                self.wraps[way] += u64::from(wrapped[way] && !reset);
                let total = now[way] + self.wraps[way] * WRAP;
                rise[way] = total.saturating_sub(self.high[way]);
                self.high[way] = self.high[way].max(total);
                self.prior[way] = Some(now[way]);
            }
        }
        self.uptime_s = beat.uptime_s.or(self.uptime_s);
        self.sequence = beat.sequence.or(self.sequence);
        rise
    }
}

fn gateway(device: &str, beats: Vec<&Beat>, rows: &[Row], hours: &mut BTreeMap<Key, Usage>) {
    let heard = beats
        .into_iter()
        .map(|beat| (beat.received_ms, beat.traffic[2], beat.session, beat.traffic, Some(beat)));
    let ended = rows.iter().filter_map(|row| match row {
        Row::End { device: of, session, at_ms, traffic, .. } if of == device => {
            Some((*at_ms, traffic[2], *session, *traffic, None))
        }
        _ => None,
    });
    let mut readings: Vec<_> = heard.chain(ended).collect();
    readings.sort_by_key(|reading| (reading.0, reading.1));
    let mut told = Told::default();
    let mut highest: HashMap<uuid::Uuid, [u64; 3]> = HashMap::new();
    for (at_ms, _, session, traffic, beat) in readings {
        if let Some(beat) = beat {
            told.hear(beat);
        }
        let high = highest.entry(session).or_default();
        let mut usage = Usage::default();
        for count in 0..3 {
            usage.gateway[count] = traffic[count].saturating_sub(high[count]);
            high[count] = high[count].max(traffic[count]);
        }
        hours.entry(told.key(device, at_ms)).or_default().add(&usage);
    }
}

impl Row {
    fn device(&self) -> &str {
        match self {
            Self::Beat(beat) => &beat.device,
            Self::End { device, .. } => device,
        }
    }
}
