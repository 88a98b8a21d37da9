//! Keys of clients: for DPoP proofs (RFC 9449) and for assertions (RFC 7523).
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use portcullis_wire::jwk::PublicKey;
use portcullis_wire::{Digest, b64};
use serde_json::{Value, json};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A key pair.
pub enum Signer {
    /// P-256.
    Es256(EcdsaKeyPair),
    /// RSA of 2048 bits.
    Rs256(RsaKeyPair),
    /// Ed25519.
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.alg())
    }
}

/// Another id each time.
pub fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("id-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An HMAC by SHA-256, for tokens that take a public key for a secret.
pub fn hmac(secret: &[u8], input: &str) -> Vec<u8> {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    sign(&Key::new(HMAC_SHA256, secret), input.as_bytes()).as_ref().to_vec()
}

impl Signer {
    /// A new one for ES256.
    pub fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
    }
    /// A new one for RS256.
    pub fn rs256() -> Self {
        Self::Rs256(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key"))
    }
    /// A new one for Ed25519.
    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().expect("a key"))
    }

    /// The usual name of its algorithm; Ed25519 by the old one, which clients know.
    pub fn alg(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// The public half.
    pub fn jwk(&self) -> Value {
        match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": b64::encode(&point[1..33]), "y": b64::encode(&point[33..]) })
            }
            Self::Rs256(pair) => {
                // RSAPublicKey (RFC 8017 A.1.1) of 2048 bits: headers of 9 bytes, the modulus, and 65537 at the end.
                let der = pair.public_key().as_ref();
                json!({ "kty": "RSA", "n": b64::encode(&der[9..265]), "e": b64::encode(&der[der.len() - 3..]) })
            }
            Self::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64::encode(pair.public_key().as_ref()) })
            }
        }
    }

    /// Its thumbprint (RFC 7638).
    pub fn jkt(&self) -> String {
        PublicKey::from_json(&self.jwk()).expect("a public key").jkt()
    }

    /// Any header and claims, signed.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| b64::encode(value.to_string().as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es256(pair) => pair.sign(&random, input.as_bytes()).expect("a signature").as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature).expect("a signature");
                signature
            }
            Self::Ed25519(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
        };
        format!("{input}.{}", b64::encode(&signature))
    }

    /// The header of a proof.
    pub fn proof_header(&self) -> Value {
        json!({ "typ": "dpop+jwt", "alg": self.alg(), "jwk": self.jwk() })
    }

    /// A proof for a request at `at` seconds.
    pub fn proof(&self, method: &str, address: &str, at: i64, nonce: Option<&str>, token: Option<&str>) -> String {
        let mut claims = json!({ "jti": fresh_id(), "htm": method, "htu": address, "iat": at });
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        if let Some(token) = token {
            claims["ath"] = b64::encode(&Digest::of(token.as_bytes()).0).into();
        }
        self.sign(&self.proof_header(), &claims)
    }
}
