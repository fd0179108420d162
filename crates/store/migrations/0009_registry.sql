-- What people know of the fleet: who owns it, which SIM should be where, what it costs. Small tables, each row as it is now: the highest
-- version of a key stands, one with `deleted` stands for nothing. Written by `crates/registry` alone; read through the views below,
-- which carry the plain names. What a column means stands in docs/registry.md.

CREATE TABLE IF NOT EXISTS registry_customers
(
    customer_id       String,
    name              String,
    country           LowCardinality(String),
    billing_time_zone String,
    billing_day       UInt8,
    currency          LowCardinality(String),
    fee_per_device    Nullable(Decimal(18, 6)),
    markup_percent    Nullable(Decimal(18, 6)),
    tax_percent       Nullable(Decimal(18, 6)),
    version           UInt64,
    deleted           Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY customer_id;

CREATE TABLE IF NOT EXISTS registry_fleets
(
    fleet_id         String,
    customer_id      String,
    name             String,
    city             String,
    country          LowCardinality(String),
    rides_per_day    Nullable(Decimal(18, 6)),
    value_per_ride   Nullable(Decimal(18, 6)),
    value_per_minute Nullable(Decimal(18, 6)),
    version          UInt64,
    deleted          Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY fleet_id;

CREATE TABLE IF NOT EXISTS registry_devices
(
    device_id         String,
    fleet_id          LowCardinality(String),
    name              String,
    model             LowCardinality(String),
    imei              String,
    firmware_expected LowCardinality(String),
    iccid_expected    String,
    purchase_cost     Nullable(Decimal(18, 6)),
    in_service_since  Nullable(Date),
    note              String,
    version           UInt64,
    deleted           Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY device_id;

-- State and plan of a SIM stand in their histories below.
CREATE TABLE IF NOT EXISTS registry_sims
(
    iccid   String,
    imsi    String,
    eid     String,
    msisdn  String,
    carrier LowCardinality(String),
    version UInt64,
    deleted Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY iccid;

-- From `since` on the SIM is in that state, until its next row.
CREATE TABLE IF NOT EXISTS sim_states
(
    iccid   String,
    since   DateTime64(3, 'UTC'),
    state   Enum8('inventory' = 1, 'testing' = 2, 'live' = 3, 'paused' = 4, 'retired' = 5),
    who     LowCardinality(String),
    why     String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version) ORDER BY (iccid, since);

-- From `since` on the SIM has that plan, until its next row. A plan that it always had: since 1970.
CREATE TABLE IF NOT EXISTS sim_plans
(
    iccid   String,
    since   DateTime64(3, 'UTC'),
    plan_id LowCardinality(String),
    who     LowCardinality(String),
    why     String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version) ORDER BY (iccid, since);

CREATE TABLE IF NOT EXISTS registry_plans
(
    plan_id      String,
    valid_from   Date,
    valid_to     Nullable(Date)       COMMENT 'the first day on which it is not valid any more',
    name         String,
    carrier      LowCardinality(String),
    kind         Enum8('per_mb' = 1, 'pooled' = 2, 'tiered' = 3),
    currency     LowCardinality(String),
    monthly_fee  Decimal(18, 6),
    included_mb  Decimal(18, 6),
    price_per_mb Decimal(18, 6),
    tiers        Array(Tuple(from_mb Decimal(18, 6), price_per_mb Decimal(18, 6))),
    mb_bytes     UInt32,
    version      UInt64,
    deleted      Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY (plan_id, valid_from);

-- Of a customer or of a fleet: the other one is empty.
CREATE TABLE IF NOT EXISTS registry_budgets
(
    customer_id String,
    fleet_id    String,
    month       Date                  COMMENT 'its first day',
    amount      Decimal(18, 6),
    currency    LowCardinality(String),
    version     UInt64,
    deleted     Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY (customer_id, fleet_id, month);

CREATE TABLE IF NOT EXISTS registry_shipments
(
    shipment_id String,
    device_id   String,
    shipped_at  DateTime64(3, 'UTC'),
    destination String,
    version     UInt64,
    deleted     Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY (shipment_id, device_id);

CREATE TABLE IF NOT EXISTS registry_tickets
(
    ticket_id String,
    device_id String,
    opened_at DateTime64(3, 'UTC'),
    closed_at Nullable(DateTime64(3, 'UTC')),
    category  LowCardinality(String),
    link      String,
    title     String,
    version   UInt64,
    deleted   Bool DEFAULT false
)
ENGINE = ReplacingMergeTree(version) ORDER BY ticket_id;

-- Who changed what, when and why. `kind` is the view, `id` its key; values as they are exported.
CREATE TABLE IF NOT EXISTS registry_changes
(
    kind    LowCardinality(String),
    id      String,
    version UInt64                    COMMENT 'of the row that it made',
    at      DateTime64(3, 'UTC')      CODEC(Delta, ZSTD(1)),
    change  Enum8('created' = 1, 'changed' = 2, 'deleted' = 3),
    who     LowCardinality(String),
    why     LowCardinality(String),
    what    Array(Tuple(field LowCardinality(String), before String, after String)) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree ORDER BY (kind, id, version);

CREATE OR REPLACE VIEW customers AS SELECT * EXCEPT (deleted) FROM registry_customers FINAL WHERE NOT deleted;

CREATE OR REPLACE VIEW fleets AS SELECT * EXCEPT (deleted) FROM registry_fleets FINAL WHERE NOT deleted;

CREATE OR REPLACE VIEW devices AS SELECT * EXCEPT (deleted) FROM registry_devices FINAL WHERE NOT deleted;

CREATE OR REPLACE VIEW plans AS SELECT * EXCEPT (deleted) FROM registry_plans FINAL WHERE NOT deleted;

CREATE OR REPLACE VIEW budgets AS SELECT * EXCEPT (deleted) FROM registry_budgets FINAL WHERE NOT deleted;

CREATE OR REPLACE VIEW shipments AS SELECT * EXCEPT (deleted) FROM registry_shipments FINAL WHERE NOT deleted;

CREATE OR REPLACE VIEW tickets AS SELECT * EXCEPT (deleted) FROM registry_tickets FINAL WHERE NOT deleted;

-- In which state a SIM was from when (included) to when (excluded); the last one lasts for ever.
CREATE OR REPLACE VIEW sim_state_spans AS
SELECT
    iccid,
    state,
    since,
    leadInFrame(since, 1, toDateTime64('2200-01-01 00:00:00', 3, 'UTC')) OVER next AS until,
    who,
    why
FROM sim_states FINAL
WINDOW next AS (PARTITION BY iccid ORDER BY since ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING);

-- Which plan a SIM had from when (included) to when (excluded).
CREATE OR REPLACE VIEW sim_plan_spans AS
SELECT
    iccid,
    plan_id,
    since,
    leadInFrame(since, 1, toDateTime64('2200-01-01 00:00:00', 3, 'UTC')) OVER next AS until
FROM sim_plans FINAL
WINDOW next AS (PARTITION BY iccid ORDER BY since ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING);

-- The same with the plan's conditions: a row for each span of validity that meets the SIM's, cut to what both have. A SIM whose plan has
-- no valid conditions at a time has no row there.
CREATE OR REPLACE VIEW sim_plan_terms AS
SELECT
    s.iccid AS iccid,
    s.plan_id AS plan_id,
    greatest(s.since, toDateTime64(p.valid_from, 3, 'UTC')) AS since,
    least(s.until, toDateTime64(ifNull(p.valid_to, toDate('2149-06-06')), 3, 'UTC')) AS until,
    p.valid_from AS valid_from,
    p.valid_to AS valid_to,
    p.name AS plan_name,
    p.carrier AS carrier,
    p.kind AS kind,
    p.currency AS currency,
    p.monthly_fee AS monthly_fee,
    p.included_mb AS included_mb,
    p.price_per_mb AS price_per_mb,
    p.tiers AS tiers,
    p.mb_bytes AS mb_bytes
FROM sim_plan_spans AS s
INNER JOIN plans AS p ON p.plan_id = s.plan_id
WHERE greatest(s.since, toDateTime64(p.valid_from, 3, 'UTC'))
    < least(s.until, toDateTime64(ifNull(p.valid_to, toDate('2149-06-06')), 3, 'UTC'));

-- State and plan of each SIM at a time: SELECT * FROM sims_at(at = '2026-01-01 00:00:00'). A SIM that nobody knew then has an empty state;
-- `has_terms` says whether its plan had conditions then.
CREATE OR REPLACE VIEW sims_at AS
SELECT
    r.iccid AS iccid,
    if(s.iccid = '', '', toString(s.state)) AS state,
    s.since AS state_since,
    p.plan_id AS plan_id,
    p.since AS plan_since,
    t.iccid != '' AS has_terms,
    t.kind AS kind,
    t.currency AS currency,
    t.monthly_fee AS monthly_fee,
    t.included_mb AS included_mb,
    t.price_per_mb AS price_per_mb,
    t.tiers AS tiers,
    t.mb_bytes AS mb_bytes
FROM (SELECT iccid FROM registry_sims FINAL WHERE NOT deleted) AS r
LEFT JOIN (SELECT * FROM sim_state_spans WHERE since <= {at:DateTime64(3, 'UTC')} AND until > {at:DateTime64(3, 'UTC')}) AS s ON s.iccid = r.iccid
LEFT JOIN (SELECT * FROM sim_plan_spans WHERE since <= {at:DateTime64(3, 'UTC')} AND until > {at:DateTime64(3, 'UTC')}) AS p ON p.iccid = r.iccid
LEFT JOIN (SELECT * FROM sim_plan_terms WHERE since <= {at:DateTime64(3, 'UTC')} AND until > {at:DateTime64(3, 'UTC')}) AS t ON t.iccid = r.iccid;

-- Each SIM with its newest state and plan.
CREATE OR REPLACE VIEW sims AS
SELECT
    r.iccid AS iccid,
    r.imsi AS imsi,
    r.eid AS eid,
    r.msisdn AS msisdn,
    r.carrier AS carrier,
    p.plan_id AS plan_id,
    if(p.iccid = '', NULL, p.since) AS plan_since,
    if(s.iccid = '', 'inventory', toString(s.state)) AS state,
    if(s.iccid = '', NULL, s.since) AS state_since,
    r.version AS version
FROM (SELECT * FROM registry_sims FINAL WHERE NOT deleted) AS r
LEFT JOIN (SELECT iccid, argMax(x.state, x.since) AS state, max(x.since) AS since FROM sim_states AS x FINAL GROUP BY iccid) AS s ON s.iccid = r.iccid
LEFT JOIN (SELECT iccid, argMax(x.plan_id, x.since) AS plan_id, max(x.since) AS since FROM sim_plans AS x FINAL GROUP BY iccid) AS p ON p.iccid = r.iccid;

-- Which SIM was seen in which modem of which device, from when to when. Maxima and minima: the same after a duplicate, in any order.
CREATE TABLE IF NOT EXISTS sim_sightings
(
    iccid      String,
    imei       String,
    device_id  String,
    imsi       SimpleAggregateFunction(anyLast, String),
    first_seen SimpleAggregateFunction(min, DateTime64(3, 'UTC')),
    last_seen  SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree ORDER BY (iccid, imei, device_id);

-- What of it stands in rows that were stored since then: INSERT INTO sim_sightings SELECT * FROM sim_sightings_since(since = '...'). Asking
-- from too early costs, and changes nothing. A clock that is ahead does not stand for the future.
CREATE OR REPLACE VIEW sim_sightings_since AS
SELECT
    h.iccid AS iccid,
    h.imei AS imei,
    h.device_id AS device_id,
    anyLast(h.imsi) AS imsi,
    min(least(h.taken_at, h.received_at)) AS first_seen,
    max(least(h.taken_at, h.received_at)) AS last_seen
FROM heartbeats AS h
WHERE h.stored_at >= {since:DateTime('UTC')} AND h.iccid != ''
GROUP BY h.iccid, h.imei, h.device_id;

-- Every name that a device goes by, to search for one by any of them: `source` is where it stands, the registry or what was seen.
-- `seen_at` is when it was seen last with that name; NULL of the registry's.
CREATE OR REPLACE VIEW device_identifiers AS
WITH
    expected AS (SELECT device_id, name, imei, iccid_expected AS iccid FROM devices),
    seen AS
    (
        SELECT device_id, imei, iccid, anyLast(s.imsi) AS imsi, max(s.last_seen) AS seen_at
        FROM sim_sightings AS s
        GROUP BY device_id, imei, iccid
    ),
    cards AS (SELECT iccid, imsi, msisdn FROM registry_sims FINAL WHERE NOT deleted)
SELECT device_id, kind, identifier, source, max(at) AS seen_at
FROM
(
    SELECT e.device_id AS device_id, name.1 AS kind, name.2 AS identifier, 'registry' AS source, CAST(NULL AS Nullable(DateTime64(3, 'UTC'))) AS at
    FROM expected AS e
    LEFT JOIN cards AS c ON c.iccid = e.iccid
    ARRAY JOIN [('device_id', e.device_id), ('name', e.name), ('imei', e.imei), ('iccid', e.iccid), ('imsi', c.imsi), ('msisdn', c.msisdn)] AS name
    UNION ALL
    SELECT s.device_id, name.1, name.2, 'seen', toNullable(s.seen_at)
    FROM seen AS s
    LEFT JOIN cards AS c ON c.iccid = s.iccid
    ARRAY JOIN [('device_id', s.device_id), ('imei', s.imei), ('iccid', s.iccid), ('imsi', if(s.imsi = '', c.imsi, s.imsi)), ('msisdn', c.msisdn)] AS name
)
WHERE identifier != ''
GROUP BY device_id, kind, identifier, source;

-- What is not as it should be with SIMs, found in what devices told. One row per finding and pair; `last_seen` says whether it is still so.
--   unregistered            a SIM that is not in the registry
--   moved                   a SIM in another modem (IMEI) than before: `was` the IMEI, `is` the IMEI
--   swapped                 a device with another SIM than before: `was`, `is` the ICCID
--   unexpected_sim          a device whose newest SIM is not the one that the registry expects
--   unexpected_modem        a device whose modem is not the one that the registry expects
--   used_while_inventory, used_while_paused, used_while_retired
--                           a heartbeat told of the SIM at a time when it was in that state
--   cloned                  two devices with the same SIM at the same time: between two heartbeats of one, less than an hour apart, there is
--                           one of another; or it came back from another three times, which nobody does by hand. Heartbeats that came at
--                           once alone: one that was stored may tell of a SIM that has moved since. `detail`: how far apart they were, km.
CREATE OR REPLACE VIEW sim_findings AS
WITH
    seen AS
    (
        SELECT iccid, imei, device_id, min(sim_sightings.first_seen) AS first_seen, max(sim_sightings.last_seen) AS last_seen
        FROM sim_sightings
        GROUP BY iccid, imei, device_id
    ),
    newest AS
    (
        SELECT device_id, argMax(iccid, seen.last_seen) AS iccid, argMax(imei, seen.last_seen) AS imei,
            max(seen.last_seen) AS last_seen
        FROM seen
        GROUP BY device_id
    ),
    modems AS
    (
        SELECT iccid, imei, device_id, first_seen, last_seen,
            lagInFrame(imei) OVER (PARTITION BY iccid ORDER BY first_seen, last_seen, imei, device_id
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
        FROM seen
        WHERE imei != ''
    ),
    cards AS
    (
        SELECT device_id, iccid, any(imei) AS imei, min(seen.first_seen) AS first_seen, max(seen.last_seen) AS last_seen
        FROM seen
        GROUP BY device_id, iccid
    ),
    swaps AS
    (
        SELECT device_id, iccid, imei, first_seen, last_seen,
            lagInFrame(iccid) OVER (PARTITION BY device_id ORDER BY first_seen, last_seen, iccid
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
        FROM cards
    ),
    idle AS
    (
        SELECT c.device_id AS device_id, c.iccid AS iccid, c.imei AS imei, s.state AS state, s.since AS since, s.until AS until
        FROM cards AS c
        INNER JOIN (SELECT * FROM sim_state_spans WHERE state IN ('inventory', 'paused', 'retired')) AS s ON s.iccid = c.iccid
        WHERE c.first_seen < s.until AND c.last_seen >= s.since
    ),
    shared AS
    (
        SELECT iccid FROM cards GROUP BY iccid HAVING uniqExact(device_id) > 1
    ),
    told AS
    (
        SELECT iccid, device_id, imei, received_at, latitude_deg, longitude_deg,
            lagInFrame(device_id) OVER told_in_turn AS other,
            lagInFrame(latitude_deg) OVER told_in_turn AS other_latitude,
            lagInFrame(longitude_deg) OVER told_in_turn AS other_longitude,
            lagInFrame(received_at) OVER told_by_itself AS again_at
        FROM
        (
            SELECT DISTINCT h.iccid AS iccid, h.device_id AS device_id, h.imei AS imei, h.received_at AS received_at,
                h.latitude_deg AS latitude_deg, h.longitude_deg AS longitude_deg
            FROM heartbeats AS h
            WHERE h.device_id IN (SELECT device_id FROM cards WHERE iccid IN (SELECT iccid FROM shared))
                AND h.iccid IN (SELECT iccid FROM shared)
                AND (h.clock != 'device' OR abs(dateDiff('second', h.device_time, h.received_at)) < 300)
        )
        WINDOW
            told_in_turn AS (PARTITION BY iccid ORDER BY received_at, device_id
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
            told_by_itself AS (PARTITION BY iccid, device_id ORDER BY received_at
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    )
SELECT 'unregistered' AS finding, c.iccid AS iccid, c.device_id AS device_id, c.imei AS imei, '' AS was, c.iccid AS is,
    c.first_seen AS first_seen, c.last_seen AS last_seen, '' AS detail
FROM cards AS c
WHERE c.iccid NOT IN (SELECT iccid FROM registry_sims FINAL WHERE NOT deleted)
UNION ALL
SELECT 'moved', m.iccid, m.device_id, m.imei, m.before, m.imei, m.first_seen, m.last_seen, ''
FROM modems AS m
WHERE m.before != '' AND m.before != m.imei
UNION ALL
SELECT 'swapped', s.iccid, s.device_id, s.imei, s.before, s.iccid, s.first_seen, s.last_seen, ''
FROM swaps AS s
WHERE s.before != ''
UNION ALL
SELECT 'unexpected_sim', n.iccid, n.device_id, n.imei, d.iccid_expected, n.iccid, c.first_seen, n.last_seen, ''
FROM newest AS n
INNER JOIN (SELECT device_id, iccid_expected FROM devices WHERE iccid_expected != '') AS d ON d.device_id = n.device_id
INNER JOIN cards AS c ON c.device_id = n.device_id AND c.iccid = n.iccid
WHERE d.iccid_expected != n.iccid
UNION ALL
SELECT 'unexpected_modem', n.iccid, n.device_id, n.imei, d.imei, n.imei, c.first_seen, n.last_seen, ''
FROM newest AS n
INNER JOIN (SELECT device_id, imei FROM devices WHERE imei != '') AS d ON d.device_id = n.device_id
INNER JOIN (SELECT device_id, imei, min(seen.first_seen) AS first_seen FROM seen GROUP BY device_id, imei) AS c
    ON c.device_id = n.device_id AND c.imei = n.imei
WHERE n.imei != '' AND d.imei != n.imei
UNION ALL
SELECT concat('used_while_', toString(i.state)), i.iccid, i.device_id, any(i.imei), toString(i.state), toString(i.state),
    min(h.taken_at), max(h.taken_at), ''
FROM
(
    SELECT device_id, iccid, taken_at FROM heartbeats
    WHERE device_id IN (SELECT device_id FROM idle) AND iccid IN (SELECT iccid FROM idle)
) AS h
INNER JOIN idle AS i ON i.device_id = h.device_id AND i.iccid = h.iccid
WHERE h.taken_at >= i.since AND h.taken_at < i.until
GROUP BY i.state, i.iccid, i.device_id
UNION ALL
SELECT 'cloned', t.iccid, t.device_id, any(t.imei), t.other, t.device_id, min(t.received_at), max(t.received_at),
    ifNull(toString(round(max(geoDistance(t.longitude_deg, t.latitude_deg, t.other_longitude, t.other_latitude)) / 1000, 1)), '')
FROM told AS t
-- The one just before was of another device, and this device had told of the SIM before that.
WHERE t.other != t.device_id AND t.other != '' AND toUnixTimestamp64Milli(t.again_at) > 0
GROUP BY t.iccid, t.device_id, t.other
HAVING countIf(t.received_at < t.again_at + INTERVAL 1 HOUR) > 0 OR count() >= 3;
