//! `portcullis clients`: what an operator does with clients.
use super::accounts::{is_complete, items, more, query, revoked, show};
use super::remote::{Remote, block_on, cell, escaped};
use crate::cli::Wait;
use crate::cli::clients::{ClientsAct, ClientsArgs, ProfileArgs};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::table::render;
use http::Method;
use portcullis_domain::client::GrantType;
use portcullis_wire::time;
use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::path::Path;

/// The largest file of keys that is read.
const MAX_JWKS: u64 = 64 * 1024;

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
        ClientsAct::Create { name, kind, profile } => {
            let mut body = members(profile)?;
            body.insert("name".into(), name.clone().into());
            body.insert("kind".into(), kind.clone().into());
            let made = remote.call(Method::POST, "/v1/admin/clients", Some(&body.into())).await?;
            show(json, &made, || with_secret(&made));
        }
        ClientsAct::Show { client } => {
            let found = remote.call(Method::GET, &path(client, ""), None).await?;
            show(json, &found, || all_members(&found));
        }
        ClientsAct::Update { client, name, unset, profile } => {
            let mut body = members(profile)?;
            for member in unset {
                if body.insert(member.clone(), Value::Null).is_some() {
                    return Err(Failure::config(format!("{member} is both given and unset")));
                }
            }
            body.extend(name.iter().map(|name| ("name".to_owned(), name.clone().into())));
            if body.is_empty() {
                return Err(Failure::config("say what to change: --name, a member, or --unset MEMBER"));
            }
            let changed = remote.call(Method::PATCH, &path(client, ""), Some(&body.into())).await?;
            show(json, &changed, || all_members(&changed));
        }
        ClientsAct::RotateSecret { client, overlap } => {
            let overlap = time::parse_span(overlap).filter(|span| *span >= 0);
            let overlap =
                overlap.ok_or_else(|| Failure::config("--overlap needs a number and a unit: 0s, 90s, 12h or 30d"))?;
            let body = json!({ "overlap_s": overlap.div_euclid(1000) });
            let made = remote.call(Method::POST, &path(client, "/secret"), Some(&body)).await?;
            show(json, &made, || with_secret(&made));
        }
        ClientsAct::Enable { client } => return set_disabled(&mut remote, client, None, json).await,
        ClientsAct::Disable { client, wait } => return set_disabled(&mut remote, client, Some(wait), json).await,
    }
    Ok(Exit::Done)
}

fn path(client: &str, rest: &str) -> String {
    format!("/v1/admin/clients/{}{rest}", escaped(client))
}

/// The members that were given, in the names of the admin API.
fn members(args: &ProfileArgs) -> Result<Map<String, Value>, Failure> {
    let mut out = Map::new();
    let grants: Vec<String> = args.grant_types.iter().map(|name| grant_type(name)).collect();
    let lists = [
        ("redirect_uris", &args.redirect_uris),
        ("post_logout_redirect_uris", &args.post_logout_redirect_uris),
        ("grant_types", &grants),
        ("scopes", &args.scopes),
        ("resources", &args.resources),
        ("contacts", &args.contacts),
        ("default_acr_values", &args.default_acr_values),
    ];
    out.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.into(), json!(list))));
    let texts = [
        ("token_endpoint_auth_method", &args.token_endpoint_auth_method),
        ("jwks_uri", &args.jwks_uri),
        ("id_token_signed_response_alg", &args.id_token_signed_response_alg),
        ("userinfo_signed_response_alg", &args.userinfo_signed_response_alg),
        ("initiate_login_uri", &args.initiate_login_uri),
        ("subject_type", &args.subject_type),
        ("sector_identifier_uri", &args.sector_identifier_uri),
        ("consent", &args.consent),
        ("backchannel_logout_uri", &args.backchannel_logout_uri),
        ("frontchannel_logout_uri", &args.frontchannel_logout_uri),
        ("client_uri", &args.client_uri),
        ("policy_uri", &args.policy_uri),
        ("tos_uri", &args.tos_uri),
    ];
    out.extend(texts.into_iter().filter_map(|(name, text)| Some((name.into(), text.clone()?.into()))));
    let switches = [
        ("require_pushed_authorization_requests", args.require_pushed_authorization_requests),
        ("dpop_bound_access_tokens", args.dpop_bound_access_tokens),
        ("require_auth_time", args.require_auth_time),
        ("backchannel_logout_session_required", args.backchannel_logout_session_required),
        ("frontchannel_logout_session_required", args.frontchannel_logout_session_required),
    ];
    out.extend(switches.into_iter().filter_map(|(name, on)| Some((name.into(), on?.into()))));
    let numbers = [("access_ttl_s", args.access_ttl_s), ("default_max_age", args.default_max_age)];
    out.extend(numbers.into_iter().filter_map(|(name, number)| Some((name.into(), number?.into()))));
    if let Some(file) = &args.jwks {
        out.insert("jwks".into(), jwks(file)?);
    }
    Ok(out)
}

/// Long names may be left out: `device_code` is `urn:ietf:params:oauth:grant-type:device_code`.
fn grant_type(name: &str) -> String {
    let known = GrantType::ALL.iter().find(|grant| grant.as_str().rsplit(':').next() == Some(name));
    known.map_or(name, |grant| grant.as_str()).to_owned()
}

fn jwks(file: &Path) -> Result<Value, Failure> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().take(MAX_JWKS).read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|file| file.take(MAX_JWKS).read_to_string(&mut text)),
    };
    let name = file.display();
    read.map_err(|error| Failure::config(format!("{name} cannot be read: {error}")))?;
    serde_json::from_str(&text).map_err(|error| Failure::config(format!("{name} is no JWK Set: {error}")))
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

fn with_secret(made: &Value) -> String {
    let lines = ["client_id", "client_secret", "service_account"].map(|m| vec![m.to_owned(), cell(made, m)]);
    let lines: Vec<_> = lines.into_iter().filter(|line| !line[1].is_empty()).collect();
    let table = render(&["", ""], &lines);
    let table = table.trim_start_matches('\n');
    if made.get("client_secret").is_some() { format!("{table}\nThe secret is shown this once.") } else { table.into() }
}

/// A line per member; of lists a line per element.
fn all_members(client: &Value) -> String {
    let mut lines = Vec::new();
    for (name, value) in client.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) => {
                let text = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
                lines.extend(items.iter().map(|item| vec![name.clone(), text(item)]));
            }
            Value::Object(_) => lines.push(vec![name.clone(), value.to_string()]),
            _ => lines.push(vec![name.clone(), cell(client, name)]),
        }
    }
    render(&["", ""], &lines).trim_start_matches('\n').to_owned()
}

/// Switches a client on (`None`) or off.
async fn set_disabled(remote: &mut Remote, client: &str, off: Option<&Wait>, as_json: bool) -> Outcome {
    let path = path(client, &off.map(Wait::query).unwrap_or_default());
    let answer = remote.call(Method::PATCH, &path, Some(&json!({ "disabled": off.is_some() }))).await?;
    let ended = answer.get("rev").is_some_and(Value::is_u64);
    show(as_json, &answer, || {
        let table = render(&HEADS, &[row(&answer)]);
        if ended { format!("{table}\n{}", revoked(&answer)) } else { table }
    });
    let wait = off.is_some_and(|wait| wait.wait);
    Ok(if wait && ended && !is_complete(&answer) { Exit::CheckFailed } else { Exit::Done })
}
