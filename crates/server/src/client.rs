//! A small HTTP client for our own commands: one kept connection to a server by URL, or to the admin socket. Every call has a
//! time limit and a size limit. It follows no redirects: an administrator's token goes to the named server and nowhere else.
use crate::files::ShortPath;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portcullis_wire::SecretString;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// The largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long to wait for an answer; a call with `wait=enforced` may take a minute.
const ANSWER: Duration = Duration::from_secs(75);

/// Whom to talk to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A server by its URL: scheme and authority.
    Url(Uri),
    /// The admin socket.
    Socket(PathBuf),
}

/// Nobody answers, or not in HTTP.
#[derive(Debug)]
pub struct Unreachable(pub String);

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, read as JSON; `Null` when it is none.
    pub body: Value,
}

impl Answer {
    /// A member of the body as text, or nothing.
    pub fn text(&self, member: &str) -> &str {
        self.body.get(member).and_then(Value::as_str).unwrap_or_default()
    }
    /// The problem's code (RFC 9457).
    pub fn code(&self) -> &str {
        self.text("code")
    }
    /// Whether the call did what it was to do.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// One connection, made anew when it is gone.
pub struct Client {
    target: Target,
    token: Option<SecretString>,
    trust: Trust,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects at its first call.
    pub fn new(target: Target) -> Self {
        Self { target, token: None, trust: Trust::default(), sender: None }
    }

    /// As the holder of this token.
    pub fn with_token(self, token: Option<SecretString>) -> Self {
        Self { token, ..self }
    }

    /// Believing whom this says about who the server is.
    pub fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Who is talked to, for messages.
    pub fn whom(&self) -> String {
        match &self.target {
            Target::Url(uri) => uri.to_string().trim_end_matches('/').to_owned(),
            Target::Socket(path) => path.display().to_string(),
        }
    }

    /// A call with a JSON body or none.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Unreachable> {
        let token = self.token.clone();
        self.call_as(method, path, token.as_ref(), body).await
    }

    /// As [`Client::call`], as the holder of another token.
    pub async fn call_as(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&SecretString>,
        body: Option<&Value>,
    ) -> Result<Answer, Unreachable> {
        let whom = self.whom();
        let answer = async {
            let response = self.send(method, path, token, body).await?;
            let (parts, body) = response.into_parts();
            let bytes = Limited::new(body, MAX_ANSWER).collect().await;
            let bytes =
                bytes.map_err(|error| Unreachable(format!("{whom}: the answer broke off: {error}")))?.to_bytes();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Ok(Answer { status: parts.status.as_u16(), body })
        };
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.sender = None; // whatever still comes there belongs to this call
                Err(Unreachable(format!("{} did not answer in time", self.whom())))
            }
        }
    }

    /// Sends a request; the response's body is still to be read.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&SecretString>,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Unreachable> {
        self.send_with(method, path, token, body, &[]).await
    }

    /// As [`Client::send`], with these headers besides.
    pub async fn send_with(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&SecretString>,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, Unreachable> {
        let authority = match &self.target {
            Target::Url(uri) => uri.authority().map_or("", |authority| authority.as_str()).to_owned(),
            Target::Socket(_) => "localhost".into(),
        };
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority);
        request = request.header(ACCEPT, "application/json").header(USER_AGENT, AGENT);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| Unreachable("the token holds characters that no token has".into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(bytes)).map_err(|error| Unreachable(format!("{path}: {error}")))?;
        let whom = self.whom();
        let response = self.ready().await?.send_request(request).await;
        if response.is_err() {
            self.sender = None;
        }
        response.map_err(|error| Unreachable(format!("{whom} broke the connection: {error}")))
    }

    async fn ready(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Unreachable> {
        let open = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let whom = self.whom();
            let sender = tokio::time::timeout(CONNECT, connect(&self.target, &self.trust)).await;
            let sender = sender.map_err(|_| Unreachable(format!("{whom}: no connection in time")))?;
            self.sender = Some(sender.map_err(|why| Unreachable(format!("{whom}: {why}")))?);
        }
        self.sender.as_mut().ok_or_else(|| Unreachable("no connection".into()))
    }
}

/// How we introduce ourselves; it becomes the name of the device of sessions that a command starts.
const AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

async fn connect(target: &Target, trust: &Trust) -> Result<SendRequest<Full<Bytes>>, String> {
    let text = |error: std::io::Error| error.to_string();
    let uri = match target {
        Target::Socket(path) => {
            let short = ShortPath::of(path).map_err(text)?;
            return drive(UnixStream::connect(&short.path).await.map_err(text)?).await;
        }
        Target::Url(uri) => uri,
    };
    let https = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(text)?;
    let _ = stream.set_nodelay(true); // a request is written whole
    if !https {
        return drive(stream).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    drive(tls(trust)?.connect(name, stream).await.map_err(text)?).await
}

async fn drive<T>(stream: T) -> Result<SendRequest<Full<Bytes>>, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        let _ = connection.await; // the caller hears of it by its own request
    });
    Ok(sender)
}

/// Whose word counts about who a server is: the roots that browsers trust, or these instead.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    roots: Option<Arc<RootCertStore>>,
}

impl Trust {
    /// Only the authorities in this PEM file, when one is named.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub fn of(file: Option<&Path>) -> Result<Self, String> {
        let Some(file) = file else { return Ok(Self::default()) };
        let wrong = |why: &dyn std::fmt::Display| format!("--ca-file {}: {why}", file.display());
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"there is no certificate in it; PEM is expected"));
        }
        Ok(Self { roots: Some(Arc::new(roots)) })
    }

    /// What a TLS client of ours is set to.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let browsers = || Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
        let roots = self.roots.clone().unwrap_or_else(browsers);
        let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn tls(trust: &Trust) -> Result<TlsConnector, String> {
    Ok(TlsConnector::from(trust.client_config()?))
}
