//! Calls that trip a rule about suspicious activity, one after the other: for `cargo xtask bench trips`.
//!
//! Usage: `portcullis-trips PAUSE_MS PLAN_FILE ADDRESS`. Each line of the plan is one call, as JSON: `method`, `path`, and perhaps `body`,
//! `token` and `headers`. After each answer it rests for the pause. It prints a line for each call: `STATUS SENT_US ANSWERED_US`, times by the
//! machine's `CLOCK_MONOTONIC`. Any status is an answer: a call that trips a rule is refused.
#[allow(dead_code, reason = "calls that must succeed are made by the other programs here")]
mod call;

use call::{Caller, Fault};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

#[derive(Deserialize)]
struct Line {
    method: String,
    path: String,
    token: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<serde_json::Value>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pause_ms, file, address] = arguments.as_slice() else {
        return Err("usage: portcullis-trips PAUSE_MS PLAN_FILE ADDRESS".into());
    };
    let pause = Duration::from_millis(pause_ms.parse()?);
    let plan: Vec<Line> = std::fs::read_to_string(file)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut caller = Caller::connect(address).await?;
    let mut out = std::io::stdout().lock();
    for Line { method, path, token, headers, body } in plan {
        let body = body.map(|body| body.to_string());
        let sent = now_us();
        let (status, _) = caller.answer(&method, &path, token.as_deref(), &headers, body).await?;
        writeln!(out, "{} {sent} {}", status.as_u16(), now_us())?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Microseconds of the machine's monotonic clock.
fn now_us() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}
