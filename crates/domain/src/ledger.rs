//! What a database must have, because this node was told that it is on disk (DESIGN §4.5).
//!
//! A standby that takes over may lack what its primary has acknowledged. The log and F tell some of that, but a refresh writes
//! no entry, and F moves every two seconds only. So a database that can be failed over counts, in a row for each node and in the
//! same transaction, the groups of commits that the node has made; and the node remembers the count that came with the last
//! *acknowledged* one. A database that counts fewer has lost some. What was never acknowledged may be there or not: it raises the
//! count of the row, and not what is remembered, until the next acknowledgement.
//!
//! What only a dead node was told, the others know as far as they have seen its count ([`Others`]).
use alloc::collections::BTreeMap;
use alloc::{format, string::String};
use core::cmp::Ordering;
use portcullis_wire::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

/// How many groups of commits a node was told to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commits {
    /// Under which the database counts them: it stays the same over restarts, as long as the high-water mark is kept.
    pub by: NodeId,
    /// How many.
    pub count: u64,
    /// PostgreSQL's timeline then: each promotion of a standby begins a new one.
    pub timeline: u32,
}

impl Commits {
    /// Whether a standby has taken over since, or a primary is back that one had taken over from; in words.
    pub fn failover(&self, timeline: u32) -> Option<String> {
        let was = self.timeline;
        match timeline.cmp(&was) {
            Ordering::Greater => Some(format!("PostgreSQL's timeline was {was}, and is {timeline}: a failover")),
            Ordering::Less => Some(format!("PostgreSQL's timeline was {was}, and is {timeline}: an older one")),
            Ordering::Equal => None,
        }
    }

    /// What a database that counts `found` has lost, in words; nothing that was acknowledged: `None`.
    pub fn lost(&self, found: Option<u64>, timeline: u32) -> Option<String> {
        let found = found.unwrap_or(0);
        if found >= self.count {
            return None;
        }
        let count = self.count;
        let lost = format!("{count} groups of commits were acknowledged to this node, and the database has {found}");
        Some(lost + &self.by_failover(timeline))
    }

    /// What a database has lost that counts less of another node than was seen, in words.
    pub fn lost_of_another(&self, found: Option<u64>, timeline: u32) -> String {
        let (by, count, found) = (self.by, self.count, found.unwrap_or(0));
        let lost = format!("{count} groups of commits of the node {by} were in the database, and it has {found}");
        lost + &self.by_failover(timeline)
    }

    fn by_failover(&self, timeline: u32) -> String {
        self.failover(timeline).map(|failover| format!("; {failover}")).unwrap_or_default()
    }
}

/// The memory of a running node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// The generation of the log in which they were acknowledged. What a founding anew has made void need not be there.
    pub epoch: Epoch,
    /// What was acknowledged.
    pub told: Commits,
}

impl Ledger {
    /// A commit was acknowledged, with this count after it.
    pub fn acknowledged(&mut self, epoch: Epoch, count: u64) {
        if epoch > self.epoch {
            (self.epoch, self.told.count) = (epoch, count);
        } else if epoch == self.epoch {
            self.told.count = self.told.count.max(count);
        }
    }

    /// The database was looked at. `before`: this memory when the look began, for commits are acknowledged meanwhile.
    ///
    /// # Errors
    /// It has lost something that was acknowledged: in words.
    pub fn look(&mut self, before: &Self, epoch: Epoch, found: Option<u64>, timeline: u32) -> Result<(), String> {
        if epoch < before.epoch {
            return Err(format!("the log was in epoch {}, and is in {epoch}", before.epoch));
        }
        if epoch == before.epoch
            && let Some(lost) = before.told.lost(found, timeline)
        {
            return Err(lost);
        }
        if epoch > self.epoch {
            (self.epoch, self.told.count) = (epoch, found.unwrap_or(0));
        }
        self.told.timeline = self.told.timeline.max(timeline);
        Ok(())
    }
}

/// The most nodes whose counts are read and remembered: those with the least ids. Rows of nodes are never removed, and a new one
/// among them pushes the greatest out of what is read.
pub const OTHERS_LIMIT: usize = 1_000;

/// The greatest count of every other node that this one has seen in the database. A node that dies with its primary takes along
/// what it was told; a database that lacks what others have seen of that has lost it all the same.
///
/// What was seen counts once a read that began later was confirmed: a read on which leases rest, which a standby that may rightly
/// take over has to know of. Until then a failover may lose it, and nothing that was acknowledged with it; and what was seen on the
/// timeline before confirms nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    epoch: Epoch,
    counts: BTreeMap<NodeId, u64>,
    /// On which timeline, and what.
    seen: Option<(u32, BTreeMap<NodeId, u64>)>,
    looks: u64,
}

impl Others {
    /// The counts were read: all of them, or the [`OTHERS_LIMIT`] with the least ids.
    ///
    /// # Errors
    /// One of them is less than it was: whose, and what it was.
    pub fn look(&mut self, epoch: Epoch, timeline: u32, found: &BTreeMap<NodeId, u64>) -> Result<(), (NodeId, u64)> {
        if epoch > self.epoch {
            // Founded anew: what was counted before need not be there.
            *self = Self { epoch, looks: self.looks, ..Self::default() };
        }
        if epoch == self.epoch {
            let found_of = |by: &NodeId| found.get(by).copied().unwrap_or(0);
            // Where not all were read, nothing is known of those after the last one.
            let last = found.keys().next_back().filter(|_| found.len() >= OTHERS_LIMIT);
            let mut read = self.counts.iter().take_while(|(by, _)| last.is_none_or(|last| *by <= last));
            if let Some((by, count)) = read.find(|(by, count)| found_of(by) < **count) {
                return Err((*by, *count));
            }
            if self.seen.is_none() {
                self.looks += 1;
                self.seen = Some((timeline, found.iter().take(OTHERS_LIMIT).map(|(by, n)| (*by, *n)).collect()));
            }
        }
        Ok(())
    }

    /// Which look a read would confirm that begins now.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// A read was confirmed, on this timeline, that began after so many looks.
    pub fn confirmed(&mut self, looks: u64, timeline: u32) {
        if looks == self.looks
            && let Some((_, seen)) = self.seen.take().filter(|(seen_on, _)| *seen_on == timeline)
        {
            self.counts = seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(epoch: u32, count: u64) -> Ledger {
        Ledger { epoch: Epoch(epoch), told: Commits { by: NodeId::from_bits(1), count, timeline: 1 } }
    }

    #[test]
    fn only_what_was_acknowledged_must_be_there() {
        for (epoch, found, fine) in [
            (1, Some(7), true),
            (1, Some(9), true), // two of an unknown outcome
            (1, Some(6), false),
            (1, None, false),
            (2, None, true), // founded anew
            (0, Some(7), false),
        ] {
            for timeline in [1, 2] {
                let (mut now, before) = (ledger(1, 8), ledger(1, 7));
                assert_eq!(now.look(&before, Epoch(epoch), found, timeline).is_ok(), fine, "{epoch} {found:?}");
                // The count of the row is what is there; only an acknowledgement makes it what must be there.
                let told = if epoch == 2 { 0 } else { 8 };
                assert_eq!(now.told.count, told, "{epoch} {found:?}");
            }
        }
        let said = ledger(1, 7).look(&ledger(1, 7), Epoch(1), Some(3), 2).unwrap_err();
        assert!(said.contains("7 groups") && said.contains("timeline was 1, and is 2"), "{said}");
    }

    #[test]
    fn what_was_seen_of_others_must_be_there_once_it_is_confirmed() {
        let [one, two] = [2, 3].map(NodeId::from_bits);
        let counts = |a: u64, b: u64| BTreeMap::from([(one, a), (two, b)]);
        let mut others = Others::default();
        assert_eq!(others.look(Epoch(1), 1, &counts(5, 7)), Ok(()));
        assert_eq!(others.look(Epoch(1), 1, &counts(4, 7)), Ok(()), "a failover may lose what no standby knew");
        let began = others.looks();
        others.confirmed(began, 1);
        assert_eq!(others.look(Epoch(1), 1, &counts(5, 7)), Ok(()));
        assert_eq!(others.look(Epoch(1), 1, &counts(4, 7)), Err((one, 5)));
        assert_eq!(others.look(Epoch(1), 1, &BTreeMap::from([(one, 9)])), Err((two, 7)), "the row is gone");
        others.confirmed(others.looks(), 1);
        others.look(Epoch(1), 1, &counts(6, 8)).unwrap();
        others.confirmed(began, 1); // it had begun before that look
        assert_eq!(others.look(Epoch(1), 1, &counts(5, 7)), Ok(()));
        others.confirmed(others.looks(), 1);
        assert_eq!(others.look(Epoch(1), 1, &counts(6, 7)), Err((two, 8)));
        others.look(Epoch(1), 1, &counts(9, 9)).unwrap();
        others.confirmed(others.looks(), 2); // a standby has taken over meanwhile
        assert_eq!(others.look(Epoch(1), 2, &counts(6, 8)), Ok(()));
        assert_eq!(others.look(Epoch(2), 2, &counts(0, 0)), Ok(()), "founded anew");
        assert_eq!(others.look(Epoch(1), 1, &counts(0, 0)), Ok(()), "of an older epoch the log tells");
    }

    #[test]
    fn who_is_pushed_out_of_what_is_read_has_lost_nothing() {
        let ids = |from: u128, many: usize| (from..).take(many).map(|n| (NodeId::from_bits(n), 5));
        let all: BTreeMap<_, _> = ids(10, OTHERS_LIMIT).collect();
        let mut others = Others::default();
        others.look(Epoch(1), 1, &all).unwrap();
        others.confirmed(others.looks(), 1);
        // A node with a lesser id has come: the greatest is not read any more.
        let pushed: BTreeMap<_, _> = ids(9, OTHERS_LIMIT).collect();
        assert_eq!(others.look(Epoch(1), 1, &pushed), Ok(()));
        // What was read is held against what was seen all the same.
        let mut lacks = pushed.clone();
        lacks.remove(&NodeId::from_bits(500));
        lacks.extend(all.last_key_value());
        assert_eq!(lacks.len(), OTHERS_LIMIT);
        assert_eq!(others.look(Epoch(1), 1, &lacks), Err((NodeId::from_bits(500), 5)));
        // And where fewer come than could, they are all.
        let fewer: BTreeMap<_, _> = ids(10, OTHERS_LIMIT - 1).collect();
        assert_eq!(others.look(Epoch(1), 1, &fewer), Err((*all.keys().next_back().unwrap(), 5)));
    }

    #[test]
    fn acknowledgements_come_in_any_order_and_of_any_epoch() {
        let mut now = ledger(1, 7);
        now.acknowledged(Epoch(1), 6);
        assert_eq!(now, ledger(1, 7));
        now.acknowledged(Epoch(2), 3);
        assert_eq!(now, ledger(2, 3));
        now.acknowledged(Epoch(1), 9);
        assert_eq!(now, ledger(2, 3));
    }
}
