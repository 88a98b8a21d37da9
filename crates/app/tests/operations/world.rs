//! An App on the memory store, and a store wrapper that can hold a commit back.
use portcullis_app::keys::MasterKey;
use portcullis_app::sessions::Credentials;
use portcullis_app::{Admin, App, AppError, Caller, Hashing, KeySettings, PolicySettings, Settings, Tokens, real};
use portcullis_domain::changes::{Change, Changes, Committed, Revoke};
use portcullis_domain::ledger::Commits;
use portcullis_domain::mass::{Batch, Filter, Job};
use portcullis_domain::model::{Account, Client, Consent, Instance, Key, SessionKind};
use portcullis_domain::refresh::How;
use portcullis_domain::retention::Retention;
use portcullis_domain::sign_in::SignIn;
use portcullis_domain::throttle::BucketKey;
use portcullis_domain::upstream::{CameFrom, Link, LinkView};
use portcullis_domain::view::*;
use portcullis_domain::{Rules, changes::BoundRow, outbox};
use portcullis_store::memory::MemoryStore;
use portcullis_store::*;
use portcullis_wire::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub const PASSWORD: &str = "correct horse battery";

/// Settings with tiny Argon2 parameters.
pub fn settings() -> Settings {
    Settings {
        rules: Rules {
            issuer: "http://127.0.0.1:1".into(),
            audience: "http://127.0.0.1:1".into(),
            access_ttl: 300_000,
            longest_ttl: 300_000,
            idle_ttl: 30 * 86_400_000,
            absolute_ttl: 90 * 86_400_000,
            retry_window: 10_000,
            late_retry: 86_400_000,
            late_retry_at_home: 14 * 86_400_000,
            require_verified_email: false,
        },
        bound: 5000,
        stream_grace: 0,
        sign_up: true,
        hashing: Hashing { memory_kib: 64, passes: 1, lanes: 1, threads: 1, queue: 64 },
        keys: KeySettings::default(),
        outgoing: portcullis_app::Allowed::loopback().into(),
        outgoing_ca: portcullis_app::Authorities::none(),
        queues: portcullis_domain::receivers::QueueLimits::default(),
        mail: None,
        upstreams: vec![],
        policy: PolicySettings { failed_sign_in_step: 0, ..PolicySettings::default() },
        clients: portcullis_app::ClientSettings::default(),
        audit_head_file: None,
    }
}

/// A store that can hold back the commit of a new session, account or grant, of a code or its use, of a rotated refresh token, of
/// a withdrawal or of a client's switch, or the end of a read of the log or of the keys, to put something in between.
pub struct Held<S> {
    pub store: S,
    pub hold: AtomicBool,
    pub hold_read: AtomicBool,
    pub hold_keys: AtomicBool,
    pub fail_rows: AtomicBool,
    /// Whose status cannot be changed.
    pub fail_status: std::sync::Mutex<std::collections::BTreeSet<AccountId>>,
    /// Whether the commit of a settled message panics.
    pub panics_when_settled: AtomicBool,
    /// Whether another node writes an entry whenever this one has looked where the log is.
    pub writes_meanwhile: AtomicBool,
    /// Whether the others' counts cannot be looked at.
    pub fail_looks: AtomicBool,
    /// Whether who looks sees no use of the last hundred days.
    pub old_looks: AtomicBool,
    /// The database's timeline; 0: it has none.
    pub timeline: AtomicU32,
    pub reached: Notify,
    pub release: Notify,
}

impl<S> Held<S> {
    pub fn new(store: S) -> Arc<Self> {
        Arc::new(Self {
            store,
            hold: AtomicBool::new(false),
            hold_read: AtomicBool::new(false),
            hold_keys: AtomicBool::new(false),
            panics_when_settled: AtomicBool::new(false),
            fail_rows: AtomicBool::new(false),
            fail_status: std::sync::Mutex::default(),
            writes_meanwhile: AtomicBool::new(false),
            fail_looks: AtomicBool::new(false),
            old_looks: AtomicBool::new(false),
            timeline: AtomicU32::new(0),
            reached: Notify::new(),
            release: Notify::new(),
        })
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $t:ty),*) -> $out:ty;)*) => {$(
        fn $name<'a>(&'a self, $($arg: $t),*) -> Fut<'a, $out> { self.store.$name($($arg),*) }
    )*};
}

impl<S: Store> Store for Held<S> {
    fn load_sign_in<'a>(&'a self, email: &'a str, client: ClientId) -> Fut<'a, Result<SignInView, StoreError>> {
        self.store.load_sign_in(email, client)
    }
    fn list_accounts<'a>(
        &'a self,
        prefix: Option<&'a str>,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Account>, StoreError>> {
        self.store.list_accounts(prefix, cursor, limit)
    }
    fn list_events<'a>(
        &'a self,
        filter: &'a EventFilter,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<EventRow>, StoreError>> {
        self.store.list_events(filter, cursor, limit)
    }
    fn load_remembered<'a>(&'a self, actor: &'a str, key: &'a str) -> Fut<'a, Result<Option<Remembered>, StoreError>> {
        self.store.load_remembered(actor, key)
    }
    forward! {
        load_refresh(grant: GrantId) -> Result<Option<RefreshView>, StoreError>;
        peek_client(client: ClientId) -> Result<Option<Arc<Client>>, StoreError>;
        load_session(session: SessionId) -> Result<Option<SessionView>, StoreError>;
        load_account(account: AccountId) -> Result<Option<AccountView>, StoreError>;
        list_sessions(account: AccountId, limit: u32) -> Result<Vec<SessionView>, StoreError>;
        list_prunable(keep: Retention, cursor: Option<SessionId>, look_at: u32) -> Result<Prunable, StoreError>;
        list_due_accounts(limit: u32) -> Result<Vec<AccountId>, StoreError>;
        count_rows() -> Result<RowCount, StoreError>;
        load_risk(account: AccountId, buckets: &'a [BucketKey]) -> Result<RiskView, StoreError>;
        load_client(client: ClientId) -> Result<Option<ClientView>, StoreError>;
        list_clients(cursor: Option<ClientId>, limit: u32) -> Result<Page<Client>, StoreError>;
        load_app(session: SessionId, client: ClientId) -> Result<Option<AppView>, StoreError>;
        load_ticket(id: Digest) -> Result<Option<TicketView>, StoreError>;
        list_grants(account: AccountId, client: Option<ClientId>, limit: u32) -> Result<Vec<GrantView>, StoreError>;
        list_consents(account: AccountId) -> Result<Vec<Consent>, StoreError>;
        list_instances() -> Result<Vec<Instance>, StoreError>;
        list_notices(limit: u32) -> Result<Vec<outbox::Notice>, StoreError>;
        read_told(notice: &'a outbox::Notice, look: u32) -> Result<outbox::Told, StoreError>;
        due_messages(resting: &'a [ClientId], after: Option<ClientId>, look: u32) -> Result<Due, StoreError>;
        expired_messages(limit: u32) -> Result<Vec<outbox::Message>, StoreError>;
        read_queue(client: ClientId) -> Result<portcullis_domain::receivers::Queue, StoreError>;
        load_message(id: MessageId) -> Result<Option<outbox::Message>, StoreError>;
        list_messages(
            filter: &'a MessageFilter, cursor: Option<MessageId>, limit: u32
        ) -> Result<Page<outbox::Message>, StoreError>;
        count_messages() -> Result<MessageCount, StoreError>;
        list_followers() -> Result<Vec<portcullis_domain::follow::Follower>, StoreError>;
        load_webhook(id: WebhookId) -> Result<Option<portcullis_domain::webhook::Webhook>, StoreError>;
        list_webhooks() -> Result<Vec<portcullis_domain::webhook::Webhook>, StoreError>;
        load_link(issuer: &'a str, subject: &'a str) -> Result<LinkView, StoreError>;
        list_links(account: AccountId, limit: u32) -> Result<Vec<Link>, StoreError>;
        list_sessions_from(
            from: &'a CameFrom, after: Option<SessionId>, limit: u32
        ) -> Result<Vec<(AccountId, SessionId)>, StoreError>;
        load_bound() -> Result<Option<BoundRow>, StoreError>;
        load_run() -> Result<Option<RunId>, StoreError>;
        load_revocation(rev: Rev) -> Result<Option<EventRow>, StoreError>;
        read_chain(after: Option<u64>, limit: u32) -> Result<Option<ChainRead>, StoreError>;
        last_place(up_to: u64) -> Result<Option<u64>, StoreError>;
        list_unsealed(limit: u32) -> Result<Vec<EventRow>, StoreError>;
        count_unsealed() -> Result<portcullis_domain::audit::Unsealed, StoreError>;
        count_live() -> Result<LiveCount, StoreError>;
        read_live() -> Result<(Stamp, Vec<Entry>), StoreError>;
        news(of: News, seen: u64) -> u64;
        list_nodes() -> Result<Vec<NodeRow>, StoreError>;
        remove_node(id: NodeId, beat: u64) -> Result<bool, StoreError>;
        load_instance(id: InstanceId) -> Result<Option<Instance>, StoreError>;
    }
    fn peek_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<Peeked>, StoreError>> {
        Box::pin(async move {
            let mut peeked = self.store.peek_refresh(grant).await?;
            if let Some(peeked) = peeked.as_mut().filter(|_| self.old_looks.load(Ordering::SeqCst)) {
                let (view, long_ago) = (Arc::make_mut(&mut peeked.view), peeked.now.minus(100 * 86_400_000));
                (view.grant.family.made_at, view.grant.family.handed_at) = (long_ago, long_ago);
                (view.session.last_seen_at, view.refreshed_at) = (long_ago, None);
            }
            Ok(peeked)
        })
    }
    fn put_node(&self, row: NodeRow) -> Fut<'_, Result<(), StoreError>> {
        if self.fail_rows.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(StoreError::new("cut off"))));
        }
        self.store.put_node(row)
    }
    fn commits(&self) -> Option<Commits> {
        let timeline = self.timeline.load(Ordering::SeqCst);
        (timeline > 0).then_some(Commits { by: NodeId::from_bits(1), count: 0, timeline })
    }
    fn look_at_others(&self) -> Fut<'_, Result<(), StoreError>> {
        let fails = self.fail_looks.load(Ordering::SeqCst);
        Box::pin(std::future::ready(if fails { Err(StoreError::new("cut off")) } else { Ok(()) }))
    }
    fn stamp(&self) -> Fut<'_, Result<Stamp, StoreError>> {
        Box::pin(async move {
            let stamp = self.store.stamp().await;
            if self.writes_meanwhile.load(Ordering::SeqCst) {
                let (verb, target) = (Verb::End, Target::Token(TokenId::from_bits(1)));
                let revoke = Revoke { verb, target, except: None, spread_ms: None, owner: None, reason: "test".into() };
                let steps = vec![Change::Revoke(revoke)];
                self.store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
            }
            stamp
        })
    }
    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }
    fn backup(&self, to: std::path::PathBuf) -> Fut<'_, Result<Stamp, StoreError>> {
        self.store.backup(to)
    }
    fn count_matching<'a>(
        &'a self,
        filter: &'a Filter,
        except: Option<SessionId>,
    ) -> Fut<'a, Result<LiveCount, StoreError>> {
        self.store.count_matching(filter, except)
    }
    fn read_job_batch<'a>(&'a self, job: &'a Job, look: u32, most: u32) -> Fut<'a, Result<Batch, StoreError>> {
        self.store.read_job_batch(job, look, most)
    }
    fn load_job(&self, job: JobId) -> Fut<'_, Result<Option<Job>, StoreError>> {
        self.store.load_job(job)
    }
    fn list_running_jobs(&self) -> Fut<'_, Result<Vec<Job>, StoreError>> {
        self.store.list_running_jobs()
    }
    fn count_attempts(&self) -> Fut<'_, Result<portcullis_store::AttemptCount, StoreError>> {
        self.store.count_attempts()
    }
    fn commit(&self, changes: Changes) -> Fut<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            let held = |step: &_| {
                use Change::*;
                matches!(
                    step,
                    InsertSession(_) | InsertAccount(_) | InsertTicket(_) | InsertGrant(_) | UseTicket { .. }
                ) || matches!(step, SetClientDisabled { .. } | SetFamily { .. } | WithdrawConsent { .. })
            };
            let stuck = self.fail_status.lock().unwrap().clone();
            let fails = |step: &_| matches!(step, Change::SetStatus { account, .. } if stuck.contains(account));
            if changes.steps.iter().any(fails) {
                return Err(CommitError::Failed(StoreError::new("as the test wants")));
            }
            let settled = |step: &_| matches!(step, Change::UpdateMessage(row) if row.settled_at.is_some());
            if self.panics_when_settled.load(Ordering::SeqCst) {
                assert!(!changes.steps.iter().any(settled), "as the test wants");
            }
            if changes.steps.iter().any(held) && self.hold.swap(false, Ordering::SeqCst) {
                self.reached.notify_one();
                self.release.notified().await;
            }
            self.store.commit(changes).await
        })
    }
    fn read_log(&self, after: Rev, limit: u32) -> Fut<'_, Result<LogRead, StoreError>> {
        Box::pin(async move {
            let read = self.store.read_log(after, limit).await;
            if self.hold_read.swap(false, Ordering::SeqCst) {
                self.reached.notify_one();
                self.release.notified().await;
            }
            read
        })
    }
    fn list_keys(&self) -> Fut<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            let keys = self.store.list_keys().await;
            if self.hold_keys.swap(false, Ordering::SeqCst) {
                self.reached.notify_one();
                self.release.notified().await;
            }
            keys
        })
    }
    fn now(&self) -> Time {
        self.store.now()
    }
}

/// A started App, an administrator, and two accounts.
pub struct World {
    pub app: App,
    pub held: Arc<Held<MemoryStore>>,
    master: MasterKey,
    pub admin: Admin,
    pub ada: Account,
    pub eve: Account,
    _tasks: JoinSet<()>,
}

pub fn memory() -> MemoryStore {
    MemoryStore::new(LogId::from_bits(7), Arc::new(real::wall))
}

impl World {
    pub async fn start() -> Self {
        Self::with(settings()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let held = Held::new(memory());
        let mut tasks = JoinSet::new();
        let master = MasterKey::generate();
        let app = App::start(held.clone(), settings, master.clone(), &mut tasks).await.unwrap();
        let ada =
            app.sign_up("ada@example.org", SecretString::new(PASSWORD), Some("Ada"), None).await.unwrap().unwrap();
        let eve = app.sign_up("eve@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
        Self { app, held, master, admin: Admin::operator(), ada, eve, _tasks: tasks }
    }

    /// Another start on the same database.
    pub async fn over(before: &Self) -> App {
        let (store, master) = (before.held.clone(), before.master.clone());
        App::start(store, settings(), master, &mut JoinSet::new()).await.unwrap()
    }

    pub async fn sign_in(&self, account: &Account, page: bool) -> Result<Tokens, AppError> {
        sign_in(&self.app, account, page).await
    }

    pub async fn caller(&self, tokens: &Tokens) -> Result<Caller, AppError> {
        self.app.caller(Some(tokens.access_token.expose()), None).await
    }

    pub async fn refresh(&self, token: &SecretString) -> Result<Tokens, AppError> {
        self.app.refresh(token, bearer()).await
    }
}

pub fn bearer() -> How {
    How {
        cookie: false,
        user_agent: None,
        ip: None,
        client: ClientId::FIRST_PARTY,
        proven: false,
        sender: None,
        at_home: false,
    }
}

pub async fn sign_in(app: &App, account: &Account, page: bool) -> Result<Tokens, AppError> {
    let credentials =
        Credentials { identifier: account.email.clone().unwrap(), password: SecretString::new(PASSWORD), device: None };
    let kind = if page { SessionKind::Browser } else { SessionKind::App };
    let request = SignIn { kind, device_name: None, user_agent: None, ip: None, cookie: None };
    app.sign_in(credentials, request, page).await
}
