//! What is read, each in one statement or one read transaction, so that stamp and facts are of one snapshot (I3).
use crate::cells::{Cells, Fault, Id, Int, all, any, one, rev};
use crate::jobs;
use crate::rows::{
    self, Meta, account_columns, client_columns, entry_columns, event_columns, grant_columns, instance_columns,
    key_columns, meta_columns, session_columns,
};
use crate::snapshot::{Limits, Snapshot, limits_columns};
use portcullis_domain::Cut;
use portcullis_domain::changes::BoundRow;
use portcullis_domain::mass;
use portcullis_domain::model::{Account, Client, Grant, Instance, Key, Session};
use portcullis_domain::view::{AccountView, ClientView, RefreshView, SessionView, SignInView, Stamp};
use portcullis_store::{EventFilter, EventRow, LiveCount, LogRead, Page, Remembered};
use portcullis_wire::{AccountId, ClientId, Entry, EventId, GrantId, Rev, RunId, SessionId, Time};
use rusqlite::{Connection, params};

const META: &str = concat!("SELECT ", meta_columns!(), " FROM meta m WHERE m.one = 1");

/// When a refresh token of its own client was last used under the session `s`.
macro_rules! refreshed_at {
    () => {
        "(SELECT max(max(o.handed_at, o.made_at)) FROM grants o WHERE o.session = s.id \
         AND o.client = coalesce(s.client, x'00000000000000000000000000000000'))"
    };
}
pub(crate) use refreshed_at;

/// The counter's row.
pub(crate) fn meta(db: &Connection) -> Result<Meta, Fault> {
    one(db, META, [], Meta::read)?.ok_or_else(no_meta)
}

pub(crate) fn no_meta() -> Fault {
    Fault::Row("table meta: its one row is missing".into())
}

pub(crate) fn stamp(db: &Connection, now: Time) -> Result<Stamp, Fault> {
    Ok(meta(db)?.stamp(now))
}

pub(crate) fn sign_in(db: &Connection, email: &str, client: ClientId, now: Time) -> Result<SignInView, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        meta_columns!(),
        ", coalesce(c.cut_rev, 0), c.cut_except, ",
        account_columns!(),
        ", a.unused FROM meta m LEFT JOIN clients c ON c.id = ?2 LEFT JOIN accounts a ON a.email = ?1 WHERE m.one = 1"
    );
    let read = |cells: &mut Cells<'_, '_>| {
        let stamp = Meta::read(cells)?.stamp(now);
        let client_cut: Cut = cells.table("clients").cut()?;
        let (account, unused) = match cells.is_null() {
            true => (None, false),
            false => (Some(rows::account(cells)?), cells.get()?),
        };
        Ok(SignInView { stamp, account, unused, client_cut })
    };
    one(db, SQL, params![email, client.blob()], read)?.ok_or_else(no_meta)
}

/// What is of one grant alone.
macro_rules! above_columns {
    () => {
        concat!(
            grant_columns!(),
            ", ",
            session_columns!(),
            ", ",
            account_columns!(),
            ", CASE WHEN g.client <> coalesce(s.client, x'00000000000000000000000000000000') THEN ",
            refreshed_at!(),
            " END"
        )
    };
}

type Above = (Grant, Session, Account, Option<Time>);

fn above(cells: &mut Cells<'_, '_>) -> Result<Above, Fault> {
    Ok((rows::grant(cells)?, rows::session(cells)?, rows::account(cells)?, cells.time_if()?))
}

fn refresh_view(
    (grant, session, account, refreshed_at): Above,
    limits: Limits,
    stamp: Stamp,
    standing: mass::Rules,
) -> RefreshView {
    let Limits { cut: client_cut, disabled: client_disabled, access_ttl } = limits;
    RefreshView { stamp, grant, session, account, client_cut, client_disabled, access_ttl, refreshed_at, standing }
}

/// A grant with everything above it.
pub(crate) fn refresh(db: &Connection, grant: GrantId, now: Time) -> Result<Option<RefreshView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        above_columns!(),
        ", ",
        limits_columns!(),
        ", ",
        meta_columns!(),
        " FROM grants g CROSS JOIN sessions s ON s.id = g.session CROSS JOIN accounts a ON a.id = s.account \
          CROSS JOIN clients c ON c.id = g.client CROSS JOIN meta m ON m.one = 1 WHERE g.id = ?1"
    );
    with_rules(db, |db, standing| {
        one(db, SQL, [grant.blob()], |cells| {
            let (above, limits, meta) = (above(cells)?, Limits::read(cells)?, Meta::read(cells)?);
            Ok((refresh_view(above, limits, meta.stamp(now), standing.clone()), meta.standing))
        })
    })
}

/// The same, of a snapshot.
pub(crate) fn refresh_of(shot: &mut Snapshot<'_>, grant: GrantId, now: Time) -> Result<Option<RefreshView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        above_columns!(),
        " FROM grants g CROSS JOIN sessions s ON s.id = g.session CROSS JOIN accounts a ON a.id = s.account WHERE g.id = ?1"
    );
    let Some(above) = one(shot.db, SQL, [grant.blob()], above)? else { return Ok(None) };
    let limits = shot.limits(above.0.client)?;
    Ok(limits.map(|limits| refresh_view(above, limits, shot.meta().stamp(now), shot.standing())))
}

pub(crate) fn session(db: &Connection, session: SessionId, now: Time) -> Result<Option<SessionView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        session_columns!(),
        ", ",
        refreshed_at!(),
        ", ",
        account_columns!(),
        ", ",
        meta_columns!(),
        " FROM sessions s CROSS JOIN accounts a ON a.id = s.account CROSS JOIN meta m ON m.one = 1 WHERE s.id = ?1"
    );
    with_rules(db, |db, standing| {
        one(db, SQL, [session.blob()], |cells| {
            let (session, refreshed_at, account) = (rows::session(cells)?, cells.time_if()?, rows::account(cells)?);
            let meta = Meta::read(cells)?;
            let standing = standing.clone();
            Ok((SessionView { stamp: meta.stamp(now), session, account, refreshed_at, standing }, meta.standing))
        })
    })
}

pub(crate) fn account(db: &Connection, account: AccountId, now: Time) -> Result<Option<AccountView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        account_columns!(),
        ", a.cut_whole, ",
        meta_columns!(),
        " FROM accounts a CROSS JOIN meta m ON m.one = 1 WHERE a.id = ?1"
    );
    one(db, SQL, [account.blob()], |cells| {
        let account = rows::account(cells)?;
        let all_ended = account.cut.whole(cells.rev_if()?);
        Ok(AccountView { stamp: Meta::read(cells)?.stamp(now), account, all_ended })
    })
}

pub(crate) fn client(db: &Connection, client: ClientId, now: Time) -> Result<Option<ClientView>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        client_columns!(),
        ", ",
        meta_columns!(),
        " FROM clients c CROSS JOIN meta m ON m.one = 1 WHERE c.id = ?1"
    );
    one(db, SQL, [client.blob()], |cells| {
        let client = rows::client(cells)?;
        Ok(ClientView { stamp: Meta::read(cells)?.stamp(now), client })
    })
}

pub(crate) fn sessions(db: &Connection, account: AccountId, limit: u32, now: Time) -> Result<Vec<SessionView>, Fault> {
    const ACCOUNT: &str = concat!("SELECT ", account_columns!(), " FROM accounts a WHERE a.id = ?1");
    const SESSIONS: &str = concat!(
        "SELECT ",
        session_columns!(),
        ", ",
        refreshed_at!(),
        " FROM sessions s WHERE s.account = ?1 AND s.ended_rev IS NULL AND s.epoch = ?3 AND s.absolute_expires_at > ?4 \
         AND (s.born >= ?5 OR s.id IS ?6) AND (s.born >= ?7 OR s.id IS ?8) ORDER BY s.created_at DESC, s.id DESC LIMIT ?2"
    );
    snapshot(db, |db| {
        let meta = meta(db)?;
        let (stamp, standing) = (meta.stamp(now), jobs::standing(db, &meta)?);
        let Some(account) = one(db, ACCOUNT, [account.blob()], rows::account)? else { return Ok(Vec::new()) };
        let (own, whole) = (account.cut, stamp.all);
        let params = params![
            account.id.blob(),
            limit,
            stamp.epoch.0,
            now.0,
            rev(own.rev),
            own.except.map(Id::blob),
            rev(whole.rev),
            whole.except.map(Id::blob),
        ];
        all(db, SESSIONS, params, |cells| {
            let (session, refreshed_at) = (rows::session(cells)?, cells.time_if()?);
            let (account, standing) = (account.clone(), standing.clone());
            Ok(SessionView { stamp, session, account, refreshed_at, standing })
        })
    })
}

pub(crate) fn accounts(
    db: &Connection,
    prefix: Option<&str>,
    cursor: Option<AccountId>,
    limit: u32,
) -> Result<Page<Account>, Fault> {
    const ALL: &str = concat!("SELECT ", account_columns!(), " FROM accounts a WHERE a.id > ?1 ORDER BY a.id LIMIT ?2");
    const FIRST: &str = concat!("SELECT ", account_columns!(), " FROM accounts a ORDER BY a.id LIMIT ?1");
    // By the index on addresses, then sorted: far fewer rows than all accounts in the order of their ids.
    const WITH_PREFIX: &str = concat!(
        "SELECT ",
        account_columns!(),
        " FROM accounts a WHERE a.email >= ?1 AND (?2 IS NULL OR a.email < ?2) AND (?3 IS NULL OR a.id > ?3) \
         ORDER BY a.id LIMIT ?4"
    );
    let (cursor, wanted) = (cursor.map(Id::blob), i64::from(limit) + 1);
    let rows = match (prefix, cursor) {
        (Some(prefix), _) => {
            all(db, WITH_PREFIX, params![prefix, after_prefix(prefix), cursor, wanted], rows::account)?
        }
        (None, Some(cursor)) => all(db, ALL, params![cursor, wanted], rows::account)?,
        (None, None) => all(db, FIRST, [wanted], rows::account)?,
    };
    Ok(page(rows, limit))
}

/// The first text after all that start with `prefix`; `None` when there is none. Texts are compared as bytes, which for UTF-8
/// is the order of code points.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

pub(crate) fn clients(db: &Connection, cursor: Option<ClientId>, limit: u32) -> Result<Page<Client>, Fault> {
    const SQL: &str =
        concat!("SELECT ", client_columns!(), " FROM clients c WHERE ?1 IS NULL OR c.id > ?1 ORDER BY c.id LIMIT ?2");
    let rows = all(db, SQL, params![cursor.map(Id::blob), i64::from(limit) + 1], rows::client)?;
    Ok(page(rows, limit))
}

pub(crate) fn instances(db: &Connection) -> Result<Vec<Instance>, Fault> {
    const SQL: &str = concat!("SELECT ", instance_columns!(), " FROM instances i ORDER BY i.id");
    all(db, SQL, [], rows::instance)
}

pub(crate) fn keys(db: &Connection) -> Result<Vec<Key>, Fault> {
    const SQL: &str = concat!("SELECT ", key_columns!(), " FROM keys k ORDER BY k.id");
    all(db, SQL, [], rows::key)
}

pub(crate) fn bound(db: &Connection) -> Result<Option<BoundRow>, Fault> {
    Ok(meta(db)?.bound)
}

pub(crate) fn run(db: &Connection) -> Result<Option<RunId>, Fault> {
    one(db, "SELECT run FROM meta WHERE one = 1", [], |cells| cells.id_if()).map(Option::flatten)
}

pub(crate) fn events(
    db: &Connection,
    filter: &EventFilter,
    cursor: Option<EventId>,
    limit: u32,
) -> Result<Page<EventRow>, Fault> {
    // One statement for each way in, so that each has its index; the rest only filters.
    macro_rules! way {
        ($first:literal, $order:literal) => {
            concat!(
                "SELECT ",
                event_columns!(),
                " FROM events e WHERE ",
                $first,
                "e.seq < ?1 AND (?2 IS NULL OR e.kind = ?2) AND (NOT ?5 OR e.rev IS NOT NULL) \
                 AND (?6 IS NULL OR e.session = ?6) AND (?7 IS NULL OR e.client = ?7) \
                 AND (?8 IS NULL OR e.actor = ?8) AND (?9 IS NULL OR e.at >= ?9) AND (?10 IS NULL OR e.at < ?10) \
                 AND (?4 IS NULL OR e.account = ?4) AND (?11 IS NULL OR e.rev = ?11) ORDER BY ",
                $order,
                " LIMIT ?3"
            )
        };
    }
    const ALL: &str = way!("", "e.seq DESC");
    const OF_ACCOUNT: &str = way!("e.account = ?4 AND ", "e.seq DESC");
    // Records get their rev in commit order, so that order by rev, then by seq, is order by seq.
    const WITH_REV: &str = way!("e.rev > 0 AND ", "e.rev DESC, e.seq DESC");
    const OF_REV: &str = way!("e.rev = ?11 AND ", "e.rev DESC, e.seq DESC");
    const SEQ: &str = "SELECT e.seq FROM events e WHERE e.id = ?1";
    let before = match cursor {
        None => i64::MAX,
        Some(cursor) => match one(db, SEQ, [cursor.blob()], |cells| cells.get())? {
            Some(seq) => seq,
            None => return Ok(Page { rows: Vec::new(), more: false }),
        },
    };
    let EventFilter { account, kind, revocations, session, client, actor, from, until, rev } = filter;
    let sql = match (account, rev, revocations) {
        (Some(_), ..) => OF_ACCOUNT,
        (None, Some(_), _) => OF_REV,
        (None, None, true) => WITH_REV,
        (None, None, false) => ALL,
    };
    let params = params![
        before,
        kind.as_deref(),
        i64::from(limit) + 1,
        account.map(Id::blob),
        revocations,
        session.map(Id::blob),
        client.map(Id::blob),
        actor.as_deref(),
        from.map(|from| from.0),
        until.map(|until| until.0),
        // A rev that no log of ours reaches is no record's.
        rev.map(|rev| i64::try_from(rev.0).unwrap_or(-1)),
    ];
    let rows = all(db, sql, params, rows::event)?;
    Ok(page(rows, limit))
}

pub(crate) fn revocation(db: &Connection, at: Rev) -> Result<Option<EventRow>, Fault> {
    const SQL: &str = concat!("SELECT ", event_columns!(), " FROM events e WHERE e.rev = ?1 ORDER BY e.seq LIMIT 1");
    one(db, SQL, [rev(at)], rows::event)
}

pub(crate) fn live_count(db: &Connection, now: Time) -> Result<LiveCount, Fault> {
    const SQL: &str = "SELECT count(*), count(DISTINCT s.account) FROM meta m CROSS JOIN sessions s CROSS JOIN accounts a ON a.id = s.account \
         WHERE m.one = 1 AND s.ended_rev IS NULL AND s.absolute_expires_at > ?1 \
         AND (s.born >= a.cut_rev OR s.id IS a.cut_except) AND (s.born >= m.cut_rev OR s.id IS m.cut_except)";
    if meta(db)?.standing > 0 {
        return jobs::count_matching(db, &mass::Filter::default(), None, now);
    }
    let count = one(db, SQL, [now.0], |cells| Ok(LiveCount { sessions: cells.u64()?, accounts: cells.u64()? }))?;
    Ok(count.unwrap_or_default())
}

pub(crate) fn log(db: &Connection, after: Rev, limit: u32, now: Time) -> Result<LogRead, Fault> {
    const SQL: &str = concat!("SELECT ", entry_columns!(), " FROM log l WHERE l.rev > ?1 ORDER BY l.rev LIMIT ?2");
    snapshot(db, |db| {
        let meta = meta(db)?;
        // A position that no log of ours reaches has nothing after it.
        let entries = match i64::try_from(after.0) {
            Ok(_) if after < meta.head => all(db, SQL, params![rev(after), limit], rows::entry)?,
            _ => Vec::new(),
        };
        Ok(LogRead { stamp: meta.stamp(now), entries, complete: meta.forgotten <= after })
    })
}

pub(crate) fn live(db: &Connection, now: Time) -> Result<(Stamp, Vec<Entry>), Fault> {
    const SQL: &str = concat!("SELECT ", entry_columns!(), " FROM log l ORDER BY l.rev");
    snapshot(db, |db| Ok((stamp(db, now)?, all(db, SQL, [], rows::entry)?)))
}

pub(crate) fn remembered(db: &Connection, actor: &str, key: &str) -> Result<Option<Remembered>, Fault> {
    const SQL: &str =
        "SELECT r.request, r.rev, r.ended, r.made, r.at FROM remembered r WHERE r.actor = ?1 AND r.key = ?2";
    one(db, SQL, [actor, key], rows::remembered)
}

/// A view by one statement, which also tells how many rules stand. Nearly always none; else the view is read again together
/// with the rules, on one snapshot.
pub(crate) fn with_rules<T>(
    db: &Connection,
    read: impl Fn(&Connection, &mass::Rules) -> Result<Option<(T, u32)>, Fault>,
) -> Result<Option<T>, Fault> {
    match read(db, &None)? {
        Some((view, 0)) => Ok(Some(view)),
        None => Ok(None),
        Some(_) if !db.is_autocommit() => {
            let rules = jobs::rules(db)?; // the caller's transaction is the snapshot
            Ok(read(db, &rules)?.map(|(view, _)| view))
        }
        Some(_) => snapshot(db, |db| {
            let rules = jobs::rules(db)?;
            Ok(read(db, &rules)?.map(|(view, _)| view))
        }),
    }
}

/// Several statements on one snapshot.
pub(crate) fn snapshot<T>(db: &Connection, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
    let transaction = db.unchecked_transaction()?;
    let out = read(&transaction)?;
    transaction.finish()?;
    Ok(out)
}

fn page<T>(mut rows: Vec<T>, limit: u32) -> Page<T> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Page { rows, more }
}

/// The account of an id, for the writer.
pub(crate) fn account_row(db: &Connection, account: AccountId) -> Result<Option<Account>, Fault> {
    const SQL: &str = concat!("SELECT ", account_columns!(), " FROM accounts a WHERE a.id = ?1");
    one(db, SQL, [account.blob()], rows::account)
}

/// The cut of a client that is not switched off, for the writer.
pub(crate) fn client_cut(db: &Connection, client: ClientId) -> Result<Option<Cut>, Fault> {
    const SQL: &str = "SELECT c.id, c.cut_rev, c.cut_except FROM clients c WHERE c.id = ?1 AND NOT c.disabled";
    one(db, SQL, [client.blob()], |cells| {
        cells.table("clients").id::<ClientId>()?;
        cells.cut()
    })
}

/// Whether somebody has this address.
pub(crate) fn email_taken(db: &Connection, email: &str) -> Result<bool, Fault> {
    any(db, "SELECT 1 FROM accounts WHERE email = ?1", [email])
}

/// Where a family stands: counter and predecessor.
pub(crate) fn family_position(db: &Connection, grant: GrantId) -> Result<Option<(u64, Option<u64>)>, Fault> {
    const SQL: &str = "SELECT g.id, g.counter, g.predecessor FROM grants g WHERE g.id = ?1";
    one(db, SQL, [grant.blob()], |cells| {
        cells.table("grants").id::<GrantId>()?;
        Ok((cells.u64()?, cells.u64_if()?))
    })
}

/// How many ends of single sessions of an account stand in the log and are not forgotten.
pub(crate) fn unforgotten_ends(db: &Connection, meta: &Meta, account: AccountId) -> Result<u64, Fault> {
    const SQL: &str = "SELECT count(*) FROM sessions WHERE account = ?1 AND ended_rev > ?2";
    let params = params![account.blob(), Int(meta.forgotten.0)];
    Ok(one(db, SQL, params, |cells| cells.u64())?.unwrap_or_default())
}

/// How many entries about grants and tokens of an account stand in the log.
pub(crate) fn entries_of(db: &Connection, account: AccountId) -> Result<u64, Fault> {
    const SQL: &str = "SELECT count(*) FROM log WHERE owner = ?1";
    Ok(one(db, SQL, [account.blob()], |cells| cells.u64())?.unwrap_or_default())
}

/// The sessions of `account` that were not ended, each with the latest use of a refresh token under it: for the writer, which
/// knows what of them lives.
pub(crate) fn unended_sessions(db: &Connection, account: AccountId) -> Result<Vec<(Session, Option<Time>)>, Fault> {
    const SQL: &str = concat!(
        "SELECT ",
        session_columns!(),
        ", ",
        refreshed_at!(),
        " FROM sessions s WHERE s.account = ?1 AND s.ended_rev IS NULL"
    );
    all(db, SQL, [account.blob()], |cells| Ok((rows::session(cells)?, cells.time_if()?)))
}

/// How many live sessions of `account` an end of it ends, by the rule of `Expect::Alive`; the account itself is usable.
pub(crate) fn dying_sessions(
    db: &Connection,
    meta: &Meta,
    account: &Account,
    except: Option<SessionId>,
    idle_ttl: Option<i64>,
    now: Time,
) -> Result<u64, Fault> {
    const SQL: &str = concat!(
        "SELECT count(*) FROM sessions s WHERE s.account = ?1 AND s.ended_rev IS NULL AND s.epoch = ?2 \
         AND s.absolute_expires_at > ?3 AND s.id IS NOT ?4 \
         AND (s.born >= ?5 OR s.id IS ?6) AND (s.born >= ?7 OR s.id IS ?8) \
         AND (?9 IS NULL OR max(s.last_seen_at, coalesce(",
        refreshed_at!(),
        ", s.last_seen_at)) > ?3 - ?9)"
    );
    let (own, all) = (account.cut, meta.all);
    let params = params![
        account.id.blob(),
        meta.epoch.0,
        now.0,
        except.map(Id::blob),
        Int(own.rev.0),
        own.except.map(Id::blob),
        Int(all.rev.0),
        all.except.map(Id::blob),
        idle_ttl
    ];
    Ok(one(db, SQL, params, |cells| cells.u64())?.unwrap_or_default())
}
