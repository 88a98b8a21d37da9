//! Chance from a seed: SplitMix64. The same seed gives the same numbers on every machine.
use portcullis_domain::Chance;

/// A seeded source of numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }
    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number from `from` up to and including `to`.
    pub fn range(&mut self, from: i64, to: i64) -> i64 {
        let span = to.saturating_sub(from).max(0).unsigned_abs() + 1;
        from + (self.word() % span) as i64
    }
    /// An index below `len`; 0 when there is nothing to choose from.
    pub fn index(&mut self, len: usize) -> usize {
        if len == 0 { 0 } else { (self.word() % len as u64) as usize }
    }
    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.word() % 1000 < per_mille
    }
    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
    /// Mostly short, sometimes long: a delay of a network or a disk.
    pub fn delay(&mut self, usual: i64, worst: i64) -> i64 {
        if self.chance(30) { self.range(usual, worst) } else { self.range(0, usual) }
    }
}

impl Chance for Rng {
    fn bits(&mut self) -> u128 {
        (u128::from(self.word()) << 64) | u128::from(self.word())
    }
}
