use bytes::Bytes;
use mqtt::{PacketId, Qos, RetainHandling};
use proptest::prelude::*;

use super::*;

mod limits;
mod links;

const OPTIONS: Options = Options {
    qos: Qos::ExactlyOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: RetainHandling::Send,
};

fn broker() -> Broker {
    Broker::new(Config::default())
}

fn attach(clean_start: bool, expiry: Expiry) -> Attach {
    Attach { clean_start, expiry, will: None, receive_max: 10 }
}

fn link(broker: &Broker, key: &str) -> Link {
    broker.attach(key, attach(true, Expiry::AtEnd)).expect("room").0
}

fn message(topic: &str, payload: &str, qos: Qos) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        properties: Bytes::new(),
        expires_at: None,
        tag: None,
    }
}

/// What comes: payload, QoS, packet id, retain flag, subscription ids.
type Came = (String, Qos, Option<PacketId>, bool, Vec<u32>);

fn next(link: &mut Link) -> Option<Came> {
    match link.next()? {
        Outgoing::Publish { message, qos, packet_id, retain, subscription_ids, .. } => {
            let payload = String::from_utf8(message.payload.to_vec()).expect("text");
            Some((payload, qos, packet_id, retain, subscription_ids))
        }
        Outgoing::Pubrel(id) => Some(("PUBREL".into(), Qos::ExactlyOnce, Some(id), false, Vec::new())),
    }
}

fn payloads(link: &mut Link) -> Vec<String> {
    std::iter::from_fn(|| next(link)).map(|(payload, ..)| payload).collect()
}

#[test]
fn overlapping_subscriptions_bring_one_copy_with_the_highest_qos_and_all_ids() {
    let broker = broker();
    let mut a = link(&broker, "a");
    a.subscribe("x/#", Options { qos: Qos::AtMostOnce, ..OPTIONS }, Some(7)).expect("room");
    a.subscribe("x/+", Options { qos: Qos::AtLeastOnce, ..OPTIONS }, Some(8)).expect("room");
    assert_eq!(broker.publish(message("x/y", "m", Qos::ExactlyOnce), None), 1);
    let (payload, qos, id, retain, mut ids) = next(&mut a).expect("a message");
    ids.sort_unstable();
    assert_eq!((payload.as_str(), qos, retain, ids), ("m", Qos::AtLeastOnce, false, vec![7, 8]));
    assert!(id.is_some() && next(&mut a).is_none());
}

#[test]
fn no_local_keeps_a_clients_own_messages_away() {
    let broker = broker();
    let (mut a, mut b) = (link(&broker, "a"), link(&broker, "b"));
    a.subscribe("x", Options { no_local: true, ..OPTIONS }, None).expect("room");
    b.subscribe("x", OPTIONS, None).expect("room");
    assert_eq!(broker.publish(message("x", "m", Qos::AtMostOnce), Some("a")), 1);
    assert!(payloads(&mut a).is_empty());
    assert_eq!(payloads(&mut b), ["m"]);
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_that_is_there() {
    let broker = broker();
    let (mut a, mut b) = (link(&broker, "a"), link(&broker, "b"));
    for member in [&mut a, &mut b] {
        member.subscribe("$share/g/x", OPTIONS, None).expect("room");
    }
    for number in 0..4 {
        broker.publish(message("x", &number.to_string(), Qos::AtMostOnce), None);
    }
    assert_eq!(
        (payloads(&mut a), payloads(&mut b)),
        (vec!["0".into(), "2".into()], vec!["1".into(), "3".into()])
    );
    drop(b);
    broker.publish(message("x", "4", Qos::AtMostOnce), None);
    broker.publish(message("x", "5", Qos::AtMostOnce), None);
    assert_eq!(payloads(&mut a), ["4", "5"]);
}

#[test]
fn retained_messages_come_as_retain_handling_says() {
    let broker = broker();
    let retained = |payload| Message { retain: true, ..message("x/y", payload, Qos::AtLeastOnce) };
    broker.publish(retained("old"), None);
    broker.publish(retained("new"), None);
    let mut a = link(&broker, "a");
    a.subscribe("x/+", Options { retain_handling: RetainHandling::SendIfNew, ..OPTIONS }, None)
        .expect("room");
    let (payload, _, _, retain, _) = next(&mut a).expect("a message");
    assert_eq!((payload.as_str(), retain), ("new", true));
    a.subscribe("x/+", Options { retain_handling: RetainHandling::SendIfNew, ..OPTIONS }, None)
        .expect("room");
    a.subscribe("x/y", Options { retain_handling: RetainHandling::DoNotSend, ..OPTIONS }, None)
        .expect("room");
    assert!(next(&mut a).is_none(), "not new, and not wanted");
    broker.publish(retained(""), None);
    let mut b = link(&broker, "b");
    b.subscribe("#", OPTIONS, None).expect("room");
    assert!(next(&mut b).is_none(), "an empty one ends it [MQTT-3.3.1-6]");
    assert_eq!(next(&mut a).map(|(.., retain, _)| retain), Some(false), "[MQTT-3.3.1-12]");
    b.subscribe("x/#", Options { retain_as_published: true, ..OPTIONS }, None).expect("room");
    broker.publish(retained("again"), None);
    assert_eq!(next(&mut b).map(|(.., retain, _)| retain), Some(true), "[MQTT-3.3.1-13]");
}

#[test]
fn a_wildcard_finds_every_retained_message_below_it() {
    let broker = broker();
    for topic in ["a", "a/b", "a/b/c", "a.b", "ab"] {
        broker.publish(Message { retain: true, ..message(topic, topic, Qos::AtMostOnce) }, None);
    }
    let mut a = link(&broker, "a");
    a.subscribe("a/#", OPTIONS, None).expect("room");
    let mut found = payloads(&mut a);
    found.sort_unstable();
    assert_eq!(found, ["a", "a/b", "a/b/c"]);
}

#[test]
fn a_kept_session_is_taken_up_and_what_was_not_answered_comes_first() {
    let broker = broker();
    let kept = || attach(false, Expiry::Never);
    let (mut a, present) = broker.attach("a", kept()).expect("room");
    assert!(!present);
    a.subscribe("x", OPTIONS, None).expect("room");
    for payload in ["1", "2", "3"] {
        broker.publish(message("x", payload, Qos::AtLeastOnce), None);
    }
    let first = next(&mut a).expect("a message");
    let second = next(&mut a).expect("a message");
    assert!(a.puback(first.2.expect("an id")).known);
    a.detach(Detach { will: WillFate::Publish, expiry: Expiry::Never });
    broker.publish(message("x", "4", Qos::AtLeastOnce), None);
    broker.publish(message("x", "lost", Qos::AtMostOnce), None);

    let (mut a, present) = broker.attach("a", kept()).expect("room");
    assert!(present);
    let Some(Outgoing::Publish { message: again, dup: true, packet_id, .. }) = a.next() else {
        panic!("not sent again")
    };
    assert_eq!((&again.payload[..], packet_id), (&b"2"[..], second.2));
    assert_eq!(payloads(&mut a), ["3", "4"]);
    let (_, present) = broker.attach("a", attach(true, Expiry::AtEnd)).expect("room");
    assert!(!present, "a clean start forgets");
    assert!(!a.is_alive() && a.next().is_none());
}

#[test]
fn receive_maximum_holds_back_and_an_answer_lets_go() {
    let broker = broker();
    let (mut a, _) =
        broker.attach("a", Attach { receive_max: 1, ..attach(true, Expiry::AtEnd) }).expect("room");
    a.subscribe("x", OPTIONS, None).expect("room");
    broker.publish(message("x", "1", Qos::ExactlyOnce), None);
    broker.publish(message("x", "2", Qos::AtLeastOnce), None);
    let id = next(&mut a).expect("a message").2.expect("an id");
    assert!(next(&mut a).is_none());
    assert!(a.puback(id).mismatch && a.pubcomp(id).mismatch, "PUBREC comes first");
    assert!(a.pubrec(id, true).known);
    assert_eq!(next(&mut a).map(|(payload, ..)| payload), Some("PUBREL".into()));
    assert!(next(&mut a).is_none(), "under way until PUBCOMP [MQTT-4.9.0-2]");
    assert!(a.pubcomp(id).known && !a.pubcomp(id).known);
    assert_eq!(payloads(&mut a), ["2"]);
}

#[test]
fn a_will_goes_out_unless_the_client_leaves_in_peace() {
    let broker = broker();
    let mut watcher = link(&broker, "w");
    watcher.subscribe("gone", OPTIONS, None).expect("room");
    let with_will = |delay| {
        let will = Will { message: message("gone", "will", Qos::AtMostOnce), delay, expiry: None };
        Attach { will: Some(will), ..attach(false, Expiry::After(Duration::from_secs(60))) }
    };
    let now = Duration::ZERO;
    let left = |will| Detach { will, expiry: Expiry::After(Duration::from_secs(60)) };
    broker.attach("a", with_will(now)).expect("room").0.detach(left(WillFate::Discard));
    assert!(payloads(&mut watcher).is_empty());
    drop(broker.attach("a", with_will(now)).expect("room"));
    assert_eq!(payloads(&mut watcher), ["will"]);
    // Delayed, and the client is back in time. [MQTT-3.1.3-9]
    drop(broker.attach("a", with_will(Duration::from_secs(10))).expect("room"));
    drop(broker.attach("a", attach(false, Expiry::After(Duration::from_secs(60)))).expect("room"));
    // Delayed beyond the session's end.
    drop(broker.attach("a", with_will(Duration::from_secs(3_600))).expect("room"));
    assert!(payloads(&mut watcher).is_empty());
    broker.with(|state| state.tick(Instant::now() + Duration::from_secs(59)));
    assert!(payloads(&mut watcher).is_empty());
    broker.with(|state| state.tick(Instant::now() + Duration::from_secs(61)));
    assert_eq!(payloads(&mut watcher), ["will"]);
    assert_eq!(broker.with(|state| state.counts().sessions), Some(1));
}

#[test]
fn a_command_is_offered_once_to_a_client_that_listens() {
    let broker = broker();
    let tagged = || Message { tag: Some(9), ..message("devices/a/commands/go", "m", Qos::AtLeastOnce) };
    assert!(!broker.offer("a", tagged()));
    let mut a = link(&broker, "a");
    assert!(!broker.offer("a", tagged()), "not subscribed");
    a.subscribe("devices/a/commands/+", OPTIONS, None).expect("room");
    assert!(broker.offer("a", tagged()) && broker.offer("a", tagged()));
    let id = next(&mut a).expect("a message").2.expect("an id");
    assert!(next(&mut a).is_none());
    assert_eq!(a.puback(id), Completed { known: true, tag: Some(9), mismatch: false });
}

#[tokio::test]
async fn a_panic_leaves_an_empty_broker_and_dead_links() {
    let broker = broker();
    let mut a = link(&broker, "a");
    a.subscribe("x", OPTIONS, None).expect("room");
    assert!(broker.with(|_| panic!("a mistake")).is_none());
    a.ready().await;
    assert!(!a.is_alive() && a.next().is_none() && !broker.has_subscribers());
    let mut again = link(&broker, "a");
    again.subscribe("x", OPTIONS, None).expect("room");
    drop(a);
    assert_eq!(broker.publish(message("x", "m", Qos::AtMostOnce), None), 1);
    assert_eq!(payloads(&mut again), ["m"]);
}

proptest! {
    /// Whatever connections come and go, a QoS 1 subscriber of a kept session has every message, in order, when
    /// repetitions are left out.
    #[test]
    fn no_message_is_lost_or_out_of_order_over_reconnects(steps in prop::collection::vec(0_u8..5, 1..120)) {
        let broker = broker();
        let kept = || Attach { receive_max: 3, ..attach(false, Expiry::Never) };
        let mut connection = Some(broker.attach("a", kept()).expect("room").0);
        if let Some(link) = &mut connection {
            link.subscribe("x", OPTIONS, None).expect("room");
        }
        let (mut published, mut seen, mut unanswered) = (0_u32, Vec::new(), Vec::new());
        for step in steps.into_iter().chain([3, 2, 1].repeat(60)) {
            match (step, &mut connection) {
                (0, _) => {
                    broker.publish(message("x", &published.to_string(), Qos::AtLeastOnce), None);
                    published += 1;
                }
                (1, Some(link)) => if let Some((payload, _, id, ..)) = next(link) {
                    let number: u32 = payload.parse().expect("a number");
                    if !seen.contains(&number) { seen.push(number); }
                    unanswered.push(id.expect("an id"));
                },
                (2, Some(link)) if !unanswered.is_empty() => {
                    link.puback(unanswered.remove(0));
                }
                (3, None) => connection = Some(broker.attach("a", kept()).expect("room").0),
                (4, _) => { connection = None; unanswered.clear(); }
                _ => {}
            }
        }
        prop_assert_eq!(seen, (0..published).collect::<Vec<_>>());
    }
}
