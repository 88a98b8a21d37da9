//! Clients' profiles, consents, tickets, and the grants that come of them.
use super::{Backend, START, World, conflict, end, grant, session, wait};
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Conflict, Expect};
use portcullis_domain::client::{GrantType, Profile};
use portcullis_domain::family::Family;
use portcullis_domain::model::{
    Account, Client, ClientKind, Consent, Grant, OldCookie, Session, SessionKind, Status, UNPROVEN,
};
use portcullis_domain::proof::Proof;
use portcullis_domain::ticket::{self, Ticket, TicketKind, Used};
use portcullis_wire::{AccountId, ClientId, Digest, Epoch, GrantId, Rev, SessionId, Target, Time};

pub(super) fn new_ticket(name: &str) -> Ticket {
    Ticket {
        id: ticket::id(TicketKind::Code, name),
        kind: TicketKind::Code,
        account: None,
        session: None,
        client: None,
        born: Rev(3),
        epoch: Epoch(1),
        expires_at: START.plus(60_000),
        body: "{}".into(),
        version: 1,
        used: None,
    }
}

fn load(w: &World<'_>, id: Digest) -> Option<Ticket> {
    wait(w.store.load_ticket(id)).unwrap().map(|view| view.ticket)
}

fn consent(account: AccountId, client: ClientId, generation: u32) -> Consent {
    Consent { account, client, scope: "openid profile".into(), granted_at: START.minus(7), generation }
}

/// A session of its own for a client, with a grant.
fn connect(w: &World<'_>, account: &Account, client: &Client) -> (Session, Grant) {
    let born = wait(w.store.stamp()).unwrap().head;
    let plain = session(SessionId::from_bits(w.bits()), account.id, w.now(), born);
    let session = Session { kind: SessionKind::Connected, client: Some(client.id), ..plain };
    let grant = Grant { client: client.id, ..grant(GrantId::from_bits(w.bits()), session.id, w.now(), born) };
    w.ok([Change::InsertSession(session.clone()), Change::InsertGrant(grant.clone())]);
    (session, grant)
}

pub(super) fn a_client_is_changed_from_where_it_was_seen(backend: &dyn Backend) {
    let (w, _, ses, _) = World::peopled(backend);
    let first = w.new_client(ClientKind::Confidential);
    let load = |id| wait(w.store.load_client(id)).unwrap().unwrap().client;
    let app = connect(&w, &w.account(ses.account), &first).1;
    let ttl = || wait(w.store.load_refresh(app.id)).unwrap().unwrap().access_ttl;
    assert_eq!(ttl(), None);
    w.ok([end(Target::Client(first.id), Some(ses.id)), Change::SetClientDisabled { client: first.id, disabled: true }]);
    let kept = load(first.id);
    let profile = Profile {
        redirect_uris: vec!["https://app.example/cb?ü=\u{1}\0".into()],
        grant_types: GrantType::ALL.to_vec(),
        scopes: vec!["openid".into()],
        jwks: Some(serde_json::json!({"keys": []})),
        access_ttl_s: Some(3600),
        service_account: Some(AccountId::from_bits(u128::MAX)),
        ..Profile::default()
    };
    let next = Client {
        name: "another".into(),
        kind: ClientKind::Public,
        secret: Some(Digest::of(b"new")),
        old_secret: Some((Digest::of(b"secret"), Time(9))),
        profile,
        disabled: false,
        cut: Default::default(),
        ..first
    };
    w.ok([Change::UpdateClient(next.clone())]);
    let now = Client { version: 2, disabled: true, cut: kept.cut, ..next.clone() };
    assert_eq!(load(next.id), now, "all but what stands between its users and it");
    assert_eq!((ttl(), kept.cut.rev), (Some(3_600_000), Rev(1)));
    let shown = |digest: Option<Digest>| digest.map(|digest| digest.0);
    assert_eq!(shown(load(next.id).secret), shown(next.secret));
    assert_eq!(wait(w.store.list_clients(None, 10)).unwrap().rows[1], now);
    for version in [0, 1, 3] {
        assert_eq!(w.conflict([Change::UpdateClient(Client { version, ..next.clone() })]), Conflict::Moved);
    }
    let nobody = Client { id: ClientId::from_bits(1), ..next.clone() };
    assert_eq!(w.conflict([Change::UpdateClient(nobody.clone())]), Conflict::Missing);
    let at = |client, version| w.expects(Expect::ClientVersion { client, version }, None);
    assert_eq!(
        (at(next.id, 1), at(next.id, 2), at(nobody.id, 1)),
        (Err(Conflict::Moved), Ok(()), Err(Conflict::Missing))
    );
    w.ok([Change::UpdateClient(Client { version: 2, profile: Profile::default(), old_secret: None, ..next })]);
    assert_eq!((ttl(), load(now.id).old_secret), (None, None));
}

pub(super) fn a_consent_is_given_and_withdrawn(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let app = w.new_client(ClientKind::Public);
    let is = |generation| w.expects(Expect::Consent { account: ada.id, client: app.id, generation }, None);
    let withdraw = |generation| Change::WithdrawConsent { account: ada.id, client: app.id, generation };
    let seen = || wait(w.store.load_app(ses.id, app.id)).unwrap().unwrap();
    assert_eq!((is(0), is(1), seen().consent, seen().generation()), (Ok(()), Err(Conflict::Moved), None, 0));
    // Of nobody, to nobody.
    let (nobody, nothing) = (AccountId::from_bits(1), ClientId::from_bits(1));
    assert_eq!(w.conflict([Change::PutConsent(consent(nobody, app.id, 0))]), Conflict::Missing);
    assert_eq!(w.conflict([Change::PutConsent(consent(ada.id, nothing, 0))]), Conflict::Missing);
    let none = Change::WithdrawConsent { account: ada.id, client: nothing, generation: 0 };
    assert_eq!(w.conflict([none]), Conflict::Missing);
    // Withdrawn before it was given: what is under way is dead all the same.
    assert_eq!(w.conflict([withdraw(1)]), Conflict::Moved);
    w.set(START.plus(5));
    w.ok([withdraw(0)]);
    let empty = Consent { scope: String::new(), granted_at: START.plus(5), ..consent(ada.id, app.id, 1) };
    assert_eq!(seen().consent, Some(empty));
    assert_eq!((is(0), is(1)), (Err(Conflict::Moved), Ok(())));
    assert_eq!(w.conflict([Change::PutConsent(consent(ada.id, app.id, 0))]), Conflict::Moved);
    let given = consent(ada.id, app.id, 1);
    w.ok([Change::PutConsent(given.clone())]);
    assert_eq!((seen().consent, is(1)), (Some(given.clone()), Ok(())));
    let wider = Consent { scope: "openid".into(), granted_at: START, ..given.clone() };
    w.ok([Change::PutConsent(wider.clone())]);
    assert_eq!(seen().consent, Some(wider.clone()));
    assert_eq!(w.conflict([withdraw(0)]), Conflict::Moved);
    w.ok([withdraw(1)]);
    assert_eq!(seen().consent, Some(Consent { scope: String::new(), generation: 2, ..wider }));
    assert_eq!(seen().generation(), 2);

    let other = w.new_client(ClientKind::Public);
    w.ok([Change::PutConsent(consent(ada.id, other.id, 0))]);
    let listed = wait(w.store.list_consents(ada.id)).unwrap();
    assert_eq!(listed.iter().map(|row| row.client).collect::<Vec<_>>(), [app.id, other.id]);
    assert_eq!(wait(w.store.count_rows()).unwrap().consents, 2);
    assert!(wait(w.store.list_consents(nobody)).unwrap().is_empty());
    assert!(wait(w.store.load_app(SessionId::from_bits(1), app.id)).unwrap().is_none());
    assert!(wait(w.store.load_app(ses.id, nothing)).unwrap().is_none());
}

pub(super) fn other_grants_of_a_client_are_told(backend: &dyn Backend) {
    let (w, ada, ses, own) = World::peopled(backend);
    let (app, other) = (w.new_client(ClientKind::Public), w.new_client(ClientKind::Public));
    let none_but = |besides: &[GrantId]| {
        w.expects(Expect::NoOtherGrants { account: ada.id, client: app.id, besides: besides.to_vec() }, None)
    };
    let moved = Err(Conflict::Moved);
    connect(&w, &ada, &other);
    connect(&w, &w.new_account("eve@example.org"), &app);
    assert_eq!(none_but(&[]), Ok(()), "another client's, and another account's");
    let (first, second) = (connect(&w, &ada, &app), connect(&w, &ada, &app));
    assert_eq!((none_but(&[]), none_but(&[first.1.id])), (moved, moved));
    assert_eq!(none_but(&[first.1.id, second.1.id, own.id]), Ok(()));
    w.end(Target::Grant(first.1.id));
    assert_eq!(none_but(&[second.1.id]), Ok(()));
    w.end(Target::Session(second.0.id));
    assert_eq!(none_but(&[]), Ok(()), "under a session that was ended");
    let under = Grant { client: app.id, ..grant(GrantId::from_bits(w.bits()), ses.id, w.now(), Rev(2)) };
    w.ok([Change::InsertGrant(under.clone())]);
    assert_eq!((none_but(&[]), none_but(&[under.id])), (moved, Ok(())));
    // By the rows alone, each reason why they do not live: a cut above, but for what it spares, and time.
    w.ok([end(Target::Account(ada.id), Some(ses.id)), end(Target::Client(app.id), Some(ses.id))]);
    assert_eq!(none_but(&[]), moved);
    w.set(ses.absolute_expires_at.minus(1));
    assert_eq!(none_but(&[]), moved);
    w.set(ses.absolute_expires_at);
    assert_eq!(none_but(&[]), Ok(()));
    w.set(START);
    w.end(Target::Client(app.id));
    assert_eq!(none_but(&[]), Ok(()));
    let (_, late) = connect(&w, &ada, &app);
    assert_eq!((none_but(&[]), none_but(&[late.id])), (moved, Ok(())));
    w.end(Target::All);
    assert_eq!(none_but(&[]), Ok(()));
}

pub(super) fn what_an_account_has_granted_is_listed(backend: &dyn Backend) {
    let (w, ada, first, own) = World::peopled(backend);
    let app = w.new_client(ClientKind::Public);
    let list = |client, limit| {
        let views = wait(w.store.list_grants(ada.id, client, limit)).unwrap();
        views.into_iter().map(|view| (view.session.id, view.grant.id)).collect::<Vec<_>>()
    };
    let (a, b) = (first.id, own.id);
    w.set(START.plus(10));
    let (newer, its) = connect(&w, &ada, &app);
    let full = Grant {
        audience: Some("https://a.example https://b.example".into()),
        sender: Some(Digest::of(b"key")),
        agent: Some("curl".into()),
        proof: Some(Proof { at: START.minus(7), amr: Amr::elsewhere(&["hwk".into()]) }),
        network: Some([0, 1, 2, 3, 4, 5, 6, 255]),
        client: app.id,
        ..grant(GrantId::from_bits(u128::MAX), a, w.now(), Rev::ZERO)
    };
    w.ok([Change::InsertGrant(full.clone())]);
    assert_eq!(w.grant(full.id), full);
    assert_eq!(w.session(newer.id), newer);
    assert_eq!(list(None, 9), [(newer.id, its.id), (a, full.id), (a, b)], "newest sessions first");
    assert_eq!(
        (list(Some(app.id), 9), list(None, 1)),
        (vec![(newer.id, its.id), (a, full.id)], vec![(newer.id, its.id)])
    );
    assert_eq!(list(Some(ClientId::from_bits(1)), 9), []);
    // Below the cut of its client, but for what is under the spared session; ended by itself; under a dead session.
    w.ok([end(Target::Client(app.id), Some(a))]);
    assert_eq!(list(None, 9), [(a, full.id), (a, b)]);
    w.end(Target::Grant(full.id));
    assert_eq!(list(None, 9), [(a, b)]);
    let (late, later) = connect(&w, &ada, &app);
    assert_eq!(list(None, 9), [(late.id, later.id), (a, b)]);
    w.ok([end(Target::Account(ada.id), Some(a))]);
    assert_eq!(list(None, 9), [(a, b)]);
    w.set(first.absolute_expires_at);
    assert_eq!(list(None, 9), []);
}

pub(super) fn a_ticket_comes_back_as_it_was(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let app = w.new_client(ClientKind::Public);
    for (n, kind) in TicketKind::ALL.iter().enumerate() {
        let used = (n % 2 == 0).then_some(Used { at: Time(4), grant: (n > 2).then_some(GrantId::from_bits(7)) });
        let row = Ticket {
            id: ticket::id(*kind, "x"),
            kind: *kind,
            account: Some(ada.id),
            session: Some(ses.id),
            client: Some(app.id),
            expires_at: Time(-1),
            body: "ü\0\u{1}{".into(),
            version: 7,
            used,
            ..new_ticket("")
        };
        w.ok([Change::InsertTicket(row.clone())]);
        assert_eq!(load(&w, row.id), Some(row.clone()));
        assert_eq!(w.conflict([Change::InsertTicket(Ticket { body: "other".into(), ..row.clone() })]), Conflict::Used);
        assert_eq!(load(&w, row.id), Some(row));
    }
    assert_eq!(load(&w, new_ticket("unknown").id), None);
    assert_eq!(wait(w.store.count_rows()).unwrap().tickets, TicketKind::ALL.len() as u64);
    // With what it names, when both are there.
    let view = |name: &str| wait(w.store.load_ticket(new_ticket(name).id)).unwrap().unwrap();
    let nothing = ClientId::from_bits(1);
    for (name, session, client) in [
        ("both", Some(ses.id), Some(app.id)),
        ("one", Some(ses.id), None),
        ("other", None, Some(app.id)),
        ("gone", Some(SessionId::from_bits(1)), Some(app.id)),
        ("off", Some(ses.id), Some(nothing)),
    ] {
        w.ok([Change::InsertTicket(Ticket { session, client, ..new_ticket(name) })]);
        assert_eq!(view(name).app.is_some(), name == "both", "{name}");
    }
    w.ok([Change::PutConsent(consent(ada.id, app.id, 0))]);
    let both = view("both");
    assert_eq!(both.stamp, wait(w.store.stamp()).unwrap());
    let seen = both.app.unwrap();
    assert_eq!((seen.client, seen.session.session, seen.session.account), (app.clone(), ses, ada.clone()));
    assert_eq!(seen.consent, Some(consent(ada.id, app.id, 0)));
}

pub(super) fn a_ticket_is_used_once(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let row = new_ticket("code");
    let used = |at, grant| Change::UseTicket { ticket: row.id, at, grant };
    assert_eq!(w.conflict([used(START, None)]), Conflict::Missing);
    assert_eq!(w.conflict([Change::UpdateTicket(row.clone())]), Conflict::Missing);
    w.ok([Change::InsertTicket(row.clone())]);
    // Changed from where it was seen; who made it stays.
    let next = Ticket {
        account: Some(ada.id),
        session: Some(ses.id),
        expires_at: Time(5),
        body: "[]".into(),
        kind: TicketKind::Device,
        client: Some(ClientId::FIRST_PARTY),
        born: Rev(99),
        epoch: Epoch(9),
        ..row.clone()
    };
    w.ok([Change::UpdateTicket(next.clone())]);
    let kept = Ticket { kind: row.kind, client: None, born: row.born, epoch: row.epoch, version: 2, ..next.clone() };
    assert_eq!(load(&w, row.id), Some(kept.clone()));
    assert_eq!(w.conflict([Change::UpdateTicket(next.clone())]), Conflict::Moved);
    // That it has ended is not the store's to judge.
    w.set(START.plus(999_999));
    let grant = Some(GrantId::from_bits(4));
    w.ok([used(Time(8), grant)]);
    assert_eq!(load(&w, row.id), Some(Ticket { used: Some(Used { at: Time(8), grant }), ..kept.clone() }));
    assert_eq!(w.conflict([used(Time(9), None)]), Conflict::Used);
    assert_eq!(w.conflict([Change::UpdateTicket(Ticket { version: 2, ..next.clone() })]), Conflict::Used);
    assert_eq!(w.conflict([Change::UpdateTicket(next)]), Conflict::Used, "that before its version");
    assert_eq!(w.conflict([Change::InsertTicket(row.clone())]), Conflict::Used);
    // With the rest, or not at all.
    let other = new_ticket("other");
    w.ok([Change::InsertTicket(other.clone())]);
    let both = [Change::UseTicket { ticket: other.id, at: START, grant: None }, used(START, None)];
    assert_eq!(w.conflict(both), Conflict::Used);
    assert_eq!(load(&w, other.id), Some(other));
}

pub(super) fn old_tickets_go_oldest_first(backend: &dyn Backend) {
    let w = World::new(backend);
    let row = |n: i64| Ticket { expires_at: START.plus(n), ..new_ticket(&n.to_string()) };
    for n in [3, 1, 4, 2, 5] {
        w.ok([Change::InsertTicket(row(n))]);
    }
    let there = || (1..=5).filter(|n| load(&w, row(*n).id).is_some()).collect::<Vec<_>>();
    let prune = |before, most| w.ok([Change::PruneTickets { before: START.plus(before), most }]).pruned;
    assert_eq!((prune(1, 9), prune(5, 0)), (0, 0), "to the millisecond, and none when none may");
    assert_eq!((prune(5, 2), there()), (2, vec![3, 4, 5]));
    assert_eq!((prune(5, u64::MAX), there()), (2, vec![5]));
    assert_eq!((prune(6, 9), prune(6, 9)), (1, 0));
    // Used or not.
    w.ok([Change::InsertTicket(row(1)), Change::UseTicket { ticket: row(1).id, at: START, grant: None }]);
    assert_eq!((prune(2, 9), wait(w.store.count_rows()).unwrap().tickets), (1, 0));
}

pub(super) fn of_a_deleted_account_no_consent_or_ticket_stays(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let (eve, app) = (w.new_account("eve@example.org"), w.new_client(ClientKind::Public));
    for (name, account) in [("ada", Some(ada.id)), ("eve", Some(eve.id)), ("nobody", None)] {
        w.ok([Change::InsertTicket(Ticket { account, ..new_ticket(name) })]);
    }
    w.ok([&ada, &eve].map(|who| Change::PutConsent(consent(who.id, app.id, 0))));
    let count = || {
        let rows = wait(w.store.count_rows()).unwrap();
        (rows.consents, rows.tickets)
    };
    let set = |status| w.ok([Change::SetStatus { account: ada.id, status }]);
    set(Status::Deleting { at: START, until: START, rev: Rev(1) });
    set(Status::Active);
    assert_eq!(count(), (2, 3));
    set(Status::Deleted { at: START, rev: Rev(1) });
    assert_eq!((count(), load(&w, new_ticket("ada").id)), ((1, 2), None));
    assert_eq!(wait(w.store.list_consents(eve.id)).unwrap(), [consent(eve.id, app.id, 0)]);
    // A log that is founded anew honours no ticket, and consents stay.
    w.ok([Change::Refound { epoch: Epoch(2), base: Rev(1 << 32) }]);
    assert_eq!(count(), (1, 0));
}

pub(super) fn who_proves_again_is_known_to_have(backend: &dyn Backend) {
    let (w, _, ses, _) = World::peopled(backend);
    for amr in [Amr::elsewhere(&["otp".into(), "mfa".into()]), Amr::unknown(), Amr::default()] {
        w.ok([Change::SetAuthTime { session: ses.id, at: START.plus(9), amr: amr.clone() }]);
        assert_eq!(w.session(ses.id), Session { auth_time: START.plus(9), amr, ..ses.clone() });
    }
    // What a grant was given for it keeps, whatever is proven since.
    for (n, proof) in [None, Some(Amr::unknown()), Some(Amr::default())].into_iter().enumerate() {
        let proof = proof.map(|amr| Proof { at: START.minus(1), amr });
        let row = Grant { proof, ..grant(GrantId::from_bits(50 + n as u128), ses.id, w.now(), Rev::ZERO) };
        w.ok([Change::InsertGrant(row.clone())]);
        w.ok([Change::SetAuthTime { session: ses.id, at: START.plus(10), amr: Amr::elsewhere(&["otp".into()]) }]);
        let family = Family { counter: 2, predecessor: Some(1), ..row.family.clone() };
        let (counter, predecessor) = (1, None);
        w.ok([Change::SetFamily { grant: row.id, counter, predecessor, family: family.clone() }]);
        assert_eq!(w.grant(row.id), Grant { family, ..row });
    }
    let back = |session| Change::SetAuthTime { session, at: START, amr: ses.amr.clone() };
    w.ok([back(ses.id)]);
    assert_eq!(w.session(ses.id), ses);
    assert_eq!(w.conflict([back(SessionId::from_bits(1))]), Conflict::Missing);
}

pub(super) fn what_is_unproven_proves_nothing(backend: &dyn Backend) {
    let (w, _, ses, gra) = World::peopled(backend);
    let unknown = Session { auth_time: UNPROVEN, amr: Amr::unknown(), ..ses.clone() };
    w.ok([Change::Unprove { session: ses.id, grant: None }]);
    assert_eq!((w.session(ses.id), w.grant(gra.id)), (unknown.clone(), gra.clone()));
    // A grant that keeps a proof of its own, one that does not, and the cookie before.
    let own = Some(Proof { at: START.minus(1), amr: Amr::default() });
    let row = Grant { proof: own, ..grant(GrantId::from_bits(50), ses.id, w.now(), Rev::ZERO) };
    let (before, cookie) = (Digest::of(b"one"), Digest::of(b"two"));
    let mut browser = w.new_session(&w.account(ses.account)).0;
    browser = Session { id: SessionId::from_bits(51), cookie: Some(before), ..browser };
    let old = OldCookie { digest: before, proof: Proof { at: START, amr: Amr::default() }, until: START.plus(9) };
    let shown = Change::SetCookie { session: browser.id, before, cookie, old: Some(old.clone()) };
    w.ok([Change::InsertGrant(row.clone()), Change::InsertSession(browser.clone()), shown]);
    w.ok([
        Change::Unprove { session: ses.id, grant: Some(row.id) },
        Change::Unprove { session: browser.id, grant: Some(gra.id) },
    ]);
    assert_eq!(w.session(ses.id), unknown);
    assert_eq!(w.grant(row.id), Grant { proof: Some(Proof::unknown()), ..row.clone() });
    assert_eq!(w.grant(gra.id), Grant { proof: Some(Proof::unknown()), ..gra });
    let old_cookie = Some(OldCookie { proof: Proof::unknown(), ..old });
    let browser = Session { auth_time: UNPROVEN, amr: Amr::unknown(), cookie: Some(cookie), old_cookie, ..browser };
    assert_eq!(w.session(browser.id), browser);
    for (session, grant) in [(SessionId::from_bits(1), None), (ses.id, Some(GrantId::from_bits(9)))] {
        assert_eq!(w.conflict([Change::Unprove { session, grant }]), Conflict::Missing);
    }
}

pub(super) fn what_is_under_a_spared_session_is_spared(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let (other, app) = (w.new_session(&ada).0, w.new_client(ClientKind::Public));
    let born =
        |born, under| w.expects(Expect::Unborn { account: ada.id, client: app.id, born: Rev(born), under }, None);
    let dead = Err(Conflict::BornDead);
    let (spared, not) = (Some(ses.id), Some(other.id));
    assert_eq!((born(0, spared), born(0, not), born(0, None)), (Ok(()), Ok(()), Ok(())));
    // By each of the three, at its rev and below.
    for (rev, target) in [(1, Target::Account(ada.id)), (2, Target::Client(app.id)), (3, Target::All)] {
        w.ok([end(target, spared)]);
        assert_eq!((born(rev - 1, spared), born(rev - 1, not), born(rev - 1, None)), (Ok(()), dead, dead));
        assert_eq!((born(rev, not), born(rev, None)), (Ok(()), Ok(())));
    }
    // Spared by one is not spared by the others.
    w.ok([end(Target::Client(app.id), not)]);
    assert_eq!((born(3, spared), born(3, not), born(4, spared)), (dead, Ok(()), Ok(())));
    assert_eq!(born(2, not), dead);
    w.ok([Change::SetClientDisabled { client: app.id, disabled: true }]);
    assert_eq!(born(9, spared), dead);
}

pub(super) fn a_refused_redemption_leaves_the_ticket(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let app = w.new_client(ClientKind::Public);
    let code = Ticket { account: Some(ada.id), ..new_ticket("code") };
    w.ok([Change::InsertTicket(code.clone())]);
    let new = Grant { client: app.id, ..grant(GrantId::from_bits(w.bits()), ses.id, w.now(), Rev::ZERO) };
    let redeem = |generation| Changes {
        expects: vec![Expect::Consent { account: ada.id, client: app.id, generation }],
        steps: vec![
            Change::UseTicket { ticket: code.id, at: w.now(), grant: Some(new.id) },
            Change::InsertGrant(new.clone()),
        ],
        ..Changes::default()
    };
    assert_eq!(conflict(w.commit(redeem(1))), Conflict::Moved);
    assert_eq!(load(&w, code.id), Some(code.clone()));
    // The grant cannot be: the ticket was not used.
    let mut nowhere = redeem(0);
    nowhere.steps[1] = Change::InsertGrant(Grant { session: SessionId::from_bits(1), ..new.clone() });
    assert_eq!(conflict(w.commit(nowhere)), Conflict::Missing);
    assert_eq!(load(&w, code.id), Some(code.clone()));
    w.commit(redeem(0)).unwrap();
    assert_eq!(conflict(w.commit(redeem(0))), Conflict::Used);
    assert_eq!((w.grant(new.id), load(&w, code.id).unwrap().used.unwrap().grant), (new.clone(), Some(new.id)));
}
