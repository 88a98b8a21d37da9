//! How often strangers may make rows: a small budget for each address prefix, kept in memory by each node.
//!
//! Guesses at secrets have budgets in the database, which hold across nodes and restarts. This is about work: what anybody may
//! begin without having proven anything (a device's request, a registration) makes rows that live for a while, and what one
//! prefix can pile up is bounded by burst and pace, whoever it is.
use portcullis_domain::throttle::prefix_of;
use portcullis_feed::Mono;
use portcullis_wire::Millis;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// The most prefixes that are remembered. When as many owe something, others must wait.
pub const MAX_PREFIXES: usize = 10_000;

/// Budgets of one kind.
#[derive(Debug)]
pub struct Pace {
    burst: i64,
    every: Millis,
    most: usize,
    full_at: Mutex<BTreeMap<[u8; 17], Mono>>,
}

impl Pace {
    /// So many at once from one prefix, and one more each time that `every` milliseconds have passed.
    pub const fn new(burst: i64, every: Millis) -> Self {
        Self { burst, every, most: MAX_PREFIXES, full_at: Mutex::new(BTreeMap::new()) }
    }

    /// Takes one from the budget of this address; `false`: there is none left.
    pub fn take(&self, ip: Option<IpAddr>, now: Mono) -> bool {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = prefix_of(ip);
        if full_at.len() >= self.most && !full_at.contains_key(&prefix) {
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= self.most {
                return false;
            }
        }
        let owed = full_at.get(&prefix).map_or(now, |at| if *at > now { *at } else { now });
        let next = owed.plus(self.every);
        if next > now.plus(self.burst * self.every) {
            return false;
        }
        full_at.insert(prefix, next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_its_burst_and_its_pace() {
        let pace = Pace::new(3, 1000);
        let ip = |text: &str| Some(text.parse().unwrap());
        let at = |ms: i64| Mono(1_000_000 + ms);
        assert!((0..3).all(|_| pace.take(ip("192.0.2.1"), at(0))));
        assert!(!pace.take(ip("192.0.2.200"), at(999)), "one prefix");
        assert!(pace.take(ip("198.51.100.1"), at(0)), "another one");
        assert!(pace.take(ip("192.0.2.1"), at(1000)));
        assert!(!pace.take(ip("192.0.2.1"), at(1001)));
        assert!((0..3).all(|_| pace.take(ip("192.0.2.1"), at(100_000))), "it is full again, and no fuller");
        assert!(!pace.take(ip("192.0.2.1"), at(100_000)));
    }

    #[test]
    fn as_many_prefixes_as_there_may_be() {
        let pace = Pace { most: 2, ..Pace::new(1, 1000) };
        let ip = |n: u8| Some(IpAddr::from([10, 0, n, 1]));
        assert!(pace.take(ip(1), Mono(0)) && pace.take(ip(2), Mono(500)));
        assert!(!pace.take(ip(3), Mono(999)), "both owe something");
        assert!(pace.take(ip(3), Mono(1000)), "one is full again, and forgotten");
    }
}
