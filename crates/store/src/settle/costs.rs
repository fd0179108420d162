//! What SIMs cost, settled: a month is worked out anew once something that it is made of is another (`settle/costs.sql`).
//!
//! A run writes a month whole, under its own number, and is what readers see from the moment at which it is noted. So a run that was killed is
//! never read, and of two at once the later one stands. The rows of the run before it are left for those who are reading them; those before
//! that are dropped.

use std::time::Instant;

use clickhouse::Row;
use clickhouse::error::Error;
use serde::Deserialize;

use crate::{QueryError, Store};

const DUE: &str = include_str!("costs.sql");
/// Months that are settled at most, counted back from this one: ten years. Each takes a second or two, those of the last three years whenever the
/// registry changes.
const MONTHS_MAX: u32 = 120;

/// Which months are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Months {
    /// The last, this one and the next: bills that are still open, which are asked for all the time.
    Recent,
    /// All, from the month before the first usage or state of a SIM.
    All,
}

/// A month to be settled.
#[derive(Row, Deserialize)]
struct Due {
    month: String,
    run: u64,
    /// The run that stands; 0: none.
    replaced: u64,
    inputs: u64,
}

impl Store {
    /// Settles the costs of the months of which something changed, and says how many they were. On a cluster none are: docs/cluster.md.
    ///
    /// # Errors
    /// Where the server does not answer, or a month cannot be worked out: the log says which, the others are settled, and the first error is
    /// returned. Cancel safe: a run that ends early is never read, and made again by the next.
    pub async fn settle_costs(&self, months: Months) -> Result<u64, QueryError> {
        self.try_settle_costs(months).await.map_err(|source| self.query_error(source))
    }

    async fn try_settle_costs(&self, months: Months) -> Result<u64, Error> {
        if self.cluster().is_some() {
            return Ok(0);
        }
        let due = self.bounded(DUE).param("recent", months == Months::Recent).param("months_max", MONTHS_MAX);
        let (mut settled, mut failed) = (0, None);
        for due in due.fetch_all::<Due>().await? {
            // A month that cannot be worked out holds up no other.
            match self.settle_month(&due).await {
                Ok(()) => settled += 1,
                Err(error) => {
                    tracing::warn!(month = due.month, %error, "the costs of a month were not settled");
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(settled), Err)
    }

    async fn settle_month(&self, due: &Due) -> Result<(), Error> {
        let began = Instant::now();
        let sql = "INSERT INTO sim_months_settled SELECT {month:Date}, {run:UInt64}, * FROM sim_months_now(month = {month:Date})";
        self.bounded(sql).param("month", &due.month).param("run", due.run).execute().await?;
        let noted = self
            .client
            .query("INSERT INTO sim_month_runs (month, run, inputs, took_ms) VALUES (?, ?, ?, ?)")
            .bind(&due.month)
            .bind(due.run)
            .bind(due.inputs)
            .bind(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        noted.execute().await?;
        let sql = "SELECT DISTINCT run FROM sim_months_settled WHERE month = {month:Date} AND run < {replaced:UInt64}";
        let left = self.bounded(sql).param("month", &due.month).param("replaced", due.replaced);
        for run in left.fetch_all::<u64>().await? {
            let drop = "ALTER TABLE sim_months_settled DROP PARTITION (?, ?)";
            self.client.query(drop).bind(&due.month).bind(run).execute().await?;
        }
        Ok(())
    }
}
