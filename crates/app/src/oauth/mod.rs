//! Applications by OAuth 2.1 and OpenID Connect: who a client is, what it gets, and how it gives that up. The rules are
//! `domain::{client, authorize, code, refresh}`; every end goes through the one kernel.
mod authorize;
mod clients;
mod global;
mod grants;
mod logout;
mod registry;
mod tokens;

pub(crate) use clients::has_secret;
pub use clients::{Known, Proof};
pub use global::Subject;
pub use grants::ConnectedApp;
pub(crate) use registry::new_secret;
pub use registry::{ClientPatch, MAX_OVERLAP};
pub(crate) use tokens::narrowed;
pub use tokens::{Bearer, OAuthTokens};

use crate::AppError;
use portcullis_domain::Refused;
use portcullis_domain::refused::OAuthError;
use portcullis_wire::Code;

/// A refusal in OAuth's words.
pub(crate) fn refuse(error: OAuthError, detail: impl Into<String>) -> AppError {
    Refused::OAuth { error, detail: detail.into() }.into()
}

/// What a rule refuses in our own words, as an OAuth endpoint says it: what was to be exchanged does not count (any more).
/// Faults stay faults, so that a client repeats instead of signing somebody out (I9).
pub(crate) fn as_grant_error(error: AppError) -> AppError {
    let detail = match &error {
        AppError::Refused(Refused::OAuth { .. } | Refused::Unavailable { .. })
        | AppError::Overloaded
        | AppError::Fault(_) => return error,
        AppError::Unauthenticated(_) => "what this rests on has ended",
        AppError::Bad(code, _) => code.title(),
        AppError::Refused(refused) => match refused.code() {
            Code::RefreshReused => {
                "this token had been used before: somebody may hold a copy, so everything that came of it has ended"
            }
            Code::RefreshExpired => "this refresh token has expired",
            Code::SessionEnded => "the session that this belongs to has ended",
            Code::RefreshInvalid => "this is no refresh token of this client",
            Code::Conflict => "access was taken away while this was under way",
            _ => "what this rests on does not live any more",
        },
    };
    refuse(OAuthError::InvalidGrant, detail)
}
