//! The disk: one writer, and commits that begin, become durable, become visible, and are told, each a little later. What a
//! crash leaves depends on how far a commit had come.
use crate::mutant::Mutant;
use crate::truth::Act;
use crate::world::{Event, World, tell};
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_store::memory::Memory;
use portcullis_store::{CommitError, StoreError};
use portcullis_wire::{LogId, Rev, Time};
use std::collections::VecDeque;

/// Who committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// An operation.
    Op(u64),
    /// An operation that raises the horizon first.
    Horizon(u64),
    /// Housekeeping.
    House,
    /// An operation that takes an attempt first.
    Take(u64),
    /// Nobody waits for it.
    Nobody,
    /// The task that looks after keys.
    Keys,
    /// A verifier that opens a stream.
    Opening(u64),
    /// A node that tells others, in this life of it.
    Sender(usize, u32),
}

/// What the checks must know of a commit: the head of the facts that it was decided on, and what it takes away.
#[derive(Debug, Clone, Default)]
pub struct About {
    pub facts: Rev,
    pub act: Option<Act>,
    /// The code that is redeemed.
    pub code: Option<[u8; 32]>,
    /// The sign-in by another provider that comes through.
    pub arrival: Option<crate::upstream::UpstreamRequest>,
    /// What is done with a link in a mail.
    pub letter: Option<crate::letters::LetterRequest>,
    /// What rules make of it.
    pub ruled: Option<crate::suspicion::Ruled>,
}

/// What the writer reports.
#[derive(Debug)]
pub struct Told {
    pub owner: Owner,
    pub result: Result<Committed, CommitError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    /// A fault, and nothing was written.
    Fails,
    /// A fault; written nevertheless.
    WrittenButUnknown,
    /// A fault; not written, but nobody can tell.
    LostAndUnknown,
}

#[derive(Debug)]
struct Job {
    owner: Owner,
    changes: Changes,
    about: About,
    fate: Fate,
}

#[derive(Debug)]
struct Settled {
    owner: Owner,
    changes: Changes,
    committed: Committed,
    unknown: bool,
}

/// The disk.
#[derive(Debug)]
pub struct Disk {
    /// What a crash leaves.
    pub durable: Memory,
    /// What readers see.
    pub visible: Memory,
    waiting: VecDeque<Job>,
    begun: Option<Job>,
    settling: VecDeque<Settled>,
    /// No commit ends before this: the disk stalls.
    pub stalled_until: i64,
    visible_at: i64,
}

impl Disk {
    pub fn new(log: LogId, now: Time) -> Self {
        let durable = Memory::new(log, now);
        let (visible, waiting, settling) = (durable.clone(), VecDeque::new(), VecDeque::new());
        Self { durable, visible, waiting, begun: None, settling, stalled_until: 0, visible_at: 0 }
    }
    /// Writes without delay, before anybody looks: for setting the world up.
    pub fn set_up(&mut self, changes: Changes, now: Time) -> bool {
        let written = self.durable.commit(changes, now).is_ok();
        self.visible = self.durable.clone();
        written
    }
}

impl World {
    /// Hands changes to the writer.
    pub fn submit(&mut self, owner: Owner, changes: Changes, about: About) {
        if !self.node.up {
            return; // it has just died in the middle of something
        }
        let fate = match self.rng.range(0, 999) {
            0..=3 => Fate::Fails,
            4..=6 => Fate::WrittenButUnknown,
            7..=9 => Fate::LostAndUnknown,
            _ => Fate::Works,
        };
        self.disk.waiting.push_back(Job { owner, changes, about, fate });
        self.begin_next();
    }

    fn begin_next(&mut self) {
        if self.disk.begun.is_some() {
            return;
        }
        let Some(job) = self.disk.waiting.pop_front() else { return };
        let owner = job.owner;
        self.disk.begun = Some(job);
        let life = self.node.life;
        let delay = self.rng.delay(4, 40).max(self.disk.stalled_until - self.now);
        self.after(delay, Event::Durable { life });
        if self.has(Mutant::AnswerBeforeDurable)
            && let Owner::Op(op) = owner
        {
            let committed = Committed {
                rev: self.truth.head().next(),
                ended: Some(0),
                attempt: None,
                pruned: 0,
                at: self.database.now(self.now),
            };
            self.op_committed(op, Ok(committed));
        }
        self.maybe_crash("crash: commit begun");
    }

    /// The commit that has begun is on disk, or refused, or failed.
    pub fn commit_durable(&mut self) {
        let Some(job) = self.disk.begun.take() else { return };
        self.write(job, true);
        self.begin_next();
        self.maybe_crash("crash: commit durable");
    }

    fn write(&mut self, job: Job, telling: bool) {
        let now = self.database.now(self.now);
        let Job { owner, changes, about, fate } = job;
        let fault = |what: &str| StoreError::new(format!("planted: {what}"));
        match fate {
            Fate::Fails => {
                self.counts.add("commit faults: nothing written");
                return self.tell_owner(owner, Err(CommitError::Failed(fault("nothing written"))), telling);
            }
            Fate::LostAndUnknown => {
                self.counts.add("commit faults: written or not");
                return self.tell_owner(owner, Err(CommitError::Unknown(fault("lost, but nobody knows"))), telling);
            }
            Fate::Works | Fate::WrittenButUnknown => {}
        }
        let floor = changes.steps.iter().find_map(|step| match step {
            Change::RaiseFloor(to) => Some(*to),
            _ => None,
        });
        if let Some(to) = floor {
            self.check_floor(to);
        }
        let ends = changes.steps.iter().any(|step| matches!(step, Change::Revoke(_)));
        let before = ends.then(|| self.disk.durable.clone());
        match self.disk.durable.commit(changes.clone(), now) {
            Err(error) => {
                tell!(self, "disk: {owner:?} refused: {error}");
                self.tell_owner(owner, Err(error), telling);
            }
            Ok(committed) => {
                let acts = self.truth.acts.len();
                self.truth_of_commit(about, &changes, committed);
                if let Some(before) = before {
                    self.truth_of_told(&before, acts, committed.at);
                }
                let unknown = fate == Fate::WrittenButUnknown;
                self.disk.settling.push_back(Settled { owner, changes, committed, unknown });
                if telling {
                    let at = (self.now + self.rng.delay(2, 60)).max(self.disk.visible_at);
                    self.disk.visible_at = at;
                    let life = self.node.life;
                    self.at(at, Event::Visible { life });
                }
            }
        }
    }

    fn tell_owner(&mut self, owner: Owner, result: Result<Committed, CommitError>, telling: bool) {
        if telling {
            let (life, delay) = (self.node.life, self.rng.delay(3, 30));
            self.after(delay, Event::Told { life, told: Box::new(Told { owner, result }) });
        }
    }

    fn settle_one(&mut self) -> Option<Settled> {
        let settled = self.disk.settling.pop_front()?;
        let again = self.disk.visible.commit(settled.changes.clone(), settled.committed.at);
        if !matches!(&again, Ok(committed) if *committed == settled.committed) {
            self.violate("I4", format!("what was durable cannot be seen: {again:?}"));
        }
        let head = self.disk.visible.stamp(settled.committed.at).head;
        if self.truth.heads.last().is_none_or(|(_, known)| *known != head) {
            self.truth.heads.push((self.now, head));
        }
        Some(settled)
    }

    /// The oldest durable commit can be read from now on.
    pub fn commit_visible(&mut self) {
        let Some(settled) = self.settle_one() else { return };
        let result = if settled.unknown {
            self.counts.add("commit faults: written or not");
            Err(CommitError::Unknown(StoreError::new("planted: written, but nobody knows")))
        } else {
            Ok(settled.committed)
        };
        self.tell_owner(settled.owner, result, true);
        self.maybe_crash("crash: commit visible");
    }

    /// Who committed learns of it.
    pub fn commit_told(&mut self, told: Told) {
        let Told { owner, result } = told;
        if matches!(&result, Ok(committed) if committed.rev.is_some()) {
            self.wake_hub();
        }
        match owner {
            Owner::Op(op) => self.op_committed(op, result),
            Owner::Horizon(op) => self.horizon_committed(op, result),
            Owner::Take(op) => self.attempt_taken(op, result),
            Owner::Nobody => {}
            Owner::House => self.house_kept(result.is_ok()),
            Owner::Keys => self.keys_written(&result),
            Owner::Opening(opening) => self.opening_committed(opening, result),
            Owner::Sender(sender, life) => self.sender_committed(sender, life, &result),
        }
        self.maybe_crash("crash: commit replied");
    }

    /// What the disk holds after a crash: what was durable; of the commit that had begun, all or nothing.
    pub fn disk_after_crash(&mut self) {
        self.disk.waiting.clear();
        if let Some(job) = self.disk.begun.take() {
            if self.rng.chance(500) {
                self.counts.add("crash left a commit behind");
                self.write(Job { fate: Fate::Works, ..job }, false);
            } else {
                self.counts.add("crash undid a commit");
            }
        }
        while self.settle_one().is_some() {}
        self.disk.visible_at = 0;
    }
}
