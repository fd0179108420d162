-- report: invoice
-- team: product
-- question: What does each customer pay for a billing month?
-- unknown: A month that is not over yet has its fees whole and its usage so far; heartbeats that come late correct the past, so an invoice is made some days after. Usage of devices that are in no customer's fleet is on no invoice. Amounts of plans in another currency than the customer's stand apart: nothing is converted.
-- parameter: month Date = last_month | the month in which the billing month begins
-- parameter: customer String = | its id; empty: all
WITH
    months AS (SELECT * FROM billing_months(month = {month:Date}) WHERE customer_id != '' AND ({customer:String} = '' OR customer_id = {customer:String})),
    usage AS
    (
        SELECT
            c.customer_id AS customer_id, s.fleet_id AS fleet_id, s.plan_id AS plan_id, if(s.currency = '', c.currency, s.currency) AS currency,
            uniqExact(s.iccid) AS units, sum(s.mb) AS mb, sum(s.fee) AS fees, sum(s.overage) AS overage,
            countIf(NOT s.priced) AS unpriced,
            round(toDecimal64(sum(s.cost), 6) * (100 + ifNull(any(c.markup_percent), toDecimal64(0, 6))) / 100, 2) AS amount
        FROM sim_months(month = {month:Date}) AS s
        INNER JOIN months AS c ON c.customer_id = s.customer_id
        GROUP BY customer_id, fleet_id, plan_id, currency
    ),
    fees AS
    (
        SELECT c.customer_id AS customer_id, o.fleet_id AS fleet_id, c.currency AS currency, count() AS units,
            round(any(assumeNotNull(c.fee_per_device)) * count(), 2) AS amount
        FROM months AS c
        INNER JOIN device_owners AS o ON o.customer_id = c.customer_id
        INNER JOIN devices AS d ON d.device_id = o.device_id
        WHERE c.fee_per_device > 0 AND (d.in_service_since IS NULL OR d.in_service_since < toDate(c.to_at))
        GROUP BY customer_id, fleet_id, currency
    ),
    lines AS
    (
        SELECT 1 AS place, 'usage' AS line, customer_id, fleet_id, plan_id, units, mb, fees, overage, toDecimal64(amount, 2) AS amount, currency,
            if(unpriced > 0, 'without a plan: not priced', '') AS note
        FROM usage
        UNION ALL
        SELECT 2, 'devices', customer_id, fleet_id, '', units, NULL, NULL, NULL, toDecimal64(amount, 2), currency, '' FROM fees
    ),
    sums AS
    (
        SELECT l.customer_id AS customer_id, l.currency AS currency, toDecimal64(sum(l.amount), 2) AS net,
            toDecimal64(round(toDecimal64(sum(l.amount), 6) * ifNull(any(c.tax_percent), toDecimal64(0, 6)) / 100, 2), 2) AS tax, any(c.tax_percent) AS tax_percent
        FROM lines AS l INNER JOIN months AS c ON c.customer_id = l.customer_id
        GROUP BY customer_id, currency
    )
SELECT
    x.customer_id AS customer_id, c.name AS customer, c.from_at AS from_at, c.to_at AS to_at, x.line AS line, x.fleet_id AS fleet_id, x.plan_id AS plan_id,
    x.units AS units, toDecimal128(x.mb, 3) AS mb, toDecimal64(x.fees, 2) AS fees, toDecimal64(x.overage, 2) AS overage,
    x.amount AS amount, x.currency AS currency, x.note AS note
FROM
(
    SELECT place, line, customer_id, fleet_id, plan_id, toNullable(units) AS units, toNullable(mb) AS mb, toNullable(fees) AS fees, toNullable(overage) AS overage, amount, currency, note FROM lines
    UNION ALL
    SELECT 3, 'net', customer_id, '', '', NULL, NULL, NULL, NULL, net, currency, '' FROM sums
    UNION ALL
    SELECT 4, 'tax', customer_id, '', '', NULL, NULL, NULL, NULL, tax, currency, concat(toString(ifNull(tax_percent, toDecimal64(0, 6))), ' %') FROM sums
    UNION ALL
    SELECT 5, 'total', customer_id, '', '', NULL, NULL, NULL, NULL, toDecimal64(net + tax, 2), currency, '' FROM sums
) AS x
INNER JOIN months AS c ON c.customer_id = x.customer_id
ORDER BY customer_id, currency, place, fleet_id, plan_id
