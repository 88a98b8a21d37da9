//! Revocations by filter: rules that stand, the rows that their jobs look at, and what may be deleted.
use crate::cells::{Cells, Fault, Id};
use crate::pool::Reader;
use crate::reads::{self, lives, refreshed_at};
use crate::rows::{self, Meta, meta_columns, session_columns};
use portcullis_domain::mass::{Batch, Filter, Job, Rules, Standing};
use portcullis_domain::retention::{self, Retention};
use portcullis_store::{LiveCount, Prunable};
use portcullis_wire::{AccountId, ClientId, JobId, Rev, SessionId, Time};
use serde_json::{Value, json};
use sqlx::query;
use std::str::FromStr;

/// The rules that stand, as JSON; null, nearly always, when there is none.
macro_rules! rules_column {
    () => {
        "CASE WHEN m.standing > 0 THEN (SELECT json_agg(json_build_array(j.rev, j.accounts, j.clients, j.created_before, \
         j.network, encode(j.except_id, 'hex')) ORDER BY j.rev, j.id)::text FROM jobs j WHERE j.finished_at IS NULL) END"
    };
}
pub(crate) use rules_column;

macro_rules! job_columns {
    () => {
        "j.id, j.rev, j.accounts, j.clients, j.created_before, j.network, j.except_id, j.now, j.actor, j.reason, \
         j.created_at, j.finished_at, j.cursor, j.scanned, j.ended, j.entries, j.silent, j.last"
    };
}

fn read_job(cells: &mut Cells<'_>) -> Result<Job, Fault> {
    Ok(Job {
        id: cells.table("jobs").id()?,
        rule: Standing {
            rev: cells.rev()?,
            filter: Filter {
                accounts: cells.word(parse_ids)?,
                clients: cells.word(parse_ids)?,
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
        actor: cells.text()?,
        reason: cells.text()?,
        created_at: cells.time()?,
        finished_at: cells.time_if()?,
        cursor: cells.id_if()?,
        scanned: cells.number()?,
        ended: cells.number()?,
        entries: cells.number()?,
        silent: cells.get()?,
        last: cells.rev()?,
    })
}

/// A list of ids as JSON.
fn parse_ids<T: FromStr>(text: &str) -> Option<Vec<T>> {
    let texts: Vec<String> = serde_json::from_str(text).ok()?;
    texts.iter().map(|text| text.parse().ok()).collect()
}

/// As [`parse_ids`] reads them.
pub(crate) fn ids_text(ids: &[impl ToString]) -> String {
    Value::from(ids.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string()
}

/// The columns of a filter, as the database's `kills` asks them.
pub(crate) fn filter_columns(filter: &Filter) -> Value {
    let accounts: Vec<String> = filter.accounts.iter().map(|id| crate::commit::hex(&id.blob())).collect();
    // As `jsonb_populate_record` reads them; accounts are turned into that by `insert_job`.
    let clients: Vec<String> =
        filter.clients.iter().map(|id| format!("\\x{}", crate::commit::hex(&id.blob()))).collect();
    json!({
        "accounts": ids_text(&filter.accounts),
        "clients": ids_text(&filter.clients),
        "account_ids": accounts,
        "client_ids": clients,
        "of_sessions": filter.clients.is_empty() || filter.clients.contains(&ClientId::FIRST_PARTY),
        "created_before": filter.created_before.map(|at| at.0),
        "network": filter.network.map(|network| network.to_string()),
    })
}

/// What [`rules_column`] gives.
pub(crate) fn rules(cells: &mut Cells<'_>) -> Result<Rules, Fault> {
    let Some(text) = cells.get::<Option<&str>>()? else { return Ok(None) };
    let rules = parse_rules(text).ok_or_else(|| cells.wrong("a rule of a revocation by filter does not read"))?;
    Ok(Some(rules.into()))
}

fn parse_rules(text: &str) -> Option<Vec<Standing>> {
    type Columns = (u64, String, String, Option<i64>, Option<String>, Option<String>);
    let rows: Vec<Columns> = serde_json::from_str(text).ok()?;
    let rule = |(rev, accounts, clients, created_before, network, except): Columns| {
        let network = match network {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let except = match except {
            Some(hex) => Some(SessionId::from_bits(u128::from_str_radix(&hex, 16).ok()?)),
            None => None,
        };
        let (accounts, clients) = (parse_ids(&accounts)?, parse_ids(&clients)?);
        let filter = Filter { accounts, clients, created_before: created_before.map(Time), network };
        Some(Standing { rev: Rev(rev), filter, except })
    };
    rows.into_iter().map(rule).collect()
}

pub(crate) async fn job(db: &Reader, job: JobId) -> Result<Option<Job>, Fault> {
    const SQL: &str = concat!("SELECT ", job_columns!(), " FROM jobs j WHERE j.id = $1");
    db.one(|| query(SQL).bind(job.blob()), read_job).await
}

/// Oldest first.
pub(crate) async fn running(db: &Reader) -> Result<Vec<Job>, Fault> {
    const SQL: &str =
        concat!("SELECT ", job_columns!(), " FROM jobs j WHERE j.finished_at IS NULL ORDER BY j.rev, j.id");
    db.all(|| query(SQL), read_job).await
}

/// Sessions that live by the rows alone, and that `filter` matches.
pub(crate) async fn count_matching(
    db: &Reader,
    filter: &Filter,
    except: Option<SessionId>,
) -> Result<LiveCount, Fault> {
    const SQL: &str = concat!(
        "SELECT count(*), count(DISTINCT s.account) FROM meta m, sessions s JOIN accounts a ON a.id = s.account WHERE ",
        lives!("$1"),
        " AND kills(jsonb_populate_record(NULL::jobs, $2::jsonb), s) AND s.id IS DISTINCT FROM $3 \
          AND NOT (m.standing > 0 AND EXISTS (SELECT 1 FROM jobs j WHERE j.finished_at IS NULL AND kills(j, s)))"
    );
    let (given, except) = (db.given().map(|now| now.0), except.map(Id::blob));
    let mut rule = filter_columns(filter);
    let ids: Vec<String> = filter.accounts.iter().map(|id| format!("\\x{}", crate::commit::hex(&id.blob()))).collect();
    (rule["account_ids"], rule["rev"]) = (ids.into(), i64::MAX.into());
    let rule = rule.to_string();
    let count = db.one(|| query(SQL).bind(given).bind(rule.clone()).bind(except), reads::live).await?;
    Ok(count.unwrap_or_default())
}

/// The next rows that a job looks at.
pub(crate) async fn batch(
    db: &Reader,
    rule: &Standing,
    cursor: Option<SessionId>,
    look: u32,
    most: u32,
) -> Result<Batch, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        session_columns!(),
        " FROM sessions s WHERE s.id > coalesce($1, '') AND s.ended_rev IS NULL ORDER BY s.id LIMIT $2"
    );
    let (cursor, wanted) = (cursor.map(Id::blob), i64::from(look) + 1);
    let mut batch = Batch::default();
    for session in db.all(|| query(SQL).bind(cursor).bind(wanted), rows::session).await? {
        if batch.scanned == u64::from(look) || batch.sessions.len() == most as usize {
            return Ok(batch);
        }
        batch.scanned += 1;
        batch.next = Some(session.id);
        if rule.kills(&session) {
            batch.sessions.push(session.id);
        }
    }
    batch.next = None;
    Ok(batch)
}

/// Whether a session may be deleted, and whether its address may.
fn may_go(cells: &mut Cells<'_>, keep: &Retention, given: Option<Time>) -> Result<(SessionId, bool, bool), Fault> {
    let (session, used_at, grant_end) = (rows::session(cells)?, cells.time_if()?, cells.rev_if()?);
    let meta = Meta::read(cells)?;
    let now = meta.stamp(given).now;
    let at = retention::Standing { forgotten: meta.forgotten, floor: meta.floor, now };
    let used_at = used_at.unwrap_or(session.last_seen_at);
    let whole = retention::may_go(&session, used_at, grant_end, &at, keep);
    Ok((session.id, whole, retention::address_may_go(&session, now, keep)))
}

/// A first look: the commit asks again.
pub(crate) async fn prunable(
    db: &Reader,
    keep: &Retention,
    cursor: Option<SessionId>,
    look_at: u32,
) -> Result<Prunable, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        session_columns!(),
        ", ",
        refreshed_at!(),
        ", (SELECT max(g.ended_rev) FROM grants g WHERE g.session = s.id), ",
        meta_columns!(),
        " FROM meta m, sessions s WHERE s.id > coalesce($1, '') ORDER BY s.id LIMIT $2"
    );
    let (cursor, wanted, given) = (cursor.map(Id::blob), i64::from(look_at), db.given());
    let rows = db.all(|| query(SQL).bind(cursor).bind(wanted), |cells| may_go(cells, keep, given)).await?;
    let full = rows.len() == look_at as usize;
    let mut out = Prunable { next: rows.last().filter(|_| full).map(|(id, ..)| *id), ..Prunable::default() };
    for (id, whole, address) in rows {
        match (whole, address) {
            (true, _) => out.sessions.push(id),
            (false, true) => out.addresses.push(id),
            (false, false) => {}
        }
    }
    Ok(out)
}

pub(crate) async fn due(db: &Reader, limit: u32) -> Result<Vec<AccountId>, Fault> {
    const SQL: &str = "SELECT a.id FROM accounts a WHERE a.status_until <= \
         coalesce($1::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) \
         ORDER BY a.status_until, a.id LIMIT $2";
    let given = db.given().map(|now| now.0);
    db.all(|| query(SQL).bind(given).bind(i64::from(limit)), |cells| cells.table("accounts").id()).await
}
