//! Open connections (I14).
use crate::server::{B, Server, soon, unix_ms};
use futures_util::{StreamExt as _, stream};
use portcullis_tower::wire::{SessionId, Target};
use portcullis_tower::{Policy, Reason, Rule, Verifier};
use std::time::Duration;
use tokio::time::timeout;

pub async fn open(verifier: &Verifier, token: &str, policy: Policy) -> portcullis_tower::Guard {
    verifier.verify(token, &Rule { policy, scopes: [].into() }).await.unwrap().guard()
}

fn ticks() -> impl futures_util::Stream<Item = u32> {
    stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Some((n, n + 1))
    })
}

#[tokio::test]
async fn ends_when_its_token_is_revoked_and_no_other() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let mine = open(&verifier, &server.token(1), Policy::Closed).await;
    let others = open(&verifier, &server.token(2), Policy::Closed).await;
    let mut streamed = Box::pin(mine.wrap(ticks()));
    assert_eq!(streamed.next().await, Some(0));
    assert!(timeout(Duration::from_millis(2 * B), mine.ended()).await.is_err(), "renewed leases keep it open");
    let rev = server.end(Target::Session(SessionId::from_bits(1)));
    assert_eq!(timeout(Duration::from_millis(100), mine.ended()).await, Ok(Reason::Ended { rev }));
    assert_eq!(timeout(Duration::from_millis(100), streamed.next()).await, Ok(None));
    assert_eq!(streamed.why(), Some(Reason::Ended { rev }));
    assert_eq!(others.check(), None);
    assert!(timeout(Duration::from_millis(50), others.ended()).await.is_err());
}

#[tokio::test]
async fn ends_when_its_token_expires_unless_a_newer_one_is_shown() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let mut claims = server.claims(1);
    claims.exp = unix_ms() / 1000 + 2;
    let short = server.signer.sign(&claims);
    let guard = open(&verifier, &short, Policy::Closed).await;
    let renewed = open(&verifier, &short, Policy::Closed).await;
    assert_eq!(renewed.renew(open(&verifier, &server.token(1), Policy::Closed).await.verified()), Ok(()));
    let left = u64::try_from(claims.exp * 1000 - unix_ms()).unwrap();
    assert!(timeout(Duration::from_millis(left - 100), guard.ended()).await.is_err());
    assert_eq!(timeout(Duration::from_millis(200), guard.ended()).await, Ok(Reason::Expired));
    assert_eq!(renewed.check(), None);
}

#[tokio::test]
async fn ends_with_the_lease_on_closed_routes_only() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let patient = Verifier::start(server.config().stream_grace(Duration::from_millis(300))).unwrap();
    assert!(patient.wait_fresh(Duration::from_secs(5)).await);
    let token = server.token(1);
    let closed = open(&verifier, &token, Policy::Closed).await;
    let asking = open(&verifier, &token, Policy::Introspect).await;
    let opened = open(&verifier, &token, Policy::Open).await;
    let graced = open(&patient, &token, Policy::Closed).await;
    server.set_down(true);
    let ended = timeout(Duration::from_millis(B + 100), closed.ended()).await;
    assert_eq!(ended, Ok(Reason::NotFresh));
    assert_eq!(asking.check(), Some(Reason::NotFresh), "nobody asked for it lately");
    assert_eq!(opened.check(), None);
    soon("the other's lease ends, too", || !patient.is_fresh()).await;
    assert_eq!(graced.check(), None);
    assert!(timeout(Duration::from_millis(150), graced.ended()).await.is_err());
    assert_eq!(timeout(Duration::from_millis(300), graced.ended()).await, Ok(Reason::NotFresh));
    assert!(timeout(Duration::from_millis(50), opened.ended()).await.is_err());
}

#[tokio::test]
async fn bodies_end_too() {
    use axum::body::{Body, Bytes};
    use http_body_util::BodyExt as _;
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let guard = open(&verifier, &server.token(1), Policy::Closed).await;
    let ticks = Body::from_stream(ticks().map(|n| Ok::<_, std::convert::Infallible>(Bytes::from(n.to_string()))));
    let mut body = Box::pin(guard.wrap(ticks));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "0");
    server.end(Target::All);
    let rest = timeout(Duration::from_millis(500), async { while body.frame().await.is_some() {} }).await;
    assert!(rest.is_ok());
}
