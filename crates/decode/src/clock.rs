//! Whose clock a heartbeat goes by.

use event::Millis;
use event::v1::{Clock, Heartbeat};

const HOUR_MS: i64 = 60 * 60 * 1000;

/// How far a device's time may be from ours and still be believed.
///
/// A time outside is kept as a claim and does not place the heartbeat: one device that believes in 1970 or in 2099
/// would otherwise open partitions and win every "latest" for decades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPolicy {
    /// How long ago a reading may have been taken, in milliseconds, 0 or more. Default 400 days: a device may drain a
    /// buffer that it filled over a winter in a warehouse, and a year of history fits with a month to spare. The
    /// clocks that are truly lost stand at 1970, 1980 (GPS) or their firmware's build date, mostly further away.
    pub past_max_ms: i64,
    /// How far ahead of us a device's clock may be, in milliseconds, 0 or more. Default 24 h: local time sent as UTC
    /// is at most 14 h ahead and is better seen as skew than hidden; nothing honest is a day ahead.
    pub future_max_ms: i64,
}

impl Default for ClockPolicy {
    fn default() -> Self {
        Self { past_max_ms: 400 * 24 * HOUR_MS, future_max_ms: 24 * HOUR_MS }
    }
}

impl ClockPolicy {
    /// Whether a device may have said `claimed_ms` honestly at `received_at`. The bounds themselves are inside.
    fn believes(&self, claimed_ms: i64, received_at: Millis) -> bool {
        let earliest_ms = received_at.0.saturating_sub(self.past_max_ms);
        let latest_ms = received_at.0.saturating_add(self.future_max_ms);
        (earliest_ms..=latest_ms).contains(&claimed_ms)
    }

    /// Decides whose clock a heartbeat goes by that came with `claimed_time_ms` as the device sent it. Without the device's own
    /// `device_time_ms` is left at zero: `identity` knows what names such a heartbeat.
    pub(crate) fn settle(&self, heartbeat: &mut Heartbeat, received_at: Millis) {
        let (clock, device_time_ms, claimed_time_ms) = match heartbeat.claimed_time_ms {
            None => (Clock::Gateway, 0, None),
            Some(claimed) if self.believes(claimed, received_at) => (Clock::Device, claimed, None),
            Some(claimed) => (Clock::Implausible, 0, Some(claimed)),
        };
        heartbeat.set_clock(clock);
        heartbeat.device_time_ms = device_time_ms;
        heartbeat.claimed_time_ms = claimed_time_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(claimed_time_ms: Option<i64>, received_at: i64) -> (Clock, i64, Option<i64>) {
        let mut heartbeat = Heartbeat { claimed_time_ms, ..Heartbeat::default() };
        ClockPolicy { past_max_ms: 100, future_max_ms: 10 }.settle(&mut heartbeat, Millis(received_at));
        (heartbeat.clock(), heartbeat.device_time_ms, heartbeat.claimed_time_ms)
    }

    #[test]
    fn a_plausible_time_places_the_heartbeat_up_to_the_bounds() {
        assert_eq!(settled(Some(900), 1000), (Clock::Device, 900, None));
        assert_eq!(settled(Some(1010), 1000), (Clock::Device, 1010, None));
    }

    #[test]
    fn an_implausible_time_is_kept_as_a_claim() {
        assert_eq!(settled(Some(899), 1000), (Clock::Implausible, 0, Some(899)));
        assert_eq!(settled(Some(1011), 1000), (Clock::Implausible, 0, Some(1011)));
    }

    #[test]
    fn a_missing_time_is_nobodys() {
        assert_eq!(settled(None, 1000), (Clock::Gateway, 0, None));
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        assert_eq!(settled(Some(i64::MAX), i64::MAX), (Clock::Device, i64::MAX, None));
        assert_eq!(settled(Some(i64::MAX), i64::MIN), (Clock::Implausible, 0, Some(i64::MAX)));
    }
}
