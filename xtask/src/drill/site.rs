//! The installation of a drill: real Kafka, real ClickHouse, gateways, writers, and a network between them that breaks.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use devstack::fetch::Cache;
use devstack::kafka::Door;
use devstack::ports::free_port;
use devstack::{Brokers, ClickHouse as Server, ClickHouseConfig, Engine, Kafka, KafkaConfig, Process};

use super::disk::Disk;
use super::proxy::{Mode, Proxy};
use super::role::Role;
use super::schedule::{Line, Refusal, Size, Target, What};
use crate::build::Programs;
use crate::clickhouse::ClickHouse;
use crate::stop::Stop;

const MIGRATE_MAX: Duration = Duration::from_secs(120);
/// Until everything is well again after the last fault: sessions of the group, elections, what was held back.
const READY_MAX: Duration = Duration::from_secs(120);
/// Until inserts under way have landed.
const INSERTS_MAX: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
/// `kafka.session_timeout_ms`: the shortest that a broker allows, so that a hung writer loses its partitions.
const SESSION_TIMEOUT_MS: u32 = 6_000;
/// `clickhouse.insert_timeout_ms`: short, so that an answer that never comes is given up within a fault.
const INSERT_TIMEOUT_MS: u32 = 5_000;
/// Inserts that a table remembers in a drill of late recoveries: fewer than writers make while one is away.
pub(crate) const WINDOW: u32 = 5;
/// Parts that a table may have: nothing is merged, so that what stands twice stays visible.
const PARTS_MAX: u32 = 100_000;

/// What the writers' user is given: each row stands, as it was inserted.
fn profile() -> Vec<(String, String)> {
    vec![("optimize_on_insert".to_owned(), "0".to_owned())]
}

/// Everything that runs, but for the fleet. Dropping it kills all.
#[derive(Debug)]
pub(crate) struct Site {
    pub gateways: Vec<Role>,
    pub writers: Vec<Role>,
    pub mqtt: Vec<SocketAddr>,
    pub kafka: Kafka,
    clickhouse: Server,
    disk: Disk,
    gateways_to_brokers: Vec<Proxy>,
    writers_to_brokers: Vec<Proxy>,
    writers_to_clickhouse: Vec<Proxy>,
    tables: Vec<String>,
    targets: Vec<String>,
}

fn local() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

impl Site {
    /// Starts all of it in an empty folder, and waits until it can work.
    pub(crate) fn start(
        programs: &Programs,
        size: Size,
        small_window: bool,
        folder: &Path,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let brokers = if size.brokers == 3 { Brokers::THREE } else { Brokers::ONE };
        let (gateways_to_brokers, gateway_doors) = doors("GATEWAYS", size.brokers)?;
        let (writers_to_brokers, writer_doors) = doors("WRITERS", size.brokers)?;
        let doors = [gateway_doors, writer_doors].concat();
        let cache = Cache::of_user()?;
        eprintln!("==> starting Kafka and ClickHouse, their data in {}", folder.display());
        let kafka =
            Kafka::start(&KafkaConfig { brokers, doors, ..KafkaConfig::new(cache.kafka_jars()?, folder) })?;
        stop.check()?;
        let disk = Disk::mount(&folder.join("clickhouse").join("data"))?;
        let engine = Engine::find(&programs.chserver, &cache)?;
        let clickhouse =
            Server::start(&ClickHouseConfig { profile: profile(), ..ClickHouseConfig::new(engine, folder) })?;
        stop.check()?;
        let mut site = Self {
            gateways: Vec::new(),
            writers: Vec::new(),
            mqtt: Vec::new(),
            kafka,
            disk,
            gateways_to_brokers,
            writers_to_brokers,
            writers_to_clickhouse: Vec::new(),
            clickhouse,
            tables: Vec::new(),
            targets: Vec::new(),
        };
        let logs = folder.join("logs");
        migrate(programs, &site, size, &logs)?;
        site.prepare(small_window)?;
        for index in 0..size.gateways {
            site.add_gateway(index, programs, &logs)?;
        }
        // One more, which comes and goes.
        for index in 0..=size.writers {
            site.add_writer(index, programs, &logs)?;
        }
        for role in site.gateways.iter_mut().chain(site.writers.iter_mut().take(size.writers)) {
            role.start()?;
        }
        let wrong = site.wait_ready(stop)?;
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(site)
    }

    fn add_gateway(&mut self, index: usize, programs: &Programs, logs: &Path) -> anyhow::Result<()> {
        let (name, mqtt, operations) = (Target::Gateway(index).to_string(), local()?, local()?);
        let settings = [
            format!("kafka.brokers={}", addresses(&self.gateways_to_brokers)),
            format!("gateway.node_id={name}"),
            format!("gateway.mqtt_listen={mqtt}"),
            "access.chain=anonymous".to_owned(),
        ];
        self.gateways.push(Role::new(&name, "gateway", &programs.fleetpulse, &settings, operations, logs));
        self.mqtt.push(mqtt);
        Ok(())
    }

    fn add_writer(&mut self, index: usize, programs: &Programs, logs: &Path) -> anyhow::Result<()> {
        let name = Target::Writer(index).to_string();
        let proxy = Proxy::to(self.address()?)?;
        let mut settings = vec![
            format!("kafka.brokers={}", addresses(&self.writers_to_brokers)),
            format!("kafka.session_timeout_ms={SESSION_TIMEOUT_MS}"),
            format!("clickhouse.url=http://{}", proxy.address()),
            "clickhouse.user=writer".to_owned(),
            format!("clickhouse.insert_timeout_ms={INSERT_TIMEOUT_MS}"),
            // So that faults fall into its runs.
            "writer.settle_every_s=5".to_owned(),
        ];
        // Both kinds of members: one that takes its partitions back, and ones that come as strangers.
        if index == 0 {
            settings.push(format!("writer.instance_id={name}"));
        }
        self.writers_to_clickhouse.push(proxy);
        self.writers.push(Role::new(&name, "writer", &programs.fleetpulse, &settings, local()?, logs));
        Ok(())
    }

    /// ClickHouse, past the network that breaks.
    pub(crate) fn url(&self) -> String {
        self.clickhouse.url()
    }

    fn address(&self) -> anyhow::Result<SocketAddr> {
        let url = self.clickhouse.url();
        let address = url.strip_prefix("http://").context("the URL of ClickHouse is not plain HTTP")?;
        Ok(address.parse()?)
    }

    /// Asks ClickHouse, past the network that breaks, as a user to whom nothing is forbidden.
    pub(crate) fn ask(&self) -> ClickHouse {
        ClickHouse::at(self.clickhouse.url())
    }

    /// The same within its database: a view with a parameter that reads another such view finds it nowhere else.
    pub(crate) fn ask_within(&self) -> ClickHouse {
        ClickHouse::at(format!("{}/?database=fleetpulse", self.clickhouse.url()))
    }

    /// Tables of the writer: those that say which record a row came from.
    pub(crate) fn tables(&self) -> &[String] {
        &self.tables
    }

    fn prepare(&mut self, small_window: bool) -> anyhow::Result<()> {
        let ask = self.ask();
        self.tables = ask.column(
            "SELECT DISTINCT table FROM system.columns WHERE database = 'fleetpulse' AND name = 'kafka_offset' \
             AND table IN (SELECT name FROM system.tables WHERE database = 'fleetpulse' AND engine LIKE '%MergeTree')",
        )?;
        self.targets = ask.column(
            "SELECT name FROM system.tables WHERE database = 'fleetpulse' AND engine LIKE '%MergeTree' AND name IN \
             (SELECT extract(create_table_query, ' TO fleetpulse\\\\.`?(\\\\w+)') FROM system.tables \
             WHERE database = 'fleetpulse' AND engine = 'MaterializedView')",
        )?;
        for table in &self.tables {
            ask.run(&format!(
                "ALTER TABLE fleetpulse.{table} MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, \
                 max_bytes_to_merge_at_min_space_in_pool = 1, parts_to_delay_insert = {PARTS_MAX}, \
                 parts_to_throw_insert = {PARTS_MAX}"
            ))?;
        }
        if small_window {
            for table in self.tables.iter().chain(&self.targets) {
                ask.run(&format!(
                    "ALTER TABLE fleetpulse.{table} MODIFY SETTING non_replicated_deduplication_window = {WINDOW}"
                ))?;
            }
        }
        Ok(())
    }

    /// Waits until every gateway and writer that is to run says that it can work; tells what should not have happened
    /// meanwhile.
    pub(crate) fn wait_ready(&mut self, stop: &Stop) -> anyhow::Result<Vec<String>> {
        let end = Instant::now() + READY_MAX;
        let mut wrong = Vec::new();
        loop {
            // What leaves only to come back is started again here.
            wrong.extend(self.look()?);
            let waits =
                self.roles().find_map(|role| role.ready().err().map(|error| (role.name().to_owned(), error)));
            let Some((name, error)) = waits else {
                return Ok(wrong);
            };
            if Instant::now() >= end {
                return Err(error.context(format!("{name} was not ready within {READY_MAX:?}")));
            }
            stop.check()?;
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn roles(&mut self) -> impl Iterator<Item = &mut Role> {
        self.gateways.iter_mut().chain(&mut self.writers)
    }

    fn role(&mut self, target: Target) -> anyhow::Result<&mut Role> {
        let role = match target {
            Target::Gateway(index) => self.gateways.get_mut(index),
            Target::Writer(index) => self.writers.get_mut(index),
            Target::Broker(_) | Target::ClickHouse => None,
        };
        role.with_context(|| format!("there is no {target}"))
    }

    /// What should not have happened since the last look.
    pub(crate) fn look(&mut self) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for role in self.roles() {
            wrong.extend(role.look()?);
        }
        Ok(wrong)
    }

    /// Brokers and ClickHouse that ended by themselves since the last look; they are started again.
    pub(crate) fn look_at_services(&mut self) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for broker in self.kafka.brokers_mut() {
            if let Ok(process) = broker.process()
                && let Err(error) = crate::stack::alive(process)
            {
                wrong.push(format!("{error:#}"));
                broker.launch()?;
            }
        }
        if let Ok(process) = self.clickhouse.process()
            && let Err(error) = crate::stack::alive(process)
        {
            wrong.push(format!("{error:#}"));
            self.clickhouse.start_again()?;
        }
        Ok(wrong)
    }

    /// Lets a fault begin.
    pub(crate) fn begin(&mut self, what: What) -> anyhow::Result<()> {
        match what {
            What::Kill(Target::Broker(index)) => self.kafka.brokers_mut()[index].kill()?,
            What::Kill(Target::ClickHouse) => self.clickhouse.kill()?,
            What::Kill(target) => self.role(target)?.kill()?,
            What::Hang(Target::Broker(index)) => self.kafka.brokers_mut()[index].hang()?,
            What::Hang(Target::ClickHouse) => self.clickhouse.hang()?,
            What::Hang(target) => self.role(target)?.hang()?,
            What::KillUnanswered(_) => self.answers_to_gateways(Mode::HoldAnswers),
            What::Comes(writer) => self.role(Target::Writer(writer))?.start()?,
            What::Leaves(writer) => self.role(Target::Writer(writer))?.leave()?,
            What::Refuses(refusal) => self.refuse(refusal)?,
            What::Network(line, mode) => self.line(line)?.set(mode),
            What::Clock { .. } => {}
        }
        Ok(())
    }

    /// Puts right what the fault broke.
    pub(crate) fn end(&mut self, what: What) -> anyhow::Result<()> {
        match what {
            What::Kill(Target::Broker(index)) => self.kafka.brokers_mut()[index].launch()?,
            What::Kill(Target::ClickHouse) => self.clickhouse.start_again()?,
            What::Kill(target) => self.role(target)?.start()?,
            What::Hang(Target::Broker(index)) => self.kafka.brokers_mut()[index].resume()?,
            What::Hang(Target::ClickHouse) => self.clickhouse.resume()?,
            What::Hang(target) => self.role(target)?.resume()?,
            What::KillUnanswered(gateway) => {
                let role = self.role(Target::Gateway(gateway))?;
                role.kill()?;
                role.start()?;
                self.answers_to_gateways(Mode::Pass);
            }
            What::Comes(writer) => self.role(Target::Writer(writer))?.leave()?,
            What::Leaves(writer) => self.role(Target::Writer(writer))?.start()?,
            What::Refuses(refusal) => self.accept(refusal)?,
            What::Network(line, _) => self.line(line)?.set(Mode::Pass),
            What::Clock { .. } => {}
        }
        Ok(())
    }

    /// Lets all writers stand still, with no insert of theirs under way, or go on.
    pub(crate) fn freeze(&mut self, is: bool) -> anyhow::Result<()> {
        for writer in self.writers.iter_mut().filter(|writer| writer.runs()) {
            if is { writer.hang()? } else { writer.resume()? }
        }
        let end = Instant::now() + INSERTS_MAX;
        // One that was sent by half stays, and lands later or never.
        while is
            && self.ask().number("SELECT count() FROM system.processes WHERE query_kind = 'Insert'")? > 0
            && Instant::now() < end
        {
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn answers_to_gateways(&self, mode: Mode) {
        self.gateways_to_brokers.iter().for_each(|proxy| proxy.set(mode));
    }

    fn line(&self, line: Line) -> anyhow::Result<&Proxy> {
        let proxy = match line {
            Line::ClickHouse(writer) => self.writers_to_clickhouse.get(writer),
            Line::GatewaysToBroker(broker) => self.gateways_to_brokers.get(broker),
            Line::WritersToBroker(broker) => self.writers_to_brokers.get(broker),
        };
        proxy.with_context(|| format!("there is no {line}"))
    }

    fn refuse(&mut self, refusal: Refusal) -> anyhow::Result<()> {
        match refusal {
            Refusal::ReadOnlyUser => self.give(&[("readonly", "1")]),
            Refusal::ReadOnlyTable => self.read_only(true),
            Refusal::NoMemory => self.give(&[("max_memory_usage", "1"), ("max_untracked_memory", "1")]),
            Refusal::TooManyParts => self.parts_max(&self.tables, 1),
            Refusal::TooManyPartsInViews => self.parts_max(&self.targets, 1),
            Refusal::DiskFull => self.disk.fill(&self.ask(), &self.tables),
        }
    }

    fn accept(&mut self, refusal: Refusal) -> anyhow::Result<()> {
        match refusal {
            Refusal::ReadOnlyUser | Refusal::NoMemory => self.give(&[]),
            Refusal::ReadOnlyTable => self.read_only(false),
            Refusal::TooManyParts => self.parts_max(&self.tables, PARTS_MAX),
            Refusal::TooManyPartsInViews => self.parts_max(&self.targets, PARTS_MAX),
            Refusal::DiskFull => self.disk.free(&self.ask(), &self.tables),
        }
    }

    /// Starts ClickHouse anew with these settings of the writers' user on top of its own.
    fn give(&mut self, more: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut settings = profile();
        settings.extend(more.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        self.clickhouse.kill()?;
        self.clickhouse.set_profile(settings);
        Ok(self.clickhouse.start_again()?)
    }

    /// A target of a view, so that an insert lands by halves.
    fn read_only(&self, is: bool) -> anyhow::Result<()> {
        let value = u8::from(is);
        self.ask()
            .run(&format!("ALTER TABLE fleetpulse.device_newest MODIFY SETTING table_readonly = {value}"))
    }

    fn parts_max(&self, tables: &[String], most: u32) -> anyhow::Result<()> {
        tables.iter().try_for_each(|table| {
            self.ask()
                .run(&format!("ALTER TABLE fleetpulse.{table} MODIFY SETTING parts_to_throw_insert = {most}"))
        })
    }

    /// Memory of ClickHouse, bytes.
    pub(crate) fn clickhouse_process(&mut self) -> Option<&mut Process> {
        self.clickhouse.process().ok()
    }

    pub(crate) fn logs(&mut self) -> Vec<PathBuf> {
        let mut logs: Vec<PathBuf> = self.roles().map(|role| role.log().to_owned()).collect();
        logs.retain(|log| log.exists());
        logs
    }

    /// What fills the disk.
    pub(crate) fn disk(&self) -> &'static str {
        self.disk.kind()
    }
}

/// A proxy before each broker, and the door that leads through it.
fn doors(name: &str, brokers: usize) -> anyhow::Result<(Vec<Proxy>, Vec<Door>)> {
    let mut proxies = Vec::new();
    let mut doors = Vec::new();
    for broker in 1..=brokers {
        let listen = local()?;
        let proxy = Proxy::to(listen)?;
        doors.push(Door { broker, name: name.to_owned(), listen, advertised: proxy.address() });
        proxies.push(proxy);
    }
    Ok((proxies, doors))
}

fn addresses(proxies: &[Proxy]) -> String {
    proxies.iter().map(|proxy| proxy.address().to_string()).collect::<Vec<_>>().join(",")
}

fn migrate(programs: &Programs, site: &Site, size: Size, logs: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(&programs.fleetpulse);
    for setting in [
        format!("kafka.brokers={}", site.kafka.bootstrap()),
        format!("kafka.replication_factor={}", size.brokers),
        format!("clickhouse.url={}", site.clickhouse.url()),
    ] {
        command.args(["--set", &setting]);
    }
    command.arg("migrate");
    let mut process = Process::spawn("migrate", &mut command, &logs.join("migrate.log"))?;
    match process.wait_exit(MIGRATE_MAX)? {
        Some(status) if status.success() => Ok(()),
        status => bail!("`fleetpulse migrate`: {status:?}:\n{}", process.log_tail(20)),
    }
}
