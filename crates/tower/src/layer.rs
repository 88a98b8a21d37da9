//! The layer: judges each request before the service sees it, and guards its answer where that is asked for.
use crate::dpop::{Address, Called};
use crate::judging::Outcome;
use crate::verifier::{Rule, Verified, Verifier};
use crate::{AnswerBody, Guard, Refusal, grpc};
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use portcullis_feed::Policy;
use portcullis_verify::Reason;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

/// Lets through what carries a good token, and puts a [`crate::Verified`] among the request's extensions.
#[derive(Debug, Clone)]
pub struct VerifyLayer {
    verifier: Verifier,
    rule: Rule,
    guarding: bool,
    address: Option<Address>,
}

impl VerifyLayer {
    /// Under `closed`, with no scope required.
    pub fn new(verifier: Verifier) -> Self {
        verifier.declare(Policy::Closed);
        Self { verifier, rule: Rule::default(), guarding: false, address: None }
    }

    /// What these routes do while the verifier is not fresh. The server is told, for it says whom a revocation reached.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.verifier.declare(policy);
        self.rule.policy = policy;
        self
    }

    /// A scope that the token must have; each call adds one.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.rule.scopes = self.rule.scopes.iter().cloned().chain([scope.into()]).collect();
        self
    }

    /// Where clients reach these routes: then tokens that are bound to a key are taken, with a proof for this address and the request's path
    /// (RFC 9449 §7). Without it they are refused. The path is the request's as it reaches this layer: what a proxy or a router around it takes off
    /// belongs into the address.
    pub fn address(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// Guards each request from here on until its answer's last byte: for routes whose answers stay open. A [`Guard`] is
    /// among the request's extensions, too, for showing it newer tokens.
    ///
    /// When the guard says that it is over before the service has answered, the service's future is dropped, as when a client
    /// hangs up, and the request is refused; later, the body ends, for gRPC with a status.
    /// What a connection carries after an upgrade (WebSocket) is no answer: its handler needs a guard of its own.
    pub fn guarding(self) -> Self {
        Self { guarding: true, ..self }
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = VerifyService<S>;

    fn layer(&self, inner: S) -> VerifyService<S> {
        VerifyService { inner, layer: self.clone() }
    }
}

/// A service behind a [`VerifyLayer`].
#[derive(Debug, Clone)]
pub struct VerifyService<S> {
    inner: S,
    layer: VerifyLayer,
}

impl<S> VerifyService<S> {
    /// The one that is ready, for use in a future; its clone waits for the next request.
    fn take(&mut self) -> S
    where
        S: Clone,
    {
        let clone = self.inner.clone();
        std::mem::replace(&mut self.inner, clone)
    }
}

impl<S, B, R> Service<Request<B>> for VerifyService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: Body + Send + 'static,
{
    type Response = Response<AnswerBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let VerifyLayer { verifier, rule, address, .. } = &self.layer;
        let called = Called { address: address.as_ref(), method: request.method(), path: request.uri().path() };
        let state = match verifier.judge().outcome_of(request.headers(), &called, rule) {
            Outcome::Pass(verified) if self.layer.guarding => {
                let inner = self.take();
                State::Apart { future: Box::pin(guarded(inner, request, verified)) }
            }
            Outcome::Pass(verified) => {
                request.extensions_mut().insert(verified);
                State::Served { future: self.inner.call(request) }
            }
            Outcome::Refuse(refusal) => {
                State::Refused { response: Some(offering(refusal, &self.layer).response(request.headers())) }
            }
            Outcome::Ask(token, claims, holder) => {
                let (mut inner, layer) = (self.take(), self.layer.clone());
                let future = Box::pin(async move {
                    match layer.verifier.judge().ask_server(&token, claims, holder, &layer.rule).await {
                        Ok(verified) if layer.guarding => guarded(inner, request, verified).await,
                        Ok(verified) => {
                            request.extensions_mut().insert(verified);
                            Ok(inner.call(request).await?.map(AnswerBody::served))
                        }
                        Err(refusal) => Ok(offering(refusal, &layer).response(request.headers())),
                    }
                });
                State::Apart { future }
            }
        };
        ResponseFuture { state }
    }
}

/// A layer that takes tokens bound to a key says so.
fn offering(refusal: Refusal, layer: &VerifyLayer) -> Refusal {
    if layer.address.is_some() { refusal.offering_dpop() } else { refusal }
}

/// Serves under a guard: until there is an answer, and then until its last byte.
async fn guarded<S, B, R>(
    mut inner: S,
    mut request: Request<B>,
    verified: Verified,
) -> Result<Response<AnswerBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    let guard = verified.guard();
    let asked = request.headers().clone();
    request.extensions_mut().insert(verified);
    request.extensions_mut().insert(guard.clone());
    let response = match in_time(&guard, inner.call(request)).await {
        Ok(response) => response?,
        Err(reason) => return Ok(Refusal::new(reason.code(), Some(reason)).response(&asked)),
    };
    if response.body().is_end_stream() {
        return Ok(response.map(AnswerBody::served));
    }
    let grpc = grpc::is_grpc(response.headers());
    Ok(response.map(|body| {
        let body = guard.wrap(body);
        AnswerBody::guarded(if grpc { body.with_grpc_trailers() } else { body })
    }))
}

/// What the future gives, or why the guard was over first.
async fn in_time<F: Future>(guard: &Guard, future: F) -> Result<F::Output, Reason> {
    let (mut future, mut ended) = (pin!(future), pin!(guard.ended()));
    poll_fn(|cx| match ended.as_mut().poll(cx) {
        Poll::Ready(reason) => Poll::Ready(Err(reason)),
        Poll::Pending => future.as_mut().poll(cx).map(Ok),
    })
    .await
}

pin_project! {
    /// The response of a [`VerifyService`]; `R` is the body of the service within.
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        state: State<F, R, E>,
    }
}

type Answered<R, E> = Result<Response<AnswerBody<R>>, E>;

pin_project! {
    #[project = Projected]
    enum State<F, R, E> {
        // The inner service answers.
        Served { #[pin] future: F },
        // Refused at once.
        Refused { response: Option<Response<AnswerBody<R>>> },
        // The server is asked first, or a guard watches over the inner service.
        Apart { future: Pin<Box<dyn Future<Output = Answered<R, E>> + Send>> },
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Served { .. } => "Served",
            State::Refused { .. } => "Refused",
            State::Apart { .. } => "Apart",
        })
    }
}

impl<F: Future<Output = Result<Response<R>, E>>, R, E> Future for ResponseFuture<F, R, E> {
    type Output = Answered<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Served { future } => future.poll(cx).map_ok(|response| response.map(AnswerBody::served)),
            Projected::Apart { future } => future.as_mut().poll(cx),
            // Polled again after it was ready: that is forbidden, and waiting for ever is what is left.
            Projected::Refused { response } => response.take().map_or(Poll::Pending, |r| Poll::Ready(Ok(r))),
        }
    }
}
