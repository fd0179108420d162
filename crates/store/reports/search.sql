-- report: search
-- team: customer success
-- question: Which device is it, by any of its names: device id, name, ICCID, IMEI, IMSI, telephone number?
-- unknown: Names that were neither registered nor told. A SIM that has moved finds every device that it was seen in: `seen_at` says when.
-- parameter: id String = | the name or a part of it (three letters or more); empty: the devices heard of last
SELECT
    i.device_id AS device_id, i.kind AS kind, i.identifier AS identifier, i.source AS source, i.seen_at AS seen_at,
    if(s.device_id = '', 'never_seen', s.status) AS status, if(s.device_id = '', NULL, s.since) AS since, s.battery_percent AS battery_percent, s.firmware AS firmware,
    o.customer_id AS customer_id, o.fleet_id AS fleet_id, o.device_name AS device_name
FROM
(
    SELECT device_id, kind, identifier, source, seen_at FROM device_identifiers
    WHERE {id:String} != '' AND (identifier = {id:String} OR (length({id:String}) >= 3 AND positionCaseInsensitiveUTF8(identifier, {id:String}) > 0))
    UNION ALL
    SELECT device_id, 'device_id', device_id, 'seen', toNullable(received_at)
    FROM (SELECT device_id, max(a.received_at) AS received_at FROM device_newest AS a GROUP BY device_id HAVING received_at > toDateTime64(0, 3, 'UTC') ORDER BY received_at DESC LIMIT 100)
    WHERE {id:String} = ''
    UNION ALL
    -- Without a place in the registry, or a SIM that it told.
    SELECT device_id, 'device_id', device_id, 'seen', nullIf(max(a.received_at), toDateTime64(0, 3, 'UTC')) FROM device_newest AS a
    WHERE {id:String} != '' AND (a.device_id = {id:String} OR (length({id:String}) >= 3 AND positionCaseInsensitiveUTF8(a.device_id, {id:String}) > 0))
        AND a.device_id NOT IN (SELECT device_id FROM device_identifiers WHERE source = 'seen')
    GROUP BY device_id
) AS i
LEFT JOIN device_status AS s ON s.device_id = i.device_id
LEFT JOIN device_owners AS o ON o.device_id = i.device_id
ORDER BY identifier = {id:String} DESC, seen_at DESC, device_id, kind, source
