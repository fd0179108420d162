//! What was lost comes back: once, and only what was lost.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devstack::Brokers;

use crate::fleet::{Fleet, more_rows};
use crate::ledger::Ledger;
use crate::pipeline::{Pipeline, command};
use crate::services::{DEADLINE, Services, folder, own_kafka};

/// Takes half of the heartbeats away, as a mutation, which leaves the tokens of their inserts known.
fn lose(pipeline: &Pipeline) -> Result<()> {
    // A mutation is a merge, too.
    pipeline.ask("SYSTEM START MERGES heartbeats")?;
    pipeline.ask(
        "ALTER TABLE heartbeats DELETE WHERE cityHash64(device_id) % 2 = 0 OR device_id = 'careful' \
         SETTINGS mutations_sync = 2",
    )?;
    pipeline.stop_merges()
}

/// What `fleetpulse replay` of the last ten minutes said.
struct Replayed {
    code: Option<i32>,
    said: String,
}

impl Replayed {
    fn of(pipeline: &Pipeline, arguments: &[&str]) -> Result<Self> {
        let mut replay = command("replay", pipeline.settings())?;
        let output: Output = replay.args(["--from", "10m"]).args(arguments).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok(Self { code: output.status.code(), said: String::from_utf8(said)? })
    }

    fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "exit code {:?} and not {code}: {}", self.code, self.said);
        Ok(self)
    }

    /// Counts of a table: records, standing, elsewhere, missing or brought back, refused.
    fn counts(&self, table: &str) -> Result<[u64; 5]> {
        let line = self.said.lines().find(|line| line.split_whitespace().next() == Some(table));
        let line = line.with_context(|| format!("no {table}: {}", self.said))?;
        let counts: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        counts.try_into().ok().with_context(|| format!("five counts: {line}"))
    }

    /// A count of the dead letters.
    fn letters(&self, name: &str) -> Result<u64> {
        let line = self.said.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name}: {}", self.said))?;
        Ok(line.split_whitespace().next().context("a count")?.parse()?)
    }

    /// Missing, or brought back, of all tables.
    fn missing(&self) -> Result<u64> {
        let tables = ["heartbeats", "connections", "dead_letters", "nodes", "node_ledgers"];
        tables.iter().map(|table| Ok(self.counts(table)?[3])).sum()
    }
}

#[test]
fn rows_that_were_lost_come_back_once_while_a_fleet_goes_on() -> Result<()> {
    let pipeline = Pipeline::start("replay_lost")?;
    let mut device = pipeline.connect("careful", 5)?;
    ensure!(device.acknowledged_heartbeat(1, r#"{"ts":1767225601000,"seq":1}"#)? == 0);
    ensure!(device.acknowledged_heartbeat(2, "not json")? == 0x99);
    let fleet = Fleet::start(pipeline.mqtt, 50, Duration::from_millis(100));
    for _ in 0..3 {
        more_rows(&pipeline)?;
    }
    pipeline.eventually("SELECT count() FROM dead_letters", "1")?;
    pipeline.eventually("SELECT count() FROM heartbeats WHERE device_id = 'careful'", "1")?;
    let concluded: u64 = pipeline.ask("SELECT count() FROM heartbeats")?.parse()?;

    // A table emptied, half of another gone, and a rollup.
    pipeline.ask("TRUNCATE TABLE dead_letters")?;
    lose(&pipeline)?;
    let forget = || pipeline.ask("ALTER TABLE device_newest DELETE WHERE true SETTINGS mutations_sync = 2");
    forget()?;
    let gone = || -> Result<(String, String)> {
        let heartbeats = pipeline.ask("SELECT count() FROM heartbeats WHERE device_id = 'careful'")?;
        Ok((heartbeats, pipeline.ask("SELECT count() FROM dead_letters")?))
    };
    let before = gone()?;
    ensure!(before == ("0".to_owned(), "0".to_owned()), "{before:?}");
    let dry = Replayed::of(&pipeline, &["--dry-run"])?.expect(0)?;
    let [records, standing, _, missing, refused] = dry.counts("heartbeats")?;
    ensure!(records >= concluded && missing > 10 && standing > 10 && refused == 0, "{}", dry.said);
    ensure!(dry.counts("dead_letters")? == [1, 0, 0, 1, 0], "{}", dry.said);
    ensure!(gone()? == before, "a dry run changed something");

    let real = Replayed::of(&pipeline, &[])?.expect(0)?;
    ensure!(real.counts("heartbeats")?[3] == missing, "{} and then {}", dry.said, real.said);
    ensure!(real.counts("dead_letters")? == [1, 0, 0, 1, 0], "{}", real.said);
    ensure!(pipeline.ask("SELECT count(), any(payload) FROM dead_letters")? == "1\tnot json");
    // Again the same are gone: a replay's own tokens do not stand in the way of the next one.
    lose(&pipeline)?;
    forget()?;
    ensure!(Replayed::of(&pipeline, &[])?.expect(0)?.counts("heartbeats")?[3] > 10);
    let again = Replayed::of(&pipeline, &[])?.expect(0)?;
    ensure!(again.missing()? == 0, "{}", again.said);

    fleet.verify(&pipeline)?;
    pipeline.rollups_are_true()?;
    let all = Replayed::of(&pipeline, &[])?.expect(0)?;
    ensure!(all.missing()? == 0, "{}", all.said);
    pipeline.stop()
}

#[test]
fn dead_letters_that_are_heartbeats_by_now_come_back_once_and_the_ledger_still_balances() -> Result<()> {
    let mut pipeline = Pipeline::start("replay_letters")?;
    pipeline.ask("ALTER TABLE heartbeats ADD CONSTRAINT plausible CHECK firmware != 'early'")?;
    let mut device = pipeline.connect("early", 5)?;
    for sequence in 1..=9_u16 {
        let firmware = if sequence % 3 == 0 { "early" } else { "1.0" };
        let payload = format!(
            r#"{{"ts":{},"seq":{sequence},"firmware":"{firmware}"}}"#,
            1_767_225_600_000_u64 + u64::from(sequence)
        );
        ensure!(device.acknowledged_heartbeat(sequence, &payload)? == 0);
    }
    ensure!(device.acknowledged_heartbeat(10, "a decoder's mistake")? == 0x99);
    ensure!(device.acknowledged_heartbeat(11, "the device's own mistake")? == 0x99);
    drop(device);
    pipeline.eventually("SELECT count() FROM dead_letters", "5")?;
    pipeline.eventually("SELECT count() FROM heartbeats", "6")?;
    // What a fix changes: ClickHouse takes those, and the decoder reads one of these.
    pipeline.ask("ALTER TABLE heartbeats DROP CONSTRAINT plausible")?;
    pipeline.ask(
        "ALTER TABLE dead_letters UPDATE payload = '{\"ts\":1767225600010,\"seq\":10}' \
         WHERE payload = 'a decoder\\'s mistake' SETTINGS mutations_sync = 2",
    )?;

    let dry = Replayed::of(&pipeline, &["--dead-letters", "--dry-run"])?.expect(1)?;
    ensure!(dry.letters("would be sent")? == 4 && dry.letters("not_json")? == 1, "{}", dry.said);
    ensure!(pipeline.ask("SELECT count() FROM heartbeats")? == "6", "a dry run changed something");
    let real = Replayed::of(&pipeline, &["--dead-letters"])?.expect(1)?;
    ensure!(real.letters("brought back")? == 4 && real.letters("standing")? == 0, "{}", real.said);
    let stands = "SELECT count(), uniqExact(sequence) FROM heartbeats";
    ensure!(pipeline.ask(stands)? == "10\t10", "{}", pipeline.ask(stands)?);
    let again = Replayed::of(&pipeline, &["--dead-letters"])?.expect(1)?;
    ensure!(again.letters("brought back")? == 0 && again.letters("standing")? == 4, "{}", again.said);
    // From Kafka they are the same heartbeats, too.
    let kafka = Replayed::of(&pipeline, &[])?.expect(0)?;
    ensure!(kafka.counts("heartbeats")? == [13, 10, 3, 0, 0], "{}", kafka.said);
    ensure!(pipeline.ask("SELECT count() FROM heartbeats")? == "10");
    pipeline.rollups_are_true()?;

    pipeline.gateway.terminate(DEADLINE)?;
    let ledger = Ledger::of(&pipeline)?;
    ledger.expect(0)?;
    ensure!(!ledger.lines_of("replayed").is_empty(), "{}", ledger.text);
    ensure!(ledger.total("lost")? == 0, "{}", ledger.text);
    pipeline.writer.terminate(DEADLINE)?;
    Ok(())
}

#[test]
fn what_the_writers_have_not_concluded_is_left_to_them() -> Result<()> {
    let mut pipeline = Pipeline::start("replay_ahead")?;
    let mut device = pipeline.connect("careful", 4)?;
    device.acknowledged_heartbeat(1, r#"{"seq":1}"#)?;
    pipeline.eventually("SELECT count() FROM heartbeats", "1")?;
    ensure!(pipeline.writer.terminate(DEADLINE)?.success());
    device.acknowledged_heartbeat(2, r#"{"seq":2}"#)?;
    // The same is lost twice, and brought back by the same inserts: the tables know these, and not that their rows are gone.
    for _ in 0..2 {
        lose(&pipeline)?;
        for rollup in ["device_newest", "session_signs", "node_state"] {
            pipeline.ask(&format!("ALTER TABLE {rollup} DELETE WHERE true SETTINGS mutations_sync = 2"))?;
        }
        let replayed = Replayed::of(&pipeline, &[])?.expect(0)?;
        ensure!(replayed.counts("heartbeats")? == [1, 0, 0, 1, 0], "{}", replayed.said);
        ensure!(replayed.said.contains("left to the writers"), "{}", replayed.said);
        ensure!(pipeline.ask("SELECT groupArray(sequence) FROM heartbeats")? == "[1]");
        pipeline.rollups_are_true()?;
    }
    pipeline.start_writer()?;
    pipeline.eventually("SELECT count(), uniqExact(sequence) FROM heartbeats", "2\t2")?;
    for nowhere in ["kafka.brokers=127.0.0.1:9", "clickhouse.url=http://127.0.0.1:9"] {
        Replayed::of(&pipeline, &["--dry-run", "--set", nowhere])?.expect(2)?;
    }
    pipeline.stop()
}

#[test]
fn what_kafka_does_not_hold_any_more_is_named() -> Result<()> {
    let kafka = own_kafka("replay_dropped", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let pipeline = Pipeline::start_on("replay_dropped", services, &["kafka.partitions=1"])?;
    let mut device = pipeline.connect("unlucky", 4)?;
    for sequence in 1..=10_u16 {
        device.acknowledged_heartbeat(sequence, &format!(r#"{{"seq":{sequence}}}"#))?;
    }
    pipeline.eventually("SELECT count() FROM heartbeats", "10")?;
    let kept: u64 = pipeline.ask("SELECT max(kafka_offset) FROM heartbeats")?.parse()?;
    let wanted = format!(
        r#"{{"partitions":[{{"topic":"{}","partition":0,"offset":{kept}}}],"version":1}}"#,
        pipeline.events_topic()
    );
    let file = folder("replay_dropped_wanted")?.join("records.json");
    std::fs::write(&file, wanted)?;
    let file = file.display().to_string();
    kafka.tool("org.apache.kafka.tools.DeleteRecordsCommand", &["--offset-json-file", &file])?;
    pipeline.ask("TRUNCATE TABLE heartbeats")?;
    let replayed = Replayed::of(&pipeline, &[])?.expect(1)?;
    ensure!(replayed.counts("heartbeats")? == [1, 0, 0, 1, 0], "{}", replayed.said);
    let named = format!("events/0: kafka holds nothing from before its record {kept}");
    ensure!(replayed.said.contains(&named), "{}", replayed.said);
    ensure!(pipeline.ask("SELECT groupArray(sequence) FROM heartbeats")? == "[10]");
    pipeline.stop()
}
