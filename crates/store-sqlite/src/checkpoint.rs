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
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// So many new pages in the log (16 MiB) ask for a checkpoint.
const STEP: i64 = 4_096;
/// So many pages in the log (64 MiB) make the writer help after the next pass.
pub(crate) const RESTART_AT: i64 = 16_384;
/// So many pages in the log (96 MiB) make it help at once.
const LIMIT: i64 = 24_576;
/// Quiet for so long: the log file is cut.
const QUIET: Duration = Duration::from_secs(5);

/// The writer's side.
pub(crate) struct Checkpointer {
    ask: SyncSender<()>,
    help: Arc<AtomicBool>,
    /// How long the log was when a checkpoint was asked for last.
    asked_at: i64,
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
    (Checkpointer { ask, help: help.clone(), asked_at: 0 }, Checkpoints { asked, help, connector })
}

impl Checkpointer {
    /// Called by the writer after every group, with its connection.
    pub(crate) fn after_group(&mut self, db: &Connection) {
        let Ok(pages) = length(db) else { return };
        let grown = pages < self.asked_at || pages - self.asked_at >= STEP;
        // Where a long read keeps the log from starting anew, that is tried once per step, not with every group.
        if self.help.swap(false, Relaxed) || grown && pages >= LIMIT {
            restart(db);
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

/// Moves what the passive pass left over, and waits a moment for readers, so that the log starts anew. Where a long read stands
/// in the way it is tried again after the next pass.
fn restart(db: &Connection) {
    let moved = db.busy_timeout(BUSY_CHECKPOINT).and_then(|()| pass(db, "PRAGMA wal_checkpoint(RESTART)"));
    if let Err(error) = db.busy_timeout(BUSY).and(moved) {
        tracing::warn!(%error, "the write-ahead log could not be started anew; tried again after the next checkpoint");
    }
}

fn pass(db: &Connection, sql: &str) -> rusqlite::Result<i64> {
    db.query_row(sql, [], |row| row.get(1))
}
