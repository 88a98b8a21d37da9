//! The demo API as a process of its own beside a server.
use crate::support::{ADMIN, Dir, ISSUER, Running, Server, call, open, portcullis, read_until, run};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::time::Duration;

pub async fn start(dir: &Dir, server: &Server, client: (&str, &str), more: &[&str]) -> (Running, SocketAddr) {
    let feed = format!("http://{}/v1/feed", server.address);
    let args =
        ["demo-api", "--issuer", ISSUER, "--feed-url", &feed, "--client-id", client.0, "--listen", "127.0.0.1:0"];
    let mut command = portcullis(&dir.0, &[&args, more].concat());
    command.env("PORTCULLIS_CLIENT_SECRET_FILE", dir.write("client-secret", client.1));
    let mut process = Running::start(command);
    let log = process.log.clone();
    let line = process.line(&log, &["address="]).await;
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    (process, address.parse().unwrap())
}

pub async fn ready(api: SocketAddr) {
    let fresh = tokio::time::timeout(crate::support::PATIENCE, async {
        while call(api, "GET", "/readyz", None, None).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    fresh.await.unwrap();
}

#[tokio::test]
async fn it_accepts_streams_and_refuses() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let (id, secret) = Server::verifier_client(&dir);
    let (mut process, api) = start(&dir, &server, (&id, &secret), &[]).await;
    ready(api).await;
    let tokens = server.sign_in(ADMIN).await;
    let token = tokens["access_token"].as_str().unwrap();
    let (status, me) = call(api, "GET", "/whoami", Some(token), None).await;
    assert_eq!(status, 200);
    assert_eq!((&me["sid"], me["scope"].as_str()), (&tokens["session"]["id"], Some("account admin")));
    assert!(me["sub"].is_string() && me["rev"].is_u64() && me["epoch"].is_u64(), "{me}");
    let missing = call(api, "GET", "/whoami", None, None).await;
    assert_eq!((missing.0, missing.1["code"].as_str()), (401, Some("token_missing")));
    let garbage = call(api, "GET", "/whoami", Some("garbage"), None).await;
    assert_eq!((garbage.0, garbage.1["code"].as_str()), (401, Some("token_malformed")));
    let metrics = open(api, "GET", "/metrics", None, None).await;
    assert!(read_until(&mut { metrics }, "no such mark").await.contains("portcullis_verifier_accepted_total"));

    let mut stream = open(api, "GET", "/stream", Some(format!("Bearer {token}")), None).await;
    assert!(read_until(&mut stream, "event: tick").await.contains("text/event-stream"));
    let out = server.call("DELETE", "/v1/me/sessions/current?wait=enforced", Some(token), None).await;
    assert_eq!((out.0, out.1["enforcement"]["acknowledged"].as_u64()), (200, Some(1)), "{out:?}");
    let gone = call(api, "GET", "/whoami", Some(token), None).await;
    assert_eq!((gone.0, gone.1["code"].as_str()), (401, Some("token_revoked")));
    let rest = read_until(&mut stream, "no such mark").await;
    assert!(rest.contains("event: ended") && rest.contains("token_revoked"), "{rest}");

    process.signal(Signal::TERM);
    assert_eq!(process.ended().await, Some(0));
}

#[tokio::test]
async fn without_the_server_it_is_not_ready_and_refuses() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let (id, _) = Server::verifier_client(&dir);
    let (_process, api) = start(&dir, &server, (&id, "pcc_wrong"), &["--policy", "closed", "--bound", "1s"]).await;
    let token = server.access_token(ADMIN).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(call(api, "GET", "/readyz", None, None).await.0, 503);
    let refused = call(api, "GET", "/whoami", Some(&token), None).await;
    assert_eq!((refused.0, refused.1["code"].as_str()), (503, Some("not_fresh")));
}

#[test]
fn usage() {
    let dir = Dir::new();
    let args = ["demo-api", "--issuer", ISSUER, "--client-id", "cli_00000000000000000000000001"];
    run(&dir.0, &args).must(2, "PORTCULLIS_CLIENT_SECRET");
    run(&dir.0, &[&args[..], &["--client-secret", "x", "--bound", "5"]].concat()).must(2, "--bound");
    run(&dir.0, &[&args[..], &["--client-secret", "x", "--policy", "maybe"]].concat()).must(2, "introspect");
    run(&dir.0, &[&args[..], &["--client-secret", "x", "--feed-url", "nonsense"]].concat()).must(2, "nonsense");
    run(&dir.0, &[&args[..], &["--client-secret", "x", "--listen", "nowhere"]].concat()).must(2, "--listen");
}
