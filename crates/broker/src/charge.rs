//! What is held in memory for all clients together, in bytes. What is held carries its [`Charge`], which gives its bytes
//! back when it is dropped, wherever and however that happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::message::Message;

/// The bound, and how much of it is taken.
#[derive(Debug)]
pub(crate) struct Ledger {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// Bytes of the ledger that are taken.
#[derive(Debug)]
pub(crate) struct Charge {
    ledger: Arc<Ledger>,
    bytes: usize,
}

/// A message that waits, for however many clients: charged once.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) message: Arc<Message>,
    _charge: Charge,
}

impl Ledger {
    pub(crate) fn new(bytes_max: u32) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max: bytes_max as usize })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes so many bytes, if there are so many. Only the holder of the broker's lock takes any: between looking and
    /// taking the number can only fall.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if self.bytes().saturating_add(bytes) > self.bytes_max {
            return None;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Charge { ledger: self.clone(), bytes })
    }

    pub(crate) fn hold(self: &Arc<Self>, message: Arc<Message>) -> Option<Arc<Held>> {
        let charge = self.charge(message.cost())?;
        Some(Arc::new(Held { message, _charge: charge }))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
