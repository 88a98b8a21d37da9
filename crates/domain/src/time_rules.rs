//! Horizon and floor: what makes forgetting safe (DESIGN §4.3, I16).
use portcullis_wire::{Millis, Time};

/// How far F stays behind the database's time, in milliseconds.
pub const FLOOR_LAG: Millis = 10_000;

/// The time that tokens are issued at: the database's; but when its clock was set back, so that F lies ahead of it, the time
/// that F stands for. Verifiers refuse every `exp` up to F, which never goes back: by the clock alone every token would be
/// dead on arrival until the clock has caught up.
pub fn issue_time(now: Time, floor: Time) -> Time {
    now.max(floor.plus(FLOOR_LAG))
}

/// The horizon to commit before a view is loaded, when the one known is shorter than the longest life ahead; `None` when it
/// is long enough. Raised in steps, so that this costs one commit in a while. `now` is [`issue_time`].
pub fn raise_horizon(known: Time, now: Time, max_life: Millis) -> Option<Time> {
    // Tokens are stamped from the view loaded afterwards; a second covers the time between the two.
    let needed = now.plus(max_life + 1000);
    let step = (max_life / 4).max(30_000);
    (known < needed).then(|| needed.plus(step))
}

/// Where F may go now: behind the database's time by [`FLOOR_LAG`], never back, and never faster than 9/8 of the time that
/// the node's monotonic clock saw pass since F stood at `floor`. `None`: it stays.
///
/// `elapsed` is monotonic time since this node saw F at `floor`, in milliseconds; at the node's start it is `None`, and
/// database time counts as found.
pub fn raise_floor(floor: Time, now: Time, elapsed: Option<Millis>) -> Option<Time> {
    let wished = now.minus(FLOOR_LAG);
    let allowed = match elapsed {
        Some(elapsed) => floor.plus(elapsed.max(0) + elapsed.max(0) / 8),
        None => wished,
    };
    let next = wished.min(allowed);
    (next > floor).then_some(next)
}

/// Moves F for one run of a node: knows where F stood at which moment of the monotonic clock. A start takes database time as
/// found, and what the node itself raised counts from the moment it was raised: F keeps pace however often it is moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct FloorClock {
    /// F as it was left or found, and the monotonic time of that in milliseconds.
    stood: Option<(Time, Millis)>,
    /// Whether a raise of this run is known to be committed, or needless.
    started: bool,
}

impl FloorClock {
    /// Whether this run has not moved F yet.
    pub fn is_first(&self) -> bool {
        !self.started
    }

    /// Where F, which stands at `floor`, may go at database time `now` and monotonic time `mono` (milliseconds). To be
    /// committed; when that fails, F is found somewhere else next time, and is watched anew from there.
    pub fn next(&mut self, floor: Time, now: Time, mono: Millis) -> Option<Time> {
        let since = self.stood.filter(|(stood, _)| *stood == floor).map(|(_, at)| at);
        self.started |= since.is_some();
        let elapsed = match since {
            Some(at) => Some(mono.saturating_sub(at)),
            None if !self.started => None,
            None => {
                self.stood = Some((floor, mono));
                return None;
            }
        };
        let next = raise_floor(floor, now, elapsed);
        self.stood = match next {
            Some(next) => Some((next, mono)),
            None => Some((floor, since.unwrap_or(mono))),
        };
        next
    }
}

/// When a refused sign-in is answered, in milliseconds after it began: at the end of the step in which it was decided, so that it
/// tells less than one step about what was computed (I15). `step` 0: at once.
pub const fn answered_after(took: Millis, step: Millis) -> Millis {
    match (took, step) {
        (took, ..=0) => took,
        (..=0, step) => step,
        (took, step) => (took - 1).div_euclid(step).saturating_add(1).saturating_mul(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_keeps_pace_round_by_round() {
        // A new database, whose F stands at the beginning of time; a round each 2 s, and each raise is committed.
        let (mut clock, mut floor, begun) = (FloorClock::default(), Time::ZERO, 1_800_000_000_000);
        for round in 1..10_000i64 {
            let now = Time(begun + round * 2000);
            if let Some(next) = clock.next(floor, now, 77 + round * 2000) {
                floor = next;
            }
            assert!(now.since(floor) <= FLOOR_LAG + 2000, "round {round}: F is {} ms behind", now.since(floor));
        }
    }

    #[test]
    fn a_clock_that_jumps_moves_the_floor_slowly_and_a_failed_raise_moves_it_later() {
        let (mut clock, mut floor) = (FloorClock::default(), Time::ZERO);
        // the first raise fails twice; it is the start's all the same
        for mono in [0, 2000] {
            assert_eq!(clock.next(floor, Time(1_000_000 + mono), mono), Some(Time(990_000 + mono)));
            assert!(clock.is_first());
        }
        floor = clock.next(floor, Time(1_004_000), 4000).unwrap();
        // a jump by a day
        for round in 1..50i64 {
            let next = clock.next(floor, Time(86_400_000), 4000 + round * 2000).unwrap();
            assert_eq!(next.since(floor), 2250);
            floor = next;
        }
        assert!(!clock.is_first());
        // a failed raise: nothing until F was watched from where it stands
        let at = 4000 + 50 * 2000;
        assert!(clock.next(floor, Time(86_400_000), at).is_some());
        assert_eq!(clock.next(floor, Time(86_400_000), at + 2000), None);
        assert_eq!(clock.next(floor, Time(86_400_000), at + 4000).unwrap().since(floor), 2250);
        // and when the clock jumps back, F stands
        assert_eq!(clock.next(floor, Time(0), at + 6000), None);
    }

    #[test]
    fn refusals_come_at_the_end_of_a_step() {
        for (took, step, answered) in [
            (30, 0, 30),
            (0, 500, 500),
            (-5, 500, 500),
            (30, 500, 500),
            (500, 500, 500),
            (501, 500, 1000),
            (1999, 500, 2000),
            (i64::MAX, 500, i64::MAX),
        ] {
            assert_eq!(answered_after(took, step), answered, "{took} {step}");
        }
    }

    #[test]
    fn tokens_are_never_issued_below_the_floor() {
        let floor = Time(1_000_000);
        for now in [0, 999_999, 1_009_999, 1_010_000, 2_000_000] {
            let at = issue_time(Time(now), floor);
            assert!(at >= Time(now) && at >= floor.plus(FLOOR_LAG));
            assert!(now < 1_010_000 || at == Time(now));
        }
    }

    #[test]
    fn the_horizon_covers_every_token_and_rarely_moves() {
        let (max_life, mut horizon, mut raised) = (360_000, Time(0), 0);
        for second in 0..100_000i64 {
            let now = Time(second * 1000);
            if let Some(next) = raise_horizon(horizon, now, max_life) {
                assert!(next > horizon);
                (horizon, raised) = (next, raised + 1);
            }
            assert!(horizon >= now.plus(max_life));
        }
        assert!(raised < 100_000 / 80, "{raised}");
    }

    #[test]
    fn the_floor_never_goes_back_and_never_jumps() {
        let mut floor = Time(1_000_000);
        assert_eq!(raise_floor(floor, Time(500_000), None), None);
        // the database's clock jumps by a day: F follows at 9/8 of real time at most
        for _ in 0..100 {
            let next = raise_floor(floor, Time(86_400_000), Some(1000)).unwrap();
            assert_eq!(next.since(floor), 1125);
            floor = next;
        }
        // and stands when it jumps back
        assert_eq!(raise_floor(floor, Time(0), Some(1_000_000)), None);
        assert_eq!(raise_floor(floor, floor.plus(FLOOR_LAG), Some(10)), None);
    }
}
