//! A database on a real ClickHouse: `cargo xtask test` says where it is.

use store::{Config, Store};

/// A database of a test's own.
pub(crate) struct Database {
    pub url: String,
    pub name: String,
    /// As `clickhouse.cluster`.
    pub cluster: String,
}

impl Database {
    pub(crate) fn of(test: &str) -> Self {
        let url = std::env::var("FLEETPULSE_TEST_CLICKHOUSE_URL").expect(
            "$FLEETPULSE_TEST_CLICKHOUSE_URL: this test needs a real clickhouse, run `cargo xtask test`",
        );
        let name = format!("test_{test}");
        Self::at(url, name)
    }

    /// An empty one on that server.
    pub(crate) fn at(url: String, name: String) -> Self {
        let outside = Self { url: url.clone(), name: "system".into(), cluster: String::new() };
        outside.ask(&format!("DROP DATABASE IF EXISTS {name}"));
        outside.ask(&format!("CREATE DATABASE {name}"));
        Self { url, name, cluster: String::new() }
    }

    pub(crate) fn ask(&self, statement: &str) -> String {
        self.try_ask(statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// The answer, or what the server said in place of one.
    pub(crate) fn try_ask(&self, statement: &str) -> Result<String, String> {
        let url = format!("{}/?database={}", self.url, self.name);
        let request = ureq::post(&url).config().proxy(None).http_status_as_error(false).build();
        let mut answer = request.send(statement).expect("an answer");
        let text = answer.body_mut().read_to_string().expect("a text");
        if answer.status() == 200 { Ok(text.trim_end_matches('\n').to_owned()) } else { Err(text) }
    }

    /// A presence event `ago` seconds ago, in the columns of the first release.
    pub(crate) fn presence(&self, device: &str, event: &str, node: &str, epoch: u64, ago: u32) {
        self.ask(&format!(
            "INSERT INTO connections (device_id, session_id, event, at, connected_at, node_id, epoch, reason) VALUES \
             ('{device}', generateUUIDv4(), '{event}', now64(3) - {ago}, now64(3) - {ago}, '{node}', {epoch}, 'client')"
        ));
    }

    pub(crate) fn node(&self, node: &str, epoch: u64, event: &str, ago: u32) {
        self.ask(&format!(
            "INSERT INTO nodes (node_id, epoch, event, at, lost_after_ms) VALUES \
             ('{node}', {epoch}, '{event}', now64(3) - {ago}, 15000)"
        ));
    }

    /// A client of it.
    pub(crate) fn store(&self) -> Store {
        Store::new(&self.config()).expect("a client")
    }

    /// The settings of that client.
    pub(crate) fn config(&self) -> Config {
        Config {
            url: self.url.clone(),
            database: self.name.clone(),
            cluster: self.cluster.clone(),
            ..Config::default()
        }
    }
}
