//! `portcullis doctor`: looks for what is wrong with an installation, on the server's machine and as the server's user.
//!
//! Each check says what it looked at, and when something is wrong, what to do. It changes nothing. `failed` is what keeps the
//! server from working or from being safe; `warning` is what an operator should know of.
mod outside;

use super::feed::{is_late, silent};
use super::remote::block_on;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::look::DoctorArgs;
use crate::cli::{out, table};
use crate::client::{Answer, Client, Target, Trust};
use crate::settings::{Database, Settings};
use http::Method;
use portcullis_app::act_journal;
use portcullis_app::high_water::{self, Mark, Proof};
use portcullis_app::real;
use portcullis_wire::{Time, time};
use serde::Serialize;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// A certificate that ends sooner is warned of, in milliseconds.
const CERTIFICATE_ENDS: i64 = 14 * 24 * 3_600_000;
/// Less free space than this is a failure, in bytes: the next backup or checkpoint may not fit.
const SPACE_FAILS: u64 = 64 << 20;
/// Less free space than this is a warning, in bytes.
const SPACE_WARNS: u64 = 1 << 30;
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}
use State::{Failed, Ok as Good, Warning};

/// What one look showed.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    detail: String,
}

/// All that was looked at.
#[derive(Debug, Default)]
struct Report(Vec<Check>);

impl Report {
    fn add(&mut self, name: &'static str, state: State, detail: impl Into<String>) {
        self.0.push(Check { name, state, detail: detail.into() });
    }
    fn has_failed(&self) -> bool {
        self.0.iter().any(|check| check.state == Failed)
    }
}

/// Looks, and shows what there is.
pub fn run(args: &DoctorArgs) -> Outcome {
    let mut report = Report::default();
    match Settings::load(&args.flags) {
        Err(problems) => {
            problems.0.into_iter().for_each(|problem| report.add("settings", Failed, problem));
            report.add("the rest", Warning, "not looked at: first mend the settings");
        }
        Ok(settings) => {
            look_at_settings(&mut report, &settings);
            look_at_files(&mut report, &settings, real::wall());
            look_at_clock(&mut report);
            if !args.offline {
                let trust = Trust::of(args.ca_file.as_deref()).map_err(Failure::config)?;
                let report = &mut report;
                block_on(async {
                    look_at_server(report, &settings).await;
                    outside::look(report, &settings, trust).await;
                    Ok(())
                })?;
            }
        }
    }
    if args.json {
        out::json(&json!({ "ok": !report.has_failed(), "checks": report.0 }));
    } else {
        let word = |state| match state {
            Good => "ok",
            Warning => "warning",
            Failed => "FAILED",
        };
        let row = |check: &Check| vec![check.name.into(), word(check.state).into(), check.detail.clone()];
        out::line(&table::render(&["CHECK", "STATE", "WHAT"], &report.0.iter().map(row).collect::<Vec<_>>()));
    }
    Ok(if report.has_failed() { Exit::CheckFailed } else { Exit::Done })
}

fn look_at_settings(report: &mut Report, settings: &Settings) {
    let file = settings.file.as_ref().map_or("no file".into(), |file| file.display().to_string());
    report.add("settings", Good, format!("read without a mistake ({file})"));
    for warning in &settings.warnings {
        report.add("settings", Warning, warning.clone());
    }
    let issuer = settings.issuer_at(settings.listen);
    let https = issuer.starts_with("https://");
    if https && settings.tls.is_none() && settings.trusted_proxies.is_empty() {
        report.add(
            "proxy",
            Warning,
            "TLS is spoken by a proxy, and trusted_proxies is empty: every caller seems to be the proxy, in the devices list, \
             the audit record and the limits on guessing; name the proxy's network",
        );
    } else {
        report.add("proxy", Good, format!("{} trusted networks", settings.trusted_proxies.len()));
    }
    let cookie = if https { "__Host- cookies reach it" } else { "cookies without TLS, which only loopback may have" };
    report.add("issuer", Good, format!("{issuer}: {cookie}"));
    match settings.tls.as_ref().map(crate::tls::Files::load) {
        None => {}
        Some(Err(why)) => report.add("certificate", Failed, why.to_string()),
        Some(Ok(loaded)) => {
            let soon = loaded.expires.since(real::wall()) < CERTIFICATE_ENDS;
            report.add("certificate", if soon { Warning } else { Good }, format!("expires at {}", loaded.expires));
        }
    }
}

/// The data directory and what stands in it.
fn look_at_files(report: &mut Report, settings: &Settings, now: Time) {
    let dir = &settings.data_dir;
    match std::fs::metadata(dir) {
        Err(error) => {
            let detail = format!("{}: {error}; the first start makes it", dir.display());
            return report.add("data directory", Warning, detail);
        }
        Ok(meta) if !meta.is_dir() => {
            return report.add("data directory", Failed, format!("{} is no directory", dir.display()));
        }
        Ok(_) => private(report, "data directory", dir, "700"),
    }
    let has_database = look_at_database(report, settings);
    let key = dir.join("master.key");
    match (settings.master_key.is_some(), key.exists()) {
        (true, _) => report.add("master key", Good, "given as a setting"),
        (false, true) => match crate::files::read_key(&key) {
            Ok(_) => private(report, "master key", &key, "600"),
            Err(why) => report.add("master key", Failed, why.message),
        },
        (false, false) if has_database => {
            let detail = format!("{} is missing, and without it the keys in the database stay closed", key.display());
            report.add("master key", Failed, detail);
        }
        (false, false) => report.add("master key", Good, "made by the first start"),
    }
    look_at_mark(report, settings, now);
    let acts = settings.acts_path();
    match act_journal::read(&acts) {
        Err(why) => report.add("journal of acts", Failed, why),
        Ok(None) => report.add("journal of acts", Warning, format!("{} is not there yet", acts.display())),
        Ok(Some(journal)) => {
            let newest = journal.lines.last().map_or("it is empty".into(), |line| format!("written to at {}", line.at));
            report.add("journal of acts", Good, newest);
        }
    }
}

/// Whether there is one that a master key in the data directory must open.
fn look_at_database(report: &mut Report, settings: &Settings) -> bool {
    let Database::Sqlite(database) = settings.database() else {
        let detail = format!("{}; `serve` looks at it when it starts", settings.database_name());
        report.add("database", Good, detail);
        space(report, &settings.data_dir);
        return false;
    };
    let there = std::fs::metadata(&database).is_ok_and(|meta| meta.len() > 0);
    if there {
        private(report, "database", &database, "600");
    } else {
        report.add("database", Warning, format!("{} is not there yet; the first start makes it", database.display()));
    }
    space(report, database.parent().unwrap_or(&settings.data_dir));
    there
}

/// How far the log had come, and whether that is in the past.
fn look_at_mark(report: &mut Report, settings: &Settings, now: Time) {
    let path = settings.high_water_path();
    match high_water::read::<Mark>(&path) {
        Err(why) => report.add("high-water mark", Failed, why),
        Ok(None) => report.add("high-water mark", Warning, format!("{} is not there yet", path.display())),
        Ok(Some(mark)) => {
            let ahead = mark.at.since(now);
            if ahead > outside::CLOCK_WARNS {
                let detail = format!(
                    "the clock says {now}, and the server has seen {}: it was set back by {}",
                    mark.at,
                    time::span(ahead)
                );
                report.add("clock", Failed, detail);
            }
            let detail = format!("{}.{} of {} at {}", mark.epoch, mark.rev, mark.log, mark.at);
            report.add("high-water mark", Good, detail);
        }
    }
    match high_water::read::<Proof>(&high_water::proof_path(&path)) {
        Err(why) => report.add("rollback", Failed, why),
        Ok(Some(proof)) => report.add(
            "rollback",
            Failed,
            format!("the database is older than what it has said: {}; docs/backup.md says what to do", proof.what),
        ),
        Ok(None) => report.add("rollback", Good, "nothing speaks of one"),
    }
}

/// Whether something keeps this machine's clock right, where the system says so.
fn look_at_clock(report: &mut Report) {
    let asked =
        std::process::Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    let said = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let (state, detail) = match said.as_deref().map(<[u8]>::trim_ascii) {
        Some(b"yes") => (Good, "is kept by a time service (`timedatectl`)"),
        Some(b"no") => (Warning, "no time service has set it: start one (systemd-timesyncd, chrony)"),
        _ => (Good, "this system does not say (`timedatectl`) whether a time service keeps it"),
    };
    report.add("clock", state, detail);
}

/// A path that is for its owner alone, and the owner is who asks.
fn private(report: &mut Report, name: &'static str, path: &Path, mode: &str) {
    let (state, detail) = match std::fs::metadata(path) {
        Err(error) => (Failed, format!("{}: {error}", path.display())),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            (Failed, format!("{} is open to other users: chmod {mode} {0}", path.display()))
        }
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => {
            let detail = format!("{} belongs to user {}; run this as the server's user", path.display(), meta.uid());
            (Warning, detail)
        }
        Ok(_) => (Good, format!("{} is for its owner alone", path.display())),
    };
    report.add(name, state, detail);
}

fn space(report: &mut Report, dir: &Path) {
    match rustix::fs::statvfs(dir) {
        Err(error) => report.add("disk", Failed, format!("{}: {error}", dir.display())),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let detail = format!("{} MiB are free at {}", free >> 20, dir.display());
            report.add("disk", space_state(free), detail);
        }
    }
}

const fn space_state(free: u64) -> State {
    match free {
        0..SPACE_FAILS => Failed,
        SPACE_FAILS..SPACE_WARNS => Warning,
        _ => Good,
    }
}

/// What the running server says of itself, by its admin socket.
async fn look_at_server(report: &mut Report, settings: &Settings) {
    let socket = Settings::admin_socket(&settings.data_dir);
    if socket.exists() {
        private(report, "admin socket", &socket, "600");
    }
    let mut server = Client::new(Target::Socket(socket));
    let ready = match server.call(Method::GET, "/readyz", None).await {
        Ok(answer) => answer,
        Err(why) => {
            report.add("server", Failed, format!("{}; is it running? --offline leaves it out", why.0));
            return report.add("keys, feed", Warning, "not looked at: that takes a running server");
        }
    };
    match ready.is_success() {
        true => report.add("server", Good, "runs, and the database answers"),
        false => report.add("server", Failed, format!("is not ready: {}; its log says more", ready.text("detail"))),
    }
    if let Some(rollback) = asked(report, &mut server, "/v1/admin/rollback").await
        && let Some(what) = rollback.pointer("/proof/what").and_then(Value::as_str)
    {
        report.add("rollback", Failed, format!("the server is shut: {what}; docs/backup.md says what to do"));
        return;
    }
    if settings.issuer.is_some()
        && let Some(document) = asked(report, &mut server, "/openapi.json").await
    {
        let (said, set) =
            (document.pointer("/servers/0/url").and_then(Value::as_str), settings.issuer_at(settings.listen));
        if said != Some(set.as_str()) {
            let said = said.unwrap_or("another");
            let detail =
                format!("the server runs with {said}, and the settings here say {set}: restart it, or look at both");
            report.add("issuer", Failed, detail);
        }
    }
    if let Some(keys) = asked(report, &mut server, "/v1/admin/keys?limit=200").await {
        let (state, detail) = keys_state(&keys);
        report.add("keys", state, detail);
    }
    if let Some(listed) = asked(report, &mut server, "/v1/admin/verifiers?limit=200").await {
        let (state, detail) = feed_state(&listed);
        report.add("feed", state, detail);
    }
}

/// The answer to a question; anything but success is a failed check of its own.
async fn asked(report: &mut Report, server: &mut Client, path: &str) -> Option<Value> {
    match server.call(Method::GET, path, None).await {
        Ok(answer) if answer.is_success() => return Some(answer.body),
        Ok(answer) => report.add("server", Failed, format!("{path}: {} {}", answer.status, answer.code())),
        Err(why) => report.add("server", Failed, why.0),
    }
    None
}

fn keys_state(listed: &Value) -> (State, String) {
    let keys = listed.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let active = |usage: &str| {
        let mut of_use = keys.iter().filter(|key| key["use"] == usage && key["active"] == true);
        of_use.next().and_then(|key| key["kid"].as_str())
    };
    match (active("sig"), active("mac")) {
        (Some(sig), Some(mac)) => (Good, format!("{sig} signs, {mac} guards refresh tokens")),
        (None, _) => (Failed, "no key signs now: `portcullis keys list` shows why".into()),
        (_, None) => (Failed, "no key guards refresh tokens now: `portcullis keys list` shows why".into()),
    }
}

fn feed_state(listed: &Value) -> (State, String) {
    let all = listed.get("verifiers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let leased = all.iter().filter(|one| one["leased"] == true).count();
    let late: Vec<_> = all.iter().filter(|one| is_late(one)).filter_map(|one| one["name"].as_str()).collect();
    let head = &listed["head"];
    if let Some(nodes) = silent(listed) {
        return (Warning, format!("no answer from {nodes}, and from who hangs there; `portcullis feed` says more"));
    }
    match late.as_slice() {
        [] => (Good, format!("{leased} verifiers hold a lease, and all know rev {head}")),
        late => (
            Warning,
            format!("behind or away, until their lease ends: {}; `portcullis feed` says more", late.join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        for (free, state) in [(0, Failed), (SPACE_FAILS, Warning), (SPACE_WARNS - 1, Warning), (SPACE_WARNS, Good)] {
            assert_eq!(space_state(free), state, "{free}");
        }
    }

    #[test]
    fn keys_and_verifiers() {
        let key = |usage: &str, active: bool| json!({ "kid": "key_1", "use": usage, "active": active });
        assert_eq!(keys_state(&json!({ "keys": [key("sig", true), key("mac", true)] })).0, Good);
        assert_eq!(keys_state(&json!({ "keys": [key("sig", false), key("mac", true)] })).0, Failed);
        assert_eq!(keys_state(&json!({ "keys": [key("sig", true)] })).0, Failed);
        let one = |connected: bool| json!({ "name": "api", "connected": connected, "leased": true, "behind": 0 });
        assert_eq!(feed_state(&json!({ "head": 3, "verifiers": [one(true)] })).0, Good);
        assert_eq!(feed_state(&json!({ "head": 3, "verifiers": [one(true), one(false)] })).0, Warning);
    }
}
