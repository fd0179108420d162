//! Usage, settled: the hours that were touched since the last run are made anew out of the raw rows.
//!
//! A run writes what the raw rows say, and nothing else: the same rows give the same hours, however often and by whomever they are
//! settled, so a run that was killed is simply run again, and two at once do not hurt each other (of two versions of a row that of the
//! later run stands). What a run reads:
//!
//! 1. `settle/touched.sql`: which devices have rows that ClickHouse took since the last run (and a quarter of an hour before), and
//!    their first touched hour.
//! 2. `settle/hours.sql`: everything of those devices from that hour on, counted on from where their counters stood before it.
//! 3. `settle/days.sql`: their days.
//!
//! Most devices tell of the last minutes alone: for them the newest parts of the tables are enough. The few whose past was touched (a
//! buffer that was drained, a counter that nobody has heard of for days) are read whole.

use std::time::{Duration, Instant};

use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;

use crate::{QueryError, Store};

const TOUCHED: &str = include_str!("settle/touched.sql");
const HOURS: &str = include_str!("settle/hours.sql");
const DAYS: &str = include_str!("settle/days.sql");

/// How far back before the last run a run looks for new rows: an insert counts by the moment at which the server began it, and may be
/// seen that much later. Ten times what an insert may take.
const OVERLAP_S: u32 = 15 * 60;
/// Hours that are older are not made anew, as the raw rows that they were made of may be gone: raw rows stand for 90 days after their
/// arrival. A heartbeat that is later than that is stored, and its counter is counted on from where it stood.
const HORIZON_S: u32 = 75 * 24 * 60 * 60;
/// Readings that are settled at a time: the bound on the server's memory, about half a gigabyte.
const READINGS_AT_ONCE: u64 = 2_000_000;
const HOUR_S: u32 = 60 * 60;
/// Most seconds that one statement may take.
const SECONDS_MAX: &str = "600";

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Devices made anew.
    pub devices: u64,
    /// Of these, those that were read whole.
    pub late: u64,
    /// How long it took.
    pub took: Duration,
}

#[derive(Row, Deserialize)]
struct Clock {
    now_ms: u64,
    last_run_ms: u64,
}

#[derive(Row, Deserialize)]
struct Share {
    late: u8,
    devices: u64,
    readings: u64,
}

/// A part of a run: devices of one kind, one slice of them.
#[derive(Clone, Copy)]
struct Slice {
    run: u64,
    fresh: u32,
    late: u8,
    slice: u64,
    slices: u64,
}

impl Store {
    /// Settles what was touched since the last run.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe: a run that ends early is made again by the next.
    pub async fn settle(&self) -> Result<Settled, QueryError> {
        let began = Instant::now();
        let sql = "SELECT toUInt64(toUnixTimestamp64Milli(now64(3))) AS now_ms, max(r.run) AS last_run_ms FROM settle_runs AS r";
        let clock = self.client.query(sql).fetch_one::<Clock>().await.map_err(|e| self.query_error(e))?;
        // Two runs within a millisecond would be one.
        let run = clock.now_ms.max(clock.last_run_ms + 1);
        let now_s = seconds(run);
        let since = seconds(clock.last_run_ms).saturating_sub(OVERLAP_S);
        let fresh = (now_s / HOUR_S - 1) * HOUR_S;
        let touched = self.bounded(TOUCHED).param("run", run).param("since", since).param("fresh", fresh);
        let touched = touched.param("horizon", now_s.saturating_sub(HORIZON_S));
        touched.execute().await.map_err(|e| self.query_error(e))?;

        let (mut devices, mut late) = (0, 0);
        for share in self.shares(run).await? {
            devices += share.devices;
            late += u64::from(share.late) * share.devices;
            let slices = share.readings.div_ceil(READINGS_AT_ONCE).max(1);
            for slice in 0..slices {
                let slice = Slice { run, fresh, late: share.late, slice, slices };
                self.settle_slice(HOURS, slice).await?;
                self.settle_slice(DAYS, slice).await?;
            }
        }
        let took = began.elapsed();
        let noted = self
            .client
            .query("INSERT INTO settle_runs (run, since, devices, late, took_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(run)
            .bind(since)
            .bind(devices)
            .bind(late)
            .bind(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        noted.execute().await.map_err(|e| self.query_error(e))?;
        Ok(Settled { devices, late, took })
    }

    /// How many devices of each kind a run has touched, and how many rows are to be read for them.
    async fn shares(&self, run: u64) -> Result<Vec<Share>, QueryError> {
        let sql = "
            SELECT t.late AS late, count() AS devices, if(late, ifNull((
                SELECT count() FROM heartbeats AS h
                INNER JOIN (SELECT device_id, from_hour FROM settle_touched WHERE run = ? AND late) AS l ON l.device_id = h.device_id
                WHERE h.device_id IN (SELECT device_id FROM settle_touched WHERE run = ? AND late)
                    AND greatest(h.received_at, h.device_time) >= l.from_hour
            ), 0), sum(t.readings)) AS readings
            FROM settle_touched AS t WHERE t.run = ? GROUP BY t.late ORDER BY late";
        let shares = self.client.query(sql).bind(run).bind(run).bind(run).fetch_all::<Share>().await;
        shares.map_err(|source| self.query_error(source))
    }

    async fn settle_slice(&self, statement: &str, slice: Slice) -> Result<(), QueryError> {
        let sql = statement
            .replace("{{newest}}", slice.newest_rows())
            .replace("{{lately}}", slice.if_fresh("hour >= fresh - INTERVAL 3 DAY"))
            .replace("{{lately_days}}", slice.if_fresh("day >= toDate(fresh) - 3"));
        let query = self
            .bounded(&sql)
            .param("run", slice.run)
            .param("late", slice.late)
            .param("slice", slice.slice)
            .param("slices", slice.slices)
            .param("fresh", slice.fresh);
        query.execute().await.map_err(|source| self.query_error(source))
    }

    /// One thread and not for ever: settling must not hold up inserts.
    fn bounded(&self, sql: &str) -> Query {
        self.client
            .query(sql)
            .with_setting("max_threads", "1")
            .with_setting("max_execution_time", SECONDS_MAX)
            .with_setting("max_partitions_per_insert_block", "0")
    }
}

impl Slice {
    /// The rows that can matter for devices whose past was not touched: a copy of a heartbeat that was taken since yesterday came
    /// after the day before, as no clock is believed that is ahead by more than a day.
    fn newest_rows(self) -> &'static str {
        self.if_fresh(
            "received_at >= fresh - INTERVAL 2 DAY AND (device_time >= fresh - INTERVAL 1 DAY OR device_time = toDateTime64(0, 3, 'UTC'))",
        )
    }

    fn if_fresh(self, condition: &'static str) -> &'static str {
        if self.late == 0 { condition } else { "true" }
    }
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(u32::MAX)
}
