//! What the writer does with the records of a batch: 10,000 heartbeats of as many devices, every field told.
//!
//! Not in it: reading them from Kafka, compressing the rows, sending them.

use decode::ClockPolicy;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use event::v1::Traffic;
use event::{DeviceId, Millis, NodeId, SessionId, SessionPrefix, encode_heartbeat};
use store::rows::TableRow;
use uuid::Uuid;
use writer::EventRows;

use super::{ARRIVAL, EXAMPLE};

const RECORDS: u32 = 10_000;

/// As a gateway writes them. What differs from device to device and from one heartbeat to the next differs here, too.
fn records() -> Vec<Vec<u8>> {
    let mut heartbeat =
        decode::heartbeat(EXAMPLE, &ARRIVAL, &ClockPolicy::default()).expect("the example is a heartbeat");
    let node_id = NodeId("gateway-1".into());
    let record = |number: u32| {
        let device_id = DeviceId::new(&format!("scooter-{number}")).expect("a device id");
        let session_id =
            SessionId(Uuid::from_u128(ARRIVAL.session_id.0.as_u128() ^ u128::from(number) << 64));
        let prefix = SessionPrefix::new(&device_id, &node_id, 1_767_225_000_000, session_id);
        let received_at = Millis(ARRIVAL.at.0 + i64::from(number / 40));
        heartbeat.device_time_ms = received_at.0 - i64::from(number % 300);
        heartbeat.identity = number.into();
        heartbeat.sequence = Some(number.into());
        let moved = u64::from(number % 700);
        let traffic = Traffic {
            bytes_in: moved * 610,
            bytes_out: moved * 4 + 4,
            messages_in: moved + 1,
            messages_out: moved + 1,
        };
        let mut record = Vec::new();
        encode_heartbeat(&prefix, received_at, &traffic, &heartbeat, &mut record);
        record
    };
    (0..RECORDS).map(record).collect()
}

fn rows(records: &[Vec<u8>]) -> EventRows<'_> {
    EventRows::of((0..).zip(records.iter().map(Vec::as_slice)))
}

/// Records to rows.
#[divan::bench]
fn made(bencher: Bencher<'_, '_>) {
    let records = records();
    assert_eq!(rows(&records).heartbeats.len(), records.len());
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| rows(black_box(&records)).heartbeats.len());
}

/// Records to rows to the bytes that go to ClickHouse.
#[divan::bench]
fn made_and_written(bencher: Bencher<'_, '_>) {
    let records = records();
    let mut bytes = Vec::new();
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        bytes.clear();
        rows(black_box(&records)).heartbeats.iter().for_each(|row| row.put(&mut bytes));
        bytes.len()
    });
}
