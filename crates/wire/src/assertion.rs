//! Assertions by which clients prove who they are (RFC 7523 §2.2, §3; OpenID Connect Core §9 `private_key_jwt`), read strictly.
//!
//! Nothing here is proven: the signature is checked with the keys that the client registered, never with one that the assertion brings.
use crate::claims::Audience;
use crate::header::Header;
use crate::jws::Algorithm;
use crate::{Time, b64, json};
use alloc::{string::String, vec::Vec};
use serde::Deserialize;

/// `client_assertion_type` (RFC 7523 §2.2).
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest assertion that is looked at, in bytes.
pub const MAX_BYTES: usize = 8192;
/// The longest `jti`, in bytes.
pub const MAX_JTI: usize = 256;
/// How far ahead its end may be, in milliseconds: its id is kept until then.
pub const MAX_LIFE: i64 = 3_660_000;
/// How much clocks may differ, in milliseconds.
pub const SKEW: i64 = 60_000;
/// The most keys that a client may register.
pub const MAX_KEYS: usize = 16;

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    jti: String,
    iat: Option<i64>,
    nbf: Option<i64>,
}

/// An assertion as it was read.
#[derive(Debug)]
pub struct Assertion<'a> {
    /// What it says that it is signed with; counts only with a key of that algorithm.
    pub alg: Algorithm,
    /// Which of the client's keys it names, if it does.
    pub kid: Option<String>,
    /// `header.payload`, as signed.
    pub signing_input: &'a str,
    /// The decoded signature.
    pub signature: Vec<u8>,
    /// The client, as it says.
    pub client: String,
    /// Its id.
    pub jti: String,
    /// Its end.
    pub exp: Time,
    aud: Audience,
    not_before: Option<Time>,
}

impl<'a> Assertion<'a> {
    /// Reads an assertion. `None` for what is none: also tokens and proofs of other kinds (RFC 8725 §3.11), and one whose issuer is not its
    /// subject (RFC 7523 §3).
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let (signing_input, signature) = text.rsplit_once('.')?;
        let (header, payload) = signing_input.split_once('.')?;
        let (header, payload, signature) = (b64::decode(header)?, b64::decode(payload)?, b64::decode(signature)?);
        let header = Header::read(&header).ok()?;
        let typ = header.typ.as_deref().unwrap_or("JWT");
        let is_one = typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("client-authentication+jwt");
        if !is_one {
            return None;
        }
        let alg = Algorithm::of_header(&header.alg)?;
        let Claims { iss, sub, aud, exp, jti, iat, nbf } = json::from_slice(&payload).ok()?;
        if iss != sub || jti.is_empty() || jti.len() > MAX_JTI || !(0..1 << 42).contains(&exp) {
            return None;
        }
        let not_before = iat.max(nbf).map(|at| Time::from_secs(at.clamp(0, 1 << 42)));
        let exp = Time::from_secs(exp);
        Some(Self { alg, kid: header.kid, signing_input, signature, client: sub, jti, exp, aud, not_before })
    }

    /// Whether it may be used at `now` by who it says, at a server that is called by one of `names`.
    ///
    /// # Errors
    /// In words, for the client's developers: to be told only to who signed it.
    pub fn counts(&self, names: &[&str], now: Time) -> Result<(), &'static str> {
        // Every name must be ours: one that another server may take, too, is not for us alone (RFC 7523 §3).
        if self.aud.0.is_empty() || !self.aud.0.iter().all(|name| names.contains(&name.as_str())) {
            return Err("the assertion's aud must be the issuer or the token endpoint, and nothing else");
        }
        if self.exp <= now {
            return Err("the assertion has expired");
        }
        if self.exp.since(now) > MAX_LIFE {
            return Err("the assertion's exp is more than an hour ahead");
        }
        if self.not_before.is_some_and(|from| from.since(now) > SKEW) {
            return Err("the assertion is from the future");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString as _;

    const CLAIMS: &str = r#"{"iss":"c","sub":"c","aud":"https://id.example","exp":1100,"jti":"j","iat":1000}"#;

    fn text(header: &str, claims: &str) -> String {
        format!("{}.{}.AAAA", b64::encode(header.as_bytes()), b64::encode(claims.as_bytes()))
    }

    #[test]
    fn only_assertions_are_read() {
        let header = r#"{"alg":"ES256"}"#;
        assert!(Assertion::parse(&text(header, CLAIMS)).is_some());
        assert!(
            Assertion::parse(&text(r#"{"alg":"EdDSA","typ":"client-authentication+jwt","kid":"a"}"#, CLAIMS)).is_some()
        );
        for wrong in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"ES256","typ":"at+jwt"}"#,
            r#"{"alg":"ES256","typ":"dpop+jwt"}"#,
            r#"{"alg":"ES256","jwk":{}}"#,
            r#"{"alg":"ES256","jku":"https://evil.example"}"#,
            r#"{"alg":"ES256","crit":["x"]}"#,
            r#"{"alg":"ES256","alg":"RS256"}"#,
        ] {
            assert!(Assertion::parse(&text(wrong, CLAIMS)).is_none(), "{wrong}");
        }
        for (from, to) in [
            (r#""sub":"c""#, r#""sub":"d""#),
            (r#","exp":1100"#, ""),
            (r#","jti":"j""#, ""),
            (r#""jti":"j""#, r#""jti":"""#),
            (r#""aud":"https://id.example","#, ""),
            (r#""exp":1100"#, r#""exp":"1100""#),
            (r#""exp":1100"#, r#""exp":-1"#),
        ] {
            let wrong = CLAIMS.replace(from, to);
            assert!(wrong != CLAIMS && Assertion::parse(&text(header, &wrong)).is_none(), "{wrong}");
        }
        assert!(Assertion::parse(&"a".repeat(MAX_BYTES + 1)).is_none() && Assertion::parse("a.b.c.d").is_none());
    }

    #[test]
    fn it_counts_for_one_server_and_not_for_long() {
        let names = ["https://id.example", "https://id.example/oauth2/token"];
        let counts = |claims: &str, now| {
            let text = text(r#"{"alg":"ES256"}"#, claims).to_string();
            Assertion::parse(&text).unwrap().counts(&names, Time::from_secs(now)).is_ok()
        };
        assert!(counts(CLAIMS, 1000) && counts(CLAIMS, 1099) && counts(CLAIMS, 940));
        assert!(!counts(CLAIMS, 1100) && !counts(CLAIMS, 939));
        let with = |aud: &str| CLAIMS.replace(r#""https://id.example""#, aud);
        assert!(counts(&with(r#"["https://id.example","https://id.example/oauth2/token"]"#), 1000));
        for wrong in [r#""https://other.example""#, r#"["https://id.example","https://other.example"]"#, "[]"] {
            assert!(!counts(&with(wrong), 1000), "{wrong}");
        }
        assert!(!counts(&CLAIMS.replace("1100", "9999"), 1000));
    }
}
