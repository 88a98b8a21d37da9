//! The header of a compact JWS, of whichever kind, by one rule (RFC 7515 §4, RFC 8725 §3.1, §3.10).
//!
//! Three members are read. Some are never taken, whatever stands in them: what brings a key or says where one is, what must be understood
//! (`crit`), and what makes of the payload something else than is signed. All others mean nothing here and are passed over (RFC 7515 §4).
use crate::json;
use alloc::string::String;
use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde_json::Value;

/// What is read of it.
#[derive(Debug)]
pub(crate) struct Header {
    /// The algorithm by its name; always there.
    pub alg: String,
    /// Which key.
    pub kid: Option<String>,
    /// Of what kind it says that it is.
    pub typ: Option<String>,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// It is no JSON object of the expected members, or has one twice.
    Unreadable,
    /// It has a member that is never taken.
    Foreign,
}

#[derive(serde::Deserialize)]
struct Raw {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "some")]
    jwk: Option<Value>,
    #[serde(default)]
    crit: Given,
    #[serde(default)]
    jku: Given,
    #[serde(default)]
    x5u: Given,
    #[serde(default)]
    x5c: Given,
    #[serde(default)]
    b64: Given,
    #[serde(default)]
    zip: Given,
    #[serde(default)]
    enc: Given,
}

/// Whether a member is there, be it as `null`.
#[derive(Default)]
struct Given(bool);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self(true))
    }
}

/// A member that is there, be it as `null`.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl Header {
    /// Of what is signed by a key that is known beforehand: a token, an assertion. It brings none.
    pub fn read(bytes: &[u8]) -> Result<Self, BadHeader> {
        match Self::raw(bytes)? {
            (_, Some(_)) => Err(BadHeader::Foreign),
            (header, None) => Ok(header),
        }
    }

    /// Of a proof that brings the key that signed it (RFC 9449 §4.2).
    pub fn read_with_key(bytes: &[u8]) -> Result<(Self, Value), BadHeader> {
        let (header, key) = Self::raw(bytes)?;
        Ok((header, key.ok_or(BadHeader::Unreadable)?))
    }

    fn raw(bytes: &[u8]) -> Result<(Self, Option<Value>), BadHeader> {
        let Raw { alg, kid, typ, jwk, crit, jku, x5u, x5c, b64, zip, enc } =
            json::from_slice(bytes).map_err(|_| BadHeader::Unreadable)?;
        if [crit, jku, x5u, x5c, b64, zip, enc].iter().any(|given| given.0) {
            return Err(BadHeader::Foreign);
        }
        Ok((Self { alg, kid, typ }, jwk))
    }
}

#[cfg(test)]
mod tests {
    use crate::assertion::Assertion;
    use crate::b64;
    use crate::dpop::{BadProof, Proof};
    use crate::jws::{Compact, Malformed};
    use alloc::{format, string::String, vec::Vec};

    /// What each kind says of a header with `more` in it.
    struct Said {
        token: Result<(), Malformed>,
        assertion: Option<()>,
        proof: Result<(), BadProof>,
    }

    const KEY: &str = r#""jwk":{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn said(more: &str) -> Said {
        let text = |header: String, claims: &str| {
            format!("{}.{}.AAAA", b64::encode(header.as_bytes()), b64::encode(claims.as_bytes()))
        };
        let token = text(format!(r#"{{"alg":"ES256","kid":"key_1","typ":"at+jwt"{more}}}"#), "{}");
        let claims = r#"{"iss":"c","sub":"c","aud":"https://id.example","exp":1100,"jti":"j"}"#;
        let assertion = text(format!(r#"{{"alg":"ES256"{more}}}"#), claims);
        let claims = r#"{"jti":"a","htm":"POST","htu":"https://a.example/","iat":1000}"#;
        let proof = text(format!(r#"{{"typ":"dpop+jwt","alg":"EdDSA",{KEY}{more}}}"#), claims);
        Said {
            token: Compact::parse(&token, "at+jwt").map(|_| ()),
            assertion: Assertion::parse(&assertion).map(|_| ()),
            proof: Proof::parse(&proof).map(|_| ()),
        }
    }

    #[test]
    fn what_is_never_taken_is_taken_by_no_kind() {
        let values = ["null", "true", "false", "7", r#""""#, r#""x""#, "[]", r#"["x"]"#, "{}", r#"{"kty":"EC"}"#];
        let names = ["crit", "jku", "x5u", "x5c", "b64", "zip", "enc"];
        let all: Vec<_> = names.iter().flat_map(|name| values.map(|value| format!(r#","{name}":{value}"#))).collect();
        assert_eq!(all.len(), 70);
        for more in &all {
            let Said { token, assertion, proof } = said(more);
            assert_eq!((token, assertion), (Err(Malformed::ForeignHeader), None), "{more}");
            assert_eq!(proof, Err(BadProof::Malformed), "{more}");
        }
        // A key of its own is a proof's alone, and that has one already.
        for value in values {
            let Said { token, assertion, proof } = said(&format!(r#","jwk":{value}"#));
            assert_eq!((token, assertion), (Err(Malformed::ForeignHeader), None), "{value}");
            assert_eq!(proof, Err(BadProof::Malformed), "{value}");
        }
        // Spelled otherwise it is the same member.
        let escaped = said(r#","\u0063rit":["x"]"#);
        assert_eq!(escaped.token, Err(Malformed::ForeignHeader));
        assert!(escaped.assertion.is_none() && escaped.proof.is_err());
    }

    #[test]
    fn what_means_nothing_is_passed_over_by_every_kind() {
        for more in ["", r#","cty":"x""#, r#","x5t":"x""#, r#","nonce":7"#, r#","Crit":["x"]"#, r#","later":{"a":[1]}"#]
        {
            let Said { token, assertion, proof } = said(more);
            assert_eq!((token, assertion, proof), (Ok(()), Some(()), Ok(())), "{more}");
        }
        for twice in
            [r#","alg":"ES256""#, r#","alg":"none""#, r#","later":1,"later":1"#, r#","crit":["x"],"crit":["x"]"#]
        {
            let Said { token, assertion, proof } = said(twice);
            assert_eq!((token, assertion), (Err(Malformed::Header), None), "{twice}");
            assert_eq!(proof, Err(BadProof::Malformed), "{twice}");
        }
    }
}
