//! Where does chance come from? From a seed: the same seed gives the same run on every machine and in every version.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): a few lines that will not change under us, as a crate's default generator may.
#[derive(Debug, Clone, Copy)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of its own for a purpose and a number, so that one use more elsewhere changes nothing here.
    #[must_use]
    pub fn of(seed: u64, purpose: &str, number: u64) -> Self {
        // FNV-1a: any spreading will do, SplitMix64 mixes it.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let name = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
        let mut random = Self(seed ^ name);
        Self(random.next() ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end`, without `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of the remainder is below 2^-32 for all that is asked here.
        self.next().checked_rem(end).unwrap_or_default()
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let spread = longest.saturating_sub(shortest).as_millis();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        shortest + Duration::from_millis(self.below(spread.saturating_add(1)))
    }

    /// One of several; `None` of none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(u64::try_from(of.len()).unwrap_or_default())).ok()?;
        of.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_the_same_run_everywhere() {
        let mut random = Random::new(1_234_567);
        // From the reference implementation.
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        let (mut one, mut other) = (Random::of(1, "shopper", 7), Random::of(1, "shopper", 8));
        assert_ne!(one.next(), other.next());
    }
}
