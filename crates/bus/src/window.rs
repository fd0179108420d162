//! The window: how much may wait for Kafka, in messages and in bytes, in the whole process.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a record costs beyond its own bytes while it waits: librdkafka's message, the delivery's channel,
/// allocator overhead. Measured high, so that the bound in bytes bounds memory.
const RECORD_OVERHEAD_BYTES: u32 = 600;

/// A limit in two dimensions. Cheap to clone; all clones are one window.
#[derive(Clone, Debug)]
pub struct Window {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    messages_max: u32,
    bytes_max: u32,
}

/// Room for one record. The record carries it; it returns to the window with the delivery report.
#[derive(Debug)]
pub struct Permit {
    _message: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Window {
    /// A window of that size.
    pub fn new(messages_max: u32, bytes_max: u32) -> Self {
        Self {
            messages: Arc::new(Semaphore::new(messages_max as usize)),
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            messages_max,
            bytes_max,
        }
    }

    /// Room for a record of `bytes`, if there is room now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        let message = self.messages.clone().try_acquire_owned().ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(self.cost(bytes)).ok()?;
        Some(Permit { _message: message, _bytes: bytes })
    }

    /// Waits for room, first come first served. Cancel safe, but a cancelled wait loses its place.
    pub async fn reserve(self, bytes: usize) -> Permit {
        let cost = self.cost(bytes);
        let message = acquire(self.messages, 1).await;
        let bytes = acquire(self.bytes, cost).await;
        Permit { _message: message, _bytes: bytes }
    }

    /// Records and bytes that wait now.
    pub fn in_use(&self) -> (usize, usize) {
        (
            self.messages_max as usize - self.messages.available_permits(),
            self.bytes_max as usize - self.bytes.available_permits(),
        )
    }

    /// A record larger than the whole window costs the whole window: it goes alone, and nothing waits for ever.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(RECORD_OVERHEAD_BYTES).min(self.bytes_max)
    }
}

async fn acquire(semaphore: Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
    match semaphore.acquire_many_owned(count).await {
        Ok(permit) => permit,
        Err(_closed) => unreachable!("the window's semaphores are never closed"),
    }
}

#[cfg(test)]
mod tests {
    use super::{RECORD_OVERHEAD_BYTES, Window};

    #[test]
    fn a_permit_returns_to_the_window_when_it_is_dropped() {
        let window = Window::new(2, 10_000);
        let first = window.try_reserve(100);
        assert_eq!(window.in_use(), (1, 100 + RECORD_OVERHEAD_BYTES as usize));
        drop(first);
        assert_eq!(window.in_use(), (0, 0));
    }

    #[test]
    fn the_window_is_full_in_messages_or_in_bytes() {
        let window = Window::new(2, 10_000);
        let (first, second) = (window.try_reserve(1), window.try_reserve(1));
        assert!(first.is_some() && second.is_some() && window.try_reserve(1).is_none());
        drop((first, second));
        let large = window.try_reserve(9_000);
        assert!(large.is_some() && window.try_reserve(1_000).is_none());
        assert_eq!(window.in_use().0, 1, "a refused reservation keeps nothing");
    }

    #[tokio::test]
    async fn a_record_larger_than_the_window_goes_alone() {
        let window = Window::new(10, 10_000);
        let permit = window.clone().reserve(usize::MAX).await;
        assert!(window.try_reserve(0).is_none());
        drop(permit);
        assert!(window.try_reserve(0).is_some());
    }
}
