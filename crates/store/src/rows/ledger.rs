//! What a gateway process counted of a minute, as it is inserted. The arrays have one element for each partition.

use clickhouse::Row;
use serde::Serialize;

use super::{Millis, TableRow};

/// A row of `node_ledgers`; the columns are explained in the schema.
#[derive(Clone, Debug, Default, PartialEq, Row, Serialize)]
#[expect(missing_docs, reason = "explained in migrations/0006_ledger.sql")]
pub struct LedgerRow {
    pub node_id: String,
    pub epoch: u64,
    /// Seconds since 1970-01-01 UTC.
    pub minute: u32,
    pub telling: u32,
    pub complete: bool,
    pub told_at: Millis,
    pub streams: Vec<i8>,
    pub partitions: Vec<i32>,
    pub heartbeats: Vec<u64>,
    pub others: Vec<u64>,
    pub dead_letters: Vec<u64>,
    pub acknowledged: Vec<u64>,
    pub repeated: Vec<u64>,
    pub failed: Vec<u64>,
    pub first_offsets: Vec<u64>,
    pub last_offsets: Vec<u64>,
    pub kafka_partition: u32,
    pub kafka_offset: u64,
}

impl TableRow for LedgerRow {
    const TABLE: &'static str = "node_ledgers";
}
