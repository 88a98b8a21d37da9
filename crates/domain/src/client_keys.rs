//! Keys of a client that stand at an address of its own (`jwks_uri`, RFC 7591 §2): when they are fetched, and which may be used.
//!
//! They are fetched when an assertion needs them, by whoever needs them first. A key that its client has taken away counts for
//! [`Spans::fresh`] more at most, unless its address fails: then what was there last goes on for [`Spans::usable`], and no longer. An
//! assertion may name any key that it likes, so one that no known key has signed asks the address again only so often
//! ([`Spans::again`]); an address that fails is left alone for longer and longer. Times are of a clock that is never set.
use alloc::vec::Vec;
use portcullis_wire::Millis;
use portcullis_wire::assertion::MAX_KEYS;
use portcullis_wire::jwk::PublicKey;
use serde_json::Value;

/// The longest key set, in bytes.
pub const MAX_DOCUMENT: usize = 64 << 10;

/// How long things count. In milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans {
    /// For how long keys are used without asking.
    pub fresh: Millis,
    /// For how long they are used while their address fails.
    pub usable: Millis,
    /// How soon after a fetch a key that is not among them has them fetched again.
    pub again: Millis,
    /// How long an address that fails is left alone at most.
    pub longest_rest: Millis,
}

impl Default for Spans {
    fn default() -> Self {
        Self { fresh: 5 * 60_000, usable: 3_600_000, again: 10_000, longest_rest: 5 * 60_000 }
    }
}

/// What is known of the keys at an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// When they were last fetched.
    pub fetched: Option<Millis>,
    /// When that was last tried.
    pub tried: Option<Millis>,
    /// How often it has failed since.
    pub failures: u32,
}

/// What is done with an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The key that signed it counts.
    Use,
    /// The keys are fetched first.
    Fetch,
    /// It is signed by none of the client's keys.
    Unknown,
    /// Nobody knows: the address fails.
    Unavailable,
}

impl Standing {
    /// The rule. `signed`: one of the keys that are known has signed it; `asking`: somebody is asking the address just now.
    pub fn step(&self, spans: &Spans, signed: bool, asking: bool, now: Millis) -> Step {
        let younger = |than: Millis| self.fetched.is_some_and(|at| now.saturating_sub(at) < than);
        let may_try = !asking && self.tried.is_none_or(|at| now.saturating_sub(at) >= self.rest(spans));
        let usable = younger(spans.usable);
        match (signed && younger(spans.fresh), may_try, signed && usable) {
            (true, ..) => Step::Use,
            (_, true, _) => Step::Fetch,
            (.., true) => Step::Use,
            _ if self.failures > 0 || !usable => Step::Unavailable,
            _ => Step::Unknown,
        }
    }

    /// How long the address is left alone after a try: after a failure twice as long each time.
    fn rest(&self, spans: &Spans) -> Millis {
        spans.again.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(spans.longest_rest)
    }

    /// A try is under way. It is noted before the call, for one that never ends is a failure.
    #[must_use]
    pub fn trying(&self, now: Millis) -> Self {
        Self { tried: Some(now), failures: self.failures.saturating_add(1), ..*self }
    }

    /// It has come to an end: `now` is after the call, so that those who waited for it do not call again one after another.
    #[must_use]
    pub fn tried(&self, worked: bool, now: Millis) -> Self {
        match worked {
            true => Self { fetched: Some(now), tried: Some(now), failures: 0 },
            false => Self { tried: Some(now), ..*self },
        }
    }
}

/// The keys of a set that somebody keeps for many purposes (RFC 7517 §5): those that can be used here. Others are passed over.
///
/// # Errors
/// In words, when it is no set, or has no such key, or more than 16.
pub fn read(document: &[u8]) -> Result<Vec<PublicKey>, &'static str> {
    let set: Value = portcullis_wire::json::from_slice(document).map_err(|_| "what is there is no JSON")?;
    let list = set.get("keys").and_then(Value::as_array).ok_or("what is there is no JWK Set")?;
    let keys: Vec<PublicKey> = list.iter().filter_map(|key| PublicKey::from_json(key).ok()).collect();
    match keys.len() {
        0 => Err("no key that is there can be used"),
        1..=MAX_KEYS => Ok(keys),
        _ => Err("there are more than 16 keys"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::String, vec};

    const SPANS: Spans = Spans { fresh: 300, usable: 3_600, again: 10, longest_rest: 100 };

    fn fetched(at: Millis) -> Standing {
        Standing::default().trying(at).tried(true, at)
    }

    #[test]
    fn keys_are_fetched_when_they_are_needed_and_not_known() {
        assert_eq!(Standing::default().step(&SPANS, false, false, 5), Step::Fetch);
        let known = fetched(1_000);
        assert_eq!(known, Standing { fetched: Some(1_000), tried: Some(1_000), failures: 0 });
        for (now, signed, step) in [
            (1_000, true, Step::Use),
            (1_299, true, Step::Use),
            (1_300, true, Step::Fetch), // what was taken away there is taken away here
            (1_009, false, Step::Unknown),
            (1_010, false, Step::Fetch), // perhaps a new one
            (9_999, false, Step::Fetch),
        ] {
            assert_eq!(known.step(&SPANS, signed, false, now), step, "{now} {signed}");
        }
    }

    /// Of a thousand assertions that no key has signed, in a thousand moments, few ask the address.
    #[test]
    fn garbage_asks_rarely() {
        let (mut standing, mut calls) = (Standing::default(), 0);
        for now in 0..1_000 {
            if standing.step(&SPANS, false, false, now) == Step::Fetch {
                calls += 1;
                standing = standing.trying(now).tried(true, now);
            }
        }
        assert_eq!(calls, 1_000 / SPANS.again);
        // And an address that fails is asked less and less.
        let (mut standing, mut asked) = (Standing::default(), vec![]);
        for now in 0..500 {
            if standing.step(&SPANS, true, false, now) == Step::Fetch {
                asked.push(now);
                standing = standing.trying(now).tried(false, now);
            }
        }
        assert_eq!(asked, [0, 10, 30, 70, 150, 250, 350, 450]);
    }

    #[test]
    fn old_keys_go_on_for_a_while_when_the_address_fails() {
        let mut standing = fetched(0);
        let mut last_used = 0;
        for now in 0..8_000 {
            match standing.step(&SPANS, true, false, now) {
                Step::Use => last_used = now,
                Step::Fetch => {
                    standing = standing.trying(now);
                    // While it is under way nobody waits who holds a key that counts.
                    let meanwhile = if now + SPANS.again < SPANS.usable { Step::Use } else { Step::Unavailable };
                    assert_eq!(standing.step(&SPANS, true, true, now + SPANS.again), meanwhile);
                    standing = standing.tried(false, now);
                }
                Step::Unavailable => assert!(now >= SPANS.usable, "{now}"),
                Step::Unknown => panic!("{now}"),
            }
            // What nobody knows is told as that.
            let unknown = standing.step(&SPANS, false, false, now);
            assert!(unknown == Step::Fetch || (unknown == Step::Unavailable) == (standing.failures > 0), "{now}");
        }
        assert_eq!(last_used, SPANS.usable - 1);
        assert_eq!(standing.tried(true, 9_000), fetched(9_000));
        assert_eq!(Standing { failures: u32::MAX, ..standing }.trying(9_000).rest(&SPANS), SPANS.longest_rest);
    }

    #[test]
    fn a_set_is_read_for_what_can_be_used() {
        let good = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
        let others = [
            r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#.into(),
            r#"{"kty":"oct","k":"AAAA"}"#.into(),
            good.replace("}", r#","use":"enc"}"#),
            good.replace("}", r#","d":"AAAA"}"#),
            String::from("7"),
        ];
        let set = |keys: &[String]| read(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes());
        let mut mixed = others.to_vec();
        mixed.push(good.into());
        assert_eq!(set(&mixed).unwrap().len(), 1);
        assert!(set(&others).is_err() && set(&[]).is_err());
        assert!(set(&vec![good.into(); MAX_KEYS]).is_ok() && set(&vec![good.into(); MAX_KEYS + 1]).is_err());
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
