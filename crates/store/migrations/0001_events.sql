-- What the writer inserts. Every table is keyed by what a row *is*, so that the same row inserted again is
-- the same row: at once through the insert's deduplication token, for ever through the key (read with FINAL).
-- `kafka_partition` and `kafka_offset` say which record a row came from.

-- One row per heartbeat. Identity: (device_id, device_time, identity).
CREATE TABLE IF NOT EXISTS heartbeats
(
    device_id           String                             CODEC(ZSTD(1)),
    device_time         DateTime64(3, 'UTC')               COMMENT 'when the reading was taken' CODEC(Delta, ZSTD(1)),
    identity            UInt64                             COMMENT 'sequence number, or hash of the payload where there is none' CODEC(Delta, ZSTD(1)),
    received_at         DateTime64(3, 'UTC')               COMMENT 'when the gateway took it in' CODEC(Delta, ZSTD(1)),
    clock               Enum8('device' = 1, 'gateway' = 2, 'implausible' = 3) COMMENT 'whose clock device_time is',
    claimed_time_ms     Nullable(Int64)                    COMMENT 'what an implausible clock claimed, ms since 1970',
    session_id          UUID                               CODEC(ZSTD(1)),
    node_id             LowCardinality(String),
    session_bytes_in    UInt64                             COMMENT 'MQTT bytes of the session so far, as the gateway saw them' CODEC(Delta, ZSTD(1)),
    session_bytes_out   UInt64                             CODEC(Delta, ZSTD(1)),
    session_messages_in UInt64                             CODEC(Delta, ZSTD(1)),
    sequence            Nullable(UInt64)                   CODEC(Delta, ZSTD(1)),
    boot_id             String                             CODEC(ZSTD(1)),
    uptime_s            Nullable(UInt64)                   CODEC(Delta, ZSTD(1)),
    firmware            LowCardinality(String),
    state               LowCardinality(String),
    next_s              Nullable(UInt32)                   COMMENT 'the device promised its next heartbeat within this many seconds',
    battery_percent     Nullable(Float32)                  CODEC(ZSTD(1)),
    battery_millivolts  Nullable(UInt32)                   CODEC(Delta, ZSTD(1)),
    battery_charging    Nullable(Bool),
    latitude_deg        Nullable(Float64)                  CODEC(ZSTD(1)),
    longitude_deg       Nullable(Float64)                  CODEC(ZSTD(1)),
    altitude_m          Nullable(Float32)                  CODEC(ZSTD(1)),
    speed_mps           Nullable(Float32)                  CODEC(ZSTD(1)),
    accuracy_m          Nullable(Float32)                  CODEC(ZSTD(1)),
    rat                 LowCardinality(String)             COMMENT 'radio access technology',
    plmn                LowCardinality(String)             COMMENT 'mobile country and network code',
    cell_id             Nullable(UInt64)                   CODEC(ZSTD(1)),
    tac                 Nullable(UInt32)                   COMMENT 'tracking area code' CODEC(ZSTD(1)),
    rssi_dbm            Nullable(Float32)                  CODEC(ZSTD(1)),
    rsrp_dbm            Nullable(Float32)                  CODEC(ZSTD(1)),
    rsrq_db             Nullable(Float32)                  CODEC(ZSTD(1)),
    sinr_db             Nullable(Float32)                  CODEC(ZSTD(1)),
    iccid               String                             CODEC(ZSTD(1)),
    imsi                String                             CODEC(ZSTD(1)),
    imei                String                             CODEC(ZSTD(1)),
    modem_tx_bytes      Nullable(UInt64)                   COMMENT 'the modem''s own counter since boot' CODEC(Delta, ZSTD(1)),
    modem_rx_bytes      Nullable(UInt64)                   CODEC(Delta, ZSTD(1)),
    extra               String                             COMMENT 'what else the payload held, one JSON object' CODEC(ZSTD(1)),
    kafka_partition     UInt32                             CODEC(ZSTD(1)),
    kafka_offset        UInt64                             CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(received_at)
ORDER BY (device_id, device_time, identity)
TTL toDateTime(received_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- One row per presence event: a session was accepted, a session ended.
CREATE TABLE IF NOT EXISTS connections
(
    device_id       String                                 CODEC(ZSTD(1)),
    session_id      UUID                                   CODEC(ZSTD(1)),
    event           Enum8('connected' = 1, 'disconnected' = 2),
    at              DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    connected_at    DateTime64(3, 'UTC')                   COMMENT 'when the session was accepted' CODEC(Delta, ZSTD(1)),
    node_id         LowCardinality(String),
    epoch           UInt64                                 COMMENT 'start of the gateway process that held the session',
    peer            String                                 CODEC(ZSTD(1)),
    protocol_level  UInt8                                  COMMENT '3, 4 (MQTT 3.1.1) or 5; 0 on a disconnect',
    clean_start     Bool,
    keep_alive_s    UInt32,
    reason          LowCardinality(String)                 COMMENT 'why the session ended; empty on a connect',
    detail          String                                 CODEC(ZSTD(1)),
    bytes_in        UInt64,
    bytes_out       UInt64,
    messages_in     UInt64,
    messages_out    UInt64,
    kafka_partition UInt32                                 CODEC(ZSTD(1)),
    kafka_offset    UInt64                                 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(connected_at)
ORDER BY (device_id, connected_at, session_id, event)
TTL toDateTime(connected_at) + INTERVAL 3 YEAR
SETTINGS non_replicated_deduplication_window = 10000;

-- One row per rejected payload, whole. `source`: who rejected it.
CREATE TABLE IF NOT EXISTS dead_letters
(
    received_at     DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    device_id       String                                 CODEC(ZSTD(1)),
    session_id      UUID                                   CODEC(ZSTD(1)),
    node_id         LowCardinality(String),
    topic           String                                 COMMENT 'MQTT topic it was published on, or Kafka topic of a record that is no event' CODEC(ZSTD(1)),
    payload         String                                 CODEC(ZSTD(1)),
    reason          LowCardinality(String),
    detail          String                                 CODEC(ZSTD(1)),
    source          Enum8('gateway' = 1, 'writer' = 2),
    kafka_partition UInt32,
    kafka_offset    UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(received_at)
ORDER BY (device_id, received_at, source, kafka_partition, kafka_offset)
TTL toDateTime(received_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000;
