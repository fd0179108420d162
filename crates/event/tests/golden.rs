//! Bytes that a released version wrote decode for ever, to the same values. A new version of the schema adds a file; none is
//! ever changed.

use std::path::Path;

use event::v1::{
    Battery, Clock, CommandIssued, CommandRecord, CommandSettled, CommandState, CommandStep, Connected,
    DeadLetter, DisconnectReason, Disconnected, Event, Heartbeat, LedgerCount, LedgerStream, NodeAlive,
    NodeLedger, NodeStarted, Position, Radio, RejectReason, Sim, Traffic, Usage, command_record, event::Kind,
};
use prost::Message;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn event(kind: Kind) -> Event {
    Event {
        device_id: "scooter-1".into(),
        received_at_ms: 1_767_225_600_456,
        node_id: "gateway-1".into(),
        epoch: 1_767_000_000_000,
        session_id: b"0123456789abcdef"[..].into(),
        session_traffic: Some(Traffic { bytes_in: 1, bytes_out: 2, messages_in: 3, messages_out: 4 }),
        kind: Some(kind),
    }
}

fn heartbeat() -> Event {
    event(Kind::Heartbeat(Heartbeat {
        device_time_ms: 1_767_225_600_123,
        clock: Clock::Implausible.into(),
        claimed_time_ms: Some(-1),
        identity: u64::MAX,
        sequence: Some(0),
        boot_id: Some("b7".into()),
        uptime_s: Some(86_400),
        firmware: Some("1.4.2".into()),
        state: Some(String::new()),
        next_s: Some(30),
        battery: Some(Battery { percent: Some(87.5), millivolts: Some(41_200), charging: Some(false) }),
        position: Some(Position {
            latitude_deg: Some(52.52),
            longitude_deg: Some(13.405),
            altitude_m: Some(34.0),
            speed_mps: Some(5.25),
            accuracy_m: Some(4.0),
        }),
        radio: Some(Radio {
            rat: Some("LTE-M".into()),
            plmn: Some("26201".into()),
            cell_id: Some(12_345_678),
            tac: Some(4_660),
            rssi_dbm: Some(-71.0),
            rsrp_dbm: Some(-101.0),
            rsrq_db: Some(-11.0),
            sinr_db: Some(8.0),
        }),
        sim: Some(Sim {
            iccid: Some("8949020000012345678".into()),
            imsi: Some("262011234567890".into()),
            imei: Some("356938035643809".into()),
        }),
        usage: Some(Usage { tx_bytes: Some(123_456), rx_bytes: Some(65_432) }),
        extra_json: r#"{"kickstand":"up"}"#.into(),
    }))
}

fn connected() -> Event {
    event(Kind::Connected(Connected {
        peer: "192.0.2.1:5000".into(),
        protocol_level: 5,
        clean_start: true,
        keep_alive_s: 60,
        ..Connected::default()
    }))
}

fn disconnected() -> Event {
    event(Kind::Disconnected(Disconnected {
        connected_at_ms: 1_767_225_600_000,
        reason: DisconnectReason::TakenOver.into(),
        detail: "detail".into(),
        ..Disconnected::default()
    }))
}

/// Presence as it is since nodes tell their own life, and what came with it.
fn later_events() -> [(&'static str, Event); 5] {
    [
        (
            "v1-connected-2.bin",
            event(Kind::Connected(Connected {
                peer: "192.0.2.1:5000".into(),
                protocol_level: 5,
                clean_start: true,
                keep_alive_s: 60,
                client_id: "scooter-1".into(),
                tls_version: "1.3".into(),
                transport: "wss".into(),
                fleet: "berlin".into(),
                session_expiry_s: 3_600,
                session_present: true,
                presence_sequence: 1_767_225_600_456_000,
            })),
        ),
        (
            "v1-disconnected-2.bin",
            event(Kind::Disconnected(Disconnected {
                connected_at_ms: 1_767_225_600_000,
                reason: DisconnectReason::CredentialsRevoked.into(),
                detail: "detail".into(),
                presence_sequence: 1_767_225_600_456_000,
                client_code: 4,
            })),
        ),
        ("v1-node-started.bin", event(Kind::NodeStarted(NodeStarted { version: "0.1.0".into() }))),
        ("v1-node-alive.bin", event(Kind::NodeAlive(NodeAlive { sessions: 19_000, lost_after_ms: 15_000 }))),
        (
            "v1-command.bin",
            event(Kind::Command(CommandState {
                command_id: b"0123456789abcdef"[..].into(),
                name: "unlock".into(),
                step: CommandStep::Delivered.into(),
                issued_by: "backend".into(),
                issued_at_ms: 1_767_225_600_000,
                expires_at_ms: 1_767_225_660_000,
                device_code: 0x10,
            })),
        ),
    ]
}

#[test]
fn the_second_released_bytes_still_mean_what_they_meant() {
    for (name, event) in later_events() {
        assert_eq!(Event::decode(&golden(name)[..]), Ok(event), "{name}");
    }
}

/// The ledger, since nodes tell what they counted.
fn node_ledger() -> Event {
    event(Kind::NodeLedger(NodeLedger {
        minute_ms: 1_767_225_600_000,
        telling: 2,
        complete: true,
        counts: vec![
            LedgerCount {
                stream: LedgerStream::Events.into(),
                partition: 5,
                heartbeats: 300_000,
                others: 7,
                dead_letters: 0,
                acknowledged: 299_000,
                repeated: 12,
                failed: 3,
                first_offset: 1_000_000,
                last_offset: 1_300_010,
            },
            LedgerCount {
                stream: LedgerStream::DeadLetters.into(),
                partition: -1,
                dead_letters: 4,
                failed: 1,
                ..LedgerCount::default()
            },
        ],
    }))
}

#[test]
fn the_third_released_bytes_still_mean_what_they_meant() {
    assert_eq!(Event::decode(&golden("v1-node-ledger.bin")[..]), Ok(node_ledger()));
}

fn dead_letter() -> DeadLetter {
    DeadLetter {
        device_id: "scooter-1".into(),
        received_at_ms: 1_767_225_600_456,
        node_id: "gateway-1".into(),
        epoch: 1_767_000_000_000,
        session_id: b"0123456789abcdef"[..].into(),
        topic: "devices/scooter-1/heartbeat".into(),
        payload: b"\xffnot json"[..].into(),
        reason: RejectReason::NotJson.into(),
        detail: "detail".into(),
    }
}

fn command_records() -> [(&'static str, CommandRecord); 2] {
    let record = |kind| CommandRecord { kind: Some(kind) };
    let command_id = bytes::Bytes::from_static(b"0123456789abcdef");
    [
        (
            "v1-command-issued.bin",
            record(command_record::Kind::Issued(CommandIssued {
                command_id: command_id.clone(),
                device_id: "scooter-1".into(),
                name: "unlock".into(),
                payload: b"\xff{}"[..].into(),
                qos: 2,
                content_type: "application/json".into(),
                issued_at_ms: 1_767_225_600_000,
                expires_at_ms: 1_767_225_660_000,
                issued_by: "backend".into(),
                origin_node_id: "gateway-1".into(),
            })),
        ),
        (
            "v1-command-settled.bin",
            record(command_record::Kind::Settled(CommandSettled {
                command_id,
                device_id: "scooter-1".into(),
                outcome: CommandStep::Refused.into(),
                node_id: "gateway-2".into(),
            })),
        ),
    ]
}

#[test]
fn the_released_records_of_the_commands_topic_still_mean_what_they_meant() {
    for (name, record) in command_records() {
        assert_eq!(CommandRecord::decode(&golden(name)[..]), Ok(record), "{name}");
    }
}

#[test]
fn the_first_released_bytes_still_mean_what_they_meant() {
    assert_eq!(Event::decode(&golden("v1-heartbeat.bin")[..]), Ok(heartbeat()));
    assert_eq!(Event::decode(&golden("v1-connected.bin")[..]), Ok(connected()));
    assert_eq!(Event::decode(&golden("v1-disconnected.bin")[..]), Ok(disconnected()));
    assert_eq!(DeadLetter::decode(&golden("v1-dead-letter.bin")[..]), Ok(dead_letter()));
}

#[test]
fn an_event_of_a_later_version_decodes_without_what_is_not_known() {
    let mut later = heartbeat().encode_to_vec();
    // Field 1000, a text.
    prost::encoding::string::encode(1000, &"new".to_owned(), &mut later);
    assert_eq!(Event::decode(&later[..]), Ok(heartbeat()));
}
