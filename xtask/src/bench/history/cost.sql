-- A month of the fleet by plan and network: what the modems counted, and what that costs at the conditions that each SIM had when the month ended. Tiers
-- and pools are for the reports; here it is what is included, and the price of what is above.
SELECT
    t.plan_id AS plan_id,
    u.plmn AS plmn,
    t.currency AS currency,
    uniqExact(u.iccid) AS sims,
    sum(u.bytes) AS bytes,
    round(sum(greatest(u.bytes / t.mb_bytes - toFloat64(t.included_mb), 0) * toFloat64(t.price_per_mb)) + sum(toFloat64(t.monthly_fee)), 2) AS cost
FROM
(
    SELECT b.iccid AS iccid, b.plmn AS plmn, sum(b.modem_tx_bytes + b.modem_rx_bytes) AS bytes
    FROM usage_between(from = '{from}', to = '{to}') AS b
    GROUP BY iccid, plmn
) AS u
INNER JOIN (SELECT * FROM sim_plan_terms WHERE since < '{to}' AND until >= '{to}') AS t ON t.iccid = u.iccid
GROUP BY plan_id, plmn, currency
ORDER BY plan_id, plmn
