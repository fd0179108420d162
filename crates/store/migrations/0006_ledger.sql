-- The ledger: what gateways counted, beside what was read and what stands.

-- One row per telling of a minute by a gateway process; FINAL keeps the newest, as counts only rise. The arrays have one element for
-- each partition of each stream. Events of the node itself are not counted.
CREATE TABLE IF NOT EXISTS node_ledgers
(
    node_id         LowCardinality(String),
    epoch           UInt64                                 COMMENT 'start of the gateway process' CODEC(Delta, ZSTD(1)),
    minute          DateTime('UTC')                        COMMENT 'records that were taken in within this minute' CODEC(Delta, ZSTD(1)),
    telling         UInt32                                 COMMENT 'rises with each telling of the minute',
    complete        Bool                                   COMMENT 'nothing of the minute was under way any more',
    told_at         DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    streams         Array(Enum8('events' = 1, 'dead_letters' = 2)) CODEC(ZSTD(1)),
    partitions      Array(Int32)                           COMMENT '-1: failed before it had one' CODEC(ZSTD(1)),
    heartbeats      Array(UInt64)                          COMMENT 'reported by Kafka as held' CODEC(ZSTD(1)),
    others          Array(UInt64)                          COMMENT 'presence and commands, reported as held' CODEC(ZSTD(1)),
    dead_letters    Array(UInt64)                          COMMENT 'rejected payloads, reported as held' CODEC(ZSTD(1)),
    acknowledged    Array(UInt64)                          COMMENT 'heartbeats and rejected payloads whose PUBACK or PUBREC was made' CODEC(ZSTD(1)),
    repeated        Array(UInt64)                          COMMENT 'of these, sent again by the device (DUP)' CODEC(ZSTD(1)),
    failed          Array(UInt64)                          COMMENT 'not reported as held; Kafka may hold them all the same' CODEC(ZSTD(1)),
    first_offsets   Array(UInt64)                          CODEC(ZSTD(1)),
    last_offsets    Array(UInt64)                          CODEC(ZSTD(1)),
    kafka_partition UInt32,
    kafka_offset    UInt64                                 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(telling)
PARTITION BY toMonday(minute)
ORDER BY (node_id, epoch, minute)
TTL minute + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;
