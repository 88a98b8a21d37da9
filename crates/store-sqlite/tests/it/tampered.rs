//! Somebody writes to the file past the server: the chain over audit records shows it, and says where.
use crate::support::{Directory, options};
use portcullis_domain::Chance;
use portcullis_domain::audit::{self, AuditKey, ChainRow, Finding, Page, Part};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_store::Store as _;
use portcullis_store::conformance::wait;
use portcullis_store_sqlite::SqliteStore;
use portcullis_wire::{EventId, SecretBytes};

struct Counting(u128);
impl Chance for Counting {
    fn bits(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

fn key() -> AuditKey {
    AuditKey(SecretBytes::new([1; 32]))
}

fn write(store: &SqliteStore, changes: Changes) {
    wait(store.commit(changes)).unwrap();
}

/// A file with eight sealed records.
fn made() -> Directory {
    let directory = Directory::new();
    let store = SqliteStore::open(&directory.file(), options()).unwrap();
    let log = wait(store.stamp()).unwrap().log;
    let start = key().genesis(log);
    let begun = Change::BeginChain(ChainRow::new(SecretBytes::new([]), start));
    let event = |n| {
        let event = NewEvent::new(EventId::from_bits(n), EventKind::SessionEnded, &Actor::System);
        event.ip("192.0.2.1".parse().ok()).reason("why")
    };
    write(&store, Changes { steps: vec![begun], events: (1..=8).map(event).collect(), ..Changes::default() });
    let rows = wait(store.list_unsealed(9)).unwrap();
    let what = audit::seal(&key(), log, start.place, &rows, &mut Counting(1));
    write(&store, Changes { steps: vec![Change::Seal(what)], ..Changes::default() });
    directory
}

fn found(directory: &Directory) -> Vec<Finding> {
    let store = SqliteStore::open(&directory.file(), options()).unwrap();
    let log = wait(store.stamp()).unwrap().log;
    let read = wait(store.read_chain(None, 100)).unwrap().unwrap();
    let page = Page { log, chain: &read.chain, from: None, known: None, rows: &read.rows, last: true };
    audit::check(&key(), &page).findings
}

#[test]
fn what_is_written_past_the_server_is_found() {
    let id = EventId::from_bits;
    let cases: [(&str, Vec<Finding>); 11] = [
        ("SELECT 1", vec![]),
        ("UPDATE events SET kind = 'session.started' WHERE place = 3", vec![Finding::Changed { n: 3, event: id(3) }]),
        (
            "UPDATE events SET ip = '192.0.2.2' WHERE place = 4",
            vec![Finding::Part { n: 4, event: id(4), part: Part::Address }],
        ),
        (
            "UPDATE events SET reason = NULL WHERE place = 4",
            vec![Finding::Part { n: 4, event: id(4), part: Part::Reason }],
        ),
        ("DELETE FROM events WHERE place BETWEEN 2 AND 3", vec![Finding::Missing { from: 2, to: 3 }]),
        ("UPDATE events SET place = NULL WHERE place = 5", vec![Finding::Missing { from: 5, to: 5 }]),
        // What cannot be a seal at all hides nothing else.
        (
            "UPDATE events SET link = NULL WHERE place = 8",
            vec![Finding::Head { n: 8 }, Finding::Changed { n: 8, event: id(8) }],
        ),
        (
            "UPDATE events SET ip_seal = x'00' WHERE place = 8",
            vec![Finding::Part { n: 8, event: id(8), part: Part::Address }, Finding::Changed { n: 8, event: id(8) }],
        ),
        (
            "UPDATE events SET reason_salt = x'00' WHERE place = 2",
            vec![Finding::Part { n: 2, event: id(2), part: Part::Reason }],
        ),
        (
            "UPDATE events SET place = -1 WHERE place = 2",
            vec![Finding::Inserted { n: 0, event: id(2) }, Finding::Missing { from: 2, to: 2 }],
        ),
        ("DELETE FROM events WHERE place > 6; UPDATE audit_chain SET head = 6", vec![Finding::Head { n: 6 }]),
    ];
    for (sql, expected) in cases {
        let directory = made();
        rusqlite::Connection::open(directory.file()).unwrap().execute_batch(sql).unwrap();
        assert_eq!(found(&directory), expected, "{sql}");
    }
}
