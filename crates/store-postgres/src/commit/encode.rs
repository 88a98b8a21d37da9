//! Decisions as `commit_group` reads them: JSON, ids and secrets in hexadecimal, times and numbers as numbers.
mod apps;
mod follow;
mod outbox;
mod upstream;

use super::hex;
use crate::cells::{Id, escaped};
use crate::jobs::filter_columns;
use portcullis_domain::changes::{Change, Expect, Idempotency, Revoke};
use portcullis_domain::event::NewEvent;
use portcullis_domain::family::Family;
use portcullis_domain::kernel::{Door, MAX_ENDS_PER_ACCOUNT};
use portcullis_domain::mass::{Job, JobStep};
use portcullis_domain::model::{Account, Client, Grant, Instance, Key, Session, Status};
use portcullis_domain::proof::Proof;
use portcullis_domain::retention::Retention;
use portcullis_domain::throttle::{self, Attempt, Budget, Verdict};
use portcullis_store::StoreError;
use portcullis_wire::{Rev, Target, Verb};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What cannot be kept.
pub(super) type Encoded = Result<Value, StoreError>;

/// PostgreSQL's integers are signed: what does not fit is an error, never a negative number.
fn int(number: u64) -> Encoded {
    let fits = i64::try_from(number);
    fits.map(Value::from).map_err(|_| StoreError::new(format_args!("the number {number} cannot be kept")))
}

/// A limit: beyond what there can be it is none.
fn limit(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn rev(rev: Rev) -> Encoded {
    int(rev.0)
}

fn maybe<T>(value: Option<T>, encode: impl FnOnce(T) -> Encoded) -> Encoded {
    value.map_or(Ok(Value::Null), encode)
}

fn id(id: impl Id) -> Value {
    hex(&id.blob()).into()
}

fn id_if(given: Option<impl Id>) -> Value {
    given.map_or(Value::Null, id)
}

fn ids(list: &[impl Id]) -> Value {
    list.iter().map(|one| id(*one)).collect()
}

fn text(text: &str) -> Value {
    escaped(text).into()
}

fn text_if(given: Option<&String>) -> Value {
    given.map_or(Value::Null, |given| text(given))
}

fn texts(list: &[String]) -> Value {
    list.iter().map(|one| text(one)).collect()
}

/// A word that the chain is computed over in the database, where it must stand as it is.
fn word(text: &str) -> Encoded {
    if escaped(text) == text { Ok(text.into()) } else { Err(StoreError::new("a NUL in an entry cannot be kept")) }
}

pub(super) fn expect(what: &Expect) -> Encoded {
    Ok(match what {
        Expect::Alive { session, role } => json!({"is": "alive", "id": id(*session), "role": role}),
        Expect::Unborn { account, client, born, under } => json!({
            "is": "unborn", "id": id(*account), "client": id(*client), "born": rev(*born)?, "under": id_if(*under),
        }),
        Expect::Unended { account, born } => json!({"is": "unended", "id": id(*account), "born": rev(*born)?}),
        Expect::WebhooksBelow(below) => json!({"is": "webhooks_below", "limit": below}),
        Expect::AccountVersion { account, version } => {
            json!({"is": "account_version", "id": id(*account), "version": version})
        }
        Expect::PasswordVersion { account, version } => {
            json!({"is": "password_version", "id": id(*account), "version": version})
        }
        Expect::Family { grant, counter, predecessor } => json!({
            "is": "family", "id": id(*grant), "counter": int(*counter)?, "predecessor": maybe(*predecessor, int)?,
        }),
        Expect::Handouts { grant, handouts } => json!({"is": "handouts", "id": id(*grant), "handouts": handouts}),
        Expect::GrantNotEnded(grant) => json!({"is": "grant_not_ended", "id": id(*grant)}),
        Expect::SessionNotEnded(session) => json!({"is": "session_not_ended", "id": id(*session)}),
        Expect::LiveSessions { account, counted, besides, at_most } => json!({
            "is": "live_sessions", "id": id(*account), "besides": ids(besides), "at_most": limit(*at_most),
            "kinds": counted.kinds().map(|kinds| kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()),
        }),
        Expect::EmailFree(email) => json!({"is": "email_free", "email": text(email)}),
        Expect::StandingBelow(below) => json!({"is": "standing_below", "limit": below}),
        Expect::NoAccounts => json!({"is": "no_accounts"}),
        Expect::ClientVersion { client, version } => {
            json!({"is": "client_version", "id": id(*client), "version": version})
        }
        Expect::Consent { account, client, generation } => {
            json!({"is": "consent", "id": id(*account), "client": id(*client), "generation": generation})
        }
        Expect::NoOtherGrants { account, client, besides } => json!({
            "is": "no_other_grants", "id": id(*account), "client": id(*client), "besides": ids(besides),
        }),
    })
}

pub(super) fn step(what: &Change) -> Encoded {
    Ok(match what {
        Change::SetFamily { grant, counter, predecessor, family: new } => merged(
            json!({"do": "set_family", "id": id(*grant), "counter": int(*counter)?,
                "predecessor": maybe(*predecessor, int)?}),
            family(new)?,
        ),
        Change::HandOut { grant, counter, at } => {
            json!({"do": "hand_out", "id": id(*grant), "counter": int(*counter)?, "at": at.0})
        }
        Change::InsertAccount(row) => account(row)?,
        Change::SetStatus { account, status: new } => {
            merged(json!({"do": "set_status", "id": id(*account)}), status(new)?)
        }
        Change::InsertSession(row) => session(row)?,
        Change::InsertGrant(row) => grant(row)?,
        Change::Revoke(what) => revoke(what)?,
        Change::InsertJob(row) => job(row)?,
        Change::StepJob(what) => job_step(what)?,
        Change::TakeAttempt(attempt) => take(attempt),
        other => match plain(other)? {
            Some(step) => merged(json!({"how": "plain"}), step),
            None => merged(json!({"how": "free"}), free(other)?),
        },
    })
}

/// Steps that write one row: `plain_step`.
fn plain(what: &Change) -> Result<Option<Value>, StoreError> {
    Ok(Some(match what {
        Change::SetProfile { account, name, roles } => json!({
            "do": "set_profile", "id": id(*account), "name": text_if(name.as_ref()), "roles": texts(roles),
        }),
        Change::SetPassword { account, hash, rehash } => {
            json!({"do": "set_password", "id": id(*account), "hash": text(hash), "rehash": rehash})
        }
        Change::SetEmail { account, email, verified_at } => json!({
            "do": "set_email", "id": id(*account), "email": text_if(email.as_ref()), "verified_at": verified_at.map(|at| at.0),
        }),
        Change::SetUnused { account, unused } => json!({"do": "set_unused", "id": id(*account), "unused": unused}),
        Change::RenameSession { session, device_name } => {
            json!({"do": "rename_session", "id": id(*session), "device_name": text(device_name)})
        }
        Change::SetClientDisabled { client, disabled } => {
            json!({"do": "set_client_disabled", "id": id(*client), "disabled": disabled})
        }
        Change::InsertClient(row) => client("insert_client", row)?,
        Change::UpdateClient(row) => client("update_client", row)?,
        Change::PutConsent(_)
        | Change::WithdrawConsent { .. }
        | Change::InsertTicket(_)
        | Change::UpdateTicket(_)
        | Change::UseTicket { .. } => apps::step(what)?,
        Change::InsertMessage(_) | Change::UpdateMessage(_) | Change::StepNotice(_) => outbox::step(what)?,
        Change::InsertLink(_)
        | Change::UseLink { .. }
        | Change::SignOutLink { .. }
        | Change::RemoveLink { .. }
        | Change::InsertOrigin(_) => upstream::step(what)?,
        Change::StepFollower(_) | Change::InsertWebhook(_) | Change::UpdateWebhook(_) | Change::RemoveWebhook(_) => {
            follow::step(what)?
        }
        Change::SetCookie { session, before, cookie, old } => json!({
            "do": "set_cookie", "id": id(*session), "before": hex(&before.0), "cookie": hex(&cookie.0),
            "old": old.as_ref().map(|old| hex(&old.digest.0)), "old_auth_time": old.as_ref().map(|old| old.proof.at.0),
            "old_amr": old.as_ref().and_then(|old| old.proof.amr.told()), "old_until": old.as_ref().map(|old| old.until.0),
        }),
        Change::SetAuthTime { session, at, amr } => {
            json!({"do": "set_auth_time", "id": id(*session), "at": at.0, "amr": amr.kept()})
        }
        // As `Proof::unknown` is kept: of a session and a grant with no methods, of a cookie before with none that are known.
        Change::Unprove { session, grant } => {
            let Proof { at, amr } = Proof::unknown();
            json!({
                "do": "unprove", "id": id(*session), "grant": grant.map(id), "at": at.0, "amr": amr.kept(),
                "old_amr": amr.told(),
            })
        }
        Change::PutMemory { account, version, memory } => {
            json!({"do": "put_memory", "id": id(*account), "version": version, "memory": text(memory)})
        }
        Change::SetNetwork { grant, network } => {
            json!({"do": "set_network", "id": id(*grant), "network": hex(network)})
        }
        Change::Draw { bucket, budget: Budget { burst, every } } => {
            json!({"do": "draw", "id": hex(&bucket.0), "every": every, "size": burst * every})
        }
        Change::InsertInstance(row) => merged(json!({"do": "insert_instance"}), instance(row)?),
        Change::UpdateInstance(row) => merged(json!({"do": "update_instance"}), instance(row)?),
        Change::InsertKey(row) => key(row)?,
        Change::SetKeyTimes { key, active_from, retired_at } => json!({
            "do": "set_key_times", "key": key.0, "active_from": active_from.map(|at| at.0),
            "retired_at": retired_at.map(|at| at.0),
        }),
        Change::SetKeySealed { key, before, sealed } => json!({
            "do": "set_key_sealed", "key": key.0, "before": hex(before.expose()), "sealed": hex(sealed.expose()),
        }),
        _ => return Ok(None),
    }))
}

/// Steps that write any number of rows: `free_step`.
fn free(what: &Change) -> Encoded {
    Ok(match what {
        Change::Seen(sessions) => {
            let seen: Value = sessions.iter().map(|(session, at)| json!([id(*session), at.0])).collect();
            json!({"do": "seen", "sessions": seen})
        }
        Change::RaiseHorizon(to) => json!({"do": "raise_horizon", "to": to.0}),
        Change::RaiseFloor(to) => json!({"do": "raise_floor", "to": to.0}),
        Change::RemoveInstances(gone) => json!({"do": "remove_instances", "ids": ids(gone)}),
        Change::SetBound(row) => json!({
            "do": "set_bound", "current_ms": int(row.current_ms)?, "next_ms": int(row.next_ms)?,
            "next_from": row.next_from.0,
        }),
        Change::ForgetJobs(before) => json!({"do": "forget_jobs", "before": before.0}),
        Change::ForgetIdempotency(before) => json!({"do": "forget_idempotency", "before": before.0}),
        Change::GiveBack { attempt, verdict } => give_back(attempt, *verdict),
        Change::KnowNetwork { account, network } => json!({
            "do": "know_network", "account": hex(&account.0), "network": hex(&network.0),
            "most": throttle::MAX_NETWORKS, "life": throttle::NETWORK_LIFE,
        }),
        Change::PruneAttempts { keep, most } => json!({
            "do": "prune_attempts", "keep": limit(*keep), "most": limit(*most), "life": throttle::NETWORK_LIFE,
        }),
        Change::PruneSessions { sessions, keep } => {
            json!({"do": "prune_sessions", "sessions": ids(sessions), "keep": retention(keep)})
        }
        Change::ForgetSessionAddresses { sessions, keep } => {
            json!({"do": "forget_session_addresses", "sessions": ids(sessions), "keep": retention(keep)})
        }
        Change::PruneMessages { done, dead, most } => {
            json!({"do": "prune_messages", "done": done.0, "dead": dead.0, "most": limit(*most)})
        }
        Change::CrowdOutTickets { session, kind, open, used } => json!({
            "do": "crowd_out_tickets", "session": id(*session), "kind": kind.as_str(), "open": open, "used": used,
        }),
        Change::PruneGrants { most } => json!({"do": "prune_grants", "most": limit(*most)}),
        Change::PruneClients { clients, unused } => {
            json!({"do": "prune_clients", "clients": ids(clients), "unused": unused})
        }
        Change::PruneTickets { before, most } => {
            json!({"do": "prune_tickets", "before": before.0, "most": limit(*most)})
        }
        Change::Refound { epoch, base } => json!({"do": "refound", "epoch": epoch.0, "base": rev(*base)?}),
        other => return Err(StoreError::new(format_args!("a change nobody applies: {other:?}"))),
    })
}

/// What is done when everything else of the changes is written.
pub(super) fn last(what: &Change) -> Option<Value> {
    match what {
        Change::ForgetEventAddresses { before, most } => {
            Some(json!({"do": "forget_event_addresses", "before": before.0, "most": limit(*most)}))
        }
        Change::EraseRecords { most } => Some(json!({"do": "erase_records", "most": limit(*most)})),
        _ => crate::audit::last(what),
    }
}

pub(super) fn event(row: &NewEvent) -> Value {
    json!({
        "id": id(row.id), "kind": row.kind.as_str(), "actor": text(&row.actor), "account": id_if(row.account),
        "session": id_if(row.session), "client": id_if(row.client), "ip": row.ip.map(|ip| ip.to_string()),
        "reason": text_if(row.reason.as_ref()),
    })
}

pub(super) fn idempotency(row: &Idempotency) -> Value {
    json!({
        "actor": text(&row.actor), "key": text(&row.key), "request": hex(&row.request.0),
        "made": text_if(row.made.as_ref()),
    })
}

/// Both objects' members.
fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

fn family(row: &Family) -> Encoded {
    Ok(json!({
        "secret": hex(&row.secret), "key": row.key.0, "epoch": row.epoch.0, "to": int(row.counter)?,
        "made_at": row.made_at.0, "handed_at": row.handed_at.0, "handouts": row.handouts,
        "to_predecessor": maybe(row.predecessor, int)?,
    }))
}

fn status(status: &Status) -> Encoded {
    Ok(match status {
        Status::Active => json!({"status": "active"}),
        Status::Blocked(block) => json!({
            "status": "blocked", "reason": text(&block.reason), "actor": text(&block.actor), "at": block.at.0,
            "until": block.until.map(|until| until.0),
        }),
        Status::Deleting { at, until, rev: end } => {
            json!({"status": "deleting", "at": at.0, "until": until.0, "rev": rev(*end)?})
        }
        Status::Deleted { at, rev: end } => json!({"status": "deleted", "at": at.0, "rev": rev(*end)?}),
    })
}

fn account(row: &Account) -> Encoded {
    let columns = json!({
        "do": "insert_account", "id": id(row.id), "email": text_if(row.email.as_ref()), "name": text_if(row.name.as_ref()),
        "password_hash": text_if(row.password_hash.as_ref()), "password_version": row.password_version,
        "roles": texts(&row.roles), "created_at": row.created_at.0, "cut_rev": rev(row.cut.rev)?,
        "cut_except": id_if(row.cut.except), "version": row.version,
        "email_verified_at": row.email_verified_at.map(|at| at.0),
    });
    Ok(merged(columns, status(&row.status)?))
}

fn session(row: &Session) -> Encoded {
    if row.old_cookie.is_some() {
        return Err(StoreError::new("a new session has no cookie before its own"));
    }
    let ended = row.ended.as_ref();
    Ok(json!({
        "do": "insert_session", "id": id(row.id), "account": id(row.account), "kind": row.kind.as_str(),
        "device_name": text(&row.device_name), "agent": text(&row.agent), "ip": row.ip.map(|ip| ip.to_string()),
        "net": row.ip.as_ref().map(IpAddr::to_canonical).map(|ip| ip.to_string()), "created_at": row.created_at.0,
        "auth_time": row.auth_time.0, "last_seen_at": row.last_seen_at.0,
        "absolute_expires_at": row.absolute_expires_at.0, "born": rev(row.born)?, "epoch": row.epoch.0,
        "cookie": row.cookie.map(|digest| hex(&digest.0)), "ended_rev": maybe(ended.map(|ended| ended.rev), rev)?,
        "ended_reason": text_if(ended.map(|ended| &ended.reason)), "ended_at": ended.map(|ended| ended.at.0),
        "client": id_if(row.client), "amr": row.amr.kept(), "allowed_in": id_if(row.allowed_in),
    }))
}

fn grant(row: &Grant) -> Encoded {
    let columns = json!({
        "do": "insert_grant", "id": id(row.id), "session": id(row.session), "client": id(row.client),
        "scope": text(&row.scope), "born": rev(row.born)?, "ended_rev": maybe(row.ended, rev)?,
        "audience": text_if(row.audience.as_ref()), "sender": row.sender.map(|digest| hex(&digest.0)),
        "agent": text_if(row.agent.as_ref()), "auth_time": row.proof.as_ref().map(|proof| proof.at.0),
        "amr": row.proof.as_ref().and_then(|proof| proof.amr.kept()),
        "network": row.network.map(|network| hex(&network)),
    });
    Ok(merged(columns, family(&row.family)?))
}

fn client(what: &str, row: &Client) -> Encoded {
    let profile = serde_json::to_string(&row.profile).map_err(StoreError::new)?;
    Ok(json!({
        "do": what, "id": id(row.id), "name": text(&row.name), "kind": row.kind.as_str(),
        "secret": row.secret.map(|digest| hex(&digest.0)), "disabled": row.disabled, "created_at": row.created_at.0,
        "cut_rev": rev(row.cut.rev)?, "cut_except": id_if(row.cut.except), "version": row.version,
        "old_secret": row.old_secret.map(|(digest, _)| hex(&digest.0)), "profile": text(&profile),
        "old_secret_until": row.old_secret.map(|(_, until)| until.0),
        // What a refresh asks of the profile, in milliseconds.
        "access_ttl": row.profile.access_ttl_s.map(|seconds| i64::from(seconds) * 1000),
    }))
}

fn instance(row: &Instance) -> Encoded {
    Ok(json!({
        "id": id(row.id), "client": id(row.client), "name": text(&row.name), "policy": text(&row.policy),
        "bound_ms": int(row.bound_ms)?, "secret": hex(&row.secret.0), "created_at": row.created_at.0,
    }))
}

fn key(row: &Key) -> Encoded {
    Ok(json!({
        "do": "insert_key", "key": row.id.0, "purpose": row.purpose.as_str(), "public_jwk": text(&row.public_jwk),
        "sealed": hex(row.sealed.expose()), "created_at": row.created_at.0,
        "active_from": row.active_from.map(|at| at.0), "retired_at": row.retired_at.map(|at| at.0),
        "dead": maybe(row.dead, rev)?,
    }))
}

/// With the table whose row it marks, and that row.
fn revoke(what: &Revoke) -> Encoded {
    let (row, marked) = match (&what.verb, &what.target) {
        (Verb::End, Target::Session(session)) => ("session", id(*session)),
        (Verb::End, Target::Grant(grant)) => ("grant", id(*grant)),
        (Verb::End, Target::Account(account)) => ("account", id(*account)),
        (Verb::End, Target::Client(client)) => ("client", id(*client)),
        (Verb::End, Target::All) => ("all", Value::Null),
        (Verb::Key, Target::Key(_)) => ("key", Value::Null),
        _ => ("none", Value::Null),
    };
    let key = match &what.target {
        Target::Key(key) => Some(key.0),
        _ => None,
    };
    Ok(json!({
        "do": "revoke", "row": row, "id": marked, "key": key, "verb": word(what.verb.name())?,
        "scope": word(what.target.scope())?, "target": word(&what.target.id())?, "except": id_if(what.except),
        "spread_ms": maybe(what.spread_ms, int)?, "reason": text(&what.reason), "most": MAX_ENDS_PER_ACCOUNT,
        "owner": id_if(what.owner), "told": portcullis_domain::outbox::is_told(what),
    }))
}

fn job(row: &Job) -> Encoded {
    let columns = json!({
        "do": "insert_job", "id": id(row.id), "except_id": id_if(row.rule.except), "now": row.now,
        "actor": text(&row.actor), "reason": text(&row.reason), "created_at": row.created_at.0,
        "finished_at": row.finished_at.map(|at| at.0), "cursor": id_if(row.cursor), "scanned": int(row.scanned)?,
        "ended": int(row.ended)?, "entries": int(row.entries)?, "silent": row.silent,
    });
    Ok(merged(columns, filter_columns(&row.rule.filter)))
}

fn job_step(what: &JobStep) -> Encoded {
    Ok(json!({
        "do": "step_job", "id": id(what.job), "from": id_if(what.from), "to": id_if(what.to), "sessions": ids(&what.sessions),
        "scanned": int(what.scanned)?, "silent": what.silent, "log": what.log, "reason": Door::Filter.as_str(),
        "most": MAX_ENDS_PER_ACCOUNT,
    }))
}

fn retention(keep: &Retention) -> Value {
    json!({"ended": keep.ended, "addresses": keep.addresses, "idle_ttl": keep.idle_ttl})
}

fn buckets(attempt: &Attempt) -> [Value; 3] {
    let (budgets, keys) = (attempt.budgets(), attempt.keys());
    std::array::from_fn(|n| {
        let Budget { burst, every } = budgets[n];
        json!({"key": hex(&keys[n].0), "every": every, "size": burst * every})
    })
}

fn take(attempt: &Attempt) -> Value {
    json!({
        "do": "take_attempt", "account": hex(&attempt.account.0), "network": hex(&attempt.network.0),
        "device": attempt.device.is_some(), "buckets": buckets(attempt), "life": throttle::NETWORK_LIFE,
    })
}

/// Only to those buckets that were charged.
fn give_back(attempt: &Attempt, verdict: Verdict) -> Value {
    let charged: &[usize] = match verdict {
        Verdict::Throttled => &[],
        Verdict::Stranger => &[0, 1, 2],
        Verdict::Network | Verdict::Device => &[1],
    };
    let all = buckets(attempt);
    let given: Value = charged.iter().map(|n| all[*n].clone()).collect();
    json!({"do": "give_back", "buckets": given})
}
