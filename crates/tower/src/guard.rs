//! Open connections: a guard tells when the token that opened one no longer carries it (DESIGN I14).
use crate::real;
use crate::verifier::{Carries, Verified};
use bytes::Buf;
use futures_core::Stream;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use portcullis_feed::{Mono, Policy};
use portcullis_verify::Reason;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Guards look at the clocks at least this often, for timers do not count suspension.
const LOOK_MS: i64 = 1_000;

/// Watches over one open connection. It ends when the token is revoked or stale, when it expires, and, on routes under
/// `closed`, when the lease is lost (for longer than the stream grace).
#[derive(Debug, Clone)]
pub struct Guard {
    verified: Verified,
    changed: watch::Receiver<u64>,
    lost_at: Option<Mono>,
}

impl Guard {
    pub(crate) fn new(verified: Verified) -> Self {
        let changed = verified.verifier.shared.changed.subscribe();
        Self { verified, changed, lost_at: None }
    }

    /// The token that the connection stands on.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The connection showed a newer token: from now on it stands on that one.
    pub fn renew(&mut self, verified: Verified) {
        self.verified = verified;
        self.lost_at = None;
    }

    /// Whether the connection must end now, and why. Waits for nothing.
    pub fn check(&mut self) -> Option<Reason> {
        let verifier = &self.verified.verifier;
        match verifier.rejudge(&self.verified) {
            Carries::Yes => {
                self.lost_at = None;
                None
            }
            Carries::No(Reason::NotFresh) => {
                let now = real::mono();
                let lease_end = verifier.shared.view.load().known.lease.map_or(now, |lease| lease.until.min(now));
                let lost_at = *self.lost_at.get_or_insert(lease_end);
                (now.since(lost_at) >= verifier.shared.stream_grace_ms).then_some(Reason::NotFresh)
            }
            Carries::No(reason) => Some(reason),
        }
    }

    /// Waits until the connection must end, and says why.
    pub async fn ended(&mut self) -> Reason {
        loop {
            self.changed.mark_unchanged();
            if let Some(reason) = self.check() {
                self.verified.verifier.shared.metrics.guards_ended.up();
                return reason;
            }
            let wait = Duration::from_millis(u64::try_from(self.patience()).unwrap_or(0));
            // Whether something changed or time passed, everything is judged anew. The sender lives as long as this guard.
            let _ = timeout(wait, self.changed.changed()).await;
        }
    }

    /// How many milliseconds may pass until something could end by itself.
    fn patience(&self) -> i64 {
        let (now, wall) = real::clocks();
        let shared = &self.verified.verifier.shared;
        let view = shared.view.load();
        let until_exp = self.verified.claims().expires_at().since(view.known.clock(now, wall));
        let until_lost = match (self.verified.policy, view.known.lease) {
            (Policy::Open, _) | (_, None) => LOOK_MS,
            (_, Some(lease)) => lease.until.since(now),
        };
        let until_grace = self.lost_at.map_or(LOOK_MS, |at| at.plus(shared.stream_grace_ms).since(now));
        let until_lost = if until_lost <= 0 { until_grace } else { until_lost };
        until_exp.min(until_lost).clamp(1, LOOK_MS)
    }

    /// A stream or body that ends when the guard does. It is judged before each of its items, too, so that nothing is sent after
    /// the end even if no timer came.
    pub fn wrap<S>(self, inner: S) -> Guarded<S> {
        let mut waiting = self.clone();
        Guarded { inner, guard: self, ended: Box::pin(async move { waiting.ended().await }), why: None }
    }
}

pin_project! {
    /// A stream or body that ends with its guard; see [`Guard::wrap`].
    pub struct Guarded<S> {
        #[pin]
        inner: S,
        guard: Guard,
        ended: Pin<Box<dyn Future<Output = Reason> + Send>>,
        why: Option<Reason>,
    }
}

impl<S> Guarded<S> {
    /// Why the guard ended it, if it did.
    pub fn why(&self) -> Option<Reason> {
        self.why
    }
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("why", &self.why).finish_non_exhaustive()
    }
}

/// Whether it is over, by the clock or by the waiting guard.
fn over(
    why: &mut Option<Reason>,
    guard: &mut Guard,
    ended: &mut Pin<Box<dyn Future<Output = Reason> + Send>>,
    cx: &mut Context<'_>,
) -> bool {
    if why.is_none() {
        *why = match ended.as_mut().poll(cx) {
            Poll::Ready(reason) => Some(reason),
            Poll::Pending => guard.check(),
        };
    }
    why.is_some()
}

impl<S: Stream> Stream for Guarded<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        if over(this.why, this.guard, this.ended, cx) {
            return Poll::Ready(None);
        }
        this.inner.poll_next(cx)
    }
}

impl<D: Buf, S: Body<Data = D>> Body for Guarded<S> {
    type Data = D;
    type Error = S::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<D>, S::Error>>> {
        let this = self.project();
        if over(this.why, this.guard, this.ended, cx) {
            return Poll::Ready(None);
        }
        this.inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.why.is_some() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default() // it may be cut short
    }
}
