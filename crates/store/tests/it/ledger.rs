//! What the view `ledger` says of counts.

use store::{Standing, Store};

use crate::database::Database;

/// A database whose ledger is asked.
struct Kept {
    store: Store,
    database: Database,
}

/// Ten minutes ago, a whole minute, seconds since 1970.
fn minute() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    u32::try_from(now.as_secs()).expect("this century") / 60 * 60 - 600
}

/// What a node told of one minute in partition 0 of the events.
#[derive(Clone, Copy)]
struct Told {
    minute: u32,
    epoch_s: u32,
    telling: u32,
    complete: bool,
    heartbeats: u32,
    acknowledged: u32,
    failed: u32,
    offsets: (u32, u32),
}

impl Kept {
    async fn of(test: &str) -> Self {
        let database = Database::of(&format!("ledger_{test}"));
        let store = database.store();
        store.migrate().await.expect("migrated");
        // As if the ledger had been kept for a day.
        database.ask("INSERT INTO schema_migrations (version, name, checksum, applied_at) SELECT version, name, checksum, now64(3) - INTERVAL 1 DAY FROM schema_migrations WHERE version = 6");
        Self { store, database }
    }

    fn ask(&self, statement: &str) -> String {
        self.database.ask(statement)
    }

    /// A start of the node, and when it was heard last.
    fn node(&self, epoch_s: u32, last_at: u32, stopped: bool) {
        self.ask(&format!(
            "INSERT INTO node_state (node_id, epoch, last_at, lost_after_ms, stopped) VALUES \
             ('n', {epoch_s}000, fromUnixTimestamp({last_at}), 15000, {})",
            u8::from(stopped)
        ));
    }

    fn tell(&self, told: Told) {
        let Told {
            minute,
            epoch_s,
            telling,
            complete,
            heartbeats,
            acknowledged,
            failed,
            offsets: (first, last),
        } = told;
        self.ask(&format!(
            "INSERT INTO node_ledgers (node_id, epoch, minute, telling, complete, told_at, streams, partitions, heartbeats, \
             others, dead_letters, acknowledged, repeated, failed, first_offsets, last_offsets) VALUES ('n', {epoch_s}000, {minute}, \
             {telling}, {complete}, now64(3), [1], [0], [{heartbeats}], [0], [0], [{acknowledged}], [0], [{failed}], [{first}], [{last}])"
        ));
    }

    /// A batch of heartbeats of one minute that landed.
    fn batch(&self, minute: u32, node: &str, offsets: (u32, u32)) {
        let (first, last) = offsets;
        let count = last - first + 1;
        self.ask(&format!(
            "INSERT INTO batches (stream, partition, first_offset, last_offset, records, produced_at, last_minute, node_ids, \
             minutes, heartbeats, others, dead_letters) VALUES (1, 0, {first}, {last}, {count}, fromUnixTimestamp({minute}), \
             {minute}, ['{node}'], [toDateTime({minute})], [{count}], [0], [0])"
        ));
    }

    /// The rows of records, one device each.
    fn heartbeats(&self, minute: u32, offsets: (u32, u32)) {
        let (first, last) = offsets;
        self.ask(&format!(
            "INSERT INTO heartbeats (device_id, device_time, identity, received_at, node_id, kafka_partition, kafka_offset) \
             SELECT toString(number), fromUnixTimestamp({minute}), 1, fromUnixTimestamp({minute}) + 1, 'n', 0, number \
             FROM numbers({first}, {})",
            last - first + 1
        ));
    }

    /// State of each minute, with the heartbeats that have no row of their own.
    async fn states(&self) -> Vec<(String, u64)> {
        let since = minute() - 600;
        let lines = self.store.ledger(since, since + 1_200, Standing::Final).await.expect("an answer");
        lines.into_iter().map(|line| (line.state, line.replaced)).collect()
    }

    async fn is(&self, states: &[(&str, u64)]) {
        let expected: Vec<(String, u64)> =
            states.iter().map(|(state, replaced)| ((*state).to_owned(), *replaced)).collect();
        assert_eq!(self.states().await, expected);
    }
}

impl Told {
    fn of(minute: u32, count: u32) -> Self {
        Self {
            minute,
            epoch_s: minute - 6_000,
            telling: 1,
            complete: true,
            heartbeats: count,
            acknowledged: count,
            failed: 0,
            offsets: (0, count - 1),
        }
    }
}

#[tokio::test]
async fn a_minute_goes_from_open_to_balanced_and_its_last_telling_holds() {
    let (database, minute) = (Kept::of("balanced").await, minute());
    let told = Told::of(minute, 10);
    database.node(told.epoch_s, minute + 600, false);
    database.tell(Told { complete: false, heartbeats: 6, acknowledged: 6, offsets: (0, 5), ..told });
    database.batch(minute, "n", (0, 5));
    database.heartbeats(minute, (0, 5));
    database.is(&[("open", 0)]).await;
    database.tell(Told { telling: 2, ..told });
    // Not read to its end.
    database.is(&[("open", 0)]).await;
    database.batch(minute, "n", (6, 9));
    database.heartbeats(minute, (6, 9));
    database.is(&[("balanced", 0)]).await;
    // A batch that is told twice is the same.
    database.batch(minute, "n", (6, 9));
    database.heartbeats(minute, (6, 9));
    database.is(&[("balanced", 0)]).await;
}

#[tokio::test]
async fn what_is_missing_or_too_much_is_a_difference() {
    let (database, minute) = (Kept::of("difference").await, minute());
    let told = Told::of(minute, 10);
    database.node(told.epoch_s, minute + 600, false);
    // One that was produced was not read, though its partition was read beyond.
    database.tell(told);
    database.batch(minute, "n", (0, 8));
    database.heartbeats(minute, (0, 8));
    // A minute that nobody told, of a node that told a later one.
    database.batch(minute - 240, "n", (20, 24));
    database.heartbeats(minute - 240, (20, 24));
    database.is(&[("difference", 0), ("difference", 0)]).await;
}

#[tokio::test]
async fn a_dropped_range_a_failed_record_and_a_row_less_are_told_apart() {
    let (database, minute) = (Kept::of("told_apart").await, minute());
    let told = Told::of(minute, 10);
    database.node(told.epoch_s, minute + 600, false);
    // Kafka dropped two.
    database.tell(told);
    database.batch(minute, "n", (0, 7));
    database.heartbeats(minute, (0, 7));
    database.ask("INSERT INTO ingest_gaps (stream, partition, first_offset, last_offset, found_at) VALUES (1, 0, 8, 9, now64(3))");
    // Kafka holds one that it did not say it holds.
    let second = minute + 60;
    database.tell(Told {
        minute: second,
        heartbeats: 9,
        acknowledged: 9,
        failed: 1,
        offsets: (10, 18),
        ..told
    });
    database.batch(second, "n", (10, 19));
    database.heartbeats(second, (10, 19));
    // Two have no row.
    let third = minute + 120;
    database.tell(Told { minute: third, offsets: (20, 29), ..told });
    database.batch(third, "n", (20, 29));
    database.heartbeats(third, (20, 27));
    database.is(&[("gap", 0), ("balanced", 0), ("unverified", 2)]).await;
    let missing = database.store.records_without_heartbeat(0, &[third], 100, Standing::Final).await;
    assert_eq!(missing.expect("an answer"), [28, 29]);
    let key = |device: &str| store::HeartbeatKey {
        device_id: device.to_owned(),
        device_time: i64::from(third) * 1_000,
        identity: 1,
    };
    let standing = database.store.standing_heartbeats(&[key("27"), key("28")]).await.expect("an answer");
    assert_eq!(standing, [key("27")]);
    let lines = database.store.ledger(third, third + 60, Standing::Final).await.expect("an answer");
    assert_eq!(database.store.batches_of(&lines[0]).await.expect("an answer"), [(20, 29)]);
}

#[tokio::test]
async fn a_lost_start_explains_more_than_was_told_and_never_less() {
    let (database, minute) = (Kept::of("node_lost").await, minute());
    let told = Told::of(minute, 10);
    // The first start died in this minute, the second runs.
    database.node(told.epoch_s, minute + 20, false);
    database.node(minute + 30, minute + 600, false);
    database.tell(Told { epoch_s: minute + 30, ..told });
    database.batch(minute, "n", (0, 14));
    database.heartbeats(minute, (0, 14));
    database.is(&[("node_lost", 0)]).await;
    // The same death, and a record that was told is not there.
    database.tell(Told { epoch_s: minute + 30, telling: 2, heartbeats: 16, offsets: (0, 14), ..told });
    database.is(&[("difference", 0)]).await;
}

#[tokio::test]
async fn records_of_nobody_and_minutes_of_before_are_no_difference() {
    let (database, minute) = (Kept::of("foreign").await, minute());
    database.ask(&format!(
        "INSERT INTO batches (stream, partition, first_offset, last_offset, records, produced_at, last_minute, node_ids, minutes, \
         heartbeats, others, dead_letters) VALUES (1, 0, 0, 0, 1, fromUnixTimestamp({minute}), {minute}, [''], \
         [toDateTime({minute})], [0], [0], [1])"
    ));
    database.ask(&format!(
        "INSERT INTO dead_letters (received_at, topic, source, kafka_partition, kafka_offset) VALUES \
         (fromUnixTimestamp({minute}), 'events', 'writer', 0, 0)"
    ));
    database.is(&[("foreign", 0)]).await;
    database.ask("TRUNCATE TABLE dead_letters");
    database.is(&[("difference", 0)]).await;
    database.ask("TRUNCATE TABLE schema_migrations");
    database.ask("INSERT INTO schema_migrations (version, name, checksum) VALUES (6, 'ledger', 0)");
    database.is(&[("before", 0)]).await;
}

#[tokio::test]
async fn what_a_replay_has_sent_is_no_difference_and_what_is_missing_of_it_is_in_question() {
    let (database, minute) = (Kept::of("replayed").await, minute());
    database.batch(minute, "replay", (0, 4));
    database.heartbeats(minute, (0, 4));
    database.ask("ALTER TABLE heartbeats UPDATE node_id = 'replay' WHERE true SETTINGS mutations_sync = 2");
    database.is(&[("replayed", 0)]).await;
    database.ask("ALTER TABLE heartbeats DELETE WHERE kafka_offset = 3 SETTINGS mutations_sync = 2");
    database.is(&[("unverified", 1)]).await;
}
