//! One verifier's stream: what it gets, in order, at its own pace.
//!
//! A stream holds a position, not a queue: when it can write, it takes what comes after its position. One that falls behind
//! what is kept is dropped and counted; it comes back and gets a snapshot. So a slow or stuck subscriber costs nothing.
use super::Position;
use super::{Hub, new_secret};
use crate::{AppError, real};
use bytes::Bytes;
use portcullis_domain::Chance as _;
use portcullis_domain::changes::{Change, Changes, Conflict};
use portcullis_domain::model::{Client, Instance};
use portcullis_feed::Policies;
use portcullis_feed::fleet::StreamNumber;
use portcullis_feed::publisher::Resume;
use portcullis_store::CommitError;
use portcullis_wire::frame::{Entries, Snapshot, VERSION};
use portcullis_wire::{ClientId, Code, Epoch, InstanceId, Rev, SecretString};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// Entries per part of a snapshot.
pub const PART: usize = 5000;
/// How many snapshots are kept for who pulls their pages, and for how long, in milliseconds.
const SNAPSHOTS: usize = 4;
const SNAPSHOT_KEPT_MS: i64 = 15_000;
/// The most entries that a stream gets at once when it resumes.
pub(super) const MAX_RESUME: usize = 10_000;
/// After so long without an event a comment is sent, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a verifier says when it opens a stream.
#[derive(Debug)]
pub struct Opening {
    /// What it calls itself.
    pub name: String,
    /// Its fail policies.
    pub policies: Policies,
    /// A shorter bound of its own, in milliseconds.
    pub bound_ms: Option<u64>,
    /// The instance that it was, and its secret.
    pub instance: Option<(InstanceId, SecretString)>,
    /// The `Last-Event-ID` header.
    pub last_event_id: Option<String>,
}

/// What a stream begins with.
#[derive(Debug)]
enum First {
    Event(Bytes),
    /// This part of a snapshot. Encoded when it is its turn: of many streams that begin together each would hold the whole.
    Part(Arc<Vec<Snapshot>>, usize),
}

/// A stream; see the [module](self).
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    client: ClientId,
    instance: InstanceId,
    number: StreamNumber,
    epoch: Epoch,
    at: Rev,
    first: VecDeque<First>,
    keys_version: u64,
    prompted: u64,
    version: watch::Receiver<u64>,
    ended: bool,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.inner.stats.streams.fetch_sub(1, Ordering::Relaxed);
        self.hub.state().fleet.stream_closed(self.instance);
    }
}

impl Hub {
    /// Opens a stream for an authenticated verifier client. Its instance is in the database before it can get a lease.
    pub async fn open(&self, client: &Client, opening: Opening) -> Result<Subscription, AppError> {
        if let Some(why) = self.why_not_ready() {
            return Err(AppError::Fault(why.into()));
        }
        let from = opening.last_event_id.as_deref().and_then(|text| self.parse_position(text));
        if let Some(shown) = &from {
            // Before anything is written for who shows it.
            self.shown(client.id, shown).await?;
            if let Some(why) = self.why_not_ready() {
                return Err(AppError::Fault(why.into()));
            }
        }
        let (id, secret) = self.introduce(client, &opening).await?;
        let version = self.inner.version.subscribe();
        let mut state = self.state();
        if state.closed_clients.contains_key(&client.id) {
            return Err(AppError::Unauthenticated(Code::InvalidCredentials));
        }
        let number = state.fleet.stream_opened(id, real::mono()).map_err(|_| AppError::Overloaded)?;
        self.inner.stats.streams.fetch_add(1, Ordering::Relaxed);
        let publisher = &state.publisher;
        let (epoch, head) = (publisher.epoch(), publisher.head());
        let hello = serde_json::json!({
            "v": VERSION, "log": publisher.log(), "instance": id, "instance_secret": secret.expose(),
            "epoch": epoch, "head": head, "chain": publisher.chain(),
            "bound_ms": state.fleet.bound_ms(), "max_life_s": self.inner.max_life_s,
        });
        let mut first = VecDeque::from([First::Event(self.event("hello", None, &hello))]);
        let resume = from.map_or(Resume::Snapshot, |at| publisher.resume(at.epoch, at.rev, MAX_RESUME));
        let at = match resume {
            Resume::Entries(entries) => {
                // The keys first: who has applied an entry knows the keys of its commit.
                first.push_back(First::Event(self.event("keys", None, &publisher.keys_frame())));
                if !entries.is_empty() {
                    let entries = Entries { entries, ack: false };
                    first.push_back(First::Event(self.event("entries", Some(Position::of(publisher)), &entries)));
                }
                head
            }
            Resume::Snapshot => {
                self.inner.stats.snapshots.fetch_add(1, Ordering::Relaxed);
                let parts = self.snapshot_of(&mut state);
                first.extend((0..parts.len()).map(|n| First::Part(parts.clone(), n)));
                parts[0].rev // there is always one
            }
            Resume::Ahead => {
                self.inner.stats.streams.fetch_sub(1, Ordering::Relaxed);
                state.fleet.stream_closed(id);
                return Err(AppError::Fault("a verifier is ahead of the log".into()));
            }
        };
        let keys_version = state.keys_version;
        drop(state);
        Ok(Subscription {
            hub: self.clone(),
            client: client.id,
            instance: id,
            number,
            epoch,
            at,
            first,
            keys_version,
            prompted: self.inner.prompt.load(Ordering::Acquire),
            version,
            ended: false,
        })
    }

    /// The instance that it was, when it proves it; else a new one, committed before anything else.
    async fn introduce(&self, client: &Client, opening: &Opening) -> Result<(InstanceId, SecretString), AppError> {
        let bound_ms = opening.bound_ms.unwrap_or_else(|| u64::try_from(self.bound_ms()).unwrap_or(0));
        let mut row = Instance {
            id: InstanceId::from_bits(real::RealChance.bits()),
            client: client.id,
            name: opening.name.clone(),
            policy: opening.policies.to_string(),
            bound_ms,
            secret: portcullis_wire::Digest([0; 32]),
            created_at: self.inner.store.now(),
        };
        if let Some((id, _)) = &opening.instance {
            self.meet(*id).await?;
        }
        let known = opening.instance.as_ref().filter(|(id, secret)| {
            self.state()
                .secrets
                .get(id)
                .is_some_and(|(owner, digest)| *owner == client.id && *digest == secret.digest())
        });
        let is_known = known.is_some();
        let (secret, steps) = match known {
            Some((id, secret)) => {
                row.id = *id;
                row.secret = secret.digest();
                (secret.clone(), vec![Change::UpdateInstance(row.clone())])
            }
            None => {
                let secret = new_secret(&real::RealChance.secret());
                row.secret = secret.digest();
                (secret, self.room(&row)?.into_iter().chain([Change::InsertInstance(row.clone())]).collect())
            }
        };
        // To its end even if the verifier hangs up: a row that is not counted here would be nobody's to remove.
        let (hub, id) = (self.clone(), row.id);
        let settled = tokio::spawn(async move { hub.settle(row, steps, is_known).await }).await;
        settled.unwrap_or_else(|error| Err(AppError::Fault(error.to_string().into())))?;
        Ok((id, secret))
    }

    /// An instance that this node does not know may have met another one: then it is known here from now on, and a read that
    /// begins later may give it a lease.
    pub(super) async fn meet(&self, id: InstanceId) -> Result<(), AppError> {
        if !self.is_shared() || self.state().secrets.contains_key(&id) {
            return Ok(());
        }
        let Some(row) = self.inner.store.load_instance(id).await? else { return Ok(()) };
        let mut state = self.state();
        if state.fleet.known(super::instance(&row), real::mono()).is_ok() {
            state.secrets.insert(row.id, (row.client, row.secret));
        }
        Ok(())
    }

    /// Commits an instance's row, and counts it from then on. The row of one that is known here may have been taken away by
    /// another node, which knows nothing of it: then it is made again, with the same id and secret.
    async fn settle(&self, row: Instance, steps: Vec<Change>, is_known: bool) -> Result<(), AppError> {
        match self.inner.store.commit(Changes { steps, ..Changes::default() }).await {
            Err(CommitError::Conflict(Conflict::Missing)) if is_known => {
                let steps = vec![Change::InsertInstance(row.clone())];
                self.inner.store.commit(Changes { steps, ..Changes::default() }).await?;
            }
            other => drop(other?),
        }
        let counted = {
            let mut state = self.state();
            let counted = state.fleet.known(super::instance(&row), real::mono());
            if counted.is_ok() {
                state.secrets.insert(row.id, (row.client, row.secret));
            }
            counted
        };
        if counted.is_err() {
            // Others took the last places meanwhile. What is not counted gets no lease, and its row is of no use.
            let steps = vec![Change::RemoveInstances(vec![row.id])];
            self.inner.store.commit(Changes { steps, ..Changes::default() }).await?;
            return Err(AppError::Overloaded);
        }
        Ok(())
    }

    /// Room for one more instance, before its row is made: those that are gone and can hold no lease any more give way.
    fn room(&self, row: &Instance) -> Result<Option<Change>, AppError> {
        if self.state().fleet.no_room(row.id, row.client).is_none() {
            return Ok(None);
        }
        // Where several nodes are, one of these may be at another now: its row is made again when it opens its next stream.
        let gone = self.prune_instances(0);
        if gone.is_empty() { Err(AppError::Overloaded) } else { Ok(Some(Change::RemoveInstances(gone))) }
    }

    /// The snapshot as of now, made once for all that ask at the same position, and kept for a while for who pulls pages.
    fn snapshot_of(&self, state: &mut super::State) -> Arc<Vec<Snapshot>> {
        let (head, now) = (state.publisher.head(), real::mono());
        state.snapshots.retain(|made| now.since(made.at) < SNAPSHOT_KEPT_MS);
        // One of the same rev serves although F has moved on: a lower F only forgets less, and pages of one rev never mix.
        if let Some(made) = state.snapshots.back().filter(|made| made.parts[0].rev == head) {
            return made.parts.clone();
        }
        if state.snapshots.len() >= SNAPSHOTS {
            state.snapshots.pop_front();
        }
        let parts = Arc::new(state.publisher.snapshot(PART));
        state.snapshots.push_back(super::Made { at: now, parts: parts.clone() });
        parts
    }

    /// A page of the snapshot. `rev`: the position of the pages pulled so far; when it has passed, the caller starts over.
    pub fn snapshot_page(&self, part: u32, rev: Option<Rev>) -> Result<Snapshot, AppError> {
        if let Some(why) = self.why_not_ready() {
            return Err(AppError::Fault(why.into()));
        }
        let mut state = self.state();
        let parts = match rev {
            None => self.snapshot_of(&mut state),
            Some(rev) => match state.snapshots.iter().rfind(|made| made.parts[0].rev == rev) {
                Some(made) => made.parts.clone(),
                None => {
                    let detail = "that snapshot has passed; start again with part=0 and without rev".into();
                    return Err(AppError::Bad(Code::Conflict, detail));
                }
            },
        };
        drop(state);
        let index = usize::try_from(part).unwrap_or(usize::MAX);
        parts.get(index).cloned().ok_or_else(|| AppError::Bad(Code::NotFound, "there is no such part".into()))
    }
}

impl Subscription {
    /// The next bytes of the stream; `None` when it has ended. Waits until there is something to say.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            match self.first.pop_front() {
                Some(First::Event(bytes)) => return Some(bytes),
                Some(First::Part(parts, n)) => {
                    // Only the last part gives a position: what is half received is not resumed.
                    let position = (n + 1 == parts.len()).then(|| {
                        let Snapshot { epoch, rev, chain, .. } = parts[n];
                        Position { epoch, rev, chain }
                    });
                    return Some(self.hub.event("snapshot", position, &parts[n]));
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
        Some(Bytes::from_static(b"event: bye\ndata: {}\n\n"))
    }

    fn poll_now(&mut self) -> Option<Bytes> {
        let hub = self.hub.clone();
        if hub.inner.closing.load(Ordering::Acquire) || hub.why_not_ready().is_some() {
            return self.bye();
        }
        let mut state = hub.state();
        if state.closed_clients.contains_key(&self.client)
            || state.fleet.must_return(self.instance)
            || state.fleet.gives_way(self.instance, self.number)
        {
            drop(state);
            return self.bye();
        }
        if state.keys_version != self.keys_version {
            self.keys_version = state.keys_version;
            return Some(hub.event("keys", None, &state.publisher.keys_frame()));
        }
        if state.publisher.head() > self.at {
            if let Some(batch) = state.batches.iter_mut().rev().find(|batch| batch.after == self.at) {
                self.at = batch.last;
                // Who waits waits for one write to each verifier, not for two.
                if self.is_prompted(&hub) {
                    return Some(batch.asking.get_or_insert_with(|| asking(&hub, &batch.event)).clone());
                }
                return Some(batch.event.clone());
            }
            return match state.publisher.resume(self.epoch, self.at, MAX_RESUME) {
                Resume::Entries(entries) => {
                    self.at = state.publisher.head();
                    Some(hub.event("entries", Some(Position::of(&state.publisher)), &Entries { entries, ack: false }))
                }
                Resume::Snapshot | Resume::Ahead => {
                    drop(state);
                    hub.inner.stats.dropped.fetch_add(1, Ordering::Relaxed);
                    self.bye()
                }
            };
        }
        drop(state);
        self.is_prompted(&hub).then(|| prompt(&hub))
    }

    /// Whether somebody waits for this stream to be told to speak, who knows everything that it should speak of; once for each wait.
    fn is_prompted(&mut self, hub: &Hub) -> bool {
        let prompt = hub.inner.prompt.load(Ordering::Acquire);
        let prompted = prompt > self.prompted && prompt <= self.at.0;
        if prompted {
            self.prompted = prompt;
        }
        prompted
    }
}

/// The event that asks for an acknowledgement.
fn prompt(hub: &Hub) -> Bytes {
    hub.event("entries", None, &Entries { entries: vec![], ack: true })
}

/// An event, and the one that asks for an acknowledgement right behind it.
fn asking(hub: &Hub, event: &Bytes) -> Bytes {
    Bytes::from([&event[..], &prompt(hub)[..]].concat())
}
