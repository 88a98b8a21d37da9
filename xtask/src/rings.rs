//! `cargo xtask test`: everything that must hold before a change is taken, from one build.
//!
//! The tests stand in rings, from rules to the whole world; each package belongs to exactly one, and a ring in which nothing
//! ran has failed: a test that is not run proves nothing. Format, tidy and lints come first because they are cheap.
use crate::workspace::{Package, Workspace, short};
use crate::{Failure, bench, interop, process, tidy, workspace};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The rings and their packages, in the order in which they run.
const RINGS: &[(&str, &[&str])] = &[
    ("rules", &["wire", "feed", "verify", "domain", "rules"]),
    ("stores", &["store", "store-sqlite", "store-postgres"]),
    ("surface", &["app", "http", "outgoing", "mail", "relay", "server", "tower", "testkit"]),
    ("world", &["sim", "oracle"]),
    ("house", &["xtask", "floor", "load", "followers", "verifying", "one-build"]),
];

/// One test program is ended after as long.
pub const PROGRAM_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What begins so in a program's log is part of the result, and shown.
const TOLD: &str = "told: ";

/// Lines of a failing program's log that are shown.
const SHOWN_LINES: usize = 120;

/// What tests start, with the package that has it, and why.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("curl", "curl", "the tests run the commands that `dev` prints"),
    ("strace", "strace", "the tests of failing disks inject errors into system calls"),
    ("unshare", "util-linux", "the tests of full disks mount a small file system in a namespace of their own"),
    ("nsenter", "util-linux", "the tests of full disks start servers in that namespace"),
    ("faketime", "faketime", "the tests of several nodes set wall clocks"),
    ("mount", "mount", "the tests of full disks mount a small file system"),
];

/// The library of the package that has the server built with the features of the whole workspace.
const ONE_BUILD: &str = "portcullis_one_build";

/// The server's program.
const SERVER: &str = "portcullis";

/// What tests read to find the browser.
const BROWSER_VARIABLE: &str = "PORTCULLIS_TEST_CHROMIUM";

/// `test [RING...]`.
pub fn command(wanted: &[&str]) -> Result<(), Failure> {
    let known: Vec<&str> = RINGS.iter().map(|(ring, _)| *ring).chain([interop::RING]).collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        return Err(Failure::Usage(format!("no ring `{unknown}`; there are {}", known.join(", "))));
    }
    let begun = Instant::now();
    let workspace = workspace::load()?;
    every_package_has_a_ring(&workspace.packages)?;
    let browser = browser(&workspace)?;
    for (program, package, why) in PROGRAMS {
        found_or_installed(&[program], package, &format!("{why}: install the package `{package}`"))?;
    }
    postgres()?;

    let mut failed_steps = 0;
    for (name, step) in
        [("format", format as fn(&Workspace) -> Result<(), Failure>), ("tidy", |_| tidy::command()), ("lints", lints)]
    {
        let begun = Instant::now();
        let outcome = step(&workspace);
        println!("{name}: {} in {}", if outcome.is_ok() { "passed" } else { "FAILED" }, minutes(begun.elapsed()));
        match outcome {
            Ok(()) => {}
            Err(Failure::Failed) => failed_steps += 1,
            Err(other) => return Err(other),
        }
    }
    let building = Instant::now();
    let built = build(&workspace);
    let count = built.as_ref().map_or(0, |built| built.tests.len());
    println!("build: {count} test programs in {}", minutes(building.elapsed()));
    let Ok(built) = built else {
        println!("0 passed, {} failed (the tests do not compile)", failed_steps + 1);
        return Err(Failure::Failed);
    };

    let mut total = Tally::default();
    total.add(one_build(&workspace)?);
    for (ring, packages) in RINGS.iter().filter(|(ring, _)| wanted.is_empty() || wanted.contains(ring)) {
        total.add(run_ring(&workspace, ring, packages, &built, browser.as_deref())?);
        if *ring == "house" {
            total.add(instructions(&workspace, &built)?);
        }
    }
    if wanted.is_empty() || wanted.contains(&interop::RING) {
        let server = built.programs.iter().find(|program| program.target == SERVER).map(|program| &*program.file);
        total.add(interop::run(&workspace, &interop::Wanted::Quick, server)?);
    }
    if wanted.is_empty() {
        total.add(examples(&workspace)?);
    }
    println!("\nall in {}", minutes(begun.elapsed()));
    println!("{} passed, {} failed", total.passed, total.failed + failed_steps);
    if total.failed + failed_steps == 0 { Ok(()) } else { Err(Failure::Failed) }
}

/// What libtest said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests and checks that failed.
    pub failed: usize,
}

impl Tally {
    /// Adds up.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// A built program.
#[derive(Debug)]
struct Program {
    package: Package,
    /// `it`, `portcullis`: the target's name.
    target: String,
    file: PathBuf,
    test: bool,
}

/// What one build made.
#[derive(Debug)]
struct Built {
    tests: Vec<Program>,
    /// The programs that tests start.
    programs: Vec<Program>,
}

fn every_package_has_a_ring(packages: &[Package]) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for package in packages {
        let rings = RINGS.iter().filter(|(_, members)| members.contains(&short(&package.name))).count();
        if rings != 1 {
            wrong.push(format!("`{}` stands in {rings} rings", short(&package.name)));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    println!("{}: put each package into exactly one ring (xtask/src/rings.rs)", wrong.join(", "));
    Err(Failure::Failed)
}

fn format(workspace: &Workspace) -> Result<(), Failure> {
    component("rustfmt")?;
    process::run(
        process::cargo().args(["fmt", "--all", "--", "--check", "--files-with-diff"]).current_dir(&workspace.root),
    )
}

/// In the release profile, so that what C libraries cost to build is paid once.
fn lints(workspace: &Workspace) -> Result<(), Failure> {
    component("clippy")?;
    let arguments =
        ["clippy", "--release", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    process::run(process::cargo().args(arguments).current_dir(&workspace.root))
}

/// Adds a component of the toolchain where rustup can.
fn component(name: &str) -> Result<(), Failure> {
    let program = if name == "rustfmt" { "cargo-fmt" } else { "cargo-clippy" };
    if process::find(program).is_some() {
        return Ok(());
    }
    let advice = format!("{name} is missing: install it with your toolchain (`rustup component add {name}`)");
    if process::find("rustup").is_none() {
        return Err(Failure::Missing(advice));
    }
    process::run(Command::new("rustup").args(["component", "add", name])).map_err(|_| Failure::Missing(advice))
}

/// Builds every test once, and what they start, and says where the programs are.
fn build(workspace: &Workspace) -> Result<Built, Failure> {
    let text = process::output(
        process::cargo()
            .args([
                "test",
                "--release",
                "--locked",
                "--workspace",
                "--no-run",
                "--message-format",
                "json-render-diagnostics",
            ])
            .current_dir(&workspace.root),
    )?;
    let all = text.lines().filter_map(|line| program(line, &workspace.packages));
    let (tests, programs) = all.partition(|program| program.test);
    Ok(Built { tests, programs })
}

/// `cargo run --release` finds built what was built for the tests: else whoever ran them waits for nearly all of it once more.
fn one_build(workspace: &Workspace) -> Result<Tally, Failure> {
    let arguments = ["build", "--release", "--locked", "--message-format", "json-render-diagnostics"];
    let text = process::output(process::cargo().args(arguments).current_dir(&workspace.root))?;
    let anew: BTreeSet<String> = text.lines().filter_map(built_anew).filter(|name| name != ONE_BUILD).collect();
    if anew.is_empty() {
        println!("one build: `cargo run --release` has nothing left to build");
        return Ok(Tally { passed: 1, failed: 0 });
    }
    let names: Vec<String> = anew.into_iter().collect();
    println!("one build: FAILED, `cargo run --release` built anew: {}", names.join(", "));
    println!("  other features are on there: name those of the whole workspace in crates/one-build/Cargo.toml");
    Ok(Tally { passed: 0, failed: 1 })
}

/// The target that one line of cargo's messages says was built now.
fn built_anew(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    let artifact = message["reason"] == "compiler-artifact" && message["fresh"] == false;
    artifact.then(|| message["target"]["name"].as_str().unwrap_or_default().to_owned())
}

/// The program that one line of cargo's messages tells of.
fn program(line: &str, packages: &[Package]) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let id = message["package_id"].as_str()?;
    Some(Program {
        package: packages.iter().find(|package| package.id == id)?.clone(),
        target: message["target"]["name"].as_str()?.to_owned(),
        file: message["executable"].as_str()?.into(),
        test: message["profile"]["test"] == true,
    })
}

fn run_ring(
    workspace: &Workspace,
    ring: &str,
    packages: &[&str],
    built: &Built,
    browser: Option<&Path>,
) -> Result<Tally, Failure> {
    let begun = Instant::now();
    println!("\n{ring}");
    let mut tally = Tally::default();
    for program in built.tests.iter().filter(|program| packages.contains(&short(&program.package.name))) {
        tally.add(run_program(workspace, ring, program, &built.programs, browser)?);
    }
    if tally == Tally::default() {
        println!("  nothing ran: a ring without tests has failed");
        tally.failed = 1;
    }
    println!("{ring}: {} passed, {} failed in {}", tally.passed, tally.failed, minutes(begun.elapsed()));
    Ok(tally)
}

fn run_program(
    workspace: &Workspace,
    ring: &str,
    program: &Program,
    programs: &[Program],
    browser: Option<&Path>,
) -> Result<Tally, Failure> {
    let name = format!("{}/{}", short(&program.package.name), program.target);
    let log = log_file(workspace, ring, &name)?;
    let mut command = Command::new(&program.file);
    command
        .current_dir(&program.package.folder)
        .env("CARGO_MANIFEST_DIR", &program.package.folder)
        .env("CARGO_TARGET_DIR", &workspace.target)
        // A failed assertion says where it stands; what called it is noise.
        .env("RUST_BACKTRACE", "0");
    // As cargo does it for integration tests.
    command.envs(programs.iter().map(|built| (format!("CARGO_BIN_EXE_{}", built.target), &built.file)));
    if let Some(browser) = browser {
        command.env(BROWSER_VARIABLE, browser);
    }
    if ring == "world" {
        // What happened how often is part of the result.
        command.arg("--nocapture");
    }
    let logged = process::logged(&mut command, &log, PROGRAM_LIMIT)?;
    if logged.status.is_none() {
        let list = process::output(Command::new(&program.file).arg("--list"))?;
        println!("  {name}: running or not begun: {}", unreported(&list, &logged.text).join(", "));
    }
    judge(&name, &log, logged, ring == "world")
}

/// The instructions of the hot paths, held against what is written.
fn instructions(workspace: &Workspace, built: &Built) -> Result<Tally, Failure> {
    let begun = Instant::now();
    println!("\ninstructions");
    let program = built.programs.iter().find(|program| program.target == "portcullis-instructions");
    let program = program.ok_or_else(|| Failure::Missing("the program that is counted was not built".into()))?;
    let good = bench::instructions::check(workspace, &program.file)?;
    let tally = Tally { passed: usize::from(good), failed: usize::from(!good) };
    println!("instructions: {} in {}", if good { "passed" } else { "FAILED" }, minutes(begun.elapsed()));
    Ok(tally)
}

/// The examples in the documentation, of all crates at once: the features are then those of the one build.
fn examples(workspace: &Workspace) -> Result<Tally, Failure> {
    println!("\nexamples");
    let log = log_file(workspace, "examples", "all")?;
    let arguments = ["test", "--release", "--locked", "--workspace", "--doc", "--quiet"];
    let logged = process::logged(process::cargo().args(arguments).current_dir(&workspace.root), &log, PROGRAM_LIMIT)?;
    judge("documentation", &log, logged, false)
}

/// Counts what a program said, and shows it when something is wrong.
pub fn judge(name: &str, log: &Path, logged: process::Logged, always_shown: bool) -> Result<Tally, Failure> {
    let (mut tally, ignored) = summary(&logged.text);
    let mut wrong = Vec::new();
    match logged.status {
        None => {
            let hung = unended(&logged.text);
            let which = if hung.is_empty() { String::new() } else { format!(" while these ran: {}", hung.join(", ")) };
            wrong.push(format!("ended after {}{which}", minutes(logged.took)));
        }
        Some(status) if !status.success() && tally.failed == 0 => wrong.push(format!("ended with {status}")),
        Some(_) => {}
    }
    if ignored > 0 {
        wrong.push(format!("{ignored} tests are ignored: a test that is not run proves nothing"));
    }
    tally.failed += wrong.len();
    println!("  {name}: {} passed, {} failed in {:.1} s", tally.passed, tally.failed, logged.took.as_secs_f64());
    for what in &wrong {
        println!("  {name}: {what}");
    }
    logged.text.lines().filter_map(|line| line.strip_prefix(TOLD)).for_each(|line| println!("    {line}"));
    if tally.failed > 0 || always_shown && tally.passed > 0 {
        let lines: Vec<&str> = logged.text.lines().collect();
        let from = lines.len().saturating_sub(SHOWN_LINES);
        lines[from..].iter().for_each(|line| println!("    {line}"));
        println!("  all of it: {}", log.display());
    }
    Ok(tally)
}

/// The tests that libtest has reported the end of. What a test prints may stand before that in its line.
fn ended(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| {
            let (before, came) = line.rsplit_once(" ... ")?;
            let word = came.split([',', ' ']).next()?;
            let name = before.rsplit_once("test ").map(|(_, name)| name)?;
            ["ok", "FAILED", "ignored"].contains(&word).then(|| name.trim_end_matches(" - should panic"))
        })
        .collect()
}

/// The tests that libtest says take long, and whose end it has not reported.
fn unended(text: &str) -> Vec<&str> {
    let ended = ended(text);
    let long = text.lines().filter_map(|line| line.strip_suffix(" has been running for over 60 seconds"));
    long.filter_map(|line| line.rsplit_once("test ").map(|(_, name)| name))
        .filter(|name| !ended.contains(name))
        .collect()
}

/// The tests of a program, by its `--list`, whose end is not reported.
fn unreported<'a>(list: &'a str, text: &str) -> Vec<&'a str> {
    let ended = ended(text);
    list.lines().filter_map(|line| line.strip_suffix(": test")).filter(|name| !ended.contains(name)).collect()
}

/// The sums over `test result:` lines: passed and failed, and ignored.
fn summary(text: &str) -> (Tally, usize) {
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("test result: ")) {
        let counts = line.split_once(". ").map_or(line, |(_, counts)| counts);
        for part in counts.split("; ") {
            if let Some((number, what)) = part.split_once(' ')
                && let Ok(number) = number.parse::<usize>()
            {
                *sums.entry(what).or_default() += number;
            }
        }
    }
    let sum = |what: &str| sums.get(what).copied().unwrap_or(0);
    (Tally { passed: sum("passed"), failed: sum("failed") }, sum("ignored"))
}

/// Where a program's output goes.
pub fn log_file(workspace: &Workspace, ring: &str, name: &str) -> Result<PathBuf, Failure> {
    let folder = workspace.target.join("xtask-logs");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{ring}-{}.log", name.replace('/', "-"))))
}

/// The browser for the tests of the pages: found, or installed where that is possible, or an error that says what to do.
/// `None` when no test asks for one.
fn browser(workspace: &Workspace) -> Result<Option<PathBuf>, Failure> {
    if let Some(given) = std::env::var_os(BROWSER_VARIABLE) {
        return Ok(Some(given.into()));
    }
    let asked = workspace.packages.iter().any(|package| {
        short(&package.name) != "xtask"
            && ["tests", "src"].iter().any(|part| mentions(&package.folder.join(part), BROWSER_VARIABLE))
    });
    if !asked {
        return Ok(None);
    }
    let advice = format!(
        "the tests of the pages need Chromium: install the package `chromium`, or set {BROWSER_VARIABLE} to it"
    );
    found_or_installed(&["chromium", "chromium-browser", "google-chrome"], "chromium", &advice).map(Some)
}

/// PostgreSQL for the tests of its store: found, or installed where that is possible. Debian keeps its programs off the path.
fn postgres() -> Result<(), Failure> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    if versions.map(|entry| entry.path().join("bin/initdb")).any(|program| program.exists()) {
        return Ok(());
    }
    let advice = "the tests of the PostgreSQL store need PostgreSQL 15 or later: install Debian's package `postgresql`, or \
                  put initdb and postgres on the path";
    // Its wrapper for clusters is on the path once the package is there.
    found_or_installed(&["initdb", "pg_ctlcluster"], "postgresql", advice).map(drop)
}

/// The first of these programs that is there; else `package` is installed where that is possible; else `advice`.
pub fn found_or_installed(programs: &[&str], package: &str, advice: &str) -> Result<PathBuf, Failure> {
    let find = || programs.iter().find_map(|name| process::find(name));
    if let Some(found) = find() {
        return Ok(found);
    }
    install(package, advice)?;
    find().ok_or_else(|| Failure::Missing(advice.to_owned()))
}

/// Installs a package where that is possible; else `advice`.
pub fn install(package: &str, advice: &str) -> Result<(), Failure> {
    let missing = || Failure::Missing(advice.to_owned());
    if process::find("apt-get").is_none() || process::output(Command::new("id").arg("-u"))?.trim() != "0" {
        return Err(missing());
    }
    println!("installing {package}");
    process::run(Command::new("apt-get").args(["-q", "update"])).map_err(|_| missing())?;
    let install = ["-q", "install", "-y", "--no-install-recommends", package];
    process::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(install)).map_err(|_| missing())
}

fn mentions(folder: &Path, word: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.filter_map(Result::ok).map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            mentions(&path, word)
        } else {
            std::fs::read_to_string(&path).is_ok_and(|text| text.contains(word))
        }
    })
}

/// For people.
pub fn minutes(took: Duration) -> String {
    format!("{:.1} min", took.as_secs_f64() / 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_what_libtest_says() {
        let text = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s\n\
                    test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        assert_eq!(summary(text), (Tally { passed: 7, failed: 2 }, 1));
        assert_eq!(summary("no tests here"), (Tally::default(), 0));
    }

    #[test]
    fn a_crash_an_ignored_test_and_a_hang_are_failures() {
        let log = std::env::temp_dir().join(format!("xtask-judge-{}.log", std::process::id()));
        let shell = |script: &str, limit| {
            let logged = process::logged(Command::new("sh").args(["-c", script]), &log, limit).unwrap();
            judge("x", &log, logged, false).unwrap()
        };
        let long = Duration::from_secs(20);
        let good = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'";
        assert_eq!(shell(good, long), Tally { passed: 2, failed: 0 });
        assert_eq!(shell(&format!("{good}; exit 101"), long), Tally { passed: 2, failed: 1 });
        assert_eq!(
            shell("echo 'test result: ok. 2 passed; 0 failed; 1 ignored'", long),
            Tally { passed: 2, failed: 1 }
        );
        assert_eq!(shell("exec sleep 20", Duration::from_millis(100)), Tally { passed: 0, failed: 1 });
        std::fs::remove_file(&log).unwrap();
    }

    #[test]
    fn which_tests_hang_is_told() {
        let text = "running 5 tests\ntest a::quick ... ok\ntest b::wrong - should panic ... ok\n\
                    test a::slow has been running for over 60 seconds\ntest c::hangs has been running for over 60 seconds\n\
                    seed 7: test a::slow ... ok\n";
        let list =
            "a::quick: test\nb::wrong: test\na::slow: test\nc::hangs: test\nd::waits: test\n\n5 tests, 0 benchmarks\n";
        assert_eq!(unended(text), ["c::hangs"]);
        assert_eq!(unreported(list, text), ["c::hangs", "d::waits"]);
    }

    #[test]
    fn every_package_of_this_workspace_has_a_ring() {
        every_package_has_a_ring(&workspace::load().unwrap().packages).unwrap();
    }
}
