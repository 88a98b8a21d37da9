//! `/v1/me`: the own account, the own devices.
use crate::problem::Problem;
use crate::render::SessionCursor;
use crate::request::{AsCaller, Ctx, DeadOrAlive, Ends, Id, Json};
use crate::revoking::{self, WAIT, Wait, Who};
use crate::{cookies, render};
use axum::response::Response;
use http::{HeaderValue, header};
use portcullis_app::{Caller, Revoked};
use portcullis_wire::SessionId;
use serde::Deserialize;
use serde_json::json;

pub(super) async fn me(ctx: Ctx, AsCaller(caller): AsCaller) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let view = &caller.view;
    let mut body = render::account(&view.account, view.stamp.now);
    body["scope"] = caller.scope.clone().into();
    body["session"] = json!(render::session(&view.session, view.used_at(), Some(view.session.id)));
    Ok(render::ok(&body))
}

pub(super) async fn sessions(ctx: Ctx, AsCaller(caller): AsCaller) -> Result<Response, Problem> {
    let mut params = ctx.params(&["limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor::<SessionCursor>()?);
    let views = ctx.app().my_sessions(&caller).await?;
    Ok(render::sessions(views, cursor.as_ref(), limit, Some(caller.view.session.id)))
}

pub(super) async fn end_all(ctx: Ctx, caller: Ends<Caller>) -> Result<Response, Problem> {
    let mut params = ctx.params(&["except", WAIT[0], WAIT[1]])?;
    let wait = Wait::of(&ctx, &mut params)?;
    let except_current = match params.take("except").as_deref() {
        None => false,
        Some("current") => true,
        Some(_) => return Err(Problem::value("except", "must be `current`")),
    };
    let repeat = ctx.repeat(b"")?;
    let revoked = match revoking::or_before(&ctx, repeat.as_ref(), caller).await? {
        Who::Acts(caller) => ctx.app().end_all_mine(&caller, except_current, repeat.as_ref()).await?,
        Who::Did(revoked) => revoked,
    };
    Ok(ended(&ctx, &revoked, wait).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rename {
    device_name: String,
}

pub(super) async fn rename(
    ctx: Ctx,
    AsCaller(caller): AsCaller,
    Id(sid): Id<SessionId>,
    body: Json<Rename>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let view = ctx.app().rename_mine(&caller, sid, &body.value.device_name).await?;
    Ok(render::ok(&render::session(&view.session, view.shown_used_at(), Some(caller.view.session.id))))
}

pub(super) async fn end_one(
    ctx: Ctx,
    DeadOrAlive(mine): DeadOrAlive,
    Id(sid): Id<SessionId>,
) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(b"")?;
    let app = ctx.app();
    // To end the session that calls is to sign out, whatever the path says.
    let caller = if mine.view.session.id == sid { mine } else { ctx.caller().await? };
    let revoked = app.end_mine(&caller, sid, repeat.as_ref()).await?;
    Ok(ended(&ctx, &revoked, wait).await)
}

/// Sign-out. Repeated with the dead token it answers 200 with the old rev.
pub(super) async fn end_current(ctx: Ctx, DeadOrAlive(caller): DeadOrAlive) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(b"")?;
    let revoked = ctx.app().end_mine(&caller, caller.view.session.id, repeat.as_ref()).await?;
    Ok(ended(&ctx, &revoked, wait).await)
}

/// The answer to an end of own sessions; it also takes away the cookies of what has ended.
pub(super) async fn ended(ctx: &Ctx, revoked: &Revoked, wait: Wait) -> Response {
    let gone = cookies::clear_dead(ctx.app(), &ctx.headers).await;
    let mut response = revoking::reply(ctx, revoked, wait).await;
    for cookie in gone {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}
