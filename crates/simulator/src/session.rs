//! One accepted connection of a device: sends what is stored, takes the answers.

use std::num::NonZeroU16;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::device::Device;
use crate::report::ReasonCode;
use crate::wire::{Accepted, Connection, Incoming, WireError};

/// A device while it is online.
pub(crate) struct Session<'a> {
    device: &'a mut Device,
    connection: Connection,
    /// Heartbeats that may be in flight.
    window: usize,
    /// Longest time without sending; `None` if the server does not mind.
    keep_alive: Option<Duration>,
    last_sent: Instant,
    /// Since when an answer is owed and nothing has come.
    owed_since: Option<Instant>,
    ping_unanswered: bool,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// By the device, with DISCONNECT, after the stop.
    Finished,
    /// By the device, without DISCONNECT, for it was told to lose its network.
    Cut,
    /// By the server's DISCONNECT with this code.
    Disconnected(u8),
    /// By the device, for the server owed an answer for too long.
    Silent,
    /// By the network or a mistake in it.
    Lost(WireError),
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        Self::Lost(error)
    }
}

/// What to do about a PUBACK with a reason code of 0x80 or more.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The same heartbeat may be taken later.
    ForNow,
    /// It never will be.
    ForGood,
}

/// Unspecified error, implementation specific error and quota exceeded say something about the server's
/// present state; packet identifier in use is cured by another identifier. The rest (not authorised, topic
/// name invalid, payload format invalid) is about the heartbeat, which will not change.
fn refusal(reason: ReasonCode) -> Refusal {
    match reason.0 {
        0x80 | 0x83 | 0x91 | 0x97 => Refusal::ForNow,
        _ => Refusal::ForGood,
    }
}

enum Action {
    Drain,
    Cut,
    Receive,
    Wake,
}

impl<'a> Session<'a> {
    pub(crate) fn new(device: &'a mut Device, connection: Connection, accepted: Accepted) -> Self {
        if !accepted.session_present {
            device.outbox.forget_session();
        }
        let config = &device.fleet.config;
        let keep_alive = accepted
            .keep_alive_s
            .map_or(config.keep_alive, |granted_s| Duration::from_secs(granted_s.into()));
        Self {
            window: usize::from(config.in_flight.min(accepted.receive_max)),
            // Three quarters of what is allowed, so that a late timer does no harm.
            keep_alive: (!keep_alive.is_zero()).then_some(keep_alive * 3 / 4),
            last_sent: Instant::now(),
            owed_since: None,
            ping_unanswered: false,
            device,
            connection,
        }
    }

    /// Runs until either side ends the connection. After the stop it ends within the drain time.
    pub(crate) async fn run(mut self) -> End {
        match self.converse().await {
            Ok(()) => {
                // The last word of a connection that nobody needs any more: a failure changes nothing.
                let _parting = self.connection.disconnect();
                End::Finished
            }
            Err(end) => end,
        }
    }

    /// `Ok` when the device has been stopped and is done.
    async fn converse(&mut self) -> Result<(), End> {
        let stop = self.device.stop.clone();
        // All registered once and kept: registering anew at each turn would be felt in a load test.
        let mut stopped = pin!(stop.cancelled());
        // One that is never cancelled where there is none.
        let cut = self.device.cut.clone().unwrap_or_default();
        let mut is_cut = pin!(cut.cancelled());
        let mut alarm = pin!(sleep_until(Instant::now()));
        loop {
            let now = Instant::now();
            self.send(now)?;
            if self.device.is_done(now) {
                return Ok(());
            }
            if self.owed_since.is_some_and(|since| since + self.reply_timeout() <= now) {
                return Err(End::Silent);
            }
            let wake = self.wake(now);
            // An alarm that is too early costs one idle turn; that is cheaper than to set it at each PUBACK.
            if alarm.is_elapsed() || wake < alarm.deadline() {
                alarm.as_mut().reset(wake);
            }
            let action = tokio::select! {
                biased;
                () = &mut stopped, if self.device.drain_until.is_none() => Action::Drain,
                () = &mut is_cut => Action::Cut,
                progress = self.connection.progress() => {
                    progress?;
                    Action::Receive
                }
                () = &mut alarm => Action::Wake,
            };
            match action {
                Action::Drain => self.device.start_drain(Instant::now()),
                Action::Cut => {
                    self.device.cut = None;
                    return Err(End::Cut);
                }
                Action::Receive => self.receive()?,
                Action::Wake => {}
            }
        }
    }

    /// Makes what is due, and sends as much as window and socket take.
    fn send(&mut self, now: Instant) -> Result<(), WireError> {
        let Self { device, connection, .. } = self;
        device.make_due(now);
        let mut sent = false;
        while device.outbox.in_flight() < self.window && connection.has_room() {
            let Some(transmission) = device.outbox.transmit(now) else {
                if device.make_at_will(now) { continue } else { break }
            };
            let payload = transmission.payload.clone();
            let (packet_id, dup, first) = (transmission.packet_id, transmission.dup, transmission.first);
            connection.publish(&device.topic, packet_id, payload, dup)?;
            sent = true;
            let meter = device.meter();
            if first {
                meter.waiting.sub(1);
                meter.outstanding.add(1);
                meter.published.add(1);
                device.published += 1;
            } else {
                meter.resent.add(1);
            }
        }
        if !sent && self.keep_alive.is_some_and(|keep_alive| self.last_sent + keep_alive <= now) {
            self.connection.ping()?;
            self.ping_unanswered = true;
            sent = true;
        }
        if sent {
            self.last_sent = now;
            self.owed_since.get_or_insert(now);
            self.connection.flush()?;
        }
        Ok(())
    }

    /// Takes every packet that has come.
    fn receive(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let mut any = false;
        while let Some(incoming) = self.connection.incoming()? {
            any = true;
            match incoming {
                Incoming::Acknowledged { packet_id, reason } => {
                    self.answered(packet_id, ReasonCode(reason), now);
                }
                Incoming::Disconnected(code) => return Err(End::Disconnected(code)),
                Incoming::Pong => self.ping_unanswered = false,
                Incoming::Accepted(_) | Incoming::ConnectRefused(_) => self.device.meter().unexpected.add(1),
                Incoming::Other => {}
            }
        }
        if any {
            let owed = self.ping_unanswered || self.device.outbox.in_flight() > 0;
            self.owed_since = owed.then_some(now);
        }
        Ok(())
    }

    fn answered(&mut self, packet_id: NonZeroU16, reason: ReasonCode, now: Instant) {
        let device = &mut *self.device;
        if reason.0 >= 0x80 && refusal(reason) == Refusal::ForNow {
            let Device { outbox, random, fleet, .. } = device;
            let backoff = fleet.config.backoff;
            let known = outbox.defer(packet_id, |refusals| now + backoff.delay(refusals, random.next()));
            let meter = device.meter();
            match known {
                true => meter.refused.add(reason.0),
                false => meter.unexpected.add(1),
            }
            return;
        }
        let Some((heartbeat, sent_at)) = device.outbox.take(packet_id) else {
            device.meter().unexpected.add(1);
            return;
        };
        if reason.0 < 0x80 {
            device.failures = 0;
            device.acknowledged.insert(heartbeat.seq);
            let meter = device.meter();
            meter.acknowledged.add(1);
            meter.record_puback(now.saturating_duration_since(sent_at));
        } else {
            let meter = device.meter();
            meter.refused.add(reason.0);
            meter.given_up.add(1);
        }
        device.meter().outstanding.sub(1);
    }

    /// When there is something to do even if nothing arrives.
    fn wake(&self, now: Instant) -> Instant {
        let device = &*self.device;
        let making = device.due.filter(|_| device.drain_until.is_none());
        // Where window or socket has no room, an answer or the socket wakes.
        let may_send = device.outbox.in_flight() < self.window && self.connection.has_room();
        let resending = device.outbox.deferred_until().filter(|_| may_send);
        let ping = self.keep_alive.map(|keep_alive| self.last_sent + keep_alive);
        let silent = self.owed_since.map(|since| since + self.reply_timeout());
        [making, resending, ping, silent, device.drain_until]
            .into_iter()
            .flatten()
            .min()
            // Nothing to wait for but the server and the stop: look again in an hour.
            .unwrap_or(now + Duration::from_secs(3_600))
    }

    fn reply_timeout(&self) -> Duration {
        self.device.fleet.config.reply_timeout
    }
}
