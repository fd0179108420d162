//! The content of the heartbeats of one device.

use std::cell::RefCell;
use std::io::{self, Write};

use bytes::Bytes;

use crate::city::{CITIES, CITIES_COUNT, City};
use crate::random::Random;

/// A scooter that is ridden, parked and charged in one city, heartbeat by heartbeat.
///
/// Everything follows from seed and device number, except the times, which are arguments. Quantities are
/// integers in small units, because printing floating-point numbers costs several times as much.
#[derive(Debug)]
pub(crate) struct Vehicle {
    random: Random,
    city: &'static City,
    /// `"sim":{..}`, which never changes.
    sim: Box<str>,
    boot_id: u32,
    /// How far apart heartbeats are, for whatever changes with time.
    step_s: u32,
    uptime_s: u64,
    state: State,
    /// In thousandths of a percent.
    battery_e3: i32,
    /// From the city's centre, in millionths of a degree.
    north_e6: i32,
    east_e6: i32,
    cell_id: i32,
    rsrp_dbm: i32,
    motor_temp_e1: i32,
    tx_bytes: u64,
    rx_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Parked,
    Riding,
    Charging,
}

/// How far a device strays from its city's centre, in millionths of a degree: some 10 km.
const REACH_E6: i32 = 100_000;

impl Vehicle {
    /// The device as it is before its first heartbeat; `step_s` is what it promises until the next.
    pub(crate) fn new(seed: u64, device: u32, step_s: u32) -> Self {
        let mut random = Random::new(seed, device);
        let city = usize::try_from(random.between(0, CITIES_COUNT - 1)).unwrap_or_default();
        let city = &CITIES[city];
        Self {
            sim: sim(city, device).into(),
            city,
            boot_id: u32::try_from(random.next() >> 32).unwrap_or_default(),
            step_s,
            uptime_s: 0,
            state: State::Parked,
            battery_e3: random.between(30_000, 100_000),
            north_e6: random.between(-REACH_E6 / 2, REACH_E6 / 2),
            east_e6: random.between(-REACH_E6 / 2, REACH_E6 / 2),
            cell_id: random.between(1 << 20, 1 << 27),
            rsrp_dbm: random.between(-115, -80),
            motor_temp_e1: 180,
            tx_bytes: 0,
            rx_bytes: 0,
            random,
        }
    }

    /// The next heartbeat as JSON: what the device was at `ts_ms`, its `seq`-th.
    pub(crate) fn heartbeat(&mut self, seq: u64, ts_ms: i64) -> Bytes {
        thread_local! {
            /// Written here and copied once at its exact size, so that a stored heartbeat has no slack.
            static JSON: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(1_024));
        }
        self.step();
        let payload = JSON.with_borrow_mut(|json| {
            json.clear();
            // A vector takes every byte.
            let _infallible: io::Result<()> = self.write(json, seq, ts_ms);
            Bytes::copy_from_slice(json)
        });
        self.tx_bytes += u64::try_from(payload.len()).unwrap_or_default() + 100;
        self.rx_bytes += 44;
        payload
    }

    fn step(&mut self) {
        let random = &mut self.random;
        self.uptime_s += u64::from(self.step_s);
        self.state = match self.state {
            State::Parked if self.battery_e3 < 15_000 => State::Charging,
            State::Parked if random.once_in(12) => State::Riding,
            State::Riding if self.battery_e3 < 5_000 || random.once_in(20) => State::Parked,
            State::Charging if self.battery_e3 > 95_000 => State::Parked,
            same => same,
        };
        let (drain_e3, temp_target_e1) = match self.state {
            State::Parked => (random.between(0, 2), 180),
            State::Riding => {
                self.north_e6 = stray(self.north_e6 + random.between(-600, 600));
                self.east_e6 = stray(self.east_e6 + random.between(-900, 900));
                if random.once_in(8) {
                    self.cell_id = random.between(1 << 20, 1 << 27);
                }
                (random.between(20, 90), 520)
            }
            State::Charging => (-random.between(200, 400), 220),
        };
        self.battery_e3 = (self.battery_e3 - drain_e3).clamp(0, 100_000);
        self.motor_temp_e1 += (temp_target_e1 - self.motor_temp_e1) / 8 + random.between(-3, 3);
        self.rsrp_dbm = (self.rsrp_dbm + random.between(-2, 2)).clamp(-125, -75);
    }

    fn write(&mut self, json: &mut Vec<u8>, seq: u64, ts_ms: i64) -> io::Result<()> {
        let (state, kickstand, charging) = match self.state {
            State::Parked => ("parked", "down", false),
            State::Riding => ("riding", "up", false),
            State::Charging => ("charging", "down", true),
        };
        let riding = self.state == State::Riding;
        let Self { boot_id, uptime_s, step_s, battery_e3, rsrp_dbm, cell_id, sim, .. } = self;
        write!(
            json,
            r#"{{"ts":{ts_ms},"seq":{seq},"boot_id":"{boot_id:08x}","uptime_s":{uptime_s},"firmware":"1.4.2","#
        )?;
        write!(json, r#""state":"{state}","next_s":{step_s},"battery":{{"percent":"#)?;
        write_decimal(json, *battery_e3 / 100, 1)?;
        write!(
            json,
            r#","millivolts":{},"charging":{charging}}},"position":{{"lat":"#,
            36_000 + *battery_e3 * 6 / 100
        )?;
        write_decimal(json, self.city.lat_e6 + self.north_e6, 6)?;
        json.write_all(br#","lon":"#)?;
        write_decimal(json, self.city.lon_e6 + self.east_e6, 6)?;
        write!(json, r#","alt_m":{},"speed_mps":"#, self.random.between(30, 36))?;
        write_decimal(json, if riding { self.random.between(20, 69) } else { 0 }, 1)?;
        write!(
            json,
            r#","accuracy_m":{}}},"radio":{{"rat":"LTE-M","plmn":"{}","cell_id":{cell_id},"tac":{},"#,
            self.random.between(3, 12),
            self.city.plmn,
            *cell_id >> 12,
        )?;
        write!(
            json,
            r#""rssi_dbm":{},"rsrp_dbm":{rsrp_dbm},"rsrq_db":{},"sinr_db":{}}},{sim},"usage":{{"tx_bytes":{},"#,
            *rsrp_dbm + 30,
            self.random.between(-14, -8),
            self.random.between(0, 18),
            self.tx_bytes,
        )?;
        write!(
            json,
            r#""rx_bytes":{}}},"extra":{{"kickstand":"{kickstand}","motor_temp_c":"#,
            self.rx_bytes
        )?;
        write_decimal(json, self.motor_temp_e1, 1)?;
        json.write_all(b"}}")
    }
}

/// Turns back at the edge of the city.
fn stray(offset_e6: i32) -> i32 {
    offset_e6.clamp(-REACH_E6, REACH_E6)
}

/// A number of so many decimals, given in units of its last one.
fn write_decimal(json: &mut Vec<u8>, value: i32, decimals: u8) -> io::Result<()> {
    let (one, decimals) = (10_u32.pow(decimals.into()), usize::from(decimals));
    let (sign, magnitude) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
    write!(json, "{sign}{}.{:0decimals$}", magnitude / one, magnitude % one)
}

/// SIM, subscriber and equipment numbers that hold the device number and pass the usual checks.
fn sim(city: &City, device: u32) -> String {
    let iccid =
        with_check_digit(format!("89{}{:0width$}", city.country, device, width = 16 - city.country.len()));
    let imsi = format!("{}{device:0width$}", city.plmn, width = 15 - city.plmn.len());
    let imei = with_check_digit(format!("35693803{:06}", device % 1_000_000));
    format!(r#""sim":{{"iccid":"{iccid}","imsi":"{imsi}","imei":"{imei}"}}"#)
}

/// Appends the Luhn digit (ISO/IEC 7812-1).
fn with_check_digit(mut digits: String) -> String {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0') * if place % 2 == 0 { 2 } else { 1 };
            digit / 10 + digit % 10
        })
        .sum();
    digits.push(char::from_digit((10 - sum % 10) % 10, 10).unwrap_or('0'));
    digits
}

#[cfg(test)]
mod tests {
    use super::{Vehicle, with_check_digit, write_decimal};

    fn heartbeats(seed: u64, device: u32, count: u64) -> Vec<serde_json::Value> {
        let mut vehicle = Vehicle::new(seed, device, 30);
        (0..count)
            .map(|seq| {
                let payload = vehicle.heartbeat(seq, 1_767_225_600_123);
                assert!(payload.len() < 1_024);
                serde_json::from_slice(&payload).expect("valid JSON")
            })
            .collect()
    }

    #[test]
    fn the_content_follows_from_seed_and_device() {
        assert_eq!(heartbeats(7, 3, 50), heartbeats(7, 3, 50));
        assert_ne!(heartbeats(7, 3, 1), heartbeats(7, 4, 1));
        assert_ne!(heartbeats(7, 3, 1), heartbeats(8, 3, 1));
    }

    #[test]
    fn every_value_stays_in_its_range_and_counters_rise() {
        for device in 0..20 {
            let mut sent = 0;
            for (seq, heartbeat) in (0_u64..).zip(heartbeats(1, device, 3_000)) {
                assert_eq!(heartbeat["seq"], seq);
                assert!((0.0..=100.0).contains(&heartbeat["battery"]["percent"].as_f64().expect("percent")));
                assert!(heartbeat["position"]["lat"].as_f64().expect("lat").abs() < 90.0);
                assert!(heartbeat["position"]["lon"].as_f64().expect("lon").abs() < 180.0);
                assert_eq!(heartbeat["sim"]["iccid"].as_str().expect("iccid").len(), 19);
                assert_eq!(heartbeat["sim"]["imsi"].as_str().expect("imsi").len(), 15);
                assert_eq!(heartbeat["sim"]["imei"].as_str().expect("imei").len(), 15);
                let tx_bytes = heartbeat["usage"]["tx_bytes"].as_u64().expect("tx_bytes");
                assert!(tx_bytes > sent || seq == 0);
                sent = tx_bytes;
            }
        }
    }

    #[test]
    fn decimals_and_check_digits_are_right() {
        let mut json = Vec::new();
        write_decimal(&mut json, -34_056, 6).expect("written");
        assert_eq!(json, b"-0.034056");
        assert_eq!(with_check_digit("7992739871".into()), "79927398713");
    }
}
