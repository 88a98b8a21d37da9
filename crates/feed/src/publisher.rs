//! The log at the server: what a node knows of the committed log, in order, and what it hands to verifiers.
//!
//! A node reads committed entries from the store and appends them here; nothing enters that does not continue the chain, so a
//! gap, a fork or a rollback in the store is an error at once and never reaches a verifier.
use crate::{Mono, RevokedSet};
use alloc::{collections::VecDeque, vec::Vec};
use core::fmt;
use portcullis_wire::frame::{Keys, Snapshot, Tail};
use portcullis_wire::jws::Jwk;
use portcullis_wire::{Chain, Entry, Epoch, KeyId, LogId, Rev, Time, Verb};

/// How much a publisher keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Recent entries, for resuming without a snapshot.
    pub recent: usize,
    /// Live entries in the set.
    pub set: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { recent: 16_384, set: crate::set::DEFAULT_LIMIT }
    }
}

/// The log as read from the store in one snapshot: the start of a publisher.
#[derive(Debug, Clone)]
pub struct LogState {
    /// The log's own id.
    pub log: LogId,
    /// Its generation.
    pub epoch: Epoch,
    /// Position of the newest entry.
    pub head: Rev,
    /// Chain link at `head`.
    pub chain: Chain,
    /// F.
    pub floor: Time,
    /// All entries that are not forgotten, by ascending rev.
    pub live: Vec<Entry>,
}

/// Why entries do not continue the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// An entry is not the next one.
    Gap {
        /// The position that had to come.
        expected: Rev,
        /// The one that came.
        found: Rev,
    },
    /// The entries do not lead to the hash that the store gives for its head.
    Fork {
        /// The position at which the hashes differ.
        at: Rev,
    },
    /// No position is left in this epoch.
    Exhausted,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { expected, found } => write!(f, "the log has a gap: {found} came where {expected} was due"),
            Self::Fork { at } => write!(f, "the log is forked: the hash at {at} is another"),
            Self::Exhausted => f.write_str("the log has no positions left"),
        }
    }
}
impl core::error::Error for Broken {}

/// What a verifier that comes back with a position gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Resume {
    /// These entries continue from its position (none when it is at the head).
    Entries(Vec<Entry>),
    /// Its position was pruned, is of another epoch, or there is none: a snapshot.
    Snapshot,
    /// Its position is ahead of this node's head: this node lags, or the log was rolled back.
    Ahead,
}

/// The log at a server node; see the [module](self).
#[derive(Debug, Clone)]
pub struct Publisher {
    log: LogId,
    epoch: Epoch,
    head: Rev,
    chain: Chain,
    floor: Time,
    set: RevokedSet,
    recent: VecDeque<Entry>,
    /// The link before each entry that was appended here, the newest last: what a position is held against without hashing anew.
    links: VecDeque<Chain>,
    keys: Vec<Jwk>,
    /// The newest entry about a key, and the newest key of the list that goes with it.
    key_entry: Option<(Rev, Option<KeyId>)>,
    limits: Limits,
}

impl Publisher {
    /// From the log as the store has it.
    pub fn new(state: LogState, limits: Limits, now: Mono) -> Self {
        let mut set = RevokedSet::with_limit(limits.set);
        // Which list goes with it is told with the first keys; until then nobody confirms it.
        let about_keys = state.live.iter().any(|entry| entry.verb == Verb::Key);
        let key_entry = about_keys.then_some((state.head, None));
        state.live.iter().for_each(|entry| set.apply(entry, now));
        let mut recent = VecDeque::new();
        // The newest live entries may be consecutive up to the head; those can serve a resume.
        for entry in state.live.into_iter().rev().take(limits.recent) {
            let due = recent.front().map_or(Some(state.head), |e: &Entry| e.rev.0.checked_sub(1).map(Rev));
            if due != Some(entry.rev) {
                break;
            }
            recent.push_front(entry);
        }
        Self {
            log: state.log,
            epoch: state.epoch,
            head: state.head,
            chain: state.chain,
            floor: state.floor,
            set,
            recent,
            links: VecDeque::new(),
            keys: Vec::new(),
            key_entry,
            limits,
        }
    }

    /// From what a follower knows: the set may have widened what it holds, so no entry of it serves a resume.
    pub fn of_set(log: LogId, epoch: Epoch, at: (Rev, Chain), floor: Time, set: RevokedSet, limits: Limits) -> Self {
        let ((head, chain), keys, links) = (at, Vec::new(), VecDeque::new());
        let key_entry = set.dead_keys().next().is_some().then_some((head, None));
        Self { log, epoch, head, chain, floor, set, recent: VecDeque::new(), links, keys, key_entry, limits }
    }

    /// A log without entries.
    pub fn empty(log: LogId, limits: Limits) -> Self {
        let chain = Chain::genesis(log);
        let (epoch, head, floor) = (Epoch::default(), Rev::ZERO, Time::ZERO);
        Self::new(LogState { log, epoch, head, chain, floor, live: Vec::new() }, limits, Mono(0))
    }

    /// Appends committed entries: consecutive, from the position after the head, leading to `chain`, the hash that the store
    /// has at the last of them. All or nothing. Before entries about keys, the list that goes with them is to be set.
    ///
    /// # Errors
    /// [`Broken`] when they do not continue the log; nothing has changed then, and this node must not go on serving it.
    pub fn append(&mut self, entries: &[Entry], chain: Chain, now: Mono) -> Result<(), Broken> {
        let (mut head, mut link) = (self.head, self.chain);
        let mut links = Vec::with_capacity(entries.len());
        for entry in entries {
            let expected = head.next().ok_or(Broken::Exhausted)?;
            if entry.rev != expected {
                return Err(Broken::Gap { expected, found: entry.rev });
            }
            links.push(link);
            link = link.after(entry);
            head = expected;
        }
        if link != chain {
            return Err(Broken::Fork { at: head });
        }
        let about_keys = entries.iter().rfind(|entry| entry.verb == Verb::Key);
        self.key_entry = about_keys.map(|entry| (entry.rev, self.newest_key())).or(self.key_entry);
        for (entry, before) in entries.iter().zip(links) {
            self.set.apply(entry, now);
            if self.links.len() >= self.limits.recent {
                self.links.pop_front();
            }
            self.links.push_back(before);
            if self.recent.len() >= self.limits.recent {
                self.recent.pop_front();
            }
            self.recent.push_back(entry.clone());
        }
        let newly_dead = |k: &Jwk| self.set.key_is_dead(k.kid);
        if self.keys.iter().any(newly_dead) {
            let set = &self.set;
            self.keys.retain(|k| !set.key_is_dead(k.kid));
        }
        (self.head, self.chain) = (head, link);
        Ok(())
    }

    /// Raises F and forgets below it. A lower one changes nothing: F never goes back.
    pub fn set_floor(&mut self, floor: Time) {
        if floor > self.floor {
            self.floor = floor;
            self.set.forget(floor);
        }
    }

    /// Sets the public signing keys; dead ones are left out. Says whether the list changed.
    pub fn set_keys(&mut self, mut keys: Vec<Jwk>) -> bool {
        keys.retain(|k| !self.set.key_is_dead(k.kid));
        let changed = keys != self.keys;
        self.keys = keys;
        if let Some((rev, None)) = self.key_entry {
            self.key_entry = Some((rev, self.newest_key()));
        }
        changed
    }

    fn newest_key(&self) -> Option<KeyId> {
        self.keys.iter().map(|jwk| jwk.kid).max()
    }

    /// How much of what a verifier has applied counts as confirmed, given the keys that it names: an entry about a key is
    /// confirmed by who knows the list that goes with it, for the next key may sign from then on.
    pub fn confirmed(&self, applied: Rev, known: Option<&[KeyId]>) -> Rev {
        match self.key_entry {
            Some((rev, newest)) if known.is_some_and(|known| known.iter().max() < newest.as_ref()) => {
                applied.min(Rev(rev.0.saturating_sub(1)))
            }
            _ => applied,
        }
    }

    /// The `keys` frame as of the head.
    pub fn keys_frame(&self) -> Keys {
        Keys { rev: self.head, keys: self.keys.clone() }
    }

    /// The keys for an answer to a verifier that names the ones it knows; `None` when they are these.
    pub fn keys_unless(&self, known: Option<&[KeyId]>) -> Option<Vec<Jwk>> {
        let same = |known: &[KeyId]| known.iter().eq(self.keys.iter().map(|jwk| &jwk.kid));
        (!known.is_some_and(same)).then(|| self.keys.clone())
    }

    /// What a verifier gets that has applied everything up to `from` of `epoch`; at most `max` entries, else a snapshot.
    pub fn resume(&self, epoch: Epoch, from: Rev, max: usize) -> Resume {
        if epoch > self.epoch || (epoch == self.epoch && from > self.head) {
            return Resume::Ahead;
        }
        if epoch != self.epoch {
            return Resume::Snapshot;
        }
        let behind = usize::try_from(self.head.0 - from.0).unwrap_or(usize::MAX);
        if behind > self.recent.len() || behind > max {
            return Resume::Snapshot;
        }
        Resume::Entries(self.recent.iter().skip(self.recent.len() - behind).cloned().collect())
    }

    /// Whether the log has this link at `rev` of its epoch, when what it wrote since then is at hand and is no more than `max`
    /// entries.
    pub fn agrees(&self, rev: Rev, link: Chain, max: usize) -> Option<bool> {
        let behind = self.head.0.checked_sub(rev.0).and_then(|behind| usize::try_from(behind).ok())?;
        if behind > max {
            return None;
        }
        if behind == 0 {
            return Some(link == self.chain);
        }
        // Each renewal of each lease comes here.
        if let Some(own) = self.links.len().checked_sub(behind).and_then(|at| self.links.get(at)) {
            return Some(link == *own);
        }
        let skip = self.recent.len().checked_sub(behind)?;
        Some(self.recent.iter().skip(skip).fold(link, |link, entry| link.after(entry)) == self.chain)
    }

    /// As [`Publisher::resume`], in the form of an acknowledgement's answer. A verifier that is ahead gets no entries.
    pub fn tail(&self, epoch: Epoch, from: Rev, max: usize) -> Tail {
        match self.resume(epoch, from, max) {
            Resume::Entries(entries) => Tail::Entries(entries),
            Resume::Snapshot => Tail::Snapshot,
            Resume::Ahead => Tail::Entries(Vec::new()),
        }
    }

    /// The live entries as of the head, in parts of at most `max_per_part` entries; at least one part. The keys are in part 0.
    pub fn snapshot(&self, max_per_part: usize) -> Vec<Snapshot> {
        let live = self.set.live_entries();
        let parts = live.chunks(max_per_part.max(1)).map(<[Entry]>::to_vec).collect::<Vec<_>>();
        let parts = if parts.is_empty() { alloc::vec![Vec::new()] } else { parts };
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let numbered = (0u32..).zip(parts);
        numbered
            .map(|(part, entries)| Snapshot {
                epoch: self.epoch,
                rev: self.head,
                chain: self.chain,
                horizon_floor: self.floor,
                entries,
                keys: if part == 0 { self.keys.clone() } else { Vec::new() },
                part,
                parts: count,
            })
            .collect()
    }

    /// The log's id.
    pub fn log(&self) -> LogId {
        self.log
    }
    /// The log's generation.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// Position of the newest entry.
    pub fn head(&self) -> Rev {
        self.head
    }
    /// Chain link at the head.
    pub fn chain(&self) -> Chain {
        self.chain
    }
    /// F.
    pub fn floor(&self) -> Time {
        self.floor
    }
    /// The public signing keys, without dead ones.
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }
    /// What is revoked, as of the head.
    pub fn set(&self) -> &RevokedSet {
        &self.set
    }
}
