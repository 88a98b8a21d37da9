//! Secrets that cannot be printed, and digests that are compared in constant time.
use alloc::{string::String, vec::Vec};
use core::fmt;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize;

/// A text that must not reach a log: a password, a refresh token, a client secret. Wiped when dropped.
#[derive(Clone)]
pub struct SecretString(String);

impl SecretString {
    /// Takes the secret in.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
    /// The secret itself. The name is meant to stand out in review.
    pub fn expose(&self) -> &str {
        &self.0
    }
    /// Its SHA-256 digest: what is stored of a secret of 256 random bits.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// Bytes that must not reach a log: a key. Wiped when dropped.
#[derive(Clone)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the secret in.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into())
    }
    /// The secret itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

macro_rules! redacts {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(concat!(stringify!($name), "(…)")) }
        }
        impl Drop for $name {
            fn drop(&mut self) { self.0.zeroize(); }
        }
    )*};
}
redacts!(SecretString, SecretBytes);

impl<'de> serde::Deserialize<'de> for SecretString {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self)
    }
}

/// A SHA-256 digest of a high-entropy secret. Equality is constant-time.
#[derive(Clone, Copy)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn nothing_prints() {
        let secret = SecretString::new("hunter2hunter2");
        assert!(!format!("{secret:?} {:?} {:?}", secret.digest(), SecretBytes::new(*b"hunter2")).contains("hunter"));
        assert_eq!(secret.digest(), Digest::of(b"hunter2hunter2"));
        assert_ne!(secret.digest(), Digest::of(b"hunter3"));
    }
}
