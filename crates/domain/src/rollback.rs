//! How a database that is older than what it has said already is told (DESIGN §4.5).
//!
//! It cannot tell by itself. So how far it had come is written down elsewhere, in a [`Mark`], and is compared at the start; and
//! whoever holds something that the database has made and no longer knows brings a [`Proof`]. The mark has the position of the
//! log with its link, which tells lost ends and forks, and F, which moves with time: it tells that a copy is old even when only
//! refreshes were lost, which write no entries. And it names the run of the server that wrote the database last, as the database does:
//! where they differ, another server has written to it, however alike the numbers are. Where nodes share a database, it has what was
//! acknowledged to the node, which the database counts ([`ledger`](crate::ledger)).
use crate::ledger::{Commits, Ledger};
use crate::view::Stamp;
use alloc::{format, string::String};
use core::cmp::Ordering;
use portcullis_wire::{Chain, Entry, Epoch, LogId, Rev, RunId, Time};
use serde::{Deserialize, Serialize};

/// How far a database had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The log.
    pub log: LogId,
    /// Its generation.
    pub epoch: Epoch,
    /// Its newest position.
    pub rev: Rev,
    /// The chain link there.
    pub chain: Chain,
    /// F, which never goes back.
    #[serde(default)]
    pub floor: Time,
    /// When that was written down, by the database's clock.
    pub at: Time,
    /// What was acknowledged to this node, where the database counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commits: Option<Commits>,
    /// Whose it was.
    #[serde(default)]
    pub runs: Runs,
}

/// Which run of a server wrote a database last, where it belongs to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runs {
    /// The one that the database names,
    pub last: Option<RunId>,
    /// and the one that it is about to name: either may be found in it.
    pub next: Option<RunId>,
}

impl Runs {
    /// Whether a database that names `last` is the one that is meant. Where nothing is said, it may be.
    pub fn fit(&self, last: Option<RunId>) -> bool {
        self.last.is_none() || last == self.last || last.is_some() && last == self.next
    }
}

/// What proves that the database is older than what it has said already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// In words, for operators.
    pub what: String,
    /// A position that the lost part had: its epoch,
    pub epoch: Epoch,
    /// and its rev.
    pub rev: Rev,
    /// The chain link there, where the proof tells it: it tells the log that was lost from one that only came as far.
    #[serde(default)]
    pub chain: Option<Chain>,
    /// F, where the proof tells it; else zero.
    #[serde(default)]
    pub floor: Time,
    /// When it was brought.
    pub at: Time,
    /// Whether a database that has come as far as that position has what was lost. A refresh token that is ahead of its row tells
    /// of no position: then only a person can say that the right database is back.
    pub told_by_position: bool,
    /// Commits that a database must have, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commits: Option<Commits>,
    /// Whose the right one is, where the proof tells it.
    #[serde(default)]
    pub runs: Runs,
}

/// What a mark says about the database that is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It has come as far, or further; whether it is the same history, its entries tell: [`Mark::after`].
    Fits,
    /// It is of a later epoch: founded anew since, and what the mark says is void.
    Refounded,
    /// It is another log altogether.
    OtherLog,
    /// It is behind: in words.
    Behind(String),
}

impl Mark {
    /// How far a database has come now.
    pub fn of(stamp: &Stamp) -> Self {
        let (log, epoch, rev, chain) = (stamp.log, stamp.epoch, stamp.head, stamp.chain);
        Self { log, epoch, rev, chain, floor: stamp.floor, at: stamp.now, commits: None, runs: Runs::default() }
    }

    /// The same, with what was acknowledged to this node.
    pub fn with(self, commits: Option<Commits>) -> Self {
        Self { commits, ..self }
    }

    /// The rule, as far as numbers tell.
    pub fn compare(&self, stamp: &Stamp) -> Compared {
        if self.log != stamp.log {
            return Compared::OtherLog;
        }
        if self.epoch < stamp.epoch {
            return Compared::Refounded;
        }
        if (self.epoch, self.rev) > (stamp.epoch, stamp.head) {
            let (was, is) = (format!("{}.{}", self.epoch, self.rev), format!("{}.{}", stamp.epoch, stamp.head));
            return Compared::Behind(format!("the log had come to {was}, and is at {is}"));
        }
        if self.floor > stamp.floor {
            let (was, is) = (self.floor, stamp.floor);
            return Compared::Behind(format!(
                "what can expire no more had come to {was}, and is at {is}: an older copy"
            ));
        }
        Compared::Fits
    }

    /// Where the log of this mark stands after these entries. A copy that went on by itself has other ones, however many, and
    /// then another link at its newest position.
    pub fn after(self, entries: &[Entry]) -> Self {
        let rev = entries.last().map_or(self.rev, |entry| entry.rev);
        Self { rev, chain: link_after(self.chain, entries), ..self }
    }

    /// Whether a database has come further than this. One that went back is none of the mark's business: the mark proves it.
    pub fn is_behind(&self, stamp: &Stamp) -> bool {
        let newer = (self.epoch, self.rev, self.floor) < (stamp.epoch, stamp.head, stamp.floor);
        newer && (self.epoch < stamp.epoch || self.floor <= stamp.floor)
    }

    /// The proof that this mark gives.
    pub fn proof(&self, what: String, now: Time) -> Proof {
        let (epoch, rev, chain) = (self.epoch, self.rev, Some(self.chain));
        let (floor, commits, runs) = (self.floor, self.commits, self.runs);
        Proof { what, epoch, rev, chain, floor, at: now, told_by_position: true, commits, runs }
    }
}

/// What a node that starts knows to have been acknowledged to it: the mark says so, and a proof may know of more. Else a database
/// that lacks the last second would be written to again, until it counts as many.
pub fn acknowledged(mark: Option<&Mark>, proof: Option<&Proof>) -> Option<Ledger> {
    let marked = mark.and_then(|mark| Some(Ledger { epoch: mark.epoch, told: mark.commits? }))?;
    let proven = proof.and_then(|proof| Some(Ledger { epoch: proof.epoch, told: proof.commits? }));
    let more = |proven: &Ledger| {
        let same = proven.told.by == marked.told.by && proven.epoch == marked.epoch;
        same && proven.told.count > marked.told.count
    };
    Some(proven.filter(more).unwrap_or(marked))
}

fn link_after(link: Chain, entries: &[Entry]) -> Chain {
    entries.iter().fold(link, |link, entry| link.after(entry))
}

impl Proof {
    /// Somebody shows a position that the lost part had, and perhaps its link.
    pub fn by_position(what: String, (epoch, rev): (Epoch, Rev), chain: Option<Chain>, now: Time) -> Self {
        let (floor, runs) = (Time::ZERO, Runs::default());
        Self { what, epoch, rev, chain, floor, at: now, told_by_position: true, commits: None, runs }
    }

    /// This node was told of commits that the database does not have. It names no position: what this node has read may be of
    /// the wrong database already, and the right one need not have come there. Only who counts as many has what was lost.
    pub fn by_commits(what: String, epoch: Epoch, commits: Commits, now: Time) -> Self {
        let (rev, chain, floor, commits) = (Rev::ZERO, None, Time::ZERO, Some(commits));
        Self { what, epoch, rev, chain, floor, at: now, told_by_position: true, commits, runs: Runs::default() }
    }

    /// Somebody shows what the database made and no longer knows, without a position of the lost part.
    pub fn by_other_means(what: String, stamp: &Stamp) -> Self {
        let (epoch, rev) = (stamp.epoch, stamp.head);
        let (floor, runs) = (Time::ZERO, Runs::default());
        Self { what, epoch, rev, chain: None, floor, at: stamp.now, told_by_position: false, commits: None, runs }
    }

    /// Whether it reaches further than another one: the furthest is the one that a database must satisfy. Counts of different
    /// nodes say nothing about each other: neither reaches beyond the other by them.
    pub fn reaches_beyond(&self, other: &Self) -> bool {
        let at = |proof: &Self| (proof.epoch, proof.rev, proof.floor);
        at(self).cmp(&at(other)).then_with(|| match (self.commits, other.commits) {
            (Some(own), Some(more)) if own.by == more.by => own.count.cmp(&more.count),
            (Some(_), Some(_)) => Ordering::Equal,
            (own, more) => own.is_some().cmp(&more.is_some()),
        }) == Ordering::Greater
    }

    /// This one, and what the other one asks for besides: a count of commits, a run.
    pub fn and(self, other: &Self) -> Self {
        if other.epoch != self.epoch {
            return self;
        }
        let commits = match (self.commits, other.commits) {
            (Some(own), Some(more)) if own.by == more.by && more.count > own.count => Some(more),
            (own, more) => own.or(more),
        };
        let runs = if self.runs == Runs::default() { other.runs } else { self.runs };
        Self { commits, runs, ..self }
    }

    /// What is held against the database when `new` comes beside what was proven: the one that reaches further, with what the
    /// other one asks for besides.
    pub fn beside(known: Option<&Self>, new: Self) -> Self {
        match known {
            None => new,
            Some(known) if new.reaches_beyond(known) => new.and(known),
            Some(known) => known.clone().and(&new),
        }
    }

    /// Whether a database that comes back has what was lost, and may be served again by itself. `since`: its entries after the
    /// proof's position, none left out; `None` where some are forgotten, and nobody can tell. `last`: the run that it names;
    /// `found`: how many commits it counts of the node that the proof names.
    pub fn is_met_by(&self, stamp: &Stamp, since: Option<&[Entry]>, last: Option<RunId>, found: Option<u64>) -> bool {
        let as_far = (stamp.epoch, stamp.head) >= (self.epoch, self.rev) && stamp.floor >= self.floor;
        let same = self.chain.is_none_or(|link| since.is_some_and(|since| link_after(link, since) == stamp.chain));
        let all = self.commits.is_none_or(|commits| found.unwrap_or(0) >= commits.count);
        stamp.epoch > self.epoch || self.told_by_position && as_far && same && all && self.runs.fit(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cut;
    use portcullis_wire::{AccountId, NodeId, Target, Verb};

    fn stamp(epoch: u32, rev: u64, floor: i64) -> Stamp {
        Stamp {
            log: LogId::from_bits(1),
            epoch: Epoch(epoch),
            head: Rev(rev),
            chain: Chain([1; 32]),
            horizon: Time(0),
            floor: Time(floor),
            all: Cut::default(),
            worked_off: Rev::ZERO,
            now: Time(0),
        }
    }

    #[test]
    fn only_a_database_that_has_come_as_far_fits() {
        let mark = Mark::of(&stamp(2, 10, 100));
        for (epoch, rev, floor, fits, behind) in [
            (2, 10, 100, true, false),
            (2, 10, 101, true, true),
            (2, 11, 100, true, true),
            (2, 11, 99, false, false), // it went on by itself, from an older copy
            (2, 10, 99, false, false), // only refreshes were lost
            (2, 9, 101, false, false),
            (1, 99, 200, false, false),
        ] {
            let found = stamp(epoch, rev, floor);
            assert_eq!(mark.compare(&found) == Compared::Fits, fits, "{epoch}.{rev} {floor}");
            assert_eq!(mark.is_behind(&found), behind, "{epoch}.{rev} {floor}");
            let proof = mark.proof("a mark".into(), Time(0));
            let proof = Proof { chain: None, ..proof };
            assert_eq!(proof.is_met_by(&found, None, None, None), fits, "{epoch}.{rev} {floor}");
            assert!(!Proof { told_by_position: false, ..proof }.is_met_by(&found, None, None, None));
        }
        let anew = stamp(3, 1, 0);
        assert_eq!(mark.compare(&anew), Compared::Refounded);
        assert!(mark.is_behind(&anew) && mark.proof(String::new(), Time(0)).is_met_by(&anew, None, None, None));
        let other = Stamp { log: LogId::from_bits(2), ..stamp(2, 10, 100) };
        assert_eq!(mark.compare(&other), Compared::OtherLog);
    }

    #[test]
    fn lost_commits_are_there_again_when_as_many_are_counted() {
        let commits = Commits { by: portcullis_wire::NodeId::from_bits(1), count: 7, timeline: 1 };
        let proof = Proof::by_commits(String::new(), Epoch(2), commits, Time(0));
        for (found, met) in [(None, false), (Some(6), false), (Some(7), true), (Some(9), true)] {
            assert_eq!(proof.is_met_by(&stamp(2, 1, 0), None, None, found), met, "{found:?}");
        }
        assert!(proof.is_met_by(&stamp(3, 1, 0), None, None, None), "founded anew");
        let mark = Mark::of(&stamp(2, 10, 100)).with(Some(commits)).proof(String::new(), Time(0));
        assert!(mark.reaches_beyond(&proof) && !mark.is_met_by(&stamp(2, 10, 100), Some(&[]), None, Some(6)));
    }

    #[test]
    fn a_database_that_another_run_wrote_is_another_one() {
        let [ours, next, theirs] = [1, 2, 3].map(|bits| Some(RunId::from_bits(bits)));
        for (last, next, found, fits) in [
            (None, None, theirs, true), // by a release that named none, or before the first run was in the database
            (None, ours, None, true),
            (None, ours, ours, true),
            (ours, None, ours, true),
            (ours, None, theirs, false),
            (ours, None, None, false),
            (ours, next, ours, true), // a crash before the next one was in the database, or after
            (ours, next, next, true),
            (ours, next, theirs, false),
            (ours, next, None, false),
        ] {
            let mark = Mark { runs: Runs { last, next }, ..Mark::of(&stamp(1, 1, 1)) };
            assert_eq!(mark.runs.fit(found), fits, "{last:?} {next:?} {found:?}");
            let proof = Proof { chain: None, ..mark.proof(String::new(), Time(0)) };
            assert_eq!(proof.is_met_by(&stamp(1, 1, 1), None, found, None), fits, "{last:?} {next:?} {found:?}");
            assert!(proof.is_met_by(&stamp(2, 1, 1), None, found, None), "founded anew");
        }
    }

    #[test]
    fn counts_of_different_nodes_are_not_held_against_each_other() {
        let proof = |by, count| {
            let commits = Commits { by: NodeId::from_bits(by), count, timeline: 1 };
            Proof::by_commits(String::new(), Epoch(1), commits, Time(0))
        };
        let (one, other) = (proof(1, 5), proof(2, 900));
        assert!(!one.reaches_beyond(&other) && !other.reaches_beyond(&one));
        assert!(proof(1, 6).reaches_beyond(&one) && !one.reaches_beyond(&proof(1, 6)));
        // What was proven stays, in whichever order they come.
        assert_eq!(Proof::beside(Some(&one), other.clone()), one);
        assert_eq!(Proof::beside(Some(&other), one.clone()), other);
        assert_eq!(Proof::beside(Some(&one), proof(1, 6)).commits.map(|commits| commits.count), Some(6));
    }

    #[test]
    fn the_furthest_proof_counts() {
        let proof = |epoch, rev, floor| Mark::of(&stamp(epoch, rev, floor)).proof(String::new(), Time(0));
        assert!(proof(2, 1, 0).reaches_beyond(&proof(1, 9, 9)) && proof(1, 2, 0).reaches_beyond(&proof(1, 1, 9)));
        assert!(proof(1, 1, 2).reaches_beyond(&proof(1, 1, 1)) && !proof(1, 1, 1).reaches_beyond(&proof(1, 1, 1)));
    }

    #[test]
    fn a_proof_keeps_what_another_one_asked_for() {
        let commits = |by, count| Commits { by: NodeId::from_bits(by), count, timeline: 1 };
        let counted = |by, count| Proof::by_commits(String::new(), Epoch(1), commits(by, count), Time(0));
        let further = Proof::by_position(String::new(), (Epoch(1), Rev(9)), None, Time(0));
        let both = further.clone().and(&counted(1, 5));
        assert_eq!((both.rev, both.commits), (Rev(9), Some(commits(1, 5))));
        assert!(
            !both.is_met_by(&stamp(1, 9, 0), None, None, Some(4))
                && both.is_met_by(&stamp(1, 9, 0), None, None, Some(5))
        );
        assert_eq!(both.clone().and(&counted(1, 7)).commits, Some(commits(1, 7)));
        assert_eq!(both.clone().and(&counted(1, 3)).commits, Some(commits(1, 5)));
        assert_eq!(
            both.clone().and(&counted(2, 7)).commits,
            Some(commits(1, 5)),
            "one node's count is as good as another's"
        );
        let older = Proof { epoch: Epoch(0), ..counted(1, 9) };
        assert_eq!(further.clone().and(&older), further);
        let mark = Mark::of(&stamp(1, 1, 1)).with(Some(commits(1, 6)));
        let at_start = |proof: &Proof| acknowledged(Some(&mark), Some(proof)).map(|ledger| ledger.told.count);
        assert_eq!(
            [counted(1, 5), counted(1, 7), counted(2, 9)].map(|proof| at_start(&proof)),
            [Some(6), Some(7), Some(6)]
        );
        let runs = Runs { last: Some(RunId::from_bits(1)), next: None };
        let marked = Proof { runs, ..counted(1, 1) };
        assert!(!further.clone().and(&marked).is_met_by(&stamp(1, 9, 0), None, Some(RunId::from_bits(2)), Some(1)));
    }

    #[test]
    fn another_history_leads_elsewhere() {
        let entry = |rev, account| Entry {
            rev: Rev(rev),
            verb: Verb::End,
            target: Target::Account(AccountId::from_bits(account)),
            except: None,
            spread_ms: None,
            until: Time(9),
        };
        let mark = Mark::of(&stamp(1, 10, 0));
        let (ours, theirs) = ([entry(11, 1), entry(12, 2)], [entry(11, 1), entry(12, 3)]);
        let newest = mark.chain.after(&ours[0]).after(&ours[1]);
        assert_eq!(mark.after(&ours), Mark { rev: Rev(12), chain: newest, ..mark });
        assert!(mark.after(&theirs).chain != newest && mark.after(&[]) == mark);
        let (proof, found) = (mark.proof(String::new(), Time(0)), Stamp { chain: newest, ..stamp(1, 12, 0) });
        assert!(proof.is_met_by(&found, Some(&ours), None, None));
        assert!(!proof.is_met_by(&found, Some(&theirs), None, None) && !proof.is_met_by(&found, None, None, None));
    }
}
