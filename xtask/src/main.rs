//! What the repository does with itself: `cargo xtask tidy | test | interop | bench | soak`.
//!
//! Few dependencies and no cleverness: this is compiled before everything else. It starts other programs, reads files, and
//! says in words what is wrong and what to do. It is no part of the product, so it may look at clocks and print.
//!
//! Exit codes: 0 done, 1 a check or a test failed, 2 usage, 3 something needed is missing, 4 a measured bound was missed.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool apart from the product: it measures time, waits and talks to a terminal"
)]
mod bench;
mod interop;
mod mini_http;
#[path = "../../crates/testkit/src/ports.rs"]
mod ports;
mod process;
mod rings;
mod rust_text;
mod soak;
mod tidy;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  tidy                   checks what no compiler checks: the crate graph against ARCHITECTURE.md, SQL only in the stores,
                         axum only above `app`, crate budgets, clocks and randomness, file lengths, links, and
                         that each clause in docs/conformance.md has a test or a reason
  test [RING...]         format, tidy, lints, one build, then every ring of tests with its minutes:
                         rules, stores, surface, world, house, interop (only those named, when any are named)
  interop [NAME...]      clients of others' making against the real server (only those named, when any are named): `rust`,
                         the workspace in interop/ with format, lints and tests; and the scripts beside it
  bench [SECTION...] [--quick]
                         one table: ours, the machine's limit or a peer beside it, the ratio, all from one run
  bench cluster [--quick | --refreshes | --verifiers]
                         one node and three on a PostgreSQL of its own: refreshes beside pgbench (only those with
                         --refreshes), revocations per second, and when 30 and 1,000 verifiers have applied them
  bench instructions [--write]
                         instructions of the pure hot paths, held against bench/instructions.toml, or written there
  bench mass [--sessions N]
                         revocation among 2,000,000 sessions: everyone by one entry, by filter as a job; time until enforced,
                         and how refreshes fare meanwhile
  bench flames           where processor time goes, by `perf`: pictures in docs/performance
  bench rules            what an event costs: a memory, signals, the built-in rules about suspicious activity
  bench trips [--calls N]
                         from a call that trips such a rule to when 30 verifiers have applied what it ended
  bench smoke            refreshes per second of the server beside its floor program, in the same run; memory, start, size
  soak [--seeds N] [--from M]
                         the simulator over many more seeds (default: 20000 from 1000000)
  soak kills [--points N]
                         kill -9 of a server under load, so many times (default: 300)
  soak cluster [--rounds N] [--seed S]
                         three nodes on PostgreSQL, and so many things that go wrong (default: 200)
  help                   this page
";

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// A check or a test failed; it has been said already.
    Failed,
    /// The command line is wrong.
    Usage(String),
    /// A program or file that is needed is missing or did not work.
    Missing(String),
    /// A measured bound was missed.
    Bound(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Missing(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] => Err(Failure::Usage("which command?".into())),
        ["help" | "--help" | "-h", ..] => {
            print!("{HELP}");
            Ok(())
        }
        ["tidy"] => tidy::command(),
        ["test", rings @ ..] => rings::command(rings),
        ["interop", names @ ..] => interop::command(names),
        ["bench", "smoke"] => bench::command(),
        ["bench", "flames"] => bench::flames::command(),
        ["bench", "rules"] => bench::rules(),
        ["bench", "instructions", rest @ ..] => bench::instructions::command(rest),
        ["bench", "trips", rest @ ..] => bench::trips::command(rest),
        ["bench", "mass", rest @ ..] => bench::mass::command(rest),
        ["bench", "cluster", rest @ ..] => bench::cluster::command(rest),
        ["bench", rest @ ..] => bench::table::command(rest),
        ["soak", rest @ ..] => soak::command(rest),
        [unknown, ..] => Err(Failure::Usage(format!("no command like `{unknown}`, or it takes no arguments"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed) => ExitCode::from(1),
        Err(Failure::Usage(what)) => {
            eprintln!("xtask: {what}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(Failure::Missing(what)) => {
            eprintln!("xtask: {what}");
            ExitCode::from(3)
        }
        Err(Failure::Bound(what)) => {
            eprintln!("xtask: {what}");
            ExitCode::from(4)
        }
    }
}
