//! [`Memory`] behind the [`Store`] trait.
use super::Memory;
use crate::{
    AttemptCount, ChainRead, CommitError, Due, EventFilter, EventRow, Fut, LiveCount, LogRead, MessageCount,
    MessageFilter, NodeRow, Page, Prunable, Remembered, RowCount, Store, StoreError,
};
use portcullis_domain::audit::Unsealed;
use portcullis_domain::changes::{BoundRow, Changes, Committed};
use portcullis_domain::follow::Follower;
use portcullis_domain::mass::{Batch, Filter, Job};
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
use portcullis_wire::{
    AccountId, ClientId, Digest, Entry, EventId, GrantId, InstanceId, JobId, LogId, MessageId, NodeId, Rev, RunId,
    SessionId, Time, WebhookId,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// Where a store takes the database's time from.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// A database in memory: gone when dropped. Every call is one critical section, so each sees one snapshot.
pub struct MemoryStore {
    memory: Mutex<Memory>,
    clock: Clock,
    /// The rows of the nodes that share it, where some do.
    nodes: Option<Mutex<BTreeMap<NodeId, NodeRow>>>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// A new database with this log.
    pub fn new(log: LogId, clock: Clock) -> Self {
        let memory = Memory::new(log, clock());
        Self { memory: Mutex::new(memory), clock, nodes: None }
    }

    /// A database with this content.
    pub fn with(memory: Memory, clock: Clock) -> Self {
        Self { memory: Mutex::new(memory), clock, nodes: None }
    }

    /// The same database, for several nodes of one process.
    pub fn shared(self) -> Self {
        Self { nodes: Some(Mutex::default()), ..self }
    }

    fn with_nodes<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut BTreeMap<NodeId, NodeRow>) -> T,
    ) -> Fut<'_, Result<T, StoreError>> {
        let nodes = self.nodes.as_ref().ok_or_else(|| StoreError::new("this database belongs to one node"));
        let poisoned = |_| StoreError::new("a thread panicked among the nodes' rows");
        let done = nodes.and_then(|nodes| nodes.lock().map_err(poisoned)).map(|mut nodes| work(&mut nodes));
        Box::pin(std::future::ready(done))
    }

    /// What it holds now.
    ///
    /// # Errors
    /// When a thread panicked inside a commit: nothing is known of its half-done writes.
    pub fn content(&self) -> Result<Memory, StoreError> {
        self.lock().map(|memory| memory.clone())
    }

    /// Changes what it holds past the server.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub fn tamper(&self, how: impl FnOnce(&mut Memory)) -> Result<(), StoreError> {
        self.lock().map(|mut memory| how(&mut memory))
    }

    fn lock(&self) -> Result<MutexGuard<'_, Memory>, StoreError> {
        self.memory.lock().map_err(|_| StoreError::new("a thread panicked inside a commit"))
    }

    fn read<T: Send + 'static>(&self, read: impl FnOnce(&Memory, Time) -> T) -> Fut<'_, Result<T, StoreError>> {
        let result = self.lock().map(|memory| read(&memory, (self.clock)()));
        Box::pin(std::future::ready(result))
    }
}

impl Store for MemoryStore {
    fn stamp(&self) -> Fut<'_, Result<Stamp, StoreError>> {
        self.read(|m, now| m.stamp(now))
    }
    fn load_sign_in<'a>(&'a self, email: &'a str, client: ClientId) -> Fut<'a, Result<SignInView, StoreError>> {
        self.read(|m, now| m.load_sign_in(email, client, now))
    }
    fn load_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<RefreshView>, StoreError>> {
        self.read(|m, now| m.load_refresh(grant, now))
    }
    fn load_session(&self, session: SessionId) -> Fut<'_, Result<Option<SessionView>, StoreError>> {
        self.read(|m, now| m.load_session(session, now))
    }
    fn load_account(&self, account: AccountId) -> Fut<'_, Result<Option<AccountView>, StoreError>> {
        self.read(|m, now| m.load_account(account, now))
    }
    fn list_sessions(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<SessionView>, StoreError>> {
        self.read(|m, now| m.list_sessions(account, limit, now))
    }
    fn list_prunable(
        &self,
        keep: Retention,
        cursor: Option<SessionId>,
        look_at: u32,
    ) -> Fut<'_, Result<Prunable, StoreError>> {
        self.read(|m, now| m.list_prunable(&keep, cursor, look_at, now))
    }
    fn list_due_accounts(&self, limit: u32) -> Fut<'_, Result<Vec<AccountId>, StoreError>> {
        self.read(|m, now| m.list_due_accounts(limit, now))
    }
    fn count_rows(&self) -> Fut<'_, Result<RowCount, StoreError>> {
        self.read(|m, _| m.count_rows())
    }
    fn list_accounts<'a>(
        &'a self,
        prefix: Option<&'a str>,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Account>, StoreError>> {
        self.read(|m, _| m.list_accounts(prefix, cursor, limit))
    }
    fn load_client(&self, client: ClientId) -> Fut<'_, Result<Option<ClientView>, StoreError>> {
        self.read(|m, now| m.load_client(client, now))
    }
    fn list_clients(&self, cursor: Option<ClientId>, limit: u32) -> Fut<'_, Result<Page<Client>, StoreError>> {
        self.read(|m, _| m.list_clients(cursor, limit))
    }
    fn load_app(&self, session: SessionId, client: ClientId) -> Fut<'_, Result<Option<AppView>, StoreError>> {
        self.read(|m, now| m.load_app(session, client, now))
    }
    fn load_ticket(&self, id: Digest) -> Fut<'_, Result<Option<TicketView>, StoreError>> {
        self.read(|m, now| m.load_ticket(id, now))
    }
    fn list_grants(
        &self,
        account: AccountId,
        client: Option<ClientId>,
        limit: u32,
    ) -> Fut<'_, Result<Vec<GrantView>, StoreError>> {
        self.read(|m, now| m.list_grants(account, client, limit, now))
    }
    fn list_consents(&self, account: AccountId) -> Fut<'_, Result<Vec<Consent>, StoreError>> {
        self.read(|m, _| m.list_consents(account))
    }
    fn list_instances(&self) -> Fut<'_, Result<Vec<Instance>, StoreError>> {
        self.read(|m, _| m.list_instances())
    }
    fn list_keys(&self) -> Fut<'_, Result<Vec<Key>, StoreError>> {
        self.read(|m, _| m.list_keys())
    }
    fn load_bound(&self) -> Fut<'_, Result<Option<BoundRow>, StoreError>> {
        self.read(|m, _| m.load_bound())
    }
    fn load_run(&self) -> Fut<'_, Result<Option<RunId>, StoreError>> {
        self.read(|m, _| m.load_run())
    }
    fn list_events<'a>(
        &'a self,
        filter: &'a EventFilter,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<EventRow>, StoreError>> {
        self.read(|m, _| m.list_events(filter, cursor, limit))
    }
    fn load_revocation(&self, rev: Rev) -> Fut<'_, Result<Option<EventRow>, StoreError>> {
        self.read(|m, _| m.load_revocation(rev))
    }
    fn read_chain(&self, after: Option<u64>, limit: u32) -> Fut<'_, Result<Option<ChainRead>, StoreError>> {
        self.read(|m, _| m.read_chain(after, limit))
    }
    fn last_place(&self, up_to: u64) -> Fut<'_, Result<Option<u64>, StoreError>> {
        self.read(move |m, _| m.last_place(up_to))
    }
    fn list_unsealed(&self, limit: u32) -> Fut<'_, Result<Vec<EventRow>, StoreError>> {
        self.read(|m, _| m.list_unsealed(limit))
    }
    fn count_unsealed(&self) -> Fut<'_, Result<Unsealed, StoreError>> {
        self.read(|m, _| m.count_unsealed())
    }
    fn count_live(&self) -> Fut<'_, Result<LiveCount, StoreError>> {
        self.read(Memory::count_live)
    }
    fn backup(&self, _to: std::path::PathBuf) -> Fut<'_, Result<Stamp, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::new(
            "a database in memory is gone with its process; it has no copies",
        ))))
    }
    fn count_matching<'a>(
        &'a self,
        filter: &'a Filter,
        except: Option<SessionId>,
    ) -> Fut<'a, Result<LiveCount, StoreError>> {
        self.read(|m, now| m.count_matching(filter, except, now))
    }
    fn read_job_batch<'a>(&'a self, job: &'a Job, look: u32, most: u32) -> Fut<'a, Result<Batch, StoreError>> {
        self.read(|m, _| m.read_job_batch(job, look, most))
    }
    fn load_job(&self, job: JobId) -> Fut<'_, Result<Option<Job>, StoreError>> {
        self.read(|m, _| m.load_job(job))
    }
    fn list_running_jobs(&self) -> Fut<'_, Result<Vec<Job>, StoreError>> {
        self.read(|m, _| m.list_running_jobs())
    }
    fn read_log(&self, after: Rev, limit: u32) -> Fut<'_, Result<LogRead, StoreError>> {
        self.read(|m, now| m.read_log(after, limit, now))
    }
    fn read_live(&self) -> Fut<'_, Result<(Stamp, Vec<Entry>), StoreError>> {
        self.read(Memory::read_live)
    }
    fn load_remembered<'a>(&'a self, actor: &'a str, key: &'a str) -> Fut<'a, Result<Option<Remembered>, StoreError>> {
        self.read(|m, _| m.load_remembered(actor, key))
    }
    fn count_attempts(&self) -> Fut<'_, Result<AttemptCount, StoreError>> {
        self.read(|m, _| m.count_attempts())
    }
    fn load_risk<'a>(&'a self, account: AccountId, buckets: &'a [BucketKey]) -> Fut<'a, Result<RiskView, StoreError>> {
        self.read(|m, _| m.load_risk(account, buckets))
    }
    fn list_notices(&self, limit: u32) -> Fut<'_, Result<Vec<Notice>, StoreError>> {
        self.read(|m, _| m.list_notices(limit))
    }
    fn read_told<'a>(&'a self, notice: &'a Notice, look: u32) -> Fut<'a, Result<Told, StoreError>> {
        self.read(|m, _| m.read_told(notice, look))
    }
    fn due_messages<'a>(
        &'a self,
        resting: &'a [ClientId],
        after: Option<ClientId>,
        look: u32,
    ) -> Fut<'a, Result<Due, StoreError>> {
        self.read(|m, now| m.due_messages(resting, after, look, now))
    }
    fn expired_messages(&self, limit: u32) -> Fut<'_, Result<Vec<Message>, StoreError>> {
        self.read(|m, now| m.expired_messages(limit, now))
    }
    fn read_queue(&self, client: ClientId) -> Fut<'_, Result<Queue, StoreError>> {
        self.read(|m, now| m.read_queue(client, now))
    }
    fn load_message(&self, id: MessageId) -> Fut<'_, Result<Option<Message>, StoreError>> {
        self.read(|m, _| m.load_message(id))
    }
    fn list_messages<'a>(
        &'a self,
        filter: &'a MessageFilter,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Message>, StoreError>> {
        self.read(|m, _| m.list_messages(filter, cursor, limit))
    }
    fn count_messages(&self) -> Fut<'_, Result<MessageCount, StoreError>> {
        self.read(|m, _| m.count_messages())
    }
    fn load_link<'a>(&'a self, issuer: &'a str, subject: &'a str) -> Fut<'a, Result<LinkView, StoreError>> {
        self.read(|m, now| m.load_link(issuer, subject, now))
    }
    fn list_links(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<Link>, StoreError>> {
        self.read(|m, _| m.list_links(account, limit))
    }
    fn list_sessions_from<'a>(
        &'a self,
        from: &'a CameFrom,
        after: Option<SessionId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<(AccountId, SessionId)>, StoreError>> {
        self.read(|m, _| m.list_sessions_from(from, after, limit))
    }
    fn list_followers(&self) -> Fut<'_, Result<Vec<Follower>, StoreError>> {
        self.read(|m, _| m.list_followers())
    }
    fn load_webhook(&self, id: WebhookId) -> Fut<'_, Result<Option<Webhook>, StoreError>> {
        self.read(|m, _| m.load_webhook(id))
    }
    fn list_webhooks(&self) -> Fut<'_, Result<Vec<Webhook>, StoreError>> {
        self.read(|m, _| m.list_webhooks())
    }
    fn commit(&self, changes: Changes) -> Fut<'_, Result<Committed, CommitError>> {
        let result = match self.lock() {
            Ok(mut memory) => memory.commit(changes, (self.clock)()),
            Err(error) => Err(CommitError::Failed(error)),
        };
        Box::pin(std::future::ready(result))
    }
    fn now(&self) -> Time {
        (self.clock)()
    }
    fn is_shared(&self) -> bool {
        self.nodes.is_some()
    }
    fn put_node(&self, row: NodeRow) -> Fut<'_, Result<(), StoreError>> {
        self.with_nodes(|nodes| drop(nodes.insert(row.id, row)))
    }
    fn list_nodes(&self) -> Fut<'_, Result<Vec<NodeRow>, StoreError>> {
        self.with_nodes(|nodes| nodes.values().cloned().collect())
    }
    fn remove_node(&self, id: NodeId, beat: u64) -> Fut<'_, Result<bool, StoreError>> {
        self.with_nodes(|nodes| {
            let is_it = nodes.get(&id).is_some_and(|row| row.beat == beat);
            is_it && nodes.remove(&id).is_some()
        })
    }
    fn load_instance(&self, id: InstanceId) -> Fut<'_, Result<Option<Instance>, StoreError>> {
        self.read(|m, _| m.list_instances().into_iter().find(|row| row.id == id))
    }
}
