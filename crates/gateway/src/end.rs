//! How a session ends, and who may end it from outside.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use event::v1::DisconnectReason as Reason;
use futures_util::task::AtomicWaker;
use mqtt::reason;

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
    ShuttingDown = 1,
    /// The same device connected again.
    TakenOver = 2,
    /// Its credential is no longer good.
    Revoked = 3,
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
///
/// One number and one waker, and no place in a tree of tokens: each connection has one, and looks at it whenever it wakes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evict(Arc<Called>);

#[derive(Debug, Default)]
struct Called {
    /// [`STAYS`] or an [`Eviction`].
    why: AtomicU8,
    waiting: AtomicWaker,
}

const STAYS: u8 = 0;

/// How many sessions of this process were ended from outside. As long as it stands still a connection need not look at its
/// own number, which of fifty thousand is rarely in a cache; this one always is.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Evict {
    /// Ends the session; the first reason counts.
    pub(crate) fn evict(&self, why: Eviction) {
        let _was = self.0.why.compare_exchange(STAYS, why as u8, Ordering::AcqRel, Ordering::Acquire);
        // After the number, before the wake: who has not seen this is woken yet.
        CALLS.fetch_add(1, Ordering::AcqRel);
        self.0.waiting.wake();
    }

    /// Waits for the end. One future for the life of a connection: it is the only one that is woken.
    pub(crate) fn evicted(&self) -> Evicted {
        Evicted { evict: self.clone(), registered: None, calls_seen: 0 }
    }

    /// Why the session ends.
    pub(crate) fn why(&self) -> Eviction {
        match self.0.why.load(Ordering::Acquire) {
            2 => Eviction::TakenOver,
            3 => Eviction::Revoked,
            _ => Eviction::ShuttingDown,
        }
    }

    fn is_called(&self) -> bool {
        self.0.why.load(Ordering::Acquire) != STAYS
    }
}

/// Waits until a session is ended from outside. Cancel safe.
#[derive(Debug)]
pub(crate) struct Evicted {
    evict: Evict,
    /// Who is woken. A task has the same waker all its life, so that it registers once and not for every packet.
    registered: Option<Waker>,
    /// [`CALLS`] when the number was last looked at.
    calls_seen: u64,
}

impl Future for Evicted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let calls = CALLS.load(Ordering::Acquire);
        let waits = self.registered.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if waits && calls == self.calls_seen {
            return Poll::Pending;
        }
        if self.evict.is_called() {
            return Poll::Ready(());
        }
        self.calls_seen = calls;
        if waits {
            return Poll::Pending;
        }
        self.evict.0.waiting.register(context.waker());
        self.registered = Some(context.waker().clone());
        // It may have been called while it was registered.
        if self.evict.is_called() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_first_reason_counts_and_whoever_waits_hears_of_it() {
        let evict = Evict::default();
        let mut evicted = evict.evicted();
        assert!((&mut evicted).now_or_never().is_none(), "and then it waits in another task");
        let waits = tokio::spawn(evicted);
        tokio::task::yield_now().await;
        evict.evict(Eviction::TakenOver);
        evict.evict(Eviction::Revoked);
        waits.await.expect("it ends");
        assert_eq!(evict.why(), Eviction::TakenOver);
        evict.evicted().await;
    }
}
