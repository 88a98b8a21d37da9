//! Connections that are slow, silent or stuck, and HTTP/2.
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_testkit::{Options, TestServer};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

async fn impatient() -> TestServer {
    let mut options = Options::default();
    options.limits.header_time = Duration::from_millis(300);
    options.limits.stall_time = Duration::from_millis(300);
    options.send_buffer = Some(8192);
    TestServer::start(options).await
}

/// Reads until the server closes; fails when it does not within 5 s.
async fn closes(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the server keeps the connection");
}

#[tokio::test]
async fn silence_and_slow_heads_are_not_waited_for() {
    let server = impatient().await;
    for start in ["", "P", "GET /healthz HTTP/1.1\r\nhost: x\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(server.authority()).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        closes(&mut stream).await;
    }
    assert!(server.traffic.silent.load(Ordering::Relaxed) >= 2);
    // Between two requests too.
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    closes(&mut stream).await;
    server.client.get("/healthz").send().await.expect(200);
}

#[tokio::test]
async fn a_subscriber_that_takes_no_bytes_is_dropped_and_counted() {
    let server = impatient().await;
    let (id, secret) = server.new_client("verifier").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut stuck = socket.connect(server.authority().parse().unwrap()).await.unwrap();
    let text = portcullis_wire::b64::encode(format!("{id}:{secret}").as_bytes());
    let request = format!("GET /v1/feed HTTP/1.1\r\nhost: x\r\nauthorization: Basic {text}\r\n\r\n");
    stuck.write_all(request.as_bytes()).await.unwrap();
    // It never reads. Another one does, and follows all the same.
    let mut healthy = server.client.get("/v1/feed").basic((&id, &secret)).events().await;
    healthy.next_named("snapshot").await;
    let admin = server.admin().await;
    let body = json!({ "everyone": true, "except": admin.sid, "reason": "noise" });
    // What the system's buffers take is some kilobytes here; then the socket takes nothing.
    for _ in 0..50 {
        for _ in 0..20 {
            let call = server.client.post("/v1/admin/revocations").bearer(&admin.access).json(&body);
            call.send().await.expect(200);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if server.traffic.stalled.load(Ordering::Relaxed) > 0 {
            break;
        }
    }
    assert_eq!(server.traffic.stalled.load(Ordering::Relaxed), 1);
    let mut last = 0;
    while last < server.app.hub().head().0 {
        let event = healthy.next_named("entries").await;
        let entries = event.data["entries"].as_array().unwrap().clone();
        for entry in entries {
            assert_eq!(entry["rev"].as_u64(), Some(last + 1));
            last += 1;
        }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let options =
        Options { config: Box::new(|config| config.body_time = Duration::from_millis(300)), ..Options::default() };
    let server = TestServer::start(options).await;
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    let head =
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{\"id";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    read.expect("the connection ends").unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("did not arrive"), "{answer}");
}

/// Sends a head, waits for the answer, sends what follows; the answer's head.
async fn answered_before(stream: &mut TcpStream, head: &str, then: &[u8]) -> String {
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = until(stream, "\r\n\r\n").await;
    let body = answer.split_off(answer.find("\r\n\r\n").unwrap() + 4);
    let length: usize = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    stream.read_exact(&mut vec![0; length - body.len()]).await.unwrap();
    stream.write_all(then).await.unwrap();
    answer
}

/// An answer may come before the body was read: the connection is as good as before, or the answer says that it is not.
#[tokio::test]
async fn a_body_that_nobody_reads_breaks_no_connection() {
    let server = TestServer::usual().await;
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    let post = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}\r\n\r\n")
    };
    let large = [b' '; 60_000];
    for _ in 0..3 {
        // Nothing is there; nobody is known by that token; nobody may do that.
        for (path, status) in
            [("/v1/nothing", 404), ("/v1/me/password", 401), ("/oauth2/userinfo", 401), ("/healthz", 405)]
        {
            let head = post(path, "content-length: 2");
            let answer = answered_before(&mut stream, &head, b"{}").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
            assert!(!answer.contains("connection: close"), "{answer}");
            let head = post(path, "transfer-encoding: chunked");
            answered_before(&mut stream, &head, b"2\r\n{}\r\n0\r\n\r\n").await;
        }
        let head = post("/v1/nothing", "content-length: 60000");
        answered_before(&mut stream, &head, &large).await;
    }
    let get = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    assert!(answered_before(&mut stream, get, b"").await.starts_with("HTTP/1.1 200"));
    // What is too much to throw away, and what waits to be asked for.
    for more in ["content-length: 70000", "content-length: 2\r\nexpect: 100-continue"] {
        let mut stream = TcpStream::connect(server.authority()).await.unwrap();
        let answer = answered_before(&mut stream, &post("/v1/nothing", more), b"").await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close"), "{answer}");
        closes(&mut stream).await;
    }
    // Without a length nobody knows until it comes.
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    let chunked = post("/v1/nothing", "transfer-encoding: chunked");
    answered_before(&mut stream, &chunked, b"11170\r\n").await;
    let _ = stream.write_all(&[b' '; 70_000]).await;
    closes(&mut stream).await;
    server.client.get("/healthz").send().await.expect(200);
}

/// A rest that does not come is waited for no longer than a next request.
#[tokio::test]
async fn a_rest_that_does_not_come_is_not_waited_for() {
    let server = impatient().await;
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    let head = "POST /v1/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n";
    let answer = answered_before(&mut stream, head, b"{").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    closes(&mut stream).await;
}

#[tokio::test]
async fn a_full_house_lets_the_next_in_when_one_has_left() {
    let mut options = Options::default();
    options.limits.connections = 2;
    options.limits.header_time = Duration::from_millis(400);
    let server = TestServer::start(options).await;
    let silent =
        [TcpStream::connect(server.authority()).await.unwrap(), TcpStream::connect(server.authority()).await.unwrap()];
    let began = tokio::time::Instant::now();
    server.client.get("/healthz").send().await.expect(200);
    assert!(began.elapsed() >= Duration::from_millis(300), "it waited for a place");
    assert!(server.traffic.open.load(Ordering::Relaxed) <= 2);
    drop(silent);
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let server = TestServer::usual().await;
    let stream = TcpStream::connect(server.authority()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("{}/readyz", server.issuer)).body(Full::new(Bytes::new())).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    assert!(answer.into_body().collect().await.unwrap().to_bytes().starts_with(b"{"));
}

#[tokio::test]
async fn requests_in_flight_are_finished_before_the_end() {
    let mut server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let mut feed = server.client.get("/v1/feed").basic((&id, &secret)).events().await;
    let hello = feed.next_named("hello").await.data;
    let lease = json!({
        "instance": hello["instance"], "instance_secret": hello["instance_secret"], "epoch": 1, "applied": 0,
        "position": "", "nonce": "n",
    });
    server.client.post("/v1/feed/acks").basic((&id, &secret)).json(&lease).send().await.expect(200);
    let admin = server.admin().await;
    let waiting = server.client.delete("/v1/me/sessions?wait=enforced&timeout_ms=1000").bearer(&admin.access);
    let waiting = tokio::spawn(waiting.send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.stop().await;
    waiting.await.unwrap().expect(200);
    assert!(TcpStream::connect(server.authority()).await.is_err());
}

/// A socket that was opened for later, as browsers and pools do, is closed at once when the server ends, and not waited for.
#[tokio::test]
async fn a_socket_that_says_nothing_holds_up_no_end() {
    let mut server = TestServer::usual().await;
    let mut silent = TcpStream::connect(server.authority()).await.unwrap();
    let mut begun = TcpStream::connect(server.authority()).await.unwrap();
    begun.write_all(b"PRI * HTTP").await.unwrap();
    server.client.get("/healthz").send().await.expect(200);
    let patience =
        portcullis_http::Limits::default().header_time.min(portcullis_http::Limits::default().drain_time) / 2;
    tokio::time::timeout(patience, server.stop()).await.expect("it waited for who says nothing");
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(begun.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

/// A request for the feed, as bytes.
fn feed_request(version: &str, (id, secret): (&str, &str)) -> String {
    let basic = portcullis_wire::b64::encode(format!("{id}:{secret}").as_bytes());
    format!("GET /v1/feed HTTP/{version}\r\nhost: x\r\nauthorization: Basic {basic}\r\n\r\n")
}

/// Reads until this has come, and gives all that has.
async fn until(stream: &mut TcpStream, what: &str) -> String {
    let mut all = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&all).contains(what) {
            assert!(stream.read_buf(&mut all).await.unwrap() > 0, "it ended: {}", String::from_utf8_lossy(&all));
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.expect("in time");
    String::from_utf8(all).unwrap()
}

async fn streams_are(server: &TestServer, count: u64) {
    for _ in 0..500 {
        if server.app.hub().stats().streams.load(Ordering::Relaxed) == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} streams", server.app.hub().stats().streams.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_feed_says_that_its_connection_ends_with_it_and_is_in_chunks() {
    let mut server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    // In two pieces, and with something behind it that nobody answers.
    let request = feed_request("1.1", (&id, &secret));
    stream.write_all(&request.as_bytes()[..10]).await.unwrap();
    stream.write_all(&request.as_bytes()[10..]).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = until(&mut stream, "event: snapshot").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 200 OK"));
    let headers: Vec<(&str, &str)> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    for header in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(headers.iter().filter(|(name, _)| *name == header.0).collect::<Vec<_>>(), [&header]);
    }
    let date = headers.iter().find(|(name, _)| *name == "date").unwrap().1;
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    let (size, rest) = body.split_once("\r\n").unwrap();
    let size = usize::from_str_radix(size, 16).unwrap();
    assert!(rest.starts_with("event: hello") && &rest[size..size + 2] == "\r\n", "{rest}");
    streams_are(&server, 1).await;
    server.stop().await;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("event: bye") && rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
}

#[tokio::test]
async fn a_subscriber_that_hangs_up_or_talks_without_end_is_gone_at_once() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    for talks in [false, true] {
        let mut stream = TcpStream::connect(server.authority()).await.unwrap();
        stream.write_all(feed_request("1.1", (&id, &secret)).as_bytes()).await.unwrap();
        until(&mut stream, "event: snapshot").await;
        streams_are(&server, 1).await;
        if talks {
            let _ = stream.write_all(&[b'x'; 100_000]).await;
        } else {
            drop(stream);
        }
        streams_are(&server, 0).await;
    }
}

#[tokio::test]
async fn a_feed_comes_to_who_asks_otherwise_too() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    // Not the first request of its connection.
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    let before = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(format!("{before}{}", feed_request("1.1", (&id, &secret))).as_bytes()).await.unwrap();
    let answer = until(&mut stream, "event: snapshot").await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    // HTTP/1.0, which knows no chunks.
    let mut stream = TcpStream::connect(server.authority()).await.unwrap();
    stream.write_all(feed_request("1.0", (&id, &secret)).as_bytes()).await.unwrap();
    let answer = until(&mut stream, "event: snapshot").await;
    assert!(answer.contains("\r\n\r\nevent: hello") && !answer.contains("chunked"), "{answer}");
}
