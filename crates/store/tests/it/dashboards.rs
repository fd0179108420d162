//! The dashboards of the five teams are made of the reports, and every query of every dashboard is one that the schema can answer.
//!
//! `FLEETPULSE_WRITE_DASHBOARDS=1 cargo xtask test -- -p store --test it dashboards` writes them anew after a report has changed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use store::{Kind, Months, Parameter, Report};

use crate::database::Database;

/// Rows of a panel.
const ROWS_MAX: u32 = 1_000;

/// A panel: a report, as what and how high it is shown, and what it is asked with beside the dashboard's variables.
struct Panel {
    report: &'static str,
    shown: &'static str,
    title: &'static str,
    width: u32,
    height: u32,
    with: &'static [(&'static str, &'static str)],
}

const fn panel(report: &'static str, title: &'static str, width: u32, height: u32) -> Panel {
    Panel { report, shown: "table", title, width, height, with: &[] }
}

/// File, title and panels.
type Dashboard = (&'static str, &'static str, &'static [Panel]);

const DASHBOARDS: &[Dashboard] = &[
    (
        "engineering",
        "Engineering: what devices and radio do",
        &[
            panel("device-timeline", "What the device did", 24, 12),
            panel("reconnect-storms", "Reconnect storms", 12, 8),
            panel("heartbeat-interval", "What another heartbeat interval would cost", 12, 8),
            panel("signal-by-firmware", "Radio by firmware", 12, 8),
            panel("signal-by-city", "Radio by city", 12, 8),
            panel("signal-by-cell", "Radio by cell, the worst first", 24, 10),
        ],
    ),
    (
        "product",
        "Product: what data is for, and where it gets through",
        &[
            Panel { shown: "barchart", ..panel("data-need", "Data by state and category", 12, 9) },
            Panel {
                shown: "barchart",
                ..panel("data-need-by-feature", "Data by feature of a heartbeat", 12, 9)
            },
            Panel { shown: "geomap", ..panel("coverage", "Where devices fall silent", 12, 12) },
            panel("coverage", "The same, place by place", 12, 12),
            panel("invoice", "Invoices", 24, 10),
        ],
    ),
    (
        "finance",
        "Finance: what it costs and will cost",
        &[
            panel("forecast", "To the end of the running month", 24, 7),
            panel("cost-vs-budget", "Cost against budget", 24, 8),
            panel("usage", "Usage and cost by plan", 12, 8),
            Panel { with: &[("by", "network")], ..panel("usage", "Usage and cost by network", 12, 8) },
            panel("silent-sims", "SIMs that cost without talking", 12, 9),
            panel("best-plan", "Plans that would have been cheaper", 12, 9),
            panel("payback", "Payback and return", 24, 7),
        ],
    ),
    (
        "operations",
        "Operations: SIMs, and what may be shipped",
        &[
            panel("sim-inventory", "SIMs by state", 24, 8),
            panel("sim-conflicts", "SIMs that are not as they should be", 24, 9),
            panel("preship", "In no shipment yet: fit to be shipped?", 24, 9),
            panel("sim-links", "Which SIM is in which modem and device", 24, 10),
        ],
    ),
    (
        "customer-success",
        "Customer success: what customers see",
        &[
            panel("search", "Which device is it?", 24, 7),
            panel("availability", "Availability by customer", 12, 8),
            Panel { with: &[("by", "fleet")], ..panel("availability", "Availability by fleet", 12, 8) },
            panel("ticket-risk", "Likely to raise a ticket soon", 24, 9),
            panel("fleet-status", "What every device does", 24, 12),
            panel("ticket-context", "What the device did around the ticket", 24, 10),
        ],
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana/dashboards")
}

/// A variable of dashboards: parameters of that name ask for it.
fn variable(name: &str) -> Option<Value> {
    let of_query = |label: &str, sql: &str| {
        json!({
            "name": name, "label": label, "type": "query", "refresh": 1, "sort": 0,
            "datasource": {"type": "grafana-clickhouse-datasource", "uid": "${datasource}"},
            "query": {"rawSql": sql, "editorType": "sql", "queryType": "table", "format": 1},
        })
    };
    let of_numbers = |label: &str, numbers: &str, first: &str| {
        json!({
            "name": name, "label": label, "type": "custom", "query": numbers,
            "current": {"text": first, "value": first},
        })
    };
    Some(match name {
        "customer" => of_query(
            "Customer (none: all)",
            "SELECT customer_id FROM (SELECT '' AS customer_id UNION ALL SELECT customer_id FROM customers) ORDER BY customer_id",
        ),
        "device" => of_query(
            "Device",
            "SELECT device_id FROM device_status ORDER BY last_received_at DESC LIMIT 1000",
        ),
        "ticket" => of_query("Ticket", "SELECT ticket_id FROM tickets ORDER BY opened_at DESC LIMIT 1000"),
        "month" => of_query(
            "Month",
            "SELECT toString(addMonths(toStartOfMonth(today()), -number)) AS month FROM numbers(25) ORDER BY month DESC",
        ),
        "days" => of_numbers("Days", "1,7,30,90", "7"),
        "hours" => of_numbers("Hours", "24,72,168,720", "24"),
        "id" => json!({"name": name, "label": "Any id or name", "type": "textbox", "query": ""}),
        _ => return None,
    })
}

/// What stands in a panel's query in the place of a parameter.
fn expression(parameter: &Parameter, fixed: Option<&str>) -> String {
    let text = |text: &str| format!("'{text}'");
    let value = fixed.unwrap_or(parameter.default);
    match (&parameter.kind, fixed.is_none() && variable(parameter.name).is_some()) {
        (Kind::Text, true) => format!("${{{}:sqlstring}}", parameter.name),
        (Kind::Day, true) => format!("toDate(${{{}:sqlstring}})", parameter.name),
        (Kind::Whole(column, _), true) => format!("to{column}(${{{}}})", parameter.name),
        (Kind::Whole(column, _), false) => format!("to{column}({value})"),
        (Kind::Number, _) => format!("toFloat64({value})"),
        (Kind::Texts, _) => format!("CAST({value}, 'Array(String)')"),
        (Kind::Flag, _) => value.to_owned(),
        (Kind::Day, false) => match value {
            "today" => "today()".to_owned(),
            "tomorrow" => "today() + 1".to_owned(),
            "last_month" => "addMonths(toStartOfMonth(today()), -1)".to_owned(),
            day => format!("toDate({})", text(day)),
        },
        (Kind::Text | Kind::OneOf(_), _) => text(value),
    }
}

fn query(report: &Report, panel: &Panel) -> String {
    let mut sql = report.sql.to_owned();
    for parameter in &report.parameters {
        let fixed = panel.with.iter().find(|(name, _)| *name == parameter.name).map(|(_, value)| *value);
        let place = format!("{{{}:{}}}", parameter.name, parameter.kind.column());
        sql = sql.replace(&place, &expression(parameter, fixed));
    }
    format!("{sql}\nLIMIT {ROWS_MAX}")
}

fn dashboard((file, title, panels): &Dashboard) -> Value {
    let source = json!({"type": "grafana-clickhouse-datasource", "uid": "${datasource}"});
    let (mut x, mut y, mut row_height) = (0, 0, 0);
    let (mut shown, mut wanted) = (Vec::new(), Vec::new());
    for (nth, panel) in panels.iter().enumerate() {
        let report = Report::named(panel.report).expect("a report");
        if x + panel.width > 24 {
            (x, y, row_height) = (0, y + row_height, 0);
        }
        for parameter in &report.parameters {
            let fixed = panel.with.iter().any(|(name, _)| *name == parameter.name);
            if !fixed && variable(parameter.name).is_some() && !wanted.contains(&parameter.name) {
                wanted.push(parameter.name);
            }
        }
        let options = match panel.shown {
            "geomap" => json!({
                "view": {"id": "fit", "allLayers": true},
                "basemap": {"type": "default", "name": "Map"},
                "layers": [{
                    "type": "markers", "name": "places", "tooltip": true,
                    "location": {"mode": "coords", "latitude": "latitude_deg", "longitude": "longitude_deg"},
                    "config": {"style": {"color": {"field": "silent_share"}, "size": {"field": "heartbeats", "min": 3, "max": 12}}},
                }],
            }),
            "barchart" => json!({"orientation": "horizontal", "stacking": "none"}),
            _ => json!({"showHeader": true}),
        };
        shown.push(json!({
            "id": nth + 1, "type": panel.shown, "title": panel.title,
            "description": format!("{} `fleetpulse report {}`\n\nDoes not know: {}", report.question, report.name, report.unknown),
            "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
            "datasource": source, "fieldConfig": {"defaults": {}, "overrides": []}, "options": options,
            "targets": [{"refId": "A", "editorType": "sql", "queryType": "table", "format": 1, "rawSql": query(report, panel)}],
        }));
        x += panel.width;
        row_height = row_height.max(panel.height);
    }
    let datasource = json!({"name": "datasource", "label": "ClickHouse", "type": "datasource", "query": "grafana-clickhouse-datasource"});
    let variables: Vec<Value> =
        [datasource].into_iter().chain(wanted.iter().filter_map(|name| variable(name))).collect();
    json!({
        "uid": format!("fleetpulse-{file}"), "title": title, "tags": ["fleetpulse"], "schemaVersion": 39, "editable": true,
        "refresh": "", "time": {"from": "now-24h", "to": "now"}, "timezone": "utc",
        "templating": {"list": variables}, "panels": shown,
    })
}

#[test]
fn dashboards_of_teams_are_made_of_their_reports() {
    let write = std::env::var_os("FLEETPULSE_WRITE_DASHBOARDS").is_some();
    for of_team in DASHBOARDS {
        let path = folder().join(format!("{}.json", of_team.0));
        let made = dashboard(of_team);
        if write {
            std::fs::write(&path, format!("{made:#}\n")).expect("written");
        }
        let stands: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).expect("a file")).expect("json");
        assert!(
            stands == made,
            "{} is not what the reports say: write it anew, as this file's head says",
            path.display()
        );
        for panel in of_team.2 {
            let team = Report::named(panel.report).expect("a report").team.replace(' ', "-");
            assert_eq!(team, of_team.0, "{}", panel.report);
        }
    }
    let on_one = |report: &Report| {
        DASHBOARDS.iter().any(|of_team| of_team.2.iter().any(|panel| panel.report == report.name))
    };
    let missing: Vec<&str> =
        Report::all().iter().filter(|report| !on_one(report)).map(|report| report.name).collect();
    assert!(missing.is_empty(), "on no dashboard: {missing:?}");
}

#[test]
fn every_query_of_every_dashboard_can_be_answered() {
    let database = Database::of("dashboards");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(database.store().migrate()).expect("migrated");
    // The month that is asked for is one of those that are settled.
    database.ask("INSERT INTO sim_states (iccid, since, state, version) VALUES ('s', '2026-08-01 00:00:00', 'live', 1)");
    runtime.block_on(database.store().settle_costs(Months::All)).expect("settled");
    let mut asked = 0;
    for file in std::fs::read_dir(folder()).expect("a folder") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let mut found = Vec::new();
        queries(&serde_json::from_str(&text).expect("json"), &mut found);
        for sql in found {
            let filled = filled(&sql);
            assert!(!filled.contains("$__") && !filled.contains("${"), "{}: {filled}", path.display());
            database.ask(&format!("EXPLAIN {filled}"));
            asked += 1;
        }
    }
    assert!(asked > 40, "queries were found: {asked}");
}

/// Every `rawSql` below.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(sql) if name == "rawSql" => found.push(sql.clone()),
                    field => queries(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

/// With values in the place of variables and macros, as Grafana puts them there.
fn filled(sql: &str) -> String {
    let mut sql = sql
        .replace("${month:sqlstring}", "'2026-08-01'")
        .replace("${days}", "7")
        .replace("${hours}", "24")
        .replace("$__fromTime", "toDateTime('2026-08-01 00:00:00', 'UTC')")
        .replace("$__toTime", "toDateTime('2026-08-02 00:00:00', 'UTC')")
        .replace("$__timeInterval(", "toStartOfMinute(");
    for name in ["customer", "device", "ticket", "id"] {
        sql = sql.replace(&format!("${{{name}:sqlstring}}"), "'it''s'");
    }
    while let Some((before, rest)) = sql.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').expect("a closed bracket");
        sql = format!("{before}({column} >= now() - INTERVAL 1 DAY AND {column} <= now()){after}");
    }
    sql
}
