//! The committer: takes what waits, commits it together by one statement, answers afterwards.
//!
//! A group is one call of the database's `commit_group_7`, or of `commit_refreshes` when it is nothing but refreshes ([`refreshes`]),
//! sent as one statement outside any transaction block: it is its own transaction, one round trip carries it and its commit, and no lock is ever held while anybody waits for the network. Row
//! locks come first, the counter's lock last ([`locks`]); what follows runs in the server without waiting, and each act of a
//! group is all or nothing by itself.
//!
//! Nobody is answered before the statement has returned, its end included. What the server answers with an error was rolled
//! back: the acts have *failed*. When no answer comes their outcome is *unknown*. A group that the server gave up for the sake
//! of another transaction is tried again; one that fails for a value in it is tried act by act, so that one act fails alone.
mod encode;
mod locks;
mod outcome;
mod refreshes;

use self::locks::Locks;
use self::outcome::Answer;
use self::refreshes::{Refresh, Refreshes};
use crate::Counters;
use crate::cells::{Fault, Id as _, is_of_one};
use crate::clock::DatabaseClock;
use crate::gather::{Beat, ready, ready_within};
use crate::open;
use crate::told::Told;
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_domain::ledger::Ledger;
use portcullis_store::{CommitError, StoreError};
use portcullis_wire::Time;
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, query_scalar};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a group waits for a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a connection may take to be made. Longer than a group waits: it is there for one of the next.
const MADE: Duration = Duration::from_secs(8);
/// How long an answer may take. The server gives a statement up before that; later the way to it must be broken.
const ANSWER: Duration = Duration::from_secs(10);
/// Unused for so long, a connection is tried before it is trusted with a group.
const QUIET: Duration = Duration::from_secs(1);
/// How often a group is tried that the server gives up for the sake of another transaction.
const TRIES: u32 = 4;

pub(crate) type Outcome = Result<Committed, CommitError>;

/// A decision as the database reads it.
pub(crate) enum Act {
    /// A refresh as `commit_refreshes` does, and what it was before, for when it meets others in its group.
    Refresh(Refresh, Box<Changes>),
    Other(Other),
}

/// A decision as `commit_group_7` reads it.
#[derive(Clone)]
pub(crate) struct Other {
    json: Value,
    locks: Locks,
    exclusive: bool,
    /// It founds the log anew, whatever was lost.
    anew: bool,
}

impl Act {
    /// An error when it holds what cannot be kept.
    pub(crate) fn new(changes: Changes) -> Result<Self, StoreError> {
        Ok(match Refresh::of(&changes)? {
            Some(refresh) => Self::Refresh(refresh, Box::new(changes)),
            None => Self::Other(Other::new(&changes)?),
        })
    }

    fn refresh(&self) -> Option<Refresh> {
        match self {
            Self::Refresh(refresh, _) => Some(refresh.clone()),
            Self::Other(_) => None,
        }
    }

    fn other(&self) -> Result<Cow<'_, Other>, StoreError> {
        match self {
            Self::Refresh(_, changes) => Ok(Cow::Owned(Other::new(changes)?)),
            Self::Other(other) => Ok(Cow::Borrowed(other)),
        }
    }
}

impl Other {
    fn new(changes: &Changes) -> Result<Self, StoreError> {
        let steps = changes.steps.iter().filter(|step| encode::last(step).is_none());
        let steps = steps.map(encode::step).collect::<Result<Vec<_>, _>>()?;
        let lonely = changes.events.is_empty() && changes.idempotency.is_none();
        let alone = match changes.steps.as_slice() {
            [Change::SetFamily { .. } | Change::HandOut { .. }] if lonely => steps.first(),
            _ => None,
        };
        let json = serde_json::json!({
            "expects": changes.expects.iter().map(encode::expect).collect::<Result<Vec<_>, _>>()?,
            "alone": alone,
            "steps": if alone.is_some() { &[] } else { steps.as_slice() },
            "events": changes.events.iter().map(encode::event).collect::<Vec<_>>(),
            "last": changes.steps.iter().filter_map(encode::last).collect::<Vec<_>>(),
            "idempotency": changes.idempotency.as_ref().map(encode::idempotency),
            "idle_ttl": changes.idle_ttl,
        });
        let anew = changes.steps.iter().any(|step| matches!(step, Change::Refound { .. }));
        Ok(Self { json, locks: Locks::of(changes), exclusive: locks::is_exclusive(changes), anew })
    }
}

/// A group as it is sent.
enum Call {
    Refreshes(Refreshes),
    Group(String),
}

impl Call {
    /// The inner error: it was committed, and is not understood.
    async fn commit(
        self,
        db: &mut PgConnection,
        before: &Ledger,
        given: Option<Time>,
        count: usize,
    ) -> Result<Result<Answer, Fault>, sqlx::Error> {
        match self {
            Self::Refreshes(refreshes) => refreshes.commit(db, before, given).await,
            Self::Group(text) => {
                // All rows, so that what comes after the last one, the end of the transaction, is waited for.
                let asked = query_scalar::<_, String>("SELECT commit_group_7($1::jsonb)::text").bind(text);
                Ok(outcome::read(&asked.fetch_all(db).await?, count))
            }
        }
    }
}

/// An act that waits for the committer, and whom to answer.
pub(crate) struct Job {
    pub(crate) act: Act,
    pub(crate) done: oneshot::Sender<Outcome>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(DIGITS[usize::from(half)])).collect()
}

pub(crate) struct Committer {
    pub(crate) options: PgConnectOptions,
    pub(crate) clock: Arc<DatabaseClock>,
    /// As [`open::check`] takes it.
    pub(crate) lose_data: bool,
    pub(crate) group: usize,
    pub(crate) counters: Arc<Counters>,
    pub(crate) told: Arc<Told>,
    /// Tells lookups what is under way.
    pub(crate) beat: watch::Sender<Option<Beat>>,
    pub(crate) db: Option<PgConnection>,
    /// A connection that is being made, or was made and waits to be used.
    pub(crate) making: Option<JoinHandle<Result<PgConnection, Fault>>>,
    /// Whether nothing was committed for a while, in which the connection may have died.
    pub(crate) quiet: bool,
}

/// Why a group has no outcomes.
enum Broken {
    /// Nothing was sent, or the server says that nothing was written.
    Failed(Fault),
    /// The same, for what one of the acts holds.
    OfOne(Fault),
    /// The same, and it may go better at once.
    Again(Fault),
    /// Nobody knows.
    Unknown(Fault),
}

impl Committer {
    /// Until nobody can send any more.
    pub(crate) async fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        loop {
            let count = match self.quiet {
                true => Some(ready(&mut waiting, &mut jobs, self.group).await),
                false => ready_within(QUIET, &mut waiting, &mut jobs, self.group).await,
            };
            match count {
                None => self.quiet = true,
                Some(0) => break,
                Some(acts) => {
                    let begun = self.clock.mono_us();
                    self.beat.send_replace(Some(Beat { acts, begun, ended: None }));
                    self.commit(std::mem::take(&mut jobs)).await;
                    self.beat.send_replace(Some(Beat { acts, begun, ended: Some(self.clock.mono_us()) }));
                    self.quiet = false;
                }
            }
        }
        if let Some(db) = self.db {
            let _ = db.close().await; // the server notices anyway
        }
    }

    async fn commit(&mut self, jobs: Vec<Job>) {
        self.counters.groups.fetch_add(1, Relaxed);
        self.counters.acts.fetch_add(jobs.len() as u64, Relaxed);
        match self.outcomes(&jobs).await {
            Ok(outcomes) => jobs.into_iter().zip(outcomes).for_each(|(job, outcome)| answer(job, outcome)),
            Err(Broken::OfOne(_)) if jobs.len() > 1 => {
                for job in jobs {
                    let outcome = self.outcomes(std::slice::from_ref(&job)).await;
                    let outcome = outcome.map_or_else(|broken| Err(self.told(broken)), |mut all| all.remove(0));
                    answer(job, outcome);
                }
            }
            Err(broken) => {
                let error = self.told(broken);
                jobs.into_iter().for_each(|job| answer(job, Err(error.clone())));
            }
        }
    }

    fn told(&self, broken: Broken) -> CommitError {
        self.counters.failed_groups.fetch_add(1, Relaxed);
        let (fault, error): (_, fn(StoreError) -> CommitError) = match broken {
            Broken::Failed(fault) | Broken::OfOne(fault) | Broken::Again(fault) => (fault, CommitError::Failed),
            Broken::Unknown(fault) => (fault, CommitError::Unknown),
        };
        let error = error(fault.into());
        tracing::error!(%error, "a group of commits failed");
        error
    }

    /// One for each, in order.
    async fn outcomes(&mut self, jobs: &[Job]) -> Result<Vec<Outcome>, Broken> {
        let mut tries = 1;
        loop {
            match self.once(jobs).await {
                Err(Broken::Again(fault)) if tries < TRIES => {
                    tracing::debug!(%fault, "a group of commits is tried again");
                    tokio::time::sleep(Duration::from_millis(5 << tries)).await;
                    tries += 1;
                }
                Err(Broken::Again(fault)) => return Err(Broken::Failed(fault)),
                other => return other,
            }
        }
    }

    async fn once(&mut self, jobs: &[Job]) -> Result<Vec<Outcome>, Broken> {
        let before = self.told.ledger();
        let given = self.clock.given();
        let call = call(jobs, &before, given).map_err(|error| Broken::Failed(Fault::Row(error.to_string())))?;
        let kept = self.db.is_some() || self.making.is_some();
        let db = self.connected().await.map_err(Broken::Failed)?;
        let broken = match timeout(ANSWER, call.commit(db, &before, given, jobs.len())).await {
            Ok(Ok(answer)) => match answer {
                Ok(Answer::Done { outcomes, epoch, commits }) => {
                    self.told.acknowledged(epoch, commits);
                    return Ok(outcomes);
                }
                // It may lead to a primary from which a standby has taken over: only a new connection tells where the name leads.
                Ok(Answer::Lost { .. }) if kept && self.told.lost().is_none() => {
                    self.db = None;
                    Broken::Again(Fault::Row("nothing is written: the database lacks what was acknowledged".into()))
                }
                Ok(Answer::Lost { epoch, found }) => {
                    self.told.look(&before, epoch, found, None);
                    // Without words: founded anew by another node between the two, and it goes better the next time.
                    let lost = self.told.lost().unwrap_or_else(|| "the log has another epoch now".into());
                    Broken::Failed(Fault::Row(format!("nothing is written: {lost}")))
                }
                // It is committed, but not as this program understands.
                Err(fault) => Broken::Unknown(fault),
            },
            Ok(Err(error)) => judge(error),
            Err(_) => Broken::Unknown(Fault::Row("PostgreSQL gave no answer to a commit in time".into())),
        };
        if matches!(broken, Broken::Unknown(_)) {
            self.db = None;
        }
        Err(broken)
    }

    async fn connected(&mut self) -> Result<&mut PgConnection, Fault> {
        let kept = match self.db.take() {
            Some(mut db) if self.quiet => match timeout(CONNECT, db.ping()).await {
                Ok(Ok(())) => Some(db),
                _ => None, // it has died
            },
            kept => kept,
        };
        self.quiet = false;
        let db = match kept {
            Some(db) => db,
            None => self.made().await?,
        };
        Ok(self.db.insert(db))
    }

    async fn made(&mut self) -> Result<PgConnection, Fault> {
        let silent = || Fault::Row("PostgreSQL does not answer".into());
        loop {
            // One that waited for long may have died, or have failed long ago.
            let before = self.making.as_ref().is_some_and(JoinHandle::is_finished);
            let (options, lose_data) = (self.options.clone(), self.lose_data);
            let making = self.making.get_or_insert_with(|| {
                tokio::spawn(async move { timeout(MADE, connect(options, lose_data)).await.map_err(|_| silent())? })
            });
            let made = timeout(CONNECT, making).await.map_err(|_| silent())?;
            self.making = None;
            match made.map_err(|error| Fault::Row(error.to_string()))? {
                Ok(mut db) if before => {
                    if let Ok(Ok(())) = timeout(CONNECT, db.ping()).await {
                        return Ok(db);
                    }
                }
                Err(_) if before => {}
                made => return made,
            }
        }
    }
}

async fn connect(options: PgConnectOptions, lose_data: bool) -> Result<PgConnection, Fault> {
    let mut db = options.connect().await?;
    open::check(&mut db, lose_data).await.map_err(|error| Fault::Row(error.to_string()))?;
    Ok(db)
}

/// A group of nothing but refreshes has a call of its own.
fn call(jobs: &[Job], before: &Ledger, given: Option<Time>) -> Result<Call, StoreError> {
    let refreshes: Option<Vec<_>> = jobs.iter().map(|job| job.act.refresh()).collect();
    if let Some(refreshes) = refreshes.and_then(|all| Refreshes::of(all.into_iter())) {
        return Ok(Call::Refreshes(refreshes));
    }
    let acts = jobs.iter().map(|job| job.act.other()).collect::<Result<Vec<_>, _>>()?;
    let mut locks = Locks::default();
    acts.iter().for_each(|act| locks.join(&act.locks));
    let group = serde_json::json!({
        "by": hex(&before.told.by.blob()),
        "known": before.told.count,
        "epoch": before.epoch.0,
        "anew": acts.iter().any(|act| act.anew),
        "now": given.map(|now| now.0),
        "exclusive": acts.iter().any(|act| act.exclusive),
        "locks": locks.json(),
        "acts": acts.iter().map(|act| &act.json).collect::<Vec<_>>(),
    });
    Ok(Call::Group(group.to_string()))
}

fn answer(job: Job, outcome: Outcome) {
    let _ = job.done.send(outcome); // nobody waits any more: it is committed all the same
}

/// What an error in place of an answer means. An error that the server reports, and lives on, came before its commit. Where it
/// ends the connection (57P0x) that may have been after it.
fn judge(error: sqlx::Error) -> Broken {
    let code = match &error {
        sqlx::Error::Database(error) => error.code().map(|code| code.into_owned()),
        _ => None,
    };
    match code.as_deref() {
        // Serialization, deadlock: another transaction was in the way.
        Some("40001" | "40P01") => Broken::Again(error.into()),
        Some("40003") => Broken::Unknown(error.into()),
        Some(code) if code.starts_with("57P0") || code.starts_with("08") => Broken::Unknown(error.into()),
        Some(code) if is_of_one(code) => Broken::OfOne(error.into()),
        // Locks and statements that took too long, no space, no memory.
        Some(_) => Broken::Failed(error.into()),
        None => Broken::Unknown(error.into()),
    }
}
