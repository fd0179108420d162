//! The fleet as a whole: when all of it was online, and the moment at which all of it loses its network.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::report::Milestones;

/// Told what stands, again and again; says when to cut, once.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) milestones: Milestones,
    devices: u64,
    after: Option<Duration>,
    start: Instant,
    cut_at: Option<Instant>,
    /// When connections were cut, and how many reconnects had been counted by then.
    cut: Option<(Instant, u64)>,
}

impl Storm {
    pub(crate) fn new(config: &Config, start: Instant) -> Self {
        Self {
            milestones: Milestones::default(),
            devices: config.devices.into(),
            after: config.reconnect_after,
            start,
            cut_at: None,
            cut: None,
        }
    }

    /// Whether there is nothing left to look for.
    pub(crate) fn is_over(&self) -> bool {
        match self.after {
            None => self.milestones.online_s.is_some(),
            Some(_) => self.milestones.online_again_s.is_some(),
        }
    }

    /// Looks at (devices online, reconnects ever); whether connections are to be cut now.
    pub(crate) fn look(&mut self, (online, reconnects): (u64, u64), now: Instant) -> bool {
        let complete = online == self.devices;
        if complete && self.milestones.online_s.is_none() {
            self.milestones.online_s = Some((now - self.start).as_secs_f64());
            self.cut_at = self.after.map(|after| now + after);
        }
        match self.cut {
            // Devices notice one after another: only reconnects say that all have been away.
            Some((cut, before)) if complete && reconnects >= before + self.devices => {
                self.milestones.online_again_s.get_or_insert((now - cut).as_secs_f64());
            }
            None if self.cut_at.is_some_and(|at| at <= now) => {
                self.cut = Some((now, reconnects));
                return true;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Duration, Instant, Storm};

    #[test]
    fn the_fleet_is_back_only_when_each_device_was_away() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let config = Config {
            reconnect_after: Some(Duration::from_millis(100)),
            ..Config::new(([127, 0, 0, 1], 1883).into(), 2)
        };
        let mut storm = Storm::new(&config, start);
        assert!(!storm.look((1, 0), at(10)));
        assert!(!storm.look((2, 1), at(20)));
        assert_eq!(storm.milestones.online_s, Some(0.02));
        assert!(!storm.look((2, 1), at(119)));
        assert!(storm.look((2, 1), at(120)));
        assert!(!storm.look((2, 1), at(130)), "nobody has noticed yet");
        assert!(!storm.look((2, 2), at(140)) && !storm.is_over());
        assert!(!storm.look((2, 3), at(620)));
        assert_eq!(storm.milestones.online_again_s, Some(0.5));
        assert!(storm.is_over());
    }
}
