//! What holds for any input.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use decode::{Arrival, ClockPolicy, DETAIL_BYTES_MAX, Rejection};
use event::v1::{Battery, Clock, Heartbeat, Position, Radio, Sim, Usage};
use event::{Millis, SessionId};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value};

const EXAMPLE: &[u8] = include_bytes!("fixtures/valid/the_example_of_the_crate.json");
const RECEIVED_AT: Millis = Millis(1_767_225_601_000);

fn arrival(at: Millis) -> Arrival {
    Arrival { at, session_id: SessionId(uuid::Uuid::from_u128(7)), message: 1 }
}

fn decoded(payload: impl AsRef<[u8]>) -> Result<Heartbeat, Rejection> {
    decode::heartbeat(payload.as_ref(), &arrival(RECEIVED_AT), &ClockPolicy::default())
}

/// Decodes, and checks what every outcome must keep to.
fn decoded_within_bounds(payload: &[u8]) -> Result<Heartbeat, Rejection> {
    let outcome = decoded(payload);
    match &outcome {
        Ok(heartbeat) => {
            let extra = &heartbeat.extra_json;
            assert!(extra.len() <= payload.len());
            assert!(extra.is_empty() || serde_json::from_str::<Map<String, Value>>(extra).is_ok(), "{extra}");
        }
        Err(rejection) => {
            assert!(rejection.detail.len() <= DETAIL_BYTES_MAX && !rejection.detail.is_empty());
        }
    }
    outcome
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from)]
}

fn json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        ".{0,8}".prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(name(), inner, 0..6).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Names of members, known ones among them.
fn name() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 11] =
        ["ts", "seq", "state", "battery", "percent", "position", "lat", "radio", "plmn", "sim", "extra"];
    prop_oneof![proptest::sample::select(&KNOWN[..]).prop_map(str::to_owned), ".{0,4}"]
}

fn text() -> impl Strategy<Value = Option<String>> {
    option::of("[^\\p{Cc}]{0,32}")
}

fn float() -> impl Strategy<Value = Option<f32>> {
    option::of(proptest::num::f32::NORMAL | proptest::num::f32::SUBNORMAL | proptest::num::f32::ZERO)
}

prop_compose! {
    fn battery()(percent in option::of(0.0_f32..=100.0), millivolts: Option<u32>, charging: Option<bool>) -> Battery {
        Battery { percent, millivolts, charging }
    }
}

prop_compose! {
    fn position()(
        latitude_deg in option::of(-90.0..=90.0), longitude_deg in option::of(-180.0..=180.0),
        altitude_m in float(), speed_mps in float(), accuracy_m in float(),
    ) -> Position {
        Position { latitude_deg, longitude_deg, altitude_m, speed_mps, accuracy_m }
    }
}

prop_compose! {
    fn radio()(
        rat in text(), plmn in option::of("[0-9]{5,6}"), cell_id: Option<u64>, tac: Option<u32>,
        rssi_dbm in float(), rsrp_dbm in float(), rsrq_db in float(), sinr_db in float(),
    ) -> Radio {
        Radio { rat, plmn, cell_id, tac, rssi_dbm, rsrp_dbm, rsrq_db, sinr_db }
    }
}

prop_compose! {
    fn sim()(
        iccid in option::of("[0-9]{18,22}"), imsi in option::of("[0-9]{6,15}"), imei in option::of("[0-9]{14,16}"),
    ) -> Sim {
        Sim { iccid, imsi, imei }
    }
}

prop_compose! {
    fn heartbeat()(
        age_ms in 0..1_000_000_i64, sequence: Option<u64>, boot_id in text(), uptime_s: Option<u64>,
        firmware in text(), state in text(), next_s: Option<u32>,
        battery in battery(), position in position(), radio in radio(), sim in sim(),
        usage in any::<(Option<u64>, Option<u64>)>(),
    ) -> Heartbeat {
        let usage = Usage { tx_bytes: usage.0, rx_bytes: usage.1 };
        Heartbeat {
            device_time_ms: RECEIVED_AT.0 - age_ms,
            clock: Clock::Device.into(),
            sequence, boot_id, uptime_s, firmware, state, next_s,
            battery: (battery != Battery::default()).then_some(battery),
            position: (position != Position::default()).then_some(position),
            radio: (radio != Radio::default()).then_some(radio),
            sim: (sim != Sim::default()).then_some(sim),
            usage: (usage != Usage::default()).then_some(usage),
            ..Heartbeat::default()
        }
    }
}

/// The heartbeat as a device would write it; absent readings as `null` or not at all.
fn rendered(heartbeat: &Heartbeat, nulls: bool) -> String {
    let Heartbeat { battery, position, radio, sim, usage, .. } = heartbeat.clone();
    let battery = battery.unwrap_or_default();
    let position = position.unwrap_or_default();
    let radio = radio.unwrap_or_default();
    let sim = sim.unwrap_or_default();
    let usage = usage.unwrap_or_default();
    let mut payload = serde_json::json!({
        "ts": heartbeat.device_time_ms, "seq": heartbeat.sequence, "boot_id": heartbeat.boot_id,
        "uptime_s": heartbeat.uptime_s, "firmware": heartbeat.firmware, "state": heartbeat.state,
        "next_s": heartbeat.next_s,
        "battery": {
            "percent": battery.percent, "millivolts": battery.millivolts, "charging": battery.charging,
        },
        "position": {
            "lat": position.latitude_deg, "lon": position.longitude_deg, "alt_m": position.altitude_m,
            "speed_mps": position.speed_mps, "accuracy_m": position.accuracy_m,
        },
        "radio": {
            "rat": radio.rat, "plmn": radio.plmn, "cell_id": radio.cell_id, "tac": radio.tac,
            "rssi_dbm": radio.rssi_dbm, "rsrp_dbm": radio.rsrp_dbm, "rsrq_db": radio.rsrq_db,
            "sinr_db": radio.sinr_db,
        },
        "sim": { "iccid": sim.iccid, "imsi": sim.imsi, "imei": sim.imei },
        "usage": { "tx_bytes": usage.tx_bytes, "rx_bytes": usage.rx_bytes },
    });
    if !nulls {
        for value in payload.as_object_mut().unwrap().values_mut() {
            if let Value::Object(group) = value {
                group.retain(|_, value| !value.is_null());
            }
        }
        payload.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    }
    payload.to_string()
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_rejected(payload in vec(any::<u8>(), 0..256)) {
        let _ = decoded_within_bounds(&payload);
    }

    #[test]
    fn any_json_decodes_or_is_rejected(members in btree_map(name(), json(), 0..6)) {
        let _ = decoded_within_bounds(serde_json::to_string(&members).unwrap().as_bytes());
    }

    #[test]
    fn a_damaged_heartbeat_decodes_or_is_rejected(
        damage in vec((0..EXAMPLE.len(), prop_oneof![any::<u8>(), proptest::sample::select(&b"{}[]\",:\\0e.-"[..])]), 1..4),
        end in 0..=EXAMPLE.len(),
    ) {
        let mut payload = EXAMPLE.to_vec();
        for (at, byte) in damage {
            payload[at] = byte;
        }
        let _ = decoded_within_bounds(&payload);
        let _ = decoded_within_bounds(&payload[..end]);
    }

    #[test]
    fn a_rendered_heartbeat_decodes_to_the_same_fields(heartbeat in heartbeat(), nulls: bool) {
        let payload = rendered(&heartbeat, nulls);
        let decoded = decoded(&payload).unwrap();
        prop_assert_eq!(&decoded, &Heartbeat { identity: decoded.identity, ..heartbeat }, "{}", payload);
    }

    #[test]
    fn the_time_received_is_no_part_of_a_name_while_the_clock_stays_what_it_is_taken_for(
        heartbeat in heartbeat(), received_at: i64, another: i64,
    ) {
        // Of a message that does not name its boot and its number nothing tells whether it is another one.
        let heartbeat = Heartbeat { sequence: Some(heartbeat.sequence.unwrap_or(7)), boot_id: Some(heartbeat.boot_id.unwrap_or_default()), ..heartbeat };
        let payload = rendered(&heartbeat, false);
        let at = |at| {
            let policy = ClockPolicy::default();
            let heartbeat = decode::heartbeat(payload.as_bytes(), &arrival(Millis(at)), &policy).unwrap();
            (heartbeat.clock(), heartbeat.device_time_ms, heartbeat.identity)
        };
        let (once, again) = (at(received_at), at(another));
        prop_assert!(once.0 != again.0 || once == again);
        let soon = at(RECEIVED_AT.0.saturating_add(another % 1_000_000));
        prop_assert_eq!(at(RECEIVED_AT.0), soon);
    }

    #[test]
    fn another_sequence_is_another_identity(heartbeat in heartbeat(), a: u64, b: u64) {
        prop_assume!(a != b);
        let of = |sequence| {
            let heartbeat = Heartbeat { sequence: Some(sequence), ..heartbeat.clone() };
            decoded(rendered(&heartbeat, true)).unwrap().identity
        };
        prop_assert_ne!(of(a), of(b));
    }

    #[test]
    fn unknown_members_survive(
        top in btree_map("x.{0,4}", json(), 0..4),
        battery in btree_map("y.{0,4}", json(), 0..4),
        extra in btree_map("[xy].{0,1}|extra|battery|[z]{1,2}", json(), 0..12),
    ) {
        let mut payload = String::from("{");
        for (name, value) in &top {
            write!(payload, "{}:{value},", Value::from(name.as_str())).unwrap();
        }
        let (battery, extra) = (Value::from_iter(battery), Value::from_iter(extra));
        write!(payload, r#""battery":{battery},"extra":{extra}}}"#).unwrap();

        // Everything once, each where its place is free: undo that, and the payload is back.
        let text = decoded_within_bounds(payload.as_bytes()).unwrap().extra_json;
        let mut kept: Map<String, Value> = if text.is_empty() { Map::new() } else { serde_json::from_str(&text).unwrap() };
        let mut lifted: Map<String, Value> =
            kept.remove("extra").map_or_else(Map::new, |held| held.as_object().unwrap().clone());
        let is_top = |name: &str| top.contains_key(name) || (name == "battery" && battery != Value::Object(Map::new()));
        for (name, value) in extra.as_object().unwrap() {
            if !is_top(name) && name != "extra" {
                prop_assert_eq!(kept.remove(name), Some(value.clone()));
                prop_assert_eq!(lifted.insert(name.clone(), value.clone()), None);
            }
        }
        prop_assert_eq!(Value::Object(lifted), extra);
        let kept_battery = kept.remove("battery").unwrap_or_else(|| Map::new().into());
        prop_assert_eq!(kept_battery, battery);
        prop_assert_eq!(Value::Object(kept), Value::from_iter(top));
    }
}
