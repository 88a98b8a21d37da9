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
mod report;

use call::{Caller, Fault};
use report::{Ran, now, report};
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
    std::fs::write(file, ran.iter().map(|r| format!("{}\n", r.value)).collect::<String>())?;
    report(&ran, seconds);
    Ok(())
}

/// One caller: refreshes with the token that the last answer of the same chain brought, one chain after the other. What the chains
/// ended with is the value, a line each.
async fn call(plan: Arc<Plan>, address: String, mut tokens: VecDeque<String>) -> Ran {
    let mut ran = Ran::new(lines(&tokens));
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
        let Some(token) = tokens.pop_front() else { break };
        let sent = now();
        match refresh(&plan.path, &mut caller, &token).await {
            Ok(next) => tokens.push_back(next),
            Err(error) => {
                tokens.push_back(token);
                ran.error = Some(error.to_string());
                break;
            }
        }
        ran.took(sent);
    }
    ran.value = lines(&tokens);
    ran
}

fn lines(tokens: &VecDeque<String>) -> String {
    tokens.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}

async fn refresh(path: &str, caller: &mut Caller, token: &str) -> Result<String, Fault> {
    let body = serde_json::json!({ "refresh_token": token }).to_string();
    let answer = caller.call("POST", path, None, Some(body)).await?;
    Ok(serde_json::from_slice::<Answer>(&answer)?.refresh_token)
}
