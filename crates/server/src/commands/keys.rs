//! `portcullis keys`: what an operator does with keys.
use super::accounts::{items, more, query, revoking, show};
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::keys::{KeysAct, KeysArgs};
use crate::cli::table::render;
use http::Method;
use portcullis_app::keys::MasterKey;
use portcullis_wire::SecretString;
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::Path;

/// The longest key file that is read, in bytes.
const MAX_KEY_FILE: u64 = 4096;

/// Does what was asked for.
pub fn run(args: &KeysArgs) -> Outcome {
    block_on(act(args))
}

async fn act(args: &KeysArgs) -> Outcome {
    let mut remote = Remote::of(&args.reach)?;
    let json = args.reach.json;
    match &args.act {
        KeysAct::List { page } => {
            let listed = remote.call(Method::GET, &format!("/v1/admin/keys?{}", query(page)), None).await?;
            show(json, &listed, || table(&listed) + &more(&listed));
        }
        KeysAct::Rotate { usage } => {
            let body = usage.as_ref().map_or_else(|| json!({}), |usage| json!({ "use": usage }));
            let rotated = remote.call(Method::POST, "/v1/admin/keys/rotate", Some(&body)).await?;
            show(json, &rotated, || table(&rotated));
        }
        KeysAct::Revoke { key, reason, wait } => {
            let path = format!("/v1/admin/keys/{}/revoke{}", escaped(key), wait.query());
            let body = json!({ "reason": reason });
            return revoking(&mut remote, Method::POST, &path, Some(&body), json, wait.wait).await;
        }
        KeysAct::RotateMaster { new_key_file } => {
            let body = json!({ "new_key": read_key(new_key_file)?.expose() });
            let done = remote.call(Method::POST, "/v1/admin/keys/rotate-master", Some(&body)).await?;
            show(json, &done, || words(&done));
        }
    }
    Ok(Exit::Done)
}

fn table(listed: &Value) -> String {
    let columns = ["kid", "use", "alg", "state", "created_at", "active_from", "retired_at", "dead"];
    let row = |key| columns.iter().map(|column| cell(key, column)).collect();
    let rows: Vec<Vec<_>> = items(listed, "keys").map(row).collect();
    render(&["KEY", "USE", "ALG", "STATE", "CREATED", "ACTIVE SINCE", "RETIRES AFTER", "DEAD BY REV"], &rows)
}

fn words(done: &Value) -> String {
    let resealed = done.get("resealed").and_then(Value::as_u64).unwrap_or(0);
    let kept = done.get("kept_in_data_dir").and_then(Value::as_bool).unwrap_or(false);
    let what = match resealed {
        0 => "the stored keys are sealed under this key already".to_owned(),
        n => format!("{n} stored keys are sealed under the new key; the old one opens nothing any more"),
    };
    let next = match kept {
        true => "It is in DATA_DIR/master.key. Keep a copy of it apart from copies of the database.",
        false => "The master key is given by a setting: CHANGE IT NOW, or the next start will fail.",
    };
    format!("{what}\n{next}")
}

/// A master key from a file, looked at here so that a wrong file never leaves this process.
fn read_key(path: &Path) -> Result<SecretString, Failure> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_KEY_FILE).read_to_string(&mut text));
    read.map_err(|error| Failure::config(format!("{} cannot be read: {error}", path.display())))?;
    let text = SecretString::new(text.trim());
    match MasterKey::parse(&text) {
        Some(key) => Ok(key.to_text()),
        None => Err(Failure::config(format!(
            "{} does not hold 32 bytes in base64; make one with: head -c 32 /dev/urandom | base64",
            path.display()
        ))),
    }
}
