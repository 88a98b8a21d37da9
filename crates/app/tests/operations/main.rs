//! Operations on a real store, without HTTP: every door against every credential, faults at every operation, races.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on stops")]

mod acts;
mod application;
mod audit;
mod breached;
mod codes;
mod doors;
mod every_act;
mod faults;
mod feed;
mod history;
mod housekeeping;
mod keys;
mod master;
mod nodes;
mod outbox;
mod races;
mod repeats;
mod risk;
mod world;
