//! When a revocation is true everywhere (DESIGN §2 "enforced", §8).
use super::Hub;
use crate::real;
use crate::sessions::Revoked;
use portcullis_feed::Mono;
use portcullis_feed::{cluster, fleet};
use portcullis_wire::Rev;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many completions are remembered for later questions.
const MAX_REMEMBERED: usize = 10_000;

/// When revocations were first seen to be complete.
#[derive(Debug, Default)]
pub(super) struct Waits {
    complete: Mutex<BTreeMap<Rev, i64>>,
}

/// How far a revocation is enforced, as `enforcement` in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforcement {
    /// Counts.
    pub counts: fleet::Enforcement,
    /// Milliseconds from the commit until it was seen to be complete, at most the bound; until now while it is not.
    pub took_ms: i64,
}

impl Hub {
    /// How far `revoked` is enforced now, as far as this node knows; [`Hub::enforcement_now`] asks the others first.
    pub fn enforcement(&self, revoked: &Revoked) -> Enforcement {
        self.enforcement_after(revoked, None)
    }

    /// `after`: a moment at which it was committed already.
    fn enforcement_after(&self, revoked: &Revoked, after: Option<Mono>) -> Enforcement {
        let (now, committed) = self.committed_at(revoked.rev);
        let alone = self.state().fleet.enforcement(revoked.rev, committed, now);
        let counts =
            self.with_the_others(revoked.rev, alone, after.unwrap_or(committed).min(committed), committed, now);
        let elapsed = now.since(committed).max(0);
        let mut complete = self.inner.waits.complete.lock().unwrap_or_else(PoisonError::into_inner);
        let took_ms = if counts.complete {
            // Who looks for the first time long after it was complete learns the bound, not the age of the entry.
            let took = *complete.entry(revoked.rev).or_insert(elapsed.min(counts.bounded_by_ms));
            if complete.len() > MAX_REMEMBERED {
                complete.pop_first();
            }
            took
        } else {
            elapsed
        };
        Enforcement { counts, took_ms }
    }

    /// Whether it is certain that `rev` is not enforced everywhere, and until when at the latest.
    fn certainly_pending(&self, rev: Rev, after: Mono) -> Option<Mono> {
        let (now, committed) = self.committed_at(rev);
        let others = self.others_as_seen();
        let reports = others.reports(after.min(committed));
        cluster::certainly_pending(rev, &mut self.state().fleet, &reports, committed, now)
    }

    /// How far `revoked` is enforced now, by what all nodes say.
    pub async fn enforcement_now(&self, revoked: &Revoked) -> Enforcement {
        let after = real::mono();
        drop(self.ask_the_others(revoked.rev).await);
        self.enforcement_after(revoked, Some(after))
    }

    /// Waits until `revoked` is enforced everywhere, or until `timeout`; asks verifiers to acknowledge at once.
    pub async fn wait_enforced(&self, revoked: &Revoked, timeout: Duration) -> Enforcement {
        self.inner.prompt.fetch_max(revoked.rev.0, Ordering::AcqRel);
        self.bump();
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
                    let state = self.enforcement_after(revoked, Some(after));
                    if state.counts.complete || now >= deadline {
                        return state;
                    }
                    state.counts.complete_at.unwrap_or(now.plus(50))
                }
            };
            let pause = (until.since(now) + 1).min(deadline.since(now)).max(1);
            let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(1));
            let said = async {
                match &mut others {
                    Some(others) => others.news().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = acks.changed() => {}
                () = said => {}
                () = tokio::time::sleep(pause) => {}
            }
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
