//! Presence: what is known of a device without a heartbeat.

use anyhow::{Result, ensure};

use crate::mqtt_client::{Answer, DISCONNECT};
use crate::pipeline::Pipeline;
use crate::services::{DEADLINE, Services};

const STATUS: &str = "SELECT device_id, status, offline_reason FROM device_status ORDER BY device_id";

#[test]
fn a_session_is_seen_from_its_start_to_its_end() -> Result<()> {
    let pipeline = Pipeline::start_on("session", Services::shared()?, &["writer.settle_every_s=1"])?;
    let mut device = pipeline.connect("here", 4)?;
    pipeline.eventually(STATUS, "here\tonline\t")?;
    device.acknowledged_heartbeat(1, r#"{"state":"parked"}"#)?;
    pipeline.eventually("SELECT state FROM device_status", "parked")?;
    device.disconnect()?;
    pipeline.eventually(STATUS, "here\toffline\tclient")?;
    // CONNECT 18, PUBLISH 46 and DISCONNECT 2 bytes; CONNACK 4 and PUBACK 4.
    pipeline.eventually(
        "SELECT bytes_in, bytes_out, messages_in FROM connections WHERE event = 'disconnected'",
        "66\t8\t1",
    )?;
    // The writer settles by itself.
    pipeline.eventually(
        "SELECT sum(gateway_tx_bytes), sum(gateway_rx_bytes), sum(gateway_tx_messages) FROM usage_hourly",
        "66\t8\t1",
    )?;
    pipeline.stop()
}

#[test]
fn a_second_connection_takes_the_session_over() -> Result<()> {
    let pipeline = Pipeline::start("take_over")?;
    let mut first = pipeline.connect("twin", 5)?;
    let mut second = pipeline.connect("twin", 5)?;
    let Answer::Packet { first_byte: DISCONNECT, body } = first.answer(DEADLINE)? else {
        anyhow::bail!("no DISCONNECT")
    };
    ensure!(body.first() == Some(&0x8e), "session taken over, not {body:02x?}");
    ensure!(first.answer(DEADLINE)? == Answer::Closed);
    second.acknowledged_heartbeat(1, "{}")?;
    pipeline.eventually("SELECT reason FROM connections WHERE event = 'disconnected'", "taken_over")?;
    pipeline.eventually(STATUS, "twin\tonline\t")?;
    pipeline.eventually(
        "SELECT uniqExact(session_id), countIf(event = 'connected') FROM connections FINAL",
        "2\t2",
    )?;
    pipeline.stop()
}

#[test]
fn a_stopping_gateway_acknowledges_what_is_in_flight_and_says_goodbye() -> Result<()> {
    let mut pipeline = Pipeline::start("stopping")?;
    let mut old = pipeline.connect("old", 4)?;
    let mut new = pipeline.connect("new", 5)?;
    for packet_id in 1..=50 {
        old.heartbeat(packet_id, "{}")?;
    }
    old.puback(1)?;
    let status = pipeline.gateway.terminate(DEADLINE)?;
    ensure!(status.success(), "{status}: {}", pipeline.gateway.log_tail(20));
    let Answer::Packet { first_byte: DISCONNECT, body } = new.answer(DEADLINE)? else {
        anyhow::bail!("no DISCONNECT")
    };
    ensure!(body.first() == Some(&0x8b), "server shutting down, not {body:02x?}");
    let mut acknowledged = 1;
    while let Answer::Packet { .. } = old.answer(DEADLINE)? {
        acknowledged += 1;
    }
    pipeline.eventually(STATUS, "new\toffline\tserver_shutting_down\nold\toffline\tserver_shutting_down")?;
    let enough = format!("SELECT count() >= {acknowledged} FROM heartbeats FINAL");
    pipeline.eventually(&enough, "1")?;
    pipeline.start_gateway()?;
    pipeline.connect("old", 4)?.acknowledged_heartbeat(1, "{}")?;
    pipeline.stop()
}
