-- The months of touched devices, made anew from their days. Parameters: run, first, last (devices), late, day (none before). Grouped in the
-- order in which days stand, so that memory is bounded.
INSERT INTO usage_months
SELECT
    toStartOfMonth(day) AS month, device_id, iccid, plmn, state,
    groupArrayIf(toUInt8(toDayOfMonth(day) - 1), moved) AS days,
    groupArrayIf(d.heartbeats, moved) AS heartbeats,
    groupArrayIf(d.modem_bytes, moved) AS modem_bytes,
    groupArrayIf(d.gateway_bytes, moved) AS gateway_bytes,
    {run:UInt64} AS settled
FROM
(
    SELECT device_id, day, iccid, plmn, state, heartbeats, modem_tx_bytes + modem_rx_bytes AS modem_bytes, gateway_tx_bytes + gateway_rx_bytes AS gateway_bytes,
        heartbeats + modem_bytes + gateway_bytes > 0 AS moved
    FROM usage_days FINAL
    WHERE device_id >= {first:String} AND device_id <= {last:String} AND day >= toStartOfMonth(toDate({day:UInt16}))
        AND device_id IN (SELECT t.device_id FROM settle_touched AS t WHERE t.run = {run:UInt64} GROUP BY t.device_id HAVING max(t.late) = {late:UInt8})
) AS d
GROUP BY device_id, month, iccid, plmn, state
SETTINGS optimize_aggregation_in_order = 1
