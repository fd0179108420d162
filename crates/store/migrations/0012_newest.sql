-- The newest start and the newest end of each device, a row in for a row out, in place of `device_status_state`, which made one row of
-- both: its maxima of tuples cost more than all else that status reads. With `FINAL` two rows of a device are left, and none comes out wrong by
-- what arrives late, twice or out of order: the session that began last stands.
CREATE TABLE IF NOT EXISTS device_presence
(
    event        Enum8('connected' = 1, 'disconnected' = 2),
    device_id    String                                     CODEC(ZSTD(1)),
    version      UInt128                                    COMMENT 'when the session began, ms since 1970, times 2^64, and the half of its id that UUIDs are ordered by first' CODEC(ZSTD(1)),
    session_id   UUID                                       CODEC(ZSTD(1)),
    connected_at DateTime64(3, 'UTC')                       COMMENT 'when the session began' CODEC(ZSTD(1)),
    ended_at     DateTime64(3, 'UTC')                       COMMENT '1970 on a start' CODEC(ZSTD(1)),
    reason       LowCardinality(String)                     COMMENT 'why it ended',
    node_id      LowCardinality(String)                     COMMENT 'on a start, as all that follow',
    epoch        UInt64                                     CODEC(ZSTD(1)),
    peer         String                                     CODEC(ZSTD(1)),
    transport    LowCardinality(String),
    fleet        LowCardinality(String)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (event, device_id)
SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 10;

CREATE MATERIALIZED VIEW IF NOT EXISTS device_presence_from_connections TO device_presence AS
SELECT
    c.event AS event,
    c.device_id AS device_id,
    bitOr(bitShiftLeft(toUInt128(greatest(toUnixTimestamp64Milli(c.connected_at), 0)), 64), bitShiftRight(reinterpretAsUInt128(c.session_id), 64)) AS version,
    c.session_id AS session_id,
    c.connected_at AS connected_at,
    if(c.event = 'disconnected', c.at, toDateTime64(0, 3, 'UTC')) AS ended_at,
    c.reason AS reason,
    if(c.event = 'connected', c.node_id, '') AS node_id,
    if(c.event = 'connected', c.epoch, 0) AS epoch,
    c.peer AS peer,
    c.transport AS transport,
    c.fleet AS fleet
FROM connections AS c;

-- What was known before. Rows that stand already stay.
-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_status_state' AND total_rows > 0
INSERT INTO device_presence (event, device_id, version, session_id, connected_at, node_id, epoch, peer, transport, fleet)
SELECT
    'connected',
    device_id,
    bitOr(bitShiftLeft(toUInt128(greatest(toUnixTimestamp64Milli(start.1), 0)), 64), bitShiftRight(reinterpretAsUInt128(start.2), 64)),
    start.2, start.1, start.3,
    -- Where this was not kept yet when the session began.
    if(start.2 = newest.2, newest.3, 0), start.4, if(start.2 = newest.2, newest.4, ''), newest.5
FROM
(
    SELECT m.device_id AS device_id, max(m.last_start) AS start, max(m.last_epoch) AS newest
    FROM device_status_state AS m
    GROUP BY m.device_id
)
WHERE start.1 > toDateTime64(0, 3, 'UTC');

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_status_state' AND total_rows > 0
INSERT INTO device_presence (event, device_id, version, session_id, connected_at, ended_at, reason)
SELECT
    'disconnected',
    device_id,
    bitOr(bitShiftLeft(toUInt128(greatest(toUnixTimestamp64Milli(end.1), 0)), 64), bitShiftRight(reinterpretAsUInt128(end.2), 64)),
    end.2, end.1, end.3, end.4
FROM
(
    SELECT m.device_id AS device_id, max(m.last_end) AS end
    FROM device_status_state AS m
    GROUP BY m.device_id
)
WHERE end.1 > toDateTime64(0, 3, 'UTC');

-- One row per device: what it does now, since when and why. The words are those of docs/truth.md.
-- Written for its planning, which for one device takes longer than all it reads: no AND, OR or NOT over what comes out of a subquery, as each of
-- them is compared with the whole tree beneath; readings pass through the layers as one tuple. What is newest among the kinds of
-- heartbeats is a maximum of numbers wherever it can be: a version, and beneath it the reading in so many bits.
CREATE OR REPLACE VIEW device_status AS
WITH
    -- Since when nobody looks (1970: somebody does), and since when somebody does: what nobody could see is no silence.
    (
        SELECT [maxIf(u.began_at, u.began_at <= now64(3) AND u.ended_at > now64(3)), maxIf(u.ended_at, u.ended_at <= now64(3))]
        FROM ingest_unknown(since = now64(3) - INTERVAL 1 DAY, until = now64(3) + INTERVAL 1 DAY) AS u
    ) AS looking
SELECT
    device_id,
    status,
    multiIf(status = 'unknown', unknown_since, ended, ended_at, gone, gone_at, status = 'silent', overdue_at, began_at) AS since,
    multiIf(ended, reason, gone, 'gateway_lost', status = 'unknown', 'gateway_lost', '') AS offline_reason,
    session_id,
    node_id,
    peer,
    last_received_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(promise, 84)), 'UTC') AS last_heartbeat_at,
    next_s,
    r.1 AS firmware,
    r.3 AS state,
    if(bitTest(toUInt64(r.6), 50), toFloat32(bitAnd(bitShiftRight(toUInt64(r.6), 34), 65535) / 100), NULL) AS battery_percent,
    if(r.5 = 0, NULL, reinterpretAsInt32(toUInt32(bitShiftRight(toUInt64(r.5), 32))) / 1000000) AS latitude_deg,
    if(r.5 = 0, NULL, reinterpretAsInt32(toUInt32(toUInt64(r.5))) / 1000000) AS longitude_deg,
    r.7 AS rat,
    r.8 AS plmn,
    if(bitTest(toUInt64(r.9), 16), toFloat32(reinterpretAsInt16(toUInt16(toUInt64(r.9))) / 10), NULL) AS rssi_dbm,
    r.12 AS iccid,
    transport,
    fleet,
    epoch,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(r.5, 84)), 'UTC') AS position_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(r.6, 84)), 'UTC') AS battery_at,
    if(bitTest(toUInt64(r.6), 51), toUInt32(toUInt64(r.6)), NULL) AS battery_millivolts,
    if(bitTest(toUInt64(r.6), 52), bitTest(toUInt64(r.6), 32)::Bool, NULL) AS battery_charging,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(r.2, 20)), 'UTC') AS firmware_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(r.4, 20)), 'UTC') AS state_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(r.10, 20)), 'UTC') AS radio_at,
    if(bitTest(toUInt64(r.9), 17), toUInt64(bitShiftRight(r.9, 32)), NULL) AS cell_id,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(r.11, 20)), 'UTC') AS sim_at,
    if(r.11 = 0, '', r.13) AS imsi,
    if(r.11 = 0, '', r.14) AS imei
FROM
(
    SELECT
        device_id, promise, next_s, r, session_id, node_id, peer, transport, fleet, ended, ended_at, reason, began_at, last_received_at, overdue_at,
        epoch, gone, gone_at, looking[1] AS unknown_since,
        multiIf(looking[1] > toDateTime64(0, 3, 'UTC'), 'unknown', ended, 'offline', gone, 'offline', now64(3) >= overdue_at, 'silent', 'online') AS status
    FROM
    (
        SELECT
            d.device_id AS device_id, d.promise AS promise, d.next_s AS next_s, d.r AS r,
            d.session_id AS session_id, d.node_id AS node_id, d.peer AS peer, d.transport AS transport, d.fleet AS fleet,
            d.ended AS ended,
            d.ended_at AS ended_at, d.reason AS reason, d.began_at AS began_at, d.last_received_at AS last_received_at,
            greatest(d.last_received_at, looking[2]) + toIntervalMillisecond(d.patience_ms) AS overdue_at,
            multiIf(n.epoch = 0, false, d.told_epoch = 0, true, n.epoch = d.told_epoch) AS node_known,
            if(node_known, n.epoch, d.told_epoch) AS epoch,
            multiIf(d.ended, false, node_known, n.ended, d.told_epoch = 0, false, d.told_epoch < n.newest_epoch) AS gone,
            greatest(if(node_known, n.last_at, d.began_at), d.last_received_at) AS gone_at
        FROM
        (
            SELECT
                device_id, promise, r, ended, ended_at, reason, began_at, fleet,
                multiIf(heard_alone, arrived_session, ended, end_session, start_session) AS session_id,
                multiIf(heard_alone, arrived_node, ended_alone, '', start_node) AS node_id,
                if(told, start_peer, '') AS peer,
                if(told, start_transport, '') AS transport,
                if(told, start_epoch, 0) AS told_epoch,
                if(told_epoch > 0, told_epoch, toUInt64(greatest(toUnixTimestamp64Milli(began_at), 0))) AS epoch_or_start,
                greatest(arrived_at, start_at, end_at, began_at) AS last_received_at,
                toUInt32(bitAnd(promise, 4294967295)) AS next_s,
                multiIf(
                    next_s > 0, next_s * 1500 + 10000,
                    arrived_messages < 3, 946080000000,
                    heard_begin > toDateTime64(0, 3, 'UTC'), greatest(3600000, 4 * intDiv(dateDiff('millisecond', heard_begin, arrived_at), arrived_messages)),
                    -- Never: 30 years.
                    946080000000) AS patience_ms
            FROM
            (
                SELECT
                    i.device_id AS device_id, r.promise AS promise, r.r AS r,
                    s.session_id AS start_session, s.connected_at AS start_at, s.node_id AS start_node, s.epoch AS start_epoch, s.peer AS start_peer, s.transport AS start_transport, s.fleet AS fleet,
                    e.session_id AS end_session, e.connected_at AS end_at, e.ended_at AS ended_at, e.reason AS reason,
                    a.session_id AS arrived_session, a.received_at AS arrived_at, a.node_id AS arrived_node, a.messages_in AS arrived_messages,
                    toTimeZone(UUIDv7ToDateTime(arrived_session), 'UTC') AS heard_begin,
                    multiIf(arrived_session = start_session, false, arrived_session = end_session, false, heard_begin > greatest(start_at, end_at)) AS heard_alone,
                    if(heard_alone, false, s.version <= e.version) AS ended,
                    if(ended, start_session != end_session, false) AS ended_alone,
                    multiIf(heard_alone, false, ended_alone, false, true) AS told,
                    multiIf(heard_alone, heard_begin, ended, end_at, start_at) AS began_at
                FROM (SELECT p.device_id AS device_id FROM device_presence AS p UNION DISTINCT SELECT a.device_id FROM device_arrivals AS a) AS i
                LEFT ANY JOIN (SELECT device_id, version, session_id, connected_at, toString(p.node_id) AS node_id, epoch, peer,
                    toString(p.transport) AS transport, CAST(p.fleet AS String) AS fleet
                    FROM device_presence AS p FINAL WHERE event = 'connected') AS s ON s.device_id = i.device_id
                LEFT ANY JOIN (SELECT device_id, version, session_id, connected_at, ended_at, toString(p.reason) AS reason
                    FROM device_presence AS p FINAL WHERE event = 'disconnected') AS e ON e.device_id = i.device_id
                LEFT ANY JOIN (SELECT device_id, received_at, session_id, toString(a.node_id) AS node_id, messages_in FROM device_arrivals AS a FINAL) AS a ON a.device_id = i.device_id
                LEFT ANY JOIN
                (
                    SELECT
                        device_id,
                        max(promise) AS promise,
                        (
                            argMax(firmware, firmware_version), max(firmware_version),
                            argMax(state, state_version), max(state_version),
                            max(position), max(battery),
                            argMax(rat, radio_version), argMax(plmn, radio_version), argMax(cell, radio_version), max(radio_version), max(sim_version),
                            argMax(iccid, sim_version), argMax(imsi, sim_version), argMax(imei, sim_version)
                        ) AS r
                    FROM
                    (
                        SELECT device_id, k.firmware AS firmware, k.state AS state, k.rat AS rat, k.plmn AS plmn, k.iccid AS iccid, k.imsi AS imsi, k.imei AS imei,
                            bitShiftLeft(toUInt128(k.version), 64) AS high,
                            bitOr(high, toUInt128(k.next_s)) AS promise,
                            if(bitTest(k.facts, 4), k.version, 0) AS firmware_version,
                            if(bitTest(k.facts, 5), k.version, 0) AS state_version,
                            if(bitTest(k.facts, 2), k.version, 0) AS radio_version,
                            if(bitTest(k.facts, 3), k.version, 0) AS sim_version,
                            if(bitTest(k.facts, 0), bitOr(high, toUInt128(bitOr(
                                bitShiftLeft(toUInt64(reinterpretAsUInt32(toInt32(round(ifNull(k.latitude_deg, 0) * 1000000)))), 32),
                                toUInt64(reinterpretAsUInt32(toInt32(round(ifNull(k.longitude_deg, 0) * 1000000))))))), toUInt128(0)) AS position,
                            if(bitTest(k.facts, 1), bitOr(high, toUInt128(
                                bitShiftLeft(toUInt64(k.battery_percent IS NOT NULL), 50) + bitShiftLeft(toUInt64(k.battery_millivolts IS NOT NULL), 51)
                                + bitShiftLeft(toUInt64(k.battery_charging IS NOT NULL), 52)
                                + bitShiftLeft(toUInt64(round(ifNull(k.battery_percent, 0) * 100)), 34) + bitShiftLeft(toUInt64(ifNull(k.battery_charging, false)), 32) + ifNull(k.battery_millivolts, 0))), toUInt128(0)) AS battery,
                            if(bitTest(k.facts, 2), bitOr(bitShiftLeft(toUInt128(ifNull(k.cell_id, 0)), 32), toUInt128(
                                bitShiftLeft(toUInt32(k.cell_id IS NOT NULL), 17) + bitShiftLeft(toUInt32(k.rssi_dbm IS NOT NULL), 16)
                                + reinterpretAsUInt16(toInt16(round(ifNull(k.rssi_dbm, 0) * 10))))), toUInt128(0)) AS cell
                        FROM device_latest AS k
                    )
                    GROUP BY device_id
                ) AS r ON r.device_id = i.device_id
            )
        ) AS d
        ASOF LEFT JOIN node_lives AS n ON n.node_id = d.node_id AND d.epoch_or_start >= n.epoch
    )
);

-- What nothing reads any more. The table stays, empty: a node that comes late makes the view of before over it, and then this one.
DROP VIEW IF EXISTS device_status_from_connections;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_status_state' AND total_rows > 0
TRUNCATE TABLE device_status_state SETTINGS max_table_size_to_drop = 0
