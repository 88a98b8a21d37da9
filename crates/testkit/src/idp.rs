//! Another provider, of which a test says what it answers: an honest one by default, or one that lies.
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis_wire::b64;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An answer: status and body.
pub type Said = (u16, String);

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Said>,
    late: Option<Duration>,
    calls: Vec<(String, String, String)>,
}

/// A provider on loopback.
pub struct Idp {
    /// Its address, and its issuer.
    pub issuer: String,
    key: Arc<EcdsaKeyPair>,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Idp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idp").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Idp {
    /// Starts one, with metadata and keys.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let issuer = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Mutex::new(State::default()));
        let key = Arc::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"));
        let task = tokio::spawn(accept(listener, state.clone()));
        let idp = Self { issuer, key, state, task };
        idp.says("/.well-known/openid-configuration", 200, &idp.metadata());
        idp.says("/jwks", 200, &json!({ "keys": [idp.jwk("k1")] }));
        idp
    }

    /// What it says about itself unless told otherwise.
    pub fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        json!({
            "issuer": self.issuer, "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
            "jwks_uri": at("/jwks"), "userinfo_endpoint": at("/userinfo"),
            "authorization_response_iss_parameter_supported": true,
        })
    }

    /// Its public key under this name.
    pub fn jwk(&self, kid: &str) -> Value {
        let point = self.key.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
            "x": b64::encode(&point[1..33]), "y": b64::encode(&point[33..]),
        })
    }

    /// From now on this path is answered so.
    pub fn says(&self, path: &str, status: u16, body: &Value) {
        self.says_text(path, status, &body.to_string());
    }

    /// The same with any text.
    pub fn says_text(&self, path: &str, status: u16, body: &str) {
        self.locked().answers.insert(path.to_owned(), (status, body.to_owned()));
    }

    /// From now on everything is answered so late.
    pub fn is_late(&self, by: Duration) {
        self.locked().late = Some(by);
    }

    /// What was asked: path, `Authorization`, body.
    pub fn calls(&self) -> Vec<(String, String, String)> {
        self.locked().calls.clone()
    }

    /// A token with its signature.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| b64::encode(value.to_string().as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        format!("{input}.{}", b64::encode(signature.as_ref()))
    }

    /// The token endpoint gives this ID token.
    pub fn gives(&self, id_token: &str) {
        let answer = json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 60, "id_token": id_token });
        self.says("/token", 200, &answer);
    }

    /// The token endpoint gives this ID token for this code.
    pub fn gives_for(&self, code: &str, id_token: &str) {
        let answer = json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 60, "id_token": id_token });
        self.says(&format!("/token {code}"), 200, &answer);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((tcp, _)) = listener.accept().await {
        tokio::spawn(answer(tcp, state.clone()));
    }
}

async fn answer(mut tcp: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let (mut bytes, mut piece) = (vec![], [0; 4096]);
    let (head, rest) = loop {
        let read = tcp.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        if rest.len() >= length {
            break (head.to_owned(), rest.to_owned());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
    let (said, late) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let authorization = header(&head, "authorization").unwrap_or_default();
        let code = rest.split('&').find_map(|pair| pair.strip_prefix("code=")).unwrap_or_default();
        let said = state.answers.get(&format!("{path} {code}")).or_else(|| state.answers.get(&path)).cloned();
        state.calls.push((path.clone(), authorization, rest));
        (said.unwrap_or((404, "{}".into())), state.late)
    };
    if let Some(late) = late {
        tokio::time::sleep(late).await;
    }
    let (status, body) = said;
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    tcp.write_all(text.as_bytes()).await
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}
