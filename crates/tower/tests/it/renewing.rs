//! Renewal inside an open connection (I14): docs/decisions/0018.
use crate::guarding::open;
use crate::server::{Server, soon, unix_ms};
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{Request, StatusCode};
use futures_util::{StreamExt as _, stream};
use portcullis_tower::wire::{AccessClaims, AccountId, ClientId, Code, SessionId, Target, Verb};
use portcullis_tower::{NotTheSame, Policy, Reason, RenewError, Rule};
use std::time::Duration;
use tokio::time::timeout;
use tower::ServiceExt as _;

#[allow(dead_code, reason = "its main")]
#[path = "../../examples/sse.rs"]
mod example;

const PATIENCE: Duration = Duration::from_secs(10);

/// Claims of the first session that expire so many seconds from now.
fn short(server: &Server, seconds: i64) -> AccessClaims {
    let mut claims = server.claims(1);
    claims.exp = unix_ms() / 1000 + seconds;
    claims
}

async fn past(claims: &AccessClaims) {
    let left = u64::try_from((claims.exp + 1) * 1000 - unix_ms()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(left)).await;
}

#[tokio::test]
async fn what_was_wrapped_before_goes_on_with_a_token_shown_later() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let first = short(&server, 2);
    let guard = open(&verifier, &server.signer.sign(&first), Policy::Closed).await;
    let left_alone = open(&verifier, &server.signer.sign(&first), Policy::Closed).await;
    let mut wrapped = Box::pin(guard.wrap(stream::pending::<()>()));
    let waiting = tokio::spawn({
        let guard = guard.clone();
        async move { guard.ended().await }
    });
    assert_eq!(guard.clone().renew_with(&server.token(1)).await, Ok(()));
    past(&first).await;
    assert_eq!(left_alone.check(), Some(Reason::Expired));
    assert_eq!(guard.check(), None);
    assert!(timeout(Duration::from_millis(50), wrapped.next()).await.is_err() && !waiting.is_finished());

    let rev = server.end(Target::Session(SessionId::from_bits(1)));
    assert_eq!(timeout(PATIENCE, wrapped.next()).await, Ok(None));
    assert_eq!(wrapped.why(), Some(Reason::Ended { rev }));
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), Reason::Ended { rev });
    assert_eq!(guard.why(), Some(Reason::Ended { rev }));
}

#[tokio::test]
async fn another_ones_token_and_a_bad_one_change_nothing() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let guard = verifier
        .verify(&server.token(1), &Rule { policy: Policy::Closed, scopes: ["account".to_owned()].into() })
        .await
        .unwrap()
        .guard();
    let before = guard.verified().claims().clone();
    let later = |change: &dyn Fn(&mut AccessClaims)| {
        let mut claims = server.claims(1);
        claims.exp += 60;
        change(&mut claims);
        server.signer.sign(&claims)
    };
    for (token, why) in [
        (later(&|c| c.sub = AccountId::from_bits(2)), NotTheSame::Account),
        (later(&|c| c.sid = SessionId::from_bits(2)), NotTheSame::Session),
        (later(&|c| c.client_id = ClientId::from_bits(9)), NotTheSame::Client),
    ] {
        let refused = guard.renew_with(&token).await.unwrap_err();
        assert_eq!((refused.code(), &refused), (Code::Forbidden, &RenewError::NotTheSame(why)));
    }
    let foreign = later(&|c| c.iss = "https://elsewhere.example".into());
    for (token, code) in [
        ("garbage".to_owned(), Code::TokenMalformed),
        (foreign, Code::TokenMalformed),
        (later(&|c| c.exp = c.iat), Code::TokenExpired),
        (later(&|c| c.scope = "other".into()), Code::InsufficientScope),
    ] {
        let refused = guard.renew_with(&token).await.unwrap_err();
        assert!(matches!(&refused, RenewError::Refused(refusal) if refusal.code() == code), "{refused}");
    }
    // One that was accepted on a route that asks for less is judged by this connection's rule, too.
    let elsewhere = open(&verifier, &later(&|c| c.scope = "other".into()), Policy::Open).await;
    assert_eq!(guard.renew(elsewhere.verified()).unwrap_err().code(), Code::InsufficientScope);
    assert_eq!((guard.check(), guard.verified().claims()), (None, &before));
    assert!(verifier.metrics().contains("portcullis_verifier_guards_renewed_total 0\n"));
    assert_eq!(guard.renew_with(&later(&|_| ())).await, Ok(()));
    assert_eq!(guard.verified().claims().exp, before.exp + 60);
    assert!(verifier.metrics().contains("portcullis_verifier_guards_renewed_total 1\n"));
    // An older one, shown later, takes nothing away and adds nothing.
    assert_eq!(guard.renew_with(&server.signer.sign(&before)).await, Ok(()));
    assert_eq!(guard.verified().claims().exp, before.exp + 60);
    assert!(verifier.metrics().contains("portcullis_verifier_guards_renewed_total 1\n"));
}

#[tokio::test]
async fn what_is_over_stays_over() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let first = short(&server, 1);
    let expired = open(&verifier, &server.signer.sign(&first), Policy::Closed).await;
    let stale = open(&verifier, &server.token(2), Policy::Closed).await;
    past(&first).await;
    // Nobody looked in time; it is over all the same.
    assert_eq!(expired.renew_with(&server.token(1)).await, Err(RenewError::Over(Reason::Expired)));
    assert_eq!(expired.ended().await, Reason::Expired);

    let rev = server.commit(Verb::Stale, Target::Account(AccountId::from_bits(2)));
    assert_eq!(timeout(PATIENCE, stale.ended()).await, Ok(Reason::Stale { rev }));
    assert_eq!(stale.renew_with(&server.token(2)).await, Err(RenewError::Over(Reason::Stale { rev })));
    assert!(verifier.metrics().contains("portcullis_verifier_guards_ended_total 2\n"));
}

#[tokio::test]
async fn what_lost_its_lease_stays_over_when_there_is_another() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let lost = open(&verifier, &server.token(3), Policy::Closed).await;
    server.set_down(true);
    assert_eq!(timeout(PATIENCE, lost.ended()).await, Ok(Reason::NotFresh));
    server.set_down(false);
    assert!(verifier.wait_fresh(PATIENCE).await);
    assert_eq!(lost.clone().check(), Some(Reason::NotFresh));
    assert_eq!(lost.renew_with(&server.token(3)).await.unwrap_err().code(), Code::NotFresh);
}

/// A token that is fresher than the log here: the entry that makes the old one stale comes after the renewal.
#[tokio::test]
async fn renewed_before_the_old_one_is_stale() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let guard = open(&verifier, &server.token(1), Policy::Closed).await;
    let mut renewed = server.claims(1);
    renewed.rev.0 += 1;
    renewed.exp -= 30; // and it expires earlier
    assert_eq!(guard.renew_with(&server.signer.sign(&renewed)).await, Ok(()));
    let rev = server.commit(Verb::Stale, Target::Account(AccountId::from_bits(1)));
    assert_eq!(rev, renewed.rev);
    soon("applied", || verifier.readiness().applied == rev).await;
    assert_eq!((guard.check(), guard.verified().claims().exp), (None, renewed.exp));
}

/// Renewals and ends at once, from many threads: what is over is over for all, and stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn renewals_and_an_end_at_once() {
    let server = Server::patient().await;
    let verifier = server.verifier().await;
    let tokens: Vec<String> = (0..64)
        .map(|n| {
            let mut claims = server.claims(1);
            claims.exp += n;
            server.signer.sign(&claims)
        })
        .collect();
    let guard = open(&verifier, &tokens[0], Policy::Closed).await;
    let renewing: Vec<_> = (0..8)
        .map(|from| {
            let (guard, tokens) = (guard.clone(), tokens.clone());
            tokio::spawn(async move {
                let mut refused = None;
                for token in tokens.iter().cycle().skip(from).take(100_000) {
                    let outcome = guard.renew_with(token).await;
                    assert!(outcome.is_err() || refused.is_none(), "renewed after the end");
                    refused = refused.or(outcome.err());
                    if refused.is_some() && guard.why().is_some() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                refused
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let rev = server.end(Target::Session(SessionId::from_bits(1)));
    assert_eq!(timeout(PATIENCE, guard.ended()).await, Ok(Reason::Ended { rev }));
    for renewed in renewing {
        assert!(timeout(PATIENCE, renewed).await.unwrap().unwrap().is_some());
    }
    assert_eq!(guard.check(), Some(Reason::Ended { rev }));
}

async fn status_of(app: &axum::Router, token: &str, path: &str) -> (StatusCode, String) {
    let request = Request::post(path).header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, String::from_utf8(to_bytes(response.into_body(), 10_000).await.unwrap().to_vec()).unwrap())
}

async fn next(body: &mut BodyDataStream) -> Option<String> {
    let bytes = timeout(PATIENCE, body.next()).await.unwrap();
    bytes.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap())
}

/// The documented example: events of one stream, renewed by another request.
#[tokio::test]
async fn the_example_of_events() {
    let server = Server::patient().await;
    let app = example::app(server.verifier().await);
    let first = short(&server, 2);
    let request = Request::get("/clock")
        .header("authorization", format!("Bearer {}", server.signer.sign(&first)))
        .body(Body::empty())
        .unwrap();
    let mut body = app.clone().oneshot(request).await.unwrap().into_body().into_data_stream();
    assert_eq!(next(&mut body).await.unwrap(), "event: hello\ndata: 0\n\n");
    assert_eq!(status_of(&app, &server.token(2), "/clock/0").await, (StatusCode::FORBIDDEN, "forbidden".into()));
    assert_eq!(status_of(&app, &server.token(1), "/clock/7").await.0, StatusCode::NOT_FOUND);
    assert_eq!(status_of(&app, &server.token(1), "/clock/0").await.0, StatusCode::NO_CONTENT);
    past(&first).await;
    for _ in 0..20 {
        assert!(next(&mut body).await.unwrap().starts_with("event: tick\n"));
    }
    server.end(Target::Session(SessionId::from_bits(1)));
    let mut last = String::new();
    while let Some(event) = next(&mut body).await {
        last = event;
    }
    assert_eq!(last, "event: ended\ndata: token_revoked\n\n");
    drop(body);
    assert_eq!(status_of(&app, &server.token(2), "/clock/0").await.0, StatusCode::NOT_FOUND, "no guard is left behind");
}
