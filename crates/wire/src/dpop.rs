//! DPoP proofs (RFC 9449 §4): their strict form, and what of one can be compared without a cryptographic library.
//!
//! [`Proof::parse`] reads; its signature is checked by `verify`, with the key that it brings itself, which is what a proof is: nothing but the
//! thumbprint of that key says whose it is. [`Proof::fits`] compares it with the request that it came with.
use crate::header::Header;
use crate::jwk::{BadKey, PublicKey};
use crate::jws::Algorithm;
use crate::{Digest, Time, b64, json};
use alloc::{string::String, vec::Vec};
use serde::Deserialize;

/// The longest proof that is looked at, in bytes: an RSA key of 8192 bits fits.
pub const MAX_PROOF_BYTES: usize = 6144;
/// The longest `jti`, in bytes.
pub const MAX_JTI: usize = 256;
/// `typ` of proofs (RFC 9449 §4.2).
pub const TYP: &str = "dpop+jwt";
/// How old a proof may be, in milliseconds (RFC 9449 §11.1: seconds or minutes).
pub const MAX_AGE: i64 = 60_000;
/// How far ahead its maker's clock may be, in milliseconds.
pub const MAX_AHEAD: i64 = 30_000;
/// For how long its `jti` is remembered, in milliseconds: while it would be young enough.
pub const REMEMBERED: i64 = MAX_AGE + MAX_AHEAD + 1000;
/// The algorithms, as metadata and challenges name them. Ed25519 also by its old name (RFC 9864 §2.2).
pub const ALGORITHMS: [&str; 4] = ["ES256", "RS256", "Ed25519", "EdDSA"];

/// What is wrong with a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadProof {
    /// There is none, or more than one.
    NotOne,
    /// It is no compact JWS of the right members, or is too long.
    Malformed,
    /// Its `typ` is not `dpop+jwt`.
    Typ,
    /// Its algorithm is not on the list, or not that of its key.
    Algorithm,
    /// Its key cannot be used.
    Key(BadKey),
    /// The signature is not of its key.
    Signature,
    /// It is for another method.
    Method,
    /// It is for another address.
    Address,
    /// It was made too long ago, or is from the future.
    Age,
    /// It is for another access token, or for none.
    Token,
    /// It has no nonce of ours that still counts.
    Nonce,
    /// It was shown before.
    Replayed,
}

impl BadProof {
    /// In words, for the client's developers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotOne => "send exactly one DPoP header",
            Self::Malformed => "the DPoP proof cannot be read (RFC 9449 §4.2)",
            Self::Typ => "the DPoP proof's typ must be dpop+jwt",
            Self::Algorithm => "the DPoP proof's alg must be ES256, RS256 or Ed25519, as its key",
            Self::Key(bad) => match bad {
                BadKey::Private => "the DPoP proof's jwk has a private part: that must never leave its holder",
                _ => "the DPoP proof's jwk must be a public key: EC P-256, RSA or OKP Ed25519",
            },
            Self::Signature => "the DPoP proof is not signed by its key",
            Self::Method => "the DPoP proof's htm is not this request's method",
            Self::Address => "the DPoP proof's htu is not this address",
            Self::Age => "the DPoP proof's iat is too far from now",
            Self::Token => "the DPoP proof's ath is not of this access token",
            Self::Nonce => "the DPoP proof needs the nonce of the DPoP-Nonce header",
            Self::Replayed => "the DPoP proof was shown before",
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: serde_json::Number,
    ath: Option<String>,
    nonce: Option<String>,
}

/// A proof as it was read. Nothing about it is proven.
#[derive(Debug)]
pub struct Proof<'a> {
    /// The key that it brings.
    pub key: PublicKey,
    /// `header.payload`, as signed.
    pub signing_input: &'a str,
    /// The decoded signature.
    pub signature: Vec<u8>,
    /// Its id, of the key's holder.
    pub jti: String,
    /// The nonce that it was given, if any.
    pub nonce: Option<String>,
    htm: String,
    htu: String,
    iat: Time,
    ath: Option<String>,
}

/// The request that a proof came with.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The method.
    pub method: &'a str,
    /// The address as the client sees it, by [`address`].
    pub address: &'a str,
    /// The access token that came with it.
    pub token: Option<&'a str>,
}

impl<'a> Proof<'a> {
    /// Reads a proof (RFC 9449 §4.2, §4.3 checks 2 to 6).
    ///
    /// # Errors
    /// [`BadProof`].
    pub fn parse(text: &'a str) -> Result<Self, BadProof> {
        if text.len() > MAX_PROOF_BYTES {
            return Err(BadProof::Malformed);
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(BadProof::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(BadProof::Malformed)?;
        let part = |text: &str| b64::decode(text).ok_or(BadProof::Malformed);
        let (header, payload, signature) = (part(header)?, part(payload)?, part(signature)?);
        let (header, key) = Header::read_with_key(&header).map_err(|_| BadProof::Malformed)?;
        if !header.typ.ok_or(BadProof::Malformed)?.eq_ignore_ascii_case(TYP) {
            return Err(BadProof::Typ);
        }
        let alg = Algorithm::of_header(&header.alg).ok_or(BadProof::Algorithm)?;
        let key = PublicKey::from_json(&key).map_err(BadProof::Key)?;
        if key.algorithm() != alg {
            return Err(BadProof::Algorithm);
        }
        let Claims { jti, htm, htu, iat, ath, nonce } = json::from_slice(&payload).map_err(|_| BadProof::Malformed)?;
        if jti.is_empty() || jti.len() > MAX_JTI {
            return Err(BadProof::Malformed);
        }
        let iat = seconds(&iat).ok_or(BadProof::Malformed)?;
        Ok(Self { key, signing_input, signature, jti, nonce, htm, htu, iat, ath })
    }

    /// Whether it is for this request (RFC 9449 §4.3 checks 8, 9, 12). Of its age nothing is said.
    ///
    /// # Errors
    /// [`BadProof`].
    pub fn fits(&self, call: &Call<'_>) -> Result<(), BadProof> {
        if self.htm != call.method {
            return Err(BadProof::Method);
        }
        if address(&self.htu).as_deref() != Some(call.address) {
            return Err(BadProof::Address);
        }
        match (call.token, &self.ath) {
            (None, _) => Ok(()),
            (Some(token), Some(ath)) if b64::decode_array(ath).map(Digest) == Some(Digest::of(token.as_bytes())) => {
                Ok(())
            }
            (Some(_), _) => Err(BadProof::Token),
        }
    }

    /// Whether it is young enough at `now` (RFC 9449 §4.3 check 11).
    ///
    /// # Errors
    /// [`BadProof::Age`].
    pub fn is_young(&self, now: Time) -> Result<(), BadProof> {
        if (-MAX_AHEAD..=MAX_AGE).contains(&now.since(self.iat)) { Ok(()) } else { Err(BadProof::Age) }
    }

    /// What must not come twice: the holder's key with the id. Nobody else can use up somebody's ids.
    pub fn once(&self) -> Digest {
        let mut bytes = self.key.thumbprint().0.to_vec();
        bytes.extend_from_slice(self.jti.as_bytes());
        Digest::of(&bytes)
    }
}

/// Whole seconds; a fraction is cut off (RFC 7519 §2 NumericDate).
fn seconds(number: &serde_json::Number) -> Option<Time> {
    const MOST: i64 = 1 << 42;
    let seconds = match number.as_i64() {
        Some(seconds) => seconds,
        None => {
            let text = alloc::string::ToString::to_string(number);
            let (whole, fraction) = text.split_once('.')?;
            fraction.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
            whole.parse().ok()?
        }
    };
    (0..MOST).contains(&seconds).then(|| Time::from_secs(seconds))
}

/// An address without query and fragment, in the one spelling that is compared (RFC 9449 §4.3, RFC 3986 §6.2.2, §6.2.3): scheme and host in small
/// letters, no default port, `/` for an empty path, and escapes only where they must be. Dot segments are left as they are, so they match only
/// themselves. `None` for anything but http and https, with a host and no user.
pub fn address(uri: &str) -> Option<String> {
    if uri.len() > 2048 || !uri.bytes().all(|b| b.is_ascii_graphic()) || uri.contains('\\') {
        return None;
    }
    let (scheme, rest) = uri.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => "443",
        "http" => "80",
        _ => return None,
    };
    let rest = rest.split(['?', '#']).next()?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = authority.to_ascii_lowercase();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && (port == default_port || port.is_empty()) => host,
        _ => authority.as_str(),
    };
    if host.is_empty() || host.contains('@') {
        return None;
    }
    let mut out = alloc::format!("{scheme}://{host}");
    escapes(if path.is_empty() { "/" } else { path }, &mut out)?;
    Some(out)
}

/// Percent-encoded octets in capitals, and none for what needs none (RFC 3986 §6.2.2.1, §6.2.2.2).
fn escapes(path: &str, out: &mut String) -> Option<()> {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(char::from(byte));
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let value = digit(bytes.next())? << 4 | digit(bytes.next())?;
        if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
            out.push(char::from(value));
        } else {
            out.push_str(&alloc::format!("%{value:02X}"));
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn text(header: &str, claims: &str) -> String {
        format!("{}.{}.AAAA", b64::encode(header.as_bytes()), b64::encode(claims.as_bytes()))
    }

    const JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const CLAIMS: &str = r#"{"jti":"a","htm":"POST","htu":"https://A.example:443/%7eb?x#y","iat":1000}"#;

    #[test]
    fn headers_are_strict() {
        let parse = |header: &str| Proof::parse(&text(header, CLAIMS)).map(|_| ());
        let with = |typ: &str, alg: &str, jwk: &str, more: &str| {
            parse(&format!(r#"{{"typ":"{typ}","alg":"{alg}","jwk":{jwk}{more}}}"#))
        };
        assert_eq!(with("dpop+jwt", "EdDSA", JWK, ""), Ok(()));
        assert_eq!(with("dpop+jwt", "Ed25519", JWK, r#","kid":"whatever""#), Ok(()));
        assert_eq!(with("JWT", "EdDSA", JWK, ""), Err(BadProof::Typ));
        assert_eq!(with("at+jwt", "EdDSA", JWK, ""), Err(BadProof::Typ));
        for alg in ["none", "HS256", "ES256", "RS256", "eddsa", "ES384"] {
            assert_eq!(with("dpop+jwt", alg, JWK, ""), Err(BadProof::Algorithm), "{alg}");
        }
        let private = JWK.replace(r#""x""#, r#""d":"AAAA","x""#);
        assert_eq!(with("dpop+jwt", "EdDSA", &private, ""), Err(BadProof::Key(BadKey::Private)));
        let secret = r#"{"kty":"oct","k":"AAAA"}"#;
        assert_eq!(with("dpop+jwt", "EdDSA", secret, ""), Err(BadProof::Key(BadKey::Private)));
        for more in [r#","crit":["x"]"#, r#","jku":"https://evil.example""#, r#","alg":"none""#, r#","x5c":[]"#] {
            assert_eq!(with("dpop+jwt", "EdDSA", JWK, more), Err(BadProof::Malformed), "{more}");
        }
        assert_eq!(parse(r#"{"typ":"dpop+jwt","alg":"EdDSA"}"#), Err(BadProof::Malformed));
        let long = "a".repeat(MAX_PROOF_BYTES + 1);
        for wrong in ["", ".", "a.b", "a.b.c.d", "é.é.é", &long] {
            assert_eq!(Proof::parse(wrong).map(|_| ()), Err(BadProof::Malformed));
        }
    }

    #[test]
    fn claims_are_strict() {
        let header = format!(r#"{{"typ":"dpop+jwt","alg":"EdDSA","jwk":{JWK}}}"#);
        let parse = |claims: &str| Proof::parse(&text(&header, claims)).map(|_| ());
        let long = format!(r#"{{"jti":"{}","htm":"POST","htu":"https://a.example/","iat":1}}"#, "a".repeat(257));
        for wrong in [
            r#"{"htm":"POST","htu":"https://a.example/","iat":1}"#,
            r#"{"jti":"","htm":"POST","htu":"https://a.example/","iat":1}"#,
            r#"{"jti":"a","htu":"https://a.example/","iat":1}"#,
            r#"{"jti":"a","htm":"POST","iat":1}"#,
            r#"{"jti":"a","htm":"POST","htu":"https://a.example/"}"#,
            r#"{"jti":"a","htm":"POST","htu":"https://a.example/","iat":"1"}"#,
            r#"{"jti":"a","htm":"POST","htu":"https://a.example/","iat":-1}"#,
            r#"{"jti":"a","htm":"POST","htu":"https://a.example/","iat":1e300}"#,
            r#"{"jti":"a","jti":"b","htm":"POST","htu":"https://a.example/","iat":1}"#,
            &long,
        ] {
            assert_eq!(parse(wrong), Err(BadProof::Malformed), "{wrong}");
        }
        assert_eq!(parse(r#"{"jti":"a","htm":"POST","htu":"https://a.example/","iat":1.5}"#), Ok(()));
    }

    #[test]
    fn a_proof_fits_one_method_one_address_one_token() {
        let header = format!(r#"{{"typ":"dpop+jwt","alg":"EdDSA","jwk":{JWK}}}"#);
        let plain = text(&header, CLAIMS);
        let plain = Proof::parse(&plain).unwrap();
        let call = Call { method: "POST", address: "https://a.example/~b", token: None };
        assert_eq!(plain.fits(&call), Ok(()));
        assert_eq!(plain.fits(&Call { method: "GET", ..call }), Err(BadProof::Method));
        for other in ["https://a.example/", "http://a.example/~b", "https://a.example:8443/~b", "https://b.example/~b"]
        {
            assert_eq!(plain.fits(&Call { address: other, ..call }), Err(BadProof::Address), "{other}");
        }
        let ath = b64::encode(&Digest::of(b"token").0);
        let bound = text(&header, &CLAIMS.replace(r#""iat""#, &format!(r#""ath":"{ath}","iat""#)));
        let bound = Proof::parse(&bound).unwrap();
        assert_eq!(bound.fits(&Call { token: Some("token"), ..call }), Ok(()));
        assert_eq!(bound.fits(&Call { token: Some("another"), ..call }), Err(BadProof::Token));
        assert_eq!(plain.fits(&Call { token: Some("token"), ..call }), Err(BadProof::Token));
        let at = |seconds| plain.is_young(Time::from_secs(seconds));
        assert_eq!((at(970), at(1000), at(1060)), (Ok(()), Ok(()), Ok(())));
        assert_eq!((at(969), at(1061)), (Err(BadProof::Age), Err(BadProof::Age)));
    }

    #[test]
    fn addresses_have_one_spelling() {
        for (given, same) in [
            ("HTTPS://A.Example", "https://a.example/"),
            ("https://a.example:443/x?q=1", "https://a.example/x"),
            ("http://a.example:80/x#f", "http://a.example/x"),
            ("https://a.example:/x", "https://a.example/x"),
            ("https://[::1]:8443/x", "https://[::1]:8443/x"),
            ("https://a.example/%7euser/%2f", "https://a.example/~user/%2F"),
        ] {
            assert_eq!(address(given).as_deref(), Some(same), "{given}");
        }
        for wrong in [
            "",
            "a.example",
            "ftp://a.example/",
            "https://",
            "https://u@a.example/",
            "https:///x",
            "https://a.example/%zz",
            "https://a.example/ x",
            "//a.example",
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
        assert_ne!(address("https://a.example/X"), address("https://a.example/x"));
    }
}
