//! The keep alive: one and a half times what is in force [MQTT-3.1.2-22]. One timer, armed anew only when it fires.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

pub(super) struct KeepAlive {
    allowed: Option<Duration>,
    seen_at: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl KeepAlive {
    /// Zero is none.
    pub(super) fn new(keep_alive_s: u16) -> Self {
        let allowed = (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500));
        let seen_at = Instant::now();
        let timer = allowed.map(|allowed| Box::pin(tokio::time::sleep_until(seen_at + allowed)));
        Self { allowed, seen_at, timer }
    }

    pub(super) fn seen(&mut self) {
        self.seen_at = Instant::now();
    }

    /// When the client was last heard.
    pub(super) fn seen_at(&self) -> Instant {
        self.seen_at
    }

    /// Waits until nothing was seen for as long as is allowed; for ever where no keep alive is in force. Cancel safe.
    pub(super) async fn over(&mut self) {
        let (Some(allowed), Some(timer)) = (self.allowed, &mut self.timer) else {
            return std::future::pending().await;
        };
        loop {
            timer.as_mut().await;
            let due = self.seen_at + allowed;
            if Instant::now() >= due {
                return;
            }
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_has_one_and_a_half_times_its_keep_alive() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(10);
        tokio::time::advance(Duration::from_secs(9)).await;
        keep_alive.seen();
        keep_alive.over().await;
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(24) && waited < Duration::from_millis(24_100), "{waited:?}");
        let none = tokio::time::timeout(Duration::from_secs(1 << 20), KeepAlive::new(0).over_owned());
        assert!(none.await.is_err(), "zero is no keep alive");
    }

    impl KeepAlive {
        async fn over_owned(mut self) {
            self.over().await;
        }
    }
}
