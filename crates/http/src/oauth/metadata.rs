//! What others can find out by themselves: keys and metadata. Only what is true now.
use crate::request::Ctx;
use arc_swap::ArcSwapOption;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use portcullis_app::keys::KeyRing;
use portcullis_domain::client::GrantType;
use serde_json::{Value, json};
use std::sync::{Arc, Weak};

/// For how long others may keep public metadata. The next signing key is listed long before it signs.
const KEEP: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// All that changes about the documents while a server runs. Of the keys no more than which they are: old ones are not kept alive by it.
#[derive(Debug)]
struct MadeOf {
    keys: Weak<KeyRing>,
    bound_ms: i64,
    registers: bool,
}

impl PartialEq for MadeOf {
    fn eq(&self, other: &Self) -> bool {
        // What a weak pointer points at keeps its place as long as the pointer is there, so no other ring can have it.
        self.keys.ptr_eq(&other.keys) && (self.bound_ms, self.registers) == (other.bound_ms, other.registers)
    }
}

/// A document as it was written last, with what it was made of.
#[derive(Debug, Default)]
struct Written(ArcSwapOption<(MadeOf, Bytes)>);

/// The documents, each written once for as long as it says the same.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    jwks: Written,
    metadata: Written,
}

impl Written {
    fn answer(&self, ctx: &Ctx, make: impl FnOnce(&Ctx) -> Value) -> Response {
        let app = ctx.app();
        let keys = Arc::downgrade(&app.keys());
        let made_of = MadeOf { keys, bound_ms: app.hub().bound_ms(), registers: app.registers_clients() };
        let last = self.0.load();
        let text = match last.as_ref().filter(|last| last.0 == made_of) {
            Some(last) => last.1.clone(),
            None => {
                let text = Bytes::from(make(ctx).to_string());
                self.0.store(Some(Arc::new((made_of, text.clone()))));
                text
            }
        };
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, KEEP)], text).into_response()
    }
}

/// The public signing keys (RFC 7517 §5), for those who do not follow the feed.
pub(super) async fn jwks(ctx: Ctx) -> Response {
    ctx.shared.documents().jwks.answer(&ctx, |ctx| json!({ "keys": ctx.app().keys().jwks() }))
}

/// RFC 8414 §2, OpenID Connect Discovery §3.
pub(super) async fn metadata(ctx: Ctx) -> Response {
    ctx.shared.documents().metadata.answer(&ctx, told)
}

fn told(ctx: &Ctx) -> Value {
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
    told
}
