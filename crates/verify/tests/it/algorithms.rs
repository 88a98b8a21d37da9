//! RS256 and Ed25519: the vectors of the standards, and keys that are none.
use portcullis_verify::{Keys, Reason, authenticate};
use portcullis_wire::jws::{Algorithm, Jwk};
use portcullis_wire::{KeyId, b64};

/// RFC 7515 appendix A.2.
const RSA_N: &str = concat!(
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_",
    "YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uD",
    "Zlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
);
const RSA_INPUT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RSA_SIGNATURE: &str = concat!(
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQ",
    "jbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqt",
    "FZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
);

/// RFC 8037 appendices A.2 and A.4.
const ED_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const ED_INPUT: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
const ED_SIGNATURE: &str = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

const ALL: [Algorithm; 3] = [Algorithm::Es256, Algorithm::Rs256, Algorithm::Ed25519];

fn jwk(text: &str) -> Jwk {
    serde_json::from_str(text).unwrap()
}

fn rsa() -> Jwk {
    jwk(&format!(r#"{{"kid":"key_1","kty":"RSA","alg":"RS256","use":"sig","n":"{RSA_N}","e":"AQAB"}}"#))
}

fn ed() -> Jwk {
    jwk(&format!(r#"{{"kid":"key_1","kty":"OKP","alg":"Ed25519","use":"sig","crv":"Ed25519","x":"{ED_X}"}}"#))
}

fn the_vector(jwk: &Jwk, input: &str, signature: &str) {
    let (keys, signature) = (Keys::parse(std::slice::from_ref(jwk)), b64::decode(signature).unwrap());
    let verifies = |alg, input: &str, signature: &[u8]| keys.verifies(KeyId(1), alg, input.as_bytes(), signature);
    for alg in ALL {
        assert_eq!(verifies(alg, input, &signature), Some(alg == jwk.alg), "{alg:?} for a key of {:?}", jwk.alg);
    }
    assert_eq!(verifies(jwk.alg, &input[1..], &signature), Some(false));
    for at in 0..signature.len() {
        let mut wrong = signature.clone();
        wrong[at] ^= 1;
        assert_eq!(verifies(jwk.alg, input, &wrong), Some(false), "byte {at}");
    }
    let long = [&signature[..], &[0]].concat();
    let led = [&[0], &signature[..]].concat();
    for wrong in [&[][..], &vec![0; signature.len()], &vec![0xff; signature.len()], &signature[1..], &long, &led] {
        assert_eq!(verifies(jwk.alg, input, wrong), Some(false));
    }
}

#[test]
fn rfc_7515_appendix_a_2() {
    the_vector(&rsa(), RSA_INPUT, RSA_SIGNATURE);
    let rebuilt = Jwk::rs256(KeyId(1), &b64::decode(RSA_N).unwrap(), &[1, 0, 1]).unwrap();
    assert_eq!(rebuilt, rsa());
}

#[test]
fn rfc_8037_appendix_a_4() {
    the_vector(&ed(), ED_INPUT, ED_SIGNATURE);
    assert_eq!(Jwk::ed25519(KeyId(1), &b64::decode(ED_X).unwrap()).unwrap(), ed());
    assert!(Jwk::ed25519(KeyId(1), &[1; 31]).is_none() && Jwk::ed25519(KeyId(1), &[1; 33]).is_none());
}

/// Of an Ed25519 signature (R, S) the same with S + L is another spelling, which RFC 8032 §5.1.7 refuses.
#[test]
fn an_ed25519_signature_has_one_spelling() {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut signature = b64::decode(ED_SIGNATURE).unwrap();
    let mut carry = 0u16;
    for (byte, add) in signature[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = ((sum & 0xff) as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    assert_eq!(
        Keys::parse(&[ed()]).verifies(KeyId(1), Algorithm::Ed25519, ED_INPUT.as_bytes(), &signature),
        Some(false)
    );
}

#[test]
fn keys_that_are_none() {
    let small = b64::encode(&[&[0x80][..], &[1; 127]].concat()); // 1024 bits
    let short = b64::encode(&[&[0x40][..], &[1; 255]].concat()); // 2047 bits
    let zero = b64::encode(&[&[0][..], &b64::decode(RSA_N).unwrap()].concat());
    let even = b64::encode(&[&[0x80][..], &[2; 255]].concat());
    let huge = b64::encode(&[1; 1025]);
    let with_n = |n: &str| Jwk { n: Some(n.into()), ..rsa() };
    let with_e = |e: &str| Jwk { e: Some(e.into()), ..rsa() };
    let wrong = [
        with_n(&small),
        with_n(&short),
        with_n(&zero),
        with_n(&even),
        with_n(&huge),
        with_n(""),
        with_n("A=="),
        with_e("AQ"),      // 1
        with_e("Ag"),      // 2
        with_e("AAEAAQ"),  // a zero in front
        with_e("AQAAAAE"), // 33 bits
        with_e(""),
        Jwk { n: None, ..rsa() },
        Jwk { e: None, ..rsa() },
        Jwk { usage: "enc".into(), ..rsa() },
        // one kind of key under another's name, or of two kinds at once
        Jwk { alg: Algorithm::Es256, ..rsa() },
        Jwk { alg: Algorithm::Ed25519, ..rsa() },
        Jwk { alg: Algorithm::Rs256, ..ed() },
        Jwk { alg: Algorithm::Es256, ..ed() },
        Jwk { x: Some(ED_X.into()), ..rsa() },
        Jwk { n: Some(RSA_N.into()), ..ed() },
        Jwk { kty: "oct".into(), ..rsa() },
        Jwk { kty: "EC".into(), ..ed() },
        Jwk { crv: Some("X25519".into()), ..ed() },
        Jwk { crv: Some("Ed448".into()), ..ed() },
        Jwk { crv: None, ..ed() },
        Jwk { x: Some(b64::encode(&[1; 31])), ..ed() },
        Jwk { x: None, ..ed() },
    ];
    for jwk in wrong {
        assert!(Keys::parse(std::slice::from_ref(&jwk)).is_empty(), "{jwk:?}");
    }
    assert!(serde_json::from_str::<Jwk>(r#"{"kid":"key_1","kty":"oct","alg":"HS256","use":"sig","k":"AA"}"#).is_err());
}

/// A public key is no secret: whoever makes a MAC with it must not be believed (RFC 8725 §2.1).
#[test]
fn no_header_changes_the_algorithm_of_a_key() {
    let keys = Keys::parse(&[rsa()]);
    let claims = serde_json::to_string(&crate::support::claims()).unwrap();
    for alg in ["none", "HS256", "ES256", "Ed25519", "EdDSA", "RS384", "RS512", "PS256", "rs256", "RS256 "] {
        let header = format!(r#"{{"alg":"{alg}","kid":"key_1","typ":"at+jwt"}}"#);
        let token = format!("{}.{}.{RSA_SIGNATURE}", b64::encode(header.as_bytes()), b64::encode(claims.as_bytes()));
        let refused = authenticate(&keys, &token).unwrap_err();
        assert!(matches!(refused, Reason::Malformed(_) | Reason::Signature), "{alg}: {refused:?}");
    }
}
