//! `/v1/admin/events` and `/v1/admin/audit`: who did what, and whether the records are what they were.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Json, Params};
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::{HeaderValue, header};
use portcullis_app::{Admin, App, EventFilter};
use portcullis_domain::EventKind;
use portcullis_domain::audit::{Finding, Place};
use portcullis_wire::{AccountId, Code, EventId, Rev, Time};
use serde::Deserialize;
use serde_json::{Value, json};

/// What an export is (RFC 8259, one value a line; the type is in use, and not registered).
const JSONL: &str = "application/x-ndjson";
/// How many records of an export are read at once.
const AT_ONCE: u32 = 500;
const FILTERS: [&str; 8] = ["account_id", "kind", "session_id", "client_id", "actor", "from", "until", "rev"];

/// Audit records, newest first: a page, or all of them as lines.
pub(super) async fn events(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let known: Vec<&str> = FILTERS.into_iter().chain(["limit", "cursor", "format"]).collect();
    let mut params = ctx.params(&known)?;
    let filter = filter(&mut params)?;
    let as_lines = match params.take("format").as_deref() {
        None => ctx.header("accept").is_some_and(|types| types.split(',').any(|one| one.trim() == JSONL)),
        Some("json") => false,
        Some("jsonl") => true,
        Some(_) => return Err(Problem::value("format", "must be json or jsonl")),
    };
    let cursor = params.cursor()?;
    if as_lines {
        if params.take("limit").is_some() {
            return Err(Problem::value("limit", "lines come without pages: all of them, or leave format=jsonl out"));
        }
        return export(ctx.app().clone(), admin, filter, cursor).await;
    }
    let page = ctx.app().admin_events(&admin, &filter, cursor, params.limit()?).await?;
    let next = render::next(&page.rows, page.more, |row| row.event.id.to_string());
    Ok(render::list("events", page.rows.iter().map(render::event).collect(), next))
}

pub(super) fn filter(params: &mut Params) -> Result<EventFilter, Problem> {
    let kind = params.take("kind");
    if let Some(kind) = &kind
        && EventKind::parse(kind).is_none()
    {
        let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        return Err(Problem::value("kind", format!("must be one of {}", known.join(", "))));
    }
    let actor = params.take("actor");
    if let Some(actor) = &actor
        && !["operator", "system", "anonymous"].contains(&actor.as_str())
        && actor.parse::<AccountId>().is_err()
    {
        return Err(Problem::value("actor", "must be the id of an account (acc_…), operator, system or anonymous"));
    }
    let (from, until) = (params.parsed::<Time>("from")?, params.parsed::<Time>("until")?);
    if from.zip(until).is_some_and(|(from, until)| from >= until) {
        return Err(Problem::value("until", "must be later than from"));
    }
    Ok(EventFilter {
        account: params.parsed("account_id")?,
        kind,
        revocations: false,
        session: params.parsed("session_id")?,
        client: params.parsed("client_id")?,
        actor,
        from,
        until,
        rev: params.parsed::<u64>("rev")?.map(Rev),
    })
}

/// All that the filter takes, a line each, in as much memory as a page takes. Whether the caller still may is asked for each page. What
/// breaks on the way breaks the answer off before its end, so that half of it is not taken for all.
async fn export(app: App, admin: Admin, filter: EventFilter, cursor: Option<EventId>) -> Result<Response, Problem> {
    // The first page before the answer begins: what is wrong is then said in words.
    let first = app.admin_events(&admin, &filter, cursor, AT_ONCE).await?;
    let lines = stream::unfold(Some(Ok(first)), move |page| {
        let (app, admin, filter) = (app.clone(), admin.clone(), filter.clone());
        async move {
            let page = match page? {
                Ok(page) => page,
                Err(error) => return Some((Err(std::io::Error::other(error)), None)),
            };
            let text: String = page.rows.iter().map(|row| format!("{}\n", render::event(row))).collect();
            let last = page.rows.last().filter(|_| page.more).map(|row| row.event.id);
            let next = match last {
                None => None,
                Some(last) => {
                    let next = app.admin_events(&admin, &filter, Some(last), AT_ONCE).await;
                    Some(next.map_err(|_| "the rest could not be read"))
                }
            };
            Some((Ok(Bytes::from(text)), next))
        }
    });
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSONL));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Where the chain stands.
pub(super) async fn state(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let state = ctx.app().admin_audit(&admin).await?;
    let text = |place: Option<Place>| place.map(|place| place.to_string());
    let (count, age_ms) = (state.unsealed.count, state.unsealed.age(state.now));
    Ok(render::ok(&json!({
        "start": text(state.start), "head": text(state.head), "sealed_until": state.head.map(|head| head.n),
        "unsealed": { "count": count, "age_ms": age_ms },
    })))
}

/// A page of a check: after `from`, held against a `head` that was written down before.
pub(super) async fn check(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["from", "head"])?;
    let (from, head) = (params.parsed::<Place>("from")?, params.parsed::<Place>("head")?);
    let Some(page) = ctx.app().admin_check_audit(&admin, from, head).await? else {
        return Err(Problem::new(Code::NotFound).saying("nothing was sealed yet"));
    };
    let out = page.checked;
    Ok(render::ok(&json!({
        "checked": out.records, "erased": out.erased, "to": out.to.to_string(), "head": page.head.to_string(),
        "complete": page.last, "known": out.known,
        "findings": out.findings.iter().map(finding).collect::<Vec<Value>>(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Anew {
    reason: String,
}

/// Another chain in the place of one that is broken: for the operator, who has looked.
pub(super) async fn begin_anew(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Anew>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let start = ctx.app().admin_begin_trail_anew(&admin, &body.value.reason).await.map_err(|error| {
        let problem = Problem::from(error);
        match problem.code {
            Code::Forbidden => problem.saying("a chain is begun anew on the admin socket only, by the operator"),
            Code::NotFound => problem.saying("nothing was sealed yet"),
            _ => problem,
        }
    })?;
    Ok(render::ok(&json!({ "start": start.to_string() })))
}

/// The chain goes on from where it ends, whatever was seen beyond: for the operator, who has looked.
pub(super) async fn go_on(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Anew>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let from = ctx.app().admin_go_on_with_trail(&admin, &body.value.reason).await.map_err(|error| {
        let problem = Problem::from(error);
        match problem.code {
            Code::Forbidden => problem.saying("a chain goes on by the admin socket only, by the operator"),
            Code::NotFound => problem.saying("nothing was sealed yet"),
            _ => problem,
        }
    })?;
    Ok(render::ok(&json!({ "from": from.to_string() })))
}

fn finding(finding: &Finding) -> Value {
    json!({
        "kind": finding.as_str(), "place": finding.place(), "event_id": finding.event(), "detail": finding.to_string(),
    })
}
