//! `/v1/admin/events/stream`: audit records as they are sealed, as server-sent events.
//!
//! A stream holds a place of the trail, not a queue: when it can write, it reads what comes after that. Whoever reads too slowly is
//! dropped by the accept loop like any connection that stands still, and comes back with `Last-Event-ID`. Before each write the
//! token that opened it is judged anew, as for a call of its own.
use super::audit::filter;
use crate::feed;
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use portcullis_app::follow::Tail;
use portcullis_app::{EventFilter, real};
use serde_json::{Value, json};

/// After so many microseconds without a record a comment is sent, so that proxies keep the connection and a dead one is seen.
const KEEP_ALIVE_US: i64 = 10_000_000;

struct Open {
    ctx: Ctx,
    filter: EventFilter,
    tail: Tail,
    /// What was written last, and up to which place that said.
    wrote: i64,
    said: u64,
    first: Option<Value>,
}

pub(super) async fn open(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["account_id", "kind", "session_id", "client_id", "actor", "after"])?;
    let after = params.parsed::<u64>("after")?;
    let filter = filter(&mut params)?;
    let shown = match ctx.header("last-event-id") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Problem::value("Last-Event-ID", "must be the id of an event of this stream: a place of the trail")
        })?),
    };
    let (tail, missed) = ctx.app().tail(&admin, shown.or(after)).await?;
    let first = Some(json!({ "place": tail.place(), "missed": missed }));
    let open = Open { said: tail.place(), ctx, filter, tail, wrote: real::mono_us(), first };
    Ok(feed::events(stream::unfold(Some(open), next)))
}

/// The next thing to write. `None` afterwards: it was the last.
async fn next(open: Option<Open>) -> Option<(Bytes, Option<Open>)> {
    let mut open = open?;
    if let Some(hello) = open.first.take() {
        let text = event("hello", Some(open.said), &hello);
        return Some((text, Some(open)));
    }
    loop {
        let read = open.tail.next().await;
        if open.ctx.app().hub().is_closing() || open.ctx.shared.is_shut() {
            return None;
        }
        // After the records were read: what is written is as of a moment when the token counted.
        let (rows, problem) = match (read, open.ctx.admin().await) {
            (Ok(rows), Ok(_)) => (rows, None),
            (Err(error), _) => (vec![], Some(Problem::from(error))),
            (_, Err(problem)) => (vec![], Some(problem)),
        };
        if let Some(problem) = problem {
            return Some((event("end", None, &json!({ "code": problem.code.as_str() })), None));
        }
        let place = open.tail.place();
        let mut text = Vec::new();
        for row in rows.iter().filter(|row| open.filter.takes(row)) {
            text.extend_from_slice(&event("record", row.seal.map(|seal| seal.place.n), &render::event(row)));
        }
        if text.is_empty() {
            if real::mono_us() - open.wrote < KEEP_ALIVE_US {
                continue;
            }
            // An id without data is no event, and what a reader comes back with.
            text = if place == open.said { ":\n\n".into() } else { format!(":\nid: {place}\n\n").into() };
        }
        (open.wrote, open.said) = (real::mono_us(), place);
        return Some((text.into(), Some(open)));
    }
}

fn event(name: &str, id: Option<u64>, data: &Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}event: {name}\ndata: {data}\n\n").into()
}
