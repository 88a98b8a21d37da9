//! Attempts at passwords on their way: counted under a server key, taken from their budgets before the password is looked at,
//! given back when it was right or was not looked at; and the chore that keeps the budgets' table small.
//!
//! What the budgets are, and who is charged how, stands in `domain::throttle`.
use crate::password::{Lane, Place};
use crate::{App, AppError, real};
use portcullis_domain::Chance as _;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::known_device;
use portcullis_domain::throttle::{self, Attempt, Verdict};
use portcullis_wire::SecretString;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
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

/// An attempt as it was counted.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) attempt: Attempt,
    pub(crate) verdict: Verdict,
    /// Under which name.
    pub(crate) identifier: String,
    /// The device that proved to be known.
    pub(crate) device: Option<u128>,
}

impl App {
    /// Takes an attempt at `identifier` from its budgets, in a commit of its own, after a place in the password pool was
    /// found for it: what cannot be looked at is not charged.
    pub(crate) async fn take_attempt(
        &self,
        identifier: &str,
        ip: Option<IpAddr>,
        marks: Option<&SecretString>,
    ) -> Result<Taken, AppError> {
        let identifier = throttle::counted_as(identifier);
        let keys = self.keys();
        let device = self.known_device(&identifier, marks);
        let attempt = Attempt::of(keys.mac(), &identifier, ip, device);
        let lane = if device.is_some() { Lane::Known } else { Lane::Others };
        let place = self.passwords().reserve(lane).map_err(crate::sessions::pool_error)?;
        let changes = Changes { steps: vec![Change::TakeAttempt(attempt)], ..Changes::default() };
        let committed = self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        let verdict = committed.attempt.ok_or_else(|| AppError::Fault("an attempt without a verdict".into()))?;
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
        Ok(Taken { place, ours: Counted { attempt, verdict, identifier, device } })
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
        self.marks_at(&ours.identifier, ours.device, before)
    }

    /// The same for who comes by another provider to the account that is known under this name.
    pub(crate) fn marks_at(
        &self,
        identifier: &str,
        device: Option<u128>,
        before: Option<&SecretString>,
    ) -> SecretString {
        let (keys, now) = (self.keys(), self.now());
        let device = device.unwrap_or_else(|| real::RealChance.bits());
        let new = known_device::mint(keys.mac(), device, identifier, now);
        known_device::renewed(before, keys.macs(), &new, identifier, now)
    }

    /// The number of a device that signed in to the account of this name before.
    pub(crate) fn known_device(&self, identifier: &str, marks: Option<&SecretString>) -> Option<u128> {
        let keys = self.keys();
        marks.and_then(|marks| known_device::device(marks, keys.macs(), identifier, self.now()))
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
