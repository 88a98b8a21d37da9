//! The feed at the node: reads of the committed log, streams, leases, enforcement; as `app`'s hub does it, around the real
//! `Publisher` and `Fleet`.
use crate::clock::At;
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::verifiers::Reach;
use crate::world::{Event, World, tell};
use portcullis_domain::Chance as _;
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_domain::model::Instance;
use portcullis_feed::fleet::{self, Fleet};
use portcullis_feed::publisher::{Limits, LogState, Publisher, Resume};
use portcullis_feed::subscriber::{Ask, Frame};
use portcullis_feed::{Mono, Policies};
use portcullis_store::{CommitError, LogRead};
use portcullis_wire::frame::{AckAnswer, Entries, Hello, Snapshot, VERSION};
use portcullis_wire::jws::Jwk;
use portcullis_wire::{ClientId, Digest, Entry, Epoch, InstanceId, Rev, SecretString, Verb, b64};
use std::collections::BTreeMap;

const PART: usize = 3;
const MAX_RESUME: usize = 8;
const MAX_TAIL: usize = 6;

/// The feed's state in the node's memory.
#[derive(Debug)]
pub struct Hub {
    pub publisher: Publisher,
    pub fleet: Fleet,
    secrets: BTreeMap<InstanceId, Digest>,
    streams: BTreeMap<u64, Stream>,
    openings: BTreeMap<u64, Opening>,
    begun: u64,
    reading: Option<Read>,
    again: bool,
    due: u64,
    last_read: Mono,
    asks: BTreeMap<u64, Waiting>,
    /// Grows whenever the list of keys becomes another.
    keys_version: u64,
    /// Acts whose enforcement somebody waits for: the act and its rev.
    waits: Vec<(usize, Rev)>,
    /// When this life began, and the head then.
    started: (Mono, Rev),
    prompt: Rev,
}

#[derive(Debug)]
struct Stream {
    verifier: usize,
    instance: InstanceId,
    at: Rev,
    keys_version: u64,
    prompted: Rev,
    /// Frames arrive in order, unless the network misbehaves.
    arrives: At,
}

#[derive(Debug)]
struct Opening {
    verifier: usize,
    conn: u64,
    instance: InstanceId,
    secret: SecretString,
    position: Option<(Epoch, Rev)>,
}

#[derive(Debug)]
struct Read {
    number: u64,
    began: Mono,
    result: Option<LogRead>,
}

#[derive(Debug)]
struct Waiting {
    verifier: usize,
    ask: Ask,
    arrived: Mono,
    wanted: u64,
    /// Whether nobody held a lease when it was asked.
    alone: bool,
}

fn load(world: &World) -> Publisher {
    let (stamp, live) = world.disk.visible.read_live(world.database.now(world.now));
    let (log, epoch, head, chain, floor) = (stamp.log, stamp.epoch, stamp.head, stamp.chain, stamp.floor);
    let limits = Limits { recent: 12, set: 10_000 };
    Publisher::new(LogState { log, epoch, head, chain, floor, live }, limits, world.node_now())
}

/// A lease by a question that arrived at `basis` may be out from now on. `false`: nobody knows the instance.
fn count_lease(hub: &mut Hub, instance: InstanceId, basis: Mono, now: Mono) -> bool {
    hub.fleet.lease_granted(instance, basis, now).is_ok()
}

fn parse_position(text: &str) -> Option<(Epoch, Rev)> {
    let (epoch, rev) = text.split_once('.')?;
    Some((Epoch(epoch.parse().ok()?), Rev(rev.parse().ok()?)))
}

fn listed(row: &Instance) -> fleet::Instance {
    let policies: Policies = row.policy.parse().unwrap_or_default();
    let bound_ms = i64::try_from(row.bound_ms).ok();
    fleet::Instance { id: row.id, name: row.name.clone(), client: row.client, policies, bound_ms }
}

impl World {
    pub fn start_hub(&mut self) {
        let now = self.node_now();
        let mut fleet = Fleet::new(self.settings.bound, 0, 1000);
        let mut secrets = BTreeMap::new();
        for row in self.disk.visible.list_instances() {
            secrets.insert(row.id, row.secret);
            let _ = fleet.restore(listed(&row), now);
        }
        let publisher = load(self);
        self.node.hub = Some(Hub {
            started: (now, publisher.head()),
            publisher,
            fleet,
            secrets,
            streams: BTreeMap::new(),
            openings: BTreeMap::new(),
            begun: 0,
            reading: None,
            again: false,
            due: 0,
            last_read: now,
            asks: BTreeMap::new(),
            keys_version: 0,
            waits: Vec::new(),
            prompt: Rev::ZERO,
        });
    }

    fn hub(&mut self) -> Option<&mut Hub> {
        self.node.hub.as_mut()
    }

    // ---- reads of the committed log ----

    /// Something may have been committed, or somebody waits for a read: begin one now, or after the one that runs.
    pub fn wake_hub(&mut self) {
        let Some(hub) = self.hub() else { return };
        if hub.reading.is_some() {
            hub.again = true;
        } else {
            self.begin_read();
        }
    }

    pub fn read_due(&mut self, seq: u64) {
        if self.hub().is_some_and(|hub| hub.due == seq && hub.reading.is_none()) {
            self.begin_read();
        }
    }

    fn begin_read(&mut self) {
        let began = self.node_now();
        let Some(hub) = self.hub() else { return };
        hub.begun += 1;
        hub.reading = Some(Read { number: hub.begun, began, result: None });
        let (life, delay) = (self.node.life, self.rng.delay(2, 50));
        self.after(delay, Event::ReadSnapshot { life });
    }

    pub fn read_snapshot(&mut self) {
        let Some(after) = self.hub().map(|hub| hub.publisher.head()) else { return };
        let read = self.disk.visible.read_log(after, 10_000, self.database.now(self.now));
        if let Some(reading) = self.hub().and_then(|hub| hub.reading.as_mut()) {
            reading.result = Some(read);
        }
        let mut delay = self.rng.delay(2, 50);
        // The worst moment for an end is while the log is read for a lease and nobody else holds one: no one else is waited for.
        let alone = self.hub().is_some_and(|hub| hub.asks.values().any(|ask| ask.alone));
        if self.rng.chance(if alone { 400 } else { 20 }) {
            self.counts.add("reads slow");
            delay = self.rng.range(50, self.settings.bound / 5);
            if alone {
                self.counts.add("ends during a first lease");
                self.admin_does();
            }
        }
        if self.rng.chance(2) {
            self.counts.add("reads stalled");
            delay = self.rng.range(self.settings.bound / 8, 2 * self.settings.bound);
        }
        let life = self.node.life;
        self.after(delay, Event::ReadDone { life });
    }

    pub fn read_done(&mut self) {
        let now = self.node_now();
        let Some(hub) = self.node.hub.as_mut() else { return };
        let Some(Read { number, began, result: Some(read) }) = hub.reading.take() else { return };
        let planted = self.mutant == Some(Mutant::PublishBeforeCommit);
        let about_keys = !read.complete || read.entries.iter().any(|entry| entry.verb == Verb::Key);
        let keys = about_keys.then(|| self.listed_keys());
        let Some(hub) = self.node.hub.as_mut() else { return };
        let entries: Vec<Entry> = read.entries.iter().filter(|e| e.rev > hub.publisher.head()).cloned().collect();
        if let Some(keys) = keys
            && hub.publisher.set_keys(keys)
        {
            hub.keys_version += 1;
        }
        if !read.complete {
            let mut fresh = load(self);
            if let Some(hub) = self.hub() {
                hub.fleet.committed(fresh.head(), now);
                fresh.set_keys(hub.publisher.keys().to_vec());
                hub.publisher = fresh;
            }
        } else if let Some(last) = entries.last() {
            let whole = last.rev == read.stamp.head;
            if let Err(broken) = hub.publisher.append(&entries, read.stamp.chain, now)
                && !planted
                && whole
            {
                return self.violate("I4", format!("the log at the node: {broken}"));
            }
            if let Some(hub) = self.hub() {
                entries.iter().for_each(|entry| hub.fleet.committed(entry.rev, now));
            }
        }
        let Some(hub) = self.hub() else { return };
        hub.publisher.set_floor(read.stamp.floor);
        hub.last_read = began;
        let ready: Vec<u64> = hub.asks.iter().filter(|(_, ask)| ask.wanted <= number).map(|(id, _)| *id).collect();
        for id in ready {
            self.grant(id, began, &read);
        }
        self.feed_streams();
        self.look_at_enforcement();
        let life = self.node.life;
        let poll = (self.settings.bound / 12).clamp(20, 500);
        let Some(hub) = self.hub() else { return };
        hub.due += 1;
        let (seq, again) = (hub.due, std::mem::take(&mut hub.again));
        if again || !hub.asks.is_empty() {
            self.begin_read();
        } else {
            self.after(poll, Event::ReadDue { life, seq });
        }
    }

    fn stale(&self) -> bool {
        let now = self.node_now();
        self.node.hub.as_ref().is_none_or(|hub| now.since(hub.last_read) > self.settings.bound / 4)
    }

    // ---- streams ----

    pub fn open(
        &mut self,
        verifier: usize,
        conn: u64,
        identity: Option<(InstanceId, SecretString)>,
        position: Option<String>,
    ) {
        if self.stale() {
            return self.answer_verifier(verifier, Reach::Ended { conn });
        }
        let Some(hub) = self.node.hub.as_ref() else { return };
        let known = identity.filter(|(id, secret)| hub.secrets.get(id) == Some(&secret.digest()));
        let is_new = known.is_none();
        let (instance, secret) = known.unwrap_or_else(|| {
            let secret = SecretString::new(b64::encode(&self.rng.secret()));
            (InstanceId::from_bits(self.rng.bits()), secret)
        });
        let row = Instance {
            id: instance,
            client: ClientId::from_bits(7),
            name: format!("verifier {verifier}"),
            policy: Policies::default().to_string(),
            bound_ms: self.settings.bound.unsigned_abs(),
            secret: secret.digest(),
            created_at: self.database.now(self.now),
        };
        let step = if is_new { Change::InsertInstance(row) } else { Change::UpdateInstance(row) };
        let position = position.as_deref().and_then(parse_position);
        let id = self.fresh();
        if let Some(hub) = self.hub() {
            hub.openings.insert(id, Opening { verifier, conn, instance, secret, position });
        }
        let changes = Changes { steps: vec![step], ..Changes::default() };
        self.submit(Owner::Opening(id), changes, About::default());
    }

    pub fn opening_committed(&mut self, id: u64, result: Result<Committed, CommitError>) {
        let now = self.node_now();
        let (bound, max_life_s) = (self.settings.bound, self.settings.max_life_s());
        let Some(hub) = self.node.hub.as_mut() else { return };
        let Some(Opening { verifier, conn, instance, secret, position }) = hub.openings.remove(&id) else { return };
        let row = self.disk.visible.list_instances().into_iter().find(|row| row.id == instance);
        let Some(row) = row.filter(|_| result.is_ok()) else {
            return self.answer_verifier(verifier, Reach::Ended { conn });
        };
        let known = hub.fleet.known(listed(&row), now).is_ok() && hub.fleet.stream_opened(instance, now).is_ok();
        if !known {
            return self.answer_verifier(verifier, Reach::Ended { conn });
        }
        hub.secrets.insert(instance, row.secret);
        let publisher = &hub.publisher;
        let (epoch, head) = (publisher.epoch(), publisher.head());
        let hello = Hello {
            v: VERSION,
            log: publisher.log(),
            instance,
            instance_secret: secret,
            epoch,
            head,
            chain: publisher.chain(),
            bound_ms: bound.unsigned_abs(),
            max_life_s,
        };
        let resume = position.map_or(Resume::Snapshot, |(epoch, rev)| publisher.resume(epoch, rev, MAX_RESUME));
        let mut frames = vec![(Frame::Hello(hello), None)];
        let name = |rev: Rev| Some(format!("{epoch}.{rev}"));
        let at = match resume {
            Resume::Entries(entries) => {
                self.counts.add("resumes");
                frames.push((Frame::Keys(hub.publisher.keys_frame()), None));
                frames.push((Frame::Entries(Entries { entries, ack: false }), name(head)));
                head
            }
            Resume::Snapshot => {
                self.counts.add("snapshots sent");
                let parts = self.snapshot();
                let last = parts.len() - 1;
                let rev = parts[last].rev;
                frames.extend(
                    parts
                        .into_iter()
                        .enumerate()
                        .map(|(n, part)| (Frame::Snapshot(part), name(rev).filter(|_| n == last))),
                );
                rev
            }
            Resume::Ahead if self.mutant == Some(Mutant::PublishBeforeCommit) => return,
            Resume::Ahead => {
                return self.violate("I4", format!("verifier {verifier} proves a position beyond the log"));
            }
        };
        let keys_version = self.node.hub.as_ref().map_or(0, |hub| hub.keys_version);
        let stream = Stream { verifier, instance, at, keys_version, prompted: Rev::ZERO, arrives: self.now };
        if let Some(hub) = self.hub() {
            hub.streams.insert(conn, stream);
        }
        for (frame, id) in frames {
            self.send_frame(conn, frame, id);
        }
        self.feed_streams();
    }

    /// The snapshot as of the publisher's head.
    fn snapshot(&mut self) -> Vec<Snapshot> {
        let Some(hub) = self.node.hub.as_ref() else { return Vec::new() };
        let mut parts = hub.publisher.snapshot(PART);
        if self.has(Mutant::ForgetByTtl) {
            let (now, ttl) = (self.database.now(self.now), self.settings.rules.access_ttl / 2);
            for part in &mut parts {
                part.entries.retain(|entry| {
                    let at = usize::try_from(entry.rev.0).ok().and_then(|n| self.truth.committed_at.get(n - 1));
                    at.is_none_or(|at| at.plus(ttl) > now)
                });
            }
        }
        self.check_snapshot(&parts);
        parts
    }

    /// Sends each stream what comes after its position.
    pub fn feed_streams(&mut self) {
        let stale = self.stale();
        let Some(hub) = self.node.hub.as_mut() else { return };
        let (epoch, head, prompt) = (hub.publisher.epoch(), hub.publisher.head(), hub.prompt);
        let mut out = Vec::new();
        for (conn, stream) in &mut hub.streams {
            if stale {
                out.push((*conn, Frame::Bye, None));
                continue;
            }
            if stream.keys_version != hub.keys_version {
                stream.keys_version = hub.keys_version;
                out.push((*conn, Frame::Keys(hub.publisher.keys_frame()), None));
            }
            if stream.at < head {
                match hub.publisher.resume(epoch, stream.at, MAX_RESUME) {
                    Resume::Entries(entries) => {
                        stream.at = head;
                        let ack = false;
                        out.push((*conn, Frame::Entries(Entries { entries, ack }), Some(format!("{epoch}.{head}"))));
                    }
                    Resume::Snapshot | Resume::Ahead => out.push((*conn, Frame::Bye, None)),
                }
            }
            if prompt > stream.prompted && prompt <= stream.at {
                stream.prompted = prompt;
                out.push((*conn, Frame::Entries(Entries { entries: vec![], ack: true }), None));
            }
        }
        for (conn, frame, id) in out {
            let bye = matches!(frame, Frame::Bye);
            self.send_frame(conn, frame, id);
            if bye {
                self.close_stream(conn);
            }
        }
    }

    fn send_frame(&mut self, conn: u64, frame: Frame, id: Option<String>) {
        let Some(verifier) = self.hub().and_then(|hub| hub.streams.get(&conn).map(|stream| stream.verifier)) else {
            return;
        };
        let cut = self.net.links[verifier].stream;
        if self.rng.chance(6) {
            return self.counts.add("stream frames dropped");
        }
        let delay = self.rng.delay(10, 800);
        let doubled = self.rng.chance(6);
        let overtakes = self.rng.chance(6);
        let now = self.now;
        let Some(stream) = self.node.hub.as_mut().and_then(|hub| hub.streams.get_mut(&conn)) else { return };
        let mut at = (now + delay).max(cut);
        if overtakes {
            self.counts.add("stream frames reordered");
        } else {
            at = at.max(stream.arrives);
            stream.arrives = at;
        }
        let life = self.verifiers[verifier].life;
        let what = Reach::Frame { conn, frame, id };
        let message = crate::net::ToVerifier { verifier, life, what };
        if doubled {
            self.counts.add("stream frames duplicated");
            self.at(at + 1, Event::AtVerifier(Box::new(message.clone())));
        }
        self.at(at, Event::AtVerifier(Box::new(message)));
    }

    /// The server's end of a stream is gone.
    pub fn close_stream(&mut self, conn: u64) {
        if let Some(hub) = self.hub()
            && let Some(stream) = hub.streams.remove(&conn)
        {
            hub.fleet.stream_closed(stream.instance);
        }
    }

    /// The network broke this verifier's streams.
    pub fn break_streams(&mut self, verifier: usize) {
        let Some(hub) = self.hub() else { return };
        let conns: Vec<u64> = hub.streams.iter().filter(|(_, s)| s.verifier == verifier).map(|(c, _)| *c).collect();
        for conn in conns {
            self.close_stream(conn);
            self.stream_ends(verifier, conn);
        }
    }

    /// All streams end: the server died.
    pub fn close_all_streams(&mut self) {
        let Some(hub) = self.hub() else { return };
        let streams: Vec<(u64, usize)> = hub.streams.iter().map(|(conn, stream)| (*conn, stream.verifier)).collect();
        for (conn, verifier) in streams {
            self.stream_ends(verifier, conn);
        }
    }

    fn stream_ends(&mut self, verifier: usize, conn: u64) {
        self.counts.add("streams broken");
        let (life, delay) = (self.verifiers[verifier].life, self.rng.delay(50, 3_000));
        let what = Reach::Ended { conn };
        self.after(delay, Event::AtVerifier(Box::new(crate::net::ToVerifier { verifier, life, what })));
    }

    pub fn pulled(&mut self, verifier: usize, part: u32, rev: Option<Rev>) {
        if self.stale() {
            return self.answer_verifier(verifier, Reach::PullFailed { conflict: false });
        }
        let parts = self.snapshot();
        let page = parts.into_iter().find(|page| page.part == part && rev.is_none_or(|rev| rev == page.rev));
        match page {
            Some(page) => {
                self.counts.add("snapshots pulled");
                self.answer_verifier(verifier, Reach::Page(page));
            }
            None => self.answer_verifier(verifier, Reach::PullFailed { conflict: true }),
        }
    }

    // ---- leases ----

    pub fn asked(&mut self, verifier: usize, ask: Ask) {
        let arrived = self.node_now();
        let Some(hub) = self.node.hub.as_mut() else { return };
        let alone = hub.fleet.list(arrived).iter().all(|listed| !listed.leased);
        if hub.secrets.get(&ask.identity.instance) != Some(&ask.identity.secret.digest()) {
            self.counts.add("leases refused");
            return self.answer_verifier(verifier, Reach::AskFailed { nonce: ask.nonce, gone: true });
        }
        // Counted from now on, not from when the read is done: what is committed and asked about meanwhile must wait for the
        // lease that this read may give without it.
        let counted = self.mutant == Some(Mutant::LeaseCountedAfterRead)
            || count_lease(hub, ask.identity.instance, arrived, arrived);
        if !counted {
            self.counts.add("leases refused");
            return self.answer_verifier(verifier, Reach::AskFailed { nonce: ask.nonce, gone: true });
        }
        let wanted = hub.begun + 1;
        let id = self.fresh();
        let cached = self.has(Mutant::CachedHeadWithoutAge);
        if let Some(hub) = self.hub() {
            hub.asks.insert(id, Waiting { verifier, ask, arrived, wanted, alone });
        }
        if cached {
            return self.grant_cached(id);
        }
        self.wake_hub();
        let (life, limit) = (self.node.life, self.settings.bound / 4);
        self.after(limit, Event::LeaseTimeout { life, ask: id });
    }

    pub fn lease_timeout(&mut self, id: u64) {
        let Some(waiting) = self.hub().and_then(|hub| hub.asks.remove(&id)) else { return };
        self.counts.add("leases refused");
        self.answer_verifier(waiting.verifier, Reach::AskFailed { nonce: waiting.ask.nonce, gone: false });
    }

    /// A bug: the head that happens to be known, as if it had been read just now.
    fn grant_cached(&mut self, id: u64) {
        let Some(hub) = self.node.hub.as_ref() else { return };
        let mut stamp = self.disk.visible.stamp(self.database.now(self.now));
        (stamp.head, stamp.chain, stamp.floor) = (hub.publisher.head(), hub.publisher.chain(), hub.publisher.floor());
        let began = self.node_now();
        self.grant(id, began, &LogRead { stamp, entries: Vec::new(), complete: true });
    }

    fn grant(&mut self, id: u64, began: Mono, read: &LogRead) {
        let now = self.node_now();
        let Some(hub) = self.node.hub.as_mut() else { return };
        let Some(Waiting { verifier, ask, arrived, .. }) = hub.asks.remove(&id) else { return };
        let instance = ask.identity.instance;
        let gone = Reach::AskFailed { nonce: ask.nonce.clone(), gone: true };
        let known = hub.fleet.may_lease(instance, began) && {
            let at_head = ask.epoch == read.stamp.epoch && ask.applied <= read.stamp.head;
            let confirmed = hub.publisher.confirmed(ask.applied, Some(&ask.keys));
            !at_head || hub.fleet.ack(instance, confirmed, now).is_ok()
        };
        let too_late = self.mutant == Some(Mutant::LeaseCountedAfterRead);
        if !known || too_late && !count_lease(hub, instance, arrived.min(began), now) {
            self.counts.add("leases refused");
            return self.answer_verifier(verifier, gone);
        }
        let publisher = &hub.publisher;
        let answer = AckAnswer {
            nonce: ask.nonce,
            epoch: publisher.epoch(),
            head: publisher.head(),
            chain: publisher.chain(),
            horizon_floor: read.stamp.floor,
            age_ms: 0,
            time: Some(read.stamp.now),
            position: Some(format!("{}.{}", publisher.epoch(), publisher.head())),
            entries: publisher.tail(ask.epoch, ask.applied, MAX_TAIL),
            keys: publisher.keys_unless(Some(&ask.keys)).filter(|_| self.mutant != Some(Mutant::LeaseWithoutKeys)),
        };
        self.counts.add("leases granted");
        let head = answer.head;
        self.answer_verifier(verifier, Reach::Answer(answer));
        self.look_at_enforcement();
        self.probe_enforced_after(head);
    }

    /// Another list of keys.
    pub fn publish_keys(&mut self, keys: Vec<Jwk>) {
        if let Some(hub) = self.hub()
            && hub.publisher.set_keys(keys)
        {
            hub.keys_version += 1;
            self.feed_streams();
        }
    }

    // ---- enforcement ----

    /// Whether an entry is in force at every verifier that may be fresh.
    pub fn is_enforced(&self, rev: Rev) -> bool {
        let now = self.node_now();
        let Some(hub) = self.node.hub.as_ref() else { return false };
        let earlier = (rev <= hub.started.1).then_some(hub.started.0);
        let committed = earlier.or(hub.fleet.committed_at(rev)).unwrap_or(now);
        hub.fleet.enforcement(rev, committed, now).complete
    }

    /// Somebody waits until this act is true everywhere.
    pub fn wait_enforced(&mut self, act: usize, rev: Rev) {
        if let Some(hub) = self.hub() {
            hub.prompt = hub.prompt.max(rev);
            hub.waits.push((act, rev));
        }
        self.feed_streams();
        self.look_at_enforcement();
    }

    /// Looks which of the acts that somebody waits for are true everywhere by now.
    pub fn look_at_enforcement(&mut self) {
        let now = self.node_now();
        let Some(hub) = self.hub() else { return };
        let mut done = Vec::new();
        let (fleet, (started, head_then)) = (&hub.fleet, hub.started);
        hub.waits.retain(|(act, rev)| {
            // A moment no earlier than the commit: of this life's start, of the read that brought it, or now.
            let earlier = (*rev <= head_then).then_some(started);
            let committed = earlier.or(fleet.committed_at(*rev)).unwrap_or(now);
            let state = fleet.enforcement(*rev, committed, now);
            if state.complete {
                done.push((*act, state));
            }
            !state.complete
        });
        for (act, state) in done {
            let kind = if state.lapsed > 0 { "enforced: by arithmetic" } else { "enforced: acknowledged" };
            self.counts.add(kind);
            self.truth.acts[act].enforced = Some(self.now);
            tell!(self, "server: rev {} is enforced: {state:?}", self.truth.acts[act].rev);
            self.probe_killed_by(act, 0);
        }
    }

    /// A bug: what is about to be committed is sent already.
    pub fn publish_too_early(&mut self, changes: &Changes) {
        let until = self.stamp().horizon;
        let now = self.node_now();
        let Some(hub) = self.node.hub.as_mut() else { return };
        for step in &changes.steps {
            if let Change::Revoke(what) = step
                && what.verb != Verb::Key
                && let Some(rev) = hub.publisher.head().next()
            {
                let (verb, target) = (what.verb.clone(), what.target.clone());
                let entry = Entry { rev, verb, target, except: what.except, spread_ms: what.spread_ms, until };
                let chain = hub.publisher.chain().after(&entry);
                let _ = hub.publisher.append(&[entry], chain, now);
            }
        }
        self.feed_streams();
    }
}
