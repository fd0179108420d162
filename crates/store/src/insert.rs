//! Inserts that can be repeated.

use std::time::Duration;

use clickhouse::error::Error;

use crate::Store;
use crate::rows::{TableRow, put_header};
use crate::trouble::Trouble;

/// Rows are compressed and sent in blocks of so many bytes: what is under way of an insert beside its rows. More would compress no
/// better, as LZ4 looks back 64 KiB.
const BLOCK_BYTES: usize = 256 << 10;

/// Waiting for the request's bytes to leave; the server's answer has its own, longer bound.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Rows whose landing was not reported. They may have landed all the same.
#[derive(Debug, thiserror::Error)]
#[error("{rows} rows for {table} at {url} did not land for certain")]
pub struct InsertError {
    table: &'static str,
    url: String,
    rows: usize,
    #[source]
    source: Error,
}

impl InsertError {
    /// What kind of trouble it was.
    pub fn trouble(&self) -> Trouble {
        Trouble::of(&self.source)
    }
}

impl Store {
    /// Inserts rows under `token`; no rows, no request. When it returns `Ok`, table and views hold the rows.
    ///
    /// # Errors
    /// Where success was not reported: the caller keeps the rows, asks which of them stand ([`Store::held`]) and repeats.
    /// Cancel safe in that sense alone: a dropped insert may or may not have landed.
    pub async fn insert<'r, R: TableRow + 'r>(
        &self,
        rows: impl ExactSizeIterator<Item = &'r R>,
        token: &str,
    ) -> Result<(), InsertError> {
        let mut rows: Vec<&R> = rows.collect();
        let count = rows.len();
        if count == 0 {
            return Ok(());
        }
        R::arrange(&mut rows);
        self.try_insert(&rows, token).await.map_err(|source| self.insert_error::<R>(count, source))
    }

    async fn try_insert<R: TableRow>(&self, rows: &[&R], token: &str) -> Result<(), Error> {
        let mut insert = self
            .client
            .insert_formatted_with(statement::<R>())
            .with_timeouts(Some(SEND_TIMEOUT), Some(self.insert_timeout))
            .with_setting("insert_deduplicate", "1")
            .with_setting("insert_deduplication_token", token)
            // Each view's target drops what it holds already and takes what it lacks: the insert is not atomic
            // over a table and its views, the repetition makes it so.
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            // A batch that is merged with itself before it is written costs the server half as much again, row by row, to find the few
            // copies that a merge finds anyway.
            .with_setting("optimize_on_insert", "0")
            .with_setting("async_insert", "0")
            // The server compares the types that come before the rows with those of the table.
            .with_setting("input_format_with_types_use_header", "1")
            .with_setting("input_format_with_names_use_header", "1")
            .buffered_with_capacity(BLOCK_BYTES);
        let mut bytes = Vec::new();
        put_header(R::COLUMNS, &mut bytes);
        for row in rows {
            row.put(&mut bytes);
            insert.write_buffered(&bytes);
            bytes.clear();
            if insert.buf_len() >= BLOCK_BYTES {
                insert.flush().await?;
            }
        }
        insert.end().await
    }

    pub(crate) fn insert_error<R: TableRow>(&self, rows: usize, source: Error) -> InsertError {
        InsertError { table: R::TABLE, url: self.url.clone(), rows, source }
    }
}

/// Names its columns, so that the others of the table take their defaults.
fn statement<R: TableRow>() -> String {
    let names: Vec<String> = R::COLUMNS.iter().map(|column| format!("`{}`", column.name)).collect();
    format!("INSERT INTO {} ({}) FORMAT RowBinaryWithNamesAndTypes", R::TABLE, names.join(", "))
}
