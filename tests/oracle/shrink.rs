//! A failing history, made as small as it goes: whatever is left out, what remains is a history, and still fails.

use std::collections::BTreeSet;

use event::v1::Event;
use event::v1::event::Kind;

/// How often it is tried: each try is a history inserted and asked.
const TRIES: usize = 60;

/// Leaves out devices and nodes, then halves, quarters and so on of the events.
pub(crate) fn shrunk(events: Vec<Event>, mut fails: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    let mut events = events;
    let mut tries = 0;
    let mut attempt = |smaller: Vec<Event>, events: &mut Vec<Event>| {
        tries += 1;
        if smaller.len() < events.len() && tries <= TRIES && fails(&smaller) {
            *events = smaller;
            return true;
        }
        false
    };
    let devices: BTreeSet<String> = events.iter().map(|event| event.device_id.clone()).collect();
    for device in devices.into_iter().filter(|device| !device.is_empty()) {
        let without = events.iter().filter(|event| event.device_id != device).cloned().collect();
        attempt(without, &mut events);
    }
    let mut size = events.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < events.len() {
            let to = (from + size).min(events.len());
            let without = [&events[..from], &events[to..]].concat();
            if !attempt(without, &mut events) {
                from = to;
            }
        }
        size /= 2;
    }
    events
}

/// One line per event.
pub(crate) fn listed(events: &[Event]) -> String {
    let line = |event: &Event| {
        let session = uuid::Uuid::from_slice(&event.session_id).map(|id| id.to_string()).unwrap_or_default();
        let kind = match event.kind.as_ref() {
            Some(Kind::Heartbeat(heartbeat)) => format!(
                "heartbeat {} taken {} next_s {:?} messages {}",
                heartbeat.identity,
                heartbeat.device_time_ms,
                heartbeat.next_s,
                event.session_traffic.map_or(0, |traffic| traffic.messages_in)
            ),
            Some(Kind::Connected(_)) => "connected".to_owned(),
            Some(Kind::Disconnected(ended)) => {
                format!("disconnected {:?}, began {}", ended.reason(), ended.connected_at_ms)
            }
            Some(Kind::NodeAlive(alive)) => format!("alive for {}", alive.lost_after_ms),
            other => format!("{other:?}"),
        };
        format!(
            "{} {} {}@{} {} {kind}\n",
            event.received_at_ms, event.device_id, event.node_id, event.epoch, session
        )
    };
    events.iter().map(line).collect()
}
