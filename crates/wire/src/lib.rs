//! What crosses the wire: typed ids, secrets that redact themselves, times, token claims, compact JWS, feed frames and
//! problem codes.
//!
//! Everything here is data and its strict parsing. There is no I/O, no clock, no source of randomness, no signature check
//! (that needs a cryptographic library; see `verify`), and no rule: what a revocation *means* stands in `feed`, what a
//! refresh token *may do* stands in `domain`. The crate is `no_std`, so the compiler proves the absence of the first three.
//!
//! Parsing is done once, at the edge, and fails closed: an id of another kind, a claim given twice, an algorithm that is
//! not on the list, a time that is not UTC are errors here, so that no later code has to ask again.
#![no_std]
extern crate alloc;

pub mod assertion;
pub mod b64;
pub mod chain;
pub mod claims;
pub mod dpop;
pub mod frame;
mod header;
pub mod ids;
pub mod json;
pub mod jwk;
pub mod jws;
pub mod problem;
pub mod secret;
pub mod time;

pub use chain::Chain;
pub use claims::AccessClaims;
pub use frame::{Entry, Target, Verb};
pub use ids::{
    AccountId, ClientId, Epoch, EventId, GrantId, InstanceId, JobId, KeyId, LinkId, LogId, MessageId, NodeId,
    ParseIdError, Rev, RunId, SessionId, TokenId, WebhookId,
};
pub use problem::Code;
pub use secret::{Digest, SecretBytes, SecretString};
pub use time::{Millis, Time};
