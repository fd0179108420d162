-- Heartbeats as small as they go, and each one once though its device has no clock.
--
-- Of copies of one heartbeat the one that arrived first stands (`precedence`). A heartbeat without a believed clock has no place in time
-- of its own: its `device_time` is 1970, and it is known again by `identity`. `taken_at` is when a reading was taken, for every reader.
-- Quantities stand as whole numbers of what is told after the `_e` of their names (`speed_e2`: hundredths); readers take the columns with a unit.
-- What is beyond a whole number's range is the largest or smallest that it holds.
--
-- The table is made anew beside the old one, takes its place, and then takes its rows. Writers of before must stand still meanwhile,
-- and disks hold both until it is done. A statement under `-- when:` runs where the question answers more than zero. `heartbeats_before_7`
-- stays, empty: a node that comes late cannot move the new table to where the old one went.

-- A node that began with the first migration may have made the old table once more, where the server died between the two
-- renames below. It is put aside and not dropped: a node that comes late could drop the new one.
-- when: SELECT countIf(name = 'heartbeats' AND engine_full NOT LIKE '%precedence%' AND total_rows = 0) AND countIf(name = 'heartbeats_before_7') FROM system.tables WHERE database = currentDatabase()
RENAME TABLE heartbeats TO heartbeats_made_twice;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats' AND engine_full NOT LIKE '%precedence%'
CREATE TABLE IF NOT EXISTS heartbeats_next
(
    device_id           String                             CODEC(ZSTD(3)),
    device_time         DateTime64(3, 'UTC')               COMMENT 'when the reading was taken; 1970 where nobody knows' CODEC(Delta, ZSTD(1)),
    identity            UInt64                             COMMENT 'sequence number, or hash of the payload, or of the arrival' CODEC(DoubleDelta, ZSTD(1)),
    received_at         DateTime64(3, 'UTC')               COMMENT 'when the gateway took it in' CODEC(Delta, ZSTD(1)),
    stored_at           DateTime('UTC') DEFAULT now()      COMMENT 'when ClickHouse took the row' CODEC(DoubleDelta, ZSTD(1)),
    -- Falls by one a second of arrival. Four billion leave room for a device whose clock is ahead.
    precedence          UInt32 DEFAULT toUInt32(4000000000 - intDiv(toUnixTimestamp64Milli(received_at) - toUnixTimestamp64Milli(device_time), 1000))
                                                           COMMENT 'of copies of one heartbeat the highest stands: the first to arrive' CODEC(DoubleDelta, ZSTD(1)),
    clock               Enum8('device' = 1, 'gateway' = 2, 'implausible' = 3) COMMENT 'device: device_time is its own; gateway: it told none; implausible: it told one that cannot be' CODEC(ZSTD(1)),
    claimed_time_ms     Nullable(Int64)                    COMMENT 'what an implausible clock claimed, ms since 1970' CODEC(ZSTD(1)),
    session_id          UUID                               CODEC(ZSTD(1)),
    node_id             LowCardinality(String)             CODEC(ZSTD(1)),
    session_bytes_in    UInt64                             COMMENT 'MQTT bytes of the session so far, as the gateway saw them' CODEC(Delta, ZSTD(1)),
    session_bytes_out   UInt64                             CODEC(DoubleDelta, ZSTD(1)),
    session_messages_in UInt64                             CODEC(DoubleDelta, ZSTD(1)),
    sequence            Nullable(UInt64)                   CODEC(DoubleDelta, ZSTD(1)),
    boot_id             String                             CODEC(ZSTD(3)),
    uptime_s            Nullable(UInt64)                   CODEC(DoubleDelta, ZSTD(1)),
    firmware            LowCardinality(String)             CODEC(ZSTD(1)),
    state               LowCardinality(String)             CODEC(ZSTD(1)),
    next_s              Nullable(UInt32)                   COMMENT 'the device promised its next heartbeat within this many seconds' CODEC(ZSTD(1)),
    battery_e2          Nullable(UInt16)                   CODEC(Delta, ZSTD(1)),
    battery_millivolts  Nullable(UInt32)                   CODEC(Delta, T64('bit'), ZSTD(1)),
    battery_charging    Nullable(Bool)                     CODEC(ZSTD(1)),
    latitude_e6         Nullable(Int32)                    CODEC(Delta, T64('bit'), ZSTD(1)),
    longitude_e6        Nullable(Int32)                    CODEC(Delta, T64('bit'), ZSTD(1)),
    altitude_e1         Nullable(Int32)                    CODEC(GCD, Delta, T64('bit'), ZSTD(1)),
    speed_e2            Nullable(Int32)                    CODEC(ZSTD(1)),
    accuracy_e1         Nullable(Int32)                    CODEC(ZSTD(1)),
    rat                 LowCardinality(String)             COMMENT 'radio access technology' CODEC(ZSTD(1)),
    plmn                LowCardinality(String)             COMMENT 'mobile country and network code' CODEC(ZSTD(1)),
    cell_id             Nullable(UInt64)                   CODEC(ZSTD(1)),
    tac                 Nullable(UInt32)                   COMMENT 'tracking area code' CODEC(ZSTD(1)),
    rssi_e1             Nullable(Int16)                    CODEC(Delta, ZSTD(1)),
    rsrp_e1             Nullable(Int16)                    CODEC(Delta, ZSTD(1)),
    rsrq_e1             Nullable(Int16)                    CODEC(T64, ZSTD(1)),
    sinr_e1             Nullable(Int16)                    CODEC(ZSTD(1)),
    iccid               String                             CODEC(ZSTD(3)),
    imsi                String                             CODEC(ZSTD(3)),
    imei                String                             CODEC(ZSTD(3)),
    modem_tx_bytes      Nullable(UInt64)                   COMMENT 'the modem''s own counter since boot' CODEC(Delta, ZSTD(1)),
    modem_rx_bytes      Nullable(UInt64)                   CODEC(DoubleDelta, ZSTD(1)),
    extra               String                             COMMENT 'what else the payload held, one JSON object' CODEC(ZSTD(3)),
    kafka_partition     UInt32                             CODEC(ZSTD(1)),
    kafka_offset        UInt64                             CODEC(Delta, ZSTD(1)),

    taken_at            DateTime64(3, 'UTC') ALIAS if(clock = 'device', device_time, received_at),
    battery_percent     Nullable(Float32)    ALIAS toFloat32(battery_e2 / 100),
    latitude_deg        Nullable(Float64)    ALIAS latitude_e6 / 1000000,
    longitude_deg       Nullable(Float64)    ALIAS longitude_e6 / 1000000,
    altitude_m          Nullable(Float32)    ALIAS toFloat32(altitude_e1 / 10),
    speed_mps           Nullable(Float32)    ALIAS toFloat32(speed_e2 / 100),
    accuracy_m          Nullable(Float32)    ALIAS toFloat32(accuracy_e1 / 10),
    rssi_dbm            Nullable(Float32)    ALIAS toFloat32(rssi_e1 / 10),
    rsrp_dbm            Nullable(Float32)    ALIAS toFloat32(rsrp_e1 / 10),
    rsrq_db             Nullable(Float32)    ALIAS toFloat32(rsrq_e1 / 10),
    sinr_db             Nullable(Float32)    ALIAS toFloat32(sinr_e1 / 10)
)
ENGINE = ReplacingMergeTree(precedence)
PARTITION BY toMonday(received_at)
ORDER BY (device_id, device_time, identity)
TTL toDateTime(received_at) + INTERVAL 90 DAY
-- A part of less than 100 MB is one file for all columns: a batch of 100,000 rows is written for a quarter less than as eighty files.
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1, merge_selector_base = 10, min_bytes_for_wide_part = 104857600;

-- Views follow their table by its name: these would lose it. Those that follow have names of their own, so that dropping
-- these late does no harm.
DROP VIEW IF EXISTS device_status_from_heartbeats;
DROP VIEW IF EXISTS usage_from_heartbeats;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats' AND engine_full NOT LIKE '%precedence%'
RENAME TABLE heartbeats TO heartbeats_before_7, heartbeats_next TO heartbeats;

-- Where the server died between the two.
-- when: SELECT countIf(name = 'heartbeats_next') AND NOT countIf(name = 'heartbeats') FROM system.tables WHERE database = currentDatabase()
RENAME TABLE heartbeats_next TO heartbeats;

-- What a node that came late has made once more.
-- when: SELECT countIf(name = 'heartbeats_next') AND countIf(name = 'heartbeats' AND engine_full LIKE '%precedence%') FROM system.tables WHERE database = currentDatabase()
DROP TABLE IF EXISTS heartbeats_next;

-- Rows of before keep their keys: what a clock that was not believed made two rows of stays two rows.
-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats_before_7' AND total_rows > 0
INSERT INTO heartbeats
(
    device_id, device_time, identity, received_at, clock, claimed_time_ms, session_id, node_id,
    session_bytes_in, session_bytes_out, session_messages_in, sequence, boot_id, uptime_s, firmware, state, next_s,
    battery_e2, battery_millivolts, battery_charging, latitude_e6, longitude_e6, altitude_e1, speed_e2, accuracy_e1,
    rat, plmn, cell_id, tac, rssi_e1, rsrp_e1, rsrq_e1, sinr_e1,
    iccid, imsi, imei, modem_tx_bytes, modem_rx_bytes, extra, kafka_partition, kafka_offset
)
SELECT
    b.device_id, b.device_time, b.identity, b.received_at, b.clock, b.claimed_time_ms, b.session_id, b.node_id,
    b.session_bytes_in, b.session_bytes_out, b.session_messages_in, b.sequence, b.boot_id, b.uptime_s, b.firmware, b.state, b.next_s,
    toUInt16(round(b.battery_percent * 100)), b.battery_millivolts, b.battery_charging,
    toInt32(round(b.latitude_deg * 1000000)), toInt32(round(b.longitude_deg * 1000000)),
    toInt32(least(greatest(round(b.altitude_m * 10), -2147483648), 2147483647)),
    toInt32(least(greatest(round(b.speed_mps * 100), -2147483648), 2147483647)),
    toInt32(least(greatest(round(b.accuracy_m * 10), -2147483648), 2147483647)),
    b.rat, b.plmn, b.cell_id, b.tac,
    toInt16(least(greatest(round(b.rssi_dbm * 10), -32768), 32767)), toInt16(least(greatest(round(b.rsrp_dbm * 10), -32768), 32767)),
    toInt16(least(greatest(round(b.rsrq_db * 10), -32768), 32767)), toInt16(least(greatest(round(b.sinr_db * 10), -32768), 32767)),
    b.iccid, b.imsi, b.imei, b.modem_tx_bytes, b.modem_rx_bytes, b.extra, b.kafka_partition, b.kafka_offset
FROM heartbeats_before_7 AS b;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats_before_7' AND total_rows > 0
TRUNCATE TABLE heartbeats_before_7 SETTINGS max_table_size_to_drop = 0;

-- After the rows of before, which these views' targets have already.
CREATE MATERIALIZED VIEW IF NOT EXISTS device_status_of_heartbeats TO device_status_state AS
SELECT
    h.device_id AS device_id,
    max(h.received_at) AS last_received_at,
    -- A clock that is ahead does not stand for the future once it is put right.
    max((least(h.taken_at, h.received_at), h.identity, ifNull(h.next_s, 0), toString(h.firmware), toString(h.state),
         h.battery_percent, h.latitude_deg, h.longitude_deg,
         toString(h.rat), toString(h.plmn), h.rssi_dbm, h.iccid)) AS last_heartbeat
FROM heartbeats AS h
GROUP BY h.device_id;

-- Written down for the rows of before: a default that is now() would be another with each reading.
ALTER TABLE connections ADD COLUMN IF NOT EXISTS stored_at DateTime('UTC') DEFAULT now() COMMENT 'when ClickHouse took the row' CODEC(Delta, ZSTD(1));
ALTER TABLE connections MATERIALIZE COLUMN stored_at SETTINGS mutations_sync = 2
