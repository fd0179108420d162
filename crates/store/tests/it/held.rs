//! What stands is told, and what stands is brought into the views.

use store::rows::NodeRow;

use crate::database::Database;

/// The alive events of one node that Kafka holds under these offsets.
fn alive(offsets: impl IntoIterator<Item = u64>) -> Vec<NodeRow> {
    let row = |offset: u64| NodeRow {
        node_id: "a".into(),
        epoch: 1,
        event: NodeRow::ALIVE,
        at: 1_800_000_000_000 + i64::try_from(offset).expect("few"),
        version: String::new(),
        sessions: 0,
        lost_after_ms: 15_000,
        kafka_partition: 3,
        kafka_offset: offset,
    };
    offsets.into_iter().map(row).collect()
}

#[tokio::test]
async fn which_rows_of_a_range_stand_is_told_by_offset_and_time() {
    let database = Database::of("held");
    let store = database.store();
    store.migrate().await.expect("migrated");
    let all = alive(10..20);
    assert!(store.held(&all).await.expect("an answer").is_empty());
    store.insert(all[3..5].iter(), "some").await.expect("landed");
    let held = store.held(&all).await.expect("an answer");
    let standing: Vec<u64> = all.iter().filter(|row| held.holds(*row)).map(|row| row.kafka_offset).collect();
    assert_eq!(standing, [13, 14]);
    // A topic that was created anew counts from zero again: the same offset at another time is another record.
    let mut anew = alive([13]);
    anew[0].at += 1;
    let held = store.held(&anew).await.expect("an answer");
    assert!(!held.holds(&anew[0]));
}

/// What the writer builds upon when it closes a round (`docs/exactly-once.md`).
#[tokio::test]
async fn an_insert_under_a_token_that_is_known_leaves_nothing_in_the_parts_that_know_it() {
    let database = Database::of("closing");
    let store = database.store();
    store.migrate().await.expect("migrated");
    let in_week = |week: i64, partition: u32, offsets: std::ops::Range<u64>| {
        let mut rows = alive(offsets);
        rows.iter_mut().for_each(|row| row.at += week * 7 * 86_400_000);
        rows.iter_mut().for_each(|row| row.kafka_partition = partition);
        rows
    };
    let standing = || {
        database.ask("SELECT arraySort(groupArray((kafka_partition, kafka_offset))) FROM nodes FORMAT TSVRaw")
    };
    let (one, later, other) = (in_week(0, 1, 0..2), in_week(1, 1, 2..4), in_week(0, 2, 0..1));
    let whole = [one.clone(), later.clone(), other.clone()].concat();

    // The other partition's successor was quicker than the round itself.
    store.insert(other.iter(), "first").await.expect("taken");
    store.insert(whole.iter(), "first").await.expect("dropped in one week, taken in the other");
    assert_eq!(standing(), "[(1,2),(1,3),(2,0)]");
    // So has this partition's to insert what is missing, and under the round's name it does not come in.
    store.insert(one.iter(), "first").await.expect("dropped");
    assert_eq!(standing(), "[(1,2),(1,3),(2,0)]");
    store.insert(one.iter(), "its own").await.expect("taken");
    assert_eq!(standing(), "[(1,0),(1,1),(1,2),(1,3),(2,0)]");

    // The round was quicker.
    database.ask("TRUNCATE TABLE nodes");
    store.insert(whole.iter(), "second").await.expect("taken");
    store.insert(other.iter(), "second").await.expect("dropped");
    assert_eq!(standing(), "[(1,0),(1,1),(1,2),(1,3),(2,0)]");
}

#[tokio::test]
async fn rows_without_their_view_are_brought_into_it_and_again_changes_nothing() {
    let database = Database::of("complete_views");
    let store = database.store();
    store.migrate().await.expect("migrated");
    database.ask("DETACH TABLE node_state_from_nodes SYNC");
    let rows = alive(10..20);
    store.insert(rows.iter(), "all").await.expect("landed");
    database.ask("ATTACH TABLE node_state_from_nodes");
    let state = "SELECT count(), toUnixTimestamp64Milli(max(last_at)) FROM (SELECT * FROM node_state FINAL)";
    assert_eq!(database.ask(state), "0\t0");
    for _ in 0..2 {
        store.complete_views(&rows).await.expect("completed");
        assert_eq!(database.ask(state), "1\t1800000000019");
    }
}

#[tokio::test]
async fn a_view_of_somebody_else_is_left_alone() {
    let database = Database::of("foreign_views");
    let store = database.store();
    store.migrate().await.expect("migrated");
    database.ask("CREATE TABLE sums (number UInt64) ENGINE = MergeTree ORDER BY ()");
    database.ask("CREATE MATERIALIZED VIEW counted TO sums AS SELECT count() AS number FROM nodes");
    let rows = alive(10..20);
    store.insert(rows.iter(), "all").await.expect("landed");
    store.complete_views(&rows).await.expect("completed");
    assert_eq!(database.ask("SELECT sum(number) FROM sums"), "10");
}

#[tokio::test]
async fn a_table_that_somebody_changed_is_found_at_the_start() {
    let database = Database::of("changed_by_hand");
    let store = database.store();
    store.migrate().await.expect("migrated");
    store.check_schema().await.expect("as it was made");
    database.ask("ALTER TABLE nodes RENAME COLUMN sessions TO standing");
    let error = store.check_schema().await.expect_err("a column is missing").to_string();
    assert!(error.contains("nodes"), "{error}");
}
