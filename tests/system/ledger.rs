//! The ledger: what gateways counted is what stands, and where it is not, it says so.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::pipeline::{Pipeline, command};
use crate::services::eventually;

/// How long minutes may take to be told and read: far above what it takes.
const WAIT: &str = "170s";

/// What `fleetpulse ledger` says of the last ten minutes.
pub(crate) struct Ledger {
    code: i32,
    document: Value,
    pub text: String,
}

impl Ledger {
    pub(crate) fn of(pipeline: &Pipeline) -> Result<Self> {
        let said = |arguments: &[&str]| -> Result<Output> {
            let mut ledger = command("ledger", pipeline.settings())?;
            ledger.args(["--since", "10m", "--all"]).args(arguments);
            ledger.output().context("cannot run fleetpulse ledger")
        };
        let json = said(&["--format", "json", "--wait", WAIT])?;
        let document = serde_json::from_slice(&json.stdout)
            .with_context(|| format!("no JSON: {}", String::from_utf8_lossy(&json.stderr)))?;
        let text = String::from_utf8(said(&[])?.stdout)?;
        Ok(Self { code: json.status.code().context("it was killed")?, document, text })
    }

    pub(crate) fn total(&self, name: &str) -> Result<u64> {
        self.document["totals"][name].as_u64().with_context(|| format!("no total {name}: {}", self.text))
    }

    pub(crate) fn lines_of(&self, state: &str) -> Vec<&Value> {
        let lines = self.document["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
        lines.iter().filter(|line| line["state"] == state).collect()
    }

    pub(crate) fn expect(&self, code: i32) -> Result<()> {
        ensure!(self.code == code, "exit code {} and not {code}: {}", self.code, self.text);
        Ok(())
    }
}

/// Publishes heartbeats 1 to `count` of a device, each acknowledged.
fn publish(pipeline: &Pipeline, device: &str, count: u16) -> Result<()> {
    let mut client = pipeline.connect(device, 5)?;
    for number in 1..=count {
        let payload = format!(r#"{{"ts":{},"seq":{number}}}"#, 1_767_225_600_000 + u64::from(number) * 1_000);
        ensure!(client.acknowledged_heartbeat(number, &payload)? == 0);
    }
    Ok(())
}

#[test]
fn the_ledger_balances_and_names_what_is_taken_away() -> Result<()> {
    let mut pipeline = Pipeline::start("ledger_balances")?;
    for device in ["one", "two", "three"] {
        publish(&pipeline, device, 40)?;
    }
    let mut client = pipeline.connect("one", 5)?;
    // Twice the same; what is no heartbeat; and one that nobody acknowledges.
    ensure!(client.acknowledged_heartbeat(1, r#"{"ts":1767225601000,"seq":1}"#)? == 0);
    ensure!(client.acknowledged_heartbeat(2, "not json")? == 0x99);
    let (topic, payload) = ("devices/one/heartbeat", r#"{"seq":77}"#);
    let length = u8::try_from(2 + topic.len() + 1 + payload.len())?;
    let topic_length = u8::try_from(topic.len())?;
    client.send(&[&[0x30, length, 0, topic_length], topic.as_bytes(), &[0], payload.as_bytes()].concat())?;
    client.acknowledged_heartbeat(3, r#"{"seq":78}"#)?;
    drop(client);
    let status = pipeline.gateway.terminate(crate::services::DEADLINE)?;
    ensure!(status.success(), "{status}");

    let ledger = Ledger::of(&pipeline)?;
    ledger.expect(0)?;
    ensure!(ledger.total("acknowledged")? == 120 + 3, "{}", ledger.text);
    ensure!(ledger.total("heartbeats")? == 120 + 3, "{}", ledger.text);
    ensure!(ledger.total("deduplicated")? == 1, "{}", ledger.text);
    ensure!(ledger.total("dead_lettered")? == 1 && ledger.total("lost")? == 0, "{}", ledger.text);
    // Four sessions came and went.
    ensure!(ledger.total("produced")? == 123 + 1 + 8, "{}", ledger.text);
    ensure!(ledger.total("produced")? == ledger.total("consumed")?, "{}", ledger.text);

    // Merged or not, the heartbeat that came twice is explained.
    pipeline.ask("SYSTEM START MERGES heartbeats")?;
    pipeline.ask("OPTIMIZE TABLE heartbeats FINAL")?;
    let merged = Ledger::of(&pipeline)?;
    merged.expect(0)?;
    ensure!(merged.total("deduplicated")? == 1, "{}", merged.text);

    let question = "SELECT kafka_partition, min(kafka_offset) FROM heartbeats WHERE device_id = 'two' AND sequence = 7 GROUP BY ALL";
    let record = pipeline.ask(question)?;
    let (partition, offset) = record.split_once('\t').context("a record")?;
    pipeline.ask(
        "ALTER TABLE heartbeats DELETE WHERE device_id = 'two' AND sequence = 7 SETTINGS mutations_sync = 2",
    )?;
    let missing = Ledger::of(&pipeline)?;
    missing.expect(1)?;
    ensure!(missing.total("lost")? == 1 && missing.total("deduplicated")? == 1, "{}", missing.text);
    let lines = missing.lines_of("difference");
    let line = lines.first().context("a difference")?;
    let offset: u64 = offset.parse()?;
    ensure!(line["partition"] == partition.parse::<u64>()?, "{line}");
    ensure!(line["lost_offsets"][0] == offset, "{line}");
    let batches = line["batches"].as_array().context("batches")?;
    ensure!(
        batches.iter().any(|range| range[0].as_u64() <= Some(offset) && range[1].as_u64() >= Some(offset)),
        "{line}"
    );
    ensure!(missing.text.contains(&format!("of the records {offset}")), "{}", missing.text);

    pipeline.ask("TRUNCATE TABLE heartbeats")?;
    let gone = Ledger::of(&pipeline)?;
    gone.expect(1)?;
    ensure!(gone.total("lost")? == 123 && gone.total("deduplicated")? == 0, "{}", gone.text);

    pipeline.ask("TRUNCATE TABLE dead_letters")?;
    let gone = Ledger::of(&pipeline)?;
    ensure!(gone.lines_of("difference").iter().any(|line| line["stream"] == "dead_letters"), "{}", gone.text);
    let status = pipeline.writer.terminate(crate::services::DEADLINE)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_gateway_that_is_killed_leaves_minutes_that_are_explained_by_its_loss() -> Result<()> {
    let mut pipeline = Pipeline::start("ledger_node_lost")?;
    publish(&pipeline, "before", 20)?;
    pipeline.gateway.kill()?;
    pipeline.start_gateway()?;
    publish(&pipeline, "after", 20)?;
    pipeline.gateway.terminate(crate::services::DEADLINE)?;
    let ledger = Ledger::of(&pipeline)?;
    ledger.expect(0)?;
    ensure!(!ledger.lines_of("node_lost").is_empty(), "{}", ledger.text);
    ensure!(ledger.total("differences")? == 0 && ledger.total("standing")? == 40, "{}", ledger.text);
    Ok(())
}

#[test]
fn a_clickhouse_that_does_not_answer_is_no_balance() -> Result<()> {
    let pipeline = Pipeline::start("ledger_unseen")?;
    let mut settings = pipeline.settings().to_vec();
    settings.push("clickhouse.url=http://127.0.0.1:9".to_owned());
    let output = command("ledger", &settings)?.output()?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    pipeline.stop()
}

#[test]
fn the_writer_looks_by_itself_and_counts_the_differences() -> Result<()> {
    let mut pipeline = Pipeline::start_on(
        "ledger_watched",
        crate::services::Services::shared()?,
        &["writer.ledger_look_every_s=1"],
    )?;
    publish(&pipeline, "watched", 20)?;
    pipeline.gateway.terminate(crate::services::DEADLINE)?;
    let differences = |pipeline: &Pipeline| pipeline.writer_metric("fleetpulse_ledger_differences");
    pipeline.eventually("SELECT count() FROM heartbeats", "20")?;
    // A deletion is a merge, too.
    pipeline.ask("SYSTEM START MERGES heartbeats")?;
    let minute = pipeline.ask("SELECT toUnixTimestamp(max(toStartOfMinute(received_at))) FROM heartbeats")?;
    pipeline.ask("ALTER TABLE heartbeats DELETE WHERE sequence = 3 SETTINGS mutations_sync = 2")?;
    // It looks at minutes that are over alone.
    std::thread::park_timeout(until_over(minute.parse()?)?);
    eventually("a difference in the metric", || {
        let found = differences(&pipeline)?;
        if found == 1.0 { Ok(Some(())) } else { Err(anyhow!("{found} differences")) }
    })?;
    pipeline.writer.terminate(crate::services::DEADLINE)?;
    Ok(())
}

/// How long a minute still runs.
fn until_over(minute: u64) -> Result<Duration> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(Duration::from_secs(minute + 60).saturating_sub(now))
}
