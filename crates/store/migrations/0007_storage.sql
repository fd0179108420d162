DROP VIEW IF EXISTS device_status_from_heartbeats;
DROP VIEW IF EXISTS usage_from_heartbeats;
DROP TABLE IF EXISTS heartbeats;
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
    kafka_offset UInt64 CODEC(Delta, ZSTD(1)), stored_at DateTime('UTC') DEFAULT now(), taken_at DateTime64(3,'UTC') ALIAS if(clock='device', device_time, received_at), precedence UInt32 DEFAULT if(clock='device', toUInt32(4294967295 - greatest(0, dateDiff('second', device_time, received_at))), 4294967295-toUInt32(received_at))
)
ENGINE = ReplacingMergeTree(precedence)
PARTITION BY toMonday(received_at)
ORDER BY (device_id, device_time, identity)
TTL toDateTime(received_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;
ALTER TABLE connections ADD COLUMN IF NOT EXISTS stored_at DateTime('UTC') DEFAULT now();
