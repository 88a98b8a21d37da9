//! The SQLite store: the suite of `portcullis-store`, and what only a file on a disk can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]
mod faults;
mod killed;
mod opening;
mod promises;
mod reuse;
mod smoke;
mod support;
mod tampered;
