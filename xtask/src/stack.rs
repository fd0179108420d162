//! Kafka and ClickHouse: ours, or those that the environment names.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use devstack::fetch::Cache;
use devstack::packages::{self, Install, Package};
use devstack::{
    Brokers, ClickHouseConfig, ClickHouseService, Engine, KafkaConfig, KafkaService, Process, StackError,
    clickhouse, kafka,
};

use crate::stop::Stop;

/// Lines of a log that stand in an error.
const TAIL_LINES: usize = 20;

/// Where the stack stands; port 0 picks a free one.
#[derive(Debug)]
pub(crate) struct StackConfig {
    pub kafka_port: u16,
    pub clickhouse_port: u16,
    pub data: PathBuf,
    pub chserver: PathBuf,
}

/// Both services. Dropping it kills what it started.
#[derive(Debug)]
pub(crate) struct Stack {
    pub kafka: KafkaService,
    pub clickhouse: ClickHouseService,
}

impl Stack {
    /// Starts both and waits until they answer.
    pub(crate) fn start(config: &StackConfig, stop: &Stop) -> anyhow::Result<Self> {
        let kafka = KafkaService::start(|| -> Result<_, StackError> {
            let jars = Cache::of_user()?.kafka_jars()?;
            eprintln!("==> starting Kafka, its data in {}", config.data.display());
            let brokers = Brokers::One { port: config.kafka_port };
            Ok(KafkaConfig { brokers, ..KafkaConfig::new(jars, &config.data) })
        })
        .context("Kafka did not start")?;
        eprintln!("    Kafka is at {}", kafka.bootstrap());
        stop.check()?;
        let clickhouse = ClickHouseService::start(|| -> Result<_, StackError> {
            let engine = Engine::find(&config.chserver, &Cache::of_user()?)?;
            eprintln!("==> starting ClickHouse, its data in {}", config.data.display());
            Ok(ClickHouseConfig {
                http_port: config.clickhouse_port,
                ..ClickHouseConfig::new(engine, &config.data)
            })
        })
        .context("ClickHouse did not start")?;
        eprintln!("    ClickHouse is at {}", clickhouse.url());
        stop.check()?;
        Ok(Self { kafka, clickhouse })
    }

    /// Stops in order what was started here.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let mut first_error = Ok(());
        if let Some(kafka) = self.kafka.own() {
            eprintln!("==> stopping Kafka");
            first_error = kafka.stop();
        }
        if let Some(clickhouse) = self.clickhouse.own() {
            eprintln!("==> stopping ClickHouse");
            first_error = first_error.and(clickhouse.stop());
        }
        first_error.context("the stack did not stop in order")
    }

    /// An error with the end of the log where one that was started here has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(kafka) = self.kafka.own() {
            for broker in kafka.brokers_mut() {
                alive(broker.process()?)?;
            }
        }
        if let Some(clickhouse) = self.clickhouse.own() {
            alive(clickhouse.process()?)?;
        }
        Ok(())
    }
}

/// An error with the end of its log where a process has ended.
pub(crate) fn alive(process: &mut Process) -> anyhow::Result<()> {
    let Some(status) = process.exit_status()? else {
        return Ok(());
    };
    bail!(
        "{} ended by itself ({status}); the end of {}:\n{}",
        process.name(),
        process.log().display(),
        process.log_tail(TAIL_LINES)
    )
}

/// Whether we start a Kafka of our own.
pub(crate) fn starts_kafka() -> bool {
    !is_set(kafka::BROKERS_VARIABLE)
}

/// Whether we start a ClickHouse of our own.
pub(crate) fn starts_clickhouse() -> bool {
    !is_set(clickhouse::URL_VARIABLE)
}

/// Whether that ClickHouse takes our launcher.
pub(crate) fn needs_chserver() -> bool {
    starts_clickhouse() && !Engine::is_installed()
}

fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| !value.trim().is_empty())
}

/// Sees to it that the system packages are there: those that builds take, and those of the services that we start.
pub(crate) fn ensure_packages(install: Install, more: &[Package]) -> anyhow::Result<()> {
    let mut wanted = packages::BUILD.to_vec();
    if starts_kafka() {
        wanted.extend_from_slice(packages::KAFKA);
    }
    if needs_chserver() {
        wanted.extend_from_slice(packages::CLICKHOUSE);
    }
    wanted.extend_from_slice(more);
    packages::ensure(&wanted, install)?;
    Ok(())
}

/// What `--no-install` means.
pub(crate) fn install(no_install: bool) -> Install {
    if no_install { Install::Forbidden } else { Install::Allowed }
}

/// Removes what earlier runs left in a data folder, and nothing else that may stand there.
pub(crate) fn wipe(data: &Path) -> anyhow::Result<()> {
    for name in ["kafka-1", "kafka-3", "clickhouse", crate::run::LOGS] {
        let folder = data.join(name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A folder that is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub(crate) fn make(purpose: &str) -> anyhow::Result<Self> {
        let name = format!("fleetpulse-{purpose}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // There is nobody left to tell, and the system clears the place by itself.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
