-- Months whose costs were settled out of something else than what stands now, the newest first. Parameters: recent (1: this month and the last alone),
-- months_max. What a month is made of: its usage, with the months beside it, as a customer's month may begin and end in those; the registry; in which
-- device a SIM was seen last; and the views, which a migration may change.
WITH
    cityHash64(toString((
        (SELECT max(m.version) FROM schema_migrations AS m),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM customers),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM fleets),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM devices),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM plans),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM sim_states FINAL),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM sim_plans FINAL),
        (SELECT sum(cityHash64(s.iccid, s.device)) FROM (SELECT iccid, argMax(device_id, last_seen) AS device FROM sim_sightings GROUP BY iccid) AS s)
    ))) AS registry,
    toStartOfMonth(toDate(now('UTC'))) AS this_month,
    (
        SELECT minOrNull(f.first) FROM
        (
            SELECT minOrNull(month) AS first FROM usage_months
            UNION ALL
            SELECT toStartOfMonth(toDate(minOrNull(since), 'UTC')) FROM sim_states
        ) AS f
    ) AS first
SELECT
    toString(m.month) AS month,
    generateSnowflakeID() AS run,
    r.run AS replaced,
    cityHash64(registry, u.settled) AS inputs
FROM
(
    SELECT addMonths(this_month, -toInt32(number)) AS month
    FROM numbers(if({recent:Bool}, 2, {months_max:UInt32}))
    WHERE number < 2 OR month >= addMonths(first, -1)
) AS m
LEFT JOIN
(
    SELECT addMonths(month, arrayJoin([-1, 0, 1])) AS beside, max(settled) AS settled
    FROM usage_months
    WHERE NOT {recent:Bool} OR month >= addMonths(this_month, -2)
    GROUP BY beside
) AS u ON u.beside = m.month
LEFT JOIN (SELECT month, run, inputs FROM sim_month_runs FINAL) AS r ON r.month = m.month
WHERE r.inputs != inputs
ORDER BY m.month DESC
