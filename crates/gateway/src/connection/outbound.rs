//! What a client is sent: messages of its subscriptions and commands, with what it answers to them.

use std::sync::Arc;

use access::Kind;
use broker::{Completed, Detach, Expiry, Link, Outgoing, WillFate};
use event::v1::DisconnectReason as Reason;
use mqtt::{AckIn, OutgoingPublish, PacketId, reason};
use std::num::NonZeroU16;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::commands;
use crate::end::End;

/// Bytes that are made ready in one go; then they are written, and the socket sets the pace.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Makes ready what the broker has for this client, as much as its Receive Maximum and one write allow.
    pub(super) fn take_outgoing(&mut self) -> Result<(), End> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        if !link.is_alive() {
            let ended = End::told(Reason::ServerError, reason::UNSPECIFIED_ERROR);
            return Err(ended.because("subscriptions were lost: connect again"));
        }
        loop {
            if self.outbox.len() >= OUTBOX_BYTES_MAX {
                link.wake();
                break;
            }
            match link.next() {
                None => break,
                Some(Outgoing::Pubrel(packet_id)) => {
                    mqtt::encode::pubrel(self.version, packet_id, reason::SUCCESS, &mut self.outbox);
                }
                Some(Outgoing::Publish {
                    message,
                    qos,
                    packet_id,
                    dup,
                    retain,
                    subscription_ids,
                    expires_in_s,
                }) => {
                    let (topic_alias, topic) = self.aliases_out.of(&message.topic);
                    let publish = OutgoingPublish {
                        topic,
                        topic_alias,
                        payload: &message.payload,
                        qos,
                        packet_id,
                        retain,
                        dup,
                        message_expiry_s: expires_in_s,
                        forwarded: &message.properties,
                        subscription_ids: &subscription_ids,
                    };
                    let encoded = mqtt::encode::publish(
                        self.version,
                        &publish,
                        self.limits.packet_bytes_max,
                        &mut self.outbox,
                    );
                    match encoded {
                        Ok(()) => {
                            self.aliases_out.sent(&message.topic, topic_alias);
                            self.session.traffic.messages_out += 1;
                            self.shared.meter.sent.increment(1);
                            if let Some(tag) = message.tag {
                                commands::sent(tag, &self.session, &self.shared.downlink);
                            }
                        }
                        Err(_too_large) => {
                            // Treated as if it had been sent and answered [MQTT-3.1.2-25].
                            self.shared.meter.too_large_for_client.increment(1);
                            link.discard(packet_id);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_puback(&mut self, ack: AckIn) -> Result<(), End> {
        self.complete(ack, |link, id| link.puback(id))
    }

    pub(super) fn take_pubcomp(&mut self, ack: AckIn) -> Result<(), End> {
        self.complete(ack, |link, id| link.pubcomp(id))
    }

    /// A message of ours came to its end; a command is delivered by that.
    fn complete(
        &mut self,
        ack: AckIn,
        how: impl FnOnce(&mut Link, PacketId) -> Completed,
    ) -> Result<(), End> {
        let completed = self.link.as_mut().map(|link| how(link, ack.packet_id)).unwrap_or_default();
        self.completed(completed, ack)?;
        self.take_outgoing()
    }

    pub(super) fn take_pubrec(&mut self, ack: AckIn) -> Result<(), End> {
        let ok = ack.reason < 0x80;
        let pubrec = |link: &mut Link| link.pubrec(ack.packet_id, ok);
        let completed = self.link.as_mut().map(pubrec).unwrap_or_default();
        self.completed(completed, ack)?;
        if !completed.known && ok {
            // What was sent before a restart is answered too: a client that waits for PUBREL would wait for ever.
            mqtt::encode::pubrel(self.version, ack.packet_id, reason::SUCCESS, &mut self.outbox);
        }
        self.take_outgoing()
    }

    fn completed(&self, completed: Completed, ack: AckIn) -> Result<(), End> {
        if completed.mismatch {
            return Err(End::protocol(reason::PROTOCOL_ERROR, "an answer that does not fit the message"));
        }
        if let Some(tag) = completed.tag {
            commands::answered(tag, ack.reason, &self.session, &self.shared.downlink);
        }
        Ok(())
    }

    /// Asks for the commands that wait for this device: it has just connected to a kept session, or subscribed.
    pub(super) fn offer_commands(&mut self) {
        if self.session.grant.principal.kind == Kind::Device {
            commands::offer_waiting(&self.session.device_id, &self.shared.downlink, &self.shared.broker);
        }
    }
}

/// What becomes of session and will once the connection is over.
pub(super) fn detach(ended: &End, expiry: Expiry) -> Detach {
    let will = match ended.reason {
        Reason::Client => WillFate::Discard,
        _ => WillFate::Publish,
    };
    Detach { will, expiry }
}

/// Topic aliases towards the client: the first topics that come get one, as many as it takes.
pub(super) struct AliasesOut {
    alias_max: usize,
    topics: Vec<Arc<str>>,
}

/// More are not worth looking through.
const ALIASES_OUT_MAX: u16 = 16;

impl AliasesOut {
    pub(super) fn new(alias_max: u16) -> Self {
        Self { alias_max: usize::from(alias_max.min(ALIASES_OUT_MAX)), topics: Vec::new() }
    }

    /// The alias of a topic if it has or may get one, and the name to send with it.
    fn of<'a>(&self, topic: &'a str) -> (Option<NonZeroU16>, &'a str) {
        if self.alias_max == 0 {
            return (None, topic);
        }
        match self.topics.iter().position(|known| **known == *topic) {
            Some(index) => (alias(index), ""),
            None if self.topics.len() < self.alias_max => (alias(self.topics.len()), topic),
            None => (None, topic),
        }
    }

    /// The packet is on its way: the client knows the alias from now on.
    fn sent(&mut self, topic: &Arc<str>, sent_alias: Option<NonZeroU16>) {
        if sent_alias.is_some() && sent_alias == alias(self.topics.len()) {
            self.topics.push(topic.clone());
        }
    }
}

fn alias(index: usize) -> Option<NonZeroU16> {
    NonZeroU16::new(u16::try_from(index + 1).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_named_once_and_its_alias_stands_for_it_from_then_on() {
        let mut aliases = AliasesOut::new(1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        assert_eq!(aliases.of(&a), (NonZeroU16::new(1), "a"));
        assert_eq!(aliases.of(&a), (NonZeroU16::new(1), "a"), "not sent yet");
        aliases.sent(&a, NonZeroU16::new(1));
        assert_eq!(aliases.of(&a), (NonZeroU16::new(1), ""));
        assert_eq!(aliases.of(&b), (None, "b"), "as many as the client takes");
        assert_eq!(AliasesOut::new(0).of(&a), (None, "a"));
    }
}
