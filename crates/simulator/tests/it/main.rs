//! What the simulator claims, against an MQTT server in this process that answers as each test says.

mod responder;
mod tls;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use responder::{Answer, Responder, Seen, Welcome, eventually};
use simulator::{Backoff, Config, Pace, Protocol, ReasonCode, Report, SessionState, Tls, run};
use tls::Front;
use tokio_util::sync::CancellationToken;

/// Devices as fast as PUBACKs allow, with waits that suit a test.
fn config(mqtt: SocketAddr, devices: u32) -> Config {
    Config {
        pace: Pace::Saturate,
        backoff: Backoff { first: Duration::from_millis(2), max: Duration::from_millis(20) },
        drain: Duration::from_millis(200),
        ..Config::new(mqtt, devices)
    }
}

/// Runs the fleet until `enough`, and no longer than the test should ever take.
async fn run_until(config: Config, what: &str, enough: impl Fn() -> bool) -> Report {
    let stop = CancellationToken::new();
    let fleet = run(config, stop.clone(), |_| {});
    let stopper = async {
        eventually(what, enough).await;
        stop.cancel();
    };
    let (report, ()) = tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(fleet, stopper) })
        .await
        .expect("the fleet ends");
    let report = report.expect("a valid configuration");
    let counts = &report.counts;
    assert_eq!(counts.published, counts.acknowledged + counts.given_up + counts.outstanding);
    assert_eq!((counts.connecting, counts.online), (0, 0));
    assert_eq!(report.acknowledged().count() as u64, counts.acknowledged);
    assert_eq!(report.unacknowledged().count() as u64, counts.published - counts.acknowledged);
    report
}

fn acknowledged(report: &Report) -> Vec<(String, u64)> {
    report.acknowledged().map(|(device_id, seq)| (device_id.to_string(), seq)).collect()
}

fn sendings(responder: &Responder, seq: u64) -> Vec<Seen> {
    responder.seen().into_iter().filter(|seen| seen.seq() == seq).collect()
}

#[tokio::test]
async fn counts_only_what_was_acknowledged() {
    // Every third heartbeat is left without an answer until the device's window is full of them.
    let responder = Responder::start(Welcome::Accept, |seen| match seen.seq() % 3 {
        1 => Answer::Hold,
        _ => Answer::Acknowledge(0),
    })
    .await;
    let config = Config { in_flight: 8, ..config(responder.address, 10) };
    // Held: 1, 4, .., 22; answered between them: 0, 2, 3, .., 21. That is 23 for each device.
    let report = run_until(config, "all windows full", || responder.seen_count() == 230).await;
    assert_eq!(acknowledged(&report), responder.acknowledged());
    assert_eq!((report.counts.acknowledged, report.counts.outstanding), (150, 80));
    assert!(report.unacknowledged().all(|(_, seq)| seq % 3 == 1));
    assert!(report.puback_ms.max > 0.0);
}

#[tokio::test]
async fn the_acknowledged_list_is_exact() {
    let responder = Responder::start(Welcome::Accept, |seen| match (seen.device_id.as_str(), seen.seq()) {
        ("device-000000", 0..2) | ("device-000001", 0..1) => Answer::Acknowledge(0),
        _ => Answer::Hold,
    })
    .await;
    let config = config(responder.address, 2);
    let report = run_until(config, "both wait", || responder.seen_count() == 5).await;
    let mut lines = Vec::new();
    report.write_acknowledged(&mut lines).expect("written");
    assert_eq!(
        String::from_utf8(lines).expect("text"),
        "device-000000\t0\ndevice-000000\t1\ndevice-000001\t0\n"
    );
}

#[tokio::test]
async fn a_withheld_puback_is_outstanding_and_not_acknowledged() {
    let responder = Responder::start(Welcome::Accept, |_| Answer::Hold).await;
    let config = Config { protocol: Protocol::V311, ..config(responder.address, 1) };
    let report = run_until(config, "one sent", || responder.seen_count() == 1).await;
    assert_eq!((report.counts.outstanding, report.counts.acknowledged), (1, 0));
    assert_eq!(report.acknowledged().count(), 0);
    assert_eq!(report.unacknowledged().map(|(_, seq)| seq).collect::<Vec<_>>(), [0]);
    assert_eq!(sendings(&responder, 0)[0].topic, "devices/device-000000/heartbeat");
}

#[tokio::test]
async fn resends_the_same_bytes_after_a_reconnect() {
    for (protocol, state, welcome) in [
        (Protocol::V311, SessionState::Fresh, Welcome::Accept),
        (Protocol::V5, SessionState::Fresh, Welcome::Accept),
        (Protocol::V311, SessionState::Kept, Welcome::Resume),
        (Protocol::V5, SessionState::Kept, Welcome::Resume),
        (Protocol::V5, SessionState::Kept, Welcome::Accept),
    ] {
        let responder = Responder::start(welcome, |seen| match (seen.connection, seen.seq()) {
            (0, 0..2) => Answer::Acknowledge(0),
            (0, 2) => Answer::Hold,
            (0, _) => Answer::Close,
            (_, 0..10) => Answer::Acknowledge(0),
            _ => Answer::Hold,
        })
        .await;
        let config = Config { protocol, session_state: state, in_flight: 2, ..config(responder.address, 1) };
        let report = run_until(config, "sent on", || responder.acknowledged().len() == 10).await;
        assert_eq!(report.counts.reconnects, 1);
        assert_eq!(report.counts.resent, 2);
        assert_eq!(acknowledged(&report), responder.acknowledged());
        for seq in [2, 3] {
            let sendings = sendings(&responder, seq);
            let [first, second] = sendings.as_slice() else { panic!("sent {} times", sendings.len()) };
            assert_eq!(first.payload, second.payload);
            assert!(!first.dup);
            let same_session = welcome == Welcome::Resume;
            assert_eq!(second.dup, same_session, "DUP only in the same session");
            assert!(!same_session || first.packet_id == second.packet_id);
        }
    }
}

#[tokio::test]
async fn a_negative_puback_is_not_acknowledged() {
    // 0 is refused for good; 1 twice for now; 2 has no matching subscribers, which is a success.
    let responder = Responder::start(Welcome::Accept, {
        let refusals = std::sync::atomic::AtomicU32::new(0);
        move |seen| match seen.seq() {
            0 => Answer::Acknowledge(0x87),
            1 if refusals.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 => Answer::Acknowledge(0x97),
            2 => Answer::Acknowledge(0x10),
            1 | 3..6 => Answer::Acknowledge(0),
            _ => Answer::Hold,
        }
    })
    .await;
    let config = Config { protocol: Protocol::V5, ..config(responder.address, 1) };
    // The window of one may be taken by a held heartbeat before the refused one goes again: it is kept open.
    let config = Config { in_flight: 2, stored_max: 2, ..config };
    let report = run_until(config, "all but 0 acknowledged", || responder.acknowledged().len() == 5).await;
    let seqs: Vec<_> = report.acknowledged().map(|(_, seq)| seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(report.counts.given_up, 1);
    assert_eq!(report.counts.refused[&ReasonCode(0x87)], 1);
    assert_eq!(report.counts.refused[&ReasonCode(0x97)], 2);
    let again = sendings(&responder, 1);
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|seen| seen.payload == again[0].payload && !seen.dup));
    assert_eq!(sendings(&responder, 0).len(), 1);
}

#[tokio::test]
async fn stops_in_bounded_time_when_the_server_never_answers() {
    for welcome in [Welcome::Ignore, Welcome::Refuse, Welcome::Accept] {
        let responder = Responder::start(welcome, |_| Answer::Hold).await;
        let config = config(responder.address, 20);
        let drain = config.drain;
        let stop = CancellationToken::new();
        let stopped = async {
            eventually("devices try", || match welcome {
                Welcome::Accept | Welcome::Resume => responder.seen_count() == 20,
                Welcome::Ignore => responder.connections() == 20,
                // More attempts than devices: some have been refused before.
                Welcome::Refuse => responder.connections() > 20,
            })
            .await;
            stop.cancel();
            Instant::now()
        };
        let (report, stopped) = tokio::join!(run(config, stop.clone(), |_| {}), stopped);
        // The rest is for a busy machine.
        assert!(stopped.elapsed() < drain + Duration::from_secs(5));
        let counts = report.expect("valid").counts;
        assert_eq!(counts.acknowledged, 0);
        assert_eq!(counts.connect_refused.is_empty(), welcome != Welcome::Refuse);
    }
}

#[tokio::test]
async fn stops_at_once_when_nothing_is_outstanding() {
    let responder = Responder::start(Welcome::Accept, |_| Answer::Acknowledge(0)).await;
    let drain = Duration::from_secs(3_600);
    let duration = Some(Duration::from_millis(50));
    let config = Config { drain, duration, in_flight: 4, ..config(responder.address, 8) };
    let report = run_until(config, "nothing", || true).await;
    assert_eq!(report.counts.outstanding, 0);
    assert_eq!(acknowledged(&report), responder.acknowledged());
}

#[tokio::test]
async fn a_full_store_withholds() {
    let responder = Responder::start(Welcome::Accept, |_| Answer::Hold).await;
    let pace = Pace::Interval(Duration::from_millis(1));
    let config = Config { pace, in_flight: 2, stored_max: 5, ..config(responder.address, 1) };
    let stop = CancellationToken::new();
    let report = run(config, stop.clone(), |snapshot| {
        if snapshot.counts.withheld > 0 {
            stop.cancel();
        }
    });
    let report = tokio::time::timeout(Duration::from_secs(20), report).await.expect("ends").expect("valid");
    assert_eq!((report.counts.published, report.counts.waiting), (2, 3));
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["outstanding"], 2);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let responder = Responder::start(Welcome::Accept, |seen| match seen.connection {
        0 => Answer::Hold,
        _ => Answer::Acknowledge(0),
    })
    .await;
    let config = Config { reply_timeout: Duration::from_millis(50), ..config(responder.address, 1) };
    let report = run_until(config, "on again", || !responder.acknowledged().is_empty()).await;
    assert!(report.counts.lost.silent >= 1);
    assert_eq!(sendings(&responder, 0).len(), 2);
}

#[tokio::test]
async fn a_disconnect_of_the_server_is_counted_by_its_reason() {
    let responder = Responder::start(Welcome::Accept, |seen| match seen.connection {
        0 => Answer::Disconnect,
        _ => Answer::Acknowledge(0),
    })
    .await;
    let config = Config { protocol: Protocol::V5, ..config(responder.address, 1) };
    let report = run_until(config, "on again", || !responder.acknowledged().is_empty()).await;
    assert_eq!(report.counts.disconnected[&ReasonCode(0x8b)], 1);
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["disconnected"]["0x8b"], 1);
}

#[tokio::test]
async fn a_device_with_nothing_to_say_pings() {
    let responder = Responder::start(Welcome::Accept, |_| Answer::Acknowledge(0)).await;
    let pace = Pace::Interval(Duration::from_secs(3_600));
    let config = Config { pace, keep_alive: Duration::from_secs(1), ..config(responder.address, 2) };
    let report = run_until(config, "each pings", || responder.pings() >= 2).await;
    assert_eq!(report.counts.reconnects, 0);
}

#[tokio::test]
async fn dropping_the_run_ends_every_connection() {
    let responder = Responder::start(Welcome::Accept, |_| Answer::Hold).await;
    let fleet = run(config(responder.address, 5), CancellationToken::new(), |_| {});
    tokio::select! {
        _ = fleet => panic!("nobody stopped it"),
        () = eventually("all connected", || responder.seen_count() == 5) => {}
    }
    eventually("all connections closed", || responder.open() == 0).await;
}

#[tokio::test]
async fn a_fleet_that_lost_its_network_comes_back_with_the_tls_session_of_each_device() {
    let responder = Responder::start(Welcome::Accept, |_| Answer::Acknowledge(0)).await;
    let front = Front::start(responder.address).await;
    let config = Config {
        tls: Some(Tls::trusting(front.authority.as_bytes(), "localhost").expect("an authority")),
        reconnect_after: Some(Duration::from_millis(100)),
        pace: Pace::Interval(Duration::from_millis(5)),
        ..config(front.address, 20)
    };
    let stop = CancellationToken::new();
    let fleet = run(config, stop.clone(), |snapshot| {
        if snapshot.milestones.online_again_s.is_some() {
            stop.cancel();
        }
    });
    let report = tokio::time::timeout(Duration::from_secs(30), fleet).await.expect("it comes back");
    let report = report.expect("a valid configuration");
    assert_eq!((report.counts.tls_full, report.counts.tls_resumed), (20, 20));
    assert_eq!((report.counts.reconnects, report.counts.connect_failed), (20, 0));
    assert_eq!(acknowledged(&report), responder.acknowledged());
}

#[test]
fn what_cannot_be_trusted_is_said() {
    assert!(Tls::trusting(b"", "localhost").is_err(), "nobody");
    assert!(
        Tls::trusting(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "localhost").is_err()
    );
}
