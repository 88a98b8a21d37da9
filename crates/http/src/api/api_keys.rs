//! `/v1/me/api-keys` and `/v1/api-keys/token`.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsCaller, Ctx, Json};
use axum::response::Response;
use http::StatusCode;
use portcullis_app::api_keys::ApiKey;
use portcullis_domain::api_key::Wanted;
use portcullis_wire::Time;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    name: String,
    #[serde(default)]
    scopes: Vec<String>,
    expires_at: Option<Time>,
}

fn shown(key: &ApiKey) -> Value {
    let session = &key.session;
    let scopes: Vec<&str> = key.scope.split(' ').filter(|scope| !scope.is_empty()).collect();
    json!({
        "id": session.id, "name": session.device_name, "scopes": scopes, "created_at": session.created_at,
        "last_used_at": key.last_used_at, "expires_at": session.absolute_expires_at,
    })
}

/// The key is shown here and never again, not even to a repeated call.
pub(super) async fn create(ctx: Ctx, AsCaller(caller): AsCaller, body: Json<Create>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let repeat = ctx.repeat(&body.bytes)?;
    let Create { name, scopes, expires_at } = body.value;
    let wanted = Wanted { name, scopes, expires_at, ip: ctx.ip };
    let made = ctx.app().create_api_key(&caller, &wanted, repeat.as_ref()).await?;
    let mut out = json!({ "api_key": shown(&made) });
    if let Some(key) = &made.key {
        out["key"] = key.expose().into();
    }
    Ok(render::answer(StatusCode::CREATED, &out))
}

/// All of them: there are never many.
pub(super) async fn list(ctx: Ctx, AsCaller(caller): AsCaller) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let keys = ctx.app().my_api_keys(&caller).await?;
    Ok(render::list("api_keys", keys.iter().map(shown).collect(), None))
}

/// A key for an access token of minutes.
pub(super) async fn token(ctx: Ctx) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let token = ctx.app().api_key_token(ctx.bearer()).await?;
    Ok(render::ok(&json!({
        "access_token": token.access_token.expose(), "token_type": "Bearer", "expires_in": token.expires_in,
        "scope": token.scope,
    })))
}
