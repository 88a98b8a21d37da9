//! The task that follows the feed: does what the [`Subscriber`] says, and tells it what came of it.
use crate::config::Config;
use crate::http1::{Client, Failed, percent};
use crate::metrics::Metrics;
use crate::{real, sse};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use portcullis_feed::subscriber::{self, Action, Ask, Frame, Identity, Input, Now};
use portcullis_feed::{Policies, Subscriber};
use portcullis_wire::frame::{AckAnswer, Sighting, Snapshot};
use portcullis_wire::{Code, Rev};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// The largest event or answer: a snapshot part of 5,000 entries has about a tenth of it.
const FRAME_LIMIT: usize = 16 * 1024 * 1024;
/// How long the stream may take to begin, and how long it may then be silent (servers send comments more often).
const OPEN_WAIT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(45);
const PAGE_WAIT: Duration = Duration::from_secs(10);
/// The following task looks at the clocks at least this often, for timers do not count suspension.
const LOOK: Duration = Duration::from_millis(500);
/// So many entries that have come already are published in one view, with those of the last event.
const AT_ONCE: usize = 64;

const INSTANCE: HeaderName = HeaderName::from_static("portcullis-instance");
const INSTANCE_SECRET: HeaderName = HeaderName::from_static("portcullis-instance-secret");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What the following task hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// From the stream of this number.
    Stream(u64, Input),
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
    stream: Option<AbortHandle>,
    stream_number: u64,
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
    let (stream, jobs, deaf) = (None, JoinSet::new(), Arc::default());
    let (stream_number, was_fresh, unpublished) = (0, false, false);
    let mut follower = Follower {
        config,
        feed,
        client,
        upper,
        subscriber,
        tell,
        stream,
        stream_number,
        jobs,
        was_fresh,
        unpublished,
        deaf,
    };
    follower.take(Input::Tick);
    follower.publish();
    loop {
        let now = real::mono();
        let wait = follower.subscriber.wake_at().map_or(i64::MAX, |at| at.since(now)).max(0);
        let wait = Duration::from_millis(u64::try_from(wait).unwrap_or(0)).min(LOOK);
        match timeout(wait, hears.recv()).await {
            Ok(Some(heard)) => {
                let mut entries = follower.heard(heard);
                // What has come already is published with it: each view is fetched by every core that judges. A relay judges nothing, and
                // passes on what came as it came.
                while entries < AT_ONCE
                    && !follower.upper.relays()
                    && let Ok(heard) = hears.try_recv()
                {
                    entries += follower.heard(heard);
                }
            }
            Ok(None) => return,
            Err(_) => {
                follower.upper.caught_up();
                follower.take(Input::Tick);
            }
        }
        follower.publish();
        while follower.jobs.try_join_next().is_some() {}
    }
}

impl<U: Upper> Follower<U> {
    /// Takes it in; says how many entries there were in it, or more than are taken at once, for a view of its own.
    fn heard(&mut self, heard: Heard) -> usize {
        let entries = match &heard {
            Heard::Stream(_, Input::Frame(Frame::Entries(entries), _)) => entries.entries.len().max(1),
            _ => AT_ONCE,
        };
        match heard {
            Heard::Stream(number, input) if number == self.stream_number => self.take(input),
            Heard::Stream(..) => {} // of a stream that is closed already
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
        entries
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
        self.stream_number += 1;
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
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
        let (client, tell, number) = (self.client.clone(), self.tell.clone(), self.stream_number);
        self.stream = Some(self.jobs.spawn(async move {
            let ended = match request {
                Ok(request) => read_stream(&client, request, number, &tell).await,
                Err(error) => Err(error.to_string()),
            };
            match ended {
                Ok(()) => tracing::debug!("the feed's stream ended"),
                Err(error) => tracing::warn!(%error, "the feed's stream failed; trying again"),
            }
            let _ = tell.send(Heard::Stream(number, Input::StreamEnded)).await;
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

async fn read_stream(
    client: &Client,
    request: Request<Full<Bytes>>,
    number: u64,
    tell: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    let response = client.open(request, OPEN_WAIT).await.map_err(|failed| failed.to_string())?;
    let events =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
    if response.status() != 200 || !events {
        return Err(format!("the server answered {} to the feed's request", response.status()));
    }
    let mut body = response.into_body();
    let mut reader = sse::Reader::new(FRAME_LIMIT);
    loop {
        let Some(piece) = timeout(SILENCE, body.frame()).await.map_err(|_| "silent for too long")? else {
            return Ok(());
        };
        let Ok(data) = piece.map_err(|error| error.to_string())?.into_data() else { continue };
        let events = reader.push(&data).map_err(|_| "not a stream of events, or an event is too long")?;
        for event in events {
            let frame = match decode(&event) {
                Ok(Some(frame)) => frame,
                Ok(None) => continue,
                Err(error) => return Err(format!("event {}: {error}", event.name)),
            };
            if tell.send(Heard::Stream(number, Input::Frame(frame, event.id))).await.is_err() {
                return Ok(());
            }
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
        let frame = |name: &str, data: serde_json::Value, id: Option<String>| {
            let event = sse::Event { name: name.to_owned(), data: data.to_string(), id };
            Heard::Stream(1, Input::Frame(decode(&event).unwrap().unwrap(), event.id))
        };
        let hello = serde_json::json!({
            "v": 1, "log": publisher.log(), "instance": portcullis_wire::InstanceId::from_bits(1), "instance_secret": "nobody's",
            "epoch": publisher.epoch(), "head": 0, "chain": publisher.chain(), "bound_ms": 5000, "max_life_s": 300,
        });
        let mut events = vec![frame("hello", hello, None)];
        let snapshot = serde_json::to_value(&publisher.snapshot(100)[0]).unwrap();
        events.push(frame("snapshot", snapshot, Some("1.0.x".to_owned())));
        for n in 1..=100 {
            let target = Target::Session(SessionId::from_bits(n));
            let until = Time(4_102_444_800_000);
            let rev = publisher.head().next().unwrap();
            let entry = Entry { rev, verb: Verb::End, target, except: None, spread_ms: None, until };
            let chain = publisher.chain().after(&entry);
            publisher.append(std::slice::from_ref(&entry), chain, Mono(0)).unwrap();
            let entries = serde_json::to_value(Entries { entries: vec![entry], ack: false }).unwrap();
            events.push(frame("entries", entries, Some(format!("1.{n}.x"))));
        }
        // Somebody takes the stream's connection, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/v1/feed", silent.local_addr().unwrap());
        let config = Config::new("http://issuer.example", "api", "cli_x", "nobody's");
        let client = Arc::new(Client::new("cli_x", &config.client_secret, None).unwrap());
        let (tell, hears) = mpsc::channel(256);
        for event in events {
            tell.send(event).await.unwrap();
        }
        let upper = Arc::new(Written::default());
        let following = tokio::spawn(run(config, address.parse().unwrap(), client, upper.clone(), tell, hears));
        let views = || upper.views.lock().unwrap().clone();
        for _ in 0..1000 {
            if views().last() == Some(&100) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        following.abort();
        let entries: Vec<u64> = views().into_iter().filter(|applied| *applied > 0).collect();
        assert_eq!(entries, [64, 100]);
    }
}
