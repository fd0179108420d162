//! The edge: listeners for MQTT over TCP, TLS and WebSocket, and what a connection may cost before MQTT.
//!
//! ```text
//! accept (place, rate, ban) -> task { PROXY header -> ban, place of the address -> TLS -> WebSocket upgrade -> serve }
//! ```
//!
//! # Guarantees
//! - The accept loop waits for nothing that a client does: each connection has one task, and its handshakes run there,
//!   together within [`Config::handshake_timeout_ms`].
//! - Every bound that bites is counted in `fleetpulse_gateway_refused_total` under its own reason ([`Refused::reason`]).
//! - A connection holds its [`Place`] (of the node and of its address) until the place is dropped.

mod config;
mod limits;
mod open;
mod proxy;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod websocket;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{ClientCertificates, Config, ProxyProtocol, TlsVersion};
pub(crate) use limits::Bans;
use limits::{AddressPlace, PerAddress, Rate};
pub use open::ListenError;
use proxy::{Networks, ProxyError};
pub(crate) use stream::{Peer, Stream, Transport};
pub use tls::TlsError;
pub(crate) use tls::{Certificates, TlsSession};
use websocket::WebSocket;

/// After a failed accept (no file left, for example): the cause does not go away within microseconds.
const BACK_OFF: Duration = Duration::from_millis(50);
/// A message of a WebSocket may hold several packets: it may have this many bytes even where packets may not.
const MESSAGE_BYTES_MIN: u32 = 65_536;

/// The listeners, open.
pub(crate) struct Edge {
    listeners: Vec<(Transport, TcpListener)>,
    doors: Arc<Doors>,
}

/// What all connections share on their way in.
struct Doors {
    places: Arc<Semaphore>,
    per_address: Arc<PerAddress>,
    rate: Rate,
    bans: Arc<Bans>,
    handshakes: Arc<Semaphore>,
    handshake_timeout: Duration,
    /// Whom to believe a PROXY header, where there must be one.
    proxies: Option<Networks>,
    certificates: Option<Arc<Certificates>>,
    reload_every: Duration,
    message_bytes_max: usize,
}

/// A connection's place in the node and among those of its address; dropping it makes room for the next one.
#[derive(Debug)]
pub(crate) struct Place {
    _node: OwnedSemaphorePermit,
    _address: AddressPlace,
}

/// Why a connection did not get as far as MQTT.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the node has as many connections as it may")]
    Full,
    #[error("too many connections came at once")]
    Rate,
    #[error("the address is banned")]
    Banned,
    #[error("the address has as many connections as it may")]
    AddressFull,
    #[error("the address may not speak the proxy protocol")]
    NoProxy,
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("there was no turn for its tls handshake in time")]
    HandshakesFull,
    #[error("the tls handshake failed")]
    Tls(#[source] std::io::Error),
    #[error("the websocket upgrade failed")]
    WebSocket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the handshake was not done in time")]
    Timeout,
    #[error("the connection is gone already")]
    Gone(#[source] std::io::Error),
    #[error("the gateway stops")]
    Stopping,
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Full => "connections_max",
            Self::Rate => "connect_rate_max",
            Self::Banned => "banned",
            Self::AddressFull => "connections_per_address_max",
            Self::NoProxy => "proxy_not_allowed",
            Self::Proxy(_) => "proxy_header",
            Self::HandshakesFull => "handshakes_max",
            Self::Tls(_) => "tls_handshake",
            Self::WebSocket(_) => "websocket_upgrade",
            Self::Timeout => "handshake_timeout",
            Self::Gone(_) => "gone",
            Self::Stopping => "stopping",
        }
    }

    fn tell(&self, address: SocketAddr, transport: Transport) {
        counter!("fleetpulse_gateway_refused_total", "reason" => self.reason()).increment(1);
        let error = self as &dyn std::error::Error;
        tracing::debug!(peer = %address, transport = transport.name(), error, "no connection");
    }
}

impl Edge {
    /// Who failed to authenticate and is banned for it.
    #[cfg_attr(not(test), expect(dead_code, reason = "authentication notes its failures here"))]
    pub(crate) fn bans(&self) -> Arc<Bans> {
        self.doors.bans.clone()
    }

    /// The TLS files, where TLS is spoken. They are looked at every [`Config::tls_reload_s`]; who knows of a change may
    /// reload them at once.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever knows that the files changed"))]
    pub(crate) fn certificates(&self) -> Option<Arc<Certificates>> {
        self.doors.certificates.clone()
    }

    /// Where a listener stands: its port is the system's choice where the setting said 0.
    #[cfg(test)]
    fn address(&self, transport: Transport) -> SocketAddr {
        let listener = self.listeners.iter().find(|(kind, _)| *kind == transport);
        listener.expect("it listens").1.local_addr().expect("an address")
    }

    /// Accepts until `stop`, then closes the listeners. Each connection that got as far as MQTT is given to `serve`
    /// in its own task on `connections`; before that the task ends by itself, by its deadline or by `stop`.
    pub(crate) async fn run<F, S>(self, serve: S, connections: &TaskTracker, stop: &CancellationToken)
    where
        S: Fn(Stream, Peer, Place) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { listeners, doors } = self;
        let accepting = TaskTracker::new();
        for (transport, listener) in listeners {
            let (doors, serve) = (doors.clone(), serve.clone());
            let (connections, stop) = (connections.clone(), stop.clone());
            // Ends by `stop`; waited for below.
            accepting.spawn(async move { accept(&listener, transport, &doors, serve, &connections, &stop).await });
        }
        accepting.close();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(doors.reload_every), if doors.certificates.is_some() => reload(&doors).await,
            }
        }
        accepting.wait().await;
    }
}

async fn reload(doors: &Doors) {
    let Some(certificates) = doors.certificates.clone() else { return };
    match tokio::task::spawn_blocking(move || certificates.reload()).await {
        Ok(Ok(true)) => tracing::info!("the tls files changed and are used"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the tls files cannot be used: those read before stay in use");
        }
        Err(error) => tracing::error!(%error, "reading the tls files failed"),
    }
}

async fn accept<F, S>(
    listener: &TcpListener,
    transport: Transport,
    doors: &Arc<Doors>,
    serve: S,
    connections: &TaskTracker,
    stop: &CancellationToken,
) where
    S: Fn(Stream, Peer, Place) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        // After a while of nothing but connections the runtime makes this wait, so that a storm starves nobody.
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                counter!("fleetpulse_gateway_refused_total", "reason" => "accept_failed").increment(1);
                tracing::warn!(%error, transport = transport.name(), "accept failed");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(BACK_OFF) => continue,
                }
            }
        };
        let place = match doors.admit(address.ip()) {
            Ok(place) => place,
            Err(refused) => {
                refused.tell(address, transport);
                continue;
            }
        };
        let (doors, serve, stop) = (doors.clone(), serve.clone(), stop.clone());
        connections.spawn(async move {
            match doors.enter(stream, address, transport, place, &stop).await {
                Ok((stream, peer, place)) => {
                    drop((doors, stop));
                    serve(stream, peer, place).await;
                }
                Err(refused) => refused.tell(address, transport),
            }
        });
    }
}

impl Doors {
    /// What is decided before a task is spent on the connection.
    fn admit(&self, ip: IpAddr) -> Result<OwnedSemaphorePermit, Refused> {
        match &self.proxies {
            Some(proxies) if !proxies.contains(ip) => return Err(Refused::NoProxy),
            Some(_) => {}
            None if self.bans.is_banned(ip) => return Err(Refused::Banned),
            None => {}
        }
        if !self.rate.allows(Instant::now()) {
            return Err(Refused::Rate);
        }
        self.places.clone().try_acquire_owned().map_err(|_| Refused::Full)
    }

    /// All that comes before MQTT.
    async fn enter(
        &self,
        mut stream: TcpStream,
        mut address: SocketAddr,
        transport: Transport,
        place: OwnedSemaphorePermit,
        stop: &CancellationToken,
    ) -> Result<(Stream, Peer, Place), Refused> {
        open::prepare(&stream).map_err(Refused::Gone)?;
        let deadline = tokio::time::Instant::now() + self.handshake_timeout;
        if self.proxies.is_some() {
            address = within(deadline, stop, self.proxied(&mut stream, address)).await?;
        }
        let address_place = self.per_address.enter(address.ip()).ok_or(Refused::AddressFull)?;
        let place = Place { _node: place, _address: address_place };
        if transport == Transport::Tcp {
            return Ok((Stream::Tcp(stream), Peer { address, transport, tls: None }, place));
        }
        // On the heap, and gone with the handshake: a connection's task is as large as its largest state.
        let handshake = Box::pin(self.handshake(stream, transport, deadline));
        let (stream, tls) = within(deadline, stop, handshake).await?;
        Ok((stream, Peer { address, transport, tls }, place))
    }

    async fn proxied(&self, stream: &mut TcpStream, balancer: SocketAddr) -> Result<SocketAddr, Refused> {
        match proxy::read(stream).await? {
            Some(client) if self.bans.is_banned(client.ip()) => Err(Refused::Banned),
            Some(client) => Ok(client),
            None => Ok(balancer),
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        transport: Transport,
        deadline: tokio::time::Instant,
    ) -> Result<(Stream, Option<TlsSession>), Refused> {
        match (transport, &self.certificates) {
            (Transport::Tls, Some(certificates)) => {
                let (stream, tls) = self.tls(stream, certificates, deadline).await?;
                Ok((Stream::Tls(Box::new(stream)), Some(tls)))
            }
            (Transport::WebSocketTls, Some(certificates)) => {
                let (stream, tls) = self.tls(stream, certificates, deadline).await?;
                Ok((Stream::WebSocketTls(Box::new(self.upgrade(stream).await?)), Some(tls)))
            }
            (Transport::WebSocket, _) => {
                Ok((Stream::WebSocket(Box::new(self.upgrade(stream).await?)), None))
            }
            // Opening a TLS listener reads the certificates.
            (Transport::Tcp | Transport::Tls | Transport::WebSocketTls, _) => Ok((Stream::Tcp(stream), None)),
        }
    }

    async fn tls(
        &self,
        stream: TcpStream,
        certificates: &Certificates,
        deadline: tokio::time::Instant,
    ) -> Result<(TlsStream<TcpStream>, TlsSession), Refused> {
        // Who says nothing takes nobody's turn.
        stream.readable().await.map_err(Refused::Gone)?;
        let turn = timeout_at(deadline, self.handshakes.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refused::HandshakesFull) };
        let _under_way = UnderWay::new();
        let stream =
            TlsAcceptor::from(certificates.current()).accept(stream).await.map_err(Refused::Tls)?;
        let session = TlsSession::of(stream.get_ref().1);
        let resumed = if session.resumed { "yes" } else { "no" };
        counter!("fleetpulse_gateway_tls_handshakes_total", "version" => session.version, "resumed" => resumed)
            .increment(1);
        Ok((stream, session))
    }

    async fn upgrade<S>(&self, stream: S) -> Result<WebSocket<S>, Refused>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let accepted = WebSocket::accept(stream, self.message_bytes_max).await;
        accepted.map_err(|error| Refused::WebSocket(Box::new(error)))
    }
}

/// Does a part of the handshake unless its time is over or the gateway stops.
async fn within<T>(
    deadline: tokio::time::Instant,
    stop: &CancellationToken,
    part: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    tokio::select! {
        done = timeout_at(deadline, part) => done.unwrap_or(Err(Refused::Timeout)),
        () = stop.cancelled() => Err(Refused::Stopping),
    }
}

/// Counts a TLS handshake while it is under way.
struct UnderWay(metrics::Gauge);

impl UnderWay {
    fn new() -> Self {
        let gauge = gauge!("fleetpulse_gateway_tls_handshakes");
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
