//! The commands topic on a real Kafka: `cargo xtask test` says where it is.

use std::time::Duration;

use bus::{Broadcast, Config, Heard, Producer, Stream, topics};

/// Far above what it takes: a slow machine is no failure.
const DEADLINE: Duration = Duration::from_secs(60);
const AN_HOUR: Duration = Duration::from_secs(3_600);

/// Topics of this test and this run alone.
async fn kafka(test: &str) -> Config {
    let brokers = std::env::var("FLEETPULSE_TEST_KAFKA_BROKERS")
        .expect("$FLEETPULSE_TEST_KAFKA_BROKERS: this test needs a real kafka, run `cargo xtask test`");
    let name = |topic: &str| format!("test.{test}.{}.{topic}", std::process::id());
    let config = Config {
        brokers,
        events_topic: name("events"),
        dead_letters_topic: name("dead-letters"),
        commands_topic: name("commands"),
        partitions: 3,
        ..Config::default()
    };
    assert_eq!(topics::ensure(&config).await.expect("topics").len(), 3);
    config
}

async fn say(producer: &Producer, key: &str, text: &str) {
    let permit = producer.window().try_reserve(text.len()).expect("room");
    let sent = producer.send(permit, Stream::Commands, key, text.as_bytes()).expect("queued");
    sent.await.expect("delivered");
}

/// What comes until `last` has come.
async fn until(broadcast: &mut Broadcast, last: &Heard) -> Vec<Heard> {
    let mut heard = Vec::new();
    let all = async {
        while heard.last().is_none_or(|next| !same(next, last)) {
            heard.push(broadcast.next().await.expect("the thread lives"));
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("in time");
    heard
}

fn text(text: &str) -> Heard {
    Heard::Record { place: (bus::Partition(0), bus::Offset(0)), payload: text.into() }
}

fn same(one: &Heard, other: &Heard) -> bool {
    match (one, other) {
        (Heard::CaughtUp, Heard::CaughtUp) => true,
        (Heard::Record { payload: one, .. }, Heard::Record { payload: other, .. }) => one == other,
        _ => false,
    }
}

fn texts(heard: &[Heard]) -> Vec<String> {
    let payload = |heard: &Heard| match heard {
        Heard::Record { payload, .. } => Some(String::from_utf8_lossy(payload).into_owned()),
        Heard::CaughtUp => None,
    };
    let mut texts: Vec<String> = heard.iter().filter_map(payload).collect();
    texts.sort();
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_hears_all_that_was_said_then_that_it_caught_up_then_the_rest() {
    let config = kafka("broadcast_all").await;
    let producer = Producer::new(&config).expect("a client");
    for number in 0..20 {
        say(&producer, &format!("device-{number}"), &format!("before-{number:02}")).await;
    }
    let mut readers = [0, 1].map(|_| Broadcast::start(&config, AN_HOUR).expect("a reader"));
    for reader in &mut readers {
        let before = until(reader, &Heard::CaughtUp).await;
        let expected: Vec<String> = (0..20).map(|number| format!("before-{number:02}")).collect();
        assert_eq!(texts(&before), expected);
    }
    say(&producer, "device-1", "after").await;
    for reader in &mut readers {
        assert_eq!(texts(&until(reader, &text("after")).await), ["after"]);
    }
    for mut reader in readers {
        tokio::task::spawn_blocking(move || reader.end()).await.expect("ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_history_is_not_read_and_nothing_after_is_missed() {
    let config = kafka("broadcast_history").await;
    let producer = Producer::new(&config).expect("a client");
    say(&producer, "device-1", "old").await;
    let pause = Duration::from_millis(1_100);
    tokio::time::sleep(pause).await;
    let mut reader = Broadcast::start(&config, Duration::from_secs(1)).expect("a reader");
    assert_eq!(texts(&until(&mut reader, &Heard::CaughtUp).await), [""; 0], "nothing is young enough");
    for number in 0..5 {
        say(&producer, &format!("device-{number}"), &format!("new-{number}")).await;
    }
    let mut heard = Vec::new();
    while heard.len() < 5 {
        let next = tokio::time::timeout(DEADLINE, reader.next()).await.expect("in time");
        heard.push(next.expect("the thread lives"));
    }
    assert_eq!(texts(&heard), ["new-0", "new-1", "new-2", "new-3", "new-4"]);
    tokio::task::spawn_blocking(move || reader.end()).await.expect("ended");
}
