//! How a call through the public address arrives, for `portcullis doctor`.
//!
//! Whether the proxies in front say who calls, and whether this server believes the right ones, nobody can tell from settings.
//! So the operator asks for a word, sends it through the public address with hop headers of their own, and is shown what came of
//! them. While nobody asks, a request costs one look at a flag.
use http::HeaderMap;
use portcullis_app::real;
use portcullis_domain::Chance as _;
use portcullis_wire::{Digest, SecretString, b64};
use serde::Serialize;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The header with the word.
pub const HEADER: &str = "portcullis-probe";
/// How long a word is waited for, in microseconds.
const PATIENCE_US: i64 = 30_000_000;
/// As much of a header is shown, in bytes.
const SHOWN: usize = 512;

/// What an operator asks, if anybody does: one question at a time, the last one counts.
#[derive(Debug, Default)]
pub struct Probe {
    asked: AtomicBool,
    question: Mutex<Option<Question>>,
}

#[derive(Debug)]
struct Question {
    word: Digest,
    until_us: i64,
    seen: Option<Seen>,
}

/// A call as it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// From where the connection came.
    pub peer: Option<IpAddr>,
    /// Whether that is a trusted proxy.
    pub trusted: bool,
    /// Who is taken for the caller.
    pub caller: Option<IpAddr>,
    /// `X-Forwarded-For`, all of them.
    pub x_forwarded_for: Vec<String>,
    /// `Forwarded` (RFC 7239), all of them.
    pub forwarded: Vec<String>,
}

impl Probe {
    fn question(&self) -> MutexGuard<'_, Option<Question>> {
        self.question.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The word to send within thirty seconds.
    pub(crate) fn ask(&self) -> SecretString {
        let word = SecretString::new(b64::encode(&real::RealChance.secret()));
        let until_us = real::mono_us() + PATIENCE_US;
        *self.question() = Some(Question { word: word.digest(), until_us, seen: None });
        self.asked.store(true, Relaxed);
        word
    }

    /// What came since the last question, which is over with that.
    pub(crate) fn answer(&self) -> Option<Seen> {
        self.asked.store(false, Relaxed);
        self.question().take().and_then(|question| question.seen)
    }

    /// A call has come.
    pub(crate) fn look(&self, headers: &HeaderMap, peer: Option<IpAddr>, trusted: bool, caller: Option<IpAddr>) {
        if !self.asked.load(Relaxed) {
            return;
        }
        let Some(word) = headers.get(HEADER).and_then(|value| value.to_str().ok()) else { return };
        let mut question = self.question();
        let Some(question) = question.as_mut().filter(|question| question.until_us > real::mono_us()) else {
            return self.asked.store(false, Relaxed);
        };
        if question.word == Digest::of(word.as_bytes()) {
            let (x_forwarded_for, forwarded) = (shown(headers, "x-forwarded-for"), shown(headers, "forwarded"));
            question.seen = Some(Seen { peer, trusted, caller, x_forwarded_for, forwarded });
        }
    }
}

fn shown(headers: &HeaderMap, name: &str) -> Vec<String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(&value.as_bytes()[..value.len().min(SHOWN)]).into();
    headers.get_all(name).iter().take(8).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(word: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, word.parse().unwrap());
        headers.append("x-forwarded-for", "192.0.2.77".parse().unwrap());
        headers.append("x-forwarded-for", "198.51.100.7".parse().unwrap());
        headers
    }

    #[test]
    fn only_the_word_that_was_asked_for_is_seen_and_once() {
        let (probe, peer) = (Probe::default(), Some(IpAddr::from([10, 0, 0, 1])));
        probe.look(&call("anything"), peer, true, peer);
        assert_eq!(probe.answer(), None, "nobody asked");
        let (first, second) = (probe.ask(), probe.ask());
        probe.look(&call(first.expose()), peer, true, peer);
        assert_eq!(probe.answer(), None, "another one has asked since");
        probe.look(&call(second.expose()), peer, true, peer);
        assert_eq!(probe.answer(), None, "the question was over");
        let word = probe.ask();
        probe.look(&HeaderMap::new(), peer, true, peer);
        probe.look(&call(word.expose()), peer, true, peer);
        let seen = probe.answer().unwrap();
        assert_eq!((seen.peer, seen.trusted, seen.caller), (peer, true, peer));
        assert_eq!((seen.x_forwarded_for, seen.forwarded), (vec!["192.0.2.77".into(), "198.51.100.7".into()], vec![]));
        assert_eq!(probe.answer(), None);
    }
}
