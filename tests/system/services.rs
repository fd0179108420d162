//! The services under test, and the means to ask them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use devstack::fetch::Cache;
use devstack::{Brokers, ClickHouse, ClickHouseConfig, Engine, Kafka, KafkaConfig};

/// How long anything may take before a test gives up on it. Far above what it takes: a slow machine is no failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Where Kafka and ClickHouse are.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub kafka: String,
    pub clickhouse: String,
}

impl Services {
    /// The ones that all tests share.
    pub(crate) fn shared() -> Result<Self> {
        Ok(Self {
            kafka: from_environment("FLEETPULSE_TEST_KAFKA_BROKERS")?,
            clickhouse: from_environment("FLEETPULSE_TEST_CLICKHOUSE_URL")?,
        })
    }

    /// Asks ClickHouse; the answer is tab-separated.
    pub(crate) fn ask(&self, database: &str, question: &str) -> Result<String> {
        let url = format!("{}/?database={database}", self.clickhouse);
        let mut answer = ureq::post(&url)
            .config()
            .http_status_as_error(false)
            .build()
            .send(question)
            .context("clickhouse does not answer")?;
        let text = answer.body_mut().read_to_string()?;
        if answer.status() != 200 {
            return Err(anyhow!("clickhouse: {text}"));
        }
        Ok(text.trim_end_matches('\n').to_owned())
    }
}

/// What `cargo xtask test` tells the tests.
pub(crate) fn from_environment(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| {
        format!("${name} is not set: these tests need real services, run `cargo xtask test`")
    })
}

/// A folder for a test, empty.
pub(crate) fn folder(test: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A Kafka of one's own, to be broken.
pub(crate) fn own_kafka(test: &str, brokers: Brokers) -> Result<Kafka> {
    let jars = Cache::of_user()?.kafka_jars()?;
    let config = KafkaConfig { brokers, ..KafkaConfig::new(jars, folder(&format!("{test}-kafka"))?) };
    Ok(Kafka::start(&config)?)
}

/// A ClickHouse of one's own, to be broken.
pub(crate) fn own_clickhouse(test: &str) -> Result<ClickHouse> {
    let launcher = PathBuf::from(from_environment("FLEETPULSE_TEST_BIN")?).with_file_name("chserver");
    let engine = Engine::find(launcher, &Cache::of_user()?)?;
    Ok(ClickHouse::start(&ClickHouseConfig::new(engine, folder(&format!("{test}-clickhouse"))?))?)
}

/// Waits until `condition` gives something, looking again and again; the last error is told when time is up.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let last = match condition() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => anyhow!("it was not so"),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(last.context(format!("waited {DEADLINE:?} for: {what}")));
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
