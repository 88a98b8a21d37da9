//! What a client registered, and what follows from it: where it may be sent back to, what it may ask for, how it proves itself.
//!
//! Redirect URIs are compared as text (RFC 9700 §4.1.3); the one exception is the port of a loopback address, which a native
//! application cannot know beforehand (RFC 8252 §7.3).
use crate::model::{ClientKind, KeyPurpose, Session, UNPROVEN};
use crate::refused::OAuthError;
use crate::{Refused, account, subject};
use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use portcullis_wire::assertion::MAX_KEYS;
use portcullis_wire::jwk::PublicKey;
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{AccessClaims, AccountId};
use serde::{Deserialize, Serialize};

/// The most addresses in one list of a client.
pub const MAX_URIS: usize = 32;
/// The most contacts.
pub const MAX_CONTACTS: usize = 16;
/// The longest address.
pub const MAX_URI: usize = 1024;
/// The most context classes that a client may name.
pub const MAX_ACR_VALUES: usize = 8;
/// The most scopes, and the most resources, of a client.
pub const MAX_SCOPES: usize = 64;
/// The longest life of access tokens that a client may have, in seconds (DESIGN §6).
pub const MAX_ACCESS_TTL_S: u32 = 3600;

/// The scope that makes a request one of OpenID Connect (OpenID Connect Core §3.1.2.1).
pub const OPENID: &str = "openid";
/// The scope that lets a client keep its access while its user is away (OpenID Connect Core §11).
pub const OFFLINE: &str = "offline_access";

/// How a client comes by tokens (RFC 7591 §2 `grant_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GrantType {
    /// RFC 6749 §4.1.
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    /// RFC 6749 §6.
    #[serde(rename = "refresh_token")]
    RefreshToken,
    /// RFC 6749 §4.4.
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    /// RFC 8628.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
    /// RFC 8693.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
}

impl GrantType {
    /// All that the server knows.
    pub const ALL: &'static [Self] =
        &[Self::AuthorizationCode, Self::RefreshToken, Self::ClientCredentials, Self::DeviceCode, Self::TokenExchange];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }
    /// From that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|grant| grant.as_str() == text)
    }
}

/// How a client proves who it is at the token endpoint (RFC 7591 §2 `token_endpoint_auth_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AuthMethod {
    /// HTTP Basic (RFC 6749 §2.3.1), or the same in the body: both are taken of a client with a secret.
    #[default]
    #[serde(rename = "client_secret_basic")]
    SecretBasic,
    /// In the body (RFC 6749 §2.3.1).
    #[serde(rename = "client_secret_post")]
    SecretPost,
    /// An assertion signed with its own key (RFC 7523 §2.2, OpenID Connect Core §9).
    #[serde(rename = "private_key_jwt")]
    PrivateKeyJwt,
    /// Not at all: a public client.
    #[serde(rename = "none")]
    None,
}

impl AuthMethod {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecretBasic => "client_secret_basic",
            Self::SecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::None => "none",
        }
    }
}

/// Whether users are asked before a client gets what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asking {
    /// Once for each scope.
    #[default]
    Ask,
    /// Never: an application of the house.
    Implied,
}

/// How a client's ID tokens name a user (OpenID Connect Core §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectType {
    /// By the account's id, the same for all clients.
    #[default]
    Public,
    /// By a name that no other sector's clients know.
    Pairwise,
}

/// What a client registered (RFC 7591 §2, OpenID Connect Dynamic Client Registration §2). Members that it left out have their
/// defaults; the names are those of the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Where authorization responses may be sent. Compared exactly.
    pub redirect_uris: Vec<String>,
    /// Where a browser may be sent after a logout.
    pub post_logout_redirect_uris: Vec<String>,
    /// How it comes by tokens.
    pub grant_types: Vec<GrantType>,
    /// What it may ask for.
    pub scopes: Vec<String>,
    /// For which resources it may ask tokens (RFC 8707), besides the server's own audience.
    pub resources: Vec<String>,
    /// How it proves who it is.
    pub token_endpoint_auth_method: AuthMethod,
    /// Its public keys, as a JWK Set in JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<serde_json::Value>,
    /// Where its public keys are, when they are not in `jwks` ([`crate::client_keys`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// What its ID tokens are signed with; `None`: what access tokens are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token_signed_response_alg: Option<String>,
    /// What answers of userinfo are signed with; `None`: they are plain JSON (OpenID Connect Core §5.3.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userinfo_signed_response_alg: Option<String>,
    /// How its ID tokens name a user.
    pub subject_type: SubjectType,
    /// Whose host says which clients share pairwise names ([`crate::subject`]); what is there lists their redirect URIs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sector_identifier_uri: Option<String>,
    /// Whether users are asked.
    pub consent: Asking,
    /// The life of its access tokens, in seconds, before jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_ttl_s: Option<u32>,
    /// Whether authorization requests must be pushed (RFC 9126 §6).
    pub require_pushed_authorization_requests: bool,
    /// Whether its tokens are always bound to a key (RFC 9449 §5.2).
    pub dpop_bound_access_tokens: bool,
    /// How old a sign-in may be, in seconds, where a request does not say (`max_age`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_max_age: Option<u32>,
    /// Whether its ID tokens must say when their user proved who they are (`auth_time`).
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub require_auth_time: bool,
    /// Which context classes it would like, where a request does not say (`acr_values`). There is one class here ([`crate::issue::ACR`]), and
    /// tokens say that one whatever is asked for (OpenID Connect Core §5.5.1.1), so they are kept and returned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub default_acr_values: Vec<String>,
    /// Where a browser is sent that is to begin a sign-in at the application (OpenID Connect Core §4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initiate_login_uri: Option<String>,
    /// Where it is told that a session has ended (OpenID Connect Back-Channel Logout §2.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backchannel_logout_uri: Option<String>,
    /// Whether it must be told which session (the same).
    pub backchannel_logout_session_required: bool,
    /// What a browser loads when its user signs out (OpenID Connect Front-Channel Logout §2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontchannel_logout_uri: Option<String>,
    /// Whether issuer and session are to be in that address.
    pub frontchannel_logout_session_required: bool,
    /// Whether it may end everything of any account (draft-parecki-oauth-global-token-revocation): a tool of security or identity
    /// governance. Only administrators give this; no client can register itself for it.
    pub global_token_revocation: bool,
    /// Where its home page is, for the people that it asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    /// What it does with what it learns, for the same people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// On which terms it serves, for the same people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// Who answers for it, for the operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// The account that it acts as when it acts for itself; made with the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<AccountId>,
    /// Digest of the token that it is managed with, base64url, when it registered itself (RFC 7592 §3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<String>,
    /// Whether somebody stands behind a client that registered itself: it came with the initial access token, or an administrator
    /// has looked at it since. Of others nothing is taken at its word ([`Profile::is_stranger`]).
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub vouched: bool,
    /// Whether it was deleted: then it is off for good, and in no list.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub deleted: bool,
}

impl Profile {
    /// The members that a registration may have.
    pub const MEMBERS: &'static [&'static str] = &[
        "redirect_uris",
        "post_logout_redirect_uris",
        "grant_types",
        "scopes",
        "resources",
        "token_endpoint_auth_method",
        "jwks",
        "jwks_uri",
        "id_token_signed_response_alg",
        "userinfo_signed_response_alg",
        "subject_type",
        "sector_identifier_uri",
        "consent",
        "access_ttl_s",
        "require_pushed_authorization_requests",
        "dpop_bound_access_tokens",
        "default_max_age",
        "require_auth_time",
        "default_acr_values",
        "initiate_login_uri",
        "backchannel_logout_uri",
        "backchannel_logout_session_required",
        "frontchannel_logout_uri",
        "frontchannel_logout_session_required",
        "global_token_revocation",
        "client_uri",
        "policy_uri",
        "tos_uri",
        "contacts",
        "vouched",
    ];

    /// Whether it registered itself and nobody vouches for it: its users are told so, no browser is sent to it without a click,
    /// and it learns nothing of tokens that are not its own.
    pub const fn is_stranger(&self) -> bool {
        self.registration.is_some() && !self.vouched
    }

    /// Takes from claims what the client may no longer ask for: a scope or a resource that it lost counts for nothing, whatever
    /// was granted when it still had it. `usual`: the audience that needs no registration.
    ///
    /// # Errors
    /// `invalid_scope`, `invalid_target` when nothing is left.
    pub fn still_may(&self, claims: &mut AccessClaims, usual: &str) -> Result<(), Refused> {
        let no = |error, detail: &str| Refused::OAuth { error, detail: detail.to_owned() };
        let left = |scope: &&str| self.scopes.iter().any(|known| known == scope);
        let scope: Vec<&str> = claims.scope.split(' ').filter(left).collect();
        if scope.is_empty() && !claims.scope.is_empty() {
            return Err(no(
                OAuthError::InvalidScope,
                "this client may no longer ask for any of the scopes that were granted",
            ));
        }
        let scope = scope.join(" ");
        let may = |name: &str| name == usual || self.resources.iter().any(|known| known == name);
        if !claims.aud.0.iter().any(|name| may(name)) {
            return Err(no(
                OAuthError::InvalidTarget,
                "this client may no longer ask for any of the resources that were granted",
            ));
        }
        claims.aud.0.retain(|name| may(name));
        claims.scope = scope;
        Ok(())
    }

    /// Whether it comes by tokens in this way.
    pub fn has(&self, grant: GrantType) -> bool {
        self.grant_types.contains(&grant)
    }

    /// The keys that its ID tokens are signed with, when those of access tokens, which sign with `usual`, will not do.
    pub fn id_keys(&self, usual: Algorithm) -> Option<KeyPurpose> {
        other_keys(self.id_token_signed_response_alg.as_deref(), usual)
    }

    /// The same of answers of userinfo.
    pub fn userinfo_keys(&self, usual: Algorithm) -> Option<KeyPurpose> {
        other_keys(self.userinfo_signed_response_alg.as_deref(), usual)
    }

    /// Whether its ID tokens would not say when the user of this session proved who they are, and must: then they prove it first.
    pub fn lacks_auth_time(&self, session: &Session) -> bool {
        self.require_auth_time && session.auth_time == UNPROVEN
    }

    /// What an application's own page for beginning a sign-in is called with (OpenID Connect Core §4); of a stranger there is none.
    pub fn begins_at(&self, issuer: &str) -> Option<String> {
        let uri = self.initiate_login_uri.as_deref().filter(|_| !self.is_stranger())?;
        let join = if uri.contains('?') { '&' } else { '?' };
        Some(format!("{uri}{join}iss={}", query_value(issuer)))
    }

    /// The public keys that it registered. What is none was refused then.
    pub fn keys(&self) -> Vec<PublicKey> {
        keys(self.jwks.as_ref()).unwrap_or_default()
    }

    /// Whether a browser may be sent to this address with an authorization response.
    pub fn may_redirect_to(&self, uri: &str) -> bool {
        self.redirect_uris.iter().any(|known| is_same_place(known, uri))
    }

    /// What of `asked` (separated by spaces) it may have, sorted, each once; all that it may have when nothing is asked.
    pub fn allowed_scope(&self, asked: Option<&str>) -> Vec<String> {
        let mut scope: Vec<String> = match asked {
            None => self.scopes.clone(),
            Some(asked) => {
                asked.split(' ').filter(|one| self.scopes.iter().any(|known| known == one)).map(str::to_owned).collect()
            }
        };
        scope.sort();
        scope.dedup();
        scope
    }

    /// Checks what somebody wants to register, and fills in what follows from the rest.
    ///
    /// # Errors
    /// [`Refused::InvalidValue`] naming the member.
    pub fn checked(mut self, kind: ClientKind, longest_ttl_s: u32) -> Result<Self, Refused> {
        if kind == ClientKind::Verifier {
            return if self == Self::default() { Ok(self) } else { Err(wrong("kind", "a verifier has a name only")) };
        }
        self.fill_in(kind);
        self.check_addresses(kind)?;
        self.check_words(kind)?;
        let ttl = self.access_ttl_s.unwrap_or(1);
        if ttl == 0 || ttl > longest_ttl_s.min(MAX_ACCESS_TTL_S) {
            let most = longest_ttl_s.min(MAX_ACCESS_TTL_S);
            return Err(wrong(
                "access_ttl_s",
                &format!("must be 1 to {most}; `client_access_ttl_max` raises that to {MAX_ACCESS_TTL_S}"),
            ));
        }
        Ok(self)
    }

    fn fill_in(&mut self, kind: ClientKind) {
        // Without an address it signs nobody in: a client that only asks about tokens.
        if self.grant_types.is_empty() && !self.redirect_uris.is_empty() {
            self.grant_types = vec![GrantType::AuthorizationCode, GrantType::RefreshToken];
        }
        if self.scopes.is_empty() {
            self.scopes = [OPENID, "profile", "email"].map(str::to_owned).into();
        }
        if kind == ClientKind::Public {
            self.token_endpoint_auth_method = AuthMethod::None;
        }
        for list in [&mut self.scopes, &mut self.resources] {
            list.sort();
            list.dedup();
        }
        self.grant_types.sort();
        self.grant_types.dedup();
    }

    fn check_addresses(&self, kind: ClientKind) -> Result<(), Refused> {
        let lists =
            [("redirect_uris", &self.redirect_uris), ("post_logout_redirect_uris", &self.post_logout_redirect_uris)];
        for (field, list) in lists {
            if list.len() > MAX_URIS {
                return Err(wrong(field, &format!("has at most {MAX_URIS} addresses")));
            }
            for uri in list {
                check_redirect(uri, kind).map_err(|why| wrong(field, &format!("{uri:?} {why}")))?;
            }
        }
        let single = [
            ("backchannel_logout_uri", &self.backchannel_logout_uri),
            ("frontchannel_logout_uri", &self.frontchannel_logout_uri),
            ("jwks_uri", &self.jwks_uri),
            ("sector_identifier_uri", &self.sector_identifier_uri),
            ("initiate_login_uri", &self.initiate_login_uri),
            ("client_uri", &self.client_uri),
            ("policy_uri", &self.policy_uri),
            ("tos_uri", &self.tos_uri),
        ];
        for (field, uri) in single {
            let Some(uri) = uri else { continue };
            check_web(uri).map_err(|why| wrong(field, &format!("{uri:?} {why}")))?;
        }
        let needs_one = self.has(GrantType::AuthorizationCode);
        if needs_one && self.redirect_uris.is_empty() {
            return Err(wrong("redirect_uris", "must have at least one address for the grant type authorization_code"));
        }
        for uri in &self.resources {
            check_resource(uri).map_err(|why| wrong("resources", &format!("{uri:?} {why}")))?;
        }
        Ok(())
    }

    fn check_words(&self, kind: ClientKind) -> Result<(), Refused> {
        if self.scopes.len() > MAX_SCOPES || self.resources.len() > MAX_SCOPES {
            return Err(wrong("scopes", &format!("there are at most {MAX_SCOPES} scopes and resources")));
        }
        if let Some(bad) = self.scopes.iter().find(|scope| !is_scope(scope)) {
            return Err(wrong(
                "scopes",
                &format!("{bad:?} is no scope (RFC 6749 §3.3: visible ASCII without \" and \\)"),
            ));
        }
        if let Some(first_party) = self.scopes.iter().find(|scope| matches!(scope.as_str(), "account" | "admin")) {
            return Err(wrong("scopes", &format!("{first_party:?} is the built-in client's")));
        }
        if self.contacts.len() > MAX_CONTACTS {
            return Err(wrong("contacts", &format!("there are at most {MAX_CONTACTS} contacts")));
        }
        for contact in &self.contacts {
            account::check_text("contacts", contact)?;
        }
        let by_key = self.token_endpoint_auth_method == AuthMethod::PrivateKeyJwt;
        match (kind, self.token_endpoint_auth_method) {
            (ClientKind::Confidential, AuthMethod::None) => {
                return Err(wrong(
                    "token_endpoint_auth_method",
                    "a confidential client proves who it is; register a public one",
                ));
            }
            (ClientKind::Confidential, _) if by_key && self.jwks.is_none() && self.jwks_uri.is_none() => {
                return Err(wrong("jwks", "private_key_jwt needs the client's keys, as `jwks` or at `jwks_uri`"));
            }
            _ => {}
        }
        if self.jwks_uri.is_some() && self.jwks.is_some() {
            return Err(wrong("jwks_uri", "either `jwks` or `jwks_uri`, not both (RFC 7591 §2)"));
        }
        keys(self.jwks.as_ref()).map_err(|why| wrong("jwks", &why))?;
        if kind == ClientKind::Public && self.has(GrantType::ClientCredentials) {
            return Err(wrong("grant_types", "client_credentials is for confidential clients (RFC 6749 §4.4)"));
        }
        if kind == ClientKind::Public && self.has(GrantType::TokenExchange) {
            return Err(wrong("grant_types", "token exchange is for confidential clients"));
        }
        let has_secret = kind == ClientKind::Confidential && !by_key;
        if self.global_token_revocation && !has_secret {
            return Err(wrong("global_token_revocation", "is for confidential clients with a secret"));
        }
        subject::check(self)?;
        if self.default_acr_values.len() > MAX_ACR_VALUES || !self.default_acr_values.iter().all(|one| is_scope(one)) {
            let detail = format!("must be at most {MAX_ACR_VALUES} names in visible ASCII without spaces");
            return Err(wrong("default_acr_values", &detail));
        }
        for (field, name) in [
            ("id_token_signed_response_alg", &self.id_token_signed_response_alg),
            ("userinfo_signed_response_alg", &self.userinfo_signed_response_alg),
        ] {
            if name.as_deref().is_some_and(|name| KeyPurpose::id_only(name).is_none()) {
                return Err(wrong(field, "must be ES256, RS256, Ed25519 or EdDSA"));
            }
        }
        Ok(())
    }
}

/// The keys of an algorithm by name, when those that sign with `usual` will not do.
fn other_keys(name: Option<&str>, usual: Algorithm) -> Option<KeyPurpose> {
    KeyPurpose::id_only(name.filter(|name| *name != usual.name())?)
}

/// A text as the value of a parameter in a query (RFC 3986 §2.1).
fn query_value(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The keys of a JWK Set (RFC 7517 §5): public ones, for signatures, and no others.
fn keys(jwks: Option<&serde_json::Value>) -> Result<Vec<PublicKey>, String> {
    let Some(jwks) = jwks else { return Ok(Vec::new()) };
    let list = jwks.get("keys").and_then(|keys| keys.as_array());
    let list = list.filter(|list| (1..=MAX_KEYS).contains(&list.len()));
    let list = list.ok_or_else(|| format!("must be a JWK Set of 1 to {MAX_KEYS} keys (RFC 7517 §5)"))?;
    list.iter().map(|key| PublicKey::from_json(key).map_err(|bad| format!("a key {}", bad.as_str()))).collect()
}

/// The members of a JWK Set that mean something here (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2): whatever else stands beside them is not
/// kept.
pub(crate) fn known_members(jwks: &serde_json::Value) -> serde_json::Value {
    const KNOWN: [&str; 9] = ["kty", "use", "key_ops", "alg", "kid", "crv", "x", "y", "n"];
    let of_key = |key: &serde_json::Value| match key {
        serde_json::Value::Object(members) => {
            let known =
                members.iter().filter(|(name, _)| KNOWN.contains(&name.as_str()) || *name == "e" || *name == "d");
            known.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into()
        }
        other => other.clone(),
    };
    match jwks.get("keys").and_then(|keys| keys.as_array()) {
        Some(keys) => serde_json::json!({ "keys": keys.iter().map(of_key).collect::<Vec<_>>() }),
        None => jwks.clone(),
    }
}

fn wrong(field: &'static str, detail: &str) -> Refused {
    Refused::InvalidValue { field, detail: detail.to_string() }
}

/// RFC 6749 §3.3 `scope-token`.
pub fn is_scope(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// An address taken apart, as far as it matters here: scheme, host, port, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<&'a str>,
    rest: &'a str,
}

/// Strictly: visible ASCII, no user part, no backslash, nothing that two parsers could read in two ways.
fn address(uri: &str) -> Result<Address<'_>, &'static str> {
    if uri.is_empty() || uri.len() > MAX_URI {
        return Err("must have 1 to 1024 characters");
    }
    if !uri.bytes().all(|b| b.is_ascii_graphic()) || uri.contains(['\\', '<', '>', '"', '`', '{', '}', '|', '^']) {
        return Err("must be ASCII, without spaces, quotes, brackets and backslashes");
    }
    if uri.contains('#') {
        return Err("must have no fragment (RFC 6749 §3.1.2)");
    }
    let (scheme, after) = uri.split_once(':').ok_or("must be absolute, with a scheme")?;
    let mut bytes = scheme.bytes();
    let named = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    if !named {
        return Err("must begin with a scheme in small letters");
    }
    let Some(after) = after.strip_prefix("//") else {
        return Ok(Address { scheme, host: "", port: None, rest: after });
    };
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (authority, rest) = after.split_at(end);
    if authority.contains('@') {
        return Err("must not name a user");
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|six| six.split_once(']')) {
        Some((_, "")) => (authority, None),
        Some((six, port)) => (&authority[..six.len() + 2], Some(port.strip_prefix(':').ok_or("has no such port")?)),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains('*') || host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("must name one host, in small letters");
    }
    // Digits alone: `parse` would take a sign, too.
    if port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err()) {
        return Err("has no such port");
    }
    Ok(Address { scheme, host, port, rest })
}

fn is_loopback(address: &Address<'_>) -> bool {
    address.scheme == "http" && matches!(address.host, "127.0.0.1" | "[::1]")
}

/// Where a browser may be sent: https; http on loopback; for native applications a scheme of their own, named by a domain that
/// they own (RFC 8252 §7.1).
fn check_redirect(uri: &str, kind: ClientKind) -> Result<(), &'static str> {
    let address = address(uri)?;
    match address.scheme {
        "https" if !address.host.is_empty() => Ok(()),
        "http" if is_loopback(&address) || address.host == "localhost" => Ok(()),
        "http" => Err("must be https, unless it is loopback"),
        "javascript" | "data" | "vbscript" | "file" | "blob" | "about" => Err("has a scheme that is never safe"),
        scheme if kind == ClientKind::Public && scheme.contains('.') => Ok(()),
        _ => {
            Err("must be https, http on loopback, or for a public client a scheme like com.example.app (RFC 8252 §7.1)")
        }
    }
}

/// An address on the web that the server or a browser loads: https, or http on loopback.
pub(crate) fn check_web(uri: &str) -> Result<(), &'static str> {
    let address = address(uri)?;
    let fits = match address.scheme {
        "https" => !address.host.is_empty(),
        _ => is_loopback(&address) || (address.scheme == "http" && address.host == "localhost"),
    };
    if fits { Ok(()) } else { Err("must be https, unless it is loopback") }
}

/// A resource indicator: an absolute URI without a fragment (RFC 8707 §2).
pub fn check_resource(uri: &str) -> Result<(), &'static str> {
    address(uri).map(|_| ())
}

/// The host of an address.
pub fn host_of(uri: &str) -> Option<&str> {
    address(uri).ok().map(|address| address.host).filter(|host| !host.is_empty())
}

/// The host that answers at an address of the web; `None` for what is on everybody's own device: loopback, and the schemes of native
/// applications.
pub(crate) fn web_host_of(uri: &str) -> Option<&str> {
    host_of(uri).filter(|_| uri.starts_with("https:"))
}

fn is_same_place(known: &str, given: &str) -> bool {
    if known == given {
        return true;
    }
    match (address(known), address(given)) {
        (Ok(known), Ok(given)) => {
            is_loopback(&known) && is_loopback(&given) && known.host == given.host && known.rest == given.rest
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(uris: &[&str]) -> Profile {
        Profile { redirect_uris: uris.iter().map(|uri| (*uri).to_owned()).collect(), ..Profile::default() }
    }

    #[test]
    fn redirects_are_exact_but_for_the_port_of_loopback() {
        let profile =
            with(&["https://a.example/cb", "http://127.0.0.1/cb", "http://[::1]:5/cb?x=1", "http://localhost:1/"]);
        for yes in ["https://a.example/cb", "http://127.0.0.1/cb", "http://127.0.0.1:49152/cb", "http://[::1]:9/cb?x=1"]
        {
            assert!(profile.may_redirect_to(yes), "{yes}");
        }
        for no in [
            "https://a.example/cb/",
            "https://a.example/cb?x",
            "https://a.example:443/cb",
            "https://A.example/cb",
            "https://a.example/cb#f",
            "https://a.example.evil.example/cb",
            "https://a.example@evil.example/cb",
            "http://127.0.0.1:80@evil.example/cb",
            "http://127.0.0.1:99999/cb",
            "http://127.0.0.1:+9/cb",
            "http://127.0.0.1:/cb",
            "http://127.0.0.1:1/cb/..",
            "http://localhost:2/",
            "http://[::1]/cb",
            "https://127.0.0.1/cb",
            "",
        ] {
            assert!(!profile.may_redirect_to(no), "{no}");
        }
    }

    #[test]
    fn a_registration_is_checked_and_filled_in() {
        let profile = with(&["https://a.example/cb"]).checked(ClientKind::Confidential, 300).unwrap();
        assert_eq!(profile.grant_types, [GrantType::AuthorizationCode, GrantType::RefreshToken]);
        assert_eq!(profile.scopes, ["email", "openid", "profile"]);
        assert_eq!(
            with(&["com.example.app:/cb"]).checked(ClientKind::Public, 300).unwrap().token_endpoint_auth_method,
            AuthMethod::None
        );
        let field = |profile: Profile, kind| match profile.checked(kind, 300) {
            Err(Refused::InvalidValue { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        for bad in [
            "http://a.example/cb",
            "https://a.example/#f",
            "javascript:alert(1)",
            "https://*.a.example/",
            "/cb",
            "https://u@a.example/",
            "https://a.example\\@b/",
            "https:///cb",
            "com.example.app:/cb",
            "https://a.example/ x",
        ] {
            assert_eq!(field(with(&[bad]), ClientKind::Confidential), "redirect_uris", "{bad}");
        }
        let codes = Profile { grant_types: vec![GrantType::AuthorizationCode], ..Profile::default() };
        assert_eq!(field(codes, ClientKind::Public), "redirect_uris");
        assert!(with(&[]).checked(ClientKind::Confidential, 300).unwrap().grant_types.is_empty(), "it introspects");
        let ok = || with(&["https://a.example/cb"]);
        assert_eq!(field(Profile { scopes: vec!["admin".into()], ..ok() }, ClientKind::Public), "scopes");
        assert_eq!(field(Profile { scopes: vec!["a b".into()], ..ok() }, ClientKind::Public), "scopes");
        assert_eq!(field(Profile { access_ttl_s: Some(301), ..ok() }, ClientKind::Public), "access_ttl_s");
        let machine = Profile { grant_types: vec![GrantType::ClientCredentials], ..Profile::default() };
        assert_eq!(field(machine.clone(), ClientKind::Public), "grant_types");
        assert!(machine.checked(ClientKind::Confidential, 300).is_ok());
        assert_eq!(field(ok(), ClientKind::Verifier), "kind");
    }

    #[test]
    fn where_a_sign_in_begins_is_told_who_sends() {
        let with = |uri: &str| Profile { initiate_login_uri: Some(uri.into()), ..Profile::default() };
        let begins = |profile: Profile| profile.begins_at("https://id.example/a b");
        assert_eq!(begins(Profile::default()), None);
        let plain = Some("https://a.example/in?iss=https%3A%2F%2Fid.example%2Fa%20b".to_owned());
        assert_eq!(begins(with("https://a.example/in")), plain);
        let query = Some("https://a.example/in?x=1&iss=https%3A%2F%2Fid.example%2Fa%20b".to_owned());
        assert_eq!(begins(with("https://a.example/in?x=1")), query);
        let own = Profile { registration: Some("x".into()), ..with("https://a.example/in") };
        assert_eq!(begins(own.clone()), None, "nobody knows who it is");
        assert_eq!(begins(Profile { vouched: true, ..own }), plain);
    }

    #[test]
    fn scopes_are_what_was_asked_and_is_allowed() {
        let profile = Profile { scopes: vec!["a".into(), "b".into(), "c".into()], ..Profile::default() };
        assert_eq!(profile.allowed_scope(Some("c x a c")), ["a", "c"]);
        assert_eq!(profile.allowed_scope(None), ["a", "b", "c"]);
        assert!(profile.allowed_scope(Some("x")).is_empty());
    }
}
