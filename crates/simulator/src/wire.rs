//! One MQTT connection, as a client has it: the only place that knows the codec.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use rmqtt_codec::error::{DecodeError, EncodeError};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
use tokio::io::ReadBuf;
use tokio::net::TcpSocket;
use tokio_util::codec::{Decoder, Encoder};

use crate::config::SessionState;
use crate::stream::{Security, Stream};
use crate::tls::DeviceTls;

/// Kernel buffers of one connection. Small, because there are many; the window is rarely more than 16 KiB.
const SEND_BUFFER_BYTES: u32 = 16 * 1_024;
const RECEIVE_BUFFER_BYTES: u32 = 8 * 1_024;
/// Room for a CONNACK or a window of PUBACKs.
const INBOUND_BYTES: usize = 128;
/// Read at once.
const READ_BYTES: usize = 512;
/// The largest packet taken from a server: far more than a CONNACK or DISCONNECT with long texts.
const INBOUND_BYTES_MAX: u32 = 64 * 1_024;
/// From here on, packets wait until the socket has taken what is written already.
const OUTBOUND_BYTES_HIGH: usize = 4 * 1_024;
/// How long a v5 server is asked to keep a session.
const SESSION_EXPIRY_S: u32 = 3_600;

/// A connection with what was read and not decoded, and what was encoded and not written.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    codec: MqttCodec,
    inbound: BytesMut,
    outbound: BytesMut,
    /// Whether TLS may hold back something that was written.
    unflushed: bool,
}

/// What a server says, in either version.
#[derive(Debug)]
pub(crate) enum Incoming {
    Accepted(Accepted),
    /// CONNACK with this code, which is not zero.
    ConnectRefused(u8),
    /// PUBACK; the reason is zero in 3.1.1, which cannot refuse.
    Acknowledged {
        packet_id: NonZeroU16,
        reason: u8,
    },
    Disconnected(u8),
    Pong,
    /// Nothing that a client which only publishes waits for.
    Other,
}

/// What the server granted in CONNACK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) session_present: bool,
    pub(crate) receive_max: u16,
    /// The server's keep alive in place of the client's, in seconds.
    pub(crate) keep_alive_s: Option<u16>,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("socket")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server sent a malformed packet")]
    Decode(#[source] DecodeError),
    #[error("a packet cannot be encoded")]
    Encode(#[source] EncodeError),
}

impl Connection {
    /// Connects. Cancel safe: a dropped attempt leaves no socket.
    pub(crate) async fn open(
        server: SocketAddr,
        source: Option<IpAddr>,
        tls: Option<&DeviceTls>,
        v5: bool,
    ) -> Result<Self, WireError> {
        let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.set_nodelay(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        let stream = socket.connect(server).await?;
        let stream = match tls {
            Some(tls) => Stream::secure(stream, tls).await?,
            None => Stream::Plain(stream),
        };
        let codec = if v5 {
            MqttCodec::V5(v5::Codec::new(INBOUND_BYTES_MAX, 0))
        } else {
            MqttCodec::V3(v3::Codec::new(INBOUND_BYTES_MAX))
        };
        let inbound = BytesMut::with_capacity(INBOUND_BYTES);
        Ok(Self { stream, codec, inbound, outbound: BytesMut::new(), unflushed: false })
    }

    /// How it was secured.
    pub(crate) fn security(&self) -> Security {
        self.stream.security()
    }

    /// Queues CONNECT.
    pub(crate) fn connect(
        &mut self,
        client_id: &str,
        keep_alive_s: u16,
        state: SessionState,
    ) -> Result<(), WireError> {
        let fresh = state == SessionState::Fresh;
        let packet = match self.codec {
            MqttCodec::V5(_) => MqttPacket::V5(
                v5::Connect {
                    clean_start: fresh,
                    session_expiry_interval_secs: if fresh { 0 } else { SESSION_EXPIRY_S },
                    keep_alive: keep_alive_s,
                    client_id: client_id.into(),
                    ..v5::Connect::default()
                }
                .into(),
            ),
            _ => MqttPacket::V3(
                v3::Connect {
                    clean_session: fresh,
                    keep_alive: keep_alive_s,
                    client_id: client_id.into(),
                    ..v3::Connect::default()
                }
                .into(),
            ),
        };
        self.encode(packet)
    }

    /// Queues a QoS 1 PUBLISH.
    pub(crate) fn publish(
        &mut self,
        topic: &ByteString,
        packet_id: NonZeroU16,
        payload: Bytes,
        dup: bool,
    ) -> Result<(), WireError> {
        let publish = Box::new(Publish {
            dup,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: topic.clone(),
            packet_id: Some(packet_id),
            payload,
            properties: None,
        });
        self.encode(match self.codec {
            MqttCodec::V5(_) => MqttPacket::V5(v5::Packet::Publish(publish)),
            _ => MqttPacket::V3(v3::Packet::Publish(publish)),
        })
    }

    /// Queues PINGREQ.
    pub(crate) fn ping(&mut self) -> Result<(), WireError> {
        self.encode(match self.codec {
            MqttCodec::V5(_) => MqttPacket::V5(v5::Packet::PingRequest),
            _ => MqttPacket::V3(v3::Packet::PingRequest),
        })
    }

    /// Queues DISCONNECT, writes what the socket takes at once, and closes.
    pub(crate) fn disconnect(mut self) -> Result<(), WireError> {
        self.encode(match self.codec {
            MqttCodec::V5(_) => MqttPacket::V5(v5::Packet::Disconnect(v5::Disconnect::default())),
            _ => MqttPacket::V3(v3::Packet::Disconnect),
        })?;
        self.flush()
    }

    /// Whether more packets may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.outbound.len() < OUTBOUND_BYTES_HIGH
    }

    /// Writes what the socket takes without waiting.
    pub(crate) fn flush(&mut self) -> Result<(), WireError> {
        // Nobody is woken for the rest: [`Self::progress`] asks again before it waits.
        match self.poll_flush(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let Self { stream, outbound, unflushed, .. } = self;
        while !outbound.is_empty() {
            match ready!(stream.poll_write(context, outbound))? {
                0 => return Poll::Ready(Err(WireError::Closed)),
                // Clearing keeps the whole buffer for the next packets; advancing gives up its front.
                written if written == outbound.len() => outbound.clear(),
                written => outbound.advance(written),
            }
            *unflushed = true;
        }
        if *unflushed {
            ready!(stream.poll_flush(context))?;
            *unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until something was read, or until the socket has taken all that is queued. Cancel safe: nothing is
    /// lost between the socket and the buffers.
    pub(crate) async fn progress(&mut self) -> Result<(), WireError> {
        poll_fn(|context| self.poll_progress(context)).await
    }

    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let mut room = [0; READ_BYTES];
        let mut room = ReadBuf::new(&mut room);
        if self.stream.poll_read(context, &mut room)?.is_ready() {
            if room.filled().is_empty() {
                return Poll::Ready(Err(WireError::Closed));
            }
            self.inbound.extend_from_slice(room.filled());
            return Poll::Ready(Ok(()));
        }
        if self.outbound.is_empty() && !self.unflushed {
            return Poll::Pending;
        }
        self.poll_flush(context)
    }

    /// The next packet of those read.
    pub(crate) fn incoming(&mut self) -> Result<Option<Incoming>, WireError> {
        let decoded = self.codec.decode(&mut self.inbound).map_err(WireError::Decode)?;
        Ok(decoded.map(|(packet, _)| match packet {
            MqttPacket::V3(packet) => packet.into(),
            MqttPacket::V5(packet) => packet.into(),
            MqttPacket::Version(_) => Incoming::Other,
        }))
    }

    fn encode(&mut self, packet: MqttPacket) -> Result<(), WireError> {
        self.codec.encode(packet, &mut self.outbound).map_err(WireError::Encode)
    }
}

impl From<v3::Packet> for Incoming {
    fn from(packet: v3::Packet) -> Self {
        match packet {
            v3::Packet::ConnectAck(v3::ConnectAck { return_code, session_present }) => match return_code
                .into()
            {
                0 => Self::Accepted(Accepted { session_present, receive_max: u16::MAX, keep_alive_s: None }),
                code => Self::ConnectRefused(code),
            },
            v3::Packet::PublishAck { packet_id } => Self::Acknowledged { packet_id, reason: 0 },
            v3::Packet::PingResponse => Self::Pong,
            v3::Packet::Disconnect => Self::Disconnected(0),
            _ => Self::Other,
        }
    }
}

impl From<v5::Packet> for Incoming {
    fn from(packet: v5::Packet) -> Self {
        match packet {
            v5::Packet::ConnectAck(ack) => match ack.reason_code.into() {
                0 => Self::Accepted(Accepted {
                    session_present: ack.session_present,
                    receive_max: ack.receive_max.get(),
                    keep_alive_s: ack.server_keepalive_sec,
                }),
                code => Self::ConnectRefused(code),
            },
            v5::Packet::PublishAck(ack) => {
                Self::Acknowledged { packet_id: ack.packet_id, reason: ack.reason_code.into() }
            }
            v5::Packet::PingResponse => Self::Pong,
            v5::Packet::Disconnect(disconnect) => Self::Disconnected(disconnect.reason_code.into()),
            _ => Self::Other,
        }
    }
}
