//! From the dead letters: what can be read by now is sent to Kafka as the heartbeat that it is, and the writers bring it in.
//!
//! It goes out in the name of the node [`event::REPLAY_NODE_ID`], so that nothing of it is taken for what a gateway has produced; the time received
//! stays that of the letter. A letter stays where it is: it is what happened. What stands already is not sent, and each page is waited
//! for until it stands: so a second run sends nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use bus::{Offset, Partition, Producer, Stream};
use decode::{Arrival, ClockPolicy, Topic};
use event::v1::{Event, Traffic, event::Kind};
use event::{
    DeviceId, Millis, NodeId, REPLAY_NODE_ID as NODE_ID, SessionId, SessionPrefix, encode_heartbeat,
};
use prost::Message;
use store::rows::DeadLetterRow;
use store::{DeadLetter, HeartbeatKey, LetterPlace, Store};

use super::{AskError, Asked, Progress, ReplayError, Run};

/// Dead letters of a page: with payloads of 64 KiB at most, 32 MiB.
const PAGE: u32 = 500;
/// How long writers may take to bring a page in.
const STANDS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LettersReport {
    /// Dead letters of the span of time.
    pub letters: u64,
    /// Heartbeats by now that stand nowhere: sent, where it was no dry run.
    pub sent: u64,
    /// Of these, that ClickHouse has refused.
    pub refused: u64,
    /// Heartbeats by now that stand already.
    pub standing: u64,
    /// No heartbeats yet, by why.
    pub rejected: BTreeMap<String, u64>,
    /// Not the heartbeat of a device; they are not looked into.
    pub left: u64,
}

/// What a dead letter is by now.
enum Reading {
    Heartbeat { key: HeartbeatKey, record: Vec<u8> },
    Rejected(String),
    Left,
}

/// Reads the dead letters of a span of time again, by the time received, and sends those that are heartbeats by now and stand nowhere.
///
/// # Errors
/// Where Kafka or ClickHouse do not answer, or no writer brings in what was sent. Cancel safe: what was sent stands sooner or later.
pub async fn from_dead_letters(
    store: &Store,
    kafka: &bus::Config,
    policy: &ClockPolicy,
    asked: &Asked,
    progress: &mut dyn FnMut(Progress),
) -> Result<LettersReport, ReplayError> {
    store.check_schema().await?;
    let producer = Producer::new(kafka)?;
    let mut report = LettersReport::default();
    let mut place = LetterPlace::before(asked.from_ms);
    let mut done = Progress::default();
    loop {
        let letters = store.dead_letters(&place, asked.to_ms, PAGE).await.map_err(AskError::from)?;
        let Some(last) = letters.last() else { return Ok(report) };
        place = last.place();
        page(store, &producer, policy, asked.run, &letters, &mut report).await?;
        done.done += letters.len() as u64;
        done.of = done.done;
        progress(done);
    }
}

async fn page(
    store: &Store,
    producer: &Producer,
    policy: &ClockPolicy,
    run: Run,
    letters: &[DeadLetter],
    report: &mut LettersReport,
) -> Result<(), ReplayError> {
    report.letters += letters.len() as u64;
    let (mut heartbeats, mut keys) = (Vec::new(), HashSet::new());
    for letter in letters {
        match read(letter, policy) {
            // Of two letters of one heartbeat the first is sent.
            Reading::Heartbeat { key, record } if keys.insert(key.clone()) => heartbeats.push((key, record)),
            Reading::Heartbeat { .. } => report.standing += 1,
            Reading::Rejected(why) => *report.rejected.entry(why).or_default() += 1,
            Reading::Left => report.left += 1,
        }
    }
    let keys: Vec<HeartbeatKey> = keys.into_iter().collect();
    let standing = standing(store, &keys).await?;
    report.standing += standing.len() as u64;
    heartbeats.retain(|(key, _)| !standing.contains(key));
    report.sent += heartbeats.len() as u64;
    if run == Run::Dry {
        return Ok(());
    }
    let mut deliveries = Vec::with_capacity(heartbeats.len());
    for (key, record) in heartbeats {
        let permit = producer.window().clone().reserve(record.len() + key.device_id.len()).await;
        let delivery = producer.send(permit, Stream::Events, &key.device_id, &record)?;
        deliveries.push((key, delivery));
    }
    let mut sent = HashMap::with_capacity(deliveries.len());
    for (key, delivery) in deliveries {
        sent.insert(key, delivery.await?);
    }
    report.refused += until_they_stand(store, sent).await?;
    Ok(())
}

/// Waits until each of these stands, or is refused; how many are refused.
async fn until_they_stand(
    store: &Store,
    mut sent: HashMap<HeartbeatKey, (Partition, Offset)>,
) -> Result<u64, ReplayError> {
    let until = Instant::now() + STANDS_WITHIN;
    let mut refused_count = 0;
    while !sent.is_empty() {
        let keys: Vec<HeartbeatKey> = sent.keys().cloned().collect();
        let standing = standing(store, &keys).await?;
        sent.retain(|key, _| !standing.contains(key));
        let mut by_partition: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (partition, offset) in sent.values() {
            by_partition.entry(partition.0.unsigned_abs()).or_default().push(offset.0.unsigned_abs());
        }
        for (partition, offsets) in by_partition {
            let refused = store.refused_records(partition, &offsets).await.map_err(AskError::from)?;
            refused_count += refused.len() as u64;
            sent.retain(|_, (of, offset)| {
                of.0.unsigned_abs() != partition || !refused.contains(&offset.0.unsigned_abs())
            });
        }
        if sent.is_empty() {
            break;
        }
        if Instant::now() >= until {
            return Err(ReplayError::Unread { left: sent.len() });
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
    Ok(refused_count)
}

async fn standing(store: &Store, keys: &[HeartbeatKey]) -> Result<HashSet<HeartbeatKey>, AskError> {
    Ok(store.standing_heartbeats(keys).await?.into_iter().collect())
}

fn read(letter: &DeadLetter, policy: &ClockPolicy) -> Reading {
    match letter.source {
        DeadLetterRow::GATEWAY => payload(letter, policy),
        DeadLetterRow::WRITER if letter.topic == Stream::Events.name() => record(letter),
        _ => Reading::Left,
    }
}

/// A payload that a gateway has rejected.
fn payload(letter: &DeadLetter, policy: &ClockPolicy) -> Reading {
    let device_id = match decode::topic(&letter.topic) {
        Topic::Heartbeat { device_id } if device_id == letter.device_id => DeviceId::new(device_id),
        _ => return Reading::Left,
    };
    let Ok(device_id) = device_id else { return Reading::Left };
    let (at, session_id) = (Millis(letter.received_at), SessionId(letter.session_id));
    // The letter's own number: where nothing else tells a heartbeat from the next, each letter is one, and the same one each time.
    let arrival = Arrival { at, session_id, message: letter.kafka_offset };
    match decode::heartbeat(&letter.payload, &arrival, policy) {
        Ok(heartbeat) => {
            let prefix = SessionPrefix::new(&device_id, &NodeId(NODE_ID.into()), 0, session_id);
            let mut record = Vec::new();
            encode_heartbeat(&prefix, at, &Traffic::default(), &heartbeat, &mut record);
            let key = HeartbeatKey {
                device_id: letter.device_id.clone(),
                device_time: heartbeat.device_time_ms,
                identity: heartbeat.identity,
            };
            Reading::Heartbeat { key, record }
        }
        Err(rejection) => Reading::Rejected(event::reject_reason_name(rejection.reason).to_owned()),
    }
}

/// A record of the events topic that a writer could not read, or that ClickHouse has refused.
fn record(letter: &DeadLetter) -> Reading {
    let Ok(mut event) = Event::decode(&*letter.payload) else {
        return Reading::Rejected(letter.reason.clone());
    };
    let key = match &event.kind {
        Some(Kind::Heartbeat(heartbeat)) => HeartbeatKey {
            device_id: event.device_id.clone(),
            device_time: heartbeat.device_time_ms,
            identity: heartbeat.identity,
        },
        Some(_) => return Reading::Left,
        None => return Reading::Rejected(letter.reason.clone()),
    };
    event.node_id = NODE_ID.to_owned();
    event.epoch = 0;
    let record = event.encode_to_vec();
    if crate::row::is_heartbeat(&record) {
        Reading::Heartbeat { key, record }
    } else {
        Reading::Rejected(letter.reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use event::v1::{Clock, Heartbeat, NodeAlive};
    use uuid::Uuid;

    use super::*;

    fn letter(source: i8, topic: &str, payload: &[u8]) -> DeadLetter {
        DeadLetter {
            received_at: 1_767_225_600_000,
            device_id: "d".into(),
            session_id: Uuid::from_u128(7),
            topic: topic.into(),
            payload: payload.into(),
            reason: "not_an_event".into(),
            source,
            kafka_partition: 3,
            kafka_offset: 40,
        }
    }

    fn read(letter: &DeadLetter) -> Reading {
        super::read(letter, &ClockPolicy::default())
    }

    #[test]
    fn a_payload_that_is_a_heartbeat_by_now_is_sent_in_the_name_of_the_replay() {
        let letter = letter(DeadLetterRow::GATEWAY, "devices/d/heartbeat", br#"{"seq":5}"#);
        let Reading::Heartbeat { key, record } = read(&letter) else { panic!("no heartbeat") };
        let event = Event::decode(&*record).expect("an event");
        assert_eq!((event.node_id.as_str(), event.received_at_ms), (NODE_ID, letter.received_at));
        assert_eq!((key.device_id.as_str(), key.identity), ("d", 5));
    }

    #[test]
    fn a_heartbeat_that_only_its_arrival_names_has_the_same_name_in_every_run() {
        let one = letter(DeadLetterRow::GATEWAY, "devices/d/heartbeat", b"{}");
        let other = DeadLetter { kafka_offset: 41, ..one.clone() };
        let key = |letter| match read(letter) {
            Reading::Heartbeat { key, .. } => key,
            _ => panic!("no heartbeat"),
        };
        assert_eq!(key(&one), key(&one));
        assert_ne!(key(&one), key(&other));
    }

    #[test]
    fn what_is_no_heartbeat_of_its_device_is_left_and_what_is_still_wrong_is_named() {
        for topic in ["devices/other/heartbeat", "devices/d/events", ""] {
            assert!(matches!(read(&letter(DeadLetterRow::GATEWAY, topic, b"{}")), Reading::Left), "{topic}");
        }
        let wrong = read(&letter(DeadLetterRow::GATEWAY, "devices/d/heartbeat", b"nothing"));
        assert!(matches!(wrong, Reading::Rejected(why) if why == "not_json"));
    }

    #[test]
    fn a_record_that_was_refused_is_sent_again_if_it_is_a_heartbeat() {
        let heartbeat = Heartbeat { clock: Clock::Device.into(), identity: 9, ..Heartbeat::default() };
        let event = Event {
            device_id: "d".into(),
            node_id: "gateway-1".into(),
            session_id: vec![7; 16].into(),
            kind: Some(Kind::Heartbeat(heartbeat)),
            ..Event::default()
        };
        let of = |event: &Event| read(&letter(DeadLetterRow::WRITER, "events", &event.encode_to_vec()));
        let Reading::Heartbeat { key, record } = of(&event) else { panic!("no heartbeat") };
        assert_eq!(key.identity, 9);
        assert_eq!(Event::decode(&*record).expect("an event").node_id, NODE_ID);
        let alive = Event { kind: Some(Kind::NodeAlive(NodeAlive::default())), ..event.clone() };
        assert!(matches!(of(&alive), Reading::Left));
        let nobody = Event { session_id: vec![7; 3].into(), ..event };
        assert!(matches!(of(&nobody), Reading::Rejected(_)), "the writer would not read it");
    }
}
