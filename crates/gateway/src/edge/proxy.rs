//! The PROXY protocol, version 2: a load balancer says whose connection it passes on.
//!
//! Only the address is taken; what else the header carries (TLVs) is read and left. A header is at most
//! [`ADDRESSES_BYTES_MAX`] long, and not a byte behind it is read. Version 1 is not spoken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

/// How a header of version 2 starts. (PROXY protocol, section 2.2)
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and TLVs: what balancers send stays below 300 bytes, a certificate's names included below 2,000.
const ADDRESSES_BYTES_MAX: usize = 2_048;

/// Why a header is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The connection ended within the header.
    #[error("the connection ended within its proxy header")]
    Read(#[from] std::io::Error),
    /// It does not start like one.
    #[error("the connection does not start with a proxy header of version 2")]
    Signature,
    /// A version or command that does not exist.
    #[error("the proxy header has the unknown command {0:#04x}")]
    Command(u8),
    /// Neither TCP over IPv4 nor over IPv6.
    #[error("the proxy header has the family {0:#04x}, which is not tcp")]
    Family(u8),
    /// Too short for its addresses, or longer than any balancer's.
    #[error("the proxy header says it has {0} bytes")]
    Length(usize),
}

/// Reads the header. `None`: the balancer speaks for itself, as in a health check. Not cancel safe: a part of the
/// header may be read.
pub(crate) async fn read<S>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError>
where
    S: AsyncRead + Unpin,
{
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed).await?;
    if fixed[..12] != SIGNATURE {
        return Err(ProxyError::Signature);
    }
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > ADDRESSES_BYTES_MAX {
        return Err(ProxyError::Length(length));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match command {
        0x20 => Ok(None),
        0x21 => source(family, &rest),
        _ => Err(ProxyError::Command(command)),
    }
}

/// The source in the address block: source address, destination address, source port, destination port.
fn source(family: u8, block: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let (ip, port): (IpAddr, Option<&[u8; 2]>) = match family {
        // Not known: the block is to be left.
        0x00 => return Ok(None),
        0x11 => match block.first_chunk::<12>() {
            Some(block) => {
                let [a, b, c, d, ..] = *block;
                (Ipv4Addr::new(a, b, c, d).into(), block[8..].first_chunk())
            }
            None => return Err(ProxyError::Length(block.len())),
        },
        0x21 => match block.first_chunk::<36>() {
            Some(block) => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&block[..16]);
                (Ipv6Addr::from(octets).to_canonical(), block[32..].first_chunk())
            }
            None => return Err(ProxyError::Length(block.len())),
        },
        _ => return Err(ProxyError::Family(family)),
    };
    let port = port.map_or(0, |port| u16::from_be_bytes(*port));
    Ok(Some(SocketAddr::new(ip, port)))
}

/// Networks, as they stand in a setting: `10.0.0.0/8, ::1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks(Vec<Network>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    v4: bool,
    bits: u128,
    mask: u128,
}

/// A text that is no network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network such as 10.0.0.0/8")]
pub(crate) struct NoNetwork(String);

impl Networks {
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let (v4, bits) = bits(ip.to_canonical());
        self.0.iter().any(|network| network.v4 == v4 && network.bits == bits & network.mask)
    }
}

/// An address in the upper bits of a number.
fn bits(ip: IpAddr) -> (bool, u128) {
    match ip {
        IpAddr::V4(ip) => (true, u128::from(ip.to_bits()) << 96),
        IpAddr::V6(ip) => (false, ip.to_bits()),
    }
}

impl FromStr for Networks {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| part.parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let bad = || NoNetwork(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let (v4, bits) = bits(address.parse().map_err(|_| bad())?);
        let length_max = if v4 { 32 } else { 128 };
        let length = length.unwrap_or(length_max);
        if length > length_max {
            return Err(bad());
        }
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        Ok(Self { v4, bits: bits & mask, mask })
    }
}

#[cfg(test)]
pub(super) fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("short");
    [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), block].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0x1f, 0x90, 0x07, 0x5b];

    async fn parsed(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
        let read = read(&mut bytes).await;
        (read, bytes.len())
    }

    #[tokio::test]
    async fn a_header_gives_the_source_and_nothing_behind_it_is_read() {
        let mut block = V4.to_vec();
        block.extend([0x04, 0, 2, 0, 0]);
        let bytes = [header(0x21, 0x11, &block), b"CONNECT".to_vec()].concat();
        let (source, left) = parsed(&bytes).await;
        assert_eq!(source.expect("valid"), Some("203.0.113.7:8080".parse().expect("an address")));
        assert_eq!(left, 7);

        let mut block = Ipv6Addr::LOCALHOST.octets().to_vec();
        block.extend([0; 16]);
        block.extend([0x1f, 0x90, 0, 1]);
        let (source, _) = parsed(&header(0x21, 0x21, &block)).await;
        assert_eq!(source.expect("valid"), Some("[::1]:8080".parse().expect("an address")));
    }

    #[tokio::test]
    async fn local_and_unknown_families_name_nobody() {
        for bytes in [header(0x20, 0x00, &[]), header(0x20, 0x11, &V4), header(0x21, 0x00, &[1, 2, 3])] {
            assert_eq!(parsed(&bytes).await.0.expect("valid"), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        assert!(matches!(parsed(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c").await.0, Err(ProxyError::Read(_))));
        assert!(matches!(parsed(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n").await.0, Err(ProxyError::Signature)));
        assert!(matches!(parsed(&header(0x31, 0x11, &V4)).await.0, Err(ProxyError::Command(0x31))));
        assert!(matches!(parsed(&header(0x21, 0x12, &V4)).await.0, Err(ProxyError::Family(0x12))));
        assert!(matches!(parsed(&header(0x21, 0x11, &V4[..11])).await.0, Err(ProxyError::Length(11))));
        assert!(matches!(parsed(&header(0x21, 0x21, &V4)).await.0, Err(ProxyError::Length(12))));
        assert!(matches!(parsed(&header(0x21, 0x11, &[0; 2_049])).await.0, Err(ProxyError::Length(2_049))));
    }

    #[test]
    fn networks_hold_what_their_prefix_says() {
        let networks: Networks = "10.0.0.0/8, 192.0.2.7,2001:db8::/32".parse().expect("valid");
        for (ip, inside) in [
            ("10.200.1.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(networks.contains(ip.parse().expect("an address")), inside, "{ip}");
        }
        let all: Networks = "0.0.0.0/0".parse().expect("valid");
        assert!(all.contains("8.8.8.8".parse().expect("an address")));
        assert!(!all.contains("::1".parse().expect("an address")));
        for bad in ["10.0.0.0/33", "here", "10.0.0.0/", "::/129"] {
            assert!(bad.parse::<Networks>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(block in proptest::collection::vec(any::<u8>(), 0..80), command: u8, family: u8) {
            let bytes = header(command, family, &block);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _any = runtime.block_on(parsed(&bytes));
        }
    }
}
