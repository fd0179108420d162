-- The hours of touched devices, a row for each day. Parameters: run, first, last (devices), late, day (none before).
INSERT INTO usage_day_hours
SELECT
    toDate(hour, 'UTC') AS day, iccid, device_id, plmn, state,
    groupArrayIf(toHour(hour, 'UTC'), is_modem) AS modem_hours,
    groupArrayIf(h.heartbeats, is_modem) AS heartbeats,
    groupArrayIf(h.bytes, is_modem) AS modem_bytes,
    groupArrayIf(toHour(hour, 'UTC'), is_gateway) AS gateway_hours,
    groupArrayIf(h.bytes, is_gateway) AS gateway_bytes,
    {run:UInt64} AS settled
FROM
(
    SELECT device_id, hour, iccid, plmn, state, heartbeats, tx_bytes + rx_bytes AS bytes,
        source = 'modem' AND heartbeats + bytes > 0 AS is_modem, source = 'gateway' AND bytes > 0 AS is_gateway
    FROM usage_hours FINAL
    WHERE device_id >= {first:String} AND device_id <= {last:String} AND hour >= toDateTime(toDate({day:UInt16}), 'UTC')
        AND device_id IN (SELECT t.device_id FROM settle_touched AS t WHERE t.run = {run:UInt64} GROUP BY t.device_id HAVING max(t.late) = {late:UInt8})
) AS h
GROUP BY device_id, day, iccid, plmn, state
SETTINGS optimize_aggregation_in_order = 1
