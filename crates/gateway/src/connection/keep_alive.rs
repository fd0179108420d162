//! The keep alive: one and a half times what is in force [MQTT-3.1.2-22]. One timer, armed anew only when it fires, and
//! looked at only then: a packet costs a look at the clock.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

pub(super) struct KeepAlive {
    allowed: Option<Duration>,
    seen_at: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer fires: it is not looked at before.
    armed_for: Instant,
    /// Whom the timer wakes, once it was asked.
    registered: Option<Waker>,
}

impl KeepAlive {
    /// Zero is none.
    pub(super) fn new(keep_alive_s: u16) -> Self {
        let allowed = (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500));
        let seen_at = Instant::now();
        let timer = allowed.map(|allowed| Box::pin(tokio::time::sleep_until(seen_at + allowed)));
        let armed_for = seen_at + allowed.unwrap_or_default();
        Self { allowed, seen_at, timer, armed_for, registered: None }
    }

    pub(super) fn seen(&mut self) {
        self.seen_at = Instant::now();
    }

    /// When the client was last heard.
    pub(super) fn seen_at(&self) -> Instant {
        self.seen_at
    }

    /// Ready when nothing was seen for as long as is allowed; never where no keep alive is in force.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (Some(allowed), Some(timer)) = (self.allowed, &mut self.timer) else {
            return Poll::Pending;
        };
        let waits = self.registered.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if waits && Instant::now() < self.armed_for {
            return Poll::Pending;
        }
        if !waits {
            self.registered = Some(context.waker().clone());
        }
        loop {
            ready!(timer.as_mut().poll(context));
            let due = self.seen_at + allowed;
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
            self.armed_for = due;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_has_one_and_a_half_times_its_keep_alive() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(10);
        tokio::time::advance(Duration::from_secs(9)).await;
        keep_alive.seen();
        poll_fn(|context| keep_alive.poll_over(context)).await;
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(24) && waited < Duration::from_millis(24_100), "{waited:?}");
        let none = tokio::time::timeout(Duration::from_secs(1 << 20), KeepAlive::new(0).over_owned());
        assert!(none.await.is_err(), "zero is no keep alive");
    }

    impl KeepAlive {
        async fn over_owned(mut self) {
            poll_fn(|context| self.poll_over(context)).await;
        }
    }
}
