//! `portcullis webhooks`: what an operator does with webhooks.
use super::accounts::{items, more, query, show};
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::table::render;
use crate::cli::webhooks::{WebhooksAct, WebhooksArgs};
use http::Method;
use portcullis_wire::time;
use serde_json::{Map, Value, json};

/// Does what was asked for.
pub fn run(args: &WebhooksArgs) -> Outcome {
    block_on(act(args))
}

async fn act(args: &WebhooksArgs) -> Outcome {
    let mut remote = Remote::of(&args.reach)?;
    let as_json = args.reach.json;
    match &args.act {
        WebhooksAct::List => {
            let listed = remote.call(Method::GET, "/v1/admin/webhooks", None).await?;
            show(as_json, &listed, || render(&HEADS, &items(&listed, "webhooks").map(row).collect::<Vec<_>>()));
        }
        WebhooksAct::Create { url, events, description, disabled } => {
            let mut body = json!({ "url": url, "events": events, "enabled": !disabled });
            if let Some(text) = description {
                body["description"] = text.clone().into();
            }
            let made = remote.call(Method::POST, "/v1/admin/webhooks", Some(&body)).await?;
            show(as_json, &made, || with_secret(&made));
        }
        WebhooksAct::Show { webhook } => {
            let found = remote.call(Method::GET, &path(webhook, ""), None).await?;
            show(as_json, &found, || members(&found));
        }
        WebhooksAct::Update { webhook, url, events, description } => {
            let mut body = Map::new();
            body.extend(url.iter().map(|url| ("url".to_owned(), url.clone().into())));
            if !events.is_empty() {
                body.insert("events".into(), json!(events));
            }
            if let Some(text) = description {
                body.insert("description".into(), if text.is_empty() { Value::Null } else { text.clone().into() });
            }
            if body.is_empty() {
                return Err(Failure::config("say what to change: --url, --event or --description"));
            }
            change(&mut remote, webhook, &body.into(), as_json).await?;
        }
        WebhooksAct::Enable { webhook } => {
            change(&mut remote, webhook, &json!({ "enabled": true }), as_json).await?;
        }
        WebhooksAct::Disable { webhook } => {
            change(&mut remote, webhook, &json!({ "enabled": false }), as_json).await?;
        }
        WebhooksAct::Delete { webhook } => {
            let gone = remote.call(Method::DELETE, &path(webhook, ""), None).await?;
            show(as_json, &gone, || format!("{webhook} is deleted."));
        }
        WebhooksAct::RotateSecret { webhook, overlap } => {
            let overlap = time::parse_span(overlap).filter(|span| *span >= 0);
            let overlap =
                overlap.ok_or_else(|| Failure::config("--overlap needs a number and a unit: 0s, 90s, 12h or 7d"))?;
            let body = json!({ "overlap_s": overlap.div_euclid(1000) });
            let made = remote.call(Method::POST, &path(webhook, "/secret"), Some(&body)).await?;
            show(as_json, &made, || with_secret(&made));
        }
        WebhooksAct::Test { webhook } => {
            let sent = remote.call(Method::POST, &path(webhook, "/test"), None).await?;
            show(as_json, &sent, || render(&MESSAGE_HEADS, &[message(&sent)]));
        }
        WebhooksAct::Messages { webhook, state, page } => {
            let mut path = path(webhook, &format!("/messages?{}", query(page)));
            path.extend(state.iter().map(|state| format!("&state={}", escaped(state))));
            let listed = remote.call(Method::GET, &path, None).await?;
            show(as_json, &listed, || {
                let rows: Vec<_> = items(&listed, "messages").map(message).collect();
                render(&MESSAGE_HEADS, &rows) + &more(&listed)
            });
        }
        WebhooksAct::Replay { webhook, after } => {
            let after = after.parse::<u64>().map_or_else(|_| json!(after), |place| json!(place));
            let told = remote.call(Method::POST, &path(webhook, "/replay"), Some(&json!({ "after": after }))).await?;
            show(as_json, &told, || members(&told));
        }
    }
    Ok(Exit::Done)
}

async fn change(remote: &mut Remote, webhook: &str, body: &Value, as_json: bool) -> Result<(), Failure> {
    let changed = remote.call(Method::PATCH, &path(webhook, ""), Some(body)).await?;
    show(as_json, &changed, || members(&changed));
    Ok(())
}

fn path(webhook: &str, rest: &str) -> String {
    format!("/v1/admin/webhooks/{}{rest}", escaped(webhook))
}

const HEADS: [&str; 6] = ["WEBHOOK", "URL", "EVENTS", "STATE", "BEHIND", "WAITING"];
const MESSAGE_HEADS: [&str; 6] = ["ID", "EVENT", "STATE", "CREATED", "TRIES", "LAST ERROR"];

fn row(webhook: &Value) -> Vec<String> {
    let enabled = webhook.get("enabled").and_then(Value::as_bool).unwrap_or(false);
    vec![
        cell(webhook, "id"),
        cell(webhook, "url"),
        events(webhook),
        if enabled { "enabled" } else { "disabled" }.into(),
        cell(webhook, "behind"),
        cell(webhook, "waiting"),
    ]
}

fn events(webhook: &Value) -> String {
    let words = webhook.get("events").and_then(Value::as_array).into_iter().flatten();
    words.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

fn message(message: &Value) -> Vec<String> {
    ["id", "event_id", "state", "created_at", "tries", "last_error"].map(|column| cell(message, column)).into()
}

/// A line per member that says anything.
fn members(webhook: &Value) -> String {
    let line = |name: &String| {
        let text = if name == "events" { events(webhook) } else { cell(webhook, name) };
        vec![name.clone(), text]
    };
    let lines: Vec<_> = webhook.as_object().into_iter().flat_map(Map::keys).map(line).collect();
    let lines: Vec<_> = lines.into_iter().filter(|line| !line[1].is_empty()).collect();
    render(&["", ""], &lines).trim_start_matches('\n').to_owned()
}

fn with_secret(made: &Value) -> String {
    let table = members(made);
    if made.get("secret").is_some() { format!("{table}\nThe secret is shown this once.") } else { table }
}
