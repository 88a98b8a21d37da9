//! A standby takes over under the server: with everything, or without the last of what was acknowledged.
//!
//! Some worlds have a database that can be failed over, and counts the commits of each server (`domain::ledger`); in the others
//! files are copied, as before.
use super::{Kind, Lapse, Phase, World, tell};
use portcullis_domain::ledger::{Commits, Ledger};
use portcullis_domain::rollback::{self, Proof};
use portcullis_domain::{Chance as _, changes::Changes};
use portcullis_store::memory::Memory;
use portcullis_wire::NodeId;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// How often a server looks at the others' counts, in milliseconds.
const LOOK: i64 = 1_000;

/// A database, and what it has beside its rows.
#[derive(Clone)]
pub struct Db {
    memory: Memory,
    /// The commits of each server, where they are counted.
    counts: BTreeMap<NodeId, u64>,
    pub timeline: u32,
}

impl Deref for Db {
    type Target = Memory;
    fn deref(&self) -> &Memory {
        &self.memory
    }
}
impl DerefMut for Db {
    fn deref_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }
}

impl From<Memory> for Db {
    fn from(memory: Memory) -> Self {
        Self { memory, counts: BTreeMap::new(), timeline: 1 }
    }
}

impl World {
    /// What a server that starts remembers: of its mark, and of the row that it finds.
    pub fn ledger_at_start(&mut self) -> Option<Ledger> {
        if !self.shared {
            return None;
        }
        let stamp = self.volume.db.stamp(self.time());
        let (epoch, timeline) = (stamp.epoch, self.volume.db.timeline);
        let mark = rollback::acknowledged(self.volume.mark.as_ref(), self.volume.proof.as_ref());
        // Who counted would tell a fork without the chain, too.
        let mark = mark.filter(|_| !self.has(Lapse::MarkWithoutChain));
        let by = mark.map_or_else(|| NodeId::from_bits(self.rng.bits()), |mark| mark.told.by);
        let count = self.volume.db.counts.get(&by).copied().unwrap_or(0);
        let found = Ledger { epoch, told: Commits { by, count, timeline } };
        Some(mark.filter(|mark| mark.epoch >= epoch && mark.told.count >= count).unwrap_or(found))
    }

    /// How many commits the database counts of the server that a proof names.
    pub fn found_of(&self, proof: &Proof) -> Option<u64> {
        self.volume.db.counts.get(&proof.commits?.by).copied()
    }

    /// The server looks whether the database has what was acknowledged; what its log says besides.
    pub fn look_for_losses(&mut self) {
        let (stamp, now) = (self.volume.db.stamp(self.time()), self.time());
        let (blind, alone) = (self.has(Lapse::NeverLooked), self.has(Lapse::TimelineAlone));
        let uncounted = self.has(Lapse::CommitsUncounted);
        let timeline = self.volume.db.timeline;
        let Some(node) = self.node.as_mut().filter(|_| !blind) else { return };
        let publisher = &node.publisher;
        let (at, chain) = ((publisher.epoch(), publisher.head()), publisher.chain());
        if stamp.epoch == at.0 && stamp.head < at.1 {
            return self.prove(Proof::by_position("the log went back".into(), (at.0, at.1), Some(chain), now));
        }
        let Some(ledger) = node.ledger.as_mut().filter(|_| !uncounted) else { return };
        let (told, was) = (ledger.told, ledger.told.timeline);
        let found = self.volume.db.counts.get(&told.by).copied();
        let looked = ledger.look(&ledger.clone(), stamp.epoch, found, timeline);
        let taken_for_lost = alone && timeline != was;
        if let Err(what) = looked.and(if taken_for_lost { Err("another timeline".into()) } else { Ok(()) }) {
            self.prove(Proof::by_commits(what, stamp.epoch, told, now));
        }
    }

    /// The server looks whether what it has seen of the others' counts is there: every second, and when a standby has taken over.
    /// Its reads of the log, one in each step, confirm what it saw before.
    pub fn look_at_others(&mut self) {
        let (epoch, at, timeline) = (self.volume.db.stamp(self.time()).epoch, self.now, self.volume.db.timeline);
        let (forgotten, unconfirmed) = (self.has(Lapse::OthersForgotten), self.has(Lapse::OthersUnconfirmed));
        let now = self.time();
        let Some(node) = self.node.as_mut() else { return };
        let Some(ledger) = node.ledger else { return };
        let mut found = self.volume.db.counts.clone();
        found.remove(&ledger.told.by);
        node.others.confirmed(node.others.looks(), timeline);
        if at < node.others_at && timeline == node.timeline {
            return;
        }
        (node.others_at, node.timeline) = (at + LOOK, timeline);
        let looked = node.others.look(epoch, timeline, &found);
        if unconfirmed {
            node.others.confirmed(node.others.looks(), timeline);
        }
        if let Err((by, count)) = looked
            && !forgotten
        {
            let seen = Commits { by, count, timeline: ledger.told.timeline };
            self.counts.add("rollback: told by what was seen of another server");
            let what = seen.lost_of_another(found.get(&by).copied(), timeline);
            self.prove(Proof::by_commits(what, epoch, seen, now));
        }
    }

    /// One commit in the database. `told`: its acknowledgement reached the server.
    pub fn counted(&mut self, changes: Changes, told: bool) -> bool {
        let now = self.time();
        let (epoch, known) = (self.volume.db.stamp(now).epoch, self.node.as_ref().and_then(|node| node.ledger));
        if self.another_acts {
            let done = self.volume.db.commit(changes, now).is_ok();
            *self.volume.db.counts.entry(self.another).or_default() += u64::from(done);
            self.counts.add("rollback: commits of another server");
            return done;
        }
        let checked = !self.has(Lapse::CommitsUncounted) && !self.has(Lapse::NeverLooked);
        if let Some(known) = known.filter(|known| checked && known.epoch == epoch) {
            let found = self.volume.db.counts.get(&known.told.by).copied().unwrap_or(0);
            if found < known.told.count {
                self.look_for_losses();
                return false; // the database writes nothing for who was told of more
            }
        }
        if self.volume.db.commit(changes, now).is_err() {
            return false;
        }
        let told = told || self.has(Lapse::UnknownIsTold);
        if let Some(known) = known {
            let count = self.volume.db.counts.entry(known.told.by).or_default();
            *count += 1;
            let count = *count;
            let epoch = self.volume.db.stamp(now).epoch;
            let ledger = self.node.as_mut().and_then(|node| node.ledger.as_mut());
            ledger.into_iter().filter(|_| told).for_each(|ledger| ledger.acknowledged(epoch, count));
        }
        told
    }

    /// What only the other server was told, which this one sees; and the standby that has nothing of it.
    pub fn only_the_other_one_is_ahead(&mut self) -> Db {
        let standby = self.volume.db.clone();
        self.another_acts = true;
        (0..4).for_each(|_| self.somebody_refreshes());
        self.another_acts = false;
        for _ in 0..2 {
            self.now += LOOK;
            self.look_at_others();
        }
        standby
    }

    /// A standby takes over. It was in step until `standby`; without one it has everything that was acknowledged.
    pub fn standby_takes_over(&mut self, standby: Option<Db>) {
        // What is under way is lost with the primary, and nobody was told of it.
        let has_all = self.volume.db.clone();
        if self.rng.chance(500) {
            self.counted(Changes::default(), false);
        }
        if standby.is_none() && self.rng.chance(500) {
            // Seen before any standby had it: a wait for the standby that was broken off.
            self.another_acts = true;
            self.counted(Changes::default(), false);
            self.another_acts = false;
            self.now += LOOK;
            self.look_at_others();
        }
        let told = self.node.as_ref().and_then(|node| node.ledger).map(|ledger| ledger.told);
        let timeline = self.volume.db.timeline + 1;
        let lost = |db: &Db| told.is_some_and(|told| told.lost(db.counts.get(&told.by).copied(), timeline).is_some());
        let lost = standby.as_ref().is_some_and(lost);
        // What only the other one was told, which dies with the primary; and what this one has seen of that.
        let by_another = |db: &Db| db.counts.get(&self.another).copied().unwrap_or(0);
        let lost_by_another = standby.as_ref().is_some_and(|db| by_another(db) < by_another(&self.volume.db));
        let found = standby.as_ref().map(|db| (db.stamp(self.time()).epoch, db.counts.clone()));
        let others = self.node.as_ref().map(|node| node.others.clone());
        let seen = others.zip(found).is_some_and(|(mut others, (epoch, mut found))| {
            found.remove(&told.map_or(self.another, |told| told.by));
            others.look(epoch, timeline, &found).is_err()
        });
        let acknowledged_lost = lost || lost_by_another;
        self.told = lost || seen || !lost_by_another;
        self.another = NodeId::from_bits(self.rng.bits());
        self.volume.db = Db { timeline, ..standby.unwrap_or(has_all) };
        let restarted = self.rng.chance(300);
        tell!(self, "a standby takes over at {}, lost: {acknowledged_lost}; restarted: {restarted}", self.place());
        if !acknowledged_lost {
            self.counts.add("rollback: a standby with everything took over");
        } else if !restarted {
            self.counts.add("rollback: a standby took over without the newest");
        }
        if restarted {
            // Then the server knows what it has written down.
            let mark = self.volume.mark;
            self.told = mark
                .and_then(|mark| mark.commits)
                .is_some_and(|told| told.lost(self.volume.db.counts.get(&told.by).copied(), timeline).is_some())
                || !acknowledged_lost;
            if !self.told {
                self.counts.add("rollback: a failover that nothing told");
            } else if acknowledged_lost {
                self.counts.add("rollback: a failover told by the mark");
            }
            self.stop_node();
            self.start_node();
        }
        if acknowledged_lost {
            let until = self.now + self.rng.range(5_000, 12_000);
            self.phase = Phase::Wrong { kind: Kind::Failover, until, restart_at: i64::MAX };
        } else {
            self.right = None;
            self.phase = Phase::Healing { until: self.now + 8_000, contested: false };
        }
    }
}
