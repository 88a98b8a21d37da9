//! How often strangers may make rows.
//!
//! Guesses at secrets have budgets in the database ([`crate::throttle`]), which hold across nodes and restarts: of a guess even the
//! first one too many counts. This is about work. What anybody may begin without having proven who they are (a device's request, a
//! pushed request, a proof of possession, a sign-in by another provider, a registration) makes rows that live for a while, and what matters is how many there are
//! at most. So each node counts in memory: by address prefix, so that one caller leaves room for others, and all together, so
//! that many prefixes fill no database either. What `n` nodes let in is `n` times [`Budget::most_in`] the life of such a row, which
//! is a number, and a small one (`docs/oauth-machines.md` has the table); a commit for each of them would cost more than it saves.
//!
//! Whoever proved who they are is not counted: behind them stands somebody whom an operator let in. A client that registered itself and
//! that nobody vouches for is not such a one, whatever it proves.
use crate::model::Client;
use crate::throttle::Budget;
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
/// Proofs of possession at the token endpoint (RFC 9449 §5). Those of requests that came to something are given back.
pub const PROOFS: Pace = Pace { each: of(200, 500), all: of(20_000, 2) };

const fn of(burst: i64, every: Millis) -> Budget {
    Budget { burst, every }
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
