//! The real clocks and the real randomness: the only file of this crate that reads them (STYLE 2).
use portcullis_feed::Mono;
use portcullis_wire::Time;
use rustix::time::{ClockId, Timespec, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const COUNTS_SUSPENSION: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const COUNTS_SUSPENSION: ClockId = ClockId::Monotonic;

fn ms(t: Timespec) -> i64 {
    t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000)
}

/// The monotonic clock, counting suspension.
pub(crate) fn mono() -> Mono {
    Mono(ms(clock_gettime(COUNTS_SUSPENSION)))
}

fn wall() -> Time {
    Time(ms(clock_gettime(ClockId::Realtime)))
}

/// Both clocks for judging: the wall clock first, so that a pause in between cannot look as if it had outrun the other.
pub(crate) fn clocks() -> (Mono, Time) {
    let wall = wall();
    (mono(), wall)
}

/// Both clocks for anchoring, read within a millisecond of each other unless the machine never lets us.
pub(crate) fn anchor() -> (Mono, Time) {
    let mut read = (mono(), wall());
    for _ in 0..5 {
        if mono().since(read.0) <= 1 {
            break;
        }
        read = (mono(), wall());
    }
    read
}

/// 64 random bits.
#[allow(clippy::disallowed_methods, reason = "this is the one place that makes randomness in this crate")]
pub(crate) fn chance() -> u64 {
    let mut bytes = [0u8; 8];
    // Nonces and jitter only. Without a random source, differing nonces are enough, and the clock gives those.
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => (mono().0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}
