//! Recoveries that come late, records that cannot be stored, records that are gone: the rest is stored once, and what is not is told.

use std::time::Duration;

use anyhow::{Result, ensure};
use devstack::{Brokers, Kafka};

use crate::fleet::{Fleet, more_rows};
use crate::pipeline::Pipeline;
use crate::rejects::produce;
use crate::services::{DEADLINE, Services, eventually, own_clickhouse, own_kafka};

/// Inserts of others, each of which makes the table forget a token.
const OTHERS: u32 = 100;

/// Batches of other writers that land.
fn others_land(pipeline: &Pipeline) -> Result<()> {
    let before: u32 = pipeline.ask("SELECT count() FROM heartbeats WHERE kafka_partition = 999")?.parse()?;
    for number in before..before + OTHERS {
        pipeline.ask(&format!(
            "INSERT INTO heartbeats (device_id, device_time, received_at, kafka_partition, kafka_offset) \
             VALUES ('other', now64(3), now64(3), 999, {number})"
        ))?;
    }
    Ok(())
}

/// As Kafka does with a group that is away for longer than it keeps offsets.
fn forget_offsets(kafka: &Kafka, pipeline: &Pipeline) -> Result<()> {
    let tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    kafka.tool(tool, &["--delete", "--group", &pipeline.group()])?;
    Ok(())
}

#[test]
fn a_late_recovery_past_the_deduplication_window_neither_loses_nor_doubles() -> Result<()> {
    let mut clickhouse = own_clickhouse("late_recovery")?;
    let services = Services { clickhouse: clickhouse.url(), ..Services::shared()? };
    let mut pipeline = Pipeline::start_on("late_recovery", services, &[])?;
    pipeline.remember_tokens(3)?;
    let fleet = Fleet::start(pipeline.mqtt, 100, Duration::from_millis(100));
    more_rows(&pipeline)?;
    let mut replayed_over_rows = 0.0;
    for pause_ms in [0, 90, 150, 210] {
        // Dead in the middle of a batch; ClickHouse has the request, or not, or half of it.
        clickhouse.hang()?;
        std::thread::park_timeout(Duration::from_millis(1_000 + pause_ms));
        pipeline.writer.kill()?;
        clickhouse.resume()?;
        others_land(&pipeline)?;
        pipeline.start_writer()?;
        more_rows(&pipeline)?;
        replayed_over_rows += pipeline.writer_metric("fleetpulse_writer_found_rows_total")?;
    }
    let log = std::fs::read_to_string(pipeline.writer.log())?;
    ensure!(log.contains("replaying the batch"), "no kill hit a batch under way");
    ensure!(replayed_over_rows > 0.0, "no batch had landed before its replay: the test shows nothing");
    let acknowledged = fleet.verify(&pipeline)?.acknowledged().count();
    ensure!(acknowledged > 1_000, "only {acknowledged} acknowledged");
    pipeline.rollups_are_true()?;
    pipeline.stop()
}

#[test]
fn rows_that_landed_in_their_table_alone_are_brought_into_the_views_by_a_replay() -> Result<()> {
    let kafka = own_kafka("views_completed", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let mut pipeline = Pipeline::start_on("views_completed", services, &[])?;
    let mut device = pipeline.connect("lagging", 4)?;
    device.acknowledged_heartbeat(1, r#"{"seq":1,"firmware":"1.0"}"#)?;
    let status = "SELECT firmware FROM device_status WHERE device_id = 'lagging'";
    pipeline.eventually(status, "1.0")?;
    // What a server that dies in the middle of an insert leaves: rows without what the views make of them, and no word of the batch.
    let view = "device_newest_from_heartbeats";
    pipeline.ask(&format!("DETACH TABLE {view} SYNC"))?;
    device.acknowledged_heartbeat(2, r#"{"seq":2,"firmware":"2.0"}"#)?;
    pipeline.eventually("SELECT count() FROM heartbeats WHERE sequence = 2", "1")?;
    ensure!(pipeline.writer.terminate(DEADLINE)?.success());
    pipeline.ask(&format!("ATTACH TABLE {view}"))?;
    pipeline.ask("TRUNCATE TABLE batches")?;
    ensure!(pipeline.ask(status)? == "1.0", "the view lacks the row");
    forget_offsets(&kafka, &pipeline)?;
    pipeline.start_writer()?;
    pipeline.eventually(status, "2.0")?;
    pipeline.rollups_are_true()?;
    pipeline
        .eventually("SELECT count(), uniqExact(kafka_partition, kafka_offset) FROM heartbeats", "2\t2")?;
    pipeline.stop()
}

#[test]
fn a_record_that_clickhouse_refuses_becomes_a_dead_letter_and_the_rest_goes_on() -> Result<()> {
    let pipeline = Pipeline::start("poison_row")?;
    pipeline.ask("ALTER TABLE heartbeats ADD CONSTRAINT plausible CHECK firmware != 'poison'")?;
    let mut device = pipeline.connect("careless", 4)?;
    for sequence in 1..=200_u16 {
        let firmware = if sequence % 67 == 0 { "poison" } else { "1.0" };
        device
            .acknowledged_heartbeat(sequence, &format!(r#"{{"seq":{sequence},"firmware":"{firmware}"}}"#))?;
    }
    pipeline.eventually(
        "SELECT count(), uniqExact(sequence) FROM heartbeats WHERE device_id = 'careless'",
        "198\t198",
    )?;
    pipeline.eventually(
        "SELECT count(), uniqExact(kafka_offset), min(length(payload)) > 20, min(detail LIKE '%plausible%') FROM dead_letters \
         WHERE reason = 'refused_by_clickhouse' AND source = 'writer'",
        "2\t2\t1\t1",
    )?;
    pipeline.eventually("SELECT sum(refused) FROM batches FINAL", "2")?;
    ensure!(pipeline.writer_metric("fleetpulse_writer_refused_rows_total")? == 2.0);
    pipeline.rollups_are_true()?;
    pipeline.stop()
}

#[test]
fn a_batch_with_a_record_that_is_no_event_and_one_that_is_refused_keeps_both() -> Result<()> {
    let settings = ["kafka.partitions=1", "writer.batch_age_ms=1500"];
    let pipeline = Pipeline::start_on("both_rejected", Services::shared()?, &settings)?;
    pipeline.ask("ALTER TABLE heartbeats ADD CONSTRAINT plausible CHECK firmware != 'poison'")?;
    let mut device = pipeline.connect("careless", 4)?;
    let together = "SELECT count() FROM batches FINAL WHERE refused = 1 AND arraySum(dead_letters) = 1";
    // Until one batch has both: a batch may end between them.
    eventually("a batch with both", || {
        produce(&pipeline, b"no event")?;
        device.acknowledged_heartbeat(1, r#"{"firmware":"poison"}"#)?;
        std::thread::park_timeout(Duration::from_secs(3));
        Ok((pipeline.ask(together)? != "0").then_some(()))
    })?;
    let letters = "SELECT countIf(reason = 'not_an_event') > 0, countIf(reason = 'not_an_event') = countIf(reason = 'refused_by_clickhouse') \
                   FROM dead_letters FINAL";
    pipeline.eventually(letters, "1\t1")?;
    pipeline.stop()
}

#[test]
fn a_schema_that_refuses_everything_stops_the_writer_and_loses_nothing() -> Result<()> {
    let mut pipeline =
        Pipeline::start_on("all_refused", Services::shared()?, &["writer.refused_rows_max=3"])?;
    pipeline.ask("ALTER TABLE heartbeats ADD CONSTRAINT impossible CHECK 1 = 0")?;
    let mut device = pipeline.connect("patient", 4)?;
    for sequence in 1..=20_u16 {
        device.acknowledged_heartbeat(sequence, &format!(r#"{{"seq":{sequence}}}"#))?;
    }
    let status = eventually("the writer to end", || Ok(pipeline.writer.exit_status()?))?;
    ensure!(!status.success(), "{status}");
    let said = pipeline.writer.log_tail(20);
    ensure!(said.contains("writer.refused_rows_max"), "it says what to look at: {said}");
    pipeline.ask("ALTER TABLE heartbeats DROP CONSTRAINT impossible")?;
    pipeline.start_writer()?;
    pipeline.eventually(
        "SELECT count(), uniqExact(sequence) FROM heartbeats WHERE device_id = 'patient'",
        "20\t20",
    )?;
    pipeline.stop()
}

#[test]
fn records_that_kafka_dropped_are_told_with_their_range_and_the_rest_goes_on() -> Result<()> {
    let kafka = own_kafka("dropped", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let mut pipeline = Pipeline::start_on("dropped", services, &["kafka.partitions=1"])?;
    let mut device = pipeline.connect("unlucky", 4)?;
    device.acknowledged_heartbeat(1, r#"{"seq":1}"#)?;
    pipeline.eventually("SELECT count() FROM heartbeats WHERE device_id = 'unlucky'", "1")?;
    let stands = "SELECT max(last_offset) FROM batches FINAL WHERE stream = 'events'";
    ensure!(pipeline.writer.terminate(DEADLINE)?.success());
    let first_lost: u64 = pipeline.ask(stands)?.parse::<u64>()? + 1;
    for sequence in 2..=10_u16 {
        device.acknowledged_heartbeat(sequence, &format!(r#"{{"seq":{sequence}}}"#))?;
    }
    // Kafka drops all but the last of them, as it does where its disk is short.
    let keep_from = first_lost + 8;
    let wanted = format!(
        r#"{{"partitions":[{{"topic":"{}","partition":0,"offset":{keep_from}}}],"version":1}}"#,
        pipeline.events_topic()
    );
    let file = crate::services::folder("dropped_wanted")?.join("records.json");
    std::fs::write(&file, wanted)?;
    let file = file.display().to_string();
    kafka.tool("org.apache.kafka.tools.DeleteRecordsCommand", &["--offset-json-file", &file])?;
    pipeline.start_writer()?;
    device.acknowledged_heartbeat(11, r#"{"seq":11}"#)?;
    pipeline.eventually(
        "SELECT max(sequence), count() > 1 FROM heartbeats WHERE device_id = 'unlucky'",
        "11\t1",
    )?;
    pipeline.eventually(
        "SELECT stream, partition, first_offset, last_offset FROM ingest_gaps",
        &format!("events\t0\t{first_lost}\t{}", keep_from - 1),
    )?;
    ensure!(pipeline.writer_metric("fleetpulse_writer_gap_records_total")? >= 8.0);
    pipeline.stop()
}

#[test]
fn a_group_whose_offsets_are_forgotten_reads_all_again_and_doubles_nothing() -> Result<()> {
    let kafka = own_kafka("forgotten", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let mut pipeline = Pipeline::start_on("forgotten", services, &[])?;
    let fleet = Fleet::start(pipeline.mqtt, 50, Duration::from_millis(100));
    more_rows(&pipeline)?;
    ensure!(pipeline.writer.terminate(DEADLINE)?.success());
    pipeline.remember_tokens(1)?;
    others_land(&pipeline)?;
    kafka.tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        &["--delete", "--group", &pipeline.group()],
    )?;
    pipeline.start_writer()?;
    more_rows(&pipeline)?;
    fleet.verify(&pipeline)?;
    pipeline.rollups_are_true()?;
    pipeline.stop()
}

#[test]
fn partitions_that_are_added_while_all_runs_are_used_and_read() -> Result<()> {
    let kafka = own_kafka("partitions_added", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let pipeline = Pipeline::start_on("partitions_added", services, &["kafka.partitions=1"])?;
    let fleet = Fleet::start(pipeline.mqtt, 50, Duration::from_millis(100));
    more_rows(&pipeline)?;
    let topic = pipeline.events_topic();
    kafka
        .tool("org.apache.kafka.tools.TopicCommand", &["--alter", "--topic", &topic, "--partitions", "4"])?;
    eventually("rows of all four partitions", || {
        let partitions =
            pipeline.ask("SELECT uniqExact(kafka_partition) FROM heartbeats WHERE kafka_partition < 999")?;
        Ok((partitions == "4").then_some(()))
    })?;
    fleet.verify(&pipeline)?;
    pipeline.stop()
}
