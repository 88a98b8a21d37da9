//! What several server nodes on one log say together: since when a revocation is enforced at every verifier, whichever node it
//! hangs on (DESIGN §9).
//!
//! A node knows the leases that it gave itself. Of the others it reads what they say in their rows: a [`Report`] about the
//! newest position that somebody waits for. Three facts make the sum right:
//! - A node has its row before it gives its first lease, and a lease rests on a read of the committed log. So whoever reads
//!   the rows after a commit sees every node that may have given a lease which does not know that commit.
//! - A report about a later position holds for an earlier one: who is not behind for the one is not behind for the other.
//! - What no node says in time, time says: a lease that does not know a commit ends within the bound of it.
//!
//! An instance may be behind at the node that leased it, and have told another one that it has applied what it must (its
//! acknowledgements go wherever a balancer sends them). So a node names those that are behind, and the others confirm of them
//! whom they know better.
use crate::fleet::{Enforcement, Stands};
use crate::{Fleet, Mono};
use alloc::{collections::BTreeSet, vec::Vec};
use portcullis_wire::time::Millis;
use portcullis_wire::{InstanceId, Rev};
use serde::{Deserialize, Serialize};

/// As many instances are named in a report; of more only the number is told, and they count by the bound.
pub const NAMED_LIMIT: usize = 1000;

/// How old the last beat of a node's row may be when it gives a lease, in milliseconds.
pub const FENCE: Millis = 10_000;
/// What clocks and reads may differ when a row that stands still is removed, in milliseconds.
pub const SLACK: Millis = 2_000;

/// Whether a node may give a lease for a question that arrived at `basis`, when the write of its last beat began then. Else the
/// others may have taken it for dead, and wait for it no more.
pub fn within_the_fence(basis: Mono, beat_began: Mono) -> bool {
    basis.since(beat_began) <= FENCE
}

/// Whether a row whose beat has stood still since `seen` (the beginning of the read that saw it first) can be removed: no lease
/// that its node gave can live any more. `bounded_by_ms` as [`Fleet::bounded_by_ms`].
pub fn is_gone(seen: Mono, now: Mono, bounded_by_ms: Millis) -> bool {
    now.since(seen) > FENCE + SLACK + bounded_by_ms
}

/// The same for a node that said in its last row that it gives no more leases. `known` is the end of the read that told so: all
/// its leases are for questions that arrived before that, and end within the bound of them.
pub fn is_gone_after_leaving(known: Mono, now: Mono, bounded_by_ms: Millis) -> bool {
    now.since(known) > bounded_by_ms
}

/// Strikes from `rows`, the instances that have a row in the database, those that a node's list names; what is left after the
/// lists of all is known to no node. A list of `most` may be cut short: of what comes after its last one it says nothing, so that
/// is struck, too.
pub fn strike_listed(rows: &mut BTreeSet<InstanceId>, list: &BTreeSet<InstanceId>, most: usize) {
    let last = list.last().filter(|_| list.len() >= most);
    rows.retain(|id| !list.contains(id) && last.is_none_or(|last| id < last));
}

/// Instances that a silent node may have leased, as far as the others know: those that have a row, and that no node counts which
/// has spoken about the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missing {
    /// Those that have told another node that they have applied it.
    pub acknowledged: u32,
    /// Those that nobody has heard of.
    pub unheard: u32,
}

impl Missing {
    /// Of these rows, by what the nodes that have spoken about `rev` say of their instances.
    pub fn of<'a>(rows: &BTreeSet<InstanceId>, said: impl IntoIterator<Item = &'a Stands>, rev: Rev) -> Self {
        let (mut left, mut confirmed) = (rows.clone(), BTreeSet::new());
        for one in said {
            if one.counted {
                left.remove(&one.id);
            } else if one.applied >= Some(rev) {
                confirmed.insert(one.id);
            }
        }
        let acknowledged = left.intersection(&confirmed).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { acknowledged: count(acknowledged), unheard: count(left.len() - acknowledged) }
    }
}

/// What a node says about a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The position.
    pub rev: Rev,
    /// Instances that this node leased before it and that have acknowledged it.
    pub acknowledged: u32,
    /// Those whose lease ended first.
    pub lapsed: u32,
    /// Those that may still accept without it.
    pub pending: u32,
    /// Instances with a route under `open`.
    pub until_expiry: u32,
    /// The pending ones, the first [`NAMED_LIMIT`] of them by id.
    pub behind: Vec<InstanceId>,
    /// Of the ones that other nodes name: those that have acknowledged it here.
    pub confirms: Vec<InstanceId>,
}

impl Report {
    /// What this node says about `rev`. `committed_at` as for [`Fleet::enforcement`]; `asked`: whom other nodes name.
    pub fn of(fleet: &Fleet, rev: Rev, committed_at: Mono, now: Mono, asked: &BTreeSet<InstanceId>) -> Self {
        let Enforcement { acknowledged, lapsed, pending, until_expiry, .. } = fleet.enforcement(rev, committed_at, now);
        let behind = if pending == 0 { Vec::new() } else { fleet.behind(rev, committed_at, now, NAMED_LIMIT) };
        let knows = |id: &&InstanceId| fleet.has_acknowledged(**id, rev);
        let confirms = asked.iter().filter(knows).take(NAMED_LIMIT).copied().collect();
        Self { rev, acknowledged, lapsed, pending, until_expiry, behind, confirms }
    }

    /// Whether it says something about `rev`.
    fn is_about(&self, rev: Rev) -> bool {
        self.rev >= rev
    }

    /// How many are behind, but for those that others confirm.
    fn still_pending(&self, confirmed: &BTreeSet<InstanceId>) -> u32 {
        let settled = self.behind.iter().filter(|id| confirmed.contains(id)).count();
        self.pending.saturating_sub(u32::try_from(settled).unwrap_or(u32::MAX))
    }
}

/// Whom these reports name as behind for `rev`.
pub fn named<'a>(reports: impl IntoIterator<Item = &'a Report>, rev: Rev) -> BTreeSet<InstanceId> {
    let about = reports.into_iter().filter(|report| report.is_about(rev));
    about.flat_map(|report| report.behind.iter().copied()).collect()
}

/// Whether each of these nodes has said something about `rev`.
pub fn all_spoke(rev: Rev, others: &[Option<&Report>]) -> bool {
    others.iter().all(|one| one.is_some_and(|report| report.is_about(rev)))
}

/// How far `rev` is enforced by all nodes together. `own` is this node's report about `rev`, with its arithmetic in `alone`;
/// `others` are the other nodes in rows that were read after the commit, `None` where one has not said anything. `missing` are
/// the instances of those that are silent, and counts only when one is. An instance that went from one node to another within the
/// bound counts at both.
pub fn together(
    rev: Rev,
    own: &Report,
    alone: Enforcement,
    others: &[Option<&Report>],
    missing: Missing,
    committed_at: Mono,
    now: Mono,
) -> Enforcement {
    let ends = committed_at.plus(alone.bounded_by_ms);
    let about: Vec<Option<&Report>> = others.iter().map(|one| one.filter(|report| report.is_about(rev))).collect();
    let reports = || about.iter().flatten().copied().chain([own]);
    let confirmed: BTreeSet<InstanceId> = reports().flat_map(|report| report.confirms.iter().copied()).collect();
    let mut sum = Enforcement { bounded_by_ms: alone.bounded_by_ms, ..Enforcement::default() };
    for report in reports() {
        let pending = report.still_pending(&confirmed);
        sum.acknowledged += report.acknowledged + (report.pending - pending);
        sum.lapsed += report.lapsed;
        sum.pending += pending;
        sum.until_expiry += report.until_expiry;
    }
    let silent = about.iter().any(Option::is_none);
    if silent {
        sum.acknowledged += missing.acknowledged;
        sum.pending += missing.unheard;
    }
    if now >= ends {
        // Whoever did not say so by now holds no lease that does not know it.
        sum.lapsed += core::mem::take(&mut sum.pending);
    }
    let elsewhere = about.iter().any(|one| one.is_none_or(|report| report.still_pending(&confirmed) > 0));
    sum.complete = now >= ends || sum.pending == 0 && !silent;
    let by_arithmetic = alone.complete_at.filter(|_| !elsewhere).unwrap_or(ends);
    sum.complete_at = (!sum.complete).then_some(by_arithmetic);
    sum
}

/// Whether it is certain that `rev` is not enforced everywhere, told without counting, and until when at the latest. `None`: it
/// takes [`together`] to know. `others` as there. Who waits looks by this whenever something was acknowledged: among 10^5
/// verifiers the first one that is behind is enough, and all are counted once, at the end.
pub fn certainly_pending(
    rev: Rev,
    fleet: &mut Fleet,
    others: &[Option<&Report>],
    committed_at: Mono,
    now: Mono,
) -> Option<Mono> {
    let ends = committed_at.plus(fleet.bounded_by(committed_at, now));
    if now >= ends {
        return None;
    }
    let mut about = Vec::new();
    for other in others {
        match other.filter(|report| report.is_about(rev)) {
            Some(report) => about.push(report),
            None => return Some(ends), // it has said nothing yet
        }
    }
    let mut confirmed: BTreeSet<InstanceId> = about.iter().flat_map(|report| report.confirms.iter().copied()).collect();
    if let Some(ends) = fleet.first_pending(rev, committed_at, now, &confirmed) {
        return Some(ends);
    }
    let known_here = named(about.iter().copied(), rev).into_iter().filter(|id| fleet.has_acknowledged(*id, rev));
    confirmed.extend(known_here);
    about.iter().any(|report| report.still_pending(&confirmed) > 0).then_some(ends)
}
