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
PARTITION BY toMonday(told_at)
ORDER BY (node_id, epoch, minute)
TTL toDateTime(told_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- One row per node, stream, partition and minute between {since} and {until}: what the gateway counted, what was read, what stands.
-- A parameterized view: SELECT * FROM ledger(since = '2026-01-01 00:00:00', until = '2026-01-01 01:00:00').
--   acknowledged  PUBLISHes whose PUBACK or PUBREC was made: <= produced, as QoS 0 has none and a client may be gone
--   repeated      of these, sent again by the device
--   produced      records that Kafka reported as held
--   failed        records that it did not; it may hold them all the same
--   consumed      records of batches that landed: = produced, + failed at most
--   inserted      of these, rows of heartbeats or events: consumed less dead letters
--   standing      of the consumed heartbeats, those whose record has its row in the table
--   replaced      consumed heartbeats less standing: the same heartbeat stands under another record (a device sent it again), or the row is gone.
--                 `fleetpulse ledger` looks at each of those records and tells which.
--   dead_lettered consumed dead letters; dead_standing: those that have their row
--   gap           records that are missing where Kafka dropped a range before it was read
-- Several starts of a node within a minute are one row: rows of heartbeats do not know their epoch. `state`, in one word:
--   balanced    everything adds up
--   unverified  as far as counts go; whether what is replaced stands elsewhere is to be looked at
--   open        the minute is not over, not told, or not read to its end yet
--   replayed    heartbeats that `fleetpulse replay --dead-letters` sent in the name of the node 'replay': no gateway counted them
--   node_lost   the node died before it told this minute: what was consumed stands for what was produced
--   foreign     records that no node of ours made: their dead letters have no node
--   gap         Kafka dropped records of it
--   expired     older than rows are kept
--   before      older than the ledger
--   difference  something is missing, or there is more than was made
CREATE OR REPLACE VIEW ledger AS
WITH
    toDateTime({since:DateTime('UTC')}, 'UTC') AS since,
    toDateTime({until:DateTime('UTC')}, 'UTC') AS until,
    (SELECT toStartOfMinute(min(m.applied_at)) FROM schema_migrations AS m WHERE m.version = 6) AS kept_since,
    counted AS
    (
        SELECT
            node_id, stream, partition, minute,
            sum(told_heartbeats) AS told_heartbeats, sum(told_others) AS told_others, sum(told_dead_letters) AS told_dead_letters,
            sum(acknowledged) AS acknowledged, sum(repeated) AS repeated, sum(failed) AS failed,
            min(nullIf(first_offset, 0)) AS first_told, max(last_offset) AS last_told,
            sum(read_heartbeats) AS read_heartbeats, sum(read_others) AS read_others, sum(read_dead_letters) AS read_dead_letters,
            sum(standing) AS standing, sum(dead_standing) AS dead_standing
        FROM
        (
            SELECT
                toString(n.node_id) AS node_id, toString(n.one.1) AS stream, n.one.2 AS partition, n.minute AS minute,
                n.one.3 AS told_heartbeats, n.one.4 AS told_others, n.one.5 AS told_dead_letters,
                n.one.6 AS acknowledged, n.one.7 AS repeated, n.one.8 AS failed, n.one.9 AS first_offset, n.one.10 AS last_offset,
                0 AS read_heartbeats, 0 AS read_others, 0 AS read_dead_letters, 0 AS standing, 0 AS dead_standing
            FROM
            (
                SELECT
                    node_id, minute,
                    arrayJoin(arrayZip(streams, partitions, heartbeats, others, dead_letters, acknowledged, repeated, failed,
                        -- One more, so that zero is none.
                        arrayMap(f -> f + 1, first_offsets), last_offsets)) AS one
                FROM node_ledgers FINAL
                WHERE minute >= since AND minute < until AND told_at >= since
            ) AS n

            UNION ALL
            SELECT
                toString(b.one.1), toString(b.stream), toInt32(b.partition), b.one.2,
                0, 0, 0, 0, 0, 0, 0, 0, b.one.3, b.one.4, b.one.5, 0, 0
            FROM
            (
                -- A batch that is told twice is the same row. One may hold what was taken in over as long as Kafka keeps it.
                SELECT stream, partition, arrayJoin(arrayZip(node_ids, minutes, heartbeats, others, dead_letters)) AS one
                FROM
                (
                    SELECT * FROM batches
                    WHERE last_minute >= since AND produced_at >= since - INTERVAL 31 DAY
                    LIMIT 1 BY stream, partition, first_offset, content
                )
            ) AS b
            WHERE b.one.2 >= since AND b.one.2 < until

            UNION ALL
            SELECT
                toString(h.node_id), 'events', toInt32(h.kafka_partition), toStartOfMinute(h.received_at) AS at_minute,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, uniqExact(h.kafka_offset), 0
            FROM heartbeats AS h
            WHERE h.received_at >= since AND h.received_at < until
            GROUP BY h.node_id, h.kafka_partition, at_minute

            UNION ALL
            SELECT
                toString(d.node_id), if(d.source = 'writer' AND d.topic != 'dead_letters', 'events', 'dead_letters') AS at_stream,
                toInt32(d.kafka_partition), toStartOfMinute(d.received_at) AS at_minute,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, uniqExact(d.kafka_offset)
            FROM dead_letters AS d
            -- What ClickHouse refused counts as what it was; `fleetpulse ledger` finds it where its row is missing.
            WHERE d.received_at >= since AND d.received_at < until AND d.reason != 'refused_by_clickhouse'
            GROUP BY d.node_id, at_stream, d.kafka_partition, at_minute
        )
        GROUP BY node_id, stream, partition, minute
    ),
    -- How far each partition is read.
    read AS
    (
        SELECT toString(b.stream) AS stream, toInt32(b.partition) AS partition, max(b.last_offset) AS last_read
        FROM batches AS b
        WHERE b.last_minute >= since AND b.produced_at >= since - INTERVAL 31 DAY
        GROUP BY stream, partition
    ),
    gaps AS
    (
        SELECT toString(g.stream) AS stream, toInt32(g.partition) AS partition, groupArray((g.first_offset, g.last_offset)) AS ranges
        FROM ingest_gaps AS g FINAL
        GROUP BY stream, partition
    ),
    -- What the starts of a node owe of a minute that they lived in.
    lives AS
    (
        SELECT node_id, minute, countIf(owes = 'open') AS open_starts, countIf(owes = 'lost') AS lost_starts
        FROM
        (
            SELECT
                m.node_id AS node_id,
                m.minute AS minute,
                multiIf(
                    t.complete > 0, '',
                    -- Minutes are told in order, but for what is under way: a later one told long ago says that this one had nothing.
                    s.status IN ('running', 'unknown') AND t.epoch = 0 AND l.last_told >= m.minute + 180, '',
                    s.status IN ('running', 'unknown'), 'open',
                    'lost') AS owes
            FROM (SELECT DISTINCT node_id, minute FROM counted) AS m
            INNER JOIN node_status AS s ON s.node_id = m.node_id
            LEFT JOIN
            (
                SELECT toString(n.node_id) AS node_id, n.epoch AS epoch, n.minute AS minute, toUInt8(n.complete) AS complete
                FROM node_ledgers AS n FINAL
                WHERE n.minute >= since AND n.minute < until AND n.told_at >= since
            ) AS t ON t.node_id = m.node_id AND t.epoch = s.epoch AND t.minute = m.minute
            LEFT JOIN
            (
                SELECT toString(n.node_id) AS node_id, n.epoch AS epoch, max(n.minute) AS last_told
                FROM node_ledgers AS n
                WHERE n.told_at >= since
                GROUP BY node_id, epoch
            ) AS l ON l.node_id = m.node_id AND l.epoch = s.epoch
            WHERE fromUnixTimestamp64Milli(toInt64(s.epoch), 'UTC') < m.minute + 60
                AND (s.status IN ('running', 'unknown') OR s.last_at + toIntervalMillisecond(s.lost_after_ms) >= m.minute)
        )
        GROUP BY node_id, minute
    )
SELECT
    c.node_id AS node_id,
    c.stream AS stream,
    c.partition AS partition,
    c.minute AS minute,
    c.acknowledged AS acknowledged,
    c.repeated AS repeated,
    c.told_heartbeats + c.told_others + c.told_dead_letters AS produced,
    c.failed AS failed,
    c.read_heartbeats + c.read_others + c.read_dead_letters AS consumed,
    c.read_heartbeats + c.read_others AS inserted,
    c.read_heartbeats AS heartbeats,
    c.standing AS standing,
    if(heartbeats > standing, toUInt64(heartbeats - standing), 0) AS replaced,
    c.read_dead_letters AS dead_lettered,
    c.dead_standing AS dead_standing,
    produced > consumed AND arrayExists(range -> range.1 <= last_offset AND range.2 >= first_offset, g.ranges) AS in_gap,
    if(in_gap, toUInt64(produced - consumed), 0) AS gap,
    toUInt64(ifNull(c.first_told, 1) - 1) AS first_offset,
    toUInt64(c.last_told) AS last_offset,
    multiIf(
        minute < now() - INTERVAL 89 DAY, 'expired',
        minute < kept_since, 'before',
        c.node_id = '' AND dead_standing = dead_lettered, 'foreign',
        l.open_starts > 0 OR last_offset > r.last_read OR (c.last_told = 0 AND minute + 75 > now()), 'open',
        in_gap, 'gap',
        produced > consumed OR acknowledged > produced, 'difference',
        -- Writers of before count nothing, and may go on for a while.
        (standing > heartbeats OR dead_standing > dead_lettered) AND minute < kept_since + INTERVAL 1 HOUR, 'before',
        standing > heartbeats OR dead_standing != dead_lettered, 'difference',
        consumed > produced + failed AND l.lost_starts = 0 AND c.node_id != 'replay', 'difference',
        replaced > 0, 'unverified',
        c.node_id = 'replay', 'replayed',
        consumed > produced + failed, 'node_lost',
        'balanced') AS state
FROM counted AS c
LEFT JOIN read AS r ON r.stream = c.stream AND r.partition = c.partition
LEFT JOIN gaps AS g ON g.stream = c.stream AND g.partition = c.partition
LEFT JOIN lives AS l ON l.node_id = c.node_id AND l.minute = c.minute
