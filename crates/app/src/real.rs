//! The only real clock and the only real randomness of the server. Everything else takes them as arguments; `clippy.toml` and
//! `xtask tidy` see to it.
#![allow(clippy::disallowed_methods, reason = "this is the one file that makes the real clock and the real randomness")]

use portcullis_domain::Chance;
use portcullis_feed::Mono;
use portcullis_wire::Time;
use std::cell::RefCell;
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

/// The operating system's randomness, a thread at a time.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealChance;

/// Fills `out` with random bytes. A system without randomness cannot go on: the process ends with the system's words.
pub fn fill(out: &mut [u8]) {
    if let Err(error) = getrandom::fill(out) {
        tracing::error!(%error, "the operating system gives no randomness");
        std::process::abort();
    }
}

/// Random bytes that were fetched at once, for ids and lives: a call of the system for each would cost a hundredth of a refresh.
/// Secrets, keys and salts are filled by [`fill`] alone.
struct Drawn {
    bytes: [u8; 512],
    left: usize,
}

impl Drawn {
    /// The next sixteen; no trace of them stays here.
    fn next(&mut self) -> u128 {
        if self.left < 16 {
            fill(&mut self.bytes);
            self.left = self.bytes.len();
        }
        let mut next = [0; 16];
        let place = &mut self.bytes[self.left - 16..self.left];
        next.copy_from_slice(place);
        place.fill(0);
        self.left -= 16;
        u128::from_be_bytes(next)
    }
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; 512], left: 0 }) };
}

impl Chance for RealChance {
    fn bits(&mut self) -> u128 {
        DRAWN.with_borrow_mut(Drawn::next)
    }
    /// Secrets are not in memory before they are used.
    fn secret(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        fill(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_bits_are_given_twice_and_none_stay() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..1000).map(|_| RealChance.bits()).collect::<Vec<_>>())).collect();
        let all: BTreeSet<u128> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.len(), 4000);
        let mut drawn = Drawn { bytes: [0; 512], left: 0 };
        assert!((0..32).all(|_| drawn.next() != 0));
        assert_eq!((drawn.left, drawn.bytes), (0, [0; 512]));
        let left = || DRAWN.with_borrow(|drawn| drawn.left);
        RealChance.bits();
        let before = left();
        assert_ne!(RealChance.secret(), RealChance.secret());
        assert_eq!(left(), before, "a secret came from the buffer");
    }
}
