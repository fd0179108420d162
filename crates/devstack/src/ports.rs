//! Ports for the services: finding free ones, and refusing taken ones by name.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where free ports are looked for. Below the kernel's ephemeral range (32768 and up), so that no outgoing
/// connection takes the port of a service that a test has stopped and is about to start again.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Why a service cannot have a port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else listens there.
    #[error("the port of {service}, {address}, is taken: stop what listens there, or {remedy}")]
    Taken {
        /// Whose port.
        service: String,
        /// Which one.
        address: SocketAddr,
        /// How to choose another.
        remedy: String,
    },
    /// The address cannot be listened on.
    #[error("the port of {service}, {address}, cannot be used: {source}")]
    Unusable {
        /// Whose port.
        service: String,
        /// Which one.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// None is left.
    #[error("no free port between {FIRST} and {}", FIRST + COUNT - 1)]
    NoneFree,
}

/// A port of 127.0.0.1 that nobody listens on now, and that no other call in this process was given lately.
///
/// # Errors
/// Where all of them are taken.
pub fn free_port() -> Result<u16, PortError> {
    // Processes start at different places, so that two of them seldom ask for the same port at once.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let spread = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
        AtomicU16::new(u16::try_from(spread).unwrap_or(0))
    });
    (0..COUNT)
        .map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .ok_or(PortError::NoneFree)
}

/// The port asked for, or a free one where that is 0.
pub(crate) fn or_free(port: u16) -> Result<u16, PortError> {
    if port == 0 { free_port() } else { Ok(port) }
}

/// Checks that a service can listen at an address. `remedy` completes "stop what listens there, or ...".
///
/// # Errors
/// Where the address is taken or cannot be used; the text names the service.
pub fn require_free(service: &str, address: SocketAddr, remedy: &str) -> Result<(), PortError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(PortError::Taken { service: service.into(), address, remedy: remedy.into() })
        }
        Err(source) => Err(PortError::Unusable { service: service.into(), address, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused_with_its_service_and_the_way_out() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = holder.local_addr().expect("an address");
        let error = require_free("Kafka", address, "set `kafka_port`").expect_err("it is taken");
        assert_eq!(
            error.to_string(),
            format!("the port of Kafka, {address}, is taken: stop what listens there, or set `kafka_port`")
        );
        drop(holder);
        assert!(require_free("Kafka", address, "").is_ok());
    }

    #[test]
    fn free_ports_differ_and_are_not_ephemeral() {
        let ports: std::collections::HashSet<u16> = (0..50).filter_map(|_| free_port().ok()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|&port| port < 32_768));
    }
}
