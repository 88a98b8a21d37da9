//! Public keys of others: of clients and of whoever holds a bound token (RFC 7517, RFC 7518 §6, RFC 8037 §2), strictly.
//!
//! A key that brings a private member is refused: whoever sends one has given it away. So is a key of another type or curve than
//! the three that are served, one that says of itself that it is for something else, and one of a size that is not safe.
use crate::jws::{Algorithm, Jwk};
use crate::{Digest, KeyId, b64};
use alloc::{format, string::String};
use serde::Deserialize;
use serde_json::Value;

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadKey {
    /// It is no JWK, or lacks what its type needs.
    Malformed,
    /// It has a private member, or is a secret.
    Private,
    /// It is of a type, curve or algorithm that is not served.
    Unsupported,
    /// It says that it is not for signatures (`use`, `key_ops`).
    Usage,
}

impl BadKey {
    /// In words, for the client's developers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "is no JWK, or lacks what its type needs",
            Self::Private => "has a private part: that must never leave its holder",
            Self::Unsupported => {
                "is of a type, curve, size or algorithm that is not served here (EC P-256, RSA, OKP Ed25519)"
            }
            Self::Usage => "says that it is not for signatures",
        }
    }
}

/// The members that only a private or a secret key has (RFC 7518 §6.2.2, §6.3.2, §6.4; RFC 8037 §2).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[derive(Deserialize)]
struct Raw {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<alloc::vec::Vec<String>>,
    kid: Option<String>,
}

/// A public key of somebody else's, bound to the one algorithm that its type allows here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The key by our own form; its number is no number of ours.
    key: Jwk,
    kid: Option<String>,
}

impl PublicKey {
    /// From a JWK.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn from_json(value: &Value) -> Result<Self, BadKey> {
        let members = value.as_object().ok_or(BadKey::Malformed)?;
        if PRIVATE.iter().any(|name| members.contains_key(*name)) {
            return Err(BadKey::Private);
        }
        let raw: Raw = serde_json::from_value(value.clone()).map_err(|_| BadKey::Malformed)?;
        let alg = match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("RSA", None) => Algorithm::Rs256,
            ("OKP", Some("Ed25519")) => Algorithm::Ed25519,
            _ => return Err(BadKey::Unsupported),
        };
        if raw.alg.is_some_and(|name| Algorithm::of_header(&name) != Some(alg)) {
            return Err(BadKey::Unsupported);
        }
        let verifies = |ops: alloc::vec::Vec<String>| ops.iter().any(|op| op == "verify");
        if raw.usage.is_some_and(|usage| usage != "sig") || raw.key_ops.is_some_and(|ops| !verifies(ops)) {
            return Err(BadKey::Usage);
        }
        let Raw { kty, crv, x, y, n, e, kid, .. } = raw;
        let key = Jwk { kid: KeyId(0), kty, alg, usage: "sig".into(), crv, x, y, n, e };
        let whole = match alg {
            Algorithm::Es256 => key.es256_point().is_some(),
            Algorithm::Rs256 => key.rs256_numbers().is_some(),
            Algorithm::Ed25519 => key.ed25519_public().is_some(),
        };
        if whole { Ok(Self { key, kid }) } else { Err(BadKey::Malformed) }
    }

    /// The one algorithm that it may be used with.
    pub fn algorithm(&self) -> Algorithm {
        self.key.alg
    }

    /// What its holder calls it.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The key by our own form, for the library that verifies.
    pub fn as_jwk(&self) -> &Jwk {
        &self.key
    }

    /// Its thumbprint by SHA-256 (RFC 7638 §3, RFC 8037 appendix A.3): the required members alone, in the order of their names. They were
    /// parsed, and base64url has one spelling of each value, so two texts of one key have one thumbprint.
    pub fn thumbprint(&self) -> Digest {
        let text = |member: &Option<String>| member.clone().unwrap_or_default();
        let (x, y, n, e) = (text(&self.key.x), text(&self.key.y), text(&self.key.n), text(&self.key.e));
        let canonical = match self.key.alg {
            Algorithm::Es256 => format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#),
            Algorithm::Rs256 => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Algorithm::Ed25519 => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#),
        };
        Digest::of(canonical.as_bytes())
    }

    /// The thumbprint as it stands in `jkt` (RFC 9449 §6.1).
    pub fn jkt(&self) -> String {
        b64::encode(&self.thumbprint().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// RFC 7638 §3.1.
    #[test]
    fn the_thumbprint_of_the_rfc() {
        let key = json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
            "alg": "RS256",
            "kid": "2011-04-29"
        });
        let key = PublicKey::from_json(&key).unwrap();
        assert_eq!(key.jkt(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(key.kid(), Some("2011-04-29"));
        // RFC 8037 appendix A.3
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        assert_eq!(PublicKey::from_json(&key).unwrap().jkt(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn what_is_no_public_key_for_signatures_is_refused() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "x": x });
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            PublicKey::from_json(&key).map(|key| key.algorithm())
        };
        assert_eq!(with("alg", json!("EdDSA")), Ok(Algorithm::Ed25519));
        assert_eq!(with("key_ops", json!(["verify"])), Ok(Algorithm::Ed25519));
        for (name, value, why) in [
            ("d", json!(x), BadKey::Private),
            ("k", json!("AAAA"), BadKey::Private),
            ("kty", json!("oct"), BadKey::Unsupported),
            ("kty", json!("EC"), BadKey::Unsupported),
            ("crv", json!("Ed448"), BadKey::Unsupported),
            ("alg", json!("HS256"), BadKey::Unsupported),
            ("alg", json!("ES256"), BadKey::Unsupported),
            ("use", json!("enc"), BadKey::Usage),
            ("key_ops", json!(["sign"]), BadKey::Usage),
            ("x", json!("AAAA"), BadKey::Malformed),
            ("x", json!(1), BadKey::Malformed),
            ("y", json!(x), BadKey::Malformed),
            ("n", json!(x), BadKey::Malformed),
        ] {
            assert_eq!(with(name, value.clone()), Err(why), "{name}: {value}");
        }
        assert_eq!(PublicKey::from_json(&json!("key")), Err(BadKey::Malformed));
        let small = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" });
        assert_eq!(PublicKey::from_json(&small), Err(BadKey::Malformed));
    }
}
