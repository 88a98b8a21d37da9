//! The log as it is handed on, who is below, and what they have said. One lock, held for moments and never across an await.
use crate::position::{Position, Standing};
use crate::registry::Registry;
use crate::sightings::Waiting;
use bytes::Bytes;
use portcullis_app::real;
use portcullis_domain::Chance as _;
use portcullis_feed::fleet::{Full, Instance};
use portcullis_feed::publisher::Limits;
use portcullis_feed::relay::{Refused, Relay};
use portcullis_feed::{Fleet, Mono, Policies, Subscriber};
use portcullis_tower::following::{Following, Hears, Registrar};
use portcullis_tower::{Config, ConfigError};
use portcullis_wire::frame::{AckAnswer, AckRequest, Entries, Sighting, SightingsRequest, Snapshot};
use portcullis_wire::{ClientId, Digest, InstanceId, Rev, SecretString, Target, Verb, b64};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::watch;

/// Encoded batches kept for streams that are about to send them.
const BATCHES: usize = 512;
/// How many snapshots are kept for who pulls their pages, and for how long, in milliseconds.
const SNAPSHOTS: usize = 4;
const SNAPSHOT_KEPT_MS: i64 = 15_000;
/// Instances that were not heard of for so long are forgotten, looked for as often; in milliseconds.
const QUIET_MS: i64 = 300_000;
/// Entries per part of a snapshot.
const PART: usize = 5_000;
/// Clients whose ends are remembered; of more the streams of some others end, too.
const ENDS: usize = 10_000;

/// What a relay is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most instances below, and the most of one client.
    pub max_verifiers: usize,
    /// The most of one client.
    pub max_verifiers_per_client: usize,
    /// For how long open connections below may outlive a lost lease, in milliseconds.
    pub stream_grace_ms: i64,
}

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct Stats {
    /// Streams open now.
    pub streams: AtomicU64,
    /// Streams that were ended because they could not follow, or must not go on.
    pub ended: AtomicU64,
    /// Streams that were refused because as many follow as may.
    pub refused: AtomicU64,
    /// Streams to the server that were opened.
    pub connects: AtomicU64,
    /// Leases given.
    pub leases: AtomicU64,
    /// Leases refused.
    pub leases_refused: AtomicU64,
    /// Positions that were passed on to the server because they do not fit.
    pub proofs: AtomicU64,
    /// Sightings that were taken from below.
    pub sightings: AtomicU64,
}

/// The relay; see the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    state: Mutex<State>,
    /// Changes whenever a stream may have something to do.
    version: watch::Sender<u64>,
    registry: Registry,
    following: OnceLock<Following>,
    closing: AtomicBool,
    connected: AtomicBool,
    ready: AtomicBool,
    pub(crate) stats: Stats,
}

pub(crate) struct State {
    pub(crate) relay: Relay,
    secrets: BTreeMap<InstanceId, (ClientId, Digest)>,
    pub(crate) batches: VecDeque<Batch>,
    snapshots: VecDeque<(Mono, Arc<Vec<Snapshot>>)>,
    /// The newest end of each client: whoever is below as one shows anew that it is still let in.
    ends: BTreeMap<ClientId, Rev>,
    /// What the server is told: a policy that comes is told at once, for it counts from then on; one that goes when those that are
    /// gone are forgotten, so that verifiers which come and go do not have the stream to the server opened again each time.
    declared: Policies,
    pruned: Mono,
    /// What services below have seen.
    sightings: Waiting,
}

/// Entries encoded once for all streams that stand right before them.
pub(crate) struct Batch {
    pub(crate) after: Rev,
    pub(crate) last: Rev,
    pub(crate) event: Bytes,
}

/// What a verifier says when it opens a stream.
#[derive(Debug)]
pub struct Opening {
    /// What it calls itself.
    pub name: String,
    /// Its fail policies.
    pub policies: Policies,
    /// A shorter bound of its own, in milliseconds.
    pub bound_ms: Option<u64>,
    /// The instance that it was, and its secret.
    pub instance: Option<(InstanceId, SecretString)>,
}

/// The relay cannot do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotServe {
    /// It is not fresh enough itself.
    NotFresh,
    /// As many are below as may be.
    Full,
    /// As many of this client.
    FullOfClient,
    /// The instance is not known.
    Gone,
    /// That snapshot has passed.
    Passed,
    /// There is no such part.
    NoPart,
}

impl Hub {
    /// Begins to follow, on the runtime that this is called on.
    ///
    /// # Errors
    /// [`ConfigError`] for addresses or credentials that cannot be used.
    pub fn start(config: Config, settings: &Settings) -> Result<Self, ConfigError> {
        let registry = Registry::new(Registrar::of(&config)?);
        let fleet = Fleet::new(0, settings.stream_grace_ms, settings.max_verifiers)
            .with_limit_of_client(settings.max_verifiers_per_client);
        let state = State {
            relay: Relay::of(fleet, Limits::default()),
            secrets: BTreeMap::new(),
            batches: VecDeque::new(),
            snapshots: VecDeque::new(),
            ends: BTreeMap::new(),
            declared: Policies::default(),
            pruned: real::mono(),
            sightings: Waiting::default(),
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            version: watch::channel(0).0,
            registry,
            following: OnceLock::new(),
            closing: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            stats: Stats::default(),
        });
        let following = Following::start(config, Arc::new(Ear(Arc::downgrade(&inner))))?;
        let _ = inner.following.set(following);
        Ok(Self { inner })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }

    /// Whom the server knows.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    /// Whether the stream to the server is open.
    pub fn is_connected(&self) -> bool {
        self.inner.connected.load(Ordering::Relaxed)
    }

    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// Says goodbye to every stream; the first step of a shutdown.
    pub fn close(&self) {
        self.inner.closing.store(true, Ordering::Release);
        self.inner.bump();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.inner.closing.load(Ordering::Acquire)
    }

    // ---- who is below ----

    /// The instance that it was, when it proves it, or a new one; with its secret, and the newest end of its client.
    pub(crate) fn introduce(
        &self,
        client: ClientId,
        opening: Opening,
    ) -> Result<(InstanceId, SecretString, i64, Option<Rev>), CannotServe> {
        let now = real::mono();
        let mut state = self.state();
        let known = opening.instance.filter(|(id, secret)| {
            let kept = state.secrets.get(id).filter(|_| state.relay.knows(*id));
            kept.is_some_and(|(owner, digest)| *owner == client && *digest == secret.digest())
        });
        let (id, secret) = known.unwrap_or_else(|| {
            let secret = SecretString::new(format!("pci_{}", b64::encode(&real::RealChance.secret())));
            (InstanceId::from_bits(real::RealChance.bits()), secret)
        });
        state.make_room(id, client, now);
        let bound_ms = opening.bound_ms.and_then(|ms| i64::try_from(ms).ok());
        let instance = Instance { id, name: opening.name, client, policies: opening.policies, bound_ms };
        let told = state.relay.introduce(instance, now).map_err(|full| {
            self.inner.stats.refused.fetch_add(1, Ordering::Relaxed);
            match full {
                Full::Fleet => CannotServe::Full,
                Full::Client => CannotServe::FullOfClient,
            }
        })?;
        state.secrets.insert(id, (client, secret.digest()));
        let ends = state.ends.get(&client).copied();
        let policies = state.declared.and(state.relay.fleet().policies());
        let wider = std::mem::replace(&mut state.declared, policies) != policies;
        drop(state);
        if wider {
            self.inner.declare();
        }
        Ok((id, secret, told, ends))
    }

    /// Takes an acknowledgement and gives a lease.
    pub fn acknowledge(&self, client: ClientId, asked: &AckRequest, arrived: Mono) -> Result<AckAnswer, CannotServe> {
        let mut state = self.state();
        if !state.is_instance(client, asked.instance, &asked.instance_secret) {
            return Err(CannotServe::Gone);
        }
        let wall = real::wall(); // before the other clock: a pause in between cannot look as if it had outrun that
        let now = real::mono();
        let answer = state.relay.answer(asked, arrived, now, wall);
        let tells = state.relay.has_to_tell(now);
        drop(state);
        if tells && let Some(following) = self.inner.following.get() {
            following.speak();
        }
        let stats = &self.inner.stats;
        let count = if answer.is_ok() { &stats.leases } else { &stats.leases_refused };
        count.fetch_add(1, Ordering::Relaxed);
        answer.map_err(|refused| match refused {
            Refused::Gone => CannotServe::Gone,
            Refused::NotFresh => CannotServe::NotFresh,
        })
    }

    /// Takes what an instance of this client has seen, for the server; how many of them.
    pub fn sighted(&self, client: ClientId, told: SightingsRequest) -> Result<usize, CannotServe> {
        let mut state = self.state();
        if !state.is_instance(client, told.instance, &told.instance_secret) {
            return Err(CannotServe::Gone);
        }
        let taken = state.sightings.take(client, told.sightings, real::mono());
        drop(state);
        self.inner.stats.sightings.fetch_add(taken as u64, Ordering::Relaxed);
        Ok(taken)
    }

    /// How a position that was shown stands to what is known here, when that takes no more than `max` entries to tell; `None`
    /// when it is none.
    pub fn standing(&self, position: &str, max: usize) -> Option<Standing> {
        let at = Position::parse(position)?;
        let state = self.state();
        Some(state.relay.log().map_or(Standing::Unknown, |log| at.standing(log, max)))
    }

    /// A page of the snapshot. `rev`: the position of the pages pulled so far.
    pub fn snapshot_page(&self, part: u32, rev: Option<Rev>) -> Result<Snapshot, CannotServe> {
        let mut state = self.state();
        if !state.is_ready() {
            return Err(CannotServe::NotFresh);
        }
        let parts = match rev {
            None => state.snapshot().ok_or(CannotServe::NotFresh)?,
            Some(rev) => {
                let made = state.snapshots.iter().rfind(|(_, parts)| parts[0].rev == rev);
                made.map(|(_, parts)| parts.clone()).ok_or(CannotServe::Passed)?
            }
        };
        drop(state);
        parts.get(usize::try_from(part).unwrap_or(usize::MAX)).cloned().ok_or(CannotServe::NoPart)
    }
}

impl State {
    pub(crate) fn is_ready(&self) -> bool {
        let wall = real::wall();
        self.relay.is_ready(real::mono(), wall)
    }

    fn is_instance(&self, client: ClientId, id: InstanceId, secret: &SecretString) -> bool {
        let kept = self.secrets.get(&id);
        kept.is_some_and(|(owner, digest)| *owner == client && *digest == secret.digest())
    }

    /// Whether a client was ended since.
    pub(crate) fn ended_since(&self, client: ClientId, ends: Option<Rev>) -> bool {
        self.ends.get(&client).copied() != ends
    }

    /// Those that are gone and can hold no lease any more give way.
    fn make_room(&mut self, newcomer: InstanceId, client: ClientId, now: Mono) {
        if self.relay.fleet().no_room(newcomer, client).is_some() {
            self.forget_quiet(0, now);
        }
    }

    /// Forgets instances that were not heard of for `quiet_ms`, and can accept nothing any more.
    fn forget_quiet(&mut self, quiet_ms: i64, now: Mono) {
        for gone in self.relay.prune(quiet_ms, now) {
            self.secrets.remove(&gone);
        }
    }

    /// The same from time to time; says whether the server is told less policies from now on.
    fn prune(&mut self, now: Mono) -> bool {
        self.forget_quiet(QUIET_MS, now);
        self.pruned = now;
        let policies = self.relay.fleet().policies();
        std::mem::replace(&mut self.declared, policies) != policies
    }

    /// The snapshot as of now, made once for all that ask at the same position, and kept for a while for who pulls pages.
    pub(crate) fn snapshot(&mut self) -> Option<Arc<Vec<Snapshot>>> {
        let (log, now) = (self.relay.log()?, real::mono());
        self.snapshots.retain(|(at, _)| now.since(*at) < SNAPSHOT_KEPT_MS);
        if let Some((_, parts)) = self.snapshots.back().filter(|(_, parts)| parts[0].rev == log.head()) {
            return Some(parts.clone());
        }
        if self.snapshots.len() >= SNAPSHOTS {
            self.snapshots.pop_front();
        }
        let parts = Arc::new(log.snapshot(PART));
        self.snapshots.push_back((now, parts.clone()));
        Some(parts)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held would have left whole values only: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the server told what the policies below are now.
    fn declare(&self) {
        if let Some(following) = self.following.get() {
            following.declare();
        }
    }

    fn bump(&self) {
        self.version.send_modify(|v| *v = v.wrapping_add(1));
    }

    fn learned(&self, subscriber: &mut Subscriber) {
        let mut state = self.state();
        let after = state.relay.log().map(portcullis_feed::Publisher::head);
        let before = (state.relay.keys_version(), state.relay.fleet().bound_ms());
        let news = state.relay.learn(subscriber, real::mono());
        if news.anew {
            state.batches.clear();
            state.snapshots.clear();
            // The end of a client may be among what a snapshot left out.
            self.registry.forget_all();
        }
        let any = !news.entries.is_empty();
        for entry in &news.entries {
            if let (Verb::End, Target::Client(client)) = (&entry.verb, &entry.target) {
                self.registry.forget(*client);
                if state.ends.len() >= ENDS {
                    let oldest = state.ends.iter().min_by_key(|(_, rev)| **rev).map(|(client, _)| *client);
                    oldest.map(|client| state.ends.remove(&client));
                }
                state.ends.insert(*client, entry.rev);
            }
        }
        if let (Some(after), Some(last)) = (after, news.entries.last().map(|entry| entry.rev)) {
            let id = state.relay.position().map(str::to_owned);
            let event = event("entries", id.as_deref(), &Entries { entries: news.entries, ack: false });
            if state.batches.len() >= BATCHES {
                state.batches.pop_front();
            }
            state.batches.push_back(Batch { after, last, event });
        }
        let bound_ms = state.relay.fleet().bound_ms();
        let changed = before != (state.relay.keys_version(), bound_ms);
        drop(state);
        if changed {
            self.registry.set_bound(bound_ms);
        }
        if changed || news.anew || any {
            self.bump();
        }
    }

    /// Streams end when the relay is no longer fresh enough: each looks when the version changes.
    fn look(&self) {
        let now = real::mono();
        let mut state = self.state();
        let ready = state.is_ready();
        let narrower = now.since(state.pruned) > QUIET_MS && state.prune(now);
        drop(state);
        if narrower {
            self.declare();
        }
        if self.ready.swap(ready, Ordering::AcqRel) != ready {
            match ready {
                true => tracing::info!("fresh enough to serve"),
                false => tracing::warn!("not fresh enough to serve: the server was not reached for half the bound"),
            }
            self.bump();
        }
    }
}

/// What hears of the log. It does not keep the relay alive.
struct Ear(std::sync::Weak<Inner>);

impl Hears for Ear {
    fn learned(&self, subscriber: &mut Subscriber) {
        if let Some(inner) = self.0.upgrade() {
            inner.learned(subscriber);
        }
    }
    fn enforced(&self) -> Rev {
        self.0.upgrade().map_or(Rev::ZERO, |inner| inner.state().relay.tells(real::mono()))
    }
    fn prompted(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.state().relay.prompted();
            inner.bump();
        }
    }
    fn policies(&self) -> Policies {
        self.0.upgrade().map_or_else(Policies::default, |inner| inner.state().declared)
    }
    fn sightings(&self) -> Vec<Sighting> {
        self.0.upgrade().map_or_else(Vec::new, |inner| inner.state().sightings.next(real::mono()))
    }
    fn connected(&self, yes: bool) {
        if let Some(inner) = self.0.upgrade() {
            if inner.connected.swap(yes, Ordering::Relaxed) != yes && yes {
                inner.stats.connects.fetch_add(1, Ordering::Relaxed);
            }
            inner.look();
        }
    }
}

/// An event as it stands in a stream.
pub(crate) fn event(name: &str, id: Option<&str>, data: &impl serde::Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".into());
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("{id}event: {name}\ndata: {data}\n\n"))
}
