//! What a client publishes: heartbeats and commands go to Kafka, other messages to this node's subscribers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::Action as Asking;
use broker::Message;
use bus::{Partition, Permit, Stream};
use bytes::Bytes;
use decode::Topic;
use event::v1::DisconnectReason as Reason;
use futures_util::FutureExt;
use mqtt::{AckIn, PacketId, Publish, Qos, reason};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, Parked};
use crate::commands;
use crate::end::End;
use crate::record::{NotAuthorized, Record};
use crate::unacknowledged::{Answer, Became, By, Counted, Issuing, Settled, Unsettled};

/// What a publish wants to hear: nothing with QoS 0.
type Asked = Option<(By, PacketId)>;

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn take_publish(&mut self, publish: &Publish<'_>, bytes: usize) -> Result<(), End> {
        self.shared.meter.publishes.increment(1);
        self.session.traffic.messages_in += 1;
        let aliased = self.aliases_in.resolve(publish, self.shared.config.topic_alias_max)?;
        let topic = aliased.as_deref().unwrap_or(publish.topic);
        let asked = match (publish.qos, publish.packet_id) {
            (Qos::AtLeastOnce, Some(packet_id)) => Some((By::Puback, packet_id)),
            (Qos::ExactlyOnce, Some(packet_id)) => {
                if self.repeats(packet_id)? {
                    return Ok(());
                }
                Some((By::Pubrec, packet_id))
            }
            (Qos::AtMostOnce, _) | (_, None) => None,
        };
        if let Topic::Heartbeat { device_id } = decode::topic(topic) {
            return self.take_heartbeat(publish, topic, device_id, asked);
        }
        if !self.shared.access.allows(&self.session.grant.principal, Asking::Publish, topic) {
            return self.refuse(topic, asked);
        }
        if !publish.payload_is_as_said() {
            let code = reason::PAYLOAD_FORMAT_INVALID;
            let ended =
                End::told(Reason::ProtocolError, code).because("a payload that says it is UTF-8 and is not");
            return self.turn_away(asked, ended, code);
        }
        match commands::target(topic) {
            Some(target) => self.take_command(publish, &target, bytes, asked),
            None => self.take_message(publish, topic, bytes, asked),
        }
    }

    /// Whether a QoS 2 publish is one that was taken already [MQTT-4.3.3-10]. As many as Receive Maximum may be under
    /// way, which also bounds what is remembered [MQTT-3.3.4-8].
    fn repeats(&mut self, packet_id: PacketId) -> Result<bool, End> {
        if self.unacknowledged.pubrecs().any(|waiting| waiting == packet_id) {
            return Ok(true);
        }
        let receive_max = usize::from(self.shared.config.in_flight_per_connection_max);
        let waiting = self.unacknowledged.pubrecs().count();
        let link =
            self.link().map_err(|error| End::told(Reason::Quota, reason::QUOTA_EXCEEDED).because(&error))?;
        if link.is_received(packet_id) {
            self.answer_now(By::Pubrec, packet_id, reason::SUCCESS, Became::Repeated);
            return Ok(true);
        }
        if link.inbound_len() + waiting >= receive_max {
            let ended = End::told(Reason::Quota, reason::RECEIVE_MAXIMUM_EXCEEDED);
            return Err(ended.because("more QoS 2 publishes under way than Receive Maximum"));
        }
        Ok(false)
    }

    fn take_heartbeat(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        device_id: &str,
        asked: Asked,
    ) -> Result<(), End> {
        if !self.telemetry.may_publish(device_id, topic, &self.session, self.shared) {
            return self.refuse(topic, asked);
        }
        let record = self.telemetry.record(publish.payload, topic, &self.session, self.shared);
        // One whose payload is not what it says becomes a dead letter, and nobody else hears it.
        if (publish.retain || self.shared.broker.has_subscribers()) && publish.payload_is_as_said() {
            self.route(publish, topic);
        }
        self.admit(record, asked, publish.dup)
    }

    /// A command: Kafka takes it, and gives it to the node that has the device.
    fn take_command(
        &mut self,
        publish: &Publish<'_>,
        target: &commands::Target<'_>,
        bytes: usize,
        asked: Asked,
    ) -> Result<(), End> {
        let new = match commands::asked(target, publish, &self.session.grant.principal.name) {
            Ok(new) => new,
            Err(error) => {
                let code = reason::TOPIC_NAME_INVALID;
                return self.turn_away(asked, End::protocol(code, &error), code);
            }
        };
        let downlink = self.shared.downlink.clone();
        let mut issuing: Issuing = Box::pin(async move { downlink.issue(new).await });
        // It sets out now; who waits for it is the queue.
        match ((&mut issuing).now_or_never(), asked) {
            (outcome, Some((by, packet_id))) => match outcome {
                None => {
                    let received_at = Instant::now();
                    let (code, became) = (reason::SUCCESS, Became::Command);
                    let answer = Answer::Publish { by, packet_id, code, became, received_at, counted: None };
                    self.unacknowledged.push_issuing(issuing, answer, bytes);
                }
                Some(Ok(_)) => self.answer_now(by, packet_id, reason::SUCCESS, Became::Command),
                Some(Err(error)) => {
                    let code = commands::code(&error);
                    return self.turn_away(asked, End::told(Reason::Quota, code).because(&error), code);
                }
            },
            (None, None) => self.unacknowledged.push_issuing(issuing, Answer::Nothing, bytes),
            // With QoS 0 nothing was promised; what was refused is counted where it was.
            (Some(_), None) => {}
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        bytes: usize,
        asked: Asked,
    ) -> Result<(), End> {
        let went_to = self.route(publish, topic);
        tracing::trace!(topic, bytes, went_to, "message");
        if let Some((by, packet_id)) = asked {
            let code = if went_to == 0 { reason::NO_MATCHING_SUBSCRIBERS } else { reason::SUCCESS };
            self.answer_now(by, packet_id, code, Became::Message);
        }
        Ok(())
    }

    /// Gives a message to this node's subscribers. Returns how many sessions it went to.
    fn route(&mut self, publish: &Publish<'_>, topic: &str) -> usize {
        let message = Message {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(publish.payload),
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties.to_bytes(),
            expires_at: publish
                .message_expiry_s
                .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds.into()))),
            tag: None,
        };
        self.shared.broker.publish(message, Some(&self.session.key))
    }

    /// The topic is not this client's.
    fn refuse(&mut self, topic: &str, asked: Asked) -> Result<(), End> {
        self.shared.meter.publish_refused.increment(1);
        let (refused, code) = (NotAuthorized::new(&self.session.device_id, topic), reason::NOT_AUTHORIZED);
        self.turn_away(asked, End::told(Reason::NotAuthorized, code).because(&refused), code)
    }

    /// A publish is not taken. MQTT 5 is told so, in its place in the order. MQTT 3 cannot refuse one message: "either make a
    /// positive acknowledgement or close the Network Connection" [MQTT-3.3.5-2].
    fn turn_away(&mut self, asked: Asked, otherwise: End, code: u8) -> Result<(), End> {
        match asked {
            Some((by, packet_id)) if self.version.is_v5() => {
                self.answer_now(by, packet_id, code, Became::Refused);
                Ok(())
            }
            _ => Err(otherwise),
        }
    }

    /// Puts an answer into its place in the order.
    fn answer_now(&mut self, by: By, packet_id: PacketId, code: u8, became: Became) {
        let received_at = Instant::now();
        let answer = Answer::Publish { by, packet_id, code, became, received_at, counted: None };
        self.unacknowledged.push_ready(answer);
    }

    /// Sends a record on its way if there is room in the window of the process; else QoS 1 and 2 wait and QoS 0 is shed.
    fn admit(&mut self, record: Record, asked: Asked, repeated: bool) -> Result<(), End> {
        let answer = asked.map(|(by, packet_id)| Answer::Publish {
            by,
            packet_id,
            code: record.code,
            became: record.became,
            received_at: self.keep_alive.seen_at().into_std(),
            counted: Some(Counted { minute: record.number, repeated }),
        });
        let bytes = record.bytes();
        let window = self.shared.producer.window();
        match (window.try_reserve(bytes), answer) {
            (Some(permit), answer) => self.produce(permit, record, answer),
            (None, None) => {
                self.shared.meter.shed.increment(1);
                Ok(())
            }
            (None, Some(answer)) => {
                self.shared.meter.window_full.increment(1);
                let room = Box::pin(window.clone().reserve(bytes));
                self.parked = Some(Box::new(Parked { record, answer, room }));
                Ok(())
            }
        }
    }

    pub(super) fn produce(
        &mut self,
        permit: Permit,
        record: Record,
        answer: Option<Answer>,
    ) -> Result<(), End> {
        let bytes = record.bytes();
        let Record { stream, key, payload, minute, .. } = record;
        let minute = minute.map(|minute| minute as Arc<dyn bus::Witness>);
        let sent = self.shared.producer.send_witnessed(permit, stream, &key, &payload, minute);
        let delivery =
            sent.map_err(|error| End::told(Reason::StoreUnavailable, reason::SERVER_BUSY).because(&error))?;
        if let Some(answer) = answer {
            self.unacknowledged.push(delivery, answer, bytes);
        }
        Ok(())
    }

    /// Answers a publish whose delivery is known. What Kafka did not take is never acknowledged.
    pub(super) fn settle(&mut self, (answer, outcome): Settled) -> Result<(), End> {
        let meter = &self.shared.meter;
        let (by, packet_id, code, became, received_at, counted) = match answer {
            Answer::Publish { by, packet_id, code, became, received_at, counted } => {
                (by, packet_id, code, became, received_at, counted)
            }
            // A session that is not in the history does not go on.
            Answer::Connected => return outcome.map(drop).map_err(|error| End::not_stored(&error)),
            Answer::Nothing => return Ok(()),
        };
        let code = match outcome {
            Ok(partition) => {
                self.enter(became, counted, partition);
                code
            }
            Err(error) => {
                meter.unacknowledged.increment(1);
                if !self.version.is_v5() {
                    return Err(End::not_stored(&error));
                }
                match &error {
                    Unsettled::Delivery(_) => reason::IMPLEMENTATION_SPECIFIC_ERROR,
                    Unsettled::Issue(error) => commands::code(error),
                }
            }
        };
        if outcome_is_good(code, became) {
            match became {
                Became::Heartbeat => meter.acknowledged.increment(1),
                Became::DeadLetter => meter.acknowledged_dead_letters.increment(1),
                Became::Command => meter.acknowledged_commands.increment(1),
                Became::Message => meter.acknowledged_messages.increment(1),
                Became::Refused | Became::Repeated => {}
            }
        }
        meter.puback.record(received_at.elapsed());
        match by {
            By::Puback => mqtt::encode::puback(self.version, packet_id, code, &mut self.outbox),
            By::Pubrec => {
                // From 0x80 on the exchange is over [MQTT-4.3.3-4]; else the id is remembered until PUBREL.
                let over = code >= 0x80 && self.version.is_v5();
                if !over && let Ok(link) = self.link() {
                    let _first = link.received(packet_id);
                }
                mqtt::encode::pubrec(self.version, packet_id, code, &mut self.outbox);
            }
        }
        Ok(())
    }

    /// Counts an acknowledgement in the ledger: that of a record which Kafka holds.
    fn enter(&self, became: Became, counted: Option<Counted>, partition: Option<Partition>) {
        let stream = match became {
            Became::Heartbeat => Stream::Events,
            Became::DeadLetter => Stream::DeadLetters,
            Became::Command | Became::Message | Became::Refused | Became::Repeated => return,
        };
        if let (Some(Counted { minute, repeated }), Some(partition)) = (counted, partition) {
            self.shared.ledger.acknowledged(minute, stream, partition, repeated);
        }
    }

    /// The client has our PUBREC: the packet id is free again [MQTT-4.3.3-11]. One that is not known is answered the
    /// same: it was released already, or this node has started since, and the message is stored either way.
    pub(super) fn take_pubrel(&mut self, ack: AckIn) -> Result<(), End> {
        if self.unacknowledged.pubrecs().any(|waiting| waiting == ack.packet_id) {
            // Released before it is taken, the id would then be remembered for ever, and the next message of it lost.
            return Err(End::protocol(reason::PROTOCOL_ERROR, "PUBREL before PUBREC"));
        }
        if let Some(link) = &mut self.link {
            link.released(ack.packet_id);
        }
        mqtt::encode::pubcomp(self.version, ack.packet_id, reason::SUCCESS, &mut self.outbox);
        Ok(())
    }
}

/// Whether the answer says that something is kept; a dead letter is, though its code is an error.
fn outcome_is_good(code: u8, became: Became) -> bool {
    code < 0x80 || (became == Became::DeadLetter && code == reason::PAYLOAD_FORMAT_INVALID)
}

/// Topic aliases that the client has set up. [MQTT-3.3.2-12]
#[derive(Default)]
pub(super) struct AliasesIn(Vec<Option<Arc<str>>>);

impl AliasesIn {
    /// The topic of a publish where an alias is in play; `None` where its own name counts.
    fn resolve(&mut self, publish: &Publish<'_>, alias_max: u16) -> Result<Option<Arc<str>>, End> {
        let Some(alias) = publish.topic_alias else {
            return Ok(None);
        };
        let invalid = |detail: &'static str| End::protocol(reason::TOPIC_ALIAS_INVALID, detail);
        if alias.get() > alias_max {
            return Err(invalid("a topic alias above Topic Alias Maximum"));
        }
        let index = usize::from(alias.get()) - 1;
        if !publish.topic.is_empty() {
            if self.0.len() <= index {
                self.0.resize(index + 1, None);
            }
            self.0[index] = Some(publish.topic.into());
        }
        let known = self.0.get(index).cloned().flatten();
        known.map(Some).ok_or_else(|| {
            End::protocol(reason::PROTOCOL_ERROR, "a topic alias that was not set up in this connection")
        })
    }
}
