//! The rules under thousands of cases, without a store: a world of one row that is changed as a store would change it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on stops")]

mod audit;
mod authorize;
mod cookie;
mod email;
mod enforce;
mod hashes;
mod import;
mod issue;
mod keys;
mod mass;
mod pace;
mod policy;
mod proofs;
mod receivers;
mod recovery;
mod refresh;
mod sign_in;
mod throttle;
mod upstream;
mod world;
