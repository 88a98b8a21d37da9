//! What can go wrong in an operation, in three kinds: a refusal (closed, the caller's business), a refusal of the caller's
//! credentials, and a fault (opaque, the operator's business: logged here, 503 outside).
use portcullis_domain::Refused;
use portcullis_store::{CommitError, FaultKind, StoreError};
use portcullis_wire::Code;
use std::fmt;

/// Why an operation gave no result.
#[derive(Debug, Clone)]
pub enum AppError {
    /// A rule said no.
    Refused(Refused),
    /// The caller's token, cookie or secret does not count.
    Unauthenticated(Code),
    /// The request itself is not right: which code, and what to do in words.
    Bad(Code, String),
    /// The token is good and does not reach far enough.
    NeedsScope {
        /// The scope that is needed (RFC 6750 §3.1).
        scope: &'static str,
        /// What to do in words.
        detail: String,
    },
    /// Too much to do at the moment.
    Overloaded,
    /// A stranger begins more than their share (`domain::pace`).
    TooOften {
        /// When to come again, in milliseconds.
        wait_ms: i64,
    },
    /// A fault on this side. The text is for the log only.
    Fault(Fault),
}

/// What went wrong on this side.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Its kind; [`FaultKind::Other`] when it is not the database's.
    pub kind: FaultKind,
    /// What happened, for operators.
    pub detail: String,
}

impl From<String> for Fault {
    fn from(detail: String) -> Self {
        Self { kind: FaultKind::Other, detail }
    }
}

impl From<&str> for Fault {
    fn from(detail: &str) -> Self {
        detail.to_owned().into()
    }
}

impl Fault {
    fn of(kind: FaultKind, what: &impl fmt::Display) -> Self {
        Self { kind, detail: what.to_string() }
    }
}

impl AppError {
    /// The code that callers read.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Unauthenticated(code) | Self::Bad(code, _) => *code,
            Self::NeedsScope { .. } => Code::InsufficientScope,
            Self::Overloaded | Self::TooOften { .. } => Code::Overloaded,
            Self::Fault(_) => Code::Unavailable,
        }
    }

    /// What to tell the caller beyond the title; never the inside of a fault.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Refused(Refused::InvalidValue { field, detail }) => Some(format!("{field}: {detail}")),
            Self::Refused(Refused::Conflict { detail }) => Some(detail.clone()),
            Self::Refused(Refused::ByRule { reason }) => {
                Some(format!("a rule about suspicious activity does not let this happen: {reason}"))
            }
            Self::Bad(_, detail) | Self::NeedsScope { detail, .. } => Some(detail.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "{}: {}", self.code(), fault.detail),
            _ => write!(f, "{}", self.code()),
        }
    }
}
impl std::error::Error for AppError {}

impl From<Refused> for AppError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        Self::Fault(Fault::of(error.kind, &error))
    }
}

impl From<CommitError> for AppError {
    fn from(error: CommitError) -> Self {
        match &error {
            CommitError::Failed(fault) if fault.kind == FaultKind::Overloaded => Self::Overloaded,
            CommitError::Failed(fault) | CommitError::Unknown(fault) => Self::Fault(Fault::of(fault.kind, &error)),
            CommitError::Conflict(_) => Self::Fault(Fault::of(FaultKind::Other, &error)),
        }
    }
}
