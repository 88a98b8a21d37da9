//! `/v1/admin/clients`.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Id, Json};
use crate::revoking::{self, Wait};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use portcullis_domain::model::ClientKind;
use portcullis_wire::{ClientId, SecretString};
use serde::Deserialize;

pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let page = ctx.app().admin_clients(&admin, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |client| client.id.to_string());
    Ok(render::list("clients", page.rows.iter().map(render::client).collect(), next))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    name: String,
    kind: String,
}

/// The secret is shown here and never again, not even to a repeated call.
pub(super) async fn create(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Create>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let repeat = ctx.repeat(&body.bytes)?;
    let kind = ClientKind::parse(&body.value.kind)
        .ok_or_else(|| Problem::value("kind", "must be `verifier`, `confidential` or `public`"))?;
    let made = ctx.app().admin_register_client(&admin, &body.value.name, kind, repeat.as_ref()).await?;
    let mut out = render::client(&made.client);
    if let Some(secret) = &made.secret {
        out["client_secret"] = SecretString::expose(secret).into();
    }
    let mut response = render::answer(StatusCode::CREATED, &out);
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/admin/clients/{}", made.client.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

pub(super) async fn get(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<ClientId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    Ok(render::ok(&render::client(&ctx.app().admin_client(&admin, id).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    disabled: bool,
}

/// Switching off is a revocation; its members stand beside the client's then.
pub(super) async fn change(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<ClientId>,
    body: Json<Patch>,
) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let (client, revoked) = ctx.app().admin_set_client_disabled(&admin, id, body.value.disabled).await?;
    let mut out = render::client(&client);
    if let (Some(revoked), Some(members)) = (revoked, out.as_object_mut())
        && let serde_json::Value::Object(told) = revoking::body(&ctx, &revoked, wait).await
    {
        members.extend(told);
    }
    Ok(render::ok(&out))
}
