//! Commits offsets without holding up the thread that polls.
//!
//! The client has commits that block until Kafka has answered, and commits whose outcome nobody learns (its callback is
//! not served by the event interface that the Rust client polls). The protocol of the writer needs both: the outcome,
//! and a thread that goes on reading. So a thread of its own makes the blocking ones, one request for all that waits.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::{Commit, CommitError, Lane};

/// Requests that wait. The writer has one a partition under way, most of them joined into one request.
const WAITING_MAX: usize = 1_024;

/// The thread, and what waits for it.
pub(crate) struct Committer {
    requests: Option<SyncSender<Vec<Commit>>>,
    under_way: Arc<UnderWay>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct UnderWay {
    count: Mutex<usize>,
    none: Condvar,
}

impl UnderWay {
    fn change(&self, change: impl FnOnce(&mut usize)) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut count);
        if *count == 0 {
            self.none.notify_all();
        }
    }
}

impl Committer {
    /// Starts the thread. `commit` blocks until Kafka has answered; `done` hears of each outcome. The thread ends when
    /// this is dropped, after the commit it is at.
    pub(crate) fn start(
        commit: impl Fn(&[Commit]) -> Result<(), CommitError> + Send + 'static,
        done: impl Fn(Vec<Lane>, Result<(), CommitError>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (requests, waiting) = sync_channel(WAITING_MAX);
        let under_way = Arc::new(UnderWay::default());
        let thread = std::thread::Builder::new().name("commits".into()).spawn({
            let under_way = under_way.clone();
            move || serve(&waiting, &under_way, &commit, &done)
        })?;
        Ok(Self { requests: Some(requests), under_way, thread: Some(thread) })
    }

    /// Hands a request over.
    pub(crate) fn request(&self, commits: Vec<Commit>) -> Result<(), CommitError> {
        let Some(requests) = &self.requests else {
            return Err(CommitError("the committing thread has ended".into()));
        };
        self.under_way.change(|count| *count += 1);
        requests.try_send(commits).map_err(|error| {
            self.under_way.change(|count| *count -= 1);
            CommitError(match error {
                TrySendError::Full(_) => format!("{WAITING_MAX} commits wait already"),
                TrySendError::Disconnected(_) => "the committing thread has ended".into(),
            })
        })
    }

    /// Blocks until nothing is under way: as long as the client tries to reach Kafka.
    pub(crate) fn settle(&self) {
        let mut count = self.under_way.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            count = self.under_way.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told by its hook.
            let _panicked = thread.join();
        }
    }
}

fn serve(
    waiting: &Receiver<Vec<Commit>>,
    under_way: &UnderWay,
    commit: &impl Fn(&[Commit]) -> Result<(), CommitError>,
    done: &impl Fn(Vec<Lane>, Result<(), CommitError>),
) {
    while let Ok(mut commits) = waiting.recv() {
        let mut joined = 1;
        while let Ok(more) = waiting.try_recv() {
            commits.extend(more);
            joined += 1;
        }
        let outcome = commit(&commits);
        done(commits.into_iter().map(|commit| commit.lane).collect(), outcome);
        under_way.change(|count| *count -= joined);
    }
}
