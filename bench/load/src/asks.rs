//! A closed loop of requests that a file describes: the same program asks the server and its peers, whatever they call things.
//!
//! Usage: `portcullis-asks DESCRIPTION ADDRESS SECONDS MAX_REQUESTS`; [`Ask`] is the description, in JSON. It stops at the time, at
//! the count, or when `once` values are used up, and prints the line that `portcullis-load` prints.
#[allow(dead_code, reason = "calls whose answer is only looked at as a success are made by the other programs here")]
mod call;
mod report;

use call::{Caller, Fault};
use report::{Ran, now, report};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Stands for the value in the path, in headers and in the body.
const PLACE: &str = "{value}";

/// What is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// JSON, unless a header says otherwise.
    body: Option<String>,
    /// How many ask at once; with `next`, as many as there are values.
    callers: usize,
    /// Each rests for as long after an answer.
    #[serde(default)]
    pause_ms: u64,
    /// File with a value a line. Callers take the next one each, from the start again at the end.
    values: Option<PathBuf>,
    /// Each value once.
    #[serde(default)]
    once: bool,
    /// A caller keeps its value until the answer's member of this name takes its place. Afterwards the file holds what the chains
    /// ended with. A chain ends at its first error: a lost token cannot be guessed.
    next: Option<String>,
    /// Another member of the answers, and the file that they are written to, a line each.
    keep: Option<(String, PathBuf)>,
    /// Stands in the body of each answer, or the answer is an error.
    holds: Option<String>,
}

struct Plan {
    ask: Ask,
    address: String,
    until: Instant,
    /// Requests that may still be begun, by all callers together.
    left: AtomicU64,
    values: Vec<String>,
    turn: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [description, address, seconds, max] = arguments.as_slice() else {
        return Err("usage: portcullis-asks DESCRIPTION ADDRESS SECONDS MAX_REQUESTS".into());
    };
    let ask: Ask = serde_json::from_str(&std::fs::read_to_string(description)?)?;
    let values = match &ask.values {
        Some(file) => std::fs::read_to_string(file)?.lines().map(str::to_owned).collect(),
        None => vec![String::new()],
    };
    let callers = if ask.next.is_some() { values.len() } else { ask.callers };
    let begun = now();
    let plan = Arc::new(Plan {
        ask,
        address: address.clone(),
        until: begun + Duration::from_secs_f64(seconds.parse()?),
        left: AtomicU64::new(max.parse()?),
        values,
        turn: AtomicU64::new(0),
    });
    let started: Vec<_> = (0..callers).map(|own| tokio::spawn(caller(plan.clone(), own, callers))).collect();
    let (mut ran, mut kept) = (Vec::with_capacity(callers), String::new());
    for caller in started {
        let (one, lines) = caller.await?;
        ran.push(one);
        kept += &lines;
    }
    let seconds = begun.elapsed().as_secs_f64();
    if let (Some(file), Some(_)) = (&plan.ask.values, &plan.ask.next) {
        std::fs::write(file, ran.iter().map(|r| format!("{}\n", r.value)).collect::<String>())?;
    }
    if let Some((_, file)) = &plan.ask.keep {
        std::fs::write(file, kept)?;
    }
    report(&ran, seconds);
    Ok(())
}

async fn caller(plan: Arc<Plan>, own: usize, callers: usize) -> (Ran, String) {
    let mut ran = Ran::new(plan.values.get(own).cloned().unwrap_or_default());
    let mut kept = String::new();
    if let Err(error) = asks(&plan, own, callers, &mut ran, &mut kept).await {
        ran.error = Some(error.to_string());
    }
    (ran, kept)
}

async fn asks(plan: &Plan, own: usize, callers: usize, ran: &mut Ran, kept: &mut String) -> Result<(), Fault> {
    let ask = &plan.ask;
    let mut caller = Caller::connect(&plan.address).await?;
    let pause = Duration::from_millis(ask.pause_ms);
    if !pause.is_zero() {
        // Not all at the same moment.
        tokio::time::sleep(pause * u32::try_from(own)? / u32::try_from(callers)?).await;
    }
    while now() < plan.until {
        if plan.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            break;
        }
        if ask.next.is_none() {
            let turn = usize::try_from(plan.turn.fetch_add(1, Ordering::Relaxed))?;
            if ask.once && turn >= plan.values.len() {
                break;
            }
            ran.value.clone_from(plan.values.get(turn % plan.values.len().max(1)).ok_or("no values")?);
        }
        let filled = |text: &String| text.replace(PLACE, &ran.value);
        let headers = ask.headers.iter().map(|(name, text)| (name.clone(), filled(text))).collect();
        let (path, body) = (filled(&ask.path), ask.body.as_ref().map(filled));
        let sent = now();
        let (status, body) = caller.answer(&ask.method, &path, None, &headers, body).await?;
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() || ask.holds.as_ref().is_some_and(|held| !text.contains(held)) {
            return Err(format!("{status}: {text}").into());
        }
        if ask.next.is_some() || ask.keep.is_some() {
            let answer: serde_json::Value = serde_json::from_slice(&body)?;
            let member = |name: &str| answer[name].as_str().ok_or_else(|| format!("no {name} in an answer"));
            if let Some(name) = &ask.next {
                ran.value = member(name)?.to_owned();
            }
            if let Some((name, _)) = &ask.keep {
                kept.push_str(member(name)?);
                kept.push('\n');
            }
        }
        ran.took(sent);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}
