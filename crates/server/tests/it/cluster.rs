//! Three nodes on one PostgreSQL, thirty verifiers, people who sign in, refresh and sign out, administrators who
//! block them, and a world that kills, stops, cuts, delays, sets clocks and lets a standby take over. What was seen is judged by an oracle that knows none of the product's rules.
//!
//! `PORTCULLIS_TEST_CLUSTER_ROUNDS` (default 16) says how many things go wrong, `PORTCULLIS_TEST_CLUSTER_SEED` which ones.
use crate::kept::{Kept, insist, mono_us, turn};
use crate::nodes::Node;
use crate::support::{ISSUER, Server};
use people::Device;
use portcullis_oracle::{At, History, Lost, Said, Verdict, check};
use portcullis_testkit::Cluster;
use portcullis_testkit::proxy::Proxy;
use portcullis_tower::wire::{AccountId, SessionId};
use portcullis_tower::{Config, Verifier};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use trouble::{KINDS, Place, trouble};

mod people;
mod trouble;

const PASSWORD: &str = "a good long password";
const BOUND_MS: At = 2_000;
const SERVICES: u32 = 30;
const PEOPLE: usize = 20;
const ADMINISTRATORS: usize = 4;
/// How long a call may take; nobody waits for a node that stands still.
const CALL: Duration = Duration::from_secs(4);

fn now() -> At {
    mono_us() / 1_000
}

/// SplitMix64.
#[derive(Clone)]
struct Dice(u64);
impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
    fn step(&mut self, of: &[i64]) -> i64 {
        of[self.index(of.len())]
    }
    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

/// Why a call came to nothing.
enum No {
    /// It was not answered.
    Answer,
    /// It was answered with 503.
    NotNow,
}

/// What everybody writes down.
#[derive(Default)]
struct Seen {
    history: History,
    /// The texts of the tokens, by their place in the history.
    texts: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    /// Whose refresh was refused for good, and the code of that.
    refused: Vec<(SessionId, String)>,
}

#[derive(Clone)]
struct World {
    nodes: Vec<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
}

impl World {
    fn count(&self, what: &'static str) {
        *self.seen.lock().unwrap().counts.entry(what).or_default() += 1;
    }

    /// One call to some node.
    async fn call(
        &self,
        dice: &mut Dice,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(u16, Value), No> {
        let to = self.nodes[dice.index(self.nodes.len())];
        let exchange = async { Kept::open(to).await.ok()?.call(method, path, token, body).await.ok() };
        let answer = tokio::time::timeout(CALL, exchange).await.ok().flatten();
        match answer {
            Some(answer) if answer.status != 503 => Ok((answer.status, answer.body)),
            Some(answer) => {
                assert!(answer.headers.contains_key("retry-after"), "{method} {path}: 503 without Retry-After");
                self.count("calls answered with 503");
                Err(No::NotNow)
            }
            None => {
                self.count("calls without an answer");
                Err(No::Answer)
            }
        }
    }
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_end_is_true_at_every_node_whatever_goes_wrong() {
    let _turn = turn().await;
    let mut dice = Dice(number("PORTCULLIS_TEST_CLUSTER_SEED", 1));
    let cluster = Cluster::with_clock();
    let url = cluster.database(None);
    let database = url.rsplit('/').next().unwrap().to_owned();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let mut node = Node::new(&cluster, &url, &["--bound", "2s"]).await.with_clock();
        node.start().await;
        nodes.push(node);
    }
    let client = Server::verifier_client(&nodes[0].dir);
    let world = World { nodes: nodes.iter().map(|node| node.at).collect(), seen: Arc::default(), over: Arc::default() };
    let (mut ways, mut services, mut everybody) = (Vec::new(), JoinSet::new(), JoinSet::new());
    let mut accounts: Vec<AccountId> = Vec::new();
    for n in 0..SERVICES {
        let way = Proxy::to(world.nodes[n as usize % 3]).await.unwrap();
        let feed = format!("http://{}/v1/feed", way.address);
        let config = Config::new(ISSUER, ISSUER, &client.0, &*client.1).feed_url(feed).name(format!("service-{n}"));
        let verifier = Arc::new(Verifier::start(config).unwrap());
        assert!(verifier.wait_fresh(Duration::from_secs(20)).await, "a verifier becomes fresh");
        services.spawn(people::service(world.clone(), verifier, n, Dice(dice.below(u64::MAX))));
        ways.push(way);
    }
    for n in 0..PEOPLE {
        let email = format!("person{n}@example.org");
        let body = json!({ "email": email, "password": PASSWORD });
        let made = insist(world.nodes[n % 3], "POST", "/v1/accounts", None, Some(&body)).await.must(201);
        accounts.push(made.text("id").parse().unwrap());
        everybody.spawn(people::person(world.clone(), email, Dice(dice.below(u64::MAX))));
    }
    // Each has people of their own, so that nobody lifts another's block.
    let mut administrators = JoinSet::new();
    for theirs in accounts.chunks(PEOPLE.div_ceil(ADMINISTRATORS)) {
        administrators.spawn(people::administrator(world.clone(), theirs.to_vec(), Dice(dice.below(u64::MAX))));
    }
    let mut place = Place { nodes, ways, cluster };
    let rounds = number("PORTCULLIS_TEST_CLUSTER_ROUNDS", KINDS.len() as u64);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for round in 0..rounds {
        trouble(&world, &mut place, round, &mut dice).await;
    }
    let well = now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.over.store(true, Ordering::SeqCst);
    let devices: Vec<Device> = everybody.join_all().await.into_iter().flatten().collect();
    services.join_all().await;
    for n in 0..SERVICES {
        let seen = world.seen.lock().unwrap();
        let accepts = |one: &&Verdict| one.verifier == n && one.began > well && one.said == Said::Accepted;
        assert!(seen.history.verdicts.iter().any(|one| accepts(&one)), "service {n} accepts nobody after it all");
    }
    while let Some(done) = administrators.join_next().await {
        if let Err(error) = done {
            panic!("{error}: {}", place.nodes[0].log()); // the node that they insist on
        }
    }

    // Whoever still has a session goes on with it, at any node.
    for device in &devices {
        let body = json!({ "refresh_token": device.refresh });
        let answer = insist(world.nodes[dice.index(3)], "POST", "/v1/sessions/refresh", None, Some(&body)).await;
        if answer.status != 200 {
            let Device { account, session, .. } = *device;
            world.seen.lock().unwrap().history.lost.push(Lost { account, session, answered: now() });
        }
    }
    let seen = std::mem::take(&mut *world.seen.lock().unwrap());
    let told = check(&seen.history, BOUND_MS);
    // Past libtest, which keeps what a test that passes has printed: what happened how often is part of the result.
    let mut out = std::io::stdout();
    for (what, n) in &seen.counts {
        writeln!(out, "told: {n:>8}  {what}").unwrap();
    }
    // A thief there is none: such ends are of messages that came when their client had gone on (I6: later than half of
    // `retry_window`).
    let reasons = "SELECT count(*) || ' sessions ended as ' || s.ended_reason FROM portcullis.sessions s \
         WHERE s.ended_reason IS NOT NULL GROUP BY s.ended_reason";
    let reasons = tokio::task::block_in_place(|| place.cluster.psql(&database, reasons));
    reasons.lines().for_each(|line| writeln!(out, "told: {line}").unwrap());
    let sum = told.unwrap_or_else(|broken| {
        let all: Vec<String> = broken.iter().take(10).map(ToString::to_string).collect();
        panic!("{} promises were not kept:\n{}\nrefused: {:?}", broken.len(), all.join("\n"), seen.refused)
    });
    let (tokens, lost) = (seen.history.tokens.len(), seen.history.lost.len());
    writeln!(out, "told: {tokens} tokens, {lost} sessions lost to ends; {sum:?}").unwrap();
    let enough = |what: &str, least: u64| assert!(seen.counts.get(what).copied() >= Some(least), "{what}: too few");
    // As many as all kinds of trouble leave room for on two cores that do other work besides: some thousands by themselves.
    for (what, least) in [("sign-ins", 150), ("refreshes", 400), ("ends acknowledged everywhere", 25), ("blocks", 8)] {
        enough(what, least * rounds / KINDS.len() as u64);
    }
    let acts = ["sign-ins", "refreshes", "ends acknowledged everywhere", "ends true by time", "blocks"];
    let acts: u64 = acts.iter().filter_map(|what| seen.counts.get(what)).sum();
    writeln!(out, "told: {acts} acts").unwrap();
    assert!(acts >= 1_000 * rounds / KINDS.len() as u64, "{acts} acts");
    for what in KINDS.iter().take(usize::try_from(rounds).unwrap()) {
        enough(what, 1);
    }
    // No node has taken a failover that lost nothing for a loss.
    for node in &place.nodes {
        assert!(!node.log().contains("ROLLED BACK"), "{}", node.log());
    }
    assert!(sum.accepted > 1_000 && sum.revoked > 100 && sum.beyond_the_bound > 1_000, "{sum:?}");
    assert_eq!(seen.counts.get("taken for theft"), None, "nobody shows a token that is not theirs");
}
