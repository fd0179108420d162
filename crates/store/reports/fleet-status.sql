-- report: fleet-status
-- team: customer success
-- question: What does every device do now, or those of one customer or fleet?
-- unknown: `unknown` is what cannot be said as no gateway tells of itself. `silent` is a guess from the interval that was promised or learned. Readings are the last known ones, each with its own age. Devices of the registry that never connected stand as `never_seen`.
-- parameter: customer String = | its id; empty: all
-- parameter: fleet String = | its id; empty: all
-- parameter: status OneOf(all,online,silent,offline,unknown,never_seen) = all | those that do this alone
SELECT
    device_id, device_name, customer_id, fleet_id, status, since, offline_reason, last_heartbeat_at, state, battery_percent, battery_at, latitude_deg, longitude_deg, position_at,
    firmware, rat, plmn, rssi_dbm, iccid, open_tickets
FROM
(
    SELECT
        if(s.device_id = '', o.device_id, s.device_id) AS device_id, o.device_name AS device_name, o.customer_id AS customer_id, o.fleet_id AS fleet_id,
        if(s.device_id = '', 'never_seen', s.status) AS status, if(s.device_id = '', NULL, s.since) AS since, s.offline_reason AS offline_reason,
        if(s.last_heartbeat_at > toDateTime64(0, 3, 'UTC'), s.last_heartbeat_at, NULL) AS last_heartbeat_at, s.state AS state, round(s.battery_percent, 1) AS battery_percent,
        if(s.battery_at > toDateTime64(0, 3, 'UTC'), s.battery_at, NULL) AS battery_at, s.latitude_deg AS latitude_deg, s.longitude_deg AS longitude_deg,
        if(s.position_at > toDateTime64(0, 3, 'UTC'), s.position_at, NULL) AS position_at, s.firmware AS firmware, s.rat AS rat, s.plmn AS plmn, s.rssi_dbm AS rssi_dbm, s.iccid AS iccid,
        t.open_tickets AS open_tickets
    FROM device_status AS s
    FULL OUTER JOIN device_owners AS o ON o.device_id = s.device_id
    LEFT JOIN (SELECT device_id, count() AS open_tickets FROM tickets WHERE closed_at IS NULL GROUP BY device_id) AS t ON t.device_id = if(s.device_id = '', o.device_id, s.device_id)
)
WHERE ({customer:String} = '' OR customer_id = {customer:String}) AND ({fleet:String} = '' OR fleet_id = {fleet:String}) AND ({status:String} = 'all' OR status = {status:String})
ORDER BY indexOf(['offline', 'silent', 'unknown', 'never_seen', 'online'], status), since, device_id
