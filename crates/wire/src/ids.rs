//! Typed ids. Each is 128 random bits behind a prefix that names its kind (`acc_7zz…`), so that ids cannot be mixed up in
//! code (a type each) nor in requests (a session's id where an account's belongs does not parse).
//!
//! The text is Crockford's base32 in lower case, 26 characters, one spelling per id: what parses prints the same again.
use alloc::{format, string::String};
use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LEN: usize = 26;

/// What each byte stands for; above 31 when for nothing.
const DIGITS: [u8; 256] = {
    let mut digits = [u8::MAX; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        digits[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIdError {
    /// The prefix that was expected, without the underscore.
    pub expected: &'static str,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an id of the form {}_…", self.expected)
    }
}

impl core::error::Error for ParseIdError {}

/// From the last character to the first: the lower 60 bits, then the rest, so that no shift is of 128 bits but two.
fn encode(value: u128, out: &mut [u8]) {
    const LOWER: usize = 12;
    let mut rest = (value & ((1 << (5 * LOWER)) - 1)) as u64;
    let (upper, lower) = out.split_at_mut(LEN - LOWER);
    for slot in lower.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    // 68 bits are left: eight of them stand in the first two characters.
    let above = value >> (5 * LOWER);
    let mut rest = above as u64 & ((1 << 60) - 1);
    let (first, middle) = upper.split_at_mut(2);
    for slot in middle.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    let first_two = (above >> 60) as u8;
    first[0] = ALPHABET[usize::from(first_two >> 5)];
    first[1] = ALPHABET[usize::from(first_two & 31)];
}

/// The text of an id, on the stack.
fn with_text<const N: usize, T>(prefix: &str, bits: u128, then: impl FnOnce(&str) -> T) -> Option<T> {
    let mut out = [b'_'; N];
    out.get_mut(..prefix.len())?.copy_from_slice(prefix.as_bytes());
    encode(bits, out.get_mut(prefix.len() + 1..)?);
    core::str::from_utf8(&out).ok().map(then)
}

fn decode(text: &[u8]) -> Option<u128> {
    if text.len() != LEN || text[0] > b'7' {
        return None; // 26 × 5 = 130 bits: the first character carries three
    }
    let mut value: u128 = 0;
    for &c in text {
        let digit = DIGITS[usize::from(c)];
        if digit > 31 {
            return None;
        }
        value = (value << 5) | u128::from(digit);
    }
    Some(value)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// The prefix of this kind of id, without the underscore.
            pub const PREFIX: &'static str = $prefix;
            /// The id made of these 128 bits (random ones, from whoever may make randomness).
            pub const fn from_bits(bits: u128) -> Self { Self(bits) }
            /// The 128 bits.
            pub const fn bits(self) -> u128 { self.0 }
            fn with_text<T>(self, then: impl FnOnce(&str) -> T) -> Option<T> {
                with_text::<{ $prefix.len() + 1 + LEN }, T>($prefix, self.0, then)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.with_text(|text| f.write_str(text)).unwrap_or(Err(fmt::Error))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                // Not by way of Display: access tokens are made of little else.
                match self.with_text(|text| s.serialize_str(text)) {
                    Some(done) => done,
                    None => Err(serde::ser::Error::custom("an id has no text")),
                }
            }
        }
        text_form!($name);

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| decode(rest.as_bytes()))
                    .map(Self)
                    .ok_or(ParseIdError { expected: $prefix })
            }
        }
    };
}

/// Reads an id from a text where it stands, without a copy of it: a token has six.
struct Parsed<T>(core::marker::PhantomData<T>);

impl<T: FromStr<Err = ParseIdError>> serde::de::Visitor<'_> for Parsed<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Debug and Deserialize, by way of Display and FromStr.
macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_str(Parsed(core::marker::PhantomData))
            }
        }
    };
}

/// Serialize, by way of Display.
macro_rules! by_display {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

id!(
    /// An account: a person or service that can sign in. Never used again after deletion.
    AccountId, "acc");
id!(
    /// A session: one sign-in on one device, browser, connected app, API key or service client.
    SessionId, "ses");
id!(
    /// A grant: what one client got under a session; holds one refresh-token family.
    GrantId, "grt");
id!(
    /// An access token (`jti`, RFC 7519 §4.1.7).
    TokenId, "tok");
id!(
    /// An audit record.
    EventId, "evt");
id!(
    /// A background job.
    JobId, "job");
id!(
    /// A message on its way to somebody else.
    MessageId, "msg");
id!(
    /// A webhook.
    WebhookId, "whk");
id!(
    /// The link of an account to somebody at another provider.
    LinkId, "lnk");
id!(
    /// A running copy of a verifier.
    InstanceId, "ins");
id!(
    /// A server node, for as long as its process lives.
    NodeId, "nod");
id!(
    /// A run of a server on a database that belongs to one node.
    RunId, "run");
id!(
    /// A revocation log, made once per database.
    LogId, "log");

/// A client: an OAuth client or a verifier (`cli_…`), or the built-in first-party client `portcullis`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u128);

impl ClientId {
    /// The built-in client of `POST /v1/sessions`. Its bits are zero, which random ids never are in practice.
    pub const FIRST_PARTY: Self = Self(0);
    /// The client id made of these 128 bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
    /// The 128 bits.
    pub const fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::FIRST_PARTY {
            return f.write_str("portcullis");
        }
        with_text::<{ 4 + LEN }, _>("cli", self.0, |text| f.write_str(text)).unwrap_or(Err(fmt::Error))
    }
}
by_display!(ClientId);
text_form!(ClientId);

impl FromStr for ClientId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text == "portcullis" {
            return Ok(Self::FIRST_PARTY);
        }
        match text.strip_prefix("cli_").and_then(|rest| decode(rest.as_bytes())) {
            Some(bits) if bits != 0 => Ok(Self(bits)),
            _ => Err(ParseIdError { expected: "cli" }),
        }
    }
}

/// A signing key: numbered in the order of publication, over all epochs; `kid` reads `key_12`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u32);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", self.0)
    }
}
by_display!(KeyId);
text_form!(KeyId);

impl FromStr for KeyId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        // One spelling: digits only, and no zero in front.
        let digits = text.strip_prefix("key_").filter(|digits| {
            digits.bytes().all(|digit| digit.is_ascii_digit()) && (*digits == "0" || !digits.starts_with('0'))
        });
        digits.and_then(|digits| digits.parse().ok()).map(Self).ok_or(ParseIdError { expected: "key" })
    }
}

/// A position in the revocation log; gap-free in commit order. 0 is the position before the first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rev(pub u64);

impl Rev {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);
    /// The position after this one; `None` at the end of numbers.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The log's generation, new after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Text of any id, for audit records and messages.
pub fn text(id: impl fmt::Display) -> String {
    format!("{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_and_back_for_many() {
        let mut bits: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834;
        for _ in 0..5000 {
            bits = bits.wrapping_mul(0xda94_2042_e4dd_58b5).rotate_left(41).wrapping_add(1);
            let id = AccountId::from_bits(bits);
            assert_eq!(id.to_string().parse(), Ok(id));
            let id = ClientId::from_bits(bits | 1);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bits in [0, 1, u128::MAX] {
            let id = SessionId::from_bits(bits);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn one_spelling_only() {
        let id = AccountId::from_bits(u128::MAX);
        let text = id.to_string();
        assert_eq!(text, "acc_7zzzzzzzzzzzzzzzzzzzzzzzzz");
        for wrong in [
            "acc_8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "acc_7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "ses_7zzzzzzzzzzzzzzzzzzzzzzzzz",
            "acc_7zzzzzzzzzzzzzzzzzzzzzzzz",
            "acc_7zzzzzzzzzzzzzzzzzzzzzzzzzz",
            "acc_7zzzzzzzzzzzzzzzzzzzzzzzzi",
            "acc_",
            "",
        ] {
            assert!(wrong.parse::<AccountId>().is_err(), "{wrong}");
        }
        for wrong in ["key_01", "key_+1", "key_", "key_4294967296", "1"] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
        assert!("cli_00000000000000000000000000".parse::<ClientId>().is_err());
        assert_eq!("portcullis".parse(), Ok(ClientId::FIRST_PARTY));
    }
}
