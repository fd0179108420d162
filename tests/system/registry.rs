//! The registry: in over the command line or HTTP, checked, kept, and back as it was.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use registry::number::luhn;
use serde_json::Value;

use crate::pipeline::{Pipeline, command};
use crate::services::Services;

const TOKEN: &str = "a-token-for-tests-only";
/// What an import of 100,000 rows may take here. Far above what it takes: a slow machine is no failure.
const IMPORT_S_MAX: f64 = 60.0;

fn with_check_digit(body: &str) -> String {
    format!("{body}{}", luhn(body))
}

fn iccid(number: u32) -> String {
    with_check_digit(&format!("8949100000{number:08}"))
}

/// A database with the schema, and the means to run `fleetpulse registry` on it.
struct Registry {
    services: Services,
    database: String,
    settings: Vec<String>,
}

impl Registry {
    fn of(test: &str) -> Result<Self> {
        let services = Services::shared()?;
        let database = format!("test_{test}");
        services.ask("system", &format!("DROP DATABASE IF EXISTS {database}"))?;
        let settings = vec![
            format!("kafka.brokers={}", services.kafka),
            format!("kafka.events_topic=test.{test}.events"),
            format!("kafka.dead_letters_topic=test.{test}.dead-letters"),
            format!("kafka.commands_topic=test.{test}.commands"),
            "kafka.partitions=1".to_owned(),
            format!("clickhouse.url={}", services.clickhouse),
            format!("clickhouse.database={database}"),
        ];
        let migrated = command("migrate", &settings)?.output()?;
        ensure!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        Ok(Self { services, database, settings })
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = command("registry", &self.settings)?;
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run fleetpulse registry")?;
        let mut stdin = child.stdin.take().context("standard input")?;
        // One that refuses its arguments reads nothing.
        let _closed = stdin.write_all(input.as_bytes());
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    /// What it says, where it ends well.
    fn said(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.run(arguments, input)?;
        let (said, errors) =
            (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
        ensure!(output.status.success(), "{arguments:?}: {}: {said}{errors}", output.status);
        Ok(said)
    }

    fn import(&self, kind: &str, text: &str) -> Result<String> {
        self.said(&["import", kind, "-", "--who", "ann", "--why", "test"], text)
    }
}

#[test]
fn what_is_imported_is_reported_back_and_its_history_says_who_changed_it() -> Result<()> {
    let registry = Registry::of("registry_import")?;
    let (sim, other) = (iccid(1), iccid(2));
    let imei = with_check_digit("49015420323751");
    let files = [
        (
            "customers",
            "customer_id,name,country,billing_time_zone\nacme,\"=Acme, GmbH\",DE,Europe/Berlin\n".to_owned(),
        ),
        ("fleets", "{\"fleet_id\":\"berlin\",\"customer_id\":\"acme\",\"name\":\"Berlin\"}\n".to_owned()),
        ("plans", "plan_id,name,carrier,kind,tiers\niot,IoT,T,tiered,0:0.10 500:0.05\n".to_owned()),
        ("sims", format!("iccid,plan_id,state\n{sim},iot,live\n{other},iot,\n")),
        (
            "devices",
            format!("device_id;fleet_id;imei;iccid_expected;purchase_cost\nd-1;berlin;{imei};{sim};12.50\n"),
        ),
        ("budgets", "customer_id,month,amount\nacme,2026-01,100\n".to_owned()),
        ("shipments", "shipment_id,device_id,shipped_at\ns-1,d-1,2026-01-01T10:00:00+01:00\n".to_owned()),
        (
            "tickets",
            "ticket_id,device_id,opened_at,link\nt-1,d-1,2026-01-01T10:00:00Z,https://tickets.example/1\n"
                .to_owned(),
        ),
    ];
    for (kind, text) in &files {
        let rows = if *kind == "sims" { 2 } else { 1 };
        let would = registry.said(&["import", kind, "-", "--dry-run"], text)?;
        ensure!(
            would.ends_with(&format!("would be created {rows}, would be changed 0, unchanged 0\n")),
            "{would}"
        );
        ensure!(
            registry.import(kind, text)? == format!("created {rows}, changed 0, unchanged 0\n"),
            "{kind}"
        );
        let unchanged = format!("created 0, changed 0, unchanged {rows}\n");
        ensure!(registry.import(kind, text)? == unchanged, "{kind}: again is no change");
        for format in ["csv", "json"] {
            let exported = registry.said(&["export", kind, "--format", format], "")?;
            ensure!(registry.import(kind, &exported)? == unchanged, "{kind}: {exported}");
        }
    }
    ensure!(registry.said(&["export", "customers"], "")?.contains("\"'=Acme, GmbH\""));
    let stands =
        registry.services.ask(&registry.database, "SELECT name, billing_time_zone FROM customers")?;
    ensure!(stands == "=Acme, GmbH\tEurope/Berlin", "{stands}");
    let device = "SELECT fleet_id, iccid_expected = (SELECT iccid FROM sims WHERE state = 'live'), purchase_cost FROM devices";
    ensure!(registry.services.ask(&registry.database, device)? == "berlin\t1\t12.5");

    // A file with a problem changes nothing, and says all of them.
    let wrong = format!(
        "iccid,plan_id,state\n{sim},iot,paused\n{other},nonsense,live\n{},iot,live\n",
        "1".repeat(19)
    );
    let refused = registry.run(&["import", "sims", "-"], &wrong)?;
    let told = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(1), "{told}");
    ensure!(told.starts_with("-:3: plan_id: \"nonsense\"") && told.contains("\n-:4: iccid:"), "{told}");
    ensure!(told.ends_with("2 problems; nothing was changed\n"), "{told}");

    let paused =
        registry.said(&["sim", "set-state", &sim, "paused", "--who", "bob", "--why", "in repair"], "")?;
    ensure!(paused == "created 0, changed 1, unchanged 0\n", "{paused}");
    let back = registry.run(&["sim", "set-state", &sim, "testing"], "")?;
    ensure!(
        back.status.code() == Some(1)
            && String::from_utf8_lossy(&back.stderr).contains("cannot follow paused")
    );
    let history = registry.said(&["history", "sims", &sim], "")?;
    let changes: Vec<&str> = history.lines().filter(|line| !line.starts_with(' ')).collect();
    ensure!(changes.len() == 2, "{history}");
    ensure!(
        changes[0].ends_with("changed  bob (in repair)") && changes[1].ends_with("created  ann (test)"),
        "{history}"
    );
    ensure!(history.contains("    state: \"live\" -> \"paused\""), "{history}");
    let states = "SELECT arrayStringConcat(groupArray(concat(toString(state), ' ', who)), ', ') FROM \
                  (SELECT * FROM sim_states FINAL WHERE state IN ('live', 'paused') ORDER BY since)";
    ensure!(registry.services.ask(&registry.database, states)? == "live ann, paused bob");

    let named = registry.run(&["delete", "fleets", "berlin"], "")?;
    ensure!(
        named.status.code() == Some(1)
            && String::from_utf8_lossy(&named.stderr).contains("\"d-1\" of the devices")
    );
    registry.said(&["delete", "tickets", "t-1", "--who", "bob"], "")?;
    ensure!(registry.services.ask(&registry.database, "SELECT count() FROM tickets")? == "0");
    ensure!(registry.said(&["history", "tickets", "t-1"], "")?.contains("deleted  bob"));
    Ok(())
}

#[test]
fn a_hundred_thousand_rows_are_imported_within_seconds() -> Result<()> {
    let registry = Registry::of("registry_large")?;
    registry.import("customers", "customer_id,name,country\nacme,Acme,DE\n")?;
    registry.import("fleets", "fleet_id,customer_id,name\nberlin,acme,Berlin\n")?;
    let (mut sims, mut devices) =
        ("iccid,imsi,state\n".to_owned(), "device_id,fleet_id,imei,iccid_expected,model\n".to_owned());
    for number in 0..100_000 {
        let iccid = iccid(number);
        writeln!(sims, "{iccid},26201{number:010},live")?;
        writeln!(
            devices,
            "scooter-{number},berlin,{},{iccid},X{}",
            with_check_digit(&format!("{number:014}")),
            number % 5
        )?;
    }
    let timed = |kind: &str, text: &str, expected: &str| -> Result<()> {
        let began = Instant::now();
        let said = registry.import(kind, text)?;
        let seconds = began.elapsed().as_secs_f64();
        println!("{kind}: {} bytes, {said:?} in {seconds:.2} s", text.len());
        ensure!(said == expected, "{said}");
        ensure!(seconds < IMPORT_S_MAX, "{seconds} s");
        Ok(())
    };
    timed("sims", &sims, "created 100000, changed 0, unchanged 0\n")?;
    timed("devices", &devices, "created 100000, changed 0, unchanged 0\n")?;
    timed("devices", &devices, "created 0, changed 0, unchanged 100000\n")?;
    timed("devices", &devices.replace(",X4\n", ",X5\n"), "created 0, changed 20000, unchanged 80000\n")?;
    ensure!(
        registry.services.ask(&registry.database, "SELECT count(), countIf(model = 'X5') FROM devices")?
            == "100000\t20000"
    );
    Ok(())
}

/// Asks the API; status and body.
fn ask(operations: SocketAddr, method: &str, path: &str, token: &str, body: &str) -> Result<(u16, Value)> {
    let url = format!("http://{operations}{path}");
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(url)
        .header("authorization", format!("Bearer {token}"))
        .body(body.to_owned())?;
    let agent =
        ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let mut answer = agent.run(request)?;
    let text = answer.body_mut().read_to_string()?;
    Ok((answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

#[test]
fn the_registry_over_http_is_what_its_description_says_to_whoever_has_the_token() -> Result<()> {
    let file = std::env::temp_dir().join(format!("fleetpulse-registry-token-{}", std::process::id()));
    std::fs::write(&file, TOKEN)?;
    let token_file = format!("registry.token_file={}", file.display());
    let started = Pipeline::start_on(
        "registry_http",
        Services::shared()?,
        &[&token_file, "registry.body_bytes_max=2048"],
    );
    std::fs::remove_file(&file)?;
    let pipeline = started?;
    let operations = pipeline.writer_operations;
    let asked = |method: &str, path: &str, body: &str| ask(operations, method, path, TOKEN, body);

    // The description names the routes that there are, and the columns that there are.
    let (status, description) = asked("GET", "/registry/openapi.json", "")?;
    ensure!(status == 200 && description["openapi"] == "3.1.0");
    let paths = description["paths"].as_object().context("paths")?;
    for (path, methods) in paths {
        let path = path.replace("{id}", "x");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let described = methods.get(method.to_lowercase()).is_some();
            let (status, _) = ask(operations, method, &path, "another-token-of-length", "")?;
            ensure!(status == if described { 401 } else { 405 }, "{method} {path}: {status}");
        }
    }
    ensure!(paths.len() == registry::Kind::ALL.len() * 3, "{}", paths.len());
    for kind in registry::Kind::ALL {
        let properties =
            description["components"]["schemas"][kind.word()]["properties"].as_object().context("columns")?;
        let mut columns: Vec<&str> = kind.columns().iter().map(|column| column.name).collect();
        columns.sort_unstable();
        ensure!(properties.keys().map(String::as_str).eq(columns), "{kind}");
    }

    let customer = r#"{"name":"Acme","country":"DE","fee_per_device":"1.50"}"#;
    let (status, made) = asked("PUT", "/registry/v1/customers/acme?who=ann&why=new", customer)?;
    ensure!(status == 200 && made["created"] == 1, "{status} {made}");
    let (_, again) = asked("PUT", "/registry/v1/customers/acme", customer)?;
    ensure!(again["unchanged"] == 1 && again["changes"] == serde_json::json!([]), "{again}");
    let (status, entry) = asked("GET", "/registry/v1/customers/acme", "")?;
    ensure!(status == 200 && entry["fee_per_device"] == "1.5" && entry["billing_day"] == 1, "{entry}");
    let (status, refused) =
        asked("PUT", "/registry/v1/customers/acme", r#"{"customer_id":"b","name":"A","country":"de"}"#)?;
    ensure!(status == 422 && refused["problems_total"] == 2, "{status} {refused}");
    ensure!(asked("GET", "/registry/v1/customers/nobody", "")?.0 == 404);
    ensure!(asked("GET", "/registry/v1/scooters", "")?.0 == 404);

    let fleets = "fleet_id,customer_id,name\na,acme,A\nb,acme,B\nc,acme,C\n";
    let (_, dry) = asked("POST", "/registry/v1/fleets?dry_run=true", fleets)?;
    ensure!(dry["dry_run"] == true && dry["created"] == 3, "{dry}");
    let (status, misspelt) = asked("POST", "/registry/v1/fleets?dryrun=true", fleets)?;
    ensure!(status == 400 && misspelt["error"] == "parameter", "{misspelt}");
    ensure!(pipeline.ask("SELECT count() FROM fleets")? == "0", "nothing was imported");
    ensure!(asked("POST", "/registry/v1/fleets", fleets)?.1["created"] == 3);
    let (_, page) = asked("GET", "/registry/v1/fleets?limit=2", "")?;
    ensure!(page["rows"][1]["fleet_id"] == "b" && page["next"] == "b", "{page}");
    let (_, last) = asked("GET", "/registry/v1/fleets?limit=2&after=b", "")?;
    ensure!(last["rows"][0]["fleet_id"] == "c" && last["next"].is_null(), "{last}");
    let (status, large) = asked("POST", "/registry/v1/fleets", &"x".repeat(4_096))?;
    ensure!(status == 413 && large["error"] == "body_bytes_max", "{large}");
    ensure!(pipeline.writer_metric("fleetpulse_registry_refused_total{reason=\"body_bytes_max\"}")? == 1.0);

    let plans = "plan_id,valid_from,valid_to,name,carrier,kind\np,2026-01-01,2026-02-01,P,T,pooled\np,2026-02-01,,P,T,pooled\n";
    ensure!(asked("POST", "/registry/v1/plans", plans)?.1["created"] == 2);
    ensure!(asked("DELETE", "/registry/v1/plans/p,2026-01-01", "")?.0 == 200);
    let (status, named) = asked("DELETE", "/registry/v1/customers/acme", "")?;
    ensure!(status == 409 && named["error"] == "referred", "{named}");
    let (_, history) = asked("GET", "/registry/v1/customers/acme/history", "")?;
    let changes = history["changes"].as_array().context("changes")?;
    ensure!(changes.len() == 1 && changes[0]["who"] == "ann" && changes[0]["why"] == "new", "{history}");
    pipeline.stop()
}
