//! Why a rule says no. Closed: every refusal is one of these, and each has one code.
use alloc::string::String;
use portcullis_wire::{Code, Time};

macro_rules! oauth_errors {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The errors of OAuth and OpenID Connect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum OAuthError { $($(#[$doc])* $name,)* }
        impl OAuthError {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The word on the wire.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

oauth_errors! {
    /// RFC 6749 §4.1.2.1, §5.2.
    InvalidRequest = "invalid_request";
    /// RFC 6749 §5.2.
    InvalidClient = "invalid_client";
    /// RFC 6749 §5.2.
    InvalidGrant = "invalid_grant";
    /// RFC 6749 §4.1.2.1, §5.2.
    UnauthorizedClient = "unauthorized_client";
    /// RFC 6749 §5.2.
    UnsupportedGrantType = "unsupported_grant_type";
    /// RFC 6749 §4.1.2.1.
    UnsupportedResponseType = "unsupported_response_type";
    /// RFC 6749 §5.2.
    InvalidScope = "invalid_scope";
    /// RFC 6749 §4.1.2.1.
    AccessDenied = "access_denied";
    /// RFC 7009 §2.2.1.
    UnsupportedTokenType = "unsupported_token_type";
    /// RFC 8707 §2.
    InvalidTarget = "invalid_target";
    /// RFC 9449 §5.
    InvalidDpopProof = "invalid_dpop_proof";
    /// RFC 9449 §8.
    UseDpopNonce = "use_dpop_nonce";
    /// RFC 8628 §3.5.
    AuthorizationPending = "authorization_pending";
    /// RFC 8628 §3.5.
    SlowDown = "slow_down";
    /// RFC 8628 §3.5.
    ExpiredToken = "expired_token";
    /// OpenID Connect Core §3.1.2.6.
    LoginRequired = "login_required";
    /// OpenID Connect Core §3.1.2.6.
    ConsentRequired = "consent_required";
    /// OpenID Connect Core §3.1.2.6.
    InteractionRequired = "interaction_required";
    /// OpenID Connect Core §3.1.2.6.
    RequestNotSupported = "request_not_supported";
    /// OpenID Connect Core §3.1.2.6.
    RequestUriNotSupported = "request_uri_not_supported";
    /// RFC 9101 §6.1.
    InvalidRequestUri = "invalid_request_uri";
    /// RFC 7591 §3.2.2.
    InvalidRedirectUri = "invalid_redirect_uri";
    /// RFC 7591 §3.2.2.
    InvalidClientMetadata = "invalid_client_metadata";
    /// RFC 6749 §4.1.2.1.
    TemporarilyUnavailable = "temporarily_unavailable";
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Unknown, wrong, or blocked with a wrong secret.
    InvalidCredentials,
    /// Every factor was right, and the account is blocked.
    AccountBlocked {
        /// Why, in words.
        reason: String,
        /// Until when; `None`: until somebody lifts it.
        until: Option<Time>,
    },
    /// The password was right, and nobody has shown that the account's address is theirs.
    EmailNotVerified,
    /// Not a refresh token of ours, or presented by somebody else's kind of device.
    RefreshInvalid,
    /// Past its idle or absolute end, or of an older epoch.
    RefreshExpired,
    /// It was used before and only a copy explains that.
    RefreshReused,
    /// A refresh token of ours whose grant is not there: its session ended so long ago that it was forgotten. What is not there
    /// proves nothing, so it is no certain end.
    RefreshForgotten,
    /// The act needs a proof of who acts that is no older than this.
    StepUpRequired {
        /// In seconds.
        max_age_s: i64,
    },
    /// The session was ended.
    SessionEnded {
        /// The door.
        reason: String,
    },
    /// It does not exist, or is another's.
    NotFound,
    /// The address has an account.
    EmailTaken,
    /// A value is not allowed.
    InvalidValue {
        /// Which member.
        field: &'static str,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A new password is in a list of stolen ones.
    PasswordBreached {
        /// Which member.
        field: &'static str,
    },
    /// As OAuth's endpoints say it.
    OAuth {
        /// The error.
        error: OAuthError,
        /// In words, for the client's developers.
        detail: String,
    },
    /// The actor may not do this.
    Forbidden,
    /// A rule about suspicious activity does not let it happen.
    ByRule {
        /// Why, in words.
        reason: String,
    },
    /// Something else happened at the same time; the call may be repeated.
    Conflict {
        /// What.
        detail: String,
    },
    /// The state does not allow an answer now (a token ahead of its row: a sign of a rollback).
    Unavailable {
        /// What, for operators.
        detail: String,
    },
}

impl Refused {
    /// The code that callers read.
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidCredentials => Code::InvalidCredentials,
            Self::AccountBlocked { .. } => Code::AccountBlocked,
            Self::EmailNotVerified => Code::EmailNotVerified,
            Self::RefreshInvalid => Code::RefreshInvalid,
            Self::RefreshExpired | Self::RefreshForgotten => Code::RefreshExpired,
            Self::StepUpRequired { .. } => Code::StepUpRequired,
            Self::RefreshReused => Code::RefreshReused,
            Self::SessionEnded { .. } => Code::SessionEnded,
            Self::NotFound => Code::NotFound,
            Self::EmailTaken => Code::EmailTaken,
            Self::InvalidValue { .. } => Code::InvalidValue,
            Self::PasswordBreached { .. } => Code::PasswordBreached,
            Self::OAuth { error: OAuthError::InvalidClient, .. } => Code::InvalidCredentials,
            Self::OAuth { error: OAuthError::InvalidDpopProof | OAuthError::UseDpopNonce, .. } => Code::Malformed,
            Self::OAuth { .. } => Code::Malformed,
            Self::Forbidden | Self::ByRule { .. } => Code::Forbidden,
            Self::Conflict { .. } => Code::Conflict,
            Self::Unavailable { .. } => Code::Unavailable,
        }
    }

    /// Whether it is certain that the credential is dead for good, so that a cookie that holds it may be cleared.
    pub fn is_certain_end(&self) -> bool {
        matches!(self, Self::RefreshExpired | Self::RefreshReused | Self::SessionEnded { .. })
    }
}
