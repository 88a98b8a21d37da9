//! Several nodes on one database (DESIGN §9): what this one says in its row, and what it reads of the others.
//!
//! A row is written when something changed that another node waits for, and every few seconds to show that the node lives. The
//! log is the truth; rows carry only what no database knows: who has acknowledged what, at which node. The sum is
//! `feed::cluster`'s.
//!
//! **The fence.** A row whose beat stands still is removed by the others after the time that leases given under it can live.
//! So a node gives leases only under a beat that is not older than [`cluster::FENCE`]: one that was stopped for a minute and comes back
//! writes its row first. No clock but the monotonic ones is asked.
use super::Hub;
use super::enforcement::Told;
use crate::high_water::Proof;
use crate::real;
use portcullis_feed::cluster::{self, Report};
use portcullis_feed::{Mono, fleet};
use portcullis_store::{News, NodeRow, StoreError};
use portcullis_wire::{InstanceId, NodeId, Rev};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

mod lists;

pub(super) use lists::Known;
pub use lists::{Placed, WholeFleet};

/// How often a row is written although nothing has changed, in milliseconds.
const BEAT: i64 = 3_000;
/// How often rows are looked at: while somebody waits, and else.
const WHILE_ASKED: Duration = Duration::from_millis(50);
const WHILE_QUIET: Duration = Duration::from_millis(1_000);
/// How often the counts of the others' commits are looked at, in milliseconds.
const LOOK_AT_OTHERS: i64 = 1_000;
/// Between two looks, whatever happens.
const REST: Duration = Duration::from_millis(5);
/// And for each verifier that is counted then: some times what that takes.
const REST_FOR_EACH: Duration = Duration::from_micros(1);
/// Whose beat stands still for longer is late: each writes its row every [`BEAT`].
const LATE: i64 = BEAT + 2_000;
/// How long an end waits until the others are told.
const LEAVE: Duration = Duration::from_secs(1);

/// What a node says. Members may come; a node of an older release does not read them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Body {
    version: String,
    /// The newest position that somebody at this node waits for.
    asks: Option<Rev>,
    /// What it says about the newest position that another node waits for.
    report: Option<Report>,
    /// Whether somebody here wants to see the fleet.
    #[serde(default)]
    wants_list: bool,
    /// Its instances, while somebody elsewhere wants to see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    list: Option<Vec<lists::Row>>,
    /// How the newest position that another node waits for was enforced, where this one knows that in whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<Told>,
    /// What proves that the database is older than what it has said: it is so for every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rolled_back: Option<Proof>,
    /// It is being stopped, and gives no more leases.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    left: bool,
}

impl Body {
    /// Whether a row with this tells the others nothing that they do not know by the one that was `written`.
    fn says_nothing_new_after(&self, written: &Self) -> bool {
        let Self { version, asks, report, wants_list, list, told, rolled_back, left } = self;
        let same_list = match (list, &written.list) {
            (Some(list), Some(before)) => {
                list.len() == before.len() && list.iter().zip(before).all(|(row, before)| row.is_but_for_age(before))
            }
            (list, before) => list.is_none() && before.is_none(),
        };
        same_list
            && (version, asks, report, wants_list)
                == (&written.version, &written.asks, &written.report, &written.wants_list)
            && (told, rolled_back, left) == (&written.told, &written.rolled_back, &written.left)
    }
}

/// Another node.
#[derive(Debug, Clone)]
struct Other {
    beat: u64,
    /// When a new beat was seen last: the beginning of that read, and its end.
    seen: Mono,
    known: Mono,
    body: Option<Body>,
}

impl Other {
    fn has_left(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.left)
    }

    /// Whether it lives and has not shown it for too long.
    fn is_late(&self, now: Mono) -> bool {
        !self.has_left() && now.since(self.seen) > LATE
    }

    /// Whether no lease that it gave can live any more; `bounded_by_ms` as [`fleet::Fleet::bounded_by_ms`].
    fn is_gone(&self, now: Mono, bounded_by_ms: i64) -> bool {
        match self.has_left() {
            true => cluster::is_gone_after_leaving(self.known, now, bounded_by_ms),
            false => cluster::is_gone(self.seen, now, bounded_by_ms),
        }
    }
}

/// The other nodes, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherNodes {
    /// Those that have a row.
    pub known: usize,
    /// Those of them whose row stands still for some seconds.
    pub silent: usize,
}

/// The other nodes as of a read.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    began: Mono,
    others: Arc<BTreeMap<NodeId, Other>>,
}

impl Seen {
    /// Where there are no other nodes, nor will be.
    fn nobody() -> Self {
        Self { began: Mono(i64::MAX), others: Arc::default() }
    }

    /// What each says, `None` where one has said nothing. Rows that were read before `after` do not tell of every node: one may
    /// have joined that is not among them.
    pub(super) fn reports(&self, after: Mono) -> Vec<Option<&Report>> {
        let said = self.others.values().map(|other| other.body.as_ref().and_then(|body| body.report.as_ref()));
        said.chain((self.began < after).then_some(None)).collect()
    }
}

#[derive(Debug, Default)]
struct Own {
    beat: u64,
    /// Positions that are waited for here, and by how many.
    waits: BTreeMap<Rev, u32>,
    /// How many want to see the fleet.
    lists: u32,
    written: Option<Body>,
}

/// This node among others.
#[derive(Debug)]
pub(super) struct Nodes {
    id: NodeId,
    own: Mutex<Own>,
    /// Something here is to be written, or the rows are to be looked at.
    changed: Notify,
    seen: watch::Sender<Seen>,
    /// When the last write of the row that succeeded began; and the last read of the keys.
    beat_began: AtomicI64,
    keys_read: AtomicI64,
    /// When the first look at the rows began.
    joined: AtomicI64,
    /// When the others' counts were looked at last.
    others_looked: AtomicI64,
    /// PostgreSQL's timeline then; each promotion of a standby begins a new one.
    timeline: AtomicU32,
    /// No more leases are given.
    left: AtomicBool,
    /// Who had a row by the last read that was made because a node is silent, and when that began.
    instances: tokio::sync::Mutex<Option<(Mono, Arc<BTreeSet<InstanceId>>)>>,
}

/// Somebody waits for a position, until this is dropped.
struct Waiting<'a>(&'a Nodes, Rev);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut own = self.0.own();
        if let Some(n) = own.waits.get_mut(&self.1) {
            *n -= 1;
            if *n == 0 {
                own.waits.remove(&self.1);
            }
        }
    }
}

/// A question to the other nodes.
pub(super) struct Asking<'a> {
    _waiting: Waiting<'a>,
    seen: watch::Receiver<Seen>,
}

impl Asking<'_> {
    /// What was said until now is known.
    pub(super) fn mark(&mut self) {
        self.seen.mark_unchanged();
    }
    /// Something may have been said since.
    pub(super) async fn news(&mut self) {
        drop(self.seen.changed().await);
    }
}

impl Nodes {
    pub(super) fn new(id: NodeId, now: Mono) -> Self {
        Self {
            id,
            own: Mutex::default(),
            changed: Notify::new(),
            seen: watch::channel(Seen { began: Mono(i64::MIN), ..Seen::nobody() }).0,
            beat_began: AtomicI64::new(i64::MIN),
            keys_read: AtomicI64::new(now.0),
            joined: AtomicI64::new(i64::MAX),
            others_looked: AtomicI64::new(i64::MIN),
            timeline: AtomicU32::new(0),
            left: AtomicBool::new(false),
            instances: tokio::sync::Mutex::default(),
        }
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner) // each change is one assignment
    }

    fn wait_for(&self, rev: Rev) -> Waiting<'_> {
        *self.own().waits.entry(rev).or_default() += 1;
        self.changed.notify_one();
        Waiting(self, rev)
    }

    /// Whether a lease by a question that arrived at `basis` may be given: see the fence.
    fn may_lease(&self, basis: Mono) -> bool {
        let within = |at: &AtomicI64| cluster::within_the_fence(basis, Mono(at.load(Ordering::Acquire)));
        !self.left.load(Ordering::Acquire) && within(&self.beat_began) && within(&self.keys_read)
    }
}

impl Hub {
    fn nodes(&self) -> Option<&Nodes> {
        self.inner.nodes.as_ref()
    }

    /// Whether other nodes may be at work.
    pub(crate) fn is_shared(&self) -> bool {
        self.nodes().is_some()
    }

    /// This node among others.
    pub fn node_id(&self) -> Option<NodeId> {
        self.nodes().map(|nodes| nodes.id)
    }

    /// Whether the work that is to be done once is this node's: it is the first of those that live. For a moment two may hold
    /// themselves for it, or none; all that work is decided under the rows that it changes. A node that is rolled back writes
    /// nothing of the kind: what it found must not come to look like what was lost.
    pub fn leads(&self) -> bool {
        if self.rolled_back().is_some() {
            return false;
        }
        let Some(nodes) = self.nodes() else { return true };
        let now = real::mono();
        let others = nodes.seen.borrow().others.clone();
        let lives = |other: &Other| now.since(other.seen) <= cluster::FENCE && !other.has_left();
        !others.iter().any(|(id, other)| *id < nodes.id && lives(other))
    }

    /// There is something that the other nodes must know at once.
    pub(super) fn tell_the_others(&self) {
        if let Some(nodes) = self.nodes() {
            nodes.changed.notify_one();
        }
    }

    /// The keys were read, beginning then.
    pub(crate) fn keys_were_read(&self, began: Mono) {
        if let Some(nodes) = self.nodes() {
            nodes.keys_read.fetch_max(began.0, Ordering::AcqRel);
        }
    }

    /// Whether this node may give a lease for a question that arrived then.
    pub(super) fn within_the_fence(&self, basis: Mono) -> bool {
        self.nodes().is_none_or(|nodes| nodes.may_lease(basis))
    }

    /// Writes this node's row for the first time; before that it gives no leases.
    pub(super) async fn join(&self) -> Result<(), StoreError> {
        if self.is_shared() {
            self.look_at_nodes().await?;
            if let Some(nodes) = self.nodes() {
                nodes.joined.store(nodes.seen.borrow().began.0, Ordering::Release);
            }
            self.believe_the_others().await?;
            self.write_row(true).await?;
        }
        Ok(())
    }

    /// The task that keeps the row, for ever.
    pub(crate) async fn keep_row(self) {
        let Some(nodes) = self.inner.nodes.as_ref() else { return };
        let (mut acks, mut told) = (self.inner.acks.subscribe(), 0);
        loop {
            if let Err(error) = self.round().await {
                tracing::warn!(%error, "the nodes' rows could not be read or written; it is tried again");
            }
            // What it says is counted anew each time: of very many verifiers not more often than is worth it.
            let counted = u32::try_from(self.state().fleet.len()).unwrap_or(u32::MAX);
            tokio::time::sleep(REST + REST_FOR_EACH * counted).await;
            let asked = self.asked().is_some();
            let busy = {
                let own = nodes.own();
                asked || own.lists > 0 || !own.waits.is_empty()
            };
            let pause = tokio::time::sleep(if busy { WHILE_ASKED } else { WHILE_QUIET });
            tokio::select! {
                () = nodes.changed.notified() => {}
                newest = self.inner.store.news(News::Nodes, told) => told = newest,
                _ = acks.changed(), if asked => {}
                () = pause => {}
            }
        }
    }

    async fn round(&self) -> Result<(), StoreError> {
        self.look_at_nodes().await?;
        self.believe_the_others().await?;
        if let Some(rev) = self.asked() {
            // Others wait: verifiers here are asked to speak now, too.
            if self.inner.prompt.fetch_max(rev.0, Ordering::AcqRel) < rev.0 {
                self.wake();
                self.bump();
            }
        }
        // Before the look: that may fail for long, and without its row the node gives no leases.
        self.write_row(false).await?;
        self.look_at_what_others_were_told().await?;
        self.remove_the_silent().await
    }

    /// What one node has proven counts at all, until the database meets it: rows stay behind in the one that was wrong, and in the
    /// right one when it is back. What no database can meet counts while the node that says so lives. A row of an older
    /// generation of the log says nothing about this one.
    async fn believe_the_others(&self) -> Result<(), StoreError> {
        let Some(nodes) = self.nodes() else { return Ok(()) };
        let (epoch, _) = self.at();
        let joined = Mono(nodes.joined.load(Ordering::Acquire));
        let others = nodes.seen.borrow().others.clone();
        for (id, other) in others.iter() {
            let proof = other.body.as_ref().and_then(|body| body.rolled_back.clone());
            let says_so = |proof: &Proof| proof.told_by_position || other.seen > joined && !other.has_left();
            let Some(proof) = proof.filter(|proof| proof.epoch >= epoch && says_so(proof)) else { continue };
            let known = self.rolled_back().is_some_and(|known| known.as_ref().clone().and(&proof) == *known);
            let further = self.rolled_back().is_none_or(|known| proof.reaches_beyond(&known));
            if (further || !known) && !crate::high_water::is_met(&*self.inner.store, &proof).await? {
                tracing::error!(node = %id, "another node has proven that the database is rolled back");
                self.prove(proof);
            }
        }
        Ok(())
    }

    /// What only a node knew that has died with its primary is known to the others as far as they have looked.
    async fn look_at_what_others_were_told(&self) -> Result<(), StoreError> {
        let Some(nodes) = self.nodes() else { return Ok(()) };
        let began = real::mono();
        if began.0.saturating_sub(nodes.others_looked.load(Ordering::Acquire)) < LOOK_AT_OTHERS {
            return Ok(());
        }
        nodes.others_looked.store(began.0, Ordering::Release);
        self.inner.store.look_at_others().await?;
        self.look_for_losses();
        Ok(())
    }

    /// A standby has taken over: no lease rests on what it says before that look. When that fails, the next read tries it again.
    pub(super) async fn look_after_a_failover(&self) -> Result<(), StoreError> {
        let (Some(nodes), Some(commits)) = (self.nodes(), self.inner.store.commits()) else { return Ok(()) };
        if nodes.timeline.load(Ordering::Acquire) != commits.timeline {
            self.inner.store.look_at_others().await?;
            nodes.timeline.store(commits.timeline, Ordering::Release);
        }
        Ok(())
    }

    /// The newest position that another node waits for.
    fn asked(&self) -> Option<Rev> {
        let others = self.nodes()?.seen.borrow().others.clone();
        others.values().filter_map(|other| other.body.as_ref()?.asks).max()
    }

    /// Reads the rows.
    async fn look_at_nodes(&self) -> Result<(), StoreError> {
        let Some(nodes) = self.nodes() else { return Ok(()) };
        let began = real::mono();
        let rows = self.inner.store.list_nodes().await?;
        let ended = real::mono();
        nodes.seen.send_modify(|seen| {
            if began < seen.began {
                return; // a read that began later was quicker
            }
            let others = rows.into_iter().filter(|row| row.id != nodes.id).map(|row| {
                let known = seen.others.get(&row.id).filter(|known| known.beat == row.beat);
                let other = known.cloned().unwrap_or_else(|| Other {
                    beat: row.beat,
                    seen: began,
                    known: ended,
                    // What cannot be read is said by nobody: then time says it.
                    body: serde_json::from_str(&row.body).ok(),
                });
                (row.id, other)
            });
            *seen = Seen { began, others: Arc::new(others.collect()) };
        });
        Ok(())
    }

    /// What this node has to say now.
    fn says(&self, nodes: &Nodes) -> Body {
        let others = nodes.seen.borrow().others.clone();
        let bodies = || others.values().filter_map(|other| other.body.as_ref());
        let own_wait = nodes.own().waits.keys().next_back().copied();
        // Also about what is waited for here: the others confirm of those that are behind whom they know better.
        let report = self.asked().max(own_wait).and_then(|rev| {
            let asked = cluster::named(bodies().filter_map(|body| body.report.as_ref()), rev);
            let (now, committed) = self.committed_at(rev);
            let state = self.state();
            // What this node has not read it knows nothing of.
            (state.publisher.head() >= rev).then(|| Report::of(&state.fleet, rev, committed, now, &asked))
        });
        let list = bodies().any(|body| body.wants_list).then(|| self.lists(report.as_ref().map(|report| report.rev)));
        let told = self.asked().and_then(|rev| self.told(rev));
        let wants_list = nodes.own().lists > 0;
        let rolled_back = self.rolled_back().map(|proof| (*proof).clone());
        Body {
            version: env!("CARGO_PKG_VERSION").into(),
            asks: own_wait,
            report,
            wants_list,
            list,
            told,
            rolled_back,
            left: false,
        }
    }

    /// Writes the row when it would say something else, or when a beat is due.
    async fn write_row(&self, first: bool) -> Result<(), StoreError> {
        let Some(nodes) = self.nodes() else { return Ok(()) };
        let (mut body, began) = (self.says(nodes), real::mono());
        let due = began.0.saturating_sub(nodes.beat_began.load(Ordering::Acquire)) >= BEAT;
        let beat = {
            let mut own = nodes.own();
            body.left = nodes.left.load(Ordering::Acquire); // no later row takes it back
            if !first && !due && own.written.as_ref().is_some_and(|written| body.says_nothing_new_after(written)) {
                return Ok(());
            }
            own.beat += 1;
            own.beat
        };
        let text = serde_json::to_string(&body).map_err(StoreError::new)?;
        self.inner.store.put_node(NodeRow { id: nodes.id, beat, body: text }).await?;
        nodes.beat_began.fetch_max(began.0, Ordering::AcqRel);
        nodes.own().written = Some(body);
        Ok(())
    }

    /// This node is stopped in order: from now on it gives no leases, and the others need not wait for it longer than those live
    /// that it has given.
    pub(crate) async fn leave(&self) {
        let Some(nodes) = self.nodes() else { return };
        nodes.left.store(true, Ordering::Release);
        let told = tokio::time::timeout(LEAVE, self.write_row(true)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!(
                "the other nodes were not told that this one ends: they wait for its leases as for a dead one's"
            );
        }
    }

    /// Nodes that have said nothing for as long as a lease of theirs can live.
    async fn remove_the_silent(&self) -> Result<(), StoreError> {
        let Some(nodes) = self.nodes() else { return Ok(()) };
        let now = real::mono();
        let bounded_by_ms = self.state().fleet.bounded_by_ms(now);
        let others = nodes.seen.borrow().others.clone();
        for (id, other) in others.iter().filter(|(_, other)| other.is_gone(now, bounded_by_ms)) {
            if self.inner.store.remove_node(*id, other.beat).await? {
                if !other.has_left() {
                    self.inner.stats.nodes_lost.fetch_add(1, Ordering::Relaxed);
                }
                tracing::info!(node = %id, "a node is gone: no lease of it can live any more");
            }
        }
        Ok(())
    }

    /// The other nodes as of the last read.
    pub(super) fn others_as_seen(&self) -> Seen {
        self.nodes().map_or_else(Seen::nobody, |nodes| nodes.seen.borrow().clone())
    }

    /// How far `rev` is enforced by all nodes together, as far as their rows were read; `alone` is this node's own arithmetic.
    /// `after`: a moment at which it was committed already; rows that were read earlier do not tell of every node. `missing`: what
    /// is known of the instances of those that are silent.
    pub(super) fn with_the_others(
        &self,
        rev: Rev,
        alone: fleet::Enforcement,
        after: Mono,
        missing: cluster::Missing,
        (committed, now): (Mono, Mono),
    ) -> fleet::Enforcement {
        if !self.is_shared() {
            return alone;
        }
        let seen = self.others_as_seen();
        let reports = seen.reports(after);
        let asked = cluster::named(reports.iter().flatten().copied(), rev);
        let own = Report::of(&self.state().fleet, rev, committed, now, &asked);
        cluster::together(rev, &own, alone, &reports, missing, committed, now)
    }

    /// What another node says in whole about `rev`.
    pub(super) fn told_by_others(&self, rev: Rev) -> Option<Told> {
        let others = self.nodes()?.seen.borrow().others.clone();
        others.values().find_map(|other| other.body.as_ref()?.told.filter(|told| told.rev == rev))
    }

    /// The other nodes as of the last read; `None` where there can be none.
    pub fn other_nodes(&self) -> Option<OtherNodes> {
        let (others, now) = (self.nodes()?.seen.borrow().others.clone(), real::mono());
        let silent = others.values().filter(|other| other.is_late(now)).count();
        Some(OtherNodes { known: others.len(), silent })
    }

    /// Asks the other nodes about `rev`, as long as the caller holds it; and tells when they may have said something new.
    pub(super) async fn ask_the_others(&self, rev: Rev) -> Option<Asking<'_>> {
        let nodes = self.nodes()?;
        let waiting = nodes.wait_for(rev);
        if let Err(error) = self.look_at_nodes().await {
            tracing::warn!(%error, "the nodes' rows could not be read");
        }
        Some(Asking { _waiting: waiting, seen: nodes.seen.subscribe() })
    }
}
