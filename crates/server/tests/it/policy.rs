//! Roles as claims, with the real verifier: new claims reach every service by a refresh, nobody is signed out, and with
//! `spread_ms` not all are told at once.
use crate::kept::{Session, insist, quiet_turn, refresh, sign_in, sign_up, verifier};
use crate::support::{ADMIN, Dir, PATIENCE, Server};
use portcullis_tower::wire::Code;
use portcullis_tower::{Rule, Verifier};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

/// What a verifier says of a token: the roles in it, or a code. One that has lost its lease for a moment is asked again.
async fn roles(verifier: &Verifier, token: &str) -> Result<Vec<String>, Code> {
    loop {
        match verifier.verify(token, &Rule::default()).await {
            Ok(verified) => return Ok(verified.claims().roles.clone()),
            Err(refusal) if refusal.code() == Code::NotFresh => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(refusal) => return Err(refusal.code()),
        }
    }
}

/// Changes roles; returns when the verifier has applied the last entry of it.
async fn change(to: SocketAddr, admin: &Session, one: &Verifier, body: serde_json::Value) {
    let done = insist(to, "POST", "/v1/admin/roles", Some(&admin.access), Some(&body)).await.must(200).body;
    assert_eq!(done["changed"], 1, "{done}");
    let applied = async {
        while one.readiness().applied.0 < done["rev"].as_u64().unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, applied).await.expect("the entry reaches the service");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_roles_reach_a_service_and_nobody_is_signed_out() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    // The lease outlives the test's patience: what arrives in time came by the stream, and not by arithmetic.
    let server = Server::start_with(&dir, &["--bound", "60s"]).await;
    let to = server.address;
    let one = verifier(to, &Server::verifier_client(&dir), "one");
    assert!(one.wait_fresh(PATIENCE).await);
    let ada = sign_up(to, "ada").await;
    let (admin, eve) = (sign_in(to, ADMIN.0).await, sign_up(to, "eve").await);
    let mut sessions = Vec::new();
    for _ in 0..24 {
        sessions.push(sign_in(to, &ada).await);
    }
    let bystander = sign_in(to, &eve).await;
    let account = sessions[0].account.clone();

    change(to, &admin, &one, json!({ "account_ids": [account], "add": ["editor"] })).await;
    for session in &mut sessions {
        assert_eq!(roles(&one, &session.access).await, Err(Code::TokenStale), "the old claims count no more");
        *session = Session::from(&refresh(to, &session.refresh).await.must(200));
        assert_eq!(roles(&one, &session.access).await, Ok(vec!["editor".to_owned()]));
    }
    assert_eq!(roles(&one, &bystander.access).await, Ok(vec![]));

    // Spread over an hour, which no test lasts for: a few are told by now, and the others are not.
    let spread = json!({ "account_ids": [account], "add": ["beta"], "spread_ms": 3_600_000 });
    change(to, &admin, &one, spread).await;
    let mut told = 0;
    for session in &sessions {
        match roles(&one, &session.access).await {
            Ok(old) => assert_eq!(old, ["editor"]),
            Err(code) => {
                assert_eq!(code, Code::TokenStale);
                told += 1;
            }
        }
    }
    assert!(told <= 8, "{told} of 24 were told at once");
    // Whoever refreshes has the new ones, told or not.
    let next = Session::from(&refresh(to, &sessions[0].refresh).await.must(200));
    assert_eq!(roles(&one, &next.access).await, Ok(vec!["beta".to_owned(), "editor".to_owned()]));

    // What is taken away in haste is not spread, and the spread entry before it delays nothing.
    change(to, &admin, &one, json!({ "account_ids": [account], "remove": ["editor", "beta"] })).await;
    for session in &sessions[1..] {
        assert_eq!(roles(&one, &session.access).await, Err(Code::TokenStale));
        let next = Session::from(&refresh(to, &session.refresh).await.must(200));
        assert_eq!(roles(&one, &next.access).await, Ok(vec![]));
    }
}
