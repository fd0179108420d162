//! Why bytes are not a packet that a client may send.

use crate::reason;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header announces more than is allowed.
    #[error("a packet of {bytes} bytes, {max} are allowed")]
    TooLarge {
        /// Bytes of the whole packet.
        bytes: u32,
        /// What is allowed.
        max: u32,
    },
    /// The first packet is something else.
    #[error("the first packet is no CONNECT")]
    NotConnect,
    /// A CONNECT of a version that is not served.
    #[error("protocol level {level} is not served: 3, 4 and 5 are")]
    UnsupportedVersion {
        /// The level it has.
        level: u8,
    },
    /// A client id that cannot be.
    #[error("an empty client id with a session that is to be kept")]
    ClientId,
    /// The bytes are no packet.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// Text that is ill-formed or has characters that may not stand in it.
    #[error("malformed text in {0}")]
    Text(&'static str),
    /// A packet that is well formed and may not be sent.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// A topic name with a wildcard, or an empty one.
    #[error("no topic name in {0}")]
    TopicName(&'static str),
    /// A topic filter whose wildcards stand where they may not, or an empty one.
    #[error("no topic filter in {0}")]
    TopicFilter(&'static str),
    /// A topic alias of zero.
    #[error("topic alias 0")]
    TopicAlias,
    /// A will whose payload says it is text and is not.
    #[error("the will says it is UTF-8 and is not")]
    PayloadFormat,
}

impl DecodeError {
    /// The reason code of MQTT 5.
    pub fn reason_code(&self) -> u8 {
        match self {
            Self::TooLarge { .. } => reason::PACKET_TOO_LARGE,
            Self::NotConnect | Self::Protocol(_) => reason::PROTOCOL_ERROR,
            Self::UnsupportedVersion { .. } => reason::UNSUPPORTED_PROTOCOL_VERSION,
            Self::ClientId => reason::CLIENT_IDENTIFIER_NOT_VALID,
            Self::Malformed(_) | Self::Text(_) => reason::MALFORMED_PACKET,
            Self::TopicName(_) => reason::TOPIC_NAME_INVALID,
            Self::TopicFilter(_) => reason::TOPIC_FILTER_INVALID,
            Self::TopicAlias => reason::TOPIC_ALIAS_INVALID,
            Self::PayloadFormat => reason::PAYLOAD_FORMAT_INVALID,
        }
    }

    /// The return code of MQTT 3's CONNACK; most errors have none, the connection is closed. [MQTT-3.1.4-1]
    pub fn connack_v3(&self) -> Option<u8> {
        match self {
            Self::UnsupportedVersion { .. } => Some(reason::v3::UNACCEPTABLE_PROTOCOL_VERSION),
            Self::ClientId => Some(reason::v3::IDENTIFIER_REJECTED),
            _ => None,
        }
    }

    /// Short name, as in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "packet_too_large",
            Self::NotConnect => "not_connect",
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::ClientId => "client_id",
            Self::Malformed(_) => "malformed",
            Self::Text(_) => "malformed_text",
            Self::Protocol(_) => "protocol_error",
            Self::TopicName(_) => "topic_name",
            Self::TopicFilter(_) => "topic_filter",
            Self::TopicAlias => "topic_alias",
            Self::PayloadFormat => "payload_format",
        }
    }
}
