//! From an accepted stream to a session: CONNECT in, CONNACK out.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::BytesMut;
use event::v1::Traffic;
use event::{DeviceId, InvalidDeviceId, Millis, SessionId};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::mqtt::{Connect, Malformed, Offer, Packet, Refusal, Wire};
use crate::session::Session;
use crate::{Config, now};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the client closed before its CONNECT")]
    Closed,
    #[error("no CONNECT in time")]
    Timeout,
    #[error("the first packet is no CONNECT")]
    NotConnect,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the client id is not accepted")]
    ClientId(#[from] InvalidDeviceId),
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("an answer could not be written")]
    Encode(#[from] rmqtt_codec::error::EncodeError),
}

impl HandshakeError {
    /// Short name, as in metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "connect_timeout",
            Self::NotConnect => "not_connect",
            Self::Malformed(Malformed::TooLarge { .. }) => "packet_too_large",
            Self::Malformed(Malformed::Packet(_)) => "malformed",
            Self::ClientId(_) => "client_id",
            Self::Io(_) | Self::Encode(_) => "io",
        }
    }
}

/// A CONNECT that was read, and is not answered yet.
pub(crate) struct Greeting {
    pub wire: Wire,
    pub inbox: BytesMut,
    connect: Connect,
    received_bytes: u64,
}

/// Reads the CONNECT, within the time that a client has for it. Not cancel safe: a dropped handshake is over.
pub(crate) async fn read<S>(stream: &mut S, config: &Config) -> Result<Greeting, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    let within = Duration::from_millis(config.connect_timeout_ms.into());
    tokio::time::timeout(within, read_connect(stream, config)).await.unwrap_or(Err(HandshakeError::Timeout))
}

async fn read_connect<S>(stream: &mut S, config: &Config) -> Result<Greeting, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    let mut inbox = BytesMut::with_capacity(256);
    let mut wire = None;
    let mut received_bytes = 0;
    loop {
        let count = stream.read_buf(&mut inbox).await?;
        if count == 0 {
            return Err(HandshakeError::Closed);
        }
        received_bytes += count as u64;
        if wire.is_none() {
            wire = Wire::detect(&mut inbox, config.packet_bytes_max)?;
        }
        let Some(codec) = &mut wire else { continue };
        match codec.next(&mut inbox)? {
            None => {}
            Some(Packet::Connect(connect)) => {
                let Some(wire) = wire else {
                    return Err(HandshakeError::NotConnect);
                };
                let received_bytes = received_bytes - inbox.len() as u64;
                return Ok(Greeting { wire, inbox, connect, received_bytes });
            }
            Some(_) => return Err(HandshakeError::NotConnect),
        }
    }
}

/// How a CONNECT is answered. Nothing is written yet.
pub(crate) enum Answered {
    Accepted(Accepted),
    Refused { outbox: BytesMut, error: HandshakeError },
}

/// A session, with the CONNACK in its outbox.
pub(crate) struct Accepted {
    pub session: Session,
    pub wire: Wire,
    pub inbox: BytesMut,
    pub outbox: BytesMut,
}

impl Greeting {
    /// Decides about the CONNECT. `enter` is called for a session, and tells when it counts as connected.
    pub(crate) fn answer(
        mut self,
        peer: SocketAddr,
        config: &Config,
        enter: impl FnOnce(&DeviceId, SessionId, Millis) -> Millis,
    ) -> Result<Answered, HandshakeError> {
        let mut outbox = BytesMut::new();
        let (device_id, assigned_client_id) = match self.device_id() {
            Ok(named) => named,
            Err(error) => {
                self.wire.refuse(Refusal::ClientIdNotValid, &mut outbox)?;
                return Ok(Answered::Refused { outbox, error: error.into() });
            }
        };
        let offer = Offer {
            receive_max: NonZeroU16::new(config.in_flight_per_connection_max).unwrap_or(NonZeroU16::MIN),
            packet_bytes_max: config.packet_bytes_max,
            assigned_client_id,
        };
        self.wire.connack(offer, &mut outbox)?;
        let id = SessionId::generate();
        let session = Session {
            connected_at: enter(&device_id, id, now()),
            id,
            device_id,
            peer,
            protocol_level: self.connect.protocol_level,
            clean_start: self.connect.clean_start,
            keep_alive_s: self.connect.keep_alive_s,
            traffic: Traffic { bytes_in: self.received_bytes, ..Traffic::default() },
        };
        Ok(Answered::Accepted(Accepted { session, wire: self.wire, inbox: self.inbox, outbox }))
    }

    /// The device, and the client id that was made for it if it had none. (A 3.1.1 client without one that asks for
    /// a kept session is refused by the codec, MQTT-3.1.3-8.)
    fn device_id(&self) -> Result<(DeviceId, Option<String>), InvalidDeviceId> {
        if self.connect.client_id.is_empty() {
            let made = format!("anonymous-{}", SessionId::generate());
            return Ok((DeviceId::new(&made)?, Some(made)));
        }
        Ok((DeviceId::new(&self.connect.client_id)?, None))
    }
}
