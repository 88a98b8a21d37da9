//! Notices of what has ended, and messages on their way out.
use crate::cells::{Cells, Fault, Id};
use crate::pool::Reader;
use crate::reads::refreshed_at;
use crate::rows::{self, session_columns};
use portcullis_domain::outbox::{Allowed, Ending, Message, MessageKind, MessageState, Notice, Told, Under, UnderGrant};
use portcullis_domain::receivers::Queue;
use portcullis_store::{Due, MessageCount, MessageFilter, Page};
use portcullis_wire::{ClientId, MessageId, Rev, SessionId};
use sqlx::query;
use std::collections::BTreeSet;

pub(crate) async fn notices(db: &Reader, limit: u32) -> Result<Vec<Notice>, Fault> {
    const SQL: &str = "SELECT n.seq, n.scope, n.target, n.session, n.except_id, n.rev, n.before_rev, n.before_except, n.at, \
         n.cursor FROM notices n ORDER BY n.seq LIMIT $1";
    let read = |cells: &mut Cells<'_>| {
        Ok(Notice {
            seq: cells.table("notices").number()?,
            what: ending(cells)?,
            rev: cells.rev()?,
            before: cells.cut()?,
            at: cells.time()?,
            cursor: cells.id_if()?,
        })
    };
    db.all(|| query(SQL).bind(i64::from(limit)), read).await
}

fn ending(cells: &mut Cells<'_>) -> Result<Ending, Fault> {
    let scope: String = cells.get()?;
    let target: Option<Vec<u8>> = cells.get()?;
    let target: Option<[u8; 16]> = target.and_then(|bytes| bytes.try_into().ok());
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
        concat!(
            "m.cut_rev, m.cut_except, ",
            session_columns!(),
            ", ",
            refreshed_at!(),
            ", a.cut_rev, a.cut_except, \
             (SELECT coalesce(array_agg(g.id ORDER BY g.id), '{}') FROM grants g WHERE g.session = s.id AND g.client <> $1), \
             (SELECT coalesce(array_agg(g.client ORDER BY g.id), '{}') FROM grants g \
                WHERE g.session = s.id AND g.client <> $1), \
             (SELECT coalesce(array_agg(g.ended_rev ORDER BY g.id), '{}') FROM grants g \
                WHERE g.session = s.id AND g.client <> $1)"
        )
    };
}

pub(crate) async fn told(db: &Reader, notice: &Notice, look: u32) -> Result<Told, Fault> {
    const ONE: &str = concat!(
        "SELECT ",
        under_columns!(),
        " FROM meta m, sessions s JOIN accounts a ON a.id = s.account WHERE s.id = $2 AND s.id > $3 \
          AND $5::bigint IS NOT NULL LIMIT $4"
    );
    // The account's sessions first: never through all sessions in the order of ids.
    const OF_ACCOUNT: &str = concat!(
        "WITH own AS MATERIALIZED (SELECT * FROM sessions WHERE account = $2 AND ended_rev IS NULL \
            UNION ALL SELECT * FROM sessions WHERE account = $2 AND ended_rev > $5) SELECT ",
        under_columns!(),
        " FROM meta m, own s JOIN accounts a ON a.id = s.account WHERE s.id > $3 ORDER BY s.id LIMIT $4"
    );
    const ALL: &str = concat!(
        "SELECT ",
        under_columns!(),
        " FROM meta m, (SELECT * FROM sessions t WHERE t.id > $3 ORDER BY t.id LIMIT $4) s \
          JOIN accounts a ON a.id = s.account WHERE $2::bytea IS NOT NULL \
          AND $5::bigint IS NOT NULL ORDER BY s.id"
    );
    let (sql, target) = match notice.what {
        Ending::Session(id) | Ending::Grant { session: id, .. } => (ONE, id.blob()),
        Ending::Account { account, .. } => (OF_ACCOUNT, account.blob()),
        Ending::Client(id) => (ALL, id.blob()),
        Ending::All { .. } => (ALL, [0; 16]),
    };
    // No id is below the empty one.
    let after: Vec<u8> = notice.cursor.map(|id| id.blob().to_vec()).unwrap_or_default();
    let make = || {
        query(sql)
            .bind(ClientId::FIRST_PARTY.blob())
            .bind(target)
            .bind(after.clone())
            .bind(i64::from(look).saturating_add(1))
            .bind(i64::try_from(notice.rev.0).unwrap_or(i64::MAX))
    };
    let rows = db.all(make, |cells| Ok((cells.cut()?, under(cells)?))).await?;
    let all = rows.first().map(|(all, _)| *all).unwrap_or_default();
    let more = rows.len() > look as usize;
    let mut found: Vec<Under> = rows.into_iter().take(look as usize).map(|(_, under)| under).collect();
    if let (Ending::Session(id), [under]) = (notice.what, &mut found[..]) {
        under.allowed = allowed(db, id, notice.rev).await?;
    }
    let next = found.last().filter(|_| more).map(|under| under.session.id);
    Ok(Told { found, all, next })
}

/// A statement of its own: nothing more is allowed in a session that has ended, and what ends meanwhile is told by its own notice.
async fn allowed(db: &Reader, session: SessionId, rev: Rev) -> Result<Vec<Allowed>, Fault> {
    const SQL: &str = "SELECT s.id, s.client, s.born FROM sessions b JOIN sessions s ON s.account = b.account \
            AND s.ended_rev IS NULL AND s.allowed_in = b.id WHERE b.id = $1 AND s.client IS NOT NULL \
         UNION ALL SELECT s.id, s.client, s.born FROM sessions b JOIN sessions s ON s.account = b.account \
            AND s.ended_rev > $2 AND s.allowed_in = b.id WHERE b.id = $1 AND s.client IS NOT NULL ORDER BY 1";
    let read = |cells: &mut Cells<'_>| {
        Ok(Allowed { session: cells.table("sessions").id()?, client: cells.id()?, born: cells.rev()? })
    };
    db.all(|| query(SQL).bind(session.blob()).bind(i64::try_from(rev.0).unwrap_or(i64::MAX)), read).await
}

fn under(cells: &mut Cells<'_>) -> Result<Under, Fault> {
    let (session, refreshed_at, account_cut) = (rows::session(cells)?, cells.time_if()?, cells.cut()?);
    let (ids, clients) = (cells.get::<Vec<[u8; 16]>>()?, cells.get::<Vec<[u8; 16]>>()?);
    let ended: Vec<Option<i64>> = cells.get()?;
    let grants = ids.into_iter().zip(clients).zip(ended).map(|((id, client), ended)| {
        let ended = ended.map(|rev| u64::try_from(rev).map(portcullis_wire::Rev)).transpose();
        let ended = ended.map_err(|_| cells.wrong("a negative rev"))?;
        Ok(UnderGrant { id: Id::from_blob(id), client: Id::from_blob(client), ended })
    });
    Ok(Under { session, refreshed_at, account_cut, grants: grants.collect::<Result<_, Fault>>()?, allowed: vec![] })
}

macro_rules! message_columns {
    () => {
        "m.id, m.kind, m.client, m.body, m.created_at, m.next_at, m.give_up_at, m.tries, m.state, m.settled_at, \
         m.last_error, m.version"
    };
}

fn read_message(cells: &mut Cells<'_>) -> Result<Message, Fault> {
    Ok(Message {
        id: cells.table("messages").id()?,
        kind: cells.word(MessageKind::parse)?,
        client: cells.id_if()?,
        body: cells.text()?,
        created_at: cells.time()?,
        next_at: cells.time()?,
        give_up_at: cells.time()?,
        tries: cells.number()?,
        state: cells.word(MessageState::parse)?,
        settled_at: cells.time_if()?,
        last_error: cells.text_if()?,
        version: cells.number()?,
    })
}

/// The time, `$1` where it is given.
macro_rules! at {
    () => {
        "coalesce($1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
    };
}

pub(crate) async fn due(db: &Reader, resting: &[ClientId], after: Option<ClientId>, look: u32) -> Result<Due, Fault> {
    // From one client to the next by the index, however many messages each of them has; one more than is looked at.
    const CLIENTS: &str = "WITH RECURSIVE c(client, n) AS ( \
            (SELECT w.client, 1 FROM messages w WHERE w.state = 'waiting' AND w.client > $1 ORDER BY w.client LIMIT 1) \
            UNION ALL SELECT x.client, c.n + 1 FROM c, LATERAL (SELECT w.client FROM messages w \
                WHERE w.state = 'waiting' AND w.client > c.client ORDER BY w.client LIMIT 1) x WHERE c.n <= $2) \
         SELECT c.client FROM c ORDER BY c.client";
    const DUE: &str = concat!(
        "SELECT ",
        message_columns!(),
        " FROM ( \
            SELECT d.* FROM unnest($2::bytea[]) c(client), LATERAL (SELECT * FROM messages w WHERE w.state = 'waiting' \
                AND w.client = c.client AND w.next_at <= ",
        at!(),
        " ORDER BY w.next_at, w.id LIMIT 1) d \
            UNION ALL (SELECT w.* FROM messages w WHERE $3 AND w.state = 'waiting' AND w.client IS NULL AND w.next_at <= ",
        at!(),
        " ORDER BY w.next_at, w.id LIMIT 1)) m ORDER BY m.next_at, m.id"
    );
    let from = after.map(|client| client.blob().to_vec()).unwrap_or_default();
    let most = i32::try_from(look).unwrap_or(i32::MAX - 1);
    let mut clients: Vec<ClientId> =
        db.all(|| query(CLIENTS).bind(from.clone()).bind(most), |cells| cells.id()).await?;
    let more = clients.len() > look as usize;
    clients.truncate(look as usize);
    let next = clients.last().copied().filter(|_| more);
    let resting: BTreeSet<&ClientId> = resting.iter().collect();
    let awake = clients.iter().filter(|client| !resting.contains(client)).map(|id| id.blob().to_vec());
    let (awake, first) = (awake.collect::<Vec<_>>(), after.is_none());
    let given = db.given().map(|now| now.0);
    let messages = db.all(|| query(DUE).bind(given).bind(awake.clone()).bind(first), read_message).await?;
    Ok(Due { messages, next })
}

pub(crate) async fn expired(db: &Reader, limit: u32) -> Result<Vec<Message>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages m WHERE m.state = 'waiting' AND m.give_up_at <= ",
        at!(),
        " AND m.next_at <= ",
        at!(),
        " LIMIT $2"
    );
    let given = db.given().map(|now| now.0);
    db.all(|| query(SQL).bind(given).bind(i64::from(limit)), read_message).await
}

pub(crate) async fn queue(db: &Reader, client: ClientId) -> Result<Queue, Fault> {
    const SQL: &str = concat!(
        "SELECT count(*), min(m.next_at) FILTER (WHERE m.next_at <= ",
        at!(),
        ") FROM messages m WHERE m.state = 'waiting' AND m.client = $2"
    );
    let given = db.given().map(|now| now.0);
    let read = |cells: &mut Cells<'_>| Ok(Queue { waiting: cells.number()?, due_since: cells.time_if()? });
    Ok(db.one(|| query(SQL).bind(given).bind(client.blob()), read).await?.unwrap_or_default())
}

pub(crate) async fn message(db: &Reader, id: MessageId) -> Result<Option<Message>, Fault> {
    const SQL: &str = concat!("SELECT ", message_columns!(), " FROM messages m WHERE m.id = $1");
    db.one(|| query(SQL).bind(id.blob()), read_message).await
}

pub(crate) async fn messages(
    db: &Reader,
    filter: &MessageFilter,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Page<Message>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages m WHERE ($1::bytea IS NULL OR m.id < $1) AND ($2::text IS NULL OR m.state = $2) \
          AND ($3::bytea IS NULL OR m.client = $3) ORDER BY m.id DESC LIMIT $4"
    );
    let make = || {
        query(SQL)
            .bind(cursor.map(Id::blob))
            .bind(filter.state.map(MessageState::as_str))
            .bind(filter.client.map(Id::blob))
            .bind(i64::from(limit).saturating_add(1))
    };
    let mut rows = db.all(make, read_message).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Ok(Page { rows, more })
}

pub(crate) async fn count(db: &Reader) -> Result<MessageCount, Fault> {
    const SQL: &str = "SELECT (SELECT count(*) FROM notices), (SELECT count(*) FROM messages WHERE state = 'waiting'), \
         (SELECT count(*) FROM messages WHERE state = 'dead' AND state <> 'waiting')";
    let read = |cells: &mut Cells<'_>| {
        Ok(MessageCount { notices: cells.number()?, waiting: cells.number()?, dead: cells.number()? })
    };
    Ok(db.one(|| query(SQL), read).await?.unwrap_or_default())
}
