//! Links: what a sign-in by one proves, how many there are, and how they go.
use crate::world::{START, Seeded, account, rules, stamp, view};
use portcullis_domain::amr::Amr;
use portcullis_domain::model::{Account, Session, SessionKind, UNPROVEN};
use portcullis_domain::sign_in::Proving;
use portcullis_domain::upstream::{self, Begun, CLOSED, Identity, Link, MAX_LINKS, SignedOut};
use portcullis_domain::view::AccountView;
use portcullis_domain::{Change, Expect, Refused};
use portcullis_wire::{Digest, Epoch, LinkId, Rev, SessionId, Time};

const BEGUN: Begun = Begun { born: Rev(10), epoch: Epoch(1), at: START };

fn link(n: u128) -> Link {
    Link {
        id: LinkId::from_bits(n),
        issuer: "https://idp.example".into(),
        subject: format!("sub-{n}"),
        account: account().id,
        upstream: "idp".into(),
        label: None,
        created_at: START,
        used_at: START,
        out_at: None,
    }
}

fn identity(auth_time: Option<Time>) -> Identity {
    Identity {
        upstream: "idp".into(),
        issuer: "https://idp.example".into(),
        subject: "sub-1".into(),
        sid: None,
        email: None,
        name: None,
        auth_time,
        amr: Amr::unknown(),
    }
}

fn own(password: bool) -> AccountView {
    let password_hash = password.then(|| "a hash".into());
    AccountView { stamp: stamp(START), account: Account { password_hash, ..account() }, all_ended: Rev::ZERO }
}

#[test]
fn what_is_asked_for_anew_counts_from_when_it_was_asked_for() {
    let late = START.minus(30_000);
    assert_eq!(BEGUN.proven(Some(late), true), Some(START));
    assert_eq!(BEGUN.proven(Some(late), false), Some(late), "a silent sign-in is as old as the provider says");
    assert_eq!(BEGUN.proven(Some(START.plus(7)), true), Some(START.plus(7)));
    assert_eq!(BEGUN.proven(None, true), None);
}

#[test]
fn without_a_word_of_when_nothing_is_proven() {
    let again = |auth_time| {
        let (shown, next) = (Digest::of(b"shown"), Digest::of(b"next"));
        let session = Session { kind: SessionKind::Browser, cookie: Some(shown), ..view(START).session };
        let (stamp, proving) = (stamp(START.plus(50)), Proving { session, shown, next, ip: None });
        upstream::prove_again(&stamp, &link(1), &proving, &identity(auth_time), BEGUN, &rules(), &mut Seeded(1))
    };
    assert!(matches!(again(None).outcome, Err(Refused::Conflict { .. })));
    assert!(again(None).changes.is_empty());
    let told = again(Some(START.plus(9)));
    assert!(matches!(told.changes.steps[2], Change::SetAuthTime { at, .. } if at == START.plus(9)));
    // A browser's session from there, of an account with a password, and of one that has nothing better.
    let silent = Session { kind: SessionKind::Browser, auth_time: UNPROVEN, ..view(START).session };
    assert_eq!(upstream::proven_at(&own(true).account, &silent), UNPROVEN);
    assert_eq!(upstream::proven_at(&own(false).account, &silent), START);
    let app = Session { kind: SessionKind::Connected, ..silent.clone() };
    assert_eq!(upstream::proven_at(&own(false).account, &app), UNPROVEN);
    let told = Session { auth_time: START.minus(5), ..silent };
    assert_eq!(upstream::proven_at(&own(false).account, &told), START.minus(5));
}

#[test]
fn links_are_counted_under_the_account() {
    let session = SessionId::from_bits(2);
    let add = |there: Option<&Link>, links: &[Link]| {
        upstream::add(&own(true), session, there, links, &identity(None), None, &mut Seeded(1))
    };
    let links: Vec<Link> = (2..).take(MAX_LINKS).map(link).collect();
    let added = add(None, &links[1..]);
    assert_eq!(added.outcome, Ok(()));
    let account = account().id;
    assert!(added.changes.expects.contains(&Expect::AccountVersion { account, version: 1 }));
    assert!(added.changes.steps.iter().any(|step| matches!(step, Change::SetProfile { .. })), "its version is raised");
    assert!(matches!(add(None, &links).outcome, Err(Refused::Conflict { .. })));
    assert!(add(Some(&link(1)), &links).changes.is_empty());
    let closed = Link { out_at: Some(CLOSED), ..link(1) };
    assert!(matches!(add(Some(&closed), &[]).outcome, Err(Refused::Conflict { .. })));
}

#[test]
fn a_closed_link_is_no_way_in() {
    let close = |password, links: &[Link], n| {
        let session = SessionId::from_bits(2);
        upstream::close(&own(password), session, links, LinkId::from_bits(n), None, &mut Seeded(1))
    };
    let closed = Link { out_at: Some(CLOSED), ..link(2) };
    let decision = close(false, &[link(1), link(2)], 1);
    assert!(decision.outcome.is_ok());
    let ends =
        |step: &Change| matches!(step, Change::SignOutLink { at, subject, .. } if *at == CLOSED && subject == "sub-1");
    assert!(decision.changes.steps.iter().any(ends));
    // The row is still there: what came by it has yet to end.
    assert!(!decision.changes.steps.iter().any(|step| matches!(step, Change::RemoveLink { .. })));
    assert!(matches!(close(false, &[link(1)], 1).outcome, Err(Refused::Conflict { .. })));
    assert!(matches!(close(false, &[link(1), closed.clone()], 1).outcome, Err(Refused::Conflict { .. })));
    assert!(close(true, &[link(1), closed.clone()], 1).outcome.is_ok());
    assert!(matches!(close(true, &[link(1)], 3).outcome, Err(Refused::NotFound)));
    // Once more: nothing new is decided, and it goes on.
    let again = close(false, &[link(1), closed.clone()], 2);
    assert!(again.outcome == Ok(closed) && again.changes.is_empty());
}

#[test]
fn a_logout_stops_what_began_before() {
    let out = SignedOut { at: START.0 };
    assert!(out.stops(BEGUN) && !out.stops(Begun { at: START.plus(1), ..BEGUN }));
    let ids = |subject, sid| SignedOut::ids("https://idp.example", subject, sid);
    assert_eq!(ids(Some("a"), Some("b")).len(), 2);
    // A session there is no person, and another issuer's is another one.
    assert_ne!(ids(Some("a"), None), ids(None, Some("a")));
    assert_ne!(ids(Some("a"), None), SignedOut::ids("https://other.example", Some("a"), None));
}
