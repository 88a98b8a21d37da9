//! What is true about a token at one moment.
use crate::support::{NOW, NOW_S, Signer, WALL, claims, end, expect, known, view};
use portcullis_feed::Knowledge;
use portcullis_feed::knowledge::Proven;
use portcullis_verify::{
    AheadRecord, Authentic, Decision, Expect, Holder, Policy, Reason, Verdict, View, judge, judge_claims,
};
use portcullis_wire::claims::Actor;
use portcullis_wire::{
    AccessClaims, AccountId, ClientId, Code, Entry, Epoch, GrantId, KeyId, Rev, SessionId, Target, Time, TokenId, Verb,
};

fn of(known: &Knowledge, claims: &AccessClaims, policy: Policy) -> Verdict {
    let token = Authentic::insecure_without_signature(claims.clone(), Some(KeyId(1)));
    judge_claims(&View::new(known.clone()), &token, &Holder::Bearer, &expect(), policy, NOW, WALL)
}
fn closed(known: &Knowledge, claims: &AccessClaims) -> Decision {
    of(known, claims, Policy::Closed).decision
}
fn changed(change: impl FnOnce(&mut AccessClaims)) -> AccessClaims {
    let mut claims = claims();
    change(&mut claims);
    claims
}

#[test]
fn claims_that_are_not_for_us() {
    let k = known(&[], &[]);
    assert_eq!(closed(&k, &claims()), Decision::Accept);
    for (claims, why) in [
        (changed(|c| c.iss = "https://id.example/".into()), Reason::Issuer),
        (changed(|c| c.aud.0 = vec!["apix".into()]), Reason::Audience),
        (changed(|c| c.aud.0 = vec![]), Reason::Audience),
        (changed(|c| c.exp = NOW_S), Reason::Expired),
        (changed(|c| c.exp = i64::MIN), Reason::Expired),
        (changed(|c| c.exp = NOW_S + 3601), Reason::TooLong),
        (changed(|c| (c.iat, c.exp) = (NOW_S + 9000, NOW_S + 9300)), Reason::TooLong),
        (changed(|c| (c.iat, c.exp) = (i64::MAX - 1, i64::MAX)), Reason::TooLong),
        (changed(|c| (c.iat, c.exp) = (i64::MIN, NOW_S + 300)), Reason::TooLong),
        (changed(|c| c.epoch = Epoch(0)), Reason::OlderEpoch),
    ] {
        assert_eq!(closed(&k, &claims), Decision::Refuse(why), "{claims:?}");
    }
    assert_eq!(closed(&k, &changed(|c| c.exp = NOW_S + 1)), Decision::Accept);
}

#[test]
fn a_wall_clock_that_trails_is_no_proof_of_forgery() {
    let mut k = known(&[], &[]);
    (k.time, k.floor, k.lease) = (None, None, None);
    let token = Authentic::insecure_without_signature(claims(), Some(KeyId(1)));
    let trailing = Time(WALL.0 - 2 * 3_600_000);
    let verdict = judge_claims(&View::new(k), &token, &Holder::Bearer, &expect(), Policy::Closed, NOW, trailing);
    assert_eq!(verdict.decision, Decision::Refuse(Reason::NotFresh));
    // nor is a time that was told before the lease was lost: the database's clock may have been set forward since
    let later = changed(|c| (c.iat, c.exp) = (NOW_S + 9000, NOW_S + 9300));
    let mut k = known(&[], &[]);
    assert_eq!(closed(&k, &later), Decision::Refuse(Reason::TooLong));
    k.lease = None;
    assert_eq!(closed(&k, &later), Decision::Refuse(Reason::NotFresh));
}

#[test]
fn every_scope_of_an_end_and_only_what_it_matches() {
    for target in [
        Target::Token(TokenId::from_bits(2)),
        Target::Session(SessionId::from_bits(3)),
        Target::Grant(GrantId::from_bits(4)),
        Target::Account(AccountId::from_bits(1)),
        Target::Client(ClientId::FIRST_PARTY),
        Target::All,
    ] {
        let k = known(&[], &[end(11, target.clone())]);
        assert_eq!(closed(&k, &claims()), Decision::Refuse(Reason::Ended { rev: Rev(11) }), "{target:?}");
        assert_eq!(closed(&k, &changed(|c| c.rev = Rev(11))), Decision::Accept);
        let other = changed(|c| {
            (c.sub, c.jti, c.sid) = (AccountId::from_bits(91), TokenId::from_bits(92), SessionId::from_bits(93));
            (c.gid, c.client_id) = (None, ClientId::from_bits(94));
        });
        let spared = closed(&k, &other) == Decision::Accept;
        assert_eq!(spared, target != Target::All);
        // whoever acts for an account that is ended, or is one
        let acting = changed(|c| {
            c.sub = AccountId::from_bits(50);
            let deeper = Actor { sub: AccountId::from_bits(1), act: None };
            c.act = Some(Box::new(Actor { sub: AccountId::from_bits(51), act: Some(Box::new(deeper)) }));
        });
        assert!(matches!(closed(&k, &acting), Decision::Refuse(Reason::Ended { .. })));
    }
    let stale = Entry { verb: Verb::Stale, ..end(11, Target::All) };
    let refused = closed(&known(&[], &[stale]), &claims());
    assert_eq!(refused, Decision::Refuse(Reason::Stale { rev: Rev(11) }));
    let except = Entry { except: Some(SessionId::from_bits(3)), ..end(11, Target::Account(AccountId::from_bits(1))) };
    assert_eq!(closed(&known(&[], &[except]), &claims()), Decision::Accept);
}

#[test]
fn dead_keys_are_dead_in_every_epoch() {
    let entry = Entry { verb: Verb::Key, ..end(5, Target::Key(KeyId(1))) };
    let mut k = known(&[], &[entry]);
    k.set.forget(Time(i64::MAX));
    let newer = changed(|c| (c.rev, c.epoch) = (Rev(900), Epoch(2)));
    assert_eq!(closed(&k, &newer), Decision::Refuse(Reason::KeyDead));
    assert_eq!(Reason::KeyDead.code(), Code::TokenRevoked);
    // and when it is listed no more
    let signer = Signer::new(1);
    let decision =
        judge(&View::new(k), &signer.sign(&claims()), &Holder::Bearer, &expect(), Policy::Open, NOW, WALL).0.decision;
    assert_eq!(decision, Decision::Refuse(Reason::KeyDead));
}

#[test]
fn without_a_lease_the_policy_decides() {
    let mut k = known(&[], &[end(11, Target::Session(SessionId::from_bits(9)))]);
    let late = NOW.plus(5000);
    let at = |k: &Knowledge, claims: &AccessClaims, policy, now, wall| {
        let token = Authentic::insecure_without_signature(claims.clone(), None);
        judge_claims(&View::new(k.clone()), &token, &Holder::Bearer, &expect(), policy, now, wall)
    };
    for (policy, want) in [
        (Policy::Closed, Decision::Refuse(Reason::NotFresh)),
        (Policy::Introspect, Decision::Introspect),
        (Policy::Open, Decision::AcceptUnproven),
    ] {
        assert_eq!(at(&k, &claims(), policy, late.minus(1), WALL).decision, Decision::Accept);
        let v = at(&k, &claims(), policy, late, WALL.plus(5000));
        assert_eq!((v.decision, v.catch_up), (want, true));
        // suspended without the monotonic clock noticing
        assert_eq!(at(&k, &claims(), policy, NOW.plus(10), WALL.plus(61)).decision, want);
        assert_eq!(at(&k, &claims(), policy, NOW.plus(10), WALL.plus(60)).decision, Decision::Accept);
        // what is known to be dead is dead whatever the policy
        let ended = changed(|c| c.sid = SessionId::from_bits(9));
        assert_eq!(at(&k, &ended, policy, late, WALL).decision, Decision::Refuse(Reason::Ended { rev: Rev(11) }));
        let gone = changed(|c| c.exp = NOW_S + 4);
        assert_eq!(at(&k, &gone, policy, late, WALL).decision, Decision::Refuse(Reason::Expired));
    }
    // a newer epoch is nothing that can be judged, nor is anything before the first snapshot
    let newer = changed(|c| c.epoch = Epoch(2));
    assert_eq!(closed(&k, &newer), Decision::Refuse(Reason::NotFresh));
    k.synced = false;
    for (policy, want) in [
        (Policy::Closed, Decision::Refuse(Reason::NotFresh)),
        (Policy::Introspect, Decision::Introspect),
        (Policy::Open, Decision::Refuse(Reason::NotFresh)),
    ] {
        assert_eq!(of(&k, &claims(), policy).decision, want);
    }
}

#[test]
fn a_skewed_wall_clock_changes_nothing_once_the_time_was_told() {
    let k = known(&[], &[]);
    let token = Authentic::insecure_without_signature(claims(), None);
    let dead = Authentic::insecure_without_signature(changed(|c| c.exp = NOW_S), None);
    let view = View::new(k);
    // set back by a year: what is dead stays dead
    let back = WALL.minus(365 * 86_400_000);
    assert_eq!(
        judge_claims(&view, &token, &Holder::Bearer, &expect(), Policy::Closed, NOW, back).decision,
        Decision::Accept
    );
    assert_eq!(
        judge_claims(&view, &dead, &Holder::Bearer, &expect(), Policy::Closed, NOW, back).decision,
        Decision::Refuse(Reason::Expired)
    );
    // F moves on with the monotonic clock even when no time was told, and then the wall clock counts
    let mut k = known(&[], &[]);
    k.time = None;
    let view = View::new(k);
    let past = NOW.plus(310_000);
    let v = judge_claims(&view, &token, &Holder::Bearer, &expect(), Policy::Open, past, back).decision;
    assert_eq!(v, Decision::Refuse(Reason::Expired));
}

#[test]
fn a_key_that_is_not_known_is_no_forgery_while_lagging() {
    let (signer, strange) = (Signer::new(1), Signer::new(2));
    let view = view(&[&signer], &[]);
    let token = strange.sign(&claims());
    let at = |policy, now| judge(&view, &token, &Holder::Bearer, &expect(), policy, now, WALL).0.decision;
    assert_eq!(at(Policy::Closed, NOW), Decision::Refuse(Reason::UnknownKey));
    assert_eq!(at(Policy::Closed, NOW.plus(9000)), Decision::Refuse(Reason::NotFresh));
    assert_eq!(at(Policy::Open, NOW.plus(9000)), Decision::Refuse(Reason::NotFresh));
    assert_eq!(at(Policy::Introspect, NOW.plus(9000)), Decision::Introspect);
}

#[test]
fn a_rev_ahead_is_judged_at_once_and_refused_when_the_log_never_gets_there() {
    let mut k = known(&[], &[]);
    let token = changed(|c| c.rev = Rev(15));
    let v = of(&k, &token, Policy::Closed);
    assert_eq!((v.decision, v.catch_up, v.ahead), (Decision::Accept, true, Some(Rev(15))));
    let mut record = AheadRecord::default();
    assert_eq!(record.check(Rev(15), &k, NOW), Ok(()));
    // a read that began before it arrived proves nothing
    k.proven = Some(Proven { head: Rev(12), began: NOW });
    assert_eq!(record.check(Rev(15), &k, NOW.plus(50)), Ok(()));
    k.proven = Some(Proven { head: Rev(12), began: NOW.plus(1) });
    assert_eq!(record.check(Rev(15), &k, NOW.plus(50)), Err(Reason::AheadOfLog { rev: Rev(15) }));
    assert_eq!(record.check(Rev(16), &k, NOW.plus(50)), Ok(()), "this one came later");
    k.applied = Rev(15);
    assert_eq!(record.check(Rev(15), &k, NOW.plus(60)), Ok(()));
    // bounded: more of them than can be watched are not accepted
    let full = (0..portcullis_verify::AHEAD_LIMIT as u64 + 5).map(|n| record.check(Rev(100 + n), &k, NOW));
    assert_eq!(full.filter(|r| *r == Err(Reason::NotFresh)).count(), 6);
}

#[test]
fn the_whole_way_with_a_signature() {
    let signer = Signer::new(1);
    let view = view(&[&signer], &[end(11, Target::Account(AccountId::from_bits(7)))]);
    let (verdict, token) = judge(&view, &signer.sign(&claims()), &Holder::Bearer, &expect(), Policy::Closed, NOW, WALL);
    assert_eq!((verdict.decision, token.unwrap().claims()), (Decision::Accept, &claims()));
    let ended = changed(|c| c.sub = AccountId::from_bits(7));
    let (verdict, token) = judge(&view, &signer.sign(&ended), &Holder::Bearer, &expect(), Policy::Closed, NOW, WALL);
    assert_eq!(verdict.decision, Decision::Refuse(Reason::Ended { rev: Rev(11) }));
    assert!(token.is_some());
    let other = Expect { audience: "other".into(), ..expect() };
    let (verdict, _) = judge(&view, &signer.sign(&claims()), &Holder::Bearer, &other, Policy::Open, NOW, WALL);
    assert_eq!(verdict.decision, Decision::Refuse(Reason::Audience));
    let next = view.next(Knowledge { applied: Rev(99), ..view.known.clone() });
    assert!(std::sync::Arc::ptr_eq(&next.keys, &view.keys), "keys are parsed once");
}
