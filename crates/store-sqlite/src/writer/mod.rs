//! The one writer: takes what waits, commits it together, answers afterwards.
//!
//! A group is one transaction and one fsync. Each of its acts is atomic by itself: it checks first, and when it writes more
//! than one row it does so under a savepoint, so that an act that fails midway takes back its own rows and nobody else's. The
//! counter's row is kept in memory between groups (this process is the only writer, see [`crate::lock`]) and written once per
//! group, last.
//!
//! Nobody is answered before the COMMIT returned. When it fails, the acts of the group have *failed* only where SQLite proves
//! that nothing reached the log file; after an I/O error their outcome is *unknown*, since a commit record may be on disk and
//! be found by the next recovery. Either way the connection is opened anew before the next group, whose frames then take the
//! place of what was left. What a failed sync means beyond that stands in docs/decisions/0019-failed-sync.md.
mod apply;
mod apps;
mod audit;
mod check;
mod follow;
mod insert;
mod jobs;
mod outbox;
mod upstream;

pub(crate) use insert::found;

use crate::cells::Fault;
use crate::checkpoint::Checkpointer;
use crate::connect::Connector;
use crate::kept::{self, Kept};
use crate::readers::Readers;
use crate::reads;
use crate::rows::Meta;
use crate::settle;
use crate::{Clock, Counters};
use portcullis_domain::changes::{Changes, Committed, Conflict};
use portcullis_domain::throttle::Verdict;
use portcullis_store::{CommitError, Flood};
use portcullis_wire::{AccountId, Millis, Rev, Time};
use rusqlite::{Connection, ErrorCode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use tokio::sync::oneshot;

/// Between two tries to open everything anew.
const RENEW_EVERY: Millis = 1_000;

type Outcome = Result<Committed, CommitError>;

/// An act that waits for the writer, and whom to answer. It waits in a box: the places of the queue are used in turn, and larger
/// ones would never be in the processor's cache.
pub(crate) struct Job {
    pub(crate) changes: Changes,
    pub(crate) done: oneshot::Sender<Outcome>,
}

/// Why an act stops.
#[derive(Debug)]
enum Stop {
    /// Something it relied on is not so.
    Conflict(Conflict),
    /// The database failed.
    Fault(Fault),
}
impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(Fault::Sqlite(error))
    }
}

/// One act as far as it has come.
struct Act<'a> {
    db: &'a Connection,
    /// The counter's row as this transaction has it.
    meta: Meta,
    now: Time,
    idle_ttl: Option<Millis>,
    rev: Option<Rev>,
    ended: Option<u64>,
    /// With the end of the grace period, when there is one.
    deleted: Vec<(AccountId, Option<Time>)>,
    pruned: u64,
    attempt: Option<Verdict>,
}

/// A connection that may write, and the counter's row as the database has it.
struct Open {
    db: Connection,
    meta: Meta,
}

pub(crate) struct Writer {
    pub(crate) connector: Connector,
    pub(crate) clock: Clock,
    pub(crate) group: usize,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) counters: Arc<Counters>,
    /// Closed when everything is opened anew.
    pub(crate) readers: Arc<Readers>,
    pub(crate) kept: Arc<Kept>,
    pub(crate) troubles: Troubles,
}

/// What went wrong lately.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    flood: Flood,
    /// Groups that failed since the last one that did not.
    failed: u64,
    /// When everything was last to be opened anew.
    renewed: Option<Time>,
}

impl Writer {
    /// Until the last sender is gone. `db` is the first connection.
    pub(crate) fn run(mut self, db: Connection, meta: Meta, waiting: &Receiver<Box<Job>>) {
        let mut open = Some(Open { db, meta });
        while let Ok(first) = waiting.recv() {
            let jobs = self.gather(*first, waiting);
            self.counters.groups.fetch_add(1, Relaxed);
            self.counters.acts.fetch_add(jobs.len() as u64, Relaxed);
            let before = open.take();
            // The rules of this file do not panic; a clock or a bug might, and must not silence the database for good.
            open = catch_unwind(AssertUnwindSafe(|| self.group(before, jobs))).unwrap_or_else(|_| {
                tracing::error!("the database writer panicked; its connection is opened anew");
                None
            });
        }
    }

    /// Those who wait now, and those who are about to: as long as stepping back brings somebody, it is done again. With a core
    /// to itself that costs a microsecond; where the callers' thread wants the same core, a group without it would be whoever
    /// came first alone, and the rest would pay for another sync.
    fn gather(&self, first: Job, waiting: &Receiver<Box<Job>>) -> Vec<Job> {
        let mut jobs = vec![first];
        loop {
            let before = jobs.len();
            jobs.extend(waiting.try_iter().map(|job| *job).take(self.group - before));
            if jobs.len() >= self.group {
                return jobs;
            }
            std::thread::yield_now();
            jobs.extend(waiting.try_iter().map(|job| *job).take(self.group - jobs.len()));
            if jobs.len() == before {
                return jobs;
            }
        }
    }

    /// Commits one group. Returns the connection, unless it must be opened anew.
    fn group(&mut self, open: Option<Open>, jobs: Vec<Job>) -> Option<Open> {
        let open = if self.checkpointer.is_suspect() { self.renew(open) } else { open };
        let mut open = match open.map_or_else(|| self.reopen(), Ok) {
            Ok(open) => open,
            Err(fault) => {
                self.failed(&fault, true);
                refuse_all(jobs, &CommitError::Failed(fault.into()));
                return None;
            }
        };
        let outcomes = match self.transact(&mut open, &jobs) {
            Ok(outcomes) => outcomes,
            Err(broken) => {
                self.failed(&broken.fault, broken.certain);
                let why = if broken.certain { CommitError::Failed } else { CommitError::Unknown };
                refuse_all(jobs, &why(broken.fault.into()));
                return None;
            }
        };
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            let _ = job.done.send(outcome); // nobody waits any more: it is committed all the same
        }
        let failed = std::mem::take(&mut self.troubles.failed);
        if failed > 0 {
            tracing::info!(failed, "commits reach the disk again");
        }
        self.checkpointer.after_group(&open.db);
        Some(open)
    }

    /// Counts a group that was not committed, and tells it where that is due.
    fn failed(&mut self, fault: &Fault, certain: bool) {
        self.counters.failed_groups.fetch_add(1, Relaxed);
        self.troubles.failed += 1;
        let kind = fault.kind();
        if let Some(groups) = self.troubles.flood.note(kind, (self.clock)()) {
            tracing::error!(%fault, kind = kind.name(), certain, groups, "a group of commits failed");
        }
    }

    /// After a checkpoint that failed: once the log is certain to be on disk, all connections are closed, so that the next one
    /// finds by a recovery what is in the log, and moves all of it. Tried again once a second, until it has worked.
    fn renew(&mut self, open: Option<Open>) -> Option<Open> {
        let now = (self.clock)();
        let soon = |last: Time| (0..RENEW_EVERY).contains(&now.since(last));
        if self.troubles.renewed.is_some_and(soon) {
            return open;
        }
        self.troubles.renewed = Some(now);
        if let Err(error) = settle::log(&self.connector.path) {
            tracing::warn!(%error, "the write-ahead log does not reach the disk; no checkpoint runs until it does");
            return open;
        }
        let reading = self.readers.closed();
        let moving = self.checkpointer.closed();
        drop(open);
        let opened = self.reopen();
        drop((reading, moving));
        match opened {
            Ok(open) => {
                if self.checkpointer.begins_anew(&open.db) {
                    tracing::info!("the disk takes writes again: checkpoints go on, from the first page of the log");
                }
                Some(open)
            }
            Err(fault) => {
                tracing::warn!(%fault, "the database could not be opened anew after a failed checkpoint");
                None
            }
        }
    }

    fn reopen(&self) -> Result<Open, Fault> {
        self.kept.unknown(); // a commit of which nobody knows may show now
        let db = self.connector.writer()?;
        let meta = reads::meta(&db)?;
        Ok(Open { db, meta })
    }

    /// One transaction around all acts.
    fn transact(&self, open: &mut Open, jobs: &[Job]) -> Result<Vec<Outcome>, Broken> {
        let Open { db, meta } = open;
        db.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).map_err(Broken::certain)?;
        let mut next = *meta;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let outcome = act(db, &mut next, &job.changes, (self.clock)());
            if db.is_autocommit() {
                // SQLite gave the whole transaction up (disk full, I/O error): nothing of this group was written.
                return Err(Broken { fault: gave_up(outcome), certain: true });
            }
            outcomes.push(outcome.map_err(|stop| match stop {
                Stop::Conflict(conflict) => CommitError::Conflict(conflict),
                Stop::Fault(fault) => CommitError::Failed(fault.into()),
            }));
        }
        if next != *meta {
            insert::write_meta(db, &next).map_err(|error| roll_back(db, error))?;
        }
        let whom = kept::concerned(jobs.iter().flat_map(|job| &job.changes.steps));
        let committed =
            self.kept.around(whom, next.head, || db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])));
        committed.map_err(|error| commit_failed(db, error))?;
        *meta = next;
        Ok(outcomes)
    }
}

/// A group that was not committed, as far as is known.
struct Broken {
    fault: Fault,
    /// Whether it is certain that nothing was written.
    certain: bool,
}

impl Broken {
    fn certain(error: rusqlite::Error) -> Self {
        Self { fault: error.into(), certain: true }
    }
}

fn gave_up(outcome: Result<Committed, Stop>) -> Fault {
    match outcome {
        Err(Stop::Fault(fault)) => fault,
        _ => Fault::Row("the transaction ended by itself".into()),
    }
}

/// Before COMMIT nothing is in the log file that a recovery would take for a commit.
fn roll_back(db: &Connection, error: rusqlite::Error) -> Broken {
    let _ = db.execute_batch("ROLLBACK"); // the connection is dropped next, which does the same
    Broken::certain(error)
}

/// Only where SQLite stopped before the commit record was written whole is it certain that nothing was.
fn commit_failed(db: &Connection, error: rusqlite::Error) -> Broken {
    let before_the_record = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ConstraintViolation
                | ErrorCode::ReadOnly
        )
    );
    let rolled_back = db.is_autocommit() || db.execute_batch("ROLLBACK").is_ok();
    Broken { fault: error.into(), certain: before_the_record && rolled_back }
}

fn refuse_all(jobs: Vec<Job>, error: &CommitError) {
    for job in jobs {
        let _ = job.done.send(Err(error.clone())); // nobody waits any more
    }
}

/// One act of a group: all or nothing. `meta` moves only when it is all.
fn act(db: &Connection, meta: &mut Meta, changes: &Changes, now: Time) -> Result<Committed, Stop> {
    let mut act = Act {
        db,
        meta: *meta,
        now,
        idle_ttl: changes.idle_ttl,
        rev: None,
        ended: None,
        deleted: Vec::new(),
        pruned: 0,
        attempt: None,
    };
    for expect in &changes.expects {
        check::check(&act, expect)?;
    }
    // One statement is atomic by itself: the hot path needs no savepoint.
    let alone = changes.steps.len() == 1 && changes.events.is_empty() && changes.idempotency.is_none();
    let done = if alone && changes.steps.iter().all(one_statement) {
        write(&mut act, changes)
    } else {
        savepoint(db, "SAVEPOINT act")?;
        let done = write(&mut act, changes);
        if done.is_err() && !db.is_autocommit() {
            savepoint(db, "ROLLBACK TO act")?;
        }
        if !db.is_autocommit() {
            savepoint(db, "RELEASE act")?;
        }
        done
    };
    done?;
    *meta = act.meta;
    Ok(Committed { rev: act.rev, ended: act.ended, attempt: act.attempt, pruned: act.pruned, at: now })
}

fn savepoint(db: &Connection, sql: &str) -> Result<(), Stop> {
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// Changes that write one row by one statement, or none.
fn one_statement(step: &portcullis_domain::Change) -> bool {
    use portcullis_domain::Change;
    matches!(step, Change::SetFamily { .. } | Change::HandOut { .. } | Change::RaiseHorizon(_))
}

fn write(act: &mut Act<'_>, changes: &Changes) -> Result<(), Stop> {
    for step in &changes.steps {
        apply::apply(act, step)?;
    }
    apply::settle_deleted(act)?;
    if let Some(key) = &changes.idempotency {
        insert::remembered(act, key)?;
    }
    for event in &changes.events {
        insert::event(act, event)?;
    }
    apply::prune_events(act, &changes.steps)
}
