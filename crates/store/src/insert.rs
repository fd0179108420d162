//! Inserts that can be repeated.

use std::time::Duration;

use clickhouse::error::Error;

use crate::Store;
use crate::rows::TableRow;

/// Waiting for the request's bytes to leave; the server's answer has its own, longer bound.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It passes: the same rows again under the same token, after a while.
    Retry,
    /// It does not pass without a person.
    Fatal,
}

/// An insert whose success was not reported. It may have landed all the same.
#[derive(Debug, thiserror::Error)]
#[error("insert of {rows} rows into {table} at {url} failed")]
pub struct InsertError {
    table: &'static str,
    url: String,
    rows: usize,
    #[source]
    source: Error,
}

impl InsertError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match &self.source {
            Error::SchemaMismatch(_) | Error::Unsupported(_) | Error::InvalidParams(_) => Class::Fatal,
            Error::BadResponse(text) if code(text).is_some_and(needs_a_person) => Class::Fatal,
            _ => Class::Retry,
        }
    }

    /// Short name, as in metrics.
    pub fn reason(&self) -> &'static str {
        match &self.source {
            Error::Network(_) => "network",
            Error::TimedOut => "timeout",
            Error::SchemaMismatch(_) => "schema",
            Error::BadResponse(_) => "refused",
            _ => "other",
        }
    }
}

/// The server's error code, from `Code: 60. DB::Exception: ...`.
fn code(text: &str) -> Option<u32> {
    let digits = text.split("Code: ").nth(1)?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The schema is not ours, or we may not come in: no retry helps.
fn needs_a_person(code: u32) -> bool {
    const NO_SUCH_COLUMN: u32 = 16;
    const TYPE_MISMATCH: u32 = 53;
    const UNKNOWN_TABLE: u32 = 60;
    const UNKNOWN_DATABASE: u32 = 81;
    const UNKNOWN_USER: u32 = 192;
    const WRONG_PASSWORD: u32 = 193;
    const ACCESS_DENIED: u32 = 497;
    const AUTHENTICATION_FAILED: u32 = 516;
    matches!(
        code,
        NO_SUCH_COLUMN
            | TYPE_MISMATCH
            | UNKNOWN_TABLE
            | UNKNOWN_DATABASE
            | UNKNOWN_USER
            | WRONG_PASSWORD
            | ACCESS_DENIED
            | AUTHENTICATION_FAILED
    )
}

impl Store {
    /// Inserts one batch under `token`; no rows, no request. When it returns `Ok`, table and views hold the rows.
    ///
    /// # Errors
    /// Where success was not reported: the caller keeps the rows and repeats them under the same token.
    /// Cancel safe in that sense alone: a dropped insert may or may not have landed.
    pub async fn insert<R: TableRow>(&self, rows: &[R], token: &str) -> Result<(), InsertError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.try_insert(rows, token).await.map_err(|source| InsertError {
            table: R::TABLE,
            url: self.url.clone(),
            rows: rows.len(),
            source,
        })
    }

    async fn try_insert<R: TableRow>(&self, rows: &[R], token: &str) -> Result<(), Error> {
        let opened = tokio::time::timeout(self.insert_timeout, self.client.insert::<R>(R::TABLE));
        let mut insert = opened
            .await
            .unwrap_or(Err(Error::TimedOut))?
            .with_timeouts(Some(SEND_TIMEOUT), Some(self.insert_timeout))
            .with_setting("insert_deduplicate", "1")
            .with_setting("insert_deduplication_token", token)
            // Each view's target drops what it holds already and takes what it lacks: the insert is not atomic
            // over a table and its views, the repetition makes it so.
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            .with_setting("async_insert", "0");
        for row in rows {
            insert.write(row).await?;
        }
        insert.end().await
    }
}

#[cfg(test)]
mod tests {
    use super::{code, needs_a_person};

    #[test]
    fn a_missing_table_needs_a_person_and_a_busy_server_does_not() {
        assert_eq!(code("Code: 60. DB::Exception: Table x does not exist. (UNKNOWN_TABLE)"), Some(60));
        assert!(needs_a_person(60));
        assert_eq!(code("Code: 252. DB::Exception: Too many parts (300)"), Some(252));
        assert!(!needs_a_person(252));
        assert_eq!(code("bad gateway"), None);
    }
}
