//! The mark of a device that signed in to an account before: it has a budget of its own for guesses ([`crate::throttle`]), and
//! waits in a lane of its own for the password pool. It is no credential: who holds it may *try* a password, no more.
//!
//! Nothing of it is kept in the database. A MAC binds it to the account that it was made for, by [`crate::throttle::Name`], so it can
//! neither be made up nor moved to another account, and stays good when that gets another address. Releases before bound it to the
//! address: such a mark is read until it is too old, and the next sign-in puts one of ours in its place.
use crate::family::MacKey;
use crate::throttle::Name;
use alloc::{format, vec::Vec};
use core::fmt;
use portcullis_wire::{KeyId, Millis, SecretString, Time, b64};
use subtle::ConstantTimeEq as _;

/// How long a mark counts after the sign-in that gave it: as long as browsers keep a cookie (RFC 6265bis §5.5).
pub const LIFE: Millis = 400 * 86_400_000;

const PREFIX: &str = "pcd_";
const BODY: usize = 4 + 16 + 8;
const LEN: usize = BODY + 16;

/// A mark taken apart; nothing about it is proven yet.
#[derive(Clone)]
pub struct Mark {
    bytes: [u8; LEN],
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark(…)")
    }
}

fn tag(key: &MacKey, body: &[u8], name: &str) -> [u8; 16] {
    key.tag(b"known device", &[body, name.as_bytes()])
}

/// Makes the mark of this device for the account of this name.
pub fn mint(key: &MacKey, device: u128, name: &Name, now: Time) -> SecretString {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend_from_slice(&key.id.0.to_be_bytes());
    bytes.extend_from_slice(&device.to_be_bytes());
    bytes.extend_from_slice(&now.0.to_be_bytes());
    bytes.extend_from_slice(&tag(key, &bytes[..BODY], name.now()));
    SecretString::new(format!("{PREFIX}{}", b64::encode(&bytes)))
}

/// At most so many accounts have their mark in one browser: those that signed in last.
pub const MAX_MARKS: usize = 4;

/// The number of the device that one of the marks in `cookie` proves to be known at this account.
pub fn device(cookie: &SecretString, keys: &[MacKey], name: &Name, now: Time) -> Option<u128> {
    marks(cookie).find_map(|(_, mark)| device_of(&mark, keys, name, now))
}

/// The cookie from now on: the new mark, then those of other accounts.
pub fn renewed(
    cookie: Option<&SecretString>,
    keys: &[MacKey],
    new: &SecretString,
    name: &Name,
    now: Time,
) -> SecretString {
    let others = cookie.into_iter().flat_map(marks);
    let others = others.filter(|(_, mark)| device_of(mark, keys, name, now).is_none()).map(|(text, _)| text);
    let all: Vec<&str> = core::iter::once(new.expose()).chain(others).take(MAX_MARKS).collect();
    SecretString::new(all.join("."))
}

fn marks(cookie: &SecretString) -> impl Iterator<Item = (&str, Mark)> {
    let texts = cookie.expose().split('.').take(MAX_MARKS);
    texts.filter_map(|text| Some((text, Mark::parse(text)?)))
}

fn device_of(mark: &Mark, keys: &[MacKey], name: &Name, now: Time) -> Option<u128> {
    let key = keys.iter().find(|key| key.id == mark.key())?;
    [Some(name.now()), name.before()].into_iter().flatten().find_map(|name| mark.device(key, name, now))
}

impl Mark {
    /// Takes a text apart; `None` for what cannot be a mark.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.strip_prefix(PREFIX).and_then(b64::decode_array)?;
        Some(Self { bytes })
    }
    /// The key that it says it was made with.
    pub fn key(&self) -> KeyId {
        let mut id = [0; 4];
        id.copy_from_slice(&self.bytes[..4]);
        KeyId(u32::from_be_bytes(id))
    }
    /// The device's number, if `key` made this mark for this name of an account, and not too long ago.
    pub fn device(&self, key: &MacKey, name: &str, now: Time) -> Option<u128> {
        let (body, theirs) = self.bytes.split_at(BODY);
        let (mut device, mut at) = ([0; 16], [0; 8]);
        device.copy_from_slice(&body[4..20]);
        at.copy_from_slice(&body[20..]);
        let ours = bool::from(tag(key, body, name).ct_eq(theirs));
        let young = now.since(Time(i64::from_be_bytes(at))) < LIFE;
        (ours && young).then(|| u128::from_be_bytes(device))
    }
}
