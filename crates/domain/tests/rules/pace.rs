//! What strangers may begin: the numbers that the documentation promises, and that no history gets more.
use crate::world::Seeded;
use portcullis_domain::Chance as _;
use portcullis_domain::pace::*;
use portcullis_domain::throttle::Budget;
use portcullis_domain::{device_code, pushed, upstream};
use std::net::IpAddr;

type Ip = Option<IpAddr>;

fn ip(text: &str) -> Ip {
    Some(text.parse().unwrap())
}
/// An address of prefix `prefix` in site `site` of network `network`.
fn v6(network: u16, site: u16, prefix: u8) -> Ip {
    Some(IpAddr::from([0x2a00, network, site, u16::from(prefix) << 8, 0, 0, 0, 1]))
}
fn v4(network: u8, third: u8) -> Ip {
    Some(IpAddr::from([100, network, third, 7]))
}

/// All that these get when they ask for one in turn, again and again, until nobody gets any more.
fn takes_all(strangers: &mut Strangers, who: &[Ip], now: i64) -> usize {
    let mut got = 0;
    loop {
        let before = got;
        got += who.iter().filter(|ip| strangers.take(**ip, now).is_ok()).count();
        if got == before {
            return got;
        }
    }
}

const NOW: i64 = 1_000_000;

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

/// One site with all its prefixes, at once and on and on: whoever comes from elsewhere does not notice, not even from
/// another site of the same network.
#[test]
fn a_whole_site_takes_nothing_from_strangers_elsewhere() {
    let site: Vec<Ip> = (0..=255).map(|prefix| v6(1, 1, prefix)).collect();
    for pace in [DEVICES, REGISTRATIONS, PUSHED, UPSTREAM] {
        let mut strangers = Strangers::new(pace);
        let mut now = NOW;
        for round in 0..40_u16 {
            let got = i64::try_from(takes_all(&mut strangers, &site, now)).unwrap();
            assert!(round > 0 || (pace.all.burst / 4..=pace.all.burst / 3 + 1).contains(&got), "{pace:?}: {got}");
            for honest in [v6(2, round, 1), v6(1, 2 + round, 9), v4(7, 7)] {
                assert_eq!(strangers.take(honest, now), Ok(()), "{pace:?} round {round}: {honest:?}");
            }
            now += pace.each.every;
        }
    }
}

/// Dozens of networks, each of which asks for whatever there is, on and on: a stranger beside them is let in at once, and a few more.
#[test]
fn dozens_of_networks_take_nothing_from_a_stranger_beside_them() {
    let small = Pace { each: Budget { burst: 60, every: 100 }, all: Budget { burst: 2_000, every: 4 } };
    for pace in [DEVICES, PUSHED, small] {
        for (dozens, each) in [(60_u8, 1), (60, 4), (200, 1)] {
            let others: Vec<Ip> = (0..dozens).flat_map(|n| (0..each).map(move |m| v4(n, m * 16))).collect();
            let mut strangers = Strangers::new(pace);
            let mut now = NOW;
            for round in 0..60_u16 {
                takes_all(&mut strangers, &others, now);
                // They do not sleep: all that comes back meanwhile is theirs, if they may have it.
                for _ in 0..8 {
                    now += 250;
                    for ip in &others {
                        let _ = strangers.take(*ip, now);
                    }
                }
                let honest = v6(1_000 + round, 1, 1);
                assert_eq!(strangers.take(honest, now), Ok(()), "{pace:?} {dozens} × {each}, round {round}");
                let again = strangers.take(honest, now);
                assert!(dozens > 60 || again.is_ok(), "{pace:?} {dozens} × {each}, round {round}: again");
            }
        }
    }
}

/// The numbers in the table of `domain::pace`.
#[test]
fn so_much_is_left_by_whoever_takes_all_they_get() {
    let rest = |who: &[Ip]| {
        let mut strangers = Strangers::new(DEVICES);
        let got = takes_all(&mut strangers, who, NOW);
        // Each from a network of its own: who came last took nothing.
        let newcomers: Vec<Ip> = (0..=u16::MAX).map(|n| v6(n, 0, 0)).collect();
        let left = newcomers.iter().skip(1000).take_while(|ip| strangers.take(**ip, NOW).is_ok()).count();
        assert_eq!(got + left, 1_000, "and no more than the whole");
        (got, left)
    };
    let site: Vec<Ip> = (0..=255).map(|prefix| v6(1, 1, prefix)).collect();
    let network: Vec<Ip> = (0..2_000).map(|site| v6(1, site, 1)).collect();
    let networks: Vec<Ip> = (0..60).map(|network| v6(network, 1, 1)).collect();
    assert_eq!(rest(&site), (333, 667));
    assert_eq!(rest(&network), (500, 500));
    assert_eq!(rest(&networks), (955, 45));
    assert_eq!(rest(&site[..1]), (60, 940), "one prefix has its own budget");
}

/// Who is alone with their wish gets nearly what all may have: there is no fixed part that nobody uses.
#[test]
fn a_large_network_that_is_alone_goes_on_at_its_pace() {
    // A carrier with 500 prefixes, from each of which somebody begins a device now and then: five a second of the ten there are.
    let (mut strangers, mut now) = (Strangers::new(DEVICES), NOW);
    let mut refused = 0;
    for n in 0..5_000_u32 {
        now += 200;
        refused += u32::from(strangers.take(v6(3, u16::try_from(n % 500).unwrap(), 1), now).is_err());
    }
    assert_eq!(refused, 0, "at half of the pace of all");
}

#[test]
fn a_prefix_has_its_burst_and_its_pace() {
    let of = |burst| Budget { burst, every: 1000 };
    let mut strangers = Strangers::new(Pace { each: of(3), all: of(100) });
    assert!((0..3).all(|_| strangers.take(ip("192.0.2.1"), NOW).is_ok()));
    assert_eq!(strangers.take(ip("192.0.2.200"), NOW + 999), Err(1), "one prefix");
    assert!(strangers.take(ip("198.51.100.1"), NOW).is_ok(), "another one");
    assert!(strangers.take(ip("192.0.2.1"), NOW + 1000).is_ok());
    assert_eq!(strangers.take(ip("192.0.2.1"), NOW + 1001), Err(999));
    assert!((0..3).all(|_| strangers.take(ip("192.0.2.1"), NOW + 100_000).is_ok()), "it is full again, and no fuller");
    assert!(strangers.take(ip("192.0.2.1"), NOW + 100_000).is_err());
}

/// Whoever is refused is told when to come again: then there is one, and not sooner, when nobody takes anything meanwhile.
#[test]
fn who_is_refused_is_told_when_to_come_again() {
    let pace = Pace { each: Budget { burst: 9, every: 400 }, all: Budget { burst: 30, every: 100 } };
    let mut waits = 0;
    for seed in 0..300 {
        let (mut chance, mut now, mut strangers) = (Seeded(seed), NOW, Strangers::new(pace));
        for _ in 0..200 {
            let mut up_to = |most: u128| chance.bits() % most;
            now += i64::try_from(up_to(60)).unwrap();
            let caller = match up_to(4) {
                0 => ip("127.0.0.1"),
                1 => v4(u8::try_from(up_to(3)).unwrap(), u8::try_from(up_to(200)).unwrap()),
                _ => v6(
                    u16::try_from(up_to(3)).unwrap(),
                    u16::try_from(up_to(3)).unwrap(),
                    u8::try_from(up_to(3)).unwrap(),
                ),
            };
            if let Err(wait) = strangers.take(caller, now) {
                waits += 1;
                assert!(wait >= 1);
                assert!(strangers.clone().take(caller, now + wait).is_ok(), "seed {seed}: {wait}");
                assert!(strangers.clone().take(caller, now + wait - 1).is_err(), "seed {seed}: {wait}");
            } else if up_to(5) == 0 {
                strangers.give_back(caller);
            }
        }
    }
    assert!(waits > 5_000, "{waits}");
}

/// Whoever they are and whatever is given back, no more is taken than the budget of all says, and of each prefix than its own.
#[test]
fn however_many_networks_come_all_together_keep_the_budget_of_all() {
    let pace = Pace { each: Budget { burst: 4, every: 300 }, all: Budget { burst: 40, every: 50 } };
    for seed in 0..200 {
        let (mut chance, mut now, mut strangers, mut taken) =
            (Seeded(seed), NOW, Strangers::new(pace).remembering(50), vec![]);
        for _ in 0..600 {
            let mut up_to = |most: u128| chance.bits() % most;
            now += i64::try_from(up_to(20)).unwrap();
            let caller = if up_to(9) == 0 {
                ip("::1")
            } else {
                v6(u16::try_from(up_to(40)).unwrap(), 0, u8::try_from(up_to(4)).unwrap())
            };
            if strangers.take(caller, now).is_ok() {
                taken.push(now);
            }
            assert!(strangers.remembered() <= 50);
        }
        for (n, from) in taken.iter().enumerate() {
            for (m, to) in taken.iter().enumerate().skip(n) {
                assert!(i64::try_from(m - n + 1).unwrap() <= pace.all.most_in(to - from) + 1, "seed {seed}");
            }
        }
    }
}

/// Memory has an end, and what is at it is no lock: who comes then is let in, and who took most is still known.
#[test]
fn the_memory_is_bounded_and_shuts_nobody_out() {
    let mut strangers = Strangers::new(PROOFS).remembering(3_000);
    let greedy: Vec<Ip> = (0..=255).map(|prefix| v6(1, 1, prefix)).collect();
    takes_all(&mut strangers, &greedy, NOW);
    for n in 0..9_000_u16 {
        assert!(strangers.take(v6(2 + n / 1_000, n, 1), NOW + 500).is_ok(), "{n}");
        assert!(strangers.remembered() <= 3_000);
    }
    assert!(strangers.take(greedy[7], NOW + 500).is_err(), "its network is remembered");
    // All of it goes, when it is long ago.
    assert!(strangers.take(greedy[7], NOW + 10_000_000).is_ok());
}

/// This machine itself stands for nobody in particular: no budget of a prefix, and never more than what all have.
#[test]
fn this_machine_draws_on_what_all_have_and_on_no_more() {
    let mut strangers = Strangers::new(DEVICES);
    for own in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        assert!((0..250).all(|_| strangers.take(ip(own), NOW).is_ok()), "{own}");
    }
    assert_eq!(strangers.take(ip("127.0.0.1"), NOW), Err(100));
    assert_eq!(strangers.take(v4(1, 1), NOW), Err(100), "all is all");
    let mut sign_ups = Strangers::new(SIGN_UPS_HERE);
    assert_eq!((0..2_000).filter(|_| sign_ups.take(ip("::1"), NOW).is_ok()).count(), 1_000);
    assert_eq!((sign_ups.take(ip("::1"), NOW), SIGN_UPS_HERE.all.most_in(86_400_000)), (Err(1_000), 87_400));
}
