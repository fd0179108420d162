-- Presence of {devices} devices from number {first} on, which have the heartbeats of those from {origin} on: a session every twelve hours of {days} days, each told from start to end but the last, which
-- stands. Session, node and counters are those of the heartbeats (`storage/fleet.sql`).
INSERT INTO connections
(
    device_id, session_id, event, at, connected_at, stored_at, node_id, epoch, peer, protocol_level, clean_start, keep_alive_s, reason,
    bytes_in, bytes_out, messages_in, messages_out, client_id, tls_version, transport, fleet, session_expiry_s, presence_sequence, kafka_partition, kafka_offset
)
WITH
    {start} AS start,
    cityHash64(7, {origin} + device - {first}) AS d,
    720 * s AS t,
    start + toIntervalMillisecond(d % 60000 + 60000 * t - 250) AS connected,
    connected + toIntervalMillisecond(43200000 - 1500 - cityHash64(d, 41, s) % 30000) AS ended,
    concat('scooter-', leftPad(toString(device), 6, '0')) AS name,
    event = 2 AS is_end
SELECT
    name,
    {session},
    if(is_end, 'disconnected', 'connected'),
    if(is_end, ended, connected) AS told_at,
    connected,
    toDateTime(told_at) + 1,
    concat('gateway-', toString(1 + cityHash64(d, 13, s) % 3)),
    toUnixTimestamp64Milli(start) - 3600000,
    if(is_end, '', concat('10.', toString(d % 200), '.', toString(cityHash64(d, 42, s) % 256), '.7:', toString(20000 + cityHash64(d, 43, s) % 40000))),
    if(is_end, 0, 5),
    NOT is_end,
    if(is_end, 0, 120),
    if(is_end, if(cityHash64(d, 44, s) % 5 = 0, 'keep_alive_timeout', 'connection_lost'), ''),
    if(is_end, 120 + 533 * intDiv(720, {step}), 0),
    if(is_end, 10 + 4 * intDiv(720, {step}), 0),
    if(is_end, 1 + intDiv(720, {step}), 0),
    if(is_end, 1 + intDiv(720, {step}), 0),
    if(is_end, '', name),
    if(is_end, '', '1.3'),
    if(is_end, '', 'tls'),
    if(is_end, '', concat('fleet-', leftPad(toString(d % 100), 2, '0'))),
    if(is_end, 0, 3600),
    s,
    d % 12,
    toUInt64(told_at) * 3
FROM
(
    SELECT {first} + intDiv(number, 2 * {days}) AS device, number % (2 * {days}) AS s
    FROM numbers({devices} * 2 * {days})
)
ARRAY JOIN [1, 2] AS event
WHERE NOT (event = 2 AND s = 2 * {days} - 1);

-- What the views of heartbeats keep of a session, for heartbeats that came in while they were detached.
INSERT INTO session_signs (device_id, session_id, version, received_at, node_id, bytes_in, bytes_out, messages_in)
WITH
    {start} AS start,
    cityHash64(7, {origin} + device - {first}) AS d,
    720 * s AS t,
    start + toIntervalMillisecond(d % 60000 + 60000 * (t + 720 - {step}) + 90) AS received,
    1 + intDiv(720, {step}) AS messages
SELECT
    concat('scooter-', leftPad(toString(device), 6, '0')),
    {session},
    bitShiftLeft(toUInt64(toUnixTimestamp64Milli(received)), 20) + messages,
    received,
    concat('gateway-', toString(1 + cityHash64(d, 13, s) % 3)),
    120 + 533 * intDiv(720, {step}),
    10 + 4 * intDiv(720, {step}),
    messages
FROM
(
    SELECT {first} + intDiv(number, 2 * {days} - 1) AS device, number % (2 * {days} - 1) AS s
    FROM numbers({devices} * (2 * {days} - 1))
)
