-- report: coverage
-- team: product
-- question: In which places, on which network, do devices fall silent, and with how much evidence?
-- unknown: A device that is silent is taken to be where it last told its position. Why it is silent (no radio, empty battery, switched off, carried away) is not known; a place with few devices says more about these than about the network. Times in which no gateway told of itself are left out, and counted as `unknown_h`. Silence is what lies beyond the promised heartbeat (`next_s`, half as long again and ten seconds); heartbeats that promise nothing are left out.
-- parameter: days UInt16 = 30 | how far back
-- parameter: cells OneOf(h3,geohash) = h3 | what a place is
-- parameter: level UInt8 = 8 | resolution: of H3 0 to 15, of a geohash 1 to 12 letters
-- parameter: heartbeats_min UInt32 = 20 | leave out places with less evidence
WITH
    (
        SELECT groupArray((toUnixTimestamp64Milli(u.began_at), toUnixTimestamp64Milli(u.ended_at)))
        FROM ingest_unknown(since = now64(3) - toIntervalDay({days:UInt16}), until = now64(3)) AS u
    ) AS unknown,
    spans AS
    (
        SELECT
            device_id, plmn, latitude_deg, longitude_deg, toUnixTimestamp64Milli(received_at) AS from_ms,
            toUnixTimestamp64Milli(leadInFrame(received_at, 1, now64(3)) OVER (PARTITION BY device_id ORDER BY received_at, messages_in ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)) AS until_ms,
            from_ms + next_s * 1500 + 10000 AS promised_until_ms, next_s,
            rsrp_dbm
        FROM
        (
            SELECT h.device_id AS device_id, h.received_at AS received_at, h.session_messages_in AS messages_in, toString(h.plmn) AS plmn,
                h.latitude_deg AS latitude_deg, h.longitude_deg AS longitude_deg, ifNull(h.next_s, 0) AS next_s, h.rsrp_dbm AS rsrp_dbm
            FROM heartbeats AS h FINAL
            WHERE h.received_at >= now64(3) - toIntervalDay({days:UInt16})
        )
    ),
    measured AS
    (
        SELECT *,
            if({cells:String} = 'geohash', geohashEncode(assumeNotNull(longitude_deg), assumeNotNull(latitude_deg), least(greatest({level:UInt8}, 1), 12)),
                h3ToString(geoToH3(assumeNotNull(latitude_deg), assumeNotNull(longitude_deg), least({level:UInt8}, 15)))) AS cell,
            arraySum(u -> greatest(least(u.2, until_ms) - greatest(u.1, from_ms), 0), unknown) AS unknown_ms,
            greatest(until_ms - promised_until_ms - arraySum(u -> greatest(least(u.2, until_ms) - greatest(u.1, promised_until_ms), 0), unknown), 0) AS silent_ms
        FROM spans
        WHERE latitude_deg IS NOT NULL AND longitude_deg IS NOT NULL AND next_s > 0 AND until_ms >= from_ms
    )
SELECT
    cell,
    plmn,
    round(sum(silent_ms) / nullIf(sum(until_ms - from_ms - unknown_ms), 0), 4) AS silent_share,
    round(sum(silent_ms) / 3600000, 2) AS silent_h,
    round(sum(until_ms - from_ms - unknown_ms) / 3600000, 2) AS known_h,
    round(sum(unknown_ms) / 3600000, 2) AS unknown_h,
    count() AS heartbeats,
    uniqExact(device_id) AS devices,
    countIf(silent_ms > 0) AS silences,
    uniqExactIf(device_id, silent_ms > 0) AS silent_devices,
    round(quantileExact(0.5)(rsrp_dbm), 1) AS rsrp_p50_dbm,
    round(avg(latitude_deg), 5) AS latitude_deg,
    round(avg(longitude_deg), 5) AS longitude_deg
FROM measured AS m
GROUP BY cell, plmn
HAVING heartbeats >= {heartbeats_min:UInt32}
ORDER BY silent_share DESC, heartbeats DESC, cell, plmn
