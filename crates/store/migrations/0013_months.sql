-- Usage as a month of a fleet asks for it: a row for each month with its days side by side, and a row for each day with its hours. Both are
-- settled like the days (crates/store/src/settle), out of the same rows.

-- Runs of before did not settle these tables: what they touched is touched for the first run that does.
ALTER TABLE settle_runs ADD COLUMN IF NOT EXISTS rollups UInt8 DEFAULT 0 COMMENT '1: it settled usage_months and usage_day_hours, too';

-- when: SELECT max(rollups) = 0 FROM settle_runs
INSERT INTO settle_runs (run, since, devices, late, took_ms, rollups)
SELECT r.run, r.since, r.devices, r.late, r.took_ms, 1 FROM settle_runs AS r ORDER BY r.run DESC LIMIT 1;

-- What a device moved in a month (UTC), by SIM, network and state: the days on which it moved something, counted from 0, and as many figures.
-- `modem_bytes` and `gateway_bytes`: both ways together.
CREATE TABLE IF NOT EXISTS usage_months
(
    month         Date                                   CODEC(DoubleDelta, ZSTD(1)),
    device_id     String                                 CODEC(ZSTD(1)),
    iccid         String                                 CODEC(ZSTD(1)),
    plmn          LowCardinality(String),
    state         LowCardinality(String),
    days          Array(UInt8)                           CODEC(ZSTD(1)),
    heartbeats    Array(UInt32)                          CODEC(T64, ZSTD(1)),
    modem_bytes   Array(UInt64)                          CODEC(T64, ZSTD(1)),
    gateway_bytes Array(UInt64)                          CODEC(T64, ZSTD(1)),
    settled       UInt64                                 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(settled)
PARTITION BY toYYYYMM(month)
ORDER BY (month, device_id, iccid, plmn, state);

-- The same of a day with its hours, all devices of a day next to each other: months that do not begin at midnight of UTC, and plans that
-- change within a day. An hour stands more than once where several counters moved in it.
CREATE TABLE IF NOT EXISTS usage_day_hours
(
    day           Date                                   CODEC(DoubleDelta, ZSTD(1)),
    iccid         String                                 CODEC(ZSTD(1)),
    device_id     String                                 CODEC(ZSTD(1)),
    plmn          LowCardinality(String),
    state         LowCardinality(String),
    modem_hours   Array(UInt8)                           CODEC(ZSTD(1)),
    heartbeats    Array(UInt32)                          CODEC(T64, ZSTD(1)),
    modem_bytes   Array(UInt64)                          CODEC(T64, ZSTD(1)),
    gateway_hours Array(UInt8)                           CODEC(ZSTD(1)),
    gateway_bytes Array(UInt64)                          CODEC(T64, ZSTD(1)),
    settled       UInt64                                 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(settled)
PARTITION BY toYYYYMM(day)
ORDER BY (day, iccid, device_id, plmn, state)
TTL day + INTERVAL 3 YEAR
SETTINGS ttl_only_drop_parts = 1;

-- Out of what was settled before. A later run has a later version; repeated, the rows are the same. In the order of devices, so that memory
-- is bounded.
-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'usage_days' AND total_rows > 0
INSERT INTO usage_months
SELECT
    toStartOfMonth(day) AS month, device_id, iccid, plmn, state,
    groupArrayIf(toUInt8(toDayOfMonth(day) - 1), moved) AS days,
    groupArrayIf(d.heartbeats, moved) AS heartbeats,
    groupArrayIf(d.modem_bytes, moved) AS modem_bytes,
    groupArrayIf(d.gateway_bytes, moved) AS gateway_bytes,
    max(d.version) AS settled
FROM
(
    SELECT device_id, day, iccid, plmn, state, heartbeats, modem_tx_bytes + modem_rx_bytes AS modem_bytes, gateway_tx_bytes + gateway_rx_bytes AS gateway_bytes,
        settled AS version, heartbeats + modem_bytes + gateway_bytes > 0 AS moved
    FROM usage_days FINAL
) AS d
GROUP BY device_id, month, iccid, plmn, state
SETTINGS optimize_aggregation_in_order = 1, max_threads = 1, max_partitions_per_insert_block = 0;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'usage_hours' AND total_rows > 0
INSERT INTO usage_day_hours
SELECT
    toDate(hour, 'UTC') AS day, iccid, device_id, plmn, state,
    groupArrayIf(toHour(hour, 'UTC'), is_modem) AS modem_hours,
    groupArrayIf(h.heartbeats, is_modem) AS heartbeats,
    groupArrayIf(h.bytes, is_modem) AS modem_bytes,
    groupArrayIf(toHour(hour, 'UTC'), is_gateway) AS gateway_hours,
    groupArrayIf(h.bytes, is_gateway) AS gateway_bytes,
    max(h.version) AS settled
FROM
(
    SELECT device_id, hour, iccid, plmn, state, heartbeats, tx_bytes + rx_bytes AS bytes, settled AS version,
        source = 'modem' AND heartbeats + bytes > 0 AS is_modem, source = 'gateway' AND bytes > 0 AS is_gateway
    FROM usage_hours FINAL
) AS h
GROUP BY device_id, day, iccid, plmn, state
SETTINGS optimize_aggregation_in_order = 1, max_threads = 1, max_partitions_per_insert_block = 0;

-- From when (included) to when (excluded) the billing month that begins in the month of {month} lasts: as before, in
-- steps. The offset that holds at the moment itself is the one to go by, not the one that holds at the same time in UTC.
CREATE OR REPLACE VIEW billing_months AS
WITH zone_text -> 60 * (60 * toInt32(substring(zone_text, 1, 3)) + toInt32(concat(substring(zone_text, 1, 1), substring(zone_text, 4, 2)))) AS seconds
SELECT
    customer_id, name, currency, billing_time_zone, billing_day, fee_per_device, markup_percent, tax_percent, month,
    from_wall - toIntervalSecond(seconds(formatDateTime(from_near, '%z', billing_time_zone))) AS from_at,
    to_wall - toIntervalSecond(seconds(formatDateTime(to_near, '%z', billing_time_zone))) AS to_at
FROM
(
    SELECT
        *,
        from_wall - toIntervalSecond(seconds(formatDateTime(from_wall, '%z', billing_time_zone))) AS from_near,
        to_wall - toIntervalSecond(seconds(formatDateTime(to_wall, '%z', billing_time_zone))) AS to_near
    FROM
    (
        SELECT
            *, toStartOfMonth({month:Date}) AS month, toDateTime(month + (billing_day - 1), 'UTC') AS from_wall,
            toDateTime(addMonths(month, 1) + (billing_day - 1), 'UTC') AS to_wall
        FROM
        (
            SELECT customer_id, name, toString(c.currency) AS currency, if(c.billing_time_zone = '', 'UTC', c.billing_time_zone) AS billing_time_zone,
                greatest(c.billing_day, 1) AS billing_day, fee_per_device, markup_percent, tax_percent
            FROM customers AS c
            UNION ALL
            SELECT '', 'no customer', '', 'UTC', 1, NULL, NULL, NULL
        )
    )
);

-- Usage of the billing month of each device's own customer, by device, SIM, network, state and the plan that the SIM had then: whole days
-- out of the months, and out of the days' hours what lies between their edges and the month's, added or taken away. Where a plan changes within a
-- day, its hours. A plan that changes within an hour counts from the next one on. `plan_id` is empty where the SIM has no plan with valid
-- conditions.
CREATE OR REPLACE VIEW billing_usage AS
WITH
    -- As one value, so that it is worked out once.
    (
        SELECT groupArray((customer_id, from_at, to_at, toDate(from_at + INTERVAL 12 HOUR, 'UTC'), toDate(to_at + INTERVAL 12 HOUR, 'UTC')))
        FROM billing_months(month = {month:Date})
    ) AS month_list,
    arrayMin(m -> m.4, month_list) AS from_day,
    arrayMax(m -> m.5, month_list) AS to_day,
    months AS
    (
        SELECT m.1 AS customer_id, m.4 AS first_day, toUnixTimestamp64Milli(toDateTime64(m.2, 3, 'UTC')) AS from_ms, toUnixTimestamp64Milli(toDateTime64(m.3, 3, 'UTC')) AS to_ms,
            toUnixTimestamp64Milli(toDateTime64(m.4, 3, 'UTC')) AS first_ms, toUnixTimestamp64Milli(toDateTime64(m.5, 3, 'UTC')) AS end_ms
        FROM (SELECT arrayJoin(month_list) AS m)
    ),
    -- Days that belong to a month in part.
    edges AS
    (
        SELECT arrayJoin(arrayFilter(day -> day.1, [
            (m.2 != toDateTime(m.4, 'UTC'), toDate(least(m.2, toDateTime(m.4, 'UTC')), 'UTC')),
            (m.3 != toDateTime(m.5, 'UTC'), toDate(least(m.3, toDateTime(m.5, 'UTC')), 'UTC'))])).2 AS day
        FROM (SELECT arrayJoin(month_list) AS m)
    ),
    -- SIMs that change their plan within a day.
    broken AS
    (
        SELECT toDate(c.since, 'UTC') AS day, c.iccid AS iccid
        FROM sim_plans AS c
        WHERE c.since >= toDateTime64(from_day - 1, 3, 'UTC') AND c.since < toDateTime64(to_day + 1, 3, 'UTC') AND c.since != toDateTime64(toDate(c.since, 'UTC'), 3, 'UTC')
    ),
    spans AS
    (
        SELECT iccid, toUnixTimestamp64Milli(span.1) AS since_ms, toUnixTimestamp64Milli(span.2) AS until_ms, span.3 AS plan_id, span.4 AS valid_from
        FROM
        (
            SELECT iccid, arrayJoin(arrayFilter(s -> s.1 < s.2, [
                (since, until, plan_id, valid_from),
                (before, since, '', toDate(0)),
                (if(next = '', until, toDateTime64('2200-01-01 00:00:00', 3, 'UTC')), toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), '', toDate(0))])) AS span
            FROM
            (
                SELECT iccid, since, until, toString(t.plan_id) AS plan_id, valid_from,
                    lagInFrame(until, 1, toDateTime64('1970-01-01 00:00:00', 3, 'UTC')) OVER turn AS before,
                    leadInFrame(iccid) OVER turn AS next
                FROM sim_plan_terms AS t
                WINDOW turn AS (PARTITION BY iccid ORDER BY since ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)
            )
        )
        WHERE span.1 < toDateTime64(to_day + 1, 3, 'UTC') AND span.2 > toDateTime64(from_day - 1, 3, 'UTC')
    )
SELECT
    any(c.customer_id) AS customer_id,
    any(c.fleet_id) AS fleet_id,
    device_id,
    iccid,
    toString(c.plmn) AS plmn,
    toString(c.state) AS state,
    c.plan_id != '' AS has_terms,
    plan_id,
    valid_from,
    toUInt64(greatest(sum(c.heartbeats), 0)) AS heartbeats,
    toUInt64(greatest(sum(c.modem), 0)) AS modem_bytes,
    toUInt64(greatest(sum(c.gateway), 0)) AS gateway_bytes
FROM
(
    SELECT
        device_id, iccid, plmn, state, customer_id, fleet_id, plan_id, valid_from, sign, from_unit, to_unit,
        sign * toInt64(arraySum(arrayMap((value, at) -> if(at >= from_unit AND at < to_unit, value, 0), r.heartbeats, modem_at))) AS heartbeats,
        sign * toInt64(arraySum(arrayMap((value, at) -> if(at >= from_unit AND at < to_unit, value, 0), r.modem_bytes, modem_at))) AS modem,
        sign * toInt64(arraySum(arrayMap((value, at) -> if(at >= from_unit AND at < to_unit, value, 0), r.gateway_bytes, gateway_at))) AS gateway
    FROM
    (
        SELECT device_id, iccid, plmn, state, customer_id, fleet_id, plan_id, valid_from, heartbeats, modem_bytes, gateway_bytes, modem_at, gateway_at,
            part.3 AS sign,
            toUInt8(least(intDiv(greatest(since, part.1 - base_ms, 0) + unit - 1, unit), 31)) AS from_unit,
            toUInt8(least(intDiv(greatest(least(until, part.2 - base_ms), 0) + if(is_month, 0, unit - 1), unit), 31)) AS to_unit
        FROM
        (
            SELECT *,
                -- Of a month the whole days; of a day the hours between the days' edge and the month's, or all of them where the plan changes.
                multiIf(
                    is_month, (first_ms, end_ms, 1),
                    NOT is_month AND ((since > 0 AND since < 86400000) OR (until > 0 AND until < 86400000)), (from_ms, to_ms, 1),
                    base <= first_day, (least(from_ms, first_ms), greatest(from_ms, first_ms), if(from_ms < first_ms, 1, -1)),
                    (least(to_ms, end_ms), greatest(to_ms, end_ms), if(to_ms > end_ms, 1, -1))) AS part,
                if(is_month, 86400000, 3600000) AS unit
            FROM
            (
                SELECT
                    p.device_id AS device_id, p.iccid AS iccid, p.plmn AS plmn, p.state AS state, o.customer_id AS customer_id, o.fleet_id AS fleet_id,
                    s.plan_id AS plan_id, s.valid_from AS valid_from, p.base AS base, p.is_month AS is_month,
                    p.heartbeats AS heartbeats, p.modem_bytes AS modem_bytes, p.gateway_bytes AS gateway_bytes,
                    p.modem_at AS modem_at, p.gateway_at AS gateway_at,
                    m.first_ms AS first_ms, m.end_ms AS end_ms, m.from_ms AS from_ms, m.to_ms AS to_ms, m.first_day AS first_day,
                    toUnixTimestamp64Milli(toDateTime64(p.base, 3, 'UTC')) AS base_ms,
                    -- A SIM that never had conditions has no span.
                    s.since_ms - base_ms AS since, if(s.until_ms = 0, 7258118400000, s.until_ms) - base_ms AS until
                FROM
                (
                    SELECT true AS is_month, month AS base, device_id, iccid, plmn, state, days AS modem_at, heartbeats, modem_bytes,
                        days AS gateway_at, gateway_bytes
                    FROM usage_months FINAL
                    WHERE month >= toStartOfMonth(from_day) AND month < to_day
                    UNION ALL
                    SELECT false, day, device_id, iccid, plmn, state, modem_hours, heartbeats, modem_bytes, gateway_hours, gateway_bytes
                    FROM usage_day_hours FINAL
                    WHERE day IN (SELECT day FROM edges) OR (day, iccid) IN (SELECT day, iccid FROM broken)
                ) AS p
                LEFT JOIN device_owners AS o ON o.device_id = p.device_id
                INNER JOIN months AS m ON m.customer_id = o.customer_id
                LEFT JOIN spans AS s ON s.iccid = p.iccid
            )
        )
    ) AS r
    WHERE from_unit < to_unit
) AS c
GROUP BY device_id, iccid, plmn, state, plan_id, valid_from
HAVING heartbeats + modem_bytes + gateway_bytes > 0;

-- What each SIM used and cost in the billing month of its customer, a row for each span of conditions that it had: docs/reports.md says by
-- which rules. `priced` is false where no conditions are known; its cost is then 0. `share` is the part of the month for which the fee is due. `parts`: its
-- usage by (fleet, device, network, state), with heartbeats and bytes by both counts.
CREATE OR REPLACE VIEW sim_months AS
WITH
    used AS (SELECT * FROM billing_usage(month = {month:Date})),
    (SELECT groupArray((customer_id, from_at, to_at)) FROM billing_months(month = {month:Date})) AS month_list,
    months AS (SELECT m.1 AS customer_id, m.2 AS from_at, m.3 AS to_at FROM (SELECT arrayJoin(month_list) AS m)),
    owners AS
    (
        SELECT iccid, argMax((customer_id, fleet_id, device_id), (rank, weight)) AS owner
        FROM
        (
            SELECT d.iccid_expected AS iccid, o.customer_id AS customer_id, o.fleet_id AS fleet_id, o.device_id AS device_id,
                2 AS rank, toUInt64(0) AS weight
            FROM devices AS d INNER JOIN device_owners AS o ON o.device_id = d.device_id
            WHERE d.iccid_expected != ''
            UNION ALL
            SELECT s.iccid, o.customer_id, o.fleet_id, s.device_id, 1, toUInt64(toUnixTimestamp(max(s.last_seen)))
            FROM sim_sightings AS s LEFT JOIN device_owners AS o ON o.device_id = s.device_id
            GROUP BY s.iccid, o.customer_id, o.fleet_id, s.device_id
        )
        GROUP BY iccid
    ),
    due AS
    (
        SELECT
            o.owner.1 AS customer_id, o.owner.2 AS fleet_id, o.owner.3 AS device_id, t.iccid AS iccid, toString(t.plan_id) AS plan_id,
            t.valid_from AS valid_from,
            sum(greatest(dateDiff('second',
                greatest(t.since, s.since, toDateTime64(m.from_at, 3, 'UTC')),
                least(t.until, s.until, toDateTime64(m.to_at, 3, 'UTC'))), 0)) AS due_s
        FROM sim_plan_terms AS t
        INNER JOIN (SELECT * FROM sim_state_spans WHERE state IN ('testing', 'live', 'paused')) AS s ON s.iccid = t.iccid
        LEFT JOIN owners AS o ON o.iccid = t.iccid
        INNER JOIN months AS m ON m.customer_id = o.owner.1
        WHERE t.since < m.to_at AND t.until > m.from_at AND s.since < m.to_at AND s.until > m.from_at
        GROUP BY customer_id, fleet_id, device_id, iccid, plan_id, valid_from
    )
SELECT
    customer_id, fleet_id, device_id, iccid, plan_id, valid_from, priced, plan_name, carrier, kind, currency, mb_bytes, from_at, to_at,
    heartbeats, modem_bytes, gateway_bytes, bytes, mb, share, fee, included_mb, parts,
    multiIf(
        kind = 'pooled', if(pool_mb > pool_included_mb AND pool_mb > 0,
            CAST(CAST(pool_mb - pool_included_mb AS Decimal(38, 6)) * CAST(mb AS Decimal(38, 6)) / pool_mb AS Decimal(38, 6)), toDecimal128(0, 6)),
        greatest(mb - included_mb, toDecimal128(0, 6))) AS overage_mb,
    toDecimal64(multiIf(
        NOT priced, toDecimal128(0, 6),
        kind = 'tiered', tier_cost,
        CAST(overage_mb * price_per_mb AS Decimal(38, 6))), 6) AS overage,
    toDecimal64(fee + overage, 6) AS cost
FROM
(
    SELECT
        g.customer_id AS customer_id, g.fleet_id AS fleet_id, g.device_id AS device_id, g.iccid AS iccid, g.plan_id AS plan_id,
        g.valid_from AS valid_from, g.due_s AS due_s, g.heartbeats AS heartbeats, g.modem_bytes AS modem_bytes, g.gateway_bytes AS gateway_bytes, g.parts AS parts,
        m.from_at AS from_at,
        m.to_at AS to_at,
        p.plan_id != '' AS priced,
        p.name AS plan_name,
        toString(p.carrier) AS carrier,
        if(priced, toString(p.kind), '') AS kind,
        toString(p.currency) AS currency,
        if(p.mb_bytes = 0, 1000000, p.mb_bytes) AS mb_bytes,
        p.price_per_mb AS price_per_mb,
        -- What a carrier counts is nearer to the modem's count; the gateway's stands in where the modem told none.
        if(g.modem_bytes > 0, g.modem_bytes, g.gateway_bytes) AS bytes,
        toDecimal128(bytes, 6) / mb_bytes AS mb,
        toDecimal64(g.due_s, 6) / dateDiff('second', m.from_at, m.to_at) AS share,
        toDecimal64(CAST(toDecimal128(p.monthly_fee, 6) * g.due_s / dateDiff('second', m.from_at, m.to_at) AS Decimal(38, 6)), 6) AS fee,
        CAST(toDecimal128(p.included_mb, 6) * g.due_s / dateDiff('second', m.from_at, m.to_at) AS Decimal(38, 6)) AS included_mb,
        sum(mb) OVER pool AS pool_mb,
        sum(included_mb) OVER pool AS pool_included_mb,
        arraySort(t -> t.1, p.tiers) AS steps,
        arraySum(arrayMap(
            (step, next) -> CAST(greatest(least(mb, next) - greatest(toDecimal128(step.1, 6), included_mb), toDecimal128(0, 6)) * step.2 AS Decimal(38, 6)),
            steps,
            arrayPushBack(arrayMap(step -> toDecimal128(step.1, 6), arrayPopFront(steps)), toDecimal128('1000000000000', 6)))) AS tier_sum,
        if(empty(steps), toDecimal128(0, 6), tier_sum) AS tier_cost
    FROM
    (
        SELECT customer_id, argMax(b.fleet_id, b.bytes) AS fleet_id, argMax(b.device_id, b.bytes) AS device_id, iccid, plan_id, valid_from,
            sum(b.due_s) AS due_s, sum(b.heartbeats) AS heartbeats, sum(b.modem_bytes) AS modem_bytes, sum(b.gateway_bytes) AS gateway_bytes,
            groupArrayIf((b.fleet_id, b.device_id, b.plmn, b.state, b.heartbeats, b.modem_bytes, b.gateway_bytes), b.bytes > 0) AS parts
        FROM
        (
            SELECT customer_id, fleet_id, device_id, iccid, plan_id, valid_from, due_s, toUInt64(0) AS heartbeats, toUInt64(0) AS modem_bytes,
                toUInt64(0) AS gateway_bytes, toUInt64(0) AS bytes, '' AS plmn, '' AS state
            FROM due
            UNION ALL
            SELECT customer_id, fleet_id, device_id, iccid, plan_id, valid_from, 0, heartbeats, modem_bytes, gateway_bytes, modem_bytes + gateway_bytes + 1, plmn, state
            FROM used
        ) AS b
        GROUP BY customer_id, iccid, plan_id, valid_from
    ) AS g
    INNER JOIN months AS m ON m.customer_id = g.customer_id
    LEFT JOIN plans AS p ON p.plan_id = g.plan_id AND p.valid_from = g.valid_from
    WINDOW pool AS (PARTITION BY g.customer_id, g.plan_id, g.valid_from)
)
