//! Kafka says nothing for a minute while the whole fleet goes on: nobody is acknowledged, memory is bounded, and afterwards
//! everything that was acknowledged is stored, once.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::node::{self, Node};
use super::watch::acknowledged;
use super::{Bench, WARM_UP, cost};
use crate::clickhouse::ClickHouse;
use crate::fleet::Fleet;
use crate::ledger::{Acknowledged, Stored};

/// How long Kafka's last delivery reports, and the PUBACKs they release, are on their way.
const ON_THEIR_WAY: Duration = Duration::from_secs(2);
/// `kafka.in_flight_bytes_max`, and what the connections' own buffers may take beside it.
const GROWTH_BYTES_MAX: u64 = (256 + 256) << 20;
/// After Kafka answers again: until heartbeats are acknowledged as fast as they are made.
const RECOVER_MAX: Duration = Duration::from_secs(60);

pub(super) fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let (devices, rate) = (bench.devices(), bench.flags.rate);
    let hung = Duration::from_secs(bench.flags.hung_seconds);
    eprintln!("==> {devices} devices, {rate} heartbeats/s, and Kafka hangs for {hung:?}");
    ensure!(bench.stack.kafka.own().is_some(), "kafka is not ours to hang");
    let mut node = Node::gateway(bench, "hung", &[])?;
    let mut fleets = [bench.fleet(node.mqtt, devices, &[format!("--rate={rate}")])?];
    let prefix = bench.prefix();
    bench.online(&mut fleets, devices)?;
    bench.rest(WARM_UP)?;
    let before = node.memory()?.resident;
    let reconnects = cost::lost(&fleets[0]);

    for broker in bench.stack.kafka.own().context("kafka is not ours")?.brokers_mut() {
        broker.hang()?;
    }
    let begun = Instant::now();
    bench.rest(ON_THEIR_WAY)?;
    let confirmed = acknowledged(&mut fleets)?;
    let mut most = before;
    while begun.elapsed() < hung {
        bench.rest(Duration::from_millis(500))?;
        most = most.max(node.memory()?.resident);
    }
    let meanwhile = acknowledged(&mut fleets)? - confirmed;
    for broker in bench.stack.kafka.own().context("kafka is not ours")?.brokers_mut() {
        broker.resume()?;
    }
    let recovered = recovered(bench, &mut fleets, rate)?;
    bench.online(&mut fleets, devices)?;
    let reconnects = cost::lost(&fleets[0]) - reconnects;

    let mut writer = node::writer(bench)?;
    let [mut fleet] = fleets;
    let acknowledged = Acknowledged::read(fleet.finish()?)?;
    eprintln!("==> waiting until everything is in the table");
    let clickhouse = ClickHouse::at(bench.stack.clickhouse.url());
    let stored = Stored::settle(&clickhouse, &prefix, &acknowledged)?;
    let ended = writer.terminate(Duration::from_secs(20))?;
    ensure!(ended.success(), "the writer ended with {ended}:\n{}", writer.log_tail(20));

    let table = &mut bench.table;
    let seconds = hung.as_secs();
    table.promise(
        format!("acknowledged while Kafka hung for {seconds} s"),
        meanwhile.to_string(),
        "none",
        meanwhile == 0,
    );
    table.promise(
        "memory meanwhile, before / most",
        format!("{} / {} MiB", before >> 20, most >> 20),
        format!("at most {} MiB more", GROWTH_BYTES_MAX >> 20),
        most.saturating_sub(before) <= GROWTH_BYTES_MAX,
    );
    table.figure("until acknowledged as fast as made again", format!("{:.1} s", recovered.as_secs_f64()));
    table.figure("reconnects meanwhile", reconnects.to_string());
    table.promise(
        "acknowledged / missing / doubled in the table",
        format!("{} / {} / {}", acknowledged.count(), stored.missing, stored.doubled),
        "none missing, none doubled",
        stored.is_right(),
    );
    node.stop()
}

/// How long it takes until nothing older than a moment waits: as much is acknowledged in a second as is made.
fn recovered(bench: &Bench<'_>, fleets: &mut [Fleet], rate: u32) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        bench.rest(Duration::from_millis(500))?;
        acknowledged(fleets)?;
        let waits =
            fleets.iter().map(|fleet| fleet.count("waiting") + fleet.count("outstanding")).sum::<u64>();
        if waits < u64::from(rate) {
            return Ok(begun.elapsed());
        }
        ensure!(
            begun.elapsed() < RECOVER_MAX,
            "{waits} heartbeats still wait {RECOVER_MAX:?} after Kafka is back"
        );
    }
}
