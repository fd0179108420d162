-- report: data-need-by-feature
-- team: product
-- question: Which feature of a heartbeat needs how much data: battery, position, radio, SIM, usage, others?
-- unknown: An estimate: each field that stands in a row is counted as the JSON that tells it (name, quotes, colon, comma, value without needless digits), plus the topic-independent rest as `frame`. What a device wrote otherwise, MQTT, TLS and TCP are not in it; `data-need` measures those. Heartbeats of one device in `one_in` are looked at.
-- parameter: days UInt16 = 7 | how far back
-- parameter: one_in UInt16 = 1 | look at one device of so many
WITH
    (name, value) -> if(value IS NULL OR value = '', 0, length(name) + 4 + length(value)) AS number,
    (name, value) -> if(value IS NULL OR value = '', 0, length(name) + 6 + length(value)) AS text,
    -- Name, quotes, colon, braces, comma of the group (its last field has no comma).
    (name, inner) -> if(inner = 0, 0, length(name) + 5 + inner) AS field_group,
    told AS
    (
        SELECT
            h.device_id AS device_id,
            [
                ('frame', 1 + number('ts', if(h.clock = 'gateway', '', '1700000000000')) + number('seq', toString(h.sequence)) + text('boot_id', h.boot_id) + number('uptime_s', toString(h.uptime_s)) + number('next_s', toString(h.next_s))),
                ('firmware', text('firmware', toString(h.firmware))),
                ('state', text('state', toString(h.state))),
                ('battery', field_group('battery', number('percent', toString(h.battery_percent)) + number('millivolts', toString(h.battery_millivolts)) + number('charging', if(h.battery_charging, 'true', 'false')) * (h.battery_charging IS NOT NULL))),
                ('position', field_group('position', number('lat', toString(h.latitude_deg)) + number('lon', toString(h.longitude_deg)) + number('alt_m', toString(h.altitude_m)) + number('speed_mps', toString(h.speed_mps)) + number('accuracy_m', toString(h.accuracy_m)))),
                ('radio', field_group('radio', text('rat', toString(h.rat)) + text('plmn', toString(h.plmn)) + number('cell_id', toString(h.cell_id)) + number('tac', toString(h.tac)) + number('rssi_dbm', toString(h.rssi_dbm)) + number('rsrp_dbm', toString(h.rsrp_dbm)) + number('rsrq_db', toString(h.rsrq_db)) + number('sinr_db', toString(h.sinr_db)))),
                ('SIM', field_group('sim', text('iccid', h.iccid) + text('imsi', h.imsi) + text('imei', h.imei))),
                ('usage', field_group('usage', number('tx_bytes', toString(h.modem_tx_bytes)) + number('rx_bytes', toString(h.modem_rx_bytes)))),
                ('others', length(h.extra))
            ] AS features
        FROM heartbeats AS h FINAL
        WHERE h.received_at >= now64(3) - toIntervalDay({days:UInt16}) AND cityHash64(h.device_id) % greatest({one_in:UInt16}, 1) = 0
    ),
    (SELECT count() FROM told) AS heartbeats
SELECT
    part.1 AS feature,
    countIf(part.2 > 0) AS told_in,
    round(told_in / nullIf(heartbeats, 0), 4) AS told_share,
    round(avgIf(part.2, part.2 > 0), 1) AS bytes_each_time,
    sum(part.2) AS bytes,
    round(bytes / nullIf(heartbeats, 0), 1) AS bytes_per_heartbeat,
    round(bytes / nullIf(sum(bytes) OVER (), 0), 4) AS share,
    uniqExactIf(device_id, part.2 > 0) AS devices
FROM told
ARRAY JOIN features AS part
GROUP BY feature
ORDER BY bytes DESC, feature
