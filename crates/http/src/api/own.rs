//! `PATCH, DELETE /v1/me`, `POST /v1/me/password`, `POST /v1/me/email`, `GET /v1/me/events`: the own account besides its sessions.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsCaller, Ctx, DeadOrAlive, Json, MaybeJson};
use crate::revoking::Wait;
use axum::response::Response;
use http::StatusCode;
use portcullis_app::EventRow;
use portcullis_domain::model::Status;
use portcullis_wire::{AccountId, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// `null`: no name.
    #[serde(deserialize_with = "given")]
    name: Option<String>,
}

/// The member must be there, and may be `null`.
fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(d)
}

pub(super) async fn change(ctx: Ctx, AsCaller(caller): AsCaller, body: Json<Change>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let account = ctx.app().rename_me(&caller, body.value.name.as_deref()).await?;
    Ok(render::ok(&render::account(&account, ctx.app().now())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    password: Option<SecretString>,
}

/// Repeated with the dead token it answers 200 with the old rev.
pub(super) async fn delete(
    ctx: Ctx,
    DeadOrAlive(mine): DeadOrAlive,
    body: MaybeJson<Delete>,
) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let gone = matches!(mine.view.account.status, Status::Deleted { .. } | Status::Deleting { .. });
    let caller = if gone { mine } else { ctx.caller().await? };
    let password = body.value.and_then(|body| body.password);
    let revoked = ctx.app().delete_me(&caller, password, None).await?;
    Ok(super::me::ended(&ctx, &revoked, wait).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Password {
    current_password: SecretString,
    new_password: SecretString,
    /// Whether nobody of another provider signs in any more, either.
    #[serde(default)]
    end_links: bool,
}

/// Another password.
pub(super) async fn password(ctx: Ctx, AsCaller(caller): AsCaller, body: Json<Password>) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(&body.bytes)?;
    let Password { current_password, new_password, end_links } = body.value;
    let app = ctx.app();
    let revoked = app.change_my_password(&caller, current_password, new_password, end_links, repeat.as_ref()).await?;
    Ok(super::me::ended(&ctx, &revoked, wait).await)
}

/// The forms of the body: to be sent a link once more, to have another address, to use a link.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Address {
    email: Option<String>,
    password: Option<SecretString>,
    token: Option<SecretString>,
}

/// The own address: a link that proves it, another one.
pub(super) async fn email(ctx: Ctx, body: MaybeJson<Address>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let Address { email, password, token } = body.value.unwrap_or(Address { email: None, password: None, token: None });
    match (email, password, token) {
        // The link is the proof; whoever opens it may be signed in nowhere.
        (None, password, Some(token)) => {
            let (_, address) = ctx.app().confirm_address(&token, password, ctx.ip).await?;
            Ok(render::ok(&json!({ "email": address, "email_verified": true })))
        }
        (Some(email), password, None) => {
            let caller = ctx.caller().await?;
            ctx.app().change_my_email(&caller, &email, password).await?;
            Ok(render::answer(StatusCode::ACCEPTED, &json!({})))
        }
        (None, None, None) => {
            let caller = ctx.caller().await?;
            match ctx.app().verify_my_email(&caller).await? {
                true => Ok(render::answer(StatusCode::ACCEPTED, &json!({}))),
                false => {
                    let account = &caller.view.account;
                    Ok(render::ok(&json!({ "email": account.email, "email_verified": account.email.is_some() })))
                }
            }
        }
        _ => Err(Problem::malformed(
            "send nothing to be sent a link to your address, `email` to have another one, or `token` to use a link (with the account's `password`)",
        )),
    }
}

/// What happened to the own account. Who else acted is told by kind only, and from where they did not at all: that is theirs.
pub(super) async fn events(ctx: Ctx, AsCaller(caller): AsCaller) -> Result<Response, Problem> {
    let mut params = ctx.params(&["limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let page = ctx.app().my_events(&caller, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |row| row.event.id.to_string());
    let own = caller.view.account.id;
    Ok(render::list("events", page.rows.iter().map(|row| own_event(row, own)).collect(), next))
}

fn own_event(row: &EventRow, own: AccountId) -> Value {
    let event = &row.event;
    let mine = event.actor == own.to_string();
    let actor = match event.actor.as_str() {
        _ if mine => "you",
        "system" | "anonymous" => "system",
        _ => "administrator",
    };
    // An administrator's words are for administrators; a block's reason is told at the sign-in that it refuses.
    let own_words = mine || actor == "system";
    json!({
        "id": event.id, "kind": event.kind.as_str(), "at": row.at, "actor": actor, "session_id": event.session,
        "ip": event.ip.filter(|_| own_words).map(|ip| ip.to_string()),
        "reason": event.reason.as_deref().filter(|_| own_words),
    })
}
