//! The chain over audit records: sealed once and in one order, pruned from its beginning, erased without breaking.
use super::parallel::at_once;
use super::{Backend, LOG, START, World, account, conflict, wait};
use crate::{ChainRead, CommitError, EventFilter, EventRow, Store};
use portcullis_domain::Chance;
use portcullis_domain::audit::{self, Anew, AuditKey, ChainRow, Checked, Page, Place, Sealing, Unsealed};
use portcullis_domain::changes::{Change, Changes, Conflict};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::model::Status;
use portcullis_wire::{AccountId, Digest, EventId, Rev, SecretBytes, Time};

/// The suite's key.
pub(super) fn key() -> AuditKey {
    AuditKey(SecretBytes::new([5; 32]))
}

struct Counting(u128);
impl Chance for Counting {
    fn bits(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

pub(super) fn begun() -> Change {
    let start = key().genesis(LOG);
    Change::BeginChain(ChainRow::new(SecretBytes::new(*b"sealed"), start))
}

pub(super) fn read(store: &dyn Store) -> Option<ChainRead> {
    wait(store.read_chain(None, 100_000)).unwrap()
}

/// What would seal the oldest that have no seal.
pub(super) fn sealing(store: &dyn Store, most: u32, salt: u128) -> Option<Sealing> {
    let (from, rows) = (read(store)?.chain.head, wait(store.list_unsealed(most)).unwrap());
    Some(audit::seal(&key(), LOG, from, &rows, &mut Counting(salt)))
}

pub(super) fn checked(store: &dyn Store, known: Option<Place>) -> Checked {
    let ChainRead { chain, rows } = read(store).unwrap();
    let page = Page { log: LOG, chain: &chain, from: None, known, rows: &rows, last: true };
    audit::check(&key(), &page)
}

fn is_whole(w: &World<'_>) -> Checked {
    let out = checked(&*w.store, None);
    assert_eq!(out.findings, []);
    out
}

fn seal(w: &World<'_>, most: u32) -> Sealing {
    let what = sealing(&*w.store, most, w.bits()).unwrap();
    w.ok([Change::Seal(what.clone())]);
    what
}

/// What goes of those from before this time, looking at `most`.
pub(super) fn pruning(store: &dyn Store, before: Time, most: u32) -> Option<Change> {
    let ChainRead { chain, rows } = wait(store.read_chain(None, most)).unwrap()?;
    audit::prune(&key(), LOG, &chain, &rows, most as usize, before).unwrap().map(Change::PruneChain)
}

fn record(w: &World<'_>, event: NewEvent) -> EventId {
    let id = event.id;
    w.commit(Changes { events: vec![event], ..Changes::default() }).unwrap();
    id
}

fn some(w: &World<'_>, count: i64) -> Vec<EventId> {
    let one = |n: i64| {
        w.set(START.plus(n));
        let ip = (n % 2 == 0).then(|| "192.0.2.1".parse().unwrap());
        let event = w.event(EventKind::SessionStarted).ip(ip);
        record(w, if n % 3 == 0 { event.reason("why — „so“") } else { event })
    };
    (0..count).map(one).collect()
}

fn listed(w: &World<'_>, id: EventId) -> EventRow {
    let rows = wait(w.store.list_events(&EventFilter::default(), None, 1000)).unwrap().rows;
    rows.into_iter().find(|row| row.event.id == id).unwrap()
}

pub(super) fn records_are_chained(backend: &dyn Backend) {
    let w = World::new(backend);
    assert!(read(&*w.store).is_none());
    assert_eq!(wait(w.store.count_unsealed()).unwrap(), Unsealed::default());
    let ids = some(&w, 7);
    assert_eq!(wait(w.store.count_unsealed()).unwrap(), Unsealed { count: 7, since: Some(START) });
    assert_eq!(w.conflict([Change::Seal(Sealing { from: place(0), to: place(1), seals: vec![] })]), Conflict::Moved);
    w.ok([begun()]);
    assert_eq!(w.conflict([begun()]), Conflict::Moved, "it begins once");
    let empty = read(&*w.store).unwrap();
    assert_eq!(
        (empty.chain.head, empty.rows.len(), empty.chain.key.expose()),
        (key().genesis(LOG).place, 0, &b"sealed"[..])
    );
    is_whole(&w);
    // Two have seen the same; one of them is late, and so it is when it tries again.
    let (first, second) = (sealing(&*w.store, 4, 1).unwrap(), sealing(&*w.store, 2, 2).unwrap());
    w.ok([Change::Seal(first.clone())]);
    for late in [second, first.clone()] {
        assert_eq!(w.conflict([Change::Seal(late)]), Conflict::Moved);
    }
    // A record that has a seal, or that is not there, takes everything with it.
    let head = read(&*w.store).unwrap().chain.head;
    let again = Sealing { from: head, to: place(5), seals: vec![first.seals[0]] };
    let nobody = Sealing { from: head, to: place(5), seals: vec![(EventId::from_bits(1), first.seals[0].1)] };
    for wrong in [again, nobody] {
        assert_eq!(w.conflict([Change::Seal(wrong)]), Conflict::Moved);
    }
    seal(&w, 100);
    assert!(wait(w.store.list_unsealed(9)).unwrap().is_empty());
    let all = read(&*w.store).unwrap();
    let places: Vec<_> = all.rows.iter().map(|row| (row.seal.unwrap().place.n, row.event.id)).collect();
    assert_eq!(places, (1..).zip(ids.iter().copied()).collect::<Vec<_>>());
    assert_eq!((is_whole(&w).records, all.chain.head.n), (7, 7));
    // In pages, and beside the list.
    let page = wait(w.store.read_chain(Some(3), 2)).unwrap().unwrap();
    assert_eq!(page.rows, all.rows[3..5]);
    assert!(wait(w.store.read_chain(Some(7), 2)).unwrap().unwrap().rows.is_empty());
    assert!(wait(w.store.read_chain(Some(u64::MAX), 2)).unwrap().unwrap().rows.is_empty());
    assert_eq!(listed(&w, ids[2]), all.rows[2]);
    // The key, sealed anew.
    let key = |before: &[u8], sealed: &[u8]| Change::SetChainKey {
        before: SecretBytes::new(before.to_vec()),
        sealed: SecretBytes::new(sealed.to_vec()),
    };
    assert_eq!(w.conflict([key(b"other", b"anew")]), Conflict::Moved);
    w.ok([key(b"sealed", b"anew")]);
    assert_eq!(read(&*w.store).unwrap().chain.key.expose(), b"anew");
    if let Some(w) = w.reopen() {
        assert_eq!(read(&*w.store).unwrap().rows, all.rows);
    }
}

fn place(n: u64) -> Place {
    Place { n, link: Digest([9; 32]) }
}

pub(super) fn what_is_erased_leaves_its_commitment(backend: &dyn Backend) {
    let w = World::new(backend);
    let (ada, eve) = (AccountId::from_bits(1), AccountId::from_bits(2));
    for (id, email) in [(ada, "ada@example.org"), (eve, "eve@example.org")] {
        w.ok([Change::InsertAccount(account(id, email))]);
    }
    w.ok([begun()]);
    let about = |account, n: i64| {
        w.set(START.plus(n));
        let event = w.event(EventKind::AccountBlocked).account(account).ip("192.0.2.1".parse().ok());
        record(&w, event.reason("has a name in it"))
    };
    let (old, hers, late) = (about(eve, 0), about(ada, 10), about(eve, 11));
    let erase = |most| w.ok([Change::EraseRecords { most }]).pruned;
    assert_eq!(erase(9), 0, "nobody is a tombstone");
    // Read, and erased before the seal is written.
    let what = sealing(&*w.store, 100, 7).unwrap();
    let forget = |before: i64| w.ok([Change::ForgetEventAddresses { before: START.plus(before), most: 9 }]).pruned;
    assert_eq!(forget(5), 1);
    w.ok([Change::Seal(what)]);
    let hides = |id| listed(&w, id).seal.unwrap().hides;
    assert!(hides(old).address.unwrap().salt.is_none() && hides(old).reason.unwrap().salt.is_some());
    assert_eq!(is_whole(&w).erased, 1);
    // A tombstone's records lose both, some at a time; those of others, and what is written with it, do not.
    let before = hides(hers);
    let event = w.event(EventKind::AccountDeleted).account(ada).reason("asked for");
    let steps = vec![Change::SetStatus { account: ada, status: Status::Deleted { at: START, rev: Rev(1) } }];
    w.commit(Changes { steps, events: vec![event.clone()], ..Changes::default() }).unwrap();
    assert!(listed(&w, hers).event.reason.is_some(), "not in the commit of the tombstone");
    assert_eq!((erase(0), erase(1), erase(1), erase(1)), (0, 1, 1, 0));
    let row = listed(&w, hers);
    assert_eq!((row.event.ip, row.event.reason), (None, None));
    let after = row.seal.unwrap().hides;
    for (before, after) in [(before.address, after.address), (before.reason, after.reason)] {
        assert_eq!((after.unwrap().commitment, after.unwrap().salt), (before.unwrap().commitment, None));
    }
    assert!(listed(&w, late).event.reason.is_some() && listed(&w, event.id).event.reason.is_some());
    seal(&w, 100);
    let out = is_whole(&w);
    assert_eq!((out.erased, out.records), (2, 4));
    // The rest goes by its age.
    assert_eq!((forget(100), is_whole(&w).erased), (1, 3));
}

pub(super) fn records_of_tombstones_are_erased_in_steps(backend: &dyn Backend) {
    let w = World::new(backend);
    w.ok([begun()]);
    let all: Vec<AccountId> = (1..=3).map(AccountId::from_bits).collect();
    for (n, id) in all.iter().enumerate() {
        w.ok([Change::InsertAccount(account(*id, &format!("{n}@example.org")))]);
    }
    let write = || {
        for n in 0..12 {
            w.set(START.plus(n));
            let event = w.event(EventKind::AccountBlocked).account(all[n as usize % 3]);
            record(&w, event.ip("192.0.2.1".parse().ok()).reason("has a name in it"));
        }
    };
    write();
    seal(&w, 5);
    let gone = |account| {
        w.commit(Changes {
            steps: vec![Change::SetStatus { account, status: Status::Deleted { at: START, rev: Rev(1) } }],
            events: vec![w.event(EventKind::AccountDeleted).account(account).reason("asked for")],
            ..Changes::default()
        })
        .unwrap();
    };
    gone(all[2]);
    gone(all[0]);
    // What comes later stays, and so does what was written with it.
    write();
    let kept = |account| {
        let filter = EventFilter { account: Some(account), ..EventFilter::default() };
        let rows = wait(w.store.list_events(&filter, None, 100)).unwrap().rows;
        rows.iter().filter(|row| row.event.reason.is_some()).count()
    };
    let left = || all.iter().map(|account| kept(*account)).collect::<Vec<_>>();
    assert_eq!(left(), [9, 8, 9]);
    let erase = |most| w.ok([Change::EraseRecords { most }]).pruned;
    for (most, counted, then) in
        [(3, 3, [6, 8, 9]), (3, 2, [5, 8, 9]), (4, 4, [5, 8, 5]), (4, 1, [5, 8, 5]), (4, 0, [5, 8, 5])]
    {
        assert_eq!((erase(most), left()), (counted, then.to_vec()));
    }
    seal(&w, 100);
    assert_eq!((is_whole(&w).records, is_whole(&w).erased), (26, 3));
}

pub(super) fn the_beginning_goes(backend: &dyn Backend) {
    let w = World::new(backend);
    w.ok([begun()]);
    let ids = some(&w, 6);
    assert!(pruning(&*w.store, START.plus(100), 9).is_none(), "what has no seal stays");
    seal(&w, 4);
    let before = read(&*w.store).unwrap();
    let early = pruning(&*w.store, START.plus(2), 9).unwrap();
    let done = w.ok([pruning(&*w.store, START.plus(100), 3).unwrap()]);
    assert_eq!(done.pruned, 3);
    assert_eq!(w.conflict([early]), Conflict::Moved);
    let after = read(&*w.store).unwrap();
    assert_eq!((after.chain.start.place.n, after.chain.head), (3, before.chain.head));
    assert_eq!((is_whole(&w).records, wait(w.store.count_rows()).unwrap().events), (1, 3));
    // Not beyond its end; and when all of it goes, it goes on from there.
    let beyond = audit::Pruning {
        from: after.chain.start.place,
        to: audit::Start { place: place(5), mac: Digest([1; 32]), old: None },
        up_to: 5,
    };
    assert_eq!(w.conflict([Change::PruneChain(beyond)]), Conflict::Moved);
    w.ok([pruning(&*w.store, START.plus(100), 9).unwrap()]);
    is_whole(&w);
    seal(&w, 9);
    let rows = read(&*w.store).unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.event.id).collect::<Vec<_>>(), ids[4..]);
    is_whole(&w);
    // What was seen of it before is still known, or too long ago.
    assert_eq!(checked(&*w.store, Some(before.chain.head)).findings, []);
    assert_eq!(checked(&*w.store, Some(key().genesis(LOG).place)).findings.len(), 1);
}

/// In the place of a chain that is broken another one begins, of which nothing is part that was sealed before.
pub(super) fn a_chain_is_begun_anew(backend: &dyn Backend) {
    let w = World::new(backend);
    let other = AuditKey(SecretBytes::new([6; 32]));
    let begins = |from: Option<Place>| {
        let old = from.map_or(0, |from| from.n);
        let row = ChainRow::new(SecretBytes::new(*b"anew"), other.start_anew(LOG, old, 0).unwrap());
        Change::BeginAnew(Anew { from, row })
    };
    let anew = |from: Place| begins(Some(from));
    assert_eq!(w.conflict([anew(place(0))]), Conflict::Moved, "there is none");
    w.ok([begun()]);
    let ids = some(&w, 5);
    seal(&w, 4);
    let head = read(&*w.store).unwrap().chain.head;
    assert_eq!(w.conflict([anew(place(head.n))]), Conflict::Moved, "another link stands there");
    assert_eq!(w.conflict([begins(None)]), Conflict::Moved, "its row is there");
    let last = |up_to| wait(w.store.last_place(up_to)).unwrap();
    assert_eq!((last(u64::MAX), last(3), last(0)), (Some(4), Some(3), None));
    let attested = key().attest(LOG, 3, head);
    w.ok([Change::Attest { key: SecretBytes::new(*b"sealed"), attested }]);
    w.ok([anew(head)]);
    assert_eq!(read(&*w.store).unwrap().chain.attested, None, "that was of the old one");
    assert_eq!(w.conflict([anew(head)]), Conflict::Moved, "once");
    let checked = |known| {
        let ChainRead { chain, rows } = read(&*w.store).unwrap();
        audit::check(&other, &Page { log: LOG, chain: &chain, from: None, known, rows: &rows, last: true })
    };
    let rows = wait(w.store.list_unsealed(9)).unwrap();
    let chain = read(&*w.store).unwrap().chain;
    assert_eq!((chain.key.expose(), chain.head), (&b"anew"[..], chain.start.place));
    w.ok([Change::Seal(audit::seal(&other, LOG, chain.head, &rows, &mut Counting(1)))]);
    let whole = checked(Some(head));
    assert_eq!((whole.records, whole.findings.len()), (1, 1), "and the old head is forgotten");
    assert_eq!(checked(None).findings, []);
    // What was sealed before goes by its time, and the chain does not move for it.
    let step = |before: i64, most: u32| {
        let ChainRead { chain, rows } = wait(w.store.read_chain(None, most + 1)).unwrap().unwrap();
        let what = audit::prune(&other, LOG, &chain, &rows, most as usize, START.plus(before)).unwrap();
        what.map(|what| w.ok([Change::PruneChain(what)]).pruned)
    };
    assert_eq!(
        (step(0, 9), step(2, 9), step(2, 9), step(100, 1), step(100, 9)),
        (None, Some(2), None, Some(1), Some(1))
    );
    assert_eq!(checked(None).findings, []);
    assert_eq!(read(&*w.store).unwrap().rows.iter().map(|row| row.event.id).collect::<Vec<_>>(), ids[4..]);
    assert_eq!((step(100, 9), step(100, 9)), (Some(1), None));
    assert_eq!(checked(None).findings, []);
}

/// A chain whose row is gone begins anew, too.
pub(super) fn a_chain_without_a_row_begins_anew(backend: &dyn Backend) {
    let w = World::new(backend);
    let start = key().start_anew(LOG, 7, 9).unwrap();
    let row = || ChainRow::new(SecretBytes::new(*b"anew"), start);
    w.ok([Change::BeginAnew(Anew { from: None, row: row() })]);
    assert_eq!(w.conflict([Change::BeginAnew(Anew { from: None, row: row() })]), Conflict::Moved);
    let there = |w: &World<'_>| read(&*w.store).unwrap().chain;
    assert_eq!((there(&w).start, there(&w).head, there(&w).attested), (start, start.place, None));
    let Some(w) = w.reopen() else { return };
    assert_eq!(there(&w).start, start);
}

/// That a chain goes on is kept with it, under the key that it was attested under.
pub(super) fn what_is_attested_of_a_chain_is_kept(backend: &dyn Backend) {
    let w = World::new(backend);
    let attest = |sealed: &[u8], number: u64| Change::Attest {
        key: SecretBytes::new(sealed),
        attested: key().attest(LOG, number, place(number)),
    };
    assert_eq!(w.conflict([attest(b"sealed", 1)]), Conflict::Moved, "there is none");
    w.ok([begun()]);
    let there = |w: &World<'_>| read(&*w.store).unwrap().chain.attested;
    assert_eq!(there(&w), None);
    assert_eq!(w.conflict([attest(b"another", 1)]), Conflict::Moved);
    w.ok([attest(b"sealed", 5)]);
    w.ok([attest(b"sealed", 2)]);
    some(&w, 3);
    seal(&w, 3);
    w.ok([Change::SetChainKey { before: SecretBytes::new(*b"sealed"), sealed: SecretBytes::new(*b"resealed") }]);
    assert_eq!(there(&w), Some(key().attest(LOG, 2, place(2))), "sealing and another master key change nothing of it");
    let Some(w) = w.reopen() else { return };
    assert_eq!(there(&w), Some(key().attest(LOG, 2, place(2))));
}

pub(super) fn many_sealers_make_one_chain(backend: &dyn Backend) {
    let w = World::new(backend);
    w.ok([begun()]);
    some(&w, 20);
    while wait(w.store.count_unsealed()).unwrap().count > 0 {
        let all = (0..8).map(|n| {
            let what = sealing(&*w.store, 1 + n % 3, u128::from(n) << 100).unwrap();
            Changes { steps: vec![Change::Seal(what)], ..Changes::default() }
        });
        let results = at_once(&w, all.collect());
        let won = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1);
        for lost in results.into_iter().filter(Result::is_err) {
            assert!(!matches!(lost, Err(CommitError::Unknown(_))));
            assert_eq!(conflict(lost), Conflict::Moved);
        }
        is_whole(&w);
    }
    assert_eq!(is_whole(&w).records, 20);
}
