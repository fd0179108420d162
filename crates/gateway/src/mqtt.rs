//! MQTT packets, one shape for both versions. No other module sees the codec.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use rmqtt_codec::error::{DecodeError, EncodeError};
use rmqtt_codec::types::QoS as WireQos;
use rmqtt_codec::version::{ProtocolVersion, VersionCodec};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder, Encoder};

/// Packets of one connection, in the version its CONNECT chose.
pub(crate) enum Wire {
    V3(v3::Codec),
    V5(Box<v5::Codec>),
}

/// What a client sent.
pub(crate) enum Packet {
    Connect(Connect),
    Publish(Publish),
    PingRequest,
    Disconnect,
    Subscribe {
        packet_id: NonZeroU16,
        filters: usize,
    },
    Unsubscribe {
        packet_id: NonZeroU16,
        filters: usize,
    },
    /// A packet that has no place here: a second CONNECT is found by the connection, this is all else.
    Unexpected(&'static str),
}

/// A request to open a session.
pub(crate) struct Connect {
    pub protocol_level: u8,
    pub client_id: String,
    pub clean_start: bool,
    pub keep_alive_s: u16,
}

/// A message.
pub(crate) struct Publish {
    pub topic: String,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub topic_alias: bool,
}

/// What a publish asks for, with the packet id where it will be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the specification's names")]
pub(crate) enum QoS {
    AtMostOnce,
    AtLeastOnce(NonZeroU16),
    ExactlyOnce,
}

/// Answer to a publish. MQTT 3.1.1 knows [`Ack::Stored`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Kafka holds it, as an event or as a dead letter.
    Stored,
    /// Kafka holds it as a dead letter: the payload was no heartbeat (0x99).
    StoredAsDeadLetter,
    /// Not on this topic (0x87).
    NotAuthorized,
    /// Not stored in time: send it again (0x83).
    NotStored,
}

/// Why the server ends a connection, for clients that can be told (MQTT 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    MalformedPacket,
    ProtocolError,
    NotAuthorized,
    ServerBusy,
    ServerShuttingDown,
    KeepAliveTimeout,
    TakenOver,
    PacketTooLarge,
    RetainNotSupported,
    QosNotSupported,
    TopicAliasInvalid,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    ClientIdNotValid,
}

/// What the server offers, as CONNACK says it.
pub(crate) struct Offer {
    pub receive_max: NonZeroU16,
    pub packet_bytes_max: u32,
    pub assigned_client_id: Option<String>,
}

/// Bytes that are no packet of MQTT.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a packet of {bytes} bytes, {max} are allowed")]
    TooLarge { bytes: u32, max: u32 },
    #[error("malformed packet: {0}")]
    Packet(DecodeError),
}

impl Malformed {
    pub(crate) fn goodbye(&self) -> Goodbye {
        match self {
            Self::TooLarge { .. } => Goodbye::PacketTooLarge,
            Self::Packet(_) => Goodbye::MalformedPacket,
        }
    }
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::MaxSizeExceeded { size, max } => Self::TooLarge { bytes: size, max },
            other => Self::Packet(other),
        }
    }
}

impl Wire {
    /// Finds the version in the first bytes of a connection, which must be a CONNECT.
    pub(crate) fn detect(inbox: &mut BytesMut, packet_bytes_max: u32) -> Result<Option<Self>, Malformed> {
        Ok(VersionCodec.decode(inbox)?.map(|version| match version {
            ProtocolVersion::MQTT3 => Self::V3(v3::Codec::new(packet_bytes_max)),
            ProtocolVersion::MQTT5 => Self::V5(Box::new(v5::Codec::new(packet_bytes_max, 0))),
        }))
    }

    /// The next packet, if `inbox` holds a whole one.
    pub(crate) fn next(&mut self, inbox: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
        Ok(match self {
            Self::V3(codec) => codec.decode(inbox)?.map(|(packet, _)| from_v3(packet)),
            Self::V5(codec) => codec.decode(inbox)?.map(|(packet, _)| from_v5(packet)),
        })
    }

    /// Whether the client can be told reasons.
    pub(crate) fn is_v5(&self) -> bool {
        matches!(self, Self::V5(_))
    }

    pub(crate) fn connack(&mut self, offer: Offer, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::V3(codec) => {
                let accepted = v3::ConnectAckReason::ConnectionAccepted;
                let packet = v3::ConnectAck { return_code: accepted, session_present: false };
                codec.encode(v3::Packet::ConnectAck(packet), out)
            }
            Self::V5(codec) => {
                let packet = v5::ConnectAck {
                    session_expiry_interval_secs: Some(0),
                    receive_max: offer.receive_max,
                    max_qos: WireQos::AtLeastOnce,
                    max_packet_size: Some(offer.packet_bytes_max),
                    assigned_client_id: offer.assigned_client_id.map(Into::into),
                    topic_alias_max: 0,
                    retain_available: false,
                    wildcard_subscription_available: false,
                    subscription_identifiers_available: false,
                    shared_subscription_available: false,
                    ..v5::ConnectAck::default()
                };
                codec.encode(v5::Packet::ConnectAck(Box::new(packet)), out)
            }
        }
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal, out: &mut BytesMut) -> Result<(), EncodeError> {
        match (self, refusal) {
            (Self::V3(codec), Refusal::ClientIdNotValid) => {
                let rejected = v3::ConnectAckReason::IdentifierRejected;
                let packet = v3::ConnectAck { return_code: rejected, session_present: false };
                codec.encode(v3::Packet::ConnectAck(packet), out)
            }
            (Self::V5(codec), Refusal::ClientIdNotValid) => {
                let reason_code = v5::ConnectAckReason::ClientIdentifierNotValid;
                let packet = v5::ConnectAck { reason_code, ..v5::ConnectAck::default() };
                codec.encode(v5::Packet::ConnectAck(Box::new(packet)), out)
            }
        }
    }

    pub(crate) fn puback(
        &mut self,
        packet_id: NonZeroU16,
        ack: Ack,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self {
            Self::V3(codec) => codec.encode(v3::Packet::PublishAck { packet_id }, out),
            Self::V5(codec) => {
                let reason_code = match ack {
                    Ack::Stored => v5::PublishAckReason::Success,
                    Ack::StoredAsDeadLetter => v5::PublishAckReason::PayloadFormatInvalid,
                    Ack::NotAuthorized => v5::PublishAckReason::NotAuthorized,
                    Ack::NotStored => v5::PublishAckReason::ImplementationSpecificError,
                };
                let packet = v5::PublishAck { packet_id, reason_code, ..v5::PublishAck::default() };
                codec.encode(v5::Packet::PublishAck(packet), out)
            }
        }
    }

    pub(crate) fn pingresp(&mut self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::V3(codec) => codec.encode(v3::Packet::PingResponse, out),
            Self::V5(codec) => codec.encode(v5::Packet::PingResponse, out),
        }
    }

    /// Refuses every filter of a SUBSCRIBE.
    pub(crate) fn suback_refused(
        &mut self,
        packet_id: NonZeroU16,
        filters: usize,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self {
            Self::V3(codec) => {
                let status = vec![v3::SubscribeReturnCode::Failure; filters];
                codec.encode(v3::Packet::SubscribeAck { packet_id, status }, out)
            }
            Self::V5(codec) => {
                let status = vec![v5::SubscribeAckReason::ImplementationSpecificError; filters];
                let packet =
                    v5::SubscribeAck { packet_id, properties: Vec::new(), reason_string: None, status };
                codec.encode(v5::Packet::SubscribeAck(packet), out)
            }
        }
    }

    /// Answers an UNSUBSCRIBE: there was no such subscription.
    pub(crate) fn unsuback(
        &mut self,
        packet_id: NonZeroU16,
        filters: usize,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self {
            Self::V3(codec) => codec.encode(v3::Packet::UnsubscribeAck { packet_id }, out),
            Self::V5(codec) => {
                let status = vec![v5::UnsubscribeAckReason::NoSubscriptionExisted; filters];
                let packet =
                    v5::UnsubscribeAck { packet_id, properties: Vec::new(), reason_string: None, status };
                codec.encode(v5::Packet::UnsubscribeAck(packet), out)
            }
        }
    }

    /// Says why the server goes, to clients that can be told.
    pub(crate) fn disconnect(&mut self, goodbye: Goodbye, out: &mut BytesMut) -> Result<(), EncodeError> {
        use v5::DisconnectReasonCode as Code;
        let Self::V5(codec) = self else { return Ok(()) };
        let reason_code = match goodbye {
            Goodbye::MalformedPacket => Code::MalformedPacket,
            Goodbye::ProtocolError => Code::ProtocolError,
            Goodbye::NotAuthorized => Code::NotAuthorized,
            Goodbye::ServerBusy => Code::ServerBusy,
            Goodbye::ServerShuttingDown => Code::ServerShuttingDown,
            Goodbye::KeepAliveTimeout => Code::KeepAliveTimeout,
            Goodbye::TakenOver => Code::SessionTakenOver,
            Goodbye::PacketTooLarge => Code::PacketTooLarge,
            Goodbye::RetainNotSupported => Code::RetainNotSupported,
            Goodbye::QosNotSupported => Code::QosNotSupported,
            Goodbye::TopicAliasInvalid => Code::TopicAliasInvalid,
        };
        let packet = v5::Disconnect { reason_code, ..v5::Disconnect::default() };
        codec.encode(v5::Packet::Disconnect(packet), out)
    }
}

fn from_v3(packet: v3::Packet) -> Packet {
    match packet {
        v3::Packet::Connect(connect) => Packet::Connect(Connect {
            protocol_level: connect.protocol.level(),
            client_id: connect.client_id.to_string(),
            clean_start: connect.clean_session,
            keep_alive_s: connect.keep_alive,
        }),
        v3::Packet::Publish(publish) => from_publish(*publish),
        v3::Packet::PingRequest => Packet::PingRequest,
        v3::Packet::Disconnect => Packet::Disconnect,
        v3::Packet::Subscribe { packet_id, topic_filters } => {
            Packet::Subscribe { packet_id, filters: topic_filters.len() }
        }
        v3::Packet::Unsubscribe { packet_id, topic_filters } => {
            Packet::Unsubscribe { packet_id, filters: topic_filters.len() }
        }
        v3::Packet::ConnectAck(_) => Packet::Unexpected("CONNACK"),
        v3::Packet::PublishAck { .. } => Packet::Unexpected("PUBACK"),
        v3::Packet::PublishReceived { .. } => Packet::Unexpected("PUBREC"),
        v3::Packet::PublishRelease { .. } => Packet::Unexpected("PUBREL"),
        v3::Packet::PublishComplete { .. } => Packet::Unexpected("PUBCOMP"),
        v3::Packet::SubscribeAck { .. } => Packet::Unexpected("SUBACK"),
        v3::Packet::UnsubscribeAck { .. } => Packet::Unexpected("UNSUBACK"),
        v3::Packet::PingResponse => Packet::Unexpected("PINGRESP"),
    }
}

fn from_v5(packet: v5::Packet) -> Packet {
    match packet {
        v5::Packet::Connect(connect) => Packet::Connect(Connect {
            protocol_level: 5,
            client_id: connect.client_id.to_string(),
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive,
        }),
        v5::Packet::Publish(publish) => from_publish(*publish),
        v5::Packet::PingRequest => Packet::PingRequest,
        v5::Packet::Disconnect(_) => Packet::Disconnect,
        v5::Packet::Subscribe(subscribe) => {
            Packet::Subscribe { packet_id: subscribe.packet_id, filters: subscribe.topic_filters.len() }
        }
        v5::Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe { packet_id: unsubscribe.packet_id, filters: unsubscribe.topic_filters.len() }
        }
        v5::Packet::ConnectAck(_) => Packet::Unexpected("CONNACK"),
        v5::Packet::PublishAck(_) => Packet::Unexpected("PUBACK"),
        v5::Packet::PublishReceived(_) => Packet::Unexpected("PUBREC"),
        v5::Packet::PublishRelease(_) => Packet::Unexpected("PUBREL"),
        v5::Packet::PublishComplete(_) => Packet::Unexpected("PUBCOMP"),
        v5::Packet::SubscribeAck(_) => Packet::Unexpected("SUBACK"),
        v5::Packet::UnsubscribeAck(_) => Packet::Unexpected("UNSUBACK"),
        v5::Packet::PingResponse => Packet::Unexpected("PINGRESP"),
        v5::Packet::Auth(_) => Packet::Unexpected("AUTH"),
    }
}

fn from_publish(publish: rmqtt_codec::types::Publish) -> Packet {
    let qos = match (publish.qos, publish.packet_id) {
        (WireQos::AtMostOnce, _) => QoS::AtMostOnce,
        (WireQos::AtLeastOnce, Some(packet_id)) => QoS::AtLeastOnce(packet_id),
        (WireQos::AtLeastOnce, None) => return Packet::Unexpected("PUBLISH without packet id"),
        (WireQos::ExactlyOnce, _) => QoS::ExactlyOnce,
    };
    Packet::Publish(Publish {
        topic: publish.topic.to_string(),
        payload: publish.payload,
        qos,
        retain: publish.retain,
        topic_alias: publish.properties.is_some_and(|properties| properties.topic_alias.is_some()),
    })
}
