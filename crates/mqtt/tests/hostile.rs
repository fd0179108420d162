//! Whatever bytes come: no panic, and what is read keeps the rules of its packet.

mod cases;

use std::sync::LazyLock;

use mqtt::{ForwardedProperties, Frame, Packet, Qos, Version, encode, topic};
use proptest::prelude::*;

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Reads a stream as a connection would, to its end or its first error. Returns how many packets were read.
fn read(bytes: &[u8], mut version: Option<Version>) -> usize {
    let (mut rest, mut count) = (bytes, 0);
    while let Ok(Some(frame)) = mqtt::frame(rest, 2_000_000) {
        assert!((2..=rest.len()).contains(&frame.len) && frame.body.len() < frame.len);
        let readable = match version {
            None => match mqtt::connect(&frame) {
                Ok(connect) => {
                    check_connect(&connect);
                    version = Some(connect.version);
                    true
                }
                Err(refused) => {
                    assert!(refused.error.reason_code() >= 0x80);
                    false
                }
            },
            Some(version) => match mqtt::packet(&frame, version) {
                Ok(packet) => {
                    check(&packet, &frame, version);
                    true
                }
                Err(error) => {
                    assert!(error.reason_code() >= 0x80);
                    false
                }
            },
        };
        if !readable {
            break;
        }
        count += 1;
        rest = &rest[frame.len..];
    }
    count
}

fn check_connect(connect: &mqtt::Connect<'_>) {
    assert!(connect.receive_max > 0 && connect.packet_bytes_max != Some(0));
    assert!(connect.authentication_method.is_some() || connect.authentication_data.is_none());
    assert!(connect.version.is_v5() || connect.username.is_some() || connect.password.is_none());
    if let Some(will) = connect.will {
        assert!(topic::is_valid_name(will.topic));
        assert!(!will.properties.payload_is_utf8() || str::from_utf8(will.payload).is_ok());
        check_forwarded(&will.properties);
    }
}

fn check(packet: &Packet<'_>, frame: &Frame<'_>, version: Version) {
    match packet {
        Packet::Publish(publish) => {
            assert_eq!(publish.packet_id.is_some(), publish.qos > Qos::AtMostOnce);
            assert!(!publish.dup || publish.qos > Qos::AtMostOnce);
            assert!(topic::is_valid_name(publish.topic) || publish.topic.is_empty());
            assert!(!publish.topic.is_empty() || publish.topic_alias.is_some());
            let said = publish.properties.payload_is_utf8();
            assert_eq!(publish.payload_is_as_said(), !said || str::from_utf8(publish.payload).is_ok());
            check_forwarded(&publish.properties);
            check_passed_on(publish, frame, version);
        }
        Packet::Subscribe(subscribe) => {
            assert!(subscribe.len() > 0 && subscribe.filters().count() == subscribe.len());
            assert!(subscribe.subscription_id != Some(0));
            for filter in subscribe.filters() {
                assert!(topic::is_valid_filter(filter.filter));
                assert!(!(filter.no_local && topic::shared(filter.filter).is_some()));
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert!(unsubscribe.len() > 0 && unsubscribe.filters().count() == unsubscribe.len());
            assert!(unsubscribe.filters().all(topic::is_valid_filter));
        }
        Packet::Auth(auth) => assert!(version.is_v5() && auth.method.is_some()),
        _ => {}
    }
}

fn check_forwarded(forwarded: &ForwardedProperties<'_>) {
    assert!(forwarded.response_topic().is_none_or(topic::is_valid_name));
    let bytes = forwarded.to_bytes();
    let again = ForwardedProperties::from_bytes(&bytes).expect("what is passed on");
    assert_eq!(again.to_bytes(), bytes);
    assert!(again.user_properties().eq(forwarded.user_properties()));
    assert_eq!(again.correlation_data(), forwarded.correlation_data());
}

/// What a client published and a server passes on is the same packet but for the order of its properties.
fn check_passed_on(publish: &mqtt::Publish<'_>, frame: &Frame<'_>, version: Version) {
    let forwarded = publish.properties.to_bytes();
    let message = mqtt::OutgoingPublish {
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
    encode::publish(version, &message, None, &mut out).expect("no limit");
    let written = mqtt::frame(&out, u32::MAX).expect("a packet").expect("whole");
    assert_eq!((written.len, written.body.len()), (out.len(), frame.body.len()));
    let Ok(Packet::Publish(again)) = mqtt::packet(&written, version) else { panic!("no PUBLISH") };
    assert_eq!(
        (again.topic, again.payload, again.qos, again.packet_id, again.retain, again.dup),
        (publish.topic, publish.payload, publish.qos, publish.packet_id, publish.retain, publish.dup)
    );
    assert_eq!((again.topic_alias, again.message_expiry_s), (publish.topic_alias, publish.message_expiry_s));
    let mut small = Vec::new();
    let less = u32::try_from(out.len() - 1).expect("short");
    assert!(encode::publish(version, &message, Some(less), &mut small).is_err() && small.is_empty());
}

/// What is mutated, with the version that is spoken after a CONNECT.
type Seed = (Vec<u8>, Option<Version>);

/// Everything that the cases send.
static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(|| cases::all().into_iter().flat_map(sent).collect());

/// What a server must go on with.
static VALID: LazyLock<Vec<Seed>> =
    LazyLock::new(|| cases::all().into_iter().filter(|case| !case.must_close).flat_map(sent).collect());

fn sent(case: cases::Case) -> Vec<Seed> {
    let version = match case.version {
        3 => Version::V31,
        4 => Version::V311,
        _ => Version::V5,
    };
    case.sent.into_iter().map(|bytes| (bytes, case.connected.then_some(version))).collect()
}

/// Random numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).expect("small")).expect("small")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[3]
    }
}

impl Numbers {
    /// Changes up to three places.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len().max(1));
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), self.byte()),
                2 => bytes.extend_from_slice(&SEEDS[self.below(SEEDS.len())].0),
                3 if !bytes.is_empty() => drop(bytes.remove(at)),
                4 if !bytes.is_empty() => bytes[at] = self.byte(),
                _ if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
        // The length of the first packet right again, or hardly anything would be read further.
        if let (3..130, Ok(length)) = (bytes.len(), u8::try_from(bytes.len()))
            && self.below(2) == 0
        {
            bytes[1] = length - 2;
        }
    }
}

#[test]
fn a_million_mutated_packets_do_no_harm() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut some_read, mut bytes) = (0, Vec::new());
    for _ in 0..1_000_000 {
        let seeds = if numbers.below(2) == 0 { &SEEDS } else { &VALID };
        let (seed, version) = &seeds[numbers.below(seeds.len())];
        bytes.clear();
        bytes.extend_from_slice(seed);
        numbers.mutate(&mut bytes);
        let version = if numbers.below(8) == 0 { Some(VERSIONS[numbers.below(3)]) } else { *version };
        some_read += usize::from(read(&bytes, version) > 0);
    }
    // Or the mutations would be too wild to get anywhere.
    assert!(some_read > 100_000, "{some_read}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..4_usize) {
        read(&bytes, VERSIONS.get(version).copied());
    }

    #[test]
    fn any_body_of_any_packet_is_read_or_refused(
        first: u8, body in prop::collection::vec(any::<u8>(), 0..127), version in 0..4_usize
    ) {
        let length = u8::try_from(body.len()).expect("short");
        read(&[&[first, length], body.as_slice()].concat(), VERSIONS.get(version).copied());
    }

    #[test]
    fn a_packet_that_is_cut_short_waits_for_the_rest(index: prop::sample::Index, cut: prop::sample::Index) {
        let (bytes, _) = &SEEDS[index.index(SEEDS.len())];
        if let Ok(Some(frame)) = mqtt::frame(bytes, 2_000_000) {
            let short = &bytes[..cut.index(frame.len)];
            prop_assert_eq!(mqtt::frame(short, 2_000_000), Ok(None));
        }
    }

    #[test]
    fn valid_packets_one_after_another_are_read_each(
        wanted in prop::collection::vec(any::<prop::sample::Index>(), 1..20)
    ) {
        let valid: Vec<&[u8]> =
            VALID.iter().filter(|(_, version)| *version == Some(Version::V5)).map(|(bytes, _)| &bytes[..]).collect();
        let stream: Vec<&[u8]> = wanted.iter().map(|index| valid[index.index(valid.len())]).collect();
        prop_assert!(read(&stream.concat(), Some(Version::V5)) >= stream.len());
    }

    #[test]
    fn a_message_reads_as_it_was_written(
        name in "[a-z/é]{1,40}", payload in prop::collection::vec(any::<u8>(), 0..20_000),
        qos in 0..3_u8, id in 1..=u16::MAX, retain: bool, dup: bool,
        expiry in prop::option::of(any::<u32>()), alias in prop::option::of(1..=u16::MAX), version in 0..3_usize
    ) {
        let version = VERSIONS[version];
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(qos)];
        let above = qos > Qos::AtMostOnce;
        let message = mqtt::OutgoingPublish {
            topic: &name,
            topic_alias: alias.and_then(std::num::NonZeroU16::new),
            payload: &payload,
            qos,
            packet_id: mqtt::PacketId::new(id).filter(|_| above),
            retain,
            dup: dup && above,
            message_expiry_s: expiry,
            forwarded: b"\x03\0\x04text",
            subscription_ids: &[],
        };
        let mut out = Vec::new();
        encode::publish(version, &message, None, &mut out).expect("no limit");
        let frame = mqtt::frame(&out, u32::MAX).expect("a packet").expect("whole");
        prop_assert_eq!(frame.len, out.len());
        let Ok(Packet::Publish(read)) = mqtt::packet(&frame, version) else { panic!("no PUBLISH") };
        prop_assert_eq!((read.topic, read.payload, read.qos), (name.as_str(), payload.as_slice(), qos));
        prop_assert_eq!((read.packet_id, read.retain, read.dup), (message.packet_id, retain, message.dup));
        if version.is_v5() {
            prop_assert_eq!((read.topic_alias, read.message_expiry_s), (message.topic_alias, expiry));
            prop_assert_eq!(read.properties.content_type(), Some("text"));
        } else {
            prop_assert!(read.properties.is_empty());
        }
    }
}
