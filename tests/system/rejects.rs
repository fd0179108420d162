//! Bad input: refused by name, kept, and nobody else notices.

use anyhow::{Context, Result, ensure};
use bus::{Config, Producer, Stream};

use crate::pipeline::Pipeline;

/// Puts a record on the events topic, as somebody might who is no gateway.
pub(crate) fn produce(pipeline: &Pipeline, record: &[u8]) -> Result<()> {
    let config = Config {
        brokers: pipeline.services.kafka.clone(),
        events_topic: pipeline.events_topic(),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let producer = Producer::new(&config)?;
    let permit = producer.window().try_reserve(record.len()).context("room")?;
    runtime.block_on(producer.send(permit, Stream::Events, "good", record)?)?;
    Ok(())
}

#[test]
fn malformed_payloads_become_dead_letters_with_a_reason() -> Result<()> {
    let pipeline = Pipeline::start("dead_letters")?;
    let mut old = pipeline.connect("old", 4)?;
    let mut new = pipeline.connect("new", 5)?;
    ensure!(
        old.acknowledged_heartbeat(1, "not json")? == 0,
        "3.1.1 knows no reason: the letter is kept, the device goes on"
    );
    ensure!(new.acknowledged_heartbeat(1, r#"{"battery":{"percent":"full"}}"#)? == 0x99);
    ensure!(new.acknowledged_heartbeat(2, r#"{"position":{"lat":91}}"#)? == 0x99);
    ensure!(new.acknowledged_heartbeat(3, "[]")? == 0x99);
    ensure!(new.acknowledged_heartbeat(4, "{}")? == 0, "the connection goes on");
    pipeline.eventually(
        "SELECT device_id, reason, payload, topic FROM dead_letters FINAL ORDER BY device_id DESC, reason",
        "old\tnot_json\tnot json\tdevices/old/heartbeat\n\
         new\tnot_an_object\t[]\tdevices/new/heartbeat\n\
         new\tout_of_range\t{\"position\":{\"lat\":91}}\tdevices/new/heartbeat\n\
         new\twrong_type\t{\"battery\":{\"percent\":\"full\"}}\tdevices/new/heartbeat",
    )?;
    pipeline.eventually("SELECT device_id, count() FROM heartbeats GROUP BY device_id", "new\t1")?;
    pipeline.stop()
}

#[test]
fn a_record_that_is_no_event_becomes_a_dead_letter_and_the_rest_goes_on() -> Result<()> {
    let pipeline = Pipeline::start("poison")?;
    for poison in [&b"\xff\xff poison"[..], b""] {
        produce(&pipeline, poison)?;
    }
    let mut device = pipeline.connect("good", 4)?;
    device.acknowledged_heartbeat(1, "{}")?;
    pipeline.eventually("SELECT device_id, count() FROM heartbeats GROUP BY device_id", "good\t1")?;
    pipeline.eventually(
        "SELECT reason, source, hex(payload) FROM dead_letters FINAL ORDER BY payload",
        "not_an_event\twriter\t\nnot_an_event\twriter\tFFFF20706F69736F6E",
    )?;
    pipeline.stop()
}
