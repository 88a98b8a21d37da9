//! The server on whatever database it finds: the marks and proofs of `domain::rollback`, the log of `feed`.
use super::failover::Db;
use super::{BOUND, Lapse, World, tell};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::By;
use portcullis_domain::ledger::{Ledger, Others};
use portcullis_domain::rollback::{Compared, Mark, Proof, Runs};
use portcullis_domain::view::RefreshView;
use portcullis_domain::{Chance as _, refound, time_rules};
use portcullis_feed::Mono;
use portcullis_feed::publisher::{Limits, LogState, Publisher};
use portcullis_store::memory::Memory;
use portcullis_wire::{Epoch, LogId, Rev, RunId, Time};
use std::collections::BTreeMap;

const HOUSE: i64 = 2_000;
const MARK: i64 = 1_000;

/// The database, and the two files on another volume.
#[derive(Clone)]
pub struct Volume {
    pub db: Db,
    pub mark: Option<Mark>,
    pub proof: Option<Proof>,
}

impl Volume {
    pub fn empty(rng: &mut crate::rng::Rng, now: Time) -> Self {
        Self { db: Memory::new(LogId::from_bits(rng.bits()), now).into(), mark: None, proof: None }
    }
}

/// A running server.
pub struct Node {
    pub publisher: Publisher,
    /// The proof that nothing may be served.
    pub shut: Option<Proof>,
    written: Option<Mark>,
    /// What was acknowledged to it, where that is counted.
    pub ledger: Option<Ledger>,
    /// What it has seen of others' counts, when it looked last, and on which timeline.
    pub others: Others,
    pub others_at: i64,
    pub timeline: u32,
    /// What the database names as its last run, and this one until it is that.
    runs: Runs,
    floor: time_rules::FloorClock,
    house_at: i64,
    mark_at: i64,
    /// Which verifiers follow, and where they are.
    pub streams: BTreeMap<usize, (Epoch, Rev)>,
}

fn publisher_of(db: &Memory, now: Time, mono: Mono) -> Publisher {
    let (stamp, live) = db.read_live(now);
    let (log, epoch, head, chain, floor) = (stamp.log, stamp.epoch, stamp.head, stamp.chain, stamp.floor);
    Publisher::new(LogState { log, epoch, head, chain, floor, live }, Limits { recent: 12, set: 10_000 }, mono)
}

impl World {
    pub fn mono(&self) -> Mono {
        Mono(self.now)
    }

    /// The server starts on what is there, and looks at it first.
    pub fn start_node(&mut self) {
        let (now, mono) = (self.time(), self.mono());
        let stamp = self.volume.db.stamp(now);
        let mut shut: Option<Proof> = None;
        let last = self.volume.db.load_run();
        let mark = self.volume.mark.filter(|_| !self.has(Lapse::MarkIgnored));
        if let Some(mut mark) = mark {
            if self.has(Lapse::MarkWithoutFloor) {
                mark.floor = Time::ZERO;
            }
            if self.has(Lapse::MarkWithoutRun) {
                mark.runs = Runs::default();
            }
            let why = match mark.compare(&stamp) {
                Compared::OtherLog => {
                    self.counts.add("rollback: starts refused");
                    tell!(self, "the server refuses to start: another log");
                    return;
                }
                Compared::Behind(what) => Some(what),
                Compared::Refounded => None,
                Compared::Fits if !self.goes_on_from(mark) => Some("another history".to_owned()),
                Compared::Fits => (self.volume.proof.is_none() && !mark.runs.fit(last))
                    .then(|| "another server has written to it".to_owned()),
            };
            shut = why.map(|what| mark.proof(what, now));
        }
        let kept = self.volume.proof.take().filter(|_| !self.has(Lapse::ProofForgotten));
        if let Some(proof) = kept {
            let read = self.volume.db.read_log(proof.rev, 10_000, now);
            let since = read.complete.then_some(&read.entries[..]);
            let met = proof.is_met_by(&stamp, since, last, self.found_of(&proof))
                && shut.is_none()
                && !self.has(Lapse::RightOneShut);
            if !met {
                shut = Some(Proof::beside(shut.as_ref(), proof));
            }
        }
        if let Some(proof) = &shut {
            self.counts.add("rollback: told at the start");
            tell!(self, "the server is shut: {}", proof.what);
        }
        tell!(self, "the server starts at {}", self.place());
        self.volume.proof.clone_from(&shut);
        let mut publisher = publisher_of(&self.volume.db, now, mono);
        publisher.set_keys(self.listed());
        let floor = time_rules::FloorClock::default();
        let (house_at, mark_at) = (self.now, self.now);
        let next = (!self.shared).then(|| RunId::from_bits(self.rng.bits()));
        let runs = Runs { last: self.volume.db.load_run(), next };
        let (written, streams) = (None, BTreeMap::new());
        let ledger = self.ledger_at_start();
        let (others, others_at, timeline) = (Others::default(), i64::MIN, self.volume.db.timeline);
        self.node = Some(Node {
            publisher,
            shut,
            written,
            ledger,
            others,
            others_at,
            timeline,
            runs,
            floor,
            house_at,
            mark_at,
            streams,
        });
        self.look_for_losses();
        self.writes_mark();
        self.writes_mark();
    }

    /// The mark, and then the database, name this run.
    fn writes_mark(&mut self) {
        let stamp = self.volume.db.stamp(self.time());
        let goes_back = self.has(Lapse::MarkGoesBack);
        let Some(node) = &mut self.node else { return };
        let told = node.ledger.map(|ledger| ledger.told);
        let mark = Mark { runs: node.runs, ..Mark::of(&stamp).with(told) };
        let further = node.written.is_none_or(|written| {
            (written.runs, written.commits) != (mark.runs, mark.commits) || written.is_behind(&stamp)
        });
        if node.shut.is_some() && !goes_back {
            return;
        }
        // The server may be killed between the one and the other.
        let (killed, next) = (self.rng.chance(200), node.runs.next);
        if further && !(killed && self.has(Lapse::RunBeforeMark)) {
            self.node.iter_mut().for_each(|node| node.written = Some(mark));
            self.volume.mark = Some(mark);
        }
        let Some(next) = next.filter(|_| !killed || self.has(Lapse::RunBeforeMark)) else { return };
        if self.commit(Changes { steps: vec![Change::SetRun(next)], ..Changes::default() }) {
            self.node.iter_mut().for_each(|node| node.runs = Runs { last: Some(next), next: None });
        }
    }

    fn goes_on_from(&self, mark: Mark) -> bool {
        let read = self.volume.db.read_log(mark.rev, 10_000, self.time());
        let told = read.complete && !self.has(Lapse::MarkWithoutChain);
        !told || mark.after(&read.entries).chain == read.stamp.chain
    }

    pub fn listed(&self) -> Vec<portcullis_wire::jws::Jwk> {
        crate::rota::listed(&self.volume.db.list_keys(), self.volume.db.stamp(self.time()).floor, false)
    }

    pub fn stop_node(&mut self) {
        if let Some(node) = self.node.take() {
            // What was proven is written down within a round, and a stop is later than that.
            self.volume.proof = node.shut.or(self.volume.proof.take());
            node.streams.keys().for_each(|which| self.followers[*which].stream_ends());
        }
    }

    pub fn restart_node(&mut self) {
        self.stop_node();
        self.start_node();
    }

    /// Somebody brings a proof.
    pub fn prove(&mut self, proof: Proof) {
        let Some(node) = &mut self.node else { return };
        let proof = Proof::beside(node.shut.as_ref(), proof);
        if node.shut.as_ref() == Some(&proof) {
            return;
        }
        self.volume.proof = Some(proof.clone());
        let streams: Vec<usize> = std::mem::take(&mut node.streams).into_keys().collect();
        node.shut = Some(proof.clone());
        streams.into_iter().for_each(|which| self.followers[which].stream_ends());
        self.counts.add("rollback: told by a proof");
        tell!(self, "the server is shut: {}", proof.what);
    }

    pub fn refresh_ahead(&mut self, view: &RefreshView, presented: &Presented) {
        self.ahead_shown = true;
        if !self.has(Lapse::AheadIgnored) {
            let what = format!("a refresh token has the number {}", presented.counter());
            self.counts.add("rollback: refresh tokens ahead");
            self.prove(Proof::by_other_means(what, &view.stamp));
        }
    }

    /// One commit, published. Whether it was made.
    pub fn commit(&mut self, mut changes: Changes) -> bool {
        changes.idle_ttl = Some(self.rules.idle_ttl);
        let done = self.counted(changes, true);
        self.follow_log();
        done
    }

    /// The node reads what was committed.
    fn follow_log(&mut self) {
        let (now, mono) = (self.time(), self.mono());
        let keys = self.listed();
        let Some(node) = &mut self.node else { return };
        let read = self.volume.db.read_log(node.publisher.head(), 10_000, now);
        let appended = read.complete
            && read.stamp.epoch == node.publisher.epoch()
            && (read.entries.is_empty() || node.publisher.append(&read.entries, read.stamp.chain, mono).is_ok());
        if !appended {
            node.publisher = publisher_of(&self.volume.db, now, mono);
        }
        node.publisher.set_keys(keys);
        node.publisher.set_floor(read.stamp.floor);
    }

    /// F, and the mark.
    pub fn node_rounds(&mut self) {
        let (now, at, mono) = (self.time(), self.now, self.mono());
        let stamp = self.volume.db.stamp(now);
        self.look_for_losses();
        self.look_at_others();
        if self.node.as_mut().is_some_and(|node| at >= node.mark_at) {
            self.node.iter_mut().for_each(|node| node.mark_at = at + MARK);
            self.writes_mark();
        }
        let Some(node) = &mut self.node else { return };
        if at >= node.house_at {
            node.house_at = at + HOUSE;
            // A server that is shut writes nothing.
            if node.shut.is_none()
                && let Some(floor) = node.floor.next(stamp.floor, now, mono.0)
            {
                self.commit(Changes { steps: vec![Change::RaiseFloor(floor)], ..Changes::default() });
            }
        }
    }

    // ---- founding anew ----

    /// The log of `db` is founded anew.
    fn found_anew(&mut self, db: &mut Memory, proven: (Epoch, Rev)) {
        let now = self.time();
        let (stamp, rows) = (db.stamp(now), db.list_keys());
        let planned = refound::plan(&stamp, &rows, &self.key_rules(), proven, &mut self.rng);
        let Ok(what) = planned else { return self.violate("the log cannot be founded anew".into()) };
        let made = self.make(&what.keys, now);
        let changes = refound::changes(what, made, &By::SYSTEM, &mut self.rng);
        let Ok(mut changes) = changes else { return self.violate("the log cannot be founded anew".into()) };
        if self.has(Lapse::RefoundInTheSameEpoch) {
            changes.steps.retain(|step| !matches!(step, Change::Refound { .. }));
        }
        if let Err(error) = db.commit(changes, now) {
            return self.violate(format!("the log cannot be founded anew: {error}"));
        }
        let at = self.now;
        self.people.iter_mut().filter(|person| person.lives()).for_each(|person| person.void = Some(at));
        let anew = db.stamp(now);
        tell!(self, "founded anew at {}.{}", anew.epoch, anew.head);
        self.copies.clear(); // what is older is another story now
    }

    fn proven(&self) -> (Epoch, Rev) {
        let proof = self.node.as_ref().and_then(|node| node.shut.as_ref()).or(self.volume.proof.as_ref());
        let by_proof = proof.map(|proof| (proof.epoch, proof.rev));
        by_proof.max(self.volume.mark.map(|mark| (mark.epoch, mark.rev))).unwrap_or_default()
    }

    /// `portcullis refound`, at the running server.
    pub fn refound_here(&mut self) {
        let proven = self.proven();
        let mut db = self.volume.db.clone();
        self.found_anew(&mut db, proven);
        self.volume.db = db;
        self.volume.proof = None;
        if let Some(node) = &mut self.node {
            node.shut = None;
            let streams: Vec<usize> = std::mem::take(&mut node.streams).into_keys().collect();
            streams.into_iter().for_each(|which| self.followers[which].stream_ends());
        }
        self.blocks_as_they_are();
        self.follow_log();
    }

    /// `portcullis restore`: the copy is founded anew, and then takes the place.
    pub fn restore(&mut self, mut copy: Db) {
        let proven = self.proven();
        if self.has(Lapse::RestoreAsItIs) {
            let mark = Mark::of(&copy.stamp(self.time()));
            (self.volume.db, self.volume.mark, self.volume.proof) = (copy, Some(mark), None);
            return;
        }
        let stood = copy.stamp(self.time());
        self.found_anew(&mut copy, proven);
        if !self.has(Lapse::ReplayForgotten) {
            self.replay(&mut copy, &stood);
        }
        (self.volume.db, self.volume.proof) = (copy, None);
    }

    pub fn bound(&self) -> i64 {
        BOUND
    }
}
