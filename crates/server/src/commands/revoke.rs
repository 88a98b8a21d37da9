//! `portcullis revoke`: everyone, or whom a filter matches.
use super::accounts::{is_complete, revoked, show};
use super::remote::{Remote, block_on, cell};
use crate::cli::exit::{Exit, Outcome};
use crate::cli::out;
use crate::cli::revoke::RevokeArgs;
use http::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;

const PATH: &str = "/v1/admin/revocations";

/// Does what was asked for.
pub fn run(args: &RevokeArgs) -> Outcome {
    block_on(act(args))
}

async fn act(args: &RevokeArgs) -> Outcome {
    let mut remote = Remote::of(&args.reach)?;
    let answer = remote.call(Method::POST, &format!("{PATH}{}", args.wait.query()), Some(&body(args))).await?;
    let json = args.reach.json;
    if args.dry_run {
        let (sessions, accounts) = (count(&answer, "sessions", "session"), count(&answer, "accounts", "account"));
        show(json, &answer, || format!("{sessions} of {accounts} would end"));
        return Ok(Exit::Done);
    }
    let Some(job) = answer.get("job").and_then(Value::as_str).map(str::to_owned) else {
        show(json, &answer, || revoked(&answer));
        return Ok(if args.wait.wait && !is_complete(&answer) { Exit::CheckFailed } else { Exit::Done });
    };
    if !args.wait.wait {
        let bounded = cell(&answer, "bounded_by");
        show(json, &answer, || {
            format!(
                "{job} goes through the sessions; none that matches is refreshed any more, and all is over by {bounded}\n\
                 how far it is: GET {PATH}/{job}"
            )
        });
        return Ok(Exit::Done);
    }
    // The server waited as long as it was told to; the job itself is followed to its end.
    let mut job_now = answer;
    while job_now.get("state").and_then(Value::as_str) == Some("running") {
        tokio::time::sleep(Duration::from_millis(200)).await;
        job_now = remote.call(Method::GET, &format!("{PATH}/{job}"), None).await?;
        if !json {
            out::complain(&format!(
                "{job}: {} sessions looked at, {} ended",
                cell(&job_now, "scanned"),
                cell(&job_now, "ended")
            ));
        }
    }
    show(json, &job_now, || format!("{job}: {}", revoked(&job_now)));
    Ok(if is_complete(&job_now) { Exit::Done } else { Exit::CheckFailed })
}

fn body(args: &RevokeArgs) -> Value {
    let mut body = json!({ "reason": args.reason });
    if args.everyone {
        body["everyone"] = true.into();
    } else {
        let mut filter = Map::new();
        let lists = [("account_ids", &args.accounts), ("client_ids", &args.clients)];
        for (member, ids) in lists.into_iter().filter(|(_, ids)| !ids.is_empty()) {
            filter.insert(member.into(), json!(ids));
        }
        for (member, text) in [("created_before", &args.created_before), ("address_range", &args.address_range)] {
            if let Some(text) = text {
                filter.insert(member.into(), text.as_str().into());
            }
        }
        body["filter"] = Value::Object(filter);
    }
    if let Some(except) = &args.except {
        body["except"] = except.as_str().into();
    }
    for (member, given) in [("now", args.now), ("dry_run", args.dry_run)] {
        if given {
            body[member] = true.into();
        }
    }
    body
}

fn count(answer: &Value, member: &str, word: &str) -> String {
    match answer.get(member).and_then(Value::as_u64).unwrap_or(0) {
        1 => format!("1 {word}"),
        n => format!("{n} {word}s"),
    }
}
