//! `portcullis audit`: who did what, newest first; and whether the records are what they were.
use super::accounts::{find, items, more, query, show};
use super::export::{every_page, into_file};
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::look::{AuditAct, AuditArgs, AuditFilter, AuditList};
use crate::cli::table::render;
use crate::cli::{Reach, out};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;

const COLUMNS: [&str; 9] = ["at", "kind", "actor", "account_id", "session_id", "client_id", "ip", "rev", "reason"];
const HEADS: [&str; 9] = ["AT", "KIND", "ACTOR", "ACCOUNT", "SESSION", "CLIENT", "IP", "REV", "REASON"];

/// Does what was asked for.
pub fn run(args: &AuditArgs) -> Outcome {
    match &args.act {
        None => block_on(list(&args.list)),
        Some(AuditAct::List(args)) => block_on(list(args)),
        Some(AuditAct::Export { reach, of, out }) => {
            into_file(out.as_deref(), reach.json, "events", |out| block_on(export(reach, of, out)))
        }
        Some(AuditAct::Head { reach }) => block_on(head(reach)),
        Some(AuditAct::BeginAnew { reach, reason }) => block_on(begin_anew(reach, reason)),
        Some(AuditAct::GoOn { reach, reason }) => block_on(go_on(reach, reason)),
        Some(AuditAct::Verify { reach, head, from }) => block_on(verify(reach, head.as_deref(), from.as_deref())),
    }
}

async fn list(args: &AuditList) -> Outcome {
    let mut remote = Remote::of(&args.reach)?;
    let path = format!("/v1/admin/events?{}{}", query(&args.page), filter(&mut remote, &args.of).await?);
    let listed = remote.call(Method::GET, &path, None).await?;
    show(args.reach.json, &listed, || {
        let row = |event| COLUMNS.iter().map(|column| cell(event, column)).collect();
        render(&HEADS, &items(&listed, "events").map(row).collect::<Vec<_>>()) + &more(&listed)
    });
    Ok(Exit::Done)
}

/// As parameters, each with a `&` before it.
async fn filter(remote: &mut Remote, of: &AuditFilter) -> Result<String, Failure> {
    let mut all = String::new();
    if let Some(account) = &of.account {
        all += &format!("&account_id={}", find(remote, account).await?);
    }
    let rev = of.rev.map(|rev| rev.to_string());
    let given = [
        ("kind", &of.kind),
        ("session_id", &of.session),
        ("client_id", &of.client),
        ("actor", &of.actor),
        ("from", &of.from),
        ("until", &of.until),
        ("rev", &rev),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            all += &format!("&{name}={}", escaped(value));
        }
    }
    Ok(all)
}

/// Page by page; how many records.
async fn export(reach: &Reach, of: &AuditFilter, out: &mut dyn Write) -> Result<u64, Failure> {
    let mut remote = Remote::of(reach)?;
    let asked = filter(&mut remote, of).await?;
    every_page(&mut remote, &format!("/v1/admin/events?limit=200{asked}"), "events", out).await
}

async fn head(reach: &Reach) -> Outcome {
    let mut remote = Remote::of(reach)?;
    let state = remote.call(Method::GET, "/v1/admin/audit", None).await?;
    let Some(head) = state.get("head").and_then(Value::as_str) else {
        return Err(Failure::refused("nothing was sealed yet; ask again in a second"));
    };
    show(reach.json, &state, || format!("{head}\n"));
    Ok(Exit::Done)
}

async fn begin_anew(reach: &Reach, reason: &str) -> Outcome {
    let mut remote = Remote::of(reach)?;
    let body = json!({ "reason": reason });
    let begun = remote.call(Method::POST, "/v1/admin/audit/begin-anew", Some(&body)).await?;
    show(reach.json, &begun, || {
        let start = begun.get("start").and_then(Value::as_str).unwrap_or_default();
        format!("another chain begins after {start}; write down a new head\n")
    });
    Ok(Exit::Done)
}

async fn go_on(reach: &Reach, reason: &str) -> Outcome {
    let mut remote = Remote::of(reach)?;
    let body = json!({ "reason": reason });
    let went_on = remote.call(Method::POST, "/v1/admin/audit/go-on", Some(&body)).await?;
    show(reach.json, &went_on, || {
        let from = went_on.get("from").and_then(Value::as_str).unwrap_or_default();
        format!("the chain goes on from {from}; write down a new head\n")
    });
    Ok(Exit::Done)
}

async fn verify(reach: &Reach, head: Option<&str>, from: Option<&str>) -> Outcome {
    let mut remote = Remote::of(reach)?;
    let (mut checked, mut erased, mut known) = (0, 0, false);
    let mut findings: Vec<Value> = Vec::new();
    let mut told = BTreeSet::new();
    let mut after = from.map(str::to_owned);
    let known_head = head.map(|head| format!("&head={}", escaped(head))).unwrap_or_default();
    let last = loop {
        let from = after.as_deref().map(|place| format!("&from={}", escaped(place))).unwrap_or_default();
        let path = format!("/v1/admin/audit/check?{}", format!("{from}{known_head}").trim_start_matches('&'));
        let page = remote.call(Method::GET, &path, None).await?;
        let number = |name: &str| page.get(name).and_then(Value::as_u64).unwrap_or(0);
        (checked, erased) = (checked + number("checked"), erased + number("erased"));
        known |= page["known"] == true;
        // What is wrong with the whole is said of each page.
        let new = items(&page, "findings").filter(|finding| told.insert(cell(finding, "detail")));
        findings.extend(new.cloned());
        let to = page["to"].as_str().map(str::to_owned);
        if page["complete"] == true || to == after {
            break to.unwrap_or_default();
        }
        after = to;
    };
    // Asked from beyond the head, nothing was said of it.
    let unmet = head.is_some() && !known && findings.is_empty();
    let whole = findings.is_empty() && !unmet;
    let result = json!({
        "whole": whole, "checked": checked, "erased": erased, "to": last, "known": known, "findings": findings,
    });
    show(reach.json, &result, || {
        let mut text: String = findings.iter().map(|finding| out::harmless(&cell(finding, "detail")) + "\n").collect();
        let erased =
            if erased > 0 { format!(" (of {erased} an address or a reason was erased)") } else { String::new() };
        let verdict = match (unmet, whole) {
            (true, _) => "nothing was found, AND THE GIVEN HEAD WAS NOT MET: --from lies beyond it",
            (_, true) => "the chain is whole",
            _ => "THE CHAIN IS BROKEN",
        };
        let kept = if known { "; the given head is in it" } else { "" };
        text += &format!("{checked} records{erased}: {verdict}{kept}\n{last}\n");
        text
    });
    Ok(if whole { Exit::Done } else { Exit::CheckFailed })
}
