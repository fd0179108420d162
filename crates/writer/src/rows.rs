//! The rows of a batch, by table, and the counts of it that stand in `batches`.

use bus::{Lane, Offset, Partition, Stream};
use store::rows::{
    BatchRow, CommandRow, ConnectionRow, DeadLetterRow, GapRow, HeartbeatRow, LedgerRow, Millis, NodeRow,
    stream,
};

use crate::batch::Batch;
use crate::heartbeat;
use crate::row::{self, Input, Place, Row};

const MINUTE_MS: i64 = 60_000;

/// What a batch becomes. The same batch becomes the same rows, whoever makes them. The texts of heartbeats are those of the batch.
pub(crate) struct Rows<'a> {
    pub heartbeats: Vec<HeartbeatRow<'a>>,
    pub connections: Vec<ConnectionRow>,
    pub dead_letters: Vec<DeadLetterRow>,
    pub nodes: Vec<NodeRow>,
    pub commands: Vec<CommandRow>,
    pub ledgers: Vec<LedgerRow>,
    pub gaps: Vec<GapRow>,
    /// Its row of `batches`; how it landed is filled in when it has.
    pub batch: BatchRow,
}

/// What is counted of a node's minute.
#[derive(Clone, Copy)]
enum Count {
    Heartbeat,
    Other,
    DeadLetter,
}

impl<'a> Rows<'a> {
    pub(crate) fn of(batch: &'a Batch) -> Self {
        let stream = match batch.lane.stream {
            Stream::DeadLetters => stream::DEAD_LETTERS,
            Stream::Events | Stream::Commands => stream::EVENTS,
        };
        let partition = batch.lane.partition.0.unsigned_abs();
        let gap = |gap: &crate::batch::Gap| GapRow {
            stream,
            partition,
            first_offset: gap.first.0.unsigned_abs(),
            last_offset: gap.last.0.unsigned_abs(),
            found_at: gap.found_at_ms,
        };
        let mut rows = Self {
            heartbeats: Vec::with_capacity(batch.len()),
            connections: Vec::new(),
            dead_letters: Vec::new(),
            nodes: Vec::new(),
            commands: Vec::new(),
            ledgers: Vec::new(),
            gaps: batch.gaps.iter().map(gap).collect(),
            batch: BatchRow {
                stream,
                partition,
                first_offset: batch.first.0.unsigned_abs(),
                last_offset: batch.last.0.unsigned_abs(),
                content: batch.content(),
                records: u32::try_from(batch.len()).unwrap_or(u32::MAX),
                produced_at: batch.records().next().map_or(0, |record| record.produced_at_ms),
                ..BatchRow::default()
            },
        };
        for record in batch.records() {
            if let Some(row) = plain_heartbeat(&record, &mut rows.heartbeats) {
                count(&mut rows.batch, &row.node_id, row.received_at, Count::Heartbeat);
                continue;
            }
            match row::of(&record) {
                Row::Heartbeat(row) => {
                    count(&mut rows.batch, &row.node_id, row.received_at, Count::Heartbeat);
                    rows.heartbeats.push(*row);
                }
                Row::Connection(row) => {
                    count(&mut rows.batch, &row.node_id, row.at, Count::Other);
                    rows.connections.push(row);
                }
                Row::DeadLetter(row) => {
                    count(&mut rows.batch, &row.node_id, row.received_at, Count::DeadLetter);
                    rows.dead_letters.push(row);
                }
                // A node cannot count its own last word: what it tells of itself stands outside the ledger.
                Row::Node(row) => rows.nodes.push(row),
                Row::Ledger(row) => rows.ledgers.push(row),
                Row::Command(row) => {
                    count(&mut rows.batch, &row.node_id, row.at, Count::Other);
                    rows.commands.push(row);
                }
            }
        }
        rows.batch.last_minute = rows.batch.minutes.iter().copied().max().unwrap_or_default();
        rows
    }

    /// Rows in the tables that hold records.
    pub(crate) fn len(&self) -> usize {
        self.heartbeats.len()
            + self.connections.len()
            + self.dead_letters.len()
            + self.nodes.len()
            + self.commands.len()
            + self.ledgers.len()
    }
}

/// The gateways of a batch are few, and its minutes one or two: what it looks for is among the last.
fn count(batch: &mut BatchRow, node_id: &str, at: Millis, what: Count) {
    let minute = at.div_euclid(MINUTE_MS).saturating_mul(60);
    let minute = u32::try_from(minute.max(0)).unwrap_or(u32::MAX);
    let known = batch.node_ids.iter().zip(&batch.minutes);
    let known = known.rev().position(|(node, counted)| *counted == minute && node == node_id);
    let place = match known {
        Some(from_the_end) => batch.minutes.len() - 1 - from_the_end,
        None => {
            batch.node_ids.push(node_id.to_owned());
            batch.minutes.push(minute);
            batch.heartbeats.push(0);
            batch.others.push(0);
            batch.dead_letters.push(0);
            batch.minutes.len() - 1
        }
    };
    let counts = match what {
        Count::Heartbeat => &mut batch.heartbeats,
        Count::Other => &mut batch.others,
        Count::DeadLetter => &mut batch.dead_letters,
    };
    if let Some(count) = counts.get_mut(place) {
        *count += 1;
    }
}

/// Adds the row of a heartbeat that can be read in place: of nearly every record.
fn plain_heartbeat<'a, 'r>(
    record: &Input<'a>,
    rows: &'r mut Vec<HeartbeatRow<'a>>,
) -> Option<&'r HeartbeatRow<'a>> {
    match record.lane.stream {
        Stream::Events => heartbeat::read(record.payload, Place::of(record), rows),
        Stream::DeadLetters | Stream::Commands => None,
    }
}

/// The rows of some events, made as the writer makes them.
#[derive(Clone, Debug, Default)]
pub struct EventRows<'a> {
    /// Rows of `heartbeats`.
    pub heartbeats: Vec<HeartbeatRow<'a>>,
    /// Rows of `connections`.
    pub connections: Vec<ConnectionRow>,
    /// Rows of `nodes`.
    pub nodes: Vec<NodeRow>,
}

impl<'a> EventRows<'a> {
    /// The rows of encoded events that stand in partition 0 of their topic at these offsets. For whoever has a history and no Kafka;
    /// commands, ledgers and what is no event are left out.
    pub fn of(records: impl Iterator<Item = (i64, &'a [u8])>) -> Self {
        let lane = Lane { stream: Stream::Events, partition: Partition(0) };
        let mut rows = Self::default();
        for (offset, payload) in records {
            let record = Input { lane, offset: Offset(offset), produced_at_ms: 0, payload };
            if plain_heartbeat(&record, &mut rows.heartbeats).is_some() {
                continue;
            }
            match row::of(&record) {
                Row::Heartbeat(row) => rows.heartbeats.push(*row),
                Row::Connection(row) => rows.connections.push(row),
                Row::Node(row) => rows.nodes.push(row),
                Row::DeadLetter(_) | Row::Command(_) | Row::Ledger(_) => {}
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use event::v1::event::Kind;
    use event::v1::{Clock, Event, Heartbeat, NodeAlive};
    use prost::Message;

    use super::*;

    fn heartbeat(node: &str, received_at_ms: i64) -> Vec<u8> {
        let heartbeat = Heartbeat { clock: Clock::Gateway.into(), ..Heartbeat::default() };
        let session_id = vec![7; 16].into();
        let kind = Some(Kind::Heartbeat(heartbeat));
        Event { node_id: node.into(), received_at_ms, session_id, kind, ..Event::default() }.encode_to_vec()
    }

    #[test]
    fn a_batch_counts_what_it_consumed_by_node_and_minute() {
        let alive = Event {
            node_id: "a".into(),
            kind: Some(Kind::NodeAlive(NodeAlive::default())),
            ..Event::default()
        };
        let records = [
            heartbeat("a", 59_999),
            heartbeat("b", 60_000),
            heartbeat("a", 60_001),
            heartbeat("a", 0),
            b"no event".to_vec(),
            alive.encode_to_vec(),
        ];
        let lane = Lane { stream: Stream::Events, partition: Partition(3) };
        let input = |number: usize| Input {
            lane,
            offset: Offset(40 + i64::try_from(number).expect("few")),
            produced_at_ms: 61_000,
            payload: &records[number],
        };
        let mut batch = Batch::open(&input(0), None, Instant::now());
        (1..records.len()).for_each(|number| batch.push(&input(number), None));
        let rows = Rows::of(&batch);
        assert_eq!((rows.heartbeats.len(), rows.dead_letters.len(), rows.nodes.len()), (4, 1, 1));
        assert_eq!(rows.dead_letters[0].payload, b"no event", "a record keeps its own bytes");
        let told = rows.batch;
        assert_eq!((told.first_offset, told.last_offset, told.records, told.last_minute), (40, 45, 6, 60));
        assert_eq!(told.node_ids, ["a", "b", "a", ""]);
        assert_eq!(told.minutes, [0, 60, 60, 60]);
        assert_eq!(told.heartbeats, [2, 1, 1, 0]);
        assert_eq!(told.dead_letters, [0, 0, 0, 1]);
    }
}
