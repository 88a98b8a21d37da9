//! How things look as JSON. One function per thing, used wherever it appears.
use crate::problem::Problem;
use crate::request::cursor_text;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use portcullis_app::EventRow;
use portcullis_app::hub::nodes::Placed;
use portcullis_app::webhooks;
use portcullis_domain::keys::{self, State};
use portcullis_domain::mass::Job;
use portcullis_domain::model::{Account, Client, ClientKind, Key, KeyPurpose, Session, Status};
use portcullis_domain::upstream::Link;
use portcullis_domain::view::SessionView;
use portcullis_wire::{AccountId, ClientId, Code, Rev, SessionId, Time};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// An answer with a JSON body.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    // The usual answer with two tokens fits at once, and so do its headers.
    let mut text = Vec::with_capacity(1536);
    match serde_json::to_writer(&mut text, body) {
        Ok(()) => {
            let mut headers = HeaderMap::with_capacity(12);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let mut response = Response::new(text.into());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        }
        Err(error) => {
            tracing::error!(%error, "an answer is no JSON");
            Problem::new(Code::Unavailable).into_response()
        }
    }
}

/// 200 with a JSON body.
pub(crate) fn ok(body: &impl Serialize) -> Response {
    answer(StatusCode::OK, body)
}

/// `{NAME: […], next}`.
pub(crate) fn list(name: &str, rows: Vec<Value>, next: Option<String>) -> Response {
    ok(&json!({ name: rows, "next": next }))
}

/// The `next` of a page, from its last row.
pub(crate) fn next<T>(rows: &[T], more: bool, id: impl Fn(&T) -> String) -> Option<String> {
    rows.last().filter(|_| more).map(|row| cursor_text(id(row)))
}

pub(crate) fn account(account: &Account, now: Time) -> Value {
    let mut out = json!({
        "id": account.id, "email": account.email, "email_verified": account.email_verified_at.is_some(), "name": account.name, "roles": account.roles,
        "status": "active", "created_at": account.created_at, "service": account.is_service(),
    });
    if let Status::Deleted { at, rev } = &account.status {
        out["status"] = "deleted".into();
        out["deleted_at"] = json!(at);
        out["rev"] = json!(rev);
    } else if let Status::Deleting { at, until, rev } = &account.status {
        out["status"] = "deleting".into();
        out["deletion"] = json!({ "at": at, "until": until });
        out["rev"] = json!(rev);
    } else if let Some(block) = account.block_at(now) {
        out["status"] = "blocked".into();
        out["block"] = json!({ "reason": block.reason, "actor": block.actor, "at": block.at, "until": block.until });
    }
    out
}

/// A session as its user sees it. Written without a tree of values in between: every refresh answers with one.
#[derive(Debug, Serialize)]
pub(crate) struct SessionBody<'a> {
    id: SessionId,
    account_id: AccountId,
    device_name: &'a str,
    kind: &'static str,
    ip: Option<IpAddr>,
    created_at: Time,
    last_seen_at: Time,
    expires_at: Time,
    current: bool,
}

/// `last_seen_at` is when it was last used, as far as is known.
pub(crate) fn session(session: &Session, last_seen_at: Time, current: Option<SessionId>) -> SessionBody<'_> {
    SessionBody {
        id: session.id,
        account_id: session.account,
        device_name: &session.device_name,
        kind: session.kind.as_str(),
        ip: session.ip,
        created_at: session.created_at,
        last_seen_at,
        expires_at: session.absolute_expires_at,
        current: current == Some(session.id),
    }
}

/// A page of sessions, newest first. The cursor names the last session of the page before by time and id, so it still holds
/// when that session has ended meanwhile.
pub(crate) fn sessions(
    mut views: Vec<SessionView>,
    cursor: Option<&SessionCursor>,
    limit: u32,
    current: Option<SessionId>,
) -> Response {
    let place = |view: &SessionView| (view.session.created_at, view.session.id);
    views.sort_by_key(|view| std::cmp::Reverse(place(view)));
    if let Some(SessionCursor(at, id)) = cursor {
        views.retain(|view| place(view) < (*at, *id));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = views.len() > limit;
    views.truncate(limit);
    let next = next(&views, more, |view| SessionCursor(view.session.created_at, view.session.id).to_string());
    list(
        "sessions",
        views.iter().map(|view| json!(session(&view.session, view.shown_used_at(), current))).collect(),
        next,
    )
}

/// Where a page of sessions ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionCursor(Time, SessionId);

impl std::fmt::Display for SessionCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0.0, self.1)
    }
}
impl std::str::FromStr for SessionCursor {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, id) = text.split_once(' ').ok_or(())?;
        Ok(Self(Time(at.parse().map_err(drop)?), id.parse().map_err(drop)?))
    }
}

/// A client, with what it registered.
pub(crate) fn client(client: &Client) -> Value {
    let mut out = json!({
        "client_id": client.id, "name": client.name, "kind": client.kind.as_str(),
        "disabled": client.disabled, "created_at": client.created_at,
    });
    if client.kind != ClientKind::Verifier
        && client.id != ClientId::FIRST_PARTY
        && let (Some(members), Ok(Value::Object(profile))) =
            (out.as_object_mut(), serde_json::to_value(&client.profile))
    {
        members.extend(profile);
        // What it is managed with is nobody's but its own; that it manages itself is told.
        let own = members.remove("registration").is_some();
        members.insert("self_registered".into(), own.into());
    }
    if let Some((_, until)) = client.old_secret {
        out["old_secret_until"] = json!(until);
    }
    out
}

pub(crate) fn event(row: &EventRow) -> Value {
    webhooks::record(row)
}

/// A webhook, with how far it was told; never its secret.
pub(crate) fn webhook(told: &webhooks::Told) -> Value {
    let row = &told.webhook;
    json!({
        "id": row.id, "url": row.url, "description": row.description, "events": row.events, "enabled": row.enabled,
        "disabled_why": row.disabled_why, "created_at": row.created_at,
        "old_secret_until": row.old_secret.as_ref().map(|(_, until)| until),
        "place": told.place, "behind": told.head.saturating_sub(told.place), "waiting": told.waiting,
    })
}

/// An event as one of the log's entries; without the enforcement, which is of now.
pub(crate) fn revocation(row: &EventRow) -> Value {
    let mut out = event(row);
    if let Some(members) = out.as_object_mut() {
        let id = members.remove("id");
        members.remove("place");
        members.insert("event_id".into(), id.unwrap_or_default());
    }
    out
}

/// A revocation by filter, without its enforcement.
pub(crate) fn job(job: &Job) -> Value {
    let filter = &job.rule.filter;
    let mut named = Map::new();
    if !filter.accounts.is_empty() {
        named.insert("account_ids".into(), json!(filter.accounts));
    }
    if !filter.clients.is_empty() {
        named.insert("client_ids".into(), json!(filter.clients));
    }
    if let Some(before) = filter.created_before {
        named.insert("created_before".into(), json!(before));
    }
    if let Some(network) = filter.network {
        named.insert("address_range".into(), network.to_string().into());
    }
    json!({
        "job": job.id, "rev": job.rule.rev, "state": if job.finished_at.is_some() { "done" } else { "running" },
        "filter": named, "except": job.rule.except, "now": job.now, "reason": job.reason, "actor": job.actor,
        "created_at": job.created_at, "finished_at": job.finished_at, "scanned": job.scanned, "ended": job.ended,
    })
}

pub(crate) fn verifier(placed: &Placed, head: Rev) -> Value {
    let listed = &placed.listed;
    json!({
        "node": placed.node, "version": placed.version, "lag_ms": placed.lag_ms,
        "id": listed.instance.id, "name": listed.instance.name, "client_id": listed.instance.client,
        "policy": listed.instance.policies.to_string(), "bound_ms": listed.instance.bound_ms,
        "connected": listed.connected, "leased": listed.leased, "applied": listed.applied,
        "behind": listed.applied.map(|applied| head.0.saturating_sub(applied.0)),
        "heard_ms_ago": listed.heard_ms_ago,
    })
}

/// A key without its private part. `floor` is F, which says what has retired.
pub(crate) fn key(key: &Key, floor: Time) -> Value {
    let state = keys::state(key, floor);
    let (usage, alg) = match key.purpose.algorithm() {
        Some(algorithm) => ("sig", algorithm.name()),
        None if key.purpose == KeyPurpose::Pairwise => ("pairwise", "HS256"),
        None => ("mac", "HS256"),
    };
    json!({
        "kid": key.id, "use": usage, "alg": alg, "state": state.as_str(), "created_at": key.created_at,
        "active_from": key.active_from, "active": state == State::Active, "retired_at": key.retired_at, "dead": key.dead,
    })
}

/// Who of other providers may sign in to an account.
pub(crate) fn links(links: &[Link]) -> Response {
    let shown = links.iter().map(|link| {
        json!({
            "id": link.id, "upstream": link.upstream, "issuer": link.issuer, "subject": link.subject, "label": link.label,
            "created_at": link.created_at, "used_at": link.used_at,
        })
    });
    list("links", shown.collect(), None)
}
