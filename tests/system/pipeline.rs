//! Gateways and writers under test, as processes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use devstack::{Process, ports};

use crate::mqtt_client::Client;
use crate::services::{DEADLINE, Services, eventually, folder, from_environment};

/// One gateway and one writer over topics and a database of their own.
pub(crate) struct Pipeline {
    pub services: Services,
    pub database: String,
    pub mqtt: SocketAddr,
    pub gateway: Process,
    pub writer: Process,
    name: String,
    folder: PathBuf,
    settings: Vec<String>,
    pub gateway_operations: SocketAddr,
    pub writer_operations: SocketAddr,
}

impl Pipeline {
    /// Starts a pipeline named after its test, on the shared services.
    pub(crate) fn start(test: &str) -> Result<Self> {
        Self::start_on(test, Services::shared()?, &[])
    }

    /// Starts a pipeline with settings of its own on top of those that keep tests apart.
    pub(crate) fn start_on(test: &str, services: Services, extra: &[&str]) -> Result<Self> {
        let folder = folder(test)?;
        let database = format!("test_{test}");
        services.ask("system", &format!("DROP DATABASE IF EXISTS {database}"))?;
        let unique = std::process::id();
        let [mqtt, gateway_operations, writer_operations] = [local()?, local()?, local()?];
        let mut settings = vec![
            format!("kafka.brokers={}", services.kafka),
            format!("kafka.events_topic=test.{test}.{unique}.events"),
            format!("kafka.dead_letters_topic=test.{test}.{unique}.dead-letters"),
            format!("kafka.commands_topic=test.{test}.{unique}.commands"),
            "kafka.partitions=2".to_owned(),
            "kafka.session_timeout_ms=6000".to_owned(),
            format!("clickhouse.url={}", services.clickhouse),
            format!("clickhouse.database={database}"),
            format!("gateway.mqtt_listen={mqtt}"),
            format!("gateway.operations_listen={gateway_operations}"),
            "access.chain=anonymous".to_owned(),
            "gateway.connections_max=1000".to_owned(),
            format!("writer.operations_listen={writer_operations}"),
            format!("writer.group=test-{test}-{unique}"),
            "writer.batch_age_ms=200".to_owned(),
        ];
        settings.extend(extra.iter().map(|&setting| setting.to_owned()));
        let migrated = command("migrate", &settings)?.output().context("cannot run fleetpulse migrate")?;
        ensure!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        let gateway = spawn("gateway", &settings, &folder)?;
        let writer = spawn("writer", &settings, &folder)?;
        let mut pipeline = Self {
            services,
            database,
            mqtt,
            gateway,
            writer,
            name: test.to_owned(),
            folder,
            settings,
            gateway_operations,
            writer_operations,
        };
        pipeline.stop_merges()?;
        pipeline.await_gateway()?;
        pipeline.await_writer()?;
        Ok(pipeline)
    }

    /// Keeps every row that was inserted, so that one that was inserted twice is seen twice. ClickHouse forgets this when it is
    /// started again.
    pub(crate) fn stop_merges(&self) -> Result<()> {
        self.ask("SYSTEM STOP MERGES heartbeats").map(drop)
    }

    /// Every table that keeps deduplication tokens remembers this many from now on.
    pub(crate) fn remember_tokens(&self, window: u32) -> Result<()> {
        let tables = "SELECT name FROM system.tables WHERE database = currentDatabase() \
                      AND engine_full LIKE '%non_replicated_deduplication_window%'";
        for table in self.ask(tables)?.lines() {
            self.ask(&format!(
                "ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {window}"
            ))?;
        }
        Ok(())
    }

    /// Settles usage now.
    pub(crate) fn settle(&self) -> Result<()> {
        let settled = command("settle", &self.settings)?.output().context("cannot run fleetpulse settle")?;
        ensure!(settled.status.success(), "settle: {}", String::from_utf8_lossy(&settled.stderr));
        Ok(())
    }

    /// Waits until every rollup is what the rows that stand make of it. A gateway that lives tells of itself while they are made anew,
    /// so they are looked at again.
    pub(crate) fn rollups_are_true(&self) -> Result<()> {
        eventually("rollups as their rows", || {
            let untrue = self.untrue_rollups()?;
            ensure!(untrue.is_empty(), "{untrue:?}");
            Ok(Some(()))
        })?;
        self.usage_is_true()
    }

    /// Settles usage, and then all of it anew as if nothing had been settled: it is the same.
    fn usage_is_true(&self) -> Result<()> {
        self.settle()?;
        for table in ["device_hours", "device_days"] {
            self.ask(&format!("DROP TABLE IF EXISTS settled_{table}"))?;
            self.ask(&format!(
                "CREATE TABLE settled_{table} ENGINE = MergeTree ORDER BY device_id AS SELECT * FROM {table}"
            ))?;
        }
        for table in ["usage_hours", "usage_days", "usage_months", "usage_day_hours", "settle_runs"] {
            self.ask(&format!("TRUNCATE TABLE {table}"))?;
        }
        self.settle()?;
        for table in ["device_hours", "device_days"] {
            let differing = self.ask(&format!(
                "SELECT count() FROM ((SELECT * FROM settled_{table} EXCEPT SELECT * FROM {table}) \
                 UNION ALL (SELECT * FROM {table} EXCEPT SELECT * FROM settled_{table}))"
            ))?;
            ensure!(differing == "0", "{table}: {differing} rows differ from those of a settling anew");
        }
        Ok(())
    }

    /// Makes every rollup anew from the rows that stand, and compares: what differs, by table.
    fn untrue_rollups(&self) -> Result<Vec<String>> {
        let views = self.ask(
            "SELECT t.name, extract(t.create_table_query, ' TO [^.]+\\.(\\w+)'), t.as_select, arrayStringConcat(arrayMap(c -> c.2, arraySort(groupArray((c.position, c.name)))), ', ') \
             FROM system.tables AS t INNER JOIN system.columns AS c ON c.database = t.database AND c.table = t.name \
             WHERE t.database = currentDatabase() AND t.engine = 'MaterializedView' GROUP BY ALL FORMAT TSVRaw",
        )?;
        let mut targets = BTreeSet::new();
        for view in views.lines() {
            let columns: Vec<&str> = view.split('\t').collect();
            let [_, target, query, names] = columns[..] else { bail!("four columns, not {view:?}") };
            let again = format!("recomputed_{target}");
            if targets.insert(target.to_owned()) {
                self.ask(&format!("DROP TABLE IF EXISTS {again}"))?;
                self.ask(&format!("CREATE TABLE {again} AS {target}"))?;
            }
            self.ask(&format!("INSERT INTO {again} ({names}) {query}"))?;
        }
        ensure!(!targets.is_empty(), "there are rollups");
        let mut untrue = Vec::new();
        for target in targets {
            let differing = |left: &str, right: &str| {
                self.ask(&format!(
                    "SELECT count() FROM (SELECT * FROM {left} FINAL EXCEPT SELECT * FROM {right} FINAL)"
                ))
            };
            let again = format!("recomputed_{target}");
            let key = self.ask(&format!(
                "SELECT sorting_key FROM system.tables WHERE database = currentDatabase() AND name = '{target}' \
                 AND engine_full LIKE '%ReplacingMergeTree(version)%'"
            ))?;
            if !key.is_empty() {
                // It has heard copies that do not stand in their table any more, and may know something newer.
                let older = self.ask(&format!(
                    "SELECT count() FROM {again} AS a FINAL LEFT ANY JOIN (SELECT * FROM {target} FINAL) AS t USING ({key}) \
                     WHERE t.version < a.version"
                ))?;
                if older != "0" {
                    untrue.push(format!("{target}: {older} rows are missing or older"));
                }
                continue;
            }
            let (more, less) = (differing(&target, &again)?, differing(&again, &target)?);
            if (more.as_str(), less.as_str()) != ("0", "0") {
                untrue.push(format!("{target}: {more} rows that are not so, {less} that are missing"));
            }
        }
        Ok(untrue)
    }

    /// Starts the writer again, after it was stopped or killed, and waits until it has partitions.
    pub(crate) fn start_writer(&mut self) -> Result<()> {
        self.writer = spawn("writer", &self.settings, &self.folder)?;
        self.await_writer()
    }

    /// Starts another writer of the same group, beside the first.
    pub(crate) fn second_writer(&self) -> Result<Process> {
        let operations = local()?;
        let mut settings = self.settings.clone();
        settings.push(format!("writer.operations_listen={operations}"));
        let log = self.folder.join("second-writer.log");
        let mut writer = Process::spawn("second writer", &mut command("writer", &settings)?, &log)?;
        await_ready(&mut writer, operations)?;
        Ok(writer)
    }

    /// Starts another gateway beside the first, over the same topics.
    pub(crate) fn further_gateway(&self, node_id: &str) -> Result<Node> {
        let [mqtt, operations] = [local()?, local()?];
        let mut settings = self.settings.clone();
        settings.extend([
            format!("gateway.node_id={node_id}"),
            format!("gateway.mqtt_listen={mqtt}"),
            format!("gateway.operations_listen={operations}"),
        ]);
        let log = self.folder.join(format!("{node_id}.log"));
        let process = Process::spawn(node_id, &mut command("gateway", &settings)?, &log)?;
        let mut node = Node { process, mqtt, operations, settings };
        await_ready(&mut node.process, operations)?;
        Ok(node)
    }

    /// Starts the gateway again, after it was stopped or killed.
    pub(crate) fn start_gateway(&mut self) -> Result<()> {
        self.gateway = spawn("gateway", &self.settings, &self.folder)?;
        self.await_gateway()
    }

    /// Ends both processes and starts one that does the work of both; it stands in the gateway's place.
    pub(crate) fn become_one_process(&mut self) -> Result<()> {
        self.gateway.terminate(DEADLINE)?;
        self.writer.terminate(DEADLINE)?;
        self.gateway = spawn("all", &self.settings, &self.folder)?;
        self.await_gateway()?;
        await_ready(&mut self.gateway, self.writer_operations)
    }

    fn await_gateway(&mut self) -> Result<()> {
        await_ready(&mut self.gateway, self.gateway_operations)
    }

    fn await_writer(&mut self) -> Result<()> {
        await_ready(&mut self.writer, self.writer_operations)
    }

    /// Asks ClickHouse about this pipeline's database.
    pub(crate) fn ask(&self, question: &str) -> Result<String> {
        self.services.ask(&self.database, question)
    }

    /// Waits until a question has an answer.
    pub(crate) fn eventually(&self, question: &str, answer: &str) -> Result<()> {
        let what = format!("{question} -> {answer:?}");
        eventually(&what, || {
            let found = self.ask(question)?;
            if found == answer { Ok(Some(())) } else { Err(anyhow!("clickhouse said {found:?}")) }
        })
    }

    /// Connects a client in MQTT 3.1.1 (4) or 5.
    pub(crate) fn connect(&self, device_id: &str, protocol_level: u8) -> Result<Client> {
        Client::connect(self.mqtt, device_id, protocol_level)
    }

    /// The settings of all its processes.
    pub(crate) fn settings(&self) -> &[String] {
        &self.settings
    }

    /// A counter or gauge of the gateway, all its labels together.
    pub(crate) fn gateway_metric(&self, name: &str) -> Result<f64> {
        metric(self.gateway_operations, name)
    }

    /// A counter or gauge of the writer, all its labels together.
    pub(crate) fn writer_metric(&self, name: &str) -> Result<f64> {
        metric(self.writer_operations, name)
    }

    /// The consumer group of this pipeline's writers.
    pub(crate) fn group(&self) -> String {
        format!("test-{}-{}", self.name, std::process::id())
    }

    /// Whether the gateway says that it is ready.
    pub(crate) fn gateway_is_ready(&self) -> Result<bool> {
        is_ready(self.gateway_operations)
    }

    /// The name of this pipeline's events topic.
    pub(crate) fn events_topic(&self) -> String {
        format!("test.{}.{}.events", self.name, std::process::id())
    }

    /// Ends both processes in order; each has to end well.
    pub(crate) fn stop(mut self) -> Result<()> {
        for process in [&mut self.gateway, &mut self.writer] {
            let status = process.terminate(DEADLINE)?;
            ensure!(status.success(), "{} ended with {status}: {}", process.name(), process.log_tail(20));
        }
        Ok(())
    }
}

/// A further gateway.
pub(crate) struct Node {
    pub process: Process,
    pub mqtt: SocketAddr,
    pub operations: SocketAddr,
    settings: Vec<String>,
}

impl Node {
    /// Starts it again, after it was stopped or killed.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        let (name, log) = (self.process.name().to_owned(), self.process.log().to_owned());
        self.process = Process::spawn(&name, &mut command("gateway", &self.settings)?, &log)?;
        await_ready(&mut self.process, self.operations)
    }
}

/// A pipeline where everybody may do everything but publish as another.
pub(crate) fn open_to_all(test: &str) -> Result<Pipeline> {
    open_to_all_with(test, &[])
}

/// The same, with further settings.
pub(crate) fn open_to_all_with(test: &str, extra: &[&str]) -> Result<Pipeline> {
    let rules = std::env::temp_dir().join(format!("fleetpulse-{test}-{}.toml", std::process::id()));
    std::fs::write(
        &rules,
        "[[rule]]\neffect = \"allow\"\nwho = \"everybody\"\naction = \"all\"\ntopic = \"#\"\n",
    )?;
    let setting = format!("access.acl_file={}", rules.display());
    let settings = [&[setting.as_str()], extra].concat();
    let started = Pipeline::start_on(test, Services::shared()?, &settings);
    std::fs::remove_file(rules)?;
    started
}

/// A `fleetpulse` command with settings as flags.
pub(crate) fn command(role: &str, settings: &[String]) -> Result<Command> {
    let mut command = Command::new(from_environment("FLEETPULSE_TEST_BIN")?);
    command.arg(role);
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    // What is set for the tests themselves is not for the processes under test.
    command.env_remove("FLEETPULSE_KAFKA_BROKERS").env_remove("FLEETPULSE_CLICKHOUSE_URL");
    Ok(command)
}

fn spawn(role: &str, settings: &[String], folder: &std::path::Path) -> Result<Process> {
    let log = folder.join(format!("{role}.log"));
    Ok(Process::spawn(role, &mut command(role, settings)?, &log)?)
}

fn await_ready(process: &mut Process, operations: SocketAddr) -> Result<()> {
    let ready = eventually("ready", || {
        ensure!(process.is_running(), "it ended");
        Ok(is_ready(operations)?.then_some(()))
    });
    ready.with_context(|| format!("{}: {}", process.name(), process.log_tail(20)))
}

fn metric(operations: SocketAddr, name: &str) -> Result<f64> {
    let text = ureq::get(&format!("http://{operations}/metrics")).call()?.body_mut().read_to_string()?;
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().context("a number")).sum()
}

fn is_ready(operations: SocketAddr) -> Result<bool> {
    let request = ureq::get(&format!("http://{operations}/readyz"));
    let answer = request
        .config()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .call()?;
    Ok(answer.status() == 200)
}

pub(crate) fn local() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], ports::free_port()?)))
}
