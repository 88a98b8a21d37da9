//! One server on SQLite on the first half of the cores, as [`super::revoke`] and [`super::growth`] measure it, and what its
//! callers on the other half need.
use super::ends::{Ended, Followers};
use super::table::{Aim, Figure, Row, Unit};
use super::{ADMIN, Bench, PASSWORD, REFRESH, Running, path, pinned, post};
use crate::ports::lasting_address;
use crate::{Failure, mini_http, process};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SESSIONS_VARIABLE: &str = "PORTCULLIS_BENCH_SESSIONS";
/// How often people were signed in: each time others.
static BATCHES: AtomicUsize = AtomicUsize::new(0);
/// Who signs in at once, to prepare what is measured.
const HANDS: usize = 8;
/// As many open files as this user may have, for servers and processes of verifiers.
const FILES: &str = "ulimit -n $(ulimit -Hn) 2>/dev/null; exec \"$@\"";
/// A call that waits.
const LIMIT: Duration = Duration::from_secs(60);

/// A server that runs.
pub struct Node<'a> {
    pub bench: &'a Bench,
    pub running: Running,
    /// Where its programs are: those of the bench, or those that it is held against.
    pub programs: PathBuf,
    name: String,
}

/// Rounds of several figures by their names, in the order of the first round.
#[derive(Default)]
pub struct Sheet(Vec<(String, Unit, Aim, Vec<f64>)>);

impl Sheet {
    /// One more round of this figure.
    pub fn add(&mut self, what: &str, unit: Unit, aim: Aim, value: f64) {
        match self.0.iter_mut().find(|(name, ..)| name == what) {
            Some((.., rounds)) => rounds.push(value),
            None => self.0.push((what.to_owned(), unit, aim, vec![value])),
        }
    }

    /// The rows; beside each that of another build, if one was measured in turns.
    pub fn rows(self, beside: Option<&Self>) -> Vec<Row> {
        let row = |(what, unit, aim, rounds): (String, Unit, Aim, Vec<f64>)| {
            let other = beside.and_then(|sheet| sheet.0.iter().find(|(name, ..)| *name == what));
            match other {
                // Nothing through nothing is no ratio.
                Some((.., others)) if others.iter().all(|value| *value > 0.0) => {
                    Row::paired(&what, unit, &rounds, "the other build", others, aim)
                }
                _ => Row::alone(&what, Figure::of(unit, &rounds), aim),
            }
        };
        self.0.into_iter().map(row).collect()
    }
}

impl<'a> Node<'a> {
    /// Starts one with a folder of this name, whose data may be there already.
    pub fn start(bench: &'a Bench, programs: &Path, name: &str, settings: &[(&str, &str)]) -> Result<Self, Failure> {
        let address = lasting_address();
        let cores = bench.cores.as_ref().map(|(first, _)| first.as_str());
        let mut command = with_files(pinned(cores, &programs.join("portcullis")));
        let (issuer, data) = (format!("http://{address}"), path(&bench.folder.join(name)));
        command.args(["serve", "--listen", &address.to_string(), "--issuer", &issuer, "--data-dir", &data]);
        command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{ADMIN}:{PASSWORD}"));
        // Sign-ins only prepare what is measured.
        command.env("PORTCULLIS_ARGON2_MEMORY", "64KiB").env("PORTCULLIS_ARGON2_PASSES", "1");
        // The server takes a variable for a setting that is spelled wrong.
        command.envs(settings.iter().copied()).env_remove(SESSIONS_VARIABLE);
        let (running, _) = Running::start(command, address, &bench.folder.join(format!("{name}.log")))?;
        Ok(Self { bench, running, programs: programs.to_owned(), name: name.to_owned() })
    }

    /// As [`Node::start`], with what another one has in its database, which is stopped meanwhile.
    pub fn like(other: Self, programs: &Path, name: &str) -> Result<(Self, Self), Failure> {
        let Self { bench, running, programs: own, name: from } = other;
        running.stop()?;
        let folder = |name: &str| bench.folder.join(name);
        process::run(Command::new("cp").arg("-r").args([folder(&from), folder(name)]))?;
        std::fs::copy(accounts_file(bench, &from), accounts_file(bench, name))?;
        Ok((Self::start(bench, &own, &from, &[])?, Self::start(bench, programs, name, &[])?))
    }

    /// As [`Node::start`], with so many sessions in its database; what the example `fill` says of them, too.
    pub fn filled(
        bench: &'a Bench,
        programs: &Path,
        name: &str,
        sessions: u64,
        words: &[&str],
    ) -> Result<(Self, Value), Failure> {
        Self::start(bench, programs, name, &[])?.running.stop()?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let mut fill = Command::new(bench.programs.join("examples/fill"));
        let database = path(&bench.folder.join(name).join("portcullis.db"));
        fill.args([&database, &sessions.to_string(), &now_ms.to_string(), &path(&accounts_file(bench, name))]);
        let filled = serde_json::from_str(&process::output(fill.args(words))?).unwrap_or_default();
        Ok((Self::start(bench, programs, name, &[])?, filled))
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// A thousand accounts that `fill` has put in.
    pub fn accounts(&self) -> Result<Vec<String>, Failure> {
        let text = std::fs::read_to_string(accounts_file(self.bench, &self.name))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn command(&self, program: &str) -> Command {
        let cores = self.bench.cores.as_ref().map(|(_, second)| second.as_str());
        with_files(pinned(cores, &self.programs.join(program)))
    }

    /// An administrator's access token, which lives five minutes, or until everyone is signed out.
    pub fn admin(&self) -> Result<String, Failure> {
        let body = json!({ "identifier": ADMIN, "password": PASSWORD });
        let session = post(self.address(), "/v1/sessions", &body)?;
        Ok(session["access_token"].as_str().unwrap_or_default().to_owned())
    }

    /// A call that succeeds.
    pub fn call(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let body = body.map(ToString::to_string);
        let answer = mini_http::request_as(self.address(), method, path, Some(token), body.as_deref(), LIMIT)?;
        if !(200..300).contains(&answer.status) {
            return Err(Failure::Missing(format!("{method} {path}: {} {}", answer.status, answer.body)));
        }
        serde_json::from_str(&answer.body).map_err(|error| Failure::Missing(format!("{method} {path}: {error}")))
    }

    /// A new client of kind verifier: its id and its secret.
    pub fn verifier(&self) -> Result<(String, String), Failure> {
        let body = json!({ "name": "bench", "kind": "verifier" });
        let client = self.call(&self.admin()?, "POST", "/v1/admin/clients", Some(&body))?;
        let text = |member: &str| client[member].as_str().unwrap_or_default().to_owned();
        Ok((text("client_id"), text("client_secret")))
    }

    /// So many verifiers in so many processes, all fresh.
    pub fn followers(&self, count: usize, processes: usize) -> Result<Vec<Followers>, Failure> {
        let (id, secret) = self.verifier()?;
        let address = self.address().to_string();
        let mut fleet = Vec::new();
        for n in 0..processes {
            let share = count / processes + usize::from(n < count % processes);
            let program = self.command("portcullis-followers");
            fleet.push(Followers::start(program, &format!("http://{address}"), share, &address, (&id, &secret))?);
            // One after the other: so many that come at once are another matter.
            fleet.iter_mut().last().map_or(Ok(()), Followers::ready)?;
        }
        Ok(fleet)
    }

    /// Signs in each of so many people so many times: access and refresh tokens, those of one account together.
    pub fn sign_in(&self, accounts: usize, each: usize) -> Result<Vec<(String, String)>, Failure> {
        let (address, own_names) = (self.address(), BATCHES.fetch_add(1, Relaxed));
        let hand = |own: usize| {
            let mut tokens = Vec::new();
            for n in (own..accounts).step_by(HANDS) {
                let who = json!({ "email": format!("caller-{own_names}-{n}@example.org"), "password": PASSWORD });
                post(address, "/v1/accounts", &who)?;
                let who = json!({ "identifier": who["email"], "password": PASSWORD, "device_name": "bench" });
                for _ in 0..each {
                    let session = post(address, "/v1/sessions", &who)?;
                    let text = |member: &str| session[member].as_str().unwrap_or_default().to_owned();
                    tokens.push((text("access_token"), text("refresh_token")));
                }
            }
            Ok::<_, Failure>(tokens)
        };
        std::thread::scope(|scope| {
            let hands: Vec<_> = (0..HANDS).map(|own| scope.spawn(move || hand(own))).collect();
            let mut all = Vec::new();
            for hand in hands {
                all.extend(hand.join().map_err(|_| Failure::Missing("a sign-in panicked".into()))??);
            }
            Ok(all)
        })
    }

    /// Writes refresh tokens down for [`Node::refresh`].
    pub fn chains(&self, signed_in: &[(String, String)]) -> Result<PathBuf, Failure> {
        let file = self.bench.folder.join(format!("{}.tokens", self.name));
        std::fs::write(&file, signed_in.iter().map(|(_, refresh)| format!("{refresh}\n")).collect::<String>())?;
        Ok(file)
    }

    /// 32 callers refresh for so long, each with the next one of its chains: how many in a second, and the p99 in milliseconds.
    pub fn refresh(&self, chains: &Path, seconds: &str) -> Result<(f64, f64), Failure> {
        let mut load = self.command("portcullis-load");
        let callers = super::CALLERS.to_string();
        load.args([&self.address().to_string(), REFRESH, &path(chains), seconds, "1000000", &callers]);
        let text = process::output(&mut load)?;
        let said: Value =
            serde_json::from_str(&text).map_err(|error| Failure::Missing(format!("portcullis-load: {error}")))?;
        if said["errors"] != 0 {
            return Err(Failure::Missing(format!("a caller met an error: {}", said["first_error"])));
        }
        let number = |name: &str| said[name].as_f64().unwrap_or(0.0);
        Ok((number("per_s"), number("p99_us") / 1000.0))
    }

    /// Revoking calls by `portcullis-ends`: lines of `METHOD PATH TOKEN [BODY]`.
    pub fn ends(&self, callers: usize, seconds: &str, pause_ms: usize, plan: &str) -> Result<Vec<Ended>, Failure> {
        let file = self.bench.folder.join(format!("{}.plan", self.name));
        std::fs::write(&file, plan)?;
        let mut command = self.command("portcullis-ends");
        command.args([&callers.to_string(), seconds, &pause_ms.to_string(), &path(&file), &self.address().to_string()]);
        Ended::all(&process::output(&mut command)?)
    }

    /// Any calls by `portcullis-trips`, one after the other: how long each took in milliseconds. All must be answered with 200.
    pub fn timed(&self, lines: &[Value]) -> Result<Vec<f64>, Failure> {
        let file = self.bench.folder.join(format!("{}.plan", self.name));
        std::fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        let mut command = self.command("portcullis-trips");
        let text = process::output(command.args(["0", &path(&file), &self.address().to_string()]))?;
        let parse = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
            ["200", sent, answered] => Some((answered.parse::<f64>().ok()? - sent.parse::<f64>().ok()?) / 1000.0),
            _ => None,
        };
        let all: Option<Vec<f64>> = text.lines().map(parse).collect();
        all.filter(|all| !all.is_empty()).ok_or_else(|| Failure::Missing(format!("portcullis-trips said:\n{text}")))
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> Result<f64, Failure> {
        let answer = mini_http::request(self.address(), "GET", "/metrics", None, Duration::from_secs(5))?;
        let line = answer.body.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0.0))
    }

    /// Open files of the server, nearly all of them connections.
    pub fn files(&self) -> Result<usize, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.running.child.id()))?.count())
    }
}

fn accounts_file(bench: &Bench, name: &str) -> PathBuf {
    bench.folder.join(format!("{name}.accounts"))
}

/// The same program with room for many connections. It keeps its process id.
fn with_files(command: Command) -> Command {
    let mut wrapped = Command::new("sh");
    wrapped.args(["-c", FILES, "sh"]).arg(command.get_program()).args(command.get_args());
    wrapped
}

/// As many sessions as are named for a slower machine or a smaller disk, or as many as are measured in earnest.
pub fn sessions(earnest: u64) -> Result<u64, Failure> {
    let Some(given) = std::env::var_os(SESSIONS_VARIABLE) else { return Ok(earnest) };
    let wrong = || Failure::Usage(format!("{SESSIONS_VARIABLE}: a whole number is wanted"));
    given.to_string_lossy().parse().map_err(|_| wrong())
}

/// The value below which 99 of 100 are, of what is not sorted.
pub fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * 0.99).round() as usize;
    values.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::{Aim, Sheet, Unit, p99};

    #[test]
    fn rounds_of_one_figure_stand_in_one_row() {
        let (mut ours, mut other) = (Sheet::default(), Sheet::default());
        for value in [1.0, 3.0, 2.0] {
            ours.add("x", Unit::Ms, Aim::AtMost(2.5), value);
            other.add("x", Unit::Ms, Aim::None, value * 2.0);
        }
        let rows = ours.rows(Some(&other));
        assert_eq!((rows.len(), rows[0].ours.median, rows[0].ratio.unwrap().median), (1, 2.0, 0.5));
        assert_eq!(rows[0].met(), Some(true));
    }

    #[test]
    fn of_a_hundred_the_second_largest() {
        assert_eq!(p99((1..=100).map(f64::from).collect()), 99.0);
        assert_eq!(p99(Vec::new()), 0.0);
    }
}
