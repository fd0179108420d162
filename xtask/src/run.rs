//! One run of everything: packages, build, stack, pipeline; started and stopped in order.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use devstack::ports::{free_port, require_free};

use crate::build::{Profile, Programs, Workspace};
use crate::pipeline::{Addresses, Pipeline};
use crate::stack::{self, Stack, StackConfig};
use crate::stop::Stop;

/// Folder of the logs of our own processes, in the data folder.
pub(crate) const LOGS: &str = "logs";

/// Where everything listens and keeps its data.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Do not install missing system packages, only name them.
    #[arg(long)]
    pub no_install: bool,
    /// Where the gateway speaks MQTT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883")]
    mqtt: SocketAddr,
    /// Port of Kafka.
    #[arg(long, value_name = "PORT", default_value_t = 9092)]
    kafka_port: u16,
    /// Port of ClickHouse's HTTP interface.
    #[arg(long, value_name = "PORT", default_value_t = 8123)]
    clickhouse_port: u16,
    /// Where the gateway serves metrics and health.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    gateway_metrics: SocketAddr,
    /// Where the writer serves metrics and health.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9465")]
    writer_metrics: SocketAddr,
    /// Folder of all data and logs [default: `data` in the workspace].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Remove the data of earlier runs first. A Kafka or ClickHouse of your own is not touched.
    #[arg(long)]
    fresh: bool,
}

/// Everything that runs. Dropping it kills what it started: gateway, writer, Kafka, ClickHouse.
#[derive(Debug)]
pub(crate) struct Run {
    pub pipeline: Pipeline,
    pub stack: Stack,
    pub programs: Programs,
    /// For logs and reports.
    pub logs: PathBuf,
}

impl Place {
    /// Free ports and this folder.
    pub(crate) fn free(no_install: bool, data: &Path) -> anyhow::Result<Self> {
        let address = || free_port().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Ok(Self {
            no_install,
            mqtt: address()?,
            kafka_port: free_port()?,
            clickhouse_port: free_port()?,
            gateway_metrics: address()?,
            writer_metrics: address()?,
            data: Some(data.into()),
            fresh: false,
        })
    }

    /// Refuses taken ports by name, before anything is started.
    fn require_free(&self) -> anyhow::Result<()> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        require_free("the gateway (MQTT)", self.mqtt, "choose another with --mqtt")?;
        if stack::starts_kafka() {
            let remedy =
                "choose another with --kafka-port, or name a Kafka that runs in FLEETPULSE_KAFKA_BROKERS";
            require_free("Kafka", local(self.kafka_port), remedy)?;
        }
        if stack::starts_clickhouse() {
            let remedy = "choose another with --clickhouse-port, or name a ClickHouse that runs in \
                          FLEETPULSE_CLICKHOUSE_URL";
            require_free("ClickHouse (HTTP)", local(self.clickhouse_port), remedy)?;
        }
        let remedy = "choose another with --gateway-metrics";
        require_free("the gateway's metrics", self.gateway_metrics, remedy)?;
        let remedy = "choose another with --writer-metrics";
        require_free("the writer's metrics", self.writer_metrics, remedy)?;
        Ok(())
    }
}

impl Run {
    /// Starts everything and waits until it is ready. `connections` is how many devices will come.
    pub(crate) fn start(place: &Place, connections: u32, stop: &Stop) -> anyhow::Result<Self> {
        place.require_free()?;
        stack::ensure_packages(stack::install(place.no_install), &[])?;
        let workspace = Workspace::find()?;
        eprintln!("==> building");
        let programs = workspace.build(Profile::Release, stack::needs_chserver(), stop)?;

        let data = place.data.clone().unwrap_or_else(|| workspace.root.join("data"));
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let data = data.canonicalize().with_context(|| format!("cannot find {}", data.display()))?;
        if place.fresh {
            eprintln!("==> removing the data of earlier runs in {}", data.display());
            stack::wipe(&data)?;
        }
        let config = StackConfig {
            kafka_port: place.kafka_port,
            clickhouse_port: place.clickhouse_port,
            chserver: programs.chserver.clone(),
            data: data.clone(),
        };
        let stack = Stack::start(&config, stop)?;
        let addresses = Addresses {
            mqtt: place.mqtt,
            gateway_metrics: place.gateway_metrics,
            writer_metrics: place.writer_metrics,
        };
        let logs = data.join(LOGS);
        let pipeline = Pipeline::start(&programs.fleetpulse, addresses, &stack, connections, &logs, stop)?;
        Ok(Self { pipeline, stack, programs, logs })
    }

    /// An error with the end of its log where one of them has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.pipeline.check()?;
        self.stack.check()
    }

    /// Stops everything in order: gateway, writer, Kafka, ClickHouse.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pipeline = self.pipeline.stop();
        let stack = self.stack.stop();
        eprintln!("    all that was started has stopped");
        pipeline.and(stack)
    }
}
