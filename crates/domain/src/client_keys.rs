//! Keys of a client that stand at an address of its own (`jwks_uri`, RFC 7591 §2): when they are fetched, and which may be used.
//!
//! They are fetched when an assertion needs them, by whoever needs them first. A key that its client has taken away counts for
//! [`Spans::fresh`] more at most, and for [`Spans::meanwhile`] while they are asked for; unless its address fails: then what was there
//! last goes on for [`Spans::usable`], and no longer. All three count from when they were asked for, for the answer may have been on its
//! way for long. An assertion may name any key that it likes, so one that no known key has signed asks the address again only so often
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
    /// For how much longer they are used while somebody asks: longer than a call may take. After a rest that was longer than that
    /// everybody waits for the answer, or a key that was taken away long ago would count once more.
    pub meanwhile: Millis,
    /// For how long they are used while their address fails.
    pub usable: Millis,
    /// How soon after a fetch a key that is not among them has them fetched again.
    pub again: Millis,
    /// How long an address that fails is left alone at most.
    pub longest_rest: Millis,
}

impl Default for Spans {
    fn default() -> Self {
        Self { fresh: 5 * 60_000, meanwhile: 15_000, usable: 3_600_000, again: 10_000, longest_rest: 5 * 60_000 }
    }
}

/// What is known of the keys at an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// When those that are known were asked for.
    pub fetched: Option<Millis>,
    /// When that was last tried.
    pub tried: Option<Millis>,
    /// How often it has failed since.
    pub failures: u32,
}

/// Whether the address can be asked just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It can.
    Free,
    /// Somebody is asking it.
    Busy,
    /// It cannot: as many others are being asked as may be.
    Full,
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
    /// The rule. `signed`: one of the keys that are known has signed it. With [`Line::Busy`], [`Step::Fetch`] means to wait for who asks.
    pub fn step(&self, spans: &Spans, signed: bool, line: Line, now: Millis) -> Step {
        let younger = |than: Millis| self.fetched.is_some_and(|at| now.saturating_sub(at) < than);
        let rested = self.tried.is_none_or(|at| now.saturating_sub(at) >= self.rest(spans));
        // Whoever asks just now has counted their own try.
        let fails = line == Line::Full || self.failures > u32::from(line == Line::Busy);
        let goes_on = younger(if fails { spans.usable } else { spans.fresh.saturating_add(spans.meanwhile) });
        match line {
            _ if signed && younger(spans.fresh) => Step::Use,
            Line::Free if rested => Step::Fetch,
            _ if signed && goes_on => Step::Use,
            Line::Busy => Step::Fetch,
            // One of its keys, and too old: the call took longer than they count (a node that stood still). Nobody is wrong.
            _ if fails || signed || !younger(spans.usable) => Step::Unavailable,
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

    /// It has come to an end: `now` is after the call, so that those who waited for it do not call again one after another. What was
    /// fetched may have been taken away since it was asked for.
    #[must_use]
    pub fn tried(&self, worked: bool, now: Millis) -> Self {
        match worked {
            true => Self { fetched: self.tried, tried: Some(now), failures: 0 },
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

    const SPANS: Spans = Spans { fresh: 300, meanwhile: 15, usable: 3_600, again: 10, longest_rest: 100 };

    fn fetched(at: Millis) -> Standing {
        Standing::default().trying(at).tried(true, at)
    }

    #[test]
    fn keys_are_fetched_when_they_are_needed_and_not_known() {
        assert_eq!(Standing::default().step(&SPANS, false, Line::Free, 5), Step::Fetch);
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
            assert_eq!(known.step(&SPANS, signed, Line::Free, now), step, "{now} {signed}");
        }
    }

    /// Of a thousand assertions that no key has signed, in a thousand moments, few ask the address.
    #[test]
    fn garbage_asks_rarely() {
        let (mut standing, mut calls) = (Standing::default(), 0);
        for now in 0..1_000 {
            if standing.step(&SPANS, false, Line::Free, now) == Step::Fetch {
                calls += 1;
                standing = standing.trying(now).tried(true, now);
            }
        }
        assert_eq!(calls, 1_000 / SPANS.again);
        // And an address that fails is asked less and less.
        let (mut standing, mut asked) = (Standing::default(), vec![]);
        for now in 0..500 {
            if standing.step(&SPANS, true, Line::Free, now) == Step::Fetch {
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
            match standing.step(&SPANS, true, Line::Free, now) {
                Step::Use => last_used = now,
                Step::Fetch => {
                    standing = standing.trying(now);
                    // While it is under way nobody waits who holds a key that counts.
                    let meanwhile = if now + SPANS.again < SPANS.usable { Step::Use } else { Step::Fetch };
                    assert_eq!(standing.step(&SPANS, true, Line::Busy, now + SPANS.again), meanwhile);
                    standing = standing.tried(false, now);
                }
                Step::Unavailable => assert!(now >= SPANS.usable, "{now}"),
                Step::Unknown => panic!("{now}"),
            }
            // What nobody knows is told as that.
            let unknown = standing.step(&SPANS, false, Line::Free, now);
            assert!(unknown == Step::Fetch || (unknown == Step::Unavailable) == (standing.failures > 0), "{now}");
        }
        assert_eq!(last_used, SPANS.usable - 1);
        assert_eq!(standing.trying(9_000).tried(true, 9_000), fetched(9_000));
        assert_eq!(Standing { failures: u32::MAX, ..standing }.trying(9_000).rest(&SPANS), SPANS.longest_rest);
    }

    /// After a rest nobody knows what was taken away meanwhile: all wait for the answer, and not only who asks.
    #[test]
    fn while_the_keys_are_asked_for_old_ones_go_on_for_a_moment_only() {
        let meanwhile = |rest| fetched(0).trying(rest).step(&SPANS, true, Line::Busy, rest + 1);
        assert_eq!(meanwhile(SPANS.fresh), Step::Use);
        assert_eq!(meanwhile(SPANS.fresh + SPANS.meanwhile - 2), Step::Use);
        assert_eq!(meanwhile(SPANS.fresh + SPANS.meanwhile - 1), Step::Fetch);
        assert_eq!(meanwhile(SPANS.usable - 2), Step::Fetch);
        // When the call has failed it is known that nobody can know, and after that also while it is called again.
        let failed = fetched(0).trying(1_000).tried(false, 1_005);
        assert_eq!(failed.step(&SPANS, true, Line::Free, 1_006), Step::Use);
        assert_eq!(failed.trying(1_020).step(&SPANS, true, Line::Busy, 1_021), Step::Use);
        assert_eq!(failed.trying(1_020).step(&SPANS, false, Line::Busy, 1_021), Step::Fetch, "it may be a new one");
        // Whoever keeps all the places busy takes no client's keys away.
        let full = |signed, now| fetched(0).step(&SPANS, signed, Line::Full, now);
        assert_eq!((full(true, 3_599), full(true, 3_600)), (Step::Use, Step::Unavailable));
        assert_eq!(full(false, 10), Step::Unavailable);
    }

    /// A call may take long, and what it brings may be gone when it comes.
    #[test]
    fn keys_are_as_old_as_the_question() {
        let slow = Standing::default().trying(1_000).tried(true, 1_200);
        assert_eq!(slow.step(&SPANS, true, Line::Free, 1_299), Step::Use);
        assert_eq!(slow.step(&SPANS, true, Line::Free, 1_300), Step::Fetch);
        // Those who waited for it do not ask again.
        assert_eq!(slow.step(&SPANS, false, Line::Free, 1_209), Step::Unknown);
        // A node that stood still for longer than keys count knows nothing, and says so until it may ask again.
        let still = Standing::default().trying(1_000).tried(true, 1_400);
        assert_eq!(still.step(&SPANS, true, Line::Free, 1_409), Step::Unavailable);
        assert_eq!(still.step(&SPANS, true, Line::Free, 1_410), Step::Fetch);
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
