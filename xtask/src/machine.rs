//! What a measurement was taken on.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// The facts of this machine and of the versions measured; what cannot be found out is "unknown".
pub(crate) fn facts(fleetpulse: &Path, kafka: &str, clickhouse: &str) -> Value {
    json!({
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "cpu": from_file("/proc/cpuinfo", "model name"),
        "memory": from_file("/proc/meminfo", "MemTotal"),
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "rustc": answer(Command::new("rustc").arg("--version")),
        "fleetpulse": answer(Command::new(fleetpulse).arg("--version")),
        "kafka": kafka,
        "clickhouse": clickhouse,
    })
}

/// How busy the machine was in the last minute, in processes that ran or would have.
pub(crate) fn load_average() -> String {
    let line = first_line("/proc/loadavg");
    line.split(' ').next().unwrap_or_default().to_owned()
}

/// From the first line `key : value`.
fn from_file(path: &str, key: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
    value.map_or_else(unknown, |(_, value)| value.trim().to_owned())
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().map_or_else(unknown, str::to_owned)
}

fn answer(command: &mut Command) -> String {
    match command.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => unknown(),
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}
