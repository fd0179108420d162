//! The packet cases of `tests/packets` against a real gateway: what a client sends byte by byte, and what has to come back.
//!
//! A case passes where the client is no worse off than the case says: the same packets for the same ids with the same
//! sense (accepted or refused), and the connection closed or open at the end. Reason codes and properties may differ, and a
//! refusal may be a closed connection alone.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::mqtt_client::{connect_packet, packet, publish_packet};
use crate::pipeline::open_to_all;

#[path = "../packets/notation.rs"]
mod notation;

/// How long an answer may take. A gateway answers within milliseconds; a loaded machine is no failure.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long a connection is watched that has to close.
const CLOSE_MAX: Duration = Duration::from_secs(3);
/// Cases at once.
const AT_ONCE: usize = 8;

struct Case {
    name: String,
    version: u8,
    connects: bool,
    closes: bool,
    messages: Vec<Value>,
    /// It shares topics with others: one after the other.
    alone: bool,
}

#[test]
fn packet_cases_end_as_they_should_or_as_the_table_of_differences_says() -> Result<()> {
    let pipeline = open_to_all("packet_cases")?;
    let cases = cases()?;
    let failed = Mutex::new(BTreeMap::new());
    let run = |number: usize, case: &Case| {
        if let Err(error) = replay(pipeline.mqtt, case, &format!("case-{number}")) {
            let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failed.insert(case.name.clone(), format!("{error:#}"));
        }
    };
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| case.alone) {
        run(number, case);
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !case.alone {
                        run(next.load(Ordering::Relaxed), case);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let differences = differences()?;
    let unexplained: Vec<_> = failed.iter().filter(|(name, _)| !differences.contains_key(*name)).collect();
    let pass_now: Vec<_> = differences.keys().filter(|name| !failed.contains_key(*name)).collect();
    println!("{} of {} packet cases pass", cases.len() - failed.len(), cases.len());
    ensure!(unexplained.is_empty(), "differences that are not explained: {unexplained:#?}");
    ensure!(pass_now.is_empty(), "explained as different, and they pass: {pass_now:#?}");
    ensure!(failed.len() * 100 <= cases.len(), "less than 99 % pass");
    // It lives, and still does its work.
    let mut device = pipeline.connect("survivor", 5)?;
    ensure!(device.acknowledged_heartbeat(1, "{}")? == 0);
    pipeline.eventually("SELECT count() FROM heartbeats WHERE device_id = 'survivor'", "1")?;
    pipeline.stop()
}

/// What is different on purpose, with the reason.
fn differences() -> Result<BTreeMap<String, String>> {
    serde_json::from_str(include_str!("packet_differences.json")).context("packet_differences.json")
}

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packets")
}

fn cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(folder())?.collect::<std::io::Result<_>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(kind) = name.strip_suffix(".json") else { continue };
        let groups: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file.path())?)?;
        for group in groups.iter().filter(|group| group["disable"] != true) {
            for test in group["tests"].as_array().context("no tests")? {
                cases.push(Case::read(kind, group, test)?);
            }
        }
    }
    ensure!(cases.len() > 1_000, "only {} cases", cases.len());
    Ok(cases)
}

impl Case {
    fn read(kind: &str, group: &Value, test: &Value) -> Result<Self> {
        let either = |key: &str| test.get(key).or_else(|| group.get(key));
        let flag = |key: &str| either(key).and_then(Value::as_bool).unwrap_or(true);
        let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
        let version = u8::try_from(either("ver").and_then(Value::as_u64).unwrap_or(4))?;
        let messages = test["msgs"].as_array().context("no msgs")?.clone();
        let subscribes = |message: &Value| {
            message["type"] != "recv" && message["type"] != "send"
                || message["type"] == "send"
                    && payload(message).is_ok_and(|bytes| matches!(bytes.first(), Some(0x80..0xb0)))
        };
        Ok(Self {
            name: format!("{kind} | {} | {} | {version}", text(&group["group"]), text(&test["name"])),
            version,
            connects: flag("connect"),
            closes: flag("expect_disconnect"),
            alone: messages.iter().any(subscribes) || !flag("connect"),
            messages,
        })
    }
}

fn payload(message: &Value) -> Result<Vec<u8>> {
    let text = message["payload"].as_str().context("no payload")?;
    notation::bytes(text).with_context(|| format!("cannot read {text:?}"))
}

/// Plays a case; an error is how it went wrong.
fn replay(mqtt: SocketAddr, case: &Case, client_id: &str) -> Result<()> {
    let mut connection = Connection::open(mqtt)?;
    if case.connects {
        connection.send(&opening(case.version, client_id));
        let connack = connection.next()?;
        ensure!(matches!(connack[..], [0x20, _, _, 0, ..]), "CONNECT was answered with {connack:02x?}");
    }
    for message in &case.messages {
        match message["type"].as_str() {
            Some("send") => connection.send(&payload(message)?),
            Some("recv") => connection.expect(&payload(message)?)?,
            Some("external_publish") => publish_from_elsewhere(mqtt, message)?,
            other => bail!("a message of type {other:?}"),
        }
    }
    if case.closes {
        return connection.must_close();
    }
    connection.send(&[0xc0, 0]);
    loop {
        match connection.next()?[..] {
            [0x30..0x40, ..] => {}
            [0xd0, 0] => return Ok(()),
            ref other => bail!("PINGREQ was answered with {other:02x?}"),
        }
    }
}

/// A CONNECT that is right.
fn opening(version: u8, client_id: &str) -> Vec<u8> {
    match version {
        3 => {
            let length = u8::try_from(client_id.len()).unwrap_or_default();
            packet(0x10, &[b"\0\x06MQIsdp\x03\x02\0\x3c\0", &[length][..], client_id.as_bytes()].concat())
        }
        version => connect_packet(client_id, version),
    }
}

fn publish_from_elsewhere(mqtt: SocketAddr, message: &Value) -> Result<()> {
    let (topic, text) =
        (message["topic"].as_str().context("topic")?, message["payload"].as_str().context("payload")?);
    let qos = u8::try_from(message["qos"].as_u64().unwrap_or(0))?;
    let retain = u8::from(message["retain"] == true);
    let mut connection = Connection::open(mqtt)?;
    connection.send(&opening(4, "elsewhere"));
    connection.next()?;
    if qos == 0 {
        let length = u8::try_from(topic.len())?;
        connection.send(&packet(0x30 | retain, &[&[0, length], topic.as_bytes(), text.as_bytes()].concat()));
    } else {
        let mut publish = publish_packet(topic, 1, text, 4);
        publish[0] = 0x30 | qos << 1 | retain;
        connection.send(&publish);
        connection.next()?;
    }
    if qos == 2 {
        connection.send(&[0x62, 2, 0, 1]);
        connection.next()?;
    }
    connection.send(&[0xe0, 0]);
    Ok(())
}

struct Connection {
    stream: TcpStream,
    inbox: Vec<u8>,
}

/// What became of a wait.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the connection was closed")]
    Closed,
    #[error("nothing came")]
    Silence,
}

impl Connection {
    fn open(mqtt: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(mqtt)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, inbox: Vec::new() })
    }

    /// What cannot be sent is seen with the next answer.
    fn send(&mut self, bytes: &[u8]) {
        let _closed = self.stream.write_all(bytes);
    }

    fn more(&mut self, until: Instant) -> Result<(), Ended> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Ended::Silence);
        }
        let mut room = [0; 4096];
        let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut room));
        match read {
            Ok(0) => Err(Ended::Closed),
            Ok(count) => {
                self.inbox.extend(&room[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Ended::Silence)
            }
            Err(_) => Err(Ended::Closed),
        }
    }

    /// The next packet.
    fn next(&mut self) -> Result<Vec<u8>, Ended> {
        let until = Instant::now() + ANSWER_MAX;
        loop {
            if let Some(length) = whole(&self.inbox) {
                return Ok(self.inbox.drain(..length).collect());
            }
            self.more(until)?;
        }
    }

    /// Waits for a packet, or for one that means the same.
    fn expect(&mut self, wanted: &[u8]) -> Result<()> {
        let refusal = is_refusal(wanted);
        loop {
            match self.next() {
                // Retained messages of other cases.
                Ok(got) if got[0] >> 4 == 3 && !matches!(wanted[0] >> 4, 3 | 14) => {}
                Ok(got) => {
                    ensure!(means_the_same(wanted, &got), "wanted {wanted:02x?}, got {got:02x?}");
                    return Ok(());
                }
                Err(Ended::Closed) if refusal => return Ok(()),
                Err(error) => return Err(error).with_context(|| format!("instead of {wanted:02x?}")),
            }
        }
    }

    fn must_close(&mut self) -> Result<()> {
        let until = Instant::now() + CLOSE_MAX;
        loop {
            match self.more(until) {
                Ok(()) => {}
                Err(Ended::Closed) => return Ok(()),
                Err(Ended::Silence) => bail!("it is still open, and sent {:02x?}", self.inbox),
            }
        }
    }
}

/// Length of the packet that `bytes` begin with, if it is whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let (mut length, mut shift) = (0, 0);
    for (index, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (bytes.len() > index + length).then_some(index + 1 + length);
        }
    }
    None
}

/// First byte and what follows the length.
fn parts(packet: &[u8]) -> (u8, &[u8]) {
    let header = 1 + packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    (packet[0] >> 4, packet.get(header..).unwrap_or_default())
}

fn is_refusal(packet: &[u8]) -> bool {
    match parts(packet) {
        (2, body) => body.get(1).is_some_and(|code| *code != 0),
        (kind, _) => kind == 14,
    }
}

fn means_the_same(wanted: &[u8], got: &[u8]) -> bool {
    if wanted == got || is_refusal(wanted) && is_refusal(got) {
        return true;
    }
    let ((kind, wanted), (got_kind, got)) = (parts(wanted), parts(got));
    let refuses = |code: Option<&u8>| code.is_some_and(|code| *code >= 0x80);
    kind == got_kind
        && match kind {
            2 => wanted.get(..2) == got.get(..2),
            3 => wanted.ends_with(&got[got.len().saturating_sub(4)..]),
            4..=7 => wanted.get(..2) == got.get(..2) && refuses(wanted.get(2)) == refuses(got.get(2)),
            9 | 11 => wanted.get(..2) == got.get(..2) && refuses(wanted.last()) == refuses(got.last()),
            12 | 13 => true,
            _ => false,
        }
}
