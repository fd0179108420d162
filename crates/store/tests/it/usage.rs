//! Usage is what the raw rows say: settled hours and days equal those of a slow fold over the whole history, whatever was late, came
//! twice, wrapped, was reset or told by a wrong clock, and in whatever order it arrived between the runs.

mod history;
mod oracle;
mod slices;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::database::Database;
pub(crate) use history::History;
use history::{Op, Row};
use oracle::{Key, Usage};

/// Hundreds of them: `FLEETPULSE_ORACLE_CASES=500`.
const CASES: u32 = 12;

#[test]
fn settled_usage_equals_a_fold_over_the_whole_history() {
    let database = Database::of("usage_oracle");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = database.store();
    runtime.block_on(store.migrate()).expect("migrated");
    let cases =
        std::env::var("FLEETPULSE_ORACLE_CASES").map_or(CASES, |cases| cases.parse().expect("a number"));
    let config = Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let histories = proptest::collection::vec(proptest::collection::vec(history::op(), 1..60), 1..4);
    let shuffles = any::<u64>();
    let near = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(&(histories, shuffles), |(devices, shuffle)| {
            let told = tell(&devices, shuffle);
            empty(&database);
            for (phase, rows) in told.phases.iter().enumerate() {
                insert(&database, rows, phase == 0);
                runtime.block_on(store.settle()).expect("settled");
            }
            compare(&database, &told.rows)?;
            near.set(near.get() + read_near(&database));
            // Settled again, it is the same.
            database.ask("TRUNCATE TABLE settle_runs");
            runtime.block_on(store.settle()).expect("settled");
            compare(&database, &told.rows)
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(near.get() > 0, "no device was settled from near");
}

#[test]
fn a_settled_counter_is_what_the_device_moved() {
    // Two boots; a wrap of 32 bits in the first; a modem that restarts alone in the second; a buffer that is drained late and twice.
    let ops = [
        Op::CounterAt(4_294_967_000),
        Op::Beat,
        Op::Move(500),
        Op::Wait(20),
        Op::Beat,
        Op::Reboot,
        Op::Move(40),
        Op::Buffer,
        Op::Beat,
        Op::Wait(90),
        Op::Move(60),
        Op::Beat,
        Op::Drain,
        Op::Copy(30),
        Op::ModemRestart,
        Op::Move(7),
        Op::Wait(5),
        Op::Beat,
    ];
    let database = Database::of("usage_moved");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = database.store();
    runtime.block_on(store.migrate()).expect("migrated");
    let rows = history::rows("a", &ops, now_ms());
    insert(&database, &rows, false);
    runtime.block_on(store.settle()).expect("settled");
    // The first heartbeat tells all that the counter held; then 500 and 40 and 60 and 7 more were moved.
    let moved: u64 = 4_294_967_000 + 500 + 40 + 60 + 7;
    assert_eq!(
        database.ask("SELECT sum(modem_tx_bytes), sum(heartbeats) FROM device_hours"),
        format!("{moved}\t5")
    );
    assert_eq!(
        database.ask("SELECT sum(modem_tx_bytes), sum(heartbeats) FROM device_days"),
        format!("{moved}\t5")
    );
}

/// A fleet settles in three runs, on a database that holds nothing yet: its hours and days are the oracle's.
pub(crate) fn settles_as_the_oracle_says(database: &Database, runtime: &tokio::runtime::Runtime) {
    let mut runner = TestRunner::deterministic();
    let devices = proptest::collection::vec(proptest::collection::vec(history::op(), 20..60), 12..13);
    let devices = devices.new_tree(&mut runner).expect("devices").current();
    let told = tell(&devices, 7);
    for (phase, rows) in told.phases.iter().enumerate() {
        insert(database, rows, phase == 0);
        runtime.block_on(database.store().settle()).expect("settled");
    }
    compare(database, &told.rows).unwrap_or_else(|error| panic!("{error}"));
}

/// The days of `usage_months`, and the hours of `usage_day_hours`, a row for each as the views of days and hours have them.
const DAYS_OF_MONTHS: &str = "\
    SELECT device_id, toUnixTimestamp(toDateTime(month + day, 'UTC')), iccid, plmn, state, h, m, 0, g, 0, 0 \
    FROM usage_months FINAL ARRAY JOIN days AS day, heartbeats AS h, modem_bytes AS m, gateway_bytes AS g";
const HOURS_OF_DAYS: &str = "\
    SELECT device_id, toUnixTimestamp(toDateTime(day, 'UTC')) + 3600 * x.1 AS at, iccid, plmn, state, sum(x.2), sum(x.3), 0, sum(x.4), 0, 0 \
    FROM usage_day_hours FINAL \
    ARRAY JOIN arrayConcat( \
        arrayMap((hour, h, m) -> (hour, h, m, 0), modem_hours, heartbeats, modem_bytes), \
        arrayMap((hour, g) -> (hour, 0, 0, g), gateway_hours, gateway_bytes)) AS x \
    GROUP BY device_id, at, iccid, plmn, state";

/// What arrives, in which order, between which runs.
struct Told {
    rows: Vec<Row>,
    phases: Vec<Vec<Row>>,
}

fn tell(devices: &[Vec<Op>], shuffle: u64) -> Told {
    let now = now_ms();
    let mut random = History::stream(shuffle);
    let mut rows = Vec::new();
    let mut phases = vec![Vec::new(), Vec::new(), Vec::new()];
    for (number, ops) in devices.iter().enumerate() {
        // Half of the devices had told of themselves for hours, and tell the rest in time.
        let in_time = random().is_multiple_of(2);
        let before: &[Op] = if in_time { &[Op::Beat, Op::Wait(100), Op::Beat, Op::Wait(60)] } else { &[] };
        let ops: Vec<Op> = before.iter().chain(ops).copied().collect();
        for row in history::rows(&format!("device-{number}"), &ops, now) {
            // Of the others most rows arrive in their order, some much later.
            let late = !in_time && random().is_multiple_of(4);
            let minutes_ago = (now - row.arrived_ms()) / 60_000;
            let phase =
                if late { random() % 3 } else { u64::from(minutes_ago < 70) + u64::from(minutes_ago < 20) };
            phases[usize::try_from(phase).expect("small")].push(row.clone());
            rows.push(row);
        }
    }
    for phase in &mut phases {
        phase.sort_by_cached_key(|_| random());
    }
    Told { rows, phases }
}

fn insert(database: &Database, rows: &[Row], long_ago: bool) {
    let stored = if long_ago { "now() - 3600" } else { "now()" };
    // In small inserts, so that there are many parts.
    for chunk in rows.chunks(7) {
        let beats: Vec<String> = chunk.iter().filter_map(|row| row.heartbeat(stored)).collect();
        if !beats.is_empty() {
            database.ask(&format!(
                "INSERT INTO heartbeats ({}) VALUES {}",
                history::HEARTBEAT_COLUMNS,
                beats.join(",")
            ));
        }
        let ends: Vec<String> = chunk.iter().filter_map(|row| row.end(stored)).collect();
        if !ends.is_empty() {
            database.ask(&format!(
                "INSERT INTO connections ({}) VALUES {}",
                history::END_COLUMNS,
                ends.join(",")
            ));
        }
    }
}

/// Devices that were settled out of the rows of the last hours alone.
fn read_near(database: &Database) -> u64 {
    let near = "SELECT count() FROM (SELECT run, device_id FROM settle_touched GROUP BY run, device_id HAVING NOT max(late))";
    database.ask(near).parse().expect("a number")
}

fn empty(database: &Database) {
    for table in [
        "heartbeats",
        "connections",
        "usage_hours",
        "usage_days",
        "usage_months",
        "usage_day_hours",
        "settle_runs",
        "settle_touched",
    ] {
        database.ask(&format!("TRUNCATE TABLE {table}"));
    }
}

fn compare(database: &Database, rows: &[Row]) -> Result<(), TestCaseError> {
    let expected = oracle::hours(rows);
    let columns = "iccid, plmn, state, heartbeats, modem_tx_bytes, modem_rx_bytes, gateway_tx_bytes, gateway_rx_bytes, gateway_messages";
    let seen =
        read(&database.ask(&format!("SELECT device_id, toUnixTimestamp(hour), {columns} FROM device_hours")));
    prop_assert_eq!(&seen, &expected);
    let mut by_day: BTreeMap<Key, Usage> = BTreeMap::new();
    for (mut key, usage) in expected.clone() {
        key.from_s = key.from_s / 86_400 * 86_400;
        by_day.entry(key).or_default().add(&usage);
    }
    let seen = read(&database.ask(&format!(
        "SELECT device_id, toUnixTimestamp(toDateTime(day, 'UTC')), {columns} FROM device_days"
    )));
    prop_assert_eq!(&seen, &by_day);
    // Rollups know both ways together, no messages, and no heartbeats but the modem's.
    for (rolled, expected) in [(HOURS_OF_DAYS, &expected), (DAYS_OF_MONTHS, &by_day)] {
        let sums: BTreeMap<Key, Usage> = expected
            .iter()
            .map(|(key, usage)| {
                let bytes = |ways: &[u64]| [ways[0] + ways[1], 0];
                let gateway = [usage.gateway[0] + usage.gateway[1], 0, 0];
                (key.clone(), Usage { heartbeats: usage.heartbeats, modem: bytes(&usage.modem), gateway })
            })
            .filter(|(_, usage)| usage.heartbeats + usage.modem[0] + usage.gateway[0] > 0)
            .collect();
        prop_assert_eq!(&read(&database.ask(rolled)), &sums);
    }
    Ok(())
}

fn read(answer: &str) -> BTreeMap<Key, Usage> {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    answer
        .lines()
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let key = Key {
                device: cells[0].into(),
                from_s: cells[1].parse().expect("a number"),
                iccid: cells[2].into(),
                plmn: cells[3].into(),
                state: cells[4].into(),
            };
            let usage = Usage {
                heartbeats: number(cells[5]),
                modem: [number(cells[6]), number(cells[7])],
                gateway: [number(cells[8]), number(cells[9]), number(cells[10])],
            };
            (key, usage)
        })
        .collect()
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("not that late")
}
