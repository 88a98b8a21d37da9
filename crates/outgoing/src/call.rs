//! One call: look up, look at, connect, speak, read.
use crate::address::Allowed;
use crate::authorities::Authorities;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The longest address that is called, in bytes.
const MAX_URL: usize = 2048;
/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 4;
/// How much of the answer to a form is read: nobody needs more than its status and a few words.
const MAX_ANSWER: usize = 64 << 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static("portcullis");

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A connection to one address, TLS included.
    pub connect: Duration,
    /// The whole call.
    pub whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), whole: Duration::from_secs(10) }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status, whatever it is: a redirect is an answer like any other.
    pub status: u16,
    /// The media type, as it came.
    pub content_type: Option<String>,
    /// For how many seconds it asks to be left alone (RFC 9110 §10.2.3); a date is not read.
    pub retry_after: Option<u64>,
    /// The body, whole.
    pub body: Bytes,
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutgoingError {
    /// The address is none that is called: not `https`, no host, a user name, too long.
    BadUrl(&'static str),
    /// The host has an address that must not be called.
    Refused(IpAddr),
    /// `http` to a public address: what is sent would be readable on the way.
    Plain,
    /// The name cannot be looked up, or has no address.
    NoAddress(String),
    /// No connection, or it broke.
    Transport(String),
    /// Its certificate does not show that it is who it should be.
    Certificate(&'static str),
    /// It took too long.
    Timeout,
    /// The answer is longer than it may be.
    TooLong,
}

impl fmt::Display for OutgoingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadUrl(why) => write!(f, "the address cannot be called: {why}"),
            Self::Refused(address) => {
                write!(f, "{address} is no public address, and outgoing_private does not name it")
            }
            Self::Plain => f.write_str("public addresses are called by https only"),
            Self::NoAddress(why) => write!(f, "the host's name leads nowhere: {why}"),
            Self::Transport(why) => write!(f, "no connection: {why}"),
            Self::Certificate(why) => write!(f, "its certificate was refused: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::TooLong => f.write_str("the answer is too long"),
        }
    }
}
impl std::error::Error for OutgoingError {}

/// What a lookup returns.
pub type Found<'a> = Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Who knows the addresses of names.
pub trait Lookup: Send + Sync + fmt::Debug {
    /// The addresses of `host`, with this port.
    fn lookup<'a>(&'a self, host: &'a str, port: u16) -> Found<'a>;
}

/// The system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup<'a>(&'a self, host: &'a str, port: u16) -> Found<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// How calls are made.
#[derive(Debug, Clone)]
pub struct Calls {
    /// Which addresses may be called that are not public.
    pub allowed: Allowed,
    /// Who knows the addresses of names.
    pub lookup: Arc<dyn Lookup>,
    /// How long they may take.
    pub limits: Limits,
}

impl From<Allowed> for Calls {
    /// By the system's names, within the usual limits.
    fn from(allowed: Allowed) -> Self {
        Self { allowed, lookup: Arc::new(SystemLookup), limits: Limits::default() }
    }
}

/// Makes calls. Cheap to clone.
#[derive(Clone)]
pub struct Outgoing {
    allowed: Arc<Allowed>,
    lookup: Arc<dyn Lookup>,
    tls: TlsConnector,
    limits: Limits,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("allowed", &self.allowed).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Outgoing {
    /// To public addresses, and to those that are allowed besides; certificates by the authorities that browsers trust,
    /// and by `authorities`.
    ///
    /// # Errors
    /// When TLS cannot be set up, in words.
    pub fn new(calls: impl Into<Calls>, authorities: &Authorities) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = authorities.with_public()?;
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
        let Calls { allowed, lookup, limits } = calls.into();
        Ok(Self { allowed: Arc::new(allowed), lookup, tls: TlsConnector::from(Arc::new(tls)), limits })
    }

    /// Sends a form (`application/x-www-form-urlencoded`).
    ///
    /// # Errors
    /// When no answer came. Any status is an answer.
    pub async fn post_form(&self, url: &str, body: String) -> Result<Response, OutgoingError> {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = Request::builder().method(Method::POST).header(CONTENT_TYPE, form);
        self.call(url, request, Bytes::from(body), MAX_ANSWER).await
    }

    /// Sends JSON, with these headers besides; their names are in small letters.
    ///
    /// # Errors
    /// When no answer came. Any status is an answer.
    pub async fn post_json(
        &self,
        url: &str,
        body: String,
        headers: &[(&'static str, &str)],
    ) -> Result<Response, OutgoingError> {
        let mut request = Request::builder().method(Method::POST).header(CONTENT_TYPE, JSON);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.call(url, request, Bytes::from(body), MAX_ANSWER).await
    }

    /// Gets a document of at most `max` bytes.
    ///
    /// # Errors
    /// When no answer came. Any status is an answer, and whether it is JSON is the caller's to see.
    pub async fn get_json(&self, url: &str, max: usize) -> Result<Response, OutgoingError> {
        self.call(url, Request::builder().method(Method::GET).header(ACCEPT, JSON), Bytes::new(), max).await
    }

    /// As [`post_form`](Self::post_form), as whoever `authorization` proves to be; the answer is to be JSON.
    ///
    /// # Errors
    /// When no answer came. Any status is an answer.
    pub async fn post_form_as(
        &self,
        url: &str,
        body: String,
        authorization: Option<&str>,
    ) -> Result<Response, OutgoingError> {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut request = Request::builder().method(Method::POST).header(CONTENT_TYPE, form).header(ACCEPT, JSON);
        if let Some(text) = authorization {
            request = request.header(AUTHORIZATION, secret(text)?);
        }
        self.call(url, request, Bytes::from(body), MAX_ANSWER).await
    }

    /// As [`get_json`](Self::get_json), as whoever `authorization` proves to be.
    ///
    /// # Errors
    /// When no answer came. Any status is an answer.
    pub async fn get_json_as(&self, url: &str, authorization: &str, max: usize) -> Result<Response, OutgoingError> {
        let request = Request::builder().method(Method::GET).header(ACCEPT, JSON);
        self.call(url, request.header(AUTHORIZATION, secret(authorization)?), Bytes::new(), max).await
    }

    async fn call(
        &self,
        url: &str,
        request: http::request::Builder,
        body: Bytes,
        max: usize,
    ) -> Result<Response, OutgoingError> {
        let place = Place::read(url)?;
        let call = async {
            let addresses = self.addresses(&place).await?;
            let request = request
                .uri(&place.target)
                .header(HOST, place.authority.as_str())
                .header(USER_AGENT, AGENT)
                .body(Full::new(body))
                .map_err(|_| OutgoingError::BadUrl("it is no address"))?;
            let tcp = self.connect(&addresses).await?;
            if !place.secure {
                return speak(tcp, request, max).await;
            }
            let name = ServerName::try_from(place.host.clone());
            let name = name.map_err(|_| OutgoingError::BadUrl("no certificate can be for this host"))?;
            let tls = timeout(self.limits.connect, self.tls.connect(name, tcp)).await;
            speak(tls.map_err(|_| OutgoingError::Timeout)?.map_err(handshake_failed)?, request, max).await
        };
        timeout(self.limits.whole, call).await.map_err(|_| OutgoingError::Timeout)?
    }

    /// The addresses of a place, when all of them may be called: a name that is public and private at once is a trap.
    async fn addresses(&self, place: &Place) -> Result<Vec<SocketAddr>, OutgoingError> {
        let found = match place.host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, place.port)],
            Err(_) => {
                let found = self.lookup.lookup(&place.host, place.port).await;
                found.map_err(|error| OutgoingError::NoAddress(error.to_string()))?
            }
        };
        if found.is_empty() {
            return Err(OutgoingError::NoAddress("it has no address".into()));
        }
        for address in found.iter().map(SocketAddr::ip) {
            if !self.allowed.admits(address) {
                return Err(OutgoingError::Refused(address));
            }
            if !place.secure && !self.allowed.has(address) {
                return Err(OutgoingError::Plain);
            }
        }
        Ok(found)
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, OutgoingError> {
        let mut failed = OutgoingError::Timeout;
        for address in addresses.iter().take(MAX_ADDRESSES) {
            failed = match timeout(self.limits.connect, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => transport(error),
                Err(_) => OutgoingError::Timeout,
            };
        }
        Err(failed)
    }
}

/// Where a call goes.
#[derive(Debug)]
struct Place {
    secure: bool,
    host: String,
    port: u16,
    authority: String,
    target: Uri,
}

impl Place {
    fn read(url: &str) -> Result<Self, OutgoingError> {
        let bad = OutgoingError::BadUrl;
        if url.len() > MAX_URL {
            return Err(bad("it is too long"));
        }
        if url.contains('#') {
            return Err(bad("it has a fragment"));
        }
        let uri: Uri = url.parse().map_err(|_| bad("it is no address"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("it begins with neither https:// nor http://")),
        };
        let authority = uri.authority().ok_or(bad("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it names a user"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad("it has no host"));
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target = target.parse().map_err(|_| bad("it is no address"))?;
        Ok(Self { secure, host, port, authority: authority.as_str().to_owned(), target })
    }
}

/// A header that no log shows.
fn secret(text: &str) -> Result<HeaderValue, OutgoingError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| OutgoingError::Transport("a credential that no header holds".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn transport(error: impl fmt::Display) -> OutgoingError {
    OutgoingError::Transport(error.to_string())
}

/// Why TLS did not come about: what operators can do something about has words of its own.
fn handshake_failed(error: std::io::Error) -> OutgoingError {
    use rustls::CertificateError as Wrong;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(wrong)) = inner else { return transport(error) };
    OutgoingError::Certificate(match wrong {
        Wrong::UnknownIssuer => "nobody that is trusted issued it (outgoing_ca names private authorities)",
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => "it is for another host",
        Wrong::Expired | Wrong::ExpiredContext { .. } => "it has expired",
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => "it is not valid yet",
        Wrong::Revoked => "it was revoked",
        _ => "it does not hold",
    })
}

async fn speak<T>(io: T, request: Request<Full<Bytes>>, max: usize) -> Result<Response, OutgoingError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(io)).await.map_err(transport)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(transport)?;
        let status = response.status().as_u16();
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.trim().parse().ok());
        let body = Limited::new(response.into_body(), max).collect().await.map_err(|error| {
            let too_long = error.is::<http_body_util::LengthLimitError>();
            if too_long { OutgoingError::TooLong } else { transport(error) }
        })?;
        Ok(Response { status, content_type, retry_after, body: body.to_bytes() })
    };
    let connection = std::pin::pin!(connection);
    let answered = std::pin::pin!(answered);
    // Both on this task: with the caller, the connection ends too.
    match whichever(answered, connection).await {
        Some(answer) => answer,
        None => Err(OutgoingError::Transport("the connection ended".into())),
    }
}

/// The answer; the connection is worked on meanwhile. `None` when it ends first and leaves none.
async fn whichever<T, E>(
    mut answered: Pin<&mut impl Future<Output = T>>,
    mut connection: Pin<&mut impl Future<Output = Result<(), E>>>,
) -> Option<T> {
    let mut open = true;
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(answer) = answered.as_mut().poll(cx) {
            return std::task::Poll::Ready(Some(answer));
        }
        if open && connection.as_mut().poll(cx).is_ready() {
            open = false;
            // What it has left for the answer is read now, or never.
            return match answered.as_mut().poll(cx) {
                std::task::Poll::Ready(answer) => std::task::Poll::Ready(Some(answer)),
                std::task::Poll::Pending => std::task::Poll::Ready(None),
            };
        }
        // What the connection has brought.
        answered.as_mut().poll(cx).map(Some)
    })
    .await
}

#[cfg(test)]
mod tests;
