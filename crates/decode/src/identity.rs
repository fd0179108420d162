//! Which heartbeats are the same.

use event::Millis;
use event::v1::{Clock, Heartbeat};
use xxhash_rust::xxh3::xxh3_64;

use crate::Arrival;

/// What stands for `device_time_ms` where a heartbeat has no place in time of its own.
const NOWHEN: Millis = Millis(0);

/// Names a heartbeat whose clock is settled: fills in `identity`, and `device_time_ms` where that is no part of its name. In this order:
///
/// 1. the device's clock is believed: its sequence number, as that is what the device itself calls it (and a column of rising numbers
///    takes no room on disk); else a hash of the payload, the same for the same bytes. The boot id need not be part of it:
///    two boots do not share a millisecond;
/// 2. its clock is not believed, or it told no time, but it numbers its heartbeats and names its boots: a hash of the payload, and no
///    time. Boot and number keep its heartbeats apart; the payload keeps those apart that boots which share a name number alike. Sent
///    again it is the same bytes;
/// 3. else its arrival and the time of that: each message is a heartbeat. Nothing tells whether `{}`, or a clock that stands still, is
///    the last one again or a new one, and a heartbeat that stands twice is better than one that was acknowledged and is nowhere.
///
/// XXH3 with 64 bits: not for keeping adversaries apart (a device can only collide with itself), and of one device a billion heartbeats
/// without a time would have to stand before a collision is likely to one in thirty. Stored in rows: it must never change.
pub(crate) fn settle(heartbeat: &mut Heartbeat, payload: &[u8], arrival: &Arrival) {
    let numbered = heartbeat.sequence.is_some() && heartbeat.boot_id.is_some();
    let (device_time, identity) = match heartbeat.clock() {
        Clock::Device => (None, heartbeat.sequence.unwrap_or_else(|| xxh3_64(payload))),
        Clock::Implausible | Clock::Gateway | Clock::Unspecified if numbered => {
            (Some(NOWHEN), xxh3_64(payload))
        }
        Clock::Implausible | Clock::Gateway | Clock::Unspecified => {
            (Some(arrival.at), heartbeat.sequence.unwrap_or_else(|| of_arrival(arrival)))
        }
    };
    if let Some(Millis(device_time_ms)) = device_time {
        heartbeat.device_time_ms = device_time_ms;
    }
    heartbeat.identity = identity;
}

fn of_arrival(arrival: &Arrival) -> u64 {
    let mut name = [0; 24];
    name[..16].copy_from_slice(arrival.session_id.0.as_bytes());
    name[16..].copy_from_slice(&arrival.message.to_le_bytes());
    xxh3_64(&name)
}

#[cfg(test)]
mod tests {
    use event::SessionId;

    use super::*;

    fn settled(clock: Clock, sequence: Option<u64>, boot_id: Option<&str>, message: u64) -> (i64, u64) {
        let session_id = SessionId(uuid::Uuid::from_u128(1));
        let boot_id = boot_id.map(Into::into);
        let mut heartbeat = Heartbeat { device_time_ms: 3, sequence, boot_id, ..Heartbeat::default() };
        heartbeat.set_clock(clock);
        settle(&mut heartbeat, b"{}", &Arrival { at: Millis(5), session_id, message });
        (heartbeat.device_time_ms, heartbeat.identity)
    }

    #[test]
    fn the_identities_in_stored_rows_stay_what_they_are() {
        assert_eq!(settled(Clock::Device, Some(42), None, 7), (3, 42));
        assert_eq!(settled(Clock::Device, None, None, 7), (3, xxh3_64(b"{}")));
        assert_eq!(settled(Clock::Implausible, Some(42), Some("b"), 7), (0, xxh3_64(b"{}")));
        assert_eq!(settled(Clock::Implausible, Some(42), None, 7), (5, 42));
        assert_eq!(settled(Clock::Gateway, Some(42), Some("b"), 7), (0, xxh3_64(b"{}")));
        assert_eq!(settled(Clock::Gateway, Some(42), None, 7), (5, 42));
        let seventh = xxh3_64(b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x07\0\0\0\0\0\0\0");
        assert_eq!(settled(Clock::Gateway, None, Some("b"), 7), (5, seventh));
        assert_ne!(settled(Clock::Gateway, None, None, 8), (5, seventh));
        // A clock that stands still: two messages, two heartbeats.
        assert_eq!(settled(Clock::Implausible, None, Some("b"), 7), (5, seventh));
    }
}
