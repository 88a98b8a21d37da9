//! New rows.
use super::apply::run;
use super::check::{SESSION, holds};
use super::{Act, Stop, apps};
use crate::cells::{Id, Int, any, rev, roles};
use crate::rows::Meta;
use portcullis_domain::Cut;
use portcullis_domain::changes::{Conflict, Idempotency};
use portcullis_domain::event::NewEvent;
use portcullis_domain::model::{Account, Client, Ended, Grant, Instance, Key, Session, Status};
use portcullis_wire::{AccountId, Entry, Time};
use rusqlite::{Connection, ErrorCode, Params, params};

/// What a row that exists already means.
fn insert(act: &Act<'_>, sql: &str, params: impl Params, exists: Conflict) -> Result<(), Stop> {
    match act.db.prepare_cached(sql)?.execute(params) {
        Ok(_) => Ok(()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) && taken(&error) => {
            Err(Stop::Conflict(exists))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether it was the row's key or address that exists; a broken CHECK or NOT NULL is a fault.
fn taken(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE};
    let code = error.sqlite_extended_error_code();
    [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE].map(Some).contains(&code)
}

fn ms(time: Option<Time>) -> Option<i64> {
    time.map(|time| time.0)
}

/// Another address, or the same with another standing.
pub(super) fn email(act: &Act<'_>, id: AccountId, email: Option<&str>, verified_at: Option<Time>) -> Result<(), Stop> {
    const SQL: &str = "UPDATE accounts SET email = ?2, email_verified_at = ?3, version = version + 1 WHERE id = ?1";
    if !any(act.db, "SELECT 1 FROM accounts WHERE id = ?1", [id.blob()])? {
        return Err(Stop::Conflict(Conflict::Missing));
    }
    insert(act, SQL, params![id.blob(), email, ms(verified_at)], Conflict::EmailTaken)
}

pub(super) fn account(act: &mut Act<'_>, row: &Account) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO accounts (id, email, name, password_hash, password_version, roles, status, \
         status_reason, status_actor, status_at, status_until, status_rev, created_at, cut_rev, cut_except, version, \
         email_verified_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
    let (word, reason, actor, at, until, end) = match &row.status {
        Status::Active => ("active", None, None, None, None, None),
        Status::Blocked(b) => ("blocked", Some(&b.reason), Some(&b.actor), Some(b.at), b.until, None),
        Status::Deleting { at, until, rev } => ("deleting", None, None, Some(*at), Some(*until), Some(*rev)),
        Status::Deleted { at, rev } => ("deleted", None, None, Some(*at), None, Some(*rev)),
    };
    let Cut { rev: cut, except } = row.cut;
    let params = params![
        row.id.blob(),
        row.email,
        row.name,
        row.password_hash,
        row.password_version,
        roles(&row.roles),
        word,
        reason,
        actor,
        ms(at),
        ms(until),
        end.map(rev),
        row.created_at.0,
        rev(cut),
        except.map(Id::blob),
        row.version,
        ms(row.email_verified_at),
    ];
    match insert(act, SQL, params, Conflict::EmailTaken) {
        // Two things may be taken; an id that exists is another matter than an address.
        Err(Stop::Conflict(Conflict::EmailTaken))
            if any(act.db, "SELECT 1 FROM accounts WHERE id = ?1", [row.id.blob()])? =>
        {
            Err(Stop::Conflict(Conflict::Moved))
        }
        other => other,
    }
}

pub(super) fn session(act: &mut Act<'_>, row: &Session) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO sessions (id, account, kind, device_name, agent, ip, created_at, auth_time, \
         last_seen_at, absolute_expires_at, born, epoch, cookie, ended_rev, ended_reason, ended_at, client, amr, \
         old_cookie, old_auth_time, old_until, old_amr, allowed_in) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
         ?23)";
    let (ended, old) = (row.ended.as_ref(), row.old_cookie.as_ref());
    let params = params![
        row.id.blob(),
        row.account.blob(),
        row.kind.as_str(),
        row.device_name,
        row.agent,
        row.ip.map(|ip| ip.to_string()),
        row.created_at.0,
        row.auth_time.0,
        row.last_seen_at.0,
        row.absolute_expires_at.0,
        rev(row.born),
        row.epoch.0,
        row.cookie.map(|digest| digest.0),
        ended.map(|Ended { rev: end, .. }| rev(*end)),
        ended.map(|Ended { reason, .. }| reason),
        ended.map(|Ended { at, .. }| at.0),
        row.client.map(Id::blob),
        row.amr.kept(),
        old.map(|old| old.digest.0),
        old.map(|old| old.proof.at.0),
        old.map(|old| old.until.0),
        old.and_then(|old| old.proof.amr.told()),
        row.allowed_in.map(Id::blob),
    ];
    insert(act, SQL, params, Conflict::Moved)?;
    holds(any(act.db, "SELECT 1 FROM accounts WHERE id = ?1", [row.account.blob()])?, Conflict::Missing)?;
    let standing = crate::jobs::standing(act.db, &act.meta)?;
    holds(portcullis_domain::mass::killed_by(&standing, row).is_none(), Conflict::BornDead)?;
    holds(row.born >= act.meta.worked_off, Conflict::Moved)?;
    // Somebody has signed in, whichever way.
    const USED: &str = "UPDATE accounts SET unused = 0 WHERE id = ?1 AND unused <> 0";
    super::apply::run(act, USED, [row.account.blob()]).map(drop)
}

pub(super) fn grant(act: &mut Act<'_>, row: &Grant) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO grants (id, session, client, scope, born, secret, mac_key, epoch, counter, made_at, \
         handed_at, handouts, predecessor, ended_rev, audience, sender, agent, auth_time, amr, network) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";
    let (family, proof) = (&row.family, row.proof.as_ref());
    let params = params![
        row.id.blob(),
        row.session.blob(),
        row.client.blob(),
        row.scope,
        rev(row.born),
        family.secret,
        family.key.0,
        family.epoch.0,
        Int(family.counter),
        family.made_at.0,
        family.handed_at.0,
        family.handouts,
        family.predecessor.map(Int),
        row.ended.map(rev),
        row.audience,
        row.sender.map(|digest| digest.0),
        row.agent,
        proof.map(|proof| proof.at.0),
        proof.and_then(|proof| proof.amr.kept()),
        row.network,
    ];
    insert(act, SQL, params, Conflict::Moved)?;
    let above = any(act.db, SESSION, [row.session.blob()])?
        && any(act.db, "SELECT 1 FROM clients WHERE id = ?1", [row.client.blob()])?;
    holds(above, Conflict::Missing)
}

pub(super) fn client(act: &mut Act<'_>, row: &Client) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO clients (id, name, kind, secret, disabled, created_at, cut_rev, cut_except, \
         old_secret, old_secret_until, profile, access_ttl, version) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let params = params![
        row.id.blob(),
        row.name,
        row.kind.as_str(),
        row.secret.map(|digest| digest.0),
        row.disabled,
        row.created_at.0,
        rev(row.cut.rev),
        row.cut.except.map(Id::blob),
        row.old_secret.map(|(digest, _)| digest.0),
        row.old_secret.map(|(_, until)| until.0),
        apps::profile(row)?,
        apps::access_ttl(row),
        row.version,
    ];
    insert(act, SQL, params, Conflict::Moved)
}

pub(super) fn instance(act: &mut Act<'_>, row: &Instance) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO instances (id, client, name, policy, bound_ms, secret, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let params = params![
        row.id.blob(),
        row.client.blob(),
        row.name,
        row.policy,
        Int(row.bound_ms),
        row.secret.0,
        row.created_at.0,
    ];
    insert(act, SQL, params, Conflict::Moved)
}

pub(super) fn key(act: &mut Act<'_>, row: &Key) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO keys (id, purpose, public_jwk, sealed, created_at, active_from, retired_at, dead) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let params = params![
        row.id.0,
        row.purpose.as_str(),
        row.public_jwk,
        row.sealed.expose(),
        row.created_at.0,
        ms(row.active_from),
        ms(row.retired_at),
        row.dead.map(rev),
    ];
    insert(act, SQL, params, Conflict::Moved)
}

pub(super) fn entry(act: &Act<'_>, row: &Entry, owner: Option<AccountId>) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO log (rev, verb, scope, target, except_id, spread_ms, until, owner) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let params = params![
        rev(row.rev),
        row.verb.name(),
        row.target.scope(),
        row.target.id(),
        row.except.map(Id::blob),
        row.spread_ms.map(Int),
        row.until.0,
        owner.map(Id::blob),
    ];
    run(act, SQL, params).map(drop)
}

pub(super) fn event(act: &Act<'_>, row: &NewEvent) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO events (id, kind, actor, account, session, client, ip, reason, at, rev, ended) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let params = params![
        row.id.blob(),
        row.kind.as_str(),
        row.actor,
        row.account.map(Id::blob),
        row.session.map(Id::blob),
        row.client.map(Id::blob),
        row.ip.map(|ip| ip.to_string()),
        row.reason,
        act.now.0,
        act.rev.map(rev),
        act.ended.map(Int),
    ];
    run(act, SQL, params).map(drop)
}

pub(super) fn remembered(act: &Act<'_>, row: &Idempotency) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO remembered (actor, key, request, rev, ended, made, at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let params = params![row.actor, row.key, row.request.0, act.rev.map(rev), act.ended.map(Int), row.made, act.now.0];
    insert(act, SQL, params, Conflict::Repeated)
}

/// The counter's row as it is to be, and the client that always exists: for a new database.
pub(crate) fn found(db: &Connection, meta: &Meta, first_party: &Client) -> rusqlite::Result<()> {
    // The tables are those of the first step; what later ones add has its defaults.
    let sql = "INSERT INTO clients (id, name, kind, disabled, created_at, cut_rev) VALUES (?1, ?2, ?3, ?4, ?5, 0)";
    let Client { id, name, kind, disabled, created_at, .. } = first_party;
    db.execute(sql, params![id.blob(), name, kind.as_str(), disabled, created_at.0])?;
    let sql = "INSERT INTO meta (one, log, epoch, head, chain, horizon, floor, cut_rev, forgotten) \
         VALUES (1, ?1, ?2, 0, ?3, 0, 0, 0, 0)";
    db.execute(sql, params![meta.log.blob(), meta.epoch.0, meta.chain.0])?; // all else is nothing yet
    Ok(())
}

/// The counter's row, last in each transaction that changed it.
pub(crate) fn write_meta(db: &Connection, meta: &Meta) -> rusqlite::Result<()> {
    const SQL: &str = "UPDATE meta SET epoch = ?1, head = ?2, chain = ?3, horizon = ?4, floor = ?5, cut_rev = ?6, \
         cut_except = ?7, forgotten = ?8, bound_now_ms = ?9, bound_next_ms = ?10, bound_next_from = ?11, \
         standing = ?12, worked_off = ?13 WHERE one = 1";
    let bound = meta.bound;
    let changed = db.prepare_cached(SQL)?.execute(params![
        meta.epoch.0,
        rev(meta.head),
        meta.chain.0,
        meta.horizon.0,
        meta.floor.0,
        rev(meta.all.rev),
        meta.all.except.map(Id::blob),
        rev(meta.forgotten),
        bound.map(|bound| Int(bound.current_ms)),
        bound.map(|bound| Int(bound.next_ms)),
        bound.map(|bound| bound.next_from.0),
        meta.standing,
        rev(meta.worked_off),
    ])?;
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}
