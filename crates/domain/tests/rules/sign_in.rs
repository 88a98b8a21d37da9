//! Signing in, and what every token says.
use crate::world::{START, Seeded, account, key, rules, stamp};
use portcullis_domain::Refused;
use portcullis_domain::model::{Block, SessionKind, Status};
use portcullis_domain::sign_in::{SignIn, sign_in};
use portcullis_domain::view::SignInView;
use portcullis_domain::{Cut, Expect};
use portcullis_wire::Time;

fn request() -> SignIn {
    SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None }
}

fn view(status: Status) -> SignInView {
    let mut account = account();
    account.status = status;
    SignInView { stamp: stamp(START), account: Some(account), unused: false, client_cut: Cut::default() }
}

fn blocked(until: Option<Time>) -> Status {
    Status::Blocked(Block { reason: "spam".into(), actor: "operator".into(), at: START, until })
}

#[test]
fn blocked_is_said_only_after_the_right_password() {
    let decide = |view: &SignInView, right| {
        let decision = sign_in(view, right, &request(), &rules(), &key(), &mut Seeded(1));
        (decision.outcome.map(|_| ()), decision.changes.is_empty())
    };
    let invalid = (Err(Refused::InvalidCredentials), true);
    let refused = |until| Err(Refused::AccountBlocked { reason: "spam".into(), until });
    assert_eq!(decide(&view(blocked(None)), true), (refused(None), true));
    assert_eq!(decide(&view(blocked(None)), false), invalid);
    assert_eq!(decide(&view(blocked(Some(START.plus(1)))), true).0, refused(Some(START.plus(1))));
    // A block whose end has passed is none.
    assert_eq!(decide(&view(blocked(Some(START))), true).0, Ok(()));
    assert_eq!(decide(&view(Status::Active), false), invalid);
    let unknown = SignInView { account: None, ..view(Status::Active) };
    assert_eq!(decide(&unknown, true), invalid);
    let mut without = view(Status::Active);
    without.account.as_mut().unwrap().password_hash = None;
    assert_eq!(decide(&without, true), invalid);
}

#[test]
fn every_token_is_stamped_and_bounded() {
    for seed in 0..5000 {
        let mut chance = Seeded(seed);
        let mut view = view(Status::Active);
        let horizon = 1000 + chance.below(600_000) as i64;
        view.stamp.horizon = START.plus(horizon);
        let decision = sign_in(&view, true, &request(), &rules(), &key(), &mut chance);
        let issued = decision.outcome.unwrap();
        let claims = &issued.claims;
        assert_eq!((claims.rev, claims.epoch, claims.sid), (view.stamp.head, view.stamp.epoch, issued.session.id));
        assert!(claims.expires_at() <= view.stamp.horizon && claims.expires_at() <= START.plus(rules().max_life()));
        assert_eq!(issued.session.born, view.stamp.head);
        let born = Expect::Unborn { account: claims.sub, client: claims.client_id, born: view.stamp.head, under: None };
        assert!(decision.changes.expects.contains(&born));
    }
}

#[test]
fn lives_are_spread_by_a_fifth() {
    let mut view = view(Status::Active);
    view.stamp.horizon = START.plus(10_000_000);
    let lives: Vec<i64> = (0..2000)
        .map(|seed| {
            let decision = sign_in(&view, true, &request(), &rules(), &key(), &mut Seeded(seed));
            let claims = decision.outcome.unwrap().claims;
            claims.exp - claims.iat
        })
        .collect();
    let (least, most) = (*lives.iter().min().unwrap(), *lives.iter().max().unwrap());
    assert!((239..=245).contains(&least) && (355..=360).contains(&most), "{least} to {most}");
}
