//! Which rows of a batch stand already, and how views are completed that lack them.
//!
//! Tokens are forgotten after some thousand inserts; the rows themselves are not. So whoever repeats an insert whose first
//! attempt is unclear asks the table. A row that stands may yet be missing in a view, as an insert is not atomic over both:
//! [`Store::complete_views`] runs the view's own query over the rows that stand and inserts the result. Views keep maxima
//! alone, so what they had already does not change.

use std::collections::HashSet;

use clickhouse::Row;
use clickhouse::error::Error;
use serde::Deserialize;

use crate::cluster::{Cluster, LOCAL};
use crate::insert::InsertError;
use crate::rows::{BatchRow, Millis, RecordRow};
use crate::{Store, migrate};

/// The rows of a range of records that stand: by offset and by the time they are kept under, as offsets begin anew with a topic
/// that was created anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(HashSet<(u64, Millis)>);

impl Held {
    /// Whether this row stands.
    pub fn holds<R: RecordRow>(&self, row: &R) -> bool {
        self.0.contains(&(row.kafka_offset(), row.time()))
    }

    /// How many stand.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none stands.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A materialized view, as the server describes it.
#[derive(Debug, PartialEq, Eq, Row, Deserialize)]
struct View {
    name: String,
    definition: String,
    query: String,
    columns: Vec<String>,
}

/// Rows between which a range of records lies.
struct Range {
    partition: u32,
    offsets: (u64, u64),
    times: (Millis, Millis),
}

impl Store {
    /// Which of these rows, all of one Kafka partition, stand in their table.
    ///
    /// # Errors
    /// Where the server does not answer, in [`crate::Config::insert_timeout_ms`] at most. Cancel safe.
    pub async fn held<R: RecordRow>(&self, rows: &[R]) -> Result<Held, InsertError> {
        let Some(range) = Range::of(rows) else { return Ok(Held::default()) };
        let query = format!(
            "SELECT kafka_offset, toUnixTimestamp64Milli({}) FROM {} WHERE {}",
            R::TIME,
            R::TABLE,
            range.condition::<R>()
        );
        let asked = self.client.query(&query).fetch_all::<(u64, Millis)>();
        let answer = self.in_time(asked).await;
        let found = answer.map_err(|source| self.insert_error::<R>(rows.len(), source))?;
        Ok(Held(found.into_iter().collect()))
    }

    /// Brings what stands of the range of these rows into every view on their table.
    ///
    /// # Errors
    /// Where success was not reported. Cancel safe: it can be repeated at any time.
    pub async fn complete_views<R: RecordRow>(&self, rows: &[R]) -> Result<(), InsertError> {
        let Some(range) = Range::of(rows) else { return Ok(()) };
        let completed = async {
            for view in self.views(&self.tables(R::TABLE).taken).await? {
                let statement = view.over(&self.database, &self.tables(R::TABLE), &range.condition::<R>())?;
                // Said, not left to the default, which changed over versions: a target that has taken these rows once and lost them
                // would drop them in silence.
                let completing = self.client.query_raw(&statement).with_setting("insert_deduplicate", "0");
                // A view may read what its table only derives.
                let completing = completing.with_setting("asterisk_include_alias_columns", "1");
                self.in_time(completing.execute()).await?;
            }
            Ok(())
        };
        completed.await.map_err(|source| self.insert_error::<R>(rows.len(), source))
    }

    /// Checks that every view of ours on this table can be completed: that its query reads the table once, by name.
    pub(crate) async fn check_views<R: RecordRow>(&self) -> Result<(), Error> {
        for view in self.views(&self.tables(R::TABLE).taken).await? {
            view.over(&self.database, &self.tables(R::TABLE), "true")?;
        }
        Ok(())
    }

    /// Whether the row of a batch stands in `batches`. Of one that went alone it says that all of it stands, views included.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn batch_stands(&self, batch: &BatchRow) -> Result<bool, InsertError> {
        let query = "SELECT count() > 0 FROM batches WHERE stream = ? AND partition = ? AND first_offset = ? \
                     AND last_offset = ? AND content = ?";
        let query = self.client.query(query).bind(batch.stream).bind(batch.partition);
        let query = query.bind(batch.first_offset).bind(batch.last_offset).bind(batch.content);
        let answer = self.in_time(query.fetch_one::<bool>()).await;
        answer.map_err(|source| self.insert_error::<BatchRow>(1, source))
    }

    /// Our views on a table. Those that somebody else has put there are theirs: they may hold sums, which a repetition would hurt.
    async fn views(&self, table: &str) -> Result<Vec<View>, Error> {
        let query = "
            SELECT t.name AS name, t.create_table_query AS definition, t.as_select AS query, c.columns AS columns
            FROM system.tables AS t
            INNER JOIN (
                SELECT table, groupArray(name) AS columns FROM
                (SELECT table, name FROM system.columns WHERE database = ? ORDER BY table, position) GROUP BY table
            ) AS c ON c.table = t.name
            WHERE t.database = ? AND t.engine = 'MaterializedView' AND has(
                (SELECT dependencies_table FROM system.tables WHERE database = ? AND name = ?), t.name)
            ORDER BY t.name";
        let query = self.client.query(query).bind(&self.database).bind(&self.database);
        let views: Vec<View> = self.in_time(query.bind(&self.database).bind(table).fetch_all()).await?;
        Ok(views.into_iter().filter(|view| migrate::makes_view(&view.name)).collect())
    }

    /// What a table is to its views.
    fn tables(&self, table: &'static str) -> Tables {
        let taken = self.cluster().map_or_else(|| table.to_owned(), |_| Cluster::stands_in(table));
        Tables { taken, whole: table }
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.insert_timeout, asked).await.unwrap_or(Err(Error::TimedOut))
    }
}

/// A table as its views read it, and as everybody does. On a cluster views go over what one server takes; what they lack is completed out of
/// all rows into all rows, so that it does not matter where they stand.
struct Tables {
    taken: String,
    whole: &'static str,
}

impl View {
    /// The statement that inserts what the view makes of some rows of its table.
    fn over(&self, database: &str, tables: &Tables, condition: &str) -> Result<String, Error> {
        let cannot = |why| Error::Unsupported(format!("view {}: {why}", self.name));
        let target = self.definition.split(" TO ").nth(1).and_then(|rest| rest.split(" (").next());
        let target = target.ok_or_else(|| cannot("it writes into no table of its own"))?;
        let Tables { taken, whole } = tables;
        let target =
            if taken.as_str() == *whole { target } else { target.strip_suffix(LOCAL).unwrap_or(target) };
        let from = format!("FROM {database}.{taken} AS ");
        let mut parts = self.query.split(&from);
        let (Some(before), Some(after), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(cannot("it does not read its table once"));
        };
        let columns = self.columns.join(", ");
        Ok(format!(
            "INSERT INTO {target} ({columns}) {before}FROM (SELECT * FROM {database}.{whole} WHERE {condition}) AS {after}"
        ))
    }
}

impl Range {
    fn of<R: RecordRow>(rows: &[R]) -> Option<Self> {
        let first = rows.first()?;
        let whole = Self {
            partition: first.kafka_partition(),
            offsets: (first.kafka_offset(), first.kafka_offset()),
            times: (first.time(), first.time()),
        };
        Some(rows.iter().fold(whole, |range, row| Self {
            offsets: (range.offsets.0.min(row.kafka_offset()), range.offsets.1.max(row.kafka_offset())),
            times: (range.times.0.min(row.time()), range.times.1.max(row.time())),
            ..range
        }))
    }

    /// The time stands first for the server: parts of other times are not looked into.
    fn condition<R: RecordRow>(&self) -> String {
        let Self { partition, offsets, times } = self;
        format!(
            "{time} BETWEEN fromUnixTimestamp64Milli({}, 'UTC') AND fromUnixTimestamp64Milli({}, 'UTC') \
             AND kafka_partition = {partition} AND kafka_offset BETWEEN {} AND {}",
            times.0,
            times.1,
            offsets.0,
            offsets.1,
            time = R::TIME,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(query: &str) -> View {
        View {
            name: "v".into(),
            definition: "CREATE MATERIALIZED VIEW d.v TO d.target (`a` String) AS SELECT".into(),
            query: query.into(),
            columns: vec!["a".into()],
        }
    }

    fn one() -> Tables {
        Tables { taken: "t".into(), whole: "t" }
    }

    #[test]
    fn on_a_cluster_a_view_is_completed_out_of_all_rows_into_all_rows() {
        let view = View {
            definition: "CREATE MATERIALIZED VIEW d.v TO d.target_local (`a` String) AS SELECT".into(),
            ..view("SELECT h.a AS a FROM d.t_local AS h")
        };
        let statement =
            view.over("d", &Tables { taken: "t_local".into(), whole: "t" }, "x = 1").expect("plain");
        assert_eq!(
            statement,
            "INSERT INTO d.target (a) SELECT h.a AS a FROM (SELECT * FROM d.t WHERE x = 1) AS h"
        );
    }

    #[test]
    fn a_view_is_completed_by_its_own_query_over_some_rows() {
        let statement =
            view("SELECT h.a AS a FROM d.t AS h GROUP BY h.a").over("d", &one(), "x = 1").expect("plain");
        let expected =
            "INSERT INTO d.target (a) SELECT h.a AS a FROM (SELECT * FROM d.t WHERE x = 1) AS h GROUP BY h.a";
        assert_eq!(statement, expected);
    }

    #[test]
    fn a_view_that_reads_something_else_is_refused() {
        assert!(view("SELECT a FROM d.other AS o").over("d", &one(), "true").is_err());
        assert!(
            view("SELECT a FROM d.t AS x JOIN (SELECT a FROM d.t AS y) USING a")
                .over("d", &one(), "true")
                .is_err()
        );
    }
}
