//! Clients that register themselves (RFC 7591, RFC 7592): their metadata, in the names of the RFC, to and from what is kept.
//!
//! Whoever registers a client that way is not known. So such a client is always one that asks people (no client of the house),
//! never one that acts for itself or for others, and it names no resources and no life of its tokens: an administrator can
//! change that afterwards. Whether somebody vouches for it is kept with it, whatever the server's settings become. Metadata that is not known is left out of the answer (RFC 7591 §2).
use crate::account::check_text;
use crate::client::{Asking, AuthMethod, GrantType, OFFLINE, OPENID, Profile, known_members};
use crate::device::is_hidden;
use crate::model::{Client, ClientKind};
use crate::refused::OAuthError;
use crate::{Cut, Refused};
use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use portcullis_wire::Digest;
use serde_json::{Map, Value};

/// Members that mean the same here and there.
const SAME: [&str; 22] = [
    "redirect_uris",
    "post_logout_redirect_uris",
    "grant_types",
    "token_endpoint_auth_method",
    "jwks",
    "jwks_uri",
    "id_token_signed_response_alg",
    "userinfo_signed_response_alg",
    "subject_type",
    "sector_identifier_uri",
    "require_pushed_authorization_requests",
    "dpop_bound_access_tokens",
    "default_max_age",
    "require_auth_time",
    "default_acr_values",
    "initiate_login_uri",
    "backchannel_logout_uri",
    "backchannel_logout_session_required",
    "client_uri",
    "policy_uri",
    "tos_uri",
    "contacts",
];
/// And those of front-channel logout.
const FRONT: [&str; 2] = ["frontchannel_logout_uri", "frontchannel_logout_session_required"];
/// What an update must not bring (RFC 7592 §2.2).
const NOT_YOURS: [&str; 4] =
    ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"];
/// What ID tokens are signed with when a client does not say (OpenID Connect Dynamic Client Registration §2).
const USUAL_ALG: &str = "RS256";
/// The scopes that strangers may register.
const FOR_ALL: [&str; 4] = [OPENID, "profile", "email", OFFLINE];

/// What a client has that says nothing of itself: whoever lets clients register needs the key of that before the first one comes.
pub fn silent() -> Profile {
    Profile { id_token_signed_response_alg: Some(USUAL_ALG.into()), ..Profile::default() }
}

/// What a client registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its name, for people.
    pub name: String,
    /// Public, or able to keep a secret.
    pub kind: ClientKind,
    /// The rest, not yet checked against what the server can do.
    pub profile: Profile,
}

fn bad(detail: impl Into<String>) -> Refused {
    Refused::OAuth { error: OAuthError::InvalidClientMetadata, detail: detail.into() }
}

/// What is wrong with a profile, in the words of RFC 7591 §3.2.2.
pub fn as_registration_error(refused: Refused) -> Refused {
    match refused {
        Refused::InvalidValue { field: field @ ("redirect_uris" | "post_logout_redirect_uris"), detail } => {
            Refused::OAuth { error: OAuthError::InvalidRedirectUri, detail: format!("{field}: {detail}") }
        }
        Refused::InvalidValue { field, detail } => bad(format!("{field}: {detail}")),
        other => other,
    }
}

/// Reads metadata. `vouched`: it came with the initial access token, so that scopes of the operator's services may be there.
///
/// # Errors
/// `invalid_redirect_uri`, `invalid_client_metadata`.
pub fn read(members: Map<String, Value>, vouched: bool) -> Result<Metadata, Refused> {
    read_with(members, vouched, &[])
}

/// `had`: the scopes that it has already.
fn read_with(mut members: Map<String, Value>, vouched: bool, had: &[String]) -> Result<Metadata, Refused> {
    let mut text = |name: &str| match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(format!("{name} must be a string"))),
    };
    let name = text("client_name")?.unwrap_or_else(|| "An application".to_owned());
    let name = check_text("client_name", &name).map_err(as_registration_error)?;
    if name.chars().any(is_hidden) {
        return Err(bad("client_name: has characters that cannot be seen or turn the text around"));
    }
    let scope = text("scope")?;
    let kept = |(name, value): (String, Value)| {
        let known = SAME.contains(&name.as_str()) || FRONT.contains(&name.as_str());
        let value = if name == "jwks" { known_members(&value) } else { value };
        (known && !value.is_null()).then_some((name, value))
    };
    let responses = members.remove("response_types");
    let profile: Map<String, Value> = members.into_iter().filter_map(kept).collect();
    let said_grants = profile.contains_key("grant_types");
    let mut profile: Profile =
        serde_json::from_value(Value::Object(profile)).map_err(|error| bad(error.to_string()))?;
    if !said_grants {
        profile.grant_types = vec![GrantType::AuthorizationCode]; // RFC 7591 §2
    }
    // OpenID Connect Dynamic Client Registration §2; who registers by an administrator has the server's own algorithm instead.
    profile.id_token_signed_response_alg.get_or_insert_with(|| USUAL_ALG.to_owned());
    if responses.is_some_and(|responses| responses != serde_json::json!(["code"]) && responses != serde_json::json!([]))
    {
        return Err(bad("response_types: only code is known"));
    }
    let for_people = |grant: &GrantType| !matches!(grant, GrantType::ClientCredentials | GrantType::TokenExchange);
    if let Some(grant) = profile.grant_types.iter().find(|grant| !for_people(grant)) {
        return Err(bad(format!("grant_types: {} is for clients that an administrator registers", grant.as_str())));
    }
    // A code that anybody can send to anybody, in a name of the sender's choice: not for those whom nobody knows (RFC 8628 §5.4).
    if !vouched && profile.has(GrantType::DeviceCode) {
        let grant = GrantType::DeviceCode.as_str();
        return Err(bad(format!(
            "grant_types: {grant} is for clients that somebody vouches for (the initial access token)"
        )));
    }
    profile.scopes = scopes(scope, vouched, had)?;
    profile.vouched = vouched;
    let kind = match profile.token_endpoint_auth_method {
        AuthMethod::None => ClientKind::Public,
        _ => ClientKind::Confidential,
    };
    Ok(Metadata { name, kind, profile })
}

fn scopes(scope: Option<String>, vouched: bool, had: &[String]) -> Result<Vec<String>, Refused> {
    let scopes: Vec<String> =
        scope.unwrap_or_default().split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    let may = |one: &String| vouched || FOR_ALL.contains(&one.as_str()) || had.contains(one);
    if let Some(strange) = scopes.iter().find(|one| !may(one)) {
        return Err(bad(format!("scope: {strange:?} is for clients that an administrator registers")));
    }
    Ok(scopes)
}

/// Reads an update (RFC 7592 §2.2): all metadata anew, for the client as it is, and nothing that is the server's to say. Whoever was a
/// stranger at registration is one still: scopes beyond those for all are there only when it has them already.
///
/// # Errors
/// As [`read`]; `invalid_request`.
pub fn read_update(
    mut members: Map<String, Value>,
    client: &Client,
    secret: impl Fn(&str) -> bool,
) -> Result<Metadata, Refused> {
    let invalid = |detail: &str| Refused::OAuth { error: OAuthError::InvalidRequest, detail: detail.to_owned() };
    if members.remove("client_id") != Some(Value::String(client.id.to_string())) {
        return Err(invalid("client_id must be there, and be this client's"));
    }
    match members.remove("client_secret") {
        None => {}
        Some(Value::String(shown)) if secret(&shown) => {}
        Some(_) => return Err(invalid("client_secret is not this client's")),
    }
    if let Some(name) = NOT_YOURS.iter().find(|name| members.contains_key(**name)) {
        return Err(invalid(&format!("{name} must not be there (RFC 7592 §2.2)")));
    }
    let mut read = read_with(members, client.profile.vouched, &client.profile.scopes)?;
    let by_key = |profile: &Profile| profile.token_endpoint_auth_method == AuthMethod::PrivateKeyJwt;
    if read.kind != client.kind || by_key(&read.profile) != by_key(&client.profile) {
        return Err(bad("token_endpoint_auth_method: register another client to prove who it is in another way"));
    }
    // What an administrator has said since stays.
    let said = &client.profile;
    read.profile.consent = said.consent;
    read.profile.resources.clone_from(&said.resources);
    read.profile.access_ttl_s = said.access_ttl_s;
    read.profile.global_token_revocation = said.global_token_revocation;
    read.profile.service_account = said.service_account;
    read.profile.registration.clone_from(&said.registration);
    Ok(read)
}

/// A client's metadata, in the names of RFC 7591 §2.
pub fn write(client: &Client) -> Map<String, Value> {
    let mut out = Map::new();
    let profile = serde_json::to_value(&client.profile).unwrap_or_default();
    for name in SAME.iter().chain(&FRONT) {
        if let Some(value) = profile.get(*name) {
            out.insert((*name).to_owned(), value.clone());
        }
    }
    let codes = client.profile.has(GrantType::AuthorizationCode);
    out.insert("client_id".into(), client.id.to_string().into());
    out.insert("client_name".into(), client.name.clone().into());
    out.insert("client_id_issued_at".into(), client.created_at.secs().into());
    out.insert("scope".into(), client.profile.scopes.join(" ").into());
    out.insert("response_types".into(), if codes { serde_json::json!(["code"]) } else { serde_json::json!([]) });
    out
}

/// What is left of a client that was deleted: its id and its name, for what it did, until [`crate::retention::client_may_go`].
pub fn tombstone(client: &Client) -> Client {
    let profile = Profile { deleted: true, consent: Asking::Ask, ..Profile::default() };
    Client { secret: None, old_secret: None, profile, cut: Cut::default(), ..client.clone() }
}

/// Whether `shown` is the token that this client is managed with.
pub fn is_managed_with(client: &Client, shown: Digest) -> bool {
    let kept = client.profile.registration.as_deref().and_then(portcullis_wire::b64::decode_array).map(Digest);
    !client.disabled && !client.profile.deleted && kept == Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(members) => members,
            _ => panic!("no object"),
        }
    }

    #[test]
    fn what_strangers_may_not_register() {
        let error = |value| match read(members(value), false) {
            Err(Refused::OAuth { error, .. }) => error.as_str(),
            other => panic!("{other:?}"),
        };
        for (name, value) in [
            ("grant_types", serde_json::json!(["client_credentials"])),
            ("grant_types", serde_json::json!(["urn:ietf:params:oauth:grant-type:token-exchange"])),
            ("grant_types", serde_json::json!(["password"])),
            ("response_types", serde_json::json!(["token"])),
            ("scope", serde_json::json!("openid read")),
            ("scope", serde_json::json!(["openid"])),
            ("client_name", serde_json::json!("\u{0}")),
            ("client_name", serde_json::json!("Bank\u{202e}knaB")),
            ("client_name", serde_json::json!("Po\u{200b}rtcullis")),
            ("client_name", serde_json::json!("\u{3164}")),
            ("grant_types", serde_json::json!(["urn:ietf:params:oauth:grant-type:device_code"])),
            ("token_endpoint_auth_method", serde_json::json!("tls_client_auth")),
            ("redirect_uris", serde_json::json!("https://a.example/")),
        ] {
            let mut value_of = Map::new();
            value_of.insert(name.into(), value);
            assert_eq!(error(Value::Object(value_of)), "invalid_client_metadata", "{name}");
        }
        // What only an administrator says is not even read.
        let value = serde_json::json!({
            "redirect_uris": ["https://a.example/"], "consent": "implied", "resources": ["https://b.example/"],
            "access_ttl_s": 3600, "service_account": "acc_x", "registration": "x", "deleted": true, "unknown": 1,
        });
        let read = read(members(value), false).unwrap();
        let plain = Profile {
            redirect_uris: vec!["https://a.example/".into()],
            grant_types: vec![GrantType::AuthorizationCode],
            id_token_signed_response_alg: Some("RS256".into()),
            ..Profile::default()
        };
        assert_eq!((read.profile, read.kind), (plain, ClientKind::Confidential));
    }

    #[test]
    fn who_was_a_stranger_stays_one() {
        let own = |vouched| {
            let mut read =
                read(members(serde_json::json!({ "redirect_uris": ["https://a.example/"] })), vouched).unwrap();
            read.profile.scopes = vec!["openid".into(), "given".into()];
            read.profile.registration = Some("x".into());
            Client {
                id: portcullis_wire::ClientId::from_bits(5),
                name: read.name,
                kind: read.kind,
                secret: None,
                old_secret: None,
                profile: read.profile,
                version: 1,
                disabled: false,
                created_at: portcullis_wire::Time(0),
                cut: Cut::default(),
            }
        };
        let update = |client: &Client, scope: &str| {
            let value = serde_json::json!({
                "client_id": client.id.to_string(), "redirect_uris": ["https://a.example/"], "scope": scope, "vouched": true,
            });
            read_update(members(value), client, |_| false).map(|read| read.profile)
        };
        let stranger = own(false);
        assert!(update(&stranger, "openid orders:write").is_err(), "whatever the settings are by now");
        let kept = update(&stranger, "openid given").unwrap();
        assert!(kept.is_stranger() && kept.scopes == ["openid", "given"], "what an administrator gave it stays");
        let known = update(&own(true), "openid orders:write").unwrap();
        assert!(known.vouched && !known.is_stranger());
    }

    #[test]
    fn of_keys_only_what_means_something_is_kept() {
        let jwks = serde_json::json!({ "keys": [{ "kty": "EC", "x": "a", "x5c": ["a".repeat(50_000)], "note": { "a": 1 } }], "more": 1 });
        assert_eq!(known_members(&jwks), serde_json::json!({ "keys": [{ "kty": "EC", "x": "a" }] }));
        // A private key is told by its members, and refused as one.
        let private = serde_json::json!({ "keys": [{ "kty": "EC", "d": "a" }] });
        assert_eq!(known_members(&private), private);
    }
}
