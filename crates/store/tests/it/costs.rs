//! What SIMs cost, settled: always what working it out now says, made anew only where something changed.

use crate::database::Database;
use crate::report::filled;

/// Rows of months that are not what working them out now says.
fn differing(database: &Database) -> String {
    let months = database.ask("SELECT month FROM sim_month_runs FINAL ORDER BY month");
    let differing = months.lines().map(|month| {
        let (kept, now) =
            (format!("sim_months(month = '{month}')"), format!("sim_months_now(month = '{month}')"));
        // The parts of a SIM have no order.
        let columns = "* REPLACE (arraySort(parts) AS parts)";
        database.ask(&format!(
            "SELECT '{month}', * FROM ((SELECT {columns} FROM {kept} EXCEPT SELECT {columns} FROM {now}) \
             UNION ALL (SELECT {columns} FROM {now} EXCEPT SELECT {columns} FROM {kept}))"
        ))
    });
    differing.collect()
}

#[test]
fn costs_are_made_anew_when_what_they_are_made_of_changes_and_only_then() {
    let (database, asker) = filled("costs_anew");
    let all = asker.settle_costs();
    assert!(all > 2, "{all} months");
    assert_ne!(database.ask("SELECT sum(cost) FROM sim_months(month = '2026-09-01')"), "0");
    assert_eq!(differing(&database), "");
    assert_eq!(asker.settle_costs(), 0, "nothing changed");

    let told = "INSERT INTO usage_months SELECT * REPLACE (arrayMap(bytes -> bytes + 1000000, modem_bytes) AS modem_bytes, settled + 1 AS settled) \
                FROM usage_months FINAL WHERE month = '2026-08-01'";
    let before = database.ask("SELECT sum(bytes) FROM sim_months(month = '2026-08-01')");
    database.ask(told);
    assert_eq!(asker.settle_costs(), 3, "a month's usage counts in it, and at the edges of those beside");
    assert_ne!(database.ask("SELECT sum(bytes) FROM sim_months(month = '2026-08-01')"), before);
    assert_eq!(differing(&database), "");

    let before = database.ask("SELECT sum(fee) FROM sim_months(month = '2026-09-01')");
    let price = "INSERT INTO registry_plans SELECT * REPLACE (monthly_fee * 2 AS monthly_fee, version + 1 AS version) FROM registry_plans FINAL";
    database.ask(price);
    assert!(asker.settle_costs() >= all, "a price counts in every month");
    assert_ne!(database.ask("SELECT sum(fee) FROM sim_months(month = '2026-09-01')"), before);
    assert_eq!(differing(&database), "");
    let runs = "SELECT max(runs) FROM (SELECT uniqExact(run) AS runs FROM sim_months_settled GROUP BY month)";
    assert_eq!(database.ask(runs), "2", "the one that stands, and the one before it");
}

#[test]
fn a_run_that_nobody_noted_is_not_read_and_a_month_out_of_reach_is_refused() {
    let (database, asker) = filled("costs_unread");
    database.ask("INSERT INTO sim_months_settled SELECT '2026-09-01', 18000000000000000000, * FROM sim_months_now(month = '2026-09-01')");
    assert_eq!(database.ask("SELECT count() FROM sim_months(month = '2026-09-01')"), "0");
    asker.settle_costs();
    assert_eq!(differing(&database), "");

    let far = "SELECT count() FROM sim_months(month = '2001-01-01')";
    assert_eq!(database.ask(far), "0", "nothing was ever settled here");
    asker.runtime.block_on(asker.store.settle()).expect("settled");
    let refused = database.try_ask(far).expect_err("a refusal");
    assert!(refused.contains("costs of this month are not settled"), "{refused}");
}
