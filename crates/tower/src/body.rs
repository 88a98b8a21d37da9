//! The body of an answer that came through the layer: the service's own, the same under a guard, or a refusal's.
use crate::Guarded;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project! {
    /// The body of a [`crate::VerifyService`]'s responses.
    pub struct AnswerBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = Projected]
    enum Kind<B> {
        Served { #[pin] body: B },
        Guarded { #[pin] body: Guarded<B> },
        Refused { #[pin] body: Full<Bytes> },
    }
}

impl<B> AnswerBody<B> {
    pub(crate) fn served(body: B) -> Self {
        Self { kind: Kind::Served { body } }
    }

    pub(crate) fn guarded(body: Guarded<B>) -> Self {
        Self { kind: Kind::Guarded { body } }
    }
}

impl<B> From<String> for AnswerBody<B> {
    fn from(text: String) -> Self {
        Self { kind: Kind::Refused { body: Full::from(text) } }
    }
}

impl<B> Default for AnswerBody<B> {
    fn default() -> Self {
        Self::from(String::new())
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Served { .. } => "Served",
            Kind::Guarded { .. } => "Guarded",
            Kind::Refused { .. } => "Refused",
        })
    }
}

impl<B: Body<Data = Bytes>> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            Projected::Served { body } => body.poll_frame(cx),
            Projected::Guarded { body } => body.poll_frame(cx),
            Projected::Refused { body } => body.poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Served { body } => body.is_end_stream(),
            Kind::Guarded { body } => body.is_end_stream(),
            Kind::Refused { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Served { body } => body.size_hint(),
            Kind::Guarded { body } => body.size_hint(),
            Kind::Refused { body } => body.size_hint(),
        }
    }
}
