//! What gRPC's clients see, on the level of HTTP; `interop/` has a real one.
use crate::server::{Server, soon, unix_ms};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::{Router, routing::post};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use portcullis_tower::wire::{Code, SessionId, Target};
use portcullis_tower::{Guard, Verifier, VerifyLayer, grpc};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::timeout;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(10);
const GRPC: &str = "application/grpc+proto";

fn answer(kind: &str, body: Body) -> Response<Body> {
    Response::builder().header("content-type", kind).body(body).unwrap()
}

/// One message, then silence.
fn streaming() -> Body {
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"\0\0\0\0\x01x"))]);
    Body::from_stream(first.chain(stream::pending()))
}

fn app(verifier: &Verifier) -> Router {
    let layer = || VerifyLayer::new(verifier.clone());
    Router::new()
        .route("/stream", post(async || answer(GRPC, streaming())))
        .route("/events", post(async || answer("text/event-stream", streaming())))
        .route("/silent", post(async || std::future::pending::<()>().await))
        .route("/whole", post(async |guard: Guard| guard.verified().claims().sub.to_string()))
        .route_layer(layer().guarding())
        .route("/admin", post(async || ()).layer(layer().scope("admin")))
}

async fn call(verifier: &Verifier, path: &str, kind: &str, token: Option<&str>) -> Response<Body> {
    let mut request = Request::post(path).header("content-type", kind);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let sent = app(verifier).oneshot(request.body(Body::empty()).unwrap());
    timeout(PATIENCE, sent).await.unwrap().unwrap()
}

fn says(headers: &HeaderMap) -> (&str, &str) {
    (headers["grpc-status"].to_str().unwrap(), headers["grpc-message"].to_str().unwrap())
}

/// A response of nothing but trailers: they are its headers, and it has no body at all.
fn trailers_only(response: &Response<Body>) -> (&str, &str) {
    use http_body::Body as _;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(response.body().is_end_stream());
    assert!(!response.headers().contains_key("www-authenticate"));
    says(response.headers())
}

#[tokio::test]
async fn refusals_are_trailers_only() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let token = server.token(1);
    for kind in ["application/grpc", GRPC, "Application/gRPC;x=y"] {
        let missing = call(&verifier, "/stream", kind, None).await;
        assert_eq!(trailers_only(&missing), ("16", "token_missing"), "{kind}");
    }
    let malformed = call(&verifier, "/stream", GRPC, Some("garbage")).await;
    assert_eq!(trailers_only(&malformed), ("16", "token_malformed"));
    let scope = call(&verifier, "/admin", GRPC, Some(&token)).await;
    assert_eq!(trailers_only(&scope), ("7", "insufficient_scope"));
    for kind in ["application/grpc-web", "application/grpcx", "application/json"] {
        assert_eq!(call(&verifier, "/stream", kind, None).await.status(), StatusCode::UNAUTHORIZED, "{kind}");
    }
    server.end(Target::Session(SessionId::from_bits(2)));
    let mut older = server.claims(2);
    older.rev.0 -= 1;
    soon("applied", || verifier.readiness().applied > older.rev).await;
    let revoked = call(&verifier, "/stream", GRPC, Some(&server.signer.sign(&older))).await;
    assert_eq!(trailers_only(&revoked), ("16", "token_revoked"));
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let token = server.token(1);
    server.set_down(true);
    soon("the lease ends", || !verifier.is_fresh()).await;
    let not_fresh = call(&verifier, "/stream", GRPC, Some(&token)).await;
    assert_eq!(trailers_only(&not_fresh), ("14", "not_fresh"));
    assert_eq!(not_fresh.headers()["grpc-retry-pushback-ms"], "1000");
}

#[tokio::test]
async fn a_guarded_body_ends_with_a_status_where_its_kind_has_one() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let token = server.token(1);
    let mut stream = call(&verifier, "/stream", GRPC, Some(&token)).await.into_body();
    let mut events = call(&verifier, "/events", "text/plain", Some(&token)).await.into_body();
    let waiting = tokio::spawn({
        let (verifier, token) = (verifier.clone(), token.clone());
        async move {
            let silent = call(&verifier, "/silent", GRPC, Some(&token)).await;
            let (status, message) = trailers_only(&silent);
            (status.to_owned(), message.to_owned())
        }
    });
    for body in [&mut stream, &mut events] {
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(timeout(Duration::from_millis(50), body.frame()).await.is_err(), "it stays open");
    }
    let whole = call(&verifier, "/whole", "text/plain", Some(&token)).await.into_body().collect().await.unwrap();
    assert_eq!(whole.to_bytes(), server.claims(1).sub.to_string());
    assert!(!waiting.is_finished());
    server.end(Target::Session(SessionId::from_bits(1)));
    let last = timeout(PATIENCE, stream.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(says(last.trailers_ref().unwrap()), ("16", "token_revoked"));
    assert!(stream.frame().await.is_none());
    assert!(timeout(PATIENCE, events.frame()).await.unwrap().is_none());
    // Nothing was answered yet: the call itself is refused.
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), ("16".into(), "token_revoked".into()));
}

#[tokio::test]
async fn a_status_is_said_once() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let mut short = server.claims(1);
    short.exp = unix_ms() / 1000 + 1;
    let guard = verifier.verify(&server.signer.sign(&short), &portcullis_tower::Rule::default()).await.unwrap().guard();
    let trailers = http_body::Frame::trailers(HeaderMap::new());
    let own = http_body_util::StreamBody::new(stream::iter([Ok::<_, Infallible>(trailers)]).chain(stream::pending()));
    let mut body = Box::pin(guard.wrap(own.map_frame(|f: http_body::Frame<Bytes>| f)).with_grpc_trailers());
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert!(timeout(PATIENCE, body.frame()).await.unwrap().is_none(), "the service's own status stands");
}

#[test]
fn every_code_has_a_status() {
    for code in Code::ALL {
        let trailers = grpc::trailers(*code);
        assert_eq!(trailers["grpc-message"], code.as_str());
        assert!(code.as_str().bytes().all(|b| matches!(b, b'a'..=b'z' | b'_')), "{code} would need percent-encoding");
        assert_ne!(grpc::status(*code), 0);
    }
}
