//! `cargo xtask bench gateway`: what a connection and a heartbeat cost the gateway, process by process, beside a bare server
//! that only parses and acknowledges and, where it is installed, mosquitto.
//!
//! CPU time is read from /proc at both ends of the measured time and divided by the acknowledgements that the fleet counted in
//! between. Everything is on this machine, fleet and Kafka included: ratios within a run hold, absolute times less so.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use devstack::Process;
use devstack::ports::free_port;
use serde_json::{Value, json};

use super::rounded;
use crate::build::Workspace;
use crate::clickhouse::ClickHouse;
use crate::fleet::{Fleet, run_id};
use crate::ledger::{Acknowledged, Stored};
use crate::run::{Place, Run};
use crate::scrape::{self, Scrape};
use crate::stack::TemporaryFolder;
use crate::stop::Stop;

/// As many connections as one process may have: 20,000 open files less what it needs itself.
const CONNECTIONS_MAX: u32 = 19_000;
/// Loopback has some 28,000 ports for one source address.
const SOURCES: u32 = 4;
const WARM_UP: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
/// How long Kafka hangs.
const HUNG: Duration = Duration::from_secs(60);
const READY_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Connections; above 19,000 they are spread over several gateways, as over several nodes.
    #[arg(long, default_value_t = CONNECTIONS_MAX)]
    devices: u32,
    /// Heartbeats per second of the whole fleet.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// How long each load is measured, seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Only these, separated by commas: connects, paced, saturated, peers, hung.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Do not install missing system packages, only name them.
    #[arg(long)]
    no_install: bool,
}

impl Flags {
    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == what)
    }
}

/// Exit code 0 where every promise held; a goal of speed that is missed is a figure, no failure.
pub(crate) fn run(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let folder = TemporaryFolder::make("bench-gateway")?;
    let mut run = Run::start(&Place::free(flags.no_install, folder.path())?, flags.devices, stop)?;
    let measured = measure(flags, &mut run, folder.path(), stop);
    let stopped = run.stop();
    let report = measured?;
    stopped?;
    for (name, value) in report.as_object().into_iter().flatten() {
        println!("{name:12} {value}");
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(flags: &Flags, run: &mut Run, folder: &Path, stop: &Stop) -> anyhow::Result<Value> {
    let mut report = json!({ "machine": { "load_average_before": crate::machine::load_average() } });
    let mut bench = Bench { flags, run, folder, stop };
    if flags.wants("connects") {
        report["connects"] = bench.connects()?;
    }
    if flags.wants("paced") {
        report["paced"] = bench.paced()?;
    }
    if flags.wants("saturated") {
        report["saturated"] = bench.saturated()?;
    }
    if flags.wants("peers") {
        report["bare"] = bench.bare()?;
        report["mosquitto"] = bench.mosquitto()?;
    }
    if flags.wants("hung") {
        report["hung"] = bench.hung()?;
    }
    Ok(report)
}

struct Bench<'a> {
    flags: &'a Flags,
    run: &'a mut Run,
    folder: &'a Path,
    stop: &'a Stop,
}

/// Gateways beside the run's own, for fleets that one process cannot hold.
struct Further {
    process: Process,
    mqtt: SocketAddr,
}

impl Bench<'_> {
    /// How many processes the connections take.
    fn nodes(&self) -> u32 {
        self.flags.devices.div_ceil(CONNECTIONS_MAX).max(1)
    }

    fn further(&self) -> anyhow::Result<Vec<Further>> {
        (1..self.nodes())
            .map(|number| {
                let (mqtt, operations) = (local()?, local()?);
                let settings = [
                    format!("kafka.brokers={}", self.run.stack.kafka.bootstrap()),
                    format!("gateway.node_id=gateway-{}", number + 1),
                    format!("gateway.mqtt_listen={mqtt}"),
                    format!("gateway.operations_listen={operations}"),
                    "access.chain=anonymous".to_owned(),
                    format!("gateway.connections_max={CONNECTIONS_MAX}"),
                    format!("listen.connections_per_address_max={CONNECTIONS_MAX}"),
                ];
                let mut command = Command::new(&self.run.programs.fleetpulse);
                for setting in &settings {
                    command.args(["--set", setting]);
                }
                command.arg("gateway");
                let log = self.folder.join(format!("gateway-{}.log", number + 1));
                let process = Process::spawn("gateway", &mut command, &log)?;
                let end = Instant::now() + READY_MAX;
                while scrape::ready(operations).is_err() {
                    ensure!(
                        Instant::now() < end,
                        "gateway {} is not ready: {}",
                        number + 1,
                        process.log_tail(20)
                    );
                    self.stop.pause(POLL);
                    self.stop.check()?;
                }
                Ok(Further { process, mqtt })
            })
            .collect()
    }

    /// A fleet at one gateway; `extra` says how it behaves.
    fn fleet(&self, mqtt: SocketAddr, devices: u32, number: u32, extra: &[String]) -> anyhow::Result<Fleet> {
        let folder = self.folder.join(format!("fleet-{number}"));
        std::fs::create_dir_all(&folder)?;
        let mut arguments =
            vec![format!("--mqtt={mqtt}"), format!("--devices={devices}"), "--connect-rate=20000".to_owned()];
        // Source addresses of its own, so that ports suffice.
        arguments.extend((1..=SOURCES).map(|source| format!("--source=127.0.{}.{source}", number + 1)));
        if !extra.iter().any(|argument| argument.starts_with("--prefix")) {
            arguments.push(format!("--prefix=bench-{}-{number}-", run_id()));
        }
        arguments.extend_from_slice(extra);
        Fleet::start(&self.run.programs.fleetpulse, &arguments, &folder)
    }

    fn rest(&self, length: Duration) -> anyhow::Result<()> {
        self.stop.pause(length);
        Ok(self.stop.check()?)
    }

    fn online(&self, fleets: &mut [Fleet], devices: u32) -> anyhow::Result<()> {
        let end = Instant::now() + CONNECT_MAX;
        loop {
            let mut online = 0;
            for fleet in fleets.iter_mut() {
                ensure!(!fleet.has_ended()?, "a fleet ended before its time");
                fleet.look()?;
                online += fleet.count("online");
            }
            if online >= u64::from(devices) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "only {online} of {devices} devices are online after {CONNECT_MAX:?}"
            );
            self.rest(POLL)?;
        }
    }

    fn sessions(&self) -> anyhow::Result<u64> {
        let scrape = Scrape::of(self.run.pipeline.addresses.gateway_metrics)?;
        Ok(scrape.counter("fleetpulse_gateway_sessions", ""))
    }

    /// Time and memory of connections that then say nothing.
    fn connects(&mut self) -> anyhow::Result<Value> {
        let devices = self.flags.devices.min(CONNECTIONS_MAX);
        eprintln!("==> {devices} devices connect");
        let before = self.run.pipeline.gateway.resident_bytes()?;
        let mqtt = self.run.pipeline.addresses.mqtt;
        let mut fleet = self.fleet(mqtt, devices, 0, &["--interval=3600s".to_owned()])?;
        while self.sessions()? == 0 {
            self.rest(POLL)?;
        }
        let begun = Instant::now();
        while self.sessions()? < u64::from(devices) {
            ensure!(begun.elapsed() < CONNECT_MAX, "{} of {devices} sessions stand", self.sessions()?);
            self.rest(POLL)?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.rest(WARM_UP)?;
        let after = self.run.pipeline.gateway.resident_bytes()?;
        fleet.finish()?;
        Ok(json!({
            "connections": devices,
            "seconds": rounded(seconds),
            "resident_bytes_per_connection": after.saturating_sub(before) / u64::from(devices),
        }))
    }

    /// The fleet at its pace, over as many gateways as it takes.
    fn paced(&mut self) -> anyhow::Result<Value> {
        let (devices, rate, nodes) = (self.flags.devices, self.flags.rate, self.nodes());
        eprintln!("==> {devices} devices over {nodes} gateways, {rate} heartbeats a second");
        let mut further = self.further()?;
        let mut addresses = vec![self.run.pipeline.addresses.mqtt];
        addresses.extend(further.iter().map(|further| further.mqtt));
        let mut fleets = (0_u32..)
            .zip(&addresses)
            .map(|(number, mqtt)| {
                self.fleet(*mqtt, devices / nodes, number, &[format!("--rate={}", rate / nodes)])
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        self.online(&mut fleets, devices / nodes * nodes)?;
        let mut processes = vec![&mut self.run.pipeline.gateway];
        processes.extend(further.iter_mut().map(|further| &mut further.process));
        let load = Load::measure(&mut processes, &mut fleets, self.flags.seconds, self.stop)?;
        let latency = latency(&mut fleets)?;
        for further in &mut further {
            let status = further.process.terminate(Duration::from_secs(20))?;
            ensure!(status.success(), "a gateway ended with {status}");
        }
        Ok(json!({ "connections": devices, "gateways": nodes, "load": load, "puback_ms": latency }))
    }

    fn saturated(&mut self) -> anyhow::Result<Value> {
        eprintln!("==> 1,000 devices, 16 in flight each, as fast as it goes");
        let mqtt = self.run.pipeline.addresses.mqtt;
        let extra = ["--saturate".to_owned(), "--in-flight=16".to_owned()];
        let mut fleets = vec![self.fleet(mqtt, 1_000, 0, &extra)?];
        self.online(&mut fleets, 1_000)?;
        let mut processes = [&mut self.run.pipeline.gateway];
        let load = Load::measure(&mut processes, &mut fleets, self.flags.seconds, self.stop)?;
        let latency = latency(&mut fleets)?;
        Ok(json!({ "load": load, "puback_ms": latency }))
    }

    /// The same load on another server.
    fn peer(&mut self, mut process: Process, mqtt: SocketAddr) -> anyhow::Result<Value> {
        let devices = self.flags.devices.min(CONNECTIONS_MAX);
        let end = Instant::now() + READY_MAX;
        while std::net::TcpStream::connect(mqtt).is_err() {
            ensure!(
                Instant::now() < end && process.is_running(),
                "it does not listen: {}",
                process.log_tail(20)
            );
            self.rest(POLL)?;
        }
        let before = process.resident_bytes()?;
        let mut fleets = vec![self.fleet(mqtt, devices, 0, &[format!("--rate={}", self.flags.rate)])?];
        self.online(&mut fleets, devices)?;
        let load = Load::measure(&mut [&mut process], &mut fleets, self.flags.seconds, self.stop)?;
        let resident = process.resident_bytes()?.saturating_sub(before) / u64::from(devices);
        let latency = latency(&mut fleets)?;
        process.kill()?;
        Ok(
            json!({ "connections": devices, "load": load, "puback_ms": latency, "resident_bytes_per_connection": resident }),
        )
    }

    fn bare(&mut self) -> anyhow::Result<Value> {
        eprintln!("==> the same load on a bare server");
        let workspace = Workspace::find()?;
        workspace.cargo(&["build", "--release", "-p", "benches", "--bin", "bare"], &[], self.stop)?;
        let mqtt = local()?;
        let program = self.run.programs.fleetpulse.with_file_name("bare");
        let process = Process::spawn(
            "bare",
            Command::new(program).arg(mqtt.to_string()),
            &self.folder.join("bare.log"),
        )?;
        self.peer(process, mqtt)
    }

    fn mosquitto(&mut self) -> anyhow::Result<Value> {
        let Some(program) = mosquitto() else {
            return Ok(json!("not installed: package `mosquitto`"));
        };
        eprintln!("==> the same load on {}", program.display());
        let mqtt = local()?;
        let config = self.folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nmax_connections -1\npersistence false\nuser root\n",
            mqtt.port()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config);
        let process = Process::spawn("mosquitto", &mut command, &self.folder.join("mosquitto.log"))?;
        self.peer(process, mqtt)
    }

    /// Kafka says nothing for a minute while the fleet goes on.
    fn hung(&mut self) -> anyhow::Result<Value> {
        let devices = self.flags.devices.min(CONNECTIONS_MAX);
        eprintln!(
            "==> {devices} devices, {} heartbeats a second, and Kafka hangs for {HUNG:?}",
            self.flags.rate
        );
        let mqtt = self.run.pipeline.addresses.mqtt;
        let prefix = format!("hung-{}-", run_id());
        let extra = [format!("--rate={}", self.flags.rate), format!("--prefix={prefix}")];
        let mut fleets = vec![self.fleet(mqtt, devices, 0, &extra)?];
        self.online(&mut fleets, devices)?;
        self.rest(WARM_UP)?;
        let before = self.run.pipeline.gateway.resident_bytes()?;
        for broker in self.run.stack.kafka.own().context("kafka is not ours to hang")?.brokers_mut() {
            broker.hang()?;
        }
        // What Kafka had confirmed before it hung is on its way still.
        self.rest(Duration::from_secs(1))?;
        let acknowledged = self.acknowledged()?;
        let mut most = before;
        let begun = Instant::now();
        while begun.elapsed() < HUNG {
            self.rest(Duration::from_millis(500))?;
            most = most.max(self.run.pipeline.gateway.resident_bytes()?);
        }
        let meanwhile = self.acknowledged()?.saturating_sub(acknowledged);
        for broker in self.run.stack.kafka.own().context("kafka is not ours to wake")?.brokers_mut() {
            broker.resume()?;
        }
        self.online(&mut fleets, devices)?;
        self.rest(Duration::from_secs(20))?;
        let mut fleet = fleets.remove(0);
        let acknowledged = Acknowledged::read(fleet.finish()?)?;
        let clickhouse = ClickHouse::at(self.run.stack.clickhouse.url());
        let stored = Stored::settle(&clickhouse, &prefix, &acknowledged)?;
        ensure!(meanwhile == 0, "{meanwhile} heartbeats were acknowledged while kafka hung");
        ensure!(
            stored.missing == 0 && stored.doubled == 0,
            "{} missing, {} doubled",
            stored.missing,
            stored.doubled
        );
        Ok(json!({
            "connections": devices, "acknowledged_while_hung": meanwhile,
            "resident_mib_before": before >> 20, "resident_mib_most": most >> 20,
            "acknowledged": acknowledged.count(), "missing": stored.missing, "doubled": stored.doubled,
        }))
    }

    fn acknowledged(&self) -> anyhow::Result<u64> {
        let scrape = Scrape::of(self.run.pipeline.addresses.gateway_metrics)?;
        Ok(scrape.counter("fleetpulse_gateway_acknowledged_total", "kind=\"heartbeat\""))
    }
}

/// What a load cost.
struct Load;

impl Load {
    fn measure(
        processes: &mut [&mut Process],
        fleets: &mut [Fleet],
        seconds: u64,
        stop: &Stop,
    ) -> anyhow::Result<Value> {
        stop.pause(WARM_UP);
        let (first, cpu_first, begun) = (acknowledged(fleets)?, cpu(processes)?, Instant::now());
        stop.pause(Duration::from_secs(seconds));
        stop.check()?;
        let (last, cpu_last) = (acknowledged(fleets)?, cpu(processes)?);
        let count = last.saturating_sub(first);
        ensure!(count > 0, "nothing was acknowledged");
        let cpu = cpu_last.saturating_sub(cpu_first).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let (per, rate) = (cpu * 1e6 / count as f64, count as f64 / begun.elapsed().as_secs_f64());
        Ok(json!({ "cpu_us_per_heartbeat": rounded(per), "acknowledged_per_s": rounded(rate) }))
    }
}

fn acknowledged(fleets: &mut [Fleet]) -> anyhow::Result<u64> {
    fleets.iter_mut().try_fold(0, |sum, fleet| {
        ensure!(!fleet.has_ended()?, "a fleet ended before its time");
        fleet.look()?;
        Ok(sum + fleet.count("acknowledged"))
    })
}

fn cpu(processes: &mut [&mut Process]) -> anyhow::Result<Duration> {
    processes.iter_mut().try_fold(Duration::ZERO, |sum, process| Ok(sum + process.cpu_time()?))
}

/// The worst of the fleets, as the devices saw it.
fn latency(fleets: &mut [Fleet]) -> anyhow::Result<Value> {
    let (mut p50, mut p99) = (0.0_f64, 0.0_f64);
    for fleet in fleets {
        p50 = p50.max(fleet.latency_ms("puback_ms", "p50"));
        p99 = p99.max(fleet.latency_ms("puback_ms", "p99"));
        fleet.finish()?;
    }
    Ok(json!({ "p50": rounded(p50), "p99": rounded(p99) }))
}

fn mosquitto() -> Option<PathBuf> {
    ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

fn local() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}
