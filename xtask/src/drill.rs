//! `cargo xtask drill`: the whole system under faults drawn from a seed, and afterwards the question whether every
//! acknowledged heartbeat is a row, once.
//!
//! Real gateways and writers, a real Kafka and a real ClickHouse, and a fleet that keeps its own list of what was
//! acknowledged. The faults of a seed are always the same ones; how the processes fall in with them is not, for they run
//! on a real clock. A drill that fails says its seed and keeps its folder.

mod checks;
mod disk;
mod gauge;
mod inspection;
mod proxy;
mod random;
mod report;
mod role;
mod schedule;
mod site;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use devstack::{Engine, packages};

use self::checks::Finding;
use self::gauge::Gauge;
use self::inspection::Inspections;
use self::report::Report;
use self::schedule::{Fault, Kind, Size, What};
use self::site::Site;
use crate::build::{Profile, Programs, Workspace};
use crate::fleet::{Fleet, run_id};
use crate::ledger::{Acknowledged, Stored};
use crate::stack;
use crate::stop::Stop;

/// How often the schedule and the processes are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often memory is looked at.
const GAUGE_EVERY: Duration = Duration::from_secs(1);
/// How long everything runs undisturbed after the last fault.
const REST: Duration = Duration::from_secs(3);
/// How long the devices may take to deliver what they have stored.
const DRAIN: Duration = Duration::from_secs(20);
/// How long rows may take after that.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// How long a gateway or writer that was asked to stop may take before the wait for it ends.
const LEAVE_MAX: Duration = Duration::from_secs(40);
/// After so many processes that ended by themselves there is nothing more to learn.
const SURPRISES_MAX: usize = 20;
/// Faults that are listed before the start; of a longer drill all stand in a file.
const LISTED_MAX: usize = 40;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Do not install missing system packages, only name them.
    #[arg(long)]
    no_install: bool,
    /// Decides which faults happen when [default: a new one; it is told].
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults happen.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Which faults, separated by commas [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Brokers of Kafka: 1 or 3.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    brokers: u8,
    /// Writers that always run; one more comes and goes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    writers: u8,
    /// How many devices.
    #[arg(long, default_value_t = 200)]
    devices: u32,
    /// Heartbeats per second of all devices together.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Run what a release would be, instead of a debug build.
    #[arg(long)]
    release: bool,
    /// Only print the schedule.
    #[arg(long)]
    plan: bool,
    /// Keep data and logs also where all went well.
    #[arg(long)]
    keep: bool,
    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a drill is.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    length: Duration,
    kinds: Vec<Kind>,
    size: Size,
    devices: u32,
    rate: u32,
    faults: Vec<Fault>,
}

/// Exit code 0 only where every check holds.
pub(crate) fn run(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let plan = Plan::of(flags)?;
    if flags.plan {
        plan.faults.iter().for_each(|fault| println!("{fault}"));
        return Ok(ExitCode::SUCCESS);
    }
    // Its own services, whatever the environment names: they get broken.
    let engine_is_ours = !Engine::is_installed();
    let mut wanted = packages::KAFKA.to_vec();
    if engine_is_ours {
        wanted.extend_from_slice(packages::CLICKHOUSE);
    }
    stack::ensure_packages(stack::install(flags.no_install), &wanted)?;
    let workspace = Workspace::find()?;
    let profile = if flags.release { Profile::Release } else { Profile::Dev };
    let programs = workspace.build(profile, engine_is_ours, stop)?;
    let report = drill(&plan, &workspace, &programs, flags.keep, stop)?;
    if let Some(file) = &flags.json {
        let text = serde_json::to_string_pretty(&report.json())?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Plan {
    fn of(flags: &Flags) -> anyhow::Result<Self> {
        if flags.brokers == 2 {
            bail!("--brokers is 1 or 3: two could not lose one");
        }
        if !(0.1..=24.0 * 60.0).contains(&flags.minutes) {
            bail!("--minutes is 0.1 to 1,440");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kinds =
            if flags.faults.is_empty() { Kind::value_variants().to_vec() } else { flags.faults.clone() };
        Ok(Self::new(
            flags.seed.unwrap_or(now.as_secs()),
            Duration::from_secs_f64(flags.minutes * 60.0),
            kinds,
            Size { gateways: 2, writers: flags.writers.into(), brokers: flags.brokers.into() },
            (flags.devices, flags.rate),
        ))
    }

    fn new(seed: u64, length: Duration, kinds: Vec<Kind>, size: Size, (devices, rate): (u32, u32)) -> Self {
        let faults = schedule::faults(seed, length, &kinds, size);
        Self { seed, length, kinds, size, devices, rate, faults }
    }

    fn short() -> Self {
        let size = Size { gateways: 2, writers: 2, brokers: 1 };
        Self::new(SHORT_SEED, SHORT, SHORT_KINDS.to_vec(), size, (200, 500))
    }

    fn small_window(&self) -> bool {
        self.kinds.contains(&Kind::Window)
    }
}

/// The drill of `cargo xtask test`: its seed is one whose faults are of every kind.
const SHORT: Duration = Duration::from_secs(40);
const SHORT_SEED: u64 = 58;
const SHORT_KINDS: &[Kind] = &[
    Kind::Kill,
    Kind::Hang,
    Kind::Rebalance,
    Kind::Disk,
    Kind::Refuse,
    Kind::Network,
    Kind::Clock,
    Kind::Window,
];

/// A short drill, always of the same faults.
pub(crate) fn short(workspace: &Workspace, programs: &Programs, stop: &Stop) -> anyhow::Result<()> {
    let report = drill(&Plan::short(), workspace, programs, false, stop)?;
    ensure!(report.holds(), "checks of the drill failed: see above");
    Ok(())
}

/// Runs a drill and prints what came of it.
fn drill(
    plan: &Plan,
    workspace: &Workspace,
    programs: &Programs,
    keep: bool,
    stop: &Stop,
) -> anyhow::Result<Report> {
    let folder = workspace.root.join("target").join("drill").join(format!("{}-{}", plan.seed, run_id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    eprintln!("==> drill of seed {}: {} faults in {:?}", plan.seed, plan.faults.len(), plan.length);
    let listed: String = plan.faults.iter().map(|fault| format!("{fault}\n")).collect();
    std::fs::write(folder.join("schedule.txt"), &listed)?;
    if plan.faults.len() <= LISTED_MAX {
        eprint!("{listed}");
    }
    let report = rehearse(plan, programs, &folder, stop);
    match &report {
        Ok(report) => report.print(),
        Err(error) => eprintln!("==> the drill broke off: {error:#}"),
    }
    if keep || !report.as_ref().is_ok_and(Report::holds) {
        println!("seed {}; schedule and logs are in {}", plan.seed, folder.display());
    } else {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    report
}

fn rehearse(plan: &Plan, programs: &Programs, folder: &Path, stop: &Stop) -> anyhow::Result<Report> {
    let mut site = Site::start(programs, plan.size, plan.small_window(), folder, stop)?;
    let prefix = format!("drill-{}-", run_id());
    let mut fleet = Fleet::start(&programs.fleetpulse, &arguments(plan, &prefix, &site), folder)?;
    let mut course = Course::new(plan);
    course.run(&mut site, &mut fleet, stop)?;

    eprintln!("==> the faults are over: everything has to come back");
    let wrong = site.wait_ready(stop)?;
    course.note(wrong)?;
    course.rest(REST, &mut site, &mut fleet, stop)?;
    course.gauge.end(&mut site);
    let acknowledged = Acknowledged::read(fleet.finish()?)?;
    if acknowledged.count() == 0 {
        bail!("no heartbeat was acknowledged, so nothing was shown");
    }
    eprintln!("==> waiting until {} acknowledged heartbeats are in the table", acknowledged.count());
    let ask = site.ask();
    let stored = Stored::settle_within(SETTLE_MAX, &ask, &prefix, &acknowledged)?;
    let mut findings = vec![
        Finding::none("acknowledged heartbeats that are missing", stored.missing, ""),
        checks::doubled(&ask, &prefix, stored.doubled)?,
    ];
    course.leave(&mut site, Part::Gateways)?;
    findings.push(checks::lag(&site.kafka)?);
    course.leave(&mut site, Part::Writers)?;
    // Nothing moves any more: from here on the tables are compared as they stand.
    let merged = course.inspections.times() > 0;
    findings.extend(course.inspections.finish(&ask, site.tables())?);
    findings.extend(checks::rollups(&ask, merged)?);
    findings.push(checks::usage(&ask, programs, &site.url())?);
    findings.push(checks::costs(&site.ask_within())?);
    findings.extend(checks::ledger(programs, &site.kafka, &site.url())?);
    findings.push(checks::panics(&site.logs())?);
    findings.push(Finding::none(
        "processes that ended by themselves, or not in order",
        course.surprises.len() as u64,
        course.surprises.first().map_or("", String::as_str),
    ));
    findings.push(Finding::none(
        "faults that could not be made",
        course.failed.len() as u64,
        course.failed.first().map_or("", String::as_str),
    ));
    Ok(Report {
        seed: plan.seed,
        seconds: plan.length.as_secs_f64(),
        brokers: plan.size.brokers,
        devices: plan.devices,
        rate: plan.rate,
        disk: site.disk(),
        faults: course.done,
        crashes: course.crashes,
        published: fleet.count("published"),
        resent: fleet.count("resent"),
        reconnects: fleet.count("reconnects"),
        acknowledged: acknowledged.count(),
        stored,
        gauge: course.gauge,
        findings,
    })
}

fn arguments(plan: &Plan, prefix: &str, site: &Site) -> Vec<String> {
    let mut arguments: Vec<String> = site.mqtt.iter().map(|mqtt| format!("--mqtt={mqtt}")).collect();
    arguments.extend([
        format!("--devices={}", plan.devices),
        format!("--rate={}", plan.rate),
        format!("--prefix={prefix}"),
        format!("--seed={}", plan.seed),
        "--in-flight=4".to_owned(),
        "--backoff-max=2s".to_owned(),
        format!("--drain={}s", DRAIN.as_secs()),
    ]);
    for fault in &plan.faults {
        if let What::Clock { off_s, one_in } = fault.what {
            let (at, lasts) = (fault.at.as_millis(), fault.lasts.as_millis());
            arguments.push(format!("--clock-step={at}ms,{lasts}ms,{one_in},{off_s}"));
        }
    }
    arguments
}

/// Which processes are asked to stop.
#[derive(Clone, Copy)]
enum Part {
    Gateways,
    Writers,
}

/// A drill under way.
struct Course {
    /// When the fleet began.
    began: Instant,
    /// What is to be done, the last first: begin and end of each fault.
    steps: Vec<(Duration, Step, Fault)>,
    /// Kinds of the faults that happened.
    done: Vec<Kind>,
    failed: Vec<String>,
    surprises: Vec<String>,
    /// Of Kafka and ClickHouse.
    crashes: Vec<String>,
    /// When the tables are looked at, the last first.
    breaks: Vec<Duration>,
    inspections: Inspections,
    gauge: Gauge,
    next_gauge: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    End,
}

impl Course {
    fn new(plan: &Plan) -> Self {
        let both =
            |fault: &Fault| [(fault.at, Step::Begin, *fault), (fault.at + fault.lasts, Step::End, *fault)];
        let mut steps: Vec<_> = plan.faults.iter().flat_map(both).collect();
        steps.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        Self {
            began: Instant::now(),
            steps,
            done: Vec::new(),
            failed: Vec::new(),
            surprises: Vec::new(),
            crashes: Vec::new(),
            breaks: schedule::breaks(plan.length).into_iter().rev().collect(),
            inspections: Inspections::default(),
            gauge: Gauge::new(plan.length),
            next_gauge: schedule::CALM,
        }
    }

    /// Lets every fault happen, each at its time.
    fn run(&mut self, site: &mut Site, fleet: &mut Fleet, stop: &Stop) -> anyhow::Result<()> {
        while let Some((at, ..)) = self.steps.last() {
            if *at <= self.began.elapsed() {
                self.step(site);
                continue;
            }
            if self.breaks.last().is_some_and(|at| *at <= self.began.elapsed()) {
                self.breaks.pop();
                self.inspect(site)?;
            }
            self.look(site, fleet)?;
            stop.check()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Looks at the tables while the writers stand still, and merges them.
    fn inspect(&mut self, site: &mut Site) -> anyhow::Result<()> {
        let began = Instant::now();
        site.freeze(true)?;
        let done = self.inspections.inspect(&site.ask(), site.tables());
        site.freeze(false)?;
        let (at, took) = (self.began.elapsed().as_secs_f64(), began.elapsed().as_secs_f64());
        eprintln!("{at:>7.1} s  the tables were looked at and merged, in {took:.1} s");
        done
    }

    fn rest(
        &mut self,
        length: Duration,
        site: &mut Site,
        fleet: &mut Fleet,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.look(site, fleet)?;
            stop.check()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn step(&mut self, site: &mut Site) {
        let Some((_, step, fault)) = self.steps.pop() else { return };
        let now = self.began.elapsed().as_secs_f64();
        let done = match step {
            Step::Begin => {
                eprintln!("{now:>7.1} s  {}, for {:.1} s", fault.what, fault.lasts.as_secs_f64());
                self.done.push(fault.what.kind());
                site.begin(fault.what)
            }
            Step::End => site.end(fault.what),
        };
        if let Err(error) = done {
            eprintln!("{now:>7.1} s  {:?} of `{}` FAILED: {error:#}", step, fault.what);
            self.failed.push(format!("{step:?} of `{}`: {error:#}", fault.what));
        }
    }

    fn look(&mut self, site: &mut Site, fleet: &mut Fleet) -> anyhow::Result<()> {
        self.note(site.look()?)?;
        // Not ours, and so no failure of a check: one more fault that has to be borne.
        for crash in site.look_at_services()? {
            eprintln!("{:>7.1} s  UNASKED: {crash}", self.began.elapsed().as_secs_f64());
            self.crashes.push(crash);
        }
        if fleet.has_ended()? {
            bail!("the fleet ended early");
        }
        let now = self.began.elapsed();
        if now >= self.next_gauge {
            fleet.look()?;
            self.gauge.look(now, site);
            self.next_gauge = now + GAUGE_EVERY;
        }
        Ok(())
    }

    fn note(&mut self, surprises: Vec<String>) -> anyhow::Result<()> {
        for surprise in surprises {
            eprintln!("{:>7.1} s  UNASKED: {surprise}", self.began.elapsed().as_secs_f64());
            self.surprises.push(surprise);
        }
        if self.surprises.len() > SURPRISES_MAX {
            bail!(
                "{} processes ended by themselves, the last: {:?}",
                self.surprises.len(),
                self.surprises.last()
            );
        }
        Ok(())
    }

    /// Asks these processes to stop, and sees whether they do so in order.
    fn leave(&mut self, site: &mut Site, part: Part) -> anyhow::Result<()> {
        let end = Instant::now() + LEAVE_MAX;
        let roles = |site: &'_ mut Site| -> Vec<usize> {
            match part {
                Part::Gateways => (0..site.gateways.len()).collect(),
                Part::Writers => (0..site.writers.len()).collect(),
            }
        };
        for index in roles(site) {
            let role = match part {
                Part::Gateways => &mut site.gateways[index],
                Part::Writers => &mut site.writers[index],
            };
            if role.runs() {
                role.leave()?;
            }
        }
        while site.roles().any(|role| role.is_leaving()) && Instant::now() < end {
            self.note(site.look()?)?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_drill_has_faults_of_every_kind() {
        let plan = Plan::short();
        assert!(plan.small_window());
        // The window is small all the time: it is no fault that happens.
        for kind in SHORT_KINDS.iter().filter(|kind| **kind != Kind::Window) {
            assert!(plan.faults.iter().any(|fault| fault.what.kind() == *kind), "{kind:?} is missing");
        }
    }
}
