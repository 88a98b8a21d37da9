//! What can be asked about a token, and how it is given up: introspection, revocation, userinfo.
use super::{OAuthForm, dpop, problem, refuse};
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, FormBytes};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use portcullis_app::AppError;
use portcullis_app::oauth::ToldUser;
use portcullis_domain::refused::OAuthError;
use portcullis_wire::{AccessClaims, Code, SecretString};
use serde::Serialize;

/// RFC 7519 §10.3.1.
const JWT: HeaderValue = HeaderValue::from_static("application/jwt");

/// Whether a token lives, by the database (RFC 7662). Of a token that does not, nothing is told but that. Only who proved who
/// it is may ask (§2.1): anybody else could try tokens out.
pub(super) async fn introspect(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let mut form = OAuthForm::read(&ctx, form).await?;
    if !form.known.proven {
        return Err(refuse(OAuthError::InvalidClient, "authenticate as a client with a secret"));
    }
    // An empty one is as dead as any other text.
    let token =
        form.params.take("token").ok_or_else(|| super::invalid_request("the parameter \"token\" is missing"))?;
    // Nobody vouches for it: of tokens that are not its own it learns nothing.
    let known = &form.known.client;
    let may_know = |claims: &&AccessClaims| !known.profile.is_stranger() || claims.client_id == known.id;
    let token = ctx.app().introspect(&token).await.map_err(problem)?;
    let Some(claims) = token.as_ref().map(|token| token.claims()).filter(may_know) else {
        return Ok(render::ok(&Told::<AccessClaims> { claims: None, active: false, token_type: None }));
    };
    let sub = ctx.app().introspected_name(&form.known.client, claims).map_err(problem)?;
    let token_type = Some(if claims.cnf.is_some() { "DPoP" } else { "Bearer" });
    if sub == claims.sub.to_string() {
        return Ok(render::ok(&Told { claims: Some(claims), active: true, token_type }));
    }
    let mut named = serde_json::to_value(claims).map_err(|_| Problem::new(Code::Unavailable))?;
    named["sub"] = sub.into();
    Ok(render::ok(&Told { claims: Some(&named), active: true, token_type }))
}

/// What an introspection answers (RFC 7662 §2.2).
#[derive(Serialize)]
struct Told<'a, Claims: Serialize> {
    #[serde(flatten)]
    claims: Option<&'a Claims>,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
}

/// Gives a token up (RFC 7009). 200 also for one that is unknown, dead, or another client's: its holder has what it wanted, or
/// learns nothing (§2.2).
pub(super) async fn revoke(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let mut form = OAuthForm::read(&ctx, form).await?;
    let token = SecretString::new(form.need("token")?);
    let sender = dpop::sender(&ctx, &form.known, "/oauth2/revoke", false).await?;
    match ctx.app().revoke_token(&form.known, sender, &token, ctx.ip).await {
        Ok(()) => Ok(StatusCode::OK.into_response()),
        // Its nonce comes with the refusal (RFC 9449 §8).
        Err(error) if sender.is_none() => Err(dpop::told_nonce(&ctx, problem(error))),
        Err(error) => Err(problem(error)),
    }
}

/// Claims about whoever the token is about (OpenID Connect Core §5.3): in JSON, or as a JWT for a client that registered an algorithm for
/// it (§5.3.2).
pub(super) async fn userinfo(ctx: Ctx) -> Result<Response, Problem> {
    let shown = dpop::shown(&ctx, "/oauth2/userinfo")?;
    let told = match ctx.app().userinfo(shown.token, &shown.holder).await {
        Ok(told) => told,
        Err(AppError::Unauthenticated(Code::ProofInvalid)) => return Err(dpop::not_its_holder(shown.proven.is_some())),
        Err(error) => return Err(dpop::challenging(error, shown.proven.is_some())),
    };
    // Last, so that nobody fills the table of proofs by tokens that do not live.
    if let Some(proven) = shown.proven {
        ctx.app().use_up_proof(proven).await.map_err(dpop::used_before)?;
    }
    Ok(match told {
        ToldUser::Plain(told) => render::ok(&told),
        ToldUser::Signed(token) => ([(header::CONTENT_TYPE, JWT)], token.expose().to_owned()).into_response(),
    })
}
