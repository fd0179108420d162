//! The gateway: MQTT 3.1.1 and 5.0 in, Kafka records out, and a PUBACK only for what Kafka holds.
//!
//! ```text
//! edge -> handshake -> connection { read -> decode -> reserve -> produce -> (delivery report) -> PUBACK }
//! ```
//!
//! # Guarantees
//! - A PUBACK without error leaves only after Kafka's delivery report for the record made of that PUBLISH: an
//!   event, or a dead letter where the payload was no heartbeat. PUBACKs leave in the order of arrival
//!   (MQTT-4.6.0-2).
//! - A session's `Connected` event stands before the first of its heartbeats, `Disconnected` after the last. A
//!   session whose `Connected` Kafka does not take is ended; a `Disconnected` is repeated until Kafka takes it.
//! - What waits for Kafka is bounded in messages and bytes per process ([`bus::Window`]), QoS 1 also in messages per
//!   connection ([`Config::in_flight_per_connection_max`]). When a bound is reached the socket is not read; QoS 0 that finds
//!   no room is shed and counted.
//! - A client that breaks the protocol, or publishes as somebody else, loses its own connection and nothing more.
//!
//! # What it does not offer
//! QoS 2, subscriptions, retained messages, topic aliases: each is refused by name, and said in CONNACK where MQTT 5
//! has a property for it. A will is accepted and has nobody to go to, as there are no subscriptions.

mod config;
mod connection;
mod directory;
mod edge;
mod handshake;
mod meter;
mod mqtt;
mod presence;
mod record;
mod session;
mod unacknowledged;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bus::Producer;
use event::{Millis, NodeId};
use ops::Health;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Authentication, Config};
pub use edge::{
    ClientCertificates, Config as ListenConfig, ListenError, ProxyProtocol, TlsError, TlsVersion,
};

use directory::Directory;
use edge::{Edge, Peer, Place, Stream};
use meter::Meter;

/// What every connection shares.
struct Shared {
    config: Config,
    node_id: NodeId,
    epoch: u64,
    clock: decode::ClockPolicy,
    producer: Producer,
    directory: Directory,
    /// Room for sessions that have ended and whose presence event is not stored yet.
    departures: Arc<Semaphore>,
    meter: Meter,
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
}

/// Runs a gateway until `stop`; then stops accepting, lets what is in flight be acknowledged, ends every session
/// with its presence event and returns, all within [`Config::shutdown_grace_ms`].
///
/// # Errors
/// Where it cannot start, or its Kafka client is broken for good. `stop` is cancelled then.
pub async fn run(
    config: Config,
    listen: &ListenConfig,
    kafka: &bus::Config,
    health: &Health,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let producer = Producer::new(kafka)?;
    let grace = Duration::from_millis(config.shutdown_grace_ms.into());
    let shared = Arc::new(Shared {
        node_id: NodeId(config.node_id.as_str().into()),
        // Rises at each start as long as the node's clock does.
        epoch: now().0.unsigned_abs(),
        clock: config.clock_policy(),
        producer: producer.clone(),
        directory: Directory::default(),
        departures: Arc::new(Semaphore::new(config.connections_max as usize)),
        meter: Meter::new(),
        config,
    });
    let listening = health.condition("mqtt_listens");
    let edge = Edge::open(listen, &shared.config)?;
    tracing::info!(mqtt = %shared.config.mqtt_listen, node_id = %shared.node_id.0, epoch = shared.epoch, "gateway starts");

    let background = CancellationToken::new();
    let tasks = TaskTracker::new();
    let watched = bus::watch(producer.clone(), health.condition("kafka_stores"), background.clone());
    let broken = Arc::new(OnceLock::new());
    tasks.spawn({
        let (broken, stop) = (broken.clone(), stop.clone());
        async move {
            if let Err(error) = watched.await {
                // Whoever starts the process again starts a new producer.
                let _first = broken.set(error);
                stop.cancel();
            }
        }
    });

    listening.set(true);
    let connections = TaskTracker::new();
    let serve = {
        let (shared, stop) = (shared.clone(), stop.clone());
        move |stream, peer, place| serve(stream, peer, place, shared.clone(), stop.clone())
    };
    edge.run(serve, &connections, &stop).await;
    listening.set(false);

    connections.close();
    let stopping_since = Instant::now();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "the grace is over: sessions end without their presence event"
        );
    }
    background.cancel();
    tasks.close();
    tasks.wait().await;
    // What no connection waits for: QoS 0, and what its device has given up on.
    let left = grace.saturating_sub(stopping_since.elapsed()).max(Duration::from_millis(100));
    let flushed = tokio::task::spawn_blocking(move || producer.flush(left)).await;
    tracing::info!(?flushed, "gateway stopped");
    match Arc::into_inner(broken).and_then(OnceLock::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Serves a connection, and tells how its session ended.
async fn serve(stream: Stream, peer: Peer, place: Place, shared: Arc<Shared>, stop: CancellationToken) {
    shared.meter.connections.increment(1);
    let served = connection::serve(stream, peer, &shared, stop).await;
    shared.meter.connections.decrement(1);
    let Some((session, end)) = served else { return };
    // The place is free for the next connection while the end of this one is stored. As many may wait so as there are
    // places; one more keeps its place.
    let departure = shared.departures.clone().try_acquire_owned();
    let place = if departure.is_ok() { None } else { Some(place) };
    presence::disconnected(&session, &shared, &end).await;
    drop((place, departure));
}

/// The gateway's clock.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
