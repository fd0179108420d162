//! A record that is written at once is the one that prost writes.

use event::v1::{Battery, Event, Heartbeat, Position, Radio, Sim, Traffic, Usage, event::Kind};
use event::{DeviceId, Millis, NodeId, SessionId, SessionPrefix, encode_heartbeat};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

/// Long enough for lengths of two bytes.
fn text() -> impl Strategy<Value = Option<String>> {
    option::of(prop_oneof![".{0,16}", ".{100,200}"])
}

prop_compose! {
    fn groups()(
        battery in option::of(any::<(Option<f32>, Option<u32>, Option<bool>)>()),
        degrees in option::of(any::<(Option<f64>, Option<f64>)>()),
        metres in any::<[Option<f32>; 3]>(),
        radio in option::of((text(), text(), any::<(Option<u64>, Option<u32>)>(), any::<[Option<f32>; 4]>())),
        sim in option::of((text(), text(), text())),
        usage in option::of(any::<(Option<u64>, Option<u64>)>()),
    ) -> Heartbeat {
        Heartbeat {
            battery: battery.map(|(percent, millivolts, charging)| Battery { percent, millivolts, charging }),
            position: degrees.map(|(latitude_deg, longitude_deg)| {
                let [altitude_m, speed_mps, accuracy_m] = metres;
                Position { latitude_deg, longitude_deg, altitude_m, speed_mps, accuracy_m }
            }),
            radio: radio.map(|(rat, plmn, (cell_id, tac), [rssi_dbm, rsrp_dbm, rsrq_db, sinr_db])| {
                Radio { rat, plmn, cell_id, tac, rssi_dbm, rsrp_dbm, rsrq_db, sinr_db }
            }),
            sim: sim.map(|(iccid, imsi, imei)| Sim { iccid, imsi, imei }),
            usage: usage.map(|(tx_bytes, rx_bytes)| Usage { tx_bytes, rx_bytes }),
            ..Heartbeat::default()
        }
    }
}

prop_compose! {
    fn heartbeat()(
        groups in groups(),
        numbers in any::<(i64, i32, Option<i64>, u64, Option<u64>, Option<u64>, Option<u32>)>(),
        zeros: [bool; 3],
        boot_id in text(), firmware in text(), state in text(),
        extra_json in prop_oneof![Just(String::new()), ".{0,64}", "x{0,20000}"],
    ) -> Heartbeat {
        let (device_time_ms, clock, claimed_time_ms, identity, sequence, uptime_s, next_s) = numbers;
        Heartbeat {
            device_time_ms: if zeros[0] { 0 } else { device_time_ms },
            clock: if zeros[1] { 0 } else { clock },
            identity: if zeros[2] { 0 } else { identity },
            claimed_time_ms, sequence, boot_id, uptime_s, firmware, state, next_s, extra_json,
            ..groups
        }
    }
}

fn traffic() -> impl Strategy<Value = Traffic> {
    any::<[u16; 4]>().prop_map(|numbers| {
        // Zeros among them, and numbers of every length.
        let number =
            |n: u16| if n.is_multiple_of(4) { 0 } else { u64::from(n).wrapping_pow(u32::from(n % 5)) };
        let [bytes_in, bytes_out, messages_in, messages_out] = numbers.map(number);
        Traffic { bytes_in, bytes_out, messages_in, messages_out }
    })
}

proptest! {
    #[test]
    fn a_record_is_the_one_that_prost_writes(
        heartbeat in heartbeat(), traffic in traffic(), received_at in prop_oneof![Just(0), any::<i64>()],
        device_id in "[^/+#\\p{Cc}]{1,32}", node_id in ".{0,16}", epoch in prop_oneof![Just(0), any::<u64>()],
        session_id: u128,
    ) {
        let session_id = SessionId(uuid::Uuid::from_u128(session_id));
        let device = DeviceId::new(&device_id).expect("a device id");
        let prefix = SessionPrefix::new(&device, &NodeId(node_id.as_str().into()), epoch, session_id);
        let mut record = b"before".to_vec();
        encode_heartbeat(&prefix, Millis(received_at), &traffic, &heartbeat, &mut record);
        let event = Event {
            device_id,
            received_at_ms: received_at,
            node_id,
            epoch,
            session_id: session_id.0.as_bytes().to_vec().into(),
            session_traffic: Some(traffic),
            kind: Some(Kind::Heartbeat(heartbeat)),
        };
        prop_assert!(record.starts_with(b"before"));
        prop_assert_eq!(&record[6..], event.encode_to_vec());
    }
}
