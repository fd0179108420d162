//! Brings batches into ClickHouse, until all of them stands.
//!
//! Batches that were just announced go out as a *round* ([`crate::round`]), once. Every other attempt is one batch's own and *asks*
//! first, as an earlier one may have landed, wholly or in part, and its token may be forgotten: table by table, which rows stand.
//! What stands is brought into the views. Then the round of the batch is closed, so that it cannot land any more, and what is still
//! missing is inserted.
//!
//! The batch's own token still matters then: it stops another attempt that asked, and lands between question and insert.
//!
//! A batch that is *brought back* ([`crate::replay`]) stood once, and its rows may be gone: there the batch's row says nothing, is not
//! written, and the token is one that no table knows yet.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ops::Condition;
use store::rows::{BatchRow, DeadLetterRow, RecordRow, TableRow};
use store::{Class, Held, InsertError, Store, Trouble};

use crate::batch::Batch;
use crate::round::Round;
use crate::rows::Rows;

/// For how long a writer is sure that what it knew holds. One that was stopped for longer (by a debugger, by its machine) may have lost the
/// partition meanwhile without knowing, and its batch stands by another's hand. So no statement of a round goes out longer after its first
/// batch was closed, and what ClickHouse said of the rows that stand is asked again where it took longer to come. Under the shortest
/// session timeout, so that the group cannot have moved on. A second process with the same instance id gets partitions sooner: against that one stands
/// what it does first, which is to close the round.
const SURE_FOR: Duration = Duration::from_secs(4);
/// So often at most: a slow server is no stopped writer.
const ASKED_MAX: u32 = 3;
/// One heartbeat in so many of a batch tells how fresh it was. Its neighbours came in within the same milliseconds; and to record a figure asks
/// for the clock, which for each heartbeat was a fifteenth of all that a writer does.
const FRESHNESS_EVERY: usize = 50;

/// How a batch came to stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Landing {
    /// Rows that stood already when it was asked.
    pub found: usize,
}

/// What a batch is inserted for.
#[derive(Clone, Copy)]
enum Goal<'a> {
    /// It is consumed: its row in `batches` says that it stands.
    Land,
    /// It was consumed before. Rows that stand under another record are left out.
    BringBack(&'a Replaced),
}

/// Records without a row of their own whose row stands all the same, under another record: table and offset.
pub(crate) type Replaced = HashSet<(&'static str, u64)>;

/// Why a batch cannot be brought in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LandError {
    #[error(transparent)]
    Insert(#[from] InsertError),
    #[error(
        "clickhouse refuses {refused} records of one batch (setting `writer.refused_rows_max`): that is no damaged record, that is the schema"
    )]
    Refused {
        refused: usize,
        #[source]
        source: InsertError,
    },
    #[error("the task that inserted a batch panicked")]
    Panicked,
}

/// Why a round was not inserted whole.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    /// Its announcement is too long ago for the next statement.
    #[error("announced more than {} s ago", SURE_FOR.as_secs())]
    Old,
    #[error(transparent)]
    Insert(#[from] InsertError),
}

/// What all inserts of a writer share.
#[derive(Clone)]
pub(crate) struct Inserter {
    store: Store,
    refused_max: usize,
    troubled: Arc<Troubled>,
}

/// How many batches are being repeated, and the condition that says that none is.
struct Troubled {
    batches: AtomicUsize,
    lands: Condition,
}

/// One batch that is being repeated, for as long as this lives.
struct InTrouble(Arc<Troubled>);

/// The rows of a round.
struct Together<'a> {
    store: &'a Store,
    rows: &'a [Rows<'a>],
    round: &'a Round,
    closed_at: Instant,
}

/// One attempt.
struct Attempt<'a> {
    store: &'a Store,
    batch: &'a Batch,
    token: &'a str,
    goal: Goal<'a>,
    refused_max: usize,
    found: usize,
    refused: Vec<DeadLetterRow>,
    refused_of: BTreeMap<&'static str, u64>,
}

impl Inserter {
    /// `lands` is true while no batch waits for ClickHouse to get over some trouble.
    pub(crate) fn new(store: Store, refused_max: u32, lands: Condition) -> Self {
        lands.set(true);
        let troubled = Arc::new(Troubled { batches: AtomicUsize::new(0), lands });
        Self { store, refused_max: usize::try_from(refused_max).unwrap_or(usize::MAX), troubled }
    }

    /// Inserts batches together, once; whether success was reported. If not, each goes on alone ([`Self::until_landed`]), whatever has
    /// landed of it.
    ///
    /// Cancel safe in that sense.
    pub(crate) async fn round(&self, batches: &[Arc<Batch>], round: &Round) -> bool {
        let started_at = Instant::now();
        let rows: Vec<Rows<'_>> = batches.iter().map(|batch| Rows::of(batch)).collect();
        let outcome = match batches.iter().map(|batch| batch.closed_at).min() {
            Some(closed_at) => self.try_round(&rows, round, closed_at).await,
            None => Ok(()),
        };
        let told = match &outcome {
            Ok(()) => "reported",
            Err(RoundError::Old) => "old",
            Err(RoundError::Insert(error)) => {
                let met = error.trouble().name();
                metrics::counter!("fleetpulse_writer_insert_failures_total", "reason" => met).increment(1);
                "failed"
            }
        };
        metrics::counter!("fleetpulse_writer_rounds_total", "outcome" => told).increment(1);
        match outcome {
            Ok(()) => {
                metrics::histogram!("fleetpulse_writer_insert_seconds").record(started_at.elapsed());
                rows.iter().for_each(|rows| count(rows, 0, 0));
                true
            }
            Err(error) => {
                tracing::warn!(%round, batches = batches.len(), error = &error as &dyn std::error::Error, "a round did not land for certain, each batch goes on alone");
                false
            }
        }
    }

    /// In the order of [`Attempt::records`].
    async fn try_round(
        &self,
        rows: &[Rows<'_>],
        round: &Round,
        closed_at: Instant,
    ) -> Result<(), RoundError> {
        let together = Together { store: &self.store, rows, round, closed_at };
        together.insert(|rows| &rows.connections).await?;
        together.insert(|rows| &rows.heartbeats).await?;
        together.insert(|rows| &rows.commands).await?;
        together.insert(|rows| &rows.dead_letters).await?;
        together.insert(|rows| &rows.ledgers).await?;
        together.insert(|rows| &rows.nodes).await?;
        together.insert(|rows| &rows.gaps).await?;
        together.tell().await
    }

    /// Inserts a batch until all of it stands, asking each time what does: earlier attempts may have been made, in its round and alone.
    ///
    /// # Errors
    /// Where no repetition helps. Cancel safe: whoever repeats it asks first.
    pub(crate) async fn until_landed(&self, batch: &Batch) -> Result<Landing, LandError> {
        let rows = Rows::of(batch);
        let started_at = Instant::now();
        let token = batch.token();
        let attempt = self.repeated(batch, &rows, &token, Goal::Land).await?;
        metrics::histogram!("fleetpulse_writer_insert_seconds").record(started_at.elapsed());
        count(&rows, attempt.found, attempt.refused.len());
        Ok(Landing { found: attempt.found })
    }

    /// Brings back what is missing of a batch that landed once, until all of it stands; how many records ClickHouse refused, by table.
    /// `run` names the replay: the tables may know the batch's own token though its rows are gone.
    ///
    /// # Errors
    /// Where no repetition helps. Cancel safe, as it asks first.
    pub(crate) async fn bring_back(
        &self,
        batch: &Batch,
        rows: &Rows<'_>,
        replaced: &Replaced,
        run: &str,
    ) -> Result<BTreeMap<&'static str, u64>, LandError> {
        let token = format!("{run}/{}", batch.token());
        let attempt = self.repeated(batch, rows, &token, Goal::BringBack(replaced)).await?;
        Ok(attempt.refused_of)
    }

    async fn repeated<'a>(
        &'a self,
        batch: &'a Batch,
        rows: &Rows<'_>,
        token: &'a str,
        goal: Goal<'a>,
    ) -> Result<Attempt<'a>, LandError> {
        let mut trouble: Option<InTrouble> = None;
        let mut pauses = 0;
        loop {
            let mut attempt = Attempt {
                store: &self.store,
                batch,
                token,
                goal,
                refused_max: self.refused_max,
                found: 0,
                refused: Vec::new(),
                refused_of: BTreeMap::new(),
            };
            match attempt.all(rows, pauses + 1).await {
                Ok(()) => return Ok(attempt),
                Err(error) => {
                    let met = error.trouble();
                    metrics::counter!("fleetpulse_writer_insert_failures_total", "reason" => met.name())
                        .increment(1);
                    // What is still to be parted here is a dead letter that is refused, too, or there are too many.
                    if matches!(met.class(), Class::Fatal | Class::Part) {
                        return Err(error);
                    }
                    tracing::warn!(lane = %batch.lane, records = batch.len(), token, trouble = met.name(), error = &error as &dyn std::error::Error, "insert failed, again");
                    trouble.get_or_insert_with(|| InTrouble::begin(&self.troubled));
                    tokio::time::sleep(pause(met, pauses, batch)).await;
                    pauses += 1;
                }
            }
        }
    }
}

impl<'a> Together<'a> {
    /// Rows of one table, in one insert.
    async fn insert<R: TableRow + 'a>(&self, of: impl Fn(&'a Rows<'a>) -> &'a [R]) -> Result<(), RoundError> {
        self.send(self.rows.iter().flat_map(of).collect()).await
    }

    /// The batches' rows in `batches`.
    async fn tell(&self) -> Result<(), RoundError> {
        let landed_at = now_ms();
        let told = |rows: &Rows<'_>| BatchRow { landed_at, attempts: 1, ..rows.batch.clone() };
        let told: Vec<BatchRow> = self.rows.iter().map(told).collect();
        self.send(told.iter().collect()).await
    }

    async fn send<R: TableRow>(&self, rows: Vec<&R>) -> Result<(), RoundError> {
        if self.closed_at.elapsed() > SURE_FOR {
            return Err(RoundError::Old);
        }
        Ok(self.store.insert(rows.into_iter(), self.round.token()).await?)
    }
}

impl LandError {
    fn trouble(&self) -> Trouble {
        match self {
            Self::Insert(error) | Self::Refused { source: error, .. } => error.trouble(),
            Self::Panicked => Trouble::Other,
        }
    }
}

impl Attempt<'_> {
    async fn all(&mut self, rows: &Rows<'_>, attempt: u32) -> Result<(), LandError> {
        match self.goal {
            Goal::BringBack(_) => self.records(rows).await,
            // A round's writer that was expelled from the group and does not know tells of batches whose rows were dropped: there
            // the tables alone are believed.
            Goal::Land if self.batch.round.is_none() && self.store.batch_stands(&rows.batch).await? => {
                self.found = rows.len();
                Ok(())
            }
            Goal::Land => {
                self.records(rows).await?;
                // Rows keyed by their range: inserted again they are the same rows.
                self.store.insert(rows.gaps.iter(), self.token).await?;
                // Last: it says that all the others stand.
                self.tell(rows, attempt).await
            }
        }
    }

    /// The tables that hold records.
    async fn records(&mut self, rows: &Rows<'_>) -> Result<(), LandError> {
        // One after the other: what a device's `Connected` tells is there before its heartbeats.
        self.table(&rows.connections).await?;
        self.table(&rows.heartbeats).await?;
        self.table(&rows.commands).await?;
        self.table(&rows.dead_letters).await?;
        self.table(&rows.ledgers).await?;
        // A node that stops has ended its sessions before.
        self.table(&rows.nodes).await?;
        let refused = std::mem::take(&mut self.refused);
        if !refused.is_empty() {
            // A part of what goes into `dead_letters`, and never the whole: under the batch's own token the table would take them for
            // the letters that it has just got, and drop them.
            self.asking(&refused, false, None).await?;
        }
        self.refused = refused;
        Ok(())
    }

    /// The batch's row in `batches`.
    async fn tell(&self, rows: &Rows<'_>, attempt: u32) -> Result<(), LandError> {
        let batch = self.batch;
        let told = BatchRow {
            landed_at: now_ms(),
            // Its own round counts as one.
            attempts: attempt + u32::from(batch.round.is_some() && !batch.replayed),
            replayed: batch.replayed,
            found: u32::try_from(self.found).unwrap_or(u32::MAX),
            refused: u32::try_from(self.refused.len()).unwrap_or(u32::MAX),
            ..rows.batch.clone()
        };
        let tokens = batch.round.iter().map(Round::token).chain([self.token]);
        for token in tokens {
            if batch.round.is_none() || !self.store.batch_stands(&told).await? {
                self.store.insert(std::iter::once(&told), token).await?;
            }
        }
        Ok(())
    }

    /// Rows of one table.
    async fn table<R: RecordRow>(&mut self, rows: &[R]) -> Result<(), LandError> {
        if rows.is_empty() {
            return Ok(());
        }
        // Halves of halves, in order, until what is refused stands alone.
        let mut parts = vec![rows];
        while let Some(part) = parts.pop() {
            let asked = self.asking(part, part.len() == rows.len(), self.batch.round.as_ref()).await;
            match asked {
                Err(error) if error.trouble().class() == Class::Part => match part {
                    [row] => self.refuse(row, error)?,
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                },
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// What stands goes into the views; what does not is inserted, after `round` is closed for it.
    async fn asking<R: RecordRow>(
        &mut self,
        part: &[R],
        whole: bool,
        round: Option<&Round>,
    ) -> Result<(), InsertError> {
        let mut missing = self.missing(part).await?;
        let found = part.len() - missing.len();
        if let Some(round) = round.filter(|_| !missing.is_empty()) {
            // The table takes these and the round itself no more; or it knows the round, and then it may hold more than it did.
            self.store.insert(missing.iter().copied(), round.token()).await?;
            missing = self.missing(part).await?;
        }
        let token = match (missing.first(), missing.last()) {
            (Some(first), Some(last)) if !whole || missing.len() < part.len() => {
                let (first, last) = (first.kafka_offset(), last.kafka_offset());
                format!("{}/{first}-{last}/{}", self.token, missing.len())
            }
            _ => self.token.to_owned(),
        };
        self.store.insert(missing.iter().copied(), &token).await?;
        self.found += found;
        Ok(())
    }

    /// Those of the rows that do not stand; the others are brought into the views.
    async fn missing<'r, R: RecordRow>(&self, part: &'r [R]) -> Result<Vec<&'r R>, InsertError> {
        let mut held = Held::default();
        for _ in 0..ASKED_MAX {
            let asked_at = Instant::now();
            held = self.store.held(part).await?;
            if !held.is_empty() {
                self.store.complete_views(part).await?;
            }
            if asked_at.elapsed() <= SURE_FOR {
                break;
            }
        }
        let stands = |row: &R| match self.goal {
            Goal::Land => held.holds(row),
            Goal::BringBack(replaced) => {
                held.holds(row) || replaced.contains(&(R::TABLE, row.kafka_offset()))
            }
        };
        Ok(part.iter().filter(|row| !stands(row)).collect())
    }

    /// A record that ClickHouse does not take becomes a dead letter, with its bytes and with what was said.
    fn refuse<R: RecordRow>(&mut self, row: &R, error: InsertError) -> Result<(), LandError> {
        if R::TABLE == DeadLetterRow::TABLE {
            return Err(error.into());
        }
        let record = self.batch.records().find(|record| record.offset.0.unsigned_abs() == row.kafka_offset());
        self.refused.extend(record.map(|record| crate::row::refused(&record, &error)));
        *self.refused_of.entry(R::TABLE).or_default() += 1;
        let refused = self.refused.len();
        if refused > self.refused_max {
            return Err(LandError::Refused { refused, source: error });
        }
        tracing::error!(lane = %self.batch.lane, offset = row.kafka_offset(), error = &error as &dyn std::error::Error, "clickhouse refuses a record: it becomes a dead letter");
        Ok(())
    }
}

impl InTrouble {
    fn begin(troubled: &Arc<Troubled>) -> Self {
        troubled.batches.fetch_add(1, Ordering::Relaxed);
        troubled.tell();
        Self(troubled.clone())
    }
}

impl Drop for InTrouble {
    fn drop(&mut self) {
        self.0.batches.fetch_sub(1, Ordering::Relaxed);
        self.0.tell();
    }
}

impl Troubled {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn tell(&self) {
        let batches = self.batches.load(Ordering::Relaxed);
        metrics::gauge!("fleetpulse_writer_repeating_batches").set(batches as f64);
        self.lands.set(batches == 0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds and rows in a histogram")]
fn count(rows: &Rows<'_>, found: usize, refused: usize) {
    let tables = [
        ("connections", rows.connections.len()),
        ("heartbeats", rows.heartbeats.len()),
        ("dead_letters", rows.dead_letters.len() + refused),
        ("commands", rows.commands.len()),
        ("node_ledgers", rows.ledgers.len()),
        ("nodes", rows.nodes.len()),
    ];
    for (table, rows) in tables {
        metrics::counter!("fleetpulse_writer_rows_total", "table" => table).increment(rows as u64);
    }
    metrics::counter!("fleetpulse_writer_found_rows_total").increment(found as u64);
    metrics::counter!("fleetpulse_writer_refused_rows_total").increment(refused as u64);
    metrics::histogram!("fleetpulse_writer_batch_rows").record(rows.len() as f64);
    let now_ms = now_ms();
    let freshness = metrics::histogram!("fleetpulse_writer_freshness_seconds");
    for row in rows.heartbeats.iter().step_by(FRESHNESS_EVERY) {
        freshness.record((now_ms - row.received_at).max(0) as f64 / 1_000.0);
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Before the next attempt: doubled each time up to a longest, less a random half. Partitions that failed together do not come
/// back together: the range's own numbers spread them.
pub(crate) fn pause(met: Trouble, pauses: u32, batch: &Batch) -> Duration {
    let (first, longest) = match met.class() {
        Class::Pause => (Duration::from_secs(1), Duration::from_secs(10)),
        _ => (Duration::from_millis(100), Duration::from_secs(5)),
    };
    let pause = (first * 2_u32.saturating_pow(pauses.min(10))).min(longest);
    let seed = batch.first.0.wrapping_mul(31).wrapping_add(batch.lane.partition.0.into());
    let seed = seed.wrapping_add(pauses.into()).unsigned_abs();
    pause / 2 + pause.mul_f64((seed % 997) as f64 / 997.0 / 2.0)
}
