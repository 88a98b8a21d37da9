//! Links and origins.
use super::apply::run;
use super::check::holds;
use super::{Act, Stop};
use crate::cells::{Id, any};
use portcullis_domain::changes::Conflict;
use portcullis_domain::upstream::{Link, Origin};
use portcullis_wire::{AccountId, LinkId, Time};
use rusqlite::params;

pub(super) fn insert_link(act: &Act<'_>, row: &Link) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO links (id, issuer, subject, account, upstream, label, created_at, used_at, out_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
    holds(any(act.db, "SELECT 1 FROM accounts WHERE id = ?1", [row.account.blob()])?, Conflict::Missing)?;
    let params = params![
        row.id.blob(),
        row.issuer,
        row.subject,
        row.account.blob(),
        row.upstream,
        row.label,
        row.created_at.0,
        row.used_at.0,
        row.out_at.map(|at| at.0),
    ];
    holds(run(act, SQL, params)? == 1, Conflict::Moved)
}

pub(super) fn use_link(act: &Act<'_>, link: LinkId, begun: Time, at: Time) -> Result<(), Stop> {
    let sql = "UPDATE links SET used_at = ?3 WHERE id = ?1 AND (out_at IS NULL OR out_at < ?2)";
    holds(run(act, sql, params![link.blob(), begun.0, at.0])? == 1, Conflict::Moved)
}

pub(super) fn sign_out_link(act: &Act<'_>, issuer: &str, subject: &str, at: Time) -> Result<(), Stop> {
    let sql = "UPDATE links SET out_at = max(coalesce(out_at, 0), ?3) WHERE issuer = ?1 AND subject = ?2";
    run(act, sql, params![issuer, subject, at.0])?;
    Ok(())
}

pub(super) fn remove_link(act: &Act<'_>, account: AccountId, link: LinkId) -> Result<(), Stop> {
    let gone = run(act, "DELETE FROM links WHERE id = ?1 AND account = ?2", params![link.blob(), account.blob()])?;
    holds(gone == 1, Conflict::Missing)
}

pub(super) fn insert_origin(act: &Act<'_>, row: &Origin) -> Result<(), Stop> {
    const SQL: &str =
        "INSERT INTO origins (session, issuer, subject, sid) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    holds(any(act.db, "SELECT 1 FROM sessions WHERE id = ?1", [row.session.blob()])?, Conflict::Missing)?;
    let inserted = run(act, SQL, params![row.session.blob(), row.issuer, row.subject, row.sid])?;
    holds(inserted == 1, Conflict::Moved)
}
