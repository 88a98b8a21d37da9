//! What is read: each view by one statement without row locks, so that stamp and facts are of one snapshot (I3). No function
//! that reads tables is called in it: a VOLATILE one would have a snapshot of its own.
use crate::cells::{Cells, Fault, Id, escaped};
use crate::jobs::{self, rules_column};
use crate::pool::{Asked, Reader};
use crate::rows::{
    self, Meta, account_columns, client_columns, entry_columns, event_columns, grant_columns, instance_columns,
    key_columns, meta_columns, session_columns,
};
use crate::told::{timeline, timeline_of};
use portcullis_domain::Cut;
use portcullis_domain::changes::BoundRow;
use portcullis_domain::ledger::Ledger;
use portcullis_domain::model::{Account, Client, Instance, Key};
use portcullis_domain::throttle::{Bucket, BucketKey};
use portcullis_domain::view::{AccountView, ClientView, RefreshView, RiskView, SessionView, SignInView, Stamp};
use portcullis_store::{
    AttemptCount, EventFilter, EventRow, LiveCount, LogRead, Page, Remembered, RowCount, StoreError,
};
use portcullis_wire::{AccountId, ClientId, Entry, EventId, GrantId, InstanceId, Rev, SessionId};
use sqlx::query;
use std::collections::BTreeMap;

/// When a refresh token of its own client was last used under the session `s`.
macro_rules! refreshed_at {
    () => {
        "(SELECT max(greatest(o.handed_at, o.made_at)) FROM grants o WHERE o.session = s.id \
         AND o.client = coalesce(s.client, '\\x00000000000000000000000000000000'))"
    };
}
pub(crate) use refreshed_at;

/// The session `s` lives by the rows alone, under its account `a`, the counter's row `m` and this time.
macro_rules! lives {
    ($now:literal) => {
        concat!(
            "s.ended_rev IS NULL AND s.absolute_expires_at > ",
            "coalesce(",
            $now,
            "::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) \
             AND (s.born >= a.cut_rev OR s.id IS NOT DISTINCT FROM a.cut_except) \
             AND (s.born >= m.cut_rev OR s.id IS NOT DISTINCT FROM m.cut_except)"
        )
    };
}
pub(crate) use lives;

pub(crate) async fn meta(db: &Reader) -> Result<Meta, Fault> {
    const SQL: &str = concat!("SELECT ", meta_columns!(), " FROM meta m");
    db.one(|| query(SQL), Meta::read).await?.ok_or_else(no_meta)
}

pub(crate) fn no_meta() -> Fault {
    Fault::Row("table meta: its one row is missing".into())
}

pub(crate) async fn stamp(db: &Reader) -> Result<Stamp, Fault> {
    Ok(meta(db).await?.stamp(db.given()))
}

pub(crate) async fn sign_in(db: &Reader, email: &str, client: ClientId) -> Result<SignInView, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        meta_columns!(),
        ", coalesce(c.cut_rev, 0), c.cut_except, ",
        account_columns!(),
        ", a.unused FROM meta m LEFT JOIN clients c ON c.id = $2 LEFT JOIN accounts a ON a.email = $1"
    );
    let read = |cells: &mut Cells<'_>| {
        let stamp = Meta::read(cells)?.stamp(db.given());
        let client_cut: Cut = cells.table("clients").cut()?;
        let (account, unused) = match cells.is_null() {
            true => (None, false),
            false => (Some(rows::account(cells)?), cells.get()?),
        };
        Ok(SignInView { stamp, account, unused, client_cut })
    };
    db.one(|| query(SQL).bind(escaped(email)).bind(client.blob()), read).await?.ok_or_else(no_meta)
}

/// Of those of these grants that are there; each by itself, for a row that does not read is nobody else's fault.
pub(crate) async fn refreshes(
    db: &Reader,
    grants: &[GrantId],
) -> Result<BTreeMap<GrantId, Result<RefreshView, StoreError>>, Fault> {
    const SQL: &str = concat!(
        "SELECT g.id, ",
        grant_columns!(),
        ", ",
        session_columns!(),
        ", ",
        account_columns!(),
        ", c.id, c.cut_rev, c.cut_except, c.disabled, c.access_ttl, ",
        "CASE WHEN g.client <> coalesce(s.client, '\\x00000000000000000000000000000000') THEN ",
        refreshed_at!(),
        " END, ",
        meta_columns!(),
        ", ",
        rules_column!(),
        " FROM meta m, each_id($1) i (id) JOIN grants g ON g.id = i.id JOIN sessions s ON s.id = g.session \
          JOIN accounts a ON a.id = s.account JOIN clients c ON c.id = g.client"
    );
    let view = |cells: &mut Cells<'_>| {
        let (grant, session, account) = (rows::grant(cells)?, rows::session(cells)?, rows::account(cells)?);
        cells.table("clients").id::<ClientId>()?;
        let (client_cut, client_disabled, access_ttl) = (cells.cut()?, cells.get()?, cells.number_if()?);
        let refreshed_at = cells.time_if()?;
        let stamp = Meta::read(cells)?.stamp(db.given());
        let standing = jobs::rules(cells)?;
        Ok(RefreshView {
            stamp,
            grant,
            session,
            account,
            client_cut,
            client_disabled,
            access_ttl,
            refreshed_at,
            standing,
        })
    };
    let ids: Vec<_> = grants.iter().map(|grant| grant.blob()).collect();
    let read = |cells: &mut Cells<'_>| {
        let id = cells.table("grants").id::<GrantId>()?;
        Ok((id, view(cells).map_err(|fault: Fault| StoreError::from(fault))))
    };
    Ok(db.all_by_kept_plan(|| query(SQL).bind(ids.clone()), read).await?.into_iter().collect())
}

fn session_view(db: &Reader, cells: &mut Cells<'_>) -> Result<SessionView, Fault> {
    let (session, refreshed_at, account) = (rows::session(cells)?, cells.time_if()?, rows::account(cells)?);
    let stamp = Meta::read(cells)?.stamp(db.given());
    Ok(SessionView { stamp, session, account, refreshed_at, standing: jobs::rules(cells)? })
}

macro_rules! session_views {
    () => {
        concat!(
            "SELECT ",
            session_columns!(),
            ", ",
            refreshed_at!(),
            ", ",
            account_columns!(),
            ", ",
            meta_columns!(),
            ", ",
            rules_column!(),
            " FROM meta m, sessions s JOIN accounts a ON a.id = s.account"
        )
    };
}

pub(crate) async fn session(db: &Reader, session: SessionId) -> Result<Option<SessionView>, Fault> {
    const SQL: &str = concat!(session_views!(), " WHERE s.id = $1");
    db.one(|| query(SQL).bind(session.blob()), |cells| session_view(db, cells)).await
}

pub(crate) async fn sessions(db: &Reader, account: AccountId, limit: u32) -> Result<Vec<SessionView>, Fault> {
    const SQL: &str = concat!(
        session_views!(),
        " WHERE s.account = $1 AND s.epoch = m.epoch AND ",
        lives!("$3"),
        " ORDER BY s.created_at DESC, s.id DESC LIMIT $2"
    );
    let given = db.given().map(|now| now.0);
    db.all(|| query(SQL).bind(account.blob()).bind(i64::from(limit)).bind(given), |cells| session_view(db, cells)).await
}

pub(crate) async fn account(db: &Reader, account: AccountId) -> Result<Option<AccountView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        account_columns!(),
        ", a.cut_whole, ",
        meta_columns!(),
        " FROM meta m, accounts a WHERE a.id = $1"
    );
    let read = |cells: &mut Cells<'_>| {
        let account = rows::account(cells)?;
        let all_ended = account.cut.whole(cells.rev_if()?);
        Ok(AccountView { stamp: Meta::read(cells)?.stamp(db.given()), account, all_ended })
    };
    db.one(|| query(SQL).bind(account.blob()), read).await
}

pub(crate) async fn client(db: &Reader, client: ClientId) -> Result<Option<ClientView>, Fault> {
    const SQL: &str =
        concat!("SELECT ", client_columns!(), ", ", meta_columns!(), " FROM meta m, clients c WHERE c.id = $1");
    let read = |cells: &mut Cells<'_>| {
        let client = rows::client(cells)?;
        Ok(ClientView { stamp: Meta::read(cells)?.stamp(db.given()), client })
    };
    db.one(|| query(SQL).bind(client.blob()), read).await
}

pub(crate) async fn accounts(
    db: &Reader,
    prefix: Option<&str>,
    cursor: Option<AccountId>,
    limit: u32,
) -> Result<Page<Account>, Fault> {
    const ALL: &str =
        concat!("SELECT ", account_columns!(), " FROM accounts a WHERE a.id > coalesce($1, '') ORDER BY a.id LIMIT $2");
    // By the index on addresses, then sorted: far fewer rows than all accounts in the order of their ids.
    const WITH_PREFIX: &str = concat!(
        "SELECT ",
        account_columns!(),
        " FROM accounts a WHERE a.email >= $1 AND starts_with(a.email, $1) AND ($2::text IS NULL OR a.email < $2) \
         AND a.id > coalesce($3, '') ORDER BY a.id LIMIT $4"
    );
    let (cursor, wanted) = (cursor.map(Id::blob), i64::from(limit) + 1);
    let rows = match prefix {
        Some(prefix) => {
            let after = after_prefix(prefix);
            let make = || query(WITH_PREFIX).bind(escaped(prefix)).bind(after.clone()).bind(cursor).bind(wanted);
            db.all(make, rows::account).await?
        }
        None => db.all(|| query(ALL).bind(cursor).bind(wanted), rows::account).await?,
    };
    Ok(page(rows, limit))
}

/// A text after all that start with `prefix`; `None` when there is none such. Texts are compared as bytes, which for UTF-8 is
/// the order of code points.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            // What is kept escaped sorts otherwise; the statement asks for the prefix itself, too.
            return (!text.contains(['\0', '\u{1}', '\u{2}'])).then_some(text);
        }
    }
    None
}

pub(crate) async fn clients(db: &Reader, cursor: Option<ClientId>, limit: u32) -> Result<Page<Client>, Fault> {
    // Not by a text before all ids: the built-in client's is zero.
    const SQL: &str =
        concat!("SELECT ", client_columns!(), " FROM clients c WHERE c.id > coalesce($1, '') ORDER BY c.id LIMIT $2");
    let (cursor, wanted) = (cursor.map(Id::blob), i64::from(limit) + 1);
    Ok(page(db.all(|| query(SQL).bind(cursor).bind(wanted), rows::client).await?, limit))
}

pub(crate) async fn instances(db: &Reader) -> Result<Vec<Instance>, Fault> {
    const SQL: &str = concat!("SELECT ", instance_columns!(), " FROM instances i ORDER BY i.id");
    db.all(|| query(SQL), rows::instance).await
}

pub(crate) async fn instance(db: &Reader, id: InstanceId) -> Result<Option<Instance>, Fault> {
    const SQL: &str = concat!("SELECT ", instance_columns!(), " FROM instances i WHERE i.id = $1");
    db.one(|| query(SQL).bind(id.blob()), rows::instance).await
}

pub(crate) async fn keys(db: &Reader) -> Result<Vec<Key>, Fault> {
    const SQL: &str = concat!("SELECT ", key_columns!(), " FROM keys k ORDER BY k.id");
    db.all(|| query(SQL), rows::key).await
}

pub(crate) async fn bound(db: &Reader) -> Result<Option<BoundRow>, Fault> {
    Ok(meta(db).await?.bound)
}

pub(crate) async fn events(
    db: &Reader,
    filter: &EventFilter,
    cursor: Option<EventId>,
    limit: u32,
) -> Result<Page<EventRow>, Fault> {
    // One statement for each way in, so that each has its index; the rest only filters. A cursor that is not there is before nothing.
    macro_rules! way {
        ($first:literal, $order:literal) => {
            concat!(
                "SELECT ",
                event_columns!(),
                " FROM events e WHERE ",
                $first,
                "e.seq < CASE WHEN $1::bytea IS NULL THEN 9223372036854775807 \
                 ELSE (SELECT c.seq FROM events c WHERE c.id = $1) END AND ($2::text IS NULL OR e.kind = $2) \
                 AND (NOT $5 OR e.rev IS NOT NULL) AND ($6::bytea IS NULL OR e.session = $6) \
                 AND ($7::bytea IS NULL OR e.client = $7) AND ($8::text IS NULL OR e.actor = $8) \
                 AND ($9::bigint IS NULL OR e.at >= $9) AND ($10::bigint IS NULL OR e.at < $10) \
                 AND ($4::bytea IS NULL OR e.account = $4) AND ($11::bigint IS NULL OR e.rev = $11) ORDER BY ",
                $order,
                " LIMIT $3"
            )
        };
    }
    const ALL: &str = way!("", "e.seq DESC");
    const OF_ACCOUNT: &str = way!("e.account = $4 AND ", "e.seq DESC");
    // Records get their rev in commit order, so that order by rev, then by seq, is order by seq.
    const WITH_REV: &str = way!("e.rev > 0 AND ", "e.rev DESC, e.seq DESC");
    const OF_REV: &str = way!("e.rev = $11 AND ", "e.rev DESC, e.seq DESC");
    let EventFilter { account, kind, revocations, session, client, actor, from, until, rev } = filter;
    let sql = match (account, rev, revocations) {
        (Some(_), ..) => OF_ACCOUNT,
        (None, Some(_), _) => OF_REV,
        (None, None, true) => WITH_REV,
        (None, None, false) => ALL,
    };
    let make = || {
        let asked = query(sql).bind(cursor.map(Id::blob)).bind(kind.as_deref()).bind(i64::from(limit) + 1);
        let asked = asked.bind(account.map(Id::blob)).bind(*revocations).bind(session.map(Id::blob));
        let asked = asked.bind(client.map(Id::blob)).bind(actor.as_deref().map(escaped));
        let asked = asked.bind(from.map(|from| from.0)).bind(until.map(|until| until.0));
        // A rev that no log of ours reaches is no record's.
        asked.bind(rev.map(|rev| i64::try_from(rev.0).unwrap_or(-1)))
    };
    let rows = db.all(make, rows::event).await?;
    Ok(page(rows, limit))
}

pub(crate) async fn revocation(db: &Reader, at: Rev) -> Result<Option<EventRow>, Fault> {
    const SQL: &str = concat!("SELECT ", event_columns!(), " FROM events e WHERE e.rev = $1 ORDER BY e.seq LIMIT 1");
    let Ok(at) = i64::try_from(at.0) else { return Ok(None) };
    db.one(|| query(SQL).bind(at), rows::event).await
}

pub(crate) async fn live_count(db: &Reader) -> Result<LiveCount, Fault> {
    const SQL: &str = concat!(
        "SELECT count(*), count(DISTINCT s.account) FROM meta m, sessions s JOIN accounts a ON a.id = s.account WHERE ",
        lives!("$1"),
        " AND NOT (m.standing > 0 AND EXISTS (SELECT 1 FROM jobs j WHERE j.finished_at IS NULL AND kills(j, s)))"
    );
    let given = db.given().map(|now| now.0);
    let count = db.one(|| query(SQL).bind(given), live).await?;
    Ok(count.unwrap_or_default())
}

pub(crate) fn live(cells: &mut Cells<'_>) -> Result<LiveCount, Fault> {
    Ok(LiveCount { sessions: cells.number()?, accounts: cells.number()? })
}

/// The counter's row beside each entry, and once where there is none.
///
/// Leases rest on such a read, so it must be the primary's. Where a standby may take over, it is a small synchronous commit
/// (DESIGN §4.4): a primary that was deposed meanwhile waits for its standby and gives no answer.
macro_rules! log_of {
    ($by:literal, $entries:literal) => {
        concat!(
            "SELECT ",
            meta_columns!(),
            ", coalesce((SELECT c.commits FROM committers c WHERE c.id = ",
            $by,
            "), -1), ",
            timeline!(),
            ", ",
            entry_columns!(),
            ", (SELECT CASE WHEN current_setting('synchronous_standby_names') <> '' \
             THEN pg_logical_emit_message(true, 'portcullis', '') END) FROM meta m LEFT JOIN LATERAL (",
            $entries,
            ") l ON true ORDER BY l.rev"
        )
    };
}

/// A look at the log, and at what is counted beside it.
struct Look {
    /// What was acknowledged when it began.
    before: Ledger,
    meta: Meta,
    found: Option<u64>,
    timeline: u32,
    entries: Vec<Entry>,
}

async fn look(db: &Reader, make: impl Fn() -> Asked<'static>) -> Result<Look, Fault> {
    let (mut meta, mut counted, before) = (None, None, db.told.ledger());
    let read = |cells: &mut Cells<'_>| {
        meta = Some(Meta::read(cells)?);
        let commits: i64 = cells.get()?;
        counted = Some((u64::try_from(commits).ok(), timeline_of(&cells.get::<String>()?)?));
        if cells.is_null() { Ok(None) } else { rows::entry(cells).map(Some) }
    };
    let entries = db.all(make, read).await?.into_iter().flatten().collect();
    let ((found, timeline), meta) = (counted.ok_or_else(no_meta)?, meta.ok_or_else(no_meta)?);
    Ok(Look { before, meta, found, timeline, entries })
}

async fn log_rows(db: &Reader, make: impl Fn() -> Asked<'static>) -> Result<(Meta, Vec<Entry>), Fault> {
    let looks = db.told.looks_at_others();
    let mut seen = look(db, &make).await?;
    let known = db.told.ledger().told.timeline;
    if db.told.doubts(&seen.before, seen.meta.epoch, seen.found, seen.timeline) {
        tracing::warn!(
            known,
            timeline = seen.timeline,
            "a read lacks what is known: it is asked again on a new connection"
        );
        db.renew();
        seen = look(db, &make).await?;
    } else if seen.timeline > known {
        db.renew(); // the others may lead to the primary that was
    }
    db.told.confirmed(looks, seen.timeline);
    // Whoever gives a lease by this read asks whether something was lost.
    db.told.look(&seen.before, seen.meta.epoch, seen.found, Some(seen.timeline));
    Ok((seen.meta, seen.entries))
}

pub(crate) async fn log(db: &Reader, after: Rev, limit: u32) -> Result<LogRead, Fault> {
    const SQL: &str = log_of!("$3", "SELECT * FROM log e WHERE e.rev > $1 ORDER BY e.rev LIMIT $2");
    // A position that no log of ours reaches has nothing after it.
    let from = i64::try_from(after.0).unwrap_or(i64::MAX);
    let by = db.told.ledger().told.by.blob();
    let (meta, entries) = log_rows(db, || query(SQL).bind(from).bind(i64::from(limit)).bind(by)).await?;
    Ok(LogRead { stamp: meta.stamp(db.given()), entries, complete: meta.forgotten <= after })
}

pub(crate) async fn live_log(db: &Reader) -> Result<(Stamp, Vec<Entry>), Fault> {
    let by = db.told.ledger().told.by.blob();
    const SQL: &str = log_of!("$1", "SELECT * FROM log");
    let (meta, entries) = log_rows(db, || query(SQL).bind(by)).await?;
    Ok((meta.stamp(db.given()), entries))
}

pub(crate) async fn remembered(db: &Reader, actor: &str, key: &str) -> Result<Option<Remembered>, Fault> {
    const SQL: &str =
        "SELECT r.request, r.rev, r.ended, r.made, r.at FROM remembered r WHERE r.actor = $1 AND r.key = $2";
    db.one(|| query(SQL).bind(escaped(actor)).bind(escaped(key)), rows::remembered).await
}

pub(crate) async fn attempts(db: &Reader) -> Result<AttemptCount, Fault> {
    const SQL: &str = "SELECT (SELECT count(*) FROM budgets), (SELECT count(*) FROM known_networks)";
    let read = |cells: &mut Cells<'_>| Ok(AttemptCount { buckets: cells.number()?, networks: cells.number()? });
    Ok(db.one(|| query(SQL), read).await?.unwrap_or_default())
}

/// What is remembered of an account for the rules of risk, and these buckets. One row for each bucket, or one for none.
pub(crate) async fn risk(db: &Reader, account: AccountId, buckets: &[BucketKey]) -> Result<RiskView, Fault> {
    const SQL: &str = "SELECT r.memory, r.version, b.debt, b.seen_at FROM (VALUES (1)) one \
         LEFT JOIN risk_memories r ON r.account = $1 LEFT JOIN each_id($2) WITH ORDINALITY i (id, n) ON true \
         LEFT JOIN budgets b ON b.key = i.id ORDER BY i.n";
    let keys: Vec<_> = buckets.iter().map(|key| key.0).collect();
    let mut view = RiskView::default();
    let read = |cells: &mut Cells<'_>| {
        view.memory = cells.table("risk_memories").text_if()?;
        view.version = cells.number_if()?.unwrap_or(0);
        let bucket = match (cells.get::<Option<i64>>()?, cells.time_if()?) {
            (Some(debt), Some(seen_at)) => Some(Bucket { debt, seen_at }),
            _ => None,
        };
        Ok(bucket)
    };
    let mut rows = db.all(|| query(SQL).bind(account.blob()).bind(keys.clone()), read).await?;
    rows.truncate(buckets.len());
    rows.resize(buckets.len(), None);
    Ok(RiskView { buckets: rows, ..view })
}

pub(crate) async fn row_count(db: &Reader) -> Result<RowCount, Fault> {
    const SQL: &str = "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM sessions), \
         (SELECT count(*) FROM grants), (SELECT count(*) FROM events), (SELECT count(*) FROM log), \
         (SELECT count(*) FROM remembered), (SELECT count(*) FROM instances), \
         (SELECT count(*) FROM tickets), (SELECT count(*) FROM consents), (SELECT count(*) FROM risk_memories)";
    let read = |cells: &mut Cells<'_>| {
        Ok(RowCount {
            accounts: cells.number()?,
            sessions: cells.number()?,
            grants: cells.number()?,
            events: cells.number()?,
            entries: cells.number()?,
            remembered: cells.number()?,
            instances: cells.number()?,
            tickets: cells.number()?,
            consents: cells.number()?,
            memories: cells.number()?,
        })
    };
    Ok(db.one(|| query(SQL), read).await?.unwrap_or_default())
}

fn page<T>(mut rows: Vec<T>, limit: u32) -> Page<T> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Page { rows, more }
}
