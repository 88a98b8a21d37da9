//! Counting at each request, on all cores at once. A count that all write to is handed from core to core, and each waits for it; so there are several,
//! each in a line of memory of its own, and a thread keeps to one.
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// How many. Threads beyond share: more cost memory, and fewer meet on machines with more cores.
pub(crate) const STRIPES: usize = 16;

/// Threads are numbered as they come.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
    static NO_SCOPES: Arc<[String]> = Arc::new([]);
}

/// The scopes of routes that ask for none, counted by each thread for itself.
pub(crate) fn no_scopes() -> Arc<[String]> {
    NO_SCOPES.try_with(Arc::clone).unwrap_or_default()
}

/// This thread's.
pub(crate) fn stripe() -> usize {
    MINE.try_with(|mine| match mine.get() {
        Some(number) => number,
        None => {
            let number = NEXT.fetch_add(1, Relaxed) % STRIPES;
            mine.set(Some(number));
            number
        }
    })
    // A thread that is ending has none any more.
    .unwrap_or(0)
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone(AtomicU64);

/// A counter that is written at each request.
#[derive(Debug, Default)]
pub(crate) struct Striped([Alone; STRIPES]);

impl Striped {
    pub(crate) fn up(&self) {
        self.0[stripe()].0.fetch_add(1, Relaxed);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.iter().map(|one| one.0.load(Relaxed)).sum()
    }
}
