//! Questions about the ledger: what adds up, which records have no row, which heartbeats stand.

use std::collections::HashMap;

use clickhouse::Row;
use clickhouse::query::Query;
use serde::{Deserialize, Serialize};

use crate::rows::Millis;
use crate::{QueryError, Store};

/// How long a question may take, seconds: the ledger must not hold up inserts.
const SECONDS_MAX: &str = "60";

/// A row of the view `ledger`; explained in migrations/0006_ledger.sql.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained in migrations/0006_ledger.sql")]
pub struct LedgerLine {
    pub node_id: String,
    pub stream: String,
    pub partition: i32,
    /// Seconds since 1970-01-01 UTC.
    pub minute: u32,
    pub acknowledged: u64,
    pub repeated: u64,
    pub produced: u64,
    pub failed: u64,
    pub consumed: u64,
    pub inserted: u64,
    pub heartbeats: u64,
    pub standing: u64,
    pub replaced: u64,
    pub dead_lettered: u64,
    pub dead_standing: u64,
    pub gap: u64,
    pub first_offset: u64,
    pub last_offset: u64,
    pub state: String,
}

/// What names a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Row, Serialize, Deserialize)]
pub struct HeartbeatKey {
    /// Which device.
    pub device_id: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub device_time: Millis,
    /// Sequence number, or hash.
    pub identity: u64,
}

/// Which rows count as standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every row that is there. Cheap: a heartbeat that was sent twice counts twice until its rows are merged.
    Unmerged,
    /// As a reader with `FINAL` sees it.
    Final,
}

impl Store {
    /// The ledger from `since` to before `until`, seconds since 1970, whole minutes; in the order of minute, node, stream and
    /// partition.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn ledger(
        &self,
        since: u32,
        until: u32,
        standing: Standing,
    ) -> Result<Vec<LedgerLine>, QueryError> {
        let sql = "SELECT node_id, stream, toInt32(partition) AS partition, minute, toUInt64(acknowledged) AS acknowledged, \
                   toUInt64(repeated) AS repeated, toUInt64(produced) AS produced, toUInt64(failed) AS failed, \
                   toUInt64(consumed) AS consumed, toUInt64(inserted) AS inserted, toUInt64(heartbeats) AS heartbeats, \
                   toUInt64(standing) AS standing, toUInt64(replaced) AS replaced, toUInt64(dead_lettered) AS dead_lettered, \
                   toUInt64(dead_standing) AS dead_standing, toUInt64(gap) AS gap, first_offset, last_offset, state \
                   FROM ledger(since = ?, until = ?) ORDER BY minute, node_id, stream, partition";
        let query = self.client.query(sql).bind(since).bind(until);
        let lines = bounded(query, standing).fetch_all::<LedgerLine>().await;
        lines.map_err(|source| self.query_error(source))
    }

    /// Records of the events topic that landed in batches with these minutes and have no heartbeat of their own: presence
    /// and the like, heartbeats that another record has replaced, and heartbeats that are gone. At most `limit`, the first.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn records_without_heartbeat(
        &self,
        partition: u32,
        minutes: &[u32],
        limit: u32,
        standing: Standing,
    ) -> Result<Vec<u64>, QueryError> {
        let sql = "
            WITH read AS
            (
                SELECT first_offset, last_offset, arrayMin(b.minutes) AS from_minute, arrayMax(b.minutes) AS to_minute
                FROM batches AS b
                WHERE b.stream = 'events' AND b.partition = ? AND hasAny(arrayMap(m -> toUInt32(m), b.minutes), ?)
                    AND b.last_minute >= fromUnixTimestamp(?) AND b.produced_at >= fromUnixTimestamp(?) - INTERVAL 31 DAY
            )
            SELECT DISTINCT arrayJoin(range(first_offset, last_offset + 1)) AS record
            FROM read
            WHERE record NOT IN
            (
                SELECT h.kafka_offset FROM heartbeats AS h
                WHERE h.kafka_partition = ? AND h.received_at >= (SELECT min(from_minute) FROM read)
                    AND h.received_at < (SELECT max(to_minute) + 60 FROM read)
            )
            ORDER BY record LIMIT ?";
        let first = minutes.iter().copied().min().unwrap_or_default();
        let query = self
            .client
            .query(sql)
            .bind(partition)
            .bind(minutes)
            .bind(first)
            .bind(first)
            .bind(partition)
            .bind(limit);
        bounded(query, standing).fetch_all::<u64>().await.map_err(|source| self.query_error(source))
    }

    /// Which of these heartbeats stand, under whatever record.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn standing_heartbeats(&self, keys: &[HeartbeatKey]) -> Result<Vec<HeartbeatKey>, QueryError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "
            SELECT DISTINCT device_id, device_time, identity FROM heartbeats
            WHERE (device_id, device_time, identity) IN
            (
                SELECT key.1, fromUnixTimestamp64Milli(toInt64(key.2), 'UTC'), toUInt64(key.3)
                FROM (SELECT arrayJoin(?) AS key)
            )";
        let keys: Vec<(&str, i64, u64)> =
            keys.iter().map(|key| (key.device_id.as_str(), key.device_time, key.identity)).collect();
        let query = self.client.query(sql).bind(keys);
        let standing = bounded(query, Standing::Unmerged).fetch_all::<HeartbeatKey>().await;
        standing.map_err(|source| self.query_error(source))
    }

    /// Which of these records of the events topic are dead letters of the writer: ClickHouse refused them.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn refused_records(&self, partition: u32, offsets: &[u64]) -> Result<Vec<u64>, QueryError> {
        if offsets.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT DISTINCT kafka_offset FROM dead_letters \
                   WHERE source = 'writer' AND topic != 'dead_letters' AND kafka_partition = ? AND has(?, kafka_offset)";
        let query = self.client.query(sql).bind(partition).bind(offsets);
        let refused = bounded(query, Standing::Unmerged).fetch_all::<u64>().await;
        refused.map_err(|source| self.query_error(source))
    }

    /// The newest telling of each minute from `first` to `last` that stands: (node, epoch, minute) to its number.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn newest_tellings(
        &self,
        first: u32,
        last: u32,
    ) -> Result<HashMap<(String, u64, u32), u32>, QueryError> {
        let sql = "SELECT toString(n.node_id), n.epoch, toUnixTimestamp(n.minute), max(n.telling) FROM node_ledgers AS n \
                   WHERE n.minute >= fromUnixTimestamp(?) AND n.minute <= fromUnixTimestamp(?) \
                   AND n.told_at >= fromUnixTimestamp(?) GROUP BY n.node_id, n.epoch, n.minute";
        let query = self.client.query(sql).bind(first).bind(last).bind(first);
        let tellings = bounded(query, Standing::Unmerged).fetch_all::<(String, u64, u32, u32)>().await;
        let tellings = tellings.map_err(|source| self.query_error(source))?.into_iter();
        Ok(tellings.map(|(node_id, epoch, minute, telling)| ((node_id, epoch, minute), telling)).collect())
    }

    /// The ranges of records of the batches that have records of that node and minute: (first, last).
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn batches_of(&self, line: &LedgerLine) -> Result<Vec<(u64, u64)>, QueryError> {
        let sql = "
            SELECT DISTINCT first_offset, last_offset FROM batches
            WHERE toString(stream) = ? AND partition = toUInt32(?)
                AND arrayExists((node, minute) -> node = ? AND toUInt32(minute) = ?, node_ids, minutes)
                AND last_minute >= fromUnixTimestamp(?) AND produced_at >= fromUnixTimestamp(?) - INTERVAL 31 DAY
            ORDER BY first_offset";
        let query = self
            .client
            .query(sql)
            .bind(&line.stream)
            .bind(line.partition.max(0))
            .bind(&line.node_id)
            .bind(line.minute)
            .bind(line.minute)
            .bind(line.minute);
        let ranges = bounded(query, Standing::Unmerged).fetch_all::<(u64, u64)>().await;
        ranges.map_err(|source| self.query_error(source))
    }
}

fn bounded(query: Query, standing: Standing) -> Query {
    let query = query.with_setting("max_execution_time", SECONDS_MAX).with_setting("max_threads", "2");
    match standing {
        Standing::Unmerged => query,
        Standing::Final => query.with_setting("final", "1"),
    }
}
