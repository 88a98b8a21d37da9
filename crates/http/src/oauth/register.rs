//! `/oauth2/register` (RFC 7591, RFC 7592): clients that register themselves, where that is switched on.
use super::{problem, refuse};
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, Id, Json};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portcullis_app::oauth::SelfRegistered;
use portcullis_domain::refused::OAuthError;
use portcullis_domain::registration;
use portcullis_wire::Code;
use serde_json::{Map, Value};

/// RFC 7591 §3.2.1, RFC 7592 §3.
fn shown(ctx: &Ctx, own: &SelfRegistered) -> Value {
    let mut out = registration::write(&own.client);
    if let Some(secret) = &own.secret {
        out.insert("client_secret".into(), secret.expose().into());
        out.insert("client_secret_expires_at".into(), 0.into());
    }
    let place = format!("{}/oauth2/register/{}", ctx.shared.config().issuer, own.client.id);
    out.insert("registration_client_uri".into(), place.into());
    out.insert("registration_access_token".into(), own.token.expose().into());
    Value::Object(out)
}

/// The members of a body, which may be no JSON at all. Where nobody may register, nothing of it is looked at.
fn members(ctx: &Ctx, body: Result<Json<Value>, Problem>) -> Result<Map<String, Value>, Problem> {
    if !ctx.app().registers_clients() {
        return Err(Problem::not_found());
    }
    let wrong = |detail: &str| refuse(OAuthError::InvalidClientMetadata, detail);
    match body {
        Ok(Json { value: Value::Object(members), .. }) => Ok(members),
        Ok(_) => Err(wrong("send the metadata as members of a JSON object")),
        Err(problem) if problem.code == Code::Malformed => Err(wrong(&problem.detail)),
        Err(problem) => Err(problem),
    }
}

pub(super) async fn register(ctx: Ctx, body: Result<Json<Value>, Problem>) -> Result<Response, Problem> {
    let members = members(&ctx, body)?;
    let made = ctx.app().register_client(ctx.bearer(), members, ctx.ip).await.map_err(problem)?;
    Ok(render::answer(StatusCode::CREATED, &shown(&ctx, &made)))
}

pub(super) async fn get(ctx: Ctx, Id(id): Id<String>) -> Result<Response, Problem> {
    let own = ctx.app().own_registration(&id, ctx.bearer()).await.map_err(problem)?;
    Ok(render::ok(&shown(&ctx, &own)))
}

pub(super) async fn put(ctx: Ctx, Id(id): Id<String>, body: Result<Json<Value>, Problem>) -> Result<Response, Problem> {
    let members = members(&ctx, body)?;
    let own = ctx.app().change_own_registration(&id, ctx.bearer(), &members, ctx.ip).await.map_err(problem)?;
    Ok(render::ok(&shown(&ctx, &own)))
}

pub(super) async fn delete(ctx: Ctx, Id(id): Id<String>) -> Result<Response, Problem> {
    ctx.app().delete_own_registration(&id, ctx.bearer(), ctx.ip).await.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
