//! `cargo xtask bench gateway`: what a connection and a heartbeat cost the gateway, how it fares under attack, and whether its
//! promises hold while Kafka hangs. `docs/performance.md` says how to read it.
//!
//! Each part starts a gateway process of its own. CPU time is read from /proc at both ends of the measured time and divided by
//! the acknowledgements that the fleet counted in between. Everything is on this machine, fleet and Kafka included: ratios
//! within a run hold, absolute times less so.

mod attack;
mod bytes;
mod connects;
mod cost;
mod hostile;
mod hung;
mod mutated;
mod node;
mod table;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use devstack::ports::free_port;
use serde_json::json;

use crate::build::{Profile, Programs, Workspace};
use crate::fleet::{Fleet, run_id};
use crate::machine;
use crate::stack::{self, Stack, StackConfig, TemporaryFolder};
use crate::stop::Stop;
use table::Table;

/// As many connections as one process may have: 20,000 open files less what it needs itself.
const CONNECTIONS_MAX: u32 = 19_000;
/// Source addresses of a fleet: Linux searches long for a port where one address has used up half of them.
const SOURCES: u32 = 4;
/// Until connections stand and caches are warm.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long a fleet may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Connections; above 19,000 they are spread over several gateways, as over several nodes, and only `fleet` is measured.
    #[arg(long, default_value_t = CONNECTIONS_MAX)]
    devices: u32,
    /// Heartbeats per second of the whole fleet.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// How long each load is measured, seconds, after 5 s of warm-up.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How long Kafka hangs, seconds.
    #[arg(long, default_value_t = 60)]
    hung_seconds: u64,
    /// How many mutated packets are sent.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u64,
    /// Only these parts, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Write the table as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do not install missing system packages, only name them.
    #[arg(long)]
    no_install: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU per heartbeat at a steady rate, beside a bare server and mosquitto.
    Cpu,
    /// The most heartbeats a second: 1,000 connections, 16 in flight each; beside the same two.
    Saturated,
    /// Memory per idle connection, and the time to connect all: TCP and TLS.
    Memory,
    /// The same part as `memory`.
    Connects,
    /// All devices, over as many gateways as it takes.
    Fleet,
    /// A good fleet while others attack.
    Hostile,
    /// Packets that are cut, flipped and joined.
    Mutated,
    /// Kafka says nothing for a minute.
    Hung,
}

impl Flags {
    fn wants(&self, parts: &[Part]) -> bool {
        if self.only.is_empty() {
            // One that asks for 50,000 devices wants to know of them.
            return self.devices <= CONNECTIONS_MAX || parts.contains(&Part::Fleet);
        }
        parts.iter().any(|part| self.only.contains(part))
    }
}

/// Exit code 0 where every promise held; a goal of speed that is missed is a figure, no failure.
pub(crate) fn run(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let load_average = machine::load_average();
    let folder = TemporaryFolder::make("bench-gateway")?;
    stack::ensure_packages(stack::install(flags.no_install), &[])?;
    let workspace = Workspace::find()?;
    eprintln!("==> building");
    let programs = workspace.build(Profile::Release, stack::needs_chserver(), stop)?;
    workspace.cargo(&["build", "--release", "-p", "benches", "--bins"], &[], stop)?;
    let config = StackConfig {
        kafka_port: 0,
        clickhouse_port: 0,
        chserver: programs.chserver.clone(),
        data: folder.path().into(),
    };
    let stack = Stack::start(&config, stop)?;
    let mut bench =
        Bench { flags, programs, stack, folder: folder.path(), stop, table: Table::default(), fleets: 0 };
    let measured = bench.measure();
    let Bench { programs, mut stack, table, .. } = bench;
    let stopped = stack.stop();
    // What was measured before it went wrong is worth seeing.
    let mut facts = machine::facts(&programs.fleetpulse, &super::kafka_version()?, "not measured");
    facts["load_average_before"] = json!(load_average);
    table.print(&facts, flags.rate);
    if let Some(file) = &flags.json {
        let text = serde_json::to_string_pretty(&table.json(&facts))? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    measured?;
    stopped?;
    Ok(if table.promises_held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that parts need.
struct Bench<'a> {
    flags: &'a Flags,
    programs: Programs,
    stack: Stack,
    folder: &'a Path,
    stop: &'a Stop,
    table: Table,
    /// Fleets started so far: each has a folder, names and addresses of its own.
    fleets: u32,
}

impl Bench<'_> {
    fn measure(&mut self) -> anyhow::Result<()> {
        node::migrate(self)?;
        type Measure = fn(&mut Bench<'_>) -> anyhow::Result<()>;
        let parts: [(&[Part], Measure); 7] = [
            (&[Part::Cpu], cost::steady),
            (&[Part::Saturated], cost::saturated),
            (&[Part::Memory, Part::Connects], connects::measure),
            (&[Part::Fleet], cost::fleet),
            (&[Part::Hostile], hostile::measure),
            (&[Part::Mutated], mutated::measure),
            (&[Part::Hung], hung::measure),
        ];
        for (names, measure) in parts {
            if self.flags.wants(names) {
                measure(self).with_context(|| format!("while measuring {:?}", names[0]))?;
                self.stack.check()?;
            }
        }
        Ok(())
    }

    /// As many devices as one process may have.
    fn devices(&self) -> u32 {
        self.flags.devices.min(CONNECTIONS_MAX)
    }

    /// A fleet at one server; `extra` says how it behaves.
    fn fleet(&mut self, mqtt: SocketAddr, devices: u32, extra: &[String]) -> anyhow::Result<Fleet> {
        self.fleets += 1;
        let number = self.fleets;
        let mut arguments = vec![
            format!("--mqtt={mqtt}"),
            format!("--devices={devices}"),
            format!("--prefix={}", self.prefix()),
            "--connect-rate=5000".to_owned(),
        ];
        arguments.extend((1..=SOURCES).map(|source| format!("--source=127.0.{number}.{source}")));
        for argument in extra {
            // What a part asks for takes the place of what is usual.
            let name = argument.split('=').next().unwrap_or(argument);
            arguments.retain(|usual| usual.split('=').next() != Some(name));
            arguments.push(argument.clone());
        }
        let folder = self.folder.join(format!("fleet-{number}"));
        std::fs::create_dir_all(&folder)?;
        Fleet::start(&self.programs.fleetpulse, &arguments, &folder)
    }

    /// How the devices of the newest fleet are called.
    fn prefix(&self) -> String {
        format!("bench-{}-{}-", run_id(), self.fleets)
    }

    fn rest(&self, length: Duration) -> anyhow::Result<()> {
        self.stop.pause(length);
        Ok(self.stop.check()?)
    }

    /// Waits until all are online.
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
}

fn local() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts and bytes far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}
