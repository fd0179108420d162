-- Availability of a fleet reads that fleet: the devices that ever told of themselves as its, by key, in place of every heartbeat of all.

-- How long each device was online, silent, offline and unknown between {since} and {until} (now, if that is later), in milliseconds; before
-- its first session: `never_seen_ms`. The five add up to the span, so figures of a group are sums. {device} and {fleet}: empty for all. A
-- device is of the fleet that it told of last.
CREATE OR REPLACE VIEW availability AS
WITH
    toUnixTimestamp64Milli({since:DateTime64(3, 'UTC')}) AS since_ms,
    greatest(least(toUnixTimestamp64Milli({until:DateTime64(3, 'UTC')}), toUnixTimestamp64Milli(now64(3))), since_ms) AS until_ms,
    (
        SELECT groupArray((toUnixTimestamp64Milli(u.began_at), toUnixTimestamp64Milli(u.ended_at)))
        FROM ingest_unknown(since = {since:DateTime64(3, 'UTC')} - INTERVAL 35 DAY, until = {until:DateTime64(3, 'UTC')}) AS u
    ) AS unknown,
    arraySort(arrayMap(u -> u.2, unknown)) AS looked_again_ms,
    -- What of a span lies between {since} and {until}, and not in an unknown one.
    (a, b) -> greatest(least(b, until_ms) - greatest(a, since_ms), 0)
        - arraySum(u -> greatest(least(b, until_ms, u.2) - greatest(a, since_ms, u.1), 0), unknown) AS known_ms
SELECT
    device_id,
    fleet,
    toUInt64(connected_ms - silent_spans_ms) AS online_ms,
    toUInt64(silent_spans_ms) AS silent_ms,
    toUInt64(known_ms(first_ms, until_ms) - connected_ms) AS offline_ms,
    toUInt64(until_ms - since_ms - known_ms(since_ms, until_ms)) AS unknown_ms,
    toUInt64(known_ms(since_ms, first_ms)) AS never_seen_ms,
    -- Of the time in which it was known, and seen before; null where there is none.
    online_ms / nullIf(online_ms + silent_ms + offline_ms, 0) AS online_share,
    sessions
FROM
(
    SELECT
        device_id,
        argMax(told_fleet, (told_fleet != '', at_ms)) AS fleet,
        minIf(at_ms, is_session) AS first_ms,
        sumIf(known_ms(at_ms, session_end_ms), is_session) AS connected_ms,
        countIf(is_session AND at_ms < until_ms AND session_end_ms > since_ms) AS sessions,
        sum(if(next_ms - at_ms <= patience_ms, 0,
            -- Looking again begins the wait anew.
            arraySum((a, b) -> known_ms(a + patience_ms, b),
                arrayPushFront(looks, at_ms), arrayPushBack(looks, next_ms)))) AS silent_spans_ms
    FROM
    (
        SELECT
            device_id, told_fleet, at_ms, is_session, session_end_ms,
            assumeNotNull(ifNull(if(promise_ms > 0, toInt64(promise_ms), nullIf(anyLast(learned_ms) OVER so_far, -1)), 946080000000)) AS patience_ms,
            toUInt64(bitAnd(max(bitOr(bitShiftLeft(toUInt128(version), 64), toUInt128(promised_ms))) OVER so_far, 18446744073709551615)) AS promise_ms,
            assumeNotNull(least(leadInFrame(at_ms, 1, 4102444800000) OVER following, ifNull(anyLast(nullIf(session_end_ms, 0)) OVER so_far, 0))) AS next_ms,
            if(next_ms - at_ms <= patience_ms, [], arrayFilter(u -> u > at_ms AND u < next_ms, looked_again_ms)) AS looks
        FROM
        (
            SELECT
                s.device_id AS device_id, s.session_id AS session_id, s.fleet AS told_fleet,
                toUnixTimestamp64Milli(s.started_at) AS at_ms,
                true AS is_session,
                -- The next session takes its place, whether it has ended or not.
                greatest(least(
                    if(s.ended_at IS NULL, 4102444800000, toUnixTimestamp64Milli(assumeNotNull(s.ended_at))),
                    if(s.next_started_at IS NULL, 4102444800000, toUnixTimestamp64Milli(assumeNotNull(s.next_started_at)))), at_ms) AS session_end_ms,
                toUInt64(0) AS version, toUInt64(0) AS promised_ms, NULL AS learned_ms, toUInt64(0) AS messages_in
            FROM sessions AS s
            WHERE ({device:String} = '' OR s.device_id = {device:String})
                AND ({fleet:String} = '' OR s.device_id IN (SELECT c.device_id FROM connections AS c WHERE c.fleet = {fleet:String}))
            UNION ALL
            SELECT
                a.device_id, a.session_id, '', toUnixTimestamp64Milli(a.received_at), false, 0,
                a.version, ifNull(a.promised_ms, 0), ifNull(toInt64(a.learned_ms), -1), a.messages_in
            FROM heartbeat_arrivals(
                since = {since:DateTime64(3, 'UTC')} - INTERVAL 35 DAY, until = {until:DateTime64(3, 'UTC')}, device = {device:String}) AS a
            WHERE {fleet:String} = '' OR a.device_id IN (SELECT c.device_id FROM connections AS c WHERE c.fleet = {fleet:String})
        )
        WINDOW
            so_far AS (PARTITION BY device_id ORDER BY at_ms, messages_in, session_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
            following AS (PARTITION BY device_id ORDER BY at_ms, messages_in, session_id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
    )
    GROUP BY device_id
)
WHERE {fleet:String} = '' OR fleet = {fleet:String}
