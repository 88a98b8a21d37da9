//! Many at once.
use super::apps::new_ticket;
use super::{Backend, World, account, conflict, end, grant, wait};
use crate::CommitError;
use portcullis_domain::changes::{Change, Changes, Committed, Conflict, Expect, Idempotency};
use portcullis_domain::family::Family;
use portcullis_domain::model::{ClientKind, Consent, Grant};
use portcullis_domain::throttle::{Attempt, BucketKey, DEVICE};
use portcullis_wire::{AccountId, Chain, Digest, GrantId, Rev, Target};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

const MANY: usize = 64;

/// All these commits at once, each from a thread of its own.
pub(super) fn at_once(w: &World<'_>, all: Vec<Changes>) -> Vec<Result<Committed, CommitError>> {
    let (start, store, backend) = (Barrier::new(all.len()), &*w.store, w.backend);
    thread::scope(|scope| {
        let run = |changes| {
            let start = &start;
            scope.spawn(move || {
                let _guard = backend.enter();
                start.wait();
                wait(store.commit(changes))
            })
        };
        let threads: Vec<_> = all.into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn steps(steps: Vec<Change>) -> Changes {
    Changes { steps, ..Changes::default() }
}

/// The one that was committed; all others failed with this conflict.
fn only_one(results: Vec<Result<Committed, CommitError>>, others: Conflict) -> usize {
    let won: Vec<usize> = results.iter().enumerate().filter(|(_, r)| r.is_ok()).map(|(at, _)| at).collect();
    assert_eq!(won.len(), 1, "exactly one: {results:?}");
    for result in results.into_iter().filter(Result::is_err) {
        assert_eq!(conflict(result), others);
    }
    won[0]
}

pub(super) fn one_of_many_moves_a_family(backend: &dyn Backend) {
    let (w, _, _, gra) = World::peopled(backend);
    let mut family = gra.family.clone();
    for _ in 0..5 {
        let (counter, predecessor) = (family.counter, family.predecessor);
        let next = |n: usize| Family {
            counter: counter + 1,
            predecessor: Some(counter),
            handouts: n as u32,
            ..family.clone()
        };
        let all =
            (0..MANY).map(|n| steps(vec![Change::SetFamily { grant: gra.id, counter, predecessor, family: next(n) }]));
        let won = only_one(at_once(&w, all.collect()), Conflict::Moved);
        assert_eq!(w.grant(gra.id).family, next(won));
        family = next(won);
    }
}

pub(super) fn one_of_many_redeems_a_ticket(backend: &dyn Backend) {
    let (w, _, ses, _) = World::peopled(backend);
    for round in 0..5 {
        let code = new_ticket(&round.to_string());
        w.ok([Change::InsertTicket(code.clone())]);
        let new = |_| grant(GrantId::from_bits(w.bits()), ses.id, w.now(), Rev::ZERO);
        let grants: Vec<_> = (0..MANY).map(new).collect();
        let redeem = |row: &Grant| {
            let used = Change::UseTicket { ticket: code.id, at: w.now(), grant: Some(row.id) };
            steps(vec![Change::InsertGrant(row.clone()), used])
        };
        let won = only_one(at_once(&w, grants.iter().map(redeem).collect()), Conflict::Used);
        let kept = wait(w.store.load_ticket(code.id)).unwrap().unwrap().ticket;
        assert_eq!(kept.used.unwrap().grant, Some(grants[won].id));
        let there = grants.iter().filter(|row| wait(w.store.load_refresh(row.id)).unwrap().is_some());
        assert_eq!(there.map(|row| row.id).collect::<Vec<_>>(), [grants[won].id]);
    }
}

pub(super) fn one_of_many_shows_a_proof(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    // Two at a time, in either order: nobody waits for another for ever.
    for round in 0..5 {
        let proofs = [0, 1].map(|n| new_ticket(&format!("{round}.{n}")));
        let show = |n: usize| {
            let mut both = proofs.to_vec();
            both.rotate_left(n % 2);
            steps(both.into_iter().map(Change::InsertTicket).collect())
        };
        only_one(at_once(&w, (0..MANY).map(show).collect()), Conflict::Used);
    }
    assert_eq!(wait(w.store.count_rows()).unwrap().tickets, 10);
}

/// A consent that is withdrawn, with all grants that it gave, beside one more grant: whichever comes first, the other fails.
pub(super) fn a_withdrawal_and_a_grant_never_both(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    for round in 0..20 {
        let (client, account) = (w.new_client(ClientKind::Public).id, ada.id);
        let row = Grant { client, ..grant(GrantId::from_bits(w.bits()), ses.id, w.now(), Rev::ZERO) };
        let given = Consent { account, client, scope: "openid".into(), granted_at: w.now(), generation: 0 };
        if round % 2 == 0 {
            w.ok([Change::PutConsent(given)]);
        } // else there is no row yet
        let insert = Changes {
            expects: vec![Expect::Consent { account, client, generation: 0 }],
            ..steps(vec![Change::InsertGrant(row.clone())])
        };
        let withdraw = Changes {
            expects: vec![Expect::NoOtherGrants { account, client, besides: vec![] }],
            ..steps(vec![Change::WithdrawConsent { account, client, generation: 0 }])
        };
        let results = at_once(&w, if round % 4 < 2 { vec![insert, withdraw] } else { vec![withdraw, insert] });
        only_one(results, Conflict::Moved);
        let view = wait(w.store.load_app(ses.id, client)).unwrap().unwrap();
        assert_eq!(view.generation() == 0, wait(w.store.load_refresh(row.id)).unwrap().is_some());
    }
}

pub(super) fn one_of_many_takes_an_address(backend: &dyn Backend) {
    let w = World::new(backend);
    let rows: Vec<_> = (0..MANY).map(|_| account(AccountId::from_bits(w.bits()), "ada@example.org")).collect();
    let all = rows.iter().map(|row| steps(vec![Change::InsertAccount(row.clone())])).collect();
    let won = only_one(at_once(&w, all), Conflict::EmailTaken);
    assert_eq!(wait(w.store.list_accounts(None, None, 100)).unwrap().rows, [rows[won].clone()]);
}

pub(super) fn one_of_many_keeps_a_repeated_call(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let call = Idempotency { actor: "a".into(), key: "k".into(), request: Digest::of(b"r"), made: None };
    let act = Changes { idempotency: Some(call), ..steps(vec![end(Target::Account(ada.id), None)]) };
    only_one(at_once(&w, vec![act; MANY]), Conflict::Repeated);
    assert_eq!(wait(w.store.stamp()).unwrap().head, Rev(1));
}

pub(super) fn revs_have_no_gap_and_no_twin(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let all = (0..MANY).map(|n| match n % 4 {
        0 => steps(vec![end(Target::All, Some(ses.id))]),
        1 => steps(vec![end(Target::Account(ada.id), Some(ses.id)), end(Target::Account(ada.id), Some(ses.id))]),
        // Half of them fail after they took a rev.
        2 => steps(vec![end(Target::All, None), end(Target::Account(AccountId::from_bits(1)), None)]),
        _ => steps(vec![end(Target::Account(ada.id), Some(ses.id))]),
    });
    let results = at_once(&w, all.collect());
    let mut revs: Vec<u64> = Vec::new();
    for (n, result) in results.into_iter().enumerate() {
        match n % 4 {
            1 => revs.extend(result.unwrap().rev.into_iter().flat_map(|rev| [rev.0 - 1, rev.0])),
            2 => assert_eq!(conflict(result), Conflict::Missing),
            _ => revs.extend(result.unwrap().rev.map(|rev| rev.0)),
        }
    }
    revs.sort_unstable();
    assert_eq!(revs, (1..=MANY as u64).collect::<Vec<_>>());
    let (stamp, entries) = wait(w.store.read_live()).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.rev.0).collect::<Vec<_>>(), revs);
    assert_eq!(stamp.chain, entries.iter().fold(Chain::genesis(stamp.log), Chain::after));
}

/// Sets a flag when dropped, so that readers end also when the writer panics.
struct Finally<'a>(&'a AtomicBool);
impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

pub(super) fn no_head_without_its_facts(backend: &dyn Backend) {
    let (w, ada, first, gra) = World::peopled(backend);
    // The n-th of these ends with rev 2n+1, and rev 2n+2 cuts the account but for the first session.
    let sessions: Vec<_> = (0..60).map(|_| w.new_session(&ada).0).collect();
    let (over, store) = (AtomicBool::new(false), &*w.store);
    let saw = |seen: u64| {
        let view = wait(store.load_refresh(gra.id)).unwrap().unwrap();
        let head = view.stamp.head.0;
        assert!(head >= seen, "what a reader saw once it sees ever after");
        assert_eq!(view.account.cut.rev.0, head / 2 * 2, "the cut is that of the head");
        let next = &sessions[(head / 2).min(59) as usize];
        let view = wait(store.load_session(next.id)).unwrap().unwrap();
        let (head, ended) = (view.stamp.head.0, view.session.ended.map(|ended| ended.rev.0));
        let own = sessions.iter().position(|s| s.id == next.id).unwrap() as u64 * 2 + 1;
        assert_eq!(ended, (head >= own).then_some(own), "an end and its rev come together, at head {head}");
        assert_eq!(view.account.cut.rev.0, head / 2 * 2);
        let log = wait(store.read_log(Rev::ZERO, 1000)).unwrap();
        assert_eq!(log.entries.len() as u64, log.stamp.head.0, "the log reaches to the head");
        assert_eq!(log.stamp.chain, log.entries.iter().fold(Chain::genesis(log.stamp.log), Chain::after));
        let view = wait(store.load_sign_in("ada@example.org", gra.client)).unwrap();
        assert_eq!(view.account.unwrap().cut.rev.0, view.stamp.head.0 / 2 * 2);
        let listed = wait(store.list_sessions(ada.id, 100)).unwrap();
        let head = listed[0].stamp.head.0;
        let live = [61, 60].get(head as usize).copied().unwrap_or(1);
        assert_eq!(listed.len(), live, "at head {head}");
        view.stamp.head.0.min(head)
    };
    let reading = AtomicUsize::new(0);
    thread::scope(|scope| {
        let reader = || {
            let _guard = backend.enter();
            let mut seen = saw(0);
            reading.fetch_add(1, SeqCst);
            while !over.load(SeqCst) {
                seen = saw(seen);
            }
        };
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(reader)).collect();
        let finally = Finally(&over);
        // They read before the first commit, and on; one that fails is told of below.
        while reading.load(SeqCst) < readers.len() && !readers.iter().any(|reader| reader.is_finished()) {
            thread::yield_now();
        }
        for session in &sessions {
            w.end(Target::Session(session.id));
            let cut = w.ok([end(Target::Account(ada.id), Some(first.id))]);
            saw(cut.rev.unwrap().0);
        }
        drop(finally);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

pub(super) fn one_budget_for_many_at_once(backend: &dyn Backend) {
    let w = World::new(backend);
    let [account, network, prefix, device] = [1, 2, 3, 4].map(|n| BucketKey([n; 16]));
    let attempt = Attempt { account, network, prefix, device: Some(device), mail: false };
    let results = at_once(&w, (0..MANY).map(|_| steps(vec![Change::TakeAttempt(attempt)])).collect());
    let checked = results.iter().filter(|r| r.as_ref().unwrap().attempt.unwrap().is_checked()).count() as i64;
    assert_eq!(checked, DEVICE.burst);
}
