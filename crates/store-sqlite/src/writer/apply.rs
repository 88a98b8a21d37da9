//! What each change writes.
use super::check::{holds, session_with_account};
use super::{Act, Stop, apps, audit, follow, insert, jobs, outbox, upstream};
use crate::cells::{Fault, Id, Int, any, rev, roles};
use crate::{attempts, prune, reads};
use portcullis_domain::Cut;
use portcullis_domain::changes::{BoundRow, Change, Conflict, Revoke};
use portcullis_domain::family::Family;
use portcullis_domain::kernel;
use portcullis_domain::model::{Instance, OldCookie, Status};
use portcullis_domain::proof::Proof;
use portcullis_domain::ticket::Used;
use portcullis_wire::{
    AccountId, Digest, Entry, Epoch, GrantId, KeyId, Rev, SecretBytes, SessionId, Target, Time, Verb,
};
use rusqlite::{Params, params};

pub(super) fn apply(act: &mut Act<'_>, step: &Change) -> Result<(), Stop> {
    match step {
        Change::SetFamily { grant, counter, predecessor, family } => {
            set_family(act, *grant, *counter, *predecessor, family)
        }
        Change::HandOut { grant, counter, at } => hand_out(act, *grant, *counter, *at),
        Change::InsertAccount(row) => insert::account(act, row),
        Change::SetStatus { account, status } => set_status(act, *account, status),
        Change::SetProfile { account, name, roles: list } => must_change(
            act,
            "UPDATE accounts SET name = ?2, roles = ?3, version = version + 1 WHERE id = ?1",
            params![account.blob(), name, roles(list)],
        ),
        Change::SetUnused { account, unused } => {
            must_change(act, "UPDATE accounts SET unused = ?2 WHERE id = ?1", params![account.blob(), unused])
        }
        Change::SetPassword { account, hash, rehash } => must_change(
            act,
            "UPDATE accounts SET password_hash = ?2, version = version + 1, \
             password_version = password_version + ?3 WHERE id = ?1",
            params![account.blob(), hash, !rehash],
        ),
        Change::SetEmail { account, email, verified_at } => {
            insert::email(act, *account, email.as_deref(), *verified_at)
        }
        Change::InsertSession(row) => insert::session(act, row),
        Change::RenameSession { session, device_name } => {
            must_change(act, "UPDATE sessions SET device_name = ?2 WHERE id = ?1", params![session.blob(), device_name])
        }
        Change::InsertGrant(row) => insert::grant(act, row),
        Change::Revoke(what) => revoke(act, what),
        Change::Seen(sessions) => seen(act, sessions),
        Change::RaiseHorizon(to) => {
            act.meta.horizon = act.meta.horizon.max(*to);
            Ok(())
        }
        Change::RaiseFloor(to) => raise_floor(act, *to),
        Change::InsertClient(row) => insert::client(act, row),
        Change::SetClientDisabled { client, disabled } => {
            must_change(act, "UPDATE clients SET disabled = ?2 WHERE id = ?1", params![client.blob(), disabled])
        }
        Change::InsertInstance(row) => insert::instance(act, row),
        Change::UpdateInstance(row) => update_instance(act, row),
        Change::RemoveInstances(ids) => {
            for id in ids {
                run(act, "DELETE FROM instances WHERE id = ?1", [id.blob()])?;
            }
            Ok(())
        }
        Change::Refound { epoch, base } => refound(act, *epoch, *base),
        Change::InsertJob(job) => jobs::insert(act, job),
        Change::StepJob(step) => jobs::step(act, step),
        Change::InsertKey(row) => insert::key(act, row),
        Change::SetKeyTimes { key, active_from, retired_at } => set_key_times(act, *key, *active_from, *retired_at),
        Change::SetKeySealed { key, before, sealed } => set_key_sealed(act, *key, before, sealed),
        Change::SetBound(row) => set_bound(act, row),
        Change::SetRun(id) => must_change(act, "UPDATE meta SET run = ?1 WHERE one = 1", params![id.blob()]),
        Change::ForgetJobs(before) => {
            run(act, "DELETE FROM jobs WHERE finished_at < ?1", [before.0])?;
            Ok(())
        }
        Change::ForgetIdempotency(before) => {
            run(act, "DELETE FROM remembered WHERE at < ?1", [before.0])?;
            Ok(())
        }
        Change::TakeAttempt(attempt) => {
            act.attempt = Some(attempts::take(act.db, attempt, act.now)?);
            Ok(())
        }
        Change::GiveBack { attempt, verdict } => Ok(attempts::give_back(act.db, attempt, *verdict, act.now)?),
        Change::KnowNetwork { account, network } => Ok(attempts::know(act.db, *account, *network, act.now)?),
        Change::PruneAttempts { keep, most } => Ok(attempts::prune(act.db, *keep, *most, act.now)?),
        Change::PruneSessions { sessions, keep } => {
            act.pruned += prune::sessions(act.db, &act.meta, sessions, keep, act.now)?;
            Ok(())
        }
        Change::ForgetSessionAddresses { sessions, keep } => {
            act.pruned += prune::session_addresses(act.db, sessions, keep, act.now)?;
            Ok(())
        }
        Change::UpdateClient(row) => apps::update_client(act, row),
        Change::PutConsent(row) => apps::put_consent(act, row),
        Change::WithdrawConsent { account, client, generation } => {
            apps::withdraw_consent(act, *account, *client, *generation)
        }
        Change::SetAuthTime { session, at, amr } => must_change(
            act,
            "UPDATE sessions SET auth_time = ?2, amr = ?3 WHERE id = ?1",
            params![session.blob(), at.0, amr.kept()],
        ),
        Change::Unprove { session, grant } => unprove(act, *session, *grant),
        Change::SetCookie { session, before, cookie, old } => set_cookie(act, *session, *before, *cookie, old.as_ref()),
        Change::PutMemory { account, version, memory } => put_memory(act, *account, *version, memory),
        Change::SetNetwork { grant, network } => {
            must_change(act, "UPDATE grants SET network = ?2 WHERE id = ?1", params![grant.blob(), network])
        }
        Change::Draw { bucket, budget } => holds(attempts::draw(act.db, *bucket, *budget, act.now)?, Conflict::Moved),
        Change::CrowdOutTickets { session, kind, open, used } => {
            act.pruned += prune::crowded_out(act.db, *session, *kind, *open, *used)?;
            Ok(())
        }
        Change::PruneClients { clients, unused } => {
            act.pruned += prune::clients(act.db, clients, *unused, act.now)?;
            Ok(())
        }
        Change::PruneGrants { most } => {
            act.pruned += prune::grants(act.db, &act.meta, *most)?;
            Ok(())
        }
        Change::InsertTicket(row) => apps::insert_ticket(act, row),
        Change::UpdateTicket(row) => apps::update_ticket(act, row),
        Change::UseTicket { ticket, at, grant } => apps::use_ticket(act, *ticket, Used { at: *at, grant: *grant }),
        Change::InsertMessage(row) => outbox::insert_message(act, row),
        Change::UpdateMessage(row) => outbox::update_message(act, row),
        Change::StepNotice(step) => outbox::step_notice(act, step),
        Change::PruneMessages { done, dead, most } => outbox::prune_messages(act, *done, *dead, *most),
        Change::InsertLink(row) => upstream::insert_link(act, row),
        Change::UseLink { link, begun, at } => upstream::use_link(act, *link, *begun, *at),
        Change::SignOutLink { issuer, subject, at } => upstream::sign_out_link(act, issuer, subject, *at),
        Change::RemoveLink { account, link } => upstream::remove_link(act, *account, *link),
        Change::InsertOrigin(row) => upstream::insert_origin(act, row),
        Change::StepFollower(step) => follow::step(act, step),
        Change::InsertWebhook(row) => follow::insert_webhook(act, row),
        Change::UpdateWebhook(row) => follow::update_webhook(act, row),
        Change::RemoveWebhook(id) => follow::remove_webhook(act, *id),
        Change::PruneTickets { before, most } => {
            act.pruned += prune::tickets(act.db, *before, *most)?;
            Ok(())
        }
        Change::BeginChain(row) => audit::begin(act, row),
        Change::Seal(what) => audit::seal(act, what),
        Change::BeginAnew(what) => audit::begin_anew(act, what),
        Change::Attest { key, attested } => audit::attest(act, key, attested),
        Change::PruneChain(what) => audit::prune(act, what),
        Change::SetChainKey { before, sealed } => audit::set_key(act, before, sealed),
        Change::ForgetEventAddresses { .. } | Change::EraseRecords { .. } => Ok(()), // see `prune_events`
    }
}

/// Old audit records go when everything else of the changes is written.
pub(super) fn prune_events(act: &mut Act<'_>, steps: &[Change]) -> Result<(), Stop> {
    for step in steps {
        act.pruned += match step {
            Change::ForgetEventAddresses { before, most } => prune::event_addresses(act.db, *before, *most)?,
            Change::EraseRecords { most } => prune::erase_records(act.db, *most)?,
            _ => 0,
        };
    }
    Ok(())
}

/// Runs a statement; how many rows it changed.
pub(super) fn run(act: &Act<'_>, sql: &str, params: impl Params) -> Result<usize, Stop> {
    Ok(act.db.prepare_cached(sql)?.execute(params)?)
}

/// Runs a statement that must change one row, which is missing otherwise.
fn must_change(act: &Act<'_>, sql: &str, params: impl Params) -> Result<(), Stop> {
    holds(run(act, sql, params)? == 1, Conflict::Missing)
}

fn set_cookie(
    act: &Act<'_>,
    session: SessionId,
    before: Digest,
    cookie: Digest,
    old: Option<&OldCookie>,
) -> Result<(), Stop> {
    const SQL: &str = "UPDATE sessions SET cookie = ?3, old_cookie = ?4, old_auth_time = ?5, old_until = ?6, old_amr = ?7 \
         WHERE id = ?1 AND cookie = ?2";
    let params = params![
        session.blob(),
        before.0,
        cookie.0,
        old.map(|old| old.digest.0),
        old.map(|old| old.proof.at.0),
        old.map(|old| old.until.0),
        old.and_then(|old| old.proof.amr.told()),
    ];
    if run(act, SQL, params)? == 1 {
        return Ok(());
    }
    let there = any(act.db, super::check::SESSION, [session.blob()])?;
    Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
}

/// As [`Proof::unknown`] is kept: of a session and a grant with no methods, of a cookie before with none that are known.
fn unprove(act: &Act<'_>, session: SessionId, grant: Option<GrantId>) -> Result<(), Stop> {
    const SESSION: &str = "UPDATE sessions SET auth_time = ?2, amr = ?3, old_amr = NULL, \
         old_auth_time = CASE WHEN old_cookie IS NOT NULL THEN ?2 END WHERE id = ?1";
    const GRANT: &str = "UPDATE grants SET auth_time = ?2, amr = ?3 WHERE id = ?1";
    let Proof { at, amr } = Proof::unknown();
    must_change(act, SESSION, params![session.blob(), at.0, amr.kept()])?;
    match grant {
        Some(grant) => must_change(act, GRANT, params![grant.blob(), at.0, amr.kept()]),
        None => Ok(()),
    }
}

fn put_memory(act: &Act<'_>, account: AccountId, version: u32, memory: &str) -> Result<(), Stop> {
    const THERE: &str = "SELECT 1 FROM accounts WHERE id = ?1 AND status <> 'deleted'";
    const NEW: &str = "INSERT INTO risk_memories (account, memory, version) VALUES (?1, ?2, 1) ON CONFLICT DO NOTHING";
    const NEXT: &str =
        "UPDATE risk_memories SET memory = ?2, version = version + 1 WHERE account = ?1 AND version = ?3";
    holds(any(act.db, THERE, [account.blob()])?, Conflict::Missing)?;
    let changed = match version {
        0 => run(act, NEW, params![account.blob(), memory])?,
        _ => run(act, NEXT, params![account.blob(), memory, version])?,
    };
    holds(changed == 1, Conflict::Moved)
}

/// The hot path: one statement, which is also its own check.
fn set_family(
    act: &Act<'_>,
    grant: GrantId,
    counter: u64,
    predecessor: Option<u64>,
    family: &Family,
) -> Result<(), Stop> {
    const SQL: &str = "UPDATE grants SET secret = ?4, mac_key = ?5, epoch = ?6, counter = ?7, made_at = ?8, \
         handed_at = ?9, handouts = ?10, predecessor = ?11 \
         WHERE id = ?1 AND counter = ?2 AND predecessor IS ?3";
    let Family { secret, key, epoch, made_at, handed_at, handouts, .. } = family;
    let params = params![
        grant.blob(),
        Int(counter),
        predecessor.map(Int),
        secret,
        key.0,
        epoch.0,
        Int(family.counter),
        made_at.0,
        handed_at.0,
        handouts,
        family.predecessor.map(Int),
    ];
    if run(act, SQL, params)? == 1 { Ok(()) } else { moved_or_missing(act, grant) }
}

fn hand_out(act: &Act<'_>, grant: GrantId, counter: u64, at: Time) -> Result<(), Stop> {
    const SQL: &str = "UPDATE grants SET handed_at = max(handed_at, ?3), handouts = handouts + 1 \
         WHERE id = ?1 AND counter = ?2";
    let changed = run(act, SQL, params![grant.blob(), Int(counter), at.0])?;
    if changed == 1 { Ok(()) } else { moved_or_missing(act, grant) }
}

fn moved_or_missing(act: &Act<'_>, grant: GrantId) -> Result<(), Stop> {
    let there = any(act.db, "SELECT 1 FROM grants WHERE id = ?1", [grant.blob()])?;
    Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
}

fn set_status(act: &mut Act<'_>, account: AccountId, status: &Status) -> Result<(), Stop> {
    const SET: &str = "UPDATE accounts SET version = version + 1, status = ?2, status_reason = ?3, status_actor = ?4, \
         status_at = ?5, status_until = ?6, status_rev = NULL WHERE id = ?1";
    const DELETED: &str = "UPDATE accounts SET version = version + 1, status = 'deleted', status_reason = NULL, \
         status_actor = NULL, status_at = ?2, status_until = NULL, status_rev = ?3, email = NULL, name = NULL, \
         email_verified_at = NULL, password_hash = NULL, roles = '[]' WHERE id = ?1";
    const DELETING: &str = "UPDATE accounts SET version = version + 1, status = 'deleting', status_reason = NULL, \
         status_actor = NULL, status_at = ?2, status_until = ?3, status_rev = ?4 WHERE id = ?1";
    let id = account.blob();
    match status {
        Status::Active => {
            let none = None::<i64>;
            must_change(act, SET, params![id, "active", none, none, none, none])
        }
        Status::Blocked(block) => {
            let until = block.until.map(|until| until.0);
            must_change(act, SET, params![id, "blocked", block.reason, block.actor, block.at.0, until])
        }
        Status::Deleting { at, until, rev: end } => {
            act.deleted.push((account, Some(*until)));
            must_change(act, DELETING, params![id, at.0, until.0, rev(*end)])
        }
        Status::Deleted { at, rev: end } => {
            act.deleted.push((account, None));
            must_change(act, DELETED, params![id, at.0, rev(*end)])?;
            prune::addresses_of(act.db, account)?;
            prune::leave_erasure(act.db, account)?;
            Ok(prune::apps_of(act.db, account)?)
        }
    }
}

/// A deleted account keeps the rev of the end that went with it, wherever that stood among the steps.
pub(super) fn settle_deleted(act: &Act<'_>) -> Result<(), Stop> {
    let Some(end) = act.rev else { return Ok(()) };
    for (account, grace) in &act.deleted {
        // What a later step made of it is overwritten too: deleted it is, and stays.
        let sql = "UPDATE accounts SET status = ?4, status_reason = NULL, status_actor = NULL, status_at = ?2, \
             status_until = ?5, status_rev = ?3 WHERE id = ?1";
        let word = if grace.is_some() { "deleting" } else { "deleted" };
        run(act, sql, params![account.blob(), act.now.0, rev(end), word, grace.map(|until| until.0)])?;
    }
    Ok(())
}

fn seen(act: &Act<'_>, sessions: &[(SessionId, Time)]) -> Result<(), Stop> {
    for (session, at) in sessions {
        let sql = "UPDATE sessions SET last_seen_at = ?2 WHERE id = ?1 AND last_seen_at < ?2";
        run(act, sql, params![session.blob(), at.0])?;
    }
    Ok(())
}

/// Deletes entries whose `until` lies before the floor: a prefix, since `until` never falls along the log.
fn raise_floor(act: &mut Act<'_>, to: Time) -> Result<(), Stop> {
    act.meta.floor = act.meta.floor.max(to);
    let first_kept = "SELECT l.rev FROM log l WHERE l.until >= ?1 ORDER BY l.rev LIMIT 1";
    let kept = crate::cells::one(act.db, first_kept, [act.meta.floor.0], |cells| cells.rev())?;
    // The last of those to forget: the one before the first that stays, or all of them.
    let last = match kept {
        Some(kept) => Rev(kept.0.saturating_sub(1)),
        None => act.meta.head,
    };
    if last > act.meta.forgotten && run(act, "DELETE FROM log WHERE rev <= ?1", [rev(last)])? > 0 {
        act.meta.forgotten = last;
    }
    Ok(())
}

fn update_instance(act: &Act<'_>, row: &Instance) -> Result<(), Stop> {
    must_change(
        act,
        "UPDATE instances SET name = ?2, policy = ?3, bound_ms = ?4 WHERE id = ?1",
        params![row.id.blob(), row.name, row.policy, Int(row.bound_ms)],
    )
}

fn set_key_times(act: &Act<'_>, key: KeyId, active_from: Option<Time>, retired_at: Option<Time>) -> Result<(), Stop> {
    must_change(
        act,
        "UPDATE keys SET active_from = ?2, retired_at = ?3 WHERE id = ?1",
        params![key.0, active_from.map(|at| at.0), retired_at.map(|at| at.0)],
    )
}

fn set_key_sealed(act: &Act<'_>, key: KeyId, before: &SecretBytes, sealed: &SecretBytes) -> Result<(), Stop> {
    let sql = "UPDATE keys SET sealed = ?3 WHERE id = ?1 AND sealed = ?2";
    change_key(act, key, sql, params![key.0, before.expose(), sealed.expose()])
}

/// Runs a statement that changes one key, if it is as it should be.
fn change_key(act: &Act<'_>, key: KeyId, sql: &str, params: impl Params) -> Result<(), Stop> {
    if run(act, sql, params)? == 1 {
        return Ok(());
    }
    let there = any(act.db, "SELECT 1 FROM keys WHERE id = ?1", [key.0])?;
    Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
}

fn set_bound(act: &mut Act<'_>, row: &BoundRow) -> Result<(), Stop> {
    // The counter's row is written once, at the end of the transaction: what does not fit is refused here.
    for number in [row.current_ms, row.next_ms] {
        i64::try_from(number).map_err(|_| Fault::Row(format!("a bound of {number} ms cannot be kept")))?;
    }
    act.meta.bound = Some(*row);
    Ok(())
}

/// Appends one entry and writes its rev where it belongs. Rev, `until` and chain are computed from the counter's row as this
/// transaction has it; the one writer thread is the counter's lock.
fn revoke(act: &mut Act<'_>, what: &Revoke) -> Result<(), Stop> {
    let end = next_rev(act)?;
    outbox::leave_notice(act, what, end)?;
    let Revoke { verb, target, except, spread_ms, owner, reason } = what;
    let mut written = (verb.clone(), target.clone());
    let cut = Cut { rev: end, except: *except };
    let before = act.ended;
    act.ended = match (verb, target) {
        (Verb::End, Target::Session(session)) => {
            let (ended, owner) = end_session(act, *session, end, reason)?;
            let unforgotten = reads::unforgotten_ends(act.db, &act.meta, owner)?;
            written = kernel::entry_for_session(*session, owner, unforgotten);
            Some(ended)
        }
        (Verb::End, Target::Grant(grant)) => {
            must_change(act, "UPDATE grants SET ended_rev = ?2 WHERE id = ?1", params![grant.blob(), rev(end)])?;
            Some(0)
        }
        (Verb::End, Target::Account(account)) => Some(cut_account(act, *account, cut)?),
        (Verb::End, Target::Client(client)) => {
            let sql = "UPDATE clients SET cut_rev = ?2, cut_except = ?3 WHERE id = ?1";
            must_change(act, sql, params![client.blob(), rev(end), except.map(Id::blob)])?;
            None
        }
        (Verb::End, Target::All) => {
            act.meta.all = cut;
            None
        }
        (Verb::Key, Target::Key(key)) => {
            let sql = "UPDATE keys SET dead = ?2 WHERE id = ?1 AND dead IS NULL";
            change_key(act, *key, sql, params![key.0, rev(end)])?;
            Some(0)
        }
        _ => None,
    };
    let mut owner = owner.filter(|_| *verb == Verb::End);
    if let Some(account) = owner {
        written = kernel::entry_for(target.clone(), account, reads::entries_of(act.db, account)? + 1);
        owner = owner.filter(|_| written.0 == Verb::End);
    }
    // Several ends in one commit are counted together.
    act.ended = act.ended.map(|ended| ended + before.unwrap_or(0));
    let (verb, target) = written;
    let entry = Entry { rev: end, verb, target, except: *except, spread_ms: *spread_ms, until: act.meta.horizon };
    insert::entry(act, &entry, owner)?;
    (act.meta.head, act.meta.chain) = (end, act.meta.chain.after(&entry));
    act.rev = Some(end);
    Ok(())
}

/// A new epoch, after this position.
fn refound(act: &mut Act<'_>, epoch: Epoch, base: Rev) -> Result<(), Stop> {
    holds(epoch > act.meta.epoch && base > act.meta.head, Conflict::Moved)?;
    run(act, "DELETE FROM log", [])?;
    run(act, "DELETE FROM tickets", [])?;
    run(act, "UPDATE jobs SET finished_at = ?1 WHERE finished_at IS NULL", [act.now.0])?;
    act.meta.epoch = epoch;
    act.meta.standing = 0;
    (act.meta.head, act.meta.forgotten, act.meta.worked_off) = (base, base, base);
    Ok(())
}

pub(super) fn next_rev(act: &Act<'_>) -> Result<Rev, Stop> {
    let next = act.meta.head.next().filter(|next| i64::try_from(next.0).is_ok());
    Ok(next.ok_or_else(|| Fault::Row("the log is at the end of numbers".into()))?)
}

/// How many live sessions that ended (1, or 0 when a cut or time had done it already), and whose it was.
fn end_session(act: &Act<'_>, session: SessionId, end: Rev, reason: &str) -> Result<(u64, AccountId), Stop> {
    const SQL: &str = "UPDATE sessions SET ended_rev = ?2, ended_reason = ?3, ended_at = ?4 \
         WHERE id = ?1 AND ended_rev IS NULL";
    let found = session_with_account(act, session)?;
    let view = found.ok_or(Stop::Conflict(Conflict::Missing))?;
    let (account, alive) = (&view.account, act.alive(&view.session, &view.account, view.refreshed_at, &view.standing));
    if run(act, SQL, params![session.blob(), rev(end), reason, act.now.0])? == 1 {
        return Ok((u64::from(alive), account.id));
    }
    Err(Stop::Conflict(Conflict::Moved))
}

/// How many live sessions that ended, counted before the cut is written.
fn cut_account(act: &Act<'_>, account: AccountId, cut: Cut) -> Result<u64, Stop> {
    let row = reads::account_row(act.db, account)?.ok_or(Stop::Conflict(Conflict::Missing))?;
    let ended = if row.usable_at(act.now) {
        let all = reads::dying_sessions(act.db, &act.meta, &row, cut.except, act.idle_ttl, act.now)?;
        all - jobs::dying_by_rules(act, &row, cut.except)?
    } else {
        0
    };
    // `Cut::whole`: what stands on the right is what was there before.
    let sql = "UPDATE accounts SET cut_rev = ?2, cut_except = ?3, cut_whole = CASE WHEN ?3 IS NULL THEN cut_whole \
         WHEN cut_except IS NULL THEN cut_rev ELSE coalesce(cut_whole, cut_rev) END WHERE id = ?1";
    must_change(act, sql, params![account.blob(), rev(cut.rev), cut.except.map(Id::blob)])?;
    Ok(ended)
}
