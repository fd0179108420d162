-- The newest of everything that a device told, side by side in one row, in place of three tables that had to be joined for each answer:
-- `device_latest`, `device_arrivals` and `device_presence`. Each column holds a version and, beneath it, what was told, so that the greatest is
-- the newest: what comes twice, late or out of order changes nothing. A number has its version in the upper 64 bits; a text begins with its
-- version, the most significant byte first, and is compared byte by byte. Empty and 0: nothing was told. Texts of devices and gateways have
-- no control characters, so that a zero byte parts them.
CREATE TABLE IF NOT EXISTS device_newest
(
    device_id   String                                     CODEC(ZSTD(1)),
    started     SimpleAggregateFunction(max, String)       COMMENT 'the session that began last, by its start: 8 bytes ms since 1970, 16 of its id in the order in which UUIDs are compared, 8 epoch; node, peer, transport, fleet' CODEC(ZSTD(1)),
    ended       SimpleAggregateFunction(max, String)       COMMENT 'the session that began last, by its end: 24 bytes as in `started`, 8 when it ended, ms since 1970; reason' CODEC(ZSTD(1)),
    received_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'when its last heartbeat came in; 1970: none has' CODEC(ZSTD(1)),
    arrived     SimpleAggregateFunction(max, String)       COMMENT 'that heartbeat: 8 bytes ms since 1970 times 2^20 and 20 bits of its number in the session, 16 session, 8 its number; node' CODEC(ZSTD(1)),
    promise     SimpleAggregateFunction(max, UInt128)      COMMENT 'of the heartbeat taken last: when, ms since 1970 times 2^20, and 20 bits of its identity (the version of all that follow); `next_s`' CODEC(ZSTD(1)),
    position    SimpleAggregateFunction(max, UInt128)      COMMENT 'latitude and longitude, 32 bits each' CODEC(ZSTD(1)),
    battery     SimpleAggregateFunction(max, UInt128)      COMMENT 'bits 0 to 31 millivolts, 32 charging, 34 to 49 hundredths of a percent, 50 to 52: whether percent, millivolts and charging were told' CODEC(ZSTD(1)),
    firmware    SimpleAggregateFunction(max, String)       COMMENT '8 bytes version; firmware' CODEC(ZSTD(1)),
    state       SimpleAggregateFunction(max, String)       COMMENT '8 bytes version; state' CODEC(ZSTD(1)),
    radio       SimpleAggregateFunction(max, String)       COMMENT '8 bytes version, 8 cell, 4: tenths of RSSI in bits 0 to 15, whether RSSI and cell were told in 16 and 17; RAT, PLMN' CODEC(ZSTD(1)),
    sim         SimpleAggregateFunction(max, String)       COMMENT '8 bytes version; ICCID, IMSI, IMEI' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
ORDER BY device_id
SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 10;

CREATE MATERIALIZED VIEW IF NOT EXISTS device_newest_from_connections TO device_newest AS
WITH
    concat(reinterpretAsFixedString(byteSwap(toUInt64(greatest(toUnixTimestamp64Milli(c.connected_at), 0)))), reverse(reinterpretAsFixedString(c.session_id))) AS session
SELECT
    c.device_id AS device_id,
    if(c.event = 'connected', concat(session, reinterpretAsFixedString(c.epoch), c.node_id, '\0', c.peer, '\0', c.transport, '\0', c.fleet), '') AS started,
    if(c.event = 'disconnected', concat(session, reinterpretAsFixedString(toUnixTimestamp64Milli(c.at)), c.reason), '') AS ended
FROM connections AS c;

CREATE MATERIALIZED VIEW IF NOT EXISTS device_newest_from_heartbeats TO device_newest AS
WITH
    -- A clock that is ahead does not stand for the future once it is put right.
    least(if(h.clock = 'device', h.device_time, h.received_at), h.received_at) AS taken,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(taken), 0)), 20) + bitAnd(h.identity, 1048575) AS version,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(h.received_at), 0)), 20) + bitAnd(h.session_messages_in, 1048575) AS arrival,
    bitShiftLeft(toUInt128(version), 64) AS high,
    reinterpretAsFixedString(byteSwap(version)) AS first
SELECT
    h.device_id AS device_id,
    h.received_at AS received_at,
    concat(reinterpretAsFixedString(byteSwap(arrival)), reverse(reinterpretAsFixedString(h.session_id)), reinterpretAsFixedString(h.session_messages_in), h.node_id) AS arrived,
    bitOr(high, toUInt128(ifNull(h.next_s, 0))) AS promise,
    if(h.latitude_e6 IS NULL OR h.longitude_e6 IS NULL, toUInt128(0), bitOr(high, toUInt128(bitOr(
        bitShiftLeft(toUInt64(reinterpretAsUInt32(ifNull(h.latitude_e6, 0))), 32), toUInt64(reinterpretAsUInt32(ifNull(h.longitude_e6, 0))))))) AS position,
    if(h.battery_e2 IS NULL AND h.battery_millivolts IS NULL, toUInt128(0), bitOr(high, toUInt128(
        ifNull(h.battery_millivolts, 0) + bitShiftLeft(toUInt64(ifNull(h.battery_charging, false)), 32) + bitShiftLeft(toUInt64(ifNull(h.battery_e2, 0)), 34)
        + bitShiftLeft(toUInt64(h.battery_e2 IS NOT NULL), 50) + bitShiftLeft(toUInt64(h.battery_millivolts IS NOT NULL), 51)
        + bitShiftLeft(toUInt64(h.battery_charging IS NOT NULL), 52)))) AS battery,
    if(h.firmware = '', '', concat(first, h.firmware)) AS firmware,
    if(h.state = '', '', concat(first, h.state)) AS state,
    if(h.rat = '' AND h.plmn = '', '', concat(first, reinterpretAsFixedString(ifNull(h.cell_id, 0)),
        reinterpretAsFixedString(toUInt32(reinterpretAsUInt16(ifNull(h.rssi_e1, 0)) + bitShiftLeft(toUInt32(h.rssi_e1 IS NOT NULL), 16) + bitShiftLeft(toUInt32(h.cell_id IS NOT NULL), 17))),
        h.rat, '\0', h.plmn)) AS radio,
    if(h.iccid = '', '', concat(first, h.iccid, '\0', h.imsi, '\0', h.imei)) AS sim
FROM heartbeats AS h;

-- What was known before. Rows that stand already stay.
-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_presence' AND total_rows > 0
INSERT INTO device_newest (device_id, started, ended)
WITH
    concat(reinterpretAsFixedString(byteSwap(toUInt64(bitShiftRight(p.version, 64)))), reverse(reinterpretAsFixedString(p.session_id))) AS session
SELECT
    p.device_id,
    if(p.event = 'connected', concat(session, reinterpretAsFixedString(p.epoch), p.node_id, '\0', p.peer, '\0', p.transport, '\0', p.fleet), ''),
    if(p.event = 'disconnected', concat(session, reinterpretAsFixedString(toUnixTimestamp64Milli(p.ended_at)), p.reason), '')
FROM device_presence AS p;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_arrivals' AND total_rows > 0
INSERT INTO device_newest (device_id, received_at, arrived)
SELECT
    a.device_id, a.received_at,
    concat(reinterpretAsFixedString(byteSwap(a.version)), reverse(reinterpretAsFixedString(a.session_id)), reinterpretAsFixedString(a.messages_in), a.node_id)
FROM device_arrivals AS a;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_latest' AND total_rows > 0
INSERT INTO device_newest (device_id, promise, position, battery, firmware, state, radio, sim)
WITH
    bitShiftLeft(toUInt128(l.version), 64) AS high,
    reinterpretAsFixedString(byteSwap(l.version)) AS first
SELECT
    l.device_id,
    bitOr(high, toUInt128(l.next_s)),
    if(l.latitude_deg IS NULL OR l.longitude_deg IS NULL, toUInt128(0), bitOr(high, toUInt128(bitOr(
        bitShiftLeft(toUInt64(reinterpretAsUInt32(toInt32(round(ifNull(l.latitude_deg, 0) * 1000000)))), 32),
        toUInt64(reinterpretAsUInt32(toInt32(round(ifNull(l.longitude_deg, 0) * 1000000)))))))),
    if(l.battery_percent IS NULL AND l.battery_millivolts IS NULL, toUInt128(0), bitOr(high, toUInt128(
        ifNull(l.battery_millivolts, 0) + bitShiftLeft(toUInt64(ifNull(l.battery_charging, false)), 32) + bitShiftLeft(toUInt64(round(ifNull(l.battery_percent, 0) * 100)), 34)
        + bitShiftLeft(toUInt64(l.battery_percent IS NOT NULL), 50) + bitShiftLeft(toUInt64(l.battery_millivolts IS NOT NULL), 51)
        + bitShiftLeft(toUInt64(l.battery_charging IS NOT NULL), 52)))),
    if(l.firmware = '', '', concat(first, l.firmware)),
    if(l.state = '', '', concat(first, l.state)),
    if(l.rat = '' AND l.plmn = '', '', concat(first, reinterpretAsFixedString(ifNull(l.cell_id, 0)),
        reinterpretAsFixedString(toUInt32(reinterpretAsUInt16(toInt16(round(ifNull(l.rssi_dbm, 0) * 10))) + bitShiftLeft(toUInt32(l.rssi_dbm IS NOT NULL), 16) + bitShiftLeft(toUInt32(l.cell_id IS NOT NULL), 17))),
        l.rat, '\0', l.plmn)),
    if(l.iccid = '', '', concat(first, l.iccid, '\0', l.imsi, '\0', l.imei))
FROM device_latest AS l;

-- One row per device: what it does now, since when and why. The words are those of docs/truth.md.
-- Written for its planning, which for one device takes longer than all it reads: no AND, OR or NOT over what comes out of a subquery, as each of
-- them is compared with the whole tree beneath, and no view where there is a join.
CREATE OR REPLACE VIEW device_status AS
WITH
    -- Since when nobody looks (1970: somebody does), and since when somebody does: what nobody could see is no silence.
    (
        SELECT [maxIf(u.began_at, u.began_at <= now64(3) AND u.ended_at > now64(3)), maxIf(u.ended_at, u.ended_at <= now64(3))]
        FROM ingest_unknown(since = now64(3) - INTERVAL 1 DAY, until = now64(3) + INTERVAL 1 DAY) AS u
    ) AS looking,
    -- When any gateway told of itself last; the gateways, and the newest start of each.
    (
        SELECT (max(last_at), groupArray(node_id), groupArray(newest))
        FROM (SELECT m.node_id AS node_id, max(m.last_at) AS last_at, max(m.epoch) AS newest FROM node_state AS m GROUP BY m.node_id)
    ) AS gateways
SELECT
    device_id,
    status,
    multiIf(status = 'unknown', unknown_since, ended, ended_at, gone, gone_at, status = 'silent', overdue_at, began_at) AS since,
    multiIf(ended, reason, gone, 'gateway_lost', status = 'unknown', 'gateway_lost', '') AS offline_reason,
    session_id,
    node_id,
    if(told, start_texts[2], '') AS peer,
    last_received_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(promise, 84)), 'UTC') AS last_heartbeat_at,
    next_s,
    substring(firmware_told, 9) AS firmware,
    substring(state_told, 9) AS state,
    if(bitTest(toUInt64(battery), 50), toFloat32(bitAnd(bitShiftRight(toUInt64(battery), 34), 65535) / 100), NULL) AS battery_percent,
    if(position = 0, NULL, reinterpretAsInt32(toUInt32(bitShiftRight(toUInt64(position), 32))) / 1000000) AS latitude_deg,
    if(position = 0, NULL, reinterpretAsInt32(toUInt32(toUInt64(position))) / 1000000) AS longitude_deg,
    radio_texts[1] AS rat,
    radio_texts[2] AS plmn,
    if(bitTest(radio_numbers, 16), toFloat32(reinterpretAsInt16(toUInt16(radio_numbers)) / 10), NULL) AS rssi_dbm,
    sim_texts[1] AS iccid,
    if(told, start_texts[3], '') AS transport,
    start_texts[4] AS fleet,
    epoch,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(position, 84)), 'UTC') AS position_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(battery, 84)), 'UTC') AS battery_at,
    if(bitTest(toUInt64(battery), 51), toUInt32(toUInt64(battery)), NULL) AS battery_millivolts,
    if(bitTest(toUInt64(battery), 52), bitTest(toUInt64(battery), 32)::Bool, NULL) AS battery_charging,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(byteSwap(reinterpretAsUInt64(substring(firmware_told, 1, 8))), 20)), 'UTC') AS firmware_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(byteSwap(reinterpretAsUInt64(substring(state_told, 1, 8))), 20)), 'UTC') AS state_at,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(byteSwap(reinterpretAsUInt64(substring(radio, 1, 8))), 20)), 'UTC') AS radio_at,
    if(bitTest(radio_numbers, 17), reinterpretAsUInt64(substring(radio, 9, 8)), NULL) AS cell_id,
    fromUnixTimestamp64Milli(toInt64(bitShiftRight(byteSwap(reinterpretAsUInt64(substring(sim, 1, 8))), 20)), 'UTC') AS sim_at,
    sim_texts[2] AS imsi,
    sim_texts[3] AS imei
FROM
(
    SELECT
        device_id, promise, next_s, position, battery, firmware_told, state_told, radio, sim, told, start_texts, session_id, node_id, ended, ended_at, reason, began_at, last_received_at,
        epoch, gone, gone_at, looking[1] AS unknown_since, overdue_at,
        reinterpretAsUInt32(substring(radio, 17, 4)) AS radio_numbers,
        splitByChar('\0', substring(radio, 21)) AS radio_texts,
        splitByChar('\0', substring(sim, 9)) AS sim_texts,
        multiIf(looking[1] > toDateTime64(0, 3, 'UTC'), 'unknown', ended, 'offline', gone, 'offline', now64(3) >= overdue_at, 'silent', 'online') AS status
    FROM
    (
        SELECT
            d.device_id AS device_id, d.promise AS promise, d.next_s AS next_s, d.position AS position, d.battery AS battery, d.firmware_told AS firmware_told, d.state_told AS state_told,
            d.radio AS radio, d.sim AS sim, d.told AS told, d.start_texts AS start_texts, d.session_id AS session_id, d.node_id AS node_id,
            d.ended AS ended, d.ended_at AS ended_at, d.reason AS reason, d.began_at AS began_at, d.last_received_at AS last_received_at,
            greatest(d.last_received_at, looking[2]) + toIntervalMillisecond(d.patience_ms) AS overdue_at,
            multiIf(n.epoch = 0, false, d.told_epoch = 0, true, n.epoch = d.told_epoch) AS node_known,
            if(node_known, n.epoch, d.told_epoch) AS epoch,
            transform(d.node_id, gateways.2, gateways.3, toUInt64(0)) AS newest_epoch,
            n.last_at + toIntervalMillisecond(n.patience_ms) AS lost_at,
            multiIf(
                d.ended, false,
                -- A node that stops ends its sessions itself; their ends may arrive after its last word. One that is silent while others are heard is gone.
                node_known, multiIf(n.stopped > 0, now64(3) > lost_at, n.epoch < newest_epoch, true, gateways.1 > lost_at),
                d.told_epoch = 0, false,
                d.told_epoch < newest_epoch) AS gone,
            greatest(if(node_known, n.last_at, d.began_at), d.last_received_at) AS gone_at
        FROM
        (
            SELECT
                device_id, promise, position, battery, firmware_told, state_told, radio, sim, ended, ended_at, reason, began_at, start_texts, told,
                multiIf(heard_alone, arrived_session, ended, end_session, start_session) AS session_id,
                multiIf(heard_alone, arrived_node, ended_alone, '', start_texts[1]) AS node_id,
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
                    device_id, promise, position, battery, firmware AS firmware_told, state AS state_told, radio, sim, received_at AS arrived_at,
                    reinterpretAsUUID(reverse(substring(started, 9, 16))) AS start_session,
                    fromUnixTimestamp64Milli(toInt64(byteSwap(reinterpretAsUInt64(substring(started, 1, 8)))), 'UTC') AS start_at,
                    reinterpretAsUInt64(substring(started, 25, 8)) AS start_epoch,
                    splitByChar('\0', substring(started, 33)) AS start_texts,
                    reinterpretAsUUID(reverse(substring(n.ended, 9, 16))) AS end_session,
                    fromUnixTimestamp64Milli(toInt64(byteSwap(reinterpretAsUInt64(substring(n.ended, 1, 8)))), 'UTC') AS end_at,
                    fromUnixTimestamp64Milli(reinterpretAsInt64(substring(n.ended, 25, 8)), 'UTC') AS ended_at,
                    substring(n.ended, 33) AS reason,
                    reinterpretAsUUID(reverse(substring(arrived, 9, 16))) AS arrived_session,
                    reinterpretAsUInt64(substring(arrived, 25, 8)) AS arrived_messages,
                    substring(arrived, 33) AS arrived_node,
                    toTimeZone(UUIDv7ToDateTime(arrived_session), 'UTC') AS heard_begin,
                    multiIf(arrived_session = start_session, false, arrived_session = end_session, false, heard_begin > greatest(start_at, end_at)) AS heard_alone,
                    if(heard_alone, false, substring(started, 1, 24) <= substring(n.ended, 1, 24)) AS ended,
                    if(ended, start_session != end_session, false) AS ended_alone,
                    multiIf(heard_alone, false, ended_alone, false, true) AS told,
                    multiIf(heard_alone, heard_begin, ended, end_at, start_at) AS began_at
                FROM device_newest AS n FINAL
            )
        ) AS d
        ASOF LEFT JOIN
        (
            SELECT m.node_id AS node_id, m.epoch AS epoch, m.last_at AS last_at, m.stopped AS stopped, if(m.lost_after_ms = 0, 15000, m.lost_after_ms) AS patience_ms
            FROM node_state AS m FINAL
        ) AS n ON n.node_id = d.node_id AND d.epoch_or_start >= n.epoch
    )
);

-- One row per session.
--   ended_at, reason   as it was told; else `gateway_lost`, at the last sign of life of the gateway process that held it (or the session's
--                      own, if that is later); else `superseded`, when the device's next session began. Null and empty while it stands.
--   start_told, end_told  whether the gateway's own word of it arrived
--   gap_ms             between the end of the device's session before and this start; null for its first
--   took_over          the session before had not ended when this one began
-- One device's rows are read by key: WHERE device_id = ...
-- What is known of its gateway is read out of the table itself: a view in its place takes longer to plan than one device's rows to read.
CREATE OR REPLACE VIEW sessions AS
WITH
    -- When any gateway told of itself last; the gateways, and the newest start of each.
    (
        SELECT (max(last_at), groupArray(node_id), groupArray(newest))
        FROM (SELECT m.node_id AS node_id, max(m.last_at) AS last_at, max(m.epoch) AS newest FROM node_state AS m GROUP BY m.node_id)
    ) AS gateways
SELECT
    device_id,
    session_id,
    started_at,
    -- What both layers below only carry is carried in tuples: planning takes longer than reading, and grows with the columns.
    ending.1 AS ended_at,
    ending.2 AS reason,
    moved.detail AS detail,
    node_id,
    epoch,
    known.peer AS peer,
    transform(known.protocol_level, [3, 4, 5], ['MQTT 3.1', 'MQTT 3.1.1', 'MQTT 5'], '') AS protocol,
    known.transport AS transport,
    known.tls_version AS tls_version,
    known.fleet AS fleet,
    known.keep_alive_s AS keep_alive_s,
    moved.bytes_in AS bytes_in,
    moved.bytes_out AS bytes_out,
    moved.messages_in AS messages_in,
    moved.messages_out AS messages_out,
    dateDiff('millisecond', started_at, ended_at) AS duration_ms,
    if(nth = 1, NULL, greatest(dateDiff('millisecond', previous_ended_at, started_at), 0)) AS gap_ms,
    nth > 1 AND previous_ended_at >= started_at AS took_over,
    start_told,
    told_end_ms > 0 AS end_told,
    last_sign_at,
    next_started_at
FROM
(
    SELECT
        device_id, session_id, started_at, next_started_at, start_told, told_end_ms, last_sign_at, node_id, epoch, known, moved,
        multiIf(
            told_end_ms > 0, (toNullable(fromUnixTimestamp64Milli(told_end_ms, 'UTC')), told_reason),
            gone AND ifNull(gone_at <= superseded_at, true), (toNullable(gone_at), 'gateway_lost'),
            superseded_at IS NOT NULL, (superseded_at, 'superseded'),
            (NULL, '')) AS ending,
        row_number() OVER by_start AS nth,
        lagInFrame(ending.1) OVER so_far AS previous_ended_at
    FROM
    (
        SELECT
            s.device_id AS device_id, s.session_id AS session_id, s.started_at AS started_at, s.start_told AS start_told,
            s.told_end_ms AS told_end_ms, s.told_reason AS told_reason, s.last_sign_at AS last_sign_at, s.node_id AS node_id, s.known AS known, s.moved AS moved,
            multiIf(n.epoch = 0, false, s.told_epoch = 0, true, n.epoch = s.told_epoch) AS node_known,
            if(node_known, n.epoch, s.told_epoch) AS epoch,
            transform(s.node_id, gateways.2, gateways.3, toUInt64(0)) AS newest_epoch,
            n.last_at + toIntervalMillisecond(n.patience_ms) AS lost_at,
            multiIf(
                node_known, multiIf(n.stopped > 0, now64(3) > lost_at, n.epoch < newest_epoch, true, gateways.1 > lost_at),
                -- Nodes of a version that told nothing of their life: until a later start of the node is known.
                s.told_epoch = 0, false,
                s.told_epoch < newest_epoch) AS gone,
            greatest(if(node_known, n.last_at, s.started_at), s.last_sign_at) AS gone_at,
            leadInFrame(toNullable(s.started_at)) OVER (
                PARTITION BY s.device_id ORDER BY s.started_at, s.session_id
                ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_started_at,
            if(next_started_at IS NULL, NULL, greatest(s.last_sign_at, assumeNotNull(next_started_at))) AS superseded_at
        FROM
        (
            SELECT
                device_id,
                session_id,
                max(b.connected_ms) AS told_start_ms,
                -- A session whose start was never told began when its id was made.
                if(told_start_ms > 0, fromUnixTimestamp64Milli(told_start_ms, 'UTC'),
                    toTimeZone(UUIDv7ToDateTime(session_id), 'UTC')) AS started_at,
                max(b.start_told) AS start_told,
                max(b.end_ms) AS told_end_ms,
                max(b.reason) AS told_reason,
                argMax(b.node_id, b.epoch) AS node_id,
                max(b.epoch) AS told_epoch,
                greatest(started_at, fromUnixTimestamp64Milli(max(b.sign_ms), 'UTC')) AS last_sign_at,
                max(b.known)::Tuple(peer String, protocol_level UInt8, transport String, tls_version String, fleet String,
                    keep_alive_s UInt32) AS known,
                -- All of them only rise.
                max(b.moved)::Tuple(bytes_in UInt64, bytes_out UInt64, messages_in UInt64, messages_out UInt64,
                    detail String) AS moved,
                if(told_epoch > 0, told_epoch, toUInt64(toUnixTimestamp64Milli(started_at))) AS epoch_or_start
            FROM
            (
                SELECT
                    c.device_id AS device_id, c.session_id AS session_id,
                    toUnixTimestamp64Milli(c.connected_at) AS connected_ms,
                    c.event = 'connected' AS start_told,
                    if(c.event = 'disconnected', toUnixTimestamp64Milli(c.at), 0) AS end_ms,
                    toString(c.reason) AS reason,
                    toString(c.node_id) AS node_id, c.epoch AS epoch,
                    toInt64(0) AS sign_ms,
                    -- The start's is the greatest: it alone has a peer.
                    (c.peer, c.protocol_level, toString(c.transport), toString(c.tls_version), toString(c.fleet), c.keep_alive_s) AS known,
                    (c.bytes_in, c.bytes_out, c.messages_in, c.messages_out, c.detail) AS moved
                FROM connections AS c
                UNION ALL
                SELECT
                    g.device_id, g.session_id, 0, 0, 0, '', toString(g.node_id), 0, toUnixTimestamp64Milli(g.received_at),
                    ('', 0, '', '', '', 0), (g.bytes_in, g.bytes_out, g.messages_in, 0, '')
                FROM session_signs AS g
            ) AS b
            GROUP BY device_id, session_id
        ) AS s
        ASOF LEFT JOIN
        (
            SELECT m.node_id AS node_id, m.epoch AS epoch, m.last_at AS last_at, m.stopped AS stopped, if(m.lost_after_ms = 0, 15000, m.lost_after_ms) AS patience_ms
            FROM node_state AS m FINAL
        ) AS n ON n.node_id = s.node_id AND s.epoch_or_start >= n.epoch
    )
    WINDOW
        by_start AS (PARTITION BY device_id ORDER BY started_at, session_id),
        so_far AS (PARTITION BY device_id ORDER BY started_at, session_id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
);

-- What nothing reads any more. The tables stay, empty: a node that comes late makes the view of before over them, and then this one.
DROP VIEW IF EXISTS device_presence_from_connections;

DROP VIEW IF EXISTS device_latest_from_heartbeats;

DROP VIEW IF EXISTS device_arrivals_from_heartbeats;

DROP VIEW IF EXISTS node_lives;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_presence' AND total_rows > 0
TRUNCATE TABLE device_presence SETTINGS max_table_size_to_drop = 0;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_latest' AND total_rows > 0
TRUNCATE TABLE device_latest SETTINGS max_table_size_to_drop = 0;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'device_arrivals' AND total_rows > 0
TRUNCATE TABLE device_arrivals SETTINGS max_table_size_to_drop = 0
