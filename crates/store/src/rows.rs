//! Rows, as they are inserted: one struct per table, its fields named and typed like the columns.

mod ledger;

use clickhouse::{Row, RowOwned, RowWrite};
use serde::Serialize;
use uuid::Uuid;

pub use ledger::LedgerRow;

/// A row of a table.
pub trait TableRow: RowOwned + RowWrite + for<'a> Row<Value<'a> = Self> + Send + Sync + 'static {
    /// The table.
    const TABLE: &'static str;
}

/// A row that came from one Kafka record.
pub trait RecordRow: TableRow {
    /// The column of [`RecordRow::time`]: what the table is parted by, so that parts of other times are not looked into.
    const TIME: &'static str;
    /// When it was, by that column.
    fn time(&self) -> Millis;
    /// Partition of the record.
    fn kafka_partition(&self) -> u32;
    /// Its number in the partition.
    fn kafka_offset(&self) -> u64;
}

macro_rules! record_row {
    ($row:ty, $time:ident) => {
        impl RecordRow for $row {
            const TIME: &'static str = stringify!($time);
            fn time(&self) -> Millis {
                self.$time
            }
            fn kafka_partition(&self) -> u32 {
                self.kafka_partition
            }
            fn kafka_offset(&self) -> u64 {
                self.kafka_offset
            }
        }
    };
}

record_row!(HeartbeatRow, received_at);
record_row!(ConnectionRow, connected_at);
record_row!(DeadLetterRow, received_at);
record_row!(NodeRow, at);
record_row!(CommandRow, issued_at);
record_row!(LedgerRow, told_at);

/// Milliseconds since 1970-01-01 UTC, a `DateTime64(3)`.
pub type Millis = i64;

/// A row of `heartbeats`; the columns are explained in the schema.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0007_storage.sql")]
pub struct HeartbeatRow {
    pub device_id: String,
    pub device_time: Millis,
    pub identity: u64,
    pub received_at: Millis,
    pub clock: i8,
    pub claimed_time_ms: Option<i64>,
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    pub node_id: String,
    pub session_bytes_in: u64,
    pub session_bytes_out: u64,
    pub session_messages_in: u64,
    pub sequence: Option<u64>,
    pub boot_id: String,
    pub uptime_s: Option<u64>,
    pub firmware: String,
    pub state: String,
    pub next_s: Option<u32>,
    pub battery_e2: Option<u16>,
    pub battery_millivolts: Option<u32>,
    pub battery_charging: Option<bool>,
    pub latitude_e6: Option<i32>,
    pub longitude_e6: Option<i32>,
    pub altitude_e1: Option<i32>,
    pub speed_e2: Option<i32>,
    pub accuracy_e1: Option<i32>,
    pub rat: String,
    pub plmn: String,
    pub cell_id: Option<u64>,
    pub tac: Option<u32>,
    pub rssi_e1: Option<i16>,
    pub rsrp_e1: Option<i16>,
    pub rsrq_e1: Option<i16>,
    pub sinr_e1: Option<i16>,
    pub iccid: String,
    pub imsi: String,
    pub imei: String,
    pub modem_tx_bytes: Option<u64>,
    pub modem_rx_bytes: Option<u64>,
    pub extra: String,
    pub kafka_partition: u32,
    pub kafka_offset: u64,
}

impl TableRow for HeartbeatRow {
    const TABLE: &'static str = "heartbeats";
}

/// A row of `connections`; the columns are explained in the schema.
#[derive(Clone, Debug, PartialEq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0001_events.sql and 0004_nodes_and_commands.sql")]
pub struct ConnectionRow {
    pub device_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    pub event: i8,
    pub at: Millis,
    pub connected_at: Millis,
    pub node_id: String,
    pub epoch: u64,
    pub peer: String,
    pub protocol_level: u8,
    pub clean_start: bool,
    pub keep_alive_s: u32,
    pub reason: &'static str,
    pub detail: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub kafka_partition: u32,
    pub kafka_offset: u64,
    pub client_id: String,
    pub tls_version: String,
    pub transport: String,
    pub fleet: String,
    pub session_expiry_s: u32,
    pub session_present: bool,
    pub presence_sequence: u64,
    pub client_code: u8,
}

impl ConnectionRow {
    /// `event` of a session that was accepted.
    pub const CONNECTED: i8 = 1;
    /// `event` of a session that ended.
    pub const DISCONNECTED: i8 = 2;
}

impl TableRow for ConnectionRow {
    const TABLE: &'static str = "connections";
}

/// A row of `dead_letters`; the columns are explained in the schema.
#[derive(Clone, Debug, PartialEq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0001_events.sql")]
pub struct DeadLetterRow {
    pub received_at: Millis,
    pub device_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    pub node_id: String,
    pub topic: String,
    #[serde(serialize_with = "as_string")]
    pub payload: Vec<u8>,
    pub reason: &'static str,
    pub detail: String,
    pub source: i8,
    pub kafka_partition: u32,
    pub kafka_offset: u64,
}

impl DeadLetterRow {
    /// `source` of a payload that the gateway rejected.
    pub const GATEWAY: i8 = 1;
    /// `source` of a record that the writer rejected.
    pub const WRITER: i8 = 2;
    /// `reason` of a record that ClickHouse does not take.
    pub const REFUSED: &'static str = "refused_by_clickhouse";
}

impl TableRow for DeadLetterRow {
    const TABLE: &'static str = "dead_letters";
}

/// A row of `nodes`; the columns are explained in the schema.
#[derive(Clone, Debug, PartialEq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0004_nodes_and_commands.sql")]
pub struct NodeRow {
    pub node_id: String,
    pub epoch: u64,
    pub event: i8,
    pub at: Millis,
    pub version: String,
    pub sessions: u32,
    pub lost_after_ms: u32,
    pub kafka_partition: u32,
    pub kafka_offset: u64,
}

impl NodeRow {
    /// `event` of a process that takes connections from now on.
    pub const STARTED: i8 = 1;
    /// `event` of one that lives.
    pub const ALIVE: i8 = 2;
    /// `event` of one that has ended its sessions and stops.
    pub const STOPPING: i8 = 3;
}

impl TableRow for NodeRow {
    const TABLE: &'static str = "nodes";
}

/// A row of `commands`; the columns are explained in the schema.
#[derive(Clone, Debug, PartialEq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0004_nodes_and_commands.sql")]
pub struct CommandRow {
    pub device_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub command_id: Uuid,
    pub step: i8,
    pub at: Millis,
    pub name: String,
    pub issued_by: String,
    pub issued_at: Millis,
    pub expires_at: Millis,
    pub node_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    pub device_code: u8,
    pub kafka_partition: u32,
    pub kafka_offset: u64,
}

impl TableRow for CommandRow {
    const TABLE: &'static str = "commands";
}

/// `stream` of a row: the Kafka topic, in the numbers of the column.
pub mod stream {
    /// Events.
    pub const EVENTS: i8 = 1;
    /// Dead letters.
    pub const DEAD_LETTERS: i8 = 2;
}

/// A row of `batches`; the columns are explained in the schema.
#[derive(Clone, Debug, Default, PartialEq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0005_batches.sql")]
pub struct BatchRow {
    pub stream: i8,
    pub partition: u32,
    pub first_offset: u64,
    pub last_offset: u64,
    pub content: u64,
    pub records: u32,
    pub produced_at: Millis,
    pub landed_at: Millis,
    pub attempts: u32,
    pub replayed: bool,
    pub found: u32,
    pub refused: u32,
    /// Seconds since 1970.
    pub last_minute: u32,
    pub node_ids: Vec<String>,
    /// Seconds since 1970.
    pub minutes: Vec<u32>,
    pub heartbeats: Vec<u32>,
    pub others: Vec<u32>,
    pub dead_letters: Vec<u32>,
}

impl TableRow for BatchRow {
    const TABLE: &'static str = "batches";
}

/// A row of `ingest_gaps`; the columns are explained in the schema.
#[derive(Clone, Debug, PartialEq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0005_batches.sql")]
pub struct GapRow {
    pub stream: i8,
    pub partition: u32,
    pub first_offset: u64,
    pub last_offset: u64,
    pub found_at: Millis,
}

impl TableRow for GapRow {
    const TABLE: &'static str = "ingest_gaps";
}

/// A ClickHouse `String` holds any bytes.
fn as_string<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}
