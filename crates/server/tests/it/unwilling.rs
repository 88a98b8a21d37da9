//! A PostgreSQL that is there and does not do what it is asked: one that only reads, and one that has no connection left. Every
//! call that needs it answers 503 and says when to come again, nobody is signed out, and the node goes on by itself.
use crate::kept::{Answer, Kept, Session, insist, mono_us, refresh, sign_in, sign_up, turn};
use crate::nodes::Node;
use portcullis_testkit::proxy::Way;
use portcullis_testkit::{Cluster, SMALL};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

async fn node(cluster: &Cluster, url: &str) -> (Node, String, Session) {
    let mut node = Node::new(cluster, url, &["--bound", "2s"]).await;
    node.start().await;
    let email = sign_up(node.at, "ada").await;
    let session = sign_in(node.at, &email).await;
    (node, email, session)
}

/// One call, not repeated.
async fn once(node: &Node, path: &str, body: serde_json::Value) -> Answer {
    Kept::open(node.at).await.unwrap().call("POST", path, None, Some(&body)).await.unwrap()
}

/// Signing in and refreshing: 503, and when to come again.
async fn refuses(node: &Node, email: &str, session: &Session) {
    for (path, body) in [
        ("/v1/sessions", json!({ "identifier": email, "password": "a good long password" })),
        ("/v1/sessions/refresh", json!({ "refresh_token": session.refresh })),
    ] {
        let answer = once(node, path, body).await.must(503);
        assert!(["unavailable", "overloaded"].contains(&answer.code()), "{path}: {}", answer.body);
        assert!(answer.headers.contains_key("retry-after"), "{path}: {:?}", answer.headers);
        assert!(!answer.headers.contains_key("set-cookie"), "{path}: {:?}", answer.headers);
    }
}

async fn goes_on(node: &Node, email: &str, session: &Session) {
    let next = refresh(node.at, &session.refresh).await.must(200);
    insist(node.at, "GET", "/v1/me", Some(next.text("access_token")), None).await.must(200);
    sign_in(node.at, email).await;
    assert!(!node.log().contains("ROLLED BACK"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_only_reads_is_no_end() {
    let _turn = turn().await;
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let (node, email, session) = node(&cluster, &url).await;
    // What the database has as its usual is not what a node takes.
    let name = url.rsplit('/').next().unwrap();
    tokio::task::block_in_place(|| {
        let only_reads = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
        cluster.psql("postgres", &only_reads);
    });
    node.way.reset();
    sign_in(node.at, &email).await;
    // A standby does nothing but read.
    let standby = tokio::task::block_in_place(|| cluster.follower());
    tokio::task::block_in_place(|| standby.catch_up(&cluster));
    node.follow(&standby);
    refuses(&node, &email, &session).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    refuses(&node, &email, &session).await;
    node.follow(&cluster);
    goes_on(&node, &email, &session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_a_free_connection_is_no_end() {
    let _turn = turn().await;
    let cluster = Arc::new(Cluster::small());
    let url = cluster.database(None);
    let (node, email, session) = node(&cluster, &url).await;
    // The node loses its connections, and others take all there are.
    node.way.set(Way { refuse: true, ..Way::default() });
    node.way.reset();
    let begun_us = mono_us();
    let held: Vec<_> = (0..SMALL)
        .map(|_| {
            let cluster = cluster.clone();
            // Some of them may come too late to get one.
            std::thread::spawn(move || cluster.psql("postgres", "SELECT pg_sleep(12)"))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.way.heal();
    refuses(&node, &email, &session).await;
    // Whoever asks the database itself is told 53300; whoever waits for a connection of the pool, that none came: which of them there are
    // depends on who got the last connection. Those calls may have been refused by what the node knew from before; it asks again soon.
    let told = ["53300", "too many clients", "waiting for an open connection"];
    while !told.iter().any(|words| node.log().contains(words)) {
        assert!(mono_us() - begun_us < 11_000_000, "connections are free again: {}", node.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    goes_on(&node, &email, &session).await;
    assert!(held.into_iter().filter_map(|one| one.join().ok()).count() > SMALL / 2);
}
