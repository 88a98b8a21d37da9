//! Connections for reading.
//!
//! Point reads (a handful of lookups by key, some microseconds from the page cache) run on the calling thread: a hand-over to
//! another thread and back costs more than they do. Each thread has one of those connections that it asks first, whose page cache
//! is then its own. What may read many rows runs on a blocking thread of the runtime, on connections of its own, so that a long
//! list neither stalls other tasks nor keeps a point read waiting; a semaphore lets as many in as there are such connections, and
//! the others wait without a thread.
use crate::cells::Fault;
use crate::connect::Connector;
use crate::snapshot::{Reader, Snapshot};
use portcullis_store::StoreError;
use rusqlite::Connection;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use tokio::sync::Semaphore;

/// Connections for long reads.
const LONG: usize = 2;

/// Threads that have read so far, of all databases of this process.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Which connection this thread asks first.
    static FIRST: usize = THREADS.fetch_add(1, Relaxed);
}

/// A connection that is opened anew after a fault that it may be the reason of.
type Slot = Mutex<Option<Reader>>;

pub(crate) struct Readers {
    connector: Connector,
    points: Vec<Slot>,
    /// How many want no snapshot to be held.
    pub(crate) in_the_way: AtomicUsize,
    long: Vec<Slot>,
    places: Semaphore,
}

/// As long as this lives, no point read holds its snapshot for the next one.
pub(crate) struct Released<'a>(&'a Readers);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.in_the_way.fetch_sub(1, SeqCst);
    }
}

impl Readers {
    /// Opens `points` connections, at least one, and those for long reads.
    pub(crate) fn open(connector: &Connector, points: usize) -> Result<Self, Fault> {
        let open = |_| Ok(Mutex::new(Some(Reader::new(connector.reader()?))));
        Ok(Self {
            connector: connector.clone(),
            points: (0..points.max(1)).map(open).collect::<Result<_, Fault>>()?,
            in_the_way: AtomicUsize::new(0),
            long: (0..LONG).map(open).collect::<Result<_, Fault>>()?,
            places: Semaphore::new(LONG),
        })
    }

    /// Reads on this thread.
    pub(crate) fn point<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        self.on(&mut self.free_point(), |reader| read(reader.alone()?))
    }

    /// Reads on this thread: by `held`, on the snapshot of the read before, where no commit has begun since; by `alone`, in one
    /// statement, where one has.
    ///
    /// `quiet`: the generation of the database ([`crate::kept::Kept::quiet`]).
    pub(crate) fn snapshot<T>(
        &self,
        quiet: impl FnOnce() -> Option<u64>,
        held: impl FnOnce(&mut Snapshot<'_>) -> Result<T, Fault>,
        alone: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.on(&mut self.free_point(), |reader| {
            let generation = if self.in_the_way.load(SeqCst) == 0 { quiet() } else { None };
            match reader.snapshot(generation)? {
                Some(mut shot) => held(&mut shot),
                None => alone(reader.alone()?),
            }
        })
    }

    /// Ends every snapshot that is held, and lets none be held as long as the result lives: the log can be moved as a whole, and be
    /// started anew. Waits for nobody: who is reading ends his own when he is done. One who has just looked whether he should keeps it,
    /// as a read that takes long would: that costs the pass, and the next one is made without.
    pub(crate) fn release(&self) -> Released<'_> {
        self.in_the_way.fetch_add(1, SeqCst);
        for slot in &self.points {
            let Some(mut free) = try_take(slot) else { continue };
            if free.as_mut().is_some_and(|reader| reader.alone().is_err()) {
                *free = None;
            }
        }
        Released(self)
    }

    /// Reads on a blocking thread; without a runtime, on this one.
    pub(crate) async fn long<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _place = self.places.acquire().await.map_err(|_| StoreError::new("the database is being closed"))?;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.on(&mut free(&self.long, 0), |reader| read(reader.alone()?));
        };
        let readers = self.clone();
        let read = move || readers.on(&mut free(&readers.long, 0), |reader| read(reader.alone()?));
        let done = runtime.spawn_blocking(read).await;
        done.unwrap_or_else(|error| Err(StoreError::new(format_args!("a read was cut off: {error}"))))
    }

    /// Closes every connection that waits for the next read, and keeps others from being opened as long as the result lives.
    /// Waits for reads that are under way: first for the long ones, so that point reads do not wait for those.
    pub(crate) fn closed(&self) -> Vec<MutexGuard<'_, Option<Reader>>> {
        self.long.iter().chain(&self.points).map(close).collect()
    }

    fn free_point(&self) -> MutexGuard<'_, Option<Reader>> {
        free(&self.points, FIRST.with(|first| *first))
    }

    fn on<T>(
        &self,
        slot: &mut MutexGuard<'_, Option<Reader>>,
        read: impl FnOnce(&mut Reader) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let reader = match &mut **slot {
            Some(reader) => reader,
            closed => closed.insert(Reader::new(self.connector.reader()?)),
        };
        let out = read(reader);
        // Asked while the slot is taken: who asks for release afterwards finds the snapshot in it.
        let left_open = self.in_the_way.load(SeqCst) > 0 && reader.alone().is_err();
        // A fault of SQLite may lie in the connection; a row that does not read does not.
        if left_open || matches!(out, Err(Fault::Sqlite(_))) {
            **slot = None;
        }
        Ok(out?)
    }
}

/// A slot that is free now, or else the first one that was looked at, when it is.
fn free(slots: &[Slot], first: usize) -> MutexGuard<'_, Option<Reader>> {
    let (before, from) = slots.split_at(first % slots.len());
    from.iter().chain(before).find_map(try_take).unwrap_or_else(|| take(&from[0]))
}

fn close(slot: &Slot) -> MutexGuard<'_, Option<Reader>> {
    let mut closed = take(slot);
    *closed = None;
    closed
}

/// The slot, when it is free.
fn take(slot: &Slot) -> MutexGuard<'_, Option<Reader>> {
    slot.lock().unwrap_or_else(|poisoned| emptied(slot, poisoned.into_inner()))
}

/// The slot, if it is free now.
fn try_take(slot: &Slot) -> Option<MutexGuard<'_, Option<Reader>>> {
    match slot.try_lock() {
        Ok(taken) => Some(taken),
        Err(TryLockError::Poisoned(poisoned)) => Some(emptied(slot, poisoned.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A thread panicked while it read: its connection is not trusted any more, and the next one is.
fn emptied<'a>(slot: &'a Slot, mut taken: MutexGuard<'a, Option<Reader>>) -> MutexGuard<'a, Option<Reader>> {
    *taken = None;
    slot.clear_poison();
    taken
}
