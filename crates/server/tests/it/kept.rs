//! What the heavy tests share: connections that stay open, a demo API, one turn at a time, and the clock they measure by.
use crate::support::{ADMIN, Dir, ISSUER, PATIENCE, Running, Server, portcullis};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
pub use portcullis_app::real::mono_us;
use portcullis_tower::{Config, Verifier};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::const_new(());

/// These tests load every core, or depend on a short bound and on much processor time as well: they take turns.
pub async fn turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}

/// These depend on a short bound, and do little but wait: beside each other, and beside nobody whose turn it is.
pub async fn quiet_turn() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}

/// What a call came to.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.text("code")
    }
    /// A member that is a text; empty when it is not there.
    pub fn text(&self, member: &str) -> &str {
        self.body[member].as_str().unwrap_or_default()
    }
    #[track_caller]
    pub fn must(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

/// One connection that is kept. Unlike [`crate::support::call`] it can fail, for servers here are killed.
#[derive(Debug)]
pub struct Kept {
    sender: SendRequest<Full<Bytes>>,
}

impl Kept {
    pub async fn open(to: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection); // ends with the connection
        Ok(Self { sender })
    }

    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        self.call_with(method, path, token, body, &[]).await
    }

    /// With these headers too.
    pub async fn call_with(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(Full::new(bytes)).unwrap();
        let exchange = async {
            self.sender.ready().await.map_err(|error| error.to_string())?;
            let answer = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let bytes = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| panic!("no answer to {method} {path}"))
    }
}

/// A call that must be answered, whatever it takes: connections that break and 503 are tried again.
pub async fn insist(to: SocketAddr, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
    let mut last = String::new();
    let tries = async {
        loop {
            let answer = match Kept::open(to).await {
                Ok(mut kept) => kept.call(method, path, token, body).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.status != 503 => return answer,
                Ok(answer) => last = answer.body.to_string(),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, tries).await.ok();
    done.unwrap_or_else(|| panic!("{method} {path} was not answered: {last}"))
}

/// Somebody who signed in.
#[derive(Debug, Clone)]
pub struct Session {
    pub sid: String,
    pub account: String,
    pub access: String,
    pub refresh: String,
}

impl From<&Answer> for Session {
    fn from(answer: &Answer) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned();
        let (session, tokens) = (&answer.body["session"], &answer.body);
        Self {
            sid: text(&session["id"]),
            account: text(&session["account_id"]),
            access: text(&tokens["access_token"]),
            refresh: text(&tokens["refresh_token"]),
        }
    }
}

const PASSWORD: &str = "a good long password";

/// Makes an account; its address.
pub async fn sign_up(to: SocketAddr, name: &str) -> String {
    let email = format!("{name}@example.org");
    let body = json!({ "email": email, "password": PASSWORD });
    insist(to, "POST", "/v1/accounts", None, Some(&body)).await.must(201);
    email
}

/// Signs in to an account that [`sign_up`] made.
pub async fn sign_in(to: SocketAddr, email: &str) -> Session {
    let password = if email == ADMIN.0 { ADMIN.1 } else { PASSWORD };
    let body = json!({ "identifier": email, "password": password });
    Session::from(&insist(to, "POST", "/v1/sessions", None, Some(&body)).await.must(201))
}

/// A refresh; whatever it came to.
pub async fn refresh(to: SocketAddr, token: &str) -> Answer {
    insist(to, "POST", "/v1/sessions/refresh", None, Some(&json!({ "refresh_token": token }))).await
}

/// Where a verifier follows the server at this address.
pub fn feed_url(server: SocketAddr) -> String {
    format!("http://{server}/v1/feed")
}

/// A verifier in this process.
pub fn verifier(server: SocketAddr, client: &(String, String), name: &str) -> Verifier {
    let config = Config::new(ISSUER, ISSUER, &client.0, &*client.1).feed_url(feed_url(server)).name(name);
    Verifier::start(config).unwrap()
}

/// A `portcullis demo-api`, ready.
pub struct Demo {
    pub process: Running,
    pub address: SocketAddr,
}

impl Demo {
    pub async fn start(dir: &Dir, server: SocketAddr, client: &(String, String), more: &[&str]) -> Self {
        let feed = feed_url(server);
        let args =
            ["demo-api", "--issuer", ISSUER, "--feed-url", &feed, "--client-id", &client.0, "--listen", "127.0.0.1:0"];
        let mut command = portcullis(&dir.0, &[&args, more].concat());
        command.env("PORTCULLIS_CLIENT_SECRET", &client.1);
        let mut process = Running::start(command);
        let log = process.log.clone();
        let line = process.line(&log, &["address="]).await;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        let demo = Self { process, address: address.parse().unwrap() };
        insist(demo.address, "GET", "/readyz", None, None).await.must(200);
        demo
    }

    pub async fn whoami(&self, token: &str) -> Answer {
        Kept::open(self.address).await.unwrap().call("GET", "/whoami", Some(token), None).await.unwrap()
    }
}

/// A server at this address, whose data are in `DIR/data`. The same again after it was killed.
pub async fn serve(dir: &Dir, at: SocketAddr, more: &[&str]) -> Server {
    let at = at.to_string();
    let args = ["serve", "--listen", &at, "--issuer", ISSUER, "--data-dir", "data", "--log-format", "json"];
    let mut command = portcullis(&dir.0, &[&args, more].concat());
    command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
    Server::run(command).await
}
