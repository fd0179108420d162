//! Which heartbeats are the same.

use xxhash_rust::xxh3::xxh3_64;

use crate::Arrival;

/// The identity of a heartbeat: see [`heartbeat`](crate::heartbeat). In this order:
///
/// 1. its sequence number, as that is what the device itself calls it (and a column of rising numbers takes no room on
///    disk). The boot id need not be part of it: two boots do not share a millisecond;
/// 2. where the device said when it was: a hash of the payload, the same for the same bytes;
/// 3. else a hash of its arrival: each message is a heartbeat. Of a payload that says neither (`{}`) nothing tells whether
///    it is the last one again or a new one.
///
/// XXH3 with 64 bits: not for keeping adversaries apart (a device can only collide with itself), and two heartbeats would
/// have to share a millisecond before a collision could matter. Stored in rows: it must never change.
pub(crate) fn of(sequence: Option<u64>, said_when: bool, payload: &[u8], arrival: &Arrival) -> u64 {
    match sequence {
        Some(sequence) => sequence,
        None if said_when => xxh3_64(payload),
        None => {
            let mut name = [0; 24];
            name[..16].copy_from_slice(arrival.session_id.0.as_bytes());
            name[16..].copy_from_slice(&arrival.message.to_le_bytes());
            xxh3_64(&name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::Arrival;
    use event::{Millis, SessionId};
    use xxhash_rust::xxh3::xxh3_64;

    #[test]
    fn the_identities_in_stored_rows_stay_what_they_are() {
        let session_id = SessionId(uuid::Uuid::from_u128(1));
        let arrival = |message| Arrival { at: Millis(0), session_id, message };
        assert_eq!(of(Some(42), false, b"{}", &arrival(7)), 42);
        assert_eq!(of(None, true, b"{}", &arrival(7)), xxh3_64(b"{}"));
        let seventh = of(None, false, b"{}", &arrival(7));
        assert_eq!(seventh, xxh3_64(b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x07\0\0\0\0\0\0\0"));
        assert_ne!(seventh, of(None, false, b"{}", &arrival(8)));
    }
}
