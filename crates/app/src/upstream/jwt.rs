//! Tokens that another provider signed: ID tokens (OpenID Connect Core §3.1.3.7) and logout tokens (Back-Channel Logout §2.6).
//!
//! The algorithm is one of a short list, and is the key's own (RFC 8725 §3.1): `none`, HMAC, and keys from a token's header are
//! refused before anything is computed. An ID token is never taken for a logout token, or the reverse: `typ`, `nonce` and
//! `events` tell them apart.
use portcullis_domain::amr::Amr;
use portcullis_domain::logout;
use portcullis_domain::upstream::MAX_SUBJECT;
use portcullis_verify::Keys;
use portcullis_wire::jws::{Algorithm, Jwk, MAX_TOKEN_BYTES};
use portcullis_wire::{Digest, KeyId, b64, json};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How far clocks may be apart, in seconds.
const SKEW_S: i64 = 60;
/// An older ID token was not made for this sign-in, in seconds.
const MAX_AGE_S: i64 = 600;
/// The most keys of a provider that are looked at.
const MAX_KEYS: usize = 64;

/// The public keys of a provider.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Keys,
    /// `kid`, when there is one, and the algorithm, of each key, which is known by its place here.
    names: Vec<(Option<String>, Algorithm)>,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

impl KeySet {
    /// From a JWK Set (RFC 7517 §5). Keys of other kinds and for other uses are left out; `None` when it is no set.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let set: RawSet = serde_json::from_slice(bytes).ok()?;
        let (mut jwks, mut names) = (vec![], vec![]);
        for raw in set.keys.iter().take(MAX_KEYS) {
            let text = |name: &str| raw.get(name).and_then(Value::as_str).map(str::to_owned);
            let alg = match (text("kty").as_deref(), text("crv").as_deref()) {
                (Some("RSA"), None) => Algorithm::Rs256,
                (Some("EC"), Some("P-256")) => Algorithm::Es256,
                (Some("OKP"), Some("Ed25519")) => Algorithm::Ed25519,
                _ => continue,
            };
            let declared = text("alg").is_none_or(|name| algorithm(&name) == Some(alg));
            if !declared || text("use").is_some_and(|usage| usage != "sig") {
                continue;
            }
            let Ok(place) = u32::try_from(names.len()) else { break };
            let (kty, crv, x, y) = (text("kty").unwrap_or_default(), text("crv"), text("x"), text("y"));
            let (n, e) = (text("n"), text("e"));
            jwks.push(Jwk { kid: KeyId(place), kty, alg, usage: "sig".into(), crv, x, y, n, e });
            names.push((text("kid"), alg));
        }
        Some(Self { keys: Keys::parse(&jwks), names })
    }

    /// The keys that a header means: those of its `kid`, or all of its algorithm when it names none.
    fn meant(&self, header: &Header, alg: Algorithm) -> Vec<KeyId> {
        let fits =
            |(kid, own): &(Option<String>, Algorithm)| *own == alg && (header.kid.is_none() || header.kid == *kid);
        let places = self.names.iter().enumerate().filter(|(_, name)| fits(name));
        places
            .filter_map(|(place, _)| u32::try_from(place).ok().map(KeyId))
            .filter(|id| self.keys.contains(*id))
            .collect()
    }
}

/// The algorithm of this name; Ed25519 by its old name too (RFC 9864 §2.2).
fn algorithm(name: &str) -> Option<Algorithm> {
    if name == "EdDSA" { Some(Algorithm::Ed25519) } else { Algorithm::parse(name) }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Its key is not among those that are known: they may have changed.
    Key,
    /// This.
    Else(&'static str),
}

/// The claims of a token that one of these keys signed. `typs`: which types it may be of, lower case; "" is none at all.
fn signed<T: for<'de> Deserialize<'de>>(token: &str, keys: &KeySet, typs: &[&str]) -> Result<T, Wrong> {
    let wrong = |why| Err(Wrong::Else(why));
    if token.len() > MAX_TOKEN_BYTES {
        return wrong("it is too long");
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return wrong("it is no compact JWS");
    };
    let input = &token[..header.len() + 1 + payload.len()];
    let (Some(header), Some(payload), Some(signature)) =
        (b64::decode(header), b64::decode(payload), b64::decode(signature))
    else {
        return wrong("it is not base64url");
    };
    let Ok(header) = json::from_slice::<Header>(&header) else { return wrong("its header does not read") };
    if header.crit.is_some() {
        return wrong("it has extensions that must be understood");
    }
    let typ = header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
    if !typs.contains(&typ.strip_prefix("application/").unwrap_or(&typ)) {
        return wrong("it is of another type");
    }
    let Some(alg) = algorithm(&header.alg) else { return wrong("its algorithm is not taken") };
    let meant = keys.meant(&header, alg);
    if meant.is_empty() {
        return Err(Wrong::Key);
    }
    if !meant.iter().any(|id| keys.keys.verifies(*id, alg, input.as_bytes(), &signature) == Some(true)) {
        // Without a `kid` it may be of a key that is not known yet.
        return if header.kid.is_none() { Err(Wrong::Key) } else { wrong("its signature is not right") };
    }
    json::from_slice(&payload).map_err(|_| Wrong::Else("its claims do not read"))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Some(Vec<String>),
}

impl Audience {
    /// Whether it is for this client (§3.1.3.7 points 3 to 5).
    fn is(&self, client: &str, azp: Option<&str>) -> bool {
        let (named, alone) = match self {
            Self::One(one) => (one == client, true),
            Self::Some(all) => (all.iter().any(|one| one == client), all.len() == 1),
        };
        named && azp.is_none_or(|azp| azp == client) && (alone || azp.is_some())
    }
}

/// What is expected of an ID token.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client: &'a str,
    pub(super) nonce: &'a str,
    /// Seconds.
    pub(super) now: i64,
    /// Since when its user must have proved who they are, in seconds, if at all.
    pub(super) fresh_since: Option<i64>,
}

/// What an ID token says.
#[derive(Deserialize)]
pub(super) struct IdToken {
    iss: String,
    aud: Audience,
    azp: Option<String>,
    pub(super) sub: String,
    exp: i64,
    iat: i64,
    nonce: Option<String>,
    pub(super) auth_time: Option<i64>,
    amr: Option<Value>,
    pub(super) sid: Option<String>,
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) email_verified: Option<Value>,
    events: Option<serde::de::IgnoredAny>,
}

impl IdToken {
    /// By which methods its user proved who they are. What is no list of names (OpenID Connect Core §2) says nothing.
    pub(super) fn amr(&self) -> Amr {
        let names =
            self.amr.as_ref().and_then(Value::as_array).and_then(|list| {
                list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
            });
        names.map_or_else(Amr::unknown, |names| Amr::elsewhere(&names))
    }
}

/// Whether an address is verified: some providers say that as a text.
pub(super) fn is_true(value: Option<&Value>) -> bool {
    matches!(value, Some(Value::Bool(true))) || value.and_then(Value::as_str) == Some("true")
}

/// Verifies an ID token.
pub(super) fn id_token(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<IdToken, Wrong> {
    let claims: IdToken = signed(token, keys, &["", "jwt"])?;
    let Expected { issuer, client, nonce, now, fresh_since } = *expected;
    let nonce_fits = claims.nonce.as_ref().is_some_and(|n| Digest::of(n.as_bytes()) == Digest::of(nonce.as_bytes()));
    let recent = (now - MAX_AGE_S..=now + SKEW_S).contains(&claims.iat);
    let is_fresh = fresh_since.is_none_or(|since| claims.auth_time.is_some_and(|at| at >= since - SKEW_S));
    let checks = [
        (claims.iss == issuer, "it is of another issuer"),
        (claims.aud.is(client, claims.azp.as_deref()), "it is for another client"),
        (claims.exp > now - SKEW_S, "it has expired"),
        (recent, "it was not made just now"),
        (nonce_fits, "its nonce is not this sign-in's"),
        (claims.events.is_none(), "it is a logout token"),
        (!claims.sub.is_empty() && claims.sub.len() <= MAX_SUBJECT, "its subject is none"),
        (is_fresh, "its user did not prove anew who they are"),
    ];
    match checks.iter().find(|(held, _)| !held) {
        Some((_, why)) => Err(Wrong::Else(why)),
        None => Ok(claims),
    }
}

/// What a logout token says.
#[derive(Deserialize)]
pub(super) struct LogoutToken {
    iss: String,
    aud: Audience,
    iat: i64,
    pub(super) exp: Option<i64>,
    pub(super) jti: String,
    events: BTreeMap<String, Value>,
    pub(super) sub: Option<String>,
    pub(super) sid: Option<String>,
    nonce: Option<serde::de::IgnoredAny>,
}

/// For how long a logout token counts after it was made, in seconds, whatever it says itself.
pub(super) const LOGOUT_LIFE_S: i64 = 600;

/// Verifies a logout token. Its `jti` is the caller's to see once.
pub(super) fn logout_token(
    token: &str,
    keys: &KeySet,
    issuer: &str,
    client: &str,
    now: i64,
) -> Result<LogoutToken, Wrong> {
    // Some providers leave `typ` out, or say JWT: `events` and the missing nonce tell what it is (§2.6, §4).
    let claims: LogoutToken = signed(token, keys, &[logout::TYP, "", "jwt"])?;
    let bounded = |text: &Option<String>| text.as_ref().is_none_or(|t| !t.is_empty() && t.len() <= MAX_SUBJECT);
    let checks = [
        (claims.iss == issuer, "it is of another issuer"),
        (
            claims.aud.is(client, None)
                || matches!(&claims.aud, Audience::Some(all) if all.iter().any(|a| a == client)),
            "it is for another client",
        ),
        ((now - LOGOUT_LIFE_S..=now + SKEW_S).contains(&claims.iat), "it was not made just now"),
        (claims.exp.is_none_or(|exp| exp > now - SKEW_S), "it has expired"),
        (claims.nonce.is_none(), "it has a nonce: it is an ID token"),
        (claims.events.get(logout::EVENT).is_some_and(Value::is_object), "it is about no logout"),
        (claims.sub.is_some() || claims.sid.is_some(), "it names neither subject nor session"),
        (bounded(&claims.sub) && bounded(&claims.sid), "what it names is too long"),
        (!claims.jti.is_empty() && claims.jti.len() <= MAX_SUBJECT, "it has no id"),
    ];
    match checks.iter().find(|(held, _)| !held) {
        Some((_, why)) => Err(Wrong::Else(why)),
        None => Ok(claims),
    }
}
