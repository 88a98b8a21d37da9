//! The succession of refresh tokens, over HTTP and at once (I5, I6).
use crate::kept::{Kept, Session, insist, refresh, sign_in, sign_up, turn};
use crate::support::{ADMIN, Dir, Server};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;

const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_one_successor_and_a_replay_ends_that_session_only() {
    let _turn = turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let to = server.address;
    let email = sign_up(to, "alice").await;
    let (first, other) = (sign_in(to, &email).await, sign_in(to, &email).await);

    let start = Arc::new(Barrier::new(AT_ONCE));
    let mut calls = Vec::new();
    for _ in 0..AT_ONCE {
        let mut connection = Kept::open(to).await.unwrap();
        let (start, body) = (start.clone(), json!({ "refresh_token": first.refresh }));
        calls.push(tokio::spawn(async move {
            start.wait().await;
            connection.call("POST", "/v1/sessions/refresh", None, Some(&body)).await.unwrap()
        }));
    }
    let mut successors = BTreeSet::new();
    let mut access = BTreeSet::from([first.access.clone()]);
    for call in calls {
        let next = Session::from(&call.await.unwrap().must(200));
        assert_eq!(next.sid, first.sid);
        successors.insert(next.refresh);
        access.insert(next.access);
    }
    assert_eq!(successors.len(), 1, "{AT_ONCE} concurrent refreshes of one token made {} successors", successors.len());
    let successor = successors.pop_first().unwrap();
    assert_ne!(successor, first.refresh);
    for token in &access {
        insist(to, "GET", "/v1/me", Some(token), None).await.must(200);
    }

    // The successor is used; from then on only a copy explains the first one.
    let next = Session::from(&refresh(to, &successor).await.must(200));
    let replayed = refresh(to, &first.refresh).await.must(401);
    assert_eq!(replayed.code(), "refresh_reused");
    for token in access.iter().chain([&next.access]) {
        let gone = insist(to, "GET", "/v1/me", Some(token), None).await.must(401);
        assert_eq!(gone.code(), "token_revoked");
    }
    for token in [&first.refresh, &successor, &next.refresh] {
        assert_eq!(refresh(to, token).await.must(401).code(), "session_ended");
    }

    // The other session of the same account does not notice.
    insist(to, "GET", "/v1/me", Some(&other.access), None).await.must(200);
    assert_eq!(Session::from(&refresh(to, &other.refresh).await.must(200)).sid, other.sid);

    // One event, whatever came after.
    let admin = sign_in(to, ADMIN.0).await;
    let path = format!("/v1/admin/events?kind=refresh.reused&account_id={}", first.account);
    let events = insist(to, "GET", &path, Some(&admin.access), None).await.must(200);
    let events = events.body["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0]["session_id"].as_str(), events[0]["ended"].as_u64()), (Some(&*first.sid), Some(1)));
    eprintln!("{AT_ONCE} refreshes at once: 1 successor, {} access tokens; a replay ended 1 session", access.len() - 1);
}
