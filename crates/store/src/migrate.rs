//! The schema: numbered SQL files, applied in order, each once, never changed afterwards.
//!
//! Every statement can be repeated (`IF NOT EXISTS`, a definition put in another's place, maxima inserted), so several nodes may migrate at once and one that was killed
//! halfway is simply run again. Where SQL has no such form, the statement stands under a guard, a line `-- when: SELECT ...`: it is run only if
//! the answer is more than zero. One that fails, and whose guard says no by then, was done by another node.

use clickhouse::Row;
use clickhouse::error::Error;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Step};
use crate::rows::{
    self, BatchRow, CommandRow, ConnectionRow, DeadLetterRow, GapRow, HeartbeatRow, NodeRow, RecordRow,
    TableRow,
};
use crate::trouble::{Class, Trouble};
use crate::{QueryError, Store};

struct Migration {
    version: u32,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "events", sql: include_str!("../migrations/0001_events.sql") },
    Migration { version: 2, name: "status", sql: include_str!("../migrations/0002_status.sql") },
    Migration { version: 3, name: "usage", sql: include_str!("../migrations/0003_usage.sql") },
    Migration {
        version: 4,
        name: "nodes_and_commands",
        sql: include_str!("../migrations/0004_nodes_and_commands.sql"),
    },
    Migration { version: 5, name: "batches", sql: include_str!("../migrations/0005_batches.sql") },
    Migration { version: 6, name: "ledger", sql: include_str!("../migrations/0006_ledger.sql") },
    Migration { version: 7, name: "storage", sql: include_str!("../migrations/0007_storage.sql") },
    Migration { version: 8, name: "usage", sql: include_str!("../migrations/0008_usage.sql") },
    Migration { version: 9, name: "registry", sql: include_str!("../migrations/0009_registry.sql") },
    Migration { version: 10, name: "truth", sql: include_str!("../migrations/0010_truth.sql") },
    Migration { version: 11, name: "reports", sql: include_str!("../migrations/0011_reports.sql") },
    Migration { version: 12, name: "newest", sql: include_str!("../migrations/0012_newest.sql") },
    Migration { version: 13, name: "months", sql: include_str!("../migrations/0013_months.sql") },
    Migration {
        version: 14,
        name: "device_newest",
        sql: include_str!("../migrations/0014_device_newest.sql"),
    },
    Migration { version: 15, name: "costs", sql: include_str!("../migrations/0015_costs.sql") },
    Migration { version: 16, name: "availability", sql: include_str!("../migrations/0016_availability.sql") },
];

const LEDGER: &str = "\
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version    UInt32,
    name       String,
    checksum   UInt64 COMMENT 'XXH3 of the file as it was applied',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree ORDER BY version";

#[derive(Row, Serialize, Deserialize)]
struct LedgerRow {
    version: u32,
    name: String,
    checksum: u64,
}

/// A migration that was applied now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
}

/// Why the schema is not up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// ClickHouse did not answer.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A statement failed.
    #[error("migration {version:04}_{name} failed at: {statement}")]
    Statement {
        /// Number of the migration.
        version: u32,
        /// Its name.
        name: &'static str,
        /// First line of the statement.
        statement: String,
        /// What ClickHouse said.
        #[source]
        source: Error,
    },
    /// The database was migrated by another version of a file.
    #[error(
        "migration {version:04}_{name} stands in database {database} with another content: it was changed after it was applied"
    )]
    Changed {
        /// Number of the migration.
        version: u32,
        /// Its name.
        name: &'static str,
        /// Which database.
        database: String,
    },
    /// A table or a view is not as this version knows it: somebody changed it by hand.
    #[error("table {table} in database {database} is not as this version made it")]
    Table {
        /// Which table.
        table: &'static str,
        /// Which database.
        database: String,
        /// What differs.
        #[source]
        source: Error,
    },
    /// The database was made with another setting of `clickhouse.cluster`.
    #[error(
        "database {database} was made for {made_for}: set `clickhouse.cluster` as it was then, or use another database"
    )]
    Shape {
        /// Which database.
        database: String,
        /// What it was made for.
        made_for: &'static str,
    },
    /// The database lacks migrations.
    #[error("database {database} lacks {} migrations: run `fleetpulse migrate`", missing)]
    Behind {
        /// Which database.
        database: String,
        /// How many are missing.
        missing: usize,
    },
}

impl Store {
    /// Brings the schema up to date; returns what it applied.
    ///
    /// # Errors
    /// Where ClickHouse does not answer, a statement fails, or the database knows another content of a file.
    pub async fn migrate(&self) -> Result<Vec<Applied>, MigrateError> {
        let on = self.cluster().map(Cluster::everywhere).unwrap_or_default();
        self.check_shape().await?;
        let create = format!("CREATE DATABASE IF NOT EXISTS `{}`{on}", self.database);
        let outside = self.client.clone().with_database("system");
        outside.query(&create).execute().await.map_err(|source| self.query_error(source))?;
        for step in self.steps(LEDGER) {
            self.client.query_raw(&step.sql).execute().await.map_err(|source| self.query_error(source))?;
        }
        let missing = self.missing().await?;
        let mut applied = Vec::with_capacity(missing.len());
        for migration in missing {
            self.apply(migration).await?;
            applied.push(Applied { version: migration.version, name: migration.name });
        }
        self.keep("heartbeats", format!("toDateTime(received_at) + toIntervalDay({})", self.kept.raw_days))
            .await?;
        // A session is known by its start and end, by its heartbeats, and by its gateway's life.
        for (table, time) in
            [("connections", "connected_at"), ("session_signs", "received_at"), ("nodes", "at")]
        {
            let until = format!("toDateTime({time}) + toIntervalYear({})", self.kept.sessions_years);
            self.keep(table, until).await?;
        }
        Ok(applied)
    }

    /// Sees to it that rows of a table are kept until `until`. What stands is not written anew for it: it goes as it is merged, or as whole parts.
    async fn keep(&self, table: &str, until: String) -> Result<(), MigrateError> {
        let cluster = self.cluster();
        let on = cluster.map(Cluster::everywhere).unwrap_or_default();
        let table = cluster.map_or_else(|| table.to_owned(), |_| Cluster::stands_in(table));
        let known = "SELECT engine_full FROM system.tables WHERE database = ? AND name = ?";
        let known = self.client.query(known).bind(&self.database).bind(&table).fetch_one::<String>().await;
        if known.map_err(|source| self.query_error(source))?.contains(&format!(" TTL {until} ")) {
            return Ok(());
        }
        let change = format!("ALTER TABLE {table}{on} MODIFY TTL {until}");
        let change = self.client.query_raw(&change).with_setting("materialize_ttl_after_modify", "0");
        change.execute().await.map_err(|source| self.query_error(source))?;
        Ok(())
    }

    /// Checks that the schema is up to date, and that tables and views are as this version knows them.
    ///
    /// # Errors
    /// Where it is not so, or ClickHouse does not answer.
    pub async fn check_schema(&self) -> Result<(), MigrateError> {
        self.check_shape().await?;
        match self.missing().await?.len() {
            0 => {}
            missing => return Err(MigrateError::Behind { database: self.database.clone(), missing }),
        }
        self.check_table::<HeartbeatRow<'_>>().await?;
        self.check_table::<ConnectionRow>().await?;
        self.check_table::<DeadLetterRow>().await?;
        self.check_table::<NodeRow>().await?;
        self.check_table::<CommandRow>().await?;
        self.check_table::<rows::LedgerRow>().await?;
        self.table_is_known::<BatchRow>(self.check_columns::<BatchRow>().await)?;
        self.table_is_known::<GapRow>(self.check_columns::<GapRow>().await)
    }

    async fn check_table<R: RecordRow>(&self) -> Result<(), MigrateError> {
        let checked = match self.check_columns::<R>().await {
            Ok(()) => self.check_views::<R>().await,
            Err(error) => Err(error),
        };
        self.table_is_known::<R>(checked)
    }

    fn table_is_known<R: TableRow>(&self, checked: Result<(), Error>) -> Result<(), MigrateError> {
        checked.map_err(|source| match Trouble::of(&source).class() {
            Class::Fatal => MigrateError::Table { table: R::TABLE, database: self.database.clone(), source },
            _ => self.query_error(source).into(),
        })
    }

    async fn missing(&self) -> Result<Vec<&'static Migration>, MigrateError> {
        let known = "SELECT count() FROM system.tables WHERE database = ? AND name = 'schema_migrations'";
        let known = self.client.query(known).bind(&self.database).fetch_one::<u64>().await;
        if known.map_err(|source| self.query_error(source))? == 0 {
            return Ok(MIGRATIONS.iter().collect());
        }
        let ledger =
            self.client.query("SELECT version, name, checksum FROM schema_migrations FINAL ORDER BY version");
        let ledger = ledger.fetch_all::<LedgerRow>().await.map_err(|source| self.query_error(source))?;
        let mut missing = Vec::new();
        for migration in MIGRATIONS {
            match ledger.iter().find(|row| row.version == migration.version) {
                None => missing.push(migration),
                Some(row) if row.checksum == checksum(migration) => {}
                Some(_) => {
                    return Err(MigrateError::Changed {
                        version: migration.version,
                        name: migration.name,
                        database: self.database.clone(),
                    });
                }
            }
        }
        Ok(missing)
    }

    async fn apply(&self, migration: &Migration) -> Result<(), MigrateError> {
        for Step { guard, sql } in statements(migration.sql).flat_map(|statement| self.steps(statement)) {
            let failed = |source| MigrateError::Statement {
                version: migration.version,
                name: migration.name,
                statement: sql.lines().find(|line| !line.starts_with("--")).unwrap_or_default().to_owned(),
                source,
            };
            let guard = guard.as_deref();
            // Another node may be further by now: what a later migration has taken away must not come back.
            if self.is_noted(migration).await? {
                return Ok(());
            }
            if !self.wants(guard).await.map_err(failed)? {
                continue;
            }
            let mut done = self.client.query_raw(&sql);
            if self.cluster().is_some() {
                // Rows that stand already are copied by each shard for itself.
                done = done.with_setting("parallel_distributed_insert_select", "2");
            }
            if let Err(error) = done.execute().await
                && !self.is_noted(migration).await?
                && (guard.is_none() || self.wants(guard).await.map_err(failed)?)
            {
                return Err(failed(error));
            }
        }
        let noted = self
            .client
            .query("INSERT INTO schema_migrations (version, name, checksum) VALUES (?, ?, ?)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum(migration));
        noted.execute().await.map_err(|source| self.query_error(source))?;
        Ok(())
    }

    /// Whether a migration was applied by now.
    async fn is_noted(&self, migration: &Migration) -> Result<bool, MigrateError> {
        let noted = self
            .client
            .query("SELECT count() FROM schema_migrations WHERE version = ?")
            .bind(migration.version);
        Ok(noted.fetch_one::<u64>().await.map_err(|source| self.query_error(source))? > 0)
    }

    /// What a statement of a migration is on these servers.
    fn steps(&self, statement: &str) -> Vec<Step> {
        let guard = guard(statement);
        match self.cluster() {
            Some(cluster) => cluster.steps(statement, guard),
            None => vec![Step { guard: guard.map(str::to_owned), sql: statement.to_owned() }],
        }
    }

    /// Every statement that [`Store::migrate`] runs on an empty database, in order, to be looked at.
    pub fn migration_steps(&self) -> Vec<Step> {
        migrated().flat_map(|statement| self.steps(statement)).collect()
    }

    /// A schema made for one server does not become one of a cluster, nor the other way round: its rows stand elsewhere.
    async fn check_shape(&self) -> Result<(), MigrateError> {
        let made = "SELECT countIf(name = 'connections'), countIf(name = 'connections_local') FROM system.tables WHERE database = ?";
        // The database itself may not be there yet.
        let outside = self.client.clone().with_database("system");
        let made = outside.query(made).bind(&self.database).fetch_one::<(u64, u64)>().await;
        let (plain, local) = made.map_err(|source| self.query_error(source))?;
        match self.cluster() {
            Some(_) if plain > 0 && local == 0 => Err(self.other_shape("one server")),
            None if local > 0 => Err(self.other_shape("a cluster")),
            _ => Ok(()),
        }
    }

    fn other_shape(&self, made_for: &'static str) -> MigrateError {
        MigrateError::Shape { database: self.database.clone(), made_for }
    }

    /// Whether a statement under this guard is to be run.
    async fn wants(&self, guard: Option<&str>) -> Result<bool, Error> {
        match guard {
            None => Ok(true),
            Some(question) => {
                let asked = format!("SELECT toUInt64(ifNull(({question}), 0)) > 0");
                self.client.query_raw(&asked).fetch_one::<bool>().await
            }
        }
    }
}

/// Whether a view of this name is ours.
pub(crate) fn makes_view(name: &str) -> bool {
    let made = format!("CREATE MATERIALIZED VIEW IF NOT EXISTS {name} ");
    MIGRATIONS.iter().any(|migration| migration.sql.contains(&made))
}

fn checksum(migration: &Migration) -> u64 {
    xxhash_rust::xxh3::xxh3_64(migration.sql.as_bytes())
}

/// The statements of all files, and before them that of the table that says which were applied.
pub(crate) fn migrated() -> impl Iterator<Item = &'static str> {
    std::iter::once(LEDGER).chain(MIGRATIONS.iter().flat_map(|migration| statements(migration.sql)))
}

/// The statements of a file: each ends with a semicolon at the end of a line.
fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n")
        .map(str::trim)
        .filter(|statement| statement.lines().any(|line| !line.starts_with("--") && !line.is_empty()))
}

/// The question that a statement stands under.
fn guard(statement: &str) -> Option<&str> {
    statement.lines().find_map(|line| line.strip_prefix("-- when: "))
}

#[cfg(test)]
mod tests {
    use super::{MIGRATIONS, guard, statements};

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let versions: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert!(versions.iter().copied().eq(1..=u32::try_from(MIGRATIONS.len()).expect("few")));
    }

    #[test]
    fn every_statement_can_be_repeated() {
        for migration in MIGRATIONS {
            for statement in statements(migration.sql) {
                let code: String = statement.lines().filter(|line| !line.starts_with("--")).collect();
                // A view's definition in the place of another is the same the second time; what is inserted into tables of
                // maxima changes nothing the second time.
                let repeatable = [
                    "IF NOT EXISTS",
                    "CREATE OR REPLACE VIEW",
                    "MODIFY QUERY",
                    "MODIFY SETTING",
                    "MATERIALIZE COLUMN",
                    "DROP VIEW IF EXISTS",
                    "DROP TABLE IF EXISTS",
                    "INSERT INTO device_status_state",
                ];
                let repeatable = repeatable.iter().any(|form| code.contains(form));
                assert!(repeatable || guard(statement).is_some(), "{}: {code}", migration.name);
            }
        }
    }
}
