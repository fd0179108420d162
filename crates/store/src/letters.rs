//! Dead letters, read again in the order in which they came.

use std::fmt;

use clickhouse::Row;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::rows::Millis;
use crate::{QueryError, Store};

/// How long a page may take, seconds.
const SECONDS_MAX: &str = "60";

/// A dead letter as it stands.
#[derive(Clone, PartialEq, Eq, Row, Deserialize)]
#[expect(missing_docs, reason = "explained in migrations/0001_events.sql")]
pub struct DeadLetter {
    pub received_at: Millis,
    pub device_id: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub session_id: Uuid,
    pub topic: String,
    #[serde(deserialize_with = "bytes")]
    pub payload: Vec<u8>,
    pub reason: String,
    pub source: i8,
    pub kafka_partition: u32,
    pub kafka_offset: u64,
}

/// Where a dead letter stands in the order in which they are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterPlace(Millis, String, i8, u32, u64);

impl LetterPlace {
    /// Before all that came at `at` or later.
    pub fn before(at: Millis) -> Self {
        Self(at, String::new(), 0, 0, 0)
    }
}

impl DeadLetter {
    /// Its place.
    pub fn place(&self) -> LetterPlace {
        LetterPlace(
            self.received_at,
            self.device_id.clone(),
            self.source,
            self.kafka_partition,
            self.kafka_offset,
        )
    }
}

/// Without the payload, which may hold anything.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("place", &self.place())
            .field("topic", &self.topic)
            .field("reason", &self.reason)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The dead letters after a place and from before `until`, at most `limit`; each once, as a reader with `FINAL` sees them.
    ///
    /// # Errors
    /// Where the server does not answer. Cancel safe.
    pub async fn dead_letters(
        &self,
        after: &LetterPlace,
        until: Millis,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, QueryError> {
        let sql = "
            SELECT received_at, device_id, session_id, toString(d.topic) AS topic, payload, toString(d.reason) AS reason, source,
                kafka_partition, kafka_offset
            FROM dead_letters AS d FINAL
            WHERE received_at >= fromUnixTimestamp64Milli(?, 'UTC') AND received_at < fromUnixTimestamp64Milli(?, 'UTC')
                AND (toUnixTimestamp64Milli(received_at), device_id, toInt8(source), kafka_partition, kafka_offset) > (?, ?, ?, ?, ?)
            ORDER BY received_at, device_id, toInt8(source), kafka_partition, kafka_offset
            LIMIT ?";
        let LetterPlace(at, device_id, source, partition, offset) = after;
        let query = self.client.query(sql).bind(at).bind(until).bind(at).bind(device_id).bind(source);
        let query = query.bind(partition).bind(offset).bind(limit);
        let letters = query.with_setting("max_execution_time", SECONDS_MAX).fetch_all::<DeadLetter>().await;
        letters.map_err(|source| self.query_error(source))
    }
}

/// A ClickHouse `String` holds any bytes.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Bytes;
    impl<'de> Visitor<'de> for Bytes {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }
        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
    deserializer.deserialize_byte_buf(Bytes)
}
