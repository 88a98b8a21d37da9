//! The suite of `portcullis-store`, and the same random histories as on the memory store.
use crate::support::Directory;
use portcullis_store::Store;
use portcullis_store::conformance::{Backend, Guard, histories, suite};
use portcullis_store::memory::{Clock, MemoryStore};
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_wire::LogId;
use std::sync::{Arc, Mutex};

/// Each database in a directory of its own, in the order in which they were made.
#[derive(Default)]
struct Files(Mutex<Vec<Directory>>);

impl Backend for Files {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        let directory = Directory::new();
        let store = SqliteStore::open(&directory.file(), OpenOptions::new(log, clock)).unwrap();
        self.0.lock().unwrap().push(directory);
        Arc::new(store)
    }
    fn reopen(&self, store: Arc<dyn Store>, clock: Clock) -> Option<Arc<dyn Store>> {
        drop(store);
        let path = self.0.lock().unwrap().last().unwrap().file();
        // Another log id: a database that exists keeps its own.
        Some(Arc::new(SqliteStore::open(&path, OpenOptions::new(LogId::from_bits(999), clock)).unwrap()))
    }
}

/// As [`Files`], with long reads on a runtime's blocking threads, as in the server.
struct InARuntime(Files, tokio::runtime::Runtime);

impl Backend for InARuntime {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        self.0.make(log, clock)
    }
    fn reopen(&self, store: Arc<dyn Store>, clock: Clock) -> Option<Arc<dyn Store>> {
        self.0.reopen(store, clock)
    }
    fn enter(&self) -> Option<Box<dyn Guard + '_>> {
        Some(Box::new(self.1.enter()))
    }
}

struct InMemory;
impl Backend for InMemory {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(log, clock))
    }
}

#[test]
fn the_sqlite_store_keeps_every_promise() {
    for case in suite() {
        println!("{}", case.name);
        (case.run)(&Files::default());
    }
}

#[test]
fn also_with_long_reads_on_other_threads() {
    for case in suite() {
        println!("{}", case.name);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let backend = InARuntime(Files::default(), runtime);
        let _guard = backend.enter();
        (case.run)(&backend);
    }
}

#[test]
fn random_histories_end_as_in_memory() {
    let mut seen = histories::Counts::default();
    for seed in 1..=9 {
        seen.join(histories::compare(&InMemory, &Files::default(), seed, 1_000));
    }
    println!("{seen:?}");
    assert!(seen.is_varied(), "{seen:?}");
}
