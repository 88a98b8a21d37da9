//! The log at the verifier: what arrives goes in, what should be done comes out (DESIGN §4.3, §4.4).
//!
//! [`Subscriber::handle`] takes one [`Input`] and the time, and returns [`Action`]s to be done in their order: a
//! [`Action::Publish`] before an [`Action::Ask`] makes the new knowledge visible to every thread before it is acknowledged.
//! [`Subscriber::wake_at`] says when to come back with [`Input::Tick`]. Every loss is survived: an answer that never comes is
//! asked for again, a gap is closed by the next answer, a stream that fails is opened again after a growing delay.
//!
//! Limits: at most [`ASKS_IN_FLIGHT`] questions, [`KEYS_LIMIT`] keys, [`PARTS_LIMIT`] snapshot parts, [`PENDING_LIMIT`] answers
//! that wait for a snapshot, [`LINKS_LIMIT`] remembered chain links; the set has its own. How large one frame may be is for
//! the embedding crate to limit, where bytes are read.
use crate::knowledge::{Anchor, Knowledge, Lease, Proven};
use crate::mono::shortened;
use crate::{Mono, RevokedSet};
use alloc::{collections::VecDeque, format, string::String, sync::Arc, vec::Vec};
use portcullis_wire::frame::{self, AckAnswer, Hello, Keys, Snapshot, Tail};
use portcullis_wire::time::Millis;
use portcullis_wire::{Chain, Entry, Epoch, Rev, Time};

mod message;
pub use message::{Action, Ask, Config, Frame, Identity, Input, News, Now, Trouble};

/// How many questions for a lease may wait for an answer.
pub const ASKS_IN_FLIGHT: usize = 3;
/// How many public keys a server may list.
pub const KEYS_LIMIT: usize = 256;
/// How many parts a snapshot may have.
pub const PARTS_LIMIT: u32 = 10_000;
/// How many answers may wait until their head is applied.
pub const PENDING_LIMIT: usize = 8;
/// How many links of the chain are remembered, to tell a fork.
pub const LINKS_LIMIT: usize = 1024;
/// A snapshot that makes no progress for so long is given up.
const SNAPSHOT_STALL_MS: Millis = 15_000;
/// When the stream has brought no part of the first snapshot for so long after its `hello` (a proxy may hold it back), pages
/// are pulled.
const FIRST_SNAPSHOT_MS: Millis = 2_000;
/// For how long an answer's time may be preferred to later ones.
const TIME_KEPT_MS: Millis = 60_000;
/// How often within a bound a lease is asked for, and how often by a relay.
const ASKS: Millis = 3;
const RELAY_ASKS: Millis = 8;
/// The most entries that are kept for a relay; of more it begins anew.
const NEWS_LIMIT: usize = 16_384;
/// The longest delay before a stream is opened again.
const RECONNECT_CAP_MS: Millis = 2_000;

#[derive(Debug)]
enum Stream {
    /// Closed; to be opened then.
    Waiting(Mono),
    /// Opened; no `hello` yet.
    Opening,
    /// `hello` was accepted.
    Open,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    asked: Anchor,
    applied: Rev,
    epoch: Epoch,
}

#[derive(Debug)]
struct Pending {
    head: Rev,
    from: Mono,
    wall: Anchor,
}

/// A snapshot that is coming in, by the stream or in pulled pages.
#[derive(Debug)]
struct Partial {
    pulled: bool,
    next: u32,
    parts: u32,
    epoch: Epoch,
    rev: Rev,
    chain: Chain,
    last: Rev,
    floor: Time,
    keys: Vec<portcullis_wire::jws::Jwk>,
    set: RevokedSet,
    progressed: Mono,
}

/// What the server has named, by an answer or a snapshot with an `id`: where a follower goes back to when what came after it turns
/// out to be a fork. A relay hands on what the server has not named yet, without one, and its word confirms nothing: it may have
/// to take that back itself.
#[derive(Debug)]
struct Confirmed {
    rev: Rev,
    link: Chain,
    set: RevokedSet,
}

/// The follower; see the [module](self).
#[derive(Debug)]
pub struct Subscriber {
    config: Config,
    known: Knowledge,
    identity: Option<Identity>,
    position: Option<String>,
    server_bound_ms: Millis,
    links: VecDeque<(Rev, Chain)>,
    confirmed: Option<Confirmed>,
    keys_rev: Rev,
    stream: Stream,
    failures: u32,
    asks: Vec<InFlight>,
    ask_at: Option<Mono>,
    last_ask: Option<Mono>,
    ask_again: bool,
    pending: Vec<Pending>,
    partial: Option<Partial>,
    news: News,
    out: Vec<Action>,
    dirty: bool,
}

impl Subscriber {
    /// A verifier that knows nothing yet. It opens its stream with the first [`Input::Tick`].
    pub fn new(config: Config) -> Self {
        let mut known = Knowledge::nothing(RevokedSet::with_limit(config.set_limit));
        known.log = config.log;
        Self {
            config,
            known,
            identity: None,
            position: None,
            server_bound_ms: 0,
            links: VecDeque::new(),
            confirmed: None,
            keys_rev: Rev::ZERO,
            stream: Stream::Waiting(Mono(i64::MIN)),
            failures: 0,
            asks: Vec::new(),
            ask_at: None,
            last_ask: None,
            ask_again: false,
            pending: Vec::new(),
            partial: None,
            news: News::default(),
            out: Vec::new(),
            dirty: false,
        }
    }

    /// What is known now.
    pub fn knowledge(&self) -> &Knowledge {
        &self.known
    }

    /// Who this verifier is at the server, once it was told.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether the stream is open and was accepted.
    pub fn connected(&self) -> bool {
        matches!(self.stream, Stream::Open)
    }

    /// The last `id`, when one came: it stands for a position that was once the applied one.
    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// The chain link at the applied position, once there is a snapshot.
    pub fn link(&self) -> Option<Chain> {
        self.link_at(self.known.applied)
    }

    /// What was applied since the last call; kept only when [`Config::relays`].
    pub fn take_news(&mut self) -> News {
        core::mem::take(&mut self.news)
    }

    fn anew(&mut self) {
        self.news = News { anew: true, entries: Vec::new() };
    }

    /// When to come back with [`Input::Tick`], if nothing else arrives.
    pub fn wake_at(&self) -> Option<Mono> {
        let stream = match self.stream {
            Stream::Waiting(at) => Some(at),
            Stream::Opening | Stream::Open => None,
        };
        let stall = self.partial.as_ref().map(|p| p.progressed.plus(SNAPSHOT_STALL_MS));
        [stream, self.ask_at, stall].into_iter().flatten().min()
    }

    /// Takes one input in; returns what to do, in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Action> {
        self.watch_clocks(now);
        match input {
            Input::Frame(frame, id) => self.frame(frame, id, now),
            Input::StreamEnded => self.stream_ended(now),
            Input::Answer(answer) => self.answer(answer, now),
            Input::AskFailed { nonce, gone } => self.ask_failed(&nonce, gone, now),
            Input::Page(page) => {
                if self.partial.as_ref().is_some_and(|p| p.pulled) {
                    self.snapshot_part(page, true, now);
                }
            }
            Input::PullFailed { conflict } => self.pull_failed(conflict, now),
            Input::CatchUp => self.ask_soon(now),
            Input::Tick => {}
        }
        self.due(now);
        core::mem::take(&mut self.out)
    }

    fn report(&mut self, trouble: Trouble) {
        self.out.push(Action::Report(trouble));
    }

    fn watch_clocks(&mut self, now: Now) {
        if self.known.lease.is_some_and(|lease| lease.outrun(now.mono, now.wall)) {
            self.known.lease = None;
            self.dirty = true;
            self.report(Trouble::ClockOutrun);
            self.ask_at = self.ask_at.map(|at| at.min(now.mono));
        }
    }

    // ---- the stream ----

    fn frame(&mut self, frame: Frame, id: Option<String>, now: Now) {
        match (frame, &self.stream) {
            (_, Stream::Waiting(_)) => {} // what was left of a stream that is closed already
            (Frame::Hello(hello), _) => self.hello(hello, now),
            (Frame::Bye, _) => {
                self.out.push(Action::Disconnect);
                self.stream = Stream::Waiting(now.mono.plus(jitter(RECONNECT_CAP_MS / 4, now)));
            }
            (_, Stream::Opening) => self.refuse_stream(Trouble::Malformed, now),
            (Frame::Snapshot(part), Stream::Open) => {
                if !self.partial.as_ref().is_some_and(|p| p.pulled) && self.snapshot_part(part, false, now) {
                    self.named(id);
                }
            }
            (Frame::Entries(frame), Stream::Open) => self.stream_entries(&frame, now),
            (Frame::Keys(keys), Stream::Open) => self.take_keys(keys, now),
        }
    }

    fn refuse_stream(&mut self, trouble: Trouble, now: Now) {
        if trouble == Trouble::Fork {
            self.leave_fork();
        }
        self.report(trouble);
        self.out.push(Action::Disconnect);
        self.failures = self.failures.max(4);
        self.stream_ended(now);
    }

    /// Entries of a stream are in force before a hash has confirmed them, for an end must not wait. Of a fork nothing may stay:
    /// else the right log would look as if it had been rolled back when it comes again. Where nothing was confirmed yet, nothing is
    /// known, and nothing accepted, until another snapshot.
    fn leave_fork(&mut self) {
        self.anew();
        let Some(Confirmed { rev, link, set }) = &self.confirmed else {
            (self.known.synced, self.ask_at) = (false, None);
            (self.known.lease, self.known.proven) = (None, None);
            (self.known.applied, self.known.set) = (Rev::ZERO, self.known.set.emptied());
            self.links.clear();
            self.pending.clear();
            self.asks.clear();
            self.dirty = true;
            return;
        };
        let (rev, link, mut set) = (*rev, *link, set.clone());
        if let Some(floor) = self.known.floor {
            set.forget(floor.time);
        }
        if rev < self.known.applied {
            // What is taken back may have been acknowledged, and the lease may rest on it.
            (self.known.lease, self.known.proven) = (None, None);
        }
        self.known.set = set;
        self.known.applied = rev;
        self.links.retain(|(at, _)| *at < rev);
        self.remember(rev, link);
        self.pending.clear();
        self.asks.clear();
        self.dirty = true;
    }

    /// The server has given what is applied this name, if any: only that is shown to it as ours to come back to.
    fn named(&mut self, name: Option<String>) {
        if let (Some(name), Some(link)) = (name, self.link()) {
            self.confirmed = Some(Confirmed { rev: self.known.applied, link, set: self.known.set.clone() });
            self.position = Some(name);
        }
    }

    fn stream_ended(&mut self, now: Now) {
        if matches!(self.stream, Stream::Waiting(_)) {
            return;
        }
        let longest = RECONNECT_CAP_MS.min(100 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.stream = Stream::Waiting(now.mono.plus(longest / 2 + jitter(longest / 2, now)));
        if self.partial.as_ref().is_some_and(|p| !p.pulled) {
            self.partial = None;
        }
    }

    fn hello(&mut self, hello: Hello, now: Now) {
        if hello.v != frame::VERSION {
            return self.refuse_stream(Trouble::Version, now);
        }
        if self.known.log.is_some_and(|log| log != hello.log) {
            return self.refuse_stream(Trouble::OtherLog, now);
        }
        if hello.epoch < self.known.epoch {
            return self.refuse_stream(Trouble::OlderEpoch, now);
        }
        if hello.epoch == self.known.epoch && self.forked(hello.head, hello.chain) {
            return self.refuse_stream(Trouble::Fork, now);
        }
        if hello.epoch > self.known.epoch {
            self.begin_epoch(hello.epoch);
        }
        if self.identity.as_ref().is_none_or(|me| me.instance != hello.instance) {
            self.asks.clear();
            self.last_ask = None;
        }
        self.identity = Some(Identity { instance: hello.instance, secret: hello.instance_secret });
        self.known.log = Some(hello.log);
        self.known.max_life_s = hello.max_life_s;
        self.server_bound_ms = Millis::try_from(hello.bound_ms).unwrap_or(0);
        self.known.bound_ms = self.config.bound_ms.map_or(self.server_bound_ms, |own| own.min(self.server_bound_ms));
        self.stream = Stream::Open;
        self.failures = 0;
        self.dirty = true;
        self.ask_at = Some(if self.known.synced { now.mono } else { now.mono.plus(FIRST_SNAPSHOT_MS) });
    }

    /// Everything of an older epoch is dead: nothing is accepted until its first snapshot. Dead keys stay dead.
    fn begin_epoch(&mut self, epoch: Epoch) {
        let fresh = Knowledge::nothing(self.known.set.emptied());
        let old = core::mem::replace(&mut self.known, fresh);
        self.anew();
        self.known.log = old.log;
        self.known.epoch = epoch;
        self.known.keys = old.keys;
        (self.known.floor, self.known.time) = (old.floor, old.time);
        (self.known.max_life_s, self.known.bound_ms) = (old.max_life_s, old.bound_ms);
        self.links.clear();
        self.confirmed = None;
        self.pending.clear();
        self.asks.clear();
        self.partial = None;
        self.position = None;
        self.keys_rev = Rev::ZERO;
        self.dirty = true;
    }

    fn stream_entries(&mut self, frame: &frame::Entries, now: Now) {
        if self.known.synced {
            match self.extend(&frame.entries, None, now) {
                Ok(true) => {
                    if !frame.entries.is_empty() {
                        self.ask_gently(now);
                    }
                }
                Ok(false) => self.ask_soon(now), // a gap: the next answer brings what is missing
                Err(trouble) => return self.refuse_stream(trouble, now),
            }
        }
        // Somebody waits. A question in flight that tells of the same position will do.
        if frame.ack && !self.asks.iter().any(|a| a.applied == self.known.applied) {
            self.ask_soon(now);
        }
    }

    fn take_keys(&mut self, keys: Keys, now: Now) {
        if keys.keys.len() > KEYS_LIMIT {
            return self.refuse_stream(Trouble::Malformed, now);
        }
        let later = keys.rev >= self.known.applied && keys.rev >= self.keys_rev;
        if self.known.synced && later && !self.knows_newer_than(&keys.keys) {
            self.keys_rev = keys.rev;
            self.known.keys = Arc::new(keys.keys);
            self.dirty = true;
        }
    }

    /// Whether a list is older than the one that is known. Numbers are never used again, and the newest key has the highest: a
    /// list that was held up is known by that, also when no entry lies between the two.
    fn knows_newer_than(&self, keys: &[portcullis_wire::jws::Jwk]) -> bool {
        let newest = |keys: &[portcullis_wire::jws::Jwk]| keys.iter().map(|jwk| jwk.kid).max();
        newest(keys) < newest(&self.known.keys)
    }

    // ---- entries ----

    fn link_at(&self, rev: Rev) -> Option<Chain> {
        let newest = self.links.back()?.0;
        let back = usize::try_from(newest.0.checked_sub(rev.0)?).ok()?;
        let (found, chain) = self.links.get(self.links.len().checked_sub(back + 1)?)?;
        (*found == rev).then_some(*chain)
    }

    fn forked(&self, rev: Rev, chain: Chain) -> bool {
        self.link_at(rev).is_some_and(|known| known != chain)
    }

    fn remember(&mut self, rev: Rev, chain: Chain) {
        if self.links.len() >= LINKS_LIMIT {
            self.links.pop_front();
        }
        self.links.push_back((rev, chain));
    }

    /// Applies what continues the log, in order; what is known already is only compared. `Ok(false)`: there is a gap, and what
    /// is beyond it was left. With `head`, the entries must lead to that hash, else nothing is applied.
    fn extend(&mut self, entries: &[Entry], head: Option<(Rev, Chain)>, now: Now) -> Result<bool, Trouble> {
        let (mut rev, mut chain) = match self.links.back() {
            Some(newest) => *newest,
            None => return Ok(false),
        };
        let mut links: Vec<(&Entry, Chain)> = Vec::new();
        let mut whole = true;
        for entry in entries {
            let before = entry.rev.0.checked_sub(1).map(Rev).ok_or(Trouble::Malformed)?;
            if entry.rev <= rev {
                if let (Some(before), Some(known)) = (self.link_at(before), self.link_at(entry.rev))
                    && before.after(entry) != known
                {
                    return Err(Trouble::Fork);
                }
            } else if before == rev {
                chain = chain.after(entry);
                rev = entry.rev;
                links.push((entry, chain));
            } else {
                whole = false;
                break;
            }
        }
        if let Some((head, hash)) = head {
            if head > rev {
                return Ok(false); // it does not lead there, so its hash says nothing
            }
            let found = links.iter().rfind(|(e, _)| e.rev == head).map(|(_, chain)| *chain).or(self.link_at(head));
            if found.is_some_and(|found| found != hash) {
                return Err(Trouble::Fork);
            }
        }
        for (entry, chain) in links {
            self.known.set.apply(entry, now.mono);
            self.known.applied = entry.rev;
            self.remember(entry.rev, chain);
            if self.config.relays && !self.news.anew {
                self.news.entries.push(entry.clone());
            }
            self.dirty = true;
        }
        if self.news.entries.len() > NEWS_LIMIT {
            self.anew();
        }
        self.promote();
        Ok(whole)
    }

    // ---- snapshots ----

    /// Takes a part in. Says whether the snapshot is complete and was applied.
    fn snapshot_part(&mut self, part: Snapshot, pulled: bool, now: Now) -> bool {
        if part.epoch != self.known.epoch {
            self.partial = None;
            return false; // the next hello tells of another epoch
        }
        let sane = part.parts >= 1
            && part.parts <= PARTS_LIMIT
            && part.keys.len() <= KEYS_LIMIT
            && part.entries.is_sorted_by_key(|e| e.rev)
            && part.entries.last().is_none_or(|e| e.rev <= part.rev);
        if !sane {
            self.partial = None;
            self.report(Trouble::Malformed);
            return false;
        }
        if part.part == 0 {
            self.partial = Some(Partial {
                pulled,
                next: 0,
                parts: part.parts,
                epoch: part.epoch,
                rev: part.rev,
                chain: part.chain,
                last: Rev::ZERO,
                floor: part.horizon_floor,
                keys: part.keys,
                set: self.known.set.emptied(),
                progressed: now.mono,
            });
        }
        let Some(partial) = &mut self.partial else { return false };
        let continues = partial.next == part.part
            && (partial.epoch, partial.rev, partial.chain, partial.parts)
                == (part.epoch, part.rev, part.chain, part.parts)
            // A snapshot of the same rev that was made after F rose is divided at other entries: some would be in no part.
            && partial.floor == part.horizon_floor
            && part.entries.first().is_none_or(|e| e.rev >= partial.last);
        if !continues {
            self.partial = None;
            return false;
        }
        part.entries.iter().for_each(|e| partial.set.apply(e, now.mono));
        partial.last = part.entries.last().map_or(partial.last, |e| e.rev);
        partial.next += 1;
        partial.progressed = now.mono;
        let (next, rev) = (partial.next, partial.rev);
        if next == partial.parts {
            return self.apply_snapshot(now);
        }
        if pulled && let Some(identity) = self.identity.clone() {
            self.out.push(Action::Pull { identity, part: next, rev: Some(rev) });
        }
        false
    }

    fn apply_snapshot(&mut self, now: Now) -> bool {
        let Some(partial) = self.partial.take() else { return false };
        if self.known.synced && partial.rev <= self.known.applied {
            if self.forked(partial.rev, partial.chain) {
                self.refuse_stream(Trouble::Fork, now);
            }
            return false;
        }
        if !self.known.synced || !self.knows_newer_than(&partial.keys) {
            self.known.keys = Arc::new(partial.keys);
        }
        self.anew();
        self.known.set = partial.set;
        self.known.applied = partial.rev;
        self.known.synced = true;
        self.keys_rev = partial.rev;
        self.links.clear();
        self.remember(partial.rev, partial.chain);
        self.raise_floor(partial.floor, now.mono);
        self.dirty = true;
        self.promote();
        self.ask_soon(now);
        true
    }

    fn pull(&mut self, now: Now) {
        let busy = self.partial.as_ref().is_some_and(|p| p.pulled);
        let Some(identity) = self.identity.clone().filter(|_| !busy) else { return };
        // Holds the place of the first page; a stream's own snapshot would only race with it.
        self.partial = Some(Partial {
            pulled: true,
            next: 0,
            parts: 0,
            epoch: self.known.epoch,
            rev: Rev::ZERO,
            chain: Chain([0; 32]),
            last: Rev::ZERO,
            floor: Time::ZERO,
            keys: Vec::new(),
            set: self.known.set.emptied(),
            progressed: now.mono,
        });
        self.out.push(Action::Pull { identity, part: 0, rev: None });
    }

    fn pull_failed(&mut self, conflict: bool, now: Now) {
        if self.partial.as_ref().is_some_and(|p| p.pulled) {
            self.partial = None;
            if conflict {
                self.pull(now);
            }
        }
    }

    fn raise_floor(&mut self, floor: Time, now: Mono) {
        if self.known.floor.is_none_or(|known| known.time <= floor) {
            self.known.floor = Some(Anchor { time: floor, at: now });
        }
        // Entries go by F itself, never by the time that has passed since it was told.
        self.known.set.forget(floor);
        self.dirty = true;
    }

    /// The quickest answer of the last minute tells the time best. Not the latest time ever told: a monotonic clock that runs
    /// fast would carry that ever further ahead of the database's.
    fn set_time(&mut self, told: Anchor) {
        let keep = |known: Anchor| told.at.since(known.at) < TIME_KEPT_MS && known.at(told.at) > told.time;
        if !self.known.time.is_some_and(keep) {
            self.known.time = Some(told);
        }
    }

    // ---- leases ----

    fn bound(&self) -> Millis {
        self.known.bound_ms
    }

    /// At the next opportunity: now, or when the question in flight is answered.
    fn ask_soon(&mut self, now: Now) {
        if self.asks.is_empty() {
            let earliest = self.last_ask.map_or(now.mono, |at| at.plus(5));
            self.ask_at = Some(self.ask_at.map_or(earliest, |at| at.min(earliest.max(now.mono))));
        } else {
            self.ask_again = true;
        }
    }

    /// Entries were applied and nobody is known to wait: a little sooner than the renewal, not for each entry.
    fn ask_gently(&mut self, now: Now) {
        if self.asks.is_empty()
            && let Some(at) = self.ask_at
        {
            let gently = self.last_ask.map_or(now.mono, |last| last.plus(self.bound() / 10)).max(now.mono);
            self.ask_at = Some(at.min(gently));
        }
    }

    fn ask(&mut self, now: Now) {
        let Some(identity) = self.identity.clone() else {
            self.ask_at = None; // the next hello says when
            return;
        };
        let nonce = format!("{:016x}{:08x}", now.chance, now.mono.0 as u32);
        if self.asks.len() >= ASKS_IN_FLIGHT {
            self.asks.remove(0);
        }
        self.asks.push(InFlight {
            nonce: nonce.clone(),
            asked: Anchor { time: now.wall, at: now.mono },
            applied: self.known.applied,
            epoch: self.known.epoch,
        });
        self.last_ask = Some(now.mono);
        self.ask_again = false;
        // A little early, each at its own time: verifiers that began together do not go on asking together.
        let every = self.bound() / if self.config.relays { RELAY_ASKS } else { ASKS };
        self.ask_at = Some(now.mono.plus((every - jitter(every / 10, now)).max(10)));
        let position = self.position.clone().unwrap_or_default();
        let (epoch, applied) = (self.known.epoch, self.known.applied);
        let keys = self.known.keys.iter().map(|jwk| jwk.kid).collect();
        self.out.push(Action::Ask(Ask { identity, epoch, applied, enforced: None, position, nonce, keys }));
    }

    fn answer(&mut self, answer: AckAnswer, now: Now) {
        let Some(at) = self.asks.iter().position(|a| a.nonce == answer.nonce) else { return };
        let asked = self.asks.remove(at);
        if answer.epoch < self.known.epoch || asked.epoch != self.known.epoch {
            return self.report(Trouble::OlderEpoch);
        }
        if answer.epoch > self.known.epoch {
            // What is known is dead; the next hello begins the new epoch.
            self.known.lease = None;
            self.dirty = true;
            self.out.push(Action::Disconnect);
            self.stream = Stream::Waiting(now.mono);
            return;
        }
        // Before the entries: once those are applied, the keys of their commits are known.
        if let Some(keys) = answer.keys {
            self.take_keys(Keys { rev: answer.head, keys }, now);
        }
        match &answer.entries {
            Tail::Entries(entries) => match self.extend(entries, Some((answer.head, answer.chain)), now) {
                Ok(_) => {}
                Err(trouble) => return self.refuse_stream(trouble, now),
            },
            Tail::Snapshot if answer.head > self.known.applied => self.pull(now),
            Tail::Snapshot => {}
        }
        self.raise_floor(answer.horizon_floor, now.mono);
        if let Some(time) = answer.time {
            self.set_time(Anchor { time, at: now.mono });
        }
        if answer.head == self.known.applied && self.link_at(answer.head) == Some(answer.chain) {
            self.named(answer.position);
        }
        if answer.head < asked.applied {
            self.report(if answer.age_ms == 0 { Trouble::Rollback } else { Trouble::Lagging });
        } else {
            let age = Millis::try_from(answer.age_ms).unwrap_or(Millis::MAX);
            if self.pending.len() >= PENDING_LIMIT {
                self.pending.remove(0);
            }
            self.pending.push(Pending { head: answer.head, from: asked.asked.at.minus(age), wall: asked.asked });
            self.promote();
        }
        if core::mem::take(&mut self.ask_again) {
            self.ask_soon(now);
        } else if self.known.applied > asked.applied {
            self.ask_gently(now);
        }
    }

    /// Turns answers whose head is applied into the lease. Freshness only grows.
    fn promote(&mut self) {
        let applied = self.known.applied;
        for pending in self.pending.extract_if(.., |p| p.head <= applied) {
            let until = pending.from.plus(shortened(self.known.bound_ms));
            // By what is newer: after the bound was lowered an older lease may last longer, and goes on doing so.
            let known = self.known.lease;
            if self.known.synced && known.is_none_or(|lease| lease.from < pending.from || lease.until < until) {
                let until = known.map_or(until, |lease| lease.until.max(until));
                let tolerance_ms = (self.known.bound_ms / 100).max(20);
                self.known.lease = Some(Lease { from: pending.from, until, wall: pending.wall, tolerance_ms });
            }
            if self.known.proven.is_none_or(|p| p.began < pending.from) {
                self.known.proven = Some(Proven { head: pending.head, began: pending.from });
            }
            self.dirty = true;
        }
    }

    fn ask_failed(&mut self, nonce: &str, gone: bool, now: Now) {
        let Some(at) = self.asks.iter().position(|a| a.nonce == nonce) else { return };
        self.asks.remove(at);
        if gone {
            self.identity = None;
            self.asks.clear();
            self.ask_at = None;
            if !matches!(self.stream, Stream::Waiting(_)) {
                self.out.push(Action::Disconnect);
            }
            self.stream = Stream::Waiting(now.mono.plus(jitter(50, now)));
            return;
        }
        let retry = now.mono.plus(self.bound() / 20 + jitter(self.bound() / 20 + 1, now));
        self.ask_at = Some(self.ask_at.map_or(retry, |at| at.min(retry)));
    }

    // ---- what time brings ----

    fn due(&mut self, now: Now) {
        let useless = now.mono.minus(self.bound());
        self.asks.retain(|a| a.asked.at > useless);
        if self.partial.as_ref().is_some_and(|p| now.mono.since(p.progressed) >= SNAPSHOT_STALL_MS) {
            self.partial = None;
        }
        if core::mem::take(&mut self.dirty) {
            self.out.push(Action::Publish);
        }
        if let Stream::Waiting(at) = self.stream
            && now.mono >= at
        {
            self.stream = Stream::Opening;
            let (identity, position) = (self.identity.clone(), self.position.clone());
            self.out.push(Action::Connect { identity, position });
        }
        if self.known.synced && self.ask_at.is_some_and(|at| now.mono >= at) {
            self.ask(now);
        } else if self.ask_at.is_some_and(|at| now.mono >= at) {
            self.ask_at = Some(now.mono.plus(FIRST_SNAPSHOT_MS));
            if self.partial.is_none() {
                self.pull(now);
            }
        }
    }
}

fn jitter(up_to: Millis, now: Now) -> Millis {
    let up_to = u64::try_from(up_to).unwrap_or(0).saturating_add(1);
    Millis::try_from((now.chance >> 16) % up_to).unwrap_or(0)
}
