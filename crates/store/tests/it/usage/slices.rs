//! More than is read, folded and written at a time.

use store::rows::HeartbeatRow;
use uuid::{NoContext, Timestamp, Uuid};

use super::history::{END_COLUMNS, HEARTBEAT_COLUMNS};
use crate::database::Database;

/// Settled together these are several statements, folds and inserts; which devices share one must not matter.
const READINGS: [(&str, u32); 15] = [
    ("a-1", 300),
    ("a-2", 14_000),
    ("a-3", 14_000),
    ("a-4", 14_000),
    ("b-1", 1),
    ("b-2", 300),
    ("b-3", 14_000),
    ("b-4", 25_000),
    ("b-5", 14_000),
    ("c-1", 300),
    ("c-2", 2_000),
    ("c-3", 300),
    ("c-4", 14_000),
    ("c-5", 14_000),
    ("d-1", 300),
];

#[test]
fn devices_that_are_settled_together_have_the_hours_of_devices_that_are_settled_alone() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let database = |test| {
        let database = Database::of(test);
        runtime.block_on(database.store().migrate()).expect("migrated");
        database
    };
    let until_s = last_hour_s();
    let settle = |database: &Database, devices: &[(&str, u32)]| {
        // The second half is told when the first is settled: hours go on where counters stood, and some are made anew.
        for half in [Half::First, Half::Second] {
            for (device, readings) in devices {
                half.tell(database, device, *readings, until_s);
            }
            runtime.block_on(database.store().settle()).expect("settled");
        }
    };
    let together = database("usage_together");
    settle(&together, &READINGS);
    let alone = database("usage_alone");
    for device in READINGS {
        for told in ["heartbeats", "connections", "settle_runs", "settle_touched"] {
            alone.ask(&format!("TRUNCATE TABLE {told}"));
        }
        settle(&alone, &[device]);
    }
    for table in ["usage_hours", "usage_days"] {
        let by_device = format!(
            "SELECT device_id, count(), sum(cityHash64(toString(tuple(* EXCEPT settled)))) FROM {table} FINAL \
             GROUP BY device_id ORDER BY device_id"
        );
        assert_eq!(together.ask(&by_device), alone.ask(&by_device), "{table}");
    }
    let readings: u32 = READINGS.iter().map(|(_, readings)| readings).sum();
    let counted =
        together.ask("SELECT sumIf(heartbeats, source = 'modem'), count() > 20000 FROM usage_hours FINAL");
    assert_eq!(counted, format!("{readings}\t1"));
}

#[test]
fn a_device_that_tells_too_much_is_left_as_it_was_and_its_neighbours_are_settled() {
    let database = Database::of("usage_too_much");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = database.store();
    runtime.block_on(store.migrate()).expect("migrated");
    let until_s = last_hour_s();
    let devices = ["before", "floods", "later"];
    let hours = |device: &str| {
        database.ask(&format!(
            "SELECT count(), sum(cityHash64(toString(tuple(* EXCEPT settled)))), uniqExact(settled) FROM usage_hours FINAL \
             WHERE device_id = '{device}'"
        ))
    };
    for device in devices {
        Half::First.tell(&database, device, 1_000, until_s);
    }
    runtime.block_on(store.settle()).expect("settled");
    let before = devices.map(hours);

    for device in devices {
        Half::Second.tell(&database, device, 1_000, until_s);
    }
    // A gateway whose connections flap: no heartbeats, so nothing foretells how much it is.
    database.ask(&format!(
        "INSERT INTO connections ({END_COLUMNS}) SELECT 'floods', toUUID(concat('00000000-0000-7000-8001-', leftPad(hex(toUInt32(number)), 12, '0'))), \
         'disconnected', toDateTime64({until_s}, 3, 'UTC') - toIntervalMillisecond(number) AS at, at, 10, 10, 0, now() FROM numbers(300001)"
    ));
    let settled = runtime.block_on(store.settle()).expect("settled");
    assert_eq!((settled.devices, settled.refused), (2, 1));
    let [neighbour, flooding, later] = devices.map(hours);
    assert_eq!(flooding, before[1]);
    assert!(neighbour != before[0] && later != before[2]);
    let counted = database.ask(
        "SELECT groupArray((device_id, heartbeats)) FROM \
         (SELECT device_id, sum(heartbeats) AS heartbeats FROM device_hours GROUP BY device_id ORDER BY device_id)",
    );
    assert_eq!(counted, "[('before',1000),('floods',499),('later',1000)]");
}

#[test]
fn of_copies_that_came_within_a_second_the_same_one_counts_in_both_ways_of_reading() {
    let database = Database::of("usage_copies");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = database.store();
    runtime.block_on(store.migrate()).expect("migrated");
    let now_ms = super::now_ms();
    let heartbeat = |taken_ms: i64, received_ms: i64, bytes: u64| {
        let began_s = u64::try_from(received_ms / 1_000).expect("after 1970");
        HeartbeatRow {
            device_id: "twice".into(),
            device_time: taken_ms,
            identity: 7,
            received_at: received_ms,
            clock: 1,
            session_id: Uuid::new_v7(Timestamp::from_unix(NoContext, began_s, 0)),
            session_bytes_in: bytes,
            session_messages_in: 1,
            modem_tx_bytes: Some(1_000),
            kafka_offset: bytes,
            ..HeartbeatRow::default()
        }
    };
    // What it told a day ago is known, and was stored so long ago: the last hours are enough for what comes now.
    let before_ms = now_ms - 20 * 3_600_000;
    let insert = |rows: &[HeartbeatRow<'_>], token: &str| {
        runtime.block_on(store.insert(rows.iter(), token)).expect("landed");
    };
    insert(&[heartbeat(before_ms, before_ms + 50, 1)], "before");
    runtime.block_on(store.settle()).expect("settled");
    database
        .ask("ALTER TABLE heartbeats UPDATE stored_at = now() - 3600 WHERE true SETTINGS mutations_sync = 2");
    // Sent again over a new connection, and in the same batch.
    let told_ms = now_ms - 60_000;
    insert(&[heartbeat(told_ms, told_ms + 100, 2), heartbeat(told_ms, told_ms + 500, 3)], "twice");
    let settled = runtime.block_on(store.settle()).expect("settled");
    assert_eq!((settled.devices, settled.late), (1, 0), "out of the last hours");
    let hours = "SELECT source, counter, hour, heartbeats, tx_bytes, rx_bytes, messages FROM usage_hours FINAL \
                 WHERE heartbeats + tx_bytes > 0 ORDER BY ALL";
    let near = database.ask(hours);
    database.ask("TRUNCATE TABLE settle_runs");
    database.ask("TRUNCATE TABLE usage_hours");
    let settled = runtime.block_on(store.settle()).expect("settled");
    assert_eq!((settled.devices, settled.late), (1, 1), "out of all");
    assert_eq!(database.ask(hours), near);
}

/// A part of what a device tells: a reading a minute until `until_s`, and an end of a session after each 500.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    First,
    /// The later half, and a few readings of the first, which come late.
    Second,
}

impl Half {
    fn tell(self, database: &Database, device: &str, readings: u32, until_s: u64) {
        let stored = if self == Self::First { "now() - 3600" } else { "now()" };
        let told = format!(
            "SELECT number AS k, toDateTime64({until_s}, 3, 'UTC') - toIntervalMinute({readings} - k) AS received, \
             toUUID(concat('00000000-0000-7000-8000-', leftPad(hex(toUInt32(intDiv(k, 500))), 12, '0'))) AS session \
             FROM numbers({readings}) WHERE {} (k * 2 >= {readings} OR (k % 97 = 0 AND k * 20 > {readings} * 9))",
            if self == Self::First { "NOT" } else { "" }
        );
        database.ask(&format!(
            "INSERT INTO heartbeats ({HEARTBEAT_COLUMNS}) SELECT '{device}', received - toIntervalSecond(k % 7), k, received, 'device', \
             session, 200 * (k % 500), 50 * (k % 500), k % 500 + 1, concat('boot-', toString(intDiv(k, 3000))), 60 * (k % 3000), k, \
             1000 * (k % 3000), 700 * (k % 3000), if(intDiv(k, 5) % 2 = 0, 'sim-1', 'sim-2'), if(intDiv(k, 10) % 2 = 0, '26201', '26202'), \
             if(intDiv(k, 20) % 2 = 0, 'parked', 'riding'), {stored} FROM ({told})"
        ));
        database.ask(&format!(
            "INSERT INTO connections ({END_COLUMNS}) SELECT '{device}', session, 'disconnected', received + 1, received, \
             200 * 500, 50 * 500, 501, {stored} FROM ({told}) WHERE k % 500 = 499"
        ));
    }
}

/// The end of the last hour.
fn last_hour_s() -> u64 {
    u64::try_from(super::now_ms()).expect("after 1970") / 3_600_000 * 3_600
}
