//! Tokens that are bound to a key (RFC 9449 §7): the request as its client signed it, and which proofs this instance has seen.
use crate::ConfigError;
use crate::config::parse_url;
use http::{HeaderMap, Method};
use portcullis_feed::Mono;
use portcullis_verify::proof::{self, First, Proven, SeenProofs};
use portcullis_wire::dpop::{BadProof, Call, address};
use portcullis_wire::{Digest, Time};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How many proofs are remembered at once, unless the configuration says otherwise: a thousand a second.
pub(crate) const DEFAULT_PROOFS: usize = 100_000;

/// Where clients reach a service: scheme, host, port, and what a proxy in front takes off the path. A proof names the address that its client
/// called, and a `Host` header is whatever somebody sent, so this is set, never guessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Arc<str>);

impl Address {
    /// As in `https://api.example` or `https://www.example/api`.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no address of http or https, or has a query.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        parse_url("the service's address", text)?;
        let known =
            address(text).ok_or_else(|| ConfigError(format!("the service's address {text:?} cannot be used")))?;
        Ok(Self(known.trim_end_matches('/').into()))
    }
}

/// What of a request a proof is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called<'a> {
    pub(crate) address: Option<&'a Address>,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
}

/// The proofs of an instance.
#[derive(Debug)]
pub(crate) struct Proofs {
    seen: Mutex<SeenProofs>,
    told: AtomicBool,
}

impl Proofs {
    pub(crate) fn new(most: usize) -> Self {
        Self { seen: Mutex::new(SeenProofs::with_limit(most)), told: AtomicBool::new(false) }
    }

    /// The key that the request's proof shows; whether it is the first of its id is asked later, once the token is known to be good.
    pub(crate) fn prove(
        &self,
        headers: &HeaderMap,
        called: &Called<'_>,
        token: &str,
        now: Time,
    ) -> Result<Proven, BadProof> {
        let mut all = headers.get_all("dpop").iter();
        let (first, second) = (all.next(), all.next());
        let text = first.filter(|_| second.is_none()).and_then(|value| value.to_str().ok()).ok_or(BadProof::NotOne)?;
        let Some(Address(base)) = called.address else {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a DPoP proof came, and the layer does not know its service's address: all are refused (VerifyLayer::address)"
                );
            }
            return Err(BadProof::Address);
        };
        let address = address(&format!("{base}{}", called.path)).ok_or(BadProof::Address)?;
        let call = Call { method: called.method.as_str(), address: &address, token: Some(token) };
        proof::signed(text, &call)?.by_its_time(now)
    }

    pub(crate) fn first(&self, once: &Digest, key: &Digest, now: Mono) -> First {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).first(once, key, now)
    }
}
