//! What must still be true at the commit: each reason why it is not.
use super::{Backend, START, World, account, conflict, end, grant, session, wait};
use portcullis_domain::Cut;
use portcullis_domain::changes::{Change, Changes, Conflict, Expect};
use portcullis_domain::model::{Account, Block, ClientKind, Session, Status};
use portcullis_wire::{AccountId, ClientId, Epoch, GrantId, Rev, SessionId, Target, Time};

fn block(until: Option<Time>) -> Status {
    Status::Blocked(Block { reason: "r".into(), actor: "system".into(), at: START, until })
}

pub(super) fn who_acts_is_alive(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let holds = |session, role| w.expects(Expect::Alive { session, role }, None);
    let not = |session| Err(Conflict::NotAlive(session));
    assert_eq!(holds(ses.id, None), Ok(()));
    assert_eq!((holds(ses.id, Some("admin")), holds(ses.id, Some("ops"))), (Ok(()), Ok(())));
    assert_eq!(holds(ses.id, Some("adm")), not(ses.id));
    let unknown = SessionId::from_bits(1);
    assert_eq!(holds(unknown, None), not(unknown));

    // Ended by itself; the grant's end is not the session's.
    let (ended, _) = w.new_session(&ada);
    w.end(Target::Session(ended.id));
    assert_eq!(holds(ended.id, None), not(ended.id));
    w.end(Target::Grant(gra.id));
    assert_eq!(holds(ses.id, None), Ok(()));

    // Of another generation.
    let old = Session { epoch: Epoch(0), ..session(SessionId::from_bits(2), ada.id, START, Rev(9)) };
    w.ok([Change::InsertSession(old.clone())]);
    assert_eq!(holds(old.id, None), not(old.id));

    // At its absolute end, to the millisecond.
    w.set(Time(ses.absolute_expires_at.0 - 1));
    assert_eq!(holds(ses.id, None), Ok(()));
    w.set(ses.absolute_expires_at);
    assert_eq!(holds(ses.id, None), not(ses.id));
    w.set(START);

    // Blocked, and unblocked again: a block by itself ends nothing.
    w.ok([Change::SetStatus { account: ada.id, status: block(None) }]);
    assert_eq!(holds(ses.id, None), not(ses.id));
    w.ok([Change::SetStatus { account: ada.id, status: Status::Active }]);
    assert_eq!(holds(ses.id, None), Ok(()));

    // Cut above, by the account or by everything; the spared one lives on.
    let (other, _) = w.new_session(&ada);
    w.ok([end(Target::Account(ada.id), Some(ses.id))]);
    assert_eq!((holds(ses.id, None), holds(other.id, None)), (Ok(()), not(other.id)));
    let (later, _) = w.new_session(&ada);
    assert_eq!(holds(later.id, None), Ok(()), "born at the cut, not below it");
    w.ok([end(Target::All, Some(later.id))]);
    assert_eq!((holds(ses.id, None), holds(later.id, None)), (not(ses.id), Ok(())));

    w.ok([Change::SetStatus { account: ada.id, status: Status::Deleted { at: START, rev: Rev(1) } }]);
    assert_eq!(holds(later.id, None), not(later.id));
}

pub(super) fn a_block_that_has_passed_is_none(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    w.ok([Change::SetStatus { account: ada.id, status: block(Some(START.plus(50))) }]);
    let unborn = || Expect::Unborn { account: ada.id, client: ClientId::FIRST_PARTY, born: Rev::ZERO, under: None };
    for (at, alive) in [(0, false), (49, false), (50, true), (51, true)] {
        w.set(START.plus(at));
        assert_eq!((w.alive(ses.id), w.expects(unborn(), None).is_ok()), (alive, alive), "{at}");
    }
}

pub(super) fn idle_counts_from_the_latest_use(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let bare = session(SessionId::from_bits(1), ada.id, START, Rev::ZERO); // without a grant
    w.ok([Change::InsertSession(bare.clone())]);
    let alive = |session, at: i64| {
        w.set(START.plus(at));
        w.expects(Expect::Alive { session, role: None }, Some(100)).is_ok()
    };
    for id in [ses.id, bare.id] {
        assert!(alive(id, 99) && !alive(id, 100) && !alive(id, 5000));
        assert!(w.alive(id), "not looked at without a limit");
        w.ok([Change::Seen(vec![(id, START.plus(30))])]);
        assert!(alive(id, 129) && !alive(id, 130));
    }
    w.ok([Change::HandOut { grant: gra.id, counter: 1, at: START.plus(40) }]);
    assert!(alive(ses.id, 139) && !alive(ses.id, 140));
    let made = grant(GrantId::from_bits(1), ses.id, START.plus(60), Rev::ZERO);
    w.ok([Change::InsertGrant(made)]);
    assert!(alive(ses.id, 159) && !alive(ses.id, 160) && !alive(bare.id, 130));
}

pub(super) fn nothing_is_born_dead(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let client = w.new_client(ClientKind::Public);
    let holds =
        |account, client, born| w.expects(Expect::Unborn { account, client, born: Rev(born), under: None }, None);
    let born = |rev| holds(ada.id, client.id, rev);
    assert_eq!(born(0), Ok(()));
    assert_eq!(holds(AccountId::from_bits(1), client.id, 0), Err(Conflict::BornDead));
    assert_eq!(holds(ada.id, ClientId::from_bits(1), 0), Err(Conflict::BornDead));
    // Each cut, at its rev and below; the spared session helps nothing that is not born yet.
    w.ok([end(Target::Account(ada.id), Some(ses.id))]);
    assert_eq!((born(0), born(1)), (Err(Conflict::BornDead), Ok(())));
    w.end(Target::Client(client.id));
    assert_eq!((born(1), born(2)), (Err(Conflict::BornDead), Ok(())));
    assert_eq!(holds(ada.id, ClientId::FIRST_PARTY, 1), Ok(()), "another client's cut");
    w.ok([end(Target::All, Some(ses.id))]);
    assert_eq!((born(2), born(3)), (Err(Conflict::BornDead), Ok(())));
    w.ok([Change::SetClientDisabled { client: client.id, disabled: true }]);
    assert_eq!(born(3), Err(Conflict::BornDead));
    w.ok([Change::SetClientDisabled { client: client.id, disabled: false }]);
    assert_eq!(born(3), Ok(()));
    w.ok([Change::SetStatus { account: ada.id, status: block(None) }]);
    assert_eq!(born(3), Err(Conflict::BornDead));
    w.ok([Change::SetStatus { account: ada.id, status: Status::Deleted { at: START, rev: Rev(1) } }]);
    assert_eq!(born(3), Err(Conflict::BornDead));
}

/// Of what is no session's: an end that spares one leaves it, and revives nothing that an end of everything has killed.
pub(super) fn who_is_no_session_dies_by_the_whole(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let (other, _) = w.new_session(&ada);
    let unended = |born| w.expects(Expect::Unended { account: ada.id, born: Rev(born) }, None);
    let view = |w: &World<'_>| wait(w.store.load_account(ada.id)).unwrap().unwrap().all_ended;
    let dead = Err(Conflict::BornDead);
    assert_eq!((unended(0), view(&w)), (Ok(()), Rev::ZERO));
    for spared in [ses.id, other.id, ses.id] {
        w.ok([end(Target::Account(ada.id), Some(spared))]);
        assert_eq!((unended(0), view(&w)), (Ok(()), Rev::ZERO));
    }
    w.ok([end(Target::Account(ada.id), None)]);
    assert_eq!((unended(3), unended(4), view(&w)), (dead, Ok(()), Rev(4)));
    let (later, _) = w.new_session(&ada);
    for _ in 0..3 {
        w.ok([end(Target::Account(ada.id), Some(later.id))]);
        assert_eq!((unended(3), unended(4), view(&w)), (dead, Ok(()), Rev(4)));
    }
    // Everybody's end, whomever it spares; and an account that may not be used, or is not there.
    w.ok([end(Target::All, Some(later.id))]);
    assert_eq!((unended(7), unended(8), view(&w)), (dead, Ok(()), Rev(4)));
    w.ok([Change::SetStatus { account: ada.id, status: block(None) }]);
    assert_eq!(unended(8), dead);
    assert_eq!(w.expects(Expect::Unended { account: AccountId::from_bits(1), born: Rev(8) }, None), dead);
    // Where it is not known, the last one counts.
    let cut = Cut { rev: Rev(5), except: Some(ses.id) };
    let eve = Account { cut, ..account(AccountId::from_bits(w.bits()), "eve@example.org") };
    w.ok([Change::InsertAccount(eve.clone())]);
    let of_eve = |w: &World<'_>| wait(w.store.load_account(eve.id)).unwrap().unwrap().all_ended;
    assert_eq!(of_eve(&w), Rev(5));
    let Some(w) = w.reopen() else { return };
    assert_eq!((view(&w), of_eve(&w)), (Rev(4), Rev(5)));
}

pub(super) fn versions_and_families_as_seen(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let moved = Err(Conflict::Moved);
    w.ok([Change::SetPassword { account: ada.id, hash: "x".into(), rehash: true }]);
    let version = |version| w.expects(Expect::AccountVersion { account: ada.id, version }, None);
    assert_eq!((version(1), version(2), version(3)), (moved, Ok(()), moved));
    let password = |version| w.expects(Expect::PasswordVersion { account: ada.id, version }, None);
    assert_eq!((password(1), password(2)), (Ok(()), moved));
    let family = |grant, counter, predecessor| w.expects(Expect::Family { grant, counter, predecessor }, None);
    assert_eq!((family(gra.id, 1, None), family(gra.id, 2, None), family(gra.id, 1, Some(0))), (Ok(()), moved, moved));
    assert_eq!(family(GrantId::from_bits(1), 1, None), Err(Conflict::Missing));
    let handouts = |grant, handouts| w.expects(Expect::Handouts { grant, handouts }, None);
    assert_eq!((handouts(gra.id, 0), handouts(gra.id, 1)), (Ok(()), moved));
    w.ok([Change::HandOut { grant: gra.id, counter: 1, at: START }]);
    assert_eq!((handouts(gra.id, 0), handouts(gra.id, 1)), (moved, Ok(())));
    assert_eq!(handouts(GrantId::from_bits(1), 0), Err(Conflict::Missing));
    let living = |grant| w.expects(Expect::GrantNotEnded(grant), None);
    assert_eq!((living(gra.id), living(GrantId::from_bits(1))), (Ok(()), Err(Conflict::Missing)));
    let not_ended = |session| w.expects(Expect::SessionNotEnded(session), None);
    assert_eq!(not_ended(ses.id), Ok(()));
    w.end(Target::Account(ada.id));
    assert_eq!(not_ended(ses.id), Ok(()), "cut, but not ended by itself");
    assert_eq!(living(gra.id), Ok(()));
    w.end(Target::Session(ses.id));
    assert_eq!((not_ended(ses.id), living(gra.id)), (moved, Ok(())), "its session's end is not its own");
    w.end(Target::Grant(gra.id));
    assert_eq!(living(gra.id), moved);
    assert_eq!(not_ended(SessionId::from_bits(1)), Err(Conflict::Missing));
}

pub(super) fn the_first_failed_expectation_is_told(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let taken = Expect::EmailFree("ada@example.org".into());
    let missing = Expect::SessionNotEnded(SessionId::from_bits(1));
    let holds = Expect::AccountVersion { account: ada.id, version: 1 };
    let twin = Change::InsertAccount(Account { cut: Cut::default(), ..account(ada.id, "x@example.org") });
    for (expects, first) in [
        (vec![holds.clone(), taken.clone(), missing.clone()], Conflict::EmailTaken),
        (vec![missing, taken], Conflict::Missing),
        (vec![holds], Conflict::Moved), // the step's
    ] {
        let changes = Changes { expects, steps: vec![twin.clone()], ..Changes::default() };
        assert_eq!(conflict(w.commit(changes)), first);
    }
}
