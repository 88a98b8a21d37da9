//! The layer: judges each request before the service sees it.
use crate::verifier::{Outcome, Rule, Verifier};
use http::{Request, Response};
use pin_project_lite::pin_project;
use portcullis_feed::Policy;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

/// Lets through what carries a good token, and puts a [`crate::Verified`] among the request's extensions.
#[derive(Debug, Clone)]
pub struct VerifyLayer {
    verifier: Verifier,
    rule: Arc<Rule>,
}

impl VerifyLayer {
    /// Under `closed`, with no scope required.
    pub fn new(verifier: Verifier) -> Self {
        verifier.declare(Policy::Closed);
        Self { verifier, rule: Arc::default() }
    }

    /// What these routes do while the verifier is not fresh. The server is told, for it says whom a revocation reached.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.verifier.declare(policy);
        Arc::make_mut(&mut self.rule).policy = policy;
        self
    }

    /// A scope that the token must have; each call adds one.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.rule).scopes.push(scope.into());
        self
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = VerifyService<S>;

    fn layer(&self, inner: S) -> VerifyService<S> {
        VerifyService { inner, verifier: self.verifier.clone(), rule: self.rule.clone() }
    }
}

/// A service behind a [`VerifyLayer`].
#[derive(Debug, Clone)]
pub struct VerifyService<S> {
    inner: S,
    verifier: Verifier,
    rule: Arc<Rule>,
}

impl<S, B, R> Service<Request<B>> for VerifyService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: From<String> + Send,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Response<R>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let state = match self.verifier.outcome_of(request.headers(), &self.rule) {
            Outcome::Pass(verified) => {
                request.extensions_mut().insert(verified);
                State::Served { future: self.inner.call(request) }
            }
            Outcome::Refuse(refusal) => State::Refused { response: Some(refusal.response(request.headers())) },
            Outcome::Ask(token, claims) => {
                // The one that is ready serves; its clone waits for the next request.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let (verifier, rule) = (self.verifier.clone(), self.rule.clone());
                let future = Box::pin(async move {
                    match verifier.ask_server(&token, claims, &rule).await {
                        Ok(verified) => {
                            request.extensions_mut().insert(verified);
                            inner.call(request).await
                        }
                        Err(refusal) => Ok(refusal.response(request.headers())),
                    }
                });
                State::Asking { future }
            }
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The response of a [`VerifyService`].
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        state: State<F, R, E>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F, R, E> {
        // The inner service answers.
        Served { #[pin] future: F },
        // Refused at once.
        Refused { response: Option<R> },
        // The server is asked first, then the inner service.
        Asking { future: Pin<Box<dyn Future<Output = Result<R, E>> + Send>> },
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Served { .. } => "Served",
            State::Refused { .. } => "Refused",
            State::Asking { .. } => "Asking",
        })
    }
}

impl<F: Future<Output = Result<R, E>>, R, E> Future for ResponseFuture<F, R, E> {
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R, E>> {
        match self.project().state.project() {
            Projected::Served { future } => future.poll(cx),
            Projected::Asking { future } => future.as_mut().poll(cx),
            // Polled again after it was ready: that is forbidden, and waiting for ever is what is left.
            Projected::Refused { response } => response.take().map_or(Poll::Pending, |r| Poll::Ready(Ok(r))),
        }
    }
}
