//! A fleet of simulated devices in the background of a test, and the proof that what it saw acknowledged is stored once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use simulator::{Pace, Report};
use tokio_util::sync::CancellationToken;

use crate::pipeline::Pipeline;
use crate::services::{DEADLINE, eventually};

/// A fleet that publishes in the background and keeps a list of what was acknowledged.
pub(crate) struct Fleet {
    stop: CancellationToken,
    thread: JoinHandle<Result<Report>>,
}

impl Fleet {
    pub(crate) fn start(mqtt: SocketAddr, devices: u32, every: Duration) -> Self {
        let stop = CancellationToken::new();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut config = simulator::Config::new(mqtt, devices);
                config.pace = Pace::Interval(every);
                config.in_flight = 4;
                config.drain = DEADLINE;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(simulator::run(config, stop, |_| {}))?)
            }
        });
        Self { stop, thread }
    }

    /// Stops it and waits for what is outstanding. Then every acknowledged heartbeat has to stand in the table, once for a
    /// reader; and every record on Kafka has to stand there once, as nothing was merged.
    pub(crate) fn verify(self, pipeline: &Pipeline) -> Result<Report> {
        self.stop.cancel();
        let report = self.thread.join().map_err(|_| anyhow!("the fleet panicked"))??;
        let acknowledged: BTreeSet<(String, u64)> =
            report.acknowledged().map(|(device, sequence)| (device.to_string(), sequence)).collect();
        ensure!(!acknowledged.is_empty(), "nothing was acknowledged");
        let stored = eventually("every acknowledged heartbeat in the table", || {
            let stored = stored(pipeline)?;
            let missing: Vec<_> =
                acknowledged.iter().filter(|heartbeat| !stored.contains_key(heartbeat)).collect();
            ensure!(
                missing.is_empty(),
                "{} of {} are missing: {:?} ...",
                missing.len(),
                acknowledged.len(),
                missing[0]
            );
            Ok(Some(stored))
        })?;
        let doubled = stored.iter().find(|(_, count)| **count != 1);
        ensure!(doubled.is_none(), "{doubled:?} stands more than once for a reader");
        let records = pipeline
            .ask("SELECT count() = uniqExact(kafka_partition, kafka_offset), count() FROM heartbeats")?;
        ensure!(records.starts_with("1\t"), "of {records} rows some are of the same record");
        Ok(report)
    }
}

/// What a reader finds: how often each heartbeat of the fleet stands in the table.
fn stored(pipeline: &Pipeline) -> Result<BTreeMap<(String, u64), u64>> {
    let question = "SELECT device_id, sequence, count() FROM heartbeats FINAL WHERE device_id LIKE 'device-%' GROUP BY ALL";
    let rows = pipeline.ask(question)?;
    let row = |row: &str| {
        let mut columns = row.split('\t');
        let mut next = || columns.next().context("three columns");
        Ok(((next()?.to_owned(), next()?.parse()?), next()?.parse()?))
    };
    rows.lines().map(row).collect()
}

fn rows(pipeline: &Pipeline) -> Result<u64> {
    Ok(pipeline.ask("SELECT count() FROM heartbeats")?.parse()?)
}

/// Waits until more rows than now stand in the table.
pub(crate) fn more_rows(pipeline: &Pipeline) -> Result<()> {
    let before = rows(pipeline)?;
    eventually("more rows", || Ok((rows(pipeline)? > before + 20).then_some(())))
}
