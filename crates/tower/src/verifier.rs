//! The handle that services hold, and the judgement of one request.
use crate::answer::Refusal;
use crate::cache::Cache;
use crate::config::{Config, ConfigError, parse_url};
use crate::dpop::{Address, Called, Proofs};
use crate::follow::{Heard, Upper};
use crate::guard::Guard;
use crate::http1::Client;
use crate::introspect::Introspection;
use crate::metrics::Metrics;
use crate::sightings::Sightings;
use crate::{follow, real};
use arc_swap::ArcSwap;
use http::{HeaderMap, Method, header};
use portcullis_feed::{Knowledge, Mono, Policies, Policy, RevokedSet, Subscriber};
use portcullis_verify::proof::First;
use portcullis_verify::{
    AheadRecord, Authentic, Decision, Expect, Holder, Reason, Verdict, View, authenticate, judge_claims, unauthentic,
};
use portcullis_wire::dpop::BadProof;
use portcullis_wire::frame::Sighting;
use portcullis_wire::{AccessClaims, Code, Digest, Epoch, Rev, Time};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) view: ArcSwap<View>,
    /// Bumped after each new view; guards wait on it, requests never touch it.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) expect: Expect,
    pub(crate) metrics: Metrics,
    pub(crate) connected: AtomicBool,
    pub(crate) stream_grace_ms: i64,
    pub(crate) proofs: Proofs,
    pub(crate) policies: Mutex<Policies>,
    catching_up: AtomicBool,
    cache: Cache,
    ahead: Mutex<AheadRecord>,
    introspection: Introspection,
    sightings: Option<Sightings>,
}

impl Upper for Shared {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
    fn policies(&self) -> Policies {
        *self.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn publish(&self, subscriber: &mut Subscriber) {
        let next = self.view.load().next(subscriber.knowledge().clone());
        self.view.store(Arc::new(next));
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
    fn connected(&self, yes: bool) {
        self.connected.store(yes, Ordering::Relaxed);
    }
    fn sightings(&self) -> Vec<Sighting> {
        self.sightings.as_ref().map_or_else(Vec::new, |seen| seen.waiting(real::mono()))
    }
    fn caught_up(&self) {
        self.catching_up.store(false, Ordering::Release);
    }
}

/// Ends the following task with the last handle.
#[derive(Debug)]
struct Task {
    told: mpsc::Sender<Heard>,
    following: tokio::task::AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Follows the feed and judges tokens. Cheap to clone; the last handle that is dropped ends its task.
#[derive(Debug, Clone)]
pub struct Verifier {
    pub(crate) shared: Arc<Shared>,
    task: Arc<Task>,
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
    pub(crate) verifier: Verifier,
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
        if let Some(seen) = &self.verifier.shared.sightings {
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

/// Whether a token still carries an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    Yes,
    No(Reason),
}

/// What is to be done with a request, as far as that is known at once.
#[derive(Debug)]
pub(crate) enum Outcome {
    Pass(Verified),
    Refuse(Refusal),
    /// Ask the server about this token; the claims are there if its signature could be verified.
    Ask(String, Option<Arc<Authentic>>, Holder),
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
        Ok(Self { shared, task: Arc::new(Task { told, following }) })
    }

    /// Whether what is known is proven recent enough: then routes under `closed` accept. For readiness probes.
    pub fn is_fresh(&self) -> bool {
        let (now, wall) = real::clocks();
        self.shared.view.load().known.fresh(now, wall)
    }

    /// Waits until [`Verifier::is_fresh`]; `false` when that takes longer than `limit`.
    pub async fn wait_fresh(&self, limit: Duration) -> bool {
        let mut changed = self.shared.changed.subscribe();
        let wait = async { while !self.is_fresh() && changed.changed().await.is_ok() {} };
        tokio::time::timeout(limit, wait).await.is_ok() && self.is_fresh()
    }

    /// Waits until everything up to `rev` is applied, or a later generation is followed; `false` when that takes longer than
    /// `limit`. For who has just ended something, was told its rev, and goes on here.
    pub async fn wait_applied(&self, rev: Rev, limit: Duration) -> bool {
        let mut changed = self.shared.changed.subscribe();
        let begun = self.shared.view.load().known.epoch;
        let applied = || {
            let view = self.shared.view.load();
            view.known.applied >= rev || view.known.epoch > begun
        };
        let wait = async { while !applied() && changed.changed().await.is_ok() {} };
        tokio::time::timeout(limit, wait).await.is_ok() && applied()
    }

    /// How this verifier stands.
    pub fn readiness(&self) -> Readiness {
        let (now, wall) = real::clocks();
        let view = self.shared.view.load();
        let known = &view.known;
        Readiness {
            fresh: known.fresh(now, wall),
            synced: known.synced,
            connected: self.shared.connected.load(Ordering::Relaxed),
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
        self.shared.metrics.text(&self.readiness())
    }

    /// Tells the server that some route has this policy, for it says in `enforced` which verifiers accept until `exp`.
    pub fn declare(&self, policy: Policy) {
        let mut declared = self.shared.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if !declared.has(policy) {
            *declared = declared.with(policy);
            // A full channel has one of these or a catch-up in it; the policies are read when the next stream opens.
            let _ = self.task.told.try_send(Heard::Policies);
        }
    }

    /// Judges a bearer token for one request. One that is bound to a key is refused: [`crate::VerifyLayer`] and [`Verifier::verify_request`]
    /// look at its proof.
    ///
    /// # Errors
    /// [`Refusal`]: its code, and the response that says so.
    pub async fn verify(&self, token: &str, rule: &Rule) -> Result<Verified, Refusal> {
        self.verify_as(token, Holder::Bearer, rule).await
    }

    pub(crate) async fn verify_as(&self, token: &str, holder: Holder, rule: &Rule) -> Result<Verified, Refusal> {
        let outcome = self.outcome(token, rule, |_| Ok((holder, None)));
        self.finish(outcome, rule).await
    }

    /// As [`Verifier::verify`], for the token in the `Authorization` header (RFC 6750 §2.1).
    ///
    /// # Errors
    /// [`Refusal`], `token_missing` among them.
    pub async fn verify_headers(&self, headers: &HeaderMap, rule: &Rule) -> Result<Verified, Refusal> {
        let called = Called { address: None, method: &Method::GET, path: "/" };
        let outcome = self.outcome_of(headers, &called, rule);
        self.finish(outcome, rule).await
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
        let outcome = self.outcome_of(headers, &Called { address: Some(address), method, path }, rule);
        self.finish(outcome, rule).await
    }

    async fn finish(&self, outcome: Outcome, rule: &Rule) -> Result<Verified, Refusal> {
        match outcome {
            Outcome::Pass(verified) => Ok(verified),
            Outcome::Refuse(refusal) => Err(refusal),
            Outcome::Ask(token, claims, holder) => self.ask_server(&token, claims, holder, rule).await,
        }
    }

    pub(crate) fn outcome_of(&self, headers: &HeaderMap, called: &Called<'_>, rule: &Rule) -> Outcome {
        match authorization(headers) {
            Ok((Scheme::Bearer, token)) => self.outcome(token, rule, |_| Ok((Holder::Bearer, None))),
            Ok((Scheme::Dpop, token)) => self.outcome(token, rule, |now| {
                let proven = self.shared.proofs.prove(headers, called, token, now)?;
                Ok((Holder::Key(proven.key), Some(proven.once)))
            }),
            Err(code) => Outcome::Refuse(self.refuse(code, None)),
        }
    }

    /// The judgement of one request, without waiting for anything. `shown` says how the token is shown: by whom, and by which proof; it is asked only
    /// about tokens that are worth the work.
    fn outcome(
        &self,
        token: &str,
        rule: &Rule,
        shown: impl FnOnce(Time) -> Result<(Holder, Option<Digest>), BadProof>,
    ) -> Outcome {
        let view = self.shared.view.load();
        let (now, wall) = real::clocks();
        let (verdict, claims, shown) = match self.authentic(&view, token) {
            Ok(token) => match shown(view.known.clock(now, wall)) {
                Ok(shown) => {
                    let verdict = judge_claims(&view, &token, &shown.0, &self.shared.expect, rule.policy, now, wall);
                    (verdict, Some(token), shown)
                }
                Err(bad) => return self.refuse_proof(bad),
            },
            Err(reason) => {
                let verdict = unauthentic(&view, token, reason, rule.policy, now, wall);
                let asks = verdict.decision == Decision::Introspect;
                match if asks { shown(view.known.clock(now, wall)) } else { Ok((Holder::Bearer, None)) } {
                    Ok(shown) => (verdict, None, shown),
                    Err(bad) => return self.refuse_proof(bad),
                }
            }
        };
        if verdict.catch_up {
            self.catch_up();
        }
        let (decision, (holder, once)) = (self.with_record(verdict, &view), shown);
        // A proof is used up by a token that is good, so that nobody fills the memory with others.
        if let (Some(once), Holder::Key(key), false) = (once, holder, matches!(decision, Decision::Refuse(_))) {
            match self.shared.proofs.first(&once, &key.thumbprint(), now) {
                First::Yes => {}
                First::No => return self.refuse_proof(BadProof::Replayed),
                First::Full => return Outcome::Refuse(self.refuse(Code::Overloaded, None)),
            }
        }
        match (decision, claims) {
            (Decision::Refuse(reason), _) => Outcome::Refuse(self.refuse(reason.code(), Some(reason))),
            (Decision::Introspect, claims) => Outcome::Ask(token.to_owned(), claims, holder),
            (decision, Some(token)) => self.pass(token, holder, decision == Decision::Accept, rule),
            // Only authentic claims are accepted; this arm cannot be reached, and refuses if it ever is.
            (_, None) => Outcome::Refuse(self.refuse(Code::TokenMalformed, None)),
        }
    }

    fn refuse_proof(&self, bad: BadProof) -> Outcome {
        let reason = Reason::Proof(bad);
        Outcome::Refuse(self.refuse(reason.code(), Some(reason)))
    }

    /// A token ahead of the log is looked up in the record of such.
    fn with_record(&self, verdict: Verdict, view: &View) -> Decision {
        let Some(rev) = verdict.ahead else { return verdict.decision };
        let checked =
            self.shared.ahead.lock().unwrap_or_else(PoisonError::into_inner).check(rev, &view.known, real::mono());
        checked.map_or_else(Decision::Refuse, |()| verdict.decision)
    }

    fn authentic(&self, view: &View, token: &str) -> Result<Arc<Authentic>, Reason> {
        if token.len() > portcullis_wire::jws::MAX_TOKEN_BYTES {
            return authenticate(&view.keys, token).map(Arc::new); // which refuses it
        }
        let digest = Digest::of(token.as_bytes());
        if let Some(known) = self.shared.cache.get(&digest) {
            self.shared.metrics.cache_hits.up();
            return Ok(known);
        }
        let token = Arc::new(authenticate(&view.keys, token)?);
        self.shared.cache.put(digest, token.clone());
        Ok(token)
    }

    /// Judges again what was accepted: for connections that stay open.
    pub(crate) fn rejudge(&self, verified: &Verified) -> Carries {
        let view = self.shared.view.load();
        let (now, wall) = real::clocks();
        let verdict = judge_claims(
            &view,
            &verified.token,
            &verified.holder,
            &self.shared.expect,
            verified.rule.policy,
            now,
            wall,
        );
        if verdict.catch_up {
            self.catch_up();
        }
        match self.with_record(verdict, &view) {
            Decision::Refuse(reason) => Carries::No(reason),
            Decision::Accept | Decision::AcceptUnproven => Carries::Yes,
            // Nobody asks for an open connection again; what the server said at its beginning counts for the bound.
            Decision::Introspect if verified.vouched_until.is_some_and(|until| now < until) => Carries::Yes,
            Decision::Introspect => Carries::No(Reason::NotFresh),
        }
    }

    /// Whether the token has the scopes of a route.
    pub(crate) fn reaches(&self, token: &Authentic, rule: &Rule) -> Result<(), Refusal> {
        match rule.scopes.iter().find(|scope| !token.claims().has_scope(scope)) {
            Some(missing) => Err(self.refuse(Code::InsufficientScope, None).with_scope(missing)),
            None => Ok(()),
        }
    }

    /// The scopes of a route, held against a token that is good.
    fn allowed(&self, token: Arc<Authentic>, holder: Holder, rule: &Rule) -> Result<Verified, Refusal> {
        // Asked here too, for what the server vouches for was not judged here.
        holder.fits(token.claims().cnf.as_ref()).map_err(|reason| self.refuse(reason.code(), Some(reason)))?;
        self.reaches(&token, rule)?;
        let (rule, verifier) = (rule.clone(), self.clone());
        Ok(Verified { token, proven: true, holder, rule, vouched_until: None, verifier })
    }

    fn pass(&self, token: Arc<Authentic>, holder: Holder, proven: bool, rule: &Rule) -> Outcome {
        match self.allowed(token, holder, rule) {
            Ok(verified) => {
                let metrics = &self.shared.metrics;
                if proven {
                    metrics.accepted.up()
                } else {
                    metrics.accepted_unproven.up()
                }
                Outcome::Pass(Verified { proven, ..verified })
            }
            Err(refusal) => Outcome::Refuse(refusal),
        }
    }

    pub(crate) fn refuse(&self, code: Code, reason: Option<Reason>) -> Refusal {
        self.shared.metrics.refused(code);
        if let Some(reason) = reason.filter(|r| r.is_alarming()) {
            self.shared.metrics.alarming.up();
            tracing::warn!(reason = reason.as_str(), "an authentic token that no honest server makes");
        }
        Refusal::new(code, reason)
    }

    /// Asks the server whether the token is active (RFC 7662), on a route under `introspect`.
    pub(crate) async fn ask_server(
        &self,
        token: &str,
        claims: Option<Arc<Authentic>>,
        holder: Holder,
        rule: &Rule,
    ) -> Result<Verified, Refusal> {
        let asked = real::mono();
        let claims = self.shared.introspection.ask(token, claims, &self.shared.expect).await;
        let claims = claims.map_err(|code| self.refuse(code, None))?;
        let bound_ms = self.shared.view.load().known.bound_ms;
        match self.allowed(claims, holder, rule) {
            Ok(mut verified) => {
                self.shared.metrics.introspected.up();
                verified.vouched_until = Some(asked.plus(bound_ms));
                Ok(verified)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Wakes the following task, once until it has asked.
    fn catch_up(&self) {
        if !self.shared.catching_up.swap(true, Ordering::AcqRel) && self.task.told.try_send(Heard::CatchUp).is_err() {
            self.shared.caught_up();
        }
    }
}

/// Whether an address can only be this machine's own.
fn is_loopback(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// By what a token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

/// The one token of a request (RFC 6750 §2.1, RFC 9449 §7.1). More than one `Authorization` is an attempt at confusion.
fn authorization(headers: &HeaderMap) -> Result<(Scheme, &str), Code> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let value = all.next().ok_or(Code::TokenMissing)?;
    if all.next().is_some() {
        return Err(Code::TokenMalformed);
    }
    let value = value.to_str().map_err(|_| Code::TokenMalformed)?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    let scheme = match scheme {
        scheme if scheme.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
        scheme if scheme.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
        _ => return Err(Code::TokenMissing),
    };
    match token.trim_matches(' ') {
        "" => Err(Code::TokenMissing),
        token => Ok((scheme, token)),
    }
}
