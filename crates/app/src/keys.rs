//! Signing keys and MAC keys: made here, sealed under the master key, kept parsed in memory. When they are made, used and
//! dropped is the business of `domain::keys`, and of [`crate::rotation`].
//!
//! The next signing key is always published already, so that an emergency needs no wait. Private parts are encrypted with
//! AES-256-GCM under the master key and bound to their number and purpose, so that a row moved to another place does not open.
mod pair;

use crate::real;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use pair::Pair;
use portcullis_domain::audit::{AuditKey, ChainRow};
use portcullis_domain::family::MacKey;
use portcullis_domain::id_token::{self, IdClaims, UserInfo};
use portcullis_domain::keys::{self, Make, State};
use portcullis_domain::logout::{self, LogoutClaims};
use portcullis_domain::model::{Key, KeyPurpose};
use portcullis_wire::jws::{self, ACCESS_TOKEN_TYP, Algorithm, Jwk};
use portcullis_wire::{
    AccessClaims, ClientId, Digest, KeyId, LogId, SecretBytes, SecretString, SessionId, Time, WebhookId, b64,
};
use std::collections::BTreeSet;
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
    /// The stored key of the audit chain opens, and is no key; or it was sealed under another master key than the rest.
    Audit,
    /// The stored secret of a webhook is damaged, or of another master key.
    Webhook(WebhookId),
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
            Self::Audit => f.write_str("the stored key of the audit chain is damaged, or of another master key"),
            Self::Webhook(id) => write!(f, "the stored secret of {id} is damaged, or of another master key"),
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
        self.seal_bytes(aad(id, purpose, log), plain)
    }

    pub(crate) fn seal_bytes(&self, aad: Vec<u8>, plain: &[u8]) -> Result<SecretBytes, KeyError> {
        let mut nonce = [0u8; NONCE_LEN];
        real::fill(&mut nonce);
        let mut out = plain.to_vec();
        self.cipher()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut out)
            .map_err(|_| KeyError::Library)?;
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(&out);
        Ok(SecretBytes::new(sealed))
    }

    fn open(&self, key: &Key, log: LogId) -> Result<SecretBytes, KeyError> {
        self.open_bytes(aad(key.id, key.purpose, log), &key.sealed, KeyError::Damaged(key.id))
    }

    pub(crate) fn open_bytes(
        &self,
        aad: Vec<u8>,
        sealed: &SecretBytes,
        damaged: KeyError,
    ) -> Result<SecretBytes, KeyError> {
        let (nonce, body) = sealed.expose().split_at_checked(NONCE_LEN).ok_or(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged)?;
        let mut body = body.to_vec();
        let plain = self.cipher()?.open_in_place(nonce, Aad::from(aad), &mut body);
        Ok(SecretBytes::new(&*plain.map_err(|_| KeyError::WrongMasterKey)?))
    }

    /// The key of the audit chain as it is to be stored.
    pub fn seal_audit_key(&self, key: &AuditKey, log: LogId) -> Result<SecretBytes, KeyError> {
        self.seal_bytes(audit_aad(log), key.0.expose())
    }

    /// The stored key of the audit chain.
    pub fn open_audit_key(&self, chain: &ChainRow, log: LogId) -> Result<AuditKey, KeyError> {
        self.open_bytes(audit_aad(log), &chain.key, KeyError::Audit).map(AuditKey).map_err(|_| KeyError::Audit)
    }

    /// A key as it is to be stored: `material`, numbered and sealed.
    pub fn new_key(&self, make: Make, material: &Material, log: LogId, now: Time) -> Result<Key, KeyError> {
        if make.purpose != material.purpose {
            return Err(KeyError::Library);
        }
        let public_jwk = match material.purpose.algorithm() {
            None => String::new(),
            Some(algorithm) => {
                let jwk = Pair::open(algorithm, &material.private).and_then(|pair| pair.jwk(make.id));
                serde_json::to_string(&jwk.ok_or(KeyError::Library)?).map_err(|_| KeyError::Library)?
            }
        };
        Ok(Key {
            id: make.id,
            purpose: make.purpose,
            public_jwk,
            sealed: self.seal(make.id, make.purpose, log, material.private.expose())?,
            created_at: now,
            active_from: make.active_from,
            retired_at: None,
            dead: None,
        })
    }

    /// The private part of a stored key, sealed under `next` instead; `None` when there is none any more.
    pub fn reseal(&self, key: &Key, log: LogId, next: &Self) -> Result<Option<SecretBytes>, KeyError> {
        if key.sealed.expose().is_empty() {
            return Ok(None);
        }
        let plain = self.open(key, log)?;
        next.seal(key.id, key.purpose, log, plain.expose()).map(Some)
    }

    /// Whether the stored keys that are in use open with this one. `None`: there is none to try it on.
    pub fn opens(&self, rows: &[Key], log: LogId) -> Option<bool> {
        let sealed = rows.iter().filter(|row| !row.sealed.expose().is_empty());
        sealed.map(|row| self.open(row, log).is_ok()).reduce(|all, one| all && one)
    }

    /// Whether both are the same key.
    pub fn is(&self, other: &Self) -> bool {
        self.to_text().digest() == other.to_text().digest()
    }
}

/// A private key that has no number yet.
#[derive(Debug)]
pub struct Material {
    purpose: KeyPurpose,
    private: SecretBytes,
}

impl Material {
    /// A new private key. One for RS256 takes up to seconds.
    pub fn generate(purpose: KeyPurpose) -> Result<Self, KeyError> {
        let private = match purpose.algorithm() {
            Some(algorithm) => pair::generate(algorithm)?,
            None => {
                let mut bytes = [0u8; 32];
                real::fill(&mut bytes);
                SecretBytes::new(bytes)
            }
        };
        Ok(Self { purpose, private })
    }

    /// What it is for.
    pub fn purpose(&self) -> KeyPurpose {
        self.purpose
    }
}

fn aad(id: KeyId, purpose: KeyPurpose, log: LogId) -> Vec<u8> {
    format!("portcullis key {id} {} {log}", purpose.as_str()).into_bytes()
}

fn audit_aad(log: LogId) -> Vec<u8> {
    format!("portcullis audit key {log}").into_bytes()
}

/// What an ID token of ours says, shown again as a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The issuer.
    pub iss: String,
    /// Who it was about, as the client knows them.
    pub sub: String,
    /// The client that it was made for.
    pub aud: ClientId,
    /// The session that it was made under.
    pub sid: SessionId,
}

/// All keys in use, opened and parsed. Immutable; a change makes a new one.
#[derive(Debug)]
pub struct KeyRing {
    signer: (KeyId, Pair),
    id_signers: Vec<IdSigner>,
    id_public: Vec<(KeyPurpose, Jwk)>,
    signs_since: Time,
    macs: Vec<MacKey>,
    pairwise: Option<MacKey>,
    public: Vec<Jwk>,
    dead: BTreeSet<KeyId>,
    seen: Vec<Seen>,
}

/// A key that signs ID tokens and nothing else.
#[derive(Debug)]
struct IdSigner {
    purpose: KeyPurpose,
    id: KeyId,
    made: Time,
    pair: Pair,
}

/// What of a row decides about a ring.
type Seen = (KeyId, State, Digest);

fn seen(rows: &[Key], floor: Time) -> Vec<Seen> {
    rows.iter().map(|row| (row.id, keys::state(row, floor), Digest::of(row.sealed.expose()))).collect()
}

/// The public halves of what may have signed an access token that lives, and of the waiting one: what verifiers are told.
pub fn public(rows: &[Key], floor: Time) -> Result<Vec<Jwk>, KeyError> {
    listed(rows, floor, |purpose| !purpose.is_id_only()).map(|all| all.into_iter().map(|(_, jwk)| jwk).collect())
}

fn listed(rows: &[Key], floor: Time, is: impl Fn(KeyPurpose) -> bool) -> Result<Vec<(KeyPurpose, Jwk)>, KeyError> {
    let signing = rows.iter().filter(|row| row.purpose.algorithm().is_some() && is(row.purpose));
    let listed = signing.filter(|row| keys::state(row, floor).is_listed());
    let parsed = |row: &Key| serde_json::from_str(&row.public_jwk).map_err(|_| KeyError::Damaged(row.id));
    listed.map(|row| Ok((row.purpose, parsed(row)?))).collect()
}

impl KeyRing {
    /// Opens the stored keys, as they are when F stands at `floor`. Fails when the master key is not theirs, or when there is
    /// none to sign or to make MACs with.
    pub fn open(rows: &[Key], master: &MasterKey, log: LogId, floor: Time) -> Result<Self, KeyError> {
        let (mut macs, mut pairwise, mut signer, mut id_signers) = (Vec::new(), None, None, Vec::new());
        let signing = keys::signing(rows, floor);
        let (signs, signs_since) = (signing.map(|key| key.id), signing.and_then(|key| key.active_from));
        for row in rows.iter().filter(|row| keys::state(row, floor).is_listed() && !row.sealed.expose().is_empty()) {
            let plain = master.open(row, log)?;
            let Some(algorithm) = row.purpose.algorithm() else {
                let key = MacKey::new(row.id, &plain);
                match row.purpose {
                    // Should there ever be two, the first one named users already.
                    KeyPurpose::Pairwise => pairwise = pairwise.or(Some(key)),
                    _ => macs.push(key),
                }
                continue;
            };
            // The waiting one is opened too: that it is damaged should be known before it is needed.
            let pair = Pair::open(algorithm, &plain).ok_or(KeyError::Damaged(row.id))?;
            if signs == Some(row.id) {
                signer = Some((row.id, pair));
            } else if row.purpose.is_id_only() && keys::state(row, floor) == State::Active {
                id_signers.push(IdSigner { purpose: row.purpose, id: row.id, made: row.created_at, pair });
            }
        }
        if macs.is_empty() {
            return Err(KeyError::Library);
        }
        let dead = rows.iter().filter(|row| row.dead.is_some()).map(|row| row.id).collect();
        let (signer, public) = (signer.ok_or(KeyError::Library)?, public(rows, floor)?);
        let signs_since = signs_since.ok_or(KeyError::Library)?;
        let id_public = listed(rows, floor, KeyPurpose::is_id_only)?;
        Ok(Self { signer, id_signers, id_public, signs_since, macs, pairwise, public, dead, seen: seen(rows, floor) })
    }

    /// Whether these rows would make the same ring.
    pub fn is_of(&self, rows: &[Key], floor: Time) -> bool {
        self.seen == seen(rows, floor)
    }

    /// The MAC key that new refresh tokens and positions are made with.
    pub fn mac(&self) -> &MacKey {
        &self.macs[self.macs.len() - 1] // `open` refuses a ring without one; rows come by number
    }

    /// What pairwise subjects are derived from; not there until a client needs them.
    pub fn pairwise(&self) -> Option<&MacKey> {
        self.pairwise.as_ref()
    }

    /// All MAC keys, the newest last.
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

    /// The key that signs.
    pub fn signs_with(&self) -> KeyId {
        self.signer.0
    }

    /// Since when it does.
    pub fn signs_since(&self) -> Time {
        self.signs_since
    }

    /// The algorithms of tokens that may be out, and of the next ones.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut all: Vec<Algorithm> = self.public.iter().map(|jwk| jwk.alg).collect();
        all.sort_by_key(|alg| alg.name());
        all.dedup();
        all
    }

    /// Whether a key was revoked.
    pub fn is_dead(&self, id: KeyId) -> bool {
        self.dead.contains(&id)
    }

    /// What access tokens are signed with, and ID tokens of clients that ask for nothing else.
    pub fn id_algorithm(&self) -> Algorithm {
        self.signer.1.algorithm()
    }

    /// Number and making of the key that signs ID tokens of this purpose, if there is one.
    pub fn id_signer(&self, purpose: KeyPurpose) -> Option<(KeyId, Time)> {
        self.id_by(purpose).map(|signer| (signer.id, signer.made))
    }

    fn id_by(&self, purpose: KeyPurpose) -> Option<&IdSigner> {
        self.id_signers.iter().rfind(|signer| signer.purpose == purpose) // rows come by number
    }

    /// The numbers of all keys that are listed.
    pub fn listed(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.public.iter().chain(self.id_public.iter().map(|(_, jwk)| jwk)).map(|jwk| jwk.kid)
    }

    /// The JWK Set (RFC 7517 §5): keys of access tokens, and those of ID tokens alone, by the name that their clients know.
    pub fn jwks(&self) -> Vec<serde_json::Value> {
        let named = self.id_public.iter().filter_map(|(purpose, jwk)| {
            let mut jwk = serde_json::to_value(jwk).ok()?;
            jwk["alg"] = purpose.alg_name()?.into();
            Some(jwk)
        });
        self.public.iter().filter_map(|jwk| serde_json::to_value(jwk).ok()).chain(named).collect()
    }

    /// Signs an ID token (OpenID Connect Core §2), with the usual key, or with that of a purpose. `finish` fills in what depends on the algorithm.
    pub fn sign_id_token(
        &self,
        purpose: Option<KeyPurpose>,
        finish: impl FnOnce(Algorithm) -> IdClaims,
    ) -> Result<SecretString, KeyError> {
        self.sign_by(purpose, finish)
    }

    /// Signs what userinfo tells (OpenID Connect Core §5.3.2), with the usual key, or with that of a purpose.
    pub fn sign_userinfo(&self, purpose: Option<KeyPurpose>, told: &UserInfo) -> Result<SecretString, KeyError> {
        self.sign_by(purpose, |_| told)
    }

    fn sign_by<C: serde::Serialize>(
        &self,
        purpose: Option<KeyPurpose>,
        finish: impl FnOnce(Algorithm) -> C,
    ) -> Result<SecretString, KeyError> {
        let Some(purpose) = purpose else { return self.sign_as(id_token::TYP, &finish(self.id_algorithm())) };
        let IdSigner { id, pair, .. } = self.id_by(purpose).ok_or(KeyError::Library)?;
        let name = purpose.alg_name().ok_or(KeyError::Library)?;
        let input = jws::signing_input_as(name, *id, id_token::TYP, &finish(pair.algorithm()));
        let input = input.map_err(|_| KeyError::Library)?;
        let signature = pair.sign(input.as_bytes())?;
        Ok(SecretString::new(jws::assemble(input, &signature)))
    }

    /// Signs a logout token (OpenID Connect Back-Channel Logout §2.4).
    pub fn sign_logout_token(&self, claims: &LogoutClaims) -> Result<SecretString, KeyError> {
        self.sign_as(logout::TYP, claims)
    }

    /// What an ID token of ours says, expired or not, as long as its key is listed; `None` for anything else.
    pub fn read_id_token(&self, token: &str) -> Option<Hint> {
        let parts = jws::Compact::parse(token, id_token::TYP).ok()?;
        let all: Vec<Jwk> = self.public.iter().chain(self.id_public.iter().map(|(_, jwk)| jwk)).cloned().collect();
        let known = portcullis_verify::Keys::parse(&all);
        let ours = known.verifies(parts.kid, parts.alg, parts.signing_input.as_bytes(), &parts.signature);
        if ours != Some(true) || self.is_dead(parts.kid) {
            return None;
        }
        let claims: IdClaims = portcullis_wire::json::from_slice(&parts.payload).ok()?;
        let aud = claims.aud.parse().ok()?;
        Some(Hint { iss: claims.iss, sub: claims.sub, aud, sid: claims.sid })
    }

    /// Signs an access token (RFC 9068).
    pub fn sign(&self, claims: &AccessClaims) -> Result<SecretString, KeyError> {
        self.sign_as(ACCESS_TOKEN_TYP, claims)
    }

    fn sign_as(&self, typ: &str, claims: &impl serde::Serialize) -> Result<SecretString, KeyError> {
        let (kid, pair) = &self.signer;
        let input = jws::signing_input(pair.algorithm(), *kid, typ, claims);
        let input = input.map_err(|_| KeyError::Library)?;
        let signature = pair.sign(input.as_bytes())?;
        Ok(SecretString::new(jws::assemble(input, &signature)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_verify::Keys;

    fn made(master: &MasterKey, n: u32, purpose: KeyPurpose, active_from: Option<Time>) -> Key {
        let make = Make { id: KeyId(n), purpose, active_from };
        master.new_key(make, &Material::generate(purpose).unwrap(), LogId::from_bits(1), Time(0)).unwrap()
    }

    #[test]
    fn sealed_keys_open_with_their_master_key_only() {
        let (master, log) = (MasterKey::generate(), LogId::from_bits(1));
        let rows = [
            made(&master, 1, KeyPurpose::Es256, Some(Time(0))),
            made(&master, 2, KeyPurpose::Es256, None),
            made(&master, 3, KeyPurpose::Mac, Some(Time(0))),
        ];
        let ring = KeyRing::open(&rows, &master, log, Time(1)).unwrap();
        assert_eq!((ring.public().len(), ring.signs_with()), (2, KeyId(1)));
        let other = MasterKey::generate();
        assert_eq!(KeyRing::open(&rows, &other, log, Time(1)).unwrap_err(), KeyError::WrongMasterKey);
        assert_eq!((master.opens(&rows, log), other.opens(&rows, log)), (Some(true), Some(false)));
        assert_eq!(master.opens(&[], log), None);
        // of another log, or moved to another number
        assert_eq!(KeyRing::open(&rows, &master, LogId::from_bits(2), Time(1)).unwrap_err(), KeyError::WrongMasterKey);
        let mut moved = rows.clone();
        moved[0].id = KeyId(9);
        assert_eq!(KeyRing::open(&moved, &master, log, Time(1)).unwrap_err(), KeyError::WrongMasterKey);
        let text = master.to_text();
        assert!(text.expose().len() == 44 && text.expose().ends_with('=') && !text.expose().contains(['-', '_']));
        let again = MasterKey::parse(&text).unwrap();
        assert!(KeyRing::open(&rows, &again, log, Time(1)).is_ok() && again.is(&master) && !other.is(&master));
        assert!(MasterKey::parse(&SecretString::new("short")).is_none());
        // sealed anew: with the other one, and with nothing else
        let resealed = rows.map(|row| Key { sealed: master.reseal(&row, log, &other).unwrap().unwrap(), ..row });
        assert!(KeyRing::open(&resealed, &other, log, Time(1)).is_ok());
        assert_eq!(KeyRing::open(&resealed, &master, log, Time(1)).unwrap_err(), KeyError::WrongMasterKey);
    }

    #[test]
    fn each_algorithm_signs_what_verifiers_accept() {
        let (master, log) = (MasterKey::generate(), LogId::from_bits(1));
        let claims = || {
            let text = r#"{"iss":"i","sub":"acc_00000000000000000000000001","aud":"a",
                "client_id":"cli_00000000000000000000000001","exp":2,"iat":1,"jti":"tok_00000000000000000000000001",
                "scope":"s","auth_time":1,"acr":"1","amr":["pwd"],"sid":"ses_00000000000000000000000001","rev":0,"epoch":0}"#;
            serde_json::from_str::<AccessClaims>(text).unwrap()
        };
        let purposes = KeyPurpose::ALL.iter().filter(|one| one.algorithm().is_some() && !one.is_id_only());
        for purpose in purposes {
            let rows = [made(&master, 1, *purpose, Some(Time(0))), made(&master, 2, KeyPurpose::Mac, Some(Time(0)))];
            let ring = KeyRing::open(&rows, &master, log, Time(1)).unwrap();
            assert_eq!(Some(ring.public()[0].alg), purpose.algorithm());
            assert_eq!(ring.algorithms(), [ring.public()[0].alg]);
            let token = ring.sign(&claims()).unwrap();
            let seen = portcullis_verify::authenticate(&Keys::parse(ring.public()), token.expose()).unwrap();
            assert_eq!((seen.claims(), seen.key()), (&claims(), Some(KeyId(1))));
            if *purpose == KeyPurpose::Rs256 {
                assert_eq!(ring.public()[0].rs256_numbers().unwrap().0.len(), 384, "3072 bits");
            }
        }
    }
}
