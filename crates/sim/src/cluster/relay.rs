//! Relays: followers that serve others. They are restarted, stand still and are cut off from the nodes; questions to them take
//! their time there, at them, and back.
use super::follower::{Follower, MAX_RESUME, PART, Up};
use super::{Lag, World, tell};
use crate::rng::Rng;
use portcullis_domain::Chance as _;
use portcullis_feed::fleet::Instance;
use portcullis_feed::publisher::{Limits, Resume};
use portcullis_feed::relay::Refused;
use portcullis_feed::subscriber::{Ask, Frame, Input};
use portcullis_feed::{Mono, Policies, Relay};
use portcullis_wire::frame::{AckAnswer, AckRequest, Entries, Hello, VERSION};
use portcullis_wire::{ClientId, Rev};
use std::collections::BTreeMap;

const LIMITS: Limits = Limits { recent: 32, set: 10_000 };

/// What a follower is that is a relay.
pub struct Relaying {
    /// Another one after each start.
    born: u128,
    pub relay: Relay,
    /// Who follows it: of which generation, and where each is.
    pub streams: BTreeMap<usize, (u64, Rev)>,
    stopped_until: i64,
    cut_until: i64,
}

/// A question on its way through a relay.
pub struct Relayed {
    at: usize,
    born: u128,
    follower: usize,
    ask: Ask,
    arrives_at: i64,
    looks_at: i64,
    answers_at: i64,
    answer: Option<Result<AckAnswer, Refused>>,
}

impl Relaying {
    pub fn new(rng: &mut Rng) -> Self {
        let relay = Relay::new(0, 1_000, LIMITS);
        Self { born: rng.bits(), relay, streams: BTreeMap::new(), stopped_until: 0, cut_until: 0 }
    }
}

impl World {
    /// The first followers are relays; the second may follow the first.
    pub fn start_relays(&mut self) {
        let count = self.rng.pick(&[0, 1, 1, 2, 3]);
        for at in 0..count {
            let via = (at > 0 && self.rng.chance(600)).then(|| at - 1);
            let relay = Follower::new(&mut self.rng, via, true);
            self.followers.push(relay);
        }
    }

    pub fn some_relay(&mut self) -> Option<usize> {
        let relays = self.followers.iter().filter(|follower| follower.relaying.is_some()).count();
        (relays > 0 && self.rng.chance(800)).then(|| self.rng.index(relays))
    }

    pub fn relaying(&mut self, at: usize) -> Option<&mut Relaying> {
        self.followers.get_mut(at)?.relaying.as_deref_mut()
    }

    pub fn is_awake(&self, which: usize) -> bool {
        self.followers[which].relaying.as_ref().is_none_or(|relaying| self.now >= relaying.stopped_until)
    }

    /// Whether the way to the nodes is open.
    pub fn is_reached(&self, which: usize) -> bool {
        self.followers[which].relaying.as_ref().is_none_or(|relaying| self.now >= relaying.cut_until)
    }

    pub fn a_relay_stands_still(&mut self) {
        let (now, length) = (self.now, self.rng.pick(&[500, 3_000, 8_000]));
        let length = self.rng.range(100, length);
        if let Some(at) = self.some_relay() {
            tell!(self, "relay {at} is stopped for {length} ms");
            self.counts.add("cluster: relays stopped");
            self.relaying(at).into_iter().for_each(|relaying| relaying.stopped_until = now + length);
        }
    }

    pub fn a_relay_is_cut_off(&mut self) {
        let (now, length) = (self.now, self.rng.pick(&[500, 3_000, 8_000]));
        let length = self.rng.range(100, length);
        if let Some(at) = self.some_relay() {
            tell!(self, "relay {at} is cut off for {length} ms");
            self.counts.add("cluster: relays cut off");
            self.relaying(at).into_iter().for_each(|relaying| relaying.cut_until = now + length);
        }
    }

    /// A relay takes over what its own follower has learned, before anything else is done about it.
    pub fn learns(&mut self, which: usize, prompted: bool) {
        let now = Mono(self.now);
        let follower = &mut self.followers[which];
        let Some(relaying) = &mut follower.relaying else { return };
        relaying.relay.learn(&mut follower.subscriber, now);
        if prompted {
            relaying.relay.prompted();
        }
    }

    // ---- streams ----

    pub fn opens_at_relay(&mut self, which: usize, at: usize, position: Option<String>) -> Option<Vec<Input>> {
        let (mono, wall) = (Mono(self.now), self.wall_of(at));
        let me = self.followers[which].identity.clone();
        if !self.is_awake(at) {
            return None;
        }
        let relaying = self.relaying(at).filter(|relaying| relaying.relay.is_ready(mono, wall))?;
        let (name, client, policies) = (String::new(), ClientId::from_bits(7), Policies::default());
        let instance = Instance { id: me.instance, name, client, policies, bound_ms: None };
        let bound_ms = relaying.relay.introduce(instance, mono).ok()?.unsigned_abs();
        let _ = relaying.relay.stream_opened(me.instance, mono);
        let (generation, max_life_s) = (relaying.relay.generation(), relaying.relay.max_life_s());
        let log = relaying.relay.log()?;
        let (epoch, head, chain) = (log.epoch(), log.head(), log.chain());
        let (instance, instance_secret) = (me.instance, me.secret);
        let hello =
            Hello { v: VERSION, log: log.log(), instance, instance_secret, epoch, head, chain, bound_ms, max_life_s };
        let mut frames = vec![Input::Frame(Frame::Hello(hello), None)];
        let from = position.and_then(|text| text.split_once('.')?.1.parse().ok()).map(Rev);
        match from.map_or(Resume::Snapshot, |rev| log.resume(epoch, rev, MAX_RESUME)) {
            Resume::Entries(entries) => {
                frames.push(Input::Frame(Frame::Keys(log.keys_frame()), None));
                frames.push(Input::Frame(Frame::Entries(Entries { entries, ack: false }), None));
            }
            Resume::Snapshot => {
                let parts = log.snapshot(PART).into_iter();
                frames.extend(parts.map(|part| Input::Frame(Frame::Snapshot(part), Some(format!("{epoch}.{head}")))));
            }
            Resume::Ahead => return None,
        }
        relaying.streams.insert(which, (generation, head));
        self.followers[which].up = Some(Up::Relay(at));
        self.counts.add("cluster: streams by a relay");
        Some(frames)
    }

    /// What a relay's stream brings.
    pub fn feed_by_relay(&mut self, which: usize, at: usize) {
        let (mono, wall, forgets) = (Mono(self.now), self.wall_of(at), self.has(Lag::RelayForgets));
        let breaks = self.rng.chance(3);
        if !self.is_awake(at) {
            return;
        }
        let (prompted, id) = (self.followers[which].prompted, self.followers[which].identity.instance);
        let Some(relaying) = self.relaying(at) else { return };
        let Some((generation, from)) = relaying.streams.get(&which).copied() else { return };
        let good = relaying.relay.is_ready(mono, wall) && generation == relaying.relay.generation();
        let resume = relaying.relay.log().filter(|_| good && !breaks);
        let resume = resume.map(|log| (log.head(), log.resume(log.epoch(), from, MAX_RESUME)));
        let Some((head, Resume::Entries(entries))) = resume else {
            relaying.streams.remove(&which);
            relaying.relay.fleet_mut().stream_closed(id);
            if forgets {
                relaying.relay.fleet_mut().prune(0, 0, mono.plus(100_000));
            }
            self.counts.add("cluster: streams ended by a relay");
            self.followers[which].inbox.push_back(Input::Frame(Frame::Bye, None));
            return self.followers[which].stream_ends(Up::Relay(at));
        };
        let prompt = relaying.relay.prompt();
        let ack = prompt > prompted && prompt <= head;
        if !entries.is_empty() || ack {
            relaying.streams.insert(which, (generation, head));
            let follower = &mut self.followers[which];
            follower.prompted = if ack { prompt } else { prompted };
            follower.inbox.push_back(Input::Frame(Frame::Entries(Entries { entries, ack }), None));
        }
    }

    // ---- questions ----

    /// A bug: the relay answers its own question with what it knows.
    pub fn renews_itself(&mut self, at: usize, ask: Ask) {
        let time = self.time();
        let Some(log) = self.relaying(at).and_then(|relaying| relaying.relay.log()) else { return };
        let answer = AckAnswer {
            nonce: ask.nonce,
            epoch: log.epoch(),
            head: log.head(),
            chain: log.chain(),
            horizon_floor: log.floor(),
            age_ms: 0,
            time: Some(time),
            position: None,
            entries: log.tail(ask.epoch, ask.applied, MAX_RESUME),
            keys: None,
        };
        self.followers[at].inbox.push_back(Input::Answer(answer));
    }

    pub fn asked_at_relay(&mut self, at: usize, follower: usize, ask: Ask) {
        let reached = self.is_reached(follower) && self.rng.chance(970);
        let arrives_at = self.now + self.rng.delay(10, 300);
        let looks_at = arrives_at + self.rng.delay(10, 300);
        let answers_at = looks_at + self.rng.delay(10, 300);
        match self.relaying(at).filter(|_| reached) {
            Some(relaying) => {
                let (born, answer) = (relaying.born, None);
                self.relayed.push(Relayed { at, born, follower, ask, arrives_at, looks_at, answers_at, answer });
            }
            None => self.followers[follower].inbox.push_back(Input::AskFailed { nonce: ask.nonce, gone: false }),
        }
    }

    pub fn relays_go_on(&mut self) {
        let mut left = Vec::new();
        for mut relayed in std::mem::take(&mut self.relayed) {
            let born = relayed.born;
            let same = self.relaying(relayed.at).is_some_and(|relaying| relaying.born == born);
            if !same {
                relayed.answer = Some(Err(Refused::NotFresh));
                self.arrives_back(relayed);
            } else if !self.is_awake(relayed.at) {
                left.push(relayed);
            } else if relayed.answer.is_none() && self.now >= relayed.looks_at {
                relayed.answer = Some(self.relay_answers(&relayed));
                left.push(relayed);
            } else if relayed.answer.is_some() && self.now >= relayed.answers_at {
                self.arrives_back(relayed);
            } else {
                left.push(relayed);
            }
        }
        self.relayed.extend(left);
    }

    fn arrives_back(&mut self, Relayed { follower, ask, answer, .. }: Relayed) {
        let input = match answer {
            Some(Ok(answer)) => Input::Answer(answer),
            Some(Err(refused)) => Input::AskFailed { nonce: ask.nonce, gone: refused == Refused::Gone },
            None => return,
        };
        self.followers[follower].inbox.push_back(input);
    }

    fn relay_answers(&mut self, relayed: &Relayed) -> Result<AckAnswer, Refused> {
        let (mono, wall) = (Mono(self.now), self.wall_of(relayed.at));
        let leaves_out = self.has(Lag::RelayAge);
        let Ask { identity, epoch, applied, enforced, position, nonce, keys } = relayed.ask.clone();
        let asked = AckRequest {
            instance: identity.instance,
            instance_secret: identity.secret,
            epoch,
            applied,
            enforced,
            position,
            nonce,
            keys: Some(keys),
        };
        let follower = &mut self.followers[relayed.at];
        let Some(relaying) = &mut follower.relaying else { return Err(Refused::Gone) };
        let mut answer = relaying.relay.answer(&asked, Mono(relayed.arrives_at), mono, wall);
        let tells = relaying.relay.has_to_tell(mono);
        match &mut answer {
            Ok(answer) if leaves_out => answer.age_ms = 0,
            Ok(answer) => self.counts.add(match answer.age_ms {
                0 => "cluster: leases by a relay, younger than their question",
                1..400 => "cluster: leases by a relay",
                _ => "cluster: leases by a relay, older",
            }),
            Err(Refused::NotFresh) => self.counts.add("cluster: leases refused by a relay"),
            Err(Refused::Gone) => self.counts.add("cluster: instances gone at a relay"),
        }
        if tells {
            self.counts.add("cluster: relays that spoke at once");
            self.handle(relayed.at, Input::CatchUp);
        }
        answer
    }
}
