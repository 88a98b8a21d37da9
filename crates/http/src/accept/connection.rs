//! One connection from its first byte to its last.
use super::guarded::Guarded;
use super::unending::{self, Unending};
use super::unread;
use super::{Limits, Socket};
use crate::request::Peer;
use crate::traffic::Traffic;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tower::Service as _;

/// How HTTP is spoken, within the limits.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(limits.header_time);
        http1.max_headers(limits.headers).max_buf_size(limits.head_bytes.max(8192));
        // Else the socket is read, into a new buffer, while a request is being answered, to see whether the other side has hung
        // up: a twentieth of a refresh. Who has is noticed when the answer is written (an unending one that hyper writes: with its
        // next comment, within 20 s); `unending` looks by itself.
        http1.half_close(true);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(limits.streams)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        Self { http1, http2 }
    }
}

/// What requests leave behind for the connection that they came by.
#[derive(Default)]
pub(super) struct Left {
    /// A request has come.
    pub(super) served: AtomicBool,
    /// The answer that [`unending`] writes.
    unending: Mutex<Option<Response>>,
}

/// Ends hyper's part of a connection, which then goes on without it.
#[derive(Debug)]
struct HandedOver;

impl fmt::Display for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is written elsewhere")
    }
}

impl std::error::Error for HandedOver {}

pub(super) struct Connection {
    pub(super) router: Router,
    pub(super) protocols: Arc<Protocols>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) limits: Limits,
    pub(super) ending: watch::Receiver<bool>,
}

impl Connection {
    /// To its end. What is large lies behind a pointer: a task keeps for its whole life the room that its largest state needs.
    pub(super) async fn serve(self, socket: Socket, place: OwnedSemaphorePermit) {
        self.traffic.open.fetch_add(1, Ordering::Relaxed);
        let traffic = self.traffic.clone();
        match socket {
            Socket::Tcp(stream, peer) => self.run(stream, Some(peer)).await,
            Socket::Tls(stream, peer, tls) => {
                let secured = Box::pin(async {
                    let stream = tls.accept(stream, peer, &self.limits, &self.traffic).await?;
                    // Behind a pointer as well, for it is moved from one state to the next.
                    Some(Box::new(stream))
                });
                if let Some(stream) = secured.await {
                    self.run(stream, Some(peer)).await;
                }
            }
            Socket::Unix(stream) => self.run(stream, None).await,
        }
        traffic.open.fetch_sub(1, Ordering::Relaxed);
        drop(place);
    }

    async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Option<IpAddr>) {
        let left = Arc::new(Left::default());
        let mut io = Guarded::new(stream, &self.limits, left.clone(), self.traffic.clone());
        // Who has said nothing yet holds up no end.
        let protocol = tokio::select! {
            protocol = io.speaks_http2() => protocol,
            () = told(self.ending.clone()) => return,
        };
        let ended = match protocol {
            Ok(true) => Box::pin(self.http2(io, peer, left)).await.map_err(fault),
            Ok(false) => match Box::pin(self.http1(io, peer, left)).await {
                Ok(Some((io, response))) => unending::write(io, response).await.map_err(fault),
                Ok(None) => Ok(()),
                Err(error) => Err(fault(error)),
            },
            Err(error) => Err(fault(error)),
        };
        if let Err(error) = ended {
            // The other side's doing, nearly always: broken off, too slow, no HTTP.
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn http2<S>(self, io: Guarded<S>, peer: Option<IpAddr>, left: Arc<Left>) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, protocols, ending, .. } = self;
        let service = service_fn(move |mut request: Request<Incoming>| {
            left.served.store(true, Ordering::Release);
            request.extensions_mut().insert(Peer(peer));
            router.clone().call(request)
        });
        let mut connection = std::pin::pin!(protocols.http2.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = told(ending) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }

    /// Until the connection is over, or until an answer comes that does not end: then that and the socket.
    async fn http1<S>(
        self,
        io: Guarded<S>,
        peer: Option<IpAddr>,
        left: Arc<Left>,
    ) -> hyper::Result<Option<(Guarded<S>, Response)>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, protocols, ending, limits, .. } = self;
        let kept = left.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            // Only the first one: of those before it something may still have to be written.
            let is_first = !left.served.swap(true, Ordering::AcqRel);
            let is_plain = request.method() == Method::GET && request.version() == Version::HTTP_11;
            let may_leave = (is_first && is_plain && request.body().is_end_stream()).then(|| left.clone());
            request.extensions_mut().insert(Peer(peer));
            let fits = head_bytes(&request) <= limits.head_bytes;
            let answer = fits.then(|| {
                let (request, rest) = unread::watched(request);
                (router.clone().call(request), rest)
            });
            async move {
                let Some((answer, rest)) = answer else {
                    let mut refused = Response::new(Body::empty());
                    *refused.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                    refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    return Ok(refused);
                };
                let mut response: Response<Body> = answer.await.unwrap_or_else(|never| match never {});
                if let Some(rest) = rest {
                    rest.settle(&mut response, limits.header_time);
                }
                match may_leave {
                    Some(left) if response.extensions().get::<Unending>().is_some() => {
                        *left.unending.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
                        Err(HandedOver)
                    }
                    _ => Ok(response),
                }
            }
        });
        let mut connection = protocols.http1.serve_connection(TokioIo::new(io), service);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = told(ending) => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        let response = kept.unending.lock().unwrap_or_else(PoisonError::into_inner).take();
        match response {
            // It ended by `HandedOver`, and before the socket was closed.
            Some(response) => Ok(Some((connection.into_parts().io.into_inner(), response))),
            None => ended.map(|()| None),
        }
    }
}

/// What the head took, nearly. hyper looks at its limit between two reads, and one read may bring as much again.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}

/// When the server ends.
async fn told(mut ending: watch::Receiver<bool>) {
    drop(ending.wait_for(|ending| *ending).await);
}

fn fault(error: impl std::error::Error + Send + Sync + 'static) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;

    /// The most bytes of a connection's task, which it keeps for as long as a feed is open, and of what HTTP/1.1 adds while it is spoken.
    /// Ten thousand subscribers have as many.
    const MOST: usize = 2_000;
    const MOST_HTTP1: usize = 2_000;

    #[tokio::test]
    async fn a_connection_holds_little() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = || {
            let limits = Limits::default();
            let (router, protocols, traffic) = (Router::new(), Arc::new(Protocols::new(&limits)), Arc::default());
            Connection { router, protocols, traffic, limits, ending: watch::channel(false).1 }
        };
        let stream = async || TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = IpAddr::from([127, 0, 0, 1]);
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let task = size_of_val(&connection().serve(Socket::Tcp(stream().await, peer), place));
        assert!(task <= MOST, "{task} bytes");
        let left = Arc::new(Left::default());
        let io = Guarded::new(stream().await, &Limits::default(), left.clone(), Arc::default());
        let spoken = size_of_val(&connection().http1(io, Some(peer), left));
        assert!(spoken <= MOST_HTTP1, "{spoken} bytes");
    }
}
