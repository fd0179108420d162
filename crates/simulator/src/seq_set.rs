//! A set of sequence numbers that is small when it has few gaps.

use std::ops::Range;

/// Sequence numbers as ranges, sorted, disjoint and not touching: memory grows with the gaps, not with the
/// numbers. A device's acknowledged heartbeats are one range but for what was refused or is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeqSet {
    ranges: Vec<Range<u64>>,
}

impl SeqSet {
    /// Adds a number; `false` if it was there already.
    pub(crate) fn insert(&mut self, seq: u64) -> bool {
        // The first range that does not end before `seq`, so that it holds `seq`, touches it or lies beyond.
        let at = self.ranges.partition_point(|range| range.end < seq);
        match self.ranges.get_mut(at) {
            Some(range) if range.contains(&seq) => return false,
            Some(range) if range.end == seq => range.end += 1,
            Some(range) if range.start == seq + 1 => range.start = seq,
            _ => self.ranges.insert(at, seq..seq + 1),
        }
        if let Some(next) = self.ranges.get(at + 1).filter(|next| next.start == self.ranges[at].end) {
            self.ranges[at].end = next.end;
            self.ranges.remove(at + 1);
        }
        true
    }

    /// Its numbers, rising.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().cloned().flatten()
    }

    /// The numbers below `end` that are not in it, rising.
    pub(crate) fn missing_below(&self, end: u64) -> impl Iterator<Item = u64> {
        let starts = std::iter::once(0).chain(self.ranges.iter().map(|range| range.end));
        let ends = self.ranges.iter().map(|range| range.start).chain(std::iter::once(end));
        starts.zip(ends).flat_map(move |(from, to)| from..to.min(end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::SeqSet;

    proptest! {
        #[test]
        fn it_is_a_set_with_as_many_ranges_as_runs(
            inserts in proptest::collection::vec(0_u64..40, 0..80), end in 0_u64..50,
        ) {
            let (mut set, mut oracle) = (SeqSet::default(), BTreeSet::new());
            for seq in inserts {
                prop_assert_eq!(set.insert(seq), oracle.insert(seq));
            }
            prop_assert!(set.iter().eq(oracle.iter().copied()));
            prop_assert!(set.missing_below(end).eq((0..end).filter(|seq| !oracle.contains(seq))));
            let runs = oracle.iter().filter(|seq| **seq == 0 || !oracle.contains(&(**seq - 1))).count();
            prop_assert_eq!(set.ranges.len(), runs);
        }
    }
}
