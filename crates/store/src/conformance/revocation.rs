//! Taking access away: the row that is marked, the entry that is written, the exact count.
use super::{Backend, HORIZON, LOG, START, World, end, grant, revoke, session, wait};
use crate::LiveCount;
use portcullis_domain::Cut;
use portcullis_domain::changes::{Change, Changes, Conflict, Revoke};
use portcullis_domain::event::EventKind;
use portcullis_domain::kernel::MAX_ENDS_PER_ACCOUNT;
use portcullis_domain::model::{Account, Block, ClientKind, Ended, Grant, Key, KeyPurpose, Session, Status};
use portcullis_wire::{
    AccountId, Chain, ClientId, Entry, GrantId, KeyId, Rev, SecretBytes, SessionId, Target, Time, TokenId, Verb,
};

pub(super) fn an_end_marks_its_row(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let (other, other_grant) = w.new_session(&ada);
    let client = w.new_client(ClientKind::Confidential);
    w.set(START.plus(7));

    let done = w.end(Target::Session(ses.id));
    assert_eq!((done.rev, done.ended, done.at), (Some(Rev(1)), Some(1), START.plus(7)));
    let ended = Ended { rev: Rev(1), reason: "a door".into(), at: START.plus(7) };
    assert_eq!(w.session(ses.id), Session { ended: Some(ended), ..ses.clone() });
    assert_eq!((w.session(other.id), w.grant(gra.id), w.account(ada.id)), (other.clone(), gra.clone(), ada.clone()));

    let done = w.end(Target::Grant(gra.id));
    assert_eq!((done.rev, done.ended), (Some(Rev(2)), Some(0)));
    assert_eq!(w.grant(gra.id), Grant { ended: Some(Rev(2)), ..gra });
    assert_eq!(w.grant(other_grant.id), other_grant);

    let done = w.ok([end(Target::Client(client.id), Some(other.id))]);
    assert_eq!((done.rev, done.ended), (Some(Rev(3)), None));
    let cut = |n| Cut { rev: Rev(n), except: Some(other.id) };
    let row = |id| wait(w.store.load_client(id)).unwrap().unwrap().client;
    assert_eq!((row(client.id).cut, row(ClientId::FIRST_PARTY).cut), (cut(3), Cut::default()));
    w.ok([end(Target::Client(ClientId::FIRST_PARTY), Some(other.id))]);
    let view = wait(w.store.load_refresh(other_grant.id)).unwrap().unwrap();
    assert_eq!((view.client_cut, view.stamp.head), (cut(4), Rev(4)));
    assert_eq!(wait(w.store.load_sign_in("x", ClientId::FIRST_PARTY)).unwrap().client_cut, cut(4));

    let done = w.ok([end(Target::Account(ada.id), Some(other.id))]);
    assert_eq!((done.rev, done.ended), (Some(Rev(5)), Some(0)));
    assert_eq!(w.account(ada.id), Account { cut: cut(5), ..ada.clone() });
    let done = w.ok([end(Target::All, Some(other.id))]);
    assert_eq!((done.rev, done.ended), (Some(Rev(6)), None));
    assert_eq!(wait(w.store.stamp()).unwrap().all, cut(6));
    // A cut without an exception takes the exception of the one before away.
    w.end(Target::Account(ada.id));
    assert_eq!(w.account(ada.id).cut, Cut { rev: Rev(7), except: None });
}

pub(super) fn an_end_of_an_account_counts_exactly(backend: &dyn Backend) {
    let (w, ada, first, _) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    w.new_session(&eve);
    let sessions: Vec<Session> = (0..6).map(|_| w.new_session(&ada).0).collect();
    assert_eq!(wait(w.store.count_live()).unwrap(), LiveCount { sessions: 8, accounts: 2 });
    w.end(Target::Session(sessions[0].id));
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, 7);
    assert_eq!(w.ok([end(Target::Account(ada.id), Some(first.id))]).ended, Some(5));
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, 2);
    assert_eq!(w.ok([end(Target::Account(ada.id), Some(first.id))]).ended, Some(0), "those are dead already");
    w.new_session(&ada);
    assert_eq!(w.end(Target::Account(ada.id)).ended, Some(2));
    w.new_session(&ada);
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, 2);
    w.end(Target::All);
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, 0);
    assert_eq!(w.end(Target::Account(ada.id)).ended, Some(0));
}

pub(super) fn an_end_counts_only_what_lived(backend: &dyn Backend) {
    // Each with a session that one thing has killed already, and one that lives.
    type Kill = fn(&World<'_>, &Account, &Session) -> Option<Rev>;
    let kills: [(&str, Kill); 4] = [
        ("expired", |w, _, ses| {
            w.set(ses.absolute_expires_at);
            None
        }),
        ("ended", |w, _, ses| w.end(Target::Session(ses.id)).rev),
        ("cut", |w, ada, _| w.end(Target::Account(ada.id)).rev),
        ("everything cut", |w, _, _| w.end(Target::All).rev),
    ];
    for (name, kill) in kills {
        let (w, ada, ses, _) = World::peopled(backend);
        let rev = kill(&w, &ada, &ses);
        assert_eq!(rev.is_some(), name != "expired");
        let (live, _) = w.new_session(&ada);
        if name != "ended" {
            assert_eq!(w.end(Target::Session(ses.id)).ended, Some(0), "{name}");
        }
        assert_eq!(w.end(Target::Account(ada.id)).ended, Some(1), "{name}");
        assert_eq!(w.end(Target::Session(live.id)).ended, Some(0), "{name}");
    }
    // Idle, when asked for; the grant's use counts as the session's.
    let (w, ada, ses, gra) = World::peopled(backend);
    w.new_session(&ada);
    w.set(START.plus(60));
    w.ok([Change::HandOut { grant: gra.id, counter: 1, at: START.plus(60) }]);
    w.set(START.plus(100));
    let commit = |steps, idle_ttl| w.commit(Changes { steps, idle_ttl, ..Changes::default() }).unwrap();
    let blocked = Status::Blocked(Block { reason: "".into(), actor: "".into(), at: START, until: None });
    let ended = |idle| {
        // Counted, and taken back by an expectation that no step can meet.
        let steps = vec![end(Target::Account(ada.id), None), end(Target::Account(AccountId::from_bits(1)), None)];
        assert!(w.commit(Changes { steps, ..Changes::default() }).is_err());
        commit(vec![end(Target::Account(ada.id), Some(ses.id))], idle).ended
    };
    assert_eq!(ended(Some(100)), Some(0), "one idle, one spared");
    let (w, ada, ses, gra) = World::peopled(backend);
    w.new_session(&ada);
    w.ok([Change::HandOut { grant: gra.id, counter: 1, at: START.plus(60) }]);
    w.set(START.plus(100));
    let steps = vec![end(Target::Account(ada.id), None)];
    assert_eq!(w.commit(Changes { steps, idle_ttl: Some(100), ..Changes::default() }).unwrap().ended, Some(1));
    assert!(!w.alive(ses.id));
    // Under a block nothing lives.
    let (w, ada, ses, _) = World::peopled(backend);
    w.ok([Change::SetStatus { account: ada.id, status: blocked }]);
    assert_eq!(w.end(Target::Account(ada.id)).ended, Some(0));
    assert_eq!(w.end(Target::Session(ses.id)).ended, Some(0));
}

pub(super) fn a_cut_spares_one(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let (other, _) = w.new_session(&ada);
    w.ok([end(Target::Account(ada.id), Some(ses.id))]);
    assert!(w.alive(ses.id) && !w.alive(other.id));
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, 1);
    // Spared by the account's cut, killed by the cut of everything, and the other way round.
    let (later, _) = w.new_session(&ada);
    w.ok([end(Target::All, Some(later.id))]);
    assert!(!w.alive(ses.id) && w.alive(later.id));
    w.ok([end(Target::Account(ada.id), Some(ses.id))]);
    assert!(!w.alive(ses.id) && !w.alive(later.id));
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, 0);
}

pub(super) fn several_ends_in_one_commit(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let events = [EventKind::SessionEnded, EventKind::SessionsEnded].map(|kind| w.event(kind));
    let steps =
        vec![end(Target::Session(ses.id), None), end(Target::Grant(gra.id), None), end(Target::Account(ada.id), None)];
    let done = w.commit(Changes { steps, events: events.to_vec(), ..Changes::default() }).unwrap();
    assert_eq!((done.rev, done.ended), (Some(Rev(3)), Some(1)), "counted together");
    assert_eq!(w.session(ses.id).ended.map(|e| e.rev), Some(Rev(1)));
    assert_eq!((w.grant(gra.id).ended, w.account(ada.id).cut.rev), (Some(Rev(2)), Rev(3)));
    // The records carry the last one.
    let row = wait(w.store.load_revocation(Rev(3))).unwrap().unwrap();
    assert_eq!((row.event, row.rev, row.ended, row.at), (events[0].clone(), Some(Rev(3)), Some(1), START));
    assert!(wait(w.store.load_revocation(Rev(1))).unwrap().is_none());
    assert_eq!(w.end(Target::All).rev, Some(Rev(4)));
}

/// Beyond 64 ends of an account's sessions the log takes a `stale` of the account instead, until they are forgotten.
pub(super) fn many_ends_of_one_account_become_one_stale(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    let sessions: Vec<Session> = (0..70).map(|_| w.new_session(&ada).0).collect();
    for session in &sessions {
        assert_eq!(w.end(Target::Session(session.id)).ended, Some(1));
        assert!(w.session(session.id).ended.is_some());
    }
    let other = w.new_session(&eve).0;
    w.end(Target::Session(other.id));
    let entries = wait(w.store.read_log(Rev::ZERO, 1000)).unwrap().entries;
    let written: Vec<(Verb, Target)> = entries.into_iter().map(|e| (e.verb, e.target)).collect();
    for (n, (session, entry)) in sessions.iter().zip(&written).enumerate() {
        let single = (Verb::End, Target::Session(session.id));
        assert_eq!(*entry, if n < 64 { single } else { (Verb::Stale, Target::Account(ada.id)) }, "{n}");
    }
    assert_eq!(written[70], (Verb::End, Target::Session(other.id)), "another account has its own count");
    w.ok([Change::RaiseFloor(HORIZON.plus(1))]);
    let later = w.new_session(&ada).0;
    let done = w.end(Target::Session(later.id));
    let entries = wait(w.store.read_log(Rev(71), 10)).unwrap().entries;
    assert_eq!((done.rev, &entries[0].target), (Some(Rev(72)), &Target::Session(later.id)));
}

fn key(id: u32) -> Key {
    Key {
        id: KeyId(id),
        purpose: KeyPurpose::Es256,
        public_jwk: "{}".into(),
        sealed: SecretBytes::new([1, 2, 3]),
        created_at: START,
        active_from: None,
        retired_at: None,
        dead: None,
    }
}

pub(super) fn what_has_no_row_is_only_logged(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    w.ok([Change::InsertKey(key(1)), Change::InsertKey(key(2))]);
    let mut expected = Vec::new();
    let other = |scope: &str, id: &str| Target::Other { scope: scope.into(), id: id.into() };
    let token = Target::Token(TokenId::from_bits(5));
    for (verb, target, spread_ms) in [
        (Verb::End, token.clone(), None),
        (Verb::Stale, token, Some(5)),
        (Verb::Stale, Target::Grant(gra.id), None),
        (Verb::Stale, Target::Session(ses.id), None),
        (Verb::Stale, Target::Session(SessionId::from_bits(1)), None), // needs no row
        (Verb::Stale, Target::Account(ada.id), Some(0)),
        (Verb::Stale, Target::Client(ClientId::FIRST_PARTY), Some(i64::MAX as u64)),
        (Verb::Stale, Target::All, Some(60_000)),
        (Verb::Key, Target::Key(KeyId(1)), None),
        (Verb::Other("melt".into()), other("tenant", "x y"), None),
        (Verb::End, other("account", "not an id"), None),
    ] {
        let rev = Rev(expected.len() as u64 + 1);
        let what = Revoke { verb, target, except: None, spread_ms, owner: None, reason: "r".into() };
        let done = w.ok([Change::Revoke(what.clone())]);
        let ended = (what.verb == Verb::Key).then_some(0);
        assert_eq!((done.rev, done.ended), (Some(rev), ended), "{what:?}");
        let Revoke { verb, target, .. } = what;
        expected.push(Entry { rev, verb, target, except: None, spread_ms, until: HORIZON });
    }
    assert_eq!(wait(w.store.read_live()).unwrap().1, expected);
    let dead: Vec<_> = wait(w.store.list_keys()).unwrap().iter().map(|key| (key.id, key.dead)).collect();
    assert_eq!(dead, [(KeyId(1), Some(Rev(9))), (KeyId(2), None)]);
    assert!(w.alive(ses.id));
    assert_eq!((w.account(ada.id), w.grant(gra.id)), (ada, gra));
    assert_eq!(wait(w.store.stamp()).unwrap().all, Cut::default());
}

/// One account's grants and tokens fill no verifier's memory: of them together only so many entries stand in the log, and then
/// one `stale` of the account does for each. What else is the account's, or another's, is not counted.
pub(super) fn an_account_fills_no_log_with_grants_and_tokens(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    let of = |target, account: AccountId, verb| {
        let (owner, reason) = (Some(account), "r".into());
        Change::Revoke(Revoke { verb, target, except: None, spread_ms: None, owner, reason })
    };
    let token = |n: u64| Target::Token(TokenId::from_bits(u128::from(n)));
    let newest = || wait(w.store.read_live()).unwrap().1.pop().unwrap();
    // None of these is counted.
    w.ok([of(token(1), eve.id, Verb::End), of(token(2), ada.id, Verb::Stale), end(token(3), None)]);
    for n in 0..MAX_ENDS_PER_ACCOUNT {
        let id = GrantId::from_bits(1000 + u128::from(n));
        let target = if n % 2 == 0 { token(100 + n) } else { Target::Grant(id) };
        w.ok([Change::InsertGrant(grant(id, ses.id, START, Rev(0))), of(target.clone(), ada.id, Verb::End)]);
        assert_eq!((newest().verb, newest().target), (Verb::End, target), "{n}");
    }
    let stale = (Verb::Stale, Target::Account(ada.id));
    let last = GrantId::from_bits(5000);
    let done = w.ok([
        Change::InsertGrant(grant(last, ses.id, START, Rev(0))),
        of(token(900), ada.id, Verb::End),
        of(Target::Grant(last), ada.id, Verb::End),
    ]);
    let entries = wait(w.store.read_live()).unwrap().1;
    for entry in &entries[entries.len() - 2..] {
        assert_eq!((&entry.verb, &entry.target, entry.except), (&stale.0, &stale.1, None));
    }
    assert_eq!(w.grant(last).ended, done.rev, "the grant is marked all the same");
    // Others have their own count, and this account's sessions theirs.
    w.ok([of(token(901), eve.id, Verb::End)]);
    assert_eq!(newest().verb, Verb::End);
    w.end(Target::Session(ses.id));
    assert_eq!((newest().verb, newest().target), (Verb::End, Target::Session(ses.id)));
    // Once they are forgotten, there is room again.
    w.ok([Change::RaiseFloor(HORIZON.plus(1))]);
    assert_eq!(wait(w.store.read_live()).unwrap().1, []);
    w.ok([of(token(902), ada.id, Verb::End)]);
    assert_eq!((newest().verb, newest().target), (Verb::End, token(902)));
}

pub(super) fn what_is_not_there_cannot_be_ended(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    for target in [
        Target::Session(SessionId::from_bits(1)),
        Target::Grant(GrantId::from_bits(1)),
        Target::Account(AccountId::from_bits(1)),
        Target::Client(ClientId::from_bits(1)),
    ] {
        assert_eq!(w.conflict([end(target.clone(), None)]), Conflict::Missing, "{target:?}");
    }
    assert_eq!(w.conflict([revoke(Verb::Key, Target::Key(KeyId(1)), None)]), Conflict::Missing);
    w.end(Target::Session(ses.id));
    assert_eq!(w.conflict([end(Target::Session(ses.id), None)]), Conflict::Moved, "ended already");
    assert_eq!(wait(w.store.stamp()).unwrap().head, Rev(1));
    // The others can be ended again: a new cut is written.
    assert_eq!((w.end(Target::Account(ada.id)).rev, w.end(Target::Account(ada.id)).rev), (Some(Rev(2)), Some(Rev(3))));
}

pub(super) fn every_entry_carries_the_horizon_and_links_the_chain(backend: &dyn Backend) {
    let w = World::new(backend);
    let ada = w.new_account("ada@example.org");
    let ses = session(SessionId::from_bits(1), ada.id, START, Rev::ZERO);
    w.ok([
        Change::InsertSession(ses.clone()),
        Change::InsertGrant(grant(GrantId::from_bits(1), ses.id, START, Rev(0))),
    ]);
    w.end(Target::All);
    w.ok([Change::RaiseHorizon(HORIZON)]);
    w.ok([end(Target::Account(ada.id), Some(ses.id))]);
    // Raised and used in one commit: in the order of the steps.
    w.ok([end(Target::All, None), Change::RaiseHorizon(HORIZON.plus(1)), end(Target::All, None)]);
    let (stamp, entries) = wait(w.store.read_live()).unwrap();
    let until: Vec<Time> = entries.iter().map(|entry| entry.until).collect();
    assert_eq!(until, [Time::ZERO, HORIZON, HORIZON, HORIZON.plus(1)]);
    assert_eq!(entries[1].except, Some(ses.id));
    assert_eq!(stamp.chain, entries.iter().fold(Chain::genesis(LOG), Chain::after));
    assert_eq!((stamp.head, stamp.horizon), (Rev(4), HORIZON.plus(1)));
}
