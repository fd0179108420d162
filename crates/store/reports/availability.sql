-- report: availability
-- team: customer success
-- question: Which part of the time was each customer's, fleet's or device's connectivity there?
-- unknown: Time in which no gateway told of itself counts for nothing, and stands apart as `unknown_h`; so does the time before a device's first session, as `never_seen_h`. A device that was switched off on purpose is offline all the same.
-- parameter: days UInt16 = 7 | how far back
-- parameter: by OneOf(customer,fleet,device) = customer | a row for each of these
-- parameter: customer String = | its id; empty: all
SELECT
    multiIf({by:String} = 'device', a.device_id, {by:String} = 'fleet', o.fleet_id, o.customer_id) AS key,
    count() AS devices,
    round(sum(a.online_ms) / nullIf(sum(a.online_ms + a.silent_ms + a.offline_ms), 0), 5) AS online_share,
    round(sum(a.online_ms) / 3600000, 2) AS online_h,
    round(sum(a.silent_ms) / 3600000, 2) AS silent_h,
    round(sum(a.offline_ms) / 3600000, 2) AS offline_h,
    round(sum(a.unknown_ms) / 3600000, 2) AS unknown_h,
    round(sum(a.never_seen_ms) / 3600000, 2) AS never_seen_h,
    sum(a.sessions) AS sessions
FROM availability(since = now64(3) - toIntervalDay({days:UInt16}), until = now64(3), device = '', fleet = '') AS a
LEFT JOIN device_owners AS o ON o.device_id = a.device_id
WHERE {customer:String} = '' OR o.customer_id = {customer:String}
GROUP BY key
ORDER BY online_share, key
