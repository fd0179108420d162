//! Inserts a batch until it has landed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use store::{Class, InsertError, Store};

use crate::batch::Batch;

/// Between two attempts: doubled each time, up to the longest, less a random half.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Inserts every row of a batch under the batch's token, again and again until each table has confirmed it.
///
/// # Errors
/// Where no repetition helps. Cancel safe: a dropped insert may have landed; the same batch under the same token lands
/// once.
pub(crate) async fn until_landed(store: &Store, batch: &Batch) -> Result<(), InsertError> {
    let token = batch.token();
    let mut pause = FIRST_PAUSE;
    loop {
        match insert(store, batch, &token).await {
            Ok(()) => {
                count(batch);
                return Ok(());
            }
            Err(error) => {
                metrics::counter!("fleetpulse_writer_insert_failures_total", "reason" => error.reason())
                    .increment(1);
                if error.class() == Class::Fatal {
                    return Err(error);
                }
                tracing::warn!(lane = %batch.lane, rows = batch.rows(), token, error = &error as &dyn std::error::Error, "insert failed, again");
            }
        }
        tokio::time::sleep(jittered(pause, batch)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn insert(store: &Store, batch: &Batch, token: &str) -> Result<(), InsertError> {
    let started_at = std::time::Instant::now();
    // One after the other: what a device's `Connected` tells is there before its heartbeats.
    store.insert(&batch.connections, token).await?;
    store.insert(&batch.heartbeats, token).await?;
    store.insert(&batch.dead_letters, token).await?;
    store.insert(&batch.commands, token).await?;
    store.insert(&batch.ledgers, token).await?;
    // Last: a node that stops has ended its sessions before.
    store.insert(&batch.nodes, token).await?;
    store.insert(&[batch.row()], token).await?;
    metrics::histogram!("fleetpulse_writer_insert_seconds").record(started_at.elapsed());
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "seconds and rows in a histogram")]
fn count(batch: &Batch) {
    let tables = [
        ("connections", batch.connections.len()),
        ("heartbeats", batch.heartbeats.len()),
        ("dead_letters", batch.dead_letters.len()),
        ("commands", batch.commands.len()),
        ("node_ledgers", batch.ledgers.len()),
        ("nodes", batch.nodes.len()),
    ];
    for (table, rows) in tables {
        metrics::counter!("fleetpulse_writer_rows_total", "table" => table).increment(rows as u64);
    }
    metrics::histogram!("fleetpulse_writer_batch_rows").record(batch.rows() as f64);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let freshness = metrics::histogram!("fleetpulse_writer_freshness_seconds");
    for row in &batch.heartbeats {
        freshness.record((now_ms - row.received_at).max(0) as f64 / 1_000.0);
    }
}

/// Partitions that failed together do not come back together: the range's own numbers spread them.
fn jittered(pause: Duration, batch: &Batch) -> Duration {
    let seed = batch.first.0.wrapping_mul(31).wrapping_add(batch.lane.partition.0.into()).unsigned_abs();
    pause / 2 + pause.mul_f64((seed % 997) as f64 / 997.0 / 2.0)
}
