//! The revocation log as state machines: the set of what is revoked, the side that publishes the log, the side that follows
//! it, and the bookkeeping of who follows and what is therefore enforced.
//!
//! Everything here is a rule over data. There is no I/O, no clock, no async, no source of randomness and no cryptography:
//! times come in as arguments ([`Mono`] for spans, [`portcullis_wire::Time`] for what the database or a wall clock said),
//! chance comes in as a number, and what should be done comes out as values. The crate is `no_std`, so the compiler proves
//! it; the only maps are ordered ones, so the same inputs give the same outputs on every run and machine.
//!
//! | module | holds |
//! |---|---|
//! | [`set`] | [`RevokedSet`]: token → live, ended or stale; persistent, so that readers never wait for a writer |
//! | [`publisher`] | [`Publisher`]: the log at the server: order, chain, resume, snapshots |
//! | [`fleet`] | [`Fleet`]: which verifiers hold leases, and since when a revocation is enforced everywhere |
//! | [`cluster`] | what several server nodes on one log say of that together |
//! | [`subscriber`] | [`Subscriber`]: the log at the verifier: snapshot, entries, leases |
//! | [`relay`] | [`Relay`]: one follower that serves many: whose age it tells, and what it may acknowledge for them |
//! | [`knowledge`] | [`Knowledge`]: what a verifier knows at one moment, and whether that is fresh |
#![no_std]
extern crate alloc;

pub mod cluster;
pub mod fleet;
pub mod knowledge;
pub mod mono;
pub mod policy;
pub mod publisher;
pub mod relay;
pub mod set;
pub mod subscriber;

pub use fleet::{Enforcement, Fleet};
pub use knowledge::Knowledge;
pub use mono::Mono;
pub use policy::{Policies, Policy};
pub use publisher::Publisher;
pub use relay::Relay;
pub use set::{RevokedSet, Subject, Verdict};
pub use subscriber::Subscriber;
