//! A memory is bounded whatever happens, harmless when clocks step, and the documentation has every signal.
use crate::rows::Seeded;
use portcullis_domain::risk::*;
use portcullis_wire::{SessionId, Time};

/// Anything at all.
fn anything(chance: &mut Seeded, at: Time) -> Seen {
    let n = |chance: &mut Seeded, most: u64| chance.below(most);
    let act = match n(chance, 17) {
        0 => Act::SignUp,
        1 | 2 => Act::SignIn { known_device: n(chance, 2) == 0, breached: n(chance, 2) == 0 },
        3..=5 => Act::Refresh(RefreshSeen::Rotated),
        6 | 7 => Act::Refresh(RefreshSeen::Again),
        8 => Act::Refresh(RefreshSeen::Skipped),
        9 => Act::Refresh(RefreshSeen::OtherDevice),
        10 => Act::Refresh(RefreshSeen::Theft),
        11 => Act::Prove { ok: n(chance, 3) == 0 },
        12 => Act::Change([What::Password, What::Email, What::Factor, What::App, What::Key][n(chance, 5) as usize]),
        13 => Act::Recover([Step::Asked, Step::Done, Step::Denied][n(chance, 3) as usize]),
        14 => Act::Sighting,
        15 => Act::Arrive { known_device: n(chance, 2) == 0 },
        _ => Act::External(
            [ExternalKind::CredentialLeaked, ExternalKind::DeviceLost, ExternalKind::Fraud][n(chance, 3) as usize],
        ),
    };
    let outside = matches!(act, Act::External(_) | Act::Recover(_));
    let spot = Spot {
        lat_udeg: -89_999_999 + n(chance, 9) as i32,
        lon_udeg: -179_999_999 + n(chance, 9) as i32,
        radius_km: u16::MAX,
    };
    let place = Place { country: Some(*b"DE"), asn: Some(u32::MAX - n(chance, 40) as u32), spot: Some(spot) };
    let network = (u64::MAX - n(chance, 40)).to_be_bytes();
    let agent = if n(chance, 2) == 0 { "a".repeat(30) } else { "\u{1F600}\"\\\n".repeat(9) };
    Seen {
        at,
        act,
        session: (!outside).then(|| SessionId::from_bits(u128::MAX - u128::from(n(chance, 12)))),
        made: None,
        from: Some(Origin { network, place }),
        agent: format!("{agent}/{}", n(chance, 12)),
        build: Default::default(),
        guesses: Guesses { account: u32::MAX, prefix: u32::MAX },
    }
}

#[test]
fn a_memory_is_bounded_whatever_happens() {
    let mut longest = (0, String::new());
    for seed in 0..40 {
        let mut chance = Seeded(seed);
        let (mut memory, mut at) = (Memory::default(), Time(9_999_999_999_000));
        for _ in 0..500 {
            at = at.plus(chance.below(400_000) as i64);
            let (signals, after) = observe(&memory, &anything(&mut chance, at));
            assert!(signals.sign_ins <= 6 && signals.hops <= 4);
            let text = after.write();
            assert_eq!(Memory::read(&text), after, "what is written reads as it was: {text}");
            if text.len() > longest.0 {
                longest = (text.len(), text);
            }
            memory = after;
        }
    }
    println!("longest memory of an account: {} bytes of {MAX_BYTES}; {} signals", longest.0, FIELDS.len());
    assert!(longest.0 > 2000, "the test fills it: {}", longest.1);
    assert!(longest.0 <= MAX_BYTES, "{}", longest.1);
}

#[test]
fn what_does_not_read_begins_anew() {
    let mut chance = Seeded(1);
    let (_, full) =
        observe(&Memory::default(), &Seen { act: Act::SignUp, ..anything(&mut chance, Time(1_800_000_000_000)) });
    let text = full.write();
    assert!(!Memory::read(&text).is_empty());
    for broken in [
        "",
        "{",
        "null",
        "[]",
        "7",
        &text[1..],
        &text.replace("\"v\":1", "\"v\":2"),
        &text.replace("\"v\":1", "\"v\":1,\"new\":3"),
    ] {
        assert!(Memory::read(broken).is_empty(), "{broken}");
    }
}

fn at_home(at: Time, act: Act, session: u128) -> Seen {
    Seen {
        at,
        act,
        session: Some(SessionId::from_bits(session)),
        made: None,
        from: Some(Origin::somewhere([1; 8])),
        agent: "firefox/linux".into(),
        build: Default::default(),
        guesses: Guesses::default(),
    }
}

#[test]
fn clock_steps_are_harmless() {
    let now = Time(1_800_000_000_000);
    let year = 365 * 86_400_000;
    let sign_in = |at| at_home(at, Act::SignIn { known_device: true, breached: false }, 1);
    for first in [now.plus(year), now.minus(year), now, Time(i64::MIN), Time(i64::MAX)] {
        let (_, memory) = observe(&Memory::default(), &sign_in(first));
        // Another network right after the step: it is new, and no speed comes of it.
        let mut seen = at_home(now, Act::Refresh(RefreshSeen::Rotated), 1);
        seen.from = Some(Origin::somewhere([2; 8]));
        let (signals, memory) = observe(&memory, &seen);
        assert!(signals.moved && !signals.impossible_travel && signals.session_age_s >= -1);
        // And what was remembered before the clock was set back ages from then on.
        let (signals, _) = observe(&memory, &sign_in(now.plus(3_600_000)));
        assert_eq!(signals.sign_ins, 1);
    }
}

#[test]
fn whoever_was_refused_is_not_at_home_the_next_time() {
    let now = Time(1_800_000_000_000);
    let known = Act::SignIn { known_device: true, breached: false };
    let (_, memory) = observe(&Memory::default(), &at_home(now, known, 1));
    let thief = |at| Seen {
        from: Some(Origin::somewhere([9; 8])),
        agent: "python/?".into(),
        ..at_home(at, Act::SignIn { known_device: false, breached: false }, 2)
    };
    let (first, after) = observe(&memory, &thief(now.plus(1000)));
    assert!(first.new_device && first.new_network && first.new_agent);
    assert!(!first.refused);
    let refused = after.refused(&memory, &thief(now.plus(1000)), true);
    let (again, _) = observe(&refused, &thief(now.plus(2 * 3_600_000)));
    assert!(again.new_network && again.new_agent, "what was refused teaches nothing");
    let (again, _) = observe(&after, &thief(now.plus(2 * 3_600_000)));
    assert!(!again.new_network && !again.new_agent, "and what was not, does");
    // Not at once, though: an hour is no home.
    let (soon, _) = observe(&after, &thief(now.plus(600_000)));
    assert!(soon.new_network);
}

/// What was said of a password ends with it, and not with a change that was refused.
#[test]
fn a_password_is_leaked_until_it_is_another_one() {
    let now = Time(1_800_000_000_000);
    let sign_in = Act::SignIn { known_device: false, breached: false };
    let (_, at_first) = observe(&Memory::default(), &at_home(now, sign_in, 1));
    assert!(at_first.with_new_password().is_none(), "nobody said so");
    let told = Seen { session: None, from: None, ..at_home(now, Act::External(ExternalKind::CredentialLeaked), 1) };
    let (_, leaked) = observe(&at_first, &told);
    let says = |memory: &Memory| observe(memory, &at_home(now.plus(60_000), sign_in, 2)).0.leaked;
    assert!(says(&leaked) && !says(&leaked.with_new_password().unwrap()));
    let (_, changed) = observe(&leaked, &at_home(now.plus(1000), Act::Change(What::Password), 1));
    assert!(!says(&changed));
    let change = at_home(now.plus(1000), Act::Change(What::Password), 1);
    assert!(says(&changed.refused(&leaked, &change, true)), "the change was refused");
    // Who comes by another provider shows no password, stolen or not.
    let arrives = at_home(now.plus(60_000), Act::Arrive { known_device: false }, 2);
    assert!(!observe(&leaked, &arrives).0.leaked);
}

const HOUR_MS: i64 = 3_600_000;

/// A sign-in that a rule refuses has told that the password is right: that is remembered for a day, or until it is another one.
#[test]
fn a_refused_sign_in_is_remembered_for_a_day() {
    let now = Time(1_800_000_000_000);
    let sign_in = Act::SignIn { known_device: false, breached: false };
    let (_, home) = observe(&Memory::default(), &at_home(now, sign_in, 1));
    let thief =
        |hours: i64| Seen { from: Some(Origin::somewhere([9; 8])), ..at_home(now.plus(hours * HOUR_MS), sign_in, 2) };
    let refuse = |memory: &Memory, seen: &Seen| observe(memory, seen).1.refused(memory, seen, true);
    let says = |memory: &Memory, hours| observe(memory, &thief(hours)).0.refused;
    let once = refuse(&home, &thief(2));
    assert!(!says(&home, 3) && says(&once, 3) && says(&once, 25) && !says(&once, 27));
    assert_eq!(Memory::read(&once.write()), once);
    // Trying again prolongs nothing; a day later it counts anew.
    let twice = refuse(&once, &thief(20));
    assert!(says(&twice, 25) && !says(&twice, 27));
    assert!(says(&refuse(&twice, &thief(27)), 50));
    // Who was let in was not refused, nor who was refused for others' guesses, which cost them nothing; a provider asks for no password.
    let after = |seen: &Seen| observe(&home, seen).1;
    assert!(!says(&after(&thief(2)).doubted(&home), 3));
    assert!(!says(&after(&thief(2)).refused(&home, &thief(2), false), 3));
    let arrives = Seen { act: Act::Arrive { known_device: false }, ..thief(3) };
    assert!(!observe(&once, &arrives).0.refused);
    // Other acts say nothing of a password, and another password is not the one that was right.
    let refresh = Seen { act: Act::Refresh(RefreshSeen::Rotated), ..thief(2) };
    assert!(!says(&refuse(&home, &refresh), 3));
    assert!(!says(&once.with_new_password().unwrap(), 3));
    let change = at_home(now.plus(3 * HOUR_MS), Act::Change(What::Password), 1);
    assert!(!says(&observe(&once, &change).1, 4));
    assert!(says(&refuse(&once, &change), 4), "the change was refused, too");
}

/// What a rule has refused was not done: neither a new password nor a change of anything.
#[test]
fn what_was_refused_is_not_counted_as_done() {
    let now = Time(1_800_000_000_000);
    let sign_in = Act::SignIn { known_device: true, breached: false };
    let (_, home) = observe(&Memory::default(), &Seen { from: in_network(1, now, 1).from, ..at_home(now, sign_in, 1) });
    let abroad = |hours: i64, act: Act| {
        let place = Place { country: Some(*b"US"), asn: Some(9), spot: None };
        let from = Some(Origin { network: [9; 8], place });
        let session = (!matches!(act, Act::Recover(_))).then_some(SessionId::from_bits(1));
        Seen { from, session, ..at_home(now.plus(hours * HOUR_MS), act, 1) }
    };
    let mut memory = home.clone();
    for hours in 2..5 {
        let reset = abroad(hours, Act::Recover(Step::Done));
        let (signals, after) = observe(&memory, &reset);
        assert!(signals.new_country);
        assert_eq!(signals.resets_done, 1, "{hours}: those before were refused");
        memory = after.refused(&memory, &reset, true);
        let change = abroad(hours, Act::Change(What::Factor));
        let (signals, after) = observe(&memory, &change);
        assert_eq!((signals.changes, signals.reset_age_s, signals.reset_new_country), (1, -1, false), "{hours}");
        memory = after.refused(&memory, &change, true);
    }
    // What was done counts, and so does a link that was asked for.
    let (_, done) = observe(&memory, &abroad(6, Act::Recover(Step::Done)));
    assert_eq!(observe(&done, &abroad(7, Act::Recover(Step::Done))).0.resets_done, 2);
    let asked = abroad(6, Act::Recover(Step::Asked));
    let refused = observe(&memory, &asked).1.refused(&memory, &asked, true);
    assert_eq!(observe(&refused, &asked).0.resets_asked, 2);
}

fn in_network(n: u8, at: Time, session: u128) -> Seen {
    let place = Place { country: Some(*b"NL"), asn: Some(n.into()), spot: None };
    let from = Some(Origin { network: [n; 8], place });
    Seen { from, ..at_home(at, Act::Refresh(RefreshSeen::Rotated), session) }
}

/// Whoever has a session for a minute, and a /48, pushes out nothing that the account has known for longer, and is at home nowhere.
#[test]
fn a_minute_in_many_networks_pushes_out_none() {
    let now = Time(1_800_000_000_000);
    let sign_in = Act::SignIn { known_device: true, breached: false };
    let home = Seen { from: in_network(1, now, 1).from, ..at_home(now, sign_in, 1) };
    let mut memory = observe(&Memory::default(), &home).1;
    // Her places: ten of them, one a day.
    for n in 2..=10 {
        memory = observe(&memory, &in_network(n, now.plus(i64::from(n) * 24 * HOUR_MS), 1)).1;
    }
    let stolen = now.plus(20 * 24 * HOUR_MS);
    for n in 20..80 {
        let (signals, after) = observe(&memory, &in_network(n, stolen.plus(i64::from(n) * 1000), 1));
        assert!(signals.new_network && signals.new_provider, "{n}");
        memory = after;
    }
    let soon = stolen.plus(120_000);
    for n in [79, 78, 60, 20] {
        let elsewhere = observe(&memory, &Seen { act: sign_in, ..in_network(n, soon, 2) }).0;
        assert!(elsewhere.new_network, "{n}: the thief is not at home");
    }
    for n in 1..=10 {
        let signals = observe(&memory, &Seen { act: sign_in, ..in_network(n, soon, 3) }).0;
        assert!(!signals.new_network && !signals.new_country && !signals.first, "{n}: she is where she always was");
    }
    assert!(memory.write().len() <= MAX_BYTES);
}

/// A phone that gets another network each day does not push out the one in which a computer stands.
#[test]
fn where_a_session_stands_and_what_was_seen_for_long_stays() {
    let now = Time(1_800_000_000_000);
    let day = 24 * HOUR_MS;
    let sign_in = Act::SignIn { known_device: true, breached: false };
    let seen = |n: u8, days: i64, session| Seen { act: sign_in, ..in_network(n, now.plus(days * day), session) };
    let mut memory = observe(&Memory::default(), &seen(1, 0, 1)).1;
    // Work, again and again, by sessions that are forgotten.
    for days in 0..3 {
        memory = observe(&memory, &seen(2, days, 7)).1;
    }
    for n in 0..60_u8 {
        memory = observe(&memory, &in_network(100 + n, now.plus((3 + i64::from(n)) * day), 2)).1;
    }
    let new = |memory: &Memory, n| observe(memory, &seen(n, 64, 3)).0.new_network;
    assert!(!new(&memory, 1) && !new(&memory, 2) && !new(&memory, 159));
    assert!(new(&memory, 101), "and the oldest of what was passed through is gone");
}

/// After everything was forgotten nobody is at home by being the first.
#[test]
fn what_was_forgotten_is_new_and_the_next_one_is_not_the_first() {
    let now = Time(1_800_000_000_000);
    let sign_in = Act::SignIn { known_device: false, breached: false };
    let memory = observe(&Memory::default(), &at_home(now, sign_in, 1)).1;
    let later = now.plus(300 * 24 * HOUR_MS);
    let thief = |at| Seen { from: Some(Origin::somewhere([9; 8])), ..at_home(at, sign_in, 2) };
    let (signals, memory) = observe(&memory, &thief(later));
    assert!(!signals.first && signals.new_network && signals.new_device);
    assert!(observe(&memory, &thief(later.plus(60_000))).0.new_network, "nor a minute later");
    assert!(!observe(&memory, &thief(later.plus(2 * HOUR_MS))).0.new_network);
}

/// The server's key is replaced: the same network has another name, and is not new.
#[test]
fn a_network_is_the_same_under_another_name() {
    let now = Time(1_800_000_000_000);
    let (old, new, other) = ([1; 8], [2; 8], [3; 8]);
    let from = |network, at, act| Seen { from: Some(Origin::somewhere(network)), ..at_home(at, act, 1) };
    let sign_in = Act::SignIn { known_device: true, breached: false };
    let memory = observe(&Memory::default(), &from(old, now, sign_in)).1;
    let later = now.plus(2 * HOUR_MS);
    let seen = from(new, later, Act::Refresh(RefreshSeen::Rotated));
    assert!(observe(&memory, &seen).0.new_network, "by its other name it is");
    let called = memory.clone().renamed(new, &[other, old]);
    let (signals, after) = observe(&called, &seen);
    assert!(!signals.new_network && !signals.moved);
    assert!(observe(&called, &from(old, later, sign_in)).0.new_network);
    // Learned under both names, it is one, and as old as the older.
    let both = observe(&memory, &from(new, later, sign_in)).1.renamed(new, &[old]);
    assert!(!observe(&both, &from(new, later.plus(60_000), sign_in)).0.new_network);
    let names = |memory: &Memory| memory.write().matches("AgICAgICAgI").count();
    assert_eq!((names(&after), names(&both)), (2, 3), "the network, where the session was made, and its move");
    assert_eq!(memory.clone().renamed(other, &[other]), memory);
}

/// Places go when addresses go; networks when nobody was there for so long, unless a session stands there.
#[test]
fn places_and_networks_fade() {
    let now = Time(1_800_000_000_000);
    let day = 24 * HOUR_MS;
    let sign_in = Act::SignIn { known_device: true, breached: false };
    let spot = Some(Spot { lat_udeg: 52_000_000, lon_udeg: 13_000_000, radius_km: 5 });
    let at = |n: u8, days: i64, session| Seen {
        from: Some(Origin { network: [n; 8], place: Place { country: Some(*b"DE"), asn: Some(1), spot } }),
        ..at_home(now.plus(days * day), sign_in, session)
    };
    let mut memory = observe(&Memory::default(), &at(1, 0, 1)).1;
    for session in 2..8 {
        memory = observe(&memory, &at(2, 1, session)).1; // those push the first session out
    }
    let (places, names) = ("52000", "AQEBAQEBAQE");
    assert!(memory.write().contains(places) && memory.write().contains(names));
    assert_eq!(memory.clone().faded(now.plus(30 * day), 90 * day), memory, "not before their time");
    let faded = memory.clone().faded(now.plus(100 * day), 90 * day).write();
    assert!(!faded.contains(places) && !faded.contains(names), "{faded}");
    assert!(faded.contains("AgICAgICAgI"), "where sessions stand is known as long as they may");
    let gone = memory.clone().faded(now.plus(400 * day), 90 * day).write();
    assert!(!gone.contains("AgICAgICAgI"), "{gone}");
    // Where no address is kept at all a network is known for a month all the same, like those of the throttle.
    let none = memory.faded(now.plus(10 * day), 0).write();
    assert!(!none.contains(places) && none.contains(names), "{none}");
}

/// Whoever hides where they are is at home nowhere, however often they come.
#[test]
fn nowhere_is_new_and_stays_new() {
    let now = Time(1_800_000_000_000);
    let sign_in = Act::SignIn { known_device: false, breached: false };
    let nowhere = |hours: i64| Seen {
        from: Some(Origin::somewhere(Origin::NOWHERE)),
        ..at_home(now.plus(hours * HOUR_MS), sign_in, 2)
    };
    let (signals, mut memory) = observe(&Memory::default(), &Seen { from: in_network(1, now, 1).from, ..nowhere(0) });
    assert!(signals.first && !signals.new_network);
    for hours in [1, 3, 30] {
        let (signals, after) = observe(&memory, &nowhere(hours));
        assert!(signals.new_network && signals.new_provider && signals.new_country, "{hours}");
        assert_eq!((signals.country.as_ref(), signals.asn), ("", 0));
        memory = after;
    }
    // Without places nobody can say that of them.
    let (_, bare) = observe(&Memory::default(), &at_home(now, sign_in, 1));
    let (signals, _) = observe(&bare, &nowhere(3));
    assert!(signals.new_network && !signals.new_provider && !signals.new_country);
    // And who comes from nowhere first is nowhere else at home.
    let (_, from_nowhere) = observe(&Memory::default(), &nowhere(0));
    assert!(observe(&from_nowhere, &at_home(now.plus(1000), sign_in, 3)).0.new_network);
}

/// A row that is not ours: no moment of it makes arithmetic fail.
#[test]
fn moments_that_cannot_be_are_bounded() {
    let now = Time(1_800_000_000_000);
    let sign_in = Act::SignIn { known_device: false, breached: false };
    let full = observe(&Memory::default(), &at_home(now, sign_in, 1)).1.write();
    for wrong in [i64::MIN, i64::MAX, -1] {
        let text = full.replace("1800000000", &wrong.to_string());
        assert_ne!(text, full);
        let memory = Memory::read(&text).faded(now, 90 * 24 * HOUR_MS);
        let (signals, after) = observe(&memory, &at_home(now.plus(1000), Act::Prove { ok: false }, 1));
        assert!(signals.wrong_proofs == 1 && after.write().len() <= MAX_BYTES);
    }
}

/// What is not seen may not matter: refreshes that stay where they are are not observed.
#[test]
fn refreshes_that_stay_say_nothing_whether_they_are_seen_or_not() {
    let now = Time(1_800_000_000_000);
    let rotated = Act::Refresh(RefreshSeen::Rotated);
    let (_, start) = observe(&Memory::default(), &at_home(now, Act::SignIn { known_device: true, breached: false }, 1));
    let mut seen_all = start.clone();
    for n in 1..50 {
        seen_all = observe(&seen_all, &at_home(now.plus(n * 280_000), rotated, 1)).1;
    }
    let mut elsewhere = at_home(now.plus(51 * 280_000), rotated, 1);
    elsewhere.from = Some(Origin::somewhere([2; 8]));
    let (with, without) = (observe(&seen_all, &elsewhere).0, observe(&start, &elsewhere).0);
    assert_eq!(with, without);
}

#[test]
fn the_documentation_has_every_signal() {
    let page = include_str!("../../../../docs/risk.md");
    for field in FIELDS {
        let row = format!("| `{}` | {} |", field.name, field.doc.replace('|', "\\|"));
        assert!(page.contains(&row), "docs/risk.md has no row: {row}");
    }
}

/// What services say is compared with what is known, and changes nothing that another act is judged by.
#[test]
fn sightings_teach_nothing_and_move_nothing() {
    let start = Time(1_800_000_000_000);
    let (_, known) =
        observe(&Memory::default(), &at_home(start, Act::SignIn { known_device: true, breached: false }, 1));
    let seen = |at, network: u8| Seen {
        from: Some(Origin::somewhere([network; 8])),
        agent: "curl".into(),
        ..at_home(at, Act::Sighting, 1)
    };
    let (mut memory, mut at_once) = (known.clone(), vec![]);
    for (n, network) in [2, 1, 2, 3, 1, 2, 9, 8, 7, 6, 5, 4].into_iter().enumerate() {
        let (signals, after) = observe(&memory, &seen(start.plus(7_200_000 + n as i64 * 1000), network));
        at_once.push(signals.at_once);
        assert_eq!((signals.moved, signals.new_network), (network != 1, network != 1), "{network}");
        memory = after;
    }
    // There and back is no more than a journey; there once more is in two places. Three are remembered.
    assert_eq!(at_once[..6], [false, false, true, false, true, true]);
    assert!(!at_once[6..].contains(&true));
    // A refresh says what it would have said without them.
    let later = start.plus(7_300_000);
    for network in [1, 2] {
        let refresh = Seen {
            from: Some(Origin::somewhere([network; 8])),
            ..at_home(later, Act::Refresh(RefreshSeen::Rotated), 1)
        };
        assert_eq!(observe(&memory, &refresh).0, observe(&known, &refresh).0);
    }
    // At home nothing is written down, and of a session of which nothing is known neither.
    assert_eq!(observe(&known, &seen(later, 1)).1, known);
    let strange = Seen { session: Some(SessionId::from_bits(77)), ..seen(later, 2) };
    assert_eq!(observe(&known, &strange).1, known);
}
