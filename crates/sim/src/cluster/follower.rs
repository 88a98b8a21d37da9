//! Verifiers: a stream to one node, and questions that go to that one or to any other; or both to one relay.
use super::relay::Relaying;
use super::{BOUND, KEY, Lag, World, tell};
use crate::rng::Rng;
use portcullis_domain::Chance as _;
use portcullis_feed::publisher::Resume;
use portcullis_feed::subscriber::{Action, Config, Frame, Identity, Input, Now, Subscriber, Trouble};
use portcullis_feed::{Mono, Policy};
use portcullis_verify::{AheadRecord, Authentic, Decision, Expect, Holder, Reason, View, judge_claims};
use portcullis_wire::frame::{Entries, Hello, VERSION};
use portcullis_wire::{AccessClaims, Epoch, InstanceId, NodeId, Rev, SecretString, Time};
use std::collections::VecDeque;

pub const PART: usize = 3;
pub const MAX_RESUME: usize = 8;

/// Where a stream comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    Node(NodeId),
    Relay(usize),
}

pub struct Follower {
    pub subscriber: Subscriber,
    shown: View,
    ahead: AheadRecord,
    pub inbox: VecDeque<Input>,
    pub up: Option<Up>,
    pub identity: Identity,
    /// The newest position that it was asked to acknowledge.
    pub prompted: Rev,
    /// The relay that it is set to; else it follows the nodes.
    pub via: Option<usize>,
    /// What it is besides: a relay for others.
    pub relaying: Option<Box<Relaying>>,
    /// How far its wall clock is ahead of the true time, in milliseconds.
    ahead_ms: i64,
}

impl Follower {
    pub fn new(rng: &mut Rng, via: Option<usize>, relays: bool) -> Self {
        let subscriber = Subscriber::new(Config { relays, ..Config::default() });
        let relaying = relays.then(|| Box::new(Relaying::new(rng)));
        let shown = View::new(subscriber.knowledge().clone());
        let identity = Identity { instance: InstanceId::from_bits(rng.bits()), secret: SecretString::new("s") };
        let (ahead, inbox, prompted) = (AheadRecord::default(), VecDeque::new(), Rev::ZERO);
        Self { subscriber, shown, ahead, inbox, up: None, identity, prompted, via, relaying, ahead_ms: 0 }
    }

    /// Whether it holds a lease at this true time.
    pub fn is_fresh(&self, mono: Mono, time: Time) -> bool {
        self.shown.known.fresh(mono, self.wall(time))
    }

    /// What its wall clock shows then.
    pub fn wall(&self, time: Time) -> Time {
        time.plus(self.ahead_ms)
    }

    pub fn stream_ends(&mut self, up: Up) {
        if self.up == Some(up) {
            self.up = None;
            self.inbox.push_back(Input::StreamEnded);
        }
    }
}

impl World {
    pub fn a_follower_starts_anew(&mut self) {
        let which = self.rng.index(self.followers.len());
        let (via, relays) = (self.followers[which].via, self.followers[which].relaying.is_some());
        self.counts.add(if relays { "cluster: relays restarted" } else { "cluster: verifiers started anew" });
        tell!(self, "verifier {which} starts anew");
        self.leaves(which);
        self.followers.iter_mut().for_each(|below| below.stream_ends(Up::Relay(which)));
        let ahead_ms = self.followers[which].ahead_ms;
        self.followers[which] = Follower { ahead_ms, ..Follower::new(&mut self.rng, via, relays) };
    }

    /// Somebody sets the wall clock of a verifier, or of a relay, or sets it right.
    pub fn a_clock_is_set(&mut self) {
        let which = self.rng.index(self.followers.len());
        let ahead_ms = self.rng.pick(&[0, -86_400_000, -30_000, -700, 700, 20_000, 3_600_000]);
        tell!(self, "the clock of verifier {which} is {ahead_ms} ms ahead");
        self.counts.add("cluster: clocks set");
        self.followers[which].ahead_ms = ahead_ms;
    }

    /// What the wall clock of a verifier, or of a relay, shows.
    pub fn wall_of(&self, which: usize) -> Time {
        self.followers[which].wall(self.time())
    }

    pub fn followers_go_on(&mut self) {
        for which in 0..self.followers.len() {
            if !self.is_awake(which) {
                continue;
            }
            self.feed(which);
            while self.rng.chance(700)
                && let Some(input) = self.followers[which].inbox.pop_front()
            {
                self.handle(which, input);
            }
            if self.followers[which].subscriber.wake_at().is_some_and(|at| at <= Mono(self.now)) {
                self.handle(which, Input::Tick);
            }
        }
    }

    pub fn handle(&mut self, which: usize, input: Input) {
        let now = Now { mono: Mono(self.now), wall: self.wall_of(which), chance: self.rng.word() };
        let prompted = matches!(&input, Input::Frame(Frame::Entries(entries), _) if entries.ack);
        let actions = self.followers[which].subscriber.handle(input, now);
        self.learns(which, prompted);
        for action in actions {
            self.does(which, action);
        }
    }

    fn leaves(&mut self, which: usize) {
        match self.followers[which].up.take() {
            Some(Up::Node(id)) => self.nodes.get_mut(&id).is_some_and(|node| node.streams.remove(&which).is_some()),
            Some(Up::Relay(at)) => self.relaying(at).is_some_and(|relaying| relaying.streams.remove(&which).is_some()),
            None => false,
        };
    }

    fn does(&mut self, which: usize, action: Action) {
        match action {
            Action::Connect { position, .. } => {
                self.leaves(which);
                let opened = match self.followers[which].via {
                    Some(at) => self.opens_at_relay(which, at, position),
                    None => self.opens(which, position),
                };
                match opened {
                    Some(frames) => self.followers[which].inbox.extend(frames),
                    None => self.followers[which].inbox.push_back(Input::StreamEnded),
                }
            }
            Action::Disconnect => self.leaves(which),
            Action::Ask(mut ask) => {
                let (all, now) = (self.has(Lag::RelaySpeaksForAll), Mono(self.now));
                if let Some(relaying) = self.relaying(which) {
                    let told = relaying.relay.tells(now);
                    ask.enforced = Some(told).filter(|_| !all);
                    if self.has(Lag::RelayRenews) && self.rng.chance(500) {
                        return self.renews_itself(which, ask);
                    }
                }
                if let Some(at) = self.followers[which].via {
                    return self.asked_at_relay(at, which, ask);
                }
                // A balancer is between.
                let own = match self.followers[which].up {
                    Some(Up::Node(id)) => Some(id).filter(|_| self.sticky || self.rng.chance(500)),
                    _ => None,
                };
                match own.or_else(|| self.some_node()) {
                    Some(node) if self.rng.chance(970) && self.is_reached(which) => self.asked_at(node, which, ask),
                    _ => {
                        let input = Input::AskFailed { nonce: ask.nonce, gone: false };
                        self.followers[which].inbox.push_back(input);
                    }
                }
            }
            Action::Pull { part, rev, .. } => {
                let parts = match self.followers[which].via {
                    Some(at) => self.relaying(at).and_then(|relaying| Some(relaying.relay.log()?.snapshot(PART))),
                    None => self.some_node().and_then(|id| Some(self.nodes.get(&id)?.publisher.snapshot(PART))),
                };
                let fits = |page: &portcullis_wire::frame::Snapshot| {
                    page.part == part && rev.is_none_or(|rev| rev == page.rev)
                };
                let page = parts.into_iter().flatten().find(fits);
                let input = page.map_or(Input::PullFailed { conflict: true }, Input::Page);
                self.followers[which].inbox.push_back(input);
            }
            Action::Publish => {
                let follower = &mut self.followers[which];
                follower.shown = follower.shown.next(follower.subscriber.knowledge().clone());
            }
            Action::Report(trouble) => {
                tell!(self, "verifier {which} reports {trouble}");
                match trouble {
                    // A balancer may send it to a node that is behind the one it followed.
                    Trouble::Lagging => self.counts.add("cluster: nodes behind their verifiers"),
                    Trouble::Fork | Trouble::Rollback | Trouble::OtherLog | Trouble::OlderEpoch => {
                        self.violate("I4", format!("verifier {which} reports {trouble}"));
                    }
                    _ => {}
                }
            }
        }
    }

    fn opens(&mut self, which: usize, position: Option<String>) -> Option<Vec<Input>> {
        let id = self.some_node().filter(|_| self.is_reached(which))?;
        let (now, me) = (self.now, self.followers[which].identity.clone());
        let node = self.nodes.get_mut(&id).filter(|node| now >= node.stopped_until)?;
        let publisher = &node.publisher;
        let (epoch, head) = (publisher.epoch(), publisher.head());
        let hello = Hello {
            v: VERSION,
            log: publisher.log(),
            instance: me.instance,
            instance_secret: me.secret,
            epoch,
            head,
            chain: publisher.chain(),
            bound_ms: BOUND.unsigned_abs(),
            max_life_s: 100,
        };
        let id_text = Some(format!("{epoch}.{head}"));
        let mut frames = vec![Input::Frame(Frame::Hello(hello), None)];
        let from = position.and_then(|text| text.split_once('.')?.1.parse().ok()).map(Rev);
        match from.map_or(Resume::Snapshot, |rev| publisher.resume(Epoch(1), rev, MAX_RESUME)) {
            Resume::Entries(entries) => {
                frames.push(Input::Frame(Frame::Keys(publisher.keys_frame()), None));
                frames.push(Input::Frame(Frame::Entries(Entries { entries, ack: false }), id_text));
            }
            Resume::Snapshot => {
                let parts = publisher.snapshot(PART);
                let last = parts.len() - 1;
                frames.extend(
                    parts
                        .into_iter()
                        .enumerate()
                        .map(|(n, part)| Input::Frame(Frame::Snapshot(part), id_text.clone().filter(|_| n == last))),
                );
            }
            // It has followed another node further than this one is.
            Resume::Ahead => return None,
        }
        node.streams.insert(which, head);
        self.followers[which].up = Some(Up::Node(id));
        Some(frames)
    }

    /// What the stream brings.
    fn feed(&mut self, which: usize) {
        let id = match self.followers[which].up {
            Some(Up::Node(id)) if self.is_reached(which) => id,
            Some(Up::Relay(at)) => return self.feed_by_relay(which, at),
            _ => return,
        };
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| now >= node.stopped_until) else { return };
        let Some(at) = node.streams.get(&which).copied() else { return };
        let (head, prompt) = (node.publisher.head(), node.prompt);
        if at < head {
            let text = Some(format!("1.{head}"));
            let input = match node.publisher.resume(Epoch(1), at, MAX_RESUME) {
                Resume::Entries(entries) => Input::Frame(Frame::Entries(Entries { entries, ack: false }), text),
                Resume::Snapshot | Resume::Ahead => {
                    node.streams.remove(&which);
                    self.followers[which].inbox.push_back(Input::Frame(Frame::Bye, None));
                    return self.followers[which].stream_ends(Up::Node(id));
                }
            };
            node.streams.insert(which, head);
            self.followers[which].inbox.push_back(input);
        }
        if prompt > self.followers[which].prompted && prompt <= head {
            self.followers[which].prompted = prompt;
            let ask = Entries { entries: vec![], ack: true };
            self.followers[which].inbox.push_back(Input::Frame(Frame::Entries(ask), None));
        }
    }

    /// What a request with this token comes to, and whether the verifier is fresh.
    pub fn judge(&mut self, which: usize, claims: &AccessClaims) -> (Result<(), Reason>, bool) {
        let expect = Expect { issuer: claims.iss.clone(), audience: "https://api.example".into() };
        let (mono, wall) = (Mono(self.now), self.wall_of(which));
        let follower = &mut self.followers[which];
        let fresh = follower.shown.known.fresh(mono, wall);
        let token = Authentic::insecure_without_signature(claims.clone(), Some(KEY));
        let verdict = judge_claims(&follower.shown, &token, &Holder::Bearer, &expect, Policy::Closed, mono, wall);
        let judged = match (verdict.decision, verdict.ahead) {
            (Decision::Accept, Some(rev)) => {
                let judged = follower.ahead.check(rev, &follower.shown.known, mono);
                self.counts.add("cluster: tokens ahead of the verifier");
                judged
            }
            (Decision::Accept | Decision::AcceptUnproven, _) => Ok(()),
            (Decision::Introspect, _) => Err(Reason::NotFresh),
            (Decision::Refuse(reason), _) => Err(reason),
        };
        if verdict.catch_up {
            self.handle(which, Input::CatchUp);
        }
        (judged, fresh)
    }
}
