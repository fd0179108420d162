//! Nothing grows without bound, and what was taken is given back.

use super::*;

fn topics_of(link: &mut Link) -> usize {
    payloads(link).len()
}

#[test]
fn what_waits_is_bounded_for_one_client_and_for_all() {
    // Two subscriptions of one level; then a message takes 202 bytes, and each place 128.
    let config = Config { queue_messages_max: 3, queues_bytes_max: 2_000, ..Config::default() };
    let broker = Broker::new(config);
    let (mut a, mut b) = (link(&broker, "a"), link(&broker, "b"));
    for client in [&mut a, &mut b] {
        client.subscribe("x", OPTIONS, None).expect("room");
    }
    let publish = || broker.publish(message("x", "m", Qos::AtLeastOnce), None);
    assert_eq!([publish(), publish(), publish()], [2, 2, 0], "two messages for two clients fit");
    assert_eq!(topics_of(&mut a), 2);
    drop(b);
    assert_eq!(
        [publish(), publish()],
        [1, 0],
        "three wait for one client, two of them sent and not answered"
    );
    drop(a);
    assert_eq!(broker.with(|state| state.counts()), Some(Counts::default()));
}

#[test]
fn a_message_counts_once_however_many_it_waits_for() {
    let broker = broker();
    let mut links: Vec<Link> = (0..100).map(|number| link(&broker, &number.to_string())).collect();
    for link in &mut links {
        link.subscribe("x", OPTIONS, None).expect("room");
    }
    let bytes = || broker.with(|state| state.counts().queues_bytes).expect("no panic");
    let before = bytes();
    broker.publish(message("x", &"m".repeat(10_000), Qos::AtLeastOnce), None);
    assert_eq!(bytes() - before, 10_201 + 100 * 128);
    for link in &mut links {
        let id = next(link).expect("a message").2.expect("an id");
        link.puback(id);
    }
    assert_eq!(bytes(), before);
}

#[test]
fn what_is_sent_and_not_answered_waits_too() {
    let config = Config { queue_messages_max: 4, in_flight_max: 3, ..Config::default() };
    let broker = Broker::new(config);
    let mut a = link(&broker, "a");
    a.subscribe("x", OPTIONS, None).expect("room");
    let publish = || broker.publish(message("x", "m", Qos::ExactlyOnce), None);
    assert_eq!((0..5).map(|_| publish()).sum::<usize>(), 4);
    assert_eq!(topics_of(&mut a), 3, "as many as `in_flight_max`, though the client takes ten");
    assert_eq!(publish(), 0);
    // A client that has the message does not need ours.
    let id = PacketId::new(1).expect("an id");
    assert!(a.pubrec(id, true).known);
    assert_eq!(publish(), 1);
}

#[test]
fn a_filter_is_not_deeper_than_a_search_may_go() {
    let broker = Broker::new(Config { queues_bytes_max: 1 << 20, ..Config::default() });
    let mut a = link(&broker, "a");
    let deep = |levels: usize| vec!["a"; levels].join("/");
    assert_eq!(a.subscribe(&deep(129), OPTIONS, None), Err(SubscribeError::TooDeep { max: 128 }));
    assert!(a.subscribe(&deep(128), OPTIONS, None).is_ok());
    assert_eq!(broker.publish(message(&deep(128), "m", Qos::AtMostOnce), None), 1);
    // A name may be as deep as a packet is long.
    assert_eq!(broker.publish(message(&deep(30_000), "m", Qos::AtMostOnce), None), 0);
    let refused = (0..64).find_map(|n| a.subscribe(&format!("{n}/{}", deep(127)), OPTIONS, None).err());
    assert_eq!(refused, Some(SubscribeError::NoRoom), "memory of subscriptions is bounded");
}

#[test]
fn a_will_needs_room() {
    let broker = Broker::new(Config { queues_bytes_max: 1_000, ..Config::default() });
    let with_will = |bytes: usize| {
        let message = message("gone", &"w".repeat(bytes), Qos::AtMostOnce);
        let will = Will { message, delay: Duration::ZERO, expiry: None };
        Attach { will: Some(will), ..attach(true, Expiry::AtEnd) }
    };
    assert_eq!(broker.attach("a", with_will(1_000)).err(), Some(AttachError::NoRoom));
    let kept = broker.attach("a", with_will(500)).expect("room");
    assert_eq!(broker.attach("b", with_will(500)).err(), Some(AttachError::NoRoom));
    drop(kept);
    assert!(broker.attach("b", with_will(500)).is_ok());
    assert!(broker.is_empty());
}

#[test]
fn sessions_are_counted_and_last_no_longer_than_they_may() {
    let broker = Broker::new(Config { sessions_max: 1, session_expiry_max_s: 60, ..Config::default() });
    drop(broker.attach("a", attach(false, Expiry::Never)).expect("room"));
    let refused = broker.attach("b", attach(true, Expiry::AtEnd)).err();
    assert_eq!(refused, Some(AttachError::SessionsMax { max: 1 }));
    broker.with(|state| state.tick(Instant::now() + Duration::from_secs(61)));
    assert!(broker.is_empty());
    assert!(broker.attach("b", attach(true, Expiry::AtEnd)).is_ok());
}

#[test]
fn what_is_no_longer_good_makes_room() {
    let broker = Broker::new(Config { queue_messages_max: 2, ..Config::default() });
    let kept = || attach(false, Expiry::Never);
    let mut a = broker.attach("a", kept()).expect("room").0;
    a.subscribe("x", OPTIONS, None).expect("room");
    drop(a);
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let publish = |payload: &str, good_until: Option<Instant>, when: Instant| {
        let message = Message { expires_at: good_until, ..message("x", payload, Qos::AtLeastOnce) };
        broker.with(|state| state.route(message, None, when)).expect("no panic")
    };
    assert_eq!(publish("over", Some(at(0)), at(1)), 0, "nothing to send");
    assert_eq!(publish("short", Some(at(10)), now), 1);
    assert_eq!(publish("long", Some(at(3_600)), now), 1);
    assert_eq!(publish("none", None, at(9)), 0, "full");
    assert_eq!(publish("late", None, at(10)), 1, "the first is over");
    // Nobody publishes: the timer looks.
    let empty = broker.with(|state| state.counts().queues_bytes).expect("no panic");
    broker.with(|state| state.tick(at(3_600)));
    let after = broker.with(|state| state.counts().queues_bytes).expect("no panic");
    assert_eq!(empty - after, 128 + message("x", "long", Qos::AtLeastOnce).cost());
    let mut a = broker.attach("a", kept()).expect("room").0;
    assert_eq!(payloads(&mut a), ["late"]);
}

#[test]
fn retained_messages_are_bounded_and_end() {
    let broker = Broker::new(Config { retained_messages_max: 2, ..Config::default() });
    let now = Instant::now();
    let retained = |topic: &str, expires_at| Message {
        retain: true,
        expires_at,
        ..message(topic, topic, Qos::AtMostOnce)
    };
    broker.publish(retained("a", Some(now + Duration::from_secs(60))), None);
    broker.publish(retained("b", None), None);
    broker.publish(retained("c", None), None);
    let found = |broker: &Broker| {
        let mut reader = link(broker, "reader");
        reader.subscribe("#", OPTIONS, None).expect("room");
        payloads(&mut reader)
    };
    assert_eq!(found(&broker), ["a", "b"]);
    broker.with(|state| state.tick(now + Duration::from_secs(60)));
    broker.publish(retained("c", None), None);
    assert_eq!(found(&broker), ["b", "c"]);
    broker.publish(Message { payload: Bytes::new(), ..retained("b", None) }, None);
    broker.publish(Message { payload: Bytes::new(), ..retained("c", None) }, None);
    assert_eq!(broker.with(|state| state.counts()), Some(Counts::default()));
}

#[derive(Clone, Debug)]
enum Step {
    Attach { client: usize, clean: bool, kept: bool, will: bool },
    Leave { client: usize, in_peace: bool },
    Subscribe { client: usize, filter: usize },
    Unsubscribe { client: usize, filter: usize },
    Publish { topic: usize, qos: Qos, retain: bool, short: bool },
    Next { client: usize },
    Answer { client: usize, ok: bool },
    Tick { seconds: u64 },
}

const CLIENTS: usize = 3;
const FILTERS: [&str; 5] = ["a", "a/+", "#", "$share/g/a", "$share/g/a/#"];
const TOPICS: [&str; 3] = ["a", "a/b", "a/b/c"];

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)];
    let client = 0..CLIENTS;
    prop_oneof![
        2 => (client.clone(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(client, clean, kept, will)| Step::Attach { client, clean, kept, will }),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, in_peace)| Step::Leave { client, in_peace }),
        3 => (client.clone(), 0..FILTERS.len())
            .prop_map(|(client, filter)| Step::Subscribe { client, filter }),
        1 => (client.clone(), 0..FILTERS.len())
            .prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        6 => (0..TOPICS.len(), qos, any::<bool>(), any::<bool>())
            .prop_map(|(topic, qos, retain, short)| Step::Publish { topic, qos, retain, short }),
        4 => client.clone().prop_map(|client| Step::Next { client }),
        4 => (client, any::<bool>()).prop_map(|(client, ok)| Step::Answer { client, ok }),
        1 => (0_u64..40).prop_map(|seconds| Step::Tick { seconds }),
    ]
}

proptest! {
    /// Whatever happens, no bound is passed, nothing breaks, and once all are gone nothing is left.
    #[test]
    fn every_byte_that_was_taken_is_given_back(steps in prop::collection::vec(step(), 1..150)) {
        let config = Config {
            queue_messages_max: 5,
            in_flight_max: 2,
            queues_bytes_max: 12_000,
            retained_messages_max: 2,
            ..Config::default()
        };
        let broker = Broker::new(config);
        let mut links: [Option<Link>; CLIENTS] = [None, None, None];
        let start = Instant::now();
        let mut now = start;
        for step in steps {
            match step {
                Step::Attach { client, clean, kept, will } => {
                    let expiry = if kept { Expiry::After(Duration::from_secs(30)) } else { Expiry::AtEnd };
                    let will = will.then(|| Will {
                        message: message("a/b", "w", Qos::AtLeastOnce),
                        delay: Duration::from_secs(5),
                        expiry: None,
                    });
                    let attach = Attach { will, ..attach(clean, expiry) };
                    // The older link, if there is one, dies by it, and is dropped after it.
                    if let Ok((link, _)) = broker.attach(&client.to_string(), attach) {
                        links[client] = Some(link);
                    }
                }
                Step::Leave { client, in_peace } => if let Some(link) = links[client].take() && in_peace {
                    link.detach(Detach { will: WillFate::Discard, expiry: Expiry::AtEnd });
                },
                Step::Subscribe { client, filter } => if let Some(link) = &mut links[client] {
                    let _maybe = link.subscribe(FILTERS[filter], OPTIONS, None);
                },
                Step::Unsubscribe { client, filter } => if let Some(link) = &mut links[client] {
                    link.unsubscribe(FILTERS[filter]);
                },
                Step::Publish { topic, qos, retain, short } => {
                    let expires_at = short.then(|| now + Duration::from_secs(10));
                    let message = Message { retain, expires_at, ..message(TOPICS[topic], "m", qos) };
                    broker.with(|state| state.route(message, None, now));
                }
                Step::Next { client } => if let Some(link) = &mut links[client] { link.next(); },
                Step::Answer { client, ok } => if let Some(link) = &mut links[client] {
                    for id in (1..4).filter_map(PacketId::new) {
                        link.puback(id);
                        link.pubcomp(id);
                        link.pubrec(id, ok);
                    }
                },
                Step::Tick { seconds } => {
                    now += Duration::from_secs(seconds);
                    while broker.with(|state| state.tick(now)) == Some(true) {}
                }
            }
            let checked = broker.with(|state| {
                let waits = state.sessions.values().all(|session| session.waiting().0 <= 5);
                waits && state.counts().queues_bytes <= 12_000 && state.counts().retained <= 2
            });
            prop_assert_eq!(checked, Some(true));
        }
        drop(links);
        let end = now + Duration::from_secs(100_000);
        while broker.with(|state| state.tick(end)) == Some(true) {}
        for topic in TOPICS {
            broker.publish(Message { retain: true, ..message(topic, "", Qos::AtMostOnce) }, None);
        }
        prop_assert_eq!(broker.with(|state| state.counts()), Some(Counts::default()));
        prop_assert!(broker.is_empty() && !broker.has_subscribers());
    }
}

#[test]
fn what_an_ending_session_leaves_behind_is_what_was_promised_and_not_answered() {
    let broker = broker();
    let mut a = broker.attach("a", Attach { receive_max: 1, ..attach(true, Expiry::AtEnd) }).expect("room").0;
    a.subscribe("x", OPTIONS, None).expect("room");
    let left =
        || broker.with(|state| state.sessions.values().map(|session| session.undelivered()).sum::<usize>());
    broker.publish(message("x", "nothing was promised", Qos::AtMostOnce), None);
    broker.publish(
        Message { tag: Some(1), ..message("x", "a command, kept elsewhere", Qos::AtLeastOnce) },
        None,
    );
    assert_eq!(left(), Some(0));
    assert_eq!(payloads(&mut a).len(), 2);
    a.puback(PacketId::MIN);
    broker.publish(message("x", "sent", Qos::ExactlyOnce), None);
    broker.publish(message("x", "waits", Qos::AtLeastOnce), None);
    let id = next(&mut a).expect("a message").2.expect("an id");
    assert_eq!(left(), Some(2));
    a.pubrec(id, true);
    assert_eq!(left(), Some(1), "the client has what it answered with PUBREC");
}
