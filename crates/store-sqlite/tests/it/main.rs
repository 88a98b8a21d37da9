//! The SQLite store: the suite of `portcullis-store`, and what only a file on a disk can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod killed;
mod opening;
mod promises;
mod smoke;
mod support;
