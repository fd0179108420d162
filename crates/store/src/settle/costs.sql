-- Months whose costs were settled out of something else than what stands now, the newest first. Parameters: recent (1: the last month, this one
-- and the next alone), months_max. What a month is made of: its usage, with the months beside it, as a customer's month may begin and end in
-- those, and with how many rows the newest run wrote, as another process may be writing on; the registry, with what was deleted; in which device a
-- SIM was seen last; and the views, which a migration may change. What is older than 35 months stands as it is: the hours that its edges
-- need are kept for three years.
WITH
    cityHash64(toString((
        (SELECT max(m.version) FROM schema_migrations AS m),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM registry_customers FINAL),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM registry_fleets FINAL),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM registry_devices FINAL),
        (SELECT sum(cityHash64(toString(tuple(*)))) FROM registry_plans FINAL),
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
    SELECT addMonths(this_month, 1 - toInt32(number)) AS month
    FROM numbers(if({recent:Bool}, 3, {months_max:UInt32} + 1))
    WHERE number < 3 OR month >= addMonths(first, -1)
) AS m
LEFT JOIN
(
    SELECT addMonths(n.month, arrayJoin([-1, 0, 1])) AS beside, sum(cityHash64(n.month, n.newest, n.written)) AS settled
    FROM
    (
        SELECT s.month AS month, max(s.settled) AS newest, argMax(s.written, s.settled) AS written
        FROM
        (
            SELECT month, settled, count() AS written
            FROM usage_months
            WHERE NOT {recent:Bool} OR month >= addMonths(this_month, -2)
            GROUP BY month, settled
        ) AS s
        GROUP BY month
    ) AS n
    GROUP BY beside
) AS u ON u.beside = m.month
LEFT JOIN (SELECT month, run, inputs FROM sim_month_runs FINAL) AS r ON r.month = m.month
WHERE r.inputs != inputs AND (r.run = 0 OR m.month >= addMonths(this_month, -35))
ORDER BY m.month DESC
