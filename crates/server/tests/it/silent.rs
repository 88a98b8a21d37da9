//! A node that is killed while verifiers follow it: they stay on the list and in the counts, whichever node is asked, and every
//! node that is asked about an end says the same of it.
use crate::kept::{insist, sign_in, sign_up, turn, verifier};
use crate::nodes::Node;
use crate::support::{ADMIN, PATIENCE, Server, run};
use portcullis_testkit::Cluster;
use portcullis_tower::Rule;
use rustix::process::Signal;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

async fn list(at: SocketAddr, admin: &str) -> Value {
    let listed = insist(at, "GET", "/v1/admin/verifiers", Some(admin), None).await.must(200).body;
    assert_eq!(listed["verifiers"].as_array().unwrap().len(), 3, "somebody is left out: {listed}");
    listed
}

/// The list, once this is so.
async fn list_until(at: SocketAddr, admin: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let until = async {
        loop {
            let listed = list(at, admin).await;
            if so(&listed) {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("it never came: {what}"))
}

fn named<'a>(listed: &'a Value, name: &str) -> &'a Value {
    listed["verifiers"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

/// What the nodes say of this end: the same, each time that they are asked.
async fn all_say(nodes: &[SocketAddr], admin: &str, ended: &Value) {
    let path = format!("/v1/admin/revocations/{}", ended["rev"]);
    for at in [nodes, nodes].concat() {
        let told = insist(at, "GET", &path, Some(admin), None).await.must(200).body;
        for member in ["acknowledged", "lapsed", "pending", "complete"] {
            assert_eq!(told["enforcement"][member], ended["enforcement"][member], "{member} at {at}: {told}; {ended}");
        }
        let page = insist(at, "GET", "/v1/admin/revocations?limit=1", Some(admin), None).await.must(200).body;
        assert_eq!(page["revocations"][0]["enforcement"], told["enforcement"], "the list says something else: {page}");
    }
}

fn counts(ended: &Value) -> [u64; 3] {
    ["acknowledged", "lapsed", "pending"].map(|member| ended["enforcement"][member].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_node_that_was_killed_is_listed_and_counted() {
    let _turn = turn().await;
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let mut nodes = Node::started(&cluster, &url, 3, &["--bound", "3s", "--access-ttl", "30m"]).await;
    let at: Vec<SocketAddr> = nodes.iter().map(|node| node.at).collect();
    let client = Server::verifier_client(&nodes[0].dir);
    let email = sign_up(at[0], "ada").await;
    let admin = sign_in(at[0], ADMIN.0).await.access;
    let verifiers: Vec<_> =
        ["one", "two", "three"].iter().zip(&at).map(|(name, at)| verifier(*at, &client, name)).collect();
    let session = sign_in(at[0], &email).await;
    for verifier in &verifiers {
        let fresh = async {
            while verifier.verify(&session.access, &Rule::default()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, fresh).await.expect("a living token is accepted");
    }
    let check = || run(&nodes[0].dir.0, &["feed", "--check", "--data-dir", "data"]);

    // All is well: what was said at one node is said at all, a second later as well.
    let path = "/v1/me/sessions/current?wait=enforced";
    let ended = insist(at[1], "DELETE", path, Some(&session.access), None).await.must(200).body;
    assert_eq!((counts(&ended), &ended["enforcement"]["complete"]), ([3, 0, 0], &true.into()), "{ended}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    all_say(&at, &admin, &ended).await;
    let listed = list(at[0], &admin).await;
    assert!(listed["verifiers"].as_array().unwrap().iter().all(|one| one["bound_ms"] == 3_000), "{listed}");
    let its_node = named(&listed, "three")["node"].clone();
    tokio::task::block_in_place(check).must(0, "three");

    let session = sign_in(at[0], &email).await;
    nodes[2].end(Signal::KILL).await;
    let ended = insist(at[1], "DELETE", path, Some(&session.access), None).await.must(200).body;
    assert_eq!((counts(&ended), &ended["enforcement"]["complete"]), ([2, 1, 0], &true.into()), "by time: {ended}");
    let silent =
        list_until(at[0], &admin, "it is silent", |listed| listed["silent_nodes"] != serde_json::json!([])).await;
    assert_eq!(silent["silent_nodes"], serde_json::json!([its_node]), "{silent}");
    let three = named(&silent, "three");
    assert_eq!((&three["connected"], &three["leased"], &three["node"]), (&false.into(), &true.into(), &its_node));
    let check = || run(&nodes[0].dir.0, &["feed", "--check", "--data-dir", "data"]);
    tokio::task::block_in_place(check).must(4, "no answer from");
    all_say(&at[..2], &admin, &ended).await;
    // A list that is being put together when they end may say the one already, and not yet the other.
    let none = serde_json::json!([]);
    let over = |listed: &Value| named(listed, "three")["leased"] == false && listed["silent_nodes"] == none;
    let gone = list_until(at[1], &admin, "its leases end", over).await;
    assert_eq!(named(&gone, "three")["node"], Value::Null, "{gone}");
    tokio::task::block_in_place(check).must(0, "gone");
    all_say(&at[..2], &admin, &ended).await;
}
