//! Revocation by filter: the call, and the job that works it off (DESIGN §4.10).
use crate::admin::{Admin, not_alive};
use crate::{Acted, App, AppError, RepeatKey, Revoked, real};
use portcullis_domain::changes::{Change, Changes, Idempotency};
use portcullis_domain::kernel::{self, Door};
use portcullis_domain::mass::{self, Filter, Job};
use portcullis_domain::view::Stamp;
use portcullis_domain::{Decision, Refused, account};
use portcullis_store::{CommitError, LiveCount};
use portcullis_wire::{JobId, SessionId};
use std::time::Duration;

/// Rows that a step looks at, and those that it marks, at most.
const LOOK: u32 = 4000;
const MARK: u32 = 250;
/// A step that failed is tried again after as long.
const AGAIN: Duration = Duration::from_secs(1);

/// What a revocation by filter came to at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filtered {
    /// Entries of the log say it all.
    Done(Revoked),
    /// A rule stands, and a job goes through the rows.
    Job {
        /// The job.
        job: JobId,
        /// The rule's entry.
        revoked: Revoked,
    },
}

impl App {
    /// Ends every session that `filter` matches, the named one excepted. With `now` every access token made before is refused
    /// at once, and live sessions refresh and go on.
    pub async fn admin_revoke(
        &self,
        admin: &Admin,
        filter: &Filter,
        except: Option<SessionId>,
        now: bool,
        reason: &str,
        repeat: Option<&RepeatKey>,
    ) -> Result<Filtered, AppError> {
        let reason = account::check_text("reason", reason)?;
        let by = admin.by(Some(&reason));
        let actor = by.actor.text();
        let load = || async { self.store().stamp().await.map_err(|e| self.fault(e.into())) };
        let scopes = filter.scopes();
        self.all_there(filter).await?;
        let decide = |stamp: &Stamp, chance: &mut dyn portcullis_domain::Chance| match &scopes {
            Some(scopes) => {
                let mut all = Changes::default();
                for scope in scopes {
                    let one = kernel::end(Door::Filter, *scope, except, &by, chance);
                    all.expects = one.expects; // the same for each: the actor, and the spared session
                    all.steps.extend(one.steps);
                    all.events.extend(one.events);
                }
                Decision { outcome: Ok(None), changes: all }
            }
            None => {
                let Decision { outcome, mut changes } = mass::create(stamp, filter, except, now, &reason, &by, chance);
                if let (Ok(job), Some(repeat)) = (&outcome, repeat) {
                    let made = Some(job.to_string());
                    changes.idempotency = Some(Idempotency { made, ..self.remember(&actor, repeat) });
                }
                Decision { outcome: outcome.map(Some), changes }
            }
        };
        let acted = self.act(&actor, repeat, load, decide).await;
        if let (Err(AppError::Unauthenticated(_)), true) = (&acted, except.is_some())
            && self.still_admin(admin).await.is_ok()
        {
            return Err(not_alive("except")); // it was the spared session that is dead, not the caller's
        }
        match acted? {
            Acted::Done(Some(job), committed) => {
                self.inner.jobs.notify_one();
                Ok(Filtered::Job { job, revoked: Revoked::of(committed)? })
            }
            Acted::Done(None, committed) => Ok(Filtered::Done(Revoked::of(committed)?)),
            Acted::Answered(_) => Err(AppError::Fault("a revocation without changes".into())),
            Acted::Before(before) => {
                let revoked = Revoked::remembered(&before)?;
                match before.made.as_deref().map(str::parse) {
                    Some(Ok(job)) => Ok(Filtered::Job { job, revoked }),
                    _ => Ok(Filtered::Done(revoked)),
                }
            }
        }
    }

    /// Whatever the filter names by id must exist: a slip of the hand must not look like a success.
    async fn all_there(&self, filter: &Filter) -> Result<(), AppError> {
        let missing =
            |field, id: String| AppError::from(Refused::InvalidValue { field, detail: format!("there is no {id}") });
        for id in &filter.accounts {
            if self.store().load_account(*id).await.map_err(|e| self.fault(e.into()))?.is_none() {
                return Err(missing("account_ids", id.to_string()));
            }
        }
        for id in &filter.clients {
            if self.store().load_client(*id).await.map_err(|e| self.fault(e.into()))?.is_none() {
                return Err(missing("client_ids", id.to_string()));
            }
        }
        Ok(())
    }

    /// How many sessions a revocation with this filter would end, and of how many accounts; refuses what that would refuse.
    pub async fn admin_count_matching(
        &self,
        admin: &Admin,
        filter: &Filter,
        except: Option<SessionId>,
        reason: &str,
    ) -> Result<LiveCount, AppError> {
        account::check_text("reason", reason)?;
        self.all_there(filter).await?;
        if let Some(session) = except {
            let view = self.store().load_session(session).await.map_err(|e| self.fault(e.into()))?;
            let idle_ttl = self.settings().rules.idle_ttl;
            view.filter(|view| view.dead(idle_ttl).is_none()).ok_or_else(|| not_alive("except"))?;
        }
        let count = self.store().count_matching(filter, except).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        Ok(count)
    }

    /// A revocation by filter, and how far it has come.
    pub async fn admin_job(&self, admin: &Admin, job: JobId) -> Result<Job, AppError> {
        let row = self.store().load_job(job).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        row.ok_or_else(|| Refused::NotFound.into())
    }

    /// Waits until what a job ends is enforced everywhere, or until `timeout`: with `now` the rule's own entry; else all that it
    /// writes, so the job must be done.
    pub async fn wait_for_job(&self, mut job: Job, timeout: Duration) -> Result<Job, AppError> {
        let deadline = real::mono().plus(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
        let left = || Duration::from_millis(u64::try_from(deadline.since(real::mono())).unwrap_or(0));
        let read = async |id| {
            let row = self.store().load_job(id).await.map_err(|e| self.fault(e.into()))?;
            row.ok_or_else(|| AppError::from(Refused::NotFound))
        };
        while !job.now && job.finished_at.is_none() && !left().is_zero() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            job = read(job.id).await?;
        }
        let newest = Revoked { rev: job.last, ended: None, at: self.now() };
        self.hub().wait_enforced(&newest, left()).await;
        read(job.id).await
    }

    /// Works off revocations by filter, one at a time, for ever. What a killed server left goes on where it stood.
    pub(crate) async fn work_off_jobs(self) {
        loop {
            if !self.hub().leads() {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            match self.store().list_running_jobs().await {
                Ok(running) => match running.into_iter().next() {
                    Some(job) => {
                        if let Err(error) = self.step_job(&job).await {
                            tracing::warn!(job = %job.id, %error, "a revocation by filter could not go on; tried again");
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                    // Another node may have been asked for one; and the node that worked on one may be gone.
                    None if self.hub().is_shared() => {
                        let _ = tokio::time::timeout(AGAIN, self.inner.jobs.notified()).await;
                    }
                    None => self.inner.jobs.notified().await,
                },
                Err(error) => {
                    tracing::warn!(%error, "revocations by filter could not be looked at; tried again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// One step: a bounded read, a bounded commit, and a rest as long as both took, so that refreshes are not held up.
    async fn step_job(&self, job: &Job) -> Result<(), CommitError> {
        let begun = real::mono_us();
        let batch = self.store().read_job_batch(job, LOOK, MARK).await.map_err(CommitError::Failed)?;
        let done = batch.next.is_none();
        let mut changes = mass::step(job, batch, &mut real::RealChance);
        changes.idle_ttl = Some(self.settings().rules.idle_ttl);
        if changes.steps.iter().any(|step| matches!(step, Change::Revoke(_))) {
            tracing::error!(
                job = %job.id, limit = mass::MAX_ENTRIES,
                "more sessions than entries may say: everything becomes stale instead, and every client refreshes once"
            );
        }
        let committed = self.store().commit(changes).await?;
        self.committed(&committed);
        if done {
            tracing::info!(job = %job.id, "a revocation by filter is done");
        }
        let took_us = u64::try_from(real::mono_us() - begun).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(took_us.min(1_000_000))).await;
        Ok(())
    }
}
