//! Moving the write-ahead log into the database file, apart from the writer.
//!
//! A checkpoint writes and syncs the database file; done by the writer, it would stand between two groups and in somebody's
//! answer. So a thread of its own does it with its own connection, PASSIVE: it waits for nobody and nobody waits for it. Under
//! steady load a passive checkpoint never catches the writer's last page, and SQLite starts the log file anew only when
//! everything in it was moved. So when the log grew past [`RESTART_AT`] the writer itself moves the rest, between two groups,
//! right after a passive pass has moved nearly all; that is rare and short. When nothing was written for a while, the log file
//! is cut to nothing.
use crate::connect::Connector;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// So many changed rows ask for a checkpoint: about as many pages, 8 MiB.
const ROWS: u64 = 2_000;
/// So many pages in the log (64 MiB) make the writer help once.
pub(crate) const RESTART_AT: i64 = 16_384;
/// Quiet for so long: the log file is cut.
const QUIET: Duration = Duration::from_secs(5);

/// The writer's side.
pub(crate) struct Checkpointer {
    ask: SyncSender<()>,
    help: Arc<AtomicBool>,
    seen: u64,
}

/// The thread's side.
pub(crate) struct Checkpoints {
    asked: Receiver<()>,
    help: Arc<AtomicBool>,
    connector: Connector,
}

/// Both sides.
pub(crate) fn pair(connector: Connector) -> (Checkpointer, Checkpoints) {
    let (ask, asked) = sync_channel(1);
    let help = Arc::new(AtomicBool::new(false));
    (Checkpointer { ask, help: help.clone(), seen: 0 }, Checkpoints { asked, help, connector })
}

impl Checkpointer {
    /// Called by the writer after every group, with its connection.
    pub(crate) fn after_group(&mut self, db: &Connection) {
        let rows = db.total_changes();
        if self.help.swap(false, Relaxed) {
            // Moves what the passive pass left over, and waits a moment for readers, so that the log can start anew.
            let _ = pass(db, "PRAGMA wal_checkpoint(RESTART)"); // not possible now: asked again after the next pass
        }
        // A new connection counts from zero.
        if rows < self.seen || rows - self.seen >= ROWS {
            self.seen = rows;
            let _ = self.ask.try_send(()); // one is asked for already
        }
    }
}

impl Checkpoints {
    /// Until the writer is gone.
    pub(crate) fn run(self) {
        let (mut db, mut pages_before) = (None, 0);
        loop {
            let asked = match self.asked.recv_timeout(QUIET) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let pages = self.once(&mut db, "PRAGMA wal_checkpoint(PASSIVE)").unwrap_or_default();
            if pages > RESTART_AT {
                self.help.store(true, Relaxed);
            }
            // Nothing was written since the last time: now nobody is in the way.
            if !asked && pages > 0 && pages == pages_before {
                self.once(&mut db, "PRAGMA wal_checkpoint(TRUNCATE)");
            }
            pages_before = pages;
        }
    }

    /// How many pages the log has now; `None` when it could not be done.
    fn once(&self, db: &mut Option<Connection>, sql: &str) -> Option<i64> {
        if db.is_none() {
            match self.connector.checkpointer() {
                Ok(opened) => *db = Some(opened),
                Err(fault) => tracing::warn!(%fault, "no connection for checkpoints; tried again at the next one"),
            }
        }
        match pass(db.as_ref()?, sql) {
            Ok(pages) => Some(pages),
            Err(error) => {
                tracing::warn!(%error, "a checkpoint failed; tried again at the next one");
                *db = None;
                None
            }
        }
    }
}

fn pass(db: &Connection, sql: &str) -> rusqlite::Result<i64> {
    db.query_row(sql, [], |row| row.get(1))
}
