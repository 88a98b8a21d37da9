//! What goes when its time has passed. Whether it may stands in `domain::retention`.
use crate::cells::{Fault, Id, Int, all, one, rev};
use crate::rows::{self, Meta, client_columns, session_columns};
use portcullis_domain::retention::{self, Retention, Standing};
use portcullis_domain::ticket::TicketKind;
use portcullis_store::{Prunable, RowCount};
use portcullis_wire::{AccountId, ClientId, Millis, Rev, SessionId, Time};
use rusqlite::{Connection, params};

/// A session, the latest use of a refresh token under it, and the newest end of a grant of it.
macro_rules! traces {
    () => {
        concat!(
            "SELECT ",
            session_columns!(),
            ", ",
            crate::reads::refreshed_at!(),
            ", (SELECT max(g.ended_rev) FROM grants g WHERE g.session = s.id) FROM sessions s"
        )
    };
}

struct Traces {
    session: portcullis_domain::model::Session,
    used_at: Option<Time>,
    grant_end: Option<Rev>,
}

impl Traces {
    fn read(cells: &mut crate::cells::Cells<'_, '_>) -> Result<Self, Fault> {
        Ok(Self { session: rows::session(cells)?, used_at: cells.time_if()?, grant_end: cells.rev_if()? })
    }
    fn may_go(&self, meta: &Meta, now: Time, keep: &Retention) -> bool {
        let at = Standing { forgotten: meta.forgotten, floor: meta.floor, now };
        let used_at = self.used_at.unwrap_or(self.session.last_seen_at);
        retention::may_go(&self.session, used_at, self.grant_end, &at, keep)
    }
}

pub(crate) fn prunable(
    db: &Connection,
    meta: &Meta,
    keep: &Retention,
    cursor: Option<SessionId>,
    look_at: u32,
    now: Time,
) -> Result<Prunable, Fault> {
    const FIRST: &str = concat!(traces!(), " ORDER BY s.id LIMIT ?1");
    const AFTER: &str = concat!(traces!(), " WHERE s.id > ?2 ORDER BY s.id LIMIT ?1");
    let rows = match cursor {
        None => all(db, FIRST, [look_at], Traces::read)?,
        Some(cursor) => all(db, AFTER, params![look_at, cursor.blob()], Traces::read)?,
    };
    let full = rows.len() == look_at as usize;
    let next = rows.last().filter(|_| full).map(|row| row.session.id);
    let mut out = Prunable { next, ..Prunable::default() };
    for row in rows {
        if row.may_go(meta, now, keep) {
            out.sessions.push(row.session.id);
        } else if retention::address_may_go(&row.session, now, keep) {
            out.addresses.push(row.session.id);
        }
    }
    Ok(out)
}

fn traces_of(db: &Connection, session: SessionId) -> Result<Option<Traces>, Fault> {
    const SQL: &str = concat!(traces!(), " WHERE s.id = ?1");
    one(db, SQL, [session.blob()], Traces::read)
}

pub(crate) fn sessions(
    db: &Connection,
    meta: &Meta,
    ids: &[SessionId],
    keep: &Retention,
    now: Time,
) -> Result<u64, Fault> {
    let mut gone = 0;
    for id in ids {
        if traces_of(db, *id)?.is_some_and(|row| row.may_go(meta, now, keep)) {
            db.prepare_cached("DELETE FROM grants WHERE session = ?1")?.execute([id.blob()])?;
            db.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([id.blob()])?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Clients that nobody used ([`retention::client_may_go`]). Each question has its index, which names the built-in client as it is here.
pub(crate) fn clients(db: &Connection, ids: &[ClientId], unused: Millis, now: Time) -> Result<u64, Fault> {
    const ROW: &str = concat!(
        "SELECT ",
        client_columns!(),
        ", EXISTS (SELECT 1 FROM consents k WHERE k.client = c.id) \
           OR EXISTS (SELECT 1 FROM grants g WHERE g.client = c.id AND g.client <> x'00000000000000000000000000000000') \
           OR EXISTS (SELECT 1 FROM sessions s WHERE s.client = c.id) \
           OR EXISTS (SELECT 1 FROM tickets t WHERE t.client = c.id) FROM clients c WHERE c.id = ?1"
    );
    let mut gone = 0;
    for id in ids {
        let row = one(db, ROW, [id.blob()], |cells| Ok((rows::client(cells)?, cells.get::<bool>()?)))?;
        if row.is_some_and(|(client, held)| retention::client_may_go(&client, held, now, unused)) {
            gone += db.prepare_cached("DELETE FROM clients WHERE id = ?1")?.execute([id.blob()])? as u64;
        }
    }
    Ok(gone)
}

/// Grants that have ended under sessions that go on, and were forgotten ([`retention::grant_may_go`]).
pub(crate) fn grants(db: &Connection, meta: &Meta, most: u64) -> Result<u64, Fault> {
    const SQL: &str = "DELETE FROM grants WHERE id IN (SELECT g.id FROM grants g \
         WHERE g.ended_rev IS NOT NULL AND g.ended_rev <= ?1 ORDER BY g.ended_rev, g.id LIMIT ?2)";
    let most = most.min(i64::MAX.unsigned_abs());
    Ok(db.prepare_cached(SQL)?.execute(params![rev(meta.forgotten), Int(most)])? as u64)
}

/// Tickets of one kind under a session that are too many.
pub(crate) fn crowded_out(
    db: &Connection,
    session: SessionId,
    kind: TicketKind,
    open: u32,
    used: u32,
) -> Result<u64, Fault> {
    const OPEN: &str = "DELETE FROM tickets WHERE id IN (SELECT t.id FROM tickets t WHERE t.session = ?1 AND t.kind = ?2 \
         AND t.used_at IS NULL ORDER BY t.expires_at DESC, t.id DESC LIMIT -1 OFFSET ?3)";
    const USED: &str = "DELETE FROM tickets WHERE id IN (SELECT t.id FROM tickets t WHERE t.session = ?1 AND t.kind = ?2 \
         AND t.used_at IS NOT NULL ORDER BY t.expires_at DESC, t.id DESC LIMIT -1 OFFSET ?3)";
    let mut gone = 0;
    for (sql, most) in [(OPEN, open), (USED, used)] {
        gone += db.prepare_cached(sql)?.execute(params![session.blob(), kind.as_str(), most])? as u64;
    }
    Ok(gone)
}

pub(crate) fn session_addresses(db: &Connection, ids: &[SessionId], keep: &Retention, now: Time) -> Result<u64, Fault> {
    let mut gone = 0;
    for id in ids {
        if traces_of(db, *id)?.is_some_and(|row| retention::address_may_go(&row.session, now, keep)) {
            db.prepare_cached("UPDATE sessions SET ip = NULL WHERE id = ?1")?.execute([id.blob()])?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// The addresses of a tombstone's sessions. Two statements, so that each has its index.
pub(crate) fn addresses_of(db: &Connection, account: AccountId) -> Result<(), Fault> {
    const OPEN: &str = "UPDATE sessions SET ip = NULL WHERE account = ?1 AND ended_rev IS NULL AND ip IS NOT NULL";
    const ENDED: &str = "UPDATE sessions SET ip = NULL WHERE account = ?1 AND ended_rev IS NOT NULL AND ip IS NOT NULL";
    for sql in [OPEN, ENDED] {
        db.prepare_cached(sql)?.execute([account.blob()])?;
    }
    Ok(())
}

/// What can be erased of the audit records about a tombstone is erased later, a few at a time.
pub(crate) fn leave_erasure(db: &Connection, account: AccountId) -> Result<(), Fault> {
    const SQL: &str = "INSERT INTO erasures (account, after, last) \
         SELECT ?1, 0, coalesce(max(e.seq), 0) FROM events e WHERE true ON CONFLICT DO NOTHING";
    db.prepare_cached(SQL)?.execute([account.blob()])?;
    Ok(())
}

/// The next records about the first tombstone of which some are left; how many, and one more when these were the last.
pub(crate) fn erase_records(db: &Connection, most: u64) -> Result<u64, Fault> {
    const FIRST: &str = "SELECT r.account, r.after, r.last FROM erasures r ORDER BY r.account LIMIT 1";
    const ROWS: &str =
        "SELECT e.seq FROM events e WHERE e.account = ?1 AND e.seq > ?2 AND e.seq <= ?3 ORDER BY e.seq LIMIT ?4";
    const ERASE: &str = "UPDATE events SET ip = NULL, ip_salt = NULL, reason = NULL, reason_salt = NULL \
         WHERE seq = ?1 AND (ip IS NOT NULL OR reason IS NOT NULL)";
    let first = one(db, FIRST, [], |cells| Ok((cells.id::<AccountId>()?, cells.u64()?, cells.u64()?)))?;
    let Some((account, after, last)) = first else { return Ok(0) };
    let most = most.min(i64::MAX.unsigned_abs());
    let rows = all(db, ROWS, params![account.blob(), Int(after), Int(last), Int(most)], |cells| cells.u64())?;
    for seq in &rows {
        db.prepare_cached(ERASE)?.execute([Int(*seq)])?;
    }
    let count = rows.len() as u64;
    if count < most {
        db.prepare_cached("DELETE FROM erasures WHERE account = ?1")?.execute([account.blob()])?;
        return Ok(count + 1);
    }
    let after = rows.last().copied().unwrap_or(after);
    db.prepare_cached("UPDATE erasures SET after = ?2 WHERE account = ?1")?
        .execute(params![account.blob(), Int(after)])?;
    Ok(count)
}

/// What a tombstone allowed and began.
pub(crate) fn apps_of(db: &Connection, account: AccountId) -> Result<(), Fault> {
    const OF_ACCOUNT: [&str; 3] = [
        "DELETE FROM consents WHERE account = ?1",
        "DELETE FROM tickets WHERE account = ?1",
        "DELETE FROM risk_memories WHERE account = ?1",
    ];
    for sql in OF_ACCOUNT {
        db.prepare_cached(sql)?.execute([account.blob()])?;
    }
    Ok(())
}

pub(crate) fn tickets(db: &Connection, before: Time, most: u64) -> Result<u64, Fault> {
    const SQL: &str = "DELETE FROM tickets WHERE id IN \
         (SELECT t.id FROM tickets t WHERE t.expires_at < ?1 ORDER BY t.expires_at, t.id LIMIT ?2)";
    let most = most.min(i64::MAX.unsigned_abs());
    Ok(db.prepare_cached(SQL)?.execute(params![before.0, Int(most)])? as u64)
}

pub(crate) fn event_addresses(db: &Connection, before: Time, most: u64) -> Result<u64, Fault> {
    const SQL: &str = "UPDATE events SET ip = NULL, ip_salt = NULL WHERE seq IN \
         (SELECT e.seq FROM events e WHERE e.ip IS NOT NULL AND e.at < ?1 ORDER BY e.at, e.seq LIMIT ?2)";
    let most = most.min(i64::MAX.unsigned_abs());
    Ok(db.prepare_cached(SQL)?.execute(params![before.0, Int(most)])? as u64)
}

pub(crate) fn due(db: &Connection, limit: u32, now: Time) -> Result<Vec<AccountId>, Fault> {
    const SQL: &str = "SELECT a.id FROM accounts a WHERE a.status_until IS NOT NULL AND a.status_until <= ?1 \
         ORDER BY a.status_until, a.id LIMIT ?2";
    all(db, SQL, params![now.0, limit], |cells| cells.table("accounts").id())
}

pub(crate) fn count(db: &Connection) -> Result<RowCount, Fault> {
    const SQL: &str = "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM sessions), \
         (SELECT count(*) FROM grants), (SELECT count(*) FROM events), (SELECT count(*) FROM log), \
         (SELECT count(*) FROM remembered), (SELECT count(*) FROM instances), \
         (SELECT count(*) FROM tickets), (SELECT count(*) FROM consents), (SELECT count(*) FROM risk_memories)";
    let count = one(db, SQL, [], |cells| {
        Ok(RowCount {
            accounts: cells.u64()?,
            sessions: cells.u64()?,
            grants: cells.u64()?,
            events: cells.u64()?,
            entries: cells.u64()?,
            remembered: cells.u64()?,
            instances: cells.u64()?,
            tickets: cells.u64()?,
            consents: cells.u64()?,
            memories: cells.u64()?,
        })
    })?;
    Ok(count.unwrap_or_default())
}
