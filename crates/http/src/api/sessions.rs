//! `POST /v1/sessions` and `POST /v1/sessions/refresh`.
use crate::problem::Problem;
use crate::request::{Ctx, Json, MaybeJson};
use crate::{cookies, origin, render};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use portcullis_app::sessions::{Credentials, Tokens};
use portcullis_domain::device;
use portcullis_domain::model::SessionKind;
use portcullis_domain::refresh::How;
use portcullis_domain::sign_in::SignIn;
use portcullis_wire::{ClientId, Code, SecretString};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Both forms of the body: by password, and the answer to a challenge.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    identifier: Option<String>,
    password: Option<SecretString>,
    device_name: Option<String>,
    transport: Option<String>,
    challenge: Option<IgnoredAny>,
    factor: Option<IgnoredAny>,
    code: Option<IgnoredAny>,
    credential: Option<IgnoredAny>,
}

/// Where the refresh token travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Body,
    Cookie,
}

pub(super) async fn sign_in(ctx: Ctx, body: Json<Body>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let body = body.value;
    if body.challenge.is_some() || body.factor.is_some() || body.code.is_some() || body.credential.is_some() {
        let detail = "this server has not asked for a second factor; sign in with identifier and password";
        return Err(Problem::value("challenge", detail));
    }
    let missing = |name| Problem::malformed(format!("missing member `{name}`"));
    let identifier = body.identifier.ok_or_else(|| missing("identifier"))?;
    let password = body.password.ok_or_else(|| missing("password"))?;
    let transport = match body.transport.as_deref() {
        None | Some("body") => Transport::Body,
        Some("cookie") => Transport::Cookie,
        Some(_) => return Err(Problem::value("transport", "must be `body` or `cookie`")),
    };
    if transport == Transport::Cookie {
        // No cookie authenticates this call, but it sets one: a foreign page must not sign a browser in.
        origin::must_not_be_foreign(&ctx.shared, &ctx.headers)?;
    }
    let request = SignIn {
        kind: if transport == Transport::Cookie { SessionKind::Browser } else { SessionKind::App },
        device_name: body.device_name.as_deref().and_then(device::clean_name).or_else(|| ctx.hinted_name()),
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
        cookie: None,
    };
    let credentials = Credentials { identifier, password, device: cookies::read(&ctx.headers, cookies::DEVICE) };
    let tokens = ctx.app().sign_in(credentials, request, false).await?;
    Ok(reply(&ctx, StatusCode::CREATED, &tokens, transport).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    refresh_token: Option<SecretString>,
}

pub(super) async fn refresh(ctx: Ctx, body: MaybeJson<Refresh>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let had_body = body.value.is_some();
    let how = |cookie| How {
        client: ClientId::FIRST_PARTY,
        proven: false,
        sender: None,
        at_home: false,
        cookie,
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
    };
    if let Some(token) = body.value.and_then(|body| body.refresh_token) {
        let tokens = ctx.app().refresh(&token, how(false)).await?;
        return Ok(reply(&ctx, StatusCode::OK, &tokens, Transport::Body).await);
    }
    let Some(cookie) = cookies::read(&ctx.headers, cookies::REFRESH) else {
        return Err(match had_body {
            true => Problem::malformed("missing member `refresh_token`, and there is no refresh cookie either"),
            false => Problem::because(
                Code::RefreshInvalid,
                "There is no refresh token in the body, and no refresh cookie came: sign in.",
            ),
        });
    };
    origin::must_be_ours(&ctx.shared, &ctx.headers)?;
    match ctx.app().refresh(&cookie, how(true)).await {
        Ok(tokens) => Ok(reply(&ctx, StatusCode::OK, &tokens, Transport::Cookie).await),
        Err(error) => {
            let certain = matches!(&error, portcullis_app::AppError::Refused(refused) if refused.is_certain_end());
            let gone = if certain { vec![cookies::clear(cookies::REFRESH)] } else { vec![] };
            Err(Problem::from(error).cookies(gone))
        }
    }
}

#[derive(Serialize)]
struct TokensBody<'a> {
    session: render::SessionBody<'a>,
    access_token: &'a str,
    token_type: &'static str,
    expires_in: i64,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// `{session, access_token, token_type, expires_in, scope, refresh_token}`; with a cookie, the last one only there, and only
/// while it is the current one: a late answer must not put an older token over a newer one.
async fn reply(ctx: &Ctx, status: StatusCode, tokens: &Tokens, transport: Transport) -> Response {
    let session = &tokens.session;
    let seen = session.last_seen_at.max(session.created_at);
    let body = TokensBody {
        session: render::session(session, seen, Some(session.id)),
        access_token: tokens.access_token.expose(),
        token_type: "Bearer",
        expires_in: tokens.expires_in,
        scope: &tokens.scope,
        refresh_token: (transport == Transport::Body).then(|| tokens.refresh_token.expose()),
    };
    if transport == Transport::Body {
        return render::answer(status, &body);
    }
    let mut response = render::answer(status, &body);
    if ctx.app().is_current(tokens).await {
        let cookie = cookies::set(cookies::REFRESH, &tokens.refresh_token, session, ctx.app().now());
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    if let Some(mark) = &tokens.device
        && let Ok(cookie) = HeaderValue::from_str(&cookies::set_device(mark))
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response.into_response()
}
