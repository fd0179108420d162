//! A connection to ClickHouse.

use std::fmt;
use std::time::Duration;

use clickhouse::Client;
use clickhouse::error::Error;

use crate::cluster::{self, Cluster};
use crate::{Config, ConfigError};

/// A connection to ClickHouse. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) client: Client,
    pub(crate) database: String,
    /// Empty for one server.
    cluster: String,
    pub(crate) url: String,
    pub(crate) insert_timeout: Duration,
    pub(crate) kept: Kept,
}

/// How long rows are kept.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) raw_days: u32,
    pub(crate) sessions_years: u32,
}

/// A question that ClickHouse did not answer.
#[derive(Debug, thiserror::Error)]
#[error("clickhouse at {url} did not answer")]
pub struct QueryError {
    url: String,
    #[source]
    source: Error,
}

impl Store {
    /// Makes the client; the server need not answer yet.
    ///
    /// # Errors
    /// Where the password file cannot be read.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let mut client = Client::default()
            .with_url(&config.url)
            .with_user(&config.user)
            .with_password(config.password()?)
            .with_database(&config.database)
            .with_product_info("fleetpulse", env!("CARGO_PKG_VERSION"));
        if !config.cluster.is_empty() {
            for (name, value) in cluster::SETTINGS {
                client = client.with_setting(*name, *value);
            }
        }
        Ok(Self {
            client,
            database: config.database.clone(),
            cluster: config.cluster.clone(),
            url: config.url.clone(),
            insert_timeout: Duration::from_millis(config.insert_timeout_ms.into()),
            kept: Kept { raw_days: config.raw_days, sessions_years: config.sessions_years },
        })
    }

    /// Whether the server answers, within `timeout`.
    ///
    /// # Errors
    /// Where it refuses or does not answer in time. Cancel safe.
    pub async fn answers(&self, timeout: Duration) -> Result<(), QueryError> {
        let asked = self.client.query("SELECT 1").fetch_one::<u8>();
        let answer = tokio::time::timeout(timeout, asked).await.unwrap_or(Err(Error::TimedOut));
        answer.map(|_| ()).map_err(|source| self.query_error(source))
    }

    /// The cluster that the schema stands on; none on one server.
    pub(crate) fn cluster(&self) -> Option<Cluster<'_>> {
        let named = Cluster { name: &self.cluster, database: &self.database };
        (!self.cluster.is_empty()).then_some(named)
    }

    pub(crate) fn query_error(&self, source: Error) -> QueryError {
        QueryError { url: self.url.clone(), source }
    }
}

/// Without the password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("url", &self.url)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
