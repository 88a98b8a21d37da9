//! What tests of several crates need: a whole server on loopback with a real database, a small HTTP client, a real browser,
//! directories that clean up after themselves.
//!
//! This crate is for tests: it panics with words when something does not work, and it waits. No product crate depends on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and ends")]
pub mod application;
pub mod browser;
pub mod client;
pub mod clock;
pub mod idp;
pub mod mails;
pub mod names;
pub mod ports;
pub mod postgres;
pub mod proxy;
pub mod receiver;
pub mod server;
pub mod signer;
mod standby;
pub mod temp;

pub use application::{Application, parameter};
pub use browser::Browser;
pub use client::{Answer, Client, Events};
pub use idp::Idp;
pub use mails::PostOffice;
pub use names::Names;
pub use portcullis_store_sqlite::OpenOptions;
pub use ports::lasting_address;
pub use postgres::{Cluster, SMALL};
pub use receiver::{Receiver, Reply};
pub use server::{Options, SignedIn, TestServer};
pub use signer::Signer;
pub use temp::TempDir;
