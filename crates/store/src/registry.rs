//! The registry's tables: rows of cells, read through the views and inserted as new versions. Which kinds there are, and what their cells mean,
//! is the registry's to know.
//!
//! A row that is inserted stands in the place of the one with the same key, once its version is higher; [`Store::registry_version`] gives one
//! that is. Nothing is ever updated or deleted: a deletion is a row, too.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clickhouse::Row;
use clickhouse::error::Error;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::{QueryError, Store};

/// How long a question about the registry may take, seconds.
const SECONDS_MAX: &str = "60";
/// Bytes that are handed to the connection at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// How long a chunk may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How a cell is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Text,
    /// A number; as text on its way.
    Number,
    /// A day; on its way `2026-01-31`.
    Day,
    /// A day that stands for its month; on its way `2026-01`.
    Month,
    /// A time; read as milliseconds since 1970, written as text with its zone.
    Time,
    /// `0:0.1 500:0.05`.
    Tiers,
}

/// A column of a registry table.
#[derive(Clone, Copy, Debug)]
pub struct RegistryColumn {
    /// Its name.
    pub name: &'static str,
    /// How its cells are kept.
    pub form: Form,
    /// Whether an empty cell is NULL.
    pub nullable: bool,
    /// Whether it stands in the table, and not only in the view.
    pub stored: bool,
}

/// A kind of rows: a view to read them from, and the table beneath it.
#[derive(Clone, Debug)]
pub struct RegistryTable {
    /// Name of the view; the table is `registry_` and this.
    pub view: &'static str,
    /// The columns, the key first.
    pub columns: Vec<RegistryColumn>,
    /// How many of them are the key.
    pub key: usize,
}

/// A new version of a row.
#[derive(Clone, Debug)]
pub struct RegistryRow<'a> {
    /// Its cells, one for each column.
    pub cells: &'a [String],
    /// Whether it stands for nothing from now on.
    pub deleted: bool,
}

/// What a change did to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryAct {
    /// There was none before.
    Created,
    /// It is another now.
    Changed,
    /// It is gone.
    Deleted,
}

impl RegistryAct {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }
}

/// A change as it is noted.
#[derive(Clone, Debug)]
pub struct RegistryNote<'a> {
    /// Key of the row.
    pub id: &'a str,
    /// What was done.
    pub act: RegistryAct,
    /// Name of a column, what stood there, what stands there.
    pub what: &'a [(&'static str, String, String)],
}

/// A change as it was noted.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct RegistryChange {
    /// When, milliseconds since 1970.
    pub at: i64,
    /// What was done: `created`, `changed`, `deleted`.
    pub change: String,
    /// Who did it.
    pub who: String,
    /// Why.
    pub why: String,
    /// Column, before, after.
    pub what: Vec<(String, String, String)>,
}

/// A beginning in the history of a SIM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimTurn<'a> {
    /// The SIM.
    pub iccid: &'a str,
    /// When, as a text with its zone.
    pub since: &'a str,
    /// The state or the plan that it has from then on.
    pub value: &'a str,
}

/// Which history of SIMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimHistory {
    /// `sim_states`.
    States,
    /// `sim_plans`.
    Plans,
}

/// Who changes something, and why.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// Who.
    pub who: &'a str,
    /// Why.
    pub why: &'a str,
}

/// Rows of the registry that may not have landed. What was sent can be sent again.
#[derive(Debug, thiserror::Error)]
#[error("rows for {table} at {url} did not land for certain: do the same again")]
pub struct RegistryInsertError {
    table: String,
    url: String,
    #[source]
    source: Error,
}

#[derive(Row, Deserialize)]
struct Cells {
    cells: Vec<String>,
}

impl RegistryColumn {
    /// The cell, of a row of the view.
    fn read(&self) -> String {
        let name = self.name;
        let text = match self.form {
            Form::Text | Form::Number | Form::Day => format!("toString({name})"),
            Form::Month => format!("substring(toString({name}), 1, 7)"),
            Form::Time => format!("toString(toUnixTimestamp64Milli({name}))"),
            Form::Tiers => format!(
                "arrayStringConcat(arrayMap(t -> concat(toString(t.1), ':', toString(t.2)), {name}), ' ')"
            ),
        };
        if self.nullable { format!("ifNull({text}, '')") } else { text }
    }

    fn write(&self, cell: &str) -> Json {
        match self.form {
            Form::Tiers => {
                let tiers = cell.split_whitespace().filter_map(|tier| tier.split_once(':'));
                tiers.map(|(from, price)| json!({ "from_mb": from, "price_per_mb": price })).collect()
            }
            _ if self.nullable && cell.is_empty() => Json::Null,
            Form::Month => format!("{cell}-01").into(),
            _ => cell.into(),
        }
    }
}

impl RegistryTable {
    fn table(&self) -> String {
        format!("registry_{}", self.view)
    }

    /// The key as one text.
    fn id(&self) -> String {
        let key: Vec<String> = self.columns[..self.key].iter().map(RegistryColumn::read).collect();
        match &key[..] {
            [alone] => alone.clone(),
            several => format!("arrayStringConcat([{}], ',')", several.join(", ")),
        }
    }

    fn select(&self, condition: &str) -> String {
        let cells: Vec<String> = self.columns.iter().map(RegistryColumn::read).collect();
        format!(
            "SELECT CAST([{}] AS Array(String)) AS cells FROM {} WHERE {condition}",
            cells.join(", "),
            self.view
        )
    }
}

impl Store {
    /// Every row that stands, in the order of the keys.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_rows(&self, table: &RegistryTable) -> Result<Vec<Vec<String>>, QueryError> {
        let question = format!("{} ORDER BY {}", table.select("1"), table.id());
        let rows = self.client.query_raw(&question).with_setting("max_execution_time", SECONDS_MAX);
        let rows = rows.fetch_all::<Cells>().await.map_err(|source| self.query_error(source))?;
        Ok(rows.into_iter().map(|row| row.cells).collect())
    }

    /// The rows whose keys come after `after`, at most `limit`.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_page(
        &self,
        table: &RegistryTable,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Vec<String>>, QueryError> {
        let id = table.id();
        let question = format!("{} ORDER BY {id} LIMIT ?", table.select(&format!("{id} > ?")));
        let rows = self.client.query(&question).bind(after).bind(limit);
        let rows = rows.with_setting("max_execution_time", SECONDS_MAX).fetch_all::<Cells>().await;
        Ok(rows.map_err(|source| self.query_error(source))?.into_iter().map(|row| row.cells).collect())
    }

    /// The row of a key.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_row(
        &self,
        table: &RegistryTable,
        id: &str,
    ) -> Result<Option<Vec<String>>, QueryError> {
        let question = table.select(&format!("{} = ?", table.id()));
        let row = self.client.query(&question).bind(id).fetch_optional::<Cells>().await;
        Ok(row.map_err(|source| self.query_error(source))?.map(|row| row.cells))
    }

    /// What stands in a column of a view, each value once.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_values(
        &self,
        view: &'static str,
        column: &'static str,
    ) -> Result<HashSet<String>, QueryError> {
        let question = format!("SELECT DISTINCT CAST({column} AS String) FROM {view}");
        let values = self.client.query_raw(&question).fetch_all::<String>().await;
        Ok(values.map_err(|source| self.query_error(source))?.into_iter().collect())
    }

    /// Whether, and where, a value stands in a column of a view: the key of one row that has it.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_holder(
        &self,
        table: &RegistryTable,
        column: &'static str,
        value: &str,
    ) -> Result<Option<String>, QueryError> {
        let question = format!(
            "SELECT CAST({} AS String) FROM {} WHERE ifNull(toString({column}), '') = ? LIMIT 1",
            table.id(),
            table.view
        );
        let holder = self.client.query(&question).bind(value).fetch_optional::<String>().await;
        holder.map_err(|source| self.query_error(source))
    }

    /// Keys whose rows stand for nothing any more.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_deleted(&self, table: &RegistryTable) -> Result<HashSet<String>, QueryError> {
        let question =
            format!("SELECT CAST({} AS String) FROM {} FINAL WHERE deleted", table.id(), table.table());
        let keys = self.client.query_raw(&question).fetch_all::<String>().await;
        Ok(keys.map_err(|source| self.query_error(source))?.into_iter().collect())
    }

    /// A version above all that stand: the server's milliseconds since 1970, or one more than the highest.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_version(&self, table: &RegistryTable) -> Result<u64, QueryError> {
        let question = format!(
            "SELECT greatest(toUInt64(toUnixTimestamp64Milli(now64(3))), max(version) + 1) FROM {}",
            table.table()
        );
        let version = self.client.query_raw(&question).fetch_one::<u64>().await;
        version.map_err(|source| self.query_error(source))
    }

    /// Inserts new versions of rows, in one insert; `told` hears how many have left.
    ///
    /// # Errors
    /// Where landing was not reported.
    pub async fn registry_insert(
        &self,
        table: &RegistryTable,
        rows: &[RegistryRow<'_>],
        version: u64,
        told: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), RegistryInsertError> {
        let stored: Vec<(usize, &RegistryColumn)> =
            table.columns.iter().enumerate().filter(|(_, column)| column.stored).collect();
        let mut names: Vec<&str> = stored.iter().map(|(_, column)| column.name).collect();
        names.extend(["version", "deleted"]);
        let lines = rows.iter().map(|row| {
            let cells = stored.iter().map(|(place, column)| column.write(&row.cells[*place]));
            cells.chain([version.into(), row.deleted.into()]).collect()
        });
        let chunks = chunks(lines);
        self.registry_send(&table.table(), &names, chunks, told).await
    }

    /// Notes changes.
    ///
    /// # Errors
    /// Where landing was not reported.
    pub async fn registry_note(
        &self,
        table: &RegistryTable,
        notes: &[RegistryNote<'_>],
        version: u64,
        author: Author<'_>,
    ) -> Result<(), RegistryInsertError> {
        let names = ["kind", "id", "version", "at", "change", "who", "why", "what"];
        let lines = notes.iter().map(|note| {
            let what = note.what.iter();
            let what = what
                .map(|(field, before, after)| json!({ "field": field, "before": before, "after": after }));
            vec![
                table.view.into(),
                note.id.into(),
                version.into(),
                seconds(version).into(),
                note.act.word().into(),
                author.who.into(),
                author.why.into(),
                what.collect(),
            ]
        });
        let chunks = chunks(lines);
        self.registry_send("registry_changes", &names, chunks, &mut |_| {}).await
    }

    /// Adds to a history of SIMs.
    ///
    /// # Errors
    /// Where landing was not reported.
    pub async fn registry_turns(
        &self,
        history: SimHistory,
        turns: &[SimTurn<'_>],
        version: u64,
        author: Author<'_>,
    ) -> Result<(), RegistryInsertError> {
        let (table, value) = match history {
            SimHistory::States => ("sim_states", "state"),
            SimHistory::Plans => ("sim_plans", "plan_id"),
        };
        let names = ["iccid", "since", value, "who", "why", "version"];
        let lines = turns.iter().map(|turn| {
            vec![
                turn.iccid.into(),
                turn.since.into(),
                turn.value.into(),
                author.who.into(),
                author.why.into(),
                version.into(),
            ]
        });
        let chunks = chunks(lines);
        self.registry_send(table, &names, chunks, &mut |_| {}).await
    }

    /// What was changed of a row, the newest first, at most `limit`.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn registry_history(
        &self,
        view: &'static str,
        id: &str,
        limit: u32,
    ) -> Result<Vec<RegistryChange>, QueryError> {
        let question = "SELECT toUnixTimestamp64Milli(c.at) AS at, toString(c.change) AS change, CAST(c.who AS String) AS who, \
                        CAST(c.why AS String) AS why, CAST(c.what AS Array(Tuple(String, String, String))) AS what \
                        FROM registry_changes AS c FINAL WHERE c.kind = ? AND c.id = ? ORDER BY c.version DESC LIMIT ?";
        let changes = self.client.query(question).bind(view).bind(id).bind(limit);
        changes.fetch_all::<RegistryChange>().await.map_err(|source| self.query_error(source))
    }

    /// Brings `sim_sightings` up to date with the heartbeats that were stored since then (seconds since 1970). Any earlier time does as well:
    /// what was seen already changes nothing.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe: what was cancelled can be done again.
    pub async fn record_sim_sightings(&self, since: u32) -> Result<(), QueryError> {
        let insert = "INSERT INTO sim_sightings (iccid, imei, device_id, imsi, first_seen, last_seen) \
                      SELECT iccid, imei, device_id, imsi, first_seen, last_seen FROM sim_sightings_since(since = fromUnixTimestamp(?))";
        let insert = self.client.query(insert).bind(since);
        insert.execute().await.map_err(|source| self.query_error(source))
    }

    async fn registry_send(
        &self,
        table: &str,
        names: &[&str],
        chunks: Vec<Chunk>,
        told: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), RegistryInsertError> {
        // An insert without a row is no insert.
        if chunks.is_empty() {
            return Ok(());
        }
        let sent = self.try_registry_send(table, names, chunks, told).await;
        sent.map_err(|source| RegistryInsertError { table: table.to_owned(), url: self.url.clone(), source })
    }

    async fn try_registry_send(
        &self,
        table: &str,
        names: &[&str],
        chunks: Vec<Chunk>,
        told: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), Error> {
        let statement = format!("INSERT INTO {table} ({}) FORMAT JSONCompactEachRow", names.join(", "));
        let mut insert = self
            .client
            .insert_formatted_with(statement)
            .with_timeouts(Some(SEND_TIMEOUT), Some(self.insert_timeout))
            .with_setting("date_time_input_format", "best_effort")
            .with_setting("async_insert", "0");
        for chunk in chunks {
            insert.send(chunk.text).await?;
            told(chunk.rows);
        }
        insert.end().await
    }
}

/// Rows on their way.
struct Chunk {
    text: Bytes,
    /// With those of all chunks before it.
    rows: usize,
}

fn chunks(rows: impl Iterator<Item = Vec<Json>>) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut text = BytesMut::with_capacity(CHUNK_BYTES + 1_024);
    let mut count = 0;
    for row in rows {
        // Writing to memory does not fail.
        let _written = writeln!(text, "{}", Json::Array(row));
        count += 1;
        if text.len() >= CHUNK_BYTES {
            chunks.push(Chunk { text: text.split().freeze(), rows: count });
        }
    }
    if !text.is_empty() {
        chunks.push(Chunk { text: text.freeze(), rows: count });
    }
    chunks
}

/// Milliseconds as ClickHouse reads a time: seconds with three decimals.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}
