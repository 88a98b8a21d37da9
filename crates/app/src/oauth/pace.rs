//! What strangers began at this node: the budgets of `domain::pace`, kept in memory.
use portcullis_domain::pace::{Pace, Strangers};
use portcullis_feed::Mono;
use portcullis_wire::Millis;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Budgets of one kind.
#[derive(Debug)]
pub struct Kept(Mutex<Strangers>);

impl Kept {
    /// Full ones.
    pub const fn new(pace: Pace) -> Self {
        Self(Mutex::new(Strangers::new(pace)))
    }

    /// Takes one for a caller at this address.
    ///
    /// # Errors
    /// In how many milliseconds there is one; nothing was taken.
    pub fn take(&self, ip: Option<IpAddr>, Mono(now): Mono) -> Result<(), Millis> {
        self.locked().take(ip, now)
    }

    /// Gives one back.
    pub fn give_back(&self, ip: Option<IpAddr>) {
        self.locked().give_back(ip);
    }

    fn locked(&self) -> MutexGuard<'_, Strangers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_domain::pace::DEVICES;

    /// Many at once get no more than the budget has.
    #[test]
    fn those_who_come_at_once_share_one_budget() {
        let (kept, now) = (Kept::new(DEVICES), Mono(1_000_000));
        let got: usize = std::thread::scope(|scope| {
            let one = || (0..100).filter(|_| kept.take(Some([192, 0, 2, 1].into()), now).is_ok()).count();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(got, 60);
        kept.give_back(Some([192, 0, 2, 1].into()));
        assert!(kept.take(Some([192, 0, 2, 9].into()), now).is_ok(), "what came to something is given back");
        assert_eq!(kept.take(Some([192, 0, 2, 9].into()), now), Err(2_000));
    }
}
