//! HTTP/1.1 to one server, with a limit on every wait and every body. Nothing is retried here and no redirect is followed: who
//! calls knows what a failure means.
use crate::config::ConfigError;
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use portcullis_wire::SecretString;
use rustls::pki_types::ServerName;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const IDLE_LIMIT: usize = 8;

/// Why a call brought nothing.
#[derive(Debug)]
pub(crate) enum Failed {
    /// No connection, or it broke, or it took too long.
    Transport(String),
    /// An answer of another status.
    Status(StatusCode, Bytes),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(why) => f.write_str(why),
            Self::Status(status, _) => write!(f, "answered {status}"),
        }
    }
}

fn transport(why: impl fmt::Display) -> Failed {
    Failed::Transport(why.to_string())
}

/// A server, and how to be let in.
pub(crate) struct Client {
    basic: HeaderValue,
    tls: TlsConnector,
    /// Connections that wait for the next call; at most [`IDLE_LIMIT`].
    idle: Mutex<Vec<(Uri, SendRequest<Full<Bytes>>)>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client(…)")
    }
}

impl Client {
    pub(crate) fn new(
        client_id: &str,
        secret: &SecretString,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, ConfigError> {
        let basic = basic(client_id, secret)?;
        let tls = match tls {
            Some(tls) => tls,
            None => Arc::new(default_tls()?),
        };
        Ok(Self { basic, tls: TlsConnector::from(tls), idle: Mutex::default() })
    }

    /// Opens a connection of its own and sends the request; the body comes as it comes, to whoever polls for it.
    pub(crate) async fn open(&self, request: Request<Full<Bytes>>, wait: Duration) -> Result<Response<Flow>, Failed> {
        let uri = request.uri().clone();
        let call = async {
            let (mut sender, mut connection) = self.connect(&uri).await?;
            let mut answer = pin!(sender.send_request(self.dress(request)?));
            let response = poll_fn(|cx| {
                // How it ended shows in the answer.
                let _ = connection.drive(cx);
                answer.as_mut().poll(cx)
            });
            let response = response.await.map_err(transport)?;
            Ok(response.map(|body| Flow { connection, body }))
        };
        timeout(wait, call).await.map_err(|_| transport("no answer in time"))?
    }

    /// Sends the request, over the idle connection if there is one, and takes an answer of status 200 of at most `limit` bytes.
    pub(crate) async fn call(
        &self,
        request: Request<Full<Bytes>>,
        wait: Duration,
        limit: usize,
    ) -> Result<Bytes, Failed> {
        timeout(wait, self.call_unhurried(request, limit)).await.map_err(|_| transport("no answer in time"))?
    }

    async fn call_unhurried(&self, request: Request<Full<Bytes>>, limit: usize) -> Result<Bytes, Failed> {
        let uri = request.uri().clone();
        let request = self.dress(request)?;
        let mut answered = None;
        if let Some(mut sender) = self.take_idle(&uri)
            && sender.ready().await.is_ok()
        {
            // It may be closed by the other side at this very moment; all calls here may be made twice.
            if let Ok(response) = sender.send_request(request.clone()).await {
                answered = Some((sender, response));
            }
        }
        let (sender, response) = match answered {
            Some(answered) => answered,
            None => {
                let (mut sender, mut connection) = self.connect(&uri).await?;
                tokio::spawn(poll_fn(move |cx| connection.drive(cx)));
                let response = sender.send_request(request).await.map_err(transport)?;
                (sender, response)
            }
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(transport)?.to_bytes();
        self.keep(origin(&uri), sender);
        if status == StatusCode::OK { Ok(body) } else { Err(Failed::Status(status, body)) }
    }

    fn take_idle(&self, uri: &Uri) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(to, _)| *to == origin(uri))?;
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, origin: Uri, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_LIMIT {
            idle.push((origin, sender));
        }
    }

    /// Adds what every request has, and makes the target relative (RFC 9112 §3.2.1). A request that has credentials keeps them.
    fn dress(&self, request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, Failed> {
        let (mut parts, body) = request.into_parts();
        let host = parts.uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
        let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        parts.uri = target.parse().map_err(transport)?;
        parts.headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(transport)?);
        parts.headers.entry(header::AUTHORIZATION).or_insert_with(|| self.basic.clone());
        parts.headers.insert(header::USER_AGENT, HeaderValue::from_static("portcullis-tower"));
        Ok(Request::from_parts(parts, body))
    }

    async fn connect(&self, uri: &Uri) -> Result<(SendRequest<Full<Bytes>>, Connection), Failed> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), port)));
        let tcp = tcp.await.map_err(|_| transport("no connection in time"))?.map_err(transport)?;
        tcp.set_nodelay(true).map_err(transport)?;
        if secure {
            let name = ServerName::try_from(host).map_err(transport)?;
            let tls = timeout(CONNECT_TIMEOUT, self.tls.connect(name, tcp));
            speak(tls.await.map_err(|_| transport("no TLS in time"))?.map_err(transport)?).await
        } else {
            speak(tcp).await
        }
    }
}

/// The credentials as a header. RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
pub(crate) fn basic(client_id: &str, secret: &SecretString) -> Result<HeaderValue, ConfigError> {
    let pair = format!("{}:{}", percent(client_id), percent(secret.expose()));
    let pair = SecretString::new(base64::engine::general_purpose::STANDARD.encode(pair));
    let mut basic = HeaderValue::from_str(&format!("Basic {}", pair.expose()))
        .map_err(|_| ConfigError("the client's id or secret cannot be sent".into()))?;
    basic.set_sensitive(true);
    Ok(basic)
}

async fn speak<T>(io: T) -> Result<(SendRequest<Full<Bytes>>, Connection), Failed>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(Io(io)).await.map_err(transport)?;
    Ok((sender, Connection(Some(Box::pin(connection)))))
}

/// What moves bytes; nothing comes and goes unless it is driven. `None` when it has ended.
struct Connection(Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>);

impl Connection {
    /// Moves what can be moved now. Ready when it has ended: its sender and the answer's body were dropped, or the server closed it.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.0 {
            if let Err(error) = ready!(connection.as_mut().poll(cx)) {
                tracing::debug!(%error, "a connection to the server ended");
            }
            self.0 = None;
        }
        Poll::Ready(())
    }
}

/// A body that comes as it comes. Who polls for it drives its connection, in one task.
pub(crate) struct Flow {
    connection: Connection,
    body: Incoming,
}

impl Flow {
    /// The next bytes; `None` after the last.
    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failed>>> {
        loop {
            // How it ended shows in the body.
            let _ = self.connection.drive(cx);
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else { return Poll::Ready(None) };
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Ok(Err(_trailers)) => {}
                Err(error) => return Poll::Ready(Some(Err(transport(error)))),
            }
        }
    }
}

fn origin(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    Uri::from_parts(parts).unwrap_or_default()
}

fn default_tls() -> Result<rustls::ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots: rustls::RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError(format!("TLS cannot be set up: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3).
pub(crate) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Tokio's streams as hyper wants them. Reads go through a small buffer, which spares us unsafe code.
struct Io<T>(T);

impl<T: AsyncRead + Unpin> hyper::rt::Read for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut space = [0u8; 8192];
        let len = to.remaining().min(space.len());
        let mut buf = ReadBuf::new(&mut space[..len]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        to.put_slice(buf.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(percent("a b/ü:%"), "a%20b%2F%C3%BC%3A%25");
        let uri: Uri = "https://id.example:8443/v1/feed?a=b".parse().unwrap();
        assert_eq!(origin(&uri), "https://id.example:8443/".parse::<Uri>().unwrap());
        assert!(default_tls().is_ok());
    }
}
