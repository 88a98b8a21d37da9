//! A node that stands still for longer than the others take it for alive (SIGSTOP), and comes back: 13 s at a bound of one second, and
//! `PORTCULLIS_TEST_PAUSE_S` seconds where that is longer.
use crate::kept::{Kept, Session, insist, mono_us, sign_in, sign_up, turn, verifier};
use crate::nodes::Node;
use crate::support::{ADMIN, PATIENCE, Server, run};
use portcullis_testkit::Cluster;
use portcullis_tower::{Rule, Verifier};
use rustix::process::Signal;
use std::time::Duration;

async fn accepts(verifier: &Verifier, session: &Session) -> bool {
    verifier.verify(&session.access, &Rule::default()).await.is_ok()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let until = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_past_the_fence_says_nothing_of_before_and_counts_again() {
    let _turn = turn().await;
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let name = url.rsplit('/').next().unwrap().to_owned();
    let nodes = Node::started(&cluster, &url, 2, &["--bound", "1s", "--access-ttl", "30m"]).await;
    let (runs, stops) = (&nodes[0], &nodes[1]);
    let rows = || tokio::task::block_in_place(|| cluster.psql(&name, "SELECT count(*) FROM portcullis.nodes"));
    let client = Server::verifier_client(&runs.dir);
    let [here, there] = [runs, stops].map(|node| verifier(node.at, &client, "through"));
    let email = sign_up(runs.at, "ada").await;
    let (kept, other) = (sign_in(runs.at, &email).await, sign_in(stops.at, &email).await);
    for verifier in [&here, &there] {
        for session in [&kept, &other] {
            until("a living token is accepted", async || accepts(verifier, session).await).await;
        }
    }
    assert_eq!(rows(), "2");

    stops.signal(Signal::STOP);
    let stopped_us = mono_us();
    let path = format!("/v1/me/sessions/{}?wait=enforced", other.sid);
    let ended = insist(runs.at, "DELETE", &path, Some(&kept.access), None).await.must(200);
    assert_eq!(ended.body["enforcement"]["complete"], true, "the bound says so: {}", ended.body);
    let counts = |body: &serde_json::Value| {
        [&body["enforcement"]["acknowledged"], &body["enforcement"]["lapsed"]].map(|n| n.as_u64())
    };
    assert_eq!(counts(&ended.body), [Some(1), Some(1)], "the one that hangs there did not say so: {}", ended.body);
    assert!(!accepts(&here, &other).await && !accepts(&there, &other).await);
    // Who hangs on it is still shown, as one that may hold a lease.
    let admin = sign_in(runs.at, ADMIN.0).await.access;
    let listed = insist(runs.at, "GET", "/v1/admin/verifiers", Some(&admin), None).await.must(200).body;
    let all = listed["verifiers"].as_array().unwrap();
    let away = all.iter().filter(|one| one["connected"] == false && one["leased"] == true).count();
    assert_eq!((all.len(), away, listed["silent_nodes"].as_array().unwrap().len()), (2, 1, 1), "{listed}");
    tokio::task::block_in_place(|| run(&runs.dir.0, &["feed", "--check", "--data-dir", "data"])).must(4, "away");
    until("its verifier refuses everything after the bound", async || !accepts(&there, &kept).await).await;
    assert!(accepts(&here, &kept).await);
    until("the other node takes its row away", async || {
        assert!(!accepts(&there, &kept).await && !accepts(&there, &other).await, "it has no lease");
        rows() == "1"
    })
    .await;
    assert!(mono_us() - stopped_us > 12_000_000, "as long as leases under its last beat can live");
    let whole_us = std::env::var("PORTCULLIS_TEST_PAUSE_S").map_or(0, |s| s.parse::<i64>().unwrap() * 1_000_000);
    while mono_us() - stopped_us < whole_us {
        assert!(accepts(&here, &kept).await && !accepts(&there, &kept).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // What comes while it stands still it answers when it goes on.
    let (at, dead) = (stops.at, other.access.clone());
    let asked = tokio::spawn(async move {
        let mut way = Kept::open(at).await.unwrap();
        way.call("GET", "/v1/me", Some(&dead), None).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    stops.signal(Signal::CONT);
    let answered = asked.await.unwrap();
    assert!(answered.is_err() || matches!(answered, Ok(answer) if [401, 503].contains(&answer.status)));
    until("its verifier follows it again", async || {
        assert!(!accepts(&there, &other).await, "a dead token was accepted");
        accepts(&there, &kept).await
    })
    .await;
    until("it has a row again", async || rows() == "2").await;
    insist(stops.at, "GET", "/v1/me", Some(&other.access), None).await.must(401);

    // And it is waited for again: its verifier's word counts.
    let last = sign_in(stops.at, &email).await;
    until("a new token is accepted", async || accepts(&there, &last).await).await;
    let path = "/v1/me/sessions/current?wait=enforced";
    let ended = insist(runs.at, "DELETE", path, Some(&last.access), None).await.must(200);
    assert_eq!(ended.body["enforcement"]["complete"], true, "{}", ended.body);
    assert!(!accepts(&here, &last).await && !accepts(&there, &last).await);
    assert!(stops.log().lines().all(|line| !line.contains("ROLLED BACK")), "{}", stops.log());
}
