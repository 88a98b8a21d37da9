//! Links to people at other providers, and sessions that came from there.
use crate::cells::{Cells, Fault, Id, escaped};
use crate::pool::Reader;
use crate::reads::no_meta;
use crate::rows::{self, Meta, account_columns, meta_columns};
use portcullis_domain::upstream::{CameFrom, Link, LinkView};
use portcullis_wire::{AccountId, SessionId};
use sqlx::query;

macro_rules! link_columns {
    () => {
        "l.id, l.issuer, l.subject, l.account, l.upstream, l.label, l.created_at, l.used_at, l.out_at"
    };
}

fn read_link(cells: &mut Cells<'_>) -> Result<Link, Fault> {
    Ok(Link {
        id: cells.table("links").id()?,
        issuer: cells.text()?,
        subject: cells.text()?,
        account: cells.id()?,
        upstream: cells.text()?,
        label: cells.text_if()?,
        created_at: cells.time()?,
        used_at: cells.time()?,
        out_at: cells.time_if()?,
    })
}

pub(crate) async fn link(db: &Reader, issuer: &str, subject: &str) -> Result<LinkView, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        meta_columns!(),
        ", ",
        link_columns!(),
        ", ",
        account_columns!(),
        " FROM meta m LEFT JOIN (links l JOIN accounts a ON a.id = l.account) ON l.issuer = $1 AND l.subject = $2"
    );
    let read = |cells: &mut Cells<'_>| {
        let stamp = Meta::read(cells)?.stamp(db.given());
        let found = if cells.is_null() { None } else { Some((read_link(cells)?, rows::account(cells)?)) };
        Ok(LinkView { stamp, found })
    };
    let make = || query(SQL).bind(escaped(issuer)).bind(escaped(subject));
    db.one(make, read).await?.ok_or_else(no_meta)
}

pub(crate) async fn links(db: &Reader, account: AccountId, limit: u32) -> Result<Vec<Link>, Fault> {
    const SQL: &str =
        concat!("SELECT ", link_columns!(), " FROM links l WHERE l.account = $1 ORDER BY l.created_at, l.id LIMIT $2");
    db.all(|| query(SQL).bind(account.blob()).bind(i64::from(limit)), read_link).await
}

pub(crate) async fn sessions(
    db: &Reader,
    from: &CameFrom,
    after: Option<SessionId>,
    limit: u32,
) -> Result<Vec<(AccountId, SessionId)>, Fault> {
    const BY_SID: &str = "SELECT s.account, s.id FROM origins o JOIN sessions s ON s.id = o.session \
         WHERE o.issuer = $1 AND o.sid = $2 AND ($3::text IS NULL OR o.subject = $3) AND o.session > $4 \
         AND s.ended_rev IS NULL ORDER BY o.session LIMIT $5";
    const BY_SUBJECT: &str = "SELECT s.account, s.id FROM origins o JOIN sessions s ON s.id = o.session \
         WHERE o.issuer = $1 AND ($2::text IS NULL OR o.sid = $2) AND o.subject = $3 AND o.session > $4 \
         AND s.ended_rev IS NULL ORDER BY o.session LIMIT $5";
    let sql = if from.sid.is_some() { BY_SID } else { BY_SUBJECT };
    let kept = |text: &Option<String>| text.as_ref().map(|text| escaped(text).into_owned());
    // No id is below the empty one.
    let after: Vec<u8> = after.map(|id| id.blob().to_vec()).unwrap_or_default();
    let make = || {
        query(sql)
            .bind(escaped(&from.issuer).into_owned())
            .bind(kept(&from.sid))
            .bind(kept(&from.subject))
            .bind(after.clone())
            .bind(i64::from(limit))
    };
    db.all(make, |cells| Ok((cells.table("sessions").id()?, cells.id()?))).await
}
