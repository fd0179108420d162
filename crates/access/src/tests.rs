//! The whole: the order of sources, client ids, reloading, and that no secret is ever printed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

const SECRET: &str = "0123456789abcdefghijklmnop-secret";

fn file(name: &str, content: &str) -> String {
    let folder: PathBuf = std::env::temp_dir().join(format!("fleetpulse-access-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path.display().to_string()
}

fn login<'a>(client_id: &'a str, username: Option<&'a str>, password: Option<&'a str>) -> Credentials<'a> {
    let password = password.map(str::as_bytes);
    Credentials { client_id, username, password, certificate: None, peer: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

fn hash() -> String {
    hash_secret(SECRET.as_bytes(), Cost::Machine).expect("a hash")
}

fn with_secrets(name: &str, text: &str, change: impl FnOnce(&mut Config)) -> Access {
    let mut config = Config {
        chain: vec![Source::Secrets],
        secrets_file: file(name, text),
        reload_poll_ms: 50,
        ..Config::default()
    };
    change(&mut config);
    Access::open(config).expect("files")
}

#[tokio::test]
async fn anonymous_believes_the_client_id_and_names_who_has_none() {
    let access =
        Access::open(Config { chain: vec![Source::Anonymous], ..Config::default() }).expect("no files");
    let grant = access.authenticate(login("d1", None, None)).await.expect("everybody");
    assert_eq!((grant.principal.kind, &*grant.principal.name), (Kind::Device, "d1"));
    assert!(
        access.still_valid(&grant)
            && access.allows(&grant.principal, Action::Publish, "devices/d1/heartbeat")
    );
    let nameless = access.authenticate(login("", None, None)).await.expect("everybody");
    assert!(nameless.principal.name.starts_with("anonymous-"));
    assert!(matches!(access.authenticate(login("a/#", None, None)).await, Err(Denied::Name(_))));
}

#[tokio::test]
async fn the_first_source_whose_client_it_is_decides() {
    let chain = vec![Source::Certificate, Source::Secrets, Source::Anonymous];
    let access = with_secrets("order", &format!("d1 {}\n", hash()), |config| config.chain = chain);
    assert!(access.authenticate(login("d1", Some("d1"), Some(SECRET))).await.is_ok());
    assert!(access.authenticate(login("d2", None, None)).await.is_ok());
    for (username, password) in [(Some("d1"), Some("guess")), (None, None), (Some("d2"), Some("x"))] {
        let denied = access.authenticate(login("d1", username, password)).await.expect_err("d1 has a secret");
        assert!(denied == Denied::WrongSecret && denied.is_credentials());
    }
    let alone = with_secrets("alone", &format!("d1 {}\n", hash()), |_| ());
    assert_eq!(alone.authenticate(login("d2", None, None)).await, Err(Denied::Unknown));
}

#[tokio::test]
async fn a_device_connects_under_its_own_name_unless_it_is_said_otherwise() {
    let text = format!("d1 {0}\nbilling {0} kind=service\n", hash());
    let strict = with_secrets("strict", &text, |_| ());
    let ask = |access: &Access, client_id: &'static str, name: &'static str| {
        let access = access.clone();
        async move {
            access
                .authenticate(login(client_id, Some(name), Some(SECRET)))
                .await
                .map(|grant| grant.principal.name.to_string())
        }
    };
    assert_eq!(ask(&strict, "d1", "d1").await, Ok("d1".into()));
    assert_eq!(ask(&strict, "", "d1").await, Ok("d1".into()));
    assert_eq!(ask(&strict, "d2", "d1").await, Err(Denied::ClientIdMismatch));
    assert_eq!(ask(&strict, "billing-7", "billing").await, Ok("billing".into()));
    let any = with_secrets("any", &text, |config| config.client_id = ClientId::Any);
    assert_eq!(ask(&any, "d2", "d1").await, Ok("d1".into()));
}

#[test]
fn every_mistake_in_every_file_is_told_at_once() {
    let config = Config {
        chain: vec![Source::Secrets, Source::Jwt],
        acl_file: file("bad-acl", "[[rule]]\n"),
        secrets_file: file("bad-secrets", "d1\nd2 x\n"),
        jwt_secret_file: file("bad-secret", "short"),
        certificate_crl_file: "/nowhere/crl.pem".into(),
        ..Config::default()
    };
    let error = Access::open(config).expect_err("mistakes").to_string();
    for part in
        ["bad-acl:1", "bad-secrets:1", "bad-secrets:2", "bad-secret: ", "/nowhere/crl.pem: cannot be read"]
    {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_file_that_changes_is_read_and_one_with_mistakes_is_not() {
    let text = format!("d1 {0}\nd2 {0}\n", hash());
    let access = with_secrets("watched", &text, |_| ());
    let grants = [
        access.authenticate(login("d1", None, Some(SECRET))).await.expect("good"),
        access.authenticate(login("d2", None, Some(SECRET))).await.expect("good"),
    ];
    let (ask, asked) = watch::channel(0);
    let (reloads, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let count = Arc::clone(&reloads);
    let on_reload = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let watching = tokio::spawn(access.clone().watch(asked, on_reload, stop.clone()));
    let valid = || [access.still_valid(&grants[0]), access.still_valid(&grants[1])];

    file("watched", &text.replace("d1 ", "d3 "));
    eventually("a removed secret ends its session", || valid() == [false, true]).await;
    assert!(access.authenticate(login("d3", None, Some(SECRET))).await.is_ok());

    // The rules and the rest are read; the secrets keep what they were.
    let before = reloads.load(Ordering::SeqCst);
    file("watched", "d1\n");
    ask.send(1).expect("it watches");
    eventually("a tick is heard", || reloads.load(Ordering::SeqCst) > before).await;
    assert_eq!(valid(), [false, true]);

    // Nobody asks any more: changes are still seen.
    drop(ask);
    file("watched", &text);
    eventually("a mended file is read", || valid() == [true, true]).await;
    // The same name with another secret is another credential.
    file("watched", &format!("d1 {}\nd2 {}\n", hash(), hash()));
    eventually("a changed secret ends its session", || valid() == [false, false]).await;
    stop.cancel();
    watching.await.expect("it ends");
}

#[tokio::test]
async fn no_debug_and_no_error_has_a_secret() {
    let text = format!("d1 {}\n", hash());
    let access = with_secrets("debug", &text, |config| {
        config.chain.push(Source::Jwt);
        config.jwt_secret_file = file("debug-key", &format!("{SECRET}\n"));
        config.http_url = format!("http://user:{SECRET}@127.0.0.1:1/");
    });
    let credentials = login("d1", Some(SECRET), Some(SECRET));
    let grant = access.authenticate(login("d1", Some("d1"), Some(SECRET))).await.expect("good");
    let denied =
        access.authenticate(login("d1", Some("d1"), Some("wrong-secret-of-mine"))).await.expect_err("wrong");
    let printed = format!("{access:?} {credentials:?} {grant:?} {denied:?} {denied}");
    let bytes = format!("{:?}", SECRET.as_bytes());
    let hash = text.split_whitespace().nth(1).expect("a hash");
    for secret in [SECRET, &bytes, hash, "wrong-secret-of-mine"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
