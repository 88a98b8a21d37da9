//! The memory store under the suite that every backend runs. Here, and not beside the suite, so that the suite is built once.
use portcullis_store::Store;
use portcullis_store::conformance::{Backend, histories, suite};
use portcullis_store::memory::{Clock, MemoryStore};
use portcullis_wire::LogId;
use std::sync::Arc;

struct InMemory;
impl Backend for InMemory {
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(log, clock).shared())
    }
}

#[test]
fn the_memory_store_keeps_every_promise() {
    for case in suite() {
        println!("{}", case.name);
        (case.run)(&InMemory);
    }
}

#[test]
fn the_memory_store_is_like_itself() {
    let counts = histories::compare(&InMemory, &InMemory, 1, 16_000);
    assert!(counts.is_varied(), "{counts:?}");
}
