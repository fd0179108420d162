//! What a connection costs: the time until a whole fleet is online, and the memory of one that says nothing.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::node::{Certificates, Node};
use super::{Bench, CONNECT_MAX, POLL, WARM_UP, cost, float};
use crate::fleet::Fleet;

/// Memory of an idle TCP connection with all that the gateway keeps of it, KiB.
const TCP_KIB_MAX: f64 = 4.0;
/// Connects over TCP in a second: 19,000 in two.
const TCP_PER_S: f64 = 9_500.0;
/// Memory of an idle TLS connection with all that the gateway keeps of it, KiB.
const TLS_KIB_MAX: f64 = 16.0;
/// How long connections stand before all are lost: time to measure their memory.
const STANDING: Duration = Duration::from_secs(20);

pub(super) fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let devices = bench.devices();
    eprintln!("==> {devices} devices connect over TCP, and say nothing");
    let mut node = Node::gateway(bench, "idle-tcp", &[])?;
    let (bytes, mut fleet) = idle(bench, &mut node, devices, &["--connect-rate=20000".to_owned()], false)?;
    let seconds = milestone(bench, &mut fleet, "online_s")?;
    let table = &mut bench.table;
    let per_s = f64::from(devices) / seconds;
    table.goal(
        format!("{devices} connects over TCP, each a presence event"),
        format!("{seconds:.1} s ({per_s:.0}/s)"),
        format!("{TCP_PER_S:.0}/s"),
        per_s >= TCP_PER_S,
    );
    let goal = format!("at most {TCP_KIB_MAX:.0} KiB");
    table.goal("memory per idle TCP connection, RSS / PSS", show(&bytes), goal, within(&bytes, TCP_KIB_MAX));
    cost::finish(&mut [fleet])?;
    node.stop()?;

    eprintln!("==> {devices} devices connect over TLS, lose their network, and come back");
    let certificates = Certificates::make(bench)?;
    let mut node = Node::gateway(bench, "idle-tls", &certificates.settings())?;
    let extra = [
        "--connect-rate=3000".to_owned(),
        certificates.trust(),
        format!("--reconnect-after={}s", STANDING.as_secs()),
    ];
    let (bytes, mut fleet) = idle(bench, &mut node, devices, &extra, true)?;
    let first = milestone(bench, &mut fleet, "online_s")?;
    let again = milestone(bench, &mut fleet, "online_again_s")?;
    let resumed = fleet.count("tls_resumed");
    let table = &mut bench.table;
    table.figure(
        format!("{devices} connects over TLS, full handshakes"),
        format!("{first:.1} s ({:.0}/s)", f64::from(devices) / first),
    );
    table.figure(
        format!("{devices} connects over TLS, resumed"),
        format!("{again:.1} s ({:.0}/s)", f64::from(devices) / again),
    );
    let share = 100.0 * float(resumed) / f64::from(devices);
    table.goal("handshakes that were resumed", format!("{share:.1} %"), "99 %", share >= 99.0);
    let goal = format!("at most {TLS_KIB_MAX:.0} KiB");
    table.goal("memory per idle TLS connection, RSS / PSS", show(&bytes), goal, within(&bytes, TLS_KIB_MAX));
    cost::finish(&mut [fleet])?;
    node.stop()
}

/// Bytes per connection, resident and proportional, and the fleet that stands.
fn idle(
    bench: &mut Bench<'_>,
    node: &mut Node,
    devices: u32,
    extra: &[String],
    tls: bool,
) -> anyhow::Result<([f64; 2], Fleet)> {
    let before = node.memory()?;
    let mut extra = extra.to_vec();
    extra.push("--interval=3600s".to_owned());
    let mut fleets = [bench.fleet(if tls { node.mqtts } else { node.mqtt }, devices, &extra)?];
    bench.online(&mut fleets, devices)?;
    bench.rest(WARM_UP)?;
    let after = node.memory()?;
    let per = |after: u64, before: u64| float(after.saturating_sub(before)) / f64::from(devices);
    let [fleet] = fleets;
    Ok(([per(after.resident, before.resident), per(after.proportional, before.proportional)], fleet))
}

fn milestone(bench: &Bench<'_>, fleet: &mut Fleet, name: &str) -> anyhow::Result<f64> {
    let end = Instant::now() + CONNECT_MAX;
    loop {
        ensure!(!fleet.has_ended()?, "the fleet ended before its time");
        if let Some(seconds) = fleet.look()?.get(name).and_then(serde_json::Value::as_f64) {
            return Ok(seconds);
        }
        ensure!(Instant::now() < end, "the fleet was not complete within {CONNECT_MAX:?} ({name})");
        bench.rest(POLL)?;
    }
}

fn within(bytes: &[f64; 2], kib_max: f64) -> bool {
    bytes.iter().all(|bytes| bytes / 1024.0 <= kib_max)
}

fn show([resident, proportional]: &[f64; 2]) -> String {
    format!("{:.1} / {:.1} KiB", resident / 1024.0, proportional / 1024.0)
}
