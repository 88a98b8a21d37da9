//! `/v1/admin/messages`: what is on its way to others, and what came of it.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Id, Params};
use axum::response::Response;
use portcullis_app::MessageFilter;
use portcullis_domain::mail::MAIL_SERVER;
use portcullis_domain::outbox::{Message, MessageState};
use portcullis_wire::MessageId;
use serde_json::{Value, json};

/// Newest first.
pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["state", "client_id", "limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let state = state(&mut params)?;
    let filter = MessageFilter { state, client: params.parsed("client_id")? };
    let page = ctx.app().admin_messages(&admin, &filter, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |row| row.id.to_string());
    Ok(render::list("messages", page.rows.iter().map(message).collect(), next))
}

/// The state that is asked for.
pub(super) fn state(params: &mut Params) -> Result<Option<MessageState>, Problem> {
    let Some(word) = params.take("state") else { return Ok(None) };
    let state = MessageState::parse(&word);
    state.map(Some).ok_or_else(|| Problem::value("state", "must be `waiting`, `done` or `dead`"))
}

/// Has one tried again.
pub(super) async fn retry(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<MessageId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    Ok(render::ok(&message(&ctx.app().admin_retry_message(&admin, id).await?)))
}

pub(super) fn message(row: &Message) -> Value {
    let (about, mail) = (row.logout_body(), row.mail_body());
    let client = row.to_client().filter(|client| *client != MAIL_SERVER);
    let hook = row.webhook_body();
    json!({
        "id": row.id, "kind": row.kind.as_str(), "client_id": client, "webhook_id": hook.map(|hook| hook.webhook),
        "event_id": hook.and_then(|hook| hook.record).map(|(event, _)| event), "state": row.state.as_str(),
        "account_id": about.map(|about| about.account).or(mail.as_ref().map(|mail| mail.account)),
        "session_id": about.map(|about| about.session).or(mail.as_ref().and_then(|mail| mail.session)),
        "template": mail.map(|mail| mail.template),
        "created_at": row.created_at, "tries": row.tries, "settled_at": row.settled_at, "last_error": row.last_error,
        "next_at": (row.state == MessageState::Waiting).then_some(row.next_at),
    })
}
