//! What those are shown who look and write nothing.
use super::{Backend, START, World, end, revoke, wait};
use crate::Store;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::mass::{Filter, Job, Standing};
use portcullis_domain::model::{Block, ClientKind, Status};
use portcullis_domain::retention::Retention;
use portcullis_domain::view::{RefreshView, Stamp, session_dead};
use portcullis_wire::{Epoch, GrantId, JobId, Rev, Target, TokenId, Verb};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

/// Each way in which something ends, and a few other changes: whoever looked before sees it at once.
pub(super) fn what_changes_shows_to_whoever_looks(backend: &dyn Backend) {
    let (w, acc, ses, gra) = World::peopled(backend);
    let (other, others) = w.new_session(&acc);
    let client = w.new_client(ClientKind::Confidential);
    let granted = w.new_grant_of(ses.id, client.id);
    let token = Target::Token(TokenId::from_bits(1));
    let job = {
        let rule = Standing { rev: Rev::ZERO, filter: Filter::default(), except: Some(ses.id) };
        Job::new(JobId::from_bits(1), rule, false, "system".into(), "r", START)
    };
    let blocked = Status::Blocked(Block { reason: "r".into(), actor: "system".into(), at: START, until: None });
    let mut renamed = client.clone();
    renamed.name = "another name".into();
    let steps: Vec<Vec<Change>> = vec![
        vec![Change::RenameSession { session: ses.id, device_name: "a phone".into() }],
        vec![Change::SetProfile { account: acc.id, name: Some("Eve".into()), roles: vec![] }],
        vec![Change::SetEmail { account: acc.id, email: None, verified_at: None }],
        vec![Change::SetPassword { account: acc.id, hash: "$other$".into(), rehash: false }],
        vec![Change::SetAuthTime { session: ses.id, at: START.plus(5), amr: Amr::default() }],
        vec![Change::Unprove { session: ses.id, grant: Some(gra.id) }],
        vec![Change::SetNetwork { grant: gra.id, network: [7; 8] }],
        vec![Change::UpdateClient(renamed)],
        vec![end(token, None)],
        vec![end(Target::Grant(granted), None)],
        vec![Change::SetClientDisabled { client: client.id, disabled: true }],
        vec![Change::SetClientDisabled { client: client.id, disabled: false }],
        vec![end(Target::Client(client.id), None)],
        vec![revoke(Verb::Stale, Target::All, None), Change::InsertJob(job)],
        vec![Change::SetStatus { account: acc.id, status: blocked }],
        vec![Change::SetStatus { account: acc.id, status: Status::Active }],
        vec![end(Target::Session(other.id), None)],
        vec![end(Target::Account(acc.id), Some(ses.id))],
        vec![end(Target::All, None)],
        vec![Change::Refound { epoch: Epoch(2), base: Rev(1_000) }],
    ];
    for steps in steps {
        w.set(w.now().plus(10));
        w.commit(Changes { steps, ..Changes::default() }).unwrap(); // and looks
    }
    let view = |grant: GrantId| wait(w.store.peek_refresh(grant)).unwrap().unwrap().view;
    let (first, second) = (view(gra.id), view(others.id));
    assert_eq!((first.stamp.epoch, first.session.device_name.as_str()), (Epoch(2), "a phone"));
    assert!(second.session.ended.is_some() && view(granted).grant.ended.is_some());
}

/// One ends sessions; others look all the time. Who has been told of an end, or has read it, sees no life there any more.
pub(super) fn who_knows_of_an_end_sees_no_life(backend: &dyn Backend) {
    const ENDS: usize = 150;
    let (w, acc, ..) = World::peopled(backend);
    let all: Vec<_> = (0..ENDS).map(|_| w.new_session(&acc)).collect();
    let (told, done, looks) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let ended = |store: &dyn Store, grant: GrantId| {
        wait(store.peek_refresh(grant)).unwrap().unwrap().view.session.ended.is_some()
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let _guard = backend.enter();
                while !done.load(SeqCst) {
                    let known = usize::try_from(told.load(SeqCst)).unwrap();
                    // What was answered, what is under way, and what lives.
                    for (at, (_, grant)) in all.iter().enumerate().skip(known.saturating_sub(2)).take(4) {
                        let read = wait(w.store.load_refresh(grant.id)).unwrap().unwrap().session.ended.is_some();
                        assert!(ended(&*w.store, grant.id) || !(read || at < known), "{at} of {known}, read {read}");
                        looks.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let ending = || {
            for (number, (session, _)) in all.iter().enumerate() {
                // Somebody looks between two ends, however fast they are; who does not any more has failed, and says so.
                let before = looks.load(SeqCst);
                (0..1_000_000).find(|_| {
                    thread::yield_now();
                    looks.load(SeqCst) > before
                });
                w.end(Target::Session(session.id));
                told.store(number as u64 + 1, SeqCst);
            }
        };
        // However that ends, the others stop.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ending));
        done.store(true, SeqCst);
        outcome.unwrap();
    });
    assert!(looks.load(SeqCst) > 100, "nobody looked");
    assert!(all.iter().all(|(_, grant)| ended(&*w.store, grant.id)));
}

/// Rows that were deleted are not shown either, and time passes for those that are kept.
pub(super) fn what_is_gone_is_not_looked_at(backend: &dyn Backend) {
    let (w, acc, ses, gra) = World::peopled(backend);
    let idled = |view: &RefreshView, now| {
        let stamp = Stamp { now, ..view.stamp };
        session_dead(&stamp, &view.standing, &view.session, &view.account, view.used_at(), 1_000)
    };
    let dead = |w: &World<'_>| {
        let peeked = wait(w.store.peek_refresh(gra.id)).unwrap().unwrap();
        idled(&peeked.view, peeked.now).is_some()
    };
    assert!(!dead(&w));
    w.set(w.now().plus(2_000));
    assert!(dead(&w), "it has idled too long, also for who looked before");
    w.ok([Change::Seen(vec![(ses.id, w.now())])]);
    let row = wait(w.store.load_refresh(gra.id)).unwrap().unwrap();
    assert_eq!(idled(&row, w.now()), None, "who asks the database is told of the use");
    w.end(Target::Account(acc.id));
    assert!(dead(&w));
    w.set(ses.absolute_expires_at.plus(1_000_000));
    w.ok([Change::RaiseFloor(w.now())]);
    let keep = Retention { ended: 0, addresses: 0, events: None, idle_ttl: 1 };
    let gone = w.ok([Change::PruneSessions { sessions: vec![ses.id], keep }]);
    assert_eq!(gone.pruned, 1);
    assert!(wait(w.store.peek_refresh(gra.id)).unwrap().is_none());
}
