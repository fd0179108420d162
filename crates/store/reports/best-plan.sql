-- report: best-plan
-- team: finance
-- question: Which plan would have been the cheapest for each SIM, by what it used in a month?
-- unknown: One month is no promise for the next. Plans are those of the SIM's carrier (or without one), valid on the month's first day, in the same currency; a pooled plan is taken as if the SIM were alone in its pool, which makes it look dearer where others leave room. What changing costs is not known. SIMs that had several plans in the month are left out.
-- parameter: month Date = last_month | the month in which the billing month begins
-- parameter: saving_min Float64 = 0.01 | leave out SIMs that would save less
WITH
    cards AS
    (
        SELECT c.*, s.carrier AS sim_carrier
        FROM (SELECT *, count() OVER (PARTITION BY customer_id, iccid) AS plans_had FROM sim_months(month = {month:Date})) AS c
        LEFT JOIN (SELECT iccid, toString(carrier) AS carrier FROM sims) AS s ON s.iccid = c.iccid
        WHERE plans_had = 1 AND priced AND share > 0
    ),
    offers AS
    (
        SELECT
            c.customer_id AS customer_id, c.iccid AS iccid, p.plan_id AS plan_id, arraySort(t -> t.1, p.tiers) AS steps,
            toDecimal128(c.bytes, 6) / p.mb_bytes AS mb,
            CAST(toDecimal128(p.included_mb, 6) * c.share AS Decimal(38, 6)) AS included_mb,
            CAST(toDecimal128(p.monthly_fee, 6) * c.share AS Decimal(38, 6)) AS fee,
            toDecimal64(fee + multiIf(
                p.kind != 'tiered', CAST(greatest(mb - included_mb, toDecimal128(0, 6)) * p.price_per_mb AS Decimal(38, 6)),
                empty(steps), toDecimal128(0, 6),
                arraySum(arrayMap(
                    (step, next) -> CAST(greatest(least(mb, next) - greatest(toDecimal128(step.1, 6), included_mb), toDecimal128(0, 6)) * step.2 AS Decimal(38, 6)),
                    steps, arrayPushBack(arrayMap(step -> toDecimal128(step.1, 6), arrayPopFront(steps)), toDecimal128('1000000000000', 6))))), 4) AS cost
        FROM (SELECT customer_id, iccid, bytes, share, currency, sim_carrier, from_at FROM cards) AS c
        INNER JOIN plans AS p ON toString(p.currency) = c.currency
        WHERE (p.carrier = '' OR c.sim_carrier = '' OR p.carrier = c.sim_carrier)
            AND p.valid_from <= toDate(c.from_at + INTERVAL 12 HOUR) AND (p.valid_to IS NULL OR p.valid_to > toDate(c.from_at + INTERVAL 12 HOUR))
    )
SELECT
    c.customer_id AS customer_id, c.fleet_id AS fleet_id, c.device_id AS device_id, c.iccid AS iccid, toDecimal128(c.mb, 3) AS mb,
    c.plan_id AS plan_id, toDecimal64(c.cost, 4) AS cost, o.best_plan AS best_plan, o.best_cost AS best_cost, toDecimal64(c.cost - o.best_cost, 4) AS saving, c.currency AS currency
FROM (SELECT customer_id, fleet_id, device_id, iccid, mb, plan_id, cost, currency FROM cards) AS c
INNER JOIN (SELECT customer_id, iccid, argMin(plan_id, (cost, plan_id)) AS best_plan, min(x.cost) AS best_cost FROM offers AS x GROUP BY customer_id, iccid) AS o
    ON o.customer_id = c.customer_id AND o.iccid = c.iccid
WHERE o.best_plan != c.plan_id AND c.cost - o.best_cost >= toDecimal64({saving_min:Float64}, 4)
ORDER BY saving DESC, iccid
