//! Why a rule says no. Closed: every refusal is one of these, and each has one code.
use alloc::string::String;
use portcullis_wire::Code;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Unknown, wrong, or blocked with a wrong secret.
    InvalidCredentials,
    /// Every factor was right, and the account is blocked.
    AccountBlocked {
        /// Why, in words.
        reason: String,
    },
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
    /// The actor may not do this.
    Forbidden,
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
            Self::RefreshInvalid => Code::RefreshInvalid,
            Self::RefreshExpired | Self::RefreshForgotten => Code::RefreshExpired,
            Self::StepUpRequired { .. } => Code::StepUpRequired,
            Self::RefreshReused => Code::RefreshReused,
            Self::SessionEnded { .. } => Code::SessionEnded,
            Self::NotFound => Code::NotFound,
            Self::EmailTaken => Code::EmailTaken,
            Self::InvalidValue { .. } => Code::InvalidValue,
            Self::Forbidden => Code::Forbidden,
            Self::Conflict { .. } => Code::Conflict,
            Self::Unavailable { .. } => Code::Unavailable,
        }
    }

    /// Whether it is certain that the credential is dead for good, so that a cookie that holds it may be cleared.
    pub fn is_certain_end(&self) -> bool {
        matches!(self, Self::RefreshExpired | Self::RefreshReused | Self::SessionEnded { .. })
    }
}
