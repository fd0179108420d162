-- A small fleet whose figures can be worked out by hand. What is of August 2026 stands at fixed days; what is "now" is counted back from
-- the hour that began last, two days of it.
INSERT INTO registry_customers (customer_id, name, country, billing_time_zone, billing_day, currency, fee_per_device, markup_percent, tax_percent, version) VALUES
    ('acme', 'Acme', 'DE', 'Europe/Berlin', 1, 'EUR', 2, 10, 19, 1),
    ('bolt', 'Bolt', 'DE', 'UTC', 15, 'EUR', NULL, NULL, NULL, 1);

INSERT INTO registry_fleets (fleet_id, customer_id, name, city, country, rides_per_day, value_per_ride, value_per_minute, version) VALUES
    ('acme-ber', 'acme', 'Acme Berlin', 'Berlin', 'DE', 4, 0.05, NULL, 1),
    ('bolt-ham', 'bolt', 'Bolt Hamburg', 'Hamburg', 'DE', NULL, NULL, 0.0001, 1);

-- Devices 1 to 20 are Acme's, 21 to 30 Bolt's.
INSERT INTO registry_devices (device_id, fleet_id, name, model, imei, firmware_expected, iccid_expected, purchase_cost, in_service_since, version)
SELECT concat('scooter-', leftPad(toString(number), 2, '0')), if(number <= 20, 'acme-ber', 'bolt-ham'), concat('Scooter ', toString(number)), 'S1',
    toString(490154203230000 + number), '2.1.0', toString(8949100000000000000 + number), 30, '2026-06-01', 1
FROM numbers(1, 30);

-- And two in the store.
INSERT INTO registry_sims (iccid, imsi, carrier, version)
SELECT toString(8949100000000000000 + number), toString(262010000000000 + number), 'Carrier', 1 FROM numbers(1, 32);

INSERT INTO sim_states (iccid, since, state, who, why, version)
SELECT toString(8949100000000000000 + number), '2026-06-01 00:00:00', if(number > 30, 'inventory', 'live'), 'ann', 'first order', 1 FROM numbers(1, 32);

INSERT INTO sim_states (iccid, since, state, who, why, version) VALUES ('8949100000000000030', '2026-10-01 00:00:00', 'paused', 'ann', 'in repair', 2);

-- Of each three one by the megabyte, one in a pool, one by tiers.
INSERT INTO sim_plans (iccid, since, plan_id, who, why, version)
SELECT toString(8949100000000000000 + number), '1970-01-01 00:00:00', ['by-mb', 'pool', 'tier'][number % 3 + 1], 'ann', '', 1 FROM numbers(1, 32);

INSERT INTO registry_plans (plan_id, valid_from, valid_to, name, carrier, kind, currency, monthly_fee, included_mb, price_per_mb, tiers, mb_bytes, version) VALUES
    ('by-mb', '1970-01-01', NULL, 'By the MB', 'Carrier', 'per_mb', 'EUR', 0.5, 0, 0.1, [], 1000000, 1),
    ('pool', '1970-01-01', NULL, 'Pool', 'Carrier', 'pooled', 'EUR', 1, 5, 0.05, [], 1000000, 1),
    ('tier', '1970-01-01', NULL, 'Tiers', 'Carrier', 'tiered', 'EUR', 0.2, 0, 0, [(0, 0.1), (10, 0.05)], 1000000, 1);

INSERT INTO registry_budgets (customer_id, fleet_id, month, amount, currency, version) VALUES
    ('acme', '', '2026-08-01', 50, 'EUR', 1), ('', 'bolt-ham', '2026-08-01', 100, 'EUR', 1);

INSERT INTO registry_shipments (shipment_id, device_id, shipped_at, destination, version)
SELECT 's-1', concat('scooter-', leftPad(toString(number), 2, '0')), '2026-06-01 00:00:00', 'Berlin', 1 FROM numbers(1, 25);

INSERT INTO registry_tickets (ticket_id, device_id, opened_at, closed_at, category, link, title, version)
SELECT 't-1', 'scooter-07', toStartOfHour(now()) - INTERVAL 12 HOUR, NULL, 'connectivity', 'https://tickets.example/t-1', 'does not unlock', 1;

-- 50,000 bytes in each hour, by the modem's count; 45,000 by the gateway's.
INSERT INTO usage_days (device_id, day, iccid, plmn, state, heartbeats, modem_tx_bytes, modem_rx_bytes, gateway_tx_bytes, gateway_rx_bytes, gateway_messages, settled)
SELECT concat('scooter-', leftPad(toString(number), 2, '0')), toDate('2026-07-25') + day, toString(8949100000000000000 + number), if(number % 2 = 0, '26202', '26201'),
    'parked', 144, 960000, 240000, 900000, 180000, 144, 1
FROM numbers(1, 30) AS d CROSS JOIN (SELECT arrayJoin(range(60)) AS day) AS e;

INSERT INTO usage_hours (device_id, source, counter, hour, iccid, plmn, state, heartbeats, tx_bytes, rx_bytes, messages, settled)
SELECT concat('scooter-', leftPad(toString(number), 2, '0')), source, 'c', toDateTime('2026-07-25 00:00:00', 'UTC') + INTERVAL hour HOUR,
    toString(8949100000000000000 + number), if(number % 2 = 0, '26202', '26201'), 'parked', 6,
    if(source = 'modem', 40000, 37500), if(source = 'modem', 10000, 7500), 6, 1
FROM numbers(1, 30) AS d CROSS JOIN (SELECT arrayJoin(range(60 * 24)) AS hour) AS h CROSS JOIN (SELECT arrayJoin(['modem', 'gateway']) AS source) AS s;

-- A gateway that told of itself all the time.
INSERT INTO nodes (node_id, epoch, event, at, version, sessions, lost_after_ms)
SELECT 'gw', 1, if(number = 0, 'started', 'alive'), toStartOfHour(now()) - INTERVAL 72 HOUR + INTERVAL 10 * number MINUTE, '1', 20, 1200000
FROM numbers(7 * 78) WHERE toStartOfHour(now()) - INTERVAL 72 HOUR + INTERVAL 10 * number MINUTE <= now();

-- Devices 1 to 25 have one session of two days; of 1 to 20 it stands, 21 to 25 lost theirs six hours ago. 26 to 30 were never seen.
INSERT INTO connections (device_id, session_id, event, at, connected_at, node_id, epoch, peer, protocol_level, keep_alive_s, transport, fleet)
SELECT concat('scooter-', leftPad(toString(number), 2, '0')) AS device, dateTimeToUUIDv7(began) AS session, 'connected', began, began, 'gw', 1, '192.0.2.1:5000', 5, 600, 'tls', 'berlin'
FROM (SELECT number, toStartOfHour(now()) - INTERVAL 48 HOUR AS began FROM numbers(1, 25));

INSERT INTO connections (device_id, session_id, event, at, connected_at, node_id, epoch, reason, bytes_in, bytes_out, messages_in)
SELECT device_id, session_id, 'disconnected', toStartOfHour(now()) - INTERVAL 6 HOUR, connected_at, 'gw', 1, 'keep_alive_timeout', 300000, 20000, 252
FROM connections WHERE device_id BETWEEN 'scooter-21' AND 'scooter-25' AND event = 'connected';

-- A heartbeat every ten minutes, 1,000 bytes each by the modem. Battery falls by 0.1 with each. Of every five devices one stands in one
-- cell; device 10 and 20 have old firmware; device 7 boots anew 24 hours ago. Their fields are told in groups: all but device 3 tell a position.
INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, session_id, node_id, session_bytes_in, session_bytes_out, session_messages_in,
    sequence, boot_id, uptime_s, firmware, state, next_s, battery_e2, battery_charging, latitude_e6, longitude_e6, rat, plmn, cell_id,
    rssi_e1, rsrp_e1, rsrq_e1, sinr_e1, iccid, imsi, imei, modem_tx_bytes, modem_rx_bytes, extra)
SELECT
    concat('scooter-', leftPad(toString(d), 2, '0')), at, n + 1, at + INTERVAL 1 SECOND, 'device', c.session_id, 'gw', 900 * (n + 1), 100 * (n + 1), n + 1,
    n + 1, if(d = 7 AND n >= 144, 'boot-2', 'boot-1'), 600 * if(d = 7 AND n >= 144, n - 143, n + 1), if(d % 10 = 0, '2.0.0', '2.1.0'), if(n % 6 = 5, 'riding', 'parked'), 600,
    9000 - 10 * n, false, if(d = 3, NULL, 52500000 + 1000 * d), if(d = 3, NULL, 13400000), 'LTE-M', if(d % 2 = 0, '26202', '26201'), 1000 + d % 5,
    -600 - 50 * (d % 5), -900 - 50 * (d % 5), -100 - 10 * (d % 5), 50, toString(8949100000000000000 + d), toString(262010000000000 + d), toString(490154203230000 + d),
    800 * if(d = 7 AND n >= 144, n - 143, n + 1), 200 * if(d = 7 AND n >= 144, n - 143, n + 1), if(d = 4, '{"motor_c":31}', '')
FROM
(
    SELECT d, n, toStartOfHour(now()) - INTERVAL 48 HOUR + INTERVAL 10 * n MINUTE AS at
    FROM (SELECT number AS d FROM numbers(1, 25)) AS a CROSS JOIN (SELECT number AS n FROM numbers(288 + 6)) AS b
) AS t
INNER JOIN (SELECT device_id, session_id FROM connections WHERE event = 'connected') AS c ON c.device_id = concat('scooter-', leftPad(toString(d), 2, '0'))
WHERE at <= now() AND (d <= 20 OR n < 252)
ORDER BY d, n;

-- A storm: twelve devices of nobody connect in one minute, ten hours ago, and go a minute later.
INSERT INTO connections (device_id, session_id, event, at, connected_at, node_id, epoch, peer, protocol_level, transport)
SELECT concat('guest-', toString(number)), dateTimeToUUIDv7(at), 'connected', at, at, 'gw', 1, '192.0.2.2:5000', 4, 'tcp'
FROM (SELECT number, toStartOfHour(now()) - INTERVAL 10 HOUR + INTERVAL number SECOND AS at FROM numbers(12));

INSERT INTO connections (device_id, session_id, event, at, connected_at, node_id, epoch, reason)
SELECT device_id, session_id, 'disconnected', connected_at + INTERVAL 1 MINUTE, connected_at, 'gw', 1, 'client'
FROM connections WHERE startsWith(device_id, 'guest-') AND event = 'connected';

-- One of them told of itself once, with a SIM that nobody knows.
INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, session_id, node_id, session_messages_in, iccid, imei)
SELECT device_id, connected_at + INTERVAL 5 SECOND, 1, connected_at + INTERVAL 6 SECOND, 'device', session_id, 'gw', 1, '8949100000000000099', '490154203239999'
FROM connections WHERE device_id = 'guest-0' AND event = 'connected';

INSERT INTO sim_sightings (iccid, imei, device_id, imsi, first_seen, last_seen)
SELECT iccid, imei, device_id, imsi, first_seen, last_seen FROM sim_sightings_since(since = '2000-01-01 00:00:00')
