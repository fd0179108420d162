//! A gateway or a writer of the drill: a process that is killed, hung, stopped and started again, always as the same one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use devstack::Process;

use crate::scrape;

/// Longer than twice the grace that roles give themselves.
const STOP_MAX: Duration = Duration::from_secs(30);
/// As a supervisor waits before it starts one again that ended by itself.
const SUPERVISOR_PAUSE: Duration = Duration::from_secs(1);
const TAIL_LINES: usize = 12;

/// One gateway or writer.
#[derive(Debug)]
pub(crate) struct Role {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    operations: SocketAddr,
    process: Option<Process>,
    /// What is to become of it.
    wanted: Wanted,
    /// Processor time of its earlier processes.
    spent: Duration,
    /// Processor time of this process when last looked at: of one that has ended nobody can be asked.
    seen: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Runs,
    /// It was asked to stop, and has until then.
    Leaves {
        until: Instant,
        back: bool,
    },
    /// It is to be started again then.
    Starts {
        at: Instant,
    },
    Gone,
}

impl Role {
    /// One that does not run yet. `role` is the command of `fleetpulse`.
    pub(crate) fn new(
        name: &str,
        role: &str,
        program: &Path,
        settings: &[String],
        operations: SocketAddr,
        logs: &Path,
    ) -> Self {
        let mut arguments: Vec<String> =
            settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]).collect();
        arguments.push("--set".to_owned());
        arguments.push(format!("{role}.operations_listen={operations}"));
        arguments.push(role.to_owned());
        Self {
            name: name.to_owned(),
            program: program.into(),
            arguments,
            log: logs.join(format!("{name}.log")),
            operations,
            process: None,
            wanted: Wanted::Gone,
            spent: Duration::ZERO,
            seen: Duration::ZERO,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it, or lets it come back once it has left.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        if let (Wanted::Leaves { until, .. }, Some(_)) = (self.wanted, &self.process) {
            self.wanted = Wanted::Leaves { until, back: true };
            return Ok(());
        }
        if self.process.is_none() {
            let mut command = Command::new(&self.program);
            command.args(&self.arguments);
            self.process = Some(Process::spawn(&self.name, &mut command, &self.log)?);
        }
        self.wanted = Wanted::Runs;
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let spent = self.cpu_of_process();
        self.spent += spent;
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        self.wanted = Wanted::Gone;
        Ok(())
    }

    pub(crate) fn hang(&mut self) -> anyhow::Result<()> {
        Ok(self.process.as_mut().with_context(|| format!("{} does not run", self.name))?.hang()?)
    }

    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        // What it stood still for is not counted against it.
        if let Wanted::Leaves { back, .. } = self.wanted {
            self.wanted = Wanted::Leaves { until: Instant::now() + STOP_MAX, back };
        }
        Ok(self.process.as_mut().with_context(|| format!("{} does not run", self.name))?.resume()?)
    }

    /// Asks it to stop, and does not wait.
    pub(crate) fn leave(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().with_context(|| format!("{} does not run", self.name))?.ask_to_stop()?;
        self.wanted = Wanted::Leaves { until: Instant::now() + STOP_MAX, back: false };
        Ok(())
    }

    /// Sees what has become of it; what should not have become of it is told. As a supervisor does, it starts again what
    /// ended by itself.
    pub(crate) fn look(&mut self) -> anyhow::Result<Option<String>> {
        let now = Instant::now();
        if matches!(self.wanted, Wanted::Starts { at } if at <= now) {
            self.start()?;
        }
        let Some(process) = self.process.as_mut() else {
            return Ok(None);
        };
        self.seen = process.cpu_time().unwrap_or(self.seen);
        let ended = process.exit_status()?;
        match (ended, self.wanted) {
            (None, Wanted::Leaves { until, back }) if until <= now => {
                let tail = process.log_tail(TAIL_LINES);
                self.kill()?;
                self.wanted = if back { Wanted::Starts { at: now } } else { Wanted::Gone };
                Ok(Some(format!("{} did not stop within {STOP_MAX:?}:\n{tail}", self.name)))
            }
            (None, _) => Ok(None),
            (Some(status), wanted) => {
                let tail = process.log_tail(TAIL_LINES);
                self.process = None;
                self.spent += std::mem::take(&mut self.seen);
                let asked = matches!(wanted, Wanted::Leaves { .. });
                self.wanted = match wanted {
                    Wanted::Leaves { back: false, .. } => Wanted::Gone,
                    Wanted::Leaves { .. } => Wanted::Starts { at: now },
                    _ => Wanted::Starts { at: now + SUPERVISOR_PAUSE },
                };
                if asked && status.success() {
                    return Ok(None);
                }
                let how = if asked { "did not stop in order" } else { "ended by itself" };
                Ok(Some(format!("{} {how} ({status}):\n{tail}", self.name)))
            }
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it is on its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        self.process.is_some() && matches!(self.wanted, Wanted::Leaves { .. })
    }

    /// Whether it says that it can do its work; one that is not to run is no reason to wait.
    pub(crate) fn ready(&self) -> anyhow::Result<()> {
        match self.wanted {
            Wanted::Gone | Wanted::Leaves { back: false, .. } => Ok(()),
            _ => scrape::ready(self.operations),
        }
    }

    /// Memory that it holds, bytes; `None` while it does not run.
    pub(crate) fn resident_bytes(&mut self) -> Option<u64> {
        self.process.as_mut()?.resident_bytes().ok()
    }

    /// Processor time of all its processes.
    pub(crate) fn cpu(&mut self) -> Duration {
        self.spent + self.cpu_of_process()
    }

    fn cpu_of_process(&mut self) -> Duration {
        self.process.as_mut().and_then(|process| process.cpu_time().ok()).unwrap_or_default()
    }
}
