//! Compact JWS (RFC 7515 §7.1) as far as access tokens need it, strictly: three base64url parts, an algorithm from a short
//! list, a `kid` of ours, the right `typ`. Headers that bring their own key or extensions are refused (RFC 8725 §3.1, §3.10).
//!
//! No signature is checked here: [`Compact::signing_input`] and [`Compact::signature`] go to a cryptographic library.
use crate::header::{BadHeader, Header};
use crate::{KeyId, b64, json};
use alloc::{format, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8192;

/// `typ` of access tokens (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYP: &str = "at+jwt";

/// Signature algorithms. The list is closed: no `none`, no HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256 (RFC 7518 §3.4).
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
    #[serde(rename = "RS256")]
    Rs256,
    /// Ed25519 (RFC 9864 §2.2).
    #[serde(rename = "Ed25519", alias = "EdDSA")]
    Ed25519,
}

impl Algorithm {
    /// The name in a header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Ed25519 => "Ed25519",
        }
    }
    /// From the name in a header: Ed25519 by its old name too (RFC 9864 §2.2).
    pub fn of_header(name: &str) -> Option<Self> {
        if name == "EdDSA" { Some(Self::Ed25519) } else { Self::parse(name) }
    }
    /// From the name in a setting.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Es256, Self::Rs256, Self::Ed25519].into_iter().find(|alg| alg.name() == name)
    }
}

/// A public key as a JWK (RFC 7517), with what this system requires of one: an id, an algorithm, a use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// Key id.
    pub kid: KeyId,
    /// `EC`, `RSA` or `OKP`.
    pub kty: String,
    /// The one algorithm it may be used with.
    pub alg: Algorithm,
    /// `sig`.
    #[serde(rename = "use")]
    pub usage: String,
    /// Curve (`P-256`, `Ed25519`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// First coordinate, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// Second coordinate, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// RSA modulus, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA exponent, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
}

impl Jwk {
    /// A P-256 key for ES256 from its uncompressed point (0x04, x, y: 65 bytes); `None` for anything else.
    pub fn es256(kid: KeyId, point: &[u8]) -> Option<Self> {
        let (form, rest) = point.split_first()?;
        if *form != 4 || rest.len() != 64 {
            return None;
        }
        Some(Self {
            kty: "EC".into(),
            crv: Some("P-256".into()),
            x: Some(b64::encode(&rest[..32])),
            y: Some(b64::encode(&rest[32..])),
            ..Self::bare(kid, Algorithm::Es256)
        })
    }

    /// An RSA key for RS256 from modulus and exponent, big-endian and without zeros in front (RFC 7518 §6.3.1); `None` when
    /// the modulus is not one of [`RSA_BITS`].
    pub fn rs256(kid: KeyId, modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let key = Self {
            kty: "RSA".into(),
            n: Some(b64::encode(modulus)),
            e: Some(b64::encode(exponent)),
            ..Self::bare(kid, Algorithm::Rs256)
        };
        key.rs256_numbers().is_some().then_some(key)
    }

    /// An Ed25519 key from its 32 bytes (RFC 8037 §2); `None` for another length.
    pub fn ed25519(kid: KeyId, public: &[u8]) -> Option<Self> {
        (public.len() == 32).then(|| Self {
            kty: "OKP".into(),
            crv: Some("Ed25519".into()),
            x: Some(b64::encode(public)),
            ..Self::bare(kid, Algorithm::Ed25519)
        })
    }

    fn bare(kid: KeyId, alg: Algorithm) -> Self {
        Self { kid, kty: String::new(), alg, usage: "sig".into(), crv: None, x: None, y: None, n: None, e: None }
    }

    /// Whether type and algorithm are these, and no member of another kind of key is there.
    fn is(&self, kty: &str, crv: Option<&str>, alg: Algorithm) -> bool {
        let fits = match alg {
            Algorithm::Es256 => self.n.is_none() && self.e.is_none(),
            Algorithm::Rs256 => self.x.is_none() && self.y.is_none(),
            Algorithm::Ed25519 => self.n.is_none() && self.e.is_none() && self.y.is_none(),
        };
        fits && self.kty == kty && self.crv.as_deref() == crv && self.alg == alg
    }

    /// The uncompressed point of a P-256 key for ES256; `None` when this is no such key.
    pub fn es256_point(&self) -> Option<[u8; 65]> {
        if !self.is("EC", Some("P-256"), Algorithm::Es256) {
            return None;
        }
        let x: [u8; 32] = b64::decode_array(self.x.as_deref()?)?;
        let y: [u8; 32] = b64::decode_array(self.y.as_deref()?)?;
        let mut point = [4u8; 65];
        point[1..33].copy_from_slice(&x);
        point[33..].copy_from_slice(&y);
        Some(point)
    }

    /// Modulus and exponent of an RSA key for RS256 (RFC 7518 §6.3.1); `None` when this is no such key, or one that is too
    /// small (RFC 7518 §3.3), too large to be worth the work, or with an exponent that is even or 1.
    pub fn rs256_numbers(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        if !self.is("RSA", None, Algorithm::Rs256) {
            return None;
        }
        let number = |text: Option<&str>| b64::decode(text?).filter(|bytes| bytes.first().is_some_and(|b| *b != 0));
        let (n, e) = (number(self.n.as_deref())?, number(self.e.as_deref())?);
        let bits = n.len() * 8 - usize::try_from(n[0].leading_zeros()).ok()?;
        let odd = |bytes: &[u8]| bytes.last().is_some_and(|b| b % 2 == 1);
        (RSA_BITS.contains(&bits) && e.len() <= 4 && odd(&n) && odd(&e) && e != [1]).then_some((n, e))
    }

    /// The 32 bytes of an Ed25519 key (RFC 8037 §2); `None` when this is no such key.
    pub fn ed25519_public(&self) -> Option<[u8; 32]> {
        if !self.is("OKP", Some("Ed25519"), Algorithm::Ed25519) {
            return None;
        }
        b64::decode_array(self.x.as_deref()?)
    }
}

/// How many bits the modulus of an RSA key may have (RFC 7518 §3.3: at least 2048).
pub const RSA_BITS: core::ops::RangeInclusive<usize> = 2048..=8192;

/// What is wrong with a token before any signature is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Longer than [`MAX_TOKEN_BYTES`].
    TooLong,
    /// Not three base64url parts without padding.
    NotCompact,
    /// The header is not a JSON object of the expected members, or has one twice.
    Header,
    /// The algorithm is not on the list.
    Algorithm,
    /// The header brings a key, or extensions that must be understood (`crit`).
    ForeignHeader,
    /// `typ` is not the expected one.
    Typ,
    /// `kid` is missing or not one of ours.
    Kid,
    /// The claims are not JSON, of a wrong type, missing, or given twice.
    Claims,
}

/// A token taken apart.
#[derive(Debug)]
pub struct Compact<'a> {
    /// The algorithm that the header names; valid only when the key is bound to the same.
    pub alg: Algorithm,
    /// The key that the header names.
    pub kid: KeyId,
    /// `header.payload`, as signed.
    pub signing_input: &'a str,
    /// The decoded payload.
    pub payload: Vec<u8>,
    /// The decoded signature.
    pub signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Takes a compact JWS apart and checks its header. `typ` is compared without case and without `application/`
    /// (RFC 9068 §4, RFC 7515 §4.1.9).
    pub fn parse(token: &'a str, typ: &str) -> Result<Self, Malformed> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Malformed::TooLong);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Malformed::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Malformed::NotCompact)?;
        if payload.contains('.') {
            return Err(Malformed::NotCompact);
        }
        let part = |text: &str| b64::decode(text).ok_or(Malformed::NotCompact);
        let (header, payload, signature) = (part(header)?, part(payload)?, part(signature)?);
        let header = Header::read(&header).map_err(|bad| match bad {
            BadHeader::Unreadable => Malformed::Header,
            BadHeader::Foreign => Malformed::ForeignHeader,
        })?;
        let alg = Algorithm::of_header(&header.alg).ok_or(Malformed::Algorithm)?;
        let given = header.typ.as_deref().unwrap_or("");
        let given = match given.get(..12) {
            Some(prefix) if prefix.eq_ignore_ascii_case("application/") => &given[12..],
            _ => given,
        };
        if !given.eq_ignore_ascii_case(typ) {
            return Err(Malformed::Typ);
        }
        let kid = header.kid.and_then(|kid| kid.parse().ok()).ok_or(Malformed::Kid)?;
        Ok(Self { alg, kid, signing_input, payload, signature })
    }

    /// The payload as claims of type `T`; no member may be given twice.
    pub fn claims<T: serde::de::DeserializeOwned>(&self) -> Result<T, Malformed> {
        json::from_slice(&self.payload).map_err(|_| Malformed::Claims)
    }
}

/// `header.payload`, ready to be signed.
pub fn signing_input(
    alg: Algorithm,
    kid: KeyId,
    typ: &str,
    claims: &impl Serialize,
) -> Result<String, serde_json::Error> {
    signing_input_as(alg.name(), kid, typ, claims)
}

/// The same, with the algorithm by a name of the caller's: Ed25519 has two (RFC 9864 §2.2).
pub fn signing_input_as(
    alg: &str,
    kid: KeyId,
    typ: &str,
    claims: &impl Serialize,
) -> Result<String, serde_json::Error> {
    /// Room for the usual token with its signature: nothing is moved while it is made.
    const USUAL: usize = 1024;
    let header = format!(r#"{{"typ":"{typ}","alg":"{alg}","kid":"{kid}"}}"#);
    let payload = serde_json::to_vec(claims)?;
    let mut out = String::with_capacity(USUAL);
    b64::append(header.as_bytes(), &mut out);
    out.push('.');
    b64::append(&payload, &mut out);
    Ok(out)
}

/// The compact token from what was signed and its signature.
pub fn assemble(mut signing_input: String, signature: &[u8]) -> String {
    signing_input.push('.');
    b64::append(signature, &mut signing_input);
    signing_input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.AAAA", b64::encode(header.as_bytes()), b64::encode(payload.as_bytes()))
    }

    #[test]
    fn headers() {
        let ok = |h: &str| Compact::parse(&token(h, "{}"), "at+jwt").map(|c| (c.alg, c.kid));
        assert_eq!(ok(r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt"}"#), Ok((Algorithm::Es256, KeyId(1))));
        assert_eq!(ok(r#"{"alg":"ES256","kid":"key_1","typ":"application/AT+JWT"}"#), Ok((Algorithm::Es256, KeyId(1))));
        for (header, why) in [
            (r#"{"alg":"none","kid":"key_1","typ":"at+jwt"}"#, Malformed::Algorithm),
            (r#"{"alg":"HS256","kid":"key_1","typ":"at+jwt"}"#, Malformed::Algorithm),
            (r#"{"alg":"es256","kid":"key_1","typ":"at+jwt"}"#, Malformed::Algorithm),
            (r#"{"alg":"ES256","kid":"key_1","typ":"JWT"}"#, Malformed::Typ),
            (r#"{"alg":"ES256","kid":"key_1"}"#, Malformed::Typ),
            (r#"{"alg":"ES256","typ":"at+jwt"}"#, Malformed::Kid),
            (r#"{"alg":"ES256","kid":"../../x","typ":"at+jwt"}"#, Malformed::Kid),
            (r#"{"alg":"ES256","kid":"key_1","kid":"key_2","typ":"at+jwt"}"#, Malformed::Header),
            (r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt","jwk":{}}"#, Malformed::ForeignHeader),
            (r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt","crit":["x"]}"#, Malformed::ForeignHeader),
            (r#"["alg"]"#, Malformed::Header),
            (r#"{"alg":1}"#, Malformed::Header),
        ] {
            assert_eq!(ok(header), Err(why), "{header}");
        }
    }

    #[test]
    fn shapes() {
        let long = "a".repeat(MAX_TOKEN_BYTES + 1);
        for wrong in ["", ".", "..", "a.b", "a.b.c.d", "é.é.é", "YQ==.YQ==.YQ==", "YR.YQ.YQ", &long] {
            assert!(Compact::parse(wrong, "at+jwt").is_err());
        }
        // one bit of the unused trailing bits set: another spelling of the same signature is refused
        let good = token(r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt"}"#, "{}");
        assert!(Compact::parse(&good.replace(".AAAA", ".AAA"), "at+jwt").is_ok());
        assert!(Compact::parse(&good.replace(".AAAA", ".AAB"), "at+jwt").is_err());
    }
}
