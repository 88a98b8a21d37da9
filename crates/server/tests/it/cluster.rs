//! Three nodes on one PostgreSQL, thirty verifiers, people who sign in, refresh and sign out, and a world that kills, stops, cuts
//! and delays. What was seen is judged by an oracle that knows none of the product's rules.
//!
//! `PORTCULLIS_TEST_CLUSTER_ROUNDS` (default 11) says how many things go wrong, `PORTCULLIS_TEST_CLUSTER_SEED` which ones.
use crate::kept::{Kept, insist, lasting_address, mono_us, turn};
use crate::support::{ADMIN, Dir, ISSUER, Server, portcullis};
use portcullis_oracle::{At, End, History, Lost, Said, Scope, Token, Verdict, check};
use portcullis_testkit::Cluster;
use portcullis_testkit::proxy::{Proxy, Way};
use portcullis_tower::wire::Code;
use portcullis_tower::{Config, Rule, Verifier};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const PASSWORD: &str = "a good long password";
const BOUND_MS: At = 2_000;
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
    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

struct Node {
    dir: Dir,
    at: SocketAddr,
    /// Its way to the database.
    way: Proxy,
    server: Option<Server>,
}

impl Node {
    async fn start(&mut self, database: &str) {
        let at = self.at.to_string();
        let args = [
            "serve",
            "--listen",
            &at,
            "--issuer",
            ISSUER,
            "--data-dir",
            "data",
            "--bound",
            "2s",
            "--log-format",
            "json",
        ];
        let mut command = portcullis(&self.dir.0, &args);
        let url = database.replace("{}", &self.way.address.to_string());
        command
            .env("PORTCULLIS_DATABASE_URL_FILE", self.dir.write("database-url", &url))
            .env("PORTCULLIS_MASTER_KEY", KEY)
            .env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
        self.server = Some(Server::run(command).await);
    }

    fn signal(&self, signal: Signal) {
        self.server.as_ref().unwrap().process.signal(signal);
    }
}

/// What everybody writes down.
#[derive(Default)]
struct Seen {
    history: History,
    /// The texts of the tokens, by their place in the history.
    texts: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
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

    /// One call to some node; `None` when it was not answered, or with 503.
    async fn call(
        &self,
        dice: &mut Dice,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let to = self.nodes[dice.index(self.nodes.len())];
        let exchange = async { Kept::open(to).await.ok()?.call(method, path, token, body).await.ok() };
        let answer = tokio::time::timeout(CALL, exchange).await.ok().flatten();
        match answer {
            Some(answer) if answer.status != 503 => Some((answer.status, answer.body)),
            Some(_) => {
                self.count("calls answered with 503");
                None
            }
            None => {
                self.count("calls without an answer");
                None
            }
        }
    }
}

/// A session on a device.
struct Device {
    account: portcullis_tower::wire::AccountId,
    session: portcullis_tower::wire::SessionId,
    refresh: String,
    access: String,
}

impl Device {
    /// What a sign-in or a refresh brought.
    fn take(world: &World, asked: At, body: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        let device = Self {
            account: text(&body["session"]["account_id"]).parse().unwrap(),
            session: text(&body["session"]["id"]).parse().unwrap(),
            refresh: text(&body["refresh_token"]),
            access: text(&body["access_token"]),
        };
        let mut seen = world.seen.lock().unwrap();
        let (account, session) = (device.account, device.session);
        seen.history.tokens.push(Token { account, session, asked, got: now() });
        seen.texts.push(device.access.clone());
        device
    }
}

/// Somebody with up to three devices.
async fn person(world: World, email: String, mut dice: Dice) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    while !world.over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(20 + dice.below(120))).await;
        if devices.is_empty() || devices.len() < 3 && dice.below(4) == 0 {
            let asked = now();
            let body = json!({ "identifier": email, "password": PASSWORD });
            match world.call(&mut dice, "POST", "/v1/sessions", None, Some(&body)).await {
                Some((201, body)) => {
                    world.count("sign-ins");
                    devices.push(Device::take(&world, asked, &body));
                }
                // What was not answered in time counts against the budget for guesses.
                Some((401, body)) if body["code"] == "invalid_credentials" => world.count("sign-ins throttled"),
                Some(other) => panic!("a sign-in: {other:?}"),
                None => {}
            }
            continue;
        }
        let which = dice.index(devices.len());
        match dice.below(12) {
            0 => end(&world, &mut dice, &mut devices, which, false).await,
            1 if dice.below(3) == 0 => end(&world, &mut dice, &mut devices, which, true).await,
            _ => refresh(&world, &mut dice, &mut devices, which).await,
        }
    }
    devices
}

async fn refresh(world: &World, dice: &mut Dice, devices: &mut Vec<Device>, which: usize) {
    let asked = now();
    let body = json!({ "refresh_token": devices[which].refresh });
    match world.call(dice, "POST", "/v1/sessions/refresh", None, Some(&body)).await {
        Some((200, body)) => {
            world.count("refreshes");
            devices[which] = Device::take(world, asked, &body);
        }
        Some((401, body)) => {
            let Device { account, session, .. } = devices.remove(which);
            let mut seen = world.seen.lock().unwrap();
            if body["code"] == "refresh_reused" {
                *seen.counts.entry("taken for theft").or_default() += 1;
            }
            seen.history.lost.push(Lost { account, session, answered: now() });
        }
        Some(other) => panic!("a refresh: {other:?}"),
        None => {}
    }
}

/// A session, or all of the account, is ended. The answer may be lost, and then nobody knows.
async fn end(world: &World, dice: &mut Dice, devices: &mut Vec<Device>, which: usize, all: bool) {
    let Device { account, session, access, .. } = &devices[which];
    let (scope, path) = match all {
        true => (Scope::Account(*account), "/v1/me/sessions?wait=enforced&timeout_ms=3000".to_owned()),
        false => (Scope::Session(*session), format!("/v1/me/sessions/{session}?wait=enforced&timeout_ms=3000")),
    };
    // Written down before it is asked for: it may come true without an answer.
    let at = {
        let mut seen = world.seen.lock().unwrap();
        seen.history.ends.push(End { scope, except: None, asked: now(), acknowledged: None, complete: None });
        seen.history.ends.len() - 1
    };
    let answer = world.call(dice, "DELETE", &path, Some(access), None).await;
    if let Some((200, body)) = &answer {
        let mut seen = world.seen.lock().unwrap();
        let end = &mut seen.history.ends[at];
        end.acknowledged = Some(now());
        end.complete = (body["enforcement"]["complete"] == true).then(now);
        let by_word = body["enforcement"]["complete"] == true && body["enforcement"]["lapsed"] == 0;
        *seen.counts.entry(if by_word { "ends acknowledged everywhere" } else { "ends true by time" }).or_default() +=
            1;
    } else {
        world.count("ends without an answer");
    }
    match all {
        true => devices.clear(),
        false => drop(devices.remove(which)),
    }
}

/// Judges one token after another, mostly young ones.
async fn service(world: World, verifier: Arc<Verifier>, number: u32, mut dice: Dice) {
    while !world.over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5 + dice.below(20))).await;
        let (token, text) = {
            let seen = world.seen.lock().unwrap();
            let len = seen.texts.len();
            if len == 0 {
                continue;
            }
            let token = len - 1 - dice.index(len.min(60));
            (token, seen.texts[token].clone())
        };
        let began = now();
        let said = match verifier.verify(&text, &Rule::default()).await {
            Ok(_) => Said::Accepted,
            Err(refusal) if refusal.code() == Code::TokenRevoked => Said::Revoked,
            Err(_) => Said::NotNow,
        };
        world.seen.lock().unwrap().history.verdicts.push(Verdict { verifier: number, token, began, said });
    }
}

/// What can go wrong.
struct Place {
    nodes: Vec<Node>,
    /// The ways of the verifiers.
    ways: Vec<Proxy>,
    /// Its URL, with `{}` for the address.
    database: String,
    cluster: Cluster,
}

/// Something goes wrong for a while, and is healed.
async fn trouble(world: &World, place: &mut Place, round: u64, dice: &mut Dice) {
    let Place { nodes, ways, database, cluster } = place;
    let which = dice.index(nodes.len());
    let length = Duration::from_millis(800 + dice.below(3_000));
    let node = &mut nodes[which];
    let way = |way: Way| {
        node.way.set(way);
        tokio::time::sleep(length)
    };
    match round % 10 {
        0 => {
            world.count("nodes killed");
            node.signal(Signal::KILL);
            node.server.as_mut().unwrap().process.ended().await;
            node.server = None;
            tokio::time::sleep(length).await;
            node.start(database).await;
        }
        1 => {
            world.count("nodes stopped");
            node.signal(Signal::STOP);
            tokio::time::sleep(length * 2).await;
            node.signal(Signal::CONT);
        }
        2 => {
            world.count("nodes cut off from the database");
            way(Way { cut_there: true, cut_back: true, ..Way::default() }).await;
        }
        3 => {
            world.count("nodes that hear nothing from the database");
            way(Way { cut_back: true, ..Way::default() }).await;
        }
        4 => {
            world.count("a slow way to the database");
            way(Way { delay: Duration::from_millis(60), ..Way::default() }).await;
        }
        5 => {
            world.count("connections to the database reset");
            node.way.reset();
            way(Way { refuse: true, ..Way::default() }).await;
        }
        6 => {
            world.count("verifiers cut off");
            let way = &ways[dice.index(ways.len())];
            way.set(Way { cut_there: true, cut_back: true, ..Way::default() });
            tokio::time::sleep(length).await;
            way.heal();
        }
        7 => {
            world.count("crashes of the database");
            tokio::task::block_in_place(|| cluster.crash());
            tokio::time::sleep(length).await;
        }
        8 => {
            world.count("verifiers that are not heard");
            let way = &ways[dice.index(ways.len())];
            way.set(Way { cut_there: true, ..Way::default() });
            tokio::time::sleep(length).await;
            way.heal();
        }
        _ => {
            world.count("verifiers moved to another node");
            for way in ways.iter() {
                way.aim_at(world.nodes[dice.index(world.nodes.len())]);
                way.reset();
            }
            tokio::time::sleep(length).await;
        }
    }
    nodes.iter().for_each(|node| node.way.heal());
    tokio::time::sleep(Duration::from_millis(400)).await;
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_end_is_true_at_every_node_whatever_goes_wrong() {
    let _turn = turn().await;
    let mut dice = Dice(number("PORTCULLIS_TEST_CLUSTER_SEED", 1));
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let authority = url.split('@').nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let (target, database) = (authority.parse().unwrap(), url.replace(&authority, "{}"));
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let way = Proxy::to(target).await.unwrap();
        let mut node = Node { dir: Dir::new(), at: lasting_address(), way, server: None };
        node.start(&database).await;
        nodes.push(node);
    }
    let client = Server::verifier_client(&nodes[0].dir);
    let world = World { nodes: nodes.iter().map(|node| node.at).collect(), seen: Arc::default(), over: Arc::default() };
    let (mut ways, mut services, mut people) = (Vec::new(), JoinSet::new(), JoinSet::new());
    for n in 0..30_u32 {
        let way = Proxy::to(world.nodes[n as usize % 3]).await.unwrap();
        let feed = format!("http://{}/v1/feed", way.address);
        let config = Config::new(ISSUER, ISSUER, &client.0, &*client.1).feed_url(feed).name(format!("service-{n}"));
        let verifier = Arc::new(Verifier::start(config).unwrap());
        assert!(verifier.wait_fresh(Duration::from_secs(20)).await, "a verifier becomes fresh");
        services.spawn(service(world.clone(), verifier, n, Dice(dice.below(u64::MAX))));
        ways.push(way);
    }
    for n in 0..6 {
        let email = format!("person{n}@example.org");
        let body = json!({ "email": email, "password": PASSWORD });
        insist(world.nodes[n % 3], "POST", "/v1/accounts", None, Some(&body)).await.must(201);
        people.spawn(person(world.clone(), email, Dice(dice.below(u64::MAX))));
    }
    let mut place = Place { nodes, ways, database, cluster };
    let rounds = number("PORTCULLIS_TEST_CLUSTER_ROUNDS", 11);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for round in 0..rounds {
        trouble(&world, &mut place, round, &mut dice).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.over.store(true, Ordering::SeqCst);
    let devices: Vec<Device> = people.join_all().await.into_iter().flatten().collect();
    services.join_all().await;

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
    for (what, n) in &seen.counts {
        println!("{n:>8}  {what}");
    }
    let sum = told.unwrap_or_else(|broken| {
        let all: Vec<String> = broken.iter().take(10).map(ToString::to_string).collect();
        panic!("{} promises were not kept:\n{}", broken.len(), all.join("\n"))
    });
    println!("{} tokens, {} sessions lost to ends; {sum:?}", seen.history.tokens.len(), seen.history.lost.len());
    let enough = |what: &str, least: u64| assert!(seen.counts.get(what).copied() >= Some(least), "{what}: too few");
    for (what, least) in [("sign-ins", 20), ("refreshes", 100), ("ends acknowledged everywhere", 5)] {
        enough(what, least);
    }
    if rounds >= 10 {
        for what in [
            "nodes killed",
            "nodes stopped",
            "nodes cut off from the database",
            "nodes that hear nothing from the database",
            "a slow way to the database",
            "connections to the database reset",
            "verifiers cut off",
            "crashes of the database",
            "verifiers that are not heard",
            "verifiers moved to another node",
        ] {
            enough(what, 1);
        }
    }
    assert!(sum.accepted > 1_000 && sum.revoked > 100, "{sum:?}");
}
