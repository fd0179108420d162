//! Commands to devices: taken in on any node, kept by Kafka, delivered by the node that has the device.
//!
//! ```text
//! issue -> Kafka (commands topic) -> every node's `Pending` -> Deliver -> device -> PUBACK -> delivered -> Kafka
//! ```
//!
//! # Guarantees
//! - [`Downlink::issue`] succeeds only with Kafka's delivery report in hand. From then on the command survives any node, until
//!   the device has acknowledged it or its time is over.
//! - At least once: a device may get a command again, after a lost PUBACK or a change of node; it carries the same id.
//! - A command is handed out only after this node has heard all that was said before it started: what was settled meanwhile is
//!   not delivered again.
//! - What waits is bounded ([`Config::pending_max`] and its neighbours), and refused by name.
//! - An answer that comes after the end of its command is recorded all the same, for an hour, by the node that sent it.
//! - Each step is an event on the events topic. Those of a node whose window is full are counted and lost; the command is not.
//!
//! # Order
//! Commands of one device are handed out in the order in which Kafka holds them.
//!
//! What it does not do: know connections. Whoever does implements [`Deliver`], asks [`Downlink::for_device`] when a device has
//! subscribed, and tells [`Downlink::sent`] and [`Downlink::delivered`].

mod command;
mod config;
mod http;
mod pending;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Broadcast, DeliveryError, Heard, Permit, Producer, SendError, Stream, Witness};
use bytes::Bytes;
use event::v1::{CommandState, CommandStep, Event, event::Kind};
use event::{DeviceId, Millis, NodeId, SessionId};
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use command::{CommandId, InvalidName, IssuedCommand};
pub use config::Config;
pub use http::Endpoint;
pub use pending::Full;

use crate::ledger::Ledger;
use command::Said;
use pending::{Entered, Limits, Pending};

/// Steps that connections told and that are not on their way to Kafka yet. When it is full a step is counted and dropped: the
/// command is then delivered once more.
const STEPS_WAITING_MAX: usize = 16_384;
/// How often is looked for commands whose time is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whoever has the connections of this node.
pub trait Deliver: Send + Sync {
    /// Hands a command to the session of a device. True where there is a session that takes it: connected, subscribed to a
    /// filter that matches, and with room. May be called more than once for one command; must not block.
    fn deliver(&self, device: &DeviceId, command: Arc<IssuedCommand>) -> bool;
}

/// A command as somebody asks for it.
#[derive(Clone, Debug)]
pub struct NewCommand {
    /// To whom.
    pub device_id: DeviceId,
    /// What: one level of a topic.
    pub name: String,
    /// Bytes of the PUBLISH.
    pub payload: Bytes,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// As in MQTT 5; empty for none.
    pub content_type: String,
    /// How long it may wait, seconds; the default life where nobody says.
    pub expires_in_s: Option<u32>,
    /// Who asks, for the record.
    pub issued_by: String,
}

/// A command that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its name.
    pub command_id: CommandId,
    /// When it is over.
    pub expires_at: Millis,
}

/// Why a command was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Its name cannot stand in a topic.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// There is no such quality of service.
    #[error("qos {0} is none: 0, 1 and 2 are")]
    Qos(u8),
    /// It would live too long, or not at all.
    #[error("a command lives 1 to {max_s} s, not {asked_s}")]
    Life {
        /// What was asked.
        asked_s: u32,
        /// What is allowed (`commands.life_max_s`).
        max_s: u32,
    },
    /// Its payload is too large.
    #[error("the payload has {bytes} bytes, {max} are allowed")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What is allowed (`commands.payload_bytes_max`).
        max: usize,
    },
    /// A text beside the payload is too long.
    #[error("`{field}` has more than {max} bytes")]
    TooLong {
        /// Which text.
        field: &'static str,
        /// What is allowed.
        max: usize,
    },
    /// Too much waits already.
    #[error(transparent)]
    Full(#[from] Full),
    /// What waits for Kafka fills the window of the process.
    #[error("too much waits for kafka")]
    Busy,
    /// The record could not be queued.
    #[error("the command could not be queued for kafka")]
    Queue(#[from] SendError),
    /// Kafka did not say that it holds it. It may hold it all the same, and then the device may get it.
    #[error("kafka did not confirm the command")]
    NotStored(#[from] DeliveryError),
}

/// Longest content type and longest name of an issuer, bytes.
const TEXT_BYTES_MAX: usize = 128;

/// Why commands are not heard any more.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No Kafka client.
    #[error(transparent)]
    Client(#[from] bus::ClientError),
    /// The thread that reads the topic has ended by itself.
    #[error("the thread that reads the commands topic has ended")]
    Ended,
}

/// The commands of an installation, as this node knows them. Cheap to clone.
#[derive(Clone)]
pub struct Downlink {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    node_id: NodeId,
    epoch: u64,
    producer: Producer,
    ledger: Arc<Ledger>,
    pending: Mutex<Pending>,
    caught_up: AtomicBool,
    steps: mpsc::Sender<Step>,
}

/// Something that happened to a command, to be told to the others.
struct Step {
    command: Arc<IssuedCommand>,
    step: CommandStep,
    settles: bool,
    session_id: Option<SessionId>,
    device_code: u8,
    at: Millis,
    /// Counts its event; held while it waits.
    witness: Option<Arc<dyn Witness>>,
}

/// What hears and tells; to be run.
pub struct Worker {
    downlink: Downlink,
    steps: mpsc::Receiver<Step>,
}

impl Downlink {
    /// Commands of a node. Nothing is heard before the worker runs.
    pub(crate) fn new(
        config: Config,
        node_id: NodeId,
        epoch: u64,
        producer: Producer,
        ledger: Arc<Ledger>,
    ) -> (Self, Worker) {
        let (sender, steps) = mpsc::channel(STEPS_WAITING_MAX);
        let limits = Limits {
            per_device: config.pending_per_device_max.into(),
            commands: config.pending_max as usize,
            bytes: config.pending_bytes_max as usize,
        };
        let pending = Mutex::new(Pending::new(limits));
        let caught_up = AtomicBool::new(false);
        let inner = Inner { config, node_id, epoch, producer, ledger, pending, caught_up, steps: sender };
        let downlink = Self { inner: Arc::new(inner) };
        (downlink.clone(), Worker { downlink, steps })
    }

    /// Takes a command in: returns when Kafka holds it.
    ///
    /// # Errors
    /// Where it is none, there is no room for it, or Kafka did not confirm it. Cancel safe in that sense alone: a dropped call
    /// may have issued it.
    pub async fn issue(&self, new: NewCommand) -> Result<Issued, IssueError> {
        let issued = self.try_issue(new).await;
        match &issued {
            Ok(_) => count(CommandStep::Issued),
            Err(error) => {
                metrics::counter!("fleetpulse_gateway_commands_refused_total", "reason" => error.reason())
                    .increment(1);
            }
        }
        issued
    }

    async fn try_issue(&self, new: NewCommand) -> Result<Issued, IssueError> {
        let command = Arc::new(self.checked(new, crate::now())?);
        self.pending().room(&command.device_id, command.bytes())?;
        let delivery = self.send_now(Stream::Commands, &command.device_id, &command.record(), None)?;
        delivery.await?;
        // The history: also where it fails, as the later steps say the same.
        self.tell(&command, CommandStep::Issued, false, None, 0, command.issued_at);
        Ok(Issued { command_id: command.id, expires_at: command.expires_at })
    }

    fn checked(&self, new: NewCommand, now: Millis) -> Result<IssuedCommand, IssueError> {
        let config = &self.inner.config;
        let (asked_s, max_s) = (new.expires_in_s.unwrap_or(config.life_default_s), config.life_max_s);
        if !(1..=max_s).contains(&asked_s) {
            return Err(IssueError::Life { asked_s, max_s });
        }
        if new.qos > 2 {
            return Err(IssueError::Qos(new.qos));
        }
        let (bytes, max) = (new.payload.len(), config.payload_bytes_max as usize);
        if bytes > max {
            return Err(IssueError::TooLarge { bytes, max });
        }
        for (field, text) in [("content_type", &new.content_type), ("issued_by", &new.issued_by)] {
            if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
                return Err(IssueError::TooLong { field, max: TEXT_BYTES_MAX });
            }
        }
        Ok(IssuedCommand {
            id: CommandId::generate(),
            device_id: new.device_id,
            name: command::checked_name(new.name)?,
            payload: new.payload,
            qos: new.qos,
            content_type: new.content_type,
            issued_at: now,
            expires_at: Millis(now.0 + i64::from(asked_s) * 1_000),
            issued_by: new.issued_by,
            origin: self.inner.node_id.clone(),
        })
    }

    /// What waits for a device that has just subscribed, in order; nothing before this node has caught up (what waits then comes
    /// through [`Deliver`]).
    pub fn for_device(&self, device: &DeviceId) -> Vec<Arc<IssuedCommand>> {
        if self.inner.caught_up.load(Ordering::Acquire) {
            self.pending().of_device(device, crate::now())
        } else {
            Vec::new()
        }
    }

    /// A command that waits.
    pub fn waiting(&self, id: CommandId) -> Option<Arc<IssuedCommand>> {
        self.pending().get(id).cloned()
    }

    /// A command that a device may answer to: it waits, or it went out and its time was over before the answer.
    pub fn answerable(&self, id: CommandId) -> Option<Arc<IssuedCommand>> {
        self.pending().answerable(id).cloned()
    }

    /// The command went out to the device. With QoS 0 that is all that will be heard of it.
    pub fn sent(&self, command: &Arc<IssuedCommand>, session_id: SessionId) {
        let settles = command.qos == 0;
        self.pending().sent(command.id);
        self.tell(command, CommandStep::Sent, settles, Some(session_id), 0, crate::now());
    }

    /// The device answered (PUBACK, or PUBREC with an error, or PUBCOMP), with this reason code: 0 where MQTT 3.1.1 has none.
    /// From 0x80 on it refused.
    pub fn delivered(&self, command: &Arc<IssuedCommand>, session_id: SessionId, device_code: u8) {
        let step = if device_code < 0x80 { CommandStep::Delivered } else { CommandStep::Refused };
        self.tell(command, step, true, Some(session_id), device_code, crate::now());
    }

    fn tell(
        &self,
        command: &Arc<IssuedCommand>,
        step: CommandStep,
        settles: bool,
        session_id: Option<SessionId>,
        device_code: u8,
        at: Millis,
    ) {
        if step != CommandStep::Issued {
            count(step);
        }
        if settles {
            self.pending().settle(command.id);
        }
        let witness = self.inner.ledger.other(at);
        let told = Step { command: command.clone(), step, settles, session_id, device_code, at, witness };
        if self.inner.steps.try_send(told).is_err() {
            lost("steps_waiting_max");
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.inner.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_now(
        &self,
        stream: Stream,
        device: &DeviceId,
        payload: &[u8],
        witness: Option<Arc<dyn Witness>>,
    ) -> Result<bus::Delivery, IssueError> {
        let bytes = payload.len() + device.as_str().len();
        let permit = self.inner.producer.window().try_reserve(bytes).ok_or(IssueError::Busy)?;
        Ok(self.inner.producer.send_witnessed(permit, stream, device.as_str(), payload, witness)?)
    }

    /// The event of a step.
    fn event(&self, step: &Step) -> Vec<u8> {
        let Step { command, step, session_id, device_code, at, .. } = step;
        let state = CommandState {
            command_id: command.id.bytes(),
            name: command.name.clone(),
            step: (*step).into(),
            issued_by: command.issued_by.clone(),
            issued_at_ms: command.issued_at.0,
            expires_at_ms: command.expires_at.0,
            device_code: (*device_code).into(),
        };
        let event = Event {
            device_id: command.device_id.as_str().to_owned(),
            received_at_ms: at.0,
            node_id: self.inner.node_id.0.as_ref().to_owned(),
            epoch: self.inner.epoch,
            session_id: session_id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.0.as_bytes())),
            session_traffic: None,
            kind: Some(Kind::Command(state)),
        };
        event.encode_to_vec()
    }
}

impl std::fmt::Debug for Downlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downlink").field("node_id", &self.inner.node_id).finish_non_exhaustive()
    }
}

impl IssueError {
    /// Short name, as in metrics and answers.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Qos(_) => "qos",
            Self::Life { .. } => "life",
            Self::TooLarge { .. } => "payload_bytes_max",
            Self::TooLong { .. } => "text",
            Self::Full(full) => full.reason(),
            Self::Busy => "window_full",
            Self::Queue(_) => "not_queued",
            Self::NotStored(_) => "not_stored",
        }
    }
}

impl Worker {
    /// Hears commands and hands them out, tells steps, ends what is over; until `stop`. To be stopped after the connections, so
    /// that what they told last is told on.
    ///
    /// # Errors
    /// Where there is no Kafka client, or its thread ends.
    pub async fn run(
        mut self,
        kafka: &bus::Config,
        deliver: Arc<dyn Deliver>,
        stop: CancellationToken,
    ) -> Result<(), RunError> {
        let mut broadcast = Broadcast::start(kafka, self.downlink.inner.config.history())?;
        let ended = self.serve(&mut broadcast, &*deliver, &stop).await;
        while let Ok(step) = self.steps.try_recv() {
            self.record(&step, None);
        }
        // Its thread may be asking Kafka.
        let _joined = tokio::task::spawn_blocking(move || broadcast.end()).await;
        ended
    }

    async fn serve(
        &mut self,
        broadcast: &mut Broadcast,
        deliver: &dyn Deliver,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => self.look(),
                Some(step) = self.steps.recv() => {
                    let size = self.downlink.event(&step).len() + step.command.bytes();
                    let room = self.downlink.inner.producer.window().clone().reserve(size);
                    let permit = tokio::select! {
                        () = stop.cancelled() => None,
                        permit = room => Some(permit),
                    };
                    self.record(&step, permit);
                }
                heard = broadcast.next() => match heard {
                    Some(heard) => self.hear(heard, deliver),
                    None => return Err(RunError::Ended),
                },
            }
        }
    }

    fn hear(&self, heard: Heard, deliver: &dyn Deliver) {
        let inner = &self.downlink.inner;
        match heard {
            Heard::CaughtUp => {
                inner.caught_up.store(true, Ordering::Release);
                let devices = self.downlink.pending().devices();
                tracing::info!(devices = devices.len(), "commands that wait are known");
                for device in devices {
                    for command in self.downlink.for_device(&device) {
                        deliver.deliver(&device, command);
                    }
                }
            }
            Heard::Record { place, payload } => match command::read(&payload) {
                Ok(Said::Settled(id)) => drop(self.downlink.pending().settle(id)),
                Ok(Said::Issued(command)) => {
                    let entered = self.downlink.pending().enter(command, crate::now());
                    match entered {
                        Entered::New(command) if inner.caught_up.load(Ordering::Acquire) => {
                            deliver.deliver(&command.device_id.clone(), command);
                        }
                        Entered::New(_) | Entered::Known | Entered::Over => {}
                        Entered::Dropped(full) => lost(full.reason()),
                    }
                }
                Err(error) => {
                    lost("unreadable");
                    tracing::warn!(partition = place.0.0, offset = place.1.0, %error, "a record of the commands topic cannot be read");
                }
            },
        }
    }

    /// Ends what is over; the node that took a command in tells of it. What was over before this node had caught up may have
    /// been settled: it is not told, and whoever reads the history sees its time.
    fn look(&self) {
        let over = self.downlink.pending().expire(crate::now());
        for _ in over.iter().filter(|over| over.unheard) {
            lost("late_max");
        }
        if self.downlink.inner.caught_up.load(Ordering::Acquire) {
            let over = over.iter().map(|over| &over.command);
            for command in over.filter(|command| command.origin == self.downlink.inner.node_id) {
                self.downlink.tell(command, CommandStep::Expired, false, None, 0, command.expires_at);
            }
        }
        let (commands, bytes) = self.downlink.pending().size();
        #[expect(clippy::cast_precision_loss, reason = "gauges")]
        {
            metrics::gauge!("fleetpulse_gateway_commands_pending").set(commands as f64);
            metrics::gauge!("fleetpulse_gateway_commands_pending_bytes").set(bytes as f64);
        }
    }

    /// Sends a step on its way: what settles a command to every node, and its event. Nobody waits for the reports: a settlement
    /// that is lost means that the command is delivered once more.
    fn record(&self, step: &Step, permit: Option<Permit>) {
        let (downlink, device) = (&self.downlink, &step.command.device_id);
        if step.settles {
            let settled = command::settled(&step.command, step.step, &downlink.inner.node_id);
            if downlink.send_now(Stream::Commands, device, &settled, None).is_err() {
                lost("not_queued");
            }
        }
        let event = downlink.event(step);
        let sent = match permit {
            Some(permit) => downlink
                .inner
                .producer
                .send_witnessed(permit, Stream::Events, device.as_str(), &event, step.witness.clone())
                .map_err(IssueError::from),
            None => downlink.send_now(Stream::Events, device, &event, step.witness.clone()),
        };
        if sent.is_err() {
            lost("not_queued");
        }
    }
}

fn count(step: CommandStep) {
    metrics::counter!("fleetpulse_gateway_commands_total", "step" => event::command_step_name(step))
        .increment(1);
}

fn lost(reason: &'static str) {
    metrics::counter!("fleetpulse_gateway_command_steps_lost_total", "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests;
