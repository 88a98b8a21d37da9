//! DESIGN §4.6, I5, I6.
use crate::world::{START, Seeded, apply, key, rules, view};
use portcullis_domain::family::Presented;
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::sign_in::Issued;
use portcullis_domain::view::RefreshView;
use portcullis_domain::{Expect, Refused};
use portcullis_wire::{ClientId, Rev, SecretString, Time};

fn how(cookie: bool, agent: &str) -> How {
    How {
        cookie,
        user_agent: Some(agent.into()),
        ip: None,
        client: ClientId::FIRST_PARTY,
        proven: false,
        sender: None,
        at_home: false,
    }
}

fn present(
    row: &mut RefreshView,
    token: &SecretString,
    now: Time,
    how: &How,
    chance: &mut Seeded,
) -> Result<Issued, Refused> {
    row.stamp.now = now;
    row.stamp.horizon = now.plus(3_600_000);
    let presented = Presented::parse(token).unwrap();
    assert!(presented.is_ours(&key()));
    let decision = refresh(row, &presented, how, &rules(), &key(), &key(), chance);
    apply(row, &decision.changes, now);
    decision.outcome
}

/// An honest client loses answers, repeats, crashes, and waits as it likes, with no pause between a lost answer and its
/// repetition longer than half the late window: it is never signed out (I6).
#[test]
fn an_honest_client_is_never_signed_out() {
    let mut skips = 0;
    for seed in 0..2000 {
        let mut chance = Seeded(seed);
        let mut row = view(START);
        let mut token = row.grant.family.current_token(&key(), row.grant.id);
        let mut now = START;
        for _ in 0..30 {
            let pause = [10, 3000, 9000, 60_000, 3_600_000, 12 * 3_600_000][chance.below(6) as usize];
            now = now.plus(pause);
            let before = row.grant.family.counter;
            let issued = present(&mut row, &token, now, &how(false, "curl/8"), &mut chance).unwrap();
            if row.grant.family.counter == before + 1 && row.grant.family.predecessor == Some(before - 1) {
                skips += 1;
            }
            assert_eq!(issued.claims.rev, Rev(10));
            assert!(issued.claims.expires_at() > now);
            if chance.below(3) > 0 {
                token = issued.refresh; // otherwise the answer was lost
            }
        }
    }
    assert!(skips > 100, "late repetitions must have happened: {skips}");
}

/// Inside the window every repetition gets the same successor, byte for byte, from any number of callers (I5).
#[test]
fn repetitions_get_the_same_bytes() {
    for seed in 0..1000 {
        let mut chance = Seeded(seed);
        let mut row = view(START);
        let token = row.grant.family.current_token(&key(), row.grant.id);
        let mut now = START.plus(100_000);
        let first = present(&mut row, &token, now, &how(false, "curl/8"), &mut chance).unwrap();
        for _ in 0..40 {
            now = now.plus(chance.below(9_999) as i64); // counted from the last hand-out
            let again = present(&mut row, &token, now, &how(false, "other"), &mut chance).unwrap();
            assert_eq!(again.refresh.expose(), first.refresh.expose());
            assert_ne!(again.claims.jti, first.claims.jti);
        }
        assert_eq!(row.grant.family.counter, 2);
    }
}

/// A thief who copied a token and the owner both go on: the family ends at the latest with the owner's next refresh after
/// the thief's, whoever comes first and whatever the pauses.
#[test]
fn a_thief_rides_at_most_until_the_owners_next_refresh() {
    for seed in 0..3000 {
        let mut chance = Seeded(seed);
        let mut row = view(START);
        let stolen = row.grant.family.current_token(&key(), row.grant.id);
        let (mut owner, mut thief) = (stolen.clone(), stolen);
        let mut now = START;
        // Each has refreshed with the other's knowledge gone: at least once each, then once more.
        let mut uses = (0, 0);
        let caught = (0..12).any(|_| {
            now = now.plus(200_000 + chance.below(400_000) as i64);
            let mine = chance.below(2) == 0;
            let token = if mine { owner.clone() } else { thief.clone() };
            match present(&mut row, &token, now, &how(false, "curl/8"), &mut chance) {
                Ok(issued) if mine => {
                    owner = issued.refresh;
                    uses.0 += 1;
                    false
                }
                Ok(issued) => {
                    thief = issued.refresh;
                    uses.1 += 1;
                    false
                }
                Err(Refused::RefreshReused) => true,
                Err(other) => panic!("{other:?}"),
            }
        });
        assert!(
            caught || uses.0 == 0 || uses.1 == 0 || uses.0 + uses.1 < 4 || row_agrees(&uses),
            "seed {seed}: {uses:?}"
        );
        if caught {
            // Theft ends the session: neither goes on.
            for token in [&owner, &thief] {
                assert!(present(&mut row, token, now.plus(1000), &how(false, "curl/8"), &mut chance).is_err());
            }
        }
    }
}

/// Whether the two never really parted: one of them did all its refreshes before or after the other's, inside retries.
fn row_agrees(uses: &(u32, u32)) -> bool {
    uses.0 <= 1 || uses.1 <= 1
}

#[test]
fn a_late_repetition_from_another_kind_of_device_ends_nothing() {
    let mut chance = Seeded(1);
    let mut row = view(START);
    let token = row.grant.family.current_token(&key(), row.grant.id);
    let issued = present(&mut row, &token, START.plus(1000), &how(false, "curl/8"), &mut chance).unwrap();
    let firefox = how(false, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0");
    let refused = present(&mut row, &token, START.plus(60_000), &firefox, &mut chance);
    assert_eq!(refused.unwrap_err(), Refused::RefreshInvalid);
    assert!(present(&mut row, &issued.refresh, START.plus(61_000), &how(false, "curl/8"), &mut chance).is_ok());
}

#[test]
fn after_the_late_window_a_repetition_is_theft() {
    let mut chance = Seeded(1);
    let mut row = view(START);
    let token = row.grant.family.current_token(&key(), row.grant.id);
    present(&mut row, &token, START.plus(1000), &how(false, "curl/8"), &mut chance).unwrap();
    let refused = present(&mut row, &token, START.plus(1000 + 86_400_000), &how(false, "curl/8"), &mut chance);
    assert_eq!(refused.unwrap_err(), Refused::RefreshReused);
}

/// Later than late: only where the session was last, only by what it was made with, and only while the successor was never used.
#[test]
fn later_than_late_is_a_retry_at_home_alone() {
    let day = 86_400_000;
    let (mut went, mut theft) = (0, 0);
    for seed in 0..4000 {
        let mut chance = Seeded(seed);
        let mut row = view(START);
        let token = row.grant.family.current_token(&key(), row.grant.id);
        let issued = present(&mut row, &token, START.plus(1000), &how(false, "curl/8"), &mut chance).unwrap();
        let used = chance.below(3) == 0;
        let after = if used {
            present(&mut row, &issued.refresh, START.plus(2000), &how(false, "curl/8"), &mut chance).unwrap();
            2000
        } else {
            1000
        };
        let late = chance.below(20 * day as u64) as i64;
        let (at_home, agent) = (chance.below(2) == 0, ["curl/8", "curl/9", "wget/1"][chance.below(3) as usize]);
        let by = How { at_home, ..how(false, agent) };
        let came = present(&mut row, &token, START.plus(after + late), &by, &mut chance);
        let (same, limit) = (agent != "wget/1", if at_home { 14 * day } else { day });
        let expected = match () {
            () if used => Err(Refused::RefreshReused),
            () if late < rules().retry_window => Ok(()),
            // Another program has the shorter patience, wherever it is.
            () if late >= if same { limit } else { day } => Err(Refused::RefreshReused),
            () if same => Ok(()),
            () => Err(Refused::RefreshInvalid),
        };
        assert_eq!(came.as_ref().map(|_| ()).map_err(Clone::clone), expected, "seed {seed}: {late} {by:?} {used}");
        let lives = row.session.ended.is_none();
        assert_eq!(lives, expected != Err(Refused::RefreshReused), "seed {seed}");
        if let (Ok(again), true) = (came, late >= day) {
            went += 1;
            // What was skipped is dead: whoever had it after all shows a copy, and both are outside.
            let skipped = present(&mut row, &issued.refresh, START.plus(after + late + 20_000), &by, &mut chance);
            assert_eq!(skipped.unwrap_err(), Refused::RefreshReused);
            assert!(present(&mut row, &again.refresh, START.plus(after + late + 21_000), &by, &mut chance).is_err());
        }
        theft += u32::from(!lives && late >= day && !used);
    }
    assert!(went > 300 && theft > 1000, "{went} {theft}");
}

/// `late_retry = 0s` is strict at home too, and a longer one elsewhere is no shorter there.
#[test]
fn the_second_limit_is_the_operators() {
    use portcullis_domain::refresh::{Likeness, Outcome, outcome};
    let family = portcullis_domain::family::Family { counter: 2, predecessor: Some(1), ..view(START).grant.family };
    let at = |late: i64, home: i64, likeness, after: i64| {
        let rules = portcullis_domain::Rules { late_retry: late, late_retry_at_home: home, ..rules() };
        outcome(&family, 1, false, likeness, START.plus(after), &rules)
    };
    assert_eq!(at(0, 0, Likeness::AtHome, 20_000), Outcome::Theft);
    assert_eq!(at(100_000, 0, Likeness::AtHome, 20_000), Outcome::Skip);
    assert_eq!(at(20_000, 100_000, Likeness::AtHome, 99_999), Outcome::Skip);
    assert_eq!(at(20_000, 100_000, Likeness::AtHome, 100_000), Outcome::Theft);
    for likeness in [Likeness::Other, Likeness::Same] {
        assert_eq!(at(20_000, 100_000, likeness, 20_000), Outcome::Theft);
    }
}

/// Tabs that share a cookie: the current token again, sixteen times at most, then it rotates.
#[test]
fn tabs_share_a_cookie() {
    let mut chance = Seeded(1);
    let mut row = view(START);
    let mut token = row.grant.family.current_token(&key(), row.grant.id);
    let first = token.expose().to_owned();
    let mut same = 0;
    for n in 0..17 {
        let issued = present(&mut row, &token, START.plus(100 * n), &how(true, "curl/8"), &mut chance).unwrap();
        same += u32::from(issued.refresh.expose() == first);
        token = issued.refresh;
    }
    assert_eq!((same, row.grant.family.counter), (16, 2));
}

#[test]
fn ahead_of_its_row_is_no_theft() {
    let mut chance = Seeded(1);
    let mut ahead = view(START);
    ahead.grant.family.counter = 5;
    let token = ahead.grant.family.current_token(&key(), ahead.grant.id);
    let mut row = view(START);
    let refused = present(&mut row, &token, START.plus(1000), &how(false, "curl/8"), &mut chance);
    assert!(matches!(refused, Err(Refused::Unavailable { .. })));
    assert!(row.session.ended.is_none());
}

/// Two repetitions at the edge of the window: the one that came in time begins it anew, so the one that came late must not
/// make another successor on what it saw before; else the first holds a dead token, and its next use looks like theft.
#[test]
fn a_skip_does_not_pass_by_a_hand_out_that_it_did_not_see() {
    let mut chance = Seeded(1);
    let mut row = view(START);
    let first = row.grant.family.current_token(&key(), row.grant.id);
    present(&mut row, &first, START.plus(60_000), &how(false, "curl/8"), &mut chance).unwrap();
    let late = START.plus(60_000 + rules().retry_window);
    row.stamp.now = late;
    let presented = Presented::parse(&first).unwrap();
    let skip = refresh(&row, &presented, &how(false, "curl/8"), &rules(), &key(), &key(), &mut chance);
    assert!(skip.outcome.is_ok());
    let handouts = row.grant.family.handouts;
    assert!(skip.changes.expects.contains(&Expect::Handouts { grant: row.grant.id, handouts }));
    let just_in_time = late.minus(1);
    present(&mut row, &first, just_in_time, &how(false, "curl/8"), &mut chance).unwrap();
    assert_ne!(row.grant.family.handouts, handouts, "so the skip is a conflict, and is decided anew");
}

/// An application under a browser's session is not the person at it: its refreshes keep nothing awake, and no token of it lives
/// beyond the browser's idle end (decision 0034).
#[test]
fn an_applications_refresh_is_no_use_of_the_browsers_session() {
    let (idle, theirs) = (rules().idle_ttl, ClientId::from_bits(77));
    let by = || How { client: theirs, proven: true, ..how(false, "curl/8") };
    let mut row = view(START);
    row.grant.client = theirs;
    let mut token = row.grant.family.current_token(&key(), row.grant.id);
    let (mut now, step, mut chance) = (START, idle / 10, Seeded(1));
    while now.plus(step) < START.plus(idle) {
        now = now.plus(step);
        let issued = present(&mut row, &token, now, &by(), &mut chance).unwrap();
        assert!(issued.claims.expires_at() <= START.plus(idle));
        token = issued.refresh;
    }
    assert_eq!(present(&mut row, &token, START.plus(idle), &by(), &mut chance).unwrap_err(), Refused::RefreshExpired);
    // The person came by meanwhile: by a page, or by a refresh of their own.
    let (mut by_page, mut by_refresh) = (row.clone(), row.clone());
    by_page.session.last_seen_at = now;
    by_refresh.refreshed_at = Some(now);
    for mut row in [by_page, by_refresh] {
        let issued = present(&mut row, &token, START.plus(idle), &by(), &mut chance).unwrap();
        assert!(issued.claims.expires_at() <= now.plus(idle));
        assert_eq!(
            present(&mut row, &issued.refresh, now.plus(idle), &by(), &mut chance).unwrap_err(),
            Refused::RefreshExpired
        );
    }
    // Under a session of its own it is the one who uses it.
    let mut own = view(START);
    (own.grant.client, own.session.client) = (theirs, Some(theirs));
    let mut token = own.grant.family.current_token(&key(), own.grant.id);
    for n in 1..20 {
        token = present(&mut own, &token, START.plus(n * step), &by(), &mut chance).unwrap().refresh;
    }
}
