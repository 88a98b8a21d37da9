//! Who follows the feed, and since when a revocation is therefore enforced everywhere (DESIGN §2 "enforced", §8).
//!
//! The arithmetic rests on one fact: a lease is fresh from the start of the read of the committed log that its head came
//! from, or from when its question was asked, whichever is earlier: its *basis*. A read that began after the commit of an
//! entry gives a head that holds it, and a verifier is fresh by it only once it applied that. So of the leases that do not
//! know an entry each has a basis before the commit, and each ends within B of it.
use crate::mono::lengthened;
use crate::{Mono, Policies, Policy};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::{string::String, vec::Vec};
use portcullis_wire::time::Millis;
use portcullis_wire::{ClientId, InstanceId, Rev};

/// How many instances are kept unless told otherwise.
pub const DEFAULT_LIMIT: usize = 200_000;

/// How many streams an instance may have. It needs one; one more may be left over of a connection that broke without a word.
pub const STREAMS_LIMIT: u64 = 4;

/// How many instances one client may have, unless told otherwise: an eighth of the places is left for the others.
pub const fn limit_of_client(limit: usize) -> usize {
    limit - limit / 8
}

/// How many recent commits are remembered, to tell acknowledgements in time from late ones.
const COMMITS_LIMIT: usize = 16_384;

/// A verifier's instance, as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// What it calls itself.
    pub name: String,
    /// The client that it authenticates as.
    pub client: ClientId,
    /// The fail policies of its routes.
    pub policies: Policies,
    /// How long its leases last: the shorter bound that it asked for, or the server's as it was told. `None`: not said.
    pub bound_ms: Option<Millis>,
}

/// How far a revocation is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enforcement {
    /// Instances that held a lease at the commit and acknowledged it within the bound.
    pub acknowledged: u32,
    /// Instances that held one and let the bound pass: their lease ended by arithmetic.
    pub lapsed: u32,
    /// Instances that may still hold a lease older than it.
    pub pending: u32,
    /// Instances with a route under `open`, which accepts until `exp` whenever they are cut off.
    pub until_expiry: u32,
    /// After how many milliseconds from the commit nothing is pending, whatever happens: B +1%, and `stream_grace`.
    pub bounded_by_ms: Millis,
    /// Whether nothing is pending.
    pub complete: bool,
    /// When arithmetic alone makes it complete, while it is not.
    pub complete_at: Option<Mono>,
}

impl Enforcement {
    /// The same of what was complete before. That never goes back: whoever was pending then was not by word or by time, and what
    /// came since is a longer bound, or a commit that is no longer remembered.
    #[must_use]
    pub fn still_complete(self) -> Self {
        Self { lapsed: self.lapsed + self.pending, pending: 0, complete: true, complete_at: None, ..self }
    }
}

/// How an instance stands to an entry at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stands {
    /// Its id.
    pub id: InstanceId,
    /// Whether [`Fleet::enforcement`] counts it: it held a lease of this node at the commit.
    pub counted: bool,
    /// The newest position that it acknowledged here.
    pub applied: Option<Rev>,
}

/// An instance as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What its row says.
    pub instance: Instance,
    /// Whether it holds a stream to this node.
    pub connected: bool,
    /// Whether it may hold a lease.
    pub leased: bool,
    /// The newest position that it acknowledged, in this life of the server.
    pub applied: Option<Rev>,
    /// Milliseconds since it was last heard of; `None` when never in this life of the server.
    pub heard_ms_ago: Option<Millis>,
}

/// An instance is not known: it must connect anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

/// There is no room for another instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// As many as there may be are known already.
    Fleet,
    /// As many of this client.
    Client,
}

/// Which stream of its instance one is: the newest ones go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamNumber(u64);

#[derive(Debug, Clone)]
struct Record {
    instance: Instance,
    streams: u32,
    /// Streams opened so far.
    opened: u64,
    applied: Option<Rev>,
    heard: Option<Mono>,
    known_since: Mono,
    /// The leases without a gap between them: basis of the first, basis of the last.
    run: Option<(Mono, Mono)>,
    /// Positions that it acknowledged after the bound had passed: above the first, up to the second. The newest such stretch.
    late: Option<(Rev, Rev)>,
}

/// How an instance stands to an entry.
enum Standing {
    /// It held no lease at the commit.
    NotLeased,
    Acknowledged,
    Lapsed,
    /// Until then at the latest.
    Pending(Mono),
}

/// The bookkeeping; see the [module](self).
#[derive(Debug, Clone)]
pub struct Fleet {
    bound_ms: Millis,
    /// A longer bound that counts until its last leases have ended.
    older_bound: Option<(Millis, Mono)>,
    stream_grace_ms: Millis,
    limit: usize,
    limit_of_client: usize,
    records: BTreeMap<InstanceId, Record>,
    /// How many of them each client has.
    of_client: BTreeMap<ClientId, usize>,
    /// Those that may hold a lease, by what they acknowledged: who is behind stands in front. It only says where to look first;
    /// what counts is in the records.
    leased: BTreeSet<(Option<Rev>, InstanceId)>,
    commits: VecDeque<(Rev, Mono)>,
}

impl Fleet {
    /// Nobody known yet. `bound_ms` is B.
    pub fn new(bound_ms: Millis, stream_grace_ms: Millis, limit: usize) -> Self {
        Self {
            bound_ms,
            older_bound: None,
            stream_grace_ms,
            limit,
            limit_of_client: limit_of_client(limit),
            records: BTreeMap::new(),
            of_client: BTreeMap::new(),
            leased: BTreeSet::new(),
            commits: VecDeque::new(),
        }
    }

    /// The same, with another limit for one client.
    #[must_use]
    pub fn with_limit_of_client(self, limit_of_client: usize) -> Self {
        Self { limit_of_client, ..self }
    }

    /// Changes B. A shorter one counts after the longer one has passed, for leases under that may be out.
    pub fn set_bound(&mut self, bound_ms: Millis, now: Mono) {
        if bound_ms < self.bound_ms {
            let ends = now.plus(lengthened(self.bound_ms)).plus(self.stream_grace_ms);
            let longest =
                self.older_bound.filter(|(_, end)| *end > now).map_or(self.bound_ms, |(b, _)| b.max(self.bound_ms));
            self.older_bound = Some((longest, ends.max(self.older_bound.map_or(ends, |(_, e)| e))));
        }
        self.bound_ms = bound_ms;
    }

    /// The bound that leases may be out under, lengthened by what clocks may differ.
    fn longest(&self, now: Mono) -> Millis {
        let older = self.older_bound.filter(|(_, end)| *end > now).map_or(0, |(bound, _)| bound);
        lengthened(self.bound_ms.max(older))
    }

    /// After a restart of the server: an instance that its row tells of may hold a lease that was given right before `now`.
    ///
    /// # Errors
    /// [`Full`] at the limit.
    pub fn restore(&mut self, instance: Instance, now: Mono) -> Result<(), Full> {
        let id = instance.id;
        if self.records.len() >= self.limit && !self.records.contains_key(&id) {
            return Err(Full::Fleet);
        }
        let record = self.connect(instance, now); // of however many of its client: each may hold a lease
        record.run = Some((Mono(i64::MIN), now));
        let applied = record.applied;
        self.leased.insert((applied, id));
        Ok(())
    }

    /// An instance introduced itself (its row is committed). Tells nothing about leases yet.
    ///
    /// # Errors
    /// [`Full`] at the limit: the stream must be refused, for what is not counted must not get a lease.
    pub fn known(&mut self, instance: Instance, now: Mono) -> Result<(), Full> {
        if let Some(full) = self.no_room(instance.id, instance.client) {
            return Err(full);
        }
        self.connect(instance, now).heard = Some(now);
        Ok(())
    }

    fn connect(&mut self, instance: Instance, now: Mono) -> &mut Record {
        let (id, client) = (instance.id, instance.client);
        let (applied, heard, run, late) = (None, None, None, None);
        let record = self.records.entry(id).or_insert_with(|| {
            *self.of_client.entry(client).or_default() += 1;
            let (instance, known_since) = (instance.clone(), now);
            Record { instance, streams: 0, opened: 0, applied, heard, known_since, run, late }
        });
        record.instance = Instance { client: record.instance.client, ..instance };
        record
    }

    /// A stream of this instance opened at this node. At [`STREAMS_LIMIT`] the oldest one gives way, not the new one: what is
    /// left over of a broken connection must not keep a verifier from coming back.
    ///
    /// # Errors
    /// [`Unknown`] when it never introduced itself.
    pub fn stream_opened(&mut self, id: InstanceId, now: Mono) -> Result<StreamNumber, Unknown> {
        let record = self.records.get_mut(&id).ok_or(Unknown)?;
        record.streams = record.streams.saturating_add(1);
        record.opened += 1;
        record.heard = Some(now);
        Ok(StreamNumber(record.opened))
    }

    /// Whether so many streams of this instance were opened since that this one must end.
    pub fn gives_way(&self, id: InstanceId, stream: StreamNumber) -> bool {
        self.records.get(&id).is_none_or(|record| record.opened.saturating_sub(stream.0) >= STREAMS_LIMIT)
    }

    /// A stream of this instance ended. Its lease counts on.
    pub fn stream_closed(&mut self, id: InstanceId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.streams = record.streams.saturating_sub(1);
        }
    }

    /// Whether a read of the head that began at `read_began` may give this instance a lease: only one begun after its row was
    /// committed, for else a commit in between would not wait for it; and none to an instance that must introduce itself anew.
    pub fn may_lease(&self, id: InstanceId, read_began: Mono) -> bool {
        self.records.get(&id).is_some_and(|r| read_began >= r.known_since) && !self.must_return(id)
    }

    /// Whether this instance must introduce itself anew: it is not known, or it was told a longer bound than counts now, and
    /// leases under that would outlast what is counted for them.
    pub fn must_return(&self, id: InstanceId) -> bool {
        let longer = |r: &Record| r.instance.bound_ms.is_some_and(|told| told > self.bound_ms);
        self.records.get(&id).is_none_or(longer)
    }

    /// A lease may be given from now on. `basis`: when the read of the head began, or when the question arrived, whichever is
    /// earlier. Call it before that read begins or, where the reads are older, with the lock held that entries are applied
    /// under: nothing may be said to be enforced between the read and this.
    ///
    /// # Errors
    /// [`Unknown`]: give no lease; answer `instance_gone`.
    pub fn lease_granted(&mut self, id: InstanceId, basis: Mono, now: Mono) -> Result<(), Unknown> {
        // Streams of an earlier lease may live on beside this one.
        let longest = self.longest(now).saturating_add(self.stream_grace_ms);
        let record = self.records.get_mut(&id).ok_or(Unknown)?;
        record.heard = Some(now);
        record.run = Some(match record.run {
            Some((first, last)) if basis <= last.plus(longest) => (first.min(basis), last.max(basis)),
            _ => (basis, basis),
        });
        let applied = record.applied;
        self.leased.insert((applied, id));
        Ok(())
    }

    /// An instance acknowledged `applied`: no verdict begun from now on rests on less. Says whether that is news.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn ack(&mut self, id: InstanceId, applied: Rev, now: Mono) -> Result<bool, Unknown> {
        let late_to = self.committed_by(now.minus(self.longest(now)));
        let record = self.records.get_mut(&id).ok_or(Unknown)?;
        record.heard = Some(now);
        if record.applied.is_some_and(|known| known >= applied) {
            return Ok(false);
        }
        // The first word after a restart is no proof of lateness: it may have been said before.
        if let (Some(from), Some(to)) = (record.applied, late_to.map(|to| to.min(applied)))
            && to > from
        {
            record.late = Some((from, to));
        }
        let before = record.applied.replace(applied);
        if self.leased.remove(&(before, id)) {
            self.leased.insert((Some(applied), id));
        }
        Ok(true)
    }

    /// Remembers when a position was committed, so that a late acknowledgement still counts as late. Positions ascend.
    pub fn committed(&mut self, rev: Rev, at: Mono) {
        if self.commits.len() >= COMMITS_LIMIT {
            self.commits.pop_front();
        }
        self.commits.push_back((rev, at));
    }

    /// No earlier than when `rev` was committed, by this node's clock: what was told for it or for the oldest position after it
    /// that is remembered. `None`: nothing at or after it was told.
    pub fn committed_at(&self, rev: Rev) -> Option<Mono> {
        let index = self.commits.partition_point(|(known, _)| *known < rev);
        self.commits.get(index).map(|(_, at)| *at)
    }

    fn committed_by(&self, at: Mono) -> Option<Rev> {
        let until = self.commits.partition_point(|(_, when)| *when <= at);
        self.commits.get(until.checked_sub(1)?).map(|(rev, _)| *rev)
    }

    /// How far the entry at `rev`, committed at `committed_at`, is enforced by `now`. Instances without a lease at the commit
    /// do not count as pending: they accept nothing on a route under `closed` before they know it. No verifiers: complete.
    pub fn enforcement(&self, rev: Rev, committed_at: Mono, now: Mono) -> Enforcement {
        let bounded_by_ms = self.bounded_by(committed_at, now);
        let mut sum = Enforcement { bounded_by_ms, complete: true, ..Enforcement::default() };
        for record in self.records.values() {
            sum.until_expiry += u32::from(record.instance.policies.has(Policy::Open));
            match self.standing(record, rev, committed_at, now) {
                Standing::NotLeased => {}
                Standing::Acknowledged => sum.acknowledged += 1,
                Standing::Lapsed => sum.lapsed += 1,
                Standing::Pending(ends) => {
                    sum.pending += 1;
                    sum.complete = false;
                    sum.complete_at = sum.complete_at.max(Some(ends));
                }
            }
        }
        sum
    }

    /// After how many milliseconds no lease that is given now lives any more, nor a stream by it.
    pub fn bounded_by_ms(&self, now: Mono) -> Millis {
        self.bounded_by(now, now)
    }

    pub(crate) fn bounded_by(&self, committed_at: Mono, now: Mono) -> Millis {
        self.longest(now).max(self.longest(committed_at)).saturating_add(self.stream_grace_ms)
    }

    fn standing(&self, record: &Record, rev: Rev, committed_at: Mono, now: Mono) -> Standing {
        let longest = self.bounded_by(committed_at, now);
        let Some((first, last)) = record.run else { return Standing::NotLeased };
        let last_before = last.min(committed_at);
        if first > committed_at || last_before.plus(longest) <= committed_at {
            return Standing::NotLeased; // at the commit, nor a stream by an earlier one
        }
        let ends = last_before.plus(longest);
        let late = record.late.is_some_and(|(from, to)| from < rev && rev <= to);
        match record.applied.is_some_and(|applied| applied >= rev) {
            true if !late => Standing::Acknowledged,
            true => Standing::Lapsed,
            false if ends <= now => Standing::Lapsed,
            false => Standing::Pending(ends),
        }
    }

    /// Whether anybody but `settled` is pending as [`Fleet::enforcement`] counts it, told without counting: until when at the
    /// latest the first one found may be. While there is one, not everything is enforced, and this costs next to nothing: those
    /// that are behind stand in front, and those whose leases have ended leave the row when they are met, until their next lease.
    pub fn first_pending(
        &mut self,
        rev: Rev,
        committed_at: Mono,
        now: Mono,
        settled: &BTreeSet<InstanceId>,
    ) -> Option<Mono> {
        let older = self.older_bound.map_or(0, |(bound, _)| bound);
        let ever = lengthened(self.bound_ms.max(older)).saturating_add(self.stream_grace_ms);
        let (mut ended, mut found) = (Vec::new(), None);
        for entry in &self.leased {
            let (applied, id) = *entry;
            if applied >= Some(rev) {
                break;
            }
            let Some(record) = self.records.get(&id) else { continue };
            match self.standing(record, rev, committed_at, now) {
                Standing::Pending(ends) if !settled.contains(&id) => {
                    found = Some(ends);
                    break;
                }
                Standing::Pending(_) => {}
                // No lease of it lives, whenever an entry was committed.
                _ if record.run.is_none_or(|(_, last)| last.plus(ever) <= now) => ended.push(*entry),
                _ => {}
            }
        }
        for entry in ended {
            self.leased.remove(&entry);
        }
        found
    }

    /// The first `most` instances, by id, that [`Fleet::enforcement`] counts as pending.
    pub fn behind(&self, rev: Rev, committed_at: Mono, now: Mono, most: usize) -> Vec<InstanceId> {
        let pending = |r: &&Record| matches!(self.standing(r, rev, committed_at, now), Standing::Pending(_));
        self.records.values().filter(pending).take(most).map(|record| record.instance.id).collect()
    }

    /// How far everyone is who may hold a lease: what a relay may say for all of them. `head` when nobody is behind. Who is behind
    /// stands in front; those whose leases have ended leave the row when they are met.
    pub fn all_acknowledged(&mut self, head: Rev, now: Mono) -> Rev {
        let lives = self.bounded_by(now, now);
        while let Some(first) = self.leased.first().copied() {
            let (applied, id) = first;
            let run = self.records.get(&id).and_then(|record| record.run);
            if run.is_some_and(|(_, last)| last.plus(lives) > now) {
                return applied.unwrap_or(Rev::ZERO).min(head);
            }
            self.leased.remove(&first);
        }
        head
    }

    /// What was acknowledged was of another history: whoever may hold a lease has said nothing of this one.
    pub fn forget_acknowledgements(&mut self) {
        for record in self.records.values_mut() {
            (record.applied, record.late) = (None, None);
        }
        self.leased = core::mem::take(&mut self.leased).into_iter().map(|(_, id)| (None, id)).collect();
    }

    /// Everything that the routes of all these have as policies.
    pub fn policies(&self) -> Policies {
        self.records.values().fold(Policies::default(), |all, record| all.and(record.instance.policies))
    }

    /// Whether this instance acknowledged `rev` here.
    pub fn has_acknowledged(&self, id: InstanceId, rev: Rev) -> bool {
        self.records.get(&id).is_some_and(|record| record.applied.is_some_and(|applied| applied >= rev))
    }

    /// How each instance stands to this entry, by id.
    pub fn stands(&self, rev: Rev, committed_at: Mono, now: Mono) -> Vec<Stands> {
        let counted = |r: &Record| !matches!(self.standing(r, rev, committed_at, now), Standing::NotLeased);
        let stands = |r: &Record| Stands { id: r.instance.id, counted: counted(r), applied: r.applied };
        self.records.values().map(stands).collect()
    }

    /// The instances by id: for `/v1/admin/verifiers`.
    pub fn list(&self, now: Mono) -> Vec<Listed> {
        let longest = self.longest(now);
        let listed = |r: &Record| Listed {
            instance: r.instance.clone(),
            connected: r.streams > 0,
            leased: r.run.is_some_and(|(_, last)| last.plus(longest) > now),
            applied: r.applied,
            heard_ms_ago: r.heard.map(|at| now.since(at)),
        };
        self.records.values().map(listed).collect()
    }

    /// Removes instances that have no stream, were not heard of for `quiet_ms`, and can accept nothing any more; and says which:
    /// their rows can go. One that can hold a lease, or a stream by it, stays; one with a route under `open`, which accepts
    /// without a lease, for the longest life of a token.
    pub fn prune(&mut self, quiet_ms: Millis, longest_life_ms: Millis, now: Mono) -> Vec<InstanceId> {
        let quiet_ms = quiet_ms.max(self.bounded_by_ms(now));
        let gone = |r: &Record| {
            let heard = r.heard.unwrap_or(r.known_since).max(r.run.map_or(r.known_since, |(_, last)| last));
            let accepts_ms = if r.instance.policies.has(Policy::Open) { longest_life_ms } else { 0 };
            r.streams == 0 && now.since(heard) > quiet_ms.max(accepts_ms)
        };
        let ids: Vec<InstanceId> = self.records.iter().filter(|(_, r)| gone(r)).map(|(id, _)| *id).collect();
        for id in &ids {
            if let Some(record) = self.records.remove(id) {
                self.leased.remove(&(record.applied, *id));
                self.forget_one_of(record.instance.client);
            }
        }
        ids
    }

    fn forget_one_of(&mut self, client: ClientId) {
        if let Some(count) = self.of_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&client);
            }
        }
    }

    /// Who is known.
    pub fn ids(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.records.keys().copied()
    }

    /// Why there is no room for this one, if so. One that is known has its place.
    pub fn no_room(&self, id: InstanceId, client: ClientId) -> Option<Full> {
        if self.records.contains_key(&id) {
            return None;
        }
        let of_client = self.of_client.get(&client).copied().unwrap_or(0);
        match (self.records.len() >= self.limit, of_client >= self.limit_of_client) {
            (true, _) => Some(Full::Fleet),
            (_, true) => Some(Full::Client),
            _ => None,
        }
    }

    /// Whether this instance is known.
    pub fn contains(&self, id: InstanceId) -> bool {
        self.records.contains_key(&id)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// B in milliseconds, as it is told to verifiers.
    pub fn bound_ms(&self) -> Millis {
        self.bound_ms
    }
}
