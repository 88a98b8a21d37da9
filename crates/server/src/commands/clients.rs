//! `portcullis clients`: what an operator does with clients.
use super::accounts::{is_complete, items, more, query, revoked, show};
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::exit::{Exit, Outcome};
use crate::cli::table::render;
use crate::cli::{ClientsAct, ClientsArgs, Wait};
use http::Method;
use serde_json::{Value, json};

/// Does what was asked for.
pub fn run(args: &ClientsArgs) -> Outcome {
    block_on(act(args))
}

async fn act(args: &ClientsArgs) -> Outcome {
    let mut remote = Remote::of(&args.reach)?;
    let json = args.reach.json;
    match &args.act {
        ClientsAct::List { page } => {
            let listed = remote.call(Method::GET, &format!("/v1/admin/clients?{}", query(page)), None).await?;
            show(json, &listed, || {
                let rows: Vec<_> = items(&listed, "clients").map(row).collect();
                render(&HEADS, &rows) + &more(&listed)
            });
        }
        ClientsAct::Create { name, kind } => {
            let body = json!({ "name": name, "kind": kind });
            let made = remote.call(Method::POST, "/v1/admin/clients", Some(&body)).await?;
            show(json, &made, || {
                let lines = ["client_id", "client_secret"].map(|m| vec![m.to_owned(), cell(&made, m)]);
                let lines: Vec<_> = lines.into_iter().filter(|line| !line[1].is_empty()).collect();
                format!("{}\nThe secret is shown this once.", render(&["", ""], &lines).trim_start_matches('\n'))
            });
        }
        ClientsAct::Enable { client } => return set_disabled(&mut remote, client, None, json).await,
        ClientsAct::Disable { client, wait } => return set_disabled(&mut remote, client, Some(wait), json).await,
    }
    Ok(Exit::Done)
}

const HEADS: [&str; 5] = ["CLIENT ID", "NAME", "KIND", "STATE", "CREATED"];

fn row(client: &Value) -> Vec<String> {
    let disabled = client.get("disabled").and_then(Value::as_bool).unwrap_or(false);
    let state = if disabled { "disabled" } else { "enabled" };
    vec![
        cell(client, "client_id"),
        cell(client, "name"),
        cell(client, "kind"),
        state.into(),
        cell(client, "created_at"),
    ]
}

/// Switches a client on (`None`) or off.
async fn set_disabled(remote: &mut Remote, client: &str, off: Option<&Wait>, as_json: bool) -> Outcome {
    let path = format!("/v1/admin/clients/{}{}", escaped(client), off.map(Wait::query).unwrap_or_default());
    let answer = remote.call(Method::PATCH, &path, Some(&json!({ "disabled": off.is_some() }))).await?;
    let ended = answer.get("rev").is_some_and(Value::is_u64);
    show(as_json, &answer, || {
        let table = render(&HEADS, &[row(&answer)]);
        if ended { format!("{table}\n{}", revoked(&answer)) } else { table }
    });
    let wait = off.is_some_and(|wait| wait.wait);
    Ok(if wait && ended && !is_complete(&answer) { Exit::CheckFailed } else { Exit::Done })
}
