//! `cargo xtask interop`: the workspace in `interop/`, where our crates meet large ones of others.
//!
//! It is no part of the main workspace, so that what it compiles stays out of the product's lock file; it builds into the same
//! folder, for most of what it needs is there already.
use crate::rings::{PROGRAM_LIMIT, Tally, judge, log_file};
use crate::workspace::{self, Workspace};
use crate::{Failure, process};
use std::process::Command;

/// The ring's name.
pub const RING: &str = "interop";

/// `interop`.
pub fn command() -> Result<(), Failure> {
    let tally = run(&workspace::load()?)?;
    if tally.failed == 0 { Ok(()) } else { Err(Failure::Failed) }
}

/// Format, lints, tests.
pub fn run(workspace: &Workspace) -> Result<Tally, Failure> {
    println!("\n{RING}");
    let mut tally = Tally::default();
    let format = cargo(workspace, &["fmt", "--", "--check", "--files-with-diff"]);
    let lints =
        cargo(workspace, &["clippy", "--release", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    for (name, mut step) in [("format", format), ("lints", lints)] {
        if process::run(&mut step).is_err() {
            println!("  {RING}/{name}: FAILED");
            tally.failed += 1;
        }
    }
    let log = log_file(workspace, RING, "all")?;
    let mut tests = cargo(workspace, &["test", "--release", "--locked", "--all-targets"]);
    tests.env("RUST_BACKTRACE", "0");
    let ran = judge(RING, &log, process::logged(&mut tests, &log, PROGRAM_LIMIT)?, false)?;
    if ran == Tally::default() {
        println!("  nothing ran: a ring without tests has failed");
        tally.failed += 1;
    }
    tally.add(ran);
    Ok(tally)
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.args(arguments).current_dir(workspace.root.join("interop")).env("CARGO_TARGET_DIR", &workspace.target);
    cargo
}
