//! A command to a device: what it is, and how it stands on Kafka.

use std::fmt;

use bytes::Bytes;
use event::v1::{CommandIssued, CommandRecord, CommandSettled, CommandStep, command_record::Kind};
use event::{DeviceId, Millis, NodeId};
use prost::Message;
use uuid::Uuid;

/// Name of a command: a UUIDv7 made by the node that took it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub Uuid);

impl CommandId {
    /// A new id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    pub(crate) fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A command that Kafka holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCommand {
    /// Its name; goes to the device as the MQTT 5 user property [`IssuedCommand::ID_PROPERTY`].
    pub id: CommandId,
    /// To whom.
    pub device_id: DeviceId,
    /// What: the last level of the topic.
    pub name: String,
    /// Bytes of the PUBLISH.
    pub payload: Bytes,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// As in MQTT 5; empty where nobody said.
    pub content_type: String,
    /// When it was taken in.
    pub issued_at: Millis,
    /// When it is over.
    pub expires_at: Millis,
    /// Who issued it.
    pub issued_by: String,
    /// The node that took it in.
    pub origin: NodeId,
}

/// Room that a command takes beside its texts: entries of three maps.
const OVERHEAD_BYTES: usize = 400;

impl IssuedCommand {
    /// Name of the user property that carries the command's id.
    pub const ID_PROPERTY: &'static str = "command-id";

    /// Where it is published: `devices/{device_id}/commands/{name}`.
    pub fn topic(&self) -> String {
        format!("devices/{}/commands/{}", self.device_id, self.name)
    }

    /// Seconds until it is over, the MQTT 5 Message Expiry Interval; nothing where it is over.
    pub fn expires_in_s(&self, now: Millis) -> Option<u32> {
        let left_ms = self.expires_at.0.saturating_sub(now.0);
        (left_ms > 0).then(|| u32::try_from(left_ms.saturating_add(999) / 1_000).unwrap_or(u32::MAX))
    }

    /// What it costs to keep.
    pub(crate) fn bytes(&self) -> usize {
        OVERHEAD_BYTES
            + self.payload.len()
            + self.device_id.as_str().len()
            + self.name.len()
            + self.content_type.len()
            + self.issued_by.len()
    }

    /// The record that every node hears.
    pub(crate) fn record(&self) -> Vec<u8> {
        let issued = CommandIssued {
            command_id: self.id.bytes(),
            device_id: self.device_id.as_str().to_owned(),
            name: self.name.clone(),
            payload: self.payload.clone(),
            qos: self.qos.into(),
            content_type: self.content_type.clone(),
            issued_at_ms: self.issued_at.0,
            expires_at_ms: self.expires_at.0,
            issued_by: self.issued_by.clone(),
            origin_node_id: self.origin.0.as_ref().to_owned(),
        };
        CommandRecord { kind: Some(Kind::Issued(issued)) }.encode_to_vec()
    }
}

/// What a record of the commands topic says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Issued(IssuedCommand),
    Settled(CommandId),
}

/// A record that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableCommand {
    #[error("it is no command record")]
    Record(#[from] prost::DecodeError),
    #[error("it is of a kind that this version does not know")]
    Kind,
    #[error("its command id is no uuid")]
    CommandId(#[from] uuid::Error),
    #[error("its device is none")]
    DeviceId(#[from] event::InvalidDeviceId),
    #[error("its name is none")]
    Name(#[from] InvalidName),
}

/// Reads a record.
pub(crate) fn read(payload: &[u8]) -> Result<Said, UnreadableCommand> {
    match CommandRecord::decode(payload)?.kind.ok_or(UnreadableCommand::Kind)? {
        Kind::Issued(issued) => Ok(Said::Issued(IssuedCommand {
            id: CommandId(Uuid::from_slice(&issued.command_id)?),
            device_id: DeviceId::new(&issued.device_id)?,
            name: checked_name(issued.name)?,
            payload: issued.payload,
            qos: u8::try_from(issued.qos).unwrap_or(1).min(2),
            content_type: issued.content_type,
            issued_at: Millis(issued.issued_at_ms),
            expires_at: Millis(issued.expires_at_ms),
            issued_by: issued.issued_by,
            origin: NodeId(issued.origin_node_id.into()),
        })),
        Kind::Settled(settled) => Ok(Said::Settled(CommandId(Uuid::from_slice(&settled.command_id)?))),
    }
}

/// The record that says that a command needs nobody any more.
pub(crate) fn settled(command: &IssuedCommand, outcome: CommandStep, node: &NodeId) -> Vec<u8> {
    let settled = CommandSettled {
        command_id: command.id.bytes(),
        device_id: command.device_id.as_str().to_owned(),
        outcome: outcome.into(),
        node_id: node.0.as_ref().to_owned(),
    };
    CommandRecord { kind: Some(Kind::Settled(settled)) }.encode_to_vec()
}

/// Longest name of a command, bytes.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Why a text is no name of a command: it stands as one level in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a command's name has 1 to {NAME_BYTES_MAX} bytes without `/`, `+`, `#` and control characters")]
pub struct InvalidName;

/// Checks a name.
pub(crate) fn checked_name(name: String) -> Result<String, InvalidName> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    let stands = !name.chars().any(|c| matches!(c, '/' | '+' | '#') || c.is_control());
    if fits && stands { Ok(name) } else { Err(InvalidName) }
}

#[cfg(test)]
pub(crate) fn for_tests(device: &str, expires_at: i64) -> IssuedCommand {
    IssuedCommand {
        id: CommandId::generate(),
        device_id: DeviceId::new(device).expect("a device id"),
        name: "unlock".into(),
        payload: Bytes::from_static(b"{}"),
        qos: 1,
        content_type: "application/json".into(),
        issued_at: Millis(0),
        expires_at: Millis(expires_at),
        issued_by: "backend".into(),
        origin: NodeId("gateway-1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_comes_back_from_its_record_as_it_was() {
        let command = for_tests("scooter-1", 60_000);
        assert_eq!(read(&command.record()).expect("a record"), Said::Issued(command.clone()));
        let done = settled(&command, CommandStep::Delivered, &command.origin);
        assert_eq!(read(&done).expect("a record"), Said::Settled(command.id));
        assert_eq!(command.topic(), "devices/scooter-1/commands/unlock");
    }

    #[test]
    fn a_record_that_names_another_topic_is_not_read() {
        let mut command = for_tests("scooter-1", 60_000);
        for name in ["", "a/b", "#", "+", "a\0"] {
            name.clone_into(&mut command.name);
            assert!(matches!(read(&command.record()), Err(UnreadableCommand::Name(_))), "{name:?}");
        }
        assert!(matches!(read(b""), Err(UnreadableCommand::Kind)));
        assert!(matches!(read(b"\xff"), Err(UnreadableCommand::Record(_))));
    }

    #[test]
    fn the_time_left_is_told_in_whole_seconds_and_ends() {
        let command = for_tests("scooter-1", 60_000);
        assert_eq!(command.expires_in_s(Millis(0)), Some(60));
        assert_eq!(command.expires_in_s(Millis(59_999)), Some(1));
        assert_eq!(command.expires_in_s(Millis(60_000)), None);
    }
}
