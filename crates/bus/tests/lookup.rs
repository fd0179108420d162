//! Single records of a real Kafka: `cargo xtask test` says where it is.

use std::time::Duration;

use bus::{Config, Lane, Lookup, Offset, Partition, Producer, Stream, topics};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn records_are_found_by_their_offsets_and_what_is_not_there_is_told() {
    let brokers = std::env::var("FLEETPULSE_TEST_KAFKA_BROKERS")
        .expect("$FLEETPULSE_TEST_KAFKA_BROKERS: this test needs a real kafka, run `cargo xtask test`");
    let name = |topic: &str| format!("test.lookup.{}.{topic}", std::process::id());
    let config = Config {
        brokers,
        events_topic: name("events"),
        dead_letters_topic: name("dead-letters"),
        commands_topic: name("commands"),
        partitions: 1,
        ..Config::default()
    };
    topics::ensure(&config).await.expect("topics");
    let producer = Producer::new(&config).expect("a client");
    for number in 0..30_000 {
        let text = number.to_string();
        let permit = producer.window().try_reserve(text.len()).expect("room");
        let delivery = producer.send(permit, Stream::Events, "device", text.as_bytes()).expect("queued");
        if number == 29_999 {
            delivery.await.expect("delivered");
        }
    }
    // Neighbours, a jump, a short way, and two that nobody wrote.
    let asked = [0, 1, 25_000, 25_003, 29_999, 30_000, 30_001].map(Offset);
    let looked_up = tokio::task::spawn_blocking(move || {
        let lookup = Lookup::new(&config).expect("a client");
        let lane = Lane { stream: Stream::Events, partition: Partition(0) };
        // The second time from the same client, as a look does it.
        lookup.read(lane, &asked[2..3], DEADLINE).expect("an answer");
        lookup.read(lane, &asked, DEADLINE).expect("an answer")
    });
    let found: Vec<(i64, Option<String>)> = looked_up
        .await
        .expect("no panic")
        .into_iter()
        .map(|one| (one.offset.0, one.payload.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
        .collect();
    let expected = asked.map(|Offset(offset)| (offset, (offset < 30_000).then(|| offset.to_string())));
    assert_eq!(found, expected);
}
