//! The few MQTT packets that attackers need, and sockets with a source address.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

/// CONNECT of 3.1.1 with clean session and a keep alive of 60 s.
pub(super) fn connect_packet(client_id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\x3c".to_vec();
    push_text(&mut body, client_id);
    packet(0x10, &body)
}

/// The same of MQTT 5, without properties.
pub(super) fn connect_packet_5(client_id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x05\x02\0\x3c\0".to_vec();
    push_text(&mut body, client_id);
    packet(0x10, &body)
}

/// PUBLISH of a heartbeat with QoS 1.
pub(super) fn heartbeat(client_id: &str, packet_id: u16) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, &format!("devices/{client_id}/heartbeat"));
    body.extend(packet_id.to_be_bytes());
    body.extend(b"{}");
    packet(0x32, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    // All are shorter than 128 bytes.
    packet.push(u8::try_from(body.len()).unwrap_or(127));
    packet.extend(body);
    packet
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    body.extend(text.as_bytes());
}

/// A connection from an address of one's own, so that attackers use up their own ports and limits.
pub(super) fn open(server: SocketAddr, source: Ipv4Addr) -> io::Result<TcpStream> {
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(IpAddr::V4(source), 0))?;
    connect(&socket, &server)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a session: sends CONNECT and waits for CONNACK.
pub(super) fn session(server: SocketAddr, source: Ipv4Addr, client_id: &str) -> io::Result<TcpStream> {
    let mut stream = open(server, source)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&connect_packet(client_id))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    match connack {
        [0x20, 2, _, 0] => Ok(stream),
        other => Err(io::Error::other(format!("CONNECT was answered with {other:02x?}"))),
    }
}
