-- Usage, as two parties counted it: `modem` (the device's own counters, since its boot) and `gateway` (MQTT bytes
-- and messages of a session). What is kept is the last value of each counter in each hour; the usage of an hour is
-- a difference of two such values, taken when it is read. A duplicate changes nothing, a late heartbeat corrects
-- the past by itself.

CREATE TABLE IF NOT EXISTS usage_counters
(
    device_id String,
    source    Enum8('modem' = 1, 'gateway' = 2),
    counter   String               COMMENT 'what resets it: the boot id, or the session id',
    hour      DateTime('UTC'),
    last      SimpleAggregateFunction(max, Tuple(
        at DateTime64(3, 'UTC'), tx_bytes UInt64, rx_bytes UInt64, tx_messages UInt64))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (device_id, source, counter, hour)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_from_heartbeats TO usage_counters AS
SELECT
    h.device_id AS device_id,
    reading.1 AS source,
    reading.2 AS counter,
    toStartOfHour(reading.3) AS hour,
    max((reading.3, reading.4, reading.5, reading.6)) AS last
FROM heartbeats AS h
ARRAY JOIN arrayFilter(r -> r.7, [
    ('modem', h.boot_id, h.device_time, ifNull(h.modem_tx_bytes, 0), ifNull(h.modem_rx_bytes, 0), toUInt64(0),
     h.modem_tx_bytes IS NOT NULL OR h.modem_rx_bytes IS NOT NULL),
    ('gateway', toString(h.session_id), h.received_at, h.session_bytes_in, h.session_bytes_out, h.session_messages_in, true)
]) AS reading
GROUP BY device_id, source, counter, hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_from_connections TO usage_counters AS
SELECT
    c.device_id AS device_id,
    'gateway' AS source,
    toString(c.session_id) AS counter,
    toStartOfHour(c.at) AS hour,
    max((c.at, c.bytes_in, c.bytes_out, c.messages_in)) AS last
FROM connections AS c
GROUP BY device_id, source, counter, hour;

-- Usage per device and hour, seen from the device: tx is what it sent. A named counter (a boot, a session) only rises, so an
-- hour has what its highest value so far rose by: a reading with a clock that is ahead moves usage to a later hour, and
-- counts nothing twice. A counter without a name (a modem that tells no boot id) may fall: then it was reset and counts
-- from zero. What a modem counted before its first heartbeat of a boot belongs to that hour.
CREATE VIEW IF NOT EXISTS usage_hourly AS
SELECT
    device_id,
    hour,
    sumIf(tx, source = 'modem') AS modem_tx_bytes,
    sumIf(rx, source = 'modem') AS modem_rx_bytes,
    sumIf(tx, source = 'gateway') AS gateway_tx_bytes,
    sumIf(rx, source = 'gateway') AS gateway_rx_bytes,
    sumIf(messages, source = 'gateway') AS gateway_tx_messages
FROM
(
    SELECT
        device_id,
        source,
        hour,
        multiIf(
            named, toUInt64(greatest(total.tx_bytes, highest_tx) - highest_tx),
            reset, total.tx_bytes,
            toUInt64(total.tx_bytes - before.tx_bytes)) AS tx,
        multiIf(
            named, toUInt64(greatest(total.rx_bytes, highest_rx) - highest_rx),
            reset, total.rx_bytes,
            toUInt64(total.rx_bytes - before.rx_bytes)) AS rx,
        toUInt64(greatest(total.tx_messages, highest_messages) - highest_messages) AS messages
    FROM
    (
        SELECT
            device_id,
            source,
            hour,
            total,
            counter != '' AS named,
            lagInFrame(total) OVER so_far AS before,
            total.tx_bytes < before.tx_bytes OR total.rx_bytes < before.rx_bytes AS reset,
            max(total.tx_bytes) OVER until_then AS highest_tx,
            max(total.rx_bytes) OVER until_then AS highest_rx,
            max(total.tx_messages) OVER until_then AS highest_messages
        FROM
        (
            SELECT device_id, source, counter, hour, max(u.last) AS total
            FROM usage_counters AS u
            GROUP BY device_id, source, counter, hour
        )
        WINDOW
            so_far AS (PARTITION BY device_id, source, counter ORDER BY hour ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
            until_then AS (PARTITION BY device_id, source, counter ORDER BY hour ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    )
)
GROUP BY device_id, hour;
