//! Applications by OAuth 2.1 and OpenID Connect: who a client is, what it gets, and how it gives that up. The rules are
//! `domain::{client, authorize, code, refresh}`; every end goes through the one kernel.
mod assertion;
mod authorize;
mod client_keys;
mod clients;
mod configured;
mod device;
mod dpop;
mod exchange;
mod global;
mod grants;
mod logout;
pub mod pace;
mod pushed;
mod register;
mod registry;
mod sector;
mod service;
mod tokens;

pub(crate) use client_keys::ClientKeys;
pub(crate) use clients::has_secret;
pub use clients::{Known, Proof};
pub use configured::{Applied, Configured};
pub use device::DeviceQuestion;
pub use global::Subject;
pub use grants::ConnectedApp;
pub use register::SelfRegistered;
pub(crate) use registry::new_secret;
pub use registry::{ClientPatch, MAX_OVERLAP};
pub use tokens::{Bearer, Less, OAuthTokens};
pub(crate) use tokens::{narrow_audience, narrowed};

use crate::AppError;
use portcullis_domain::Refused;
use portcullis_domain::refused::OAuthError;
use portcullis_wire::Code;

/// What strangers may begin, by address prefix.
#[derive(Debug)]
pub(crate) struct Paces {
    /// Requests of devices: 60, then one every two seconds.
    pub(crate) devices: pace::Pace,
    /// Registrations: 20, then one a minute.
    pub(crate) registrations: pace::Pace,
    /// Of all prefixes together: 200, then one every ten seconds.
    pub(crate) all_registrations: pace::Pace,
}

impl Default for Paces {
    fn default() -> Self {
        Self {
            devices: pace::Pace::new(60, 2_000),
            registrations: pace::Pace::new(20, 60_000),
            all_registrations: pace::Pace::new(200, 10_000),
        }
    }
}

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
