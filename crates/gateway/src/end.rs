//! How a session ends, and who may end it from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use event::v1::DisconnectReason as Reason;
use mqtt::reason;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::unacknowledged::Unsettled;

/// How a session ended.
#[derive(Debug)]
pub(crate) struct End {
    pub reason: Reason,
    /// What was seen, for people.
    pub detail: String,
    /// What an MQTT 5 client is told in DISCONNECT; nothing where it said so itself or cannot hear.
    pub tell: Option<u8>,
    /// The reason code of the client's own DISCONNECT.
    pub client_code: u8,
}

impl End {
    /// An end that the client is told about, with a v5 reason code.
    pub(crate) fn told(reason: Reason, code: u8) -> Self {
        Self { reason, detail: String::new(), tell: Some(code), client_code: 0 }
    }

    /// An end that the client caused or cannot hear of.
    pub(crate) fn silent(reason: Reason) -> Self {
        Self { reason, detail: String::new(), tell: None, client_code: 0 }
    }

    pub(crate) fn because(mut self, detail: &(impl ToString + ?Sized)) -> Self {
        self.detail = detail.to_string();
        self
    }

    /// The client broke the protocol.
    pub(crate) fn protocol(code: u8, detail: &(impl ToString + ?Sized)) -> Self {
        Self::told(Reason::ProtocolError, code).because(detail)
    }

    /// The bytes were no packet.
    pub(crate) fn undecodable(error: &mqtt::DecodeError) -> Self {
        let reason = match error.reason_code() {
            reason::PACKET_TOO_LARGE => Reason::PacketTooLarge,
            _ => Reason::ProtocolError,
        };
        Self::told(reason, error.reason_code()).because(error)
    }

    /// Kafka did not take what this session has to have stored.
    pub(crate) fn not_stored(error: &Unsettled) -> Self {
        Self::told(Reason::StoreUnavailable, reason::SERVER_BUSY).because(error)
    }

    /// The connection broke.
    pub(crate) fn broken(error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::ConnectionReset => Reason::ConnectionReset,
            _ => Reason::ConnectionLost,
        };
        Self::silent(reason).because(error)
    }
}

/// Why a session is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Eviction {
    /// The gateway stops.
    ShuttingDown = 0,
    /// The same device connected again.
    TakenOver = 1,
    /// Its credential is no longer good.
    Revoked = 2,
}

impl Eviction {
    pub(crate) fn end(self) -> End {
        match self {
            Self::ShuttingDown => End::told(Reason::ServerShuttingDown, reason::SERVER_SHUTTING_DOWN),
            Self::TakenOver => End::told(Reason::TakenOver, reason::SESSION_TAKEN_OVER),
            Self::Revoked => End::told(Reason::CredentialsRevoked, reason::NOT_AUTHORIZED),
        }
    }
}

/// Ends one session from outside, once. A clone ends the same session.
#[derive(Clone, Debug)]
pub(crate) struct Evict {
    token: CancellationToken,
    why: Arc<AtomicU8>,
}

impl Evict {
    /// A session that ends with `stop`, or before.
    pub(crate) fn new(stop: &CancellationToken) -> Self {
        Self { token: stop.child_token(), why: Arc::new(AtomicU8::new(Eviction::ShuttingDown as u8)) }
    }

    /// Ends the session; the first reason counts.
    pub(crate) fn evict(&self, why: Eviction) {
        let first = Eviction::ShuttingDown as u8;
        let _was = self.why.compare_exchange(first, why as u8, Ordering::AcqRel, Ordering::Acquire);
        self.token.cancel();
    }

    /// Waits for the end. One future for the life of a connection: registering anew for every packet would cost a lock each.
    pub(crate) fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// Why the session ends.
    pub(crate) fn why(&self) -> Eviction {
        match self.why.load(Ordering::Acquire) {
            1 => Eviction::TakenOver,
            2 => Eviction::Revoked,
            _ => Eviction::ShuttingDown,
        }
    }
}
