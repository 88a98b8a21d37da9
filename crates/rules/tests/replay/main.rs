//! The default policy over the corpus, what a policy file may be, and what conditions mean.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on stops, and figures are printed"
)]

mod at_home;
mod conditions;
mod copies;
mod figures;
mod files;
mod memory;
mod outcomes;
mod replay;
mod rows;
mod trace;
