//! What a fleet is told to do.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use event::{DeviceId, InvalidDeviceId};

use crate::tls::Tls;

/// A thousand years: beyond it times stop being times.
const CLOCK_OFF_MAX_S: u64 = 1_000 * 366 * 24 * 60 * 60;

/// How a simulated fleet behaves. Start from [`Config::new`] and change what matters; [`crate::run`] validates.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the MQTT server listens.
    pub mqtt: SocketAddr,
    /// Further servers of the same installation. A device begins at one of all of them, by its number, and goes on to the
    /// next with each attempt to connect. Default: none.
    pub others: Vec<SocketAddr>,
    /// With what TLS is spoken; `None` (the default) for plain TCP.
    pub tls: Option<Tls>,
    /// How many devices, 1 to 1,000,000. Each is one TCP connection and one open file.
    pub devices: u32,
    /// Device `n` (from 0) is named `{device_prefix}{n:06}`. Default `device-`.
    pub device_prefix: String,
    /// When a device makes heartbeats. Default: each every 10 s.
    pub pace: Pace,
    /// How long heartbeats are made, counted from the start of the run; `None` means until stopped.
    pub duration: Option<Duration>,
    /// Which MQTT versions are spoken. Default: both, by turns.
    pub protocol: Protocol,
    /// Heartbeats that one device may have sent without an answer, 1 to 1,024; a v5 server's receive maximum
    /// lowers it. Default 1, as careful devices do; 16 is a burst from a device's store.
    pub in_flight: u16,
    /// Heartbeats that one device stores at most until they are acknowledged, `in_flight` to 65,536. When the
    /// store is full the device makes none, and counts them as withheld. Default 64.
    pub stored_max: usize,
    /// First connections opened per second, over the whole fleet, 1 or more; reconnects are paced by
    /// `backoff` alone. Default 1,000.
    pub connect_rate: u32,
    /// Once, so long after the whole fleet is online for the first time: every device closes its connection without
    /// DISCONNECT, as one that loses its network, and all come back at `connect_rate`. Default `None`: never.
    pub reconnect_after: Option<Duration>,
    /// Local addresses to connect from, by turns; empty leaves it to the system. One address has about 28,000
    /// ports for one server, so larger fleets need more of them (on loopback: 127.0.0.1, 127.0.0.2, ...). Give
    /// one per 10,000 devices: Linux hands out the even ports first, and past some 14,000 connections from one
    /// address it searches for most of a millisecond per connect. Measured with 19,000 devices: 14.0 s of
    /// system time with one address, 4.6 s with two.
    pub sources: Vec<IpAddr>,
    /// Whether the MQTT session state outlives a connection. Default [`SessionState::Fresh`].
    pub session_state: SessionState,
    /// Longest silence of a device: a PINGREQ fills it. Whole seconds, at most 65,535 s; zero switches it off.
    /// A v5 server may override it. Default 60 s.
    pub keep_alive: Duration,
    /// From opening the socket to CONNACK. Default 10 s.
    pub connect_timeout: Duration,
    /// A connection on which an answer is owed and nothing at all has arrived for this long is given up and
    /// made anew. Default 60 s.
    pub reply_timeout: Duration,
    /// The wait before a reconnect, and before resending a heartbeat that the server refused for now.
    pub backoff: Backoff,
    /// After the stop: how long a device goes on delivering what it has stored. Default 10 s.
    pub drain: Duration,
    /// Times at which clocks of devices are wrong. Default: none. Where several hold at once, they add up.
    pub clock_steps: Vec<ClockStep>,
    /// Decides, with the device number, everything in the heartbeats but their times. Default 0.
    pub seed: u64,
}

/// A time at which some devices have a wrong clock, as after a lost battery or a wrong time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// Since the start of the run: when the clocks step away.
    pub after: Duration,
    /// How long until they are put right.
    pub lasts: Duration,
    /// How far they are off, seconds; negative: behind. At most a thousand years.
    pub off_s: i64,
    /// One device in so many has it, 1 or more.
    pub one_in: u32,
}

/// When a device makes heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Each device one per period (1 ms or more), the phases spread evenly over the fleet. Open loop: a
    /// heartbeat falls due whether or not earlier ones were answered, and its `ts` is the time it was due.
    Interval(Duration),
    /// The whole fleet this many per second: an interval of `devices / per_second`, which must be 1 ms or more.
    Rate {
        /// Heartbeats per second of all devices together.
        per_second: u32,
    },
    /// Each device as fast as PUBACKs allow: a new heartbeat whenever its window has room. Closed loop.
    Saturate,
}

/// Which MQTT versions a fleet speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1 only.
    V311,
    /// MQTT 5 only.
    V5,
    /// Devices with an even number speak 3.1.1, the others 5.
    Both,
}

/// Whether the MQTT session state outlives a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Each connection starts clean. What was unanswered is sent again as a new message, without DUP.
    Fresh,
    /// The server is asked to keep the state (v5: for an hour). If CONNACK says that it did, unanswered
    /// messages are sent again under the same packet identifier with DUP `[MQTT-4.4.0-1]`; if not, as with
    /// [`Self::Fresh`].
    Kept,
}

/// Exponential backoff: the `n`-th wait is drawn from the upper half of `min(first * 2^n, max)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest first wait. Default 1 s.
    pub first: Duration,
    /// Longest wait ever, `first` or more. Default 30 s.
    pub max: Duration,
}

/// Everything that is wrong with a [`Config`].
#[derive(Debug, thiserror::Error)]
pub struct InvalidConfig {
    /// One for each mistake.
    pub problems: Vec<Problem>,
}

/// One mistake in a [`Config`].
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field.
    pub key: &'static str,
    /// What is wrong with it, and what is allowed.
    pub problem: String,
}

impl Config {
    /// `devices` devices with the defaults that stand at each field.
    pub fn new(mqtt: SocketAddr, devices: u32) -> Self {
        Self {
            mqtt,
            others: Vec::new(),
            tls: None,
            devices,
            device_prefix: "device-".to_owned(),
            pace: Pace::Interval(Duration::from_secs(10)),
            duration: None,
            protocol: Protocol::Both,
            in_flight: 1,
            stored_max: 64,
            connect_rate: 1_000,
            reconnect_after: None,
            sources: Vec::new(),
            session_state: SessionState::Fresh,
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(60),
            backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) },
            drain: Duration::from_secs(10),
            clock_steps: Vec::new(),
            seed: 0,
        }
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Where a field is out of its range; all such fields at once.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &'static str, problem: &str| {
            if !holds {
                problems.push(Problem { key, problem: problem.to_owned() });
            }
        };
        let sources = u32::try_from(self.sources.len().max(1)).unwrap_or(u32::MAX);
        require((1..=1_000_000).contains(&self.devices), "devices", "must be 1 to 1,000,000");
        require(
            self.devices <= sources.saturating_mul(28_000),
            "sources",
            "one address has ports for 28,000 connections: name more addresses",
        );
        if let Err(invalid) = self.device_id(0) {
            require(false, "device_prefix", &format!("makes no device id: {invalid}"));
        }
        let paced = match self.pace {
            Pace::Interval(period) => period >= Duration::from_millis(1),
            Pace::Rate { per_second } => (1..=self.devices.saturating_mul(1_000)).contains(&per_second),
            Pace::Saturate => true,
        };
        require(paced, "pace", "a device makes no more than one heartbeat per ms, and a rate is 1 or more");
        require((1..=1_024).contains(&self.in_flight), "in_flight", "must be 1 to 1,024");
        let stored = usize::from(self.in_flight)..=65_536;
        require(stored.contains(&self.stored_max), "stored_max", "must be in_flight to 65,536");
        require(self.connect_rate >= 1, "connect_rate", "must be 1 or more");
        let keep_alive = self.keep_alive.subsec_nanos() == 0 && self.keep_alive.as_secs() <= 65_535;
        require(keep_alive, "keep_alive", "must be whole seconds, at most 65,535");
        require(!self.connect_timeout.is_zero(), "connect_timeout", "must be more than zero");
        require(!self.reply_timeout.is_zero(), "reply_timeout", "must be more than zero");
        require(!self.backoff.first.is_zero(), "backoff.first", "must be more than zero");
        require(self.backoff.max >= self.backoff.first, "backoff.max", "must be backoff.first or more");
        let sane = |step: &ClockStep| step.one_in >= 1 && step.off_s.unsigned_abs() <= CLOCK_OFF_MAX_S;
        require(
            self.clock_steps.iter().all(sane),
            "clock_steps",
            "one_in must be 1 or more, off_s within 1,000 years",
        );
        if problems.is_empty() { Ok(()) } else { Err(InvalidConfig { problems }) }
    }

    /// The name of device `number`.
    pub(crate) fn device_id(&self, number: u32) -> Result<DeviceId, InvalidDeviceId> {
        DeviceId::new(&format!("{}{number:06}", self.device_prefix))
    }

    /// The time between two heartbeats of one device; `None` where it is as short as PUBACKs allow.
    pub(crate) fn period(&self) -> Option<Duration> {
        match self.pace {
            Pace::Interval(period) => Some(period),
            Pace::Rate { per_second } => Some(Duration::from_secs(1) * self.devices / per_second),
            Pace::Saturate => None,
        }
    }

    /// Where device `number` connects with its attempt `attempt`, counted from 0.
    pub(crate) fn server(&self, number: u32, attempt: u32) -> SocketAddr {
        let turn = usize::try_from(number.wrapping_add(attempt)).unwrap_or_default();
        match turn % (self.others.len() + 1) {
            0 => self.mqtt,
            other => self.others[other - 1],
        }
    }

    /// How far the clock of device `number` is off so long after the start, milliseconds.
    pub(crate) fn clock_off_ms(&self, number: u32, elapsed: Duration) -> i64 {
        let holds = |step: &&ClockStep| {
            number.is_multiple_of(step.one_in) && (step.after..step.after + step.lasts).contains(&elapsed)
        };
        self.clock_steps.iter().filter(holds).map(|step| step.off_s * 1_000).sum()
    }

    /// Whether device `number` speaks MQTT 5.
    pub(crate) fn speaks_v5(&self, number: u32) -> bool {
        match self.protocol {
            Protocol::V311 => false,
            Protocol::V5 => true,
            Protocol::Both => number % 2 == 1,
        }
    }

    /// When the turn of device `number` comes where all connect at the connect rate.
    pub(crate) fn turn(&self, number: u32) -> Duration {
        Duration::from_secs(number.into()) / self.connect_rate
    }

    /// Where device `number` connects from.
    pub(crate) fn source(&self, number: u32) -> Option<IpAddr> {
        let turn = usize::try_from(number).unwrap_or_default().checked_rem(self.sources.len())?;
        self.sources.get(turn).copied()
    }
}

impl Backoff {
    /// The wait after `failures` earlier ones; `random` is uniform over all `u64`.
    pub(crate) fn delay(self, failures: u32, random: u64) -> Duration {
        let longest = self.first.saturating_mul(1 << failures.min(20)).min(self.max);
        let half = longest / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_nanos(random % nanos)
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid fleet")?;
        for (i, Problem { key, problem }) in self.problems.iter().enumerate() {
            write!(f, "{} {key}: {problem}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, ClockStep, Config, Duration, SocketAddr};

    #[test]
    fn every_mistake_is_said_at_once() {
        let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 1883)), 30_000);
        config.device_prefix = "a/".into();
        config.in_flight = 0;
        let keys: Vec<_> =
            config.validate().expect_err("invalid").problems.into_iter().map(|p| p.key).collect();
        assert_eq!(keys, ["sources", "device_prefix", "in_flight"]);
    }

    #[test]
    fn attempts_go_round_all_servers_and_clocks_are_wrong_in_their_time() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut config = Config::new(address(1), 10);
        assert_eq!((config.server(3, 0), config.server(3, 1)), (address(1), address(1)));
        config.others = vec![address(2)];
        let servers: Vec<_> = (0..3).map(|attempt| config.server(7, attempt).port()).collect();
        assert_eq!(servers, [2, 1, 2]);

        let seconds = Duration::from_secs;
        config.clock_steps = vec![ClockStep { after: seconds(5), lasts: seconds(2), off_s: -60, one_in: 2 }];
        assert_eq!(config.clock_off_ms(4, seconds(5)), -60_000);
        assert_eq!(config.clock_off_ms(5, seconds(5)), 0, "another device");
        assert_eq!((config.clock_off_ms(4, seconds(4)), config.clock_off_ms(4, seconds(7))), (0, 0));
    }

    #[test]
    fn a_backoff_grows_and_is_bounded() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };
        for random in [0, 1, u64::MAX] {
            assert!((50..=100).contains(&backoff.delay(0, random).as_millis()));
            assert!((200..=400).contains(&backoff.delay(2, random).as_millis()));
            assert!((1_000..=2_000).contains(&backoff.delay(u32::MAX, random).as_millis()));
        }
    }
}
