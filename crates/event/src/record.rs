//! The record of a heartbeat, written at once.
//!
//! What the gateway does for each heartbeat: the bytes are those that prost writes for the same
//! [`Event`](crate::v1::Event), but what stays the same for a session is encoded once, no event is built, and no length
//! is counted before it is written. Each message names all of its fields, so that a new one in the schema does not compile
//! here until it is written.

use prost::Message;

use crate::v1::{Battery, Event, Heartbeat, Position, Radio, Sim, Traffic, Usage};
use crate::{DeviceId, Millis, NodeId, SessionId};

/// What all events of a session begin with, encoded: the device, the node, its epoch and the session. About 70 bytes.
#[derive(Clone, Debug)]
pub struct SessionPrefix {
    bytes: Box<[u8]>,
    /// Where the time received goes: fields stand in the order of their numbers.
    device_bytes: usize,
}

impl SessionPrefix {
    /// Encodes it.
    pub fn new(device_id: &DeviceId, node_id: &NodeId, epoch: u64, session_id: SessionId) -> Self {
        let device = Event { device_id: device_id.as_str().to_owned(), ..Event::default() };
        let session_id = bytes::Bytes::copy_from_slice(session_id.0.as_bytes());
        let session = Event { node_id: node_id.0.as_ref().to_owned(), epoch, session_id, ..Event::default() };
        let mut bytes = device.encode_to_vec();
        let device_bytes = bytes.len();
        bytes.extend(session.encode_to_vec());
        Self { bytes: bytes.into(), device_bytes }
    }
}

/// Appends the event of `heartbeat` to `out`: taken in at `received_at`, in the session of `prefix`, when that had moved
/// `traffic`. To spare an allocation clear and use the same `out` again; a full heartbeat takes about 330 bytes.
pub fn encode_heartbeat(
    prefix: &SessionPrefix,
    received_at: Millis,
    traffic: &Traffic,
    heartbeat: &Heartbeat,
    out: &mut Vec<u8>,
) {
    let (device, session) = prefix.bytes.split_at(prefix.device_bytes);
    out.extend_from_slice(device);
    put_whole(out, 2, Some(received_at.0.cast_unsigned()).filter(|millis| *millis != 0));
    out.extend_from_slice(session);
    put_message(out, 6, 1, traffic, put_traffic);
    put_message(out, 10, 2, heartbeat, put_heartbeat);
}

fn put_traffic(out: &mut Vec<u8>, traffic: &Traffic) {
    let Traffic { bytes_in, bytes_out, messages_in, messages_out } = *traffic;
    for (field, number) in [(1, bytes_in), (2, bytes_out), (3, messages_in), (4, messages_out)] {
        put_whole(out, field, Some(number).filter(|number| *number != 0));
    }
}

fn put_heartbeat(out: &mut Vec<u8>, heartbeat: &Heartbeat) {
    let Heartbeat {
        device_time_ms,
        clock,
        claimed_time_ms,
        identity,
        sequence,
        boot_id,
        uptime_s,
        firmware,
        state,
        next_s,
        battery,
        position,
        radio,
        sim,
        usage,
        extra_json,
    } = heartbeat;
    put_whole(out, 1, Some(device_time_ms.cast_unsigned()).filter(|millis| *millis != 0));
    put_whole(out, 2, Some(i64::from(*clock).cast_unsigned()).filter(|clock| *clock != 0));
    put_whole(out, 3, claimed_time_ms.map(i64::cast_unsigned));
    put_eight_bytes(out, 4, Some(identity.to_le_bytes()).filter(|identity| *identity != [0; 8]));
    put_whole(out, 5, *sequence);
    put_text(out, 6, boot_id.as_deref());
    put_whole(out, 7, *uptime_s);
    put_text(out, 8, firmware.as_deref());
    put_text(out, 9, state.as_deref());
    put_whole(out, 10, next_s.map(u64::from));
    if let Some(battery) = battery {
        put_message(out, 11, 1, battery, put_battery);
    }
    if let Some(position) = position {
        put_message(out, 12, 1, position, put_position);
    }
    if let Some(radio) = radio {
        put_message(out, 13, 1, radio, put_radio);
    }
    if let Some(sim) = sim {
        put_message(out, 14, 1, sim, put_sim);
    }
    if let Some(usage) = usage {
        put_message(out, 15, 1, usage, put_usage);
    }
    put_text(out, 16, Some(extra_json.as_str()).filter(|json| !json.is_empty()));
}

fn put_battery(out: &mut Vec<u8>, battery: &Battery) {
    let Battery { percent, millivolts, charging } = *battery;
    put_four_bytes(out, 1, percent.map(f32::to_le_bytes));
    put_whole(out, 2, millivolts.map(u64::from));
    put_whole(out, 3, charging.map(u64::from));
}

fn put_position(out: &mut Vec<u8>, position: &Position) {
    let Position { latitude_deg, longitude_deg, altitude_m, speed_mps, accuracy_m } = *position;
    put_eight_bytes(out, 1, latitude_deg.map(f64::to_le_bytes));
    put_eight_bytes(out, 2, longitude_deg.map(f64::to_le_bytes));
    put_four_bytes(out, 3, altitude_m.map(f32::to_le_bytes));
    put_four_bytes(out, 4, speed_mps.map(f32::to_le_bytes));
    put_four_bytes(out, 5, accuracy_m.map(f32::to_le_bytes));
}

fn put_radio(out: &mut Vec<u8>, radio: &Radio) {
    let Radio { rat, plmn, cell_id, tac, rssi_dbm, rsrp_dbm, rsrq_db, sinr_db } = radio;
    put_text(out, 1, rat.as_deref());
    put_text(out, 2, plmn.as_deref());
    put_whole(out, 3, *cell_id);
    put_whole(out, 4, tac.map(u64::from));
    for (field, level) in [(5, rssi_dbm), (6, rsrp_dbm), (7, rsrq_db), (8, sinr_db)] {
        put_four_bytes(out, field, level.map(f32::to_le_bytes));
    }
}

fn put_sim(out: &mut Vec<u8>, sim: &Sim) {
    let Sim { iccid, imsi, imei } = sim;
    put_text(out, 1, iccid.as_deref());
    put_text(out, 2, imsi.as_deref());
    put_text(out, 3, imei.as_deref());
}

fn put_usage(out: &mut Vec<u8>, usage: &Usage) {
    let Usage { tx_bytes, rx_bytes } = *usage;
    put_whole(out, 1, tx_bytes);
    put_whole(out, 2, rx_bytes);
}

// How the wire format names what follows a field number.
const VARINT: u32 = 0;
const EIGHT_BYTES: u32 = 1;
const LENGTH_DELIMITED: u32 = 2;
const FOUR_BYTES: u32 = 5;

#[inline]
fn put_key(out: &mut Vec<u8>, field: u32, follows: u32) {
    put_varint(out, u64::from(field << 3 | follows));
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

#[inline]
fn put_whole(out: &mut Vec<u8>, field: u32, number: Option<u64>) {
    if let Some(number) = number {
        put_key(out, field, VARINT);
        put_varint(out, number);
    }
}

#[inline]
fn put_four_bytes(out: &mut Vec<u8>, field: u32, bytes: Option<[u8; 4]>) {
    if let Some(bytes) = bytes {
        put_key(out, field, FOUR_BYTES);
        out.extend_from_slice(&bytes);
    }
}

#[inline]
fn put_eight_bytes(out: &mut Vec<u8>, field: u32, bytes: Option<[u8; 8]>) {
    if let Some(bytes) = bytes {
        put_key(out, field, EIGHT_BYTES);
        out.extend_from_slice(&bytes);
    }
}

#[inline]
fn put_text(out: &mut Vec<u8>, field: u32, text: Option<&str>) {
    if let Some(text) = text {
        put_key(out, field, LENGTH_DELIMITED);
        put_varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Writes a message within a message. Its length comes first and is known last: `length_bytes` are kept free for it, and
/// the message is moved where the guess was wrong.
#[inline]
fn put_message<T>(
    out: &mut Vec<u8>,
    field: u32,
    length_bytes: usize,
    message: &T,
    put: fn(&mut Vec<u8>, &T),
) {
    put_key(out, field, LENGTH_DELIMITED);
    let start = out.len();
    out.resize(start + length_bytes, 0);
    put(out, message);
    let length = (out.len() - start - length_bytes) as u64;
    // Seven bits to a byte, and a byte for zero.
    let needed = (length.checked_ilog2().unwrap_or(0) / 7 + 1) as usize;
    if needed != length_bytes {
        out.splice(start..start + length_bytes, std::iter::repeat_n(0, needed));
    }
    let mut rest = length;
    for byte in &mut out[start..start + needed] {
        *byte = rest.to_le_bytes()[0] | 0x80;
        rest >>= 7;
    }
    out[start + needed - 1] &= 0x7f;
}
