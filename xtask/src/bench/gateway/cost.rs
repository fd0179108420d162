//! What a heartbeat costs: the same load on the gateway, on a bare server, and on mosquitto.

use std::time::Duration;

use super::node::Node;
use super::watch::{Seen, watch};
use super::{Bench, CONNECTIONS_MAX, WARM_UP};
use crate::fleet::Fleet;

/// Connections that press as hard as they can.
const PRESSING: u32 = 1_000;
/// How much more than a server that keeps nothing a heartbeat may cost at a steady rate.
const TIMES_BARE: f64 = 2.0;
/// What a heartbeat may cost where batches are large, microseconds.
const SATURATED_US_MAX: f64 = 5.0;

/// The whole fleet at its pace.
pub(super) fn steady(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let (devices, rate) = (bench.devices(), bench.flags.rate);
    let pace = [format!("--rate={rate}")];
    let name = format!("{rate} heartbeats/s over {devices} connections");
    let [gateway, bare, mosquitto] = three(bench, &name, devices, &pace)?;
    let Some(gateway) = gateway else { return Ok(()) };
    let both = |show: fn(&Seen) -> String| (bare.as_ref().map(show), mosquitto.as_ref().map(show));
    let us = |seen: &Seen| format!("{:.1} us", seen.cpu_us);
    let (b, m) = both(us);
    let table = &mut bench.table;
    let is_met = [(&bare, TIMES_BARE), (&mosquitto, 1.0)]
        .into_iter()
        .all(|(peer, times)| peer.as_ref().is_none_or(|peer| gateway.cpu_us <= times * peer.cpu_us));
    let goal = format!("{TIMES_BARE} times bare, under mosquitto");
    table.goal(format!("CPU per heartbeat, {name}"), us(&gateway), goal, is_met).beside(b, m);
    let ms = |seen: &Seen| format!("{:.1} / {:.1} ms", seen.p50_ms, seen.p99_ms);
    let (b, m) = both(ms);
    bench.table.figure(format!("PUBACK p50 / p99, {name}"), ms(&gateway)).beside(b, m);
    Ok(())
}

/// As fast as acknowledgements come back.
pub(super) fn saturated(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let pace = ["--saturate".to_owned(), "--in-flight=16".to_owned()];
    let name = format!("{PRESSING} connections, 16 in flight");
    let [gateway, bare, mosquitto] = three(bench, &name, PRESSING, &pace)?;
    let Some(gateway) = gateway else { return Ok(()) };
    let both = |show: fn(&Seen) -> String| (bare.as_ref().map(show), mosquitto.as_ref().map(show));
    let rate = |seen: &Seen| format!("{:.0}/s", seen.acknowledged_per_s);
    let (b, m) = both(rate);
    bench.table.figure(format!("heartbeats, {name}"), rate(&gateway)).beside(b, m);
    let us = |seen: &Seen| format!("{:.1} us", seen.cpu_us);
    let (b, m) = both(us);
    let is_met = gateway.cpu_us <= SATURATED_US_MAX;
    let goal = format!("{SATURATED_US_MAX} us");
    bench.table.goal(format!("CPU per heartbeat, {name}"), us(&gateway), goal, is_met).beside(b, m);
    let ms = |seen: &Seen| format!("{:.1} / {:.1} ms", seen.p50_ms, seen.p99_ms);
    let (b, m) = both(ms);
    bench.table.figure(format!("PUBACK p50 / p99, {name}"), ms(&gateway)).beside(b, m);
    Ok(())
}

/// The gateway, the bare server and mosquitto, one after the other.
fn three(
    bench: &mut Bench<'_>,
    name: &str,
    devices: u32,
    pace: &[String],
) -> anyhow::Result<[Option<Seen>; 3]> {
    let mut seen = [None, None, None];
    for (place, what) in ["gateway", "bare", "mosquitto"].into_iter().enumerate() {
        let node = match what {
            "gateway" => Some(Node::gateway(bench, &format!("gateway-{}", bench.fleets), &[])?),
            "bare" => Some(Node::bare(bench)?),
            _ => Node::mosquitto(bench)?,
        };
        let Some(mut node) = node else { continue };
        eprintln!("==> {what}: {name}");
        let mut fleets = [bench.fleet(node.mqtt, devices, pace)?];
        bench.online(&mut fleets, devices)?;
        bench.rest(WARM_UP)?;
        let length = Duration::from_secs(bench.flags.seconds);
        seen[place] = Some(watch(bench, &mut [&mut node.process], &mut fleets, length)?);
        finish(&mut fleets)?;
        if what == "gateway" {
            // A fresh process and its only fleet: all it ever acknowledged.
            let counted =
                node.scrape()?.counter("fleetpulse_gateway_acknowledged_total", "kind=\"heartbeat\"");
            let told = fleets[0].count("acknowledged");
            bench.table.promise(
                format!("Kafka confirmed / devices saw acknowledged, {name}"),
                format!("{counted} / {told}"),
                "no fewer",
                counted >= told,
            );
        }
        node.stop()?;
    }
    Ok(seen)
}

/// All devices at their pace, over as many gateways and simulators as it takes.
pub(super) fn fleet(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let nodes = bench.flags.devices.div_ceil(CONNECTIONS_MAX).max(1);
    let each = bench.flags.devices / nodes;
    let (devices, rate) = (each * nodes, bench.flags.rate);
    eprintln!("==> {devices} devices over {nodes} gateways, {rate} heartbeats/s");
    let mut gateways = Vec::new();
    let mut fleets = Vec::new();
    for number in 1..=nodes {
        let node = Node::gateway(bench, &format!("node-{number}"), &[])?;
        fleets.push(bench.fleet(node.mqtt, each, &[format!("--rate={}", rate / nodes)])?);
        gateways.push(node);
    }
    bench.online(&mut fleets, devices)?;
    bench.rest(WARM_UP)?;
    let mut processes: Vec<_> = gateways.iter_mut().map(|node| &mut node.process).collect();
    let seen = watch(bench, &mut processes, &mut fleets, Duration::from_secs(bench.flags.seconds))?;
    let mut resident = 0;
    for node in &mut gateways {
        resident += node.memory()?.resident;
    }
    let name = format!("{devices} connections, {nodes} gateways");
    let table = &mut bench.table;
    table.figure(
        format!("CPU per heartbeat, {name}"),
        format!("{:.1} us ({:.0}/s, {:.2} cores)", seen.cpu_us, seen.acknowledged_per_s, seen.cores),
    );
    table.figure(format!("PUBACK p50 / p99, {name}"), format!("{:.1} / {:.1} ms", seen.p50_ms, seen.p99_ms));
    table.figure(format!("memory of all, {name}"), format!("{} MiB", resident >> 20));
    let lost: u64 = fleets.iter().map(lost).sum();
    table.promise(format!("connections lost, {name}"), lost.to_string(), "none", lost == 0);
    finish(&mut fleets)?;
    gateways.into_iter().try_for_each(Node::stop)
}

/// Connections that ended without the device's will.
pub(super) fn lost(fleet: &Fleet) -> u64 {
    fleet.count("reconnects")
}

/// Ends fleets, well.
pub(super) fn finish(fleets: &mut [Fleet]) -> anyhow::Result<()> {
    fleets.iter_mut().try_for_each(|fleet| fleet.finish().map(drop))
}
