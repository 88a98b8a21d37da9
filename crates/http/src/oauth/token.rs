//! `/oauth2/token` (RFC 6749 §3.2).
use super::{OAuthForm, dpop, invalid_request, problem, refuse};
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, FormBytes};
use axum::response::Response;
use portcullis_app::oauth::{Less, OAuthTokens};
use portcullis_domain::client::GrantType;
use portcullis_domain::code::Redeem;
use portcullis_domain::refresh::How;
use portcullis_domain::refused::OAuthError;
use portcullis_wire::SecretString;
use serde_json::{Map, Value};

pub(super) async fn token(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let mut form = OAuthForm::read(&ctx, form).await?;
    let name = form.need("grant_type")?;
    let grant = GrantType::parse(&name).filter(|grant| super::metadata::GRANTS.contains(grant));
    let grant = grant.ok_or_else(|| {
        refuse(OAuthError::UnsupportedGrantType, format!("the grant type {name:?} is not known here"))
    })?;
    form.known.must_have(grant).map_err(problem)?;
    form.sender = dpop::sender(&ctx, &form.known, "/oauth2/token", true).await?;
    let proven = form.sender.is_some();
    let tokens = match grant {
        GrantType::AuthorizationCode => by_code(&ctx, form).await?,
        GrantType::RefreshToken => by_refresh(&ctx, form).await?,
        _ => return Err(invalid_request("this grant type is not served")),
    };
    let answer = answer(tokens);
    Ok(if proven { dpop::with_nonce(&ctx, answer) } else { answer })
}

async fn by_code(ctx: &Ctx, mut form: OAuthForm) -> Result<OAuthTokens, Problem> {
    let code = SecretString::new(form.need("code")?);
    let presented = Redeem {
        client: form.known.client.id,
        redirect_uri: form.params.take("redirect_uri"),
        verifier: form.params.take("code_verifier"),
        sender: form.sender,
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
    };
    ctx.app().redeem_code(&form.known, &code, &presented, &form.resources).await.map_err(problem)
}

async fn by_refresh(ctx: &Ctx, mut form: OAuthForm) -> Result<OAuthTokens, Problem> {
    let token = SecretString::new(form.need("refresh_token")?);
    let scope = form.params.take("scope");
    let how = How {
        cookie: false,
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
        client: form.known.client.id,
        proven: form.known.proven,
        sender: form.sender,
    };
    let asked = Less { scope: scope.as_deref(), resources: &form.resources };
    ctx.app().refresh_for(&form.known, &token, asked, how).await.map_err(problem)
}

/// RFC 6749 §5.1, OpenID Connect Core §3.1.3.3.
fn answer(tokens: OAuthTokens) -> Response {
    let mut out = Map::new();
    out.insert("access_token".into(), tokens.access_token.expose().into());
    out.insert("token_type".into(), tokens.token_type.into());
    out.insert("expires_in".into(), tokens.expires_in.into());
    out.insert("scope".into(), tokens.scope.into());
    if let Some(token) = tokens.refresh_token {
        out.insert("refresh_token".into(), token.expose().into());
    }
    if let Some(token) = tokens.id_token {
        out.insert("id_token".into(), token.expose().into());
    }
    render::ok(&Value::Object(out))
}
