//! A small HTTP client: one connection per client, kept as long as the server keeps it.
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::Duration;

/// As long as an answer may take in a test.
const PATIENCE: Duration = Duration::from_secs(70);

/// A client of one server. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    pool: Pool<HttpConnector, Full<Bytes>>,
    from: Option<String>,
}

/// A request under construction.
#[derive(Debug)]
pub struct Call {
    client: Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Client {
    /// For `http://HOST:PORT`.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into(), pool: Pool::builder(TokioExecutor::new()).build_http(), from: None }
    }
    /// The same for somebody at this address, behind a proxy that says so.
    pub fn from(&self, ip: impl Into<String>) -> Self {
        Self { from: Some(ip.into()), ..self.clone() }
    }

    /// A request.
    pub fn call(&self, method: Method, path: impl Into<String>) -> Call {
        let call =
            Call { client: self.clone(), method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() };
        match &self.from {
            None => call,
            Some(ip) => call.header("x-forwarded-for", ip),
        }
    }
    /// GET.
    pub fn get(&self, path: impl Into<String>) -> Call {
        self.call(Method::GET, path)
    }
    /// POST.
    pub fn post(&self, path: impl Into<String>) -> Call {
        self.call(Method::POST, path)
    }
    /// PATCH.
    pub fn patch(&self, path: impl Into<String>) -> Call {
        self.call(Method::PATCH, path)
    }
    /// DELETE.
    pub fn delete(&self, path: impl Into<String>) -> Call {
        self.call(Method::DELETE, path)
    }
}

impl Call {
    /// With a header; one of the same name is kept besides.
    pub fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.append(name, HeaderValue::from_bytes(value.as_ref()).expect("a header value"));
        self
    }
    /// With an access token.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }
    /// With HTTP Basic.
    pub fn basic(self, (id, secret): (&str, &str)) -> Self {
        // base64url and base64 differ in two characters and the padding only.
        let text =
            portcullis_wire::b64::encode(format!("{id}:{secret}").as_bytes()).replace('-', "+").replace('_', "/");
        let padded = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
        self.header("authorization", format!("Basic {padded}"))
    }
    /// With a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.text("application/json", body.to_string())
    }
    /// With any body.
    pub fn text(mut self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }
    /// With a form.
    pub fn form(self, body: &str) -> Self {
        self.text("application/x-www-form-urlencoded", body.to_owned())
    }

    async fn begin(self) -> http::Response<Incoming> {
        let uri = format!("{}{}", self.client.base, self.path);
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}"));
        *request.headers_mut() = self.headers;
        let answer = tokio::time::timeout(PATIENCE, self.client.pool.request(request)).await;
        answer.unwrap_or_else(|_| panic!("no answer from {uri}")).unwrap_or_else(|error| panic!("{uri}: {error:?}"))
    }

    /// Sends it and takes the whole answer.
    pub async fn send(self) -> Answer {
        let (head, body) = self.begin().await.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time").expect("a body");
        Answer { status: head.status, headers: head.headers, body: body.to_bytes() }
    }

    /// Sends it and reads the answer as server-sent events.
    pub async fn events(self) -> Events {
        let (head, body) = self.begin().await.into_parts();
        Events { status: head.status, headers: head.headers, body, read: Vec::new() }
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The one value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"))
    }
    /// The `Set-Cookie` headers.
    pub fn set_cookies(&self) -> Vec<String> {
        let values = self.headers.get_all(header::SET_COOKIE).iter();
        values.map(|value| value.to_str().unwrap_or("?").to_owned()).collect()
    }
    /// The value that a `Set-Cookie` gives to this cookie; an empty one when it is cleared.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let cookies = self.set_cookies();
        let line = cookies.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.split(';').next().unwrap_or("").to_owned())
    }
    /// This status, or the test ends and shows the answer.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
    /// A problem with this code and the status that belongs to it, well formed.
    pub fn expect_problem(self, code: &str) -> Self {
        let known = portcullis_wire::Code::ALL.iter().find(|known| known.as_str() == code).expect("a known code");
        let shown = format!("{} {}", self.status, self.text());
        assert_eq!(self.status.as_u16(), known.status(), "{shown}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{shown}");
        let body = self.json();
        assert_eq!(body["code"], code, "{shown}");
        assert_eq!(body["type"], format!("urn:portcullis:problem:{code}"), "{shown}");
        assert_eq!(body["status"], known.status(), "{shown}");
        assert_eq!(body["request_id"], self.header("x-request-id"), "{shown}");
        assert!(body["title"].is_string() && body["detail"].as_str().is_some_and(|d| !d.is_empty()), "{shown}");
        assert_eq!(known.status() == 503, self.headers.contains_key("retry-after"), "{shown}");
        self
    }
}

/// Server-sent events as they come.
#[derive(Debug)]
pub struct Events {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
    read: Vec<u8>,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its data as JSON.
    pub data: Value,
}

impl Events {
    /// The next event; comments are passed over. `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.read.drain(..end + 2).collect();
                match parse(&String::from_utf8_lossy(&block)) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            let Ok(frame) = frame else { return None };
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }

    /// The next event of this name; others are passed over.
    pub async fn next_named(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.name == name {
                return event;
            }
        }
    }
}

fn parse(block: &str) -> Option<Event> {
    let (mut name, mut id, mut data) = (None, None, String::new());
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => name = Some(value.to_owned()),
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("data", value)) => data.push_str(value),
            _ => {}
        }
    }
    Some(Event { name: name?, id, data: serde_json::from_str(&data).expect("JSON data") })
}
