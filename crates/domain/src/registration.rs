//! Clients that register themselves (RFC 7591, RFC 7592): their metadata, in the names of the RFC, to and from what is kept.
//!
//! Whoever registers a client that way is not known. So such a client is always one that asks people (no client of the house),
//! never one that acts for itself or for others, and it names no resources and no life of its tokens: an administrator can
//! change that afterwards. Metadata that is not known is left out of the answer (RFC 7591 §2).
use crate::account::check_text;
use crate::client::{Asking, AuthMethod, GrantType, OFFLINE, OPENID, Profile};
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
const SAME: [&str; 14] = [
    "redirect_uris",
    "post_logout_redirect_uris",
    "grant_types",
    "token_endpoint_auth_method",
    "jwks",
    "jwks_uri",
    "id_token_signed_response_alg",
    "subject_type",
    "sector_identifier_uri",
    "require_pushed_authorization_requests",
    "dpop_bound_access_tokens",
    "backchannel_logout_uri",
    "backchannel_logout_session_required",
    "client_uri",
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

/// Reads metadata. `trusted`: it came with the initial access token, so that scopes of the operator's services may be there.
///
/// # Errors
/// `invalid_redirect_uri`, `invalid_client_metadata`.
pub fn read(mut members: Map<String, Value>, trusted: bool) -> Result<Metadata, Refused> {
    let mut text = |name: &str| match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(format!("{name} must be a string"))),
    };
    let name = text("client_name")?.unwrap_or_else(|| "An application".to_owned());
    let name = check_text("client_name", &name).map_err(as_registration_error)?;
    let scope = text("scope")?;
    let kept = |(name, value): (String, Value)| {
        let known = SAME.contains(&name.as_str()) || FRONT.contains(&name.as_str());
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
    profile.scopes = scopes(scope, trusted)?;
    let kind = match profile.token_endpoint_auth_method {
        AuthMethod::None => ClientKind::Public,
        _ => ClientKind::Confidential,
    };
    Ok(Metadata { name, kind, profile })
}

fn scopes(scope: Option<String>, trusted: bool) -> Result<Vec<String>, Refused> {
    let scopes: Vec<String> =
        scope.unwrap_or_default().split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    if let Some(strange) = scopes.iter().find(|one| !trusted && !FOR_ALL.contains(&one.as_str())) {
        return Err(bad(format!("scope: {strange:?} is for clients that an administrator registers")));
    }
    Ok(scopes)
}

/// Reads an update (RFC 7592 §2.2): all metadata anew, for the client as it is, and nothing that is the server's to say.
///
/// # Errors
/// As [`read`]; `invalid_request`.
pub fn read_update(
    mut members: Map<String, Value>,
    client: &Client,
    secret: impl Fn(&str) -> bool,
    trusted: bool,
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
    let mut read = read(members, trusted)?;
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

/// What is left of a client that was deleted: its id, which is never used again, and its name, for what it did.
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
}
