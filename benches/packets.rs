//! MQTT packets as bytes, to what they say, and back. None of it allocates.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mqtt::{OutgoingPublish, Packet, PacketId, Qos, Version, encode, reason};

use crate::EXAMPLE;

const TOPIC: &str = "devices/scooter-000042/heartbeat";

/// The example heartbeat with QoS 1.
fn publish(version: Version, forwarded: &[u8]) -> Vec<u8> {
    let message = OutgoingPublish {
        topic: TOPIC,
        topic_alias: None,
        payload: EXAMPLE,
        qos: Qos::AtLeastOnce,
        packet_id: PacketId::new(42),
        retain: false,
        dup: false,
        message_expiry_s: None,
        forwarded,
        subscription_ids: &[],
    };
    let mut bytes = Vec::new();
    encode::publish(version, &message, None, &mut bytes).expect("there is no limit");
    bytes
}

fn read(bytes: &[u8], version: Version) -> Packet<'_> {
    let frame = mqtt::frame(black_box(bytes), 1 << 20).expect("a packet").expect("a whole one");
    mqtt::packet(&frame, version).expect("a packet")
}

fn reads(bencher: Bencher<'_, '_>, bytes: &[u8], version: Version) {
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| matches!(read(bytes, version), Packet::Publish(_)));
}

#[divan::bench]
fn publish_of_3_1_1(bencher: Bencher<'_, '_>) {
    reads(bencher, &publish(Version::V311, &[]), Version::V311);
}

#[divan::bench]
fn publish_of_5_0(bencher: Bencher<'_, '_>) {
    reads(bencher, &publish(Version::V5, &[]), Version::V5);
}

/// Content type and one user property.
#[divan::bench]
fn publish_of_5_0_with_properties(bencher: Bencher<'_, '_>) {
    let forwarded = b"\x03\0\x10application/json\x26\0\x02hw\0\x05rev-7";
    reads(bencher, &publish(Version::V5, forwarded), Version::V5);
}

#[divan::bench]
fn puback(bencher: Bencher<'_, '_>) {
    let mut outbox = Vec::with_capacity(64);
    bencher.bench_local(|| {
        outbox.clear();
        encode::puback(black_box(Version::V5), black_box(PacketId::MIN), reason::SUCCESS, &mut outbox);
        outbox.len()
    });
}

/// A command of 100 bytes to a device.
#[divan::bench]
fn publish_to_a_device(bencher: Bencher<'_, '_>) {
    let mut outbox = Vec::with_capacity(512);
    let message = OutgoingPublish {
        topic: "devices/scooter-000042/commands/lock",
        topic_alias: None,
        payload: &[b'x'; 100],
        qos: Qos::AtLeastOnce,
        packet_id: PacketId::new(42),
        retain: false,
        dup: false,
        message_expiry_s: Some(60),
        forwarded: &[],
        subscription_ids: &[1],
    };
    bencher.bench_local(|| {
        outbox.clear();
        encode::publish(Version::V5, black_box(&message), Some(1 << 20), &mut outbox).is_ok()
    });
}
