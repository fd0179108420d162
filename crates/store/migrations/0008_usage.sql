-- Usage is settled, not summed up on the way in. From time to time one writer makes the hours that were touched anew, out of the raw
-- rows (crates/store/src/settle.rs): so a row is what the raw rows say, whatever came twice, late or out of order, and an insert of
-- heartbeats feeds one view less.

DROP VIEW IF EXISTS usage_from_heartbeats;
DROP VIEW IF EXISTS usage_from_connections;
DROP TABLE IF EXISTS usage_counters;

-- Parts that hold nothing new are not looked into.
ALTER TABLE heartbeats ADD INDEX IF NOT EXISTS stored_when stored_at TYPE minmax GRANULARITY 1;
ALTER TABLE connections ADD INDEX IF NOT EXISTS stored_when stored_at TYPE minmax GRANULARITY 1;
ALTER TABLE connections ADD INDEX IF NOT EXISTS at_when at TYPE minmax GRANULARITY 1;

-- How far each run of the settling went. A run reads what ClickHouse took since the one before it began, and a quarter of an hour
-- more.
CREATE TABLE IF NOT EXISTS settle_runs
(
    run     UInt64                  COMMENT 'when it began, ms since 1970 by the server: the version of what it writes',
    since   DateTime('UTC')         COMMENT 'it read rows that were stored from then on',
    devices UInt64                  COMMENT 'devices made anew',
    late    UInt64                  COMMENT 'of these, those whose past was touched',
    took_ms UInt64
)
ENGINE = ReplacingMergeTree
ORDER BY run
TTL toDateTime(intDiv(run, 1000)) + INTERVAL 30 DAY;

-- What a run found touched: from which hour on a device is made anew. Kept for a day, to be looked at.
CREATE TABLE IF NOT EXISTS settle_touched
(
    run       UInt64,
    device_id String,
    from_hour DateTime('UTC'),
    late      UInt8           COMMENT '1: all its rows are read; 0: those of the last hours are enough',
    readings  UInt64          COMMENT 'rows that were stored since'
)
ENGINE = MergeTree
ORDER BY (run, device_id)
TTL toDateTime(intDiv(run, 1000)) + INTERVAL 1 DAY;

-- What each counter of each device rose by in each hour, split by the SIM, the network and the state that the device had last told.
-- `last_*`: where the counter stood after the last reading of the row; the next hour counts on from there.
CREATE TABLE IF NOT EXISTS usage_hours
(
    device_id     String                                 CODEC(ZSTD(1)),
    source        Enum8('modem' = 1, 'gateway' = 2)      COMMENT 'who counted: the device since its boot, or the gateway since the session began',
    counter       String                                 COMMENT 'what resets it: boot id, or session id' CODEC(ZSTD(1)),
    hour          DateTime('UTC')                        CODEC(DoubleDelta, ZSTD(1)),
    iccid         String                                 CODEC(ZSTD(1)),
    plmn          LowCardinality(String),
    state         LowCardinality(String),
    heartbeats    UInt32                                 COMMENT 'taken in the hour (modem), or received in it (gateway)' CODEC(T64, ZSTD(1)),
    tx_bytes      UInt64                                 COMMENT 'sent by the device' CODEC(T64, ZSTD(1)),
    rx_bytes      UInt64                                 COMMENT 'received by the device' CODEC(T64, ZSTD(1)),
    messages      UInt64                                 COMMENT 'sent by the device; gateway only' CODEC(T64, ZSTD(1)),
    last_at       DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    last_place    UInt64                                 COMMENT 'orders readings of one moment' CODEC(Delta, ZSTD(1)),
    last_tx       Nullable(UInt64)                       CODEC(Delta, ZSTD(1)),
    last_rx       Nullable(UInt64)                       CODEC(Delta, ZSTD(1)),
    last_messages UInt64                                 CODEC(Delta, ZSTD(1)),
    ahead_tx      UInt64                                 COMMENT 'by how much the counter had been higher before' CODEC(ZSTD(1)),
    ahead_rx      UInt64                                 CODEC(ZSTD(1)),
    last_uptime_s Nullable(UInt64)                       CODEC(Delta, ZSTD(1)),
    last_sequence Nullable(UInt64)                       CODEC(Delta, ZSTD(1)),
    settled       UInt64                                 COMMENT 'run that wrote it' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(settled)
PARTITION BY toMonday(hour)
ORDER BY (device_id, source, counter, hour, iccid, plmn, state)
TTL hour + INTERVAL 3 YEAR
SETTINGS ttl_only_drop_parts = 1;

-- The same by device and day (UTC), both counts side by side: small enough to be kept for ever.
CREATE TABLE IF NOT EXISTS usage_days
(
    device_id        String                              CODEC(ZSTD(1)),
    day              Date                                CODEC(DoubleDelta, ZSTD(1)),
    iccid            String                              CODEC(ZSTD(1)),
    plmn             LowCardinality(String),
    state            LowCardinality(String),
    heartbeats       UInt32                              COMMENT 'taken on that day' CODEC(T64, ZSTD(1)),
    modem_tx_bytes   UInt64                              CODEC(T64, ZSTD(1)),
    modem_rx_bytes   UInt64                              CODEC(T64, ZSTD(1)),
    gateway_tx_bytes UInt64                              CODEC(T64, ZSTD(1)),
    gateway_rx_bytes UInt64                              CODEC(T64, ZSTD(1)),
    gateway_messages UInt64                              CODEC(T64, ZSTD(1)),
    settled          UInt64                              CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(settled)
PARTITION BY toYYYYMM(day)
ORDER BY (device_id, day, iccid, plmn, state);

-- One row per device, hour, SIM, network and state.
CREATE OR REPLACE VIEW device_hours AS
SELECT
    device_id,
    hour,
    iccid,
    plmn,
    state,
    sumIf(u.heartbeats, source = 'modem') AS heartbeats,
    sumIf(u.tx_bytes, source = 'modem') AS modem_tx_bytes,
    sumIf(u.rx_bytes, source = 'modem') AS modem_rx_bytes,
    sumIf(u.tx_bytes, source = 'gateway') AS gateway_tx_bytes,
    sumIf(u.rx_bytes, source = 'gateway') AS gateway_rx_bytes,
    sumIf(u.messages, source = 'gateway') AS gateway_messages
FROM usage_hours AS u FINAL
GROUP BY device_id, hour, iccid, plmn, state
HAVING heartbeats + modem_tx_bytes + modem_rx_bytes + gateway_tx_bytes + gateway_rx_bytes + gateway_messages > 0;

-- One row per device, day, SIM, network and state.
CREATE OR REPLACE VIEW device_days AS
SELECT
    device_id, day, iccid, plmn, state, heartbeats, modem_tx_bytes, modem_rx_bytes, gateway_tx_bytes, gateway_rx_bytes, gateway_messages
FROM usage_days AS u FINAL
WHERE heartbeats + modem_tx_bytes + modem_rx_bytes + gateway_tx_bytes + gateway_rx_bytes + gateway_messages > 0;

-- One row per device and hour.
CREATE OR REPLACE VIEW usage_hourly AS
SELECT
    device_id,
    hour,
    sum(d.modem_tx_bytes) AS modem_tx_bytes,
    sum(d.modem_rx_bytes) AS modem_rx_bytes,
    sum(d.gateway_tx_bytes) AS gateway_tx_bytes,
    sum(d.gateway_rx_bytes) AS gateway_rx_bytes,
    sum(d.gateway_messages) AS gateway_tx_messages
FROM device_hours AS d
GROUP BY device_id, hour;

-- Usage of a span of whole hours, by device, SIM, network and state: whole days out of the days, what is left of them at both ends
-- out of the hours. `from` and `to` are moments; what a time zone makes of a month's first and last day is for the caller to say.
CREATE OR REPLACE VIEW usage_between AS
SELECT
    device_id,
    iccid,
    plmn,
    state,
    sum(p.heartbeats) AS heartbeats,
    sum(p.modem_tx_bytes) AS modem_tx_bytes,
    sum(p.modem_rx_bytes) AS modem_rx_bytes,
    sum(p.gateway_tx_bytes) AS gateway_tx_bytes,
    sum(p.gateway_rx_bytes) AS gateway_rx_bytes,
    sum(p.gateway_messages) AS gateway_messages
FROM
(
    SELECT device_id, iccid, plmn, state, heartbeats, modem_tx_bytes, modem_rx_bytes, gateway_tx_bytes, gateway_rx_bytes, gateway_messages
    FROM device_days
    WHERE toDateTime(day, 'UTC') >= {from:DateTime('UTC')} AND toDateTime(day, 'UTC') + INTERVAL 1 DAY <= {to:DateTime('UTC')}
    UNION ALL
    SELECT device_id, iccid, plmn, state, heartbeats, modem_tx_bytes, modem_rx_bytes, gateway_tx_bytes, gateway_rx_bytes, gateway_messages
    FROM device_hours
    WHERE hour >= {from:DateTime('UTC')} AND hour < {to:DateTime('UTC')}
        AND NOT (toStartOfDay(hour, 'UTC') >= {from:DateTime('UTC')} AND toStartOfDay(hour, 'UTC') + INTERVAL 1 DAY <= {to:DateTime('UTC')})
) AS p
GROUP BY device_id, iccid, plmn, state
