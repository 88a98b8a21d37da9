//! A node: its reader of the log, its fleet, its row, and the questions that it answers.
use super::follower::Up;
use super::{BOUND, End, KEY, Lag, Wait, World, tell};
use portcullis_domain::Chance as _;
use portcullis_feed::cluster::{self, Report};
use portcullis_feed::fleet::{Enforcement, Fleet, Instance, Stands};
use portcullis_feed::publisher::{Limits, LogState, Publisher};
use portcullis_feed::subscriber::{Ask, Input};
use portcullis_feed::{Mono, Policies};
use portcullis_wire::frame::AckAnswer;
use portcullis_wire::jws::Jwk;
use portcullis_wire::{ClientId, Epoch, InstanceId, NodeId, Rev, Time};
use std::collections::{BTreeMap, BTreeSet};

const MAX_TAIL: usize = 6;
const BEAT: i64 = 3_000;
/// How long a question is held until the other nodes have spoken.
const PATIENCE: i64 = 250;

/// What a node says in the database.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    pub beat: u64,
    asks: Option<Rev>,
    report: Option<Report>,
    /// How its instances stand to what the report is about.
    stands: Vec<Stands>,
    /// What it knows in whole of what another node waits for.
    told: Option<(Rev, Enforcement)>,
    /// It was stopped in order, and gives no more leases.
    left: bool,
}

#[derive(Debug, Clone)]
struct Other {
    row: Row,
    seen: Mono,
}

/// A question for a lease on its way through the node.
#[derive(Debug)]
struct Question {
    follower: usize,
    ask: Ask,
    arrived: Mono,
    reads_at: i64,
    answers_at: i64,
    /// What the read saw, once it was made; `Err`: no lease.
    read: Option<Result<(), ()>>,
}

#[derive(Debug)]
pub struct Node {
    pub publisher: Publisher,
    fleet: Fleet,
    /// Its clock's zero.
    zero: i64,
    started: (Mono, Rev),
    pub stopped_until: i64,
    cut_until: i64,
    mute_until: i64,
    pub last_read: Mono,
    read_due: i64,
    row: Row,
    beat_began: Mono,
    row_due: i64,
    others: BTreeMap<NodeId, Other>,
    others_began: Mono,
    questions: Vec<Question>,
    /// What was seen to be complete, and whether everybody is in the counts.
    remembered: BTreeMap<Rev, (Enforcement, bool)>,
    /// What it has said to be complete.
    said_complete: BTreeSet<Rev>,
    pub prompt: Rev,
    /// Which verifiers follow it, and where they are.
    pub streams: BTreeMap<usize, Rev>,
}

impl Node {
    fn mono(&self, now: i64) -> Mono {
        Mono(self.zero + now)
    }

    fn committed_at(&self, rev: Rev, now: Mono) -> Mono {
        let earlier = (rev <= self.started.1).then_some(self.started.0);
        earlier.or(self.fleet.committed_at(rev)).unwrap_or(now)
    }

    fn asked(&self) -> Option<Rev> {
        self.others.values().filter_map(|other| other.row.asks).max()
    }

    /// The others as far as their rows tell of every node that there was at `after`.
    fn heard(&self, after: Mono) -> Vec<Option<&Report>> {
        self.reports().chain((self.others_began < after).then_some(None)).collect()
    }

    /// The rows of those that have said something about `rev`.
    fn who_spoke(&self, rev: Rev) -> impl Iterator<Item = &Row> {
        let spoke = move |row: &&Row| cluster::all_spoke(rev, &[row.report.as_ref()]);
        self.others.values().map(|other| &other.row).filter(spoke)
    }

    fn reports(&self) -> impl Iterator<Item = Option<&Report>> {
        self.others.values().map(|other| other.row.report.as_ref())
    }
}

impl World {
    pub fn start_node(&mut self) {
        let (id, zero) = (NodeId::from_bits(self.rng.bits()), self.rng.range(0, 1_000_000));
        let seen = self.db.read(Rev::ZERO, self.now);
        let now = Mono(zero + self.now);
        let (log, epoch, head, chain, floor) = (self.db.log, Epoch(1), seen.head, seen.chain, Time::ZERO);
        let state = LogState { log, epoch, head, chain, floor, live: seen.after };
        let mut publisher = Publisher::new(state, Limits { recent: 64, set: 10_000 }, now);
        publisher.set_keys(Jwk::es256(KEY, &[4; 65]).into_iter().collect());
        let mut node = Node {
            publisher,
            fleet: Fleet::new(BOUND, 0, 1_000),
            zero,
            started: (now, head),
            stopped_until: 0,
            cut_until: 0,
            mute_until: 0,
            last_read: now,
            read_due: self.now,
            row: Row::default(),
            beat_began: Mono(i64::MIN),
            row_due: self.now,
            others: BTreeMap::new(),
            others_began: Mono(i64::MIN),
            questions: Vec::new(),
            remembered: BTreeMap::new(),
            said_complete: BTreeSet::new(),
            prompt: Rev::ZERO,
            streams: BTreeMap::new(),
        };
        if self.has(Lag::RowAfterLease) {
            node.row_due = self.now + 4_000;
            node.beat_began = now;
        }
        tell!(self, "{id:?} starts at {head}");
        self.counts.add("cluster: nodes started");
        self.nodes.insert(id, node);
        if !self.has(Lag::RowAfterLease) {
            self.row_round(id, true);
        }
    }

    pub fn reaches_database(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| self.now >= node.cut_until && self.now >= node.stopped_until)
    }

    // ---- what happens to nodes ----

    pub fn a_node_dies(&mut self) {
        let Some(id) = self.some_node() else { return };
        self.counts.add("cluster: nodes killed");
        self.a_node_ends(id);
    }

    fn a_node_ends(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        tell!(self, "{id:?} ends");
        node.streams.keys().for_each(|which| self.followers[*which].stream_ends(Up::Node(id)));
        for question in node.questions {
            let input = Input::AskFailed { nonce: question.ask.nonce, gone: false };
            self.followers[question.follower].inbox.push_back(input);
        }
        if self.nodes.len() < 2 {
            self.start_node();
        }
    }

    /// A node is stopped in order: it says so in its row, when it can.
    pub fn a_node_leaves(&mut self) {
        let Some(id) = self.some_node().filter(|id| self.reaches_database(*id)) else { return };
        if let Some(node) = self.nodes.get(&id).filter(|node| self.now >= node.mute_until) {
            let row = Row { beat: node.row.beat + 1, left: true, ..Row::default() };
            self.db.rows.insert(id, row);
            self.counts.add("cluster: nodes stopped in order");
        }
        self.a_node_ends(id);
    }

    pub fn a_node_stands_still(&mut self) {
        let Some(id) = self.some_node() else { return };
        let length = self.rng.pick(&[300, 3_000, 15_000, 25_000]);
        let length = self.rng.range(if self.restless { length / 2 } else { 100 }, length);
        tell!(self, "{id:?} is stopped for {length} ms");
        self.counts.add("cluster: nodes stopped");
        if let Some(node) = self.nodes.get_mut(&id) {
            node.stopped_until = self.now + length;
        }
    }

    pub fn a_node_is_cut_off(&mut self) {
        let Some(id) = self.some_node() else { return };
        let length = self.rng.pick(&[300, 3_000, 20_000]);
        let length = self.rng.range(100, length);
        tell!(self, "{id:?} is cut off from the database for {length} ms");
        self.counts.add("cluster: nodes cut off from the database");
        if let Some(node) = self.nodes.get_mut(&id) {
            node.cut_until = self.now + length;
        }
    }

    /// The database takes its reads and no writes, as after a failover to one that is read-only.
    pub fn a_node_cannot_write(&mut self) {
        let Some(id) = self.some_node() else { return };
        // Where nobody else hears of its verifiers, for longer than its row is waited for.
        let length = self.rng.range(if self.sticky { 15_000 } else { 1_000 }, 30_000);
        tell!(self, "{id:?} cannot write its row for {length} ms");
        self.counts.add("cluster: nodes that cannot write");
        if let Some(node) = self.nodes.get_mut(&id) {
            node.mute_until = self.now + length;
        }
    }

    // ---- what nodes do ----

    pub fn nodes_go_on(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            if self.now < self.nodes[&id].stopped_until {
                continue;
            }
            if self.now >= self.nodes[&id].read_due && self.reaches_database(id) {
                let pause = self.rng.range(20, 400);
                self.read_log(id);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.read_due = self.now + pause;
                }
            }
            if self.now >= self.nodes[&id].row_due && self.reaches_database(id) {
                self.row_round(id, false);
            }
            self.answer_questions(id);
        }
    }

    /// Reads what was committed after the node's head, and applies it.
    fn read_log(&mut self, id: NodeId) {
        let seen = match self.nodes.get(&id) {
            Some(node) => self.db.read(node.publisher.head(), self.now),
            None => return,
        };
        let sequence = self.has(Lag::Sequence);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let now = node.mono(self.now);
        node.last_read = now;
        if seen.after.is_empty() {
            return;
        }
        if let Err(broken) = node.publisher.append(&seen.after, seen.chain, now) {
            if !sequence {
                return self.violate("I4", format!("the log at {id:?}: {broken}"));
            }
            // Who numbers by a sequence knows no gaps: what is there is taken, and what comes late is behind the head.
            let live = self.db.read(Rev::ZERO, self.now).after;
            let (log, epoch, head, chain, floor) = (self.db.log, Epoch(1), seen.head, seen.chain, Time::ZERO);
            let keys = node.publisher.keys().to_vec();
            let state = LogState { log, epoch, head, chain, floor, live };
            node.publisher = Publisher::new(state, Limits { recent: 64, set: 10_000 }, now);
            node.publisher.set_keys(keys);
        }
        seen.after.iter().for_each(|entry| node.fleet.committed(entry.rev, now));
    }

    /// The node looks at the rows, and writes its own when it has something to say.
    fn row_round(&mut self, id: NodeId, first: bool) {
        let waits = self.waits.iter().filter(|wait| wait.node == id).map(|wait| self.ends[wait.end].rev).max();
        let (gone_early, at_once) = (self.has(Lag::GoneTooEarly), self.has(Lag::LeftAtOnce));
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let now = node.mono(self.now);
        let rows = self.db.rows.iter().filter(|(other, _)| **other != id);
        node.others = rows
            .map(|(other, row)| {
                let known = node.others.get(other).filter(|known| known.row.beat == row.beat);
                (*other, known.cloned().unwrap_or_else(|| Other { row: row.clone(), seen: now }))
            })
            .collect();
        node.others_began = now;
        let rev = node.asked().max(waits);
        let report = rev.filter(|rev| node.publisher.head() >= *rev).map(|rev| {
            let asked = cluster::named(node.reports().flatten(), rev);
            Report::of(&node.fleet, rev, node.committed_at(rev, now), now, &asked)
        });
        node.prompt = node.prompt.max(rev.unwrap_or_default());
        let stands =
            report.as_ref().map(|report| node.fleet.stands(report.rev, node.committed_at(report.rev, now), now));
        let told = node.asked().and_then(|rev| {
            let (seen, _) = node.remembered.get(&rev).filter(|(_, whole)| *whole)?;
            Some((rev, *seen))
        });
        let stands = stands.unwrap_or_default();
        let says = Row { beat: node.row.beat, asks: waits, report, stands, told, left: false };
        let due = first || says != node.row || now.since(node.beat_began) >= BEAT;
        if due && self.now >= node.mute_until {
            node.row = Row { beat: node.row.beat + 1, ..says };
            node.beat_began = now;
            self.db.rows.insert(id, node.row.clone());
        }
        let bounded_by_ms = node.fleet.bounded_by_ms(now);
        let gone = |other: &Other| match other.row.left {
            true => at_once || cluster::is_gone_after_leaving(other.seen, now, bounded_by_ms),
            false if gone_early => now.since(other.seen) > 1_000,
            false => cluster::is_gone(other.seen, now, bounded_by_ms),
        };
        let silent: Vec<(NodeId, u64)> = node
            .others
            .iter()
            .filter(|(_, other)| gone(other))
            .map(|(other, known)| (*other, known.row.beat))
            .collect();
        let pause = if rev.is_some() { self.rng.range(5, 60) } else { self.rng.range(50, 900) };
        node.row_due = self.now + pause;
        for (other, beat) in silent {
            if self.db.rows.get(&other).is_some_and(|row| row.beat == beat) {
                self.db.rows.remove(&other);
                tell!(self, "the row of {other:?} is removed; it lives: {}", self.nodes.contains_key(&other));
                self.counts.add("cluster: rows of dead nodes removed");
            }
        }
    }

    // ---- leases ----

    /// A question arrives at a node. It is answered when the log was read after that.
    pub fn asked_at(&mut self, id: NodeId, follower: usize, ask: Ask) {
        let (read_in, answer_in) = (self.rng.delay(10, 300), self.rng.delay(10, 300));
        let tail = self.has(Lag::LeaseFromTail);
        let (now, instance) = (self.now, ask.identity.instance);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let arrived = node.mono(now);
        self.db.instances.insert(instance);
        meet(&mut node.fleet, instance, arrived);
        let _ = node.fleet.lease_granted(instance, arrived, arrived);
        let reads_at = now + read_in;
        let read = tail.then_some(Ok(())); // a bug: what its own reader knows is new enough
        let question = Question { follower, ask, arrived, reads_at, answers_at: reads_at + answer_in, read };
        node.questions.push(question);
    }

    fn answer_questions(&mut self, id: NodeId) {
        let reaches = self.reaches_database(id);
        let mut at = 0;
        while let Some(question) = self.nodes.get(&id).and_then(|node| node.questions.get(at)) {
            let (reads, answers) = (self.now >= question.reads_at, self.now >= question.answers_at);
            if question.read.is_none() && reads {
                let arrived = question.arrived;
                let granted = reaches && self.may_lease(id, arrived);
                if granted {
                    self.read_log(id);
                }
                if let Some(question) = self.nodes.get_mut(&id).and_then(|node| node.questions.get_mut(at)) {
                    question.read = Some(granted.then_some(()).ok_or(()));
                }
            } else if question.read.is_some() && answers {
                self.answer(id, at);
                continue;
            }
            at += 1;
        }
    }

    fn may_lease(&self, id: NodeId, arrived: Mono) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        self.has(Lag::NoFence) || cluster::within_the_fence(arrived, node.beat_began)
    }

    fn answer(&mut self, id: NodeId, at: usize) {
        let (now, time) = (self.now, self.time());
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Question { follower, ask, read, .. } = node.questions.remove(at);
        let mono = node.mono(now);
        let publisher = &node.publisher;
        if read != Some(Ok(())) {
            self.counts.add("cluster: leases refused");
            let input = Input::AskFailed { nonce: ask.nonce, gone: false };
            return self.followers[follower].inbox.push_back(input);
        }
        if ask.epoch == publisher.epoch() && ask.applied <= publisher.head() {
            let _ = node.fleet.ack(ask.identity.instance, ask.enforced.unwrap_or(ask.applied).min(ask.applied), mono);
        }
        let answer = AckAnswer {
            nonce: ask.nonce,
            epoch: publisher.epoch(),
            head: publisher.head(),
            chain: publisher.chain(),
            horizon_floor: Time::ZERO,
            age_ms: 0,
            time: Some(time),
            position: None,
            entries: publisher.tail(ask.epoch, ask.applied, MAX_TAIL),
            keys: publisher.keys_unless(Some(&ask.keys)),
        };
        self.counts.add("cluster: leases");
        self.followers[follower].inbox.push_back(Input::Answer(answer));
    }

    // ---- enforcement ----

    pub fn wait_at(&mut self, id: NodeId, end: usize) {
        self.asks_at(id, end, None);
    }

    /// Somebody wants to know at some node how far an end is, which may be an old one.
    pub fn somebody_asks(&mut self) {
        let Some(node) = self.some_node().filter(|id| self.reaches_database(*id)) else { return };
        let back = self.rng.index(self.ends.len().min(6));
        let Some(end) = self.ends.len().checked_sub(1 + back) else { return };
        if self.ends[end].committed <= self.now {
            let patience = if self.has(Lag::ForgetsComplete) { 0 } else { PATIENCE };
            self.counts.add("cluster: questions about an end");
            self.asks_at(node, end, Some(self.now + patience));
        }
    }

    fn asks_at(&mut self, id: NodeId, end: usize, until: Option<i64>) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let after = node.mono(now);
        (node.row_due, node.read_due) = (now, now);
        self.waits.push(Wait { node: id, end, after, until });
    }

    /// Who waits is told when it is true everywhere; who only asks, what is known after a moment.
    pub fn look_at_waits(&mut self) {
        let waits = std::mem::take(&mut self.waits);
        for wait in waits {
            let Some(node) = self.nodes.get(&wait.node) else { continue }; // it died, and nobody is told
            if self.now < node.stopped_until {
                self.waits.push(wait);
                continue;
            }
            let (seen, whole) = self.look(wait);
            let over = wait.until.is_some_and(|until| self.now >= until);
            match wait.until {
                None if seen.complete => self.is_true_everywhere(wait.end),
                Some(_) if over || whole => self.is_told(wait, seen),
                _ => self.waits.push(wait),
            }
        }
    }

    fn is_true_everywhere(&mut self, end: usize) {
        let End { rev, committed, .. } = self.ends[end];
        tell!(self, "{rev} is said to be true everywhere");
        let early = self.now < committed + BOUND;
        self.counts.add(if early { "cluster: enforced, acknowledged" } else { "cluster: enforced, by arithmetic" });
        let now = self.now;
        self.ends[end].enforced.get_or_insert(now);
    }

    /// The answer to a question. What a node has said to be complete it never takes back.
    fn is_told(&mut self, wait: Wait, seen: Enforcement) {
        let (rev, id) = (self.ends[wait.end].rev, wait.node);
        if seen.complete {
            self.counts.add("cluster: questions answered with complete");
            let now = self.now;
            self.ends[wait.end].enforced.get_or_insert(now);
        } else if self.nodes.get(&id).is_some_and(|node| node.said_complete.contains(&rev)) {
            self.violate("§8", format!("{id:?} has said that {rev} is enforced, and says now that it is not"));
        }
    }

    /// What a node says of an end, and whether that is in whole; it remembers what was complete.
    fn look(&mut self, wait: Wait) -> (Enforcement, bool) {
        let (rev, forgets) = (self.ends[wait.end].rev, self.has(Lag::ForgetsComplete));
        let Some(node) = self.nodes.get(&wait.node) else { return Default::default() };
        let told = node.others.values().filter_map(|other| other.row.told).find(|(of, _)| *of == rev);
        let before = node.remembered.get(&rev).copied().or(told.map(|(_, seen)| (seen, true))).filter(|_| !forgets);
        if let Some(before) = before.filter(|(_, whole)| *whole) {
            return before;
        }
        let (said, spoke) = self.said(node, rev, wait.after);
        self.all_are_counted(wait, said);
        let Some(node) = self.nodes.get_mut(&wait.node) else { return Default::default() };
        if !said.complete && before.is_none() {
            return (said, false);
        }
        // Within the bound the silent ones were looked for.
        let seen = (said.still_complete(), spoke || said.complete);
        node.remembered.insert(rev, seen);
        node.said_complete.insert(rev);
        seen
    }

    fn said(&self, node: &Node, rev: Rev, after: Mono) -> (Enforcement, bool) {
        let now = node.mono(self.now);
        let committed = node.committed_at(rev, now);
        let alone = node.fleet.enforcement(rev, committed, now);
        let mut reports = node.heard(after.min(committed));
        match self.lag {
            Some(Lag::SilenceIsConsent) => reports.retain(Option::is_some),
            Some(Lag::OneNodeAlone) => reports.clear(),
            _ => {}
        }
        let asked = cluster::named(reports.iter().flatten().copied(), rev);
        let own = Report::of(&node.fleet, rev, committed, now, &asked);
        let own_stands = node.fleet.stands(rev, committed, now);
        let stands = node.who_spoke(rev).flat_map(|row| &row.stands).chain(&own_stands);
        let over = now >= committed.plus(alone.bounded_by_ms);
        let forgotten = if over { Lag::LapsedForgetsTheSilent } else { Lag::PendingForgetsTheSilent };
        let missing = match self.has(forgotten) {
            true => cluster::Missing::default(),
            false => cluster::Missing::of(&self.db.instances, stands, rev),
        };
        let said = cluster::together(rev, &own, alone, &reports, missing, committed, now);
        (said, cluster::all_spoke(rev, &reports))
    }

    /// Whoever held a lease at the commit is in the counts: as one that a node which has spoken knows, or else as one of the silent.
    fn all_are_counted(&mut self, wait: Wait, said: Enforcement) {
        // A bug that loses a node loses its verifiers, too; what must notice that one is I1.
        if self.lag.is_some_and(|lag| lag.breaks() != "§8") {
            return;
        }
        let End { rev, held, rows, .. } = &self.ends[wait.end];
        let Some(node) = self.nodes.get(&wait.node) else { return };
        let there = |id: &NodeId| *id == wait.node || node.others.contains_key(id);
        if !rows.iter().all(there) {
            return; // the row of a node goes when no lease of it can live
        }
        let listed = node.who_spoke(*rev).flat_map(|row| row.stands.iter().map(|one| one.id));
        let known: BTreeSet<InstanceId> = node.fleet.ids().chain(listed).collect();
        let unknown = held.difference(&known).count();
        let now = node.mono(self.now);
        let own = node.fleet.enforcement(*rev, node.committed_at(*rev, now), now);
        let reports = node.who_spoke(*rev).filter_map(|row| row.report.as_ref());
        let told = reports.map(|report| report.acknowledged + report.lapsed + report.pending).sum::<u32>();
        let told = u64::from(told + own.acknowledged + own.lapsed + own.pending);
        let counted = u64::from(said.acknowledged + said.lapsed + said.pending);
        if unknown > 0 {
            let what =
                format!("{rev}: {counted} are counted, {told} by nodes that spoke; {unknown} hung on silent ones");
            self.counts.add("cluster: silent nodes' verifiers counted");
            if counted < told + unknown as u64 {
                self.violate("§8", what);
            }
        }
    }
}

/// An instance that another node may have met.
fn meet(fleet: &mut Fleet, id: InstanceId, now: Mono) {
    if !fleet.contains(id) {
        let (name, client, policies) = (String::new(), ClientId::from_bits(7), Policies::default());
        let _ = fleet.known(Instance { id, name, client, policies, bound_ms: None }, now);
    }
}
