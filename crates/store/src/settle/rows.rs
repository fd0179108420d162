//! What settling reads and writes.

use clickhouse::Row;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::rows::Millis;

/// Who counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "i8", try_from = "i8")]
pub(crate) enum Source {
    Modem,
    Gateway,
}

impl From<Source> for i8 {
    fn from(source: Source) -> Self {
        match source {
            Source::Modem => 1,
            Source::Gateway => 2,
        }
    }
}

impl TryFrom<i8> for Source {
    type Error = String;

    fn try_from(number: i8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::Modem),
            2 => Ok(Self::Gateway),
            other => Err(format!("source {other} of usage is not known")),
        }
    }
}

/// A heartbeat, as far as usage goes.
#[derive(Clone, Debug, Row, Deserialize)]
pub(crate) struct Reading {
    pub device_id: String,
    /// When it was taken.
    pub at: Millis,
    pub received_at: Millis,
    pub identity: u64,
    pub boot_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    pub tx_bytes: Option<u64>,
    pub rx_bytes: Option<u64>,
    pub session_bytes_in: u64,
    pub session_bytes_out: u64,
    pub session_messages_in: u64,
    pub uptime_s: Option<u64>,
    pub sequence: Option<u64>,
    pub iccid: String,
    pub plmn: String,
    pub state: String,
}

/// The end of a session.
#[derive(Clone, Debug, Row, Deserialize)]
pub(crate) struct Ending {
    pub device_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    pub at: Millis,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
}

/// Where a counter stood.
#[derive(Clone, Debug, Row, Deserialize)]
pub(crate) struct Stood {
    pub device_id: String,
    pub source: Source,
    pub counter: String,
    pub last_at: Millis,
    pub last_tx: Option<u64>,
    pub last_rx: Option<u64>,
    pub last_messages: u64,
    pub ahead_tx: u64,
    pub ahead_rx: u64,
    pub last_uptime_s: Option<u64>,
    pub last_sequence: Option<u64>,
    pub iccid: String,
    pub plmn: String,
    pub state: String,
}

/// What names a row of one device in `usage_hours`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub source: Source,
    pub counter: String,
    pub hour: u32,
    pub iccid: String,
    pub plmn: String,
    pub state: String,
}

/// A row that was settled before.
#[derive(Clone, Debug, Row, Deserialize)]
pub(crate) struct Named {
    pub device_id: String,
    pub source: Source,
    pub counter: String,
    pub hour: u32,
    pub iccid: String,
    pub plmn: String,
    pub state: String,
}

/// A row of `usage_hours`; explained in migrations/0008_usage.sql.
#[derive(Clone, Debug, PartialEq, Row, Serialize)]
pub(crate) struct UsageHour {
    pub device_id: String,
    pub source: Source,
    pub counter: String,
    pub hour: u32,
    pub iccid: String,
    pub plmn: String,
    pub state: String,
    pub heartbeats: u32,
    pub tx_bytes: u64,
    pub rx_bytes: u64,
    pub messages: u64,
    pub last_at: Millis,
    pub last_place: u64,
    pub last_tx: Option<u64>,
    pub last_rx: Option<u64>,
    pub last_messages: u64,
    pub ahead_tx: u64,
    pub ahead_rx: u64,
    pub last_uptime_s: Option<u64>,
    pub last_sequence: Option<u64>,
    pub settled: u64,
}

impl UsageHour {
    pub(crate) fn nothing(device_id: &str, key: &Key, settled: u64) -> Self {
        Self {
            device_id: device_id.to_owned(),
            source: key.source,
            counter: key.counter.clone(),
            hour: key.hour,
            iccid: key.iccid.clone(),
            plmn: key.plmn.clone(),
            state: key.state.clone(),
            heartbeats: 0,
            tx_bytes: 0,
            rx_bytes: 0,
            messages: 0,
            last_at: 0,
            last_place: 0,
            last_tx: None,
            last_rx: None,
            last_messages: 0,
            ahead_tx: 0,
            ahead_rx: 0,
            last_uptime_s: None,
            last_sequence: None,
            settled,
        }
    }
}
