//! A read transaction that is held from one point read to the next, as long as no commit has begun.
//!
//! To begin and end one costs two locks on a file, and to read the counter's row and a client each time a fifth of what a refresh reads.
//! Between two groups of commits all that read see the same, and nobody but the writer changes the database: so a transaction that was begun
//! in this generation ([`crate::kept::Kept::quiet`]) shows what one would that is begun now, and is read on. While a commit is under way, and
//! after one of which nobody knows what became of it, there is no generation, and every read begins its own
//! (docs/decisions/0060-held-snapshots.md).
//!
//! What may not happen: a generation that is asked for after the transaction has begun; a transaction that is held while the log is to be
//! moved ([`crate::readers::Readers::release`]).
use crate::cells::{Cells, Fault, one};
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
    held: Option<Held>,
}

/// What is known of the transaction that is open.
struct Held {
    generation: Option<u64>,
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

impl Reader {
    pub(crate) fn new(db: Connection) -> Self {
        Self { db, held: None }
    }

    /// The connection without a transaction.
    pub(crate) fn alone(&mut self) -> Result<&Connection, Fault> {
        if self.held.take().is_some() {
            self.db.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(&self.db)
    }

    /// All that is read with the result is of one snapshot: the one that is held, where it is of this generation.
    pub(crate) fn snapshot(&mut self, generation: Option<u64>) -> Result<Snapshot<'_>, Fault> {
        let held = self.held.take_if(|held| generation.is_some() && held.generation == generation);
        let held = match held {
            Some(held) => held,
            None => self.begin(generation)?,
        };
        Ok(Snapshot { db: &self.db, held: self.held.insert(held) })
    }

    fn begin(&mut self, generation: Option<u64>) -> Result<Held, Fault> {
        let db = self.alone()?;
        db.prepare_cached("BEGIN")?.execute([])?;
        let read = || {
            let meta = reads::meta(db)?; // the first read: now the snapshot is fixed
            let standing = jobs::standing(db, &meta)?;
            Ok(Held { generation, meta, standing, clients: Vec::new() })
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
        const SQL: &str =
            "SELECT c.id, c.cut_rev, c.cut_except, c.disabled, c.access_ttl FROM clients c WHERE c.id = ?1";
        if let Some((_, known)) = self.held.clients.iter().find(|(id, _)| *id == client) {
            return Ok(*known);
        }
        let read = |cells: &mut Cells<'_, '_>| {
            cells.table("clients").id::<ClientId>()?;
            Ok(Limits { cut: cells.cut()?, disabled: cells.get()?, access_ttl: cells.get()? })
        };
        let limits = one(self.db, SQL, [crate::cells::Id::blob(client)], read)?;
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    const NOW: Time = Time(1_700_000_000_000);

    /// A database, and somebody who writes to it behind its back, which nobody does.
    struct World {
        store: Option<SqliteStore>,
        foreign: Connection,
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
            let foreign = Connection::open(&file).unwrap();
            Self { store: Some(store), foreign, folder }
        }
        fn store(&self) -> &SqliteStore {
            self.store.as_ref().unwrap()
        }
        fn write(&self, name: &str) {
            let id = ClientId::FIRST_PARTY.bits().to_be_bytes();
            assert_eq!(self.foreign.execute("UPDATE clients SET name = ?1 WHERE id = ?2", (name, id)).unwrap(), 1);
        }
        fn read(&self) -> String {
            const SQL: &str = "SELECT name FROM clients WHERE id = ?1";
            let store = self.store();
            let id = ClientId::FIRST_PARTY.bits().to_be_bytes();
            let read = |db: &Connection| Ok(db.query_row(SQL, [id], |row| row.get(0))?);
            store.readers.snapshot(|| store.kept.quiet(), |shot| read(shot.db)).unwrap()
        }
        /// Writes a little more than what was there.
        fn commit(&self) {
            let horizon = wait(self.store().stamp()).unwrap().horizon;
            let steps = vec![Change::RaiseHorizon(horizon.max(NOW).plus(1))];
            wait(self.store().commit(Changes { steps, ..Changes::default() })).unwrap();
        }
        /// Whether everything in the log can be moved, and the log be cut, now.
        fn is_free(&self) -> bool {
            self.foreign.busy_timeout(std::time::Duration::ZERO).unwrap();
            let busy = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            self.foreign.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], busy).unwrap() == 0
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            self.store = None;
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn one_is_held_until_a_commit_begins() {
        let world = World::new();
        world.write("before");
        assert_eq!(world.read(), "before");
        world.write("after");
        assert_eq!(world.read(), "before", "nothing was committed since, as far as this process knows");
        let store = world.store();
        let steps = vec![Change::RaiseHorizon(NOW.plus(1))];
        wait(store.commit(Changes { steps, ..Changes::default() })).unwrap();
        assert_eq!(world.read(), "after");
        assert_eq!(wait(store.stamp()).unwrap().horizon, NOW.plus(1));
        world.write("later");
        assert_eq!(world.read(), "later", "another kind of read has ended it");
    }

    #[test]
    fn none_is_held_while_a_commit_is_under_way_or_nobody_knows_what_became_of_it() {
        let world = World::new();
        let kept = &world.store().kept;
        let fresh = |name: &str| {
            world.write(name);
            assert_eq!(world.read(), name);
        };
        world.read();
        let made: Result<(), ()> = kept.around(Vec::new(), Rev::ZERO, || {
            fresh("one");
            fresh("two");
            Ok(())
        });
        made.unwrap();
        fresh("three");
        kept.around(Vec::new(), Rev::ZERO, || Err::<(), ()>(())).unwrap_err();
        fresh("four");
        fresh("five");
        world.commit();
        assert_eq!(world.read(), "five");
        world.write("six");
        assert_eq!(world.read(), "five");
        kept.unknown();
        fresh("seven");
        fresh("eight");
    }

    #[test]
    fn what_is_released_leaves_the_log_to_whoever_moves_it() {
        let world = World::new();
        world.commit();
        world.read();
        assert!(!world.is_free(), "a snapshot is held");
        let released = world.store().readers.release();
        assert!(world.is_free());
        world.commit();
        world.read();
        assert!(world.is_free(), "none is held for the next read");
        drop(released);
        world.commit();
        world.read();
        assert!(!world.is_free());
        drop(world.store().readers.release());
        assert!(world.is_free());
    }
}
