//! Housekeeping at the node: F keeps pace with the database's time, by `domain`'s clock of it, one round after another. And the
//! proof of that: a line that F may not fall below.
//!
//! The line knows only the truth: it rises to 12 s (the lag of F and one round) and a little behind the database's time, at
//! slightly less than 9/8 of true time, and waits where F must wait too: while the server is down or paused, while the disk
//! stalls, while a round was not written. It never falls, so that a floor which moves too slowly is found in the long run too.
use crate::clock::At;
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::world::{Event, World, tell};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::time_rules::{self, FLOOR_LAG};
use portcullis_wire::{Rev, Time};

/// How often the house is kept, in milliseconds.
pub const ROUND: i64 = 2_000;
/// What a round takes beyond its pause: a commit and its way back.
const SLACK: i64 = 1_500;
/// How often F is looked at.
const WATCH: i64 = 500;

/// What F may not fall below.
#[derive(Debug, Clone, Copy, Default)]
pub struct FloorLine {
    line: Time,
    /// The line stands until then.
    waits_until: At,
    /// The server started a moment ago: its first round takes the database's time as found, and so does the line.
    fresh: bool,
    /// Something held that round or the next one up: the line goes on from where F is.
    held_up: bool,
}

impl FloorLine {
    /// The server starts.
    pub fn starts(&mut self, now: At) {
        (self.waits_until, self.fresh, self.held_up) = (now + ROUND + SLACK, true, false);
    }
    /// F must wait for this long from now on, and so does the line.
    pub fn waits(&mut self, now: At, length: i64) {
        self.waits_until = self.waits_until.max(now) + length;
        self.held_up = true;
    }
    /// F is no longer where the first round of this start put it, or the database's time is not: it goes on from `floor`.
    fn goes_on_from(&mut self, floor: Time) {
        if std::mem::take(&mut self.fresh) {
            self.line = self.line.max(floor.minus(ROUND + SLACK));
        }
    }
}

impl World {
    /// One round. The next one begins when this one is written, or not.
    pub fn keep_house(&mut self) {
        self.node.rounds += 1;
        let (stamp, mono) = (self.stamp(), self.node_now());
        // While nothing is in the log, nothing waits to be forgotten: F may rest for a while.
        let first = self.node.floor.is_first();
        let due = first || stamp.head > Rev::ZERO || self.node.rounds.is_multiple_of(15);
        let due = match self.mutant {
            Some(Mutant::FloorStandsStill) => first,
            Some(Mutant::FloorEveryOtherRound) if !first && self.node.floor_seen != Some(stamp.floor) => {
                // It is watched anew after each raise, and what passed until now is lost.
                self.node.floor = time_rules::FloorClock::default();
                let _ = self.node.floor.next(stamp.floor, stamp.floor, mono.0);
                let _ = self.node.floor.next(stamp.floor, stamp.floor, mono.0);
                self.node.floor_seen = Some(stamp.floor);
                false
            }
            _ => due,
        };
        let next = if due { self.node.floor.next(stamp.floor, stamp.now, mono.0) } else { None };
        match next {
            Some(floor) => {
                tell!(self, "server: raises F from {} to {floor}, the database is at {}", stamp.floor, stamp.now);
                let changes = Changes { steps: vec![Change::RaiseFloor(floor)], ..Changes::default() };
                self.submit(Owner::House, changes, About::default());
            }
            None => self.next_round(),
        }
        self.look_at_enforcement();
        self.keep_policy();
    }

    fn next_round(&mut self) {
        let life = self.node.life;
        self.after(ROUND, Event::House { life });
    }

    /// A round was written, or not: then F is watched for a round, and moves in the one after.
    pub fn house_kept(&mut self, written: bool) {
        if !written {
            self.counts.add("floor not written");
            tell!(self, "server: F was not written");
            // The first round of a start is simply tried again.
            if !self.node.floor.is_first() {
                let floor = self.stamp().floor;
                self.floor_line.goes_on_from(floor);
            }
            self.floor_line.waits(self.now, 2 * ROUND + SLACK);
        }
        self.next_round();
    }

    /// The database's clock was set.
    pub fn floor_after_setting(&mut self) {
        // F moves in steps, and the line does not: after a clock that was set back it may be close.
        self.floor_line.waits(self.now, ROUND);
        if self.node.rounds > 0 {
            let floor = self.stamp().floor;
            self.floor_line.goes_on_from(floor);
        }
    }

    /// I16's other side: what may be forgotten is forgotten in time.
    pub fn watch_floor(&mut self) {
        self.after(WATCH, Event::WatchFloor);
        let (stamp, now) = (self.stamp(), self.now);
        if !self.node.up || now < self.node.paused_until || stamp.head == Rev::ZERO {
            self.floor_line.waits_until = self.floor_line.waits_until.max(now + ROUND + SLACK);
        }
        if now < self.floor_line.waits_until + WATCH {
            return;
        }
        if self.floor_line.held_up {
            self.floor_line.goes_on_from(stamp.floor);
        }
        let FloorLine { line, fresh, .. } = self.floor_line;
        let wished = stamp.now.minus(FLOOR_LAG + ROUND + SLACK);
        let by_rate = line.plus(WATCH * 112 / 100);
        let rises = if fresh { wished } else { wished.min(by_rate) };
        self.floor_line.line = line.max(rises);
        self.floor_line.fresh = false;
        self.counts.add(if fresh || wished <= by_rate { "floor keeps pace" } else { "floor catches up" });
        let line = self.floor_line.line;
        if stamp.floor < line {
            tell!(self, "F stands at {}, the database is at {}", stamp.floor, stamp.now);
            let (behind, short) = (stamp.now.since(stamp.floor), line.since(stamp.floor));
            self.violate("I16", format!("F is {behind} ms behind the database's time, {short} ms more than it may be"));
        }
    }
}
