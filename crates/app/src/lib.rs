//! The loop: load a view, decide, commit the changes, publish, answer.
//!
//! This crate joins the pure rules of `domain` to a database, to time and chance, to the password pool, and to the feed. It
//! knows nothing of HTTP; what it returns are outcomes and closed errors. Every operation has the same shape ([`App::act`]):
//! facts of one snapshot go into a pure decision, its changes are committed whatever the outcome, a conflict means a new
//! view and a new decision, and no token leaves before the commit that it rests on is on disk.
//!
//! The real clock and the real randomness are made in `real.rs` and nowhere else.
pub mod act_journal;
pub mod admin;
pub mod api_keys;
pub mod audit;
pub mod breached;
pub mod callers;
pub mod email;
pub mod error;
pub mod few;
pub mod follow;
pub mod guessing;
pub mod high_water;
pub mod hub;
pub mod import;
pub mod keys;
pub mod mail;
pub mod mass;
pub mod oauth;
pub mod outbox;
pub mod own_account;
pub mod password;
mod pruning;
pub mod real;
pub mod recovery;
pub mod refounding;
pub mod risk;
pub mod roles;
pub mod rotation;
pub mod sessions;
pub mod settings;
pub mod sightings;
pub mod sign_up;
pub mod start;
mod unverified;
pub mod upstream;
pub mod webhooks;

pub use admin::Admin;
pub use callers::Caller;
pub use error::AppError;
pub use sessions::{Revoked, Tokens};
pub use settings::{
    ClientSettings, Hashing, KeySettings, PolicySettings, Registration, Settings, UpstreamKind, UpstreamSettings,
};

// What reads return: callers need no store of their own to name it.
pub use portcullis_mail::{Catcher, Caught, MailOptions, Mailer};
pub use portcullis_outgoing::{Allowed, Authorities, Calls, Found, Limits as CallLimits, Lookup, Outgoing};
pub use portcullis_store::{EventFilter, EventRow, MessageFilter, Page, Store};

use crate::hub::Hub;
use crate::keys::KeyRing;
use crate::password::Passwords;
use arc_swap::ArcSwap;
use portcullis_domain::changes::{Change, Changes, Committed, Conflict, Idempotency};
use portcullis_domain::family::MacKey;
use portcullis_domain::time_rules;
use portcullis_domain::{Chance, Decision, Refused};
pub use portcullis_store::FaultKind;
use portcullis_store::{CommitError, Flood, Remembered};
pub use portcullis_verify::proof::{Holder, Proven};
use portcullis_wire::{AccountId, Code, Digest, LogId, SessionId, Time};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a decision is taken anew because rows moved. Each conflict means that another decision was committed, so
/// this is only reached by a storm on one row.
const MAX_TRIES: u32 = 64;

/// A running server, without its outside surface. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    settings: Settings,
    log: LogId,
    keys: ArcSwap<KeyRing>,
    passwords: Passwords,
    hub: Hub,
    /// The horizon that this node knows to be committed.
    horizon: AtomicI64,
    /// When sessions were last seen without a refresh, to be written from time to time.
    seen: Mutex<BTreeMap<SessionId, Time>>,
    counts: Counts,
    /// Which faults are told in the log.
    flood: Mutex<Flood>,
    acts: act_journal::Pending,
    /// A revocation by filter was asked for.
    jobs: tokio::sync::Notify,
    outbox: outbox::Outbox,
    sealer: audit::Sealer,
    sealings: follow::Sealings,
    /// Places for those that read the trail as it grows.
    tails: Arc<tokio::sync::Semaphore>,
    upstreams: upstream::Upstreams,
    rota: rotation::Rota,
    bound: portcullis_domain::changes::BoundRow,
    /// When keys were last read anew, by the monotonic clock.
    reloaded: AtomicI64,
    paces: oauth::Paces,
    client_keys: oauth::ClientKeys,
    risk: risk::Risk,
    breached: breached::Breached,
    sightings: sightings::Sightings,
    under_way: guessing::UnderWay,
}

/// What happened, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sessions started.
    pub sign_ins: AtomicU64,
    /// Sign-ins refused.
    pub sign_ins_refused: AtomicU64,
    /// Refused sign-ins that took longer than a step.
    pub sign_ins_beyond_step: AtomicU64,
    /// Attempts to sign in whose password was looked at.
    pub attempts_checked: AtomicU64,
    /// Attempts to sign in whose password was not looked at, because a budget for guesses was used up.
    pub attempts_throttled: AtomicU64,
    /// Sign-ups that found a budget empty.
    pub sign_ups_throttled: AtomicU64,
    /// Budgets for guesses that are not full, as last counted.
    pub budgets: AtomicU64,
    /// Refreshes answered.
    pub refreshes: AtomicU64,
    /// Refreshes refused.
    pub refreshes_refused: AtomicU64,
    /// Refresh tokens that only a copy explains.
    pub thefts: AtomicU64,
    /// DPoP proofs and client assertions that were wrong, or shown before.
    pub proofs_refused: AtomicU64,
    /// Sessions deleted because nothing can ask for them any more.
    pub sessions_pruned: AtomicU64,
    /// Tickets deleted some time after their end.
    pub tickets_pruned: AtomicU64,
    /// Grants deleted that had ended under sessions that go on.
    pub grants_pruned: AtomicU64,
    /// Clients deleted that registered themselves and that nobody used.
    pub clients_pruned: AtomicU64,
    /// Accounts deleted whose address was never proved.
    pub unverified_pruned: AtomicU64,
    /// Audit records that were sealed.
    pub events_sealed: AtomicU64,
    /// How often this server found its chain of audit records to be another than it was.
    pub audit_misfits: AtomicU64,
    /// Audit records that wait to be sealed, as last counted.
    pub events_unsealed: AtomicU64,
    /// For how long the oldest of them has waited, in milliseconds.
    pub events_unsealed_age_ms: AtomicU64,
    /// Audit records deleted because of their age.
    pub events_pruned: AtomicU64,
    /// Addresses deleted because of their age.
    pub addresses_forgotten: AtomicU64,
    /// Blocks that lifted themselves, and accounts whose grace period passed.
    pub accounts_due: AtomicU64,
    /// Messages that were taken.
    pub messages_sent: AtomicU64,
    /// Tries to send a message that failed and come again.
    pub messages_failed: AtomicU64,
    /// Messages that were given up.
    pub messages_dead: AtomicU64,
    /// Messages that wait, as last counted.
    pub messages_waiting: AtomicU64,
    /// Ends committed.
    pub revocations: AtomicU64,
    /// Decisions taken anew because rows had moved.
    pub conflicts: AtomicU64,
    /// Faults, by [`FaultKind`].
    pub faults: [AtomicU64; FaultKind::ALL.len()],
}

impl Counts {
    fn fault(&self, kind: FaultKind) {
        if let Some(count) = self.faults.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("log", &self.inner.log).finish_non_exhaustive()
    }
}

/// The `Idempotency-Key` of a call, with a digest of the call itself.
#[derive(Debug, Clone)]
pub struct RepeatKey {
    /// The header's value, 1 to 200 visible ASCII characters.
    pub key: String,
    /// Digest of method, path and body.
    pub request: Digest,
}

impl RepeatKey {
    /// The same for a call whose meaning depends on a session that it does not name: `current` is another one for each
    /// device, and what one of them did must not be told to another as its own.
    pub(crate) fn about(&self, session: SessionId) -> Self {
        let call = [&self.request.0[..], &session.bits().to_be_bytes()[..]].concat();
        Self { key: self.key.clone(), request: Digest::of(&call) }
    }

    /// The same for what a call that is many commits does to one of its accounts: remembered under a key of its own. It has a
    /// character that no header's value may have, so that it is never that of another call.
    pub(crate) fn of(&self, account: AccountId) -> Self {
        Self { key: format!("{} {account}", self.key), request: self.request }
    }
}

/// What an act came to: its own result, or the one remembered under its repeat key.
pub(crate) enum Acted<T> {
    /// It was done now.
    Done(T, Committed),
    /// It was answered without a commit.
    Answered(T),
    /// It had been done before.
    Before(Remembered),
}

impl App {
    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }
    /// The feed.
    pub fn hub(&self) -> &Hub {
        &self.inner.hub
    }
    /// The database.
    pub fn store(&self) -> &dyn Store {
        &*self.inner.store
    }
    /// The database's time.
    pub fn now(&self) -> Time {
        self.inner.store.now()
    }
    /// Why this node may not serve, if so: its knowledge of the log is too old, or the database does not answer within a second.
    pub async fn why_not_ready(&self) -> Option<String> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
        if let Some(why) = self.hub().why_not_ready() {
            return Some(why);
        }
        match tokio::time::timeout(PATIENCE, self.inner.store.stamp()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the database does not answer".into()),
        }
    }
    /// The keys in force.
    pub fn keys(&self) -> Arc<KeyRing> {
        self.inner.keys.load_full()
    }
    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.inner.counts
    }
    /// The password pool.
    pub fn passwords(&self) -> &Passwords {
        &self.inner.passwords
    }

    /// Sees to it that the committed horizon covers the longest life ahead, before a view for issuing is loaded
    /// (DESIGN §4.3), and that there is a key to sign with. Almost always two comparisons.
    pub(crate) async fn ensure_horizon(&self) -> Result<(), AppError> {
        let store = &self.inner.store;
        let now = time_rules::issue_time(store.now(), self.inner.hub.floor());
        let known = Time(self.inner.horizon.load(Ordering::Acquire));
        let max_life = self.inner.settings.rules.max_life();
        self.ensure_may_sign().await?;
        if let Some(next) = time_rules::raise_horizon(known, now, max_life) {
            let changes = Changes { steps: vec![Change::RaiseHorizon(next)], ..Changes::default() };
            store.commit(changes).await.map_err(|error| self.fault(error.into()))?;
            self.inner.horizon.fetch_max(next.0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Load, decide, commit; again when rows moved meanwhile.
    pub(crate) async fn act<V, T, L, F, D>(
        &self,
        actor: &str,
        repeat: Option<&RepeatKey>,
        load: L,
        decide: D,
    ) -> Result<Acted<T>, AppError>
    where
        L: Fn() -> F,
        F: Future<Output = Result<V, AppError>>,
        D: Fn(&V, &mut dyn Chance) -> Decision<T>,
    {
        self.tried(actor, repeat, load, decide).await?.ok_or(AppError::Overloaded)
    }

    /// The same for what rests on a ticket, of which one use works. Whoever is refused again and again by a store that has changed
    /// nothing shows a ticket that is older than a revocation by filter which is done: what it would give is born below that, and
    /// nobody can tell any more whether it would have matched.
    pub(crate) async fn act_on_ticket<V, T, L, F, D>(
        &self,
        actor: &str,
        repeat: Option<&RepeatKey>,
        load: L,
        decide: D,
    ) -> Result<Acted<T>, AppError>
    where
        L: Fn() -> F,
        F: Future<Output = Result<V, AppError>>,
        D: Fn(&V, &mut dyn Chance) -> Decision<T>,
    {
        let tried = self.tried(actor, repeat, load, decide).await?;
        tried.ok_or_else(|| {
            let detail = "access was taken away from many while this was under way; begin anew".into();
            Refused::Conflict { detail }.into()
        })
    }

    /// `None` when rows moved each time.
    async fn tried<V, T, L, F, D>(
        &self,
        actor: &str,
        repeat: Option<&RepeatKey>,
        load: L,
        decide: D,
    ) -> Result<Option<Acted<T>>, AppError>
    where
        L: Fn() -> F,
        F: Future<Output = Result<V, AppError>>,
        D: Fn(&V, &mut dyn Chance) -> Decision<T>,
    {
        for _ in 0..MAX_TRIES {
            if let Some(repeat) = repeat
                && let Some(before) = self.remembered(actor, repeat).await?
            {
                return Ok(Some(Acted::Before(before)));
            }
            // What was decided on is given up before the commit: it would be most of what waits for one.
            let Decision { outcome, mut changes } = decide(&load().await?, &mut real::RealChance);
            if changes.is_empty() {
                return outcome.map(|value| Some(Acted::Answered(value))).map_err(AppError::from);
            }
            changes.idle_ttl = Some(self.inner.settings.rules.idle_ttl);
            if outcome.is_ok()
                && let Some(repeat) = repeat
                && changes.idempotency.is_none()
            {
                changes.idempotency = Some(self.remember(actor, repeat));
            }
            match self.commit_and_tell(changes).await {
                Ok(committed) => {
                    self.committed(&committed);
                    return outcome.map(|value| Some(Acted::Done(value, committed))).map_err(AppError::from);
                }
                Err(CommitError::Conflict(conflict)) => {
                    self.inner.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                    if let Err(refused) = again_after(conflict) {
                        // What stands in the way may be the same call's own work, done meanwhile: its account, its end.
                        let before = match repeat {
                            Some(repeat) => self.remembered(actor, repeat).await?,
                            None => None,
                        };
                        return before.map(|before| Some(Acted::Before(before))).ok_or(refused);
                    }
                }
                Err(error) => return Err(self.fault(error.into())),
            }
        }
        Ok(None)
    }

    /// Commits; and what the journal of acts must hear of it hears, also when the caller has hung up meanwhile.
    async fn commit_and_tell(&self, changes: Changes) -> Result<Committed, CommitError> {
        let touched = Self::touched(&changes);
        if touched.is_empty() {
            return self.inner.store.commit(changes).await;
        }
        let app = self.clone();
        let told = tokio::spawn(async move {
            let result = app.inner.store.commit(changes).await;
            if !matches!(result, Err(CommitError::Conflict(_))) {
                app.inner.acts.add(touched); // what has failed may be written all the same
            }
            result
        });
        told.await.unwrap_or_else(|error| Err(CommitError::Unknown(portcullis_store::StoreError::new(error))))
    }

    /// One round of [`App::act`] for callers that must load by themselves; `None` when rows had moved.
    pub(crate) async fn act_once<V, T, L, F, D>(&self, load: L, decide: D) -> Result<Option<T>, AppError>
    where
        L: Fn() -> F,
        F: Future<Output = Result<V, AppError>>,
        D: Fn(&V, &mut dyn Chance) -> Decision<T>,
    {
        let Decision { outcome, mut changes } = decide(&load().await?, &mut real::RealChance);
        if changes.is_empty() {
            return outcome.map(Some).map_err(AppError::from);
        }
        changes.idle_ttl = Some(self.inner.settings.rules.idle_ttl);
        match self.commit_and_tell(changes).await {
            Ok(committed) => {
                self.committed(&committed);
                outcome.map(Some).map_err(AppError::from)
            }
            Err(CommitError::Conflict(conflict)) => {
                self.inner.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                again_after(conflict)?;
                Ok(None)
            }
            Err(error) => Err(self.fault(error.into())),
        }
    }

    /// What every commit is followed by: whoever follows the log is woken.
    fn committed(&self, committed: &Committed) {
        if committed.rev.is_some() {
            self.inner.counts.revocations.fetch_add(1, Ordering::Relaxed);
            self.inner.hub.wake();
            self.inner.outbox.wake();
        }
    }

    /// What is remembered of a call under its repeat key.
    pub(crate) fn remember(&self, actor: &str, repeat: &RepeatKey) -> Idempotency {
        Idempotency { actor: actor.into(), key: repeat.key.clone(), request: self.sealed(repeat), made: None }
    }

    /// The digest of a call as the database has it: under a server key, for the call may hold a password, and a quick digest
    /// of that beside the slow one would be what a thief of the database guesses by.
    fn sealed(&self, repeat: &RepeatKey) -> Digest {
        sealed(self.keys().mac(), repeat)
    }

    pub(crate) async fn remembered(&self, actor: &str, repeat: &RepeatKey) -> Result<Option<Remembered>, AppError> {
        let Some(before) = self.inner.store.load_remembered(actor, &repeat.key).await? else {
            return Ok(None);
        };
        // The key may have been rotated since.
        if !self.keys().macs().iter().any(|mac| before.request == sealed(mac, repeat)) {
            let detail = "was used for another request; take a new one".into();
            return Err(Refused::InvalidValue { field: "Idempotency-Key", detail }.into());
        }
        Ok(Some(before))
    }

    /// Counts and logs a fault; passes everything through.
    pub(crate) fn fault(&self, error: AppError) -> AppError {
        match &error {
            AppError::Fault(fault) => {
                self.counts().fault(fault.kind);
                if let Some(times) = self.flood().note(fault.kind, self.store().now()) {
                    tracing::error!(kind = fault.kind.name(), times, detail = %fault.detail, "fault");
                }
            }
            AppError::Overloaded => self.counts().fault(FaultKind::Overloaded),
            _ => {}
        }
        error
    }

    fn flood(&self) -> MutexGuard<'_, Flood> {
        self.inner.flood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how many faults there were that were not told one by one.
    fn tell_faults(&self) {
        let due = self.flood().due(self.store().now());
        for (kind, times) in due {
            tracing::error!(kind = kind.name(), times, "faults since the last line about one of this kind");
        }
    }

    /// A session was seen; written with others from time to time, never by the request itself.
    pub(crate) fn saw(&self, session: SessionId, now: Time) {
        const MAX_SEEN: usize = 100_000;
        if let Ok(mut seen) = self.inner.seen.lock()
            && (seen.len() < MAX_SEEN || seen.contains_key(&session))
        {
            seen.insert(session, now);
        }
    }
}

fn sealed(mac: &MacKey, repeat: &RepeatKey) -> Digest {
    Digest::of(&mac.tag(b"repeated call", &[&repeat.request.0]))
}

/// Whether to decide again after this conflict, or what to tell the caller.
fn again_after(conflict: Conflict) -> Result<(), AppError> {
    match conflict {
        // What was used meanwhile is seen as used by the next decision.
        Conflict::Moved | Conflict::Repeated | Conflict::Used => Ok(()),
        Conflict::EmailTaken => Err(Refused::EmailTaken.into()),
        Conflict::Missing => Err(Refused::NotFound.into()),
        // The actor or the spared session died meanwhile: the token that named it is revoked.
        Conflict::NotAlive(_) => Err(AppError::Unauthenticated(Code::TokenRevoked)),
        Conflict::TooMany => {
            let detail = "as many revocations by filter are under way as may be; wait until one is done".into();
            Err(Refused::Conflict { detail }.into())
        }
        Conflict::BornDead => {
            let detail = "access was taken away while this sign-in was under way; sign in again".into();
            Err(Refused::Conflict { detail }.into())
        }
    }
}
