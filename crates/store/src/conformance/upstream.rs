//! Links to people at other providers, and sessions that came from there.
use super::{Backend, HORIZON, World, end, wait};
use portcullis_domain::changes::{Change, Conflict};
use portcullis_domain::model::{Session, Status};
use portcullis_domain::retention::Retention;
use portcullis_domain::upstream::{CameFrom, Link, Origin};
use portcullis_wire::{AccountId, LinkId, Rev, SessionId, Target};

const ISSUER: &str = "https://idp.example/\u{1}\0ü";

fn link(w: &World<'_>, account: AccountId, subject: &str) -> Link {
    Link {
        id: LinkId::from_bits(w.bits()),
        issuer: ISSUER.into(),
        subject: subject.into(),
        account,
        upstream: "idp".into(),
        label: Some("ada@idp.example".into()),
        created_at: w.now(),
        used_at: w.now(),
        out_at: None,
    }
}

fn found(w: &World<'_>, subject: &str) -> Option<Link> {
    let view = wait(w.store.load_link(ISSUER, subject)).unwrap();
    view.found.map(|(link, account)| {
        assert_eq!(account.id, link.account);
        link
    })
}

fn from(w: &World<'_>, session: &Session, subject: &str, sid: Option<&str>) {
    let (issuer, subject, sid) = (ISSUER.into(), subject.into(), sid.map(str::to_owned));
    w.ok([Change::InsertOrigin(Origin { session: session.id, issuer, subject, sid })]);
}

fn came(w: &World<'_>, subject: Option<&str>, sid: Option<&str>) -> Vec<SessionId> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let from = CameFrom { issuer: ISSUER.into(), subject: owned(subject), sid: owned(sid) };
    let (mut all, mut after) = (vec![], None);
    // One by one: the order is that of ids, and none is left out.
    loop {
        let page = wait(w.store.list_sessions_from(&from, after, 1)).unwrap();
        let Some((account, session)) = page.first().copied() else { return all };
        assert_eq!(w.session(session).account, account);
        all.push(session);
        after = Some(session);
    }
}

pub(super) fn somebody_elsewhere_is_one_account(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    assert_eq!(found(&w, "1"), None);
    let first = link(&w, ada.id, "1");
    w.ok([Change::InsertLink(first.clone())]);
    assert_eq!(found(&w, "1"), Some(first.clone()));
    assert_eq!(found(&w, "2"), None);
    assert_eq!(w.conflict([Change::InsertLink(link(&w, eve.id, "1"))]), Conflict::Moved);
    assert_eq!(w.conflict([Change::InsertLink(link(&w, AccountId::from_bits(7), "3"))]), Conflict::Missing);
    let second = Link { label: None, ..link(&w, ada.id, "2") };
    w.ok([Change::InsertLink(second.clone())]);
    // The same subject of another provider is somebody else.
    let other = Link { issuer: "https://other.example".into(), ..link(&w, eve.id, "1") };
    w.ok([Change::InsertLink(other.clone())]);
    assert_eq!(wait(w.store.list_links(ada.id, 10)).unwrap(), [first.clone(), second]);
    assert_eq!(wait(w.store.list_links(ada.id, 1)).unwrap(), [first]);
    assert_eq!(wait(w.store.list_links(eve.id, 10)).unwrap(), [other]);
}

pub(super) fn a_link_is_used_until_it_goes(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    let row = link(&w, ada.id, "1");
    w.ok([Change::InsertLink(row.clone())]);
    let (begun, later) = (w.now(), w.now().plus(5));
    let used = |begun| Change::UseLink { link: row.id, begun, at: later };
    w.ok([used(begun)]);
    assert_eq!(found(&w, "1").unwrap(), Link { used_at: later, ..row.clone() });
    let out = |at| Change::SignOutLink { issuer: ISSUER.into(), subject: "1".into(), at };
    w.ok([out(begun), Change::SignOutLink { issuer: ISSUER.into(), subject: "nobody".into(), at: later }]);
    assert_eq!(w.conflict([used(begun)]), Conflict::Moved);
    w.ok([used(begun.plus(1))]);
    // Never back.
    w.ok([out(begun.minus(100))]);
    assert_eq!(found(&w, "1").unwrap().out_at, Some(begun));
    assert_eq!(w.conflict([Change::RemoveLink { account: eve.id, link: row.id }]), Conflict::Missing);
    w.ok([Change::RemoveLink { account: ada.id, link: row.id }]);
    assert_eq!(found(&w, "1"), None);
    assert_eq!(w.conflict([used(later)]), Conflict::Moved);
    assert_eq!(w.conflict([Change::RemoveLink { account: ada.id, link: row.id }]), Conflict::Missing);
    w.ok([Change::InsertLink(link(&w, eve.id, "1"))]);
    assert_eq!(w.conflict([used(later)]), Conflict::Moved);
}

pub(super) fn sessions_are_found_by_where_they_came_from(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let mut sessions: Vec<Session> = (0..4).map(|_| w.new_session(&ada).0).collect();
    sessions.sort_by_key(|row| row.id);
    let ids: Vec<SessionId> = sessions.iter().map(|row| row.id).collect();
    from(&w, &sessions[0], "1", Some("a"));
    from(&w, &sessions[1], "1", Some("b"));
    from(&w, &sessions[2], "2", Some("a"));
    from(&w, &sessions[3], "1", None);
    let twice = Origin { session: ids[0], issuer: ISSUER.into(), subject: "9".into(), sid: None };
    assert_eq!(w.conflict([Change::InsertOrigin(twice.clone())]), Conflict::Moved);
    let nowhere = Origin { session: SessionId::from_bits(3), ..twice };
    assert_eq!(w.conflict([Change::InsertOrigin(nowhere)]), Conflict::Missing);
    assert_eq!(came(&w, Some("1"), None), [ids[0], ids[1], ids[3]]);
    assert_eq!(came(&w, None, Some("a")), [ids[0], ids[2]]);
    assert_eq!(came(&w, Some("1"), Some("a")), [ids[0]]);
    assert_eq!(came(&w, Some("9"), None), []);
    assert_eq!(came(&w, None, None), []);
    w.end(Target::Session(ids[0]));
    assert_eq!(came(&w, Some("1"), None), [ids[1], ids[3]]);
    // With the session its origin goes.
    let back = w.now();
    w.set(HORIZON.plus(60_000));
    w.ok([Change::RaiseFloor(w.now().minus(1))]);
    let keep = Retention { ended: 1_000, addresses: 500, events: None, idle_ttl: 50_000 };
    let gone = w.ok([Change::PruneSessions { sessions: vec![ids[1]], keep }]);
    assert_eq!(gone.pruned, 1);
    w.set(back);
    w.ok([Change::InsertSession(sessions[1].clone())]);
    assert_eq!(came(&w, Some("1"), None), [ids[3]]);
}

pub(super) fn of_a_deleted_account_no_link_stays(backend: &dyn Backend) {
    let (w, ada, session, _) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    w.ok([Change::InsertLink(link(&w, ada.id, "1")), Change::InsertLink(link(&w, eve.id, "2"))]);
    from(&w, &session, "1", Some("a"));
    let status = Status::Deleted { at: w.now(), rev: Rev::ZERO };
    w.ok([end(Target::Account(ada.id), None), Change::SetStatus { account: ada.id, status }]);
    assert_eq!((found(&w, "1"), came(&w, Some("1"), None)), (None, vec![]));
    assert!(found(&w, "2").is_some());
}
