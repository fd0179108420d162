-- Who has what in a fleet of {fleet}: five customers with twenty fleets each, four plans of which one has other prices from the twelfth day on, and a
-- SIM for each device, one in ten with another plan from the fifteenth day on.
INSERT INTO registry_customers (customer_id, name, country, billing_time_zone, billing_day, currency, version)
SELECT concat('customer-', toString(number)), concat('Scooters ', toString(number)), 'DE', 'Europe/Berlin', 1, 'EUR', 1 FROM numbers(5);

INSERT INTO registry_fleets (fleet_id, customer_id, name, city, country, version)
SELECT concat('fleet-', leftPad(toString(number), 2, '0')), concat('customer-', toString(number % 5)), concat('Fleet ', toString(number)), concat('City ', toString(number)), 'DE', 1
FROM numbers(100);

INSERT INTO registry_plans (plan_id, valid_from, valid_to, name, carrier, kind, currency, monthly_fee, included_mb, price_per_mb, tiers, mb_bytes, version)
WITH toDate({start}) AS day
SELECT
    p.1, p.2, p.3, p.1, 'carrier', p.4, 'EUR', toDecimal64(p.5, 6), toDecimal64(p.6, 6), toDecimal64(p.7, 6),
    if(p.4 = 'tiered', [(toDecimal64(0, 6), toDecimal64(0.02, 6)), (toDecimal64(50, 6), toDecimal64(0.01, 6))], []), 1000000, 1
FROM
(
    SELECT arrayJoin([
        ('by-megabyte', toDate('2020-01-01'), toNullable(day + 12), 'per_mb', 0.5, 0., 0.012),
        ('by-megabyte', day + 12, NULL, 'per_mb', 0.4, 0., 0.01),
        ('pool', toDate('2020-01-01'), NULL, 'pooled', 0.8, 20., 0.02),
        ('bulk', toDate('2020-01-01'), NULL, 'pooled', 2., 500., 0.005),
        ('tiers', toDate('2020-01-01'), NULL, 'tiered', 0.3, 0., 0.)
    ]) AS p
);

INSERT INTO registry_devices (device_id, fleet_id, name, model, imei, firmware_expected, iccid_expected, in_service_since, version)
SELECT
    concat('scooter-', leftPad(toString(number), 6, '0')), concat('fleet-', leftPad(toString(cityHash64(7, {source}) % 100), 2, '0')),
    concat('Scooter ', toString(number)), 'S2', concat('35693803', leftPad(toString(number), 7, '0')), '1.5.0',
    concat('89490200', leftPad(toString(number), 11, '0')), toDate({start}) - 100, 1
FROM numbers({fleet});

INSERT INTO registry_sims (iccid, imsi, carrier, version)
SELECT concat('89490200', leftPad(toString(number), 11, '0')), concat('26201', leftPad(toString(number), 10, '0')), 'carrier', 1 FROM numbers({fleet});

INSERT INTO sim_states (iccid, since, state, who, why, version)
SELECT concat('89490200', leftPad(toString(number), 11, '0')), {start} - toIntervalDay(100 - 90 * step), if(step = 0, 'inventory', 'live'), 'bench', '', 1
FROM numbers({fleet}) ARRAY JOIN [0, 1] AS step;

INSERT INTO sim_plans (iccid, since, plan_id, who, why, version)
SELECT
    concat('89490200', leftPad(toString(number), 11, '0')), if(step = 0, toDateTime64(0, 3, 'UTC'), {start} + toIntervalDay(15)),
    ['by-megabyte', 'pool', 'bulk', 'tiers'][1 + (cityHash64(number, 51) + step) % 4], 'bench', '', 1
FROM numbers({fleet}) ARRAY JOIN [0, 1] AS step
WHERE step = 0 OR number % 10 = 0
