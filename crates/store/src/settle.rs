//! Usage, settled: the hours that were touched since the last run are made anew out of the raw rows.
//!
//! A run writes what the raw rows say, and nothing else: the same rows give the same hours, however often and by whomever they are
//! settled, so a run that was killed is simply run again, and two at once do not hurt each other (of two versions of a row that of the
//! later run stands). A run:
//!
//! 1. finds the devices that have rows which ClickHouse took since the last run, and a quarter of an hour before, and their first
//!    touched hour (`settle/touched.sql`);
//! 2. reads everything of those devices from that hour on, one device after the other, and where their counters stood before;
//!    [`fold`](fold::fold) makes hours of it. What is held meanwhile is one device's, or some thousand rows;
//! 3. makes their days out of the hours (`settle/days.sql`), months out of the days (`settle/months.sql`), and puts a day's hours side by
//!    side (`settle/day_hours.sql`), some thousand devices at a time; and notes which SIM was seen in which modem.
//!
//! What SIMs cost is settled out of that, and apart from it ([`costs`]).
//!
//! Most devices tell of the last minutes alone: for them the rows of the last hours are enough, which stand together in the newest
//! parts. The few whose past was touched, whose clock is ahead or lost, or of whose counters the last hours know nothing, are read
//! whole from their first touched hour on.

mod costs;
mod fold;
mod rows;
mod slice;

use std::time::{Duration, Instant};

use clickhouse::error::Error;
use clickhouse::query::Query;
use clickhouse::{Row, RowOwned, RowWrite};
use serde::{Deserialize, Serialize};

use crate::{QueryError, Store};
pub use costs::Months;
use fold::{BeganBefore, History, Reach};
use rows::UsageHour;

const TOUCHED: &str = include_str!("settle/touched.sql");
/// Made of the hours, in this order, when all of them are settled. Months come last: that rows of one were made anew is the sign that its
/// costs are to be.
const ROLLUPS: [&str; 3] = [
    include_str!("settle/days.sql"),
    include_str!("settle/day_hours.sql"),
    include_str!("settle/months.sql"),
];

/// How far back before the last run a run looks for new rows: an insert counts by the moment at which the server began it, and may be
/// seen that much later. Half as much again as the longest `clickhouse.insert_timeout_ms`.
const OVERLAP_S: u32 = 15 * 60;
/// Hours that are older are not made anew, as the raw rows that they were made of may be gone: raw rows stand for 90 days after their
/// arrival. A heartbeat that is later than that is stored, and its counter is counted on from where it stood.
const HORIZON_S: u32 = 75 * 24 * 60 * 60;
/// Rows that one statement reads at a time: the bound on how long answers are read side by side, and on
/// what ClickHouse sorts: these rows, and for devices that are not late those of the hours before ([`NEAR_S`], and the hour under way).
const READINGS_AT_ONCE: u64 = 100_000;
/// Devices that are read at a time, however little they seem to tell: some hundred rows each.
const DEVICES_AT_ONCE: usize = 500;
/// Rows that are held until they are folded together, if one device has not more: the bound on the writer's memory with the next. 100,000 at
/// a time took 150 MB of a program that did nothing else, as each thread keeps the memory that it once needed.
const FOLDED_AT_ONCE: usize = 10_000;
/// Rows of `usage_hours` that are held until they are written together: few enough for memory, enough for an insert.
const HOURS_AT_ONCE: usize = 10_000;
/// Devices whose days and months are made at a time: a statement over all of the hours that may be made anew takes a minute or two.
const ROLLED_AT_ONCE: usize = 10_000;
/// Most rows of one device that are held at once. A device that tells every half minute has 216,000 in what may be made anew; one that
/// floods must not take the memory of the writer, and so everybody's rows. Beyond it the device is left as it was settled, named in
/// the log and counted.
const ROWS_OF_A_DEVICE_MAX: usize = 300_000;
const HOUR_S: u32 = 60 * 60;
const DAY_S: u32 = 24 * HOUR_S;
/// Rows are read from this long before the first hour that may be touched of a device that is not late. Until then its clock and its
/// repetitions are looked for.
const NEAR_S: u32 = 2 * HOUR_S;
/// And where counters stood is looked for this much further back: a parked scooter tells of itself once a day.
const STOOD_S: u32 = 26 * HOUR_S;
/// Most seconds that one statement may take.
const SECONDS_MAX: &str = "600";

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Devices made anew.
    pub devices: u64,
    /// Of these, those that were read whole.
    pub late: u64,
    /// Devices that tell too much to be settled: they are left as they were.
    pub refused: u64,
    /// How long it took.
    pub took: Duration,
}

/// What came of some devices.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    settled: u64,
    refused: u64,
}

#[derive(Row, Deserialize)]
struct Clock {
    now_ms: u64,
    last_run_ms: u64,
}

/// A device that was touched.
#[derive(Clone, Row, Deserialize)]
struct Touched {
    device_id: String,
    from_s: u32,
    readings: u64,
}

/// A device that must be read whole.
#[derive(Row, Serialize)]
struct Late {
    run: u64,
    device_id: String,
    from_hour: u32,
    late: u8,
    readings: u64,
}

/// A run, and what bounds it.
#[derive(Clone, Copy)]
struct Run {
    /// Its version.
    id: u64,
    /// Seconds since 1970: rows of devices that are not late are read from here on.
    near_s: u32,
}

/// How devices are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// The rows of the last hours.
    Near,
    /// All from the first touched hour on.
    Whole,
}

impl Depth {
    /// As in `settle_touched.late`.
    fn late(self) -> u8 {
        u8::from(self == Self::Whole)
    }
}

impl Store {
    /// Settles what was touched since the last run.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe: a run that ends early is made again by the next.
    pub async fn settle(&self) -> Result<Settled, QueryError> {
        self.try_settle().await.map_err(|source| self.query_error(source))
    }

    async fn try_settle(&self) -> Result<Settled, Error> {
        let began = Instant::now();
        let sql = "SELECT toUInt64(toUnixTimestamp64Milli(now64(3))) AS now_ms, maxIf(r.run, r.rollups) AS last_run_ms FROM settle_runs AS r";
        let clock = self.client.query(sql).fetch_one::<Clock>().await?;
        // Two runs within a millisecond would be one.
        let id = clock.now_ms.max(clock.last_run_ms + 1);
        let now_s = seconds(id);
        let since = seconds(clock.last_run_ms).saturating_sub(OVERLAP_S);
        let run = Run { id, near_s: (now_s / HOUR_S - 1) * HOUR_S - NEAR_S };
        let touched = self.bounded(TOUCHED).param("run", id).param("since", since).param("near", run.near_s);
        touched.param("horizon", now_s.saturating_sub(HORIZON_S)).execute().await?;

        let near = self.settle_at(run, Depth::Near).await?;
        // With those of whose counters the last hours knew nothing.
        let late = self.settle_at(run, Depth::Whole).await?;
        self.roll_up(run).await?;
        // What was seen of SIMs stands in the same rows.
        self.sight_sims(since).await?;
        let (devices, took) = (near.settled + late.settled, began.elapsed());
        let noted = self
            .client
            .query("INSERT INTO settle_runs (run, since, devices, late, took_ms, rollups) VALUES (?, ?, ?, ?, ?, 1)")
            .bind(id)
            .bind(since)
            .bind(devices)
            .bind(late.settled)
            .bind(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        noted.execute().await?;
        Ok(Settled { devices, late: late.settled, refused: near.refused + late.refused, took })
    }

    /// Settles the devices of one depth, slice by slice.
    async fn settle_at(&self, run: Run, depth: Depth) -> Result<Tally, Error> {
        let sql = match depth {
            Depth::Near => {
                "SELECT device_id, toUnixTimestamp(from_hour) AS from_s, readings FROM settle_touched
                 WHERE run = {run:UInt64} AND NOT late ORDER BY device_id"
            }
            Depth::Whole => {
                "SELECT t.device_id AS device_id, toUnixTimestamp(t.from_hour) AS from_s, toUInt64(ifNull(h.readings, 0)) AS readings
                 FROM settle_touched AS t
                 LEFT JOIN
                 (
                     SELECT device_id, count() AS readings FROM heartbeats
                     WHERE device_id IN (SELECT device_id FROM settle_touched WHERE run = {run:UInt64} AND late)
                     GROUP BY device_id
                 ) AS h ON h.device_id = t.device_id
                 WHERE t.run = {run:UInt64} AND t.late ORDER BY device_id"
            }
        };
        let touched = self.bounded(sql).param("run", run.id).fetch_all::<Touched>().await?;
        let (mut read, mut rows) = (Vec::new(), 0);
        let mut folded = Folded::default();
        let mut rest = touched.as_slice();
        while !rest.is_empty() {
            let (slice, others) = rest.split_at(slice_len(rest));
            let mut histories = self.histories(run, depth, slice)?;
            for touched in slice {
                let Some(history) = histories.of(touched).await? else {
                    folded.tally.refused += 1;
                    continue;
                };
                rows += history.len();
                read.push((touched.clone(), history));
                if rows >= FOLDED_AT_ONCE {
                    folded = self.fold(run, depth, std::mem::take(&mut read), folded).await?;
                    rows = 0;
                }
            }
            rest = others;
        }
        folded = self.fold(run, depth, read, folded).await?;
        self.write(&mut folded).await?;
        Ok(folded.tally)
    }

    /// Folds what was read of some devices, and writes what was made where that is enough for an insert.
    async fn fold(
        &self,
        run: Run,
        depth: Depth,
        read: Vec<(Touched, History)>,
        mut folded: Folded,
    ) -> Result<Folded, Error> {
        // Ten thousand rows are work for a hundredth of a second: not on a thread that others wait for. It ends by itself, also where
        // nobody waits for it any more.
        let folding = tokio::task::spawn_blocking(move || {
            for (touched, history) in read {
                folded.add(touched, &history, run, depth);
            }
            folded
        });
        let mut folded = folding.await.map_err(|panicked| Error::Other(Box::new(panicked)))?;
        if folded.hours.len() >= HOURS_AT_ONCE {
            self.write(&mut folded).await?;
        }
        Ok(folded)
    }

    /// Writes the hours that were made, and notes the devices that need to be read whole as late.
    async fn write(&self, folded: &mut Folded) -> Result<(), Error> {
        self.write_all("settle_touched", &folded.late).await?;
        self.write_all("usage_hours", &folded.hours).await?;
        folded.late.clear();
        folded.hours.clear();
        Ok(())
    }

    /// Makes what is made of hours and days, of every device that the run touched.
    async fn roll_up(&self, run: Run) -> Result<(), Error> {
        let sql = "SELECT t.device_id AS device_id, toUnixTimestamp(min(t.from_hour)) AS from_s, sum(t.readings) AS readings
                   FROM settle_touched AS t WHERE t.run = {run:UInt64}
                   GROUP BY device_id HAVING max(t.late) = {late:UInt8} ORDER BY device_id";
        // Apart: a device whose past was touched has months to be made that the others have not.
        for depth in [Depth::Near, Depth::Whole] {
            let touched = self.bounded(sql).param("run", run.id).param("late", depth.late());
            for chunk in touched.fetch_all::<Touched>().await?.chunks(ROLLED_AT_ONCE) {
                for rollup in ROLLUPS {
                    self.of_slice(rollup, run, depth, chunk).param("day", first_day(chunk)).execute().await?;
                }
            }
        }
        Ok(())
    }

    /// A statement over the devices of a slice.
    fn of_slice(&self, sql: &str, run: Run, depth: Depth, slice: &[Touched]) -> Query {
        let name =
            |touched: Option<&Touched>| touched.map(|touched| touched.device_id.clone()).unwrap_or_default();
        self.bounded(sql)
            .param("run", run.id)
            .param("late", depth.late())
            .param("first", name(slice.first()))
            .param("last", name(slice.last()))
    }

    async fn write_all<R>(&self, table: &str, rows: &[R]) -> Result<(), Error>
    where
        R: RowOwned + RowWrite + for<'a> Row<Value<'a> = R>,
    {
        if rows.is_empty() {
            return Ok(());
        }
        let mut insert =
            self.client.insert::<R>(table).await?.with_setting("max_partitions_per_insert_block", "0");
        for row in rows {
            insert.write(row).await?;
        }
        insert.end().await
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

/// What was made of devices and is not written yet, and what came of all.
#[derive(Default)]
struct Folded {
    hours: Vec<UsageHour>,
    late: Vec<Late>,
    tally: Tally,
}

impl Folded {
    fn add(&mut self, touched: Touched, history: &History, run: Run, depth: Depth) {
        let reach = match depth {
            Depth::Near => Reach::Since(i64::from(run.near_s - STOOD_S) * 1000),
            Depth::Whole => Reach::Whole,
        };
        match fold::fold(&touched.device_id, history, reach, run.id) {
            Ok(hours) => {
                self.tally.settled += 1;
                self.hours.extend(hours);
            }
            Err(BeganBefore) => self.late.push(Late {
                run: run.id,
                device_id: touched.device_id,
                from_hour: touched.from_s,
                late: Depth::Whole.late(),
                readings: touched.readings,
            }),
        }
    }
}

/// How many of the devices are read together.
fn slice_len(devices: &[Touched]) -> usize {
    let mut readings = 0;
    let fitting = devices.iter().take(DEVICES_AT_ONCE).take_while(|touched| {
        readings += touched.readings;
        readings <= READINGS_AT_ONCE
    });
    fitting.count().max(1)
}

/// The first day that is made anew, counted from 1970.
fn first_day(devices: &[Touched]) -> u32 {
    devices.iter().map(|touched| touched.from_s / DAY_S).min().unwrap_or_default()
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(u32::MAX)
}
