//! `cargo xtask bench smoke`: refreshes per second of the server beside its floor program.
//!
//! Absolute numbers belong to one machine on one day; the ratio does not. So both programs run at the same time in the same
//! run, take turns under the same load, and share nothing: the server and the floor on one half of the cores, the load on the
//! other. The floor (bench/floor) has the same HTTP stack, one signature and one grouped one-row update, and no rules.
mod asked;
pub mod cluster;
mod ends;
pub mod flames;
mod footprint;
mod growth;
pub mod instructions;
mod introspect;
pub mod mass;
mod node;
mod peers;
mod postgres;
mod refresh;
mod revoke;
mod sign_in;
pub mod table;
pub mod trips;
mod verify;

use crate::ports::lasting_address;
use crate::workspace::Workspace;
use crate::{Failure, mini_http, process, tidy, workspace};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Callers, each with a connection and a chain of refresh tokens of its own.
const CALLERS: usize = 32;
/// Rounds that count, of each program: many and short, so that both meet the same machine.
const ROUNDS: usize = 15;
/// Length of a round.
const ROUND_S: f64 = 1.0;
/// A round ends earlier after as many requests.
const ROUND_MAX: u64 = 500_000;
/// The least share of the floor's refreshes per second.
const LEAST_RATIO: f64 = 0.5;
/// A program is ready within this, or something is wrong.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// A program that is told to stop has stopped within this.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// One request of the preparation.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Idle for as long before its memory is read.
const IDLE: Duration = Duration::from_secs(2);

/// Names a folder of programs to measure, in place of the ones that would be built: two builds can be held against each other.
const PROGRAMS_VARIABLE: &str = "PORTCULLIS_BENCH_PROGRAMS";
/// What the unit and the container of the server set (docs/operating.md, "Faster sign-ins"). The server has it here, and so have the limits
/// and peers that it is held against; not the nodes of `revoke`, `growth` and `cluster`, where nobody hashes while it is measured.
const LARGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
const REFRESH: &str = "/v1/sessions/refresh";
const ADMIN: &str = "bench-admin@example.org";
const PASSWORD: &str = "correct horse battery staple of the bench";

/// `bench rules`: what an event costs at the rules about suspicious activity. The example has no clock, so it is run with nothing to do,
/// with events, and with events that are judged many times, and the differences are what each costs.
pub fn rules() -> Result<(), Failure> {
    const EVENTS: u32 = 400_000;
    const OFTEN: u32 = 21;
    let workspace = workspace::load()?;
    let args = ["build", "--release", "--locked", "-p", "portcullis-rules", "--example", "events"];
    process::run(process::cargo().args(args).current_dir(&workspace.root))?;
    let program = workspace.target.join("release/examples/events");
    let timed = |events: u32, judged: u32| {
        let before = process::children_ms()?;
        let said = process::output(Command::new(&program).args([events.to_string(), judged.to_string()]))?;
        Ok::<_, Failure>((process::children_ms()? - before, said))
    };
    let (nothing, _) = timed(0, 1)?;
    let (once, said) = timed(EVENTS, 1)?;
    let (often, _) = timed(EVENTS, OFTEN)?;
    let each = once.saturating_sub(nothing) * 1_000_000 / u64::from(EVENTS);
    let judging = often.saturating_sub(once) * 1_000_000 / u64::from(EVENTS * (OFTEN - 1));
    print!("{said}");
    println!(
        "{each} ns of one processor per event, of that {judging} ns for the rules; the events' own making is counted, too"
    );
    println!("100,000 sign-ins per minute take {:.2}% of one processor", each as f64 * 100_000.0 / 60e9 * 100.0);
    Ok(())
}

/// `bench smoke`.
pub fn command() -> Result<(), Failure> {
    let workspace = workspace::load()?;
    process::run(
        process::cargo()
            .args([
                "build",
                "--release",
                "--locked",
                "-p",
                "portcullis-server",
                "-p",
                "portcullis-floor",
                "-p",
                "portcullis-load",
            ])
            .current_dir(&workspace.root),
    )?;
    let report = Bench::new(&workspace)?.run()?;
    report.print(&workspace)?;
    if report.ratio() < LEAST_RATIO {
        return Err(Failure::Bound(format!(
            "the server does {:.2} of its floor, {LEAST_RATIO} is the least",
            report.ratio()
        )));
    }
    Ok(())
}

/// Where the programs are and where files go.
pub struct Bench {
    programs: PathBuf,
    folder: PathBuf,
    cores: Option<(String, String)>,
}

/// One round of one program.
#[derive(Debug, Clone, Copy)]
struct Round {
    per_s: f64,
    p50_us: u64,
    p99_us: u64,
    /// Processor time of the measured program per request. Unlike the rest it hardly changes on a busy machine.
    cpu_us: f64,
}

struct Report {
    floor: Vec<Round>,
    server: Vec<Round>,
    first_start: Duration,
    start: Duration,
    idle_kb: u64,
    after_kb: u64,
    cores: Option<(String, String)>,
    binary: (u64, Option<u64>),
}

impl Bench {
    /// With a folder of its own, which is deleted with this value.
    fn new(workspace: &Workspace) -> Result<Self, Failure> {
        let folder = workspace.target.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let given = std::env::var_os(PROGRAMS_VARIABLE).map(PathBuf::from);
        Ok(Self { programs: given.unwrap_or_else(|| workspace.target.join("release")), folder, cores: cores() })
    }

    /// For a section: with all programs built, unless a folder of them is given.
    pub fn built(workspace: &Workspace) -> Result<Self, Failure> {
        if std::env::var_os(PROGRAMS_VARIABLE).is_none() {
            // The whole workspace, as the tests build it: with fewer crates they have other features, and all is built again.
            let build = ["build", "--release", "--locked", "--workspace", "--bins", "--example", "fill"];
            process::run(process::cargo().args(build).current_dir(&workspace.root))?;
        }
        Self::new(workspace)
    }

    /// The same with the programs as they are shipped: the profile `dist`, which takes minutes to build; so a quick run and one of
    /// given programs take what is there. `None` when nothing is.
    pub fn shipped(&self, ask: &table::Ask) -> Result<Option<Self>, Failure> {
        if !ask.quick && std::env::var_os(PROGRAMS_VARIABLE).is_none() {
            let build = ["build", "--profile", "dist", "--locked", "-p", "portcullis-server", "-p", "portcullis-floor"];
            process::run(process::cargo().args(build).current_dir(&ask.workspace.root))?;
        }
        let beside = self.programs.parent().map(|folder| folder.join("dist"));
        let programs = beside.into_iter().chain([ask.workspace.target.join("dist")]);
        let complete =
            |folder: &PathBuf| ["portcullis", "portcullis-floor"].iter().all(|name| folder.join(name).exists());
        let Some(programs) = programs.into_iter().find(complete) else { return Ok(None) };
        let folder = self.folder.join("shipped");
        std::fs::create_dir_all(&folder)?;
        Ok(Some(Self { programs, folder, cores: self.cores.clone() }))
    }

    fn run(&self) -> Result<Report, Failure> {
        let server_address = lasting_address();
        let (server, first_start) = self.start_server(server_address)?;
        server.stop()?;
        let (server, start) = self.start_server(server_address)?;
        std::thread::sleep(IDLE);
        let idle_kb = server.memory_kb()?;
        let server_tokens = self.folder.join("server.tokens");
        std::fs::write(&server_tokens, sign_in_all(server_address)?)?;

        let floor_address = lasting_address();
        let mut floor = self.on_first(&self.programs.join("portcullis-floor"));
        floor.args([&floor_address.to_string(), &path(&self.folder.join("floor.db")), &CALLERS.to_string()]);
        let (floor, _) = Running::start(floor, floor_address, &self.folder.join("floor.log"))?;
        let floor_tokens = self.folder.join("floor.tokens");
        std::fs::write(&floor_tokens, (1..=CALLERS).map(|row| format!("{row}.0\n")).collect::<String>())?;

        let mut rounds = (Vec::new(), Vec::new());
        // The first round of each warms caches and is not counted.
        for round in 0..=ROUNDS {
            let pair = (self.load(&floor, &floor_tokens)?, self.load(&server, &server_tokens)?);
            println!(
                "  round {round}: floor {:>7.0}/s, server {:>7.0}/s{}",
                pair.0.per_s,
                pair.1.per_s,
                if round == 0 { " (not counted)" } else { "" }
            );
            if round > 0 {
                rounds.0.push(pair.0);
                rounds.1.push(pair.1);
            }
        }
        let after_kb = server.memory_kb()?;
        floor.stop()?;
        server.stop()?;
        let cores = self.cores.clone();
        let binary = self.binary()?;
        Ok(Report { floor: rounds.0, server: rounds.1, first_start, start, idle_kb, after_kb, cores, binary })
    }

    fn start_server(&self, address: SocketAddr) -> Result<(Running, Duration), Failure> {
        let mut command = self.on_first(&self.programs.join("portcullis"));
        let issuer = format!("http://{address}");
        let data = path(&self.folder.join("data"));
        command.args(["serve", "--listen", &address.to_string(), "--issuer", &issuer, "--data-dir", &data]);
        command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{ADMIN}:{PASSWORD}"));
        Running::start(command, address, &self.folder.join("server.log"))
    }

    fn on_first(&self, program: &Path) -> Command {
        let mut command = pinned(self.cores.as_ref().map(|(first, _)| first.as_str()), program);
        command.env(LARGE_PAGES.0, LARGE_PAGES.1);
        command
    }

    fn load(&self, measured: &Running, tokens: &Path) -> Result<Round, Failure> {
        let mut command =
            pinned(self.cores.as_ref().map(|(_, second)| second.as_str()), &self.programs.join("portcullis-load"));
        let address = measured.address.to_string();
        command.args([&address, REFRESH, &path(tokens), &ROUND_S.to_string(), &ROUND_MAX.to_string()]);
        let before = measured.cpu_ms()?;
        let text = process::output(&mut command)?;
        let cpu_us = (measured.cpu_ms()? - before) * 1000.0;
        let said: Value =
            serde_json::from_str(&text).map_err(|error| Failure::Missing(format!("portcullis-load: {error}")))?;
        if said["errors"] != 0 {
            return Err(Failure::Missing(format!(
                "{} of {CALLERS} callers met an error, first: {}",
                said["errors"], said["first_error"]
            )));
        }
        let whole = |name: &str| said[name].as_u64().unwrap_or(0);
        Ok(Round {
            per_s: said["per_s"].as_f64().unwrap_or(0.0),
            p50_us: whole("p50_us"),
            p99_us: whole("p99_us"),
            cpu_us: cpu_us / whole("requests").max(1) as f64,
        })
    }

    /// Bytes of the binary as built, and without symbols where `strip` is at hand.
    fn binary(&self) -> Result<(u64, Option<u64>), Failure> {
        let built = self.programs.join("portcullis");
        let bare = self.folder.join("stripped");
        let stripped = process::find("strip").is_some()
            && Command::new("strip").arg("-o").arg(&bare).arg(&built).status()?.success();
        let size = if stripped { Some(std::fs::metadata(&bare)?.len()) } else { None };
        Ok((std::fs::metadata(&built)?.len(), size))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Report {
    /// The median of the rounds' ratios: a round's neighbours had the same machine.
    fn ratio(&self) -> f64 {
        median(self.floor.iter().zip(&self.server).map(|(floor, server)| server.per_s / floor.per_s).collect())
    }

    fn print(&self, workspace: &Workspace) -> Result<(), Failure> {
        let cores =
            self.cores.as_ref().map_or("cores shared".to_owned(), |(a, b)| format!("server on cores {a}, load on {b}"));
        println!("\nrefresh, {CALLERS} callers, {ROUNDS} alternating rounds of {ROUND_S} s, medians; {cores}");
        for (name, rounds) in [("floor", &self.floor), ("server", &self.server)] {
            let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
            println!(
                "  {name:<8} {:>8.0}/s   p50 {:>6.2} ms   p99 {:>6.2} ms   {:>6.1} us of processor each",
                of(|r| r.per_s),
                of(|r| r.p50_us as f64) / 1000.0,
                of(|r| r.p99_us as f64) / 1000.0,
                of(|r| r.cpu_us)
            );
        }
        println!("  ratio    {:>8.2}     (at least {LEAST_RATIO:.2})", self.ratio());
        println!(
            "memory     {:.1} MB idle, {:.1} MB after the rounds",
            mega(self.idle_kb * 1024),
            mega(self.after_kb * 1024)
        );
        println!(
            "start      {} ms to ready, {} ms on an empty folder",
            self.start.as_millis(),
            self.first_start.as_millis()
        );
        let bare = self.binary.1.map_or(String::new(), |bytes| format!(", {:.1} MB without symbols", mega(bytes)));
        println!("binary     {:.1} MB{bare}", mega(self.binary.0));
        for (name, count, budget) in tidy::counts(workspace)? {
            println!("crates     {name:<8} {count:>4} of {budget}");
        }
        Ok(())
    }
}

/// A started program. It is ended with this value, whatever happens.
pub struct Running {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Running {
    /// Starts and waits until `/readyz` answers 200; says how long that took.
    fn start(mut command: Command, address: SocketAddr, log: &Path) -> Result<(Self, Duration), Failure> {
        let file = std::fs::File::create(log)?;
        let begun = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        let mut running = Self { child, address, log: log.to_owned() };
        while begun.elapsed() < READY_LIMIT {
            let answer = mini_http::request(address, "GET", "/readyz", None, Duration::from_secs(1));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok((running, begun.elapsed()));
            }
            if let Some(status) = running.child.try_wait()? {
                return Err(running.failure(&format!("ended with {status}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(running.failure(&format!("was not ready within {} s", READY_LIMIT.as_secs())))
    }

    fn failure(&self, what: &str) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        Failure::Missing(format!("{} {what}:\n{text}", self.log.file_stem().unwrap_or_default().display()))
    }

    /// Asks it to stop and waits.
    fn stop(mut self) -> Result<(), Failure> {
        process::run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > STOP_LIMIT {
                return Err(self.failure(&format!("did not stop within {} s", STOP_LIMIT.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Processor time so far, of all threads. The kernel counts in hundredths of a second.
    fn cpu_ms(&self) -> Result<f64, Failure> {
        cpu_ms(self.child.id())
    }

    /// Resident memory.
    fn memory_kb(&self) -> Result<u64, Failure> {
        memory_kb(self.child.id())
    }

    /// The most resident memory that it has had.
    fn peak_kb(&self) -> Result<u64, Failure> {
        kb(self.child.id(), "VmHWM:")
    }
}

/// Processor time of a process so far, of all threads, in milliseconds.
fn cpu_ms(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may contain anything: state is the first field, user and system time the 12th and 13th.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() * 10.0)
}

/// Resident memory of a process.
fn memory_kb(pid: u32) -> Result<u64, Failure> {
    kb(pid, "VmRSS:")
}

/// A line of the kernel's about a process's memory.
fn kb(pid: u32, name: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| Failure::Missing("the kernel does not say how much memory a process has".into()))
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors only say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One account and one session for each caller; a line with a refresh token for each.
fn sign_in_all(address: SocketAddr) -> Result<String, Failure> {
    let mut tokens = String::new();
    for caller in 0..CALLERS {
        let email = format!("caller-{caller}@example.org");
        post(address, "/v1/accounts", &json!({ "email": email, "password": PASSWORD }))?;
        let session = post(
            address,
            "/v1/sessions",
            &json!({ "identifier": email, "password": PASSWORD, "device_name": "bench" }),
        )?;
        let token = session["refresh_token"]
            .as_str()
            .ok_or_else(|| Failure::Missing("a sign-in brought no refresh token".into()))?;
        tokens += &format!("{token}\n");
    }
    Ok(tokens)
}

fn post(address: SocketAddr, path: &str, body: &Value) -> Result<Value, Failure> {
    let answer = mini_http::request(address, "POST", path, Some(&body.to_string()), REQUEST_LIMIT)?;
    if !(200..300).contains(&answer.status) {
        return Err(Failure::Missing(format!("POST {path}: {} {}", answer.status, answer.body)));
    }
    serde_json::from_str(&answer.body).map_err(|error| Failure::Missing(format!("POST {path}: {error}")))
}

/// The first half of the cores for what is measured, the second for the load; `None` on one core or without `taskset`.
fn cores() -> Option<(String, String)> {
    let count = std::thread::available_parallelism().ok()?.get();
    let half = count / 2;
    let range = |from: usize, to: usize| if from == to { from.to_string() } else { format!("{from}-{to}") };
    (half > 0 && process::find("taskset").is_some()).then(|| (range(0, half - 1), range(half, count - 1)))
}

fn pinned(cores: Option<&str>, program: &Path) -> Command {
    match cores {
        None => Command::new(program),
        Some(cores) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cores]).arg(program);
            command
        }
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1_000_000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::{cores, median};

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn the_load_has_cores_of_its_own() {
        if let Some((server, load)) = cores() {
            assert_ne!(server, load);
            assert!(server.starts_with('0'));
        }
    }
}
