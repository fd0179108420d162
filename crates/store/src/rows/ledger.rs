//! What a gateway process counted of a minute, as it is inserted. The arrays have one element for each partition.

use super::binary::{Cell, Column};
use super::{Millis, table_row};

table_row! {
    "node_ledgers";
    /// A row of `node_ledgers`; the columns are explained in the schema.
    #[derive(Clone, Debug, Default, PartialEq)]
    #[expect(missing_docs, reason = "explained in migrations/0006_ledger.sql")]
    pub struct LedgerRow {
        pub node_id: String = "LowCardinality(String)",
        pub epoch: u64 = "UInt64",
        /// Seconds since 1970-01-01 UTC.
        pub minute: u32 = "DateTime('UTC')",
        pub telling: u32 = "UInt32",
        pub complete: bool = "Bool",
        pub told_at: Millis = "DateTime64(3, 'UTC')",
        pub streams: Vec<i8> = "Array(Enum8('events' = 1, 'dead_letters' = 2))",
        pub partitions: Vec<i32> = "Array(Int32)",
        pub heartbeats: Vec<u64> = "Array(UInt64)",
        pub others: Vec<u64> = "Array(UInt64)",
        pub dead_letters: Vec<u64> = "Array(UInt64)",
        pub acknowledged: Vec<u64> = "Array(UInt64)",
        pub repeated: Vec<u64> = "Array(UInt64)",
        pub failed: Vec<u64> = "Array(UInt64)",
        pub first_offsets: Vec<u64> = "Array(UInt64)",
        pub last_offsets: Vec<u64> = "Array(UInt64)",
        pub kafka_partition: u32 = "UInt32",
        pub kafka_offset: u64 = "UInt64",
    }
}
