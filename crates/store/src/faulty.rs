//! A store that fails when told to: for tests that fail every operation in turn and see that nothing false is said.
//!
//! Operations are counted in the order in which they begin (loads, lists and commits alike; `now` is none). The n-th fails, once;
//! or all from the n-th on, for an outage.
use crate::{
    AttemptCount, ChainRead, CommitError, Due, EventFilter, EventRow, Fut, LiveCount, LogRead, MessageCount,
    MessageFilter, News, NodeRow, Page, Peeked, Prunable, Remembered, RowCount, Store, StoreError,
};
use portcullis_domain::audit::Unsealed;
use portcullis_domain::changes::{BoundRow, Changes, Committed};
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
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How an operation fails. For a load all are the same: an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A commit writes nothing and says so: [`CommitError::Failed`].
    Before,
    /// A commit is written, and the answer is lost: [`CommitError::Unknown`]. A conflict is still said.
    After,
    /// A commit is not written, and nobody knows: [`CommitError::Unknown`].
    Lost,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::After, Self::Lost];
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    at: u64,
    lasting: bool,
    mode: Mode,
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    /// Since the plan was made.
    since: u64,
    failed: u64,
    plan: Option<Plan>,
}

/// A store around another one. See the [module](self). What it wraps is reached by dereferencing.
#[derive(Debug)]
pub struct Faulty<S> {
    store: S,
    state: Mutex<State>,
}

impl<S> Deref for Faulty<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.store
    }
}

impl<S> Faulty<S> {
    /// Fails nothing yet.
    pub fn new(store: S) -> Self {
        Self { store, state: Mutex::default() }
    }
    /// The `n`-th operation from now on fails in this way (1 is the next one), and no other.
    pub fn fail_at(&self, n: u64, mode: Mode) {
        self.plan(Some(Plan { at: n, lasting: false, mode }));
    }
    /// The `n`-th operation from now on fails in this way, and all after it.
    pub fn fail_from(&self, n: u64, mode: Mode) {
        self.plan(Some(Plan { at: n, lasting: true, mode }));
    }
    /// Nothing fails from now on.
    pub fn never_fail(&self) {
        self.plan(None);
    }
    /// How many operations were begun since it was made.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }
    /// How many operations failed since it was made.
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    fn plan(&self, plan: Option<Plan>) {
        let mut state = self.state();
        (state.plan, state.since) = (plan, 0);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // counters: no half-done writes
    }

    /// Counts an operation; how it is to fail, if it is.
    fn begin(&self) -> Option<Mode> {
        let mut state = self.state();
        state.operations += 1;
        state.since += 1;
        let since = state.since;
        let hit = state.plan.filter(|plan| if plan.lasting { since >= plan.at } else { since == plan.at })?;
        state.failed += 1;
        Some(hit.mode)
    }

    fn load<'a, T: Send + 'a>(
        &'a self,
        load: impl FnOnce(&'a S) -> Fut<'a, Result<T, StoreError>> + Send + 'a,
    ) -> Fut<'a, Result<T, StoreError>>
    where
        S: Sync,
    {
        Box::pin(async move {
            match self.begin() {
                Some(_) => Err(planned()),
                None => load(&self.store).await,
            }
        })
    }
}

fn planned() -> StoreError {
    StoreError::new("a planned fault")
}

impl<S: Store> Store for Faulty<S> {
    fn stamp(&self) -> Fut<'_, Result<Stamp, StoreError>> {
        self.load(|s| s.stamp())
    }
    fn load_sign_in<'a>(&'a self, email: &'a str, client: ClientId) -> Fut<'a, Result<SignInView, StoreError>> {
        self.load(move |s| s.load_sign_in(email, client))
    }
    fn load_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<RefreshView>, StoreError>> {
        self.load(move |s| s.load_refresh(grant))
    }
    fn peek_refresh(&self, grant: GrantId) -> Fut<'_, Result<Option<Peeked>, StoreError>> {
        self.load(move |s| s.peek_refresh(grant))
    }
    fn peek_client(&self, client: ClientId) -> Fut<'_, Result<Option<Arc<Client>>, StoreError>> {
        self.load(move |s| s.peek_client(client))
    }
    fn load_session(&self, session: SessionId) -> Fut<'_, Result<Option<SessionView>, StoreError>> {
        self.load(move |s| s.load_session(session))
    }
    fn load_account(&self, account: AccountId) -> Fut<'_, Result<Option<AccountView>, StoreError>> {
        self.load(move |s| s.load_account(account))
    }
    fn list_sessions(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<SessionView>, StoreError>> {
        self.load(move |s| s.list_sessions(account, limit))
    }
    fn list_prunable(
        &self,
        keep: Retention,
        cursor: Option<SessionId>,
        look_at: u32,
    ) -> Fut<'_, Result<Prunable, StoreError>> {
        self.load(move |s| s.list_prunable(keep, cursor, look_at))
    }
    fn list_due_accounts(&self, limit: u32) -> Fut<'_, Result<Vec<AccountId>, StoreError>> {
        self.load(move |s| s.list_due_accounts(limit))
    }
    fn count_rows(&self) -> Fut<'_, Result<RowCount, StoreError>> {
        self.load(|s| s.count_rows())
    }
    fn list_accounts<'a>(
        &'a self,
        prefix: Option<&'a str>,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Account>, StoreError>> {
        self.load(move |s| s.list_accounts(prefix, cursor, limit))
    }
    fn load_client(&self, client: ClientId) -> Fut<'_, Result<Option<ClientView>, StoreError>> {
        self.load(move |s| s.load_client(client))
    }
    fn list_clients(&self, cursor: Option<ClientId>, limit: u32) -> Fut<'_, Result<Page<Client>, StoreError>> {
        self.load(move |s| s.list_clients(cursor, limit))
    }
    fn load_app(&self, session: SessionId, client: ClientId) -> Fut<'_, Result<Option<AppView>, StoreError>> {
        self.load(move |s| s.load_app(session, client))
    }
    fn load_ticket(&self, id: Digest) -> Fut<'_, Result<Option<TicketView>, StoreError>> {
        self.load(move |s| s.load_ticket(id))
    }
    fn list_grants(
        &self,
        account: AccountId,
        client: Option<ClientId>,
        limit: u32,
    ) -> Fut<'_, Result<Vec<GrantView>, StoreError>> {
        self.load(move |s| s.list_grants(account, client, limit))
    }
    fn list_consents(&self, account: AccountId) -> Fut<'_, Result<Vec<Consent>, StoreError>> {
        self.load(move |s| s.list_consents(account))
    }
    fn list_instances(&self) -> Fut<'_, Result<Vec<Instance>, StoreError>> {
        self.load(|s| s.list_instances())
    }
    fn list_keys(&self) -> Fut<'_, Result<Vec<Key>, StoreError>> {
        self.load(|s| s.list_keys())
    }
    fn load_bound(&self) -> Fut<'_, Result<Option<BoundRow>, StoreError>> {
        self.load(|s| s.load_bound())
    }
    fn load_run(&self) -> Fut<'_, Result<Option<RunId>, StoreError>> {
        self.load(|s| s.load_run())
    }
    fn list_events<'a>(
        &'a self,
        filter: &'a EventFilter,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<EventRow>, StoreError>> {
        self.load(move |s| s.list_events(filter, cursor, limit))
    }
    fn load_revocation(&self, rev: Rev) -> Fut<'_, Result<Option<EventRow>, StoreError>> {
        self.load(move |s| s.load_revocation(rev))
    }
    fn read_chain(&self, after: Option<u64>, limit: u32) -> Fut<'_, Result<Option<ChainRead>, StoreError>> {
        self.load(move |s| s.read_chain(after, limit))
    }
    fn last_place(&self, up_to: u64) -> Fut<'_, Result<Option<u64>, StoreError>> {
        self.load(move |s| s.last_place(up_to))
    }
    fn list_unsealed(&self, limit: u32) -> Fut<'_, Result<Vec<EventRow>, StoreError>> {
        self.load(move |s| s.list_unsealed(limit))
    }
    fn count_unsealed(&self) -> Fut<'_, Result<Unsealed, StoreError>> {
        self.load(|s| s.count_unsealed())
    }
    fn count_live(&self) -> Fut<'_, Result<LiveCount, StoreError>> {
        self.load(|s| s.count_live())
    }
    fn backup(&self, to: std::path::PathBuf) -> Fut<'_, Result<Stamp, StoreError>> {
        self.load(move |s| s.backup(to))
    }
    fn count_matching<'a>(
        &'a self,
        filter: &'a Filter,
        except: Option<SessionId>,
    ) -> Fut<'a, Result<LiveCount, StoreError>> {
        self.load(move |s| s.count_matching(filter, except))
    }
    fn read_job_batch<'a>(&'a self, job: &'a Job, look: u32, most: u32) -> Fut<'a, Result<Batch, StoreError>> {
        self.load(move |s| s.read_job_batch(job, look, most))
    }
    fn load_job(&self, job: JobId) -> Fut<'_, Result<Option<Job>, StoreError>> {
        self.load(move |s| s.load_job(job))
    }
    fn list_running_jobs(&self) -> Fut<'_, Result<Vec<Job>, StoreError>> {
        self.load(|s| s.list_running_jobs())
    }
    fn read_log(&self, after: Rev, limit: u32) -> Fut<'_, Result<LogRead, StoreError>> {
        self.load(move |s| s.read_log(after, limit))
    }
    fn read_live(&self) -> Fut<'_, Result<(Stamp, Vec<Entry>), StoreError>> {
        self.load(|s| s.read_live())
    }
    fn load_remembered<'a>(&'a self, actor: &'a str, key: &'a str) -> Fut<'a, Result<Option<Remembered>, StoreError>> {
        self.load(move |s| s.load_remembered(actor, key))
    }
    fn count_attempts(&self) -> Fut<'_, Result<AttemptCount, StoreError>> {
        self.load(|s| s.count_attempts())
    }
    fn load_risk<'a>(&'a self, account: AccountId, buckets: &'a [BucketKey]) -> Fut<'a, Result<RiskView, StoreError>> {
        self.load(move |s| s.load_risk(account, buckets))
    }
    fn list_notices(&self, limit: u32) -> Fut<'_, Result<Vec<Notice>, StoreError>> {
        self.load(move |s| s.list_notices(limit))
    }
    fn read_told<'a>(&'a self, notice: &'a Notice, look: u32) -> Fut<'a, Result<Told, StoreError>> {
        self.load(move |s| s.read_told(notice, look))
    }
    fn due_messages<'a>(
        &'a self,
        resting: &'a [ClientId],
        after: Option<ClientId>,
        look: u32,
    ) -> Fut<'a, Result<Due, StoreError>> {
        self.load(move |s| s.due_messages(resting, after, look))
    }
    fn expired_messages(&self, limit: u32) -> Fut<'_, Result<Vec<Message>, StoreError>> {
        self.load(move |s| s.expired_messages(limit))
    }
    fn read_queue(&self, client: ClientId) -> Fut<'_, Result<Queue, StoreError>> {
        self.load(move |s| s.read_queue(client))
    }
    fn load_message(&self, id: MessageId) -> Fut<'_, Result<Option<Message>, StoreError>> {
        self.load(move |s| s.load_message(id))
    }
    fn list_messages<'a>(
        &'a self,
        filter: &'a MessageFilter,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Fut<'a, Result<Page<Message>, StoreError>> {
        self.load(move |s| s.list_messages(filter, cursor, limit))
    }
    fn count_messages(&self) -> Fut<'_, Result<MessageCount, StoreError>> {
        self.load(|s| s.count_messages())
    }
    fn load_link<'a>(&'a self, issuer: &'a str, subject: &'a str) -> Fut<'a, Result<LinkView, StoreError>> {
        self.load(move |s| s.load_link(issuer, subject))
    }
    fn list_links(&self, account: AccountId, limit: u32) -> Fut<'_, Result<Vec<Link>, StoreError>> {
        self.load(move |s| s.list_links(account, limit))
    }
    fn list_sessions_from<'a>(
        &'a self,
        from: &'a CameFrom,
        after: Option<SessionId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<(AccountId, SessionId)>, StoreError>> {
        self.load(move |s| s.list_sessions_from(from, after, limit))
    }
    fn list_followers(&self) -> Fut<'_, Result<Vec<Follower>, StoreError>> {
        self.load(|s| s.list_followers())
    }
    fn load_webhook(&self, id: WebhookId) -> Fut<'_, Result<Option<Webhook>, StoreError>> {
        self.load(move |s| s.load_webhook(id))
    }
    fn list_webhooks(&self) -> Fut<'_, Result<Vec<Webhook>, StoreError>> {
        self.load(|s| s.list_webhooks())
    }
    fn commit(&self, changes: Changes) -> Fut<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            match self.begin() {
                None => self.store.commit(changes).await,
                Some(Mode::Before) => Err(CommitError::Failed(planned())),
                Some(Mode::Lost) => Err(CommitError::Unknown(planned())),
                Some(Mode::After) => match self.store.commit(changes).await {
                    Ok(_) => Err(CommitError::Unknown(planned())),
                    Err(error) => Err(error),
                },
            }
        })
    }
    fn now(&self) -> Time {
        self.store.now()
    }
    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }
    fn news(&self, of: News, seen: u64) -> Fut<'_, u64> {
        self.store.news(of, seen)
    }
    fn put_node(&self, row: NodeRow) -> Fut<'_, Result<(), StoreError>> {
        self.load(move |s| s.put_node(row))
    }
    fn list_nodes(&self) -> Fut<'_, Result<Vec<NodeRow>, StoreError>> {
        self.load(|s| s.list_nodes())
    }
    fn remove_node(&self, id: NodeId, beat: u64) -> Fut<'_, Result<bool, StoreError>> {
        self.load(move |s| s.remove_node(id, beat))
    }
    fn commits(&self) -> Option<Commits> {
        self.store.commits()
    }
    fn lost(&self) -> Option<String> {
        self.store.lost()
    }
    fn lacks(&self) -> Option<Commits> {
        self.store.lacks()
    }
    fn look_at_others(&self) -> Fut<'_, Result<(), StoreError>> {
        self.load(|s| s.look_at_others())
    }
    fn count_commits(&self, by: NodeId) -> Fut<'_, Result<Option<u64>, StoreError>> {
        self.load(move |s| s.count_commits(by))
    }
    fn load_instance(&self, id: InstanceId) -> Fut<'_, Result<Option<Instance>, StoreError>> {
        self.load(move |s| s.load_instance(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use portcullis_domain::kernel::{self, By, Door, Scope};
    use portcullis_wire::LogId;
    use std::task::{Context, Poll, Waker};

    fn now<T>(future: Fut<'_, T>) -> T {
        let mut future = future;
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(out) => out,
            Poll::Pending => panic!("the memory store waits for nothing"),
        }
    }

    struct Counting(u128);
    impl portcullis_domain::Chance for Counting {
        fn bits(&mut self) -> u128 {
            self.0 += 1;
            self.0
        }
    }

    #[test]
    fn each_mode_says_and_does_what_it_promises() {
        let store = Faulty::new(MemoryStore::new(LogId::from_bits(1), std::sync::Arc::new(|| Time(1))));
        let mut chance = Counting(1);
        let mut everyone = || kernel::end(Door::Everyone, Scope::All, None, &By::SYSTEM, &mut chance);
        let head = |store: &Faulty<MemoryStore>| now(store.store.stamp()).unwrap().head;
        for (mode, unknown, written) in [(Mode::Before, false, 0), (Mode::Lost, true, 0), (Mode::After, true, 1)] {
            let before = head(&store);
            store.fail_at(2, mode);
            assert!(now(store.stamp()).is_ok());
            let error = now(store.commit(everyone())).unwrap_err();
            assert_eq!(matches!(error, CommitError::Unknown(_)), unknown, "{mode:?}: {error}");
            assert_eq!(head(&store).0 - before.0, written);
            assert!(now(store.commit(everyone())).is_ok(), "only one fails");
        }
        assert_eq!((store.operations(), store.failed()), (9, 3));
        store.fail_from(2, Mode::Before);
        assert!(now(store.stamp()).is_ok() && now(store.stamp()).is_err() && now(store.list_keys()).is_err());
        store.never_fail();
        assert!(now(store.stamp()).is_ok());
        // A conflict is decided by the store, not by the lost answer.
        store.fail_at(1, Mode::After);
        let taken = Changes {
            expects: vec![portcullis_domain::Expect::SessionNotEnded(SessionId::from_bits(9))],
            ..Changes::default()
        };
        assert!(matches!(now(store.commit(taken)), Err(CommitError::Conflict(_))));
    }
}
