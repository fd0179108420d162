//! Opening the listeners, and making room for their connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::{
    Bans, Certificates, Config, Doors, Edge, MESSAGE_BYTES_MIN, PerAddress, ProxyProtocol, Rate, TlsError,
    Transport,
};

/// Files that a gateway opens beside its connections: Kafka, metrics, logs.
const OTHER_FILES: u64 = 128;

/// Why a gateway does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address} (setting `{setting}`)")]
    Bind {
        /// The setting.
        setting: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A setting does not say what it should.
    #[error("setting `{0}` cannot be read")]
    Setting(&'static str),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
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

impl Edge {
    /// Opens the listeners. Reads the TLS files, once: to be called where blocking for that long is no harm.
    pub(crate) fn open(config: &Config, gateway: &crate::Config) -> Result<Self, ListenError> {
        allow_files(gateway.connections_max)?;
        let certificates = if config.has_tls() { Some(Certificates::open(config)?) } else { None };
        let proxies = match config.proxy_protocol {
            ProxyProtocol::Off => None,
            ProxyProtocol::Required => {
                let networks = config.proxy_from.parse();
                Some(networks.map_err(|_| ListenError::Setting("listen.proxy_from"))?)
            }
        };
        let listen = |setting, address, transport| {
            let source = |source| ListenError::Bind { setting, address, source };
            bind(address, config.accept_backlog).map_err(source).map(|listener| (transport, listener))
        };
        let mut listeners: Vec<(Transport, TcpListener)> =
            vec![listen("gateway.mqtt_listen", gateway.mqtt_listen, Transport::Tcp)?];
        for (setting, text, transport) in [
            ("listen.mqtts", &config.mqtts, Transport::Tls),
            ("listen.ws", &config.ws, Transport::WebSocket),
            ("listen.wss", &config.wss, Transport::WebSocketTls),
        ] {
            if !text.is_empty() {
                let address = text.parse().map_err(|_| ListenError::Setting(setting))?;
                listeners.push(listen(setting, address, transport)?);
                tracing::info!(transport = transport.name(), %address, "listens");
            }
        }
        let message_bytes_max = gateway.packet_bytes_max.max(MESSAGE_BYTES_MIN);
        let doors = Arc::new(Doors {
            places: Arc::new(Semaphore::new(gateway.connections_max as usize)),
            per_address: PerAddress::new(config),
            rate: Rate::new(config, Instant::now()),
            bans: Bans::new(config),
            handshakes: Arc::new(Semaphore::new(config.handshakes_max as usize)),
            handshake_timeout: Duration::from_millis(config.handshake_timeout_ms.into()),
            proxies,
            certificates,
            reload_every: Duration::from_secs(config.tls_reload_s.into()),
            message_bytes_max: message_bytes_max as usize,
        });
        Ok(Self { listeners, doors })
    }
}

fn bind(address: SocketAddr, backlog: u32) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted gateway does not wait for the last packets of its predecessor's connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
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

/// An answer of four bytes does not wait for another; a peer that is gone without a word is noticed within minutes, also
/// where MQTT's own keep alive is off.
pub(super) fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(120))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(20))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
