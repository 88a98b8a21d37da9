//! Streams and bodies that end with their guard.
use crate::{Guard, grpc};
use bytes::Buf;
use futures_core::Stream;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use portcullis_verify::Reason;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pin_project! {
    /// A stream or body that ends with its guard; see [`Guard::wrap`].
    pub struct Guarded<S> {
        #[pin]
        inner: S,
        guard: Guard,
        ended: Pin<Box<dyn Future<Output = Reason> + Send>>,
        why: Option<Reason>,
        // What a body still has to say once it is over.
        trailers: bool,
    }
}

impl<S> Guarded<S> {
    pub(crate) fn new(guard: Guard, inner: S) -> Self {
        let waiting = guard.clone();
        let ended = Box::pin(async move { waiting.ended().await });
        Self { inner, guard, ended, why: None, trailers: false }
    }

    /// For a body of gRPC: when the guard ends it, its last frame is trailers with the status and the code, see
    /// [`grpc::trailers`].
    pub fn with_grpc_trailers(self) -> Self {
        Self { trailers: true, ..self }
    }

    /// For a stream: when the guard ends it, `last` makes its last item, such as an event or a status that says why.
    pub fn with_last<F>(self, last: F) -> WithLast<S, F> {
        WithLast { stream: self, last: Some(last) }
    }

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
    guard: &Guard,
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
            let said = std::mem::take(this.trailers).then_some(*this.why).flatten();
            return Poll::Ready(said.map(|reason| Ok(Frame::trailers(grpc::trailers(reason.code())))));
        }
        let frame = ready!(this.inner.poll_frame(cx));
        // What has said its status, or has ended without, says no other.
        *this.trailers &= matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self.why {
            Some(_) => !self.trailers,
            None => self.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default() // it may be cut short
    }
}

pin_project! {
    /// A guarded stream with a last item that says why; see [`Guarded::with_last`].
    pub struct WithLast<S, F> {
        #[pin]
        stream: Guarded<S>,
        last: Option<F>,
    }
}

impl<S, F> fmt::Debug for WithLast<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithLast").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl<S: Stream, F: FnOnce(Reason) -> S::Item> Stream for WithLast<S, F> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut this = self.project();
        if let Some(item) = ready!(this.stream.as_mut().poll_next(cx)) {
            return Poll::Ready(Some(item));
        }
        // A stream that ended by itself has said what it had to say.
        let last = this.last.take();
        Poll::Ready(this.stream.why().and_then(|reason| last.map(|last| last(reason))))
    }
}
