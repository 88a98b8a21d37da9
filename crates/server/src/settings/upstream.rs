//! `[[upstream]]` in `portcullis.toml`: other providers that people may sign in with.
use portcullis_app::{UpstreamKind, UpstreamSettings};
use portcullis_domain::upstream::MAX_ISSUER;
use portcullis_wire::SecretString;
use std::collections::BTreeMap;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// The name of the array.
pub const TABLE: &str = "upstream";
/// How many there may be: each is a button on the sign-in page.
const MAX_UPSTREAMS: usize = 16;
/// What a table may hold.
const MEMBERS: [&str; 9] =
    ["id", "name", "kind", "issuer", "client_id", "client_secret", "client_secret_file", "client_secret_env", "scopes"];

/// Reads the array: what is right of it, and what is wrong, in words with its place. No word quotes a secret. `path` is how the
/// file is named to people, `real` where it is.
pub fn read(
    value: &DeValue<'_>,
    real: &Path,
    path: &Path,
    line: &dyn Fn(usize) -> usize,
) -> (Vec<UpstreamSettings>, Vec<String>) {
    let (mut all, mut problems) = (vec![], vec![]);
    let DeValue::Array(items) = value else {
        return (all, vec![format!("{}: {TABLE} must be an array of tables, [[{TABLE}]]", path.display())]);
    };
    for item in items {
        let place = format!("{}:{}: [[{TABLE}]]", path.display(), line(item.span().start));
        let read = match item.get_ref() {
            DeValue::Table(table) => one(table, real),
            _ => Err("must be a table".into()),
        };
        match read {
            Ok(one) if all.iter().any(|other: &UpstreamSettings| other.id == one.id) => {
                problems.push(format!("{place}: the id {:?} is given twice", one.id));
            }
            // Answers are told apart by issuer: two clients of one provider would be one.
            Ok(one) if all.iter().any(|other: &UpstreamSettings| other.issuer == one.issuer) => {
                problems.push(format!("{place}: the issuer {:?} is given twice", one.issuer));
            }
            Ok(one) => all.push(one),
            Err(why) => problems.push(format!("{place}: {why}")),
        }
    }
    if all.len() > MAX_UPSTREAMS {
        problems.push(format!("{}: there are at most {MAX_UPSTREAMS} [[{TABLE}]]", path.display()));
    }
    (all, problems)
}

fn one(table: &DeTable<'_>, path: &Path) -> Result<UpstreamSettings, String> {
    let (mut texts, mut scopes) = (BTreeMap::new(), None);
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let Some(name) = MEMBERS.into_iter().find(|known| *known == name) else {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(format!("unknown key {shown}; known: {}", MEMBERS.join(", ")));
        };
        match value.get_ref() {
            DeValue::Array(items) if name == "scopes" => {
                let items: Option<Vec<String>> =
                    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
                scopes = Some(items.ok_or("scopes must be an array of strings")?);
            }
            DeValue::String(text) if name != "scopes" => drop(texts.insert(name, text.clone().into_owned())),
            _ => {
                return Err(format!(
                    "{name} must be {}",
                    if name == "scopes" { "an array of strings" } else { "a string" }
                ));
            }
        }
    }
    let client_secret = secret(&mut texts, path)?;
    let mut need = |name: &str| texts.remove(name).filter(|text| !text.is_empty()).ok_or(format!("{name} is missing"));
    let (id, client_id) = (need("id")?, need("client_id")?);
    let is_id = id.len() <= 32 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_id || id == "confirm" {
        return Err(
            "id must have lower-case letters, digits and hyphens, at most 32, and be another word than confirm".into(),
        );
    }
    let kind = match texts.remove("kind").as_deref() {
        None | Some("oidc") => UpstreamKind::Oidc,
        Some("github") => UpstreamKind::GitHub,
        Some(_) => return Err("kind must be oidc or github".into()),
    };
    let issuer = match (texts.remove("issuer"), kind) {
        (Some(issuer), _) => issuer,
        (None, UpstreamKind::GitHub) => "https://github.com".into(),
        (None, UpstreamKind::Oidc) => return Err("issuer is missing".into()),
    };
    check_issuer(&issuer)?;
    let scopes = scopes.unwrap_or_else(|| usual_scopes(kind));
    let is_scope =
        |scope: &String| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if scopes.len() > 32 || !scopes.iter().all(is_scope) {
        return Err("scopes must be at most 32 words".into());
    }
    if kind == UpstreamKind::Oidc && !scopes.iter().any(|scope| scope == "openid") {
        return Err("scopes must have \"openid\"".into());
    }
    let name = texts.remove("name").unwrap_or_else(|| id.clone());
    let name = portcullis_domain::account::check_text("name", &name).map_err(|_| "name must be 1 to 200 characters")?;
    Ok(UpstreamSettings { id, name, kind, issuer, client_id, client_secret, scopes })
}

fn usual_scopes(kind: UpstreamKind) -> Vec<String> {
    let scopes: &[&str] = match kind {
        UpstreamKind::Oidc => &["openid", "email", "profile"],
        UpstreamKind::GitHub => &["read:user", "user:email"],
    };
    scopes.iter().map(|scope| (*scope).to_owned()).collect()
}

/// By TLS, or on this machine (OpenID Connect Discovery §4, Core §16.17).
fn check_issuer(issuer: &str) -> Result<(), String> {
    let here =
        || issuer.starts_with("http://") && issuer.parse().is_ok_and(|uri| crate::settings::is_loopback_url(&uri));
    let web = issuer.starts_with("https://") || here();
    let plain =
        issuer.len() <= MAX_ISSUER && issuer.bytes().all(|b| b.is_ascii_graphic()) && !issuer.contains(['?', '#', '@']);
    if web && plain { Ok(()) } else { Err("issuer must be an https address without query and fragment".into()) }
}

/// In one of three ways. A file is found from where the configuration file is.
fn secret(texts: &mut BTreeMap<&str, String>, path: &Path) -> Result<SecretString, String> {
    let given = ["client_secret", "client_secret_file", "client_secret_env"].map(|name| texts.remove(name));
    let text = match given {
        [Some(text), None, None] => text,
        [None, Some(file), None] => {
            let file = path.parent().unwrap_or(Path::new("")).join(file);
            let text = std::fs::read_to_string(&file);
            text.map_err(|error| format!("client_secret_file: {} cannot be read: {error}", file.display()))?
        }
        [None, None, Some(name)] => {
            std::env::var(&name).map_err(|_| format!("client_secret_env: there is no variable {name}"))?
        }
        _ => return Err("give one of client_secret, client_secret_file and client_secret_env".into()),
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err("the client's secret is empty".into()) } else { Ok(SecretString::new(text)) }
}
