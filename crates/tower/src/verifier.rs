//! The handle that services hold.
use crate::answer::Refusal;
use crate::config::{Config, ConfigError, parse_url};
use crate::dpop::{Address, Called, Proofs};
use crate::follow::Heard;
use crate::guard::Guard;
use crate::http1::Client;
use crate::introspect::Introspection;
use crate::judging::{Judge, Shared, Task};
use crate::metrics::Metrics;
use crate::sightings::Sightings;
use crate::stripe::{STRIPES, stripe};
use crate::{follow, real};
use arc_swap::ArcSwap;
use http::{HeaderMap, Method};
use portcullis_feed::{Knowledge, Mono, Policy, RevokedSet};
use portcullis_verify::{Authentic, Cache, Holder, View};
use portcullis_wire::{AccessClaims, Epoch, Rev};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Follows the feed and judges tokens. Cheap to clone; the last handle that is dropped ends its task.
#[derive(Debug, Clone)]
pub struct Verifier {
    judges: Arc<[Arc<Judge>; STRIPES]>,
}

/// What a route asks of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// What to do while not fresh.
    pub policy: Policy,
    /// Scopes that the token must all have.
    pub scopes: Arc<[String]>,
}

/// A token that was accepted for one request.
#[derive(Debug, Clone)]
pub struct Verified {
    pub(crate) token: Arc<Authentic>,
    pub(crate) proven: bool,
    /// How it was shown.
    pub(crate) holder: Holder,
    /// What it was judged by; open connections are judged by the same again.
    pub(crate) rule: Rule,
    /// Until when the server's own word counts, when it was asked.
    pub(crate) vouched_until: Option<Mono>,
    pub(crate) judge: Arc<Judge>,
}

impl Verified {
    /// The claims.
    pub fn claims(&self) -> &AccessClaims {
        self.token.claims()
    }
    /// Whether the token was proven alive; `false` only on a route under `open` while not fresh.
    pub fn is_proven(&self) -> bool {
        self.proven
    }
    /// Notes that this token was shown from there, for the server's rules about suspicious activity ([`Config::sightings`]; without
    /// that nothing happens). `ip` is the client's own address: behind a proxy, what a trusted one says. It waits for nothing, and what does
    /// not fit is left out; of one session and network the server is told once a minute.
    pub fn seen_from(&self, ip: IpAddr, user_agent: Option<&str>) {
        if let Some(seen) = &self.judge.shared.sightings {
            seen.note(self.claims().sid, ip, user_agent, real::mono());
        }
    }
    /// A guard for a connection that outlives the request: it tells when the newest token shown on it no longer carries it.
    pub fn guard(&self) -> Guard {
        Guard::new(self.clone())
    }
}

/// How a verifier stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// What is known is proven recent enough; routes under `closed` accept.
    pub fresh: bool,
    /// A first snapshot is there.
    pub synced: bool,
    /// The stream is open.
    pub connected: bool,
    /// The generation that is followed.
    pub epoch: Epoch,
    /// Everything up to here is applied.
    pub applied: Rev,
    /// How long the lease lasts still; not above 0 when there is none.
    pub lease_ms: i64,
    /// How many revocations are kept.
    pub set_entries: usize,
    /// How many were widened because the set was full.
    pub set_overflowed: u64,
    /// How many were widened because they were not understood.
    pub set_not_understood: u64,
}

impl Verifier {
    /// Begins to follow the feed, on the runtime that this is called on. Returns at once; nothing is accepted on routes under
    /// `closed` until [`Verifier::is_fresh`].
    ///
    /// # Errors
    /// [`ConfigError`] for addresses or credentials that cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`tokio::spawn`] does.
    pub fn start(config: Config) -> Result<Self, ConfigError> {
        let feed = parse_url("the feed's address", &config.feed_url)?;
        if feed.scheme() == Some(&http::uri::Scheme::HTTP) && !is_loopback(&feed) {
            tracing::warn!(%feed, "the feed is followed without TLS: whoever is on the way reads the client's secret and can forge keys");
        }
        let client = Arc::new(Client::new(&config.client_id, &config.client_secret, config.tls.clone())?);
        let introspection =
            Introspection::new(parse_url("the introspection address", &config.introspect_url)?, client.clone());
        let (told, hears) = mpsc::channel(256);
        let shared = Arc::new(Shared {
            view: ArcSwap::from_pointee(View::new(Knowledge::nothing(RevokedSet::with_limit(config.set_limit)))),
            changed: watch::Sender::new(0),
            expect: config.expect.clone(),
            metrics: Metrics::default(),
            connected: AtomicBool::new(false),
            stream_grace_ms: config.stream_grace_ms,
            proofs: Proofs::new(config.proofs),
            policies: Mutex::new(config.policies),
            catching_up: AtomicBool::new(false),
            cache: Cache::new(config.cache_slots),
            ahead: Mutex::default(),
            introspection,
            sightings: config.sightings.then(|| Sightings::new(real::chance())),
        });
        let following =
            tokio::spawn(follow::run(config, feed, client, shared.clone(), told.clone(), hears)).abort_handle();
        let task = Arc::new(Task { told, following });
        let judge = |_| Arc::new(Judge { shared: shared.clone(), task: task.clone() });
        Ok(Self { judges: Arc::new(std::array::from_fn(judge)) })
    }

    /// The one that this thread takes.
    pub(crate) fn judge(&self) -> &Arc<Judge> {
        &self.judges[stripe()]
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.judge().shared
    }

    /// Whether what is known is proven recent enough: then routes under `closed` accept. For readiness probes.
    pub fn is_fresh(&self) -> bool {
        let (now, wall) = real::clocks();
        self.shared().view.load().known.fresh(now, wall)
    }

    /// Waits until [`Verifier::is_fresh`]; `false` when that takes longer than `limit`.
    pub async fn wait_fresh(&self, limit: Duration) -> bool {
        let mut changed = self.shared().changed.subscribe();
        let wait = async { while !self.is_fresh() && changed.changed().await.is_ok() {} };
        tokio::time::timeout(limit, wait).await.is_ok() && self.is_fresh()
    }

    /// Waits until everything up to `rev` is applied, or a later generation is followed; `false` when that takes longer than
    /// `limit`. For who has just ended something, was told its rev, and goes on here.
    pub async fn wait_applied(&self, rev: Rev, limit: Duration) -> bool {
        let mut changed = self.shared().changed.subscribe();
        let begun = self.shared().view.load().known.epoch;
        let applied = || {
            let view = self.shared().view.load();
            view.known.applied >= rev || view.known.epoch > begun
        };
        let wait = async { while !applied() && changed.changed().await.is_ok() {} };
        tokio::time::timeout(limit, wait).await.is_ok() && applied()
    }

    /// How this verifier stands.
    pub fn readiness(&self) -> Readiness {
        let (now, wall) = real::clocks();
        let view = self.shared().view.load();
        let known = &view.known;
        Readiness {
            fresh: known.fresh(now, wall),
            synced: known.synced,
            connected: self.shared().connected.load(Ordering::Relaxed),
            epoch: known.epoch,
            applied: known.applied,
            lease_ms: known.lease.map_or(0, |lease| lease.until.since(now)),
            set_entries: known.set.len(),
            set_overflowed: known.set.overflowed(),
            set_not_understood: known.set.not_understood(),
        }
    }

    /// Metrics in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.shared().metrics.text(&self.readiness())
    }

    /// Tells the server that some route has this policy, for it says in `enforced` which verifiers accept until `exp`.
    pub fn declare(&self, policy: Policy) {
        let mut declared = self.shared().policies.lock().unwrap_or_else(PoisonError::into_inner);
        if !declared.has(policy) {
            *declared = declared.with(policy);
            // A full channel has one of these or a catch-up in it; the policies are read when the next stream opens.
            let _ = self.judge().task.told.try_send(Heard::Policies);
        }
    }

    /// Judges a bearer token for one request. One that is bound to a key is refused: [`crate::VerifyLayer`] and [`Verifier::verify_request`]
    /// look at its proof.
    ///
    /// # Errors
    /// [`Refusal`]: its code, and the response that says so.
    pub async fn verify(&self, token: &str, rule: &Rule) -> Result<Verified, Refusal> {
        self.judge().verify_as(token, Holder::Bearer, rule).await
    }

    /// As [`Verifier::verify`], for the token in the `Authorization` header (RFC 6750 §2.1).
    ///
    /// # Errors
    /// [`Refusal`], `token_missing` among them.
    pub async fn verify_headers(&self, headers: &HeaderMap, rule: &Rule) -> Result<Verified, Refusal> {
        let judge = self.judge();
        let called = Called { address: None, method: &Method::GET, path: "/" };
        let outcome = judge.outcome_of(headers, &called, rule);
        judge.finish(outcome, rule).await
    }

    /// As [`Verifier::verify_headers`], for bearer tokens and for those that are bound to a key: by scheme DPoP, with a proof for this request at
    /// `address` (RFC 9449 §7).
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn verify_request(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        address: &Address,
        rule: &Rule,
    ) -> Result<Verified, Refusal> {
        let judge = self.judge();
        let outcome = judge.outcome_of(headers, &Called { address: Some(address), method, path }, rule);
        judge.finish(outcome, rule).await
    }
}

/// Whether an address can only be this machine's own.
fn is_loopback(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
