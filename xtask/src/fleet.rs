//! A simulated fleet: `fleetpulse simulate` as a child.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use devstack::Process;
use serde_json::Value;

use crate::stack::alive;

/// Longer than the simulator gives its devices to drain.
const STOP_MAX: Duration = Duration::from_secs(30);
const TAIL_LINES: usize = 20;

/// A fleet under way. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub process: Process,
    acknowledged: PathBuf,
    read_to: u64,
    latest: Value,
}

impl Fleet {
    /// Starts a fleet with these arguments of `fleetpulse simulate`; its files stand in `folder`.
    pub(crate) fn start(program: &Path, arguments: &[String], folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join("simulator.log");
        let acknowledged = folder.join("acknowledged.tsv");
        // Those of an earlier run would be read as ours.
        for file in [&log, &acknowledged] {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
        }
        let mut command = Command::new(program);
        command.args(["simulate", "--json", "--acknowledged"]);
        command.arg(&acknowledged).args(arguments);
        Ok(Self {
            process: Process::spawn("simulator", &mut command, &log)?,
            acknowledged,
            read_to: 0,
            latest: Value::Null,
        })
    }

    /// What it last told: `fleetpulse simulate --json` tells once a second.
    pub(crate) fn look(&mut self) -> anyhow::Result<&Value> {
        let log = self.process.log().to_owned();
        let mut text = Vec::new();
        let read = File::open(&log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read_to))?;
            file.read_to_end(&mut text)
        });
        read.with_context(|| format!("cannot read {}", log.display()))?;
        // A line that is not whole yet is read again.
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.read_to += whole as u64;
        let lines = text[..whole].split(|&byte| byte == b'\n');
        // Others are what it logs.
        if let Some(value) = lines
            .filter(|line| line.starts_with(b"{"))
            .filter_map(|line| serde_json::from_slice(line).ok())
            .next_back()
        {
            self.latest = value;
        }
        Ok(&self.latest)
    }

    /// A count that it last told; 0 before it told anything.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.latest.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A latency that it last told, in milliseconds: `("puback_ms", "p99")`.
    pub(crate) fn latency_ms(&self, which: &str, quantile: &str) -> f64 {
        let latency = self.latest.get(which).and_then(|latency| latency.get(quantile));
        latency.and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// Whether it has come to its own end. An error where that was not a good one.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        match self.process.exit_status()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(_) => alive(&mut self.process).map(|()| true),
        }
    }

    /// Stops it in order where it still runs, reads its last word, and tells where it wrote what was acknowledged.
    pub(crate) fn finish(&mut self) -> anyhow::Result<&Path> {
        let status = self.process.terminate(STOP_MAX)?;
        if !status.success() {
            let tail = self.process.log_tail(TAIL_LINES);
            bail!("the simulator did not end well ({status}):\n{tail}");
        }
        let last = self.look()?;
        if last.get("final").and_then(Value::as_bool) != Some(true) {
            bail!("the simulator ended without its report");
        }
        Ok(&self.acknowledged)
    }
}

/// A name for one run: unique on this machine, and plain enough to stand in a query.
pub(crate) fn run_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!("{:x}-{:x}", now.unwrap_or_default().as_secs(), std::process::id())
}
