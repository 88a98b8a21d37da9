//! What a revocation by filter writes.
use super::apply::{next_rev, run};
use super::check::{holds, session_with_account};
use super::{Act, Stop, insert, outbox};
use crate::cells::{Id, Int, all, rev};
use crate::rows::{self, session_columns};
use crate::{jobs, reads};
use portcullis_domain::changes::Conflict;
use portcullis_domain::kernel::{self, Door};
use portcullis_domain::mass::{Job, JobStep, killed_by};
use portcullis_domain::model::Account;
use portcullis_wire::{Entry, SessionId};
use rusqlite::params;

pub(super) fn insert(act: &mut Act<'_>, job: &Job) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO jobs (id, rev, accounts, clients, created_before, network, except_id, now, actor, reason, \
         created_at, finished_at, cursor, scanned, ended, entries, silent, last) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    if jobs::job(act.db, job.id)?.is_some() {
        return Err(Stop::Conflict(Conflict::Moved));
    }
    let own = act.rev.ok_or(Stop::Conflict(Conflict::Missing))?;
    let filter = &job.rule.filter;
    let params = params![
        job.id.blob(),
        rev(own),
        jobs::ids_text(&filter.accounts),
        jobs::ids_text(&filter.clients),
        filter.created_before.map(|at| at.0),
        filter.network.map(|network| network.to_string()),
        job.rule.except.map(Id::blob),
        job.now,
        job.actor,
        job.reason,
        job.created_at.0,
        job.finished_at.map(|at| at.0),
        job.cursor.map(Id::blob),
        Int(job.scanned),
        Int(job.ended),
        Int(job.entries),
        job.silent,
        rev(own),
    ];
    run(act, SQL, params)?;
    act.meta.standing += u32::from(job.finished_at.is_none());
    Ok(())
}

/// Marks the rows, and moves the job.
pub(super) fn step(act: &mut Act<'_>, step: &JobStep) -> Result<(), Stop> {
    const SQL: &str = "UPDATE jobs SET cursor = ?2, scanned = ?3, ended = ?4, entries = ?5, silent = ?6, last = ?7, \
         finished_at = ?8 WHERE id = ?1";
    let mut job = jobs::job(act.db, step.job)?.ok_or(Stop::Conflict(Conflict::Missing))?;
    holds(job.cursor == step.from && job.finished_at.is_none(), Conflict::Moved)?;
    job.last = act.rev.unwrap_or(job.last);
    for id in &step.sessions {
        end_by_job(act, &mut job, *id, step.log)?;
    }
    let done = step.to.is_none();
    let params = params![
        job.id.blob(),
        step.to.map(Id::blob),
        Int(job.scanned.saturating_add(step.scanned)),
        Int(job.ended),
        Int(job.entries),
        step.silent,
        rev(job.last),
        done.then_some(act.now.0),
    ];
    run(act, SQL, params)?;
    if done {
        act.meta.worked_off = act.meta.worked_off.max(job.rule.rev);
    }
    act.meta.standing = act.meta.standing.saturating_sub(u32::from(done));
    Ok(())
}

/// One session's row, unless it is ended already; with `log` one entry says so.
fn end_by_job(act: &mut Act<'_>, job: &mut Job, id: SessionId, log: bool) -> Result<(), Stop> {
    const SQL: &str = "UPDATE sessions SET ended_rev = ?2, ended_reason = ?3, ended_at = ?4 WHERE id = ?1";
    let Some(view) = session_with_account(act, id)?.filter(|view| view.session.ended.is_none()) else { return Ok(()) };
    job.ended += u64::from(act.alive(&view.session, &view.account, view.refreshed_at, &None));
    if log {
        job.last = next_rev(act)?;
    }
    outbox::leave_notice_of_session(act, id, job.last)?;
    run(act, SQL, params![id.blob(), rev(job.last), Door::Filter.as_str(), act.now.0])?;
    if log {
        let unforgotten = reads::unforgotten_ends(act.db, &act.meta, view.account.id)?;
        let (verb, target) = kernel::entry_for_session(id, view.account.id, unforgotten);
        let until = act.meta.horizon;
        let entry = Entry { rev: job.last, verb, target, except: None, spread_ms: None, until };
        insert::entry(act, &entry, None)?;
        (act.meta.head, act.meta.chain) = (entry.rev, act.meta.chain.after(&entry));
        act.rev = Some(entry.rev);
        job.entries += 1;
    }
    Ok(())
}

/// How many sessions of an account would live but for the rules that stand: an end of the account does not end them again.
pub(super) fn dying_by_rules(act: &Act<'_>, account: &Account, except: Option<SessionId>) -> Result<u64, Stop> {
    const SQL: &str =
        concat!("SELECT ", session_columns!(), " FROM sessions s WHERE s.account = ?1 AND s.ended_rev IS NULL");
    let standing = jobs::standing(act.db, &act.meta)?;
    if standing.is_none() {
        return Ok(0);
    }
    let sessions = all(act.db, SQL, [account.id.blob()], rows::session)?;
    let mut dead = 0;
    for session in sessions.iter().filter(|s| Some(s.id) != except && killed_by(&standing, s).is_some()) {
        let view = session_with_account(act, session.id)?;
        dead += u64::from(view.is_some_and(|view| act.alive(&view.session, &view.account, view.refreshed_at, &None)));
    }
    Ok(dead)
}
