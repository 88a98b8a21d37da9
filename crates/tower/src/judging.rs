//! The judgement of one request, and of one that stays open.
//!
//! All cores do this at once, so nothing is written to that they share: what is counted at each request is counted apart ([`crate::stripe`]), and
//! whoever was judged holds on to the judge by a count that is its core's own.
use crate::answer::Refusal;
use crate::dpop::{Called, Proofs};
use crate::follow::{Heard, Upper};
use crate::introspect::Introspection;
use crate::metrics::Metrics;
use crate::real;
use crate::sightings::Sightings;
use crate::stripe::no_scopes;
use crate::verifier::{Rule, Verified};
use arc_swap::ArcSwap;
use http::{HeaderMap, header};
use portcullis_feed::{Policies, Subscriber};
use portcullis_verify::proof::First;
use portcullis_verify::{
    AheadRecord, Authentic, Cache, Decision, Expect, Holder, Reason, Verdict, View, judge_claims, unauthentic,
};
use portcullis_wire::dpop::BadProof;
use portcullis_wire::frame::Sighting;
use portcullis_wire::{Code, Digest, Time};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    pub(crate) catching_up: AtomicBool,
    pub(crate) cache: Cache,
    pub(crate) ahead: Mutex<AheadRecord>,
    pub(crate) introspection: Introspection,
    pub(crate) sightings: Option<Sightings>,
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
pub(crate) struct Task {
    pub(crate) told: mpsc::Sender<Heard>,
    pub(crate) following: tokio::task::AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Judges. Of each verifier there are several that share everything but this value's own count of holders, which is alone in its line of memory:
/// each thread takes one and holds on to that, and none waits for another's.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Judge {
    pub(crate) shared: Arc<Shared>,
    pub(crate) task: Arc<Task>,
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

impl Judge {
    pub(crate) async fn verify_as(
        self: &Arc<Self>,
        token: &str,
        holder: Holder,
        rule: &Rule,
    ) -> Result<Verified, Refusal> {
        let outcome = self.outcome(token, rule, |_| Ok((holder, None)));
        self.finish(outcome, rule).await
    }

    pub(crate) async fn finish(self: &Arc<Self>, outcome: Outcome, rule: &Rule) -> Result<Verified, Refusal> {
        match outcome {
            Outcome::Pass(verified) => Ok(verified),
            Outcome::Refuse(refusal) => Err(refusal),
            Outcome::Ask(token, claims, holder) => self.ask_server(&token, claims, holder, rule).await,
        }
    }

    pub(crate) fn outcome_of(self: &Arc<Self>, headers: &HeaderMap, called: &Called<'_>, rule: &Rule) -> Outcome {
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
        self: &Arc<Self>,
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
        let (token, known) = self.shared.cache.authenticate(&view.keys, token)?;
        if known {
            self.shared.metrics.cache_hits.up();
        }
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
    fn allowed(self: &Arc<Self>, token: Arc<Authentic>, holder: Holder, rule: &Rule) -> Result<Verified, Refusal> {
        // Asked here too, for what the server vouches for was not judged here.
        holder.fits(token.claims().cnf.as_ref()).map_err(|reason| self.refuse(reason.code(), Some(reason)))?;
        self.reaches(&token, rule)?;
        let scopes = if rule.scopes.is_empty() { no_scopes() } else { rule.scopes.clone() };
        let (rule, judge) = (Rule { policy: rule.policy, scopes }, self.clone());
        Ok(Verified { token, proven: true, holder, rule, vouched_until: None, judge })
    }

    fn pass(self: &Arc<Self>, token: Arc<Authentic>, holder: Holder, proven: bool, rule: &Rule) -> Outcome {
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
        self: &Arc<Self>,
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
