//! Attempts at passwords on their way: counted under a server key, taken from their budgets before the password is looked at,
//! given back when it was right or was not looked at; and the chore that keeps the budgets' table small.
//!
//! What the budgets are, and who is charged how, stands in `domain::throttle`.
use crate::password::{Lane, Place};
use crate::{App, AppError, real};
use portcullis_domain::Chance as _;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::known_device;
use portcullis_domain::throttle::{Attempt, BucketKey, Name, Verdict};
use portcullis_wire::SecretString;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// At most so many buckets are kept: some 100 MB. Beyond that those are forgotten that owe the least, so that whoever is
/// guessed at most is forgotten last.
pub const MAX_BUCKETS: u64 = 1_000_000;
/// How often buckets that are full again are forgotten, how many at once, and how many in one commit.
const PRUNE_EVERY: Duration = Duration::from_secs(5);
const PRUNE_AT_ONCE: u64 = 2_000;
const PRUNES: usize = 40;

/// An attempt that has its verdict, and a place in the password pool.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) place: Place,
    pub(crate) ours: Counted,
}

/// Attempts of strangers whose password is just being looked at, here: how many at each bucket now, and how many ever since one was.
/// They have been charged to their buckets, and nobody knows yet whether they are wrong. Attempts that are throttled, and those on known
/// devices, are charged to none of them and are not here: otherwise a stream of them would hide guesses that were charged.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<BTreeMap<BucketKey, (u32, u64)>>);

/// How many attempts were under way at a bucket, and how many had been.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    key: BucketKey,
    now: u32,
    ever: u64,
}

impl UnderWay {
    fn all(&self) -> MutexGuard<'_, BTreeMap<BucketKey, (u32, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands at a bucket, before that is read.
    pub(crate) fn standing(&self, key: BucketKey) -> Standing {
        let (now, ever) = self.all().get(&key).copied().unwrap_or_default();
        Standing { key, now, ever }
    }

    /// How many attempts but one's own may have been under way when the bucket was read, after `before` and before now. One's own is
    /// under way all the time, so that what is counted for its buckets lasts.
    pub(crate) fn others(&self, before: &Standing, own: Option<&Counted>) -> u32 {
        let own = own.is_some_and(|own| own.flying.is_some() && own.attempt.strangers().contains(&before.key));
        let since = self.standing(before.key).ever.saturating_sub(before.ever);
        before.now.saturating_sub(u32::from(own)).saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }
}

/// An attempt that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Flying {
    app: App,
    keys: [BucketKey; 2],
}

impl Flying {
    fn begin(app: &App, attempt: &Attempt) -> Self {
        let keys = attempt.strangers();
        let mut all = app.inner.under_way.all();
        for key in keys {
            let (now, ever) = all.entry(key).or_default();
            (*now, *ever) = (*now + 1, *ever + 1);
        }
        drop(all);
        Self { app: app.clone(), keys }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        let mut all = self.app.inner.under_way.all();
        for key in self.keys {
            if let Some((now, _)) = all.get_mut(&key) {
                *now = now.saturating_sub(1);
                if *now == 0 {
                    all.remove(&key);
                }
            }
        }
    }
}

/// An attempt as it was counted.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) attempt: Attempt,
    pub(crate) verdict: Verdict,
    /// It is under way, and is charged as a stranger's.
    pub(crate) flying: Option<Flying>,
    /// Under which name.
    pub(crate) name: Name,
    /// The device that proved to be known.
    pub(crate) device: Option<u128>,
}

impl App {
    /// Takes an attempt at whoever has this name from its budgets, in a commit of its own, after a place in the password pool was
    /// found for it: what cannot be looked at is not charged.
    pub(crate) async fn take_attempt(
        &self,
        name: Name,
        ip: Option<IpAddr>,
        marks: Option<&SecretString>,
    ) -> Result<Taken, AppError> {
        let keys = self.keys();
        let device = self.known_device(&name, marks);
        let attempt = Attempt::of(keys.mac(), name.now(), ip, device);
        let lane = if device.is_some() { Lane::Known } else { Lane::Others };
        let place = self.passwords().reserve(lane).map_err(crate::sessions::pool_error)?;
        let changes = Changes { steps: vec![Change::TakeAttempt(attempt)], ..Changes::default() };
        let committed = self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        let verdict = committed.attempt.ok_or_else(|| AppError::Fault("an attempt without a verdict".into()))?;
        // What was charged to nobody's guesses is not taken off them either.
        let flying = (verdict == Verdict::Stranger).then(|| Flying::begin(self, &attempt));
        let counts = self.counts();
        let count = if verdict.is_checked() { &counts.attempts_checked } else { &counts.attempts_throttled };
        count.fetch_add(1, Ordering::Relaxed);
        // The lane of known devices is for what their budgets allow; what is beyond waits with everybody else.
        let place = match (verdict, lane) {
            (Verdict::Throttled, Lane::Known) => {
                drop(place);
                self.passwords().reserve(Lane::Others).map_err(crate::sessions::pool_error)?
            }
            _ => place,
        };
        Ok(Taken { place, ours: Counted { attempt, verdict, flying, name, device } })
    }

    /// Takes a sign-up from its budgets, in a commit of its own. Nothing gives it back: who is refused an address has learned
    /// that it is taken, and who is not has made a row.
    pub(crate) async fn may_sign_up(&self, email: &str, ip: Option<IpAddr>) -> Result<(), AppError> {
        let fits = match Attempt::of_sign_up(self.keys().mac(), email, ip) {
            None => self.inner.paces.sign_ups_here.take(ip, real::mono()).is_ok(),
            Some(attempt) => {
                let changes = Changes { steps: vec![Change::TakeAttempt(attempt)], ..Changes::default() };
                let committed = self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
                let verdict =
                    committed.attempt.ok_or_else(|| AppError::Fault("an attempt without a verdict".into()))?;
                verdict.is_checked()
            }
        };
        if fits {
            return Ok(());
        }
        self.counts().sign_ups_throttled.fetch_add(1, Ordering::Relaxed);
        Err(AppError::Overloaded)
    }

    /// Whether the account signed in from this network when releases before counted it under its address. They wrote that down for
    /// [`throttle::NETWORK_LIFE`](portcullis_domain::throttle::NETWORK_LIFE), which is how long this may say yes. Asked after a right
    /// password only: an attempt under that name is taken and given back.
    pub(crate) async fn was_known_by_address(&self, ours: &Counted, ip: Option<IpAddr>) -> Result<bool, AppError> {
        let Some(address) = ours.name.before() else { return Ok(false) };
        let attempt = Attempt::of(self.keys().mac(), address, ip, None);
        let changes = Changes { steps: vec![Change::TakeAttempt(attempt)], ..Changes::default() };
        let committed = self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        let verdict = committed.attempt.unwrap_or(Verdict::Throttled);
        self.untake(attempt, verdict).await;
        Ok(verdict == Verdict::Network)
    }

    /// The password was not looked at after all: what was taken is given back, if the database lets us.
    pub(crate) async fn untake(&self, attempt: Attempt, verdict: Verdict) {
        if !verdict.is_checked() {
            return;
        }
        let changes = Changes { steps: vec![Change::GiveBack { attempt, verdict }], ..Changes::default() };
        if let Err(error) = self.store().commit(changes).await {
            tracing::warn!(%error, "an attempt to sign in that was not looked at could not be given back");
        }
    }

    /// The marks for the device that signed in: its own for this account (the number that it had, or a new one), and those
    /// that it brought for others.
    pub(crate) fn marks(&self, ours: &Counted, before: Option<&SecretString>) -> SecretString {
        self.marks_at(&ours.name, ours.device, before)
    }

    /// The same for who comes by another provider to the account that is known under this name.
    pub(crate) fn marks_at(&self, name: &Name, device: Option<u128>, before: Option<&SecretString>) -> SecretString {
        let (keys, now) = (self.keys(), self.now());
        let device = device.unwrap_or_else(|| real::RealChance.bits());
        let new = known_device::mint(keys.mac(), device, name, now);
        known_device::renewed(before, keys.macs(), &new, name, now)
    }

    /// The number of a device that signed in to the account of this name before.
    pub(crate) fn known_device(&self, name: &Name, marks: Option<&SecretString>) -> Option<u128> {
        let keys = self.keys();
        marks.and_then(|marks| known_device::device(marks, keys.macs(), name, self.now()))
    }

    /// Forgets buckets that are full again and networks that are old, in small commits; for ever.
    pub(crate) async fn prune_attempts(self) {
        loop {
            tokio::time::sleep(PRUNE_EVERY).await;
            let rounds = if self.hub().leads() { PRUNES } else { 0 };
            for _ in 0..rounds {
                let Ok(before) = self.store().count_attempts().await else { break };
                self.counts().budgets.store(before.buckets, Ordering::Relaxed);
                if before.buckets == 0 && before.networks == 0 {
                    break;
                }
                let prune = Change::PruneAttempts { keep: MAX_BUCKETS, most: PRUNE_AT_ONCE };
                if let Err(error) = self.store().commit(Changes { steps: vec![prune], ..Changes::default() }).await {
                    tracing::warn!(%error, "budgets for guesses could not be pruned; it is tried again");
                    break;
                }
                let Ok(after) = self.store().count_attempts().await else { break };
                self.counts().budgets.store(after.buckets, Ordering::Relaxed);
                if before.buckets.saturating_sub(after.buckets) < PRUNE_AT_ONCE / 2 {
                    break; // as good as nothing is left to do
                }
            }
        }
    }
}

impl Counted {
    /// What goes into the commit of a sign-in that succeeds.
    pub(crate) fn succeeded(&self) -> [Change; 2] {
        let Attempt { account, network, .. } = self.attempt;
        [self.given_back(), Change::KnowNetwork { account, network }]
    }
    /// What goes into the commit of one whose password was right, and that is refused for something else.
    pub(crate) fn given_back(&self) -> Change {
        Change::GiveBack { attempt: self.attempt, verdict: self.verdict }
    }
}
