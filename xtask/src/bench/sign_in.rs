//! Sign-ins by password: beside what Argon2id alone allows on the same core, by the same parameters; what a flood of them does to
//! refreshes; and a framework's sign-ins and session checks.
use super::asked::{Ours, Rounds, emails, refreshes, said, sign_ins};
use super::peers::BetterAuth;
use super::table::{Aim, Ask, Figure, Row, Unit};
use super::{Bench, CALLERS};
use crate::{Failure, process};
use serde_json::json;
use std::process::Stdio;
use std::time::Duration;

const SIGN_IN: &str = "/v1/sessions";
/// The server's default parameters: KiB, passes, lanes.
const ARGON2: [&str; 3] = ["19456", "2", "1"];
/// So many sign in at once in a flood: more than are hashed at once, fewer than may wait.
const FLOOD: usize = 64;
/// Between two refreshes of a caller who is not in a hurry.
const PAUSE_MS: u64 = 32;

pub fn section(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let bench = Bench::built(&ask.workspace)?;
    let ours = Ours::start(&bench)?;
    let emails = emails(&bench, CALLERS)?;
    let seconds = if ask.quick { 1.0 } else { 3.0 };
    let many = sign_ins(SIGN_IN, "identifier", CALLERS, &emails);

    let (mut signed, mut bare, mut bare_us) = (Rounds::default(), Vec::new(), Vec::new());
    for _ in 0..ask.rounds(9) {
        signed.push(bench.ask(&ours.running, &many, seconds)?);
        let span = seconds.to_string();
        let words = [["argon2id", &span].as_slice(), &ARGON2].concat();
        let (per_s, cpu_us) = bench.limit(&words)?;
        bare.push(per_s);
        bare_us.push(cpu_us);
    }
    let limit = "Argon2id alone, 19 MiB, 2 passes, on that core";
    let mut rows = vec![
        Row::paired(
            &format!("sign-in, {CALLERS} at once"),
            Unit::PerSecond,
            &signed.per_s(),
            limit,
            &bare,
            Aim::RatioAtLeast(0.95),
        ),
        Row::paired("processor time of a sign-in", Unit::Us, &signed.cpu_us(), limit, &bare_us, Aim::None),
    ];

    for (hurry, pause_ms) in [("each when the last was answered", 0), ("1,000 per second", PAUSE_MS)] {
        rows.push(flooded(&bench, &ours, ask, &emails, hurry, pause_ms)?);
    }
    let peak = ours.running.peak_kb()? as f64 / 1024.0;
    rows.push(Row::alone("the most memory that all of this took", Figure::once(Unit::Mib, peak), Aim::None));
    rows.extend(framework(&bench, &ours, ask, &emails)?);
    Ok(rows)
}

/// The p99 of refreshes while people sign in as fast as they can, and without.
fn flooded(
    bench: &Bench,
    ours: &Ours,
    ask: &Ask,
    emails: &std::path::Path,
    hurry: &str,
    pause_ms: u64,
) -> Result<Row, Failure> {
    let seconds = if ask.quick { 1.0 } else { 2.0 };
    let mut refreshing = refreshes(&ours.tokens);
    refreshing["pause_ms"] = pause_ms.into();
    let flood = sign_ins(SIGN_IN, "identifier", FLOOD, emails);
    let (mut quiet, mut loud) = (Rounds::default(), Rounds::default());
    for round in 0..=ask.rounds(7) {
        let before = bench.ask(&ours.running, &refreshing, seconds)?;
        let mut others = bench.asking(&ours.running, &flood, seconds + 1.0)?;
        let others = others.stdout(Stdio::piped()).spawn()?;
        std::thread::sleep(Duration::from_millis(500));
        let meanwhile = bench.ask(&ours.running, &refreshing, seconds)?;
        said(&String::from_utf8_lossy(&others.wait_with_output()?.stdout))?;
        if round > 0 {
            quiet.push(before);
            loud.push(meanwhile);
        }
    }
    let what = format!("refresh p99 while {FLOOD} sign in, {CALLERS} callers, {hurry}");
    Ok(Row::paired(&what, Unit::Ms, &loud.p99_ms(), "the same without them", &quiet.p99_ms(), Aim::RatioAtMost(2.0)))
}

fn framework(bench: &Bench, ours: &Ours, ask: &Ask, emails: &std::path::Path) -> Result<[Row; 2], Failure> {
    let peer = BetterAuth::start(bench, &ask.workspace)?;
    let mut access = refreshes(&ours.tokens);
    let tokens = bench.folder.join("access.tokens");
    access["keep"] = json!(["access_token", &tokens]);
    process::output(bench.asking(&ours.running, &access, 0.2)?.stderr(Stdio::inherit()))?;
    let our_check = json!({
        "method": "GET", "path": "/v1/me", "callers": CALLERS, "values": tokens,
        "headers": { "authorization": "Bearer {value}" }, "holds": "@example.org",
    });
    let their_check = json!({
        "method": "GET", "path": "/api/auth/get-session", "callers": CALLERS, "values": peer.cookies,
        "headers": { "cookie": "{value}" }, "holds": "@example.org",
    });
    let our_sign_in = sign_ins(SIGN_IN, "identifier", CALLERS, emails);
    let their_sign_in = sign_ins("/api/auth/sign-in/email", "email", CALLERS, emails);
    let seconds = if ask.quick { 1.0 } else { 3.0 };
    let mut rounds = [const { Rounds::new() }; 4];
    for _ in 0..ask.rounds(3) {
        rounds[0].push(bench.ask(&ours.running, &our_sign_in, seconds)?);
        rounds[1].push(bench.ask(&peer.running, &their_sign_in, seconds)?);
        rounds[2].push(bench.ask(&ours.running, &our_check, seconds)?);
        rounds[3].push(bench.ask(&peer.running, &their_check, seconds)?);
    }
    let [our_sign_ins, sign_ins, our_checks, checks] = rounds;
    let row = |what: &str, ours: &Rounds, name: &str, theirs: &Rounds| {
        Row::paired(what, Unit::PerSecond, &ours.per_s(), name, &theirs.per_s(), Aim::None)
    };
    Ok([
        row("sign-in, the same", &our_sign_ins, &format!("{} on SQLite, its scrypt", peer.name), &sign_ins),
        row("who am I, asked of the server", &our_checks, &format!("{} on SQLite", peer.name), &checks),
    ])
}
