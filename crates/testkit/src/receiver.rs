//! Somebody who is called by the server, by HTTP or by HTTPS: writes down what comes, and answers as told.
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// As long as something may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the next calls are answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// With this status.
    Status(u16),
    /// With a redirect to this address.
    Redirect(String),
    /// With this status and this header.
    With(u16, &'static str),
    /// With 200, after a while.
    Late(Duration),
}

/// What came.
#[derive(Debug, Clone)]
pub struct Request {
    /// The first line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Request {
    /// The one value of a header; empty when it did not come.
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        values.next().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    replies: Mutex<VecDeque<Reply>>,
    at_once: AtomicUsize,
    most: AtomicUsize,
    slowness: Mutex<Duration>,
}

/// Which certificate is shown; the files are in `tls/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// One for `localhost` and 127.0.0.1, by [`AUTHORITY`].
    Right,
    /// By it, for another host.
    WrongName,
    /// By it, expired in 2001.
    Expired,
    /// By another authority.
    Unknown,
}

/// The authority of most certificates here, as PEM.
pub const AUTHORITY: &[u8] = include_bytes!("tls/ca.pem");

impl Shown {
    fn acceptor(self) -> TlsAcceptor {
        let pem: &[u8] = match self {
            Self::Right => include_bytes!("tls/right.pem"),
            Self::WrongName => include_bytes!("tls/wrong-name.pem"),
            Self::Expired => include_bytes!("tls/expired.pem"),
            Self::Unknown => include_bytes!("tls/unknown.pem"),
        };
        let leaf = CertificateDer::from_pem_slice(pem).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/leaf.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("TLS").with_no_client_auth().with_single_cert(vec![leaf], key);
        TlsAcceptor::from(Arc::new(config.expect("the certificate's key")))
    }
}

/// A server on loopback that takes forms.
#[derive(Debug)]
pub struct Receiver {
    /// `http://127.0.0.1:PORT`; `https` where that is spoken.
    pub base: String,
    tls: Option<Shown>,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts one.
    pub async fn start() -> Self {
        Self::listening("http", None).await
    }

    /// Starts one that speaks TLS.
    pub async fn start_tls(shown: Shown) -> Self {
        Self::listening("https", Some(shown)).await
    }

    async fn listening(scheme: &str, tls: Option<Shown>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared::default());
        let task = Some(tokio::spawn(accept(listener, tls, shared.clone())));
        Self { base, tls, shared, task }
    }

    /// Nobody listens any more.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Somebody listens again, at the same place.
    pub async fn resume(&mut self) {
        let place = self.base.split_once("://").map_or("", |(_, place)| place);
        let listener = TcpListener::bind(place).await.expect("the same port");
        self.task = Some(tokio::spawn(accept(listener, self.tls, self.shared.clone())));
    }

    /// How the next calls are answered; those after them with 200.
    pub fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.replies.lock().unwrap().extend(replies);
    }

    /// Each call takes so long.
    pub fn slow(&self, by: Duration) {
        *self.shared.slowness.lock().unwrap() = by;
    }

    /// What came so far, oldest first: the bodies.
    pub fn bodies(&self) -> Vec<String> {
        self.requests().into_iter().map(|one| one.body).collect()
    }

    /// What came so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many calls were under way at once at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Waits until so many calls have come.
    pub async fn wait_for(&self, count: usize) -> Vec<String> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let bodies = self.bodies();
            if bodies.len() >= count {
                return bodies;
            }
            assert!(tokio::time::Instant::now() < until, "{} of {count} calls came", bodies.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<Shown>, shared: Arc<Shared>) {
    let acceptor = tls.map(Shown::acceptor);
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            match acceptor {
                None => answer(tcp, shared).await,
                // Whoever refuses the certificate says nothing.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        answer(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn answer(mut tcp: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let Some(request) = read(&mut tcp).await else { return };
    let now = shared.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(now, Ordering::SeqCst);
    shared.requests.lock().unwrap().push(request);
    let slowness = *shared.slowness.lock().unwrap();
    tokio::time::sleep(slowness).await;
    let reply = shared.replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(200));
    let head = match reply {
        Reply::Status(status) => format!("HTTP/1.1 {status} X\r\n"),
        Reply::With(status, header) => format!("HTTP/1.1 {status} X\r\n{header}\r\n"),
        Reply::Redirect(to) => format!("HTTP/1.1 307 X\r\nLocation: {to}\r\n"),
        Reply::Late(wait) => {
            tokio::time::sleep(wait).await;
            "HTTP/1.1 200 OK\r\n".into()
        }
    };
    let _ = tcp.write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).await;
    let _ = tcp.shutdown().await;
    shared.at_once.fetch_sub(1, Ordering::SeqCst);
}

async fn read(tcp: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = tcp.read(&mut part).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(Request { head: head.to_owned(), body: body.to_owned() });
        }
    }
}
