//! A TCP proxy that misbehaves when told to: delays, cuts in one direction or both, connections that are refused or reset. For
//! the ways between nodes, database and verifiers, on loopback only.
//!
//! A cut holds bytes back and closes nothing, as a network does that loses packets; what was held arrives when it is healed. A
//! reset closes what is open.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The most bytes that wait in each direction of a connection.
const HELD: usize = 64 * 1024;

/// How the way behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// Bytes towards the target are held back.
    pub cut_there: bool,
    /// Bytes from the target are held back.
    pub cut_back: bool,
    /// New connections are closed at once.
    pub refuse: bool,
    /// Everything takes so much longer, each way.
    pub delay: Duration,
}

/// What happened, to prove that it did.
#[derive(Debug, Default)]
pub struct Happened {
    /// Connections that were passed on.
    pub connections: AtomicU64,
    /// Connections that were refused or reset.
    pub broken: AtomicU64,
    /// Pieces that had to wait for a cut to end.
    pub held: AtomicU64,
    /// Pieces that were delayed.
    pub delayed: AtomicU64,
}

/// A proxy in front of one target. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// What happened.
    pub happened: Arc<Happened>,
    way: watch::Sender<Way>,
    resets: watch::Sender<u64>,
    target: watch::Sender<SocketAddr>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Begins to pass connections on to `target`.
    ///
    /// # Errors
    /// No port of the loopback address is free.
    pub async fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (way, resets, target) = (watch::channel(Way::default()).0, watch::channel(0).0, watch::channel(target).0);
        let happened = Arc::new(Happened::default());
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, way.subscribe(), resets.subscribe(), target.subscribe(), happened.clone()));
        Ok(Self { address, happened, way, resets, target, _serving: serving })
    }

    /// The way behaves like this from now on, for connections that are open, too.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// All is well again.
    pub fn heal(&self) {
        self.set(Way::default());
    }

    /// Closes every connection that is open.
    pub fn reset(&self) {
        self.resets.send_modify(|n| *n += 1);
    }

    /// New connections go there.
    pub fn aim_at(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
}

async fn accept(
    listener: TcpListener,
    way: watch::Receiver<Way>,
    resets: watch::Receiver<u64>,
    target: watch::Receiver<SocketAddr>,
    happened: Arc<Happened>,
) {
    let mut open = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        while open.try_join_next().is_some() {}
        if way.borrow().refuse {
            happened.broken.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let (target, way, mut resets, happened) = (*target.borrow(), way.clone(), resets.clone(), happened.clone());
        resets.mark_unchanged();
        open.spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else {
                happened.broken.fetch_add(1, Ordering::Relaxed);
                return;
            };
            happened.connections.fetch_add(1, Ordering::Relaxed);
            let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
            let (client_reads, client_writes) = client.into_split();
            let (server_reads, server_writes) = server.into_split();
            let there = pass(client_reads, server_writes, way.clone(), |way| way.cut_there, &happened);
            let back = pass(server_reads, client_writes, way, |way| way.cut_back, &happened);
            tokio::select! {
                _ = async { tokio::join!(there, back) } => {}
                _ = resets.changed() => drop(happened.broken.fetch_add(1, Ordering::Relaxed)),
            }
        });
    }
}

/// One direction, until its end is closed.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    is_cut: fn(&Way) -> bool,
    happened: &Happened,
) {
    let mut piece = vec![0; HELD];
    loop {
        let n = match from.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        let delay = way.borrow().delay;
        if !delay.is_zero() {
            happened.delayed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(delay).await;
        }
        if is_cut(&way.borrow()) {
            happened.held.fetch_add(1, Ordering::Relaxed);
        }
        if way.wait_for(|way| !is_cut(way)).await.is_err() || to.write_all(&piece[..n]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    let _ = tokio::io::copy(&mut reads, &mut writes).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, word: &[u8], within: Duration) -> Option<Vec<u8>> {
        stream.write_all(word).await.ok()?;
        hears(stream, within).await
    }

    async fn hears(stream: &mut TcpStream, within: Duration) -> Option<Vec<u8>> {
        let mut heard = vec![0; 64];
        let n = tokio::time::timeout(within, stream.read(&mut heard)).await.ok()?.ok()?;
        heard.truncate(n);
        (n > 0).then_some(heard)
    }

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn it_passes_on_cuts_each_way_delays_refuses_and_resets() {
        let proxy = Proxy::to(echo().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        assert_eq!(says(&mut stream, b"one", LONG).await.as_deref(), Some(&b"one"[..]));
        for way in [Way { cut_there: true, ..Way::default() }, Way { cut_back: true, ..Way::default() }] {
            proxy.set(way);
            assert_eq!(says(&mut stream, b"two", SHORT).await, None, "{way:?}");
            proxy.heal();
            assert_eq!(hears(&mut stream, LONG).await.as_deref(), Some(&b"two"[..]), "what was held arrives");
        }
        proxy.set(Way { delay: Duration::from_millis(50), ..Way::default() });
        assert_eq!(says(&mut stream, b"three", LONG).await.as_deref(), Some(&b"three"[..]));
        proxy.reset();
        assert_eq!(hears(&mut stream, LONG).await, None, "closed");
        proxy.set(Way { refuse: true, ..Way::default() });
        let mut refused = TcpStream::connect(proxy.address).await.expect("accepted, and closed");
        assert_eq!(says(&mut refused, b"four", LONG).await, None);
        proxy.heal();
        let mut again = TcpStream::connect(proxy.address).await.expect("connected");
        assert_eq!(says(&mut again, b"five", LONG).await.as_deref(), Some(&b"five"[..]));
        let Happened { connections, broken, held, delayed } = &*proxy.happened;
        for counter in [connections, broken, held, delayed] {
            assert!(counter.load(Ordering::Relaxed) >= 1, "{:?}", proxy.happened);
        }
    }
}
