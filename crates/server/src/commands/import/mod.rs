//! `portcullis import`: accounts from a file of lines, in batches through the admin API.
//!
//! A line that is wrong is reported with its number, and the run goes on; at the end the exit code says whether there were any.
//! A line that was imported before is left as it is, so that a run may be repeated; with `--resume` the lines that are done are
//! passed over, after it was made sure that they are still the same.
mod lines;
mod progress;

use self::lines::{Lines, Read};
use self::progress::{Counts, Progress};
use super::remote::{Remote, block_on, secret};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out;
use crate::cli::transfer::ImportArgs;
use http::Method;
use portcullis_domain::import::{self, Checked, FirebaseProject, Line, MAX_BATCH};
use portcullis_domain::refused::Refused;
use portcullis_wire::{Code, Digest};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// A batch is sent when it has so many bytes, or [`MAX_BATCH`] lines: well below the longest body that the server takes.
const MAX_BATCH_BYTES: usize = 40 << 10;
/// The most lines of a file: what is kept of each, to notice an address that comes twice, takes some 40 bytes.
const MAX_LINES: u64 = 20_000_000;
/// How often a server that is too busy is asked again, after a second each.
const PATIENCE: u32 = 30;

/// Does what was asked for.
pub fn run(args: &ImportArgs) -> Outcome {
    block_on(act(args))
}

async fn act(args: &ImportArgs) -> Outcome {
    let stdin = args.file == Path::new("-");
    if stdin && args.resume {
        return Err(Failure::config("standard input cannot be resumed; name a file"));
    }
    let mut lines = Lines::open(&args.file)?;
    let mut run = Run {
        remote: Remote::of(&args.reach)?,
        project: project(args)?,
        args,
        progress_file: (!stdin && !args.dry_run).then(|| progress::beside(&args.file)),
        progress: Progress::default(),
        seen: BTreeSet::new(),
        batch: Vec::new(),
        bytes: 0,
        counts: Counts::default(),
    };
    if args.resume {
        run.pass_over(&mut lines)?;
    }
    let done = run.all(&mut lines).await;
    if let Err(failure) = &done {
        let n = run.progress.lines;
        let go_on =
            if run.progress_file.is_some() { "; the same command with --resume goes on from there" } else { "" };
        let message = format!("{}\n{n} lines of {} are done{go_on}", failure.message, args.file.display());
        return Err(Failure { exit: failure.exit, message });
    }
    run.finish()
}

fn project(args: &ImportArgs) -> Result<FirebaseProject, Failure> {
    Ok(FirebaseProject {
        signer_key: secret(args.firebase_signer_key.as_deref(), "PORTCULLIS_FIREBASE_SIGNER_KEY")?,
        salt_separator: args.firebase_salt_separator.clone(),
        rounds: args.firebase_rounds,
        mem_cost: args.firebase_mem_cost,
    })
}

/// What is wrong with a line.
struct Wrong {
    code: &'static str,
    field: Option<String>,
    detail: String,
}

impl Wrong {
    fn malformed(detail: impl Into<String>) -> Self {
        Self { code: Code::Malformed.as_str(), field: None, detail: detail.into() }
    }
}

struct Run<'a> {
    args: &'a ImportArgs,
    remote: Remote,
    project: FirebaseProject,
    progress_file: Option<std::path::PathBuf>,
    /// Up to which line all is done.
    progress: Progress,
    /// Addresses and ids of this file, as digests.
    seen: BTreeSet<u128>,
    /// Lines that wait, with their numbers.
    batch: Vec<(u64, Value)>,
    bytes: usize,
    /// As far as the file was read.
    counts: Counts,
}

impl Run<'_> {
    /// Passes over the lines that an earlier run has done.
    fn pass_over(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        let Some(before) = self.progress_file.as_deref().map(Progress::load).transpose()?.flatten() else {
            return Ok(()); // nothing was begun
        };
        while lines.number() < before.lines {
            match lines.next()? {
                Some(read) => drop(self.check(&read)),
                None => break,
            }
        }
        if lines.number() != before.lines || lines.digest() != before.digest {
            let (file, n) = (self.args.file.display(), before.lines);
            return Err(Failure::config(format!(
                "{file} is not the file that was begun: its first {n} lines have changed; run without --resume (accounts \
                 that are there are left as they are)"
            )));
        }
        self.counts = before.counts.clone();
        self.progress = before;
        Ok(())
    }

    async fn all(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        while let Some(read) = lines.next()? {
            let n = lines.number();
            if n > MAX_LINES {
                return Err(Failure::config(format!("a file has at most {MAX_LINES} lines; split it")));
            }
            match self.check(&read) {
                Ok(None) => self.counts.blank += 1,
                Ok(Some(line)) => {
                    self.bytes += line.to_string().len() + 1;
                    self.batch.push((n, line));
                }
                Err(wrong) => {
                    self.report(n, &wrong);
                    self.counts.refused += 1;
                }
            }
            self.counts.lines = n;
            if self.batch.len() >= MAX_BATCH || self.bytes >= MAX_BATCH_BYTES {
                self.flush(lines).await?;
            }
        }
        self.flush(lines).await
    }

    /// Checks a line by itself; what to send for it, if it is not blank.
    fn check(&mut self, read: &Read) -> Result<Option<Value>, Wrong> {
        let bytes = match read {
            Read::Line(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => return Ok(None),
            Read::Line(bytes) => bytes,
            Read::TooLong => {
                return Err(Wrong::malformed(format!("is longer than {} bytes; no account is", lines::MAX_LINE)));
            }
        };
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Wrong::malformed(format!("is not UTF-8 (at byte {}); convert the file", error.valid_up_to() + 1))
        })?;
        if text.contains('\0') {
            return Err(Wrong::malformed("holds a NUL byte; is this a text file?"));
        }
        let line: Line = portcullis_wire::json::from_slice(bytes).map_err(|error| {
            let hint =
                if text.trim_start().starts_with('{') { "" } else { "; a line is one JSON object: {\"email\": …}" };
            Wrong::malformed(format!("{}{hint}", import::without_values(&error.to_string())))
        })?;
        let checked = import::check(line, &self.project).map_err(|refused| match refused {
            Refused::InvalidValue { field, detail } => {
                Wrong { code: Code::InvalidValue.as_str(), field: Some(field.into()), detail }
            }
            other => Wrong { code: other.code().as_str(), field: None, detail: other.code().title().into() },
        })?;
        self.once("email", checked.email.as_str())?;
        if let Some(id) = checked.id {
            self.once("id", &id.to_string())?;
        }
        Ok(Some(sent(&checked)))
    }

    /// Refuses what stands in an earlier line already.
    fn once(&mut self, field: &str, value: &str) -> Result<(), Wrong> {
        let digest = Digest::of(format!("{field} {value}").as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&digest.0[..16]);
        if self.seen.insert(u128::from_be_bytes(short)) {
            return Ok(());
        }
        let detail = "stands in an earlier line too; leave one of them out".into();
        Err(Wrong { code: Code::Conflict.as_str(), field: Some(field.into()), detail })
    }

    /// Sends what waits, and notes that everything up to here is done.
    async fn flush(&mut self, lines: &Lines) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if !batch.is_empty() {
            let accounts: Vec<&Value> = batch.iter().map(|(_, line)| line).collect();
            let body = json!({ "accounts": accounts, "dry_run": self.args.dry_run });
            let answer = self.send(&body).await?;
            let results = answer.get("results").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            if results.len() != batch.len() {
                return Err(Failure::refused("the server's answer is not about the lines that were sent"));
            }
            for ((n, _), result) in batch.iter().zip(results) {
                self.told(*n, result);
            }
        }
        self.progress = Progress { lines: lines.number(), digest: lines.digest(), counts: self.counts.clone() };
        match &self.progress_file {
            Some(path) => self.progress.save(path),
            None => Ok(()),
        }
    }

    /// A server that is too busy, or cannot write just now, is asked again; the batch is the same, so nothing doubles.
    async fn send(&mut self, body: &Value) -> Result<Value, Failure> {
        let mut tries = 0;
        loop {
            let answer = self.remote.answer(Method::POST, "/v1/admin/import", Some(body)).await?;
            match answer.status {
                503 if tries < PATIENCE => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                _ if answer.is_success() => return Ok(answer.body),
                _ => return Err(self.remote.refusal(&answer)),
            }
        }
    }

    fn told(&mut self, n: u64, result: &Value) {
        let text = |member: &str| result.get(member).and_then(Value::as_str).unwrap_or_default();
        match text("status") {
            "created" => self.counts.created += 1,
            "unchanged" => {
                self.counts.unchanged += 1;
                let differs = super::remote::cell(result, "differs");
                if !differs.is_empty() && !self.args.reach.json {
                    let what = out::harmless(&differs);
                    out::line(&format!(
                        "line {n}: is there already and stays as it is, though the line differs in: {what}"
                    ));
                }
            }
            _ => {
                self.counts.refused += 1;
                let field = Some(text("field")).filter(|field| !field.is_empty()).map(str::to_owned);
                let code = Code::ALL.iter().find(|code| code.as_str() == text("code"));
                let code = code.map_or("refused", |code| code.as_str());
                self.report(n, &Wrong { code, field, detail: text("detail").to_owned() });
            }
        }
    }

    fn report(&self, n: u64, wrong: &Wrong) {
        let Wrong { code, field, detail } = wrong;
        if self.args.reach.json {
            return out::json(&json!({ "line": n, "code": code, "field": field, "detail": detail }));
        }
        let field = field.as_ref().map_or(String::new(), |field| format!("{field}: "));
        out::line(&format!("line {n}: {}", out::harmless(&format!("{field}{detail}"))));
    }

    fn finish(self) -> Outcome {
        let Counts { lines, blank, created, unchanged, refused } = self.counts;
        let dry_run = self.args.dry_run;
        if let Some(path) = &self.progress_file {
            progress::remove(path);
        }
        if self.args.reach.json {
            out::json(&json!({
                "done": true, "dry_run": dry_run, "lines": lines, "blank": blank, "created": created,
                "unchanged": unchanged, "refused": refused,
            }));
        } else {
            let made = if dry_run { "would be made" } else { "made" };
            let nothing = if dry_run { "; nothing was written" } else { "" };
            out::line(&format!(
                "{lines} lines: {created} {made}, {unchanged} there already, {refused} refused, {blank} blank{nothing}"
            ));
        }
        Ok(if refused > 0 { Exit::CheckFailed } else { Exit::Done })
    }
}

/// A line as it is sent: what was read of it, and nothing else.
fn sent(checked: &Checked) -> Value {
    let Checked { id, email, email_verified, name, roles, created_at, blocked, password_hash } = checked;
    let mut out = json!({ "email": email.as_str(), "roles": roles });
    if *email_verified {
        out["email_verified"] = true.into();
    }
    if let Some(id) = id {
        out["id"] = id.to_string().into();
    }
    if let Some(name) = name {
        out["name"] = name.as_str().into();
    }
    if let Some(at) = created_at {
        out["created_at"] = at.to_string().into();
    }
    if let Some((reason, until)) = blocked {
        out["blocked"] = json!({ "reason": reason, "until": until.map(|until| until.to_string()) });
    }
    if let Some(hash) = password_hash {
        out["password_hash"] = hash.as_str().into();
    }
    out
}
