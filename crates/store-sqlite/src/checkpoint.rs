//! Moving the write-ahead log into the database file, apart from the writer.
//!
//! A checkpoint writes and syncs the database file; done by the writer, it would stand between two groups and in somebody's
//! answer. So a thread of its own does it with its own connection, PASSIVE: it waits for nobody and nobody waits for it. Under
//! steady load a passive checkpoint never catches the writer's last page, and SQLite starts the log file anew only when
//! everything in it was moved. So when the log grew past [`RESTART_AT`] the writer itself moves the rest, between two groups,
//! right after a passive pass has moved nearly all; that is rare and short. Where the disk is so slow that the passes do not
//! keep up, the writer moves everything itself at [`LIMIT`], and its callers wait: the log has a limit. When nothing was
//! written for a while, the log file is cut to nothing.
use crate::connect::{BUSY, BUSY_CHECKPOINT, Connector};
use crate::readers::Readers;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// So many new pages in the log (16 MiB) ask for a checkpoint.
const STEP: i64 = 4_096;
/// So many pages in the log (64 MiB) make the writer help after the next pass.
pub(crate) const RESTART_AT: i64 = 16_384;
/// So many pages in the log (96 MiB) make it help at once.
const LIMIT: i64 = 24_576;
/// Quiet for so long: the log file is cut.
const QUIET: Duration = Duration::from_secs(5);

/// What both sides know.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The writer is to move the rest of the log.
    help: AtomicBool,
    /// A checkpoint met an I/O error: see [`Checkpointer::is_suspect`].
    suspect: AtomicBool,
    db: Mutex<Option<Connection>>,
}

impl Shared {
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(SeqCst)
    }

    /// A checkpoint failed. One that was busy or found no space has lost nothing.
    fn failed(&self, error: &rusqlite::Error) {
        if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
            self.suspect.store(true, SeqCst);
        }
    }

    /// Closes the thread's connection, and keeps it from opening another as long as the result lives.
    pub(crate) fn closed(&self) -> MutexGuard<'_, Option<Connection>> {
        let mut db = self.connection();
        *db = None;
        db
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.db.lock().unwrap_or_else(|poisoned| {
            let mut db = poisoned.into_inner();
            *db = None;
            db
        })
    }
}

/// The writer's side.
pub(crate) struct Checkpointer {
    ask: SyncSender<()>,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    /// How long the log was when a checkpoint was asked for last.
    asked_at: i64,
}

/// The thread's side.
pub(crate) struct Checkpoints {
    asked: Receiver<()>,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    connector: Connector,
}

/// Both sides, and what they share.
pub(crate) fn pair(connector: Connector, readers: Arc<Readers>) -> (Checkpointer, Checkpoints, Arc<Shared>) {
    let (ask, asked) = sync_channel(1);
    let shared = Arc::new(Shared::default());
    let checkpoints = Checkpoints { asked, shared: shared.clone(), readers: readers.clone(), connector };
    (Checkpointer { ask, shared: shared.clone(), readers, asked_at: 0 }, checkpoints, shared)
}

impl Checkpointer {
    /// A checkpoint met an I/O error. SQLite takes pages as moved that it never synced, and the kernel may have dropped them: so
    /// no checkpoint runs until all of the log is moved anew, from its first page (docs/decisions/0019-failed-sync.md).
    pub(crate) fn is_suspect(&self) -> bool {
        self.shared.is_suspect()
    }

    /// As [`Shared::closed`].
    pub(crate) fn closed(&self) -> MutexGuard<'_, Option<Connection>> {
        self.shared.closed()
    }

    /// Whether SQLite, asked by the only connection that is open, will move the log from its first page on; then checkpoints
    /// go on.
    pub(crate) fn begins_anew(&mut self, db: &Connection) -> bool {
        let moved = db.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get::<_, i64>(2));
        let anew = moved.is_ok_and(|moved| moved <= 0);
        if anew {
            self.asked_at = 0;
            self.shared.suspect.store(false, SeqCst);
        }
        anew
    }

    /// Called by the writer after every group, with its connection.
    pub(crate) fn after_group(&mut self, db: &Connection) {
        let Ok(pages) = length(db) else { return };
        let grown = pages < self.asked_at || pages - self.asked_at >= STEP;
        // Where a long read keeps the log from starting anew, that is tried once per step, not with every group.
        let wanted = self.shared.help.swap(false, Relaxed) || grown && pages >= LIMIT;
        if wanted
            && !self.is_suspect()
            && let Err(error) = restart(db, &self.readers)
        {
            self.shared.failed(&error);
            tracing::warn!(%error, "the write-ahead log could not be started anew; tried again after the next checkpoint");
        }
        if grown {
            self.asked_at = pages;
            let _ = self.ask.try_send(()); // one is asked for already
        }
    }
}

/// How many pages the log has. Moves nothing.
fn length(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?.query_row([], |row| row.get(1))
}

impl Checkpoints {
    /// Until the writer is gone.
    pub(crate) fn run(self) {
        let mut pages_before = 0;
        loop {
            let asked = match self.asked.recv_timeout(QUIET) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            pages_before = self.turn(asked, pages_before);
        }
    }

    /// One pass, and what follows from it. How many pages the log has; `pages_before`: how many it had by the turn before.
    pub(crate) fn turn(&self, asked: bool, pages_before: i64) -> i64 {
        // As long as a snapshot is held, a pass moves nothing that is newer, and the next commit cannot start the log anew.
        let _released = self.readers.release();
        let pages = self.once("PRAGMA wal_checkpoint(PASSIVE)").unwrap_or_default();
        if pages > RESTART_AT {
            self.shared.help.store(true, Relaxed);
        }
        // Nothing was written since the last time: now nobody is in the way.
        if !asked && pages > 0 && pages == pages_before {
            self.once("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        pages
    }

    /// How many pages the log has now; `None` when it could not be done.
    fn once(&self, sql: &str) -> Option<i64> {
        let mut db = self.shared.connection();
        if self.shared.is_suspect() {
            return None;
        }
        if db.is_none() {
            match self.connector.checkpointer() {
                Ok(opened) => *db = Some(opened),
                Err(fault) => tracing::warn!(%fault, "no connection for checkpoints; tried again at the next one"),
            }
        }
        match pass(db.as_ref()?, sql) {
            Ok(pages) => Some(pages),
            Err(error) => {
                self.shared.failed(&error);
                tracing::warn!(%error, "a checkpoint failed; tried again at the next one");
                *db = None;
                None
            }
        }
    }
}

/// Moves all of the log, and removes its file: the database file alone is then the database. No other connection is open.
pub(crate) fn at_the_end(connector: &Connector) {
    let moved = connector.checkpointer().and_then(|db| {
        pass(&db, "PRAGMA wal_checkpoint(TRUNCATE)")?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        db.close().map_err(|(_, error)| error.into())
    });
    if let Err(fault) = moved {
        tracing::warn!(%fault, "the write-ahead log was not moved at the end; the next start reads it");
    }
}

/// Moves what the passive pass left over, and waits a moment for readers, so that the log starts anew. Where a long read stands
/// in the way it is tried again after the next pass.
pub(crate) fn restart(db: &Connection, readers: &Readers) -> rusqlite::Result<()> {
    let _released = readers.release();
    let moved = db.busy_timeout(BUSY_CHECKPOINT).and_then(|()| pass(db, "PRAGMA wal_checkpoint(RESTART)"));
    db.busy_timeout(BUSY).and(moved.map(|_| ()))
}

fn pass(db: &Connection, sql: &str) -> rusqlite::Result<i64> {
    db.query_row(sql, [], |row| row.get(1))
}
