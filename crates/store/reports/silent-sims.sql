-- report: silent-sims
-- team: finance
-- question: Which SIMs cost a fee without talking?
-- unknown: A SIM talks if a heartbeat told its ICCID, or usage was counted with it; a SIM in a device that tells no ICCID seems silent. What it uses otherwise is not known. The cost since is its present fee over the silent days, a month taken as 30.4375 days; before 2020 it is not counted.
-- parameter: days UInt16 = 30 | silent for so many days or more
SELECT
    s.iccid AS iccid, s.state AS state, s.carrier AS carrier, s.plan_id AS plan_id, t.currency AS currency, toDecimal64(t.monthly_fee, 2) AS monthly_fee,
    e.device_id AS expected_in, k.device_id AS last_in,
    if(k.iccid = '', NULL, k.last_at) AS last_talked_at,
    dateDiff('day', greatest(if(k.iccid = '', toDateTime64(0, 3, 'UTC'), k.last_at), ifNull(s.state_since, toDateTime64(0, 3, 'UTC')), toDateTime64('2020-01-01 00:00:00', 3, 'UTC')), now64(3)) AS silent_days,
    toDecimal64(toFloat64(t.monthly_fee) * silent_days / 30.4375, 2) AS cost_since
FROM sims AS s
INNER JOIN sims_at(at = now64(3)) AS t ON t.iccid = s.iccid
LEFT JOIN (SELECT iccid_expected AS iccid, any(d.device_id) AS device_id FROM devices AS d WHERE iccid_expected != '' GROUP BY iccid) AS e ON e.iccid = s.iccid
LEFT JOIN
(
    SELECT iccid, max(x.at) AS last_at, argMax(x.device_id, x.at) AS device_id
    FROM
    (
        SELECT iccid, device_id, max(g.last_seen) AS at FROM sim_sightings AS g GROUP BY iccid, device_id
        UNION ALL
        SELECT iccid, device_id, sim_at FROM device_status AS d WHERE d.iccid != ''
        UNION ALL
        SELECT iccid, device_id, toDateTime64(max(d.day), 3, 'UTC') FROM device_days AS d WHERE d.iccid != '' GROUP BY iccid, device_id
    ) AS x
    GROUP BY iccid
) AS k ON k.iccid = s.iccid
WHERE s.state IN ('testing', 'live', 'paused') AND t.monthly_fee > 0
    AND (k.iccid = '' OR k.last_at < now64(3) - toIntervalDay({days:UInt16}))
    AND ifNull(s.state_since, toDateTime64(0, 3, 'UTC')) < now64(3) - toIntervalDay({days:UInt16})
ORDER BY monthly_fee DESC, silent_days DESC, iccid
