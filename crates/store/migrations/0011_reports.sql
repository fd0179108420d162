-- What usage costs, by the billing month of each customer. Views alone: they say what the tables say when they are asked.

-- From when (included) to when (excluded) the billing month that begins in the month of {month} lasts, for each customer, and as '' for what
-- is no customer's. A month begins at midnight of `billing_day` in the customer's own time zone, by summer and winter time.
CREATE OR REPLACE VIEW billing_months AS
WITH
    toStartOfMonth({month:Date}) AS month,
    (local, zone) -> local - dateDiff('second', local, parseDateTime(formatDateTime(local, '%Y-%m-%d %H:%i:%S', zone), '%Y-%m-%d %H:%i:%S', 'UTC')) AS shifted,
    -- The offset that holds there is the one to go by, not the one that holds at the same time in UTC.
    (local, zone) -> local - dateDiff('second', shifted(local, zone),
        parseDateTime(formatDateTime(shifted(local, zone), '%Y-%m-%d %H:%i:%S', zone), '%Y-%m-%d %H:%i:%S', 'UTC')) AS moment
SELECT
    customer_id,
    name,
    currency,
    billing_time_zone,
    billing_day,
    fee_per_device,
    markup_percent,
    tax_percent,
    month,
    moment(toDateTime(month + (billing_day - 1), 'UTC'), billing_time_zone) AS from_at,
    moment(toDateTime(addMonths(month, 1) + (billing_day - 1), 'UTC'), billing_time_zone) AS to_at
FROM
(
    SELECT customer_id, name, toString(c.currency) AS currency, if(c.billing_time_zone = '', 'UTC', c.billing_time_zone) AS billing_time_zone,
        greatest(c.billing_day, 1) AS billing_day, fee_per_device, markup_percent, tax_percent
    FROM customers AS c
    UNION ALL
    SELECT '', 'no customer', '', 'UTC', 1, NULL, NULL, NULL
);

-- Which customer and fleet a device belongs to.
CREATE OR REPLACE VIEW device_owners AS
SELECT d.device_id AS device_id, toString(d.fleet_id) AS fleet_id, f.customer_id AS customer_id, d.name AS device_name,
    f.name AS fleet_name, f.city AS city, toString(f.country) AS country
FROM devices AS d
LEFT JOIN fleets AS f ON f.fleet_id = d.fleet_id;

-- Usage of the billing month of each device's own customer, by device, SIM, network, state and the plan that the SIM had then: the days
-- that are nearest to it, and out of the hours what lies between their edges and the month's, added or taken away. Where a plan changes within
-- a day, its hours. A plan that changes within an hour counts from the next one on. `plan_id` is empty where the SIM has no plan with valid
-- conditions.
CREATE OR REPLACE VIEW billing_usage AS
WITH
    months AS
    (
        SELECT customer_id, from_at, to_at, toDate(from_at + INTERVAL 12 HOUR, 'UTC') AS first_day, toDate(to_at + INTERVAL 12 HOUR, 'UTC') AS end_day,
            toDateTime(first_day, 'UTC') AS first_at, toDateTime(end_day, 'UTC') AS end_at
        FROM billing_months(month = {month:Date})
    ),
    -- SIMs that change their plan about that time, and the days within which they do.
    changed AS
    (
        SELECT t.iccid AS iccid, t.since AS since
        FROM sim_plan_terms AS t
        WHERE t.since >= toDateTime64({month:Date}, 3, 'UTC') - INTERVAL 32 DAY AND t.since < toDateTime64({month:Date}, 3, 'UTC') + INTERVAL 65 DAY
    ),
    broken AS (SELECT DISTINCT iccid, toDate(c.since, 'UTC') AS day FROM changed AS c WHERE c.since != toDateTime64(toDate(c.since, 'UTC'), 3, 'UTC')),
    edge_hours AS
    (
        SELECT DISTINCT arrayJoin(arrayConcat(
            arrayMap(i -> least(from_at, first_at) + toIntervalHour(i), range(toUInt32(abs(dateDiff('hour', from_at, first_at))))),
            arrayMap(i -> least(to_at, end_at) + toIntervalHour(i), range(toUInt32(abs(dateDiff('hour', to_at, end_at))))))) AS hour
        FROM months
    )
SELECT
    u.customer_id AS customer_id,
    u.fleet_id AS fleet_id,
    u.device_id AS device_id,
    u.iccid AS iccid,
    u.plmn AS plmn,
    u.state AS state,
    t.iccid != '' AND t.until > u.at AS has_terms,
    if(has_terms, toString(t.plan_id), '') AS plan_id,
    if(has_terms, t.valid_from, toDate(0)) AS valid_from,
    toUInt64(greatest(sum(u.heartbeats), 0)) AS heartbeats,
    toUInt64(greatest(sum(u.modem_bytes), 0)) AS modem_bytes,
    toUInt64(greatest(sum(u.gateway_bytes), 0)) AS gateway_bytes
FROM
(
    SELECT
        m.customer_id AS customer_id, o.fleet_id AS fleet_id, p.device_id AS device_id, p.iccid AS iccid, p.plmn AS plmn, p.state AS state,
        -- A SIM that keeps its plan has the same one all the time.
        if(p.iccid IN (SELECT iccid FROM changed), p.at, m.from_at) AS at,
        multiIf(
            p.kind = 'day', p.at >= m.first_at AND p.at < m.end_at,
            p.kind = 'hour', p.at >= m.from_at AND p.at < m.to_at,
            -- Between the days' edge and the month's.
            (p.at >= m.from_at AND p.at < m.first_at) OR (p.at >= m.end_at AND p.at < m.to_at), 1,
            (p.at >= m.first_at AND p.at < m.from_at) OR (p.at >= m.to_at AND p.at < m.end_at), -1,
            0) AS sign,
        sum(toInt64(p.heartbeats) * sign) AS heartbeats,
        sum(toInt64(p.modem_bytes) * sign) AS modem_bytes,
        sum(toInt64(p.gateway_bytes) * sign) AS gateway_bytes
    FROM
    (
        SELECT 'day' AS kind, d.device_id AS device_id, toDateTime(d.day, 'UTC') AS at, d.iccid AS iccid, toString(d.plmn) AS plmn,
            toString(d.state) AS state, d.heartbeats AS heartbeats, d.modem_tx_bytes + d.modem_rx_bytes AS modem_bytes,
            d.gateway_tx_bytes + d.gateway_rx_bytes AS gateway_bytes
        FROM device_days AS d
        WHERE d.day >= (SELECT min(first_day) FROM months) AND d.day < (SELECT max(end_day) FROM months)
            AND (d.iccid, d.day) NOT IN (SELECT iccid, day FROM broken)
        UNION ALL
        SELECT if((d.iccid, toDate(d.hour, 'UTC')) IN (SELECT iccid, day FROM broken), 'hour', 'edge'), d.device_id, d.hour, d.iccid, toString(d.plmn), toString(d.state), d.heartbeats,
            d.modem_tx_bytes + d.modem_rx_bytes, d.gateway_tx_bytes + d.gateway_rx_bytes
        FROM device_hours AS d
        WHERE d.hour >= (SELECT min(least(from_at, first_at)) FROM months) AND d.hour < (SELECT max(greatest(to_at, end_at)) FROM months)
            AND (d.hour IN (SELECT hour FROM edge_hours)
                OR (toDate(d.hour, 'UTC') IN (SELECT day FROM broken) AND (d.iccid, toDate(d.hour, 'UTC')) IN (SELECT iccid, day FROM broken)))
    ) AS p
    LEFT JOIN device_owners AS o ON o.device_id = p.device_id
    INNER JOIN months AS m ON m.customer_id = o.customer_id
    WHERE sign != 0
    GROUP BY customer_id, fleet_id, device_id, iccid, plmn, state, at, sign
) AS u
ASOF LEFT JOIN sim_plan_terms AS t ON t.iccid = u.iccid AND t.since <= u.at
GROUP BY customer_id, fleet_id, device_id, iccid, plmn, state, has_terms, plan_id, valid_from
HAVING heartbeats + modem_bytes + gateway_bytes > 0;

-- What each SIM used and cost in the billing month of its customer, a row for each span of conditions that it had: docs/reports.md says by
-- which rules. `priced` is false where no conditions are known; its cost is then 0. `share` is the part of the month for which the fee is due.
CREATE OR REPLACE VIEW sim_months AS
WITH
    used AS (SELECT * FROM billing_usage(month = {month:Date})),
    months AS (SELECT customer_id, from_at, to_at FROM billing_months(month = {month:Date})),
    owners AS
    (
        SELECT iccid, argMax((customer_id, fleet_id, device_id), (rank, weight)) AS owner
        FROM
        (
            SELECT d.iccid_expected AS iccid, o.customer_id AS customer_id, o.fleet_id AS fleet_id, o.device_id AS device_id,
                2 AS rank, toUInt64(0) AS weight
            FROM devices AS d INNER JOIN device_owners AS o ON o.device_id = d.device_id
            WHERE d.iccid_expected != ''
            UNION ALL
            SELECT s.iccid, o.customer_id, o.fleet_id, s.device_id, 1, toUInt64(toUnixTimestamp(max(s.last_seen)))
            FROM sim_sightings AS s LEFT JOIN device_owners AS o ON o.device_id = s.device_id
            GROUP BY s.iccid, o.customer_id, o.fleet_id, s.device_id
        )
        GROUP BY iccid
    ),
    due AS
    (
        SELECT
            o.owner.1 AS customer_id, o.owner.2 AS fleet_id, o.owner.3 AS device_id, t.iccid AS iccid, toString(t.plan_id) AS plan_id,
            t.valid_from AS valid_from,
            sum(greatest(dateDiff('second',
                greatest(t.since, s.since, toDateTime64(m.from_at, 3, 'UTC')),
                least(t.until, s.until, toDateTime64(m.to_at, 3, 'UTC'))), 0)) AS due_s
        FROM sim_plan_terms AS t
        INNER JOIN (SELECT * FROM sim_state_spans WHERE state IN ('testing', 'live', 'paused')) AS s ON s.iccid = t.iccid
        LEFT JOIN owners AS o ON o.iccid = t.iccid
        INNER JOIN months AS m ON m.customer_id = o.owner.1
        WHERE t.since < m.to_at AND t.until > m.from_at AND s.since < m.to_at AND s.until > m.from_at
        GROUP BY customer_id, fleet_id, device_id, iccid, plan_id, valid_from
    )
SELECT
    customer_id, fleet_id, device_id, iccid, plan_id, valid_from, priced, plan_name, carrier, kind, currency, mb_bytes, from_at, to_at,
    heartbeats, modem_bytes, gateway_bytes, bytes, mb, share, fee, included_mb,
    multiIf(
        kind = 'pooled', if(pool_mb > pool_included_mb AND pool_mb > 0,
            CAST(CAST(pool_mb - pool_included_mb AS Decimal(38, 6)) * CAST(mb AS Decimal(38, 6)) / pool_mb AS Decimal(38, 6)), toDecimal128(0, 6)),
        greatest(mb - included_mb, toDecimal128(0, 6))) AS overage_mb,
    toDecimal64(multiIf(
        NOT priced, toDecimal128(0, 6),
        kind = 'tiered', tier_cost,
        CAST(overage_mb * price_per_mb AS Decimal(38, 6))), 6) AS overage,
    toDecimal64(fee + overage, 6) AS cost
FROM
(
    SELECT
        g.customer_id AS customer_id, g.fleet_id AS fleet_id, g.device_id AS device_id, g.iccid AS iccid, g.plan_id AS plan_id,
        g.valid_from AS valid_from, g.due_s AS due_s, g.heartbeats AS heartbeats, g.modem_bytes AS modem_bytes, g.gateway_bytes AS gateway_bytes,
        m.from_at AS from_at,
        m.to_at AS to_at,
        p.plan_id != '' AS priced,
        p.name AS plan_name,
        toString(p.carrier) AS carrier,
        if(priced, toString(p.kind), '') AS kind,
        toString(p.currency) AS currency,
        if(p.mb_bytes = 0, 1000000, p.mb_bytes) AS mb_bytes,
        p.price_per_mb AS price_per_mb,
        -- What a carrier counts is nearer to the modem's count; the gateway's stands in where the modem told none.
        if(g.modem_bytes > 0, g.modem_bytes, g.gateway_bytes) AS bytes,
        toDecimal128(bytes, 6) / mb_bytes AS mb,
        toDecimal64(g.due_s, 6) / dateDiff('second', m.from_at, m.to_at) AS share,
        toDecimal64(CAST(toDecimal128(p.monthly_fee, 6) * g.due_s / dateDiff('second', m.from_at, m.to_at) AS Decimal(38, 6)), 6) AS fee,
        CAST(toDecimal128(p.included_mb, 6) * g.due_s / dateDiff('second', m.from_at, m.to_at) AS Decimal(38, 6)) AS included_mb,
        sum(mb) OVER pool AS pool_mb,
        sum(included_mb) OVER pool AS pool_included_mb,
        arraySort(t -> t.1, p.tiers) AS steps,
        arraySum(arrayMap(
            (step, next) -> CAST(greatest(least(mb, next) - greatest(toDecimal128(step.1, 6), included_mb), toDecimal128(0, 6)) * step.2 AS Decimal(38, 6)),
            steps,
            arrayPushBack(arrayMap(step -> toDecimal128(step.1, 6), arrayPopFront(steps)), toDecimal128('1000000000000', 6)))) AS tier_sum,
        if(empty(steps), toDecimal128(0, 6), tier_sum) AS tier_cost
    FROM
    (
        SELECT customer_id, argMax(b.fleet_id, b.bytes) AS fleet_id, argMax(b.device_id, b.bytes) AS device_id, iccid, plan_id, valid_from,
            sum(b.due_s) AS due_s, sum(b.heartbeats) AS heartbeats, sum(b.modem_bytes) AS modem_bytes, sum(b.gateway_bytes) AS gateway_bytes
        FROM
        (
            SELECT customer_id, fleet_id, device_id, iccid, plan_id, valid_from, due_s, toUInt64(0) AS heartbeats, toUInt64(0) AS modem_bytes,
                toUInt64(0) AS gateway_bytes, toUInt64(0) AS bytes
            FROM due
            UNION ALL
            SELECT customer_id, fleet_id, device_id, iccid, plan_id, valid_from, 0, heartbeats, modem_bytes, gateway_bytes, modem_bytes + gateway_bytes + 1
            FROM used
        ) AS b
        GROUP BY customer_id, iccid, plan_id, valid_from
    ) AS g
    INNER JOIN months AS m ON m.customer_id = g.customer_id
    LEFT JOIN plans AS p ON p.plan_id = g.plan_id AND p.valid_from = g.valid_from
    WINDOW pool AS (PARTITION BY g.customer_id, g.plan_id, g.valid_from)
)
