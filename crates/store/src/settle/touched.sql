-- Which devices are made anew, and from which hour on. Parameters: run, since, horizon, near.
--
-- A device is *late* where what came since `near` does not tell all: its past was touched, or its clock is ahead or lost.
INSERT INTO settle_touched (run, device_id, from_hour, late, readings)
WITH
    toDateTime({since:UInt32}, 'UTC') AS since,
    toDateTime({horizon:UInt32}, 'UTC') AS horizon,
    -- From here on rows are read of a device that is not late; two hours later its first touched hour may begin.
    toDateTime({near:UInt32}, 'UTC') AS near,
    odd AS
    (
        SELECT device_id FROM heartbeats
        WHERE received_at >= near AND (clock = 'implausible' OR (clock = 'device' AND device_time < near))
        UNION ALL
        SELECT device_id FROM heartbeats
        WHERE received_at >= near - INTERVAL 1 DAY AND received_at < near AND device_time >= near
    )
SELECT
    {run:UInt64} AS run,
    t.device_id AS device_id,
    greatest(min(t.from_hour), horizon) AS from_hour,
    from_hour < near + INTERVAL 2 HOUR OR t.device_id IN (SELECT device_id FROM odd) AS late,
    sum(t.readings) AS readings
FROM
(
    SELECT device_id, min(toStartOfHour(least(h.taken_at, h.received_at), 'UTC')) AS from_hour, count() AS readings
    FROM heartbeats AS h
    WHERE h.stored_at >= since
    GROUP BY device_id
    UNION ALL
    SELECT device_id, min(toStartOfHour(c.at, 'UTC')) AS from_hour, 0 AS readings
    FROM connections AS c
    WHERE c.stored_at >= since AND c.event = 'disconnected'
    GROUP BY device_id
) AS t
GROUP BY device_id
