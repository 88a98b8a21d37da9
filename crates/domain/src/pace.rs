//! How often strangers may make rows.
//!
//! Guesses at secrets have budgets in the database ([`crate::throttle`]), which hold across nodes and restarts: of a guess even the
//! first one too many counts. This is about work. What anybody may begin without having proven who they are (a device's request, a
//! pushed request, a proof of possession, a sign-in by another provider, a registration) makes rows that live for a while, and what matters is how many there are
//! at most. So each node counts in memory: by address prefix, so that one caller leaves room for others, and all together, so
//! that many prefixes fill no database either. What `n` nodes let in is `n` times [`Budget::most_in`] the life of such a row, which
//! is a number, and a small one (`docs/oauth-machines.md` has the table); a commit for each of them would cost more than it saves.
//!
//! A budget of all is one that few could use up for the rest. So what is left of it is shared: who asks gets something only while
//! more is left than their prefix, their site and their network ([`networks_of`]) took lately, all three together. Who took nothing is
//! let in as long as anything is left; who took much stops others of the same kind long before that. A site or network that is
//! alone with its wish may still have most of it: nobody has a fixed part, so nothing is kept for those who do not come.
//!
//! | who takes all that they get, with a burst of 1,000 | has | leaves |
//! |---|---|---|
//! | one site (an IPv6 /48 with its 256 prefixes) | 333 | 667 |
//! | one network (a /32) with any number of sites | 500 | 500 |
//! | 60 prefixes in 60 networks | 16 each at most | 45, for those who took less |
//!
//! What thousands of networks do at once cannot be told from what thousands of people do, and waits like them.
//!
//! Whoever proved who they are is not counted: behind them stands somebody whom an operator let in. A client that registered itself and
//! that nobody vouches for is not such a one, whatever it proves.
use crate::model::Client;
use crate::throttle::{Budget, LEVELS, NetworkKey, is_this_machine, networks_of};
use alloc::{collections::BTreeMap, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::Millis;

/// What strangers may begin, each from one address prefix and all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From one address prefix.
    pub each: Budget,
    /// From all of them.
    pub all: Budget,
}

/// Requests of devices (RFC 8628 §3.1).
pub const DEVICES: Pace = Pace { each: of(60, 2_000), all: of(1_000, 100) };
/// Registrations (RFC 7591).
pub const REGISTRATIONS: Pace = Pace { each: of(20, 60_000), all: of(200, 10_000) };
/// Pushed requests (RFC 9126).
pub const PUSHED: Pace = Pace { each: of(60, 2_000), all: of(1_000, 50) };
/// Sign-ins by another provider.
pub const UPSTREAM: Pace = Pace { each: of(60, 2_000), all: of(1_000, 50) };
/// Links to a new password that are asked for.
pub const RECOVERY: Pace = Pace { each: of(60, 2_000), all: of(1_000, 50) };
/// Proofs of possession at the token endpoint (RFC 9449 §5). Those of requests that came to something are given back.
pub const PROOFS: Pace = Pace { each: of(200, 500), all: of(20_000, 2) };
/// Sign-ups from this machine itself ([`is_this_machine`]), which have no prefix. Those from elsewhere have budgets in the database
/// ([`crate::throttle::Attempt::of_sign_up`]).
pub const SIGN_UPS_HERE: Pace = Pace { each: of(1_000, 1_000), all: of(1_000, 1_000) };

/// The most prefixes, sites and networks that are remembered, of each kind of wish. Beyond that those who took the least are
/// forgotten, which is to their good.
pub const MOST_KNOWN: usize = 30_000;

const fn of(burst: i64, every: Millis) -> Budget {
    Budget { burst, every }
}

impl Pace {
    /// What was taken counts half after so long: half of what the empty budget of all takes to be full again. Who keeps taking at
    /// a part of its pace then has taken about that part of its burst lately.
    const fn half_life(self) -> Millis {
        self.all.burst * self.all.every / 2
    }
}

/// Whether a client is counted as a stranger. `proven`: it proved by a secret or key who it is.
pub const fn is_stranger(client: &Client, proven: bool) -> bool {
    !proven || client.profile.is_stranger()
}

/// Takes one. `full_at` is when the budget is full again if nothing more is taken, by the same monotonic clock as `now`, in
/// milliseconds. The answer is when it is full afterwards; or, when there is none left, in how many milliseconds there is one.
///
/// # Errors
/// How long to wait.
pub const fn take(budget: Budget, full_at: i64, now: i64) -> Result<i64, Millis> {
    let owed = if full_at > now { full_at } else { now };
    let next = owed.saturating_add(budget.every);
    let most = now.saturating_add(budget.burst.saturating_mul(budget.every));
    if next > most { Err(next - most) } else { Ok(next) }
}

/// Gives one back: what it was taken for came to something.
pub const fn give_back(budget: Budget, full_at: i64) -> i64 {
    full_at.saturating_sub(budget.every)
}

/// How many are left.
const fn left(budget: Budget, full_at: i64, now: i64) -> i64 {
    let owed = if full_at > now { full_at - now } else { 0 };
    budget.burst - owed.div_euclid(budget.every) - if owed.rem_euclid(budget.every) > 0 { 1 } else { 0 }
}

/// What counts as one in [`Taken::parts`].
const ONE: i64 = 1024;

/// What a prefix, site or network took lately: what is longer ago counts less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Taken {
    /// When its own budget is full again; of prefixes only.
    full_at: i64,
    /// What it took lately as of `at`, in parts of [`ONE`].
    parts: i64,
    at: i64,
}

impl Taken {
    /// What it took lately as of `now`. Between one half-life and the next it goes straight down.
    const fn lately(self, half_life: Millis, now: i64) -> i64 {
        let passed = if now > self.at { now - self.at } else { 0 };
        let halves = passed.div_euclid(half_life);
        let parts = if halves < 63 { self.parts >> halves } else { 0 };
        parts - (parts * passed.rem_euclid(half_life)).div_euclid(2 * half_life)
    }
    const fn take(self, half_life: Millis, now: i64) -> Self {
        Self { parts: self.lately(half_life, now) + ONE, at: now, ..self }
    }
    const fn give_back(self) -> Self {
        Self { parts: if self.parts > ONE { self.parts - ONE } else { 0 }, ..self }
    }
}

/// What stands between a caller and what they want.
#[derive(Debug, Clone, Copy)]
struct Standing {
    pace: Pace,
    all: i64,
    /// Of its prefix, site and network; `None` for this machine itself.
    of: Option<[Taken; LEVELS]>,
}

impl Standing {
    /// Whether there is one for them: in the budget of all, in their own, and in what is left of all for such as they are.
    fn fits(&self, now: i64) -> bool {
        let left = left(self.pace.all, self.all, now);
        let took = |of: [Taken; LEVELS]| of.iter().map(|one| one.lately(self.pace.half_life(), now)).sum::<i64>();
        left > 0 && self.of.is_none_or(|of| take(self.pace.each, of[0].full_at, now).is_ok() && took(of) < left * ONE)
    }
    /// After how many milliseconds there is one, when nobody takes anything meanwhile.
    fn wait(&self, now: i64) -> Millis {
        // Time alone takes nothing from anybody, so between what does not fit and what fits there is one border.
        // After so many half-lives nothing of what anybody took is left.
        let (mut not, mut fits) = (0, (63 * self.pace.half_life()).max(self.pace.each.every));
        while fits - not > 1 {
            let middle = not + (fits - not) / 2;
            if self.fits(now + middle) { fits = middle } else { not = middle }
        }
        fits
    }
}

/// What strangers took, of one kind.
#[derive(Debug, Clone)]
pub struct Strangers {
    pace: Pace,
    most: usize,
    all: i64,
    known: BTreeMap<NetworkKey, Taken>,
}

impl Strangers {
    /// Nobody took anything yet.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, most: MOST_KNOWN, all: i64::MIN, known: BTreeMap::new() }
    }
    /// The same, and no more than so many are remembered.
    pub fn remembering(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Takes one for a caller at this address. `now` is a monotonic clock, in milliseconds.
    ///
    /// Who comes from this machine itself ([`is_this_machine`]) is nobody in particular and draws on the budget of all alone.
    ///
    /// # Errors
    /// In how many milliseconds there is one; nothing was taken.
    pub fn take(&mut self, ip: Option<IpAddr>, now: i64) -> Result<(), Millis> {
        let keys = (!is_this_machine(ip)).then(|| networks_of(ip));
        let of = keys.map(|keys| keys.map(|key| self.known.get(&key).copied().unwrap_or_default()));
        let standing = Standing { pace: self.pace, all: self.all, of };
        if !standing.fits(now) {
            return Err(standing.wait(now));
        }
        // It fits, so neither of them is refused.
        self.all = take(self.pace.all, self.all, now).unwrap_or(self.all);
        for (level, (key, taken)) in keys.into_iter().flatten().zip(of.into_iter().flatten()).enumerate() {
            let full_at = if level == 0 { take(self.pace.each, taken.full_at, now) } else { Ok(taken.full_at) };
            let taken = Taken { full_at: full_at.unwrap_or(taken.full_at), ..taken };
            self.known.insert(key, taken.take(self.pace.half_life(), now));
        }
        self.forget(now);
        Ok(())
    }

    /// Gives one back.
    pub fn give_back(&mut self, ip: Option<IpAddr>) {
        self.all = give_back(self.pace.all, self.all);
        if is_this_machine(ip) {
            return;
        }
        for key in networks_of(ip) {
            if let Some(taken) = self.known.get_mut(&key) {
                *taken = Taken { full_at: give_back(self.pace.each, taken.full_at), ..taken.give_back() };
            }
        }
    }

    /// How many are remembered.
    pub fn remembered(&self) -> usize {
        self.known.len()
    }

    /// When there are too many: those who owe nothing, and of the others the half that took the least.
    fn forget(&mut self, now: i64) {
        if self.known.len() <= self.most {
            return;
        }
        let half_life = self.pace.half_life();
        self.known.retain(|_, one| one.full_at > now || one.lately(half_life, now) > 0);
        if self.known.len() <= self.most {
            return;
        }
        let mut took: Vec<_> = self.known.iter().map(|(key, one)| (one.lately(half_life, now), *key)).collect();
        took.sort_unstable();
        for (_, key) in took.iter().take(took.len() - self.most / 2) {
            self.known.remove(key);
        }
    }
}
