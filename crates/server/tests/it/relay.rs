//! `portcullis feed relay`: real relays between a real server and verifiers. What is said to be true everywhere is true below
//! them; and whether a relay stands still, dies, or is cut off: nobody below accepts after the bound what was ended (I1, I2).
use crate::kept::{Demo, Session, insist, mono_us, quiet_turn, serve, sign_in, sign_up, turn};
use crate::rollback::copy;
use crate::support::{
    ADMIN, Dir, ISSUER, PATIENCE, Running, Server, basic, open, portcullis, read_until, read_until_so, run,
};
use portcullis_testkit::lasting_address;
use portcullis_testkit::proxy::{Proxy, Way};
use portcullis_tower::wire::Code;
use portcullis_tower::{Config, Policy, Rule, Verifier};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

mod fork;
mod limits;
mod seen;

const BOUND: [&str; 2] = ["--bound", "2s"];
const BOUND_US: i64 = 2_000_000;
const BELOW: usize = 6;
/// Below the first of two in a row.
const MANY: usize = 60;

/// A `portcullis feed relay`, ready.
struct Relay {
    process: Running,
    address: SocketAddr,
}

fn command(dir: &Dir, up: SocketAddr, client: &(String, String), listen: &str, more: &[&str]) -> Command {
    let feed = format!("http://{up}/v1/feed");
    let args = ["feed", "relay", "--issuer", ISSUER, "--feed-url", &feed, "--client-id", &client.0, "--listen", listen];
    let mut command = portcullis(&dir.0, &[&args, more].concat());
    command.env("PORTCULLIS_CLIENT_SECRET", &client.1);
    command
}

impl Relay {
    async fn start(dir: &Dir, up: SocketAddr, client: &(String, String), more: &[&str]) -> Self {
        Self::start_at(dir, up, client, "127.0.0.1:0", more).await
    }

    async fn start_at(dir: &Dir, up: SocketAddr, client: &(String, String), listen: &str, more: &[&str]) -> Self {
        let mut process = Running::start(command(dir, up, client, listen, more));
        let log = process.log.clone();
        let line = process.line(&log, &["relaying"]).await;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        let relay = Self { address: address.parse().unwrap(), process };
        insist(relay.address, "GET", "/readyz", None, None).await.must(200);
        relay
    }

    async fn readiness(&self) -> (u16, Value) {
        crate::support::call(self.address, "GET", "/readyz", None, None).await
    }
}

fn below(relay: SocketAddr, client: &(String, String), n: usize) -> Verifier {
    let config = Config::new(ISSUER, ISSUER, &client.0, &*client.1);
    Verifier::start(config.feed_url(format!("http://{relay}/v1/feed")).name(format!("below {n}"))).unwrap()
}

async fn all_fresh(verifiers: &[Verifier]) {
    for verifier in verifiers {
        assert!(verifier.wait_fresh(PATIENCE).await, "not fresh: {:?}", verifier.readiness());
    }
}

async fn refusal(verifier: &Verifier, token: &str) -> Option<Code> {
    verifier.verify(token, &Rule::default()).await.err().map(|refusal| refusal.code())
}

async fn all_accept(verifiers: &[Verifier], session: &Session) {
    for verifier in verifiers {
        let accepts = async {
            while refusal(verifier, &session.access).await.is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, accepts).await.expect("it is accepted");
    }
}

/// Ends the session, and waits until that is true everywhere; the counts.
async fn end_and_wait(to: SocketAddr, session: &Session) -> Value {
    let path = "/v1/me/sessions/current?wait=enforced";
    insist(to, "DELETE", path, Some(&session.access), None).await.must(200).body["enforcement"].clone()
}

/// Judges until none is fresh; no acceptance of this token is later than the bound after `ended_us`.
async fn never_after_the_bound(verifiers: &[Verifier], token: &str, ended_us: i64) {
    let judging = async {
        loop {
            let looked_us = mono_us();
            if !verifiers.iter().any(Verifier::is_fresh) {
                return;
            }
            assert!(looked_us <= ended_us + BOUND_US, "fresh {} us after it", looked_us - ended_us);
            for verifier in verifiers {
                let sent_us = mono_us();
                match refusal(verifier, token).await {
                    None => assert!(sent_us <= ended_us + BOUND_US, "accepted {} us after its end", sent_us - ended_us),
                    Some(Code::NotFresh | Code::TokenRevoked) => {}
                    Some(code) => panic!("refused with {code}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, judging).await.expect("the leases end");
}

async fn verifiers_of(server: &Server) -> Vec<Value> {
    let token = server.access_token(ADMIN).await;
    let listed = server.call("GET", "/v1/admin/verifiers", Some(&token), None).await.1;
    listed["verifiers"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_true_below_relays_in_a_row_when_it_is_said_to_be() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let first = Relay::start(&dir, server.address, &relays, &["--name", "first"]).await;
    let second = Relay::start(&dir, first.address, &relays, &["--name", "second"]).await;
    let mut verifiers: Vec<Verifier> = (0..MANY).map(|n| below(first.address, &services, n)).collect();
    verifiers.extend((0..BELOW).map(|n| below(second.address, &services, MANY + n)));
    all_fresh(&verifiers).await;
    let email = sign_up(server.address, "alice").await;
    let mut slowest = 0;
    for _ in 0..8 {
        let (stays, goes) = (sign_in(server.address, &email).await, sign_in(server.address, &email).await);
        all_accept(&verifiers, &goes).await;
        let counts = end_and_wait(server.address, &goes).await;
        for verifier in &verifiers {
            assert_eq!(refusal(verifier, &goes.access).await, Some(Code::TokenRevoked));
            assert_eq!(refusal(verifier, &stays.access).await, None, "{:?}", verifier.readiness());
        }
        assert_eq!((counts["complete"].as_bool(), counts["acknowledged"].as_u64()), (Some(true), Some(1)), "{counts}");
        slowest = slowest.max(counts["took_ms"].as_u64().unwrap());
    }
    assert!(slowest < 2_500, "acknowledged, not waited for: {slowest} ms");
    eprintln!("true below two relays within {slowest} ms at most");
    // The server sees one instance; the first relay sees its own verifiers and the second relay.
    let seen = verifiers_of(&server).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((seen[0]["name"].as_str(), seen[0]["connected"].as_bool()), (Some("first"), Some(true)));
    assert_eq!(seen[0]["behind"].as_u64(), Some(0), "{seen:?}");
    let (status, ready) = first.readiness().await;
    assert_eq!((status, ready["verifiers"].as_u64()), (200, Some(MANY as u64 + 1)), "{ready}");

    // A route under `open` below is told of above, for it accepts until `exp`.
    verifiers[MANY].declare(Policy::Open);
    let told = async {
        while verifiers_of(&server).await[0]["policy"] != json!("closed,open") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the policies come up");
    all_fresh(&verifiers).await;

    // One of the verifiers ends: its lease is waited for by arithmetic, and no longer.
    let goes = sign_in(server.address, &email).await;
    drop(verifiers.pop());
    let counts = end_and_wait(server.address, &goes).await;
    assert_eq!(counts["complete"].as_bool(), Some(true), "{counts}");
    first.process.signal(Signal::TERM);
    let mut first = first;
    assert_eq!(first.process.ended().await, Some(0), "{}", first.process.log());
    assert!(!first.process.log().contains(&relays.1) && !first.process.log().contains(&services.1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_relay_nobody_below_is_fresh_beyond_the_bound() {
    let _turn = turn().await;
    let dir = Dir::new();
    let server = Server::start_with(&dir, &BOUND).await;
    let to = server.address;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let way = Proxy::to(to).await.unwrap();
    let at = lasting_address();
    let mut relay = Relay::start_at(&dir, way.address, &relays, &at.to_string(), &[]).await;
    let verifiers: Vec<Verifier> = (0..BELOW).map(|n| below(at, &services, n)).collect();
    let email = sign_up(to, "alice").await;
    for what in ["cut off", "refused", "stopped", "killed"] {
        all_fresh(&verifiers).await;
        let (stays, goes) = (sign_in(to, &email).await, sign_in(to, &email).await);
        all_accept(&verifiers, &goes).await;
        match what {
            "cut off" => way.set(Way { cut_there: true, cut_back: true, ..Way::default() }),
            "refused" => {
                way.set(Way { refuse: true, ..Way::default() });
                way.reset();
            }
            "stopped" => relay.process.signal(Signal::STOP),
            _ => relay.process.signal(Signal::KILL),
        }
        // Ended where nobody below can hear of it; who waits is told by arithmetic, and not before.
        let waits = tokio::spawn({
            let goes = goes.clone();
            async move { (end_and_wait(to, &goes).await, mono_us()) }
        });
        let path = "/v1/me/sessions/current";
        insist(to, "DELETE", path, Some(&goes.access), None).await.must(200);
        let ended_us = mono_us();
        never_after_the_bound(&verifiers, &goes.access, ended_us).await;
        let (counts, said_us) = waits.await.unwrap();
        assert_eq!(counts["complete"].as_bool(), Some(true), "{what}: {counts}");
        assert_eq!(counts["lapsed"].as_u64(), Some(1), "{what}: {counts}");
        for verifier in &verifiers {
            assert!(matches!(refusal(verifier, &goes.access).await, Some(Code::NotFresh | Code::TokenRevoked)));
        }
        eprintln!("{what}: said to be true after {} ms", (said_us - ended_us) / 1000);
        // It comes back without hands.
        match what {
            "cut off" | "refused" => {
                let (status, ready) = relay.readiness().await;
                assert_eq!(status, 503, "{ready}");
                way.heal();
            }
            "stopped" => relay.process.signal(Signal::CONT),
            _ => relay = Relay::start_at(&dir, way.address, &relays, &at.to_string(), &[]).await,
        }
        all_fresh(&verifiers).await;
        for verifier in &verifiers {
            assert_eq!(refusal(verifier, &goes.access).await, Some(Code::TokenRevoked), "{what}");
        }
        all_accept(&verifiers, &stays).await;
    }
    assert!(relay.process.log().contains("fresh enough to serve"), "{}", relay.process.log());
}

/// A service below that stands still is waited for until its lease has ended by arithmetic, and by then it accepts nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_below_a_relay_is_waited_for() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start_with(&dir, &BOUND).await;
    let to = server.address;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let relay = Relay::start(&dir, to, &relays, &[]).await;
    let quick = below(relay.address, &services, 0);
    let demo = Demo::start(&dir, relay.address, &services, &[]).await;
    all_fresh(std::slice::from_ref(&quick)).await;
    let email = sign_up(to, "alice").await;
    let goes = sign_in(to, &email).await;
    demo.whoami(&goes.access).await.must(200);
    demo.process.signal(Signal::STOP);
    let began_us = mono_us();
    let counts = end_and_wait(to, &goes).await;
    let took_ms = (mono_us() - began_us) / 1000;
    // By the server's arithmetic, or somewhat earlier by the relay's, who knows when that lease began.
    let one = counts["lapsed"].as_u64().unwrap() + counts["acknowledged"].as_u64().unwrap();
    assert_eq!((counts["complete"].as_bool(), one), (Some(true), 1), "{counts}");
    // A lease that was renewed within B/3, by freshness of at most B/2, lasts so long still.
    assert!((300..=2_300).contains(&took_ms), "said to be true after {took_ms} ms");
    assert_eq!(refusal(&quick, &goes.access).await, Some(Code::TokenRevoked));
    demo.process.signal(Signal::CONT);
    for _ in 0..100 {
        assert_ne!(demo.whoami(&goes.access).await.status, 200, "accepted after that was said to be impossible");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a verifier below a relay knows proves to the server that its database is an older one, although the relay itself was
/// started anew and knows nothing better; and the new epoch comes down by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_rollback_is_passed_on_and_the_new_epoch_comes_down() {
    let _turn = quiet_turn().await;
    let (dir, at, listen) = (Dir::new(), lasting_address(), lasting_address());
    let mut server = serve(&dir, at, &BOUND).await;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let mut relay = Relay::start_at(&dir, at, &relays, &listen.to_string(), &[]).await;
    let verifier = below(listen, &services, 0);
    let email = sign_up(at, "ada").await;
    let (kept, ended) = (sign_in(at, &email).await, sign_in(at, &email).await);
    server.process.signal(Signal::TERM);
    server.process.ended().await;
    copy(&dir.path("data"), &dir.path("copy"));
    server = serve(&dir, at, &BOUND).await;
    all_fresh(std::slice::from_ref(&verifier)).await;
    all_accept(std::slice::from_ref(&verifier), &ended).await;
    end_and_wait(at, &ended).await;
    assert_eq!(refusal(&verifier, &ended.access).await, Some(Code::TokenRevoked));
    tokio::time::sleep(Duration::from_millis(2_000)).await; // until its renewals have named where it is
    server.process.signal(Signal::TERM);
    server.process.ended().await;
    relay.process.signal(Signal::KILL);
    relay.process.ended().await;
    copy(&dir.path("copy"), &dir.path("data"));
    std::fs::remove_file(dir.path("data/high-water.json")).unwrap();
    server = serve(&dir, at, &BOUND).await;
    relay = Relay { process: Running::start(command(&dir, at, &relays, &listen.to_string(), &[])), address: listen };
    let shut = async {
        while crate::support::call(at, "GET", "/readyz", None, None).await.0 != 503 {
            assert!(refusal(&verifier, &ended.access).await.is_some(), "a dead token was accepted again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shut).await.expect("the server hears of the proof");
    assert!(server.process.log().contains("ROLLED BACK"), "{}", server.process.log());
    assert!(server.process.log().contains("below a relay"), "{}", server.process.log());
    for _ in 0..100 {
        assert!(refusal(&verifier, &ended.access).await.is_some(), "a dead token was accepted again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run(&dir.0, &["refound", "--reason", "an old volume", "--data-dir", "data"]).must(0, "");
    let new = sign_in(at, &email).await;
    all_fresh(std::slice::from_ref(&verifier)).await;
    all_accept(std::slice::from_ref(&verifier), &new).await;
    for old in [&kept, &ended] {
        assert!(refusal(&verifier, &old.access).await.is_some());
    }
    assert_eq!(relay.readiness().await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_whom_the_server_knows_is_let_in_and_no_more_than_may() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let relay = Relay::start(&dir, server.address, &relays, &["--max-verifiers", "2"]).await;
    let status = async |who: (&str, &str), path: &str| {
        let mut stream = open(relay.address, "GET", path, Some(basic(who)), None).await;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), stream)
    };
    let good = (&*services.0, &*services.1);
    for who in [(good.0, "wrong"), ("cli_unknown", good.1), ("", "")] {
        for path in ["/v1/feed", "/v1/feed/snapshot", "/v1/feed/known"] {
            assert_eq!(status(who, path).await.0, 401, "{path}");
        }
    }
    assert_eq!(crate::support::call(relay.address, "POST", "/v1/feed/acks", None, None).await.0, 401);
    assert_eq!(crate::support::call(relay.address, "GET", "/v1/me", None, None).await.0, 404);
    for (path, expected) in [("/v1/feed?x=1", 400), ("/v1/feed?policy=x", 422), ("/v1/feed/snapshot?part=9", 404)] {
        assert_eq!(status(good, path).await.0, expected, "{path}");
    }
    let large = json!({ "nonce": "x".repeat(70_000) });
    let mut stream = open(relay.address, "POST", "/v1/feed/acks", Some(basic(good)), Some(large)).await;
    assert!(read_until(&mut stream, "\r\n").await.contains("413"));
    let body = json!({ "instance": "pin_0", "nonce": "x" });
    let mut stream = open(relay.address, "POST", "/v1/feed/acks", Some(basic(good)), Some(body)).await;
    assert!(read_until(&mut stream, "\r\n").await.contains("400"));
    // A position that fits goes on from there; one that does not is the server's to judge, which did not make it.
    let mut stream = open(relay.address, "GET", "/v1/feed?name=one", Some(basic(good)), None).await;
    let text =
        read_until_so(&mut stream, |text| text.split("\nid: ").nth(1).is_some_and(|rest| rest.contains("\n\n"))).await;
    let position = text.split("\nid: ").nth(1).and_then(|rest| rest.lines().next()).unwrap().to_owned();
    let instance = text.split("\"instance\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let secret = text.split("\"instance_secret\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let other = if position.ends_with("A") { "B" } else { "A" };
    let changed = format!("{}{other}", &position[..position.len() - 1]);
    let link = position.split('.').nth(2).unwrap();
    let contradicts =
        position.replace(link, &format!("{}{}", if link.starts_with('A') { "B" } else { "A" }, &link[1..]));
    for (shown, brings) in [(&position, "event: keys"), (&changed, "event: keys"), (&contradicts, "event: snapshot")] {
        let more = format!("{}\r\nLast-Event-ID: {shown}\r\nPortcullis-Instance-Secret: {secret}", basic(good));
        let path = format!("/v1/feed?name=one&instance={instance}");
        let mut again = open(relay.address, "GET", &path, Some(more), None).await;
        let text =
            read_until_so(&mut again, |text| text.contains("event: keys") || text.contains("event: snapshot")).await;
        assert!(text.contains(brings) && text.contains(instance), "{shown}: {text}");
    }
    // Two places; the third finds none.
    let first = 200;
    let (second, _other) = status(good, "/v1/feed?name=two").await;
    assert_eq!((first, second), (200, 200));
    assert_eq!(status(good, "/v1/feed?name=three").await.0, 503);
    // Switched off: the stream ends at once, and there is no way back in.
    run(&dir.0, &["clients", "disable", good.0, "--data-dir", "data"]).must(0, "");
    assert!(read_until(&mut stream, "event: bye").await.contains("event: bye"));
    assert_eq!(status(good, "/v1/feed").await.0, 401);
    run(&dir.0, &["clients", "enable", good.0, "--data-dir", "data"]).must(0, "");
    let again = async {
        while status(good, "/v1/feed/known").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("let in again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_speaks_tls_and_trusts_whom_it_is_told_to() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let client = Server::verifier_client(&dir);
    let file = |name: &str| format!("{}/tests/it/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let tls = ["--tls-cert", &file("one.pem"), "--tls-key", &file("one.key")];
    let up = format!("http://{}/v1/feed", server.address);
    let relay = |more: &[&str]| {
        let args = ["feed", "relay", "--issuer", ISSUER, "--client-id", &client.0, "--listen", "127.0.0.1:0"];
        let mut command = portcullis(&dir.0, &[&args, more].concat());
        command.env("PORTCULLIS_CLIENT_SECRET", &client.1);
        Running::start(command)
    };
    let mut first = relay(&[&["--feed-url", &up], &tls[..]].concat());
    let log = first.log.clone();
    let line = first.line(&log, &["relaying"]).await;
    let port = line.split("address=127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let up = format!("https://localhost:{port}/v1/feed");
    let mut trusts = relay(&["--feed-url", &up, "--ca-file", &file("ca.pem"), "--log-format", "json"]);
    let log = trusts.log.clone();
    trusts.line(&log, &["\"fresh enough to serve\""]).await;
    let mut does_not = relay(&["--feed-url", &up]);
    let log = does_not.log.clone();
    does_not.line(&log, &["the feed's stream failed", "certificate"]).await;
}

#[test]
fn a_wrong_word_is_named() {
    let dir = Dir::new();
    let relay = |more: &[&str]| {
        let up = ["feed", "relay", "--issuer", ISSUER, "--client-id", "cli_x", "--client-secret", "s"];
        run(&dir.0, &[&up, more].concat())
    };
    relay(&["--listen", "nowhere"]).must(2, "--listen");
    relay(&["--ops-listen", "nowhere"]).must(2, "--ops-listen");
    relay(&["--bound", "5"]).must(2, "needs a unit");
    relay(&["--stream-grace", "x"]).must(2, "--stream-grace");
    relay(&["--log", "x"]).must(2, "--log");
    relay(&["--max-verifiers", "0"]).must(2, "--max-verifiers");
    relay(&["--feed-url", "ftp://x/"]).must(2, "must begin with http");
    relay(&["--tls-cert", "x.pem"]).must(2, "--tls-key");
    relay(&["--tls-cert", "x.pem", "--tls-key", "x.key"]).must(2, "tls_cert = x.pem");
    relay(&["--data-dir", "data"]).must(2, "--data-dir is for commands");
    run(&dir.0, &["feed", "relay", "--issuer", ISSUER, "--client-id", "cli_x"]).must(2, "secret is missing");
}
