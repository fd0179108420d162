-- What was read from Kafka, and what was not.

-- One row per batch that was inserted. The arrays say how many records of each node and minute (of the time received) it had, by what
-- they became; `others` are presence and command events. Events of the nodes themselves are not counted there.
CREATE TABLE IF NOT EXISTS batches
(
    stream       Enum8('events' = 1, 'dead_letters' = 2),
    partition    UInt32,
    first_offset UInt64                                    CODEC(Delta, ZSTD(1)),
    last_offset  UInt64                                    CODEC(Delta, ZSTD(1)),
    records      UInt32,
    last_minute  DateTime('UTC')                           COMMENT 'the latest of minutes; 1970 where there is none',
    node_ids     Array(LowCardinality(String))             CODEC(ZSTD(1)),
    minutes      Array(DateTime('UTC'))                    CODEC(ZSTD(1)),
    heartbeats   Array(UInt32)                             CODEC(ZSTD(1)),
    others       Array(UInt32)                             CODEC(ZSTD(1)),
    dead_letters Array(UInt32)                             CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(last_minute)
ORDER BY (stream, partition, first_offset)
TTL last_minute + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- Ranges that Kafka dropped before they were read.
CREATE TABLE IF NOT EXISTS ingest_gaps
(
    stream       Enum8('events' = 1, 'dead_letters' = 2),
    partition    UInt32,
    first_offset UInt64,
    last_offset  UInt64,
    found_at     DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (stream, partition, first_offset)
SETTINGS non_replicated_deduplication_window = 10000;
