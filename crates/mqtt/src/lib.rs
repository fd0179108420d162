//! MQTT packets of versions 3.1, 3.1.1 and 5.0, as a server reads and writes them. Pure: no I/O, no clock.
//!
//! - [`frame`] cuts one packet out of a stream by its fixed header; a packet that is too large is told by its header.
//! - [`connect`] reads the first packet of a connection, [`packet`] every later one. What is read borrows from the
//!   input: a PUBLISH costs no allocation.
//! - [`encode`] appends what a server sends.
//! - [`topic`] has the rules of names and filters.
//!
//! # Strictness
//! A packet is read only if the specification lets a client send it: reserved bits, lengths, text, properties (place,
//! number, range) and reason codes are checked. Where the specification lets a receiver choose, the stricter choice is made: text with
//! control characters or non-characters is refused. What is wrong is told with the reason code of MQTT 5.

mod connect;
pub mod encode;
mod error;
mod frame;
mod packet;
mod properties;
mod reader;
pub mod reason;
pub mod topic;

use std::num::NonZeroU16;

pub use connect::{Connect, Refused, Will, connect};
pub use encode::{ConnackProperties, OutgoingPublish, TooLargeForClient};
pub use error::DecodeError;
pub use frame::{Frame, begins_with_connect, frame};
pub use packet::{
    AckIn, Auth, Disconnect, Filter, Packet, Publish, RetainHandling, Subscribe, Unsubscribe, packet,
};
pub use properties::ForwardedProperties;

/// Names a packet that wants an answer. Never zero. [MQTT-2.2.1-3]
pub type PacketId = NonZeroU16;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1, whose protocol is called `MQIsdp`.
    V31,
    /// 3.1.1.
    V311,
    /// 5.0.
    V5,
}

impl Version {
    /// The protocol level as CONNECT has it.
    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// Whether packets have properties and reason codes.
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// How often a message may and must arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// At most once: 0.
    AtMostOnce,
    /// At least once: 1.
    AtLeastOnce,
    /// Exactly once: 2.
    ExactlyOnce,
}

impl Qos {
    /// 0, 1 or 2.
    pub fn as_u8(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }

    /// From its two bits; 3 is none.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}
