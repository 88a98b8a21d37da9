//! Verifiers: the real `Subscriber` and `judge_claims`, on a network that only delays.
use super::people::Token;
use super::{Lapse, World, tell};
use portcullis_domain::Chance as _;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::model::Instance;
use portcullis_domain::rollback::Proof;
use portcullis_feed::knowledge::Knowledge;
use portcullis_feed::publisher::{Publisher, Resume};
use portcullis_feed::subscriber::{Action, Ask, Config, Frame, Identity, Input, Now, Subscriber, Trouble};
use portcullis_feed::{Policies, Policy};
use portcullis_verify::{AheadRecord, Authentic, Decision, Expect, Holder, Reason, View, judge_claims};
use portcullis_wire::frame::{AckAnswer, Entries, Hello, VERSION};
use portcullis_wire::{Chain, ClientId, Epoch, InstanceId, Rev, SecretString, b64};
use std::collections::VecDeque;

const PART: usize = 3;
const MAX_RESUME: usize = 8;
const MAX_TAIL: usize = 6;

pub struct Follower {
    /// When it started.
    pub since: i64,
    subscriber: Subscriber,
    shown: View,
    ahead: AheadRecord,
    /// What is on its way, in order.
    inbox: VecDeque<Input>,
}

impl Follower {
    pub fn new(now: i64) -> Self {
        let subscriber = Subscriber::new(Config::default());
        let shown = View::new(subscriber.knowledge().clone());
        Self { since: now, subscriber, shown, ahead: AheadRecord::default(), inbox: VecDeque::new() }
    }

    pub fn known(&self) -> &Knowledge {
        &self.shown.known
    }

    pub fn stream_ends(&mut self) {
        self.inbox.push_back(Input::StreamEnded);
    }
}

/// A position with its link, as the server signs it; nobody forges one here.
fn shown(publisher: &Publisher) -> String {
    format!("{}.{}.{}", publisher.epoch(), publisher.head(), b64::encode(&publisher.chain().0))
}

fn parse(position: &str) -> Option<(Epoch, Rev, Chain)> {
    let mut parts = position.split('.');
    let (epoch, rev) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((Epoch(epoch), Rev(rev), Chain(b64::decode_array(parts.next()?)?)))
}

impl World {
    pub fn followers_go_on(&mut self) {
        for which in 0..self.followers.len() {
            self.feed(which);
            while self.rng.chance(850)
                && let Some(input) = self.followers[which].inbox.pop_front()
            {
                self.handle(which, input);
            }
            let due = self.followers[which].subscriber.wake_at().is_some_and(|at| at <= self.mono());
            if due {
                self.handle(which, Input::Tick);
            }
        }
    }

    /// Everything that is on its way arrives, and what comes of it.
    pub fn followers_catch_up(&mut self) {
        for _ in 0..40 {
            for which in 0..self.followers.len() {
                self.feed(which);
                while let Some(input) = self.followers[which].inbox.pop_front() {
                    self.handle(which, input);
                }
                self.handle(which, Input::CatchUp);
            }
            self.now += 50;
        }
    }

    fn handle(&mut self, which: usize, input: Input) {
        let now = Now { mono: self.mono(), wall: self.time(), chance: self.rng.word() };
        for action in self.followers[which].subscriber.handle(input, now) {
            self.does(which, action);
        }
    }

    fn does(&mut self, which: usize, action: Action) {
        let answer = match action {
            Action::Connect { identity, position } => {
                self.leaves(which);
                match self.opens(which, identity, position) {
                    Some(frames) => return self.followers[which].inbox.extend(frames),
                    None => Input::StreamEnded,
                }
            }
            Action::Disconnect => return self.leaves(which),
            Action::Ask(ask) => {
                let nonce = ask.nonce.clone();
                match self.lease(ask) {
                    Ok(answer) => Input::Answer(answer),
                    Err(gone) => Input::AskFailed { nonce, gone },
                }
            }
            Action::Pull { part, rev, .. } => {
                let parts =
                    self.node.as_ref().filter(|node| node.shut.is_none()).map(|node| node.publisher.snapshot(PART));
                let page =
                    parts.into_iter().flatten().find(|page| page.part == part && rev.is_none_or(|rev| rev == page.rev));
                page.map_or(Input::PullFailed { conflict: true }, Input::Page)
            }
            Action::Publish => {
                let follower = &mut self.followers[which];
                follower.shown = follower.shown.next(follower.subscriber.knowledge().clone());
                return;
            }
            Action::Report(trouble) => return self.reports(which, trouble),
        };
        self.followers[which].inbox.push_back(answer);
    }

    fn reports(&mut self, which: usize, trouble: Trouble) {
        tell!(self, "verifier {which} reports {trouble}");
        match trouble {
            Trouble::Fork => self.counts.add("rollback: forks seen by verifiers"),
            Trouble::OtherLog => self.counts.add("rollback: other logs seen by verifiers"),
            Trouble::OlderEpoch | Trouble::Rollback => self.counts.add("rollback: older logs seen by verifiers"),
            _ => {}
        }
        let follows = self.has(Lapse::FollowAnything)
            && matches!(trouble, Trouble::Fork | Trouble::OtherLog | Trouble::OlderEpoch | Trouble::Rollback);
        if follows {
            let since = self.followers[which].since;
            self.followers[which] = Follower { since, ..Follower::new(since) };
        }
    }

    pub fn leaves(&mut self, which: usize) {
        if let Some(node) = &mut self.node {
            node.streams.remove(&which);
        }
    }

    // ---- the server's side ----

    /// Whether the server may answer somebody who shows this position.
    fn may_answer(&mut self, position: Option<&str>) -> bool {
        let stamp = self.volume.db.stamp(self.time());
        let Some((epoch, rev, chain)) = position.and_then(parse) else { return self.serves() };
        let beyond = (epoch, rev) > (stamp.epoch, stamp.head);
        let read = self.volume.db.read_log(rev, 10_000, self.time());
        let other = epoch == stamp.epoch
            && read.complete
            && read.entries.iter().fold(chain, |link, entry| link.after(entry)) != stamp.chain;
        if !(beyond || other) || self.node.is_none() {
            return self.serves();
        }
        let ignored = match self.lapse {
            Some(Lapse::PositionIgnored) => true,
            Some(Lapse::LinkIgnored) => other,
            // That a verifier refuses by itself is the second line: it shows where the first does not stand.
            Some(Lapse::FollowAnything) => true,
            _ => false,
        };
        if !self.has(Lapse::FollowAnything) {
            self.shown_at.get_or_insert(self.now);
        }
        if !ignored {
            let what = format!("a verifier shows the position {epoch}.{rev}");
            self.counts.add(if beyond { "rollback: positions shown" } else { "rollback: other histories shown" });
            self.prove(Proof::by_position(what, (epoch, rev), Some(chain), stamp.now));
        }
        self.serves() && !beyond
    }

    fn opens(&mut self, which: usize, identity: Option<Identity>, position: Option<String>) -> Option<Vec<Input>> {
        if !self.may_answer(position.as_deref()) {
            return None;
        }
        let rows = self.volume.db.list_instances();
        let known =
            identity.filter(|me| rows.iter().any(|row| row.id == me.instance && row.secret == me.secret.digest()));
        let me = match known {
            Some(me) => me,
            None => {
                let secret = SecretString::new(b64::encode(&self.rng.secret()));
                let me = Identity { instance: InstanceId::from_bits(self.rng.bits()), secret };
                let row = Instance {
                    id: me.instance,
                    client: ClientId::from_bits(7),
                    name: format!("verifier {which}"),
                    policy: Policies::default().to_string(),
                    bound_ms: self.bound().unsigned_abs(),
                    secret: me.secret.digest(),
                    created_at: self.time(),
                };
                self.commit(Changes { steps: vec![Change::InsertInstance(row)], ..Changes::default() }).then_some(())?;
                me
            }
        };
        let max_life_s = self.rules.max_life().div_euclid(1000).unsigned_abs() + 1;
        let bound_ms = self.bound().unsigned_abs();
        let node = self.node.as_mut()?;
        let publisher = &node.publisher;
        let (epoch, head) = (publisher.epoch(), publisher.head());
        let id = Some(shown(publisher));
        let hello = Hello {
            v: VERSION,
            log: publisher.log(),
            instance: me.instance,
            instance_secret: me.secret,
            epoch,
            head,
            chain: publisher.chain(),
            bound_ms,
            max_life_s,
        };
        let mut frames = vec![Input::Frame(Frame::Hello(hello), None)];
        let resume = position.as_deref().and_then(parse);
        match resume.map_or(Resume::Snapshot, |(epoch, rev, _)| publisher.resume(epoch, rev, MAX_RESUME)) {
            Resume::Entries(entries) => {
                frames.push(Input::Frame(Frame::Keys(publisher.keys_frame()), None));
                frames.push(Input::Frame(Frame::Entries(Entries { entries, ack: false }), id));
            }
            Resume::Snapshot => {
                let parts = publisher.snapshot(PART);
                let last = parts.len() - 1;
                let all = parts.into_iter().enumerate();
                frames
                    .extend(all.map(|(n, part)| Input::Frame(Frame::Snapshot(part), id.clone().filter(|_| n == last))));
            }
            Resume::Ahead => return None,
        }
        node.streams.insert(which, (epoch, head));
        Some(frames)
    }

    /// What the stream brings.
    fn feed(&mut self, which: usize) {
        let Some(node) = &mut self.node else { return };
        let Some((epoch, at)) = node.streams.get(&which).copied() else { return };
        let publisher = &node.publisher;
        if epoch == publisher.epoch() && at == publisher.head() {
            return;
        }
        let id = Some(shown(publisher));
        let input = match publisher.resume(epoch, at, MAX_RESUME) {
            Resume::Entries(entries) => Input::Frame(Frame::Entries(Entries { entries, ack: false }), id),
            Resume::Snapshot | Resume::Ahead => Input::Frame(Frame::Bye, None),
        };
        let here = (publisher.epoch(), publisher.head());
        if matches!(input, Input::Frame(Frame::Bye, _)) {
            node.streams.remove(&which);
            self.followers[which].inbox.push_back(input);
            return self.followers[which].stream_ends();
        }
        node.streams.insert(which, here);
        self.followers[which].inbox.push_back(input);
    }

    /// A lease, or whether the instance is not known.
    fn lease(&mut self, ask: Ask) -> Result<AckAnswer, bool> {
        if !self.may_answer(Some(&ask.position)) {
            return Err(false);
        }
        let rows = self.volume.db.list_instances();
        let me = &ask.identity;
        if !rows.iter().any(|row| row.id == me.instance && row.secret == me.secret.digest()) {
            return Err(true);
        }
        let stamp = self.volume.db.stamp(self.time());
        let Some(node) = &self.node else { return Err(false) };
        let publisher = &node.publisher;
        self.counts.add("rollback: leases");
        Ok(AckAnswer {
            nonce: ask.nonce,
            epoch: publisher.epoch(),
            head: publisher.head(),
            chain: publisher.chain(),
            horizon_floor: stamp.floor,
            age_ms: 0,
            time: Some(stamp.now),
            position: Some(shown(publisher)),
            entries: publisher.tail(ask.epoch, ask.applied, MAX_TAIL),
            keys: publisher.keys_unless(Some(&ask.keys)),
        })
    }

    // ---- requests ----

    /// What a request with this token comes to.
    pub fn judge(&mut self, which: usize, (claims, key): &Token) -> Result<(), Reason> {
        let expect = Expect { issuer: self.rules.issuer.clone(), audience: self.rules.audience.clone() };
        let (mono, wall) = (self.mono(), self.time());
        let follower = &mut self.followers[which];
        if !follower.shown.known.keys.iter().any(|jwk| jwk.kid == *key) {
            return Err(Reason::UnknownKey);
        }
        let token = Authentic::insecure_without_signature(claims.clone(), Some(*key));
        let verdict = judge_claims(&follower.shown, &token, &Holder::Bearer, &expect, Policy::Closed, mono, wall);
        match (verdict.decision, verdict.ahead) {
            (Decision::Accept, Some(rev)) => follower.ahead.check(rev, &follower.shown.known, mono),
            (Decision::Accept | Decision::AcceptUnproven, _) => Ok(()),
            (Decision::Introspect, _) => Err(Reason::NotFresh),
            (Decision::Refuse(reason), _) => Err(reason),
        }
    }
}
