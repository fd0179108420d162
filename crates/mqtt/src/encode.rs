//! What a server sends. Everything is appended to the given buffer, and nothing else is allocated, but for text of
//! people's in CONNACK and DISCONNECT.

use std::num::NonZeroU16;

use crate::properties::id;
use crate::{PacketId, Qos, Version, reason};

/// What CONNACK tells an MQTT 5 client; what is absent has the specification's default. Everything that can be offered is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnackProperties<'a> {
    /// How long the session outlives the connection, where it is not what was asked for.
    pub session_expiry_s: Option<u32>,
    /// Most publishes of QoS 1 and 2 that the server takes at once.
    pub receive_max: Option<u16>,
    /// Largest packet that the server takes.
    pub packet_bytes_max: Option<u32>,
    /// Topic aliases that the server takes.
    pub topic_alias_max: u16,
    /// The client id that was made for a client without one.
    pub assigned_client_id: Option<&'a str>,
    /// The keep alive in force, where it is not the client's.
    pub server_keep_alive_s: Option<u16>,
    /// What was wrong, for people.
    pub reason_string: Option<&'a str>,
}

/// A message to a client.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingPublish<'a> {
    /// Where; empty where the client knows the alias.
    pub topic: &'a str,
    /// Stands for the topic from now on.
    pub topic_alias: Option<NonZeroU16>,
    /// What.
    pub payload: &'a [u8],
    /// How often it must arrive.
    pub qos: Qos,
    /// Names the exchange, where QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Whether it is a retained message.
    pub retain: bool,
    /// Whether it may have been sent before.
    pub dup: bool,
    /// How long it is still good for, seconds.
    pub message_expiry_s: Option<u32>,
    /// As [`ForwardedProperties::to_bytes`](crate::ForwardedProperties::to_bytes) gave it.
    pub forwarded: &'a [u8],
    /// Of the subscriptions that brought it.
    pub subscription_ids: &'a [u32],
}

/// The packet is larger than the client takes, or than a packet can be: it is not sent. [MQTT-3.1.2-24]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {bytes} bytes, the client takes {max}")]
pub struct TooLargeForClient {
    bytes: usize,
    max: u32,
}

/// Answers CONNECT. `code` is of the client's version. A refusal says nothing of a session [MQTT-3.2.2-6], and neither
/// does MQTT 3.1.
pub fn connack(
    version: Version,
    session_present: bool,
    code: u8,
    properties: &ConnackProperties<'_>,
    out: &mut Vec<u8>,
) {
    let start = begin(0x20, out);
    out.extend([u8::from(session_present && code == 0 && version != Version::V31), code]);
    if version.is_v5() {
        let mut block = Vec::new();
        if let Some(seconds) = properties.session_expiry_s {
            property(id::SESSION_EXPIRY, &seconds.to_be_bytes(), &mut block);
        }
        if let Some(max) = properties.receive_max.filter(|max| *max < u16::MAX) {
            property(id::RECEIVE_MAX, &max.to_be_bytes(), &mut block);
        }
        if let Some(max) = properties.packet_bytes_max {
            property(id::PACKET_BYTES_MAX, &max.to_be_bytes(), &mut block);
        }
        if properties.topic_alias_max > 0 {
            property(id::TOPIC_ALIAS_MAX, &properties.topic_alias_max.to_be_bytes(), &mut block);
        }
        if let Some(client_id) = properties.assigned_client_id {
            property(id::ASSIGNED_CLIENT_ID, &text(client_id), &mut block);
        }
        if let Some(seconds) = properties.server_keep_alive_s {
            property(id::SERVER_KEEP_ALIVE, &seconds.to_be_bytes(), &mut block);
        }
        if let Some(why) = properties.reason_string {
            property(id::REASON_STRING, &text(why), &mut block);
        }
        variable(block.len(), out);
        out.extend(block);
    }
    end(start, out);
}

/// Answers a QoS 1 publish.
pub fn puback(version: Version, packet_id: PacketId, code: u8, out: &mut Vec<u8>) {
    answer(0x40, version, packet_id, code, out);
}

/// Answers a QoS 2 publish.
pub fn pubrec(version: Version, packet_id: PacketId, code: u8, out: &mut Vec<u8>) {
    answer(0x50, version, packet_id, code, out);
}

/// Releases a QoS 2 publish of ours.
pub fn pubrel(version: Version, packet_id: PacketId, code: u8, out: &mut Vec<u8>) {
    answer(0x62, version, packet_id, code, out);
}

/// Ends a QoS 2 publish of the client's.
pub fn pubcomp(version: Version, packet_id: PacketId, code: u8, out: &mut Vec<u8>) {
    answer(0x70, version, packet_id, code, out);
}

/// Without properties, and without the reason code where it is success: both versions alike. (Section 3.4.2.1)
fn answer(first: u8, version: Version, packet_id: PacketId, code: u8, out: &mut Vec<u8>) {
    let [high, low] = packet_id.get().to_be_bytes();
    if version.is_v5() && code != reason::SUCCESS {
        out.extend([first, 3, high, low, code]);
    } else {
        out.extend([first, 2, high, low]);
    }
}

/// Answers SUBSCRIBE, a code for each filter. In MQTT 3 there is one refusal: 0x80.
pub fn suback(version: Version, packet_id: PacketId, codes: &[u8], out: &mut Vec<u8>) {
    let start = begin(0x90, out);
    out.extend(packet_id.get().to_be_bytes());
    if version.is_v5() {
        out.push(0);
        out.extend(codes);
    } else {
        out.extend(codes.iter().map(|&code| code.min(reason::UNSPECIFIED_ERROR)));
    }
    end(start, out);
}

/// Answers UNSUBSCRIBE; MQTT 3 has no codes there.
pub fn unsuback(version: Version, packet_id: PacketId, codes: &[u8], out: &mut Vec<u8>) {
    let start = begin(0xb0, out);
    out.extend(packet_id.get().to_be_bytes());
    if version.is_v5() {
        out.push(0);
        out.extend(codes);
    }
    end(start, out);
}

/// Answers PINGREQ.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend([0xd0, 0]);
}

/// Tells an MQTT 5 client why its connection ends; without the reason in words where the client would find that too
/// large. [MQTT-3.14.2-3]
pub fn disconnect(code: u8, why: Option<&str>, packet_bytes_max: Option<u32>, out: &mut Vec<u8>) {
    let mut block = Vec::new();
    if let Some(why) = why {
        property(id::REASON_STRING, &text(why), &mut block);
    }
    let fits = packet_bytes_max.is_none_or(|max| block.len() + 8 <= max as usize);
    let start = begin(0xe0, out);
    out.push(code);
    if fits && !block.is_empty() {
        variable(block.len(), out);
        out.extend(block);
    }
    end(start, out);
}

/// Properties of a message that the server makes itself, for [`OutgoingPublish::forwarded`]; an empty content type is none.
pub fn forwarded(content_type: &str, user_properties: &[(&str, &str)], out: &mut Vec<u8>) {
    if !content_type.is_empty() {
        property(id::CONTENT_TYPE, &text(content_type), out);
    }
    for (name, value) in user_properties {
        property(id::USER_PROPERTY, &text(name), out);
        out.extend(text(value));
    }
}

/// Sends a message. Properties are left out for MQTT 3.
///
/// # Errors
/// Where the packet would be larger than `packet_bytes_max`, or than a packet can be; nothing is appended then.
pub fn publish(
    version: Version,
    publish: &OutgoingPublish<'_>,
    packet_bytes_max: Option<u32>,
    out: &mut Vec<u8>,
) -> Result<(), TooLargeForClient> {
    let properties = version.is_v5().then(|| properties_bytes(publish));
    let remaining = 2
        + publish.topic.len()
        + publish.packet_id.map_or(0, |_| 2)
        + properties.map_or(0, |bytes| variable_bytes(bytes) + bytes)
        + publish.payload.len();
    let bytes = 1 + variable_bytes(remaining) + remaining;
    let max = packet_bytes_max.unwrap_or(u32::MAX);
    let too_large = TooLargeForClient { bytes, max };
    let topic_bytes = u16::try_from(publish.topic.len()).map_err(|_| too_large)?;
    if remaining > REMAINING_MAX || bytes > max as usize {
        return Err(too_large);
    }
    debug_assert_eq!(publish.packet_id.is_some(), publish.qos > Qos::AtMostOnce, "[MQTT-2.2.1-2]");
    // Without a packet id only QoS 0 can be said, and DUP not there [MQTT-3.3.1-2].
    let of_qos = match publish.packet_id {
        Some(_) => u8::from(publish.dup) << 3 | publish.qos.as_u8() << 1,
        None => 0,
    };
    out.reserve(bytes);
    out.push(0x30 | of_qos | u8::from(publish.retain));
    variable(remaining, out);
    out.extend_from_slice(&topic_bytes.to_be_bytes());
    out.extend_from_slice(publish.topic.as_bytes());
    if let Some(packet_id) = publish.packet_id {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
    }
    if let Some(bytes) = properties {
        variable(bytes, out);
        out.extend_from_slice(publish.forwarded);
        if let Some(seconds) = publish.message_expiry_s {
            property(id::MESSAGE_EXPIRY, &seconds.to_be_bytes(), out);
        }
        if let Some(alias) = publish.topic_alias {
            property(id::TOPIC_ALIAS, &alias.get().to_be_bytes(), out);
        }
        for &subscription_id in publish.subscription_ids {
            property(id::SUBSCRIPTION_ID, &[], out);
            variable(subscription_id as usize, out);
        }
    }
    out.extend_from_slice(publish.payload);
    Ok(())
}

fn properties_bytes(publish: &OutgoingPublish<'_>) -> usize {
    let ids = publish.subscription_ids.iter();
    publish.forwarded.len()
        + publish.message_expiry_s.map_or(0, |_| 5)
        + publish.topic_alias.map_or(0, |_| 3)
        + ids.map(|&subscription_id| 1 + variable_bytes(subscription_id as usize)).sum::<usize>()
}

/// Begins a packet; [`end`] puts its length in.
fn begin(first: u8, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[first, 0]);
    out.len()
}

fn end(start: usize, out: &mut Vec<u8>) {
    let (encoded, count) = encoded_variable(out.len() - start);
    out.splice(start - 1..start, encoded.into_iter().take(count));
}

/// The most that four bytes can say.
const REMAINING_MAX: usize = 268_435_455;

fn variable(value: usize, out: &mut Vec<u8>) {
    let (encoded, count) = encoded_variable(value);
    out.extend(encoded.into_iter().take(count));
}

/// Bytes of a variable byte integer, and how many of them count. No value here is above [`REMAINING_MAX`].
fn encoded_variable(value: usize) -> ([u8; 4], usize) {
    debug_assert!(value <= REMAINING_MAX, "{value}");
    let count = variable_bytes(value);
    let mut encoded = [0; 4];
    for (index, byte) in encoded.iter_mut().enumerate() {
        let [low, ..] = (value >> (7 * index)).to_le_bytes();
        *byte = if index + 1 < count { low | 0x80 } else { low & 0x7f };
    }
    (encoded, count)
}

fn variable_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn property(id: u32, value: &[u8], block: &mut Vec<u8>) {
    block.push(u8::try_from(id).unwrap_or_default());
    block.extend(value);
}

/// Text with its length; what does not fit into 65,535 bytes is cut at a character.
fn text(text: &str) -> Vec<u8> {
    let cut = text.floor_char_boundary(usize::from(u16::MAX));
    let length = u16::try_from(cut).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), &text.as_bytes()[..cut]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Frame, Packet, frame, packet};

    fn one() -> PacketId {
        PacketId::MIN
    }

    #[test]
    fn an_acknowledgement_is_four_bytes_and_five_with_a_reason() {
        let mut out = Vec::new();
        puback(Version::V5, one(), reason::SUCCESS, &mut out);
        puback(Version::V311, one(), reason::NOT_AUTHORIZED, &mut out);
        pubrec(Version::V5, one(), reason::NOT_AUTHORIZED, &mut out);
        assert_eq!(out, [0x40, 2, 0, 1, 0x40, 2, 0, 1, 0x50, 3, 0, 1, 0x87]);
    }

    #[test]
    fn a_message_reads_as_it_was_sent_and_is_not_sent_where_it_is_too_large() {
        let sent = OutgoingPublish {
            topic: "a/b",
            topic_alias: NonZeroU16::new(3),
            payload: &[b'x'; 200],
            qos: Qos::ExactlyOnce,
            packet_id: Some(one()),
            retain: true,
            dup: true,
            message_expiry_s: Some(60),
            forwarded: &[1, 1],
            subscription_ids: &[],
        };
        let mut out = Vec::new();
        publish(Version::V5, &sent, None, &mut out).expect("no limit");
        let whole: Frame<'_> = frame(&out, 1_000).expect("a packet").expect("whole");
        assert_eq!(whole.len, out.len());
        let Ok(Packet::Publish(read)) = packet(&whole, Version::V5) else { panic!("no publish") };
        assert_eq!((read.topic, read.payload, read.qos), (sent.topic, sent.payload, sent.qos));
        assert_eq!((read.retain, read.dup, read.message_expiry_s), (true, true, Some(60)));
        assert_eq!(read.topic_alias, sent.topic_alias);
        assert_eq!(&read.properties.to_bytes()[..], sent.forwarded);

        let length = u32::try_from(out.len()).expect("short");
        let mut small = vec![7];
        assert!(publish(Version::V5, &sent, Some(length - 1), &mut small).is_err());
        assert_eq!(small, [7], "nothing is left of what was refused");
        assert!(publish(Version::V5, &sent, Some(length), &mut small).is_ok());
    }

    #[test]
    fn a_length_has_as_many_bytes_as_it_needs() {
        for (value, expected) in [
            (0, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xff, 0xff, 0x7f]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (REMAINING_MAX, &[0xff, 0xff, 0xff, 0x7f]),
        ] {
            let mut out = Vec::new();
            variable(value, &mut out);
            assert_eq!(out, expected, "{value}");
        }
    }

    #[test]
    fn a_topic_that_no_packet_can_hold_is_not_cut() {
        let topic = "a".repeat(65_536);
        let sent = OutgoingPublish {
            topic: &topic,
            topic_alias: None,
            payload: b"x",
            qos: Qos::AtMostOnce,
            packet_id: None,
            retain: false,
            dup: true,
            message_expiry_s: None,
            forwarded: &[],
            subscription_ids: &[],
        };
        let mut out = Vec::new();
        assert!(publish(Version::V5, &sent, None, &mut out).is_err());
        assert!(out.is_empty());
        publish(Version::V311, &OutgoingPublish { topic: "a", ..sent }, None, &mut out).expect("small");
        assert_eq!(out, [0x30, 4, 0, 1, b'a', b'x'], "no DUP with QoS 0");
    }

    #[test]
    fn a_message_has_the_id_of_every_subscription_that_brought_it() {
        let sent = OutgoingPublish {
            topic: "a",
            topic_alias: None,
            payload: b"x",
            qos: Qos::AtMostOnce,
            packet_id: None,
            retain: false,
            dup: false,
            message_expiry_s: None,
            forwarded: &[],
            subscription_ids: &[1, 268_435_455],
        };
        let mut out = Vec::new();
        publish(Version::V5, &sent, None, &mut out).expect("small");
        assert_eq!(out, b"\x30\x0c\0\x01a\x07\x0b\x01\x0b\xff\xff\xff\x7fx");
    }

    #[test]
    fn answers_have_the_codes_of_their_version_and_no_more() {
        let mut out = Vec::new();
        suback(Version::V311, one(), &[1, reason::NOT_AUTHORIZED], &mut out);
        suback(Version::V5, one(), &[1, reason::NOT_AUTHORIZED], &mut out);
        unsuback(Version::V311, one(), &[0, 0], &mut out);
        unsuback(Version::V5, one(), &[0, 0x11], &mut out);
        let properties = ConnackProperties::default();
        connack(Version::V31, true, 0, &properties, &mut out);
        connack(Version::V311, true, 0, &properties, &mut out);
        connack(Version::V5, true, reason::BANNED, &properties, &mut out);
        let expected: [&[u8]; 7] = [
            &[0x90, 4, 0, 1, 1, 0x80],
            &[0x90, 5, 0, 1, 0, 1, 0x87],
            &[0xb0, 2, 0, 1],
            &[0xb0, 5, 0, 1, 0, 0, 0x11],
            &[0x20, 2, 0, 0],
            &[0x20, 2, 1, 0],
            &[0x20, 3, 0, 0x8a, 0],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn a_packet_of_more_than_127_bytes_has_its_length_in_two() {
        let mut out = vec![7];
        suback(Version::V5, one(), &[0; 200], &mut out);
        assert_eq!(out[..7], [7, 0x90, 0xcb, 0x01, 0, 1, 0]);
        assert_eq!(out.len(), 1 + 3 + 203);
    }

    #[test]
    fn a_goodbye_leaves_its_words_out_where_they_do_not_fit() {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        disconnect(reason::SERVER_BUSY, Some("because"), None, &mut with);
        disconnect(reason::SERVER_BUSY, Some("because"), Some(10), &mut without);
        assert_eq!(with[..3], [0xe0, 12, 0x89]);
        assert_eq!(without, [0xe0, 1, 0x89]);
    }
}
