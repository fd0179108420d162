//! The look at the ledger: whether every record that was counted on its way in is there at its end, and which are not.
//!
//! ClickHouse compares counts (view `ledger`). Counts alone cannot tell a heartbeat that a device sent twice, and that stands
//! once, from one whose row is gone: both are a record without a row. So each record without a row is read again from Kafka, and the
//! table is asked for its heartbeat: if that stands under another record the record is explained (`deduplicated`), else it is a
//! difference. It costs nothing where nothing is missing, and nothing on the way of a heartbeat.
//!
//! Bounds: `RECORDS_MAX` records of a partition are looked up; what lies beyond, or is not on Kafka any more, is told as not
//! verified.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::{Lane, Lookup, Offset, Partition, Stream};
use event::v1::{Event, event::Kind};
use prost::Message;
use serde::Serialize;
use store::{HeartbeatKey, LedgerLine, QueryError, Standing, Store};
use tokio_util::sync::CancellationToken;

/// Records of one partition that are looked up in one look. Devices that send again are a few in a hundred: that is some
/// minutes of a full partition.
const RECORDS_MAX: u32 = 20_000;
/// How long reading one partition may take.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Heartbeats that ClickHouse is asked for at once.
const KEYS_AT_ONCE: usize = 1_000;
/// Records that are named of each line with a difference.
const NAMED_MAX: usize = 10;
/// What the writer's own look looks at, seconds: the minutes that are still fresh enough to do something about.
const WATCHED_S: u32 = 15 * 60;

/// Why there was no look.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// ClickHouse did not answer.
    #[error("the ledger could not be read")]
    Query(#[from] QueryError),
    /// No Kafka client.
    #[error(transparent)]
    Client(#[from] bus::ClientError),
    /// The thread that reads Kafka panicked.
    #[error("the thread that looks records up panicked")]
    Panicked,
}

/// A line of the ledger, with what became of the records that have no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// What was counted. Its state is the one after the look.
    #[serde(flatten)]
    pub line: LedgerLine,
    /// Heartbeats whose record has no row, and that stand under another record: sent again.
    pub deduplicated: u64,
    /// Heartbeats that ClickHouse refused: dead letters of the writer.
    pub refused: u64,
    /// Heartbeats that stand nowhere.
    pub lost: u64,
    /// Heartbeats without a row that could not be looked up.
    pub unverified: u64,
    /// The first of the lost: numbers of their records.
    pub lost_offsets: Vec<u64>,
    /// Of a difference: the ranges of the batches that have records of this line.
    pub batches: Vec<(u64, u64)>,
}

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every line, in the order of minutes.
    pub lines: Vec<Looked>,
    /// Why records could not be looked up, if so.
    pub trouble: Vec<String>,
}

impl Report {
    /// Lines of that state.
    pub fn of_state<'a>(&'a self, state: &'a str) -> impl Iterator<Item = &'a Looked> {
        self.lines.iter().filter(move |looked| looked.line.state == state)
    }
}

/// Records without a row that are explained: (partition, offset) to the line they belong to, and why.
type Explained = BTreeMap<(i32, u64), (Owner, Why)>;

/// Why a record has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Its heartbeat stands under another record.
    SentAgain,
    /// It is a dead letter.
    Refused,
}

/// Node and minute.
type Owner = (String, u32);

/// Looks at the ledger. Remembers which records it has explained, so that the next look need not look them up again.
#[derive(Debug)]
pub struct Looker {
    store: Store,
    kafka: bus::Config,
    standing: Standing,
    explained: Explained,
}

/// What became of the records without a row.
#[derive(Debug, Default)]
struct Found {
    lost: BTreeMap<(i32, u64), Owner>,
    trouble: Vec<String>,
}

impl Looker {
    /// One that asks these two.
    pub fn new(store: Store, kafka: bus::Config, standing: Standing) -> Self {
        Self { store, kafka, standing, explained: Explained::new() }
    }

    /// Looks at the minutes from `since` to before `until`, seconds since 1970, whole minutes. Differences come with the batches
    /// they lie in.
    ///
    /// # Errors
    /// Where ClickHouse does not answer. That Kafka does not is told in the report. Cancel safe.
    pub async fn look(&mut self, since: u32, until: u32) -> Result<Report, LookError> {
        self.explained.retain(|_, ((_, minute), _)| *minute >= since);
        let lines = self.store.ledger(since, until, self.standing).await?;
        let found = self.explain(&lines).await?;
        let mut looked = Vec::with_capacity(lines.len());
        for line in lines {
            let mut line = self.judge(line, &found);
            if line.line.state == "difference" {
                line.batches = self.store.batches_of(&line.line).await?;
            }
            looked.push(line);
        }
        Ok(Report { lines: looked, trouble: found.trouble })
    }

    /// Finds out about the records without a row.
    async fn explain(&mut self, lines: &[LedgerLine]) -> Result<Found, LookError> {
        let mut wanted: BTreeMap<i32, BTreeSet<u32>> = BTreeMap::new();
        for line in lines.iter().filter(|line| is_in_question(line)) {
            wanted.entry(line.partition).or_default().insert(line.minute);
        }
        let mut found = Found::default();
        for (partition, minutes) in wanted {
            let minutes: Vec<u32> = minutes.into_iter().collect();
            let without = self.store.records_without_heartbeat(
                partition.unsigned_abs(),
                &minutes,
                RECORDS_MAX,
                self.standing,
            );
            let mut without = without.await?;
            without.retain(|offset| !self.explained.contains_key(&(partition, *offset)));
            let heartbeats = match self.read(partition, without).await? {
                Ok(heartbeats) => heartbeats,
                Err(error) => {
                    found.trouble.push(error);
                    continue;
                }
            };
            for chunk in heartbeats.chunks(KEYS_AT_ONCE) {
                let keys: Vec<HeartbeatKey> = chunk.iter().map(|heartbeat| heartbeat.key.clone()).collect();
                let standing: BTreeSet<HeartbeatKey> =
                    self.store.standing_heartbeats(&keys).await?.into_iter().collect();
                let (again, nowhere): (Vec<_>, Vec<_>) =
                    chunk.iter().partition(|heartbeat| standing.contains(&heartbeat.key));
                let offsets: Vec<u64> = nowhere.iter().map(|heartbeat| heartbeat.offset).collect();
                let refused = self.store.refused_records(partition.unsigned_abs(), &offsets).await?;
                let again = again.into_iter().map(|heartbeat| (heartbeat, Some(Why::SentAgain)));
                let nowhere = nowhere.into_iter().map(|heartbeat| {
                    (heartbeat, refused.contains(&heartbeat.offset).then_some(Why::Refused))
                });
                for (heartbeat, why) in again.chain(nowhere) {
                    let (record, owner) = ((partition, heartbeat.offset), heartbeat.owner.clone());
                    match why {
                        Some(why) => drop(self.explained.insert(record, (owner, why))),
                        None => drop(found.lost.insert(record, owner)),
                    }
                }
            }
        }
        Ok(found)
    }

    /// Reads records again: the heartbeats among them. The inner error is for people.
    async fn read(
        &self,
        partition: i32,
        offsets: Vec<u64>,
    ) -> Result<Result<Vec<Heartbeat>, String>, LookError> {
        if offsets.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let lookup = Lookup::new(&self.kafka)?;
        let lane = Lane { stream: Stream::Events, partition: Partition(partition) };
        let offsets: Vec<Offset> =
            offsets.into_iter().filter_map(|offset| i64::try_from(offset).ok().map(Offset)).collect();
        // Ends by itself, in about `READ_WITHIN`.
        let read = tokio::task::spawn_blocking(move || lookup.read(lane, &offsets, READ_WITHIN));
        Ok(match read.await.map_err(|_| LookError::Panicked)? {
            Ok(records) => Ok(records.iter().filter_map(Heartbeat::of).collect()),
            Err(error) => Err(format!("{:#}", Chain(&error))),
        })
    }

    /// What a line is, after the look.
    fn judge(&self, mut line: LedgerLine, found: &Found) -> Looked {
        let (mut deduplicated, mut refused, mut lost, mut lost_offsets) = (0, 0, 0, Vec::new());
        if is_in_question(&line) {
            let of_line = |partition: i32, (node_id, minute): &Owner| {
                partition == line.partition && *node_id == line.node_id && *minute == line.minute
            };
            for ((partition, _), (owner, why)) in &self.explained {
                match why {
                    _ if !of_line(*partition, owner) => {}
                    Why::SentAgain => deduplicated += 1,
                    Why::Refused => refused += 1,
                }
            }
            for ((_, offset), _) in
                found.lost.iter().filter(|((partition, _), owner)| of_line(*partition, owner))
            {
                lost += 1;
                if lost_offsets.len() < NAMED_MAX {
                    lost_offsets.push(*offset);
                }
            }
        }
        // A row may have come, or been merged away, between the questions.
        deduplicated = deduplicated.min(line.replaced);
        let unverified = line.replaced.saturating_sub(deduplicated + refused + lost);
        if lost > 0 {
            line.state = "difference".to_owned();
        } else if line.state == "unverified" && unverified == 0 {
            let more = line.consumed > line.produced + line.failed;
            let state = match more {
                true if line.node_id == event::REPLAY_NODE_ID => "replayed",
                true => "node_lost",
                false => "balanced",
            };
            line.state = state.to_owned();
        }
        Looked { line, deduplicated, refused, lost, unverified, lost_offsets, batches: Vec::new() }
    }
}

/// Whether a line has records whose row is to be looked for.
fn is_in_question(line: &LedgerLine) -> bool {
    let settled = matches!(line.state.as_str(), "unverified" | "difference" | "gap");
    settled && line.replaced > 0 && line.stream == "events" && line.partition >= 0
}

/// A heartbeat that was read again.
struct Heartbeat {
    offset: u64,
    owner: Owner,
    key: HeartbeatKey,
}

impl Heartbeat {
    fn of(record: &bus::LookedUp) -> Option<Self> {
        let event = Event::decode(record.payload.as_deref()?).ok()?;
        let Some(Kind::Heartbeat(heartbeat)) = event.kind else { return None };
        let minute = u32::try_from(event.received_at_ms.div_euclid(60_000) * 60).ok()?;
        let key = HeartbeatKey {
            device_id: event.device_id,
            device_time: heartbeat.device_time_ms,
            identity: heartbeat.identity,
        };
        Some(Self { offset: record.offset.0.unsigned_abs(), owner: (event.node_id, minute), key })
    }
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// Looks every `every` at the last quarter of an hour and keeps the gauges current, until `stop`.
pub(crate) async fn watch(store: Store, kafka: bus::Config, every: Duration, stop: CancellationToken) {
    // Merged or not: the cheap question, asked again and again.
    let mut looker = Looker::new(store, kafka, Standing::Unmerged);
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let until = u32::try_from(now.as_secs()).unwrap_or(u32::MAX) / 60 * 60;
        let report = tokio::select! {
            () = stop.cancelled() => return,
            report = looker.look(until - WATCHED_S, until) => report,
        };
        match report {
            Ok(report) => tell(&report),
            Err(error) => {
                metrics::counter!("fleetpulse_ledger_failed_looks_total").increment(1);
                tracing::warn!(error = &error as &dyn std::error::Error, "no look at the ledger");
            }
        }
    }
}

fn tell(report: &Report) {
    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    let gauge = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
    let sum = |of: fn(&Looked) -> u64| report.lines.iter().map(of).sum::<u64>();
    gauge("fleetpulse_ledger_differences", report.of_state("difference").count() as u64);
    gauge("fleetpulse_ledger_lost_heartbeats", sum(|looked| looked.lost));
    gauge("fleetpulse_ledger_unverified_heartbeats", sum(|looked| looked.unverified));
    gauge("fleetpulse_ledger_deduplicated_heartbeats", sum(|looked| looked.deduplicated));
    gauge("fleetpulse_ledger_open_lines", report.of_state("open").count() as u64);
    gauge("fleetpulse_ledger_node_lost_lines", report.of_state("node_lost").count() as u64);
    for Looked { line, lost, lost_offsets, batches, .. } in report.of_state("difference") {
        tracing::error!(
            node_id = line.node_id,
            stream = line.stream,
            partition = line.partition,
            minute = line.minute,
            acknowledged = line.acknowledged,
            produced = line.produced,
            consumed = line.consumed,
            standing = line.standing,
            lost,
            ?lost_offsets,
            ?batches,
            "the ledger does not add up"
        );
    }
    for trouble in &report.trouble {
        tracing::warn!(trouble, "the ledger could not look records up");
    }
}
