//! From Kafka: each partition's span in chunks, each chunk asked for, and brought back by the writer's own asking attempt.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bus::{History, Offset, Reread, Span};
use ops::Health;
use store::rows::{HeartbeatRow, LedgerRow, RecordRow, TableRow};
use store::{HeartbeatKey, Store};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    AskError, Asked, CHUNK_BYTES, CHUNK_RECORDS, PATIENCE, Progress, ReplayError, Report, Run, Tally,
};
use crate::Config;
use crate::batch::{Batch, Limits};
use crate::insert::{Inserter, Replaced};
use crate::row::Input;
use crate::rows::Rows;

/// Heartbeats that ClickHouse is asked for at once.
const KEYS_AT_ONCE: usize = 1_000;
/// Between two attempts to ask.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the reading thread hands over.
enum Read {
    Chunk(Box<Batch>),
    /// Records that Kafka does not hold any more.
    Dropped(Span, Vec<(Offset, Offset)>),
    /// The oldest record that Kafka holds of a partition is younger than what was asked for.
    Late(Span, i64),
}

/// Reads the records of a span of time again, and brings back the rows that stand nowhere.
///
/// # Errors
/// Where Kafka or ClickHouse do not answer, or ClickHouse refuses rows for good. Cancel safe: what is brought back stands.
pub async fn from_kafka(
    store: &Store,
    kafka: &bus::Config,
    config: &Config,
    asked: &Asked,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, ReplayError> {
    store.check_schema().await?;
    let history = History::new(kafka, &config.group)?;
    let (from_ms, to_ms) = (asked.from_ms, asked.to_ms);
    let spans = tokio::task::spawn_blocking(move || {
        let spans = history.spans(from_ms, to_ms);
        (history, spans)
    });
    let (history, spans) = spans.await.map_err(|_| ReplayError::Panicked)?;
    let spans = spans?;
    let mut report = Report { ahead: spans.iter().map(|span| span.ahead).sum(), ..Report::default() };
    let mut done = Progress { done: 0, of: spans.iter().map(Span::len).sum() };
    progress(done);

    // One is brought back while the next is read.
    let (chunks, mut read) = mpsc::channel(1);
    // Ends with its last span, or where nobody takes its chunks any more.
    let reading = tokio::task::spawn_blocking(move || {
        spans.iter().try_for_each(|span| read_span(&history, span, from_ms, &chunks))
    });
    // A condition that nobody watches.
    let lands = Health::default().condition("rows_land");
    let bringing = Bringing {
        store,
        inserter: Inserter::new(store.clone(), config.refused_rows_max, lands),
        token: format!("replay-{}", Uuid::now_v7()),
        run: asked.run,
    };
    while let Some(read) = read.recv().await {
        match read {
            Read::Chunk(batch) => {
                bringing.chunk(&batch, &mut report).await?;
                done.done += batch.len() as u64;
                progress(done);
            }
            Read::Dropped(span, ranges) => {
                for (first, last) in ranges {
                    done.of = done.of.saturating_sub(last.0.abs_diff(first.0) + 1);
                    report
                        .lost
                        .push(format!("{}: kafka has dropped the records {}-{}", span.lane, first.0, last.0));
                }
            }
            Read::Late(span, at_ms) => report.lost.push(format!(
                "{}: kafka holds nothing from before its record {}, {} s after the beginning",
                span.lane,
                span.first.0,
                at_ms.saturating_sub(from_ms) / 1_000
            )),
        }
    }
    reading.await.map_err(|_| ReplayError::Panicked)??;
    progress(done);
    Ok(report)
}

/// In a thread of its own. Nobody takes what it reads: that is no error here.
fn read_span(
    history: &History,
    span: &Span,
    from_ms: i64,
    to: &mpsc::Sender<Read>,
) -> Result<(), bus::LookupError> {
    let limits = Limits { rows: CHUNK_RECORDS, bytes: CHUNK_BYTES, age: Duration::MAX };
    let mut open: Option<Batch> = None;
    let mut is_first = true;
    let hand_over = |read| match to.blocking_send(read) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_gone) => ControlFlow::Break(()),
    };
    let dropped = history.read(span, |record: Reread<'_>| {
        let Reread { offset, produced_at_ms, payload } = record;
        if std::mem::take(&mut is_first) && span.cut && produced_at_ms > from_ms {
            hand_over(Read::Late(*span, produced_at_ms))?;
        }
        let input = Input { lane: span.lane, offset, produced_at_ms, payload };
        match &mut open {
            Some(batch) => batch.push(&input, None),
            None => open = Some(Batch::open(&input, None, Instant::now())),
        }
        match open.take_if(|batch| batch.full(&limits).is_some()) {
            Some(batch) => hand_over(Read::Chunk(Box::new(batch))),
            None => ControlFlow::Continue(()),
        }
    })?;
    if let Some(batch) = open {
        let _gone = hand_over(Read::Chunk(Box::new(batch)));
    }
    if !dropped.is_empty() {
        let _gone = hand_over(Read::Dropped(*span, dropped));
    }
    Ok(())
}

/// What brings chunks back.
struct Bringing<'a> {
    store: &'a Store,
    inserter: Inserter,
    /// What the tokens of this replay begin with.
    token: String,
    run: Run,
}

impl Bringing<'_> {
    async fn chunk(&self, batch: &Batch, report: &mut Report) -> Result<(), ReplayError> {
        let rows = Rows::of(batch);
        let (found, replaced) = self.asked(&rows).await?;
        let mut refused = std::collections::BTreeMap::new();
        if self.run == Run::Real {
            let records = || format!("{} {}-{}", batch.lane, batch.first.0, batch.last.0);
            let brought = self.inserter.bring_back(batch, &rows, &replaced, &self.token);
            refused = tokio::time::timeout(PATIENCE, brought)
                .await
                .map_err(|_| ReplayError::Trouble { records: records() })?
                .map_err(|error| ReplayError::land(records(), error))?;
        }
        for (table, tally) in found {
            let sum = report.tables.entry(table).or_default();
            sum.records += tally.records;
            sum.standing += tally.standing;
            sum.replaced += tally.replaced;
            sum.missing += tally.missing;
            sum.refused += tally.refused + refused.get(table).copied().unwrap_or_default();
        }
        Ok(())
    }

    /// What stands, asked again for as long as there is patience.
    async fn asked(&self, rows: &Rows<'_>) -> Result<(Vec<(&'static str, Tally)>, Replaced), ReplayError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.ask(rows).await {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "asking what stands, again");
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn ask(&self, rows: &Rows<'_>) -> Result<(Vec<(&'static str, Tally)>, Replaced), AskError> {
        let mut replaced = Replaced::new();
        let heartbeats = self.missing(&rows.heartbeats).await?;
        for rows in heartbeats.chunks(KEYS_AT_ONCE) {
            let keys: Vec<HeartbeatKey> = rows.iter().map(|row| key(row)).collect();
            let standing: HashSet<HeartbeatKey> =
                self.store.standing_heartbeats(&keys).await?.into_iter().collect();
            let again = rows.iter().filter(|row| standing.contains(&key(row)));
            replaced.extend(again.map(|row| (<HeartbeatRow<'_>>::TABLE, row.kafka_offset)));
        }
        let ledgers = self.missing(&rows.ledgers).await?;
        if let (Some(first), Some(last)) =
            (ledgers.iter().map(|row| row.minute).min(), ledgers.iter().map(|row| row.minute).max())
        {
            let newest = self.store.newest_tellings(first, last).await?;
            let anew = ledgers.iter().filter(|row| {
                let telling = newest.get(&(row.node_id.clone(), row.epoch, row.minute));
                telling.is_some_and(|telling| *telling >= row.telling)
            });
            replaced.extend(anew.map(|row| (LedgerRow::TABLE, row.kafka_offset)));
        }
        let tallies = vec![
            self.tally(&rows.connections, &replaced).await?,
            self.tally(&rows.heartbeats, &replaced).await?,
            self.tally(&rows.commands, &replaced).await?,
            self.tally(&rows.dead_letters, &replaced).await?,
            self.tally(&rows.ledgers, &replaced).await?,
            self.tally(&rows.nodes, &replaced).await?,
        ];
        Ok((tallies, replaced))
    }

    /// Rows without a row of their record.
    async fn missing<'r, R: RecordRow>(&self, rows: &'r [R]) -> Result<Vec<&'r R>, AskError> {
        let held = self.store.held(rows).await?;
        Ok(rows.iter().filter(|row| !held.holds(*row)).collect())
    }

    async fn tally<R: RecordRow>(
        &self,
        rows: &[R],
        replaced: &Replaced,
    ) -> Result<(&'static str, Tally), AskError> {
        let missing = self.missing(rows).await?;
        let elsewhere =
            missing.iter().filter(|row| replaced.contains(&(R::TABLE, row.kafka_offset()))).count();
        let mut tally = Tally {
            records: rows.len() as u64,
            standing: (rows.len() - missing.len()) as u64,
            replaced: elsewhere as u64,
            missing: (missing.len() - elsewhere) as u64,
            refused: 0,
        };
        // A dry run inserts nothing: what was refused once is taken for what would be again.
        if self.run == Run::Dry
            && let Some(first) = missing.first()
        {
            let offsets: Vec<u64> = missing
                .iter()
                .map(|row| row.kafka_offset())
                .filter(|offset| !replaced.contains(&(R::TABLE, *offset)))
                .collect();
            let refused = self.store.refused_records(first.kafka_partition(), &offsets).await?;
            tally.refused = refused.len() as u64;
        }
        Ok((R::TABLE, tally))
    }
}

fn key(row: &HeartbeatRow<'_>) -> HeartbeatKey {
    HeartbeatKey {
        device_id: row.device_id.to_string(),
        device_time: row.device_time,
        identity: row.identity,
    }
}
