//! One test binary; a module per module of the crate.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may fail the test")]
mod cluster;
mod fleet;
mod publisher;
mod relay;
mod set;
mod subscriber;
mod support;
