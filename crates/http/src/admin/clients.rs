//! `/v1/admin/clients`.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Id, Json, MaybeJson};
use crate::revoking::{self, Wait};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use portcullis_app::admin::Registered;
use portcullis_app::oauth::ClientPatch;
use portcullis_domain::client::Profile;
use portcullis_domain::model::ClientKind;
use portcullis_wire::{ClientId, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let page = ctx.app().admin_clients(&admin, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |client| client.id.to_string());
    // A page may be shorter for those that were deleted; the next one begins after them all the same.
    let there = page.rows.iter().filter(|client| !client.profile.deleted);
    Ok(render::list("clients", there.map(render::client).collect(), next))
}

/// Name and kind, and beside them what the client registers.
#[derive(Deserialize)]
pub(super) struct Create {
    name: Option<String>,
    kind: Option<String>,
    #[serde(flatten)]
    profile: Map<String, Value>,
}

/// The members of a profile, of which every one must be known.
fn profile(members: Map<String, Value>) -> Result<Profile, Problem> {
    known(&members)?;
    serde_json::from_value(Value::Object(members)).map_err(|error| Problem::malformed(error.to_string()))
}

fn known(members: &Map<String, Value>) -> Result<(), Problem> {
    match members.keys().find(|name| !Profile::MEMBERS.contains(&name.as_str())) {
        Some(name) => {
            let all = Profile::MEMBERS.join(", ");
            Err(Problem::malformed(format!("unknown member `{name}`; known besides: {all}")))
        }
        None => Ok(()),
    }
}

/// The secret is shown here and never again, not even to a repeated call.
pub(super) async fn create(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Create>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let repeat = ctx.repeat(&body.bytes)?;
    let profile = profile(body.value.profile)?;
    let missing = |name: &str| Problem::malformed(format!("missing member `{name}`"));
    let (name, kind) = (body.value.name, body.value.kind.ok_or_else(|| missing("kind"))?);
    let name = name.ok_or_else(|| missing("name"))?;
    let kind = ClientKind::parse(&kind)
        .ok_or_else(|| Problem::value("kind", "must be `verifier`, `confidential` or `public`"))?;
    let made = ctx.app().admin_register_client(&admin, &name, kind, profile, repeat.as_ref()).await?;
    let mut response = render::answer(StatusCode::CREATED, &with_secret(&made));
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/admin/clients/{}", made.client.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

pub(super) async fn get(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(id): Id<ClientId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    Ok(render::ok(&render::client(&ctx.app().admin_client(&admin, id).await?)))
}

fn with_secret(made: &Registered) -> Value {
    let mut out = render::client(&made.client);
    if let Some(secret) = &made.secret {
        out["client_secret"] = SecretString::expose(secret).into();
    }
    out
}

/// Either whether it is switched off, which is a revocation; or its name and members of its profile.
#[derive(Deserialize)]
pub(super) struct Patch {
    disabled: Option<bool>,
    name: Option<String>,
    #[serde(flatten)]
    profile: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    /// For how many seconds the old secret counts beside the new one.
    #[serde(default)]
    overlap_s: u32,
}

/// Another secret, shown once.
pub(super) async fn rotate_secret(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<ClientId>,
    body: MaybeJson<Rotate>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let overlap_s = body.value.map_or(0, |body| body.overlap_s);
    let made = ctx.app().admin_rotate_secret(&admin, id, i64::from(overlap_s) * 1000).await?;
    Ok(render::ok(&with_secret(&made)))
}

/// Switching off is a revocation; its members stand beside the client's then.
pub(super) async fn change(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<ClientId>,
    body: Json<Patch>,
) -> Result<Response, Problem> {
    let Patch { disabled, name, profile } = body.value;
    let Some(disabled) = disabled else {
        ctx.params(&[])?;
        known(&profile)?;
        let patch = ClientPatch { name, profile: (!profile.is_empty()).then_some(profile) };
        return Ok(render::ok(&render::client(&ctx.app().admin_change_client(&admin, id, patch).await?)));
    };
    if name.is_some() || !profile.is_empty() {
        return Err(Problem::malformed("`disabled` stands alone: switching a client off is an act of its own"));
    }
    let wait = Wait::only(&ctx)?;
    let (client, revoked) = ctx.app().admin_set_client_disabled(&admin, id, disabled).await?;
    let mut out = render::client(&client);
    if let (Some(revoked), Some(members)) = (revoked, out.as_object_mut())
        && let serde_json::Value::Object(told) = revoking::body(&ctx, &revoked, wait).await
    {
        members.extend(told);
    }
    Ok(render::ok(&out))
}
