//! `/oauth2/introspect` (RFC 7662) and the metadata under `/.well-known`: only what is true now.
use crate::problem::{BASIC_CHALLENGE, Problem};
use crate::render;
use crate::request::{Ctx, FormBytes, Params};
use crate::table::Table;
use axum::response::Response;
use http::{HeaderValue, header};
use portcullis_wire::Code;
use serde_json::{Value, json};

pub(crate) fn routes(table: Table) -> Table {
    table
        .get("/.well-known/jwks.json", jwks)
        .get("/.well-known/openid-configuration", metadata)
        .get("/.well-known/oauth-authorization-server", metadata)
        .post("/oauth2/introspect", introspect)
}

/// For how long others may keep public metadata. The next signing key is listed long before it signs.
const KEEP: HeaderValue = HeaderValue::from_static("public, max-age=300");

fn kept(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, KEEP);
    response
}

/// The public signing keys (RFC 7517 §5), for those who do not follow the feed.
async fn jwks(ctx: Ctx) -> Response {
    kept(render::ok(&json!({ "keys": ctx.app().keys().public() })))
}

/// RFC 8414 §2, OpenID Connect Discovery §3.
async fn metadata(ctx: Ctx) -> Response {
    let issuer = &ctx.shared.config().issuer;
    kept(render::ok(&json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "introspection_endpoint": format!("{issuer}/oauth2/introspect"),
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic"],
        "response_types_supported": [],
        "grant_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [],
        "portcullis_token_signing_alg_values_supported": ctx.app().keys().algorithms(),
        "portcullis_feed_endpoint": format!("{issuer}/v1/feed"),
        "portcullis_bound_ms": ctx.app().hub().bound_ms(),
    })))
}

/// Whether a token lives, by the database. Of a token that does not, nothing is told but that.
async fn introspect(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let refused = || {
        Problem::oauth(
            "invalid_client",
            Code::InvalidCredentials,
            "authenticate with HTTP Basic as a client with a secret",
        )
        .header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE)
    };
    let (id, secret) = ctx.basic().ok_or_else(refused)?;
    ctx.app().authenticate_client(&id, &secret).await?.ok_or_else(refused)?;
    let wrong = |detail: &str| Problem::oauth("invalid_request", Code::Malformed, detail);
    let body = form.0.ok_or_else(|| wrong("send the body as application/x-www-form-urlencoded"))?;
    let mut params = Params::oauth(&body).map_err(|name| wrong(&format!("the parameter {name:?} is given twice")))?;
    let token = params.take("token").ok_or_else(|| wrong("the parameter \"token\" is missing"))?;
    let answer = match ctx.app().introspect(&token).await? {
        Some(claims) => {
            let mut out = serde_json::to_value(&claims).map_err(|_| Problem::new(Code::Unavailable))?;
            out["active"] = true.into();
            out["token_type"] = "Bearer".into();
            out
        }
        None => Value::Object(std::iter::once(("active".to_owned(), Value::Bool(false))).collect()),
    };
    Ok(render::ok(&answer))
}
