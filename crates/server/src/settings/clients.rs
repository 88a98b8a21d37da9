//! `[[clients]]` in `portcullis.toml`: applications that a start registers, or changes to what stands there.
//!
//! ```toml
//! [[clients]]
//! id = "cli_59s346q3d25vt4f5v37e3s3e28"
//! name = "The shop"
//! kind = "confidential"
//! secret_file = "/run/secrets/shop"
//! redirect_uris = ["https://shop.example.org/cb"]
//! ```
//!
//! A secret never stands in the file itself: it is read from another one, or from an environment variable.
use portcullis_app::oauth::Configured;
use portcullis_app::real::RealChance;
use portcullis_domain::Chance as _;
use portcullis_domain::account::check_text;
use portcullis_domain::client::{AuthMethod, MAX_ACCESS_TTL_S, Profile};
use portcullis_domain::model::ClientKind;
use portcullis_domain::refused::Refused;
use portcullis_wire::{ClientId, SecretString};
use serde_json::{Map, Number, Value};
use std::path::PathBuf;
use toml::de::DeValue;

/// The most clients in one file.
pub const MAX_CLIENTS: usize = 1000;
/// The shortest secret: as long as 256 random bits in base64.
const MIN_SECRET: usize = 43;
const OWN: [&str; 5] = ["id", "name", "kind", "secret_file", "secret_env"];

/// One entry as it stands in the file, with its place.
#[derive(Debug, Clone)]
pub struct Entry {
    /// File and line.
    pub place: String,
    /// Its members.
    pub members: Map<String, Value>,
}

/// A value of the file as JSON; `None` for what JSON cannot say.
pub fn as_json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Boolean(on) => Value::Bool(*on),
        DeValue::Integer(n) if n.radix() == 10 => {
            Value::Number(Number::from(n.as_str().replace('_', "").parse::<i64>().ok()?))
        }
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| as_json(item.get_ref())).collect::<Option<Vec<_>>>()?)
        }
        DeValue::Table(table) => {
            let member = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                Some((name.clone().into_owned(), as_json(value.get_ref())?))
            };
            Value::Object(table.iter().map(member).collect::<Option<Map<_, _>>>()?)
        }
        _ => return None,
    })
}

/// Reads all entries; what is wrong with them goes into `problems`, each with its place.
pub fn read(entries: &[Entry], longest_ttl_s: u32, problems: &mut Vec<String>) -> Vec<Configured> {
    if entries.len() > MAX_CLIENTS {
        problems.push(format!("there are more than {MAX_CLIENTS} [[clients]]"));
        return vec![];
    }
    let mut clients: Vec<Configured> = Vec::new();
    for entry in entries {
        match one(&entry.members, longest_ttl_s) {
            Ok(client) if clients.iter().any(|other| other.id == client.id) => {
                problems.push(format!("{}: another of the [[clients]] has the id {}", entry.place, client.id));
            }
            Ok(client) => clients.push(client),
            Err(why) => problems.push(format!("{}: [[clients]]: {why}", entry.place)),
        }
    }
    clients
}

fn one(members: &Map<String, Value>, longest_ttl_s: u32) -> Result<Configured, String> {
    let known = |name: &str| OWN.contains(&name) || Profile::MEMBERS.contains(&name);
    if let Some(strange) = members.keys().find(|name| !known(name)) {
        let shown: String = strange.chars().filter(|c| !c.is_control()).take(64).collect();
        let hint = match shown.as_str() {
            "secret" | "client_secret" => "; give the secret by secret_file or secret_env".to_owned(),
            "service_account" => "; it is made with the client".to_owned(),
            _ => format!("; known: {}, {}", OWN.join(", "), Profile::MEMBERS.join(", ")),
        };
        return Err(format!("unknown key {shown}{hint}"));
    }
    let text = |name: &str| match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("{name} must be a string")),
    };
    let id = text("id")?.and_then(|id| id.parse::<ClientId>().ok()).filter(|id| *id != ClientId::FIRST_PARTY);
    let id = id.ok_or_else(|| {
        format!(
            "id must be a client's id, which stays; here is one that is free: {}",
            ClientId::from_bits(RealChance.bits())
        )
    })?;
    let name = text("name")?.ok_or("name is missing")?;
    let name = check_text("name", name).map_err(in_words)?;
    let kind = text("kind")?.and_then(ClientKind::parse);
    let kind = kind.ok_or("kind must be verifier, confidential or public")?;
    let profile: Map<String, Value> =
        members.iter().filter(|(name, _)| !OWN.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
    let profile: Profile = serde_json::from_value(Value::Object(profile)).map_err(|error| error.to_string())?;
    let profile = profile.checked(kind, longest_ttl_s.min(MAX_ACCESS_TTL_S)).map_err(in_words)?;
    let secret = secret(text("secret_file")?, text("secret_env")?)?;
    let by_secret = kind != ClientKind::Public && profile.token_endpoint_auth_method != AuthMethod::PrivateKeyJwt;
    match (&secret, by_secret) {
        (None, true) => {
            return Err("secret_file or secret_env is missing: this client proves who it is by a secret".into());
        }
        (Some(_), false) => return Err("this client has no secret".into()),
        _ => {}
    }
    Ok(Configured { id, name, kind, profile, secret: secret.map(|secret| secret.digest()) })
}

fn in_words(refused: Refused) -> String {
    match refused {
        Refused::InvalidValue { field, detail } => format!("{field} {detail}"),
        other => format!("{other:?}"),
    }
}

fn secret(file: Option<&str>, variable: Option<&str>) -> Result<Option<SecretString>, String> {
    let text = match (file, variable) {
        (Some(_), Some(_)) => return Err("secret_file and secret_env are both set; give one of them".into()),
        (None, None) => return Ok(None),
        (Some(path), None) => {
            let path = PathBuf::from(path);
            let text = std::fs::read_to_string(&path);
            text.map_err(|error| format!("secret_file: {} cannot be read: {error}", path.display()))?
        }
        (None, Some(name)) => std::env::var(name).map_err(|_| format!("secret_env: {name} is not set"))?,
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.len() < MIN_SECRET || text.len() > 1024 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "the secret must have {MIN_SECRET} to 1024 visible ASCII characters; `openssl rand -hex 32` makes one"
        ));
    }
    Ok(Some(SecretString::new(text)))
}
