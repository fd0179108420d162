//! What SIMs cost, settled: always what working it out now says, made anew only where something changed.

use store::Months;

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
fn whatever_changes_while_a_month_is_settled_is_seen_afterwards() {
    let (database, asker) = filled("costs_meanwhile");
    asker.settle_costs();
    // A run of usage that has written the half of its rows when costs are looked at: all of them have its version.
    let half = |devices: &str| {
        database.ask(&format!(
            "INSERT INTO usage_months SELECT * REPLACE (arrayMap(bytes -> bytes * 2, modem_bytes) AS modem_bytes, 9 AS settled) \
             FROM usage_months FINAL WHERE month = '2026-08-01' AND device_id {devices}"
        ));
    };
    half("<= 'scooter-15'");
    assert_eq!(asker.settle_costs(), 3);
    half("> 'scooter-15'");
    assert_eq!(asker.settle_costs(), 3);
    assert_eq!(differing(&database), "");
    // Conditions that came and went: the registry reads as before, and the months that were settled between do not stand.
    let terms = |fee: u32, version: u32, deleted: bool| {
        database.ask(&format!(
            "INSERT INTO registry_plans (plan_id, valid_from, kind, currency, monthly_fee, mb_bytes, version, deleted) \
             VALUES ('by-mb', '2026-08-10', 'per_mb', 'EUR', {fee}, 1000000, {version}, {deleted})"
        ));
    };
    terms(50, 1, false);
    assert!(asker.settle_costs() > 0);
    terms(50, 2, true);
    assert!(asker.settle_costs() > 0);
    assert_eq!(differing(&database), "");
}

#[test]
fn open_bills_are_looked_at_alone_and_what_cannot_be_worked_out_is_told() {
    let (database, asker) = filled("costs_open");
    let settled = |months| asker.runtime.block_on(asker.store.settle_costs(months));
    assert_eq!(settled(Months::Recent).expect("settled"), 3, "the last, this one and the next");
    assert_eq!(settled(Months::Recent).expect("settled"), 0);
    database.ask("INSERT INTO usage_months SELECT * REPLACE ([8000000000000000000] AS modem_bytes, [0] AS gateway_bytes, [0] AS days, [1] AS heartbeats, 2 AS settled) \
                  FROM usage_months FINAL WHERE month = '2026-08-01' AND device_id = 'scooter-01'");
    database.ask("INSERT INTO registry_plans SELECT * REPLACE (100 AS price_per_mb, version + 1 AS version) FROM registry_plans FINAL");
    assert!(settled(Months::All).expect("whatever a device tells") > 0);
    assert_eq!(differing(&database), "");
    let costs: f64 =
        database.ask("SELECT sum(cost) FROM sim_months(month = '2026-08-01')").parse().expect("a sum");
    let laid = asker.ask("usage", &[("month", "2026-08"), ("by", "network")]).sum("cost");
    assert!(costs > 9e10 && (costs - laid).abs() < 0.01, "{costs} laid on networks as {laid}");
    // A month that cannot be worked out: a time zone that the server does not know.
    database.ask("INSERT INTO registry_customers (customer_id, name, billing_time_zone, billing_day, currency, version) VALUES ('lost', 'Lost', 'Nowhere/Land', 1, 'EUR', 1)");
    settled(Months::All).expect_err("no such zone");
    database.ask("INSERT INTO registry_customers (customer_id, name, billing_time_zone, billing_day, currency, version) VALUES ('lost', 'Lost', 'UTC', 1, 'EUR', 2)");
    assert!(settled(Months::All).expect("settled") > 0);
    assert_eq!(differing(&database), "");
}

#[test]
fn a_run_that_nobody_noted_is_not_read_and_a_month_that_was_not_settled_is_refused() {
    let (database, asker) = filled("costs_unread");
    let september = "SELECT count() FROM sim_months(month = '2026-09-01')";
    for _ in 0..2 {
        let refused = database.try_ask(september).expect_err("a refusal");
        assert!(refused.contains("costs of this month are not settled"), "{refused}");
        database.ask("INSERT INTO sim_months_settled SELECT '2026-09-01', 1, * FROM sim_months_now(month = '2026-09-01')");
    }
    asker.settle_costs();
    assert_eq!(differing(&database), "");
    assert_ne!(database.ask(september), "0");
    assert!(
        database.try_ask("SELECT count() FROM sim_months(month = '2001-01-01')").is_err(),
        "out of reach"
    );
}
