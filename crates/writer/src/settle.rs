//! Settling usage from time to time: by the writer that has partition 0 of the events, so that of many one does it.
//!
//! Two at once, while a partition moves, do no harm: what they write is the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bus::{Lane, Partition, Stream};
use store::{Months, QueryError, Settled, Store};
use tokio_util::sync::CancellationToken;

/// Who has it settles.
const LANE: Lane = Lane { stream: Stream::Events, partition: Partition(0) };

/// Whether it is this writer's turn. The driver tells it as partitions come and go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<AtomicBool>);

impl Turn {
    pub(crate) fn came(&self, lane: Lane) {
        if lane == LANE {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn went(&self, lane: Lane) {
        if lane == LANE {
            self.0.store(false, Ordering::Relaxed);
        }
    }
}

/// How often it is looked whether it is this writer's turn.
const LOOK: Duration = Duration::from_secs(1);
/// After a run that failed, if `every` is longer.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How often it is looked whether the costs of open bills are to be made anew: as long as who corrects a price may wait for it.
const COSTS_EVERY: Duration = Duration::from_secs(60);

/// Settles as soon as it is this writer's turn, and every `every` from then on, until `stop`; open bills also in between. A run that failed
/// is made again sooner.
pub(crate) async fn watch(store: Store, turn: Turn, every: Duration, stop: CancellationToken) {
    let (mut due, mut costs_due) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = Instant::now();
        if !turn.is_ours() || now < due.min(costs_due) {
            continue;
        }
        let mut months = Months::Recent;
        if now >= due {
            let settled = tokio::select! {
                // The run that is left is made again by whoever comes next.
                () = stop.cancelled() => return,
                settled = store.settle() => settled,
            };
            due = Instant::now() + if settled.is_ok() { every } else { every.min(AGAIN_AFTER) };
            months = Months::All;
            tell(settled);
        }
        let costs = tokio::select! {
            () = stop.cancelled() => return,
            costs = store.settle_costs(months) => costs,
        };
        tell_costs(costs);
        costs_due = Instant::now() + COSTS_EVERY;
    }
}

fn tell(settled: Result<Settled, QueryError>) {
    match settled {
        Ok(settled) => {
            metrics::counter!("fleetpulse_writer_settled_devices_total").increment(settled.devices);
            metrics::counter!("fleetpulse_writer_settled_late_devices_total").increment(settled.late);
            metrics::counter!("fleetpulse_writer_settle_refused_devices_total").increment(settled.refused);
            metrics::gauge!("fleetpulse_writer_settle_seconds").set(settled.took.as_secs_f64());
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            metrics::gauge!("fleetpulse_writer_settled_timestamp_seconds").set(now.as_secs_f64());
            tracing::debug!(devices = settled.devices, late = settled.late, took = ?settled.took, "usage settled");
        }
        Err(error) => failed(&error, "usage was not settled, again later"),
    }
}

fn tell_costs(settled: Result<u64, QueryError>) {
    match settled {
        Ok(months) => metrics::counter!("fleetpulse_writer_settled_cost_months_total").increment(months),
        Err(error) => failed(&error, "costs were not settled, again later"),
    }
}

fn failed(error: &QueryError, what: &'static str) {
    metrics::counter!("fleetpulse_writer_settle_failures_total").increment(1);
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}
