//! How fast one connection may publish: a bucket of messages and one of bytes. A client that is faster is slowed (its
//! socket is not read until the bucket has filled again), never cut off, and loses nothing.

use std::time::Duration;

use tokio::time::Instant;

/// A rate and how much may come at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    per_second: u32,
    burst: u32,
    /// When the bucket is full again. Never in the past by more than it can hold.
    full_at: Instant,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second, burst, full_at: now }
    }

    pub(crate) fn take(&mut self, count: u64, now: Instant) {
        let spent = Duration::from_secs_f64(count_f64(count) / f64::from(self.per_second));
        self.full_at = self.full_at.max(now) + spent;
    }

    /// When something may be taken again; `None` for now.
    pub(crate) fn open_at(&self, now: Instant) -> Option<Instant> {
        let span = Duration::from_secs_f64(f64::from(self.burst) / f64::from(self.per_second));
        let open_at = self.full_at.checked_sub(span)?;
        (open_at > now).then_some(open_at)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a packet's size is far below 2^52")]
fn count_f64(count: u64) -> f64 {
    count as f64
}

/// Which limit slows a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slowed {
    Messages,
    Bytes,
}

/// The two buckets of a connection.
#[derive(Debug)]
pub(crate) struct Pace {
    messages: Bucket,
    bytes: Bucket,
}

impl Pace {
    pub(crate) fn new(config: &crate::Config) -> Self {
        let now = Instant::now();
        Self {
            messages: Bucket::new(config.publish_rate_max, config.publish_burst_max, now),
            bytes: Bucket::new(config.publish_bytes_rate_max, config.publish_bytes_burst_max, now),
        }
    }

    /// A publish of that many bytes came.
    pub(crate) fn take(&mut self, bytes: u64, now: Instant) {
        self.messages.take(1, now);
        self.bytes.take(bytes, now);
    }

    /// Until when nothing may be read, and why; `None` while there is room.
    pub(crate) fn slowed_until(&self, now: Instant) -> Option<(Instant, Slowed)> {
        let messages = self.messages.open_at(now).map(|at| (at, Slowed::Messages));
        let bytes = self.bytes.open_at(now).map(|at| (at, Slowed::Bytes));
        messages.into_iter().chain(bytes).max_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 5, start);
        for _ in 0..5 {
            assert_eq!(bucket.open_at(start), None);
            bucket.take(1, start);
        }
        assert_eq!(bucket.open_at(start), None, "exactly the burst was taken");
        bucket.take(1, start);
        let open_at = bucket.open_at(start).expect("empty");
        assert_eq!(open_at - start, Duration::from_millis(100));
        assert_eq!(bucket.open_at(open_at), None);
    }

    #[test]
    fn idle_time_fills_the_bucket_and_no_more() {
        let start = Instant::now();
        let later = start + Duration::from_secs(3_600);
        let mut bucket = Bucket::new(10, 5, start);
        for _ in 0..6 {
            bucket.take(1, later);
        }
        assert!(bucket.open_at(later).is_some(), "an hour of silence is worth one burst, not thousands");
    }
}
