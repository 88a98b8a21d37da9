//! All or nothing, and then for good.
use super::apps::new_ticket;
use super::show::{Known, show};
use super::{Backend, HORIZON, START, World, account, conflict, end, wait};
use crate::CommitError;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{BoundRow, Change, Changes, Committed, Conflict, Expect, Idempotency};
use portcullis_domain::event::EventKind;
use portcullis_domain::family::Family;
use portcullis_domain::model::{Consent, Status};
use portcullis_domain::ticket::Ticket;
use portcullis_wire::{AccountId, ClientId, Digest, GrantId, KeyId, Rev, SessionId, Target, Time};

/// A commit that writes into every table.
fn everything(w: &World<'_>, known: &mut Known) -> Changes {
    let eve = account(AccountId::from_bits(w.bits()), &format!("eve{}@example.org", w.bits()));
    let ses = super::session(SessionId::from_bits(w.bits()), eve.id, w.now(), Rev(9));
    let gra = super::grant(GrantId::from_bits(w.bits()), ses.id, w.now(), Rev(9));
    let call = ("system".to_owned(), w.bits().to_string());
    known.accounts.push(eve.id);
    known.sessions.push(ses.id);
    known.grants.push(gra.id);
    known.emails.extend(eve.email.clone());
    known.calls.push(call.clone());
    let client = super::client(ClientId::from_bits(w.bits()));
    let instance = portcullis_domain::model::Instance {
        id: portcullis_wire::InstanceId::from_bits(w.bits()),
        client: client.id,
        name: "i".into(),
        policy: "closed".into(),
        bound_ms: 1,
        secret: Digest::of(b"i"),
        created_at: w.now(),
    };
    let key = portcullis_domain::model::Key {
        id: KeyId((w.bits() >> 64) as u32),
        purpose: portcullis_domain::model::KeyPurpose::Mac,
        public_jwk: String::new(),
        sealed: portcullis_wire::SecretBytes::new([5]),
        created_at: w.now(),
        active_from: None,
        retired_at: None,
        dead: None,
    };
    let (account, scope, granted_at) = (known.accounts[0], "openid".into(), w.now());
    let consent = Consent { account, client: client.id, scope, granted_at, generation: 0 };
    let ticket = Ticket { session: Some(ses.id), client: Some(client.id), ..new_ticket(&w.bits().to_string()) };
    known.tickets.push(ticket.id);
    let family = Family { counter: 2, predecessor: Some(1), ..gra.family.clone() };
    let steps = vec![
        Change::InsertAccount(eve.clone()),
        Change::InsertSession(ses.clone()),
        Change::InsertGrant(gra.clone()),
        Change::SetFamily { grant: gra.id, counter: 1, predecessor: None, family },
        Change::InsertClient(client.clone()),
        Change::UpdateClient(client),
        Change::PutConsent(consent.clone()),
        Change::WithdrawConsent { account: consent.account, client: consent.client, generation: 0 },
        Change::InsertTicket(ticket.clone()),
        Change::UpdateTicket(ticket.clone()),
        Change::UseTicket { ticket: ticket.id, at: w.now(), grant: Some(gra.id) },
        Change::SetAuthTime { session: ses.id, at: Time(8), amr: Amr::unknown() },
        Change::Unprove { session: ses.id, grant: Some(gra.id) },
        Change::InsertInstance(instance),
        Change::InsertKey(key),
        Change::RaiseHorizon(HORIZON.plus(w.bits() as i64 & 0xff)),
        end(Target::Session(ses.id), None),
        end(Target::All, Some(ses.id)),
        Change::SetBound(BoundRow { current_ms: 1, next_ms: 2, next_from: w.now() }),
        Change::RaiseFloor(Time(1)),
        Change::SetStatus { account: eve.id, status: Status::Deleted { at: w.now(), rev: Rev(0) } },
    ];
    let events = vec![w.event(EventKind::AccountCreated).account(eve.id), w.event(EventKind::EveryoneEnded)];
    let idempotency = Some(Idempotency { actor: call.0, key: call.1, request: Digest::of(b"r"), made: None });
    Changes { steps, events, idempotency, ..Changes::default() }
}

pub(super) fn a_refused_commit_leaves_nothing_behind(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    let mut known = Known { accounts: vec![ada.id], sessions: vec![ses.id], grants: vec![gra.id], ..Known::default() };
    let first = everything(&w, &mut known);
    let (taken_event, taken_call) = (first.events[0].clone(), first.idempotency.clone());
    w.commit(first).unwrap();
    let before = show(&*w.store, &known);

    // After each step in turn, one that cannot be.
    let steps = everything(&w, &mut known).steps.len();
    for at in 0..=steps {
        let mut changes = everything(&w, &mut known);
        changes.steps.insert(at, Change::RenameSession { session: SessionId::from_bits(1), device_name: "x".into() });
        assert_eq!(conflict(w.commit(changes)), Conflict::Missing);
    }
    let changes = Changes { idempotency: taken_call, ..everything(&w, &mut known) };
    assert_eq!(conflict(w.commit(changes)), Conflict::Repeated);
    let mut changes = everything(&w, &mut known);
    changes.events.push(taken_event);
    assert!(matches!(w.commit(changes), Err(CommitError::Failed(_))), "a record's id is used once");
    let expects = vec![Expect::Alive { session: ses.id, role: Some("no such role") }];
    let changes = Changes { expects, ..everything(&w, &mut known) };
    assert_eq!(conflict(w.commit(changes)), Conflict::NotAlive(ses.id));

    let none = Known { accounts: vec![ada.id], sessions: vec![ses.id], grants: vec![gra.id], ..Known::default() };
    let first = |all: &Known| Known {
        tickets: all.tickets[..1].to_vec(),
        accounts: all.accounts[..2].to_vec(),
        jobs: all.jobs.clone(),
        sessions: all.sessions[..2].to_vec(),
        grants: all.grants[..2].to_vec(),
        emails: all.emails[..1].to_vec(),
        calls: all.calls[..1].to_vec(),
    };
    assert_eq!(show(&*w.store, &first(&known)), before);
    for id in &known.grants[none.grants.len() + 1..] {
        assert!(wait(w.store.load_refresh(*id)).unwrap().is_none());
    }
    for id in &known.tickets[1..] {
        assert!(wait(w.store.load_ticket(*id)).unwrap().is_none());
    }
    for (actor, key) in &known.calls[1..] {
        assert!(wait(w.store.load_remembered(actor, key)).unwrap().is_none());
    }
    // And the next one works, with the next rev.
    let changes = everything(&w, &mut known);
    assert_eq!(w.commit(changes).unwrap().rev, Some(Rev(4)));
}

pub(super) fn nothing_is_a_commit_too(backend: &dyn Backend) {
    let w = World::new(backend);
    w.set(START.plus(4));
    assert_eq!(w.ok([]), Committed { rev: None, ended: None, attempt: None, pruned: 0, at: START.plus(4) });
}

pub(super) fn all_is_there_after_opening_again(backend: &dyn Backend) {
    let (mut w, ada, ses, gra) = World::peopled(backend);
    let mut known = Known { accounts: vec![ada.id], sessions: vec![ses.id], grants: vec![gra.id], ..Known::default() };
    for _ in 0..3 {
        w.ok([end(Target::Client(ClientId::FIRST_PARTY), Some(ses.id))]);
        let changes = everything(&w, &mut known);
        w.commit(changes).unwrap();
        w.ok([Change::RaiseFloor(HORIZON.minus(1))]);
        let before = show(&*w.store, &known);
        let Some(again) = w.reopen() else { return };
        assert_eq!(show(&*again.store, &known), before);
        w = again;
    }
    let head = wait(w.store.stamp()).unwrap().head;
    assert_eq!(w.end(Target::All).rev, head.next(), "the numbers go on");
}
