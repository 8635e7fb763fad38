//! SplitMix64: the same numbers from the same seed, everywhere.

use std::time::Duration;

/// A seeded sequence of numbers.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        let product = u128::from(self.number()) * limit as u128;
        usize::try_from(product >> 64).expect("below a usize")
    }

    /// True in `per_mille` of 1,000 cases. At 0 it takes no number, so that faults that are off change nothing.
    pub(super) fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.below(1_000) < usize::from(per_mille)
    }

    /// From 0 to `longest`.
    pub(super) fn duration(&mut self, longest: Duration) -> Duration {
        let nanos = usize::try_from(longest.as_nanos()).expect("delays are short").saturating_add(1);
        Duration::from_nanos(self.below(nanos) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // The first outputs of SplitMix64 for seed 1234567, as its reference implementation gives them.
        let mut random = Random::new(1_234_567);
        let first = [random.number(), random.number(), random.number()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
