//! Chance for jitter, indices and probe tokens: none of it guards a secret.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A small generator (splitmix64), seeded by the operating system unless a seed is given.
pub(crate) struct Dice(u64);

impl Dice {
    /// A generator that nobody can foretell.
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0u8))
    }

    /// The generator of `seed`.
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration below `limit`, to the millisecond.
    pub(crate) fn below(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.roll() % limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_stay_below_their_limit_and_differ() {
        let mut dice = Dice::seeded(1);
        let limit = Duration::from_millis(333);
        let rolls: Vec<_> = (0..100).map(|_| dice.below(limit)).collect();

        assert!(rolls.iter().all(|roll| *roll < limit));
        assert!(rolls.iter().any(|roll| *roll != rolls[0]));
        assert_eq!(dice.below(Duration::ZERO), Duration::ZERO);
    }
}
