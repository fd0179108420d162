-- report: usage
-- team: finance
-- question: What was used and what did it cost in a billing month, by plan, network, country, fleet, customer, SIM or device?
-- unknown: Costs of a SIM are laid on its networks and devices in proportion to what it used there. Both counts stand side by side; the modem's is taken for the cost, and the gateway's where the modem told none. The country is that of the network's code; what roaming costs is not known. Usage is settled within an hour of its arrival, and corrected when something arrives late. What changes in the registry counts within minutes in this month, the last and the next, and within an hour in older ones.
-- parameter: month Date = today | the month in which the billing month begins
-- parameter: by OneOf(plan,network,plan_and_network,country,fleet,customer,sim,device,state) = plan | a row for each of these
-- parameter: customer String = | its id; empty: all
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
    -- What was used is in the costs, part by part; a cost without usage has one part, the whole.
    SELECT
        customer_id, part.1 AS fleet_id, part.2 AS device_id, iccid, part.3 AS plmn, part.4 AS state, plan_id, part.5 AS heartbeats, part.6 AS modem_bytes, part.7 AS gateway_bytes, currency,
        if(c.bytes = 0, toDecimal128(c.cost, 6), CAST(toDecimal128(c.cost, 6) * if(c.modem_bytes > 0, part.6, part.7) / c.bytes AS Decimal(38, 6))) AS cost
    FROM sim_months(month = {month:Date}) AS c
    ARRAY JOIN if(empty(c.parts), [(c.fleet_id, c.device_id, '', '', toUInt64(0), toUInt64(0), toUInt64(0))], c.parts) AS part
    WHERE {customer:String} = '' OR c.customer_id = {customer:String}
) AS l
GROUP BY key, currency
ORDER BY cost DESC, modem_bytes DESC, key
