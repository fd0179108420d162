//! Commands between Kafka and this node's connections: as messages of the broker that carry the command's id, so that a
//! device hears them like everything else it subscribes to, and its acknowledgement finds its way back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, Message};
use bytes::Bytes;
use event::DeviceId;
use mqtt::{Publish, Qos, reason};

use crate::downlink::{CommandId, Deliver, Downlink, IssueError, IssuedCommand, NewCommand};
use crate::session::Session;

/// Hands commands to the sessions of this node.
pub(crate) struct Handout(pub Broker);

impl Deliver for Handout {
    fn deliver(&self, device: &DeviceId, command: Arc<IssuedCommand>) -> bool {
        // A device's session has its id as its key.
        self.0.offer(device.as_str(), message(&command))
    }
}

/// Where a command is published: `devices/{device_id}/commands/{name}`.
pub(crate) struct Target<'a> {
    pub device_id: &'a str,
    pub name: &'a str,
}

/// Reads a topic; `None` where it is no command's.
pub(crate) fn target(topic: &str) -> Option<Target<'_>> {
    let (device_id, rest) = topic.strip_prefix("devices/")?.split_once('/')?;
    let name = rest.strip_prefix("commands/")?;
    Some(Target { device_id, name })
}

/// The command that a client asks for by publishing.
pub(crate) fn asked(
    target: &Target<'_>,
    publish: &Publish<'_>,
    issued_by: &str,
) -> Result<NewCommand, event::InvalidDeviceId> {
    Ok(NewCommand {
        device_id: DeviceId::new(target.device_id)?,
        name: target.name.to_owned(),
        payload: Bytes::copy_from_slice(publish.payload),
        qos: publish.qos.as_u8(),
        content_type: publish.properties.content_type().unwrap_or_default().to_owned(),
        expires_in_s: publish.message_expiry_s,
        issued_by: issued_by.to_owned(),
    })
}

/// Hands out what waits for a device that has just subscribed.
pub(crate) fn offer_waiting(device: &DeviceId, downlink: &Downlink, broker: &Broker) {
    for command in downlink.for_device(device) {
        broker.offer(device.as_str(), message(&command));
    }
}

/// A command went out.
pub(crate) fn sent(tag: u128, session: &Session, downlink: &Downlink) {
    if let Some(command) = downlink.waiting(id(tag)) {
        downlink.sent(&command, session.id);
    }
}

/// The device answered to a command, in its time or after it.
pub(crate) fn answered(tag: u128, code: u8, session: &Session, downlink: &Downlink) {
    if let Some(command) = downlink.answerable(id(tag)) {
        downlink.delivered(&command, session.id, code);
    }
}

/// The reason code for whoever asked for a command that was not taken in.
pub(crate) fn code(error: &IssueError) -> u8 {
    match error {
        IssueError::Name(_) => reason::TOPIC_NAME_INVALID,
        IssueError::Full(_) => reason::QUOTA_EXCEEDED,
        IssueError::TooLarge { .. } => reason::PACKET_TOO_LARGE,
        IssueError::Qos(_)
        | IssueError::Life { .. }
        | IssueError::TooLong { .. }
        | IssueError::Busy
        | IssueError::Queue(_)
        | IssueError::NotStored(_) => reason::IMPLEMENTATION_SPECIFIC_ERROR,
    }
}

fn id(tag: u128) -> CommandId {
    CommandId(uuid::Uuid::from_u128(tag))
}

fn message(command: &IssuedCommand) -> Message {
    let left = command.expires_in_s(crate::now()).unwrap_or(0);
    let id = command.id.to_string();
    let mut properties = Vec::new();
    mqtt::encode::forwarded(&command.content_type, &[(IssuedCommand::ID_PROPERTY, &id)], &mut properties);
    Message {
        topic: command.topic().into(),
        payload: command.payload.clone(),
        qos: match command.qos {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        },
        retain: false,
        properties: properties.into(),
        expires_at: Instant::now().checked_add(Duration::from_secs(left.into())),
        tag: Some(command.id.0.as_u128()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_its_device_and_itself() {
        let found = target("devices/a/commands/lock").map(|target| (target.device_id, target.name));
        assert_eq!(found, Some(("a", "lock")));
        for other in
            ["devices/a/command/lock", "devices/a", "x/devices/a/commands/lock", "devices/a/commands"]
        {
            assert!(target(other).is_none(), "{other}");
        }
    }
}
