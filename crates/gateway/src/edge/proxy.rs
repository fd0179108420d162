//! PROXY protocol, version 2: a load balancer says whose connection it passes on.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The part of the header that says how long it is.
const FIXED_BYTES: usize = 16;
/// Longest header: more than every known extension together.
const HEADER_BYTES_MAX: usize = 2_048;

/// Reads the header; nothing behind it is taken from the stream. The address is that of the balancer itself where it
/// speaks for itself (a health check).
///
/// # Errors
/// `InvalidData` where it is no such header. Not cancel safe.
pub(super) async fn read<S>(stream: &mut S, balancer: SocketAddr) -> io::Result<SocketAddr>
where
    S: AsyncRead + Unpin,
{
    let mut header = vec![0; FIXED_BYTES];
    stream.read_exact(&mut header).await?;
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
    if !header.starts_with(ppp::v2::PROTOCOL_PREFIX) || length > HEADER_BYTES_MAX {
        return Err(invalid("it does not begin with a PROXY header of version 2"));
    }
    header.resize(length, 0);
    stream.read_exact(&mut header[FIXED_BYTES..]).await?;
    let parsed = Header::try_from(&header[..]).map_err(invalid)?;
    match (parsed.command, parsed.addresses) {
        (Command::Proxy, Addresses::IPv4(v4)) => Ok((v4.source_address, v4.source_port).into()),
        (Command::Proxy, Addresses::IPv6(v6)) => Ok((v6.source_address, v6.source_port).into()),
        (Command::Local, _) | (Command::Proxy, Addresses::Unspecified) => Ok(balancer),
        (Command::Proxy, Addresses::Unix(_)) => Err(invalid("it passes on a connection of its own machine")),
    }
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCER: &str = "10.0.0.1:443";

    async fn read_all(mut bytes: &[u8]) -> (io::Result<SocketAddr>, Vec<u8>) {
        let read = read(&mut bytes, BALANCER.parse().expect("an address")).await;
        (read, bytes.to_vec())
    }

    #[tokio::test]
    async fn the_header_gives_the_address_and_nothing_behind_it_is_taken() {
        let mut header = ppp::v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x21, 0x11, 0, 12 + 3, 192, 0, 2, 7, 10, 0, 0, 1, 0x13, 0x88, 0, 80]);
        // An extension that nobody knows, and then MQTT.
        header.extend([0xe0, 0, 0, 0x10, 0x0c]);
        let (read, rest) = read_all(&header).await;
        assert_eq!(read.expect("an address"), "192.0.2.7:5000".parse().expect("an address"));
        assert_eq!(rest, [0x10, 0x0c]);
    }

    #[tokio::test]
    async fn a_health_check_is_the_balancers_own_and_anything_else_is_refused() {
        let mut local = ppp::v2::PROTOCOL_PREFIX.to_vec();
        local.extend([0x20, 0, 0, 0]);
        assert_eq!(read_all(&local).await.0.expect("an address").to_string(), BALANCER);
        for bad in [&b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\r\n"[..], &[0x10; 40], &local[..10]] {
            assert!(read_all(bad).await.0.is_err(), "{bad:?}");
        }
        local[14] = 0xff;
        assert!(read_all(&[&local[..], &[0; 70_000]].concat()).await.0.is_err(), "too long");
    }
}
