//! By which methods somebody proved who they are: `amr` of tokens (RFC 8176, OpenID Connect Core §2).
//!
//! Said is what is known. Whoever gave their password here used `pwd`. Whoever came from another provider used what that provider
//! says, and when it says nothing, or nothing that reads, no method is named: RFC 8176 has no value for "signed in elsewhere", and
//! `pwd` would be a guess.
use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The method of a sign-in by password (RFC 8176 §2).
const PASSWORD: &str = "pwd";
/// The most methods that another provider may name.
const MAX_METHODS: usize = 8;
/// The longest name of one, in bytes.
const MAX_METHOD: usize = 32;

/// The methods of one proof, in the order that they were named in, once each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amr(String);

impl Default for Amr {
    /// A password: what every row and ticket of before there was a choice rests on.
    fn default() -> Self {
        Self(PASSWORD.to_owned())
    }
}

impl Amr {
    /// Nothing is known about how.
    pub fn unknown() -> Self {
        Self(String::new())
    }

    /// What another provider says. When a name is none that a token should repeat (empty, longer than 32 bytes, other characters
    /// than letters, digits, `-`, `_`, `.`, `:`, `/`), or there are more than 8, nothing is known.
    pub fn elsewhere(said: &[String]) -> Self {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b);
        let sane = |name: &String| (1..=MAX_METHOD).contains(&name.len()) && name.bytes().all(plain);
        if said.len() > MAX_METHODS || !said.iter().all(sane) {
            return Self::unknown();
        }
        let mut once: Vec<&str> = Vec::new();
        for name in said {
            if !once.contains(&name.as_str()) {
                once.push(name);
            }
        }
        Self(once.join(" "))
    }

    /// As tokens say it; empty when nothing is known.
    pub fn methods(&self) -> Vec<String> {
        self.0.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// As databases keep it: a password alone is nothing, which is what rows of before have.
    pub fn kept(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| *text != PASSWORD)
    }

    /// From what a database kept.
    pub fn read(kept: Option<String>) -> Self {
        kept.map_or_else(Self::default, Self)
    }

    /// As databases keep it where nothing means that it is not known, and not a password: what rows of before had no place for.
    pub fn told(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }

    /// From what a database kept like that.
    pub fn read_told(told: Option<String>) -> Self {
        told.map_or_else(Self::unknown, Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    fn said(names: &[&str]) -> Amr {
        Amr::elsewhere(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn what_another_provider_says_is_repeated_when_it_is_sane() {
        assert_eq!(said(&["pwd", "otp", "mfa"]).methods(), ["pwd", "otp", "mfa"]);
        assert_eq!(said(&["hwk", "hwk"]).methods(), ["hwk"]);
        assert_eq!(said(&["urn:example:face", "ngcmfa"]).methods(), ["urn:example:face", "ngcmfa"]);
        assert_eq!(said(&["pwd"]), Amr::default());
    }

    #[test]
    fn what_is_not_is_as_nothing() {
        let long = "x".repeat(33);
        let many = ["a"; 9];
        for names in [&[][..], &[""], &["pwd otp"], &["pwd", "\u{e9}"], &["<b>"], &[&long], &many] {
            assert_eq!(said(names), Amr::unknown(), "{names:?}");
        }
        assert_eq!(Amr::unknown().methods(), Vec::<String>::new());
    }

    #[test]
    fn databases_keep_it_as_it_is() {
        for amr in [Amr::default(), Amr::unknown(), said(&["pwd", "otp"])] {
            assert_eq!(Amr::read(amr.kept().map(str::to_owned)), amr);
            assert_eq!(Amr::read_told(amr.told().map(str::to_owned)), amr);
        }
        assert_eq!([Amr::default().kept(), Amr::unknown().kept()], [None, Some("")]);
        assert_eq!([Amr::default().told(), Amr::unknown().told()], [Some("pwd"), None]);
    }
}
