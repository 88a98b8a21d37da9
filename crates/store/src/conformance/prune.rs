//! What goes when its time has passed, what becomes due, and how many sessions live.
use super::{Backend, HORIZON, START, World, account, audit, session, wait};
use crate::EventFilter;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Conflict, Counted, Expect};
use portcullis_domain::client::Profile;
use portcullis_domain::event::EventKind;
use portcullis_domain::model::{Block, Client, ClientKind, Consent, OldCookie, Session, SessionKind, Status};
use portcullis_domain::proof::Proof;
use portcullis_domain::retention::Retention;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_wire::{AccountId, ClientId, Digest, Epoch, Rev, SessionId, Target};

const KEEP: Retention = Retention { ended: 1_000, addresses: 500, events: None, idle_ttl: 50_000 };

fn prune(w: &World<'_>, sessions: &[SessionId]) -> u64 {
    w.ok([Change::PruneSessions { sessions: sessions.to_vec(), keep: KEEP }]).pruned
}

pub(super) fn a_session_goes_when_the_log_has_forgotten_it(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let (lives, _) = w.new_session(&ada);
    w.end(Target::Session(ses.id));
    w.set(START.plus(10_000));
    w.ok([Change::Seen(vec![(lives.id, w.now())])]);
    let may_go = || wait(w.store.list_prunable(KEEP, None, 10)).unwrap().sessions;
    // The end is in the log: its row stays, however old it is.
    w.ok([Change::RaiseFloor(START.plus(9_000))]);
    assert!(may_go().is_empty());
    assert_eq!(prune(&w, &[ses.id, lives.id]), 0);
    // Past its `until` it is forgotten; and the time that was promised has passed.
    w.set(HORIZON.plus(60_000));
    w.ok([Change::Seen(vec![(lives.id, w.now())]), Change::RaiseFloor(HORIZON.plus(1))]);
    assert_eq!(may_go(), [ses.id]);
    assert_eq!(prune(&w, &[ses.id, lives.id]), 1);
    assert!(wait(w.store.load_session(ses.id)).unwrap().is_none());
    assert!(wait(w.store.load_refresh(gra.id)).unwrap().is_none());
    assert!(w.alive(lives.id));
    assert_eq!(prune(&w, &[ses.id]), 0);
    let rows = wait(w.store.count_rows()).unwrap();
    assert_eq!((rows.accounts, rows.sessions, rows.grants, rows.entries), (1, 1, 1, 0));
    // A session that nobody used for long goes without an end, once F has passed that.
    w.set(w.now().plus(KEEP.idle_ttl + KEEP.ended));
    assert!(may_go().is_empty());
    w.ok([Change::RaiseFloor(w.now().minus(10))]);
    assert_eq!((may_go(), prune(&w, &[lives.id])), (vec![lives.id], 1));
}

pub(super) fn sessions_are_looked_at_in_pieces(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    for _ in 0..6 {
        w.new_session(&ada);
    }
    w.set(START.plus(2_000_000));
    w.ok([Change::RaiseFloor(w.now())]);
    let (mut cursor, mut found) = (None, Vec::new());
    loop {
        let part = wait(w.store.list_prunable(KEEP, cursor, 3)).unwrap();
        found.extend(part.sessions);
        cursor = part.next;
        if cursor.is_none() {
            break;
        }
    }
    let mut sorted = found.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((found.len(), &found), (7, &sorted));
}

pub(super) fn addresses_are_forgotten(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let ip = Some("192.0.2.1".parse().unwrap());
    let with = |id: u128, at| Session { ip, ..session(SessionId::from_bits(id), ada.id, at, Rev::ZERO) };
    let (old, new) = (with(1, START), with(2, START.plus(900)));
    w.ok([Change::InsertSession(old.clone()), Change::InsertSession(new.clone())]);
    w.new_grant_of(old.id, ClientId::FIRST_PARTY);
    let event = |n: i64| {
        w.set(START.plus(n));
        let events = vec![w.event(EventKind::SessionStarted).ip(ip)];
        w.commit(Changes { events, ..Changes::default() }).unwrap();
    };
    (0..5).for_each(event);
    w.set(START.plus(1_000));
    let found = wait(w.store.list_prunable(KEEP, None, 10)).unwrap();
    assert_eq!((found.addresses, found.sessions.len()), (vec![old.id], 0));
    let forget = Change::ForgetSessionAddresses { sessions: vec![old.id, new.id], keep: KEEP };
    assert_eq!((w.ok([forget.clone()]).pruned, w.ok([forget]).pruned), (1, 0));
    assert_eq!((w.session(old.id).ip, w.session(new.id).ip), (None, ip));
    let events = |before: i64, most| w.ok([Change::ForgetEventAddresses { before: START.plus(before), most }]).pruned;
    assert_eq!((events(4, 3), events(4, 3), events(4, 3)), (3, 1, 0));
    let rows = wait(w.store.list_events(&EventFilter::default(), None, 10)).unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.event.ip.is_some()).collect::<Vec<_>>(), [true, false, false, false, false]);
    // A tombstone's sessions have none.
    w.ok([Change::SetStatus { account: ada.id, status: Status::Deleted { at: START, rev: Rev(1) } }]);
    assert_eq!(w.session(new.id).ip, None);
}

pub(super) fn old_records_go_oldest_first(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    for n in 0..6 {
        w.set(START.plus(n));
        let event = w.event(EventKind::SessionStarted);
        w.commit(Changes { events: vec![event], ..Changes::default() }).unwrap();
    }
    w.ok([audit::begun()]);
    w.ok([Change::Seal(audit::sealing(&*w.store, 100, 1).unwrap())]);
    let prune =
        |before: i64, most| audit::pruning(&*w.store, START.plus(before), most).map_or(0, |what| w.ok([what]).pruned);
    assert_eq!((prune(4, 3), prune(4, 3), prune(4, 3)), (3, 1, 0));
    let rows = wait(w.store.list_events(&EventFilter::default(), None, 10)).unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.at).collect::<Vec<_>>(), [START.plus(5), START.plus(4)]);
    // What follows is found as before.
    let event = w.event(EventKind::SessionEnded);
    w.commit(Changes { events: vec![event.clone()], ..Changes::default() }).unwrap();
    let page = wait(w.store.list_events(&EventFilter::default(), Some(event.id), 10)).unwrap();
    assert_eq!(page.rows.len(), 2);
    // A commit that fails leaves them alone.
    let refused = Changes {
        expects: vec![Expect::NoAccounts],
        steps: vec![audit::pruning(&*w.store, START.plus(9), 9).unwrap()],
        ..Changes::default()
    };
    assert!(w.commit(refused).is_err());
    assert_eq!(wait(w.store.count_rows()).unwrap().events, 3);
}

pub(super) fn accounts_become_due(backend: &dyn Backend) {
    let w = World::new(backend);
    let until = |n: i64| Some(START.plus(n));
    let block = |n| Status::Blocked(Block { reason: "r".into(), actor: "a".into(), at: START, until: n });
    let states = [
        Status::Active,
        block(None),
        block(until(20)),
        Status::Deleting { at: START, until: START.plus(10), rev: Rev(0) },
        Status::Deleted { at: START, rev: Rev(1) },
    ];
    let ids: Vec<AccountId> = (1..=5).map(AccountId::from_bits).collect();
    for (id, status) in ids.iter().zip(states) {
        w.ok([Change::InsertAccount(account(*id, &format!("{id}@example.org")))]);
        w.ok([Change::SetStatus { account: *id, status: status.clone() }]);
        assert_eq!(w.account(*id).status, status);
    }
    let due = |limit| wait(w.store.list_due_accounts(limit)).unwrap();
    assert!(due(9).is_empty());
    w.set(START.plus(10));
    assert_eq!(due(9), [ids[3]]);
    w.set(START.plus(20));
    assert_eq!((due(9), due(1)), (vec![ids[3], ids[2]], vec![ids[3]]));
    // A deletion with a grace period has the rev of the end that went with it, and keeps its address until it is final.
    let deleting = Status::Deleting { at: START, until: START.plus(90), rev: Rev::ZERO };
    let done =
        w.ok([super::end(Target::Account(ids[0]), None), Change::SetStatus { account: ids[0], status: deleting }]);
    let rev = done.rev.unwrap();
    assert_eq!(w.account(ids[0]).status, Status::Deleting { at: w.now(), until: START.plus(90), rev });
    assert!(w.account(ids[0]).email.is_some() && !w.account(ids[0]).usable_at(w.now()));
    w.ok([Change::SetStatus { account: ids[0], status: Status::Deleted { at: w.now(), rev } }]);
    assert_eq!((w.account(ids[0]).status, w.account(ids[0]).email), (Status::Deleted { at: w.now(), rev }, None));
}

pub(super) fn live_sessions_are_counted_under_the_lock(backend: &dyn Backend) {
    let (w, ada, first, _) = World::peopled(backend);
    let (second, _) = w.new_session(&ada);
    let (third, _) = w.new_session(&ada);
    let holds = |besides: &[SessionId], at_most, idle| {
        let besides = besides.to_vec();
        w.expects(Expect::LiveSessions { account: ada.id, counted: Counted::All, besides, at_most }, idle)
    };
    assert_eq!((holds(&[], 3, None), holds(&[], 2, None)), (Ok(()), Err(Conflict::Moved)));
    assert_eq!(holds(&[first.id], 2, None), Ok(()));
    w.end(Target::Session(first.id));
    assert_eq!((holds(&[], 2, None), holds(&[first.id], 1, None)), (Ok(()), Err(Conflict::Moved)));
    w.set(START.plus(5_000));
    w.ok([Change::Seen(vec![(third.id, w.now())])]);
    assert_eq!((holds(&[], 1, Some(4_000)), holds(&[], 1, None)), (Ok(()), Err(Conflict::Moved)));
    w.ok([super::end(Target::Account(ada.id), Some(second.id))]);
    assert_eq!((holds(&[], 0, None), holds(&[second.id], 0, None)), (Err(Conflict::Moved), Ok(())));
    w.ok([Change::SetStatus { account: ada.id, status: Status::Deleted { at: START, rev: Rev(1) } }]);
    assert_eq!(holds(&[], 0, None), Ok(()));
}

/// A sign-in makes room among sign-ins: an application's session, or a key, is none.
pub(super) fn sessions_are_counted_by_kind(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend); // with one sign-in
    let app = w.new_client(portcullis_domain::model::ClientKind::Public).id;
    let of =
        |kind, client| Session { kind, client, ..session(SessionId::from_bits(w.bits()), ada.id, w.now(), Rev::ZERO) };
    w.ok([
        Change::InsertSession(of(SessionKind::Browser, None)),
        Change::InsertSession(of(SessionKind::Connected, Some(app))),
        Change::InsertSession(of(SessionKind::Service, Some(app))),
        Change::InsertSession(of(SessionKind::ApiKey, None)),
        Change::InsertSession(of(SessionKind::ApiKey, None)),
    ]);
    for (counted, most) in [(Counted::All, 6), (Counted::SignIns, 2), (Counted::ApiKeys, 2)] {
        let holds =
            |at_most| w.expects(Expect::LiveSessions { account: ada.id, counted, besides: vec![], at_most }, None);
        assert_eq!((holds(most), holds(most - 1)), (Ok(()), Err(Conflict::Moved)), "{counted:?}");
    }
}

/// Of a session that goes on, what has ended under it goes once the log has forgotten the end; and no sooner.
pub(super) fn grants_that_ended_go_under_a_session_that_goes_on(backend: &dyn Backend) {
    let (w, _, ses, own) = World::peopled(backend);
    let grants: Vec<_> = (0..4).map(|_| w.new_grant(ses.id)).collect();
    for grant in &grants[..3] {
        w.end(Target::Grant(*grant));
    }
    let prune = |most| w.ok([Change::PruneGrants { most }]).pruned;
    assert_eq!(prune(9), 0, "the log still names them");
    w.set(HORIZON.plus(60_000));
    w.ok([Change::RaiseFloor(HORIZON.plus(1))]);
    assert_eq!((prune(2), prune(9), prune(9)), (2, 1, 0));
    let there = |id| wait(w.store.load_refresh(id)).unwrap().is_some();
    assert_eq!((there(own.id), there(grants[3]), grants[..3].iter().any(|id| there(*id))), (true, true, false));
    assert_eq!(wait(w.store.count_rows()).unwrap().grants, 2);
}

/// Of clients that registered themselves those go that nobody vouches for, and that nobody used; and no others.
pub(super) fn clients_that_nobody_used_go(backend: &dyn Backend) {
    const UNUSED: i64 = 10_000;
    let (w, ada, ses, _) = World::peopled(backend);
    let with = |change: &dyn Fn(&mut Client)| {
        let mut row = Client { id: ClientId::from_bits(w.bits()), ..w.new_client(ClientKind::Confidential) };
        row.profile.registration = Some("token".into());
        change(&mut row);
        w.ok([Change::InsertClient(row.clone())]);
        row.id
    };
    let there = |id| wait(w.store.load_client(id)).unwrap().is_some();
    let prune = |ids: &[ClientId]| w.ok([Change::PruneClients { clients: ids.to_vec(), unused: UNUSED }]).pruned;
    let (alone, twin, off, deleted) = (
        with(&|_| {}),
        with(&|_| {}),
        with(&|row| row.disabled = true),
        with(&|row| {
            row.profile = Profile { deleted: true, ..Profile::default() };
            row.disabled = true;
        }),
    );
    let young = with(&|row| row.created_at = START.plus(1));
    // Each of them is known to somebody.
    let kept = [
        with(&|row| row.profile.vouched = true),
        with(&|row| row.profile.registration = None),
        with(&|row| row.profile.service_account = Some(ada.id)),
        ClientId::FIRST_PARTY,
    ];
    let [allowed, withdrawn, granted, owner, pushed] = [(); 5].map(|()| with(&|_| {}));
    let consent =
        |client| Consent { account: ada.id, client, scope: "openid".into(), granted_at: START, generation: 0 };
    w.ok([Change::PutConsent(consent(allowed)), Change::PutConsent(consent(withdrawn))]);
    w.ok([Change::WithdrawConsent { account: ada.id, client: withdrawn, generation: 0 }]);
    let grant = w.new_grant_of(ses.id, granted);
    let own = Session {
        kind: SessionKind::Connected,
        client: Some(owner),
        ..session(SessionId::from_bits(w.bits()), ada.id, START, Rev::ZERO)
    };
    w.ok([Change::InsertSession(own)]);
    w.ok([Change::InsertTicket(Ticket {
        id: ticket::id(TicketKind::Pushed, "pushed"),
        kind: TicketKind::Pushed,
        account: None,
        session: None,
        client: Some(pushed),
        born: Rev::ZERO,
        epoch: Epoch(1),
        expires_at: START.plus(60),
        body: String::new(),
        version: 1,
        used: None,
    })]);
    let used = [allowed, withdrawn, granted, owner, pushed];
    let all: Vec<ClientId> =
        [&[alone, twin, off, deleted, young][..], &kept, &used, &[ClientId::from_bits(1)]].concat();
    w.set(START.plus(UNUSED - 1));
    assert_eq!(prune(&all), 0, "not yet");
    w.set(START.plus(UNUSED));
    assert_eq!(prune(&[alone, alone]), 1);
    assert_eq!((there(alone), there(twin)), (false, true), "those that are named");
    assert_eq!(prune(&all), 3);
    assert_eq!([twin, off, deleted, young].map(there), [false, false, false, true]);
    assert!(kept.into_iter().chain(used).all(there));
    // A grant that ended counts until its row goes, and a ticket as long.
    w.end(Target::Grant(grant));
    assert_eq!(prune(&used), 0);
    w.ok([Change::PruneTickets { before: START.plus(61), most: 9 }]);
    assert_eq!((prune(&used), there(pushed)), (1, false));
    w.set(HORIZON.plus(60_000));
    w.ok([Change::RaiseFloor(HORIZON.plus(1)), Change::PruneGrants { most: 9 }]);
    assert_eq!((prune(&all), there(granted), there(young)), (2, false, false));
    assert!([allowed, withdrawn, owner].into_iter().chain(kept).all(there));
    // Nothing is made for who is gone.
    let gone = Expect::ClientVersion { client: alone, version: 1 };
    assert!(w.expects(gone, None).is_err());
}

/// A session idles by what its own client does: what an application does under a browser's session is no use of that.
pub(super) fn a_session_idles_by_its_own_clients_use(backend: &dyn Backend) {
    let (w, _, ses, own) = World::peopled(backend);
    let theirs = w.new_grant(ses.id);
    let handed = |grant, at| w.ok([Change::HandOut { grant, counter: 1, at }]);
    handed(theirs, START.plus(5_000));
    let view = |grant| wait(w.store.load_refresh(grant)).unwrap().unwrap();
    assert_eq!((view(own.id).used_at(), view(own.id).idle_since()), (START, None));
    assert_eq!((view(theirs).used_at(), view(theirs).idle_since()), (START, Some(START)));
    assert_eq!(wait(w.store.load_session(ses.id)).unwrap().unwrap().used_at(), START);
    w.set(START.plus(4_000));
    let alive = |idle| w.expects(Expect::Alive { session: ses.id, role: None }, Some(idle)).is_ok();
    assert_eq!((alive(4_001), alive(4_000)), (true, false));
    handed(own.id, START.plus(3_000));
    assert_eq!((view(theirs).used_at(), view(own.id).used_at()), (START.plus(3_000), START.plus(3_000)));
    assert_eq!((alive(1_001), alive(1_000)), (true, false));
    w.ok([Change::Seen(vec![(ses.id, START.plus(3_500))])]);
    assert_eq!((view(theirs).used_at(), alive(501), alive(500)), (START.plus(3_500), true, false));
    // An application's own session is its own.
    let app = w.new_client(portcullis_domain::model::ClientKind::Public).id;
    let kind = SessionKind::Connected;
    let connected =
        Session { kind, client: Some(app), ..session(SessionId::from_bits(w.bits()), ses.account, START, Rev::ZERO) };
    w.ok([Change::InsertSession(connected.clone())]);
    let grant = w.new_grant_of(connected.id, app);
    handed(grant, START.plus(9_000));
    assert_eq!((view(grant).used_at(), view(grant).idle_since()), (START.plus(9_000), None));
    assert_eq!(wait(w.store.load_session(connected.id)).unwrap().unwrap().used_at(), START.plus(9_000));
}

pub(super) fn tickets_of_a_session_are_crowded_out_oldest_first(backend: &dyn Backend) {
    let (w, _, ses, _) = World::peopled(backend);
    let put = |n: u64, kind, of| {
        let id = ticket::id(kind, &n.to_string());
        w.ok([Change::InsertTicket(Ticket {
            id,
            kind,
            account: None,
            session: of,
            client: None,
            born: Rev::ZERO,
            epoch: Epoch(1),
            expires_at: START.plus(n as i64),
            body: String::new(),
            version: 1,
            used: None,
        })]);
        id
    };
    let all: Vec<_> = (0..8).map(|n| put(n, TicketKind::Code, Some(ses.id))).collect();
    let others = [
        put(90, TicketKind::Pushed, Some(ses.id)),
        put(91, TicketKind::Code, Some(SessionId::from_bits(77))),
        put(92, TicketKind::Code, None),
    ];
    for ticket in &all[..4] {
        w.ok([Change::UseTicket { ticket: *ticket, at: START, grant: None }]);
    }
    let crowd =
        |open, used| w.ok([Change::CrowdOutTickets { session: ses.id, kind: TicketKind::Code, open, used }]).pruned;
    let there =
        |ids: &[Digest]| ids.iter().map(|id| wait(w.store.load_ticket(*id)).unwrap().is_some()).collect::<Vec<_>>();
    assert_eq!(crowd(4, 4), 0);
    assert_eq!(crowd(1, 3), 4, "three of the open ones, one of the used ones");
    assert_eq!(there(&all), [false, true, true, true, false, false, false, true]);
    assert_eq!(crowd(0, 0), 4);
    assert_eq!(there(&others), [true; 3]);
}

pub(super) fn a_cookie_is_replaced_once(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let digest = |text: &str| Digest::of(text.as_bytes());
    let cookie = Some(digest("first"));
    let row = Session { cookie, ..session(SessionId::from_bits(w.bits()), ada.id, w.now(), Rev::ZERO) };
    w.ok([Change::InsertSession(row.clone())]);
    let old = |amr| Some(OldCookie { digest: digest("first"), proof: Proof { at: START, amr }, until: START.plus(9) });
    let set = |session, before, to, old| Change::SetCookie { session, before: digest(before), cookie: digest(to), old };
    w.ok([set(row.id, "first", "second", old(Amr::default()))]);
    let cookie = Some(digest("second"));
    for amr in [Amr::default(), Amr::unknown(), Amr::elsewhere(&["otp".into(), "mfa".into()])] {
        w.ok([set(row.id, "second", "second", old(amr.clone()))]);
        assert_eq!(w.session(row.id), Session { cookie, old_cookie: old(amr), ..row.clone() });
    }
    assert_eq!(w.conflict([set(row.id, "first", "third", None)]), Conflict::Moved);
    assert_eq!(w.conflict([set(SessionId::from_bits(1), "first", "third", None)]), Conflict::Missing);
    w.ok([set(row.id, "second", "second", None)]);
    assert_eq!(w.session(row.id), Session { cookie, ..row });
}
