//! A feed server on loopback: the real `Publisher`, real signatures, and switches to break it.
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use portcullis_feed::publisher::{Limits, Resume};
use portcullis_feed::{Mono, Publisher};
use portcullis_tower::wire::claims::Audience;
use portcullis_tower::wire::frame::{AckAnswer, AckRequest, Entries};
use portcullis_tower::wire::jws::{Algorithm, Jwk, assemble, signing_input};
use portcullis_tower::wire::{
    AccessClaims, AccountId, ClientId, Entry, Epoch, InstanceId, KeyId, LogId, Rev, SessionId, Target, Time, TokenId,
    Verb,
};
use portcullis_tower::{Config, Verifier};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;

pub const B: u64 = 600;

pub struct Signer(EcdsaKeyPair, KeyId);

impl Signer {
    pub fn new(n: u32) -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), KeyId(n))
    }
    pub fn jwk(&self) -> Jwk {
        Jwk::es256(self.1, self.0.public_key().as_ref()).unwrap()
    }
    pub fn sign(&self, claims: &AccessClaims) -> String {
        let input = signing_input(Algorithm::Es256, self.1, "at+jwt", claims).unwrap();
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        assemble(input, signature.as_ref())
    }
}

#[derive(Default)]
pub struct Switches {
    /// Nothing is answered but 503, and streams end.
    pub down: bool,
    /// Streams carry nothing after `hello`.
    pub silent: bool,
    /// What streams send instead of events.
    pub garbage: Option<Vec<u8>>,
    /// Instances are forgotten.
    pub gone: bool,
    /// What introspection says; `None`: 503.
    pub active: Option<bool>,
}

#[derive(Default)]
pub struct Seen {
    pub queries: Vec<HashMap<String, String>>,
    pub last_event_ids: Vec<Option<String>>,
    pub asks: u64,
    pub pages: u64,
    pub introspections: u64,
    pub applied: Rev,
}

pub struct Inner {
    pub p: Publisher,
    pub switches: Switches,
    pub seen: Seen,
    streams: Vec<mpsc::UnboundedSender<String>>,
    bound_ms: u64,
}

#[derive(Clone)]
pub struct Server {
    inner: Arc<Mutex<Inner>>,
    pub signer: Arc<Signer>,
    pub issuer: String,
}

impl Server {
    pub async fn start() -> Self {
        Self::with_bound(B).await
    }

    /// One whose leases outlast the stalls of a busy machine: for tests in which no lease is to be lost.
    pub async fn patient() -> Self {
        Self::with_bound(30_000).await
    }

    async fn with_bound(bound_ms: u64) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let signer = Arc::new(Signer::new(1));
        let mut p = Publisher::empty(LogId::from_bits(7), Limits { recent: 50, set: 100_000 });
        p.set_keys(vec![signer.jwk()]);
        p.set_floor(Time(unix_ms() - 10_000));
        let (switches, seen, streams) = (Switches::default(), Seen::default(), Vec::new());
        let inner = Arc::new(Mutex::new(Inner { p, switches, seen, streams, bound_ms }));
        let server = Self { inner, signer, issuer };
        let app = Router::new()
            .route("/v1/feed", get(feed))
            .route("/v1/feed/acks", post(acks))
            .route("/v1/feed/snapshot", get(page))
            .route("/oauth2/introspect", post(introspect))
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        server
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn config(&self) -> Config {
        Config::new(&self.issuer, "api", "cli_x", "s3cret/+").name("test service")
    }

    /// A verifier that is fresh.
    pub async fn verifier(&self) -> Verifier {
        let verifier = Verifier::start(self.config()).unwrap();
        assert!(verifier.wait_fresh(Duration::from_secs(5)).await);
        verifier
    }

    /// Commits an entry, and sends it with a wish for acknowledgement.
    pub fn commit(&self, verb: Verb, target: Target) -> Rev {
        let inner = &mut *self.lock();
        let rev = Rev(inner.p.head().0 + 1);
        let entry = Entry { rev, verb, target, except: None, spread_ms: None, until: Time(unix_ms() + 600_000) };
        let chain = inner.p.chain().after(&entry);
        inner.p.append(std::slice::from_ref(&entry), chain, Mono(0)).unwrap();
        if !inner.switches.silent {
            let frame = event("entries", &Entries { entries: vec![entry], ack: true }, Some(rev));
            inner.streams.retain(|s| s.send(frame.clone()).is_ok());
        }
        rev
    }

    pub fn end(&self, target: Target) -> Rev {
        self.commit(Verb::End, target)
    }

    pub fn set_down(&self, down: bool) {
        let inner = &mut *self.lock();
        inner.switches.down = down;
        if down {
            inner.streams.clear();
        }
    }

    pub fn cut_streams(&self) {
        self.lock().streams.clear();
    }

    pub fn streams(&self) -> usize {
        let inner = &mut *self.lock();
        inner.streams.retain(|s| !s.is_closed());
        inner.streams.len()
    }

    pub fn claims(&self, n: u128) -> AccessClaims {
        let now = unix_ms() / 1000;
        AccessClaims {
            cnf: None,
            via: vec![],
            from: vec![],
            iss: self.issuer.clone(),
            sub: AccountId::from_bits(n),
            aud: Audience(vec!["api".into()]),
            client_id: ClientId::FIRST_PARTY,
            exp: now + 300,
            iat: now,
            jti: TokenId::from_bits(n),
            scope: "account".into(),
            auth_time: now,
            acr: "1".into(),
            amr: vec!["pwd".into()],
            sid: SessionId::from_bits(n),
            rev: self.lock().p.head(),
            epoch: Epoch(0),
            gid: None,
            roles: Vec::new(),
            act: None,
        }
    }

    pub fn token(&self, n: u128) -> String {
        self.signer.sign(&self.claims(n))
    }
}

#[allow(clippy::disallowed_methods, reason = "the test's server has its own clock")]
pub fn unix_ms() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Waits until it holds, two seconds at most.
pub async fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not in time: {what}");
}

fn event(name: &str, data: &impl serde::Serialize, rev: Option<Rev>) -> String {
    let id = rev.map(|rev| format!("id: 0.{rev}.mac\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {}\n\n", serde_json::to_string(data).unwrap())
}

fn problem(status: u16, code: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(serde_json::json!({ "code": code }))).into_response()
}

/// `cli_x` with `s3cret/+`, form-encoded halves.
fn authorized(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|h| h == "Basic Y2xpX3g6czNjcmV0JTJGJTJC")
}

async fn feed(State(s): State<Server>, Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Response {
    let inner = &mut *s.lock();
    if !authorized(&headers) {
        return problem(401, "invalid_credentials");
    }
    if inner.switches.down {
        return problem(503, "unavailable");
    }
    let last = headers.get("last-event-id").map(|h| h.to_str().unwrap().to_owned());
    let known = query.get("instance").filter(|_| headers["portcullis-instance-secret"] == "instance's").is_some();
    inner.seen.last_event_ids.push(last.clone());
    inner.seen.queries.push(query);
    let (tx, rx) = mpsc::unbounded_channel();
    if let Some(garbage) = inner.switches.garbage.clone() {
        return ([("content-type", "text/event-stream")], Body::from(garbage)).into_response();
    }
    let instance = InstanceId::from_bits(if known { 1 } else { inner.seen.queries.len() as u128 });
    inner.switches.gone = false;
    let hello = serde_json::json!({
        "v": 1, "log": inner.p.log(), "instance": instance, "instance_secret": "instance's", "epoch": inner.p.epoch(),
        "head": inner.p.head(), "chain": inner.p.chain(), "bound_ms": inner.bound_ms, "max_life_s": 3600, "later": true,
    });
    tx.send(": welcome\n\n".to_owned() + &event("hello", &hello, None)).unwrap();
    let from = last.and_then(|id| id.split('.').nth(1)?.parse().ok()).map(Rev);
    let head = inner.p.head();
    match from.map_or(Resume::Snapshot, |rev| inner.p.resume(inner.p.epoch(), rev, 1000)) {
        _ if inner.switches.silent => {}
        Resume::Entries(entries) => {
            tx.send(event("entries", &Entries { entries, ack: false }, Some(head))).unwrap();
            tx.send(event("keys", &inner.p.keys_frame(), None)).unwrap();
        }
        Resume::Snapshot | Resume::Ahead => {
            for part in inner.p.snapshot(3) {
                tx.send(event("snapshot", &part, Some(head))).unwrap();
            }
        }
    }
    inner.streams.push(tx);
    let body = futures_util::stream::unfold(rx, |mut rx: mpsc::UnboundedReceiver<String>| async move {
        rx.recv().await.map(|text| (Ok::<_, std::convert::Infallible>(Bytes::from(text)), rx))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

async fn acks(State(s): State<Server>, headers: HeaderMap, Json(ask): Json<AckRequest>) -> Response {
    let inner = &mut *s.lock();
    inner.seen.asks += 1;
    if !authorized(&headers) || ask.instance_secret.expose() != "instance's" {
        return problem(401, "invalid_credentials");
    }
    if inner.switches.down {
        return problem(503, "unavailable");
    }
    if inner.switches.gone {
        return problem(409, "instance_gone");
    }
    inner.seen.applied = ask.applied;
    let answer = AckAnswer {
        nonce: ask.nonce,
        epoch: inner.p.epoch(),
        head: inner.p.head(),
        chain: inner.p.chain(),
        horizon_floor: inner.p.floor(),
        age_ms: 0,
        time: Some(Time(unix_ms())),
        position: Some(format!("0.{}.mac", inner.p.head())),
        entries: inner.p.tail(ask.epoch, ask.applied, 1000),
        keys: inner.p.keys_unless(ask.keys.as_deref()),
    };
    Json(answer).into_response()
}

async fn page(State(s): State<Server>, Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Response {
    let inner = &mut *s.lock();
    inner.seen.pages += 1;
    let instance = headers.get("portcullis-instance").is_some_and(|h| h.to_str().unwrap().starts_with("ins_"));
    if !authorized(&headers) || !instance || headers["portcullis-instance-secret"] != "instance's" {
        return problem(401, "invalid_credentials");
    }
    let part: usize = query["part"].parse().unwrap();
    if query.get("rev").is_some_and(|rev| *rev != inner.p.head().to_string()) {
        return problem(409, "conflict");
    }
    inner.p.snapshot(20).into_iter().nth(part).map_or_else(|| problem(409, "conflict"), |p| Json(p).into_response())
}

async fn introspect(State(s): State<Server>, headers: HeaderMap, body: String) -> Response {
    let inner = &mut *s.lock();
    inner.seen.introspections += 1;
    let form = headers.get("content-type").is_some_and(|h| h == "application/x-www-form-urlencoded");
    if !authorized(&headers) || !form || !body.starts_with("token=ey") {
        return problem(401, "invalid_credentials");
    }
    match inner.switches.active {
        Some(active) => Json(serde_json::json!({ "active": active, "scope": "x" })).into_response(),
        None => problem(503, "unavailable"),
    }
}
