//! What fleets tell while time passes: acknowledgements, and the latencies of each second.

use std::time::{Duration, Instant};

use anyhow::ensure;
use devstack::Process;

use super::{Bench, float};
use crate::fleet::Fleet;

/// How often a fleet is asked whether it has told something.
const LOOK: Duration = Duration::from_millis(10);
/// A fleet tells once a second, an overloaded one later.
const TELLS_MAX: Duration = Duration::from_secs(30);

/// What a load did in the measured time.
#[derive(Debug)]
pub(super) struct Seen {
    /// CPU time of the server for one acknowledged heartbeat, microseconds.
    pub cpu_us: f64,
    /// Share of one core that the server used.
    pub cores: f64,
    pub acknowledged_per_s: f64,
    /// Of the seconds, the one in the middle: milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The worst second's.
    pub worst_p99_ms: f64,
}

/// Watches for `length`; `processes` are those whose CPU time counts.
pub(super) fn watch(
    bench: &Bench<'_>,
    processes: &mut [&mut Process],
    fleets: &mut [Fleet],
    length: Duration,
) -> anyhow::Result<Seen> {
    // At the moment at which the first fleet tells: counts and CPU time are of the same moment then, not up to a second apart.
    told(bench, &mut fleets[0])?;
    let (first, cpu_first, begun) = (acknowledged(fleets)?, cpu(processes)?, Instant::now());
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    while begun.elapsed() < length {
        told(bench, &mut fleets[0])?;
        for fleet in fleets.iter_mut() {
            fleet.look()?;
            p50.push(fleet.latency_ms("puback_ms", "p50"));
            p99.push(fleet.latency_ms("puback_ms", "p99"));
        }
    }
    let (last, cpu_last, seconds) = (acknowledged(fleets)?, cpu(processes)?, begun.elapsed().as_secs_f64());
    let count = last.saturating_sub(first);
    ensure!(count > 0, "nothing was acknowledged");
    let cpu = cpu_last.saturating_sub(cpu_first).as_secs_f64();
    Ok(Seen {
        cpu_us: cpu * 1e6 / float(count),
        cores: cpu / seconds,
        acknowledged_per_s: float(count) / seconds,
        p50_ms: middle(&mut p50),
        worst_p99_ms: p99.iter().copied().fold(0.0, f64::max),
        p99_ms: middle(&mut p99),
    })
}

/// Waits until a fleet tells again, which it does once a second.
fn told(bench: &Bench<'_>, fleet: &mut Fleet) -> anyhow::Result<()> {
    let elapsed = |fleet: &mut Fleet| anyhow::Ok(fleet.look()?["elapsed_s"].as_f64().unwrap_or(0.0));
    let (last, end) = (elapsed(fleet)?, Instant::now() + TELLS_MAX);
    while elapsed(fleet)? <= last {
        ensure!(!fleet.has_ended()?, "a fleet ended before its time");
        ensure!(Instant::now() < end, "a fleet has told nothing for {TELLS_MAX:?}");
        bench.rest(LOOK)?;
    }
    Ok(())
}

/// Acknowledgements that all fleets have counted.
pub(super) fn acknowledged(fleets: &mut [Fleet]) -> anyhow::Result<u64> {
    fleets.iter_mut().try_fold(0, |sum, fleet| {
        ensure!(!fleet.has_ended()?, "a fleet ended before its time");
        fleet.look()?;
        Ok(sum + fleet.count("acknowledged"))
    })
}

fn cpu(processes: &mut [&mut Process]) -> anyhow::Result<Duration> {
    processes.iter_mut().try_fold(Duration::ZERO, |sum, process| Ok(sum + process.cpu_time()?))
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::middle;

    #[test]
    fn one_bad_second_does_not_move_the_middle() {
        assert!((middle(&mut [9.0, 7.0, 8.0, 500.0, 8.5]) - 8.5).abs() < f64::EPSILON);
        assert!(middle(&mut []).abs() < f64::EPSILON);
    }
}
