//! Ctrl-C and SIGTERM.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

/// How often a wait looks at the flag.
const POLL: Duration = Duration::from_millis(50);

/// Whether somebody asked this program to stop. All clones are one.
///
/// A second signal does no more than the first: everything that is waited for has a deadline.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

/// The error of what was cut short by a signal.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::error::Error for Interrupted {}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl Stop {
    /// From now on SIGINT and SIGTERM set the flag, and do nothing else.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once somebody asked: for the steps of a start, where everything is dropped on the way out.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        if self.is_asked() { Err(Interrupted) } else { Ok(()) }
    }

    /// Waits, no longer than until somebody asks.
    pub(crate) fn pause(&self, length: Duration) {
        let end = Instant::now() + length;
        while !self.is_asked() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(POLL));
        }
    }
}
