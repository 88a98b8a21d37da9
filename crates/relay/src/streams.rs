//! One verifier's stream: what it gets, in order, at its own pace. It holds a position, not a queue: one that falls behind what
//! is kept is ended, comes back, and gets a snapshot.
use crate::hub::{CannotServe, Hub, Opening, event};
use bytes::Bytes;
use portcullis_app::real;
use portcullis_feed::fleet::StreamNumber;
use portcullis_feed::publisher::Resume;
use portcullis_wire::frame::{Entries, Snapshot, VERSION};
use portcullis_wire::{ClientId, Epoch, InstanceId, Rev};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// The most entries that a stream gets at once when it resumes.
pub(crate) const MAX_RESUME: usize = 10_000;
/// After so long without an event a comment is sent, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a stream begins with.
#[derive(Debug)]
enum First {
    Event(Bytes),
    /// This part of a snapshot; the last one is named like this.
    Part(Arc<Vec<Snapshot>>, usize, Option<String>),
}

/// A stream; see the [module](self).
#[derive(Debug)]
pub struct Stream {
    hub: Hub,
    client: ClientId,
    ends: Option<Rev>,
    instance: InstanceId,
    number: Option<StreamNumber>,
    generation: u64,
    epoch: Epoch,
    at: Rev,
    first: VecDeque<First>,
    keys_version: u64,
    prompted: Rev,
    version: watch::Receiver<u64>,
    ended: bool,
}

impl Hub {
    /// Opens a stream for a client of the server's. `from`: a position that it was proven to have been at.
    pub fn open(&self, client: ClientId, opening: Opening, from: Option<(Epoch, Rev)>) -> Result<Stream, CannotServe> {
        if self.is_closing() || !self.state().is_ready() {
            return Err(CannotServe::NotFresh);
        }
        let (instance, secret, bound_ms, ends) = self.introduce(client, opening)?;
        let version = self.versions();
        let mut state = self.state();
        let log = state.relay.log().ok_or(CannotServe::NotFresh)?;
        let (epoch, head) = (log.epoch(), log.head());
        let hello = serde_json::json!({
            "v": VERSION, "log": log.log(), "instance": instance, "instance_secret": secret.expose(),
            "epoch": epoch, "head": head, "chain": log.chain(),
            "bound_ms": bound_ms, "max_life_s": state.relay.max_life_s(),
        });
        let mut first = VecDeque::from([First::Event(event("hello", None, &hello))]);
        let resume = from.map_or(Resume::Snapshot, |(epoch, rev)| log.resume(epoch, rev, MAX_RESUME));
        let name = state.relay.position().map(str::to_owned);
        let at = match resume {
            Resume::Entries(entries) => {
                // The keys first: who has applied an entry knows the keys of its commit.
                first.push_back(First::Event(event("keys", None, &log.keys_frame())));
                if !entries.is_empty() {
                    let entries = Entries { entries, ack: false };
                    first.push_back(First::Event(event("entries", name.as_deref(), &entries)));
                }
                head
            }
            Resume::Snapshot => {
                let parts = state.snapshot().ok_or(CannotServe::NotFresh)?;
                let rev = parts[0].rev; // there is always one
                first.extend((0..parts.len()).map(|n| First::Part(parts.clone(), n, name.clone())));
                rev
            }
            Resume::Ahead => return Err(CannotServe::NotFresh),
        };
        let number = state.relay.stream_opened(instance, real::mono()).ok();
        let (generation, keys_version) = (state.relay.generation(), state.relay.keys_version());
        let prompted = state.relay.prompt();
        drop(state);
        self.stats().streams.fetch_add(1, Ordering::Relaxed);
        let (hub, ended) = (self.clone(), false);
        Ok(Stream {
            hub,
            client,
            ends,
            instance,
            number,
            generation,
            epoch,
            at,
            first,
            keys_version,
            prompted,
            version,
            ended,
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hub.stats().streams.fetch_sub(1, Ordering::Relaxed);
        self.hub.state().relay.fleet_mut().stream_closed(self.instance);
    }
}

impl Stream {
    /// The next bytes of the stream; `None` when it has ended. Waits until there is something to say.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            match self.first.pop_front() {
                Some(First::Event(bytes)) => return Some(bytes),
                Some(First::Part(parts, n, name)) => {
                    // Only the last part gives a position: what is half received is not resumed.
                    let id = name.filter(|_| n + 1 == parts.len());
                    return Some(event("snapshot", id.as_deref(), &parts[n]));
                }
                None => {}
            }
            self.version.mark_unchanged();
            if let Some(bytes) = self.poll_now() {
                return Some(bytes);
            }
            match tokio::time::timeout(KEEP_ALIVE, self.version.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from_static(b":\n\n")),
            }
        }
    }

    fn bye(&mut self) -> Option<Bytes> {
        self.ended = true;
        self.hub.stats().ended.fetch_add(1, Ordering::Relaxed);
        Some(Bytes::from_static(b"event: bye\ndata: {}\n\n"))
    }

    fn poll_now(&mut self) -> Option<Bytes> {
        let hub = self.hub.clone();
        let state = hub.state();
        let relay = &state.relay;
        let goes_on = !hub.is_closing()
            && state.is_ready()
            && relay.generation() == self.generation
            && !state.ended_since(self.client, self.ends)
            && !relay.fleet().must_return(self.instance)
            && !self.number.is_none_or(|number| relay.fleet().gives_way(self.instance, number));
        let Some(log) = relay.log().filter(|_| goes_on) else {
            drop(state);
            return self.bye();
        };
        if relay.keys_version() != self.keys_version {
            self.keys_version = relay.keys_version();
            return Some(event("keys", None, &log.keys_frame()));
        }
        if log.head() > self.at {
            if let Some(batch) = state.batches.iter().rev().find(|batch| batch.after == self.at) {
                self.at = batch.last;
                return Some(batch.event.clone());
            }
            let Resume::Entries(entries) = log.resume(self.epoch, self.at, MAX_RESUME) else {
                drop(state);
                return self.bye();
            };
            self.at = log.head();
            return Some(event("entries", relay.position(), &Entries { entries, ack: false }));
        }
        let prompt = relay.prompt();
        if prompt > self.prompted && prompt <= self.at {
            self.prompted = prompt;
            return Some(event("entries", None, &Entries { entries: vec![], ack: true }));
        }
        None
    }
}
