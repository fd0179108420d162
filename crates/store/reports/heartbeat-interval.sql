-- report: heartbeat-interval
-- team: engineering
-- question: What would a shorter or longer heartbeat interval of parked devices cost in data and battery?
-- unknown: Bytes and battery are measured between two heartbeats of one boot, both parked and not charging; bytes are the modem's, so whatever else it sends while parked counts as heartbeats. Of the battery the part that falls without heartbeats is known only if devices have different intervals: `battery_fitted` is a straight line through them, empty where they do not differ. Without it the truth lies between `battery_if_independent` (heartbeats cost nothing) and `battery_if_all` (they cost all of it). Temperature and age of batteries are not looked at.
-- parameter: days UInt16 = 7 | how far back
-- parameter: pairs_min UInt32 = 10 | leave out devices with fewer pairs of heartbeats
WITH
    pairs AS
    (
        SELECT
            h.device_id AS device_id, h.state AS state, h.battery_charging AS battery_charging,
            dateDiff('millisecond', lagInFrame(h.taken_at) OVER w, h.taken_at) / 1000 AS apart_s,
            lagInFrame(toString(h.state)) OVER w AS state_before, lagInFrame(h.boot_id) OVER w AS boot_before, h.boot_id AS boot_id,
            h.modem_tx_bytes + h.modem_rx_bytes - lagInFrame(h.modem_tx_bytes + h.modem_rx_bytes) OVER w AS bytes,
            lagInFrame(h.battery_percent) OVER w - h.battery_percent AS fell,
            row_number() OVER w AS nth
        FROM heartbeats AS h FINAL
        WHERE h.received_at >= now64(3) - toIntervalDay({days:UInt16}) AND h.clock = 'device'
        WINDOW w AS (PARTITION BY h.device_id ORDER BY h.device_time, h.identity ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
    ),
    by_device AS
    (
        SELECT
            device_id, count() AS pairs, sum(apart_s) AS seconds,
            3600 * count() / sum(apart_s) AS per_hour,
            sumIf(bytes, bytes >= 0) / nullIf(countIf(bytes >= 0), 0) AS bytes_each,
            3600 * sumIf(fell, fell IS NOT NULL) / nullIf(sumIf(apart_s, fell IS NOT NULL), 0) AS fell_per_hour
        FROM pairs
        -- A longer pause is no interval, but an outage.
        WHERE nth > 1 AND boot_id = boot_before AND state = 'parked' AND state_before = 'parked' AND NOT ifNull(battery_charging, false)
            AND apart_s > 0 AND apart_s <= 86400 AND ifNull(fell, 0) >= 0
        GROUP BY device_id
        HAVING pairs >= {pairs_min:UInt32}
    ),
    fleet AS
    (
        SELECT
            count() AS devices, sum(b.pairs) AS pairs,
            sum(b.bytes_each * b.pairs) / nullIf(sumIf(b.pairs, b.bytes_each IS NOT NULL), 0) AS bytes_each,
            sum(b.per_hour * b.seconds) / nullIf(sum(b.seconds), 0) AS per_hour,
            sum(b.fell_per_hour * b.seconds) / nullIf(sumIf(b.seconds, b.fell_per_hour IS NOT NULL), 0) AS fell_per_hour,
            simpleLinearRegressionIf(b.per_hour, ifNull(b.fell_per_hour, 0), b.fell_per_hour IS NOT NULL) AS line,
            -- Intervals differ enough to tell the two parts apart.
            stddevPop(b.per_hour) > 0.1 * avg(b.per_hour) AND count() >= 5 AS differ
        FROM by_device AS b
    )
SELECT
    interval_s,
    round(86400 / interval_s, 1) AS heartbeats_per_day,
    round(bytes_each * 86400 / interval_s) AS bytes_per_day,
    round(bytes_each * 86400 / interval_s * 30 / 1000000, 3) AS mb_per_30_days,
    round(fell_per_hour * 24, 2) AS battery_if_independent_percent_per_day,
    round(fell_per_hour * 24 * (3600 / interval_s) / per_hour, 2) AS battery_if_all_percent_per_day,
    if(differ, round(24 * greatest(line.2 + line.1 * 3600 / interval_s, 0), 2), NULL) AS battery_fitted_percent_per_day,
    round(3600 / per_hour) AS measured_interval_s,
    round(bytes_each, 1) AS measured_bytes_each,
    devices,
    pairs
FROM fleet
ARRAY JOIN [60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400] AS interval_s
WHERE devices > 0
ORDER BY interval_s
