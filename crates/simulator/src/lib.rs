//! Fleets of real MQTT connections, for demos, whole-system tests and load.
//!
//! [`run`] opens one TCP connection per device and publishes JSON heartbeats with QoS 1 on
//! `devices/{device_id}/heartbeat`, as a careful device does: what is not acknowledged stays in the device's
//! store and is sent again. Against any MQTT 3.1.1 or 5 server; nothing in here knows the gateway.
//!
//! # Guarantees
//! - **Acknowledged means PUBACK**, in v5 with a reason code below 0x80 (0x10, no matching subscribers, is
//!   one). Each acknowledged heartbeat is kept by identity: [`Report::acknowledged`] is exactly the set that
//!   must stand in the table, [`Report::unacknowledged`] what may stand there.
//! - A heartbeat's bytes are made once. However often it is sent, they are the same, its `ts` too. DUP is set
//!   only within one MQTT session, see [`SessionState`].
//! - `seq` counts from 0 without gaps, for a heartbeat that is withheld is not made.
//! - The content follows from [`Config::seed`] and the device number; only `ts` comes from the clock, which
//!   [`Config::clock_steps`] puts wrong. With
//!   [`Pace::Interval`] it is the time at which the heartbeat fell due, so that a simulator or server that
//!   falls behind shows in the freshness instead of hiding in a slower pace.
//!
//! # Ordering
//! A device first sends its heartbeats in the order of `seq`, and sends them again in the same order after a
//! reconnect; only one that the server refused for now is overtaken.
//!
//! # When the server refuses
//! PUBACK with 0x80, 0x83, 0x91 or 0x97 (unspecified, implementation specific, packet identifier in use, quota
//! exceeded) is a refusal for now: the heartbeat stays stored and goes again, with a new packet identifier,
//! after the backoff. Any other refusal is for good: the heartbeat is given up. A refused CONNECT is tried
//! again for ever, with backoff, whatever the reason: devices in the field do.
//!
//! # Limits
//! - Per device [`Config::stored_max`] heartbeats of less than 1 KiB and [`Config::in_flight`] unanswered ones;
//!   4 KiB encoded and not written, and then one more packet. Nothing else grows with time, but for one
//!   range per gap in the acknowledged `seq`.
//! - With TLS some 20 KiB more per device.
//! - One open file per device, and about 28,000 devices per source address.
//! - After the stop at most [`Config::drain`] until every task has ended, whatever the server does.
//!
//! # What it does not do
//! WebSocket, client certificates, authentication, QoS 0 and 2, subscriptions, wills. It does not honour a v5 server's maximum
//! QoS or a maximum packet size below 1 KiB. Its store is memory: a device forgets when the process ends.
//!
//! # Tasks
//! One per device, owned by [`run`] in a `JoinSet` rather than a `TaskTracker`, so that dropping the future
//! ends them. There are no channels: devices count into shared atomics, and return their record at the end.

mod city;
mod config;
mod device;
mod heartbeat;
mod meter;
mod outbox;
mod random;
mod report;
mod seq_set;
mod session;
mod storm;
mod stream;
mod tls;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

pub use config::{Backoff, ClockStep, Config, InvalidConfig, Pace, Problem, Protocol, SessionState};
pub use report::{Counts, Latency, Lost, Milestones, ReasonCode, Report, Snapshot};
pub use tls::{InvalidTls, Tls};

use device::{Device, Fleet, Signals};
use meter::{Meters, latencies};
use report::Record;
use storm::Storm;

/// How often a snapshot is taken.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(1);
/// How often devices are started, all those whose turn has come.
const LAUNCH_PERIOD: Duration = Duration::from_millis(10);
/// Devices per token. A token takes a lock whenever one of its waiters is polled.
const DEVICES_PER_TOKEN: u32 = 256;

/// Runs a fleet: starts its devices at the connect rate, lets them make heartbeats until `stop` is cancelled
/// or the duration is over, then gives them the drain time, and reports.
///
/// `progress` is called once a second, from this future, and must not block.
///
/// Cancel safety: dropped, it ends all devices at once, without DISCONNECT and without a report.
///
/// # Errors
/// Where the configuration is invalid; nothing has been started then.
///
/// # Panics
/// If a device's task does, which is a mistake in this crate.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    mut progress: impl FnMut(&Snapshot),
) -> Result<Report, InvalidConfig> {
    config.validate()?;
    let start = Instant::now();
    let end = config.duration.and_then(|duration| start.checked_add(duration));
    // Cancelled with the caller's token, at the end of the duration, and when this future is dropped.
    let making = stop.child_token();
    let _stop_on_drop = making.clone().drop_guard();
    let mut launch = Launch::new(config, making.clone(), start);
    let mut storm = Storm::new(&launch.fleet.config, start);
    let mut devices = JoinSet::new();
    let mut records = Vec::new();
    let mut latency = Latencies { total: latencies(), recent: latencies() };
    let mut launches = interval_at(start, LAUNCH_PERIOD);
    launches.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval_at(start, LAUNCH_PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seconds = interval_at(start + SNAPSHOT_PERIOD, SNAPSHOT_PERIOD);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);

    while !(making.is_cancelled() && devices.is_empty()) {
        tokio::select! {
            biased;
            () = making.cancelled(), if !making.is_cancelled() => {}
            () = until(end), if !making.is_cancelled() => making.cancel(),
            Some(ended) = devices.join_next(), if !devices.is_empty() => records.push(record(ended)),
            _ = seconds.tick() => progress(&latency.snapshot(start, &launch.fleet.meters, storm.milestones)),
            now = looks.tick(), if !storm.is_over() => {
                if storm.look(launch.fleet.meters.standing(), now) {
                    launch.cut.iter().for_each(CancellationToken::cancel);
                }
            }
            _ = launches.tick(), if launch.is_pending() => {
                for device in launch.due(Instant::now()) {
                    devices.spawn(device.run());
                }
            }
        }
    }
    records.sort_unstable_by_key(|record| record.number);
    let Snapshot { elapsed_s, counts, milestones, puback_total_ms, .. } =
        latency.snapshot(start, &launch.fleet.meters, storm.milestones);
    Ok(Report { duration_s: elapsed_s, counts, milestones, puback_ms: puback_total_ms, records })
}

/// Starts devices, in the order of their numbers, at the connect rate.
struct Launch {
    fleet: Arc<Fleet>,
    making: CancellationToken,
    group: Signals,
    /// Of each group, where connections are to be lost once.
    cut: Vec<CancellationToken>,
    start: Instant,
    next: u32,
}

impl Launch {
    fn new(config: Config, making: CancellationToken, start: Instant) -> Self {
        let fleet = Arc::new(Fleet { config, meters: Meters::new(), start });
        let group = Signals { stop: making.child_token(), cut: None };
        Self { fleet, group, cut: Vec::new(), making, start, next: 0 }
    }

    fn is_pending(&self) -> bool {
        self.next < self.fleet.config.devices && !self.making.is_cancelled()
    }

    /// The devices whose turn has come since the last call.
    fn due(&mut self, now: Instant) -> impl Iterator<Item = Device> {
        let micros = now.saturating_duration_since(self.start).as_micros();
        let turns = micros * u128::from(self.fleet.config.connect_rate) / 1_000_000 + 1;
        let up_to = u32::try_from(turns).unwrap_or(u32::MAX).min(self.fleet.config.devices);
        std::iter::from_fn(move || (self.next < up_to).then(|| self.device()))
    }

    fn device(&mut self) -> Device {
        let number = self.next;
        self.next += 1;
        if number.is_multiple_of(DEVICES_PER_TOKEN) {
            self.group.stop = self.making.child_token();
            if self.fleet.config.reconnect_after.is_some() {
                let cut = CancellationToken::new();
                self.cut.push(cut.clone());
                self.group.cut = Some(cut);
            }
        }
        let device_id = self.fleet.config.device_id(number).expect("a prefix that was validated");
        Device::new(self.fleet.clone(), number, device_id, self.group.clone())
    }
}

/// PUBACK latencies in microseconds, as read from the meters.
struct Latencies {
    total: Histogram<u64>,
    recent: Histogram<u64>,
}

impl Latencies {
    fn snapshot(&mut self, start: Instant, meters: &Meters, milestones: Milestones) -> Snapshot {
        self.recent.reset();
        meters.drain_puback_us(&mut self.recent);
        self.total.add(&self.recent).expect("histograms of the same bounds");
        Snapshot {
            elapsed_s: start.elapsed().as_secs_f64(),
            counts: meters.counts(),
            milestones,
            puback_ms: Latency::of(&self.recent),
            puback_total_ms: Latency::of(&self.total),
        }
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// A device is never aborted while its fleet runs, so what did not end well has panicked.
fn record(ended: Result<Record, JoinError>) -> Record {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
