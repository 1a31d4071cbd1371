//! Pseudo-random numbers that are the same in every run.

/// The golden ratio, as a seed.
const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;

/// Pseudo-random numbers (xorshift), the same in every run.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The default sequence.
    pub fn new() -> Self {
        Self(FIRST)
    }

    /// Another sequence for each seed.
    pub fn seeded(seed: u64) -> Self {
        Self(FIRST ^ (seed + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
