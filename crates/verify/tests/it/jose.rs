//! What attackers and other people's libraries send.
use crate::support::{NOW, Signer, WALL, claims, expect, view};
use portcullis_verify::{Decision, Holder, Keys, Policy, Reason, authenticate, judge};
use portcullis_wire::jws::{Algorithm, Jwk, Malformed};
use portcullis_wire::{Code, KeyId, b64};

const HEADER: &str = r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt"}"#;

fn keys(signers: &[&Signer]) -> Keys {
    Keys::parse(&signers.iter().map(|s| s.jwk()).collect::<Vec<_>>())
}

#[test]
fn rfc_7515_appendix_a_3() {
    let jwk = Jwk {
        kid: KeyId(1),
        kty: "EC".into(),
        alg: Algorithm::Es256,
        usage: "sig".into(),
        crv: Some("P-256".into()),
        x: Some("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU".into()),
        y: Some("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0".into()),
        n: None,
        e: None,
    };
    let input = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature =
        b64::decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q").unwrap();
    let keys = Keys::parse(std::slice::from_ref(&jwk));
    let verifies = |alg, input: &str, signature: &[u8]| keys.verifies(KeyId(1), alg, input.as_bytes(), signature);
    assert_eq!(verifies(Algorithm::Es256, input, &signature), Some(true));
    assert_eq!(verifies(Algorithm::Rs256, input, &signature), Some(false), "the algorithm is bound to the key");
    assert_eq!(verifies(Algorithm::Es256, &input[1..], &signature), Some(false));
    for at in 0..signature.len() {
        let mut wrong = signature.clone();
        wrong[at] ^= 1;
        assert_eq!(verifies(Algorithm::Es256, input, &wrong), Some(false));
    }
    for wrong in [&[][..], &[0; 64], &[0xff; 64], &signature[..63], &[&signature[..], &[0]].concat()] {
        assert_eq!(verifies(Algorithm::Es256, input, wrong), Some(false));
    }
    assert_eq!(keys.verifies(KeyId(2), Algorithm::Es256, input.as_bytes(), &signature), None);
    // a point that is not on the curve, a key for something else, a number given twice: no keys
    let off = Jwk { y: jwk.x.clone(), ..jwk.clone() };
    let enc = Jwk { usage: "enc".into(), ..jwk.clone() };
    assert!(Keys::parse(&[off]).is_empty() && Keys::parse(&[enc]).is_empty());
    assert!(Keys::parse(&[jwk.clone(), jwk]).is_empty());
}

#[test]
fn every_bit_is_signed() {
    let signer = Signer::new(1);
    let keys = keys(&[&signer]);
    let token = signer.sign(&claims());
    assert_eq!(authenticate(&keys, &token).unwrap().claims(), &claims());
    for at in 0..token.len() {
        for other in ['A', 'B', 'Q', 'g', '-', '.'] {
            let mut wrong = token.clone();
            wrong.replace_range(at..=at, &other.to_string());
            if wrong != token {
                assert!(authenticate(&keys, &wrong).is_err(), "{other} at {at}");
            }
        }
        assert!(authenticate(&keys, &token[..at]).is_err());
    }
    assert!(authenticate(&keys, &format!("{token}A")).is_err());
    assert!(authenticate(&keys, &format!("{token}.")).is_err());
    assert!(authenticate(&keys, &format!(" {token}")).is_err());
}

#[test]
fn attacks_on_the_header() {
    let signer = Signer::new(1);
    let keys = keys(&[&signer]);
    let body = serde_json::to_string(&claims()).unwrap();
    assert!(authenticate(&keys, &signer.sign_raw(HEADER, &body)).is_ok());
    for (header, why) in [
        (r#"{"alg":"none","kid":"key_1","typ":"at+jwt"}"#, Malformed::Algorithm),
        (r#"{"alg":"None","kid":"key_1","typ":"at+jwt"}"#, Malformed::Algorithm),
        (r#"{"alg":"HS256","kid":"key_1","typ":"at+jwt"}"#, Malformed::Algorithm),
        (r#"{"alg":"ES384","kid":"key_1","typ":"at+jwt"}"#, Malformed::Algorithm),
        (r#"{"alg":"ES256","kid":"key_1","typ":"JWT"}"#, Malformed::Typ),
        (r#"{"alg":"ES256","kid":"key_1","typ":"logout+jwt"}"#, Malformed::Typ),
        (r#"{"alg":"ES256","kid":"key_1"}"#, Malformed::Typ),
        (r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt","jwk":{"kty":"EC"}}"#, Malformed::ForeignHeader),
        (r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt","jku":"https://evil.example"}"#, Malformed::ForeignHeader),
        (r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt","crit":["exp"]}"#, Malformed::ForeignHeader),
        (r#"{"alg":"ES256","alg":"none","kid":"key_1","typ":"at+jwt"}"#, Malformed::Header),
        (r#"{"alg":"ES256","kid":"' or 1=1","typ":"at+jwt"}"#, Malformed::Kid),
    ] {
        assert_eq!(authenticate(&keys, &signer.sign_raw(header, &body)), Err(Reason::Malformed(why)), "{header}");
    }
    // an RSA token for an EC key: the key's algorithm decides, not the header's
    let confused = signer.sign_raw(r#"{"alg":"RS256","kid":"key_1","typ":"at+jwt"}"#, &body);
    assert_eq!(authenticate(&keys, &confused), Err(Reason::Signature));
    // no signature at all
    let unsigned = format!("{}.{}.", b64::encode(br#"{"alg":"none"}"#), b64::encode(body.as_bytes()));
    assert_eq!(authenticate(&keys, &unsigned), Err(Reason::Malformed(Malformed::Algorithm)));
}

#[test]
fn foreign_keys() {
    let (ours, theirs) = (Signer::new(1), Signer::new(1));
    let view = view(&[&ours], &[]);
    let of = |token: &str| judge(&view, token, &Holder::Bearer, &expect(), Policy::Closed, NOW, WALL).0.decision;
    assert_eq!(of(&ours.sign(&claims())), Decision::Accept);
    assert_eq!(of(&theirs.sign(&claims())), Decision::Refuse(Reason::Signature));
    assert_eq!(of(&Signer::new(2).sign(&claims())), Decision::Refuse(Reason::UnknownKey));
    assert_eq!(Reason::UnknownKey.code(), Code::TokenMalformed);
}

#[test]
fn attacks_on_the_claims() {
    let signer = Signer::new(1);
    let keys = keys(&[&signer]);
    let body = serde_json::to_string(&claims()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(body.contains(from), "{from} in {body}");
        authenticate(&keys, &signer.sign_raw(HEADER, &body.replace(from, to)))
    };
    assert!(with(r#""aud":"api""#, r#""aud":["x","api"]"#).is_ok());
    assert!(with(r#""scope":"account""#, r#""scope":"account","later":{"a":1}"#).is_ok(), "unknown claims are ignored");
    for (from, to) in [
        (r#""rev":10"#, r#""rev":10,"rev":99"#),
        (r#""rev":10"#, r#""rev":"10""#),
        (r#""rev":10"#, r#""rev":-1"#),
        (r#""rev":10"#, r#""rev":10.5"#),
        (r#""rev":10,"#, ""),
        (r#""epoch":1"#, r#""epoch":null"#),
        (r#""iss":"https://id.example""#, r#""iss":["https://id.example"]"#),
        (r#""aud":"api""#, r#""aud":{"api":1}"#),
        (r#""exp":1800000300"#, r#""exp":"1800000300""#),
        (r#""exp":1800000300"#, r#""exp":1e400"#),
        (r#""exp":1800000300"#, r#""exp":9223372036854775808"#),
        (r#""sub":"acc_"#, r#""sub":"ses_"#),
        (r#""scope":"account""#, r#""scope":"account","\u0073cope":"admin""#),
    ] {
        assert_eq!(with(from, to), Err(Reason::Malformed(Malformed::Claims)), "{to}");
    }
    let huge = "x".repeat(9000);
    assert_eq!(with("account", &huge), Err(Reason::Malformed(Malformed::TooLong)));
    let deep = format!(r#""scope":"account","x":{}1{}"#, "[".repeat(2000), "]".repeat(2000));
    assert!(with(r#""scope":"account""#, &deep).is_err());
    for body in ["", "null", "[]", "{}", "\"text\"", "{", &format!("{body}{body}")] {
        assert!(authenticate(&keys, &signer.sign_raw(HEADER, body)).is_err());
    }
}
