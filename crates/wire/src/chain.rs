//! The hash chain over the log: each link covers the one before and one entry, so two logs that agree on the hash at a rev
//! agree on every entry up to it.
use crate::{Entry, LogId, b64};
use alloc::{borrow::Cow, string::ToString};
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A link of the chain: 32 bytes, base64url on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// The link before the first entry of a log.
    pub fn genesis(log: LogId) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"portcullis log v1");
        hash.update(log.bits().to_be_bytes());
        Self(hash.finalize().into())
    }

    /// The link after `entry`.
    pub fn after(self, entry: &Entry) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(entry.rev.0.to_be_bytes());
        let mut text = |part: &str| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        };
        text(entry.verb.name());
        text(entry.target.scope());
        text(&entry.target.id());
        text(&entry.except.map(|s| s.to_string()).unwrap_or_default());
        hash.update(entry.spread_ms.unwrap_or(0).to_be_bytes());
        hash.update(entry.until.0.to_be_bytes());
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&b64::encode(&self.0))
    }
}
impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl Serialize for Chain {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text: Cow<'de, str> = Cow::deserialize(d)?;
        b64::decode_array(&text).map(Self).ok_or_else(|| serde::de::Error::custom("not 32 bytes in base64url"))
    }
}
