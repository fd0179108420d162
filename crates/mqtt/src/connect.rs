//! CONNECT: the first packet of a connection. (Section 3.1)

use std::fmt;

use crate::properties::{Place, Properties};
use crate::reader::Reader;
use crate::{DecodeError, ForwardedProperties, Frame, Qos, Version, topic};

/// A request to open a session.
#[derive(Clone, Copy)]
pub struct Connect<'a> {
    /// The version that the client speaks.
    pub version: Version,
    /// Clean session in MQTT 3.
    pub clean_start: bool,
    /// Keep alive, seconds; 0 is none.
    pub keep_alive_s: u16,
    /// The client id; may be empty.
    pub client_id: &'a str,
    /// What is to be published when the connection is lost.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// How long the session is to outlive the connection, seconds; `u32::MAX` is for ever.
    pub session_expiry_s: Option<u32>,
    /// Most publishes of QoS 1 and 2 that the client takes at once.
    pub receive_max: u16,
    /// Largest packet that the client takes.
    pub packet_bytes_max: Option<u32>,
    /// Topic aliases that the client takes.
    pub topic_alias_max: u16,
    /// Whether the client wants to know where responses may go.
    pub request_response_information: bool,
    /// Whether reason strings and user properties may stand in answers.
    pub request_problem_information: bool,
    /// Method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Data of enhanced authentication.
    pub authentication_data: Option<&'a [u8]>,
}

/// No secret is shown.
impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("client_id", &self.client_id)
            .field("username", &self.username.is_some())
            .field("password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

/// What is to be published when a connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// How often it must arrive.
    pub qos: Qos,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// How long after the connection's end, seconds.
    pub delay_s: u32,
    /// How long it is good for once published, seconds.
    pub message_expiry_s: Option<u32>,
    /// What is passed on.
    pub properties: ForwardedProperties<'a>,
}

/// A CONNECT that cannot be, with the version in which that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// What is wrong.
    pub error: DecodeError,
    /// How far the client got to say its version; 3.1.1 where it did not.
    pub version: Version,
}

/// Reads the first packet of a connection.
///
/// # Errors
/// Where it is no CONNECT, or one that may not be sent.
pub fn connect<'a>(frame: &Frame<'a>) -> Result<Connect<'a>, Refused> {
    let untold = |error| Refused { error, version: Version::V311 };
    crate::begins_with_connect(&[frame.first]).map_err(untold)?;
    let mut reader = Reader::new(frame.body);
    let version = version(&mut reader).map_err(untold)??;
    // [MQTT-2.1.3-1]; MQTT 3.1 does not use them.
    if frame.first != 0x10 && version != Version::V31 {
        return Err(Refused { error: DecodeError::Malformed("flags of CONNECT"), version });
    }
    frame.check_length(version).map_err(|error| Refused { error, version })?;
    read(&mut reader, version).map_err(|error| Refused { error, version })
}

/// The version, or the refusal of one that is not served. [MQTT-3.1.2-1] [MQTT-3.1.2-2]
fn version(reader: &mut Reader<'_>) -> Result<Result<Version, Refused>, DecodeError> {
    let name = reader.binary()?;
    let level = reader.u8()?;
    Ok(match (name, level) {
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT" | b"MQIsdp", level) => Err(Refused {
            error: DecodeError::UnsupportedVersion { level },
            // A later version is answered in the latest that is known.
            version: if level > 5 { Version::V5 } else { Version::V311 },
        }),
        _ => return Err(DecodeError::Malformed("the protocol's name")),
    })
}

fn read<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Connect<'a>, DecodeError> {
    let flags = reader.u8()?;
    // [MQTT-3.1.2-3]; MQTT 3.1 has no word on it.
    if flags & 0x01 != 0 && version != Version::V31 {
        return Err(DecodeError::Malformed("the reserved flag of CONNECT"));
    }
    let clean_start = flags & 0x02 != 0;
    let (has_will, will_retain) = (flags & 0x04 != 0, flags & 0x20 != 0);
    let (has_password, has_username) = (flags & 0x40 != 0, flags & 0x80 != 0);
    let will_qos = Qos::from_bits(flags >> 3 & 3).ok_or(DecodeError::Malformed("QoS 3 of the will"))?;
    if !has_will && (will_retain || will_qos != Qos::AtMostOnce) {
        // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
        return Err(DecodeError::Malformed("flags of a will that is not there"));
    }
    if has_password && !has_username && !version.is_v5() {
        // [MQTT-3.1.2-22] of 3.1.1
        return Err(DecodeError::Malformed("a password without a user name"));
    }
    let keep_alive_s = reader.u16()?;
    let properties =
        if version.is_v5() { Properties::read(reader, Place::CONNECT)? } else { Properties::default() };
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(DecodeError::Protocol("authentication data without a method"));
    }
    let client_id = reader.text("client id")?;
    if client_id.is_empty() && (version == Version::V31 || (version == Version::V311 && !clean_start)) {
        // [MQTT-3.1.3-8] of 3.1.1
        return Err(DecodeError::ClientId);
    }
    let will = if has_will { Some(read_will(reader, version, will_qos, will_retain)?) } else { None };
    // In MQTT 3.1 the length of the packet decides: a flag without its field is to be let pass.
    let may_lack = |reader: &Reader<'_>| version == Version::V31 && reader.is_empty();
    let username = if has_username && !may_lack(reader) { Some(reader.text("user name")?) } else { None };
    let password = if has_password && !may_lack(reader) { Some(reader.binary()?) } else { None };
    reader.end()?;
    Ok(Connect {
        version,
        clean_start,
        keep_alive_s,
        client_id,
        will,
        username,
        password,
        session_expiry_s: properties.session_expiry_s,
        receive_max: properties.receive_max.map_or(u16::MAX, Into::into),
        packet_bytes_max: properties.packet_bytes_max,
        topic_alias_max: properties.topic_alias_max.unwrap_or(0),
        request_response_information: properties.response_information,
        request_problem_information: !properties.no_problem_information,
        authentication_method: properties.authentication_method,
        authentication_data: properties.authentication_data,
    })
}

fn read_will<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    qos: Qos,
    retain: bool,
) -> Result<Will<'a>, DecodeError> {
    let properties =
        if version.is_v5() { Properties::read(reader, Place::WILL)? } else { Properties::default() };
    let topic = reader.text("the will's topic")?;
    if !topic::is_name(topic) {
        return Err(DecodeError::TopicName("the will"));
    }
    let payload = reader.binary()?;
    if properties.payload_is_text && str::from_utf8(payload).is_err() {
        return Err(DecodeError::PayloadFormat);
    }
    Ok(Will {
        topic,
        payload,
        qos,
        retain,
        delay_s: properties.will_delay_s.unwrap_or(0),
        message_expiry_s: properties.message_expiry_s,
        properties: ForwardedProperties(properties.raw),
    })
}
