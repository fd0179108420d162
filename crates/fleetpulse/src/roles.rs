//! The roles of a process: started together, stopped in order.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use ops::Health;
use ops::server::Operations;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::settings::{Section, Settings};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    Writer,
}

/// The settings that roles need.
pub(crate) fn sections(roles: &[Role]) -> Vec<Section> {
    let mut sections = vec![Section::Log, Section::Kafka];
    for role in roles {
        match role {
            Role::Gateway => sections.extend([
                Section::Gateway,
                Section::Listen,
                Section::Access,
                Section::Broker,
                Section::Commands,
            ]),
            Role::Writer => sections.extend([Section::Clickhouse, Section::Writer, Section::Registry]),
        }
    }
    sections
}

/// Runs roles until SIGTERM or Ctrl-C. The gateway stops first, so that a writer beside it can still store what it took.
pub(crate) fn run(settings: Settings, roles: &[Role]) -> anyhow::Result<ExitCode> {
    settings.validate(&sections(roles))?;
    ops::log::install(&settings.log);
    let metrics = ops::metrics::install()?;
    let both = roles.len() > 1;
    let gather = if roles.contains(&Role::Gateway) { settings.gateway.gather_us } else { 0 };
    gathering_runtime(Duration::from_micros(gather.into()))?.block_on(async move {
        if both {
            migrate_now(&settings).await?;
        }
        let stop = stop_on_signal()?;
        let (stop_gateway, stop_writer) = (stop.child_token(), CancellationToken::new());
        let stop_operations = CancellationToken::new();
        let operations = TaskTracker::new();

        let gateway = async {
            if !roles.contains(&Role::Gateway) {
                // Alone, the writer stops when it is asked to.
                stop_gateway.cancelled().await;
                return Ok(());
            }
            let health = Health::default();
            let port =
                Operations::bind(settings.gateway.operations_listen, "gateway.operations_listen").await?;
            let endpoint = gateway::downlink::Endpoint::new(&settings.commands)?;
            let port = port.with_routes(endpoint.routes());
            operations.spawn(port.serve(metrics.clone(), health.clone(), stop_operations.clone()));
            let mut access = settings.access.clone();
            if access.certificate_crl_file.is_empty() {
                access.certificate_crl_file.clone_from(&settings.listen.tls_client_crl_file);
            }
            let setup = gateway::Setup {
                config: settings.gateway.clone(),
                listen: settings.listen.clone(),
                broker: settings.broker.clone(),
                commands: settings.commands.clone(),
                access: tokio::task::spawn_blocking(|| access::Access::open(access)).await??,
                endpoint,
            };
            let ended = gateway::run(setup, &settings.kafka, &health, stop_gateway.clone());
            ended.await?;
            anyhow::Ok(())
        };
        let gateway = async {
            let ended = gateway.await;
            stop_writer.cancel();
            ended
        };
        let writer = async {
            if !roles.contains(&Role::Writer) {
                return Ok(());
            }
            let health = Health::default();
            let port =
                Operations::bind(settings.writer.operations_listen, "writer.operations_listen").await?;
            let people = store::Store::new(&settings.clickhouse)?;
            let people = registry::Endpoint::new(settings.registry.clone(), people)?;
            let port = port.with_routes(people.routes());
            operations.spawn(port.serve(metrics.clone(), health.clone(), stop_operations.clone()));
            let ended = writer::run(
                settings.writer.clone(),
                &settings.kafka,
                &settings.clickhouse,
                &health,
                if both { writer::Leaving::AtTheEnd } else { writer::Leaving::Soon },
                stop_writer.clone(),
            );
            ended.await?;
            anyhow::Ok(())
        };
        let writer = async {
            let ended = writer.await;
            // A role that broke takes the process with it: its supervisor starts both again.
            if roles.contains(&Role::Writer) {
                stop.cancel();
            }
            ended
        };
        let (gateway, writer) = tokio::join!(gateway, writer);
        stop_operations.cancel();
        operations.close();
        operations.wait().await;
        gateway.context("the gateway ended")?;
        writer.context("the writer ended")?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Creates the topics and brings the schema up to date.
pub(crate) fn migrate(settings: &Settings) -> anyhow::Result<ExitCode> {
    settings.validate(&[Section::Log, Section::Kafka, Section::Clickhouse])?;
    ops::log::install(&settings.log);
    runtime()?.block_on(migrate_now(settings))?;
    Ok(ExitCode::SUCCESS)
}

/// Settles usage once.
pub(crate) fn settle(settings: &Settings) -> anyhow::Result<ExitCode> {
    settings.validate(&[Section::Log, Section::Clickhouse])?;
    ops::log::install(&settings.log);
    let store = store::Store::new(&settings.clickhouse)?;
    let runtime = runtime()?;
    let settled = runtime.block_on(async {
        store.check_schema().await?;
        anyhow::Ok(store.settle().await?)
    })?;
    println!(
        "{} devices settled, {} of them from further back, in {:.1} s",
        settled.devices,
        settled.late,
        settled.took.as_secs_f64()
    );
    if settled.refused > 0 {
        println!(
            "{} devices tell too much and are left as they were settled; the log names them",
            settled.refused
        );
    }
    let months = runtime.block_on(store.settle_costs(store::Months::All))?;
    println!("costs of {months} months settled");
    Ok(ExitCode::SUCCESS)
}

async fn migrate_now(settings: &Settings) -> anyhow::Result<()> {
    for (topic, ensured) in bus::topics::ensure(&settings.kafka).await? {
        tracing::info!(topic, ?ensured, "topic");
    }
    let applied = store::Store::new(&settings.clickhouse)?.migrate().await?;
    for migration in &applied {
        tracing::info!(version = migration.version, name = migration.name, "migration applied");
    }
    tracing::info!(
        database = settings.clickhouse.database,
        applied = applied.len(),
        "the schema is up to date"
    );
    Ok(())
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    gathering_runtime(Duration::ZERO)
}

/// A runtime whose threads, once idle, let events gather for so long before they look for more (setting
/// `gateway.gather_us`): as a network card moderates its interrupts.
///
/// The thread still counts as looking for work while it sleeps, so that nobody pays for waking it; what came meanwhile it
/// finds before it parks.
fn gathering_runtime(gather: Duration) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if !gather.is_zero() {
        builder.on_thread_park(move || std::thread::sleep(gather));
    }
    builder.enable_all().build().context("cannot start the runtime")
}

/// A token that SIGTERM or Ctrl-C cancels. The listening task ends with the runtime.
pub(crate) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stop.cancel();
        }
    });
    Ok(stop)
}
