//! One test binary. The verifier runs whole, against a small feed server made of the real publisher.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail the test")]
mod answers;
mod dpop;
mod encrypted;
mod following;
mod grpc;
mod guarding;
mod keys;
mod renewing;
mod server;
mod sockets;
