//! Signing keys and MAC keys: made here, sealed under the master key, kept parsed in memory.
//!
//! The next signing key is always published already, so that an emergency needs no wait. Private parts are encrypted with
//! AES-256-GCM under the master key and bound to their number and purpose, so that a row moved to another place does not open.
use crate::real;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis_domain::family::MacKey;
use portcullis_domain::model::{Key, KeyPurpose};
use portcullis_wire::jws::{self, ACCESS_TOKEN_TYP, Algorithm, Jwk};
use portcullis_wire::{AccessClaims, KeyId, LogId, SecretBytes, SecretString, Time, b64};
use std::fmt;

/// The key that seals all others: 32 bytes, never in the database.
#[derive(Clone)]
pub struct MasterKey(SecretBytes);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// What is wrong with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The master key does not open a stored key: it is not the one that the database was made with.
    WrongMasterKey,
    /// A stored key opens but is no key.
    Damaged(KeyId),
    /// The cryptographic library refused.
    Library,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongMasterKey => f.write_str(
                "the master key does not open the stored keys: give the one that this database was made with (master_key)",
            ),
            Self::Damaged(id) => write!(f, "the stored {id} is damaged"),
            Self::Library => f.write_str("the cryptographic library refused an operation"),
        }
    }
}
impl std::error::Error for KeyError {}

impl MasterKey {
    /// From base64 (standard or url-safe, padded or not) of 32 bytes.
    pub fn parse(text: &SecretString) -> Option<Self> {
        let plain: String = text.expose().trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
        let bytes: [u8; 32] = b64::decode_array(&plain)?;
        Some(Self(SecretBytes::new(bytes)))
    }

    /// A new one.
    pub fn generate() -> Self {
        let mut bytes = [0u8; 32];
        real::fill(&mut bytes);
        Self(SecretBytes::new(bytes))
    }

    /// As base64 (RFC 4648 §4), for the file that it is kept in: every tool reads that.
    pub fn to_text(&self) -> SecretString {
        let standard = b64::encode(self.0.expose()).replace('-', "+").replace('_', "/");
        SecretString::new(format!("{standard}=")) // 32 bytes are 43 characters and one of padding
    }

    fn cipher(&self) -> Result<LessSafeKey, KeyError> {
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.0.expose()).map_err(|_| KeyError::Library)?))
    }

    fn seal(&self, id: KeyId, purpose: KeyPurpose, log: LogId, plain: &[u8]) -> Result<SecretBytes, KeyError> {
        let mut nonce = [0u8; NONCE_LEN];
        real::fill(&mut nonce);
        let mut out = plain.to_vec();
        let aad = Aad::from(aad(id, purpose, log));
        self.cipher()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut out)
            .map_err(|_| KeyError::Library)?;
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(&out);
        Ok(SecretBytes::new(sealed))
    }

    fn open(&self, key: &Key, log: LogId) -> Result<SecretBytes, KeyError> {
        let sealed = key.sealed.expose();
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(KeyError::Damaged(key.id))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyError::Damaged(key.id))?;
        let mut body = body.to_vec();
        let aad = Aad::from(aad(key.id, key.purpose, log));
        let plain = self.cipher()?.open_in_place(nonce, aad, &mut body).map_err(|_| KeyError::WrongMasterKey)?;
        Ok(SecretBytes::new(&*plain))
    }

    /// A new signing key for ES256, sealed, to be stored.
    pub fn new_es256(&self, id: KeyId, log: LogId, now: Time, active_from: Option<Time>) -> Result<Key, KeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Library)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
            .map_err(|_| KeyError::Library)?;
        let jwk = Jwk::es256(id, pair.public_key().as_ref()).ok_or(KeyError::Library)?;
        Ok(Key {
            id,
            purpose: KeyPurpose::Es256,
            public_jwk: serde_json::to_string(&jwk).map_err(|_| KeyError::Library)?,
            sealed: self.seal(id, KeyPurpose::Es256, log, pkcs8.as_ref())?,
            created_at: now,
            active_from,
            retired_at: None,
            dead: None,
        })
    }

    /// A new MAC key, sealed, to be stored.
    pub fn new_mac(&self, id: KeyId, log: LogId, now: Time) -> Result<Key, KeyError> {
        let mut bytes = [0u8; 32];
        real::fill(&mut bytes);
        Ok(Key {
            id,
            purpose: KeyPurpose::Mac,
            public_jwk: String::new(),
            sealed: self.seal(id, KeyPurpose::Mac, log, &bytes)?,
            created_at: now,
            active_from: Some(now),
            retired_at: None,
            dead: None,
        })
    }
}

fn aad(id: KeyId, purpose: KeyPurpose, log: LogId) -> Vec<u8> {
    format!("portcullis key {id} {} {log}", purpose.as_str()).into_bytes()
}

/// All keys, opened and parsed. Immutable; a change makes a new one.
#[derive(Debug)]
pub struct KeyRing {
    signing: Vec<(KeyId, EcdsaKeyPair)>,
    current: usize,
    macs: Vec<MacKey>,
    public: Vec<Jwk>,
}

impl KeyRing {
    /// Opens the stored keys. Fails when the master key is not theirs, or when there is none to sign or to make MACs with.
    pub fn open(rows: &[Key], master: &MasterKey, log: LogId, now: Time) -> Result<Self, KeyError> {
        let (mut signing, mut macs, mut public) = (Vec::new(), Vec::new(), Vec::new());
        let mut current = None;
        for row in rows.iter().filter(|row| row.dead.is_none() && row.retired_at.is_none_or(|at| now < at)) {
            let plain = master.open(row, log)?;
            match row.purpose {
                KeyPurpose::Mac => macs.push(MacKey { id: row.id, bytes: plain }),
                KeyPurpose::Es256 => {
                    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, plain.expose())
                        .map_err(|_| KeyError::Damaged(row.id))?;
                    public.push(serde_json::from_str(&row.public_jwk).map_err(|_| KeyError::Damaged(row.id))?);
                    if row.active_from.is_some_and(|from| from <= now) {
                        current = Some(signing.len()); // rows come by number: the newest active one signs
                    }
                    signing.push((row.id, pair));
                }
            }
        }
        if macs.is_empty() {
            return Err(KeyError::Library);
        }
        Ok(Self { current: current.ok_or(KeyError::Library)?, signing, macs, public })
    }

    /// The MAC key that new refresh tokens and positions are made with.
    pub fn mac(&self) -> &MacKey {
        &self.macs[self.macs.len() - 1] // `open` refuses a ring without one
    }

    /// All MAC keys, by number.
    pub fn macs(&self) -> &[MacKey] {
        &self.macs
    }

    /// The MAC key with this number.
    pub fn mac_by_id(&self, id: KeyId) -> Option<&MacKey> {
        self.macs.iter().find(|key| key.id == id)
    }

    /// All public signing keys, the waiting next one too.
    pub fn public(&self) -> &[Jwk] {
        &self.public
    }

    /// Signs an access token (RFC 9068).
    pub fn sign(&self, claims: &AccessClaims) -> Result<SecretString, KeyError> {
        let (kid, pair) = &self.signing[self.current];
        let input =
            jws::signing_input(Algorithm::Es256, *kid, ACCESS_TOKEN_TYP, claims).map_err(|_| KeyError::Library)?;
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| KeyError::Library)?;
        Ok(SecretString::new(jws::assemble(&input, signature.as_ref())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_keys_open_with_their_master_key_only() {
        let (master, log) = (MasterKey::generate(), LogId::from_bits(1));
        let rows = [
            master.new_es256(KeyId(1), log, Time(0), Some(Time(0))).unwrap(),
            master.new_es256(KeyId(2), log, Time(0), None).unwrap(),
            master.new_mac(KeyId(3), log, Time(0)).unwrap(),
        ];
        let ring = KeyRing::open(&rows, &master, log, Time(1)).unwrap();
        assert_eq!(ring.public().len(), 2);
        assert_eq!(ring.signing[ring.current].0, KeyId(1));
        assert_eq!(KeyRing::open(&rows, &MasterKey::generate(), log, Time(1)).unwrap_err(), KeyError::WrongMasterKey);
        // of another log, or moved to another number
        assert_eq!(KeyRing::open(&rows, &master, LogId::from_bits(2), Time(1)).unwrap_err(), KeyError::WrongMasterKey);
        let mut moved = rows.clone();
        moved[0].id = KeyId(9);
        assert_eq!(KeyRing::open(&moved, &master, log, Time(1)).unwrap_err(), KeyError::WrongMasterKey);
        let text = master.to_text();
        assert!(text.expose().len() == 44 && text.expose().ends_with('=') && !text.expose().contains(['-', '_']));
        let again = MasterKey::parse(&text).unwrap();
        assert!(KeyRing::open(&rows, &again, log, Time(1)).is_ok());
        assert!(MasterKey::parse(&SecretString::new("short")).is_none());
    }
}
