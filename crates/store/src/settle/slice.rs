//! What is known of the devices of a slice, one after the other: what is known of all of them would be too much to hold.

use std::cmp::Ordering;

use clickhouse::error::Error;
use clickhouse::query::{Query, RowCursor};
use clickhouse::{RowOwned, RowRead};

use super::fold::History;
use super::rows::{Ending, Key, Named, Reading, Stood};
use super::{Depth, ROWS_OF_A_DEVICE_MAX, Run, STOOD_S, Touched};
use crate::Store;

/// Heartbeats of a slice from its first touched hour on, each once: of copies the first stands, and of those that came within one second the last.
const READINGS: &str = "
    SELECT
        h.device_id AS device_id, if(h.clock = 'device', h.device_time, h.received_at) AS at, h.received_at AS received_at,
        h.identity AS identity, h.boot_id AS boot_id, h.session_id AS session_id, h.modem_tx_bytes AS tx_bytes,
        h.modem_rx_bytes AS rx_bytes, h.session_bytes_in AS session_bytes_in, h.session_bytes_out AS session_bytes_out,
        h.session_messages_in AS session_messages_in, h.uptime_s AS uptime_s, h.sequence AS sequence, h.iccid AS iccid,
        toString(h.plmn) AS plmn, toString(h.state) AS state
    FROM ({{heartbeats}}) AS h
    WHERE at >= toDateTime({from:UInt32}, 'UTC') OR h.received_at >= toDateTime({from:UInt32}, 'UTC')
    ORDER BY device_id";
/// All of them.
const WHOLE: &str = "
    SELECT * FROM heartbeats FINAL
    WHERE device_id >= {first:String} AND device_id <= {last:String}
        AND device_id IN (SELECT device_id FROM settle_touched WHERE run = {run:UInt64} AND late = {late:UInt8})";
/// Those of the last hours. Every copy of such a heartbeat came since then, too: of a clock that is not ahead, and of what was not
/// taken before. Of one that nobody knows the time of, copies of before are not seen: it counts once more where it comes again hours
/// later. Without `FINAL`, under which ClickHouse looks into every part of the table, however old. Of copies that came in within one second
/// that keeps the last, which has the greatest offset; so does this, or the same hours would not be settled alike in both ways.
const NEAR: &str = "
    SELECT * FROM heartbeats
    WHERE device_id >= {first:String} AND device_id <= {last:String}
        AND device_id IN (SELECT device_id FROM settle_touched WHERE run = {run:UInt64} AND late = {late:UInt8})
        AND received_at >= toDateTime({near:UInt32}, 'UTC')
        AND (device_time >= toDateTime({near:UInt32}, 'UTC') OR device_time = toDateTime64(0, 3, 'UTC'))
    ORDER BY device_id, device_time, identity, precedence DESC, kafka_offset DESC
    LIMIT 1 BY device_id, device_time, identity";

/// How sessions of a slice ended. A copy tells the same.
const ENDINGS: &str = "
    SELECT device_id, session_id, at, bytes_in, bytes_out, messages_in
    FROM connections
    WHERE device_id >= {first:String} AND device_id <= {last:String}
        AND device_id IN (SELECT device_id FROM settle_touched WHERE run = {run:UInt64} AND late = {late:UInt8})
        AND event = 'disconnected' AND at >= toDateTime({from:UInt32}, 'UTC')
    ORDER BY device_id";

/// Where each counter of a slice stood before the first touched hour; of a device the one that was read last comes last.
const STOOD: &str = "
    SELECT
        u.device_id AS device_id, u.source AS source, u.counter AS counter,
        (argMax((u.last_at, u.last_tx, u.last_rx, u.last_messages, u.ahead_tx, u.ahead_rx, u.last_uptime_s, u.last_sequence,
                 u.iccid, toString(u.plmn), toString(u.state)), (u.last_at, u.last_place)) AS last).1 AS last_at,
        last.2 AS last_tx, last.3 AS last_rx, last.4 AS last_messages, last.5 AS ahead_tx, last.6 AS ahead_rx,
        last.7 AS last_uptime_s, last.8 AS last_sequence, last.9 AS iccid, last.10 AS plmn, last.11 AS state
    FROM
    (
        SELECT * FROM usage_hours FINAL
        WHERE device_id >= {first:String} AND device_id <= {last:String} AND hour >= toDateTime({since:UInt32}, 'UTC')
    ) AS u
    INNER JOIN
    (
        SELECT device_id, from_hour FROM settle_touched
        WHERE run = {run:UInt64} AND late = {late:UInt8} AND device_id >= {first:String} AND device_id <= {last:String}
    ) AS t ON t.device_id = u.device_id
    WHERE u.hour < t.from_hour AND toUnixTimestamp64Milli(u.last_at) > 0
    GROUP BY device_id, source, counter
    ORDER BY device_id, max((u.last_at, u.last_place))";

/// What was settled before.
const SETTLED: &str = "
    SELECT device_id, source, counter, toUnixTimestamp(hour) AS hour, iccid, toString(plmn) AS plmn, toString(state) AS state
    FROM usage_hours FINAL
    WHERE device_id >= {first:String} AND device_id <= {last:String} AND hour >= toDateTime({from:UInt32}, 'UTC')
        AND device_id IN (SELECT device_id FROM settle_touched WHERE run = {run:UInt64} AND late = {late:UInt8})
        AND last_at > toDateTime64(0, 3, 'UTC')
    ORDER BY device_id";

impl Store {
    /// Asks what is known of neighbouring devices.
    pub(super) fn histories(&self, run: Run, depth: Depth, slice: &[Touched]) -> Result<Histories, Error> {
        let (heartbeats, stood_since) = match depth {
            Depth::Near => (NEAR, run.near_s - STOOD_S),
            Depth::Whole => (WHOLE, 0),
        };
        let from_s = slice.iter().map(|touched| touched.from_s).min().unwrap_or_default();
        let ask = |sql: &str| self.of_slice(sql, run, depth, slice).param("from", from_s);

        let mut readings = ask(&READINGS.replace("{{heartbeats}}", heartbeats)).param("near", run.near_s);
        // Rows that `FINAL` has brought together are sorted in half the time in which it brings them together in order. A slice of one
        // device may be of any length; in order it needs no memory.
        if depth == Depth::Whole && slice.len() > 1 {
            readings = readings.with_setting("optimize_read_in_order", "0");
        }
        Ok(Histories {
            readings: Rows::of(readings, |reading: &Reading| &reading.device_id)?,
            endings: Rows::of(ask(ENDINGS), |ending: &Ending| &ending.device_id)?,
            stood: Rows::of(ask(STOOD).param("since", stood_since), |stood: &Stood| &stood.device_id)?,
            settled: Rows::of(ask(SETTLED), |named: &Named| &named.device_id)?,
        })
    }
}

/// Four answers that are read side by side. What was not asked for yet waits at the server.
pub(super) struct Histories {
    readings: Rows<Reading>,
    endings: Rows<Ending>,
    stood: Rows<Stood>,
    settled: Rows<Named>,
}

impl Histories {
    /// What is known of a device of the slice; devices have to be asked for in their order. None of one that tells too much.
    pub(super) async fn of(&mut self, touched: &Touched) -> Result<Option<History>, Error> {
        let device_id = touched.device_id.as_str();
        let mut history = History { from_s: touched.from_s, ..History::default() };
        while history.has_room()
            && let Some(reading) = self.readings.next_of(device_id).await?
        {
            history.readings.push(reading);
        }
        while history.has_room()
            && let Some(ending) = self.endings.next_of(device_id).await?
        {
            history.endings.push(ending);
        }
        while history.has_room()
            && let Some(stood) = self.stood.next_of(device_id).await?
        {
            history.stood.push(stood);
        }
        while history.has_room()
            && let Some(named) = self.settled.next_of(device_id).await?
        {
            let Named { source, counter, hour, iccid, plmn, state, .. } = named;
            if hour >= history.from_s {
                history.settled.push(Key { source, counter, hour, iccid, plmn, state });
            }
        }
        if history.has_room() {
            return Ok(Some(history));
        }
        tracing::warn!(
            device_id,
            rows_max = ROWS_OF_A_DEVICE_MAX,
            "a device tells too much: its usage is left as it was settled"
        );
        Ok(None)
    }
}

/// Rows in the order of their devices.
struct Rows<R> {
    cursor: RowCursor<R>,
    device_id: fn(&R) -> &str,
    /// The first of a device that was not asked for yet.
    ahead: Option<R>,
}

impl<R: RowOwned + RowRead> Rows<R> {
    fn of(query: Query, device_id: fn(&R) -> &str) -> Result<Self, Error> {
        Ok(Self { cursor: query.fetch()?, device_id, ahead: None })
    }

    /// The next row of `device_id`. What was left of devices before it is passed over.
    async fn next_of(&mut self, device_id: &str) -> Result<Option<R>, Error> {
        loop {
            let next = match self.ahead.take() {
                Some(row) => Some(row),
                None => self.cursor.next().await?,
            };
            let Some(row) = next else { return Ok(None) };
            match (self.device_id)(&row).cmp(device_id) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(row)),
                Ordering::Greater => {
                    self.ahead = Some(row);
                    return Ok(None);
                }
            }
        }
    }
}
