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
pub use tokens::{Bearer, Less, OAuthTokens, ToldUser};
pub(crate) use tokens::{narrow_audience, narrowed};

use crate::{AppError, real};
use pace::Kept;
use portcullis_domain::refused::OAuthError;
use portcullis_domain::{Refused, pace as rules};
use portcullis_wire::Code;
use std::net::IpAddr;

/// What strangers may begin at this node.
#[derive(Debug)]
pub(crate) struct Paces {
    devices: Kept,
    registrations: Kept,
    pushed: Kept,
    proofs: Kept,
    /// Sign-ins by another provider.
    pub(crate) upstream: Kept,
    /// Sign-ups from this machine itself.
    pub(crate) sign_ups_here: Kept,
    /// Links to a new password that are asked for.
    pub(crate) recovery: Kept,
}

impl Default for Paces {
    fn default() -> Self {
        Self {
            devices: Kept::new(rules::DEVICES),
            registrations: Kept::new(rules::REGISTRATIONS),
            pushed: Kept::new(rules::PUSHED),
            proofs: Kept::new(rules::PROOFS),
            upstream: Kept::new(rules::UPSTREAM),
            sign_ups_here: Kept::new(rules::SIGN_UPS_HERE),
            recovery: Kept::new(rules::RECOVERY),
        }
    }
}

impl Known {
    /// Whether it is counted as a stranger.
    fn is_stranger(&self) -> bool {
        rules::is_stranger(&self.client, self.proven)
    }
}

/// Takes one from a budget of this node.
///
/// # Errors
/// [`AppError::TooOften`].
pub(crate) fn keeps_pace(kept: &Kept, ip: Option<IpAddr>) -> Result<(), AppError> {
    kept.take(ip, real::mono()).map_err(|wait_ms| AppError::TooOften { wait_ms })
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
        | AppError::TooOften { .. }
        | AppError::Fault(_) => return error,
        AppError::Unauthenticated(_) => "what this rests on has ended",
        AppError::Bad(code, _) => code.title(),
        AppError::NeedsScope { .. } => Code::InsufficientScope.title(),
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
