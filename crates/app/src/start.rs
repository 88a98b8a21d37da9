//! Starting and keeping house: first keys, the bound, background tasks.
use crate::hub::{Hub, HubSettings};
use crate::keys::MasterKey;
use crate::outbox::Outbox;
use crate::password::Passwords;
use crate::rotation::{self, MasterHome, Rota};
use crate::{App, AppError, Counts, Inner, Settings, real};
use arc_swap::ArcSwap;
use portcullis_domain::changes::{BoundRow, Change, Changes};
use portcullis_domain::time_rules;
use portcullis_outgoing::Outgoing;
use portcullis_store::Store;
use portcullis_verify::Expect;
use portcullis_wire::InstanceId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// How many verifier instances are kept.
const MAX_INSTANCES: usize = 200_000;
/// How often the house is kept.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// How long remembered results of repeated calls are kept, in milliseconds.
const REMEMBER: i64 = 24 * 3_600_000;

impl App {
    /// Starts on a database: makes the first keys when there are none, starts the password pool and the feed. The background
    /// tasks run in `tasks` until it is dropped.
    pub async fn start(
        store: Arc<dyn Store>,
        settings: Settings,
        master: MasterKey,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, AppError> {
        Self::start_with(store, settings, master, None, tasks).await
    }

    /// As [`App::start`]; `home` is where the master key is kept, so that it can be replaced there.
    pub async fn start_with(
        store: Arc<dyn Store>,
        settings: Settings,
        master: MasterKey,
        home: Option<Arc<dyn MasterHome>>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, AppError> {
        let log = store.stamp().await?.log;
        let keys = rotation::ensure_keys(&*store, &master, log, &settings.key_rules()).await?;
        let bound = ensure_bound(&*store, settings.bound).await?;
        let bound_ms = i64::try_from(bound.at(store.now())).unwrap_or(i64::MAX);
        let passwords = Passwords::start(settings.hashing)
            .ok_or_else(|| AppError::Fault("Argon2 does not accept these parameters".into()))?;
        let hub_settings = HubSettings {
            expect: Expect { issuer: settings.rules.issuer.clone(), audience: settings.rules.audience.clone() },
            bound_ms,
            stream_grace_ms: settings.stream_grace,
            max_life_s: u64::try_from(settings.rules.max_life().div_euclid(1000) + 1).unwrap_or(0),
            max_instances: MAX_INSTANCES,
        };
        let hub = Hub::start(store.clone(), &keys, hub_settings).await?;
        let outgoing = Outgoing::new(settings.outgoing.clone(), &settings.outgoing_ca)
            .map_err(|why| AppError::Fault(why.as_str().into()))?;
        let upstreams = crate::upstream::Upstreams::new(&settings.upstreams);
        let inner = Inner {
            store,
            settings,
            log,
            keys: ArcSwap::from_pointee(keys),
            passwords,
            hub: hub.clone(),
            horizon: AtomicI64::new(0),
            seen: Mutex::new(BTreeMap::new()),
            counts: Counts::default(),
            flood: Mutex::default(),
            acts: crate::act_journal::Pending::default(),
            jobs: tokio::sync::Notify::new(),
            outbox: Outbox::new(outgoing),
            sealer: crate::audit::Sealer::default(),
            sealings: crate::follow::Sealings::default(),
            tails: Arc::new(tokio::sync::Semaphore::new(crate::follow::TAILS)),
            upstreams,
            rota: Rota::new(master, home),
            bound,
            reloaded: AtomicI64::new(i64::MIN),
            paces: crate::oauth::Paces::default(),
            client_keys: crate::oauth::ClientKeys::default(),
            risk: crate::risk::Risk::default(),
            breached: crate::breached::Breached::default(),
            sightings: crate::sightings::Sightings::default(),
            under_way: crate::guessing::UnderWay::default(),
        };
        let app = Self { inner: Arc::new(inner) };
        app.recall_trail()?;
        app.publish_at_start().await?;
        tasks.spawn(hub.follow());
        if app.hub().is_shared() {
            tasks.spawn(app.hub().clone().keep_row());
        }
        tasks.spawn(app.clone().keep_keys());
        tasks.spawn(app.clone().keep_house());
        tasks.spawn(app.clone().work_off_jobs());
        tasks.spawn(app.clone().prune_attempts());
        tasks.spawn(app.clone().prune());
        tasks.spawn(app.clone().seal_records());
        tasks.spawn(app.clone().keep_trail());
        tasks.spawn(app.clone().tell_followers());
        tasks.spawn(app.clone().spread_notices());
        tasks.spawn(app.clone().send_messages());
        Ok(app)
    }

    /// Raises F, writes down who was seen, forgets what may be forgotten; for ever.
    async fn keep_house(self) {
        let mut floor = time_rules::FloorClock::default();
        let mut rounds: u32 = 0;
        let mut nowhere = BTreeSet::new();
        loop {
            tokio::time::sleep(HOUSEKEEPING).await;
            rounds = rounds.wrapping_add(1);
            self.tell_faults();
            if rounds.is_multiple_of(5) {
                self.watch_unsealed().await;
            }
            let mut steps = Vec::new();
            let now = self.store().now();
            let bound_ms = i64::try_from(self.inner.bound.at(now)).unwrap_or(i64::MAX);
            if bound_ms != self.hub().bound_ms() {
                self.hub().set_bound(bound_ms);
            }
            if let Ok(stamp) = self.store().stamp().await {
                // While nothing is in the log, nothing waits to be forgotten: F may rest for a while.
                let due = floor.is_first() || stamp.head.0 > 0 || rounds.is_multiple_of(15);
                // The clock watches on every node, so that the next one goes on where the last one ended.
                if due
                    && let Some(floor) = floor.next(stamp.floor, now, real::mono().0)
                    && self.hub().leads()
                {
                    steps.push(Change::RaiseFloor(floor));
                }
            }
            if rounds.is_multiple_of(15) {
                let seen = std::mem::take(&mut *self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner));
                if !seen.is_empty() {
                    steps.push(Change::Seen(seen.into_iter().collect()));
                }
            }
            if rounds.is_multiple_of(300) {
                if self.hub().leads() {
                    steps.push(Change::ForgetIdempotency(now.minus(REMEMBER)));
                    steps.push(Change::ForgetJobs(now.minus(self.settings().retention().ended)));
                }
                let gone = self.gone_instances(&mut nowhere).await;
                if !gone.is_empty() {
                    steps.push(Change::RemoveInstances(gone));
                }
            }
            if steps.is_empty() || self.hub().rolled_back().is_some() {
                continue;
            }
            if let Err(error) = self.inner.store.commit(Changes { steps, ..Changes::default() }).await {
                // Tried again in a later round.
                self.fault(error.into());
            }
        }
    }

    /// Instances whose rows are of no use any more. One that this node has not heard of for long is forgotten here; where several
    /// nodes share the rows it may be at another one, and only the leader takes away what no node knew twice (`nowhere`: the first
    /// time).
    async fn gone_instances(&self, nowhere: &mut BTreeSet<InstanceId>) -> Vec<InstanceId> {
        let gone = self.hub().prune_instances(self.settings().bound.saturating_mul(10).max(600_000));
        if !self.hub().is_shared() {
            return gone;
        }
        if !self.hub().leads() {
            nowhere.clear();
            return Vec::new();
        }
        match self.hub().instances_nowhere().await {
            Ok(now) => {
                let before = std::mem::replace(nowhere, now);
                before.intersection(nowhere).copied().collect()
            }
            Err(error) => {
                self.fault(error.into());
                Vec::new()
            }
        }
    }

    /// Ends what is open and writes down what is not yet written: the last step of a shutdown.
    pub async fn finish(&self) {
        self.hub().close();
        self.hub().leave().await;
        self.write_trail().await;
        let seen = std::mem::take(&mut *self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner));
        if !seen.is_empty() && self.hub().rolled_back().is_none() {
            let changes = Changes { steps: vec![Change::Seen(seen.into_iter().collect())], ..Changes::default() };
            if let Err(error) = self.inner.store.commit(changes).await {
                tracing::warn!(%error, "when sessions were last seen could not be written");
            }
        }
    }
}

/// B as all nodes use it. A lower one counts after the old one has passed, since leases under the old one may be out.
async fn ensure_bound(store: &dyn Store, wanted: i64) -> Result<BoundRow, AppError> {
    let wanted_ms = u64::try_from(wanted).unwrap_or(0);
    let now = store.now();
    let known = store.load_bound().await?;
    if let Some(row) = known.filter(|row| row.next_ms == wanted_ms) {
        return Ok(row);
    }
    let current_ms = known.map_or(wanted_ms, |row| row.at(now));
    let overlap = i64::try_from(current_ms + current_ms / 50).unwrap_or(i64::MAX);
    let next_from = if wanted_ms < current_ms { now.plus(overlap) } else { now };
    let row = BoundRow { current_ms, next_ms: wanted_ms, next_from };
    store.commit(Changes { steps: vec![Change::SetBound(row)], ..Changes::default() }).await?;
    Ok(row)
}
