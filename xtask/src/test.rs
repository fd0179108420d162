//! `cargo xtask test`: what has to hold before anything is merged. CI calls exactly this.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use devstack::packages;

use crate::build::{Profile, Programs, Workspace};
use crate::drill;
use crate::fuzz;
use crate::stack::{self, Stack, StackConfig, TemporaryFolder};
use crate::stop::Stop;
use crate::tidy;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Do not install missing system packages, only name them.
    #[arg(long)]
    no_install: bool,
    /// What `cargo test --workspace` is given on top, for example a part of a test's name.
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// How long each target is fuzzed, in seconds: enough for what a change breaks at once. `cargo xtask fuzz` runs longer.
const FUZZ_S: u32 = 10;

/// The steps so far, each announced.
struct Steps {
    began: Instant,
    passed: Vec<&'static str>,
}

impl Steps {
    fn new() -> Self {
        Self { began: Instant::now(), passed: Vec::new() }
    }

    /// Does a step; the first that fails ends all.
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        eprintln!("==> {name} (at {:.1} s)", self.began.elapsed().as_secs_f64());
        let began = Instant::now();
        let done = work().with_context(|| format!("`cargo xtask test` stopped at: {name}"))?;
        eprintln!("    {name}: passed in {:.1} s", began.elapsed().as_secs_f64());
        self.passed.push(name);
        Ok(done)
    }
}

/// Stops at the first step that fails.
pub(crate) fn run(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let mut steps = Steps::new();
    let workspace = Workspace::find()?;
    let cargo = |arguments: &[&str]| workspace.cargo(arguments, &[], stop);

    steps.step("system packages", || {
        stack::ensure_packages(stack::install(flags.no_install), packages::TESTS)
    })?;
    steps.step("format", || cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    steps.step("clippy", || cargo(&clippy))?;
    steps.step("tidy", || match tidy::findings()?.as_slice() {
        [] => Ok(()),
        findings => bail!("{}", tidy::listed(findings)),
    })?;
    // Who wants one test does not want to wait for this.
    if flags.filter.is_empty() {
        steps.step("fuzz", || fuzz::fuzz(&workspace, FUZZ_S, None, stop))?;
    }
    // Tests of the stack itself want the launcher also where a service is named by the environment.
    let programs = steps.step("build", || workspace.build(Profile::Dev, true, stop))?;

    let folder = TemporaryFolder::make("test")?;
    let mut stack = steps.step("Kafka and ClickHouse", || {
        let config = StackConfig {
            kafka_port: 0,
            clickhouse_port: 0,
            data: folder.path().into(),
            chserver: programs.chserver.clone(),
        };
        Stack::start(&config, stop)
    })?;
    let tested = steps.step("tests", || test(&workspace, flags, &programs, &stack, stop));
    // One that died under the tests is the likelier reason for what failed then.
    let alive = stack.check();
    let stopped = stack.stop();
    alive.context("while the tests ran")?;
    tested?;
    stopped?;
    // Last, on a Kafka and a ClickHouse of its own, which it breaks.
    if flags.filter.is_empty() {
        steps.step("drill", || drill::short(&workspace, &programs, stop))?;
    }
    println!("passed: {}; in {:.0} s", steps.passed.join(", "), steps.began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn test(
    workspace: &Workspace,
    flags: &Flags,
    programs: &Programs,
    stack: &Stack,
    stop: &Stop,
) -> anyhow::Result<()> {
    let fleetpulse = programs.fleetpulse.to_str().context("the path of the workspace is not UTF-8")?;
    let (brokers, url) = (stack.kafka.bootstrap(), stack.clickhouse.url());
    let files = workspace.root.join("target").join("test-files");
    empty(&files)?;
    let environment = [
        ("FLEETPULSE_TEST_KAFKA_BROKERS", brokers.as_str()),
        ("FLEETPULSE_TEST_CLICKHOUSE_URL", url.as_str()),
        ("FLEETPULSE_TEST_BIN", fleetpulse),
        // What tests leave behind is there to be looked at until the next run, and lies about nowhere else.
        ("TMPDIR", files.to_str().context("the path of the workspace is not UTF-8")?),
    ];
    let mut arguments = vec!["test", "--workspace"];
    arguments.extend(flags.filter.iter().map(String::as_str));
    workspace.cargo(&arguments, &environment, stop)
}

/// Makes the folder anew.
fn empty(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
        }
        _ => {}
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
