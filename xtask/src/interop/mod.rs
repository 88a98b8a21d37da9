//! `cargo xtask interop`: what others made, against the real server.
//!
//! Two parts. The workspace in `interop/` holds what is written in Rust; it is no part of the main workspace, so that what it
//! compiles stays out of the product's lock file, and it builds into the same folder, for most of what it needs is there
//! already. Beside it stand scripts for clients in other languages, each with a server of its own (`clients.rs`).
mod clients;
mod place;
pub mod tools;

pub use tools::{node, python};

use crate::rings::{PROGRAM_LIMIT, Tally, judge, log_file, minutes};
use crate::workspace::{self, Workspace};
use crate::{Failure, process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The ring's name.
pub const RING: &str = "interop";
/// The name of the part in Rust.
const RUST: &str = "rust";
/// Another server to try than the one that would be built.
const SERVER_VARIABLE: &str = "PORTCULLIS_INTEROP_SERVER";

/// Which clients run.
pub enum Wanted<'a> {
    /// Those that need nothing but what is installed quickly.
    Quick,
    /// All.
    All,
    /// Those with these names.
    Named(&'a [&'a str]),
}

impl Wanted<'_> {
    fn rust(&self) -> bool {
        match self {
            Self::Named(names) => names.contains(&RUST),
            _ => true,
        }
    }
    fn client(&self, client: &clients::Client) -> bool {
        match self {
            Self::Quick => client.quick,
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| client.is(name)),
        }
    }
}

/// `interop [NAME...]`.
pub fn command(names: &[&str]) -> Result<(), Failure> {
    if let Some(unknown) = names.iter().find(|name| **name != RUST && !clients::ALL.iter().any(|one| one.is(name))) {
        let mut known: Vec<&str> = clients::ALL.iter().map(|client| client.name).collect();
        known.dedup();
        return Err(Failure::Usage(format!("no client `{unknown}`; there are {RUST}, {}", known.join(", "))));
    }
    let wanted = if names.is_empty() { Wanted::All } else { Wanted::Named(names) };
    let workspace = workspace::load()?;
    let server = if wanted.any_script() { Some(server(&workspace)?) } else { None };
    let tally = run(&workspace, &wanted, server.as_deref())?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 { Ok(()) } else { Err(Failure::Failed) }
}

impl Wanted<'_> {
    fn any_script(&self) -> bool {
        clients::ALL.iter().any(|client| self.client(client))
    }
}

/// The server's program: the one that is named, or the one that is built now.
fn server(workspace: &Workspace) -> Result<PathBuf, Failure> {
    if let Some(given) = std::env::var_os(SERVER_VARIABLE) {
        return Ok(given.into());
    }
    let arguments = ["build", "--release", "--locked", "--package", "portcullis-server"];
    process::run(process::cargo().args(arguments).current_dir(&workspace.root))?;
    Ok(workspace.target.join("release/portcullis"))
}

/// Runs what is wanted. `server` is the program that the scripts meet.
pub fn run(workspace: &Workspace, wanted: &Wanted<'_>, server: Option<&Path>) -> Result<Tally, Failure> {
    let begun = Instant::now();
    println!("\n{RING}");
    let mut tally = Tally::default();
    if wanted.rust() {
        tally.add(rust(workspace)?);
    }
    if wanted.any_script() {
        let server = server.ok_or_else(|| Failure::Missing("the server's program was not built".into()))?;
        tally.add(clients::run(workspace, |client| wanted.client(client), server)?);
    }
    println!("{RING}: {} passed, {} failed in {}", tally.passed, tally.failed, minutes(begun.elapsed()));
    Ok(tally)
}

/// Format, lints, tests of the workspace in `interop/`.
fn rust(workspace: &Workspace) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let format = cargo(workspace, &["fmt", "--", "--check", "--files-with-diff"]);
    let lints =
        cargo(workspace, &["clippy", "--release", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    for (name, mut step) in [("format", format), ("lints", lints)] {
        if process::run(&mut step).is_err() {
            println!("  {RUST}/{name}: FAILED");
            tally.failed += 1;
        }
    }
    let log = log_file(workspace, RING, "all")?;
    let mut tests = cargo(workspace, &["test", "--release", "--locked", "--all-targets"]);
    tests.env("RUST_BACKTRACE", "0");
    tally.add(judged(RUST, &log, process::logged(&mut tests, &log, PROGRAM_LIMIT)?)?);
    Ok(tally)
}

/// As [`judge`]; and whoever ran nothing has failed.
fn judged(name: &str, log: &Path, logged: process::Logged) -> Result<Tally, Failure> {
    let mut tally = judge(name, log, logged, false)?;
    if tally == Tally::default() {
        println!("  {name}: nothing ran: a client without checks has failed");
        tally.failed += 1;
    }
    Ok(tally)
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.args(arguments).current_dir(workspace.root.join("interop")).env("CARGO_TARGET_DIR", &workspace.target);
    cargo
}
