-- What SIMs cost, settled: `sim_months` is read out of a table. To work a month out takes a second and more, most of it for prices, and reports of
-- money ask for it again and again. Settling writes a month anew once something that it is made of has changed (crates/store/src/settle/costs.rs).

-- From when (included) to when (excluded) the billing month that begins in the month of {month} lasts: as before, in
-- steps. The offset that holds at the moment itself is the one to go by, not the one that holds at the same time in UTC. It is what a clock there
-- shows, less what one of UTC does: ClickHouse's own (`%z`) is a day off where the date line was moved (-10 hours for Kiritimati, which has +14).
CREATE OR REPLACE VIEW billing_months AS
WITH (at, zone) -> dateDiff('second', at, toDateTime(formatDateTime(at, '%F %T', zone), 'UTC')) AS offset_s
SELECT
    customer_id, name, currency, billing_time_zone, billing_day, fee_per_device, markup_percent, tax_percent, month,
    from_wall - toIntervalSecond(offset_s(from_near, billing_time_zone)) AS from_at,
    to_wall - toIntervalSecond(offset_s(to_near, billing_time_zone)) AS to_at
FROM
(
    SELECT
        *,
        from_wall - toIntervalSecond(offset_s(from_wall, billing_time_zone)) AS from_near,
        to_wall - toIntervalSecond(offset_s(to_wall, billing_time_zone)) AS to_near
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

-- What `sim_months_now` said of a month, when it was settled. A run is a partition of its own, so that one that is replaced is dropped whole.
CREATE TABLE IF NOT EXISTS sim_months_settled
(
    month         Date                           CODEC(ZSTD(1)),
    run           UInt64                         CODEC(ZSTD(1)),
    customer_id   String                         CODEC(ZSTD(1)),
    fleet_id      String                         CODEC(ZSTD(1)),
    device_id     String                         CODEC(ZSTD(1)),
    iccid         String                         CODEC(ZSTD(1)),
    plan_id       String                         CODEC(ZSTD(1)),
    valid_from    Date                           CODEC(ZSTD(1)),
    priced        UInt8                          CODEC(ZSTD(1)),
    plan_name     String                         CODEC(ZSTD(1)),
    carrier       LowCardinality(String),
    kind          String                         CODEC(ZSTD(1)),
    currency      LowCardinality(String),
    mb_bytes      UInt32                         CODEC(ZSTD(1)),
    from_at       DateTime('UTC')                CODEC(ZSTD(1)),
    to_at         DateTime('UTC')                CODEC(ZSTD(1)),
    heartbeats    UInt64                         CODEC(T64, ZSTD(1)),
    modem_bytes   UInt64                         CODEC(T64, ZSTD(1)),
    gateway_bytes UInt64                         CODEC(T64, ZSTD(1)),
    bytes         UInt64                         CODEC(T64, ZSTD(1)),
    mb            Decimal(38, 6)                 CODEC(ZSTD(1)),
    share         Decimal(18, 6)                 CODEC(ZSTD(1)),
    fee           Decimal(18, 6)                 CODEC(ZSTD(1)),
    included_mb   Decimal(38, 6)                 CODEC(ZSTD(1)),
    parts         Array(Tuple(String, String, String, String, UInt64, UInt64, UInt64)) CODEC(ZSTD(1)),
    overage_mb    Decimal(38, 6)                 CODEC(ZSTD(1)),
    overage       Decimal(18, 6)                 CODEC(ZSTD(1)),
    cost          Decimal(18, 6)                 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (month, run)
ORDER BY (customer_id, iccid, plan_id, valid_from);

-- The run of each month that stands: written when all rows of the run are there. `inputs`: all that the month was made of, as one number.
CREATE TABLE IF NOT EXISTS sim_month_runs
(
    month         Date                           CODEC(ZSTD(1)),
    run           UInt64                         CODEC(ZSTD(1)),
    inputs        UInt64                         CODEC(ZSTD(1)),
    took_ms       UInt64                         CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(run)
ORDER BY month;

-- What each SIM used and cost in the billing month of its customer, worked out now, a row for each span of conditions that it had: docs/reports.md
-- says by which rules. `priced` is false where no conditions are known, and its cost is then 0. `share` is the part of the month for which the fee is
-- due. `parts`: its usage by (fleet, device, network, state), with heartbeats and bytes by both counts.
CREATE OR REPLACE VIEW sim_months_now AS
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
        -- Of a petabyte at most: a device may tell what it likes, and must not make the month of all others too much for a decimal, nor a pool wrap around.
        toDecimal128(least(bytes, toUInt64(1000000000000000)), 6) / mb_bytes AS mb,
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
);

-- The same as it was settled last. A month that was not settled is refused, and not answered with nothing.
CREATE OR REPLACE VIEW sim_months AS
SELECT * EXCEPT (month, run)
FROM sim_months_settled
WHERE month = toStartOfMonth({month:Date}) AND run =
(
    SELECT max(r.run) + throwIf(max(r.run) = 0,
        'costs of this month are not settled: on one server the writers or `fleetpulse settle` do it, from the month before the first usage or state of a SIM to the next month (docs/reports.md)')
    FROM sim_month_runs AS r
    WHERE r.month = toStartOfMonth({month:Date})
)
