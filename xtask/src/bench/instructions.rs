//! `cargo xtask bench instructions [--write]`: how many instructions the pure hot paths take, held against `bench/instructions.toml`.
//!
//! Times change with the machine and its day; instructions hardly do, so that a path that has become slower is seen by the change that made it so.
//! valgrind counts those of a run that does nothing but prepare, and of one that goes the path many times. Its processor has no features that are new, so that
//! libraries choose the same code on most machines; the signature, which is other code on each, is left out.
use crate::workspace::{self, Workspace};
use crate::{Failure, process, rings};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A path may take so much more than is written before that is a failure; as much less, and the baseline is to be written anew.
const TOLERANCE: f64 = 0.10;
/// Where the baseline is.
const BASELINE: &str = "bench/instructions.toml";
/// The program.
const PROGRAM: &str = "portcullis-instructions";

/// The path of a token that was seen before.
const REPEAT: &str = "repeat";

/// How often a path is gone: as often as its preparation is worth.
fn count(path: &str) -> u64 {
    if path == "feed-apply" { 500 } else { 2000 }
}

/// `bench instructions [--write]`.
pub fn command(words: &[&str]) -> Result<(), Failure> {
    let write = match words {
        [] => false,
        ["--write"] => true,
        _ => return Err(Failure::Usage("`bench instructions` takes --write and nothing else".into())),
    };
    let workspace = workspace::load()?;
    let arguments = ["build", "--release", "--locked", "-p", "portcullis-verifying", "--bin", PROGRAM];
    process::run(process::cargo().args(arguments).current_dir(&workspace.root))?;
    let program = workspace.target.join("release").join(PROGRAM);
    let counted = counted(&program)?;
    if write {
        return Ok(std::fs::write(workspace.root.join(BASELINE), text_of(&counted))?);
    }
    if judged(&counted, &baseline(&workspace)?) { Ok(()) } else { Err(Failure::Failed) }
}

/// For `test`: whether all paths are as the baseline says, and a token that was seen before is judged without an allocation.
pub fn check(workspace: &Workspace, program: &Path) -> Result<bool, Failure> {
    let allocated = allocations(program)?;
    println!("  {REPEAT}: {allocated} allocations{}", if allocated == 0 { "" } else { ": FAILED: there were none" });
    Ok(judged(&counted(program)?, &baseline(workspace)?) && allocated == 0)
}

/// Allocations on the path of tokens that were seen before, all of [`count`] together.
pub fn allocations(program: &Path) -> Result<u64, Failure> {
    let valgrind = valgrind()?;
    let run = |count: u64| {
        let mut command = Command::new(&valgrind);
        command.args(["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"]).arg(program);
        let output = command.args([REPEAT, &count.to_string()]).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find_map(|line| line.split_once("total heap usage: "));
        let said =
            line.and_then(|(_, rest)| rest.split(' ').next()).and_then(|n| n.replace(',', "").parse::<u64>().ok());
        said.filter(|_| output.status.success())
            .ok_or_else(|| Failure::Missing(format!("{REPEAT} under valgrind: {text}")))
    };
    Ok(run(count(REPEAT))?.saturating_sub(run(0)?))
}

/// valgrind: found, or installed where that is possible.
pub fn valgrind() -> Result<PathBuf, Failure> {
    rings::found_or_installed(
        &["valgrind"],
        "valgrind",
        "instructions are counted by valgrind: install Debian's package `valgrind`",
    )
}

fn counted(program: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let valgrind = valgrind()?;
    let paths = process::output(&mut Command::new(program))?;
    let paths: Vec<&str> = paths.lines().collect();
    // The preparation and the path at the same time, for there are two cores nearly everywhere.
    let run = |path: &str, count: u64| collected(&valgrind, program, path, count);
    paths
        .into_iter()
        .map(|path| {
            let (nothing, all) = std::thread::scope(|scope| {
                let nothing = scope.spawn(|| run(path, 0));
                (nothing.join(), run(path, count(path)))
            });
            let nothing = nothing.map_err(|_| Failure::Missing("a thread that counts ended".into()))??;
            Ok((path.to_owned(), all?.saturating_sub(nothing) / count(path)))
        })
        .collect()
}

/// What callgrind says at the end of a run.
fn collected(valgrind: &Path, program: &Path, path: &str, count: u64) -> Result<u64, Failure> {
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args([path, &count.to_string()]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let said =
        text.lines().find_map(|line| line.split_once("Collected :")).and_then(|(_, number)| number.trim().parse().ok());
    said.filter(|_| output.status.success()).ok_or_else(|| Failure::Missing(format!("{path} under valgrind: {text}")))
}

fn baseline(workspace: &Workspace) -> Result<BTreeMap<String, u64>, Failure> {
    Ok(read(&std::fs::read_to_string(workspace.root.join(BASELINE))?))
}

fn read(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .filter_map(|(name, count)| Some((name.trim().to_owned(), count.trim().replace('_', "").parse().ok()?)))
        .collect()
}

fn text_of(counted: &BTreeMap<String, u64>) -> String {
    let mut text = String::from(
        "# Instructions of the pure hot paths, each gone once, as valgrind counts them on x86-64. Written by `cargo xtask bench instructions --write`,\n\
         # held against by `cargo xtask test`. What each path is stands in bench/verifying/src/bin/instructions.rs.\n",
    );
    for (path, count) in counted {
        let _ = writeln!(text, "{path} = {count}");
    }
    text
}

/// Says how each path does; whether all are within the tolerance.
fn judged(counted: &BTreeMap<String, u64>, baseline: &BTreeMap<String, u64>) -> bool {
    let mut good = true;
    for (path, count) in counted {
        let Some(written) = baseline.get(path) else {
            println!(
                "  {path}: {count} instructions, and {BASELINE} has none: write it anew (`cargo xtask bench instructions --write`)"
            );
            good = false;
            continue;
        };
        let change = *count as f64 / *written as f64 - 1.0;
        let verdict = match change {
            more if more > TOLERANCE => {
                "FAILED: more than is written; find out why, or write the baseline anew and say why"
            }
            less if less < -TOLERANCE => {
                "FAILED: less than is written; write the baseline anew (`cargo xtask bench instructions --write`)"
            }
            _ => "as written",
        };
        println!("  {path}: {count} instructions, {written} written ({:+.1}%): {verdict}", change * 100.0);
        good &= change.abs() <= TOLERANCE;
    }
    for gone in baseline.keys().filter(|path| !counted.contains_key(*path)) {
        println!("  {gone}: stands in {BASELINE}, and is no path any more: write it anew");
        good = false;
    }
    good
}

#[cfg(test)]
mod tests {
    use super::{judged, read, text_of};

    #[test]
    fn more_less_and_others_are_no_match() {
        let written = read("# words\na = 1_000\nb = 50\n");
        assert_eq!(read(&text_of(&written)), written);
        let with = |a: u64, b: u64| [("a".to_owned(), a), ("b".to_owned(), b)].into();
        assert!(judged(&with(1090, 46), &written));
        assert!(!judged(&with(1110, 50), &written), "more");
        assert!(!judged(&with(1000, 44), &written), "less");
        assert!(!judged(&[("a".to_owned(), 1000)].into(), &written), "one is gone");
        assert!(!judged(&with(1000, 50), &read("a = 1000")), "one is new");
    }
}
