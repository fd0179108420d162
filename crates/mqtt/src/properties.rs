//! Properties of MQTT 5: which packet may have which, in what range, and how often. (Section 2.2.2.2)

use std::fmt;
use std::num::NonZeroU16;

use bytes::{BufMut, Bytes, BytesMut};

use crate::reader::Reader;
use crate::{DecodeError, topic};

/// Identifiers of properties.
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT: u32 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u32 = 0x02;
    pub(crate) const CONTENT_TYPE: u32 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u32 = 0x08;
    pub(crate) const CORRELATION_DATA: u32 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u32 = 0x0b;
    pub(crate) const SESSION_EXPIRY: u32 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u32 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u32 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u32 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u32 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u32 = 0x17;
    pub(crate) const WILL_DELAY: u32 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u32 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u32 = 0x1a;
    pub(crate) const SERVER_REFERENCE: u32 = 0x1c;
    pub(crate) const REASON_STRING: u32 = 0x1f;
    pub(crate) const RECEIVE_MAX: u32 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAX: u32 = 0x22;
    pub(crate) const TOPIC_ALIAS: u32 = 0x23;
    pub(crate) const QOS_MAX: u32 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u32 = 0x25;
    pub(crate) const USER_PROPERTY: u32 = 0x26;
    pub(crate) const PACKET_BYTES_MAX: u32 = 0x27;
    pub(crate) const WILDCARDS_AVAILABLE: u32 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u32 = 0x29;
    pub(crate) const SHARED_AVAILABLE: u32 = 0x2a;
}

/// Where properties stand: the set of identifiers that may be there.
#[derive(Clone, Copy)]
pub(crate) struct Place(u64);

impl Place {
    const fn of(ids: &[u32]) -> Self {
        let mut set = 0;
        let mut index = 0;
        while index < ids.len() {
            set |= 1 << ids[index];
            index += 1;
        }
        Self(set)
    }

    pub(crate) const CONNECT: Self = Self::of(&[
        id::SESSION_EXPIRY,
        id::RECEIVE_MAX,
        id::PACKET_BYTES_MAX,
        id::TOPIC_ALIAS_MAX,
        id::REQUEST_RESPONSE_INFORMATION,
        id::REQUEST_PROBLEM_INFORMATION,
        id::USER_PROPERTY,
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
    ]);
    pub(crate) const WILL: Self = Self::of(&[
        id::WILL_DELAY,
        id::PAYLOAD_FORMAT,
        id::MESSAGE_EXPIRY,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::USER_PROPERTY,
    ]);
    pub(crate) const PUBLISH: Self = Self::of(&[
        id::PAYLOAD_FORMAT,
        id::MESSAGE_EXPIRY,
        id::TOPIC_ALIAS,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::USER_PROPERTY,
        id::CONTENT_TYPE,
    ]);
    /// What a server passes on from a PUBLISH or a will.
    const FORWARDED: Self = Self::of(&[
        id::PAYLOAD_FORMAT,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::USER_PROPERTY,
        id::CONTENT_TYPE,
    ]);
    pub(crate) const ANSWER: Self = Self::of(&[id::REASON_STRING, id::USER_PROPERTY]);
    pub(crate) const SUBSCRIBE: Self = Self::of(&[id::SUBSCRIPTION_ID, id::USER_PROPERTY]);
    pub(crate) const UNSUBSCRIBE: Self = Self::of(&[id::USER_PROPERTY]);
    pub(crate) const DISCONNECT: Self = Self::of(&[id::SESSION_EXPIRY, id::REASON_STRING, id::USER_PROPERTY]);
    pub(crate) const AUTH: Self =
        Self::of(&[id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA, id::REASON_STRING, id::USER_PROPERTY]);
}

/// What a packet's properties said. What is passed on stays in `raw`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Properties<'a> {
    pub(crate) raw: &'a [u8],
    pub(crate) payload_is_text: bool,
    pub(crate) message_expiry_s: Option<u32>,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) authentication_method: Option<&'a str>,
    pub(crate) authentication_data: Option<&'a [u8]>,
    pub(crate) no_problem_information: bool,
    pub(crate) response_information: bool,
    pub(crate) will_delay_s: Option<u32>,
    pub(crate) receive_max: Option<NonZeroU16>,
    pub(crate) topic_alias_max: Option<u16>,
    pub(crate) topic_alias: Option<NonZeroU16>,
    pub(crate) packet_bytes_max: Option<u32>,
}

impl<'a> Properties<'a> {
    /// Reads a block of properties, its length included.
    pub(crate) fn read(reader: &mut Reader<'a>, place: Place) -> Result<Self, DecodeError> {
        match reader.variable()? {
            0 => Ok(Self::default()),
            length => Self::of(reader.take(length as usize)?, place),
        }
    }

    /// Reads a block of properties without its length.
    fn of(raw: &'a [u8], place: Place) -> Result<Self, DecodeError> {
        let mut found = Self { raw, ..Self::default() };
        let mut seen = 0_u64;
        let mut block = Reader::new(raw);
        while !block.is_empty() {
            let id = block.variable()?;
            if id >= 64 || place.0 & (1 << id) == 0 {
                // What has no value or is none at all is malformed in the first place.
                value(id, &mut block)?;
                return Err(DecodeError::Protocol("a property that this packet may not have"));
            }
            // User properties may repeat; no other, as far as a client may send it.
            if id != id::USER_PROPERTY && seen & (1 << id) != 0 {
                return Err(DecodeError::Protocol("a property twice"));
            }
            seen |= 1 << id;
            found.take(id, &mut block)?;
        }
        Ok(found)
    }

    fn take(&mut self, id: u32, block: &mut Reader<'a>) -> Result<(), DecodeError> {
        match id {
            id::PAYLOAD_FORMAT => self.payload_is_text = flag(block)?,
            id::MESSAGE_EXPIRY => self.message_expiry_s = Some(block.u32()?),
            id::CONTENT_TYPE => drop(block.text("content type")?),
            id::RESPONSE_TOPIC => {
                // [MQTT-3.3.2-14]
                if !topic::is_name(block.text("response topic")?) {
                    return Err(DecodeError::Protocol("a response topic that is no topic name"));
                }
            }
            id::CORRELATION_DATA => drop(block.binary()?),
            id::SUBSCRIPTION_ID => match block.variable()? {
                0 => return Err(DecodeError::Protocol("subscription identifier 0")),
                id => self.subscription_id = Some(id),
            },
            id::SESSION_EXPIRY => self.session_expiry_s = Some(block.u32()?),
            id::AUTHENTICATION_METHOD => {
                self.authentication_method = Some(block.text("authentication method")?);
            }
            id::AUTHENTICATION_DATA => self.authentication_data = Some(block.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => self.no_problem_information = !flag(block)?,
            id::WILL_DELAY => self.will_delay_s = Some(block.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => self.response_information = flag(block)?,
            id::REASON_STRING => drop(block.text("reason string")?),
            id::RECEIVE_MAX => {
                let max = NonZeroU16::new(block.u16()?);
                self.receive_max = Some(max.ok_or(DecodeError::Protocol("Receive Maximum 0"))?);
            }
            id::TOPIC_ALIAS_MAX => self.topic_alias_max = Some(block.u16()?),
            id::TOPIC_ALIAS => {
                // [MQTT-3.3.2-8]
                let alias = NonZeroU16::new(block.u16()?);
                self.topic_alias = Some(alias.ok_or(DecodeError::TopicAlias)?);
            }
            id::USER_PROPERTY => {
                block.text("the name of a user property")?;
                block.text("the value of a user property")?;
            }
            id::PACKET_BYTES_MAX => match block.u32()? {
                0 => return Err(DecodeError::Protocol("Maximum Packet Size 0")),
                max => self.packet_bytes_max = Some(max),
            },
            // No place has another.
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }
}

fn flag(block: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match block.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Protocol("a property that is 0 or 1 and is neither")),
    }
}

const UNKNOWN: DecodeError = DecodeError::Malformed("an unknown property");

/// Properties of a message that are passed on to subscribers as they are [MQTT-3.3.2-4] [MQTT-3.3.2-15]
/// [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]: payload format, content type, response topic, correlation data and
/// user properties. Checked already.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ForwardedProperties<'a>(pub(crate) &'a [u8]);

/// What a client wrote there may be secret.
impl fmt::Debug for ForwardedProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardedProperties").field("bytes", &self.0.len()).finish_non_exhaustive()
    }
}

impl<'a> ForwardedProperties<'a> {
    /// Reads again what [`ForwardedProperties::to_bytes`] made, or somebody else.
    ///
    /// # Errors
    /// Where the bytes are no such properties.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Properties::of(bytes, Place::FORWARDED).map(|properties| Self(properties.raw))
    }

    /// Whether there is no property at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values of user properties, in their order; a name may come more than once.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.values().filter(|(id, _)| *id == id::USER_PROPERTY).filter_map(|(_, value)| {
            let mut value = Reader::new(value);
            // Checked already, and none of it is left out.
            Some((value.text("a name").ok()?, value.text("a value").ok()?))
        })
    }

    /// Where an answer is wanted: a topic name.
    pub fn response_topic(&self) -> Option<&'a str> {
        Reader::new(self.find(id::RESPONSE_TOPIC)?).text("response topic").ok()
    }

    /// What an answer is to carry.
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        Reader::new(self.find(id::CORRELATION_DATA)?).binary().ok()
    }

    /// What the payload is, in the sender's words.
    pub fn content_type(&self) -> Option<&'a str> {
        Reader::new(self.find(id::CONTENT_TYPE)?).text("content type").ok()
    }

    /// Whether the sender says that the payload is UTF-8; see [`Publish::payload_is_as_said`](crate::Publish::payload_is_as_said).
    pub fn payload_is_utf8(&self) -> bool {
        self.find(id::PAYLOAD_FORMAT) == Some(&[1])
    }

    fn find(&self, wanted: u32) -> Option<&'a [u8]> {
        self.values().find_map(|(id, value)| (id == wanted).then_some(value))
    }

    /// Every property with the bytes of its value.
    fn values(&self) -> impl Iterator<Item = (u32, &'a [u8])> + use<'a> {
        let mut block = Reader::new(self.0);
        std::iter::from_fn(move || {
            if block.is_empty() {
                return None;
            }
            // Nothing of a checked block is left out for being malformed.
            let id = block.variable().ok()?;
            Some((id, value(id, &mut block).ok()?))
        })
    }

    /// The properties to pass on, encoded, in their order, without the length.
    pub fn to_bytes(&self) -> Bytes {
        if self.is_empty() {
            return Bytes::new();
        }
        let mut kept = BytesMut::with_capacity(self.0.len());
        for (id, value) in self.values() {
            if Place::FORWARDED.0 & (1 << id) != 0 {
                kept.put_u8(u8::try_from(id).unwrap_or_default());
                kept.put_slice(value);
            }
        }
        kept.freeze()
    }
}

/// The bytes of a property's value, of every property that there is. (Table 2-4)
fn value<'a>(id: u32, block: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let whole = block.rest();
    let mut ahead = Reader::new(whole);
    match id {
        id::PAYLOAD_FORMAT
        | id::REQUEST_PROBLEM_INFORMATION
        | id::REQUEST_RESPONSE_INFORMATION
        | id::QOS_MAX
        | id::RETAIN_AVAILABLE
        | id::WILDCARDS_AVAILABLE
        | id::SUBSCRIPTION_IDS_AVAILABLE
        | id::SHARED_AVAILABLE => drop(ahead.take(1)?),
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAX | id::TOPIC_ALIAS_MAX | id::TOPIC_ALIAS => {
            ahead.take(2)?;
        }
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::PACKET_BYTES_MAX => {
            ahead.take(4)?;
        }
        id::SUBSCRIPTION_ID => drop(ahead.variable()?),
        id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::CORRELATION_DATA
        | id::ASSIGNED_CLIENT_ID
        | id::AUTHENTICATION_METHOD
        | id::AUTHENTICATION_DATA
        | id::RESPONSE_INFORMATION
        | id::SERVER_REFERENCE
        | id::REASON_STRING => drop(ahead.binary()?),
        id::USER_PROPERTY => {
            ahead.binary()?;
            ahead.binary()?;
        }
        _ => return Err(UNKNOWN),
    }
    let rest = ahead.rest();
    *block = Reader::new(rest);
    Ok(&whole[..whole.len() - rest.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(block: &[u8], place: Place) -> Result<(), DecodeError> {
        let length = u8::try_from(block.len()).expect("short");
        Properties::read(&mut Reader::new(&[&[length], block].concat()), place).map(drop)
    }

    #[test]
    fn a_property_stands_once_and_where_it_may() {
        let alias = [0x23, 0, 1];
        assert_eq!(read(&alias, Place::PUBLISH), Ok(()));
        assert!(matches!(read(&alias, Place::CONNECT), Err(DecodeError::Protocol(_))));
        assert!(matches!(read(&[alias, alias].concat(), Place::PUBLISH), Err(DecodeError::Protocol(_))));
        let user = [0x26, 0, 1, b'a', 0, 1, b'b'];
        assert_eq!(read(&[user, user].concat(), Place::PUBLISH), Ok(()));
        assert!(matches!(read(&[0x04, 0], Place::PUBLISH), Err(DecodeError::Malformed(_))));
        assert_eq!(read(&[0x23, 0, 0], Place::PUBLISH), Err(DecodeError::TopicAlias));
        assert!(matches!(read(&[0x23, 0], Place::PUBLISH), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn what_is_the_servers_business_is_not_passed_on() {
        let block = [&[0x23, 0, 1][..], &[0x26, 0, 1, b'a', 0, 1, b'b'], &[2, 0, 0, 0, 9], &[1, 1]].concat();
        let kept = ForwardedProperties(&block).to_bytes();
        assert_eq!(&kept[..], [0x26, 0, 1, b'a', 0, 1, b'b', 1, 1]);
        let again = ForwardedProperties::from_bytes(&kept).expect("what was passed on");
        assert_eq!(again.to_bytes(), kept);
        assert!(again.payload_is_utf8());
        assert!(ForwardedProperties::from_bytes(&block).is_err());
    }

    #[test]
    fn what_is_passed_on_can_be_looked_up() {
        let block = b"\x23\0\x01\x08\0\x01r\x26\0\x01a\0\x01b\x09\0\x02\0\xff\x26\0\x01a\0\x01c\x03\0\x01t";
        let forwarded = ForwardedProperties(block);
        assert_eq!(forwarded.response_topic(), Some("r"));
        assert_eq!(forwarded.correlation_data(), Some(&[0, 0xff][..]));
        assert_eq!(forwarded.content_type(), Some("t"));
        assert_eq!(forwarded.user_properties().collect::<Vec<_>>(), [("a", "b"), ("a", "c")]);
        assert!(!forwarded.payload_is_utf8());
        assert_eq!(ForwardedProperties::default().content_type(), None);
    }

    #[test]
    fn nothing_that_a_client_wrote_is_shown() {
        let shown = format!("{:?}", ForwardedProperties(b"\x26\0\x05token\0\x06secret"));
        assert_eq!(shown, "ForwardedProperties { bytes: 16, .. }");
    }

    #[test]
    fn a_property_without_its_value_is_malformed_wherever_it_stands() {
        assert!(matches!(read(&[0x11, 0, 0], Place::PUBLISH), Err(DecodeError::Malformed(_))));
        assert!(matches!(read(&[0x11, 0, 0, 0, 0], Place::PUBLISH), Err(DecodeError::Protocol(_))));
        assert!(matches!(read(&[0x0b, 0x80, 0], Place::PUBLISH), Err(DecodeError::Malformed(_))));
    }
}
