-- Three gateways tell every five seconds that they live, for {days} days from an hour before {start} on.
INSERT INTO nodes (node_id, epoch, event, at, version, sessions, lost_after_ms, kafka_partition, kafka_offset)
WITH {start} - toIntervalHour(1) AS start
SELECT
    concat('gateway-', toString(1 + number % 3)),
    toUnixTimestamp64Milli(start),
    if(number < 3, 'started', 'alive'),
    start + toIntervalMillisecond(5000 * intDiv(number, 3) + number % 3),
    if(number < 3, '1.0.0', ''),
    intDiv({fleet}, 3),
    15000,
    number % 3,
    number
FROM numbers(3 * (720 + 17280 * {days}))
