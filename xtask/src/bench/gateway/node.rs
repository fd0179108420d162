//! Processes that are measured: gateways, the writer behind them, and the two servers beside them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use devstack::Process;

use super::{Bench, CONNECTIONS_MAX, POLL, local};
use crate::scrape::{self, Scrape};
use crate::stack::alive;

const MIGRATE_MAX: Duration = Duration::from_secs(120);
const READY_MAX: Duration = Duration::from_secs(60);
/// Longer than the grace that roles give themselves.
const STOP_MAX: Duration = Duration::from_secs(20);

/// A server that listens. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Node {
    pub process: Process,
    pub mqtt: SocketAddr,
    /// Where it speaks TLS, if it does.
    pub mqtts: SocketAddr,
    operations: Option<SocketAddr>,
}

/// Creates topics and schema.
pub(super) fn migrate(bench: &Bench<'_>) -> anyhow::Result<()> {
    let mut process = role(bench, "migrate", "migrate", &[])?;
    match process.wait_exit(MIGRATE_MAX)? {
        Some(status) if status.success() => Ok(()),
        status => bail!("`fleetpulse migrate`: {status:?}:\n{}", process.log_tail(20)),
    }
}

/// The writer, ready.
pub(super) fn writer(bench: &Bench<'_>) -> anyhow::Result<Process> {
    let operations = local()?;
    let mut process = role(bench, "writer", "writer", &[format!("writer.operations_listen={operations}")])?;
    ready(bench, &mut process, operations)?;
    Ok(process)
}

fn role(bench: &Bench<'_>, role: &str, name: &str, settings: &[String]) -> anyhow::Result<Process> {
    let mut command = Command::new(&bench.programs.fleetpulse);
    command.arg("--set").arg(format!("kafka.brokers={}", bench.stack.kafka.bootstrap()));
    command.arg("--set").arg(format!("clickhouse.url={}", bench.stack.clickhouse.url()));
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.arg(role);
    Ok(Process::spawn(name, &mut command, &bench.folder.join(format!("{name}.log")))?)
}

fn ready(bench: &Bench<'_>, process: &mut Process, operations: SocketAddr) -> anyhow::Result<()> {
    let end = Instant::now() + READY_MAX;
    while let Err(error) = scrape::ready(operations) {
        alive(process)?;
        ensure!(
            Instant::now() < end,
            "{} is not ready: {error:#}:\n{}",
            process.name(),
            process.log_tail(20)
        );
        bench.rest(POLL)?;
    }
    Ok(())
}

impl Node {
    /// A gateway, ready; each name once.
    pub(super) fn gateway(bench: &Bench<'_>, name: &str, extra: &[String]) -> anyhow::Result<Self> {
        let (mqtt, mqtts, operations) = (local()?, local()?, local()?);
        let mut settings = vec![
            format!("gateway.node_id={name}"),
            format!("gateway.mqtt_listen={mqtt}"),
            format!("gateway.operations_listen={operations}"),
            "access.chain=anonymous".to_owned(),
            format!("gateway.connections_max={CONNECTIONS_MAX}"),
            format!("listen.connections_per_address_max={CONNECTIONS_MAX}"),
        ];
        settings.extend_from_slice(extra);
        if extra.iter().any(|setting| setting.starts_with("listen.tls_certificate_file=")) {
            settings.push(format!("listen.mqtts={mqtts}"));
        }
        let mut process = role(bench, "gateway", name, &settings)?;
        ready(bench, &mut process, operations)?;
        Ok(Self { process, mqtt, mqtts, operations: Some(operations) })
    }

    /// The bare server.
    pub(super) fn bare(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let mqtt = local()?;
        let mut command = Command::new(beside(&bench.programs.fleetpulse, "bare"));
        command.arg(mqtt.to_string());
        Self::other(bench, "bare", &mut command, mqtt)
    }

    /// mosquitto, where it is installed.
    pub(super) fn mosquitto(bench: &Bench<'_>) -> anyhow::Result<Option<Self>> {
        let places = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"];
        let Some(program) = places.iter().map(PathBuf::from).find(|path| path.exists()) else {
            eprintln!("    mosquitto is not installed (package `mosquitto`): without its figures");
            return Ok(None);
        };
        let mqtt = local()?;
        let config = bench.folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nmax_connections -1\npersistence false\nset_tcp_nodelay true\n",
            mqtt.port()
        );
        std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config);
        Self::other(bench, "mosquitto", &mut command, mqtt).map(Some)
    }

    fn other(bench: &Bench<'_>, name: &str, command: &mut Command, mqtt: SocketAddr) -> anyhow::Result<Self> {
        let mut process = Process::spawn(name, command, &bench.folder.join(format!("{name}.log")))?;
        let end = Instant::now() + READY_MAX;
        while std::net::TcpStream::connect(mqtt).is_err() {
            alive(&mut process)?;
            ensure!(Instant::now() < end, "{name} does not listen:\n{}", process.log_tail(20));
            bench.rest(POLL)?;
        }
        Ok(Self { process, mqtt, mqtts: mqtt, operations: None })
    }

    /// What it says of itself.
    pub(super) fn scrape(&self) -> anyhow::Result<Scrape> {
        Scrape::of(self.operations.context("it has no metrics")?)
    }

    /// Stops it in order.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        if self.operations.is_none() {
            self.process.kill()?;
            return Ok(());
        }
        let status = self.process.terminate(STOP_MAX)?;
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.process.name(),
            self.process.log_tail(20)
        );
        Ok(())
    }

    /// Memory that it holds, as resident set and as its proportional share, bytes.
    pub(super) fn memory(&mut self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.process.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let proportional = kib(&text, "Pss:").with_context(|| format!("no Pss in {path}"))? << 10;
        Ok(Memory { resident: self.process.resident_bytes()?, proportional })
    }
}

/// How much memory a process holds, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub resident: u64,
    pub proportional: u64,
}

/// Certificates of a run: an authority, and a server's for `localhost`.
#[derive(Debug)]
pub(super) struct Certificates(PathBuf);

impl Certificates {
    pub(super) fn make(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let folder = bench.folder.join("certificates");
        std::fs::create_dir_all(&folder)?;
        let made = Command::new(beside(&bench.programs.fleetpulse, "certificates")).arg(&folder).output()?;
        ensure!(made.status.success(), "certificates: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Self(folder))
    }

    /// Settings of a gateway that speaks TLS.
    pub(super) fn settings(&self) -> [String; 2] {
        [
            format!("listen.tls_certificate_file={}", self.0.join("server.pem").display()),
            format!("listen.tls_key_file={}", self.0.join("server.key").display()),
        ]
    }

    /// The argument of a fleet that trusts it.
    pub(super) fn trust(&self) -> String {
        format!("--tls-ca={}", self.0.join("authority.pem").display())
    }
}

/// A program that was built in the same folder.
fn beside(program: &Path, name: &str) -> PathBuf {
    program.with_file_name(name)
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::kib;

    #[test]
    fn the_proportional_share_is_not_that_of_a_part() {
        let text = "Rss:  90 kB\nPss:   34 kB\nPss_Anon:   12 kB\n";
        assert_eq!(kib(text, "Pss:"), Some(34));
        assert_eq!(kib(text, "Swap:"), None);
    }
}
