//! `portcullis accounts`: what an operator does with accounts.
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out;
use crate::cli::table::render;
use crate::cli::{AccountsAct, AccountsArgs, Page, Wait};
use http::Method;
use portcullis_wire::{AccountId, SecretString};
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::Path;

/// The longest password file that is read, in bytes; the server refuses longer passwords anyway.
const MAX_PASSWORD_FILE: u64 = 4096;

/// Does what was asked for.
pub fn run(args: &AccountsArgs) -> Outcome {
    block_on(act(args))
}

async fn act(args: &AccountsArgs) -> Outcome {
    let mut remote = Remote::of(&args.reach)?;
    let json = args.reach.json;
    match &args.act {
        AccountsAct::List { prefix, page } => {
            let prefix = prefix.as_ref().map_or(String::new(), |prefix| format!("&email={}", escaped(prefix)));
            let listed = remote.call(Method::GET, &format!("/v1/admin/accounts?{}{prefix}", query(page)), None).await?;
            show(json, &listed, || {
                let rows: Vec<_> = items(&listed, "accounts").map(account_row).collect();
                render(&ACCOUNT_HEADS, &rows) + &more(&listed)
            });
        }
        AccountsAct::Create { email, name, roles, password_file, no_password } => {
            let mut body = json!({ "email": email });
            if !no_password {
                body["password"] = read_password(password_file)?.expose().into();
            }
            if let Some(name) = name {
                body["name"] = name.as_str().into();
            }
            if !roles.is_empty() {
                body["roles"] = roles.clone().into();
            }
            let account = remote.call(Method::POST, "/v1/admin/accounts", Some(&body)).await?;
            show(json, &account, || account_table(&account));
        }
        AccountsAct::Show { account } => {
            let account = find(&mut remote, account).await?;
            let mut shown = remote.call(Method::GET, &path(account, ""), None).await?;
            let links = remote.call(Method::GET, &path(account, "/links"), None).await?;
            shown["links"] = links.get("links").cloned().unwrap_or_default();
            show(json, &shown, || account_table(&shown));
        }
        AccountsAct::Block { account, reason, until, wait } => {
            let mut body = json!({ "reason": reason });
            if let Some(until) = until {
                body["until"] = until.as_str().into();
            }
            let account = find(&mut remote, account).await?;
            let path = path(account, &format!("/block{}", wait.query()));
            return revoking(&mut remote, Method::POST, &path, Some(&body), json, wait.wait).await;
        }
        AccountsAct::Unblock { account, reason } => {
            let account = find(&mut remote, account).await?;
            let body = reason.as_ref().map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            let account = remote.call(Method::POST, &path(account, "/unblock"), Some(&body)).await?;
            show(json, &account, || account_table(&account));
        }
        AccountsAct::Sessions { account, page } => return list_sessions(&mut remote, account, page, json).await,
        AccountsAct::EndSessions { account, wait } => return end_sessions(&mut remote, account, wait, json).await,
        AccountsAct::Delete { account, wait } => {
            let account = find(&mut remote, account).await?;
            let path = path(account, &wait.query());
            return revoking(&mut remote, Method::DELETE, &path, None, json, wait.wait).await;
        }
    }
    Ok(Exit::Done)
}

/// The living sessions of an account.
pub(super) async fn list_sessions(remote: &mut Remote, account: &str, page: &Page, as_json: bool) -> Outcome {
    let account = find(remote, account).await?;
    let listed = remote.call(Method::GET, &path(account, &format!("/sessions?{}", query(page))), None).await?;
    show(as_json, &listed, || {
        let columns = ["id", "device_name", "kind", "ip", "created_at", "last_seen_at"];
        let row = |session| columns.iter().map(|column| cell(session, column)).collect();
        let rows: Vec<Vec<_>> = items(&listed, "sessions").map(row).collect();
        render(&["ID", "DEVICE", "KIND", "IP", "SIGNED IN", "LAST SEEN"], &rows) + &more(&listed)
    });
    Ok(Exit::Done)
}

/// Ends all sessions of an account.
pub(super) async fn end_sessions(remote: &mut Remote, account: &str, wait: &Wait, as_json: bool) -> Outcome {
    let account = find(remote, account).await?;
    let path = path(account, &format!("/sessions{}", wait.query()));
    revoking(remote, Method::DELETE, &path, None, as_json, wait.wait).await
}

const ACCOUNT_HEADS: [&str; 6] = ["ID", "EMAIL", "NAME", "STATUS", "ROLES", "CREATED"];

fn account_row(account: &Value) -> Vec<String> {
    let service = account.get("service").and_then(Value::as_bool).unwrap_or(false);
    let text = |member: &&str| if service && *member == "email" { "(service)".into() } else { cell(account, member) };
    ["id", "email", "name", "status", "roles", "created_at"].iter().map(text).collect()
}

/// One account, a line per member.
fn account_table(account: &Value) -> String {
    let mut lines: Vec<Vec<String>> =
        ACCOUNT_HEADS.iter().zip(account_row(account)).map(|(head, value)| vec![(*head).into(), value]).collect();
    if let Some(block) = account.get("block").filter(|block| block.is_object()) {
        for (head, member) in [("BLOCKED FOR", "reason"), ("BLOCKED BY", "actor"), ("SINCE", "at"), ("UNTIL", "until")]
        {
            lines.push(vec![head.into(), cell(block, member)]);
        }
    }
    for link in items(account, "links") {
        lines.push(vec!["LINK".into(), format!("{} {}", cell(link, "upstream"), cell(link, "subject"))]);
    }
    lines.retain(|line| !line[1].is_empty());
    render(&["", ""], &lines).trim_start_matches('\n').to_owned()
}

/// The parameters of a list.
pub(super) fn query(page: &Page) -> String {
    let cursor = page.cursor.as_ref().map_or(String::new(), |cursor| format!("&cursor={}", escaped(cursor)));
    format!("limit={}{cursor}", page.limit)
}

/// How to see what comes after a page, if something does.
pub(super) fn more(listed: &Value) -> String {
    let next = listed.get("next").and_then(Value::as_str);
    next.map_or(String::new(), |next| format!("\nmore: --cursor {}", out::harmless(next)))
}

/// The list in a page.
pub(super) fn items<'a>(page: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    page.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

pub(super) fn show(as_json: bool, value: &Value, table: impl FnOnce() -> String) {
    if as_json { out::json(value) } else { out::line(&table()) }
}

fn path(account: AccountId, rest: &str) -> String {
    format!("/v1/admin/accounts/{account}{rest}")
}

/// An account by its id, or by its exact address.
pub(super) async fn find(remote: &mut Remote, text: &str) -> Result<AccountId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    if !text.contains('@') {
        return Err(Failure::config(format!("{text:?} is neither an account's id (acc_…) nor an address")));
    }
    let page = remote.call(Method::GET, &format!("/v1/admin/accounts?limit=100&email={}", escaped(text)), None).await?;
    let wanted = text.trim().to_lowercase();
    let found = items(&page, "accounts").find(|account| cell(account, "email") == wanted);
    let id = found.and_then(|account| cell(account, "id").parse().ok());
    id.ok_or_else(|| Failure::refused(format!("there is no account with the address {}", out::harmless(text))))
}

/// A call that takes access away. With `wait`, anything but enforced everywhere is a failed check.
pub(super) async fn revoking(
    remote: &mut Remote,
    method: Method,
    path: &str,
    body: Option<&Value>,
    as_json: bool,
    wait: bool,
) -> Outcome {
    let answer = remote.call(method, path, body).await?;
    show(as_json, &answer, || revoked(&answer));
    Ok(if wait && !is_complete(&answer) { Exit::CheckFailed } else { Exit::Done })
}

/// Whether a revocation is enforced everywhere.
pub(super) fn is_complete(answer: &Value) -> bool {
    answer.pointer("/enforcement/complete").and_then(Value::as_bool).unwrap_or(false)
}

/// A revocation in one sentence.
pub(super) fn revoked(answer: &Value) -> String {
    let ended = match answer.get("ended").and_then(Value::as_u64) {
        Some(1) => "1 session ended".to_owned(),
        Some(n) => format!("{n} sessions ended"),
        None => "ended".to_owned(),
    };
    let enforcement = answer.get("enforcement").cloned().unwrap_or(Value::Null);
    let number = |member: &str| enforcement.get(member).and_then(Value::as_u64).unwrap_or(0);
    let state = match enforcement.get("complete").and_then(Value::as_bool) {
        Some(true) => format!("enforced everywhere after {} ms", number("took_ms")),
        _ => format!(
            "{} verifiers confirmed, {} pending, bounded by {}",
            number("acknowledged"),
            number("pending"),
            cell(&enforcement, "bounded_by")
        ),
    };
    let open = match number("until_expiry") {
        0 => String::new(),
        n => format!("; {n} with routes under `open` accept there until the tokens expire"),
    };
    format!("{ended} (rev {}); {state}{open}", cell(answer, "rev"))
}

/// A password from a file or standard input, without the line's end.
fn read_password(path: &Path) -> Result<SecretString, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_PASSWORD_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_PASSWORD_FILE).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::config(format!("the password cannot be read from {}: {error}", path.display())))?;
    let password = SecretString::new(text.trim_end_matches(['\r', '\n']));
    if password.expose().is_empty() {
        return Err(Failure::config(
            "no password was given on standard input; --no-password makes an account without one",
        ));
    }
    Ok(password)
}
