//! Services that hang and processes that are killed: nothing acknowledged is lost, nothing stands twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use devstack::Brokers;
use simulator::{Pace, Report};
use tokio_util::sync::CancellationToken;

use crate::mqtt_client::{Answer, Client, publish_packet};
use crate::pipeline::Pipeline;
use crate::services::{DEADLINE, Services, eventually, own_clickhouse, own_kafka};

/// Long enough for an acknowledgement that comes by mistake, which takes milliseconds.
const WHILE: Duration = Duration::from_secs(3);

/// A fleet that publishes in the background and keeps a list of what was acknowledged.
pub(crate) struct Fleet {
    stop: CancellationToken,
    thread: JoinHandle<Result<Report>>,
}

impl Fleet {
    pub(crate) fn start(mqtt: SocketAddr, devices: u32, every: Duration) -> Self {
        let stop = CancellationToken::new();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut config = simulator::Config::new(mqtt, devices);
                config.pace = Pace::Interval(every);
                config.in_flight = 4;
                config.drain = DEADLINE;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(simulator::run(config, stop, |_| {}))?)
            }
        });
        Self { stop, thread }
    }

    /// Stops it and waits for what is outstanding. Then every acknowledged heartbeat has to stand in the table, once for a
    /// reader; and every record on Kafka has to stand there once, as nothing was merged.
    pub(crate) fn verify(self, pipeline: &Pipeline) -> Result<usize> {
        self.stop.cancel();
        let report = self.thread.join().map_err(|_| anyhow!("the fleet panicked"))??;
        let acknowledged: BTreeSet<(String, u64)> =
            report.acknowledged().map(|(device, sequence)| (device.to_string(), sequence)).collect();
        ensure!(!acknowledged.is_empty(), "nothing was acknowledged");
        let stored = eventually("every acknowledged heartbeat in the table", || {
            let stored = stored(pipeline)?;
            let missing: Vec<_> =
                acknowledged.iter().filter(|heartbeat| !stored.contains_key(heartbeat)).collect();
            ensure!(
                missing.is_empty(),
                "{} of {} are missing: {:?} ...",
                missing.len(),
                acknowledged.len(),
                missing[0]
            );
            Ok(Some(stored))
        })?;
        let doubled = stored.iter().find(|(_, count)| **count != 1);
        ensure!(doubled.is_none(), "{doubled:?} stands more than once for a reader");
        let records = pipeline
            .ask("SELECT count() = uniqExact(kafka_partition, kafka_offset), count() FROM heartbeats")?;
        ensure!(records.starts_with("1\t"), "of {records} rows some are of the same record");
        Ok(acknowledged.len())
    }
}

/// What a reader finds: how often each heartbeat of the fleet stands in the table.
fn stored(pipeline: &Pipeline) -> Result<BTreeMap<(String, u64), u64>> {
    let question = "SELECT device_id, sequence, count() FROM heartbeats FINAL WHERE device_id LIKE 'device-%' GROUP BY ALL";
    let rows = pipeline.ask(question)?;
    let row = |row: &str| {
        let mut columns = row.split('\t');
        let mut next = || columns.next().context("three columns");
        Ok(((next()?.to_owned(), next()?.parse()?), next()?.parse()?))
    };
    rows.lines().map(row).collect()
}

pub(crate) fn rows(pipeline: &Pipeline) -> Result<u64> {
    Ok(pipeline.ask("SELECT count() FROM heartbeats")?.parse()?)
}

/// Waits until more rows than now stand in the table.
pub(crate) fn more_rows(pipeline: &Pipeline) -> Result<()> {
    let before = rows(pipeline)?;
    eventually("more rows", || Ok((rows(pipeline)? > before + 20).then_some(())))
}

#[test]
fn while_kafka_hangs_no_puback_leaves_and_memory_is_bounded() -> Result<()> {
    let mut kafka = own_kafka("kafka_hangs", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let window = [
        "kafka.in_flight_messages_max=2000",
        "kafka.in_flight_bytes_max=4194304",
        "kafka.delivery_timeout_ms=300000",
    ];
    let mut pipeline = Pipeline::start_on("kafka_hangs", services, &window)?;
    let mut device = pipeline.connect("patient", 4)?;
    device.acknowledged_heartbeat(1, r#"{"seq":1}"#)?;
    let mut flood: Vec<Client> =
        (0..200).map(|number| pipeline.connect(&format!("flood-{number}"), 5)).collect::<Result<_>>()?;
    let resident_before = pipeline.gateway.resident_bytes()?;

    for broker in kafka.brokers_mut() {
        broker.hang()?;
    }
    device.heartbeat(2, r#"{"seq":2}"#)?;
    ensure!(device.answer(WHILE)? == Answer::Silence, "a PUBACK left without a delivery report");

    // 200 devices publish 20 KB heartbeats until their sockets take no more: ten times what the window holds and more.
    let mut offered = 0;
    for (number, client) in flood.iter_mut().enumerate() {
        let payload = format!(r#"{{"extra":{{"filler":"{}"}}}}"#, "x".repeat(20_000));
        let topic = format!("devices/flood-{number}/heartbeat");
        for packet_id in 1..=64 {
            let packet = publish_packet(&topic, packet_id, &payload, 5);
            let sent = client.send_within(&packet, Duration::from_millis(5))?;
            offered += sent;
            if sent < packet.len() {
                break;
            }
        }
    }
    ensure!(offered > 10 * 4_194_304, "only {offered} bytes were offered");
    let waiting = eventually("the window to be full", || {
        let bytes = pipeline.gateway_metric("fleetpulse_bus_in_flight_bytes")?;
        Ok((bytes > 3_900_000.0).then_some(bytes))
    })?;
    ensure!(waiting <= 4_194_304.0, "{waiting} bytes wait, 4194304 are allowed");
    ensure!(
        pipeline.gateway_metric("fleetpulse_gateway_window_full_total")? >= 100.0,
        "connections wait, and that is counted"
    );
    let grown = pipeline.gateway.resident_bytes()?.saturating_sub(resident_before);
    // The window, what each connection has read of its next packets, and librdkafka's copies.
    ensure!(grown < 48 << 20, "the gateway grew by {grown} bytes for {offered} bytes offered");
    eventually("not ready", || Ok((!pipeline.gateway_is_ready()?).then_some(())))?;
    ensure!(device.answer(Duration::from_millis(100))? == Answer::Silence);

    for broker in kafka.brokers_mut() {
        broker.resume()?;
    }
    ensure!(device.puback(2)? == 0);
    eventually("ready", || Ok(pipeline.gateway_is_ready()?.then_some(())))?;
    pipeline.eventually("SELECT sequence, count() FROM heartbeats WHERE device_id = 'patient' GROUP BY sequence ORDER BY sequence", "1\t1\n2\t1")?;
    drop(flood);
    pipeline.stop()
}

#[test]
fn past_the_deadline_mqtt_5_hears_a_reason_and_3_1_1_is_closed() -> Result<()> {
    let mut kafka = own_kafka("deadline", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let pipeline = Pipeline::start_on("deadline", services, &["kafka.delivery_timeout_ms=2000"])?;
    let (mut old, mut new) = (pipeline.connect("old", 4)?, pipeline.connect("new", 5)?);
    old.acknowledged_heartbeat(1, "{}")?;
    new.acknowledged_heartbeat(1, "{}")?;
    kafka.brokers_mut().iter_mut().try_for_each(devstack::kafka::Broker::hang)?;
    old.heartbeat(2, r#"{"seq":2,"ts":1767225600000}"#)?;
    let code = new.acknowledged_heartbeat(2, r#"{"seq":2,"ts":1767225600000}"#)?;
    ensure!(code == 0x83, "{code:#x}");
    ensure!(old.answer(DEADLINE)? == Answer::Closed);
    ensure!(pipeline.gateway_metric("fleetpulse_gateway_unacknowledged_total")? >= 2.0);
    kafka.brokers_mut().iter_mut().try_for_each(devstack::kafka::Broker::resume)?;
    // Both send again, as devices do; Kafka may hold the first attempt too.
    eventually("an acknowledgement", || {
        let code = new.acknowledged_heartbeat(3, r#"{"seq":2,"ts":1767225600000}"#)?;
        Ok((code == 0).then_some(()))
    })?;
    pipeline.connect("old", 4)?.acknowledged_heartbeat(3, r#"{"seq":2,"ts":1767225600000}"#)?;
    pipeline.eventually(
        "SELECT device_id, count() FROM heartbeats FINAL WHERE sequence = 2 GROUP BY device_id ORDER BY device_id",
        "new\t1\nold\t1",
    )?;
    pipeline.stop()
}

#[test]
fn a_writer_killed_in_the_middle_of_a_batch_neither_loses_nor_doubles() -> Result<()> {
    let mut clickhouse = own_clickhouse("writer_killed")?;
    let services = Services { clickhouse: clickhouse.url(), ..Services::shared()? };
    let mut pipeline = Pipeline::start_on("writer_killed", services, &[])?;
    let fleet = Fleet::start(pipeline.mqtt, 100, Duration::from_millis(100));
    more_rows(&pipeline)?;
    // Twice while an insert is under way for sure: ClickHouse hangs, and has the request or not.
    for _ in 0..2 {
        clickhouse.hang()?;
        std::thread::park_timeout(Duration::from_secs(1));
        pipeline.writer.kill()?;
        clickhouse.resume()?;
        pipeline.start_writer()?;
        more_rows(&pipeline)?;
    }
    // And some times wherever it is.
    for pause_ms in [30, 170, 310] {
        std::thread::park_timeout(Duration::from_millis(pause_ms));
        pipeline.writer.kill()?;
        pipeline.start_writer()?;
        more_rows(&pipeline)?;
    }
    let log = std::fs::read_to_string(pipeline.writer.log())?;
    ensure!(log.contains("replaying the batch"), "no kill hit a batch under way");
    let acknowledged = fleet.verify(&pipeline)?;
    ensure!(acknowledged > 1_000, "only {acknowledged} acknowledged");
    pipeline.stop()
}

#[test]
fn a_clickhouse_that_is_killed_neither_loses_nor_doubles() -> Result<()> {
    let mut clickhouse = own_clickhouse("clickhouse_killed")?;
    let services = Services { clickhouse: clickhouse.url(), ..Services::shared()? };
    let pipeline = Pipeline::start_on("clickhouse_killed", services, &[])?;
    let fleet = Fleet::start(pipeline.mqtt, 100, Duration::from_millis(100));
    for pause_ms in [100, 450] {
        more_rows(&pipeline)?;
        std::thread::park_timeout(Duration::from_millis(pause_ms));
        clickhouse.kill()?;
        std::thread::park_timeout(Duration::from_secs(1));
        clickhouse.start_again()?;
        pipeline.stop_merges()?;
    }
    more_rows(&pipeline)?;
    fleet.verify(&pipeline)?;
    pipeline.stop()
}

#[test]
fn a_gateway_that_is_killed_loses_nothing_it_acknowledged() -> Result<()> {
    let mut pipeline = Pipeline::start("gateway_killed")?;
    let fleet = Fleet::start(pipeline.mqtt, 100, Duration::from_millis(100));
    more_rows(&pipeline)?;
    pipeline.gateway.kill()?;
    pipeline.start_gateway()?;
    more_rows(&pipeline)?;
    fleet.verify(&pipeline)?;
    pipeline.stop()
}

#[test]
fn a_second_writer_shares_the_work_and_takes_it_over() -> Result<()> {
    let mut pipeline = Pipeline::start("two_writers")?;
    let fleet = Fleet::start(pipeline.mqtt, 100, Duration::from_millis(100));
    more_rows(&pipeline)?;
    let mut second = pipeline.second_writer()?;
    more_rows(&pipeline)?;
    pipeline.writer.kill()?;
    more_rows(&pipeline)?;
    pipeline.start_writer()?;
    let status = second.terminate(DEADLINE)?;
    ensure!(status.success(), "{status}: {}", second.log_tail(20));
    more_rows(&pipeline)?;
    fleet.verify(&pipeline)?;
    pipeline.stop()
}

#[test]
fn with_three_brokers_one_may_be_lost() -> Result<()> {
    let mut kafka = own_kafka("broker_lost", Brokers::THREE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let pipeline = Pipeline::start_on("broker_lost", services, &["kafka.replication_factor=3"])?;
    let fleet = Fleet::start(pipeline.mqtt, 50, Duration::from_millis(200));
    more_rows(&pipeline)?;
    kafka.brokers_mut().last_mut().context("three brokers")?.kill()?;
    more_rows(&pipeline)?;
    fleet.verify(&pipeline)?;
    pipeline.stop()
}
