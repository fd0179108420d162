-- report: device-timeline
-- team: engineering
-- question: What did a device do, moment by moment: sessions, heartbeats, signal, firmware, SIM, battery, reboots, silences?
-- unknown: What was never sent, or was older than 90 days. Heartbeats stand at the device's own time where its clock is believed. A reboot is seen by its boot id; one between two heartbeats that tell none is not seen. Why it was silent.
-- parameter: device String = | its id; the device heard of last if empty
-- parameter: hours UInt16 = 24 | how far back; 720 is 30 days
-- parameter: heartbeats Bool = true | show each heartbeat; false: only what changed
WITH
    if({device:String} = '', ifNull((SELECT argMax(a.device_id, a.received_at) FROM device_newest AS a), ''), {device:String}) AS the_device,
    now64(3) - toIntervalHour({hours:UInt16}) AS since,
    told AS
    (
        SELECT
            h.taken_at AS at, h.received_at AS received_at, toString(h.state) AS state, h.battery_percent AS battery_percent, h.rsrp_dbm AS rsrp_dbm,
            h.rssi_dbm AS rssi_dbm, toString(h.rat) AS rat, toString(h.plmn) AS plmn, h.cell_id AS cell_id, toString(h.firmware) AS firmware, h.boot_id AS boot_id, h.iccid AS iccid,
            ifNull(h.next_s, 0) AS next_s, h.uptime_s AS uptime_s,
            lagInFrame(toString(h.firmware)) OVER w AS firmware_before, lagInFrame(h.boot_id) OVER w AS boot_before,
            lagInFrame(h.iccid) OVER w AS iccid_before, lagInFrame(ifNull(h.next_s, 0)) OVER w AS promised_s, lagInFrame(h.taken_at) OVER w AS at_before
        FROM heartbeats AS h FINAL
        WHERE h.device_id = the_device AND h.received_at >= since
        WINDOW w AS (PARTITION BY h.device_id ORDER BY h.taken_at, h.identity ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
    ),
    held AS (SELECT * FROM sessions WHERE device_id = the_device)
SELECT at, event, detail, state, round(battery_percent, 2) AS battery_percent, rsrp_dbm, rssi_dbm, rat, plmn, cell_id, firmware
FROM
(
    SELECT at, 'heartbeat' AS event, if(dateDiff('second', at, received_at) >= 60, concat('arrived ', formatReadableTimeDelta(dateDiff('second', at, received_at)), ' later'), '') AS detail,
        state, battery_percent, rsrp_dbm, rssi_dbm, rat, plmn, cell_id, firmware, 3 AS place
    FROM told WHERE {heartbeats:Bool}
    UNION ALL
    SELECT at, 'firmware', concat(firmware_before, ' -> ', firmware), state, NULL, NULL, NULL, '', '', NULL, firmware, 2
    FROM told WHERE firmware_before != '' AND firmware != '' AND firmware != firmware_before
    UNION ALL
    SELECT at, 'reboot', concat('boot ', boot_id, ifNull(concat(', up for ', toString(uptime_s), ' s'), '')), state, NULL, NULL, NULL, '', '', NULL, firmware, 1
    FROM told WHERE boot_before != '' AND boot_id != '' AND boot_id != boot_before
    UNION ALL
    SELECT at, 'SIM', concat(iccid_before, ' -> ', iccid), state, NULL, NULL, NULL, '', '', NULL, firmware, 2
    FROM told WHERE iccid_before != '' AND iccid != '' AND iccid != iccid_before
    UNION ALL
    SELECT at, 'silence', concat('nothing for ', formatReadableTimeDelta(dateDiff('second', at_before, at)), ', promised within ', toString(promised_s), ' s'), state, NULL, NULL, NULL, '', '', NULL, '', 0
    FROM told WHERE promised_s > 0 AND at_before > toDateTime64(0, 3, 'UTC') AND dateDiff('millisecond', at_before, at) > promised_s * 1500 + 10000
    UNION ALL
    SELECT started_at, 'connected', concat(if(protocol = '', 'start not told', protocol), ' ', transport, ' at ', node_id, if(peer = '', '', concat(' from ', peer)),
        if(gap_ms IS NULL, '', if(took_over, ', took over', concat(', after ', formatReadableTimeDelta(intDiv(assumeNotNull(gap_ms), 1000)), ' without')))), '', NULL, NULL, NULL, '', '', NULL, '', 0
    FROM held WHERE started_at >= since
    UNION ALL
    SELECT assumeNotNull(ended_at), 'disconnected', concat(reason, if(detail = '', '', concat(': ', detail)), ', after ', formatReadableTimeDelta(intDiv(assumeNotNull(duration_ms), 1000)), ', ', toString(messages_in), ' messages'),
        '', NULL, NULL, NULL, '', '', NULL, '', 4
    FROM held WHERE ended_at >= since
    UNION ALL
    SELECT u.began_at, 'unknown', concat('no gateway told of itself for ', formatReadableTimeDelta(dateDiff('second', u.began_at, u.ended_at))), '', NULL, NULL, NULL, '', '', NULL, '', 5
    FROM ingest_unknown(since = now64(3) - toIntervalHour({hours:UInt16}), until = now64(3)) AS u
)
ORDER BY at DESC, place DESC
