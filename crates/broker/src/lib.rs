//! MQTT routing for one node, in memory: subscriptions, shared subscriptions, retained messages, wills and sessions
//! that outlive their connection.
//!
//! The gateway's connections drive it: [`Broker::attach`] gives a connection its [`Link`], which is asked for what is
//! to be sent ([`Link::ready`], [`Link::next`]) and told what the client answered. Telemetry does not come through
//! here: a device that only publishes has no link, and [`Broker::has_subscribers`] is one load.
//!
//! # Guarantees
//! - A client's messages of one publisher and QoS come in their order; what was sent and not answered is sent again,
//!   in its order, when the client comes back to its session [MQTT-4.4.0-1].
//! - One copy for each client, however many of its subscriptions match, with the highest QoS and all their ids.
//! - The newest link of a key is the valid one; calls of an older one do nothing.
//! - Everything is bounded: sessions, subscriptions, their depth, and what waits for a client, in messages and bytes, and
//!   for all. A message that finds no room is not queued, whatever its QoS, and counted
//!   (`fleetpulse_gateway_unsent_total`). What is sent and not answered waits too.
//! - A panic within loses what is routed here and nothing else: the broker begins anew, empty, and every link is dead,
//!   so that clients connect and subscribe again.
//!
//! # What it does not do
//! It keeps nothing on disk and tells no other node: subscribers hear what is published on their own node. What must
//! reach a device wherever it is, and survive, is a command, and goes over Kafka.
//!
//! There is one lock. It is held for as long as a message takes to all its subscribers (`benches/micro.rs` says how long),
//! which is why telemetry does not take it.

mod charge;
mod config;
mod link;
mod message;
mod retained;
mod routing;
mod session;
mod signal;
mod state;
mod tree;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use link::Link;
pub use message::{Message, Will};
pub use session::{Completed, Expiry, Outgoing};
pub use tree::Options;

use state::{Counts, State};

/// How exact wills' delays and sessions' ends are.
const TICK: Duration = Duration::from_millis(250);

/// Routes messages. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Broker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    sessions: AtomicUsize,
    subscriptions: AtomicUsize,
}

/// What a CONNECT asks for.
#[derive(Clone, Debug)]
pub struct Attach {
    /// Whether an older session is dropped.
    pub clean_start: bool,
    /// How long the session outlives the connection.
    pub expiry: Expiry,
    /// What is published when the client is lost.
    pub will: Option<Will>,
    /// Most QoS 1 and 2 messages that the client takes at once.
    pub receive_max: u16,
}

/// What becomes of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillFate {
    /// The client left in peace.
    Discard,
    /// It did not.
    Publish,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub struct Detach {
    /// What becomes of the will.
    pub will: WillFate,
    /// How long the session lasts from now on.
    pub expiry: Expiry,
}

/// Why a client gets no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// There are as many sessions as there may be.
    #[error("{max} sessions are kept already (setting `broker.sessions_max`)")]
    SessionsMax {
        /// The setting.
        max: u32,
    },
    /// There is no memory for its will.
    #[error("there is no room for its will (setting `broker.queues_bytes_max`)")]
    NoRoom,
    /// The broker broke just now. Connecting again helps.
    #[error("the broker begins anew")]
    BegunAnew,
}

/// Why a subscription was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The client has as many as it may.
    #[error("the client has {max} subscriptions already (setting `broker.subscriptions_per_client_max`)")]
    TooMany {
        /// The setting.
        max: u32,
    },
    /// The filter has more levels than it may.
    #[error("the filter has more than {max} levels (setting `broker.filter_levels_max`)")]
    TooDeep {
        /// The setting.
        max: u32,
    },
    /// There is no memory for it.
    #[error("there is no room for the subscription (setting `broker.queues_bytes_max`)")]
    NoRoom,
    /// The link is dead.
    #[error("the session is another connection's by now")]
    Gone,
}

impl SubscribeError {
    /// Short name, as in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "subscriptions_per_client_max",
            Self::TooDeep { .. } => "filter_levels_max",
            Self::NoRoom => "queues_bytes_max",
            Self::Gone => "gone",
        }
    }
}

impl Broker {
    /// An empty one.
    pub fn new(config: Config) -> Self {
        let state = Mutex::new(State::new(config.clone(), 0));
        let (sessions, subscriptions) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { shared: Arc::new(Shared { config, state, sessions, subscriptions }) }
    }

    /// Whether anybody has subscribed to anything.
    pub fn has_subscribers(&self) -> bool {
        self.shared.subscriptions.load(Ordering::Relaxed) > 0
    }

    /// Whether there is no session at all.
    pub fn is_empty(&self) -> bool {
        self.shared.sessions.load(Ordering::Relaxed) == 0
    }

    /// Takes up the session of `key`, or begins one. Whether it was there comes back too: Session Present. The older
    /// link of the key is dead from now on.
    ///
    /// # Errors
    /// Where there are [`Config::sessions_max`] sessions, no room for the will, or the broker broke.
    pub fn attach(&self, key: &str, attach: Attach) -> Result<(Link, bool), AttachError> {
        let attached = self.with(|state| state.attach(key, attach, Instant::now()));
        let attached = attached.unwrap_or(Err(AttachError::BegunAnew))?;
        let present = attached.present;
        Ok((Link::new(self.clone(), attached), present))
    }

    /// Drops the session of a client that begins anew and needs no link.
    pub fn forget(&self, key: &str) {
        self.with(|state| state.forget(key, Instant::now()));
    }

    /// Routes a message; a retained one is kept or, if it is empty, dropped. `from` is the publisher's key, for no
    /// local. Returns how many sessions it went to.
    pub fn publish(&self, message: Message, from: Option<&str>) -> usize {
        self.with(|state| state.route(message, from, Instant::now())).unwrap_or(0)
    }

    /// Gives a message to one client, if it is connected and has subscribed to the topic. True where the client has it
    /// or will, also where a message of the same tag is on its way already.
    pub fn offer(&self, key: &str, message: Message) -> bool {
        self.with(|state| state.offer(key, message, Instant::now())).unwrap_or(false)
    }

    /// Publishes delayed wills, ends sessions and retained messages whose time is over, and keeps the gauges current,
    /// until `stop`. Cancel safe.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            while self.with(|state| state.tick(Instant::now())) == Some(true) {
                // Others get the lock, and this thread its other tasks.
                tokio::task::yield_now().await;
            }
            if let Some(counts) = self.with(|state| state.counts()) {
                gauges(counts);
            }
        }
    }

    /// Does something with the state. A panic in there leaves a fresh, empty state, and `None`.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = catch_unwind(AssertUnwindSafe(|| act(&mut state)));
        if done.is_err() {
            metrics::counter!("fleetpulse_gateway_broker_restarts_total").increment(1);
            tracing::error!("the broker broke and begins anew, empty: subscribers connect again");
            let fresh = State::new(self.shared.config.clone(), state.last_number());
            let broken = std::mem::replace(&mut *state, fresh);
            // With it its links die. What is broken may break once more.
            if catch_unwind(AssertUnwindSafe(|| drop(broken))).is_err() {
                tracing::error!("what the broken broker held could not be given back");
            }
        }
        let counts = state.counts();
        self.shared.sessions.store(counts.sessions, Ordering::Relaxed);
        self.shared.subscriptions.store(counts.subscriptions, Ordering::Relaxed);
        done.ok()
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges")]
fn gauges(counts: Counts) {
    metrics::gauge!("fleetpulse_gateway_kept_sessions").set(counts.sessions as f64);
    metrics::gauge!("fleetpulse_gateway_subscriptions").set(counts.subscriptions as f64);
    metrics::gauge!("fleetpulse_gateway_retained_messages").set(counts.retained as f64);
    metrics::gauge!("fleetpulse_gateway_retained_bytes").set(counts.retained_bytes as f64);
    metrics::gauge!("fleetpulse_gateway_queues_bytes").set(counts.queues_bytes as f64);
}

#[cfg(test)]
mod tests;
