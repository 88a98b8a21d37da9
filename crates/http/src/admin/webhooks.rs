//! `/v1/admin/webhooks`: who is called with audit records.
use super::messages::{message, state};
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Id, Json, MaybeJson};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use portcullis_app::webhooks::{Replay, WebhookPatch, WithSecret};
use portcullis_wire::{Time, WebhookId};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// All of them: there are few.
pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let all = ctx.app().admin_webhooks(&admin).await?;
    Ok(render::list("webhooks", all.iter().map(render::webhook).collect(), None))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    url: String,
    events: Vec<String>,
    description: Option<String>,
    enabled: Option<bool>,
}

/// The secret is shown here and never again, not even to a repeated call.
pub(super) async fn create(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Create>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let repeat = ctx.repeat(&body.bytes)?;
    let Create { url, events, description, enabled } = body.value;
    let what = WebhookPatch { url: Some(url), events: Some(events), description: Some(description), enabled };
    let made = ctx.app().admin_create_webhook(&admin, what, repeat.as_ref()).await?;
    let mut response = render::answer(StatusCode::CREATED, &with_secret(&made));
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/admin/webhooks/{}", made.told.webhook.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

fn with_secret(made: &WithSecret) -> Value {
    let mut out = render::webhook(&made.told);
    if let Some(secret) = &made.secret {
        out["secret"] = secret.expose().into();
    }
    out
}

pub(super) async fn get(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    Ok(render::ok(&render::webhook(&ctx.app().admin_webhook(&admin, id).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    url: Option<String>,
    events: Option<Vec<String>>,
    /// Missing: as it was. `null`: none.
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    enabled: Option<bool>,
}

/// Tells a member that is `null` from one that is missing.
fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(d).map(Some)
}

pub(super) async fn change(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<WebhookId>,
    body: Json<Patch>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let Patch { url, events, description, enabled } = body.value;
    let patch = WebhookPatch { url, events, description, enabled };
    Ok(render::ok(&render::webhook(&ctx.app().admin_change_webhook(&admin, id, patch).await?)))
}

pub(super) async fn delete(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    ctx.app().admin_delete_webhook(&admin, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    /// For how many seconds the old secret signs beside the new one.
    #[serde(default)]
    overlap_s: u32,
}

/// Another secret, shown once.
pub(super) async fn rotate(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<WebhookId>,
    body: MaybeJson<Rotate>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let overlap_s = body.value.map_or(0, |body| body.overlap_s);
    let made = ctx.app().admin_rotate_webhook(&admin, id, i64::from(overlap_s) * 1000).await?;
    Ok(render::ok(&with_secret(&made)))
}

/// A message that only tries it; what comes of it is seen among its messages.
pub(super) async fn test(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let sent = ctx.app().admin_test_webhook(&admin, id).await?;
    Ok(render::answer(StatusCode::ACCEPTED, &message(&sent)))
}

/// Its messages, newest first.
pub(super) async fn messages(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    let mut params = ctx.params(&["state", "limit", "cursor"])?;
    let (limit, cursor, state) = (params.limit()?, params.cursor()?, state(&mut params)?);
    let page = ctx.app().admin_webhook_messages(&admin, id, state, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |row| row.id.to_string());
    Ok(render::list("messages", page.rows.iter().map(message).collect(), next))
}

/// From where: a place of the trail, or a time.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    after: Value,
}

/// Told again of everything after it.
pub(super) async fn replay(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<WebhookId>,
    body: Json<From>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let from = match &body.value.after {
        Value::Number(place) => place.as_u64().map(Replay::Place),
        Value::String(text) => text.parse::<Time>().ok().map(Replay::Time),
        _ => None,
    };
    let from = from.ok_or_else(|| {
        Problem::value("after", "must be a place of the trail (a whole number) or a time in UTC (RFC 3339)")
    })?;
    let told = ctx.app().admin_replay_webhook(&admin, id, from).await?;
    Ok(render::answer(StatusCode::ACCEPTED, &json!(render::webhook(&told))))
}
