//! A closed loop of refreshes: one connection and one chain of refresh tokens per caller, the next request when the answer to
//! the last one is read. The same program measures the server and its floor, so that its own cost cancels out.
//!
//! Usage: `portcullis-load ADDRESS PATH TOKENS_FILE SECONDS MAX_REQUESTS`. The file holds one refresh token per line, each is
//! one caller; afterwards it holds the tokens that the chains ended with, so that a next round goes on from there. It stops at
//! the time or at the count, whichever comes first, and prints one line of JSON:
//! `{"callers", "requests", "errors", "first_error", "seconds", "per_s", "p50_us", "p99_us", "max_us"}`.
//! A chain ends at its first error: a lost token cannot be guessed.
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// No answer to a refresh is longer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// A caller waits as long for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

type Fault = Box<dyn Error + Send + Sync>;

#[derive(Deserialize)]
struct Answer {
    refresh_token: String,
}

struct Plan {
    address: String,
    path: String,
    until: Instant,
    /// Requests that may still be begun, by all callers together.
    left: AtomicU64,
}

struct Ran {
    token: String,
    took_us: Vec<u64>,
    error: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, file, seconds, max] = arguments.as_slice() else {
        return Err("usage: portcullis-load ADDRESS PATH TOKENS_FILE SECONDS MAX_REQUESTS".into());
    };
    let tokens: Vec<String> = std::fs::read_to_string(file)?.lines().map(str::to_owned).collect();
    let begun = now();
    let plan = Arc::new(Plan {
        address: address.clone(),
        path: path.clone(),
        until: begun + Duration::from_secs_f64(seconds.parse()?),
        left: AtomicU64::new(max.parse()?),
    });
    let callers: Vec<_> = tokens.into_iter().map(|token| tokio::spawn(call(Arc::clone(&plan), token))).collect();
    let mut ran = Vec::with_capacity(callers.len());
    for caller in callers {
        ran.push(caller.await?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::write(file, ran.iter().map(|r| format!("{}\n", r.token)).collect::<String>())?;
    report(&ran, seconds);
    Ok(())
}

/// One caller: refreshes with the token that the last answer brought.
async fn call(plan: Arc<Plan>, token: String) -> Ran {
    let mut ran = Ran { token, took_us: Vec::with_capacity(1 << 16), error: None };
    let mut sender = match connect(&plan.address).await {
        Ok(sender) => sender,
        Err(error) => {
            ran.error = Some(format!("connect: {error}"));
            return ran;
        }
    };
    while now() < plan.until {
        if plan.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            break;
        }
        let sent = now();
        match tokio::time::timeout(ANSWER_LIMIT, refresh(&plan, &mut sender, &ran.token)).await {
            Ok(Ok(next)) => ran.token = next,
            Ok(Err(error)) => {
                ran.error = Some(error.to_string());
                break;
            }
            Err(_) => {
                ran.error = Some(format!("no answer within {} s", ANSWER_LIMIT.as_secs()));
                break;
            }
        }
        ran.took_us.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    ran
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, Fault> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn refresh(plan: &Plan, sender: &mut SendRequest<Full<Bytes>>, token: &str) -> Result<String, Fault> {
    let body = serde_json::to_vec(&serde_json::json!({ "refresh_token": token }))?;
    let request = Request::post(&plan.path)
        .header(header::HOST, &plan.address)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(serde_json::from_slice::<Answer>(&body)?.refresh_token)
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
