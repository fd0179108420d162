//! The accept loop: takes connections while there is a place, and hands each to its own task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Config, Shared, connection, presence};

/// Files that a gateway opens beside its connections: Kafka, metrics, logs.
const OTHER_FILES: u64 = 128;
/// After a failed accept (no file left, for example): the cause does not go away within microseconds.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Why a gateway does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("cannot listen for mqtt on {address} (setting `gateway.mqtt_listen`)")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The process may not open enough files.
    #[error(
        "{connections_max} connections (setting `gateway.connections_max`) need {needed} open files, this process may have {allowed}: raise `ulimit -n` or lower the setting"
    )]
    OpenFiles {
        /// The setting.
        connections_max: u32,
        /// Files it takes.
        needed: u64,
        /// Files that are allowed.
        allowed: u64,
    },
}

/// Opens the listener, and makes room for its connections.
pub(crate) async fn listen(config: &Config) -> Result<TcpListener, ListenError> {
    allow_files(config.connections_max)?;
    let address = config.mqtt_listen;
    TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
}

/// Raises the soft limit on open files to the hard one, and checks that it is enough.
fn allow_files(connections_max: u32) -> Result<(), ListenError> {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::from(connections_max) + OTHER_FILES;
    let allowed = match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    match allowed {
        Some(allowed) if allowed < needed => Err(ListenError::OpenFiles { connections_max, needed, allowed }),
        _ => Ok(()),
    }
}

/// Accepts until `stop`. Each connection's task ends by itself, by being taken over, or by `stop`.
pub(crate) async fn accept(
    listener: TcpListener,
    shared: &Arc<Shared>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(shared.config.connections_max as usize));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    let (shared, stop) = (shared.clone(), stop.clone());
                    connections.spawn(async move { serve(stream, peer, &shared, stop, place).await });
                }
                Err(_full) => shared.meter.refused("connections_max"),
            },
            Err(error) => {
                shared.meter.refused("accept_failed");
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
    stop: CancellationToken,
    place: OwnedSemaphorePermit,
) {
    shared.meter.connections.increment(1);
    let served = match prepare(&stream) {
        Ok(()) => connection::serve(stream, peer, shared, stop).await,
        Err(error) => {
            tracing::debug!(%peer, %error, "the connection is gone already");
            None
        }
    };
    shared.meter.connections.decrement(1);
    let Some((session, end)) = served else { return };
    // The place is free for the next connection while the end of this one is stored. As many may wait so as there are
    // places; one more keeps its place.
    let departure = shared.departures.clone().try_acquire_owned();
    let place = if departure.is_ok() { None } else { Some(place) };
    presence::disconnected(&session, shared, &end).await;
    drop((place, departure));
}

/// An answer of four bytes does not wait for another; a peer that is gone without a word is noticed within minutes, also
/// where MQTT's own keep alive is off.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(120))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(20))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
