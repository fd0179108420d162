//! A service made here, that answers as it is told, or does not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Ends when it is dropped.
struct Service {
    address: SocketAddr,
    asked: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers with what `says` makes of the question and its number; `None`: never.
async fn service(says: impl Fn(u32, Value) -> Option<(u16, Value)> + Send + Sync + 'static) -> Service {
    serve(None, says).await
}

/// The same over TLS, where there is an acceptor.
async fn serve(
    tls: Option<TlsAcceptor>,
    says: impl Fn(u32, Value) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let says = Arc::new(says);
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (says, counted, tls) = (Arc::clone(&says), Arc::clone(&counted), tls.clone());
            connections.spawn(async move {
                match tls {
                    None => answer_one(stream, &*says, &counted).await,
                    Some(tls) => answer_one(tls.accept(stream).await.ok()?, &*says, &counted).await,
                }
            });
        }
    });
    Service { address, asked, task }
}

async fn answer_one(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    says: &(impl Fn(u32, Value) -> Option<(u16, Value)> + Sync),
    asked: &AtomicU32,
) -> Option<()> {
    let mut request = Vec::new();
    let body = loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase();
            let length =
                length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
            if body.len() >= length {
                break serde_json::from_str(body).ok()?;
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    };
    match says(asked.fetch_add(1, Ordering::SeqCst), body) {
        None => std::future::pending().await,
        Some((status, answer)) => {
            let answer = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            stream.write_all((head + &answer).as_bytes()).await.ok()?;
            stream.shutdown().await.ok()
        }
    }
}

fn hook(service: &Service, change: impl FnOnce(&mut Config)) -> Hook {
    let mut config = Config {
        http_url: format!("http://{}/login", service.address),
        http_timeout_ms: 5_000,
        ..Config::default()
    };
    change(&mut config);
    let key = Arc::new(Key::draw().expect("random"));
    Hook::open(&config, key).expect("no files").expect("an address")
}

async fn ask(hook: &Hook, client_id: &str, password: &str) -> Option<Result<Found, Denied>> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let password = Some(password.as_bytes());
    hook.check(&Credentials { client_id, username: Some("u"), password, certificate: None, peer }).await
}

#[tokio::test]
async fn the_service_decides_and_its_answers_are_remembered() {
    let service = service(|_, question| {
        assert_eq!((&question["username"], &question["peer"]), (&json!("u"), &json!("127.0.0.1")));
        let answer = match question["password"].as_str().expect("a password") {
            "plain" => json!({"result": "allow"}),
            "named" => json!({"result": "allow", "device_id": "d9", "fleet": "acme", "expires_in_s": 60}),
            "service" => json!({"result": "allow", "kind": "service", "later": "added"}),
            "no" => json!({"result": "deny"}),
            _ => json!({"result": "ignore"}),
        };
        Some((200, answer))
    })
    .await;
    let hook = hook(&service, |_| ());
    for _ in 0..3 {
        let plain = ask(&hook, "d1", "plain").await.expect("its own").expect("allowed");
        assert_eq!(
            (plain.kind, &*plain.name, plain.fleet, plain.expires_at),
            (Kind::Device, "d1", None, None)
        );
        let named = ask(&hook, "d1", "named").await.expect("its own").expect("allowed");
        assert_eq!((&*named.name, named.fleet.as_deref()), ("d9", Some("acme")));
        assert!(named.expires_at.is_some_and(|end| end > SystemTime::now()));
        let back_end = ask(&hook, "x", "service").await.expect("its own").expect("allowed");
        assert_eq!((back_end.kind, &*back_end.name), (Kind::Service, "u"));
        assert_eq!(ask(&hook, "d1", "no").await.expect("its own").map(drop), Err(Denied::Refused));
        assert!(ask(&hook, "d1", "whatever").await.is_none());
    }
    assert_eq!(service.asked.load(Ordering::SeqCst), 5);
    assert!(ask(&hook, "d2", "plain").await.is_some_and(|found| found.is_ok()));
    assert_eq!(service.asked.load(Ordering::SeqCst), 6, "another client is another question");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_lets_nobody_in() {
    let service = service(|number, _| {
        Some(match number {
            0 => (500, json!({"result": "allow"})),
            1 => (200, json!({"result": "maybe"})),
            2 => (200, json!({"result": "allow", "device_id": "a/#"})),
            3 => (200, json!({"result": "allow", "fleet": "x".repeat(20_000)})),
            _ => (200, json!(true)),
        })
    })
    .await;
    let hook = hook(&service, |_| ());
    for _ in 0..5 {
        assert_eq!(ask(&hook, "d1", "x").await.expect("its own").map(drop), Err(Denied::Unavailable));
    }
    assert_eq!(service.asked.load(Ordering::SeqCst), 5, "none is remembered");
}

#[tokio::test]
async fn a_service_that_hangs_is_left_alone_and_tried_again() {
    let service = service(|number, _| (number >= 2).then(|| (200, json!({"result": "allow"})))).await;
    let hook = hook(&service, |config| {
        config.http_timeout_ms = 100;
        config.http_breaker_failures = 2;
        config.http_breaker_open_ms = 300;
    });
    for _ in 0..2 {
        let started = Instant::now();
        assert_eq!(ask(&hook, "d1", "x").await.expect("its own").map(drop), Err(Denied::Unavailable));
        assert!(started.elapsed() < Duration::from_secs(3));
    }
    let opened = Instant::now();
    assert_eq!(ask(&hook, "d1", "x").await.expect("its own").map(drop), Err(Denied::Unavailable));
    assert_eq!(service.asked.load(Ordering::SeqCst), 2, "it was left alone");
    while ask(&hook, "d1", "x").await.expect("its own").is_err() {
        assert!(opened.elapsed() < Duration::from_secs(10), "it was never tried again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(opened.elapsed() >= Duration::from_millis(200), "{:?}", opened.elapsed());
}

#[tokio::test]
async fn when_the_questions_pile_up_the_next_is_told_busy() {
    let service = service(|_, _| None).await;
    let hook = hook(&service, |config| {
        config.http_timeout_ms = 2_000;
        config.http_concurrent_max = 1;
        config.http_queue_max = 1;
    });
    let (first, second) = (ask(&hook, "d1", "x"), ask(&hook, "d2", "x"));
    tokio::pin!(first, second);
    tokio::select! {
        biased;
        _ = &mut first => panic!("nobody answers"),
        _ = &mut second => panic!("nobody answers"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(ask(&hook, "d3", "x").await.expect("its own").map(drop), Err(Denied::Busy));
}

#[tokio::test]
async fn a_password_that_is_no_text_is_not_asked_about() {
    let service = service(|_, _| Some((200, json!({"result": "allow"})))).await;
    let hook = hook(&service, |_| ());
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let login =
        Credentials { client_id: "d", username: None, password: Some(&[0xff]), certificate: None, peer };
    assert_eq!(hook.check(&login).await.expect("its own").map(drop), Err(Denied::WrongSecret));
    assert_eq!(service.asked.load(Ordering::SeqCst), 0);
}

/// An authority in PEM, and what accepts TLS for `name` with a certificate of it.
fn tls_for(name: &str) -> (String, TlsAcceptor) {
    let (key, mut params) = (KeyPair::generate().expect("keys"), CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let (issuer, key) = (Issuer::new(params, key), KeyPair::generate().expect("keys"));
    let own = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let own = own.signed_by(&key, &issuer).expect("a certificate").der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own], key);
    (authority, TlsAcceptor::from(Arc::new(config.expect("a pair"))))
}

fn file(name: &str, content: &str) -> String {
    let folder = std::env::temp_dir().join(format!("fleetpulse-hook-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path.display().to_string()
}

#[tokio::test]
async fn over_https_only_a_service_whose_authority_is_known_is_asked() {
    let ((authority, tls), (foreign, _)) = (tls_for("localhost"), tls_for("localhost"));
    let (other_authority, other_tls) = tls_for("elsewhere");
    let allow = |_, _| Some((200, json!({"result": "allow"})));
    let (known, misnamed) = (serve(Some(tls), allow).await, serve(Some(other_tls), allow).await);
    let hook_of = |service: &Service, name: &str, authority: &str| {
        let (url, ca) =
            (format!("https://localhost:{}/login", service.address.port()), file(name, authority));
        hook(service, |config| (config.http_url, config.http_ca_file) = (url, ca))
    };
    let good = hook_of(&known, "known.pem", &authority);
    assert_eq!(&*ask(&good, "d1", "x").await.expect("its own").expect("allowed").name, "d1");
    // The password of a device never reaches one that is not who it should be.
    for hook in
        [hook_of(&known, "foreign.pem", &foreign), hook_of(&misnamed, "misnamed.pem", &other_authority)]
    {
        assert_eq!(ask(&hook, "d1", "x").await.expect("its own").map(drop), Err(Denied::Unavailable));
    }
    assert_eq!((known.asked.load(Ordering::SeqCst), misnamed.asked.load(Ordering::SeqCst)), (1, 0));
    let key = || Arc::new(Key::draw().expect("random"));
    let url = format!("https://{}/", known.address);
    let junk = Config { http_url: url, http_ca_file: file("junk.pem", "junk"), ..Config::default() };
    let problems = Hook::open(&junk, key()).map(drop).expect_err("no authority");
    assert!(
        problems[0].path.ends_with("junk.pem") && problems[0].message.contains("authorities"),
        "{problems:?}"
    );
}
