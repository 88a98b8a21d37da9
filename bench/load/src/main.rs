//! A closed loop of refreshes: one connection and one chain of refresh tokens per caller, the next request when the answer to
//! the last one is read. The same program measures the server and its floor, so that its own cost cancels out.
//!
//! Usage: `portcullis-load ADDRESS[,ADDRESS…] PATH TOKENS_FILE SECONDS MAX_REQUESTS [CALLERS]`. The callers are spread over the addresses.
//! The file holds one refresh token per line, each is one caller, or, with so many callers, each caller has a share of them and
//! refreshes the next one with each request, so that many rows are met; afterwards it holds the tokens that the chains ended with, so that a next round goes on from there. It stops at
//! the time or at the count, whichever comes first, and prints one line of JSON:
//! `{"callers", "requests", "errors", "first_error", "seconds", "per_s", "p50_us", "p99_us", "max_us"}`.
//! A chain ends at its first error: a lost token cannot be guessed.
mod call;

use call::{Caller, Fault};
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Deserialize)]
struct Answer {
    refresh_token: String,
}

struct Plan {
    path: String,
    until: Instant,
    /// Requests that may still be begun, by all callers together.
    left: AtomicU64,
}

struct Ran {
    /// The next one is in front.
    tokens: VecDeque<String>,
    took_us: Vec<u64>,
    error: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, path, file, seconds, max, callers @ ..] = arguments.as_slice() else {
        return Err("usage: portcullis-load ADDRESS[,ADDRESS…] PATH TOKENS_FILE SECONDS MAX_REQUESTS [CALLERS]".into());
    };
    let text = std::fs::read_to_string(file)?;
    let count = callers.first().map_or(Ok(text.lines().count()), |callers| callers.parse())?;
    let mut tokens = vec![VecDeque::new(); count];
    for (n, token) in text.lines().enumerate() {
        tokens[n % count.max(1)].push_back(token.to_owned());
    }
    let begun = now();
    let plan = Arc::new(Plan {
        path: path.clone(),
        until: begun + Duration::from_secs_f64(seconds.parse()?),
        left: AtomicU64::new(max.parse()?),
    });
    let addresses = addresses.split(',').map(str::to_owned).cycle();
    let callers: Vec<_> = tokens
        .into_iter()
        .zip(addresses)
        .map(|(tokens, address)| tokio::spawn(call(plan.clone(), address, tokens)))
        .collect();
    let mut ran = Vec::with_capacity(callers.len());
    for caller in callers {
        ran.push(caller.await?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::write(file, ran.iter().flat_map(|r| &r.tokens).map(|token| format!("{token}\n")).collect::<String>())?;
    report(&ran, seconds);
    Ok(())
}

/// One caller: refreshes with the token that the last answer of the same chain brought, one chain after the other.
async fn call(plan: Arc<Plan>, address: String, tokens: VecDeque<String>) -> Ran {
    let mut ran = Ran { tokens, took_us: Vec::with_capacity(1 << 16), error: None };
    let mut caller = match Caller::connect(&address).await {
        Ok(caller) => caller,
        Err(error) => {
            ran.error = Some(format!("connect: {error}"));
            return ran;
        }
    };
    while now() < plan.until {
        if plan.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            break;
        }
        let Some(token) = ran.tokens.pop_front() else { break };
        let sent = now();
        match refresh(&plan.path, &mut caller, &token).await {
            Ok(next) => ran.tokens.push_back(next),
            Err(error) => {
                ran.tokens.push_back(token);
                ran.error = Some(error.to_string());
                break;
            }
        }
        ran.took_us.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    ran
}

async fn refresh(path: &str, caller: &mut Caller, token: &str) -> Result<String, Fault> {
    let body = serde_json::json!({ "refresh_token": token }).to_string();
    let answer = caller.call("POST", path, None, Some(body)).await?;
    Ok(serde_json::from_slice::<Answer>(&answer)?.refresh_token)
}

#[allow(clippy::print_stdout, reason = "the line is the program's result")]
fn report(ran: &[Ran], seconds: f64) {
    let mut took_us: Vec<u64> = ran.iter().flat_map(|r| r.took_us.iter().copied()).collect();
    took_us.sort_unstable();
    let at = |percent: usize| took_us.get(took_us.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
    let errors = ran.iter().filter(|r| r.error.is_some()).count();
    let line = serde_json::json!({
        "callers": ran.len(),
        "requests": took_us.len(),
        "errors": errors,
        "first_error": ran.iter().find_map(|r| r.error.as_deref()),
        "seconds": seconds,
        "per_s": took_us.len() as f64 / seconds,
        "p50_us": at(50),
        "p99_us": at(99),
        "max_us": at(100),
    });
    println!("{line}");
}

#[allow(clippy::disallowed_methods, reason = "a measuring program apart from the product: its clock is the machine's")]
fn now() -> Instant {
    Instant::now()
}
