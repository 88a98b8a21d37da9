//! Accounts: as they were made, and every change of them.
use super::{Backend, HORIZON, LOG, START, World, account, conflict, end, wait};
use crate::{EventFilter, LiveCount};
use portcullis_domain::Cut;
use portcullis_domain::changes::{Change, Changes, Conflict, Expect};
use portcullis_domain::model::{Account, Block, ClientKind, Session, SessionKind, Status};
use portcullis_domain::view::Stamp;
use portcullis_wire::{AccountId, Chain, ClientId, Epoch, GrantId, Rev, SessionId, Target, Time};

pub(super) fn a_new_database_is_empty_but_for_the_first_party(backend: &dyn Backend) {
    let w = World::new(backend);
    let stamp = Stamp {
        log: LOG,
        epoch: Epoch(1),
        head: Rev::ZERO,
        chain: Chain::genesis(LOG),
        horizon: Time::ZERO,
        floor: Time::ZERO,
        all: Cut::default(),
        worked_off: Rev::ZERO,
        now: START,
    };
    assert_eq!(wait(w.store.stamp()).unwrap(), stamp);
    assert_eq!(w.store.now(), START);
    let first = wait(w.store.load_client(ClientId::FIRST_PARTY)).unwrap().unwrap();
    assert_eq!(first.stamp, stamp);
    let client = first.client;
    assert_eq!((client.name.as_str(), client.kind, client.secret), ("Portcullis", ClientKind::Public, None));
    assert_eq!((client.disabled, client.created_at, client.cut), (false, START, Cut::default()));
    assert_eq!(wait(w.store.list_clients(None, 10)).unwrap().rows.len(), 1);
    assert!(wait(w.store.list_accounts(None, None, 10)).unwrap().rows.is_empty());
    assert!(wait(w.store.list_instances()).unwrap().is_empty());
    assert!(wait(w.store.list_keys()).unwrap().is_empty());
    assert!(wait(w.store.load_bound()).unwrap().is_none());
    assert!(wait(w.store.list_events(&EventFilter::default(), None, 10)).unwrap().rows.is_empty());
    assert_eq!(wait(w.store.count_live()).unwrap(), LiveCount::default());
    let view = wait(w.store.load_sign_in("nobody@example.org", ClientId::FIRST_PARTY)).unwrap();
    assert!(view.account.is_none() && view.stamp == stamp && view.client_cut == Cut::default());
    assert!(wait(w.store.load_account(AccountId::from_bits(1))).unwrap().is_none());
    assert!(wait(w.store.load_session(SessionId::from_bits(1))).unwrap().is_none());
    assert!(wait(w.store.load_refresh(GrantId::from_bits(1))).unwrap().is_none());
    assert!(wait(w.store.load_client(ClientId::from_bits(1))).unwrap().is_none());
    assert!(wait(w.store.load_revocation(Rev(1))).unwrap().is_none());
    assert!(wait(w.store.load_remembered("system", "k")).unwrap().is_none());
    assert!(wait(w.store.list_sessions(AccountId::from_bits(1), 10)).unwrap().is_empty());
    let log = wait(w.store.read_log(Rev::ZERO, 10)).unwrap();
    assert!(log.complete && log.entries.is_empty() && log.stamp == stamp);
    assert_eq!(wait(w.store.read_live()).unwrap(), (stamp, Vec::new()));
    assert_eq!(w.expects(Expect::NoAccounts, None), Ok(()));
}

pub(super) fn whether_somebody_has_signed_in_is_kept(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let view = |w: &World<'_>, email: &str| wait(w.store.load_sign_in(email, ClientId::FIRST_PARTY)).unwrap();
    let unused = |w: &World<'_>| view(w, "ada@example.org").unused;
    let set = |unused| Change::SetUnused { account: ada.id, unused };
    assert!(!unused(&w), "nobody knows");
    w.ok([set(true)]);
    w.ok([set(true), Change::RenameSession { session: ses.id, device_name: "x".into() }]);
    assert!(unused(&w) && !view(&w, "eve@example.org").unused);
    assert_eq!(w.account(ada.id), ada, "no version is raised by it");
    w.ok([set(false)]);
    assert!(!unused(&w));
    assert_eq!(w.conflict([Change::SetUnused { account: AccountId::from_bits(1), unused: true }]), Conflict::Missing);
    w.ok([set(true)]);
    // Every session takes it away, whichever way somebody came by it, also in the commit that has made the account.
    let session = |n: u128| Session { id: SessionId::from_bits(900 + n), cookie: None, ..ses.clone() };
    let kinds =
        [SessionKind::Browser, SessionKind::App, SessionKind::Connected, SessionKind::Service, SessionKind::ApiKey];
    for (kind, n) in kinds.into_iter().zip(0..) {
        w.ok([set(true)]);
        w.ok([Change::InsertSession(Session { kind, ..session(n) })]);
        assert!(!unused(&w), "{kind:?}");
    }
    w.ok([set(true), Change::InsertSession(session(50))]);
    assert!(!unused(&w));
    w.ok([set(true)]);
    assert_eq!(w.conflict([Change::InsertSession(session(50))]), Conflict::Moved);
    assert!(unused(&w), "none was inserted");
    let Some(w) = w.reopen() else { return };
    assert!(unused(&w));
}

pub(super) fn an_account_comes_back_as_it_was(backend: &dyn Backend) {
    let w = World::new(backend);
    let statuses = [
        Status::Active,
        Status::Blocked(Block { reason: "spam — \"x\"".into(), actor: "operator".into(), at: START, until: None }),
        Status::Blocked(Block { reason: "".into(), actor: "system".into(), at: START, until: Some(HORIZON) }),
        Status::Deleted { at: START, rev: Rev(9) },
    ];
    for (n, status) in statuses.into_iter().enumerate() {
        let full = Account {
            status,
            password_version: 3,
            email_verified_at: Some(START),
            version: 9,
            created_at: Time(-5),
            cut: Cut { rev: Rev(4), except: Some(SessionId::from_bits(u128::MAX)) },
            ..account(AccountId::from_bits(w.bits()), &format!("ada{n}@example.org"))
        };
        let bare = Account {
            email: None,
            name: None,
            password_hash: None,
            roles: Vec::new(),
            ..account(AccountId::from_bits(w.bits()), "")
        };
        for row in [full, bare] {
            w.ok([Change::InsertAccount(row.clone())]);
            assert_eq!(w.account(row.id), row);
            if let Some(email) = &row.email {
                let view = wait(w.store.load_sign_in(email, ClientId::FIRST_PARTY)).unwrap();
                assert_eq!(view.account, Some(row));
            }
        }
    }
    // An address is looked up as it is: the rules have normalised it.
    assert!(wait(w.store.load_sign_in("ADA0@example.org", ClientId::FIRST_PARTY)).unwrap().account.is_none());
    assert!(wait(w.store.load_sign_in("", ClientId::FIRST_PARTY)).unwrap().account.is_none());
}

pub(super) fn every_change_of_an_account_raises_its_version(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    let mut expected = ada.clone();
    let mut step = |change: Change, edit: &dyn Fn(&mut Account)| {
        w.ok([change]);
        edit(&mut expected);
        expected.version += 1;
        assert_eq!(w.account(ada.id), expected);
    };
    let (name, roles) = (Some("Ada L.".to_owned()), vec!["a".to_owned()]);
    step(Change::SetProfile { account: ada.id, name: name.clone(), roles: roles.clone() }, &|a| {
        (a.name, a.roles) = (name.clone(), roles.clone());
    });
    step(Change::SetProfile { account: ada.id, name: None, roles: vec![] }, &|a| {
        (a.name, a.roles) = (None, vec![]);
    });
    for (email, at) in [("ada@example.org", Some(START)), ("ada@example.net", None), ("ada@example.com", Some(HORIZON))]
    {
        let change = Change::SetEmail { account: ada.id, email: Some(email.into()), verified_at: at };
        step(change, &|a| (a.email, a.email_verified_at) = (Some(email.into()), at));
        let view = wait(w.store.load_sign_in(email, ClientId::FIRST_PARTY)).unwrap();
        assert_eq!(view.account.map(|row| row.id), Some(ada.id));
    }
    // An address that goes is nobody's, and what comes back is as before.
    step(Change::SetEmail { account: ada.id, email: None, verified_at: None }, &|a| {
        (a.email, a.email_verified_at) = (None, None);
    });
    let gone = wait(w.store.load_sign_in("ada@example.com", ClientId::FIRST_PARTY)).unwrap();
    assert!(gone.account.is_none() && wait(w.store.load_sign_in("", ClientId::FIRST_PARTY)).unwrap().account.is_none());
    let back = Change::SetEmail { account: ada.id, email: Some("ada@example.com".into()), verified_at: Some(HORIZON) };
    step(back, &|a| (a.email, a.email_verified_at) = (Some("ada@example.com".into()), Some(HORIZON)));
    for (email, taken) in [("ada@example.org", false), ("eve@example.org", true)] {
        let view = wait(w.store.load_sign_in(email, ClientId::FIRST_PARTY)).unwrap();
        assert_eq!(view.account.is_some(), taken, "{email}");
    }
    step(Change::SetPassword { account: ada.id, hash: "new".into(), rehash: false }, &|a| {
        (a.password_hash, a.password_version) = (Some("new".into()), 2);
    });
    step(Change::SetPassword { account: ada.id, hash: "better".into(), rehash: true }, &|a| {
        a.password_hash = Some("better".into());
    });
    let block = Block { reason: "r".into(), actor: "system".into(), at: START, until: Some(HORIZON) };
    let blocked = Status::Blocked(block);
    step(Change::SetStatus { account: ada.id, status: blocked.clone() }, &|a| a.status = blocked.clone());
    step(Change::SetStatus { account: ada.id, status: Status::Active }, &|a| a.status = Status::Active);
    let raised = expected.version;
    w.end(Target::Account(ada.id));
    assert_eq!(w.account(ada.id).version, raised, "an end does not");
    assert_eq!(w.account(eve.id), eve, "and nobody else's");
}

pub(super) fn a_deleted_account_keeps_nothing_and_frees_its_address(backend: &dyn Backend) {
    for end_first in [true, false] {
        let (w, ada, session, _) = World::peopled(backend);
        w.end(Target::All);
        w.ok([Change::SetEmail { account: ada.id, email: Some("ada@example.org".into()), verified_at: Some(START) }]);
        w.set(START.plus(5));
        let status = Status::Deleted { at: START, rev: Rev::ZERO };
        let mut steps = vec![end(Target::Account(ada.id), None), Change::SetStatus { account: ada.id, status }];
        if !end_first {
            steps.reverse();
        }
        let done = w.commit(Changes { steps, ..Changes::default() }).unwrap();
        assert_eq!(done.rev, Some(Rev(2)));
        let row = w.account(ada.id);
        assert_eq!(row.status, Status::Deleted { at: START.plus(5), rev: Rev(2) });
        assert_eq!((row.email, row.name, row.password_hash, row.roles), (None, None, None, vec![]));
        assert_eq!(row.email_verified_at, None);
        assert_eq!((row.version, row.cut), (ada.version + 2, Cut { rev: Rev(2), except: None }));
        assert!(!w.alive(session.id));
        assert!(wait(w.store.load_sign_in("ada@example.org", ClientId::FIRST_PARTY)).unwrap().account.is_none());
        let again = w.new_account("ada@example.org");
        assert_ne!(again.id, ada.id);
        assert_eq!(w.conflict([Change::InsertAccount(account(ada.id, "x@example.org"))]), Conflict::Moved);
        assert_eq!(w.expects(Expect::NoAccounts, None), Err(Conflict::Moved));
    }
}

pub(super) fn one_account_per_address(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let twin = account(AccountId::from_bits(w.bits()), "ada@example.org");
    assert_eq!(w.conflict([Change::InsertAccount(twin.clone())]), Conflict::EmailTaken);
    assert!(wait(w.store.load_account(twin.id)).unwrap().is_none());
    assert_eq!(w.expects(Expect::EmailFree("ada@example.org".into()), None), Err(Conflict::EmailTaken));
    assert_eq!(w.expects(Expect::EmailFree("eve@example.org".into()), None), Ok(()));
    // An id that exists is another matter, also when the address is taken too.
    assert_eq!(w.conflict([Change::InsertAccount(account(ada.id, "eve@example.org"))]), Conflict::Moved);
    assert_eq!(w.conflict([Change::InsertAccount(account(ada.id, "ada@example.org"))]), Conflict::Moved);
    // Who changes their address takes nobody else's, and frees their own.
    let eve = w.new_account("eve@example.org");
    let to = |email: &str| Change::SetEmail { account: eve.id, email: Some(email.into()), verified_at: Some(START) };
    assert_eq!(w.conflict([to("ada@example.org")]), Conflict::EmailTaken);
    assert_eq!(w.account(eve.id), eve);
    w.ok([to("eva@example.org"), to("eva@example.org")]);
    assert_eq!(w.expects(Expect::EmailFree("eve@example.org".into()), None), Ok(()));
    assert_eq!(w.expects(Expect::EmailFree("eva@example.org".into()), None), Err(Conflict::EmailTaken));
    // In one commit it goes from one to the other, as their steps stand.
    let goes = Change::SetEmail { account: eve.id, email: None, verified_at: None };
    let comes = Change::SetEmail { account: ada.id, email: Some("eva@example.org".into()), verified_at: Some(START) };
    assert_eq!(w.conflict([comes.clone(), goes.clone()]), Conflict::EmailTaken);
    w.ok([goes, comes]);
    assert_eq!((w.account(eve.id).email, w.account(ada.id).email), (None, Some("eva@example.org".into())));
    // Two in one commit, too.
    let (one, two) = (AccountId::from_bits(w.bits()), AccountId::from_bits(w.bits()));
    let steps = [one, two].map(|id| Change::InsertAccount(account(id, "eve@example.org")));
    assert_eq!(w.conflict(steps), Conflict::EmailTaken);
    assert!(wait(w.store.load_account(one)).unwrap().is_none());
}

pub(super) fn an_account_that_is_not_there_is_missing(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    let nobody = AccountId::from_bits(5);
    for step in [
        Change::SetStatus { account: nobody, status: Status::Active },
        Change::SetStatus { account: nobody, status: Status::Deleted { at: START, rev: Rev(1) } },
        Change::SetProfile { account: nobody, name: None, roles: vec![] },
        Change::SetPassword { account: nobody, hash: "x".into(), rehash: false },
        Change::SetEmail { account: nobody, email: Some("x@example.org".into()), verified_at: None },
        end(Target::Account(nobody), None),
    ] {
        let what = format!("{step:?}");
        assert_eq!(w.conflict([step]), Conflict::Missing, "{what}");
    }
    for expect in [
        Expect::AccountVersion { account: nobody, version: 1 },
        Expect::PasswordVersion { account: nobody, version: 1 },
    ] {
        let changes = Changes { expects: vec![expect], ..Changes::default() };
        assert_eq!(conflict(w.commit(changes)), Conflict::Missing);
    }
    assert_eq!(wait(w.store.stamp()).unwrap().head, Rev::ZERO);
}
