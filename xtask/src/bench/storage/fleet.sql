-- Heartbeats of a fleet of scooters in a hundred cities: {devices} devices from number {first} on, one heartbeat every {step} minutes, of the
-- {minutes} minutes after the first {from} from {start} on. Spans that begin with a day go on where the one before ended: counters rise, scooters
-- are back where they belong.
-- Every choice is a hash of device and minute: the same in each run. Noise is what it costs: the device's timer (40 ms), the network (60 ms, one
-- in twenty up to 2 s late), the fix (93 millionths of a degree, around four metres of deviation), signal, voltage, length of the payload, and the place in the partition
-- among 50,000 devices.
INSERT INTO {table}
(
    device_id, device_time, identity, received_at, stored_at, clock, session_id, node_id,
    session_bytes_in, session_bytes_out, session_messages_in, sequence, boot_id, uptime_s, firmware, state, next_s,
    battery_e2, battery_millivolts, battery_charging, latitude_e6, longitude_e6, altitude_e1, speed_e2, accuracy_e1,
    rat, plmn, cell_id, tac, rssi_e1, rsrp_e1, rsrq_e1, sinr_e1,
    iccid, imsi, imei, modem_tx_bytes, modem_rx_bytes, extra, kafka_partition, kafka_offset
)
WITH
    {start} AS start,
    cityHash64(7, device) AS d,
    range(toUInt32({from}), toUInt32({from} + {minutes}), toUInt32({step})) AS ts,
    -- Charging for four hours, one time in forty; riding for a quarter of an hour, one time in ten by day.
    arrayMap(t -> multiIf(
        cityHash64(d, 1, intDiv(t, 240)) % 40 = 0, 2,
        cityHash64(d, 2, intDiv(t, 15)) % 10 = 0 AND intDiv(t, 60) % 24 BETWEEN 6 AND 22, 1, 0), ts) AS states,
    arrayCumSum(arrayMap((t, s) -> if(s = 1, toInt64(cityHash64(d, 3, t) % 1201) - 600, 0), ts, states)) AS norths,
    arrayCumSum(arrayMap((t, s) -> if(s = 1, toInt64(cityHash64(d, 4, t) % 1801) - 900, 0), ts, states)) AS easts,
    arrayCumSum(arrayMap((t, s) -> toInt64(if(s = 1, 20 + cityHash64(d, 5, t) % 71, cityHash64(d, 5, t) % 3)), ts, states)) AS drains,
    arrayMap(r -> abs((((r % 80) + 80) % 80) - 40) - 120, arrayCumSum(arrayMap(t -> toInt64(cityHash64(d, 6, t) % 5) - 2, ts))) AS signals,
    arrayCumSum(arrayMap((t, s) -> toUInt64(s = 1 AND cityHash64(d, 7, t) % 8 = 0), ts, states)) AS moves,
    arrayCumSum(arrayMap(t -> toInt64(cityHash64(d, 21, t) % 7) - 3, ts)) AS temperatures,
    arrayMap(t -> toUInt64(530 + cityHash64(d, 8, t) % 7), ts) AS lengths,
    arrayMap(l -> l + 533 * intDiv({from}, {step}), arrayCumSum(lengths)) AS sums,
    -- What was counted before this session (twelve hours), and before this boot (three days).
    arrayFill((b, t) -> t % 720 = 0, arrayMap((a, l, t) -> if(t % 720 = 0, a - l, 533 * intDiv(t - t % 720, {step})), sums, lengths, ts), ts) AS session_bases,
    arrayFill((b, t) -> t % 4000 = 0, arrayMap((a, l, t) -> if(t % 4000 = 0, a - l + 100 * intDiv(t, {step}), 633 * intDiv(t - t % 4000, {step})), sums, lengths, ts), ts) AS boot_bases,
    d % 100 AS city
SELECT
    concat('scooter-', leftPad(toString(device), 6, '0')),
    start + toIntervalMillisecond(d % 60000 + t * 60000 + cityHash64(d, 9, t) % 40) AS taken,
    intDiv(t, {step}) AS n,
    taken + toIntervalMillisecond(60 + cityHash64(d, 10, t) % 60 + if(cityHash64(d, 11, t) % 20 = 0, cityHash64(d, 12, t) % 2000, 0)) AS received,
    toDateTime(received + toIntervalMillisecond(400 + cityHash64(d, 32, t) % 1200)),
    'device',
    {session},
    concat('gateway-', toString(1 + cityHash64(d, 13, intDiv(t, 720)) % 3)),
    120 + sum - session_base,
    10 + 4 * intDiv(t % 720, {step}),
    2 + intDiv(t % 720, {step}),
    n,
    lower(hex(toUInt32(cityHash64(d, 15, intDiv(t, 4000)) % 4294967296))),
    30 + 60 * (t % 4000),
    ['1.4.2', '1.4.3', '1.5.0'][1 + d % 3],
    ['parked', 'riding', 'charging'][state + 1],
    60 * {step},
    -- Told to a tenth of a percent. What falls to a tenth is swapped.
    10 * round((100000 - drain % 90000) / 100),
    36000 + intDiv((100000 - drain % 90000) * 6, 100) + cityHash64(d, 16, t) % 7,
    state = 2,
    toInt32(-60000000 + city * 1200000 + toInt64(d % 100000) + north + toInt64(cityHash64(d, 17, t) % 31 + cityHash64(d, 18, t) % 31 + cityHash64(d, 19, t) % 31)),
    toInt32(-175000000 + city * 3500000 + toInt64(d % 100003) + east + toInt64(cityHash64(d, 27, t) % 51 + cityHash64(d, 28, t) % 51 + cityHash64(d, 29, t) % 51)),
    10 * (30 + city + cityHash64(d, 20, t) % 7),
    if(state = 1, 10 * (20 + cityHash64(d, 22, t) % 50), 0),
    10 * (3 + cityHash64(d, 23, intDiv(t, 3)) % 6),
    'LTE-M',
    toString(20201 + city * 7),
    -- A new cell on the way, and now and then the next one over while it stands.
    1048576 + cityHash64(city, moved + if(state = 0 AND cityHash64(d, 24, t) % 40 = 0, 1, 0), d) % 130000000 AS cell,
    intDiv(cell, 4096),
    10 * (signal + 30 + toInt64(cityHash64(d, 25, t) % 2)),
    10 * signal,
    10 * (toInt64(cityHash64(d, 26, t) % 5) - 14),
    10 * (5 + cityHash64(d, 30, t) % 8),
    concat('89490200', leftPad(toString(device), 11, '0')),
    concat('26201', leftPad(toString(device), 10, '0')),
    concat('35693803', leftPad(toString(device), 7, '0')),
    sum + 100 * (n + 1) - boot_base,
    44 * (1 + intDiv(t % 4000, {step})),
    concat('{"kickstand":"', if(state = 1, 'up', 'down'), '","motor_temp_c":', toString(round(20 + (temperature % 100) / 10, 1)), '}'),
    d % 12,
    toUInt64((toUnixTimestamp64Milli(received) - toUnixTimestamp64Milli(start)) * 0.0694) + cityHash64(d, 31, t) % 9
FROM (SELECT number AS device FROM numbers({first}, {devices}))
ARRAY JOIN
    ts AS t, states AS state, norths AS north, easts AS east, drains AS drain, signals AS signal, moves AS moved,
    temperatures AS temperature, sums AS sum, session_bases AS session_base, boot_bases AS boot_base
SETTINGS max_block_size = {block}, max_threads = 2, min_insert_block_size_rows = {rows}, min_insert_block_size_bytes = 0
