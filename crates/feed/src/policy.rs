//! What a verifier does while it is not fresh (DESIGN §2, fail policy).
use core::{fmt, str::FromStr};

/// What a route does without a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Policy {
    /// Refuse with `not_fresh`.
    #[default]
    Closed,
    /// Ask the server about the token (RFC 7662).
    Introspect,
    /// Accept until `exp`, and count it.
    Open,
}

impl Policy {
    /// The word on the wire and in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Introspect => "introspect",
            Self::Open => "open",
        }
    }
}

/// A word that is no fail policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownPolicy;

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a fail policy (closed, introspect, open)")
    }
}
impl core::error::Error for UnknownPolicy {}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;
    fn from_str(word: &str) -> Result<Self, UnknownPolicy> {
        match word {
            "closed" => Ok(Self::Closed),
            "introspect" => Ok(Self::Introspect),
            "open" => Ok(Self::Open),
            _ => Err(UnknownPolicy),
        }
    }
}

/// The policies that the routes of one verifier have: what it declares in `?policy=`, words separated by commas
/// (`closed,open`). The empty text means `closed`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policies(u8);

impl Policies {
    const ALL: [Policy; 3] = [Policy::Closed, Policy::Introspect, Policy::Open];

    /// Just this one.
    pub const fn only(policy: Policy) -> Self {
        Self(1 << policy as u8)
    }
    /// These and this one.
    pub const fn with(self, policy: Policy) -> Self {
        Self(self.0 | 1 << policy as u8)
    }
    /// These and those.
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
    /// Whether some route has this policy.
    pub const fn has(self, policy: Policy) -> bool {
        self.0 & (1 << policy as u8) != 0
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self::only(Policy::Closed)
    }
}

impl fmt::Display for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for policy in Self::ALL.into_iter().filter(|p| self.has(*p)) {
            write!(f, "{between}{policy}")?;
            between = ",";
        }
        Ok(())
    }
}
impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policies({self})")
    }
}

impl FromStr for Policies {
    type Err = UnknownPolicy;
    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.split(',').try_fold(Self(0), |all, word| Ok(all.with(word.parse()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn words_there_and_back() {
        for text in ["closed", "open", "closed,introspect", "closed,introspect,open"] {
            assert_eq!(text.parse::<Policies>().unwrap().to_string(), text);
        }
        assert_eq!("".parse(), Ok(Policies::only(Policy::Closed)));
        assert!("closed,".parse::<Policies>().is_err());
        assert!("Open".parse::<Policy>().is_err());
    }
}
