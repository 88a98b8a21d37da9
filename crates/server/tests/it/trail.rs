//! The audit trail of a server whose database somebody has written to: it stops, says so, and goes on once somebody has looked.
use crate::kept::{quiet_turn, sign_up};
use crate::nodes::Node;
use crate::support::{ADMIN, Dir, PATIENCE, Ran, run};
use portcullis_testkit::{Cluster, Receiver};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

fn on(dir: &Dir, args: &[&str]) -> Ran {
    run(&dir.0, &[&["audit"], args, &["--data-dir", "data"]].concat())
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !so() {
        assert!(tokio::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How often each address was told of.
fn told(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for one in receiver.requests() {
        let body: Value = serde_json::from_str(&one.body).unwrap();
        *out.entry(body["data"]["account_id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chain_is_begun_anew_and_everybody_goes_on() {
    let _turn = quiet_turn().await;
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let database = url.rsplit('/').next().unwrap().to_owned();
    let psql = |sql: &str| tokio::task::block_in_place(|| cluster.psql(&database, sql));
    let receiver = Receiver::start().await;
    let nodes = Node::started(&cluster, &url, 2, &["--outgoing-private", "127.0.0.0/8"]).await;
    let server = nodes[0].server.as_ref().unwrap();
    let token = server.access_token(ADMIN).await;
    let waiting = || psql("SELECT count(*) FROM portcullis.events WHERE place IS NULL");
    until("all is sealed", || waiting() == "0").await;
    let body = json!({ "url": format!("{}/hook", receiver.base), "events": ["account.created"] });
    let (status, hook) = server.call("POST", "/v1/admin/webhooks", Some(&token), Some(body)).await;
    assert_eq!(status, 201, "{hook}");
    let hook = format!("/v1/admin/webhooks/{}", hook["id"].as_str().unwrap());
    sign_up(nodes[0].at, "told").await;
    until("the first is told", || told(&receiver).len() == 1).await;
    // Sealed, and not told of: the webhook is switched off.
    let enabled = async |on: bool| {
        let (status, answer) = server.call("PATCH", &hook, Some(&token), Some(json!({ "enabled": on }))).await;
        assert_eq!(status, 200, "{answer}");
    };
    enabled(false).await;
    sign_up(nodes[1].at, "untold").await;
    until("all is sealed", || waiting() == "0").await;
    on(&nodes[0].dir, &["verify"]).must(0, "the chain is whole");
    let old = on(&nodes[0].dir, &["head"]).must(0, "").out.trim().to_owned();
    let file = |node: &Node| std::fs::read_to_string(node.dir.path("data").join("audit-head.json")).unwrap_or_default();
    until("each node writes down what it saw", || nodes.iter().all(|node| file(node).contains(&old))).await;

    // Somebody sets the chain's row back by one record.
    psql(
        "UPDATE portcullis.audit_chain c SET head = e.place, head_link = e.link FROM portcullis.events e \
         WHERE e.place = c.head - 1",
    );
    for node in &nodes {
        on(&node.dir, &["verify"]).must(4, "before the known place");
    }
    sign_up(nodes[0].at, "waits").await;
    until("nodes say so", || nodes.iter().all(|node| node.log().contains("was tampered with"))).await;
    let unsealed: u64 = waiting().parse().unwrap();
    assert!(unsealed > 0, "nothing is sealed over it");
    on(&nodes[0].dir, &["go-on", "--reason", " "]).must(1, "invalid_value");
    // Only on the admin socket.
    let reason = Some(json!({ "reason": "a thief" }));
    for path in ["/v1/admin/audit/begin-anew", "/v1/admin/audit/go-on"] {
        assert_eq!(server.call("POST", path, Some(&token), reason.clone()).await.0, 403, "{path}");
    }
    // The row is gone altogether: also then.
    psql("DELETE FROM portcullis.audit_chain");
    sign_up(nodes[1].at, "also-waits").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(psql("SELECT count(*) FROM portcullis.audit_chain"), "0", "no node begins one by itself");

    on(&nodes[1].dir, &["begin-anew", "--reason", "looked at it"]).must(0, "another chain begins after");
    until("it goes on", || waiting() == "0").await;
    for node in &nodes {
        on(&node.dir, &["verify"]).must(0, "the chain is whole");
        on(&node.dir, &["verify", "--head", &old]).must(4, "was pruned");
    }
    on(&nodes[0].dir, &["list", "--kind", "audit.begun_anew"]).must(0, "looked at it");
    enabled(true).await;
    sign_up(nodes[0].at, "after").await;
    // Whoever was not told before is told now, each of them once.
    until("all are told", || told(&receiver).len() == 5).await;
    assert!(told(&receiver).values().all(|times| *times == 1), "{:?}", told(&receiver));
    // A record between the two chains belongs to neither.
    let begins: u64 = psql("SELECT start FROM portcullis.audit_chain").parse().unwrap();
    psql(&format!("UPDATE portcullis.events SET place = {} WHERE place = 1", begins - 5));
    on(&nodes[0].dir, &["verify"]).must(4, &format!("claims the place {}, which the chain does not have", begins - 5));
}

/// A failover that has lost the last seals and nothing else, as the database has it then: the chain goes on as the one that it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_has_lost_its_last_seals_goes_on() {
    let _turn = quiet_turn().await;
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let database = url.rsplit('/').next().unwrap().to_owned();
    let psql = |sql: &str| tokio::task::block_in_place(|| cluster.psql(&database, sql));
    let mut node = Node::new(&cluster, &url, &[]).await;
    node.start().await;
    let waiting = || psql("SELECT count(*) FROM portcullis.events WHERE place IS NULL");
    sign_up(node.at, "ada").await;
    until("all is sealed", || waiting() == "0").await;
    let kept = on(&node.dir, &["head"]).must(0, "").out.trim().to_owned();
    let n = kept.split(':').next().unwrap();
    sign_up(node.at, "eve").await;
    until("all is sealed", || waiting() == "0").await;
    on(&node.dir, &["verify"]).must(0, "the chain is whole");
    psql(&format!(
        "UPDATE portcullis.audit_chain c SET head = e.place, head_link = e.link FROM portcullis.events e WHERE e.place = {n}; \
         UPDATE portcullis.events SET place = NULL, link = NULL, ip_seal = NULL, ip_salt = NULL, reason_seal = NULL, \
         reason_salt = NULL WHERE place > {n}"
    ));
    on(&node.dir, &["verify"]).must(4, "before the known place");
    on(&node.dir, &["go-on", "--reason", "a failover"]).must(0, "the chain goes on from");
    until("it goes on", || waiting() == "0").await;
    on(&node.dir, &["verify", "--head", &kept]).must(0, "the given head is in it");
    on(&node.dir, &["list", "--kind", "audit.went_on"]).must(0, "a failover");
}
