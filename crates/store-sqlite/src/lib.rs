//! The embedded database: one SQLite file, one writer, many readers.
//!
//! What happens here: [`Store`] on plain SQL. Nothing is decided here; what each expectation and change means is fixed by the
//! memory store of `portcullis-store`, and the suite there holds both to it.
//!
//! - **Writing** (`writer`): one thread takes the commits that wait, puts them into one transaction, and answers after its fsync
//!   (WAL, `synchronous=FULL`). It never waits for more to come: alone, a commit costs one fsync; under load many share one.
//!   When more than [`OpenOptions::queue`] wait, a commit is refused at once with [`CommitError::Failed`].
//! - **Reading** (`readers`, `reads`): each `load_*` is one statement or one read transaction, so that the stamp and the facts
//!   are of one snapshot (I3), which refreshes hold until a commit begins (`snapshot`). Point reads run on the calling thread, since a lookup in the page cache is cheaper than a
//!   hand-over; lists and counts run on blocking threads. Who only looks gets rows that were read before (`kept`), as long as no
//!   commit was answered that says otherwise.
//! - **Checkpoints** (`checkpoint`) run apart from the writer, so that nobody's answer waits for them.
//! - **One server per file** (`lock`): the counter's row is cached by the writer, which only a lock on the file makes true.
//!
//! What may not happen: SQL anywhere else; a row that does not read becoming a default instead of an error; a panic; a success
//! before the disk has it.
mod apps;
mod attempts;
mod audit;
mod backup;
mod cells;
mod checkpoint;
mod connect;
mod follow;
mod jobs;
mod kept;
mod lock;
mod open;
mod outbox;
mod prune;
mod readers;
mod reads;
mod rows;
mod settle;
mod snapshot;
mod upstream;
mod writer;

pub use backup::{Replaced, Restoring};
pub use open::{OpenError, OpenOptions};

use crate::kept::Kept;
use crate::lock::Lock;
use crate::readers::Readers;
use crate::snapshot::Snapshot;
use crate::writer::{Job, Troubles, Writer};
use portcullis_domain::audit::Unsealed;
use portcullis_domain::changes::{BoundRow, Changes, Committed};
use portcullis_domain::follow::Follower;
use portcullis_domain::mass::{self, Batch, Filter};
use portcullis_domain::model::{Account, Client, Consent, Instance, Key};
use portcullis_domain::outbox::{Message, Notice, Told};
use portcullis_domain::receivers::Queue;
use portcullis_domain::retention::Retention;
use portcullis_domain::throttle::BucketKey;
use portcullis_domain::upstream::{CameFrom, Link, LinkView};
use portcullis_domain::view::{
    AccountView, AppView, ClientView, GrantView, RefreshView, RiskView, SessionView, SignInView, Stamp, TicketView,
};
use portcullis_domain::webhook::Webhook;
use portcullis_store::{
    AttemptCount, ChainRead, CommitError, Due, EventFilter, EventRow, FaultKind, Fut, LiveCount, LogRead, MessageCount,
    MessageFilter, Page, Peeked, Prunable, Remembered, RowCount, Store, StoreError,
};
use portcullis_wire::{
    AccountId, ClientId, Digest, Entry, EventId, GrantId, JobId, MessageId, Rev, RunId, SessionId, Time, WebhookId,
};
use rusqlite::Connection;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, JoinHandle};
use tokio::sync::oneshot;

/// Where the database takes its time from.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// A database in one file. Closing it (dropping) waits for the commits that were sent, and gives the file back.
pub struct SqliteStore {
    clock: Clock,
    connector: connect::Connector,
    readers: Arc<Readers>,
    kept: Arc<Kept>,
    /// `None` only while closing.
    writer: Option<SyncSender<Box<Job>>>,
    threads: Vec<JoinHandle<()>>,
    checkpointing: Arc<checkpoint::Shared>,
    counters: Arc<Counters>,
    _lock: Lock,
}

/// What the writer did so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    groups: AtomicU64,
    acts: AtomicU64,
    failed_groups: AtomicU64,
    refused: AtomicU64,
}

/// Counts since the database was opened, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Transactions; each cost one fsync when something was written.
    pub groups: u64,
    /// Commits that were asked for in them.
    pub commits: u64,
    /// Transactions that failed as a whole.
    pub failed_groups: u64,
    /// Commits refused because too many were waiting.
    pub refused: u64,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the database at `path`; makes it when there is none (mode 0600, its directory must exist). Blocks for some
    /// milliseconds, and for the time of a check of the whole file when that is small.
    ///
    /// # Errors
    /// Each with what to do about it.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, OpenError> {
        let opened = open::open(path, &options)?;
        let (connector, path) = (opened.connector.clone(), opened.connector.path.clone());
        let readers = Readers::open(&connector, options.readers);
        let readers = Arc::new(readers.map_err(|fault| OpenError::from_fault(&path, &fault))?);
        let (sender, waiting) = sync_channel(options.queue.max(1));
        let (checkpointer, checkpoints, checkpointing) = checkpoint::pair(connector.clone(), readers.clone());
        let counters = Arc::new(Counters::default());
        let kept = Arc::new(Kept::new(opened.meta.head));
        let copies = connector.clone();
        let writer = Writer {
            connector,
            clock: options.clock.clone(),
            group: options.group.max(1),
            checkpointer,
            counters: counters.clone(),
            readers: readers.clone(),
            kept: kept.clone(),
            troubles: Troubles::default(),
        };
        let (db, meta) = (opened.db, opened.meta);
        let threads = [
            Builder::new().name("db-writer".into()).spawn(move || writer.run(db, meta, &waiting)),
            Builder::new().name("db-checkpoint".into()).spawn(move || checkpoints.run()),
        ];
        let threads: Result<Vec<_>, _> = threads.into_iter().collect();
        let threads = threads.map_err(|error| OpenError::from_io(&path, &error))?;
        let (writer, clock) = (Some(sender), options.clock);
        let _lock = opened.lock;
        Ok(Self { clock, connector: copies, readers, kept, writer, threads, checkpointing, counters, _lock })
    }

    /// What the writer did so far.
    pub fn stats(&self) -> Stats {
        let Counters { groups, acts, failed_groups, refused } = &*self.counters;
        Stats {
            groups: groups.load(Relaxed),
            commits: acts.load(Relaxed),
            failed_groups: failed_groups.load(Relaxed),
            refused: refused.load(Relaxed),
        }
    }

    fn point<'a, T: Send + 'a>(
        &'a self,
        read: impl FnOnce(&Connection, Time) -> Result<T, cells::Fault> + Send + 'a,
    ) -> Fut<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let now = (self.clock)();
            self.readers.point(|db| read(db, now))
        })
    }

    fn refresh(&self, grant: GrantId, now: Time) -> Result<Option<RefreshView>, StoreError> {
        let held = |shot: &mut Snapshot<'_>| reads::refresh_of(shot, grant, now);
        self.readers.snapshot(|| self.kept.quiet(), held, |db| reads::refresh(db, grant, now))
    }

    fn long<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, Time) -> Result<T, cells::Fault> + Send + 'static,
    ) -> Fut<'_, Result<T, StoreError>> {
        Box::pin(async move {
            let clock = self.clock.clone();
            self.readers.long(move |db| read(db, clock())).await
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.writer = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic was told by the panic hook
        }
        // A start that was refused leaves the log as it found it.
        if self.stats().commits > 0 && !self.checkpointing.is_suspect() {
            let _closed = (self.readers.closed(), self.checkpointing.closed());
            checkpoint::at_the_end(&self.connector);
        }
    }
}

impl Store for SqliteStore {
    fn stamp(&self) -> Fut<'_, Result<Stamp, StoreError>> {
        self.point(reads::stamp)
    }
    fn load_sign_in<'a>(&'a self, email: &'a str, client: ClientId) -> Fut<'a, Result<SignInView, StoreError>> {
        self.point(move |db, now| reads::sign_in(db, email, client, now))
    }
    fn load_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<RefreshView>, StoreError>> {
        Box::pin(async move { self.refresh(grant, (self.clock)()) })
    }
    fn peek_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<Peeked>, StoreError>> {
        Box::pin(async move {
            let now = (self.clock)();
            let view = self.kept.refresh(grant, || self.refresh(grant, now))?;
            Ok(view.map(|view| Peeked { now, head: view.stamp.head.max(self.kept.head()), view }))
        })
    }
    fn peek_client(&self, client: ClientId) -> Fut<'_, Result<Option<Arc<Client>>, StoreError>> {
        Box::pin(async move {
            let read = || self.readers.point(|db| reads::client(db, client, (self.clock)()));
            self.kept.client(client, || Ok(read()?.map(|view| view.client)))
        })
    }
    fn load_session(&self, session: SessionId) -> Fut<'_, Result<Option<SessionView>, StoreError>> {
        self.point(move |db, now| reads::session(db, session, now))
    }
    fn load_account(&self, account: AccountId) -> Fut<'_, Result<Option<AccountView>, StoreError>> {
        self.point(move |db, now| reads::account(db, account, now))
    }
    fn list_sessions(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<SessionView>, StoreError>> {
        self.long(move |db, now| reads::sessions(db, account, limit, now))
    }
    fn list_prunable(
        &self,
        keep: Retention,
        cursor: Option<SessionId>,
        look_at: u32,
    ) -> Fut<'_, Result<Prunable, StoreError>> {
        // What the counter's row says is only a first look: the writer asks again.
        self.long(move |db, now| prune::prunable(db, &reads::meta(db)?, &keep, cursor, look_at, now))
    }
    fn list_due_accounts(&self, limit: u32) -> Fut<'_, Result<Vec<AccountId>, StoreError>> {
        self.long(move |db, now| prune::due(db, limit, now))
    }
    fn count_rows(&self) -> Fut<'_, Result<RowCount, StoreError>> {
        self.long(|db, _| prune::count(db))
    }
    fn list_accounts<'a>(
        &'a self,
        prefix: Option<&'a str>,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Account>, StoreError>> {
        let prefix = prefix.map(str::to_owned);
        self.long(move |db, _| reads::accounts(db, prefix.as_deref(), cursor, limit))
    }
    fn load_client(&self, client: ClientId) -> Fut<'_, Result<Option<ClientView>, StoreError>> {
        self.point(move |db, now| reads::client(db, client, now))
    }
    fn list_clients(&self, cursor: Option<ClientId>, limit: u32) -> Fut<'_, Result<Page<Client>, StoreError>> {
        self.long(move |db, _| reads::clients(db, cursor, limit))
    }
    fn load_app(&self, session: SessionId, client: ClientId) -> Fut<'_, Result<Option<AppView>, StoreError>> {
        self.point(move |db, now| apps::app(db, session, client, now))
    }
    fn load_ticket(&self, id: Digest) -> Fut<'_, Result<Option<TicketView>, StoreError>> {
        self.point(move |db, now| apps::ticket(db, id, now))
    }
    fn list_grants(
        &self,
        account: AccountId,
        client: Option<ClientId>,
        limit: u32,
    ) -> Fut<'_, Result<Vec<GrantView>, StoreError>> {
        self.long(move |db, now| apps::grants(db, account, client, limit, now))
    }
    fn list_consents(&self, account: AccountId) -> Fut<'_, Result<Vec<Consent>, StoreError>> {
        self.long(move |db, _| apps::consents(db, account))
    }
    fn list_instances(&self) -> Fut<'_, Result<Vec<Instance>, StoreError>> {
        self.long(|db, _| reads::instances(db))
    }
    fn list_keys(&self) -> Fut<'_, Result<Vec<Key>, StoreError>> {
        self.point(|db, _| reads::keys(db))
    }
    fn load_bound(&self) -> Fut<'_, Result<Option<BoundRow>, StoreError>> {
        self.point(|db, _| reads::bound(db))
    }
    fn load_run(&self) -> Fut<'_, Result<Option<RunId>, StoreError>> {
        self.point(|db, _| reads::run(db))
    }
    fn list_events<'a>(
        &'a self,
        filter: &'a EventFilter,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<EventRow>, StoreError>> {
        let filter = filter.clone();
        self.long(move |db, _| reads::events(db, &filter, cursor, limit))
    }
    fn load_revocation(&self, rev: Rev) -> Fut<'_, Result<Option<EventRow>, StoreError>> {
        self.point(move |db, _| reads::revocation(db, rev))
    }
    fn read_chain(&self, after: Option<u64>, limit: u32) -> Fut<'_, Result<Option<ChainRead>, StoreError>> {
        self.long(move |db, _| audit::chain(db, after, limit))
    }
    fn last_place(&self, up_to: u64) -> Fut<'_, Result<Option<u64>, StoreError>> {
        self.long(move |db, _| audit::last_place(db, up_to))
    }
    fn list_unsealed(&self, limit: u32) -> Fut<'_, Result<Vec<EventRow>, StoreError>> {
        self.long(move |db, _| audit::unsealed(db, limit))
    }
    fn count_unsealed(&self) -> Fut<'_, Result<Unsealed, StoreError>> {
        self.long(|db, _| audit::count(db))
    }
    fn count_live(&self) -> Fut<'_, Result<LiveCount, StoreError>> {
        self.long(reads::live_count)
    }
    fn backup(&self, to: std::path::PathBuf) -> Fut<'_, Result<Stamp, StoreError>> {
        let (connector, now) = (self.connector.clone(), (self.clock)());
        Box::pin(async move {
            let copied = tokio::task::spawn_blocking(move || backup::copy(&connector, &to)).await;
            let copied = copied.unwrap_or_else(|error| Err(error.to_string()));
            copied.map(|meta| meta.stamp(now)).map_err(StoreError::new)
        })
    }
    fn count_matching<'a>(
        &'a self,
        filter: &'a Filter,
        except: Option<SessionId>,
    ) -> Fut<'a, Result<LiveCount, StoreError>> {
        let filter = filter.clone();
        self.long(move |db, now| jobs::count_matching(db, &filter, except, now))
    }
    fn read_job_batch<'a>(&'a self, job: &'a mass::Job, look: u32, most: u32) -> Fut<'a, Result<Batch, StoreError>> {
        let (rule, cursor) = (job.rule.clone(), job.cursor);
        self.long(move |db, _| jobs::batch(db, &rule, cursor, look, most))
    }
    fn load_job(&self, job: JobId) -> Fut<'_, Result<Option<mass::Job>, StoreError>> {
        self.point(move |db, _| jobs::job(db, job))
    }
    fn list_running_jobs(&self) -> Fut<'_, Result<Vec<mass::Job>, StoreError>> {
        self.point(|db, _| jobs::running(db))
    }
    fn read_log(&self, after: Rev, limit: u32) -> Fut<'_, Result<LogRead, StoreError>> {
        // The node's tail asks for this all the time, and nearly always for a few entries.
        self.point(move |db, now| reads::log(db, after, limit, now))
    }
    fn read_live(&self) -> Fut<'_, Result<(Stamp, Vec<Entry>), StoreError>> {
        self.long(reads::live)
    }
    fn load_remembered<'a>(&'a self, actor: &'a str, key: &'a str) -> Fut<'a, Result<Option<Remembered>, StoreError>> {
        self.point(move |db, _| reads::remembered(db, actor, key))
    }
    fn count_attempts(&self) -> Fut<'_, Result<AttemptCount, StoreError>> {
        self.long(|db, _| attempts::count(db))
    }
    fn load_risk<'a>(&'a self, account: AccountId, buckets: &'a [BucketKey]) -> Fut<'a, Result<RiskView, StoreError>> {
        self.point(move |db, _| attempts::risk(db, account, buckets))
    }
    fn list_notices(&self, limit: u32) -> Fut<'_, Result<Vec<Notice>, StoreError>> {
        self.point(move |db, _| outbox::notices(db, limit))
    }
    fn read_told<'a>(&'a self, notice: &'a Notice, look: u32) -> Fut<'a, Result<Told, StoreError>> {
        let notice = notice.clone();
        self.long(move |db, _| outbox::told(db, &notice, look))
    }
    fn due_messages<'a>(
        &'a self,
        resting: &'a [ClientId],
        after: Option<ClientId>,
        look: u32,
    ) -> Fut<'a, Result<Due, StoreError>> {
        let resting = resting.to_vec();
        self.long(move |db, now| outbox::due(db, &resting, after, look, now))
    }
    fn expired_messages(&self, limit: u32) -> Fut<'_, Result<Vec<Message>, StoreError>> {
        self.long(move |db, now| outbox::expired(db, limit, now))
    }
    fn read_queue(&self, client: ClientId) -> Fut<'_, Result<Queue, StoreError>> {
        self.long(move |db, now| outbox::queue(db, client, now))
    }
    fn load_message(&self, id: MessageId) -> Fut<'_, Result<Option<Message>, StoreError>> {
        self.point(move |db, _| outbox::message(db, id))
    }
    fn list_messages<'a>(
        &'a self,
        filter: &'a MessageFilter,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Message>, StoreError>> {
        let filter = *filter;
        self.long(move |db, _| outbox::messages(db, &filter, cursor, limit))
    }
    fn count_messages(&self) -> Fut<'_, Result<MessageCount, StoreError>> {
        self.long(|db, _| outbox::count(db))
    }
    fn load_link<'a>(&'a self, issuer: &'a str, subject: &'a str) -> Fut<'a, Result<LinkView, StoreError>> {
        self.point(move |db, now| upstream::link(db, issuer, subject, now))
    }
    fn list_links(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<Link>, StoreError>> {
        self.long(move |db, _| upstream::links(db, account, limit))
    }
    fn list_sessions_from<'a>(
        &'a self,
        from: &'a CameFrom,
        after: Option<SessionId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<(AccountId, SessionId)>, StoreError>> {
        let from = from.clone();
        self.long(move |db, _| upstream::sessions(db, &from, after, limit))
    }
    fn list_followers(&self) -> Fut<'_, Result<Vec<Follower>, StoreError>> {
        self.point(|db, _| follow::followers(db))
    }
    fn load_webhook(&self, id: WebhookId) -> Fut<'_, Result<Option<Webhook>, StoreError>> {
        self.point(move |db, _| follow::webhook(db, id))
    }
    fn list_webhooks(&self) -> Fut<'_, Result<Vec<Webhook>, StoreError>> {
        self.point(|db, _| follow::webhooks(db))
    }
    fn commit(&self, changes: Changes) -> Fut<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            let closed = || CommitError::Failed(StoreError::new("the database is being closed"));
            let (done, outcome) = oneshot::channel();
            match self.writer.as_ref().ok_or_else(closed)?.try_send(Box::new(Job { changes, done })) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    self.counters.refused.fetch_add(1, Relaxed);
                    return Err(CommitError::Failed(StoreError::of(
                        FaultKind::Overloaded,
                        "overloaded: too many commits are waiting",
                    )));
                }
                Err(TrySendError::Disconnected(_)) => return Err(closed()),
            }
            match outcome.await {
                Ok(outcome) => outcome,
                Err(_) => Err(CommitError::Unknown(StoreError::new("the writer gave no answer"))),
            }
        })
    }
    fn now(&self) -> Time {
        (self.clock)()
    }
}
