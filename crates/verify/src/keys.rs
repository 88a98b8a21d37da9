//! Public keys, parsed once, each bound to one algorithm.
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use portcullis_wire::KeyId;
use portcullis_wire::jws::{Algorithm, Jwk};
use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone)]
pub(crate) struct Key {
    alg: Algorithm,
    public: ParsedPublicKey,
}

/// The public signing keys that tokens may be signed with.
#[derive(Clone, Default)]
pub struct Keys {
    keys: BTreeMap<KeyId, Key>,
}

impl Keys {
    /// Parses keys. What cannot be used (another algorithm or use, a point that is not on the curve, a modulus that is too small) is left out: a
    /// token that names it is refused as if the key were unknown. A number given twice is left out altogether.
    pub fn parse(jwks: &[Jwk]) -> Self {
        let mut keys = BTreeMap::new();
        for jwk in jwks {
            let once = jwks.iter().filter(|other| other.kid == jwk.kid).count() == 1;
            if let Some(key) = parse_one(jwk).filter(|_| once) {
                keys.insert(jwk.kid, key);
            }
        }
        Self { keys }
    }

    /// Whether there is a key of this number.
    pub fn contains(&self, kid: KeyId) -> bool {
        self.keys.contains_key(&kid)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether `signature` over `input` is this key's, by the algorithm that the key is bound to; `None` without such a key.
    pub fn verifies(&self, kid: KeyId, alg: Algorithm, input: &[u8], signature: &[u8]) -> Option<bool> {
        Some(self.keys.get(&kid)?.verifies(alg, input, signature))
    }
}

impl Key {
    /// Whether `signature` over `input` is this key's, by the algorithm that it is bound to.
    pub(crate) fn verifies(&self, alg: Algorithm, input: &[u8], signature: &[u8]) -> bool {
        self.alg == alg && self.public.verify_sig(input, signature).is_ok()
    }
}

pub(crate) fn parse_one(jwk: &Jwk) -> Option<Key> {
    if jwk.usage != "sig" {
        return None;
    }
    let public = match jwk.alg {
        Algorithm::Es256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, jwk.es256_point()?).ok()?,
        Algorithm::Rs256 => {
            let (n, e) = jwk.rs256_numbers()?;
            RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?
        }
        Algorithm::Ed25519 => ParsedPublicKey::new(&ED25519, jwk.ed25519_public()?).ok()?,
    };
    Some(Key { alg: jwk.alg, public })
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}
