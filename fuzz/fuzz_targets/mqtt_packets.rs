//! A stream of MQTT packets: no panic, no frame beyond its bytes, and what is passed on reads as it was.
//!
//! The first byte says how the stream begins: 0 with a CONNECT, 1, 2 and 3 after one of MQTT 3.1, 3.1.1 and 5.0.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt::{ForwardedProperties, OutgoingPublish, Packet, Publish, Version, encode, topic};

const PACKET_BYTES_MAX: u32 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, mut rest)) = input.split_first() else { return };
    let mut version = match mode % 4 {
        0 => None,
        1 => Some(Version::V31),
        2 => Some(Version::V311),
        _ => Some(Version::V5),
    };
    while let Ok(Some(frame)) = mqtt::frame(rest, PACKET_BYTES_MAX) {
        rest = &rest[frame.len..];
        match version {
            None => match mqtt::connect(&frame) {
                Ok(connect) => {
                    version = Some(connect.version);
                    if let Some(will) = connect.will {
                        passed_on(&will.properties);
                    }
                }
                Err(refused) => return assert!(refused.error.reason_code() >= 0x80),
            },
            Some(version) => match mqtt::packet(&frame, version) {
                Ok(packet) => walk(&packet, version),
                Err(error) => return assert!(error.reason_code() >= 0x80),
            },
        }
    }
});

fn walk(packet: &Packet<'_>, version: Version) {
    match packet {
        Packet::Publish(publish) => written_again(publish, version),
        Packet::Subscribe(subscribe) => {
            assert_eq!(subscribe.filters().count(), subscribe.len());
            assert!(subscribe.filters().all(|filter| topic::is_valid_filter(filter.filter)));
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert_eq!(unsubscribe.filters().count(), unsubscribe.len());
            assert!(unsubscribe.filters().all(topic::is_valid_filter));
        }
        _ => {}
    }
}

fn passed_on(properties: &ForwardedProperties<'_>) {
    let bytes = properties.to_bytes();
    let again = ForwardedProperties::from_bytes(&bytes).expect("what is passed on is valid");
    assert!(again.user_properties().eq(properties.user_properties()));
    assert_eq!(again.response_topic(), properties.response_topic());
    assert_eq!(again.correlation_data(), properties.correlation_data());
    assert_eq!(again.content_type(), properties.content_type());
}

fn written_again(publish: &Publish<'_>, version: Version) {
    passed_on(&publish.properties);
    let forwarded = publish.properties.to_bytes();
    let message = OutgoingPublish {
        topic: publish.topic,
        topic_alias: publish.topic_alias,
        payload: publish.payload,
        qos: publish.qos,
        packet_id: publish.packet_id,
        retain: publish.retain,
        dup: publish.dup,
        message_expiry_s: publish.message_expiry_s,
        forwarded: &forwarded,
        subscription_ids: &[],
    };
    let mut out = Vec::new();
    encode::publish(version, &message, None, &mut out).expect("there is no limit");
    let frame = mqtt::frame(&out, u32::MAX).expect("a packet").expect("a whole one");
    let Ok(Packet::Publish(again)) = mqtt::packet(&frame, version) else { panic!("not read again") };
    assert_eq!((again.topic, again.payload, again.packet_id), (publish.topic, publish.payload, publish.packet_id));
    assert_eq!((again.topic_alias, again.message_expiry_s), (publish.topic_alias, publish.message_expiry_s));
}
