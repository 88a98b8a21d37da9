//! Revoking calls, one after the other on each of some connections: for `cargo xtask bench cluster`.
//!
//! Usage: `portcullis-ends CALLERS SECONDS PAUSE_MS PLAN_FILE ADDRESS…`. Each line of the plan is one call,
//! `METHOD PATH TOKEN`, and perhaps a body of JSON after that.
//! The callers are spread over the addresses, take the next line of the plan each, and rest for the pause after each answer. It
//! stops at the time or at the end of the plan, and prints a line for each call: `REV SENT_US ANSWERED_US TOOK_MS COMPLETE`, times
//! by the machine's `CLOCK_MONOTONIC`, the last two as the server says them. At the first error it ends with that.
mod call;

use call::{Caller, Fault};
use serde::Deserialize;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Deserialize)]
struct Answer {
    rev: u64,
    enforcement: Enforcement,
}

#[derive(Deserialize)]
struct Enforcement {
    took_ms: i64,
    complete: bool,
}

struct Plan {
    lines: Vec<String>,
    next: AtomicUsize,
    until_us: i64,
    pause: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [callers, seconds, pause_ms, file, addresses @ ..] = arguments.as_slice() else {
        return Err("usage: portcullis-ends CALLERS SECONDS PAUSE_MS PLAN_FILE ADDRESS…".into());
    };
    let plan = Arc::new(Plan {
        lines: std::fs::read_to_string(file)?.lines().map(str::to_owned).collect(),
        next: AtomicUsize::new(0),
        until_us: now_us() + (seconds.parse::<f64>()? * 1e6) as i64,
        pause: Duration::from_millis(pause_ms.parse()?),
    });
    let callers = (0..callers.parse::<usize>()?).zip(addresses.iter().cycle());
    let callers: Vec<_> = callers.map(|(_, address)| tokio::spawn(run(plan.clone(), address.clone()))).collect();
    let mut out = std::io::stdout().lock();
    for caller in callers {
        for line in caller.await?? {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

async fn run(plan: Arc<Plan>, address: String) -> Result<Vec<String>, Fault> {
    let mut caller = Caller::connect(&address).await?;
    let mut done = Vec::new();
    while now_us() < plan.until_us {
        let Some(line) = plan.lines.get(plan.next.fetch_add(1, Ordering::Relaxed)) else { break };
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().ok_or_else(|| format!("the plan's line {line:?} is not METHOD PATH TOKEN"));
        let (method, path, token) = (word()?, word()?, word()?);
        let body = words.next().map(str::to_owned);
        let sent = now_us();
        let body = caller.call(method, path, Some(token), body).await?;
        let answered = now_us();
        let Answer { rev, enforcement: Enforcement { took_ms, complete } } = serde_json::from_slice(&body)?;
        done.push(format!("{rev} {sent} {answered} {took_ms} {complete}"));
        if !plan.pause.is_zero() {
            tokio::time::sleep(plan.pause).await;
        }
    }
    Ok(done)
}

/// Microseconds of the machine's monotonic clock.
fn now_us() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}
