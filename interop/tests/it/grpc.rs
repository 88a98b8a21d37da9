//! A client of tonic and a service of tonic behind the layer, with the tokens of a whole Portcullis server (I14).
#![allow(clippy::expect_used, reason = "a test that cannot go on says so and ends")]
use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use portcullis_testkit::{Options, SignedIn, TestServer};
use portcullis_tower::{Config, Rule, Verifier};
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

#[allow(dead_code, reason = "its main")]
#[path = "../../examples/grpc.rs"]
mod example;
use example::{Said, Tick};

const PATIENCE: Duration = Duration::from_secs(20);

/// A Portcullis server, a verifier that follows it, and a service of tonic behind the layer.
struct World {
    portcullis: TestServer,
    verifier: Verifier,
    channel: Channel,
}

impl World {
    async fn start(access_ttl_ms: i64) -> Self {
        let mut options = Options::default();
        options.settings.rules.access_ttl = access_ttl_ms;
        // No lease is to be lost here, however busy the machine is.
        options.settings.bound = 20_000;
        let portcullis = TestServer::start(options).await;
        portcullis.sign_up("ada@example.test").await;
        let (id, secret) = portcullis.new_client("verifier").await;
        let config = Config::new(&portcullis.issuer, &portcullis.issuer, id, secret);
        let verifier = Verifier::start(config).expect("a verifier");
        assert!(verifier.wait_fresh(PATIENCE).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(example::server(verifier.clone()).serve_with_incoming(incoming));
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        Self { portcullis, verifier, channel }
    }

    async fn sign_in(&self) -> SignedIn {
        self.portcullis.sign_in("ada@example.test").await
    }

    async fn refresh(&self, who: &SignedIn) -> String {
        let body = json!({ "refresh_token": who.refresh });
        let answer = self.portcullis.client.post("/v1/sessions/refresh").json(&body).send().await.expect(200).json();
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    async fn exp(&self, token: &str) -> i64 {
        self.verifier.verify(token, &Rule::default()).await.expect("a good token").claims().exp
    }

    async fn watch(&self, token: Option<&str>) -> Result<Streaming<Tick>, Status> {
        let path = PathAndQuery::from_static("/portcullis.example.Clock/Watch");
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("a connection");
        let called = grpc.server_streaming(with(Request::new(Said::default()), token), path, codec());
        timeout(PATIENCE, called).await.expect("an answer in time").map(|answer| answer.into_inner())
    }

    /// A talk: what is sent into the channel is said.
    async fn talk(&self, token: &str) -> (mpsc::UnboundedSender<Said>, Streaming<Tick>) {
        let (say, said) = mpsc::unbounded_channel();
        let said =
            stream::unfold(said, async |mut said: mpsc::UnboundedReceiver<Said>| Some((said.recv().await?, said)));
        let path = PathAndQuery::from_static("/portcullis.example.Clock/Talk");
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("a connection");
        let called = grpc.streaming(with(Request::new(said.boxed()), Some(token)), path, codec());
        let answer = timeout(PATIENCE, called).await.expect("an answer in time").expect("a stream");
        (say, answer.into_inner())
    }
}

/// The clock that tokens are judged by here: the machine's, on which the server runs, too.
#[allow(clippy::disallowed_methods, reason = "a test waits for tokens to expire")]
fn unix_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("before the end of time")
}

async fn wait_past(exp: i64) {
    while unix_ms() <= exp * 1000 {
        sleep(Duration::from_millis(50)).await;
    }
}

fn codec() -> ProstCodec<Said, Tick> {
    ProstCodec::default()
}

fn with<T>(mut request: Request<T>, token: Option<&str>) -> Request<T> {
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

async fn next(stream: &mut Streaming<Tick>) -> Result<Option<Tick>, Status> {
    timeout(PATIENCE, stream.message()).await.expect("a message in time")
}

/// Reads until the end: how many messages came, and what the client is told.
async fn end(stream: &mut Streaming<Tick>) -> (u128, Option<Status>) {
    let mut messages = 0;
    loop {
        match next(stream).await {
            Ok(Some(_)) => messages += 1,
            Ok(None) => return (messages, None),
            Err(status) => return (messages, Some(status)),
        }
    }
}

/// The next answer to a token.
async fn answer(stream: &mut Streaming<Tick>) -> Tick {
    loop {
        let tick = next(stream).await.expect("an open stream").expect("a message");
        if tick.until != 0 {
            return tick;
        }
    }
}

fn is(status: Option<Status>, word: &str) {
    let status = status.expect("an end with a status");
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, word), "{status:?}");
}

#[tokio::test]
async fn a_stream_ends_with_its_session_and_says_why() {
    let world = World::start(300_000).await;
    let (mine, other) = (world.sign_in().await, world.sign_in().await);
    is(world.watch(None).await.err(), "token_missing");
    is(world.watch(Some("garbage")).await.err(), "token_malformed");
    let opened = Instant::now();
    let mut watched = world.watch(Some(&mine.access)).await.expect("a stream");
    let (_say, mut talked) = world.talk(&mine.access).await;
    let mut others = world.watch(Some(&other.access)).await.expect("a stream");
    for stream in [&mut watched, &mut talked, &mut others] {
        assert_eq!(next(stream).await.expect("open").expect("a tick").n, 0);
    }

    let path = format!("/v1/me/sessions/{}?wait=enforced", mine.sid);
    let ended = world.portcullis.client.delete(path).bearer(&other.access).send().await.expect(200).json();
    assert_eq!(ended["enforcement"]["complete"], true, "{ended}");
    // It is enforced: no verdict after this is the old one, so nothing was sent since; what was sent before may still come.
    let most = opened.elapsed().as_millis() / example::TICK.as_millis() + 1;
    for stream in [&mut watched, &mut talked] {
        let (messages, told) = end(stream).await;
        is(told, "token_revoked");
        assert!(messages <= most, "{messages} messages where {most} had their time");
    }
    assert!(next(&mut others).await.expect("open").is_some());
    is(world.watch(Some(&mine.access)).await.err(), "token_revoked");
}

#[tokio::test]
async fn a_stream_goes_on_with_a_token_said_on_it() {
    let world = World::start(6_000).await;
    let (who, other) = (world.sign_in().await, world.sign_in().await);
    let first = world.exp(&who.access).await;
    let (say, mut renewed) = world.talk(&who.access).await;
    let mut left_alone = world.watch(Some(&who.access)).await.expect("a stream");

    say.send(Said { token: other.access.clone() }).expect("open");
    let refused = answer(&mut renewed).await;
    assert_eq!((refused.refused.as_str(), refused.until), ("forbidden", first), "another session's");

    // Lives differ by a fifth up or down: after half of one, a new one outlasts it.
    wait_past(first - 2).await;
    let newer = world.refresh(&who).await;
    let second = world.exp(&newer).await;
    assert!(second > first + 1, "{second} after {first}");
    say.send(Said { token: newer }).expect("open");
    let taken = answer(&mut renewed).await;
    assert_eq!((taken.refused.as_str(), taken.until), ("", second));

    is(end(&mut left_alone).await.1, "token_expired");
    assert!(unix_ms() >= first * 1000);
    assert!(next(&mut renewed).await.expect("open").is_some(), "past the first token's end");
    is(end(&mut renewed).await.1, "token_expired");
    assert!(unix_ms() >= second * 1000);
}
