//! PostgreSQL 15 or later: one database, any number of nodes.
//!
//! What happens here: [`Store`] on plain SQL. Nothing is decided here; what each expectation and change means is fixed by the
//! memory store of `portcullis-store`, and the suite there holds both to it.
//!
//! - **Writing** (`commit`): one committer per node takes the commits that wait and sends them as one statement, a call of the
//!   database's `commit_group` (`migrations/`), which is a transaction of its own: row locks first, in one order, the counter's lock
//!   last, then checks and writes, then the end. Rev, `until`, chain and cuts are computed there. No lock is held while anybody
//!   waits for the network.
//! - **Reading** (`reads`, `jobs`): each view is one statement without row locks, so that the stamp and the facts are of one
//!   snapshot (I3).
//!   Refreshes that wait together are one statement and one snapshot (`together`); how groups fill is `gather`'s.
//! - **Sealing** (`audit`): audit records are chained beside the committer, by a transaction of their own.
//! - **Waking** (`watch`): LISTEN, which only wakes.
//! - **Time** (`clock`): the database's.
//!
//! What may not happen: SQL anywhere else; a row that does not read becoming a default instead of an error; a panic; a success
//! before the disk has it; the password of the URL in a message.
mod apps;
mod audit;
mod cells;
mod clock;
mod commit;
mod follow;
mod gather;
mod jobs;
mod migrate;
mod nodes;
mod open;
mod outbox;
mod pool;
mod reads;
mod rows;
mod together;
mod told;
mod upstream;
mod watch;

pub use clock::{Clock, TimeSource};
pub use open::{OpenError, OpenOptions};

use crate::cells::Fault;
use crate::clock::DatabaseClock;
use crate::commit::{Act, Committer, Job};
use crate::pool::Reader;
use crate::together::Lookups;
use crate::told::Told;
use portcullis_domain::audit::Unsealed;
use portcullis_domain::changes::{BoundRow, Change, Changes, Committed};
use portcullis_domain::follow::Follower;
use portcullis_domain::ledger::Commits;
use portcullis_domain::mass::{self, Batch, Filter};
use portcullis_domain::model::{Account, Client, Consent, Instance, Key};
use portcullis_domain::outbox::{Message, Notice, Told as ToldBy};
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
    MessageFilter, News, NodeRow, Page, Prunable, Remembered, RowCount, Store, StoreError,
};
use portcullis_wire::{
    AccountId, ClientId, Digest, Entry, EventId, GrantId, InstanceId, JobId, MessageId, NodeId, Rev, RunId, SessionId,
    Time, WebhookId,
};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch as tokio_watch};
use tokio::task::JoinHandle;

/// How often the database's clock is looked at.
const CLOCK_LOOK: Duration = Duration::from_secs(15);

/// A node's way to a PostgreSQL database. Dropping it lets the commits that were sent come to their end.
pub struct PostgresStore {
    reader: Arc<Reader>,
    clock: Arc<DatabaseClock>,
    told: Arc<Told>,
    committer: mpsc::Sender<Job>,
    lookups: Lookups,
    counters: Arc<Counters>,
    woken: tokio_watch::Receiver<u64>,
    nodes_woken: tokio_watch::Receiver<u64>,
    background: Vec<JoinHandle<()>>,
}

/// What the committer did so far.
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
    /// Transactions.
    pub groups: u64,
    /// Commits that were asked for in them.
    pub commits: u64,
    /// Transactions that failed as a whole.
    pub failed_groups: u64,
    /// Commits refused because too many were waiting.
    pub refused: u64,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to the database at `url` (`postgres://…`), looks whether it can keep what is promised, migrates it, founds the log
    /// in an empty one. Must be called in a tokio runtime with time and I/O, which the store then uses.
    ///
    /// # Errors
    /// Each with what to do about it; the password is in none of them.
    pub async fn open(url: &str, options: OpenOptions) -> Result<Self, OpenError> {
        let connect = open::parse(url)?;
        let clock = Arc::new(DatabaseClock::new(options.time.clone()));
        let told = Arc::new(open::open(&connect, &options, &clock).await?);
        let reader = Arc::new(Reader::new(connect.clone(), &options, clock.clone(), told.clone()));
        let (committer, waiting) = mpsc::channel(options.queue.max(1));
        let counters = Arc::new(Counters::default());
        let (log, woken) = tokio_watch::channel(0);
        let (nodes, nodes_woken) = tokio_watch::channel(0);
        let wakes = watch::Woken { log, nodes };
        let (beat, beats) = tokio_watch::channel(None);
        let writer = Committer {
            options: connect.clone(),
            clock: clock.clone(),
            lose_data: options.danger_lose_data_on_crash,
            group: options.group.max(1),
            counters: counters.clone(),
            told: told.clone(),
            beat,
            db: None,
            making: None,
            quiet: false,
        };
        tokio::spawn(writer.run(waiting)); // ends when the last sender is gone
        let background =
            vec![tokio::spawn(watch::follow(connect, wakes)), tokio::spawn(keep_time(reader.clone(), clock.clone()))];
        let lookups = Lookups::new(reader.clone(), options.queue, beats);
        Ok(Self { reader, clock, told, committer, lookups, counters, woken, nodes_woken, background })
    }

    /// What the committer did so far.
    pub fn stats(&self) -> Stats {
        let Counters { groups, acts, failed_groups, refused } = &*self.counters;
        Stats {
            groups: groups.load(Relaxed),
            commits: acts.load(Relaxed),
            failed_groups: failed_groups.load(Relaxed),
            refused: refused.load(Relaxed),
        }
    }

    /// Moves when the log may have grown, whichever node wrote to it, and after every time that nothing was heard. What it says
    /// is no position: read the log.
    pub fn watch(&self) -> tokio_watch::Receiver<u64> {
        self.woken.clone()
    }

    fn read<'a, T>(
        &'a self,
        read: impl Future<Output = Result<T, Fault>> + Send + 'a,
    ) -> Fut<'a, Result<T, StoreError>> {
        Box::pin(async move { Ok(read.await?) })
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.background.iter().for_each(JoinHandle::abort);
    }
}

/// Looks at the database's clock now and then.
async fn keep_time(reader: Arc<Reader>, clock: Arc<DatabaseClock>) {
    loop {
        tokio::time::sleep(CLOCK_LOOK).await;
        let Ok(mut db) = reader.pool().acquire().await else { continue };
        match tokio::time::timeout(CLOCK_LOOK, clock.measure(&mut db)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %Fault::Sqlx(error), "the database's clock was not looked at"),
            Err(_) => drop(db.detach()), // nobody is there any more
        }
    }
}

impl Store for PostgresStore {
    fn stamp(&self) -> Fut<'_, Result<Stamp, StoreError>> {
        self.read(reads::stamp(&self.reader))
    }
    fn load_sign_in<'a>(&'a self, email: &'a str, client: ClientId) -> Fut<'a, Result<SignInView, StoreError>> {
        self.read(reads::sign_in(&self.reader, email, client))
    }
    fn load_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<RefreshView>, StoreError>> {
        Box::pin(self.lookups.refresh(grant))
    }
    fn load_session(&self, session: SessionId) -> Fut<'_, Result<Option<SessionView>, StoreError>> {
        self.read(reads::session(&self.reader, session))
    }
    fn load_account(&self, account: AccountId) -> Fut<'_, Result<Option<AccountView>, StoreError>> {
        self.read(reads::account(&self.reader, account))
    }
    fn list_sessions(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<SessionView>, StoreError>> {
        self.read(reads::sessions(&self.reader, account, limit))
    }
    fn list_prunable(
        &self,
        keep: Retention,
        cursor: Option<SessionId>,
        look_at: u32,
    ) -> Fut<'_, Result<Prunable, StoreError>> {
        self.read(async move { jobs::prunable(&self.reader, &keep, cursor, look_at).await })
    }
    fn list_due_accounts(&self, limit: u32) -> Fut<'_, Result<Vec<AccountId>, StoreError>> {
        self.read(jobs::due(&self.reader, limit))
    }
    fn count_rows(&self) -> Fut<'_, Result<RowCount, StoreError>> {
        self.read(reads::row_count(&self.reader))
    }
    fn list_accounts<'a>(
        &'a self,
        prefix: Option<&'a str>,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Account>, StoreError>> {
        self.read(reads::accounts(&self.reader, prefix, cursor, limit))
    }
    fn load_client(&self, client: ClientId) -> Fut<'_, Result<Option<ClientView>, StoreError>> {
        self.read(reads::client(&self.reader, client))
    }
    fn list_clients(&self, cursor: Option<ClientId>, limit: u32) -> Fut<'_, Result<Page<Client>, StoreError>> {
        self.read(reads::clients(&self.reader, cursor, limit))
    }
    fn load_app(&self, session: SessionId, client: ClientId) -> Fut<'_, Result<Option<AppView>, StoreError>> {
        self.read(apps::app(&self.reader, session, client))
    }
    fn load_ticket(&self, id: Digest) -> Fut<'_, Result<Option<TicketView>, StoreError>> {
        self.read(apps::ticket(&self.reader, id))
    }
    fn list_grants(
        &self,
        account: AccountId,
        client: Option<ClientId>,
        limit: u32,
    ) -> Fut<'_, Result<Vec<GrantView>, StoreError>> {
        self.read(apps::grants(&self.reader, account, client, limit))
    }
    fn list_consents(&self, account: AccountId) -> Fut<'_, Result<Vec<Consent>, StoreError>> {
        self.read(apps::consents(&self.reader, account))
    }
    fn list_instances(&self) -> Fut<'_, Result<Vec<Instance>, StoreError>> {
        self.read(reads::instances(&self.reader))
    }
    fn list_keys(&self) -> Fut<'_, Result<Vec<Key>, StoreError>> {
        self.read(reads::keys(&self.reader))
    }
    fn load_bound(&self) -> Fut<'_, Result<Option<BoundRow>, StoreError>> {
        self.read(reads::bound(&self.reader))
    }
    fn load_run(&self) -> Fut<'_, Result<Option<RunId>, StoreError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn list_events<'a>(
        &'a self,
        filter: &'a EventFilter,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<EventRow>, StoreError>> {
        self.read(reads::events(&self.reader, filter, cursor, limit))
    }
    fn load_revocation(&self, rev: Rev) -> Fut<'_, Result<Option<EventRow>, StoreError>> {
        self.read(reads::revocation(&self.reader, rev))
    }
    fn read_chain(&self, after: Option<u64>, limit: u32) -> Fut<'_, Result<Option<ChainRead>, StoreError>> {
        self.read(audit::chain(&self.reader, after, limit))
    }
    fn last_place(&self, up_to: u64) -> Fut<'_, Result<Option<u64>, StoreError>> {
        self.read(audit::last_place(&self.reader, up_to))
    }
    fn list_unsealed(&self, limit: u32) -> Fut<'_, Result<Vec<EventRow>, StoreError>> {
        self.read(audit::unsealed(&self.reader, limit))
    }
    fn count_unsealed(&self) -> Fut<'_, Result<Unsealed, StoreError>> {
        self.read(audit::count(&self.reader))
    }
    fn count_live(&self) -> Fut<'_, Result<LiveCount, StoreError>> {
        self.read(reads::live_count(&self.reader))
    }
    fn backup(&self, _to: std::path::PathBuf) -> Fut<'_, Result<Stamp, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::new(
            "PostgreSQL has better tools: pg_dump for a copy, base backups with WAL archiving for a point in time",
        ))))
    }
    fn count_matching<'a>(
        &'a self,
        filter: &'a Filter,
        except: Option<SessionId>,
    ) -> Fut<'a, Result<LiveCount, StoreError>> {
        self.read(jobs::count_matching(&self.reader, filter, except))
    }
    fn read_job_batch<'a>(&'a self, job: &'a mass::Job, look: u32, most: u32) -> Fut<'a, Result<Batch, StoreError>> {
        self.read(jobs::batch(&self.reader, &job.rule, job.cursor, look, most))
    }
    fn load_job(&self, job: JobId) -> Fut<'_, Result<Option<mass::Job>, StoreError>> {
        self.read(jobs::job(&self.reader, job))
    }
    fn list_running_jobs(&self) -> Fut<'_, Result<Vec<mass::Job>, StoreError>> {
        self.read(jobs::running(&self.reader))
    }
    fn read_log(&self, after: Rev, limit: u32) -> Fut<'_, Result<LogRead, StoreError>> {
        self.read(reads::log(&self.reader, after, limit))
    }
    fn read_live(&self) -> Fut<'_, Result<(Stamp, Vec<Entry>), StoreError>> {
        self.read(reads::live_log(&self.reader))
    }
    fn load_remembered<'a>(&'a self, actor: &'a str, key: &'a str) -> Fut<'a, Result<Option<Remembered>, StoreError>> {
        self.read(reads::remembered(&self.reader, actor, key))
    }
    fn count_attempts(&self) -> Fut<'_, Result<AttemptCount, StoreError>> {
        self.read(reads::attempts(&self.reader))
    }
    fn load_risk<'a>(&'a self, account: AccountId, buckets: &'a [BucketKey]) -> Fut<'a, Result<RiskView, StoreError>> {
        self.read(reads::risk(&self.reader, account, buckets))
    }
    fn list_notices(&self, limit: u32) -> Fut<'_, Result<Vec<Notice>, StoreError>> {
        self.read(outbox::notices(&self.reader, limit))
    }
    fn read_told<'a>(&'a self, notice: &'a Notice, look: u32) -> Fut<'a, Result<ToldBy, StoreError>> {
        self.read(outbox::told(&self.reader, notice, look))
    }
    fn due_messages<'a>(
        &'a self,
        resting: &'a [ClientId],
        after: Option<ClientId>,
        look: u32,
    ) -> Fut<'a, Result<Due, StoreError>> {
        self.read(outbox::due(&self.reader, resting, after, look))
    }
    fn expired_messages(&self, limit: u32) -> Fut<'_, Result<Vec<Message>, StoreError>> {
        self.read(outbox::expired(&self.reader, limit))
    }
    fn read_queue(&self, client: ClientId) -> Fut<'_, Result<Queue, StoreError>> {
        self.read(outbox::queue(&self.reader, client))
    }
    fn load_message(&self, id: MessageId) -> Fut<'_, Result<Option<Message>, StoreError>> {
        self.read(outbox::message(&self.reader, id))
    }
    fn list_messages<'a>(
        &'a self,
        filter: &'a MessageFilter,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Message>, StoreError>> {
        self.read(outbox::messages(&self.reader, filter, cursor, limit))
    }
    fn count_messages(&self) -> Fut<'_, Result<MessageCount, StoreError>> {
        self.read(outbox::count(&self.reader))
    }
    fn load_link<'a>(&'a self, issuer: &'a str, subject: &'a str) -> Fut<'a, Result<LinkView, StoreError>> {
        self.read(upstream::link(&self.reader, issuer, subject))
    }
    fn list_links(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<Link>, StoreError>> {
        self.read(upstream::links(&self.reader, account, limit))
    }
    fn list_sessions_from<'a>(
        &'a self,
        from: &'a CameFrom,
        after: Option<SessionId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<(AccountId, SessionId)>, StoreError>> {
        self.read(upstream::sessions(&self.reader, from, after, limit))
    }
    fn list_followers(&self) -> Fut<'_, Result<Vec<Follower>, StoreError>> {
        self.read(follow::followers(&self.reader))
    }
    fn load_webhook(&self, id: WebhookId) -> Fut<'_, Result<Option<Webhook>, StoreError>> {
        self.read(follow::webhook(&self.reader, id))
    }
    fn list_webhooks(&self) -> Fut<'_, Result<Vec<Webhook>, StoreError>> {
        self.read(follow::webhooks(&self.reader))
    }
    fn commit(&self, changes: Changes) -> Fut<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            if let [Change::Seal(what)] = changes.steps.as_slice()
                && changes.expects.is_empty()
                && changes.events.is_empty()
            {
                if let Some(lost) = self.told.lost() {
                    return Err(CommitError::Failed(StoreError::new(format_args!("nothing is written: {lost}"))));
                }
                audit::seal(&self.reader, what).await?;
                return Ok(Committed { rev: None, ended: None, attempt: None, pruned: 0, at: self.clock.now() });
            }
            let act = Act::new(changes).map_err(CommitError::Failed)?;
            let (done, outcome) = oneshot::channel();
            match self.committer.try_send(Job { act, done }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    self.counters.refused.fetch_add(1, Relaxed);
                    return Err(CommitError::Failed(StoreError::of(
                        FaultKind::Overloaded,
                        "overloaded: too many commits are waiting",
                    )));
                }
                Err(TrySendError::Closed(_)) => {
                    return Err(CommitError::Failed(StoreError::new("the committer has ended")));
                }
            }
            match outcome.await {
                Ok(outcome) => outcome,
                Err(_) => Err(CommitError::Unknown(StoreError::new("the committer gave no answer"))),
            }
        })
    }
    fn now(&self) -> Time {
        self.clock.now()
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn news(&self, of: News, seen: u64) -> Fut<'_, u64> {
        let mut woken = match of {
            News::Log => self.woken.clone(),
            News::Nodes => self.nodes_woken.clone(),
        };
        Box::pin(async move {
            let newest = woken.wait_for(|newest| *newest != seen).await.map(|newest| *newest);
            match newest {
                Ok(newest) => newest,
                Err(_) => std::future::pending().await, // nobody listens any more
            }
        })
    }
    fn put_node(&self, row: NodeRow) -> Fut<'_, Result<(), StoreError>> {
        self.read(async move { nodes::put(&self.reader, &row).await })
    }
    fn list_nodes(&self) -> Fut<'_, Result<Vec<NodeRow>, StoreError>> {
        self.read(nodes::list(&self.reader))
    }
    fn remove_node(&self, id: NodeId, beat: u64) -> Fut<'_, Result<bool, StoreError>> {
        self.read(nodes::remove(&self.reader, id, beat))
    }
    fn commits(&self) -> Option<Commits> {
        Some(self.told.ledger().told)
    }
    fn lost(&self) -> Option<String> {
        self.told.lost()
    }
    fn lacks(&self) -> Option<Commits> {
        self.told.lacks()
    }
    fn look_at_others(&self) -> Fut<'_, Result<(), StoreError>> {
        self.read(nodes::look_at_others(&self.reader))
    }
    fn count_commits(&self, by: NodeId) -> Fut<'_, Result<Option<u64>, StoreError>> {
        self.read(nodes::commits(&self.reader, by))
    }
    fn load_instance(&self, id: InstanceId) -> Fut<'_, Result<Option<Instance>, StoreError>> {
        self.read(reads::instance(&self.reader, id))
    }
}
