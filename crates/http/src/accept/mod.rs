//! The accept loop: our own, since `axum::serve` sets no time limit on headers and waits for open streams for ever.
//!
//! Limits (what happens at each is in brackets): connections [the next ones wait in the system's queue], the time until a
//! first request has come [dropped, counted], time for headers between requests [dropped], size and number of headers [431],
//! streams per HTTP/2 connection [refused by the protocol], time during which a socket takes no bytes [dropped, counted], time
//! for a TLS handshake, and handshakes in progress with one address [dropped, counted]. Bodies are limited in
//! [`mod@crate::request`].
//!
//! What a connection holds while nothing happens counts when there are thousands: `connection` keeps what is large behind
//! pointers and gives it up when it is over, and `unending` writes feeds without the buffers of requests.
mod connection;
mod guarded;
mod tls;
mod unending;
mod unread;

use crate::traffic::Traffic;
use axum::Router;
use connection::{Connection, Protocols};
use portcullis_app::hub::Hub;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use tls::Tls;
pub(crate) use unending::Unending;

/// What is listened on.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A port on which TLS is spoken.
    Tls(TcpListener, Tls),
    /// A Unix socket.
    Unix(UnixListener),
}

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time for a request's headers, and between two requests of a connection.
    pub header_time: Duration,
    /// The most headers of a request.
    pub headers: usize,
    /// The largest head of a request in bytes.
    pub head_bytes: usize,
    /// For how long a socket may take no bytes.
    pub stall_time: Duration,
    /// Time for a TLS handshake.
    pub handshake_time: Duration,
    /// TLS handshakes in progress with one address, or with one IPv6 network of 64 bits.
    pub handshakes: usize,
    /// HTTP/2 streams at once per connection.
    pub streams: u32,
    /// How long requests in flight may go on once the server is told to end.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            header_time: Duration::from_secs(10),
            headers: 64,
            head_bytes: 32 * 1024,
            stall_time: Duration::from_secs(10),
            handshake_time: Duration::from_secs(5),
            handshakes: 256,
            streams: 200,
            drain_time: Duration::from_secs(10),
        }
    }
}

/// Serves `router` on `listener` until `shutdown` resolves; then feeds say goodbye, requests in flight get
/// [`Limits::drain_time`], and what is left is dropped.
pub async fn serve(
    listener: Listener,
    router: Router,
    hub: Hub,
    limits: Limits,
    traffic: Arc<Traffic>,
    shutdown: impl Future<Output = ()>,
) {
    serve_any(listener, router, move || hub.close(), limits, traffic, shutdown).await;
}

/// As [`serve`], for feeds that `goodbye` ends.
pub async fn serve_any(
    listener: Listener,
    router: Router,
    goodbye: impl FnOnce(),
    limits: Limits,
    traffic: Arc<Traffic>,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let protocols = Arc::new(Protocols::new(&limits));
    let (ending, _) = watch::channel(false);
    let mut open = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        while open.try_join_next().is_some() {}
        let place = tokio::select! {
            () = &mut shutdown => break,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener) => accepted,
        };
        let (Some(socket), Ok(place)) = (accepted, place) else { continue };
        Traffic::add(&traffic.accepted);
        let connection = Connection {
            router: router.clone(),
            protocols: protocols.clone(),
            traffic: traffic.clone(),
            limits,
            ending: ending.subscribe(),
        };
        open.spawn(connection.serve(socket, place));
    }
    drop(listener);
    goodbye();
    ending.send_replace(true);
    let drained = tokio::time::timeout(limits.drain_time, async { while open.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(
            connections = open.len(),
            "requests in flight were dropped after the time to finish them had passed"
        );
        open.shutdown().await;
    }
}

enum Socket {
    Tcp(tokio::net::TcpStream, IpAddr),
    Tls(tokio::net::TcpStream, IpAddr, Tls),
    Unix(tokio::net::UnixStream),
}

/// The next connection; `None` after an error that may pass (no more descriptors, a connection that went away meanwhile).
async fn accept(listener: &Listener) -> Option<Socket> {
    let tcp = async |listener: &TcpListener| {
        let (stream, peer) = listener.accept().await?;
        // An answer is written whole; waiting for more to send with it only adds time.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer.ip()))
    };
    let accepted = match listener {
        Listener::Tcp(listener) => tcp(listener).await.map(|(stream, peer)| Socket::Tcp(stream, peer)),
        Listener::Tls(listener, tls) => {
            tcp(listener).await.map(|(stream, peer)| Socket::Tls(stream, peer, tls.clone()))
        }
        Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
    };
    match accepted {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
