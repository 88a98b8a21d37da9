//! Token → verdict: offline, by a public key and by what a verifier knows of the revocation log.
//!
//! Two steps, because they age differently. [`authenticate`] looks at what never changes: the form of the token, its
//! signature, its claims; its result may be cached ([`Cache`]). [`judge_claims`] looks at what does: expiry, the revoked set, freshness;
//! it is done for every request, and nothing that it says may be cached (DESIGN §4.8). [`judge`] does both.
//!
//! How a token is shown is an argument of the judgement ([`Holder`]): one that is bound to a key (RFC 9449) counts for nobody who does not prove to
//! hold that.
//!
//! There is no I/O here, no clock, no lock, no async, and no source of randomness: the moment is an argument, and what
//! should follow (a catch-up, a question to the server, an alarm) is part of the answer. A verifier has one allow-list of
//! algorithms, a key has one algorithm, and a token cannot bring its own key or cause one to be fetched.
#![forbid(unsafe_code)]

mod ahead;
mod cache;
mod judge;
mod keys;
pub mod proof;
mod renewal;

pub use ahead::{AHEAD_LIMIT, AheadRecord};
pub use cache::Cache;
pub use judge::{Authentic, Decision, Expect, Reason, Verdict, View, authenticate, judge, judge_claims, unauthentic};
pub use keys::Keys;
pub use portcullis_feed::{Knowledge, Mono, Policy};
pub use proof::{Holder, ProvenKey};
pub use renewal::{NotTheSame, Shown, renewal};
