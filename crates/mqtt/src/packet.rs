//! Every packet that a client may send after its CONNECT.

use std::fmt;
use std::num::NonZeroU16;

use crate::properties::{Place, Properties};
use crate::reader::Reader;
use crate::{DecodeError, ForwardedProperties, Frame, PacketId, Qos, Version, reason, topic};

/// What a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A message.
    Publish(Publish<'a>),
    /// A QoS 1 message of ours is taken.
    Puback(AckIn),
    /// A QoS 2 message of ours is taken.
    Pubrec(AckIn),
    /// A QoS 2 message of the client's is released.
    Pubrel(AckIn),
    /// A QoS 2 message of ours is done with.
    Pubcomp(AckIn),
    /// Subscriptions.
    Subscribe(Subscribe<'a>),
    /// The end of subscriptions.
    Unsubscribe(Unsubscribe<'a>),
    /// A sign of life.
    Pingreq,
    /// The client leaves.
    Disconnect(Disconnect),
    /// Enhanced authentication.
    Auth(Auth<'a>),
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where; empty where an alias stands for it.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// How often it must arrive.
    pub qos: Qos,
    /// Names the exchange; there where QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Stands for a topic.
    pub topic_alias: Option<NonZeroU16>,
    /// How long it is good for, seconds.
    pub message_expiry_s: Option<u32>,
    /// What is passed on.
    pub properties: ForwardedProperties<'a>,
}

impl Publish<'_> {
    /// Whether the payload is UTF-8 where the sender says so. If not, the receiver may answer with
    /// [`reason::PAYLOAD_FORMAT_INVALID`] (MQTT 5, 3.3.2.3.2); the packet itself is well formed.
    pub fn payload_is_as_said(&self) -> bool {
        !self.properties.payload_is_utf8() || str::from_utf8(self.payload).is_ok()
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckIn {
    /// Which exchange.
    pub packet_id: PacketId,
    /// The reason code; 0 in MQTT 3.
    pub reason: u8,
}

/// Subscriptions. Its filters are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Names the exchange.
    pub packet_id: PacketId,
    /// Comes with each message that these subscriptions bring.
    pub subscription_id: Option<u32>,
    filters: &'a [u8],
    count: usize,
    version: Version,
}

/// One subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    /// Which topics.
    pub filter: &'a str,
    /// The highest QoS wanted.
    pub qos: Qos,
    /// Not what the client published itself.
    pub no_local: bool,
    /// Whether the retain flag comes as it was published.
    pub retain_as_published: bool,
    /// Whether retained messages are sent at once.
    pub retain_handling: RetainHandling,
}

/// Whether retained messages are sent when a subscription is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    /// Always.
    Send,
    /// Where the subscription is new.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// The end of subscriptions. Its filters are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Names the exchange.
    pub packet_id: PacketId,
    filters: &'a [u8],
    count: usize,
}

/// The client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// The reason code; 0 in MQTT 3.
    pub reason: u8,
    /// How long the session is to last from now on, seconds.
    pub session_expiry_s: Option<u32>,
}

/// Enhanced authentication.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// The reason code.
    pub reason: u8,
    /// The method; there always.
    pub method: Option<&'a str>,
    /// What the method wants.
    pub data: Option<&'a [u8]>,
}

/// The data is not shown.
impl fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// Reads a packet that came after CONNECT.
///
/// # Errors
/// Where the bytes are no packet, or one that a client may not send, a second CONNECT included. [MQTT-3.1.0-2]
pub fn packet<'a>(frame: &Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
    let (kind, flags) = (frame.first >> 4, frame.first & 0x0f);
    frame.check_length(version)?;
    if kind == 3 {
        return publish(frame, version).map(Packet::Publish);
    }
    // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]; all others have none. [MQTT-2.1.3-1] In MQTT 3.1 some of these are
    // sent again with DUP, and the others' flags mean nothing.
    let expected = if matches!(kind, 6 | 8 | 10) { 0b0010 } else { 0 };
    if flags != expected && version != Version::V31 {
        return Err(DecodeError::Malformed("flags of the fixed header"));
    }
    let mut reader = Reader::new(frame.body);
    match kind {
        1 => Err(DecodeError::Protocol("a second CONNECT")),
        4 => answer(&mut reader, version, reason::PUBLISH_ANSWERS).map(Packet::Puback),
        5 => answer(&mut reader, version, reason::PUBLISH_ANSWERS).map(Packet::Pubrec),
        6 => answer(&mut reader, version, reason::RELEASE_ANSWERS).map(Packet::Pubrel),
        7 => answer(&mut reader, version, reason::RELEASE_ANSWERS).map(Packet::Pubcomp),
        8 => subscribe(&mut reader, version).map(Packet::Subscribe),
        10 => unsubscribe(&mut reader, version).map(Packet::Unsubscribe),
        12 => reader.end().map(|()| Packet::Pingreq),
        14 => disconnect(&mut reader, version).map(Packet::Disconnect),
        15 if version.is_v5() => auth(&mut reader).map(Packet::Auth),
        2 => Err(DecodeError::Protocol("CONNACK from a client")),
        9 => Err(DecodeError::Protocol("SUBACK from a client")),
        11 => Err(DecodeError::Protocol("UNSUBACK from a client")),
        13 => Err(DecodeError::Protocol("PINGRESP from a client")),
        _ => Err(DecodeError::Malformed("a reserved packet type")),
    }
}

fn publish<'a>(frame: &Frame<'a>, version: Version) -> Result<Publish<'a>, DecodeError> {
    let first = frame.first;
    // [MQTT-3.3.1-4]
    let qos = Qos::from_bits(first >> 1 & 3).ok_or(DecodeError::Malformed("QoS 3"))?;
    let (dup, retain) = (first & 0x08 != 0, first & 0x01 != 0);
    if dup && qos == Qos::AtMostOnce {
        // [MQTT-3.3.1-2]
        return Err(DecodeError::Malformed("DUP with QoS 0"));
    }
    let mut reader = Reader::new(frame.body);
    let topic = reader.text("topic")?;
    let packet_id = if qos == Qos::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let properties =
        if version.is_v5() { Properties::read(&mut reader, Place::PUBLISH)? } else { Properties::default() };
    if !topic::is_name(topic) {
        if !topic.is_empty() {
            // [MQTT-3.3.2-2]
            return Err(DecodeError::TopicName("PUBLISH"));
        }
        if properties.topic_alias.is_none() {
            return Err(DecodeError::Protocol("neither topic nor alias"));
        }
    }
    Ok(Publish {
        topic,
        payload: reader.rest(),
        qos,
        packet_id,
        retain,
        dup,
        topic_alias: properties.topic_alias,
        message_expiry_s: properties.message_expiry_s,
        properties: ForwardedProperties(properties.raw),
    })
}

fn answer(reader: &mut Reader<'_>, version: Version, allowed: &[u8]) -> Result<AckIn, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut code = reason::SUCCESS;
    if version.is_v5() && !reader.is_empty() {
        code = reason_code(reader, allowed)?;
        if !reader.is_empty() {
            Properties::read(reader, Place::ANSWER)?;
        }
    }
    reader.end()?;
    Ok(AckIn { packet_id, reason: code })
}

fn reason_code(reader: &mut Reader<'_>, allowed: &[u8]) -> Result<u8, DecodeError> {
    let code = reader.u8()?;
    if allowed.contains(&code) {
        Ok(code)
    } else {
        Err(DecodeError::Protocol("a reason code that this packet may not have"))
    }
}

fn subscribe<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Subscribe<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let properties =
        if version.is_v5() { Properties::read(reader, Place::SUBSCRIBE)? } else { Properties::default() };
    let filters = reader.rest();
    let mut checked = Reader::new(filters);
    if checked.is_empty() {
        // [MQTT-3.8.3-2]
        return Err(DecodeError::Protocol("SUBSCRIBE without a filter"));
    }
    let mut count = 0;
    while !checked.is_empty() {
        filter(&mut checked, version)?;
        count += 1;
    }
    Ok(Subscribe { packet_id, subscription_id: properties.subscription_id, filters, count, version })
}

fn filter<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Filter<'a>, DecodeError> {
    let filter = filter_text(reader)?;
    let options = reader.u8()?;
    let reserved = if version.is_v5() { 0xc0 } else { 0xfc };
    if options & reserved != 0 {
        // [MQTT-3.8.3-5]
        return Err(DecodeError::Malformed("reserved bits of a subscription"));
    }
    let qos = Qos::from_bits(options & 3).ok_or(DecodeError::Malformed("QoS 3 of a subscription"))?;
    let no_local = options & 0x04 != 0;
    if no_local && topic::shared(filter).is_some() {
        // [MQTT-3.8.3-4]
        return Err(DecodeError::Protocol("no local with a shared subscription"));
    }
    let retain_handling = match options >> 4 & 3 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::Protocol("retain handling 3")),
    };
    Ok(Filter { filter, qos, no_local, retain_as_published: options & 0x08 != 0, retain_handling })
}

fn filter_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let filter = reader.text("topic filter")?;
    if topic::is_filter(filter) { Ok(filter) } else { Err(DecodeError::TopicFilter("a subscription")) }
}

fn unsubscribe<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Unsubscribe<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    if version.is_v5() {
        Properties::read(reader, Place::UNSUBSCRIBE)?;
    }
    let filters = reader.rest();
    let mut checked = Reader::new(filters);
    if checked.is_empty() {
        // [MQTT-3.10.3-2]
        return Err(DecodeError::Protocol("UNSUBSCRIBE without a filter"));
    }
    let mut count = 0;
    while !checked.is_empty() {
        filter_text(&mut checked)?;
        count += 1;
    }
    Ok(Unsubscribe { packet_id, filters, count })
}

impl<'a> Subscribe<'a> {
    /// How many; never 0.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The subscriptions, in their order.
    pub fn filters(&self) -> impl Iterator<Item = Filter<'a>> + use<'a> {
        let (mut reader, version) = (Reader::new(self.filters), self.version);
        std::iter::from_fn(move || (!reader.is_empty()).then(|| filter(&mut reader, version).ok()).flatten())
    }
}

impl<'a> Unsubscribe<'a> {
    /// How many; never 0.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The filters, in their order.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.filters);
        std::iter::from_fn(move || (!reader.is_empty()).then(|| filter_text(&mut reader).ok()).flatten())
    }
}

fn disconnect(reader: &mut Reader<'_>, version: Version) -> Result<Disconnect, DecodeError> {
    let (mut code, mut session_expiry_s) = (reason::SUCCESS, None);
    if version.is_v5() && !reader.is_empty() {
        code = reason_code(reader, reason::CLIENT_DISCONNECTS)?;
        if !reader.is_empty() {
            session_expiry_s = Properties::read(reader, Place::DISCONNECT)?.session_expiry_s;
        }
    }
    reader.end()?;
    Ok(Disconnect { reason: code, session_expiry_s })
}

fn auth<'a>(reader: &mut Reader<'a>) -> Result<Auth<'a>, DecodeError> {
    // Nothing at all would mean success, which only a server says. (Table 3-11)
    let code = match reader.is_empty() {
        true => reason::SUCCESS,
        false => reason_code(reader, &[reason::CONTINUE_AUTHENTICATION, reason::RE_AUTHENTICATE])?,
    };
    let properties =
        if reader.is_empty() { Properties::default() } else { Properties::read(reader, Place::AUTH)? };
    reader.end()?;
    if code == reason::SUCCESS || properties.authentication_method.is_none() {
        return Err(DecodeError::Protocol("AUTH without a reason or without a method"));
    }
    Ok(Auth { reason: code, method: properties.authentication_method, data: properties.authentication_data })
}
