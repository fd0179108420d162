//! From a record to the row it becomes.

use bus::{Lane, Offset, Stream};
use event::v1::{self, Event, event::Kind};
use prost::Message;
use store::rows::{CommandRow, ConnectionRow, DeadLetterRow, HeartbeatRow, LedgerRow, NodeRow};
use uuid::Uuid;

use crate::scaled;

/// Bytes of what ClickHouse said that stand in a dead letter.
const DETAIL_MAX: usize = 500;

/// The row of one record.
pub(crate) enum Row {
    Heartbeat(Box<HeartbeatRow<'static>>),
    Connection(ConnectionRow),
    DeadLetter(DeadLetterRow),
    Node(NodeRow),
    Command(CommandRow),
    Ledger(LedgerRow),
}

/// A record as it came from Kafka.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub lane: Lane,
    pub offset: Offset,
    pub produced_at_ms: i64,
    pub payload: &'a [u8],
}

/// Where a record stands.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub kafka_partition: u32,
    pub kafka_offset: u64,
}

impl Place {
    pub(crate) fn of(record: &Input<'_>) -> Self {
        Self {
            kafka_partition: record.lane.partition.0.unsigned_abs(),
            kafka_offset: record.offset.0.unsigned_abs(),
        }
    }
}

/// The row of a record. A record that is no event is a dead letter: nothing is dropped.
pub(crate) fn of(record: &Input<'_>) -> Row {
    let place = Place::of(record);
    let row = match record.lane.stream {
        Stream::Events => event_row(record.payload, place),
        Stream::DeadLetters => dead_letter_row(record.payload, place),
        Stream::Commands => Err("a record of a topic that the writer does not read".to_owned()),
    };
    row.unwrap_or_else(|detail| not_an_event(record, place, detail))
}

/// Whether an event becomes a row of `heartbeats`.
pub(crate) fn is_heartbeat(payload: &[u8]) -> bool {
    let nowhere = Place { kafka_partition: 0, kafka_offset: 0 };
    matches!(event_row(payload, nowhere), Ok(Row::Heartbeat(_)))
}

/// The row of an event of any kind, written in whatever way the wire format allows.
pub(crate) fn event_row(payload: &[u8], place: Place) -> Result<Row, String> {
    let event = Event::decode(payload).map_err(|error| error.to_string())?;
    let session_id = match (&event.kind, event.session_id.is_empty()) {
        // A node has no session, and a command has none before it goes out.
        (
            Some(
                Kind::NodeStarted(_)
                | Kind::NodeAlive(_)
                | Kind::NodeStopping(_)
                | Kind::NodeLedger(_)
                | Kind::Command(_),
            ),
            true,
        ) => Uuid::nil(),
        _ => session_id(&event.session_id)?,
    };
    let traffic = event.session_traffic.unwrap_or_default();
    // What both presence events have in common.
    let presence = || ConnectionRow {
        device_id: event.device_id.clone(),
        session_id,
        event: 0,
        at: event.received_at_ms,
        connected_at: 0,
        node_id: event.node_id.clone(),
        epoch: event.epoch,
        peer: String::new(),
        protocol_level: 0,
        clean_start: false,
        keep_alive_s: 0,
        reason: "",
        detail: String::new(),
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        messages_in: traffic.messages_in,
        messages_out: traffic.messages_out,
        kafka_partition: place.kafka_partition,
        kafka_offset: place.kafka_offset,
        client_id: String::new(),
        tls_version: String::new(),
        transport: String::new(),
        fleet: String::new(),
        session_expiry_s: 0,
        session_present: false,
        presence_sequence: 0,
        client_code: 0,
    };
    let node = |kind| NodeRow {
        node_id: event.node_id.clone(),
        epoch: event.epoch,
        event: kind,
        at: event.received_at_ms,
        version: String::new(),
        sessions: 0,
        lost_after_ms: 0,
        kafka_partition: place.kafka_partition,
        kafka_offset: place.kafka_offset,
    };
    match event.kind {
        Some(Kind::Heartbeat(heartbeat)) => {
            let v1::Heartbeat { battery, position, radio, sim, usage, .. } = heartbeat;
            let (battery, position) = (battery.unwrap_or_default(), position.unwrap_or_default());
            let (radio, sim, usage) =
                (radio.unwrap_or_default(), sim.unwrap_or_default(), usage.unwrap_or_default());
            Ok(Row::Heartbeat(Box::new(HeartbeatRow {
                device_id: event.device_id.into(),
                device_time: heartbeat.device_time_ms,
                identity: heartbeat.identity,
                received_at: event.received_at_ms,
                clock: clock(heartbeat.clock)?,
                claimed_time_ms: heartbeat.claimed_time_ms,
                session_id,
                node_id: event.node_id.into(),
                session_bytes_in: traffic.bytes_in,
                session_bytes_out: traffic.bytes_out,
                session_messages_in: traffic.messages_in,
                sequence: heartbeat.sequence,
                boot_id: heartbeat.boot_id.unwrap_or_default().into(),
                uptime_s: heartbeat.uptime_s,
                firmware: heartbeat.firmware.unwrap_or_default().into(),
                state: heartbeat.state.unwrap_or_default().into(),
                next_s: heartbeat.next_s,
                battery_e2: scaled::percent_e2(battery.percent),
                battery_millivolts: battery.millivolts,
                battery_charging: battery.charging,
                latitude_e6: scaled::wide(position.latitude_deg, 1e6),
                longitude_e6: scaled::wide(position.longitude_deg, 1e6),
                altitude_e1: scaled::wide(position.altitude_m, 10.0),
                speed_e2: scaled::wide(position.speed_mps, 100.0),
                accuracy_e1: scaled::wide(position.accuracy_m, 10.0),
                rat: radio.rat.unwrap_or_default().into(),
                plmn: radio.plmn.unwrap_or_default().into(),
                cell_id: radio.cell_id,
                tac: radio.tac,
                rssi_e1: scaled::tenths(radio.rssi_dbm),
                rsrp_e1: scaled::tenths(radio.rsrp_dbm),
                rsrq_e1: scaled::tenths(radio.rsrq_db),
                sinr_e1: scaled::tenths(radio.sinr_db),
                iccid: sim.iccid.unwrap_or_default().into(),
                imsi: sim.imsi.unwrap_or_default().into(),
                imei: sim.imei.unwrap_or_default().into(),
                modem_tx_bytes: usage.tx_bytes,
                modem_rx_bytes: usage.rx_bytes,
                extra: heartbeat.extra_json.into(),
                kafka_partition: place.kafka_partition,
                kafka_offset: place.kafka_offset,
            })))
        }
        Some(Kind::Connected(connected)) => Ok(Row::Connection(ConnectionRow {
            event: ConnectionRow::CONNECTED,
            connected_at: event.received_at_ms,
            peer: connected.peer,
            protocol_level: u8::try_from(connected.protocol_level).unwrap_or(u8::MAX),
            clean_start: connected.clean_start,
            keep_alive_s: connected.keep_alive_s,
            client_id: connected.client_id,
            tls_version: connected.tls_version,
            transport: connected.transport,
            fleet: connected.fleet,
            session_expiry_s: connected.session_expiry_s,
            session_present: connected.session_present,
            presence_sequence: connected.presence_sequence,
            ..presence()
        })),
        Some(Kind::Disconnected(disconnected)) => Ok(Row::Connection(ConnectionRow {
            event: ConnectionRow::DISCONNECTED,
            connected_at: disconnected.connected_at_ms,
            reason: event::disconnect_reason_name(
                v1::DisconnectReason::try_from(disconnected.reason).unwrap_or_default(),
            ),
            detail: disconnected.detail,
            presence_sequence: disconnected.presence_sequence,
            client_code: code(disconnected.client_code),
            ..presence()
        })),
        Some(Kind::NodeStarted(started)) => {
            Ok(Row::Node(NodeRow { version: started.version, ..node(NodeRow::STARTED) }))
        }
        Some(Kind::NodeAlive(alive)) => Ok(Row::Node(NodeRow {
            sessions: alive.sessions,
            lost_after_ms: alive.lost_after_ms,
            ..node(NodeRow::ALIVE)
        })),
        Some(Kind::NodeStopping(_)) => Ok(Row::Node(node(NodeRow::STOPPING))),
        Some(Kind::NodeLedger(ledger)) => {
            let row = LedgerRow {
                node_id: event.node_id,
                epoch: event.epoch,
                told_at: event.received_at_ms,
                kafka_partition: place.kafka_partition,
                kafka_offset: place.kafka_offset,
                ..LedgerRow::default()
            };
            Ok(Row::Ledger(ledger_row(&ledger, row)?))
        }
        Some(Kind::Command(command)) => Ok(Row::Command(CommandRow {
            command_id: Uuid::from_slice(&command.command_id)
                .map_err(|error| format!("command_id: {error}"))?,
            step: step(command.step)?,
            device_id: event.device_id,
            at: event.received_at_ms,
            name: command.name,
            issued_by: command.issued_by,
            issued_at: command.issued_at_ms,
            expires_at: command.expires_at_ms,
            node_id: event.node_id,
            session_id,
            device_code: code(command.device_code),
            kafka_partition: place.kafka_partition,
            kafka_offset: place.kafka_offset,
        })),
        None => Err("an event of a kind that this version does not know".to_owned()),
    }
}

fn dead_letter_row(payload: &[u8], place: Place) -> Result<Row, String> {
    let letter = v1::DeadLetter::decode(payload).map_err(|error| error.to_string())?;
    Ok(Row::DeadLetter(DeadLetterRow {
        received_at: letter.received_at_ms,
        device_id: letter.device_id,
        session_id: session_id(&letter.session_id)?,
        node_id: letter.node_id,
        topic: letter.topic,
        payload: letter.payload.into(),
        reason: event::reject_reason_name(v1::RejectReason::try_from(letter.reason).unwrap_or_default()),
        detail: letter.detail,
        source: DeadLetterRow::GATEWAY,
        kafka_partition: place.kafka_partition,
        kafka_offset: place.kafka_offset,
    }))
}

/// Fills in what was counted.
fn ledger_row(ledger: &v1::NodeLedger, mut row: LedgerRow) -> Result<LedgerRow, String> {
    row.minute = u32::try_from(ledger.minute_ms / 1_000)
        .map_err(|_| format!("minute_ms {} is out of range", ledger.minute_ms))?;
    row.telling = ledger.telling;
    row.complete = ledger.complete;
    for count in &ledger.counts {
        row.streams.push(ledger_stream(count.stream)?);
        row.partitions.push(count.partition);
        row.heartbeats.push(count.heartbeats);
        row.others.push(count.others);
        row.dead_letters.push(count.dead_letters);
        row.acknowledged.push(count.acknowledged);
        row.repeated.push(count.repeated);
        row.failed.push(count.failed);
        row.first_offsets.push(count.first_offset);
        row.last_offsets.push(count.last_offset);
    }
    Ok(row)
}

fn not_an_event(record: &Input<'_>, place: Place, detail: String) -> Row {
    metrics::counter!("fleetpulse_writer_rejected_total", "stream" => record.lane.stream.name()).increment(1);
    tracing::warn!(lane = %record.lane, offset = record.offset.0, detail, "a record is no event: it becomes a dead letter");
    let reason = event::reject_reason_name(v1::RejectReason::NotAnEvent);
    Row::DeadLetter(rejected(record, place, reason, detail))
}

/// The row of a record that ClickHouse does not take.
pub(crate) fn refused(record: &Input<'_>, error: &dyn std::error::Error) -> DeadLetterRow {
    let mut detail = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    detail.truncate(detail.floor_char_boundary(DETAIL_MAX));
    rejected(record, Place::of(record), DeadLetterRow::REFUSED, detail)
}

/// The record's own time stands for the time received: a replay makes the same row.
fn rejected(record: &Input<'_>, place: Place, reason: &'static str, detail: String) -> DeadLetterRow {
    DeadLetterRow {
        received_at: record.produced_at_ms,
        device_id: String::new(),
        session_id: Uuid::nil(),
        node_id: String::new(),
        topic: record.lane.stream.name().to_owned(),
        payload: record.payload.to_vec(),
        reason,
        detail,
        source: DeadLetterRow::WRITER,
        kafka_partition: place.kafka_partition,
        kafka_offset: place.kafka_offset,
    }
}

fn session_id(bytes: &[u8]) -> Result<Uuid, String> {
    Uuid::from_slice(bytes).map_err(|error| format!("session_id: {error}"))
}

/// The numbers of the column's `Enum8` are those of the protobuf enum.
pub(crate) fn clock(clock: i32) -> Result<i8, String> {
    match v1::Clock::try_from(clock) {
        Ok(v1::Clock::Unspecified) | Err(_) => Err(format!("clock {clock} is not known")),
        Ok(known) => Ok(known as i8),
    }
}

/// The numbers of the column's `Enum8` are those of the protobuf enum.
fn step(step: i32) -> Result<i8, String> {
    match v1::CommandStep::try_from(step) {
        Ok(v1::CommandStep::Unspecified) | Err(_) => Err(format!("command step {step} is not known")),
        Ok(known) => Ok(known as i8),
    }
}

/// The numbers of the column's `Enum8` are those of the protobuf enum.
fn ledger_stream(stream: i32) -> Result<i8, String> {
    match v1::LedgerStream::try_from(stream) {
        Ok(v1::LedgerStream::Unspecified) | Err(_) => Err(format!("ledger stream {stream} is not known")),
        Ok(known) => Ok(known as i8),
    }
}

/// A reason code of MQTT is one byte.
fn code(code: u32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use bus::Partition;
    use event::v1::{
        CommandState, CommandStep, LedgerCount, LedgerStream, NodeAlive, NodeLedger, NodeStarted,
    };

    use super::*;

    fn row_of(event: &Event) -> Row {
        let lane = Lane { stream: Stream::Events, partition: Partition(1) };
        let payload = event.encode_to_vec();
        of(&Input { lane, offset: Offset(7), produced_at_ms: 5, payload: &payload })
    }

    fn event(kind: Option<Kind>) -> Event {
        Event { node_id: "gateway-1".into(), epoch: 3, received_at_ms: 9, kind, ..Event::default() }
    }

    #[test]
    fn a_nodes_life_is_a_row_without_a_session() {
        let started = NodeStarted { version: "1.2.3".into() };
        let Row::Node(row) = row_of(&event(Some(Kind::NodeStarted(started)))) else { panic!("no node") };
        assert_eq!((row.event, row.epoch, row.at, row.version.as_str()), (NodeRow::STARTED, 3, 9, "1.2.3"));
        let alive = NodeAlive { sessions: 4, lost_after_ms: 15_000 };
        let Row::Node(row) = row_of(&event(Some(Kind::NodeAlive(alive)))) else { panic!("no node") };
        assert_eq!((row.event, row.sessions, row.lost_after_ms), (NodeRow::ALIVE, 4, 15_000));
    }

    #[test]
    fn the_counts_of_a_minute_are_a_row_with_an_element_for_each_partition() {
        let count = |stream: LedgerStream, partition| LedgerCount {
            stream: stream.into(),
            partition,
            heartbeats: 1,
            others: 2,
            dead_letters: 3,
            acknowledged: 4,
            repeated: 5,
            failed: 6,
            first_offset: 7,
            last_offset: 8,
        };
        let counts = vec![count(LedgerStream::Events, -1), count(LedgerStream::DeadLetters, 9)];
        let ledger = NodeLedger { minute_ms: 1_767_268_800_000, telling: 2, complete: true, counts };
        let Row::Ledger(row) = row_of(&event(Some(Kind::NodeLedger(ledger.clone())))) else {
            panic!("no ledger")
        };
        assert_eq!((row.minute, row.telling, row.complete, row.told_at), (1_767_268_800, 2, true, 9));
        assert_eq!((row.streams, row.partitions), (vec![1, 2], vec![-1, 9]));
        let numbers = [row.heartbeats, row.others, row.dead_letters, row.acknowledged];
        assert_eq!(numbers, [[1, 1], [2, 2], [3, 3], [4, 4]]);
        let numbers = [row.repeated, row.failed, row.first_offsets, row.last_offsets];
        assert_eq!(numbers, [[5, 5], [6, 6], [7, 7], [8, 8]]);
        let unknown =
            NodeLedger { counts: vec![LedgerCount { stream: 9, ..LedgerCount::default() }], ..ledger };
        assert!(matches!(row_of(&event(Some(Kind::NodeLedger(unknown)))), Row::DeadLetter(_)));
    }

    #[test]
    fn a_step_of_a_command_is_a_row() {
        let state = CommandState {
            command_id: b"0123456789abcdef"[..].into(),
            step: CommandStep::Delivered.into(),
            device_code: 0x10,
            ..CommandState::default()
        };
        let Row::Command(row) = row_of(&event(Some(Kind::Command(state.clone())))) else {
            panic!("no command")
        };
        assert_eq!((row.step, row.device_code, row.session_id), (3, 0x10, Uuid::nil()));
        let unknown = CommandState { step: 99, ..state };
        assert!(matches!(row_of(&event(Some(Kind::Command(unknown)))), Row::DeadLetter(_)));
    }

    #[test]
    fn what_is_not_known_is_a_dead_letter_and_never_nothing() {
        assert!(matches!(row_of(&event(None)), Row::DeadLetter(_)));
        let session_of_none = event(Some(Kind::Disconnected(v1::Disconnected::default())));
        assert!(matches!(row_of(&session_of_none), Row::DeadLetter(_)), "presence has a session");
    }
}
