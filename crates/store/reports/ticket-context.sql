-- report: ticket-context
-- team: customer success
-- question: What did a device do around the time at which a ticket of it was opened?
-- unknown: Whether what it did is why the ticket was opened. When the trouble began is not when somebody wrote of it: look at the hours before. Raw heartbeats stand for 90 days; of an older ticket only sessions are left.
-- parameter: ticket String = | its id; empty: the one opened last
-- parameter: hours_before UInt16 = 24 | so long before it was opened
-- parameter: hours_after UInt16 = 6 | and after
WITH
    ifNull((SELECT argMax(t.ticket_id, t.opened_at) FROM tickets AS t), '') AS last_ticket,
    if({ticket:String} = '', last_ticket, {ticket:String}) AS the_ticket,
    ifNull((SELECT any(t.device_id) FROM tickets AS t WHERE t.ticket_id = the_ticket), '') AS the_device,
    ifNull((SELECT any(t.opened_at) FROM tickets AS t WHERE t.ticket_id = the_ticket), toDateTime64(0, 3, 'UTC')) AS opened_at,
    opened_at - toIntervalHour({hours_before:UInt16}) AS since,
    opened_at + toIntervalHour({hours_after:UInt16}) AS until,
    told AS
    (
        SELECT h.taken_at AS at, toString(h.state) AS state, h.battery_percent AS battery_percent, h.rsrp_dbm AS rsrp_dbm, h.rssi_dbm AS rssi_dbm, toString(h.firmware) AS firmware, h.boot_id AS boot_id, h.iccid AS iccid,
            lagInFrame(toString(h.firmware)) OVER w AS firmware_before, lagInFrame(h.boot_id) OVER w AS boot_before, lagInFrame(h.iccid) OVER w AS iccid_before,
            lagInFrame(ifNull(h.next_s, 0)) OVER w AS promised_s, lagInFrame(h.taken_at) OVER w AS at_before
        FROM heartbeats AS h FINAL
        WHERE h.device_id = the_device AND h.taken_at >= since - INTERVAL 1 DAY AND h.taken_at < until
        WINDOW w AS (PARTITION BY h.device_id ORDER BY h.taken_at, h.identity ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
    )
SELECT the_ticket AS ticket_id, the_device AS device_id, at, round(dateDiff('second', opened_at, at) / 60) AS minutes_from_opening, event, detail
FROM
(
    SELECT t.opened_at AS at, 'ticket opened' AS event, concat(t.category, if(t.title = '', '', concat(': ', t.title)), if(t.link = '', '', concat(' ', t.link))) AS detail FROM tickets AS t WHERE t.ticket_id = the_ticket
    UNION ALL
    SELECT assumeNotNull(t.closed_at), 'ticket closed', t.category FROM tickets AS t WHERE t.ticket_id = the_ticket AND t.closed_at IS NOT NULL
    UNION ALL
    SELECT t.opened_at, 'other ticket', concat(t.ticket_id, ' ', t.category, ': ', t.title) FROM tickets AS t WHERE t.device_id = the_device AND t.ticket_id != the_ticket AND t.opened_at >= since AND t.opened_at < until
    UNION ALL
    SELECT s.started_at, 'connected', concat(s.protocol, ' ', s.transport, ' at ', s.node_id, if(s.gap_ms > 0, concat(', after ', formatReadableTimeDelta(intDiv(assumeNotNull(s.gap_ms), 1000)), ' without'), ''))
    FROM sessions AS s WHERE s.device_id = the_device AND s.started_at >= since AND s.started_at < until
    UNION ALL
    SELECT assumeNotNull(s.ended_at), 'disconnected', s.reason FROM sessions AS s WHERE s.device_id = the_device AND s.ended_at >= since AND s.ended_at < until
    UNION ALL
    SELECT toDateTime64(toStartOfHour(x.at), 3, 'UTC'), 'hour', concat(toString(count()), ' heartbeats',
        ifNull(concat(', battery ', toString(round(min(x.battery_percent), 1)), ' to ', toString(round(max(x.battery_percent), 1)), ' percent'), ''),
        ifNull(concat(', RSRP ', toString(round(avg(x.rsrp_dbm), 1)), ' dBm'), ifNull(concat(', RSSI ', toString(round(avg(x.rssi_dbm), 1)), ' dBm'), '')),
        ', ', arrayStringConcat(arraySort(groupUniqArray(x.state)), ' and '))
    FROM told AS x WHERE x.at >= since GROUP BY toStartOfHour(x.at)
    UNION ALL
    SELECT x.at, 'silence', concat('nothing for ', formatReadableTimeDelta(dateDiff('second', x.at_before, x.at))) FROM told AS x
    WHERE x.at >= since AND x.promised_s > 0 AND x.at_before > toDateTime64(0, 3, 'UTC') AND dateDiff('millisecond', x.at_before, x.at) > x.promised_s * 1500 + 10000
    UNION ALL
    SELECT x.at, 'reboot', concat('boot ', x.boot_id) FROM told AS x WHERE x.at >= since AND x.boot_before != '' AND x.boot_id != '' AND x.boot_id != x.boot_before
    UNION ALL
    SELECT x.at, 'firmware', concat(x.firmware_before, ' -> ', x.firmware) FROM told AS x WHERE x.at >= since AND x.firmware_before != '' AND x.firmware != '' AND x.firmware != x.firmware_before
    UNION ALL
    SELECT x.at, 'SIM', concat(x.iccid_before, ' -> ', x.iccid) FROM told AS x WHERE x.at >= since AND x.iccid_before != '' AND x.iccid != '' AND x.iccid != x.iccid_before
)
ORDER BY at, event
