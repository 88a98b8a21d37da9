//! Open connections: a guard tells when the newest token shown on one no longer carries it (DESIGN I14).
use crate::judging::{Carries, Judge};
use crate::real;
use crate::verifier::{Rule, Verified};
use crate::{Guarded, Refusal};
use arc_swap::ArcSwap;
use portcullis_feed::{Mono, Policy};
use portcullis_verify::{NotTheSame, Reason, Shown, renewal};
use portcullis_wire::Code;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Guards look at the clocks at least this often, for timers do not count suspension.
const LOOK_MS: i64 = 1_000;

/// Stands in `lost_at` while nothing is lost.
const NOT_LOST: i64 = i64::MAX;

/// Watches over one open connection. It ends when its token is revoked or stale, when it expires, and, on routes under
/// `closed`, when the lease is lost (for longer than the stream grace).
///
/// Clones watch over the same connection: what one of them is shown counts for all, and when one says that the connection is
/// over, it is over for all of them, and stays so.
#[derive(Debug, Clone)]
pub struct Guard {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    judge: Arc<Judge>,
    /// What the token that opened it was judged by; later ones are judged by the same.
    rule: Rule,
    /// Read without a lock; a renewal and an end that meet are put in order by comparing and swapping.
    standing: ArcSwap<Standing>,
    /// Since when what is known is not fresh, as [`Mono`].
    lost_at: AtomicI64,
    /// Wakes those who wait, after each change of `standing`.
    told: watch::Sender<()>,
}

/// How a connection stands.
#[derive(Debug)]
struct Standing {
    on: Verified,
    over: Option<Reason>,
}

/// Why a token does not renew a connection. Unless it is [`RenewError::Over`], the connection goes on with the one that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenewError {
    /// The connection has ended already; nothing brings it back.
    Over(Reason),
    /// The token is refused by the rule that the connection was opened under.
    Refused(Refusal),
    /// The token is good, but another account's, session's or client's than the connection.
    NotTheSame(NotTheSame),
}

impl RenewError {
    /// The code that programs read.
    pub fn code(&self) -> Code {
        match self {
            Self::Over(reason) => reason.code(),
            Self::Refused(refusal) => refusal.code(),
            Self::NotTheSame(_) => Code::Forbidden,
        }
    }
}

impl fmt::Display for RenewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over(reason) => write!(f, "the connection has ended: {}", reason.code()),
            Self::Refused(refusal) => write!(f, "the token is refused: {}", refusal.code()),
            Self::NotTheSame(what) => write!(f, "the token is not this connection's: {}", what.as_str()),
        }
    }
}

impl std::error::Error for RenewError {}

impl Guard {
    pub(crate) fn new(on: Verified) -> Self {
        let (judge, rule) = (on.judge.clone(), on.rule.clone());
        let standing = ArcSwap::from_pointee(Standing { on, over: None });
        let (lost_at, told) = (AtomicI64::new(NOT_LOST), watch::Sender::new(()));
        Self { connection: Arc::new(Connection { judge, rule, standing, lost_at, told }) }
    }

    /// The token that the connection stands on: the newest that was shown on it.
    pub fn verified(&self) -> Verified {
        self.connection.standing.load().on.clone()
    }

    /// Why the connection is over, if some guard of it has said so.
    pub fn why(&self) -> Option<Reason> {
        self.connection.standing.load().over
    }

    /// The connection shows a token: judged by the rule that it was opened under. When it is newer than the one that the
    /// connection stands on, the connection stands on it from now on; an older one changes nothing. On a connection whose opening
    /// request proved a key, a token that is bound to the same key needs no other proof.
    ///
    /// # Errors
    /// [`RenewError`]; the token must be of the same account, session and client.
    pub async fn renew_with(&self, token: &str) -> Result<(), RenewError> {
        let Connection { judge, rule, .. } = &*self.connection;
        let holder = self.verified().holder;
        self.renew(judge.verify_as(token, holder, rule).await.map_err(RenewError::Refused)?)
    }

    /// As [`Guard::renew_with`], for a token that came by another request: clients of server-sent events have no other way.
    /// It is judged again by the connection's own rule.
    ///
    /// # Errors
    /// [`RenewError`].
    pub fn renew(&self, shown: Verified) -> Result<(), RenewError> {
        let Connection { judge, rule, lost_at, .. } = &*self.connection;
        judge.reaches(&shown.token, rule).map_err(RenewError::Refused)?;
        let shown = Verified { rule: rule.clone(), ..shown };
        loop {
            let now = self.carried().map_err(RenewError::Over)?;
            if let Carries::No(reason) = judge.rejudge(&shown) {
                return Err(RenewError::Refused(judge.refuse(reason.code(), Some(reason))));
            }
            match renewal(now.on.claims(), shown.claims()).map_err(RenewError::NotTheSame)? {
                Shown::Older => return Ok(()),
                Shown::Newest if self.swap(&now, Standing { on: shown.clone(), over: None }) => {
                    lost_at.store(NOT_LOST, Ordering::Relaxed);
                    judge.shared.metrics.guards_renewed.up();
                    return Ok(());
                }
                Shown::Newest => {} // something else was faster
            }
        }
    }

    /// Whether the connection must end now, and why. Waits for nothing. Once it says so, it is over.
    pub fn check(&self) -> Option<Reason> {
        self.carried().err()
    }

    /// The standing, if its token carries the connection still; else why it is over, from now on.
    fn carried(&self) -> Result<Arc<Standing>, Reason> {
        loop {
            let now = self.connection.standing.load();
            let Some(reason) = now.over.or_else(|| self.judge(&now.on)) else { return Ok(Arc::clone(&now)) };
            if now.over.is_some() {
                return Err(reason);
            }
            if self.swap(&now, Standing { on: now.on.clone(), over: Some(reason) }) {
                self.connection.judge.shared.metrics.guards_ended.up();
                return Err(reason);
            }
            // A newer token was shown meanwhile: that one is judged.
        }
    }

    /// Puts `next` in place of `now`, unless another was faster.
    fn swap(&self, now: &Arc<Standing>, next: Standing) -> bool {
        let before = self.connection.standing.compare_and_swap(now, Arc::new(next));
        let swapped = Arc::ptr_eq(&before, now);
        if swapped {
            self.connection.told.send_replace(());
        }
        swapped
    }

    fn judge(&self, on: &Verified) -> Option<Reason> {
        let Connection { judge, lost_at, .. } = &*self.connection;
        match judge.rejudge(on) {
            Carries::Yes => {
                lost_at.store(NOT_LOST, Ordering::Relaxed);
                None
            }
            Carries::No(Reason::NotFresh) => {
                let now = real::mono();
                let lease_end = judge.shared.view.load().known.lease.map_or(now, |lease| lease.until.min(now));
                let first = lost_at.compare_exchange(NOT_LOST, lease_end.0, Ordering::Relaxed, Ordering::Relaxed);
                let lost = first.map_or_else(Mono, |_| lease_end);
                (now.since(lost) >= judge.shared.stream_grace_ms).then_some(Reason::NotFresh)
            }
            Carries::No(reason) => Some(reason),
        }
    }

    /// Waits until the connection must end, and says why.
    pub async fn ended(&self) -> Reason {
        let mut view = self.connection.judge.shared.changed.subscribe();
        let mut told = self.connection.told.subscribe();
        loop {
            view.mark_unchanged();
            told.mark_unchanged();
            if let Some(reason) = self.check() {
                return reason;
            }
            let wait = Duration::from_millis(u64::try_from(self.patience()).unwrap_or(0));
            // Whether something changed or time passed, everything is judged anew. Both senders live as long as this guard.
            let _ = timeout(wait, either(view.changed(), told.changed())).await;
        }
    }

    /// How many milliseconds may pass until something could end by itself.
    fn patience(&self) -> i64 {
        let Connection { judge, rule, standing, lost_at, .. } = &*self.connection;
        let (now, wall) = real::clocks();
        let view = judge.shared.view.load();
        let until_exp = standing.load().on.claims().expires_at().since(view.known.clock(now, wall));
        let until_lost = match (rule.policy, view.known.lease) {
            (Policy::Open, _) | (_, None) => LOOK_MS,
            (_, Some(lease)) => lease.until.since(now),
        };
        let until_grace = match lost_at.load(Ordering::Relaxed) {
            NOT_LOST => LOOK_MS,
            lost => Mono(lost).plus(judge.shared.stream_grace_ms).since(now),
        };
        let until_lost = if until_lost <= 0 { until_grace } else { until_lost };
        until_exp.min(until_lost).clamp(1, LOOK_MS)
    }

    /// A stream or body that ends when the guard does. It is judged before each of its items, too, so that nothing is sent after
    /// the end even if no timer came.
    pub fn wrap<S>(&self, inner: S) -> Guarded<S> {
        Guarded::new(self.clone(), inner)
    }
}

/// Waits for the first of two.
async fn either(a: impl Future, b: impl Future) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Verifier};
    use portcullis_verify::{Authentic, Holder};
    use portcullis_wire::claims::Audience;
    use portcullis_wire::{AccessClaims, AccountId, ClientId, Epoch, Rev, SessionId, TokenId};

    /// An accepted token of a verifier that knows nothing, for what it knows is no matter here.
    fn verified() -> Verified {
        let config = Config::new("http://127.0.0.1:1", "api", "cli_x", "secret");
        let claims = AccessClaims {
            cnf: None,
            via: vec![],
            from: vec![],
            iss: "http://127.0.0.1:1".into(),
            sub: AccountId::from_bits(1),
            aud: Audience(vec!["api".into()]),
            client_id: ClientId::FIRST_PARTY,
            exp: 1,
            iat: 0,
            jti: TokenId::from_bits(1),
            scope: String::new(),
            auth_time: 0,
            acr: String::new(),
            amr: Vec::new(),
            sid: SessionId::from_bits(1),
            rev: Rev::ZERO,
            epoch: Epoch(0),
            gid: None,
            roles: Vec::new(),
            act: None,
        };
        let token = Arc::new(Authentic::insecure_without_signature(claims, None));
        let judge = Verifier::start(config).unwrap().judge().clone();
        Verified { token, proven: true, holder: Holder::Bearer, rule: Rule::default(), vouched_until: None, judge }
    }

    #[tokio::test]
    async fn an_end_and_a_renewal_that_meet_are_put_in_order() {
        let on = verified();
        let next = |over| Standing { on: on.clone(), over };
        let over = Some(Reason::Expired);
        let guard = on.guard();
        let judged = guard.connection.standing.load_full();
        assert!(guard.swap(&judged, next(over)), "the end is first");
        assert!(!guard.swap(&judged, next(None)), "and the renewal that was judged before comes too late");
        assert_eq!((guard.why(), guard.check()), (over, over));

        let guard = on.guard();
        let judged = guard.connection.standing.load_full();
        assert!(guard.swap(&judged, next(None)), "the renewal is first");
        assert!(!guard.swap(&judged, next(over)), "and the end was the older token's");
        assert_eq!(guard.why(), None);
        assert_eq!(guard.check(), Some(Reason::NotFresh), "whatever stands there is judged");
        assert_eq!(guard.clone().why(), Some(Reason::NotFresh));
    }
}
