//! The task that follows the feed: does what the [`Subscriber`] says, and tells it what came of it.
use crate::config::Config;
use crate::http1::{Client, Failed, Flow, percent};
use crate::metrics::Metrics;
use crate::{real, sse};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use portcullis_feed::subscriber::{self, Action, Ask, Frame, Identity, Input, Now};
use portcullis_feed::{Mono, Policies, Subscriber};
use portcullis_wire::frame::{AckAnswer, Sighting, Snapshot};
use portcullis_wire::{Code, Millis, Rev};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::task::coop::poll_proceed;
use tokio::time::sleep;

/// The largest event or answer: a snapshot part of 5,000 entries has about a tenth of it.
const FRAME_LIMIT: usize = 16 * 1024 * 1024;
/// How long the stream may take to begin, and how long it may then be silent (servers send comments more often).
const OPEN_WAIT: Duration = Duration::from_secs(10);
const SILENCE_MS: Millis = 45_000;
const PAGE_WAIT: Duration = Duration::from_secs(10);
/// The following task looks at the clocks at least this often, for timers do not count suspension.
const LOOK_MS: Millis = 500;
/// So many entries that have come already are published in one view, with those of the last event.
const AT_ONCE: usize = 64;

const INSTANCE: HeaderName = HeaderName::from_static("portcullis-instance");
const INSTANCE_SECRET: HeaderName = HeaderName::from_static("portcullis-instance-secret");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What the following task hears, beside the stream.
#[derive(Debug)]
pub(crate) enum Heard {
    /// From a call.
    Call(Input),
    /// A request met what is not known yet.
    CatchUp,
    /// A layer declared another policy.
    Policies,
}

/// What stands on a follower: a verifier, or a relay.
pub(crate) trait Upper: Send + Sync + 'static {
    /// Counters.
    fn metrics(&self) -> &Metrics;
    /// What is declared to the server.
    fn policies(&self) -> Policies;
    /// [`Subscriber::knowledge`] changed: it is visible to everybody once this returns.
    fn publish(&self, subscriber: &mut Subscriber);
    /// The stream is open and was accepted, or it is not.
    fn connected(&self, yes: bool);
    /// What a catch-up was asked for has been done.
    fn caught_up(&self) {}
    /// Somebody waits at the server for an acknowledgement.
    fn prompted(&self) {}
    /// What is acknowledged, when that is not what is applied.
    fn enforced(&self) -> Option<Rev> {
        None
    }
    /// What services have seen and the server was not told yet.
    fn sightings(&self) -> Vec<Sighting> {
        vec![]
    }
    /// Whether it relays.
    fn relays(&self) -> bool {
        false
    }
}

struct Follower<U> {
    config: Config,
    feed: Uri,
    client: Arc<Client>,
    upper: Arc<U>,
    subscriber: Subscriber,
    tell: mpsc::Sender<Heard>,
    stream: Stream,
    jobs: JoinSet<()>,
    was_fresh: bool,
    /// What is known has changed since it was published.
    unpublished: bool,
    /// The server of this stream does not take sightings.
    deaf: Arc<AtomicBool>,
}

/// Follows until it is aborted.
pub(crate) async fn run<U: Upper>(
    config: Config,
    feed: Uri,
    client: Arc<Client>,
    upper: Arc<U>,
    tell: mpsc::Sender<Heard>,
    mut hears: mpsc::Receiver<Heard>,
) {
    let (bound_ms, log, set_limit) = (config.bound_ms, config.log, config.set_limit);
    let subscriber = Subscriber::new(subscriber::Config { bound_ms, log, set_limit, relays: upper.relays() });
    let (stream, jobs, deaf) = (Stream::Closed, JoinSet::new(), Arc::default());
    let (was_fresh, unpublished) = (false, false);
    let mut follower =
        Follower { config, feed, client, upper, subscriber, tell, stream, jobs, was_fresh, unpublished, deaf };
    follower.take(Input::Tick);
    follower.publish();
    let (mut timer, mut due, mut entries) = (pin!(sleep(Duration::ZERO)), real::mono(), 0);
    loop {
        let now = real::mono();
        let wait = follower.subscriber.wake_at().map_or(LOOK_MS, |at| at.since(now).clamp(0, LOOK_MS));
        // One that goes off too early costs a look; one that is set anew at each event costs each of them.
        if timer.is_elapsed() || now.plus(wait) < due {
            due = now.plus(wait);
            timer.set(sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(0))));
        }
        let next = poll_fn(|cx| match follower.poll_next(&mut hears, cx) {
            Poll::Pending => {
                follower.publish();
                entries = 0;
                timer.as_mut().poll(cx).map(|()| Next::Time)
            }
            next => next,
        });
        // What has come already is published with it: each view is fetched by every core that judges. A relay judges nothing, and
        // passes on what came as it came.
        entries += match next.await {
            Next::Heard(heard) => follower.heard(heard),
            Next::Stream(input) => follower.came(input),
            Next::Time => follower.look(),
            Next::Nobody => return,
        };
        if entries >= AT_ONCE || follower.upper.relays() {
            entries = 0;
            follower.publish();
        }
        while follower.jobs.try_join_next().is_some() {}
    }
}

/// What the following task goes on with.
enum Next {
    Heard(Heard),
    Stream(Input),
    /// It is time to look at the clocks.
    Time,
    /// Nobody is there any more who could say something.
    Nobody,
}

impl<U: Upper> Follower<U> {
    /// Answers of calls come first: they are few, and leases hang on them.
    fn poll_next(&mut self, hears: &mut mpsc::Receiver<Heard>, cx: &mut Context<'_>) -> Poll<Next> {
        match hears.poll_recv(cx) {
            Poll::Ready(heard) => Poll::Ready(heard.map_or(Next::Nobody, Next::Heard)),
            Poll::Pending => self.stream.poll_next(cx).map(Next::Stream),
        }
    }

    /// This and those below say how many entries there were in it, or more than are published at once, for a view of its own.
    fn look(&mut self) -> usize {
        if self.stream.silent_ms(real::mono()) > SILENCE_MS {
            tracing::warn!("the feed's stream was silent for too long; trying again");
            self.close_stream();
            self.take(Input::StreamEnded);
        }
        self.upper.caught_up();
        self.take(Input::Tick);
        AT_ONCE
    }

    fn came(&mut self, input: Input) -> usize {
        let entries = match &input {
            Input::Frame(Frame::Entries(entries), _) => entries.entries.len().max(1),
            _ => AT_ONCE,
        };
        self.take(input);
        entries
    }

    fn heard(&mut self, heard: Heard) -> usize {
        match heard {
            Heard::Call(input) => {
                self.publish();
                self.upper.caught_up();
                self.take(input);
            }
            Heard::CatchUp => self.take(Input::CatchUp),
            Heard::Policies => {
                self.close_stream();
                self.take(Input::StreamEnded);
            }
        }
        AT_ONCE
    }

    fn take(&mut self, input: Input) {
        let (mono, wall) = real::anchor();
        let prompted = matches!(&input, Input::Frame(Frame::Entries(entries), _) if entries.ack);
        for action in self.subscriber.handle(input, Now { mono, wall, chance: real::chance() }) {
            self.act(action);
        }
        if prompted {
            self.upper.prompted();
        }
        self.upper.connected(self.subscriber.connected());
        let fresh = self.subscriber.knowledge().fresh(mono, wall);
        if fresh != self.was_fresh {
            self.was_fresh = fresh;
            let applied = self.subscriber.knowledge().applied.0;
            if fresh {
                tracing::info!(applied, "fresh: revocations are known");
            } else {
                tracing::warn!(applied, "not fresh: the server was not reached for longer than the bound");
            }
        }
    }

    /// What is known is visible to everybody once this returns.
    fn publish(&mut self) {
        if std::mem::take(&mut self.unpublished) {
            self.upper.publish(&mut self.subscriber);
        }
    }

    fn act(&mut self, action: Action) {
        if !matches!(action, Action::Publish) {
            // What is said to the server must be true here.
            self.publish();
        }
        let upper = self.upper.clone();
        let metrics = upper.metrics();
        match action {
            Action::Connect { identity, position } => {
                metrics.connects.up();
                self.close_stream();
                self.open_stream(identity, position);
            }
            Action::Disconnect => self.close_stream(),
            Action::Publish => {
                self.unpublished = true;
                // Whether a relay may serve is looked at after each thing that it hears.
                if self.upper.relays() {
                    self.publish();
                }
            }
            Action::Ask(ask) => {
                metrics.asks.up();
                self.ask(&ask);
                self.tell_sightings(&ask.identity);
            }
            Action::Pull { identity, part, rev } => {
                metrics.pulls.up();
                self.pull(&identity, part, rev);
            }
            Action::Report(trouble) => {
                metrics.trouble(trouble);
                tracing::warn!(%trouble, "the feed is not as it should be");
            }
        }
    }

    // ---- the stream ----

    fn close_stream(&mut self) {
        self.stream = Stream::Closed;
    }

    fn open_stream(&mut self, identity: Option<Identity>, position: Option<String>) {
        self.deaf = Arc::default();
        let mut url = format!("{}?policy={}", self.feed, percent(&self.upper.policies().to_string()));
        if !self.config.name.is_empty() {
            url.push_str(&format!("&name={}", percent(&self.config.name)));
        }
        if let Some(bound_ms) = self.config.bound_ms {
            url.push_str(&format!("&bound_ms={bound_ms}"));
        }
        let mut request = Request::builder();
        if let Some(me) = &identity {
            url.push_str(&format!("&instance={}", me.instance));
            request = request.header(INSTANCE_SECRET, secret(me));
        }
        if let Some(position) = position {
            request = request.header(LAST_EVENT_ID, position);
        }
        let request = request
            .uri(url)
            .header(header::ACCEPT, HeaderValue::from_static("text/event-stream"))
            .header(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
            .body(Full::new(Bytes::new()));
        let client = self.client.clone();
        self.stream = Stream::Opening(Box::pin(async move {
            let request = request.map_err(|error| error.to_string())?;
            let response = client.open(request, OPEN_WAIT).await.map_err(|failed| failed.to_string())?;
            Reading::of(response)
        }));
    }

    // ---- calls ----

    fn below(&self, path: &str) -> String {
        format!("{}/{path}", self.feed.to_string().trim_end_matches('/'))
    }

    fn ask(&mut self, ask: &Ask) {
        let mut body = serde_json::json!({
            "instance": ask.identity.instance,
            "instance_secret": ask.identity.secret.expose(),
            "epoch": ask.epoch,
            "applied": ask.applied,
            "position": ask.position,
            "nonce": ask.nonce,
            "keys": ask.keys,
        });
        if let Some(enforced) = self.upper.enforced() {
            body["enforced"] = serde_json::json!(enforced);
        }
        let request = Request::post(self.below("acks"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(body.to_string())));
        // An answer that takes longer than the bound proves nothing any more.
        let bound_ms = u64::try_from(self.subscriber.knowledge().bound_ms).unwrap_or(0);
        let wait = Duration::from_millis(bound_ms.clamp(500, 10_000));
        let (client, tell, nonce) = (self.client.clone(), self.tell.clone(), ask.nonce.clone());
        let upper = self.upper.clone();
        self.jobs.spawn(async move {
            let input = match fetch::<AckAnswer>(&client, request, wait).await {
                Ok(answer) => Input::Answer(answer),
                Err(failed) => {
                    upper.metrics().asks_failed.up();
                    tracing::debug!(%failed, "no lease");
                    Input::AskFailed { nonce, gone: is_code(&failed, Code::InstanceGone) }
                }
            };
            let _ = tell.send(Heard::Call(input)).await;
        });
    }

    /// Beside an acknowledgement, in a call of its own: no lease hangs on it, and an older server or a relay, which does not know it, is
    /// not asked again.
    fn tell_sightings(&mut self, identity: &Identity) {
        if self.deaf.load(Ordering::Relaxed) {
            return;
        }
        let sightings = self.upper.sightings();
        if sightings.is_empty() {
            return;
        }
        let body = serde_json::json!({
            "instance": identity.instance,
            "instance_secret": identity.secret.expose(),
            "sightings": sightings,
        });
        let request = Request::post(self.below("sightings"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(body.to_string())));
        let (client, upper, deaf) = (self.client.clone(), self.upper.clone(), self.deaf.clone());
        self.jobs.spawn(async move {
            match fetch::<serde_json::Value>(&client, request, PAGE_WAIT).await {
                Ok(_) => upper.metrics().sightings.add(sightings.len() as u64),
                Err(Failed::Status(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _)) => {
                    tracing::info!("the server takes no sightings");
                    deaf.store(true, Ordering::Relaxed);
                }
                Err(failed) => tracing::debug!(%failed, "sightings were not taken"),
            }
        });
    }

    fn pull(&mut self, identity: &Identity, part: u32, rev: Option<Rev>) {
        let of = rev.map(|rev| format!("&rev={rev}")).unwrap_or_default();
        let request = Request::get(format!("{}?part={part}{of}", self.below("snapshot")))
            .header(INSTANCE, identity.instance.to_string())
            .header(INSTANCE_SECRET, secret(identity))
            .body(Full::new(Bytes::new()));
        let (client, tell) = (self.client.clone(), self.tell.clone());
        self.jobs.spawn(async move {
            let input = match fetch::<Snapshot>(&client, request, PAGE_WAIT).await {
                Ok(page) => Input::Page(page),
                Err(failed) => {
                    tracing::warn!(%failed, part, "no snapshot page");
                    Input::PullFailed { conflict: is_code(&failed, Code::Conflict) }
                }
            };
            let _ = tell.send(Heard::Call(input)).await;
        });
    }
}

fn secret(identity: &Identity) -> HeaderValue {
    let mut value =
        HeaderValue::from_str(identity.secret.expose()).unwrap_or_else(|_| HeaderValue::from_static("unspeakable"));
    value.set_sensitive(true);
    value
}

async fn fetch<T: DeserializeOwned>(
    client: &Client,
    request: Result<Request<Full<Bytes>>, http::Error>,
    wait: Duration,
) -> Result<T, Failed> {
    let request = request.map_err(|error| Failed::Transport(error.to_string()))?;
    let body = client.call(request, wait, FRAME_LIMIT).await?;
    serde_json::from_slice(&body).map_err(|error| Failed::Transport(format!("an answer that cannot be read: {error}")))
}

fn is_code(failed: &Failed, code: Code) -> bool {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    let Failed::Status(_, body) = failed else { return false };
    serde_json::from_slice::<Problem>(body).is_ok_and(|problem| problem.code == code.as_str())
}

/// The feed's stream. It is read by the following task itself: an entry that comes wakes one task, and no other.
enum Stream {
    Closed,
    Opening(Pin<Box<dyn Future<Output = Result<Reading, String>> + Send>>),
    Open(Box<Reading>),
}

impl Stream {
    /// What came, [`Input::StreamEnded`] once at its end. Nothing from a stream that is closed.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        let ended = loop {
            match self {
                Self::Closed => return Poll::Pending,
                Self::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(reading) => *self = Self::Open(Box::new(reading)),
                    Err(error) => break Err(error),
                },
                Self::Open(reading) => {
                    // After a backlog others of this thread have their turn, too: else only reads of the socket count, and one brings a
                    // hundred entries.
                    let turn = ready!(poll_proceed(cx));
                    match ready!(reading.poll_next(cx)) {
                        Ok(Some(input)) => {
                            turn.made_progress();
                            return Poll::Ready(input);
                        }
                        ended => break ended.map(drop),
                    }
                }
            }
        };
        *self = Self::Closed;
        match ended {
            Ok(()) => tracing::debug!("the feed's stream ended"),
            Err(error) => tracing::warn!(%error, "the feed's stream failed; trying again"),
        }
        Poll::Ready(Input::StreamEnded)
    }

    /// How long an open stream has brought nothing, not even a comment.
    fn silent_ms(&self, now: Mono) -> Millis {
        match self {
            Self::Open(reading) => now.since(reading.heard_at),
            Self::Closed | Self::Opening(_) => 0,
        }
    }
}

/// A stream that is open.
struct Reading {
    flow: Flow,
    reader: sse::Reader,
    /// What came, and was not given out yet.
    events: std::vec::IntoIter<sse::Event>,
    heard_at: Mono,
}

impl Reading {
    fn of(response: Response<Flow>) -> Result<Self, String> {
        let kind = response.headers().get(header::CONTENT_TYPE);
        if response.status() != 200 || !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            return Err(format!("the server answered {} to the feed's request", response.status()));
        }
        let (flow, reader) = (response.into_body(), sse::Reader::new(FRAME_LIMIT));
        Ok(Self { flow, reader, events: Vec::new().into_iter(), heard_at: real::mono() })
    }

    /// The next frame that is known; `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Input>, String>> {
        loop {
            if let Some(event) = self.events.next() {
                match decode(&event) {
                    Ok(Some(frame)) => return Poll::Ready(Ok(Some(Input::Frame(frame, event.id)))),
                    Ok(None) => continue,
                    Err(error) => return Poll::Ready(Err(format!("event {}: {error}", event.name))),
                }
            }
            let Some(bytes) = ready!(self.flow.poll_bytes(cx)) else { return Poll::Ready(Ok(None)) };
            self.heard_at = real::mono();
            let events = self.reader.push(&bytes.map_err(|failed| failed.to_string())?);
            let events = events.map_err(|_| "not a stream of events, or an event is too long")?;
            self.events = events.into_iter();
        }
    }
}

/// Events of other names are a newer server's, and skipped.
fn decode(event: &sse::Event) -> Result<Option<Frame>, serde_json::Error> {
    Ok(Some(match event.name.as_str() {
        "hello" => Frame::Hello(serde_json::from_str(&event.data)?),
        "snapshot" => Frame::Snapshot(serde_json::from_str(&event.data)?),
        "entries" => Frame::Entries(serde_json::from_str(&event.data)?),
        "keys" => Frame::Keys(serde_json::from_str(&event.data)?),
        "bye" => Frame::Bye,
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_feed::publisher::Limits;
    use portcullis_feed::{Mono, Publisher};
    use portcullis_wire::frame::Entries;
    use portcullis_wire::{Entry, LogId, SessionId, Target, Time, Verb};
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Writes down what is known whenever that is published.
    #[derive(Default)]
    struct Written {
        metrics: Metrics,
        views: Mutex<Vec<u64>>,
    }

    impl Upper for Written {
        fn metrics(&self) -> &Metrics {
            &self.metrics
        }
        fn policies(&self) -> Policies {
            Policies::default()
        }
        fn publish(&self, subscriber: &mut Subscriber) {
            self.views.lock().unwrap().push(subscriber.knowledge().applied.0);
        }
        fn connected(&self, _: bool) {}
    }

    #[tokio::test]
    async fn what_came_together_is_published_together_and_not_too_much_of_it() {
        let mut publisher = Publisher::empty(LogId::from_bits(1), Limits { recent: 1000, set: 1000 });
        let event =
            |name: &str, data: serde_json::Value, id: &str| format!("event: {name}\nid: {id}\ndata: {data}\n\n");
        let hello = serde_json::json!({
            "v": 1, "log": publisher.log(), "instance": portcullis_wire::InstanceId::from_bits(1), "instance_secret": "nobody's",
            "epoch": publisher.epoch(), "head": 0, "chain": publisher.chain(), "bound_ms": 5000, "max_life_s": 300,
        });
        let mut events = format!("event: hello\ndata: {hello}\n\n");
        events += &event("snapshot", serde_json::to_value(&publisher.snapshot(100)[0]).unwrap(), "1.0.x");
        for n in 1..=80 {
            let target = Target::Session(SessionId::from_bits(n));
            let until = Time(4_102_444_800_000);
            let rev = publisher.head().next().unwrap();
            let entry = Entry { rev, verb: Verb::End, target, except: None, spread_ms: None, until };
            let chain = publisher.chain().after(&entry);
            publisher.append(std::slice::from_ref(&entry), chain, Mono(0)).unwrap();
            let entries = serde_json::to_value(Entries { entries: vec![entry], ack: false }).unwrap();
            events += &event("entries", entries, &format!("1.{n}.x"));
        }
        // Somebody says all that at once, and nothing more.
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/v1/feed", server.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n",
            events.len()
        );
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let _request = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        let config = Config::new("http://issuer.example", "api", "cli_x", "nobody's");
        let client = Arc::new(Client::new("cli_x", &config.client_secret, None).unwrap());
        let (tell, hears) = mpsc::channel(256);
        let upper = Arc::new(Written::default());
        let following = tokio::spawn(run(config, address.parse().unwrap(), client, upper.clone(), tell, hears));
        let views = || upper.views.lock().unwrap().clone();
        for _ in 0..1000 {
            if views().last() == Some(&80) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        following.abort();
        let entries: Vec<u64> = views().into_iter().filter(|applied| *applied > 0).collect();
        // Two, if all of it was there when the first was read.
        assert!((2..=4).contains(&entries.len()) && entries.last() == Some(&80), "{entries:?}");
        let steps = entries.iter().zip([0].iter().chain(&entries)).map(|(now, before)| now - before);
        assert!(steps.max() <= Some(64), "{entries:?}");
    }
}
