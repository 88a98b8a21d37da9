//! The judgement itself.
use crate::{Holder, Keys};
use portcullis_feed::{Knowledge, Mono, Policy, set};
use portcullis_wire::dpop::BadProof;
use portcullis_wire::jws::{ACCESS_TOKEN_TYP, Compact, Malformed};
use portcullis_wire::{AccessClaims, Code, KeyId, Rev, Time};
use std::sync::Arc;

/// By how many seconds a token's `exp` may lie beyond the longest life from now: the clock here may trail the database's.
const LIFE_SLACK_S: i64 = 60;

/// Everything that a verdict rests on, immutable: what is known of the log, and the keys ready for use.
#[derive(Debug, Clone)]
pub struct View {
    /// What is known of the log.
    pub known: Knowledge,
    /// The keys of `known`, parsed.
    pub keys: Arc<Keys>,
}

impl View {
    /// Parses the keys of `known`.
    pub fn new(known: Knowledge) -> Self {
        let keys = Arc::new(Keys::parse(&known.keys));
        Self { known, keys }
    }

    /// The view after this one; keys are parsed again only when they changed.
    pub fn next(&self, known: Knowledge) -> Self {
        if Arc::ptr_eq(&self.known.keys, &known.keys) || self.known.keys == known.keys {
            return Self { known, keys: self.keys.clone() };
        }
        Self::new(known)
    }
}

/// What a service expects of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// `iss` must be this, byte for byte (RFC 9068 §4).
    pub issuer: String,
    /// `aud` must contain this.
    pub audience: String,
}

/// Claims whose signature was verified, with the key that made it. May be cached; a verdict may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentic {
    claims: AccessClaims,
    key: Option<KeyId>,
}

impl Authentic {
    /// Claims that nobody signed, for simulators and tests. Nothing about them is proven.
    pub fn insecure_without_signature(claims: AccessClaims, key: Option<KeyId>) -> Self {
        Self { claims, key }
    }
    /// The claims.
    pub fn claims(&self) -> &AccessClaims {
        &self.claims
    }
    /// The key that signed it, where that is known.
    pub fn key(&self) -> Option<KeyId> {
        self.key
    }
    /// The claims, taken out.
    pub fn into_claims(self) -> AccessClaims {
        self.claims
    }
}

/// Why a token is refused; finer than the code that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It cannot be read.
    Malformed(Malformed),
    /// No such key is known.
    UnknownKey,
    /// The signature is not that key's, or by another algorithm than it is bound to.
    Signature,
    /// Another issuer's.
    Issuer,
    /// For another audience.
    Audience,
    /// It is bound to a key, and was shown without a proof of that (RFC 9449 §7.2).
    Bound,
    /// It is bound to another key than the one that was proven, or to none.
    NotItsKey,
    /// The proof of the key is wrong.
    Proof(BadProof),
    /// It claims a longer life than the server gives.
    TooLong,
    /// Past its `exp`, or what could end it may be forgotten already.
    Expired,
    /// Ended by the entry at this rev.
    Ended {
        /// The entry's position.
        rev: Rev,
    },
    /// Of an epoch before a restore.
    OlderEpoch,
    /// Signed by a key that is dead.
    KeyDead,
    /// Its claims are out of date since this rev.
    Stale {
        /// The entry's position.
        rev: Rev,
    },
    /// Whether it still lives is not known here.
    NotFresh,
    /// Its rev stays ahead of a head that was read after it arrived: no server of this log made it.
    AheadOfLog {
        /// The rev that it claims.
        rev: Rev,
    },
}

impl Reason {
    /// The code that programs read.
    pub const fn code(self) -> Code {
        match self {
            Self::Malformed(_) | Self::UnknownKey | Self::Signature | Self::Issuer | Self::Audience => {
                Code::TokenMalformed
            }
            Self::TooLong | Self::AheadOfLog { .. } => Code::TokenMalformed,
            Self::Bound | Self::NotItsKey | Self::Proof(_) => Code::ProofInvalid,
            Self::Expired => Code::TokenExpired,
            Self::Ended { .. } | Self::OlderEpoch | Self::KeyDead => Code::TokenRevoked,
            Self::Stale { .. } => Code::TokenStale,
            Self::NotFresh => Code::NotFresh,
        }
    }

    /// A word for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Bound => "bound",
            Self::NotItsKey => "not_its_key",
            Self::Proof(_) => "proof",
            Self::TooLong => "too_long",
            Self::Expired => "expired",
            Self::Ended { .. } => "ended",
            Self::OlderEpoch => "older_epoch",
            Self::KeyDead => "key_dead",
            Self::Stale { .. } => "stale",
            Self::NotFresh => "not_fresh",
            Self::AheadOfLog { .. } => "ahead_of_log",
        }
    }

    /// Whether a person should know: an honest server never mints such a token.
    pub const fn is_alarming(self) -> bool {
        matches!(self, Self::TooLong | Self::AheadOfLog { .. })
    }
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Let it pass; the verifier is fresh.
    Accept,
    /// Let it pass although nothing proves that the token still lives: the route is `open`. To be counted.
    AcceptUnproven,
    /// Ask the server about the token: the route is `introspect`, and the verifier is not fresh.
    Introspect,
    /// Refuse it.
    Refuse(Reason),
}

/// A decision, and what it asks of the verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub decision: Decision,
    /// The log has more than is applied here, or a lease is missing: ask soon.
    pub catch_up: bool,
    /// The token's rev, when it is accepted and above what is applied: [`crate::AheadRecord`] has the last word.
    pub ahead: Option<Rev>,
}

impl Verdict {
    fn refuse(reason: Reason) -> Self {
        Self { decision: Decision::Refuse(reason), catch_up: reason == Reason::NotFresh, ahead: None }
    }
}

/// Reads a token and checks its signature: what never changes about it. The result may be cached.
///
/// # Errors
/// [`Reason::Malformed`], [`Reason::UnknownKey`], [`Reason::Signature`].
pub fn authenticate(keys: &Keys, token: &str) -> Result<Authentic, Reason> {
    let compact = Compact::parse(token, ACCESS_TOKEN_TYP).map_err(Reason::Malformed)?;
    match keys.verifies(compact.kid, compact.alg, compact.signing_input.as_bytes(), &compact.signature) {
        None => Err(Reason::UnknownKey),
        Some(false) => Err(Reason::Signature),
        Some(true) => {
            let claims = compact.claims().map_err(Reason::Malformed)?;
            Ok(Authentic { claims, key: Some(compact.kid) })
        }
    }
}

/// Judges verified claims, shown by `holder`, at one moment. To be asked at every request. `wall` is the wall clock, read no later than `now`.
///
/// What is certain comes before what is not: a token that is known to be dead is refused as such even without a lease.
pub fn judge_claims(
    view: &View,
    token: &Authentic,
    holder: &Holder,
    expect: &Expect,
    policy: Policy,
    now: Mono,
    wall: Time,
) -> Verdict {
    let (known, claims) = (&view.known, &token.claims);
    if claims.iss != expect.issuer {
        return Verdict::refuse(Reason::Issuer);
    }
    if !claims.aud.contains(&expect.audience) {
        return Verdict::refuse(Reason::Audience);
    }
    if let Err(reason) = holder.fits(claims.cnf.as_ref()) {
        return Verdict::refuse(reason);
    }
    if !known.synced {
        return unknown_yet(policy);
    }
    if let Some(key) = token.key
        && known.set.key_is_dead(key)
    {
        return Verdict::refuse(Reason::KeyDead); // in every epoch
    }
    if claims.epoch < known.epoch {
        return Verdict::refuse(Reason::OlderEpoch);
    }
    if claims.epoch > known.epoch {
        return unknown_yet(policy);
    }
    let clock = known.clock(now, wall);
    if claims.expires_at() <= clock {
        return Verdict::refuse(Reason::Expired);
    }
    let longest = i64::try_from(known.max_life_s).unwrap_or(i64::MAX);
    if claims.exp.saturating_sub(claims.iat) > longest {
        return Verdict::refuse(Reason::TooLong);
    }
    let fresh = known.fresh(now, wall);
    let beyond = clock.secs().saturating_add(longest).saturating_add(LIFE_SLACK_S);
    // Before the database's time was told there is only this machine's wall clock, which may be off by any amount; and without
    // a lease the database's clock may have been set since. Neither is ground to call an honest server's token forged.
    if claims.exp > beyond && known.time.is_some() {
        return if fresh { Verdict::refuse(Reason::TooLong) } else { unknown_yet(policy) };
    }
    match known.set.verdict_of(claims, token.key, now) {
        set::Verdict::Live => {}
        set::Verdict::Ended { rev } => return Verdict::refuse(Reason::Ended { rev }),
        set::Verdict::Stale { rev } => return Verdict::refuse(Reason::Stale { rev }),
        set::Verdict::KeyDead => return Verdict::refuse(Reason::KeyDead),
    }
    let decision = match policy {
        _ if fresh => Decision::Accept,
        Policy::Closed => Decision::Refuse(Reason::NotFresh),
        Policy::Introspect => Decision::Introspect,
        Policy::Open => Decision::AcceptUnproven,
    };
    let ahead = Some(claims.rev).filter(|rev| *rev > known.applied && !matches!(decision, Decision::Refuse(_)));
    Verdict { decision, catch_up: !fresh || ahead.is_some(), ahead }
}

/// Nothing is known of the token's epoch: refused under `open` too, for there is no set yet that it could be in.
fn unknown_yet(policy: Policy) -> Verdict {
    let decision = match policy {
        Policy::Introspect => Decision::Introspect,
        Policy::Closed | Policy::Open => Decision::Refuse(Reason::NotFresh),
    };
    Verdict { decision, catch_up: true, ahead: None }
}

/// [`authenticate`], then [`judge_claims`]. Gives the claims back whenever they are authentic, even with a refusal.
pub fn judge(
    view: &View,
    token: &str,
    holder: &Holder,
    expect: &Expect,
    policy: Policy,
    now: Mono,
    wall: Time,
) -> (Verdict, Option<Authentic>) {
    match authenticate(&view.keys, token) {
        Ok(token) => (judge_claims(view, &token, holder, expect, policy, now, wall), Some(token)),
        Err(reason) => (unauthentic(view, token, reason, policy, now, wall), None),
    }
}

/// What a token is answered whose signature cannot be confirmed. A key that is not known is no proof of forgery while this
/// verifier lags: keys are published B before their first use, so a fresh one knows all that are used.
pub fn unauthentic(view: &View, token: &str, reason: Reason, policy: Policy, now: Mono, wall: Time) -> Verdict {
    if reason != Reason::UnknownKey {
        return Verdict::refuse(reason);
    }
    let names_dead_key = |c: Compact<'_>| view.known.set.key_is_dead(c.kid);
    if Compact::parse(token, ACCESS_TOKEN_TYP).is_ok_and(names_dead_key) {
        return Verdict::refuse(Reason::KeyDead);
    }
    if view.known.fresh(now, wall) { Verdict::refuse(reason) } else { unknown_yet(policy) }
}
