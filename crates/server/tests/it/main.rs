//! Tests of the binary: every one enters by the command line or by HTTP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod breached;
mod cli;
mod cluster;
mod config;
mod databases;
mod demo_api;
mod dev;
mod doctor;
mod doors;
mod failover;
mod fleet;
mod full;
mod guessing;
mod kept;
mod keys;
mod killed;
mod mail;
mod mass;
mod nodes;
mod outbox;
mod packaging;
mod paused;
mod places;
mod policy;
mod postgres;
mod refresh;
mod relay;
mod rollback;
mod rules;
mod serve;
mod sightings;
mod silent;
mod stopped;
mod storage;
mod support;
mod tls;
mod trail;
mod transfer;
mod unwilling;
mod webhooks;
