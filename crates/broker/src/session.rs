//! What is kept for one client: what waits for it, what it was sent and has not answered, what it has sent with QoS 2.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt::{PacketId, Qos};

use crate::charge::{Charge, Held};
use crate::message::{Message, Will};
use crate::signal::Hold;
use crate::tree::Options;

/// A queue that is empty gives its memory back if it had room for more.
const IDLE_CAPACITY_MAX: usize = 16;

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Not at all.
    AtEnd,
    /// So long.
    After(Duration),
    /// For ever.
    Never,
}

impl Expiry {
    /// The same, but no longer than `max`.
    #[must_use]
    pub fn at_most(self, max: Duration) -> Self {
        let span = match self {
            Self::AtEnd => Duration::ZERO,
            Self::After(span) => span.min(max),
            Self::Never => max,
        };
        if span.is_zero() { Self::AtEnd } else { Self::After(span) }
    }
}

/// A message on its way to one client.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) held: Arc<Held>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Box<[u32]>,
    /// Its place in the queue.
    pub(crate) _place: Charge,
}

/// What is to be sent to a client.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// A message.
    Publish {
        /// What was published.
        message: Arc<Message>,
        /// With which QoS it is sent.
        qos: Qos,
        /// There where QoS is above 0.
        packet_id: Option<PacketId>,
        /// Whether it may have been sent before.
        dup: bool,
        /// Whether it is sent as a retained message.
        retain: bool,
        /// Of the subscriptions that brought it.
        subscription_ids: Vec<u32>,
        /// How long it is still good for, seconds.
        expires_in_s: Option<u32>,
    },
    /// The release of a QoS 2 message.
    Pubrel(PacketId),
}

/// A client's answer to a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Whether there was such a message.
    pub known: bool,
    /// Whether there was one that wants another answer: the client broke the protocol.
    pub mismatch: bool,
    /// The message's tag, once the client has it.
    pub tag: Option<u128>,
}

/// A message that was sent and not answered.
#[derive(Debug)]
struct Flight {
    packet_id: PacketId,
    queued: Queued,
    /// To be sent again: the connection is a new one.
    due: bool,
}

/// A QoS 2 message that the client has: PUBREC came, PUBCOMP did not. The message itself is not needed any more.
#[derive(Debug)]
struct Release {
    packet_id: PacketId,
    /// PUBREL is owed.
    due: bool,
}

/// A will, and the room that it takes.
#[derive(Debug)]
pub(crate) struct KeptWill {
    pub(crate) will: Will,
    pub(crate) _charge: Charge,
}

/// One subscription, by its filter.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) options: Options,
    pub(crate) id: Option<u32>,
    pub(crate) _charge: Charge,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: Arc<str>,
    /// Which attachment is the valid one; an older link is dead.
    pub(crate) attachment: u64,
    /// The connection, if there is one.
    pub(crate) hold: Option<Hold>,
    pub(crate) expiry: Expiry,
    pub(crate) will: Option<Box<KeptWill>>,
    pub(crate) subscriptions: HashMap<Arc<str>, Subscribed>,
    queue: VecDeque<Queued>,
    /// In the order in which they were sent first.
    flights: VecDeque<Flight>,
    /// How many flights are due.
    flights_due: usize,
    /// In the order in which PUBREC came [MQTT-4.6.0-4].
    releases: VecDeque<Release>,
    /// Bytes of queue and flights.
    bytes: usize,
    /// QoS 2 publishes of the client that are not released.
    pub(crate) inbound: BTreeSet<PacketId>,
    /// Most flights and releases at once.
    pub(crate) window: usize,
    last_id: u16,
    /// What is due for it: a will, or its end.
    pub(crate) due: Option<Instant>,
    /// When it ends, where it has no connection and an end.
    pub(crate) expires_at: Option<Instant>,
    /// When the queue is looked through for what is no longer good: not after the first such message's time.
    pub(crate) purge_at: Option<Instant>,
}

impl Session {
    pub(crate) fn new(key: Arc<str>) -> Self {
        Self {
            key,
            attachment: 0,
            hold: None,
            expiry: Expiry::AtEnd,
            will: None,
            subscriptions: HashMap::new(),
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            flights_due: 0,
            releases: VecDeque::new(),
            bytes: 0,
            inbound: BTreeSet::new(),
            window: 1,
            last_id: 0,
            due: None,
            expires_at: None,
            purge_at: None,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.hold.is_some()
    }

    /// Messages and bytes that wait, those that are sent and not answered included.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.queue.len() + self.flights.len(), self.bytes)
    }

    /// A new connection takes the session up: what was sent and not answered is sent again, in its order.
    /// [MQTT-4.4.0-1] [MQTT-4.6.0-1]
    pub(crate) fn resume(&mut self) {
        for flight in &mut self.flights {
            flight.due = true;
        }
        self.flights_due = self.flights.len();
        for release in &mut self.releases {
            release.due = true;
        }
        if !(self.flights.is_empty() && self.releases.is_empty() && self.queue.is_empty()) {
            self.raise();
        }
    }

    fn raise(&self) {
        if let Some(hold) = &self.hold {
            hold.raise();
        }
    }

    pub(crate) fn enqueue(&mut self, queued: Queued) {
        self.bytes += queued.held.message.cost();
        self.queue.push_back(queued);
        self.raise();
    }

    /// QoS 1 and 2 messages that the client does not have; commands apart, which are kept elsewhere.
    pub(crate) fn undelivered(&self) -> usize {
        let sent = self.flights.iter().map(|flight| &flight.queued);
        let promised = |queued: &&Queued| queued.qos != Qos::AtMostOnce && queued.held.message.tag.is_none();
        self.queue.iter().chain(sent).filter(promised).count()
    }

    /// Whether a message with that tag is on its way already.
    pub(crate) fn has_tag(&self, tag: u128) -> bool {
        let sent = self.flights.iter().map(|flight| &flight.queued);
        self.queue.iter().chain(sent).any(|queued| queued.held.message.tag == Some(tag))
    }

    /// Drops what is no longer good from the queue, and says when to look again.
    pub(crate) fn purge(&mut self, now: Instant) -> Option<Instant> {
        let (before, mut freed, mut first) = (self.queue.len(), 0, None);
        self.queue.retain(|queued| {
            let message = &queued.held.message;
            let over = message.is_over(now);
            if over {
                freed += message.cost();
            } else {
                first = [first, message.expires_at].into_iter().flatten().min();
            }
            !over
        });
        self.bytes -= freed;
        self.rest();
        count_expired(before - self.queue.len());
        first
    }

    /// The next thing to send: what was sent in an earlier connection, then releases that are owed, then what waits.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Outgoing> {
        let outgoing = self.next_due(now).or_else(|| self.next_queued(now));
        if outgoing.is_none()
            && let Some(hold) = &self.hold
        {
            hold.lower();
        }
        outgoing
    }

    fn next_due(&mut self, now: Instant) -> Option<Outgoing> {
        // What is sent again takes from Receive Maximum as it did the first time. [MQTT-4.9.0-2]
        let sent = self.flights.len() - self.flights_due + self.releases.len();
        if self.flights_due > 0
            && sent < self.window
            && let Some(flight) = self.flights.iter_mut().find(|flight| flight.due)
        {
            flight.due = false;
            self.flights_due -= 1;
            return Some(publish(&flight.queued, Some(flight.packet_id), true, now));
        }
        let release = self.releases.iter_mut().find(|release| release.due)?;
        release.due = false;
        Some(Outgoing::Pubrel(release.packet_id))
    }

    fn next_queued(&mut self, now: Instant) -> Option<Outgoing> {
        let mut expired = 0;
        let next = loop {
            let Some(queued) = self.queue.front() else { break None };
            let over = queued.held.message.is_over(now);
            let in_flight = self.flights.len() + self.releases.len();
            if !over && queued.qos != Qos::AtMostOnce && in_flight >= self.window {
                break None;
            }
            let Some(queued) = self.queue.pop_front() else { break None };
            if over {
                self.bytes -= queued.held.message.cost();
                expired += 1;
                continue;
            }
            break Some(self.launch(queued, now));
        };
        self.rest();
        count_expired(expired);
        next
    }

    fn launch(&mut self, queued: Queued, now: Instant) -> Outgoing {
        if queued.qos == Qos::AtMostOnce {
            self.bytes -= queued.held.message.cost();
            return publish(&queued, None, false, now);
        }
        let packet_id = self.free_id();
        let outgoing = publish(&queued, Some(packet_id), false, now);
        self.flights.push_back(Flight { packet_id, queued, due: false });
        outgoing
    }

    /// Gives memory back that a burst has left.
    fn rest(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > IDLE_CAPACITY_MAX {
            self.queue = VecDeque::new();
        }
    }

    /// A packet id that is not under way. There is one: the window is far below their number.
    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && !self.flights.iter().any(|flight| flight.packet_id == id)
                && !self.releases.iter().any(|release| release.packet_id == id)
            {
                return id;
            }
        }
    }

    fn flight(&self, packet_id: PacketId) -> Option<usize> {
        self.flights.iter().position(|flight| flight.packet_id == packet_id)
    }

    fn release(&self, packet_id: PacketId) -> Option<usize> {
        self.releases.iter().position(|release| release.packet_id == packet_id)
    }

    /// Ends a flight. There is room in the window then.
    fn land(&mut self, index: usize) -> Option<Arc<Held>> {
        let Flight { queued, due, .. } = self.flights.remove(index)?;
        self.flights_due -= usize::from(due);
        self.bytes -= queued.held.message.cost();
        self.raise();
        Some(queued.held)
    }

    /// Ends a flight of that QoS.
    fn answered(&mut self, packet_id: PacketId, qos: Qos) -> Completed {
        match self.flight(packet_id) {
            Some(index) if self.flights[index].queued.qos == qos => {
                let tag = self.land(index).and_then(|held| held.message.tag);
                Completed { known: true, mismatch: false, tag }
            }
            flight => {
                let mismatch = flight.is_some() || self.release(packet_id).is_some();
                Completed { mismatch, ..Completed::default() }
            }
        }
    }

    pub(crate) fn puback(&mut self, packet_id: PacketId) -> Completed {
        self.answered(packet_id, Qos::AtLeastOnce)
    }

    /// With an error the exchange is over; else a PUBREL is owed, and the client has the message. It may come again.
    pub(crate) fn pubrec(&mut self, packet_id: PacketId, ok: bool) -> Completed {
        if let Some(index) = self.release(packet_id) {
            self.releases[index].due = true;
            self.raise();
            return Completed { known: true, ..Completed::default() };
        }
        let completed = self.answered(packet_id, Qos::ExactlyOnce);
        if completed.known && ok {
            self.releases.push_back(Release { packet_id, due: true });
        }
        completed
    }

    pub(crate) fn pubcomp(&mut self, packet_id: PacketId) -> Completed {
        let Some(index) = self.release(packet_id) else {
            return Completed { mismatch: self.flight(packet_id).is_some(), ..Completed::default() };
        };
        self.releases.remove(index);
        self.raise();
        Completed { known: true, ..Completed::default() }
    }

    pub(crate) fn discard(&mut self, packet_id: PacketId) {
        if let Some(index) = self.flight(packet_id) {
            self.land(index);
        }
    }
}

fn count_expired(messages: usize) {
    if messages > 0 {
        metrics::counter!("fleetpulse_gateway_unsent_total", "reason" => "expired")
            .increment(messages as u64);
    }
}

fn publish(queued: &Queued, packet_id: Option<PacketId>, dup: bool, now: Instant) -> Outgoing {
    let message = &queued.held.message;
    // Whole seconds that it has waited are taken off [MQTT-3.3.2-6], so what is left is rounded up.
    let left = message.expires_at.map(|at| at.saturating_duration_since(now).as_millis().div_ceil(1_000));
    Outgoing::Publish {
        message: message.clone(),
        qos: queued.qos,
        packet_id,
        dup,
        retain: queued.retain,
        subscription_ids: queued.subscription_ids.to_vec(),
        expires_in_s: left.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)),
    }
}
