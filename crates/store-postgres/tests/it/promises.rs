//! The suite of `portcullis-store`, and the same random histories as in memory and on SQLite.
use crate::support::{database, options, runtime};
use crate::two::TwoNodes;
use portcullis_store::Store;
use portcullis_store::conformance::{Backend, Guard, histories, suite};
use portcullis_store::memory::{Clock, MemoryStore};
use portcullis_store_postgres::PostgresStore;
use portcullis_store_sqlite::SqliteStore;
use portcullis_testkit::TempDir;
use portcullis_wire::LogId;
use std::sync::{Arc, Mutex};

/// Each database apart, in the order in which they were made.
#[derive(Default)]
struct Databases(Mutex<Vec<String>>);

impl Databases {
    fn open(url: &str, log: LogId, clock: Clock) -> Arc<dyn Store> {
        Arc::new(runtime().block_on(PostgresStore::open(url, options(log, clock))).unwrap())
    }
}

impl Backend for Databases {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        let url = database();
        let store = Self::open(&url, log, clock);
        self.0.lock().unwrap().push(url);
        store
    }
    fn reopen(&self, store: Arc<dyn Store>, clock: Clock) -> Option<Arc<dyn Store>> {
        drop(store);
        let url = self.0.lock().unwrap().last().unwrap().clone();
        // Another log id: a database that exists keeps its own.
        Some(Self::open(&url, LogId::from_bits(999), clock))
    }
    fn enter(&self) -> Option<Box<dyn Guard + '_>> {
        Some(Box::new(runtime().enter()))
    }
}

/// Two nodes on each database, called in turn.
struct Pairs;

impl Backend for Pairs {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        let url = database();
        let open = || runtime().block_on(PostgresStore::open(&url, options(log, clock.clone()))).unwrap();
        Arc::new(TwoNodes::new([open(), open()]))
    }
    fn enter(&self) -> Option<Box<dyn Guard + '_>> {
        Some(Box::new(runtime().enter()))
    }
}

struct InMemory;
impl Backend for InMemory {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(log, clock))
    }
}

/// Each in a directory of its own.
#[derive(Default)]
struct OnSqlite(Mutex<Vec<TempDir>>);
impl Backend for OnSqlite {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        let directory = TempDir::new("sqlite");
        let options = portcullis_store_sqlite::OpenOptions::new(log, clock);
        let store = SqliteStore::open(&directory.path().join("portcullis.db"), options).unwrap();
        self.0.lock().unwrap().push(directory);
        Arc::new(store)
    }
}

#[test]
fn the_postgres_store_keeps_every_promise() {
    let _guard = runtime().enter();
    for case in suite() {
        println!("{}", case.name);
        (case.run)(&Databases::default());
    }
}

#[test]
fn two_nodes_keep_every_promise() {
    let _guard = runtime().enter();
    for case in suite() {
        println!("{}", case.name);
        (case.run)(&Pairs);
    }
}

#[test]
fn random_histories_end_as_in_memory() {
    let _guard = runtime().enter();
    let mut seen = histories::Counts::default();
    for seed in 1..=9 {
        seen.join(histories::compare(&InMemory, &Databases::default(), seed, 1_000));
    }
    println!("{seen:?}");
    assert!(seen.is_varied(), "{seen:?}");
}

#[test]
fn random_histories_on_two_nodes_end_as_on_sqlite() {
    let _guard = runtime().enter();
    histories::compare(&OnSqlite::default(), &Pairs, 21, 1_000);
}
