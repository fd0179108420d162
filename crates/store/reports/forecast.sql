-- report: forecast
-- team: finance
-- question: What will each customer have used and cost by the end of the running billing month?
-- unknown: What is to come: new devices, holidays, weather, a firmware that talks more. Method: for each day left the mean of the same weekday in the last 28 days (of all days where that weekday has none); the interval is 95 percent of a normal distribution, from the variance of these days around their weekday's mean, days taken as independent; it is wide or absent where there are few days. Days are those of UTC, and the edges of a month the nearest ones. What is to come is laid on the SIMs as they used in these 28 days; then each plan's rules give the cost. Fees are those of the whole month.
-- parameter: as_of Date = today | the first day that is not known yet
-- parameter: customer String = | its id; empty: all
WITH
    months AS
    (
        SELECT customer_id, month, currency AS customer_currency, toDate(from_at + INTERVAL 12 HOUR, 'UTC') AS first_day, toDate(to_at + INTERVAL 12 HOUR, 'UTC') AS end_day, from_at, to_at
        FROM (SELECT * FROM billing_months(month = toStartOfMonth({as_of:Date})) UNION ALL SELECT * FROM billing_months(month = addMonths(toStartOfMonth({as_of:Date}), -1)))
        WHERE first_day <= {as_of:Date} AND end_day > {as_of:Date} AND ({customer:String} = '' OR customer_id = {customer:String})
    ),
    known AS
    (
        SELECT o.customer_id AS customer_id, d.iccid AS iccid, d.day AS day, if(sum(d.modem_tx_bytes + d.modem_rx_bytes) > 0, sum(d.modem_tx_bytes + d.modem_rx_bytes), sum(d.gateway_tx_bytes + d.gateway_rx_bytes)) AS bytes
        FROM device_days AS d
        LEFT JOIN device_owners AS o ON o.device_id = d.device_id
        WHERE d.day < {as_of:Date} AND d.day >= {as_of:Date} - 62
        GROUP BY customer_id, iccid, day
    ),
    -- A day on which a customer used nothing counts as nothing, from its first day on.
    first_days AS (SELECT customer_id, min(k.day) AS began FROM known AS k WHERE k.day >= {as_of:Date} - 28 GROUP BY customer_id),
    by_day AS
    (
        SELECT customer_id, f.day AS day, toFloat64(sum(k.bytes)) AS bytes
        FROM (SELECT customer_id, arrayJoin(arrayMap(i -> began + i, range(toUInt32({as_of:Date} - began)))) AS day FROM first_days) AS f
        LEFT JOIN known AS k ON k.customer_id = f.customer_id AND k.day = f.day
        GROUP BY customer_id, day
    ),
    weekdays AS (SELECT customer_id, toDayOfWeek(day) AS weekday, avg(b.bytes) AS mean, count() AS days FROM by_day AS b GROUP BY customer_id, weekday),
    spread AS
    (
        SELECT b.customer_id AS customer_id, count() AS days, avg(b.bytes) AS mean,
            -- One degree of freedom goes with each weekday's mean, and too few days leave none.
            if(count() > uniqExact(w.weekday), sum(pow(b.bytes - w.mean, 2)) / (count() - uniqExact(w.weekday)), NULL) AS variance
        FROM by_day AS b INNER JOIN weekdays AS w ON w.customer_id = b.customer_id AND w.weekday = toDayOfWeek(b.day)
        GROUP BY customer_id
    ),
    ahead AS
    (
        SELECT m.customer_id AS customer_id, sum(if(w.days > 0, w.mean, s.mean)) AS expected, count() AS days_left
        FROM (SELECT customer_id, arrayJoin(arrayMap(i -> {as_of:Date} + i, range(toUInt32(end_day - {as_of:Date})))) AS day FROM months) AS m
        LEFT JOIN weekdays AS w ON w.customer_id = m.customer_id AND w.weekday = toDayOfWeek(m.day)
        LEFT JOIN spread AS s ON s.customer_id = m.customer_id
        GROUP BY customer_id
    ),
    so_far AS
    (
        SELECT m.customer_id AS customer_id, k.iccid AS iccid, toFloat64(sumIf(k.bytes, k.day >= m.first_day)) AS bytes,
            toFloat64(sumIf(k.bytes, k.day >= {as_of:Date} - 28)) AS lately,
            lately / nullIf(sum(lately) OVER (PARTITION BY m.customer_id), 0) AS share
        FROM known AS k INNER JOIN months AS m ON m.customer_id = k.customer_id
        GROUP BY customer_id, iccid
    ),
    factors AS
    (
        SELECT m.customer_id AS customer_id, sum(u.bytes) AS used, any(a.expected) AS expected, any(a.days_left) AS days_left, any(s.days) AS days_of_evidence,
            1.96 * sqrt(any(s.variance) * any(a.days_left)) AS half_width,
            [used, used + expected, greatest(used + expected - ifNull(half_width, 0), used), used + expected + ifNull(half_width, 0)] AS totals
        FROM months AS m
        LEFT JOIN so_far AS u ON u.customer_id = m.customer_id
        LEFT JOIN ahead AS a ON a.customer_id = m.customer_id
        LEFT JOIN spread AS s ON s.customer_id = m.customer_id
        GROUP BY customer_id
    ),
    due AS
    (
        SELECT * FROM sim_months(month = toStartOfMonth({as_of:Date})) UNION ALL SELECT * FROM sim_months(month = addMonths(toStartOfMonth({as_of:Date}), -1))
    ),
    cards AS
    (
        SELECT
            d.customer_id AS customer_id, d.iccid AS iccid, d.plan_id AS plan_id, d.valid_from AS valid_from, d.kind AS kind, d.currency AS currency, d.fee AS fee,
            toFloat64(d.included_mb) AS included_mb, toFloat64(p.price_per_mb) AS price, arraySort(t -> t.1, p.tiers) AS steps, d.mb_bytes AS mb_bytes,
            -- The whole usage of a SIM with several plans in the month goes with the one that it has longest.
            if(row_number() OVER (PARTITION BY d.customer_id, d.iccid ORDER BY d.share DESC, d.plan_id) = 1, (ifNull(u.bytes, 0), ifNull(u.share, 0)), (0, 0)) AS moved
        FROM due AS d
        INNER JOIN months AS m ON m.customer_id = d.customer_id AND m.from_at = d.from_at
        LEFT JOIN so_far AS u ON u.customer_id = d.customer_id AND u.iccid = d.iccid
        LEFT JOIN plans AS p ON p.plan_id = d.plan_id AND p.valid_from = d.valid_from
    ),
    scaled AS
    (
        SELECT c.customer_id AS customer_id, c.plan_id AS plan_id, c.valid_from AS valid_from, c.kind AS kind, c.currency AS currency, nth,
            toFloat64(sum(c.fee)) AS fee,
            sum((c.moved.1 + (f.totals[nth] - f.used) * c.moved.2) / c.mb_bytes AS mb) AS plan_mb,
            sum(c.included_mb) AS plan_included_mb, any(c.price) AS plan_price,
            sumIf(greatest(mb - c.included_mb, 0) * c.price, c.kind = 'per_mb') AS single,
            sumIf(arraySum(arrayMap((step, next) -> greatest(least(mb, next) - greatest(toFloat64(step.1), c.included_mb), 0) * toFloat64(step.2),
                c.steps, if(empty(c.steps), CAST([], 'Array(Float64)'), arrayPushBack(arrayMap(step -> toFloat64(step.1), arrayPopFront(c.steps)), 1e12)))), c.kind = 'tiered') AS tiered
        FROM cards AS c
        INNER JOIN factors AS f ON f.customer_id = c.customer_id
        ARRAY JOIN [1, 2, 3, 4] AS nth
        GROUP BY customer_id, plan_id, valid_from, kind, currency, nth
    ),
    costs AS
    (
        SELECT customer_id, currency, groupArray((nth, amount)) AS amounts
        FROM
        (
            SELECT customer_id, currency, nth,
                sum(s.fee + s.single + s.tiered + if(s.kind = 'pooled', greatest(s.plan_mb - s.plan_included_mb, 0) * s.plan_price, 0)) AS amount
            FROM scaled AS s
            GROUP BY customer_id, currency, nth
        )
        GROUP BY customer_id, currency
    )
SELECT
    m.customer_id AS customer_id, m.from_at AS from_at, m.to_at AS to_at, f.days_left AS days_left, f.days_of_evidence AS days_of_evidence,
    round(f.used / 1000000, 3) AS mb_so_far,
    round(f.totals[2] / 1000000, 3) AS mb_forecast,
    if(f.half_width IS NULL, NULL, round(f.totals[3] / 1000000, 3)) AS mb_low,
    if(f.half_width IS NULL, NULL, round(f.totals[4] / 1000000, 3)) AS mb_high,
    toDecimal64(round(arrayFirst(a -> a.1 = 1, c.amounts).2, 2), 2) AS cost_so_far,
    toDecimal64(round(arrayFirst(a -> a.1 = 2, c.amounts).2, 2), 2) AS cost_forecast,
    if(f.half_width IS NULL, NULL, toDecimal64(round(arrayFirst(a -> a.1 = 3, c.amounts).2, 2), 2)) AS cost_low,
    if(f.half_width IS NULL, NULL, toDecimal64(round(arrayFirst(a -> a.1 = 4, c.amounts).2, 2), 2)) AS cost_high,
    c.currency AS currency,
    if(b.customer_id = '', NULL, toDecimal64(b.amount, 2)) AS budget
FROM months AS m
INNER JOIN factors AS f ON f.customer_id = m.customer_id
INNER JOIN costs AS c ON c.customer_id = m.customer_id
LEFT JOIN (SELECT * FROM budgets WHERE fleet_id = '') AS b ON b.customer_id = m.customer_id AND b.month = m.month AND b.currency = c.currency
ORDER BY customer_id, currency
