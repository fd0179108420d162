-- The hours of touched devices, made anew from the first touched one on. Parameters: run, late, slice, slices, fresh.
INSERT INTO usage_hours
WITH
    toDateTime({fresh:UInt32}, 'UTC') AS fresh,
    -- The devices of this slice.
    touched AS
    (
        SELECT device_id, from_hour FROM settle_touched
        WHERE run = {run:UInt64} AND late = {late:UInt8} AND cityHash64(device_id) % {slices:UInt64} = {slice:UInt64}
    ),
    -- What was read in those hours: every heartbeat twice, as its modem counted and as the gateway did; and how sessions ended.
    read AS
    (
        SELECT
            h.device_id AS device_id,
            source,
            if(source = 'modem', h.boot_id, toString(h.session_id)) AS counter,
            if(source = 'modem', h.taken_at, h.received_at) AS at,
            if(source = 'modem', h.identity, h.session_messages_in) AS place,
            if(source = 'modem', h.modem_tx_bytes, h.session_bytes_in) AS tx,
            if(source = 'modem', h.modem_rx_bytes, h.session_bytes_out) AS rx,
            if(source = 'modem', 0, h.session_messages_in) AS messages,
            if(source = 'modem', h.uptime_s, NULL) AS uptime_s,
            if(source = 'modem', h.sequence, NULL) AS sequence,
            h.iccid AS iccid,
            toString(h.plmn) AS plmn,
            toString(h.state) AS state,
            1 AS heartbeats,
            0 AS ahead_tx,
            0 AS ahead_rx
        FROM
        (
            SELECT
                device_id, boot_id, session_id, taken_at, received_at, identity, modem_tx_bytes, modem_rx_bytes, session_bytes_in,
                session_bytes_out, session_messages_in, uptime_s, sequence, iccid, plmn, state
            FROM heartbeats FINAL
            WHERE device_id IN (SELECT device_id FROM touched) AND {{newest}}
        ) AS h
        INNER JOIN touched AS t ON t.device_id = h.device_id
        ARRAY JOIN [CAST('modem', 'Enum8(\'modem\' = 1, \'gateway\' = 2)'), CAST('gateway', 'Enum8(\'modem\' = 1, \'gateway\' = 2)')] AS source
        WHERE at >= t.from_hour
        UNION ALL
        SELECT
            e.device_id, CAST('gateway', 'Enum8(\'modem\' = 1, \'gateway\' = 2)'), toString(e.session_id), e.at, e.messages_in,
            e.bytes_in, e.bytes_out, e.messages_in, NULL, NULL, '', '', '', 0, 0, 0
        FROM
        (
            SELECT * FROM connections FINAL
            WHERE device_id IN (SELECT device_id FROM touched) AND event = 'disconnected'
        ) AS e
        INNER JOIN touched AS t ON t.device_id = e.device_id
        WHERE e.at >= t.from_hour
    ),
    -- Where each counter stood before, as a reading that counts nothing.
    stood AS
    (
        SELECT
            device_id, source, counter,
            (argMax((u.last_at, u.last_tx, u.last_rx, u.last_messages, u.last_uptime_s, u.last_sequence, u.iccid, u.plmn, u.state,
                     u.ahead_tx, u.ahead_rx), u.last_at) AS last).1 AS at,
            0 AS place, last.2 AS tx, last.3 AS rx, last.4 AS messages, last.5 AS uptime_s, last.6 AS sequence,
            last.7 AS iccid, toString(last.8) AS plmn, toString(last.9) AS state, 0 AS heartbeats,
            last.10 AS ahead_tx, last.11 AS ahead_rx
        FROM
        (
            SELECT * FROM usage_hours FINAL
            WHERE device_id IN (SELECT device_id FROM touched) AND {{lately}} AND last_at > toDateTime64(0, 3, 'UTC')
        ) AS u
        INNER JOIN touched AS t ON t.device_id = u.device_id
        WHERE u.hour < t.from_hour
        GROUP BY device_id, source, counter
    )
SELECT
    device_id,
    source,
    counter,
    hour,
    iccid,
    plmn,
    state,
    sum(r.heartbeats) AS heartbeats,
    sum(r.tx_rise) AS tx_bytes,
    sum(r.rx_rise) AS rx_bytes,
    sum(r.messages_rise) AS messages,
    (argMax((r.at, r.last_tx, r.last_rx, r.last_messages, r.ahead_tx, r.ahead_rx, r.last_uptime_s, r.last_sequence), (r.at, r.place)) AS last).1 AS last_at,
    last.2 AS last_tx,
    last.3 AS last_rx,
    last.4 AS last_messages,
    last.5 AS ahead_tx,
    last.6 AS ahead_rx,
    last.7 AS last_uptime_s,
    last.8 AS last_sequence,
    {run:UInt64} AS settled
FROM
(
    -- 4. How much each reading rose above all before it.
    SELECT
        device_id, source, counter, at, place, toStartOfHour(at) AS hour, iccid, plmn, state, heartbeats, stood,
        toUInt64(greatest(ifNull(total_tx, 0), high_tx) - high_tx) AS tx_rise,
        toUInt64(greatest(ifNull(total_rx, 0), high_rx) - high_rx) AS rx_rise,
        toUInt64(greatest(messages, high_messages) - high_messages) AS messages_rise,
        last_tx, last_rx, greatest(messages, high_messages) AS last_messages, last_uptime_s, last_sequence,
        toUInt64(greatest(ifNull(total_tx, 0), high_tx) - ifNull(last_total_tx, 0)) AS ahead_tx,
        toUInt64(greatest(ifNull(total_rx, 0), high_rx) - ifNull(last_total_rx, 0)) AS ahead_rx
    FROM
    (
        SELECT
            *,
            ifNull(max(total_tx + before_tx) OVER earlier, 0) AS high_tx,
            ifNull(max(total_rx + before_rx) OVER earlier, 0) AS high_rx,
            max(messages) OVER earlier AS high_messages,
            anyLast(total_tx) OVER so_far AS last_total_tx,
            anyLast(total_rx) OVER so_far AS last_total_rx,
            anyLast(tx) OVER so_far AS last_tx,
            anyLast(rx) OVER so_far AS last_rx,
            anyLast(uptime_s) OVER so_far AS last_uptime_s,
            anyLast(sequence) OVER so_far AS last_sequence
        FROM
        (
            -- 3. Counters of 32 bits begin anew at the top: from there on they count 2^32 more.
            SELECT
                *,
                tx + 4294967296 * (wraps_tx - min(wraps_tx) OVER life) AS total_tx,
                rx + 4294967296 * (wraps_rx - min(wraps_rx) OVER life) AS total_rx
            FROM
            (
                SELECT
                    * EXCEPT (resets),
                    sum(reset) OVER chain AS resets,
                    sum(wrapped_tx AND NOT reset) OVER chain AS wraps_tx,
                    sum(wrapped_rx AND NOT reset) OVER chain AS wraps_rx
                FROM
                (
                    -- 2. A counter that falls was reset, or has wrapped, or its readings are out of order. What tells them apart: a
                    -- name (a boot), the sequence number, the uptime.
                    SELECT
                        *,
                        0 AS resets,
                        counter != '' AS named,
                        NOT stood AND ifNull(tx < prior_tx, false) AS falls_tx,
                        NOT stood AND ifNull(rx < prior_rx, false) AS falls_rx,
                        ifNull(sequence > prior_sequence, false) AS forward,
                        ifNull(sequence < prior_sequence, false) AS backward,
                        ifNull(uptime_s < prior_uptime_s, false) AS younger,
                        ifNull(uptime_s > prior_uptime_s, false) AS older,
                        falls_tx AND prior_tx >= 3221225472 AND prior_tx < 4294967296 AND tx < 1073741824 AND if(named, NOT backward, older) AS wrapped_tx,
                        falls_rx AND prior_rx >= 3221225472 AND prior_rx < 4294967296 AND rx < 1073741824 AND if(named, NOT backward, older) AS wrapped_rx,
                        source = 'modem' AND ((falls_tx AND NOT wrapped_tx) OR (falls_rx AND NOT wrapped_rx) OR (NOT named AND NOT stood AND younger))
                            AND if(named, forward, true) AS reset
                    FROM
                    (
                        -- 1. What was told before. A reading without SIM, network or state has those told last.
                        SELECT
                            device_id, source, counter, at, place, tx, rx, messages, uptime_s, sequence, heartbeats, stood,
                            ahead_tx AS before_tx, ahead_rx AS before_rx,
                            ifNull(anyLast(nullIf(iccid, '')) OVER device, '') AS iccid,
                            ifNull(anyLast(nullIf(plmn, '')) OVER device, '') AS plmn,
                            ifNull(anyLast(nullIf(state, '')) OVER device, '') AS state,
                            anyLast(tx) OVER before AS prior_tx,
                            anyLast(rx) OVER before AS prior_rx,
                            anyLast(uptime_s) OVER before AS prior_uptime_s,
                            anyLast(sequence) OVER before AS prior_sequence
                        FROM
                        (
                            SELECT *, false AS stood FROM read
                            UNION ALL
                            SELECT *, true AS stood FROM stood
                        )
                        WINDOW
                            device AS (PARTITION BY device_id, source ORDER BY at, place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
                            before AS (PARTITION BY device_id, source, counter ORDER BY at, place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                    )
                )
                WINDOW chain AS (PARTITION BY device_id, source, counter ORDER BY at, place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
            )
            WINDOW life AS (PARTITION BY device_id, source, counter, resets)
        )
        WINDOW
            earlier AS (PARTITION BY device_id, source, counter, resets ORDER BY at, place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
            so_far AS (PARTITION BY device_id, source, counter, resets ORDER BY at, place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    )
    WHERE NOT stood
    UNION ALL
    -- What was settled before and has nothing any more.
    SELECT
        u.device_id, u.source, u.counter, toDateTime64(0, 3, 'UTC'), 0, u.hour, u.iccid, toString(u.plmn), toString(u.state), 0, false,
        0, 0, 0, NULL, NULL, 0, NULL, NULL, 0, 0
    FROM
    (
        SELECT device_id, source, counter, hour, iccid, plmn, state FROM usage_hours
        WHERE device_id IN (SELECT device_id FROM touched) AND {{lately}}
    ) AS u
    INNER JOIN touched AS t ON t.device_id = u.device_id
    WHERE u.hour >= t.from_hour
) AS r
GROUP BY device_id, source, counter, hour, iccid, plmn, state
