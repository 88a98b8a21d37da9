//! `portcullis audit`: who did what, newest first.
use super::accounts::{find, items, more, query, show};
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::exit::{Exit, Outcome};
use crate::cli::look::AuditArgs;
use crate::cli::table::render;
use http::Method;

const COLUMNS: [&str; 9] = ["at", "kind", "actor", "account_id", "session_id", "client_id", "ip", "rev", "reason"];
const HEADS: [&str; 9] = ["AT", "KIND", "ACTOR", "ACCOUNT", "SESSION", "CLIENT", "IP", "REV", "REASON"];

/// Lists audit records.
pub fn run(args: &AuditArgs) -> Outcome {
    block_on(async {
        let mut remote = Remote::of(&args.reach)?;
        let mut path = format!("/v1/admin/events?{}", query(&args.page));
        if let Some(account) = &args.account {
            path += &format!("&account_id={}", find(&mut remote, account).await?);
        }
        if let Some(kind) = &args.kind {
            path += &format!("&kind={}", escaped(kind));
        }
        let listed = remote.call(Method::GET, &path, None).await?;
        show(args.reach.json, &listed, || {
            let row = |event| COLUMNS.iter().map(|column| cell(event, column)).collect();
            render(&HEADS, &items(&listed, "events").map(row).collect::<Vec<_>>()) + &more(&listed)
        });
        Ok(Exit::Done)
    })
}
