//! When a revocation is true everywhere (DESIGN §2 "enforced", §8).
use super::Hub;
use super::nodes::{Asking, Known};
use crate::real;
use crate::sessions::Revoked;
use portcullis_feed::Mono;
use portcullis_feed::{cluster, fleet};
use portcullis_wire::Rev;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many completions are remembered for later questions.
const MAX_REMEMBERED: usize = 10_000;

/// How long a question that does not wait for the end is held until the other nodes have spoken.
const PATIENCE: Duration = Duration::from_millis(250);

/// What was found when revocations were first seen to be complete.
#[derive(Debug, Default)]
pub(super) struct Waits {
    complete: Mutex<BTreeMap<Rev, Remembered>>,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    found: Enforcement,
    /// Whether everybody is in the counts who had to be: all nodes had spoken, or the silent ones' instances were looked for.
    whole: bool,
}

/// How far a revocation is enforced, as `enforcement` in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforcement {
    /// Counts.
    pub counts: fleet::Enforcement,
    /// Milliseconds from the commit until it was seen to be complete, at most the bound; until now while it is not.
    pub took_ms: i64,
}

/// What a node tells the others of a revocation that it has seen to be enforced everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub rev: Rev,
    acknowledged: u32,
    lapsed: u32,
    until_expiry: u32,
    bounded_by_ms: i64,
    took_ms: i64,
}

impl Told {
    fn of(rev: Rev, found: &Enforcement) -> Self {
        let fleet::Enforcement { acknowledged, lapsed, until_expiry, bounded_by_ms, .. } = found.counts;
        Self { rev, acknowledged, lapsed, until_expiry, bounded_by_ms, took_ms: found.took_ms }
    }

    fn found(self) -> Enforcement {
        let Self { acknowledged, lapsed, until_expiry, bounded_by_ms, took_ms, .. } = self;
        let counts = fleet::Enforcement { acknowledged, lapsed, until_expiry, bounded_by_ms, ..Default::default() };
        Enforcement { counts: counts.still_complete(), took_ms }
    }
}

impl Hub {
    /// How far `revoked` is enforced now, as far as this node knows; [`Hub::enforcement_now`] asks the others first.
    pub fn enforcement(&self, revoked: &Revoked) -> Enforcement {
        self.look(revoked.rev, None, None).found
    }

    /// `after`: a moment at which it was committed already. `known`: what is known of the instances of nodes that are silent. What
    /// was complete once is so for good, whatever is seen later.
    fn look(&self, rev: Rev, after: Option<Mono>, known: Option<&Known>) -> Remembered {
        let before = self.remembered(rev);
        if let Some(before) = before.filter(|before| before.whole) {
            return before;
        }
        if let Some(told) = self.told_by_others(rev) {
            return self.remember(rev, Remembered { found: told.found(), whole: true });
        }
        let (now, committed) = self.committed_at(rev);
        let after = after.unwrap_or(committed).min(committed);
        let alone = self.state().fleet.enforcement(rev, committed, now);
        let missing = known.map(|known| {
            let own = self.state().fleet.stands(rev, committed, now);
            known.missing(&own, rev)
        });
        let counts = self.with_the_others(rev, alone, after, missing.unwrap_or_default(), (committed, now));
        let elapsed = now.since(committed).max(0);
        if !counts.complete && before.is_none() {
            return Remembered { found: Enforcement { counts, took_ms: elapsed }, whole: false };
        }
        // Who looks for the first time long after it was complete learns the bound, not the age of the entry.
        let took_ms = before.map_or(elapsed.min(counts.bounded_by_ms), |before| before.found.took_ms);
        let whole = missing.is_some() || self.all_spoke(rev, after);
        self.remember(rev, Remembered { found: Enforcement { counts: counts.still_complete(), took_ms }, whole })
    }

    fn remembered(&self, rev: Rev) -> Option<Remembered> {
        self.inner.waits.complete.lock().unwrap_or_else(PoisonError::into_inner).get(&rev).copied()
    }

    fn remember(&self, rev: Rev, seen: Remembered) -> Remembered {
        let mut complete = self.inner.waits.complete.lock().unwrap_or_else(PoisonError::into_inner);
        complete.insert(rev, seen);
        if complete.len() > MAX_REMEMBERED {
            complete.pop_first();
        }
        seen
    }

    /// What this node can tell the others about `rev`.
    pub(super) fn told(&self, rev: Rev) -> Option<Told> {
        self.remembered(rev).filter(|seen| seen.whole).map(|seen| Told::of(rev, &seen.found))
    }

    /// Whether every other node has said something about `rev`.
    fn all_spoke(&self, rev: Rev, after: Mono) -> bool {
        cluster::all_spoke(rev, &self.others_as_seen().reports(after))
    }

    /// Whether it is certain that `rev` is not enforced everywhere, and until when at the latest.
    fn certainly_pending(&self, rev: Rev, after: Mono) -> Option<Mono> {
        let (now, committed) = self.committed_at(rev);
        let others = self.others_as_seen();
        let reports = others.reports(after.min(committed));
        cluster::certainly_pending(rev, &mut self.state().fleet, &reports, committed, now)
    }

    /// How far `revoked` is enforced now, by what the nodes' rows say at this moment: for who does not wait.
    pub async fn enforcement_at_once(&self, revoked: &Revoked) -> Enforcement {
        let after = real::mono();
        if !self.remembered(revoked.rev).is_some_and(|seen| seen.whole) {
            drop(self.ask_the_others(revoked.rev).await);
        }
        self.look(revoked.rev, Some(after), None).found
    }

    /// How far `revoked` is enforced now, by what all nodes say: the others are given a moment to speak.
    pub async fn enforcement_now(&self, revoked: &Revoked) -> Enforcement {
        self.ask_about(&[revoked.rev]).await;
        self.enforcement(revoked)
    }

    /// Asks the others about these, at once, so that [`Hub::enforcement`] says of each what all nodes know: what a node says
    /// about the newest holds for those before it.
    pub async fn ask_about(&self, revs: &[Rev]) {
        let after = real::mono();
        let unknown = |rev: &Rev| !self.remembered(*rev).is_some_and(|seen| seen.whole);
        let Some(newest) = revs.iter().copied().filter(unknown).max().filter(|_| self.is_shared()) else { return };
        let deadline = after.plus(i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX));
        let (mut acks, mut asking) = (self.inner.acks.subscribe(), self.ask_the_others(newest).await);
        loop {
            acks.mark_unchanged();
            if let Some(asking) = &mut asking {
                asking.mark();
            }
            let left = deadline.since(real::mono());
            // Once all have spoken nobody knows more, complete or not.
            if self.look(newest, Some(after), None).whole || self.all_spoke(newest, after) || left <= 0 {
                break;
            }
            let pause = Duration::from_millis(u64::try_from(left).unwrap_or(1));
            tokio::select! {
                _ = acks.changed() => {}
                () = news(&mut asking) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        let known = if self.all_spoke(newest, after) { None } else { self.known_of_all(newest).await };
        for rev in revs.iter().copied().filter(unknown) {
            self.look(rev, Some(after), known.as_ref());
        }
    }

    /// Waits until `revoked` is enforced everywhere, or until `timeout`; asks verifiers to acknowledge at once.
    pub async fn wait_enforced(&self, revoked: &Revoked, timeout: Duration) -> Enforcement {
        if let Some(seen) = self.remembered(revoked.rev).filter(|seen| seen.whole) {
            return seen.found;
        }
        self.inner.prompt.fetch_max(revoked.rev.0, Ordering::AcqRel);
        // Streams that do not have the entry yet are woken by it, and see then that somebody waits.
        if self.head() >= revoked.rev {
            self.bump();
        }
        let deadline = real::mono().plus(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
        let (mut acks, after) = (self.inner.acks.subscribe(), real::mono());
        let mut others = self.ask_the_others(revoked.rev).await;
        loop {
            acks.mark_unchanged();
            if let Some(others) = &mut others {
                others.mark();
            }
            // Looked at without counting, whenever somebody said something; counted when that alone does not say "not yet".
            let now = real::mono();
            let pending = if now < deadline { self.certainly_pending(revoked.rev, after) } else { None };
            let until = match pending {
                Some(until) => until,
                None => {
                    let seen = self.look(revoked.rev, Some(after), None);
                    if seen.whole || seen.found.counts.complete || now >= deadline {
                        return self.settled(revoked.rev, after, seen, deadline).await;
                    }
                    seen.found.counts.complete_at.unwrap_or(now.plus(50))
                }
            };
            let pause = (until.since(now) + 1).min(deadline.since(now)).max(1);
            let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(1));
            tokio::select! {
                _ = acks.changed() => {}
                () = news(&mut others) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What was seen of `rev`, with the instances of nodes that are silent looked for, so that everybody is counted: until the
    /// caller's deadline, or for [`PATIENCE`] when that is over.
    async fn settled(&self, rev: Rev, after: Mono, seen: Remembered, deadline: Mono) -> Enforcement {
        if seen.whole || self.all_spoke(rev, after) {
            return seen.found;
        }
        let left = u64::try_from(deadline.since(real::mono())).unwrap_or(0);
        let patience = Duration::from_millis(left).max(PATIENCE);
        match tokio::time::timeout(patience, self.known_of_all(rev)).await {
            Ok(Some(known)) => self.look(rev, Some(after), Some(&known)).found,
            Ok(None) | Err(_) => seen.found,
        }
    }

    /// Now, and a moment no earlier than the commit, by this node's monotonic clock. No wall clock: one that is set forward would
    /// make a fresh commit look old, and leases that are still out look ended.
    pub(super) fn committed_at(&self, rev: Rev) -> (Mono, Mono) {
        let now = real::mono();
        let state = self.state();
        let known = state.fleet.committed_at(rev);
        // Committed before this run began: every instance counts as leased since then.
        let earlier = (rev <= self.inner.head_at_start).then_some(self.inner.started);
        (now, earlier.or(known).unwrap_or(now))
    }
}

/// Something was said by another node; never, where there is none.
async fn news(asking: &mut Option<Asking<'_>>) {
    match asking {
        Some(asking) => asking.news().await,
        None => std::future::pending().await,
    }
}
