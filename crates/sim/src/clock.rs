//! The world's clocks. True time is known to nobody in it: milliseconds since the run began.
use portcullis_feed::Mono;
use portcullis_wire::Time;

/// True time.
pub type At = i64;

/// What date true time 0 has.
const BASE: i64 = 1_800_000_000_000;

/// A clock that tells dates, and may be set.
#[derive(Debug, Clone, Default)]
pub struct Dates {
    offset: i64,
    highest: i64,
    forwarded: i64,
    set_at: Option<At>,
    forward_at: Option<At>,
}

impl Dates {
    /// What it shows.
    pub fn now(&self, at: At) -> Time {
        Time(BASE + at + self.offset)
    }
    /// What it would show had it never been set back.
    pub fn highest(&self, at: At) -> Time {
        Time(BASE + at + self.highest)
    }
    /// Sets it by this much.
    pub fn step(&mut self, by: i64, at: At) {
        self.set_at = Some(at);
        if by > 0 {
            self.forward_at = Some(at);
            self.forwarded += by;
        }
        self.offset += by;
        self.highest = self.highest.max(self.offset);
    }
    /// Whether it was set since then.
    pub fn was_set_since(&self, at: At) -> bool {
        self.set_at.is_some_and(|set| set >= at)
    }
    /// Whether it was set forward since then.
    pub fn was_set_forward_since(&self, at: At) -> bool {
        self.forward_at.is_some_and(|set| set >= at)
    }
    /// By how much it was set forward, all in all.
    pub fn forwarded(&self) -> i64 {
        self.forwarded
    }
    /// By how much it is off.
    pub fn offset(&self) -> i64 {
        self.offset
    }
}

/// A clock for spans, a little too fast or too slow. It may miss a suspension.
#[derive(Debug, Clone)]
pub struct Ticks {
    at: At,
    shown: i64,
    ppm: i64,
}

impl Ticks {
    /// Shows `shown` at `at`, and runs too fast by `ppm` millionths.
    pub fn new(at: At, shown: i64, ppm: i64) -> Self {
        Self { at, shown, ppm }
    }
    /// What it shows.
    pub fn now(&self, at: At) -> Mono {
        let passed = at - self.at;
        Mono(self.shown + passed + (passed * self.ppm).div_euclid(1_000_000))
    }
    /// When it will show `mono` or more.
    pub fn when(&self, mono: Mono) -> At {
        let due = mono.0.saturating_sub(self.shown).max(0);
        let mut at = self.at.saturating_add(due.saturating_mul(1_000_000) / (1_000_000 + self.ppm));
        while self.now(at) < mono {
            at += 1;
        }
        at
    }
    /// It stood still from `from` to `to`.
    pub fn missed(&mut self, from: At, to: At) {
        let shown = self.now(from).0;
        (self.at, self.shown) = (to, shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_and_its_alarm_agree() {
        for ppm in [-9000, 0, 9000] {
            let mut clock = Ticks::new(5, 1_000_000, ppm);
            for at in (5..100_000).step_by(777) {
                assert!(clock.now(clock.when(clock.now(at))) >= clock.now(at));
                assert!(clock.when(clock.now(at)) <= at);
            }
            let before = clock.now(50_000);
            clock.missed(50_000, 60_000);
            assert_eq!(clock.now(60_000), before);
        }
    }
}
