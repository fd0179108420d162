-- The last thing known of each device. Only maxima of tuples that begin with a time: the same after a
-- duplicate, in any order, so nothing that arrives late or twice can make it wrong.

CREATE TABLE IF NOT EXISTS device_status_state
(
    device_id        String,
    last_received_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'last sign of life',
    last_heartbeat   SimpleAggregateFunction(max, Tuple(
        at DateTime64(3, 'UTC'), identity UInt64, next_s UInt32, firmware String, state String,
        battery_percent Nullable(Float32), latitude_deg Nullable(Float64), longitude_deg Nullable(Float64),
        rat String, plmn String, rssi_dbm Nullable(Float32), iccid String)),
    last_start       SimpleAggregateFunction(max, Tuple(
        connected_at DateTime64(3, 'UTC'), session_id UUID, node_id String, peer String)),
    last_end         SimpleAggregateFunction(max, Tuple(
        connected_at DateTime64(3, 'UTC'), session_id UUID, ended_at DateTime64(3, 'UTC'), reason String))
)
ENGINE = AggregatingMergeTree
ORDER BY device_id
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS device_status_from_heartbeats TO device_status_state AS
SELECT
    h.device_id AS device_id,
    max(h.received_at) AS last_received_at,
    -- A clock that is ahead does not stand for the future once it is put right.
    max((least(h.device_time, h.received_at), h.identity, ifNull(h.next_s, 0), toString(h.firmware), toString(h.state),
         h.battery_percent, h.latitude_deg, h.longitude_deg,
         toString(h.rat), toString(h.plmn), h.rssi_dbm, h.iccid)) AS last_heartbeat
FROM heartbeats AS h
GROUP BY h.device_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS device_status_from_connections TO device_status_state AS
SELECT
    c.device_id AS device_id,
    maxIf(c.at, c.event = 'connected') AS last_received_at,
    maxIf((c.connected_at, c.session_id, toString(c.node_id), c.peer), c.event = 'connected') AS last_start,
    maxIf((c.connected_at, c.session_id, c.at, toString(c.reason)), c.event = 'disconnected') AS last_end
FROM connections AS c
GROUP BY c.device_id;

-- One row per device: what it does now, since when and why.
--   online   its newest session has not ended
--   silent   the same, but the heartbeat that it promised (`next_s`) is overdue by half and ten seconds
--   offline  its newest session has ended, with the reason
-- The newest session is the one that began last by its gateway's clock. A session whose gateway died without a word is taken for
-- standing until the device's next one begins.
CREATE VIEW IF NOT EXISTS device_status AS
SELECT
    device_id,
    multiIf(
        not connected, 'offline',
        promised_s > 0 and now64(3) > received_at + toIntervalMillisecond(promised_s * 1500 + 10000), 'silent',
        'online') AS status,
    if(connected, start.connected_at, end.ended_at) AS since,
    if(connected, '', end.reason) AS offline_reason,
    if(connected, start.session_id, end.session_id) AS session_id,
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
    heartbeat.iccid AS iccid
FROM
(
    SELECT
        device_id,
        max(s.last_received_at) AS received_at,
        max(s.last_heartbeat) AS heartbeat,
        max(s.last_start) AS start,
        max(s.last_end) AS end,
        (start.connected_at, start.session_id) > (end.connected_at, end.session_id) AS connected,
        heartbeat.next_s AS promised_s
    FROM device_status_state AS s
    GROUP BY device_id
);
