//! A database on a real ClickHouse: `cargo xtask test` says where it is.

use store::{Config, Store};

/// A database of a test's own.
pub(crate) struct Database {
    pub url: String,
    pub name: String,
}

impl Database {
    pub(crate) fn of(test: &str) -> Self {
        let url = std::env::var("FLEETPULSE_TEST_CLICKHOUSE_URL").expect(
            "$FLEETPULSE_TEST_CLICKHOUSE_URL: this test needs a real clickhouse, run `cargo xtask test`",
        );
        let name = format!("test_{test}");
        let outside = Self { url: url.clone(), name: "system".into() };
        outside.ask(&format!("DROP DATABASE IF EXISTS {name}"));
        outside.ask(&format!("CREATE DATABASE {name}"));
        Self { url, name }
    }

    pub(crate) fn ask(&self, statement: &str) -> String {
        let url = format!("{}/?database={}", self.url, self.name);
        let request = ureq::post(&url).config().proxy(None).http_status_as_error(false).build();
        let mut answer = request.send(statement).expect("an answer");
        let text = answer.body_mut().read_to_string().expect("a text");
        assert_eq!(answer.status(), 200, "{statement}: {text}");
        text.trim_end_matches('\n').to_owned()
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
        Config { url: self.url.clone(), database: self.name.clone(), ..Config::default() }
    }
}
