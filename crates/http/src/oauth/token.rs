//! `/oauth2/token` (RFC 6749 §3.2).
use super::{OAuthForm, dpop, invalid_request, problem, refuse};
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, FormBytes};
use axum::response::Response;
use portcullis_app::oauth::{Less, OAuthTokens};
use portcullis_domain::client::GrantType;
use portcullis_domain::code::Redeem;
use portcullis_domain::exchange;
use portcullis_domain::refresh::How;
use portcullis_domain::refused::OAuthError;
use portcullis_domain::service;
use portcullis_wire::SecretString;
use serde_json::{Map, Value};

pub(super) async fn token(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let mut form = OAuthForm::read(&ctx, form).await?;
    let name = form.need("grant_type")?;
    let grant = GrantType::parse(&name);
    let grant = grant.ok_or_else(|| {
        refuse(OAuthError::UnsupportedGrantType, format!("the grant type {name:?} is not known here"))
    })?;
    form.known.must_have(grant).map_err(problem)?;
    form.sender = dpop::sender(&ctx, &form.known, "/oauth2/token", true).await?;
    let (proven, known) = (form.sender.is_some(), form.known.clone());
    let tokens = match grant {
        GrantType::AuthorizationCode => by_code(&ctx, form).await?,
        GrantType::RefreshToken => by_refresh(&ctx, form).await?,
        GrantType::TokenExchange => return by_exchange(&ctx, form).await,
        GrantType::DeviceCode => by_device(&ctx, form).await?,
        GrantType::ClientCredentials => for_itself(&ctx, form).await?,
    };
    if proven {
        ctx.app().was_worth_its_proof(&known, ctx.ip);
    }
    let answer = answer(tokens);
    Ok(if proven { dpop::with_nonce(&ctx, answer) } else { answer })
}

async fn by_code(ctx: &Ctx, mut form: OAuthForm) -> Result<OAuthTokens, Problem> {
    let code = SecretString::new(form.need("code")?);
    let presented = Redeem {
        client: form.known.client.id,
        proven: form.known.proven,
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
        at_home: false,
    };
    let asked = Less { scope: scope.as_deref(), resources: &form.resources };
    ctx.app().refresh_for(&form.known, &token, asked, how).await.map_err(problem)
}

/// RFC 8628 §3.4.
async fn by_device(ctx: &Ctx, mut form: OAuthForm) -> Result<OAuthTokens, Problem> {
    let code = SecretString::new(form.need("device_code")?);
    let presented = Redeem {
        client: form.known.client.id,
        proven: form.known.proven,
        redirect_uri: None,
        verifier: None,
        sender: form.sender,
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
    };
    ctx.app().poll_device(&form.known, &code, &presented).await.map_err(problem)
}

/// RFC 6749 §4.4.
async fn for_itself(ctx: &Ctx, mut form: OAuthForm) -> Result<OAuthTokens, Problem> {
    let asked = service::Asked {
        scope: form.params.take("scope"),
        resources: form.resources,
        sender: form.sender,
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
    };
    ctx.app().service_token(&form.known, &asked).await.map_err(problem)
}

/// RFC 8693 §2.1. Who acts is the client that calls, as its service account: no other actor is taken.
async fn by_exchange(ctx: &Ctx, mut form: OAuthForm) -> Result<Response, Problem> {
    if form.params.take("actor_token").is_some() || form.params.take("actor_token_type").is_some() {
        return Err(invalid_request("actor_token is not taken: who acts is the client that calls"));
    }
    let wanted = form.params.take("requested_token_type");
    if wanted.is_some_and(|wanted| wanted != exchange::ACCESS_TOKEN) {
        return Err(invalid_request(format!("requested_token_type must be {}", exchange::ACCESS_TOKEN)));
    }
    if form.need("subject_token_type")? != exchange::ACCESS_TOKEN {
        return Err(invalid_request(format!("subject_token_type must be {}", exchange::ACCESS_TOKEN)));
    }
    let token = SecretString::new(form.need("subject_token")?);
    let targets = form.resources.into_iter().chain(form.params.take("audience")).collect();
    let asked = exchange::Asked { scope: form.params.take("scope"), targets, sender: form.sender };
    let tokens = ctx.app().exchange(&form.known, &token, &asked).await.map_err(problem)?;
    Ok(render::ok(&told(tokens, Some(exchange::ACCESS_TOKEN))))
}

/// RFC 6749 §5.1, OpenID Connect Core §3.1.3.3.
fn answer(tokens: OAuthTokens) -> Response {
    render::ok(&told(tokens, None))
}

fn told(tokens: OAuthTokens, issued_type: Option<&str>) -> Value {
    let mut out = Map::new();
    if let Some(issued_type) = issued_type {
        out.insert("issued_token_type".into(), issued_type.into());
    }
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
    Value::Object(out)
}
