//! Whoever must hear of audit records follows the trail: by a *cursor*, the last place of the chain that it was told of.
//!
//! A record is written in its act's own transaction (I9) and gets its place within a second, by the one sealer ([`crate::audit`]). Places
//! are a total order without gaps, and nothing that is committed late gets in behind one that was given. So a cursor misses nobody,
//! which no cursor over times, ids or sequence numbers can say of itself. A follower reads a page after its cursor, makes of it what it
//! has to make (messages), and commits that together with a [`FollowerStep`], a Conflict when the cursor has moved since: whoever
//! dies in between has done nothing, and two that work at once do it once.
//!
//! Why cursors, and not a notice with each record: docs/decisions/0044-followers-of-the-trail.md.
use crate::audit::ChainRow;
use alloc::string::String;

/// How many records a step looks at.
pub const AT_ONCE: u32 = 200;

/// Somebody who follows the trail, and how far they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    /// Who: one of the house by its name, a webhook by its id.
    pub name: String,
    /// The last place that they were told of.
    pub place: u64,
}

/// A cursor that moves, with whatever is made of what it passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerStep {
    /// Whose.
    pub name: String,
    /// Where it stood; `None`: there was none.
    pub from: Option<u64>,
    /// Where it stands; `None`: it goes.
    pub to: Option<u64>,
}

/// Where the chain begins and ends, as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trail {
    /// The place before the first record that is there.
    pub start: u64,
    /// The place of the last one.
    pub head: u64,
    /// Where the chain was begun anew: up to which place the one before has left records. They are told of, too, as they are: nothing
    /// shows any more that they are what was sealed.
    pub old: Option<u64>,
}

/// From where a follower reads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// After which place.
    pub after: u64,
    /// How many records were pruned before it was told of them.
    pub missed: u64,
}

impl Trail {
    /// As the chain's row says.
    pub fn of(chain: &ChainRow) -> Self {
        Self { start: chain.start.place.n, head: chain.head.n, old: chain.start.old }
    }

    /// From where one reads on who was told up to `place`. What was pruned is gone, and counted. A place beyond the end was given by
    /// another chain than this one (an older database was put back): from its beginning then, for to be told twice is better than
    /// not to be told.
    pub fn reading(self, place: u64) -> Reading {
        if place > self.head {
            return Reading { after: self.start, missed: 0 };
        }
        if self.old.is_some() && place < self.start {
            // How many of those went by their time is not known.
            return Reading { after: place, missed: 0 };
        }
        Reading { after: place.max(self.start), missed: self.start.saturating_sub(place) }
    }

    /// Whether records are told of that stand at this place. Between what an earlier chain has left and the beginning no server has put
    /// one.
    pub fn has(self, place: u64) -> bool {
        self.old.is_none_or(|old| place <= old || place > self.start)
    }

    /// The place before the first that there may be.
    pub fn first(self) -> u64 {
        if self.old.is_some() { 0 } else { self.start }
    }

    /// Where the cursor of one stands who wants to be told again of everything after `place`: not beyond the end.
    pub fn bounded(self, place: u64) -> u64 {
        place.clamp(self.first(), self.head.max(self.start))
    }
}

impl Follower {
    /// The step over a page that was read by [`Trail::reading`]: the place of its last record. `None` when there is nothing to move.
    pub fn over(&self, reading: Reading, last: Option<u64>) -> Option<FollowerStep> {
        let to = last.unwrap_or(reading.after);
        (to != self.place).then(|| FollowerStep { name: self.name.clone(), from: Some(self.place), to: Some(to) })
    }

    /// The same, put there.
    pub fn moved(&self, to: u64) -> FollowerStep {
        FollowerStep { name: self.name.clone(), from: Some(self.place), to: Some(to) }
    }
}

impl FollowerStep {
    /// A new follower, who is told of what comes after `place`.
    pub fn begin(name: String, place: u64) -> Self {
        Self { name, from: None, to: Some(place) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> Follower {
        Follower { name: "mail".into(), place }
    }

    #[test]
    fn a_follower_reads_on_where_it_stopped() {
        let trail = Trail { start: 3, head: 9, old: None };
        for (place, after, missed) in [(9, 9, 0), (5, 5, 0), (3, 3, 0), (1, 3, 2), (0, 3, 3)] {
            assert_eq!(trail.reading(place), Reading { after, missed }, "{place}");
        }
        // Another chain than the one that gave its place.
        assert_eq!(trail.reading(10), Reading { after: 3, missed: 0 });
    }

    /// What was not told yet when a chain was begun anew is told; what somebody puts between the two is not.
    #[test]
    fn what_an_earlier_chain_has_left_is_told() {
        let trail = Trail { start: 1_000, head: 1_003, old: Some(7) };
        for (place, after) in [(0, 0), (5, 5), (7, 7), (400, 400), (1_000, 1_000), (1_002, 1_002)] {
            assert_eq!(trail.reading(place), Reading { after, missed: 0 }, "{place}");
        }
        assert_eq!([7, 8, 1_000, 1_001].map(|place| trail.has(place)), [true, false, false, true]);
        assert_eq!([0, 5, 2_000].map(|place| trail.bounded(place)), [0, 5, 1_003]);
    }

    #[test]
    fn it_moves_with_what_it_was_told() {
        let trail = Trail { start: 3, head: 9, old: None };
        let step = |place, last| at(place).over(trail.reading(place), last).map(|step| (step.from, step.to));
        assert_eq!(step(5, Some(8)), Some((Some(5), Some(8))));
        assert_eq!(step(9, None), None, "nothing new");
        // What was pruned is passed over, also where nothing is left after it.
        assert_eq!(step(1, None), Some((Some(1), Some(3))));
        assert_eq!(step(12, Some(4)), Some((Some(12), Some(4))));
    }

    #[test]
    fn nobody_is_put_beyond_the_end() {
        let trail = Trail { start: 3, head: 9, old: None };
        assert_eq!([0, 3, 7, 9, 10, u64::MAX].map(|place| trail.bounded(place)), [3, 3, 7, 9, 9, 9]);
    }
}
