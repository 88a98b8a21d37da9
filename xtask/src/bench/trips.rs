//! `cargo xtask bench trips`: from a call that trips a rule about suspicious activity to the refusal at every verifier.
//!
//! Two rules: one ends all sessions of an account of which somebody outside tells fraud, one ends a session whose refresh token is
//! shown in another network. Each is tripped by HTTP, many times, one after the other. What is told is when each verifier has
//! applied the end that the rule wrote, which is when it begins to refuse: from when the call was sent, and from when it was answered.
use super::ends::Followers;
use super::{ADMIN, Bench, PASSWORD, Running, path, post};
use crate::ports::lasting_address;
use crate::{Failure, mini_http, process, workspace};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// Calls that trip each of the rules, unless told otherwise.
const CALLS: usize = 200;
const VERIFIERS: usize = 30;
const PAUSE_MS: &str = "20";
const LIMIT: Duration = Duration::from_secs(30);

const POLICY: &str = r#"version = "of the bench"
[[rule]]
name = "told"
acts = ["external"]
when = "signal.fraud"
then = ["end_all"]
reason = "Somebody told of fraud."
[[rule]]
name = "elsewhere"
acts = ["refresh"]
when = "signal.moved && signal.new_network"
then = ["end_session"]
reason = "In another network."
"#;
const ELSEWHERE: &str = "203.0.113.9";

/// A call that was answered.
struct Tripped {
    status: u16,
    sent_us: f64,
    answered_us: f64,
}

/// `bench trips [--calls N]`.
pub fn command(words: &[&str]) -> Result<(), Failure> {
    let calls = match words {
        [] => CALLS,
        ["--calls", n] => n.parse().map_err(|_| Failure::Usage(format!("--calls {n}: a whole number is wanted")))?,
        _ => return Err(Failure::Usage("`bench trips` takes --calls N".into())),
    };
    let workspace = workspace::load()?;
    let mut build = process::cargo();
    build.args(["build", "--release", "--locked", "-p", "portcullis-server", "-p", "portcullis-load"]);
    process::run(build.args(["-p", "portcullis-followers"]).current_dir(&workspace.root))?;
    let bench = Bench::new(&workspace)?;
    let outcome = run(&bench, calls);
    std::fs::remove_dir_all(&bench.folder)?;
    outcome
}

fn run(bench: &Bench, calls: usize) -> Result<(), Failure> {
    let address = lasting_address();
    let server = start(bench, address)?;
    let admin = sign_in(address, ADMIN)?;
    let admin = admin["access_token"].as_str().unwrap_or_default();
    let body = json!({ "name": "bench", "kind": "verifier" });
    let client = call(address, "POST", "/v1/admin/clients", admin, Some(&body))?;
    let text = |member: &str| client[member].as_str().unwrap_or_default().to_owned();
    let (id, secret) = (text("client_id"), text("client_secret"));
    let issuer = format!("http://{address}");
    let program = Command::new(bench.programs.join("portcullis-followers"));
    let mut fleet = Followers::start(program, &issuer, VERIFIERS, &address.to_string(), (&id, &secret))?;
    fleet.ready()?;

    println!(
        "\n{calls} calls one after the other, {VERIFIERS} verifiers; ms until a verifier refuses what the rule ended"
    );
    let (mut refreshes, mut signals) = (String::new(), String::new());
    for n in 0..calls {
        let email = format!("person-{n}@example.org");
        let account = post(address, "/v1/accounts", &json!({ "email": email, "password": PASSWORD }))?;
        // Two sessions: one is ended by the first rule, the other with its account.
        sign_in(address, &email)?;
        let session = sign_in(address, &email)?;
        let headers = json!({ "x-forwarded-for": ELSEWHERE });
        let body = json!({ "refresh_token": session["refresh_token"] });
        let line = json!({ "method": "POST", "path": super::REFRESH, "headers": headers, "body": body });
        refreshes += &format!("{line}\n");
        let body = json!({ "account_id": account["id"], "kind": "fraud" });
        let line = json!({ "method": "POST", "path": "/v1/admin/signals", "token": admin, "body": body });
        signals += &format!("{line}\n");
    }
    for (name, plan, status) in [
        ("a refresh in another network: end_session", refreshes, 401),
        ("a signal from outside: end_all", signals, 200),
    ] {
        let first = head(address)? + 1;
        let tripped = trip(bench, address, &plan)?;
        if let Some(other) = tripped.iter().find(|one| one.status != status) {
            return Err(Failure::Missing(format!("{name}: answered {}", other.status)));
        }
        let revs: Vec<u64> = (first..).take(tripped.len()).collect();
        let last = head(address)?;
        if revs.last().map(|rev| rev + 1) != Some(last) {
            return Err(Failure::Missing(format!("{name}: {first} to {last} is not one end for each call")));
        }
        let applied = fleet.applied(&revs)?;
        println!("  {name}");
        tell("every verifier", &tripped, &applied, |times| times);
        tell("the last verifier", &tripped, &applied, |times| {
            times.into_iter().max_by(f64::total_cmp).into_iter().collect()
        });
    }
    drop(fleet);
    server.stop()
}

fn start(bench: &Bench, address: SocketAddr) -> Result<Running, Failure> {
    let policy = bench.folder.join("rules.toml");
    std::fs::write(&policy, POLICY)?;
    let (issuer, data) = (format!("http://{address}"), path(&bench.folder.join("data")));
    let mut command = bench.on_first(&bench.programs.join("portcullis"));
    command.args(["serve", "--listen", &address.to_string(), "--issuer", &issuer, "--data-dir", &data]);
    command.args(["--risk-rules", &path(&policy), "--trusted-proxies", "127.0.0.0/8"]);
    command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{ADMIN}:{PASSWORD}"));
    // What a password costs is not what is measured here.
    command.env("PORTCULLIS_ARGON2_MEMORY", "64KiB").env("PORTCULLIS_ARGON2_PASSES", "1");
    Ok(Running::start(command, address, &bench.folder.join("server.log"))?.0)
}

/// Signs in, and out again: where the log is then.
fn head(address: SocketAddr) -> Result<u64, Failure> {
    let session = sign_in(address, ADMIN)?;
    let token = session["access_token"].as_str().unwrap_or_default();
    let ended = call(address, "DELETE", "/v1/me/sessions/current", token, None)?;
    ended["rev"].as_u64().ok_or_else(|| Failure::Missing(format!("a sign-out said {ended}")))
}

fn sign_in(address: SocketAddr, identifier: &str) -> Result<Value, Failure> {
    post(address, "/v1/sessions", &json!({ "identifier": identifier, "password": PASSWORD }))
}

fn call(address: SocketAddr, method: &str, path: &str, token: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let body = body.map(ToString::to_string);
    let answer = mini_http::request_as(address, method, path, Some(token), body.as_deref(), LIMIT)?;
    if !(200..300).contains(&answer.status) {
        return Err(Failure::Missing(format!("{method} {path}: {} {}", answer.status, answer.body)));
    }
    serde_json::from_str(&answer.body).map_err(|error| Failure::Missing(format!("{method} {path}: {error}")))
}

fn trip(bench: &Bench, address: SocketAddr, plan: &str) -> Result<Vec<Tripped>, Failure> {
    let file = bench.folder.join("plan");
    std::fs::write(&file, plan)?;
    let mut command = Command::new(bench.programs.join("portcullis-trips"));
    let text = process::output(command.args([PAUSE_MS, &path(&file), &address.to_string()]))?;
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let status = words.next()?.parse().ok()?;
        let mut number = || words.next()?.parse::<f64>().ok();
        Some(Tripped { status, sent_us: number()?, answered_us: number()? })
    };
    let all: Option<Vec<Tripped>> = text.lines().map(parse).collect();
    all.filter(|all| !all.is_empty()).ok_or_else(|| Failure::Missing(format!("portcullis-trips said:\n{text}")))
}

/// A line of the table: of the verifiers' times of each call those that `of` takes.
fn tell(name: &str, tripped: &[Tripped], applied: &[Vec<f64>], of: impl Fn(Vec<f64>) -> Vec<f64>) {
    let from = |begun: fn(&Tripped) -> f64| {
        let pairs = tripped.iter().zip(applied);
        let times = pairs.flat_map(|(one, at)| of(at.iter().map(|at| (at - begun(one)) / 1000.0).collect()));
        let mut all: Vec<f64> = times.collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (sent, answered) = (from(|one| one.sent_us), from(|one| one.answered_us));
    let at =
        |values: &[f64], share: f64| values.get(((values.len().max(1) - 1) as f64 * share).round() as usize).copied();
    let shown = |values: &[f64], share| at(values, share).unwrap_or(f64::NAN);
    let one =
        |(name, share): (&str, f64)| format!("{name} {:>7.2} / {:>7.2}", shown(&sent, share), shown(&answered, share));
    let line = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)].map(one).join("   ");
    println!("    {name:<18} from sending / from the answer   {line}   (of {})", sent.len());
}
