-- report: reconnect-storms
-- team: engineering
-- question: In which minutes did far more devices connect than usual, and what had ended their sessions?
-- unknown: Connections that were refused before a session was accepted. Whether the network, a gateway or a release caused it: the commonest reason of sessions that ended in the minute and the ten before is a hint.
-- parameter: hours UInt16 = 24 | how far back; usual is the median minute of it
-- parameter: factor Float64 = 5 | so many times the usual is a storm
-- parameter: connects_min UInt32 = 10 | and at least so many
WITH
    minutes AS
    (
        SELECT toStartOfMinute(c.at) AS minute, count() AS connects, uniqExact(c.device_id) AS devices, uniqExact(c.node_id) AS nodes
        FROM connections AS c FINAL
        WHERE c.event = 'connected' AND c.connected_at >= now64(3) - toIntervalHour({hours:UInt16})
        GROUP BY minute
    ),
    -- Minutes without any count, too.
    (
        SELECT arrayReduce('quantileExact(0.5)', arrayConcat(groupArray(connects),
            arrayWithConstant(greatest(toInt64({hours:UInt16}) * 60 - toInt64(count()), 0), toUInt64(0)))) FROM minutes
    ) AS usual,
    ends AS
    (
        SELECT toStartOfMinute(d.at) AS minute, toString(d.reason) AS reason, count() AS sessions
        FROM connections AS d FINAL
        WHERE d.event = 'disconnected' AND d.at >= now64(3) - toIntervalHour({hours:UInt16}) - INTERVAL 10 MINUTE
            AND d.connected_at >= now64(3) - toIntervalHour({hours:UInt16}) - INTERVAL 40 DAY
        GROUP BY minute, reason
    ),
    storms AS (SELECT * FROM minutes WHERE connects >= {connects_min:UInt32} AND connects >= {factor:Float64} * usual)
SELECT
    s.minute AS minute, s.connects AS connects, s.devices AS devices, s.nodes AS nodes, ifNull(usual, 0) AS usual_connects,
    sum(e.sessions) AS ended_before,
    argMax(e.reason, e.total) AS commonest_reason
FROM storms AS s
LEFT JOIN
(
    SELECT t.minute AS minute, x.reason AS reason, sum(x.sessions) AS sessions, sum(x.sessions) AS total
    FROM storms AS t CROSS JOIN ends AS x
    WHERE x.minute <= t.minute AND x.minute >= t.minute - INTERVAL 10 MINUTE
    GROUP BY minute, reason
) AS e ON e.minute = s.minute
GROUP BY minute, connects, devices, nodes
ORDER BY minute DESC
