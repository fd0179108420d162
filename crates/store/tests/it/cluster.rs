//! The schema of a cluster. The engine of the development stack has no Keeper: what is replicated is read by its parser and no more.
//! Without replication two real servers take it, and answer what one answers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use devstack::fetch::Cache;
use devstack::ports::free_port;
use devstack::{ClickHouse, ClickHouseConfig, Engine};
use store::rows::ConnectionRow;
use store::{Config, Step, Store};

use crate::database::Database;
use crate::usage;

const CLUSTER: &str = "pair";

/// What docs/cluster.md asks of the profile of whoever reads. The client of the writer says it by itself.
const PROFILE: &str = "<clickhouse><profiles><default>\
    <distributed_foreground_insert>1</distributed_foreground_insert>\
    <distributed_product_mode>global</distributed_product_mode>\
    <prefer_global_in_and_join>1</prefer_global_in_and_join>\
    </default></profiles></clickhouse>";

#[test]
fn the_real_parser_reads_every_statement_of_a_cluster() {
    let database = Database::of("cluster_parsed");
    let config = Config { cluster: CLUSTER.into(), ..database.config() };
    let steps = Store::new(&config).expect("a client").migration_steps();
    assert!(steps.len() > 100, "{}", steps.len());
    for Step { guard, sql } in steps {
        let tree = database.ask(&format!("EXPLAIN AST {sql}"));
        assert!(!sql.contains(" ENGINE = Distributed") || tree.contains("Function Distributed"), "{tree}");
        if let Some(guard) = guard {
            database.ask(&format!("EXPLAIN AST {guard}"));
        }
    }
}

/// Two shards of one replica each.
struct Pair {
    servers: [ClickHouse; 2],
    /// The database, as each server sees it.
    databases: [Database; 2],
}

impl Pair {
    fn of(test: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("an old folder goes");
        }
        let ports = [free_port().expect("a port"), free_port().expect("a port")];
        let shard =
            |port| format!("<shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>");
        let shards: String = ports.map(shard).concat();
        let remote = format!(
            "<clickhouse><remote_servers><{CLUSTER}>{shards}</{CLUSTER}></remote_servers></clickhouse>"
        );
        let fleetpulse = std::env::var("FLEETPULSE_TEST_BIN")
            .expect("$FLEETPULSE_TEST_BIN: this test starts servers, run `cargo xtask test`");
        let launcher = Path::new(&fleetpulse).with_file_name("chserver");
        let engine = Engine::find(launcher, &Cache::of_user().expect("a cache")).expect("an engine");
        let servers = [0, 1].map(|number| {
            let data = folder.join(format!("server-{number}"));
            let write = |file: &str, text: &str| {
                let file = data.join("clickhouse").join(file);
                fs::create_dir_all(file.parent().expect("a folder")).expect("made");
                fs::write(file, text).expect("written");
            };
            write("config.d/cluster.xml", &remote);
            write("users.d/cluster.xml", PROFILE);
            let config =
                ClickHouseConfig { tcp_port: ports[number], ..ClickHouseConfig::new(engine.clone(), data) };
            ClickHouse::start(&config).expect("a server")
        });
        let databases = [0, 1].map(|number| {
            let database = Database::at(servers[number].url(), format!("test_{test}"));
            Database { cluster: CLUSTER.into(), ..database }
        });
        let pair = Self { servers, databases };
        pair.migrate();
        pair
    }

    fn first(&self) -> &Database {
        &self.databases[0]
    }

    /// What `migrate` does where servers have a Keeper: each step on every server, an INSERT on one.
    fn migrate(&self) {
        for Step { guard, sql } in self.first().store().migration_steps() {
            if let Some(guard) = guard
                && self.first().ask(&format!("SELECT toUInt64(ifNull(({guard}), 0)) > 0")) == "0"
            {
                continue;
            }
            let inserts = sql.starts_with("INSERT INTO ");
            for database in &self.databases[..if inserts { 1 } else { 2 }] {
                database.ask(&alone(&sql));
            }
        }
    }
}

/// A statement for a server without a Keeper.
fn alone(statement: &str) -> String {
    let on = format!(" ON CLUSTER `{CLUSTER}`");
    let mut alone = statement.replace(&on, "").replace(" replicated_dedup", " non_replicated_dedup");
    if let Some((before, engine)) = alone.clone().split_once("\nENGINE = Replicated") {
        let (engine, rest) = engine.split_once('(').expect("arguments");
        let (_, rest) = rest.split_once("replica}'").expect("a replica");
        alone = format!("{before}\nENGINE = {engine}({}", rest.strip_prefix(", ").unwrap_or(rest));
    }
    alone
}

#[test]
fn usage_of_two_shards_is_settled_as_the_oracle_says() {
    let pair = Pair::of("cluster_usage");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    usage::settles_as_the_oracle_says(pair.first(), &runtime);
    for database in &pair.databases {
        let kept = database.ask("SELECT uniqExact(device_id) FROM usage_hours_local");
        assert!((1..12).contains(&kept.parse::<u32>().expect("a number")), "of 12 devices {kept} are here");
    }
}

/// What a fleet of forty told within the last hours, in statements that say the same on any server. `{now}`: one moment for all.
const FLEET: &[&str] = &[
    // Its last sign holds for an hour, so that the answers do not hang on when they are asked for.
    "INSERT INTO nodes (node_id, epoch, event, at, lost_after_ms)
     SELECT 'node-1', 5, 'alive', toDateTime64('{now}', 3, 'UTC') - number * 10, if(number = 1, 3600000, 15000) FROM numbers(1, 2000) WHERE number NOT BETWEEN 100 AND 140",
    "INSERT INTO connections
         (device_id, session_id, event, at, connected_at, node_id, epoch, peer, protocol_level, reason, bytes_in, transport, fleet, stored_at)
     SELECT concat('device-', toString(number % 40)) AS device, toUUID(concat('018f0000-0000-7000-8000-', leftPad(toString(number), 12, '0'))),
         if(step = 1, 'connected', 'disconnected'), began + (step - 1) * 600, toDateTime64('{now}', 3, 'UTC') - 15000 + intDiv(number, 40) * 3000 AS began,
         'node-1', 5, 'peer', 5, if(step = 1, '', 'client'), number, 'tls', 'berlin', toDateTime('{now}', 'UTC')
     FROM numbers(160) ARRAY JOIN [1, 2] AS step WHERE step = 1 OR number % 7 != 0",
    "INSERT INTO heartbeats
         (device_id, device_time, identity, received_at, clock, session_id, node_id, session_bytes_in, session_messages_in, boot_id, firmware, state,
          next_s, battery_e2, latitude_e6, longitude_e6, rat, plmn, rssi_e1, iccid, imsi, imei, modem_tx_bytes, modem_rx_bytes,
          kafka_partition, kafka_offset, stored_at)
     SELECT concat('device-', toString(number % 40)), toDateTime64('{now}', 3, 'UTC') - 15000 + intDiv(number, 40) * 100 AS taken, number, taken + 1, 'device',
         toUUID(concat('018f0000-0000-7000-8000-', leftPad(toString(number % 160), 12, '0'))), 'node-1', number * 10, intDiv(number, 40),
         'boot', '1.0', if(number % 3 = 0, 'riding', 'parked'), 300, 5000 + number % 100, 52500000 + number, 13400000, 'lte', '26201', -700,
         concat('8949', toString((number + intDiv(number, 2000)) % 40)), 'imsi', concat('35', toString(number % 40)), number * 100, number * 50,
         number % 3, number, toDateTime('{now}', 'UTC')
     FROM numbers(4000)",
    "INSERT INTO dead_letters (received_at, device_id, node_id, topic, payload, reason, source, kafka_partition, kafka_offset)
     SELECT toDateTime64('{now}', 3, 'UTC') - 600 - number * 60, concat('device-', toString(number)), 'node-1', 't', 'p', 'not_json', 'gateway', 0, number FROM numbers(20)",
    "INSERT INTO commands (device_id, command_id, step, at, name, issued_at, expires_at)
     SELECT concat('device-', toString(number)), toUUID(concat('018f0000-0000-7000-8000-', leftPad(toString(number), 12, '0'))), 'issued',
         toDateTime64('{now}', 3, 'UTC') - 50, 'unlock', toDateTime64('{now}', 3, 'UTC') - 50, toDateTime64('{now}', 3, 'UTC') + 3600 FROM numbers(20)",
    "INSERT INTO batches (stream, partition, first_offset, last_offset, records, produced_at, landed_at, last_minute, node_ids, minutes, heartbeats, others, dead_letters)
     SELECT 'events', number % 3, number, number, 1, toDateTime64('{now}', 3, 'UTC'), toDateTime64('{now}', 3, 'UTC'), toStartOfMinute(toDateTime('{now}', 'UTC')),
         ['node-1'], [toStartOfMinute(toDateTime('{now}', 'UTC') - 600)], [1], [0], [0] FROM numbers(30)",
    // The ledger is kept since then.
    "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (6, 'ledger', 0, '2020-01-01 00:00:00')",
    "INSERT INTO registry_customers (customer_id, name, billing_time_zone, billing_day, currency, version) VALUES ('c', 'C', 'Europe/Berlin', 1, 'EUR', 1)",
    "INSERT INTO registry_fleets (fleet_id, customer_id, version) VALUES ('berlin', 'c', 1)",
    "INSERT INTO registry_devices (device_id, fleet_id, name, imei, iccid_expected, version)
     SELECT concat('device-', toString(number)), 'berlin', concat('Scooter ', toString(number)), concat('35', toString(number + number % 2)), concat('8949', toString(number)), 1 FROM numbers(40)",
    "INSERT INTO registry_sims (iccid, imsi, msisdn, version) SELECT concat('8949', toString(number)), concat('262', toString(number)), '49', 1 FROM numbers(35)",
    "INSERT INTO sim_states (iccid, since, state, version)
     SELECT concat('8949', toString(number)), toDateTime64('2020-01-01 00:00:00', 3, 'UTC'), if(number % 5 = 0, 'paused', 'live'), 1 FROM numbers(35)",
    "INSERT INTO sim_plans (iccid, since, plan_id, version) SELECT concat('8949', toString(number)), toDateTime64('2020-01-01 00:00:00', 3, 'UTC'), 'p', 1 FROM numbers(35)",
    "INSERT INTO registry_plans (plan_id, valid_from, kind, currency, mb_bytes, version) VALUES ('p', '2020-01-01', 'per_mb', 'EUR', 1000000, 1)",
    "INSERT INTO registry_budgets (customer_id, month, amount, version) VALUES ('c', '2026-01-01', 1, 1)",
    "INSERT INTO registry_shipments (shipment_id, device_id, version) VALUES ('s', 'device-1', 1)",
    "INSERT INTO registry_tickets (ticket_id, device_id, version) VALUES ('t', 'device-1', 1)",
];

/// Views that one server answers and shards refuse: they look up what a parameterised view says (docs/cluster.md), or read what is made of those. They are not asked here:
/// a question that fails halfway may end the engine library on the other server.
const REFUSED: [&str; 3] = ["billing_usage", "sim_months", "sim_months_now"];

/// What a view's parameter is, for the fleet above.
fn parameter(name: &str) -> &'static str {
    match name {
        "since" | "from" => "toDateTime('{now}', 'UTC') - 14400",
        "until" | "to" => "toDateTime('{now}', 'UTC') - 60",
        "at" => "toDateTime('{now}', 'UTC') - 3700",
        "device" | "fleet" => "''",
        "month" => "toStartOfMonth(toDateTime('{now}', 'UTC') - 10000)",
        "per_hour" => "1",
        _ => panic!("a view has a parameter {name}: say here what to ask it"),
    }
}

/// What each view answers about the fleet.
fn answers(database: &Database, now: &str) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for statement in FLEET {
        database.ask(&statement.replace("{now}", now));
    }
    runtime.block_on(database.store().settle()).expect("settled");
    let views = database.ask(
        "SELECT name, arrayStringConcat(arraySort(arrayDistinct(extractAll(create_table_query, '[{]([a-z_]+):'))), ' ') \
         FROM system.tables WHERE database = currentDatabase() AND engine = 'View' ORDER BY name",
    );
    let mut answers = BTreeMap::new();
    for (view, parameters) in views.lines().filter_map(|line| line.split_once('\t')) {
        if REFUSED.contains(&view) {
            continue;
        }
        let given = parameters.split_whitespace().map(|name| format!("{name} = {}", parameter(name)));
        let given: Vec<String> = given.collect();
        let from = if given.is_empty() { view.to_owned() } else { format!("{view}({})", given.join(", ")) };
        let mut questions = vec![format!("SELECT * FROM {from} ORDER BY ALL")];
        let columns = database.ask(&format!("DESCRIBE TABLE (SELECT * FROM {from})").replace("{now}", now));
        if columns.lines().any(|column| column.starts_with("device_id\t")) {
            questions.push(format!("SELECT * FROM {from} WHERE device_id = 'device-3' ORDER BY ALL"));
        }
        for question in questions {
            let answer = database.ask(&question.replace("{now}", now));
            answers.insert(question, answer);
        }
    }
    answers
}

/// Empties what views made of heartbeats, and lets the migrations make it of the rows that stand. What they made of presence stays: no
/// migration makes that anew.
fn backfilled(pair: &Pair) {
    for database in &pair.databases {
        let presence = "SELECT device_id, started, ended FROM device_newest_local";
        database.ask(&format!("CREATE TABLE presence ENGINE = Log AS {presence}"));
        database.ask("TRUNCATE TABLE device_newest_local");
        database.ask("INSERT INTO device_newest_local (device_id, started, ended) SELECT * FROM presence");
        database.ask("TRUNCATE TABLE session_signs_local");
    }
    let steps = pair.first().store().migration_steps();
    let inserts = steps.iter().filter(|step| step.sql.starts_with("INSERT INTO "));
    for Step { sql, .. } in inserts {
        let and = if sql.contains("\nSETTINGS ") { "," } else { " SETTINGS" };
        pair.first().ask(&format!("{sql}{and} parallel_distributed_insert_select = 2"));
    }
}

#[test]
fn every_view_answers_over_two_shards_as_on_one_server() {
    let pair = Pair::of("cluster_views");
    let one = Database::of("cluster_views_alone");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(one.store().migrate()).expect("migrated");
    let now = one.ask("SELECT toString(now('UTC'))");
    let (expected, seen) = (answers(&one, &now), answers(pair.first(), &now));
    assert!(expected.len() > 30, "{} questions", expected.len());
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (question, answer) in expected {
        assert!(!answer.is_empty() || question.contains("WHERE"), "{question}: the fleet has nothing of it");
        assert_eq!(seen[&question], answer, "{question}");
    }
    backfilled(&pair);
    for (question, answer) in &seen {
        if ["device_status ", "sessions "].iter().any(|view| question.contains(view)) {
            assert_eq!(pair.first().ask(question), *answer, "made anew by the migrations: {question}");
        }
    }
    let without = "SELECT count() FROM sim_findings SETTINGS distributed_product_mode = 'deny', prefer_global_in_and_join = 0";
    let refused = pair.first().try_ask(without).expect_err("the settings are needed");
    assert!(refused.contains("DISTRIBUTED_IN_JOIN_SUBQUERY_DENIED"), "{refused}");
}

/// The starts of one session each of forty devices.
fn sessions(batch: u128) -> Vec<ConnectionRow> {
    let row = |number: u32| ConnectionRow {
        device_id: format!("device-{number}"),
        session_id: uuid::Uuid::from_u128((batch << 32) + u128::from(number)),
        event: ConnectionRow::CONNECTED,
        at: 1_800_000_000_000 + i64::try_from(batch).expect("few"),
        connected_at: 1_800_000_000_000 + i64::try_from(batch).expect("few"),
        node_id: "a".into(),
        epoch: 1,
        peer: String::new(),
        protocol_level: 5,
        clean_start: true,
        keep_alive_s: 60,
        reason: "",
        detail: String::new(),
        bytes_in: 0,
        bytes_out: 0,
        messages_in: 0,
        messages_out: 0,
        kafka_partition: 0,
        kafka_offset: u64::try_from(batch * 100).expect("few") + u64::from(number),
        client_id: String::new(),
        tls_version: String::new(),
        transport: "tls".into(),
        fleet: String::new(),
        session_expiry_s: 0,
        session_present: false,
        presence_sequence: 0,
        client_code: 0,
    };
    (0..40).map(row).collect()
}

#[tokio::test]
async fn an_insert_that_one_shard_missed_is_repeated_and_lands_once_on_each() {
    let mut pair = Pair::of("cluster_once");
    let store = pair.first().store();
    // Rows as they were written, before anything merges them: a copy would be seen.
    for database in &pair.databases {
        database.ask("SYSTEM STOP MERGES connections_local");
        database.ask("SYSTEM STOP MERGES device_newest_local");
    }
    let written = "SELECT (SELECT count() FROM connections), (SELECT count() FROM device_newest)";
    for _ in 0..2 {
        store.insert(sessions(1).iter(), "batch-1").await.expect("landed");
        assert_eq!(pair.first().ask(written), "40\t40", "the same token, the same insert");
    }

    pair.servers[1].stop().expect("stopped");
    store.insert(sessions(2).iter(), "batch-2").await.expect_err("a shard is not there");
    store.held(&sessions(2)).await.expect_err("nor can it be asked");
    pair.servers[1].start_again().expect("started");
    for database in &pair.databases {
        database.ask("SYSTEM STOP MERGES connections_local");
        database.ask("SYSTEM STOP MERGES device_newest_local");
    }
    store.insert(sessions(2).iter(), "batch-2").await.expect("landed");
    assert_eq!(pair.first().ask(written), "80\t80");

    // One shard has its rows of a batch, with the batch's token; the answer of the other was lost.
    for (number, batch) in [(0, 3), (1, 4)] {
        let here = pair.databases[number].ask("SELECT DISTINCT device_id FROM connections_local");
        let batch_of_all = sessions(batch);
        let part: Vec<ConnectionRow> = batch_of_all
            .iter()
            .filter(|row| here.lines().any(|device| device == row.device_id))
            .cloned()
            .collect();
        assert!((1..40).contains(&part.len()));
        let token = format!("batch-{batch}");
        store.insert(part.iter(), &token).await.expect("landed");
        store.insert(batch_of_all.iter(), &token).await.expect("landed");
        let each = batch * 40;
        assert_eq!(
            pair.first().ask(written),
            format!("{each}\t{each}"),
            "what had its rows takes none, what lacked them takes them"
        );
    }

    let held = store.held(&sessions(2)).await.expect("an answer");
    assert_eq!(held.len(), 40, "all shards are asked");
    assert!(store.held(&sessions(5)).await.expect("an answer").is_empty());
}

#[tokio::test]
async fn a_view_that_lacks_rows_on_one_shard_is_completed() {
    let pair = Pair::of("cluster_views_lack");
    let store = pair.first().store();
    pair.databases[1].ask("DETACH TABLE device_newest_from_connections SYNC");
    store.insert(sessions(1).iter(), "batch-1").await.expect("landed");
    pair.databases[1].ask("ATTACH TABLE device_newest_from_connections");
    let known = "SELECT uniqExact(device_id), uniqExact(device_id) = (SELECT uniqExact(device_id) FROM connections) FROM device_newest";
    assert!(pair.first().ask(known).ends_with("\t0"), "the other shard's devices are missing");
    for _ in 0..2 {
        store.complete_views(&sessions(1)).await.expect("completed");
        assert_eq!(pair.first().ask(known), "40\t1");
    }
    let strays = "SELECT count() FROM device_newest_local WHERE device_id NOT IN (SELECT device_id FROM connections_local)";
    for database in &pair.databases {
        assert_eq!(database.ask(strays), "0", "each device is where its rows are");
    }
}

#[tokio::test]
async fn a_database_of_one_server_is_not_taken_for_a_cluster() {
    let database = Database::of("cluster_shape");
    database.store().migrate().await.expect("migrated");
    let config = Config { cluster: CLUSTER.into(), ..database.config() };
    let error = Store::new(&config).expect("a client").check_schema().await.expect_err("another shape");
    assert!(error.to_string().contains("was made for one server"), "{error}");
}
