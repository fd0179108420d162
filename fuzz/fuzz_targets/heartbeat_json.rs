//! A payload is a heartbeat or is rejected: no panic, and the same bytes give the same result.

#![no_main]

use event::{Millis, SessionId};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

const ARRIVAL: decode::Arrival = decode::Arrival {
    at: Millis(1_767_225_600_400),
    session_id: SessionId(Uuid::from_u128(0x019b_7680_fb90_7000_8000_0000_0000_0001)),
    message: 7,
};

fuzz_target!(|payload: &[u8]| {
    let policy = decode::ClockPolicy::default();
    let decoded = decode::heartbeat(payload, &ARRIVAL, &policy);
    if let Ok(heartbeat) = &decoded {
        // As its documentation promises.
        assert!(heartbeat.extra_json.len() <= payload.len());
    }
    assert_eq!(format!("{decoded:?}"), format!("{:?}", decode::heartbeat(payload, &ARRIVAL, &policy)));
});
