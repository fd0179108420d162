//! The record of a heartbeat, read in place: its texts stay where they are, and no event is built.
//!
//! Only one that a gateway wrote, with the fields that this version knows. Of everything else this says nothing, and prost reads it
//! ([`crate::row`]): it also says what is wrong with it. Where both read a record they make the same row of it.

use event::{PlainMessage, Written};
use store::rows::HeartbeatRow;
use uuid::Uuid;

use crate::row::Place;
use crate::{row, scaled};

use Written::{Eight, Four, Length, Varint};

/// Adds the row of a plain event that is a heartbeat, and answers it. A row is half a kilobyte: it is filled where it stays.
pub(crate) fn read<'a, 'r>(
    payload: &'a [u8],
    place: Place,
    rows: &'r mut Vec<HeartbeatRow<'a>>,
) -> Option<&'r HeartbeatRow<'a>> {
    rows.push(HeartbeatRow::default());
    let row = rows.last_mut()?;
    row.kafka_partition = place.kafka_partition;
    row.kafka_offset = place.kafka_offset;
    if event(payload, row).is_none() {
        rows.pop();
        return None;
    }
    rows.last()
}

fn event<'a>(payload: &'a [u8], row: &mut HeartbeatRow<'a>) -> Option<()> {
    let (mut has_session, mut is_heartbeat) = (false, false);
    let mut event = PlainMessage::new(payload);
    while !event.is_at_end() {
        match event.field()? {
            (1, Length) => row.device_id = event.text()?.into(),
            (2, Varint) => row.received_at = event.varint()?.cast_signed(),
            (3, Length) => row.node_id = event.text()?.into(),
            // Its epoch is no column.
            (4, Varint) => drop(event.varint()?),
            (5, Length) => {
                row.session_id = Uuid::from_slice(event.bytes()?).ok()?;
                has_session = true;
            }
            (6, Length) => traffic(event.message()?, row)?,
            (10, Length) => {
                heartbeat(event.message()?, row)?;
                is_heartbeat = true;
            }
            _ => return None,
        }
    }
    (has_session && is_heartbeat).then_some(())
}

fn traffic(mut traffic: PlainMessage<'_>, row: &mut HeartbeatRow<'_>) -> Option<()> {
    while !traffic.is_at_end() {
        match traffic.field()? {
            (1, Varint) => row.session_bytes_in = traffic.varint()?,
            (2, Varint) => row.session_bytes_out = traffic.varint()?,
            (3, Varint) => row.session_messages_in = traffic.varint()?,
            (4, Varint) => drop(traffic.varint()?),
            _ => return None,
        }
    }
    Some(())
}

fn heartbeat<'a>(mut heartbeat: PlainMessage<'a>, row: &mut HeartbeatRow<'a>) -> Option<()> {
    let mut clock = 0;
    while !heartbeat.is_at_end() {
        match heartbeat.field()? {
            (1, Varint) => row.device_time = heartbeat.varint()?.cast_signed(),
            (2, Varint) => clock = i32::try_from(heartbeat.varint()?).ok()?,
            (3, Varint) => row.claimed_time_ms = Some(heartbeat.varint()?.cast_signed()),
            (4, Eight) => row.identity = u64::from_le_bytes(heartbeat.eight()?),
            (5, Varint) => row.sequence = Some(heartbeat.varint()?),
            (6, Length) => row.boot_id = heartbeat.text()?.into(),
            (7, Varint) => row.uptime_s = Some(heartbeat.varint()?),
            (8, Length) => row.firmware = heartbeat.text()?.into(),
            (9, Length) => row.state = heartbeat.text()?.into(),
            (10, Varint) => row.next_s = Some(short(&mut heartbeat)?),
            (11, Length) => battery(heartbeat.message()?, row)?,
            (12, Length) => position(heartbeat.message()?, row)?,
            (13, Length) => radio(heartbeat.message()?, row)?,
            (14, Length) => sim(heartbeat.message()?, row)?,
            (15, Length) => usage(heartbeat.message()?, row)?,
            (16, Length) => row.extra = heartbeat.text()?.into(),
            _ => return None,
        }
    }
    row.clock = row::clock(clock).ok()?;
    Some(())
}

fn battery(mut battery: PlainMessage<'_>, row: &mut HeartbeatRow<'_>) -> Option<()> {
    while !battery.is_at_end() {
        match battery.field()? {
            (1, Four) => row.battery_e2 = scaled::percent_e2(Some(float(&mut battery)?)),
            (2, Varint) => row.battery_millivolts = Some(short(&mut battery)?),
            (3, Varint) => row.battery_charging = Some(battery.varint()? != 0),
            _ => return None,
        }
    }
    Some(())
}

fn position(mut position: PlainMessage<'_>, row: &mut HeartbeatRow<'_>) -> Option<()> {
    while !position.is_at_end() {
        match position.field()? {
            (1, Eight) => row.latitude_e6 = scaled::wide(Some(double(&mut position)?), 1e6),
            (2, Eight) => row.longitude_e6 = scaled::wide(Some(double(&mut position)?), 1e6),
            (3, Four) => row.altitude_e1 = scaled::wide(Some(float(&mut position)?), 10.0),
            (4, Four) => row.speed_e2 = scaled::wide(Some(float(&mut position)?), 100.0),
            (5, Four) => row.accuracy_e1 = scaled::wide(Some(float(&mut position)?), 10.0),
            _ => return None,
        }
    }
    Some(())
}

fn radio<'a>(mut radio: PlainMessage<'a>, row: &mut HeartbeatRow<'a>) -> Option<()> {
    while !radio.is_at_end() {
        match radio.field()? {
            (1, Length) => row.rat = radio.text()?.into(),
            (2, Length) => row.plmn = radio.text()?.into(),
            (3, Varint) => row.cell_id = Some(radio.varint()?),
            (4, Varint) => row.tac = Some(short(&mut radio)?),
            (5, Four) => row.rssi_e1 = scaled::tenths(Some(float(&mut radio)?)),
            (6, Four) => row.rsrp_e1 = scaled::tenths(Some(float(&mut radio)?)),
            (7, Four) => row.rsrq_e1 = scaled::tenths(Some(float(&mut radio)?)),
            (8, Four) => row.sinr_e1 = scaled::tenths(Some(float(&mut radio)?)),
            _ => return None,
        }
    }
    Some(())
}

fn sim<'a>(mut sim: PlainMessage<'a>, row: &mut HeartbeatRow<'a>) -> Option<()> {
    while !sim.is_at_end() {
        match sim.field()? {
            (1, Length) => row.iccid = sim.text()?.into(),
            (2, Length) => row.imsi = sim.text()?.into(),
            (3, Length) => row.imei = sim.text()?.into(),
            _ => return None,
        }
    }
    Some(())
}

fn usage(mut usage: PlainMessage<'_>, row: &mut HeartbeatRow<'_>) -> Option<()> {
    while !usage.is_at_end() {
        match usage.field()? {
            (1, Varint) => row.modem_tx_bytes = Some(usage.varint()?),
            (2, Varint) => row.modem_rx_bytes = Some(usage.varint()?),
            _ => return None,
        }
    }
    Some(())
}

/// 32 bits. What has more is cut by prost, and here not read.
fn short(message: &mut PlainMessage<'_>) -> Option<u32> {
    u32::try_from(message.varint()?).ok()
}

fn float(message: &mut PlainMessage<'_>) -> Option<f32> {
    message.four().map(f32::from_le_bytes)
}

fn double(message: &mut PlainMessage<'_>) -> Option<f64> {
    message.eight().map(f64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use event::v1::event::Kind;
    use event::v1::{Battery, Event, Heartbeat, NodeStopping, Position, Radio, Sim, Traffic, Usage};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use prost::Message;

    use super::*;
    use crate::row::{Row, event_row};

    fn read(payload: &[u8], place: Place) -> Option<HeartbeatRow<'_>> {
        let mut rows = Vec::new();
        let is_read = super::read(payload, place, &mut rows).is_some();
        assert_eq!(rows.len(), usize::from(is_read), "what is not read leaves no row");
        rows.pop()
    }

    const PLACE: Place = Place { kafka_partition: 3, kafka_offset: 1 << 40 };

    /// What prost makes of it.
    fn reference(payload: &[u8]) -> Option<HeartbeatRow<'static>> {
        match event_row(payload, PLACE) {
            Ok(Row::Heartbeat(row)) => Some(*row),
            _ => None,
        }
    }

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
            numbers in any::<(i64, Option<i64>, u64, Option<u64>, Option<u64>, Option<u32>)>(),
            clock in 1..=3_i32,
            boot_id in text(), firmware in text(), state in text(), extra_json in ".{0,64}",
        ) -> Heartbeat {
            let (device_time_ms, claimed_time_ms, identity, sequence, uptime_s, next_s) = numbers;
            Heartbeat {
                device_time_ms, clock, claimed_time_ms, identity, sequence, boot_id, uptime_s, firmware, state,
                next_s, extra_json, ..groups
            }
        }
    }

    prop_compose! {
        fn event()(
            heartbeat in heartbeat(),
            device_id in ".{1,32}", node_id in ".{0,16}",
            received_at_ms: i64, epoch: u64, session_id: [u8; 16],
            traffic in option::of(any::<[u64; 4]>()),
        ) -> Event {
            Event {
                device_id, received_at_ms, node_id, epoch,
                session_id: session_id.to_vec().into(),
                session_traffic: traffic.map(|[bytes_in, bytes_out, messages_in, messages_out]| {
                    Traffic { bytes_in, bytes_out, messages_in, messages_out }
                }),
                kind: Some(Kind::Heartbeat(heartbeat)),
            }
        }
    }

    /// What can happen to bytes.
    #[derive(Clone, Debug)]
    enum Harm {
        Set(Index, u8),
        Insert(Index, u8),
        Remove(Index),
        Cut(Index),
        /// Some of it stands once more, at another place.
        Again(Index, Index, Index),
    }

    fn harm() -> impl Strategy<Value = Harm> {
        let place = any::<Index>;
        prop_oneof![
            4 => (place(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
            1 => (place(), any::<u8>()).prop_map(|(at, byte)| Harm::Insert(at, byte)),
            1 => place().prop_map(Harm::Remove),
            1 => place().prop_map(Harm::Cut),
            1 => (place(), place(), place()).prop_map(|(from, to, at)| Harm::Again(from, to, at)),
        ]
    }

    fn harmed(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
        for harm in harms {
            let length = bytes.len();
            match harm {
                _ if length == 0 => {}
                Harm::Set(at, byte) => bytes[at.index(length)] = *byte,
                Harm::Insert(at, byte) => bytes.insert(at.index(length), *byte),
                Harm::Remove(at) => drop(bytes.remove(at.index(length))),
                Harm::Cut(at) => bytes.truncate(at.index(length)),
                Harm::Again(from, to, at) => {
                    let (from, to) = (from.index(length), to.index(length));
                    let again = bytes[from.min(to)..from.max(to)].to_vec();
                    let at = at.index(length);
                    bytes.splice(at..at, again);
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_a_gateway_writes_is_read_in_place_and_as_prost_reads_it(event in event()) {
            let payload = event.encode_to_vec();
            let row = read(&payload, PLACE);
            prop_assert!(row.is_some());
            prop_assert_eq!(row, reference(&payload));
        }

        #[test]
        fn whatever_is_read_in_place_prost_reads_alike(event in event(), harms in vec(harm(), 1..4)) {
            let payload = harmed(event.encode_to_vec(), &harms);
            if let Some(row) = read(&payload, PLACE) {
                prop_assert_eq!(Some(row), reference(&payload));
            }
        }
    }

    #[test]
    fn what_only_prost_reads_is_left_to_it() {
        let heartbeat = Heartbeat { clock: 1, sequence: Some(7), ..Heartbeat::default() };
        let of = |kind| Event {
            device_id: "d".into(),
            session_id: vec![7; 16].into(),
            kind: Some(kind),
            ..Event::default()
        };
        let plain = of(Kind::Heartbeat(heartbeat.clone())).encode_to_vec();
        assert!(read(&plain, PLACE).is_some());
        // A field that a later version may add, at its place: 100, as a varint.
        let unknown = [plain.as_slice(), &[0xa0, 0x06, 0x01]].concat();
        // The device once more, out of order: the last of both holds.
        let twice = [plain.as_slice(), b"\x0a\x01e"].concat();
        // The kind once more: both are one message.
        let more = Heartbeat { uptime_s: Some(9), ..Heartbeat::default() }.encode_to_vec();
        let merged = [plain.as_slice(), &[0x52, u8::try_from(more.len()).expect("short")], &more].concat();
        for (payload, device_id, uptime_s) in
            [(&unknown, "d", None), (&twice, "e", None), (&merged, "d", Some(9))]
        {
            assert_eq!(read(payload, PLACE), None);
            let row = reference(payload).expect("a heartbeat all the same");
            assert_eq!((row.device_id.as_ref(), row.sequence, row.uptime_s), (device_id, Some(7), uptime_s));
        }
        // What is no row of heartbeats at all.
        let unclear = Heartbeat { clock: 0, ..heartbeat };
        let nobodys = Event { session_id: vec![7; 15].into(), ..of(Kind::Heartbeat(unclear.clone())) };
        for event in [of(Kind::Heartbeat(unclear)), nobodys, of(Kind::NodeStopping(NodeStopping {}))] {
            let payload = event.encode_to_vec();
            assert_eq!((read(&payload, PLACE), reference(&payload)), (None, None));
        }
    }
}
