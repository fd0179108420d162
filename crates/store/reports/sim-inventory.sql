-- report: sim-inventory
-- team: operations
-- question: How many SIMs are in which state, of which carrier and plan, since how long, and for what fee?
-- unknown: States are what people said; `sim-conflicts` tells which SIMs do otherwise. A SIM that was never given a state counts as inventory, of unknown age. The fee counts SIMs that are testing, live or paused, at what their plan says today.
SELECT
    s.state AS state, s.carrier AS carrier, s.plan_id AS plan_id,
    count() AS sims,
    countIf(dateDiff('day', s.state_since, now64(3)) < 30) AS under_30_days,
    countIf(dateDiff('day', s.state_since, now64(3)) BETWEEN 30 AND 89) AS days_30_to_89,
    countIf(dateDiff('day', s.state_since, now64(3)) BETWEEN 90 AND 364) AS days_90_to_364,
    countIf(dateDiff('day', s.state_since, now64(3)) >= 365) AS days_365_and_more,
    countIf(s.state_since IS NULL) AS age_unknown,
    min(s.state_since) AS oldest_since,
    toDecimal64(sumIf(toDecimal128(t.monthly_fee, 6), s.state IN ('testing', 'live', 'paused')), 2) AS monthly_fees,
    t.currency AS currency
FROM sims AS s
LEFT JOIN sims_at(at = now64(3)) AS t ON t.iccid = s.iccid
GROUP BY state, carrier, plan_id, currency
ORDER BY state, carrier, plan_id
