//! The feed at this node: what it knows of the committed log, who follows it, and what they have confirmed.
//!
//! One task ([`Hub::follow`]) reads the committed log; commits only wake it, so nothing reaches a verifier that is not on disk
//! (publish after commit, always). Its reads serve three needs at once: new entries for the streams, heads for leases (a lease
//! rests on a read begun after its nonce arrived, and one read serves all that wait), and the node's own freshness: a
//! node whose last read is older than B/4 gives no leases, closes its streams and is not ready.
//!
//! Locks here are held for moments, never across an await; streams encode nothing that another has encoded already.
mod clients;
pub mod enforcement;
mod history;
pub mod leases;
pub mod nodes;
pub mod subscription;

use crate::high_water::Proof;
use crate::keys::{self, KeyRing};
use crate::real;
use crate::{AppError, hub::enforcement::Waits};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use portcullis_domain::Chance as _;
use portcullis_domain::family::MacKey;
use portcullis_domain::model::Client;
use portcullis_feed::fleet::Fleet;
use portcullis_feed::knowledge::{Anchor, Knowledge, Lease};
use portcullis_feed::publisher::{Limits, LogState, Publisher};
use portcullis_feed::{Mono, Policy, fleet};
use portcullis_store::{News, Store, StoreError};
use portcullis_verify::{Authentic, Cache, Decision, Expect, Holder, View};
use portcullis_wire::frame::Entries;
use portcullis_wire::jws::Jwk;
use portcullis_wire::{
    Chain, ClientId, Code, Digest, Entry, Epoch, InstanceId, KeyId, LogId, NodeId, Rev, SecretString, Target, Time,
    Verb, b64,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Entries read at once.
const READ_LIMIT: u32 = 10_000;
/// Encoded batches kept for streams that are about to send them.
const BATCHES: usize = 512;
/// Verified tokens kept: some 6 MB when all places are taken.
const AUTHENTIC: usize = 4_096;

/// The feed at this node. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

struct Inner {
    store: Arc<dyn Store>,
    log: LogId,
    expect: Expect,
    max_life_s: u64,
    started: Mono,
    head_at_start: Rev,
    state: Mutex<State>,
    /// Changes whenever a stream may have something to do.
    version: watch::Sender<u64>,
    /// The last finished read.
    reads: watch::Sender<ReadDone>,
    /// Reads begun so far.
    begun: AtomicU64,
    wake: Notify,
    /// Changes whenever an acknowledgement brought news.
    acks: watch::Sender<u64>,
    /// The newest rev that somebody waits for.
    prompt: AtomicU64,
    closing: AtomicBool,
    /// What own tokens are judged by: the same as at every verifier, with this node's own reads as leases.
    view: ArcSwap<View>,
    /// Own tokens whose signature was verified: whoever asks about one asks often.
    authentic: Cache,
    /// What positions are made with, the newest last; those of an older one are still believed.
    macs: ArcSwap<Vec<MacKey>>,
    /// An entry about a key was read.
    keys_changed: Notify,
    last_read_began: AtomicI64,
    bound_ms: AtomicI64,
    /// Why nothing is served any more: the log does not continue.
    broken: ArcSwapOption<String>,
    /// What proves that the database is older than what it has said.
    rolled_back: ArcSwapOption<Proof>,
    waits: Waits,
    clients: clients::Clients,
    history: history::History,
    /// This node among others, where there may be some.
    nodes: Option<nodes::Nodes>,
    pub(crate) stats: Stats,
}

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct Stats {
    /// Streams open now.
    pub streams: AtomicU64,
    /// Streams dropped because they could not follow.
    pub dropped: AtomicU64,
    /// Leases given.
    pub leases: AtomicU64,
    /// Leases refused.
    pub leases_refused: AtomicU64,
    /// Snapshots sent.
    pub snapshots: AtomicU64,
    /// Reads of the log that failed.
    pub reads_failed: AtomicU64,
    /// Rows of other nodes that this one took away because they had said nothing for too long.
    pub nodes_lost: AtomicU64,
}

impl State {
    /// Another list of keys, unless it is older than the one that is there: it may come by two ways. The newest key has the
    /// highest number, and there is always one that was never listed before.
    fn set_keys(&mut self, keys: Vec<Jwk>) {
        let newest = keys.iter().map(|jwk| jwk.kid).max();
        if newest < self.newest_key {
            return;
        }
        self.newest_key = newest;
        if self.publisher.set_keys(keys) {
            self.keys_version += 1;
            self.snapshots.clear();
        }
    }
}

struct State {
    publisher: Publisher,
    fleet: Fleet,
    secrets: BTreeMap<InstanceId, (ClientId, Digest)>,
    batches: VecDeque<Batch>,
    keys_version: u64,
    newest_key: Option<KeyId>,
    /// Clients that are switched off, by the end that switched them off.
    closed_clients: BTreeMap<ClientId, Rev>,
    /// The position that was written last: all who renew at the same head are given the same one.
    written: Option<Written>,
    /// The newest snapshots, newest last: who pulls pages of one finishes it while the log goes on.
    snapshots: VecDeque<Made>,
}

/// A position, the key that it was signed with, and its text.
struct Written {
    at: Position,
    key: KeyId,
    text: String,
}

/// A snapshot that was made, and when.
struct Made {
    at: Mono,
    parts: Arc<Vec<portcullis_wire::frame::Snapshot>>,
}

/// Entries encoded once for all streams that stand right before them.
struct Batch {
    after: Rev,
    last: Rev,
    event: Bytes,
    /// The same with the request to acknowledge at once behind it; made when the first stream wants it.
    asking: Option<Bytes>,
}

#[derive(Debug, Clone)]
struct ReadDone {
    number: u64,
    began: Mono,
    stamp: Option<portcullis_domain::view::Stamp>,
}

/// What a hub is made with.
#[derive(Debug)]
pub struct HubSettings {
    /// Issuer and audience of own tokens.
    pub expect: Expect,
    /// B in milliseconds.
    pub bound_ms: i64,
    /// `stream_grace` in milliseconds.
    pub stream_grace_ms: i64,
    /// The longest configured life of an access token in seconds.
    pub max_life_s: u64,
    /// The most instances that are kept.
    pub max_instances: usize,
}

impl Hub {
    /// From the log and the instances as the database has them. Every known instance counts as leased until B has passed,
    /// since an earlier run of the server may have given a lease right before it ended.
    pub async fn start(store: Arc<dyn Store>, keys: &KeyRing, settings: HubSettings) -> Result<Self, AppError> {
        let now = real::mono();
        let publisher = load(&*store, now).await?;
        let rows = store.list_instances().await?;
        // All that are there count, for each may hold a lease; the limit is for new ones.
        let limit = settings.max_instances.max(rows.len());
        let mut fleet = Fleet::new(settings.bound_ms, settings.stream_grace_ms, limit);
        let mut secrets = BTreeMap::new();
        for row in rows {
            if store.is_shared() {
                break; // an earlier run had a row of its own among the nodes', which tells of its leases
            }
            secrets.insert(row.id, (row.client, row.secret));
            if fleet.restore(instance(&row), now).is_err() {
                return Err(AppError::Fault("there are more verifier instances than may be".into()));
            }
        }
        let view = ArcSwap::from_pointee(View::new(Knowledge::nothing(publisher.set().clone())));
        let nodes = store.is_shared().then(|| nodes::Nodes::new(NodeId::from_bits(real::RealChance.bits()), now));
        let inner = Inner {
            nodes,
            log: publisher.log(),
            started: now,
            head_at_start: publisher.head(),
            store,
            expect: settings.expect,
            max_life_s: settings.max_life_s,
            state: Mutex::new(State {
                publisher,
                fleet,
                secrets,
                batches: VecDeque::new(),
                keys_version: 0,
                newest_key: None,
                closed_clients: BTreeMap::new(),
                written: None,
                snapshots: VecDeque::new(),
            }),
            version: watch::channel(0).0,
            reads: watch::channel(ReadDone { number: 0, began: now, stamp: None }).0,
            begun: AtomicU64::new(0),
            wake: Notify::new(),
            acks: watch::channel(0).0,
            prompt: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            view,
            authentic: Cache::new(AUTHENTIC),
            macs: ArcSwap::from_pointee(keys.macs().to_vec()),
            keys_changed: Notify::new(),
            last_read_began: AtomicI64::new(now.0),
            bound_ms: AtomicI64::new(settings.bound_ms),
            broken: ArcSwapOption::empty(),
            rolled_back: ArcSwapOption::empty(),
            waits: Waits::default(),
            clients: clients::Clients::default(),
            history: history::History::default(),
            stats: Stats::default(),
        };
        let hub = Self { inner: Arc::new(inner) };
        hub.set_keys(keys);
        hub.read_once().await;
        hub.join().await?;
        Ok(hub)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held would have left whole values only: each change is one assignment.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.inner.version.send_modify(|v| *v += 1);
    }

    /// Something was committed: look at the log.
    pub fn wake(&self) {
        self.inner.wake.notify_one();
    }

    /// The keys changed: tell every stream.
    pub fn set_keys(&self, keys: &KeyRing) {
        self.inner.macs.store(Arc::new(keys.macs().to_vec()));
        self.state().set_keys(keys.public().to_vec());
        self.bump();
    }

    /// Whether the log holds entries about keys.
    pub(crate) fn knows_dead_keys(&self) -> bool {
        self.state().publisher.set().dead_keys().next().is_some()
    }

    /// Resolves when an entry about a key was read, perhaps another node's.
    pub(crate) async fn keys_changed(&self) {
        self.inner.keys_changed.notified().await;
    }

    /// B in milliseconds.
    pub fn bound_ms(&self) -> i64 {
        self.inner.bound_ms.load(Ordering::Acquire)
    }

    /// After how many milliseconds no lease that is given now lives any more, nor a stream by it: B +1%, and `stream_grace`.
    pub fn bounded_by_ms(&self) -> i64 {
        self.state().fleet.bounded_by_ms(real::mono())
    }

    /// Changes B; a lower one counts after the old one has passed. Who was told a longer one gets no more leases under it, and
    /// comes back to be told the new one.
    pub fn set_bound(&self, bound_ms: i64) {
        self.state().fleet.set_bound(bound_ms, real::mono());
        self.inner.bound_ms.store(bound_ms, Ordering::Release);
        self.wake(); // the log is read as often as the new bound asks for
        self.bump();
    }

    /// Position of the newest entry that this node knows.
    pub fn head(&self) -> Rev {
        self.state().publisher.head()
    }

    /// Position that this node judges tokens by, which follows [`Hub::head`] at once.
    pub fn judges_by(&self) -> Rev {
        self.inner.view.load().known.applied
    }

    /// Epoch and position of the newest entry that this node knows.
    pub(crate) fn at(&self) -> (Epoch, Rev) {
        let state = self.state();
        (state.publisher.epoch(), state.publisher.head())
    }

    /// F, as this node knows it.
    pub fn floor(&self) -> Time {
        self.inner.view.load().known.floor.map_or(Time::ZERO, |floor| floor.time)
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    /// The database is older than what it has said already: from now on nothing is served (DESIGN §4.5). The proof that reaches
    /// furthest is kept, with what others ask for besides.
    pub fn prove(&self, proof: Proof) {
        let next = |known: &Option<Arc<Proof>>| Arc::new(Proof::beside(known.as_deref(), proof.clone()));
        let before = self.inner.rolled_back.rcu(|known| Some(next(known)));
        if before.as_deref() != Some(&*next(&before)) {
            tracing::error!(
                proof = %proof.what, position = %format_args!("{}.{}", proof.epoch, proof.rev),
                "ROLLED BACK: the database is older than what it has said already. Nothing is served or issued. Put the right \
                 database back and start again; or restore a backup (portcullis restore); or found the log anew \
                 (portcullis refound), which signs everyone out"
            );
            self.tell_the_others();
        }
        self.bump();
    }

    /// The proof, when this node is rolled back.
    pub fn rolled_back(&self) -> Option<Arc<Proof>> {
        self.inner.rolled_back.load_full()
    }

    /// The log was founded anew: what was proven before is void with the rest.
    pub(crate) fn founded_anew(&self) {
        self.inner.broken.store(None);
        self.inner.rolled_back.store(None);
        self.wake();
        self.bump();
    }

    /// Why this node must not serve, if so: its reads of the log are too old, or the log is broken.
    pub fn why_not_ready(&self) -> Option<String> {
        if let Some(proof) = &*self.inner.rolled_back.load() {
            return Some(format!("rolled back: {}", proof.what));
        }
        if let Some(broken) = &*self.inner.broken.load() {
            return Some((**broken).clone());
        }
        let age = real::mono().0 - self.inner.last_read_began.load(Ordering::Acquire);
        (age > self.bound_ms() / 4).then(|| format!("the last read of the log began {age} ms ago"))
    }

    /// The task that reads the committed log until the hub closes.
    pub async fn follow(self) {
        let mut seen = 0;
        while !self.inner.closing.load(Ordering::Acquire) {
            self.read_once().await;
            let poll_ms = u64::try_from(self.bound_ms() / 12).unwrap_or(400).clamp(20, 500);
            let pause = tokio::time::sleep(std::time::Duration::from_millis(poll_ms));
            tokio::select! {
                () = self.inner.wake.notified() => {}
                newest = self.inner.store.news(News::Log, seen) => seen = newest,
                () = pause => {}
            }
            // A stale node closes its streams: each looks when the version changes.
            if self.why_not_ready().is_some() {
                self.bump();
            }
        }
    }

    async fn read_once(&self) {
        // In this order: whoever loaded `begun` before this line waits for this read, and it begins after they asked.
        let number = self.inner.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let began = real::mono();
        let read = self.read_and_apply().await;
        // A read of a new timeline counts when it was looked at what the others were told.
        let looked = self.look_after_a_failover().await;
        self.look_for_losses();
        let read = read.and_then(|stamp| looked.map(|()| stamp));
        let stamp = match read {
            Ok(stamp) => {
                if self.is_founded_anew(stamp.epoch) {
                    self.inner.keys_changed.notify_one(); // and opens when they are read
                }
                self.renew_view(&stamp, began);
                self.inner.last_read_began.store(began.0, Ordering::Release);
                Some(stamp)
            }
            Err(error) => {
                self.inner.stats.reads_failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "the log could not be read");
                None
            }
        };
        self.inner.reads.send_replace(ReadDone { number, began, stamp });
    }

    /// Whether the database lacks what was acknowledged to this node, or what it has seen of others: told before any lease rests
    /// on the read.
    fn look_for_losses(&self) {
        if let (Some(what), Some(commits)) = (self.inner.store.lost(), self.inner.store.lacks())
            && self.rolled_back().is_none_or(|proof| proof.commits != Some(commits))
        {
            let (epoch, _) = self.at();
            self.prove(Proof::by_commits(what, epoch, commits, self.inner.store.now()));
        }
    }

    fn is_founded_anew(&self, epoch: Epoch) -> bool {
        self.rolled_back().is_some_and(|proof| proof.epoch < epoch)
    }

    /// The keys were read in this epoch. Where another node has founded the log anew, what was proven before is void here, too.
    pub(crate) fn opens_again(&self, epoch: Epoch) {
        if self.is_founded_anew(epoch) {
            tracing::warn!(%epoch, "the log was founded anew at another node: this one serves again");
            self.founded_anew();
        }
    }

    /// What own tokens are judged by from now on: fresh for B/4 from the beginning of the read.
    fn renew_view(&self, stamp: &portcullis_domain::view::Stamp, began: Mono) {
        let bound_ms = self.bound_ms();
        let (wall, old) = (real::wall(), self.inner.view.load_full());
        let state = self.state();
        let publisher = &state.publisher;
        let keys = if old.known.keys[..] == *publisher.keys() {
            old.known.keys.clone()
        } else {
            Arc::new(publisher.keys().to_vec())
        };
        let known = Knowledge {
            log: Some(self.inner.log),
            epoch: publisher.epoch(),
            synced: true,
            applied: publisher.head(),
            set: publisher.set().clone(),
            keys,
            floor: Some(Anchor { time: publisher.floor(), at: began }),
            time: Some(Anchor { time: stamp.now, at: real::mono() }),
            lease: Some(Lease {
                from: began,
                until: began.plus(bound_ms / 4),
                wall: Anchor { time: wall, at: real::mono() },
                tolerance_ms: bound_ms / 4,
            }),
            proven: None, // a token ahead of the log is seen when its session is loaded
            max_life_s: self.inner.max_life_s,
            bound_ms,
        };
        drop(state);
        self.inner.view.store(Arc::new(old.next(known)));
    }

    async fn read_and_apply(&self) -> Result<portcullis_domain::view::Stamp, StoreError> {
        loop {
            let (after, before) = (self.head(), self.inner.store.commits());
            let read = self.inner.store.read_log(after, READ_LIMIT).await?;
            if read.stamp.head < after || read.stamp.log != self.inner.log {
                let is = self.inner.store.commits();
                let failover = before.zip(is).and_then(|(was, is)| was.failover(is.timeline));
                let why = failover.unwrap_or_else(|| "the database was replaced or rolled back".into());
                let why = format!("the log went back from {after} to {}: {why}", read.stamp.head);
                self.inner.broken.store(Some(Arc::new(why.clone())));
                let (epoch, chain, at) = {
                    let state = self.state();
                    let whole = state.publisher.head() == after;
                    (state.publisher.epoch(), whole.then(|| state.publisher.chain()), read.stamp.now)
                };
                self.prove(Proof::by_position(why.clone(), (epoch, after), chain, at));
                return Err(StoreError::new(why));
            }
            if !read.complete {
                let fresh = load(&*self.inner.store, real::mono()).await?;
                let keys = self.listed_keys(fresh.floor()).await?;
                self.replace(fresh, keys);
                continue;
            }
            let whole = read.entries.last().map_or(after, |entry| entry.rev) == read.stamp.head;
            let keys = self.keys_for(&read).await?;
            if self.is_shared() {
                self.close_clients_of(&read.entries).await?;
            }
            self.apply(&read, keys)?;
            if whole {
                return Ok(read.stamp);
            }
        }
    }

    /// The list of keys that must reach verifiers no later than these entries: with the end of a key comes its successor's
    /// successor, and a verifier that has confirmed the one knows the other.
    async fn keys_for(&self, read: &portcullis_store::LogRead) -> Result<Option<Vec<Jwk>>, StoreError> {
        match read.entries.iter().any(|entry| entry.verb == Verb::Key) {
            true => self.listed_keys(read.stamp.floor).await,
            false => Ok(None),
        }
    }

    /// The list as the database has it; whoever uses keys is woken, for theirs may be another.
    async fn listed_keys(&self, floor: Time) -> Result<Option<Vec<Jwk>>, StoreError> {
        self.inner.keys_changed.notify_one();
        let rows = self.inner.store.list_keys().await?;
        match keys::public(&rows, floor) {
            Ok(keys) => Ok(Some(keys)),
            Err(error) => {
                // The end of a key must not wait for that: the list loses the dead one by itself.
                tracing::error!(%error, "the keys cannot be read");
                Ok(None)
            }
        }
    }

    fn apply(&self, read: &portcullis_store::LogRead, keys: Option<Vec<Jwk>>) -> Result<(), StoreError> {
        let mut state = self.state();
        let bump = keys.is_some();
        if let Some(keys) = keys {
            state.set_keys(keys); // under the same lock: a stream sends the list first
        }
        let after = state.publisher.head();
        if let Some(last) = read.entries.last().map(|entry| entry.rev) {
            let start = state.publisher.chain();
            let chain = if last == read.stamp.head {
                read.stamp.chain
            } else {
                read.entries.iter().fold(start, |chain, entry| chain.after(entry))
            };
            let now = real::mono();
            let overflowed = state.publisher.set().overflowed();
            if let Err(broken) = state.publisher.append(&read.entries, chain, now) {
                self.inner.broken.store(Some(Arc::new(broken.to_string())));
                return Err(StoreError::new(broken));
            }
            if state.publisher.set().overflowed() > overflowed {
                tracing::error!(
                    "more live entries than a set keeps: further ones count as stale everything, and every client refreshes"
                );
            }
            for entry in &read.entries {
                state.fleet.committed(entry.rev, now);
            }
            let frame = Entries { entries: read.entries.clone(), ack: false };
            let event = self.event("entries", Some(Position::of(&state.publisher)), &frame);
            state.batches.push_back(Batch { after, last, event, asking: None });
            if state.batches.len() > BATCHES {
                state.batches.pop_front();
            }
        }
        state.publisher.set_floor(read.stamp.floor);
        drop(state);
        if bump || !read.entries.is_empty() {
            self.bump();
        }
        Ok(())
    }

    /// Starts over from a snapshot, when entries were forgotten before this node had read them.
    fn replace(&self, mut publisher: Publisher, keys: Option<Vec<Jwk>>) {
        let mut state = self.state();
        // Set once, for what is set first is what goes with the newest entry about a key.
        let newest = |keys: &Vec<Jwk>| keys.iter().map(|jwk| jwk.kid).max();
        let keys = keys.filter(|keys| newest(keys) >= state.newest_key);
        let keys = keys.unwrap_or_else(|| state.publisher.keys().to_vec());
        state.newest_key = state.newest_key.max(newest(&keys));
        publisher.set_keys(keys);
        state.fleet.committed(publisher.head(), real::mono());
        state.publisher = publisher;
        state.batches.clear();
        state.snapshots.clear();
        state.keys_version += 1;
        drop(state);
        self.bump();
    }

    /// Form and signature of one of our own tokens: what never changes about it.
    pub fn authenticate(&self, token: &str) -> Result<Arc<Authentic>, Code> {
        let view = self.inner.view.load();
        self.inner.authentic.authenticate(&view.keys, token).map(|(token, _)| token).map_err(|reason| {
            let (wall, now) = (real::wall(), real::mono());
            // A key that is dead is not unknown.
            match portcullis_verify::unauthentic(&view, token, reason, Policy::Closed, now, wall).decision {
                Decision::Refuse(reason) => reason.code(),
                _ => reason.code(),
            }
        })
    }

    /// Whether it may be used now by whoever has it, judged as every verifier judges under `closed`.
    pub fn judge(&self, token: &Authentic) -> Result<(), Code> {
        self.judge_as(token, &Holder::Bearer, &self.inner.expect)
    }

    /// The same, whoever of its audience is asked: for those who ask about a token, and for what we serve to applications.
    pub fn judge_for_any(&self, token: &Authentic, holder: &Holder) -> Result<(), Code> {
        let audience = token.claims().aud.0.first().cloned().unwrap_or_default();
        self.judge_as(token, holder, &Expect { audience, issuer: self.inner.expect.issuer.clone() })
    }

    fn judge_as(&self, token: &Authentic, holder: &Holder, expect: &Expect) -> Result<(), Code> {
        let (wall, now) = (real::wall(), real::mono());
        let view = self.inner.view.load();
        match portcullis_verify::judge_claims(&view, token, holder, expect, Policy::Closed, now, wall).decision {
            Decision::Accept => Ok(()),
            Decision::Refuse(reason) => Err(reason.code()),
            Decision::AcceptUnproven | Decision::Introspect => Err(Code::NotFresh), // not under `closed`
        }
    }

    /// Ends all streams and leases of a client that the end at `rev` switched off, until it is switched on again.
    pub fn close_client(&self, client: ClientId, rev: Rev) {
        let mut state = self.state();
        let mark = state.closed_clients.entry(client).or_insert(rev);
        *mark = rev.max(*mark);
        drop(state);
        self.bump();
    }

    /// A client that its row shows to be on: switched on again since the end that switched it off, perhaps at another node.
    pub(crate) fn client_is_on(&self, client: &Client) {
        let mut state = self.state();
        if state.closed_clients.get(&client.id).is_some_and(|rev| *rev <= client.cut.rev) {
            state.closed_clients.remove(&client.id);
        }
    }

    /// Entries that other nodes wrote when they switched clients off.
    async fn close_clients_of(&self, entries: &[Entry]) -> Result<(), StoreError> {
        for entry in entries {
            if let (Verb::End, Target::Client(id)) = (&entry.verb, &entry.target)
                && self.inner.store.load_client(*id).await?.is_some_and(|view| view.client.disabled)
            {
                self.close_client(*id, entry.rev);
            }
        }
        Ok(())
    }

    /// Whether this server is being shut down.
    pub fn is_closing(&self) -> bool {
        self.inner.closing.load(Ordering::Acquire)
    }

    /// Says goodbye to every stream; the first step of a shutdown.
    pub fn close(&self) {
        self.inner.closing.store(true, Ordering::Release);
        self.wake();
        self.bump();
    }

    /// Instances as administrators see them, with the head to measure their lag by.
    pub fn instances(&self) -> (Rev, Vec<fleet::Listed>) {
        let state = self.state();
        (state.publisher.head(), state.fleet.list(real::mono()))
    }

    /// Instances that were not heard of for long and have no stream: removed here, their rows are the caller's to remove.
    pub fn prune_instances(&self, quiet_ms: i64) -> Vec<InstanceId> {
        let mut state = self.state();
        let longest_life_ms = i64::try_from(self.inner.max_life_s.saturating_mul(1000)).unwrap_or(i64::MAX);
        let gone = state.fleet.prune(quiet_ms, longest_life_ms, real::mono());
        for id in &gone {
            state.secrets.remove(id);
        }
        gone
    }

    /// The `id` of an event: `EPOCH.REV.MAC`. What is called MAC carries the chain link there, too: so a server that comes to have
    /// another history is told by who knows this one.
    fn position(&self, at: &Position) -> String {
        let macs = self.inner.macs.load();
        let tag = macs.last().map(|mac| self.position_tag(mac, at)).unwrap_or_default();
        format!("{}.{}.{}", at.epoch, at.rev, b64::encode(&[&at.chain.0[..], &tag[..]].concat()))
    }

    /// [`Hub::position`] of where this node is.
    fn position_here(&self, state: &mut State) -> String {
        let at = Position::of(&state.publisher);
        let Some(key) = self.inner.macs.load().last().map(|mac| mac.id) else { return self.position(&at) };
        if let Some(written) = state.written.as_ref().filter(|written| written.at == at && written.key == key) {
            return written.text.clone();
        }
        let text = self.position(&at);
        state.written = Some(Written { at, key, text: text.clone() });
        text
    }

    fn position_tag(&self, mac: &MacKey, at: &Position) -> [u8; 16] {
        let log = self.inner.log.bits().to_be_bytes();
        mac.tag(b"feed position", &[&log, &at.epoch.0.to_be_bytes(), &at.rev.0.to_be_bytes(), &at.chain.0])
    }

    /// Reads an `id` that came back; `None` when it is not one of ours.
    fn parse_position(&self, text: &str) -> Option<Position> {
        let mut parts = text.splitn(3, '.');
        let epoch = Epoch(parts.next()?.parse().ok()?);
        let rev = Rev(parts.next()?.parse().ok()?);
        let signed: [u8; 48] = b64::decode_array(parts.next()?)?;
        let (link, tag) = signed.split_at(32);
        let at = Position { epoch, rev, chain: Chain(link.try_into().ok()?) };
        // Compared as digests, in constant time.
        let ours = |mac: &MacKey| Digest::of(tag) == Digest::of(&self.position_tag(mac, &at));
        self.inner.macs.load().iter().any(ours).then_some(at)
    }

    fn event(&self, name: &str, position: Option<Position>, data: &impl serde::Serialize) -> Bytes {
        let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".into());
        let id = position.map(|at| format!("id: {}\n", self.position(&at))).unwrap_or_default();
        Bytes::from(format!("{id}event: {name}\ndata: {data}\n\n"))
    }
}

fn instance(row: &portcullis_domain::model::Instance) -> fleet::Instance {
    fleet::Instance {
        id: row.id,
        name: row.name.clone(),
        client: row.client,
        policies: row.policy.parse().unwrap_or_default(),
        bound_ms: i64::try_from(row.bound_ms).ok(),
    }
}

/// A point of the log, as a verifier shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    epoch: Epoch,
    rev: Rev,
    /// The link there.
    chain: Chain,
}

impl Position {
    fn of(publisher: &Publisher) -> Self {
        Self { epoch: publisher.epoch(), rev: publisher.head(), chain: publisher.chain() }
    }
}

async fn load(store: &dyn Store, now: Mono) -> Result<Publisher, StoreError> {
    let (stamp, live) = store.read_live().await?;
    let state =
        LogState { log: stamp.log, epoch: stamp.epoch, head: stamp.head, chain: stamp.chain, floor: stamp.floor, live };
    Ok(Publisher::new(state, Limits::default(), now))
}

/// A new instance secret.
fn new_secret(bytes: &[u8; 32]) -> SecretString {
    SecretString::new(format!("pci_{}", b64::encode(bytes)))
}
