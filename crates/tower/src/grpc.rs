//! gRPC, as far as HTTP shows it (grpc/doc/PROTOCOL-HTTP2.md): its requests are told by their `content-type`, and every end has
//! a status of its own. A stream that ends without one is an error of unknown kind to its client, or worse, no error at all.
//!
//! gRPC-Web has another framing, with its trailers inside the body: put the layer that translates it outside of
//! [`crate::VerifyLayer`], which then sees gRPC.
use http::{HeaderMap, HeaderName, HeaderValue, header};
use portcullis_wire::Code;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long a client that retries should wait (gRFC A6).
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const CONTENT_TYPE: &str = "application/grpc";

/// The status of a refusal: 16 `UNAUTHENTICATED`, 7 `PERMISSION_DENIED`, 14 `UNAVAILABLE`, else 2 `UNKNOWN`.
pub const fn status(code: Code) -> u8 {
    match code.status() {
        401 => 16,
        403 => 7,
        503 => 14,
        _ => 2,
    }
}

/// What ends a stream: the status, and the code as its message. The words of codes need no percent-encoding.
pub fn trailers(code: Code) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert(STATUS, HeaderValue::from(u16::from(status(code))));
    trailers.insert(MESSAGE, HeaderValue::from_static(code.as_str()));
    if code.status() == 503 {
        trailers.insert(PUSHBACK, HeaderValue::from_static("1000"));
    }
    trailers
}

/// The headers of a response that has nothing but trailers.
pub(crate) fn trailers_only(code: Code) -> HeaderMap {
    let mut headers = trailers(code);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers
}

/// Whether these are the headers of a gRPC message: `application/grpc`, bare or with `+proto` and the like.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    match given.split_at_checked(CONTENT_TYPE.len()) {
        Some((kind, rest)) => {
            kind.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
                && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        }
        None => false,
    }
}
