//! TLS on the public port: what is in force is swapped while connections go on.
//!
//! A handshake has a time limit, and an address has a limit of handshakes in progress: whoever opens sockets and says nothing
//! takes places from themselves. A limit for all together, lower than that of connections, would let a few such addresses
//! keep everybody else out.
use super::Limits;
use crate::traffic::Traffic;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The certificate, its key and the protocol versions in force. Cheap to clone; all clones see a replacement at once, and
/// connections that are open keep what they began with.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ArcSwap<ServerConfig>>,
    begun: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl Tls {
    /// Serves with this from now on. HTTP/2 and HTTP/1.1 are offered (ALPN, RFC 7301), whatever `config` says.
    pub fn new(config: ServerConfig) -> Self {
        Self { config: Arc::new(ArcSwap::from_pointee(offered(config))), begun: Arc::default() }
    }

    /// New connections get this one.
    pub fn replace(&self, config: ServerConfig) {
        self.config.store(Arc::new(offered(config)));
    }

    /// Shakes hands; `None` when the other side did not in time, or not at all, or has too many in progress (counted).
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        peer: IpAddr,
        limits: &Limits,
        traffic: &Traffic,
    ) -> Option<TlsStream<TcpStream>> {
        let Some(_begun) = self.begin(peer, limits.handshakes) else {
            Traffic::add(&traffic.handshakes_failed);
            tracing::debug!(%peer, "too many TLS handshakes in progress from one address");
            return None;
        };
        let limit = limits.handshake_time;
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let why = match tokio::time::timeout(limit, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the handshake took too long".to_owned(),
        };
        Traffic::add(&traffic.handshakes_failed);
        tracing::debug!(%why, "a TLS handshake failed");
        None
    }
}

impl Tls {
    /// A place for one more handshake with this address; `None` when it has as many in progress as it may.
    fn begin(&self, peer: IpAddr, most: usize) -> Option<Begun> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let count = begun.entry(network(peer)).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Begun { tls: self.clone(), peer: network(peer) })
    }
}

/// One handshake in progress.
struct Begun {
    tls: Tls,
    peer: IpAddr,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut begun = self.tls.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = begun.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                begun.remove(&self.peer);
            }
        }
    }
}

/// What one subscriber has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

fn offered(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_as_its_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
