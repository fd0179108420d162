//! A small random stream whose numbers stay the same from release to release.

/// SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, and the same numbers for the same seed for
/// ever, which the streams of the usual crates do not promise.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of one device of one seed.
    pub(crate) fn new(seed: u64, device: u32) -> Self {
        let mut random = Self(seed);
        // Through the mixer, so that neighbouring devices and seeds share nothing visible.
        Self(random.next() ^ u64::from(device).wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    /// Uniform over all `u64`.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform over `from..=to`; `from` must not exceed `to`, both within +-2^31.
    pub(crate) fn between(&mut self, from: i32, to: i32) -> i32 {
        let width = i64::from(to) - i64::from(from) + 1;
        let drawn = i64::from(u32::try_from(self.next() >> 32).unwrap_or_default());
        let value = i64::from(from) + ((drawn * width) >> 32);
        i32::try_from(value).unwrap_or(from)
    }

    /// True once in `times` on average.
    pub(crate) fn once_in(&mut self, times: i32) -> bool {
        self.between(1, times) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn every_number_of_a_range_is_drawn_and_none_outside_it() {
        let mut random = Random::new(1, 2);
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            let drawn = random.between(-2, 2);
            seen[usize::try_from(drawn + 2).expect("in range")] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_ne!(Random::new(1, 2).next(), Random::new(1, 3).next());
        assert_eq!(random.between(7, 7), 7);
    }
}
