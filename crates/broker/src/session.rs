//! What is kept for one client: what waits for it, what it was sent and has not answered, what it has sent with QoS 2.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt::{PacketId, Qos};
use tokio::sync::Notify;

use crate::message::{Message, Will};
use crate::tree::Options;

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

/// A message on its way to one client.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Puback,
    Pubrec,
    Pubcomp,
}

#[derive(Debug)]
struct Flight {
    packet_id: PacketId,
    awaits: Awaits,
    queued: Queued,
    /// To be sent (again): the connection is a new one.
    due: bool,
    dup: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: Arc<str>,
    /// Which attachment is the valid one; an older link is dead.
    pub(crate) attachment: u64,
    pub(crate) connected: bool,
    pub(crate) expiry: Expiry,
    pub(crate) will: Option<Will>,
    pub(crate) subscriptions: HashMap<Arc<str>, Options>,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) queue_bytes: usize,
    flights: VecDeque<Flight>,
    /// QoS 2 publishes of the client that are not released.
    pub(crate) inbound: BTreeSet<PacketId>,
    pub(crate) receive_max: u16,
    last_id: u16,
    pub(crate) notify: Arc<Notify>,
    /// What is due for it: a will, or its end.
    pub(crate) due: Option<Instant>,
    /// When it ends, where it has no connection and an end.
    pub(crate) expires_at: Option<Instant>,
}

impl Session {
    pub(crate) fn new(key: Arc<str>) -> Self {
        Self {
            key,
            attachment: 0,
            connected: false,
            expiry: Expiry::AtEnd,
            will: None,
            subscriptions: HashMap::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            flights: VecDeque::new(),
            inbound: BTreeSet::new(),
            receive_max: u16::MAX,
            last_id: 0,
            notify: Arc::new(Notify::new()),
            due: None,
            expires_at: None,
        }
    }

    /// A new connection takes the session up: what was sent and not answered is sent again, in its order.
    /// [MQTT-4.4.0-1] [MQTT-4.6.0-1]
    pub(crate) fn resume(&mut self) {
        for flight in &mut self.flights {
            flight.due = true;
            flight.dup = true;
        }
        if !self.flights.is_empty() || !self.queue.is_empty() {
            self.notify.notify_one();
        }
    }

    pub(crate) fn enqueue(&mut self, queued: Queued) {
        self.queue_bytes += queued.message.cost();
        self.queue.push_back(queued);
        self.notify.notify_one();
    }

    /// Whether a message with that tag is on its way already.
    pub(crate) fn has_tag(&self, tag: u128) -> bool {
        let waiting = self.queue.iter().map(|queued| &queued.message);
        waiting.chain(self.flights.iter().map(|flight| &flight.queued.message)).any(|m| m.tag == Some(tag))
    }

    /// The next thing to send, and how many bytes left the queue by that.
    pub(crate) fn next(&mut self, now: Instant) -> (Option<Outgoing>, usize) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.due) {
            flight.due = false;
            return (Some(flight.outgoing(now)), 0);
        }
        let mut freed = 0;
        while let Some(queued) = self.queue.front() {
            let room = queued.qos == Qos::AtMostOnce || self.flights.len() < usize::from(self.receive_max);
            if !room {
                break;
            }
            let Some(queued) = self.queue.pop_front() else { break };
            let cost = queued.message.cost();
            freed += cost;
            self.queue_bytes -= cost;
            if queued.message.is_over(now) {
                metrics::counter!("fleetpulse_gateway_unsent_total", "reason" => "expired").increment(1);
                continue;
            }
            return (Some(self.launch(queued, now)), freed);
        }
        (None, freed)
    }

    fn launch(&mut self, queued: Queued, now: Instant) -> Outgoing {
        let awaits = match queued.qos {
            Qos::AtMostOnce => return publish(&queued, None, false, now),
            Qos::AtLeastOnce => Awaits::Puback,
            Qos::ExactlyOnce => Awaits::Pubrec,
        };
        let packet_id = self.free_id();
        let flight = Flight { packet_id, awaits, queued, due: false, dup: false };
        let outgoing = flight.outgoing(now);
        self.flights.push_back(flight);
        outgoing
    }

    /// A packet id that is not under way. There is one: Receive Maximum is below their number.
    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && !self.flights.iter().any(|flight| flight.packet_id == id)
            {
                return id;
            }
        }
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.flights.iter().position(|flight| flight.packet_id == packet_id)
    }

    /// Ends an exchange that awaits this answer.
    fn end(&mut self, packet_id: PacketId, answer: Awaits) -> Completed {
        let Some(index) = self.position(packet_id) else {
            return Completed::default();
        };
        if self.flights[index].awaits != answer {
            return Completed { mismatch: true, ..Completed::default() };
        }
        let ended = self.flights.remove(index);
        Completed {
            known: true,
            tag: ended.and_then(|flight| flight.queued.message.tag),
            ..Completed::default()
        }
    }

    pub(crate) fn puback(&mut self, packet_id: PacketId) -> Completed {
        self.end(packet_id, Awaits::Puback)
    }

    pub(crate) fn pubcomp(&mut self, packet_id: PacketId) -> Completed {
        Completed { tag: None, ..self.end(packet_id, Awaits::Pubcomp) }
    }

    /// With an error the exchange is over; else a PUBREL is owed, and the client has the message. It may come again.
    pub(crate) fn pubrec(&mut self, packet_id: PacketId, ok: bool) -> Completed {
        let Some(index) = self.position(packet_id) else {
            return Completed::default();
        };
        let flight = &mut self.flights[index];
        match flight.awaits {
            Awaits::Puback => Completed { mismatch: true, ..Completed::default() },
            Awaits::Pubrec if !ok => self.end(packet_id, Awaits::Pubrec),
            was => {
                flight.awaits = Awaits::Pubcomp;
                flight.due = true;
                let tag = flight.queued.message.tag.filter(|_| was == Awaits::Pubrec);
                Completed { known: true, tag, ..Completed::default() }
            }
        }
    }

    pub(crate) fn discard(&mut self, packet_id: PacketId) {
        if let Some(index) = self.position(packet_id) {
            self.flights.remove(index);
        }
    }
}

impl Flight {
    fn outgoing(&self, now: Instant) -> Outgoing {
        match self.awaits {
            Awaits::Pubcomp => Outgoing::Pubrel(self.packet_id),
            Awaits::Puback | Awaits::Pubrec => publish(&self.queued, Some(self.packet_id), self.dup, now),
        }
    }
}

fn publish(queued: &Queued, packet_id: Option<PacketId>, dup: bool, now: Instant) -> Outgoing {
    let left = queued.message.expires_at.map(|at| at.saturating_duration_since(now).as_secs());
    Outgoing::Publish {
        message: queued.message.clone(),
        qos: queued.qos,
        packet_id,
        dup,
        retain: queued.retain,
        subscription_ids: queued.subscription_ids.clone(),
        expires_in_s: left.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)),
    }
}
