//! Pages of rows that were deleted are used again: a file does not grow when as much goes as comes.
use crate::support::{Directory, START, options};
use portcullis_domain::amr::Amr;
use portcullis_domain::audit::{self, AuditKey, ChainRow};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::retention::Retention;
use portcullis_domain::{Chance, Cut};
use portcullis_store::Store as _;
use portcullis_store::conformance::wait;
use portcullis_store_sqlite::SqliteStore;
use portcullis_wire::{AccountId, ClientId, Epoch, EventId, GrantId, KeyId, LogId, Rev, SecretBytes, SessionId, Time};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

const DAY: i64 = 86_400_000;

/// Ids as they come in life: all over the place.
struct Dice(u64);
impl Chance for Dice {
    fn bits(&mut self) -> u128 {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u128::from(self.0 ^ (self.0 >> 29))
        };
        (next() << 64) | next()
    }
}

fn sign_in(dice: &mut Dice, now: Time) -> Changes {
    let session = Session {
        id: SessionId::from_bits(dice.bits()),
        account: AccountId::from_bits(1),
        kind: SessionKind::App,
        client: None,
        device_name: "Firefox on Linux".into(),
        agent: "firefox/linux".into(),
        ip: Some([192, 0, 2, 1].into()),
        created_at: now,
        auth_time: now,
        amr: Amr::default(),
        last_seen_at: now,
        absolute_expires_at: now.plus(DAY),
        born: Rev::ZERO,
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(dice.bits()),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        proof: None,
        born: Rev::ZERO,
        network: None,
        family: Family::new([7; 32], KeyId(1), Epoch(1), now),
        ended: None,
    };
    let id = EventId::from_bits(dice.bits());
    let event = NewEvent::new(id, EventKind::SessionStarted, &Actor::System).account(session.account);
    let events = vec![event.session(session.id).ip(session.ip)];
    Changes { steps: vec![Change::InsertSession(session), Change::InsertGrant(grant)], events, ..Changes::default() }
}

fn key() -> AuditKey {
    AuditKey(SecretBytes::new([1; 32]))
}

fn read_log(store: &SqliteStore) -> LogId {
    wait(store.stamp()).unwrap().log
}

fn seal(store: &SqliteStore, dice: &mut Dice) {
    loop {
        let rows = wait(store.list_unsealed(audit::AT_ONCE)).unwrap();
        if rows.is_empty() {
            return;
        }
        let head = wait(store.read_chain(None, 0)).unwrap().unwrap().chain.head;
        let what = audit::seal(&key(), read_log(store), head, &rows, dice);
        wait(store.commit(Changes { steps: vec![Change::Seal(what)], ..Changes::default() })).unwrap();
    }
}

#[test]
fn freed_pages_are_used_again() {
    let directory = Directory::new();
    let clock = Arc::new(AtomicI64::new(START.0));
    let mut options = options();
    options.clock = {
        let clock = clock.clone();
        Arc::new(move || Time(clock.load(SeqCst)))
    };
    let keep = Retention { ended: 0, addresses: DAY, events: Some(DAY), idle_ttl: DAY };
    let (mut dice, mut sizes) = (Dice(1), Vec::new());
    for day in 0..8 {
        let store = SqliteStore::open(&directory.file(), options.clone()).unwrap();
        if day == 0 {
            let account = Account {
                id: AccountId::from_bits(1),
                email: Some("ada@example.org".into()),
                name: None,
                password_hash: None,
                password_version: 1,
                email_verified_at: None,
                roles: vec![],
                status: Status::Active,
                created_at: START,
                cut: Cut::default(),
                version: 1,
            };
            let start = key().genesis(read_log(&store));
            let chain = ChainRow::new(SecretBytes::new([]), start);
            let steps = vec![Change::InsertAccount(account), Change::BeginChain(chain)];
            wait(store.commit(Changes { steps, ..Changes::default() })).unwrap();
        }
        for _ in 0..10 {
            let mut day = Changes::default();
            for _ in 0..60 {
                let one = sign_in(&mut dice, store.now());
                day.steps.extend(one.steps);
                day.events.extend(one.events);
            }
            wait(store.commit(day)).unwrap();
        }
        clock.fetch_add(2 * DAY, SeqCst);
        let ok = |step| wait(store.commit(Changes { steps: vec![step], ..Changes::default() })).unwrap().pruned;
        ok(Change::RaiseFloor(store.now()));
        let mut cursor = None;
        loop {
            let found = wait(store.list_prunable(keep, cursor, 100)).unwrap();
            ok(Change::PruneSessions { sessions: found.sessions, keep });
            cursor = found.next;
            if cursor.is_none() {
                break;
            }
        }
        seal(&store, &mut dice);
        while let Some(read) = wait(store.read_chain(None, 100)).unwrap().filter(|read| !read.rows.is_empty()) {
            let old =
                audit::prune(&key(), read_log(&store), &read.chain, &read.rows, 100, store.now()).unwrap().unwrap();
            assert!(ok(Change::PruneChain(old)) > 0);
        }
        let rows = wait(store.count_rows()).unwrap();
        assert_eq!((rows.sessions, rows.grants, rows.events), (0, 0, 0));
        drop(store); // what is in the log goes into the file
        sizes.push(std::fs::metadata(directory.file()).unwrap().len());
    }
    let (second, last) = (sizes[1], sizes[7]);
    assert!(last <= second + second / 10, "it grows: {sizes:?}");
    assert!(last > 100_000, "nothing was written: {sizes:?}");
}
