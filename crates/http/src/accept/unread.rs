//! Bodies that nobody reads, over HTTP/1.
//!
//! An answer may come before its request's body was read: a stranger's is never read at all. hyper then ends the connection as soon as the
//! answer is written, without having said so, and the next request of a client or a proxy that keeps its connections meets a reset where
//! an answer should be. So what is left of a body that is not large is read and thrown away, while the answer is written; of one that is,
//! or that waits to be asked for (`Expect: 100-continue`), the answer says that the connection ends (RFC 9112 §9.3, §9.6).
use crate::config::MAX_BODY;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// As much is thrown away as is taken.
const MOST: u64 = MAX_BODY as u64;

/// What is left of a request's body, once nobody has it any more.
#[derive(Default)]
pub(super) struct Rest {
    body: Arc<Mutex<Option<Incoming>>>,
    /// The client sends it when it is asked to.
    on_demand: bool,
}

/// A request's body, whose rest comes back when it is given up.
pub(super) struct Watched {
    body: Option<Incoming>,
    /// It came to its end, or broke off.
    over: bool,
    rest: Arc<Mutex<Option<Incoming>>>,
}

/// A request, and what will be left of its body; nothing where it has none.
pub(super) fn watched(request: Request<Incoming>) -> (Request<axum::body::Body>, Option<Rest>) {
    if request.body().is_end_stream() {
        return (request.map(axum::body::Body::new), None);
    }
    let rest = Rest { on_demand: request.headers().contains_key(header::EXPECT), ..Rest::default() };
    let body = |body| axum::body::Body::new(Watched { body: Some(body), over: false, rest: rest.body.clone() });
    (request.map(body), Some(rest))
}

impl Rest {
    /// Throws away what nobody has read, for as long at most, or has the answer say that the connection ends.
    pub(super) fn settle(self, response: &mut Response, time: Duration) {
        let Some(mut body) = self.body.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let large = body.size_hint().upper().is_some_and(|bytes| bytes > MOST);
        if self.on_demand || large || ends(response.headers()) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return;
        }
        tokio::spawn(tokio::time::timeout(time, async move {
            let mut most = MOST;
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                match most.checked_sub(bytes) {
                    Some(left) => most = left,
                    None => return, // and with the body goes the connection
                }
            }
        }));
    }
}

fn ends(headers: &HeaderMap) -> bool {
    headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx));
        self.over |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.over && !self.is_end_stream() {
            *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
        }
    }
}
