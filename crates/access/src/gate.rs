//! A bounded way to something that takes time: so many at once, so many that wait, everybody else is told "busy".

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    workers: Arc<Semaphore>,
}

/// Somebody who waits, and then works. Dropped: the place is free again.
#[derive(Debug)]
pub(crate) struct Pass {
    _place: OwnedSemaphorePermit,
    _worker: OwnedSemaphorePermit,
}

/// The queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Gate {
    pub(crate) fn new(workers: u32, waiting_max: u32) -> Self {
        let semaphore = |permits: u32| {
            Arc::new(Semaphore::new(
                usize::try_from(permits).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS),
            ))
        };
        Self { places: semaphore(waiting_max.saturating_add(workers)), workers: semaphore(workers) }
    }

    /// Waits for a worker, in order of arrival. Cancel safe: who stops waiting gives the place back.
    pub(crate) async fn enter(&self) -> Result<Pass, Full> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Full)?;
        let worker = Arc::clone(&self.workers).acquire_owned().await.map_err(|_| Full)?;
        Ok(Pass { _place: place, _worker: worker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_the_queue_full_is_told_and_who_leaves_makes_room() {
        let gate = Gate::new(1, 1);
        let working = gate.enter().await.expect("free");
        let waiting = gate.enter();
        tokio::pin!(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there is one worker"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(gate.enter().await.map(drop), Err(Full));
        drop(working);
        let next = waiting.await.expect("the worker is free");
        drop(next);
        assert!(gate.enter().await.is_ok());
    }
}
