//! The world of several nodes (DESIGN §9): one log, nodes that read it late, verifiers whose questions a balancer sends to
//! whichever node it likes, relays between some of them and the nodes, and somebody who waits at one node until an end is true everywhere.
//!
//! The database is no more than a log and the nodes' rows: the rules over sessions have a world of their own. What runs here is
//! `feed`: `Publisher`, `Fleet`, `Subscriber`, `Relay` and `cluster`, and `verify`; the loop around them is `app::hub`'s, step by step.
//! Nodes die, stand still for a minute and come back, and are cut off from the database; relays are restarted, stand still and are cut off from the nodes; wall clocks of verifiers and relays are set (nodes use none: their time is the database's). Checked is that nothing is accepted
//! that an end has killed which was said to be enforced, or whose bound has passed (I1); that every node tells the same log
//! (I4); that what lives is accepted (I11); and of what is said about an end (DESIGN §8) that no node takes "complete" back, and
//! that nobody who held a lease is in no count, also of nodes that died or are silent.
use crate::mutant::Lag;
use crate::rng::Rng;
use crate::{Counts, Outcome, Violation};
use follower::Follower;
use node::{Node, Row};
use portcullis_domain::Chance as _;
use portcullis_feed::Mono;
use portcullis_wire::claims::Audience;
use portcullis_wire::{
    AccessClaims, AccountId, Chain, ClientId, Entry, Epoch, InstanceId, KeyId, LogId, NodeId, Rev, SessionId, Target,
    Time, TokenId, Verb,
};
use relay::Relayed;
use std::collections::{BTreeMap, BTreeSet};

mod follower;
mod node;
mod relay;

/// B in milliseconds.
const BOUND: i64 = 2_000;
const EPOCH_MS: i64 = 1_800_000_000_000;
const LIFE: i64 = 60_000;
const LENGTH: i64 = 60_000;
const KEY: KeyId = KeyId(1);

/// The log as the database has it. Every commit is visible when it is told, but for a planted bug.
#[derive(Debug)]
struct Db {
    log: LogId,
    entries: Vec<Entry>,
    /// The link after each.
    links: Vec<Chain>,
    /// Whether readers see each: always, but for the bug that numbers entries by a sequence.
    visible: Vec<i64>,
    rows: BTreeMap<NodeId, Row>,
    /// Who has ever followed a node; their rows stay.
    instances: BTreeSet<InstanceId>,
}

/// What a reader sees.
struct Seen {
    head: Rev,
    chain: Chain,
    after: Vec<Entry>,
}

impl Db {
    fn read(&self, after: Rev, now: i64) -> Seen {
        if self.visible.iter().rev().take(8).all(|at| *at <= now) {
            let from = usize::try_from(after.0).unwrap_or(usize::MAX).min(self.entries.len());
            let head = Rev(self.entries.len() as u64);
            let chain = self.links.last().copied().unwrap_or_else(|| Chain::genesis(self.log));
            return Seen { head, chain, after: self.entries[from..].to_vec() };
        }
        let shown = || self.entries.iter().zip(&self.visible).filter(|(_, at)| **at <= now).map(|(entry, _)| entry);
        let head = shown().map(|entry| entry.rev).max().unwrap_or_default();
        let chain = shown().fold(Chain::genesis(self.log), |chain, entry| chain.after(entry));
        Seen { head, chain, after: shown().filter(|entry| entry.rev > after).cloned().collect() }
    }
}

/// An end, and when it was said to be true everywhere.
#[derive(Debug, Clone)]
struct End {
    session: SessionId,
    rev: Rev,
    committed: i64,
    enforced: Option<i64>,
    /// Who held a lease of a node then, and which nodes had rows.
    held: BTreeSet<InstanceId>,
    rows: Vec<NodeId>,
}

/// A token that left a node.
#[derive(Debug, Clone)]
struct Token {
    claims: AccessClaims,
    left: i64,
}

/// Somebody waits at a node.
#[derive(Debug, Clone, Copy)]
struct Wait {
    node: NodeId,
    end: usize,
    /// When the wait began, by the node's clock.
    after: Mono,
    /// It only asks, and is answered by then.
    until: Option<i64>,
}

pub struct World {
    now: i64,
    rng: Rng,
    lag: Option<Lag>,
    db: Db,
    nodes: BTreeMap<NodeId, Node>,
    followers: Vec<Follower>,
    ends: Vec<End>,
    tokens: Vec<Token>,
    waits: Vec<Wait>,
    relayed: Vec<Relayed>,
    /// Nodes stand still often, and for longer than their rows are waited for.
    restless: bool,
    /// The balancer sends the questions of a verifier where its stream is: then no other node has heard of it.
    sticky: bool,
    counts: Counts,
    violation: Option<Violation>,
    hash: u64,
    events: u64,
    story: Option<Vec<String>>,
}

macro_rules! tell {
    ($world:expr, $($arg:tt)*) => { if $world.story.is_some() { let line = format!($($arg)*); $world.tell(line); } };
}
use tell;

/// Runs one seed. `story`: keep the events in words.
pub fn run(seed: u64, lag: Option<Lag>, story: bool) -> Outcome {
    let mut world = World::new(seed, lag, story);
    while world.violation.is_none() && world.now < LENGTH {
        world.step();
    }
    let World { violation, counts, hash, events, story, .. } = world;
    Outcome { seed, violation, counts, hash, events, story: story.unwrap_or_default() }
}

impl World {
    fn new(seed: u64, lag: Option<Lag>, story: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x00c1_05fe);
        let log = LogId::from_bits(rng.bits());
        let (rows, instances) = (BTreeMap::new(), BTreeSet::new());
        let db = Db { log, entries: Vec::new(), links: Vec::new(), visible: Vec::new(), rows, instances };
        let mut world = Self {
            now: 0,
            rng,
            lag,
            db,
            nodes: BTreeMap::new(),
            followers: Vec::new(),
            ends: Vec::new(),
            tokens: Vec::new(),
            waits: Vec::new(),
            relayed: Vec::new(),
            restless: false,
            sticky: false,
            counts: Counts::default(),
            violation: None,
            hash: seed,
            events: 0,
            story: story.then(Vec::new),
        };
        for _ in 0..world.rng.pick(&[2, 3, 3]) {
            world.start_node();
        }
        world.restless = world.rng.chance(300);
        world.sticky = world.rng.chance(300);
        if !world.restless {
            world.start_relays();
        }
        for _ in 0..world.rng.pick(&[2, 4, 6]) {
            let via = world.some_relay();
            let follower = Follower::new(&mut world.rng, via, false);
            world.followers.push(follower);
        }
        world
    }

    fn has(&self, lag: Lag) -> bool {
        self.lag == Some(lag)
    }

    fn time(&self) -> Time {
        Time(EPOCH_MS + self.now)
    }

    fn tell(&mut self, line: String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{now:>8} {line}"));
        }
    }

    fn violate(&mut self, invariant: &'static str, detail: String) {
        tell!(self, "{invariant} does not hold: {detail}");
        let at = self.now;
        self.violation.get_or_insert(Violation { invariant, detail, at });
    }

    fn some_node(&mut self) -> Option<NodeId> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.get(self.rng.index(ids.len())).copied()
    }

    fn step(&mut self) {
        self.now += self.rng.range(1, 60);
        self.events += 1;
        self.nodes_go_on();
        self.followers_go_on();
        self.relays_go_on();
        match self.rng.range(0, 999) {
            0..=99 => self.somebody_gets_a_token(),
            100..=146 => self.somebody_is_ended(),
            147..=149 => {
                self.a_node_leaves();
                // While leases that it gave live.
                if self.rng.chance(500) {
                    self.somebody_is_ended();
                }
            }
            150 | 151 => self.a_node_dies(),
            152 | 153 => self.a_node_stands_still(),
            154 | 155 => self.a_node_is_cut_off(),
            156 | 157 => self.a_node_cannot_write(),
            160..=162 => self.a_follower_starts_anew(),
            163 | 164 if self.nodes.len() < 4 => self.start_node(),
            165 | 166 => self.a_relay_stands_still(),
            170..=174 if self.restless => self.a_node_stands_still(),
            175..=177 if self.sticky => self.a_node_cannot_write(),
            167..=169 => self.a_relay_is_cut_off(),
            178..=197 => self.somebody_asks(),
            198..=202 => self.a_clock_is_set(),
            _ => {}
        }
        self.look_at_waits();
        self.probe_all();
    }

    // ---- what people do ----

    /// A node issues: stamped by the snapshot of the database that it reads, however far its own reader is behind.
    fn somebody_gets_a_token(&mut self) {
        let Some(node) = self.some_node().filter(|id| self.reaches_database(*id)) else { return };
        let (session, jti) = (SessionId::from_bits(self.rng.bits()), TokenId::from_bits(self.rng.bits()));
        let rev = self.db.read(Rev(u64::MAX), self.now).head;
        let issued = self.time().secs();
        let claims = AccessClaims {
            cnf: None,
            via: vec![],
            from: vec![],
            iss: "https://id.example".into(),
            sub: AccountId::from_bits(1),
            aud: Audience(vec!["https://api.example".into()]),
            client_id: ClientId::from_bits(0),
            exp: issued + LIFE / 1000,
            iat: issued,
            jti,
            scope: String::new(),
            auth_time: issued,
            acr: "1".into(),
            amr: Vec::new(),
            sid: session,
            rev,
            epoch: Epoch(1),
            gid: None,
            roles: Vec::new(),
            act: None,
        };
        tell!(self, "{node:?} issues a token of {session:?} stamped {rev}");
        self.counts.add("cluster: tokens");
        self.tokens.push(Token { claims, left: self.now });
    }

    /// A session is ended at some node, which waits until that is true everywhere.
    fn somebody_is_ended(&mut self) {
        let Some(node) = self.some_node().filter(|id| self.reaches_database(*id)) else { return };
        let back = self.rng.index(self.tokens.len().min(12));
        let Some(token) = self.tokens.len().checked_sub(1 + back).map(|at| &self.tokens[at]) else { return };
        let session = token.claims.sid;
        let rev = Rev(self.db.entries.len() as u64 + 1);
        let until = Time(EPOCH_MS + self.now + LIFE + 1_000);
        let (verb, target) = (Verb::End, Target::Session(session));
        let entry = Entry { rev, verb, target, except: None, spread_ms: None, until };
        let before = self.db.links.last().copied().unwrap_or_else(|| Chain::genesis(self.db.log));
        self.db.links.push(before.after(&entry));
        self.db.entries.push(entry);
        // A sequence gives numbers out before the commit, and commits overtake each other.
        let late = if self.has(Lag::Sequence) { self.rng.delay(10, 600) } else { 0 };
        self.db.visible.push(self.now + late);
        self.counts.add("cluster: ends");
        tell!(self, "{session:?} is ended at {rev} by {node:?}");
        let (mono, time) = (Mono(self.now), self.time());
        let leased = self.followers.iter().filter(|one| one.via.is_none() && one.is_fresh(mono, time));
        let held = leased.map(|one| one.identity.instance).collect();
        let rows = self.db.rows.keys().copied().collect();
        let end = End { session, rev, committed: self.now + late, enforced: None, held, rows };
        self.ends.push(end);
        if late == 0 {
            self.wait_at(node, self.ends.len() - 1);
        }
    }

    /// No token of a session is accepted whose end is said to be true everywhere, or older than the bound.
    fn probe_all(&mut self) {
        for which in 0..self.followers.len() {
            let back = self.rng.index(self.tokens.len().min(20));
            let Some(at) = self.tokens.len().checked_sub(1 + back) else { return };
            let token = self.tokens[at].clone();
            let (judged, fresh) = self.judge(which, &token.claims);
            let end = self.ends.iter().find(|end| end.session == token.claims.sid).cloned();
            match (judged, end) {
                (Ok(()), Some(end)) => {
                    let late = self.now > end.committed + BOUND;
                    let enforced = end.enforced.filter(|at| self.now > *at);
                    if let Some(at) = enforced {
                        self.violate("I1", format!("verifier {which} accepts {:?}, enforced since {at}", end.session));
                    } else if late {
                        let ms = self.now - end.committed;
                        self.violate("I1", format!("verifier {which} accepts {:?} {ms} ms after its end", end.session));
                    }
                }
                (Ok(()), None) => self.counts.add("cluster: accepted"),
                (Err(reason), None) if fresh && token.claims.expires_at() > self.time().plus(3_000) => {
                    let left = token.left;
                    let what = format!("verifier {which} refuses a living token of {left}: {}", reason.as_str());
                    self.violate("I11", what);
                }
                (Err(_), None) => self.counts.add("cluster: refused for now"),
                (Err(_), Some(_)) => self.counts.add("cluster: refused"),
            }
        }
    }
}
