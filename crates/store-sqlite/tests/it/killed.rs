//! `kill -9` at any moment: what was acknowledged is there, and nothing is there by halves.
//!
//! This shows that nothing is answered before its commit reached the file, and that recovery works. It does not show that the
//! fsync reached the disk: only a power cut would, since the kernel outlives the process.
use crate::support::{Directory, LOG, START, child, is_child, open};
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Idempotency, Revoke};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::{Actor, Cut};
use portcullis_store::Store;
use portcullis_store::conformance::wait;
use portcullis_store_sqlite::SqliteStore;
use portcullis_wire::{
    AccountId, Chain, ClientId, Digest, Epoch, EventId, GrantId, KeyId, Rev, SessionId, Target, Time, Verb,
};
use std::collections::BTreeMap;
use std::path::Path;

/// As many threads of the child write at once, each with a family of its own.
const WRITERS: u64 = 6;
/// As many times it is killed.
const KILLS: u64 = 24;

fn grant(n: u64) -> GrantId {
    GrantId::from_bits(u128::from(n) + 1)
}

/// One account, one session, and a grant for each writer.
fn found(store: &SqliteStore) {
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
    let session = Session {
        id: SessionId::from_bits(1),
        account: account.id,
        kind: SessionKind::App,
        client: None,
        device_name: "d".into(),
        agent: "a".into(),
        ip: None,
        created_at: START,
        auth_time: START,
        amr: Amr::default(),
        last_seen_at: START,
        absolute_expires_at: Time(i64::MAX),
        born: Rev::ZERO,
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let mut steps = vec![Change::InsertAccount(account), Change::InsertSession(session.clone())];
    for n in 0..WRITERS {
        steps.push(Change::InsertGrant(Grant {
            id: grant(n),
            session: session.id,
            client: ClientId::FIRST_PARTY,
            scope: "account".into(),
            audience: None,
            sender: None,
            agent: None,
            proof: None,
            born: Rev::ZERO,
            network: None,
            family: Family::new([0; 32], KeyId(1), Epoch(1), START),
            ended: None,
        }));
    }
    wait(store.commit(Changes { steps, ..Changes::default() })).unwrap();
}

/// Moves its family and, every third time, writes an entry, a record and a remembered call with it. Prints what was committed.
fn write_until_killed(store: &SqliteStore, writer: u64) {
    loop {
        let family = wait(store.load_refresh(grant(writer))).unwrap().unwrap().grant.family;
        let (counter, predecessor) = (family.counter, family.predecessor);
        let next = Family { counter: counter + 1, predecessor: Some(counter), ..family };
        let step = Change::SetFamily { grant: grant(writer), counter, predecessor, family: next };
        let mut changes = Changes { steps: vec![step], ..Changes::default() };
        if counter.is_multiple_of(3) {
            let id = u128::from(writer) << 64 | u128::from(counter);
            let what = Revoke {
                verb: Verb::End,
                target: Target::All,
                except: None,
                spread_ms: None,
                owner: None,
                reason: "everyone".into(),
            };
            let (actor, key) = (writer.to_string(), counter.to_string());
            changes.steps.push(Change::Revoke(what));
            changes.events.push(NewEvent::new(EventId::from_bits(id), EventKind::EveryoneEnded, &Actor::System));
            changes.idempotency = Some(Idempotency { actor, key, request: Digest::of(b"r"), made: None });
        }
        let done = wait(store.commit(changes)).unwrap();
        println!("{writer} {} {}", counter + 1, done.rev.unwrap_or_default());
    }
}

#[test]
fn what_was_acknowledged_survives() {
    if is_child("writer") {
        let store = open(Path::new(&std::env::var("DATABASE").unwrap())).unwrap();
        if wait(store.load_account(AccountId::from_bits(1))).unwrap().is_none() {
            found(&store);
        }
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let store = &store;
                scope.spawn(move || write_until_killed(store, writer));
            }
        });
        return;
    }
    let directory = Directory::new();
    let (mut counters, mut revs) = (BTreeMap::<u64, u64>::new(), BTreeMap::<u64, (u64, u64)>::new());
    let (mut dice, mut acknowledged) = (11u64, 0);
    for kill in 0..KILLS {
        let mut writer = child("killed::what_was_acknowledged_survives", "writer", &directory.file());
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // From before the first commit to some hundreds later.
        let lines = (dice >> 33) % [1, 20, 200, 400][kill as usize % 4];
        let mut note = |line: &str| {
            let numbers: Vec<u64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
            let [writer, counter, rev] = numbers[..] else { return };
            assert_eq!(line, format!("{writer} {counter} {rev}"));
            acknowledged += 1;
            counters.entry(writer).and_modify(|c| *c = counter.max(*c)).or_insert(counter);
            if rev != 0 {
                assert_eq!(revs.insert(rev, (writer, counter - 1)), None, "one rev, one act");
            }
        };
        for _ in 0..lines {
            note(&writer.line().unwrap());
        }
        writer.kill();
        while let Some(line) = writer.line() {
            // The last line may be cut short.
            if writer.whole() {
                note(&line);
            }
        }
        counters = check(&directory, &counters, &revs);
    }
    assert!(acknowledged > 1000 && revs.len() > 200, "{acknowledged} acts, {} entries", revs.len());
}

fn check(directory: &Directory, counters: &BTreeMap<u64, u64>, revs: &BTreeMap<u64, (u64, u64)>) -> BTreeMap<u64, u64> {
    let store = open(&directory.file()).unwrap();
    let mut found = BTreeMap::new();
    for writer in 0..WRITERS {
        let Some(view) = wait(store.load_refresh(grant(writer))).unwrap() else { continue };
        let (counter, known) = (view.grant.family.counter, counters.get(&writer).copied().unwrap_or(1));
        assert!(counter >= known, "writer {writer}: {counter} < {known}");
        assert!(counter <= known + 1, "more than one act beyond what writer {writer} was told: {counter} > {known}");
        found.insert(writer, counter);
    }
    let (stamp, entries) = wait(store.read_live()).unwrap();
    assert_eq!(stamp.chain, entries.iter().fold(Chain::genesis(LOG), Chain::after));
    assert_eq!(entries.len() as u64, stamp.head.0);
    assert_eq!(stamp.all.rev, stamp.head, "an entry and its cut come together");
    for (rev, (writer, counter)) in revs {
        let row = wait(store.load_revocation(Rev(*rev))).unwrap().unwrap();
        assert_eq!(row.event.id.bits(), u128::from(*writer) << 64 | u128::from(*counter));
        let call = wait(store.load_remembered(&writer.to_string(), &counter.to_string())).unwrap().unwrap();
        assert_eq!(call.rev, Some(Rev(*rev)));
    }
    // What was not acknowledged is there as a whole, or not at all.
    for rev in 1..=stamp.head.0 {
        let row = wait(store.load_revocation(Rev(rev))).unwrap().expect("an entry has its record");
        let (writer, counter) = ((row.event.id.bits() >> 64) as u64, row.event.id.bits() as u64);
        assert!(wait(store.load_remembered(&writer.to_string(), &counter.to_string())).unwrap().is_some());
        assert!(wait(store.load_refresh(grant(writer))).unwrap().unwrap().grant.family.counter > counter);
    }
    found
}
