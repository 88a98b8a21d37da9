//! Webhooks: a server that is killed while it makes messages and sends them tells everybody everything.
use crate::kept::serve;
use crate::nodes::Node;
use crate::support::{ADMIN, Dir, Server, call};
use portcullis_testkit::{Cluster, Receiver, lasting_address};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

const KILLS: usize = 8;
const EACH: usize = 30;
/// Of two nodes, one after the other.
const NODE_KILLS: usize = 5;
/// A claim of a server that was killed lapses after a minute.
const PATIENCE: Duration = Duration::from_secs(400);

async fn start(dir: &Dir, at: SocketAddr) -> Server {
    serve(dir, at, &["--outgoing-private", "127.0.0.0/8"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_sends_loses_nothing() {
    let (dir, at) = (Dir::new(), lasting_address());
    let receiver = Receiver::start().await;
    let mut server = start(&dir, at).await;
    let token = server.access_token(ADMIN).await;
    // The administrator's own record has its place before there is a webhook.
    while server.call("GET", "/v1/admin/audit", Some(&token), None).await.1["unsealed"]["count"] != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let body = json!({ "url": format!("{}/hook", receiver.base), "events": ["account.created"] });
    let (status, hook) = server.call("POST", "/v1/admin/webhooks", Some(&token), Some(body)).await;
    assert_eq!(status, 201, "{hook}");
    // Some calls are under way, some messages wait, some records have no message and some no place, whenever it is killed.
    receiver.slow(Duration::from_millis(60));
    let mut made = 0;
    for round in 0..KILLS {
        for n in 0..EACH {
            let body = json!({ "email": format!("p{round}.{n}@example.test"), "password": "a good long password" });
            let (status, answer) = server.call("POST", "/v1/accounts", None, Some(body)).await;
            assert_eq!(status, 201, "{answer}");
            made += 1;
        }
        tokio::time::sleep(Duration::from_millis(90 * round as u64)).await;
        server.process.signal(Signal::KILL);
        server.process.ended().await;
        server = start(&dir, at).await;
    }
    receiver.slow(Duration::ZERO);
    let told = all_told(&receiver, &server, made).await;
    // What came twice says that it is the same.
    assert!(told.values().all(|ids| ids.len() == 1));
    let twice = receiver.requests().len() - made;
    println!("{KILLS} kills, {made} records, {twice} told twice");
    assert!(twice > 0, "no kill fell between a call and what was written of it");
    one_message_each(&server, &hook, made).await;
}

/// Waits until so many records were told and nothing waits any more; the ids under which each was told, by its account.
async fn all_told(receiver: &Receiver, server: &Server, made: usize) -> BTreeMap<String, BTreeSet<String>> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for one in receiver.requests() {
            let body: Value = serde_json::from_str(&one.body).unwrap();
            let account = body["data"]["account_id"].as_str().unwrap().to_owned();
            told.entry(account).or_default().insert(one.header("webhook-id").to_owned());
        }
        let token = server.access_token(ADMIN).await;
        let (_, waiting) = server.call("GET", "/v1/admin/messages?state=waiting", Some(&token), None).await;
        if told.len() == made && waiting["messages"] == json!([]) {
            return told;
        }
        assert!(tokio::time::Instant::now() < until, "{} of {made}: {}", told.len(), server.process.log());
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Each record became one message.
async fn one_message_each(server: &Server, hook: &Value, made: usize) {
    let token = server.access_token(ADMIN).await;
    let (mut ids, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let id = hook["id"].as_str().unwrap();
        let path = format!("/v1/admin/webhooks/{id}/messages?limit=200{cursor}");
        let (_, page) = server.call("GET", &path, Some(&token), None).await;
        for one in page["messages"].as_array().unwrap() {
            assert!(ids.insert(one["event_id"].as_str().unwrap().to_owned()), "two messages of one record");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), made);
}

/// Two nodes on PostgreSQL, of which one or the other is killed: who leads changes, and what one had in hand the other sends.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_killed_in_turn_lose_nothing() {
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let receiver = Receiver::start().await;
    let mut nodes = Node::started(&cluster, &url, 2, &["--outgoing-private", "127.0.0.0/8"]).await;
    let first = nodes[0].server.as_ref().unwrap();
    let token = first.access_token(ADMIN).await;
    while first.call("GET", "/v1/admin/audit", Some(&token), None).await.1["unsealed"]["count"] != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let body = json!({ "url": format!("{}/hook", receiver.base), "events": ["account.created"] });
    let (status, hook) = first.call("POST", "/v1/admin/webhooks", Some(&token), Some(body)).await;
    assert_eq!(status, 201, "{hook}");
    receiver.slow(Duration::from_millis(60));
    let mut made = 0;
    for round in 0..NODE_KILLS {
        for n in 0..EACH {
            let body = json!({ "email": format!("p{round}.{n}@example.test"), "password": "a good long password" });
            let to = nodes[n % 2].at;
            let (status, answer) = call(to, "POST", "/v1/accounts", None, Some(body)).await;
            assert_eq!(status, 201, "{answer}");
            made += 1;
        }
        tokio::time::sleep(Duration::from_millis(130 * round as u64)).await;
        let dies = round % 2;
        nodes[dies].end(Signal::KILL).await;
        // The other one is alone for a while.
        let body = json!({ "email": format!("alone{round}@example.test"), "password": "a good long password" });
        let (status, answer) = call(nodes[1 - dies].at, "POST", "/v1/accounts", None, Some(body)).await;
        assert_eq!(status, 201, "{answer}");
        made += 1;
        nodes[dies].start().await;
    }
    receiver.slow(Duration::ZERO);
    let asked = nodes[0].server.as_ref().unwrap();
    let told = all_told(&receiver, asked, made).await;
    assert!(told.values().all(|ids| ids.len() == 1));
    let twice = receiver.requests().len() - made;
    println!("{NODE_KILLS} kills on two nodes, {made} records, {twice} told twice");
    one_message_each(asked, &hook, made).await;
}
