//! The gateway: MQTT in, Kafka records out, and a PUBACK only for what Kafka holds.
//!
//! ```text
//! edge -> handshake -> connection { read -> decode -> reserve -> produce -> (delivery report) -> PUBACK }
//! ```
//!
//! # Guarantees
//! - A PUBACK or PUBREC without error for a heartbeat or a command leaves only after Kafka's delivery report for the record
//!   made of that PUBLISH: an event, a dead letter where the payload was no heartbeat, or a command. They leave in the order
//!   of arrival [MQTT-4.6.0-2]. Messages on other topics go to this node's subscribers; nothing of them is stored.
//! - A session's `Connected` event stands before the first of its heartbeats, `Disconnected` after the last. A
//!   session whose `Connected` Kafka does not take is ended; a `Disconnected` is repeated until Kafka takes it.
//! - What waits for Kafka is bounded in messages and bytes, per process ([`bus::Window`]) and per connection
//!   ([`Config::in_flight_per_connection_max`], [`Config::in_flight_bytes_per_connection_max`]). When a bound is reached the
//!   socket is not read; QoS 0 that finds no room in the process is shed and counted.
//! - A client that breaks the protocol, or publishes as somebody else, loses its own connection and nothing more.
//!
//! # What it does not do
//! Enhanced authentication, and routing between nodes: subscribers hear their own node, devices get commands over Kafka
//! ([`downlink`]). `docs/mqtt.md` says what of MQTT is there and where we differ.

mod commands;
mod config;
mod connection;
mod directory;
pub mod downlink;
mod edge;
mod end;
mod handshake;
mod inbox;
mod ledger;
mod meter;
pub mod nodes;
mod pace;
mod presence;
mod record;
mod reload;
mod session;
mod unacknowledged;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use access::Access;
use broker::{Broker, Expiry};
use bus::Producer;
use event::{Millis, NodeId};
use ops::Health;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Config;
pub use edge::{
    ClientCertificates, Config as ListenConfig, ListenError, ProxyProtocol, TlsError, TlsVersion,
};

use commands::Handout;
use directory::Directory;
use downlink::Downlink;
use edge::{Arrived, Bans, Place};
use end::End;
use ledger::Ledger;
use ledger::telling::Teller;
use meter::Meter;
use nodes::Life;
use session::Session;

/// What every connection shares.
struct Shared {
    config: Config,
    node_id: NodeId,
    epoch: u64,
    clock: decode::ClockPolicy,
    producer: Producer,
    access: Access,
    broker: Broker,
    bans: Arc<Bans>,
    downlink: Downlink,
    session_expiry_max_s: u32,
    /// Sessions that stand.
    sessions: AtomicU32,
    directory: Directory,
    /// Room for sessions that have ended and whose presence event is not stored yet.
    departures: Arc<Semaphore>,
    meter: Meter,
    ledger: Arc<Ledger>,
}

/// Why the gateway ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No Kafka client.
    #[error(transparent)]
    Client(#[from] bus::ClientError),
    /// The Kafka client cannot go on.
    #[error(transparent)]
    Broken(#[from] bus::Broken),
    /// Commands are not heard any more.
    #[error("commands to devices are not heard any more")]
    Commands(#[from] downlink::RunError),
}

/// What a gateway is made of.
pub struct Setup {
    /// Section `gateway`.
    pub config: Config,
    /// Section `listen`.
    pub listen: ListenConfig,
    /// Section `broker`.
    pub broker: broker::Config,
    /// Section `commands`.
    pub commands: downlink::Config,
    /// Who may connect, and what they may do.
    pub access: Access,
    /// Where commands come in over HTTP; served by the caller.
    pub endpoint: downlink::Endpoint,
}

/// Runs a gateway until `stop`; then stops accepting, lets what is in flight be acknowledged, ends every session
/// with its presence event and returns, all within [`Config::shutdown_grace_ms`].
///
/// # Errors
/// Where it cannot start, or its Kafka client is broken for good. `stop` is cancelled then.
pub async fn run(
    setup: Setup,
    kafka: &bus::Config,
    health: &Health,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let Setup { config, listen, broker, commands, access, endpoint } = setup;
    let producer = Producer::new(kafka)?;
    let grace = Duration::from_millis(config.shutdown_grace_ms.into());
    let node_id = NodeId(config.node_id.as_str().into());
    // Rises at each start as long as the node's clock does.
    let epoch = now().0.unsigned_abs();
    let ledger = Arc::new(Ledger::new());
    let (downlink, hearing) =
        Downlink::new(commands, node_id.clone(), epoch, producer.clone(), ledger.clone());
    let alive_every = Duration::from_millis(config.node_alive_every_ms.into());
    let life = Life::new(producer.clone(), node_id.clone(), epoch, alive_every);
    let shared = Arc::new(Shared {
        node_id,
        epoch,
        clock: config.clock_policy(),
        producer: producer.clone(),
        access,
        session_expiry_max_s: broker.session_expiry_max_s,
        sessions: AtomicU32::new(0),
        broker: Broker::new(broker),
        bans: Arc::new(Bans::new(&listen)),
        downlink: downlink.clone(),
        directory: Directory::default(),
        departures: Arc::new(Semaphore::new(config.connections_max as usize)),
        meter: Meter::new(),
        ledger: ledger.clone(),
        config,
    });
    let listening = health.condition("mqtt_listens");
    let edge = edge::open(&shared.config, &listen, shared.bans.clone(), shared.meter.clone())?;
    tracing::info!(mqtt = %shared.config.mqtt_listen, node_id = %shared.node_id.0, epoch = shared.epoch, "gateway starts");

    let background = CancellationToken::new();
    let tasks = TaskTracker::new();
    let watched = bus::watch(producer.clone(), health.condition("kafka_stores"), background.clone());
    tasks.spawn(shared.broker.clone().run(background.clone()));
    tasks.spawn(reload::watch(shared.clone(), edge.tls(), background.clone()));
    tasks.spawn({
        let (life, shared, stop) = (life.clone(), shared.clone(), background.clone());
        async move { life.tell(|| shared.sessions.load(Ordering::Relaxed), stop).await }
    });
    let telling = CancellationToken::new();
    let teller = tokio::spawn(Teller::new(ledger, life.clone()).run(telling.clone()));
    endpoint.attach(downlink);
    let broken = Arc::new(OnceLock::new());
    // What the gateway cannot do without ends it when it breaks; whoever starts the process again starts it anew.
    let watch = {
        let (broken, stop) = (broken.clone(), stop.clone());
        move |ended: Result<(), RunError>| {
            if let Err(error) = ended {
                let _first = broken.set(error);
                stop.cancel();
            }
        }
    };
    tasks.spawn({
        let watch = watch.clone();
        async move { watch(watched.await.map_err(RunError::from)) }
    });
    tasks.spawn({
        let (kafka, handout, stop) = (kafka.clone(), Handout(shared.broker.clone()), background.clone());
        async move { watch(hearing.run(&kafka, Arc::new(handout), stop).await.map_err(RunError::from)) }
    });

    listening.set(true);
    let connections = TaskTracker::new();
    let serve = {
        let (shared, stop) = (shared.clone(), stop.clone());
        move |arrived: Arrived| serve(arrived, shared.clone(), stop.clone())
    };
    edge.run(serve, &connections, &stop).await;
    listening.set(false);

    shared.directory.stop();
    connections.close();
    let stopping_since = Instant::now();
    let left = || grace.saturating_sub(stopping_since.elapsed()).max(Duration::from_millis(100));
    let ended = tokio::time::timeout(grace, connections.wait()).await.is_ok();
    if !ended {
        tracing::warn!(
            left = connections.len(),
            "the grace is over: sessions end without their presence event"
        );
    }
    background.cancel();
    tasks.close();
    tasks.wait().await;
    // Nothing is taken in any more: what was counted is told to the end, and then that the node stops.
    telling.cancel();
    let told = async {
        if let Ok(mut teller) = teller.await {
            teller.last().await;
        }
    };
    if tokio::time::timeout(left() / 2, told).await.is_err() {
        tracing::warn!("kafka did not report everything: the ledger lacks what was counted last");
    }
    if ended && !matches!(tokio::time::timeout(left(), life.stopping()).await, Ok(Ok(()))) {
        tracing::warn!(
            "kafka did not confirm that this node stops: it will be taken for lost, without sessions"
        );
    }
    // What no connection waits for: QoS 0, and what its device has given up on.
    let left = left();
    let flushed = tokio::task::spawn_blocking(move || producer.flush(left)).await;
    tracing::info!(?flushed, "gateway stopped");
    match Arc::into_inner(broken).and_then(OnceLock::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Serves one connection and tells its end. No `async fn`: what comes by value would stand twice in its future.
fn serve(arrived: Arrived, shared: Arc<Shared>, stop: CancellationToken) -> impl Future<Output = ()> + Send {
    let Arrived { stream, peer, place, address_place } = arrived;
    async move {
        let served = connection::serve(stream, peer, &shared, &stop).await;
        drop(address_place);
        if let Some((session, end)) = served {
            // In a box, as its room is not to be kept by every connection that stands.
            Box::pin(departed(session, end, &shared, place)).await;
        }
    }
}

/// Tells the end of a session. Its place is free for the next connection while that is stored. As many may wait so as
/// there are places; one more keeps its place.
async fn departed(session: Session, end: End, shared: &Shared, place: Place) {
    let departure = shared.departures.clone().try_acquire_owned();
    let place = if departure.is_ok() { None } else { Some(place) };
    presence::disconnected(&session, shared, &end).await;
    drop((place, departure));
}

impl Shared {
    /// How long a session lasts whose client asks for so many seconds.
    fn session_expiry(&self, asked_s: u32) -> Expiry {
        match asked_s.min(self.session_expiry_max_s) {
            0 => Expiry::AtEnd,
            seconds => Expiry::After(Duration::from_secs(seconds.into())),
        }
    }
}

/// The gateway's clock.
fn now() -> Millis {
    Millis(i64::try_from(now_us() / 1_000).unwrap_or(i64::MAX))
}

/// The gateway's clock, microseconds since 1970-01-01 UTC.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the future of one connection holds, in its task.
    fn future_bytes<F>(_: impl Fn(Arrived, Arc<Shared>, CancellationToken) -> F) -> usize {
        size_of::<F>()
    }

    /// Each of them is there once for every device: what grows here costs memory fifty thousand times.
    #[test]
    fn a_connection_that_stands_is_small() {
        let (future, connection) = (future_bytes(serve), connection::bytes());
        assert!(future <= 1_024 && connection <= 768, "{future} and {connection} bytes");
    }
}
