//! What it costs a service to judge a token. The programs of this crate measure; what they share is here: tokens with real signatures, a
//! feed on loopback with as many live entries as wanted, and how a time is taken.
//!
//! Nothing here knows a rule of the product: tokens are judged by `verify` and `tower`, and the feed's frames are made by `feed`.
#![allow(clippy::disallowed_methods, reason = "a measurement: it has clocks and waits")]
pub mod feed;
pub mod tokens;

/// What goes wrong in a measurement ends it.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A seeded source of numbers (splitmix64): each run does the same.
#[derive(Debug, Clone)]
pub struct Seeded(pub u64);

impl Seeded {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 128 bits, as ids have them.
    pub fn bits(&mut self) -> u128 {
        u128::from(self.number()) << 64 | u128::from(self.number())
    }

    /// A place in a list of so many.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.number() % n.max(1) as u64).unwrap_or(0)
    }
}

/// The processor time of this thread so far, in seconds: what others do on the machine does not count.
pub fn thread_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The seconds of processor time that one of `each` takes: the median of `batches` batches.
pub fn median_of(batches: usize, each: usize, mut batch: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..batches)
        .map(|_| {
            let begun = thread_s();
            batch();
            (thread_s() - begun) / each as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Puts the calling thread onto a core, where there is more than one.
pub fn onto(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    // On one core, or where it is not allowed, everything shares.
    let _ = rustix::thread::sched_setaffinity(None, &cores);
}
