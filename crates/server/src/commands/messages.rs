//! `portcullis messages`: what is on its way to others, and trying it again.
use super::accounts::{items, more, query, show};
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::exit::{Exit, Outcome};
use crate::cli::look::{MessagesAct, MessagesArgs};
use crate::cli::table::render;
use http::Method;
use serde_json::Value;

const COLUMNS: [&str; 7] = ["id", "kind", "client_id", "state", "created_at", "tries", "last_error"];
const HEADS: [&str; 7] = ["ID", "KIND", "CLIENT", "STATE", "CREATED", "TRIES", "LAST ERROR"];

/// Does what was asked for.
pub fn run(args: &MessagesArgs) -> Outcome {
    block_on(async {
        let mut remote = Remote::of(&args.reach)?;
        let json = args.reach.json;
        match &args.act {
            MessagesAct::List { state, client, page } => {
                let mut path = format!("/v1/admin/messages?{}", query(page));
                for (name, value) in [("state", state), ("client_id", client)] {
                    if let Some(value) = value {
                        path += &format!("&{name}={}", escaped(value));
                    }
                }
                let listed = remote.call(Method::GET, &path, None).await?;
                show(json, &listed, || {
                    let rows: Vec<_> = items(&listed, "messages").map(row).collect();
                    render(&HEADS, &rows) + &more(&listed)
                });
            }
            MessagesAct::Retry { message } => {
                let path = format!("/v1/admin/messages/{}/retry", escaped(message));
                let answer = remote.call(Method::POST, &path, None).await?;
                show(json, &answer, || render(&HEADS, &[row(&answer)]));
            }
        }
        Ok(Exit::Done)
    })
}

fn row(message: &Value) -> Vec<String> {
    COLUMNS.iter().map(|column| cell(message, column)).collect()
}
