//! The PostgreSQL store: the suite of `portcullis-store`, and what only several nodes on one database can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]
mod chain;
mod deposed;
mod locks;
mod nodes;
mod opening;
mod promises;
mod refreshes;
mod shapes;
mod slow;
mod support;
mod together;
mod two;
mod upgrade;
mod waking;
