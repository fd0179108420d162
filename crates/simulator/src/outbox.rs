//! The store of one device: heartbeats made and not yet answered for good.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use bytes::Bytes;
use tokio::time::Instant;

/// Heartbeats in the order of their making. Bounded by its owner, which asks [`Outbox::len`] before
/// [`Outbox::push`]. Look-ups walk from the front: what is in flight stands near it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    stored: VecDeque<Stored>,
    in_flight: usize,
    last_packet_id: u16,
}

#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) seq: u64,
    pub(crate) payload: Bytes,
    pub(crate) transmissions: u32,
    /// How often the server refused it for now.
    pub(crate) refusals: u32,
    delivery: Delivery,
}

#[derive(Clone, Copy, Debug)]
enum Delivery {
    /// To be sent as soon as the window has room.
    Ready,
    /// Refused for now: to be sent again then.
    Deferred { until: Instant },
    /// Sent on this connection, unanswered.
    InFlight { packet_id: NonZeroU16, sent_at: Instant },
    /// Sent on an earlier connection of the same session, unanswered.
    Interrupted { packet_id: NonZeroU16 },
}

/// What the wire needs to know of a heartbeat that goes out now.
pub(crate) struct Transmission<'a> {
    pub(crate) packet_id: NonZeroU16,
    pub(crate) payload: &'a Bytes,
    pub(crate) dup: bool,
    pub(crate) first: bool,
}

impl Outbox {
    /// All that is stored, in flight or not.
    pub(crate) fn len(&self) -> usize {
        self.stored.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Sent on this connection and not answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn push(&mut self, seq: u64, payload: Bytes) {
        let delivery = Delivery::Ready;
        self.stored.push_back(Stored { seq, payload, transmissions: 0, refusals: 0, delivery });
    }

    /// Takes the oldest heartbeat that may go out now as sent. The caller minds the window.
    pub(crate) fn transmit(&mut self, now: Instant) -> Option<Transmission<'_>> {
        if self.in_flight == self.stored.len() {
            return None;
        }
        let may_go = |stored: &Stored| match stored.delivery {
            Delivery::Ready | Delivery::Interrupted { .. } => true,
            Delivery::Deferred { until } => until <= now,
            Delivery::InFlight { .. } => false,
        };
        let at = self.stored.iter().position(may_go)?;
        let (packet_id, dup) = match self.stored[at].delivery {
            Delivery::Interrupted { packet_id } => (packet_id, true),
            _ => (self.free_packet_id(), false),
        };
        let stored = &mut self.stored[at];
        stored.delivery = Delivery::InFlight { packet_id, sent_at: now };
        stored.transmissions += 1;
        self.in_flight += 1;
        Some(Transmission { packet_id, payload: &stored.payload, dup, first: stored.transmissions == 1 })
    }

    /// Takes out the heartbeat in flight under this identifier, and when it was sent; `None` if there is none.
    pub(crate) fn take(&mut self, packet_id: NonZeroU16) -> Option<(Stored, Instant)> {
        let (at, sent_at) = self.find(packet_id)?;
        self.in_flight -= 1;
        Some((self.stored.remove(at)?, sent_at))
    }

    /// The server refused it for now: its identifier is free, and it goes again once `delay(refusals)` is over.
    /// `false` if nothing is in flight under this identifier.
    pub(crate) fn defer(&mut self, packet_id: NonZeroU16, until: impl FnOnce(u32) -> Instant) -> bool {
        let Some((at, _)) = self.find(packet_id) else {
            return false;
        };
        let stored = &mut self.stored[at];
        stored.delivery = Delivery::Deferred { until: until(stored.refusals) };
        stored.refusals = stored.refusals.saturating_add(1);
        self.in_flight -= 1;
        true
    }

    /// When the first deferred heartbeat may go again.
    pub(crate) fn deferred_until(&self) -> Option<Instant> {
        if self.in_flight == self.stored.len() {
            return None;
        }
        let until = |stored: &Stored| match stored.delivery {
            Delivery::Deferred { until } => Some(until),
            _ => None,
        };
        self.stored.iter().filter_map(until).min()
    }

    /// The connection is gone: what was in flight waits for the next.
    pub(crate) fn interrupt(&mut self) {
        for stored in &mut self.stored {
            if let Delivery::InFlight { packet_id, .. } = stored.delivery {
                stored.delivery = Delivery::Interrupted { packet_id };
            }
        }
        self.in_flight = 0;
    }

    /// The server has not kept the session: what was unanswered goes again as new.
    pub(crate) fn forget_session(&mut self) {
        for stored in &mut self.stored {
            if let Delivery::Interrupted { .. } = stored.delivery {
                stored.delivery = Delivery::Ready;
            }
        }
    }

    fn find(&self, sought: NonZeroU16) -> Option<(usize, Instant)> {
        self.stored.iter().enumerate().find_map(|(at, stored)| match stored.delivery {
            Delivery::InFlight { packet_id, sent_at } if packet_id == sought => Some((at, sent_at)),
            _ => None,
        })
    }

    /// The next identifier not in use. Ends, because the window is far smaller than the identifiers are many.
    fn free_packet_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_packet_id = self.last_packet_id.wrapping_add(1);
            if let Some(packet_id) = NonZeroU16::new(self.last_packet_id).filter(|id| !self.uses(*id)) {
                return packet_id;
            }
        }
    }

    fn uses(&self, sought: NonZeroU16) -> bool {
        self.stored.iter().any(|stored| match stored.delivery {
            Delivery::InFlight { packet_id, .. } | Delivery::Interrupted { packet_id } => packet_id == sought,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bytes, Instant, Outbox};

    fn filled(heartbeats: u64) -> Outbox {
        let mut outbox = Outbox::default();
        (0..heartbeats).for_each(|seq| outbox.push(seq, Bytes::from(seq.to_string())));
        outbox
    }

    #[test]
    fn a_kept_session_gets_the_same_identifier_with_dup_and_a_new_one_does_not() {
        let now = Instant::now();
        for kept in [true, false] {
            let mut outbox = filled(1);
            let first = outbox.transmit(now).map(|t| (t.packet_id, t.dup, t.first)).expect("sent");
            assert!(!first.1 && first.2);
            outbox.interrupt();
            if !kept {
                outbox.forget_session();
            }
            let again = outbox.transmit(now).map(|t| (t.packet_id, t.dup, t.first)).expect("sent");
            assert_eq!((again.0 == first.0, again.1, again.2), (kept, kept, false));
        }
    }

    #[test]
    fn a_deferred_heartbeat_waits_and_does_not_hold_back_the_next() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut outbox = filled(2);
        let packet_id = outbox.transmit(now).expect("sent").packet_id;
        assert!(outbox.defer(packet_id, |_| later));
        assert!(outbox.take(packet_id).is_none(), "no longer in flight");
        assert_eq!(outbox.transmit(now).expect("the next").payload.as_ref(), b"1");
        assert!(outbox.transmit(now).is_none());
        assert_eq!(outbox.deferred_until(), Some(later));
        assert_eq!(outbox.transmit(later).expect("again").payload.as_ref(), b"0");
    }

    #[test]
    fn identifiers_wrap_around_those_in_use() {
        let now = Instant::now();
        let mut outbox = filled(1);
        let held = outbox.transmit(now).expect("sent").packet_id;
        for seq in 1..70_000 {
            outbox.push(seq, Bytes::new());
            let packet_id = outbox.transmit(now).expect("sent").packet_id;
            assert_ne!(packet_id, held);
            assert_eq!(outbox.take(packet_id).expect("in flight").0.seq, seq);
        }
    }
}
