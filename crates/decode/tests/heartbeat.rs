//! Each fixture decodes, or is rejected, as its name says.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use decode::{Arrival, ClockPolicy, NESTING_LEVELS_MAX, PAYLOAD_BYTES_MAX, Rejection};
use event::v1::{Battery, Clock, Heartbeat, Position, Radio, RejectReason, Sim, Usage};
use event::{Millis, SessionId};

const RECEIVED_AT: Millis = Millis(1_767_225_601_000);

fn arrival(at: Millis) -> Arrival {
    Arrival { at, session_id: SessionId(uuid::Uuid::from_u128(7)), message: 1 }
}

fn decoded(payload: impl AsRef<[u8]>) -> Result<Heartbeat, Rejection> {
    decode::heartbeat(payload.as_ref(), &arrival(RECEIVED_AT), &ClockPolicy::default())
}

fn fixtures(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(read).collect()
}

/// What a valid fixture holds, identity aside; one that names no time or identity has them filled in.
fn expected(name: &str) -> Heartbeat {
    let device =
        |device_time_ms| Heartbeat { device_time_ms, clock: Clock::Device.into(), ..Heartbeat::default() };
    let gateway =
        Heartbeat { device_time_ms: RECEIVED_AT.0, clock: Clock::Gateway.into(), ..Heartbeat::default() };
    match name {
        "the_example_of_the_crate" => Heartbeat {
            sequence: Some(42),
            boot_id: Some("b7".into()),
            uptime_s: Some(86_400),
            firmware: Some("1.4.2".into()),
            state: Some("riding".into()),
            next_s: Some(30),
            battery: Some(Battery { percent: Some(87.5), millivolts: Some(41_200), charging: Some(false) }),
            position: Some(Position {
                latitude_deg: Some(52.52),
                longitude_deg: Some(13.405),
                altitude_m: Some(34.0),
                speed_mps: Some(5.2),
                accuracy_m: Some(4.0),
            }),
            radio: Some(Radio {
                rat: Some("LTE-M".into()),
                plmn: Some("26201".into()),
                cell_id: Some(12_345_678),
                tac: Some(4660),
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
            extra_json: r#"{"kickstand":"up","motor_temp_c":31.5}"#.into(),
            ..device(1_767_225_600_123)
        },
        "nothing_at_all" | "null_is_absent" | "empty_groups_are_absent" => gateway,
        "whole_numbers_written_as_floats" => {
            Heartbeat { sequence: Some(42), next_s: Some(30), ..device(1_767_225_600_123) }
        }
        "time_as_rfc_3339" => device(1_767_225_600_123),
        "unknown_members_are_kept" => Heartbeat {
            extra_json: r#"{"lock":{"bolts":[1,2]},"battery":{"temp":3},"price":1.10000000000000000001}"#
                .into(),
            ..gateway
        },
        "names_of_extra_that_clash_stay_under_extra" => Heartbeat {
            extra_json: r#"{"x":1,"battery":{"temp":3},"y":3,"extra":{"battery":4,"extra":5,"x":2}}"#.into(),
            ..gateway
        },
        "names_with_escapes" => {
            Heartbeat { sequence: Some(7), extra_json: r#"{"a\"bé\n":1}"#.into(), ..gateway }
        }
        "iccid_with_filler" => {
            let sim = Sim { iccid: Some("8949020000012345678".into()), ..Sim::default() };
            Heartbeat { sim: Some(sim), ..gateway }
        }
        "bounds_of_ranges_are_inside" => Heartbeat {
            battery: Some(Battery { percent: Some(100.0), ..Battery::default() }),
            position: Some(Position {
                latitude_deg: Some(-90.0),
                longitude_deg: Some(180.0),
                ..Position::default()
            }),
            ..gateway
        },
        other => panic!("no expectation for the fixture {other}"),
    }
}

#[test]
fn each_valid_fixture_decodes_to_what_it_holds() {
    let fixtures = fixtures("valid");
    assert_eq!(fixtures.len(), 11);
    for (name, payload) in fixtures {
        let heartbeat = decoded(payload).unwrap_or_else(|rejection| panic!("{name}: {rejection}"));
        assert_eq!(heartbeat, Heartbeat { identity: heartbeat.identity, ..expected(&name) }, "{name}");
    }
}

#[test]
fn each_invalid_fixture_is_rejected_for_its_reason() {
    let fixtures = fixtures("invalid");
    assert_eq!(fixtures.len(), 37);
    for (name, payload) in fixtures {
        let rejection = decoded(payload).expect_err(&name);
        let reason = rejection.reason.as_str_name().trim_start_matches("REJECT_REASON_").to_lowercase();
        assert_eq!(Some(reason.as_str()), name.split('.').next(), "{name}: {rejection}");
    }
}

#[test]
fn a_rejection_names_the_field_and_what_was_wrong() {
    for (payload, detail) in [
        (r#"{"battery":{"percent":130}}"#, "battery.percent: 130 is not within 0 to 100"),
        (r#"{"seq":"a"}"#, r#"seq: "a" is not a whole number"#),
        (r#"{"sim":7}"#, "sim: 7 is not an object"),
        (r#"{"battery":{},"usage":{"tx_bytes":1,"tx_bytes":2}}"#, "usage.tx_bytes: stands twice"),
        (r#"{"battery":{"t":1,"t":2}}"#, r#""t" stands twice in battery"#),
        (r#"{"position":{"lat":1e999}}"#, "position.lat: number out of range at line 1 column 24"),
    ] {
        assert_eq!(decoded(payload).unwrap_err().detail, detail);
    }
}

#[test]
fn a_payload_may_have_64_kib_and_not_a_byte_more() {
    let of = |bytes: usize| format!(r#"{{"x":"{}"}}"#, "y".repeat(bytes - 8));
    let largest = of(PAYLOAD_BYTES_MAX);
    assert_eq!(decoded(&largest).unwrap().extra_json, largest);
    assert_eq!(decoded(of(PAYLOAD_BYTES_MAX + 1)).unwrap_err().reason, RejectReason::TooLarge);
}

#[test]
fn nesting_is_bounded_wherever_it_stands() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let within = format!(r#"{{"x":{}}}"#, nested(NESTING_LEVELS_MAX));
    assert_eq!(decoded(&within).unwrap().extra_json, within);
    assert!(
        decoded(format!(r#"{{"x":"\"{}"}}"#, "[".repeat(1000))).is_ok(),
        "brackets in a text do not nest"
    );

    let deep = nested(30_000);
    for (payload, reason) in [
        (format!(r#"{{"x":{}}}"#, nested(NESTING_LEVELS_MAX + 1)), RejectReason::OutOfRange),
        (format!(r#"{{"x":{deep}}}"#), RejectReason::OutOfRange),
        (format!(r#"{{"battery":{{"x":{deep}}}}}"#), RejectReason::OutOfRange),
        (format!(r#"{{"extra":{{"x":{deep}}}}}"#), RejectReason::OutOfRange),
        (format!(r#"{{"seq":{deep}}}"#), RejectReason::WrongType),
        (deep, RejectReason::NotAnObject),
        ("[".repeat(PAYLOAD_BYTES_MAX), RejectReason::NotJson),
    ] {
        assert_eq!(decoded(&payload).unwrap_err().reason, reason, "{:.40}", payload);
    }
}

#[test]
fn an_implausible_time_is_a_claim() {
    let heartbeat = decoded(r#"{"ts":-5}"#).unwrap();
    assert_eq!(heartbeat.clock(), Clock::Implausible);
    assert_eq!((heartbeat.device_time_ms, heartbeat.claimed_time_ms), (RECEIVED_AT.0, Some(-5)));
}

#[test]
fn a_heartbeat_without_a_believed_clock_is_known_again_whenever_it_arrives() {
    let key = |payload: &str, at: i64, message: u64| {
        let arrival = Arrival { message, ..arrival(Millis(RECEIVED_AT.0 + at)) };
        let heartbeat = decode::heartbeat(payload.as_bytes(), &arrival, &ClockPolicy::default()).unwrap();
        (heartbeat.device_time_ms, heartbeat.identity)
    };
    for same in [r#"{"ts":-5,"seq":1,"boot_id":"a"}"#, r#"{"seq":1,"boot_id":"a"}"#] {
        assert_eq!(key(same, 0, 1), key(same, 86_400_000, 9), "{same}");
        assert_eq!(key(same, 0, 1).0, 0, "{same}: nobody knows when");
    }
    // Nothing tells these from the next ones: a clock that stands still, a number that begins anew.
    for told_apart in [r"{}", r#"{"seq":1}"#, r#"{"boot_id":"a"}"#, r#"{"ts":-5}"#, r#"{"ts":-5,"seq":1}"#] {
        assert_ne!(key(told_apart, 0, 1), key(told_apart, 1, 2), "{told_apart}");
    }
    assert_ne!(
        key(r#"{"ts":-5,"seq":1,"boot_id":"a"}"#, 0, 1),
        key(r#"{"ts":-5,"seq":2,"boot_id":"a"}"#, 0, 1)
    );
    assert_ne!(key(r#"{"seq":1,"boot_id":"a"}"#, 0, 1), key(r#"{"seq":1,"boot_id":"b"}"#, 0, 1));
}

#[test]
fn a_numbered_heartbeat_is_the_same_however_it_is_written() {
    let identity = |payload: &str| decoded(payload).unwrap().identity;
    assert_eq!(
        identity(r#"{"ts":1767225600000,"seq":1,"boot_id":"a"}"#),
        identity(r#"{ "boot_id":"a", "seq":1.0, "x":0, "ts":1767225600000 }"#)
    );
    assert_ne!(identity(r#"{"seq":1}"#), identity(r#"{"seq":2}"#));
    assert_ne!(
        identity(r#"{"ts":1767225600000,"uptime_s":1}"#),
        identity(r#"{"ts":1767225600000,"uptime_s":2}"#)
    );
}
