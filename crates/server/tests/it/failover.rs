//! A standby takes over (DESIGN §4.5). Where it has everything that was acknowledged all goes on by itself; where it lacks some of
//! it every node is shut, no dead token lives again, and the log is founded anew or the right database comes back.
use crate::kept::{Session, insist, refresh, sign_in, sign_up, turn, verifier};
use crate::nodes::Node;
use crate::support::{PATIENCE, Server, call, run};
use portcullis_testkit::Cluster;
use portcullis_tower::{Rule, Verifier};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

const SETTINGS: [&str; 4] = ["--bound", "1s", "--access-ttl", "30m"];

/// A primary and its standby, three nodes, a verifier at each, and two devices of one person.
struct Stage {
    primary: Cluster,
    standby: Cluster,
    nodes: Vec<Node>,
    client: (String, String),
    verifiers: Vec<Verifier>,
    email: String,
    kept: Session,
    other: Session,
}

impl Stage {
    async fn build(synchronous: bool) -> Self {
        let primary = Cluster::durable();
        let url = primary.database(None);
        let standby = primary.follower();
        if synchronous {
            primary.must_reach(&standby);
        }
        let nodes = Node::started(&primary, &url, 3, &SETTINGS).await;
        let client = Server::verifier_client(&nodes[0].dir);
        let verifiers: Vec<Verifier> = nodes.iter().map(|node| verifier(node.at, &client, "through")).collect();
        let email = sign_up(nodes[0].at, "ada").await;
        let (kept, other) = (sign_in(nodes[1].at, &email).await, sign_in(nodes[2].at, &email).await);
        let stage = Self { primary, standby, nodes, client, verifiers, email, kept, other };
        stage.all_are_fresh().await;
        for verifier in &stage.verifiers {
            for session in [&stage.kept, &stage.other] {
                until("a living token is accepted", async || accepts(verifier, session).await).await;
            }
        }
        stage
    }

    async fn all_are_fresh(&self) {
        for verifier in &self.verifiers {
            assert!(verifier.wait_fresh(PATIENCE).await, "a verifier becomes fresh");
        }
    }

    /// The other device is signed out at the first node, and everybody knows.
    async fn end_other(&self) -> u64 {
        let path = format!("/v1/me/sessions/{}?wait=enforced", self.other.sid);
        let done = insist(self.nodes[0].at, "DELETE", &path, Some(&self.kept.access), None).await.must(200);
        assert_eq!(done.body["enforcement"]["complete"], true, "{}", done.body);
        done.body["rev"].as_u64().unwrap()
    }

    /// The device goes on at the first node; the refresh token that is superseded by it.
    async fn refresh_kept(&mut self) -> String {
        let next = Session::from(&refresh(self.nodes[0].at, &self.kept.refresh).await.must(200));
        std::mem::replace(&mut self.kept, next).refresh
    }

    /// The primary dies, the standby takes over, and the database's name leads there.
    fn fail_over(&self) {
        self.primary.end();
        self.standby.promote();
        self.nodes.iter().for_each(|node| node.follow(&self.standby));
    }

    async fn restart_all(&mut self) {
        for node in &mut self.nodes {
            node.end(Signal::TERM).await;
        }
        for node in &mut self.nodes {
            node.start().await;
        }
    }

    /// Every node refuses everything, says why, and says what to do.
    async fn all_are_shut(&self, why: &str) {
        for node in &self.nodes {
            let shut = async || {
                call(node.at, "GET", "/readyz", None, None).await.0 == 503 && node.log().contains("ROLLED BACK")
            };
            until("a node is shut", shut).await;
            let login = json!({ "identifier": self.email, "password": "a good long password" });
            let token = json!({ "refresh_token": self.kept.refresh });
            for (method, path, body) in [
                ("POST", "/v1/sessions", Some(login)),
                ("POST", "/v1/sessions/refresh", Some(token)),
                ("GET", "/v1/me", None),
            ] {
                let (status, answer) = call(node.at, method, path, Some(&self.kept.access), body).await;
                assert_eq!((status, answer["code"].as_str()), (503, Some("unavailable")), "{method} {path}: {answer}");
            }
        }
        until(why, async || self.nodes.iter().any(|node| node.log().contains(why))).await;
    }

    /// For longer than the bound, and by verifiers that know nothing yet.
    async fn nobody_accepts_the_dead(&self) {
        let anew: Vec<Verifier> = self.nodes.iter().map(|node| verifier(node.at, &self.client, "anew")).collect();
        for _ in 0..150 {
            for verifier in self.verifiers.iter().chain(&anew) {
                assert!(!accepts(verifier, &self.other).await, "a dead token was accepted again");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Founded anew at one node: all of them serve again by themselves, and everything of before is void at each.
    async fn refound(&self) {
        let refounded = run(&self.nodes[1].dir.0, &["refound", "--reason", "a failover", "--data-dir", "data"]);
        refounded.must(0, "What cannot be known");
        for (node, verifier) in self.nodes.iter().zip(&self.verifiers) {
            let new = sign_in(node.at, &self.email).await;
            for session in [&self.kept, &self.other] {
                assert_eq!(refresh(node.at, &session.refresh).await.must(401).code(), "refresh_expired");
            }
            until("the new epoch is followed", async || accepts(verifier, &new).await).await;
            assert!(!accepts(verifier, &self.kept).await && !accepts(verifier, &self.other).await);
            let out = insist(node.at, "DELETE", "/v1/me/sessions/current?wait=enforced", Some(&new.access), None).await;
            assert_eq!(out.must(200).body["enforcement"]["complete"], true);
        }
    }

    /// The mark of every node tells this position.
    async fn marks_tell(&self, rev: u64) {
        for node in &self.nodes {
            let mark = node.dir.path("data/high-water.json");
            let told =
                async || std::fs::read_to_string(&mark).is_ok_and(|text| text.contains(&format!("\"rev\":{rev},")));
            until("a mark is written", told).await;
        }
    }
}

async fn accepts(verifier: &Verifier, session: &Session) -> bool {
    verifier.verify(&session.access, &Rule::default()).await.is_ok()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let until = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_takes_over_and_all_goes_on() {
    let _turn = turn().await;
    let mut stage = Stage::build(true).await;
    let superseded = stage.refresh_kept().await;
    stage.end_other().await;
    stage.fail_over();
    for node in &stage.nodes {
        until("it is ready", async || call(node.at, "GET", "/readyz", None, None).await.0 == 200).await;
    }
    // The retry of a refresh whose answer was lost, the next one, and a new sign-in.
    assert_eq!(refresh(stage.nodes[2].at, &superseded).await.must(200).text("refresh_token"), stage.kept.refresh);
    stage.refresh_kept().await;
    sign_in(stage.nodes[1].at, &stage.email).await;
    stage.all_are_fresh().await;
    for verifier in &stage.verifiers {
        until("the living are accepted", async || accepts(verifier, &stage.kept).await).await;
    }
    stage.nobody_accepts_the_dead().await;
    stage.restart_all().await;
    stage.refresh_kept().await;
    for node in &stage.nodes {
        assert!(!node.log().contains("ROLLED BACK"), "{}", node.log());
        assert!(!node.dir.path("data/high-water.rolled-back.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_without_an_acknowledged_end_shuts_every_node() {
    let _turn = turn().await;
    let stage = Stage::build(false).await;
    assert!(stage.nodes[0].log().contains("synchronous_standby_names is not set"));
    stage.standby.catch_up(&stage.primary);
    stage.standby.lose_touch();
    stage.end_other().await;
    stage.fail_over();
    stage.all_are_shut("PostgreSQL's timeline was 1, and is 2: a failover").await;
    stage.nobody_accepts_the_dead().await;
    stage.refound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_a_restart_of_all_nodes_with_the_failover_hide_it() {
    let _turn = turn().await;
    let mut stage = Stage::build(false).await;
    stage.standby.catch_up(&stage.primary);
    stage.standby.lose_touch();
    let rev = stage.end_other().await;
    stage.marks_tell(rev).await;
    for node in &mut stage.nodes {
        node.end(Signal::KILL).await;
    }
    stage.fail_over();
    for node in &mut stage.nodes {
        node.start().await;
    }
    stage.all_are_shut("a failover").await;
    stage.nobody_accepts_the_dead().await;
    // It is not forgotten by another start.
    stage.restart_all().await;
    stage.all_are_shut("ROLLED BACK").await;
    stage.refound().await;
}

/// Refreshes write no entries: only the count of commits tells them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_without_an_acknowledged_refresh_shuts_every_node_until_the_right_one_is_back() {
    let _turn = turn().await;
    let mut stage = Stage::build(false).await;
    stage.standby.catch_up(&stage.primary);
    stage.standby.lose_touch();
    let superseded = stage.refresh_kept().await;
    stage.fail_over();
    stage.all_are_shut("groups of commits were acknowledged to this node").await;
    let old = json!({ "refresh_token": superseded });
    for node in &stage.nodes {
        assert_eq!(call(node.at, "POST", "/v1/sessions/refresh", None, Some(old.clone())).await.0, 503);
    }
    stage.restart_all().await;
    stage.all_are_shut("ROLLED BACK").await;
    // The old primary comes back, with everything.
    stage.standby.end();
    stage.primary.crash();
    // The name leads there while the nodes still run: their rows, with what they have proven, stand in the right one now.
    stage.nodes.iter().for_each(|node| node.follow(&stage.primary));
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.all_are_shut("ROLLED BACK").await;
    stage.restart_all().await;
    stage.refresh_kept().await;
    for node in &mut stage.nodes {
        node.end(Signal::TERM).await;
        node.start().await;
    }
    stage.refresh_kept().await;
    let mut rest: Vec<u16> = Vec::new();
    for node in &stage.nodes {
        rest.push(call(node.at, "GET", "/readyz", None, None).await.0);
    }
    assert_eq!(rest, [200; 3]);
}

/// Its own acts are all there for each node that lives: what is missing only the dead one was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_dead_node_was_told_shuts_the_others() {
    let _turn = turn().await;
    let mut stage = Stage::build(false).await;
    stage.standby.catch_up(&stage.primary);
    stage.standby.lose_touch();
    let superseded = stage.refresh_kept().await;
    tokio::time::sleep(Duration::from_millis(2_500)).await; // until the others have looked, and read the log after that
    let mut dead = stage.nodes.remove(0);
    dead.end(Signal::KILL).await;
    stage.verifiers.remove(0);
    stage.fail_over();
    stage.all_are_shut("of the node").await;
    let old = json!({ "refresh_token": superseded });
    for node in &stage.nodes {
        assert_eq!(call(node.at, "POST", "/v1/sessions/refresh", None, Some(old.clone())).await.0, 503);
    }
}
