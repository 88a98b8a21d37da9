//! What a relay does at its limits, as verifiers, strangers and operators meet it.
use super::{Relay, all_fresh, below};
use crate::kept::{quiet_turn, turn};
use crate::support::{Dir, PATIENCE, Server, basic, call, open, read_until, read_until_so, run};
use portcullis_testkit::lasting_address;
use portcullis_testkit::proxy::{Proxy, Way};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

type Credentials = (String, String);

/// Opens a stream, or is refused: what came first, with everything of the `hello`.
async fn opened(at: SocketAddr, who: &Credentials, query: &str, more: &str) -> (String, TcpStream) {
    let authorization = format!("{}{more}", basic((&who.0, &who.1)));
    let mut stream = open(at, "GET", &format!("/v1/feed{query}"), Some(authorization), None).await;
    let enough = |text: &str| text.contains(if text.starts_with("HTTP/1.1 200") { "max_life_s" } else { "}" });
    let text = read_until_so(&mut stream, enough).await;
    (text, stream)
}

fn status(text: &str) -> &str {
    text.split(' ').nth(1).unwrap_or("nothing")
}

fn member<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = text.split(&format!("\"{name}\":\"")).nth(1).unwrap_or_else(|| panic!("no {name}: {text}"));
    rest.split('"').next().unwrap()
}

pub(super) async fn metric(at: SocketAddr, name: &str) -> u64 {
    let mut stream = open(at, "GET", "/metrics", None, None).await;
    let text = read_until(&mut stream, "positions_passed_on_total ").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("portcullis_relay_{name} ")));
    line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
}

fn overloaded(text: &str) {
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("\"overloaded\""), "{text}");
    assert!(text.to_ascii_lowercase().contains("\r\nretry-after: "), "{text}");
}

/// The server is slow, strangers ask for all they can, and the relay has to ask anew about those that it knew: they are let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_keeps_no_known_verifier_out() {
    let _turn = turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let way = Proxy::to(server.address).await.unwrap();
    let relay = Relay::start(&dir, way.address, &relays, &[]).await;
    let verifiers = [below(relay.address, &services, 0)];
    all_fresh(&verifiers).await;
    way.set(Way { delay: Duration::from_millis(400), ..Way::default() });
    let (over, told) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU32::new(0) }; 2]));
    let mut strangers = Vec::new();
    for n in 0..64_u32 {
        let (over, told, at) = (over.clone(), told.clone(), relay.address);
        strangers.push(tokio::spawn(async move {
            for m in 0.. {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let who = (format!("cli_0000000000000000{n:05}{m:05}"), "wrong".to_owned());
                let (text, _) = opened(at, &who, "", "").await;
                match status(&text) {
                    "401" => told[0].fetch_add(1, Ordering::Relaxed),
                    "503" => told[1].fetch_add(1, Ordering::Relaxed),
                    other => panic!("a stranger is told {other}: {text}"),
                };
            }
        }));
    }
    while told[1].load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its end makes the relay forget what was said of it; and then it is switched on again.
    for what in ["disable", "enable"] {
        run(&dir.0, &["clients", what, &services.0, "--data-dir", "data"]).must(0, "");
    }
    let let_in = async {
        while status(&opened(relay.address, &services, "?name=again", "").await.0) != "200" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), let_in).await.expect("not kept out by strangers");
    all_fresh(&verifiers).await;
    // What has not even the form of an id is answered at once, whoever else waits.
    let nobody = ("cli_x".into(), "wrong".into());
    let at_once = tokio::time::timeout(Duration::from_millis(700), opened(relay.address, &nobody, "", ""));
    assert_eq!(status(&at_once.await.expect("at once").0), "401");
    over.store(true, Ordering::Release);
    for stranger in strangers {
        stranger.await.unwrap();
    }
    assert!(told[0].load(Ordering::Relaxed) > 0, "strangers are told so, one by one");
}

/// The newest streams of an instance go on, at a relay and at the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_streams_of_an_instance_the_oldest_gives_way() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let client = Server::verifier_client(&dir);
    let relay = Relay::start(&dir, server.address, &client, &[]).await;
    for at in [server.address, relay.address] {
        let (hello, first) = opened(at, &client, "?name=many", "").await;
        let query = format!("?name=many&instance={}", member(&hello, "instance"));
        let secret = format!("\r\nPortcullis-Instance-Secret: {}", member(&hello, "instance_secret"));
        let mut streams = vec![first];
        for _ in 0..5 {
            let (text, stream) = opened(at, &client, &query, &secret).await;
            assert_eq!(member(&text, "instance"), member(&hello, "instance"));
            streams.push(stream);
        }
        for stream in &mut streams[..2] {
            assert!(read_until(stream, "event: bye").await.contains("event: bye"));
        }
        for stream in &mut streams[2..] {
            let more = tokio::time::timeout(Duration::from_millis(100), read_until(stream, "event: bye")).await;
            assert!(more.is_err(), "it was ended: {more:?}");
        }
    }
    // `streams` of the relay went with the last round.
    let none = async {
        while metric(relay.address, "streams").await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, none).await.expect("no stream is left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_takes_no_more_places_than_it_may() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let (one, two) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    for (more, places) in [(vec!["--max-verifiers", "8"], 7), (vec!["--max-verifiers-per-client", "2"], 2)] {
        let relay = Relay::start(&dir, server.address, &one, &more).await;
        let mut streams = Vec::new();
        for n in 0..places {
            let (text, stream) = opened(relay.address, &one, &format!("?name=one{n}"), "").await;
            assert_eq!(status(&text), "200", "{text}");
            streams.push(stream);
        }
        let (text, _) = opened(relay.address, &one, "?name=more", "").await;
        overloaded(&text);
        assert!(text.contains("of this client"), "{text}");
        assert_eq!(status(&opened(relay.address, &two, "?name=other", "").await.0), "200");
        assert_eq!(metric(relay.address, "refused_total").await, 1);
    }
}

/// One that may accept until `exp` keeps its own place for so long, and nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_route_keeps_its_own_place_alone() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start_with(&dir, &["--bound", "1s"]).await;
    let client = Server::verifier_client(&dir);
    let relay = Relay::start(&dir, server.address, &client, &["--max-verifiers", "3"]).await;
    for query in ["?name=a&policy=open", "?name=b", "?name=c"] {
        assert_eq!(status(&opened(relay.address, &client, query, "").await.0), "200");
    }
    overloaded(&opened(relay.address, &client, "?name=too-early", "").await.0);
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let (d, _stays) = opened(relay.address, &client, "?name=d", "").await;
    let (e, _too) = opened(relay.address, &client, "?name=e", "").await;
    assert_eq!([status(&d), status(&e)], ["200", "200"]);
    overloaded(&opened(relay.address, &client, "?name=f", "").await.0);
    let ready = call(relay.address, "GET", "/readyz", None, None).await.1;
    assert_eq!(ready["verifiers"], Value::from(3), "{ready}");
}

/// A policy that comes is told above at once; verifiers that come and go with it do not have the stream opened again each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_that_come_and_go_do_not_open_the_stream_again() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let client = Server::verifier_client(&dir);
    let relay = Relay::start(&dir, server.address, &client, &["--name", "relay"]).await;
    let (hello, _first) = opened(relay.address, &client, "?name=flaps", "").await;
    let query = format!("?name=flaps&instance={}", member(&hello, "instance"));
    let secret = format!("\r\nPortcullis-Instance-Secret: {}", member(&hello, "instance_secret"));
    let opened_above = async || metric(relay.address, "upstream_streams_total").await;
    assert_eq!(opened_above().await, 1);
    for n in 0..30 {
        let policy = if n % 2 == 0 { "&policy=closed,open" } else { "&policy=closed" };
        let (text, _) = opened(relay.address, &client, &format!("{query}{policy}"), &secret).await;
        assert_eq!(status(&text), "200", "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = async {
        while opened_above().await < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the wider policies are told");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(opened_above().await, 2);
    let seen = super::verifiers_of(&server).await;
    assert_eq!(seen[0]["policy"], Value::from("closed,open"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_operators_has_an_address_of_its_own() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let client = Server::verifier_client(&dir);
    let ops = lasting_address();
    let more = ["--ops-listen", &ops.to_string()];
    let mut command = super::command(&dir, server.address, &client, "127.0.0.1:0", &more);
    command.env("RUST_BACKTRACE", "0");
    let mut process = crate::support::Running::start(command);
    let log = process.log.clone();
    let line = process.line(&log, &["relaying"]).await;
    let at = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let at: SocketAddr = at.parse().unwrap();
    crate::kept::insist(ops, "GET", "/readyz", None, None).await.must(200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(call(at, "GET", path, None, None).await.0, 404, "{path}");
        assert_eq!(call(ops, "GET", path, None, None).await.0, 200, "{path}");
    }
    assert_eq!(call(ops, "GET", "/v1/feed", None, None).await.0, 404);
    let verifiers = [below(at, &client, 0)];
    all_fresh(&verifiers).await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await, Some(0), "{}", process.log());
    let taken = ["feed", "relay", "--issuer", crate::support::ISSUER, "--client-id", "cli_x", "--client-secret", "s"];
    run(&dir.0, &[&taken[..], &["--listen", "127.0.0.1:0", "--ops-listen", &server.address.to_string()]].concat())
        .must(2, "--ops-listen");
}
