//! Revocations by filter: rules that stand, and the rows that their jobs look at.
use super::Memory;
use crate::{CommitError, LiveCount};
use portcullis_domain::changes::Conflict;
use portcullis_domain::kernel::{self, Door};
use portcullis_domain::mass::{Batch, Filter, Job, JobStep, Rules, Standing};
use portcullis_domain::model::{Ended, Session};
use portcullis_wire::{Entry, JobId, Millis, Rev, SessionId, Target, Time, Verb};
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

impl Memory {
    /// The rules that stand, oldest first.
    pub(super) fn standing(&self) -> Rules {
        let running = self.list_running_jobs();
        (!running.is_empty()).then(|| running.into_iter().map(|job| job.rule).collect())
    }

    /// As [`Store::load_job`](crate::Store::load_job).
    pub fn load_job(&self, job: JobId) -> Option<Job> {
        self.jobs.get(&job).cloned()
    }

    /// As [`Store::list_running_jobs`](crate::Store::list_running_jobs).
    pub fn list_running_jobs(&self) -> Vec<Job> {
        let mut running: Vec<Job> =
            self.jobs.rows().map(|(_, job)| job).filter(|job| job.finished_at.is_none()).cloned().collect();
        running.sort_by_key(|job| job.rule.rev);
        running
    }

    /// As [`Store::count_matching`](crate::Store::count_matching).
    pub fn count_matching(&self, filter: &Filter, except: Option<SessionId>, now: Time) -> LiveCount {
        let rule = Standing { rev: Rev(u64::MAX), filter: filter.clone(), except };
        let (mut sessions, mut accounts) = (0, BTreeSet::new());
        for session in self.live(now).filter(|session| rule.kills(session)) {
            sessions += 1;
            accounts.insert(session.account);
        }
        LiveCount { sessions, accounts: accounts.len() as u64 }
    }

    /// As [`Store::read_job_batch`](crate::Store::read_job_batch).
    pub fn read_job_batch(&self, job: &Job, look: u32, most: u32) -> Batch {
        let mut batch = Batch::default();
        let after = job.cursor.map_or(Unbounded, Excluded);
        for (id, session) in self.sessions.range((after, Unbounded)).filter(|(_, session)| session.ended.is_none()) {
            if batch.scanned == u64::from(look) || batch.sessions.len() == most as usize {
                return batch;
            }
            batch.scanned += 1;
            batch.next = Some(*id);
            if job.rule.kills(session) {
                batch.sessions.push(*id);
            }
        }
        batch.next = None;
        batch
    }

    /// None runs any more: what they were about is void.
    pub(super) fn end_jobs(&mut self, now: Time) {
        for job in self.list_running_jobs() {
            self.jobs.put(job.id, Job { finished_at: Some(now), ..job });
        }
    }

    pub(super) fn forget_jobs(&mut self, before: Time) {
        let old = |(_, job): &(&JobId, &Job)| job.finished_at.is_some_and(|at| at < before);
        let old: Vec<JobId> = self.jobs.rows().filter(old).map(|(id, _)| *id).collect();
        old.iter().for_each(|id| self.jobs.remove(id));
    }

    pub(super) fn insert_job(&mut self, mut job: Job, rev: Option<Rev>) -> Result<(), CommitError> {
        if self.jobs.has(&job.id) {
            return Err(CommitError::Conflict(Conflict::Moved));
        }
        let rev = rev.ok_or(CommitError::Conflict(Conflict::Missing))?;
        (job.rule.rev, job.last) = (rev, rev);
        self.jobs.put(job.id, job);
        Ok(())
    }

    /// Marks the rows, and moves the job. `rev`: the newest entry of the same changes.
    pub(super) fn step_job(
        &mut self,
        step: JobStep,
        rev: &mut Option<Rev>,
        idle_ttl: Option<Millis>,
        now: Time,
    ) -> Result<(), CommitError> {
        let mut job = self.load_job(step.job).ok_or(CommitError::Conflict(Conflict::Missing))?;
        if job.cursor != step.from || job.finished_at.is_some() {
            return Err(CommitError::Conflict(Conflict::Moved));
        }
        job.last = rev.unwrap_or(job.last);
        for id in step.sessions {
            let Some(session) = self.sessions.get(&id).filter(|session| session.ended.is_none()).cloned() else {
                continue;
            };
            job.ended += u64::from(self.alive_but_for_rules(&session, idle_ttl, now));
            let rev_of_end = if step.log { self.next_rev()? } else { job.last };
            self.leave_notice_of_session(id, rev_of_end, now);
            if step.log {
                job.last = self.end_by_job(session, now)?;
                job.entries += 1;
                *rev = Some(job.last);
            } else {
                let ended = Ended { rev: job.last, reason: Door::Filter.as_str().into(), at: now };
                self.sessions.put(id, Session { ended: Some(ended), ..session });
            }
        }
        job.cursor = step.to;
        job.scanned += step.scanned;
        job.silent = step.silent;
        job.finished_at = step.to.is_none().then_some(now);
        if job.finished_at.is_some() {
            self.meta.worked_off = self.meta.worked_off.max(job.rule.rev);
        }
        self.jobs.put(job.id, job);
        Ok(())
    }

    /// One session's row is marked, and one entry says so.
    fn end_by_job(&mut self, session: Session, now: Time) -> Result<Rev, CommitError> {
        let rev = self.next_rev()?;
        let (id, owner) = (session.id, session.account);
        let ended = Ended { rev, reason: Door::Filter.as_str().into(), at: now };
        self.sessions.put(id, Session { ended: Some(ended), ..session });
        let (verb, target): (Verb, Target) = kernel::entry_for_session(id, owner, self.unforgotten_ends(owner));
        self.append(Entry { rev, verb, target, except: None, spread_ms: None, until: self.meta.horizon });
        Ok(rev)
    }
}
