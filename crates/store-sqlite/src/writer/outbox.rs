//! Notices that an end leaves, and messages.
use super::apply::run;
use super::check::holds;
use super::{Act, Stop};
use crate::cells::{Id, Int, any, rev};
use portcullis_domain::Cut;
use portcullis_domain::changes::{Conflict, Revoke};
use portcullis_domain::outbox::{self, Message, NoticeStep};
use portcullis_wire::{ClientId, Rev, SessionId, Target, Time};
use rusqlite::params;

/// Leaves a notice of what an entry ends, where others are told of it; called before anything of that is written.
pub(super) fn leave_notice(act: &Act<'_>, what: &Revoke, end: Rev) -> Result<(), Stop> {
    const GRANT: &str = "INSERT INTO notices (scope, target, session, rev, before_rev, at) \
         SELECT 'grant', g.id, g.session, ?2, 0, ?3 FROM grants g WHERE g.id = ?1";
    const ACCOUNT: &str = "INSERT INTO notices (scope, target, except_id, rev, before_rev, before_except, at) \
         SELECT 'account', a.id, ?2, ?3, a.cut_rev, a.cut_except, ?4 FROM accounts a WHERE a.id = ?1";
    const CLIENT: &str = "INSERT INTO notices (scope, target, rev, before_rev, at) VALUES ('client', ?1, ?2, 0, ?3)";
    const ALL: &str = "INSERT INTO notices (scope, except_id, rev, before_rev, before_except, at) \
         VALUES ('all', ?1, ?2, ?3, ?4, ?5)";
    if !outbox::is_told(what) {
        return Ok(());
    }
    let (except, at) = (what.except.map(Id::blob), act.now.0);
    match what.target {
        Target::Session(id) => return leave_notice_of_session(act, id, end),
        Target::Grant(id) => run(act, GRANT, params![id.blob(), rev(end), at])?,
        Target::Account(id) => run(act, ACCOUNT, params![id.blob(), except, rev(end), at])?,
        Target::Client(id) => run(act, CLIENT, params![id.blob(), rev(end), at])?,
        Target::All => {
            let Cut { rev: before, except: spared } = act.meta.all;
            run(act, ALL, params![except, rev(end), rev(before), spared.map(Id::blob), at])?
        }
        _ => 0,
    };
    Ok(())
}

/// The same of one session: when another client than the built-in one has a grant under it, or, where
/// somebody signed in to it, was allowed in it.
pub(super) fn leave_notice_of_session(act: &Act<'_>, session: SessionId, end: Rev) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO notices (scope, target, rev, before_rev, at) SELECT 'session', ?1, ?2, 0, ?3 \
         WHERE EXISTS (SELECT 1 FROM grants g WHERE g.session = ?1 AND g.client <> ?4) \
            OR EXISTS (SELECT 1 FROM sessions b CROSS JOIN sessions s INDEXED BY sessions_allowed_in \
                ON s.allowed_in = b.id AND s.account = b.account AND s.ended_rev IS NULL AND s.client IS NOT NULL \
                WHERE b.id = ?1 AND b.kind IN ('browser', 'app'))";
    run(act, SQL, params![session.blob(), rev(end), act.now.0, ClientId::FIRST_PARTY.blob()])?;
    Ok(())
}

pub(super) fn step_notice(act: &Act<'_>, step: &NoticeStep) -> Result<(), Stop> {
    let (seq, from) = (Int(step.seq), step.from.map(Id::blob));
    let changed = match step.to {
        Some(to) => {
            let sql = "UPDATE notices SET cursor = ?3 WHERE seq = ?1 AND cursor IS ?2";
            run(act, sql, params![seq, from, to.blob()])?
        }
        None => run(act, "DELETE FROM notices WHERE seq = ?1 AND cursor IS ?2", params![seq, from])?,
    };
    holds(changed == 1, Conflict::Moved)
}

pub(super) fn insert_message(act: &Act<'_>, row: &Message) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO messages (id, kind, client, body, created_at, next_at, give_up_at, tries, state, \
         settled_at, last_error, version) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
         ON CONFLICT (id) DO NOTHING";
    let params = params![
        row.id.blob(),
        row.kind.as_str(),
        row.client.map(Id::blob),
        row.body,
        row.created_at.0,
        row.next_at.0,
        row.give_up_at.0,
        row.tries,
        row.state.as_str(),
        row.settled_at.map(|at| at.0),
        row.last_error,
        row.version,
    ];
    holds(run(act, SQL, params)? == 1, Conflict::Moved)
}

pub(super) fn update_message(act: &Act<'_>, row: &Message) -> Result<(), Stop> {
    const SQL: &str = "UPDATE messages SET next_at = ?3, give_up_at = ?4, tries = ?5, state = ?6, settled_at = ?7, \
         last_error = ?8, body = ?9, version = version + 1 WHERE id = ?1 AND version = ?2";
    let params = params![
        row.id.blob(),
        row.version,
        row.next_at.0,
        row.give_up_at.0,
        row.tries,
        row.state.as_str(),
        row.settled_at.map(|at| at.0),
        row.last_error,
        row.body,
    ];
    if run(act, SQL, params)? == 1 {
        return Ok(());
    }
    let there = any(act.db, "SELECT 1 FROM messages WHERE id = ?1", [row.id.blob()])?;
    Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
}

/// Those first that were settled first.
pub(super) fn prune_messages(act: &mut Act<'_>, done: Time, dead: Time, most: u64) -> Result<(), Stop> {
    const SQL: &str = "DELETE FROM messages WHERE id IN (SELECT m.id FROM messages m WHERE m.state <> 'waiting' \
         AND ((m.state = 'done' AND m.settled_at < ?1) OR (m.state = 'dead' AND m.settled_at < ?2)) \
         ORDER BY m.settled_at, m.id LIMIT ?3)";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    act.pruned += run(act, SQL, params![done.0, dead.0, most])? as u64;
    Ok(())
}
