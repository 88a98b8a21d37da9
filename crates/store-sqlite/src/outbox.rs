//! Notices of what has ended, and messages on their way out.
use crate::cells::{Cells, Fault, Id, all, one};
use crate::reads::{refreshed_at, snapshot};
use crate::rows::{self, session_columns};
use portcullis_domain::Cut;
use portcullis_domain::model::Session;
use portcullis_domain::outbox::{Allowed, Ending, Message, MessageKind, MessageState, Notice, Told, Under, UnderGrant};
use portcullis_domain::receivers::Queue;
use portcullis_store::{Due, MessageCount, MessageFilter, Page};
use portcullis_wire::{ClientId, MessageId, Rev, SessionId, Time};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

pub(crate) fn notices(db: &Connection, limit: u32) -> Result<Vec<Notice>, Fault> {
    const SQL: &str = "SELECT n.seq, n.scope, n.target, n.session, n.except_id, n.rev, n.before_rev, n.before_except, n.at, \
         n.cursor FROM notices n ORDER BY n.seq LIMIT ?1";
    all(db, SQL, [limit], |cells| {
        Ok(Notice {
            seq: cells.table("notices").u64()?,
            what: ending(cells)?,
            rev: cells.rev()?,
            before: cells.cut()?,
            at: cells.time()?,
            cursor: cells.id_if()?,
        })
    })
}

fn ending(cells: &mut Cells<'_, '_>) -> Result<Ending, Fault> {
    let scope: String = cells.get()?;
    let target: Option<[u8; 16]> = cells.get()?;
    let (session, except) = (cells.id_if()?, cells.id_if()?);
    match (scope.as_str(), target, session) {
        ("session", Some(id), _) => Ok(Ending::Session(Id::from_blob(id))),
        ("grant", Some(id), Some(session)) => Ok(Ending::Grant { session, grant: Id::from_blob(id) }),
        ("account", Some(id), _) => Ok(Ending::Account { account: Id::from_blob(id), except }),
        ("client", Some(id), _) => Ok(Ending::Client(Id::from_blob(id))),
        ("all", None, _) => Ok(Ending::All { except }),
        _ => Err(cells.wrong(format_args!("a notice of {scope:?} lacks its columns, or is not known to this program"))),
    }
}

macro_rules! under_columns {
    () => {
        concat!("SELECT ", session_columns!(), ", ", refreshed_at!(), ", a.cut_rev, a.cut_except FROM sessions s ")
    };
}

pub(crate) fn told(db: &Connection, notice: &Notice, look: u32) -> Result<Told, Fault> {
    const ONE: &str =
        concat!(under_columns!(), "CROSS JOIN accounts a ON a.id = s.account WHERE s.id = ?1 AND s.id > ?2");
    // `+`: by the two indexes of the account's sessions, never through all of them in the order of ids.
    const OF_ACCOUNT: &str = concat!(
        under_columns!(),
        "CROSS JOIN accounts a ON a.id = s.account WHERE s.id IN ( \
            SELECT t.id FROM sessions t WHERE t.account = ?1 AND t.ended_rev IS NULL AND +t.id > ?2 \
            UNION ALL SELECT t.id FROM sessions t WHERE t.account = ?1 AND t.ended_rev IS NOT NULL AND t.ended_rev > ?4 \
                AND +t.id > ?2 \
            ORDER BY 1 LIMIT ?3) ORDER BY s.id"
    );
    const ALL: &str =
        concat!(under_columns!(), "CROSS JOIN accounts a ON a.id = s.account WHERE s.id > ?1 ORDER BY s.id LIMIT ?2");
    // No id is below the empty one.
    let after: Vec<u8> = notice.cursor.map(|id| id.blob().to_vec()).unwrap_or_default();
    let most = look.saturating_add(1);
    snapshot(db, |db| {
        let mut found = match notice.what {
            Ending::Session(id) | Ending::Grant { session: id, .. } => all(db, ONE, params![id.blob(), after], under)?,
            Ending::Account { account, .. } => {
                all(db, OF_ACCOUNT, params![account.blob(), after, most, crate::cells::rev(notice.rev)], under)?
            }
            Ending::Client(_) | Ending::All { .. } => all(db, ALL, params![after, most], under)?,
        };
        let more = found.len() > look as usize;
        found.truncate(look as usize);
        for under in &mut found {
            under.grants = grants(db, under.session.id)?;
        }
        if let Ending::Session(_) = notice.what {
            for under in &mut found {
                under.allowed = allowed(db, &under.session, notice.rev)?;
            }
        }
        let next = found.last().filter(|_| more).map(|under| under.session.id);
        Ok(Told { found, all: cut_of_all(db)?, next })
    })
}

fn under(cells: &mut Cells<'_, '_>) -> Result<Under, Fault> {
    let (session, refreshed_at, account_cut) = (rows::session(cells)?, cells.time_if()?, cells.cut()?);
    Ok(Under { session, refreshed_at, account_cut, grants: vec![], allowed: vec![] })
}

fn grants(db: &Connection, session: SessionId) -> Result<Vec<UnderGrant>, Fault> {
    const SQL: &str =
        "SELECT g.id, g.client, g.ended_rev FROM grants g WHERE g.session = ?1 AND g.client <> ?2 ORDER BY g.id";
    all(db, SQL, params![session.blob(), ClientId::FIRST_PARTY.blob()], |cells| {
        Ok(UnderGrant { id: cells.table("grants").id()?, client: cells.id()?, ended: cells.rev_if()? })
    })
}

/// Among the account's sessions, by their two indexes.
fn allowed(db: &Connection, session: &Session, rev: Rev) -> Result<Vec<Allowed>, Fault> {
    const SQL: &str = "SELECT s.id, s.client, s.born FROM sessions s WHERE s.account = ?1 AND s.ended_rev IS NULL \
            AND s.allowed_in = ?2 AND s.client IS NOT NULL \
         UNION ALL SELECT s.id, s.client, s.born FROM sessions s WHERE s.account = ?1 AND s.ended_rev IS NOT NULL \
            AND s.ended_rev > ?3 AND s.allowed_in = ?2 AND s.client IS NOT NULL ORDER BY 1";
    let params = params![session.account.blob(), session.id.blob(), crate::cells::rev(rev)];
    all(db, SQL, params, |cells| {
        Ok(Allowed { session: cells.table("sessions").id()?, client: cells.id()?, born: cells.rev()? })
    })
}

fn cut_of_all(db: &Connection) -> Result<Cut, Fault> {
    let cut = one(db, "SELECT m.cut_rev, m.cut_except FROM meta m WHERE m.one = 1", [], |cells| cells.cut())?;
    cut.ok_or_else(|| Fault::Row("table meta: its one row is missing".into()))
}

macro_rules! message_columns {
    () => {
        "m.id, m.kind, m.client, m.body, m.created_at, m.next_at, m.give_up_at, m.tries, m.state, m.settled_at, \
         m.last_error, m.version"
    };
}

fn read_message(cells: &mut Cells<'_, '_>) -> Result<Message, Fault> {
    Ok(Message {
        id: cells.table("messages").id()?,
        kind: cells.word(MessageKind::parse)?,
        client: cells.id_if()?,
        body: cells.get()?,
        created_at: cells.time()?,
        next_at: cells.time()?,
        give_up_at: cells.time()?,
        tries: cells.get()?,
        state: cells.word(MessageState::parse)?,
        settled_at: cells.time_if()?,
        last_error: cells.get()?,
        version: cells.get()?,
    })
}

pub(crate) fn due(
    db: &Connection,
    resting: &[ClientId],
    after: Option<ClientId>,
    look: u32,
    now: Time,
) -> Result<Due, Fault> {
    // From one client to the next by the index, however many messages each of them has; one more than is looked at.
    const CLIENTS: &str = "WITH RECURSIVE c(client, n) AS ( \
            SELECT (SELECT w.client FROM messages w WHERE w.state = 'waiting' AND w.client > ?1 ORDER BY w.client LIMIT 1), 1 \
            UNION ALL SELECT (SELECT w.client FROM messages w WHERE w.state = 'waiting' AND w.client > c.client \
                ORDER BY w.client LIMIT 1), c.n + 1 FROM c WHERE c.client IS NOT NULL AND c.n <= ?2) \
         SELECT c.client FROM c WHERE c.client IS NOT NULL";
    const DUE: &str = concat!(
        "WITH c(client) AS (SELECT unhex(value) FROM json_each(?2) UNION ALL SELECT NULL WHERE ?3) SELECT ",
        message_columns!(),
        " FROM c CROSS JOIN messages m WHERE m.id = (SELECT d.id FROM messages d WHERE d.state = 'waiting' \
            AND d.client IS c.client AND d.next_at <= ?1 ORDER BY d.next_at, d.id LIMIT 1) ORDER BY m.next_at, m.id"
    );
    let from = after.map(|client| client.blob().to_vec()).unwrap_or_default();
    let mut clients: Vec<ClientId> = all(db, CLIENTS, params![from, look], |cells| cells.id())?;
    let more = clients.len() > look as usize;
    clients.truncate(look as usize);
    let next = clients.last().copied().filter(|_| more);
    let resting: BTreeSet<&ClientId> = resting.iter().collect();
    let hex = |id: &ClientId| -> String { id.blob().iter().map(|byte| format!("{byte:02x}")).collect() };
    let awake: Vec<String> = clients.iter().filter(|client| !resting.contains(client)).map(hex).collect();
    let awake = serde_json::Value::from(awake).to_string();
    Ok(Due { messages: all(db, DUE, params![now.0, awake, after.is_none()], read_message)?, next })
}

pub(crate) fn expired(db: &Connection, limit: u32, now: Time) -> Result<Vec<Message>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages m WHERE m.state = 'waiting' AND m.give_up_at <= ?1 AND m.next_at <= ?1 LIMIT ?2"
    );
    all(db, SQL, params![now.0, limit], read_message)
}

pub(crate) fn queue(db: &Connection, client: ClientId, now: Time) -> Result<Queue, Fault> {
    const SQL: &str = "SELECT count(*), min(m.next_at) FROM messages m WHERE m.state = 'waiting' AND m.client = ?1";
    let read = |cells: &mut Cells<'_, '_>| {
        Ok(Queue { waiting: cells.u64()?, due_since: cells.time_if()?.filter(|at| *at <= now) })
    };
    Ok(one(db, SQL, [client.blob()], read)?.unwrap_or_default())
}

pub(crate) fn message(db: &Connection, id: MessageId) -> Result<Option<Message>, Fault> {
    const SQL: &str = concat!("SELECT ", message_columns!(), " FROM messages m WHERE m.id = ?1");
    one(db, SQL, [id.blob()], read_message)
}

pub(crate) fn messages(
    db: &Connection,
    filter: &MessageFilter,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<Message>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages m WHERE (?1 IS NULL OR m.id < ?1) AND (?2 IS NULL OR m.state = ?2) \
          AND (?3 IS NULL OR m.client = ?3) ORDER BY m.id DESC LIMIT ?4"
    );
    let params = params![
        cursor.map(Id::blob),
        filter.state.map(MessageState::as_str),
        filter.client.map(Id::blob),
        limit.saturating_add(1),
    ];
    let mut rows = all(db, SQL, params, read_message)?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Ok(Page { rows, more })
}

pub(crate) fn count(db: &Connection) -> Result<MessageCount, Fault> {
    const SQL: &str = "SELECT (SELECT count(*) FROM notices), (SELECT count(*) FROM messages WHERE state = 'waiting'), \
         (SELECT count(*) FROM messages WHERE state = 'dead' AND state <> 'waiting')";
    let read = |cells: &mut Cells<'_, '_>| {
        Ok(MessageCount { notices: cells.u64()?, waiting: cells.u64()?, dead: cells.u64()? })
    };
    Ok(one(db, SQL, [], read)?.unwrap_or_default())
}
