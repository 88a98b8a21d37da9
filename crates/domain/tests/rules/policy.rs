//! The limit of sessions, what becomes due, and what may be forgotten.
use crate::world::{START, Seeded, account, key, rules, stamp, view};
use portcullis_domain::account::{self, Roles};
use portcullis_domain::changes::Counted;
use portcullis_domain::kernel::By;
use portcullis_domain::model::{Block, Ended, Session, SessionKind, Status};
use portcullis_domain::outbox::{Ending, Notice};
use portcullis_domain::retention::{Retention, Standing, address_may_go, may_go, must_wait};
use portcullis_domain::session_limit::{AtLimit, MAX_ENDED_AT_ONCE, SessionLimit, apply, to_end};
use portcullis_domain::sign_in::{SignIn, sign_in};
use portcullis_domain::view::{AccountView, SessionView, SignInView};
use portcullis_domain::{Change, Cut, EventKind, Expect, Refused};
use portcullis_wire::{Rev, SessionId, Time};

fn session(id: u128, dice: &mut Seeded) -> SessionView {
    let used = START.minus(dice.below(50) as i64);
    let row = Session {
        id: SessionId::from_bits(id),
        created_at: used.minus(dice.below(50) as i64),
        last_seen_at: used,
        ended: dice.below(5).eq(&0).then(|| Ended { rev: Rev(3), reason: "x".into(), at: START }),
        ..view(START).session
    };
    let refreshed_at = (dice.below(2) == 0).then(|| used.plus(dice.below(20) as i64));
    SessionView { stamp: stamp(START), session: row, account: account(), refreshed_at, standing: None }
}

#[test]
fn the_limit_ends_the_least_used_and_only_as_many_as_must() {
    let idle = rules().idle_ttl;
    for seed in 0..5000 {
        let mut dice = Seeded(seed);
        let all: Vec<SessionView> = (0..dice.below(60)).map(|n| session(u128::from(n), &mut dice)).collect();
        let most = 1 + dice.below(20) as u32;
        let ending = to_end(&all, idle, most);
        let (out, stay): (Vec<_>, Vec<_>) =
            all.iter().filter(|v| v.dead(idle).is_none()).partition(|v| ending.contains(&v.session.id));
        assert_eq!(out.len(), ending.len(), "only what lives is ended");
        assert!(stay.len() < most as usize);
        assert!(ending.is_empty() || stay.len() + 1 == most as usize, "no more end than must");
        let oldest_that_stays = stay.iter().map(|v| (v.used_at(), v.session.created_at)).min();
        assert!(out.iter().all(|v| oldest_that_stays.is_none_or(|o| (v.used_at(), v.session.created_at) <= o)));
    }
}

fn decided(live: &[SessionView], limit: SessionLimit, right: bool) -> portcullis_domain::Decision<Rev> {
    let view = SignInView { stamp: stamp(START), account: Some(account()), unused: false, client_cut: Cut::default() };
    let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
    let mut chance = Seeded(9);
    let decision = sign_in(&view, right, &request, &rules(), &key(), &mut chance);
    let decision = apply(decision, live, limit, rules().idle_ttl, &mut chance);
    portcullis_domain::Decision { outcome: decision.outcome.map(|issued| issued.claims.rev), changes: decision.changes }
}

#[test]
fn a_sign_in_at_the_limit() {
    let live = |n: u128| -> Vec<SessionView> {
        let one = |id| SessionView {
            session: Session {
                id: SessionId::from_bits(id),
                last_seen_at: START.minus(id as i64),
                ..view(START).session
            },
            stamp: stamp(START),
            account: account(),
            refreshed_at: None,
            standing: None,
        };
        (0..n).map(one).collect()
    };
    let ends = SessionLimit { most: 3, at_limit: AtLimit::EndOldest };
    let revokes = |changes: &portcullis_domain::Changes| {
        changes.steps.iter().filter(|step| matches!(step, Change::Revoke(_))).count()
    };
    let counted = |changes: &portcullis_domain::Changes| {
        changes.expects.iter().find_map(|expect| match expect {
            Expect::LiveSessions { besides, at_most, .. } => Some((besides.len(), *at_most)),
            _ => None,
        })
    };
    // Room: nothing ends, and the commit counts all the same.
    let done = decided(&live(2), ends, true);
    assert_eq!((revokes(&done.changes), counted(&done.changes)), (0, Some((0, 2))));
    // Full: the one not used for longest ends. The stamp is the view's, not the end's.
    let done = decided(&live(3), ends, true);
    assert_eq!((revokes(&done.changes), counted(&done.changes)), (1, Some((1, 2))));
    assert_eq!(done.outcome, Ok(stamp(START).head));
    assert!(done.changes.expects.contains(&Expect::SessionNotEnded(SessionId::from_bits(2))));
    assert_eq!(done.changes.events[0].reason.as_deref(), Some("session_limit"));
    // The limit was lowered: several end, but not without end, and what is left is not more than it was.
    let done = decided(&live(6), ends, true);
    assert_eq!((revokes(&done.changes), counted(&done.changes)), (4, Some((4, 2))));
    let done = decided(&live(100), ends, true);
    let most = MAX_ENDED_AT_ONCE;
    assert_eq!((revokes(&done.changes), counted(&done.changes)), (most, Some((most, 100 - most as u64))));
    // Refused, and said to who gave the right password only.
    let refuses = SessionLimit { most: 3, at_limit: AtLimit::Refuse };
    assert!(matches!(decided(&live(3), refuses, true).outcome, Err(Refused::Conflict { .. })));
    assert_eq!(decided(&live(3), refuses, false).outcome, Err(Refused::InvalidCredentials));
    assert!(decided(&live(3), refuses, true).changes.is_empty());
    assert!(decided(&live(2), refuses, true).outcome.is_ok());
}

/// The limit is about sign-ins: what an application, a key or a service has is not counted, and never makes room.
#[test]
fn the_limit_is_about_sign_ins() {
    let of = |id: u128, kind| SessionView {
        session: Session { id: SessionId::from_bits(id), kind, ..view(START).session },
        stamp: stamp(START),
        account: account(),
        refreshed_at: None,
        standing: None,
    };
    let others = [SessionKind::Connected, SessionKind::Service, SessionKind::ApiKey];
    let mut live: Vec<_> = (1..=9).map(|n| of(n, others[n as usize % 3])).collect();
    assert_eq!(to_end(&live, rules().idle_ttl, 1), []);
    let refuses = SessionLimit { most: 1, at_limit: AtLimit::Refuse };
    assert!(decided(&live, refuses, true).outcome.is_ok());
    live.extend([of(20, SessionKind::Browser), of(21, SessionKind::App)]);
    assert_eq!(to_end(&live, rules().idle_ttl, 1), [20, 21].map(SessionId::from_bits));
    assert_eq!(to_end(&live, rules().idle_ttl, 2).len(), 1);
    let ends = SessionLimit { most: 2, at_limit: AtLimit::EndOldest };
    let counts = decided(&live, ends, true).changes.expects.into_iter().find_map(|expect| match expect {
        Expect::LiveSessions { counted, at_most, .. } => Some((counted, at_most)),
        _ => None,
    });
    assert_eq!(counts, Some((Counted::SignIns, 1)));
}

fn in_state(status: Status, now: Time) -> AccountView {
    let mut row = account();
    row.status = status;
    AccountView { stamp: stamp(now), account: row, all_ended: Rev::ZERO }
}

#[test]
fn what_is_due_is_done_once_and_not_before() {
    let until = START.plus(1000);
    let block = Block { reason: "spam".into(), actor: "operator".into(), at: START, until: Some(until) };
    let blocked = Status::Blocked(block.clone());
    let deleting = Status::Deleting { at: START, until, rev: Rev(7) };
    let due = |status: &Status, now| account::due(&in_state(status.clone(), now), &mut Seeded(1)).changes;
    for status in [&blocked, &deleting] {
        assert!(due(status, until.minus(1)).is_empty());
        let changes = due(status, until);
        assert_eq!((changes.steps.len(), changes.events[0].actor.as_str()), (1, "system"));
    }
    assert!(matches!(&due(&blocked, until).steps[0], Change::SetStatus { status: Status::Active, .. }));
    let gone = Status::Deleted { at: until, rev: Rev(7) };
    assert!(matches!(&due(&deleting, until).steps[0], Change::SetStatus { status, .. } if *status == gone));
    for status in [Status::Active, gone, Status::Blocked(Block { until: None, ..block })] {
        assert!(due(&status, until.plus(1_000_000)).is_empty());
    }
}

#[test]
fn a_deletion_with_a_grace_period_ends_all_and_can_be_taken_back() {
    let by = By::SYSTEM;
    let active = in_state(Status::Active, START);
    let done = account::delete(&active, 5000, &by, &mut Seeded(1));
    assert!(matches!(&done.changes.steps[0], Change::Revoke(_)));
    let until = START.plus(5000);
    let deleting = Status::Deleting { at: START, until, rev: Rev::ZERO };
    assert!(matches!(&done.changes.steps[1], Change::SetStatus { status, .. } if *status == deleting));
    // Nothing can sign in, also when its time has passed and the chore has not come yet; said after the right password only.
    for now in [START, until, until.plus(1_000_000)] {
        let mut row = account();
        row.status = deleting.clone();
        assert!(!row.usable_at(now));
        let view = SignInView { stamp: stamp(now), account: Some(row), unused: false, client_cut: Cut::default() };
        let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
        let decide = |right| sign_in(&view, right, &request, &rules(), &key(), &mut Seeded(1)).outcome.map(|_| ());
        let Err(Refused::AccountBlocked { reason, .. }) = decide(true) else { panic!("let in") };
        assert!(reason.contains(&until.to_string()), "{reason}");
        assert_eq!(decide(false), Err(Refused::InvalidCredentials));
    }
    let view = in_state(Status::Deleting { at: START, until, rev: Rev(4) }, START.plus(1));
    assert_eq!(account::delete(&view, 5000, &by, &mut Seeded(1)).outcome, Ok(Some(Rev(4))));
    let back = account::unblock(&view, &by, &mut Seeded(1));
    assert!(matches!(&back.changes.steps[..], [Change::SetStatus { status: Status::Active, .. }]));
    assert_eq!(back.changes.events[0].kind, EventKind::AccountRestored);
    assert!(matches!(account::block(&view, "x", None, &by, &mut Seeded(1)).outcome, Err(Refused::Conflict { .. })));
    // Unblocking what is active changes nothing; what is gone is gone.
    assert!(account::unblock(&active, &by, &mut Seeded(1)).changes.is_empty());
    let gone = in_state(Status::Deleted { at: START, rev: Rev(4) }, START);
    assert_eq!(account::unblock(&gone, &by, &mut Seeded(1)).outcome, Err(Refused::NotFound));
}

#[test]
fn nothing_is_forgotten_while_it_can_be_asked_for() {
    let keep = Retention { ended: 5_000, addresses: 9_000, events: None, idle_ttl: 20_000 };
    let (mut went, mut stayed) = (0, 0);
    for seed in 0..20_000 {
        let mut dice = Seeded(seed);
        let mut row = view(START).session;
        row.last_seen_at = START.plus(dice.below(30_000) as i64);
        row.absolute_expires_at = START.plus(dice.below(60_000) as i64);
        row.ip = (dice.below(2) == 0).then(|| "192.0.2.1".parse().unwrap());
        let at = START.plus(dice.below(60_000) as i64);
        row.ended = (dice.below(2) == 0).then(|| Ended { rev: Rev(dice.below(9)), reason: "x".into(), at });
        let used_at = START.plus(dice.below(30_000) as i64);
        let grant_end = (dice.below(4) == 0).then(|| Rev(dice.below(9)));
        let now = START.plus(dice.below(120_000) as i64);
        let standing = Standing { forgotten: Rev(dice.below(9)), floor: now.minus(dice.below(30_000) as i64), now };
        let used = used_at.max(row.last_seen_at);
        let alive = row.ended.is_none() && now < row.absolute_expires_at && now < used.plus(keep.idle_ttl);
        if may_go(&row, used_at, grant_end, &standing, &keep) {
            went += 1;
            assert!(!alive, "seed {seed}: it lives");
            let ends = row.ended.iter().map(|ended| ended.rev).chain(grant_end);
            assert!(ends.max().is_none_or(|rev| rev <= standing.forgotten), "seed {seed}: the log knows of it");
            // Whatever ended it, that was long ago.
            let mut ends = vec![row.absolute_expires_at, used.plus(keep.idle_ttl)];
            ends.extend(row.ended.iter().map(|ended| ended.at));
            assert!(ends.iter().any(|end| *end < standing.floor && end.plus(keep.ended) <= now), "seed {seed}");
        } else {
            stayed += 1;
        }
        let old = now.since(row.created_at) >= keep.addresses;
        assert_eq!(address_may_go(&row, now, &keep), row.ip.is_some() && old);
    }
    assert!(went > 1000 && stayed > 1000, "{went} {stayed}");
}

#[test]
fn roles_are_altered_on_what_is_there() {
    let roles = |text: &[&str]| text.iter().map(|role| (*role).to_owned()).collect::<Vec<_>>();
    let mut view = in_state(Status::Active, START);
    view.account.roles = roles(&["editor", "ops"]);
    let alter = Roles::Alter { add: roles(&["beta", "ops"]), remove: roles(&["editor", "none"]) };
    let changes = account::change(&view, None, &alter, Some(60_000), &By::SYSTEM, &mut Seeded(1)).changes;
    let Change::Revoke(stale) = &changes.steps[0] else { panic!("no entry") };
    assert_eq!((stale.verb.name(), stale.spread_ms), ("stale", Some(60_000)));
    let Change::SetProfile { roles: now, .. } = &changes.steps[1] else { panic!("no profile") };
    assert_eq!(*now, roles(&["beta", "ops"]));
    // Who has what is wanted is left alone, and too long a spread is refused whoever it is for.
    let same = Roles::Alter { add: roles(&["ops"]), remove: vec![] };
    assert!(account::change(&view, None, &same, None, &By::SYSTEM, &mut Seeded(1)).changes.is_empty());
    let long = account::change(&view, None, &alter, Some(3_600_001), &By::SYSTEM, &mut Seeded(1));
    assert!(matches!(long.outcome, Err(Refused::InvalidValue { field: "spread_ms", .. })));
}

/// Whom to tell of an end is read of the session: nothing goes before that, and a clock that is set forward makes nothing due sooner.
#[test]
fn nothing_goes_while_somebody_is_still_to_be_told() {
    let what = Ending::Session(SessionId::from_bits(1));
    let notice = Notice { seq: 1, what, rev: Rev(1), before: Cut::default(), at: START, cursor: None };
    let waits = |ms| must_wait(Some(&notice), START.plus(ms));
    assert!(!waits(0) && !waits(1_000), "there is nearly always a young one");
    assert!(waits(1_001) && waits(30_000) && waits(400 * 86_400_000));
    assert!(!waits(-5_000) && !must_wait(None, START));
}
