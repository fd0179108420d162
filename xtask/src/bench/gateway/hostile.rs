//! A good fleet, measured before and while others attack the same gateway.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::attack::{Attack, EACH};
use super::node::{Certificates, Node};
use super::watch::watch;
use super::{Bench, CONNECT_MAX, POLL, WARM_UP, cost, float};

/// The good ones: attackers need the other places of the process.
const GOOD: u32 = 5_000;
/// How much longer a good device may wait.
const WORSE_MAX: f64 = 1.2;
/// What ten thousand connections that say nothing may take, and more than packets of 256 MB would leave of it.
const GROWTH_BYTES_MAX: u64 = 512 << 20;
/// `gateway.publish_rate_max` and the share of `gateway.publish_burst_max` that falls into the measured time.
const PUBLISH_RATE_MAX: f64 = 1_000.0;
const PUBLISH_BURST_MAX: f64 = 5_000.0;

pub(super) fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let rate = bench.flags.rate;
    eprintln!("==> {GOOD} good devices, {rate} heartbeats/s; then {} that attack", 2 * EACH);
    let certificates = Certificates::make(bench)?;
    let mut node = Node::gateway(bench, "hostile", &certificates.settings())?;
    let mut fleets = [bench.fleet(node.mqtt, GOOD, &[format!("--rate={rate}")])?];
    bench.online(&mut fleets, GOOD)?;
    bench.rest(WARM_UP)?;
    let length = Duration::from_secs(bench.flags.seconds);
    let before = watch(bench, &mut [&mut node.process], &mut fleets, length)?;
    let memory_before = node.memory()?.resident;

    let attack = Attack::start(node.mqtt, node.mqtts);
    let end = Instant::now() + CONNECT_MAX;
    while attack.standing() < (2 * EACH * 9 / 10) as u64 {
        ensure!(Instant::now() < end, "only {} attackers stand", attack.standing());
        bench.rest(POLL)?;
    }
    bench.rest(WARM_UP)?;
    let (flooded, large, begun) = (attack.flooded(), attack.large(), Instant::now());
    let during = watch(bench, &mut [&mut node.process], &mut fleets, length)?;
    let seconds = begun.elapsed().as_secs_f64();
    let (flooded, large) = (attack.flooded() - flooded, attack.large() - large);
    let (standing, closed) = (attack.standing(), attack.closed());
    let refused = node.scrape()?.counter("fleetpulse_gateway_refused_total", "");
    let memory = node.memory()?.resident.saturating_sub(memory_before);
    drop(attack);

    let table = &mut bench.table;
    let worse = during.p99_ms / before.p99_ms;
    table.goal(
        format!("PUBACK p99 of {GOOD} good devices, before / under attack"),
        format!("{:.1} / {:.1} ms ({:+.0} %)", before.p99_ms, during.p99_ms, (worse - 1.0) * 100.0),
        "less than 20 % worse",
        worse < WORSE_MAX,
    );
    table.figure("PUBACK p50 of the same", format!("{:.1} / {:.1} ms", before.p50_ms, during.p50_ms));
    table.figure(
        "PUBACK p99 of the worst second",
        format!("{:.1} / {:.1} ms", before.worst_p99_ms, during.worst_p99_ms),
    );
    let lost = fleets.iter().map(cost::lost).sum::<u64>();
    table.promise("good connections lost under attack", lost.to_string(), "none", lost == 0);
    let withheld = fleets.iter().map(|fleet| fleet.count("withheld")).sum::<u64>();
    table.promise("good heartbeats that found no room", withheld.to_string(), "none", withheld == 0);
    table.figure(
        "silent TLS clients and slow CONNECTs, standing",
        format!("{standing} ({closed} closed, {refused} refusals counted)"),
    );
    let flood = float(flooded) / seconds;
    let flood_max = PUBLISH_RATE_MAX + PUBLISH_BURST_MAX / seconds;
    table.promise(
        "publishes that the flood got through",
        format!("{flood:.0}/s"),
        format!("at most {flood_max:.0}/s"),
        flood <= flood_max * 1.05,
    );
    table.promise("packets of 256 MB, cut off at the header", large.to_string(), "all", large > 0);
    table.promise(
        "memory that the attack takes",
        format!("{} MiB", memory >> 20),
        format!("at most {} MiB", GROWTH_BYTES_MAX >> 20),
        memory <= GROWTH_BYTES_MAX,
    );
    cost::finish(&mut fleets)?;
    node.stop()
}
