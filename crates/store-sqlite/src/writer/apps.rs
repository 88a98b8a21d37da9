//! What clients have of accounts: consents and tickets.
use super::apply::run;
use super::check::holds;
use super::{Act, Stop};
use crate::apps;
use crate::cells::{Id, any, one};
use portcullis_domain::changes::Conflict;
use portcullis_domain::model::{Client, Consent};
use portcullis_domain::ticket::{Ticket, Used};
use portcullis_wire::{AccountId, ClientId, Digest};
use rusqlite::params;

/// Everything but whether it is switched off, and its cut.
pub(super) fn update_client(act: &Act<'_>, row: &Client) -> Result<(), Stop> {
    const SQL: &str = "UPDATE clients SET name = ?3, kind = ?4, secret = ?5, created_at = ?6, old_secret = ?7, \
         old_secret_until = ?8, profile = ?9, access_ttl = ?10, version = version + 1 WHERE id = ?1 AND version = ?2";
    let params = params![
        row.id.blob(),
        row.version,
        row.name,
        row.kind.as_str(),
        row.secret.map(|digest| digest.0),
        row.created_at.0,
        row.old_secret.map(|(digest, _)| digest.0),
        row.old_secret.map(|(_, until)| until.0),
        profile(row)?,
        access_ttl(row),
    ];
    if run(act, SQL, params)? == 1 {
        return Ok(());
    }
    let there = any(act.db, CLIENT, [row.id.blob()])?;
    Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
}

const CLIENT: &str = "SELECT 1 FROM clients WHERE id = ?1";

/// What a client registered, as it is kept.
pub(crate) fn profile(row: &Client) -> rusqlite::Result<String> {
    serde_json::to_string(&row.profile).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// What a refresh asks of that, in milliseconds.
pub(crate) fn access_ttl(row: &Client) -> Option<i64> {
    row.profile.access_ttl_s.map(|seconds| i64::from(seconds) * 1000)
}

/// Account and client are there, and the consent is where the decision saw it.
fn require_generation(act: &Act<'_>, account: AccountId, client: ClientId, generation: u32) -> Result<(), Stop> {
    let there =
        any(act.db, "SELECT 1 FROM accounts WHERE id = ?1", [account.blob()])? && any(act.db, CLIENT, [client.blob()])?;
    holds(there, Conflict::Missing)?;
    holds(apps::generation(act.db, account, client)? == generation, Conflict::Moved)
}

pub(super) fn put_consent(act: &Act<'_>, row: &Consent) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO consents (account, client, scope, granted_at, generation) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (account, client) DO UPDATE SET scope = excluded.scope, granted_at = excluded.granted_at";
    require_generation(act, row.account, row.client, row.generation)?;
    let params = params![row.account.blob(), row.client.blob(), row.scope, row.granted_at.0, row.generation];
    run(act, SQL, params).map(drop)
}

pub(super) fn withdraw_consent(
    act: &Act<'_>,
    account: AccountId,
    client: ClientId,
    generation: u32,
) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO consents (account, client, scope, granted_at, generation) VALUES (?1, ?2, '', ?3, 1) \
         ON CONFLICT (account, client) DO UPDATE SET scope = '', generation = generation + 1";
    require_generation(act, account, client, generation)?;
    run(act, SQL, params![account.blob(), client.blob(), act.now.0]).map(drop)
}

pub(super) fn insert_ticket(act: &Act<'_>, row: &Ticket) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO tickets (id, kind, account, session, client, born, epoch, expires_at, body, version, \
         used_at, used_grant) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (id) DO NOTHING";
    let params = params![
        row.id.0,
        row.kind.as_str(),
        row.account.map(Id::blob),
        row.session.map(Id::blob),
        row.client.map(Id::blob),
        crate::cells::rev(row.born),
        row.epoch.0,
        row.expires_at.0,
        row.body,
        row.version,
        row.used.map(|used| used.at.0),
        row.used.and_then(|used| used.grant).map(Id::blob),
    ];
    holds(run(act, SQL, params)? == 1, Conflict::Used)
}

pub(super) fn update_ticket(act: &Act<'_>, row: &Ticket) -> Result<(), Stop> {
    const SQL: &str = "UPDATE tickets SET account = ?3, session = ?4, body = ?5, expires_at = ?6, version = version + 1 \
         WHERE id = ?1 AND version = ?2 AND used_at IS NULL";
    let params = params![
        row.id.0,
        row.version,
        row.account.map(Id::blob),
        row.session.map(Id::blob),
        row.body,
        row.expires_at.0,
    ];
    if run(act, SQL, params)? == 1 { Ok(()) } else { Err(why_not(act, row.id)?) }
}

pub(super) fn use_ticket(act: &Act<'_>, id: Digest, used: Used) -> Result<(), Stop> {
    const SQL: &str = "UPDATE tickets SET used_at = ?2, used_grant = ?3 WHERE id = ?1 AND used_at IS NULL";
    let changed = run(act, SQL, params![id.0, used.at.0, used.grant.map(Id::blob)])?;
    if changed == 1 { Ok(()) } else { Err(why_not(act, id)?) }
}

/// Why a ticket was not changed.
fn why_not(act: &Act<'_>, id: Digest) -> Result<Stop, Stop> {
    const SQL: &str = "SELECT used_at IS NOT NULL FROM tickets WHERE id = ?1";
    Ok(Stop::Conflict(match one(act.db, SQL, [id.0], |cells| cells.get())? {
        None => Conflict::Missing,
        Some(true) => Conflict::Used,
        Some(false) => Conflict::Moved,
    }))
}
