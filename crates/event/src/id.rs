//! Names of things: devices, sessions, gateway nodes.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// Name of a device: its MQTT client identifier unless the authentication source says otherwise.
///
/// 1 to 128 bytes of UTF-8 without control characters and without `/`, `+`, `#`: it stands as one level in
/// topics, and a wildcard or separator in it would let one device name another's topic. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Arc<str>);

/// Why a text is not a [`DeviceId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDeviceId {
    /// No text at all.
    #[error("device id is empty")]
    Empty,
    /// Longer than [`DeviceId::BYTES_MAX`].
    #[error("device id has {bytes} bytes, {max} are allowed", max = DeviceId::BYTES_MAX)]
    TooLong {
        /// How long it was.
        bytes: usize,
    },
    /// A character that may not stand in a topic level, or a control character.
    #[error("device id has the character {0:?}, which may not stand in a topic level")]
    Character(char),
}

impl DeviceId {
    /// Longest device id, in bytes. Room for a UUID, an IMEI or a serial number with a prefix.
    pub const BYTES_MAX: usize = 128;

    /// Checks a text.
    ///
    /// # Errors
    /// Where it is empty, too long, or has a character that may not stand in a topic level.
    pub fn new(text: &str) -> Result<Self, InvalidDeviceId> {
        if text.is_empty() {
            return Err(InvalidDeviceId::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(InvalidDeviceId::TooLong { bytes: text.len() });
        }
        match text.chars().find(|c| matches!(c, '/' | '+' | '#') || c.is_control()) {
            Some(c) => Err(InvalidDeviceId::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Name of a session, which is one MQTT network connection: a UUIDv7 made by the gateway, so that ids made
/// by one node sort by the time of their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub Uuid);

impl SessionId {
    /// A new id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a gateway node: stable over restarts, unique in the installation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub Arc<str>);

#[cfg(test)]
mod tests {
    use super::{DeviceId, InvalidDeviceId};

    #[test]
    fn a_device_id_cannot_name_another_topic() {
        for bad in ["a/b", "+", "#", "a#", "a\0", "a\n"] {
            assert!(matches!(DeviceId::new(bad), Err(InvalidDeviceId::Character(_))), "{bad:?}");
        }
        assert_eq!(DeviceId::new(""), Err(InvalidDeviceId::Empty));
        assert_eq!(DeviceId::new(&"x".repeat(129)), Err(InvalidDeviceId::TooLong { bytes: 129 }));
        assert_eq!(DeviceId::new("scooter-ü-1").map(|id| id.to_string()), Ok("scooter-ü-1".into()));
    }
}
