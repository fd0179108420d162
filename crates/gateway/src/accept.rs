//! The accept loop: takes connections while there is a place, and hands each to its own task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Config, Shared, connection};

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
                    connections.spawn(async move {
                        serve(stream, peer, &shared, stop).await;
                        drop(place);
                    });
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

async fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared, stop: CancellationToken) {
    shared.meter.connections.increment(1);
    // An answer of four bytes does not wait for another.
    if stream.set_nodelay(true).is_ok() {
        connection::serve(stream, peer, shared, stop).await;
    }
    shared.meter.connections.decrement(1);
}
