-- report: payback
-- team: finance
-- question: When has the connectivity of each fleet paid for itself, and what does it return in a year?
-- unknown: What a ride or a minute online is worth stands in the registry: an estimate of people. Rides are what the registry says, not what was ridden. A minute within a session counts as online, silent or not. Purchase is that of the devices in service by the month's end; work, support and depreciation are not in it. One month stands for all.
-- parameter: month Date = last_month | the month in which the billing month begins
WITH
    months AS (SELECT customer_id, currency, from_at, to_at FROM billing_months(month = {month:Date}) WHERE customer_id != ''),
    costs AS (SELECT fleet_id, sum(c.cost) AS cost, uniqExact(c.currency) AS currencies FROM sim_months(month = {month:Date}) AS c GROUP BY fleet_id),
    online AS
    (
        SELECT o.fleet_id AS fleet_id, sum(greatest(dateDiff('second',
            greatest(s.started_at, toDateTime64(m.from_at, 3, 'UTC')),
            least(ifNull(s.ended_at, now64(3)), ifNull(s.next_started_at, now64(3)), toDateTime64(m.to_at, 3, 'UTC'))), 0)) / 60 AS minutes
        FROM sessions AS s
        INNER JOIN device_owners AS o ON o.device_id = s.device_id
        INNER JOIN months AS m ON m.customer_id = o.customer_id
        WHERE s.started_at < m.to_at AND (s.ended_at IS NULL OR s.ended_at > m.from_at)
        GROUP BY fleet_id
    ),
    bought AS
    (
        SELECT o.fleet_id AS fleet_id, o.customer_id AS customer_id, any(o.fleet_name) AS fleet, any(m.currency) AS currency, any(m.from_at) AS from_at, any(m.to_at) AS to_at, count() AS devices,
            countIf(d.purchase_cost IS NOT NULL) AS devices_with_cost, toFloat64(sum(ifNull(d.purchase_cost, toDecimal64(0, 6)))) AS purchase
        FROM devices AS d
        INNER JOIN device_owners AS o ON o.device_id = d.device_id
        INNER JOIN months AS m ON m.customer_id = o.customer_id
        WHERE o.fleet_id != '' AND (d.in_service_since IS NULL OR d.in_service_since < toDate(m.to_at))
        GROUP BY fleet_id, customer_id
    )
SELECT
    b.fleet_id AS fleet_id, b.fleet AS fleet, b.customer_id AS customer_id, b.devices AS devices, b.devices_with_cost AS devices_with_cost,
    toDecimal64(round(b.purchase, 2), 2) AS purchase,
    toDecimal64(round(toFloat64(c.cost), 2), 2) AS cost_of_month,
    toDecimal64(round(b.devices * toFloat64(ifNull(f.rides_per_day, toDecimal64(0, 6))) * toFloat64(ifNull(f.value_per_ride, toDecimal64(0, 6))) * dateDiff('hour', b.from_at, b.to_at) / 24
        + if(f.rides_per_day IS NULL OR f.value_per_ride IS NULL, ifNull(n.minutes, 0) * toFloat64(ifNull(f.value_per_minute, toDecimal64(0, 6))), 0), 2), 2) AS value_of_month,
    value_of_month - cost_of_month AS net_of_month,
    if(net_of_month > 0, round(b.purchase / toFloat64(net_of_month), 1), NULL) AS payback_months,
    round(100 * (12 * toFloat64(net_of_month) - b.purchase) / nullIf(b.purchase, 0), 1) AS return_of_first_year_percent,
    b.currency AS currency,
    multiIf(c.currencies > 1, 'costs in several currencies: not comparable', f.value_per_ride IS NULL AND f.value_per_minute IS NULL, 'the registry says no value', '') AS note
FROM bought AS b
LEFT JOIN fleets AS f ON f.fleet_id = b.fleet_id
LEFT JOIN costs AS c ON c.fleet_id = b.fleet_id
LEFT JOIN online AS n ON n.fleet_id = b.fleet_id
ORDER BY fleet_id
