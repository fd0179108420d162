use std::thread;
use std::time::{Duration, Instant};

use crate::{Process, StackError};

/// How long a service may take to start: it takes 0.1 to 3 s on an idle machine, and builds run beside it.
pub(crate) const START_MAX: Duration = Duration::from_secs(90);
/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(1);
/// How long until the next try.
const PAUSE: Duration = Duration::from_millis(25);
/// How much of a log stands in an error.
pub(crate) const TAIL_LINES: usize = 15;

/// Waits until a service answers, and no longer than it lives.
pub(crate) fn until_it_answers(
    process: &mut Process,
    address: &str,
    answers: impl Fn(Duration) -> bool,
) -> Result<(), StackError> {
    let end = Instant::now() + START_MAX;
    while !answers(TRY_MAX) {
        let (name, log) = (process.name().to_owned(), process.log().to_owned());
        if let Some(status) = process.exit_status()? {
            return Err(StackError::Ended { name, status, log, tail: process.log_tail(TAIL_LINES) });
        }
        if Instant::now() >= end {
            let (address, tail) = (address.to_owned(), process.log_tail(TAIL_LINES));
            return Err(StackError::Silent { name, address, waited: START_MAX, log, tail });
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
