//! `cargo xtask demo`: everything, a simulated fleet against it, and the ledger.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use crate::clickhouse::ClickHouse;
use crate::fleet::{Fleet, run_id};
use crate::ledger::{Acknowledged, Line, Stored, grouped};
use crate::live::{Live, Screen};
use crate::pipeline::Counts;
use crate::run::{Place, Run};
use crate::stop::Stop;

const SECOND: Duration = Duration::from_secs(1);
/// How long past its time a fleet may take: to connect, and to drain.
const OVERTIME_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    place: Place,
    /// How many devices.
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
    /// Between two heartbeats of one device, for example 10s or 500ms.
    #[arg(long, default_value = "10s")]
    interval: String,
    /// How long the fleet lives.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// A fleet that has lived.
struct Lived {
    fleet: Fleet,
    prefix: String,
    begin: Counts,
    acknowledged: Acknowledged,
}

/// Exit code 0 only where every acknowledged heartbeat is stored exactly once.
pub(crate) fn run(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let mut run = Run::start(&flags.place, flags.devices, stop)?;
    let judged = simulate(flags, &mut run, stop).and_then(|lived| settle(&run, &lived));
    let stopped = run.stop();
    // The first error is the one to tell.
    let is_right = judged?;
    stopped?;
    if is_right {
        println!("acknowledged = stored: every acknowledged heartbeat is in the table exactly once");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("acknowledged and stored DIFFER: see the ledger above");
        Ok(ExitCode::FAILURE)
    }
}

/// Lets a fleet live its time, and shows what happens.
fn simulate(flags: &Flags, run: &mut Run, stop: &Stop) -> anyhow::Result<Lived> {
    let prefix = format!("demo-{}-", run_id());
    eprintln!(
        "==> {} devices, each a heartbeat every {}, for {} s; their names begin with {prefix}",
        grouped(flags.devices.into()),
        flags.interval,
        flags.seconds
    );
    let arguments = [
        format!("--mqtt={}", run.pipeline.addresses.mqtt),
        format!("--devices={}", flags.devices),
        format!("--interval={}", flags.interval),
        format!("--seconds={}", flags.seconds),
        format!("--prefix={prefix}"),
    ];
    let begin = run.pipeline.scrape()?;
    let mut fleet = Fleet::start(&run.programs.fleetpulse, &arguments, &run.logs)?;
    let end = Instant::now() + Duration::from_secs(flags.seconds) + OVERTIME_MAX;
    let mut live = Live::new(&begin);
    let mut screen = Screen::default();
    while !fleet.has_ended()? && !stop.is_asked() {
        if Instant::now() >= end {
            let log = fleet.process.log().display();
            bail!("the fleet did not end {OVERTIME_MAX:?} after its time; see {log}");
        }
        stop.pause(SECOND);
        let counts = run.pipeline.scrape();
        // First: one that has ended is the reason why it tells nothing.
        run.check()?;
        live.tick(counts?);
        fleet.look()?;
        screen.show(&live, &fleet)?;
    }
    if stop.is_asked() {
        eprintln!("==> interrupted: the fleet ends early, then comes the ledger");
    }
    let acknowledged = Acknowledged::read(fleet.finish()?)?;
    Ok(Lived { fleet, prefix, begin, acknowledged })
}

/// Waits for the last rows and prints the ledger. Whether it is right.
fn settle(run: &Run, lived: &Lived) -> anyhow::Result<bool> {
    eprintln!("==> waiting until every acknowledged heartbeat is in the table");
    let clickhouse = ClickHouse::at(run.stack.clickhouse.url());
    let stored = Stored::settle(&clickhouse, &lived.prefix, &lived.acknowledged)?;
    let end = run.pipeline.scrape_settled(&lived.begin)?;
    println!("\nledger");
    for line in ledger(lived, &stored, &end) {
        println!("{line}");
    }
    println!();
    if lived.acknowledged.count() == 0 {
        bail!("no heartbeat was acknowledged, so nothing was shown");
    }
    Ok(stored.is_right())
}

fn ledger(lived: &Lived, stored: &Stored, end: &Counts) -> Vec<Line> {
    let Lived { fleet, begin, .. } = lived;
    let since = |count: fn(&Counts) -> u64| grouped(count(end).saturating_sub(count(begin)));
    let ms = |quantile| format!("{:.1} ms", fleet.latency_ms("puback_ms", quantile));
    let freshness = end.freshness().since(&begin.freshness());
    let inserted = since(|counts| counts.rows("heartbeats"));
    vec![
        Line::new("published by devices", grouped(fleet.count("published"))),
        Line::new("acknowledged, say the devices", grouped(lived.acknowledged.count())),
        Line::new("acknowledged, says the gateway", since(Counts::acknowledged)),
        Line::new("outstanding at the end", grouped(fleet.count("outstanding")))
            .note("no promise was made for these"),
        Line::new("consumed by the writer", since(Counts::consumed))
            .note("records; presence events included"),
        Line::new("inserted by the writer", inserted).note("heartbeats"),
        Line::new("rows in the table", grouped(stored.rows)).note("FINAL: as a reader sees them"),
        Line::new("rows in the table, unmerged", grouped(stored.rows_unmerged)).note("without FINAL"),
        Line::new("distinct identities in the table", grouped(stored.identities)),
        Line::new("stored, but not acknowledged", grouped(stored.unacknowledged))
            .note("allowed: the PUBACK was outstanding"),
        Line::new("acknowledged, but missing", grouped(stored.missing)).note("must be 0"),
        Line::new("doubled", grouped(stored.doubled)).note("must be 0"),
        Line::new("dead letters", grouped(stored.dead_letters)),
        Line::new("PUBACK p50", ms("p50")).note("as the devices saw it"),
        Line::new("PUBACK p99", ms("p99")),
        Line::new("freshness p50", freshness.show(0.50)).note("from received by the gateway to in the table"),
        Line::new("freshness p99", freshness.show(0.99)),
    ]
}
