//! A small random stream whose numbers stay the same from release to release: a seed in a report still means something
//! a year later.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform over `least..=most`, near enough: the ranges here are far below 2^32.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// Uniform over `-most..=most`.
    pub(crate) fn signed(&mut self, most: u32) -> i64 {
        let drawn = self.between(0, u64::from(most) * 2);
        i64::try_from(drawn).unwrap_or_default() - i64::from(most)
    }

    /// An index into so many; 0 where there are none.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        let last = u64::try_from(count.saturating_sub(1)).unwrap_or_default();
        usize::try_from(self.between(0, last)).unwrap_or_default()
    }

    /// One of these, which must not be none.
    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.index(all.len())]
    }

    /// True once in `times` on average.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.between(1, times) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn the_stream_of_a_seed_is_fixed_and_ranges_hold() {
        let mut random = Random::new(0);
        assert_eq!(random.next(), 0xE220_A839_7B1D_CDAF, "the first number of the published algorithm");
        let mut seen = [false; 3];
        for _ in 0..200 {
            seen[random.index(3)] = true;
            assert!(random.signed(5).abs() <= 5);
        }
        assert_eq!(seen, [true; 3]);
    }
}
