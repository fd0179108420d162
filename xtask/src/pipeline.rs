//! The processes of fleetpulse: migrate, gateway, writer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use devstack::Process;

use crate::scrape::{self, Scrape};
use crate::stack::{Stack, alive};
use crate::stop::Stop;

/// How long migrations may take: they take under a second, more on a loaded machine.
const MIGRATE_MAX: Duration = Duration::from_secs(120);
/// How long a role may take to become ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// Longer than the grace that gateway and writer give themselves.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How long the writer may take from a row in the table to a counted row.
const COUNT_MAX: Duration = Duration::from_secs(3);
/// How often a start is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Lines of a log that stand in an error.
const TAIL_LINES: usize = 20;

/// Where the pipeline listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub mqtt: SocketAddr,
    pub gateway_metrics: SocketAddr,
    pub writer_metrics: SocketAddr,
}

/// A gateway and a writer. Dropping it kills both.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub gateway: Process,
    pub writer: Process,
    pub addresses: Addresses,
}

/// The settings that this run decides; all others are the user's, by environment.
struct Settings {
    program: PathBuf,
    set: Vec<String>,
    logs: PathBuf,
}

impl Pipeline {
    /// Migrates, starts both and waits until they are ready. `connections` is how many devices will come.
    pub(crate) fn start(
        program: &Path,
        addresses: Addresses,
        stack: &Stack,
        connections: u32,
        logs: &Path,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let settings = Settings::new(program, addresses, stack, connections, logs);
        eprintln!("==> fleetpulse migrate: topics and schema");
        settings.migrate(stop)?;
        eprintln!("==> starting gateway and writer, their logs in {}", logs.display());
        let mut pipeline =
            Self { gateway: settings.spawn("gateway")?, writer: settings.spawn("writer")?, addresses };
        wait_ready(&mut pipeline.gateway, addresses.gateway_metrics, stop)?;
        wait_ready(&mut pipeline.writer, addresses.writer_metrics, stop)?;
        eprintln!(
            "    both are ready: MQTT at {}, metrics at {} and {}",
            addresses.mqtt, addresses.gateway_metrics, addresses.writer_metrics
        );
        Ok(pipeline)
    }

    /// Stops both in order: the gateway first, so that the writer still stores what it took.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let gateway = stop_in_order(&mut self.gateway);
        gateway.and(stop_in_order(&mut self.writer))
    }

    /// An error with the end of the log where one has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        alive(&mut self.gateway)?;
        alive(&mut self.writer)
    }

    /// What both count now: the gateway first, so that nothing counts as stored and not as acknowledged.
    pub(crate) fn scrape(&self) -> anyhow::Result<Counts> {
        Ok(Counts {
            gateway: Scrape::of(self.addresses.gateway_metrics)?,
            writer: Scrape::of(self.addresses.writer_metrics)?,
        })
    }

    /// What both count once the table is at rest: a row can be seen there a moment before the writer counts it.
    pub(crate) fn scrape_settled(&self, begin: &Counts) -> anyhow::Result<Counts> {
        let end = Instant::now() + COUNT_MAX;
        loop {
            let counts = self.scrape()?;
            let acknowledged = counts.acknowledged().saturating_sub(begin.acknowledged());
            let inserted = counts.rows("heartbeats").saturating_sub(begin.rows("heartbeats"));
            if inserted >= acknowledged || Instant::now() >= end {
                return Ok(counts);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// What gateway and writer counted, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub gateway: Scrape,
    pub writer: Scrape,
}

impl Counts {
    /// Heartbeats that the gateway acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.gateway.counter("fleetpulse_gateway_acknowledged_total", "kind=\"heartbeat\"")
    }

    /// Payloads that the gateway rejected, each a dead letter.
    pub(crate) fn rejected(&self) -> u64 {
        self.gateway.counter("fleetpulse_gateway_rejected_total", "")
    }

    /// Records that the writer read from Kafka.
    pub(crate) fn consumed(&self) -> u64 {
        self.writer.counter("fleetpulse_writer_consumed_total", "")
    }

    /// Rows that the writer inserted into a table.
    pub(crate) fn rows(&self, table: &str) -> u64 {
        self.writer.counter("fleetpulse_writer_rows_total", &format!("table=\"{table}\""))
    }

    /// From received by the gateway to inserted, seconds.
    pub(crate) fn freshness(&self) -> scrape::Histogram {
        self.writer.histogram("fleetpulse_writer_freshness_seconds")
    }

    /// From PUBLISH read to PUBACK written, seconds.
    pub(crate) fn puback(&self) -> scrape::Histogram {
        self.gateway.histogram("fleetpulse_gateway_puback_seconds")
    }
}

impl Settings {
    fn new(program: &Path, addresses: Addresses, stack: &Stack, connections: u32, logs: &Path) -> Self {
        let mut set = vec![
            format!("kafka.brokers={}", stack.kafka.bootstrap()),
            format!("clickhouse.url={}", stack.clickhouse.url()),
            format!("gateway.mqtt_listen={}", addresses.mqtt),
            format!("gateway.operations_listen={}", addresses.gateway_metrics),
            "access.chain=anonymous".to_owned(),
            format!("writer.operations_listen={}", addresses.writer_metrics),
        ];
        // All come from this machine.
        let per_address = connections.max(10_000).saturating_add(1_000);
        set.push(format!("listen.connections_per_address_max={per_address}"));
        // The gateway's default is 15,000; a larger fleet has asked for more, and some room for other clients.
        if connections > 14_000 {
            set.push(format!("gateway.connections_max={}", connections.saturating_add(1_000).min(19_000)));
        }
        Self { program: program.into(), set, logs: logs.into() }
    }

    fn spawn(&self, role: &str) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.program);
        for setting in &self.set {
            command.args(["--set", setting]);
        }
        command.arg(role);
        Ok(Process::spawn(role, &mut command, &self.logs.join(format!("{role}.log")))?)
    }

    fn migrate(&self, stop: &Stop) -> anyhow::Result<()> {
        let mut process = self.spawn("migrate")?;
        let end = Instant::now() + MIGRATE_MAX;
        loop {
            match process.wait_exit(POLL)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    bail!("`fleetpulse migrate` failed ({status}):\n{}", process.log_tail(TAIL_LINES))
                }
                None if Instant::now() >= end => bail!(
                    "`fleetpulse migrate` did not end within {MIGRATE_MAX:?}:\n{}",
                    process.log_tail(TAIL_LINES)
                ),
                None => stop.check()?,
            }
        }
    }
}

fn wait_ready(process: &mut Process, address: SocketAddr, stop: &Stop) -> anyhow::Result<()> {
    let end = Instant::now() + READY_MAX;
    loop {
        let answer = scrape::ready(address);
        if answer.is_ok() {
            return Ok(());
        }
        alive(process)?;
        if Instant::now() >= end {
            return answer.with_context(|| {
                format!(
                    "{} was not ready within {READY_MAX:?}; the end of {}:\n{}",
                    process.name(),
                    process.log().display(),
                    process.log_tail(TAIL_LINES)
                )
            });
        }
        stop.check()?;
        std::thread::sleep(POLL);
    }
}

fn stop_in_order(process: &mut Process) -> anyhow::Result<()> {
    eprintln!("==> stopping {}", process.name());
    let status = process.terminate(STOP_MAX)?;
    if !status.success() {
        bail!(
            "{} did not stop in order ({status}); the end of {}:\n{}",
            process.name(),
            process.log().display(),
            process.log_tail(TAIL_LINES)
        );
    }
    Ok(())
}
