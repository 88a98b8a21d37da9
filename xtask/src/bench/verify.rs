//! `cargo xtask bench verify`: what it costs a service to judge a token, beside the bare signature and beside libraries of others.
//!
//! Our figures are processor time of the measuring thread, medians of many short batches in each round (`bench/verifying`): so they hardly change on
//! a busy machine, and what another program does to caches is seen all the same. The peers count what they do in a second of their processor time, of
//! all their threads, in turns with ours.
use super::instructions::allocations;
use super::table::{Aim, Ask, Figure, Row, Unit};
use crate::{Failure, interop, process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Live entries in the set.
const LIVE: usize = 1_000_000;
/// Rounds in an earnest run.
const ROUNDS: usize = 9;
/// One round's figures by name.
type Round = BTreeMap<String, f64>;

/// The section.
pub fn section(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let programs = build(ask)?;
    let live = if ask.quick { LIVE / 100 } else { LIVE };
    let mut measuring = Command::new(programs.join("portcullis-verifying"));
    let text = process::output(measuring.args(["measure", &ask.rounds(ROUNDS).to_string(), &live.to_string()]))?;
    let rounds: Vec<Round> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut rows = rows_of(&rounds, live);
    let allocated = allocations(&programs.join("portcullis-instructions"))?;
    let allocated = Figure::once(Unit::Count, allocated as f64);
    rows.push(Row::alone("verify: allocations of 2,000 tokens seen before", allocated, Aim::AtMost(0.0)));
    rows.extend(peers(ask, &programs)?);
    rows.push(size(ask, &programs, "release")?);
    let dist = ask.workspace.target.join("dist");
    if !ask.quick {
        // As a service would be shipped; it takes minutes to build, so a quick run takes what is there.
        let build = ["build", "--profile", "dist", "--locked", "-p", "portcullis-verifying", "--bins"];
        process::run(process::cargo().args(build).current_dir(&ask.workspace.root))?;
    }
    if SIZES.iter().all(|name| dist.join(name).exists()) {
        rows.push(size(ask, &dist, "dist")?);
    }
    rows.extend(small(ask, &programs)?);
    Ok(rows)
}

/// What makes AWS-LC smaller where it is compiled: nothing that is written for AVX-512 alone, and C for size. What is in assembler, which
/// does most of a signature, stays (docs/performance/verifying.md, "A smaller verifier").
const SMALL: (&str, &str) = ("AWS_LC_SYS_CFLAGS", "-DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX=1 -Os");

/// The same with a cryptographic library that was compiled for size: how large, and how fast beside the usual build, in turns. It takes
/// minutes to build, so a quick run takes what is there.
fn small(ask: &Ask, usual: &Path) -> Result<Vec<Row>, Failure> {
    let target = ask.workspace.target.join("small");
    if !ask.quick {
        let mut building = process::cargo();
        building.args(["build", "--release", "--locked", "-p", "portcullis-verifying", "--bins"]);
        building.env(SMALL.0, SMALL.1).env("CARGO_TARGET_DIR", &target).current_dir(&ask.workspace.root);
        process::run(&mut building)?;
    }
    let programs = target.join("release");
    if !SIZES.iter().all(|name| programs.join(name).exists()) {
        println!("  nothing is built for size, and nothing of it measured");
        return Ok(Vec::new());
    }
    let bare = |programs: &Path| -> Result<f64, Failure> {
        let mut measuring = Command::new(programs.join("portcullis-verifying"));
        let text = process::output(measuring.args(["measure", "1", &(LIVE / 100).to_string()]))?;
        let round = text.lines().find_map(|line| serde_json::from_str::<Round>(line).ok());
        let bare = round.and_then(|round| round.get("bare").copied());
        bare.map(|s| s * 1e6).ok_or_else(|| Failure::Missing(format!("no figure `bare` in `{text}`")))
    };
    let (mut so_built, mut as_usual) = (Vec::new(), Vec::new());
    for _ in 0..ask.rounds(5) {
        so_built.push(bare(&programs)?);
        as_usual.push(bare(usual)?);
    }
    let speed = Row::paired(
        "verify: the bare signature, ES256, by a library compiled for size",
        Unit::Us,
        &so_built,
        "as it is usually compiled",
        &as_usual,
        Aim::None,
    );
    Ok(vec![size(ask, &programs, "release, the library compiled for size")?, speed])
}

fn build(ask: &Ask) -> Result<PathBuf, Failure> {
    // The whole workspace, as the tests build it: with fewer crates they have other features, and all is built again.
    let arguments = ["build", "--release", "--locked", "--workspace", "--bins"];
    process::run(process::cargo().args(arguments).current_dir(&ask.workspace.root))?;
    Ok(ask.workspace.target.join("release"))
}

fn rows_of(rounds: &[Round], live: usize) -> Vec<Row> {
    let of = |name: &str, times: f64| -> Vec<f64> {
        rounds.iter().map(|round| round.get(name).copied().unwrap_or(f64::NAN) * times).collect()
    };
    let us = |name: &str| of(name, 1e6);
    let entries = |count: usize| match count {
        1_000_000.. => format!("{:.0} million entries", count as f64 / 1e6),
        _ => format!("{count} entries"),
    };
    let (many, few) = (entries(live), entries(live / 10));
    let alone =
        |what: String, name: &str, most: f64| Row::alone(&what, Figure::of(Unit::Us, &us(name)), Aim::AtMost(most));
    let beside = |what: String, ours: &str, theirs: &str, aim: Aim| {
        Row::paired(&what, Unit::Us, &us(ours), "the same, quiet", &us(theirs), aim)
    };
    let twice: Vec<f64> = of("one_thread", 2.0);
    vec![
        Row::paired(
            "verify: a token's first sight, ES256",
            Unit::Us,
            &us("authenticate"),
            "the bare signature (aws-lc-rs)",
            &us("bare"),
            Aim::RatioAtMost(1.05),
        ),
        alone(format!("verify: a token seen before, 1,000 hot ones, {many}"), "hot", 0.5),
        Row::alone("verify: the same, from the header on", Figure::of(Unit::Us, &us("hot_headers")), Aim::None),
        alone(format!("verify: a token seen before, at random among 100,000, {many}"), "random", 1.5),
        alone(format!("verify: the revoked set alone, {few}"), "set_small", 0.1),
        alone(format!("verify: the revoked set alone, {many}"), "set_large", 0.25),
        beside(
            format!("verify: hot, while {} entries/s are applied", rate(rounds)),
            "hot_busy",
            "hot",
            Aim::RatioAtMost(1.1),
        ),
        beside(
            format!("verify: at random, while {} entries/s are applied", rate(rounds)),
            "random_busy",
            "random",
            Aim::RatioAtMost(1.1),
        ),
        beside(
            format!("verify: the set alone, {few}, while 10,000/s are applied"),
            "set_small_busy",
            "set_small",
            Aim::RatioAtMost(1.1),
        ),
        beside(
            format!("verify: the set alone, {many}, while 10,000/s are applied"),
            "set_large_busy",
            "set_large",
            Aim::RatioAtMost(1.1),
        ),
        Row::paired(
            "verify: requests on two cores, the same tokens",
            Unit::PerSecond,
            &of("two_threads", 1.0),
            "twice one core",
            &twice,
            Aim::RatioAtLeast(0.95),
        ),
    ]
}

/// What the feed's rate came to, in words.
fn rate(rounds: &[Round]) -> String {
    let rates = rounds.iter().filter_map(|round| round.get("fed_per_s").copied()).collect();
    format!("{:.0}", super::median(rates))
}

/// Ours beside each library of others.
fn peers(ask: &Ask, programs: &Path) -> Result<Vec<Row>, Failure> {
    let root = &ask.workspace.root;
    let folder = ask.workspace.target.join("bench-verify");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("token.json");
    let program = programs.join("portcullis-verifying");
    process::run(Command::new(&program).arg("token").arg(&folder))?;
    let seconds = if ask.quick { "0.2" } else { "1" };

    let crates = root.join("bench/peers/jsonwebtoken");
    let mut building = process::cargo();
    building.args(["build", "--release", "--locked"]).current_dir(&crates);
    process::run(building.env("CARGO_TARGET_DIR", &ask.workspace.target))?;
    interop::node(&ask.workspace)?;
    let python = interop::python(&ask.workspace)?;

    let of_crate = || Command::new(programs.join("portcullis-peer-jsonwebtoken"));
    let of_node = || on("node", &root.join("bench/peers/jose/verify.mjs"));
    let of_python = || on(&python.to_string_lossy(), &root.join("bench/peers/pyjwt/verify.py"));
    let peers: [(&str, &dyn Fn() -> Command); 3] = [
        ("jsonwebtoken 12.0.0 (aws-lc-rs)", &of_crate),
        ("jose 6.2.18 (Node.js)", &of_node),
        ("PyJWT 2.15.1 (cryptography 50.0.2)", &of_python),
    ];
    let mut rows = Vec::new();
    for (name, command) in peers {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ask.rounds(5) {
            let mut first = Command::new(&program);
            ours.push(per_s(first.arg("first").arg(&folder).arg(seconds))?);
            theirs.push(per_s(command().arg(&file).arg(seconds))?);
        }
        rows.push(Row::paired(
            "verify: tokens never seen before, ES256, per second of a core",
            Unit::PerSecond,
            &ours,
            name,
            &theirs,
            Aim::RatioAtLeast(1.0),
        ));
    }
    Ok(rows)
}

fn on(interpreter: &str, script: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(script);
    command
}

/// Runs on the first core where that can be said, and reads what it says.
fn per_s(command: &mut Command) -> Result<f64, Failure> {
    let cores = super::cores();
    let mut pinned = super::pinned(cores.as_ref().map(|(first, _)| first.as_str()), Path::new(command.get_program()));
    pinned.args(command.get_args());
    let text = process::output(&mut pinned)?;
    let said: Option<Value> = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let rate = said.and_then(|said| said["per_s"].as_f64()).filter(|rate| *rate > 0.0);
    rate.ok_or_else(|| Failure::Missing(format!("{pinned:?} says `{text}`")))
}

/// Two programs that differ in the verifier's core and in nothing else.
const SIZES: [&str; 2] = ["portcullis-size-with", "portcullis-size-without"];

/// What the verifier's core adds to a program of this profile, without symbols.
fn size(ask: &Ask, programs: &Path, profile: &str) -> Result<Row, Failure> {
    let folder = ask.workspace.target.join("bench-verify");
    let bytes = |name: &str| -> Result<f64, Failure> {
        let bare = folder.join(name);
        process::run(Command::new("strip").arg("-o").arg(&bare).arg(programs.join(name)))?;
        Ok(std::fs::metadata(&bare)?.len() as f64 / 1e6)
    };
    let [with, without] = SIZES.map(bytes);
    let what = format!("verify: what the verifier's core adds to a program, profile {profile}, stripped");
    Ok(Row::alone(&what, Figure::once(Unit::Mb, with? - without?), Aim::AtMost(2.0)))
}

#[cfg(test)]
mod tests {
    use super::{Round, rows_of};

    #[test]
    fn a_figure_that_is_missing_meets_no_aim() {
        let round: Round =
            [("bare", 50e-6), ("authenticate", 51e-6), ("hot", 0.4e-6)].map(|(name, s)| (name.to_owned(), s)).into();
        let rows = rows_of(&[round], 1_000_000);
        let met: Vec<Option<bool>> = rows.iter().map(super::Row::met).collect();
        assert_eq!(&met[..2], &[Some(true), Some(true)]);
        assert!(met[3..].iter().all(|met| *met == Some(false)), "{met:?}");
    }
}
