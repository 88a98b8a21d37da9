//! OAuth 2.1 and OpenID Connect: the metadata under `/.well-known`, and the endpoints that clients call themselves. Those that
//! browsers are sent to are pages ([`crate::pages`]).
mod device;
mod dpop;
mod form;
mod global;
pub(crate) mod metadata;
mod par;
mod register;
mod request;
mod token;
mod tokens;
mod upstream;

pub(crate) use form::{AsClient, OAuthForm};
pub(crate) use request::{request_of, with_resources};

use crate::problem::{BASIC_CHALLENGE, Problem};
use crate::table::Table;
use http::header;
use portcullis_app::AppError;
use portcullis_domain::Refused;
use portcullis_domain::refused::OAuthError;

pub(crate) fn routes(table: Table) -> Table {
    table
        .get("/.well-known/jwks.json", metadata::jwks)
        .get("/.well-known/openid-configuration", metadata::metadata)
        .get("/.well-known/oauth-authorization-server", metadata::metadata)
        .post("/oauth2/device", device::begin)
        .post("/oauth2/register", register::register)
        .get("/oauth2/register/{client_id}", register::get)
        .put("/oauth2/register/{client_id}", register::put)
        .delete("/oauth2/register/{client_id}", register::delete)
        .post("/oauth2/par", par::par)
        .post("/oauth2/token", token::token)
        .post("/oauth2/introspect", tokens::introspect)
        .post("/oauth2/revoke", tokens::revoke)
        .post("/upstream/{id}/backchannel-logout", upstream::logout)
        .post("/oauth2/global-token-revocation", global::revoke)
        .get("/oauth2/userinfo", tokens::userinfo)
        .post("/oauth2/userinfo", tokens::userinfo)
}

/// A refusal as OAuth's endpoints tell it (RFC 6749 §5.2). A fault stays a 503, which no client takes for a refusal.
pub(crate) fn problem(error: AppError) -> Problem {
    match error {
        AppError::Refused(Refused::OAuth { error, detail }) => {
            let code = Refused::OAuth { error, detail: String::new() }.code();
            let problem = Problem::oauth(error.as_str(), code, detail);
            if error == OAuthError::InvalidClient {
                return problem.header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE);
            }
            problem
        }
        error @ AppError::TooOften { .. } => Problem::from(error).in_oauth(OAuthError::SlowDown.as_str()),
        error => error.into(),
    }
}

/// A refusal that the request itself causes.
pub(crate) fn invalid_request(detail: impl Into<String>) -> Problem {
    refuse(OAuthError::InvalidRequest, detail)
}

/// A refusal with this error.
pub(crate) fn refuse(error: OAuthError, detail: impl Into<String>) -> Problem {
    problem(Refused::OAuth { error, detail: detail.into() }.into())
}
