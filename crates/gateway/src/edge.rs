//! The edge: listeners for TCP, TLS, WebSocket and both, who may come in, and what a connection brings from below MQTT.
//!
//! An accept loop only accepts: PROXY header, TLS handshake and WebSocket upgrade happen in the connection's own task, under one
//! deadline, so that a silent client delays nobody. New connections beyond their rate wait in the backlog.

mod config;
mod gate;
mod proxy;
mod stream;
mod tls;
mod websocket;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{ClientCertificates, Config, ProxyProtocol, TlsVersion};
pub(crate) use gate::{AddressPlace, Bans, Place};
pub(crate) use stream::Stream;
pub(crate) use tls::Tls;
pub use tls::TlsError;

use crate::meter::Meter;
use crate::pace::Bucket;
use gate::Gate;
use websocket::WebSocket;

/// Files that a gateway opens beside its connections: Kafka, metrics, logs.
const OTHER_FILES: u64 = 128;
/// After a failed accept (no file left, for example): the cause does not go away within microseconds.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Connections that the system completes while the accept loop is busy: a second of a reconnect storm.
const BACKLOG: u32 = 8_192;

/// Why a gateway does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("cannot listen for mqtt on {address} (setting `{setting}`)")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The setting to change.
        setting: &'static str,
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
    /// TLS cannot be offered.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    WebSocket,
    WebSocketTls,
}

impl Transport {
    /// As in events and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
            Self::WebSocketTls => "wss",
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::Tcp => "gateway.mqtt_listen",
            Self::Tls => "listen.mqtts",
            Self::WebSocket => "listen.ws",
            Self::WebSocketTls => "listen.wss",
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::WebSocketTls)
    }
}

/// Who is at the other end, as far as the layers below MQTT know.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The client's own address, also behind a load balancer.
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
    tls_version: &'static str,
    certificate: Option<Box<[u8]>>,
}

impl Peer {
    /// The client's certificate, checked, DER.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Who it is has been decided: the certificate need not be kept as long as the connection.
    pub(crate) fn forget_certificate(&mut self) {
        self.certificate = None;
    }

    /// `1.2` or `1.3`; empty without TLS.
    pub(crate) fn tls_version(&self) -> &'static str {
        self.tls_version
    }
}

/// Listeners, bound and not accepting yet.
#[derive(Debug)]
pub(crate) struct Edge {
    listeners: Vec<(TcpListener, Transport)>,
    gate: Gate,
    config: Config,
    proxies: Vec<IpNet>,
    packet_bytes_max: u32,
    tls: Option<Arc<Tls>>,
    bans: Arc<Bans>,
    meter: Meter,
}

/// A connection that has come through.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    pub(crate) place: Place,
    pub(crate) address_place: AddressPlace,
}

/// Opens the listeners, and makes room for their connections.
pub(crate) fn open(
    gateway: &crate::Config,
    config: &Config,
    bans: Arc<Bans>,
    meter: Meter,
) -> Result<Edge, ListenError> {
    allow_files(gateway.connections_max)?;
    let further = [
        (&config.mqtts, Transport::Tls),
        (&config.ws, Transport::WebSocket),
        (&config.wss, Transport::WebSocketTls),
    ];
    // What cannot be read as an address was refused with the settings.
    let further = further.into_iter().filter_map(|(text, transport)| Some((text.parse().ok()?, transport)));
    let all = [(gateway.mqtt_listen, Transport::Tcp)].into_iter().chain(further);
    let listeners = all
        .map(|(address, transport)| {
            let setting = transport.setting();
            let bound = bind(address).map_err(|source| ListenError::Bind { address, setting, source })?;
            Ok((bound, transport))
        })
        .collect::<Result<Vec<_>, ListenError>>()?;
    let wants_tls = listeners.iter().any(|(_, transport)| transport.has_tls());
    Ok(Edge {
        tls: if wants_tls { Some(Arc::new(Tls::open(config)?)) } else { None },
        listeners,
        gate: Gate::new(gateway.connections_max, config),
        proxies: config::networks(&config.proxy_from).unwrap_or_default(),
        packet_bytes_max: gateway.packet_bytes_max,
        config: config.clone(),
        bans,
        meter,
    })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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

impl Edge {
    /// What of TLS is read again when it changes.
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Accepts until `stop`. `serve` gets each connection that has come through; its task is tracked by `connections` and ends
    /// by itself or with `stop`.
    pub(crate) async fn run<F>(
        mut self,
        serve: impl Fn(Arrived) -> F + Clone + Send + Sync + 'static,
        connections: &TaskTracker,
        stop: &CancellationToken,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let listeners = std::mem::take(&mut self.listeners);
        let edge = Arc::new(self);
        let rate = Arc::new(tokio::sync::Mutex::new(Bucket::new(
            edge.config.connect_rate_max,
            edge.config.connect_burst_max,
            Instant::now(),
        )));
        let loops = TaskTracker::new();
        for (listener, transport) in listeners {
            let (edge, serve, rate) = (edge.clone(), serve.clone(), rate.clone());
            let (connections, stop) = (connections.clone(), stop.clone());
            loops.spawn(async move {
                let accepting = edge.accept(&listener, transport, &serve, &rate, &connections, &stop);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = accepting => {}
                }
            });
        }
        loops.close();
        loops.wait().await;
    }

    async fn accept<F>(
        self: &Arc<Self>,
        listener: &TcpListener,
        transport: Transport,
        serve: &(impl Fn(Arrived) -> F + Clone + Send + Sync + 'static),
        rate: &tokio::sync::Mutex<Bucket>,
        connections: &TaskTracker,
        stop: &CancellationToken,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            self.keep_rate(rate).await;
            match listener.accept().await {
                Ok((stream, address)) => match self.gate.place() {
                    Some(place) if !self.bans.is_banned(address.ip()) => {
                        let (edge, serve, stop) = (self.clone(), serve.clone(), stop.clone());
                        connections.spawn(async move {
                            edge.meter.connections.increment(1);
                            // In a box, for it is over after a moment and its room is not the connection's to keep.
                            let arriving = Box::pin(edge.arrive(stream, address, transport, place));
                            let arrived = tokio::select! {
                                () = stop.cancelled() => None,
                                arrived = arriving => Some(arrived),
                            };
                            match arrived {
                                Some(Ok(arrived)) => serve(arrived).await,
                                Some(Err(refused)) => {
                                    edge.meter.refused(refused.reason());
                                    tracing::debug!(peer = %address, error = &refused as &dyn std::error::Error, "refused");
                                }
                                None => edge.meter.refused("stopping"),
                            }
                            edge.meter.connections.decrement(1);
                        });
                    }
                    Some(_) => self.meter.refused("banned"),
                    None => self.meter.refused("connections_max"),
                },
                Err(error) => {
                    self.meter.refused("accept_failed");
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Waits while new connections come faster than they may.
    async fn keep_rate(&self, rate: &tokio::sync::Mutex<Bucket>) {
        let open_at = {
            let mut bucket = rate.lock().await;
            let now = Instant::now();
            bucket.take(1, now);
            bucket.open_at(now)
        };
        if let Some(open_at) = open_at {
            self.meter.connects_delayed.increment(1);
            tokio::time::sleep_until(open_at).await;
        }
    }

    /// Everything below MQTT, within its time. Not cancel safe: a dropped arrival is over.
    async fn arrive(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        transport: Transport,
        place: Place,
    ) -> Result<Arrived, Refused> {
        prepare(&stream)?;
        let within = Duration::from_millis(self.config.handshake_timeout_ms.into());
        let upgraded = tokio::time::timeout(within, self.upgrade(stream, address, transport)).await;
        let (stream, peer) = upgraded.unwrap_or(Err(Refused::Timeout))?;
        let address_place = self.gate.address_place(peer.address.ip()).ok_or(Refused::AddressMax)?;
        Ok(Arrived { stream, peer, place, address_place })
    }

    async fn upgrade(
        &self,
        mut stream: TcpStream,
        mut address: SocketAddr,
        transport: Transport,
    ) -> Result<(Stream, Peer), Refused> {
        if self.config.proxy_protocol == ProxyProtocol::Required {
            let balancer = address.ip().to_canonical();
            if !self.proxies.iter().any(|network| network.contains(&balancer)) {
                return Err(Refused::ProxyFrom);
            }
            address = proxy::read(&mut stream, address).await.map_err(Refused::Proxy)?;
            if self.bans.is_banned(address.ip()) {
                return Err(Refused::Banned);
            }
        }
        let mut peer = Peer { address, transport, tls_version: "", certificate: None };
        let stream = match transport {
            Transport::Tcp => Stream::Tcp(stream),
            Transport::Tls => Stream::Tls(Box::new(self.shake(stream, &mut peer).await?)),
            Transport::WebSocket => {
                Stream::WebSocket(Box::new(WebSocket::accept(stream, self.packet_bytes_max).await?))
            }
            Transport::WebSocketTls => {
                let stream = self.shake(stream, &mut peer).await?;
                Stream::WebSocketTls(Box::new(WebSocket::accept(stream, self.packet_bytes_max).await?))
            }
        };
        Ok((stream, peer))
    }

    async fn shake(&self, stream: TcpStream, peer: &mut Peer) -> Result<TlsStream<TcpStream>, Refused> {
        let Some(tls) = &self.tls else { unreachable!("a listener that has TLS has its files") };
        let stream = tls.acceptor().accept(stream).await.map_err(Refused::Tls)?;
        let (_, session) = stream.get_ref();
        peer.tls_version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        };
        let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        self.meter.tls_handshake(peer.tls_version, resumed);
        peer.certificate =
            session.peer_certificates().and_then(|chain| chain.first()).map(|own| (**own).into());
        Ok(stream)
    }
}

/// Why a connection did not come through.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("PROXY header, TLS handshake and WebSocket upgrade took too long")]
    Timeout,
    #[error("too many connections from this address (setting `listen.connections_per_address_max`)")]
    AddressMax,
    #[error("the address is banned")]
    Banned,
    #[error("this address may not send PROXY headers (setting `listen.proxy_from`)")]
    ProxyFrom,
    #[error("no PROXY header")]
    Proxy(#[source] io::Error),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("no WebSocket")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the connection is gone already")]
    Gone(#[from] io::Error),
}

impl Refused {
    /// Short name, as in metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "handshake_timeout",
            Self::AddressMax => "connections_per_address_max",
            Self::Banned => "banned",
            Self::ProxyFrom => "proxy_from",
            Self::Proxy(_) => "proxy_header",
            Self::Tls(_) => "tls_handshake",
            Self::WebSocket(_) => "websocket",
            Self::Gone(_) => "closed",
        }
    }
}

/// An answer of four bytes does not wait for another; a peer that is gone without a word is noticed within minutes, also
/// where MQTT's own keep alive is off.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(120))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(20))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
