//! One connection, from its first byte to its `Disconnected` event.
//!
//! The loop picks one [`Action`] at a time (every wait in [`Connection::select`] is cancel safe) and
//! [`Connection::apply`] does it. Reading stops while the connection has as many publishes in flight as it may, and
//! while one waits for room in the window of the process: the device feels that as a full socket.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bus::{DeliveryError, Permit};
use bytes::BytesMut;
use event::v1::DisconnectReason as Reason;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::edge::Peer;
use crate::handshake::{self, Accepted, Answered, HandshakeError};
use crate::mqtt::{Ack, Goodbye, Packet, Publish, QoS, Wire};
use crate::record::{self, Record};
use crate::session::Session;
use crate::unacknowledged::{Answer, Settled, Unacknowledged};
use crate::{Shared, presence};

/// Room for the next packets: a heartbeat or two. Grows by itself for larger ones.
const INBOX_BYTES: usize = 1024;

/// How a session ended.
#[derive(Debug)]
pub(crate) struct End {
    pub reason: Reason,
    pub detail: String,
    goodbye: Option<Goodbye>,
}

impl End {
    fn new(reason: Reason, goodbye: impl Into<Option<Goodbye>>) -> Self {
        Self { reason, detail: String::new(), goodbye: goodbye.into() }
    }

    fn because(mut self, detail: &(impl ToString + ?Sized)) -> Self {
        self.detail = detail.to_string();
        self
    }
}

/// Serves one connection from its handshake to its last packet. Ends by itself, when another connection takes the device over,
/// or on `stop`. What comes back is the session that was, if there was one, and how it ended: to be told by
/// [`presence::disconnected`].
pub(crate) async fn serve<S>(
    mut stream: S,
    peer: Peer,
    shared: &Shared,
    stop: CancellationToken,
) -> Option<(Session, End)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let peer = peer.address;
    let end = stop.child_token();
    let Accepted { mut session, wire, inbox, outbox } = match greet(&mut stream, peer, shared, &end).await {
        Ok(accepted) => accepted,
        Err(error) => {
            shared.meter.refused(error.reason());
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "no session");
            return None;
        }
    };
    shared.meter.sessions.increment(1);
    let mut connection = Connection {
        stream,
        wire,
        inbox,
        outbox,
        idle: Idle::new(session.keep_alive_s),
        session: &mut session,
        shared,
        unacknowledged: Unacknowledged::default(),
        parked: None,
        draining: false,
    };
    let ended = match connection.announce(&stop, &end).await {
        Ok(()) => connection.run(&stop, &end).await,
        Err(ended) => ended,
    };
    connection.say_goodbye(&ended).await;
    drop(connection);
    shared.directory.leave(&session.device_id, session.id);
    shared.meter.sessions.decrement(1);
    shared.meter.ended(ended.reason);
    if !presence::is_ordinary(ended.reason) {
        tracing::info!(
            device_id = %session.device_id, session_id = %session.id, %peer,
            reason = event::disconnect_reason_name(ended.reason), detail = ended.detail, "session ended"
        );
    }
    Some((session, ended))
}

async fn greet<S>(
    stream: &mut S,
    peer: SocketAddr,
    shared: &Shared,
    end: &CancellationToken,
) -> Result<Accepted, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting = tokio::select! {
        () = end.cancelled() => return Err(HandshakeError::Closed),
        greeting = handshake::read(stream, &shared.config) => greeting?,
    };
    let enter = |device_id: &_, id, at| shared.directory.enter(device_id, id, at, end.clone());
    match greeting.answer(peer, &shared.config, enter)? {
        Answered::Accepted(accepted) => Ok(accepted),
        Answered::Refused { outbox, error } => {
            let within = Duration::from_millis(shared.config.write_timeout_ms.into());
            // Best effort: the client may be gone.
            let _unheard = tokio::time::timeout(within, stream.write_all(&outbox)).await;
            Err(error)
        }
    }
}

struct Connection<'a, S> {
    stream: S,
    wire: Wire,
    inbox: BytesMut,
    outbox: BytesMut,
    idle: Idle,
    session: &'a mut Session,
    shared: &'a Shared,
    unacknowledged: Unacknowledged,
    parked: Option<Parked>,
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
    /// Nothing came for as long as the keep alive allows.
    Idle,
    /// The session was taken over, or the gateway stops.
    Ended,
}

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Sends the session's `Connected` event: the first of what waits for Kafka.
    async fn announce(&mut self, stop: &CancellationToken, end: &CancellationToken) -> Result<(), End> {
        let connected = tokio::select! {
            () = end.cancelled() => return Err(asked_to_end(stop)),
            connected = presence::connected(self.session, self.shared) => connected,
        };
        let delivery = connected
            .map_err(|error| End::new(Reason::StoreUnavailable, Goodbye::ServerBusy).because(&error))?;
        self.unacknowledged.push(delivery, Answer::Nothing);
        Ok(())
    }

    /// Goes on until the session ends.
    async fn run(&mut self, stop: &CancellationToken, end: &CancellationToken) -> End {
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
                return asked_to_end(stop);
            }
            let action = self.select(end).await;
            done = self.apply(action, stop);
        }
    }

    /// Waits for what comes first. Cancel safe.
    async fn select(&mut self, end: &CancellationToken) -> Action {
        let may_read = self.may_read();
        if may_read {
            self.inbox.reserve(INBOX_BYTES);
        }
        tokio::select! {
            // In this order: a flood of packets does not hold up a take-over, and a client whose socket was not read
            // for a while is heard before it counts as idle.
            biased;
            () = end.cancelled(), if !self.draining => Action::Ended,
            settled = self.unacknowledged.next(), if !self.unacknowledged.is_empty() => Action::Settled(settled),
            permit = admitted(&mut self.parked), if self.parked.is_some() => Action::Admitted(permit),
            received = self.stream.read_buf(&mut self.inbox), if may_read => Action::Received(received),
            () = self.idle.elapsed(), if may_read => Action::Idle,
        }
    }

    fn may_read(&self) -> bool {
        !self.draining && self.parked.is_none() && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.unacknowledged.len() < usize::from(self.shared.config.in_flight_per_connection_max)
    }

    fn apply(&mut self, action: Action, stop: &CancellationToken) -> Result<(), End> {
        match action {
            Action::Received(Ok(0)) => Err(End::new(Reason::ConnectionLost, None)),
            Action::Received(Ok(_)) => {
                self.idle.seen();
                self.take_packets()
            }
            Action::Received(Err(error)) => Err(End::new(Reason::ConnectionLost, None).because(&error)),
            Action::Settled(settled) => {
                self.settle(settled)?;
                while let Some(settled) = self.unacknowledged.try_next() {
                    self.settle(settled)?;
                }
                self.take_packets()
            }
            Action::Admitted(permit) => {
                if let Some(Parked { record, answer, .. }) = self.parked.take() {
                    self.produce(permit, &record, Some(answer))?;
                }
                self.take_packets()
            }
            Action::Idle => Err(End::new(Reason::KeepAliveTimeout, Goodbye::KeepAliveTimeout)),
            Action::Ended if stop.is_cancelled() => {
                self.draining = true;
                Ok(())
            }
            Action::Ended => Err(asked_to_end(stop)),
        }
    }

    /// Takes every whole packet out of the inbox, while there is room for what it may bring.
    fn take_packets(&mut self) -> Result<(), End> {
        while self.may_read() {
            let before = self.inbox.len();
            let packet = self.wire.next(&mut self.inbox).map_err(|error| {
                let reason = match error.goodbye() {
                    Goodbye::PacketTooLarge => Reason::PacketTooLarge,
                    _ => Reason::ProtocolError,
                };
                End::new(reason, error.goodbye()).because(&error)
            })?;
            self.session.traffic.bytes_in += (before - self.inbox.len()) as u64;
            match packet {
                Some(packet) => self.take(packet)?,
                None => break,
            }
        }
        Ok(())
    }

    fn take(&mut self, packet: Packet) -> Result<(), End> {
        let answered = match packet {
            Packet::Publish(publish) => return self.take_publish(&publish),
            Packet::PingRequest => self.wire.pingresp(&mut self.outbox),
            Packet::Disconnect => return Err(End::new(Reason::Client, None)),
            Packet::Subscribe { packet_id, filters } => {
                self.wire.suback_refused(packet_id, filters, &mut self.outbox)
            }
            Packet::Unsubscribe { packet_id, filters } => {
                self.wire.unsuback(packet_id, filters, &mut self.outbox)
            }
            Packet::Connect(_) => {
                // [MQTT-3.1.0-2]
                return Err(
                    End::new(Reason::ProtocolError, Goodbye::ProtocolError).because("a second CONNECT")
                );
            }
            Packet::Unexpected(name) => {
                let ended = End::new(Reason::ProtocolError, Goodbye::ProtocolError);
                return Err(ended.because(&format_args!("unexpected {name}")));
            }
        };
        answered.map_err(|error| End::new(Reason::ProtocolError, None).because(&error))
    }

    fn take_publish(&mut self, publish: &Publish) -> Result<(), End> {
        self.shared.meter.publishes.increment(1);
        self.session.traffic.messages_in += 1;
        let answer = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce(packet_id) => {
                Some(Answer::Puback { packet_id, ack: Ack::Stored, received_at: Instant::now() })
            }
            // CONNACK said Maximum QoS 1. [MQTT-3.2.2-11]
            QoS::ExactlyOnce => return Err(not_supported(Goodbye::QosNotSupported, "QoS 2")),
        };
        if publish.topic_alias {
            // CONNACK said Topic Alias Maximum 0. [MQTT-3.2.2-18]
            return Err(not_supported(Goodbye::TopicAliasInvalid, "a topic alias"));
        }
        if publish.retain && self.wire.is_v5() {
            // CONNACK said Retain Available 0. [MQTT-3.2.2-14] In 3.1.1 nothing can say so: the message is taken,
            // there is nobody to keep it for.
            return Err(not_supported(Goodbye::RetainNotSupported, "a retained message"));
        }
        match record::of(publish, self.session, self.shared) {
            Ok(record) => self.admit(record, answer),
            Err(refused) => match answer {
                Some(Answer::Puback { packet_id, received_at, .. }) if self.wire.is_v5() => {
                    self.unacknowledged.push_ready(Answer::Puback {
                        packet_id,
                        ack: Ack::NotAuthorized,
                        received_at,
                    });
                    Ok(())
                }
                // 3.1.1 cannot refuse one message: "either acknowledge or close". [MQTT-3.3.5-2]
                _ => Err(End::new(Reason::NotAuthorized, Goodbye::NotAuthorized).because(&refused)),
            },
        }
    }

    /// Sends a record on its way if there is room in the window of the process; else QoS 1 waits and QoS 0 is shed.
    fn admit(&mut self, record: Record, answer: Option<Answer>) -> Result<(), End> {
        let bytes = record.payload.len() + self.session.device_id.as_str().len();
        let window = self.shared.producer.window();
        let answer = match answer {
            Some(Answer::Puback { packet_id, received_at, .. }) => {
                Some(Answer::Puback { packet_id, ack: record.ack, received_at })
            }
            other => other,
        };
        match (window.try_reserve(bytes), answer) {
            (Some(permit), answer) => self.produce(permit, &record, answer),
            (None, None) => {
                self.shared.meter.shed.increment(1);
                Ok(())
            }
            (None, Some(answer)) => {
                self.shared.meter.window_full.increment(1);
                self.parked = Some(Parked { record, answer, room: Box::pin(window.clone().reserve(bytes)) });
                Ok(())
            }
        }
    }

    fn produce(&mut self, permit: Permit, record: &Record, answer: Option<Answer>) -> Result<(), End> {
        let key = self.session.device_id.as_str();
        let sent = self.shared.producer.send(permit, record.stream, key, &record.payload);
        let delivery =
            sent.map_err(|error| End::new(Reason::StoreUnavailable, Goodbye::ServerBusy).because(&error))?;
        if let Some(answer) = answer {
            self.unacknowledged.push(delivery, answer);
        }
        Ok(())
    }

    /// Answers a publish whose delivery is known. What Kafka did not take is never acknowledged.
    fn settle(&mut self, (answer, outcome): Settled) -> Result<(), End> {
        let meter = &self.shared.meter;
        let Answer::Puback { packet_id, ack, received_at } = answer else {
            // A session that is not in the history does not go on.
            return outcome.map_err(|error| not_stored(&error));
        };
        let ack = match outcome {
            Ok(()) => ack,
            Err(error) => {
                meter.unacknowledged.increment(1);
                if !self.wire.is_v5() {
                    return Err(not_stored(&error));
                }
                Ack::NotStored
            }
        };
        match ack {
            Ack::Stored => meter.acknowledged.increment(1),
            Ack::StoredAsDeadLetter => meter.acknowledged_dead_letters.increment(1),
            Ack::NotAuthorized | Ack::NotStored => {}
        }
        meter.puback.record(received_at.elapsed());
        let written = self.wire.puback(packet_id, ack, &mut self.outbox);
        written.map_err(|error| End::new(Reason::ProtocolError, None).because(&error))
    }

    /// Writes what is to be said, within the time that a client has to take it.
    async fn flush(&mut self) -> Result<(), End> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        self.session.traffic.bytes_out += self.outbox.len() as u64;
        let within = Duration::from_millis(self.shared.config.write_timeout_ms.into());
        match tokio::time::timeout(within, self.stream.write_all_buf(&mut self.outbox)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::new(Reason::ConnectionLost, None).because(&error)),
            Err(_elapsed) => Err(End::new(Reason::WriteTimeout, None)),
        }
    }

    async fn say_goodbye(&mut self, ended: &End) {
        if let Some(goodbye) = ended.goodbye
            && self.wire.disconnect(goodbye, &mut self.outbox).is_ok()
        {
            // Best effort: the client may be gone.
            let _unheard = self.flush().await;
        }
        let _unheard = self.stream.shutdown().await;
    }
}

/// Why a session is ended from outside.
fn asked_to_end(stop: &CancellationToken) -> End {
    if stop.is_cancelled() {
        End::new(Reason::ServerShuttingDown, Goodbye::ServerShuttingDown)
    } else {
        End::new(Reason::TakenOver, Goodbye::TakenOver)
    }
}

fn not_supported(goodbye: Goodbye, what: &'static str) -> End {
    End::new(Reason::NotSupported, goodbye).because(what)
}

fn not_stored(error: &DeliveryError) -> End {
    End::new(Reason::StoreUnavailable, Goodbye::ServerBusy).because(error)
}

async fn admitted(parked: &mut Option<Parked>) -> Permit {
    match parked {
        Some(parked) => parked.room.as_mut().await,
        None => std::future::pending().await,
    }
}

/// The keep alive: one and a half times what CONNECT said (MQTT-3.1.2-22). One timer, armed anew only when it fires.
struct Idle {
    allowed: Option<Duration>,
    seen_at: tokio::time::Instant,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(keep_alive_s: u16) -> Self {
        let allowed = (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500));
        let seen_at = tokio::time::Instant::now();
        Self {
            allowed,
            seen_at,
            timer: Box::pin(tokio::time::sleep_until(seen_at + allowed.unwrap_or_default())),
        }
    }

    fn seen(&mut self) {
        self.seen_at = tokio::time::Instant::now();
    }

    /// Waits until nothing was seen for as long as is allowed; for ever where no keep alive is in force. Cancel safe.
    async fn elapsed(&mut self) {
        let Some(allowed) = self.allowed else {
            return std::future::pending().await;
        };
        loop {
            self.timer.as_mut().await;
            let due = self.seen_at + allowed;
            if tokio::time::Instant::now() >= due {
                return;
            }
            self.timer.as_mut().reset(due);
        }
    }
}
