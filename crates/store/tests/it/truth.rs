//! Sessions, status and availability: what the oracle (`tests/oracle`) does not ask. How they are read, what a migration finds, and
//! readings that stand longer than the heartbeat that told them.

use crate::database::Database;

async fn migrated(test: &str) -> Database {
    let database = Database::of(test);
    database.store().migrate().await.expect("migrated");
    database
}

fn heartbeat(database: &Database, device: &str, ago: u32, readings: &str, values: &str) {
    database.ask(&format!(
        "INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, session_id, session_messages_in{readings}) \
         VALUES ('{device}', now64(3) - {ago}, {ago}, now64(3) - {ago}, 'device', generateUUIDv7(), 1{values})"
    ));
}

#[tokio::test]
async fn a_heartbeat_without_a_position_leaves_the_last_known_one() {
    let database = migrated("last_known").await;
    heartbeat(&database, "a", 10, ", firmware, battery_e2", ", '2.0', 5000");
    heartbeat(&database, "a", 300, ", latitude_e6, longitude_e6, firmware", ", 52500000, 13400000, '1.0'");
    let known = "SELECT latitude_deg, longitude_deg, position_at = (SELECT min(device_time) FROM heartbeats), \
                 firmware, battery_percent, firmware_at = (SELECT max(device_time) FROM heartbeats) FROM ";
    let expected = "52.5\t13.4\t1\t2.0\t50\t1";
    assert_eq!(database.ask(&format!("{known} device_status")), expected);
    let then = format!("{known} device_status_at(at = now64(3), device = 'a')");
    assert_eq!(database.ask(&then), expected, "the same words for any time");
    let before =
        "SELECT firmware, isNull(battery_percent) FROM device_status_at(at = now64(3) - 100, device = '')";
    assert_eq!(database.ask(before), "1.0\t1", "what came later was not known then");
}

#[tokio::test]
async fn one_devices_sessions_are_read_by_key() {
    let database = migrated("sessions_by_key").await;
    database.presence("a", "connected", "n", 5, 100);
    heartbeat(&database, "a", 50, "", "");
    let plan = database.ask("EXPLAIN indexes = 1 SELECT * FROM sessions WHERE device_id = 'a'");
    let by_key = plan.matches("Condition: (device_id in [\\'a\\', \\'a\\'])").count();
    assert_eq!(by_key, 2, "connections and session_signs: {plan}");
    let span = "since = now64(3) - 200, until = now64(3)";
    let whole = format!(
        "SELECT online_ms + silent_ms + offline_ms + unknown_ms + never_seen_ms FROM availability({span}, device = 'a', fleet = '')"
    );
    let whole: u32 = database.ask(&whole).parse().expect("a number");
    assert!((199_000..=200_000).contains(&whole), "{whole} ms of 200 s");
}

#[tokio::test]
async fn a_fleets_availability_is_that_of_its_devices_and_reads_them_by_key() {
    let database = migrated("availability_of_fleet").await;
    for (number, (device, fleet, ago)) in
        [("a", "x", 900), ("b", "y", 800), ("moved", "x", 700), ("moved", "y", 300)].iter().enumerate()
    {
        database.ask(&format!(
            "INSERT INTO connections (device_id, session_id, event, at, connected_at, node_id, epoch, fleet) VALUES \
             ('{device}', '00000000-0000-0000-0000-00000000000{number}', 'connected', now64(3) - {ago}, now64(3) - {ago}, 'n', 5, '{fleet}')"
        ));
        heartbeat(&database, device, ago - 50, ", next_s", ", 30");
    }
    let now = database.ask("SELECT now64(3)");
    let of = |fleet: &str| {
        format!(
            "availability(since = toDateTime64('{now}', 3) - 600, until = toDateTime64('{now}', 3), device = '', fleet = '{fleet}')"
        )
    };
    for (fleet, devices) in [("x", "1"), ("y", "2"), ("z", "0")] {
        let found = database.ask(&format!("SELECT * FROM {} ORDER BY device_id", of(fleet)));
        let among_all = format!("SELECT * FROM {} WHERE fleet = '{fleet}' ORDER BY device_id", of(""));
        assert_eq!(found, database.ask(&among_all), "{fleet}");
        assert_eq!(database.ask(&format!("SELECT count() FROM {}", of(fleet))), devices, "{fleet}");
    }
    let plan = database.ask(&format!("EXPLAIN indexes = 1 SELECT * FROM {}", of("x")));
    let by_key = plan.matches("Condition: (device_id in 2-element set)").count();
    assert_eq!(by_key, 3, "connections, session_signs and heartbeats: {plan}");
}

#[tokio::test]
async fn a_device_that_flaps_is_named_with_its_hour() {
    let database = migrated("flaps").await;
    for ago in 1..=5 {
        database.presence("restless", "connected", "n", 5, ago);
    }
    database.presence("calm", "connected", "n", 5, 1);
    let flaps = "SELECT device_id, sum(sessions), sum(take_overs) FROM \
                 device_flaps(since = now64(3) - 3600, until = now64(3) + 1, per_hour = 2) GROUP BY device_id";
    // Over the turn of an hour they may be two rows, of which one may be too few.
    let flaps = database.ask(flaps);
    assert!(flaps.starts_with("restless\t"), "{flaps}");
    assert!(!flaps.contains("calm"), "{flaps}");
}

#[tokio::test]
async fn what_heartbeats_said_before_the_migration_is_known_after_it() {
    let database = migrated("truth_late").await;
    for table in ["device_newest", "session_signs"] {
        database.ask(&format!("DROP VIEW {table}_from_heartbeats"));
    }
    heartbeat(&database, "old", 60, ", firmware", ", '1.0'");
    let known = "SELECT device_id, status, firmware, (SELECT count() FROM sessions) FROM device_status";
    assert_eq!(database.ask(known), "");
    database.ask("DELETE FROM schema_migrations WHERE version >= 10");
    for table in ["device_newest", "session_signs"] {
        database.ask(&format!("DROP TABLE {table}"));
    }
    let applied = database.store().migrate().await.expect("migrated");
    assert_eq!(applied.len(), 7);
    assert_eq!(database.ask(known), "old\tonline\t1.0\t1");
}
