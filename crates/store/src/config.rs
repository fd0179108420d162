//! Settings of section `clickhouse`.

use std::path::PathBuf;

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

/// How to reach ClickHouse. Section `clickhouse`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// HTTP interface. Default `http://127.0.0.1:8123`.
    pub url: String,
    /// Database of the schema; created by `migrate`. Default `fleetpulse`. Letters, digits and `_`.
    pub database: String,
    /// Cluster that the schema stands on, as the servers' `remote_servers` name it; empty (the default) for one server. All roles of an
    /// installation say the same, from `migrate` on: docs/cluster.md. Letters, digits and `_`.
    pub cluster: String,
    /// Default `default`.
    pub user: String,
    /// File whose first line is the password; empty (the default) for none.
    pub password_file: PathBuf,
    /// After how long an insert counts as lost and is repeated, milliseconds. Default 30,000: a server under load
    /// may take seconds; one that hangs must not hold a batch for ever. Range 1,000 to 600,000.
    pub insert_timeout_ms: u32,
    /// How long heartbeats are kept one by one, days. Default 90: what is told of longer ago stands in sums by hour and day. `migrate` sets it.
    /// Range 90 to 3,650: the ledger compares them with batches, which are kept for 90.
    pub raw_days: u32,
    /// How long sessions are kept, years. Default 3: as long as a customer may ask about a bill. `migrate` sets it. Range 1 to 30.
    pub sessions_years: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".into(),
            database: "fleetpulse".into(),
            cluster: String::new(),
            user: "default".into(),
            password_file: PathBuf::new(),
            insert_timeout_ms: 30_000,
            raw_days: 90,
            sessions_years: 3,
        }
    }
}

/// A setting that could only be judged at the start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The password file cannot be read.
    #[error("cannot read the password file {path} (setting `clickhouse.password_file`)")]
    PasswordFile {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        Checks::of("clickhouse")
            .require(
                "url",
                self.url.starts_with("http://"),
                format!("{:?} does not start with http://", self.url),
            )
            .present("database", &self.database)
            .require("database", self.database.chars().all(plain), "may hold letters, digits and _ only")
            .require("database", self.database != "default", "may not be `default`: use one of its own")
            .require("cluster", self.cluster.chars().all(plain), "may hold letters, digits and _ only")
            .present("user", &self.user)
            .within("insert_timeout_ms", self.insert_timeout_ms, 1_000..=600_000)
            .within("raw_days", self.raw_days, 90..=3_650)
            .within("sessions_years", self.sessions_years, 1..=30)
            .done()
    }

    pub(crate) fn password(&self) -> Result<String, ConfigError> {
        if self.password_file.as_os_str().is_empty() {
            return Ok(String::new());
        }
        let path = &self.password_file;
        let wrap = |source| ConfigError::PasswordFile { path: path.clone(), source };
        let text = std::fs::read_to_string(path).map_err(wrap)?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}
