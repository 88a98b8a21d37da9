//! Refresh tokens: a counter in one row, and tokens that are derived, not stored.
//!
//! A token is `pcr_` and base64url of: version, MAC key number, epoch, grant, counter, a derived part, a MAC. The MAC is under
//! a server key, so garbage is refused without the database. The derived part needs the server key *and* the grant's secret
//! from the database: a stolen backup mints nothing, and neither does a stolen key. As a successor follows from its counter, concurrent and
//! repeated presentations get the same one byte for byte, and nothing that could be stolen is stored (I5).
use alloc::{format, vec::Vec};
use core::fmt;
use hmac::{Hmac, Mac as _};
use portcullis_wire::{Epoch, GrantId, KeyId, SecretBytes, SecretString, Time, b64};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "pcr_";
const VERSION: u8 = 1;
const BODY: usize = 1 + 4 + 4 + 16 + 8;
const TAG: usize = 16;
const LEN: usize = BODY + TAG + TAG;

/// The refresh-token family of a grant: one row, updated in place.
#[derive(Clone, PartialEq, Eq)]
pub struct Family {
    /// The grant's own secret: half of what a token is derived from.
    pub secret: [u8; 32],
    /// The MAC key of the current token.
    pub key: KeyId,
    /// The generation of the current token.
    pub epoch: Epoch,
    /// The current token's number.
    pub counter: u64,
    /// When the current token was made.
    pub made_at: Time,
    /// When the current token was last handed out.
    pub handed_at: Time,
    /// How often the current token was handed out again.
    pub handouts: u32,
    /// The token whose use brought the current one; `None` for the first.
    pub predecessor: Option<u64>,
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family")
            .field("counter", &self.counter)
            .field("predecessor", &self.predecessor)
            .field("handouts", &self.handouts)
            .finish_non_exhaustive()
    }
}

impl Family {
    /// A new family whose first token is number 1.
    pub fn new(secret: [u8; 32], key: KeyId, epoch: Epoch, now: Time) -> Self {
        Self { secret, key, epoch, counter: 1, made_at: now, handed_at: now, handouts: 0, predecessor: None }
    }

    /// The current token's text. `key` must be the row's key.
    pub fn current_token(&self, key: &MacKey, grant: GrantId) -> SecretString {
        mint(key, &self.secret, self.epoch, grant, self.counter)
    }
}

/// A MAC key of the server.
#[derive(Clone)]
pub struct MacKey {
    /// Its number.
    pub id: KeyId,
    /// What HMAC makes of the key before it reads anything (RFC 2104 §4): two fifths of the work for texts as short as these. It is as
    /// secret as the key, but is not wiped when it is given up: the library cannot do that.
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MacKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MacKey {
    /// `bytes`: 32 random ones.
    pub fn new(id: KeyId, bytes: &SecretBytes) -> Self {
        // A key of any length is accepted by HMAC (RFC 2104 §2), so this cannot fail.
        match <Hmac<Sha256> as hmac::Mac>::new_from_slice(bytes.expose()) {
            Ok(keyed) => Self { id, keyed },
            Err(_) => unreachable!("HMAC takes keys of any length"),
        }
    }

    /// HMAC-SHA256 over `label` and the parts, cut to 16 bytes. Labels keep the uses of one key apart.
    pub fn tag(&self, label: &[u8], parts: &[&[u8]]) -> [u8; TAG] {
        let mut mac = self.keyed.clone();
        mac.update(&(label.len() as u64).to_be_bytes());
        mac.update(label);
        for part in parts {
            mac.update(part);
        }
        let full = mac.finalize().into_bytes();
        let mut out = [0; TAG];
        out.copy_from_slice(&full[..TAG]);
        out
    }
}

fn mint(key: &MacKey, secret: &[u8; 32], epoch: Epoch, grant: GrantId, counter: u64) -> SecretString {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.push(VERSION);
    bytes.extend_from_slice(&key.id.0.to_be_bytes());
    bytes.extend_from_slice(&epoch.0.to_be_bytes());
    bytes.extend_from_slice(&grant.bits().to_be_bytes());
    bytes.extend_from_slice(&counter.to_be_bytes());
    bytes.extend_from_slice(&key.tag(b"refresh successor", &[secret, &bytes[..BODY]]));
    bytes.extend_from_slice(&key.tag(b"refresh token", &[&bytes[..BODY + TAG]]));
    SecretString::new(format!("{PREFIX}{}", b64::encode(&bytes)))
}

/// A refresh token taken apart; nothing about it is proven yet.
#[derive(Clone)]
pub struct Presented {
    bytes: [u8; LEN],
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presented({} of {})", self.counter(), self.grant())
    }
}

impl Presented {
    /// Takes a token apart; `None` when it has not the form of one.
    pub fn parse(text: &SecretString) -> Option<Self> {
        let bytes: [u8; LEN] = b64::decode_array(text.expose().strip_prefix(PREFIX)?)?;
        (bytes[0] == VERSION).then_some(Self { bytes })
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }
    /// The MAC key that it names.
    pub fn key(&self) -> KeyId {
        KeyId(u32::from_be_bytes(self.field(1)))
    }
    /// The generation that it was made in.
    pub fn epoch(&self) -> Epoch {
        Epoch(u32::from_be_bytes(self.field(5)))
    }
    /// The grant that it belongs to.
    pub fn grant(&self) -> GrantId {
        GrantId::from_bits(u128::from_be_bytes(self.field(9)))
    }
    /// Its number.
    pub fn counter(&self) -> u64 {
        u64::from_be_bytes(self.field(25))
    }

    /// Whether this server made it (constant time). Needs no database.
    pub fn is_ours(&self, key: &MacKey) -> bool {
        let expected = key.tag(b"refresh token", &[&self.bytes[..BODY + TAG]]);
        key.id == self.key() && bool::from(expected.ct_eq(&self.bytes[BODY + TAG..]))
    }

    /// Whether it was derived with this grant's secret (constant time).
    pub fn is_derived(&self, key: &MacKey, secret: &[u8; 32]) -> bool {
        let expected = key.tag(b"refresh successor", &[secret, &self.bytes[..BODY]]);
        expected.ct_eq(&self.bytes[BODY..BODY + TAG]).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn key(n: u32) -> MacKey {
        MacKey::new(KeyId(n), &SecretBytes::new([n as u8; 32]))
    }

    #[test]
    fn a_token_says_what_it_is_and_proves_it() {
        let family = Family::new([7; 32], KeyId(1), Epoch(3), Time(0));
        let grant = GrantId::from_bits(99);
        let token = family.current_token(&key(1), grant);
        assert_eq!(token.expose(), family.current_token(&key(1), grant).expose());
        let parsed = Presented::parse(&token).unwrap();
        assert_eq!((parsed.key(), parsed.epoch(), parsed.grant(), parsed.counter()), (KeyId(1), Epoch(3), grant, 1));
        assert!(parsed.is_ours(&key(1)) && parsed.is_derived(&key(1), &[7; 32]));
        assert!(!parsed.is_ours(&key(2)) && !parsed.is_derived(&key(1), &[8; 32]));
    }

    #[test]
    fn every_changed_character_and_every_length_is_refused() {
        let family = Family::new([7; 32], KeyId(1), Epoch(0), Time(0));
        let token = family.current_token(&key(1), GrantId::from_bits(99));
        let text = token.expose().to_string();
        for at in 0..text.len() {
            for c in ['A', 'B', '_', '=', ' '] {
                let mut changed: Vec<char> = text.chars().collect();
                if changed[at] == c {
                    continue;
                }
                changed[at] = c;
                let changed = SecretString::new(changed.into_iter().collect::<alloc::string::String>());
                assert!(Presented::parse(&changed).is_none_or(|p| !p.is_ours(&key(1))));
            }
            assert!(Presented::parse(&SecretString::new(&text[..at])).is_none());
        }
        assert!(Presented::parse(&SecretString::new(text + "A")).is_none());
    }
}
