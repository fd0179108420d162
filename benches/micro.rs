//! What the pure steps of one heartbeat cost: `cargo bench -p benches`.
//!
//! **Real**: the code of `mqtt`, `decode`, `event`, `writer` and `store` as the gateway and the writer call it, built as for release, on the
//! example heartbeat of `decode` with every field, and on payloads that are rejected early and late.
//! **Not real**: everything around it. One payload in a warm cache, no socket, no Kafka, no ClickHouse, no other
//! work on the core. What a heartbeat costs each process is measured by `cargo xtask bench pipeline`.
//!
//! To profile, run one benchmark alone and for long:
//!
//! ```text
//! cargo bench -p benches --no-run          # prints the path of the program
//! perf record --call-graph dwarf PROGRAM --bench heartbeat_with_every_field --min-time 10
//! ```

mod packets;
mod routing;
mod rows;

use event::{Millis, SessionId};
use uuid::Uuid;

const EXAMPLE: &[u8] = include_bytes!("../crates/decode/tests/fixtures/valid/the_example_of_the_crate.json");

const ARRIVAL: decode::Arrival = decode::Arrival {
    at: Millis(1_767_225_600_400),
    session_id: SessionId(Uuid::from_u128(0x019b_7680_fb90_7000_8000_0000_0000_0001)),
    message: 7,
};

fn main() {
    divan::main();
}

/// Payload to heartbeat, or to the reason why not.
mod decoding {
    use decode::{ClockPolicy, Rejection};
    use divan::counter::BytesCount;
    use divan::{Bencher, black_box};
    use event::v1::Heartbeat;

    use super::{ARRIVAL, EXAMPLE};

    /// Not JSON: seen at the last byte.
    const TRUNCATED: &[u8] = EXAMPLE.split_at(EXAMPLE.len() - 2).0;
    /// A bad field: the rest is read all the same, as what is no JSON is that first of all.
    const OUT_OF_RANGE: &[u8] =
        include_bytes!("../crates/decode/tests/fixtures/invalid/out_of_range.percent_above_100.json");

    fn decoded(payload: &[u8]) -> Result<Heartbeat, Rejection> {
        decode::heartbeat(black_box(payload), &ARRIVAL, &ClockPolicy::default())
    }

    fn accepted(bencher: Bencher<'_, '_>, payload: &[u8]) {
        assert!(decoded(payload).is_ok());
        bencher.counter(BytesCount::new(payload.len())).bench(|| decoded(payload));
    }

    fn rejected(bencher: Bencher<'_, '_>, payload: &[u8]) {
        assert!(decoded(payload).is_err());
        bencher.counter(BytesCount::new(payload.len())).bench(|| decoded(payload));
    }

    #[divan::bench]
    fn heartbeat_with_every_field(bencher: Bencher<'_, '_>) {
        accepted(bencher, EXAMPLE);
    }

    #[divan::bench]
    fn heartbeat_of_two_fields(bencher: Bencher<'_, '_>) {
        accepted(bencher, br#"{"ts":1767225600123,"seq":42}"#);
    }

    #[divan::bench]
    fn rejected_truncated(bencher: Bencher<'_, '_>) {
        rejected(bencher, TRUNCATED);
    }

    #[divan::bench]
    fn rejected_out_of_range(bencher: Bencher<'_, '_>) {
        rejected(bencher, OUT_OF_RANGE);
    }
}

/// Heartbeat to the record on Kafka, and back.
mod record {
    use divan::counter::BytesCount;
    use divan::{Bencher, black_box};
    use event::v1::event::Kind;
    use event::v1::{Event, Traffic};
    use event::{DeviceId, NodeId, SessionPrefix, encode_heartbeat};
    use prost::Message;

    use super::{ARRIVAL, EXAMPLE};

    fn event() -> Event {
        let heartbeat = decode::heartbeat(EXAMPLE, &ARRIVAL, &decode::ClockPolicy::default());
        Event {
            device_id: "device-1".to_owned(),
            received_at_ms: ARRIVAL.at.0,
            node_id: "gateway-1".to_owned(),
            epoch: 1_767_225_000_000,
            session_id: ARRIVAL.session_id.0.as_bytes().to_vec().into(),
            session_traffic: Some(Traffic {
                bytes_in: 4_200,
                bytes_out: 28,
                messages_in: 7,
                messages_out: 7,
            }),
            kind: Some(Kind::Heartbeat(heartbeat.expect("the example is a heartbeat"))),
        }
    }

    /// What the gateway does.
    #[divan::bench]
    fn encode_at_once(bencher: Bencher<'_, '_>) {
        let event = event();
        let (Some(Kind::Heartbeat(heartbeat)), Some(traffic)) = (&event.kind, &event.session_traffic) else {
            unreachable!("made above");
        };
        let device_id = DeviceId::new(&event.device_id).expect("a device id");
        let node_id = NodeId(event.node_id.as_str().into());
        let prefix = SessionPrefix::new(&device_id, &node_id, event.epoch, ARRIVAL.session_id);
        let mut record = Vec::new();
        bencher.counter(BytesCount::new(event.encoded_len())).bench_local(|| {
            record.clear();
            encode_heartbeat(black_box(&prefix), ARRIVAL.at, traffic, black_box(heartbeat), &mut record);
            black_box(record.len())
        });
        assert_eq!(record, event.encode_to_vec());
    }

    /// What prost does: the reference.
    #[divan::bench]
    fn encode(bencher: Bencher<'_, '_>) {
        let event = event();
        bencher
            .counter(BytesCount::new(event.encoded_len()))
            .bench_local(|| black_box(&event).encode_to_vec());
    }

    /// What the writer does with what no gateway wrote: the reference of `rows`.
    #[divan::bench]
    fn decode(bencher: Bencher<'_, '_>) {
        let bytes = event().encode_to_vec();
        bencher
            .counter(BytesCount::new(bytes.len()))
            .bench_local(|| Event::decode(black_box(bytes.as_slice())));
    }
}
