use crate::support::{Chance, acc, end, entry, ses, subject};
use portcullis_feed::set::{DEAD_KEYS_LIMIT, PER_TARGET_LIMIT};
use portcullis_feed::{Mono, RevokedSet, Subject, Verdict};
use portcullis_wire::{Entry, KeyId, Rev, SessionId, Target, Time, Verb};

/// What the set must say, by looking at every entry that was not forgotten.
fn naive(entries: &[Entry], floor: Time, s: &Subject) -> Verdict {
    let dead = |e: &&Entry| e.verb == Verb::Key && s.key.is_some_and(|k| e.target == Target::Key(k));
    if entries.iter().any(|e| dead(&e)) {
        return Verdict::KeyDead;
    }
    let about = |e: &&Entry| match &e.target {
        Target::Token(id) => *id == s.token || s.from.contains(id),
        Target::Grant(id) => Some(*id) == s.grant,
        Target::Session(id) => *id == s.session,
        Target::Account(id) => *id == s.account || s.actors.contains(id),
        Target::Client(id) => *id == s.client || s.via.contains(id),
        Target::All => true,
        Target::Key(_) | Target::Other { .. } => false,
    };
    let strange = |e: &&Entry| matches!(e.verb, Verb::Other(_));
    let newest = |which: &dyn Fn(&&Entry) -> bool| {
        let live = entries.iter().filter(|e| e.until >= floor && e.rev > s.rev);
        live.filter(which).map(|e| e.rev).max()
    };
    let ended = newest(&|e| e.verb == Verb::End && about(e) && e.except != Some(s.session));
    let stale = newest(&|e| strange(e) || (e.verb == Verb::Stale && about(e)));
    match (ended, stale) {
        (Some(rev), _) => Verdict::Ended { rev },
        (None, Some(rev)) => Verdict::Stale { rev },
        (None, None) => Verdict::Live,
    }
}

#[test]
fn as_the_naive_model_says() {
    let mut seen = [0u32; 4];
    for seed in 0..3000 {
        let c = &mut Chance::new(seed);
        let revs = 1 + c.below(30);
        let (mut set, mut entries, mut floor) = (RevokedSet::default(), Vec::new(), Time::ZERO);
        for rev in 1..=revs {
            let entry = entry(c, rev, (rev * 10) as i64);
            set.apply(&entry, Mono(0));
            entries.push(entry);
            if c.one_in(8) {
                floor = Time((rev * 10 - c.below(rev * 10)) as i64).max(floor);
                set.forget(floor);
            }
        }
        // a copy by way of a snapshot must judge alike, dead keys that were forgotten aside
        let mut copy = RevokedSet::default();
        set.live_entries().iter().for_each(|e| copy.apply(e, Mono(0)));
        assert_eq!(copy.live_entries(), set.live_entries(), "seed {seed}");
        assert_eq!(copy.len(), set.len());
        for _ in 0..12 {
            let mut s = subject(c, revs);
            let got = set.verdict(&s, Mono(0));
            let want = naive(&entries, floor, &s);
            let same_refusal = core::mem::discriminant(&got) == core::mem::discriminant(&want);
            assert!(same_refusal, "seed {seed}: {got:?} instead of {want:?} for {s:?}\n{entries:#?}");
            if matches!(want, Verdict::Ended { .. }) {
                assert_eq!(got, want, "seed {seed}");
            }
            seen[match got {
                Verdict::Live => 0,
                Verdict::Ended { .. } => 1,
                Verdict::Stale { .. } => 2,
                Verdict::KeyDead => 3,
            }] += 1;
            s.key = None;
            assert_eq!(copy.verdict(&s, Mono(0)), set.verdict(&s, Mono(0)), "seed {seed}");
        }
    }
    assert!(seen.iter().all(|n| *n > 300), "every verdict must come up: {seen:?}");
}

fn token(session: u64, account: u64, rev: u64) -> Subject {
    let mut s = subject(&mut Chance::new(1), 1);
    (s.session, s.account, s.rev) = (ses(session), acc(account), Rev(rev));
    (s.actors, s.via, s.from, s.key, s.grant) = (Vec::new(), Vec::new(), Vec::new(), None, None);
    s
}

#[test]
fn a_reader_keeps_what_it_holds() {
    let mut set = RevokedSet::default();
    set.apply(&end(1, Target::Session(ses(1))), Mono(0));
    let held = set.clone();
    set.apply(&end(2, Target::Session(ses(2))), Mono(0));
    set.forget(Time(2_000_000));
    assert_eq!(held.verdict(&token(1, 1, 0), Mono(0)), Verdict::Ended { rev: Rev(1) });
    assert_eq!(held.verdict(&token(2, 1, 0), Mono(0)), Verdict::Live);
    assert!(set.is_empty());
}

#[test]
fn entry_at_the_tokens_own_rev_does_not_match() {
    let mut set = RevokedSet::default();
    set.apply(&end(7, Target::Account(acc(1))), Mono(0));
    assert_eq!(set.verdict(&token(1, 1, 6), Mono(0)), Verdict::Ended { rev: Rev(7) });
    assert_eq!(set.verdict(&token(1, 1, 7), Mono(0)), Verdict::Live);
}

#[test]
fn too_many_at_one_account_become_stale() {
    let mut set = RevokedSet::default();
    let many = PER_TARGET_LIMIT as u64 + 1;
    for n in 1..=many {
        let mut e = end(n, Target::Account(acc(1)));
        e.except = Some(ses(100 + n));
        set.apply(&e, Mono(0));
    }
    assert_eq!(set.len(), 1);
    // nobody who was refused is accepted, and the newest entry's spared session only has to refresh
    assert_eq!(set.verdict(&token(1, 1, many - 1), Mono(0)), Verdict::Stale { rev: Rev(many) });
    assert_eq!(set.verdict(&token(1, 1, many), Mono(0)), Verdict::Live);
    assert_eq!(set.verdict(&token(1, 2, 0), Mono(0)), Verdict::Live);
}

#[test]
fn a_full_set_refuses_rather_than_forgets() {
    let mut set = RevokedSet::with_limit(100);
    for n in 1..=150 {
        set.apply(&end(n, Target::Session(ses(n))), Mono(0));
    }
    assert_eq!(set.overflowed(), 50);
    assert!(set.len() <= 101);
    for n in 1..=150 {
        assert_ne!(set.verdict(&token(n, 1, n - 1), Mono(0)), Verdict::Live);
    }
    assert_eq!(set.verdict(&token(999, 1, 149), Mono(0)), Verdict::Stale { rev: Rev(150) });
    assert_eq!(set.verdict(&token(999, 1, 150), Mono(0)), Verdict::Live);
}

#[test]
fn dead_keys_stay_dead() {
    let mut set = RevokedSet::default();
    let dead = |n: u32| Entry { verb: Verb::Key, ..end(u64::from(n) + 1, Target::Key(KeyId(n))) };
    set.apply(&dead(3), Mono(0));
    set.forget(Time(i64::MAX));
    assert!(set.live_entries().is_empty());
    assert!(set.key_is_dead(KeyId(3)) && !set.key_is_dead(KeyId(2)));
    let again = set.emptied();
    let mut s = token(1, 1, u64::MAX);
    s.key = Some(KeyId(3));
    assert_eq!(again.verdict(&s, Mono(0)), Verdict::KeyDead);
    for n in 10..10 + DEAD_KEYS_LIMIT as u32 {
        set.apply(&dead(n), Mono(0));
    }
    assert!(set.key_is_dead(KeyId(3)) && set.key_is_dead(KeyId(2)) && !set.key_is_dead(KeyId(9)));
}

#[test]
fn spread_takes_each_session_at_its_own_time_and_never_delays_an_older_one() {
    let spread = |rev, ms| Entry { verb: Verb::Stale, spread_ms: Some(ms), ..end(rev, Target::All) };
    let mut set = RevokedSet::default();
    set.apply(&spread(1, 1000), Mono(5000));
    let stale_at = |set: &RevokedSet, at| {
        let many =
            (0..1000u64).map(|n| Subject { session: SessionId::from_bits(u128::from(n) << 70), ..token(0, 1, 0) });
        many.filter(|s| set.verdict(s, Mono(at)) != Verdict::Live).count()
    };
    assert!(stale_at(&set, 5000) < 20);
    assert!((350..650).contains(&stale_at(&set, 5500)));
    assert_eq!(stale_at(&set, 6000), 1000);
    let mut after = set.clone();
    after.apply(&spread(2, 1000), Mono(7000));
    assert_eq!(stale_at(&after, 7000), 1000, "what the older one refused stays refused");
    // the newer one alone still spreads
    let young = Subject { rev: Rev(1), ..token(1, 1, 0) };
    assert_eq!(after.verdict(&young, Mono(8000)), Verdict::Stale { rev: Rev(2) });
    // an `end` is never spread
    let mut set = RevokedSet::default();
    set.apply(&Entry { spread_ms: Some(1000), ..end(1, Target::All) }, Mono(0));
    assert_eq!(set.verdict(&token(1, 1, 0), Mono(0)), Verdict::Ended { rev: Rev(1) });
}

#[test]
fn a_spread_change_of_roles_takes_nothing_back_that_stands_for_ends() {
    // Many ends of one account have become one `stale` of it; then its roles change, spread over an hour.
    let of = |rev, spread_ms| Entry { verb: Verb::Stale, spread_ms, ..end(rev, Target::Account(acc(1))) };
    let sessions = || (0..600u64).map(|n| SessionId::from_bits(u128::from(n) << 70));
    let refused = |set: &RevokedSet, rev, at| {
        let tokens = sessions().map(|session| Subject { session, ..token(0, 1, rev) });
        tokens.filter(|s| set.verdict(s, Mono(at)) != Verdict::Live).count()
    };
    let mut set = RevokedSet::default();
    set.apply(&of(5, None), Mono(0));
    set.apply(&of(9, Some(3_600_000)), Mono(1000));
    assert_eq!(refused(&set, 4, 1000), 600, "made before the ends: refused at once, whatever came later");
    // Made between the two: refused bit by bit, each tenth of the time about a tenth of them, and all in the end.
    let mut before = refused(&set, 7, 1000);
    assert!(before < 12, "{before} at once");
    for tenth in 1..=10 {
        let now = refused(&set, 7, 1000 + tenth * 360_000);
        assert!((30..=90).contains(&(now - before)), "{} in the {tenth}. tenth", now - before);
        before = now;
    }
    assert_eq!(before, 600);
    assert_eq!(refused(&set, 9, i64::MAX / 2), 0, "made after it");
}

#[test]
fn what_is_not_understood_makes_everything_stale() {
    let other = Target::Other { scope: "tenant".into(), id: "x".into() };
    for strange in [
        end(1, other),
        Entry { verb: Verb::Other("melt".into()), ..end(1, Target::Session(ses(1))) },
        Entry { verb: Verb::Key, ..end(1, Target::All) },
        end(1, Target::Key(KeyId(1))),
    ] {
        let mut set = RevokedSet::default();
        set.apply(&strange, Mono(0));
        assert_eq!(set.verdict(&token(5, 5, 0), Mono(0)), Verdict::Stale { rev: Rev(1) });
        assert_eq!(set.not_understood(), 1);
    }
}
