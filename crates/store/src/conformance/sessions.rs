//! Sessions, grants and their families.
use super::{Backend, START, World, end, grant, session, wait};
use crate::CommitError;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Conflict};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Ended, Grant, Session, SessionKind};
use portcullis_wire::{AccountId, ClientId, Digest, Epoch, GrantId, KeyId, Rev, SessionId, Target, Time};

pub(super) fn a_session_comes_back_as_it_was(backend: &dyn Backend) {
    let (w, ada, plain, family) = World::peopled(backend);
    assert_eq!(w.session(plain.id), plain);
    assert_eq!(w.grant(family.id), family);
    let id = |n| SessionId::from_bits(n);
    let rows = [
        Session {
            kind: SessionKind::Browser,
            device_name: "Télé — 日本\u{1f600}".into(),
            agent: "".into(),
            ip: Some("203.0.113.7".parse().unwrap()),
            auth_time: START.minus(5),
            amr: Amr::elsewhere(&["hwk".into(), "mfa".into()]),
            last_seen_at: START.plus(3),
            born: Rev(8),
            epoch: Epoch(4),
            cookie: Some(Digest::of(b"cookie")),
            ..session(id(1), ada.id, START, Rev::ZERO)
        },
        Session {
            ip: Some("2001:db8::7:8".parse().unwrap()),
            ended: Some(Ended { rev: Rev(3), reason: "x".into(), at: START }),
            amr: Amr::unknown(),
            ..session(id(u128::MAX), ada.id, START, Rev::ZERO)
        },
    ];
    for row in rows {
        w.ok([Change::InsertSession(row.clone())]);
        let view = wait(w.store.load_session(row.id)).unwrap().unwrap();
        assert_eq!((&view.session, view.account.id, view.refreshed_at), (&row, ada.id, None));
        assert_eq!(view.session.cookie.map(|c| c.0), row.cookie.map(|c| c.0));
        assert_eq!(w.conflict([Change::InsertSession(row.clone())]), Conflict::Moved);
        let renamed = Change::RenameSession { session: row.id, device_name: "mine".into() };
        w.ok([renamed]);
        assert_eq!(w.session(row.id), Session { device_name: "mine".into(), ..row });
    }
    let view = wait(w.store.load_refresh(family.id)).unwrap().unwrap();
    assert_eq!((view.session, view.account, view.client_disabled), (plain.clone(), ada, false));
    assert_eq!(wait(w.store.load_session(plain.id)).unwrap().unwrap().refreshed_at, Some(START));
}

pub(super) fn what_is_above_a_session_or_grant_must_exist(backend: &dyn Backend) {
    let (w, _, ses, gra) = World::peopled(backend);
    let orphan = session(SessionId::from_bits(1), AccountId::from_bits(1), START, Rev::ZERO);
    assert_eq!(w.conflict([Change::InsertSession(orphan)]), Conflict::Missing);
    assert!(wait(w.store.load_session(SessionId::from_bits(1))).unwrap().is_none());
    let no_session = grant(GrantId::from_bits(1), SessionId::from_bits(9), START, Rev::ZERO);
    assert_eq!(w.conflict([Change::InsertGrant(no_session)]), Conflict::Missing);
    let no_client = Grant { client: ClientId::from_bits(9), ..grant(GrantId::from_bits(1), ses.id, START, Rev::ZERO) };
    assert_eq!(w.conflict([Change::InsertGrant(no_client)]), Conflict::Missing);
    assert!(wait(w.store.load_refresh(GrantId::from_bits(1))).unwrap().is_none());
    assert_eq!(w.conflict([Change::InsertGrant(gra)]), Conflict::Moved);
    let nobody = SessionId::from_bits(1);
    let rename = Change::RenameSession { session: nobody, device_name: "x".into() };
    assert_eq!(w.conflict([rename]), Conflict::Missing);
    // What is above may come in the same commit.
    let eve = super::account(AccountId::from_bits(2), "eve@example.org");
    let (s, g) = (session(SessionId::from_bits(2), eve.id, START, Rev::ZERO), GrantId::from_bits(2));
    let g = grant(g, s.id, START, Rev::ZERO);
    w.ok([Change::InsertAccount(eve), Change::InsertSession(s), Change::InsertGrant(g.clone())]);
    assert_eq!(w.grant(g.id), g);
}

pub(super) fn last_seen_only_grows(backend: &dyn Backend) {
    let (w, ada, one, _) = World::peopled(backend);
    let (two, _) = w.new_session(&ada);
    let unknown = (SessionId::from_bits(9), START.plus(50));
    w.ok([Change::Seen(vec![(one.id, START.plus(50)), unknown, (two.id, START.minus(50)), (one.id, START.plus(20))])]);
    assert_eq!(w.session(one.id).last_seen_at, START.plus(50));
    assert_eq!(w.session(two.id).last_seen_at, START);
    w.ok([Change::Seen(vec![])]);
}

pub(super) fn the_list_of_an_accounts_sessions(backend: &dyn Backend) {
    let (w, ada, first, _) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    w.new_session(&eve);
    let mut made = vec![first.id];
    for n in 1..6 {
        w.set(START.plus(n / 2)); // some at the same moment
        made.push(w.new_session(&ada).0.id);
    }
    w.end(Target::Session(made[2]));
    let expected: Vec<_> = [5, 4, 3, 1, 0].map(|at| made[at]).into();
    let listed = |limit| wait(w.store.list_sessions(ada.id, limit)).unwrap();
    // Newest first; at the same moment, the greater id.
    assert_eq!(listed(10).iter().map(|v| v.session.id).collect::<Vec<_>>(), expected);
    assert_eq!(listed(2).iter().map(|v| v.session.id).collect::<Vec<_>>(), expected[..2]);
    assert!(listed(0).is_empty());
    for view in listed(10) {
        let single = wait(w.store.load_session(view.session.id)).unwrap().unwrap();
        assert_eq!((&view.session, &view.account, view.stamp), (&single.session, &single.account, single.stamp));
        assert_eq!(view.refreshed_at, single.refreshed_at);
    }
    // What is dead hides nothing that lives: not what a cut killed, not what is past its end, not what an older epoch made.
    w.end(Target::Account(ada.id));
    assert!(listed(10).is_empty());
    let (spared, _) = w.new_session(&ada);
    let old = Session { epoch: Epoch(0), ..session(SessionId::from_bits(2), ada.id, w.now().plus(5), Rev(9)) };
    let over = Session { absolute_expires_at: w.now(), ..session(SessionId::from_bits(3), ada.id, w.now(), Rev(9)) };
    w.ok([Change::InsertSession(old), Change::InsertSession(over)]);
    assert_eq!(listed(1).iter().map(|v| v.session.id).collect::<Vec<_>>(), [spared.id]);
    w.ok([end(Target::All, Some(spared.id))]);
    assert_eq!(listed(10).len(), 1);
}

fn set(grant: GrantId, counter: u64, predecessor: Option<u64>, family: &Family) -> Change {
    Change::SetFamily { grant, counter, predecessor, family: family.clone() }
}

pub(super) fn a_family_moves_only_from_where_it_was_seen(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let (_, other) = w.new_session(&ada);
    let next = Family {
        secret: [9; 32],
        key: KeyId(2),
        epoch: Epoch(2),
        counter: 2,
        made_at: START.plus(10),
        handed_at: START.plus(11),
        handouts: 3,
        predecessor: Some(1),
    };
    for (counter, predecessor) in [(2, None), (1, Some(1)), (0, None)] {
        assert_eq!(w.conflict([set(gra.id, counter, predecessor, &next)]), Conflict::Moved);
    }
    assert_eq!(w.grant(gra.id), gra);
    w.ok([set(gra.id, 1, None, &next)]);
    assert_eq!(w.grant(gra.id), Grant { family: next.clone(), ..gra.clone() });
    assert_eq!(w.grant(other.id), other);
    assert_eq!(w.conflict([set(gra.id, 1, None, &next)]), Conflict::Moved, "not twice");
    assert_eq!(w.conflict([set(gra.id, 2, None, &next)]), Conflict::Moved);
    let third = Family { counter: 3, ..next.clone() };
    w.ok([set(gra.id, 2, Some(1), &third)]);
    assert_eq!(w.conflict([set(GrantId::from_bits(1), 1, None, &next)]), Conflict::Missing);
    // The latest use is that of the grant used last, whichever of its two times is later.
    let view = || wait(w.store.load_session(ses.id)).unwrap().unwrap();
    assert_eq!(view().refreshed_at, Some(START.plus(11)));
    w.ok([set(gra.id, 3, Some(1), &Family { made_at: START.plus(90), ..third })]);
    assert_eq!(view().refreshed_at, Some(START.plus(90)));
    let second = grant(GrantId::from_bits(w.bits()), ses.id, START.plus(95), Rev::ZERO);
    w.ok([Change::InsertGrant(second)]);
    assert_eq!((view().refreshed_at, view().used_at()), (Some(START.plus(95)), START.plus(95)));
}

pub(super) fn a_hand_out_counts_and_never_goes_back(backend: &dyn Backend) {
    let (w, _, _, gra) = World::peopled(backend);
    let hand_out = |grant, counter, at| Change::HandOut { grant, counter, at };
    w.ok([hand_out(gra.id, 1, START.plus(50))]);
    w.ok([hand_out(gra.id, 1, START.plus(20))]);
    let family = w.grant(gra.id).family;
    assert_eq!((family.handed_at, family.handouts), (START.plus(50), 2));
    assert_eq!(family, Family { handed_at: START.plus(50), handouts: 2, ..gra.family });
    assert_eq!(w.conflict([hand_out(gra.id, 2, START)]), Conflict::Moved);
    assert_eq!(w.conflict([hand_out(GrantId::from_bits(1), 1, START)]), Conflict::Missing);
}

pub(super) fn extreme_values_are_kept_or_refused(backend: &dyn Backend) {
    let (w, ada, _, gra) = World::peopled(backend);
    let biggest = i64::MAX as u64;
    let far = Family {
        counter: biggest,
        predecessor: Some(biggest - 1),
        made_at: Time(i64::MAX),
        handed_at: Time(i64::MIN),
        handouts: u32::MAX - 1,
        key: KeyId(u32::MAX),
        epoch: Epoch(u32::MAX),
        ..gra.family.clone()
    };
    w.ok([set(gra.id, 1, None, &far)]);
    assert_eq!(w.grant(gra.id).family, far);
    let row = Session {
        device_name: "a\0b'\"%_\n".repeat(10_000),
        last_seen_at: Time(i64::MAX),
        absolute_expires_at: Time(i64::MAX),
        born: Rev(biggest),
        ..session(SessionId::from_bits(0), ada.id, START, Rev::ZERO)
    };
    w.ok([Change::InsertSession(row.clone())]);
    assert_eq!(w.session(row.id), row);
    // Beyond that a backend may keep it or refuse it, but neither change it nor break.
    let beyond = Family { counter: u64::MAX, ..far.clone() };
    let step = set(gra.id, biggest, Some(biggest - 1), &beyond);
    match w.commit(Changes { steps: vec![step], ..Changes::default() }) {
        Ok(_) => assert_eq!(w.grant(gra.id).family, beyond),
        Err(CommitError::Failed(_)) => assert_eq!(w.grant(gra.id).family, far),
        Err(other) => panic!("{other}"),
    }
    w.ok([end(Target::Session(row.id), None)]);
}
