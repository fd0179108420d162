//! How a session tells the connection that holds it: there is something to send, or it is yours no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::Notify;

const ALIVE: u8 = 0;
const TAKEN_OVER: u8 = 1;
const LOST: u8 = 2;

/// Shared by a link and the session that it holds. Raised and lowered under the broker's lock, read without it.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    fate: AtomicU8,
    /// Whether there may be something to send. A level, not an edge: a wait that was cancelled misses nothing.
    raised: AtomicBool,
    notify: Notify,
}

/// The session's end. Dropped, however that comes, it leaves a dead link that knows.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Signal>);

impl Signal {
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(crate) fn lower(&self) {
        self.raised.store(false, Ordering::Release);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.fate.load(Ordering::Acquire) == ALIVE
    }

    pub(crate) fn is_taken_over(&self) -> bool {
        self.fate.load(Ordering::Acquire) == TAKEN_OVER
    }

    /// Waits until it is raised or dead. One task waits at a time; cancel safe.
    pub(crate) async fn wait(&self) {
        while self.is_alive() && !self.raised.load(Ordering::Acquire) {
            self.notify.notified().await;
        }
    }

    fn end(&self, fate: u8) {
        // The first to say so is right.
        if self.fate.compare_exchange(ALIVE, fate, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.notify.notify_one();
        }
    }
}

impl Hold {
    pub(crate) fn new() -> (Self, Arc<Signal>) {
        let signal = Arc::new(Signal::default());
        (Self(signal.clone()), signal)
    }

    pub(crate) fn raise(&self) {
        self.0.raise();
    }

    pub(crate) fn lower(&self) {
        self.0.lower();
    }

    /// A newer connection has the session.
    pub(crate) fn taken_over(self) {
        self.0.end(TAKEN_OVER);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.end(LOST);
    }
}
