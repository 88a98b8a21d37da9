//! Signing keys, claims and views.
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use portcullis_feed::knowledge::{Anchor, Lease};
use portcullis_feed::{Knowledge, Mono, RevokedSet};
use portcullis_verify::{Expect, View};
use portcullis_wire::claims::Audience;
use portcullis_wire::jws::{Algorithm, Jwk, assemble, signing_input};
use portcullis_wire::{
    AccessClaims, AccountId, ClientId, Entry, Epoch, GrantId, KeyId, Rev, SessionId, Target, Time, TokenId, Verb,
};
use std::sync::Arc;

/// The second that the tests play in, and the same moment of the monotonic clock.
pub const NOW_S: i64 = 1_800_000_000;
pub const NOW: Mono = Mono(50_000);
pub const WALL: Time = Time(NOW_S * 1000);

pub struct Signer {
    pair: EcdsaKeyPair,
    pub kid: KeyId,
}

impl Signer {
    pub fn new(n: u32) -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), kid: KeyId(n) }
    }
    pub fn jwk(&self) -> Jwk {
        Jwk::es256(self.kid, self.pair.public_key().as_ref()).unwrap()
    }
    pub fn sign_input(&self, input: &str) -> String {
        assemble(input.to_owned(), self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref())
    }
    pub fn sign(&self, claims: &AccessClaims) -> String {
        self.sign_input(&signing_input(Algorithm::Es256, self.kid, "at+jwt", claims).unwrap())
    }
    /// A token of any header and payload, rightly signed.
    pub fn sign_raw(&self, header: &str, payload: &str) -> String {
        let b64 = |text: &str| portcullis_wire::b64::encode(text.as_bytes());
        self.sign_input(&format!("{}.{}", b64(header), b64(payload)))
    }
}

pub fn claims() -> AccessClaims {
    AccessClaims {
        cnf: None,
        via: vec![],
        from: vec![],
        iss: "https://id.example".into(),
        sub: AccountId::from_bits(1),
        aud: Audience(vec!["api".into()]),
        client_id: ClientId::FIRST_PARTY,
        exp: NOW_S + 300,
        iat: NOW_S,
        jti: TokenId::from_bits(2),
        scope: "account".into(),
        auth_time: NOW_S,
        acr: "1".into(),
        amr: vec!["pwd".into()],
        sid: SessionId::from_bits(3),
        rev: Rev(10),
        epoch: Epoch(1),
        gid: Some(GrantId::from_bits(4)),
        roles: Vec::new(),
        act: None,
    }
}

pub fn expect() -> Expect {
    Expect { issuer: "https://id.example".into(), audience: "api".into() }
}

pub fn end(rev: u64, target: Target) -> Entry {
    Entry { rev: Rev(rev), verb: Verb::End, target, except: None, spread_ms: None, until: Time(i64::MAX) }
}

/// Synced at rev 10 of epoch 1, fresh for another five seconds.
pub fn known(keys: &[&Signer], entries: &[Entry]) -> Knowledge {
    let mut known = Knowledge::nothing(RevokedSet::default());
    entries.iter().for_each(|e| known.set.apply(e, Mono(0)));
    known.synced = true;
    known.epoch = Epoch(1);
    known.applied = entries.last().map_or(Rev(10), |e| e.rev.max(Rev(10)));
    known.keys = Arc::new(keys.iter().map(|k| k.jwk()).collect());
    known.max_life_s = 3600;
    known.bound_ms = 5000;
    known.floor = Some(Anchor { time: WALL.minus(10_000), at: NOW });
    known.time = Some(Anchor { time: WALL, at: NOW });
    let wall = Anchor { time: WALL, at: NOW };
    known.lease = Some(Lease { from: NOW, until: NOW.plus(5000), wall, tolerance_ms: 50 });
    known
}

pub fn view(keys: &[&Signer], entries: &[Entry]) -> View {
    View::new(known(keys, entries))
}
