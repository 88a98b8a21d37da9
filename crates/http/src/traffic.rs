//! Counters of the surface: connections, requests, how long answers took.
use http::Method;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counters of the accept loops.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections dropped because the other side took no bytes for too long.
    pub stalled: AtomicU64,
    /// Connections dropped because the first request did not come in time.
    pub silent: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: AtomicU64,
    /// When the TLS certificate in force expires, in seconds since 1970; 0 without one.
    pub certificate_expires_at_s: AtomicI64,
    /// Handlers that panicked; each answered 503.
    pub panics: AtomicU64,
}

impl Traffic {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Upper bounds of the histogram of answer times, in milliseconds.
pub(crate) const BUCKETS_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 1_000, 5_000];

/// What happened on one route.
#[derive(Debug, Default)]
pub(crate) struct RouteCount {
    /// Answers by the first digit of their status; slot 0 is unused.
    pub(crate) classes: [AtomicU64; 6],
    /// Answers not slower than the bound; the last slot is for all others.
    pub(crate) buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    pub(crate) sum_us: AtomicU64,
}

impl RouteCount {
    fn record(&self, status: u16, took_us: u64) {
        let class = usize::from(status / 100).min(5);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let slot = BUCKETS_MS.iter().position(|ms| took_us <= ms * 1000).unwrap_or(BUCKETS_MS.len());
        self.buckets[slot].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }
}

/// Counts of every route, made once; the map never changes, so nobody waits for anybody.
#[derive(Debug, Default)]
pub struct RouteCounts {
    routes: HashMap<&'static str, Vec<(Method, RouteCount)>>,
    unmatched: RouteCount,
}

impl RouteCounts {
    pub(crate) fn new(list: &[(Method, &'static str)]) -> Self {
        let mut routes: HashMap<&'static str, Vec<(Method, RouteCount)>> = HashMap::new();
        for (method, path) in list {
            routes.entry(path).or_default().push((method.clone(), RouteCount::default()));
        }
        Self { routes, unmatched: RouteCount::default() }
    }

    pub(crate) fn record(&self, method: &Method, path: Option<&str>, status: u16, took_us: u64) {
        let found = path.and_then(|path| self.routes.get(path));
        let found = found.and_then(|methods| methods.iter().find(|(known, _)| known == method));
        found.map_or(&self.unmatched, |(_, count)| count).record(status, took_us);
    }

    /// Every route with its counts, in a fixed order; the last are those that matched none.
    pub(crate) fn all(&self) -> Vec<(&str, &str, &RouteCount)> {
        let each =
            self.routes.iter().flat_map(|(path, methods)| methods.iter().map(move |(m, c)| (m.as_str(), *path, c)));
        let mut all: Vec<_> = each.collect();
        all.sort_by_key(|(method, path, _)| (*path, *method));
        all.push(("", "", &self.unmatched));
        all
    }
}
