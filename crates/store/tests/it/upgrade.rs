//! A database of the first release, with data in it, brought up to date; and what its views say.

use store::{Config, Store};

use crate::database::Database;

const FIRST_RELEASE: [&str; 3] = [
    include_str!("../../migrations/0001_events.sql"),
    include_str!("../../migrations/0002_status.sql"),
    include_str!("../../migrations/0003_usage.sql"),
];

const STATUS: &str = "SELECT device_id, status, offline_reason FROM device_status ORDER BY device_id";

/// A database that the first release has made.
pub(crate) fn of_the_first_release(test: &str) -> Database {
    let database = Database::of(test);
    for migration in FIRST_RELEASE {
        for statement in migration.split(";\n").filter(|statement| statement.contains("CREATE")) {
            database.ask(statement);
        }
    }
    database
}

#[tokio::test]
async fn a_database_of_the_first_release_comes_up_to_date_and_keeps_what_it_knew() {
    let database = of_the_first_release("upgrade");
    database.presence("stands", "connected", "a", 10, 100);
    database.presence("ended", "disconnected", "a", 10, 90);
    let before = database.ask(STATUS);
    assert_eq!(before, "ended\toffline\tclient\nstands\tonline\t");

    let config = Config { url: database.url.clone(), database: database.name.clone(), ..Config::default() };
    let store = Store::new(&config).expect("a client");
    store.migrate().await.expect("migrated");
    assert_eq!(store.migrate().await.expect("nothing to do"), []);
    assert_eq!(database.ask(STATUS), before, "an upgrade changes nobody's status");

    // The node comes back as another process: what it left open is over.
    database.node("a", 20, "started", 1);
    assert_eq!(database.ask(STATUS), "ended\toffline\tclient\nstands\toffline\tgateway_lost");
}

#[tokio::test]
async fn how_long_rows_are_kept_is_a_setting_of_the_migration() {
    let database = Database::of("kept");
    let kept = |database: &Database| {
        database.ask(
            "SELECT extract(engine_full, 'toInterval[A-Za-z]+[(][0-9]+[)]') FROM system.tables \
             WHERE database = currentDatabase() AND name IN ('heartbeats', 'connections') ORDER BY name",
        )
    };
    let altered =
        "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND command LIKE '%TTL%'";
    database.store().migrate().await.expect("migrated");
    assert_eq!(kept(&database), "toIntervalYear(3)\ntoIntervalDay(90)");
    let config = Config { raw_days: 400, sessions_years: 7, ..database.config() };
    Store::new(&config).expect("a client").migrate().await.expect("changed");
    assert_eq!(kept(&database), "toIntervalYear(7)\ntoIntervalDay(400)");
    assert_eq!(database.ask(altered), "0", "nothing that stands is written anew");
}

#[tokio::test]
async fn sessions_of_a_lost_node_end_with_its_last_sign_of_life_and_silence_of_all_is_unknown() {
    let database = Database::of("lost_nodes");
    let config = Config { url: database.url.clone(), database: database.name.clone(), ..Config::default() };
    Store::new(&config).expect("a client").migrate().await.expect("migrated");
    database.node("lost", 5, "alive", 60);
    database.presence("on_lost", "connected", "lost", 5, 80);
    assert_eq!(database.ask(STATUS), "on_lost\tunknown\tgateway_lost", "nobody is heard");

    database.node("runs", 7, "alive", 1);
    database.presence("on_running", "connected", "runs", 7, 30);
    assert_eq!(database.ask(STATUS), "on_lost\toffline\tgateway_lost\non_running\tonline\t");
    let since = "SELECT since = (SELECT max(at) FROM nodes WHERE node_id = 'lost') FROM device_status WHERE device_id = 'on_lost'";
    assert_eq!(database.ask(since), "1", "since the node's last sign of life");
}

#[tokio::test]
async fn a_commands_steps_come_together_in_any_order_and_more_than_once() {
    let database = Database::of("command_status");
    let config = Config { url: database.url.clone(), database: database.name.clone(), ..Config::default() };
    Store::new(&config).expect("a client").migrate().await.expect("migrated");
    let step = |number: u8, step: &str, ago: u8, left: i8| {
        database.ask(&format!(
            "INSERT INTO commands (device_id, command_id, step, at, issued_at, expires_at) VALUES ('a', \
             '00000000-0000-0000-0000-00000000000{number}', '{step}', now64(3) - {ago}, now64(3) - 60, now64(3) + {left})"
        ));
    };
    step(1, "issued", 60, 100);
    step(2, "sent", 50, 100);
    step(2, "issued", 60, 100);
    step(3, "issued", 60, -1);
    step(4, "delivered", 40, -1);
    step(4, "expired", 1, -1);
    step(4, "sent", 30, -1);
    step(4, "delivered", 40, -1);
    step(5, "refused", 40, 100);
    let states = "SELECT arrayStringConcat(groupArray(state), ' ') FROM (SELECT * FROM command_status ORDER BY command_id)";
    assert_eq!(database.ask(states), "issued sent expired delivered refused");
}
