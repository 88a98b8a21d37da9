//! Links to people at other providers, and sessions that came from there.
use crate::cells::{Cells, Fault, Id, all, one};
use crate::reads::no_meta;
use crate::rows::{self, Meta, account_columns, meta_columns};
use portcullis_domain::upstream::{CameFrom, Link, LinkView};
use portcullis_wire::{AccountId, SessionId, Time};
use rusqlite::{Connection, params};

macro_rules! link_columns {
    () => {
        "l.id, l.issuer, l.subject, l.account, l.upstream, l.label, l.created_at, l.used_at, l.out_at"
    };
}

fn read_link(cells: &mut Cells<'_, '_>) -> Result<Link, Fault> {
    Ok(Link {
        id: cells.table("links").id()?,
        issuer: cells.get()?,
        subject: cells.get()?,
        account: cells.id()?,
        upstream: cells.get()?,
        label: cells.get()?,
        created_at: cells.time()?,
        used_at: cells.time()?,
        out_at: cells.time_if()?,
    })
}

pub(crate) fn link(db: &Connection, issuer: &str, subject: &str, now: Time) -> Result<LinkView, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        meta_columns!(),
        ", ",
        link_columns!(),
        ", ",
        account_columns!(),
        " FROM meta m LEFT JOIN (links l JOIN accounts a ON a.id = l.account) ON l.issuer = ?1 AND l.subject = ?2 \
          WHERE m.one = 1"
    );
    let read = |cells: &mut Cells<'_, '_>| {
        let stamp = Meta::read(cells)?.stamp(now);
        let found = if cells.is_null() { None } else { Some((read_link(cells)?, rows::account(cells)?)) };
        Ok(LinkView { stamp, found })
    };
    one(db, SQL, params![issuer, subject], read)?.ok_or_else(no_meta)
}

pub(crate) fn links(db: &Connection, account: AccountId, limit: u32) -> Result<Vec<Link>, Fault> {
    const SQL: &str =
        concat!("SELECT ", link_columns!(), " FROM links l WHERE l.account = ?1 ORDER BY l.created_at, l.id LIMIT ?2");
    all(db, SQL, params![account.blob(), limit], read_link)
}

pub(crate) fn sessions(
    db: &Connection,
    from: &CameFrom,
    after: Option<SessionId>,
    limit: u32,
) -> Result<Vec<(AccountId, SessionId)>, Fault> {
    const BY_SID: &str = "SELECT s.account, s.id FROM origins o CROSS JOIN sessions s ON s.id = o.session \
         WHERE o.issuer = ?1 AND o.sid = ?2 AND (?3 IS NULL OR o.subject = ?3) AND o.session > ?4 \
         AND s.ended_rev IS NULL ORDER BY o.session LIMIT ?5";
    const BY_SUBJECT: &str = "SELECT s.account, s.id FROM origins o CROSS JOIN sessions s ON s.id = o.session \
         WHERE o.issuer = ?1 AND (?2 IS NULL OR o.sid = ?2) AND o.subject = ?3 AND o.session > ?4 \
         AND s.ended_rev IS NULL ORDER BY o.session LIMIT ?5";
    let sql = if from.sid.is_some() { BY_SID } else { BY_SUBJECT };
    // No id is below the empty one.
    let after: Vec<u8> = after.map(|id| id.blob().to_vec()).unwrap_or_default();
    all(db, sql, params![from.issuer, from.sid, from.subject, after, limit], |cells| {
        Ok((cells.table("sessions").id()?, cells.id()?))
    })
}
