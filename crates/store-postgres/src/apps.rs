//! What clients have of accounts: consents, grants, tickets.
use crate::cells::{Cells, Fault, Id};
use crate::jobs::{self, rules_column};
use crate::pool::Reader;
use crate::reads::{lives, refreshed_at};
use crate::rows::{
    self, Meta, account_columns, client_columns, consent_columns, grant_columns, meta_columns, session_columns,
    ticket_columns,
};
use portcullis_domain::mass::Rules;
use portcullis_domain::model::Consent;
use portcullis_domain::view::{AppView, GrantView, SessionView, Stamp, TicketView};
use portcullis_wire::{AccountId, ClientId, Digest, SessionId};
use sqlx::query;

/// The counter's row with the rules, and a session `s` with its account `a`, a client `c` and the consent `k`.
macro_rules! app_columns {
    () => {
        concat!(
            meta_columns!(),
            ", ",
            rules_column!(),
            ", ",
            session_columns!(),
            ", ",
            refreshed_at!(),
            ", ",
            account_columns!(),
            ", ",
            client_columns!(),
            ", ",
            consent_columns!()
        )
    };
}

fn stamp_and_rules(db: &Reader, cells: &mut Cells<'_>) -> Result<(Stamp, Rules), Fault> {
    Ok((Meta::read(cells)?.stamp(db.given()), jobs::rules(cells)?))
}

fn app_view(cells: &mut Cells<'_>, stamp: Stamp, standing: Rules) -> Result<AppView, Fault> {
    let (session, refreshed_at, account) = (rows::session(cells)?, cells.time_if()?, rows::account(cells)?);
    let client = rows::client(cells)?;
    let consent = if cells.is_null() { None } else { Some(rows::consent(cells)?) };
    Ok(AppView { session: SessionView { stamp, session, account, refreshed_at, standing }, client, consent })
}

pub(crate) async fn app(db: &Reader, session: SessionId, client: ClientId) -> Result<Option<AppView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        app_columns!(),
        " FROM meta m, sessions s JOIN accounts a ON a.id = s.account JOIN clients c ON c.id = $2 \
          LEFT JOIN consents k ON k.account = a.id AND k.client = c.id WHERE s.id = $1"
    );
    let read = |cells: &mut Cells<'_>| {
        let (stamp, standing) = stamp_and_rules(db, cells)?;
        app_view(cells, stamp, standing)
    };
    db.one(|| query(SQL).bind(session.blob()).bind(client.blob()), read).await
}

pub(crate) async fn ticket(db: &Reader, id: Digest) -> Result<Option<TicketView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        ticket_columns!(),
        ", s.id IS NOT NULL AND c.id IS NOT NULL, ",
        app_columns!(),
        " FROM meta m, tickets t LEFT JOIN (sessions s JOIN accounts a ON a.id = s.account) ON s.id = t.session \
          LEFT JOIN clients c ON c.id = t.client LEFT JOIN consents k ON k.account = a.id AND k.client = c.id \
          WHERE t.id = $1"
    );
    let read = |cells: &mut Cells<'_>| {
        let (ticket, both): (_, bool) = (rows::ticket(cells)?, cells.get()?);
        let (stamp, standing) = stamp_and_rules(db, cells)?;
        let app = if both { Some(app_view(cells, stamp, standing)?) } else { None };
        Ok(TicketView { stamp, ticket, app })
    };
    db.one(|| query(SQL).bind(id.0), read).await
}

pub(crate) async fn grants(
    db: &Reader,
    account: AccountId,
    client: Option<ClientId>,
    limit: u32,
) -> Result<Vec<GrantView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        grant_columns!(),
        ", ",
        session_columns!(),
        " FROM meta m, sessions s JOIN accounts a ON a.id = s.account JOIN grants g ON g.session = s.id \
          JOIN clients c ON c.id = g.client WHERE s.account = $1 AND s.epoch = m.epoch AND ",
        lives!("$4"),
        " AND g.ended_rev IS NULL AND (g.born >= c.cut_rev OR s.id IS NOT DISTINCT FROM c.cut_except) \
          AND ($2::bytea IS NULL OR g.client = $2) ORDER BY s.created_at DESC, s.id DESC, g.id DESC LIMIT $3"
    );
    let (client, given) = (client.map(Id::blob), db.given().map(|now| now.0));
    let make = || query(SQL).bind(account.blob()).bind(client).bind(i64::from(limit)).bind(given);
    db.all(make, |cells| Ok(GrantView { grant: rows::grant(cells)?, session: rows::session(cells)? })).await
}

pub(crate) async fn consents(db: &Reader, account: AccountId) -> Result<Vec<Consent>, Fault> {
    const SQL: &str = concat!("SELECT ", consent_columns!(), " FROM consents k WHERE k.account = $1 ORDER BY k.client");
    db.all(|| query(SQL).bind(account.blob()), rows::consent).await
}
