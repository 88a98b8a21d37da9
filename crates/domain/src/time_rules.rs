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

#[cfg(test)]
mod tests {
    use super::*;

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
