//! One connection, from its CONNECT to its `Disconnected` event.
//!
//! The loop picks one [`Action`] at a time (every wait in [`Connection::select`] is cancel safe) and
//! [`Connection::apply`] does it. Reading stops while the connection has as many publishes in flight as it may, while
//! one waits for room in the window of the process, and while the client is ahead of its rate: the device feels each of
//! them as a full socket.
//!
//! Memory: what a waiting device holds is this struct and its task. Buffers, the link to the broker, topic aliases and
//! further timers are made when they are needed, and buffers go as soon as they are empty.

mod inbound;
mod keep_alive;
mod outbound;
mod subscriptions;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use access::Kind;
use broker::{Attach, Expiry, Link};
use bus::Permit;
use event::v1::DisconnectReason as Reason;
use mqtt::{Frame, Packet, Version, reason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::edge::Peer;
use crate::end::{End, Evict, Evicted, Eviction};
use crate::handshake::{self, Accepted, HandshakeError, Limits};
use crate::inbox::Inbox;
use crate::pace::{Pace, Slowed};
use crate::record::{Record, Telemetry};
use crate::session::Session;
use crate::unacknowledged::{Answer, Settled, Unacknowledged};
use crate::{Shared, presence};
use inbound::AliasesIn;
use keep_alive::KeepAlive;
use outbound::AliasesOut;

/// Serves one connection from its first byte to its last packet. Ends by itself, when it is evicted, or on `stop`. What comes back is
/// the session that was, if a device had one, and how it ended: to be told by [`presence::disconnected`].
#[expect(clippy::manual_async_fn, reason = "what comes by value stands twice in the future of an async fn")]
pub(crate) fn serve<S>(
    stream: S,
    mut peer: Peer,
    shared: &Shared,
    stop: &CancellationToken,
) -> impl Future<Output = Option<(Session, End)>> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    async move {
        // In a box, for the handshake is over after a moment and its room is not the connection's to keep.
        let mut connection = match Box::pin(open(stream, &peer, shared, stop)).await {
            Ok(connection) => connection,
            Err(error) => {
                shared.meter.refused(error.reason());
                tracing::debug!(peer = %peer.address, error = &error as &dyn std::error::Error, "no session");
                return None;
            }
        };
        peer.forget_certificate();
        shared.meter.sessions.increment(1);
        shared.sessions.fetch_add(1, Ordering::Relaxed);
        let ended = connection.serve().await;
        let session = connection.session;
        shared.directory.leave(&session.key, session.id);
        shared.meter.sessions.decrement(1);
        shared.sessions.fetch_sub(1, Ordering::Relaxed);
        shared.meter.ended(ended.reason);
        if !presence::is_ordinary(ended.reason) {
            tracing::info!(
                device_id = %session.device_id, session_id = %session.id, peer = %peer.address,
                reason = event::disconnect_reason_name(ended.reason), detail = ended.detail, "session ended"
            );
        }
        (session.grant.principal.kind == Kind::Device).then_some((session, ended))
    }
}

/// Brings a connection through its handshake. It stands in a box from then on: its future need not hold it.
async fn open<'a, S>(
    mut stream: S,
    peer: &Peer,
    shared: &'a Shared,
    stop: &CancellationToken,
) -> Result<Box<Connection<'a, S>>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let evict = Evict::default();
    let accepted = handshake::greet(&mut stream, peer, shared, &evict, stop).await?;
    Ok(Box::new(Connection::new(stream, accepted, shared, evict)))
}

struct Connection<'a, S> {
    stream: S,
    version: Version,
    inbox: Inbox,
    outbox: Vec<u8>,
    session: Session,
    telemetry: Telemetry,
    shared: &'a Shared,
    evict: Evict,
    evicted: Evicted,
    keep_alive: KeepAlive,
    /// When the credential ends, where it does.
    credential_ends: Option<Pin<Box<Sleep>>>,
    pace: Pace,
    /// Until when nothing is read, as the client is ahead of its rate.
    slowed: Option<Pin<Box<Sleep>>>,
    unacknowledged: Unacknowledged,
    parked: Option<Box<Parked>>,
    /// Subscriptions, QoS 2 and what else outlives a packet; a device that only publishes QoS 0 and 1 has none.
    link: Option<Link>,
    limits: Limits,
    aliases_in: AliasesIn,
    aliases_out: AliasesOut,
    /// Nothing is read any more; what is in flight is still answered.
    draining: bool,
}

/// A record that waits for room in the window of the process.
struct Parked {
    record: Record,
    answer: Answer,
    room: Pin<Box<dyn Future<Output = Permit> + Send>>,
}

enum Action {
    /// Bytes came in; zero is the end of the stream.
    Received(std::io::Result<usize>),
    /// The oldest publish in flight is settled.
    Settled(Settled),
    /// There is room for the parked record.
    Admitted(Permit),
    /// The broker may have something for this client.
    Outgoing,
    /// The client's bucket has filled again.
    Refilled,
    /// Nothing came for as long as the keep alive allows.
    Idle,
    /// The credential is over.
    CredentialEnded,
    /// Somebody else ends the session: see [`Evict::why`].
    Evicted,
}

impl<'a, S> Connection<'a, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn new(stream: S, accepted: Accepted, shared: &'a Shared, evict: Evict) -> Self {
        let Accepted { session, version, inbox, outbox, link, limits } = accepted;
        let ends = session.grant.expires_at.map(|at| {
            let left = at.duration_since(std::time::SystemTime::now()).unwrap_or_default();
            Box::pin(tokio::time::sleep(left))
        });
        Self {
            stream,
            version,
            inbox,
            outbox,
            telemetry: Telemetry::of(&session, shared),
            keep_alive: KeepAlive::new(session.keep_alive_s),
            session,
            shared,
            evicted: evict.evicted(),
            evict,
            credential_ends: ends,
            pace: Pace::new(&shared.config),
            slowed: None,
            unacknowledged: Unacknowledged::default(),
            parked: None,
            link,
            aliases_in: AliasesIn::default(),
            aliases_out: AliasesOut::new(limits.topic_alias_max),
            limits,
            draining: false,
        }
    }

    /// From the first `Connected` event to the last packet.
    async fn serve(&mut self) -> End {
        let ended = match self.announce().await {
            Ok(()) => self.run().await,
            Err(ended) => ended,
        };
        self.say_goodbye(&ended).await;
        if let Some(link) = self.link.take() {
            link.detach(outbound::detach(&ended, self.limits.session_expiry));
        }
        ended
    }

    /// Sends the session's `Connected` event: the first of what waits for Kafka. A service is no device and has none.
    async fn announce(&mut self) -> Result<(), End> {
        if self.session.grant.principal.kind != Kind::Device {
            return Ok(());
        }
        let connected = tokio::select! {
            () = &mut self.evicted => return Err(self.evict.why().end()),
            connected = Box::pin(presence::connected(&self.session, self.shared)) => connected,
        };
        let delivery = connected
            .map_err(|error| End::told(Reason::StoreUnavailable, reason::SERVER_BUSY).because(&error))?;
        self.unacknowledged.push(delivery, Answer::Connected, 0);
        if self.link.is_some() {
            self.offer_commands();
        }
        Ok(())
    }

    /// Goes on until the session ends.
    async fn run(&mut self) -> End {
        // A client need not wait for CONNACK before it publishes.
        let mut done = self.take_packets();
        loop {
            if let Err(ended) = done {
                return ended;
            }
            if let Err(ended) = self.flush().await {
                return ended;
            }
            if self.draining && self.unacknowledged.is_empty() && self.parked.is_none() {
                return self.evict.why().end();
            }
            let action = self.select().await;
            done = self.apply(action);
        }
    }

    /// Waits for what comes first. Cancel safe.
    async fn select(&mut self) -> Action {
        let (may_read, draining) = (self.may_read(), self.draining);
        let Self {
            stream,
            inbox,
            evicted,
            keep_alive,
            credential_ends,
            slowed,
            unacknowledged,
            parked,
            link,
            ..
        } = self;
        // In this order: a flood of packets does not hold up a take-over; one whose socket was not read for a while is
        // heard before it counts as idle. Polled by hand, as this is done for every wake: no wait is made anew for it.
        let own = poll_fn(|context| {
            if !draining && Pin::new(&mut *evicted).poll(context).is_ready() {
                return Poll::Ready(Action::Evicted);
            }
            if let Poll::Ready(settled) = unacknowledged.poll_next(context) {
                return Poll::Ready(Action::Settled(settled));
            }
            if let Some(parked) = parked
                && let Poll::Ready(permit) = parked.room.as_mut().poll(context)
            {
                return Poll::Ready(Action::Admitted(permit));
            }
            if may_read && let Poll::Ready(received) = inbox.poll_read(Pin::new(&mut *stream), context) {
                return Poll::Ready(Action::Received(received));
            }
            if is_due(slowed, context) {
                return Poll::Ready(Action::Refilled);
            }
            if is_due(credential_ends, context) {
                return Poll::Ready(Action::CredentialEnded);
            }
            if may_read {
                ready!(keep_alive.poll_over(context));
                return Poll::Ready(Action::Idle);
            }
            Poll::Pending
        });
        match link {
            Some(link) if !draining => tokio::select! {
                // A client that is sent more than it can take is heard all the same.
                biased;
                action = own => action,
                () = link.ready() => Action::Outgoing,
            },
            _ => own.await,
        }
    }

    fn may_read(&self) -> bool {
        !self.draining && self.parked.is_none() && self.slowed.is_none() && self.has_room()
    }

    fn has_room(&self) -> bool {
        let config = &self.shared.config;
        self.unacknowledged.len() < usize::from(config.in_flight_per_connection_max)
            && self.unacknowledged.bytes() < config.in_flight_bytes_per_connection_max as usize
    }

    fn apply(&mut self, action: Action) -> Result<(), End> {
        match action {
            Action::Received(Ok(0)) => Err(End::silent(Reason::ConnectionLost)),
            Action::Received(Ok(_)) => {
                self.keep_alive.seen();
                self.take_packets()?;
                // One that never stops talking is still told what it asked for.
                self.take_outgoing()
            }
            Action::Received(Err(error)) => Err(End::broken(&error)),
            Action::Settled(settled) => {
                self.settle(settled)?;
                while let Some(settled) = self.unacknowledged.try_next() {
                    self.settle(settled)?;
                }
                self.take_packets()
            }
            Action::Admitted(permit) => {
                if let Some(parked) = self.parked.take() {
                    let Parked { record, answer, .. } = *parked;
                    self.produce(permit, record, Some(answer))?;
                }
                self.take_packets()
            }
            Action::Outgoing => self.take_outgoing(),
            Action::Refilled => {
                self.slowed = None;
                self.take_packets()
            }
            Action::Idle => Err(End::told(Reason::KeepAliveTimeout, reason::KEEP_ALIVE_TIMEOUT)),
            Action::CredentialEnded => Err(End::told(Reason::CredentialsExpired, reason::NOT_AUTHORIZED)),
            Action::Evicted if self.evict.why() == Eviction::ShuttingDown => {
                self.draining = true;
                Ok(())
            }
            Action::Evicted => Err(self.evict.why().end()),
        }
    }

    /// Takes every whole packet out of the inbox, while there is room for what it may bring.
    fn take_packets(&mut self) -> Result<(), End> {
        if self.inbox.is_empty() {
            return Ok(());
        }
        let bytes = self.inbox.take();
        let mut used = 0;
        let taken = loop {
            if !self.may_read() {
                break Ok(());
            }
            match mqtt::frame(&bytes[used..], self.shared.config.packet_bytes_max) {
                Ok(None) => break Ok(()),
                Ok(Some(frame)) => {
                    used += frame.len;
                    self.session.traffic.bytes_in += frame.len as u64;
                    if let Err(ended) = self.take(&frame) {
                        break Err(ended);
                    }
                }
                Err(error) => break Err(End::undecodable(&error)),
            }
        };
        self.inbox.restore(bytes, used);
        taken
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<(), End> {
        let packet = mqtt::packet(frame, self.version).map_err(|error| End::undecodable(&error))?;
        match packet {
            Packet::Publish(publish) => {
                self.take_publish(&publish, frame.len)?;
                self.keep_pace(frame.len);
            }
            Packet::Pubrel(ack) => self.take_pubrel(ack)?,
            Packet::Puback(ack) => self.take_puback(ack)?,
            Packet::Pubrec(ack) => self.take_pubrec(ack)?,
            Packet::Pubcomp(ack) => self.take_pubcomp(ack)?,
            Packet::Subscribe(subscribe) => self.take_subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => self.take_unsubscribe(&unsubscribe),
            Packet::Pingreq => mqtt::encode::pingresp(&mut self.outbox),
            Packet::Disconnect(disconnect) => return Err(self.left(disconnect)),
            Packet::Auth(_) => {
                // No method was offered in CONNECT, so none can go on. [MQTT-4.12.0-6]
                return Err(End::protocol(reason::PROTOCOL_ERROR, "AUTH without an authentication method"));
            }
        }
        Ok(())
    }

    /// The client said goodbye.
    fn left(&mut self, disconnect: mqtt::Disconnect) -> End {
        if let Some(expiry_s) = disconnect.session_expiry_s {
            // A session that was to end with the connection cannot be made to last now. [MQTT-3.14.2-2]
            if self.limits.session_expiry == Expiry::AtEnd && expiry_s > 0 {
                return End::protocol(
                    reason::PROTOCOL_ERROR,
                    "a session expiry in DISCONNECT and none in CONNECT",
                );
            }
            self.limits.session_expiry = self.shared.session_expiry(expiry_s);
        }
        let reason = match disconnect.reason {
            reason::DISCONNECT_WITH_WILL => Reason::ClientWithWill,
            _ => Reason::Client,
        };
        End { client_code: disconnect.reason, ..End::silent(reason) }
    }

    /// Counts a publish against the client's rate.
    fn keep_pace(&mut self, bytes: usize) {
        let seen_at = self.keep_alive.seen_at();
        self.pace.take(bytes as u64, seen_at);
        // The clock is asked only where it matters.
        if self.pace.slowed_until(seen_at).is_none() {
            return;
        }
        if let Some((until, why)) = self.pace.slowed_until(Instant::now()) {
            match why {
                Slowed::Messages => self.shared.meter.slowed_messages.increment(1),
                Slowed::Bytes => self.shared.meter.slowed_bytes.increment(1),
            }
            self.slowed = Some(Box::pin(tokio::time::sleep_until(until)));
        }
    }

    /// The link to the broker, made when it is first needed.
    fn link(&mut self) -> Result<&mut Link, broker::AttachError> {
        if self.link.is_none() {
            let attach = Attach {
                clean_start: true,
                expiry: Expiry::AtEnd,
                will: None,
                receive_max: self.limits.receive_max,
            };
            let (link, _none) = self.shared.broker.attach(&self.session.key, attach)?;
            self.link = Some(link);
        }
        match &mut self.link {
            Some(link) => Ok(link),
            None => unreachable!("it was made above"),
        }
    }

    /// Writes what is to be said, within the time that a client has to take it.
    async fn flush(&mut self) -> Result<(), End> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let outbox = std::mem::take(&mut self.outbox);
        self.session.traffic.bytes_out += outbox.len() as u64;
        let within = Duration::from_millis(self.shared.config.write_timeout_ms.into());
        let mut written = pin!(async {
            self.stream.write_all(&outbox).await?;
            self.stream.flush().await
        });
        // Mostly the socket takes it at once, and then no timer is made.
        let at_once = poll_fn(|context| match written.as_mut().poll(context) {
            Poll::Ready(written) => Poll::Ready(Some(written)),
            Poll::Pending => Poll::Ready(None),
        });
        let written = match at_once.await {
            Some(written) => Ok(written),
            None => Box::pin(tokio::time::timeout(within, written)).await,
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::broken(&error)),
            Err(_elapsed) => Err(End::silent(Reason::WriteTimeout)),
        }
    }

    async fn say_goodbye(&mut self, ended: &End) {
        if let Some(code) = ended.tell
            && self.version.is_v5()
        {
            let why = self
                .limits
                .problem_information
                .then_some(ended.detail.as_str())
                .filter(|why| !why.is_empty());
            mqtt::encode::disconnect(code, why, self.limits.packet_bytes_max, &mut self.outbox);
        }
        // Best effort: the client may be gone. PUBACKs that were made before the end are not lost with it.
        let _unheard = self.flush().await;
        let within = Duration::from_millis(self.shared.config.write_timeout_ms.into());
        let _unheard = Box::pin(tokio::time::timeout(within, self.stream.shutdown())).await;
    }
}

fn is_due(timer: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> bool {
    timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready())
}

/// What one connection holds beside its task.
#[cfg(test)]
pub(crate) const fn bytes() -> usize {
    size_of::<Connection<'_, crate::edge::Stream>>()
}
