//! Reason codes of MQTT 5 (section 2.4), and the return codes of MQTT 3's CONNACK.

macro_rules! codes {
    ($($name:ident = $code:literal, $what:literal;)*) => {
        $(#[doc = $what] pub const $name: u8 = $code;)*
    };
}

codes! {
    SUCCESS = 0x00, "Success, normal disconnection, granted QoS 0.";
    DISCONNECT_WITH_WILL = 0x04, "The client leaves and wants its will published.";
    NO_MATCHING_SUBSCRIBERS = 0x10, "Taken; nobody has subscribed to it.";
    NO_SUBSCRIPTION_EXISTED = 0x11, "Nothing to unsubscribe.";
    CONTINUE_AUTHENTICATION = 0x18, "Enhanced authentication goes on.";
    RE_AUTHENTICATE = 0x19, "Enhanced authentication begins anew.";
    UNSPECIFIED_ERROR = 0x80, "Refused, for no reason that has a code.";
    MALFORMED_PACKET = 0x81, "The bytes are no packet.";
    PROTOCOL_ERROR = 0x82, "A packet that may not come here.";
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "Not done: here, not stored in time.";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "Another version of MQTT.";
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "The client id is not allowed.";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "The credentials are not right.";
    NOT_AUTHORIZED = 0x87, "Not allowed.";
    SERVER_UNAVAILABLE = 0x88, "The server cannot serve now.";
    SERVER_BUSY = 0x89, "The server has too much to do: try again later.";
    BANNED = 0x8A, "This client is banned.";
    SERVER_SHUTTING_DOWN = 0x8B, "The server stops.";
    BAD_AUTHENTICATION_METHOD = 0x8C, "This authentication method is not offered.";
    KEEP_ALIVE_TIMEOUT = 0x8D, "Nothing came for one and a half times the keep alive.";
    SESSION_TAKEN_OVER = 0x8E, "The same client connected again.";
    TOPIC_FILTER_INVALID = 0x8F, "No topic filter.";
    TOPIC_NAME_INVALID = 0x90, "No topic name.";
    PACKET_IDENTIFIER_IN_USE = 0x91, "The packet id is taken.";
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "The packet id is not known.";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "More publishes under way than Receive Maximum.";
    TOPIC_ALIAS_INVALID = 0x94, "A topic alias of zero or above the maximum.";
    PACKET_TOO_LARGE = 0x95, "A packet above Maximum Packet Size.";
    MESSAGE_RATE_TOO_HIGH = 0x96, "Too many messages.";
    QUOTA_EXCEEDED = 0x97, "A limit was reached.";
    ADMINISTRATIVE_ACTION = 0x98, "Somebody decided so.";
    PAYLOAD_FORMAT_INVALID = 0x99, "The payload is not what it says it is.";
    RETAIN_NOT_SUPPORTED = 0x9A, "Retained messages are not offered.";
    QOS_NOT_SUPPORTED = 0x9B, "This QoS is not offered.";
    CONNECTION_RATE_EXCEEDED = 0x9F, "Too many connections a second.";
}

/// Return codes of CONNACK in MQTT 3.1 and 3.1.1.
pub mod v3 {
    codes! {
        ACCEPTED = 0x00, "Accepted.";
        UNACCEPTABLE_PROTOCOL_VERSION = 0x01, "Another version of MQTT.";
        IDENTIFIER_REJECTED = 0x02, "The client id is not allowed.";
        SERVER_UNAVAILABLE = 0x03, "The server cannot serve now.";
        BAD_USER_NAME_OR_PASSWORD = 0x04, "The credentials are not right.";
        NOT_AUTHORIZED = 0x05, "Not allowed.";
    }
}

/// Reason codes that a client may send in PUBACK and PUBREC.
pub(crate) const PUBLISH_ANSWERS: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// Reason codes that a client may send in PUBREL and PUBCOMP.
pub(crate) const RELEASE_ANSWERS: &[u8] = &[0x00, 0x92];
/// Reason codes that a client may send in DISCONNECT.
pub(crate) const CLIENT_DISCONNECTS: &[u8] =
    &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
