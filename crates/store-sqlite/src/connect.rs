//! Connections, and what each kind is set to.
use crate::cells::Fault;
use crate::reads;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::PathBuf;
use std::time::Duration;

/// How long a statement waits for a lock. Nobody but this process writes, so only a checkpoint can stand in the way.
pub(crate) const BUSY: Duration = Duration::from_secs(2);
/// How long a checkpoint that starts the log anew waits for readers. Meanwhile nobody writes.
pub(crate) const BUSY_CHECKPOINT: Duration = Duration::from_millis(50);
/// Statements kept prepared per connection: all that there are.
const STATEMENTS: usize = 128;
/// Page cache of the writer, in KiB. Nobody else writes, so that it stays valid; a refresh reads the one page that it changes,
/// and with SQLite's usual 2 MiB the writer spent most of its time reading.
const WRITER_CACHE_KIB: i64 = 65_536;
/// Page cache of each reader, in KiB. It is emptied by the first read after each commit.
const READER_CACHE_KIB: i64 = 8_192;

/// Opens connections to one database file.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) path: PathBuf,
    /// The database may not grow beyond so many pages.
    pub(crate) max_pages: Option<u32>,
}

impl Connector {
    fn open(&self, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
        // No SQLITE_OPEN_URI: a path is a path. NO_MUTEX: a connection is used by one thread at a time.
        let db = Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(BUSY)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        // Else the planner looks at bound values and prepares every statement anew at each use (docs/decisions/0005).
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // A schema from a foreign hand must not run functions; a double-quoted typo must not become a text.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        // Else the last one that is closed moves the log into the database file, also where the start was refused because it is
        // the wrong log, or a sync had failed. Who ends in order moves it himself ([`crate::checkpoint::at_the_end`]).
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(db)
    }

    /// For the writer: full sync, no checkpoints of its own.
    pub(crate) fn writer(&self) -> Result<Connection, Fault> {
        let db = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(Fault::Row(format!("the file system does not allow a write-ahead log (journal mode {mode})")));
        }
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "wal_autocheckpoint", 0)?;
        db.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        db.pragma_update(None, "journal_size_limit", crate::checkpoint::RESTART_AT * 4096)?;
        // What a savepoint keeps for taking back stays in memory.
        db.pragma_update(None, "temp_store", "MEMORY")?;
        if let Some(pages) = self.max_pages {
            db.pragma_update(None, "max_page_count", pages)?;
        }
        Ok(db)
    }

    /// For reading only, whatever the statement.
    pub(crate) fn reader(&self) -> Result<Connection, Fault> {
        let db = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.pragma_update(None, "query_only", true)?;
        db.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        // SQLite opens the file at the first use: now, so that what is wrong with it shows now, and no caller waits for it.
        reads::meta(&db)?;
        Ok(db)
    }

    /// For checkpoints.
    pub(crate) fn checkpointer(&self) -> Result<Connection, Fault> {
        let db = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.busy_timeout(BUSY_CHECKPOINT)?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(db)
    }
}
