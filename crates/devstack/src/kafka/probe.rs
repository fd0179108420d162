use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Kafka's numbers of two requests, and the versions sent here: old, small, and answered by Kafka 2.1 to 4.
const API_VERSIONS: (u16, u16) = (18, 0);
const METADATA: (u16, u16) = (3, 1);

/// Echoed by the broker.
const CORRELATION_ID: u32 = 0x666c_7074;
const CLIENT_ID: &[u8] = b"devstack";
/// Far above what either answer takes; a size beyond it is not Kafka speaking.
const ANSWER_BYTES_MAX: u32 = 1 << 20;

/// Asks a broker which requests it knows (ApiVersions): the first thing that any client asks. An open port alone
/// would also be had from a hung broker.
///
/// # Errors
/// Where it does not answer in time, or not as Kafka does.
pub fn probe(address: SocketAddr, within: Duration) -> io::Result<()> {
    let answer = ask(address, within, API_VERSIONS, &[])?;
    match answer.first_chunk() {
        Some(code) if i16::from_be_bytes(*code) == 0 => Ok(()),
        Some(code) => Err(io::Error::other(format!("kafka error {}", i16::from_be_bytes(*code)))),
        None => Err(not_kafka()),
    }
}

/// Asks a broker how many brokers, itself included, can serve clients now (Metadata without topics).
///
/// # Errors
/// Where it does not answer in time, or not as Kafka does.
pub fn brokers_known_by(address: SocketAddr, within: Duration) -> io::Result<usize> {
    let no_topics = 0_u32.to_be_bytes();
    let answer = ask(address, within, METADATA, &no_topics)?;
    let count = answer.first_chunk().map(|count| u32::from_be_bytes(*count)).ok_or_else(not_kafka)?;
    usize::try_from(count).map_err(|_| not_kafka())
}

/// Sends one request and reads its answer, without the header. `within` holds for each of connect, write, read.
fn ask(address: SocketAddr, within: Duration, api: (u16, u16), body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    stream.write_all(&request(api, body))?;

    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    let length = u32::from_be_bytes(word);
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(not_kafka());
    }
    stream.read_exact(&mut word)?;
    if u32::from_be_bytes(word) != CORRELATION_ID {
        return Err(not_kafka());
    }
    let mut answer = Vec::new();
    let rest = u64::from(length - 4);
    stream.take(rest).read_to_end(&mut answer)?;
    if u64::try_from(answer.len()).is_ok_and(|length| length == rest) { Ok(answer) } else { Err(not_kafka()) }
}

/// Length, api and version, correlation id, client id with its length, body.
fn request((key, version): (u16, u16), body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(CORRELATION_ID.to_be_bytes());
    bytes.extend(u16::try_from(CLIENT_ID.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(CLIENT_ID);
    bytes.extend(body);
    let length = u32::try_from(bytes.len() - 4).unwrap_or(0);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn not_kafka() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is not Kafka's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_its_own_length() {
        let bytes = request(API_VERSIONS, &[9]);
        assert_eq!(bytes[..8], [0, 0, 0, 19, 0, 18, 0, 0]);
        assert_eq!(bytes[8..12], *b"flpt");
        assert_eq!(bytes[12..], *b"\0\x08devstack\x09");
    }

    #[test]
    fn an_answer_of_another_protocol_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 22];
            stream.read_exact(&mut request).expect("the request");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("an answer");
        });
        let error = probe(address, Duration::from_secs(10)).expect_err("it is not Kafka");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        server.join().expect("the server");
    }
}
