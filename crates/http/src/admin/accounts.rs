//! `/v1/admin/accounts`.
use crate::problem::Problem;
use crate::render;
use crate::render::SessionCursor;
use crate::request::{AsAdmin, Ctx, Ends, Id, Json, MaybeJson};
use crate::revoking::{self, Wait, Who};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use portcullis_app::Admin;
use portcullis_app::admin::AccountPatch;
use portcullis_wire::{AccountId, SecretString, Time};
use serde::{Deserialize, Deserializer};

pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["email", "limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    // Addresses are kept in lower case.
    let prefix = params.take("email").map(|text| text.trim().to_lowercase());
    let page = ctx.app().admin_accounts(&admin, prefix.as_deref(), cursor, limit).await?;
    let now = ctx.app().now();
    let next = render::next(&page.rows, page.more, |account| account.id.to_string());
    Ok(render::list("accounts", page.rows.iter().map(|account| render::account(account, now)).collect(), next))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    email: String,
    password: Option<SecretString>,
    name: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    email_verified: bool,
}

pub(super) async fn create(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Create>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let repeat = ctx.repeat(&body.bytes)?;
    let Create { email, password, name, roles, email_verified } = body.value;
    let (app, name) = (ctx.app(), name.as_deref());
    let made = app.admin_create_account(&admin, &email, password, name, roles, email_verified, repeat.as_ref()).await?;
    let mut response = render::answer(StatusCode::CREATED, &render::account(&made, ctx.app().now()));
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/admin/accounts/{}", made.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

pub(super) async fn get(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<AccountId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let view = ctx.app().admin_account(&admin, id).await?;
    Ok(render::ok(&render::account(&view.account, view.stamp.now)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    /// Missing: as it was. `null`: no name.
    #[serde(default, deserialize_with = "given")]
    name: Option<Option<String>>,
    roles: Option<Vec<String>>,
    /// Over how long the refreshes that new roles cause are spread.
    spread_ms: Option<u64>,
    /// Another address.
    email: Option<String>,
    /// Whether the address is verified.
    email_verified: Option<bool>,
}

/// Tells a member that is `null` from one that is missing.
fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(d).map(Some)
}

pub(super) async fn change(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<AccountId>,
    body: Json<Patch>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let Patch { name, roles, spread_ms, email, email_verified } = body.value;
    let patch = AccountPatch { name, roles, spread_ms, email, email_verified };
    let account = ctx.app().admin_change_account(&admin, id, patch).await?;
    Ok(render::ok(&render::account(&account, ctx.app().now())))
}

pub(super) async fn delete(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<AccountId>) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(b"")?;
    let revoked = ctx.app().admin_delete(&admin, id, repeat.as_ref()).await?;
    Ok(revoking::reply(&ctx, &revoked, wait).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Block {
    reason: String,
    until: Option<String>,
}

pub(super) async fn block(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<AccountId>,
    body: Json<Block>,
) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(&body.bytes)?;
    let until = body.value.until.map(|text| text.parse::<Time>()).transpose();
    let until = until.map_err(|error| Problem::value("until", error.to_string()))?;
    let revoked = ctx.app().admin_block(&admin, id, &body.value.reason, until, repeat.as_ref()).await?;
    Ok(revoking::reply(&ctx, &revoked, wait).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unblock {
    reason: Option<String>,
}

pub(super) async fn unblock(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<AccountId>,
    body: MaybeJson<Unblock>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let reason = body.value.and_then(|body| body.reason);
    let account = ctx.app().admin_unblock(&admin, id, reason.as_deref()).await?;
    Ok(render::ok(&render::account(&account, ctx.app().now())))
}

pub(super) async fn sessions(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<AccountId>) -> Result<Response, Problem> {
    let mut params = ctx.params(&["limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor::<SessionCursor>()?);
    let views = ctx.app().admin_sessions(&admin, id).await?;
    Ok(render::sessions(views, cursor.as_ref(), limit, admin.session()))
}

pub(super) async fn links(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<AccountId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    Ok(render::links(&ctx.app().admin_links(&admin, id).await?))
}

pub(super) async fn end_sessions(ctx: Ctx, admin: Ends<Admin>, Id(id): Id<AccountId>) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(b"")?;
    let revoked = match revoking::or_before(&ctx, repeat.as_ref(), admin).await? {
        Who::Acts(admin) => ctx.app().admin_end_account(&admin, id, repeat.as_ref()).await?,
        Who::Did(revoked) => revoked,
    };
    Ok(revoking::reply(&ctx, &revoked, wait).await)
}
