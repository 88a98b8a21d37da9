//! One test binary; real signatures, made here.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]
mod algorithms;
mod jose;
mod judgement;
mod renewal;
mod support;
