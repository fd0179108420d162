-- report: cost-vs-budget
-- team: finance
-- question: What did each customer and each fleet cost in a month, against its budget?
-- unknown: A month that is not over yet has its fees whole and its usage so far (`forecast` looks ahead). Costs in another currency than the budget's stand in a line of their own, without it. What has neither customer nor fleet stands as empty.
-- parameter: month Date = today | the month in which the billing month begins
-- parameter: customer String = | its id; empty: all
WITH
    costs AS (SELECT * FROM sim_months(month = {month:Date}) WHERE {customer:String} = '' OR customer_id = {customer:String}),
    spent AS
    (
        SELECT 'customer' AS scope, customer_id AS id, currency, uniqExact(c.iccid) AS sims, sum(c.mb) AS mb, sum(c.fee) AS fees, sum(c.overage) AS overage, sum(c.cost) AS cost
        FROM costs AS c GROUP BY id, currency
        UNION ALL
        SELECT 'fleet', fleet_id AS id, currency, uniqExact(c.iccid), sum(c.mb), sum(c.fee), sum(c.overage), sum(c.cost)
        FROM costs AS c WHERE fleet_id != '' GROUP BY id, currency
    ),
    planned AS
    (
        SELECT if(b.fleet_id = '', 'customer', 'fleet') AS scope, if(b.fleet_id = '', b.customer_id, b.fleet_id) AS id, toString(b.currency) AS currency, b.amount AS budget
        FROM budgets AS b
        LEFT JOIN fleets AS f ON f.fleet_id = b.fleet_id
        WHERE b.month = toStartOfMonth({month:Date}) AND ({customer:String} = '' OR b.customer_id = {customer:String} OR f.customer_id = {customer:String})
    )
SELECT
    scope,
    id,
    currency,
    sum(x.sims) AS sims,
    toDecimal128(sum(x.mb), 3) AS mb,
    toDecimal64(sum(x.fees), 2) AS fees,
    toDecimal64(sum(x.overage), 2) AS overage,
    toDecimal64(sum(x.cost), 2) AS cost,
    toDecimal64(max(x.budget), 2) AS budget,
    toDecimal64(max(x.budget) - sum(x.cost), 2) AS left,
    round(toFloat64(sum(x.cost)) / nullIf(toFloat64(max(x.budget)), 0), 4) AS used_share,
    multiIf(budget IS NULL, 'no budget', sum(x.cost) > max(x.budget), 'over', used_share > 0.9, 'close', 'within') AS verdict
FROM
(
    SELECT scope, id, currency, sims, mb, toDecimal128(fees, 6) AS fees, toDecimal128(overage, 6) AS overage, toDecimal128(cost, 6) AS cost, CAST(NULL AS Nullable(Decimal(38, 6))) AS budget FROM spent
    UNION ALL
    SELECT scope, id, currency, 0, toDecimal128(0, 6), toDecimal128(0, 6), toDecimal128(0, 6), toDecimal128(0, 6), toNullable(toDecimal128(budget, 6)) FROM planned
) AS x
GROUP BY scope, id, currency
ORDER BY scope, id, currency
