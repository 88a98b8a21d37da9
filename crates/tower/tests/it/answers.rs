//! Every answer to the letter (DESIGN §8, "Verifier answers"; RFC 6750; RFC 9457).
use crate::server::{B, Server, Signer, soon};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::{Router, routing::get};
use portcullis_tower::wire::{AccountId, SessionId, Target, Verb};
use portcullis_tower::{Policy, Verified, Verifier, VerifyLayer};
use std::time::Duration;
use tower::ServiceExt as _;

async fn whoami(verified: Verified) -> String {
    format!("{} {}", verified.claims().sub, verified.is_proven())
}

fn app(verifier: &Verifier) -> Router {
    let layer = || VerifyLayer::new(verifier.clone());
    Router::new()
        .route("/", get(whoami).layer(layer()))
        .route("/open", get(whoami).layer(layer().policy(Policy::Open)))
        .route("/ask", get(whoami).layer(layer().policy(Policy::Introspect)))
        .route("/admin", get(whoami).layer(layer().scope("account").scope("admin")))
        .route("/bare", get(whoami))
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn challenge(&self) -> Option<&str> {
        self.headers.get("www-authenticate").map(|h| h.to_str().unwrap())
    }
    fn problem(&self) -> serde_json::Value {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.headers["cache-control"], "no-store");
        serde_json::from_str(&self.text).unwrap()
    }
    fn code(&self) -> String {
        self.problem()["code"].as_str().unwrap().to_owned()
    }
}

async fn send(verifier: &Verifier, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = headers.iter().fold(Request::get(path), |r, (name, value)| r.header(*name, *value));
    let response = app(verifier).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(to_bytes(body, 10_000).await.unwrap().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, text }
}

async fn with(verifier: &Verifier, path: &str, token: &str) -> Answer {
    send(verifier, path, &[("authorization", &format!("Bearer {token}"))]).await
}

#[tokio::test]
async fn accepts_and_refuses_with_the_right_words() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let token = server.token(1);
    let good = with(&verifier, "/", &token).await;
    assert_eq!((good.status.as_u16(), good.text), (200, format!("{} true", AccountId::from_bits(1))));
    assert_eq!(send(&verifier, "/", &[("authorization", &format!("bEARER  {token}"))]).await.status, 200);

    for headers in
        [&[][..], &[("authorization", "Basic eDp5")], &[("authorization", "Bearer")], &[("authorization", "Bearer ")]]
    {
        let missing = send(&verifier, "/", headers).await;
        assert_eq!((missing.status.as_u16(), missing.challenge()), (401, Some("Bearer realm=\"portcullis\"")));
        assert_eq!(missing.code(), "token_missing");
    }
    let mut claims = server.claims(1);
    claims.exp = claims.iat;
    let expired = server.signer.sign(&claims);
    let (huge, foreign) = ("x".repeat(20_000), Signer::new(1).sign(&server.claims(1)));
    for (token, code) in [
        ("garbage", "token_malformed"),
        (&huge, "token_malformed"),
        (&foreign, "token_malformed"),
        (&expired, "token_expired"),
    ] {
        let answer = with(&verifier, "/", token).await;
        assert_eq!(answer.status, 401);
        let want = format!("Bearer error=\"invalid_token\", error_description=\"{code}\"");
        assert_eq!(answer.challenge(), Some(want.as_str()));
        let problem = answer.problem();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["type"], format!("urn:portcullis:problem:{code}"));
        assert_eq!((problem["status"].as_u64(), problem["title"].is_string()), (Some(401), true));
        assert!(problem["request_id"].as_str().unwrap().starts_with("req_"));
    }
    let bearer = format!("Bearer {token}");
    let twice = send(&verifier, "/", &[("authorization", &bearer), ("authorization", "Bearer x")]).await;
    assert_eq!(twice.code(), "token_malformed");
    let named = send(&verifier, "/", &[("x-request-id", "abc-1.2")]).await;
    assert_eq!(named.problem()["request_id"], "abc-1.2");
    let hostile = send(&verifier, "/", &[("x-request-id", "a\"}<script>")]).await;
    assert!(hostile.problem()["request_id"].as_str().unwrap().starts_with("req_"));

    let scope = with(&verifier, "/admin", &token).await;
    assert_eq!((scope.status.as_u16(), scope.code().as_str()), (403, "insufficient_scope"));
    let challenge = scope.challenge().unwrap();
    assert!(challenge.starts_with("Bearer error=\"insufficient_scope\"") && challenge.ends_with("scope=\"admin\""));
    let mut claims = server.claims(1);
    claims.scope = "account admin".into();
    assert_eq!(with(&verifier, "/admin", &server.signer.sign(&claims)).await.status, 200);
    // a route that nobody guards serves nothing
    assert_eq!(with(&verifier, "/bare", &token).await.status, 500);
}

#[tokio::test]
async fn refuses_within_milliseconds_and_only_what_was_meant() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let (one, two, three) = (server.token(1), server.token(2), server.token(3));
    let rev = server.end(Target::Session(SessionId::from_bits(1)));
    server.commit(Verb::Stale, Target::Account(AccountId::from_bits(2)));
    soon("applied", || verifier.readiness().applied.0 == rev.0 + 1).await;
    let ended = with(&verifier, "/", &one).await;
    assert_eq!((ended.status.as_u16(), ended.code().as_str()), (401, "token_revoked"));
    assert_eq!(with(&verifier, "/open", &one).await.code(), "token_revoked");
    assert_eq!(with(&verifier, "/", &two).await.code(), "token_stale");
    assert_eq!(with(&verifier, "/", &three).await.status, 200);
    // a token that was minted after the entry lives
    assert_eq!(with(&verifier, "/", &server.token(2)).await.status, 200);
    // the server hears of it at once, not with the next renewal
    soon("acknowledged", || server.lock().seen.applied.0 == rev.0 + 1).await;
}

#[tokio::test]
async fn without_a_lease_each_route_does_what_it_says() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let token = server.token(1);
    server.set_down(true);
    // the bound is lived through
    tokio::time::sleep(Duration::from_millis(B / 4)).await;
    assert_eq!(with(&verifier, "/", &token).await.status, 200);
    tokio::time::sleep(Duration::from_millis(B)).await;
    assert!(!verifier.is_fresh());
    let closed = with(&verifier, "/", &token).await;
    assert_eq!((closed.status.as_u16(), closed.code().as_str(), closed.challenge()), (503, "not_fresh", None));
    assert_eq!(closed.headers["retry-after"], "1");
    let open = with(&verifier, "/open", &token).await;
    assert_eq!((open.status.as_u16(), open.text.ends_with("false")), (200, true));
    // the introspection's own failure is no verdict about the token
    assert_eq!(with(&verifier, "/ask", &token).await.code(), "not_fresh");
    server.lock().switches.active = Some(true);
    assert_eq!(with(&verifier, "/ask", &token).await.status, 200);
    server.lock().switches.active = Some(false);
    assert_eq!(with(&verifier, "/ask", &token).await.code(), "token_revoked");
    let asked = server.lock().seen.introspections;
    assert_eq!(asked, 3);
    assert_eq!(with(&verifier, "/ask", "garbage").await.code(), "token_malformed");
    let metrics = verifier.metrics();
    for line in [
        "portcullis_verifier_accepted_total{how=\"unproven\"} 1",
        "portcullis_verifier_accepted_total{how=\"introspected\"} 1",
        "portcullis_verifier_refused_total{code=\"not_fresh\"} 2",
        "portcullis_verifier_fresh 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    // and it comes back by itself, by the same name
    server.set_down(false);
    assert!(verifier.wait_fresh(Duration::from_secs(5)).await);
    assert_eq!(with(&verifier, "/", &token).await.status, 200);
    assert_eq!(with(&verifier, "/ask", &token).await.status, 200);
    assert_eq!(server.lock().seen.introspections, asked, "nobody is asked while fresh");
    soon("the stream is back, too", || verifier.readiness().connected).await;
    let inner = server.lock();
    let last = inner.seen.queries.last().unwrap();
    assert_eq!((last["name"].as_str(), last["policy"].as_str()), ("test service", "closed,introspect,open"));
    assert!(last["instance"].starts_with("ins_"));
    assert_eq!(inner.seen.last_event_ids.last().unwrap().as_deref(), Some("0.0.mac"));
}

#[tokio::test]
async fn before_the_first_snapshot_nothing_is_accepted() {
    let server = Server::start().await;
    server.set_down(true);
    let verifier = Verifier::start(server.config()).unwrap();
    let token = server.token(1);
    for path in ["/", "/open"] {
        assert_eq!(with(&verifier, path, &token).await.code(), "not_fresh");
    }
    assert_eq!(with(&verifier, "/", "garbage").await.code(), "token_malformed");
    assert!(!verifier.wait_fresh(Duration::from_millis(50)).await);
    // under `introspect` the server vouches for a token whose key is not known here yet
    server.lock().switches.active = Some(true);
    assert_eq!(with(&verifier, "/ask", &token).await.status, 200);
    let mut other = server.claims(1);
    other.aud.0 = vec!["else".into()];
    assert_eq!(with(&verifier, "/ask", &server.signer.sign(&other)).await.code(), "token_malformed");
    assert_eq!(server.lock().seen.introspections, 1);
}
