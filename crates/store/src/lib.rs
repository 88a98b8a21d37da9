//! What a database must do for Portcullis: one trait, shaped by decisions.
//!
//! `load_*` returns a view: facts of one snapshot together with the head of the same snapshot (I3), loaded without row locks.
//! `commit` checks every expectation and applies every change of a [`Changes`] in one transaction that ends with the counter
//! row, and returns only after it is on disk (I9). Nothing here decides anything: rules stand in `domain`.
//!
//! The memory store ([`memory`]) is the reference: small, pure, used by the simulator. [`conformance`] is the suite that every
//! backend runs. [`faulty`] wraps any store and fails the n-th operation. [`fault`] says of what kind faults are,
//! and keeps a log from being flooded with them.
pub mod conformance;
pub mod fault;
pub mod faulty;
pub mod memory;
pub mod rows;

use portcullis_domain::audit::Unsealed;
use portcullis_domain::changes::{BoundRow, Changes, Committed, Conflict};
use portcullis_domain::follow::Follower;
use portcullis_domain::ledger::Commits;
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
    AccountId, ClientId, Digest, Entry, EventId, GrantId, InstanceId, JobId, MessageId, NodeId, Rev, RunId, SessionId,
    Time, WebhookId,
};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use fault::{FaultKind, Flood};
pub use rows::{
    AttemptCount, ChainRead, Due, EventFilter, EventRow, LiveCount, LogRead, MessageCount, MessageFilter, NodeRow,
    Page, Peeked, Prunable, Remembered, RowCount,
};

/// What a store's calls return.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A fault of the database: nothing is known to be wrong with the request.
#[derive(Debug, Clone)]
pub struct StoreError {
    /// What kind it is.
    pub kind: FaultKind,
    /// What happened, for operators; never shown to callers.
    pub detail: String,
}

impl StoreError {
    /// A fault of no particular kind, with this explanation.
    pub fn new(detail: impl fmt::Display) -> Self {
        Self::of(FaultKind::Other, detail)
    }
    /// A fault of this kind.
    pub fn of(kind: FaultKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string() }
    }
}
impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database: {}", self.detail)
    }
}
impl std::error::Error for StoreError {}

/// Why a commit did not happen, or may not have.
#[derive(Debug, Clone)]
pub enum CommitError {
    /// An expectation no longer held; nothing was written.
    Conflict(Conflict),
    /// A fault before anything was written.
    Failed(StoreError),
    /// A fault after which it is not known whether it was written. The caller answers with an error; repeating is safe where
    /// the call is idempotent.
    Unknown(StoreError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(conflict) => write!(f, "conflict: {conflict:?}"),
            Self::Failed(error) => write!(f, "not written: {error}"),
            Self::Unknown(error) => write!(f, "outcome unknown: {error}"),
        }
    }
}
impl std::error::Error for CommitError {}

/// A database.
///
/// All times that it returns or writes come from one clock, the database's. Calls may be dropped at any await; a commit whose
/// future is dropped may or may not happen.
pub trait Store: Send + Sync + 'static {
    /// Where the log stands.
    fn stamp(&self) -> Fut<'_, Result<Stamp, StoreError>>;
    /// The account of an address (normalised), for signing in; `None` inside when there is none.
    fn load_sign_in<'a>(&'a self, email: &'a str, client: ClientId) -> Fut<'a, Result<SignInView, StoreError>>;
    /// A grant with everything above it.
    fn load_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<RefreshView>, StoreError>>;
    /// A grant with everything above it, for whoever looks and writes nothing: as [`Store::load_refresh`], but perhaps kept from an earlier
    /// look. Whatever ends something shows from when its commit is answered, and so does every other change but uses: the family,
    /// `last_seen_at` and `refreshed_at` may be older. So what seems to have idled too long is asked about once more, by
    /// [`Store::load_refresh`]. The view's stamp is of when it was read; of now are [`Peeked::now`] and [`Peeked::head`], which may
    /// be that of a commit that is just being made. Secrets are left out ([`Peeked::lean`]).
    fn peek_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<Peeked>, StoreError>> {
        Box::pin(async move {
            let view = self.load_refresh(grant).await?;
            Ok(view.map(|view| Peeked::now(Peeked::lean(view))))
        })
    }
    /// A client, for whoever writes nothing that rests on its version: as [`Store::load_client`], but perhaps kept from an earlier look.
    /// Every change of it shows from when its commit is answered.
    fn peek_client(&self, client: ClientId) -> Fut<'_, Result<Option<Arc<Client>>, StoreError>> {
        Box::pin(async move { Ok(self.load_client(client).await?.map(|view| Arc::new(view.client))) })
    }
    /// A session with its account.
    fn load_session(&self, session: SessionId) -> Fut<'_, Result<Option<SessionView>, StoreError>>;
    /// An account.
    fn load_account(&self, account: AccountId) -> Fut<'_, Result<Option<AccountView>, StoreError>>;
    /// The newest sessions of an account that live by the rows alone (not ended, not cut, of this epoch, not past their absolute
    /// end), newest first, at most `limit`. The caller sorts out those that are dead for other reasons (`SessionView::dead`).
    fn list_sessions(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<SessionView>, StoreError>>;
    /// Which of the `look_at` sessions after `cursor`, by id, may be deleted, and which may lose their address.
    fn list_prunable(
        &self,
        keep: Retention,
        cursor: Option<SessionId>,
        look_at: u32,
    ) -> Fut<'_, Result<Prunable, StoreError>>;
    /// Accounts whose block or grace period has passed, those first that did so first; at most `limit`.
    fn list_due_accounts(&self, limit: u32) -> Fut<'_, Result<Vec<AccountId>, StoreError>>;
    /// How many rows there are. Reads every table: not for the way of a request.
    fn count_rows(&self) -> Fut<'_, Result<RowCount, StoreError>>;
    /// Accounts by id, after `cursor`; only those whose address starts with `prefix` when one is given.
    fn list_accounts<'a>(
        &'a self,
        prefix: Option<&'a str>,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Account>, StoreError>>;
    /// A client. The first-party client always exists.
    fn load_client(&self, client: ClientId) -> Fut<'_, Result<Option<ClientView>, StoreError>>;
    /// Clients by id, after `cursor`.
    fn list_clients(&self, cursor: Option<ClientId>, limit: u32) -> Fut<'_, Result<Page<Client>, StoreError>>;
    /// A session with its account, a client, and what the one allowed the other; `None` when one of both is not there.
    fn load_app(&self, session: SessionId, client: ClientId) -> Fut<'_, Result<Option<AppView>, StoreError>>;
    /// A ticket, with the session and the client that it names.
    fn load_ticket(&self, id: Digest) -> Fut<'_, Result<Option<TicketView>, StoreError>>;
    /// The grants of an account (at one client, when one is named) that live by the rows alone: not ended, not below their client's
    /// cut, under a session that lives as in [`list_sessions`](Self::list_sessions). Newest sessions first, at most `limit`.
    fn list_grants(
        &self,
        account: AccountId,
        client: Option<ClientId>,
        limit: u32,
    ) -> Fut<'_, Result<Vec<GrantView>, StoreError>>;
    /// The consents of an account, by client; withdrawn ones too.
    fn list_consents(&self, account: AccountId) -> Fut<'_, Result<Vec<Consent>, StoreError>>;
    /// All verifier instances.
    fn list_instances(&self) -> Fut<'_, Result<Vec<Instance>, StoreError>>;
    /// All keys, by number; dead and retired ones too.
    fn list_keys(&self) -> Fut<'_, Result<Vec<Key>, StoreError>>;
    /// The bound B; `None` on a new database.
    fn load_bound(&self) -> Fut<'_, Result<Option<BoundRow>, StoreError>>;
    /// The run that wrote last. Where nodes share the database ([`is_shared`](Self::is_shared)) there is none.
    fn load_run(&self) -> Fut<'_, Result<Option<RunId>, StoreError>>;
    /// Audit records, newest first, before `cursor`.
    fn list_events<'a>(
        &'a self,
        filter: &'a EventFilter,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<EventRow>, StoreError>>;
    /// The record of the act that wrote `rev`.
    fn load_revocation(&self, rev: Rev) -> Fut<'_, Result<Option<EventRow>, StoreError>>;
    /// The chain over audit records: its row, and what stands at places beyond `after` (`None`: at any), by place, at most `limit`,
    /// all of one snapshot. `None` before it was begun.
    fn read_chain(&self, after: Option<u64>, limit: u32) -> Fut<'_, Result<Option<ChainRead>, StoreError>>;
    /// The last place, up to this one, at which an audit record stands.
    fn last_place(&self, up_to: u64) -> Fut<'_, Result<Option<u64>, StoreError>>;
    /// Audit records without a seal, oldest first, at most `limit`: whatever can be seen, whenever it was written.
    fn list_unsealed(&self, limit: u32) -> Fut<'_, Result<Vec<EventRow>, StoreError>>;
    /// How many there are of them, of the oldest [`COUNTED`](portcullis_domain::audit::COUNTED): a bounded read.
    fn count_unsealed(&self) -> Fut<'_, Result<Unsealed, StoreError>>;
    /// How many live sessions there are by the rows alone (not ended, not cut, not past their absolute end), and how many
    /// accounts have one.
    fn count_live(&self) -> Fut<'_, Result<LiveCount, StoreError>>;
    /// Copies the whole database to a file that must not exist yet, while it is in use; where the log stood in the copy. An error
    /// where the database has better tools of its own.
    fn backup(&self, to: std::path::PathBuf) -> Fut<'_, Result<Stamp, StoreError>>;
    /// How many live sessions a revocation with this filter would end if it were made now, by the rows alone as
    /// [`count_live`](Self::count_live) counts, and of how many accounts.
    fn count_matching<'a>(
        &'a self,
        filter: &'a Filter,
        except: Option<SessionId>,
    ) -> Fut<'a, Result<LiveCount, StoreError>>;
    /// The next rows that a job looks at: those after its cursor in the order of ids, until `look` were looked at or `most`
    /// were found that its rule kills.
    fn read_job_batch<'a>(&'a self, job: &'a Job, look: u32, most: u32) -> Fut<'a, Result<Batch, StoreError>>;
    /// A revocation by filter.
    fn load_job(&self, job: JobId) -> Fut<'_, Result<Option<Job>, StoreError>>;
    /// Revocations by filter that are not done, oldest first.
    fn list_running_jobs(&self) -> Fut<'_, Result<Vec<Job>, StoreError>>;
    /// The log after `after`, in order, at most `limit` entries, with the head of the same snapshot. `complete` is false when
    /// entries after `after` were forgotten already: a snapshot is needed.
    fn read_log(&self, after: Rev, limit: u32) -> Fut<'_, Result<LogRead, StoreError>>;
    /// All entries that are not forgotten, in order, with head and F of the same snapshot.
    fn read_live(&self) -> Fut<'_, Result<(Stamp, Vec<Entry>), StoreError>>;
    /// The result remembered under a repeated-call key.
    fn load_remembered<'a>(&'a self, actor: &'a str, key: &'a str) -> Fut<'a, Result<Option<Remembered>, StoreError>>;
    /// How many rows budgets for guesses take.
    fn count_attempts(&self) -> Fut<'_, Result<AttemptCount, StoreError>>;
    /// What is remembered of an account for the rules of risk, and these buckets, of one snapshot; nothing of an account that is not there.
    fn load_risk<'a>(&'a self, account: AccountId, buckets: &'a [BucketKey]) -> Fut<'a, Result<RiskView, StoreError>>;
    /// Notices of what has ended that are not worked off, oldest first, at most `limit`.
    fn list_notices(&self, limit: u32) -> Fut<'_, Result<Vec<Notice>, StoreError>>;
    /// The next sessions after its cursor that a notice may be about, by id, at most `look`, with what
    /// [`portcullis_domain::outbox::clients_told`] asks of them.
    fn read_told<'a>(&'a self, notice: &'a Notice, look: u32) -> Fut<'a, Result<Told, StoreError>>;
    /// Of each client but `resting` the message that waits and is due the longest, those first that are due the longest; of the next
    /// `look` clients for which any wait, by id, after this one. Messages for no client count as one client's, which comes before all.
    fn due_messages<'a>(
        &'a self,
        resting: &'a [ClientId],
        after: Option<ClientId>,
        look: u32,
    ) -> Fut<'a, Result<Due, StoreError>>;
    /// Messages that wait, are due, and whose time is over, at most `limit`.
    fn expired_messages(&self, limit: u32) -> Fut<'_, Result<Vec<Message>, StoreError>>;
    /// What waits for a client.
    fn read_queue(&self, client: ClientId) -> Fut<'_, Result<Queue, StoreError>>;
    /// A message.
    fn load_message(&self, id: MessageId) -> Fut<'_, Result<Option<Message>, StoreError>>;
    /// Messages, newest first, before `cursor`.
    fn list_messages<'a>(
        &'a self,
        filter: &'a MessageFilter,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Message>, StoreError>>;
    /// How much is on its way out.
    fn count_messages(&self) -> Fut<'_, Result<MessageCount, StoreError>>;
    /// Who of another provider is which account, if anybody.
    fn load_link<'a>(&'a self, issuer: &'a str, subject: &'a str) -> Fut<'a, Result<LinkView, StoreError>>;
    /// The links of an account, oldest first.
    fn list_links(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<Link>, StoreError>>;
    /// Sessions that came from there and were not ended by themselves, with their accounts, by id, after this one. Nothing when
    /// `from` names neither subject nor session.
    fn list_sessions_from<'a>(
        &'a self,
        from: &'a CameFrom,
        after: Option<SessionId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<(AccountId, SessionId)>, StoreError>>;
    /// Who follows the trail, by name.
    fn list_followers(&self) -> Fut<'_, Result<Vec<Follower>, StoreError>>;
    /// A webhook.
    fn load_webhook(&self, id: WebhookId) -> Fut<'_, Result<Option<Webhook>, StoreError>>;
    /// All webhooks, by id.
    fn list_webhooks(&self) -> Fut<'_, Result<Vec<Webhook>, StoreError>>;
    /// Checks and applies, all or nothing, durably.
    fn commit(&self, changes: Changes) -> Fut<'_, Result<Committed, CommitError>>;
    /// The database's time, for callers that need no snapshot.
    fn now(&self) -> Time;

    // ---- for several nodes on one database ----

    /// Whether other nodes may be at work in this database. Where they cannot, none of the following is ever called.
    fn is_shared(&self) -> bool {
        false
    }
    /// Resolves when another node may have written something of this kind since `seen`, with what to give the next time; 0 at
    /// first. It may come for nothing, and may not come at all: whoever waits looks from time to time by itself.
    fn news(&self, _of: News, _seen: u64) -> Fut<'_, u64> {
        Box::pin(std::future::pending())
    }
    /// Writes a node's row, new or in place of its last one.
    fn put_node(&self, _row: NodeRow) -> Fut<'_, Result<(), StoreError>> {
        not_shared()
    }
    /// The rows of all nodes, by id.
    fn list_nodes(&self) -> Fut<'_, Result<Vec<NodeRow>, StoreError>> {
        not_shared()
    }
    /// Removes a node's row, if its beat still is this one. Whether it did.
    fn remove_node(&self, _id: NodeId, _beat: u64) -> Fut<'_, Result<bool, StoreError>> {
        not_shared()
    }
    /// What was acknowledged to this node so far; `None` where nothing counts it, for nothing takes the database's place under a
    /// running node.
    fn commits(&self) -> Option<Commits> {
        None
    }
    /// What proves that the database has lost something that was acknowledged to this process, in words; until it is founded anew.
    fn lost(&self) -> Option<String> {
        None
    }
    /// Whose commits it lacks, and how many there must be, when it has lost some.
    fn lacks(&self) -> Option<Commits> {
        self.commits().filter(|_| self.lost().is_some())
    }
    /// Looks whether it has what was seen of other nodes' commits, for one may have died with what it was told; then
    /// [`Store::lost`] says so. One small read.
    fn look_at_others(&self) -> Fut<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// How many commits it counts of a node, also one that ran before.
    fn count_commits(&self, _by: NodeId) -> Fut<'_, Result<Option<u64>, StoreError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// One verifier instance, which another node may have met.
    fn load_instance(&self, _id: InstanceId) -> Fut<'_, Result<Option<Instance>, StoreError>> {
        not_shared()
    }
}

/// What another node may have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Entries of the log.
    Log,
    /// A node's row.
    Nodes,
}

fn not_shared<'a, T: Send + 'a>() -> Fut<'a, Result<T, StoreError>> {
    Box::pin(std::future::ready(Err(StoreError::new("this database belongs to one node"))))
}
