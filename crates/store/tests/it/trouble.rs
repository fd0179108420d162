//! Kinds of trouble, made for real and told apart.

use std::net::TcpListener;

use store::rows::NodeRow;
use store::{Class, Config, Store, Trouble};

use crate::database::Database;

fn row(version: &str) -> NodeRow {
    NodeRow {
        node_id: "a".into(),
        epoch: 1,
        event: NodeRow::STARTED,
        at: 1_800_000_000_000,
        version: version.into(),
        sessions: 0,
        lost_after_ms: 0,
        kafka_partition: 0,
        kafka_offset: 0,
    }
}

async fn trouble(store: &Store, version: &str) -> Trouble {
    let rows = [row(version)];
    store.insert(rows.iter(), version).await.expect_err("it cannot land").trouble()
}

#[tokio::test]
async fn nobody_who_listens_and_nobody_who_answers_are_two_things() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let config = Config { url, insert_timeout_ms: 1_000, ..Config::default() };
    let store = Store::new(&config).expect("a client");
    assert_eq!(trouble(&store, "1").await, Trouble::NoAnswer);
    drop(silent);
    assert_eq!(trouble(&store, "1").await, Trouble::Unreachable);
}

#[tokio::test]
async fn a_server_that_cannot_take_more_is_given_time() {
    let database = Database::of("too_many_parts");
    let store = database.store();
    store.migrate().await.expect("migrated");
    database.ask("SYSTEM STOP MERGES nodes");
    database.ask("ALTER TABLE nodes MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 2");
    for version in ["1", "2"] {
        let rows = [row(version)];
        store.insert(rows.iter(), version).await.expect("landed");
    }
    let met = trouble(&store, "3").await;
    assert_eq!((met, met.class()), (Trouble::TooManyParts, Class::Pause));
    database.ask("ALTER TABLE nodes RESET SETTING parts_to_delay_insert, parts_to_throw_insert");
    let rows = [row("3")];
    store.insert(rows.iter(), "3").await.expect("it passes");
}

#[tokio::test]
async fn who_may_not_write_and_who_is_not_known_need_a_person() {
    let database = Database::of("no_access");
    database.store().migrate().await.expect("migrated");
    let as_user =
        |user: &str| Store::new(&Config { user: user.into(), ..database.config() }).expect("a client");
    let met = trouble(&as_user("nobody"), "1").await;
    assert_eq!((met, met.class()), (Trouble::Access, Class::Fatal));
    // A user of a profile that may only read: that may be changed while the writer waits.
    let met = trouble(&as_user("viewer"), "1").await;
    assert!(matches!(met, Trouble::ReadOnly | Trouble::Access), "{met:?}");
}

#[tokio::test]
async fn a_table_that_is_gone_needs_a_person() {
    let database = Database::of("table_gone");
    let store = database.store();
    store.migrate().await.expect("migrated");
    database.ask("DROP TABLE nodes SYNC");
    let met = trouble(&store, "1").await;
    assert_eq!((met, met.class()), (Trouble::Schema, Class::Fatal));
}

#[tokio::test]
async fn a_row_that_cannot_be_taken_is_no_trouble_of_the_server() {
    let database = Database::of("refused_row");
    let store = database.store();
    store.migrate().await.expect("migrated");
    database.ask("ALTER TABLE nodes ADD CONSTRAINT plausible CHECK version != 'poison'");
    let met = trouble(&store, "poison").await;
    assert_eq!((met, met.class()), (Trouble::Rows, Class::Part));
    // A view that fails over a row refuses it, too.
    database.ask("CREATE TABLE made (x UInt8) ENGINE = MergeTree ORDER BY ()");
    database.ask(
        "CREATE MATERIALIZED VIEW fails TO made AS SELECT throwIf(n.version = 'bad') AS x FROM nodes AS n",
    );
    assert_eq!(trouble(&store, "bad").await, Trouble::Rows);
}
