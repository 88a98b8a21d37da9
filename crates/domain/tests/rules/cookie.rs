//! The page cookie over many proofs, lost answers and second tabs: the honest browser is never signed out, and whoever holds an
//! old cookie gains nothing by a proof.
use crate::world::{START, Seeded, account, key, rules, stamp, view};
use portcullis_domain::model::{Session, SessionKind};
use portcullis_domain::page_cookie::{Shown, next_secret, settle, shown};
use portcullis_domain::sign_in::{Proving, prove_again};
use portcullis_domain::view::SignInView;
use portcullis_domain::{Change, Cut, Expect};
use portcullis_wire::{Digest, Time};

fn session(secret: &[u8; 32]) -> Session {
    Session { kind: SessionKind::Browser, cookie: Some(Digest::of(secret)), ..view(START).session }
}

fn write(row: &mut Session, step: Change) {
    match step {
        Change::SetCookie { session, before, cookie, old } => {
            assert_eq!((session, Some(before)), (row.id, row.cookie), "what it expects");
            (row.cookie, row.old_cookie) = (Some(cookie), old);
        }
        Change::SetAuthTime { session, at, .. } => {
            assert_eq!(session, row.id);
            row.auth_time = at;
        }
        other => panic!("{other:?}"),
    }
}

/// A proof by who shows the cookie with this secret; the secret that they get.
fn prove(row: &mut Session, secret: &[u8; 32], now: Time) -> [u8; 32] {
    let next = next_secret(&key(), row.id, secret);
    let proving = Proving { session: row.clone(), shown: Digest::of(secret), next: Digest::of(&next), ip: None };
    let seen = SignInView { stamp: stamp(now), account: Some(account()), unused: false, client_cut: Cut::default() };
    let decision = prove_again(&seen, true, &proving, &rules(), &mut Seeded(1));
    decision.outcome.unwrap();
    assert!(decision.changes.expects.contains(&Expect::Alive { session: row.id, role: None }));
    decision.changes.steps.into_iter().for_each(|step| write(row, step));
    next
}

/// A page: whether the cookie is taken, and since when its user has proved who they are.
fn page(row: &mut Session, secret: &[u8; 32], now: Time) -> Option<Time> {
    match shown(row, Digest::of(secret), now)? {
        Shown::Old(proof) => Some(proof.at),
        Shown::Current => {
            settle(row, now, &rules()).into_iter().for_each(|step| write(row, step));
            Some(row.auth_time)
        }
    }
}

#[test]
fn a_proof_is_the_new_cookies_alone() {
    let (first, now) = ([1; 32], START.plus(60_000));
    let mut row = session(&first);
    let second = prove(&mut row, &first, now);
    assert_ne!(second, first);
    // The answer may be lost: the old one still opens the session, as it was before the proof. Again and again the same successor.
    assert_eq!(page(&mut row, &first, now.plus(3_600_000)), Some(START));
    assert_eq!(prove(&mut row, &first, now.plus(3_600_000)), second);
    assert_eq!(page(&mut row, &first, now.plus(3_600_001)), Some(START), "two proofs raise nothing for it either");
    // Once the new one was shown, the old one has a moment for what is on its way, and no more.
    let then = now.plus(3_700_000);
    assert_eq!(page(&mut row, &second, then), Some(now.plus(3_600_000)));
    assert!(settle(&row, then.plus(1), &rules()).is_none(), "written once");
    assert_eq!(page(&mut row, &first, then.plus(rules().retry_window - 1)), Some(START));
    assert_eq!(page(&mut row, &first, then.plus(rules().retry_window)), None);
    assert!(page(&mut row, &second, then.plus(86_400_000)).is_some());
    // One that was never shown does not keep the old one for ever.
    let mut row = session(&first);
    prove(&mut row, &first, now);
    assert_eq!(page(&mut row, &first, now.plus(rules().late_retry)), None);
}

#[test]
fn nothing_else_opens_a_page() {
    let mut row = session(&[1; 32]);
    assert_eq!(page(&mut row, &[2; 32], START), None);
    for kind in [SessionKind::App, SessionKind::ApiKey, SessionKind::Connected, SessionKind::Service] {
        let mut other = Session { kind, ..row.clone() };
        assert_eq!(page(&mut other, &[1; 32], START), None, "{kind:?}");
    }
    let other = portcullis_domain::family::MacKey::new(key().id, &portcullis_wire::SecretBytes::new([8u8; 32]));
    assert_ne!(
        next_secret(&key(), row.id, &[1; 32]),
        next_secret(&other, row.id, &[1; 32]),
        "nobody without the key derives it"
    );
    let next = next_secret(&key(), row.id, &[1; 32]);
    assert_ne!(next[..16], next[16..]);
}

/// A browser that proves now and then, loses answers, and has tabs that asked a moment before.
#[test]
fn an_honest_browser_is_never_signed_out() {
    let mut rotated = 0;
    for seed in 0..2000 {
        let mut chance = Seeded(seed);
        let (mut secret, mut now) = ([3; 32], START);
        let mut row = session(&secret);
        for _ in 0..30 {
            now = now.plus([10, 3_000, 60_000, 3_600_000][chance.below(4) as usize]);
            let before = secret;
            if chance.below(3) == 0 {
                let next = prove(&mut row, &secret, now);
                if chance.below(3) > 0 {
                    rotated += u32::from(next != secret);
                    secret = next; // otherwise the answer was lost
                }
            }
            assert!(page(&mut row, &secret, now).is_some(), "seed {seed}");
            // What another tab had sent before that arrives now.
            assert!(page(&mut row, &before, now.plus(rules().retry_window / 2)).is_some(), "seed {seed}");
        }
    }
    assert!(rotated > 1000, "{rotated}");
}
