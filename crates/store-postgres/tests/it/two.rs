//! A store of two nodes on one database, which are called in turn.
use portcullis_domain::changes::{BoundRow, Changes, Committed};
use portcullis_domain::follow::Follower;
use portcullis_domain::mass::{Batch, Filter, Job};
use portcullis_domain::model::{Account, Client, Consent, Instance, Key};
use portcullis_domain::outbox::{Message, Notice, Told};
use portcullis_domain::retention::Retention;
use portcullis_domain::throttle::BucketKey;
use portcullis_domain::upstream::{CameFrom, Link, LinkView};
use portcullis_domain::view::{
    AccountView, AppView, ClientView, GrantView, RefreshView, RiskView, SessionView, SignInView, Stamp, TicketView,
};
use portcullis_domain::webhook::Webhook;
use portcullis_store::{
    AttemptCount, ChainRead, CommitError, Due, EventFilter, EventRow, Fut, LiveCount, LogRead, MessageCount,
    MessageFilter, NodeRow, Page, Prunable, Remembered, RowCount, Store, StoreError,
};
use portcullis_store_postgres::PostgresStore;
use portcullis_wire::{
    AccountId, ClientId, Digest, Entry, EventId, GrantId, InstanceId, JobId, MessageId, NodeId, Rev, RunId, SessionId,
    Time, WebhookId,
};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub struct TwoNodes {
    nodes: [PostgresStore; 2],
    turn: AtomicUsize,
}

impl TwoNodes {
    pub fn new(nodes: [PostgresStore; 2]) -> Self {
        Self { nodes, turn: AtomicUsize::new(0) }
    }
    fn next(&self) -> &PostgresStore {
        &self.nodes[self.turn.fetch_add(1, Relaxed) % 2]
    }
}

macro_rules! in_turn {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)* / $($with:ident($($warg:ident: $wtype:ty),*) -> $wout:ty;)*) => {
        impl Store for TwoNodes {
            $(fn $name(&self $(, $arg: $type)*) -> Fut<'_, $out> { self.next().$name($($arg),*) })*
            $(fn $with<'a>(&'a self $(, $warg: $wtype)*) -> Fut<'a, $wout> { self.next().$with($($warg),*) })*
            fn is_shared(&self) -> bool {
                true
            }
            fn now(&self) -> Time { self.next().now() }
        }
    };
}

in_turn! {
    stamp() -> Result<Stamp, StoreError>;
    load_refresh(grant: GrantId) -> Result<Option<RefreshView>, StoreError>;
    load_session(session: SessionId) -> Result<Option<SessionView>, StoreError>;
    load_account(account: AccountId) -> Result<Option<AccountView>, StoreError>;
    list_sessions(account: AccountId, limit: u32) -> Result<Vec<SessionView>, StoreError>;
    list_prunable(keep: Retention, cursor: Option<SessionId>, look_at: u32) -> Result<Prunable, StoreError>;
    list_due_accounts(limit: u32) -> Result<Vec<AccountId>, StoreError>;
    count_rows() -> Result<RowCount, StoreError>;
    load_client(client: ClientId) -> Result<Option<ClientView>, StoreError>;
    list_clients(cursor: Option<ClientId>, limit: u32) -> Result<Page<Client>, StoreError>;
    load_app(session: SessionId, client: ClientId) -> Result<Option<AppView>, StoreError>;
    load_ticket(id: Digest) -> Result<Option<TicketView>, StoreError>;
    list_grants(account: AccountId, client: Option<ClientId>, limit: u32) -> Result<Vec<GrantView>, StoreError>;
    list_consents(account: AccountId) -> Result<Vec<Consent>, StoreError>;
    list_links(account: AccountId, limit: u32) -> Result<Vec<Link>, StoreError>;
    list_instances() -> Result<Vec<Instance>, StoreError>;
    list_keys() -> Result<Vec<Key>, StoreError>;
    load_bound() -> Result<Option<BoundRow>, StoreError>;
    load_run() -> Result<Option<RunId>, StoreError>;
    load_revocation(rev: Rev) -> Result<Option<EventRow>, StoreError>;
    read_chain(after: Option<u64>, limit: u32) -> Result<Option<ChainRead>, StoreError>;
    last_place(up_to: u64) -> Result<Option<u64>, StoreError>;
    list_unsealed(limit: u32) -> Result<Vec<EventRow>, StoreError>;
    count_unsealed() -> Result<portcullis_domain::audit::Unsealed, StoreError>;
    count_live() -> Result<LiveCount, StoreError>;
    backup(to: std::path::PathBuf) -> Result<Stamp, StoreError>;
    load_job(job: JobId) -> Result<Option<Job>, StoreError>;
    list_running_jobs() -> Result<Vec<Job>, StoreError>;
    read_log(after: Rev, limit: u32) -> Result<LogRead, StoreError>;
    read_live() -> Result<(Stamp, Vec<Entry>), StoreError>;
    put_node(row: NodeRow) -> Result<(), StoreError>;
    list_nodes() -> Result<Vec<NodeRow>, StoreError>;
    remove_node(id: NodeId, beat: u64) -> Result<bool, StoreError>;
    load_instance(id: InstanceId) -> Result<Option<Instance>, StoreError>;
    count_attempts() -> Result<AttemptCount, StoreError>;
    list_notices(limit: u32) -> Result<Vec<Notice>, StoreError>;
    load_message(id: MessageId) -> Result<Option<Message>, StoreError>;
    expired_messages(limit: u32) -> Result<Vec<Message>, StoreError>;
    read_queue(client: ClientId) -> Result<portcullis_domain::receivers::Queue, StoreError>;
    count_messages() -> Result<MessageCount, StoreError>;
    list_followers() -> Result<Vec<Follower>, StoreError>;
    load_webhook(id: WebhookId) -> Result<Option<Webhook>, StoreError>;
    list_webhooks() -> Result<Vec<Webhook>, StoreError>;
    commit(changes: Changes) -> Result<Committed, CommitError>;
    /
    load_sign_in(email: &'a str, client: ClientId) -> Result<SignInView, StoreError>;
    list_accounts(prefix: Option<&'a str>, cursor: Option<AccountId>, limit: u32) -> Result<Page<Account>, StoreError>;
    list_events(filter: &'a EventFilter, cursor: Option<EventId>, limit: u32) -> Result<Page<EventRow>, StoreError>;
    read_told(notice: &'a Notice, look: u32) -> Result<Told, StoreError>;
    due_messages(resting: &'a [ClientId], after: Option<ClientId>, look: u32) -> Result<Due, StoreError>;
    list_messages(filter: &'a MessageFilter, cursor: Option<MessageId>, limit: u32) -> Result<Page<Message>, StoreError>;
    count_matching(filter: &'a Filter, except: Option<SessionId>) -> Result<LiveCount, StoreError>;
    read_job_batch(job: &'a Job, look: u32, most: u32) -> Result<Batch, StoreError>;
    load_link(issuer: &'a str, subject: &'a str) -> Result<LinkView, StoreError>;
    list_sessions_from(from: &'a CameFrom, after: Option<SessionId>, limit: u32) -> Result<Vec<(AccountId, SessionId)>, StoreError>;
    load_risk(account: AccountId, buckets: &'a [BucketKey]) -> Result<RiskView, StoreError>;
    load_remembered(actor: &'a str, key: &'a str) -> Result<Option<Remembered>, StoreError>;
}
