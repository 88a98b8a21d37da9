//! `cargo xtask bench mass`: everyone out, and by filter, among very many sessions.
//!
//! What is printed in milliseconds belongs to one machine on one day; how refreshes fare meanwhile is told against the same load
//! in the same run right before.
use super::{ADMIN, Bench, PASSWORD, REFRESH, Running, mega, path, pinned, post, sign_in_all};
use crate::ports::lasting_address;
use crate::{Failure, mini_http, process, workspace};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Sessions unless told otherwise.
const SESSIONS: u64 = 2_000_000;
/// A round of load.
const ROUND_S: &str = "2.0";
const ROUNDS: usize = 5;
/// A call that waits, or counts two million rows.
const LIMIT: Duration = Duration::from_secs(120);
/// A job is given up after as long.
const JOB_LIMIT: Duration = Duration::from_secs(1800);
const PATH: &str = "/v1/admin/revocations";

/// `bench mass [--sessions N]`.
pub fn command(words: &[&str]) -> Result<(), Failure> {
    let sessions = match words {
        [] => SESSIONS,
        ["--sessions", n] => {
            n.parse().map_err(|_| Failure::Usage(format!("--sessions {n}: a whole number is wanted")))?
        }
        _ => return Err(Failure::Usage("`bench mass` takes --sessions N".into())),
    };
    let workspace = workspace::load()?;
    let build = ["build", "--release", "--locked", "-p", "portcullis-server", "-p", "portcullis-load"];
    process::run(process::cargo().args(build).current_dir(&workspace.root))?;
    let example = ["build", "--release", "--locked", "-p", "portcullis-store-sqlite", "--example", "fill"];
    process::run(process::cargo().args(example).current_dir(&workspace.root))?;
    let bench = Bench::new(&workspace)?;
    let outcome = run(&bench, sessions);
    std::fs::remove_dir_all(&bench.folder)?;
    outcome
}

fn run(bench: &Bench, sessions: u64) -> Result<(), Failure> {
    let address = lasting_address();
    bench.start_server(address)?.0.stop()?;
    let begun = Instant::now();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let mut fill = Command::new(bench.programs.join("examples/fill"));
    fill.args([&path(&bench.folder.join("data/portcullis.db")), &sessions.to_string(), &now_ms.to_string()]);
    let filled: Value = serde_json::from_str(&process::output(&mut fill)?).unwrap_or_default();
    let bytes = filled["bytes"].as_u64().unwrap_or(0);
    println!(
        "{sessions} sessions of {} accounts put in within {} s: {:.1} MB, {} bytes per session with its grant and its share of an account",
        filled["accounts"],
        begun.elapsed().as_secs(),
        mega(bytes),
        bytes / sessions.max(1)
    );
    let (server, start) = bench.start_server(address)?;
    println!("start      {} ms to ready", start.as_millis());
    let tokens = bench.folder.join("server.tokens");
    std::fs::write(&tokens, sign_in_all(address)?)?;
    let (demo, demo_address) = demo(bench, address)?;

    bench.load(&server, &tokens)?; // warms caches
    let before = rounds(bench, &server, &tokens, ROUNDS, || Ok(false))?;
    let whole = json!({ "filter": { "address_range": "10.1.0.0/16" }, "now": true, "reason": "a bench" });
    let mut counted = whole.clone();
    counted["dry_run"] = true.into();
    let begun = Instant::now();
    let dry = call(address, "POST", PATH, &admin(address)?, Some(&counted))?;
    println!("dry run    {} sessions counted in {} ms", dry["sessions"], begun.elapsed().as_millis());

    let begun = Instant::now();
    let made = call(address, "POST", &format!("{PATH}?wait=enforced"), &admin(address)?, Some(&whole))?;
    println!(
        "by filter  enforced at every verifier {} ms after the commit ({} ms with the call), while the rows are gone through",
        made["enforcement"]["took_ms"],
        begun.elapsed().as_millis()
    );
    let job = format!("{PATH}/{}", made["job"].as_str().unwrap_or_default());
    let during = rounds(bench, &server, &tokens, usize::MAX, || {
        let now = call(address, "GET", &job, &admin(address)?, None)?;
        if begun.elapsed() > JOB_LIMIT {
            return Err(Failure::Missing(format!("the job is not done: {now}")));
        }
        Ok(now["state"] == "done")
    })?;
    let done = call(address, "GET", &job, &admin(address)?, None)?;
    println!(
        "job        {} sessions ended, {} looked at, in {} s",
        done["ended"],
        done["scanned"],
        begun.elapsed().as_secs()
    );
    println!(
        "refresh    p50 {:.2} ms before, {:.2} ms meanwhile (ratio {:.2}); p99 {:.2} before, {:.2} meanwhile (ratio {:.2})",
        before.0,
        during.0,
        during.0 / before.0,
        before.1,
        during.1,
        during.1 / before.1
    );
    let everyone = json!({ "everyone": true, "reason": "a bench" });
    let out = call(address, "POST", &format!("{PATH}?wait=enforced"), &admin(address)?, Some(&everyone))?;
    println!(
        "everyone   by one entry, enforced everywhere {} ms after the commit ({} verifier confirmed, complete: {})",
        out["enforcement"]["took_ms"], out["enforcement"]["acknowledged"], out["enforcement"]["complete"]
    );
    let _ = demo_address;
    demo.stop()?;
    server.stop()
}

/// Medians of p50 and p99 in milliseconds, over as many rounds, or until `done`.
fn rounds(
    bench: &Bench,
    server: &Running,
    tokens: &std::path::Path,
    most: usize,
    mut done: impl FnMut() -> Result<bool, Failure>,
) -> Result<(f64, f64), Failure> {
    let (mut p50, mut p99) = (vec![], vec![]);
    for _ in 0..most {
        let mut command =
            pinned(bench.cores.as_ref().map(|(_, second)| second.as_str()), &bench.programs.join("portcullis-load"));
        command.args([&server.address.to_string(), REFRESH, &path(tokens), ROUND_S, "500000"]);
        let said: Value = serde_json::from_str(&process::output(&mut command)?).unwrap_or_default();
        if said["errors"] != 0 {
            return Err(Failure::Missing(format!("a caller met an error: {}", said["first_error"])));
        }
        p50.push(said["p50_us"].as_f64().unwrap_or(0.0) / 1000.0);
        p99.push(said["p99_us"].as_f64().unwrap_or(0.0) / 1000.0);
        if done()? {
            break;
        }
    }
    Ok((super::median(p50), super::median(p99)))
}

/// A protected service that follows the feed.
fn demo(bench: &Bench, server: SocketAddr) -> Result<(Running, SocketAddr), Failure> {
    let body = json!({ "name": "bench", "kind": "verifier" });
    let client = call(server, "POST", "/v1/admin/clients", &admin(server)?, Some(&body))?;
    let address = lasting_address();
    let mut command = bench.on_first(&bench.programs.join("portcullis"));
    let text = |member: &str| client[member].as_str().unwrap_or_default().to_owned();
    command.args(["demo-api", "--issuer", &format!("http://{server}"), "--listen", &address.to_string()]);
    command.args(["--client-id", &text("client_id"), "--client-secret", &text("client_secret")]);
    Ok((Running::start(command, address, &bench.folder.join("demo.log"))?.0, address))
}

/// A fresh token: a revocation with `now` makes older ones stale.
pub fn admin(server: SocketAddr) -> Result<String, Failure> {
    let body = json!({ "identifier": ADMIN, "password": PASSWORD });
    let session = post(server, "/v1/sessions", &body)?;
    Ok(session["access_token"].as_str().unwrap_or_default().to_owned())
}

pub fn call(server: SocketAddr, method: &str, path: &str, token: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let body = body.map(ToString::to_string);
    let answer = mini_http::request_as(server, method, path, Some(token), body.as_deref(), LIMIT)?;
    if !(200..300).contains(&answer.status) {
        return Err(Failure::Missing(format!("{method} {path}: {} {}", answer.status, answer.body)));
    }
    serde_json::from_str(&answer.body).map_err(|error| Failure::Missing(format!("{method} {path}: {error}")))
}
