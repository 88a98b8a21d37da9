//! What clients have of accounts: consents, grants, tickets.
use crate::cells::{Cells, Fault, Id, all, one, rev};
use crate::reads::{refreshed_at, snapshot, with_rules};
use crate::rows::{
    self, Meta, account_columns, client_columns, consent_columns, grant_columns, meta_columns, session_columns,
    ticket_columns,
};
use portcullis_domain::mass;
use portcullis_domain::model::Consent;
use portcullis_domain::view::{AppView, GrantView, SessionView, TicketView};
use portcullis_wire::{AccountId, ClientId, Digest, GrantId, SessionId, Time};
use rusqlite::{Connection, params};

pub(crate) fn app(db: &Connection, session: SessionId, client: ClientId, now: Time) -> Result<Option<AppView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        session_columns!(),
        ", ",
        refreshed_at!(),
        ", ",
        account_columns!(),
        ", ",
        client_columns!(),
        ", ",
        meta_columns!(),
        ", ",
        consent_columns!(),
        " FROM sessions s CROSS JOIN accounts a ON a.id = s.account CROSS JOIN clients c ON c.id = ?2 \
          CROSS JOIN meta m ON m.one = 1 LEFT JOIN consents k ON k.account = s.account AND k.client = ?2 WHERE s.id = ?1"
    );
    with_rules(db, |db, standing| {
        one(db, SQL, params![session.blob(), client.blob()], |cells| app_view(cells, standing, now))
    })
}

fn app_view(cells: &mut Cells<'_, '_>, standing: &mass::Rules, now: Time) -> Result<(AppView, u32), Fault> {
    let (session, refreshed_at, account) = (rows::session(cells)?, cells.time_if()?, rows::account(cells)?);
    let (client, meta) = (rows::client(cells)?, Meta::read(cells)?);
    let consent = if cells.is_null() { None } else { Some(rows::consent(cells)?) };
    let session = SessionView { stamp: meta.stamp(now), session, account, refreshed_at, standing: standing.clone() };
    Ok((AppView { session, client, consent }, meta.standing))
}

pub(crate) fn ticket(db: &Connection, id: Digest, now: Time) -> Result<Option<TicketView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        ticket_columns!(),
        ", ",
        meta_columns!(),
        " FROM tickets t CROSS JOIN meta m ON m.one = 1 WHERE t.id = ?1"
    );
    snapshot(db, |db| {
        let read = |cells: &mut Cells<'_, '_>| Ok((rows::ticket(cells)?, Meta::read(cells)?.stamp(now)));
        let Some((ticket, stamp)) = one(db, SQL, [id.0], read)? else { return Ok(None) };
        let app = match ticket.session.zip(ticket.client) {
            Some((session, client)) => app(db, session, client, now)?,
            None => None,
        };
        Ok(Some(TicketView { stamp, ticket, app }))
    })
}

pub(crate) fn grants(
    db: &Connection,
    account: AccountId,
    client: Option<ClientId>,
    limit: u32,
    now: Time,
) -> Result<Vec<GrantView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        grant_columns!(),
        ", ",
        session_columns!(),
        " FROM meta m CROSS JOIN accounts a CROSS JOIN sessions s ON s.account = a.id \
          CROSS JOIN grants g ON g.session = s.id CROSS JOIN clients c ON c.id = g.client \
          WHERE m.one = 1 AND a.id = ?1 AND s.ended_rev IS NULL AND s.epoch = m.epoch AND s.absolute_expires_at > ?4 \
          AND (s.born >= a.cut_rev OR s.id IS a.cut_except) AND (s.born >= m.cut_rev OR s.id IS m.cut_except) \
          AND g.ended_rev IS NULL AND (g.born >= c.cut_rev OR s.id IS c.cut_except) AND (?2 IS NULL OR g.client = ?2) \
          ORDER BY s.created_at DESC, s.id DESC, g.id DESC LIMIT ?3"
    );
    let params = params![account.blob(), client.map(Id::blob), limit, now.0];
    all(db, SQL, params, |cells| Ok(GrantView { grant: rows::grant(cells)?, session: rows::session(cells)? }))
}

pub(crate) fn consents(db: &Connection, account: AccountId) -> Result<Vec<Consent>, Fault> {
    const SQL: &str = concat!("SELECT ", consent_columns!(), " FROM consents k WHERE k.account = ?1 ORDER BY k.client");
    all(db, SQL, [account.blob()], rows::consent)
}

/// How often a consent was withdrawn, for the writer.
pub(crate) fn generation(db: &Connection, account: AccountId, client: ClientId) -> Result<u32, Fault> {
    const SQL: &str = "SELECT k.generation FROM consents k WHERE k.account = ?1 AND k.client = ?2";
    Ok(one(db, SQL, params![account.blob(), client.blob()], |cells| cells.get())?.unwrap_or_default())
}

/// The grants of an account at a client that live by the rows alone, for the writer, which has the counter's row.
pub(crate) fn living_grants(
    db: &Connection,
    meta: &Meta,
    account: AccountId,
    client: ClientId,
    now: Time,
) -> Result<Vec<GrantId>, Fault> {
    const SQL: &str = "SELECT g.id FROM accounts a CROSS JOIN sessions s ON s.account = a.id \
         CROSS JOIN grants g ON g.session = s.id CROSS JOIN clients c ON c.id = g.client \
         WHERE a.id = ?1 AND g.client = ?2 AND s.ended_rev IS NULL AND s.epoch = ?3 AND s.absolute_expires_at > ?4 \
         AND (s.born >= a.cut_rev OR s.id IS a.cut_except) AND (s.born >= ?5 OR s.id IS ?6) \
         AND g.ended_rev IS NULL AND (g.born >= c.cut_rev OR s.id IS c.cut_except)";
    let all_cut = (rev(meta.all.rev), meta.all.except.map(Id::blob));
    let params = params![account.blob(), client.blob(), meta.epoch.0, now.0, all_cut.0, all_cut.1];
    all(db, SQL, params, |cells| cells.table("grants").id())
}
