//! The only real clock and the only real randomness of the server. Everything else takes them as arguments; `clippy.toml` and
//! `xtask tidy` see to it.
#![allow(clippy::disallowed_methods, reason = "this is the one file that makes the real clock and the real randomness")]

use portcullis_domain::Chance;
use portcullis_feed::Mono;
use portcullis_wire::Time;
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall time: on an embedded database, the database's time.
pub fn wall() -> Time {
    let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(_) => 0, // a clock before 1970 is no clock; tokens then end at once, which is safe
    };
    Time(ms)
}

/// Monotonic time that counts suspension (`CLOCK_BOOTTIME`), in milliseconds.
pub fn mono() -> Mono {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Mono(t.tv_sec * 1000 + t.tv_nsec / 1_000_000)
}

/// Microseconds of the same clock, for metrics.
pub fn mono_us() -> i64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    t.tv_sec * 1_000_000 + t.tv_nsec / 1000
}

/// The operating system's randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealChance;

/// Fills `out` with random bytes. A system without randomness cannot go on: the process ends with the system's words.
pub fn fill(out: &mut [u8]) {
    if let Err(error) = getrandom::fill(out) {
        tracing::error!(%error, "the operating system gives no randomness");
        std::process::abort();
    }
}

impl Chance for RealChance {
    fn bits(&mut self) -> u128 {
        let mut bytes = [0; 16];
        fill(&mut bytes);
        u128::from_be_bytes(bytes)
    }
}
