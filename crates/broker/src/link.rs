//! A connection's hold on its session.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mqtt::{PacketId, Qos};

use crate::session::{Completed, Outgoing, Session};
use crate::signal::Signal;
use crate::state::{Attached, State};
use crate::tree::Options;
use crate::{Broker, Detach, Expiry, SubscribeError, WillFate};

/// One connection's session. Dropping it without [`Link::detach`] means that the connection was lost. Where a newer link
/// of the same key was made, or the broker began anew, every call does nothing.
pub struct Link {
    broker: Broker,
    session: u64,
    attachment: u64,
    signal: Arc<Signal>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(broker: Broker, attached: Attached) -> Self {
        let Attached { session, attachment, signal, .. } = attached;
        Self { broker, session, attachment, signal }
    }

    /// Makes a subscription, or replaces that of the same filter, and queues the retained messages that it wants.
    ///
    /// # Errors
    /// Where the client has too many, the filter is too deep, memory is short, or the link is dead.
    pub fn subscribe(
        &mut self,
        filter: &str,
        options: Options,
        subscription_id: Option<u32>,
    ) -> Result<Qos, SubscribeError> {
        let session = self.session;
        let subscribed = self
            .with_state(|state| state.subscribe(session, filter, options, subscription_id, Instant::now()));
        subscribed.unwrap_or(Err(SubscribeError::Gone))
    }

    /// Ends a subscription. Whether there was one.
    pub fn unsubscribe(&mut self, filter: &str) -> bool {
        let session = self.session;
        self.with_state(|state| state.unsubscribe(session, filter)).unwrap_or(false)
    }

    /// Waits until [`Link::next`] may give something, or the link is dead; returns at once for as long as that is so.
    /// Cancel safe.
    pub async fn ready(&self) {
        self.signal.wait().await;
    }

    /// Makes [`Link::ready`] return once more, even where [`Link::next`] has given all.
    pub fn wake(&self) {
        self.signal.raise();
    }

    /// Whether this is the valid link of its session.
    pub fn is_alive(&self) -> bool {
        self.signal.is_alive()
    }

    /// Whether the link is dead because a newer connection of the client came, and not because the broker began anew.
    pub fn is_taken_over(&self) -> bool {
        self.signal.is_taken_over()
    }

    /// The next thing to send: what was not answered in an earlier connection, then releases that are owed, then what
    /// waits, as far as the client's Receive Maximum allows.
    #[expect(clippy::should_implement_trait, reason = "an iterator ends for good, this does not")]
    pub fn next(&mut self) -> Option<Outgoing> {
        self.with_session(|session| session.next(Instant::now()))?
    }

    /// PUBACK came.
    pub fn puback(&mut self, packet_id: PacketId) -> Completed {
        self.with_session(|session| session.puback(packet_id)).unwrap_or_default()
    }

    /// PUBREC came; with success a PUBREL is owed now.
    pub fn pubrec(&mut self, packet_id: PacketId, ok: bool) -> Completed {
        self.with_session(|session| session.pubrec(packet_id, ok)).unwrap_or_default()
    }

    /// PUBCOMP came.
    pub fn pubcomp(&mut self, packet_id: PacketId) -> Completed {
        self.with_session(|session| session.pubcomp(packet_id)).unwrap_or_default()
    }

    /// A message could not be sent, as the client does not take so large ones: it counts as answered.
    pub fn discard(&mut self, packet_id: Option<PacketId>) {
        if let Some(packet_id) = packet_id {
            self.with_session(|session| session.discard(packet_id));
        }
    }

    /// A QoS 2 publish of the client's is taken. True the first time.
    pub fn received(&mut self, packet_id: PacketId) -> bool {
        self.with_session(|session| session.inbound.insert(packet_id)).unwrap_or(false)
    }

    /// Whether a QoS 2 publish of that packet id was taken and not released.
    pub fn is_received(&self, packet_id: PacketId) -> bool {
        self.with_session(|session| session.inbound.contains(&packet_id)).unwrap_or(false)
    }

    /// A QoS 2 publish of the client's is released. Whether there was one.
    pub fn released(&mut self, packet_id: PacketId) -> bool {
        self.with_session(|session| session.inbound.remove(&packet_id)).unwrap_or(false)
    }

    /// QoS 2 publishes that were taken and not released.
    pub fn inbound_len(&self) -> usize {
        self.with_session(|session| session.inbound.len()).unwrap_or(0)
    }

    /// The connection is over.
    pub fn detach(self, how: Detach) {
        // Dropping it finds a dead link then.
        self.leave(how.will, Some(how.expiry));
    }

    fn leave(&self, will: WillFate, expiry: Option<Expiry>) {
        let session = self.session;
        self.with_state(|state| state.detach(session, will, expiry, Instant::now()));
    }

    /// Does something with the state, if this link is the valid one.
    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        if !self.is_alive() {
            return None;
        }
        self.broker.with(|state| {
            // It may have died meanwhile.
            let valid = state
                .sessions
                .get(&self.session)
                .is_some_and(|session| session.attachment == self.attachment && session.is_connected());
            valid.then(|| act(state))
        })?
    }

    fn with_session<T>(&self, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.with_state(|state| state.sessions.get_mut(&self.session).map(act))?
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.leave(WillFate::Publish, None);
    }
}
