//! The world of the audit trail: acts whose records become visible out of the order in which they were begun, two sealers that both
//! take themselves for the one and die between any two steps, a chore that prunes and erases, and an operator who writes down
//! where the chain ends; and two leaders that tell a follower of each record, which die as well.
//!
//! The memory store keeps, `domain::audit` seals, prunes and checks; the loop of `app::audit` is written again, step by step. Checked
//! is, all the time, that the chain is whole and has every place that was written down, and in the end that every record that
//! was committed is in it, once; and that the follower was told of each of them: once, where nobody asked for it again, and of what was
//! pruned first perhaps never.
use crate::mutant::Seam;
use crate::rng::Rng;
use crate::{Counts, Outcome, Violation};
use portcullis_domain::Chance as _;
use portcullis_domain::audit::{
    self, Anew, Attested, AuditKey, ChainRow, Finding, LEAP, Page, Place, Record, Seal, Sealing, Seen, Start, seen,
};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::follow::{Follower, FollowerStep, Trail};
use portcullis_domain::webhook;
use portcullis_store::memory::Memory;
use portcullis_wire::{EventId, LogId, SecretBytes, Time, WebhookId};
use std::collections::{BTreeMap, BTreeSet};

const LOG: LogId = LogId::from_bits(11);
const LENGTH: i64 = 12_000;
/// Records are kept for so long, and addresses for half of that.
const KEEP: i64 = 4_000;
/// So many records are sealed at once.
const AT_ONCE: u32 = 4;
/// A leader reads so many records at once.
const PAGE: u32 = 3;
const FOLLOWER: &str = "somebody";
/// Once nothing happens any more, so many rounds of the sealers must do.
const ROUNDS: u32 = 300;

/// An act that was begun, and will be visible.
struct Begun {
    event: NewEvent,
    visible_at: i64,
}

/// A sealer between two steps.
#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    /// It has read, and will write.
    Writing(Sealing),
}

struct Sealer {
    doing: Doing,
    next: i64,
}

/// A leader between two steps.
#[derive(Debug, Clone)]
enum Telling {
    Nothing,
    /// It has seen where the trail and the follower are.
    Looked(Trail, u64),
    /// It has read a page, and will write.
    Passing(FollowerStep, Vec<(EventId, Change)>),
    /// A bug: the cursor has moved, and what it passed is written next.
    Afterwards(Vec<(EventId, Change)>),
}

struct Leader {
    telling: Telling,
    next: i64,
}

struct World {
    rng: Rng,
    now: i64,
    db: Memory,
    bug: Option<Seam>,
    begun: Vec<Begun>,
    /// In which order records were begun.
    numbers: BTreeMap<EventId, u64>,
    committed: BTreeSet<EventId>,
    /// The highest number of a record that is sealed.
    newest: u64,
    sealers: [Sealer; 2],
    leaders: [Leader; 2],
    /// Every record that ever got a place.
    sealed: BTreeSet<EventId>,
    /// How often the follower was told of each.
    told: BTreeMap<EventId, u32>,
    /// What was pruned before the follower was told of it.
    let_go: BTreeSet<EventId>,
    /// Whether somebody asked to be told again.
    again: bool,
    known: Vec<Place>,
    /// Up to which place the chain before this one has left records.
    left: u64,
    counts: Counts,
    violation: Option<Violation>,
    events: u64,
    hash: u64,
    story: Option<Vec<String>>,
}

/// Runs one seed. `story`: keep the events in words.
pub fn run(seed: u64, bug: Option<Seam>, story: bool) -> Outcome {
    let mut world = World::new(seed, bug, story);
    world.run();
    let World { violation, counts, hash, events, story, .. } = world;
    Outcome { seed, violation, counts, hash, events, story: story.unwrap_or_default() }
}

fn key() -> AuditKey {
    AuditKey(SecretBytes::new([8; 32]))
}

impl World {
    fn new(seed: u64, bug: Option<Seam>, story: bool) -> Self {
        let (mut db, start) = (Memory::new(LOG, Time(0)), key().genesis(LOG));
        let row = ChainRow::new(SecretBytes::new([]), start);
        let begun = db.commit(Changes { steps: vec![Change::BeginChain(row)], ..Changes::default() }, Time(0)).is_ok();
        let sealer = || Sealer { doing: Doing::Nothing, next: 0 };
        let leader = || Leader { telling: Telling::Nothing, next: 0 };
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            db,
            bug,
            begun: Vec::new(),
            numbers: BTreeMap::new(),
            committed: BTreeSet::new(),
            newest: 0,
            sealers: [sealer(), sealer()],
            leaders: [leader(), leader()],
            sealed: BTreeSet::new(),
            told: BTreeMap::new(),
            let_go: BTreeSet::new(),
            again: false,
            known: Vec::new(),
            left: 0,
            counts: Counts::default(),
            violation: None,
            events: 0,
            hash: seed,
            story: story.then(Vec::new),
        };
        if !begun {
            world.violate("the chain does not begin".into());
        }
        world
    }

    fn run(&mut self) {
        while self.now < LENGTH && self.violation.is_none() {
            self.now += self.rng.range(1, 60);
            self.become_visible();
            match self.rng.range(0, 19) {
                0..=6 => self.begin(),
                7..=14 => self.sealers_act(),
                15 => self.erase(),
                16 => self.prune(),
                17 => self.write_down(),
                _ => self.check(),
            }
            for _ in 0..2 {
                self.leaders_act();
            }
            if self.rng.chance(4) {
                self.ask_again();
            }
            if self.rng.chance(3) {
                self.begin_anew();
            }
            if self.rng.chance(30) {
                self.tampered_with();
            }
        }
        self.now += 100_000;
        self.become_visible();
        for _ in 0..ROUNDS {
            self.now += 500;
            self.sealers_act();
            self.leaders_act();
        }
        for _ in 0..3 * ROUNDS {
            self.now += 500;
            self.leaders_act();
        }
        self.check();
        self.check_the_end();
        self.check_told();
    }

    fn tell(&mut self, what: &str) {
        self.events += 1;
        for byte in what.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{now:>7} {what}"));
        }
    }

    fn violate(&mut self, detail: String) {
        self.tell(&detail);
        let at = self.now;
        self.violation.get_or_insert(Violation { invariant: "I9", detail, at });
    }

    fn has(&self, bug: Seam) -> bool {
        self.bug == Some(bug)
    }

    // ---- acts ----

    fn begin(&mut self) {
        let kind = EventKind::ALL[self.rng.index(EventKind::ALL.len())];
        let event = NewEvent::new(EventId::from_bits(self.rng.bits()), kind, &Actor::System);
        let event = event.ip(self.rng.chance(600).then(|| [192, 0, 2, 7].into()));
        let event = if self.rng.chance(300) { event.reason("why") } else { event };
        self.numbers.insert(event.id, self.numbers.len() as u64);
        let visible_at = self.now + self.rng.delay(50, 2_500);
        self.begun.push(Begun { event, visible_at });
    }

    fn become_visible(&mut self) {
        let (due, rest): (Vec<Begun>, Vec<Begun>) =
            std::mem::take(&mut self.begun).into_iter().partition(|one| one.visible_at <= self.now);
        self.begun = rest;
        for Begun { event, .. } in due {
            if self.numbers[&event.id] < self.newest {
                self.counts.add("audit: a commit came late");
            }
            self.tell(&format!("{} is visible", event.id));
            self.committed.insert(event.id);
            let id = event.id;
            if self.db.commit(Changes { events: vec![event], ..Changes::default() }, Time(self.now)).is_err() {
                self.violate(format!("{id} is not written"));
            }
        }
    }

    // ---- the sealers ----

    fn chain(&self) -> (ChainRow, Vec<Record>) {
        match self.db.read_chain(None, u32::MAX) {
            Some(read) => (read.chain, read.rows),
            None => unreachable!("it was begun"),
        }
    }

    fn sealers_act(&mut self) {
        let one = self.rng.index(2);
        if self.sealers[one].next > self.now {
            return;
        }
        self.sealers[one].next = self.now + self.rng.delay(40, 800);
        // It dies, or its node stands still and another one takes over: what it was about to do is lost.
        if self.rng.chance(60) {
            self.counts.add("audit: a sealer died");
            self.sealers[one].doing = Doing::Nothing;
            return;
        }
        match std::mem::replace(&mut self.sealers[one].doing, Doing::Nothing) {
            Doing::Nothing => self.reads(one),
            Doing::Writing(what) => self.writes(one, what),
        }
    }

    fn reads(&mut self, one: usize) {
        let Some(chain) = self.db.read_chain(None, 0).map(|read| read.chain) else { return };
        let mut rows = self.db.list_unsealed(AT_ONCE);
        if self.has(Seam::SealsBySequence) {
            rows.retain(|row| self.numbers[&row.event.id] >= self.newest);
        }
        if rows.is_empty() {
            return;
        }
        let what = audit::seal(&key(), LOG, chain.head, &rows, &mut self.rng);
        self.sealers[one].doing = Doing::Writing(what);
    }

    fn writes(&mut self, one: usize, what: Sealing) {
        let (to, count) = (what.to, what.seals.len());
        let ids: Vec<EventId> = what.seals.iter().map(|(id, _)| *id).collect();
        let newest = what.seals.iter().map(|(id, _)| self.numbers[id]).max().unwrap_or(0);
        let fate = self.rng.range(0, 19);
        if fate == 0 {
            self.counts.add("audit: a seal failed");
            return;
        }
        let what = if self.has(Seam::SealsBlindly) { self.as_if_nobody_else(what) } else { what };
        match self.db.commit(Changes { steps: vec![Change::Seal(what)], ..Changes::default() }, Time(self.now)) {
            Ok(_) => {
                self.counts.add("audit: records sealed");
                self.sealed.extend(ids);
                self.newest = self.newest.max(newest);
                self.tell(&format!("sealer {one} seals {count} up to {}", to.n));
                // Its answer may be lost.
                if fate == 1 {
                    self.counts.add("audit: the answer to a seal was lost");
                }
            }
            Err(_) => self.counts.add("audit: a sealer was overtaken"),
        }
    }

    /// What a write without a condition comes to: what was made for one place goes where the chain ends now.
    fn as_if_nobody_else(&self, what: Sealing) -> Sealing {
        let from = self.chain().0.head;
        let rows = self.db.list_unsealed(u32::MAX);
        let open = |id: &EventId| rows.iter().any(|row| row.event.id == *id);
        let kept = what.seals.into_iter().filter(|(id, _)| open(id)).zip(from.n + 1..);
        let seals: Vec<(EventId, Seal)> = kept
            .map(|((id, seal), n)| (id, Seal { place: Place { n, link: seal.place.link }, hides: seal.hides }))
            .collect();
        let to = seals.last().map_or(from, |(_, seal)| seal.place);
        Sealing { from, to, seals }
    }

    // ---- the leaders ----

    fn leaders_act(&mut self) {
        let one = self.rng.index(2);
        if self.leaders[one].next > self.now {
            return;
        }
        self.leaders[one].next = self.now + self.rng.delay(30, 900);
        // It dies, and what it was about to do is lost; the other one is there already.
        if self.rng.chance(80) {
            self.counts.add("audit: a leader died");
            self.leaders[one].telling = Telling::Nothing;
            return;
        }
        match std::mem::replace(&mut self.leaders[one].telling, Telling::Nothing) {
            Telling::Nothing => self.looks(one),
            Telling::Looked(trail, place) => self.reads_on(one, trail, place),
            Telling::Passing(step, made) => self.passes(one, step, made),
            Telling::Afterwards(made) => self.tells(made),
        }
    }

    fn place_of_follower(&self) -> Option<u64> {
        self.db.list_followers().iter().find(|one| one.name == FOLLOWER).map(|one| one.place)
    }

    fn looks(&mut self, one: usize) {
        let chain = self.chain().0;
        let trail = Trail::of(&chain);
        match self.place_of_follower() {
            Some(place) if place == trail.head => {}
            Some(place) => self.leaders[one].telling = Telling::Looked(trail, place),
            // Of all that there ever was.
            None => self.leaders[one].telling = Telling::Passing(FollowerStep::begin(FOLLOWER.into(), 0), vec![]),
        }
    }

    fn reads_on(&mut self, one: usize, trail: Trail, place: u64) {
        let reading = trail.reading(place);
        if reading.missed > 0 {
            self.counts.add("audit: pruned before the follower was told");
        }
        let rows = self.db.read_chain(Some(reading.after), PAGE).map(|read| read.rows).unwrap_or_default();
        let last = rows.last().and_then(|row| row.seal).map(|seal| seal.place.n);
        let follower = Follower { name: FOLLOWER.into(), place };
        let Some(mut step) = follower.over(reading, last) else { return };
        if self.has(Seam::CursorToTheEnd) {
            step.to = Some(trail.head);
        }
        let (mut made, now) = (Vec::new(), Time(self.now));
        for row in rows {
            let place = row.seal.map_or(0, |seal| seal.place.n);
            let record = Some((row.event.id, place));
            let message = webhook::message(WebhookId::from_bits(1), record, now, &mut self.rng);
            made.push((row.event.id, Change::InsertMessage(message)));
        }
        self.leaders[one].telling = Telling::Passing(step, made);
    }

    fn passes(&mut self, one: usize, mut step: FollowerStep, made: Vec<(EventId, Change)>) {
        let fate = self.rng.range(0, 19);
        if fate == 0 {
            return self.counts.add("audit: a page failed");
        }
        if self.has(Seam::CursorBlindly) {
            step.from = self.place_of_follower();
        }
        let (now, to) = (Time(self.now), step.to);
        let (with, later) = if self.has(Seam::CursorFirst) { (vec![], made) } else { (made, vec![]) };
        let steps = [Change::StepFollower(step)].into_iter().chain(with.iter().map(|one| one.1.clone())).collect();
        match self.db.commit(Changes { steps, ..Changes::default() }, now) {
            Ok(_) => {
                self.tell(&format!("leader {one} passes {} up to {to:?}", with.len()));
                self.heard(&with);
                if !later.is_empty() {
                    self.leaders[one].telling = Telling::Afterwards(later);
                }
                if fate == 1 {
                    self.counts.add("audit: the answer to a page was lost");
                }
            }
            Err(_) => self.counts.add("audit: a leader was overtaken"),
        }
    }

    fn tells(&mut self, made: Vec<(EventId, Change)>) {
        let steps = made.iter().map(|one| one.1.clone()).collect();
        if self.db.commit(Changes { steps, ..Changes::default() }, Time(self.now)).is_ok() {
            self.heard(&made);
        }
    }

    fn heard(&mut self, made: &[(EventId, Change)]) {
        for (id, _) in made {
            *self.told.entry(*id).or_default() += 1;
            self.counts.add("audit: the follower was told");
        }
    }

    /// Somebody wants to be told again of what comes after some place.
    fn ask_again(&mut self) {
        let chain = self.chain().0;
        let trail = Trail::of(&chain);
        let Some(place) = self.place_of_follower() else { return };
        let to = trail.bounded(self.rng.range(0, i64::try_from(trail.head).unwrap_or(0)).unsigned_abs());
        // Only back: whoever skips something wants to.
        if to < place {
            let step = Follower { name: FOLLOWER.into(), place }.moved(to);
            let changes = Changes { steps: vec![Change::StepFollower(step)], ..Changes::default() };
            self.again |= self.db.commit(changes, Time(self.now)).is_ok();
            self.counts.add("audit: told again");
        }
    }

    // ---- the chore ----

    fn erase(&mut self) {
        let (before, most) = (Time(self.now - KEEP / 2), 3);
        let salts = self.salts();
        let step = Change::ForgetEventAddresses { before, most };
        let done = self.db.commit(Changes { steps: vec![step], ..Changes::default() }, Time(self.now));
        if done.is_ok_and(|done| done.pruned > 0) {
            self.counts.add("audit: addresses erased");
        }
        if self.has(Seam::SaltStays) {
            for row in self.db.tamper() {
                if let Some(hidden) = row.seal.as_mut().and_then(|seal| seal.hides.address.as_mut()) {
                    hidden.salt = salts.get(&row.event.id).copied().flatten();
                }
            }
        }
    }

    fn salts(&self) -> BTreeMap<EventId, Option<[u8; 16]>> {
        let of = |row: &Record| Some((row.event.id, row.seal?.hides.address?.salt));
        self.chain().1.iter().filter_map(of).collect()
    }

    fn prune(&mut self) {
        let (chain, rows) = self.chain();
        let shown = &rows[..rows.len().min(5)];
        let mut what = match audit::prune(&key(), LOG, &chain, shown, shown.len(), Time(self.now - KEEP)) {
            Ok(Some(what)) => what,
            Ok(None) => return,
            Err(finding) => return self.violate(format!("nothing is pruned: {finding}")),
        };
        if self.has(Seam::UnsignedStart) {
            what.to = Start { mac: chain.start.mac, ..what.to };
        }
        let place = self.place_of_follower().unwrap_or(0);
        let untold = rows.iter().filter(|row| row.seal.is_some_and(|seal| seal.place.n > place));
        let untold: BTreeSet<EventId> = untold.map(|row| row.event.id).collect();
        let gone: Vec<EventId> = rows
            .iter()
            .filter(|row| row.seal.is_some_and(|seal| seal.place.n <= what.up_to))
            .map(|row| row.event.id)
            .collect();
        let done =
            self.db.commit(Changes { steps: vec![Change::PruneChain(what)], ..Changes::default() }, Time(self.now));
        if done.is_ok() {
            self.committed.retain(|id| !gone.contains(id));
            self.let_go.extend(gone.iter().filter(|id| untold.contains(id)));
            self.counts.add("audit: the beginning was pruned");
            self.tell(&format!("pruned up to {}", what.to.place.n));
        }
    }

    // ---- chains that are begun anew, and who tampers ----

    /// Somebody takes the chain for broken, and begins another one.
    fn begin_anew(&mut self) {
        let (chain, rows) = self.chain();
        let left = rows.last().and_then(|row| row.seal).map_or(0, |seal| seal.place.n);
        let old = if self.has(Seam::OldUpToTheBeginning) { left + LEAP / 2 } else { left };
        let Some(start) = key().start_anew(LOG, old, chain.head.n) else { return };
        let row = ChainRow::new(SecretBytes::new([]), start);
        let mut steps = vec![Change::BeginAnew(Anew { from: Some(chain.head), row })];
        if self.has(Seam::CursorToTheBeginning) {
            let one = self.place_of_follower().map(|place| Follower { name: FOLLOWER.into(), place });
            steps.extend(one.map(|one| Change::StepFollower(one.moved(start.place.n))));
        }
        if self.db.commit(Changes { steps, ..Changes::default() }, Time(self.now)).is_ok() {
            self.counts.add("audit: begun anew");
            self.left = left;
            self.tell(&format!("begun anew after {}", start.place.n));
            // Nothing can be told of those any more.
            self.known.clear();
        }
    }

    /// Somebody who has the database and not the key does one thing to a copy of it. Who has seen the chain, or checks it, finds that.
    fn tampered_with(&mut self) {
        let (chain, rows) = self.chain();
        let seen = Seen { number: 5, place: chain.head };
        let mut db = self.db.clone();
        // What a server has said once: words of that number are known already, and not believed again.
        let said = key().attest(LOG, seen.number, chain.start.place);
        let forged = Attested { number: seen.number + 1, ..said };
        let mut row = ChainRow { attested: Some(if self.rng.chance(500) { said } else { forged }), ..chain.clone() };
        if self.rng.chance(500) {
            // The end is cut off, or everything of it is sealed anew.
            row.head = chain.start.place;
            if chain.head == chain.start.place {
                return;
            }
            db.tamper_chain(Some(row.clone()));
            let held = match self.has(Seam::LetsGoUnattested) {
                true => row.attested.map(|one| Seen { number: one.number, place: one.place }),
                false => seen::held(&key(), LOG, &row, Some(seen)).unwrap_or_default(),
            };
            self.counts.add("audit: an end was cut off");
            if held.is_none_or(|held| seen::follows(held.place, &row, None).is_none()) {
                self.violate(format!("{} was seen, and nobody misses it", seen.place));
            }
            return;
        }
        // A record is put where no server puts one.
        if chain.start.old.is_none() || rows.is_empty() {
            return;
        }
        let n = self.left + 1 + self.rng.range(0, 1_000).unsigned_abs();
        let which = self.rng.index(rows.len());
        let id = rows[which].event.id;
        for row in db.tamper() {
            if row.event.id == id
                && let Some(seal) = &mut row.seal
            {
                seal.place.n = n;
            }
        }
        let Some(read) = db.read_chain(audit::reading(None, chain.start), u32::MAX) else { return };
        let page = Page { log: LOG, chain: &chain, from: None, known: None, rows: &read.rows, last: true };
        self.counts.add("audit: a record was put between two chains");
        let found = audit::check(&key(), &page).findings;
        if !found.iter().any(|one| matches!(one, Finding::Inserted { n: at, .. } if *at == n)) {
            self.violate(format!("{id} stands at {n}, between two chains, and nobody finds it"));
        }
    }

    // ---- the checks ----

    fn write_down(&mut self) {
        let head = self.chain().0.head;
        self.known.push(head);
        self.known.drain(..self.known.len().saturating_sub(4));
    }

    fn check(&mut self) {
        let (chain, rows) = self.chain();
        let known = self.known.get(self.rng.index(self.known.len())).copied();
        let page = Page { log: LOG, chain: &chain, from: None, known, rows: &rows, last: true };
        let found = audit::check(&key(), &page).findings;
        if let Some(wrong) = found.iter().find(|one| !matches!(one, Finding::Forgotten { .. })) {
            return self.violate(format!("nobody tampered, and {wrong}"));
        }
        self.counts.add("audit: checked");
    }

    fn check_the_end(&mut self) {
        let waiting = self.db.count_unsealed().count;
        if waiting > 0 {
            return self.violate(format!("{waiting} records are never sealed"));
        }
        let (_, rows) = self.chain();
        let there: BTreeSet<EventId> = rows.iter().map(|row| row.event.id).collect();
        if there != self.committed || there.len() != rows.len() {
            self.violate("what was committed is not what the chain has".into());
        }
    }

    /// I9: whoever follows is told of each record, and of none twice who did not ask for it.
    fn check_told(&mut self) {
        let times = |id: &EventId| self.told.get(id).copied().unwrap_or(0);
        let wrong = |id: &&EventId| match times(id) {
            0 => !self.let_go.contains(*id),
            1 => false,
            _ => !self.again,
        };
        if let Some((id, times)) = self.sealed.iter().find(wrong).map(|id| (*id, times(id))) {
            self.violate(format!("the follower was told {times} times of {id}"));
        }
    }
}
