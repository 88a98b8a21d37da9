//! Tokens as the server makes them for a first-party sign-in, with real ES256 signatures.
use crate::Fault;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis_wire::claims::Audience;
use portcullis_wire::jws::{ACCESS_TOKEN_TYP, Algorithm, Jwk, assemble, signing_input};
use portcullis_wire::{AccessClaims, AccountId, ClientId, Epoch, GrantId, KeyId, Rev, SessionId, TokenId};

/// As a service's own name and its server's have it.
pub const ISSUER: &str = "https://id.example.org";
/// What the tokens are for.
pub const AUDIENCE: &str = "https://api.example.org";

/// A signing key.
#[derive(Debug)]
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    /// A new one.
    ///
    /// # Errors
    /// The library's.
    pub fn new() -> Result<Self, Fault> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self { pair, random: SystemRandom::new() })
    }

    /// The public half.
    ///
    /// # Errors
    /// It is no point of P-256.
    pub fn jwk(&self) -> Result<Jwk, Fault> {
        Jwk::es256(KeyId(1), self.pair.public_key().as_ref()).ok_or_else(|| "no point of P-256".into())
    }

    /// The public half as an uncompressed point.
    pub fn point(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// The library's.
    pub fn sign(&self, claims: &AccessClaims) -> Result<String, Fault> {
        let input = signing_input(Algorithm::Es256, KeyId(1), ACCESS_TOKEN_TYP, claims)?;
        let signature = self.pair.sign(&self.random, input.as_bytes())?;
        Ok(assemble(input, signature.as_ref()))
    }
}

/// The claims of somebody's token, made at `now_s`, at this position of the log.
pub fn claims(issuer: &str, n: u128, now_s: i64, rev: Rev) -> AccessClaims {
    // Spread as random ids are; no two alike.
    let bits = |kind: u128| (n * 8 + kind).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    AccessClaims {
        cnf: None,
        via: vec![],
        from: vec![],
        iss: issuer.into(),
        sub: AccountId::from_bits(bits(0)),
        aud: Audience(vec![AUDIENCE.into()]),
        client_id: ClientId::FIRST_PARTY,
        exp: now_s + 3600,
        iat: now_s,
        jti: TokenId::from_bits(bits(1)),
        scope: "account".into(),
        auth_time: now_s,
        acr: "1".into(),
        amr: vec!["pwd".into()],
        sid: SessionId::from_bits(bits(2)),
        rev,
        epoch: Epoch(0),
        gid: Some(GrantId::from_bits(bits(3))),
        roles: vec![],
        act: None,
    }
}
