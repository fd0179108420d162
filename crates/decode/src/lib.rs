//! Payloads to normalised events, or a typed rejection.
//!
//! Pure functions: no I/O, no clock (the time received is an argument), no spawn, nothing kept between calls.
//! The same input gives the same output, on every node and in every replay.
//!
//! # The JSON heartbeat
//! ```json
//! {"ts":1767225600123,"seq":42,"boot_id":"b7","uptime_s":86400,"firmware":"1.4.2","state":"riding","next_s":30,
//!  "battery":{"percent":87.5,"millivolts":41200,"charging":false},
//!  "position":{"lat":52.52,"lon":13.405,"alt_m":34,"speed_mps":5.2,"accuracy_m":4},
//!  "radio":{"rat":"LTE-M","plmn":"26201","cell_id":12345678,"tac":4660,
//!           "rssi_dbm":-71,"rsrp_dbm":-101,"rsrq_db":-11,"sinr_db":8},
//!  "sim":{"iccid":"8949020000012345678","imsi":"262011234567890","imei":"356938035643809"},
//!  "usage":{"tx_bytes":123456,"rx_bytes":65432},
//!  "extra":{"kickstand":"up","motor_temp_c":31.5}}
//! ```
//! - Every field is optional, `{}` is a heartbeat, and `null` is absence. A group without a reading
//!   (`"battery":{}`) is absent too: there is one way to say nothing.
//! - One bad field rejects the heartbeat whole. Its raw bytes go to the dead letters, from where it can be
//!   replayed after a fix; a heartbeat with a hole in it could not.
//! - Whole numbers may be written as `30`, `30.0` or `3e1`; not as `30.5` (wrong type). Written with a point or
//!   an exponent they reach to 2⁵³, beyond which a double no longer tells neighbours apart.
//! - Texts have at most [`TEXT_BYTES_MAX`] bytes and no control characters.
//! - A trailing `F` of an ICCID is the filler of its last byte on the card, not a digit, and is taken off: one SIM
//!   has one spelling.
//! - What is not known is kept, as it was written, in `extra_json`: see [`heartbeat`].
//! - A name that stands twice in one object is rejected as `NOT_JSON` (RFC 7493, 2.3): readers disagree on which
//!   one counts, and taking either would lose the other. Values that are not ours are not looked into.
//!
//! # Cost
//! Nearly all payloads are read in one pass over their bytes, without copies but for the texts that the event keeps (`scan`,
//! `reader`). The few that are written unusually, and all that are rejected, are read anew by way of serde_json
//! (`object`), which says what is wrong. Both go by one list of fields (`fields`) and one set of rules (`rule`).
//!
//! # Limits
//! A payload has at most [`PAYLOAD_BYTES_MAX`] bytes. Time is at most n log n in them, and the stack does not grow
//! with the input. Unknown values nest at most [`NESTING_LEVELS_MAX`] levels.

#[cfg(test)]
mod agreement;
mod beyond;
mod clock;
mod fields;
mod identity;
mod object;
mod reader;
mod rejection;
mod rule;
mod scan;
mod topic;

pub use clock::ClockPolicy;
pub use object::NESTING_LEVELS_MAX;
pub use rejection::{DETAIL_BYTES_MAX, Rejection};
pub use rule::TEXT_BYTES_MAX;
pub use topic::{Topic, topic};

use event::v1::{Heartbeat, RejectReason};
use event::{Millis, SessionId};

/// Largest payload of a heartbeat, in bytes. The full built-in one has about 570; the rest is room for `extra`.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// How a payload came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When, by the gateway's clock.
    pub at: Millis,
    /// In which session.
    pub session_id: SessionId,
    /// As which message of that session.
    pub message: u64,
}

/// Reads a JSON heartbeat (its shape: see the [crate]) that arrived as `arrival` says.
///
/// **Time.** `ts` is whole milliseconds since 1970 or an RFC 3339 text. Where it is missing (`CLOCK_GATEWAY`), or `policy` does not
/// believe it (`CLOCK_IMPLAUSIBLE`; `claimed_time_ms` keeps it), the time received is the best guess of when the reading was taken.
/// `device_time_ms` is then part of the identity alone: see there.
///
/// **Identity.** With `device_id` and `device_time_ms`, `identity` names the heartbeat. A device that numbers its
/// heartbeats says itself which are the same, even where it writes them anew with other spacing or a fresher signal
/// strength: the identity is then `seq` itself (the device's time keeps two boots apart). Of one that does not, but says
/// when, all that can be known is that the bytes are the same: it is a hash of them. A time that is not believed places nothing:
/// `device_time_ms` is 0 then, and the hash of the bytes names the heartbeat, in whatever second it arrives; so it is where `seq` and
/// `boot_id` stand without `ts`. What says less is named by its arrival, and has the time of it: each message is a heartbeat.
/// A clock that stands still at a time that is not believed tells one reading again, as long as the rest of the payload is the same.
///
/// **Extra.** `extra_json` is one object, or empty where there was nothing: the members of the payload's own `extra`,
/// the unknown top-level ones, and the unknown ones of a group under its name (`{"battery":{"temp":3}}`); values as
/// they were written, what stood at the top first, names sorted. Where two claim one name, the member of `extra` stays under `extra`, and so does
/// one that is itself called `extra`: `{"x":1,"extra":{"x":2,"y":3}}` gives `{"x":1,"y":3,"extra":{"x":2}}`.
/// It is never longer than the payload.
///
/// # Errors
/// | reason | when |
/// |---|---|
/// | `TOO_LARGE` | over [`PAYLOAD_BYTES_MAX`] |
/// | `NOT_JSON` | not UTF-8, not JSON, more after the object, or a name twice in one object |
/// | `NOT_AN_OBJECT` | JSON, but not one object |
/// | `WRONG_TYPE` | a field of another type; a fraction for a whole number; a `ts` text that is no time |
/// | `OUT_OF_RANGE` | a number or text outside its field's range; a lone surrogate; unknown values nested too deep |
///
/// What is no JSON is `NOT_JSON` wherever it breaks off; of several bad fields the first one is named.
pub fn heartbeat(payload: &[u8], arrival: &Arrival, policy: &ClockPolicy) -> Result<Heartbeat, Rejection> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let detail = format_args!("payload has {} bytes, {PAYLOAD_BYTES_MAX} are allowed", payload.len());
        return Err(Rejection::new(RejectReason::TooLarge, detail));
    }
    let text = str::from_utf8(payload).map_err(|error| Rejection::new(RejectReason::NotJson, error))?;
    let mut heartbeat = Heartbeat::default();
    let beyond = match scan::read(text, &mut heartbeat) {
        Some(beyond) => beyond,
        None => {
            let beyond;
            (heartbeat, beyond) = object::read(text)?;
            beyond
        }
    };
    heartbeat.extra_json = beyond.into_json()?;
    policy.settle(&mut heartbeat, arrival.at);
    identity::settle(&mut heartbeat, payload, arrival);
    Ok(heartbeat)
}
