-- Gateway nodes tell their own life, so that sessions a killed gateway left open can be closed; presence says more about a
-- session; commands to devices have a history. Every statement can be repeated: what is inserted here are maxima.

-- One row per event of a gateway node.
CREATE TABLE IF NOT EXISTS nodes
(
    node_id         LowCardinality(String),
    epoch           UInt64                                 COMMENT 'start of the gateway process' CODEC(Delta, ZSTD(1)),
    event           Enum8('started' = 1, 'alive' = 2, 'stopping' = 3),
    at              DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    version         LowCardinality(String)                 COMMENT 'on a start',
    sessions        UInt32                                 COMMENT 'sessions that stand' CODEC(Delta, ZSTD(1)),
    lost_after_ms   UInt32                                 COMMENT 'without a sign of life for this long the node may be taken for lost' CODEC(Delta, ZSTD(1)),
    kafka_partition UInt32                                 CODEC(ZSTD(1)),
    kafka_offset    UInt64                                 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(at)
ORDER BY (node_id, epoch, event, at)
TTL toDateTime(at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- The last sign of life of each start of each node. One row per start: few, for ever.
CREATE TABLE IF NOT EXISTS node_state
(
    node_id       String,
    epoch         UInt64,
    last_at       SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    lost_after_ms SimpleAggregateFunction(max, UInt32),
    stopped       SimpleAggregateFunction(max, UInt8)     COMMENT '1 once it said that it stops'
)
ENGINE = AggregatingMergeTree
ORDER BY (node_id, epoch)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS node_state_from_nodes TO node_state AS
SELECT
    toString(n.node_id) AS node_id,
    n.epoch AS epoch,
    max(n.at) AS last_at,
    max(n.lost_after_ms) AS lost_after_ms,
    toUInt8(max(n.event = 'stopping')) AS stopped
FROM nodes AS n
GROUP BY node_id, epoch;

-- One row per start of a node: what it does now.
--   running     it gave a sign of life lately
--   stopped     it said that it stops, and ended its sessions itself
--   superseded  a later start of the same node is known
--   lost        it is silent, and other nodes are heard
--   unknown     it is silent, and so is every other: whether nodes died or their events do not arrive cannot be told
CREATE VIEW IF NOT EXISTS node_status AS
SELECT
    node_id,
    epoch,
    multiIf(
        stopped > 0, 'stopped',
        epoch < newest_epoch, 'superseded',
        now64(3) <= last_at + toIntervalMillisecond(patience_ms), 'running',
        heard_at > last_at + toIntervalMillisecond(patience_ms), 'lost',
        'unknown') AS status,
    last_at,
    patience_ms AS lost_after_ms
FROM
(
    SELECT
        s.node_id AS node_id,
        s.epoch AS epoch,
        max(s.last_at) AS last_at,
        max(s.stopped) AS stopped,
        if(max(s.lost_after_ms) = 0, 15000, max(s.lost_after_ms)) AS patience_ms,
        max(s.epoch) OVER (PARTITION BY s.node_id) AS newest_epoch,
        max(max(s.last_at)) OVER () AS heard_at
    FROM node_state AS s
    GROUP BY s.node_id, s.epoch
);

ALTER TABLE connections
    ADD COLUMN IF NOT EXISTS client_id         String                 COMMENT 'MQTT client identifier' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS tls_version       LowCardinality(String) COMMENT 'empty without TLS, and on a disconnect',
    ADD COLUMN IF NOT EXISTS transport         LowCardinality(String) COMMENT 'tcp, tls, ws or wss; empty on a disconnect',
    ADD COLUMN IF NOT EXISTS fleet             LowCardinality(String) COMMENT 'who owns the device',
    ADD COLUMN IF NOT EXISTS session_expiry_s  UInt32                 COMMENT 'how long the session outlives the connection',
    ADD COLUMN IF NOT EXISTS session_present   Bool                   COMMENT 'an older session was taken up',
    ADD COLUMN IF NOT EXISTS presence_sequence UInt64                 COMMENT 'orders the sessions of a device' CODEC(Delta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS client_code       UInt8                  COMMENT 'reason code of the client''s own DISCONNECT';

-- Which start of which node holds the newest session of a device: (connected_at, session_id) as in `last_start`.
ALTER TABLE device_status_state
    ADD COLUMN IF NOT EXISTS last_epoch SimpleAggregateFunction(max, Tuple(
        connected_at DateTime64(3, 'UTC'), session_id UUID, epoch UInt64, transport String, fleet String));

ALTER TABLE device_status_from_connections MODIFY QUERY
SELECT
    c.device_id AS device_id,
    maxIf(c.at, c.event = 'connected') AS last_received_at,
    maxIf((c.connected_at, c.session_id, toString(c.node_id), c.peer), c.event = 'connected') AS last_start,
    maxIf((c.connected_at, c.session_id, c.at, toString(c.reason)), c.event = 'disconnected') AS last_end,
    maxIf((c.connected_at, c.session_id, c.epoch, toString(c.transport), toString(c.fleet)), c.event = 'connected') AS last_epoch
FROM connections AS c
GROUP BY c.device_id;

-- The sessions that stand already.
INSERT INTO device_status_state (device_id, last_epoch)
SELECT
    c.device_id,
    max((c.connected_at, c.session_id, c.epoch, toString(c.transport), toString(c.fleet)))
FROM connections AS c
WHERE c.event = 'connected'
GROUP BY c.device_id;

-- One row per device: what it does now, since when and why.
--   online   its newest session has not ended
--   silent   the same, but the heartbeat that it promised (`next_s`) is overdue by half and ten seconds
--   offline  its newest session has ended, with the reason; `gateway_lost` where the gateway process that held it is gone
--   unknown  its newest session has not ended, and no gateway is heard: the reason is `gateway_lost` then, too
-- The newest session is the one that began last by its gateway's clock. A session that a lost gateway left open ends with the
-- node's last sign of life; where that was never told (nodes of an earlier version), with the device's own.
CREATE OR REPLACE VIEW device_status AS
SELECT
    device_id,
    multiIf(
        ended, 'offline',
        gone IN ('superseded', 'lost', 'stopped_without'), 'offline',
        gone = 'unknown', 'unknown',
        promised_s > 0 and now64(3) > received_at + toIntervalMillisecond(promised_s * 1500 + 10000), 'silent',
        'online') AS status,
    multiIf(ended, end.ended_at, gone != '', greatest(node_last_at, received_at, start.connected_at), start.connected_at) AS since,
    multiIf(ended, end.reason, gone != '', 'gateway_lost', '') AS offline_reason,
    if(ended, end.session_id, start.session_id) AS session_id,
    start.node_id AS node_id,
    start.peer AS peer,
    received_at AS last_received_at,
    heartbeat.at AS last_heartbeat_at,
    promised_s AS next_s,
    heartbeat.firmware AS firmware,
    heartbeat.state AS state,
    heartbeat.battery_percent AS battery_percent,
    heartbeat.latitude_deg AS latitude_deg,
    heartbeat.longitude_deg AS longitude_deg,
    heartbeat.rat AS rat,
    heartbeat.plmn AS plmn,
    heartbeat.rssi_dbm AS rssi_dbm,
    heartbeat.iccid AS iccid,
    newest.transport AS transport,
    newest.fleet AS fleet,
    newest.epoch AS epoch
FROM
(
    SELECT
        d.*,
        n.last_at AS node_last_at,
        multiIf(
            -- Sessions of before nodes told their life stand as they stood, until a later start of the node is known.
            n.epoch = 0 and newest.epoch < f.newest_epoch, 'superseded',
            n.epoch = 0, '',
            n.status = 'stopped' and now64(3) <= n.last_at + toIntervalMillisecond(n.lost_after_ms), '',
            n.status = 'stopped', 'stopped_without',
            n.status = 'running', '',
            n.status) AS gone
    FROM
    (
        SELECT
            s.device_id AS device_id,
            max(s.last_received_at) AS received_at,
            max(s.last_heartbeat) AS heartbeat,
            max(s.last_start) AS start,
            max(s.last_end) AS end,
            max(s.last_epoch) AS newest,
            (start.connected_at, start.session_id) <= (end.connected_at, end.session_id) AS ended,
            heartbeat.next_s AS promised_s
        FROM device_status_state AS s
        GROUP BY s.device_id
    ) AS d
    LEFT JOIN node_status AS n ON n.node_id = d.start.node_id AND n.epoch = d.newest.epoch
    LEFT JOIN (SELECT m.node_id AS node_id, max(m.epoch) AS newest_epoch FROM node_state AS m GROUP BY m.node_id) AS f
        ON f.node_id = d.start.node_id
);

-- One row per step of a command to a device.
CREATE TABLE IF NOT EXISTS commands
(
    device_id       String                                 CODEC(ZSTD(1)),
    command_id      UUID                                   CODEC(ZSTD(1)),
    step            Enum8('issued' = 1, 'sent' = 2, 'delivered' = 3, 'refused' = 4, 'expired' = 5),
    at              DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    name            LowCardinality(String)                 COMMENT 'last level of its topic',
    issued_by       LowCardinality(String),
    issued_at       DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    expires_at      DateTime64(3, 'UTC')                   CODEC(Delta, ZSTD(1)),
    node_id         LowCardinality(String)                 COMMENT 'node that took the step',
    session_id      UUID                                   COMMENT 'session it went over; zero where there was none' CODEC(ZSTD(1)),
    device_code     UInt8                                  COMMENT 'reason code of the device''s answer',
    kafka_partition UInt32                                 CODEC(ZSTD(1)),
    kafka_offset    UInt64                                 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(issued_at)
ORDER BY (device_id, command_id, step, at)
TTL toDateTime(issued_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- One row per command: where it stands. The device's own answer says more than the clock: a command that was answered late was
-- answered. Maxima and minima alone: a step that is told twice is told once.
CREATE VIEW IF NOT EXISTS command_status AS
SELECT
    device_id,
    command_id,
    multiIf(
        answered_at > toDateTime64(0, 3, 'UTC'), answer,
        now64(3) > expires_at, 'expired',
        sent_at > toDateTime64(0, 3, 'UTC'), 'sent',
        'issued') AS state,
    name,
    issued_by,
    issued_at,
    expires_at,
    sent_at,
    answered_at
FROM
(
    SELECT
        c.device_id AS device_id,
        c.command_id AS command_id,
        any(c.name) AS name,
        any(c.issued_by) AS issued_by,
        min(c.issued_at) AS issued_at,
        max(c.expires_at) AS expires_at,
        minIf(c.at, c.step = 'sent') AS sent_at,
        minIf(c.at, c.step IN ('delivered', 'refused')) AS answered_at,
        toString(argMinIf(c.step, c.at, c.step IN ('delivered', 'refused'))) AS answer
    FROM commands AS c
    GROUP BY c.device_id, c.command_id
)
