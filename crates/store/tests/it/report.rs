//! Every question of `reports/*.sql` is answered, in the columns of docs/reports.md, on an empty database and on a small fleet whose
//! figures are worked out by hand (report/fleet.sql).

use serde_json::Value;
use store::{Answer, Months, Report, Store};

use crate::database::Database;

const FLEET: &str = include_str!("report/fleet.sql");
const MONTHS: &str = include_str!("../../migrations/0013_months.sql");
const DOCUMENT: &str = include_str!("../../../../docs/reports.md");
const ROWS_MAX: usize = 10_000;

/// What is asked, and its rows by the names of columns.
pub(crate) struct Asker {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) store: Store,
}

impl Asker {
    pub(crate) fn ask(&self, name: &str, with: &[(&str, &str)]) -> Rows {
        let report = Report::named(name).expect("a report");
        if report.sql.contains("sim_months") {
            self.settle_costs();
        }
        let with: Vec<(String, String)> =
            with.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let answer = self.runtime.block_on(self.store.report(report, &with, ROWS_MAX));
        Rows(answer.unwrap_or_else(|error| panic!("{name}: {error:?}")))
    }

    /// As the writers do from time to time; how many months they were.
    pub(crate) fn settle_costs(&self) -> u64 {
        self.runtime.block_on(self.store.settle_costs(Months::All)).expect("settled")
    }
}

pub(crate) struct Rows(Answer);

impl Rows {
    fn len(&self) -> usize {
        self.0.rows.len()
    }

    fn columns(&self) -> String {
        self.0.columns.iter().map(|column| format!("`{}`", column.name)).collect::<Vec<_>>().join(", ")
    }

    fn place(&self, column: &str) -> usize {
        let place = self.0.columns.iter().position(|known| known.name == column);
        place.unwrap_or_else(|| panic!("no column {column} in {}", self.columns()))
    }

    /// That column of the only row in which others are so.
    fn of(&self, rows: &[(&str, &str)], column: &str) -> String {
        let wanted: Vec<(usize, &str)> =
            rows.iter().map(|(column, value)| (self.place(column), *value)).collect();
        let mut found =
            self.0.rows.iter().filter(|row| wanted.iter().all(|(place, value)| text(&row[*place]) == *value));
        let row = found.next().unwrap_or_else(|| panic!("no row with {rows:?} in {:?}", self.0.rows));
        assert!(found.next().is_none(), "several rows with {rows:?}");
        text(&row[self.place(column)])
    }

    fn all(&self, column: &str) -> Vec<String> {
        let place = self.place(column);
        self.0.rows.iter().map(|row| text(&row[place])).collect()
    }

    pub(crate) fn sum(&self, column: &str) -> f64 {
        self.all(column).iter().map(|value| value.parse::<f64>().expect("a number")).sum()
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn migrated(test: &str) -> (Database, Asker) {
    let database = Database::of(test);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = database.store();
    runtime.block_on(store.migrate()).expect("migrated");
    (database, Asker { runtime, store })
}

/// The fleet, all of it counted back from the same hour.
pub(crate) fn filled(test: &str) -> (Database, Asker) {
    let (database, asker) = migrated(test);
    let hour = database.ask("SELECT toStartOfHour(now())");
    let fleet = FLEET.replace("toStartOfHour(now())", &format!("toDateTime('{hour}', 'UTC')"));
    for statement in fleet.split(";\n") {
        database.ask(statement);
    }
    roll_up(&database);
    (database, asker)
}

/// Months and hours of days, made of days and hours as the migration makes them of what stands.
pub(crate) fn roll_up(database: &Database) {
    for statement in MONTHS.split(";\n").filter(|statement| statement.contains("\nINSERT INTO usage_")) {
        database.ask(statement);
    }
}

#[test]
fn every_report_answers_with_its_documented_columns_with_and_without_data() {
    let (_, empty) = migrated("report_empty");
    let (_, full) = filled("report_full");
    for report in Report::all() {
        let (of_none, of_some) = (empty.ask(report.name, &[]), full.ask(report.name, &[]));
        assert_eq!(of_none.columns(), of_some.columns(), "{}", report.name);
        let columns = format!("Columns: {}.", of_some.columns());
        let section = DOCUMENT
            .split("\n### ")
            .find(|section| section.starts_with(&format!("{}\n", report.name)))
            .unwrap_or_else(|| panic!("docs/reports.md has no section {}", report.name));
        assert!(section.contains(&columns), "docs/reports.md, {}: {columns}", report.name);
        for parameter in &report.parameters {
            assert!(
                section.contains(&format!("`{}`", parameter.name)),
                "{}: {}",
                report.name,
                parameter.name
            );
        }
    }
}

#[test]
fn an_answer_is_cut_where_it_is_too_long_and_says_so() {
    let (_, asker) = filled("report_cut");
    let report = Report::named("fleet-status").expect("a report");
    let cut = |rows| {
        let answer = asker.runtime.block_on(asker.store.report(report, &[], rows)).expect("an answer");
        (answer.rows.len(), answer.cut)
    };
    // Thirty of the registry, and twelve guests.
    assert_eq!((cut(41), cut(42)), ((41, true), (42, false)));
}

#[test]
fn a_value_is_never_part_of_the_query() {
    let (_, asker) = filled("report_quoted");
    for id in ["' OR 1 = 1 --", "\\", "a\tb\n'", "?", "{id:String}"] {
        assert_eq!(asker.ask("search", &[("id", id)]).len(), 0, "{id}");
    }
    let devices = serde_json::json!(["scooter-01", "' ) OR 1 = 1 --", "a\\"]).to_string();
    let rows = asker.ask("preship", &[("devices", &devices)]);
    assert_eq!(rows.all("device_id"), ["scooter-01", "' ) OR 1 = 1 --", "a\\"]);
}

#[test]
fn engineering_reads_what_devices_did() {
    let (_, asker) = filled("report_engineering");
    let rows =
        asker.ask("device-timeline", &[("device", "scooter-07"), ("hours", "60"), ("heartbeats", "false")]);
    assert_eq!(rows.all("event"), ["reboot", "connected"]);
    assert_eq!(rows.of(&[("event", "reboot")], "detail"), "boot boot-2, up for 600 s");
    let rows = asker.ask("device-timeline", &[("device", "scooter-21"), ("hours", "60")]);
    assert_eq!(rows.len(), 252 + 2, "its heartbeats, the session's begin and end");

    // Device 9 and 19 stand in cell 1004 of that network: -90 dBm, and 5 less for each cell.
    let rows = asker.ask("signal-by-cell", &[]);
    let cell = [("cell_id", "1004"), ("plmn", "26201")];
    assert_eq!((rows.of(&cell, "devices"), rows.of(&cell, "rsrp_p50_dbm")), ("2".into(), "-110".into()));
    let rows = asker.ask("signal-by-city", &[]);
    let city = [("city", "Hamburg")];
    assert_eq!((rows.of(&city, "heartbeats"), rows.of(&city, "rsrq_p50_db")), ("1260".into(), "-12".into()));
    let rows = asker.ask("signal-by-firmware", &[]);
    let firmware = [("firmware", "2.0.0")];
    assert_eq!(
        (rows.of(&firmware, "devices"), rows.of(&firmware, "rsrp_p90_dbm")),
        ("2".into(), "-90".into())
    );

    let rows = asker.ask("reconnect-storms", &[]);
    assert_eq!(
        (rows.all("connects"), rows.all("usual_connects")),
        (vec!["12".to_owned()], vec!["0".to_owned()])
    );

    // 1,000 bytes and 0.1 percent each ten minutes.
    let rows = asker.ask("heartbeat-interval", &[]);
    let interval = [("interval_s", "300")];
    assert_eq!(rows.of(&interval, "bytes_per_day"), "288000");
    assert_eq!(rows.of(&interval, "battery_if_independent_percent_per_day"), "14.4");
    assert_eq!(rows.of(&interval, "battery_if_all_percent_per_day"), "28.8");
    assert_eq!(rows.of(&interval, "battery_fitted_percent_per_day"), "null", "all have the same interval");
}

#[test]
fn product_reads_what_data_is_for_and_what_is_paid() {
    let (_, asker) = filled("report_product");
    // Of 1,200,000 bytes a day: 900,000 in, 180,000 out, and the rest.
    let rows = asker.ask("data-need", &[("until", "2026-09-01"), ("days", "31")]);
    let transport = [("state", "parked"), ("category", "transport")];
    assert_eq!(rows.of(&transport, "bytes_per_device_day"), "120000");
    assert_eq!(
        (rows.of(&transport, "share"), rows.of(&transport, "device_days")),
        ("0.1".into(), "930".into())
    );

    // "state":"parked", and {"motor_c":31}.
    let rows = asker.ask("data-need-by-feature", &[]);
    assert_eq!(rows.of(&[("feature", "state")], "bytes_each_time"), "17");
    assert_eq!(rows.of(&[("feature", "others")], "bytes_each_time"), "14");
    assert_eq!(rows.of(&[("feature", "others")], "devices"), "1");

    for cells in ["h3", "geohash"] {
        let rows = asker.ask("coverage", &[("cells", cells), ("level", "6")]);
        // One device tells no position; five went silent.
        assert_eq!((rows.sum("devices"), rows.sum("silent_devices")), (24.0, 5.0), "{cells}");
    }

    // 37.2 MB each. By the MB: 6 x (0.50 + 3.72) + 10 %; pool: 7 x (1 + 32.2 x 0.05); tiers: 7 x (0.20 + 10 x 0.10 + 27.2 x 0.05).
    let rows = asker.ask("invoice", &[("month", "2026-08")]);
    let line = |customer, line, column| rows.of(&[("customer_id", customer), ("line", line)], column);
    let plan = |plan| rows.of(&[("customer_id", "acme"), ("plan_id", plan)], "amount");
    assert_eq!([plan("by-mb"), plan("pool"), plan("tier")], ["27.85", "20.10", "19.71"]);
    assert_eq!(line("acme", "devices", "amount"), "40.00");
    assert_eq!(
        (line("acme", "tax", "amount"), line("acme", "total", "amount")),
        ("20.46".into(), "128.12".into())
    );
    assert_eq!(line("acme", "total", "from_at"), "2026-07-31T22:00:00Z", "summer time in Berlin");
    assert_eq!(line("bolt", "total", "from_at"), "2026-08-15T00:00:00Z");
    assert_eq!(line("bolt", "total", "amount"), "32.39");
    assert_eq!(asker.ask("invoice", &[("month", "2026-08"), ("customer", "bolt")]).len(), 6);
}

#[test]
fn finance_reads_what_it_costs_and_will_cost() {
    let (database, asker) = filled("report_finance");
    let rows = asker.ask("usage", &[("month", "2026-08"), ("by", "network")]);
    let network = [("key", "26201")];
    // Fifteen devices, five of each plan: 5 x (4.22 + 2.61 + 2.56).
    assert_eq!(
        (rows.of(&network, "modem_bytes"), rows.of(&network, "cost")),
        ("558000000".into(), "46.9500".into())
    );
    assert_eq!(rows.of(&network, "difference_bytes"), (558_000_000_u64 / 10).to_string());

    let rows = asker.ask("cost-vs-budget", &[("month", "2026-08")]);
    let acme = [("scope", "customer"), ("id", "acme")];
    assert_eq!(
        [rows.of(&acme, "cost"), rows.of(&acme, "left"), rows.of(&acme, "verdict")],
        ["61.51", "-11.51", "over"]
    );
    let fleet = [("scope", "fleet"), ("id", "bolt-ham")];
    assert_eq!(
        [rows.of(&fleet, "cost"), rows.of(&fleet, "budget"), rows.of(&fleet, "verdict")],
        ["32.39", "100.00", "within"]
    );

    // The same every day: the forecast is what the month came to.
    let rows = asker.ask("forecast", &[("as_of", "2026-08-16")]);
    let acme = [("customer_id", "acme")];
    assert_eq!(
        [rows.of(&acme, "cost_forecast"), rows.of(&acme, "cost_low"), rows.of(&acme, "cost_high")],
        ["61.51"; 3]
    );
    assert_eq!((rows.of(&acme, "mb_so_far"), rows.of(&acme, "mb_forecast")), ("360".into(), "744".into()));

    let rows = asker.ask("silent-sims", &[]);
    assert_eq!(rows.len(), 5, "26 to 30");
    assert!((rows.sum("monthly_fee") - 2.4).abs() < 1e-9);

    let rows = asker.ask("best-plan", &[("month", "2026-08")]);
    assert_eq!(rows.len(), 20, "all but those that have the best");
    let third = [("iccid", "8949100000000000003")];
    assert_eq!(
        [rows.of(&third, "cost"), rows.of(&third, "best_plan"), rows.of(&third, "saving")],
        ["4.2200", "tier", "1.6600"]
    );

    // 20 devices x 4 rides x 0.05 x 31 days, less 61.51.
    let rows = asker.ask("payback", &[("month", "2026-08")]);
    let fleet = [("fleet_id", "acme-ber")];
    assert_eq!([rows.of(&fleet, "net_of_month"), rows.of(&fleet, "payback_months")], ["62.49", "9.6"]);
    assert_eq!(rows.of(&[("fleet_id", "bolt-ham")], "payback_months"), "null");

    // 7 MB more on one Monday of three: the Mondays' mean rises by 7/3; 1.96 x sqrt(30 x (2 x (7/3)^2 + (14/3)^2) / 15) = 15.8425.
    database.ask(
        "INSERT INTO usage_days (device_id, day, iccid, plmn, state, modem_tx_bytes, settled) \
         VALUES ('scooter-21', '2026-08-10', '8949100000000000021', '26201', 'riding', 7000000, 1)",
    );
    let rows = asker.ask("forecast", &[("as_of", "2026-08-16"), ("customer", "bolt")]);
    let mb = ["mb_so_far", "mb_forecast", "mb_low", "mb_high"].map(|column| rows.sum(column));
    assert_eq!(mb, [12.0, 383.667, 367.824, 399.509]);
}

#[test]
fn a_plan_that_changes_in_the_month_splits_fee_and_usage() {
    let (database, asker) = filled("report_plan_change");
    // At noon of the 11th of September the SIM goes from the pool to the price by the MB: 10.5 of 30 days, at 1.2 MB a day.
    database.ask(
        "INSERT INTO sim_plans (iccid, since, plan_id, who, version) VALUES ('8949100000000000001', '2026-09-11 10:00:00', 'by-mb', 'ann', 2)",
    );
    asker.settle_costs();
    let rows = database.ask(
        "SELECT plan_id, share, fee, mb FROM sim_months(month = '2026-09-01') WHERE iccid = '8949100000000000001' ORDER BY plan_id",
    );
    // Until the 22nd there is usage: 31 August 22:00 to 11 September 10:00 are 252 hours, then 278 are left.
    assert_eq!(rows, "by-mb\t0.65\t0.325\t13.9\npool\t0.35\t0.35\t12.6");
    let rows = asker.ask("invoice", &[("month", "2026-09"), ("customer", "acme")]);
    assert_eq!(rows.of(&[("plan_id", "by-mb")], "units"), "7");
}

#[test]
fn operations_reads_where_sims_are_and_what_may_be_shipped() {
    let (_, asker) = filled("report_operations");
    let rows = asker.ask("sim-inventory", &[]);
    let live = [("state", "live"), ("plan_id", "pool")];
    assert_eq!((rows.of(&live, "sims"), rows.of(&live, "monthly_fees")), ("10".into(), "10.00".into()));
    assert_eq!(rows.sum("sims"), 32.0);

    let rows = asker.ask("sim-links", &[]);
    assert_eq!(rows.all("verdict").iter().filter(|verdict| *verdict == "as expected").count(), 25);
    let rows = asker.ask("sim-links", &[("id", "8949100000000000007")]);
    assert_eq!(rows.all("device_id"), ["scooter-07"]);
    let rows = asker.ask("sim-conflicts", &[]);
    assert_eq!(
        (rows.all("finding"), rows.all("device_id")),
        (vec!["unregistered".into()], vec!["guest-0".into()])
    );

    assert_eq!(asker.ask("preship", &[]).all("reasons"), ["never seen"; 5], "those in no shipment");
    let with = [
        ("devices", r#"["scooter-01","scooter-10","scooter-02","scooter-21","scooter-04","nobody"]"#),
        ("firmwares", r#"["","","3.0.0","","",""]"#),
        ("rsrp_min", "-105"),
    ];
    let rows = asker.ask("preship", &with);
    let reasons = rows.all("reasons");
    assert_eq!(rows.all("passed"), ["true", "false", "false", "false", "false", "false"]);
    assert_eq!(reasons[..3], ["", "firmware 2.0.0 instead of 2.1.0", "firmware 2.1.0 instead of 3.0.0"]);
    assert!(
        reasons[3].starts_with("last heartbeat is ") && reasons[3].ends_with(" min old"),
        "{}",
        reasons[3]
    );
    assert_eq!(reasons[4..], ["RSRP is -110 dBm", "never seen; not in the registry"]);
}

#[test]
fn customer_success_reads_what_devices_do_and_did() {
    let (_, asker) = filled("report_customers");
    let rows = asker.ask("fleet-status", &[("customer", "bolt")]);
    let count = |status| rows.all("status").iter().filter(|known| *known == status).count();
    assert_eq!((rows.len(), count("offline"), count("never_seen")), (10, 5, 5));
    assert_eq!(rows.of(&[("device_id", "scooter-21")], "offline_reason"), "keep_alive_timeout");
    assert_eq!(asker.ask("fleet-status", &[("customer", "acme"), ("status", "online")]).len(), 20);

    for id in ["490154203230007", "8949100000000000007", "262010000000007", "scooter-07"] {
        let devices = asker.ask("search", &[("id", id)]).all("device_id");
        assert!(
            !devices.is_empty() && devices.iter().all(|device| device == "scooter-07"),
            "{id}: {devices:?}"
        );
    }
    assert!(asker.ask("search", &[("id", "cooter 7")]).all("device_id").contains(&"scooter-07".to_owned()));

    let rows = asker.ask("ticket-context", &[]);
    assert_eq!(rows.of(&[("event", "reboot")], "minutes_from_opening"), "-720");
    assert_eq!(rows.of(&[("event", "ticket opened")], "minutes_from_opening"), "0");
    let before = rows.of(&[("event", "hour"), ("minutes_from_opening", "-60")], "detail");
    assert!(
        before.starts_with("6 heartbeats, battery ") && before.ends_with("parked and riding"),
        "{before}"
    );

    let rows = asker.ask("availability", &[("days", "1")]);
    assert_eq!(rows.of(&[("key", "acme")], "online_share"), "1");
    let away: f64 = rows.of(&[("key", "bolt")], "offline_h").parse().expect("a number");
    assert!((30.0..=35.1).contains(&away), "five devices, six hours and what is over of this one: {away}");

    let rows = asker.ask("ticket-risk", &[("score_min", "0"), ("customer", "acme")]);
    assert_eq!(rows.len(), 19, "one has an open ticket");
    assert_eq!(rows.all("device_id")[..2], ["scooter-10", "scooter-20"], "old firmware");
    assert_eq!(rows.of(&[("device_id", "scooter-10")], "score"), "5");
}
