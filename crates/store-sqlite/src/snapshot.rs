//! A read transaction that is held from one point read to the next, as long as no commit has begun.
//!
//! To begin and end one costs two locks on a file, and the counter's row and a client's are read again each time. Between two groups of
//! commits all that read see the same, and nobody but the writer changes the database: so a transaction that was begun in this generation
//! ([`crate::kept::Kept::quiet`]) shows what one would that is begun now, and is read on. While a commit is under way, and after one of which
//! nobody knows what became of it, there is no generation, and every read is alone. So is the first one in a generation, which may be the
//! only one: a transaction is begun by the second (docs/decisions/0060-held-snapshots.md).
//!
//! What may not happen: a generation that is asked for after the transaction has begun; a transaction that is held while the log is to be
//! moved ([`crate::readers::Readers::release`]).
use crate::cells::{Cells, Fault, Id as _, one};
use crate::jobs;
use crate::reads;
use crate::rows::Meta;
use portcullis_domain::{Cut, mass};
use portcullis_wire::{ClientId, Millis};
use rusqlite::Connection;

/// Clients that are remembered in one transaction.
const CLIENTS: usize = 16;

/// A connection that reads.
pub(crate) struct Reader {
    db: Connection,
    /// The generation of the read before, and of what is held.
    generation: Option<u64>,
    held: Option<Held>,
}

/// What is known of the transaction that is open.
struct Held {
    meta: Meta,
    standing: mass::Rules,
    clients: Vec<(ClientId, Option<Limits>)>,
}

/// What a client says of those that have its tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) cut: Cut,
    pub(crate) disabled: bool,
    pub(crate) access_ttl: Option<Millis>,
}

macro_rules! limits_columns {
    () => {
        "c.id, c.cut_rev, c.cut_except, c.disabled, c.access_ttl"
    };
}
pub(crate) use limits_columns;

impl Limits {
    pub(crate) fn read(cells: &mut Cells<'_, '_>) -> Result<Self, Fault> {
        cells.table("clients").id::<ClientId>()?;
        Ok(Self { cut: cells.cut()?, disabled: cells.get()?, access_ttl: cells.get()? })
    }
}

impl Reader {
    pub(crate) fn new(db: Connection) -> Self {
        Self { db, generation: None, held: None }
    }

    /// The connection without a transaction.
    pub(crate) fn alone(&mut self) -> Result<&Connection, Fault> {
        if self.held.take().is_some() {
            self.db.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(&self.db)
    }

    /// A snapshot of now: the one that is held, or one that is begun where the read before was of this generation, too. `None`: a commit
    /// has begun since.
    pub(crate) fn snapshot(&mut self, generation: Option<u64>) -> Result<Option<Snapshot<'_>>, Fault> {
        let again = generation.is_some() && self.generation == generation;
        self.generation = generation;
        if !again {
            self.alone()?;
            return Ok(None);
        }
        let held = match self.held.take() {
            Some(held) => held,
            None => self.begin()?,
        };
        Ok(Some(Snapshot { db: &self.db, held: self.held.insert(held) }))
    }

    fn begin(&mut self) -> Result<Held, Fault> {
        let db = self.alone()?;
        db.prepare_cached("BEGIN")?.execute([])?;
        let read = || {
            let meta = reads::meta(db)?; // the first read: now the snapshot is fixed
            let standing = jobs::standing(db, &meta)?;
            Ok(Held { meta, standing, clients: Vec::new() })
        };
        read().inspect_err(|_| drop(db.execute_batch("ROLLBACK")))
    }
}

/// Reads of one moment.
pub(crate) struct Snapshot<'a> {
    pub(crate) db: &'a Connection,
    held: &'a mut Held,
}

impl Snapshot<'_> {
    /// The counter's row.
    pub(crate) fn meta(&self) -> &Meta {
        &self.held.meta
    }

    /// The rules of revocations by filter that stand.
    pub(crate) fn standing(&self) -> mass::Rules {
        self.held.standing.clone()
    }

    /// What a client says of its tokens; `None`: there is none of this id.
    pub(crate) fn limits(&mut self, client: ClientId) -> Result<Option<Limits>, Fault> {
        const SQL: &str = concat!("SELECT ", limits_columns!(), " FROM clients c WHERE c.id = ?1");
        if let Some((_, known)) = self.held.clients.iter().find(|(id, _)| *id == client) {
            return Ok(*known);
        }
        let limits = one(self.db, SQL, [client.blob()], Limits::read)?;
        if self.held.clients.len() < CLIENTS {
            self.held.clients.push((client, limits));
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use crate::{OpenOptions, SqliteStore};
    use portcullis_domain::changes::{Change, Changes};
    use portcullis_store::Store as _;
    use portcullis_store::conformance::wait;
    use portcullis_wire::{ClientId, LogId, Rev, Time};
    use rusqlite::Connection;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
    use std::sync::{Arc, Mutex};

    const NOW: Time = Time(1_700_000_000_000);

    /// A database, and somebody who writes to it behind its back, which nobody does.
    struct World {
        store: Option<SqliteStore>,
        foreign: Mutex<Connection>,
        folder: PathBuf,
    }

    impl World {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("portcullis-snapshot-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let file = folder.join("portcullis.db");
            let store = SqliteStore::open(&file, OpenOptions::new(LogId::from_bits(7), Arc::new(|| NOW))).unwrap();
            let foreign = Mutex::new(Connection::open(&file).unwrap());
            Self { store: Some(store), foreign, folder }
        }
        fn store(&self) -> &SqliteStore {
            self.store.as_ref().unwrap()
        }
        fn write(&self, name: &str) {
            let id = ClientId::FIRST_PARTY.bits().to_be_bytes();
            let foreign = self.foreign.lock().unwrap();
            assert_eq!(foreign.execute("UPDATE clients SET name = ?1 WHERE id = ?2", (name, id)).unwrap(), 1);
        }
        fn read(&self) -> String {
            const SQL: &str = "SELECT name FROM clients WHERE id = ?1";
            let store = self.store();
            let id = ClientId::FIRST_PARTY.bits().to_be_bytes();
            let read = |db: &Connection| Ok(db.query_row(SQL, [id], |row| row.get(0))?);
            store.readers.snapshot(|| store.kept.quiet(), |shot| read(shot.db), read).unwrap()
        }
        /// Reads until a snapshot is held.
        fn hold(&self) -> String {
            self.read();
            self.read()
        }
        /// Writes a little more than what was there.
        fn commit(&self) {
            let horizon = wait(self.store().stamp()).unwrap().horizon;
            let steps = vec![Change::RaiseHorizon(horizon.max(NOW).plus(1))];
            wait(self.store().commit(Changes { steps, ..Changes::default() })).unwrap();
        }
        /// How many pages the log has.
        fn pages(&self) -> i64 {
            let pages = |row: &rusqlite::Row<'_>| row.get(1);
            self.foreign.lock().unwrap().query_row("PRAGMA wal_checkpoint(NOOP)", [], pages).unwrap()
        }
        /// Whether everything in the log can be moved, and the log be cut, now.
        fn is_free(&self) -> bool {
            let foreign = self.foreign.lock().unwrap();
            foreign.busy_timeout(std::time::Duration::ZERO).unwrap();
            let busy = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            foreign.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], busy).unwrap() == 0
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            self.store = None;
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn one_is_held_from_the_second_read_on_until_a_commit_begins() {
        let world = World::new();
        world.write("one");
        assert_eq!(world.read(), "one");
        world.write("two");
        assert_eq!(world.read(), "two", "the first read was alone");
        world.write("three");
        assert_eq!(world.read(), "two", "nothing was committed since, as far as this process knows");
        let store = world.store();
        let steps = vec![Change::RaiseHorizon(NOW.plus(1))];
        wait(store.commit(Changes { steps, ..Changes::default() })).unwrap();
        assert_eq!(world.read(), "three");
        assert_eq!(wait(store.stamp()).unwrap().horizon, NOW.plus(1));
        assert_eq!(world.hold(), "three");
        wait(store.stamp()).unwrap();
        world.write("four");
        assert_eq!(world.read(), "four", "another kind of read has ended it");
    }

    #[test]
    fn the_generation_is_asked_for_before_one_begins() {
        let world = World::new();
        world.read();
        let (store, id) = (world.store(), ClientId::FIRST_PARTY.bits().to_be_bytes());
        let quiet = || {
            let quiet = store.kept.quiet();
            world.write("of another generation");
            quiet
        };
        let read = |db: &Connection| {
            Ok(db.query_row("SELECT name FROM clients WHERE id = ?1", [id], |row| row.get::<_, String>(0))?)
        };
        let name = store.readers.snapshot(quiet, |shot| read(shot.db), |_| panic!("the second read is not alone"));
        assert_eq!(name.unwrap(), "of another generation");
    }

    #[test]
    fn none_is_held_while_a_commit_is_under_way_or_nobody_knows_what_became_of_it() {
        let world = World::new();
        let kept = &world.store().kept;
        let fresh = |name: &str| {
            world.write(name);
            assert_eq!(world.read(), name);
        };
        world.hold();
        let made: Result<(), ()> = kept.around(Vec::new(), Rev::ZERO, || {
            fresh("one");
            fresh("two");
            fresh("three");
            Ok(())
        });
        made.unwrap();
        fresh("four");
        kept.around(Vec::new(), Rev::ZERO, || Err::<(), ()>(())).unwrap_err();
        fresh("five");
        fresh("six");
        fresh("seven");
        world.commit();
        assert_eq!(world.hold(), "seven");
        world.write("eight");
        assert_eq!(world.read(), "seven");
        kept.unknown();
        fresh("nine");
        fresh("ten");
        fresh("eleven");
    }

    #[test]
    fn what_is_released_leaves_the_log_to_whoever_moves_it() {
        let world = World::new();
        // Two threads, so that each asks a connection of its own.
        let hold = || {
            std::thread::scope(|scope| scope.spawn(|| world.hold()).join().unwrap());
            world.hold();
        };
        world.commit();
        hold();
        assert!(!world.is_free(), "snapshots are held");
        let released = world.store().readers.release();
        assert!(world.is_free());
        world.commit();
        hold();
        assert!(world.is_free(), "none is held for the next read");
        drop(released);
        world.commit();
        hold();
        assert!(!world.is_free());
        drop(world.store().readers.release());
        assert!(world.is_free());
    }

    #[test]
    fn who_is_reading_when_release_is_asked_for_ends_it_himself() {
        let world = World::new();
        let readers = &world.store().readers;
        for fails in [false, true] {
            world.commit();
            world.hold();
            let mut released = None;
            let held = |_: &mut super::Snapshot<'_>| {
                released = Some(readers.release());
                assert!(!world.is_free());
                if fails { Err(crate::cells::Fault::Row("damaged".into())) } else { Ok(()) }
            };
            let read = readers.snapshot(|| world.store().kept.quiet(), held, |_| panic!("a snapshot is held"));
            assert_eq!(read.is_err(), fails);
            assert!(world.is_free());
            drop(released);
        }
    }

    #[test]
    fn the_next_commit_starts_the_log_anew_though_somebody_reads_during_the_pass() {
        let world = World::new();
        let store = world.store();
        let (_, checkpoints, shared) = crate::checkpoint::pair(store.connector.clone(), store.readers.clone());
        world.commit();
        std::thread::scope(|scope| {
            let connection = shared.closed(); // which the pass waits for
            let turn = scope.spawn(move || checkpoints.turn(true, 0));
            let mut waited = 0;
            while store.readers.in_the_way.load(SeqCst) == 0 {
                assert!(waited < 10_000, "a pass lets nobody hold a snapshot");
                waited += 1;
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
            // On another thread, whose connection nobody else asks.
            scope.spawn(|| world.hold()).join().unwrap();
            drop(connection);
            turn.join().unwrap();
        });
        world.commit();
        assert!(world.pages() < 10, "{}: what opening the database has written is still there", world.pages());
    }

    #[test]
    fn the_writer_starts_the_log_anew_though_a_snapshot_is_held() {
        let world = World::new();
        let store = world.store();
        world.commit();
        // On another thread, whose connection nobody else asks.
        std::thread::scope(|scope| scope.spawn(|| world.hold()).join().unwrap());
        crate::checkpoint::restart(&store.connector.writer().unwrap(), &store.readers).unwrap();
        world.commit();
        assert!(world.pages() < 10, "{}: what opening the database has written is still there", world.pages());
    }

    #[test]
    fn after_a_panic_a_connection_is_opened_once() {
        let world = World::new();
        world.hold();
        let store = world.store();
        let read = || store.readers.point(|_| -> Result<(), crate::cells::Fault> { panic!("as the test wants") });
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_err();
        world.write("one");
        assert_eq!(world.read(), "one", "what the panic left is not read on");
        assert_eq!(world.read(), "one");
        world.write("two");
        assert_eq!(world.read(), "one", "the same connection as before");
    }
}
