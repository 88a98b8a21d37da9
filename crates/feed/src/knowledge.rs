//! What a verifier knows at one moment: an immutable value that its request path reads.
use crate::{Mono, RevokedSet};
use alloc::{sync::Arc, vec::Vec};
use portcullis_wire::jws::Jwk;
use portcullis_wire::time::Millis;
use portcullis_wire::{Epoch, LogId, Rev, Time};

/// A time that was true at a moment of the monotonic clock, and moves on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The time.
    pub time: Time,
    /// When it was true.
    pub at: Mono,
}

impl Anchor {
    /// What time it is `now`.
    pub fn at(self, now: Mono) -> Time {
        self.time.plus(now.since(self.at).max(0))
    }
}

/// A proof of freshness (DESIGN §4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Everything committed before this moment is applied.
    pub from: Mono,
    /// It proves nothing at or after this.
    pub until: Mono,
    /// The wall clock when the question was asked: when it outruns the monotonic one, time passed that was not counted.
    pub wall: Anchor,
    /// By how many milliseconds the wall clock may outrun the monotonic one.
    pub tolerance_ms: Millis,
}

impl Lease {
    /// Whether it proves freshness now.
    pub fn holds(&self, now: Mono, wall: Time) -> bool {
        now < self.until && !self.outrun(now, wall)
    }

    /// Whether the wall clock outran the monotonic one since the question: a suspension that was not counted.
    pub fn outrun(&self, now: Mono, wall: Time) -> bool {
        wall.since(self.wall.time) > now.since(self.wall.at).saturating_add(self.tolerance_ms)
    }
}

/// The newest head that is known from a read of the committed log, and when that read began at the earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// The head that was read.
    pub head: Rev,
    /// The read began at or after this.
    pub began: Mono,
}

/// What a verifier knows; made by a [`crate::Subscriber`], read by `verify`.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// The log that it follows, once it follows one.
    pub log: Option<LogId>,
    /// The generation that it follows.
    pub epoch: Epoch,
    /// Whether it has a first snapshot of this epoch. Before, nothing is accepted.
    pub synced: bool,
    /// Everything up to here is applied.
    pub applied: Rev,
    /// What is revoked.
    pub set: RevokedSet,
    /// The public signing keys as they came.
    pub keys: Arc<Vec<Jwk>>,
    /// F: what expires up to here may be forgotten, and is refused.
    pub floor: Option<Anchor>,
    /// The database's time, when a lease told it.
    pub time: Option<Anchor>,
    /// The proof of freshness, when there is one.
    pub lease: Option<Lease>,
    /// The head that is known from a read.
    pub proven: Option<Proven>,
    /// The longest life of a token, in seconds; 0 while unknown.
    pub max_life_s: u64,
    /// The bound that leases are given by, in milliseconds.
    pub bound_ms: Millis,
}

impl Knowledge {
    /// Nothing known yet; nothing will be accepted. `set` is empty, apart from dead keys of an earlier life.
    pub fn nothing(set: RevokedSet) -> Self {
        Self {
            log: None,
            epoch: Epoch::default(),
            synced: false,
            applied: Rev::ZERO,
            set,
            keys: Arc::default(),
            floor: None,
            time: None,
            lease: None,
            proven: None,
            max_life_s: 0,
            bound_ms: 0,
        }
    }

    /// Whether what is applied is known to be recent enough. `wall` is the wall clock, read no later than `now`.
    pub fn fresh(&self, now: Mono, wall: Time) -> bool {
        self.synced && self.lease.is_some_and(|lease| lease.holds(now, wall))
    }

    /// The time that `exp` is held against: the latest that is proven by F and by the database's time. The wall clock counts
    /// only while the database's time was never told, so that a skewed clock neither accepts what is dead nor refuses what lives.
    pub fn clock(&self, now: Mono, wall: Time) -> Time {
        let floor = self.floor.map_or(Time::ZERO, |f| f.at(now));
        floor.max(self.time.map_or(wall, |t| t.at(now)))
    }
}
