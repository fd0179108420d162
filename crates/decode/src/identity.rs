//! Which heartbeats are the same.

use xxhash_rust::xxh3::xxh3_64;

/// The identity of a heartbeat: see [`heartbeat`](crate::heartbeat). Its sequence number, as that is what the device
/// itself calls it (and a column of rising numbers takes no room on disk); else a hash of the payload. Together with
/// the device and its time it is a name: the boot id need not be part of it, as two boots do not share a millisecond.
///
/// XXH3 with 64 bits: not for keeping adversaries apart (a device can only collide with itself), and two heartbeats would
/// have to share a millisecond before a collision could matter. Stored in rows: it must never change.
pub(crate) fn of(sequence: Option<u64>, payload: &[u8]) -> u64 {
    sequence.unwrap_or_else(|| xxh3_64(payload))
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_identities_in_stored_rows_stay_what_they_are() {
        assert_eq!(of(Some(42), b"{}"), 42);
        assert_eq!(of(None, b"{}"), 0x4b8f_6d81_4d2c_07a0_u64);
    }
}
