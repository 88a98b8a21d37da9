//! What strangers may begin: the numbers that the documentation promises, and that no history gets more.
use crate::world::Seeded;
use portcullis_domain::Chance as _;
use portcullis_domain::pace::*;
use portcullis_domain::throttle::Budget;
use portcullis_domain::{device_code, pushed, upstream};

#[test]
fn so_many_rows_are_there_at_most() {
    let rows = |pace: Pace, life| pace.all.most_in(life);
    assert_eq!(2 * rows(DEVICES, device_code::LIFE), 14_000);
    assert_eq!(rows(PUSHED, pushed::KEPT), 25_000);
    assert_eq!(rows(PROOFS, 300_000), 170_000);
    assert_eq!(rows(UPSTREAM, upstream::LIFE), 13_000);
    assert_eq!(rows(REGISTRATIONS, 86_400_000), 8_840);
    // One prefix leaves room for others.
    for (pace, life) in [(DEVICES, device_code::LIFE), (PUSHED, pushed::KEPT), (PROOFS, 300_000)] {
        assert!(pace.each.most_in(life) * 10 <= pace.all.most_in(life), "{pace:?}");
    }
}

#[test]
fn in_no_window_is_more_taken_than_its_budget_says() {
    let budget = Budget { burst: 5, every: 100 };
    for seed in 0..200 {
        let (mut chance, mut now, mut full_at, mut taken) = (Seeded(seed), 1_000, 0, Vec::new());
        for _ in 0..300 {
            now += i64::try_from(chance.bits() % 120).unwrap();
            match take(budget, full_at, now) {
                Ok(next) => {
                    full_at = next;
                    taken.push(now);
                }
                Err(wait) => {
                    assert!((1..=100).contains(&wait));
                    assert!(take(budget, full_at, now + wait).is_ok(), "it is told when to come again");
                    assert!(take(budget, full_at, now + wait - 1).is_err(), "and not sooner");
                }
            }
        }
        for (n, from) in taken.iter().enumerate() {
            for (m, to) in taken.iter().enumerate().skip(n) {
                let in_window = i64::try_from(m - n + 1).unwrap();
                assert!(in_window <= budget.most_in(to - from) + 1, "seed {seed}");
            }
        }
    }
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let budget = Budget { burst: 2, every: 1000 };
    let one = take(budget, 0, 50_000).unwrap();
    let two = take(budget, one, 50_000).unwrap();
    assert_eq!(take(budget, two, 50_000), Err(1000));
    assert_eq!(take(budget, give_back(budget, two), 50_000), Ok(two));
}
