//! Heartbeats of an earlier version move into the table of this one: once, whoever is killed at whatever statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::database::Database;
use crate::upgrade::of_the_first_release;

/// Heartbeats of the first release: some thousand with a clock, one that was sent twice and believed, one sent twice and not believed, and one with
/// readings beyond what the new columns hold.
const HEARTBEATS: [&str; 4] = [
    "INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, sequence, battery_percent, latitude_deg, longitude_deg, \
     rssi_dbm, session_id, kafka_offset) \
     SELECT concat('d', toString(number % 50)), now64(3) - number, number, now64(3) - number + 2, 'device', number, number % 101, \
     52.123456, -13.5, -71.5, toUUID('00000000-0000-0000-0000-000000000007'), number FROM numbers(5000)",
    "INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, kafka_offset) SELECT 'twice', \
     toDateTime64('2026-01-01 00:00:00', 3, 'UTC'), 7, now64(3) - 100 + number, 'device', 9000 + number FROM numbers(2)",
    "INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, claimed_time_ms, kafka_offset) SELECT 'clockless', \
     at, 7, at, 'implausible', -5, offset FROM (SELECT now64(3) - number AS at, 9100 + number AS offset FROM numbers(2))",
    "INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, altitude_m, rssi_dbm, kafka_offset) SELECT 'beyond', \
     now64(3), 7, now64(3), 'device', 1e30, -1e30, 9200",
];

/// All that a reader knows of them.
const READ: &str = "SELECT count(), sum(cityHash64(device_id, identity, received_at, clock, claimed_time_ms, sequence, battery_percent, latitude_deg, \
                    longitude_deg, if(device_id = 'beyond', 0, rssi_dbm), session_id)) FROM heartbeats FINAL";

fn with_heartbeats(test: &str) -> (Database, String) {
    let database = of_the_first_release(test);
    HEARTBEATS.iter().for_each(|statement| drop(database.ask(statement)));
    // Of copies the last stood, then: which of the two is no part of what is compared.
    database.ask("OPTIMIZE TABLE heartbeats FINAL");
    let known = database.ask(READ);
    assert!(known.starts_with("5004\t"), "{known}");
    (database, known)
}

#[tokio::test]
async fn heartbeats_of_before_move_once_and_read_as_they_read() {
    let (database, known) = with_heartbeats("moving");
    let status = database.ask("SELECT * FROM device_status ORDER BY device_id");
    assert!(status.starts_with("beyond"));
    database.store().migrate().await.expect("migrated");
    assert_eq!(database.ask(READ), known);
    assert_eq!(database.ask("SELECT count() FROM heartbeats"), "5004", "each is there once");
    let beyond = "SELECT rssi_dbm, altitude_m > 2e8, taken_at = device_time FROM heartbeats WHERE device_id = 'beyond'";
    assert_eq!(database.ask(beyond), "-3276.8\t1\t1", "as far as the columns reach");
    assert_eq!(database.ask("SELECT count() FROM heartbeats WHERE stored_at > now() - 60"), "5004");
    assert_eq!(database.ask("SELECT count() FROM heartbeats_before_7"), "0");
}

#[tokio::test]
async fn two_nodes_that_are_killed_again_and_again_bring_each_heartbeat_over_once() {
    let (database, known) = with_heartbeats("moving_together");
    let done = Arc::new(AtomicBool::new(false));
    let nodes = [7_u64, 11].map(|stride| {
        let (store, done) = (database.store(), done.clone());
        tokio::spawn(async move {
            // Killed after a little longer each time: somewhere in another statement.
            for lives in 1.. {
                let patience = Duration::from_millis(stride * lives);
                match tokio::time::timeout(patience, store.migrate()).await {
                    Err(_killed) if !done.load(Ordering::Relaxed) => {}
                    Err(_killed) => drop(store.migrate().await.expect("migrated")),
                    Ok(migrated) => drop(migrated.expect("no statement gets in the way of the other node's")),
                }
                if done.load(Ordering::Relaxed) || store.check_schema().await.is_ok() {
                    done.store(true, Ordering::Relaxed);
                    return lives;
                }
            }
            unreachable!("ends when it is done")
        })
    });
    for node in nodes {
        assert!(node.await.expect("no panic") > 1, "it was killed at least once");
    }
    // Statements of killed nodes may still run.
    database.store().migrate().await.expect("nothing to do");
    assert_eq!(database.ask(READ), known);
    assert_eq!(database.ask("SELECT count() FROM heartbeats_before_7"), "0");
    let leftovers =
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats_next'";
    assert_eq!(database.ask(leftovers), "0");
    let views = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND engine = 'MaterializedView' \
                 AND name LIKE '%_from_heartbeats'";
    assert_ne!(database.ask(views), "0", "what follows the table follows it again");
}

/// Stops before each statement of the migration in turn, as a node that is killed there, and lets another begin: one that knows nothing of the
/// earlier migrations, and makes the old tables again where they are missing.
#[tokio::test]
async fn a_move_that_ends_before_any_of_its_statements_is_simply_begun_again() {
    let statements =
        |sql: &'static str| sql.split(";\n").filter(|text| text.contains(|c: char| c.is_uppercase()));
    let moving: Vec<&str> = statements(include_str!("../../migrations/0007_storage.sql")).collect();
    let moved = moving.iter().position(|statement| statement.contains("TRUNCATE TABLE")).expect("it ends");
    for stops_before in 1..=moved + 1 {
        let (database, known) = with_heartbeats(&format!("moving_{stops_before}"));
        EARLIER.into_iter().flat_map(statements).for_each(|statement| drop(database.ask(statement)));
        for statement in &moving[..stops_before] {
            let guard = statement.lines().find_map(|line| line.strip_prefix("-- when: "));
            let wanted = |question: &str| database.ask(&format!("SELECT toUInt64(({question})) > 0")) == "1";
            if guard.is_none_or(wanted) {
                database.ask(statement);
            }
        }
        if stops_before % 2 == 0 {
            // As if the server had died in the middle of the renaming.
            let renamed = database.ask("EXISTS TABLE heartbeats_before_7") == "1";
            let filled = database.ask("SELECT count() > 0 FROM heartbeats") == "1";
            if renamed && !filled {
                database.ask("RENAME TABLE heartbeats TO heartbeats_next");
            }
        }
        database.store().migrate().await.expect("migrated");
        assert_eq!(database.ask(READ), known, "stopped before statement {stops_before}");
        assert_eq!(database.ask("SELECT count() FROM heartbeats_before_7"), "0");
        let name = database.name.clone();
        database.ask(&format!("DROP DATABASE {name}"));
    }
}

const EARLIER: [&str; 3] = [
    include_str!("../../migrations/0004_nodes_and_commands.sql"),
    include_str!("../../migrations/0005_batches.sql"),
    include_str!("../../migrations/0006_ledger.sql"),
];
