//! What callers did, told in one line of JSON.
use std::time::Instant;

/// One caller.
pub struct Ran {
    /// What its chain ended with.
    pub value: String,
    took_us: Vec<u64>,
    /// Why it stopped before its time.
    pub error: Option<String>,
}

impl Ran {
    pub fn new(value: String) -> Self {
        Self { value, took_us: Vec::with_capacity(1 << 16), error: None }
    }

    /// An answer is there.
    pub fn took(&mut self, sent: Instant) {
        self.took_us.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

#[allow(clippy::print_stdout, reason = "the line is the program's result")]
pub fn report(ran: &[Ran], seconds: f64) {
    let mut took_us: Vec<u64> = ran.iter().flat_map(|r| r.took_us.iter().copied()).collect();
    took_us.sort_unstable();
    let at = |percent: usize| took_us.get(took_us.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
    let errors = ran.iter().filter(|r| r.error.is_some()).count();
    let line = serde_json::json!({
        "callers": ran.len(),
        "requests": took_us.len(),
        "errors": errors,
        "first_error": ran.iter().find_map(|r| r.error.as_deref()),
        "seconds": seconds,
        "per_s": took_us.len() as f64 / seconds,
        "p50_us": at(50),
        "p99_us": at(99),
        "max_us": at(100),
    });
    println!("{line}");
}

#[allow(clippy::disallowed_methods, reason = "a measuring program apart from the product: its clock is the machine's")]
pub fn now() -> Instant {
    Instant::now()
}
