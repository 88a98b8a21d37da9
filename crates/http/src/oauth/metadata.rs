//! What others can find out by themselves: keys and metadata. Only what is true now.
use crate::render;
use crate::request::Ctx;
use axum::response::Response;
use http::{HeaderValue, header};
use portcullis_domain::client::GrantType;
use serde_json::json;

/// For how long others may keep public metadata. The next signing key is listed long before it signs.
const KEEP: HeaderValue = HeaderValue::from_static("public, max-age=300");

fn kept(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, KEEP);
    response
}

/// The public signing keys (RFC 7517 §5), for those who do not follow the feed.
pub(super) async fn jwks(ctx: Ctx) -> Response {
    kept(render::ok(&json!({ "keys": ctx.app().keys().jwks() })))
}

/// RFC 8414 §2, OpenID Connect Discovery §3.
pub(super) async fn metadata(ctx: Ctx) -> Response {
    let issuer = &ctx.shared.config().issuer;
    let at = |path: &str| format!("{issuer}{path}");
    let keys = ctx.app().keys();
    let proven = ["client_secret_basic", "client_secret_post", "private_key_jwt"];
    let all = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"];
    // What clients sign with: the same as for proofs of keys.
    let signed = portcullis_wire::dpop::ALGORITHMS;
    let mut told = json!({
        "issuer": issuer,
        "jwks_uri": at("/.well-known/jwks.json"),
        "authorization_endpoint": at("/oauth2/authorize"),
        "token_endpoint": at("/oauth2/token"),
        "device_authorization_endpoint": at("/oauth2/device"),
        "pushed_authorization_request_endpoint": at("/oauth2/par"),
        "require_pushed_authorization_requests": false,
        "userinfo_endpoint": at("/oauth2/userinfo"),
        "revocation_endpoint": at("/oauth2/revoke"),
        "introspection_endpoint": at("/oauth2/introspect"),
        "global_token_revocation_endpoint": at("/oauth2/global-token-revocation"),
        "global_token_revocation_endpoint_auth_methods_supported": ["client_secret_basic"],
        "token_endpoint_auth_methods_supported": all,
        "token_endpoint_auth_signing_alg_values_supported": signed,
        "revocation_endpoint_auth_methods_supported": all,
        "revocation_endpoint_auth_signing_alg_values_supported": signed,
        "introspection_endpoint_auth_methods_supported": proven,
        "introspection_endpoint_auth_signing_alg_values_supported": signed,
        "end_session_endpoint": at("/oauth2/logout"),
        "frontchannel_logout_supported": true,
        "frontchannel_logout_session_supported": true,
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": GrantType::ALL,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
        "dpop_signing_alg_values_supported": signed,
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "subject_types_supported": ["public", "pairwise"],
        "id_token_signing_alg_values_supported": signed,
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "azp", "sid", "at_hash", "name", "email",
            "email_verified",
        ],
        "acr_values_supported": [portcullis_domain::issue::ACR],
        "prompt_values_supported": ["none", "login", "select_account", "consent"],
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "portcullis_token_signing_alg_values_supported": keys.algorithms(),
        "portcullis_feed_endpoint": at("/v1/feed"),
        "portcullis_bound_ms": ctx.app().hub().bound_ms(),
    });
    // By the same keys.
    told["userinfo_signing_alg_values_supported"] = told["id_token_signing_alg_values_supported"].clone();
    if ctx.app().registers_clients() {
        told["registration_endpoint"] = at("/oauth2/register").into();
    }
    kept(render::ok(&told))
}
