-- report: preship
-- team: operations
-- question: Is each device of a batch fit to be shipped: seen, SIM right and live, firmware right, heard of lately, signal and battery good?
-- unknown: What a device did not tell is a failure, with that reason: no reading is no good reading. Signal is that of the place where it was tested. What is expected is what the batch says, or else the registry; where neither says anything, it is not checked.
-- parameter: devices Array(String) = [] | device ids; empty: those of the registry that are in no shipment
-- parameter: iccids Array(String) = [] | the SIM that each should have, in the same order; empty text: as the registry says
-- parameter: imeis Array(String) = [] | the modem that each should have
-- parameter: firmwares Array(String) = [] | the firmware that each should have
-- parameter: minutes UInt32 = 60 | the last heartbeat is not older
-- parameter: battery_min Float64 = 50 | percent
-- parameter: rsrp_min Float64 = -110 | dBm; where none is told the RSSI counts
-- parameter: rssi_min Float64 = -95 | dBm
WITH
    batch AS
    (
        SELECT device_id, iccid, imei, firmware, nth
        FROM
        (
            SELECT
                if(empty({devices:Array(String)}),
                    (SELECT groupArray(device_id) FROM (SELECT device_id FROM devices WHERE device_id NOT IN (SELECT device_id FROM shipments) ORDER BY device_id)),
                    {devices:Array(String)}) AS ids
        )
        ARRAY JOIN ids AS device_id, arrayEnumerate(ids) AS nth, arrayResize({iccids:Array(String)}, length(ids), '') AS iccid,
            arrayResize({imeis:Array(String)}, length(ids), '') AS imei, arrayResize({firmwares:Array(String)}, length(ids), '') AS firmware
    ),
    signal AS
    (
        SELECT h.device_id AS device_id, argMax(h.rsrp_dbm, h.received_at) AS rsrp_dbm
        FROM heartbeats AS h FINAL
        WHERE h.device_id IN (SELECT device_id FROM batch) AND h.rsrp_dbm IS NOT NULL AND h.received_at >= now64(3) - toIntervalMinute({minutes:UInt32}) - INTERVAL 1 DAY
        GROUP BY device_id
    )
SELECT
    b.device_id AS device_id,
    CAST(empty(reasons) AS Bool) AS passed,
    arrayStringConcat(arrayFilter(r -> r != '', [
        if(s.device_id = '', 'never seen', ''),
        if(s.device_id != '' AND s.last_heartbeat_at = toDateTime64(0, 3, 'UTC'), 'no heartbeat', ''),
        if(s.last_heartbeat_at > toDateTime64(0, 3, 'UTC') AND s.last_heartbeat_at < now64(3) - toIntervalMinute({minutes:UInt32}),
            concat('last heartbeat is ', toString(dateDiff('minute', s.last_heartbeat_at, now64(3))), ' min old'), ''),
        if(d.device_id = '', 'not in the registry', ''),
        multiIf(s.device_id = '', '', s.iccid = '', 'told no SIM', want_iccid NOT IN ('', s.iccid), concat('SIM ', s.iccid, ' instead of ', want_iccid), ''),
        multiIf(s.device_id = '' OR s.iccid = '', '', c.iccid = '', 'its SIM is not in the registry', c.state != 'live', concat('its SIM is ', c.state), ''),
        multiIf(s.device_id = '' OR want_imei = '', '', s.imei = '', 'told no IMEI', want_imei != s.imei, concat('modem ', s.imei, ' instead of ', want_imei), ''),
        multiIf(s.device_id = '' OR want_firmware = '', '', s.firmware = '', 'told no firmware', want_firmware != s.firmware, concat('firmware ', s.firmware, ' instead of ', want_firmware), ''),
        multiIf(s.device_id = '', '', g.rsrp_dbm IS NOT NULL, if(g.rsrp_dbm < {rsrp_min:Float64}, concat('RSRP is ', toString(round(assumeNotNull(g.rsrp_dbm), 1)), ' dBm'), ''),
            s.rssi_dbm IS NOT NULL, if(s.rssi_dbm < {rssi_min:Float64}, concat('RSSI is ', toString(round(assumeNotNull(s.rssi_dbm), 1)), ' dBm'), ''), 'told no signal'),
        multiIf(s.device_id = '', '', s.battery_percent IS NULL, 'told no battery', s.battery_percent < {battery_min:Float64}, concat('battery is at ', toString(round(assumeNotNull(s.battery_percent), 1)), ' percent'), '')
    ]), '; ') AS reasons,
    if(s.device_id = '', NULL, s.last_heartbeat_at) AS last_heartbeat_at,
    s.iccid AS iccid, c.state AS sim_state, s.imei AS imei, s.firmware AS firmware, g.rsrp_dbm AS rsrp_dbm, s.rssi_dbm AS rssi_dbm, s.battery_percent AS battery_percent,
    if(b.iccid = '', d.iccid_expected, b.iccid) AS want_iccid,
    if(b.imei = '', d.imei, b.imei) AS want_imei,
    if(b.firmware = '', toString(d.firmware_expected), b.firmware) AS want_firmware
FROM batch AS b
LEFT JOIN (SELECT device_id, last_heartbeat_at, iccid, imei, firmware, rssi_dbm, battery_percent FROM device_status WHERE device_id IN (SELECT device_id FROM batch)) AS s ON s.device_id = b.device_id
LEFT JOIN devices AS d ON d.device_id = b.device_id
LEFT JOIN sims AS c ON c.iccid = s.iccid AND s.iccid != ''
LEFT JOIN signal AS g ON g.device_id = b.device_id
ORDER BY b.nth
