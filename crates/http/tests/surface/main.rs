//! The outside surface, asked from outside: real HTTP, the real SQLite store, a real browser. Modules mirror the routes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and ends")]
mod accounts;
mod admin;
mod api_keys;
mod attacks;
mod bad_input;
mod connections;
mod cookies;
mod email;
mod faults;
mod feed;
mod guessing;
mod late;
mod mail;
mod me;
mod notices;
mod oauth;
mod one_rule;
mod ops;
mod pages;
mod policy;
mod problems;
mod recovery;
mod risk;
mod sessions;
mod sightings;
