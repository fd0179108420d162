//! What routing costs under the broker's lock.
//!
//! **Real**: the `broker` crate as the gateway's connections call it. **Not real**: nobody else wants the lock, the
//! caches are warm, and no packet is encoded or written.

use broker::{Attach, Broker, Config, Expiry, Link, Message, Options, Outgoing};
use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use mqtt::{Qos, RetainHandling};

const OPTIONS: Options = Options {
    qos: Qos::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: RetainHandling::Send,
};

fn link(broker: &Broker, key: &str) -> Link {
    let attach = Attach { clean_start: true, expiry: Expiry::AtEnd, will: None, receive_max: 64 };
    broker.attach(key, attach).expect("room").0
}

fn message(topic: &str, qos: Qos, retain: bool) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::from_static(&[b'x'; 100]),
        qos,
        retain,
        properties: Bytes::new(),
        expires_at: None,
        tag: None,
    }
}

/// Devices, each with a subscription to its own commands, as many as there are links.
fn devices(broker: &Broker, count: usize) -> Vec<Link> {
    (0..count)
        .map(|number| {
            let mut link = link(broker, &format!("device-{number}"));
            link.subscribe(&format!("devices/device-{number}/commands/+"), OPTIONS, None).expect("room");
            link
        })
        .collect()
}

/// A message for one of so many subscribers: routed, sent, answered.
#[divan::bench(args = [1, 1_000, 50_000])]
fn publish_to_one_of(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let broker = Broker::new(Config::default());
    let mut links = devices(&broker, subscriptions);
    let link = links.last_mut().expect("a link");
    let topic = format!("devices/device-{}/commands/go", subscriptions - 1);
    bencher.bench_local(|| {
        assert_eq!(broker.publish(black_box(message(&topic, Qos::AtLeastOnce, false)), None), 1);
        if let Some(Outgoing::Publish { packet_id: Some(id), .. }) = link.next() {
            link.puback(id);
        }
    });
}

/// A message that nobody wants, where so many want others.
#[divan::bench(args = [1, 1_000, 50_000])]
fn publish_to_none_of(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let broker = Broker::new(Config::default());
    let _links = devices(&broker, subscriptions);
    bencher.bench_local(|| {
        broker.publish(black_box(message("devices/other/heartbeat", Qos::AtLeastOnce, false)), None)
    });
}

/// One message for so many: how long the lock is held.
#[divan::bench(args = [1_000, 50_000], sample_count = 20, sample_size = 1)]
fn publish_to_all_of(bencher: Bencher<'_, '_>, subscribers: usize) {
    let broker = Broker::new(Config::default());
    let mut links = devices(&broker, subscribers);
    for link in &mut links {
        link.subscribe("devices/all/commands/+", OPTIONS, None).expect("room");
    }
    let links = std::cell::RefCell::new(links);
    bencher
        .counter(ItemsCount::new(subscribers))
        .with_inputs(|| {
            for link in links.borrow_mut().iter_mut() {
                while link.next().is_some() {}
            }
        })
        .bench_local_values(|()| {
            broker.publish(black_box(message("devices/all/commands/go", Qos::AtMostOnce, false)), None)
        });
}

/// What a device that subscribes costs, and its end.
#[divan::bench]
fn attach_subscribe_and_end(bencher: Bencher<'_, '_>) {
    let broker = Broker::new(Config::default());
    let _others = devices(&broker, 10_000);
    bencher.bench_local(|| {
        let mut link = link(&broker, "another");
        link.subscribe(black_box("devices/another/commands/+"), OPTIONS, None)
    });
}

/// The longest search: a wildcard early, and as many retained messages as there may be, none of which it matches.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn search_100_000_retained(bencher: Bencher<'_, '_>) {
    let broker = Broker::new(Config::default());
    for number in 0..100_000 {
        broker.publish(message(&format!("devices/device-{number}/state"), Qos::AtMostOnce, true), None);
    }
    let mut link = link(&broker, "reader");
    bencher.bench_local(|| link.subscribe(black_box("devices/+/none"), OPTIONS, None));
}
