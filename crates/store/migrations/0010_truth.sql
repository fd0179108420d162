-- Sessions and status, now and at any time in the past. docs/truth.md defines the words.

-- The newest heartbeat of each device among those that hold the same kinds of reading: so the last known position, battery and so on
-- each stand in a row, whatever newer heartbeats leave out. A fleet has a handful of kinds. Nothing is aggregated when a row comes in;
-- the highest `version` stands, which a row that comes twice or late cannot hurt.
CREATE TABLE IF NOT EXISTS device_latest
(
    device_id          String                              CODEC(ZSTD(1)),
    facts              UInt8                               COMMENT '1 position, 2 battery, 4 radio, 8 SIM, 16 firmware, 32 state',
    version            UInt64                              COMMENT 'when it was taken, ms since 1970, times 2^20, and 20 bits of its identity' CODEC(ZSTD(1)),
    taken_at           DateTime64(3, 'UTC')                CODEC(ZSTD(1)),
    next_s             UInt32                              COMMENT '0: it promised nothing' CODEC(ZSTD(1)),
    firmware           LowCardinality(String),
    state              LowCardinality(String),
    battery_percent    Nullable(Float32)                   CODEC(ZSTD(1)),
    battery_millivolts Nullable(UInt32)                    CODEC(ZSTD(1)),
    battery_charging   Nullable(Bool),
    latitude_deg       Nullable(Float64)                   CODEC(ZSTD(1)),
    longitude_deg      Nullable(Float64)                   CODEC(ZSTD(1)),
    rat                LowCardinality(String),
    plmn               LowCardinality(String),
    cell_id            Nullable(UInt64)                    CODEC(ZSTD(1)),
    rssi_dbm           Nullable(Float32)                   CODEC(ZSTD(1)),
    iccid              String                              CODEC(ZSTD(1)),
    imsi               String                              CODEC(ZSTD(1)),
    imei               String                              CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (device_id, facts)
SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 10;

CREATE MATERIALIZED VIEW IF NOT EXISTS device_latest_from_heartbeats TO device_latest AS
SELECT
    h.device_id AS device_id,
    toUInt8((h.latitude_deg IS NOT NULL AND h.longitude_deg IS NOT NULL)
        + 2 * (h.battery_percent IS NOT NULL OR h.battery_millivolts IS NOT NULL) + 4 * (h.rat != '' OR h.plmn != '')
        + 8 * (h.iccid != '') + 16 * (h.firmware != '') + 32 * (h.state != '')) AS facts,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(least(h.taken_at, h.received_at)), 0)), 20) + bitAnd(h.identity, 1048575) AS version,
    -- A clock that is ahead does not stand for the future once it is put right.
    least(h.taken_at, h.received_at) AS taken_at,
    ifNull(h.next_s, 0) AS next_s,
    h.firmware AS firmware,
    h.state AS state,
    h.battery_percent AS battery_percent,
    h.battery_millivolts AS battery_millivolts,
    h.battery_charging AS battery_charging,
    h.latitude_deg AS latitude_deg,
    h.longitude_deg AS longitude_deg,
    h.rat AS rat,
    h.plmn AS plmn,
    h.cell_id AS cell_id,
    h.rssi_dbm AS rssi_dbm,
    h.iccid AS iccid,
    h.imsi AS imsi,
    h.imei AS imei
FROM heartbeats AS h;

-- The heartbeat of each device that came in last.
CREATE TABLE IF NOT EXISTS device_arrivals
(
    device_id   String                                     CODEC(ZSTD(1)),
    version     UInt64                                     COMMENT 'when it came in, ms since 1970, times 2^20, and 20 bits of `messages_in`' CODEC(ZSTD(1)),
    received_at DateTime64(3, 'UTC')                       CODEC(ZSTD(1)),
    session_id  UUID                                       CODEC(ZSTD(1)),
    node_id     LowCardinality(String),
    messages_in UInt64                                     COMMENT 'of the session so far' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY device_id
SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 10;

CREATE MATERIALIZED VIEW IF NOT EXISTS device_arrivals_from_heartbeats TO device_arrivals AS
SELECT
    h.device_id AS device_id,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(h.received_at), 0)), 20) + bitAnd(h.session_messages_in, 1048575) AS version,
    h.received_at AS received_at,
    h.session_id AS session_id,
    h.node_id AS node_id,
    h.session_messages_in AS messages_in
FROM heartbeats AS h;

-- What heartbeats say of their session: all that is known of one whose start or end was never told.
CREATE TABLE IF NOT EXISTS session_signs
(
    device_id   String                                     CODEC(ZSTD(1)),
    session_id  UUID                                       CODEC(ZSTD(1)),
    version     UInt64                                     COMMENT 'as in `device_arrivals`' CODEC(ZSTD(1)),
    received_at DateTime64(3, 'UTC')                       COMMENT 'its last heartbeat' CODEC(ZSTD(1)),
    node_id     LowCardinality(String),
    bytes_in    UInt64                                     CODEC(ZSTD(1)),
    bytes_out   UInt64                                     CODEC(ZSTD(1)),
    messages_in UInt64                                     CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(received_at)
ORDER BY (device_id, session_id)
TTL toDateTime(received_at) + INTERVAL 3 YEAR
SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 10;

CREATE MATERIALIZED VIEW IF NOT EXISTS session_signs_from_heartbeats TO session_signs AS
SELECT
    h.device_id AS device_id,
    h.session_id AS session_id,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(h.received_at), 0)), 20) + bitAnd(h.session_messages_in, 1048575) AS version,
    h.received_at AS received_at,
    h.node_id AS node_id,
    h.session_bytes_in AS bytes_in,
    h.session_bytes_out AS bytes_out,
    h.session_messages_in AS messages_in
FROM heartbeats AS h;

-- What was known before these tables were. Rows that stand already stay.
-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats' AND total_rows > 0
INSERT INTO device_latest
    (device_id, facts, version, taken_at, next_s, firmware, state, battery_percent, battery_millivolts, battery_charging,
     latitude_deg, longitude_deg, rat, plmn, cell_id, rssi_dbm, iccid, imsi, imei)
SELECT
    h.device_id AS device_id,
    toUInt8((h.latitude_deg IS NOT NULL AND h.longitude_deg IS NOT NULL)
        + 2 * (h.battery_percent IS NOT NULL OR h.battery_millivolts IS NOT NULL) + 4 * (h.rat != '' OR h.plmn != '')
        + 8 * (h.iccid != '') + 16 * (h.firmware != '') + 32 * (h.state != '')) AS facts,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(least(h.taken_at, h.received_at)), 0)), 20) + bitAnd(h.identity, 1048575) AS version,
    least(h.taken_at, h.received_at) AS taken_at,
    ifNull(h.next_s, 0), h.firmware, h.state, h.battery_percent, h.battery_millivolts, h.battery_charging,
    h.latitude_deg, h.longitude_deg, h.rat, h.plmn, h.cell_id, h.rssi_dbm, h.iccid, h.imsi, h.imei
FROM heartbeats AS h;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats' AND total_rows > 0
INSERT INTO device_arrivals (device_id, version, received_at, session_id, node_id, messages_in)
SELECT
    h.device_id,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(h.received_at), 0)), 20) + bitAnd(h.session_messages_in, 1048575),
    h.received_at, h.session_id, h.node_id, h.session_messages_in
FROM heartbeats AS h;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats' AND total_rows > 0
INSERT INTO session_signs (device_id, session_id, version, received_at, node_id, bytes_in, bytes_out, messages_in)
SELECT
    h.device_id, h.session_id,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(h.received_at), 0)), 20) + bitAnd(h.session_messages_in, 1048575),
    h.received_at, h.node_id, h.session_bytes_in, h.session_bytes_out, h.session_messages_in
FROM heartbeats AS h;

-- In place of these tables `device_status_state` kept the last heartbeat, and costs more than all three.
DROP VIEW IF EXISTS device_status_of_heartbeats;

-- Spans [began_at, ended_at) between {since} and {until} in which no gateway told of itself: what happened then is not known.
-- A sign of life of a gateway holds for its `lost_after_ms`, or 15 seconds. Where no gateway has ever told of itself (versions that
-- could not), nothing is taken for unknown.
CREATE OR REPLACE VIEW ingest_unknown AS
WITH
    toUnixTimestamp64Milli({since:DateTime64(3, 'UTC')}) AS since_ms,
    toUnixTimestamp64Milli({until:DateTime64(3, 'UTC')}) AS until_ms
SELECT
    fromUnixTimestamp64Milli(covered_ms, 'UTC') AS began_at,
    fromUnixTimestamp64Milli(at_ms, 'UTC') AS ended_at
FROM
(
    SELECT
        at_ms,
        max(until_then_ms) OVER (ORDER BY at_ms ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered_ms
    FROM
    (
        SELECT
            toUnixTimestamp64Milli(n.at) AS at_ms,
            at_ms + if(n.lost_after_ms = 0, 15000, n.lost_after_ms) AS until_then_ms
        FROM nodes AS n
        -- No sign holds for longer than an hour.
        WHERE n.at >= {since:DateTime64(3, 'UTC')} - INTERVAL 1 HOUR AND n.at < {until:DateTime64(3, 'UTC')}
        UNION ALL
        SELECT arrayJoin([since_ms - 3600001, until_ms]) AS at_ms, if(at_ms = until_ms, until_ms, since_ms)
    )
)
WHERE covered_ms < at_ms AND at_ms > since_ms AND covered_ms >= since_ms AND since_ms < until_ms AND (SELECT count() FROM node_state) > 0;

-- One row per start of a node, and one with epoch 0 for what was before: whether its sessions are over, told or not.
CREATE OR REPLACE VIEW node_lives AS
SELECT
    node_id, epoch, last_at, newest_epoch,
    multiIf(
        -- A node that stops ends its sessions itself; their ends may arrive after its last word.
        stopped > 0, now64(3) > last_at + toIntervalMillisecond(patience_ms),
        epoch < newest_epoch, true,
        -- Silent, while others are heard.
        heard_at > last_at + toIntervalMillisecond(patience_ms)) AS ended
FROM
(
    SELECT
        m.node_id AS node_id, m.epoch AS epoch, max(m.last_at) AS last_at, max(m.stopped) AS stopped,
        if(max(m.lost_after_ms) = 0, 15000, max(m.lost_after_ms)) AS patience_ms,
        max(m.epoch) OVER (PARTITION BY m.node_id) AS newest_epoch,
        max(max(m.last_at)) OVER () AS heard_at
    FROM node_state AS m
    GROUP BY m.node_id, m.epoch
)
UNION ALL
SELECT m.node_id, toUInt64(0), toDateTime64(0, 3, 'UTC'), max(m.epoch), false FROM node_state AS m GROUP BY m.node_id;

-- One row per session.
--   ended_at, reason   as it was told; else `gateway_lost`, at the last sign of life of the gateway process that held it (or the session's
--                      own, if that is later); else `superseded`, when the device's next session began. Null and empty while it stands.
--   start_told, end_told  whether the gateway's own word of it arrived
--   gap_ms             between the end of the device's session before and this start; null for its first
--   took_over          the session before had not ended when this one began
-- One device's rows are read by key: WHERE device_id = ...
CREATE OR REPLACE VIEW sessions AS
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
            (n.epoch = s.told_epoch OR s.told_epoch = 0) AND n.epoch > 0 AS node_known,
            if(node_known, n.epoch, s.told_epoch) AS epoch,
            if(node_known,
                n.ended,
                -- Nodes of a version that told nothing of their life: until a later start of the node is known.
                s.told_epoch < n.newest_epoch AND s.told_epoch > 0) AS gone,
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
        ASOF LEFT JOIN node_lives AS n ON n.node_id = s.node_id AND s.epoch_or_start >= n.epoch
    )
    WINDOW
        by_start AS (PARTITION BY device_id ORDER BY started_at, session_id),
        so_far AS (PARTITION BY device_id ORDER BY started_at, session_id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
);

-- One row per device and hour between {since} and {until} with at least {per_hour} sessions begun: devices that flap.
CREATE OR REPLACE VIEW device_flaps AS
SELECT
    device_id,
    toStartOfHour(started_at) AS hour,
    count() AS sessions,
    countIf(took_over) AS take_overs,
    countIf(reason = 'gateway_lost') AS gateway_losses,
    toUInt64(sum(ifNull(gap_ms, 0))) AS gap_ms,
    topK(1)(if(reason = '', 'stands', reason))[1] AS commonest_reason
FROM sessions
WHERE started_at >= {since:DateTime64(3, 'UTC')} AND started_at < {until:DateTime64(3, 'UTC')}
GROUP BY device_id, hour
HAVING sessions >= {per_hour:UInt64};

-- One row per device: what it does now, since when and why.
--   online   its newest session stands
--   silent   the same, but no sign of life came for as long as its newest heartbeat promised the next (`next_s`), half as long again and
--            ten seconds; where it promised nothing: for four times the mean interval of the session of its last heartbeat, an hour at least,
--            if that had three messages
--   offline  its newest session has ended, with the reason
--   unknown  no gateway tells of itself
-- Each reading is the last known one, with its own time.
CREATE OR REPLACE VIEW device_status AS
WITH
    (
        SELECT groupArray((u.began_at, u.ended_at))
        FROM ingest_unknown(since = now64(3) - INTERVAL 1 DAY, until = now64(3) + INTERVAL 1 DAY) AS u
    ) AS unknown,
    arrayFirst(u -> u.1 <= now64(3) AND now64(3) < u.2, unknown) AS unknown_now,
    unknown_now.2 > now64(3) AS not_looking,
    -- What nobody could see is no silence.
    arrayMax(arrayMap(u -> if(u.2 <= now64(3), u.2, toDateTime64(0, 3, 'UTC')),
        arrayPushFront(unknown, (toDateTime64(0, 3, 'UTC'), toDateTime64(0, 3, 'UTC'))))) AS looking_since
SELECT
    device_id,
    multiIf(not_looking, 'unknown', over, 'offline', now64(3) >= overdue_at, 'silent', 'online') AS status,
    multiIf(
        status = 'unknown', unknown_now.1,
        ended, end.ended_at,
        gone, gone_at,
        status = 'silent', overdue_at,
        began_at) AS since,
    multiIf(ended, end.reason, gone OR not_looking, 'gateway_lost', '') AS offline_reason,
    session_id,
    node_id,
    if(heard_alone OR ended_alone, '', start.peer) AS peer,
    last_received_at,
    last_heartbeat_at,
    next_s,
    firmware,
    state,
    battery_percent,
    latitude_deg,
    longitude_deg,
    rat,
    plmn,
    rssi_dbm,
    iccid,
    if(heard_alone OR ended_alone, '', newest.transport) AS transport,
    newest.fleet AS fleet,
    epoch,
    position_at,
    battery_at,
    battery_millivolts,
    battery_charging,
    firmware_at,
    state_at,
    radio_at,
    cell_id,
    sim_at,
    imsi,
    imei
FROM
(
    SELECT
        d.*,
        (n.epoch = d.told_epoch OR d.told_epoch = 0) AND n.epoch > 0 AS node_known,
        if(node_known, n.epoch, d.told_epoch) AS epoch,
        NOT ended AND if(node_known, n.ended, d.told_epoch < n.newest_epoch AND d.told_epoch > 0) AS gone,
        ended OR gone AS over,
        greatest(if(node_known, n.last_at, began_at), last_received_at) AS gone_at
    FROM
    (
        SELECT
            *,
            arrived_session NOT IN (start.session_id, end.session_id)
                AND heard_begin > greatest(start.connected_at, end.connected_at) AS heard_alone,
            NOT heard_alone AND (start.connected_at, start.session_id) <= (end.connected_at, end.session_id) AS ended,
            ended AND start.session_id != end.session_id AS ended_alone,
            multiIf(heard_alone, heard_begin, ended, end.connected_at, start.connected_at) AS began_at,
            multiIf(heard_alone, arrived_session, ended, end.session_id, start.session_id) AS session_id,
            multiIf(heard_alone, arrived_node, ended_alone, '', start.node_id) AS node_id,
            if(heard_alone OR ended_alone, 0, newest.epoch) AS told_epoch,
            if(told_epoch > 0, told_epoch, toUInt64(greatest(toUnixTimestamp64Milli(began_at), 0))) AS epoch_or_start,
            greatest(arrived_at, start.connected_at, end.connected_at, began_at) AS last_received_at,
            multiIf(
                next_s > 0, next_s * 1500 + 10000,
                arrived_messages >= 3 AND heard_begin > toDateTime64(0, 3, 'UTC'),
                    greatest(3600000, 4 * intDiv(dateDiff('millisecond', heard_begin, arrived_at), arrived_messages)),
                -- Never: 30 years.
                946080000000) AS patience_ms,
            greatest(last_received_at, looking_since) + toIntervalMillisecond(patience_ms) AS overdue_at
        FROM
        (
            SELECT
                i.device_id AS device_id,
                s.start AS start, s.end AS end, s.newest AS newest,
                a.arrived_at AS arrived_at, a.session_id AS arrived_session, a.node_id AS arrived_node, a.messages_in AS arrived_messages,
                toTimeZone(UUIDv7ToDateTime(arrived_session), 'UTC') AS heard_begin,
                r.taken_at AS last_heartbeat_at, r.next_s AS next_s,
                r.position_at AS position_at, r.position.1 AS latitude_deg, r.position.2 AS longitude_deg,
                r.battery_at AS battery_at, r.battery.1 AS battery_percent, r.battery.2 AS battery_millivolts, r.battery.3 AS battery_charging,
                r.radio_at AS radio_at, r.radio.1 AS rat, r.radio.2 AS plmn, r.radio.3 AS cell_id, r.radio.4 AS rssi_dbm,
                r.sim_at AS sim_at, r.sim.1 AS iccid, r.sim.2 AS imsi, r.sim.3 AS imei,
                r.firmware_at AS firmware_at, r.firmware AS firmware,
                r.state_at AS state_at, r.state AS state
            FROM (SELECT c.device_id AS device_id FROM device_status_state AS c UNION DISTINCT SELECT a.device_id FROM device_arrivals AS a) AS i
            LEFT JOIN
            (
                SELECT
                    m.device_id AS device_id, max(m.last_start) AS start, max(m.last_end) AS end, max(m.last_epoch) AS newest
                FROM device_status_state AS m
                GROUP BY m.device_id
            ) AS s ON s.device_id = i.device_id
            LEFT JOIN
            (
                SELECT a.device_id AS device_id, a.received_at AS arrived_at, a.session_id AS session_id, toString(a.node_id) AS node_id, a.messages_in AS messages_in
                FROM device_arrivals AS a FINAL
            ) AS a ON a.device_id = i.device_id
            LEFT JOIN
                (
                    SELECT
                        device_id,
                        max(k.taken_at) AS taken_at,
                        argMax(k.next_s, k.version) AS next_s,
                        maxIf(k.taken_at, bitTest(k.facts, 0)) AS position_at,
                        argMaxIf((k.latitude_deg, k.longitude_deg), k.version, bitTest(k.facts, 0)) AS position,
                        maxIf(k.taken_at, bitTest(k.facts, 1)) AS battery_at,
                        argMaxIf((k.battery_percent, k.battery_millivolts, k.battery_charging), k.version, bitTest(k.facts, 1)) AS battery,
                        maxIf(k.taken_at, bitTest(k.facts, 2)) AS radio_at,
                        argMaxIf((toString(k.rat), toString(k.plmn), k.cell_id, k.rssi_dbm), k.version, bitTest(k.facts, 2)) AS radio,
                        maxIf(k.taken_at, bitTest(k.facts, 3)) AS sim_at,
                        argMaxIf((k.iccid, k.imsi, k.imei), k.version, bitTest(k.facts, 3)) AS sim,
                        maxIf(k.taken_at, bitTest(k.facts, 4)) AS firmware_at,
                        argMaxIf(toString(k.firmware), k.version, bitTest(k.facts, 4)) AS firmware,
                        maxIf(k.taken_at, bitTest(k.facts, 5)) AS state_at,
                        argMaxIf(toString(k.state), k.version, bitTest(k.facts, 5)) AS state
                    FROM device_latest AS k FINAL
                    GROUP BY k.device_id
                ) AS r ON r.device_id = i.device_id
        )
    ) AS d
    ASOF LEFT JOIN node_lives AS n ON n.node_id = d.node_id AND d.epoch_or_start >= n.epoch
);

-- First copies of heartbeats that came in between {since} and {until}, of one device or (empty) of all.
CREATE OR REPLACE VIEW heartbeat_arrivals AS
SELECT
    h.device_id AS device_id,
    h.received_at AS received_at,
    least(h.taken_at, h.received_at) AS taken_at,
    bitShiftLeft(toUInt64(greatest(toUnixTimestamp64Milli(least(h.taken_at, h.received_at)), 0)), 20) + bitAnd(h.identity, 1048575) AS version,
    h.session_id AS session_id,
    h.session_messages_in AS messages_in,
    ifNull(h.next_s, 0) AS next_s,
    -- By what it promised, or else by what its session has shown: how long no sign of life is no silence. Null: nothing can be said.
    if(next_s > 0, next_s * 1500 + 10000, NULL) AS promised_ms,
    if(messages_in >= 3 AND UUIDv7ToDateTime(h.session_id) > toDateTime64(0, 3),
        greatest(3600000, 4 * intDiv(dateDiff('millisecond', UUIDv7ToDateTime(h.session_id), h.received_at), messages_in)),
        NULL) AS learned_ms,
    h.firmware AS firmware,
    h.state AS state,
    h.battery_percent AS battery_percent,
    h.battery_millivolts AS battery_millivolts,
    h.battery_charging AS battery_charging,
    h.latitude_deg AS latitude_deg,
    h.longitude_deg AS longitude_deg,
    h.rat AS rat,
    h.plmn AS plmn,
    h.cell_id AS cell_id,
    h.rssi_dbm AS rssi_dbm,
    h.iccid AS iccid,
    h.imsi AS imsi,
    h.imei AS imei
FROM heartbeats AS h FINAL
WHERE h.received_at >= {since:DateTime64(3, 'UTC')} AND h.received_at < {until:DateTime64(3, 'UTC')}
    AND ({device:String} = '' OR h.device_id = {device:String});

-- One row per device known by now, or one device: what it did at {at}, in the words of `device_status`, by what is known today: what came in
-- late is in it. `never_seen` where its first session began later. Heartbeats of the 35 days before are looked at.
CREATE OR REPLACE VIEW device_status_at AS
WITH
    {at:DateTime64(3, 'UTC')} AS at,
    (
        SELECT groupArray((u.began_at, u.ended_at))
        FROM ingest_unknown(since = {at:DateTime64(3, 'UTC')} - INTERVAL 35 DAY, until = {at:DateTime64(3, 'UTC')} + INTERVAL 1 MILLISECOND) AS u
    ) AS unknown,
    arrayFirst(u -> u.1 <= at AND at < u.2, unknown) AS unknown_now,
    unknown_now.2 > at AS not_looking,
    arrayMax(arrayMap(u -> if(u.2 <= at, u.2, toDateTime64(0, 3, 'UTC')), arrayPushFront(unknown, (toDateTime64(0, 3, 'UTC'), toDateTime64(0, 3, 'UTC'))))) AS looking_since
SELECT
    device_id,
    multiIf(
        not_looking, 'unknown',
        began_at = toDateTime64(0, 3, 'UTC'), 'never_seen',
        over, 'offline',
        at >= overdue_at, 'silent',
        'online') AS status,
    multiIf(
        status = 'unknown', unknown_now.1,
        status = 'offline', ended_at,
        status = 'silent', overdue_at,
        began_at) AS since,
    if(over, newest.reason, '') AS offline_reason,
    newest.session_id AS session_id,
    newest.node_id AS node_id,
    newest.fleet AS fleet,
    last_received_at,
    last_heartbeat_at,
    next_s,
    position_at, position.1 AS latitude_deg, position.2 AS longitude_deg,
    battery_at, battery.1 AS battery_percent, battery.2 AS battery_millivolts, battery.3 AS battery_charging,
    radio_at, radio.1 AS rat, radio.2 AS plmn, radio.3 AS cell_id, radio.4 AS rssi_dbm,
    sim_at, sim.1 AS iccid, sim.2 AS imsi, sim.3 AS imei,
    firmware_at, firmware,
    state_at, state
FROM
(
    SELECT
        *,
        assumeNotNull(ifNull(newest.ended_at, toDateTime64('2100-01-01 00:00:00', 3, 'UTC'))) AS ended_at,
        ended_at <= at AS over,
        greatest(began_at, arrived_at) AS last_received_at,
        greatest(last_received_at, looking_since) + toIntervalMillisecond(multiIf(next_s > 0, next_s * 1500 + 10000, learned_ms > 0, learned_ms, 946080000000)) AS overdue_at
    FROM
    (
        SELECT
            b.device_id AS device_id,
            max(b.began_at) AS began_at,
            argMax(b.session, (b.began_at, b.session.1))::Tuple(session_id UUID, ended_at Nullable(DateTime64(3, 'UTC')), reason String, node_id String, fleet String) AS newest,
            max(b.arrived_at) AS arrived_at,
            argMax(b.learned_ms, (b.arrived_at, b.messages_in)) AS learned_ms,
            max(b.taken_at) AS last_heartbeat_at,
            argMax(b.next_s, b.version) AS next_s,
            maxIf(b.taken_at, b.latitude_deg IS NOT NULL AND b.longitude_deg IS NOT NULL) AS position_at,
            argMaxIf((b.latitude_deg, b.longitude_deg), b.version, b.latitude_deg IS NOT NULL AND b.longitude_deg IS NOT NULL) AS position,
            maxIf(b.taken_at, b.battery_percent IS NOT NULL OR b.battery_millivolts IS NOT NULL) AS battery_at,
            argMaxIf((b.battery_percent, b.battery_millivolts, b.battery_charging), b.version, b.battery_percent IS NOT NULL OR b.battery_millivolts IS NOT NULL) AS battery,
            maxIf(b.taken_at, b.rat != '' OR b.plmn != '') AS radio_at,
            argMaxIf((b.rat, b.plmn, b.cell_id, b.rssi_dbm), b.version, b.rat != '' OR b.plmn != '') AS radio,
            maxIf(b.taken_at, b.iccid != '') AS sim_at,
            argMaxIf((b.iccid, b.imsi, b.imei), b.version, b.iccid != '') AS sim,
            maxIf(b.taken_at, b.firmware != '') AS firmware_at,
            argMaxIf(b.firmware, b.version, b.firmware != '') AS firmware,
            maxIf(b.taken_at, b.state != '') AS state_at,
            argMaxIf(b.state, b.version, b.state != '') AS state
        FROM
        (
            SELECT
                s.device_id AS device_id,
                if(s.started_at <= {at:DateTime64(3, 'UTC')}, s.started_at, toDateTime64(0, 3, 'UTC')) AS began_at,
                (s.session_id, s.ended_at, toString(s.reason), s.node_id, s.fleet) AS session,
                toDateTime64(0, 3, 'UTC') AS arrived_at, toUInt64(0) AS messages_in, toInt64(-1) AS learned_ms,
                toDateTime64(0, 3, 'UTC') AS taken_at, toUInt64(0) AS version, toUInt32(0) AS next_s,
                NULL AS latitude_deg, NULL AS longitude_deg, NULL AS battery_percent, NULL AS battery_millivolts, NULL AS battery_charging,
                '' AS rat, '' AS plmn, NULL AS cell_id, NULL AS rssi_dbm, '' AS iccid, '' AS imsi, '' AS imei, '' AS firmware, '' AS state
            FROM sessions AS s
            WHERE {device:String} = '' OR s.device_id = {device:String}
            UNION ALL
            SELECT
                a.device_id, toDateTime64(0, 3, 'UTC'),
                (toUUID('00000000-0000-0000-0000-000000000000'), NULL, '', '', ''),
                a.received_at, a.messages_in, ifNull(toInt64(a.learned_ms), -1),
                a.taken_at, a.version, toUInt32(a.next_s),
                a.latitude_deg, a.longitude_deg, a.battery_percent, a.battery_millivolts, a.battery_charging,
                toString(a.rat), toString(a.plmn), a.cell_id, a.rssi_dbm, a.iccid, a.imsi, a.imei, toString(a.firmware), toString(a.state)
            FROM heartbeat_arrivals(
                since = {at:DateTime64(3, 'UTC')} - INTERVAL 35 DAY, until = {at:DateTime64(3, 'UTC')} + INTERVAL 1 MILLISECOND,
                device = {device:String}) AS a
        ) AS b
        GROUP BY b.device_id
    )
);

-- How long each device was online, silent, offline and unknown between {since} and {until} (now, if that is later), in milliseconds; before
-- its first session: `never_seen_ms`. The five add up to the span, so figures of a group are sums. {device} and {fleet}: empty for all.
CREATE OR REPLACE VIEW availability AS
WITH
    toUnixTimestamp64Milli({since:DateTime64(3, 'UTC')}) AS since_ms,
    greatest(least(toUnixTimestamp64Milli({until:DateTime64(3, 'UTC')}), toUnixTimestamp64Milli(now64(3))), since_ms) AS until_ms,
    (
        SELECT groupArray((toUnixTimestamp64Milli(u.began_at), toUnixTimestamp64Milli(u.ended_at)))
        FROM ingest_unknown(since = {since:DateTime64(3, 'UTC')} - INTERVAL 35 DAY, until = {until:DateTime64(3, 'UTC')}) AS u
    ) AS unknown,
    arraySort(arrayMap(u -> u.2, unknown)) AS looked_again_ms,
    -- What of a span lies between {since} and {until}, and not in an unknown one.
    (a, b) -> greatest(least(b, until_ms) - greatest(a, since_ms), 0)
        - arraySum(u -> greatest(least(b, until_ms, u.2) - greatest(a, since_ms, u.1), 0), unknown) AS known_ms
SELECT
    device_id,
    fleet,
    toUInt64(connected_ms - silent_spans_ms) AS online_ms,
    toUInt64(silent_spans_ms) AS silent_ms,
    toUInt64(known_ms(first_ms, until_ms) - connected_ms) AS offline_ms,
    toUInt64(until_ms - since_ms - known_ms(since_ms, until_ms)) AS unknown_ms,
    toUInt64(known_ms(since_ms, first_ms)) AS never_seen_ms,
    -- Of the time in which it was known, and seen before; null where there is none.
    online_ms / nullIf(online_ms + silent_ms + offline_ms, 0) AS online_share,
    sessions
FROM
(
    SELECT
        device_id,
        argMax(told_fleet, (told_fleet != '', at_ms)) AS fleet,
        minIf(at_ms, is_session) AS first_ms,
        sumIf(known_ms(at_ms, session_end_ms), is_session) AS connected_ms,
        countIf(is_session AND at_ms < until_ms AND session_end_ms > since_ms) AS sessions,
        sum(if(next_ms - at_ms <= patience_ms, 0,
            -- Looking again begins the wait anew.
            arraySum((a, b) -> known_ms(a + patience_ms, b),
                arrayPushFront(looks, at_ms), arrayPushBack(looks, next_ms)))) AS silent_spans_ms
    FROM
    (
        SELECT
            device_id, told_fleet, at_ms, is_session, session_end_ms,
            assumeNotNull(ifNull(if(promise_ms > 0, toInt64(promise_ms), nullIf(anyLast(learned_ms) OVER so_far, -1)), 946080000000)) AS patience_ms,
            toUInt64(bitAnd(max(bitOr(bitShiftLeft(toUInt128(version), 64), toUInt128(promised_ms))) OVER so_far, 18446744073709551615)) AS promise_ms,
            assumeNotNull(least(leadInFrame(at_ms, 1, 4102444800000) OVER following, ifNull(anyLast(nullIf(session_end_ms, 0)) OVER so_far, 0))) AS next_ms,
            if(next_ms - at_ms <= patience_ms, [], arrayFilter(u -> u > at_ms AND u < next_ms, looked_again_ms)) AS looks
        FROM
        (
            SELECT
                s.device_id AS device_id, s.session_id AS session_id, s.fleet AS told_fleet,
                toUnixTimestamp64Milli(s.started_at) AS at_ms,
                true AS is_session,
                -- The next session takes its place, whether it has ended or not.
                greatest(least(
                    if(s.ended_at IS NULL, 4102444800000, toUnixTimestamp64Milli(assumeNotNull(s.ended_at))),
                    if(s.next_started_at IS NULL, 4102444800000, toUnixTimestamp64Milli(assumeNotNull(s.next_started_at)))), at_ms) AS session_end_ms,
                toUInt64(0) AS version, toUInt64(0) AS promised_ms, NULL AS learned_ms, toUInt64(0) AS messages_in
            FROM sessions AS s
            WHERE {device:String} = '' OR s.device_id = {device:String}
            UNION ALL
            SELECT
                a.device_id, a.session_id, '', toUnixTimestamp64Milli(a.received_at), false, 0,
                a.version, ifNull(a.promised_ms, 0), ifNull(toInt64(a.learned_ms), -1), a.messages_in
            FROM heartbeat_arrivals(
                since = {since:DateTime64(3, 'UTC')} - INTERVAL 35 DAY, until = {until:DateTime64(3, 'UTC')}, device = {device:String}) AS a
        )
        WINDOW
            so_far AS (PARTITION BY device_id ORDER BY at_ms, messages_in, session_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
            following AS (PARTITION BY device_id ORDER BY at_ms, messages_in, session_id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
    )
    GROUP BY device_id
)
WHERE {fleet:String} = '' OR fleet = {fleet:String}
