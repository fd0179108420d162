-- Which devices are made anew, and from which hour on. Parameters: run, since, horizon.
--
-- A device is *late* where the newest parts do not tell all: its past was touched, or one of its counters began before what is looked
-- at here and is not known from there. Then all its rows are read.
INSERT INTO settle_touched (run, device_id, from_hour, late, readings)
WITH
    toDateTime({since:UInt32}, 'UTC') AS since,
    toDateTime({horizon:UInt32}, 'UTC') AS horizon,
    toDateTime({fresh:UInt32}, 'UTC') AS fresh,
    fresh - INTERVAL 3 DAY AS known_from
SELECT
    {run:UInt64} AS run,
    t.device_id AS device_id,
    greatest(minIf(t.from_hour, t.new > 0), horizon) AS from_hour,
    from_hour < fresh OR max(t.past) OR NOT max(t.known) OR max(NOT t.known AND NOT t.began) AS late,
    sum(t.readings) AS readings
FROM
(
    SELECT
        c.device_id AS device_id,
        c.from_hour AS from_hour,
        c.past AS past,
        c.began AS began,
        c.readings AS readings,
        c.new AS new,
        (c.device_id, c.source, c.counter) IN
        (
            SELECT device_id, source, counter FROM usage_hours WHERE hour >= known_from AND hour < fresh AND last_at > toDateTime64(0, 3, 'UTC')
        ) AS known
    FROM
    (
        SELECT
            device_id,
            source,
            counter,
            toDateTime(minIf(toStartOfHour(least(h.taken_at, h.received_at)), h.stored_at >= since), 'UTC') AS from_hour,
            max(h.clock = 'device' AND h.device_time < fresh - INTERVAL 1 DAY) AS past,
            max(if(source = 'modem',
                ifNull(h.taken_at - toIntervalSecond(least(h.uptime_s, 4000000000)) >= known_from, false),
                UUIDv7ToDateTime(h.session_id) >= known_from)) AS began,
            count() AS readings,
            countIf(h.stored_at >= since) AS new
        FROM heartbeats AS h
        ARRAY JOIN
            [CAST('modem', 'Enum8(\'modem\' = 1, \'gateway\' = 2)'), CAST('gateway', 'Enum8(\'modem\' = 1, \'gateway\' = 2)')] AS source,
            [h.boot_id, toString(h.session_id)] AS counter
        WHERE h.stored_at >= since OR h.received_at >= fresh
        GROUP BY device_id, source, counter
        UNION ALL
        SELECT
            device_id,
            CAST('gateway', 'Enum8(\'modem\' = 1, \'gateway\' = 2)') AS source,
            toString(e.session_id) AS counter,
            toDateTime(minIf(toStartOfHour(e.at), e.stored_at >= since), 'UTC') AS from_hour,
            false AS past,
            max(UUIDv7ToDateTime(e.session_id) >= known_from) AS began,
            count() AS readings,
            countIf(e.stored_at >= since) AS new
        FROM connections AS e
        WHERE (e.stored_at >= since OR e.at >= fresh) AND e.event = 'disconnected'
        GROUP BY device_id, counter
    ) AS c
) AS t
GROUP BY device_id
HAVING sum(t.new) > 0
