//! Entries, and the cost of checking them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::*;
use crate::hash::{Cost, hash_secret};

fn credentials<'a>(client_id: &'a str, username: Option<&'a str>, password: &'a str) -> Credentials<'a> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Credentials { client_id, username, password: Some(password.as_bytes()), certificate: None, peer }
}

fn checker(workers: u32, waiting_max: u32) -> Checker {
    Checker::new(Gate::new(workers, waiting_max), Arc::new(Key::draw().expect("random")))
}

async fn verdict(
    checker: &Checker,
    secrets: &Secrets,
    credentials: Credentials<'_>,
) -> Option<Result<String, Denied>> {
    let verdict = checker.check(secrets, &credentials).await?;
    Some(verdict.map(|found| format!("{:?} {} {:?}", found.kind, found.name, found.fleet)))
}

#[tokio::test]
async fn an_entry_says_yes_to_its_secret_alone() {
    let hash = hash_secret(b"open sesame", Cost::Person).expect("a hash");
    let text = format!("# fleet\n\n d1  {hash}\taa:bb:cc\n")
        .replace("\taa:bb:cc", &format!("\naa:bb:cc {hash} kind=service fleet=acme"));
    let secrets = Secrets::parse("secrets", &text).expect("entries");
    let checker = checker(1, 10);
    let ask = |client_id, username, password| {
        verdict(&checker, &secrets, credentials(client_id, username, password))
    };
    assert_eq!(ask("d1", Some("d1"), "open sesame").await, Some(Ok("Device d1 None".into())));
    assert_eq!(ask("d1", None, "open sesame").await, Some(Ok("Device d1 None".into())));
    assert_eq!(
        ask("x", Some("aa:bb:cc"), "open sesame").await,
        Some(Ok("Service aa:bb:cc Some(\"acme\")".into()))
    );
    assert_eq!(ask("d1", Some("d1"), "open barley").await, Some(Err(Denied::WrongSecret)));
    assert_eq!(ask("d1", Some("d1"), "").await, Some(Err(Denied::WrongSecret)));
    assert_eq!(ask("d9", Some("d9"), "open sesame").await, None);
    // Otherwise "anonymous", asked next, would believe the client id.
    assert_eq!(ask("d1", Some("d9"), "x").await, Some(Err(Denied::WrongSecret)));
}

#[test]
fn every_mistake_names_its_line_and_no_hash() {
    let hash = hash_secret(b"open sesame", Cost::Person).expect("a hash");
    let text = format!(
        "d1 {hash}\nd2\nd/3 {hash}\nd4 nonsense\nd5 {hash} owner=x\nd1 {hash}\nd6 {hash} kind=robot\n"
    );
    let problems = Secrets::parse("secrets", &text).expect_err("mistakes");
    let lines: Vec<Option<usize>> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 7].map(Some), "{problems:?}");
    assert!(
        problems
            .iter()
            .all(|problem| !problem.message.contains(&hash) && !problem.message.contains("nonsense"))
    );
}

#[tokio::test]
async fn a_fleet_that_reconnects_is_let_in_from_memory() {
    const DEVICES: usize = 200;
    let hash = hash_secret(b"0123456789abcdefghijklmnop", Cost::Machine).expect("a hash");
    let names: Vec<String> = (0..DEVICES).map(|n| format!("d{n}")).collect();
    let text: String = names.iter().map(|name| format!("{name} {hash}\n")).collect();
    let secrets = Secrets::parse("secrets", &text).expect("entries");
    let checker = checker(2, 2_000);
    let all = async || {
        for name in &names {
            let login = credentials(name, Some(name), "0123456789abcdefghijklmnop");
            assert!(matches!(verdict(&checker, &secrets, login).await, Some(Ok(_))));
        }
    };
    all().await;
    let started = Instant::now();
    for _ in 0..10 {
        all().await;
    }
    // 2,000 logins; one hash of a person's secret takes 20 ms, so 40 s without memory.
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let wrong = credentials("d1", Some("d1"), "0123456789abcdefghijklmnoq");
    assert_eq!(verdict(&checker, &secrets, wrong).await, Some(Err(Denied::WrongSecret)));
    // A file that is read anew keeps what was found right, where the line is the same.
    let text = text.replacen("d0 ", "dx ", 1);
    let again = Secrets::parse("secrets", &text).expect("entries");
    again.remember(&secrets);
    let known = |secrets: &Secrets, name: &str| secrets.0[name].right.lock().expect("a lock").is_some();
    assert!(known(&again, "d1") && !known(&again, "dx"));
}

#[tokio::test]
async fn when_the_queue_is_full_the_next_is_told_busy() {
    let hash = hash_secret(b"open sesame", Cost::Person).expect("a hash");
    let secrets = Secrets::parse("secrets", &format!("d1 {hash}\n")).expect("an entry");
    let checker = checker(1, 1);
    let first = checker.gate.enter().await.expect("free");
    let waits = verdict(&checker, &secrets, credentials("d1", None, "open sesame"));
    tokio::pin!(waits);
    tokio::select! {
        biased;
        _ = &mut waits => panic!("the worker is taken"),
        () = std::future::ready(()) => {}
    }
    let next = verdict(&checker, &secrets, credentials("d1", None, "open sesame")).await;
    assert_eq!(next, Some(Err(Denied::Busy)));
    drop(first);
    assert!(matches!(waits.await, Some(Ok(_))));
}
