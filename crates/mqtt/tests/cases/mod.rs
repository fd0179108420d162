//! Reads `tests/packets`; its README says what the notation means.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fmt;
use std::path::Path;

use mqtt::{DecodeError, Packet, Version};
use serde_json::Value;

#[path = "../../../../tests/packets/notation.rs"]
mod notation;

/// What mosquitto itself is started with for these cases.
const PACKET_BYTES_MAX: u32 = 2_000_000;

/// One exchange.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) file: String,
    pub(crate) group: String,
    pub(crate) name: String,
    /// 3, 4 or 5.
    pub(crate) version: u64,
    /// Whether a CONNECT was accepted before.
    pub(crate) connected: bool,
    /// Whether the server must have closed the connection at the end.
    pub(crate) must_close: bool,
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) expected: Vec<Vec<u8>>,
}

/// What the bytes alone say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Every packet can be.
    Valid,
    /// The client said goodbye.
    Disconnected,
    /// More bytes would be needed.
    Short,
    /// One cannot be.
    Refused(DecodeError),
}

impl Case {
    /// Cases in `tests/packets`.
    pub(crate) const COPIED: usize = 1_069;

    pub(crate) fn judge(&self) -> Judged {
        let mut version = self.connected.then(|| version(self.version));
        for bytes in &self.sent {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let frame = match mqtt::frame(rest, PACKET_BYTES_MAX) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Judged::Short,
                    Err(error) => return Judged::Refused(error),
                };
                match version {
                    None => match mqtt::connect(&frame) {
                        Ok(connect) => version = Some(connect.version),
                        Err(refused) => return Judged::Refused(refused.error),
                    },
                    Some(version) => match mqtt::packet(&frame, version) {
                        Ok(Packet::Disconnect(_)) => return Judged::Disconnected,
                        Ok(_) => {}
                        Err(error) => return Judged::Refused(error),
                    },
                }
                rest = &rest[frame.len..];
            }
        }
        Judged::Valid
    }

    /// The reason code that refuses, where one is expected.
    pub(crate) fn refusal(&self) -> Option<u8> {
        match self.expected.last()?.as_slice() {
            [0xE0, _, code, ..] | [0x20, _, _, code, ..] if *code >= 0x80 => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {} | {} {:02x?}", self.file, self.group, self.name, self.sent)
    }
}

fn version(level: u64) -> Version {
    match level {
        3 => Version::V31,
        4 => Version::V311,
        5 => Version::V5,
        other => panic!("a case of version {other}"),
    }
}

/// Every case, in the order of the files.
pub(crate) fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/packets");
    let entries = std::fs::read_dir(&folder).expect("the folder of the cases");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let file = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).expect("readable");
        let groups: Value = serde_json::from_str(&text).expect("JSON");
        for group in groups.as_array().expect("groups") {
            cases.extend(
                group["tests"].as_array().expect("tests").iter().map(|test| case(&file, group, test)),
            );
        }
    }
    cases
}

fn case(file: &str, group: &Value, test: &Value) -> Case {
    let flag = |name: &str| test[name].as_bool().or(group[name].as_bool()).unwrap_or(true);
    let payloads = |kind: &str| {
        let messages = test["msgs"].as_array().expect("msgs").iter();
        messages.filter(|message| message["type"] == kind).map(|message| bytes(&message["payload"])).collect()
    };
    Case {
        file: file.to_owned(),
        group: group["group"].as_str().unwrap_or_default().to_owned(),
        name: test["name"].as_str().unwrap_or_default().trim().to_owned(),
        version: test["ver"].as_u64().or(group["ver"].as_u64()).unwrap_or(4),
        connected: flag("connect"),
        must_close: flag("expect_disconnect"),
        sent: payloads("send"),
        expected: payloads("recv"),
    }
}

fn bytes(payload: &Value) -> Vec<u8> {
    let text = payload.as_str().expect("a payload");
    notation::bytes(text).unwrap_or_else(|| panic!("a payload that cannot be read: {text}"))
}
