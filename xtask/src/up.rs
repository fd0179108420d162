//! `cargo xtask up`: the stack and the pipeline, in the foreground.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::run::{Place, Run};
use crate::stop::Stop;

/// How often the processes are looked at.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    place: Place,
    /// How many devices will connect at most.
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
}

/// Runs until Ctrl-C or SIGTERM. Standard output gets one line, when all is ready.
pub(crate) fn run(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let mut run = Run::start(&flags.place, flags.devices, stop)?;
    let addresses = run.pipeline.addresses;
    println!(
        "ready mqtt={} kafka={} clickhouse={} metrics=http://{}/metrics,http://{}/metrics",
        addresses.mqtt,
        run.stack.kafka.bootstrap(),
        run.stack.clickhouse.url(),
        addresses.gateway_metrics,
        addresses.writer_metrics
    );
    let mut ended = Ok(());
    while ended.is_ok() && !stop.is_asked() {
        stop.pause(POLL);
        ended = run.check();
    }
    if ended.is_err() {
        eprintln!("==> something ended by itself: stopping the rest");
    }
    let stopped = run.stop();
    // What ended first is the reason; what then did not stop in order may follow from it.
    ended.and(stopped)?;
    Ok(ExitCode::SUCCESS)
}
