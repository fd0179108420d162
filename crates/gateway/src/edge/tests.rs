//! The edge from outside: real sockets, real TLS, on loopback.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::{SinkExt, StreamExt};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// An edge that runs, and what comes through it.
struct Running {
    addresses: Vec<(Transport, SocketAddr)>,
    arrived: mpsc::Receiver<Arrived>,
    tls: Option<Arc<Tls>>,
    bans: Arc<Bans>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Running {
    fn open(config: &Config) -> Self {
        let gateway = crate::Config {
            mqtt_listen: "127.0.0.1:0".parse().expect("an address"),
            connections_max: 100,
            ..crate::Config::default()
        };
        let bans = Arc::new(Bans::new(config));
        let edge = open(&gateway, config, bans.clone(), Meter::new()).expect("it listens");
        let addresses = edge
            .listeners
            .iter()
            .map(|(listener, transport)| (*transport, listener.local_addr().expect("an address")));
        let (addresses, tls) = (addresses.collect(), edge.tls());
        let (arrives, arrived) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move {
                let connections = TaskTracker::new();
                let serve = move |come| {
                    let arrives = arrives.clone();
                    async move { drop(arrives.send(come).await) }
                };
                edge.run(serve, &connections, &stop).await;
                connections.close();
                connections.wait().await;
            }
        });
        Self { addresses, arrived, tls, bans, stop, running }
    }

    async fn connect(&self, transport: Transport) -> TcpStream {
        let (_, address) = self.addresses.iter().find(|(kind, _)| *kind == transport).expect("it listens");
        TcpStream::connect(address).await.expect("a connection")
    }

    async fn next(&mut self) -> Arrived {
        let next = tokio::time::timeout(SOON, self.arrived.recv()).await;
        next.expect("somebody arrives soon").expect("the edge runs")
    }

    /// Stops it; says whether somebody had arrived that nobody asked for.
    async fn stop(mut self) -> bool {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.running).await.expect("it stops soon").expect("no panic");
        self.arrived.recv().await.is_some()
    }
}

/// The connection was closed, by a reset or by an end.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.is_ok()
}

/// An authority, a certificate of ours and one of a client, in a folder of the test's own.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    device: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

const DEVICE_SERIAL: u64 = 7;

impl Authority {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("fleetpulse-edge-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");

        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("a root");
        let issuer = Issuer::new(params, key);

        let server_key = KeyPair::generate().expect("a key");
        let server = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let server = server.signed_by(&server_key, &issuer).expect("a certificate");
        let device_key = KeyPair::generate().expect("a key");
        let mut device = CertificateParams::new(vec!["device-1".into()]).expect("a name");
        device.serial_number = Some(SerialNumber::from(DEVICE_SERIAL));
        let device = device.signed_by(&device_key, &issuer).expect("a certificate");
        let device_key = PrivateKeyDer::from_pem_slice(device_key.serialize_pem().as_bytes()).expect("a key");

        let authority =
            Self { folder, issuer, root: root.der().clone(), device: (device.der().clone(), device_key) };
        authority.write("root.pem", &root.pem());
        authority.write("server.pem", &server.pem());
        authority.write("server.key", &server_key.serialize_pem());
        authority.revoke(&[]);
        authority
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("a file");
    }

    fn revoke(&self, serials: &[u64]) {
        self.revoke_until(2100, serials);
    }

    fn revoke_until(&self, year: i32, serials: &[u64]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2014, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list").pem().expect("pem");
        self.write("revoked.pem", &list);
    }

    fn config(&self, client_certificates: ClientCertificates) -> Config {
        let file = |name| self.folder.join(name).display().to_string();
        Config {
            mqtts: "127.0.0.1:0".into(),
            tls_certificate_file: file("server.pem"),
            tls_key_file: file("server.key"),
            tls_client_ca_file: file("root.pem"),
            tls_client_crl_file: file("revoked.pem"),
            tls_client_certificates: client_certificates,
            ..Config::default()
        }
    }

    fn client(
        &self,
        with_certificate: bool,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.expect("a version").with_root_certificates(roots);
        let config = if with_certificate {
            let (certificate, key) = &self.device;
            builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).expect("a pair")
        } else {
            builder.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(config))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

type Client = tokio_rustls::client::TlsStream<TcpStream>;

/// Goes through the handshake, and a byte each way: tickets and refusals of TLS 1.3 come after it.
async fn shake(connector: &TlsConnector, edge: &mut Running) -> io::Result<(Client, Arrived)> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = connector.connect(name, edge.connect(Transport::Tls).await).await?;
    client.write_all(b"?").await?;
    client.flush().await?;
    let mut arrived = tokio::select! {
        arrived = edge.next() => arrived,
        // Nobody answers before the connection has arrived.
        refused = client.read_u8() => return Err(refused.expect_err("a refusal")),
    };
    let mut byte = [0];
    arrived.stream.read_exact(&mut byte).await?;
    arrived.stream.write_all(&byte).await?;
    arrived.stream.flush().await?;
    client.read_exact(&mut byte).await?;
    Ok((client, arrived))
}

#[tokio::test]
async fn silent_clients_delay_nobody_and_take_nobodys_turn() {
    let authority = Authority::new();
    let mut edge = Running::open(&Config { handshakes_max: 1, ..authority.config(ClientCertificates::Off) });
    let _silent = [edge.connect(Transport::Tls).await, edge.connect(Transport::Tls).await];
    let connector = authority.client(false, &rustls::version::TLS13);
    let (_client, arrived) = shake(&connector, &mut edge).await.expect("a handshake");
    assert_eq!((arrived.peer.transport, arrived.peer.tls_version()), (Transport::Tls, "1.3"));
    assert_eq!(arrived.peer.certificate(), None);
    assert!(!edge.stop().await);
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_with_its_certificate() {
    let authority = Authority::new();
    let mut edge = Running::open(&authority.config(ClientCertificates::Required));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let connector = authority.client(true, version);
        for expected in [false, true] {
            let (client, arrived) = shake(&connector, &mut edge).await.expect("a handshake");
            let resumed = client.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, expected, "{version:?}");
            assert_eq!(arrived.peer.certificate(), Some(&authority.device.0[..]), "{version:?}");
        }
    }
    assert!(!edge.stop().await);
}

#[tokio::test]
async fn who_needs_a_certificate_and_has_none_does_not_come_in() {
    let authority = Authority::new();
    for (asks, comes_in) in [(ClientCertificates::Required, false), (ClientCertificates::Optional, true)] {
        let mut edge = Running::open(&authority.config(asks));
        let connector = authority.client(false, &rustls::version::TLS13);
        assert_eq!(shake(&connector, &mut edge).await.is_ok(), comes_in);
        assert!(!edge.stop().await);
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_after_a_reload_also_with_a_ticket() {
    let authority = Authority::new();
    let mut edge = Running::open(&authority.config(ClientCertificates::Required));
    let tls = edge.tls.clone().expect("tls");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        authority.revoke(&[]);
        tls.reload().expect("usable");
        let (returning, fresh) = (authority.client(true, version), authority.client(true, version));
        shake(&returning, &mut edge).await.expect("good until now");
        authority.revoke(&[DEVICE_SERIAL]);
        authority.write("root.pem", "nothing of use");
        assert!(tls.reload().is_err());
        shake(&fresh, &mut edge).await.expect("what was read before holds");
        authority.write("root.pem", &pem(&authority.root));
        tls.reload().expect("usable");
        assert!(shake(&returning, &mut edge).await.is_err(), "{version:?}");
        assert!(shake(&fresh, &mut edge).await.is_err(), "{version:?}");
    }
    assert!(!edge.stop().await);
}

#[tokio::test]
async fn lists_that_are_late_hold_and_hold_nothing_else_up() {
    let authority = Authority::new();
    let config = authority.config(ClientCertificates::Required);
    authority.revoke_until(2020, &[]);
    let refused = Tls::open(&config).expect_err("over at the start");
    assert!(
        matches!(&refused, TlsError::Lists(lists) if lists.to_string().contains("is over since")),
        "{refused:?}"
    );
    authority.write("revoked.pem", "");
    assert!(Tls::open(&config).is_err(), "an empty file is no list");

    authority.revoke(&[DEVICE_SERIAL]);
    let mut edge = Running::open(&config);
    let tls = edge.tls.clone().expect("tls");
    let device = authority.client(true, &rustls::version::TLS13);
    authority.revoke_until(2020, &[]);
    // The server gets a new certificate meanwhile, of an authority that our client does not know.
    let other = Authority::new();
    for name in ["server.pem", "server.key"] {
        std::fs::copy(other.folder.join(name), authority.folder.join(name)).expect("a file");
    }
    assert!(matches!(tls.reload(), Err(TlsError::Lists(_))));
    assert!(shake(&device, &mut edge).await.is_err());
    let mut roots = RootCertStore::empty();
    roots.add(other.root.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(roots);
    let (certificate, key) = &authority.device;
    let own = builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).expect("a pair");
    let knowing = TlsConnector::from(Arc::new(own));
    let refused = shake(&knowing, &mut edge).await.map(drop).expect_err("revoked as before");
    assert!(refused.to_string().contains("CertificateRevoked"), "{refused}");
    assert!(!edge.stop().await);
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test]
async fn a_proxy_gives_the_address_and_nobody_else_may() {
    let config = Config {
        proxy_protocol: ProxyProtocol::Required,
        proxy_from: "127.0.0.0/8".into(),
        ban_after_failures: 1,
        ..Config::default()
    };
    let header = |last| {
        let head = [ppp::v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0, 12, 192, 0, 2, last]].concat();
        [&head[..], &[10, 0, 0, 1, 0x13, 0x88, 0, 80], b"MQTT"].concat()
    };
    let mut edge = Running::open(&config);
    let mut client = edge.connect(Transport::Tcp).await;
    client.write_all(&header(7)).await.expect("sent");
    let mut arrived = edge.next().await;
    assert_eq!(arrived.peer.address.to_string(), "192.0.2.7:5000");
    let mut behind = [0; 4];
    arrived.stream.read_exact(&mut behind).await.expect("what stands behind the header");
    assert_eq!(&behind, b"MQTT");

    edge.bans.failed("192.0.2.8".parse().expect("an address"));
    for refused in [header(8), b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0\0\0\0\0".to_vec()] {
        let mut client = edge.connect(Transport::Tcp).await;
        client.write_all(&refused).await.expect("sent");
        assert!(is_closed(&mut client).await);
    }
    assert!(!edge.stop().await);

    let edge = Running::open(&Config { proxy_from: "10.0.0.1".into(), ..config });
    let mut client = edge.connect(Transport::Tcp).await;
    assert!(is_closed(&mut client).await);
    assert!(!edge.stop().await);
}

#[tokio::test]
async fn an_address_holds_no_more_connections_than_it_may_the_unfinished_ones_included() {
    let authority = Authority::new();
    let config = Config { connections_per_address_max: 1, ..authority.config(ClientCertificates::Off) };
    let mut edge = Running::open(&config);
    let first = edge.connect(Transport::Tcp).await;
    let arrived = edge.next().await;
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut second = edge.connect(transport).await;
        assert!(is_closed(&mut second).await, "{transport:?}");
    }
    drop((first, arrived));
    let _third = edge.connect(Transport::Tcp).await;
    edge.next().await;
    assert!(!edge.stop().await);
}

#[tokio::test]
async fn a_banned_address_is_closed_at_once() {
    let edge = Running::open(&Config { ban_after_failures: 1, ..Config::default() });
    edge.bans.failed("127.0.0.1".parse().expect("an address"));
    let mut client = edge.connect(Transport::Tcp).await;
    assert!(is_closed(&mut client).await);
    assert!(!edge.stop().await);
}

#[tokio::test]
async fn who_does_not_finish_its_handshake_in_time_is_closed() {
    let authority = Authority::new();
    let config = Config {
        ws: "127.0.0.1:0".into(),
        handshake_timeout_ms: 100,
        ..authority.config(ClientCertificates::Off)
    };
    let edge = Running::open(&config);
    for (transport, start) in [
        (Transport::Tls, &b""[..]),
        (Transport::Tls, b"\x16\x03\x01\x02\x00"),
        (Transport::WebSocket, b"GET /mqtt HTTP/1.1\r\nHost: here\r\n"),
    ] {
        let mut client = edge.connect(transport).await;
        client.write_all(start).await.expect("sent");
        assert!(is_closed(&mut client).await, "{transport:?} {start:?}");
    }
    assert!(!edge.stop().await);
}

async fn upgrade(
    edge: &Running,
    path: &str,
    protocol: Option<&'static str>,
) -> Result<tokio_tungstenite::WebSocketStream<TcpStream>, tokio_tungstenite::tungstenite::Error> {
    let mut request = format!("ws://localhost{path}").into_client_request().expect("a request");
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    }
    let stream = edge.connect(Transport::WebSocket).await;
    tokio_tungstenite::client_async(request, stream).await.map(|(client, _)| client)
}

#[tokio::test]
async fn borders_of_websocket_messages_mean_nothing() {
    let mut edge = Running::open(&Config { ws: "127.0.0.1:0".into(), ..Config::default() });
    let mut client = upgrade(&edge, "/mqtt", Some("other, mqtt")).await.expect("an upgrade");
    let mut arrived = edge.next().await;
    assert_eq!(arrived.peer.transport, Transport::WebSocket);
    for part in [&b"one pac"[..], b"", b"ket, and", b" more of them"] {
        client.send(Message::Binary(part.to_vec().into())).await.expect("sent");
    }
    let mut got = [0; 28];
    arrived.stream.read_exact(&mut got).await.expect("all of it");
    assert_eq!(&got, b"one packet, and more of them");

    let large: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let writes = async {
        arrived.stream.write_all(&large).await.expect("written");
        arrived.stream.flush().await.expect("flushed");
    };
    let reads = async {
        let mut got = Vec::new();
        while got.len() < large.len() {
            let message = client.next().await.expect("a message").expect("a good one");
            got.extend_from_slice(&message.into_data());
        }
        got
    };
    let ((), got) = tokio::join!(writes, reads);
    assert!(got == large);

    client.send(Message::Text("text".into())).await.expect("sent");
    let error = arrived.stream.read_u8().await.expect_err("text is refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(!edge.stop().await);
}

#[tokio::test]
async fn a_websocket_elsewhere_or_of_something_else_is_refused() {
    let edge = Running::open(&Config { ws: "127.0.0.1:0".into(), ..Config::default() });
    for (path, protocol) in [("/", Some("mqtt")), ("/mqtt", None), ("/mqtt", Some("chat"))] {
        assert!(upgrade(&edge, path, protocol).await.is_err(), "{path} {protocol:?}");
    }
    assert!(!edge.stop().await);
}
