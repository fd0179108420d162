-- report: usage
-- team: finance
-- question: What was used and what did it cost in a billing month, by plan, network, country, fleet, customer, SIM or device?
-- unknown: Costs of a SIM are laid on its networks and devices in proportion to what it used there. Both counts stand side by side; the modem's is taken for the cost, and the gateway's where the modem told none. The country is that of the network's code; what roaming costs is not known. Usage is settled a minute or so after it arrived, and corrected when something arrives late.
-- parameter: month Date = today | the month in which the billing month begins
-- parameter: by OneOf(plan,network,plan_and_network,country,fleet,customer,sim,device,state) = plan | a row for each of these
-- parameter: customer String = | its id; empty: all
WITH
    used AS
    (
        SELECT customer_id, fleet_id, device_id, iccid, plmn, state, plan_id, valid_from, heartbeats, modem_bytes, gateway_bytes
        FROM billing_usage(month = {month:Date})
        WHERE {customer:String} = '' OR customer_id = {customer:String}
    ),
    costs AS (SELECT customer_id, iccid, plan_id, valid_from, fleet_id, device_id, currency, cost, bytes, modem_bytes FROM sim_months(month = {month:Date}) WHERE {customer:String} = '' OR customer_id = {customer:String})
SELECT
    multiIf({by:String} = 'network', plmn, {by:String} = 'plan_and_network', concat(plan_id, ' / ', plmn), {by:String} = 'country', substring(plmn, 1, 3), {by:String} = 'fleet', fleet_id,
        {by:String} = 'customer', customer_id, {by:String} = 'sim', iccid, {by:String} = 'device', device_id, {by:String} = 'state', state, plan_id) AS key,
    currency,
    uniqExactIf(iccid, iccid != '') AS sims,
    uniqExactIf(device_id, device_id != '') AS devices,
    sum(l.heartbeats) AS heartbeats,
    sum(l.modem_bytes) AS modem_bytes,
    sum(l.gateway_bytes) AS gateway_bytes,
    toInt64(sum(l.modem_bytes)) - toInt64(sum(l.gateway_bytes)) AS difference_bytes,
    toDecimal64(sum(l.cost), 4) AS cost
FROM
(
    SELECT
        u.customer_id AS customer_id, u.fleet_id AS fleet_id, u.device_id AS device_id, u.iccid AS iccid, u.plmn AS plmn, u.state AS state, u.plan_id AS plan_id,
        u.heartbeats AS heartbeats, u.modem_bytes AS modem_bytes, u.gateway_bytes AS gateway_bytes, c.currency AS currency,
        if(c.bytes = 0, toDecimal128(0, 6), CAST(toDecimal128(c.cost, 6) * if(c.modem_bytes > 0, u.modem_bytes, u.gateway_bytes) / c.bytes AS Decimal(38, 6))) AS cost
    FROM used AS u
    LEFT JOIN costs AS c ON c.customer_id = u.customer_id AND c.iccid = u.iccid AND c.plan_id = u.plan_id AND c.valid_from = u.valid_from
    UNION ALL
    SELECT customer_id, fleet_id, device_id, iccid, '', '', plan_id, 0, 0, 0, currency, toDecimal128(cost, 6) FROM costs WHERE bytes = 0
) AS l
GROUP BY key, currency
ORDER BY cost DESC, modem_bytes DESC, key
