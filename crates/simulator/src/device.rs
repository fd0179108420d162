//! One device: its life from the first connection to the last answer.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytestring::ByteString;
use event::DeviceId;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::heartbeat::Vehicle;
use crate::meter::{Meter, Meters};
use crate::outbox::Outbox;
use crate::random::Random;
use crate::report::Record;
use crate::seq_set::SeqSet;
use crate::session::{End, Session};
use crate::stream::Security;
use crate::tls::{DeviceTls, Tls};
use crate::wire::{Accepted, Connection, Incoming, WireError};

/// What all devices share.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) config: Config,
    pub(crate) meters: Meters,
    pub(crate) start: Instant,
}

/// A device, which owns all that outlives its connections.
#[derive(Debug)]
pub(crate) struct Device {
    number: u32,
    device_id: DeviceId,
    pub(crate) topic: ByteString,
    pub(crate) fleet: Arc<Fleet>,
    tls: Option<DeviceTls>,
    /// Cancelled when no more heartbeats are to be made.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the connection is to be lost; `None` once it was.
    pub(crate) cut: Option<CancellationToken>,
    /// Since `stop`: when to give up what is not answered.
    pub(crate) drain_until: Option<Instant>,
    vehicle: Vehicle,
    /// When the next heartbeat falls due; `None` if PUBACKs set the pace.
    pub(crate) due: Option<Instant>,
    pub(crate) outbox: Outbox,
    /// Chooses waits: apart from the content, which must not depend on what the network does.
    pub(crate) random: Random,
    /// Attempts and connections in a row that brought no acknowledgement.
    pub(crate) failures: u32,
    /// To connect, so far.
    attempts: u32,
    next_seq: u64,
    pub(crate) published: u64,
    pub(crate) acknowledged: SeqSet,
}

/// What a device is told from outside.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// No more heartbeats.
    pub(crate) stop: CancellationToken,
    /// The network is lost, once.
    pub(crate) cut: Option<CancellationToken>,
}

/// Why there is no accepted connection.
#[derive(Debug)]
enum Unconnected {
    Failed,
    Refused(u8),
}

impl From<WireError> for Unconnected {
    fn from(_: WireError) -> Self {
        Self::Failed
    }
}

impl Device {
    /// A device that starts now; `device_id` is the one of `number`.
    pub(crate) fn new(fleet: Arc<Fleet>, number: u32, device_id: DeviceId, signals: Signals) -> Self {
        let config = &fleet.config;
        let period = config.period();
        Self {
            number,
            topic: format!("devices/{device_id}/heartbeat").into(),
            device_id,
            tls: config.tls.as_ref().map(Tls::of_device),
            stop: signals.stop,
            cut: signals.cut,
            drain_until: None,
            vehicle: Vehicle::new(config.seed, number, promised_s(period)),
            due: period.map(|period| Instant::now() + phase(period, number)),
            outbox: Outbox::default(),
            random: Random::new(!config.seed, number),
            failures: 0,
            attempts: 0,
            next_seq: 0,
            published: 0,
            acknowledged: SeqSet::default(),
            fleet,
        }
    }

    /// Lives until stopped and drained. Ends at most `drain` after `stop`, whatever the server does.
    ///
    /// Not cancel safe: dropped, the device is gone without DISCONNECT and its record is lost.
    pub(crate) async fn run(mut self) -> Record {
        let mut connected_before = false;
        while !self.is_done(Instant::now()) {
            let meter = self.meter();
            meter.connecting.add(1);
            let timeout = self.fleet.config.connect_timeout;
            let server = self.fleet.config.server(self.number, self.attempts);
            self.attempts = self.attempts.wrapping_add(1);
            let attempt =
                connect(self.fleet.clone(), server, self.number, self.device_id.clone(), self.tls.clone());
            let attempt = self.unless_over(Instant::now() + timeout, attempt).await;
            let meter = self.meter();
            meter.connecting.sub(1);
            match attempt {
                Attempt::Done(Ok((connection, accepted))) => {
                    if std::mem::replace(&mut connected_before, true) {
                        meter.reconnects.add(1);
                    }
                    match connection.security() {
                        Security::None => {}
                        Security::Full => meter.tls_full.add(1),
                        Security::Resumed => meter.tls_resumed.add(1),
                    }
                    meter.online.add(1);
                    let end = Session::new(&mut self, connection, accepted).run().await;
                    self.meter().online.sub(1);
                    self.count_end(&end);
                    self.outbox.interrupt();
                    if matches!(end, End::Cut) {
                        let turn = self.fleet.config.turn(self.number);
                        self.unless_over(Instant::now() + turn, std::future::pending::<()>()).await;
                        continue;
                    }
                }
                Attempt::Done(Err(Unconnected::Refused(code))) => meter.connect_refused.add(code),
                Attempt::Done(Err(Unconnected::Failed)) | Attempt::TimedOut => meter.connect_failed.add(1),
                Attempt::Stopped => continue,
            }
            if self.is_done(Instant::now()) {
                break;
            }
            let wait = self.fleet.config.backoff.delay(self.failures, self.random.next());
            self.failures = self.failures.saturating_add(1);
            self.unless_over(Instant::now() + wait, std::future::pending::<()>()).await;
        }
        Record {
            number: self.number,
            device_id: self.device_id,
            published: self.published,
            acknowledged: self.acknowledged,
        }
    }

    pub(crate) fn meter(&self) -> &Meter {
        self.fleet.meters.of(self.number)
    }

    /// Makes what has fallen due; what finds the store full is withheld. Nothing where PUBACKs set the pace.
    pub(crate) fn make_due(&mut self, now: Instant) {
        let Some(period) = self.fleet.config.period().filter(|_| self.drain_until.is_none()) else {
            return;
        };
        let mut withheld = 0;
        while let Some(due) = self.due.filter(|due| *due <= now) {
            if self.outbox.len() < self.fleet.config.stored_max {
                self.make(due, now);
            } else {
                withheld += 1;
            }
            self.due = Some(due + period);
        }
        if withheld > 0 {
            self.meter().withheld.add(withheld);
        }
    }

    /// Makes one heartbeat for a window with room, where PUBACKs set the pace; `false` if it made none.
    pub(crate) fn make_at_will(&mut self, now: Instant) -> bool {
        let makes = self.due.is_none()
            && self.drain_until.is_none()
            && self.outbox.len() < self.fleet.config.stored_max;
        if makes {
            self.make(now, now);
        }
        makes
    }

    fn make(&mut self, due: Instant, now: Instant) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ts = wall.saturating_sub(now.saturating_duration_since(due));
        let off_ms =
            self.fleet.config.clock_off_ms(self.number, now.saturating_duration_since(self.fleet.start));
        let ts_ms = i64::try_from(ts.as_millis()).unwrap_or(i64::MAX).saturating_add(off_ms);
        let payload = self.vehicle.heartbeat(self.next_seq, ts_ms);
        self.outbox.push(self.next_seq, payload);
        self.next_seq += 1;
        self.meter().waiting.add(1);
    }

    /// Stops making heartbeats.
    pub(crate) fn start_drain(&mut self, now: Instant) {
        // What fell due while the device was offline was made by a real one, so it is by this one.
        self.make_due(now);
        self.drain_until = Some(now + self.fleet.config.drain);
    }

    /// Whether it has been stopped and has nothing more to deliver, or no more time for it.
    pub(crate) fn is_done(&self, now: Instant) -> bool {
        self.drain_until.is_some_and(|until| self.outbox.is_empty() || until <= now)
    }

    /// Runs `work` until `deadline`, the stop, or the end of the drain time after it.
    async fn unless_over<T>(&mut self, deadline: Instant, work: impl Future<Output = T>) -> Attempt<T> {
        let stop = self.stop.clone();
        let limit = self.drain_until.map_or(deadline, |until| until.min(deadline));
        tokio::select! {
            biased;
            () = stop.cancelled(), if self.drain_until.is_none() => {
                self.start_drain(Instant::now());
                Attempt::Stopped
            }
            output = work => Attempt::Done(output),
            () = sleep_until(limit) => Attempt::TimedOut,
        }
    }

    fn count_end(&self, end: &End) {
        let meter = self.meter();
        match end {
            End::Finished | End::Cut => {}
            End::Disconnected(code) => meter.disconnected.add(*code),
            End::Silent => meter.lost_silent.add(1),
            End::Lost(WireError::Closed) => meter.lost_closed.add(1),
            End::Lost(WireError::Io(_)) => meter.lost_failed.add(1),
            End::Lost(WireError::Decode(_) | WireError::Encode(_)) => meter.lost_malformed.add(1),
        }
    }
}

/// What became of work with a deadline.
enum Attempt<T> {
    Done(T),
    TimedOut,
    /// The stop came.
    Stopped,
}

/// Opens a connection and waits for CONNACK. Cancel safe: a dropped attempt leaves nothing behind.
async fn connect(
    fleet: Arc<Fleet>,
    server: SocketAddr,
    number: u32,
    device_id: DeviceId,
    tls: Option<DeviceTls>,
) -> Result<(Connection, Accepted), Unconnected> {
    let config = &fleet.config;
    let v5 = config.speaks_v5(number);
    let mut connection = Connection::open(server, config.source(number), tls.as_ref(), v5).await?;
    let keep_alive_s = u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX);
    connection.connect(device_id.as_str(), keep_alive_s, config.session_state)?;
    connection.flush()?;
    loop {
        match connection.incoming()? {
            Some(Incoming::Accepted(accepted)) => return Ok((connection, accepted)),
            Some(Incoming::ConnectRefused(code)) => return Err(Unconnected::Refused(code)),
            Some(_) => return Err(Unconnected::Failed),
            None => connection.progress().await?,
        }
    }
}

/// Within how many whole seconds the next heartbeat comes. Where PUBACKs set the pace: half a minute, which
/// a fleet that is being throttled can still keep.
fn promised_s(period: Option<Duration>) -> u32 {
    let Some(period) = period else { return 30 };
    let whole = u32::try_from(period.as_secs()).unwrap_or(u32::MAX);
    whole.saturating_add(u32::from(period.subsec_nanos() > 0))
}

/// How long after its start a device makes its first heartbeat: by the golden ratio, so that any run of
/// device numbers is spread evenly over the period.
fn phase(period: Duration, number: u32) -> Duration {
    let turns = f64::from(number) * 0.618_033_988_749_894_9;
    period.mul_f64(turns.fract())
}
