//! Rows, as they are inserted: one struct per table, its fields named and typed like the columns.

mod binary;
mod ledger;

use std::borrow::Cow;

use uuid::Uuid;

use binary::Cell;

pub use binary::Column;
pub(crate) use binary::put_header;
pub use ledger::LedgerRow;

/// A row of a table.
pub trait TableRow: Send + Sync {
    /// The table.
    const TABLE: &'static str;
    /// The columns that it fills, in the order in which they are written.
    const COLUMNS: &'static [Column];
    /// Appends the row, as RowBinary.
    fn put(&self, out: &mut Vec<u8>);
    /// Brings the rows of an insert into the order of the table, where it pays; in any other they land as well. Copies stay in the order in
    /// which they came: of those that came in within a second the table keeps the last.
    fn arrange(_rows: &mut [&Self])
    where
        Self: Sized,
    {
    }
}

/// A struct that is a row, each field with the type of its column beside it; and in which order its rows go out, if in any.
macro_rules! table_row {
    (
        $table:literal $(in the order of $($place:ident),+)?;
        $(#[$about:meta])*
        pub struct $row:ident $(<$life:lifetime>)? {
            $($(#[$said:meta])* pub $column:ident: $cell:ty = $sql:literal,)*
        }
    ) => {
        $(#[$about])*
        pub struct $row $(<$life>)? {
            $($(#[$said])* pub $column: $cell,)*
        }

        impl $(<$life>)? $crate::rows::TableRow for $row $(<$life>)? {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [Column] = &[$(Column { name: stringify!($column), sql: $sql },)*];

            fn put(&self, out: &mut Vec<u8>) {
                $(self.$column.put(out);)*
            }

            $(fn arrange(rows: &mut [&Self]) {
                rows.sort_by(|one, other| ($(&one.$place,)+).cmp(&($(&other.$place,)+)));
            })?
        }
    };
}

use table_row;

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

record_row!(HeartbeatRow<'_>, received_at);
record_row!(ConnectionRow, connected_at);
record_row!(DeadLetterRow, received_at);
record_row!(NodeRow, at);
record_row!(CommandRow, issued_at);
record_row!(LedgerRow, told_at);

/// Milliseconds since 1970-01-01 UTC, a `DateTime64(3)`.
pub type Millis = i64;

// The server sorts a block for its table and again for the target of each view, and moves every column of each. Of what comes in order it only
// sees that it does: the targets begin with the device, too.
table_row! {
    "heartbeats" in the order of device_id, device_time, identity;
    /// A row of `heartbeats`; the columns are explained in the schema.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[expect(missing_docs, reason = "explained in migrations/0007_storage.sql")]
    pub struct HeartbeatRow<'a> {
        pub device_id: Cow<'a, str> = "String",
        pub device_time: Millis = "DateTime64(3, 'UTC')",
        pub identity: u64 = "UInt64",
        pub received_at: Millis = "DateTime64(3, 'UTC')",
        pub clock: i8 = "Enum8('device' = 1, 'gateway' = 2, 'implausible' = 3)",
        pub claimed_time_ms: Option<i64> = "Nullable(Int64)",
        pub session_id: Uuid = "UUID",
        pub node_id: Cow<'a, str> = "LowCardinality(String)",
        pub session_bytes_in: u64 = "UInt64",
        pub session_bytes_out: u64 = "UInt64",
        pub session_messages_in: u64 = "UInt64",
        pub sequence: Option<u64> = "Nullable(UInt64)",
        pub boot_id: Cow<'a, str> = "String",
        pub uptime_s: Option<u64> = "Nullable(UInt64)",
        pub firmware: Cow<'a, str> = "LowCardinality(String)",
        pub state: Cow<'a, str> = "LowCardinality(String)",
        pub next_s: Option<u32> = "Nullable(UInt32)",
        pub battery_e2: Option<u16> = "Nullable(UInt16)",
        pub battery_millivolts: Option<u32> = "Nullable(UInt32)",
        pub battery_charging: Option<bool> = "Nullable(Bool)",
        pub latitude_e6: Option<i32> = "Nullable(Int32)",
        pub longitude_e6: Option<i32> = "Nullable(Int32)",
        pub altitude_e1: Option<i32> = "Nullable(Int32)",
        pub speed_e2: Option<i32> = "Nullable(Int32)",
        pub accuracy_e1: Option<i32> = "Nullable(Int32)",
        pub rat: Cow<'a, str> = "LowCardinality(String)",
        pub plmn: Cow<'a, str> = "LowCardinality(String)",
        pub cell_id: Option<u64> = "Nullable(UInt64)",
        pub tac: Option<u32> = "Nullable(UInt32)",
        pub rssi_e1: Option<i16> = "Nullable(Int16)",
        pub rsrp_e1: Option<i16> = "Nullable(Int16)",
        pub rsrq_e1: Option<i16> = "Nullable(Int16)",
        pub sinr_e1: Option<i16> = "Nullable(Int16)",
        pub iccid: Cow<'a, str> = "String",
        pub imsi: Cow<'a, str> = "String",
        pub imei: Cow<'a, str> = "String",
        pub modem_tx_bytes: Option<u64> = "Nullable(UInt64)",
        pub modem_rx_bytes: Option<u64> = "Nullable(UInt64)",
        pub extra: Cow<'a, str> = "String",
        pub kafka_partition: u32 = "UInt32",
        pub kafka_offset: u64 = "UInt64",
    }
}

table_row! {
    "connections";
    /// A row of `connections`; the columns are explained in the schema.
    #[derive(Clone, Debug, PartialEq)]
    #[expect(missing_docs, reason = "explained in migrations/0001_events.sql and 0004_nodes_and_commands.sql")]
    pub struct ConnectionRow {
        pub device_id: String = "String",
        pub session_id: Uuid = "UUID",
        pub event: i8 = "Enum8('connected' = 1, 'disconnected' = 2)",
        pub at: Millis = "DateTime64(3, 'UTC')",
        pub connected_at: Millis = "DateTime64(3, 'UTC')",
        pub node_id: String = "LowCardinality(String)",
        pub epoch: u64 = "UInt64",
        pub peer: String = "String",
        pub protocol_level: u8 = "UInt8",
        pub clean_start: bool = "Bool",
        pub keep_alive_s: u32 = "UInt32",
        pub reason: &'static str = "LowCardinality(String)",
        pub detail: String = "String",
        pub bytes_in: u64 = "UInt64",
        pub bytes_out: u64 = "UInt64",
        pub messages_in: u64 = "UInt64",
        pub messages_out: u64 = "UInt64",
        pub kafka_partition: u32 = "UInt32",
        pub kafka_offset: u64 = "UInt64",
        pub client_id: String = "String",
        pub tls_version: String = "LowCardinality(String)",
        pub transport: String = "LowCardinality(String)",
        pub fleet: String = "LowCardinality(String)",
        pub session_expiry_s: u32 = "UInt32",
        pub session_present: bool = "Bool",
        pub presence_sequence: u64 = "UInt64",
        pub client_code: u8 = "UInt8",
    }
}

impl ConnectionRow {
    /// `event` of a session that was accepted.
    pub const CONNECTED: i8 = 1;
    /// `event` of a session that ended.
    pub const DISCONNECTED: i8 = 2;
}

table_row! {
    "dead_letters";
    /// A row of `dead_letters`; the columns are explained in the schema.
    #[derive(Clone, Debug, PartialEq)]
    #[expect(missing_docs, reason = "explained in migrations/0001_events.sql")]
    pub struct DeadLetterRow {
        pub received_at: Millis = "DateTime64(3, 'UTC')",
        pub device_id: String = "String",
        pub session_id: Uuid = "UUID",
        pub node_id: String = "LowCardinality(String)",
        pub topic: String = "String",
        pub payload: Vec<u8> = "String",
        pub reason: &'static str = "LowCardinality(String)",
        pub detail: String = "String",
        pub source: i8 = "Enum8('gateway' = 1, 'writer' = 2)",
        pub kafka_partition: u32 = "UInt32",
        pub kafka_offset: u64 = "UInt64",
    }
}

impl DeadLetterRow {
    /// `source` of a payload that the gateway rejected.
    pub const GATEWAY: i8 = 1;
    /// `source` of a record that the writer rejected.
    pub const WRITER: i8 = 2;
    /// `reason` of a record that ClickHouse does not take.
    pub const REFUSED: &'static str = "refused_by_clickhouse";
}

table_row! {
    "nodes";
    /// A row of `nodes`; the columns are explained in the schema.
    #[derive(Clone, Debug, PartialEq)]
    #[expect(missing_docs, reason = "explained in migrations/0004_nodes_and_commands.sql")]
    pub struct NodeRow {
        pub node_id: String = "LowCardinality(String)",
        pub epoch: u64 = "UInt64",
        pub event: i8 = "Enum8('started' = 1, 'alive' = 2, 'stopping' = 3)",
        pub at: Millis = "DateTime64(3, 'UTC')",
        pub version: String = "LowCardinality(String)",
        pub sessions: u32 = "UInt32",
        pub lost_after_ms: u32 = "UInt32",
        pub kafka_partition: u32 = "UInt32",
        pub kafka_offset: u64 = "UInt64",
    }
}

impl NodeRow {
    /// `event` of a process that takes connections from now on.
    pub const STARTED: i8 = 1;
    /// `event` of one that lives.
    pub const ALIVE: i8 = 2;
    /// `event` of one that has ended its sessions and stops.
    pub const STOPPING: i8 = 3;
}

table_row! {
    "commands";
    /// A row of `commands`; the columns are explained in the schema.
    #[derive(Clone, Debug, PartialEq)]
    #[expect(missing_docs, reason = "explained in migrations/0004_nodes_and_commands.sql")]
    pub struct CommandRow {
        pub device_id: String = "String",
        pub command_id: Uuid = "UUID",
        pub step: i8 = "Enum8('issued' = 1, 'sent' = 2, 'delivered' = 3, 'refused' = 4, 'expired' = 5)",
        pub at: Millis = "DateTime64(3, 'UTC')",
        pub name: String = "LowCardinality(String)",
        pub issued_by: String = "LowCardinality(String)",
        pub issued_at: Millis = "DateTime64(3, 'UTC')",
        pub expires_at: Millis = "DateTime64(3, 'UTC')",
        pub node_id: String = "LowCardinality(String)",
        pub session_id: Uuid = "UUID",
        pub device_code: u8 = "UInt8",
        pub kafka_partition: u32 = "UInt32",
        pub kafka_offset: u64 = "UInt64",
    }
}

/// `stream` of a row: the Kafka topic, in the numbers of the column.
pub mod stream {
    /// Events.
    pub const EVENTS: i8 = 1;
    /// Dead letters.
    pub const DEAD_LETTERS: i8 = 2;
}

table_row! {
    "batches";
    /// A row of `batches`; the columns are explained in the schema.
    #[derive(Clone, Debug, Default, PartialEq)]
    #[expect(missing_docs, reason = "explained in migrations/0005_batches.sql")]
    pub struct BatchRow {
        pub stream: i8 = "Enum8('events' = 1, 'dead_letters' = 2)",
        pub partition: u32 = "UInt32",
        pub first_offset: u64 = "UInt64",
        pub last_offset: u64 = "UInt64",
        pub content: u64 = "UInt64",
        pub records: u32 = "UInt32",
        pub produced_at: Millis = "DateTime64(3, 'UTC')",
        pub landed_at: Millis = "DateTime64(3, 'UTC')",
        pub attempts: u32 = "UInt32",
        pub replayed: bool = "Bool",
        pub found: u32 = "UInt32",
        pub refused: u32 = "UInt32",
        /// Seconds since 1970.
        pub last_minute: u32 = "DateTime('UTC')",
        pub node_ids: Vec<String> = "Array(LowCardinality(String))",
        /// Seconds since 1970.
        pub minutes: Vec<u32> = "Array(DateTime('UTC'))",
        pub heartbeats: Vec<u32> = "Array(UInt32)",
        pub others: Vec<u32> = "Array(UInt32)",
        pub dead_letters: Vec<u32> = "Array(UInt32)",
    }
}

table_row! {
    "ingest_gaps";
    /// A row of `ingest_gaps`; the columns are explained in the schema.
    #[derive(Clone, Debug, PartialEq)]
    #[expect(missing_docs, reason = "explained in migrations/0005_batches.sql")]
    pub struct GapRow {
        pub stream: i8 = "Enum8('events' = 1, 'dead_letters' = 2)",
        pub partition: u32 = "UInt32",
        pub first_offset: u64 = "UInt64",
        pub last_offset: u64 = "UInt64",
        pub found_at: Millis = "DateTime64(3, 'UTC')",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_go_out_in_order_and_copies_as_they_came() {
        let row = |number: u64| HeartbeatRow {
            device_id: if number.is_multiple_of(3) { "b" } else { "a" }.into(),
            kafka_offset: number,
            ..HeartbeatRow::default()
        };
        let came: Vec<HeartbeatRow<'_>> = (0..200).map(row).collect();
        let mut rows: Vec<&HeartbeatRow<'_>> = came.iter().collect();
        HeartbeatRow::arrange(&mut rows);
        let places: Vec<_> = rows.iter().map(|row| (&*row.device_id, row.kafka_offset)).collect();
        assert!(places.is_sorted() && places.len() == 200, "{places:?}");
    }
}
