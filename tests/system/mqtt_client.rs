//! A client that speaks MQTT byte by byte, so that a test sees exactly what was answered and when.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::services::DEADLINE;

/// First bytes of packets.
pub(crate) const CONNACK: u8 = 0x20;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const PINGREQ: u8 = 0xc0;
pub(crate) const PINGRESP: u8 = 0xd0;
pub(crate) const SUBACK: u8 = 0x90;
pub(crate) const DISCONNECT: u8 = 0xe0;

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    protocol_level: u8,
    device_id: String,
}

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Packet { first_byte: u8, body: Vec<u8> },
    Closed,
    Silence,
}

impl Client {
    /// Opens a connection and says nothing.
    pub(crate) fn open(mqtt: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(mqtt).context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, protocol_level: 4, device_id: String::new() })
    }

    /// Opens a session with a CONNECT of one's own.
    pub(crate) fn connect_with(
        mqtt: SocketAddr,
        device_id: &str,
        protocol_level: u8,
        connect: &[u8],
    ) -> Result<(Self, bool)> {
        let mut client = Self::open(mqtt)?;
        client.protocol_level = protocol_level;
        device_id.clone_into(&mut client.device_id);
        client.send(connect)?;
        match client.answer(DEADLINE)? {
            Answer::Packet { first_byte: CONNACK, body } if body.get(1) == Some(&0) => {
                Ok((client, body[0] == 1))
            }
            other => bail!("CONNECT was answered with {other:?}"),
        }
    }

    /// Subscribes to a filter; the code of SUBACK.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> Result<u8> {
        let mut body = vec![0, 9];
        if self.protocol_level == 5 {
            body.push(0);
        }
        push_text(&mut body, filter);
        body.push(qos);
        self.send(&packet(0x82, &body))?;
        match self.answer(DEADLINE)? {
            Answer::Packet { first_byte: SUBACK, body } => Ok(body.last().copied().unwrap_or(0xff)),
            other => bail!("SUBSCRIBE was answered with {other:?}"),
        }
    }

    /// Waits for a packet of that kind; its body.
    pub(crate) fn expect(&mut self, first_byte: u8) -> Result<Vec<u8>> {
        match self.answer(DEADLINE)? {
            Answer::Packet { first_byte: found, body } if found == first_byte => Ok(body),
            other => bail!("waited for {first_byte:#x}, got {other:?}"),
        }
    }

    /// Opens a session.
    pub(crate) fn connect(mqtt: SocketAddr, device_id: &str, protocol_level: u8) -> Result<Self> {
        let connect = connect_packet(device_id, protocol_level);
        Ok(Self::connect_with(mqtt, device_id, protocol_level, &connect)?.0)
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("the connection does not take bytes")
    }

    /// Sends as many bytes as the connection takes without waiting longer than `patience`.
    pub(crate) fn send_within(&mut self, bytes: &[u8], patience: Duration) -> Result<usize> {
        self.stream.set_write_timeout(Some(patience))?;
        let sent = match self.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(error) => return Err(error.into()),
        };
        self.stream.set_write_timeout(None)?;
        Ok(sent)
    }

    /// Publishes a heartbeat of this device with QoS 1.
    pub(crate) fn heartbeat(&mut self, packet_id: u16, payload: &str) -> Result<()> {
        let topic = format!("devices/{}/heartbeat", self.device_id);
        let packet = publish_packet(&topic, packet_id, payload, self.protocol_level);
        self.send(&packet)
    }

    /// Publishes a heartbeat and waits for its PUBACK; its reason code, which is 0 in 3.1.1.
    pub(crate) fn acknowledged_heartbeat(&mut self, packet_id: u16, payload: &str) -> Result<u8> {
        self.heartbeat(packet_id, payload)?;
        self.puback(packet_id)
    }

    /// Waits for a PUBACK; its reason code.
    pub(crate) fn puback(&mut self, packet_id: u16) -> Result<u8> {
        match self.answer(DEADLINE)? {
            Answer::Packet { first_byte: PUBACK, body } => {
                ensure!(body.starts_with(&packet_id.to_be_bytes()), "PUBACK {body:?} is not of {packet_id}");
                Ok(body.get(2).copied().unwrap_or(0))
            }
            other => bail!("PUBLISH was answered with {other:?}"),
        }
    }

    /// The next packet, the end of the connection, or silence for `patience`.
    pub(crate) fn answer(&mut self, patience: Duration) -> Result<Answer> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut first = [0];
        match self.stream.read(&mut first) {
            Ok(0) => return Ok(Answer::Closed),
            Ok(_) => {}
            Err(error) => {
                return match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Answer::Silence),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(Answer::Closed),
                    _ => Err(error.into()),
                };
            }
        }
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer::Packet { first_byte: first[0], body })
    }

    /// Ends the session as MQTT says.
    pub(crate) fn disconnect(mut self) -> Result<()> {
        self.send(&[DISCONNECT, 0])
    }
}

/// CONNECT with clean start and a keep alive of 60 s.
pub(crate) fn connect_packet(device_id: &str, protocol_level: u8) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', protocol_level, 0x02, 0, 60];
    if protocol_level == 5 {
        body.push(0);
    }
    push_text(&mut body, device_id);
    packet(0x10, &body)
}

/// PUBLISH with QoS 1.
pub(crate) fn publish_packet(topic: &str, packet_id: u16, payload: &str, protocol_level: u8) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, topic);
    body.extend(packet_id.to_be_bytes());
    if protocol_level == 5 {
        body.push(0);
    }
    body.extend(payload.as_bytes());
    packet(0x32, &body)
}

/// A packet with its remaining length.
pub(crate) fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first_byte];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left % 128).unwrap_or_default();
        left /= 128;
        packet.push(if left > 0 { low | 128 } else { low });
        if left == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    body.extend(text.as_bytes());
}
