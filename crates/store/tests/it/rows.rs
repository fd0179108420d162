//! Rows, read back as they were written; and tables that are not as they are written for.

use std::time::{Duration, Instant};

use store::rows::{
    BatchRow, CommandRow, ConnectionRow, DeadLetterRow, GapRow, HeartbeatRow, LedgerRow, NodeRow, TableRow,
    stream,
};
use store::{Class, Store, Trouble};
use uuid::Uuid;

use crate::database::Database;

const SESSION: Uuid = Uuid::from_u128(0x0019_b768_0fb9_0700_0800_0000_0000_0001);
const AT: i64 = 1_800_000_000_123;
/// Until a statement that was answered stands in the server's log.
const NOTED_WITHIN: Duration = Duration::from_secs(30);

/// What stands of a row's columns after it was inserted.
async fn standing<R: TableRow>(database: &Database, store: &Store, row: &R) -> String {
    let token = Uuid::now_v7().to_string();
    store.insert([row].into_iter(), &token).await.expect("landed");
    let names: Vec<&str> = R::COLUMNS.iter().map(|column| column.name).collect();
    let question = format!("SELECT {} FROM {} FORMAT CSV", names.join(", "), R::TABLE);
    database.ask(&question).replace('"', "")
}

fn heartbeat() -> HeartbeatRow<'static> {
    HeartbeatRow {
        device_id: "scooter".into(),
        device_time: AT,
        identity: u64::MAX,
        received_at: AT + 1,
        clock: 3,
        claimed_time_ms: Some(-1),
        session_id: SESSION,
        node_id: "gateway".into(),
        session_bytes_in: 1,
        session_bytes_out: 2,
        session_messages_in: 3,
        sequence: Some(4),
        boot_id: "boot".into(),
        uptime_s: Some(5),
        firmware: "1.2".into(),
        state: "parked".into(),
        next_s: Some(6),
        battery_e2: Some(7),
        battery_millivolts: Some(8),
        battery_charging: Some(true),
        latitude_e6: Some(-9),
        longitude_e6: Some(-10),
        altitude_e1: Some(11),
        speed_e2: Some(12),
        accuracy_e1: Some(13),
        rat: "LTE".into(),
        plmn: "26201".into(),
        cell_id: Some(14),
        tac: Some(15),
        rssi_e1: Some(-16),
        rsrp_e1: Some(-17),
        rsrq_e1: Some(-18),
        sinr_e1: Some(19),
        iccid: "iccid".into(),
        imsi: "imsi".into(),
        imei: "imei".into(),
        modem_tx_bytes: Some(20),
        modem_rx_bytes: Some(21),
        // Longer than one byte of length can say.
        extra: "x".repeat(300).into(),
        kafka_partition: 22,
        kafka_offset: 23,
    }
}

#[tokio::test]
async fn a_heartbeat_is_read_back_as_it_was_written() {
    let database = Database::of("heartbeat_row");
    let store = database.store();
    store.migrate().await.expect("migrated");
    let expected = format!(
        "scooter,2027-01-15 08:00:00.123,18446744073709551615,2027-01-15 08:00:00.124,implausible,-1,{SESSION},gateway,\
         1,2,3,4,boot,5,1.2,parked,6,7,8,true,-9,-10,11,12,13,LTE,26201,14,15,-16,-17,-18,19,iccid,imsi,imei,20,21,{},22,23",
        "x".repeat(300)
    );
    assert_eq!(standing(&database, &store, &heartbeat()).await, expected);
    database.ask("TRUNCATE TABLE heartbeats");
    // What a device does not tell is not told.
    let silent =
        HeartbeatRow { device_id: "silent".into(), received_at: AT, clock: 2, ..HeartbeatRow::default() };
    let nil = Uuid::nil();
    let none = r"\N";
    let expected = [
        format!("silent,1970-01-01 00:00:00.000,0,2027-01-15 08:00:00.123,gateway,{none},{nil},,0,0,0"),
        format!("{none},,{none},,,{}", [none; 9].join(",")),
        format!(",,{},,,,{none},{none},,0,0", [none; 6].join(",")),
    ];
    assert_eq!(standing(&database, &store, &silent).await, expected.join(","));
}

#[tokio::test]
async fn heartbeats_go_out_in_the_order_of_their_table_in_whatever_order_they_come() {
    let database = Database::of("arranged_rows");
    let store = database.store();
    store.migrate().await.expect("migrated");
    let rows: Vec<HeartbeatRow<'_>> = (0..500_u64)
        .map(|number| HeartbeatRow {
            device_id: format!("scooter-{}", number * 7 % 500).into(),
            kafka_offset: number,
            ..heartbeat()
        })
        .collect();
    store.insert(rows.iter(), &database.name).await.expect("landed");
    let sorted = format!(
        "SELECT ProfileEvents['MergeTreeDataWriterBlocks'], ProfileEvents['MergeTreeDataWriterBlocksAlreadySorted'] \
         FROM system.query_log WHERE type = 'QueryFinish' AND Settings['insert_deduplication_token'] = '{}'",
        database.name
    );
    // The server notes what a statement did after it has answered.
    let deadline = Instant::now() + NOTED_WITHIN;
    let mut noted = String::new();
    while noted.is_empty() && Instant::now() < deadline {
        database.ask("SYSTEM FLUSH LOGS");
        noted = database.ask(&sorted);
    }
    assert_eq!(noted, "3\t3", "of the table and the targets of its two views");
}

#[tokio::test]
async fn a_row_of_any_other_table_is_read_back_as_it_was_written() {
    let database = Database::of("other_rows");
    let store = database.store();
    store.migrate().await.expect("migrated");
    let at = "2027-01-15 08:00:00.123";

    let connection = ConnectionRow {
        device_id: "d".into(),
        session_id: SESSION,
        event: ConnectionRow::DISCONNECTED,
        at: AT,
        connected_at: AT,
        node_id: "n".into(),
        epoch: 1,
        peer: "p".into(),
        protocol_level: 2,
        clean_start: true,
        keep_alive_s: 3,
        reason: "quota",
        detail: "why".into(),
        bytes_in: 4,
        bytes_out: 5,
        messages_in: 6,
        messages_out: 7,
        kafka_partition: 8,
        kafka_offset: 9,
        client_id: "c".into(),
        tls_version: "1.3".into(),
        transport: "tls".into(),
        fleet: "f".into(),
        session_expiry_s: 10,
        session_present: false,
        presence_sequence: 11,
        client_code: 12,
    };
    let expected = format!(
        "d,{SESSION},disconnected,{at},{at},n,1,p,2,true,3,quota,why,4,5,6,7,8,9,c,1.3,tls,f,10,false,11,12"
    );
    assert_eq!(standing(&database, &store, &connection).await, expected);

    let letter = DeadLetterRow {
        received_at: AT,
        device_id: "d".into(),
        session_id: SESSION,
        node_id: "n".into(),
        topic: "t".into(),
        payload: b"any \xc3\xa9".to_vec(),
        reason: "not_json",
        detail: "why".into(),
        source: DeadLetterRow::WRITER,
        kafka_partition: 1,
        kafka_offset: 2,
    };
    let expected = format!("{at},d,{SESSION},n,t,any \u{e9},not_json,why,writer,1,2");
    assert_eq!(standing(&database, &store, &letter).await, expected);

    let node = NodeRow { version: "v".into(), sessions: 2, lost_after_ms: 3, ..node(4) };
    assert_eq!(standing(&database, &store, &node).await, format!("n,1,started,{at},v,2,3,0,4"));

    let command = CommandRow {
        device_id: "d".into(),
        command_id: SESSION,
        step: 3,
        at: AT,
        name: "lock".into(),
        issued_by: "who".into(),
        issued_at: AT,
        expires_at: AT,
        node_id: "n".into(),
        session_id: Uuid::nil(),
        device_code: 16,
        kafka_partition: 1,
        kafka_offset: 2,
    };
    let nil = Uuid::nil();
    let expected = format!("d,{SESSION},delivered,{at},lock,who,{at},{at},n,{nil},16,1,2");
    assert_eq!(standing(&database, &store, &command).await, expected);

    let ledger = LedgerRow {
        node_id: "n".into(),
        epoch: 1,
        minute: 1_800_000_000,
        telling: 2,
        complete: true,
        told_at: AT,
        streams: vec![stream::EVENTS, stream::DEAD_LETTERS],
        partitions: vec![-1, 3],
        heartbeats: vec![4],
        others: vec![5],
        dead_letters: vec![6],
        acknowledged: vec![7],
        repeated: vec![8],
        failed: vec![9],
        first_offsets: vec![10],
        last_offsets: vec![],
        kafka_partition: 11,
        kafka_offset: 12,
    };
    let expected = format!(
        "n,1,2027-01-15 08:00:00,2,true,{at},['events','dead_letters'],[-1,3],[4],[5],[6],[7],[8],[9],[10],[],11,12"
    );
    assert_eq!(standing(&database, &store, &ledger).await, expected);

    let batch = BatchRow {
        stream: stream::DEAD_LETTERS,
        partition: 1,
        first_offset: 2,
        last_offset: 3,
        content: 4,
        records: 5,
        produced_at: AT,
        landed_at: AT,
        attempts: 6,
        replayed: true,
        found: 7,
        refused: 8,
        last_minute: 1_800_000_000,
        node_ids: vec!["a".into(), String::new()],
        minutes: vec![1_800_000_000],
        heartbeats: vec![9],
        others: vec![10],
        dead_letters: vec![11],
    };
    let expected = format!(
        "dead_letters,1,2,3,4,5,{at},{at},6,true,7,8,2027-01-15 08:00:00,['a',''],['2027-01-15 08:00:00'],[9],[10],[11]"
    );
    assert_eq!(standing(&database, &store, &batch).await, expected);

    let gap = GapRow { stream: stream::EVENTS, partition: 1, first_offset: 2, last_offset: 3, found_at: AT };
    assert_eq!(standing(&database, &store, &gap).await, format!("events,1,2,3,{at}"));
}

fn node(offset: u64) -> NodeRow {
    NodeRow {
        node_id: "n".into(),
        epoch: 1,
        event: NodeRow::STARTED,
        at: AT,
        version: String::new(),
        sessions: 0,
        lost_after_ms: 0,
        kafka_partition: 0,
        kafka_offset: offset,
    }
}

#[tokio::test]
async fn rows_for_a_column_of_another_type_are_refused_while_a_writer_runs_and_at_its_start() {
    let database = Database::of("other_type");
    let store = database.store();
    store.migrate().await.expect("migrated");
    store.check_schema().await.expect("as it was made");
    // As wide as before: nothing but its type tells it from what is written.
    database.ask("ALTER TABLE nodes MODIFY COLUMN sessions Int32");
    let met = store.insert([&node(1)].into_iter(), "1").await.expect_err("another type").trouble();
    assert_eq!((met, met.class()), (Trouble::Schema, Class::Fatal));
    assert_eq!(database.ask("SELECT count() FROM nodes"), "0");
    let error = store.check_schema().await.expect_err("another type");
    let told = format!("{error}: {}", std::error::Error::source(&error).expect("a source"));
    assert!(told.contains("column sessions is Int32 and not UInt32"), "{told}");
}

#[tokio::test]
async fn a_table_of_batches_that_lost_a_column_is_found_at_the_start() {
    let database = Database::of("batches_changed");
    let store = database.store();
    store.migrate().await.expect("migrated");
    database.ask("ALTER TABLE batches DROP COLUMN found");
    let error = store.check_schema().await.expect_err("a column is missing").to_string();
    assert!(error.contains("batches"), "{error}");
}
