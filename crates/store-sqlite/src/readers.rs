//! Connections for reading.
//!
//! Point reads (a handful of lookups by key, some microseconds from the page cache) run on the calling thread: a hand-over to
//! another thread and back costs more than they do. What may read many rows runs on a blocking thread of the runtime, on
//! connections of its own, so that a long list neither stalls other tasks nor keeps a point read waiting; a semaphore lets as
//! many in as there are such connections, and the others wait without a thread.
use crate::cells::Fault;
use crate::connect::Connector;
use portcullis_store::StoreError;
use rusqlite::Connection;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use tokio::sync::Semaphore;

/// Connections for long reads.
const LONG: usize = 2;

/// A connection that is opened anew after a fault that it may be the reason of.
type Slot = Mutex<Option<Connection>>;

pub(crate) struct Readers {
    connector: Connector,
    points: Vec<Slot>,
    turn: AtomicUsize,
    long: Vec<Slot>,
    places: Semaphore,
}

impl Readers {
    /// Opens `points` connections, at least one, and those for long reads.
    pub(crate) fn open(connector: &Connector, points: usize) -> Result<Self, Fault> {
        let open = |_| Ok(Mutex::new(Some(connector.reader()?)));
        Ok(Self {
            connector: connector.clone(),
            points: (0..points.max(1)).map(open).collect::<Result<_, Fault>>()?,
            turn: AtomicUsize::new(0),
            long: (0..LONG).map(open).collect::<Result<_, Fault>>()?,
            places: Semaphore::new(LONG),
        })
    }

    /// Reads on this thread.
    pub(crate) fn point<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        let first = self.turn.fetch_add(1, Relaxed) % self.points.len();
        self.on(&mut free(&self.points, first), read)
    }

    /// Reads on a blocking thread; without a runtime, on this one.
    pub(crate) async fn long<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _place = self.places.acquire().await.map_err(|_| StoreError::new("the database is being closed"))?;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.on(&mut free(&self.long, 0), read);
        };
        let readers = self.clone();
        let done = runtime.spawn_blocking(move || readers.on(&mut free(&readers.long, 0), read)).await;
        done.unwrap_or_else(|error| Err(StoreError::new(format_args!("a read was cut off: {error}"))))
    }

    /// Closes every connection that waits for the next read, and keeps others from being opened as long as the result lives.
    /// Waits for reads that are under way: first for the long ones, so that point reads do not wait for those.
    pub(crate) fn closed(&self) -> Vec<MutexGuard<'_, Option<Connection>>> {
        self.long.iter().chain(&self.points).map(close).collect()
    }

    fn on<T>(
        &self,
        slot: &mut MutexGuard<'_, Option<Connection>>,
        read: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let connection = match slot.take() {
            Some(connection) => connection,
            None => self.connector.reader()?,
        };
        let out = read(&connection);
        // A fault of SQLite may lie in the connection; a row that does not read does not.
        if !matches!(out, Err(Fault::Sqlite(_))) {
            **slot = Some(connection);
        }
        Ok(out?)
    }
}

/// A slot that is free now, or else the first one that was looked at, when it is.
fn free(slots: &[Slot], first: usize) -> MutexGuard<'_, Option<Connection>> {
    for at in 0..slots.len() {
        match slots[(first + at) % slots.len()].try_lock() {
            Ok(slot) => return slot,
            Err(TryLockError::Poisoned(poisoned)) => return emptied(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }
    slots[first % slots.len()].lock().unwrap_or_else(|poisoned| emptied(poisoned.into_inner()))
}

fn close(slot: &Slot) -> MutexGuard<'_, Option<Connection>> {
    let mut slot = slot.lock().unwrap_or_else(|poisoned| emptied(poisoned.into_inner()));
    *slot = None;
    slot
}

/// A thread panicked while it read: its connection is not trusted any more.
fn emptied(mut slot: MutexGuard<'_, Option<Connection>>) -> MutexGuard<'_, Option<Connection>> {
    *slot = None;
    slot
}
