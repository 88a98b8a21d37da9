//! What strangers began at this node: the budgets of `domain::pace`, kept in memory by address prefix.
use portcullis_domain::pace::{Pace, give_back, take};
use portcullis_domain::throttle::prefix_of;
use portcullis_feed::Mono;
use portcullis_wire::Millis;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most prefixes that are remembered. When as many owe something, others must wait.
pub const MAX_PREFIXES: usize = 10_000;

/// Budgets of one kind.
#[derive(Debug)]
pub struct Kept {
    pace: Pace,
    most: usize,
    full_at: Mutex<FullAt>,
}

#[derive(Debug, Default)]
struct FullAt {
    each: BTreeMap<[u8; 17], i64>,
    all: i64,
}

impl Kept {
    /// Full ones.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, most: MAX_PREFIXES, full_at: Mutex::new(FullAt { each: BTreeMap::new(), all: 0 }) }
    }

    /// Takes one from the budget of this address, and from that of all.
    ///
    /// # Errors
    /// In how many milliseconds there is one; nothing was taken.
    pub fn take(&self, ip: Option<IpAddr>, Mono(now): Mono) -> Result<(), Millis> {
        let (mut kept, prefix) = (self.locked(), prefix_of(ip));
        if kept.each.len() >= self.most && !kept.each.contains_key(&prefix) {
            kept.each.retain(|_, at| *at > now);
            if kept.each.len() >= self.most {
                let soonest = kept.each.values().min().copied().unwrap_or(now);
                return Err((soonest - now).max(1));
            }
        }
        let each = take(self.pace.each, kept.each.get(&prefix).copied().unwrap_or(now), now)?;
        kept.all = take(self.pace.all, kept.all, now)?;
        kept.each.insert(prefix, each);
        Ok(())
    }

    /// Gives one back.
    pub fn give_back(&self, ip: Option<IpAddr>) {
        let mut kept = self.locked();
        kept.all = give_back(self.pace.all, kept.all);
        if let Some(at) = kept.each.get_mut(&prefix_of(ip)) {
            *at = give_back(self.pace.each, *at);
        }
    }

    fn locked(&self) -> MutexGuard<'_, FullAt> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_domain::throttle::Budget;

    fn kept(each: i64, all: i64) -> Kept {
        let of = |burst| Budget { burst, every: 1000 };
        Kept::new(Pace { each: of(each), all: of(all) })
    }
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }
    fn at(ms: i64) -> Mono {
        Mono(1_000_000 + ms)
    }

    #[test]
    fn a_prefix_has_its_burst_and_its_pace() {
        let kept = kept(3, 100);
        assert!((0..3).all(|_| kept.take(ip("192.0.2.1"), at(0)).is_ok()));
        assert_eq!(kept.take(ip("192.0.2.200"), at(999)), Err(1), "one prefix");
        assert!(kept.take(ip("198.51.100.1"), at(0)).is_ok(), "another one");
        assert!(kept.take(ip("192.0.2.1"), at(1000)).is_ok());
        assert_eq!(kept.take(ip("192.0.2.1"), at(1001)), Err(999));
        assert!((0..3).all(|_| kept.take(ip("192.0.2.1"), at(100_000)).is_ok()), "it is full again, and no fuller");
        assert!(kept.take(ip("192.0.2.1"), at(100_000)).is_err());
    }

    #[test]
    fn all_together_have_theirs() {
        let kept = kept(3, 4);
        assert!((0..4).all(|n| kept.take(Some(IpAddr::from([10, 0, n, 1])), at(0)).is_ok()));
        assert_eq!(kept.take(ip("192.0.2.1"), at(0)), Err(1000));
        kept.give_back(ip("10.0.0.1"));
        assert!((0..1).all(|_| kept.take(ip("192.0.2.1"), at(0)).is_ok()), "what came to something is given back");
        assert!((0..3).all(|n| kept.take(ip("192.0.2.1"), at(5000 + n)).is_ok()), "who was refused paid nothing");
    }

    #[test]
    fn as_many_prefixes_as_there_may_be() {
        let kept = Kept { most: 2, ..kept(1, 100) };
        let ip = |n: u8| Some(IpAddr::from([10, 0, n, 1]));
        assert!(kept.take(ip(1), at(0)).is_ok() && kept.take(ip(2), at(500)).is_ok());
        assert_eq!(kept.take(ip(3), at(999)), Err(1), "both owe something");
        assert!(kept.take(ip(3), at(1000)).is_ok(), "one is full again, and forgotten");
    }
}
