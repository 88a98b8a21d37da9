//! The world of replaced databases (DESIGN §4.5, I10): under a server with its verifiers the database is put back to an older
//! copy, to an empty one, to a fork that went on elsewhere; sometimes with the mark lost as well. Then the right one comes back,
//! or a backup is restored, or the log is founded anew.
//!
//! Apart from that this world is kind: one true time, no losses but late frames. What it holds against the truth: no token of a
//! session that was ended is accepted again, no superseded refresh token brings a successor, and in the end everybody who should
//! live is served again by everybody.
use crate::mutant::Lapse;
use crate::rng::Rng;
use crate::{Counts, Outcome, Violation};
use failover::Db;
use followers::Follower;
use node::{Node, Volume};
use people::Person;
use portcullis_domain::Rules;
use portcullis_domain::family::MacKey;
use portcullis_domain::model::KeyPurpose;
use portcullis_domain::replay::Journal;
use portcullis_domain::{keys, keys::KeyRules};
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{KeyId, NodeId, Time};
use std::collections::BTreeMap;

mod failover;
mod followers;
mod node;
mod people;

/// B in milliseconds.
const BOUND: i64 = 2_000;
/// A mark tells a copy that is older than itself by as much: F moves every two seconds.
const TOLD_AFTER: i64 = 6_000;
const EPOCH_MS: i64 = 1_800_000_000_000;

/// What was done to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An older copy stands in its place.
    Copy,
    /// An older copy, and the mark is gone with it.
    CopyWithoutMark,
    /// A copy went on elsewhere, and stands in its place now.
    Fork,
    /// The same, and no mark tells it.
    ForkWithoutMark,
    /// An empty volume.
    Empty,
    /// A backup is restored, as the command does it.
    Restore,
    /// A standby takes over that lacks the newest commits.
    Failover,
    /// A standby takes over that has everything.
    FailoverWhole,
}

/// How it is put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    RightOneBack,
    Refound,
    Restore,
}

/// Where the story stands.
#[derive(Debug)]
enum Phase {
    /// From `quiet` on nothing is ended, so that what is lost are refreshes alone.
    Calm {
        until: i64,
        quiet: i64,
    },
    Wrong {
        kind: Kind,
        until: i64,
        restart_at: i64,
    },
    /// `contested`: somebody may know what only the wrong one had, and shut the right one with it, or refuse to follow it. Then
    /// the log is founded anew.
    Healing {
        until: i64,
        contested: bool,
    },
}

/// What is kept for the moment when the right database comes back.
struct Right {
    volume: Volume,
    people: Vec<Person>,
    blocked: bool,
    password: u64,
    journal: Journal,
    /// The backup.
    copy: Db,
}

pub struct World {
    now: i64,
    rng: Rng,
    lapse: Option<Lapse>,
    rules: Rules,
    /// Whether the database is one that nodes share: it has no runs, counts commits, and can be failed over.
    shared: bool,
    /// Another server on it, which dies with each primary; and whether it is the one that acts now.
    another: NodeId,
    another_acts: bool,
    volume: Volume,
    node: Option<Node>,
    followers: Vec<Follower>,
    people: Vec<Person>,
    /// Whether the first account is blocked, in truth,
    blocked: bool,
    /// and which password it has.
    password: u64,
    /// What is kept of blocks apart from the database.
    journal: Journal,
    macs: BTreeMap<KeyId, MacKey>,
    copies: Vec<(i64, Db)>,
    right: Option<Right>,
    phase: Phase,
    /// When the database that stands there now was put there, and whether the mark must tell it.
    replaced_at: i64,
    told: bool,
    /// Until then who followed a database that nothing told may still have a lease by it.
    excused_until: i64,
    /// Somebody showed this database a refresh token that it cannot have made.
    ahead_shown: bool,
    /// When a verifier showed a position that this database never had.
    shown_at: Option<i64>,
    troubles: u32,
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
pub fn run(seed: u64, lapse: Option<Lapse>, story: bool) -> Outcome {
    let mut world = World::new(seed, lapse, story);
    while world.violation.is_none() && world.troubles < 4 {
        world.step();
    }
    let World { violation, counts, hash, events, story, .. } = world;
    Outcome { seed, violation, counts, hash, events, story: story.unwrap_or_default() }
}

impl World {
    fn new(seed: u64, lapse: Option<Lapse>, story: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x0bad_d15c);
        let rules = Rules {
            issuer: "https://id.example".into(),
            audience: "https://api.example".into(),
            access_ttl: 600_000,
            longest_ttl: 600_000,
            idle_ttl: 3_600_000,
            absolute_ttl: 7_200_000,
            retry_window: 1_000,
            late_retry: 60_000,
            late_retry_at_home: 60_000,
            require_verified_email: false,
        };
        let shared = rng.chance(500);
        let another = NodeId::from_bits(1);
        let volume = Volume::empty(&mut rng, Time(EPOCH_MS));
        let calm = rng.range(12_000, 20_000);
        let mut world = Self {
            now: 0,
            rng,
            lapse,
            rules,
            shared,
            another,
            another_acts: false,
            volume,
            node: None,
            followers: Vec::new(),
            people: Vec::new(),
            blocked: false,
            password: 0,
            journal: Journal::default(),
            macs: BTreeMap::new(),
            copies: Vec::new(),
            right: None,
            phase: Phase::Calm { until: calm, quiet: i64::MAX },
            replaced_at: 0,
            told: true,
            excused_until: 0,
            ahead_shown: false,
            shown_at: None,
            troubles: 0,
            counts: Counts::default(),
            violation: None,
            hash: seed,
            events: 0,
            story: story.then(Vec::new),
        };
        world.first_rows();
        world.start_node();
        for _ in 0..world.rng.pick(&[1, 2, 3]) {
            let at = world.now;
            world.followers.push(Follower::new(at));
        }
        world
    }

    fn has(&self, lapse: Lapse) -> bool {
        self.lapse == Some(lapse)
    }

    /// The database's time, everybody's wall clock.
    fn time(&self) -> Time {
        Time(EPOCH_MS + self.now)
    }

    fn key_rules(&self) -> KeyRules {
        let (max_life, mac_kept) = (self.rules.max_life(), self.rules.absolute_ttl);
        KeyRules { rotate_every: None, algorithm: Algorithm::Es256, max_life, mac_kept }
    }

    fn tell(&mut self, line: String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{now:>8} {line}"));
        }
    }

    fn note(&mut self, value: u64) {
        let mixed = (self.hash ^ (self.now as u64).rotate_left(24) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ (mixed >> 29);
    }

    fn violate(&mut self, detail: String) {
        tell!(self, "I10 does not hold: {detail}");
        let at = self.now;
        self.violation.get_or_insert(Violation { invariant: "I10", detail, at });
    }

    /// A little time passes, and something happens.
    fn step(&mut self) {
        self.now += self.rng.range(20, 300);
        self.events += 1;
        self.node_rounds();
        self.followers_go_on();
        if self.node.is_some() {
            self.another_acts = self.shared && self.serves_well() && self.rng.chance(400);
            let quiet = matches!(self.phase, Phase::Calm { quiet, .. } if self.now > quiet);
            match self.rng.range(0, 9) {
                5 if quiet => {}
                0 | 1 => self.somebody_signs_in(),
                2..=4 => self.somebody_refreshes(),
                5 if self.rng.chance(200) => self.somebody_is_blocked(),
                5 if self.rng.chance(100) => self.somebody_has_another_password(),
                5 => self.somebody_is_ended(),
                6 | 7 => self.a_thief_refreshes(),
                8 if matches!(self.phase, Phase::Calm { .. }) => self.copy(),
                _ => {}
            }
            self.another_acts = false;
        }
        if matches!(self.phase, Phase::Calm { .. }) && self.rng.chance(20) {
            self.restarts_in_calm();
        }
        if self.rng.chance(30) {
            let which = self.rng.index(self.followers.len());
            self.starts_anew(which);
        }
        self.probe_all();
        self.phase_goes_on();
    }

    /// Nothing is wrong, and the other server lives.
    fn serves_well(&self) -> bool {
        matches!(self.phase, Phase::Calm { .. }) && self.serves()
    }

    /// A server that is killed and finds what it left is not shut.
    fn restarts_in_calm(&mut self) {
        self.counts.add("rollback: restarts in calm");
        for _ in 0..3 {
            self.restart_node();
        }
        if self.node.as_ref().is_none_or(|node| node.shut.is_some()) {
            let shut = self.node.as_ref().and_then(|node| node.shut.as_ref());
            self.violate(format!("the server does not take its own database: {shut:?}"));
        }
    }

    fn starts_anew(&mut self, which: usize) {
        tell!(self, "verifier {which} starts anew");
        self.counts.add("rollback: verifiers started anew");
        self.leaves(which);
        self.followers[which] = Follower::new(self.now);
    }

    fn copy(&mut self) {
        self.copies.push((self.now, self.volume.db.clone()));
        if self.copies.len() > 12 {
            let which = self.rng.index(self.copies.len());
            self.copies.remove(which);
        }
    }

    // ---- the story ----

    fn phase_goes_on(&mut self) {
        match self.phase {
            Phase::Calm { until, .. } if self.now > until => self.trouble(),
            Phase::Wrong { kind, until, restart_at } => {
                if self.now > until {
                    self.put_right(kind);
                } else if self.now > restart_at {
                    tell!(self, "the server is started again");
                    self.phase = Phase::Wrong { kind, until, restart_at: i64::MAX };
                    self.restart_node();
                    if self.rng.chance(300) {
                        // The services, too: nobody is left who knew.
                        (0..self.followers.len()).for_each(|which| self.starts_anew(which));
                    }
                }
            }
            Phase::Healing { until, contested: true } if self.now > until && self.is_contested() => {
                tell!(self, "the right one is contested");
                self.counts.add("rollback: the right one contested");
                self.refound_here();
                self.phase = Phase::Healing { until: self.now + 8_000, contested: false };
            }
            Phase::Healing { until, .. } if self.now > until => {
                self.check_healed();
                self.troubles += 1;
                let calm = self.rng.range(10_000, 20_000);
                let until = self.now + calm;
                let quiet = if self.rng.chance(300) { until - 9_000 } else { i64::MAX };
                self.phase = Phase::Calm { until, quiet };
            }
            _ => {}
        }
    }

    /// Whether the server is shut, or a verifier follows it no more.
    fn is_contested(&self) -> bool {
        let (mono, wall) = (self.mono(), self.time());
        let old = self.followers.iter().filter(|follower| follower.since + 4_000 < self.now);
        let mut stuck = old.filter(|follower| !follower.known().fresh(mono, wall));
        self.node.as_ref().is_some_and(|node| node.shut.is_some()) || stuck.next().is_some()
    }

    /// A copy that the mark must tell, if there is one.
    fn old_copy(&mut self) -> Option<Db> {
        let marked = self.volume.mark.map_or(i64::MIN, |mark| mark.at.0 - EPOCH_MS);
        let old: Vec<usize> = (0..self.copies.len()).filter(|at| self.copies[*at].0 + TOLD_AFTER < marked).collect();
        let which = *old.get(self.rng.index(old.len()))?;
        Some(self.copies[which].1.clone())
    }

    fn trouble(&mut self) {
        let Some(copy) = self.old_copy() else { return };
        use Kind::*;
        let mut kind = self.rng.pick(&[Copy, Copy, CopyWithoutMark, Fork, ForkWithoutMark, Empty, Restore]);
        if self.shared && self.rng.chance(600) {
            kind = self.rng.pick(&[Failover, Failover, FailoverWhole]);
        }
        tell!(self, "trouble: {kind:?}; the right one is at {}", self.place());
        let ahead = kind == Failover && self.serves() && self.rng.chance(300);
        let ahead = ahead.then(|| self.only_the_other_one_is_ahead());
        self.counts.add(match kind {
            Copy => "rollback: an old copy",
            CopyWithoutMark => "rollback: an old copy, the mark lost",
            Fork => "rollback: a fork",
            ForkWithoutMark => "rollback: a fork, the mark lost",
            Empty => "rollback: an empty volume",
            Restore => "rollback: a backup restored",
            Failover | FailoverWhole => "rollback: failovers",
        });
        if !matches!(kind, Failover | FailoverWhole) {
            self.stop_node();
        }
        self.right = Some(Right {
            volume: self.volume.clone(),
            people: self.people.clone(),
            blocked: self.blocked,
            password: self.password,
            journal: self.journal.clone(),
            copy: copy.clone(),
        });
        (self.replaced_at, self.ahead_shown, self.shown_at) = (self.now, false, None);
        // Where there are no runs, a fork that lost nothing but refreshes goes on from where the mark is, as the right one would:
        // only who has the newer refresh tokens tells it.
        let lost_entries = self.volume.mark.is_some_and(|mark| mark.rev > copy.stamp(self.time()).head);
        // The newest copy is not far behind, as a standby.
        let standby = ahead.or_else(|| self.copies.last().map(|(_, copy)| copy.clone()));
        self.told = match kind {
            CopyWithoutMark | ForkWithoutMark => false,
            Fork => lost_entries || !self.shared,
            _ => true,
        };
        match kind {
            Copy | CopyWithoutMark => self.volume.db = copy,
            Fork | ForkWithoutMark => {
                self.volume.db = copy;
                self.goes_on_elsewhere();
            }
            Failover => return self.standby_takes_over(standby),
            FailoverWhole => return self.standby_takes_over(None),
            Empty => {
                let now = self.time();
                self.volume.db = Volume::empty(&mut self.rng, now).db;
            }
            Restore => {
                self.restore(copy);
                self.phase = Phase::Healing { until: self.now + 8_000, contested: false };
                return self.start_node();
            }
        }
        if matches!(kind, CopyWithoutMark | ForkWithoutMark) {
            (self.volume.mark, self.volume.proof) = (None, None);
        }
        let until = self.now + self.rng.range(5_000, 12_000);
        let restart_at = self.now + self.rng.range(1_000, 8_000);
        self.phase = Phase::Wrong { kind, until, restart_at };
        self.start_node();
    }

    /// Where the database stands, in words.
    fn place(&self) -> String {
        let stamp = self.volume.db.stamp(self.time());
        format!("{}.{}, F {}", stamp.epoch, stamp.head, stamp.floor)
    }

    /// The copy is served on a machine where no verifier looks, with its own mark or none.
    fn goes_on_elsewhere(&mut self) {
        let (mark, proof) = (self.volume.mark.take(), self.volume.proof.take());
        let (people, told) = (self.people.clone(), std::mem::take(&mut self.told));
        let (blocked, password, journal) = (self.blocked, self.password, self.journal.clone());
        self.start_node();
        for _ in 0..self.rng.range(3, 12) {
            self.now += 700;
            self.node_rounds();
            self.somebody_signs_in();
            self.somebody_is_ended();
        }
        self.stop_node();
        (self.people, self.told) = (people, told);
        (self.blocked, self.password, self.journal) = (blocked, password, journal);
        (self.volume.mark, self.volume.proof) = (mark, proof);
    }

    fn put_right(&mut self, kind: Kind) {
        let Some(right) = self.right.take() else { return };
        let way = match kind {
            Kind::Empty => Way::RightOneBack,
            _ => self.rng.pick(&[Way::RightOneBack, Way::RightOneBack, Way::Refound, Way::Restore]),
        };
        tell!(self, "put right: {way:?}");
        match way {
            Way::RightOneBack => {
                self.counts.add("rollback: the right one back");
                self.stop_node();
                self.right_one_back(right);
                self.start_node();
            }
            Way::Refound => {
                self.counts.add("rollback: founded anew");
                self.refound_here();
            }
            Way::Restore => {
                self.counts.add("rollback: a backup restored");
                self.stop_node();
                (self.blocked, self.password, self.journal) = (right.blocked, right.password, right.journal);
                self.restore(right.copy);
                self.start_node();
            }
        }
        (self.ahead_shown, self.shown_at) = (false, None);
        let contested = !std::mem::replace(&mut self.told, true);
        if contested {
            self.excused_until = self.now + BOUND;
        }
        self.phase = Phase::Healing { until: self.now + 8_000, contested };
    }

    /// The right database, and what a person does about the two files: a mark that is the wrong one's is moved away, and so is a
    /// proof that tells of no position, or of one that only a fork had.
    fn right_one_back(&mut self, right: Right) {
        self.volume.db = right.volume.db;
        (self.people, self.journal) = (right.people, right.journal);
        (self.blocked, self.password) = (right.blocked, right.password);
        let by_person = self.volume.proof.as_ref().is_some_and(|proof| !proof.told_by_position);
        if !self.told {
            (self.volume.mark, self.volume.proof) = (None, None);
        } else if by_person {
            self.volume.proof = None;
        }
    }

    /// I10: everybody who should live is served again, by everybody.
    fn check_healed(&mut self) {
        if self.node.as_ref().is_none_or(|node| node.shut.is_some()) {
            let shut = self.node.as_ref().and_then(|node| node.shut.clone());
            return self.violate(format!("the right database is not served again: {shut:?}"));
        }
        let living = (0..self.people.len()).find(|at| self.people[*at].lives());
        let token = match living {
            Some(who) => match self.refreshes(who) {
                true => self.people[who].tokens.last().cloned(),
                false => return self.violate(format!("a living session cannot go on: {:?}", self.people[who].session)),
            },
            None => self.signs_in(),
        };
        let Some(token) = token else { return self.violate("nobody can sign in".into()) };
        self.followers_catch_up();
        for which in 0..self.followers.len() {
            if let Err(reason) = self.judge(which, &token) {
                let known = self.followers[which].known();
                let (place, at) = (self.place(), format!("{}.{}", known.epoch, known.applied));
                return self.violate(format!(
                    "verifier {which} (at {at}, the log at {place}) refuses a living token: {}",
                    reason.as_str()
                ));
            }
        }
        self.check_block();
        self.counts.add("rollback: healed");
    }

    /// No token of the dead is accepted, whatever stands there.
    fn probe_all(&mut self) {
        for which in 0..self.followers.len() {
            for _ in 0..3 {
                if self.people.is_empty() {
                    return;
                }
                let back = self.rng.index(self.people.len().min(40));
                let person = &self.people[self.people.len() - 1 - back];
                let Some(token) = person.tokens.get(self.rng.index(person.tokens.len())).cloned() else { continue };
                let (dead_since, session) = (person.dead_since(), person.session);
                let accepted = self.judge(which, &token).is_ok();
                self.note((which as u64) << 1 | u64::from(accepted));
                self.counts.add(if accepted { "rollback: accepted" } else { "rollback: refused" });
                let Some(at) = dead_since.filter(|at| accepted && self.now > at + BOUND) else { continue };
                // Where the mark is lost too, a verifier that knows nothing has only the server's word.
                let since = self.followers[which].since;
                // So does one that the end had not reached when it was lost.
                let knew_nothing = since + TOLD_AFTER > self.replaced_at || at + BOUND > self.replaced_at;
                let untold = !self.told && self.shown_at.is_none_or(|at| self.now <= at + BOUND);
                let excused = knew_nothing && (untold || self.now <= self.excused_until);
                if !excused {
                    let late = self.now - at;
                    self.violate(format!(
                        "verifier {which}, there since {since}, accepts a token of {session:?} {late} ms after its end"
                    ));
                }
            }
        }
    }

    // ---- keys ----

    fn first_rows(&mut self) {
        let now = self.time();
        let stamp = self.volume.db.stamp(now);
        let plan = keys::plan(&[], &stamp, &self.key_rules(), keys::Wanted::default(), &|_| false);
        let made = self.make(&plan, now);
        let changes = plan.changes(made, &portcullis_domain::kernel::By::SYSTEM, &mut self.rng).unwrap_or_default();
        let _ = self.volume.db.commit(changes, now);
        for n in 0..3 {
            people::account(&mut self.volume.db, n, now, &mut self.rng);
        }
    }

    /// The rows that a plan asks for. MAC keys are kept here, as the master key would keep them.
    fn make(&mut self, plan: &keys::Plan, now: Time) -> Vec<portcullis_domain::model::Key> {
        for make in plan.make.iter().filter(|make| make.purpose == KeyPurpose::Mac) {
            let bytes = portcullis_wire::SecretBytes::new(portcullis_domain::Chance::secret(&mut self.rng));
            self.macs.insert(make.id, MacKey::new(make.id, &bytes));
        }
        crate::rota::rows_of(plan, now)
    }
}
