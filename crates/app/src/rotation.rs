//! Keys in a running server: made, published, used, rotated, revoked, sealed anew. The rules are `domain::keys`; here are the
//! task that applies them, what administrators do, and the one question that neither can answer: whether every verifier that
//! may be fresh knows a key already.
//!
//! It does when B (+1%) has passed since this node published the key, by the monotonic clock; or, after an emergency, when
//! every verifier that holds a lease has confirmed the entry that killed the key before it: lists of keys reach a verifier no
//! later than the entries of the same commit. Until then nothing is signed with it: sign-ins and refreshes wait a moment, then
//! answer 503 and are repeated. A token that a fresh verifier calls unknown would sign people out instead.
use crate::admin::Admin;
use crate::keys::{KeyError, KeyRing, MasterKey, Material};
use crate::{Acted, App, AppError, RepeatKey, Revoked, real};
use portcullis_domain::audit::{AuditKey, ChainRow};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::client::{Profile, SubjectType};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::family::{MacKey, Presented};
use portcullis_domain::kernel::By;
use portcullis_domain::keys::{self, Held, KeyRules, Make, Plan, Revocation, Wanted};
use portcullis_domain::model::{Key, KeyPurpose};
use portcullis_domain::view::Stamp;
use portcullis_domain::webhook::Webhook;
use portcullis_domain::{Decision, Refused, account, registration};
use portcullis_feed::Mono;
use portcullis_store::{CommitError, Store};
use portcullis_wire::{Code, EventId, KeyId, LogId, SecretBytes, Time, WebhookId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often it is looked at whether something is due.
const ROUND: Duration = Duration::from_secs(2);
/// How long a sign-in or refresh waits for a key that verifiers are just being told of.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the master key is kept, when it is not given anew at each start. Called in this order.
pub trait MasterHome: Send + Sync + fmt::Debug {
    /// Writes the next master key down beside the present one, durably: from now on a start tries both.
    fn prepare(&self, next: &MasterKey) -> std::io::Result<()>;
    /// The stored keys are sealed under the next one: it takes the place of the one before.
    fn settle(&self) -> std::io::Result<()>;
}

/// What this node knows of its keys beyond the rows.
pub(crate) struct Rota {
    /// The one in use first, then the one that may have taken its place in a commit whose outcome is not known.
    masters: Mutex<Vec<MasterKey>>,
    home: Option<Arc<dyn MasterHome>>,
    published: Mutex<BTreeMap<KeyId, Mono>>,
    /// The key that signs since an emergency, and that emergency.
    emergency: Mutex<Option<(KeyId, Revoked)>>,
    /// A key that is known to be known everywhere.
    ready: AtomicU32,
    /// An RSA key made beforehand, for making one takes too long to be waited for in an emergency.
    spare: Mutex<Option<Material>>,
    /// Who changes keys does it alone: one that is made under a master key which is just being replaced would never open again.
    turn: tokio::sync::Mutex<()>,
    /// Keys are read by one at a time: what an older read saw must not take the place of what a younger one did, or a key
    /// that died in between would sign again.
    reading: tokio::sync::Mutex<()>,
}

impl Rota {
    pub(crate) fn new(master: MasterKey, home: Option<Arc<dyn MasterHome>>) -> Self {
        Self {
            masters: Mutex::new(vec![master]),
            home,
            published: Mutex::default(),
            emergency: Mutex::default(),
            ready: AtomicU32::new(0),
            spare: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(crate) fn master(&self) -> MasterKey {
        locked(&self.masters)[0].clone() // never empty
    }

    /// The key of the audit chain, by the master key in use, or by the one whose commit has an unknown outcome.
    pub(crate) fn open_audit_key(&self, chain: &ChainRow, log: LogId) -> Result<AuditKey, KeyError> {
        let masters = locked(&self.masters).clone();
        let mut opened = masters.iter().map(|master| master.open_audit_key(chain, log));
        opened.find(Result::is_ok).unwrap_or(Err(KeyError::Audit))
    }

    /// The secret of a webhook, by the same keys.
    pub(crate) fn open_webhook(
        &self,
        sealed: &SecretBytes,
        id: WebhookId,
        log: LogId,
    ) -> Result<SecretBytes, KeyError> {
        let masters = locked(&self.masters).clone();
        let mut opened = masters.iter().map(|master| master.open_webhook(sealed, id, log));
        opened.find(Result::is_ok).unwrap_or(Err(KeyError::Webhook(id)))
    }
}

/// What is behind these locks is whole after every statement, so a panic of another holder changes nothing.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn fault(error: KeyError) -> AppError {
    AppError::Fault(error.to_string().into())
}

/// A new private key. On a thread that may be busy for a while.
async fn generate(purpose: KeyPurpose) -> Result<Material, AppError> {
    let made = tokio::task::spawn_blocking(move || Material::generate(purpose)).await;
    made.map_err(|error| AppError::Fault(error.to_string().into()))?.map_err(fault)
}

/// Whether `next` opens the stored keys and `present` does not: the server died between the commit that sealed them anew and the
/// moment when the next master key took its place.
pub async fn is_sealed_under(store: &dyn Store, next: &MasterKey, present: &MasterKey) -> Result<bool, AppError> {
    let (log, rows) = (store.stamp().await?.log, store.list_keys().await?);
    Ok(present.opens(&rows, log) == Some(false) && next.opens(&rows, log) == Some(true))
}

/// Makes what a plan asks for, for a database that nobody serves, or that is founded anew.
pub(crate) async fn make_all(master: &MasterKey, makes: &[Make], log: LogId, now: Time) -> Result<Vec<Key>, AppError> {
    let mut made = Vec::with_capacity(makes.len());
    for make in makes {
        made.push(master.new_key(*make, &generate(make.purpose).await?, log, now).map_err(fault)?);
    }
    Ok(made)
}

/// The stored keys, opened. What is due is made first: on a new database one that signs, the next one, and a MAC key.
pub(crate) async fn ensure_keys(
    store: &dyn Store,
    master: &MasterKey,
    log: LogId,
    rules: &KeyRules,
) -> Result<KeyRing, AppError> {
    let (stamp, rows) = (store.stamp().await?, store.list_keys().await?);
    if master.opens(&rows, log) == Some(false) {
        return Err(fault(KeyError::WrongMasterKey)); // before anything is sealed under it
    }
    let plan = keys::plan(&rows, &stamp, rules, Wanted::default(), &|_| false);
    if !plan.is_empty() {
        let made = make_all(master, &plan.make, log, stamp.now).await?;
        let changes = plan.changes(made, &By::SYSTEM, &mut real::RealChance)?;
        match store.commit(changes).await {
            Ok(_) | Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    KeyRing::open(&store.list_keys().await?, master, log, stamp.floor).map_err(fault)
}

/// The keys of a moment, what is to be done to them, and the new ones that this takes.
struct Planned<T> {
    what: T,
    made: Vec<Key>,
}

impl App {
    fn key_rules(&self) -> KeyRules {
        self.settings().key_rules()
    }

    /// How long a key is published before it signs, in milliseconds: B (+1%); and where other nodes give leases too, until the
    /// last of them has read the keys, or gives none.
    fn publish_ms(&self) -> i64 {
        let bound = self.hub().bound_ms();
        let elsewhere = if self.hub().is_shared() { portcullis_feed::cluster::FENCE } else { 0 };
        bound + bound / 100 + 1 + elsewhere
    }

    fn is_published(&self, key: KeyId) -> bool {
        let since = locked(&self.inner.rota.published).get(&key).copied();
        since.is_some_and(|at| real::mono().since(at) >= self.publish_ms())
    }

    // ---- what tokens are signed with ----

    /// Whether every verifier that may be fresh knows the key that signs in `ring`. Nearly always one comparison.
    pub(crate) fn may_sign(&self, ring: &KeyRing) -> bool {
        let (rota, key) = (&self.inner.rota, ring.signs_with());
        if rota.ready.load(Ordering::Acquire) == key.0 {
            return true;
        }
        let emergency = locked(&rota.emergency).filter(|(signs, _)| *signs == key);
        let confirmed = |(_, revoked): (KeyId, Revoked)| self.hub().enforcement(&revoked).counts.complete;
        let ready = self.is_published(key) || emergency.is_some_and(confirmed);
        if ready {
            rota.ready.store(key.0, Ordering::Release);
        }
        ready
    }

    /// Waits a moment until tokens may be signed, if they may not.
    pub(crate) async fn ensure_may_sign(&self) -> Result<(), AppError> {
        if self.may_sign(&self.keys()) {
            return Ok(());
        }
        let key = self.keys().signs_with();
        let emergency = locked(&self.inner.rota.emergency).filter(|(signs, _)| *signs == key);
        if let Some((_, revoked)) = emergency {
            self.hub().wait_enforced(&revoked, PATIENCE).await;
        }
        if self.may_sign(&self.keys()) { Ok(()) } else { Err(AppError::Overloaded) }
    }

    /// At a start: the key that signs was published for long enough by an earlier run, or is the first one ever. Unless an
    /// emergency may have brought it to sign a moment ago: while an entry about a key is in the log, verifiers that may hold a
    /// lease from before must confirm it first. No clock is asked how long ago that was, for clocks are set.
    pub(crate) async fn publish_at_start(&self) -> Result<(), AppError> {
        let stamp = self.store().stamp().await?;
        let signs = self.keys().signs_with();
        if self.hub().knows_dead_keys() {
            let since_start = Revoked { rev: self.hub().head(), ended: None, at: stamp.now };
            *locked(&self.inner.rota.emergency) = Some((signs, since_start));
        } else {
            self.inner.rota.ready.store(signs.0, Ordering::Release);
        }
        self.note_published(&self.keys());
        Ok(())
    }

    fn note_published(&self, ring: &KeyRing) {
        let now = real::mono();
        let mut published = locked(&self.inner.rota.published);
        published.retain(|id, _| ring.listed().any(|listed| listed == *id));
        for id in ring.listed() {
            published.entry(id).or_insert(now);
        }
    }

    // ---- rows and ring ----

    /// Reads the keys anew and hands them to whoever uses them; once a second at most, since a caller's garbage asks for it.
    /// Whether it did.
    pub(crate) async fn reload_keys(&self) -> Result<bool, AppError> {
        let now = real::mono().0;
        let last = self.inner.reloaded.load(Ordering::Acquire);
        if now.saturating_sub(last) < 1000 {
            return Ok(false);
        }
        let mine = self.inner.reloaded.compare_exchange(last, now, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if mine {
            self.load_keys().await?;
        }
        Ok(mine)
    }

    /// The MAC key that a refresh token names; `None` when there is no such key.
    ///
    /// # Errors
    /// [`AppError::Overloaded`] when this node does not know it and has not looked just now: it may be a new one (DESIGN §4.6).
    pub(crate) async fn mac_key(&self, presented: &Presented) -> Result<Option<MacKey>, AppError> {
        if let Some(key) = self.keys().mac_by_id(presented.key()) {
            return Ok(Some(key.clone()));
        }
        // Of an older epoch: its key went with it.
        let old = presented.epoch() < self.hub().at().0;
        if !self.reload_keys().await? && !old {
            return Err(AppError::Overloaded);
        }
        Ok(self.keys().mac_by_id(presented.key()).cloned())
    }

    /// Reads the keys; when they are not as this node has them, the new ones take their place. Verifiers are told first: then no
    /// token is signed with a key that is not on its way to them.
    pub(crate) async fn load_keys(&self) -> Result<(Stamp, Vec<Key>), AppError> {
        let _reading = self.inner.rota.reading.lock().await;
        let began = real::mono();
        let stamp = self.store().stamp().await.map_err(|e| self.fault(e.into()))?;
        let rows = self.store().list_keys().await.map_err(|e| self.fault(e.into()))?;
        if !self.keys().is_of(&rows, stamp.floor) {
            let (ring, master) = self.open(&rows, stamp.floor).map_err(|error| self.fault(fault(error)))?;
            let signed = self.keys().signs_with();
            if ring.signs_with() != signed && ring.is_dead(signed) {
                // The newest entry about a key is the one that this list goes with.
                let rev = rows.iter().filter_map(|row| row.dead).max().unwrap_or(stamp.head);
                let revoked = Revoked { rev, ended: Some(0), at: stamp.now };
                *locked(&self.inner.rota.emergency) = Some((ring.signs_with(), revoked));
            }
            self.hub().set_keys(&ring);
            self.note_published(&ring);
            self.inner.keys.store(Arc::new(ring));
            self.settle_master(master);
        }
        self.hub().keys_were_read(began);
        self.hub().opens_again(stamp.epoch);
        Ok((stamp, rows))
    }

    /// Opens the rows by the master key in use, or by the one whose commit has an unknown outcome.
    fn open(&self, rows: &[Key], floor: Time) -> Result<(KeyRing, MasterKey), KeyError> {
        let masters = locked(&self.inner.rota.masters).clone();
        let mut last = KeyError::WrongMasterKey;
        for master in masters {
            match KeyRing::open(rows, &master, self.inner.log, floor) {
                Ok(ring) => return Ok((ring, master)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn make(&self, makes: &[Make], now: Time) -> Result<Vec<Key>, AppError> {
        let master = self.inner.rota.master();
        let mut made = Vec::with_capacity(makes.len());
        for make in makes {
            let spare = locked(&self.inner.rota.spare).take_if(|spare| spare.purpose() == make.purpose);
            let material = match spare {
                Some(material) => material,
                None => generate(make.purpose).await?,
            };
            // A key for ID tokens is waited for from its making on, which for RSA takes a while.
            let now = if make.purpose.is_id_only() { self.now() } else { now };
            made.push(master.new_key(*make, &material, self.inner.log, now).map_err(fault)?);
        }
        Ok(made)
    }

    async fn planned(&self, wanted: Wanted) -> Result<Planned<Plan>, AppError> {
        let (stamp, rows) = self.load_keys().await?;
        let what = keys::plan(&rows, &stamp, &self.key_rules(), wanted, &|key| self.is_published(key));
        let made = self.make(&what.make, stamp.now).await?;
        Ok(Planned { what, made })
    }

    // ---- the task ----

    /// Does what is due, for ever: on a node whose clock was set, across restarts, beside others who do the same.
    pub(crate) async fn keep_keys(self) {
        loop {
            if let Err(error) = self.tend_keys().await {
                tracing::warn!(%error, "the keys could not be looked after; it is tried again");
            }
            let _ = tokio::time::timeout(ROUND, self.hub().keys_changed()).await;
        }
    }

    async fn tend_keys(&self) -> Result<(), AppError> {
        if !self.hub().leads() {
            return self.load_keys().await.map(drop);
        }
        let turn = self.inner.rota.turn.lock().await;
        let decide = |planned: &Planned<Plan>, chance: &mut dyn portcullis_domain::Chance| {
            if planned.what.held == Some(Held::TooMany) {
                tracing::warn!(
                    "a key is due, and as many are listed as may be; key_rotation is too short for access_ttl"
                );
            }
            match planned.what.clone().changes(planned.made.clone(), &By::SYSTEM, chance) {
                Ok(changes) => Decision { outcome: Ok(()), changes },
                Err(refused) => Decision::refuse(refused),
            }
        };
        if let Acted::Done((), _) = self.act("", None, || self.planned(Wanted::default()), decide).await? {
            self.load_keys().await?;
            tracing::info!(signs = %self.keys().signs_with(), "keys were rotated, made or dropped");
        }
        drop(turn);
        if self.registers_clients() {
            self.ensure_id_key(&registration::silent()).await?;
        }
        let spares = KeyPurpose::signing(self.settings().keys.algorithm);
        if spares == KeyPurpose::Rs256 && locked(&self.inner.rota.spare).is_none() {
            let material = generate(spares).await?;
            *locked(&self.inner.rota.spare) = Some(material);
        }
        Ok(())
    }

    // ---- ID tokens of clients that want another algorithm ----

    /// Whether ID tokens of this purpose may be signed: their key has been listed for as long as other nodes may take to list it, too.
    /// Where there is one node, it lists the key as soon as it has it. No verifier is waited for: none ever hears of such a key.
    fn may_sign_ids(&self, ring: &KeyRing, purpose: KeyPurpose) -> bool {
        let Some((id, made)) = ring.id_signer(purpose) else { return false };
        !self.hub().is_shared() || self.now().since(made) >= self.publish_ms() || self.is_published(id)
    }

    /// Sees to it that ID tokens for a client can be signed, before anything is used up for them. Nearly always two comparisons.
    ///
    /// # Errors
    /// Overloaded, until a key that was made for its algorithm has been listed for long enough by all nodes: 503, and the client repeats.
    pub(crate) async fn ensure_may_sign_ids(&self, profile: &Profile) -> Result<(), AppError> {
        self.ensure_may_name(profile).await?;
        self.ensure_may_sign_by(profile.id_keys(self.keys().id_algorithm())).await
    }

    /// The same of a key for ID tokens, or for answers of userinfo; `None`: the one that signs access tokens.
    pub(crate) async fn ensure_may_sign_by(&self, purpose: Option<KeyPurpose>) -> Result<(), AppError> {
        let Some(purpose) = purpose.filter(|purpose| !self.may_sign_ids(&self.keys(), *purpose)) else { return Ok(()) };
        self.ensure_key_of(purpose).await?;
        if self.may_sign_ids(&self.keys(), purpose) { Ok(()) } else { Err(AppError::Overloaded) }
    }

    /// Makes the first keys for the ID tokens and the userinfo of a client, if it needs some that are not there. One for RS256 takes up to seconds, on a thread of its own.
    pub(crate) async fn ensure_id_key(&self, profile: &Profile) -> Result<(), AppError> {
        let usual = self.keys().id_algorithm();
        for purpose in [profile.id_keys(usual), profile.userinfo_keys(usual)].into_iter().flatten() {
            self.ensure_key_of(purpose).await?;
        }
        Ok(())
    }

    async fn ensure_key_of(&self, purpose: KeyPurpose) -> Result<(), AppError> {
        if self.keys().id_signer(purpose).is_some() {
            return Ok(());
        }
        self.make_first(move |rows, stamp| keys::first_for_id_tokens(rows, stamp, purpose)).await
    }

    /// Makes the key of pairwise subjects, before the first client that needs it is registered.
    pub(crate) async fn ensure_key_of_names(&self, profile: &Profile) -> Result<(), AppError> {
        if profile.subject_type == SubjectType::Public || self.keys().pairwise().is_some() {
            return Ok(());
        }
        self.make_first(keys::for_names).await
    }

    async fn make_first(&self, plan: impl Fn(&[Key], &Stamp) -> Plan + Send + Sync + 'static) -> Result<(), AppError> {
        let app = self.clone();
        self.to_its_end(async move {
            let _turn = app.inner.rota.turn.lock().await;
            let load = || async {
                let (stamp, rows) = app.load_keys().await?;
                let what = plan(&rows, &stamp);
                let made = app.make(&what.make, stamp.now).await?;
                Ok(Planned { what, made })
            };
            let decide = |planned: &Planned<Plan>, chance: &mut dyn portcullis_domain::Chance| match planned
                .what
                .clone()
                .changes(planned.made.clone(), &By::SYSTEM, chance)
            {
                Ok(changes) => Decision { outcome: Ok(()), changes },
                Err(refused) => Decision::refuse(refused),
            };
            app.act("", None, load, decide).await?;
            app.load_keys().await.map(drop)
        })
        .await
    }

    // ---- what administrators do ----

    /// All keys by number, dead and retired ones too, and F, which their states depend on.
    pub async fn admin_keys(&self, admin: &Admin) -> Result<(Vec<Key>, Time), AppError> {
        let floor = self.store().stamp().await.map_err(|e| self.fault(e.into()))?.floor;
        let rows = self.store().list_keys().await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        Ok((rows, floor))
    }

    /// Rotates now: the waiting signing key takes over, or a new MAC key, or both.
    pub async fn admin_rotate_keys(
        &self,
        admin: &Admin,
        wanted: Wanted,
        repeat: Option<&RepeatKey>,
    ) -> Result<(), AppError> {
        let (app, admin, repeat) = (self.clone(), admin.clone(), repeat.cloned());
        self.to_its_end(async move {
            let turn = app.inner.rota.turn.lock().await;
            let by = admin.by(None);
            let decide = |planned: &Planned<Plan>, chance: &mut dyn portcullis_domain::Chance| {
                if let Some(held) = planned.what.held {
                    return Decision::refuse(Refused::Conflict { detail: words(held) });
                }
                match planned.what.clone().changes(planned.made.clone(), &by, chance) {
                    Ok(changes) => Decision { outcome: Ok(()), changes },
                    Err(refused) => Decision::refuse(refused),
                }
            };
            let actor = by.actor.text();
            app.act(&actor, repeat.as_ref(), || app.planned(wanted), decide).await?;
            app.load_keys().await?;
            drop(turn);
            Ok(())
        })
        .await
    }

    /// Kills a signing key for good, in every epoch; the waiting one takes over at once when it was the one that signs. Repeated:
    /// the old rev.
    pub async fn admin_revoke_key(
        &self,
        admin: &Admin,
        id: KeyId,
        reason: &str,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let reason = account::check_text("reason", reason)?;
        let (app, admin, repeat) = (self.clone(), admin.clone(), repeat.cloned());
        // To its end even if the caller hangs up: the key that is dead in the database must not go on signing here.
        self.to_its_end(async move { app.revoke_key(&admin, id, &reason, repeat.as_ref()).await }).await
    }

    async fn revoke_key(
        &self,
        admin: &Admin,
        id: KeyId,
        reason: &str,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let _turn = self.inner.rota.turn.lock().await;
        let load = || async {
            let (stamp, rows) = self.load_keys().await?;
            let what = keys::revoke(&rows, id, &stamp, &self.key_rules());
            let made = match &what {
                Ok(Revocation::Now(plan)) => self.make(&plan.make, stamp.now).await?,
                _ => vec![],
            };
            Ok(Planned { what, made })
        };
        let by = admin.by(Some(reason));
        let decide = |planned: &Planned<Result<Revocation, Refused>>, chance: &mut dyn portcullis_domain::Chance| {
            let plan = match &planned.what {
                Ok(Revocation::Now(plan)) => plan.clone(),
                Ok(Revocation::Before(rev)) => return Decision::answer(Some(*rev)),
                Err(refused) => return Decision::refuse(refused.clone()),
            };
            match plan.revoking(id, planned.made.clone(), &by, chance) {
                Ok(changes) => Decision { outcome: Ok(None), changes },
                Err(refused) => Decision::refuse(refused),
            }
        };
        let revoked = match self.act(&by.actor.text(), repeat, load, decide).await {
            Ok(Acted::Done(_, committed)) => Revoked::of(committed)?,
            Ok(Acted::Answered(Some(rev))) => Revoked { rev, ended: Some(0), at: self.store().now() },
            Ok(Acted::Answered(None)) => return Err(AppError::Fault("a revocation without changes".into())),
            Ok(Acted::Before(before)) => Revoked::remembered(&before)?,
            Err(error) => {
                // It may be written all the same; then what signs is the other key, from this moment.
                let _ = self.load_keys().await;
                return Err(error);
            }
        };
        let (_, rows) = self.load_keys().await?;
        if !rows.iter().any(|row| row.id == id && row.dead.is_some()) {
            return Err(self.fault(AppError::Fault(format!("{id} was revoked and is not dead").into())));
        }
        self.still_admin(admin).await?; // what was only answered was not checked by a commit
        Ok(revoked)
    }

    /// Seals all stored keys under another master key, in one commit, and goes on with that one. How many were sealed anew, and
    /// whether the key is kept in the data directory; else it is given at each start, and the next one needs the new one.
    pub async fn admin_rotate_master(&self, admin: &Admin, next: MasterKey) -> Result<(usize, bool), AppError> {
        if !admin.is_operator() {
            let detail = "the master key is rotated by the admin socket only: no token may bring one".into();
            return Err(AppError::Bad(Code::Forbidden, detail));
        }
        let (app, admin) = (self.clone(), admin.clone());
        self.to_its_end(async move { app.rotate_master(&admin, next).await }).await
    }

    async fn rotate_master(&self, admin: &Admin, next: MasterKey) -> Result<(usize, bool), AppError> {
        let rota = &self.inner.rota;
        let _turn = rota.turn.lock().await;
        self.load_keys().await?; // settles what an unknown outcome left open
        let (master, kept) = (rota.master(), rota.home.is_some());
        if master.is(&next) {
            return Ok((0, kept)); // repeated
        }
        if let Some(home) = &rota.home {
            let prepared = home.prepare(&next);
            prepared.map_err(|error| self.fault(AppError::Fault(format!("the next master key: {error}").into())))?;
        }
        locked(&rota.masters).truncate(1);
        locked(&rota.masters).push(next.clone());
        let load = || async {
            let rows = self.store().list_keys().await.map_err(|e| self.fault(e.into()))?;
            let chain = self.store().read_chain(None, 0).await.map_err(|e| self.fault(e.into()))?;
            let webhooks = self.store().list_webhooks().await.map_err(|e| self.fault(e.into()))?;
            Ok((rows, chain.map(|read| read.chain), webhooks))
        };
        let by = admin.by(None);
        type Sealed = (Vec<Key>, Option<ChainRow>, Vec<Webhook>);
        let decide = |(rows, chain, webhooks): &Sealed, chance: &mut dyn portcullis_domain::Chance| {
            let mut steps = Vec::new();
            for row in rows {
                match master.reseal(row, self.inner.log, &next) {
                    Ok(Some(sealed)) => {
                        steps.push(Change::SetKeySealed { key: row.id, before: row.sealed.clone(), sealed });
                    }
                    Ok(None) => {}
                    Err(error) => return Decision::refuse(Refused::Unavailable { detail: error.to_string() }),
                }
            }
            let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::MasterKeyRotated, &by.actor);
            let (resealed, expects) = (steps.len(), by.expects().into_iter().collect());
            if let Some(chain) = chain {
                let log = self.inner.log;
                match master.open_audit_key(chain, log).and_then(|key| next.seal_audit_key(&key, log)) {
                    Ok(sealed) => steps.push(Change::SetChainKey { before: chain.key.clone(), sealed }),
                    Err(error) => return Decision::refuse(Refused::Unavailable { detail: error.to_string() }),
                }
            }
            for row in webhooks {
                match master.reseal_webhook(row, self.inner.log, &next) {
                    Ok(next) => steps.push(Change::UpdateWebhook(next)),
                    Err(error) => return Decision::refuse(Refused::Unavailable { detail: error.to_string() }),
                }
            }
            let changes = Changes { expects, steps, events: vec![event.ip(by.ip)], ..Changes::default() };
            Decision { outcome: Ok(resealed), changes }
        };
        let resealed = match self.act("", None, load, decide).await? {
            Acted::Done(resealed, _) | Acted::Answered(resealed) => resealed,
            Acted::Before(_) => return Err(AppError::Fault("a master key has no repeat key".into())),
        };
        self.settle_master(next);
        Ok((resealed, kept))
    }

    /// The stored keys open with `master`: it is the one in use, also after the next start.
    fn settle_master(&self, master: MasterKey) {
        let rota = &self.inner.rota;
        let mut masters = locked(&rota.masters);
        if masters[0].is(&master) {
            return; // another one that was tried came to nothing; a later try replaces it, and a start forgets it
        }
        *masters = vec![master];
        drop(masters);
        match rota.home.as_ref().map(|home| home.settle()) {
            None => {
                tracing::warn!("the stored keys are sealed under a new master key; give that one at the next start")
            }
            Some(Ok(())) => tracing::info!("the stored keys are sealed under a new master key"),
            Some(Err(error)) => {
                tracing::error!(%error, "the new master key is in use and not in its place yet; the next start puts it there");
            }
        }
    }

    /// Runs `work` to its end, also when who asked for it has gone.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AppError>> + Send + 'static,
    ) -> Result<T, AppError> {
        let done = tokio::spawn(work).await;
        done.unwrap_or_else(|error| Err(self.fault(AppError::Fault(error.to_string().into()))))
    }
}

fn words(held: Held) -> String {
    match held {
        Held::NotPublished(key) => format!(
            "{key}, which is next, was published less than the bound ago, so a verifier may not know it yet; call again when \
             the bound has passed"
        ),
        Held::TooMany => "as many keys are listed as verifiers take; call again when the oldest has retired".into(),
    }
}
