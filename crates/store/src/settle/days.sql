-- The days of touched devices, made anew from their hours. Parameters: run, first, last (devices), late, day (none before).
INSERT INTO usage_days
WITH
    touched AS
    (
        SELECT t.device_id AS device_id, toStartOfDay(min(t.from_hour), 'UTC') AS from_day FROM settle_touched AS t
        WHERE t.run = {run:UInt64} AND t.device_id >= {first:String} AND t.device_id <= {last:String}
        GROUP BY device_id HAVING max(t.late) = {late:UInt8}
    )
SELECT
    device_id, day, iccid, plmn, state,
    sumIf(r.heartbeats, r.source = 'modem') AS heartbeats,
    sumIf(r.tx_bytes, r.source = 'modem') AS modem_tx_bytes,
    sumIf(r.rx_bytes, r.source = 'modem') AS modem_rx_bytes,
    sumIf(r.tx_bytes, r.source = 'gateway') AS gateway_tx_bytes,
    sumIf(r.rx_bytes, r.source = 'gateway') AS gateway_rx_bytes,
    sumIf(r.messages, r.source = 'gateway') AS gateway_messages,
    {run:UInt64} AS settled
FROM
(
    SELECT u.device_id AS device_id, toDate(u.hour, 'UTC') AS day, u.iccid AS iccid, u.plmn AS plmn, u.state AS state, u.source AS source,
        u.heartbeats AS heartbeats, u.tx_bytes AS tx_bytes, u.rx_bytes AS rx_bytes, u.messages AS messages
    FROM
    (
        SELECT device_id, hour, iccid, plmn, state, source, heartbeats, tx_bytes, rx_bytes, messages FROM usage_hours FINAL
        WHERE device_id IN (SELECT device_id FROM touched) AND hour >= toDateTime(toDate({day:UInt16}), 'UTC')
    ) AS u
    INNER JOIN touched AS t ON t.device_id = u.device_id
    WHERE u.hour >= t.from_day
    UNION ALL
    -- What was settled before and may have nothing any more.
    SELECT d.device_id, d.day, d.iccid, d.plmn, d.state, CAST('modem', 'Enum8(\'modem\' = 1, \'gateway\' = 2)'), 0, 0, 0, 0
    FROM
    (
        SELECT device_id, day, iccid, plmn, state FROM usage_days
        WHERE device_id IN (SELECT device_id FROM touched) AND day >= toDate({day:UInt16})
    ) AS d
    INNER JOIN touched AS t ON t.device_id = d.device_id
    WHERE toDateTime(d.day, 'UTC') >= t.from_day
) AS r
GROUP BY device_id, day, iccid, plmn, state
