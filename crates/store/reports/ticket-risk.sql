-- report: ticket-risk
-- team: customer success
-- question: Which devices are likely to raise a ticket soon, and why?
-- unknown: The score is a rule of thumb, not a probability: nobody has fitted it to tickets. Points: up to 40 for the share of the time that it was silent or offline, up to 20 for more of it than in the span before, up to 15 for more sessions than one a day (flapping), 10 for a battery under 20 percent that is not charging, 10 for a median RSRP under -110 dBm, 5 for each ticket of the last 90 days (15 at most), 10 for a SIM or modem other than expected, 5 for firmware other than expected. Devices that never connected, and those with an open ticket, are left out.
-- parameter: days UInt16 = 7 | how far back; compared with as many days before
-- parameter: score_min Float64 = 10 | leave out what has less
-- parameter: customer String = | its id; empty: all
WITH
    lately AS (SELECT device_id, online_share, sessions, online_ms + silent_ms + offline_ms AS known_ms FROM availability(since = now64(3) - toIntervalDay({days:UInt16}), until = now64(3), device = '', fleet = '')),
    before AS (SELECT device_id, online_share FROM availability(since = now64(3) - toIntervalDay(2 * toUInt32({days:UInt16})), until = now64(3) - toIntervalDay({days:UInt16}), device = '', fleet = '')),
    radio AS
    (
        SELECT device_id, quantileExact(0.5)(h.rsrp_dbm) AS rsrp_dbm FROM heartbeats AS h
        WHERE h.received_at >= now64(3) - toIntervalDay({days:UInt16}) AND h.rsrp_dbm IS NOT NULL
        GROUP BY device_id
    ),
    complaints AS (SELECT device_id, countIf(opened_at >= now64(3) - INTERVAL 90 DAY) AS tickets, countIf(closed_at IS NULL) AS open_tickets FROM tickets GROUP BY device_id)
SELECT
    l.device_id AS device_id, o.customer_id AS customer_id, o.fleet_id AS fleet_id, s.status AS status,
    round(40 * (1 - l.online_share), 1) AS points_away,
    round(20 * greatest(ifNull(b.online_share, l.online_share) - l.online_share, 0), 1) AS points_worse,
    round(least(greatest(l.sessions / greatest(l.known_ms / 86400000, 1) - 1, 0), 15), 1) AS points_flapping,
    if(s.battery_percent < 20 AND NOT ifNull(s.battery_charging, false), 10, 0) AS points_battery,
    if(r.device_id != '' AND r.rsrp_dbm < -110, 10, 0) AS points_signal,
    least(5 * c.tickets, 15) AS points_tickets,
    if((d.iccid_expected != '' AND s.iccid != '' AND d.iccid_expected != s.iccid) OR (d.imei != '' AND s.imei != '' AND d.imei != s.imei), 10, 0) AS points_sim,
    if(d.firmware_expected != '' AND s.firmware != '' AND d.firmware_expected != s.firmware, 5, 0) AS points_firmware,
    round(points_away + points_worse + points_flapping + ifNull(points_battery, 0) + points_signal + points_tickets + points_sim + points_firmware, 1) AS score,
    round(l.online_share, 4) AS online_share, round(b.online_share, 4) AS online_share_before, l.sessions AS sessions, round(s.battery_percent, 1) AS battery_percent, c.tickets AS tickets
FROM lately AS l
INNER JOIN device_status AS s ON s.device_id = l.device_id
LEFT JOIN before AS b ON b.device_id = l.device_id
LEFT JOIN radio AS r ON r.device_id = l.device_id
LEFT JOIN complaints AS c ON c.device_id = l.device_id
LEFT JOIN device_owners AS o ON o.device_id = l.device_id
LEFT JOIN devices AS d ON d.device_id = l.device_id
WHERE l.online_share IS NOT NULL AND c.open_tickets = 0 AND score >= {score_min:Float64} AND ({customer:String} = '' OR o.customer_id = {customer:String})
ORDER BY score DESC, device_id
