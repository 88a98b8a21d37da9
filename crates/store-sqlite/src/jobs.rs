//! Revocations by filter: rules that stand, and the rows that their jobs look at.
use crate::cells::{Cells, Fault, Id, all, one};
use crate::reads::snapshot;
use crate::rows::{self, Meta, meta_columns, session_columns};
use portcullis_domain::mass::{Batch, Filter, Job, Rules, Standing};
use portcullis_store::LiveCount;
use portcullis_wire::{AccountId, JobId, Rev, SessionId, Time};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::str::FromStr;

macro_rules! job_columns {
    () => {
        "j.id, j.rev, j.accounts, j.clients, j.created_before, j.network, j.except_id, j.now, j.actor, j.reason, \
         j.created_at, j.finished_at, j.cursor, j.scanned, j.ended, j.entries, j.silent, j.last"
    };
}

fn read_job(cells: &mut Cells<'_, '_>) -> Result<Job, Fault> {
    Ok(Job {
        id: cells.table("jobs").id()?,
        rule: Standing {
            rev: cells.rev()?,
            filter: Filter {
                accounts: ids(cells)?,
                clients: ids(cells)?,
                created_before: cells.time_if()?,
                network: if cells.is_null() {
                    cells.get::<Option<String>>()?;
                    None
                } else {
                    Some(cells.word(|text| text.parse().ok())?)
                },
            },
            except: cells.id_if()?,
        },
        now: cells.get()?,
        actor: cells.get()?,
        reason: cells.get()?,
        created_at: cells.time()?,
        finished_at: cells.time_if()?,
        cursor: cells.id_if()?,
        scanned: cells.u64()?,
        ended: cells.u64()?,
        entries: cells.u64()?,
        silent: cells.get()?,
        last: cells.rev()?,
    })
}

/// A list of ids as JSON.
fn ids<T: FromStr>(cells: &mut Cells<'_, '_>) -> Result<Vec<T>, Fault> {
    let parse = |text: &str| {
        let texts: Vec<String> = serde_json::from_str(text).ok()?;
        texts.iter().map(|text| text.parse().ok()).collect()
    };
    cells.word(parse)
}

/// As [`ids`] reads them.
pub(crate) fn ids_text(ids: &[impl ToString]) -> String {
    serde_json::Value::from(ids.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string()
}

pub(crate) fn job(db: &Connection, job: JobId) -> Result<Option<Job>, Fault> {
    const SQL: &str = concat!("SELECT ", job_columns!(), " FROM jobs j WHERE j.id = ?1");
    one(db, SQL, [job.blob()], read_job)
}

/// Oldest first.
pub(crate) fn running(db: &Connection) -> Result<Vec<Job>, Fault> {
    const SQL: &str =
        concat!("SELECT ", job_columns!(), " FROM jobs j WHERE j.finished_at IS NULL ORDER BY j.rev, j.id");
    all(db, SQL, [], read_job)
}

/// The rules that stand, by the rows.
pub(crate) fn rules(db: &Connection) -> Result<Rules, Fault> {
    let running = running(db)?;
    Ok((!running.is_empty()).then(|| running.into_iter().map(|job| job.rule).collect()))
}

/// The same; without a look where the counter's row says that there are none.
pub(crate) fn standing(db: &Connection, meta: &Meta) -> Result<Rules, Fault> {
    if meta.standing == 0 { Ok(None) } else { rules(db) }
}

/// Sessions that live by the rows alone, and that `filter` matches.
pub(crate) fn count_matching(
    db: &Connection,
    filter: &Filter,
    except: Option<SessionId>,
    now: Time,
) -> Result<LiveCount, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        session_columns!(),
        " FROM meta m CROSS JOIN sessions s CROSS JOIN accounts a ON a.id = s.account \
         WHERE m.one = 1 AND s.ended_rev IS NULL AND s.absolute_expires_at > ?1 \
         AND (s.born >= a.cut_rev OR s.id IS a.cut_except) AND (s.born >= m.cut_rev OR s.id IS m.cut_except)"
    );
    const META: &str = concat!("SELECT ", meta_columns!(), " FROM meta m WHERE m.one = 1");
    let rule = Standing { rev: Rev(u64::MAX), filter: filter.clone(), except };
    snapshot(db, |db| {
        let meta =
            one(db, META, [], Meta::read)?.ok_or_else(|| Fault::Row("table meta: its one row is missing".into()))?;
        let standing = standing(db, &meta)?;
        let mut accounts: BTreeSet<AccountId> = BTreeSet::new();
        let mut sessions = 0;
        let mut statement = db.prepare_cached(SQL)?;
        let mut found = statement.query([now.0])?;
        while let Some(row) = found.next()? {
            let session = rows::session(&mut Cells::new(row))?;
            if rule.kills(&session) && portcullis_domain::mass::killed_by(&standing, &session).is_none() {
                sessions += 1;
                accounts.insert(session.account);
            }
        }
        Ok(LiveCount { sessions, accounts: accounts.len() as u64 })
    })
}

/// The next rows that a job looks at.
pub(crate) fn batch(
    db: &Connection,
    rule: &Standing,
    cursor: Option<SessionId>,
    look: u32,
    most: u32,
) -> Result<Batch, Fault> {
    const FIRST: &str =
        concat!("SELECT ", session_columns!(), " FROM sessions s WHERE s.ended_rev IS NULL ORDER BY s.id");
    const NEXT: &str = concat!(
        "SELECT ",
        session_columns!(),
        " FROM sessions s WHERE s.id > ?1 AND s.ended_rev IS NULL ORDER BY s.id"
    );
    let mut statement = db.prepare_cached(if cursor.is_some() { NEXT } else { FIRST })?;
    let mut found = match cursor {
        Some(cursor) => statement.query(params![cursor.blob()])?,
        None => statement.query([])?,
    };
    let mut batch = Batch::default();
    while let Some(row) = found.next()? {
        if batch.scanned == u64::from(look) || batch.sessions.len() == most as usize {
            return Ok(batch);
        }
        let session = rows::session(&mut Cells::new(row))?;
        batch.scanned += 1;
        batch.next = Some(session.id);
        if rule.kills(&session) {
            batch.sessions.push(session.id);
        }
    }
    batch.next = None;
    Ok(batch)
}
