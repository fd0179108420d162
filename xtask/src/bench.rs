//! `cargo xtask bench`: `pipeline`, what one heartbeat costs all the way, and how fast it is; `gateway`, what the gateway alone
//! costs; `storage`, what it takes on ClickHouse's disk and of its CPU; `history`, how fast a month of a fleet is asked.
//!
//! Everything is real and on this machine, the simulated fleet included: on few cores it takes its share from what is
//! measured. After a warm-up the CPU time of each process is read from /proc at both ends of the measured time; the
//! counts are those of gateway and writer at the same moments.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use devstack::Process;
use devstack::fetch::Cache;
use serde_json::{Value, json};

use crate::clickhouse::ClickHouse;
use crate::fleet::{Fleet, run_id};
use crate::ledger::{Acknowledged, Stored};
use crate::machine;
use crate::pipeline::Counts;
use crate::run::{Place, Run};
use crate::stack::{self, TemporaryFolder};
use crate::stop::Stop;

mod gateway;
mod history;
mod print;
mod storage;

/// Until connections stand and caches are warm.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long a fleet may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The whole way of a heartbeat: CPU per heartbeat of each process, throughput, latencies.
    Pipeline(Flags),
    /// The gateway alone: CPU per heartbeat, memory per connection, time to connect, beside a bare server and mosquitto.
    Gateway(gateway::Flags),
    /// ClickHouse alone: bytes of a heartbeat by column, server CPU of its insert.
    Storage(storage::Flags),
    /// ClickHouse alone, with a month of a fleet in it: how fast it answers.
    History(history::Flags),
}

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// How many devices, each with a connection of its own.
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
    /// How long is measured, after 5 s of warm-up.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Unacknowledged heartbeats of one device at once.
    #[arg(long, default_value_t = 16)]
    in_flight: u16,
    /// Heartbeats per second of the whole fleet [default: 2000].
    #[arg(long, conflicts_with = "saturate")]
    rate: Option<u32>,
    /// As fast as acknowledgements come back; then latencies are those of full queues.
    #[arg(long)]
    saturate: bool,
    /// Write the JSON to this file; to standard output, after the table, if not given.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do not install missing system packages, only name them.
    #[arg(long)]
    no_install: bool,
}

/// Heartbeats per second where neither `--rate` nor `--saturate` is given: some work on a small machine, no queues.
const RATE: u32 = 2_000;

/// One moment.
struct Moment {
    at: Instant,
    counts: Counts,
    processes: Vec<Usage>,
}

/// What a process has used; `None` where the process is not ours.
struct Usage {
    name: &'static str,
    measured: Option<(Duration, u64)>,
}

pub(crate) fn run(bench: &Bench, stop: &Stop) -> anyhow::Result<ExitCode> {
    match bench {
        Bench::Pipeline(flags) => pipeline(flags, stop),
        Bench::Gateway(flags) => gateway::run(flags, stop),
        Bench::Storage(flags) => storage::run(flags, stop),
        Bench::History(flags) => history::run(flags, stop),
    }
}

/// Exit code 0 only where, besides, every acknowledged heartbeat was stored exactly once.
fn pipeline(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let folder = TemporaryFolder::make("bench")?;
    let mut run = Run::start(&Place::free(flags.no_install, folder.path())?, flags.devices, stop)?;
    let measured = measure(flags, &mut run, stop);
    let stopped = run.stop();
    let report = measured?;
    stopped?;
    print::table(&report);
    let text = serde_json::to_string_pretty(&report)?;
    match &flags.json {
        Some(file) => {
            std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
            println!("written to {}", file.display());
        }
        None => println!("{text}"),
    }
    let is_right = report["ledger"]["missing"] == 0 && report["ledger"]["doubled"] == 0;
    if !is_right {
        eprintln!("xtask: acknowledged and stored differ: these figures are of a pipeline that is broken");
    }
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(flags: &Flags, run: &mut Run, stop: &Stop) -> anyhow::Result<Value> {
    let prefix = format!("bench-{}-", run_id());
    let pace = match flags.rate {
        _ if flags.saturate => "--saturate".to_owned(),
        rate => format!("--rate={}", rate.unwrap_or(RATE)),
    };
    let arguments = [
        format!("--mqtt={}", run.pipeline.addresses.mqtt),
        format!("--devices={}", flags.devices),
        format!("--in-flight={}", flags.in_flight),
        format!("--prefix={prefix}"),
        pace.clone(),
    ];
    eprintln!("==> {} devices, {pace}: connecting", flags.devices);
    // Before the load of our own: what others take is missing in the figures.
    let load_average = machine::load_average();
    let mut fleet = Fleet::start(&run.programs.fleetpulse, &arguments, &run.logs)?;
    let end = Instant::now() + CONNECT_MAX;
    while fleet.count("online") < u64::from(flags.devices) {
        anyhow::ensure!(
            Instant::now() < end,
            "only {} of {} devices are online after {CONNECT_MAX:?}",
            fleet.count("online"),
            flags.devices
        );
        rest(POLL, run, &mut fleet, stop)?;
    }
    eprintln!("==> warming up for {WARM_UP:?}");
    rest(WARM_UP, run, &mut fleet, stop)?;
    eprintln!("==> measuring for {} s", flags.seconds);
    let first = Moment::now(run, &mut fleet)?;
    rest(Duration::from_secs(flags.seconds), run, &mut fleet, stop)?;
    let last = Moment::now(run, &mut fleet)?;

    eprintln!("==> ending the fleet, and waiting until every acknowledged heartbeat is in the table");
    let acknowledged = Acknowledged::read(fleet.finish()?)?;
    let clickhouse = ClickHouse::at(run.stack.clickhouse.url());
    let stored = Stored::settle(&clickhouse, &prefix, &acknowledged)?;
    let mut report = last.since(&first);
    report["what"] = json!({
        "devices": flags.devices, "in_flight": flags.in_flight, "pace": pace, "qos": 1,
    });
    report["puback_ms_of_devices"] = json!({
        "p50": fleet.latency_ms("puback_ms", "p50"),
        "p99": fleet.latency_ms("puback_ms", "p99"),
        "max": fleet.latency_ms("puback_ms", "max"),
        "of": "the whole run, warm-up included",
    });
    report["ledger"] = json!({
        "acknowledged": acknowledged.count(), "rows": stored.rows, "missing": stored.missing,
        "doubled": stored.doubled, "stored_not_acknowledged": stored.unacknowledged,
    });
    let version = clickhouse.value("SELECT version()")?;
    report["machine"] = machine::facts(&run.programs.fleetpulse, &kafka_version()?, &version);
    report["machine"]["load_average_before"] = json!(load_average);
    Ok(report)
}

/// Lets time pass, as long as everything lives and nobody asks to stop.
fn rest(length: Duration, run: &mut Run, fleet: &mut Fleet, stop: &Stop) -> anyhow::Result<()> {
    stop.pause(length);
    stop.check()?;
    run.check()?;
    anyhow::ensure!(!fleet.has_ended()?, "the fleet ended before its time");
    fleet.look()?;
    Ok(())
}

impl Moment {
    fn now(run: &mut Run, fleet: &mut Fleet) -> anyhow::Result<Self> {
        let kafka = run.stack.kafka.own().and_then(|kafka| kafka.brokers_mut().first_mut());
        let kafka = kafka.map(|broker| broker.process()).transpose()?;
        let clickhouse = run.stack.clickhouse.own();
        let clickhouse = clickhouse.map(|clickhouse| clickhouse.process()).transpose()?;
        let processes = vec![
            Usage::of("gateway", Some(&mut run.pipeline.gateway))?,
            Usage::of("kafka", kafka)?,
            Usage::of("writer", Some(&mut run.pipeline.writer))?,
            Usage::of("clickhouse", clickhouse)?,
            Usage::of("simulator", Some(&mut fleet.process))?,
        ];
        Ok(Self { at: Instant::now(), counts: run.pipeline.scrape()?, processes })
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn since(&self, first: &Self) -> Value {
        let seconds = (self.at - first.at).as_secs_f64();
        let acknowledged = self.counts.acknowledged().saturating_sub(first.counts.acknowledged());
        let stored = self.counts.rows("heartbeats").saturating_sub(first.counts.rows("heartbeats"));
        let per = |cpu: Duration, count: u64| match count {
            0 => Value::Null,
            count => json!(rounded(cpu.as_secs_f64() * 1e6 / count as f64)),
        };
        let process = |(last, first): (&Usage, &Usage)| {
            let (Some((cpu, resident_bytes)), Some((cpu_first, _))) = (last.measured, first.measured) else {
                return json!({ "name": last.name, "measured": false });
            };
            let cpu = cpu.saturating_sub(cpu_first);
            json!({
                "name": last.name,
                "cpu_us_per_acknowledged": per(cpu, acknowledged),
                "cpu_us_per_stored": per(cpu, stored),
                "cores_used": rounded(cpu.as_secs_f64() / seconds),
                "resident_mib": resident_bytes >> 20,
            })
        };
        let processes: Vec<Value> = self.processes.iter().zip(&first.processes).map(process).collect();
        let freshness = self.counts.freshness().since(&first.counts.freshness());
        let puback = self.counts.puback().since(&first.counts.puback());
        let ms = |seconds: Option<f64>| seconds.map(|seconds| rounded(seconds * 1e3));
        json!({
            "seconds": rounded(seconds),
            "acknowledged": acknowledged,
            "stored": stored,
            "acknowledged_per_s": rounded(acknowledged as f64 / seconds),
            "stored_per_s": rounded(stored as f64 / seconds),
            "processes": processes,
            "puback_ms_of_gateway": { "p50": ms(puback.quantile(0.5)), "p99": ms(puback.quantile(0.99)) },
            "freshness_ms": { "p50": ms(freshness.quantile(0.5)), "p99": ms(freshness.quantile(0.99)) },
        })
    }
}

impl Usage {
    fn of(name: &'static str, process: Option<&mut Process>) -> anyhow::Result<Self> {
        let measured = match process {
            Some(process) => Some((process.cpu_time()?, process.resident_bytes()?)),
            None => None,
        };
        Ok(Self { name, measured })
    }
}

/// To two digits after the point.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// From the name of the folder of jars, `kafka-VERSION-HASH`.
fn kafka_version() -> anyhow::Result<String> {
    if !stack::starts_kafka() {
        return Ok("not ours".to_owned());
    }
    let jars = Cache::of_user()?.kafka_jars()?;
    let name = jars.file_name().and_then(|name| name.to_str());
    let version = name.and_then(|name| name.split('-').nth(1));
    Ok(version.unwrap_or("unknown").to_owned())
}
