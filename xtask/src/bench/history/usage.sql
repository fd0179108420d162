-- Usage of {devices} devices from number {first} on, in the rows that settling makes: two counts for each hour, split by state where the scooter was
-- ridden. Settling itself is measured elsewhere (docs/usage.md).
INSERT INTO usage_hours
(
    device_id, source, counter, hour, iccid, plmn, state, heartbeats, tx_bytes, rx_bytes, messages,
    last_at, last_place, last_tx, last_rx, last_messages, last_uptime_s, last_sequence, settled
)
WITH
    {start} AS start,
    cityHash64(7, {origin} + device - {first}) AS d,
    60 * h AS t,
    part.1 AS is_modem,
    part.2 AS is_riding,
    intDiv(60, {step}) AS each,
    if(is_riding, intDiv(each + 3, 4), each - if(is_ridden, intDiv(each + 3, 4), 0)) AS heartbeats,
    -- One hour in three by day.
    cityHash64(d, 61, h) % 3 = 0 AND h % 24 BETWEEN 6 AND 22 AS is_ridden,
    start + toIntervalMillisecond(d % 60000 + 60000 * (t + 60 - {step})) AS last
SELECT
    concat('scooter-', leftPad(toString(device), 6, '0')),
    if(is_modem, 'modem', 'gateway'),
    if(is_modem, lower(hex(toUInt32(cityHash64(d, 15, intDiv(t, 4000)) % 4294967296))), toString({session})),
    toStartOfHour(start + toIntervalHour(h)),
    concat('89490200', leftPad(toString(device), 11, '0')),
    toString(20201 + d % 100 * 7),
    if(is_riding, 'riding', 'parked'),
    heartbeats,
    heartbeats * if(is_modem, 633, 533),
    heartbeats * if(is_modem, 44, 4),
    if(is_modem, 0, heartbeats),
    if(is_modem, last, last + toIntervalMillisecond(90 + cityHash64(d, 62, h) % 60)),
    each * (h + 1),
    if(is_modem, 633 * each * (1 + intDiv(t % 4000, 60)), 120 + 533 * each * (1 + intDiv(t % 720, 60))) + cityHash64(d, 63, h) % 50,
    if(is_modem, 44 * each * (1 + intDiv(t % 4000, 60)), 10 + 4 * each * (1 + intDiv(t % 720, 60))),
    if(is_modem, 0, 2 + each * (1 + intDiv(t % 720, 60))),
    if(is_modem, 30 + 60 * (t % 4000), NULL),
    if(is_modem, each * (h + 1), NULL),
    1
FROM
(
    SELECT {first} + intDiv(number, 24 * {days}) AS device, number % (24 * {days}) AS h
    FROM numbers({devices} * 24 * {days})
)
ARRAY JOIN [(true, false), (true, true), (false, false), (false, true)] AS part
WHERE is_ridden OR NOT is_riding;

-- As settling makes days of hours.
INSERT INTO usage_days
SELECT
    device_id, toDate(hour, 'UTC') AS day, iccid, plmn, state,
    sumIf(u.heartbeats, source = 'modem'), sumIf(u.tx_bytes, source = 'modem'), sumIf(u.rx_bytes, source = 'modem'),
    sumIf(u.tx_bytes, source = 'gateway'), sumIf(u.rx_bytes, source = 'gateway'), sumIf(u.messages, source = 'gateway'), 1
FROM usage_hours AS u
WHERE device_id >= concat('scooter-', leftPad(toString({first}), 6, '0'))
    AND device_id < concat('scooter-', leftPad(toString({first} + {devices}), 6, '0'))
GROUP BY device_id, day, iccid, plmn, state;

-- And months of days, and the hours of a day side by side.
INSERT INTO usage_months
SELECT
    toStartOfMonth(day) AS month, device_id, iccid, plmn, state, groupArray(toUInt8(toDayOfMonth(day) - 1)), groupArray(d.heartbeats),
    groupArray(d.modem_tx_bytes + d.modem_rx_bytes), groupArray(d.gateway_tx_bytes + d.gateway_rx_bytes), 1
FROM usage_days AS d
WHERE device_id >= concat('scooter-', leftPad(toString({first}), 6, '0'))
    AND device_id < concat('scooter-', leftPad(toString({first} + {devices}), 6, '0'))
GROUP BY month, device_id, iccid, plmn, state;

INSERT INTO usage_day_hours
SELECT
    toDate(hour, 'UTC') AS day, iccid, device_id, plmn, state,
    groupArrayIf(toHour(hour, 'UTC'), source = 'modem'), groupArrayIf(h.heartbeats, source = 'modem'), groupArrayIf(h.tx_bytes + h.rx_bytes, source = 'modem'),
    groupArrayIf(toHour(hour, 'UTC'), source = 'gateway'), groupArrayIf(h.tx_bytes + h.rx_bytes, source = 'gateway'), 1
FROM usage_hours AS h
WHERE device_id >= concat('scooter-', leftPad(toString({first}), 6, '0'))
    AND device_id < concat('scooter-', leftPad(toString({first} + {devices}), 6, '0'))
GROUP BY device_id, day, iccid, plmn, state
SETTINGS optimize_aggregation_in_order = 1
