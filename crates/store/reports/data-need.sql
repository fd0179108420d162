-- report: data-need
-- team: product
-- question: What needs how much data, by scooter state: heartbeats in, downlink out, transport overhead?
-- unknown: `transport` is the modem's count less what the gateway saw: TCP, TLS and IP headers, repetitions, lookups, and whatever else the modem sends. Days on which a modem told no count have no transport, and are left out of it. A state counts from the heartbeat that told it to the next. Before the days are settled (a minute or so) their usage is missing.
-- parameter: until Date = tomorrow | the first day that does not count any more
-- parameter: days UInt16 = 30 | so many days before it
WITH
    used AS
    (
        SELECT
            if(d.state = '', 'not told', toString(d.state)) AS state, uniqExact(d.device_id, d.day) AS device_days, sum(d.heartbeats) AS heartbeats,
            sum(d.gateway_tx_bytes) AS in_bytes, sum(d.gateway_rx_bytes) AS out_bytes,
            sumIf(toInt64(d.modem_tx_bytes + d.modem_rx_bytes) - toInt64(d.gateway_tx_bytes + d.gateway_rx_bytes), d.modem_tx_bytes + d.modem_rx_bytes > 0) AS transport_bytes
        FROM device_days AS d
        WHERE d.day >= {until:Date} - {days:UInt16} AND d.day < {until:Date}
        GROUP BY state
    )
SELECT
    state,
    part.1 AS category,
    part.2 AS bytes,
    round(bytes / nullIf(sum(bytes) OVER (), 0), 4) AS share,
    round(bytes / nullIf(device_days, 0)) AS bytes_per_device_day,
    round(bytes / nullIf(heartbeats, 0), 1) AS bytes_per_heartbeat,
    heartbeats,
    device_days
FROM used
ARRAY JOIN [('heartbeats in', toInt64(in_bytes)), ('downlink out', toInt64(out_bytes)), ('transport', transport_bytes)] AS part
ORDER BY bytes DESC, state, category
