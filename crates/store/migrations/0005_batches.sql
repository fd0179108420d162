-- What the writer knows about its own work: the batches that landed, and the records that Kafka dropped before they were read.

-- One row per batch, inserted when everything else of it stands: a row here says that all of it landed, views included.
-- `records` and the arrays count what was consumed: per gateway node and minute (of `received_at`; of `at` for presence and
-- commands). Keyed by where the batch begins: a batch that is repeated is the same row.
CREATE TABLE IF NOT EXISTS batches
(
    stream       Enum8('events' = 1, 'dead_letters' = 2)   COMMENT 'Kafka topic',
    partition    UInt32,
    first_offset UInt64                                    CODEC(Delta, ZSTD(1)),
    last_offset  UInt64                                    CODEC(Delta, ZSTD(1)),
    content      UInt64                                    COMMENT 'hash of the records: a topic that was created anew counts from zero again',
    records      UInt32                                    CODEC(ZSTD(1)),
    produced_at  DateTime64(3, 'UTC')                      COMMENT 'when its first record was produced' CODEC(Delta, ZSTD(1)),
    landed_at    DateTime64(3, 'UTC')                      COMMENT 'when its last row stood' CODEC(Delta, ZSTD(1)),
    attempts     UInt32                                    COMMENT 'how often it was begun by the writer that brought it to its end' CODEC(ZSTD(1)),
    replayed     Bool                                      COMMENT 'another writer, or an earlier life of this one, had announced it',
    found        UInt32                                    COMMENT 'rows that an earlier attempt had brought in' CODEC(ZSTD(1)),
    refused      UInt32                                    COMMENT 'records that ClickHouse refused for good: dead letters' CODEC(ZSTD(1)),
    last_minute  DateTime('UTC')                           COMMENT 'the latest of `minutes`; 1970 where there is none' CODEC(Delta, ZSTD(1)),
    node_ids     Array(LowCardinality(String))             CODEC(ZSTD(1)),
    minutes      Array(DateTime('UTC'))                    CODEC(ZSTD(1)),
    heartbeats   Array(UInt32)                             CODEC(ZSTD(1)),
    others       Array(UInt32)                             COMMENT 'presence events and steps of commands' CODEC(ZSTD(1)),
    dead_letters Array(UInt32)                             COMMENT 'payloads and records that were no event; the writer knows no node of its own' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(produced_at)
ORDER BY (stream, partition, first_offset)
TTL toDateTime(produced_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- One row per range of records that Kafka dropped before the writer read them: acknowledged, and lost. Empty in a healthy system.
CREATE TABLE IF NOT EXISTS ingest_gaps
(
    stream       Enum8('events' = 1, 'dead_letters' = 2)   COMMENT 'Kafka topic',
    partition    UInt32,
    first_offset UInt64,
    last_offset  UInt64,
    found_at     DateTime64(3, 'UTC')                      COMMENT 'when the first record after it was produced'
)
ENGINE = ReplacingMergeTree
ORDER BY (stream, partition, first_offset, last_offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- What is inserted every second is merged ten parts at a time, in place of five: each row is written anew a third as often, for some
-- twenty parts that stand in place of seventeen.
ALTER TABLE heartbeats MODIFY SETTING merge_selector_base = 10;
ALTER TABLE device_status_state MODIFY SETTING merge_selector_base = 10;
ALTER TABLE usage_counters MODIFY SETTING merge_selector_base = 10;
ALTER TABLE batches MODIFY SETTING merge_selector_base = 10
