//! QoS 2, kept sessions and messages between clients, through a real gateway.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use devstack::Brokers;

use crate::mqtt_client::{
    Answer, Client, DISCONNECT, PINGREQ, PINGRESP, PUBCOMP, PUBREC, packet, publish_packet,
};
use crate::pipeline::{Pipeline, open_to_all, open_to_all_with};
use crate::services::{DEADLINE, Services, eventually, own_kafka};

/// A heartbeat with QoS 2 and packet id 7, of a device that is called `keeper`; 3.1.1.
fn exactly_once(payload: &str, dup: bool) -> Vec<u8> {
    let mut publish = publish_packet("devices/keeper/heartbeat", 7, payload, 4);
    publish[0] = if dup { 0x3c } else { 0x34 };
    publish
}

/// CONNECT of 3.1.1 without clean session.
fn kept(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).unwrap_or_default();
    packet(0x10, &[b"\0\x04MQTT\x04\0\0\x3c\0", &[length][..], client_id.as_bytes()].concat())
}

#[test]
fn qos_2_is_stored_once_though_it_is_sent_again_after_a_reconnect() -> Result<()> {
    let pipeline = Pipeline::start("qos_2")?;
    let (mut device, present) = Client::connect_with(pipeline.mqtt, "keeper", 4, &kept("keeper"))?;
    ensure!(!present, "nothing was kept before");
    device.send(&exactly_once("{}", false))?;
    ensure!(device.expect(PUBREC)? == [0, 7]);
    drop(device);

    // PUBREC did not arrive, as far as the device knows: without `seq` and `ts` only the packet id says that it is the same.
    let (mut device, present) = Client::connect_with(pipeline.mqtt, "keeper", 4, &kept("keeper"))?;
    ensure!(present, "the session was kept");
    device.send(&exactly_once("{}", true))?;
    ensure!(device.expect(PUBREC)? == [0, 7]);
    device.send(&[0x62, 2, 0, 7])?;
    ensure!(device.expect(PUBCOMP)? == [0, 7]);
    // Released: the next one of that id is another message.
    device.send(&exactly_once("{}", false))?;
    ensure!(device.expect(PUBREC)? == [0, 7]);
    pipeline.eventually("SELECT count() FROM heartbeats", "2")?;
    pipeline.eventually("SELECT count() FROM connections WHERE event = 'connected'", "2")?;
    pipeline.stop()
}

#[test]
fn pubrec_waits_for_kafka_as_puback_does() -> Result<()> {
    let mut kafka = own_kafka("pubrec", Brokers::ONE)?;
    let services = Services { kafka: kafka.bootstrap(), ..Services::shared()? };
    let pipeline = Pipeline::start_on("pubrec", services, &[])?;
    let mut device = pipeline.connect("keeper", 4)?;
    device.acknowledged_heartbeat(1, "{}")?;
    kafka.brokers_mut().iter_mut().try_for_each(devstack::kafka::Broker::hang)?;
    device.send(&exactly_once("{}", false))?;
    ensure!(device.answer(Duration::from_secs(2))? == Answer::Silence, "Kafka hangs");
    kafka.brokers_mut().iter_mut().try_for_each(devstack::kafka::Broker::resume)?;
    ensure!(device.expect(PUBREC)? == [0, 7]);
    pipeline.eventually("SELECT count() FROM heartbeats", "2")?;
    pipeline.stop()
}

#[test]
fn a_packet_id_that_is_released_too_early_never_swallows_the_next_message() -> Result<()> {
    let pipeline = Pipeline::start("early_release")?;
    let (mut device, _) = Client::connect_with(pipeline.mqtt, "keeper", 4, &kept("keeper"))?;
    // PUBLISH and PUBREL at once: nobody can have seen the PUBREC.
    device.send(&[exactly_once(r#"{"seq":1}"#, false), vec![0x62, 2, 0, 7]].concat())?;
    ensure!(device.answer(DEADLINE)? == Answer::Closed);
    let (mut device, _) = Client::connect_with(pipeline.mqtt, "keeper", 4, &kept("keeper"))?;
    device.send(&exactly_once(r#"{"seq":2}"#, false))?;
    ensure!(device.expect(PUBREC)? == [0, 7]);
    pipeline.eventually("SELECT count() FROM heartbeats WHERE sequence = 2", "1")?;
    pipeline.stop()
}

#[test]
fn subscribers_hear_heartbeats_retained_messages_and_wills() -> Result<()> {
    let pipeline = open_to_all("subscribers")?;
    let mut device = pipeline.connect("talker", 5)?;
    let mut retained = publish_packet("devices/talker/about", 1, "blue", 5);
    retained[0] |= 1;
    device.send(&retained)?;
    ensure!(device.puback(1)? == 0x10, "kept, and nobody listens yet");

    let mut listener = pipeline.connect("listener", 4)?;
    ensure!(listener.subscribe("devices/+/#", 1)? == 1);
    let body = listener.expect(0x33)?;
    ensure!(body.ends_with(b"blue"), "{body:02x?}");
    listener.send(&[0x40, 2, body[22], body[23]])?;

    ensure!(device.acknowledged_heartbeat(2, r#"{"seq":1}"#)? == 0);
    let body = listener.expect(0x32)?;
    ensure!(body.ends_with(br#"{"seq":1}"#), "{body:02x?}");
    pipeline.eventually("SELECT device_id, sequence FROM heartbeats", "talker\t1")?;

    // A client with a will, `gone` on `devices/dying/will`, that closes without DISCONNECT.
    let will = packet(0x10, b"\0\x04MQTT\x04\x06\0\x3c\0\x05dying\0\x12devices/dying/will\0\x04gone");
    drop(Client::connect_with(pipeline.mqtt, "dying", 4, &will)?);
    let body = listener.expect(0x30)?;
    ensure!(body.ends_with(b"gone"), "{body:02x?}");
    ensure!(listener.answer(Duration::from_secs(2))? == Answer::Silence, "everything came once");
    pipeline.stop()
}

#[test]
fn a_subscriber_that_has_much_to_read_is_heard_meanwhile() -> Result<()> {
    // Far more than the buffers of two sockets hold, in packets of the usual size.
    const MESSAGES: u16 = 1_500;
    const PAYLOAD_BYTES: usize = 60_000;
    let settings = [
        "broker.queue_messages_max=2000",
        "broker.queue_bytes_max=134217728",
        "gateway.publish_rate_max=1000000",
        "gateway.publish_burst_max=1000000",
        "gateway.publish_bytes_rate_max=1073741824",
        "gateway.publish_bytes_burst_max=1073741824",
        "gateway.write_timeout_ms=60000",
    ];
    let pipeline = open_to_all_with("busy_subscriber", &settings)?;
    let mut listener = pipeline.connect("listener", 4)?;
    ensure!(listener.subscribe("news", 0)? == 0);
    let mut talker = pipeline.connect("talker", 4)?;
    let payload = "x".repeat(PAYLOAD_BYTES);
    for packet_id in 1..=MESSAGES {
        talker.send(&publish_packet("news", packet_id, &payload, 4))?;
        ensure!(talker.puback(packet_id)? == 0);
    }
    ensure!(pipeline.gateway_metric("fleetpulse_gateway_unsent_total")? == 0.0, "all of it waits");
    // It asks whether the server lives, and then begins to read.
    listener.send(&[PINGREQ, 0])?;
    let (mut messages, mut before_the_answer) = (0, None);
    while messages < MESSAGES {
        match listener.answer(DEADLINE)? {
            Answer::Packet { first_byte: 0x30, .. } => messages += 1,
            Answer::Packet { first_byte: PINGRESP, .. } => before_the_answer = Some(messages),
            other => bail!("{other:?} after {messages} messages"),
        }
    }
    // What was in the sockets by then comes first, and no more.
    ensure!(
        before_the_answer.is_some_and(|messages| messages < MESSAGES / 2),
        "the answer came after {before_the_answer:?} of {MESSAGES}"
    );
    pipeline.stop()
}

#[test]
fn what_a_member_of_a_shared_subscription_leaves_behind_is_counted() -> Result<()> {
    let pipeline = open_to_all("shared_left")?;
    let unsent = || pipeline.gateway_metric("fleetpulse_gateway_unsent_total{reason=\"session_ended\"");
    let mut member = pipeline.connect("member", 4)?;
    ensure!(member.subscribe("$share/group/news", 1)? == 1);
    let mut talker = pipeline.connect("talker", 4)?;
    for packet_id in 1..=3 {
        talker.send(&publish_packet("news", packet_id, "something", 4))?;
        ensure!(talker.puback(packet_id)? == 0);
    }
    let first = member.expect(0x32)?;
    member.send(&[0x40, 2, first[6], first[7]])?;
    member.expect(0x32)?;
    member.expect(0x32)?;
    member.disconnect()?;
    eventually("the two that were not answered are counted", || Ok((unsent()? == 2.0).then_some(())))?;
    pipeline.stop()
}

#[test]
fn a_payload_that_says_it_is_text_and_is_not_costs_the_message_and_not_the_connection() -> Result<()> {
    let pipeline = open_to_all("not_text")?;
    let mut listener = pipeline.connect("listener", 5)?;
    ensure!(listener.subscribe("#", 0)? == 0);
    let mut device = pipeline.connect("binary", 5)?;
    let publish = |topic: &str, qos: u8, payload: &[u8]| {
        let topic_bytes = u8::try_from(topic.len()).unwrap_or_default();
        let id: &[u8] = if qos > 0 { &[0, 9] } else { &[] };
        // Payload Format Indicator 1.
        packet(0x30 | qos << 1, &[&[0, topic_bytes], topic.as_bytes(), id, &[2, 1, 1], payload].concat())
    };
    for topic in ["devices/binary/heartbeat", "devices/other/commands/unlock", "news"] {
        device.send(&publish(topic, 1, b"\xff\xfe"))?;
        ensure!(device.puback(9)? == 0x99, "{topic}");
    }
    device.send(&publish("devices/binary/heartbeat", 2, b"\xfd"))?;
    ensure!(device.expect(PUBREC)? == [0, 9, 0x99], "and the exchange is over");
    device.send(&publish("news", 1, b"text"))?;
    ensure!(device.puback(9)? == 0, "the connection goes on");
    let heard = listener.expect(0x30)?;
    ensure!(heard.ends_with(b"\x02\x01\x01text"), "the first that anybody hears: {heard:02x?}");
    pipeline.eventually(
        "SELECT device_id, reason, hex(payload) FROM dead_letters FINAL ORDER BY payload",
        "binary\tnot_json\tFD\nbinary\tnot_json\tFFFE",
    )?;
    // With QoS 0 there is no answer but the end.
    device.send(&publish("news", 0, b"\xff"))?;
    ensure!(device.expect(DISCONNECT)?.first() == Some(&0x99));
    pipeline.stop()
}
