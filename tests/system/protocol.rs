//! MQTT: what a client may do, and what a bad one loses.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::mqtt_client::{Answer, CONNACK, Client, DISCONNECT, connect_packet, packet, publish_packet};
use crate::pipeline::Pipeline;
use crate::services::DEADLINE;

#[test]
fn a_malformed_packet_closes_that_connection_alone() -> Result<()> {
    let pipeline = Pipeline::start("malformed_packets")?;
    let mut good = pipeline.connect("good", 5)?;
    let connect = connect_packet("bad", 4);
    let bad: [(&str, Vec<u8>); 8] = [
        ("no CONNECT first", publish_packet("devices/bad/heartbeat", 1, "{}", 4)),
        ("not MQTT at all", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an endless length", vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("a reserved packet type", [&connect[..], &[0x00, 0x00]].concat()),
        ("a second CONNECT", [&connect[..], &connect[..]].concat()),
        ("QoS 3", [&connect[..], &packet(0x36, b"\0\x01a\0\x01")].concat()),
        ("a topic that is not UTF-8", [&connect[..], &packet(0x32, b"\0\x02\xff\xfe\0\x01{}")].concat()),
        ("256 MB announced", [&connect[..], &[0x32, 0xff, 0xff, 0xff, 0x7f]].concat()),
    ];
    for (what, bytes) in bad {
        let mut client = Client::open(pipeline.mqtt)?;
        client.send(&bytes)?;
        loop {
            match client.answer(DEADLINE)? {
                Answer::Closed => break,
                Answer::Packet { first_byte: CONNACK, .. } => {}
                other => anyhow::bail!("{what} was answered with {other:?}"),
            }
        }
        ensure!(good.acknowledged_heartbeat(1, "{}")? == 0, "after {what}");
    }
    pipeline.eventually("SELECT count() FROM heartbeats WHERE device_id = 'good'", "8")?;
    pipeline.eventually(
        "SELECT DISTINCT reason FROM connections WHERE device_id = 'bad' AND event = 'disconnected' ORDER BY reason",
        "packet_too_large\nprotocol_error",
    )?;
    pipeline.stop()
}

#[test]
fn a_device_cannot_publish_as_another() -> Result<()> {
    let pipeline = Pipeline::start("another_device")?;
    let foreign = "devices/victim/heartbeat";
    let mut new = pipeline.connect("new", 5)?;
    new.send(&publish_packet(foreign, 7, "{}", 5))?;
    ensure!(new.puback(7)? == 0x87, "MQTT 5 says not authorized");
    ensure!(new.acknowledged_heartbeat(8, "{}")? == 0, "and the connection goes on");

    let mut old = pipeline.connect("old", 4)?;
    old.send(&publish_packet(foreign, 7, "{}", 4))?;
    ensure!(old.answer(DEADLINE)? == Answer::Closed, "3.1.1 cannot say so: it is closed");

    pipeline.eventually("SELECT device_id FROM heartbeats", "new")?;
    pipeline.eventually(
        "SELECT device_id, reason FROM connections WHERE event = 'disconnected'",
        "old\tnot_authorized",
    )?;
    pipeline.stop()
}

#[test]
fn what_is_not_offered_is_refused_by_name() -> Result<()> {
    let pipeline = Pipeline::start("not_offered")?;
    // CONNECT with an authentication method.
    let mut client = Client::open(pipeline.mqtt)?;
    client.send(&packet(0x10, b"\0\x04MQTT\x05\x02\0\x3c\x06\x15\0\x03abc\0\x01a"))?;
    ensure!(client.answer(DEADLINE)? == Answer::Packet { first_byte: CONNACK, body: vec![0, 0x8c, 0] });
    ensure!(client.answer(DEADLINE)? == Answer::Closed);
    // A version of the future.
    let mut client = Client::open(pipeline.mqtt)?;
    client.send(&packet(0x10, b"\0\x04MQTT\x06\x02\0\x3c\0\0\x01a"))?;
    ensure!(client.answer(DEADLINE)? == Answer::Packet { first_byte: CONNACK, body: vec![0, 0x84, 0] });
    // AUTH out of nowhere.
    let mut client = pipeline.connect("asking", 5)?;
    client.send(&[0xf0, 0])?;
    let Answer::Packet { first_byte: DISCONNECT, body } = client.answer(DEADLINE)? else {
        anyhow::bail!("no DISCONNECT")
    };
    ensure!(body.first() == Some(&0x82), "{body:02x?}");
    ensure!(pipeline.gateway_metric("fleetpulse_gateway_refused_total")? == 2.0);
    pipeline.stop()
}

#[test]
fn acknowledgements_come_in_the_order_of_arrival() -> Result<()> {
    let pipeline = Pipeline::start("order")?;
    let mut device = pipeline.connect("fast", 5)?;
    let mut all = Vec::new();
    for packet_id in 1..=200_u16 {
        // Good ones, dead letters and refusals, whose deliveries take different ways.
        let (topic, payload) = match packet_id % 3 {
            0 => ("devices/fast/heartbeat", "{}"),
            1 => ("devices/fast/heartbeat", "no"),
            _ => ("devices/other/heartbeat", "{}"),
        };
        all.extend(publish_packet(topic, packet_id, payload, 5));
    }
    device.send(&all)?;
    for packet_id in 1..=200 {
        let code = device.puback(packet_id)?;
        ensure!(code == [0, 0x99, 0x87][usize::from(packet_id % 3)], "{packet_id}: {code:#x}");
    }
    pipeline.eventually("SELECT count() FROM heartbeats FINAL", "66")?;
    pipeline.stop()
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() -> Result<()> {
    let pipeline = Pipeline::start("keep_alive")?;
    let mut client = Client::open(pipeline.mqtt)?;
    client.send(&packet(0x10, b"\0\x04MQTT\x05\x02\0\x01\0\0\x05quiet"))?;
    ensure!(matches!(client.answer(DEADLINE)?, Answer::Packet { first_byte: CONNACK, .. }));
    ensure!(client.answer(Duration::from_millis(1_200))? == Answer::Silence, "not before its time");
    let Answer::Packet { first_byte: DISCONNECT, body } = client.answer(DEADLINE)? else {
        anyhow::bail!("no DISCONNECT")
    };
    ensure!(body.first() == Some(&0x8d), "{body:02x?}");
    pipeline.eventually(
        "SELECT reason FROM connections WHERE device_id = 'quiet' AND event = 'disconnected'",
        "keep_alive_timeout",
    )?;
    pipeline.stop()
}
