//! Links: what wakes them, what kills them, and what they send in which order.

use std::task::{Context, Poll, Waker};

use super::*;

/// Whether a link is ready now.
fn is_ready(link: &Link) -> bool {
    let ready = std::pin::pin!(link.ready());
    ready.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn a_link_is_ready_until_it_has_given_all() {
    let broker = broker();
    let mut a = broker.attach("a", Attach { receive_max: 1, ..attach(true, Expiry::AtEnd) }).expect("room").0;
    a.subscribe("x", OPTIONS, None).expect("room");
    assert!(!is_ready(&a));
    broker.publish(message("x", "1", Qos::AtLeastOnce), None);
    broker.publish(message("x", "2", Qos::AtLeastOnce), None);
    assert!(is_ready(&a) && is_ready(&a), "a wait that was given up misses nothing");
    let id = next(&mut a).expect("a message").2.expect("an id");
    assert!(is_ready(&a));
    assert!(next(&mut a).is_none() && !is_ready(&a), "Receive Maximum holds it back");
    assert!(a.puback(id).known && is_ready(&a), "an answer lets go");
    assert_eq!(payloads(&mut a), ["2"]);
    assert!(!is_ready(&a));
    a.wake();
    assert!(is_ready(&a));
}

#[test]
fn a_link_that_was_taken_over_is_ready_and_does_nothing() {
    let broker = broker();
    let mut old = broker.attach("a", attach(false, Expiry::Never)).expect("room").0;
    old.subscribe("x", OPTIONS, None).expect("room");
    let (mut new, present) = broker.attach("a", attach(false, Expiry::Never)).expect("room");
    assert!(present && new.is_alive());
    assert!(!old.is_alive() && old.is_taken_over() && is_ready(&old));
    assert_eq!(old.subscribe("y", OPTIONS, None), Err(SubscribeError::Gone));
    assert!(!old.unsubscribe("x") && !old.received(PacketId::MIN) && old.inbound_len() == 0);
    old.detach(Detach { will: WillFate::Publish, expiry: Expiry::AtEnd });
    assert_eq!(broker.publish(message("x", "m", Qos::AtLeastOnce), None), 1);
    assert_eq!(payloads(&mut new), ["m"]);
}

#[test]
fn a_link_of_before_a_panic_does_not_pass_for_a_new_one() {
    let broker = broker();
    let mut old = link(&broker, "a");
    assert!(broker.with(|_| panic!("a mistake")).is_none());
    assert!(is_ready(&old) && !old.is_alive() && !old.is_taken_over());
    // Another client is the first of the new state, as the old link's was of the old one.
    let mut new = link(&broker, "b");
    new.subscribe("x", OPTIONS, None).expect("room");
    assert!(!old.unsubscribe("x"));
    drop(old);
    assert!(new.is_alive());
    assert_eq!(broker.publish(message("x", "m", Qos::AtMostOnce), None), 1);
}

#[test]
fn a_clean_start_ends_the_older_session_and_its_delayed_will_goes_out() {
    let broker = broker();
    let mut watcher = link(&broker, "w");
    watcher.subscribe("gone", OPTIONS, None).expect("room");
    let will = Will {
        message: message("gone", "will", Qos::AtMostOnce),
        delay: Duration::from_secs(10),
        expiry: None,
    };
    let day = Expiry::After(Duration::from_secs(86_400));
    let with_will = Attach { will: Some(will), ..attach(false, day) };
    // The session goes on: the delayed will of the connection that was taken over is not sent [MQTT-3.1.3-9].
    let first = broker.attach("a", with_will.clone()).expect("room");
    let second = broker.attach("a", with_will.clone()).expect("room");
    assert!(payloads(&mut watcher).is_empty());
    // It ends: the will does not wait for longer than the session lasts.
    let third = broker.attach("a", Attach { clean_start: true, ..with_will }).expect("room");
    assert_eq!(payloads(&mut watcher), ["will"]);
    broker.forget("a");
    assert_eq!(payloads(&mut watcher), ["will"]);
    assert!([first, second, third].iter().all(|(link, _)| !link.is_alive()));
}

#[test]
fn releases_are_owed_in_the_order_in_which_pubrec_came() {
    let broker = broker();
    let kept = || attach(false, Expiry::Never);
    let mut a = broker.attach("a", kept()).expect("room").0;
    a.subscribe("x", OPTIONS, None).expect("room");
    for payload in ["1", "2", "3"] {
        broker.publish(message("x", payload, Qos::ExactlyOnce), None);
    }
    let ids: Vec<PacketId> = std::iter::from_fn(|| next(&mut a)).filter_map(|came| came.2).collect();
    assert!(a.pubrec(ids[1], true).known && a.pubrec(ids[0], true).known);
    drop(a);
    let mut a = broker.attach("a", kept()).expect("room").0;
    let again: Vec<_> = std::iter::from_fn(|| next(&mut a)).map(|came| (came.0, came.2)).collect();
    let pubrel = |id| ("PUBREL".to_owned(), Some(id));
    // [MQTT-4.4.0-1] [MQTT-4.6.0-4]
    assert_eq!(again, [("3".to_owned(), Some(ids[2])), pubrel(ids[1]), pubrel(ids[0])]);
    assert!(a.pubrec(ids[1], true).known, "PUBREC once more");
    assert_eq!(next(&mut a).map(|came| came.2), Some(Some(ids[1])));
    assert!(a.pubcomp(ids[1]).known && !a.pubcomp(ids[1]).known);
}

#[test]
fn a_smaller_receive_maximum_holds_for_what_is_sent_again() {
    let broker = broker();
    let with = |receive_max| Attach { receive_max, ..attach(false, Expiry::Never) };
    let mut a = broker.attach("a", with(3)).expect("room").0;
    a.subscribe("x", OPTIONS, None).expect("room");
    for payload in ["1", "2", "3"] {
        broker.publish(message("x", payload, Qos::AtLeastOnce), None);
    }
    assert_eq!(payloads(&mut a).len(), 3);
    drop(a);
    let mut a = broker.attach("a", with(1)).expect("room").0;
    for payload in ["1", "2", "3"] {
        let came = next(&mut a).expect("a message");
        assert_eq!(came.0, payload);
        assert!(next(&mut a).is_none(), "[MQTT-4.9.0-2]");
        assert!(a.puback(came.2.expect("an id")).known);
    }
}

#[test]
fn a_group_passes_over_a_member_without_room_and_a_copy_of_ones_own_comes_beside_it() {
    let broker = Broker::new(Config { queue_messages_max: 1, ..Config::default() });
    let (mut a, mut b) = (link(&broker, "a"), link(&broker, "b"));
    a.subscribe("$share/g/x", OPTIONS, Some(1)).expect("room");
    b.subscribe("$share/g/x", OPTIONS, Some(2)).expect("room");
    broker.publish(message("x", "1", Qos::AtLeastOnce), None);
    assert_eq!(payloads(&mut a), ["1"], "and it is not answered");
    broker.publish(message("x", "2", Qos::AtLeastOnce), None);
    let id = next(&mut b).expect("a message").2.expect("an id");
    b.puback(id);
    broker.publish(message("x", "3", Qos::AtLeastOnce), None);
    assert_eq!(payloads(&mut b), ["3"], "it was the other's turn");
    assert_eq!(broker.publish(message("x", "4", Qos::AtLeastOnce), None), 0);

    let broker = super::broker();
    let mut c = link(&broker, "c");
    c.subscribe("$share/g/x", OPTIONS, Some(1)).expect("room");
    c.subscribe("x", OPTIONS, Some(2)).expect("room");
    broker.publish(message("x", "m", Qos::AtMostOnce), None);
    let ids: Vec<Vec<u32>> = std::iter::from_fn(|| next(&mut c)).map(|came| came.4).collect();
    assert_eq!(ids, [[2], [1]], "each of its subscriptions stands for itself");
}

#[test]
fn what_is_left_of_an_expiry_is_whole_seconds_rounded_up() {
    let broker = broker();
    let mut a = link(&broker, "a");
    a.subscribe("x", OPTIONS, None).expect("room");
    let expires_at = Some(Instant::now() + Duration::from_secs(100));
    broker.publish(Message { expires_at, ..message("x", "m", Qos::AtMostOnce) }, None);
    let left = match a.next() {
        Some(Outgoing::Publish { expires_in_s, .. }) => expires_in_s,
        _ => None,
    };
    assert_eq!(left, Some(100), "it has waited for less than a second");
}

#[test]
fn an_offer_names_the_subscriptions_it_came_by() {
    let broker = broker();
    let mut a = link(&broker, "a");
    a.subscribe("devices/a/commands/#", OPTIONS, Some(7)).expect("room");
    assert!(broker.offer("a", message("devices/a/commands/go", "m", Qos::AtLeastOnce)));
    assert_eq!(next(&mut a).map(|came| came.4), Some(vec![7]), "[MQTT-3.3.4-3]");
}
