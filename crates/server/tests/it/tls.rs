//! TLS in the binary, as clients, commands and verifiers meet it.
use crate::support::{ADMIN, Dir, PATIENCE, Running, Server, portcullis, run};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls").join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(fixture(name)).unwrap()
}

async fn connect(
    to: SocketAddr,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let mut config =
        builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(to).await?).await
}

/// The leaf that the server shows.
async fn shown(to: SocketAddr) -> CertificateDer<'static> {
    let stream = connect(to, &[], &[&version::TLS13]).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// One request by HTTP/1.1; the status and the body.
async fn call(to: SocketAddr, method: &str, path: &str, token: &str, body: Option<Value>) -> (u16, Value) {
    let mut stream = connect(to, &["http/1.1"], &[&version::TLS12, &version::TLS13]).await.unwrap();
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await; // an end without close_notify is an end
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A server whose certificate files are copies in `DIR`, so that they can be changed.
async fn start(dir: &Dir) -> Server {
    for (from, to) in [("one.pem", "cert.pem"), ("one.key", "key.pem")] {
        std::fs::copy(fixture(from), dir.path(to)).unwrap();
    }
    let args = ["serve", "--listen", "127.0.0.1:0", "--issuer", "https://localhost:7400", "--data-dir", "data"];
    let tls = ["--log-format", "json", "--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let mut command = portcullis(&dir.0, &[&args[..], &tls[..]].concat());
    command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
    Server::run(command).await
}

async fn admin_token(to: SocketAddr) -> String {
    let credentials = json!({ "identifier": ADMIN.0, "password": ADMIN.1 });
    let (status, body) = call(to, "POST", "/v1/sessions", "none", Some(credentials)).await;
    assert_eq!(status, 201, "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_spoken_and_plain_http_is_not() {
    let dir = Dir::new();
    let server = start(&dir).await;
    let to = server.address;
    for version in [&version::TLS12, &version::TLS13] {
        let stream = connect(to, &["h2", "http/1.1"], &[version]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("https://localhost/readyz").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("strict-transport-security"));
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(call(to, "GET", "/healthz", "none", None).await.0, 200);
    let mut plain = TcpStream::connect(to).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    let foreign = connect(to, &["spdy/3"], &[&version::TLS13]).await;
    assert!(foreign.is_err(), "no protocol in common");
    // Counted, and told when the certificate ends. The commands reach it by the socket all the same.
    let mut stream = connect(to, &["http/1.1"], &[&version::TLS13]).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut metrics = Vec::new();
    let _ = stream.read_to_end(&mut metrics).await;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    assert!(metrics.contains("portcullis_tls_handshakes_failed_total 2"), "{metrics}");
    assert!(metrics.contains("portcullis_tls_certificate_expiry_timestamp_seconds 4"), "{metrics}");
    run(&dir.0, &["accounts", "list", "--data-dir", "data"]).must(0, ADMIN.0);
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let dir = Dir::new();
    let mut server = start(&dir).await;
    let to = server.address;
    assert_eq!(shown(to).await, certificate("one.pem"));
    let mut kept = connect(to, &["http/1.1"], &[&version::TLS13]).await.unwrap();
    // A pair that does not belong together, as a renewal half-way leaves it.
    std::fs::copy(fixture("two.pem"), dir.path("cert.pem")).unwrap();
    server.process.signal(Signal::HUP);
    let log = server.process.log.clone();
    server.process.line(&log, &["the old one stays in force", "it is not the key of the certificate"]).await;
    assert_eq!(shown(to).await, certificate("one.pem"));
    std::fs::copy(fixture("two.key"), dir.path("key.pem")).unwrap();
    server.process.signal(Signal::HUP);
    server.process.line(&log, &["a new certificate is in force"]).await;
    assert_eq!(shown(to).await, certificate("two.pem"));
    // What was open goes on with what it began with.
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = kept.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    std::fs::remove_file(dir.path("key.pem")).unwrap();
    server.process.signal(Signal::HUP);
    server.process.line(&log, &["the old one stays in force", "cannot be read"]).await;
    assert_eq!(shown(to).await, certificate("two.pem"));
}

#[tokio::test]
async fn commands_and_verifiers_follow_over_tls_and_trust_whom_they_are_told_to() {
    let dir = Dir::new();
    let server = start(&dir).await;
    let to = server.address;
    let (id, secret) = Server::verifier_client(&dir);
    let token = admin_token(to).await;
    let url = format!("https://localhost:{}", to.port());
    let ca = fixture("ca.pem").display().to_string();
    let list = ["accounts", "list", "--server", &url, "--token", &token];
    run(&dir.0, &[&list[..], &["--ca-file", &ca]].concat()).must(0, ADMIN.0);
    run(&dir.0, &list).must(3, "");
    run(&dir.0, &[&list[..], &["--ca-file", "nothing.pem"]].concat()).must(2, "--ca-file nothing.pem");

    let feed = format!("{url}/v1/feed");
    let issuer = ["--issuer", "https://localhost:7400", "--feed-url", &feed, "--listen", "127.0.0.1:0"];
    let client = ["--client-id", &id, "--client-secret", &secret, "--ca-file", &ca];
    let mut demo = Running::start(portcullis(&dir.0, &[&["demo-api"], &issuer[..], &client[..]].concat()));
    let log = demo.log.clone();
    let line = demo.line(&log, &["demo API; /readyz"]).await;
    let at = line.split("address=").nth(1).unwrap().split(' ').next().unwrap();
    let plain: String = at.chars().filter(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    let demo_at: SocketAddr = plain.parse().unwrap_or_else(|_| panic!("{line}"));
    let whoami = || crate::support::call(demo_at, "GET", "/whoami", Some(&token), None);
    let until = async |status: u16| {
        while whoami().await.0 != status {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until(200)).await.expect("it becomes fresh and accepts");
    let ended = call(to, "DELETE", "/v1/me/sessions?wait=enforced", &token, None).await;
    assert_eq!((ended.0, &ended.1["enforcement"]["acknowledged"]), (200, &json!(1)), "{ended:?}");
    assert_eq!(whoami().await.0, 401);
}

#[test]
fn what_cannot_be_right_does_not_start() {
    let dir = Dir::new();
    let path = |name: &str| fixture(name).display().to_string();
    let serve =
        |args: &[&str]| run(&dir.0, &[&["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"], args].concat());
    serve(&["--tls-cert", &path("one.pem")]).must(2, "tls_key must be set too");
    serve(&["--tls-key", &path("one.key")]).must(2, "tls_cert must be set too");
    serve(&["--tls-cert", &path("one.pem"), "--tls-key", &path("two.key")])
        .must(2, "it is not the key of the certificate");
    serve(&["--tls-cert", &path("expired.pem"), "--tls-key", &path("one.key")])
        .must(2, "the certificate expired at 2001-");
    serve(&["--tls-cert", "no.pem", "--tls-key", &path("one.key")]).must(2, "tls_cert = no.pem: cannot be read");
    let plain = ["--issuer", "http://localhost:7400"];
    serve(&[&plain[..], &["--tls-cert", &path("one.pem"), "--tls-key", &path("one.key")]].concat())
        .must(2, "must be https when tls_cert is set");
    let check = ["config", "check", "--listen", "0.0.0.0:7400", "--issuer", "https://id.example.org"];
    run(&dir.0, &check).must(0, "PASSWORDS AND TOKENS IN THE CLEAR");
    run(&dir.0, &[&check[..], &["--trusted-proxies", "10.0.0.1"]].concat()).must(0, "trusted_proxies");
    let derived = ["config", "check", "--tls-cert", &path("one.pem"), "--tls-key", &path("one.key")];
    run(&dir.0, &derived).must(0, "https://127.0.0.1:7400");
}

/// Sockets that say nothing take places from their own address only, and lose them.
#[tokio::test]
async fn silent_sockets_keep_nobody_else_out() {
    let dir = Dir::new();
    let server = start(&dir).await;
    let to = server.address;
    let silent = futures_util::future::join_all((0..300).map(|_| TcpStream::connect(to))).await;
    assert!(silent.iter().all(Result::is_ok));
    // The ones beyond the limit are dropped, and so is whoever else comes from there now.
    let dropped = async {
        let mut last = silent.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        let mut ended = 0;
        let mut byte = [0; 1];
        for stream in last.iter_mut().rev().take(44) {
            ended += u32::from(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
        }
        (ended, last)
    };
    let (ended, silent) = tokio::time::timeout(PATIENCE, dropped).await.unwrap();
    assert_eq!(ended, 44);
    // Somebody else, from another address, is served meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = socket.connect(to).await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    assert!(connector.connect(ServerName::try_from("localhost").unwrap(), other).await.is_ok());
    // And their own address again, once they have been silent for too long.
    let again = async {
        while connect(to, &["http/1.1"], &[&version::TLS13]).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the places come back");
    drop(silent);
}

/// `systemctl reload` of a server without TLS changes nothing, and ends nothing.
#[tokio::test]
async fn a_reload_without_tls_is_no_end() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    server.process.signal(Signal::HUP);
    for _ in 0..3 {
        assert_eq!(server.call("GET", "/healthz", None, None).await.0, 200);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A client that is not ours: signs in, is refused without the authority, and follows the feed.
#[tokio::test]
async fn curl() {
    let dir = Dir::new();
    let server = start(&dir).await;
    let url = format!("https://localhost:{}", server.address.port());
    let ca = fixture("ca.pem").display().to_string();
    let curl = |args: Vec<String>| {
        let ran = std::process::Command::new("curl").args(["-sS", "--max-time", "30"]).args(args).output();
        let ran = ran.expect("this test uses curl: install the package `curl`");
        (ran.status.success(), String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let args = |list: &[&str]| list.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let credentials = json!({ "identifier": ADMIN.0, "password": ADMIN.1 }).to_string();
    let sessions = format!("{url}/v1/sessions");
    let sign_in = ["--cacert", &ca, "-H", "content-type: application/json", "-d", &credentials, &sessions];
    let (done, body) = curl(args(&sign_in));
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
    assert!(done && body["access_token"].is_string(), "{body}");
    assert!(!curl(args(&[&sessions])).0, "nobody vouches for it");
    let (id, secret) = Server::verifier_client(&dir);
    let mut feed = std::process::Command::new("curl");
    feed.args(["-sS", "-N", "--cacert", &ca, "-u", &format!("{id}:{secret}"), &format!("{url}/v1/feed")]);
    let mut feed = Running::start(feed);
    let events = feed.out.clone();
    for name in ["event: hello", "event: snapshot"] {
        feed.line(&events, &[name]).await;
    }
}
