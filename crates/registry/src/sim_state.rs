//! The life of a SIM.

use crate::value::choice;

choice! {
    /// What a SIM is there for at a time.
    SimState {
        /// In a box: nothing should use it.
        Inventory = "inventory",
        /// In a device that is being tried.
        Testing = "testing",
        /// In use.
        Live = "live",
        /// Suspended at the carrier for a while.
        Paused = "paused",
        /// Ended at the carrier, for good.
        Retired = "retired",
    }
}

impl SimState {
    /// Where it may go from there.
    pub fn next(self) -> &'static [&'static str] {
        match self {
            Self::Inventory => &["testing", "live", "retired"],
            Self::Testing => &["inventory", "live", "paused", "retired"],
            Self::Live => &["inventory", "paused", "retired"],
            Self::Paused => &["inventory", "live", "retired"],
            // A carrier gives the number to nobody again, and so do we.
            Self::Retired => &[],
        }
    }

    /// Whether it may go there, or is there.
    pub fn may_become(self, next: Self) -> bool {
        self == next || self.next().contains(&next.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn a_retired_sim_stays_retired_and_every_other_can_be_retired() {
        let states = SimState::WORDS.iter().map(|word| SimState::read(word).expect(word));
        for state in states {
            assert!(state.may_become(SimState::Retired));
            assert_eq!(SimState::Retired.may_become(state), state == SimState::Retired);
        }
        assert!(!SimState::Live.may_become(SimState::Testing));
    }
}
