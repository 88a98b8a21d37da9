//! A feed on loopback: the frames that a server sends, made by the real `Publisher`, over as little HTTP as the feed's client needs. It has as many
//! live entries as it is told to, and sends more of them when asked.
use crate::{Fault, Seeded};
use portcullis_feed::publisher::Limits;
use portcullis_feed::{Mono, Publisher};
use portcullis_wire::frame::{AckAnswer, AckRequest, Entries};
use portcullis_wire::jws::Jwk;
use portcullis_wire::{Entry, InstanceId, LogId, Rev, SessionId, Target, Time, Verb};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Entries of one part of a snapshot, as the server has it.
const PART: usize = 5000;
/// More than any measurement lasts: leases are not what is measured.
const BOUND_MS: u64 = 600_000;
/// What a set may hold, here and at the verifier.
pub const SET_LIMIT: usize = 8_000_000;

struct Inner {
    publisher: Publisher,
    chance: Seeded,
    streams: Vec<Sender<Arc<str>>>,
}

/// A running feed. It ends with the program.
#[derive(Clone)]
pub struct Feed {
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
    /// Entries per second that are sent beside all else.
    rate: Arc<AtomicU64>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feed({})", self.address)
    }
}

/// Milliseconds since 1970.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// An end of some session that no token is of, at this position.
pub fn entry(rev: Rev, chance: &mut Seeded, until: Time) -> Entry {
    let target = Target::Session(SessionId::from_bits(chance.bits()));
    Entry { rev, verb: Verb::End, target, except: None, spread_ms: None, until }
}

impl Feed {
    /// One with so many live entries and this signing key.
    ///
    /// # Errors
    /// No address is free, or the log does not hold together.
    pub fn start(live: usize, key: Jwk, core: usize) -> Result<Self, Fault> {
        let mut publisher = Publisher::empty(LogId::from_bits(7), Limits { recent: 65_536, set: SET_LIMIT });
        publisher.set_keys(vec![key]);
        publisher.set_floor(Time(wall_ms() - 10_000));
        let inner = Inner { publisher, chance: Seeded(live as u64), streams: Vec::new() };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let feed = Self { inner: Arc::new(Mutex::new(inner)), address, rate: Arc::default() };
        feed.commit(live)?;
        let serving = feed.clone();
        std::thread::spawn(move || {
            crate::onto(core);
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                // A caller that goes away is no fault of a measurement.
                std::thread::spawn(move || serving.serve(stream).map_err(|fault| fault.to_string()));
            }
        });
        let sending = feed.clone();
        std::thread::spawn(move || {
            crate::onto(core);
            sending.send()
        });
        Ok(feed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The issuer that tokens have whose feed this is.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The newest position.
    pub fn head(&self) -> Rev {
        self.lock().publisher.head()
    }

    /// Sends so many entries per second from now on, each in an event of its own.
    pub fn rate(&self, per_s: u64) {
        self.rate.store(per_s, Ordering::Relaxed);
    }

    fn send(&self) {
        let mut begun = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(1));
            let due = begun.elapsed().as_micros() as u64 * self.rate.load(Ordering::Relaxed) / 1_000_000;
            begun = Instant::now();
            if due > 0 && self.commit(usize::try_from(due).unwrap_or(0)).is_err() {
                return;
            }
        }
    }

    fn commit(&self, count: usize) -> Result<(), Fault> {
        let inner = &mut *self.lock();
        let until = Time(wall_ms() + 7_200_000);
        for _ in 0..count {
            let rev = inner.publisher.head().next().ok_or("no position left")?;
            let entry = entry(rev, &mut inner.chance, until);
            let chain = inner.publisher.chain().after(&entry);
            inner
                .publisher
                .append(std::slice::from_ref(&entry), chain, Mono(0))
                .map_err(|broken| broken.to_string())?;
            if !inner.streams.is_empty() {
                let event: Arc<str> = event("entries", &Entries { entries: vec![entry], ack: false }, Some(rev)).into();
                inner.streams.retain(|stream| stream.send(event.clone()).is_ok());
            }
        }
        Ok(())
    }

    fn serve(&self, stream: TcpStream) -> Result<(), Fault> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut length = 0;
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                if line.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse()?;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            match path.split('?').next() {
                Some("/v1/feed") => return self.stream(stream),
                Some("/v1/feed/acks") => answer(&stream, &self.ack(&serde_json::from_slice(&body)?)?)?,
                _ => return Err(format!("nobody asks for {path}").into()),
            }
        }
    }

    fn stream(&self, mut to: TcpStream) -> Result<(), Fault> {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
        let (sends, receives): (Sender<Arc<str>>, Receiver<Arc<str>>) = channel();
        let (hello, parts, head) = {
            let inner = &mut *self.lock();
            let p = &inner.publisher;
            let hello = serde_json::json!({
                "v": 1, "log": p.log(), "instance": InstanceId::from_bits(1), "instance_secret": "nobody's", "epoch": p.epoch(),
                "head": p.head(), "chain": p.chain(), "bound_ms": BOUND_MS, "max_life_s": 3600,
            });
            inner.streams.push(sends);
            (hello, inner.publisher.snapshot(PART), inner.publisher.head())
        };
        to.write_all(event("hello", &hello, None).as_bytes())?;
        for part in parts {
            to.write_all(event("snapshot", &part, Some(head)).as_bytes())?;
        }
        for event in receives {
            to.write_all(event.as_bytes())?;
        }
        Ok(())
    }

    fn ack(&self, ask: &AckRequest) -> Result<String, Fault> {
        let inner = &mut *self.lock();
        let p = &inner.publisher;
        let answer = AckAnswer {
            nonce: ask.nonce.clone(),
            epoch: p.epoch(),
            head: p.head(),
            chain: p.chain(),
            horizon_floor: p.floor(),
            age_ms: 0,
            time: Some(Time(wall_ms())),
            position: Some(format!("0.{}.mac", p.head())),
            entries: p.tail(ask.epoch, ask.applied, 65_536),
            keys: p.keys_unless(ask.keys.as_deref()),
        };
        Ok(serde_json::to_string(&answer)?)
    }
}

fn answer(mut to: &TcpStream, body: &str) -> Result<(), Fault> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    to.write_all(head.as_bytes())?;
    Ok(to.write_all(body.as_bytes())?)
}

fn event(name: &str, data: &impl serde::Serialize, rev: Option<Rev>) -> String {
    let id = rev.map(|rev| format!("id: 0.{rev}.mac\n")).unwrap_or_default();
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}
